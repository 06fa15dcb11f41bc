//! A lane's cache: megaflows in slots, found by the front or by one look for each mask.
//!
//! ```text
//!   key -- front -----------------------> slot: is the key's masked part this one? then it is that flow
//!     \                                    ^
//!      `-> tuple, tuple, … (key & mask) ---'
//! ```
//!
//! Owns what is kept, under which mask, and what gives way. A slot has what each frame needs, in two cache lines, and nothing
//! else; the rest lies elsewhere. Every table has a bound, named in [`LaneLimits`](super::LaneLimits).

use super::LaneLimits;
use super::front::{Front, Hint, Spot};
use super::numbers::{Number, Numbers};
use crate::flow::{FlowKey, FlowMask, KeyWords};
use crate::ident::{Epoch, Moment};
use crate::ruling::{Megaflow, Output, Ruling};
use crate::superframe::Unit;
use core::hash::BuildHasher;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// How often idle megaflows are looked for.
const SWEEP_MS: u64 = 5000;

/// What only some frames ask for.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) flow: Megaflow,
    /// Its `cache` is in `flow`.
    pub(super) ruling: Ruling,
    pub(super) since: Moment,
}

impl Rest {
    /// True while its time lasts, and its time without frames, of which the last came at `used`.
    fn is_fresh(&self, used: Moment, now: Moment) -> bool {
        let Megaflow { until, idle_ms, .. } = self.flow;
        until.is_none_or(|until| now < until)
            && idle_ms.is_none_or(|idle| now.ms_since(used) < u64::from(idle))
    }
}

/// How long a slot's flow is obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Term {
    /// There is none.
    Free,
    /// While its epoch lasts.
    Epoch,
    /// No longer than its [`Rest`] says, either.
    Timed,
}

/// A place for a flow: what each frame asks for, in two cache lines.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Slot {
    /// Bits outside the mask are zero.
    key: KeyWords,
    used: Moment,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    epoch: Epoch,
    /// Which tuple has the mask.
    tuple: u32,
    /// Bytes of the longest frame that it speaks of.
    pub(super) longest: u32,
    /// Grows each time the place is given away, so that the front notices.
    turn: u16,
    /// Whose number, if the ruling is to forward to one receiver, and nothing else.
    pub(super) plain: Number,
    term: Term,
    /// A frame came since the hand last came by.
    recent: bool,
    /// The kernel is to be offered each flow under it.
    each_flow: bool,
}

/// A third line would cost a frame as much as its hash does.
const _: () = assert!(size_of::<Slot>() == 128);

impl Slot {
    fn new() -> Self {
        Self {
            key: KeyWords::default(),
            used: Moment(0),
            frames: 0,
            bytes: 0,
            epoch: Epoch(0),
            tuple: u32::MAX,
            longest: 0,
            turn: 0,
            plain: Number::NONE,
            term: Term::Free,
            recent: false,
            each_flow: false,
        }
    }

    /// When the last frame came.
    pub(super) fn used(&self) -> Moment {
        self.used
    }

    /// More frames.
    #[inline]
    pub(super) fn count(&mut self, unit: &Unit<'_>, now: Moment) {
        self.used = now;
        self.recent = true;
        self.frames += unit.frames();
        self.bytes += unit.bytes().len() as u64;
    }
}

#[derive(Debug)]
struct Tuple {
    mask: FlowMask,
    words: KeyWords,
    /// Frames that found a flow here of late; halved at each sweep.
    hits: u64,
    /// Slots, by their keys.
    flows: HashTable<u32>,
}

/// A ruling to be kept.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) flow: Megaflow,
    pub(super) ruling: Ruling,
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    limits: LaneLimits,
    hasher: FixedState,
    front: Front,
    slots: Vec<Slot>,
    /// Of each slot; `None`: it is free.
    rests: Vec<Option<Box<Rest>>>,
    numbers: Numbers,
    free: Vec<u32>,
    tuples: Vec<Tuple>,
    /// In which order the tuples are asked.
    order: Vec<u32>,
    /// Where the search for a flow to give up goes on.
    hand: usize,
    next_sweep: Moment,
    /// The epoch for which room was made among the masks.
    swept_for: Epoch,
}

impl Cache {
    pub(super) fn new(limits: LaneLimits, hasher: FixedState) -> Self {
        Self {
            limits,
            front: Front::default(),
            slots: Vec::new(),
            rests: Vec::new(),
            numbers: Numbers::new(hasher.clone()),
            hasher,
            free: Vec::new(),
            tuples: Vec::new(),
            order: Vec::new(),
            hand: 0,
            next_sweep: Moment(0),
            swept_for: Epoch(0),
        }
    }

    /// Megaflows.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Masks under which something is kept.
    #[cfg(test)]
    pub(super) fn masks(&self) -> Vec<FlowMask> {
        self.order
            .iter()
            .filter_map(|&at| Some(self.tuples.get(at as usize)?.mask))
            .collect()
    }

    /// Places and what the tuples have of them, to be compared.
    #[cfg(test)]
    pub(super) fn places(&self) -> (usize, usize) {
        let held = self.tuples.iter().map(|tuple| tuple.flows.len()).sum();
        (self.slots.len(), held)
    }

    /// What is obeyed in `epoch`.
    pub(super) fn live(&self, epoch: Epoch, now: Moment) -> impl Iterator<Item = (&Slot, &Rest)> {
        let slots = (0..).zip(&self.slots);
        slots.filter_map(move |(at, slot)| {
            let rest = self.rest(at)?;
            self.holds(at, slot, epoch, now).then_some((slot, rest))
        })
    }

    /// The flow in a slot.
    #[inline]
    pub(super) fn slot(&mut self, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize)
    }

    /// Who has a number.
    #[inline(always)]
    pub(super) fn receiver(&self, number: Number) -> Option<&Output> {
        self.numbers.get(number)
    }

    /// The rest of what is known of a slot's flow.
    pub(super) fn rest(&self, slot: u32) -> Option<&Rest> {
        self.rests.get(slot as usize)?.as_deref()
    }

    /// Does a slot's ruling do something to each frame, or for each, that cannot be done to a superframe?
    pub(super) fn looks_at_each(&self, slot: u32, key: &FlowKey) -> bool {
        let ruling = self.rest(slot).map(|rest| rest.ruling.choose(key));
        ruling.is_some_and(|ruling| {
            ruling.dues.is_some() || ruling.punts.is_some() || ruling.copies.is_some()
        })
    }

    /// Is the flow in this slot, which is `at`, obeyed?
    #[inline]
    fn holds(&self, at: u32, slot: &Slot, epoch: Epoch, now: Moment) -> bool {
        slot.epoch == epoch
            && match slot.term {
                Term::Free => false,
                Term::Epoch => true,
                Term::Timed => self
                    .rest(at)
                    .is_some_and(|rest| rest.is_fresh(slot.used, now)),
            }
    }

    #[inline]
    fn hash(&self, key: &KeyWords) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Where the front has, or would have, a key.
    #[inline(always)]
    pub(super) fn spot(&self, key: &KeyWords) -> Spot {
        Front::spot(self.hash(key))
    }

    /// The slot of the flow that a key is under, if the front knows it.
    #[inline(always)]
    pub(super) fn known(
        &self,
        key: &KeyWords,
        spot: Spot,
        epoch: Epoch,
        now: Moment,
    ) -> Option<u32> {
        self.front.find(spot, |hint| {
            let slot = self.slots.get(hint.slot as usize);
            slot.is_some_and(|slot| {
                let tuple = self.tuples.get(slot.tuple as usize);
                slot.turn == hint.turn
                    && self.holds(hint.slot, slot, epoch, now)
                    && tuple.is_some_and(|tuple| key.is_under(&tuple.words, &slot.key))
            })
        })
    }

    /// The slot of the flow that a key is under, asked of each mask; and whether the kernel could hold this key, and has not
    /// been offered it. One whose flows the kernel may hold one by one is offered while `may_offer`.
    #[inline(never)]
    pub(super) fn find(
        &mut self,
        key: &KeyWords,
        spot: Spot,
        epoch: Epoch,
        now: Moment,
        may_offer: impl FnOnce() -> bool,
    ) -> Option<(u32, bool)> {
        let (at, found) = self.order.iter().find_map(|&at| {
            let tuple = self.tuples.get(at as usize)?;
            let masked = key.and(&tuple.words);
            let of = |&slot: &u32| {
                self.slots
                    .get(slot as usize)
                    .is_some_and(|s| s.key == masked)
            };
            let slot = *tuple.flows.find(self.hash(&masked), of)?;
            let live = self.holds(slot, self.slots.get(slot as usize)?, epoch, now);
            live.then_some((at, slot))
        })?;
        if let Some(tuple) = self.tuples.get_mut(at as usize) {
            tuple.hits += 1;
        }
        let each_flow = self.slots.get(found as usize)?.each_flow;
        let offer = each_flow && may_offer();
        // One that could not be offered now comes by again.
        if offer || !each_flow {
            self.remember(spot, found);
        }
        Some((found, offer))
    }

    /// The key was found there.
    fn remember(&mut self, spot: Spot, slot: u32) {
        if let Some(turn) = self.slots.get(slot as usize).map(|slot| slot.turn) {
            self.front.put(spot, Hint { slot, turn });
        }
    }

    /// What was put there last is to be found anew.
    pub(super) fn forget(&mut self, spot: Spot) {
        self.front.forget(spot);
    }

    /// Keeps a ruling. `key`: of the frame that was asked about, if it still waited.
    pub(super) fn install(&mut self, mut entry: Entry, key: Option<&FlowKey>, now: Moment) {
        if self.limits.flows == 0 {
            return;
        }
        let mut mask = self.mask_for(entry.flow.mask);
        if mask != entry.flow.mask && self.swept_for != entry.flow.epoch {
            // Masks of an epoch that is over take up room yet. Once an epoch, since it is a look at every flow.
            self.swept_for = entry.flow.epoch;
            self.sweep_stale(entry.flow.epoch);
            mask = self.mask_for(entry.flow.mask);
        }
        if mask != entry.flow.mask {
            // The bits that it did not rest on are not in the ruling's own key.
            let Some(key) = key else { return };
            entry.flow.key = *key;
            entry.flow.mask = mask;
        }
        entry.flow.key = mask.apply(&entry.flow.key);
        let words = KeyWords::of(&entry.flow.key);
        let slot = self.place(&words, &mask, now);
        let plain = self.numbers.take(entry.ruling.plain());
        let (Some(place), Some(rest)) = (
            self.slots.get_mut(slot as usize),
            self.rests.get_mut(slot as usize),
        ) else {
            return;
        };
        let before = rest.as_ref().map(|rest| rest.since);
        if before.is_none() {
            (place.frames, place.bytes) = (0, 0);
        }
        // Another ruling, even where it is of the same flow: what the kernel was offered it is offered again.
        place.turn = place.turn.wrapping_add(1);
        place.recent = false;
        place.each_flow = entry.ruling.each_flow;
        place.epoch = entry.flow.epoch;
        place.term = match (entry.flow.until, entry.flow.idle_ms) {
            (None, None) => Term::Epoch,
            _ => Term::Timed,
        };
        place.longest = entry.ruling.longest;
        place.used = now;
        place.frames += entry.frames;
        place.bytes += entry.bytes;
        let freed = core::mem::replace(&mut place.plain, plain);
        *rest = Some(Box::new(Rest {
            flow: entry.flow,
            ruling: entry.ruling,
            since: before.unwrap_or(now),
        }));
        self.numbers.give_back(freed);
        if let Some(key) = key {
            let spot = self.spot(&KeyWords::of(key));
            self.remember(spot, slot);
        }
    }

    /// The slot of the flow with this key and mask: where it is already, or a free one.
    fn place(&mut self, key: &KeyWords, mask: &FlowMask, now: Moment) -> u32 {
        let hash = self.hash(key);
        let known = self.tuple_with(mask);
        let known = known.and_then(|at| self.tuples.get(at as usize));
        let is = |&slot: &u32| self.slots.get(slot as usize).is_some_and(|s| s.key == *key);
        if let Some(&slot) = known.and_then(|tuple| tuple.flows.find(hash, is)) {
            return slot;
        }
        // Room first: to evict may remove tuples.
        let slot = self.free_slot(now);
        let tuple = self.tuple_of(mask);
        if let Some(place) = self.slots.get_mut(slot as usize) {
            (place.key, place.tuple) = (*key, tuple);
        }
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash = |&slot: &u32| {
            let key = slots.get(slot as usize).map(|slot| slot.key);
            hasher.hash_one(key.unwrap_or_default())
        };
        if let Some(tuple) = self.tuples.get_mut(tuple as usize) {
            tuple.flows.insert_unique(hash, slot, rehash);
        }
        slot
    }

    fn sweep_stale(&mut self, epoch: Epoch) {
        for slot in 0..self.slots.len() {
            let stale = |s: &Slot| s.term != Term::Free && s.epoch != epoch;
            if self.slots.get(slot).is_some_and(stale) {
                self.evict(slot);
            }
        }
    }

    /// The mask under which a ruling on `mask` can be kept: that one, where it is here or there is room for it; else the
    /// narrowest here that holds all of it; else that of whole keys, which has a place in any case.
    fn mask_for(&self, mask: FlowMask) -> FlowMask {
        let exact = FlowMask::exact();
        let masks = self.order.iter();
        let masks = masks.filter_map(|&at| Some(self.tuples.get(at as usize)?.mask));
        if masks.clone().any(|one| one == mask)
            || masks.clone().filter(|one| *one != exact).count() < self.limits.masks
        {
            return mask;
        }
        masks
            .filter(|one| one.is_superset(&mask))
            .min_by_key(FlowMask::weight)
            .unwrap_or(exact)
    }

    /// The tuple that has flows under a mask.
    fn tuple_with(&self, mask: &FlowMask) -> Option<u32> {
        let mut order = self.order.iter().copied();
        order.find(|&at| {
            let tuple = self.tuples.get(at as usize);
            tuple.is_some_and(|tuple| tuple.mask == *mask)
        })
    }

    /// The tuple of a mask, made if there is none. Its number stays while it has flows.
    fn tuple_of(&mut self, mask: &FlowMask) -> u32 {
        if let Some(at) = self.tuple_with(mask) {
            return at;
        }
        let tuple = Tuple {
            mask: *mask,
            words: KeyWords::of_mask(mask),
            hits: 0,
            flows: HashTable::new(),
        };
        let free = self.tuples.iter().position(|tuple| tuple.flows.is_empty());
        let at = free.unwrap_or(self.tuples.len());
        match self.tuples.get_mut(at) {
            Some(place) => *place = tuple,
            None => self.tuples.push(tuple),
        }
        self.order.push(at as u32);
        at as u32
    }

    /// A slot without a flow; where all have one, the first that has seen no frame since the hand last came by gives way.
    fn free_slot(&mut self, now: Moment) -> u32 {
        if self.free.is_empty() && self.slots.len() < self.limits.flows {
            self.slots.push(Slot::new());
            self.rests.push(None);
            return (self.slots.len() - 1) as u32;
        }
        if self.free.is_empty() {
            // A bounded look for one that nobody would miss, then whichever is next.
            let (hand, all) = (self.hand, self.slots.len());
            let found = (0..64)
                .map(|step| (hand + step) % all)
                .find(|&slot| self.is_over(slot, now) || !self.spare(slot));
            let slot = found.unwrap_or(self.hand % self.slots.len());
            self.hand = slot + 1;
            self.evict(slot);
        }
        self.free.pop().unwrap_or_default()
    }

    /// True if the slot's flow is out of time or idle.
    fn is_over(&self, slot: usize, now: Moment) -> bool {
        let (Some(slot), Some(Some(rest))) = (self.slots.get(slot), self.rests.get(slot)) else {
            return false;
        };
        now.ms_since(slot.used) >= self.limits.idle_ms || !rest.is_fresh(slot.used, now)
    }

    /// True, once, if a frame came since it was asked last.
    fn spare(&mut self, slot: usize) -> bool {
        let slot = self.slots.get_mut(slot);
        let slot = slot.filter(|slot| slot.term != Term::Free);
        slot.is_some_and(|slot| core::mem::take(&mut slot.recent))
    }

    fn evict(&mut self, slot: usize) {
        let hasher = &self.hasher;
        let place = self.slots.get_mut(slot);
        let Some(place) = place.filter(|place| place.term != Term::Free) else {
            return;
        };
        let hash = hasher.hash_one(place.key);
        place.term = Term::Free;
        if let Some(rest) = self.rests.get_mut(slot) {
            *rest = None;
        }
        self.numbers
            .give_back(core::mem::replace(&mut place.plain, Number::NONE));
        place.turn = place.turn.wrapping_add(1);
        let at = core::mem::replace(&mut place.tuple, u32::MAX);
        if let Some(tuple) = self.tuples.get_mut(at as usize) {
            let here = |&other: &u32| other as usize == slot;
            if let Ok(entry) = tuple.flows.find_entry(hash, here) {
                entry.remove();
            }
            // A tuple without flows costs a look for every miss.
            if tuple.flows.is_empty() {
                self.order.retain(|&other| other != at);
            }
        }
        self.free.push(slot as u32);
    }

    /// Forgets what had no frame for long, if it is time.
    pub(super) fn sweep(&mut self, now: Moment) {
        if self.next_sweep > now {
            return;
        }
        self.next_sweep = now.plus_ms(SWEEP_MS);
        for slot in 0..self.slots.len() {
            if self.is_over(slot, now) {
                self.evict(slot);
            }
        }
        let tuples = &mut self.tuples;
        self.order.sort_by_key(|&at| {
            core::cmp::Reverse(tuples.get(at as usize).map_or(0, |tuple| tuple.hits))
        });
        tuples.iter_mut().for_each(|tuple| tuple.hits /= 2);
    }

    /// When [`Self::sweep`] has something to do.
    pub(super) fn next_sweep(&self) -> Option<Moment> {
        (self.len() > 0).then_some(self.next_sweep)
    }
}
