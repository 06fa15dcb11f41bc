//! MACs that jump to and fro.
//!
//! Owns what was seen of them in the last seconds. One that jumps may be two stations with one MAC, which is told; several at
//! the same time are a loop.

use crate::ident::{MacAddr, Moment, Vni};
use std::collections::{BTreeMap, VecDeque};

/// So many that jump at the same time are a loop.
pub(super) const MACS: usize = 3;
/// A MAC jumps if it was seen to move so often …
const MOVES: usize = 3;
/// … in so many ms.
const WINDOW_MS: u64 = 5000;
/// Moves that are remembered of a network.
const MOVES_MAX: usize = 256;
/// One that jumps is told of so often, in ms.
const TELL_MS: u64 = 60_000;

#[derive(Debug, Default)]
pub(super) struct Flaps(BTreeMap<Vni, Moves>);

#[derive(Debug, Default)]
struct Moves {
    seen: VecDeque<(Moment, MacAddr)>,
    told: Option<Moment>,
}

/// What a move means, with those before it.
pub(super) struct Found {
    /// MACs that jump.
    pub(super) macs: usize,
    /// It was not told of lately that this one does.
    pub(super) tell: bool,
}

impl Flaps {
    pub(super) fn note(&mut self, vni: Vni, mac: MacAddr, now: Moment) -> Found {
        let moves = self.0.entry(vni).or_default();
        let old = |(at, _): &(Moment, MacAddr)| now.ms_since(*at) >= WINDOW_MS;
        while moves.seen.front().is_some_and(old) || moves.seen.len() >= MOVES_MAX {
            moves.seen.pop_front();
        }
        moves.seen.push_back((now, mac));
        let mut counts: BTreeMap<MacAddr, usize> = BTreeMap::new();
        for (_, mac) in &moves.seen {
            *counts.entry(*mac).or_default() += 1;
        }
        let jumps = counts.get(&mac).is_some_and(|&count| count >= MOVES);
        let quiet = moves.told.is_none_or(|at| now.ms_since(at) >= TELL_MS);
        let tell = jumps && quiet;
        if tell {
            moves.told = Some(now);
        }
        Found {
            macs: counts.values().filter(|&&count| count >= MOVES).count(),
            tell,
        }
    }

    pub(super) fn forget(&mut self, vni: Vni) {
        self.0.remove(&vni);
    }
}
