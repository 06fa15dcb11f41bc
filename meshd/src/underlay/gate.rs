//! Who may come in: the places for connections whose far end has not proven to be a member.
//!
//! ```text
//!    a packet that opens a connection
//!       |  16 handshakes under way, or 4 places held by its address, and the address not proven?  -> Retry (stateless)
//!       |  64 places taken, or 16 by its address?                                                  -> refused
//!       v
//!    a place, until the node proves the far end or the session is over
//! ```
//!
//! Owns the counts. A forged address gets at most the few places that need no Retry, for as long as a handshake may take.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most connections of strangers.
pub(super) const PLACES: usize = 64;
/// Most of them from one address (IPv6: one /64).
const PLACES_PER_SOURCE: usize = 16;
/// Handshakes under way, beyond which addresses must be proven first.
const HANDSHAKES: usize = 16;
/// Places of one address, beyond which it must be proven first.
const UNVALIDATED_PER_SOURCE: usize = 4;

#[derive(Default)]
struct State {
    total: usize,
    handshakes: usize,
    sources: BTreeMap<IpAddr, usize>,
}

/// Counts for one endpoint. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<State>>);

/// What to do with a connection that is about to open.
pub(super) enum Entry {
    /// Take it; the place is free again when this is dropped.
    Place(Place),
    /// Have it prove its address first.
    Retry,
    /// No place for it.
    Refuse,
}

/// One place; given back on drop.
pub(super) struct Place {
    gate: Gate,
    source: IpAddr,
    handshake: bool,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on one connection.
    pub(super) fn enter(&self, remote: IpAddr, validated: bool) -> Entry {
        let source = source(remote);
        let mut state = self.state();
        let here = state.sources.get(&source).copied().unwrap_or(0);
        if !validated && (state.handshakes >= HANDSHAKES || here >= UNVALIDATED_PER_SOURCE) {
            return Entry::Retry;
        }
        if state.total >= PLACES || here >= PLACES_PER_SOURCE {
            return Entry::Refuse;
        }
        state.total += 1;
        state.handshakes += 1;
        state.sources.insert(source, here + 1);
        Entry::Place(Place {
            gate: self.clone(),
            source,
            handshake: true,
        })
    }

    /// Places taken, and by how many sources.
    #[cfg(test)]
    pub(super) fn taken(&self) -> (usize, usize) {
        let state = self.state();
        (state.total, state.sources.len())
    }
}

impl Place {
    /// The handshake is done; the place stays taken.
    pub(super) fn shook_hands(&mut self) {
        if std::mem::take(&mut self.handshake) {
            self.gate.state().handshakes -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shook_hands();
        let mut state = self.gate.state();
        state.total -= 1;
        match state.sources.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(state.sources.remove(&self.source)),
        }
    }
}

/// What counts as one address: a host has a whole IPv6 /64 to send from.
fn source(remote: IpAddr) -> IpAddr {
    match remote.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn place(entry: Entry) -> Option<Place> {
        match entry {
            Entry::Place(place) => Some(place),
            Entry::Retry | Entry::Refuse => None,
        }
    }

    #[test]
    fn places_are_bounded_in_all_and_per_source_and_come_back() {
        let gate = Gate::default();
        let ip = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
        let mut taken: Vec<Place> = (0..PLACES_PER_SOURCE)
            .filter_map(|_| place(gate.enter(ip(1), true)))
            .collect();
        assert_eq!(taken.len(), PLACES_PER_SOURCE);
        assert!(matches!(gate.enter(ip(1), true), Entry::Refuse));
        taken.extend((0..200).filter_map(|n| place(gate.enter(ip(n), true))));
        assert_eq!(gate.taken().0, PLACES);
        drop(taken);
        assert_eq!(gate.taken(), (0, 0));
    }

    #[test]
    fn an_address_must_be_proven_when_many_shake_hands() {
        let gate = Gate::default();
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut taken: Vec<Place> = (0..16)
            .filter_map(|n| place(gate.enter(ip(n), false)))
            .collect();
        assert_eq!(taken.len(), HANDSHAKES);
        assert!(matches!(gate.enter(ip(99), false), Entry::Retry));
        assert!(matches!(gate.enter(ip(99), true), Entry::Place(_)));
        taken.iter_mut().for_each(Place::shook_hands);
        assert!(matches!(gate.enter(ip(99), false), Entry::Place(_)));
    }

    #[test]
    fn one_address_gets_few_places_before_it_is_proven() {
        let gate = Gate::default();
        let v6: [IpAddr; 5] = std::array::from_fn(|n| format!("2001:db8::{n}").parse().unwrap());
        let taken: Vec<Place> = v6
            .into_iter()
            .filter_map(|ip| place(gate.enter(ip, false)))
            .collect();
        assert_eq!(taken.len(), UNVALIDATED_PER_SOURCE, "one /64 is one source");
    }
}
