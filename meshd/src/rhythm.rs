//! When what is looked at again and again is looked at: all at the same moments.
//!
//! ```text
//!   500 ms   |   |   |   |   |   |        each session looks for a smaller MTU, 128 of them: one wake-up
//!   1 s      |       |       |            the config file, plugins, the bridge's filters
//!   2 s      |               |            counters of losses
//! ```
//!
//! A processor that sleeps is woken for each moment at which something is due, which costs more than most looks do. Looks that each
//! wait by themselves spread over all moments; those at multiples of their periods meet. For what may wait for up to its period: not for
//! deadlines, and not for what sends, which would make a burst of it. Owns where counting begins.

use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Where counting begins.
static START: OnceLock<Instant> = OnceLock::new();

/// Returns at the next multiple of `period`, counted from the process's first use of this: after less than a period, or a whole
/// one. Cancelling loses nothing.
pub(crate) async fn beat(period: Duration) {
    sleep_until(upcoming(period)).await;
}

/// When that is.
pub(crate) fn upcoming(period: Duration) -> Instant {
    next(*START.get_or_init(Instant::now), Instant::now(), period)
}

/// The first multiple of `period` after `now`.
fn next(start: Instant, now: Instant, period: Duration) -> Instant {
    let since = now.saturating_duration_since(start);
    let part = since.as_nanos().checked_rem(period.as_nanos());
    // Less than a period, which is no longer than 500 years.
    let part = Duration::from_nanos(u64::try_from(part.unwrap_or_default()).unwrap_or_default());
    now + period.saturating_sub(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_a_period_meets_all_others_who_do() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let period = Duration::from_millis(500);
        for (now, due) in [(0, 500), (1, 500), (499, 500), (500, 1000), (1250, 1500)] {
            assert_eq!(next(start, at(now), period), at(due));
        }
        // Longer periods meet shorter ones.
        assert_eq!(next(start, at(1999), Duration::from_secs(2)), at(2000));
        assert_eq!(next(start, at(1999), period), at(2000));
    }

    #[test]
    fn a_clock_before_the_start_and_no_period_do_no_harm() {
        let start = Instant::now() + Duration::from_secs(9);
        let now = Instant::now();
        let period = Duration::from_secs(1);
        assert_eq!(next(start, now, period), now + period);
        assert_eq!(next(start, now, Duration::ZERO), now);
    }

    #[tokio::test]
    async fn two_who_began_at_different_moments_wake_a_whole_number_of_periods_apart() {
        let period = Duration::from_millis(200);
        let woken = |after| async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let due = upcoming(period);
            beat(period).await;
            assert!(Instant::now() >= due);
            due
        };
        beat(period).await;
        let (one, other) = tokio::join!(woken(5), woken(20));
        let apart = one.max(other).duration_since(one.min(other));
        assert_eq!(apart.as_nanos() % period.as_nanos(), 0);
    }
}
