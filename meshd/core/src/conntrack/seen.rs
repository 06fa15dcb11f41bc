//! What a lane remembers of connections, so that their frames find them without a lock.

use super::conn::Conn;
use super::{Life, Signal, Tuple};
use crate::ident::{Epoch, Moment, Vni};
use core::hash::BuildHasher;
use foldhash::fast::FixedState;
use std::sync::Arc;

/// Places, a power of two. A collision overwrites.
const PLACES: usize = 1024;

/// Which zone a connection is of.
type ZoneId = (Vni, Epoch);

/// A tuple of a zone, whether its frames go against the direction of the connection, and that.
#[derive(Debug)]
struct Place {
    zone: ZoneId,
    tuple: Tuple,
    reply: bool,
    conn: Arc<Conn>,
}

/// Connections that a lane saw last. Empty, it holds no memory.
#[derive(Debug)]
pub struct Seen {
    hasher: FixedState,
    places: Vec<Option<Place>>,
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
    pub(crate) fn get(&self, zone: ZoneId, tuple: &Tuple) -> Option<(&Arc<Conn>, bool)> {
        let place = self.places.get(self.at(tuple))?.as_ref()?;
        (place.tuple == *tuple && place.zone == zone).then_some((&place.conn, place.reply))
    }

    pub(crate) fn put(&mut self, zone: ZoneId, tuple: Tuple, reply: bool, conn: Arc<Conn>) {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let at = self.at(&tuple);
        if let Some(place) = self.places.get_mut(at) {
            *place = Some(Place {
                zone,
                tuple,
                reply,
                conn,
            });
        }
    }

    /// The connection of frames with this tuple, if it is remembered and goes on: what it would be after this one.
    pub(crate) fn look(
        &self,
        zone: ZoneId,
        tuple: &Tuple,
        signal: Signal,
        now: Moment,
    ) -> Option<(&Arc<Conn>, Life, bool)> {
        let (conn, reply) = self.get(zone, tuple)?;
        let life = conn.look(signal, reply, now)?;
        Some((conn, life, reply))
    }
}
