//! How many requests each caller may make: a bucket each, refilled with time.
//!
//! Owns the bounds, also of the buckets themselves: of callers beyond, those that asked least lately are forgotten, who would
//! have full buckets anyway.

use super::access::Rights;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Buckets at once.
const CALLERS_MAX: usize = 1024;

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// Root, and the daemon's own user: engines and operators.
    Own,
    /// Another user of this host.
    User(u32),
    /// With a token, by what it is good for: who may only read takes nothing from who may change, though both ask by one proxy.
    Token(IpAddr, Rights),
    /// Without one, or with a wrong one: so that nobody tries them all, and nobody keeps out who has the right one.
    Stranger(IpAddr),
}

impl Whose {
    /// Requests at once, and a second.
    fn allowance(self) -> (f64, f64) {
        match self {
            Self::Own => (4000.0, 2000.0),
            Self::User(_) | Self::Token(..) => (200.0, 100.0),
            Self::Stranger(_) => (20.0, 2.0),
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Rates(Mutex<BTreeMap<Whose, Bucket>>);

struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    /// One more request; false: too many.
    pub(super) fn take(&self, whose: Whose, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (most, per_s) = whose.allowance();
        if buckets.len() >= CALLERS_MAX && !buckets.contains_key(&whose) {
            let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at);
            if let Some(oldest) = oldest.map(|(whose, _)| *whose) {
                buckets.remove(&oldest);
            }
        }
        let bucket = buckets.entry(whose).or_insert(Bucket {
            left: most,
            at: now,
        });
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * per_s;
        bucket.left = most.min(bucket.left + earned);
        bucket.at = now;
        let enough = bucket.left >= 1.0;
        if enough {
            bucket.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_is_taken_then_so_many_a_second_and_callers_do_not_share() {
        let rates = Rates::default();
        let start = Instant::now();
        let taken = (0..1000).filter(|_| rates.take(Whose::User(7), start));
        assert_eq!(taken.count(), 200);
        assert!(rates.take(Whose::User(8), start));
        let later = start + Duration::from_millis(500);
        let taken = (0..1000).filter(|_| rates.take(Whose::User(7), later));
        assert_eq!(taken.count(), 50);
    }

    #[test]
    fn a_reading_token_takes_no_requests_from_the_changing_one_of_the_same_address() {
        let (rates, now) = (Rates::default(), Instant::now());
        let from = IpAddr::from([127, 0, 0, 1]);
        let (reader, changer) = (
            Whose::Token(from, Rights::Read),
            Whose::Token(from, Rights::Change),
        );
        assert_eq!((0..1000).filter(|_| rates.take(reader, now)).count(), 200);
        assert_eq!((0..1000).filter(|_| rates.take(changer, now)).count(), 200);
    }

    #[test]
    fn buckets_are_bounded() {
        let rates = Rates::default();
        for uid in 0..10_000 {
            rates.take(Whose::User(uid), Instant::now());
        }
        let kept = rates.0.lock().map(|buckets| buckets.len());
        assert_eq!(kept.ok(), Some(CALLERS_MAX));
    }
}
