//! What a controller keeps: in memory while it runs, and in the state of the node.
//!
//! ```text
//!   set, delete --> memory --within 100 ms, many in one transaction--> store: kv/PLUGIN/VNI/KEY
//!                                             | no room on the disk: later writes are refused, what waits is tried again
//!   start <------------- all keys of the attachment ------------------/
//! ```
//!
//! Owns the bounds: bytes of an attachment, of a key and of a value. A plugin that writes all the time costs the disk ten
//! transactions a second and no more.

use crate::store::{Store, StoreError};
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Label, Vni};
use meshd_plugin_host::contract::kv::{Entry, KvError};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// Bytes of a key.
const KEY: usize = 256;
/// Bytes of a value.
const VALUE: usize = 64 << 10;
/// Keys that are listed at once.
const LISTED: u32 = 1024;
/// What an entry takes beside its bytes, so that a million empty ones are bounded too.
const EACH: usize = 64;
/// A write is on the disk after so long.
const DELAY: Duration = Duration::from_millis(100);

struct Kept {
    /// The disk has the key, with this value or an older one: when it goes, the disk is to be told.
    stored: bool,
    value: Vec<u8>,
    version: u64,
    /// Ms since 1970; 0: never.
    until: u64,
}

/// See the module.
pub(super) struct Kv {
    store: Store,
    prefix: String,
    entries: BTreeMap<String, Kept>,
    bytes: usize,
    version: u64,
    dirty: BTreeSet<String>,
    due: Option<Instant>,
    trouble: Option<String>,
}

fn prefix(plugin: &Label, vni: Vni) -> String {
    format!("kv/{plugin}/{}/", vni.get())
}

/// The attachment ends, and with it what it kept.
///
/// # Errors
/// If the state cannot be written.
pub(crate) fn forget(store: &Store, plugin: &Label, vni: Vni) -> Result<(), StoreError> {
    let all = store.list(&prefix(plugin, vni))?;
    let batch: Vec<(&str, Option<&[u8]>)> = all.iter().map(|(key, _)| (&**key, None)).collect();
    match batch.is_empty() {
        true => Ok(()),
        false => store.put_all(&batch),
    }
}

impl Kv {
    /// What the attachment has kept so far.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub(super) fn open(store: Store, plugin: &Label, vni: Vni) -> Result<Self, StoreError> {
        let prefix = prefix(plugin, vni);
        let mut out = Self {
            entries: BTreeMap::new(),
            bytes: 0,
            version: 0,
            dirty: BTreeSet::new(),
            due: None,
            trouble: None,
            store,
            prefix,
        };
        for (key, value) in out.store.list(&out.prefix)? {
            let Some(key) = key.strip_prefix(&out.prefix) else {
                continue;
            };
            let Some(kept) = Kept::read(&value) else {
                tracing::warn!(code = %ErrorCode::PluginStateDamaged, %plugin, %vni, key, "what a controller kept is damaged and is left out");
                continue;
            };
            out.version = out.version.max(kept.version);
            out.bytes += cost(key, &kept.value);
            out.entries.insert(key.to_owned(), kept);
        }
        Ok(out)
    }

    pub(super) fn get(&self, key: &str, wall: u64) -> Option<Entry> {
        let kept = self.entries.get(key).filter(|kept| kept.lives(wall))?;
        Some(Entry {
            value: kept.value.clone(),
            version: kept.version,
        })
    }

    /// See `wit/host.wit`; `most` bytes may be kept.
    pub(super) fn set(
        &mut self,
        key: &str,
        value: Vec<u8>,
        expect: Option<u64>,
        ttl_ms: u32,
        most: usize,
        wall: u64,
    ) -> Result<u64, KvError> {
        if key.len() > KEY || value.len() > VALUE {
            return Err(KvError::TooLarge);
        }
        if let Some(why) = &self.trouble {
            return Err(KvError::Unavailable(why.clone()));
        }
        let there = self.entries.get(key).filter(|kept| kept.lives(wall));
        let version = there.map_or(0, |kept| kept.version);
        if expect.is_some_and(|expect| expect != version) {
            return Err(KvError::Conflict(version));
        }
        let after = |bytes: usize, kv: &Self| {
            let old = kv.entries.get(key).map_or(0, |old| cost(key, &old.value));
            bytes - old + cost(key, &value)
        };
        if after(self.bytes, self) > most {
            self.expire(wall);
        }
        let bytes = after(self.bytes, self);
        if bytes > most {
            return Err(KvError::Full);
        }
        // Of a key that comes again too: the clock is ahead of every count.
        self.version = (self.version + 1).max(wall);
        let until = match ttl_ms {
            0 => 0,
            ms => wall + u64::from(ms),
        };
        let kept = Kept {
            stored: self.is_stored(key),
            value,
            version: self.version,
            until,
        };
        self.entries.insert(key.to_owned(), kept);
        self.bytes = bytes;
        self.soil(key);
        Ok(self.version)
    }

    pub(super) fn delete(&mut self, key: &str) {
        let stored = self.is_stored(key);
        if let Some(old) = self.entries.remove(key) {
            self.bytes -= cost(key, &old.value);
            match stored {
                true => self.soil(key),
                // Else who sets and deletes ever other keys would grow what waits.
                false => {
                    self.dirty.remove(key);
                }
            }
        }
    }

    /// Does the disk have the key? One that is to be removed there is in none of the entries, and waits.
    fn is_stored(&self, key: &str) -> bool {
        let kept = self.entries.get(key);
        kept.map_or_else(|| self.dirty.contains(key), |kept| kept.stored)
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
        wall: u64,
    ) -> Vec<String> {
        let from = after.unwrap_or(prefix).max(prefix);
        self.entries
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(key, kept)| {
                after.is_none_or(|after| key.as_str() > after) && kept.lives(wall)
            })
            .map(|(key, _)| key.clone())
            .take(limit.min(LISTED) as usize)
            .collect()
    }

    /// When the disk is to be written, if something waits for it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// In words why not; it is tried again later, and until then nothing more is taken.
    pub(super) fn flush(&mut self, wall: u64) -> Result<(), String> {
        self.expire(wall);
        let batch: Vec<(String, Option<Vec<u8>>)> = self
            .dirty
            .iter()
            .map(|key| {
                let value = self.entries.get(key).map(Kept::write);
                (format!("{}{key}", self.prefix), value)
            })
            .collect();
        let batch: Vec<(&str, Option<&[u8]>)> = batch
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
            .collect();
        match batch.is_empty() {
            true => Ok(()),
            false => self.store.put_all(&batch),
        }
        .map_err(|error| {
            let why = error.to_string();
            self.due = Some(Instant::now() + 10 * DELAY);
            self.trouble = Some(why.clone());
            why
        })?;
        for key in std::mem::take(&mut self.dirty) {
            if let Some(kept) = self.entries.get_mut(&key) {
                kept.stored = true;
            }
        }
        (self.due, self.trouble) = (None, None);
        Ok(())
    }

    fn soil(&mut self, key: &str) {
        self.dirty.insert(key.to_owned());
        self.due.get_or_insert_with(|| Instant::now() + DELAY);
    }

    fn expire(&mut self, wall: u64) {
        let gone: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, kept)| !kept.lives(wall))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.delete(&key);
        }
    }
}

fn cost(key: &str, value: &[u8]) -> usize {
    EACH + key.len() + value.len()
}

impl Kept {
    fn lives(&self, wall: u64) -> bool {
        self.until == 0 || wall < self.until
    }

    /// Version, end, value; little-endian.
    fn write(&self) -> Vec<u8> {
        let (version, until) = (self.version.to_le_bytes(), self.until.to_le_bytes());
        [&version[..], &until, &self.value].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk()?;
        let (until, value) = rest.split_first_chunk()?;
        Some(Self {
            stored: true,
            version: u64::from_le_bytes(*version),
            until: u64::from_le_bytes(*until),
            value: value.to_vec(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store(dir: &tempfile::TempDir) -> Store {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        Store::open(dir.path()).unwrap()
    }

    fn open(store: &Store) -> Kv {
        let (guard, vni) = ("guard".parse().unwrap(), Vni::new(7).unwrap());
        Kv::open(store.clone(), &guard, vni).unwrap()
    }

    #[test]
    fn what_is_kept_survives_a_restart_and_ends_with_the_attachment() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let mut kv = open(&store);
        let first = kv.set("a/1", b"x".to_vec(), Some(0), 0, 1000, 50).unwrap();
        kv.set("a/2", b"y".to_vec(), None, 10, 1000, 50).unwrap();
        kv.flush(50).unwrap();
        let mut again = open(&store);
        assert_eq!(again.get("a/1", 55).unwrap().version, first);
        assert_eq!(again.list("a/", None, 9, 55), ["a/1", "a/2"]);
        assert_eq!(again.list("a/", None, 9, 60), ["a/1"], "one has run out");
        assert_eq!(again.list("a/", Some("a/1"), 9, 55), ["a/2"]);
        again.delete("a/1");
        again.flush(60).unwrap();
        assert_eq!(open(&store).list("", None, 9, 0), Vec::<String>::new());
        again.set("b", Vec::new(), None, 0, 1000, 60).unwrap();
        again.flush(60).unwrap();
        forget(&store, &"guard".parse().unwrap(), Vni::new(7).unwrap()).unwrap();
        assert_eq!(store.list("kv/").unwrap(), []);
    }

    #[test]
    fn keys_that_come_and_go_before_they_are_written_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let mut kv = open(&store);
        kv.set("kept", b"1".to_vec(), None, 0, 1000, 5).unwrap();
        kv.flush(5).unwrap();
        for n in 0..10_000 {
            let key = format!("{n}");
            kv.set(&key, b"x".to_vec(), None, 0, 1000, 5).unwrap();
            kv.delete(&key);
        }
        assert_eq!(kv.dirty.len(), 0);
        // One that the disk has is removed there, however often it came back in the meantime.
        kv.delete("kept");
        kv.set("kept", b"2".to_vec(), None, 0, 1000, 5).unwrap();
        kv.delete("kept");
        kv.flush(5).unwrap();
        assert_eq!(open(&store).list("", None, 9, 5), Vec::<String>::new());
        kv.set("kept", b"3".to_vec(), None, 0, 1000, 5).unwrap();
        kv.flush(5).unwrap();
        assert_eq!(open(&store).get("kept", 5).unwrap().value, b"3");
    }

    #[test]
    fn a_write_is_bounded_and_holds_only_against_the_expected_version() {
        let dir = tempfile::tempdir().unwrap();
        let mut kv = open(&store(&dir));
        let one = kv.set("k", vec![0; 100], None, 0, 300, 5).unwrap();
        let again = kv.set("k", vec![0; 100], Some(one), 0, 300, 5).unwrap();
        assert!(again > one);
        let conflict = kv.set("k", Vec::new(), Some(one), 0, 300, 5);
        assert!(matches!(conflict, Err(KvError::Conflict(now)) if now == again));
        assert!(matches!(
            kv.set("l", vec![0; 100], None, 0, 300, 5),
            Err(KvError::Full)
        ));
        let long = "k".repeat(257);
        assert!(matches!(
            kv.set(&long, Vec::new(), None, 0, 300, 5),
            Err(KvError::TooLarge)
        ));
        let big = vec![0; VALUE + 1];
        assert!(matches!(
            kv.set("k", big, None, 0, 1 << 20, 5),
            Err(KvError::TooLarge)
        ));
        // What has run out makes room.
        kv.set("k", vec![0; 100], None, 10, 300, 5).unwrap();
        kv.set("l", vec![0; 100], None, 0, 300, 15).unwrap();
        assert!(kv.get("k", 15).is_none());
    }
}
