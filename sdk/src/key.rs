//! The key that notes what is read of it.
//!
//! A deterministic policy is a decision tree over the values it reads: two keys that agree in all of them take the same
//! way through it. So the reads *are* the mask. Predicates (`dst_ip_in`, `dst_port_in`) note only the bits that their
//! answer rests on, which keeps the mask wide and the cache effective; prefer them to comparing whole fields.

use crate::mac::{Mac, MacMap};
use crate::net::Net;
use crate::wit::types::{self, CtState, DepMask, Deps, PartialDeps, TcpFlags};
use core::cell::Cell;
use core::ops::RangeInclusive;
use std::net::{IpAddr, Ipv6Addr};

#[cfg(asked)]
mod asked;
#[cfg(not(asked))]
mod record;
#[cfg(asked)]
pub(crate) use asked::Raw;
#[cfg(asked)]
use asked::raw;
#[cfg(not(asked))]
pub(crate) use record::Raw;
#[cfg(not(asked))]
use record::raw;

pub use crate::wit::types::{Direction, DstClass, Frag, IpKind};

/// A frame's header fields. It can be neither compared nor printed as a whole: that would be a read nobody notes.
pub struct Key<'a> {
    raw: &'a Raw,
    fields: Cell<Deps>,
    // Each by itself: cheaper in fuel than a record that is copied out and back.
    src_mac: Cell<u8>,
    dst_mac: Cell<u8>,
    src_ip: Cell<u8>,
    dst_ip: Cell<u8>,
    src_port: Cell<u16>,
    dst_port: Cell<u16>,
}

macro_rules! whole {
    ($($(#[$doc:meta])* $name:ident: $ty:ty, $bit:ident;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> $ty {
            self.note(Deps::$bit);
            raw!(self.$name)
        })*
    };
}

impl<'a> Key<'a> {
    pub(crate) fn new(raw: &'a Raw) -> Self {
        Self {
            raw,
            fields: Cell::new(Deps::empty()),
            src_mac: Cell::new(0),
            dst_mac: Cell::new(0),
            src_ip: Cell::new(0),
            dst_ip: Cell::new(0),
            src_port: Cell::new(0),
            dst_port: Cell::new(0),
        }
    }

    /// What was read so far.
    pub(crate) fn deps(&self) -> DepMask {
        let partial = PartialDeps {
            src_mac_prefix: self.src_mac.get(),
            dst_mac_prefix: self.dst_mac.get(),
            src_ip_prefix: self.src_ip.get(),
            dst_ip_prefix: self.dst_ip.get(),
            src_port_mask: self.src_port.get(),
            dst_port_mask: self.dst_port.get(),
        };
        DepMask {
            fields: self.fields.get(),
            partial,
        }
    }

    fn note(&self, field: Deps) {
        self.fields.set(self.fields.get() | field);
    }

    whole! {
        /// Into the network or out of it.
        dir: Direction, DIR;
        /// The port of this node that asks: on ingress where the frame came from, on egress where it goes.
        in_port: u32, IN_PORT;
        /// The member it came from; 0: a port of this node.
        in_peer: u64, IN_PEER;
        /// The network's VNI.
        tenant: u32, TENANT;
        /// How the destination was found.
        dst_class: DstClass, DST_CLASS;
        /// EtherType of the payload, behind any tags.
        ether_type: u16, ETHER_TYPE;
        /// 0: untagged; else `0x1000 | VID`.
        vlan: u16, VLAN;
        /// Priority of the outer tag, 0 to 7.
        pcp: u8, PCP;
        /// As `vlan`, of the second tag.
        inner_vlan: u16, INNER_VLAN;
        /// Address family.
        ip_kind: IpKind, IP_KIND;
        /// IP protocol or IPv6 upper-layer number; ARP: operation.
        ip_proto: u8, IP_PROTO;
        /// Differentiated services code point, 6 bits.
        dscp: u8, DSCP;
        /// Explicit congestion notification, 2 bits.
        ecn: u8, ECN;
        /// TTL or hop limit. Every value of it is a cache entry of its own.
        ttl: u8, TTL;
        /// Fragmentation.
        frag: Frag, FRAG;
        /// The layer 4 header was there to read; if not, its fields are zero.
        l4_ok: bool, L4_OK;
        /// ICMP or ICMPv6 type.
        icmp_type: u8, ICMP_TYPE;
        /// ICMP or ICMPv6 code.
        icmp_code: u8, ICMP_CODE;
        /// Mark of the connection, as a policy set it last; 0 without one.
        ct_mark: u32, CT_MARK;
    }

    /// What the host's connection table says of the frame. Whoever reads it makes the host look the network's frames up.
    #[must_use]
    pub fn ct(&self) -> Ct {
        self.note(Deps::CT);
        Ct(raw!(self.ct))
    }

    /// The whole source MAC; where it is one of a few known ones, ask by [`Self::src_mac_is`] or [`Self::src_mac_in`].
    #[must_use]
    pub fn src_mac(&self) -> Mac {
        self.src_mac.set(48);
        mac(&raw!(self.src_mac))
    }

    /// Whether the source MAC is this one. A difference in the first bits is a matter of those.
    #[must_use]
    pub fn src_mac_is(&self, one: Mac) -> bool {
        self.test_src_mac(one)
    }

    /// The entry of the source MAC. If it has none, only the first bits matter, as far as they tell it from all that have.
    #[must_use]
    pub fn src_mac_in<'m, T>(&self, table: &'m MacMap<T>) -> Option<&'m T> {
        let (found, bits) = table.look(mac(&raw!(self.src_mac)));
        self.src_mac.set(self.src_mac.get().max(bits));
        found
    }

    /// The whole destination MAC; where it is one of a few known ones, ask by [`Self::dst_mac_is`] or [`Self::dst_mac_in`].
    #[must_use]
    pub fn dst_mac(&self) -> Mac {
        self.dst_mac.set(48);
        mac(&raw!(self.dst_mac))
    }

    /// Whether the destination MAC is this one. A difference in the first bits is a matter of those.
    #[must_use]
    pub fn dst_mac_is(&self, one: Mac) -> bool {
        self.test_dst_mac(one)
    }

    /// The entry of the destination MAC. If it has none, only the first bits matter, as far as they tell it from all that have.
    #[must_use]
    pub fn dst_mac_in<'m, T>(&self, table: &'m MacMap<T>) -> Option<&'m T> {
        let (found, bits) = table.look(mac(&raw!(self.dst_mac)));
        self.dst_mac.set(self.dst_mac.get().max(bits));
        found
    }

    /// To a group: multicast and broadcast. Rests on the first byte of the destination.
    #[must_use]
    pub fn is_group(&self) -> bool {
        self.dst_mac.set(self.dst_mac.get().max(8));
        mac(&raw!(self.dst_mac)).is_group()
    }

    /// The whole source address; `None` if the frame has none. ARP: sender protocol address.
    #[must_use]
    pub fn src_ip(&self) -> Option<IpAddr> {
        let kind = self.ip_kind();
        self.src_ip.set(128);
        address(kind, self.src_bits())
    }

    /// The whole destination address; `None` if the frame has none. ARP and ND: target address.
    #[must_use]
    pub fn dst_ip(&self) -> Option<IpAddr> {
        let kind = self.ip_kind();
        self.dst_ip.set(128);
        address(kind, self.dst_bits())
    }

    /// Whether the source address is in `net`; false if the frame has none.
    #[must_use]
    pub fn src_ip_in(&self, net: Net) -> bool {
        self.test_src_ip(net)
    }

    /// Whether the destination address is in `net`; false if the frame has none.
    #[must_use]
    pub fn dst_ip_in(&self, net: Net) -> bool {
        self.test_dst_ip(net)
    }

    /// TCP, UDP or SCTP source port; 0 where there is none, so look at `is_tcp` or `l4_ok` first.
    #[must_use]
    pub fn src_port(&self) -> u16 {
        self.src_port.set(u16::MAX);
        raw!(self.src_port)
    }

    /// TCP, UDP or SCTP destination port; 0 where there is none, so look at `is_tcp` or `l4_ok` first.
    #[must_use]
    pub fn dst_port(&self) -> u16 {
        self.dst_port.set(u16::MAX);
        raw!(self.dst_port)
    }

    /// Whether the source port is in `range`.
    #[must_use]
    pub fn src_port_in(&self, range: RangeInclusive<u16>) -> bool {
        self.test_src_port(range)
    }

    /// Whether the destination port is in `range`.
    #[must_use]
    pub fn dst_port_in(&self, range: RangeInclusive<u16>) -> bool {
        self.test_dst_port(range)
    }

    /// FIN, SYN, RST, PSH, ACK, URG, ECE, CWR from bit 0; NS is bit 8. A verdict that rests on them is asked for more than
    /// once per connection.
    #[must_use]
    pub fn tcp_flags(&self) -> u16 {
        self.note(Deps::TCP_FLAGS);
        flag_bits(raw!(self.tcp_flags))
    }

    /// IPv4 or IPv6, and not ARP or ND.
    #[must_use]
    pub fn is_ip(&self) -> bool {
        matches!(self.ip_kind(), IpKind::V4 | IpKind::V6)
    }

    /// ARP or ND: what a network cannot do without.
    #[must_use]
    pub fn is_neighbor(&self) -> bool {
        matches!(self.ip_kind(), IpKind::ArpV4 | IpKind::NdV6)
    }

    /// TCP with a header that was there to read.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.is_ip() && self.ip_proto() == 6 && self.l4_ok()
    }

    /// UDP with a header that was there to read.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        self.is_ip() && self.ip_proto() == 17 && self.l4_ok()
    }

    /// What `look` makes of the source address, and how many of its leading bits that rests on.
    pub(crate) fn look_src_ip<T>(&self, look: impl FnOnce(u128) -> (T, u8)) -> T {
        let (found, bits) = look(self.src_bits());
        self.src_ip.set(self.src_ip.get().max(bits));
        found
    }

    /// As [`Self::look_src_ip`].
    pub(crate) fn look_dst_ip<T>(&self, look: impl FnOnce(u128) -> (T, u8)) -> T {
        let (found, bits) = look(self.dst_bits());
        self.dst_ip.set(self.dst_ip.get().max(bits));
        found
    }

    /// As [`Self::look_src_ip`].
    pub(crate) fn look_src_port<T>(&self, look: impl FnOnce(u16) -> (T, u8)) -> T {
        let (found, bits) = look(raw!(self.src_port));
        self.src_port.set(self.src_port.get() | leading(bits));
        found
    }

    /// As [`Self::look_src_ip`].
    pub(crate) fn look_dst_port<T>(&self, look: impl FnOnce(u16) -> (T, u8)) -> T {
        let (found, bits) = look(raw!(self.dst_port));
        self.dst_port.set(self.dst_port.get() | leading(bits));
        found
    }

    fn src_bits(&self) -> u128 {
        let ip = raw!(self.src_ip);
        bits(ip.hi, ip.lo)
    }

    fn dst_bits(&self) -> u128 {
        let ip = raw!(self.dst_ip);
        bits(ip.hi, ip.lo)
    }
}

/// What the host's connection table says of a frame.
#[derive(Clone, Copy)]
pub struct Ct(CtState);

impl Ct {
    /// Not looked up: the network is not tracked yet, or the frame is none that has a connection (no IP, a later fragment,
    /// ICMP that is neither echo nor error).
    #[must_use]
    pub fn is_untracked(self) -> bool {
        self.0.is_empty() || self.0.contains(CtState::UNTRACKED)
    }

    /// Of a connection that is not entered, has been heard from one end only, or is to be decided anew since the chain
    /// changed.
    #[must_use]
    pub fn is_new(self) -> bool {
        self.0.contains(CtState::NEW)
    }

    /// Frames went both ways, and this chain let them.
    #[must_use]
    pub fn is_established(self) -> bool {
        self.0.contains(CtState::ESTABLISHED)
    }

    /// An ICMP error about a connection that is decided.
    #[must_use]
    pub fn is_related(self) -> bool {
        self.0.contains(CtState::RELATED)
    }

    /// Against the direction of the connection's first frame. With `is_new`, the connection is to be decided anew, and its
    /// first frame had source and destination the other way round, and came by in the other direction.
    #[must_use]
    pub fn is_reply(self) -> bool {
        self.0.contains(CtState::REPLY)
    }

    /// Of no connection, and none that could open one: a header that is cut off, flags that no TCP sends, an answer to
    /// nothing.
    #[must_use]
    pub fn is_invalid(self) -> bool {
        self.0.contains(CtState::INVALID)
    }
}

/// A mask of the leading `bits` of a port.
fn leading(bits: u8) -> u16 {
    u16::MAX
        .checked_shl(16 - u32::from(bits.min(16)))
        .unwrap_or_default()
}

pub(crate) fn bits(hi: u64, lo: u64) -> u128 {
    u128::from(hi) << 64 | u128::from(lo)
}

pub(crate) fn mac(raw: &types::Mac) -> Mac {
    Mac::from_halves(raw.hi, raw.lo)
}

/// From bit 0 on.
pub(crate) const FLAGS: [TcpFlags; 9] = [
    TcpFlags::FIN,
    TcpFlags::SYN,
    TcpFlags::RST,
    TcpFlags::PSH,
    TcpFlags::ACK,
    TcpFlags::URG,
    TcpFlags::ECE,
    TcpFlags::CWR,
    TcpFlags::NS,
];

pub(crate) fn flag_bits(flags: TcpFlags) -> u16 {
    FLAGS.iter().enumerate().fold(0, |all, (i, flag)| {
        all | u16::from(flags.contains(*flag)) << i
    })
}

fn address(kind: IpKind, bits: u128) -> Option<IpAddr> {
    let v6 = Ipv6Addr::from_bits(bits);
    match kind {
        IpKind::None => None,
        IpKind::V4 | IpKind::ArpV4 => v6.to_ipv4_mapped().map(IpAddr::V4),
        IpKind::V6 | IpKind::NdV6 => Some(IpAddr::V6(v6)),
    }
}
