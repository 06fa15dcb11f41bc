//! Flow key and mask: what a ruling was made from, and what of it mattered.
//!
//! ```text
//!   frame --FlowKey::of--> key          megaflow = (key & mask) -> ruling
//! ```
//!
//! Owns the key's fields, the masks over them and the rule that a field may only be matched together with the fields that
//! give it meaning. Knows no table.

use crate::frame::Frame;
use crate::ident::{MacAddr, NodeId, PortId, Vni};
use serde::{Deserialize, Serialize};

/// Where a frame came from: a port of this node, or a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A container, VM or uplink of this node.
    Port(PortId),
    /// Another node, over its session.
    Peer(NodeId),
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
    /// The key of `frame` on network `vni`.
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

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
