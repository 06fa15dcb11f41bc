//! Frames that prove a network's VXLAN device: what goes through it as data would, and tells its reader what is missing.
//!
//! ```text
//!   plain       | dst 6 | src 6 | 0x88b5 | "mp" | version 1 | size 2 | CRC 4 | token 8 | seq 4 | heard 27 | pattern ...
//!   superframe  | dst 6 | src 6 | 0x0800 | IPv4 20 | TCP 20 + 12 of options: token | pattern, some 4 segments of it
//!                                          192.0.2.77 > .78   ack = number 2, length 2        all big-endian
//! ```
//!
//! Owns the bytes, the pattern, and the rules by which a frame counts as altered. The token is what the receiver told the
//! sender over the authenticated session: who has not heard it proves nothing. Both MAC addresses are made of node ids
//! ([`probe_mac`]), so that a probe meets no container's address.
//!
//! Refuses to judge paths; that is [`crate::path`]. `superframe` has the second kind, and how its segments become one again.

mod superframe;

#[cfg(any(test, feature = "testing"))]
pub use superframe::segments;
pub use superframe::{
    SUPERFRAME_MS_MAX, SUPERFRAMES_MAX, Segment, SuperCheck, SuperResult, superframe,
};

use crate::ident::{MacAddr, NodeId};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// EtherType of plain probes: local experimental (IEEE 802 §9.2.3).
pub const ETHER_PROBE: u16 = 0x88b5;
/// Smallest plain probe, in bytes of the frame.
pub const PROBE_MIN: u16 = 64;
/// Spoken version of probes.
pub const PROBE_VERSION: u8 = 1;

const MAGIC: [u8; 2] = *b"mp";
/// Bytes before the pattern.
const HEAD_LEN: usize = 62;
/// Where the checksum is.
const CRC_AT: usize = 19;

/// The MAC address that a node's probes come from and go to: the beginning of its id, local and no group. Ids are public
/// keys, so two nodes of a mesh do not share one in practice (46 bits).
#[must_use]
pub fn probe_mac(node: &NodeId) -> MacAddr {
    let [first, b, c, d, e, f, ..] = node.0;
    MacAddr([(first & !1) | 2, b, c, d, e, f])
}

/// A frame for a network's VXLAN device, and how the kernel is to cut it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFrame {
    /// From the destination MAC on.
    pub bytes: Bytes,
    /// `None`: as it is.
    pub segmentation: Option<Segmentation>,
}

/// The fields of a virtio-net header (virtio 1.2 §5.1.6) for TCP over IPv4 with a checksum that is still to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segmentation {
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Bytes of all headers.
    pub hdr_len: u16,
    /// From where on the checksum is over.
    pub csum_start: u16,
    /// Where it goes, from `csum_start` on.
    pub csum_offset: u16,
}

/// What a node heard of its peer's probes on one path; travels back in its own probes and over QUIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Highest number of a plain probe; 0: none yet.
    pub seq_max: u32,
    /// Bit `i` is set if number `seq_max - i` was heard.
    pub window: u64,
    /// Microseconds from hearing `seq_max` to the making of this.
    pub delay_us: u32,
    /// Data frames that came on the path, as the kernel counted them. Wraps.
    pub data: u32,
    /// Probes that came altered. Wraps.
    pub altered: u16,
    /// Number of the last superframe that came whole; 0: none.
    pub super_ok: u16,
    /// Number of the last superframe that did not; 0: none.
    pub super_bad: u16,
    /// What was wrong with it.
    pub super_fault: Option<Fault>,
}

/// What is wrong with a probe that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It is longer or shorter than it was.
    Size,
    /// A plain probe's own checksum.
    Checksum,
    /// The bytes behind its headers.
    Payload,
    /// The checksum of the IPv4 header.
    IpChecksum,
    /// The TCP checksum: segmentation or checksum offload is at fault.
    TcpChecksum,
    /// Lengths or offsets contradict each other.
    Header,
    /// Parts did not come within a second.
    Incomplete,
}

const FAULTS: [Fault; 7] = [
    Fault::Size,
    Fault::Checksum,
    Fault::Payload,
    Fault::IpChecksum,
    Fault::TcpChecksum,
    Fault::Header,
    Fault::Incomplete,
];

impl Fault {
    /// In words, as they follow "came with".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Size => "another length",
            Self::Checksum => "a wrong checksum",
            Self::Payload => "other bytes",
            Self::IpChecksum => "a wrong IP header checksum",
            Self::TcpChecksum => "a wrong TCP checksum",
            Self::Header => "headers that contradict each other",
            Self::Incomplete => "parts missing",
        }
    }

    /// 0 is none.
    fn code(fault: Option<Self>) -> u8 {
        let at = FAULTS.iter().zip(1..).find(|(f, _)| Some(**f) == fault);
        at.map_or(0, |(_, code)| code)
    }

    fn from_code(code: u8) -> Option<Option<Self>> {
        match usize::from(code).checked_sub(1) {
            None => Some(None),
            Some(at) => FAULTS.get(at).copied().map(Some),
        }
    }
}

/// A plain probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Who it is for.
    pub dst: MacAddr,
    /// Who sent it.
    pub src: MacAddr,
    /// What the receiver told the sender.
    pub token: u64,
    /// Counts from 1 on each path.
    pub seq: u32,
    /// Bytes of the frame.
    pub size: u16,
    /// What the sender heard of the receiver.
    pub heard: Heard,
}

/// A probe that came as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A plain one.
    Plain(Plain),
    /// Part of a superframe.
    Segment(Segment),
}

/// Why a frame that looks like a probe is none that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Not of this release.
    #[error("a probe of version {version}; this node speaks {PROBE_VERSION}")]
    Version {
        /// As it says.
        version: u8,
    },
    /// It is not as it was sent.
    #[error("a probe came with {}", .fault.words())]
    Altered {
        /// As the frame says; may be altered itself.
        token: u64,
        /// Number of the superframe, if it is one.
        superframe: Option<u16>,
        /// What is wrong.
        fault: Fault,
    },
}

impl Plain {
    /// The frame, exactly `size` bytes (at least [`PROBE_MIN`]).
    #[must_use]
    pub fn encode(&self) -> ProbeFrame {
        let size = self.size.max(PROBE_MIN);
        let mut out = BytesMut::with_capacity(usize::from(size));
        out.put_slice(&self.dst.0);
        out.put_slice(&self.src.0);
        out.put_u16(ETHER_PROBE);
        out.put_slice(&MAGIC);
        out.put_u8(PROBE_VERSION);
        out.put_u16(size);
        out.put_u32(0);
        out.put_u64(self.token);
        out.put_u32(self.seq);
        out.put_u32(self.heard.seq_max);
        out.put_u64(self.heard.window);
        out.put_u32(self.heard.delay_us);
        out.put_u32(self.heard.data);
        out.put_u16(self.heard.altered);
        out.put_u16(self.heard.super_ok);
        out.put_u16(self.heard.super_bad);
        out.put_u8(Fault::code(self.heard.super_fault));
        let pattern = Pattern::new(self.token, self.seq);
        let len = usize::from(size).saturating_sub(HEAD_LEN);
        out.extend((0..).map(|at| pattern.byte(at)).take(len));
        let sum = crc(&out).to_be_bytes();
        if let Some(place) = out.get_mut(CRC_AT..CRC_AT + 4) {
            place.copy_from_slice(&sum);
        }
        ProbeFrame {
            bytes: out.freeze(),
            segmentation: None,
        }
    }

    /// `None` if it is no plain probe.
    fn parse(frame: &[u8]) -> Option<Result<Self, ProbeError>> {
        let mut read = Reader(frame);
        let (dst, src) = (MacAddr(read.take()?), MacAddr(read.take()?));
        if read.u16()? != ETHER_PROBE || read.take::<2>()? != MAGIC {
            return None;
        }
        let [version] = read.take()?;
        if version != PROBE_VERSION {
            return Some(Err(ProbeError::Version { version }));
        }
        let altered = |token, fault| {
            Some(Err(ProbeError::Altered {
                token,
                superframe: None,
                fault,
            }))
        };
        let (Some(size), Some(sum), Some(token)) = (read.u16(), read.u32(), read.u64()) else {
            return altered(0, Fault::Size);
        };
        if frame.len() != usize::from(size) || size < PROBE_MIN {
            return altered(token, Fault::Size);
        }
        let (seq, heard) = (read.u32()?, read.heard()?);
        let pattern = Pattern::new(token, seq);
        if !pattern.matches(0, read.0) {
            return altered(token, Fault::Payload);
        }
        let zeroed = |(at, &byte)| {
            if (CRC_AT..CRC_AT + 4).contains(&at) {
                0
            } else {
                byte
            }
        };
        if crc_of(frame.iter().enumerate().map(zeroed)) != sum {
            return altered(token, Fault::Checksum);
        }
        let Some(heard) = heard else {
            return Some(Err(ProbeError::Version { version }));
        };
        Some(Ok(Self {
            dst,
            src,
            token,
            seq,
            size,
            heard,
        }))
    }
}

/// Is it a probe, good or bad, and not the network's traffic?
#[must_use]
pub fn is_probe(frame: &[u8]) -> bool {
    parse(frame).is_some()
}

/// Reads a frame: `None` if it is no probe at all. What is returned as a probe is as it was sent, to the last byte.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Result<Probe, ProbeError>> {
    if let Some(plain) = Plain::parse(frame) {
        return Some(plain.map(Probe::Plain));
    }
    Segment::parse(frame).map(|segment| segment.map(Probe::Segment))
}

/// Takes from the front; nothing is reached by index.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// Inner `None`: a fault that this release does not know.
    fn heard(&mut self) -> Option<Option<Heard>> {
        let heard = Heard {
            seq_max: self.u32()?,
            window: self.u64()?,
            delay_us: self.u32()?,
            data: self.u32()?,
            altered: self.u16()?,
            super_ok: self.u16()?,
            super_bad: self.u16()?,
            super_fault: None,
        };
        let [code] = self.take()?;
        Some(Fault::from_code(code).map(|super_fault| Heard {
            super_fault,
            ..heard
        }))
    }
}

/// Bytes that can be computed at any place from the probe's token and number.
#[derive(Clone, Copy, Debug)]
struct Pattern(u64);

impl Pattern {
    fn new(token: u64, seq: u32) -> Self {
        Self(mix(token ^ u64::from(seq).rotate_left(40)))
    }

    fn byte(self, at: u64) -> u8 {
        let [.., last] = (mix(self.0 ^ (at >> 3)) >> ((at & 7) * 8)).to_be_bytes();
        last
    }

    fn matches(self, from: u64, bytes: &[u8]) -> bool {
        bytes
            .iter()
            .zip(from..)
            .all(|(&byte, at)| byte == self.byte(at))
    }
}

/// The finisher of SplitMix64.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// CRC-32 as Ethernet has it (IEEE 802.3 §3.2.9): finds each change of up to 32 bits that lie together.
fn crc(bytes: &[u8]) -> u32 {
    crc_of(bytes.iter().copied())
}

fn crc_of(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0, |sum: u32, byte| {
        let [.., low] = sum.to_be_bytes();
        let entry = CRC_TABLE.get(usize::from(low ^ byte)).copied();
        (sum >> 8) ^ entry.unwrap_or_default()
    })
}

static CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let (mut at, mut start) = (0, 0u32);
    while at < 256 {
        let (mut entry, mut bit) = (start, 0);
        while bit < 8 {
            entry = (entry >> 1) ^ (0xedb8_8320 & (entry & 1).wrapping_neg());
            bit += 1;
        }
        table[at] = entry;
        (at, start) = (at + 1, start + 1);
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn some_heard()(
            seq_max: u32, window: u64, delay_us: u32, data: u32, altered: u16, super_ok: u16,
            super_bad: u16, fault in 0..=7u8,
        ) -> Heard {
            let super_fault = Fault::from_code(fault).unwrap();
            Heard { seq_max, window, delay_us, data, altered, super_ok, super_bad, super_fault }
        }
    }

    prop_compose! {
        fn some_plain()(
            dst: [u8; 32], src: [u8; 32], token: u64, seq: u32, size in PROBE_MIN..1600,
            heard in some_heard(),
        ) -> Plain {
            let (dst, src) = (probe_mac(&NodeId(dst)), probe_mac(&NodeId(src)));
            Plain { dst, src, token, seq, size, heard }
        }
    }

    proptest! {
        #[test]
        fn a_plain_probe_is_read_as_it_was_written(plain in some_plain()) {
            let frame = plain.encode();
            prop_assert_eq!(frame.bytes.len(), usize::from(plain.size));
            prop_assert_eq!(parse(&frame.bytes), Some(Ok(Probe::Plain(plain))));
        }

        #[test]
        fn one_flipped_bit_is_found(plain in some_plain(), at: prop::sample::Index) {
            let mut bytes = plain.encode().bytes.to_vec();
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(parse(&bytes), Some(Ok(_))));
        }

        #[test]
        fn a_cut_or_padded_probe_does_not_count(plain in some_plain(), len in 0..1700usize) {
            let mut bytes = plain.encode().bytes.to_vec();
            prop_assume!(len != bytes.len());
            bytes.resize(len, 0);
            prop_assert!(!matches!(parse(&bytes), Some(Ok(_))));
        }

        #[test]
        fn garbage_is_harmless(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_probe_mac_is_local_and_no_group(node: [u8; 32]) {
            let mac = probe_mac(&NodeId(node));
            prop_assert!(mac.is_source() && mac.0[0] & 2 == 2);
        }
    }

    #[test]
    fn the_checksum_is_that_of_ethernet() {
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let heard = Heard::default();
        let (dst, src) = (MacAddr([2; 6]), MacAddr([6; 6]));
        let plain = Plain {
            dst,
            src,
            token: 7,
            seq: 1,
            size: 200,
            heard,
        };
        let good = plain.encode().bytes;
        let change = |at: usize| {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1;
            match parse(&bytes) {
                Some(Err(ProbeError::Altered { fault, .. })) => Some(fault),
                _ => None,
            }
        };
        assert_eq!(change(150), Some(Fault::Payload));
        assert_eq!(change(40), Some(Fault::Checksum));
        assert_eq!(change(18), Some(Fault::Size));
        let mut newer = good.to_vec();
        newer[16] = 2;
        let version = ProbeError::Version { version: 2 };
        assert_eq!(parse(&newer), Some(Err(version)));
    }
}
