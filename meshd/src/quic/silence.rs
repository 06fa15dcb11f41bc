//! When a connection asks whether its far end is there, and when it is given up.
//!
//! ```text
//!    heard --nothing for a pace--> asks (a PING), and again each second --nothing for as long as the patience is--> given up
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

/// Who comes so much later than he was to be called finds a clock that ran on while this process did not: what came meanwhile may not have
/// been read yet.
const LATE: Duration = Duration::from_millis(500);
/// In which it is read.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// How often a far end is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Nothing was heard for so long, of a connection in use. A question without an answer is repeated so often.
    pub(crate) used: Duration,
    /// The same of one that no frames have passed for half a minute.
    pub(crate) unused: Duration,
    /// So long after a question without any sign of life it is given up; but no sooner than after this and a pace of silence.
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
    /// Since when an answer is owed, and when it was asked for last.
    asked: Option<(Instant, Instant)>,
    /// The end was put off.
    put_off: Option<Instant>,
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
            put_off: None,
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

    /// A packet of the far end's has come.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
        self.put_off = None;
    }

    /// What was done until now, was done now.
    pub(super) fn note(&mut self, now: Instant) {
        if std::mem::take(&mut self.asks) {
            self.asked_now(now);
        }
        if std::mem::take(&mut self.frames) {
            self.used_until = now + USED_FOR;
        }
    }

    fn asked_now(&mut self, now: Instant) {
        self.asked.get_or_insert((now, now)).1 = now;
    }

    /// When the far end is given up, if it owes an answer.
    fn end(&self) -> Option<Instant> {
        let (since, _) = self.asked?;
        let patience = since.max(self.heard + self.pace.used) + self.pace.patience;
        Some(self.put_off.map_or(patience, |end| end.max(patience)))
    }

    /// When to look at [`Self::due`].
    pub(super) fn deadline(&self) -> Instant {
        if let (Some((_, last)), Some(end)) = (self.asked, self.end()) {
            return end.min(last + self.pace.used);
        }
        match self.heard + self.pace.used {
            // It is not in use any more by then.
            at if at > self.used_until => self.heard + self.pace.unused,
            at => at,
        }
    }

    /// What is to be done, if anything. A question is one from now on.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let deadline = self.deadline();
        if now < deadline {
            return None;
        }
        if self.end().is_some_and(|end| now >= end) {
            if self.put_off.is_some() || now < deadline + LATE {
                return Some(Due::GiveUp);
            }
            self.put_off = Some(now + READ_WITHIN);
        }
        self.asked_now(now);
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
    fn who_does_not_answer_is_asked_each_second_and_given_up_after_three() {
        use Due::{Ask, GiveUp};
        // In use: heard last at 4 s.
        let all = history(80, 5, |s| s < 5);
        assert_eq!(all, [(5, Ask), (6, Ask), (7, Ask), (8, GiveUp)]);
        // Not in use.
        let all = history(80, 33, |_| false);
        assert_eq!(all[30..], [(40, Ask), (41, Ask), (42, Ask), (43, GiveUp)]);
        // A frame is a question, too.
        let all = history(80, 33, |s| s == 35);
        assert_eq!(all.last(), Some(&(38, GiveUp)));
    }

    #[test]
    fn frames_that_go_on_do_not_put_the_end_off() {
        let all = history(80, 20, |s| s >= 10);
        assert_eq!(all.last(), Some(&(23, Due::GiveUp)));
    }

    #[test]
    fn a_question_soon_after_a_packet_leaves_a_pace_and_the_patience() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut silence = Silence::new(PACE, start);
        silence.frame_out();
        silence.note(at(1));
        assert_eq!(silence.due(at(1001)), Some(Due::Ask));
        assert_eq!(silence.due(at(2001)), Some(Due::Ask));
        assert_eq!(silence.due(at(3001)), Some(Due::Ask));
        assert_eq!(silence.due(at(3999)), None);
        assert_eq!(silence.due(at(4000)), Some(Due::GiveUp));
    }

    #[test]
    fn after_the_machine_stood_still_there_is_a_second_to_read_what_has_come_and_no_more() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let still = || {
            let mut silence = Silence::new(PACE, start);
            assert_eq!(silence.due(at(1000)), Some(Due::Ask));
            assert_eq!(silence.due(at(60_000)), Some(Due::Ask));
            assert_eq!(silence.deadline(), at(61_000));
            silence
        };
        let mut answered = still();
        answered.heard(at(60_001));
        assert_eq!(answered.due(at(61_000)), None);
        assert_eq!(still().due(at(61_000)), Some(Due::GiveUp));
        assert_eq!(still().due(at(90_000)), Some(Due::GiveUp), "not for ever");
    }
}
