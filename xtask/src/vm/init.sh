#!/bin/sh
# The guest's only process of its own: mounts what a host has, runs the job, says how it ended, resets the machine.
export PATH=/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /dev/net
mount -t devpts devpts /dev/pts
for place in /dev/shm /run /tmp; do mount -t tmpfs tmpfs $place; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
mkdir -p /run/netns /run/openvswitch
# Made here, since nothing loads tun before somebody opens it.
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ln -sf /proc/self/fd /dev/fd
ip link set lo up
# That this is a guest, which a test may do anything to: interop-tests/src/guest.rs.
export MESHD_GUEST=1 MESHD_BIN=/meshd/meshd MESHD_PLUGINS=/meshd/plugins
sh /meshd/job
echo "meshd-guest-ended-with $?"
# The line has to be through the serial port before the machine is gone.
sleep 1
echo 1 >/proc/sys/kernel/sysrq
echo b >/proc/sysrq-trigger
sleep 60
