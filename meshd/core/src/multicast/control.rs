//! Messages by which hosts say to which groups they listen, and routers ask: bytes to [`Control`].
//!
//! Owns the parsers of IGMPv1 to v3 (RFC 1112, 2236, 3376) and MLDv1 and v2 (RFC 2710, 3810), and which groups are looked at at all.
//! Sources of a group are not told apart: who listens to some of a group gets all of it. Refuses whatever its checksum, its hop limit
//! or its lengths make void.

use crate::frame::Frame;
use crate::frame::group::GroupPacket;
use crate::ident::MacAddr;

/// IP protocols.
pub const IGMP: u8 = 2;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const PIM: u8 = 103;

/// Types of MLD (RFC 2710 §3.1, RFC 3810 §5.2).
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD2_REPORT: u8 = 143;

/// Which of the two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IGMP.
    V4,
    /// MLD.
    V6,
}

/// What somebody says of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The group, by its MAC: groups that share one are one (RFC 1112 §6.4, RFC 2464 §7).
    pub group: MacAddr,
    /// He listens; else he does no more.
    pub joins: bool,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A router asks who listens. One of IGMP from 0.0.0.0 is a switch's (RFC 4541 §2.1.1), and is not told here.
    Query(Family),
    /// Somebody asks who listens, and is no router.
    Proxy,
    /// Hosts say to what they listen; groups that always flood are left out.
    Report(Vec<Word>),
    /// A router speaks to routers (PIM, RFC 7761 §4.3).
    Router,
}

/// Why a message counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Control {
    /// What a frame says; `None`: nothing of the kind.
    ///
    /// # Errors
    /// If it is a message, and void.
    pub fn of(frame: &Frame<'_>) -> Result<Option<Self>, Malformed> {
        let Some(packet) = frame.group_packet() else {
            return Ok(None);
        };
        match (packet.v4, packet.protocol) {
            (true, IGMP) => igmp(&packet).map(Some).ok_or(Malformed),
            (_, PIM) => Ok((packet.ttl == 1).then_some(Self::Router)),
            (false, ICMPV6) => match packet.payload.first() {
                Some(&kind @ (MLD_QUERY..=MLD_DONE | MLD2_REPORT)) => {
                    mld(kind, &packet).map(Some).ok_or(Malformed)
                }
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// One's complement sum (RFC 1071) over `bytes`, begun with `sum`; zero for a message with its checksum in it.
fn sum(bytes: &[u8], sum: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum = words.fold(sum, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The sum of a pseudo header (RFC 8200 §8.1).
fn pseudo(src: u128, dst: u128, len: usize) -> u32 {
    let words = |ip: u128| (0..8u32).map(move |n| (ip >> (16 * n)) as u16);
    let sum: u32 = words(src).chain(words(dst)).map(u32::from).sum();
    sum + u32::try_from(len).unwrap_or(0) + u32::from(ICMPV6)
}

/// A checksum over an MLD message whose own is zero.
pub(super) fn mld_checksum(src: u128, dst: u128, message: &[u8]) -> u16 {
    sum(message, pseudo(src, dst, message.len()))
}

/// The same for IGMP.
pub(super) fn igmp_checksum(message: &[u8]) -> u16 {
    sum(message, 0)
}

fn igmp(packet: &GroupPacket<'_>) -> Option<Control> {
    let message = packet.payload;
    let [kind, ..] = array::<8>(message, 0)?;
    if packet.ttl != 1 || igmp_checksum(message) != 0 {
        return None;
    }
    let word = |joins| {
        let group = group_v4(array(message, 4)?);
        Some(group.map(|group| Word { group, joins }))
    };
    Some(match kind {
        // Of all versions; that of IGMPv3 is longer (RFC 3376 §7.1).
        0x11 if packet.src as u32 == 0 => Control::Proxy,
        0x11 => Control::Query(Family::V4),
        0x12 | 0x16 => Control::Report(word(true)?.into_iter().collect()),
        0x17 => Control::Report(word(false)?.into_iter().collect()),
        0x22 => {
            let count = u16::from_be_bytes(array(message, 6)?);
            Control::Report(records(message, count, 4, |at| {
                Some(group_v4(array(message, at)?))
            })?)
        }
        _ => return None,
    })
}

fn mld(kind: u8, packet: &GroupPacket<'_>) -> Option<Control> {
    let message = packet.payload;
    let link_local = packet.src >> 118 == 0xfe80 >> 6;
    // Of a host that has no address yet (RFC 3810 §5.2.13).
    let may_speak = link_local || (packet.src == 0 && kind != MLD_QUERY);
    let checked = mld_checksum(packet.src, packet.dst, message) == 0;
    if packet.ttl != 1 || !may_speak || !checked || message.len() < 8 {
        return None;
    }
    let word = |joins| {
        let group = group_v6(array(message, 8)?);
        Some(group.map(|group| Word { group, joins }))
    };
    Some(match kind {
        MLD_QUERY => {
            array::<24>(message, 0)?;
            match packet.src == super::query::SOURCE_V6 {
                true => Control::Proxy,
                false => Control::Query(Family::V6),
            }
        }
        MLD_REPORT => Control::Report(word(true)?.into_iter().collect()),
        MLD_DONE => Control::Report(word(false)?.into_iter().collect()),
        _ => {
            let count = u16::from_be_bytes(array(message, 6)?);
            Control::Report(records(message, count, 16, |at| {
                Some(group_v6(array(message, at)?))
            })?)
        }
    })
}

/// Records of IGMPv3 (RFC 3376 §4.2.4) and MLDv2 (RFC 3810 §5.2): type, words of auxiliary data, sources, group, addresses of
/// `len` bytes. `None`: they are longer than the message.
fn records(
    message: &[u8],
    count: u16,
    len: usize,
    group: impl Fn(usize) -> Option<Option<MacAddr>>,
) -> Option<Vec<Word>> {
    let (mut words, mut at) = (Vec::new(), 8usize);
    for _ in 0..count {
        let [kind, aux, high, low] = array(message, at)?;
        let sources = usize::from(u16::from_be_bytes([high, low]));
        let joins = match (kind, sources) {
            // IS_IN and TO_IN of no source: none is wanted.
            (1 | 3, 0) => Some(false),
            // IS_IN, IS_EX, TO_IN, TO_EX, ALLOW.
            (1..=5, _) => Some(true),
            // BLOCK: of the others some may still be wanted. Types to come are passed over.
            _ => None,
        };
        if let (Some(joins), Some(group)) = (joins, group(at + 4)?) {
            words.push(Word { group, joins });
        }
        at += 4 + len + sources * len + usize::from(aux) * 4;
        if at > message.len() {
            return None;
        }
    }
    Some(words)
}

/// The MAC of a group (RFC 1112 §6.4); `None` where it always floods: 224.0.0.0/24 (RFC 4541 §2.1.2), and all that share its MACs.
fn group_v4(ip: [u8; 4]) -> Option<MacAddr> {
    let [first, a, b, c] = ip;
    let mac = MacAddr([0x01, 0x00, 0x5e, a & 0x7f, b, c]);
    (first >> 4 == 0xe && !floods_v4(mac)).then_some(mac)
}

/// True for MACs of 224.0.0.0/24.
pub(crate) fn floods_v4(mac: MacAddr) -> bool {
    mac.0.starts_with(&[0x01, 0x00, 0x5e, 0, 0])
}

/// The MAC of a group (RFC 2464 §7); `None` where it always floods: scopes up to that of the link (RFC 4291 §2.7).
fn group_v6(ip: [u8; 16]) -> Option<MacAddr> {
    let [0xff, scope, .., a, b, c, d] = ip else {
        return None;
    };
    (scope & 0xf > 2).then_some(MacAddr([0x33, 0x33, a, b, c, d]))
}

/// True for IPv6 destinations that always flood, by their first 16 bits: no group, or one of a scope up to that of the link.
pub(crate) fn floods_v6(dst: u128) -> bool {
    let [high, low] = ((dst >> 112) as u16).to_be_bytes();
    high != 0xff || low & 0xf <= 2
}

/// True if the upper-layer protocol may be one that is read here.
pub(crate) fn is_read(v4: bool, protocol: u8) -> bool {
    protocol == PIM || protocol == if v4 { IGMP } else { ICMPV6 }
}
