//! The connections of a network, as its lanes share them.

use super::conn::Conn;
use super::seen::Seen;
use super::table::{Row, Table, TrackLimits};
use super::{CtState, Life, Opener, Order, Signal, Subject, Tracked, Tuple};
use crate::frame::Frame;
use crate::ident::{Epoch, Moment, Vni};
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tracked networks of this node, as a lane sees them.
#[derive(Clone, Debug, Default)]
pub struct Zones(BTreeMap<Vni, Arc<Zone>>);

impl Zones {
    /// None.
    pub const NONE: &'static Self = &Self(BTreeMap::new());

    /// Of this network, if it is tracked.
    #[must_use]
    pub fn get(&self, vni: Vni) -> Option<&Arc<Zone>> {
        self.0.get(&vni)
    }

    /// What would be known of a frame's connection, if it came by.
    #[must_use]
    pub fn peek(&self, vni: Vni, frame: &[u8], now: Moment) -> Tracked {
        let (Some(zone), Ok(frame)) = (self.get(vni), Frame::parse(frame)) else {
            return Tracked::default();
        };
        zone.peek(&frame.subject(&frame.flow_key(vni)), now)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Vni, &Arc<Zone>)> {
        self.0.iter()
    }

    /// As [`Output::Track`](crate::node::Output::Track) wants it; `None`: nothing else is to change than the zone's epoch,
    /// and that is done.
    #[must_use]
    pub fn track(&self, vni: Vni, since: Option<Epoch>, seed: u64) -> Option<Self> {
        match (self.0.get(&vni), since) {
            (Some(zone), Some(since)) => {
                zone.decide_anew(since);
                None
            }
            (None, None) => None,
            (None, Some(since)) => {
                let mut zones = self.clone();
                let zone = Zone::new(TrackLimits::default(), vni, since, seed);
                zones.0.insert(vni, Arc::new(zone));
                Some(zones)
            }
            (Some(_), None) => {
                let mut zones = self.clone();
                zones.0.remove(&vni);
                Some(zones)
            }
        }
    }
}

const INVALID: Tracked = Tracked {
    state: CtState::INVALID,
    mark: 0,
};

/// What a table without connections says of a frame: so much is known before there is one.
#[must_use]
pub fn unheard(vni: Vni, frame: &[u8]) -> Tracked {
    let Ok(frame) = Frame::parse(frame) else {
        return Tracked::default();
    };
    match frame.subject(&frame.flow_key(vni)) {
        Subject::None => Tracked::default(),
        Subject::Broken | Subject::Error { .. } => INVALID,
        Subject::Packet(_, signal) => unknown(signal),
    }
}

/// Of a frame that belongs to no connection.
fn unknown(signal: Signal) -> Tracked {
    let state = if signal.opens() {
        CtState::NEW
    } else {
        CtState::INVALID
    };
    Tracked { state, mark: 0 }
}

/// See [`super`].
#[derive(Debug)]
pub struct Zone {
    /// Connections that a ruling of an earlier epoch entered are to be decided anew.
    since: AtomicU64,
    /// Of no other zone there ever was on this node: a lane remembers connections of all its networks in one place, and
    /// those of a table that is gone until others take their place.
    id: (Vni, Epoch),
    table: Mutex<Table>,
}

impl Zone {
    /// Without connections; `since` is the epoch from which on the network is tracked. `seed` makes its hashes unknown to
    /// senders.
    #[must_use]
    pub fn new(limits: TrackLimits, vni: Vni, since: Epoch, seed: u64) -> Self {
        Self {
            since: AtomicU64::new(since.0),
            id: (vni, since),
            table: Mutex::new(Table::new(limits, seed)),
        }
    }

    /// From now on only what rulings of `since` or later entered counts as decided. To be called before the lanes are told
    /// of that epoch.
    pub fn decide_anew(&self, since: Epoch) {
        self.since.fetch_max(since.0, Ordering::Release);
    }

    fn since(&self) -> Epoch {
        Epoch(self.since.load(Ordering::Acquire))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic in the table would be a bug of its own, and leaves counts at worst.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame comes by: what its connection would be, this frame counted in. It is not yet: a frame that is refused has
    /// changed nothing, or anybody could end the connections of others. `seen` is the lane's.
    pub fn look(&self, seen: &mut Seen, subject: &Subject, now: Moment) -> Tracked {
        let &Subject::Packet(tuple, signal) = subject else {
            return self.peek(subject, now);
        };
        if let Some((conn, life, reply)) = seen.look(self.id, &tuple, signal, now) {
            return self.tracked(life, reply, conn.epoch(), conn.mark());
        }
        let Some((conn, life, reply)) = self.find(&tuple, signal, now) else {
            return unknown(signal);
        };
        let tracked = self.tracked(life, reply, conn.epoch(), conn.mark());
        seen.put(self.id, tuple, reply, conn);
        tracked
    }

    /// As [`Self::look`], for a frame of no lane.
    #[must_use]
    pub fn peek(&self, subject: &Subject, now: Moment) -> Tracked {
        match *subject {
            Subject::None => Tracked::default(),
            Subject::Broken => INVALID,
            Subject::Packet(tuple, signal) => match self.find(&tuple, signal, now) {
                Some((conn, life, reply)) => self.tracked(life, reply, conn.epoch(), conn.mark()),
                None => unknown(signal),
            },
            Subject::Error { about, to } => self.error(&about, to, now).unwrap_or(INVALID),
        }
    }

    /// A frame goes its way: it counts for its connection, if that is in the table.
    pub fn pass(&self, seen: &mut Seen, subject: &Subject, now: Moment) {
        let &Subject::Packet(tuple, signal) = subject else {
            return;
        };
        if let Some((conn, reply)) = seen.get(self.id, &tuple)
            && conn.frame(signal, reply, now).is_some()
        {
            return;
        }
        let table = self.table();
        if let Some((conn, reply)) = table.get(&tuple) {
            // That it is over is nothing to whom it does not concern.
            let _ = conn.frame(signal, reply, now);
        }
    }

    fn find(&self, tuple: &Tuple, signal: Signal, now: Moment) -> Option<(Arc<Conn>, Life, bool)> {
        let table = self.table();
        let (conn, reply) = table.get(tuple)?;
        let life = conn.look(signal, reply, now)?;
        Some((Arc::clone(conn), life, reply))
    }

    fn tracked(&self, life: Life, reply: bool, epoch: Epoch, mark: u32) -> Tracked {
        let state = if life.replied && epoch >= self.since() {
            CtState::ESTABLISHED
        } else {
            CtState::NEW
        };
        Tracked {
            state: if reply {
                state.with(CtState::REPLY)
            } else {
                state
            },
            mark,
        }
    }

    /// An error is related if it goes to the sender of a packet of a connection that is decided.
    fn error(&self, about: &Tuple, to: u128, now: Moment) -> Option<Tracked> {
        if about.src_ip != to {
            return None;
        }
        let table = self.table();
        let (conn, quoted_reply) = table.get(about)?;
        conn.life(now)?;
        if conn.epoch() < self.since() {
            return None;
        }
        Some(Tracked {
            state: if quoted_reply {
                CtState::RELATED
            } else {
                CtState::RELATED.with(CtState::REPLY)
            },
            mark: conn.mark(),
        })
    }

    /// A frame goes its way, and its ruling has an order about its connection.
    pub fn order(
        &self,
        seen: &mut Seen,
        subject: &Subject,
        opener: Opener,
        order: &Order,
        now: Moment,
    ) {
        let &Subject::Packet(tuple, signal) = subject else {
            return;
        };
        let settled = |epoch: Epoch, mark: u32| {
            (!order.commit || epoch >= order.epoch.min(self.since()))
                && order.mark.is_none_or(|wanted| wanted == mark)
        };
        // Nearly always: the first frames of a connection had the same order.
        if let Some((conn, _)) = seen.get(self.id, &tuple)
            && conn
                .life(now)
                .is_some_and(|(life, _)| !(life.state.is_over() && signal.is_syn()))
            && settled(conn.epoch(), conn.mark())
        {
            return;
        }
        let mut table = self.table();
        let found = table.get(&tuple).filter(|(conn, _)| {
            let life = conn.life(now);
            life.is_some_and(|(life, _)| !(life.state.is_over() && signal.is_syn()))
        });
        let (conn, reply) = match found {
            Some((conn, reply)) => {
                let conn = Arc::clone(conn);
                let epoch = if order.commit {
                    order.epoch
                } else {
                    conn.epoch()
                };
                conn.decided(epoch, order.mark);
                if order.commit {
                    table.set_why(&conn.tuple, &order.why);
                }
                (conn, reply)
            }
            None if order.commit && signal.opens() => {
                let stamp = (order.epoch, order.mark.unwrap_or(0));
                let conn = table.insert((tuple, signal), opener, stamp, &order.why, now);
                (conn, false)
            }
            None => return,
        };
        std::mem::drop(table);
        seen.put(self.id, tuple, reply, conn);
    }

    /// Connections that live, at most `most`.
    #[must_use]
    pub fn rows(&self, most: usize, now: Moment) -> Vec<Row> {
        self.table().rows(self.since(), most, now)
    }

    /// Connections in the table, those whose time is over and which are not yet taken out included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(test)]
    pub(crate) fn is_sound(&self) -> bool {
        self.table().is_sound()
    }
}
