//! Where the headers of a superframe lie, and what is written into them for a part of its payload.

use super::SEGMENT_MIN;
use super::checksum::{fold, sum};
use super::vnet::{Gso, VnetHeader};
use crate::frame::{ETHER_IPV4, ETHER_IPV6, ETHERNET_LEN};
use core::ops::Range;

/// Bytes of all headers together: a slice says their number in a byte.
pub const HEADERS_MAX: usize = 255;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// IPv6 extension headers that may stand before TCP: hop-by-hop, routing, destination.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const EXTENSIONS_MAX: usize = 4;
/// TCP flags.
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// Where the headers of a TCP or UDP packet lie in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    v6: bool,
    udp: bool,
    /// Where IP begins.
    l3: usize,
    /// Where TCP or UDP begins.
    l4: usize,
    /// Where the payload begins.
    payload: usize,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*two))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// A part of a superframe's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Where it begins.
    pub(super) offset: usize,
    /// Its bytes.
    pub(super) len: usize,
    /// Bytes of the whole payload.
    pub(super) total: usize,
    /// Bytes of a segment of it.
    pub(super) segment: u16,
}

impl Shape {
    /// Of a frame, or of its headers alone. Lengths in the headers are not looked at: they are written anew for each part.
    /// `None`: no TCP and no UDP, a fragment, or too many headers.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (mut ether_type, mut l3) = (be16(frame, 12)?, ETHERNET_LEN);
        for _ in 0..2 {
            if matches!(ether_type, 0x8100 | 0x88a8) {
                ether_type = be16(frame, l3 + 2)?;
                l3 += 4;
            }
        }
        let first = *frame.get(l3)?;
        let (v6, protocol, l4) = match (ether_type, first >> 4) {
            (ETHER_IPV4, 4) => {
                let len = usize::from(first & 15) * 4;
                // Neither a first nor a later fragment.
                let whole = be16(frame, l3 + 6)? & 0x3fff == 0;
                (len >= 20 && whole).then_some(())?;
                (false, *frame.get(l3 + 9)?, l3 + len)
            }
            (ETHER_IPV6, 6) => {
                let (mut next, mut at) = (*frame.get(l3 + 6)?, l3 + 40);
                for _ in 0..EXTENSIONS_MAX {
                    if EXTENSIONS.contains(&next) {
                        next = *frame.get(at)?;
                        at += 8 * (1 + usize::from(*frame.get(at + 1)?));
                    }
                }
                (true, next, at)
            }
            _ => return None,
        };
        let (udp, payload) = match protocol {
            TCP => {
                let len = usize::from(*frame.get(l4 + 12)? >> 4) * 4;
                (len >= 20).then_some((false, l4 + len))?
            }
            UDP => (true, l4 + 8),
            _ => return None,
        };
        (payload <= HEADERS_MAX.min(frame.len())).then_some(Self {
            v6,
            udp,
            l3,
            l4,
            payload,
        })
    }

    /// Bytes of all headers together.
    #[must_use]
    pub fn headers(&self) -> usize {
        self.payload
    }

    /// May parts end within a segment? Those of TCP may.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        !self.udp
    }

    /// What a kernel is to know of such a frame: that it is to be cut into segments of so many bytes, and its checksum filled in.
    #[must_use]
    pub fn vnet(&self, segment: u16) -> VnetHeader {
        let place = |at: usize| u16::try_from(at).unwrap_or_default();
        VnetHeader {
            needs_checksum: true,
            gso: match (self.udp, self.v6) {
                (true, _) => Gso::Udp,
                (false, false) => Gso::Tcp4,
                (false, true) => Gso::Tcp6,
            },
            header_len: place(self.payload),
            gso_size: segment,
            csum_start: place(self.l4),
            csum_offset: self.checksum_offset(),
            ..VnetHeader::default()
        }
    }

    fn checksum_offset(&self) -> u16 {
        if self.udp { 6 } else { 16 }
    }

    /// Makes headers true of a part. The checksum of TCP or UDP is that of the pseudo header alone: the rest is to be added from
    /// [`VnetHeader::csum_start`] on.
    pub(super) fn write(&self, headers: &mut [u8], part: &Part) {
        let l4_len = self.payload - self.l4 + part.len;
        if self.v6 {
            put16(
                headers,
                self.l3 + 4,
                short(self.payload - self.l3 - 40 + part.len),
            );
        } else {
            put16(
                headers,
                self.l3 + 2,
                short(self.payload - self.l3 + part.len),
            );
            // Each segment has a number of its own, as the kernel gives them.
            let before = part.offset / usize::from(part.segment.max(1));
            let id = be16(headers, self.l3 + 4).unwrap_or_default();
            put16(headers, self.l3 + 4, id.wrapping_add(short(before)));
            put16(headers, self.l3 + 10, 0);
            let covered = headers.get(self.l3..self.l4).unwrap_or_default();
            put16(headers, self.l3 + 10, !fold(sum(covered)));
        }
        if self.udp {
            put16(headers, self.l4 + 4, short(l4_len));
        } else {
            let place = headers
                .get_mut(self.l4 + 4..)
                .and_then(|b| b.first_chunk_mut::<4>());
            if let Some(place) = place {
                // Both are below 2^16.
                *place = u32::from_be_bytes(*place)
                    .wrapping_add(part.offset as u32)
                    .to_be_bytes();
            }
            if let Some(flags) = headers.get_mut(self.l4 + 13) {
                // As RFC 3168 §6.1.2 and the kernel have it: the first says that the window shrank, the last that there is no more.
                if part.offset > 0 {
                    *flags &= !CWR;
                }
                if part.offset + part.len < part.total {
                    *flags &= !FIN_PSH;
                }
            }
        }
        let protocol = if self.udp { UDP } else { TCP };
        let addresses = match self.v6 {
            true => headers.get(self.l3 + 8..self.l3 + 40),
            false => headers.get(self.l3 + 12..self.l3 + 20),
        };
        let pseudo = sum(addresses.unwrap_or_default()) + u64::from(protocol) + l4_len as u64;
        put16(
            headers,
            self.l4 + usize::from(self.checksum_offset()),
            fold(pseudo),
        );
    }

    /// Fills in the checksum of a frame that was made of a part.
    pub(super) fn complete(&self, frame: &mut [u8]) {
        super::complete(frame, short(self.l4), self.checksum_offset());
    }

    /// May such a part be one, and such a segment?
    pub(super) fn admits(&self, part: &Part) -> bool {
        let segment = usize::from(part.segment);
        let end = part.offset + part.len;
        let within = part.len > 0 && end <= part.total && part.segment >= SEGMENT_MIN;
        // An IP packet has no more than 65,535 bytes.
        let fits = part.total + self.payload - self.l3 <= usize::from(u16::MAX);
        let whole = self.is_stream()
            || (part.offset.is_multiple_of(segment.max(1))
                && (end == part.total || part.len.is_multiple_of(segment.max(1))));
        within && fits && whole
    }
}

fn short(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

/// Cuts a superframe into the frames that it stands for, whole and with true checksums, in `room`, which is used again for each.
/// False: it has no [`Shape`], or its segment is none.
pub fn segments(
    frame: &[u8],
    segment: u16,
    room: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]),
) -> bool {
    let Some(shape) = Shape::of(frame).filter(|_| segment >= SEGMENT_MIN) else {
        return false;
    };
    let (headers, payload) = frame.split_at(shape.payload);
    for range in ranges(payload.len(), usize::from(segment)) {
        let part = Part {
            offset: range.start,
            len: range.len(),
            total: payload.len(),
            segment,
        };
        room.clear();
        room.extend_from_slice(headers);
        shape.write(room, &part);
        room.extend_from_slice(payload.get(range).unwrap_or_default());
        shape.complete(room);
        each(room);
    }
    true
}

/// `0..len` in steps; at least one range, and none that is empty unless `len` is 0.
pub(super) fn ranges(len: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    let step = step.max(1);
    (0..len.max(1))
        .step_by(step)
        .map(move |at| at..len.min(at + step))
}
