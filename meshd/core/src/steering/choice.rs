//! A choice: by which of a peer's ways the frames of a ruling go, flow by flow, without a question to anybody.
//!
//! ```text
//!   hash of the flow --> bucket: its way, and when a frame took it last
//!                          | that way is the one that is wanted now, or a frame took it less than the gap ago
//!                          |   --> the same way
//!                          | a pause of at least the gap, or the way is dead
//!                          '   --> the way that is wanted now
//! ```
//!
//! Frames of one flow that follow each other closely (a *flowlet*: Kandula and others, 2007) so keep one way, and cannot
//! overtake each other, while what begins anew takes the best way there is.
//!
//! Owns the buckets. Shared by the node, which sets the order, and by all lanes, which pick with each frame: a few atomic
//! operations, no lock, no allocation, and the time is passed in.

use super::way::{Live, WAYS_END, WayId, Ways};
use crate::ident::Moment;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Flows are told apart by so many buckets.
pub const BUCKETS: usize = 128;
/// A flow moves no sooner than after so long a pause, unless a plugin says otherwise, in ms.
pub const GAP_MS: u32 = 50;
/// The longest gap, in ms: what begins anew after ten minutes is another flow.
const GAP_MS_MAX: u32 = 600_000;

/// By which way a frame goes to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// By any that is alive.
    #[default]
    Any,
    /// By this one; by any other, should it have gone just now.
    Prefer(WayId),
    /// By this one, or not at all.
    Only(WayId),
}

/// In which order ways are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The best first.
    pub ranked: Vec<WayId>,
    /// Flows are spread over so many of the first that are alive; at least 1.
    pub spread: u8,
    /// See [`GAP_MS`].
    pub gap_ms: u32,
}

impl Order {
    /// All flows on the first that is alive.
    #[must_use]
    pub fn of(ranked: Vec<WayId>) -> Self {
        Self {
            ranked,
            spread: 1,
            gap_ms: GAP_MS,
        }
    }
}

/// An [`Order`] in one word, so that no lane ever sees half of one: eight ways of four bits, the spread in four, the gap in
/// 24.
#[derive(Clone, Copy)]
struct Packed(u64);

const RANKS: usize = 8;

impl Packed {
    fn of(order: &Order) -> Self {
        let mut word = 0;
        for (rank, way) in order.ranked.iter().take(RANKS).enumerate() {
            word |= u64::from(way.number()) << (4 * rank);
        }
        let spread = u64::from(order.spread.clamp(1, RANKS as u8));
        let gap = u64::from(order.gap_ms.min(GAP_MS_MAX));
        Self(word | spread << 32 | gap << 36)
    }

    fn ranked(self) -> impl Iterator<Item = WayId> {
        (0..RANKS).map_while(move |rank| WayId::new((self.0 >> (4 * rank)) as u32 & 0xf))
    }

    fn gap_ms(self) -> u64 {
        self.0 >> 36
    }

    /// The way of a bucket, if all flows began now.
    fn way(self, bucket: usize, live: Ways) -> Option<WayId> {
        let alive = || self.ranked().filter(|way| live.has(*way));
        let spread = ((self.0 >> 32) as usize & 0xf).min(alive().count());
        alive().nth(bucket.checked_rem(spread)?)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Choice {
    live: Arc<Live>,
    order: AtomicU64,
    /// What is on no way of the order is dropped, and does not go by another.
    strict: bool,
    /// The way in the lowest four bits, above them when a frame took it last, in ms.
    buckets: [AtomicU64; BUCKETS],
}

const _: () = assert!(WAYS_END <= 16, "a way's number has four bits");

impl Choice {
    /// A choice among the ways of a peer.
    #[must_use]
    pub fn new(live: Arc<Live>, order: &Order) -> Self {
        Self {
            live,
            order: AtomicU64::new(Packed::of(order).0),
            strict: false,
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }

    /// The same; what finds none of them alive goes nowhere.
    #[must_use]
    pub fn strict(live: Arc<Live>, order: &Order) -> Self {
        Self {
            strict: true,
            ..Self::new(live, order)
        }
    }

    /// Another order holds from now on, for what begins anew.
    pub fn set(&self, order: &Order) {
        self.order.store(Packed::of(order).0, Ordering::Relaxed);
    }

    /// In which order ways are taken.
    pub fn ranked(&self) -> impl Iterator<Item = WayId> {
        Packed(self.order.load(Ordering::Relaxed)).ranked()
    }

    /// Would kernel VXLAN be the best way, if it is open?
    #[must_use]
    pub fn prefers_kernel(&self) -> bool {
        self.ranked().next() == Some(WayId::KERNEL)
    }

    /// The way of a flow's next frame; `None`: it is to be dropped, since none of the ways is alive and no other will do.
    #[must_use]
    pub fn route(&self, hash: u64, now: Moment) -> Option<Route> {
        match (self.pick(hash, now), self.strict) {
            (Some(way), true) => Some(Route::Only(way)),
            (Some(way), false) => Some(Route::Prefer(way)),
            (None, true) => None,
            (None, false) => Some(Route::Any),
        }
    }

    /// The same; `None`: none of them is alive.
    #[must_use]
    pub fn pick(&self, hash: u64, now: Moment) -> Option<WayId> {
        let order = Packed(self.order.load(Ordering::Relaxed));
        let live = self.live.ways();
        let at = hash as usize % BUCKETS;
        let wanted = order.way(at, live)?;
        let bucket = self.buckets.get(at)?;
        let ms = now.0 / 1_000_000;
        let mut seen = bucket.load(Ordering::Relaxed);
        loop {
            let (way, last) = (WayId::new(seen as u32 & 0xf), seen >> 4);
            let flows = ms.saturating_sub(last) < order.gap_ms();
            let way = way.filter(|way| flows && live.has(*way)).unwrap_or(wanted);
            let next = ms.max(last) << 4 | u64::from(way.number());
            if next == seen {
                return Some(way);
            }
            // Another lane may have moved the bucket in the meantime: then its word counts.
            match bucket.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(way),
                Err(newer) => seen = newer,
            }
        }
    }
}

/// Two are the same only if they are one: it is shared state.
impl PartialEq for Choice {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }
}

impl Eq for Choice {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn way(number: u32) -> WayId {
        WayId::new(number).unwrap()
    }

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    fn choice(live: &[u32], ranked: &[u32]) -> (Choice, Arc<Live>) {
        let shared = Arc::new(Live::default());
        shared.set(live.iter().map(|&n| way(n)).collect(), None);
        let order = Order::of(ranked.iter().map(|&n| way(n)).collect());
        (Choice::new(Arc::clone(&shared), &order), shared)
    }

    #[test]
    fn a_flowlet_keeps_its_way_until_it_pauses() {
        let (choice, _) = choice(&[3, 4], &[3, 4]);
        assert_eq!(choice.pick(7, at(1000)), Some(way(3)));
        choice.set(&Order::of(vec![way(4), way(3)]));
        // 49 ms apart, for as long as it goes on.
        for step in 1..100 {
            assert_eq!(choice.pick(7, at(1000 + 49 * step)), Some(way(3)), "{step}");
        }
        assert_eq!(choice.pick(7, at(1000 + 49 * 99 + 50)), Some(way(4)));
        // What had not begun takes the new way at once.
        assert_eq!(choice.pick(8, at(1001)), Some(way(4)));
    }

    #[test]
    fn a_dead_way_is_left_at_once_and_taken_again_after_a_pause() {
        let (choice, live) = choice(&[3, 4], &[3, 4]);
        assert_eq!(choice.pick(7, at(10)), Some(way(3)));
        live.set(Ways::default().with(way(4)), None);
        assert_eq!(choice.pick(7, at(11)), Some(way(4)));
        live.set(Ways::default().with(way(4)).with(way(3)), None);
        assert_eq!(choice.pick(7, at(12)), Some(way(4)));
        assert_eq!(choice.pick(7, at(62)), Some(way(3)));
        live.set(Ways::default(), None);
        assert_eq!(choice.pick(7, at(63)), None);
    }

    #[test]
    fn kernel_vxlan_is_first_and_yet_lanes_take_the_next() {
        let (choice, _) = choice(&[2, 3], &[1, 3, 2]);
        assert!(choice.prefers_kernel());
        assert_eq!(choice.pick(0, at(1)), Some(way(3)));
    }

    #[test]
    fn a_spread_uses_so_many_ways_and_each_flow_one() {
        let (choice, _) = choice(&[2, 3, 4], &[3, 4, 2]);
        choice.set(&Order {
            spread: 2,
            ..Order::of(vec![way(3), way(4), way(2)])
        });
        let mut counts = [0; WAYS_END];
        for flow in 0..BUCKETS as u64 {
            let first = choice.pick(flow, at(1)).unwrap();
            assert_eq!(choice.pick(flow, at(2)), Some(first));
            counts[first.number() as usize] += 1;
        }
        assert_eq!((counts[3], counts[4]), (BUCKETS / 2, BUCKETS / 2));
    }

    proptest! {
        #[test]
        fn within_the_gap_a_flow_moves_only_if_its_way_dies(
            steps in prop::collection::vec((0u64..120, 0u32..32, prop::collection::vec(2u32..5, 1..4)), 1..60),
        ) {
            let (choice, live) = choice(&[2, 3, 4], &[2, 3, 4]);
            let (mut now, mut before): (u64, Option<(WayId, u64)>) = (1000, None);
            for (pause, alive, ranked) in steps {
                now += pause;
                let ways: Ways = (2..5).filter(|n| alive & 1 << n != 0).map(way).collect();
                live.set(ways, None);
                choice.set(&Order::of(ranked.into_iter().map(way).collect()));
                let picked = choice.pick(5, at(now));
                if let (Some((old, last)), Some(new)) = (before, picked) {
                    prop_assert!(new == old || now - last >= u64::from(GAP_MS) || !ways.has(old));
                    prop_assert!(ways.has(new));
                }
                before = picked.map(|way| (way, now)).or(before);
            }
        }
    }
}
