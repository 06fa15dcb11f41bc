//! How much of what a session sends is lost, and how many repairs of a superframe that is worth.
//!
//! Owns the average and the rule. Congestion control inside the overlay halves its pace for each superframe that loses something, so
//! what counts is how often one cannot be mended. Of `n` slices a share `p` is lost: with one repair that is about `n² p² / 2`, with two for
//! each of `g` groups `n³ p³ / 6g²`. Repairs are as many as bring that below [`UNMENDED`], within what a path can be asked to carry,
//! and none where a queue is full.

use super::slice::REPAIRS_MAX;

/// Microseconds beyond the shortest round trip: a queue that long is a bottleneck's, and what it drops is no accident. More bytes
/// would only make it drop more.
const QUEUE_US: u64 = 20_000;
/// Packets between two looks.
const WINDOW: u64 = 1000;
/// What a look weighs in the average.
const WEIGHT: f64 = 0.125;
/// Below this share nothing is done.
const SHARE_MIN: f64 = 0.0002;
/// Superframes that cannot be mended.
const UNMENDED: f64 = 0.001;
/// Slices for each repair at least.
const SLICES_MIN: usize = 5;

/// The losses of one session, by its counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    sent: u64,
    lost: u64,
    share: f64,
}

impl Losses {
    /// The counters now: packets sent, and those of them that were found lost. `queue_us`: by so much a round trip is longer than
    /// the shortest.
    #[allow(clippy::cast_precision_loss)]
    pub fn look(&mut self, sent: u64, lost: u64, queue_us: u64) {
        let more = sent.saturating_sub(self.sent);
        if more < WINDOW {
            return;
        }
        let by_accident = match queue_us < QUEUE_US {
            true => lost.saturating_sub(self.lost),
            false => 0,
        };
        let share = by_accident as f64 / more as f64;
        self.share += (share.min(1.0) - self.share) * WEIGHT;
        (self.sent, self.lost) = (sent, lost);
    }

    /// Repairs for a superframe of so many slices.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub fn repairs(&self, slices: usize) -> u8 {
        let most = (slices / SLICES_MIN).min(usize::from(REPAIRS_MAX));
        if self.share < SHARE_MIN || most == 0 {
            return 0;
        }
        let lost = slices as f64 * self.share;
        if lost * lost / 2.0 <= UNMENDED || most == 1 {
            return 1;
        }
        let groups = (lost * lost * lost / (6.0 * UNMENDED)).sqrt().ceil();
        2 * groups.clamp(1.0, (most / 2) as f64) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(share_per_10_000: u64) -> Losses {
        let mut losses = Losses::default();
        for window in 1..100 {
            losses.look(window * 10_000, window * share_per_10_000, 500);
        }
        losses
    }

    #[test]
    fn repairs_grow_with_what_is_lost_and_are_none_where_nothing_is() {
        let of = |share| after(share).repairs(46);
        assert_eq!((of(0), of(1), of(5), of(10)), (0, 0, 1, 2));
        assert_eq!((of(50), of(100), of(9_000)), (4, 8, 8));
    }

    #[test]
    fn a_short_superframe_has_none_or_one_whatever_is_lost() {
        assert_eq!(after(500).repairs(4), 0);
        assert_eq!(after(500).repairs(5), 1);
        assert_eq!(after(500).repairs(10), 2);
        assert_eq!(after(0).repairs(0), 0);
    }

    #[test]
    fn a_path_that_heals_is_sent_no_repairs_in_the_end() {
        let mut losses = after(100);
        for window in 1..80 {
            losses.look(990_000 + window * 1000, 9_900, 500);
        }
        assert_eq!(losses.repairs(46), 0);
    }

    #[test]
    fn what_a_full_queue_drops_is_not_mended() {
        let mut losses = Losses::default();
        for window in 1..100 {
            losses.look(window * 10_000, window * 100, 60_000);
        }
        assert_eq!(losses.repairs(46), 0);
    }
}
