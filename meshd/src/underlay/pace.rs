//! How fast a far end may speak: beyond that it is read no further for a while, and QUIC's windows stop it.
//!
//! Owns the price of a message and the account. A member in a hurry (its first sync) has much saved up; one without end
//! costs this node a bounded share of its time.

use meshd_core::wire::control::Message;
use std::time::Duration;
use tokio::time::Instant;

/// Saved up at most: a directory of so many records comes without a pause.
const SAVED_MAX: u64 = 40_000;
/// Earned in a second. A record that is new costs about 0.1 ms, most of it for its signature.
const PER_SECOND: u64 = 2_000;
/// Bytes that cost as much as a record.
const BYTES: usize = 4096;
/// Lines of a digest that cost as much as a record.
const LINES: usize = 256;

/// What a message of `len` bytes costs the node, in records.
pub(super) fn cost(message: &Message, len: usize) -> u64 {
    let what = match message {
        Message::Records(records) => records.len(),
        Message::Digest { have, .. } => have.len() / LINES,
        _ => 0,
    };
    (1 + what + len / BYTES) as u64
}

/// One far end's account.
pub(super) struct Pace {
    saved: u64,
    at: Instant,
}

impl Pace {
    /// With all that can be saved up.
    pub(super) fn new() -> Self {
        Self {
            saved: SAVED_MAX,
            at: Instant::now(),
        }
    }

    /// Takes the price; returns how long to read no further.
    pub(super) fn pay(&mut self, cost: u64, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.at);
        let earned = u64::try_from(since.as_millis()).unwrap_or(u64::MAX) / 10 * PER_SECOND / 100;
        if earned > 0 {
            self.saved = self.saved.saturating_add(earned).min(SAVED_MAX);
            self.at = now;
        }
        let lacks = cost.saturating_sub(self.saved);
        self.saved = self.saved.saturating_sub(cost);
        let debt = Duration::from_millis(lacks * 1000 / PER_SECOND);
        // What is earned while the reader pauses is spent already.
        self.at += debt;
        debt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_much_is_heard_at_once_and_who_goes_on_at_the_rate() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        assert_eq!(pace.pay(SAVED_MAX, now), Duration::ZERO);
        let start = now;
        let mut said = 0;
        while now - start < Duration::from_secs(60) {
            now += pace.pay(500, now) + Duration::from_millis(3);
            said += 500;
        }
        let per_second = said / 60;
        assert!(
            per_second > PER_SECOND * 9 / 10 && per_second <= PER_SECOND,
            "{per_second}"
        );
    }

    #[test]
    fn a_message_costs_what_it_makes_the_node_do() {
        assert_eq!(cost(&Message::Summary(1), 9), 1);
        assert_eq!(cost(&Message::Swim(vec![0; 1 << 20]), 1 << 20), 257);
    }
}
