//! Two hosts with the key of one node: a copied state folder, a cloned virtual machine.
//!
//! ```text
//!   session from A, proven --B's takes its place--> from B --A dials again--> from A --> from B ...
//! ```
//!
//! Owns who comes back so. A node that changes its address goes from one to the next; two hosts take turns, since each dials again
//! when it has been superseded. Once that is clear the session that is there stays, and the other host is refused until it is gone.

use crate::ident::{Moment, NodeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// So many returns to an address that had been left make it clear.
const RETURNS: u32 = 3;
/// All of them within this, in ms.
const WITHIN_MS: u64 = 120_000;
/// Nodes that are watched at most: those that changed places last.
const WATCHED_MAX: usize = 1024;

#[derive(Debug)]
struct Turns {
    /// Where the one before the last session came from.
    left: SocketAddr,
    returns: u32,
    since: Moment,
    last: Moment,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Twins {
    turns: BTreeMap<NodeId, Turns>,
}

impl Twins {
    /// A proven session of `node` from `old` gave way to one from `new`.
    pub(super) fn replaced(&mut self, node: NodeId, old: SocketAddr, new: SocketAddr, now: Moment) {
        if old == new {
            return;
        }
        self.turns
            .retain(|_, turns| now.ms_since(turns.last) < WITHIN_MS);
        if self.turns.len() >= WATCHED_MAX && !self.turns.contains_key(&node) {
            return;
        }
        let turns = self.turns.entry(node).or_insert(Turns {
            left: old,
            returns: 0,
            since: now,
            last: now,
        });
        if now.ms_since(turns.since) >= WITHIN_MS {
            (turns.returns, turns.since) = (0, now);
        }
        turns.returns += u32::from(turns.left == new);
        (turns.left, turns.last) = (old, now);
    }

    /// The session from `old` stays, and `new` is refused: they are two hosts.
    pub(super) fn refuses(
        &mut self,
        node: NodeId,
        old: SocketAddr,
        new: SocketAddr,
        now: Moment,
    ) -> bool {
        if old == new || self.of(node, now).is_none() {
            return false;
        }
        if let Some(turns) = self.turns.get_mut(&node) {
            (turns.left, turns.last, turns.since) = (new, now, now);
        }
        true
    }

    /// Where the other host of a node was last, if there are two.
    pub(super) fn of(&self, node: NodeId, now: Moment) -> Option<SocketAddr> {
        let turns = self.turns.get(&node)?;
        let clear = turns.returns >= RETURNS && now.ms_since(turns.last) < WITHIN_MS;
        clear.then_some(turns.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([7; 32]);

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 7650))
    }

    fn s(seconds: u64) -> Moment {
        Moment::default().plus_ms(seconds * 1000)
    }

    #[test]
    fn hosts_that_take_turns_are_two_and_the_one_that_is_there_stays() {
        let mut twins = Twins::default();
        for turn in 0..4u64 {
            let (old, new) = if turn % 2 == 0 { (1, 2) } else { (2, 1) };
            assert!(!twins.refuses(NODE, at(old), at(new), s(turn)));
            twins.replaced(NODE, at(old), at(new), s(turn));
        }
        assert_eq!(twins.of(NODE, s(4)), Some(at(2)));
        assert!(twins.refuses(NODE, at(1), at(2), s(100)));
        // The one that has the session may dial again.
        assert!(!twins.refuses(NODE, at(1), at(1), s(100)));
        assert_eq!(twins.of(NODE, s(219)), Some(at(2)));
        // The other one has not been heard of for long.
        assert_eq!(twins.of(NODE, s(221)), None);
    }

    #[test]
    fn a_node_that_moves_or_comes_back_now_and_then_is_one() {
        let mut twins = Twins::default();
        for host in 1..20u8 {
            twins.replaced(NODE, at(host), at(host + 1), s(host.into()));
        }
        assert_eq!(twins.of(NODE, s(20)), None);
        for turn in 0..20u64 {
            let (old, new) = if turn % 2 == 0 { (1, 2) } else { (2, 1) };
            twins.replaced(NODE, at(old), at(new), s(100 + 61 * turn));
        }
        assert_eq!(twins.of(NODE, s(100 + 61 * 20)), None);
    }
}
