//! What is known of a way in numbers: from samples of its connection's counters to figures of the last second.
//!
//! A connection tells its round trip smoothed: of a queue that came up it shows half after five acknowledgements, which on a way
//! with little traffic is more than a second. How many came between two samples is known, so what they said is too:
//!
//! ```text
//!   smoothed' = w smoothed + (1 - w) said,   w = (7/8)^acknowledgements      (RFC 9002 §5.3)
//! ```
//!
//! Of the last three such values the shortest counts: a queue makes all of them long, a late thread one.
//!
//! Owns the window and the arithmetic, and when figures have changed so much that a choice may be another. Refuses to choose.

use super::way::WayId;
use crate::ident::{Moment, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The shell looks at connections so often, in ms.
pub const SAMPLE_MS: u64 = 100;
/// Figures are of so long, in ms ...
const WINDOW_MS: u64 = 1_000;
/// ... and the loss of up to so long, until so many packets were sent in it.
const LOSS_WINDOW_MS: u64 = 5_000;
const LOSS_PACKETS_MIN: u64 = 20;
/// A way on which nothing was heard for so long is dead, in ms; each end says something five times a second. So is one by which
/// something was sent, and nothing acknowledged since: the far end may be heard and not hear us.
pub const SILENT_MS: u64 = 800;
/// The round trip is the shortest of so many values ...
const ROUND_TRIPS: usize = 3;
/// ... that are no older than this, in ms.
const ROUND_TRIP_MS: u64 = 500;
/// An acknowledgement is waited for as many round trips in any case.
const PATIENCE_TRIPS: u64 = 3;
/// Changes below this are noise: RTT in us, loss in ppm, use in kbit/s.
const RTT_NOISE_US: u32 = 1_000;
const LOSS_NOISE_PPM: u32 = 5_000;
const USED_NOISE_KBPS: u32 = 500;
/// A change of RTT by so much counts in any case, in us.
const RTT_STEP_US: u32 = 5_000;

/// The counters of a way's connection at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaySample {
    /// The peer.
    pub node: NodeId,
    /// The way.
    pub way: WayId,
    /// Smoothed round trip, in us.
    pub rtt_us: u32,
    /// Acknowledgements that came since the connection began.
    pub acks: u64,
    /// Packets sent since the connection began.
    pub sent_packets: u64,
    /// Those of them that got lost.
    pub lost_packets: u64,
    /// Bytes sent since the connection began.
    pub sent_bytes: u64,
    /// Bytes that came.
    pub heard_bytes: u64,
    /// Frames sent that the far end has to acknowledge.
    pub asked: u64,
    /// Bytes of them that it did: not by saying again what it said before, as who has ceased to hear does.
    pub answered_bytes: u64,
    /// Bytes that may be under way.
    pub cwnd: u64,
    /// Largest UDP payload, in bytes.
    pub mtu: u16,
}

/// That a way is dead though its connection is there, and for how many ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing is heard.
    Unheard(u64),
    /// The far end is heard, and acknowledges nothing.
    Unanswered(u64),
}

/// How a way is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Round trip of the last half second, in us.
    pub rtt_us: u32,
    /// Mean deviation of the round trip over the last second, in us.
    pub jitter_us: u32,
    /// Lost of the last second's packets, in a million.
    pub loss_ppm: u32,
    /// What it could take, in kbit/s; 0: not known.
    pub avail_kbps: u32,
    /// What it takes now, in kbit/s.
    pub used_kbps: u32,
    /// Largest UDP payload, in bytes.
    pub mtu: u16,
}

impl Figures {
    /// Did they change by more than a fifth, the round trip by 5 ms, or the load by a tenth of what could be?
    #[must_use]
    pub fn differ(&self, other: &Self) -> bool {
        let moved = |a: u32, b: u32, noise: u32| {
            let by = a.abs_diff(b);
            by > noise && by > a.max(b) / 5
        };
        self.rtt_us.abs_diff(other.rtt_us) > RTT_STEP_US
            || moved(self.rtt_us, other.rtt_us, RTT_NOISE_US)
            || moved(self.loss_ppm, other.loss_ppm, LOSS_NOISE_PPM)
            || moved(self.used_kbps, other.used_kbps, USED_NOISE_KBPS)
            || (self.avail_kbps > 0
                && self.used_kbps.abs_diff(other.used_kbps)
                    > self.avail_kbps / 10 + USED_NOISE_KBPS)
    }
}

/// The samples of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Window {
    samples: VecDeque<(Moment, WaySample)>,
    heard: Option<(Moment, u64)>,
    /// The latest last; at most [`ROUND_TRIPS`].
    round_trips: VecDeque<(Moment, u32)>,
    answered: Option<WaySample>,
    /// Since when something is sent that was not acknowledged, and nothing was.
    unanswered: Option<Moment>,
}

/// What the acknowledgements between two samples said of the round trip, in us; `None`: there was none.
fn round_trip(before: &WaySample, now: &WaySample) -> Option<u32> {
    let acks = now.acks.checked_sub(before.acks).filter(|acks| *acks > 0)?;
    let kept = 0.875f64.powi(i32::try_from(acks).unwrap_or(i32::MAX));
    let said = (f64::from(now.rtt_us) - f64::from(before.rtt_us) * kept) / (1.0 - kept);
    // A cast of a float saturates.
    Some(said as u32)
}

impl Window {
    pub(super) fn push(&mut self, sample: WaySample, now: Moment) {
        let restarted = |(_, last): &(Moment, WaySample)| {
            last.sent_bytes > sample.sent_bytes || last.heard_bytes > sample.heard_bytes
        };
        if self.samples.back().is_some_and(restarted) {
            // Another connection has taken its place.
            *self = Self::default();
        }
        let said = match self.samples.back() {
            Some((_, before)) => round_trip(before, &sample),
            None => Some(sample.rtt_us),
        };
        if let Some(rtt_us) = said {
            self.round_trips.push_back((now, rtt_us));
            if self.round_trips.len() > ROUND_TRIPS {
                self.round_trips.pop_front();
            }
        }
        if self
            .heard
            .is_none_or(|(_, bytes)| bytes != sample.heard_bytes)
        {
            self.heard = Some((now, sample.heard_bytes));
        }
        match self.answered {
            Some(last) if last.answered_bytes == sample.answered_bytes => {
                if sample.asked > last.asked {
                    self.unanswered.get_or_insert(now);
                }
            }
            _ => (self.answered, self.unanswered) = (Some(sample), None),
        }
        self.samples.push_back((now, sample));
        while let Some((at, _)) = self.samples.front()
            && now.ms_since(*at) > LOSS_WINDOW_MS
        {
            self.samples.pop_front();
        }
    }

    /// For how long nothing was heard, or nothing acknowledged, if that is too long.
    pub(super) fn silence(&self, now: Moment) -> Option<Silence> {
        let (_, last) = self.samples.back()?;
        let (at, _) = self.heard?;
        let unheard = now.ms_since(at);
        if unheard >= SILENT_MS {
            return Some(Silence::Unheard(unheard));
        }
        let patience = SILENT_MS.max(PATIENCE_TRIPS * u64::from(last.rtt_us) / 1000);
        let unanswered = now.ms_since(self.unanswered?);
        (unanswered >= patience).then_some(Silence::Unanswered(unanswered))
    }

    /// `rate_kbps`: as declared.
    pub(super) fn figures(&self, rate_kbps: Option<u32>) -> Figures {
        let Some((now, last)) = self.samples.back() else {
            return Figures::default();
        };
        let recent = || {
            let within = |(at, _): &&(Moment, WaySample)| now.ms_since(*at) <= WINDOW_MS;
            self.samples.iter().filter(within)
        };
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let used = recent().next().map_or(0, |(at, first)| {
            let bytes = last.sent_bytes.saturating_sub(first.sent_bytes);
            bytes.saturating_mul(8) / now.ms_since(*at).max(1)
        });
        let lost_since = |first: &WaySample| {
            let sent = last.sent_packets.saturating_sub(first.sent_packets);
            let lost = last.lost_packets.saturating_sub(first.lost_packets);
            (sent, lost)
        };
        let enough = |(at, first): &&(Moment, WaySample)| {
            now.ms_since(*at) >= WINDOW_MS && lost_since(first).0 >= LOSS_PACKETS_MIN
        };
        let from = self.samples.iter().rev().find(enough);
        let (sent, lost) = from
            .or_else(|| self.samples.front())
            .map_or((0, 0), |(_, first)| lost_since(first));
        let loss = match sent {
            // Of a handful one that was lost says nothing.
            ..LOSS_PACKETS_MIN => 0,
            _ => (lost.saturating_mul(1_000_000) / sent).min(1_000_000),
        };
        let fresh = |(at, _): &&(Moment, u32)| now.ms_since(*at) <= ROUND_TRIP_MS;
        let round_trips = self.round_trips.iter();
        let round_trip = round_trips.filter(fresh).map(|(_, rtt_us)| *rtt_us).min();
        // Nothing was said lately: what was said last may still be so.
        let round_trip = round_trip.or_else(|| Some(self.round_trips.back()?.1));
        let count = recent().count().max(1) as u64;
        let mean = recent().map(|(_, s)| u64::from(s.rtt_us)).sum::<u64>() / count;
        let deviation = recent().map(|(_, s)| u64::from(s.rtt_us).abs_diff(mean));
        let window = last.cwnd.saturating_mul(8_000) / u64::from(last.rtt_us.max(1));
        Figures {
            rtt_us: round_trip.unwrap_or(last.rtt_us),
            jitter_us: short(deviation.sum::<u64>() / count),
            loss_ppm: short(loss),
            avail_kbps: rate_kbps.unwrap_or_else(|| short(window)),
            used_kbps: short(used),
            mtu: last.mtu,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    fn sample(sent: u64, lost: u64, bytes: u64, heard: u64, rtt_us: u32) -> WaySample {
        WaySample {
            node: NodeId([1; 32]),
            way: WayId::MAIN,
            rtt_us,
            acks: 0,
            sent_packets: sent,
            lost_packets: lost,
            sent_bytes: bytes,
            heard_bytes: heard,
            asked: sent,
            answered_bytes: heard,
            cwnd: 10_000,
            mtu: 1452,
        }
    }

    #[test]
    fn figures_are_those_of_the_last_second() {
        let mut window = Window::default();
        // Three seconds at rest, then one at 8 Mbit/s with a tenth lost.
        for step in 0..30 {
            window.push(sample(step, 0, 0, step, 10_000), at(step * 100));
        }
        for step in 0..=10 {
            let sample = sample(
                30 + 100 * step,
                10 * step,
                100_000 * step,
                30 + step,
                20_000,
            );
            window.push(sample, at(3000 + step * 100));
        }
        let figures = window.figures(None);
        assert_eq!(figures.used_kbps, 8_000);
        assert!(
            (90_000..=110_000).contains(&figures.loss_ppm),
            "{figures:?}"
        );
        assert_eq!(figures.avail_kbps, 4_000);
        assert_eq!(window.figures(Some(100_000)).avail_kbps, 100_000);
    }

    /// A connection's own smoothing, with `acks` acknowledgements of `said` us before each sample.
    fn acknowledged(window: &mut Window, from: u64, said: &[(u32, u64)], smoothed: &mut f64) {
        for (step, (said, acks)) in (0u64..).zip(said) {
            for _ in 0..*acks {
                *smoothed = (7.0 * *smoothed + f64::from(*said)) / 8.0;
            }
            let before = window.samples.back().map_or(0, |(_, last)| last.acks);
            let sample = WaySample {
                acks: before + acks,
                ..sample(step, 0, 0, from + step, *smoothed as u32)
            };
            window.push(sample, at((from + step) * 100));
        }
    }

    #[test]
    fn a_queue_is_seen_by_the_third_look_and_its_end_by_the_first() {
        let (mut window, mut smoothed) = (Window::default(), 10_000.0);
        acknowledged(&mut window, 0, &[(10_000, 2); 10], &mut smoothed);
        let rtt = |window: &Window| window.figures(None).rtt_us;
        assert!(rtt(&window).abs_diff(10_000) < 20);
        acknowledged(&mut window, 10, &[(80_000, 2); 2], &mut smoothed);
        assert!(
            rtt(&window).abs_diff(10_000) < 20,
            "two late threads are no queue"
        );
        acknowledged(&mut window, 12, &[(80_000, 1)], &mut smoothed);
        assert!(rtt(&window).abs_diff(80_000) < 100, "{}", rtt(&window));
        assert!(smoothed < 50_000.0, "the connection itself sees it later");
        acknowledged(&mut window, 13, &[(10_000, 3)], &mut smoothed);
        assert!(rtt(&window).abs_diff(10_000) < 100, "{}", rtt(&window));
    }

    #[test]
    fn without_acknowledgements_the_last_word_holds() {
        let (mut window, mut smoothed) = (Window::default(), 10_000.0);
        acknowledged(&mut window, 0, &[(10_000, 1); 3], &mut smoothed);
        acknowledged(&mut window, 3, &[(0, 0); 20], &mut smoothed);
        assert!(window.figures(None).rtt_us.abs_diff(10_000) < 20);
    }

    #[test]
    fn one_lost_of_a_few_is_no_loss() {
        let mut window = Window::default();
        for step in 0..40 {
            window.push(sample(step / 3, step / 30, 0, step, 10_000), at(step * 100));
        }
        assert_eq!(window.figures(None).loss_ppm, 0);
    }

    #[test]
    fn a_way_whose_far_end_is_heard_and_does_not_hear_is_silent_too() {
        let window = |rtt_us: u32| {
            let mut window = Window::default();
            // It is heard all the time; nothing was acknowledged since 500 ms, and nothing was asked until 700.
            let round = |asked, answered_bytes, heard| WaySample {
                asked,
                answered_bytes,
                ..sample(0, 0, 0, heard, rtt_us)
            };
            for step in 0u64..20 {
                let (asked, answered) = (step.min(5) + step.saturating_sub(6), step.min(5));
                window.push(round(asked, answered, step), at(step * 100));
            }
            window
        };
        assert_eq!(window(1).silence(at(1400)), None);
        assert_eq!(window(1).silence(at(1900)), Some(Silence::Unanswered(1200)));
        assert_eq!(window(600_000).silence(at(1900)), None, "it is far away");
        // Who asks nothing is owed no answer.
        let mut idle = Window::default();
        for step in 0..50 {
            let quiet = WaySample {
                answered_bytes: 0,
                ..sample(0, 0, 0, step, 1)
            };
            idle.push(quiet, at(step * 100));
        }
        assert_eq!(idle.silence(at(4900)), None);
    }

    #[test]
    fn a_way_is_silent_once_nothing_comes_and_speaks_again() {
        let mut window = Window::default();
        window.push(sample(0, 0, 0, 5, 1), at(0));
        window.push(sample(9, 0, 9, 5, 1), at(700));
        assert_eq!(window.silence(at(700)), None);
        assert_eq!(window.silence(at(900)), Some(Silence::Unheard(900)));
        window.push(sample(9, 0, 9, 6, 1), at(1000));
        assert_eq!(window.silence(at(1100)), None);
        // A new connection counts from nothing, and is no silent one.
        window.push(sample(0, 0, 0, 0, 1), at(5000));
        assert_eq!(window.silence(at(5100)), None);
    }
}
