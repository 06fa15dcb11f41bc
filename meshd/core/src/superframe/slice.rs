//! Slices: parts of a superframe's payload, each with all headers in front; and repairs, of which a slice that was lost can be made.
//!
//! ```text
//!   slice   | 0x05 | VNI 3 | number 4 | offset 2 | total 2 | segment 2 | headers' length 1 | repairs 1        | headers | payload …
//!   repair  | 0x06 | VNI 3 | number 4 | step 2   | total 2 | segment 2 | headers' length 1 | which 4 | repairs 4 | headers | sum …
//! ```
//!
//! Big-endian. `total` is the superframe's payload, `offset` where in it a slice begins, `step` how far apart they begin. There is one
//! repair, of one group of slices; or there are two for each group, first the plain ones of all groups and then the weighted ones. Slice
//! `i` is of group `i mod groups`, so that a burst of losses hits as many groups as it can. A plain repair is the sum of the
//! payloads of its group, each filled up with zeros; in a weighted one the last of them counts once, the one before twice, the one
//! before that four times and so on, as numbers of a [field](super::field). So a group can lose as many of its slices as it has repairs.
//! Repairs follow their slices at once.

use super::SEGMENT_MIN;
use super::field;
use super::headers::{Part, Shape};
use crate::ident::Vni;
use crate::wire::datagram;
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of the own header of a slice, and of a repair.
pub const SLICE_LEN: usize = 16;
/// Repairs of a superframe: their number has four bits, and is even if it is not one.
pub const REPAIRS_MAX: u8 = 14;

/// Groups that so many repairs are of; `None`: so many there cannot be.
pub(super) fn groups(repairs: u8) -> Option<u8> {
    match repairs {
        0 | 1 => Some(repairs),
        _ if repairs <= REPAIRS_MAX && repairs.is_multiple_of(2) => Some(repairs / 2),
        _ => None,
    }
}

/// What slices of one superframe have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) vni: Vni,
    /// Its number, unique among those of a session that can be on their way together.
    pub(super) id: u32,
    pub(super) segment: u16,
    /// Bytes of payload.
    pub(super) total: u16,
    pub(super) shape: Shape,
}

/// A part of a superframe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub(super) whole: Whole,
    pub(super) offset: u16,
    /// How many repairs follow.
    pub(super) repairs: u8,
    /// Headers and payload.
    pub(super) bytes: Bytes,
}

/// A sum of some slices of a superframe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub(super) whole: Whole,
    pub(super) step: u16,
    /// Which one of them.
    pub(super) which: u8,
    /// How many there are; more than `which`.
    pub(super) repairs: u8,
    /// Headers and sum.
    pub(super) bytes: Bytes,
}

/// Why a datagram is no slice and no repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a slice of {len} bytes with headers of {headers}, at {place} of {total} in segments of {segment}, is impossible"
)]
pub struct SliceError {
    len: usize,
    headers: u8,
    place: u16,
    total: u16,
    segment: u16,
}

/// The own header, read.
struct Head {
    whole: Whole,
    place: u16,
    last: u8,
    bytes: Bytes,
}

impl Head {
    /// `fits`: what else must be true of it.
    fn decode(datagram: &Bytes, fits: impl FnOnce(&Self) -> bool) -> Result<Self, SliceError> {
        let head = datagram.first_chunk::<SLICE_LEN>().copied();
        let head = head.unwrap_or_default();
        let [_, a, b, c, i, j, k, l, o, p, t, u, s, g, headers, last] = head;
        let [place, total, segment] = [[o, p], [t, u], [s, g]].map(u16::from_be_bytes);
        let error = SliceError {
            len: datagram.len(),
            headers,
            place,
            total,
            segment,
        };
        let read = || {
            let bytes = datagram.get(SLICE_LEN..)?;
            let shape = Shape::of(bytes.get(..usize::from(headers))?)?;
            let head = Self {
                whole: Whole {
                    vni: Vni::new(u32::from_be_bytes([0, a, b, c])).ok()?,
                    id: u32::from_be_bytes([i, j, k, l]),
                    segment,
                    total,
                    shape,
                },
                place,
                last,
                bytes: datagram.slice(SLICE_LEN..),
            };
            (shape.headers() == usize::from(headers) && fits(&head)).then_some(head)
        };
        read().ok_or(error)
    }

    fn payload_len(&self) -> usize {
        self.bytes.len() - self.whole.shape.headers()
    }
}

impl Slice {
    /// Reads a datagram of this kind. What is returned fits into its superframe and has headers that can be written for any part.
    ///
    /// # Errors
    /// If it does not.
    pub fn decode(datagram: &Bytes) -> Result<Self, SliceError> {
        let head = Head::decode(datagram, |head| {
            let part = Part {
                offset: usize::from(head.place),
                len: head.payload_len(),
                total: usize::from(head.whole.total),
                segment: head.whole.segment,
            };
            head.whole.shape.admits(&part) && groups(head.last).is_some()
        })?;
        Ok(Self {
            whole: head.whole,
            offset: head.place,
            repairs: head.last,
            bytes: head.bytes,
        })
    }

    pub(super) fn headers(&self) -> &[u8] {
        let headers = self.whole.shape.headers();
        self.bytes.get(..headers).unwrap_or_default()
    }

    pub(super) fn payload(&self) -> &[u8] {
        let headers = self.whole.shape.headers();
        self.bytes.get(headers..).unwrap_or_default()
    }

    pub(super) fn end(&self) -> usize {
        usize::from(self.offset) + self.payload().len()
    }
}

impl Repair {
    /// Reads a datagram of this kind. A slice of such a superframe that is made of what is returned fits into it.
    ///
    /// # Errors
    /// If it does not.
    pub fn decode(datagram: &Bytes) -> Result<Self, SliceError> {
        let head = Head::decode(datagram, |head| {
            // As the first slice is, of which there is one such at least.
            let part = Part {
                offset: 0,
                len: head.payload_len(),
                total: usize::from(head.whole.total),
                segment: head.whole.segment,
            };
            let (which, repairs) = (head.last >> 4, head.last & 15);
            head.whole.shape.admits(&part)
                && part.len == usize::from(head.place)
                && part.len < part.total
                && groups(repairs).is_some()
                && which < repairs
        })?;
        Ok(Self {
            whole: head.whole,
            step: head.place,
            which: head.last >> 4,
            repairs: head.last & 15,
            bytes: head.bytes,
        })
    }

    /// Of which slices it is the sum, and whether it is a weighted one.
    pub(super) fn of(&self) -> (u8, bool) {
        let groups = groups(self.repairs).unwrap_or_default();
        match self.which.checked_sub(groups) {
            None => (self.which, false),
            Some(group) => (group, true),
        }
    }

    pub(super) fn headers(&self) -> &[u8] {
        let headers = self.whole.shape.headers();
        self.bytes.get(..headers).unwrap_or_default()
    }

    pub(super) fn sum(&self) -> &[u8] {
        let headers = self.whole.shape.headers();
        self.bytes.get(headers..).unwrap_or_default()
    }
}

/// A superframe, and how it is cut into datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    segment: u16,
    total: u16,
    step: usize,
}

impl<'a> Cut<'a> {
    /// Into slices of at most `datagram_max` bytes with all that is in front of them. `None`: it has no [`Shape`], or a datagram takes
    /// no segment of it.
    #[must_use]
    pub fn of(frame: &'a [u8], segment: u16, datagram_max: usize) -> Option<Self> {
        let shape = Shape::of(frame).filter(|_| segment >= SEGMENT_MIN)?;
        let (headers, payload) = frame.split_at_checked(shape.headers())?;
        let most = datagram_max.checked_sub(SLICE_LEN + headers.len())?;
        let step = match shape.is_stream() {
            true => most,
            false => most - most % usize::from(segment),
        };
        let total = u16::try_from(payload.len()).ok()?;
        (step > 0 && total > 0).then_some(Self {
            headers,
            payload,
            segment,
            total,
            step,
        })
    }

    /// How many slices.
    #[must_use]
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.step)
    }

    /// The slices, and `repairs` repairs behind them, or one less if there cannot be so many; none of a superframe that is one slice.
    /// All are parts of `room`, whose memory is used again once none of an earlier superframe is left.
    pub fn datagrams<'r>(
        self,
        vni: Vni,
        id: u32,
        repairs: u8,
        room: &'r mut BytesMut,
    ) -> impl Iterator<Item = Bytes> + use<'a, 'r> {
        let count = self.count();
        let repairs = match (count, repairs.min(REPAIRS_MAX)) {
            (0 | 1, _) => 0,
            (_, 1) => 1,
            (_, repairs) => repairs & !1,
        };
        let groups = usize::from(groups(repairs).unwrap_or_default());
        let sums = usize::from(repairs);
        let bytes = self.payload.len() + sums * self.step;
        room.reserve(bytes + (count + sums) * (SLICE_LEN + self.headers.len()));
        (0..count + sums).map(move |index| {
            let (kind, place, last) = match index.checked_sub(count) {
                None => (datagram::SLICE, index * self.step, repairs),
                // Below 16.
                Some(which) => (datagram::REPAIR, self.step, (which as u8) << 4 | repairs),
            };
            room.put_u32(u32::from(kind) << 24 | vni.get());
            room.put_u32(id);
            // At most `total`: with one slice there is no repair.
            room.put_u16(place as u16);
            room.put_u16(self.total);
            room.put_u16(self.segment);
            // At most HEADERS_MAX.
            room.put_u8(self.headers.len() as u8);
            room.put_u8(last);
            room.put_slice(self.headers);
            let mut parts = self.payload.chunks(self.step);
            match index.checked_sub(count) {
                None => room.put_slice(parts.nth(index).unwrap_or_default()),
                Some(which) => {
                    let (group, is_weighted) = match which < groups {
                        true => (which, false),
                        false => (which - groups, true),
                    };
                    let at = room.len();
                    room.put_slice(parts.nth(group).unwrap_or_default());
                    room.resize(at + self.step, 0);
                    let sum = room.get_mut(at..).unwrap_or_default();
                    // `nth` took the group's first.
                    let others = parts.skip(groups - 1).step_by(groups);
                    others.for_each(|part| match is_weighted {
                        false => field::add(sum, part),
                        true => field::double_and_add(sum, part),
                    });
                }
            }
            room.split().freeze()
        })
    }
}
