//! The overlay header in front of every QUIC datagram (RFC 9221) that carries a frame or a piece of one.
//!
//! ```text
//!   whole   | 0x01 | VNI 3 | frame ...                                     4 bytes
//!   piece   | 0x02 | VNI 3 | frame id 4 | offset 2 | total 2 | bytes ...  12 bytes     all big-endian
//!   copy    | 0x03, and 0x04 in pieces: as 0x01 and 0x02, for a mirror's copy of a frame
//!   slice   | 0x05 | VNI 3 | …      a part of a superframe, with headers of its own: see `superframe/slice.rs`
//!   repair  | 0x06 | VNI 3 | …      the sum of some of its slices: see there
//!   padding | 0x00 | anything                                              for the path's sake; nobody reads it
//! ```
//!
//! Owns the bytes, how a frame is cut into datagrams, and how pieces become a frame again. Refuses pieces that contradict
//! each other, and to hold more than [`UNFINISHED_MAX`] frames or [`UNFINISHED_BYTES_MAX`] bytes of one peer for longer than
//! [`PIECES_MS_MAX`]. Pieces may come in any order.

use crate::ident::{Moment, Vni};
use crate::ruling::DropReason;
use bytes::{BufMut, Bytes};
use core::ops::Range;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of the header of a whole frame.
pub const WHOLE_LEN: usize = 4;
/// Bytes of the header of a piece.
pub const PIECE_LEN: usize = 12;
/// Bytes of the longest frame that is carried: the largest MTU that drivers offer, an Ethernet header and two tags.
pub const FRAME_MAX: usize = 9216 + 22;
/// Least payload of a piece that is not the last; a path that cannot carry so much is not used.
pub const PIECE_PAYLOAD_MIN: usize = 256;
/// Unfinished frames of one peer.
pub const UNFINISHED_MAX: usize = 64;
/// Their bytes.
pub const UNFINISHED_BYTES_MAX: usize = 1 << 20;
/// How long the pieces of a frame are waited for, in ms.
pub const PIECES_MS_MAX: u64 = 1000;
/// Numbers of finished frames that are remembered, so that a late copy of a piece begins nothing.
const FINISHED_MAX: usize = 64;

const WHOLE: u8 = 1;
const PIECE: u8 = 2;
const COPY: u8 = 3;
const COPY_PIECE: u8 = 4;
/// A part of a superframe.
pub(crate) const SLICE: u8 = 5;
/// The sum of some of them.
pub(crate) const REPAIR: u8 = 6;
const PADDING: u8 = 0;

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A frame.
    Whole {
        /// Its network.
        vni: Vni,
    },
    /// A mirror's copy of a frame.
    Copy {
        /// The frame's network.
        vni: Vni,
    },
    /// Part of a frame, or of a copy.
    Piece {
        /// The frame's network.
        vni: Vni,
        /// The frame's number, unique among those of a session that can be on their way together.
        id: u32,
        /// Where in the frame the part begins.
        offset: u16,
        /// Bytes of the frame.
        total: u16,
        /// Of a mirror's copy.
        copy: bool,
    },
}

/// Why a datagram is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// The header is cut.
    #[error("{len} bytes are too few for the overlay header")]
    Short {
        /// What there was.
        len: usize,
    },
    /// Neither whole nor piece.
    #[error("kind {kind:#04x} is unknown; the sender may speak a newer protocol")]
    Kind {
        /// The first byte.
        kind: u8,
    },
    /// VNI 0.
    #[error("VNI 0 is no network")]
    Vni,
    /// A piece that is empty, reaches beyond its frame, or belongs to a frame that is too long.
    #[error("a piece of {len} bytes at {offset} of a frame of {total} is impossible")]
    Piece {
        /// Bytes of the piece.
        len: usize,
        /// Where it begins.
        offset: u16,
        /// Bytes of the frame.
        total: u16,
    },
}

impl Header {
    /// The frame's network.
    #[must_use]
    pub fn vni(&self) -> Vni {
        match *self {
            Self::Whole { vni } | Self::Copy { vni } | Self::Piece { vni, .. } => vni,
        }
    }

    /// Bytes of the header.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Whole { .. } | Self::Copy { .. } => WHOLE_LEN,
            Self::Piece { .. } => PIECE_LEN,
        }
    }

    /// Appends the header; the payload follows it.
    pub fn encode_into(&self, out: &mut impl BufMut) {
        let word = |kind: u8, vni: Vni| (u32::from(kind) << 24) | vni.get();
        match *self {
            Self::Whole { vni } => out.put_u32(word(WHOLE, vni)),
            Self::Copy { vni } => out.put_u32(word(COPY, vni)),
            Self::Piece {
                vni,
                id,
                offset,
                total,
                copy,
            } => {
                out.put_u32(word(if copy { COPY_PIECE } else { PIECE }, vni));
                out.put_u32(id);
                out.put_u16(offset);
                out.put_u16(total);
            }
        }
    }
}

/// Reads a datagram: its header, and the frame or the piece behind it, without a copy.
///
/// # Errors
/// If it is none of ours. A piece that is returned fits into its frame, and that is at most [`FRAME_MAX`] long.
pub fn decode(datagram: &Bytes) -> Result<(Header, Bytes), DatagramError> {
    let short = DatagramError::Short {
        len: datagram.len(),
    };
    let Some(&[kind, a, b, c]) = datagram.first_chunk::<4>() else {
        return Err(short);
    };
    if !matches!(kind, WHOLE | PIECE | COPY | COPY_PIECE) {
        return Err(DatagramError::Kind { kind });
    }
    let vni = Vni::new(u32::from_be_bytes([0, a, b, c])).map_err(|_| DatagramError::Vni)?;
    match kind {
        WHOLE => return Ok((Header::Whole { vni }, datagram.slice(WHOLE_LEN..))),
        COPY => return Ok((Header::Copy { vni }, datagram.slice(WHOLE_LEN..))),
        _ => {}
    }
    let Some(&[_, _, _, _, i, j, k, l, o, p, t, u]) = datagram.first_chunk::<PIECE_LEN>() else {
        return Err(short);
    };
    let (id, offset, total) = (
        u32::from_be_bytes([i, j, k, l]),
        u16::from_be_bytes([o, p]),
        u16::from_be_bytes([t, u]),
    );
    let payload = datagram.slice(PIECE_LEN..);
    let len = payload.len();
    if len == 0 || usize::from(offset) + len > usize::from(total) || usize::from(total) > FRAME_MAX
    {
        return Err(DatagramError::Piece { len, offset, total });
    }
    Ok((
        Header::Piece {
            vni,
            id,
            offset,
            total,
            copy: kind == COPY_PIECE,
        },
        payload,
    ))
}

/// A datagram of `len` bytes, at least one, that carries nothing.
#[must_use]
pub fn padding(len: usize) -> Bytes {
    Bytes::from(vec![PADDING; len.max(1)])
}

/// True if a datagram carries a part of a superframe: for [`Slice::decode`](crate::superframe::Slice::decode), not for [`decode`].
#[must_use]
pub fn is_slice(datagram: &Bytes) -> bool {
    datagram.first() == Some(&SLICE)
}

/// True if a datagram carries a sum of such parts: for [`Repair::decode`](crate::superframe::Repair::decode).
#[must_use]
pub fn is_repair(datagram: &Bytes) -> bool {
    datagram.first() == Some(&REPAIR)
}

/// True if a datagram carries nothing.
#[must_use]
pub fn is_padding(datagram: &Bytes) -> bool {
    datagram.first() == Some(&PADDING)
}

/// Cuts a frame of `frame_len` bytes into datagrams of at most `datagram_max` bytes: for each its header, and which bytes
/// of the frame follow it. One whole datagram if that is enough; else as few pieces as can be, of one size, under number
/// `id`. Of one size, since a path that has begun to take smaller packets than before may still take those. Nothing if the
/// frame is too long, or the datagrams are too short to cut anything for. `copy`: for a mirror.
pub fn split(
    vni: Vni,
    id: u32,
    frame_len: usize,
    datagram_max: usize,
    copy: bool,
) -> impl Iterator<Item = (Header, Range<usize>)> {
    let whole = frame_len + WHOLE_LEN <= datagram_max;
    let step = datagram_max.saturating_sub(PIECE_LEN);
    let fits = frame_len <= FRAME_MAX && (whole || step >= PIECE_PAYLOAD_MIN);
    let count = frame_len.div_ceil(step.max(1)).max(1);
    let step = frame_len.div_ceil(count).max(PIECE_PAYLOAD_MIN).min(step);
    let (mut at, mut over) = (0, !fits);
    core::iter::from_fn(move || {
        if over {
            return None;
        }
        if whole {
            over = true;
            let header = match copy {
                true => Header::Copy { vni },
                false => Header::Whole { vni },
            };
            return Some((header, 0..frame_len));
        }
        let range = at..frame_len.min(at + step);
        // Both fit into 16 bits: a frame is at most FRAME_MAX long.
        let header = Header::Piece {
            vni,
            id,
            offset: at as u16,
            total: frame_len as u16,
            copy,
        };
        at = range.end;
        over = at >= frame_len;
        Some((header, range))
    })
}

/// What became of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Others are missing.
    Wanting,
    /// The frame is whole.
    Frame(Vni, Bytes),
    /// A mirror's copy is.
    Copy(Vni, Bytes),
    /// It contradicts what came before, or came before: dropped.
    Rejected,
}

#[derive(Debug)]
struct Unfinished {
    vni: Vni,
    bytes: Vec<u8>,
    /// What is there: begin to end, apart from each other.
    have: BTreeMap<u16, u16>,
    /// In the order of arrival.
    since: Moment,
    copy: bool,
}

/// Frames of one peer of which pieces are missing.
#[derive(Debug, Default)]
pub struct Reassembly {
    unfinished: BTreeMap<u32, Unfinished>,
    /// Oldest first; each has an unfinished frame.
    order: VecDeque<u32>,
    bytes: usize,
    finished: VecDeque<u32>,
    lost: Lost,
}

/// Frames that were given up, by network and reason.
pub type Lost = BTreeMap<(Option<Vni>, DropReason), u64>;

/// Networks and reasons that are told apart between two looks at what was given up.
const LOST_MAX: usize = 64;

impl Reassembly {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A piece came: `header` and `payload` as [`decode`] returned them. With too many unfinished frames the oldest is
    /// given up: it has lost a piece most likely.
    pub fn push(&mut self, header: &Header, payload: &Bytes, now: Moment) -> Pushed {
        let &Header::Piece {
            vni,
            id,
            offset,
            total,
            copy,
        } = header
        else {
            let (vni, frame) = (header.vni(), payload.clone());
            return match header {
                Header::Copy { .. } => Pushed::Copy(vni, frame),
                _ => Pushed::Frame(vni, frame),
            };
        };
        let total_len = usize::from(total);
        let begin = usize::from(offset);
        let end = begin + payload.len();
        if payload.is_empty()
            || end > total_len
            || total_len > FRAME_MAX
            || self.finished.contains(&id)
        {
            return Pushed::Rejected;
        }
        if !self.unfinished.contains_key(&id) {
            while self.unfinished.len() >= UNFINISHED_MAX
                || self.bytes + total_len > UNFINISHED_BYTES_MAX
            {
                self.give_up_oldest(DropReason::ReassemblyFull);
            }
            self.bytes += total_len;
            self.order.push_back(id);
            self.unfinished.insert(
                id,
                Unfinished {
                    vni,
                    bytes: vec![0; total_len],
                    have: BTreeMap::new(),
                    since: now,
                    copy,
                },
            );
        }
        let Some(frame) = self.unfinished.get_mut(&id) else {
            return Pushed::Rejected;
        };
        if frame.vni != vni
            || frame.copy != copy
            || frame.bytes.len() != total_len
            || !frame.put(begin, end, payload)
        {
            return Pushed::Rejected;
        }
        if frame.have.first_key_value() != Some((&0, &total)) {
            return Pushed::Wanting;
        }
        self.order.retain(|&other| other != id);
        if self.finished.len() >= FINISHED_MAX {
            self.finished.pop_front();
        }
        self.finished.push_back(id);
        match self.take(id) {
            Some(frame) if copy => Pushed::Copy(vni, Bytes::from(frame.bytes)),
            Some(frame) => Pushed::Frame(vni, Bytes::from(frame.bytes)),
            None => Pushed::Rejected,
        }
    }

    /// Gives up frames whose pieces took too long.
    pub fn handle_timeout(&mut self, now: Moment) {
        while self.poll_timeout().is_some_and(|due| due <= now) {
            self.give_up_oldest(DropReason::PieceMissing);
        }
    }

    /// When the first frame is given up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let first = self.order.front().and_then(|id| self.unfinished.get(id));
        first.map(|frame| frame.since.plus_ms(PIECES_MS_MAX))
    }

    /// Frames given up since the last call: for lack of room, and for lack of a piece in time.
    pub fn take_lost(&mut self) -> Lost {
        core::mem::take(&mut self.lost)
    }

    /// Unfinished frames, and their bytes.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.unfinished.len(), self.bytes)
    }

    fn give_up_oldest(&mut self, reason: DropReason) {
        let oldest = self.order.pop_front().and_then(|id| self.take(id));
        if let Some(frame) = oldest {
            let known =
                self.lost.len() < LOST_MAX || self.lost.contains_key(&(Some(frame.vni), reason));
            let vni = known.then_some(frame.vni);
            *self.lost.entry((vni, reason)).or_default() += 1;
        }
    }

    fn take(&mut self, id: u32) -> Option<Unfinished> {
        let frame = self.unfinished.remove(&id)?;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }
}

impl Unfinished {
    /// Puts bytes where there are none yet. The number of gaps is bounded by the least size of a piece.
    fn put(&mut self, begin: usize, end: usize, payload: &[u8]) -> bool {
        let (Ok(mut from), Ok(mut to)) = (u16::try_from(begin), u16::try_from(end)) else {
            return false;
        };
        let last = end == self.bytes.len();
        if !last && payload.len() < PIECE_PAYLOAD_MIN {
            return false;
        }
        let before = self.have.range(..to).next_back().map(|(&b, &e)| (b, e));
        if before.is_some_and(|(_, e)| e > from) {
            return false;
        }
        match self.bytes.get_mut(begin..end) {
            Some(place) if place.len() == payload.len() => place.copy_from_slice(payload),
            _ => return false,
        }
        if let Some((b, e)) = before
            && e == from
        {
            from = b;
        }
        if let Some(e) = self.have.remove(&to) {
            to = e;
        }
        self.have.insert(from, to);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vni() -> Vni {
        Vni::new(0x00ab_cdef).unwrap()
    }

    fn datagrams(id: u32, frame: &[u8], max: usize) -> Vec<Bytes> {
        let cut = split(vni(), id, frame.len(), max, false);
        cut.map(|(header, range)| {
            let mut out = Vec::new();
            header.encode_into(&mut out);
            assert_eq!(out.len(), header.encoded_len());
            out.extend_from_slice(&frame[range]);
            assert!(out.len() <= max);
            Bytes::from(out)
        })
        .collect()
    }

    fn push(reassembly: &mut Reassembly, datagram: &Bytes, now: Moment) -> Pushed {
        let (header, payload) = decode(datagram).unwrap();
        reassembly.push(&header, &payload, now)
    }

    proptest! {
        #[test]
        fn a_frame_cut_and_put_together_in_any_order_is_the_frame(
            (frame, max, order) in (proptest::collection::vec(any::<u8>(), 14..FRAME_MAX), 300..1500usize, any::<u64>()),
        ) {
            let mut cut = datagrams(9, &frame, max);
            // A shuffle from one number, so that a failure prints it.
            for i in (1..cut.len()).rev() {
                cut.swap(i, (order.rotate_left(i as u32 * 7) % (i as u64 + 1)) as usize);
            }
            let mut reassembly = Reassembly::new();
            for (i, datagram) in cut.iter().enumerate() {
                let pushed = push(&mut reassembly, datagram, Moment(0));
                if i + 1 < cut.len() {
                    prop_assert_eq!(pushed, Pushed::Wanting);
                } else {
                    prop_assert_eq!(pushed, Pushed::Frame(vni(), Bytes::from(frame.clone())));
                }
            }
            prop_assert_eq!(reassembly.sizes(), (0, 0));
            for datagram in cut.iter().filter(|d| d[0] == PIECE) {
                prop_assert_eq!(push(&mut reassembly, datagram, Moment(0)), Pushed::Rejected, "a copy begins nothing");
            }
        }

        #[test]
        fn a_header_reads_back_what_was_written(number in 1..1u32 << 24, id: u32, offset in 0..9000u16, more in 1..200u16) {
            let vni = Vni::new(number).unwrap();
            for header in [Header::Whole { vni }, Header::Copy { vni }, Header::Piece { vni, id, offset, total: offset + more, copy: false }, Header::Piece { vni, id, offset, total: offset + more, copy: true }] {
                let mut out = Vec::new();
                header.encode_into(&mut out);
                out.push(7);
                prop_assert_eq!(decode(&Bytes::from(out)).unwrap(), (header, Bytes::from_static(&[7])));
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>, kind in 0..4u8) {
            let _ = decode(&Bytes::from(bytes.clone()));
            let _ = decode(&Bytes::from([vec![kind], bytes].concat()));
        }

        #[test]
        fn no_sequence_of_pieces_exceeds_the_bounds(
            pieces in proptest::collection::vec((any::<u8>(), 0..9300u16, 0..9300u16, 0..2000usize, 0..50u64), 1..400),
        ) {
            let mut reassembly = Reassembly::new();
            let mut now = Moment(0);
            for (id, offset, total, len, ms) in pieces {
                now = now.plus_ms(ms);
                let header = Header::Piece { vni: vni(), id: id.into(), offset, total, copy: false };
                reassembly.push(&header, &Bytes::from(vec![1; len]), now);
                reassembly.handle_timeout(now);
                let (frames, bytes) = reassembly.sizes();
                prop_assert!(frames <= UNFINISHED_MAX && bytes <= UNFINISHED_BYTES_MAX);
                prop_assert_eq!(bytes, reassembly.unfinished.values().map(|f| f.bytes.len()).sum::<usize>());
                prop_assert_eq!(reassembly.order.len(), frames);
                for frame in reassembly.unfinished.values() {
                    prop_assert!(frame.have.len() <= FRAME_MAX / PIECE_PAYLOAD_MIN + 2);
                    prop_assert!(now.ms_since(frame.since) < PIECES_MS_MAX);
                }
            }
        }
    }

    #[test]
    fn pieces_are_as_few_as_can_be_and_of_one_size() {
        let lens = |frame: usize, max| -> Vec<usize> {
            split(vni(), 0, frame, max, false)
                .map(|(_, range)| range.len())
                .collect()
        };
        assert_eq!(lens(1442, 1430), [721, 721]);
        assert_eq!(lens(3001, 1200), [1001, 1001, 999]);
        // None but the last may be shorter than what a receiver takes.
        assert_eq!(lens(300, 300), [256, 44]);
    }

    #[test]
    fn padding_is_no_frame_and_nothing_else_is_padding() {
        for len in [0, 1, 1400] {
            let padding = padding(len);
            assert!(is_padding(&padding) && padding.len() == len.max(1));
            assert!(decode(&padding).is_err());
        }
        assert!(!is_padding(&datagrams(0, &[0; 100], 104)[0]));
        assert!(!is_padding(&datagrams(0, &[0; 1000], 500)[0]) && !is_padding(&Bytes::new()));
    }

    #[test]
    fn a_frame_that_fits_travels_whole() {
        assert_eq!(
            datagrams(0, &[7; 100], 104),
            [Bytes::from(
                [&[1, 0xab, 0xcd, 0xef][..], &[7; 100]].concat()
            )]
        );
    }

    #[test]
    fn nothing_is_cut_for_datagrams_that_are_too_short_or_from_a_frame_that_is_too_long() {
        assert_eq!(
            split(vni(), 0, 1000, PIECE_LEN + PIECE_PAYLOAD_MIN - 1, false).count(),
            0
        );
        assert_eq!(split(vni(), 0, FRAME_MAX + 1, 65_000, false).count(), 0);
        assert_eq!(
            split(vni(), 0, FRAME_MAX, 1200, false).count(),
            FRAME_MAX.div_ceil(1188)
        );
    }

    #[test]
    fn pieces_that_overlap_or_contradict_are_rejected_and_harm_nothing() {
        let mut reassembly = Reassembly::new();
        let bytes = |len| Bytes::from(vec![5; len]);
        let piece = |offset, total| Header::Piece {
            vni: vni(),
            id: 1,
            offset,
            total,
            copy: false,
        };
        assert_eq!(
            reassembly.push(&piece(300, 1000), &bytes(300), Moment(0)),
            Pushed::Wanting
        );
        for (header, len) in [
            (piece(300, 1000), 300),
            (piece(299, 1000), 300),
            (piece(599, 1000), 300),
            (piece(0, 1000), 1000),
            (piece(0, 999), 300),
            (piece(0, 1000), 20),
        ] {
            assert_eq!(
                reassembly.push(&header, &bytes(len), Moment(0)),
                Pushed::Rejected
            );
        }
        let elsewhere = Header::Piece {
            vni: Vni::new(1).unwrap(),
            id: 1,
            offset: 0,
            total: 1000,
            copy: false,
        };
        assert_eq!(
            reassembly.push(&elsewhere, &bytes(300), Moment(0)),
            Pushed::Rejected
        );
        assert_eq!(
            reassembly.push(&piece(0, 1000), &bytes(300), Moment(0)),
            Pushed::Wanting
        );
        assert_eq!(
            reassembly.push(&piece(600, 1000), &bytes(400), Moment(0)),
            Pushed::Frame(vni(), bytes(1000))
        );
    }

    #[test]
    fn a_frame_without_one_of_its_pieces_is_given_up_after_a_second() {
        let mut reassembly = Reassembly::new();
        let cut = datagrams(1, &[0; 3000], 1200);
        push(&mut reassembly, &cut[0], Moment(0));
        assert_eq!(reassembly.poll_timeout(), Some(Moment(0).plus_ms(1000)));
        reassembly.handle_timeout(Moment(0).plus_ms(1000));
        assert_eq!(
            (reassembly.sizes(), reassembly.take_lost()),
            (
                (0, 0),
                Lost::from([((Some(vni()), DropReason::PieceMissing), 1)])
            )
        );
    }

    #[test]
    fn with_too_many_unfinished_frames_the_oldest_makes_room() {
        let mut reassembly = Reassembly::new();
        for id in 0..=UNFINISHED_MAX as u32 {
            push(
                &mut reassembly,
                &datagrams(id, &[0; 3000], 1200)[0],
                Moment(0),
            );
        }
        assert_eq!(
            reassembly.take_lost(),
            Lost::from([((Some(vni()), DropReason::ReassemblyFull), 1)])
        );
        let newest = datagrams(UNFINISHED_MAX as u32, &[0; 3000], 1200);
        push(&mut reassembly, &newest[1], Moment(0));
        assert!(matches!(
            push(&mut reassembly, &newest[2], Moment(0)),
            Pushed::Frame(..)
        ));
    }
}
