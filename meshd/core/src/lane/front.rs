//! The front of a lane's cache: under which megaflow a key was found last, so that most frames cost one look.
//!
//! ```text
//!   key -- hash --> a set of two places --> slot of a megaflow --> is the key under its mask? then it is that one
//! ```
//!
//! Owns guesses only. A place says where to look, in twelve bytes; whether the key belongs there is asked of the megaflow
//! itself, so a hash that two keys share costs a look and misleads nobody. Without a flow it holds no memory.

use crate::flow::FlowKey;
use core::hash::BuildHasher;
use foldhash::fast::FixedState;

/// Sets of two places, a power of two: 192 KiB in all.
const SETS: usize = 8192;

/// Where a key has its places, and what tells it from most others there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spot {
    set: usize,
    tag: u32,
}

/// A slot of the lane, in the turn in which it was given to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) slot: u32,
    pub(super) turn: u32,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    tag: u32,
    hint: Hint,
}

/// Of no slot.
const EMPTY: Place = Place {
    tag: 0,
    hint: Hint {
        slot: u32::MAX,
        turn: 0,
    },
};

/// See the module.
#[derive(Debug)]
pub(super) struct Front {
    hasher: FixedState,
    sets: Vec<[Place; 2]>,
}

impl Front {
    /// Empty. `hasher` is unknown to senders, or they could choose keys of one set.
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            hasher,
            sets: Vec::new(),
        }
    }

    pub(super) fn spot(&self, key: &FlowKey) -> Spot {
        let hash = self.hasher.hash_one(key);
        // The low bits choose the set, the high ones are the tag.
        Spot {
            set: hash as usize & (SETS - 1),
            tag: (hash >> 32) as u32,
        }
    }

    /// Where to look, the latest first.
    pub(super) fn hints(&self, spot: Spot) -> impl Iterator<Item = Hint> + '_ {
        let set = self.sets.get(spot.set).into_iter().flatten();
        set.filter(move |place| place.tag == spot.tag)
            .map(|place| place.hint)
    }

    /// The key was found there. The older of two others gives way.
    pub(super) fn put(&mut self, spot: Spot, hint: Hint) {
        if self.sets.is_empty() {
            self.sets.resize(SETS, [EMPTY; 2]);
        }
        let place = Place {
            tag: spot.tag,
            hint,
        };
        if let Some([latest, older]) = self.sets.get_mut(spot.set) {
            if latest.tag != place.tag {
                *older = *latest;
            }
            *latest = place;
        }
    }

    /// The key that was put there last is to be found anew.
    pub(super) fn forget(&mut self, spot: Spot) {
        let set = self.sets.get_mut(spot.set).into_iter().flatten();
        set.filter(|place| place.tag == spot.tag)
            .for_each(|place| *place = EMPTY);
    }
}
