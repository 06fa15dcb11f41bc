//! The superframe: one TCP frame that the kernel cuts into some four segments, as it does with data, and what comes of it.
//!
//! Owns how it is built, how a segment is verified (each byte, both checksums), and the gathering of segments. Nothing of
//! their payload is kept: each byte can be computed. Refuses to hold more than [`SUPERFRAMES_MAX`] unfinished ones for
//! longer than [`SUPERFRAME_MS_MAX`].

use super::{Fault, Pattern, ProbeError, ProbeFrame, Reader, Segmentation};
use crate::frame::ETHER_IPV4;
use crate::ident::{MacAddr, Moment};
use crate::ranges::Ranges;
use bytes::{BufMut, BytesMut};
use std::collections::VecDeque;

/// Unfinished superframes of one path.
pub const SUPERFRAMES_MAX: usize = 4;
/// How long the segments of one are waited for, in ms.
pub const SUPERFRAME_MS_MAX: u64 = 1000;

/// Addresses for documentation (RFC 5737): no container has them.
const FROM: [u8; 4] = [192, 0, 2, 77];
const TO: [u8; 4] = [192, 0, 2, 78];
/// Discard (RFC 863).
const PORT: u16 = 9;
const IP_LEN: u16 = 20;
/// With a timestamp option (RFC 7323 §3.2) between two no-operations, as most TCP data has it.
const TCP_LEN: u16 = 32;
const OPTIONS: [u8; 4] = [1, 1, 8, 10];
const HEADERS: u16 = 14 + IP_LEN + TCP_LEN;
const PROTO_TCP: u8 = 6;
/// Ranges of one superframe that do not touch; the kernel makes no more than segments.
const GAPS_MAX: usize = 16;

/// Part of a superframe that came as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who it is for.
    pub dst: MacAddr,
    /// Who sent it.
    pub src: MacAddr,
    /// What the receiver told the sender.
    pub token: u64,
    /// Of the superframe.
    pub number: u16,
    /// Payload bytes of the superframe.
    pub total: u16,
    /// Where in it this part begins.
    pub offset: u16,
    /// Bytes of this part; not 0.
    pub len: u16,
}

/// Builds superframe `number` for a network of `mtu` bytes; its segments are as long as the network allows.
#[must_use]
pub fn superframe(dst: MacAddr, src: MacAddr, token: u64, number: u16, mtu: u16) -> ProbeFrame {
    // Bounds keep the sum of all lengths below 64 KiB whatever the MTU is.
    let gso_size = mtu.clamp(576, 9216) - IP_LEN - TCP_LEN;
    // An odd end, where checksums go wrong first.
    let total = (3 * gso_size + gso_size / 2) | 1;
    let mut out = BytesMut::with_capacity(usize::from(HEADERS + total));
    out.put_slice(&dst.0);
    out.put_slice(&src.0);
    out.put_u16(ETHER_IPV4);
    let ip = ip_header(IP_LEN + TCP_LEN + total);
    out.put_slice(&ip);
    // Other ports for each: an underlay with many ways takes another one.
    out.put_u16(0xc000 | (number & 0x3fff));
    out.put_u16(PORT);
    out.put_u32(0);
    out.put_u16(number);
    out.put_u16(total);
    out.put_slice(&[0x80, 0x18]); // 32 bytes of header; PSH and ACK
    out.put_u16(0xffff);
    // The kernel adds the rest to this sum, and what each segment's length changes.
    out.put_u16(fold(pseudo_header(TCP_LEN + total)));
    out.put_u16(0);
    out.put_slice(&OPTIONS);
    out.put_u64(token);
    let pattern = Pattern::new(token, u32::from(number));
    out.extend((0..u64::from(total)).map(|at| pattern.byte(at)));
    ProbeFrame {
        bytes: out.freeze(),
        segmentation: Some(Segmentation {
            gso_size,
            hdr_len: HEADERS,
            csum_start: 14 + IP_LEN,
            csum_offset: 16,
        }),
    }
}

/// RFC 791 §3.1, don't fragment.
fn ip_header(total: u16) -> [u8; 20] {
    let ([len_hi, len_lo], [a, b, c, d], [e, f, g, h]) = (total.to_be_bytes(), FROM, TO);
    let with = |hi, lo| {
        [
            0x45, 0, len_hi, len_lo, 0, 1, 0x40, 0, 64, PROTO_TCP, hi, lo, a, b, c, d, e, f, g, h,
        ]
    };
    let [hi, lo] = (!fold(sum(&with(0, 0)))).to_be_bytes();
    with(hi, lo)
}

/// RFC 9293 §3.1.
fn pseudo_header(tcp_len: u16) -> u64 {
    sum(&FROM) + sum(&TO) + u64::from(PROTO_TCP) + u64::from(tcp_len)
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let sum: u64 = pairs
        .iter()
        .map(|pair| u64::from(u16::from_be_bytes(*pair)))
        .sum();
    sum + rest.first().map_or(0, |&last| u64::from(last) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or_default()
}

impl Segment {
    /// `None` if it is no part of a superframe.
    pub(super) fn parse(frame: &[u8]) -> Option<Result<Self, ProbeError>> {
        let mut read = Reader(frame);
        let (dst, src) = (MacAddr(read.take()?), MacAddr(read.take()?));
        if read.u16()? != ETHER_IPV4 {
            return None;
        }
        let packet = read.0;
        let ip: [u8; 20] = read.take()?;
        let tcp = read.0;
        let [
            0x45,
            _,
            len_hi,
            len_lo,
            _,
            _,
            _,
            _,
            _,
            PROTO_TCP,
            _,
            _,
            addresses @ ..,
        ] = ip
        else {
            return None;
        };
        if addresses.get(..4) != Some(&FROM) || addresses.get(4..) != Some(&TO) {
            return None;
        }
        let (_, port) = (read.u16()?, read.u16()?);
        let (offset, number, total) = (read.u32()?, read.u16()?, read.u16()?);
        let ([data_offset, _], _window, _sum, _urgent) =
            (read.take::<2>()?, read.u16()?, read.u16()?, read.u16()?);
        if port != PORT || data_offset != 0x80 || read.take::<4>()? != OPTIONS || number == 0 {
            return None;
        }
        let token = read.u64()?;
        let payload = read.0;
        let altered = |fault| {
            Some(Err(ProbeError::Altered {
                token,
                superframe: Some(number),
                fault,
            }))
        };
        if fold(sum(&ip)) != 0xffff {
            return altered(Fault::IpChecksum);
        }
        let said = usize::from(u16::from_be_bytes([len_hi, len_lo]));
        let (Ok(tcp_len), Ok(len)) = (u16::try_from(tcp.len()), u16::try_from(payload.len()))
        else {
            return altered(Fault::Size);
        };
        if packet.len() != said || len == 0 {
            return altered(Fault::Size);
        }
        if fold(pseudo_header(tcp_len) + sum(tcp)) != 0xffff {
            return altered(Fault::TcpChecksum);
        }
        let end = u64::from(offset) + u64::from(len);
        let offset = u16::try_from(offset).ok().filter(|_| end <= total.into());
        let Some(offset) = offset else {
            return altered(Fault::Header);
        };
        if !Pattern::new(token, number.into()).matches(offset.into(), payload) {
            return altered(Fault::Payload);
        }
        Some(Ok(Self {
            dst,
            src,
            token,
            number,
            total,
            offset,
            len,
        }))
    }
}

/// What became of a superframe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperResult {
    /// All of it came as it was sent.
    Complete {
        /// Its number.
        number: u16,
    },
    /// It did not.
    Altered {
        /// Its number.
        number: u16,
        /// What is wrong; [`Fault::Incomplete`] if parts did not come.
        fault: Fault,
    },
}

#[derive(Debug)]
struct Unfinished {
    number: u16,
    total: u16,
    have: Ranges,
    since: Moment,
}

/// The unfinished superframes of one path.
#[derive(Debug, Default)]
pub struct SuperCheck {
    /// In the order of arrival.
    unfinished: VecDeque<Unfinished>,
    /// Judged ones, so that a late segment begins nothing.
    judged: VecDeque<u16>,
}

impl SuperCheck {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A segment came.
    pub fn push(&mut self, segment: &Segment, now: Moment) -> Option<SuperResult> {
        let Segment {
            number,
            total,
            offset,
            len,
            ..
        } = *segment;
        if self.judged.contains(&number) {
            return None;
        }
        if !self.unfinished.iter().any(|one| one.number == number) {
            self.unfinished.push_back(Unfinished {
                number,
                total,
                have: Ranges::default(),
                since: now,
            });
        }
        let one = self
            .unfinished
            .iter_mut()
            .find(|one| one.number == number)?;
        let last = u128::from(offset) + u128::from(len).saturating_sub(1);
        one.have.insert(offset.into(), last);
        if one.total != total || one.have.count() > GAPS_MAX {
            return self.altered(number, Fault::Header);
        }
        if one.have.total() == u128::from(total) {
            self.judge(number);
            return Some(SuperResult::Complete { number });
        }
        if self.unfinished.len() > SUPERFRAMES_MAX {
            let oldest = self.unfinished.front()?.number;
            return self.altered(oldest, Fault::Incomplete);
        }
        None
    }

    /// A segment came altered. `None` if its superframe was judged before.
    pub fn altered(&mut self, number: u16, fault: Fault) -> Option<SuperResult> {
        if self.judged.contains(&number) {
            return None;
        }
        self.judge(number);
        Some(SuperResult::Altered { number, fault })
    }

    fn judge(&mut self, number: u16) {
        self.unfinished.retain(|one| one.number != number);
        if self.judged.len() >= 2 * SUPERFRAMES_MAX {
            self.judged.pop_front();
        }
        self.judged.push_back(number);
    }

    /// When [`Self::handle_timeout`] has something to say.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let oldest = self.unfinished.front()?;
        Some(oldest.since.plus_ms(SUPERFRAME_MS_MAX))
    }

    /// One whose segments were waited for long enough; to be called until it returns `None`.
    pub fn handle_timeout(&mut self, now: Moment) -> Option<SuperResult> {
        if self.poll_timeout()? > now {
            return None;
        }
        let number = self.unfinished.front()?.number;
        self.altered(number, Fault::Incomplete)
    }
}

/// What the kernel makes of a superframe, for tests and simulations that have no kernel.
///
/// # Panics
/// If the frame is none of ours.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
#[must_use]
pub fn segments(probe: &ProbeFrame) -> Vec<Vec<u8>> {
    let Some(cut) = probe.segmentation else {
        return vec![probe.bytes.to_vec()];
    };
    let (headers, payload) = probe.bytes.split_at(usize::from(cut.hdr_len));
    let mut out = Vec::new();
    for (i, part) in payload.chunks(usize::from(cut.gso_size)).enumerate() {
        let mut one = [headers, part].concat();
        let tcp_len = u16::try_from(32 + part.len()).unwrap();
        one[14..34].copy_from_slice(&ip_header(20 + tcp_len));
        let offset = u32::try_from(i * usize::from(cut.gso_size)).unwrap();
        one[38..42].copy_from_slice(&offset.to_be_bytes());
        let at = usize::from(cut.csum_start + cut.csum_offset);
        let place = at..at + 2;
        one[place.clone()].fill(0);
        let check = !fold(pseudo_header(tcp_len) + sum(&one[34..]));
        one[place].copy_from_slice(&check.to_be_bytes());
        out.push(one);
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::probe::{Probe, parse};
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn build(number: u16, mtu: u16) -> ProbeFrame {
        superframe(MacAddr([2; 6]), MacAddr([6; 6]), 77, number, mtu)
    }

    fn segment(bytes: &[u8]) -> Segment {
        match parse(bytes) {
            Some(Ok(Probe::Segment(segment))) => segment,
            other => panic!("{other:?}"),
        }
    }

    fn fault(bytes: &[u8]) -> Option<Fault> {
        match parse(bytes)? {
            Err(ProbeError::Altered { fault, .. }) => Some(fault),
            _ => None,
        }
    }

    #[test]
    fn others_read_its_segments_and_find_both_checksums_right() {
        for mtu in [576, 1450, 9000] {
            let cut = segments(&build(3, mtu));
            assert_eq!(cut.len(), 4);
            assert_eq!(cut[0].len(), usize::from(mtu) + 14);
            for bytes in &cut {
                let packet = SlicedPacket::from_ethernet(bytes).unwrap();
                let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
                    (packet.net, packet.transport)
                else {
                    panic!("no TCP over IPv4")
                };
                let header = ip.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                let check = tcp.calc_checksum_ipv4(FROM, TO).unwrap();
                assert_eq!(check, tcp.checksum());
            }
        }
    }

    #[test]
    fn the_sum_that_waits_for_the_kernel_is_that_of_the_pseudo_header() {
        let probe = build(3, 1450);
        let mut whole = probe.bytes.to_vec();
        // What a driver without segmentation does: add up everything from csum_start on, complement, store.
        let check = !fold(sum(&whole[34..]));
        whole[50..52].copy_from_slice(&check.to_be_bytes());
        assert_eq!(segment(&whole).len, segment(&whole).total);
    }

    #[test]
    fn segments_in_any_order_make_it_complete_once() {
        let mut check = SuperCheck::new();
        let mut cut = segments(&build(3, 1450));
        cut.reverse();
        let said: Vec<_> = cut
            .iter()
            .chain(&cut)
            .filter_map(|bytes| check.push(&segment(bytes), Moment(0)))
            .collect();
        assert_eq!(said, [SuperResult::Complete { number: 3 }]);
        assert_eq!(check.poll_timeout(), None);
    }

    #[test]
    fn what_is_missing_is_told_after_a_second() {
        let mut check = SuperCheck::new();
        let cut = segments(&build(3, 1450));
        for bytes in &cut[1..] {
            assert_eq!(check.push(&segment(bytes), Moment(5)), None);
        }
        assert_eq!(check.handle_timeout(Moment(0).plus_ms(900)), None);
        let incomplete = SuperResult::Altered {
            number: 3,
            fault: Fault::Incomplete,
        };
        assert_eq!(
            check.handle_timeout(Moment(5).plus_ms(1000)),
            Some(incomplete)
        );
        assert_eq!(check.push(&segment(&cut[0]), Moment(6)), None);
    }

    #[test]
    fn unfinished_ones_are_few() {
        let mut check = SuperCheck::new();
        let mut told = 0;
        for number in 1..=500 {
            let first = &segments(&build(number, 576))[0];
            told += usize::from(check.push(&segment(first), Moment(0)).is_some());
            assert!(check.unfinished.len() <= SUPERFRAMES_MAX && check.judged.len() <= 8);
        }
        assert_eq!(told, 500 - SUPERFRAMES_MAX);
    }

    #[test]
    fn a_wrong_checksum_and_other_bytes_are_told_apart() {
        let good = segments(&build(3, 1450)).remove(1);
        let mut bad_sum = good.clone();
        bad_sum[50] ^= 1;
        assert_eq!(fault(&bad_sum), Some(Fault::TcpChecksum));
        let mut bad_ip = good.clone();
        bad_ip[22] ^= 1; // TTL
        assert_eq!(fault(&bad_ip), Some(Fault::IpChecksum));
        // Two bytes change places: no internet checksum sees that.
        let mut swapped = good.clone();
        let at = (70..good.len() - 4)
            .step_by(2)
            .find(|&at| good[at..at + 2] != good[at + 2..at + 4])
            .unwrap();
        swapped[at..at + 4].rotate_left(2);
        assert_eq!(fault(&swapped), Some(Fault::Payload));
        let short = &good[..good.len() - 1];
        assert_eq!(fault(short), Some(Fault::Size));
    }

    proptest! {
        #[test]
        fn one_flipped_bit_of_a_segment_is_found(number in 1..u16::MAX, which in 0..4usize, at: prop::sample::Index) {
            let mut bytes = segments(&build(number, 1450)).remove(which);
            // MAC addresses are protected by nothing but the frame's own check.
            let bit = 12 * 8 + at.index((bytes.len() - 12) * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(parse(&bytes), Some(Ok(_))));
        }

        #[test]
        fn garbage_behind_right_headers_is_harmless(bytes: Vec<u8>, keep in 0..80usize) {
            let good = segments(&build(9, 1450)).remove(0);
            let _ = parse(&[&good[..keep], &bytes].concat());
        }
    }
}
