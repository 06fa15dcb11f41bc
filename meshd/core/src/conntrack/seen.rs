//! What a lane remembers of connections, so that their frames find them without a lock.

use super::conn::Conn;
use super::{Signal, Tuple};
use core::hash::BuildHasher;
use foldhash::fast::FixedState;
use std::sync::Arc;

/// Places, a power of two. A collision overwrites.
const PLACES: usize = 1024;

/// Connections that a lane saw last. Empty, it holds no memory.
#[derive(Debug)]
pub struct Seen {
    hasher: FixedState,
    places: Vec<Option<(Tuple, bool, Arc<Conn>)>>,
}

impl Seen {
    /// Nothing. `seed` makes its places unknown to senders.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            hasher: FixedState::with_seed(seed),
            places: Vec::new(),
        }
    }

    fn at(&self, tuple: &Tuple) -> usize {
        (self.hasher.hash_one(tuple) as usize) & (PLACES - 1)
    }

    /// The connection of frames with this tuple, and whether they go against its direction.
    pub(crate) fn get(&self, tuple: &Tuple) -> Option<(&Arc<Conn>, bool)> {
        let (of, reply, conn) = self.places.get(self.at(tuple))?.as_ref()?;
        (of == tuple).then_some((conn, *reply))
    }

    pub(crate) fn put(&mut self, tuple: Tuple, reply: bool, conn: Arc<Conn>) {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let at = self.at(&tuple);
        if let Some(place) = self.places.get_mut(at) {
            *place = Some((tuple, reply, conn));
        }
    }

    /// Frames of the connection, if it is remembered and goes on: what it is after this one.
    pub(crate) fn frame(
        &self,
        tuple: &Tuple,
        signal: Signal,
        now: crate::ident::Moment,
    ) -> Option<(&Arc<Conn>, super::Life, bool)> {
        let (conn, reply) = self.get(tuple)?;
        let life = conn.frame(signal, reply, now)?;
        Some((conn, life, reply))
    }
}
