//! Borrowed views of an Ethernet frame: tags, ARP, IPv4, IPv6, ND, TCP, UDP, SCTP, ICMP.
//!
//! ```text
//!   | dst 6 | src 6 | (TPID 2 | TCI 2) x 0..2 | EtherType 2 | payload
//!                                                            ^ l3: ARP | IPv4 + options | IPv6 + up to 8 extensions | other
//! ```
//!
//! Owns what a byte of a container's frame means. Refuses only what has no Ethernet header; all else parses, and what cannot
//! be read leaves zeros in the key. Work is bounded by the number of headers, never by a length that a frame claims, and no
//! byte is reached by index. An IP header that contradicts the frame's length leaves [`IpKind::None`] behind the EtherType
//! of IP: [`Frame::is_malformed`].

use crate::flow::{FlowKey, Frag, IpKind};
use crate::ident::{MacAddr, Vni};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of an untagged Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// EtherType of IPv4.
pub const ETHER_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHER_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHER_IPV6: u16 = 0x86dd;
/// 802.1Q tag.
const TPID_CUSTOMER: u16 = 0x8100;
/// 802.1ad tag.
const TPID_SERVICE: u16 = 0x88a8;
/// IPv6 extension headers that are followed; a packet with more counts as malformed.
const EXTENSIONS_MAX: usize = 8;
/// ND options that are looked at.
const ND_OPTIONS_MAX: usize = 16;

/// IP protocol numbers (IANA).
mod proto {
    pub(super) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const SCTP: u8 = 132;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// A frame whose Ethernet header is there.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    /// Source.
    src: MacAddr,
    /// Destination.
    dst: MacAddr,
    ether_type: u16,
    /// Tag control information of the outer and the inner tag.
    tags: [Option<u16>; 2],
    /// Behind the Ethernet header.
    l3: &'a [u8],
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes are no Ethernet frame: its header alone has 14")]
pub struct FrameError {
    /// What there was.
    pub len: usize,
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1: request, 2: reply.
    pub operation: u16,
    /// Who says it is the sender.
    pub sender_mac: MacAddr,
    /// Which address the sender claims; zero in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// Whose.
    pub target_ip: Ipv4Addr,
}

/// A neighbour solicitation or advertisement (RFC 4861 §4.3, §4.4).
#[derive(Clone, Copy, Debug)]
pub struct Nd<'a> {
    /// Solicitation, else advertisement.
    pub solicitation: bool,
    /// Source of the packet; unspecified in duplicate address detection (RFC 4862).
    pub src: Ipv6Addr,
    /// The address spoken of.
    pub target: Ipv6Addr,
    /// 255, or a router had it in hand and it is void.
    pub hop_limit: u8,
    options: &'a [u8],
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn v6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    array::<16>(bytes, at).map(Ipv6Addr::from)
}

fn mapped(ip: Ipv4Addr) -> u128 {
    ip.to_ipv6_mapped().to_bits()
}

/// `0x1000 | VID` of a tag, 0 of none.
fn vlan(tag: Option<u16>) -> u16 {
    tag.map_or(0, |tci| 0x1000 | (tci & 0x0fff))
}

/// An IPv4 or IPv6 packet whose lengths hold, up to its layer 4.
struct Packet<'a> {
    kind: IpKind,
    src: u128,
    dst: u128,
    protocol: u8,
    traffic_class: u8,
    ttl: u8,
    frag: Frag,
    /// Not beyond the length that the packet states.
    l4: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the Ethernet header.
    ///
    /// # Errors
    /// If `bytes` are fewer than 14. Whatever else is wrong shows in the key.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        Self::read(bytes).ok_or(FrameError { len: bytes.len() })
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let dst = MacAddr(array(bytes, 0)?);
        let src = MacAddr(array(bytes, 6)?);
        let (mut ether_type, mut at) = (be16(bytes, 12)?, ETHERNET_LEN);
        let mut tags = [None; 2];
        for tag in &mut tags {
            if !is_tpid(ether_type) {
                break;
            }
            // A tag that is cut short stays an EtherType, and is_malformed says so.
            let (Some(tci), Some(next)) = (be16(bytes, at), be16(bytes, at + 2)) else {
                break;
            };
            (*tag, ether_type) = (Some(tci), next);
            at += 4;
        }
        Some(Self {
            bytes,
            src,
            dst,
            ether_type,
            tags,
            l3: bytes.get(at..)?,
        })
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Source.
    #[must_use]
    pub fn src(&self) -> MacAddr {
        self.src
    }

    /// Destination.
    #[must_use]
    pub fn dst(&self) -> MacAddr {
        self.dst
    }

    /// True if a tag gives the frame a VLAN of its own; VID 0 is priority alone (802.1Q §9.6) and hosts take it off.
    #[must_use]
    pub fn has_vlan(&self) -> bool {
        self.tags.iter().flatten().any(|tci| tci & 0x0fff != 0)
    }

    /// The key of this frame on network `vni`.
    #[must_use]
    pub fn flow_key(&self, vni: Vni) -> FlowKey {
        let [outer, inner] = self.tags;
        let mut key = FlowKey::blank(vni);
        key.src_mac = self.src;
        key.dst_mac = self.dst;
        key.ether_type = self.ether_type;
        key.vlan = vlan(outer);
        key.pcp = outer.map_or(0, |tci| (tci >> 13) as u8);
        key.inner_vlan = vlan(inner);
        if let Some(arp) = self.arp() {
            key.ip_kind = IpKind::ArpV4;
            key.src_ip = mapped(arp.sender_ip);
            key.dst_ip = mapped(arp.target_ip);
            // Operations beyond 255 are not in use; they read as 255.
            key.ip_proto = u8::try_from(arp.operation).unwrap_or(u8::MAX);
        } else if let Some(packet) = self.packet() {
            packet.fill(&mut key);
        }
        key
    }

    /// True if headers contradict the frame's length, are cut short, or are more than anybody sends: IP that does not parse,
    /// ARP for other than IPv4 over Ethernet, a third tag. Hosts drop most of these; those that they do not drop could hide
    /// from a policy.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        match self.ether_type {
            TPID_CUSTOMER | TPID_SERVICE => true,
            ETHER_ARP => self.arp().is_none(),
            ETHER_IPV4 | ETHER_IPV6 => self.packet().is_none(),
            _ => false,
        }
    }

    /// The ARP packet, if it is one for IPv4 over Ethernet.
    #[must_use]
    pub fn arp(&self) -> Option<Arp> {
        // Hardware type 1, protocol 0x0800, lengths 6 and 4.
        if self.ether_type != ETHER_ARP || array(self.l3, 0)? != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let target_ip = Ipv4Addr::from(array::<4>(self.l3, 24)?);
        Some(Arp {
            operation: be16(self.l3, 6)?,
            sender_mac: MacAddr(array(self.l3, 8)?),
            sender_ip: Ipv4Addr::from(array::<4>(self.l3, 14)?),
            target_ip,
        })
    }

    /// The neighbour solicitation or advertisement, if it is one.
    #[must_use]
    pub fn nd(&self) -> Option<Nd<'a>> {
        let packet = self.packet()?;
        let target = packet.nd_target()?;
        Some(Nd {
            solicitation: packet.l4.first() == Some(&135),
            src: Ipv6Addr::from_bits(packet.src),
            target,
            hop_limit: packet.ttl,
            options: packet.l4.get(24..)?,
        })
    }

    fn packet(&self) -> Option<Packet<'a>> {
        match self.ether_type {
            ETHER_IPV4 => Packet::v4(self.l3),
            ETHER_IPV6 => Packet::v6(self.l3),
            _ => None,
        }
    }
}

fn is_tpid(ether_type: u16) -> bool {
    matches!(ether_type, TPID_CUSTOMER | TPID_SERVICE)
}

impl<'a> Packet<'a> {
    /// RFC 791 §3.1.
    fn v4(bytes: &'a [u8]) -> Option<Self> {
        let header: [u8; 20] = array(bytes, 0)?;
        let [
            first,
            tos,
            len_hi,
            len_lo,
            _,
            _,
            frag_hi,
            frag_lo,
            ttl,
            protocol,
            ..,
        ] = header;
        let header_len = usize::from(first & 15) * 4;
        let total = usize::from(u16::from_be_bytes([len_hi, len_lo]));
        if first >> 4 != 4 || header_len < 20 || total < header_len {
            return None;
        }
        let l4 = bytes.get(..total)?.get(header_len..)?;
        let fragment = u16::from_be_bytes([frag_hi, frag_lo]);
        let frag = match (fragment & 0x1fff, fragment & 0x2000) {
            (0, 0) => Frag::None,
            (0, _) => Frag::First,
            _ => Frag::Later,
        };
        let src = mapped(Ipv4Addr::from(array::<4>(&header, 12)?));
        let dst = mapped(Ipv4Addr::from(array::<4>(&header, 16)?));
        Some(Self {
            kind: IpKind::V4,
            src,
            dst,
            protocol,
            traffic_class: tos,
            ttl,
            frag,
            l4,
        })
    }

    /// RFC 8200 §3 and §4.
    fn v6(bytes: &'a [u8]) -> Option<Self> {
        let [a, b, _, _, len_hi, len_lo, next, ttl]: [u8; 8] = array(bytes, 0)?;
        if a >> 4 != 6 {
            return None;
        }
        let end = usize::from(u16::from_be_bytes([len_hi, len_lo])).checked_add(40)?;
        let mut rest = bytes.get(40..end)?;
        let (mut protocol, mut frag) = (next, Frag::None);
        for extensions in 0.. {
            let len = match protocol {
                proto::HOP_BY_HOP | proto::ROUTING | proto::DESTINATION => {
                    usize::from(*rest.get(1)?) * 8 + 8
                }
                proto::AUTHENTICATION => usize::from(*rest.get(1)?) * 4 + 8,
                proto::FRAGMENT => 8,
                _ => break,
            };
            if extensions == EXTENSIONS_MAX {
                return None;
            }
            if protocol == proto::FRAGMENT {
                let fragment = be16(rest, 2)?;
                match (fragment & 0xfff8, fragment & 1) {
                    // Atomic: a fragment header and no fragment (RFC 6946).
                    (0, 0) => {}
                    (0, _) => frag = Frag::First,
                    _ => frag = Frag::Later,
                }
            }
            protocol = *rest.first()?;
            rest = rest.get(len..)?;
            if frag == Frag::Later {
                break;
            }
        }
        Some(Self {
            kind: IpKind::V6,
            src: v6(bytes, 8)?.to_bits(),
            dst: v6(bytes, 24)?.to_bits(),
            protocol,
            traffic_class: a << 4 | b >> 4,
            ttl,
            frag,
            l4: rest,
        })
    }

    /// The target of a solicitation or advertisement. One in fragments is void (RFC 6980).
    fn nd_target(&self) -> Option<Ipv6Addr> {
        let fits =
            self.kind == IpKind::V6 && self.protocol == proto::ICMPV6 && self.frag == Frag::None;
        if fits && matches!(self.l4.first()?, 135 | 136) {
            v6(self.l4, 8)
        } else {
            None
        }
    }

    fn fill(&self, key: &mut FlowKey) {
        key.ip_kind = self.kind;
        key.src_ip = self.src;
        key.dst_ip = self.dst;
        key.ip_proto = self.protocol;
        key.dscp = self.traffic_class >> 2;
        key.ecn = self.traffic_class & 3;
        key.ttl = self.ttl;
        key.frag = self.frag;
        if let Some(target) = self.nd_target() {
            key.ip_kind = IpKind::NdV6;
            key.dst_ip = target.to_bits();
        }
        if self.frag != Frag::Later {
            key.l4_ok = self.fill_l4(key).is_some();
        }
    }

    /// Sets all of a header's fields, or none.
    fn fill_l4(&self, key: &mut FlowKey) -> Option<()> {
        let ports = |least| {
            self.l4.get(..least)?;
            Some((be16(self.l4, 0)?, be16(self.l4, 2)?))
        };
        match (self.kind, self.protocol) {
            (_, proto::TCP) => {
                (key.src_port, key.dst_port) = ports(20)?;
                key.tcp_flags = be16(self.l4, 12)? & 0x01ff;
            }
            (_, proto::UDP) => (key.src_port, key.dst_port) = ports(8)?,
            (_, proto::SCTP) => (key.src_port, key.dst_port) = ports(12)?,
            (IpKind::V4, proto::ICMP) | (IpKind::V6, proto::ICMPV6) => {
                self.l4.get(..8)?;
                [key.icmp_type, key.icmp_code] = array(self.l4, 0)?;
            }
            _ => return None,
        }
        Some(())
    }
}

impl Nd<'_> {
    /// True if no link-layer address option (RFC 4861 §4.6.1) names another address than `mac`, and the options can be read.
    #[must_use]
    pub fn speaks_for(&self, mac: MacAddr) -> bool {
        let mut rest = self.options;
        for _ in 0..ND_OPTIONS_MAX {
            let Some(&kind) = rest.first() else {
                return true;
            };
            let len = rest.get(1).map_or(0, |&units| usize::from(units) * 8);
            let Some(option) = rest.get(..len).filter(|o| !o.is_empty()) else {
                return false;
            };
            if matches!(kind, 1 | 2) && array(option, 2) != Some(mac.0) {
                return false;
            }
            rest = rest.get(len..).unwrap_or_default();
        }
        rest.is_empty()
    }
}
