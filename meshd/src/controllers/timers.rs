//! The timers of one instance. They end with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Timers at once.
const TIMERS: usize = 256;
/// The shortest time.
const SHORTEST: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Default)]
pub(super) struct Timers {
    /// By when they are due; with a period those that come again.
    due: BTreeMap<(Instant, u64), Option<Duration>>,
    next: u64,
}

impl Timers {
    /// The number of a timer that is due `after` from now, and then every `after` if it comes `again`; none if there are
    /// enough.
    pub(super) fn start(&mut self, after_ms: u32, again: bool, now: Instant) -> Option<u64> {
        if self.due.len() >= TIMERS {
            return None;
        }
        let after = Duration::from_millis(u64::from(after_ms)).max(SHORTEST);
        self.next += 1;
        let period = again.then_some(after);
        self.due.insert((now + after, self.next), period);
        Some(self.next)
    }

    /// One that there is not is nothing.
    pub(super) fn cancel(&mut self, id: u64) {
        self.due.retain(|(_, one), _| *one != id);
    }

    /// One that is due. Ticks that were missed come as one.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        let (&(at, id), &period) = self.due.first_key_value()?;
        if at > now {
            return None;
        }
        self.due.remove(&(at, id));
        if let Some(period) = period {
            let next = at + period;
            let next = if next > now { next } else { now + period };
            self.due.insert((next, id), Some(period));
        }
        Some(id)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_order_missed_ticks_as_one_and_their_number_is_bounded() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut timers = Timers::default();
        let often = timers.start(20, true, now).unwrap();
        let once = timers.start(1, false, now).unwrap();
        assert_eq!(timers.next(), Some(at(10)), "10 ms is the shortest");
        assert_eq!(timers.take(at(9)), None);
        let mut seen = Vec::new();
        while let Some(id) = timers.take(at(100)) {
            seen.push(id);
        }
        assert_eq!(seen, [once, often]);
        assert_eq!(timers.next(), Some(at(120)));
        timers.cancel(often);
        timers.cancel(often);
        assert_eq!(timers.next(), None);
        let ids: Vec<_> = (0..300)
            .filter_map(|_| timers.start(10, false, now))
            .collect();
        assert_eq!(ids.len(), 256);
        assert!(!ids.contains(&once) && !ids.contains(&often));
    }
}
