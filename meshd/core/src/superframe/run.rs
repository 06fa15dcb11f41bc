//! How slices that follow one another become one superframe again.

use super::headers::Part;
use super::slice::{Slice, Whole};
use crate::ident::Vni;
use crate::wire::datagram::{self, WHOLE_LEN};
use bytes::{BufMut, Bytes, BytesMut};

/// Slices that followed one another so far.
#[derive(Debug)]
struct Open {
    whole: Whole,
    begin: u16,
    next: usize,
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
            open.whole == slice.whole && open.next == usize::from(slice.offset)
        });
        let before = if goes_on { None } else { self.end() };
        let headers = slice.headers();
        let framed = &mut self.framed;
        let open = self.open.get_or_insert_with(|| {
            let left = usize::from(slice.whole.total) - usize::from(slice.offset);
            framed.reserve(WHOLE_LEN + headers.len() + left);
            let vni = slice.whole.vni;
            datagram::Header::Whole { vni }.encode_into(framed);
            framed.put_slice(headers);
            Open {
                whole: slice.whole,
                begin: slice.offset,
                next: usize::from(slice.offset),
            }
        });
        let payload = slice.payload();
        framed.put_slice(payload);
        open.next += payload.len();
        before
    }

    /// Is the open one complete? Then it need not wait for the next.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| open.next == usize::from(open.whole.total))
    }

    /// Ends the open one.
    pub fn end(&mut self) -> Option<Joined> {
        let open = self.open.take()?;
        let mut framed = self.framed.split();
        let Whole {
            vni,
            segment,
            total,
            shape,
            ..
        } = open.whole;
        let part = Part {
            offset: usize::from(open.begin),
            len: open.next - usize::from(open.begin),
            total: usize::from(total),
            segment,
        };
        let frame = framed.get_mut(WHOLE_LEN..)?;
        shape.write(frame, &part);
        let segment = if part.len > usize::from(segment) {
            segment
        } else {
            shape.complete(frame);
            0
        };
        Some((vni, framed.freeze(), segment))
    }
}
