//! The frames of a lane that wait for a ruling, behind one upcall for each key.
//!
//! Owns them and the numbers of upcalls, and counts frames and bytes against [`LaneLimits`]. What is refused is for the lane to
//! count.

use super::LaneLimits;
use crate::flow::{FlowKey, IpKind, KeyWords};
use crate::ident::{Moment, UpcallId};
use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use std::collections::BTreeMap;

/// What waits behind one upcall.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) key: FlowKey,
    /// In order of arrival.
    pub(super) frames: Vec<Bytes>,
    deadline: Moment,
}

/// May each frame of this key tell the switch something of its own, beside what it is ruled by: who has an address, who listens
/// (IGMP, RFC 3376; MLD, RFC 3810)? Then each is asked about.
fn is_heard(key: &FlowKey) -> bool {
    match key.ip_kind {
        IpKind::ArpV4 | IpKind::NdV6 => true,
        IpKind::V4 => key.ip_proto == 2,
        IpKind::V6 => key.ip_proto == 58 && matches!(key.src_port, 130..=132 | 143),
        _ => false,
    }
}

/// What became of a frame that is to wait.
#[derive(Debug)]
pub(super) enum Parked {
    /// There is no room for it.
    Full,
    /// Behind an upcall that is on its way.
    Behind,
    /// This upcall is to be made, with the frame as it is kept.
    First(UpcallId, Bytes),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Parking {
    limits: LaneLimits,
    /// Boxed, since trees move what they hold.
    by_upcall: BTreeMap<UpcallId, Box<Waiting>>,
    by_key: HashMap<KeyWords, UpcallId, FixedState>,
    next: UpcallId,
    frames: usize,
    bytes: usize,
}

impl Parking {
    /// Empty. `next` is the first upcall's number.
    pub(super) fn new(limits: LaneLimits, hasher: FixedState, next: UpcallId) -> Self {
        Self {
            limits,
            by_upcall: BTreeMap::new(),
            by_key: HashMap::with_hasher(hasher),
            next,
            frames: 0,
            bytes: 0,
        }
    }

    /// Frames, and their bytes.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.frames, self.bytes)
    }

    /// What waits, by the age of its upcall.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.by_upcall.values().map(|waiting| &**waiting)
    }

    /// Is something of this key here?
    #[inline(always)]
    pub(super) fn has(&self, words: &KeyWords) -> bool {
        !self.by_key.is_empty() && self.by_key.contains_key(words)
    }

    /// Lets a frame wait, behind others of its key if they are gathered by key.
    pub(super) fn park(&mut self, key: FlowKey, frame: &[u8], now: Moment) -> Parked {
        let gathers = !is_heard(&key);
        let words = KeyWords::of(&key);
        let behind = if gathers {
            self.by_key.get(&words).copied()
        } else {
            None
        };
        let full = self.frames >= self.limits.parked
            || self.bytes.saturating_add(frame.len()) > self.limits.parked_bytes
            || (behind.is_none() && self.by_upcall.len() >= self.limits.upcalls);
        if full {
            return Parked::Full;
        }
        // What waits is counted by its length, so it must not hold the large buffer that it was read into.
        let frame = Bytes::copy_from_slice(frame);
        if let Some(waiting) = behind.and_then(|upcall| self.by_upcall.get_mut(&upcall)) {
            if waiting.frames.len() >= self.limits.parked_per_upcall {
                return Parked::Full;
            }
            self.frames += 1;
            self.bytes += frame.len();
            waiting.frames.push(frame);
            return Parked::Behind;
        }
        let upcall = self.next;
        self.next = UpcallId(upcall.0.wrapping_add(1));
        self.frames += 1;
        self.bytes += frame.len();
        if gathers {
            self.by_key.insert(words, upcall);
        }
        let waiting = Box::new(Waiting {
            key,
            frames: vec![frame.clone()],
            deadline: now.plus_ms(self.limits.upcall_ms),
        });
        self.by_upcall.insert(upcall, waiting);
        Parked::First(upcall, frame)
    }

    /// What waits behind an upcall goes.
    pub(super) fn take(&mut self, upcall: UpcallId) -> Option<Box<Waiting>> {
        let waiting = self.by_upcall.remove(&upcall)?;
        let words = KeyWords::of(&waiting.key);
        if let Entry::Occupied(entry) = self.by_key.entry(words)
            && *entry.get() == upcall
        {
            entry.remove();
        }
        self.frames -= waiting.frames.len();
        self.bytes -= waiting.frames.iter().map(Bytes::len).sum::<usize>();
        Some(waiting)
    }

    /// When the oldest upcall has taken too long. Upcalls are numbered as they are made and all wait equally long, so it is
    /// due first.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.by_upcall.first_key_value().map(|(_, w)| w.deadline)
    }

    /// What has waited too long, one after the other.
    pub(super) fn take_overdue(&mut self, now: Moment) -> Option<Box<Waiting>> {
        let (_, waiting) = self.by_upcall.first_key_value()?;
        if waiting.deadline > now {
            return None;
        }
        self.take_oldest()
    }

    /// What waits for longest.
    pub(super) fn take_oldest(&mut self) -> Option<Box<Waiting>> {
        let (&upcall, _) = self.by_upcall.first_key_value()?;
        self.take(upcall)
    }
}
