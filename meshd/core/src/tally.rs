//! What a lane counts, network by network, and the law that holds of it:
//!
//! ```text
//!   came + extra = sent + answered + waiting + dropped
//! ```
//!
//! A frame that came leaves as one copy, is answered here, waits for a ruling, or is dropped; a flood and a mirror make `extra`
//! copies, of which each leaves or is dropped. So no frame is lost without a reason, and whoever adds a way for a frame to go
//! without counting it breaks a test.
//!
//! Owns the counts and the last example of each reason. To count is an addition in a row that is at hand: no lock, and memory
//! only with a new network or the first drop of a reason. Peers choose VNIs, so there are at most [`NETWORKS_MAX`] rows; what is
//! beyond, and what told no network, is counted together.

use crate::flow::FlowKey;
use crate::ident::{Moment, Vni};
use crate::ruling::{DropCounts, DropReason};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Networks that a lane counts by themselves.
pub const NETWORKS_MAX: usize = 256;

/// An example that the shell has to read the frame for is not made more often than this, in ms.
const EXAMPLE_MS: u64 = 100;

/// The last frame that was dropped for a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneDrop {
    /// Why.
    pub reason: DropReason,
    /// When.
    pub at: Moment,
    /// What it was, if it was a frame.
    pub key: Option<FlowKey>,
    /// The meter that had no room, if it was one.
    pub meter: Option<Arc<str>>,
}

/// The counts of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames that came; also what came and was no frame, or did not come whole.
    pub came: u64,
    /// Bytes of those that were frames.
    pub bytes: u64,
    /// Copies beyond the first of a frame: of floods, and for mirrors.
    pub extra: u64,
    /// Copies that a port or a session took.
    pub sent: u64,
    /// Frames that the switch answered, or that were for it.
    pub answered: u64,
    /// Frames that wait for a ruling at the moment.
    pub waiting: u64,
    /// Frames and copies that were dropped.
    pub drops: DropCounts,
    /// The last drop of each reason, in order of the reason's first appearance.
    pub last: Vec<LaneDrop>,
}

impl Tally {
    /// What the counts say is unaccounted for: 0, always.
    #[must_use]
    pub fn missing(&self) -> i128 {
        let into = i128::from(self.came) + i128::from(self.extra);
        let out = [self.sent, self.answered, self.waiting, self.drops.total()];
        into - out.into_iter().map(i128::from).sum::<i128>()
    }

    /// Counts drops.
    pub fn drop(&mut self, reason: DropReason, frames: u64, key: Option<FlowKey>, now: Moment) {
        if frames == 0 {
            return;
        }
        self.drops.add(reason, frames);
        // One row for each reason, so at most as many as there are reasons.
        match self.last.iter_mut().find(|drop| drop.reason == reason) {
            // What is known of a frame is worth more than that there was another.
            Some(last) if key.is_none() && now.ms_since(last.at) < EXAMPLE_MS => {}
            Some(last) => (last.at, last.key) = (now, key),
            None => self.last.push(LaneDrop {
                reason,
                at: now,
                key,
                meter: None,
            }),
        }
    }

    /// Adds what another counted of the same network.
    pub fn merge(&mut self, other: &Self) {
        self.came += other.came;
        self.bytes += other.bytes;
        self.extra += other.extra;
        self.sent += other.sent;
        self.answered += other.answered;
        self.waiting += other.waiting;
        self.drops.merge(&other.drops);
        for drop in &other.last {
            match self.last.iter_mut().find(|d| d.reason == drop.reason) {
                Some(known) if known.at > drop.at => {}
                Some(known) => known.clone_from(drop),
                None => self.last.push(drop.clone()),
            }
        }
    }
}

/// The counts of all networks of a lane.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    rows: Vec<Tally>,
    by_vni: BTreeMap<Vni, usize>,
    rest: Tally,
    /// Whose row is at hand, and which it is.
    turn: Option<Vni>,
    at: usize,
}

impl Tallies {
    /// The row of a network; of `None`: of what told no network.
    #[inline(always)]
    pub fn of(&mut self, vni: Option<Vni>) -> &mut Tally {
        if self.turn != vni {
            self.turn_to(vni);
        }
        match self.turn {
            None => &mut self.rest,
            Some(_) => self.rows.get_mut(self.at).unwrap_or(&mut self.rest),
        }
    }

    #[cold]
    fn turn_to(&mut self, vni: Option<Vni>) {
        self.turn = vni;
        let Some(vni) = vni else { return };
        let known = self.by_vni.get(&vni).copied();
        // Beyond the last row is none: then `rest` is counted in.
        self.at = known.unwrap_or(self.rows.len());
        if known.is_none() && self.rows.len() < NETWORKS_MAX {
            self.by_vni.insert(vni, self.rows.len());
            self.rows.push(Tally::default());
        } else if known.is_none() {
            self.at = usize::MAX;
        }
    }

    /// Is it time that the shell reads a dropped frame, so that there is an example?
    #[must_use]
    pub fn wants_example(&self, vni: Vni, reason: DropReason, now: Moment) -> bool {
        let row = self.by_vni.get(&vni).and_then(|&at| self.rows.get(at));
        let mut last = row.into_iter().flat_map(|row| &row.last);
        last.find(|drop| drop.reason == reason)
            .is_none_or(|drop| drop.key.is_none() || now.ms_since(drop.at) >= EXAMPLE_MS)
    }

    /// Each network's; at the end, if there is something, what told none.
    pub fn iter(&self) -> impl Iterator<Item = (Option<Vni>, &Tally)> + '_ {
        let rows = self.by_vni.iter();
        let rows = rows.filter_map(|(vni, &at)| Some((Some(*vni), self.rows.get(at)?)));
        let rest = (self.rest != Tally::default()).then_some((None, &self.rest));
        rows.chain(rest)
    }

    /// Adds what others counted.
    pub fn merge(&mut self, other: &Self) {
        for (vni, tally) in other.iter() {
            self.of(vni).merge(tally);
        }
    }

    /// All networks together.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for (_, tally) in self.iter() {
            total.merge(tally);
        }
        total
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vni(number: u32) -> Option<Vni> {
        Some(Vni::new(number).unwrap())
    }

    #[test]
    fn whatever_vnis_a_peer_invents_there_is_a_bound_and_nothing_goes_uncounted() {
        let mut tallies = Tallies::default();
        for number in 1..2000 {
            tallies.of(vni(number)).came += 1;
            tallies
                .of(vni(number))
                .drop(DropReason::UnknownVni, 1, None, Moment(0));
        }
        assert_eq!(tallies.iter().count(), NETWORKS_MAX + 1);
        let total = tallies.total();
        assert_eq!((total.came, total.missing()), (1999, 0));
        // Networks that have a row keep it.
        tallies.of(vni(5)).came += 1;
        assert_eq!(
            tallies.iter().find(|(of, _)| *of == vni(5)).unwrap().1.came,
            2
        );
    }

    #[test]
    fn an_example_with_its_fields_is_not_taken_over_by_one_without() {
        let mut tally = Tally::default();
        let frame = crate::frame::tests::udp(
            crate::ident::MacAddr([2; 6]),
            crate::ident::MacAddr([2; 6]),
            [10, 0, 0, 1],
            [10, 0, 0, 2],
            53,
            0,
        );
        let parsed = crate::frame::Frame::parse(&frame).unwrap();
        let key = parsed.flow_key(vni(7).unwrap());
        tally.drop(DropReason::SessionQueueFull, 1, Some(key), Moment(1));
        tally.drop(DropReason::SessionQueueFull, 1, None, Moment(2));
        assert_eq!(
            (tally.last[0].at, tally.last[0].key),
            (Moment(1), Some(key))
        );
        tally.drop(
            DropReason::SessionQueueFull,
            1,
            None,
            Moment(1).plus_ms(EXAMPLE_MS),
        );
        assert_eq!(tally.last[0].key, None);
        assert_eq!(tally.drops.total(), 3);
    }

    proptest! {
        #[test]
        fn rows_are_found_again_and_merged_as_they_were_counted(counted in proptest::collection::vec((0..600u32, 1..9u64), 0..900)) {
            let (mut one, mut halves) = (Tallies::default(), [Tallies::default(), Tallies::default()]);
            for (number, frames) in &counted {
                let vni = Vni::new(*number).ok();
                one.of(vni).came += frames;
                halves[(*frames % 2) as usize].of(vni).came += frames;
            }
            let mut both = Tallies::default();
            halves.iter().for_each(|half| both.merge(half));
            prop_assert_eq!(one.total(), both.total());
            prop_assert!(one.iter().count() <= NETWORKS_MAX + 1);
        }
    }
}
