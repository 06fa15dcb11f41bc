//! The kinds of faults that the doctor knows, each a word that stays.

use serde::{Deserialize, Serialize};

macro_rules! findings {
    ($($name:ident: $means:literal, $remedy:literal;)*) => {
        /// What is wrong, as a word: `kernel-lacks`, `underlay-mtu-hole`. The check beside it has names and figures.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        pub enum Finding {
            $(#[doc = $means] $name,)*
        }

        impl Finding {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What it means, in a sentence or two.
            #[must_use]
            pub fn explain(self) -> &'static str {
                match self { $(Self::$name => $means,)* }
            }

            /// What a person could do about it.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

findings! {
    // This host.
    RightsMissing: "the daemon, or who runs the doctor, lacks a capability that meshd needs; what falls away with it is named",
        "run meshd as root, or by the unit that `meshd install` writes, which has them all";
    KernelLacks: "this kernel lacks something that ports, the fast path or a device of the config needs; it was tried in a namespace of its own",
        "load the module or take a kernel that is built with the option that is named";
    TunMissing: "/dev/net/tun cannot be opened, so no port can be made",
        "`modprobe tun`; in a container `--device /dev/net/tun`";
    ClockUnset: "this host's clock says a time before meshd was written, so every invite and membership is out of its time",
        "set the clock, and have a time service keep it: `timedatectl set-ntp true`";
    ClockUnsynchronised: "no time service keeps this host's clock, by the kernel's own account (adjtimex(2)); it drifts by seconds a week",
        "run one: `timedatectl set-ntp true`, chrony or ntpd";
    ClockSkew: "the clocks of two nodes differ, measured over their session; invites and memberships end at another time than they say, and of two changes of one thing the one with the later clock stays",
        "have a time service keep the clock of the node that is named: `timedatectl set-ntp true`";
    NoUnderlayAddress: "this host has no address by which another node could reach it",
        "give it an address other than loopback and link-local, on an interface that is up, or name one by `advertise` under [underlay]";
    UnderlayMtuSmall: "an interface of the underlay, or the way to a peer, carries no packets of 1280 bytes; QUIC does not work below 1200 bytes of payload (RFC 9000, section 14)",
        "raise the MTU of that interface, or of the tunnel that it stands for";
    PortTaken: "another process, which is named, holds a UDP port that meshd needs",
        "stop that process, or set `listen` or `vxlan_port` under [underlay] to another port (`vxlan_port` on all nodes)";
    ListenUnusable: "the address of `listen` under [underlay] cannot be bound",
        "set it to an address of this host, or to `[::]` for all";
    StateFolder: "the state folder cannot be used, or others than its owner can get at it",
        "give it to the user that runs meshd, with mode 0700";
    StateUnkept: "what the daemon must remember cannot be written: the file system is read-only, full or broken; traffic goes on, changes are refused",
        "make room or mount it writable; it is tried again each second";
    DiskLow: "the file system of the state folder is nearly full, of bytes or of inodes",
        "make room; at 16 MiB the next change may be refused";
    DescriptorsLow: "the daemon has used most of the files that it may open; new ports and sessions will fail",
        "raise the limit: `LimitNOFILE=65536` in the unit, or `ulimit -n 65536` before `meshd run`";
    BridgeFilter: "frames of bridges pass this host's firewall (br_netfilter), as Docker sets it up with FORWARD dropping; so that none is lost, the daemon forwards all of them itself, more slowly",
        "`sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0`, or let the rules accept what comes from bridges mb+ and set `bridge_filter = \"ignore\"` under [kernel]";
    ReversePath: "the kernel drops packets that come in by another interface than the answer would leave by (rp_filter is strict), and this host has several uplinks",
        "set it to loose: `sysctl net.ipv4.conf.IFNAME.rp_filter=2`";
    ConntrackFull: "the host's connection table is nearly full; when it is, the kernel drops packets of new connections, those of the underlay too",
        "raise it: `sysctl net.netfilter.nf_conntrack_max=...`, or exempt the underlay's port: `nft add rule inet raw prerouting udp dport 7650 notrack`";
    NeighboursFull: "the kernel's table of neighbours has overflown: addresses on the LAN are not resolved now and then",
        "raise `net.ipv4.neigh.default.gc_thresh3`, and thresh2 and thresh1 below it";
    BuffersSmall: "the daemon's sockets cannot have the buffers that they want, so bursts are lost; CAP_NET_ADMIN lifts the limit, else the sysctl does",
        "`sysctl net.core.rmem_max=4194304 net.core.wmem_max=4194304`";
    SocketOverflow: "the kernel threw packets of the underlay away because the daemon had not read those before; the machine is too busy, or was",
        "give the daemon more processor time; if it holds, spread load over nodes (`meshd top` shows where it comes from)";
    NicOffload: "an offload of the underlay's network card is off, so each packet costs what a batch of up to 64 KiB could",
        "turn it on: `ethtool -K IFNAME gso on gro on tso on`";
    ConfigInvalid: "the config file cannot be read, or is wrong; a daemon that runs goes on with the config it has",
        "`meshd config check FILE` says line and column";
    DaemonDown: "no daemon answers, so only the host was examined",
        "start it with `meshd run`, or name its socket by MESHD_SOCKET or --socket";
    DaemonStuck: "the daemon takes requests and does not answer: it is stopped, or the machine gives it no time or memory",
        "see `ps -o stat,wchan -C meshd` and the log; `systemctl restart meshd`, and what the kernel forwards goes on meanwhile";
    ProbeUnfinished: "a probe had not ended when the doctor's time was over",
        "run it again; if it happens again, the host is very busy or the probed one answers very late";
    // The mesh.
    MembershipRevoked: "this node's membership was taken by who holds the root key, or is lost",
        "remove the state folder and join by a new invite, if you may";
    MembershipEnds: "a membership statement ends soon, or has ended; from then on the others refuse the node",
        "have a new one signed: `meshd invite` on the node with the root key, and join again";
    KeyTwice: "two hosts run with the key of one node, as after a state folder or a virtual machine was copied: each takes the other's sessions, and the mesh keeps the one that is there and refuses the other",
        "on the host that is the copy: stop meshd, remove its state folder, and join by an invite of its own";
    PeerUnreached: "there is no session with a member that should be there",
        "`meshd peers` has the reason of the last try; see what the doctor says of its addresses";
    PeerUdpBlocked: "the host of a peer answers to ping, but nothing answers on its UDP port: a firewall on the way, or on that host, drops UDP",
        "open it on the peer's host: `nft add rule inet filter input udp dport 7650 accept`, or in the cloud's security group";
    PeerRefuses: "the host of a peer answers that nobody listens on the UDP port: its daemon does not run, or on another port",
        "start the daemon there, or see that `listen` and `advertise` of that node agree";
    PeerSilent: "nothing comes back from an address of a peer, neither to UDP nor to ping, or nothing over its session: the host is off, the address is wrong, a firewall drops all, or a path has just broken",
        "see that the host is up, and by `meshd members` that the address is right from here; run the doctor again";
    LocalFirewall: "this host's own firewall refuses what the daemon sends to a peer",
        "let UDP of the underlay's port out: `nft add rule inet filter output udp sport 7650 accept`";
    UnderlayMtuHole: "packets above some size get lost on the way to a peer without a word (no ICMP \"fragmentation needed\" comes back): a black hole. QUIC found the size and stays below it; VXLAN and other traffic of this host cannot",
        "set the uplink's MTU to what passes: `ip link set dev IFNAME mtu N`; or let ICMP pass on the routers between";
    PathAsymmetric: "larger packets pass on the way there than on the way back, or the other way round: the two ways lead through different links, one of which is narrower",
        "look where they part (`tracepath ADDRESS` on both hosts); one of the two routes, or an MTU on it, is wrong";
    Nat: "peers see this node at another address than it has: a NAT is in front of it. It dials out; others cannot dial it",
        "forward the UDP port on the router, and name the outer address by `advertise` under [underlay]";
    NatSymmetric: "the NAT in front of this node gives it another outer address or port towards each peer (endpoint-dependent mapping, RFC 4787), so nobody can be told where to dial it",
        "forward the UDP port on the router and name the outer address by `advertise` under [underlay], or set the router to \"full cone\"";
    NotAdvertised: "this node offers no address, so no other node can dial it",
        "give the host an address, or set `advertise` under [underlay]";
    VxlanBlocked: "both nodes trust the underlay, but VXLAN does not pass between them: a firewall drops its UDP port; frames travel by QUIC, more slowly",
        "let UDP of the VXLAN port (4789 unless set otherwise) pass between the two hosts, in both directions: `nft add rule inet filter input udp dport 4789 accept`";
    VxlanMtu: "VXLAN packets of the network's MTU do not pass on the underlay; frames travel by QUIC, in pieces where they must",
        "raise the underlay's MTU to the network's plus 50 bytes (70 over IPv6), or lower the network's";
    VxlanOffload: "frames that the kernel or the card cut into segments for VXLAN are not whole at the peer, as of cards with faulty checksum offload",
        "`ethtool -K IFNAME tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off` on both hosts";
    VxlanForeign: "another VXLAN device of this host, such as that of another overlay, has a network's VNI on meshd's UDP port, or takes all VNIs there: the kernel delivers to one device only",
        "remove that device, give the network another VNI, or set another `vxlan_port` under [underlay] on all nodes";
    VxlanStranger: "VXLAN for a network of the mesh comes from an address that is no member's and no declared VTEP's; the fence drops it, so nothing of it is in the network, but somebody sends it",
        "`meshd capture NETWORK drop fenced` shows the frames and the address that they come from; a foreign VTEP of yours is declared by `meshd network vtep add`, and anything else is to be stopped at its host or at the firewall";
    UnderlayRoute: "packets to a peer leave this host by another interface than the one whose address they bear, or by an interface of the mesh itself",
        "mend the route to the peer, or have meshd take the other interface: `trusted` and `listen` under [underlay]";
    UnderlayLossy: "the underlay to a peer loses more packets than congestion explains",
        "look for a faulty link, duplex mismatch or overload between the hosts: `ip -s link`, `ethtool -S IFNAME`";
    VersionDiffers: "nodes of the mesh run different releases",
        "upgrade them to one release, see the page on upgrades";
    NetworkDiffers: "two nodes hold different definitions of one network: VNI, MTU or subnets",
        "wait a few seconds and look again; if it stays, see `meshd events` on both for refused records";
    PolicyDiffers: "two nodes with ports on one network have different plugin chains on it: what passes on one is refused on the other",
        "attach the same on both, or leave it if that is meant: `meshd plugin chain NETWORK` on each";
    TrustDiffers: "one node trusts an underlay with frames in the clear that the other does not trust, or their VXLAN ports differ; so QUIC is taken",
        "set `trusted` and `vxlan_port` under [underlay] alike on both";
    DuplicateClaim: "two nodes claim one MAC, address, name or network; the first holder keeps it, and the other is not reached by it",
        "give one of the two another: `meshd attach ... --ip`, `--mac` or `--name`; or detach it";
    MacFlaps: "one MAC comes now from here and now from there: two stations have it, or a loop carries its frames round",
        "find the two stations (`meshd fdb`); cloned machines want a MAC of their own";
    LoopBlocked: "a port is blocked, because it would close a loop",
        "take one of the two ways between the LANs away: detach an uplink, or pull the cable";
    // Networks, ports and plugins of this node.
    BridgeMissing: "a network waits for a bridge of this host that is not there",
        "see to whoever makes it, or detach the port";
    DeviceOdd: "a device of the config is not as it should be",
        "`meshd devices` says why, and docs/howto/host-devices.md what it needs";
    NetworkInKernel: "what the kernel holds of a network is not as it is to be",
        "the daemon tries again; `meshd events --kind kernel-trouble` has the kernel's answer";
    KernelMeddled: "somebody else changed or removed what meshd has in the kernel (a filter, a table of nftables, a device, an entry); meshd put it right, and traffic may have stood still until then",
        "find out who, by the times in `meshd events --kind kernel-repaired`; a firewall should flush its own tables only, not the ruleset";
    PortFailed: "a port could not be wired, and is tried again",
        "its reason says what is missing: `meshd ports`";
    PortDown: "the interface of a port is down, in its container or (of an uplink) for want of a carrier: the port is wired, and all frames to it are lost",
        "`ip link set dev eth0 up` in the container, or the same `meshd attach` again; of an uplink see to its cable and far end";
    PortMtu: "the interface in a container, or the LAN behind an uplink, has another MTU than its network: larger packets are lost or answered with \"too big\", smaller ones are slow",
        "in the container: `ip link set dev eth0 mtu N`; or attach it again";
    LinkAddress: "an uplink of the config has an address that this host does not have",
        "give the host the address, or correct `address` under [[underlay.link]]";
    LinkAlone: "no peer has an uplink of this name",
        "declare a link of the same name under [[underlay.link]] on other nodes";
    LinkDown: "an uplink does not connect to all peers that have it",
        "see `meshd paths`; is UDP open between these uplinks, and does the reply leave by the same one?";
    PluginBroken: "a plugin cannot be used, or failed so often that it is not asked for a while; its fail mode answers for it",
        "`meshd plugin stats` has the last fault; `meshd plugin rollback NAME`, or install a mended version";
    PluginQuarantined: "a plugin gave two answers where it said that one holds, so its answers are cached for exactly equal frames only, which is slow",
        "change its config or install a mended version; `meshd plugin chain NETWORK` has the case";
    PluginSlow: "a plugin takes long for a question; each new flow waits for it",
        "see `meshd plugin bench`; a lighter config, or an earlier place in the chain for one that refuses more";
    PluginOverBudget: "calls of a plugin were stopped because they used up their time or memory",
        "`meshd plugin stats` has the counts by fault; install a mended version";
    ControllerTrouble: "the controller of a plugin does nothing at the moment",
        "`meshd plugin logs NAME NETWORK` has what it said last";
    DnsSilent: "the mesh's name service does not answer in a network where it should",
        "see that `[dns] enabled` is true and the port ready; is a firewall inside of the container in the way?";
    DnsUpstream: "names outside of the mesh are not resolved: there is no name server to ask, or none answers",
        "name one by `upstream` under [dns], or mend /etc/resolv.conf";
    ResolverForeign: "a container's resolv.conf names no service address of its network, so names of the mesh are not found there",
        "put `nameserver ADDRESS` first in it; with `ip netns`, in /etc/netns/NAME/resolv.conf";
}
