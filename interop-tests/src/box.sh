# A root of its own for systemd: $1 is a folder for it, $2 the program that becomes /usr/bin/meshd, $3 the root to begin with.
# Its files show through, and what is written goes with the box. Nothing is started but what is asked for.
set -e
mkdir -p "$1/m"; mount -t tmpfs tmpfs "$1/m"; mkdir "$1/m/up" "$1/m/work" "$1/m/root"
R="$1/m/root"
mount -t overlay overlay -o "lowerdir=$3,upperdir=$1/m/up,workdir=$1/m/work" "$R"
mount -t proc proc "$R/proc"
mount -t sysfs -o ro sysfs "$R/sys"
if [ -d /sys/fs/cgroup/systemd ]; then
  mount -t tmpfs -o mode=755 tmpfs "$R/sys/fs/cgroup"; mkdir "$R/sys/fs/cgroup/systemd"
  mount -t cgroup -o none,name=systemd cgroup "$R/sys/fs/cgroup/systemd"
else
  mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
fi
mount -t tmpfs -o mode=755 tmpfs "$R/dev"
for n in null zero full random urandom tty; do touch "$R/dev/$n"; mount --bind "/dev/$n" "$R/dev/$n"; done
mkdir "$R/dev/pts"; mount -t devpts -o newinstance,ptmxmode=0666 devpts "$R/dev/pts"; ln -s pts/ptmx "$R/dev/ptmx"
mkdir "$R/dev/net"; touch "$R/dev/net/tun"; mount --bind /dev/net/tun "$R/dev/net/tun"
mount -t tmpfs -o mode=755 tmpfs "$R/run"; mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"
rm -rf "$R"/usr/lib/systemd/system/*.wants "$R"/etc/systemd/system/*.wants "$R"/var/lib/meshd "$R"/etc/meshd
rm -f "$R"/usr/bin/meshd "$R"/etc/systemd/system/meshd.*
[ -z "$2" ] || cp "$2" "$R/usr/bin/meshd"
echo 0123456789abcdef0123456789abcdef > "$R/etc/machine-id"
mkdir -p "$R/mnt/old"; cd "$R"; pivot_root . mnt/old
exec chroot . sh -c 'umount -l /mnt/old; mount --make-rshared /; ip link set lo up
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=lxc /usr/lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=0'
