//! What a controller keeps for all nodes of its network: a view of it in memory, and what of it is this node's in the directory.
//!
//! ```text
//!   set, delete --> Replica --within 500 ms, many in one record--> node: signed, on the disk, to all members
//!                     ^  \--> get, list-keys
//!                     \-- twice a second, if anything changed there --- node: what members of the network share
//! ```
//!
//! Owns when the node is told and asked. The order of writes, the bounds of one node and tombstones are the core's
//! ([`meshd_core::shared`]). Where there is no grant nothing is asked or told.

use super::Shared;
use super::surroundings::Heard;
use meshd_core::ident::WallTime;
use meshd_core::shared::{Replica, SetError};
use meshd_plugin_host::Capability;
use meshd_plugin_host::contract::events::Event;
use meshd_plugin_host::contract::kv::{Entry, KvError};
use meshd_plugin_host::contract::types::LogLevel;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

/// A write is told to the node after so long.
const DELAY: Duration = Duration::from_millis(500);
/// Between two looks at what others share.
const LOOK: Duration = Duration::from_millis(500);
/// Keys in one event.
const KEYS: usize = 64;

/// See the module. Without a replica the node could not be asked yet.
#[derive(Default)]
pub(super) struct Shares {
    replica: Option<Replica>,
    revision: u64,
    tells_at: Option<Instant>,
    looks_at: Option<Instant>,
}

fn wall() -> WallTime {
    crate::clock::wall()
}

fn heard(replica: &mut Replica, heard: &Heard) -> Vec<String> {
    let shares = heard.shares.iter();
    replica.hear(shares.map(|(node, list)| (*node, &list[..])), wall())
}

impl Shares {
    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.tells_at, self.looks_at].into_iter().flatten().min()
    }

    /// Bytes that this node shares.
    pub(super) fn bytes(&self) -> usize {
        self.replica.as_ref().map_or(0, Replica::bytes)
    }

    fn changed(&mut self) {
        if self.replica.as_ref().is_some_and(Replica::is_changed) {
            self.tells_at.get_or_insert_with(|| Instant::now() + DELAY);
        }
    }
}

/// The scope `mesh` of an attachment.
pub(super) struct Mesh<'a> {
    shared: &'a Shared,
    shares: MutexGuard<'a, Shares>,
}

impl<'a> Mesh<'a> {
    /// # Errors
    /// It is not granted, or the node cannot be asked.
    pub(super) fn open(shared: &'a Shared) -> Result<Self, KvError> {
        if !shared.shares_anything() {
            return Err(KvError::Unavailable(
                "values for all nodes of the network are not granted: it needs `--grant kv-mesh`"
                    .to_owned(),
            ));
        }
        let mut shares = shared.shares();
        if shares.replica.is_none() {
            let around = &shared.house.surroundings;
            let Some(all) = around.shared(shared.vni, &shared.plugin, None) else {
                let why = "the node does not answer: it starts or stops".to_owned();
                return Err(KvError::Unavailable(why));
            };
            let own = all.shares.iter().find(|(node, _)| *node == all.me);
            let own = own.map(|(_, list)| list.clone()).unwrap_or_default();
            let mut replica = Replica::new(all.me, own);
            heard(&mut replica, &all);
            shares.replica = Some(replica);
            shares.revision = all.revision;
            shares.looks_at = Some(Instant::now() + LOOK);
        }
        Ok(Self { shared, shares })
    }

    fn replica(&mut self) -> Result<&mut Replica, KvError> {
        let missing = || KvError::Unavailable("the node does not answer".to_owned());
        self.shares.replica.as_mut().ok_or_else(missing)
    }

    pub(super) fn get(&mut self, key: &str) -> Result<Option<Entry>, KvError> {
        let found = self.replica()?.get(key, wall());
        Ok(found.map(|(value, version)| Entry {
            value: value.to_vec(),
            version,
        }))
    }

    pub(super) fn set(
        &mut self,
        key: &str,
        value: Vec<u8>,
        expect: Option<u64>,
        ttl_ms: u32,
    ) -> Result<u64, KvError> {
        let most = self.most();
        let written = self
            .replica()?
            .set(key, value, expect, ttl_ms, most, wall());
        self.shares.changed();
        self.shared.queue.nudge();
        written.map_err(refused)
    }

    pub(super) fn delete(&mut self, key: &str) -> Result<(), KvError> {
        let most = self.most();
        let gone = self.replica()?.delete(key, most, wall());
        self.shares.changed();
        self.shared.queue.nudge();
        gone.map_err(refused)
    }

    pub(super) fn list(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, KvError> {
        Ok(self.replica()?.list(prefix, after, limit, wall()))
    }

    fn most(&self) -> usize {
        self.shared.grants().amounts.mesh_bytes as usize
    }
}

fn refused(error: SetError) -> KvError {
    match error {
        SetError::Full => KvError::Full,
        SetError::TooLarge => KvError::TooLarge,
        SetError::Conflict(version) => KvError::Conflict(version),
    }
}

/// What is due: the node is told what was written, and asked what others wrote. Keys that they changed become events.
pub(super) fn tend(shared: &Shared, now: Instant) {
    if !shared.shares_anything() {
        return;
    }
    // The first look, so that others' writes are events also to one that has called nothing yet.
    let Ok(mut mesh) = Mesh::open(shared) else {
        shared.shares().looks_at = Some(now + LOOK);
        return;
    };
    let shares = &mut *mesh.shares;
    if shares.tells_at.is_some_and(|at| at <= now) {
        tell(shared, shares);
    }
    if shares.looks_at.is_none_or(|at| at <= now) {
        shares.looks_at = Some(now + LOOK);
        let Some(replica) = &mut shares.replica else {
            return;
        };
        // What was of the future counts by itself when its time has come.
        let again = replica.due().is_some_and(|due| due <= wall());
        let since = (!again).then_some(shares.revision);
        let Some(all) = shared
            .house
            .surroundings
            .shared(shared.vni, &shared.plugin, since)
        else {
            return;
        };
        let keys = heard(replica, &all);
        shares.revision = all.revision;
        shares.changed();
        for keys in keys.chunks(KEYS) {
            shared.queue.push(Event::KvChanged(keys.to_vec()));
        }
    }
}

/// The node is told what waits.
pub(super) fn flush(shared: &Shared) {
    let mut shares = shared.shares();
    if shares.tells_at.is_some() {
        tell(shared, &mut shares);
    }
}

fn tell(shared: &Shared, shares: &mut Shares) {
    shares.tells_at = None;
    let Some(replica) = &mut shares.replica else {
        return;
    };
    let Some(list) = replica.take_share(wall()) else {
        return;
    };
    let told = shared
        .house
        .surroundings
        .share(shared.vni, &shared.plugin, list);
    if let Err(why) = told {
        replica.keep_share();
        shares.tells_at = Some(Instant::now() + 10 * DELAY);
        let line = format!("what it shares could not be told to the other nodes: {why}");
        shared.journal.host(LogLevel::Warn, &line);
    }
}

impl Shared {
    /// May it keep anything for all nodes?
    pub(super) fn shares_anything(&self) -> bool {
        self.grants().capabilities.contains(&Capability::KvMesh)
    }
}
