//! Events on their way to one controller.
//!
//! ```text
//!   topology, timers, punts, answers --push--> 1024 events, 4 MiB --wait--> the controller's thread
//!                                        | full: counted, and told as `lost` in the place where they are missing
//! ```
//!
//! Who pushes never waits.

use meshd_plugin_host::contract::events::Event;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Events that may wait.
const EVENTS: usize = 1024;
/// Bytes of them that may wait; frames and answers are the large ones.
const BYTES: usize = 4 << 20;
/// What an event takes beside its bytes.
const EACH: usize = 128;

/// Why a wait ended.
pub(super) enum Woken {
    /// Something happened.
    Event(Event),
    /// It is time.
    Due,
    /// The attachment ends.
    Stopped,
}

#[derive(Default)]
struct Held {
    events: VecDeque<(Event, usize)>,
    bytes: usize,
    lost: u64,
    lost_in_all: u64,
    nudged: bool,
    stopped: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    held: Mutex<Held>,
    rings: Condvar,
}

fn size(event: &Event) -> usize {
    let more = match event {
        Event::Punted(punt) => punt.frame.len(),
        Event::HttpDone((_, Ok(response))) => response.body.len(),
        Event::KvChanged(keys) => keys.iter().map(|key| key.len() + EACH / 4).sum(),
        Event::LinkMetrics(links) => links.len() * EACH,
        Event::PortAdded(port) | Event::PortChanged(port) => {
            let labels = port.labels.iter();
            labels.map(|(key, value)| key.len() + value.len()).sum()
        }
        _ => 0,
    };
    EACH + more
}

impl Queue {
    /// Never waits.
    pub(super) fn push(&self, event: Event) {
        let mut held = self.lock();
        let size = size(&event);
        if held.events.len() + 1 >= EVENTS || held.bytes + size > BYTES {
            held.lost += 1;
            held.lost_in_all += 1;
            return;
        }
        if held.lost > 0 {
            let lost = std::mem::take(&mut held.lost);
            held.events.push_back((Event::Lost(lost), EACH));
            held.bytes += EACH;
        }
        held.bytes += size;
        held.events.push_back((event, size));
        drop(held);
        self.rings.notify_one();
    }

    /// The next event, if `wants` one, until `due`.
    pub(super) fn wait(&self, due: Option<Instant>, wants: bool) -> Woken {
        let mut held = self.lock();
        loop {
            if held.stopped {
                return Woken::Stopped;
            }
            if wants {
                if let Some((event, size)) = held.events.pop_front() {
                    held.bytes -= size;
                    return Woken::Event(event);
                }
                if held.lost > 0 {
                    return Woken::Event(Event::Lost(std::mem::take(&mut held.lost)));
                }
            }
            if std::mem::take(&mut held.nudged) {
                return Woken::Due;
            }
            let Some(due) = due else {
                held = self
                    .rings
                    .wait(held)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::Due;
            }
            let waited = self.rings.wait_timeout(held, left);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A new instance begins; what waits was for the one before, but for answers to requests that the new one made while it was
    /// configured: those behind `last_call`.
    pub(super) fn clear(&self, last_call: u64) {
        let mut held = self.lock();
        held.events
            .retain(|(event, _)| matches!(event, Event::HttpDone((call, _)) if *call > last_call));
        held.bytes = held.events.iter().map(|(_, size)| size).sum();
        held.lost = 0;
    }

    /// Does the attachment end?
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Ends every wait.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.rings.notify_all();
    }

    /// Ends the wait under way, or the next one, as if it were time.
    pub(super) fn nudge(&self) {
        self.lock().nudged = true;
        self.rings.notify_all();
    }

    /// How many wait, and how many were lost in all.
    pub(super) fn depth(&self) -> (usize, u64) {
        let held = self.lock();
        (held.events.len(), held.lost_in_all)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_plugin_host::contract::http::HttpError;

    #[test]
    fn a_new_instance_gets_nothing_of_what_waited_but_answers_to_requests_of_its_own() {
        let queue = Queue::default();
        let done = |call| Event::HttpDone((call, Err(HttpError::Timeout)));
        for event in [Event::Timer(1), done(4), done(5)] {
            queue.push(event);
        }
        queue.clear(4);
        assert_eq!(queue.depth().0, 1);
        let next = queue.wait(Some(Instant::now()), true);
        assert!(matches!(next, Woken::Event(Event::HttpDone((5, _)))));
    }

    #[test]
    fn what_does_not_fit_is_told_as_lost_where_it_is_missing() {
        let queue = Queue::default();
        for id in 0..2000 {
            queue.push(Event::Timer(id));
        }
        let mut seen = 0;
        while let Woken::Event(Event::Timer(id)) = queue.wait(Some(Instant::now()), true) {
            assert_eq!(id, seen);
            seen += 1;
            if seen == 10 {
                queue.push(Event::PortRemoved(7));
            }
        }
        // The walk ended at the count of those that were lost.
        assert_eq!(queue.depth(), (1, 2000 - seen));
        let next = queue.wait(Some(Instant::now()), true);
        assert!(matches!(next, Woken::Event(Event::PortRemoved(7))));
        assert!(matches!(queue.wait(Some(Instant::now()), true), Woken::Due));
        queue.push(Event::Timer(1));
        let unwanted = queue.wait(Some(Instant::now()), false);
        assert!(matches!(unwanted, Woken::Due));
        queue.stop();
        assert!(matches!(queue.wait(None, true), Woken::Stopped));
    }
}
