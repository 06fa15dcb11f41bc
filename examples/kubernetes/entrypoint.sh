#!/bin/sh
# One node of the cluster: joins the mesh once, runs the daemon, puts the host on the pods' network as their way out, and
# installs the CNI plugin. Run by the DaemonSet in meshd.yaml, in the host's network and process namespaces.
set -eu

: "${NODE_NAME:?the name of this node}"
: "${POD_NETWORK:=pods}"                  # meshd's network
: "${POD_SUBNET:=10.42.0.0/16}"           # its IPv4 subnet, as the cluster knows it
: "${TOKENS:=/etc/meshd/tokens}"          # a file for each node that is to join: its token
: "${BIN_DIR:=/host/opt/cni/bin}"
: "${CONF_DIR:=/host/etc/cni/net.d}"
: "${INSTALL:=--copy --portmap}"
: "${HOST_IF:=mesh0}"                     # the host's own interface on the network
: "${MESHD_STATE:=/var/lib/meshd}"
: "${MESHD_SOCKET:=/run/meshd/meshd.sock}"
export MESHD_STATE MESHD_SOCKET

say() { echo "entrypoint: $*" >&2; }

daemon=
trap '[ -z "$daemon" ] || { kill -TERM $daemon 2>/dev/null; wait $daemon; }; exit 0' TERM INT

# True once the daemon answers; it ends at once where the state folder is of no member yet.
started() {
    [ -e "$MESHD_STATE/meshd.redb" ] || return 1
    meshd run &
    daemon=$!
    while kill -0 $daemon 2>/dev/null; do
        meshd status > /dev/null 2>&1 && return 0
        sleep 0.2
    done
    daemon=
    return 1
}

# A member already, or to become one: by `meshd init` in this container on the first node, by a token on all others.
told=no
until started; do
    if [ -s "$TOKENS/$NODE_NAME" ]; then
        say "joining the mesh as $NODE_NAME"
        meshd join - --name "$NODE_NAME" < "$TOKENS/$NODE_NAME" || sleep 5
    else
        [ $told = yes ] || say "waiting for $TOKENS/$NODE_NAME, or for meshd init"
        told=yes
        sleep 2
    fi
done

alive() { kill -0 $daemon 2>/dev/null || { say "the daemon ended"; exit 1; }; }

# The network is defined once, by whoever may: `meshd network add pods --subnet 10.42.0.0/16`.
told=no
until meshd attach "$POD_NETWORK" --netns self --ifname "$HOST_IF" --name "node-$NODE_NAME" \
        --owner "node/$POD_NETWORK" > /dev/null 2> /tmp/attach.$$; do
    alive
    [ $told = yes ] || { say "not on $POD_NETWORK yet:"; cat /tmp/attach.$$ >&2; }
    told=yes
    sleep 2
done
rm -f /tmp/attach.$$
gateway=$(ip -4 -o addr show dev "$HOST_IF" | awk '{ sub("/.*", "", $4); print $4; exit }')
say "this node is $gateway on $POD_NETWORK"

# Pods go out by their node, with its address. A Service that leads back into the network must see its answers again, so
# those have the node's address as well.
sysctl -q -w net.ipv4.ip_forward=1
nft -f - <<NFT
table ip meshd-pods
delete table ip meshd-pods
table ip meshd-pods {
    chain out {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr $POD_SUBNET ip daddr != $POD_SUBNET oifname != "$HOST_IF" masquerade
        iifname "$HOST_IF" oifname "$HOST_IF" ct status dnat masquerade
    }
}
NFT

# Last, since from now on pods are started: the node is ready when there is a configuration.
# shellcheck disable=SC2086 # a list of options
meshd cni install --network "$POD_NETWORK" --gateway "$gateway" --bin-dir "$BIN_DIR" --conf-dir "$CONF_DIR" $INSTALL

wait $daemon
