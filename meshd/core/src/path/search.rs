//! The size between one that passes and one that does not, by halving: the path's MTU, if it is less than the network's.

use crate::wire::probe::PROBE_MIN;

/// Losses of one size that make it count as too large.
const LOST_MIN: u8 = 2;
/// The same for the full size, with which everything begins.
const FULL_LOST_MIN: u8 = 3;
/// Bytes of an Ethernet header: between a frame and the MTU that it needs.
const ETHERNET: u16 = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Search {
    full: u16,
    full_lost: u8,
    /// Largest that was heard.
    passed: Option<u16>,
    /// Smallest that was not.
    stuck: Option<u16>,
    /// Between them, and how often it was lost.
    trying: (u16, u8),
}

impl Search {
    pub(super) fn new(full: u16) -> Self {
        Self {
            full,
            full_lost: 0,
            passed: None,
            stuck: None,
            trying: (0, 0),
        }
    }

    pub(super) fn heard(&mut self, size: u16) {
        self.passed = Some(self.passed.map_or(size, |passed| passed.max(size)));
        if self.stuck.is_some_and(|stuck| stuck <= size) {
            // It grew, or chance had played.
            self.stuck = None;
            self.full_lost = 0;
        }
    }

    pub(super) fn lost(&mut self, size: u16) {
        if self.passed.is_some_and(|passed| size <= passed) {
            return;
        }
        let too_large = if size == self.full {
            self.full_lost = self.full_lost.saturating_add(1);
            self.full_lost >= FULL_LOST_MIN
        } else {
            let before = if self.trying.0 == size {
                self.trying.1
            } else {
                0
            };
            self.trying = (size, before.saturating_add(1));
            self.trying.1 >= LOST_MIN
        };
        if too_large {
            self.stuck = Some(self.stuck.map_or(size, |stuck| stuck.min(size)));
        }
    }

    /// The next size to try.
    pub(super) fn next(&self) -> Option<u16> {
        let (passed, stuck) = self.bounds()?;
        let half = stuck.saturating_sub(passed) / 2;
        (half > 0).then_some(passed + half)
    }

    /// Largest that passed and smallest that did not, once both are known.
    pub(super) fn bounds(&self) -> Option<(u16, u16)> {
        self.passed.zip(self.stuck)
    }

    /// The path's MTU, if it was found to the byte and is less than the network's.
    pub(super) fn found(&self) -> Option<u16> {
        let (passed, _) = self.bounds()?;
        (self.next().is_none() && passed >= PROBE_MIN).then_some(passed.saturating_sub(ETHERNET))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_mtu_is_found_to_the_byte_in_few_steps(full in 590..9014u16, fits in PROBE_MIN..9014) {
            prop_assume!(fits < full);
            let mut search = Search::new(full);
            search.heard(PROBE_MIN);
            (0..FULL_LOST_MIN).for_each(|_| search.lost(full));
            let mut steps = 0;
            while let Some(size) = search.next() {
                if size <= fits { search.heard(size) } else { search.lost(size) }
                steps += 1;
            }
            prop_assert_eq!(search.found(), Some(fits - ETHERNET));
            prop_assert!(steps <= 28);
            search.heard(full);
            prop_assert_eq!(search.found(), None);
        }
    }
}
