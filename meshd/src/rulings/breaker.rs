//! When a plugin that fails is asked again, and when it is left alone.
//!
//! ```text
//!   deadline, the first in a while ---> asked once more, by a fresh instance: the machine may have stood, not the plugin
//!   any other fault ---> its fail mode answers;  five in ten seconds ---> not asked for ten seconds
//! ```
//!
//! Owns the count of a plugin's faults. It knows neither the plugin nor what its fail mode says.

use meshd_plugin_host::Fault;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Faults that open the breaker, if they fall into [`WINDOW`].
const FAULTS: usize = 5;
/// See [`FAULTS`]; also how long after a fault none is pardoned.
const WINDOW: Duration = Duration::from_secs(10);
/// How long an open breaker stays open.
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// Why a plugin is not asked while its breaker is open.
pub(super) fn paused() -> String {
    format!(
        "it failed {FAULTS} times within {} s and is not asked for {} s",
        WINDOW.as_secs(),
        PAUSE.as_secs()
    )
}

/// The faults of one plugin in one chain.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    faults: VecDeque<Instant>,
    pardoned: Option<Instant>,
    open_until: Option<Instant>,
}

impl Breaker {
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// Whether the plugin is asked once more at once. Only for time, since a virtual machine's clocks also run while it is not
    /// let run; what a plugin does by itself it would do again. A plugin that hangs is not pardoned twice, so it costs two
    /// deadlines once, and one each time after that.
    pub(super) fn pardons(&mut self, fault: &Fault, now: Instant) -> bool {
        let recent = |at: &Instant| now.saturating_duration_since(*at) <= WINDOW;
        let pardons = *fault == Fault::Deadline
            && !self.pardoned.as_ref().is_some_and(recent)
            && !self.faults.back().is_some_and(recent);
        if pardons {
            self.pardoned = Some(now);
        }
        pardons
    }

    /// One more fault; true if that opens it.
    pub(super) fn fault(&mut self, now: Instant) -> bool {
        while self
            .faults
            .front()
            .is_some_and(|&at| now.saturating_duration_since(at) > WINDOW)
        {
            self.faults.pop_front();
        }
        self.faults.push_back(now);
        let opens = self.faults.len() >= FAULTS;
        if opens {
            self.faults.clear();
            self.open_until = Some(now + PAUSE);
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_faults_in_ten_seconds_open_the_breaker_for_ten_and_slower_ones_do_not() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut breaker = Breaker::default();
        for s in [0, 4, 8, 12, 16, 20, 24] {
            assert!(!breaker.fault(at(s)) && !breaker.is_open(at(s)));
        }
        let mut breaker = Breaker::default();
        assert_eq!(
            [0, 2, 4, 6, 8].map(|s| breaker.fault(at(s))),
            [false, false, false, false, true]
        );
        assert!(breaker.is_open(at(17)));
        assert!(!breaker.is_open(at(18)));
        assert!(!breaker.fault(at(19)), "it starts counting anew");
    }

    #[test]
    fn a_lone_deadline_is_pardoned_and_one_after_another_or_after_any_fault_is_not() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut breaker = Breaker::default();
        assert!(!breaker.pardons(&Fault::Stack, at(0)), "no matter of time");
        assert!(breaker.pardons(&Fault::Deadline, at(0)));
        assert!(!breaker.pardons(&Fault::Deadline, at(10)));
        assert!(breaker.pardons(&Fault::Deadline, at(11)));
        breaker.fault(at(20));
        assert!(!breaker.pardons(&Fault::Deadline, at(29)));
        assert!(breaker.pardons(&Fault::Deadline, at(31)));
    }
}
