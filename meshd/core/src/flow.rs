//! Flow key and mask: what a ruling was made from, and what of it mattered.
//!
//! ```text
//!   frame --FlowKey::of--> key          megaflow = (key & mask) -> ruling
//! ```
//!
//! Owns the key's fields, the masks over them and the rule that a field may only be matched together with the fields that
//! give it meaning. Knows no table.

mod words;

pub(crate) use self::words::KeyWords;
use crate::conntrack::{CtState, Tracked};
use crate::frame::Frame;
use crate::ident::{MacAddr, NodeId, PortId, Vni};
use core::hash::BuildHasher;
use serde::{Deserialize, Serialize};

/// Where a frame came from: a port of this node, or a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A container, VM or uplink of this node.
    Port(PortId),
    /// Another node, over its session.
    Peer(NodeId),
    /// The VXLAN device of a network: another node, known by the source MAC, whose frame no gate let pass.
    Vxlan(Vni),
}

/// Parsed header fields of a frame, all of fixed size. An absent layer is all zeros; `ether_type`, `ip_kind`, `ip_proto`,
/// `frag` and `l4_ok` say which are there. Its origin is not part of it: every origin has a lane and a cache of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// The network.
    pub vni: Vni,
    /// Source.
    pub src_mac: MacAddr,
    /// Destination.
    pub dst_mac: MacAddr,
    /// EtherType of the payload, behind any tags.
    pub ether_type: u16,
    /// 0: untagged; else `0x1000 | VID`.
    pub vlan: u16,
    /// Priority of the outer tag, 0 to 7.
    pub pcp: u8,
    /// Same as `vlan`, of the second tag.
    pub inner_vlan: u16,
    /// Which of the address families the frame speaks.
    pub ip_kind: IpKind,
    /// IPv4 as `::ffff:a.b.c.d`. ARP: sender protocol address. ND: source of the packet.
    pub src_ip: u128,
    /// As `src_ip`. ARP: target protocol address. ND: target address.
    pub dst_ip: u128,
    /// IP protocol or IPv6 upper-layer number; ARP: operation.
    pub ip_proto: u8,
    /// Differentiated services code point, 6 bits.
    pub dscp: u8,
    /// Explicit congestion notification, 2 bits.
    pub ecn: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Fragmentation.
    pub frag: Frag,
    /// The layer 4 header was there to read; if not, its fields are zero.
    pub l4_ok: bool,
    /// TCP, UDP or SCTP source port.
    pub src_port: u16,
    /// TCP, UDP or SCTP destination port.
    pub dst_port: u16,
    /// FIN, SYN, RST, PSH, ACK, URG, ECE, CWR from bit 0; NS is bit 8.
    pub tcp_flags: u16,
    /// ICMP or ICMPv6 type.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub icmp_code: u8,
    /// What the network's connection table says; nothing, unless the network is tracked.
    pub ct: CtState,
    /// Mark of the connection.
    pub ct_mark: u32,
}

/// Address family of a key.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum IpKind {
    #[default]
    None,
    V4,
    V6,
    ArpV4,
    NdV6,
}

/// Fragmentation of a key.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Frag {
    /// Whole.
    #[default]
    None,
    /// Offset 0, more follow: layer 4 is readable.
    First,
    /// Layer 4 is elsewhere.
    Later,
}

impl FlowKey {
    /// A key of which nothing is known but the network: all zeros.
    #[must_use]
    pub const fn blank(vni: Vni) -> Self {
        Self {
            vni,
            src_mac: MacAddr([0; 6]),
            dst_mac: MacAddr([0; 6]),
            ether_type: 0,
            vlan: 0,
            pcp: 0,
            inner_vlan: 0,
            ip_kind: IpKind::None,
            src_ip: 0,
            dst_ip: 0,
            ip_proto: 0,
            dscp: 0,
            ecn: 0,
            ttl: 0,
            frag: Frag::None,
            l4_ok: false,
            src_port: 0,
            dst_port: 0,
            tcp_flags: 0,
            icmp_type: 0,
            icmp_code: 0,
            ct: CtState::UNTRACKED,
            ct_mark: 0,
        }
    }

    /// The same with what is known of its connection.
    #[must_use]
    pub const fn with_ct(mut self, tracked: Tracked) -> Self {
        (self.ct, self.ct_mark) = (tracked.state, tracked.mark);
        self
    }

    /// What it says of its connection.
    #[must_use]
    pub const fn tracked(&self) -> Tracked {
        Tracked {
            state: self.ct,
            mark: self.ct_mark,
        }
    }

    /// Of the flow that it belongs to: the same for all its frames, whatever flags they bear and whatever is known of their
    /// connection. Fragments are told apart by addresses only, so that all of one packet are of one flow.
    #[must_use]
    pub fn flow_hash(&self, hasher: &impl BuildHasher) -> u64 {
        let ports = match self.frag {
            Frag::None => (self.src_port, self.dst_port),
            Frag::First | Frag::Later => (0, 0),
        };
        let addresses = (self.src_mac, self.dst_mac, self.src_ip, self.dst_ip);
        hasher.hash_one((self.vni, self.ether_type, self.ip_proto, addresses, ports))
    }

    /// The key of `frame` on network `vni`.
    #[inline]
    #[must_use]
    pub fn of(vni: Vni, frame: &Frame<'_>) -> Self {
        frame.flow_key(vni)
    }
}

/// Which bits of a [`FlowKey`] mattered: one in a bit means matched. `vni` is always matched.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct FlowMask {
    /// Leading bits that matter, 0 to 48.
    pub src_mac: u8,
    /// Leading bits that matter, 0 to 48.
    pub dst_mac: u8,
    /// Whole fields that matter.
    pub fields: Fields,
    /// Leading bits that matter, 0 to 128.
    pub src_ip: u8,
    /// Leading bits that matter, 0 to 128.
    pub dst_ip: u8,
    /// Bits that matter.
    pub src_port: u16,
    /// Bits that matter.
    pub dst_port: u16,
}

/// A set of the key's whole fields, one bit each; see the constants.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Fields(pub u32);

#[allow(missing_docs)]
impl Fields {
    pub const ETHER_TYPE: Self = Self(1);
    pub const VLAN: Self = Self(1 << 1);
    pub const PCP: Self = Self(1 << 2);
    pub const INNER_VLAN: Self = Self(1 << 3);
    pub const IP_KIND: Self = Self(1 << 4);
    pub const IP_PROTO: Self = Self(1 << 5);
    pub const DSCP: Self = Self(1 << 6);
    pub const ECN: Self = Self(1 << 7);
    pub const TTL: Self = Self(1 << 8);
    pub const FRAG: Self = Self(1 << 9);
    pub const L4_OK: Self = Self(1 << 10);
    pub const TCP_FLAGS: Self = Self(1 << 11);
    pub const ICMP_TYPE: Self = Self(1 << 12);
    pub const ICMP_CODE: Self = Self(1 << 13);
    pub const CT: Self = Self(1 << 14);
    pub const CT_MARK: Self = Self(1 << 15);

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Every field there is.
    pub const ALL: Self = Self((1 << 16) - 1);

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The leading `bits` of a MAC; more than 48 are 48.
fn prefix_mac(mac: MacAddr, bits: u8) -> MacAddr {
    let [a, b, c, d, e, f] = mac.0;
    let wide = u64::from_be_bytes([a, b, c, d, e, f, 0, 0]);
    let kept = if bits == 0 {
        0
    } else {
        wide & (u64::MAX << (64 - u32::from(bits.min(48))))
    };
    let [a, b, c, d, e, f, ..] = kept.to_be_bytes();
    MacAddr([a, b, c, d, e, f])
}

/// The leading `bits` of an address; more than 128 are 128.
fn prefix_ip(ip: u128, bits: u8) -> u128 {
    if bits == 0 {
        0
    } else {
        ip & (u128::MAX << (128 - u32::from(bits.min(128))))
    }
}

impl FlowMask {
    /// Every bit matters: what it is put on matches only itself.
    #[must_use]
    pub const fn exact() -> Self {
        Self {
            src_mac: 48,
            dst_mac: 48,
            fields: Fields::ALL,
            src_ip: 128,
            dst_ip: 128,
            src_port: 0xffff,
            dst_port: 0xffff,
        }
    }

    /// How narrow it is: bits that matter, a whole field counted as eight.
    #[must_use]
    pub fn weight(&self) -> u32 {
        let prefixes = [self.src_mac, self.dst_mac, self.src_ip, self.dst_ip];
        let ports = self.src_port.count_ones() + self.dst_port.count_ones();
        prefixes.map(u32::from).iter().sum::<u32>() + ports + 8 * self.fields.0.count_ones()
    }

    /// `key` with every bit that does not matter set to zero.
    #[must_use]
    pub fn apply(&self, key: &FlowKey) -> FlowKey {
        let on = |field| self.fields.has(field);
        let mut out = FlowKey::blank(key.vni);
        out.src_mac = prefix_mac(key.src_mac, self.src_mac);
        out.dst_mac = prefix_mac(key.dst_mac, self.dst_mac);
        out.src_ip = prefix_ip(key.src_ip, self.src_ip);
        out.dst_ip = prefix_ip(key.dst_ip, self.dst_ip);
        out.src_port = key.src_port & self.src_port;
        out.dst_port = key.dst_port & self.dst_port;
        macro_rules! whole {
            ($($field:ident $bit:ident),*) => { $(if on(Fields::$bit) { out.$field = key.$field; })* };
        }
        whole!(ether_type ETHER_TYPE, vlan VLAN, pcp PCP, inner_vlan INNER_VLAN, ip_kind IP_KIND, ip_proto IP_PROTO, dscp DSCP, ecn ECN,
            ttl TTL, frag FRAG, l4_ok L4_OK, tcp_flags TCP_FLAGS, icmp_type ICMP_TYPE, icmp_code ICMP_CODE, ct CT, ct_mark CT_MARK);
        out
    }

    /// What matters to either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self {
            src_mac: self.src_mac.max(other.src_mac),
            dst_mac: self.dst_mac.max(other.dst_mac),
            fields: self.fields.with(other.fields),
            src_ip: self.src_ip.max(other.src_ip),
            dst_ip: self.dst_ip.max(other.dst_ip),
            src_port: self.src_port | other.src_port,
            dst_port: self.dst_port | other.dst_port,
        }
    }

    /// True if whatever matters to `other` matters to this one.
    #[must_use]
    pub fn is_superset(&self, other: &Self) -> bool {
        self.union(other) == *self
    }

    /// This mask with the fields that give meaning to those it has: a port number is one only behind a readable layer 4
    /// header of a certain protocol, an address only behind a certain kind of packet. Out-of-range widths are cut. A mask
    /// that a plugin reported goes through here before anything is matched by it.
    #[must_use]
    pub fn with_prerequisites(&self) -> Self {
        let mut out = Self {
            src_mac: self.src_mac.min(48),
            dst_mac: self.dst_mac.min(48),
            src_ip: self.src_ip.min(128),
            dst_ip: self.dst_ip.min(128),
            fields: Fields(self.fields.0 & Fields::ALL.0),
            ..*self
        };
        let l4 = Fields::TCP_FLAGS
            .with(Fields::ICMP_TYPE)
            .with(Fields::ICMP_CODE)
            .with(Fields::L4_OK);
        if out.src_port != 0 || out.dst_port != 0 || out.fields.meets(l4) {
            out.fields = out
                .fields
                .with(Fields::IP_PROTO)
                .with(Fields::FRAG)
                .with(Fields::L4_OK);
        }
        let l3 = Fields::IP_PROTO
            .with(Fields::DSCP)
            .with(Fields::ECN)
            .with(Fields::TTL)
            .with(Fields::FRAG);
        if out.src_ip != 0 || out.dst_ip != 0 || out.fields.meets(l3) {
            out.fields = out.fields.with(Fields::IP_KIND);
        }
        if out.fields.has(Fields::IP_KIND) {
            out.fields = out.fields.with(Fields::ETHER_TYPE);
        }
        // A PCP of 0 and no tag read alike, and an inner tag exists only behind an outer one.
        if out.fields.meets(Fields::PCP.with(Fields::INNER_VLAN)) {
            out.fields = out.fields.with(Fields::VLAN);
        }
        out
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_mask() -> impl Strategy<Value = FlowMask> {
        (any::<(u8, u8, u32)>(), any::<(u8, u8, u16, u16)>()).prop_map(
            |((src_mac, dst_mac, fields), (src_ip, dst_ip, src_port, dst_port))| FlowMask {
                src_mac,
                dst_mac,
                fields: Fields(fields),
                src_ip,
                dst_ip,
                src_port,
                dst_port,
            },
        )
    }

    pub(crate) fn any_key() -> impl Strategy<Value = FlowKey> {
        let kind = prop_oneof![
            Just(IpKind::None),
            Just(IpKind::V4),
            Just(IpKind::V6),
            Just(IpKind::ArpV4),
            Just(IpKind::NdV6)
        ];
        let frag = prop_oneof![Just(Frag::None), Just(Frag::First), Just(Frag::Later)];
        (
            any::<([u8; 6], [u8; 6], u16, u16, u8, u16)>(),
            any::<(u128, u128, u8, u8, u8, u8)>(),
            any::<(bool, u16, u16, u16, u8, u8, u8, u32)>(),
            kind,
            frag,
        )
            .prop_map(
                |(
                    (src, dst, ether_type, vlan, pcp, inner_vlan),
                    (src_ip, dst_ip, ip_proto, dscp, ecn, ttl),
                    (l4_ok, src_port, dst_port, tcp_flags, icmp_type, icmp_code, ct, ct_mark),
                    ip_kind,
                    frag,
                )| FlowKey {
                    vni: Vni::new(7).unwrap(),
                    src_mac: MacAddr(src),
                    dst_mac: MacAddr(dst),
                    ether_type,
                    vlan,
                    pcp,
                    inner_vlan,
                    ip_kind,
                    src_ip,
                    dst_ip,
                    ip_proto,
                    dscp,
                    ecn,
                    ttl,
                    frag,
                    l4_ok,
                    src_port,
                    dst_port,
                    tcp_flags,
                    icmp_type,
                    icmp_code,
                    ct: CtState(ct & 31),
                    ct_mark,
                },
            )
    }

    proptest! {
        #[test]
        fn a_mask_applied_twice_is_the_mask_applied_once(key in any_key(), mask in any_mask()) {
            let once = mask.apply(&key);
            prop_assert_eq!(mask.apply(&once), once);
        }

        #[test]
        fn keys_equal_under_a_union_are_equal_under_its_parts(a in any_key(), b in any_key(), x in any_mask(), y in any_mask()) {
            let both = x.union(&y);
            let merged = FlowKey { src_mac: b.src_mac, src_ip: b.src_ip, ttl: b.ttl, ..a };
            for key in [a, b, merged] {
                if both.apply(&key) == both.apply(&a) {
                    prop_assert_eq!(x.apply(&key), x.apply(&a));
                    prop_assert_eq!(y.apply(&key), y.apply(&a));
                }
            }
            prop_assert!(both.is_superset(&x) && both.is_superset(&y));
        }

        #[test]
        fn the_exact_mask_changes_nothing_and_the_empty_one_leaves_the_network(key in any_key()) {
            prop_assert_eq!(FlowMask::exact().apply(&key), key);
            prop_assert_eq!(FlowMask::default().apply(&key), FlowKey::blank(key.vni));
        }

        #[test]
        fn prerequisites_only_add_and_are_complete(mask in any_mask()) {
            let full = mask.with_prerequisites();
            prop_assert_eq!(full.with_prerequisites(), full);
            prop_assert!(FlowMask::exact().is_superset(&full));
            if full.dst_port != 0 {
                prop_assert!(full.fields.has(Fields::ETHER_TYPE.with(Fields::IP_KIND).with(Fields::IP_PROTO).with(Fields::FRAG).with(Fields::L4_OK)));
            }
            if full.dst_ip != 0 {
                prop_assert!(full.fields.has(Fields::IP_KIND));
            }
        }
    }
}
