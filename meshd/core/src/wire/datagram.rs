//! The overlay header in front of every QUIC datagram (RFC 9221) that carries a frame or a piece of one.
//!
//! ```text
//!   whole   0x01 | VNI (3) | frame
//!   piece   0x02 | VNI (3) | frame number (4) | offset (2) | length of the frame (2) | bytes of the frame from offset on
//! ```
//!
//! All numbers big-endian; a frame starts with its destination MAC. Owns the header, the cut and the putting together.
//! Refuses pieces that overlap, contradict each other or exceed the bounds below; holds no more than they say, whatever a
//! peer sends.

use crate::ident::{Moment, Vni};
use crate::ruling::DropReason;
use bytes::{BufMut, Bytes};
use core::ops::Range;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of the header of a whole frame.
pub const WHOLE_HEADER: usize = 4;
/// Bytes of the header of a piece.
pub const PIECE_HEADER: usize = 12;
/// Longest frame that may be cut: an MTU of 9000 with Ethernet header and two tags, rounded up.
pub const FRAME_MAX: usize = 9238;
/// Most pieces of a frame: with datagrams of 1200 bytes, the least that QUIC carries, a frame needs 8.
pub const PIECES_MAX: usize = 16;
/// Unfinished frames of one peer.
pub const FRAMES_MAX: usize = 64;
/// How long a frame may stay unfinished, in ms.
pub const LIFETIME_MS: u64 = 1000;

const WHOLE: u8 = 1;
const PIECE: u8 = 2;

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A frame follows the header.
    Whole {
        /// Its network.
        vni: Vni,
    },
    /// A piece of a frame follows the header.
    Piece(Piece),
}

/// Header of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The network.
    pub vni: Vni,
    /// The same for all pieces of a frame; wraps.
    pub frame: u32,
    /// Where in the frame it belongs.
    pub offset: u16,
    /// Bytes of the frame.
    pub length: u16,
}

/// Bytes that are no datagram of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datagram does not follow the protocol")]
pub struct DatagramError;

/// The header of a whole frame.
#[must_use]
pub fn whole_header(vni: Vni) -> [u8; WHOLE_HEADER] {
    let [_, a, b, c] = vni.get().to_be_bytes();
    [WHOLE, a, b, c]
}

impl Piece {
    /// Writes the header.
    pub fn put(&self, out: &mut impl BufMut) {
        let [_, a, b, c] = self.vni.get().to_be_bytes();
        out.put_slice(&[PIECE, a, b, c]);
        out.put_u32(self.frame);
        out.put_u16(self.offset);
        out.put_u16(self.length);
    }
}

/// Reads the header.
///
/// # Errors
/// If it is cut short, of an unknown kind, or names no VNI.
pub fn decode(bytes: &[u8]) -> Result<Datagram, DatagramError> {
    let (&[kind, a, b, c], rest) = bytes.split_first_chunk().ok_or(DatagramError)?;
    let vni = Vni::new(u32::from_be_bytes([0, a, b, c])).map_err(|_| DatagramError)?;
    match kind {
        WHOLE => Ok(Datagram::Whole { vni }),
        PIECE => {
            let &[f0, f1, f2, f3, o0, o1, l0, l1] = rest.first_chunk().ok_or(DatagramError)?;
            let (frame, offset, length) = (
                u32::from_be_bytes([f0, f1, f2, f3]),
                u16::from_be_bytes([o0, o1]),
                u16::from_be_bytes([l0, l1]),
            );
            Ok(Datagram::Piece(Piece {
                vni,
                frame,
                offset,
                length,
            }))
        }
        _ => Err(DatagramError),
    }
}

/// Pieces of a frame of `length` bytes for datagrams of `max` bytes: header and range, in order. Nothing, if the frame or
/// the datagrams are of a size that cannot be.
pub fn split(
    vni: Vni,
    frame: u32,
    length: usize,
    max: usize,
) -> impl Iterator<Item = (Piece, Range<usize>)> {
    let room = max.saturating_sub(PIECE_HEADER);
    let fits = length <= FRAME_MAX && room > 0 && length.div_ceil(room) <= PIECES_MAX;
    let end = if fits { length } else { 0 };
    (0..end).step_by(room.max(1)).filter_map(move |offset| {
        let header = Piece {
            vni,
            frame,
            offset: u16::try_from(offset).ok()?,
            length: u16::try_from(length).ok()?,
        };
        Some((header, offset..(offset + room).min(length)))
    })
}

#[derive(Debug)]
struct Partial {
    vni: Vni,
    length: u16,
    /// By offset; they do not overlap.
    pieces: BTreeMap<u16, Bytes>,
    missing: usize,
    deadline: Moment,
}

/// Puts the pieces of one peer together. Holds at most [`FRAMES_MAX`] frames of [`FRAME_MAX`] bytes; the oldest gives way.
#[derive(Debug, Default)]
pub struct Reassembly {
    partial: BTreeMap<u32, Partial>,
    /// Frame numbers in order of their first piece.
    order: VecDeque<u32>,
    given_up: u64,
}

impl Reassembly {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a piece; gives the frame if it was the last one.
    ///
    /// # Errors
    /// [`DropReason::BadDatagram`] if the piece contradicts its own header or another piece; that frame is given up.
    pub fn piece(
        &mut self,
        piece: &Piece,
        bytes: Bytes,
        now: Moment,
    ) -> Result<Option<Bytes>, DropReason> {
        self.expire(now);
        let (start, end) = (
            usize::from(piece.offset),
            usize::from(piece.offset) + bytes.len(),
        );
        if bytes.is_empty()
            || end > usize::from(piece.length)
            || usize::from(piece.length) > FRAME_MAX
        {
            return Err(DropReason::BadDatagram);
        }
        let partial = match self.partial.entry(piece.frame) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                self.order.push_back(piece.frame);
                let missing = usize::from(piece.length);
                new.insert(Partial {
                    vni: piece.vni,
                    length: piece.length,
                    pieces: BTreeMap::new(),
                    missing,
                    deadline: now.plus_ms(LIFETIME_MS),
                })
            }
        };
        let before = partial
            .pieces
            .range(..=piece.offset)
            .next_back()
            .map_or(0, |(at, b)| usize::from(*at) + b.len());
        let after = partial
            .pieces
            .range(piece.offset..)
            .next()
            .map_or(usize::MAX, |(at, _)| usize::from(*at));
        let contradicts = partial.vni != piece.vni
            || partial.length != piece.length
            || before > start
            || after < end
            || partial.pieces.len() == PIECES_MAX;
        if contradicts {
            self.forget(piece.frame);
            return Err(DropReason::BadDatagram);
        }
        partial.missing -= bytes.len();
        // A copy, so that a small piece does not hold on to the receive buffer that it came in.
        partial
            .pieces
            .insert(piece.offset, Bytes::copy_from_slice(&bytes));
        let frame =
            (partial.missing == 0).then(|| partial.pieces.values().flatten().copied().collect());
        if frame.is_some() {
            self.partial.remove(&piece.frame);
            self.order.retain(|number| *number != piece.frame);
        } else if self.order.len() > FRAMES_MAX
            && let Some(&oldest) = self.order.front()
        {
            self.forget(oldest);
        }
        Ok(frame)
    }

    /// Gives up what is unfinished for too long.
    pub fn expire(&mut self, now: Moment) {
        while let Some(&oldest) = self.order.front() {
            match self.partial.get(&oldest) {
                Some(partial) if partial.deadline > now => return,
                _ => self.forget(oldest),
            }
        }
    }

    /// Frames that were given up since the start.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Bytes of frames held, for the bound's test.
    #[must_use]
    pub fn held(&self) -> usize {
        self.partial
            .values()
            .flat_map(|p| p.pieces.values())
            .map(Bytes::len)
            .sum()
    }

    fn forget(&mut self, frame: u32) {
        self.partial.remove(&frame);
        self.order.retain(|number| *number != frame);
        self.given_up += 1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vni() -> Vni {
        Vni::new(77).unwrap()
    }

    fn cut(frame: u32, bytes: &[u8], max: usize) -> Vec<(Piece, Bytes)> {
        split(vni(), frame, bytes.len(), max)
            .map(|(piece, range)| (piece, Bytes::copy_from_slice(&bytes[range])))
            .collect()
    }

    proptest! {
        #[test]
        fn what_is_cut_is_put_together_in_any_order(
            bytes in proptest::collection::vec(any::<u8>(), 1..FRAME_MAX),
            max in 1200..1500usize,
            order in any::<proptest::sample::Index>(),
        ) {
            let mut pieces = cut(1, &bytes, max);
            let turn = order.index(pieces.len());
            pieces.rotate_left(turn);
            pieces.reverse();
            let mut reassembly = Reassembly::new();
            let mut whole = None;
            for (piece, data) in &pieces {
                prop_assert!(data.len() + PIECE_HEADER <= max);
                prop_assert!(whole.is_none());
                whole = reassembly.piece(piece, data.clone(), Moment(0)).unwrap();
            }
            prop_assert_eq!(whole.unwrap(), bytes);
            prop_assert_eq!(reassembly.held(), 0);
        }

        #[test]
        fn a_header_reads_back_as_written(number in 1u32..1 << 24, frame: u32, offset: u16, length: u16) {
            let vni = Vni::new(number).unwrap();
            let piece = Piece { vni, frame, offset, length };
            let mut out = Vec::new();
            piece.put(&mut out);
            prop_assert_eq!(out.len(), PIECE_HEADER);
            prop_assert_eq!(decode(&out), Ok(Datagram::Piece(piece)));
            prop_assert_eq!(decode(&whole_header(vni)), Ok(Datagram::Whole { vni }));
        }

        #[test]
        fn any_pieces_stay_within_the_bounds(
            pieces in proptest::collection::vec((0u32..200, any::<u16>(), any::<u16>(), 0usize..1400), 0..400),
        ) {
            let mut reassembly = Reassembly::new();
            for (at, (frame, offset, length, size)) in (0u64..).zip(pieces) {
                let piece = Piece { vni: vni(), frame, offset, length };
                let _ = reassembly.piece(&piece, Bytes::from(vec![0; size]), Moment(at * 1000));
                prop_assert!(reassembly.held() <= FRAMES_MAX * FRAME_MAX);
                prop_assert!(reassembly.order.len() <= FRAMES_MAX);
                prop_assert_eq!(reassembly.order.len(), reassembly.partial.len());
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn an_overlap_costs_the_frame_and_is_named() {
        let mut reassembly = Reassembly::new();
        let piece = |offset| Piece {
            vni: vni(),
            frame: 9,
            offset,
            length: 100,
        };
        assert_eq!(
            reassembly.piece(&piece(0), Bytes::from(vec![1; 60]), Moment(0)),
            Ok(None)
        );
        assert_eq!(
            reassembly.piece(&piece(50), Bytes::from(vec![2; 50]), Moment(0)),
            Err(DropReason::BadDatagram)
        );
        assert_eq!((reassembly.held(), reassembly.given_up()), (0, 1));
    }

    #[test]
    fn an_unfinished_frame_is_given_up_after_its_lifetime() {
        let mut reassembly = Reassembly::new();
        let piece = Piece {
            vni: vni(),
            frame: 9,
            offset: 0,
            length: 100,
        };
        assert_eq!(
            reassembly.piece(&piece, Bytes::from(vec![1; 60]), Moment(0)),
            Ok(None)
        );
        reassembly.expire(Moment(0).plus_ms(LIFETIME_MS - 1));
        assert_eq!(reassembly.given_up(), 0);
        reassembly.expire(Moment(0).plus_ms(LIFETIME_MS));
        assert_eq!((reassembly.held(), reassembly.given_up()), (0, 1));
    }

    #[test]
    fn the_oldest_gives_way_when_too_many_are_unfinished() {
        let mut reassembly = Reassembly::new();
        let frames = u32::try_from(FRAMES_MAX).unwrap() + 1;
        for frame in 0..frames {
            let piece = Piece {
                vni: vni(),
                frame,
                offset: 0,
                length: 100,
            };
            assert_eq!(
                reassembly.piece(&piece, Bytes::from(vec![1; 60]), Moment(0)),
                Ok(None)
            );
        }
        assert_eq!(reassembly.given_up(), 1);
        let rest = |frame| Piece {
            vni: vni(),
            frame,
            offset: 60,
            length: 100,
        };
        assert_eq!(
            reassembly
                .piece(&rest(1), Bytes::from(vec![1; 40]), Moment(0))
                .unwrap()
                .unwrap()
                .len(),
            100
        );
    }
}
