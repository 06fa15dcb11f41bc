#!/usr/bin/env bash
# Two hosts, one container each, one network. Everything lives in namespaces called mex<pid>-… and goes away at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
meshd=${MESHD:-${CARGO_TARGET_DIR:-$here/../../target}/release/meshd}
[ -x "$meshd" ] || { echo "no $meshd: cargo build --release -p meshd" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 1; }

p=mex$$
dir=$(mktemp -d)
pids=()
cleanup() {
    # Takes the resolv.conf along that meshd wrote for the namespace.
    on berlin detach web >/dev/null 2>&1 || true
    on paris detach db >/dev/null 2>&1 || true
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    for n in web db berlin paris; do ip netns del "$p-$n" 2>/dev/null || true; done
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

echo "== two hosts, joined by a cable"
for n in berlin paris web db; do ip netns add "$p-$n"; ip -n "$p-$n" link set lo up; done
ip link add eth0 netns "$p-berlin" type veth peer name eth0 netns "$p-paris"
ip -n "$p-berlin" addr add 192.0.2.1/24 dev eth0
ip -n "$p-paris" addr add 192.0.2.2/24 dev eth0
ip -n "$p-berlin" link set eth0 up
ip -n "$p-paris" link set eth0 up

echo "== a mesh of two"
on berlin init --mesh home --name berlin
start berlin
on berlin network add lan --subnet 10.10.0.0/24 --subnet fd10::/64
on paris join "$(on berlin invite)" --name paris
start paris
for _ in $(seq 100); do on paris network ls | grep -q lan && break; sleep 0.1; done

echo "== a container on each"
on berlin attach lan --netns "$p-web" --name web
on paris attach lan --netns "$p-db" --name db
for _ in $(seq 50); do ip netns exec "$p-web" ping -q -c 1 -W 1 db.lan.home.internal >/dev/null 2>&1 && break; sleep 0.2; done

echo "== they reach each other by name"
ip netns exec "$p-web" ping -c 3 db.lan.home.internal
ip netns exec "$p-db" ping -c 3 web.lan.home.internal

echo "== what berlin knows"
on berlin peers
on berlin fdb
