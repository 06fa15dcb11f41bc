//! The connections of one network, bounded, and who gives way.
//!
//! Fair in three steps: the origin with most connections, in it the opener with most, and of its connections first one that
//! was never answered, then the one without a frame for longest (of a sample). So who scans pushes out its own, and of these
//! the unanswered ones; what others have open stays.

use super::conn::{Conn, State};
use super::share::Shares;
use super::{Opener, Signal, Tuple};
use crate::flow::Origin;
use crate::ident::{Epoch, MacAddr, Moment};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How big a network's table may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackLimits {
    /// Connections of the network.
    pub connections: usize,
    /// Of one [`Opener`].
    pub per_opener: usize,
}

impl Default for TrackLimits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            per_opener: 16_384,
        }
    }
}

/// Connections looked at for one that gives way, at most.
const SAMPLE: usize = 16;
/// Places looked at for connections whose time is over, with each that is entered.
const SWEEP: usize = 8;

/// A connection, as an operator may want to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// As its first frame had it.
    pub tuple: Tuple,
    /// Where that came from.
    pub opener: Opener,
    /// How far it is.
    pub state: State,
    /// Frames went both ways.
    pub replied: bool,
    /// Its mark.
    pub mark: u32,
    /// When it was entered.
    pub since: Moment,
    /// Without a frame for so many ms.
    pub idle_ms: u64,
    /// It lives for so many ms more, if no frame comes.
    pub left_ms: u64,
    /// The chain changed, and its next frame is decided anew.
    pub stale: bool,
    /// Who decided.
    pub why: String,
}

#[derive(Debug)]
struct Slot {
    conn: Arc<Conn>,
    why: String,
    /// In which of its opener's lists it stands, and where.
    answered: bool,
    at: usize,
}

/// Slots of one opener.
#[derive(Debug, Default)]
struct Own {
    unanswered: Vec<u32>,
    answered: Vec<u32>,
    hand: usize,
}

impl Own {
    fn list(&mut self, answered: bool) -> &mut Vec<u32> {
        if answered {
            &mut self.answered
        } else {
            &mut self.unanswered
        }
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    limits: TrackLimits,
    index: HashMap<Tuple, u32, FixedState>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    own: BTreeMap<Opener, Own>,
    origins: Shares<Origin>,
    macs: BTreeMap<Origin, Shares<MacAddr>>,
    hand: usize,
}

impl Table {
    pub(crate) fn new(limits: TrackLimits, seed: u64) -> Self {
        Self {
            limits,
            index: HashMap::with_hasher(FixedState::with_seed(seed)),
            slots: Vec::new(),
            free: Vec::new(),
            own: BTreeMap::new(),
            origins: Shares::default(),
            macs: BTreeMap::new(),
            hand: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    fn slot(&self, number: u32) -> Option<&Slot> {
        self.slots.get(number as usize)?.as_ref()
    }

    /// The connection of frames with this tuple, and whether they go against its direction.
    pub(crate) fn get(&self, tuple: &Tuple) -> Option<(&Arc<Conn>, bool)> {
        [(*tuple, false), (tuple.reversed(), true)]
            .iter()
            .find_map(|(tuple, reply)| {
                let number = *self.index.get(tuple)?;
                Some((&self.slot(number)?.conn, *reply))
            })
    }

    /// Notes who decided last.
    pub(crate) fn set_why(&mut self, tuple: &Tuple, why: &str) {
        let slot = self.index.get(tuple).copied();
        let slot = slot.and_then(|n| self.slots.get_mut(n as usize)?.as_mut());
        if let Some(slot) = slot.filter(|slot| slot.why != why) {
            why.clone_into(&mut slot.why);
        }
    }

    /// Enters a connection; one with the same ends gives way, and so does another if there is no room.
    pub(crate) fn insert(
        &mut self,
        (tuple, signal): (Tuple, Signal),
        opener: Opener,
        (epoch, mark): (Epoch, u32),
        why: &str,
        now: Moment,
    ) -> Arc<Conn> {
        for old in [tuple, tuple.reversed()] {
            if let Some(&number) = self.index.get(&old) {
                self.remove(number);
            }
        }
        self.sweep(now);
        if self.own_count(&opener) >= self.limits.per_opener.max(1) {
            self.make_room(opener, now);
        }
        if self.len() >= self.limits.connections.max(1) {
            let origin = self.origins.largest(opener.origin);
            let mac = self.macs.get(&origin).map_or(opener.mac, |shares| {
                // Its own MAC counts only on its own origin; elsewhere this one has none.
                shares.largest(opener.mac)
            });
            self.make_room(Opener { origin, mac }, now);
        }
        let conn = Arc::new(Conn::new(tuple, opener, signal, epoch, mark, now));
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        let list = &mut self.own.entry(opener).or_default().unanswered;
        list.push(number);
        let slot = Slot {
            conn: Arc::clone(&conn),
            why: why.to_owned(),
            answered: false,
            at: list.len() - 1,
        };
        if let Some(place) = self.slots.get_mut(number as usize) {
            *place = Some(slot);
        }
        self.index.insert(tuple, number);
        self.origins.add(opener.origin);
        self.macs.entry(opener.origin).or_default().add(opener.mac);
        conn
    }

    fn own_count(&self, opener: &Opener) -> usize {
        self.macs
            .get(&opener.origin)
            .map_or(0, |shares| shares.count(&opener.mac))
    }

    /// Takes a slot out of its opener's list.
    fn unlist(&mut self, opener: &Opener, answered: bool, at: usize) {
        let Some(own) = self.own.get_mut(opener) else {
            return;
        };
        let list = own.list(answered);
        if at >= list.len() {
            return;
        }
        list.swap_remove(at);
        if let Some(&moved) = list.get(at)
            && let Some(Some(slot)) = self.slots.get_mut(moved as usize)
        {
            slot.at = at;
        }
        if own.answered.is_empty() && own.unanswered.is_empty() {
            self.own.remove(opener);
        }
    }

    pub(crate) fn remove(&mut self, number: u32) {
        let Some(slot) = self
            .slots
            .get_mut(number as usize)
            .and_then(|place| place.take())
        else {
            return;
        };
        slot.conn.give_up();
        let opener = slot.conn.opener;
        self.index.remove(&slot.conn.tuple);
        self.unlist(&opener, slot.answered, slot.at);
        self.origins.remove(opener.origin);
        if let Some(shares) = self.macs.get_mut(&opener.origin) {
            shares.remove(opener.mac);
            if shares.is_empty() {
                self.macs.remove(&opener.origin);
            }
        }
        self.free.push(number);
    }

    /// One of the opener's connections gives way.
    fn make_room(&mut self, opener: Opener, now: Moment) {
        let victim = self
            .unanswered_victim(opener, now)
            .or_else(|| self.victim(opener, true, now));
        if let Some(number) = victim {
            self.remove(number);
        }
    }

    /// One that was never answered; those of the list that were meanwhile go to the other list.
    fn unanswered_victim(&mut self, opener: Opener, now: Moment) -> Option<u32> {
        loop {
            let victim = self.victim(opener, false, now)?;
            let slot = self.slot(victim)?;
            let answered = slot.conn.life(now).is_some_and(|(life, _)| life.replied);
            if !answered {
                return Some(victim);
            }
            let at = slot.at;
            let own = self.own.get_mut(&opener)?;
            own.answered.push(victim);
            let there = own.answered.len() - 1;
            self.unlist(&opener, false, at);
            if let Some(Some(slot)) = self.slots.get_mut(victim as usize) {
                (slot.answered, slot.at) = (true, there);
            }
        }
    }

    /// Of a sample of one of the opener's lists: one that is over, then one that was not answered, then one that is about
    /// to close, then the one whose last frame is longest ago.
    fn victim(&mut self, opener: Opener, answered: bool, now: Moment) -> Option<u32> {
        let own = self.own.get_mut(&opener)?;
        let hand = own.hand;
        own.hand = hand.wrapping_add(SAMPLE);
        let list = &*own.list(answered);
        let sample = (0..list.len().min(SAMPLE))
            .filter_map(|step| list.get((hand.wrapping_add(step)) % list.len()).copied());
        let rank = |&number: &u32| {
            let life = self
                .slots
                .get(number as usize)
                .and_then(|slot| slot.as_ref()?.conn.life(now));
            life.map(|(life, seen)| {
                let closing = matches!(life.state, State::Closing | State::Closed | State::Reset);
                (life.replied, !closing, seen)
            })
        };
        sample.min_by_key(rank)
    }

    /// Takes out some whose time is over.
    fn sweep(&mut self, now: Moment) {
        for _ in 0..SWEEP.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            let over = self.slots.get(self.hand).is_some_and(|slot| {
                slot.as_ref()
                    .is_some_and(|slot| slot.conn.life(now).is_none())
            });
            if over {
                self.remove(self.hand as u32);
            }
        }
    }

    /// Those that live, at most `most`, as they lie in the table.
    pub(crate) fn rows(&self, since: Epoch, most: usize, now: Moment) -> Vec<Row> {
        let live = self.slots.iter().flatten().filter_map(|slot| {
            let (life, seen) = slot.conn.life(now)?;
            let idle_ms = (now.0 / 1_000_000).saturating_sub(seen);
            Some(Row {
                tuple: slot.conn.tuple,
                opener: slot.conn.opener,
                state: life.state,
                replied: life.replied,
                mark: slot.conn.mark(),
                since: slot.conn.born,
                idle_ms,
                left_ms: life.idle_ms().saturating_sub(idle_ms),
                stale: slot.conn.epoch() < since,
                why: slot.why.clone(),
            })
        });
        live.take(most).collect()
    }

    /// True if all lists and counts agree. For tests.
    #[cfg(test)]
    pub(crate) fn is_sound(&self) -> bool {
        let live = self.slots.iter().flatten().count();
        let listed: usize = self
            .own
            .values()
            .map(|own| own.answered.len() + own.unanswered.len())
            .sum();
        let counted: usize = (self.own.keys()).map(|opener| self.own_count(opener)).sum();
        let placed = self.slots.iter().flatten().all(|slot| {
            let own = self.own.get(&slot.conn.opener);
            let list = own.map(|own| {
                if slot.answered {
                    &own.answered
                } else {
                    &own.unanswered
                }
            });
            let number = list.and_then(|list| list.get(slot.at));
            number == self.index.get(&slot.conn.tuple)
        });
        live == self.index.len()
            && listed == live
            && counted == live
            && live + self.free.len() == self.slots.len()
            && placed
    }
}
