//! Dues: what each frame under a ruling is charged with and counted under, in the data path, frame by frame.
//!
//! ```text
//!   frame --> counted under every label --> every meter has room? --yes--> charged to each, goes on
//!                                                    | no
//!                                                    v
//!                                        dropped: `metered`, with the meter's name
//! ```
//!
//! Owns the token bucket and the counter. Both are shared by all lanes of the node and cost a few atomic operations: no lock,
//! no allocation, and time is passed in. A bucket is one number, the moment at which it would be full again (the generic cell
//! rate algorithm of ITU-T I.371): a frame moves it on by its price, and has no room if that is further ahead than the burst.
//! Refuses to know who declared a meter, and for which frames.

use crate::ident::Moment;
use core::sync::atomic::{AtomicU64, Ordering};
use std::fmt;
use std::sync::Arc;

/// Most meters, and most labels, of one ruling.
pub const DUES_MAX: usize = 32;
/// The fastest meter, in kbit/s or packets/s.
pub const RATE_MAX: u64 = 100_000_000;
/// The longest burst, in ms.
pub const BURST_MS_MAX: u64 = 10_000;
/// Frames that fit into the smallest burst, so that no rate holds back everything.
const FRAMES_MIN: u64 = 2;
/// Bytes of the longest frame of an ordinary network, tags included.
const FRAME_BYTES: usize = 1522;

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Thousand bits a second, of the frames as they are on the segment, without preamble and checksum.
    Kbps(u64),
    /// Frames a second.
    Pps(u64),
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kbps(rate) => write!(f, "{rate} kbit/s"),
            Self::Pps(rate) => write!(f, "{rate} packets/s"),
        }
    }
}

/// A token bucket.
#[derive(Debug)]
pub struct Meter {
    name: Arc<str>,
    rate: Rate,
    burst_ns: u64,
    /// When it would be full again, in ns as of [`Moment`].
    full_at: AtomicU64,
    passed: Tally,
    held: Tally,
}

impl Meter {
    /// A full one. `name` is for people. The rate is 1 to [`RATE_MAX`]; the burst, as the time in which it would come at that
    /// rate, up to [`BURST_MS_MAX`] and as long as two frames take at least. What is beyond is taken as the bound.
    #[must_use]
    pub fn new(name: Arc<str>, rate: Rate, burst_ms: u64) -> Self {
        let rate = match rate {
            Rate::Kbps(rate) => Rate::Kbps(rate.clamp(1, RATE_MAX)),
            Rate::Pps(rate) => Rate::Pps(rate.clamp(1, RATE_MAX)),
        };
        let least = price(rate, FRAME_BYTES) * FRAMES_MIN;
        Self {
            name,
            rate,
            burst_ns: (burst_ms.min(BURST_MS_MAX) * 1_000_000).max(least),
            full_at: AtomicU64::new(0),
            passed: Tally::default(),
            held: Tally::default(),
        }
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How fast.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// What passed, and what it held back.
    #[must_use]
    pub fn seen(&self) -> (Counted, Counted) {
        (self.passed.read(), self.held.read())
    }

    /// Has it room for so many bytes? A full one has room for any frame, or a long one would wait for ever.
    #[must_use]
    pub fn has_room(&self, bytes: usize, now: Moment) -> bool {
        let full_at = self.full_at.load(Ordering::Relaxed);
        let after = full_at.max(now.0).saturating_add(price(self.rate, bytes));
        full_at <= now.0 || after - now.0 <= self.burst_ns
    }

    /// What was not held back, since others are to get it, may leave it empty, and no emptier: or a flood would hold back
    /// everything else long after.
    fn charge(&self, bytes: usize, now: Moment) {
        let price = price(self.rate, bytes);
        let empty = now.0.saturating_add(self.burst_ns.max(price));
        // Two lanes may find room for one frame each where there was room for one: then the next pays for it.
        let _ = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                Some(full_at.max(now.0).saturating_add(price).min(empty))
            });
        self.passed.count(bytes);
    }
}

/// In ns.
fn price(rate: Rate, bytes: usize) -> u64 {
    match rate {
        Rate::Kbps(rate) => bytes as u64 * 8_000_000 / rate,
        Rate::Pps(rate) => 1_000_000_000 / rate,
    }
}

/// A counter.
#[derive(Debug, Default)]
pub struct Tally {
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// What a [`Tally`] has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Frames.
    pub packets: u64,
    /// Their bytes, without preamble and checksum.
    pub bytes: u64,
}

impl Tally {
    fn count(&self, bytes: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So far.
    #[must_use]
    pub fn read(&self) -> Counted {
        Counted {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// What a frame is charged with and counted under. Two are equal if they mean the same buckets and counters.
#[derive(Clone, Debug, Default)]
pub struct Dues {
    meters: Vec<Due>,
    tallies: Vec<Arc<Tally>>,
}

#[derive(Clone, Debug)]
struct Due {
    meter: Arc<Meter>,
    /// It is charged, but holds nothing back: others than its receiver get the frame, too.
    lenient: bool,
}

impl PartialEq for Dues {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Due, &Due)| Arc::ptr_eq(&a.meter, &b.meter) && a.lenient == b.lenient;
        self.meters.len() == other.meters.len()
            && self.tallies.len() == other.tallies.len()
            && self.meters.iter().zip(&other.meters).all(same)
            && self
                .tallies
                .iter()
                .zip(&other.tallies)
                .all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl Eq for Dues {}

impl Dues {
    /// Nothing is due.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.meters.is_empty() && self.tallies.is_empty()
    }

    /// More meters or labels than one ruling may have.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.meters.len() > DUES_MAX || self.tallies.len() > DUES_MAX
    }

    /// Also this meter; twice the same is once.
    pub fn meter(&mut self, meter: Arc<Meter>) {
        self.due(meter, false);
    }

    fn due(&mut self, meter: Arc<Meter>, lenient: bool) {
        let there = |due: &&mut Due| Arc::ptr_eq(&due.meter, &meter);
        match self.meters.iter_mut().find(there) {
            Some(due) => due.lenient &= lenient,
            None => self.meters.push(Due { meter, lenient }),
        }
    }

    /// Also under this label; twice the same is once.
    pub fn count(&mut self, tally: Arc<Tally>) {
        if !self.tallies.iter().any(|there| Arc::ptr_eq(there, &tally)) {
            self.tallies.push(tally);
        }
    }

    /// All of these as well. `lenient`: their meters are charged and hold nothing back.
    pub fn add(&mut self, other: &Self, lenient: bool) {
        for due in &other.meters {
            self.due(Arc::clone(&due.meter), due.lenient || lenient);
        }
        for tally in &other.tallies {
            self.count(Arc::clone(tally));
        }
    }

    /// What is due of a frame that is dropped: it is counted, and charged to nobody.
    pub fn forgive(&mut self) {
        self.meters.clear();
    }

    /// Its meters.
    pub fn meters(&self) -> impl Iterator<Item = &Arc<Meter>> + '_ {
        self.meters.iter().map(|due| &due.meter)
    }

    /// It has meters.
    #[must_use]
    pub fn has_meters(&self) -> bool {
        !self.meters.is_empty()
    }

    /// Counts a frame of so many bytes, and charges it where every meter has room.
    ///
    /// # Errors
    /// The name of the first meter that has none; then nothing is charged.
    pub fn pay(&self, bytes: usize, now: Moment) -> Result<(), &Arc<str>> {
        for tally in &self.tallies {
            tally.count(bytes);
        }
        for due in self.meters.iter().filter(|due| !due.lenient) {
            if !due.meter.has_room(bytes, now) {
                due.meter.held.count(bytes);
                return Err(&due.meter.name);
            }
        }
        for due in &self.meters {
            due.meter.charge(bytes, now);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dues(meters: &[&Arc<Meter>]) -> Dues {
        let mut dues = Dues::default();
        for meter in meters {
            dues.meter(Arc::clone(meter));
        }
        dues
    }

    fn meter(rate: Rate, burst_ms: u64) -> Arc<Meter> {
        Arc::new(Meter::new("gold".into(), rate, burst_ms))
    }

    proptest! {
        /// Offered twice the rate for ten seconds, with any frame lengths and gaps.
        #[test]
        fn what_passes_is_the_rate_and_the_burst_within_two_per_cent(
            packets: bool, rate in 1_000..1_000_000u64, burst_ms in 10..500u64,
            frames in proptest::collection::vec(60..1514usize, 16),
        ) {
            let rate = if packets { Rate::Pps(rate / 10) } else { Rate::Kbps(rate) };
            let meter = meter(rate, burst_ms);
            let due = dues(&[&meter]);
            let (mut now, end) = (5_000_000_000u64, 15_000_000_000u64);
            let mut passed = 0;
            for bytes in frames.iter().copied().cycle() {
                if due.pay(bytes, Moment(now)).is_ok() {
                    passed += price(rate, bytes);
                }
                now += (price(rate, bytes) / 2).max(1);
                if now >= end { break; }
            }
            let allowed = 10_000_000_000 + meter.burst_ns;
            prop_assert!(passed <= allowed + allowed / 100, "{passed} of {allowed}");
            prop_assert!(passed >= allowed - allowed / 50, "{passed} of {allowed}");
        }

        #[test]
        fn no_sequence_of_frames_and_times_passes_more_than_burst_and_rate(
            steps in proptest::collection::vec((0..50_000_000u64, 0..9300usize), 1..200), rate in 1..100_000u64,
        ) {
            let meter = meter(Rate::Kbps(rate), 50);
            let due = dues(&[&meter]);
            let (start, mut now, mut passed) = (1_000u64, 1_000u64, 0);
            for (gap, bytes) in steps {
                now += gap;
                if due.pay(bytes, Moment(now)).is_ok() {
                    passed += price(meter.rate, bytes);
                }
                // One that is longer than the whole burst passes a full meter.
                let most = meter.burst_ns.max(price(meter.rate, 9300));
                prop_assert!(passed <= most + (now - start));
            }
        }
    }

    #[test]
    fn every_meter_applies_and_one_that_has_no_room_charges_none() {
        let (wide, narrow) = (meter(Rate::Pps(1000), 1000), meter(Rate::Pps(2), 1000));
        let both = dues(&[&wide, &narrow]);
        let now = Moment(1);
        assert!(both.pay(100, now).is_ok() && both.pay(100, now).is_ok());
        assert!(both.pay(100, now).is_err());
        assert_eq!(wide.seen().0.packets, 2);
        assert_eq!((narrow.seen().0.packets, narrow.seen().1.packets), (2, 1));
        assert_eq!(
            narrow.seen().1.bytes,
            100,
            "the one that held it back counts it"
        );
    }

    #[test]
    fn a_lenient_meter_is_charged_and_holds_nothing_back() {
        let narrow = meter(Rate::Pps(2), 1000);
        let mut flood = Dues::default();
        flood.add(&dues(&[&narrow]), true);
        for _ in 0..5 {
            assert!(flood.pay(100, Moment(1)).is_ok());
        }
        assert!(
            dues(&[&narrow]).pay(100, Moment(1)).is_err(),
            "and others pay for it"
        );
    }

    #[test]
    fn a_flood_leaves_a_meter_empty_and_no_emptier() {
        let slow = meter(Rate::Kbps(10), 1000);
        let mut flood = Dues::default();
        flood.add(&dues(&[&slow]), true);
        for _ in 0..4000 {
            assert!(flood.pay(1400, Moment(1)).is_ok());
        }
        let after = Moment(1).plus_ms(slow.burst_ns / 1_000_000 + 1);
        assert!(dues(&[&slow]).pay(1400, after).is_ok());
    }

    #[test]
    fn a_frame_that_is_longer_than_the_burst_passes_a_full_meter_and_is_paid_for() {
        let (slow, jumbo) = (meter(Rate::Kbps(100), 10), 9018);
        let due = dues(&[&slow]);
        assert!(due.pay(jumbo, Moment(1)).is_ok());
        let paid = price(slow.rate, jumbo);
        assert!(due.pay(60, Moment(paid / 2)).is_err());
        assert!(due.pay(jumbo, Moment(1 + paid)).is_ok());
    }

    #[test]
    fn what_is_counted_is_each_frame_once_under_a_label_also_where_a_meter_drops_it() {
        let (tally, narrow) = (Arc::new(Tally::default()), meter(Rate::Pps(2), 0));
        let mut due = dues(&[&narrow]);
        due.count(Arc::clone(&tally));
        due.count(Arc::clone(&tally));
        let paid = (0..10).filter(|_| due.pay(60, Moment(1)).is_ok()).count();
        assert_eq!(paid, 2);
        assert_eq!(
            tally.read(),
            Counted {
                packets: 10,
                bytes: 600
            }
        );
    }

    #[test]
    fn lanes_that_pay_at_once_lose_no_count() {
        let (tally, meter) = (
            Arc::new(Tally::default()),
            meter(Rate::Pps(RATE_MAX), BURST_MS_MAX),
        );
        let mut due = dues(&[&meter]);
        due.count(Arc::clone(&tally));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| assert!(due.pay(60, Moment(1)).is_ok())));
            }
        });
        assert_eq!((tally.read().packets, meter.seen().0.packets), (4000, 4000));
    }
}
