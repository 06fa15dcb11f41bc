//! The sender's side of a path: which probes were sent, and what the peer's echoes say became of them.
//!
//! ```text
//!   sent:    1   2   3   4   5   6            an echo says: 4 was the highest heard, 12 ms before it was made,
//!   echo:    x   x   -   x                    and of those before it all but 3
//!   fate:    A   A   L   A   L   ?            5 was sent long enough before the echo was made: lost. 6: not known yet
//! ```
//!
//! When an echo was made is computed in the sender's own time: when `seq_max` was sent, plus the delay in the echo. So an
//! echo that was late on its way says nothing about probes that came after it was made.
//!
//! Owns the fates. Believes no echo of a number that was never sent. Times are of the path's own clock (see [`super`]).

use super::search::Search;
use super::supers::Supers;
use super::{MS, ms};
use crate::ident::Moment;
use crate::wire::probe::{Heard, PROBE_MIN};
use std::collections::VecDeque;

/// Probes whose fate is remembered.
const SENT_MAX: usize = 160;
/// Probes over which loss is counted.
pub(super) const LOSS_OVER: u32 = 100;
/// How much later than others a probe may arrive and not be lost.
const JITTER_MS: u64 = 60;
/// An echo by one who heard nothing at all yet says nothing about probes that are younger than this when it comes.
const NONE_HEARD_MS: u64 = 500;
/// Round trip that is assumed before one was measured.
const RTT_UNKNOWN_MS: u64 = 100;
/// How long after sending, besides a round trip, an answer is overdue: after the second probe, or after each.
const ASK_MS: u64 = 25;
const ASK_SELDOM_MS: u64 = 75;
/// Longest round trip that is allowed for.
const RTT_MS_MAX: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As long as the network's MTU allows.
    Full,
    /// As short as a probe can be.
    Small,
    /// Somewhere between, to find the path's MTU.
    Search,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    Heard,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    seq: u32,
    at: Moment,
    size: u16,
    kind: Kind,
    fate: Fate,
}

/// Full-size probes without an answer, none of them followed by one with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// The oldest.
    pub(super) seq: u32,
    /// When it was sent.
    pub(super) at: Moment,
    /// When the one after it was sent.
    second: Option<Moment>,
    /// When the newest was sent.
    pub(super) last: Moment,
    /// How many after the oldest.
    pub(super) later: u32,
    /// An echo says that the oldest did not arrive; else nothing is known.
    pub(super) told: bool,
}

/// For evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) full_sent: u32,
    pub(super) full_heard: u32,
    pub(super) full_lost: u32,
    pub(super) small_sent: u32,
    pub(super) small_heard: u32,
}

/// Smoothed as TCP does it (RFC 6298 §2), in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    known: Option<(u64, u64)>,
}

impl Rtt {
    fn sample(&mut self, rtt: u64) {
        self.known = Some(match self.known {
            None => (rtt, rtt / 2),
            Some((smoothed, var)) => (
                (7 * smoothed + rtt) / 8,
                (3 * var + smoothed.abs_diff(rtt)) / 4,
            ),
        });
    }

    /// How long an answer may take.
    pub(super) fn allowance(&self) -> u64 {
        let unknown = RTT_UNKNOWN_MS * MS;
        self.known.map_or(unknown, |(smoothed, var)| {
            (smoothed + 4 * var).min(RTT_MS_MAX * MS)
        })
    }

    pub(super) fn smoothed_us(&self) -> Option<u64> {
        self.known.map(|(smoothed, _)| smoothed / 1000)
    }

    fn jitter(&self) -> u64 {
        let var = self.known.map_or(0, |(_, var)| 2 * var);
        JITTER_MS * MS + var.min(RTT_MS_MAX * MS)
    }
}

#[derive(Debug)]
pub(super) struct Voice {
    /// What the peer wants to see in our probes.
    pub(super) token: Option<u64>,
    pub(super) seq: u32,
    sent: VecDeque<Sent>,
    /// Probes up to here are waited for no more.
    floor: u32,
    /// Probes up to here prove nothing.
    begun: u32,
    full: u16,
    pub(super) rtt: Rtt,
    pub(super) search: Search,
    pub(super) supers: Supers,
    /// When the last echo came.
    pub(super) echo_at: Option<Moment>,
    /// The peer's count of data, and when the newest echo that had it was made, in own time.
    data: Option<(u32, Moment)>,
    /// The count grew in an echo that was made later than this. What it grew by may have come a while before, and was counted late.
    data_after: Option<Moment>,
    altered: u16,
    /// Altered probes since a full-size probe was heard last.
    pub(super) altered_grown: u32,
}

impl Voice {
    pub(super) fn new() -> Self {
        Self {
            token: None,
            seq: 0,
            sent: VecDeque::new(),
            floor: 0,
            begun: 0,
            full: PROBE_MIN,
            rtt: Rtt::default(),
            search: Search::new(PROBE_MIN),
            supers: Supers::default(),
            echo_at: None,
            data: None,
            data_after: None,
            altered: 0,
            altered_grown: 0,
        }
    }

    /// What was proved counts no more.
    pub(super) fn begin(&mut self, full: u16) {
        self.full = full;
        self.begun = self.seq;
        self.search = Search::new(full);
        self.supers.begin();
        self.wait_anew();
    }

    /// What was not answered so far will not be held against the path.
    pub(super) fn wait_anew(&mut self) {
        self.floor = self.seq;
        self.altered_grown = 0;
    }

    /// The far end may be another now: nobody will say what became of probes to the old one.
    pub(super) fn forget_unanswered(&mut self) {
        self.wait_anew();
        self.sent.retain(|sent| sent.fate != Fate::Unknown);
    }

    /// The network's MTU became smaller.
    pub(super) fn shrink(&mut self, full: u16) {
        self.full = full;
        self.wait_anew();
    }

    /// The peer listens anew. True if this is no news.
    pub(super) fn set_token(&mut self, token: u64) -> bool {
        if self.token == Some(token) {
            return true;
        }
        self.token = Some(token);
        (self.data, self.data_after) = (None, None);
        self.altered = 0;
        self.forget_unanswered();
        false
    }

    pub(super) fn full(&self) -> u16 {
        self.full
    }

    /// One more is sent: its number and size.
    pub(super) fn send(&mut self, kind: Kind, own: Moment) -> (u32, u16) {
        let size = match kind {
            Kind::Full => self.full,
            Kind::Small => PROBE_MIN,
            Kind::Search => self.search.next().unwrap_or(PROBE_MIN),
        };
        // Six years of 20 a second; a session does not live so long.
        self.seq = self.seq.saturating_add(1);
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent {
            seq: self.seq,
            at: own,
            size,
            kind,
            fate: Fate::Unknown,
        });
        (self.seq, size)
    }

    /// True if no answer to a search probe is awaited.
    pub(super) fn may_search(&self, own: Moment) -> bool {
        let last = self.sent.iter().rev().find(|s| s.kind == Kind::Search);
        let settled = |s: &Sent| s.fate != Fate::Unknown || own.ms_since(s.at) > 2 * NONE_HEARD_MS;
        self.search.next().is_some() && last.is_none_or(settled)
    }

    /// The peer says what it heard. True if that answers a full-size probe.
    pub(super) fn echo(&mut self, heard: &Heard, own: Moment) -> bool {
        if heard.seq_max > self.seq {
            return false;
        }
        self.echo_at = Some(own);
        let made = self.made(heard, own);
        let jitter = self.rtt.jitter();
        let (mut rtt, mut full_heard) = (None, false);
        for sent in &mut self.sent {
            let back = heard.seq_max.checked_sub(sent.seq);
            let bit = |back: u32| heard.window.checked_shr(back).map(|w| w & 1 == 1);
            match back.map_or(Some(false), bit) {
                Some(true) if sent.fate != Fate::Heard => {
                    sent.fate = Fate::Heard;
                    self.search.heard(sent.size);
                    full_heard |= sent.kind == Kind::Full;
                    if back == Some(0) {
                        let passed = own.0.saturating_sub(sent.at.0);
                        rtt = passed.checked_sub(u64::from(heard.delay_us) * 1000);
                    }
                }
                Some(false)
                    if sent.fate == Fate::Unknown
                        && made.is_some_and(|made| made >= sent.at.0.saturating_add(jitter)) =>
                {
                    sent.fate = Fate::Lost;
                    self.search.lost(sent.size);
                }
                // Too old for the window, or no news.
                _ => {}
            }
        }
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt);
        }
        self.supers.echo(heard);
        self.counts(heard, Moment(made.unwrap_or_default()));
        if full_heard {
            self.altered_grown = 0;
        }
        full_heard
    }

    /// When the echo was made, at the earliest, in own time.
    fn made(&self, heard: &Heard, own: Moment) -> Option<u64> {
        if heard.seq_max == 0 {
            return own.0.checked_sub(NONE_HEARD_MS * MS);
        }
        let highest = self.sent.iter().find(|sent| sent.seq == heard.seq_max)?;
        let made = highest
            .at
            .0
            .saturating_add(u64::from(heard.delay_us) * 1000);
        Some(made.min(own.0))
    }

    /// Counters wrap, and an echo that is older than the last one would turn them back: no news then.
    fn counts(&mut self, heard: &Heard, made: Moment) {
        let altered = heard.altered.wrapping_sub(self.altered);
        if (1..1 << 15).contains(&altered) {
            self.altered = heard.altered;
            self.altered_grown = self.altered_grown.saturating_add(altered.into());
        }
        let Some((data, before)) = self.data else {
            self.data = Some((heard.data, made));
            return;
        };
        match heard.data.wrapping_sub(data) {
            0 => self.data = Some((data, before.max(made))),
            1..0x8000_0000 => {
                self.data = Some((heard.data, made));
                self.data_after = self.data_after.max(Some(before));
            }
            _ => {}
        }
    }

    /// How long after `waiting` was sent data still arrived, as far as is known, in milliseconds; a peer that counts each
    /// `late` milliseconds may have counted older data by then. `None`: none did.
    pub(super) fn data_since(&self, waiting: &Waiting, late: u64) -> Option<u64> {
        let after = self.data_after?;
        (after >= ms(waiting.at, late)).then(|| after.ms_since(waiting.at))
    }

    fn fulls(&self) -> impl DoubleEndedIterator<Item = &Sent> {
        self.sent.iter().filter(|sent| sent.kind == Kind::Full)
    }

    pub(super) fn waiting(&self) -> Option<Waiting> {
        let heard = self.fulls().rev().find(|sent| sent.fate == Fate::Heard);
        let after = heard.map_or(0, |sent| sent.seq).max(self.floor);
        let mut waiting = self.fulls().filter(|sent| sent.seq > after);
        let first = waiting.next()?;
        let mut out = Waiting {
            seq: first.seq,
            at: first.at,
            second: None,
            last: first.at,
            later: 0,
            told: first.fate == Fate::Lost,
        };
        for sent in waiting {
            out.later += 1;
            out.second = out.second.or(Some(sent.at));
            out.last = sent.at;
        }
        Some(out)
    }

    /// Full-size probes in a row that were heard, the newest whose fate is known among them, and the time between first
    /// and last.
    pub(super) fn run(&self) -> (u32, u64) {
        let mut known = self
            .fulls()
            .rev()
            .filter(|sent| sent.seq > self.begun)
            .skip_while(|sent| sent.fate == Fate::Unknown)
            .take_while(|sent| sent.fate == Fate::Heard);
        let Some(newest) = known.next() else {
            return (0, 0);
        };
        let (mut count, mut oldest) = (1, newest.at);
        for sent in known {
            count += 1;
            oldest = sent.at;
        }
        (count, newest.at.0.saturating_sub(oldest.0))
    }

    /// Lost ones among the last hundred whose fate is known and that came before number `before`.
    pub(super) fn loss(&self, before: u32) -> (u32, u32) {
        let known = self.sent.iter().rev().filter(|sent| {
            sent.seq > self.begun
                && sent.seq < before
                && sent.kind != Kind::Search
                && sent.fate != Fate::Unknown
        });
        known
            .zip(0..LOSS_OVER)
            .fold((0, 0), |(lost, all), (sent, _)| {
                (lost + u32::from(sent.fate == Fate::Lost), all + 1)
            })
    }

    /// What became of the probes from number `from` on, and since proof began.
    pub(super) fn tally(&self, from: u32) -> Tally {
        let mut tally = Tally::default();
        let counted = |sent: &&Sent| sent.seq >= from && sent.seq > self.begun;
        for sent in self.sent.iter().filter(counted) {
            let (heard, lost) = (
                u32::from(sent.fate == Fate::Heard),
                u32::from(sent.fate == Fate::Lost),
            );
            match sent.kind {
                Kind::Full => {
                    tally.full_sent += 1;
                    tally.full_heard += heard;
                    tally.full_lost += lost;
                }
                Kind::Small => {
                    tally.small_sent += 1;
                    tally.small_heard += heard;
                }
                Kind::Search => {}
            }
        }
        tally
    }

    /// When an answer is overdue, so that it is to be asked for. `seldom`: probes are so few that each of them is worth it;
    /// else two of them are waited for, since the peer's own probes bring most answers.
    pub(super) fn ask_at(&self, seldom: bool) -> Option<Moment> {
        let waiting = self.waiting()?;
        let (from, after) = if seldom {
            (waiting.last, ASK_SELDOM_MS)
        } else {
            (waiting.second?, ASK_MS)
        };
        Some(ms(from, after).plus_ns(self.rtt.allowance()))
    }

    /// From now on loss is counted from the run of full-size probes on that proved the path.
    pub(super) fn proved(&mut self) {
        let heard = self
            .fulls()
            .rev()
            .skip_while(|sent| sent.fate == Fate::Unknown)
            .take_while(|sent| sent.fate == Fate::Heard);
        if let Some(first) = heard.last() {
            self.begun = self.begun.max(first.seq.saturating_sub(1));
        }
    }
}

trait PlusNs {
    fn plus_ns(self, ns: u64) -> Self;
}

impl PlusNs for Moment {
    fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Moment {
        Moment(0).plus_ms(ms)
    }

    fn heard(seq_max: u32, window: u64, delay_ms: u32) -> Heard {
        Heard {
            seq_max,
            window,
            delay_us: delay_ms * 1000,
            ..Heard::default()
        }
    }

    fn speaking(probes: u32) -> Voice {
        let mut voice = Voice::new();
        voice.begin(1464);
        for i in 0..probes {
            voice.send(Kind::Full, at(u64::from(i) * 50));
        }
        voice
    }

    #[test]
    fn a_late_echo_says_nothing_about_what_came_after_it_was_made() {
        let mut voice = speaking(10);
        // Made 10 ms after hearing number 1, and 500 ms on its way.
        voice.echo(&heard(1, 1, 10), at(510));
        assert_eq!(voice.loss(u32::MAX), (0, 1));
        let waiting = voice.waiting().unwrap();
        assert_eq!((waiting.seq, waiting.later, waiting.told), (2, 8, false));
        // Another, made 400 ms after.
        voice.rtt = Rtt::default();
        voice.echo(&heard(1, 1, 400), at(520));
        assert_eq!(voice.loss(u32::MAX), (6, 7));
        assert!(voice.waiting().unwrap().told);
    }

    #[test]
    fn a_run_ends_at_a_loss() {
        let mut voice = speaking(8);
        voice.echo(&heard(7, 0b1110111, 0), at(350));
        assert_eq!(voice.run(), (3, 100 * MS));
        assert_eq!(voice.loss(u32::MAX), (1, 7));
        assert_eq!(voice.waiting().unwrap().seq, 8);
    }

    #[test]
    fn the_delay_of_an_echo_is_no_part_of_the_round_trip() {
        let mut voice = speaking(1);
        voice.echo(&heard(1, 1, 90), at(93));
        assert_eq!(voice.rtt.smoothed_us(), Some(3000));
    }

    proptest! {
        #[test]
        fn echoes_of_what_was_never_sent_are_not_believed(seq_max in 11u32.., window: u64, delay_us: u32) {
            let mut voice = speaking(10);
            let invented = Heard { seq_max, window, delay_us, ..Heard::default() };
            prop_assert!(!voice.echo(&invented, at(1000)));
            prop_assert_eq!((voice.run(), voice.loss(u32::MAX)), ((0, 0), (0, 0)));
        }

        #[test]
        fn any_echo_is_harmless(echoes: Vec<(u32, u64, u32, u32, u16, u16, u16)>) {
            let mut voice = speaking(200);
            for (seq_max, window, delay_us, data, altered, super_ok, super_bad) in echoes {
                let seq_max = seq_max % 300;
                let super_fault = None;
                let said = Heard { seq_max, window, delay_us, data, altered, super_ok, super_bad, super_fault };
                voice.echo(&said, at(12_000));
                let (lost, all) = voice.loss(u32::MAX);
                prop_assert!(lost <= all && all <= LOSS_OVER && voice.sent.len() <= SENT_MAX);
            }
        }
    }
}
