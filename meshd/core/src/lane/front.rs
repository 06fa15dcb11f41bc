//! The front of a lane's cache: under which megaflow a key was found last, so that most frames cost one look.
//!
//! ```text
//!   key -- hash --> a set of four places --> slot of a megaflow --> is the key under its mask? then it is that one
//! ```
//!
//! Owns guesses only. A place says where to look, in eight bytes; whether the key belongs there is asked of the megaflow
//! itself, so a hash that two keys share costs a look and misleads nobody. Without a flow it holds no memory.

/// Sets of four places, a power of two: 256 KiB in all.
const SETS: usize = 8192;

/// Where a key has its places, and what tells it from most others there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spot {
    set: usize,
    tag: u16,
}

/// A slot of the lane, in the turn in which it was given to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) slot: u32,
    pub(super) turn: u16,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    slot: u32,
    turn: u16,
    tag: u16,
}

/// Of no slot.
const EMPTY: Place = Place {
    slot: u32::MAX,
    turn: 0,
    tag: 0,
};

/// A set lies in one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Set([Place; 4]);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Front(Vec<Set>);

impl Front {
    /// Where a key of this hash belongs. The hash must be one that senders cannot foresee, or they could choose keys of one
    /// set.
    pub(super) fn spot(hash: u64) -> Spot {
        // The low bits choose the set, the high ones are the tag.
        Spot {
            set: hash as usize & (SETS - 1),
            tag: (hash >> 48) as u16,
        }
    }

    /// The slot of the first hint that is true, the latest first.
    #[inline(always)]
    pub(super) fn find(&self, spot: Spot, is_true: impl Fn(Hint) -> bool) -> Option<u32> {
        let Set(places) = self.0.get(spot.set)?;
        for place in places {
            // Most places are told apart by their tag alone. The slot of an empty one is none, so no hint is true of it.
            if place.tag == spot.tag {
                let (slot, turn) = (place.slot, place.turn);
                if is_true(Hint { slot, turn }) {
                    return Some(slot);
                }
            }
        }
        None
    }

    /// The key was found there. The oldest of three others gives way.
    pub(super) fn put(&mut self, spot: Spot, hint: Hint) {
        if self.0.is_empty() {
            self.0.resize(SETS, Set([EMPTY; 4]));
        }
        let Some(Set(set)) = self.0.get_mut(spot.set) else {
            return;
        };
        // What the key had before goes, or else the last.
        let same = set.iter().position(|place| place.tag == spot.tag);
        let upto = same.unwrap_or(set.len() - 1);
        if let Some(newer) = set.get_mut(..=upto) {
            newer.rotate_right(1);
        }
        if let Some(first) = set.first_mut() {
            *first = Place {
                slot: hint.slot,
                turn: hint.turn,
                tag: spot.tag,
            };
        }
    }

    /// The key that was put there last is to be found anew.
    pub(super) fn forget(&mut self, spot: Spot) {
        let set = self.0.get_mut(spot.set).into_iter();
        set.flat_map(|set| &mut set.0)
            .filter(|place| place.tag == spot.tag)
            .for_each(|place| *place = EMPTY);
    }
}
