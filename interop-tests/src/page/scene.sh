# Where the how-to pages play: berlin and paris, joined by a cable, members of the mesh `home`; a network `lan`, and on it the containers
# `web` at berlin and `db` at paris. `at HOST` types there what it reads; `configure HOST` makes that the host's config file.
set +x
mkdir -p /run/scene/place
cd /run/scene/place
cat >/run/scene/words.sh <<'@@@'
# Tries until it holds, for 20 s.
until_ok() { local n=0; until "$@" >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 200 ] || { echo "never came true: $*"; return 1; }; sleep 0.1; done; }
start() { meshd run 2>>/run/scene/$HOST.log & echo $! >/run/scene/$HOST.pid; until_ok meshd status; }
stop() { kill "$(cat /run/scene/$HOST.pid)"; until_ok sh -c "! kill -0 $(cat /run/scene/$HOST.pid)"; }
restart() { stop; start; }
# The host has no systemd; this is its word for the one service.
systemctl() { [ "$2" = meshd ] && "$1"; }
# The opposite of a command that must not hold.
fails() { if "$@"; then echo "this should not hold: $*"; return 1; fi; }
# A container of the page.
container() { ip netns add "$1"; ip -n "$1" link set lo up; }
inside() { local name=$1; shift; nsenter --net=/run/netns/$name "$@"; }
answers() { until_ok nsenter --net=/run/netns/$1 ping -q -c 1 -W 1 "$2"; nsenter --net=/run/netns/$1 ping -q -c 1 -W 2 "${@:2}"; }
@@@
at() {
    local host=$1
    HOST=$host MESHD_STATE=/run/scene/$host MESHD_SOCKET=/run/scene/$host.sock MESHD_CONFIG=/run/scene/$host.toml \
        nsenter --net=/run/netns/$host bash -euo pipefail -c "$(cat /run/scene/words.sh; echo 'set -x'; cat)" </dev/null
}
configure() {
    local host=$1 before
    before=$(grep -c "config file read again" /run/scene/$host.log || true)
    cat >/run/scene/$host.toml
    for _ in $(seq 100); do
        [ "$(grep -c "config file read again" /run/scene/$host.log || true)" = "$before" ] || return 0
        sleep 0.1
    done
    echo "the config was not taken:"; tail -3 /run/scene/$host.log; return 1
}
for host in berlin paris; do
    ip netns add $host
    ip -n $host link set lo up
    touch /run/scene/$host.toml
done
ip link add eth0 netns berlin type veth peer name eth0 netns paris
ip -n berlin addr add 192.0.2.1/24 dev eth0
ip -n paris addr add 192.0.2.2/24 dev eth0
ip -n berlin link set eth0 up
ip -n paris link set eth0 up
at berlin <<'@@@'
meshd init --mesh home --name berlin
start
meshd network add lan --subnet 10.10.0.0/24 --subnet fd10::/64
meshd invite >/run/scene/token
container web
meshd attach lan --netns web --name web
@@@
at paris <<'@@@'
meshd join "$(cat /run/scene/token)" --name paris
start
until_ok sh -c 'meshd network ls | grep -q lan'
container db
meshd attach lan --netns db --name db
@@@
at berlin <<'@@@'
answers web 10.10.0.128
@@@
