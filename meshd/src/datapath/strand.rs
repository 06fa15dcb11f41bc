//! Strands: an origin's frames come by one or more, and each has a lane.

use meshd_core::flow::Origin;
use meshd_core::steering::WayId;
use std::ops::RangeInclusive;

/// Which of an origin's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strand {
    /// All.
    Whole,
    /// Those that come from a peer by one of the ways to it.
    Way(WayId),
    /// Those in one queue of a port's TAP, counted from 0.
    Queue(usize),
}

/// A lane: whose, and which of its frames.
pub(super) type LaneId = (Origin, Strand);

/// The lanes of an origin.
pub(super) fn all(origin: Origin) -> RangeInclusive<LaneId> {
    (origin, Strand::Whole)..=(origin, Strand::Queue(usize::MAX))
}
