#!/bin/sh
# Boots a small Linux on a macvtap of meshd, as any image would boot: qemu, a kernel, BusyBox in an initramfs.
#
#   guest.sh PORT ADDRESS/PREFIX        PORT: name of the port; ADDRESS: what the guest gives itself
#
# KERNEL and MODULES name the kernel and its modules; unless they are set, those that this machine runs. ACCEL: kvm or tcg.
set -eu
port=$1 address=$2
kernel=${KERNEL:-/boot/vmlinuz-$(uname -r)}
modules=${MODULES:-/lib/modules/$(uname -r)}
meshd=${MESHD:-meshd}
[ -r "$kernel" ] || { echo "no kernel $kernel: set KERNEL and MODULES" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the port is: its file, and the MAC that the guest must use.
set -- $("$meshd" ports --json | jq -r --arg port "$port" '.[] | select(.name == $port) | "\(.device.text) \(.mac)"')
[ $# = 2 ] || { echo "no port $port here" >&2; exit 1; }
tap=$1 mac=$2
[ -c "$tap" ] || { echo "port $port has no file: is it a macvtap?" >&2; exit 1; }

# An initramfs: BusyBox, and the modules of a virtio card where they are not built in.
mkdir -p "$work/root/bin" "$work/root/modules"
cp "$(command -v busybox)" "$work/root/bin/busybox"
# In the order in which they need one another, which is not the same in all kernels: modprobe knows it.
number=10
files=$(for name in virtio_pci virtio_net; do
    modprobe --dirname "${modules%/lib/modules/*}/" --set-version "${modules##*/}" --show-depends "$name"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }')
for file in $files; do
    case $file in
    *.xz) xz -dc "$file" >"$work/root/modules/$number.ko" ;;
    *.zst) zstd -qdc "$file" >"$work/root/modules/$number.ko" ;;
    *.gz) gzip -dc "$file" >"$work/root/modules/$number.ko" ;;
    *) cp "$file" "$work/root/modules/$number.ko" ;;
    esac
    number=$((number + 1))
done
cat >"$work/root/init" <<INIT
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
for module in /modules/*.ko; do [ ! -e \$module ] || /bin/busybox insmod \$module; done
[ -e /sys/class/net/eth0 ] || { echo "the guest has no network card"; /bin/busybox poweroff -f; }
/bin/busybox ip link set lo up
/bin/busybox ip addr add $address dev eth0
/bin/busybox ip link set eth0 up
/bin/busybox mkdir -p /www
echo "hello from the guest" >/www/index.html
/bin/busybox httpd -h /www
echo "the guest is up with $address"
while :; do /bin/busybox sleep 3600; done
INIT
chmod +x "$work/root/init"
ln -s busybox "$work/root/bin/sh"
(cd "$work/root" && find . | cpio --quiet -o -H newc >"$work/initrd")

# Descriptor 3 is the guest's card. A busy host that emulates it (tcg) may miss the ticks by which Linux tries its timer: no_timer_check.
qemu-system-x86_64 -M "q35,accel=${ACCEL:-kvm:tcg}" -cpu max -m 192 -display none -nodefaults -no-user-config -no-reboot -serial stdio \
    -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet loglevel=1 panic=-1 no_timer_check net.ifnames=0 rdinit=/init" \
    -netdev tap,id=card,fd=3 -device virtio-net-pci,netdev=card,mac="$mac",romfile= 3<>"$tap"
