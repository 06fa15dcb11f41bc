//! What a router would say to a packet that does not fit: ICMP "fragmentation needed" (RFC 792, RFC 1191) and ICMPv6 "packet
//! too big" (RFC 4443 §3.2).
//!
//! Owns the words. A segment has no routers, but a container whose interface was given a larger MTU than the network's would
//! wait forever for packets that nobody delivers; told so, its kernel sends smaller ones. Refuses to answer what must not be
//! answered: groups, fragments but the first, other errors (RFC 1122 §3.2.2, RFC 4443 §2.4).

use crate::frame::{ETHER_IPV4, ETHER_IPV6, ETHERNET_LEN};
use crate::ident::MacAddr;
use bytes::{BufMut, Bytes, BytesMut};
use std::net::IpAddr;

/// Bytes of the packet that an ICMP error quotes at most, so that the error itself is no large packet (RFC 1812 §4.3.2.3).
const QUOTE4_MAX: usize = 548;
/// The same for IPv6: the error has 1280 bytes at most.
const QUOTE6_MAX: usize = 1280 - 48;

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

/// The answer to a frame that is longer than a network with `mtu` carries, as a frame for who sent it; `None` if none is
/// due. The frame may be cut short.
pub(crate) fn reply(frame: &[u8], mtu: u16, speaker: Speaker<'_>) -> Option<Bytes> {
    let asker = MacAddr(*frame.get(6..)?.first_chunk::<6>()?);
    let dst = MacAddr(*frame.first_chunk::<6>()?);
    if dst.is_group() || !asker.is_source() {
        return None;
    }
    let packet = frame.get(ETHERNET_LEN..)?;
    let mut out = BytesMut::with_capacity(1300);
    out.put_slice(&asker.0);
    out.put_slice(&speaker.mac.0);
    match be16(frame, 12)? {
        ETHER_IPV4 => v4(packet, mtu, speaker, &mut out)?,
        ETHER_IPV6 => v6(packet, mtu, speaker, &mut out)?,
        _ => return None,
    }
    Some(out.freeze())
}

fn v4(packet: &[u8], mtu: u16, speaker: Speaker<'_>, out: &mut BytesMut) -> Option<()> {
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
    let total = u16::try_from(28 + quote.len()).ok()?;
    out.put_u16(ETHER_IPV4);
    let mut ip = BytesMut::with_capacity(20);
    ip.put_slice(&[0x45, 0xc0]);
    ip.put_u16(total);
    ip.put_slice(&[0, 0, 0, 0, 64, 1, 0, 0]);
    ip.put_slice(&own);
    ip.put_slice(src);
    let sum = checksum(&[&ip]);
    ip.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
    out.put_slice(&ip);
    // Type 3, code 4; the MTU of the next hop is in the last two bytes.
    let [high, low] = mtu.to_be_bytes();
    let head = [3, 4, 0, 0, 0, 0, high, low];
    let [a, b] = checksum(&[&head, quote]).to_be_bytes();
    out.put_slice(&[3, 4, a, b, 0, 0, high, low]);
    out.put_slice(quote);
    Some(())
}

fn v6(packet: &[u8], mtu: u16, speaker: Speaker<'_>, out: &mut BytesMut) -> Option<()> {
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
    let [high, low] = mtu.to_be_bytes();
    let head = [2, 0, 0, 0, 0, 0, high, low];
    let [len_high, len_low] = len.to_be_bytes();
    let pseudo = [0, 0, len_high, len_low, 0, 0, 0, 58];
    let [a, b] = checksum(&[&own, src, &pseudo, &head, quote]).to_be_bytes();
    out.put_slice(&[2, 0, a, b, 0, 0, high, low]);
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
        let answer = reply(&frame[..1473], 1450, speaker(&own)).unwrap();
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
        let answer = reply(&frame, 1400, speaker(&[])).unwrap();
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
        assert_eq!(reply(&frame, 1450, speaker(&[])), None);
        frame[34] = 8;
        assert!(reply(&frame, 1450, speaker(&[])).is_some());
        let mut group = frame.clone();
        group[0] = 1;
        assert_eq!(reply(&group, 1450, speaker(&[])), None);
        frame[21] = 1;
        assert_eq!(reply(&frame, 1450, speaker(&[])), None);
    }

    proptest! {
        #[test]
        fn garbage_is_answered_with_little_or_nothing(frame: Vec<u8>) {
            if let Some(answer) = reply(&frame, 1450, speaker(&[])) {
                prop_assert!(answer.len() <= 14 + 1280);
            }
        }
    }
}
