//! Superframes: many frames of one flow in one, as a kernel gives and takes them (GSO), and how they are cut and joined.
//!
//! ```text
//!   | headers | payload .............................. |  segment = 1348      from a port's TAP, up to 64 KiB
//!   | headers | slice |  | headers | slice |  …                              one datagram each: says itself where it belongs
//!   | headers | slice slice slice … |                  segment = 1348      to the far TAP: as long a run as came unbroken
//!   | headers | segment |  | headers | segment |  …                          to whom takes no superframes
//! ```
//!
//! A run of slices is a superframe of its own: TCP may begin and end anywhere, UDP where a datagram does. So what is lost costs itself.
//! Where the path loses packets ([`Losses`]) repairs are sent along, and the far end makes again what is missing ([`Mender`]).
//!
//! Owns the words of virtio-net, where headers lie ([`Shape`]), and what is to be written into them for a part of the payload.
//! What is cut has its headers as they came; what is joined gets lengths, sequence number, flags and checksums that are true of
//! it. Refuses what is neither TCP nor UDP, fragments, and headers of more than [`HEADERS_MAX`] bytes.

mod checksum;
mod field;
mod headers;
mod losses;
mod mender;
mod missing;
mod run;
mod slice;
mod vnet;

pub use checksum::complete;
pub use headers::{HEADERS_MAX, Shape, segments};
pub use losses::Losses;
pub use mender::Mender;
pub use missing::Missing;
pub use run::{Joined, Run};
pub use slice::{Cut, REPAIRS_MAX, Repair, SLICE_LEN, Slice, SliceError};
pub use vnet::{Gso, VnetHeader};

/// Least segment: the least that Linux lets TCP have (`TCP_MIN_MSS`). Smaller ones are work without use.
pub const SEGMENT_MIN: u16 = 48;

/// Bytes of the longest superframe, from the destination MAC on: what virtio-net says of the longest it hands over.
pub const SUPERFRAME_MAX: usize = 65_550;

/// What is moved at once: a frame, or a superframe that stands for some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit<'a> {
    bytes: &'a [u8],
    segment: u16,
    headers: usize,
}

impl<'a> Unit<'a> {
    /// One frame.
    #[must_use]
    pub fn frame(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            segment: 0,
            headers: 0,
        }
    }

    /// A superframe to be cut into segments of so many bytes of payload; 0: it is one frame. `None`: it has no [`Shape`], or the
    /// segment is none.
    #[must_use]
    pub fn of(bytes: &'a [u8], segment: u16) -> Option<Self> {
        if segment == 0 {
            return Some(Self::frame(bytes));
        }
        let shape = Shape::of(bytes).filter(|_| segment >= SEGMENT_MIN)?;
        Some(Self {
            bytes,
            segment,
            headers: shape.headers(),
        })
    }

    /// All bytes, from the destination MAC on.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of payload in each of its frames; 0: it is one.
    #[must_use]
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// How many frames it stands for.
    #[must_use]
    pub fn frames(&self) -> u64 {
        match usize::from(self.segment) {
            0 => 1,
            segment => self
                .bytes
                .len()
                .saturating_sub(self.headers)
                .div_ceil(segment)
                .max(1) as u64,
        }
    }

    /// Bytes of the longest of them.
    #[must_use]
    pub fn longest(&self) -> usize {
        match usize::from(self.segment) {
            0 => self.bytes.len(),
            segment => self.bytes.len().min(self.headers + segment),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
