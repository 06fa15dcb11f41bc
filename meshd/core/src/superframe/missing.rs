//! What of a session's superframes did not come, in frames.
//!
//! Owns two sums: of the superframe that comes, and of the one before it, whose slices may be late. One of which no slice came is
//! not known here, so what is counted is the least that was lost.

use super::slice::{Slice, Whole};
use crate::ident::{Moment, Vni};

/// What has not come by then, in ms, is lost.
const WAIT_MS: u64 = 1000;

#[derive(Debug)]
struct Sum {
    whole: Whole,
    got: usize,
    begun: Moment,
}

impl Sum {
    /// Frames that are missing. TCP is cut anew where bytes are missing, so this counts segments that would have held them.
    fn lost(&self) -> (Vni, u64) {
        let missing = usize::from(self.whole.total).saturating_sub(self.got);
        let segment = usize::from(self.whole.segment.max(1));
        (self.whole.vni, missing.div_ceil(segment) as u64)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Missing {
    latest: Option<Sum>,
    before: Option<Sum>,
}

impl Missing {
    /// A slice is handed on. What of an earlier superframe is lost now: its network, and how many frames.
    pub fn slice(&mut self, slice: &Slice, now: Moment) -> Option<(Vni, u64)> {
        let len = slice.payload().len();
        for sum in [&mut self.latest, &mut self.before].into_iter().flatten() {
            if sum.whole == slice.whole {
                sum.got += len;
                return None;
            }
        }
        let next = Sum {
            whole: slice.whole,
            got: len,
            begun: now,
        };
        let gone = core::mem::replace(&mut self.before, self.latest.replace(next))?;
        Some(gone.lost()).filter(|(_, frames)| *frames > 0)
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let sums = [&self.before, &self.latest].into_iter().flatten();
        sums.map(|sum| sum.begun.plus_ms(WAIT_MS)).min()
    }

    /// What has not come in time; to be called until there is nothing.
    pub fn handle_timeout(&mut self, now: Moment) -> Option<(Vni, u64)> {
        for place in [&mut self.before, &mut self.latest] {
            if place
                .as_ref()
                .is_some_and(|sum| sum.begun.plus_ms(WAIT_MS) <= now)
                && let Some(sum) = place.take()
            {
                let lost = sum.lost();
                if lost.1 > 0 {
                    return Some(lost);
                }
            }
        }
        None
    }
}
