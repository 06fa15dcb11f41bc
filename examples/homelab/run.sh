#!/usr/bin/env bash
# A home in namespaces called mexh<pid>-…: two networks over three machines, and an access list. Removed at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
meshd=${MESHD:-$target/release/meshd}
[ -x "$meshd" ] || { echo "no $meshd: cargo build --release -p meshd" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 1; }

p=mexh$$
dir=$(mktemp -d)
machines="nas pi desk"
containers="files mqtt cam dash me"
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    for n in $containers $machines wire; do ip netns del "$p-$n" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

on() { local host=$1; shift; MESHD_STATE=$dir/$host MESHD_SOCKET=$dir/$host.sock ip netns exec "$p-$host" "$meshd" "$@"; }
start() {
    MESHD_STATE=$dir/$1 MESHD_SOCKET=$dir/$1.sock ip netns exec "$p-$1" "$meshd" run 2>"$dir/$1.log" &
    pids+=($!)
    for _ in $(seq 100); do on "$1" status >/dev/null 2>&1 && return; sleep 0.1; done
    echo "the daemon of $1 does not answer:" >&2; cat "$dir/$1.log" >&2; exit 1
}
reach() { ip netns exec "$p-$1" ping -q -c 1 -W 1 "$2" >/dev/null 2>&1; }
must() { for _ in $(seq 40); do reach "$1" "$2" && { echo "   $1 reaches $2"; return; }; sleep 0.2; done; echo "   $1 DOES NOT REACH $2"; exit 1; }
must_not() { if reach "$1" "$2"; then echo "   $1 REACHES $2"; exit 1; fi; echo "   $1 does not reach $2"; }

echo "== three machines on one switch"
for n in wire $machines $containers; do ip netns add "$p-$n"; ip -n "$p-$n" link set lo up; done
ip -n "$p-wire" link add br0 type bridge
ip -n "$p-wire" link set br0 up
number=0
for n in $machines; do
    number=$((number + 1))
    ip link add eth0 netns "$p-$n" type veth peer name "$n" netns "$p-wire"
    ip -n "$p-wire" link set dev "$n" master br0 up
    ip -n "$p-$n" addr add 192.0.2.$number/24 dev eth0
    ip -n "$p-$n" link set eth0 up
done

echo "== a mesh"
on nas init --mesh home --name nas
start nas
on nas network add lan --subnet 10.10.0.0/24
on nas network add iot --subnet 10.20.0.0/24
for n in pi desk; do
    on $n join "$(on nas invite)" --name $n
    start $n
    for _ in $(seq 100); do on $n network ls | grep -q iot && break; sleep 0.1; done
done

echo "== services"
on nas attach lan --netns "$p-files" --name files --ip 10.10.0.10/24
on nas attach iot --netns "$p-mqtt" --name mqtt
on pi attach iot --netns "$p-cam" --name cam
on pi attach lan --netns "$p-dash" --name dash
on desk attach lan --netns "$p-me" --name me --ip 10.10.0.30/24

echo "== who reaches whom"
must me files.lan.home.internal
must me dash.lan.home.internal
must cam mqtt.iot.home.internal
must_not me cam.iot.home.internal
must_not cam files.lan.home.internal

acl=${ACL:-$target/plugins/acl.wasm}
if [ -f "$acl" ]; then
    echo "== nobody reaches ssh on lan"
    for n in $machines; do
        on $n plugin install acl "$acl"
        on $n plugin attach acl lan --config '{"deny":[{"proto":"tcp","port":22}]}'
    done
    must me files.lan.home.internal
    on desk trace lan 'tcp 10.10.0.30:4000 > 10.10.0.10:22 syn'
else
    echo "== no access list: build the plugin by \`cargo xtask plugins\`, or name it by ACL=acl.wasm"
fi
on nas members
