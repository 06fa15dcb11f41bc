//! Slices: parts of a superframe's payload, each with all headers in front, and how those that follow one another become one again.
//!
//! ```text
//!   | 0x05 | VNI 3 | number 4 | offset 2 | total 2 | segment 2 | headers' length 1 | 0 | headers | payload ...     big-endian
//! ```
//!
//! `total` is the superframe's payload, `offset` where in it this one begins.

use super::SEGMENT_MIN;
use super::headers::{Part, Shape, ranges};
use crate::ident::Vni;
use crate::wire::datagram::{self, WHOLE_LEN};
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a slice's own header.
pub const SLICE_LEN: usize = 16;

/// A part of a superframe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its network.
    pub vni: Vni,
    /// The superframe's number, unique among those of a session that can be on their way together.
    pub id: u32,
    segment: u16,
    offset: u16,
    total: u16,
    shape: Shape,
    /// Headers and payload.
    bytes: Bytes,
}

/// Why a datagram is no slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a slice of {len} bytes with headers of {headers}, at {offset} of {total} in segments of {segment}, is impossible"
)]
pub struct SliceError {
    len: usize,
    headers: u8,
    offset: u16,
    total: u16,
    segment: u16,
}

impl Slice {
    /// Reads a datagram of this kind. What is returned fits into its superframe and has headers that can be written for any part.
    ///
    /// # Errors
    /// If it does not.
    pub fn decode(datagram: &Bytes) -> Result<Self, SliceError> {
        let head = datagram.first_chunk::<SLICE_LEN>().copied();
        let head = head.unwrap_or_default();
        let [_, a, b, c, i, j, k, l, o, p, t, u, s, g, headers, _] = head;
        let [offset, total, segment] = [[o, p], [t, u], [s, g]].map(u16::from_be_bytes);
        let error = SliceError {
            len: datagram.len(),
            headers,
            offset,
            total,
            segment,
        };
        let read = || {
            let bytes = datagram.get(SLICE_LEN..)?;
            let shape = Shape::of(bytes.get(..usize::from(headers))?)?;
            let slice = Self {
                vni: Vni::new(u32::from_be_bytes([0, a, b, c])).ok()?,
                id: u32::from_be_bytes([i, j, k, l]),
                segment,
                offset,
                total,
                shape,
                bytes: datagram.slice(SLICE_LEN..),
            };
            let fits = shape.headers() == usize::from(headers) && shape.admits(&slice.part());
            fits.then_some(slice)
        };
        read().ok_or(error)
    }

    fn part(&self) -> Part {
        Part {
            offset: usize::from(self.offset),
            len: self.bytes.len() - self.shape.headers(),
            total: usize::from(self.total),
            segment: self.segment,
        }
    }
}

/// Cuts a superframe into datagrams of at most `datagram_max` bytes; all are parts of `room`, whose memory is used again once none
/// of an earlier superframe is left. `None`: it has no [`Shape`], or a datagram takes no segment of it.
pub fn slices<'a>(
    vni: Vni,
    id: u32,
    frame: &'a [u8],
    segment: u16,
    datagram_max: usize,
    room: &'a mut BytesMut,
) -> Option<impl Iterator<Item = Bytes> + use<'a>> {
    let shape = Shape::of(frame).filter(|_| segment >= SEGMENT_MIN)?;
    let headers = frame.get(..shape.headers())?;
    let payload = frame.get(shape.headers()..)?;
    let most = datagram_max.checked_sub(SLICE_LEN + headers.len())?;
    let step = match shape.is_stream() {
        true => most,
        false => most - most % usize::from(segment),
    };
    let total = u16::try_from(payload.len()).ok()?;
    (step > 0 && total > 0).then_some(())?;
    let count = payload.len().div_ceil(step);
    room.reserve(payload.len() + count * (SLICE_LEN + headers.len()));
    // The length of headers is at most HEADERS_MAX.
    let headers_len = headers.len() as u8;
    Some(ranges(payload.len(), step).map(move |range| {
        room.put_u32(u32::from(datagram::SLICE) << 24 | vni.get());
        room.put_u32(id);
        room.put_u16(range.start as u16);
        room.put_u16(total);
        room.put_u16(segment);
        room.put_u8(headers_len);
        room.put_u8(0);
        room.put_slice(headers);
        room.put_slice(payload.get(range).unwrap_or_default());
        room.split().freeze()
    }))
}

/// Slices that followed one another so far.
#[derive(Debug)]
struct Open {
    vni: Vni,
    id: u32,
    shape: Shape,
    segment: u16,
    begin: u16,
    next: usize,
    total: u16,
}

/// What a session's slices become: a slice is joined to the one before if it goes on where that ended.
///
/// At most one superframe is open. Whoever reads ends it when nothing more is at hand, so nothing waits for what may be lost.
#[derive(Debug, Default)]
pub struct Run {
    open: Option<Open>,
    /// The overlay header of a whole frame, headers and payload of the open one. Its memory is used again once nobody has an
    /// earlier one.
    framed: BytesMut,
}

/// A superframe, or a frame, that was joined: the overlay header of a whole frame and the frame, and the bytes of a segment if it
/// is to be cut; 0: it is one frame.
pub type Joined = (Vni, Bytes, u16);

impl Run {
    /// Adds a slice. What it does not go on with is returned.
    pub fn push(&mut self, slice: &Slice) -> Option<Joined> {
        let goes_on = self.open.as_ref().is_some_and(|open| {
            (open.vni, open.id, open.segment, open.total)
                == (slice.vni, slice.id, slice.segment, slice.total)
                && open.next == usize::from(slice.offset)
                && open.shape == slice.shape
        });
        let before = if goes_on { None } else { self.end() };
        let headers = slice.shape.headers();
        let framed = &mut self.framed;
        let open = self.open.get_or_insert_with(|| {
            let left = usize::from(slice.total) - usize::from(slice.offset);
            framed.reserve(WHOLE_LEN + headers + left);
            datagram::Header::Whole { vni: slice.vni }.encode_into(framed);
            framed.put_slice(slice.bytes.get(..headers).unwrap_or_default());
            Open {
                vni: slice.vni,
                id: slice.id,
                shape: slice.shape,
                segment: slice.segment,
                begin: slice.offset,
                next: usize::from(slice.offset),
                total: slice.total,
            }
        });
        let payload = slice.bytes.get(headers..).unwrap_or_default();
        framed.put_slice(payload);
        open.next += payload.len();
        before
    }

    /// Is the open one complete? Then it need not wait for the next.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| open.next == usize::from(open.total))
    }

    /// Ends the open one.
    pub fn end(&mut self) -> Option<Joined> {
        let open = self.open.take()?;
        let mut framed = self.framed.split();
        let part = Part {
            offset: usize::from(open.begin),
            len: open.next - usize::from(open.begin),
            total: usize::from(open.total),
            segment: open.segment,
        };
        let frame = framed.get_mut(WHOLE_LEN..)?;
        open.shape.write(frame, &part);
        let segment = if part.len > usize::from(open.segment) {
            open.segment
        } else {
            open.shape.complete(frame);
            0
        };
        Some((open.vni, framed.freeze(), segment))
    }
}
