//! When a connection asks whether its far end is there, and when it is given up.
//!
//! ```text
//!    heard --nothing for a pace--> asks (a PING) --nothing for as long as the patience is--> given up
//!      ^                             ^     |
//!      |                             |     +-- anything is heard
//!      +---- whatever is sent that wants an answer asks as well
//! ```
//!
//! A node with hundreds of peers speaks with few of them at a time, so who exchanges no frames asks seldom; but what is asked must be
//! answered as soon as by anybody else. QUIC's own idle timeout (RFC 9000 §10.1) knows no such difference, and is long here. How long a
//! handshake may take is its caller's matter.
//!
//! Owns three moments. It neither sends nor closes.

use std::time::{Duration, Instant};

/// Frames passed not longer ago than this: the connection is in use.
const USED_FOR: Duration = Duration::from_secs(30);

/// How often a far end is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Nothing was heard for so long, of a connection in use.
    pub(crate) used: Duration,
    /// The same of one that no frames have passed for half a minute.
    pub(crate) unused: Duration,
    /// So long after a question without any sign of life it is given up.
    pub(crate) patience: Duration,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Ask,
    GiveUp,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Silence {
    pace: Pace,
    heard: Instant,
    /// Since when an answer is owed.
    asked: Option<Instant>,
    used_until: Instant,
    /// Something that wants an answer was given to the machine, and frames passed: what was done since the last [`Self::note`].
    asks: bool,
    frames: bool,
}

impl Silence {
    /// Of a connection that begins.
    pub(super) fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            heard: now,
            asked: None,
            used_until: now + USED_FOR,
            asks: false,
            frames: false,
        }
    }

    /// Something is about to be sent that the far end has to acknowledge.
    pub(super) fn ask(&mut self) {
        self.asks = true;
    }

    /// A frame leaves.
    pub(super) fn frame_out(&mut self) {
        self.asks = true;
        self.frames = true;
    }

    /// Frames have come.
    pub(super) fn frames_in(&mut self) {
        self.frames = true;
    }

    /// A packet has come.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
    }

    /// What was done until now, was done now.
    pub(super) fn note(&mut self, now: Instant) {
        if std::mem::take(&mut self.asks) {
            self.asked.get_or_insert(now);
        }
        if std::mem::take(&mut self.frames) {
            self.used_until = now + USED_FOR;
        }
    }

    /// When to look at [`Self::due`].
    pub(super) fn deadline(&self) -> Instant {
        let asks = match self.heard + self.pace.used {
            // It is not in use any more by then.
            at if at > self.used_until => self.heard + self.pace.unused,
            at => at,
        };
        self.asked.map_or(asks, |asked| asked + self.pace.patience)
    }

    /// What is to be done, if anything. A question is one from now on.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        if now < self.deadline() {
            return None;
        }
        if self.asked.is_some() {
            return Some(Due::GiveUp);
        }
        self.asked = Some(now);
        Some(Due::Ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        used: Duration::from_secs(1),
        unused: Duration::from_secs(10),
        patience: Duration::from_secs(3),
    };

    /// What was due at which second, while a far end answers until `answers_until`.
    fn history(until: u64, answers_until: u64, frames: impl Fn(u64) -> bool) -> Vec<(u64, Due)> {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut silence = Silence::new(PACE, start);
        let mut all = Vec::new();
        for s in 0..until {
            if frames(s) {
                silence.frame_out();
                silence.note(at(s));
            }
            let due = silence.due(at(s));
            all.extend(due.map(|due| (s, due)));
            if due == Some(Due::GiveUp) {
                break;
            }
            let asked = due.is_some() || frames(s);
            if asked && s < answers_until {
                silence.heard(at(s));
            }
        }
        all
    }

    #[test]
    fn a_far_end_is_asked_each_second_for_half_a_minute_after_frames_and_then_every_ten() {
        let asked: Vec<u64> = history(80, 80, |s| s == 3)
            .iter()
            .map(|due| due.0)
            .collect();
        let expected: Vec<u64> = (1..3).chain(4..34).chain([43, 53, 63, 73]).collect();
        assert_eq!(asked, expected);
    }

    #[test]
    fn who_does_not_answer_is_given_up_three_seconds_after_the_question() {
        // In use.
        assert_eq!(history(80, 5, |s| s < 5).last(), Some(&(8, Due::GiveUp)));
        // Not in use: the question at 33 s is the first that is not answered.
        let all = history(80, 33, |_| false);
        assert_eq!(all.last(), Some(&(43, Due::GiveUp)));
        // A frame is a question, too.
        let all = history(80, 33, |s| s == 35);
        assert_eq!(all.last(), Some(&(38, Due::GiveUp)));
    }

    #[test]
    fn frames_that_go_on_do_not_put_the_end_off() {
        let all = history(80, 20, |s| s >= 10);
        assert_eq!(all.last(), Some(&(23, Due::GiveUp)));
    }
}
