//! Tests of a policy as native code: no daemon, no WASM, no root.

use crate::key::{Direction, DstClass, Frag, IpKind, Key};
use crate::net::address_bits;
use crate::policy::{self, ConfigError, Policy};
use crate::sound;
use crate::verdict::{Say, Verdict};
use crate::wit::types::{CtState, DepMask, Deps, FlowKey, Ip, Mac, TcpFlags};
use core::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

/// A policy with somebody to ask it.
pub struct Host<P> {
    policy: P,
    sent: RefCell<Vec<FlowKey>>,
}

/// Takes a policy as it stands; `check` is not called.
pub fn host<P: Policy>(policy: P) -> Host<P> {
    Host {
        policy,
        sent: RefCell::default(),
    }
}

/// Reads and checks a config as the daemon has it done.
///
/// # Errors
/// Everything that is wrong in the config.
pub fn configured<P: Policy>(config: &str) -> Result<Host<P>, Vec<ConfigError>> {
    policy::read(config).map(host)
}

impl<P: Policy> Host<P> {
    /// Asks about the first frame of a flow.
    pub fn send(&self, packet: Packet) -> Outcome {
        self.sent.borrow_mut().push(packet.0);
        let (verdict, deps) = self.decide(&packet.0);
        Outcome { verdict, deps }
    }

    /// Checks that the verdict rests on nothing but what was read: takes the packets sent so far and `rounds` others like
    /// them, scrambles every bit that was not read, and asks again. The same rounds each time.
    ///
    /// # Panics
    /// If a verdict or what was read differs: the policy keeps state, or looks at the frame by another way than [`Key`].
    pub fn sound(&self, rounds: usize) {
        sound::check(&self.sent.borrow(), rounds, |key| self.decide(key));
    }

    fn decide(&self, key: &FlowKey) -> (Verdict, DepMask) {
        let key = Key::new(key);
        let verdict = self.policy.decide(&key);
        (verdict, key.deps())
    }
}

/// What a policy said about one packet.
pub struct Outcome {
    verdict: Verdict,
    deps: DepMask,
}

#[allow(clippy::must_use_candidate, clippy::return_self_not_must_use)]
impl Outcome {
    /// # Panics
    /// Unless the packet was left to the next plugin.
    #[track_caller]
    pub fn passes(self) -> Self {
        assert_eq!(self.verdict.say, Say::Next, "expected the packet to pass");
        self
    }

    /// # Panics
    /// Unless the packet was accepted past later plugins.
    #[track_caller]
    pub fn accepts(self) -> Self {
        assert_eq!(
            self.verdict.say,
            Say::Accept,
            "expected the packet to be accepted"
        );
        self
    }

    /// # Panics
    /// Unless the packet was dropped under this number.
    #[track_caller]
    pub fn drops(self, code: u16) -> Self {
        assert_eq!(
            self.verdict.say,
            Say::Drop(code),
            "expected the packet to be dropped"
        );
        self
    }

    /// Compares what was read: names as in `wit/types.wit`, in its order, separated by blanks; partial reads of addresses
    /// with the number of leading bits (`dst-ip/120`, IPv4 has 96 before it), of ports with the mask unless it is full
    /// (`dst-port/0x8000`).
    ///
    /// # Panics
    /// If it is not that.
    #[track_caller]
    pub fn reads(self, names: &str) -> Self {
        let read = names_of(&self.deps);
        assert_eq!(
            read,
            names.split_whitespace().collect::<Vec<_>>().join(" "),
            "the policy read something else"
        );
        self
    }
}

fn names_of(deps: &DepMask) -> String {
    let whole = [
        (Deps::DIR, "dir"),
        (Deps::IN_PORT, "in-port"),
        (Deps::IN_PEER, "in-peer"),
        (Deps::TENANT, "tenant"),
        (Deps::SRC_IDENTITY, "src-identity"),
        (Deps::DST_IDENTITY, "dst-identity"),
        (Deps::SRC_MAC, "src-mac"),
        (Deps::DST_MAC, "dst-mac"),
        (Deps::DST_CLASS, "dst-class"),
        (Deps::ETHER_TYPE, "ether-type"),
        (Deps::VLAN, "vlan"),
        (Deps::PCP, "pcp"),
        (Deps::INNER_VLAN, "inner-vlan"),
        (Deps::IP_KIND, "ip-kind"),
        (Deps::IP_PROTO, "ip-proto"),
        (Deps::DSCP, "dscp"),
        (Deps::ECN, "ecn"),
        (Deps::TTL, "ttl"),
        (Deps::FRAG, "frag"),
        (Deps::L4_OK, "l4-ok"),
        (Deps::TCP_FLAGS, "tcp-flags"),
        (Deps::ICMP_TYPE, "icmp-type"),
        (Deps::ICMP_CODE, "icmp-code"),
        (Deps::CT, "ct"),
        (Deps::CT_MARK, "ct-mark"),
    ];
    let mut out: Vec<String> = whole
        .iter()
        .filter(|(bit, _)| deps.fields.contains(*bit))
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let part = &deps.partial;
    for (name, len) in [
        ("src-mac", part.src_mac_prefix),
        ("dst-mac", part.dst_mac_prefix),
        ("src-ip", part.src_ip_prefix),
        ("dst-ip", part.dst_ip_prefix),
    ] {
        if len != 0 {
            out.push(format!("{name}/{len}"));
        }
    }
    for (name, mask) in [
        ("src-port", part.src_port_mask),
        ("dst-port", part.dst_port_mask),
    ] {
        match mask {
            0 => {}
            u16::MAX => out.push(name.to_owned()),
            _ => out.push(format!("{name}/{mask:#06x}")),
        }
    }
    out.join(" ")
}

/// A packet to ask about. On its way in from port 1, to a known station, untagged, whole.
#[derive(Clone, Copy)]
#[must_use]
pub struct Packet(FlowKey);

/// TCP from one `address:port` to another; a SYN.
///
/// # Panics
/// If the texts are no addresses with ports, or of different families.
#[track_caller]
pub fn tcp(from: &str, to: &str) -> Packet {
    let mut key = transport(6, from, to);
    key.tcp_flags = TcpFlags::SYN;
    Packet(key)
}

/// UDP from one `address:port` to another.
///
/// # Panics
/// As [`tcp`].
#[track_caller]
pub fn udp(from: &str, to: &str) -> Packet {
    Packet(transport(17, from, to))
}

/// An echo request, of ICMP or ICMPv6.
///
/// # Panics
/// If the texts are no addresses, or of different families.
#[track_caller]
pub fn ping(from: &str, to: &str) -> Packet {
    let mut key = ip(
        from.parse().expect("an address"),
        to.parse().expect("an address"),
    );
    let v4 = matches!(key.ip_kind, IpKind::V4);
    (key.ip_proto, key.icmp_type) = if v4 { (1, 8) } else { (58, 128) };
    key.l4_ok = true;
    Packet(key)
}

/// An ARP request by one IPv4 address for another.
///
/// # Panics
/// If the texts are no IPv4 addresses.
#[track_caller]
pub fn arp(from: &str, to: &str) -> Packet {
    let mut key = ip(
        from.parse().expect("an address"),
        to.parse().expect("an address"),
    );
    assert!(
        matches!(key.ip_kind, IpKind::V4),
        "ARP speaks of IPv4 addresses"
    );
    (key.ip_kind, key.ether_type, key.ip_proto, key.ttl) = (IpKind::ArpV4, 0x0806, 1, 0);
    (key.dst_mac, key.dst_class) = (
        Mac {
            hi: 0xffff,
            lo: 0xffff_ffff,
        },
        DstClass::Broadcast,
    );
    Packet(key)
}

/// A frame of another EtherType.
pub fn frame(ether_type: u16) -> Packet {
    Packet(FlowKey {
        ether_type,
        ..blank()
    })
}

impl Packet {
    /// In a VLAN.
    pub fn vlan(mut self, vid: u16) -> Self {
        self.0.vlan = 0x1000 | vid;
        self
    }

    /// On its way out to a port.
    pub fn egress(mut self, port: u32) -> Self {
        (self.0.dir, self.0.in_port) = (Direction::Egress, port);
        self
    }

    /// The first fragment, with or without a layer 4 header that can be read.
    pub fn first_fragment(self, readable: bool) -> Self {
        let mut out = if readable { self } else { self.unreadable() };
        out.0.frag = Frag::First;
        out
    }

    /// A later fragment: without a layer 4 header.
    pub fn later_fragment(self) -> Self {
        let mut out = self.unreadable();
        out.0.frag = Frag::Later;
        out
    }

    /// Cut off before the end of its layer 4 header.
    pub fn unreadable(mut self) -> Self {
        (self.0.l4_ok, self.0.src_port, self.0.dst_port) = (false, 0, 0);
        (self.0.tcp_flags, self.0.icmp_type, self.0.icmp_code) = (TcpFlags::empty(), 0, 0);
        self
    }
}

#[track_caller]
fn transport(proto: u8, from: &str, to: &str) -> FlowKey {
    let from: SocketAddr = from
        .parse()
        .expect("an address with a port, such as 10.0.0.1:4000 or [fd00::1]:4000");
    let to: SocketAddr = to
        .parse()
        .expect("an address with a port, such as 10.0.0.1:4000 or [fd00::1]:4000");
    let key = ip(from.ip(), to.ip());
    FlowKey {
        ip_proto: proto,
        l4_ok: true,
        src_port: from.port(),
        dst_port: to.port(),
        ..key
    }
}

#[track_caller]
fn ip(from: IpAddr, to: IpAddr) -> FlowKey {
    assert_eq!(from.is_ipv4(), to.is_ipv4(), "both of IPv4 or both of IPv6");
    let (ip_kind, ether_type) = if from.is_ipv4() {
        (IpKind::V4, 0x0800)
    } else {
        (IpKind::V6, 0x86dd)
    };
    FlowKey {
        ip_kind,
        ether_type,
        src_ip: halves(address_bits(from)),
        dst_ip: halves(address_bits(to)),
        ttl: 64,
        ..blank()
    }
}

pub(crate) fn halves(bits: u128) -> Ip {
    // 64 bits each.
    Ip {
        hi: (bits >> 64) as u64,
        lo: bits as u64,
    }
}

fn blank() -> FlowKey {
    FlowKey {
        dir: Direction::Ingress,
        in_port: 1,
        in_peer: 0,
        tenant: 1,
        src_identity: 0,
        dst_identity: 0,
        src_mac: Mac { hi: 0x0200, lo: 1 },
        dst_mac: Mac { hi: 0x0200, lo: 2 },
        dst_class: DstClass::UnicastKnown,
        ether_type: 0,
        vlan: 0,
        pcp: 0,
        inner_vlan: 0,
        ip_kind: IpKind::None,
        src_ip: Ip { hi: 0, lo: 0 },
        dst_ip: Ip { hi: 0, lo: 0 },
        ip_proto: 0,
        dscp: 0,
        ecn: 0,
        ttl: 0,
        frag: Frag::None,
        l4_ok: false,
        src_port: 0,
        dst_port: 0,
        tcp_flags: TcpFlags::empty(),
        icmp_type: 0,
        icmp_code: 0,
        ct: CtState::UNTRACKED,
        ct_mark: 0,
    }
}
