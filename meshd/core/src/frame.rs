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

/// What a packet of neighbour discovery says: ICMPv6 133 to 137.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdMessage {
    /// Are there routers (RFC 4861 §4.1)?
    RouterSolicitation,
    /// "I am a router": default routes, prefixes, name servers (§4.2).
    RouterAdvertisement,
    /// Who has an address (§4.3)?
    Solicitation,
    /// "I have it" (§4.4).
    Advertisement,
    /// "There is a better way than me" (§4.5).
    Redirect,
}

/// A packet of neighbour discovery.
#[derive(Clone, Copy, Debug)]
pub struct Nd<'a> {
    /// Which.
    pub message: NdMessage,
    /// Source of the packet; unspecified in duplicate address detection (RFC 4862).
    pub src: Ipv6Addr,
    /// The address spoken of; unspecified where there is none.
    pub target: Ipv6Addr,
    /// 255, or a router had it in hand and it is void.
    pub hop_limit: u8,
    /// The first of several pieces: void (RFC 6980).
    pub fragment: bool,
    options: &'a [u8],
}

#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[inline]
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

pub mod group;
mod subject;

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
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        Self::read(bytes).ok_or(FrameError { len: bytes.len() })
    }

    #[inline]
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
    #[inline(always)]
    #[must_use]
    pub fn flow_key(&self, vni: Vni) -> FlowKey {
        let mut key = FlowKey::blank(vni);
        key.src_mac = self.src;
        key.dst_mac = self.dst;
        key.ether_type = self.ether_type;
        if let [Some(outer), inner] = self.tags {
            key.vlan = vlan(Some(outer));
            key.pcp = (outer >> 13) as u8;
            key.inner_vlan = vlan(inner);
        }
        if let Some(packet) = self.packet() {
            packet.fill(&mut key);
        } else if let Some(arp) = self.arp() {
            key.ip_kind = IpKind::ArpV4;
            key.src_ip = mapped(arp.sender_ip);
            key.dst_ip = mapped(arp.target_ip);
            // Operations beyond 255 are not in use; they read as 255.
            key.ip_proto = u8::try_from(arp.operation).unwrap_or(u8::MAX);
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

    /// The packet of neighbour discovery, if it is one.
    #[must_use]
    pub fn nd(&self) -> Option<Nd<'a>> {
        let packet = self.packet()?;
        let (message, target) = packet.nd()?;
        // Where the options begin (RFC 4861 §4.1 to §4.5); a message that is cut off before has none.
        let options = match message {
            NdMessage::RouterSolicitation => 8,
            NdMessage::RouterAdvertisement => 16,
            NdMessage::Solicitation | NdMessage::Advertisement => 24,
            NdMessage::Redirect => 40,
        };
        Some(Nd {
            message,
            src: Ipv6Addr::from_bits(packet.src),
            target: target.unwrap_or(Ipv6Addr::UNSPECIFIED),
            hop_limit: packet.ttl,
            fragment: packet.frag != Frag::None,
            options: packet.l4.get(options..).unwrap_or_default(),
        })
    }

    #[inline]
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

/// Past the extension headers behind an IPv6 header: the upper-layer protocol, the fragmentation, and what follows.
fn upper(next: u8, mut rest: &[u8]) -> Option<(u8, Frag, &[u8])> {
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
    Some((protocol, frag, rest))
}

impl<'a> Packet<'a> {
    /// RFC 791 §3.1.
    #[inline]
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
        let (protocol, frag, rest) = upper(next, bytes.get(40..end)?)?;
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

    /// The message of neighbour discovery that it is, and the target if it has one. A solicitation or advertisement that is
    /// cut off before its target says nothing to anybody and is no such message.
    fn nd(&self) -> Option<(NdMessage, Option<Ipv6Addr>)> {
        if self.kind != IpKind::V6 || self.protocol != proto::ICMPV6 || self.frag == Frag::Later {
            return None;
        }
        let target = v6(self.l4, 8);
        match self.l4.first()? {
            133 => Some((NdMessage::RouterSolicitation, None)),
            134 => Some((NdMessage::RouterAdvertisement, None)),
            135 => target.map(|target| (NdMessage::Solicitation, Some(target))),
            136 => target.map(|target| (NdMessage::Advertisement, Some(target))),
            137 => Some((NdMessage::Redirect, target)),
            _ => None,
        }
    }

    #[inline]
    fn fill(&self, key: &mut FlowKey) {
        key.ip_kind = self.kind;
        key.src_ip = self.src;
        key.dst_ip = self.dst;
        key.ip_proto = self.protocol;
        key.dscp = self.traffic_class >> 2;
        key.ecn = self.traffic_class & 3;
        key.ttl = self.ttl;
        key.frag = self.frag;
        if let Some((_, target)) = self.nd() {
            key.ip_kind = IpKind::NdV6;
            if let Some(target) = target {
                key.dst_ip = target.to_bits();
            }
        }
        if self.frag != Frag::Later {
            key.l4_ok = self.fill_l4(key).is_some();
        }
    }

    /// Sets all of a header's fields, or none.
    #[inline]
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::flow::FlowMask;
    use etherparse::{
        LinkExtSlice, LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    };
    use proptest::prelude::*;

    fn vni() -> Vni {
        Vni::new(7).unwrap()
    }

    fn key_of(bytes: &[u8]) -> FlowKey {
        Frame::parse(bytes).unwrap().flow_key(vni())
    }

    /// An ARP packet in a frame.
    pub(crate) fn arp(
        dst: MacAddr,
        src: MacAddr,
        operation: u16,
        sender_mac: MacAddr,
        sender: [u8; 4],
        target: [u8; 4],
    ) -> Vec<u8> {
        let head = [
            &dst.0[..],
            &src.0,
            &[8, 6, 0, 1, 8, 0, 6, 4],
            &operation.to_be_bytes(),
        ]
        .concat();
        [&head[..], &sender_mac.0, &sender, &[0; 6], &target].concat()
    }

    /// UDP over IPv4 in a frame.
    pub(crate) fn udp(
        dst: MacAddr,
        src: MacAddr,
        from: [u8; 4],
        to: [u8; 4],
        dst_port: u16,
        payload: usize,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        PacketBuilder::ethernet2(src.0, dst.0)
            .ipv4(from, to, 64)
            .udp(4000, dst_port)
            .write(&mut out, &vec![0; payload])
            .unwrap();
        out
    }

    /// IPv6 in a frame: `next` header and what follows the fixed header.
    pub(crate) fn v6(
        dst: MacAddr,
        src: MacAddr,
        from: Ipv6Addr,
        to: Ipv6Addr,
        next: u8,
        hop_limit: u8,
        rest: &[u8],
    ) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        [
            &dst.0[..],
            &src.0,
            &[0x86, 0xdd, 0x60, 0, 0, 0],
            &len,
            &[next, hop_limit],
            &from.octets(),
            &to.octets(),
            rest,
        ]
        .concat()
    }

    #[derive(Clone, Debug)]
    struct Built {
        bytes: Vec<u8>,
    }

    prop_compose! {
        /// A well-formed packet, as etherparse writes it.
        fn any_packet()(
            (src, dst, v4, a, b) in any::<([u8; 6], [u8; 6], bool, u128, u128)>(),
            (tags, tci, l4, ttl) in (0..3u8, 0..4096u16, 0..5u8, any::<u8>()),
            (p, q, flags) in any::<(u16, u16, u8)>(),
            payload in proptest::collection::vec(any::<u8>(), 0..60),
        ) -> Built {
            let ethernet = PacketBuilder::ethernet2(src, dst);
            let (short_a, short_b) = (a as u32, b as u32);
            let vlan = |tci: u16| tci.try_into().unwrap();
            let ip = match (tags, v4) {
                (0, true) => ethernet.ipv4(short_a.to_be_bytes(), short_b.to_be_bytes(), ttl),
                (0, false) => ethernet.ipv6(a.to_be_bytes(), b.to_be_bytes(), ttl),
                (1, true) => ethernet.single_vlan(vlan(tci)).ipv4(short_a.to_be_bytes(), short_b.to_be_bytes(), ttl),
                (1, false) => ethernet.single_vlan(vlan(tci)).ipv6(a.to_be_bytes(), b.to_be_bytes(), ttl),
                (_, true) => ethernet.double_vlan(vlan(tci), vlan(5)).ipv4(short_a.to_be_bytes(), short_b.to_be_bytes(), ttl),
                (_, false) => ethernet.double_vlan(vlan(tci), vlan(5)).ipv6(a.to_be_bytes(), b.to_be_bytes(), ttl),
            };
            let mut bytes = Vec::new();
            match l4 {
                0 => ip.udp(p, q).write(&mut bytes, &payload).unwrap(),
                1 | 2 => {
                    let mut tcp = ip.tcp(p, q, 1, 2);
                    if flags & 1 > 0 { tcp = tcp.syn(); }
                    if flags & 2 > 0 { tcp = tcp.ack(7); }
                    if flags & 4 > 0 { tcp = tcp.fin(); }
                    if flags & 8 > 0 { tcp = tcp.rst(); }
                    if flags & 16 > 0 { tcp = tcp.ns(); }
                    tcp.write(&mut bytes, &payload).unwrap();
                }
                3 if v4 => ip.icmpv4_raw(flags, 3, [0; 4]).write(&mut bytes, &payload).unwrap(),
                _ if v4 => ip.udp(q, p).write(&mut bytes, &payload).unwrap(),
                _ => ip.icmpv6_raw(flags, 3, [0; 4]).write(&mut bytes, &payload).unwrap(),
            }
            Built { bytes }
        }
    }

    /// The key of a packet that etherparse can read.
    fn oracle(bytes: &[u8]) -> Option<FlowKey> {
        let sliced = SlicedPacket::from_ethernet(bytes).ok()?;
        let Some(LinkSlice::Ethernet2(link)) = sliced.link else {
            return None;
        };
        let mut key = FlowKey::blank(vni());
        key.src_mac = MacAddr(link.source());
        key.dst_mac = MacAddr(link.destination());
        key.ether_type = link.ether_type().0;
        let mut tags = Vec::new();
        for ext in &sliced.link_exts {
            let LinkExtSlice::Vlan(tag) = ext else {
                return None;
            };
            tags.push(0x1000 | tag.vlan_identifier().value());
            if tags.len() == 1 {
                key.pcp = tag.priority_code_point().value();
            }
            key.ether_type = tag.ether_type().0;
        }
        key.vlan = tags.first().copied().unwrap_or(0);
        key.inner_vlan = tags.get(1).copied().unwrap_or(0);
        if tags.len() > 2 {
            return None;
        }
        match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                key.ip_kind = IpKind::V4;
                key.src_ip = mapped(header.source_addr());
                key.dst_ip = mapped(header.destination_addr());
                key.ttl = header.ttl();
                key.ip_proto = header.protocol().0;
                key.dscp = header.dcp().value();
                key.ecn = header.ecn().value();
                key.frag = match (header.fragments_offset().value(), header.more_fragments()) {
                    (0, false) => Frag::None,
                    (0, true) => Frag::First,
                    _ => Frag::Later,
                };
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                key.ip_kind = IpKind::V6;
                key.src_ip = header.source_addr().to_bits();
                key.dst_ip = header.destination_addr().to_bits();
                key.ttl = header.hop_limit();
                key.ip_proto = ip.payload().ip_number.0;
                key.dscp = header.traffic_class() >> 2;
                key.ecn = header.traffic_class() & 3;
            }
            _ => return None,
        }
        match sliced.transport {
            Some(TransportSlice::Udp(udp)) => {
                (key.l4_ok, key.src_port, key.dst_port) =
                    (true, udp.source_port(), udp.destination_port());
            }
            Some(TransportSlice::Tcp(tcp)) => {
                (key.l4_ok, key.src_port, key.dst_port) =
                    (true, tcp.source_port(), tcp.destination_port());
                let bits = [
                    tcp.fin(),
                    tcp.syn(),
                    tcp.rst(),
                    tcp.psh(),
                    tcp.ack(),
                    tcp.urg(),
                    tcp.ece(),
                    tcp.cwr(),
                    tcp.ns(),
                ];
                key.tcp_flags = bits
                    .iter()
                    .enumerate()
                    .map(|(i, &on)| u16::from(on) << i)
                    .sum();
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                (key.l4_ok, key.icmp_type, key.icmp_code) = (true, icmp.type_u8(), icmp.code_u8());
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                (key.l4_ok, key.icmp_type, key.icmp_code) = (true, icmp.type_u8(), icmp.code_u8());
                let payload = icmp.payload();
                let target = payload.get(..16).map(|bytes| bytes.try_into().unwrap());
                match (icmp.type_u8(), target) {
                    (135..=137, Some(target)) => {
                        key.ip_kind = IpKind::NdV6;
                        key.dst_ip = u128::from_be_bytes(target);
                    }
                    (133 | 134 | 137, _) => key.ip_kind = IpKind::NdV6,
                    _ => {}
                }
            }
            _ => return None,
        }
        Some(key)
    }

    proptest! {
        #[test]
        fn a_packet_reads_as_etherparse_reads_it(packet in any_packet()) {
            let key = key_of(&packet.bytes);
            prop_assert_eq!(Some(key), oracle(&packet.bytes));
            prop_assert!(!Frame::parse(&packet.bytes).unwrap().is_malformed());
        }

        #[test]
        fn a_damaged_packet_that_etherparse_still_reads_reads_the_same(packet in any_packet(), at in any::<prop::sample::Index>(), value: u8) {
            let mut bytes = packet.bytes;
            let at = at.index(bytes.len());
            bytes[at] = value;
            // Tags of 802.1Q before it was one, which etherparse knows and the kernel does not (`eth_type_vlan`).
            prop_assume!(key_of(&bytes).ether_type != 0x9100);
            if let Some(expected) = oracle(&bytes)
                && expected.ip_kind != IpKind::None
                && matches!((expected.ip_kind, expected.ip_proto), (IpKind::V4, 1 | 6 | 17) | (IpKind::V6 | IpKind::NdV6, 6 | 17 | 58))
                && !Frame::parse(&bytes).unwrap().is_malformed()
            {
                prop_assert_eq!(key_of(&bytes), expected);
            }
        }

        #[test]
        fn a_cut_packet_reads_without_panic_and_keeps_its_addresses(packet in any_packet(), at in any::<prop::sample::Index>()) {
            let cut = &packet.bytes[..at.index(packet.bytes.len())];
            match Frame::parse(cut) {
                Err(error) => prop_assert_eq!(error.len, cut.len()),
                Ok(frame) => {
                    prop_assert!(frame.is_malformed(), "less than its header promises");
                    let dst = frame.flow_key(vni()).dst_mac;
                    prop_assert_eq!(&dst.0[..], &packet.bytes[..6]);
                }
            }
        }

        #[test]
        fn any_bytes_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), ether_type in prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x0806), Just(0x8100)]) {
            let mut bytes = bytes;
            if let Some(place) = bytes.get_mut(12..14) {
                place.copy_from_slice(&ether_type.to_be_bytes());
            }
            if let Ok(frame) = Frame::parse(&bytes) {
                let key = frame.flow_key(vni());
                prop_assert_eq!(FlowMask::exact().apply(&key), key);
                prop_assert!(key.l4_ok || (key.src_port, key.dst_port, key.tcp_flags, key.icmp_type, key.icmp_code) == (0, 0, 0, 0, 0));
                let _ = (frame.is_malformed(), frame.nd().map(|nd| nd.speaks_for(frame.src())));
            }
        }
    }

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

    #[test]
    fn thirteen_bytes_are_no_frame_and_fourteen_are() {
        assert_eq!(Frame::parse(&[0; 13]).unwrap_err(), FrameError { len: 13 });
        assert!(!Frame::parse(&[0; 14]).unwrap().is_malformed());
    }

    #[test]
    fn ip_that_contradicts_the_frames_length_is_malformed_and_leaves_no_address() {
        let good = udp(B, A, [10, 0, 0, 1], [10, 0, 0, 2], 53, 8);
        for (at, value) in [(14, 0x44), (14, 0x55), (16, 0xff), (17, 19)] {
            let mut bad = good.clone();
            bad[at] = value;
            let frame = Frame::parse(&bad).unwrap();
            assert!(frame.is_malformed(), "byte {at}");
            assert_eq!(
                (key_of(&bad).ip_kind, key_of(&bad).src_ip),
                (IpKind::None, 0)
            );
        }
    }

    #[test]
    fn padding_behind_the_packet_is_not_read_as_layer_4() {
        let mut frame = udp(B, A, [10, 0, 0, 1], [10, 0, 0, 2], 53, 0);
        frame[17] = 24; // header and 4 bytes: no whole UDP header
        frame.extend([0; 20]);
        let key = key_of(&frame);
        assert_eq!(
            (key.ip_kind, key.l4_ok, key.dst_port),
            (IpKind::V4, false, 0)
        );
    }

    #[test]
    fn only_the_first_fragment_has_ports() {
        let mut frame = udp(B, A, [10, 0, 0, 1], [10, 0, 0, 2], 53, 8);
        frame[20] = 0x20;
        assert_eq!(
            (
                key_of(&frame).frag,
                key_of(&frame).l4_ok,
                key_of(&frame).dst_port
            ),
            (Frag::First, true, 53)
        );
        frame[21] = 1;
        assert_eq!(
            (
                key_of(&frame).frag,
                key_of(&frame).l4_ok,
                key_of(&frame).dst_port
            ),
            (Frag::Later, false, 0)
        );
    }

    #[test]
    fn ports_are_found_behind_eight_extension_headers_and_a_ninth_is_malformed() {
        let udp = [0, 7, 0, 9, 0, 8, 0, 0];
        for count in [0, 1, 8, 9] {
            let mut rest = Vec::new();
            for left in (0..count).rev() {
                rest.extend([if left == 0 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
            }
            rest.extend(udp);
            let frame = v6(
                B,
                A,
                Ipv6Addr::LOCALHOST,
                Ipv6Addr::LOCALHOST,
                if count == 0 { 17 } else { 60 },
                64,
                &rest,
            );
            let key = key_of(&frame);
            assert_eq!(Frame::parse(&frame).unwrap().is_malformed(), count == 9);
            assert_eq!(
                key.dst_port,
                if count == 9 { 0 } else { 9 },
                "{count} headers"
            );
        }
    }

    #[test]
    fn neighbour_discovery_is_found_behind_extension_headers_and_an_atomic_fragment_header() {
        let target: Ipv6Addr = "fd00::5".parse().unwrap();
        let ns = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
        let behind = |ext: &[u8]| [ext, &ns[..]].concat();
        let from = "fd00::1".parse().unwrap();
        for (next, rest) in [
            (58, ns.clone()),
            (60, behind(&[58, 0, 1, 4, 0, 0, 0, 0])),
            (44, behind(&[58, 0, 0, 0, 0, 0, 0, 1])),
        ] {
            let key = key_of(&v6(B, A, from, target, next, 255, &rest));
            assert_eq!(
                (key.ip_kind, key.dst_ip, key.icmp_type),
                (IpKind::NdV6, target.to_bits(), 135)
            );
        }
    }

    #[test]
    fn what_routers_say_is_neighbour_discovery_also_cut_off_or_in_the_first_of_several_fragments() {
        let (from, to) = ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap());
        let first = [58, 0, 0, 1, 0, 0, 0, 1];
        for (kind, message) in [
            (133, NdMessage::RouterSolicitation),
            (134, NdMessage::RouterAdvertisement),
            (137, NdMessage::Redirect),
        ] {
            for body in [&[kind][..], &[kind, 0, 0, 0, 0, 0, 0, 0]] {
                for (next, rest) in [(58, body.to_vec()), (44, [&first, body].concat())] {
                    let bytes = v6(B, A, from, to, next, 255, &rest);
                    assert_eq!(key_of(&bytes).ip_kind, IpKind::NdV6);
                    let nd = Frame::parse(&bytes).unwrap().nd().unwrap();
                    assert_eq!((nd.message, nd.fragment), (message, next == 44));
                }
            }
        }
    }

    #[test]
    fn a_third_tag_and_a_tag_cut_short_are_malformed() {
        let tag = [0x81, 0x00, 0x00, 0x00];
        let start = [&B.0[..], &A.0].concat();
        assert!(
            Frame::parse(&[&start[..], &tag, &tag, &tag, &[8, 6]].concat())
                .unwrap()
                .is_malformed()
        );
        assert!(
            Frame::parse(&[&start[..], &[0x81, 0x00, 0x00]].concat())
                .unwrap()
                .is_malformed()
        );
        let priority = [&start[..], &tag, &[0x12, 0x34]].concat();
        let frame = Frame::parse(&priority).unwrap();
        assert!(!frame.is_malformed() && !frame.has_vlan());
        assert_eq!(frame.flow_key(vni()).vlan, 0x1000);
    }
}
