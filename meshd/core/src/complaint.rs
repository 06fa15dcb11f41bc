//! What a router or firewall would say to a packet that does not go on: ICMP "fragmentation needed" (RFC 792, RFC 1191) and
//! "administratively prohibited" (RFC 1812 §5.2.7.1), ICMPv6 "packet too big" and "administratively prohibited" (RFC 4443
//! §3.1, §3.2), and TCP's reset (RFC 9293 §3.10.7.1).
//!
//! Owns the words. A segment has no routers, but a container whose interface was given a larger MTU than the network's would
//! wait forever for packets that nobody delivers, and one whose connection policy refuses would try for minutes; told so, it
//! knows. Refuses to answer what must not be answered: groups, fragments but the first, other errors and resets (RFC 1122
//! §3.2.2, RFC 4443 §2.4).

use crate::frame::{ETHER_IPV4, ETHER_IPV6};
use crate::ident::MacAddr;
use bytes::{BufMut, Bytes, BytesMut};
use std::net::IpAddr;

/// Bytes of the packet that an ICMP error quotes at most, so that the error itself is no large packet (RFC 1812 §4.3.2.3).
const QUOTE4_MAX: usize = 548;
/// The same for IPv6: the error has 1280 bytes at most.
const QUOTE6_MAX: usize = 1280 - 48;
const TCP: u8 = 6;
/// IEEE 802.1Q.
const ETHER_VLAN: u16 = 0x8100;
const ETHER_QINQ: u16 = 0x88a8;

/// Who speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaker<'a> {
    /// Source MAC.
    pub(crate) mac: MacAddr,
    /// Its addresses; without one of the packet's family the packet's own destination speaks.
    pub(crate) ips: &'a [IpAddr],
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk::<2>()
        .map(|b| u16::from_be_bytes(*b))
}

/// RFC 1071, over bytes that may be of odd length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            let (high, low) = (pair.first().copied(), pair.get(1).copied());
            sum += u32::from(high.unwrap_or(0)) << 8 | u32::from(low.unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Complaint {
    /// It is longer than this, in bytes.
    TooBig(u16),
    /// Policy refuses it.
    Prohibited,
}

impl Complaint {
    /// Type, code and the last four bytes of the head, of ICMP.
    fn head4(self) -> [u8; 8] {
        match self {
            Self::TooBig(mtu) => {
                let [high, low] = mtu.to_be_bytes();
                [3, 4, 0, 0, 0, 0, high, low]
            }
            Self::Prohibited => [3, 13, 0, 0, 0, 0, 0, 0],
        }
    }

    /// The same, of ICMPv6.
    fn head6(self) -> [u8; 8] {
        match self {
            Self::TooBig(mtu) => {
                let [high, low] = mtu.to_be_bytes();
                [2, 0, 0, 0, 0, 0, high, low]
            }
            Self::Prohibited => [1, 1, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// The complaint about a frame, as a frame for who sent it, under the same tags; `None` if none is due. The frame may be cut
/// short.
pub(crate) fn reply(frame: &[u8], complaint: Complaint, speaker: Speaker<'_>) -> Option<Bytes> {
    let asker = MacAddr(*frame.get(6..)?.first_chunk::<6>()?);
    let dst = MacAddr(*frame.first_chunk::<6>()?);
    if dst.is_group() || !asker.is_source() {
        return None;
    }
    let mut at = 12;
    while matches!(be16(frame, at)?, ETHER_VLAN | ETHER_QINQ) && at < 20 {
        at += 4;
    }
    let packet = frame.get(at + 2..)?;
    let mut out = BytesMut::with_capacity(1300);
    out.put_slice(&asker.0);
    out.put_slice(&speaker.mac.0);
    out.put_slice(frame.get(12..at)?);
    let prohibited = matches!(complaint, Complaint::Prohibited);
    match be16(frame, at)? {
        ETHER_IPV4 if prohibited && packet.get(9) == Some(&TCP) => reset4(packet, &mut out)?,
        ETHER_IPV6 if prohibited && packet.get(6) == Some(&TCP) => reset6(packet, &mut out)?,
        ETHER_IPV4 => v4(packet, complaint, speaker, &mut out)?,
        ETHER_IPV6 => v6(packet, complaint, speaker, &mut out)?,
        _ => return None,
    }
    Some(out.freeze())
}

/// The head of an answer of `len` bytes in IPv4, from `src` to `dst`, with its checksum.
fn head4(len: usize, protocol: u8, src: [u8; 4], dst: [u8; 4]) -> Option<[u8; 20]> {
    let [high, low] = u16::try_from(20 + len).ok()?.to_be_bytes();
    let mut head = [
        0x45, 0xc0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    head[12..16].copy_from_slice(&src);
    head[16..].copy_from_slice(&dst);
    let sum = checksum(&[&head]);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(head)
}

fn reset4(packet: &[u8], out: &mut BytesMut) -> Option<()> {
    let first = *packet.first()?;
    let header = usize::from(first & 15) * 4;
    let later = be16(packet, 6)? & 0x1fff != 0;
    let src = *packet.get(12..)?.first_chunk::<4>()?;
    let dst = *packet.get(16..)?.first_chunk::<4>()?;
    if first >> 4 != 4 || header < 20 || later || src[0] >= 224 || dst[0] >= 224 {
        return None;
    }
    let len = usize::from(be16(packet, 2)?).checked_sub(header)?;
    let segment = reset(packet.get(header..)?, len, &[&dst, &src, &[0, TCP, 0, 20]])?;
    out.put_u16(ETHER_IPV4);
    out.put_slice(&head4(segment.len(), TCP, dst, src)?);
    out.put_slice(&segment);
    Some(())
}

fn reset6(packet: &[u8], out: &mut BytesMut) -> Option<()> {
    let src = *packet.get(8..)?.first_chunk::<16>()?;
    let dst = *packet.get(24..)?.first_chunk::<16>()?;
    if packet.first()? >> 4 != 6 || src[0] == 0xff || src == [0; 16] {
        return None;
    }
    let len = usize::from(be16(packet, 4)?);
    let pseudo = [0, 0, 0, 20, 0, 0, 0, TCP];
    let segment = reset(packet.get(40..)?, len, &[&dst, &src, &pseudo])?;
    out.put_u16(ETHER_IPV6);
    out.put_slice(&[0x60, 0, 0, 0, 0, 20, TCP, 64]);
    out.put_slice(&dst);
    out.put_slice(&src);
    out.put_slice(&segment);
    Some(())
}

/// The reset for a segment of `len` bytes, header and payload. Resets are not answered.
fn reset(segment: &[u8], len: usize, pseudo: &[&[u8]; 3]) -> Option<[u8; 20]> {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let head = segment.first_chunk::<20>()?;
    let word = |at: usize| Some(u32::from_be_bytes(*head.get(at..)?.first_chunk::<4>()?));
    let (flags, offset) = (head[13], usize::from(head[12] >> 4) * 4);
    if flags & RST != 0 || offset < 20 {
        return None;
    }
    let (seq, ack, flags) = if flags & ACK != 0 {
        (word(8)?, 0, RST)
    } else {
        let payload = u32::try_from(len.checked_sub(offset)?).ok()?;
        let ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let end = word(4)?.wrapping_add(payload).wrapping_add(ends);
        (0, end, RST | ACK)
    };
    let mut out = [0; 20];
    out[..2].copy_from_slice(&head[2..4]);
    out[2..4].copy_from_slice(&head[..2]);
    out[4..8].copy_from_slice(&seq.to_be_bytes());
    out[8..12].copy_from_slice(&ack.to_be_bytes());
    (out[12], out[13]) = (5 << 4, flags);
    let [src, dst, rest] = pseudo;
    let sum = checksum(&[src, dst, rest, &out]);
    out[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(out)
}

fn v4(packet: &[u8], complaint: Complaint, speaker: Speaker<'_>, out: &mut BytesMut) -> Option<()> {
    let first = *packet.first()?;
    let header = usize::from(first & 15) * 4;
    let later = be16(packet, 6)? & 0x1fff != 0;
    let protocol = *packet.get(9)?;
    let error = protocol == 1 && !matches!(packet.get(header)?, 0 | 8);
    let src = packet.get(12..)?.first_chunk::<4>()?;
    let dst = packet.get(16..)?.first_chunk::<4>()?;
    if first >> 4 != 4 || header < 20 || later || error || src[0] >= 224 || dst[0] >= 224 {
        return None;
    }
    let own = speaker.ips.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip.octets()),
        IpAddr::V6(_) => None,
    });
    let own = own.unwrap_or(*dst);
    let quote = packet.get(..packet.len().min(QUOTE4_MAX))?;
    out.put_u16(ETHER_IPV4);
    out.put_slice(&head4(8 + quote.len(), 1, own, *src)?);
    let mut head = complaint.head4();
    let sum = checksum(&[&head, quote]);
    head[2..4].copy_from_slice(&sum.to_be_bytes());
    out.put_slice(&head);
    out.put_slice(quote);
    Some(())
}

fn v6(packet: &[u8], complaint: Complaint, speaker: Speaker<'_>, out: &mut BytesMut) -> Option<()> {
    let next = *packet.get(6)?;
    // Errors have types below 128.
    let error = next == 58 && packet.get(40)? & 0x80 == 0;
    let src = packet.get(8..)?.first_chunk::<16>()?;
    let dst = packet.get(24..)?.first_chunk::<16>()?;
    if packet.first()? >> 4 != 6 || error || src[0] == 0xff || dst[0] == 0xff || *src == [0; 16] {
        return None;
    }
    let own = speaker.ips.iter().find_map(|ip| match ip {
        IpAddr::V6(ip) => Some(ip.octets()),
        IpAddr::V4(_) => None,
    });
    let own = own.unwrap_or(*dst);
    let quote = packet.get(..packet.len().min(QUOTE6_MAX))?;
    let len = u16::try_from(8 + quote.len()).ok()?;
    out.put_u16(ETHER_IPV6);
    out.put_slice(&[0x60, 0, 0, 0]);
    out.put_u16(len);
    out.put_slice(&[58, 64]);
    out.put_slice(&own);
    out.put_slice(src);
    let mut head = complaint.head6();
    let [len_high, len_low] = len.to_be_bytes();
    let pseudo = [0, 0, len_high, len_low, 0, 0, 0, 58];
    let sum = checksum(&[&own, src, &pseudo, &head, quote]);
    head[2..4].copy_from_slice(&sum.to_be_bytes());
    out.put_slice(&head);
    out.put_slice(quote);
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    const WHO: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn speaker(ips: &[IpAddr]) -> Speaker<'_> {
        Speaker { mac: WHO, ips }
    }

    #[test]
    fn a_large_packet_of_ipv4_is_answered_with_the_mtu() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 5], [10, 0, 0, 6], 64)
            .udp(4000, 5000)
            .write(&mut frame, &[7; 3000])
            .unwrap();
        let own = [IpAddr::from([10, 0, 0, 1])];
        let answer = reply(&frame[..1473], Complaint::TooBig(1450), speaker(&own)).unwrap();
        let read = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = read.transport else {
            panic!("no ICMP: {read:?}");
        };
        assert!(matches!(
            icmp.icmp_type(),
            etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: 1450
                }
            )
        ));
        assert_eq!(checksum(&[icmp.slice()]), 0);
        assert_eq!(checksum(&[&answer[14..34]]), 0);
        assert_eq!(&answer[..12], &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn a_large_packet_of_ipv6_is_answered_with_the_mtu() {
        let (src, dst) = ([0xfd; 16], [0xfc; 16]);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6(src, dst, 64)
            .tcp(4000, 5000, 1, 100)
            .write(&mut frame, &[7; 3000])
            .unwrap();
        let answer = reply(&frame, Complaint::TooBig(1400), speaker(&[])).unwrap();
        let read = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = read.transport else {
            panic!("no ICMPv6: {read:?}");
        };
        assert_eq!(
            icmp.icmp_type(),
            etherparse::Icmpv6Type::PacketTooBig { mtu: 1400 }
        );
        assert!(icmp.is_checksum_valid(dst, src));
        assert!(answer.len() <= 14 + 1280);
    }

    #[test]
    fn errors_groups_and_later_fragments_are_not_answered() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 5], [10, 0, 0, 6], 64)
            .icmpv4_raw(3, 1, [0; 4])
            .write(&mut frame, &[7; 3000])
            .unwrap();
        assert_eq!(reply(&frame, Complaint::TooBig(1450), speaker(&[])), None);
        frame[34] = 8;
        assert!(reply(&frame, Complaint::TooBig(1450), speaker(&[])).is_some());
        let mut group = frame.clone();
        group[0] = 1;
        assert_eq!(reply(&group, Complaint::TooBig(1450), speaker(&[])), None);
        frame[21] = 1;
        assert_eq!(reply(&frame, Complaint::TooBig(1450), speaker(&[])), None);
    }

    fn syn(v6: bool) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        if v6 {
            let builder = builder.ipv6([0xfd; 16], [0xfc; 16], 64);
            let tcp = builder.tcp(4000, 23, 77, 100).syn();
            tcp.write(&mut frame, b"early").unwrap();
        } else {
            let builder = builder.single_vlan(7.try_into().unwrap());
            let tcp = builder
                .ipv4([10, 0, 0, 5], [10, 0, 0, 6], 64)
                .tcp(4000, 23, 77, 100)
                .syn();
            tcp.write(&mut frame, b"early").unwrap();
        }
        frame
    }

    #[test]
    fn a_refused_connection_is_reset_as_its_receiver_would() {
        for v6 in [false, true] {
            let answer = reply(&syn(v6), Complaint::Prohibited, speaker(&[])).unwrap();
            let read = SlicedPacket::from_ethernet(&answer).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = &read.transport else {
                panic!("no TCP: {read:?}");
            };
            assert!(tcp.rst() && tcp.ack() && !tcp.syn());
            // The SYN and five bytes were received.
            assert_eq!(
                (tcp.sequence_number(), tcp.acknowledgment_number()),
                (0, 77 + 6)
            );
            assert_eq!((tcp.source_port(), tcp.destination_port()), (23, 4000));
            let sum = match &read.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => {
                    assert_eq!(ip.header().destination(), [10, 0, 0, 5]);
                    assert_eq!(answer[12..16], [0x81, 0, 0, 7]);
                    tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                        .unwrap()
                }
                Some(etherparse::NetSlice::Ipv6(ip)) => tcp
                    .calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                    .unwrap(),
                other => panic!("no IP: {other:?}"),
            };
            assert_eq!(tcp.checksum(), sum);
            assert_eq!(
                reply(&answer, Complaint::Prohibited, speaker(&[])),
                None,
                "a reset"
            );
        }
    }

    #[test]
    fn another_refused_packet_is_answered_that_it_is_prohibited() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 5], [10, 0, 0, 6], 64)
            .udp(4000, 53)
            .write(&mut frame, b"query")
            .unwrap();
        let answer = reply(&frame, Complaint::Prohibited, speaker(&[])).unwrap();
        let read = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = read.transport else {
            panic!("no ICMP: {read:?}");
        };
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 13));
        assert_eq!(checksum(&[icmp.slice()]), 0);
        assert_eq!(checksum(&[&answer[14..34]]), 0);
    }

    proptest! {
        #[test]
        fn garbage_is_answered_with_little_or_nothing(frame: Vec<u8>) {
            for complaint in [Complaint::TooBig(1450), Complaint::Prohibited] {
                if let Some(answer) = reply(&frame, complaint, speaker(&[])) {
                    prop_assert!(answer.len() <= 14 + 8 + 1280);
                }
            }
        }
    }
}
