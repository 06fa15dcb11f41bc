//! One plugin in one network's chain: its instance, its counters, and the breaker that keeps a broken one from being
//! asked again and again.
//!
//! ```text
//!   closed --5 faults in 10 s--> open for 10 s: answered by fail mode, not called --> closed
//! ```

use meshd_core::ident::Label;
use meshd_core::node::Question;
use meshd_plugin_host::{Decision, Instance, Say};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Faults that open the breaker, if they fall into [`WINDOW`].
const FAULTS: usize = 5;
/// See [`FAULTS`].
const WINDOW: Duration = Duration::from_secs(10);
/// How long an open breaker stays open.
const PAUSE: Duration = Duration::from_secs(10);

/// What holds for the frames that a plugin ought to have decided and could not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailMode {
    /// They are dropped.
    #[default]
    Closed,
    /// They go to the next plugin.
    Open,
}

/// What came of the questions so far; survives a change of config and code.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) asked: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) ns: AtomicU64,
}

/// An attachment at work.
pub(super) struct Link {
    name: Label,
    order: u16,
    fail: FailMode,
    counters: Arc<Counters>,
    seat: Mutex<Seat>,
}

struct Seat {
    /// Or why there is none.
    instance: Result<Instance, String>,
    breaker: Breaker,
    last_fault: Option<String>,
}

impl Link {
    pub(super) fn new(
        name: Label,
        order: u16,
        fail: FailMode,
        instance: Result<Instance, String>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            name,
            order,
            fail,
            counters,
            seat: Mutex::new(Seat {
                instance,
                breaker: Breaker::default(),
                last_fault: None,
            }),
        }
    }

    pub(super) fn name(&self) -> &Label {
        &self.name
    }

    pub(super) fn order(&self) -> u16 {
        self.order
    }

    pub(super) fn fail(&self) -> FailMode {
        self.fail
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Why it does not answer by its own mind at the moment, if so.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let seat = self.seat();
        match &seat.instance {
            Err(reason) => Some(reason.clone()),
            Ok(_) if seat.breaker.is_open(now) => Some(format!(
                "{} (last: {})",
                paused(),
                seat.last_fault.as_deref().unwrap_or("unknown")
            )),
            Ok(_) => None,
        }
    }

    /// How it failed last, if ever.
    pub(super) fn last_fault(&self) -> Option<String> {
        self.seat().last_fault.clone()
    }

    /// What the plugin decides, or why it does not.
    pub(super) fn ask(&self, question: &Question, now: Instant) -> Result<Decision, String> {
        let mut seat = self.seat();
        let Seat {
            instance,
            breaker,
            last_fault,
        } = &mut *seat;
        let add = |counter: &AtomicU64, n| counter.fetch_add(n, Ordering::Relaxed);
        add(&self.counters.asked, 1);
        let outcome = match instance {
            Err(reason) => Err(reason.clone()),
            Ok(_) if breaker.is_open(now) => Err(paused()),
            Ok(instance) => {
                let started = Instant::now();
                let outcome = instance.decide(question);
                add(
                    &self.counters.ns,
                    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
                );
                outcome.map_err(|fault| {
                    let text = fault.to_string();
                    // The breaker bounds how often this is said.
                    tracing::warn!(plugin = %self.name, vni = %question.vni, fault = %text, "a policy plugin failed");
                    *last_fault = Some(text.clone());
                    if breaker.fault(now) {
                        tracing::warn!(plugin = %self.name, vni = %question.vni, "the plugin is not asked for {} s; its fail mode answers", PAUSE.as_secs());
                    }
                    text
                })
            }
        };
        match &outcome {
            Ok(Decision {
                say: Say::Drop { .. },
                ..
            }) => add(&self.counters.dropped, 1),
            Ok(_) => 0,
            Err(_) => add(&self.counters.failed, 1),
        };
        outcome
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        // A panic inside leaves an instance that replaces itself.
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn paused() -> String {
    format!(
        "it failed {FAULTS} times within {} s and is not asked for {} s",
        WINDOW.as_secs(),
        PAUSE.as_secs()
    )
}

#[derive(Debug, Default)]
struct Breaker {
    faults: VecDeque<Instant>,
    open_until: Option<Instant>,
}

impl Breaker {
    fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// One more fault; true if that opens it.
    fn fault(&mut self, now: Instant) -> bool {
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
}
