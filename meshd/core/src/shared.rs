//! Values that the controllers of one plugin share over all nodes of a network: who wrote last holds.
//!
//! ```text
//!   set, delete --> own: what this node wrote last --share--> SharedValues, signed --> directory --> all nodes
//!                      \                                                                              |
//!                       +--- of two of one key: the later stamp, then the higher node id <-- others --+
//! ```
//!
//! A stamp is a hybrid clock: ms since 1970 in the upper 48 bits, a count below them, and above every stamp that was seen. What is
//! stamped more than [`FUTURE_MS`] ahead of this node's clock does not count until its time comes, so a node whose clock is wrong,
//! or that lies, keeps the others from writing for no longer than that. What is deleted leaves a tombstone for [`TOMBSTONE_MS`],
//! so that an older value of a node that was away does not come back.
//!
//! Owns one attachment's view and its order. Refuses to know who may be listened to: the directory gives what members of the
//! network wrote (`directory/values.rs`). Nothing of another node is kept here that is not in a record there.

use crate::ident::{NodeId, WallTime};
use crate::wire::record::{KEY_MAX, SHARED_BYTES_MAX, SharedValue, VALUE_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// A stamp may be so far ahead of this node's clock, in ms.
pub const FUTURE_MS: u64 = 60_000;
/// How long it is remembered that a key was deleted, in ms; less if its room is needed.
pub const TOMBSTONE_MS: u64 = 86_400_000;
/// Keys that are listed at once.
const LISTED: u32 = 1024;
/// Bits of a stamp below the milliseconds.
const COUNT_BITS: u32 = 16;

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// All that this node may share is shared.
    #[error("all that this node may share is shared")]
    Full,
    /// Key above 256 bytes, or value above 64 KiB.
    #[error("key above {KEY_MAX} bytes, or value above {VALUE_MAX}")]
    TooLarge,
    /// There is another version than the expected one; 0: there is none.
    #[error("there is version {0}")]
    Conflict(u64),
}

/// What members say of a key, in the order that counts: stamp, then writer.
type Winner<'a> = ((u64, NodeId), &'a SharedValue);

/// One attachment's view of what is shared.
#[derive(Clone, Debug)]
pub struct Replica {
    me: NodeId,
    own: BTreeMap<String, SharedValue>,
    /// Of each key what counts among the others.
    others: BTreeMap<String, (NodeId, SharedValue)>,
    /// The highest stamp of theirs that counts.
    last: u64,
    bytes: usize,
    changed: bool,
    /// Something of the others counts from then on.
    due: Option<WallTime>,
}

impl Replica {
    /// That of `me`, which wrote `own` before.
    #[must_use]
    pub fn new(me: NodeId, own: Vec<SharedValue>) -> Self {
        let own: BTreeMap<String, SharedValue> =
            own.into_iter().map(|v| (v.key.clone(), v)).collect();
        Self {
            me,
            bytes: own.values().map(SharedValue::cost).sum(),
            own,
            others: BTreeMap::new(),
            last: 0,
            changed: false,
            due: None,
        }
    }

    /// What all others say now, in the place of what they said before. Returns the keys whose value is another one now.
    pub fn hear<'a>(
        &mut self,
        all: impl Iterator<Item = (NodeId, &'a [SharedValue])>,
        now: WallTime,
    ) -> Vec<String> {
        let mut others: BTreeMap<String, (NodeId, SharedValue)> = BTreeMap::new();
        self.due = None;
        for (node, list) in all.filter(|(node, _)| *node != self.me) {
            for value in list {
                if let Some(at) = counts_from(value, now) {
                    self.due = Some(self.due.map_or(at, |due| due.min(at)));
                    continue;
                }
                let beaten = others
                    .get(&value.key)
                    .is_some_and(|(other, there)| (there.stamp, *other) >= (value.stamp, node));
                if !beaten {
                    others.insert(value.key.clone(), (node, value.clone()));
                }
            }
        }
        let keys: BTreeSet<&String> = self.others.keys().chain(others.keys()).collect();
        let keys: Vec<String> = keys.into_iter().cloned().collect();
        let seen = |this: &Self, key: &str| {
            let (order, value) = this.winner(key, now)?;
            value.value.as_ref().map(|_| order)
        };
        let before: Vec<_> = keys.iter().map(|key| seen(self, key)).collect();
        self.last = others
            .values()
            .map(|(_, value)| value.stamp)
            .max()
            .unwrap_or(0);
        self.others = others;
        let after = |(key, before): (String, _)| (seen(self, &key) != before).then_some(key);
        let news = keys.into_iter().zip(before).filter_map(after).collect();
        self.tidy(now);
        news
    }

    /// When [`Self::hear`] is to be called again though nobody said anything new.
    #[must_use]
    pub fn due(&self) -> Option<WallTime> {
        self.due
    }

    /// A value and its version.
    #[must_use]
    pub fn get(&self, key: &str, now: WallTime) -> Option<(&[u8], u64)> {
        let (_, value) = self.winner(key, now)?;
        let bytes = value.value.as_deref().filter(|_| value.lives(now))?;
        Some((bytes, value.stamp))
    }

    /// Writes a value, and gives its version. With `expect` only if that is the version here; 0: only if there is none.
    /// `ttl_ms`: gone after so long; 0: never. This node may share `most` bytes.
    ///
    /// # Errors
    /// [`SetError`]; nothing is changed.
    pub fn set(
        &mut self,
        key: &str,
        value: Vec<u8>,
        expect: Option<u64>,
        ttl_ms: u32,
        most: usize,
        now: WallTime,
    ) -> Result<u64, SetError> {
        if key.len() > KEY_MAX || value.len() > VALUE_MAX {
            return Err(SetError::TooLarge);
        }
        let version = self.get(key, now).map_or(0, |(_, version)| version);
        if expect.is_some_and(|expect| expect != version) {
            return Err(SetError::Conflict(version));
        }
        let until = match ttl_ms {
            0 => WallTime(0),
            ms => WallTime(now.0.saturating_add(ms.into())),
        };
        self.write(key, Some(value), until, most, now)
    }

    /// Forgets a key; one that there is not is nothing.
    ///
    /// # Errors
    /// [`SetError::Full`]: there is no room to remember that it is gone.
    pub fn delete(&mut self, key: &str, most: usize, now: WallTime) -> Result<(), SetError> {
        if self.get(key, now).is_none() {
            return Ok(());
        }
        let until = WallTime(now.0.saturating_add(TOMBSTONE_MS));
        self.write(key, None, until, most, now).map(drop)
    }

    /// Keys that begin so, in order, behind `after`; at most 1024 at once.
    #[must_use]
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
        now: WallTime,
    ) -> Vec<String> {
        let from = after.unwrap_or(prefix).max(prefix);
        let range = (Bound::Included(from), Bound::Unbounded);
        let own = self.own.range::<str, _>(range).map(|(key, _)| key);
        let others = self.others.range::<str, _>(range).map(|(key, _)| key);
        let keys: BTreeSet<&String> = own
            .take_while(|key| key.starts_with(prefix))
            .chain(others.take_while(|key| key.starts_with(prefix)))
            .collect();
        keys.into_iter()
            .filter(|key| after.is_none_or(|after| key.as_str() > after))
            .filter(|key| self.get(key, now).is_some())
            .take(limit.min(LISTED) as usize)
            .cloned()
            .collect()
    }

    /// What this node is to tell the others, if it is something else than before.
    pub fn take_share(&mut self, now: WallTime) -> Option<Vec<SharedValue>> {
        self.tidy(now);
        std::mem::take(&mut self.changed).then(|| self.own.values().cloned().collect())
    }

    /// Is there something to tell?
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// It could not be told; it is to be told again.
    pub fn keep_share(&mut self) {
        self.changed = true;
    }

    /// Bytes of what this node shares, tombstones included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What counts of a key, be it a value, one that has run out, or that it was deleted.
    fn winner(&self, key: &str, now: WallTime) -> Option<Winner<'_>> {
        let own = self
            .own
            .get(key)
            .filter(|value| counts_from(value, now).is_none())
            .map(|value| ((value.stamp, self.me), value));
        let other = self
            .others
            .get(key)
            .map(|(node, value)| ((value.stamp, *node), value));
        match (own, other) {
            (Some(own), Some(other)) => Some(if own.0 > other.0 { own } else { other }),
            (own, other) => own.or(other),
        }
    }

    fn write(
        &mut self,
        key: &str,
        value: Option<Vec<u8>>,
        until: WallTime,
        most: usize,
        now: WallTime,
    ) -> Result<u64, SetError> {
        let new = SharedValue {
            key: key.to_owned(),
            value,
            stamp: self.next_stamp(now),
            until,
        };
        let most = most.min(SHARED_BYTES_MAX);
        let old = self.own.get(key).map_or(0, SharedValue::cost);
        let wanted = new.cost().saturating_sub(old);
        if self.bytes + wanted > most {
            self.tidy(now);
            self.forget_tombstones(key, (self.bytes + wanted).saturating_sub(most));
        }
        let old = self.own.get(key).map_or(0, SharedValue::cost);
        let bytes = self.bytes - old + new.cost();
        if bytes > most {
            return Err(SetError::Full);
        }
        let stamp = new.stamp;
        self.own.insert(key.to_owned(), new);
        self.bytes = bytes;
        self.changed = true;
        Ok(stamp)
    }

    /// Above all that counts, and never behind this node's clock.
    fn next_stamp(&self, now: WallTime) -> u64 {
        let own = self
            .own
            .values()
            .filter(|value| counts_from(value, now).is_none());
        let last = own.map(|value| value.stamp).fold(self.last, u64::max);
        let clock = now.0.checked_shl(COUNT_BITS).unwrap_or(u64::MAX);
        clock.max(last.saturating_add(1))
    }

    /// Leaves out of the own share what another has written over, and what has run out long ago. A value that runs out becomes
    /// a tombstone, or an older one of another node would come forth.
    fn tidy(&mut self, now: WallTime) {
        let (me, others) = (self.me, &self.others);
        let mut bytes = 0;
        let before = self.own.len();
        let mut ran_out = false;
        self.own.retain(|key, value| {
            let over = others
                .get(key)
                .is_some_and(|(node, other)| (other.stamp, *node) > (value.stamp, me));
            if value.value.is_some() && !value.lives(now) {
                value.value = None;
                value.until = WallTime(value.until.0.saturating_add(TOMBSTONE_MS));
                ran_out = true;
            }
            let stays = !over && (value.value.is_some() || value.until > now);
            bytes += if stays { value.cost() } else { 0 };
            stays
        });
        self.bytes = bytes;
        self.changed |= ran_out || self.own.len() != before;
    }

    /// The oldest first, but for that of `key`, until so many bytes are free.
    fn forget_tombstones(&mut self, key: &str, mut wanted: usize) {
        let tombs = self
            .own
            .values()
            .filter(|v| v.value.is_none() && v.key != key);
        let mut tombs: Vec<(u64, String)> = tombs.map(|v| (v.stamp, v.key.clone())).collect();
        tombs.sort_unstable();
        for (_, key) in tombs {
            if wanted == 0 {
                return;
            }
            if let Some(gone) = self.own.remove(&key) {
                self.bytes -= gone.cost();
                wanted = wanted.saturating_sub(gone.cost());
            }
        }
    }
}

/// From when on it counts, if it does not yet.
fn counts_from(value: &SharedValue, now: WallTime) -> Option<WallTime> {
    let at = (value.stamp >> COUNT_BITS).saturating_sub(FUTURE_MS);
    (at > now.0).then_some(WallTime(at))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
