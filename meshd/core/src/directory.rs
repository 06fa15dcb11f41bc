//! The directory: who is a member, which networks there are, who has which MAC, address and name; all from signed records.
//!
//! ```text
//!   own facts ---> publish --sign--+                       +--> changes, for switch, ports, names
//!   peers' records -> accept ------+--> newest per key ----+--> fresh records, for peers to spread
//!   peers' digests -> newer_than <-+        |              +--> what must outlive a restart
//!                                           v
//!                                  claims, networks in force
//! ```
//!
//! Owns the replicated set and its accept rules: the signature holds, the author is a member in good standing and may
//! say this, bounds are kept. The highest serial counts; of one serial the larger bytes, so that all nodes agree even on
//! an author that lost its state. Such an author gets its old records back and goes on above them.
//! Revocation removes all records of a node. Refuses to know sessions: reachability is told to it.

mod contest;
mod digest;
mod lookup;
mod shared;

use crate::claims::{Claim, Claims, Conflict};
use crate::ident::{MeshId, NodeId, Now, Vni, WallTime};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::state::{self, RecordKind, StateKey};
use crate::wire::record::{
    Endpoint, Endpoints, Keyring, Membership, NETWORKS_MAX, Record, RecordError, RecordKey,
    Revocations, Role, SharedValues, Signed,
};
use serde::{Deserialize, Serialize};
use shared::Shared;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most members of a mesh.
pub const MEMBERS_MAX: usize = 16_384;
/// Most endpoints of one node over all networks.
const NODE_ENDPOINTS_MAX: usize = 4096;
/// Most networks on which one node has or had endpoints.
const NODE_NETWORKS_MAX: usize = 1024;
/// Records are sent in messages of about this many bytes.
const CHUNK_BYTES: usize = 250_000;
/// Lines of one digest.
const DIGEST_LINES: usize = 20_000;

/// What an accepted record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Change {
    /// A membership is new or newer.
    Members,
    /// A member was revoked; its records are gone.
    Revoked(NodeId),
    /// A network was defined, changed or removed, or changed its holder.
    Network(Vni),
    /// A node's advert changed, or whether it can be reached.
    Node(NodeId),
    /// The winners of a network changed.
    Endpoints(Vni),
}

/// Why a record is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// It is no record of this mesh.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Nobody vouched for the author, here and so far.
    #[error("{} is no member that is known here", .0.short())]
    Stranger(NodeId),
    /// The author was revoked.
    #[error("{} was revoked", .0.short())]
    Revoked(NodeId),
    /// The author's membership has run out.
    #[error("the membership of {} has expired", .0.short())]
    Expired(NodeId),
    /// Only admins define networks.
    #[error("{} is no admin and cannot define networks", .0.short())]
    NotAdmin(NodeId),
    /// A bound of the directory.
    #[error("{0}")]
    Full(&'static str),
}

struct Entry {
    signed: Signed,
    record: Record,
    print: u64,
    tag: u32,
}

/// The replicated set.
pub struct Directory {
    mesh: MeshId,
    me: NodeId,
    keyring: Arc<dyn Keyring>,
    records: BTreeMap<RecordKey, Entry>,
    prints: BTreeMap<u64, RecordKey>,
    summary: u64,
    revoked: BTreeSet<NodeId>,
    claims: Claims,
    /// VNI to author.
    in_force: BTreeMap<Vni, NodeId>,
    network_conflicts: BTreeSet<Conflict>,
    changes: BTreeSet<Change>,
    shared: Shared,
    /// New records, and the peer that they came from.
    fresh: Vec<(Signed, Option<NodeId>)>,
}

/// Key and value under which a record outlives a restart; `None` if it is no record. Also what `meshd join` puts into the
/// store before the node's first start.
#[must_use]
pub fn state_of(signed: &Signed) -> Option<(Vec<u8>, Vec<u8>)> {
    let record = signed.decode().ok()?;
    Some((state_key(&record.key()).encode(), state::encode(signed)))
}

fn state_key(key: &RecordKey) -> StateKey {
    match *key {
        RecordKey::Membership(node) => StateKey::Record(RecordKind::Membership, node, None),
        // There is one list; it is nobody's.
        RecordKey::Revocations => StateKey::Record(RecordKind::Revocations, NodeId([0; 32]), None),
        RecordKey::Network(node, vni) => StateKey::Record(RecordKind::Network, node, Some(vni)),
        RecordKey::Node(node) => StateKey::Record(RecordKind::Node, node, None),
        RecordKey::Endpoints(node, vni) => StateKey::Record(RecordKind::Endpoints, node, Some(vni)),
        RecordKey::Shared(node, vni, ref plugin) => StateKey::Shared(node, vni, plugin.clone()),
    }
}

impl Directory {
    /// As it was left: `state` are all pairs of the store, those of others are skipped.
    #[must_use]
    pub fn new(
        mesh: MeshId,
        keyring: Arc<dyn Keyring>,
        state: &[(Vec<u8>, Vec<u8>)],
        now: Now,
    ) -> Self {
        let me = keyring.node();
        let mut this = Self {
            mesh,
            me,
            keyring,
            records: BTreeMap::new(),
            prints: BTreeMap::new(),
            summary: 0,
            revoked: BTreeSet::new(),
            claims: Claims::of(me),
            in_force: BTreeMap::new(),
            network_conflicts: BTreeSet::new(),
            changes: BTreeSet::new(),
            shared: Shared::default(),
            fresh: Vec::new(),
        };
        this.claims.set_reachable(me, true);
        let mut kept: BTreeMap<RecordKey, Signed> = BTreeMap::new();
        for (key, value) in state {
            if let Ok(StateKey::Record(..) | StateKey::Shared(..)) = StateKey::decode(key)
                && let Ok(signed) = state::decode::<Signed>(value)
                && let Ok(record) = signed.decode()
            {
                kept.insert(record.key(), signed);
            }
        }
        // What is read back is neither news nor to be kept again.
        let mut scratch = Outbox::default();
        for signed in kept.into_values() {
            // What does not hold any more (expired since) is left out and written over in time. Signatures were checked
            // before it was kept.
            if let Ok(record) = signed.decode()
                && this.check_standing(&record, now.wall).is_ok()
            {
                this.install(signed, record, None, now, &mut scratch);
            }
        }
        this.fresh.clear();
        this.shared.unsaved.clear();
        this
    }

    // ---- taking in -------------------------------------------------------------------------------------------------

    /// Takes a record that came from `from`. True if it was news, and is to be spread.
    ///
    /// # Errors
    /// If it does not hold; the directory is unchanged.
    pub fn accept(
        &mut self,
        signed: &Signed,
        from: Option<NodeId>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<bool, AcceptError> {
        let peek = signed.decode()?;
        let key = peek.key();
        let ours = self.records.get(&key);
        // Most of what a mesh passes around is known already: no need to check a signature for that.
        if ours
            .is_some_and(|e| (e.record.serial(), &e.signed.body) >= (peek.serial(), &signed.body))
        {
            return Ok(false);
        }
        self.check_standing(&peek, now.wall)?;
        let record = signed.open(self.mesh, &*self.keyring)?;
        self.check_room(&record)?;
        if record.author() == Some(self.me) && self.reclaim(&record, now, out) {
            return Ok(true);
        }
        self.install(signed.clone(), record, from, now, out);
        Ok(true)
    }

    /// Makes, signs and takes a record of this node, with the next serial. True if it says anything new.
    ///
    /// # Errors
    /// If it breaks a bound or this node lacks the key.
    pub fn publish(
        &mut self,
        mut record: Record,
        now: Now,
        out: &mut Outbox,
    ) -> Result<bool, RecordError> {
        let mut serial = 1;
        if let Some(old) = self.records.get(&record.key()) {
            record.set_serial(old.record.serial());
            if old.record == record {
                return Ok(false);
            }
            serial = old.record.serial().saturating_add(1);
        }
        record.set_serial(serial);
        let signed = record.sign(self.mesh, &*self.keyring)?;
        self.install(signed, record, None, now, out);
        Ok(true)
    }

    /// An own record came back that this node does not know (it lost its state): goes on above it. False if the record
    /// is to be taken as it is.
    fn reclaim(&mut self, back: &Record, now: Now, out: &mut Outbox) -> bool {
        let mut current = match (self.records.get(&back.key()), back) {
            (Some(entry), _) => entry.record.clone(),
            // Of a network that has no endpoints here any more.
            (None, Record::Endpoints(e)) => Record::Endpoints(Endpoints {
                list: Vec::new(),
                ..e.clone()
            }),
            // Of a plugin that has written nothing since.
            (None, Record::Shared(s)) => Record::Shared(SharedValues {
                list: Vec::new(),
                ..s.clone()
            }),
            (None, _) => return false,
        };
        current.set_serial(back.serial().saturating_add(1));
        if let (Record::Node(current), Record::Node(back)) = (&mut current, back) {
            // Of a copy of this node that began later: who outlives it is the later one.
            current.boot = current.boot.max(back.boot.saturating_add(1));
        }
        match current.sign(self.mesh, &*self.keyring) {
            Ok(signed) => {
                self.install(signed, current, None, now, out);
                true
            }
            Err(_) => false,
        }
    }

    /// The record, if its signature holds; nothing is taken in.
    ///
    /// # Errors
    /// As [`Signed::open`].
    pub fn open(&self, signed: &Signed) -> Result<Record, RecordError> {
        signed.open(self.mesh, &*self.keyring)
    }

    fn check_standing(&self, record: &Record, wall: WallTime) -> Result<(), AcceptError> {
        if let Record::Membership(m) = record
            && self.revoked.contains(&m.node)
        {
            return Err(AcceptError::Revoked(m.node));
        }
        let Some(author) = record.author() else {
            return Ok(());
        };
        if self.revoked.contains(&author) {
            return Err(AcceptError::Revoked(author));
        }
        let member = self
            .membership(author)
            .ok_or(AcceptError::Stranger(author))?;
        match record {
            // A network outlives the time that its author was given.
            Record::Network(_) if member.role == Role::Admin => Ok(()),
            Record::Network(_) => Err(AcceptError::NotAdmin(author)),
            _ if is_expired(member, wall) => Err(AcceptError::Expired(author)),
            _ => Ok(()),
        }
    }

    fn check_room(&self, record: &Record) -> Result<(), AcceptError> {
        let known = self.records.contains_key(&record.key());
        match record {
            Record::Membership(_) if !known && self.all_memberships().count() >= MEMBERS_MAX => {
                Err(AcceptError::Full("the mesh has 16384 members already"))
            }
            Record::Network(_) if !known && self.all_networks().count() >= NETWORKS_MAX => {
                Err(AcceptError::Full("the mesh has 4096 networks already"))
            }
            Record::Endpoints(e) => {
                let others = || self.endpoints_of(e.node).filter(|other| other.vni != e.vni);
                if !known && others().count() >= NODE_NETWORKS_MAX {
                    Err(AcceptError::Full(
                        "the node has endpoints on 1024 networks already",
                    ))
                } else if others().map(|other| other.list.len()).sum::<usize>() + e.list.len()
                    > NODE_ENDPOINTS_MAX
                {
                    Err(AcceptError::Full("the node has 4096 endpoints already"))
                } else {
                    Ok(())
                }
            }
            Record::Shared(s) => self.check_shared_room(s),
            _ => Ok(()),
        }
    }

    fn install(
        &mut self,
        signed: Signed,
        record: Record,
        from: Option<NodeId>,
        now: Now,
        out: &mut Outbox,
    ) {
        let key = record.key();
        let kept = match &record {
            Record::Endpoints(e) => e.node == self.me,
            Record::Shared(s) => s.node == self.me,
            _ => true,
        };
        if kept {
            state::keep(out, &state_key(&key), &signed);
        }
        self.fresh.push((signed.clone(), from));
        let print = key.fingerprint(&*self.keyring);
        let tag = tag_of(&self.keyring.hash(&signed.body));
        let entry = Entry {
            print,
            tag,
            signed,
            record: record.clone(),
        };
        self.summary ^= mark(&entry);
        self.prints.insert(print, key.clone());
        let old = self.records.insert(key.clone(), entry);
        if let Some(old) = &old {
            self.summary ^= mark(old);
        }
        match record {
            Record::Membership(m) => {
                self.changes.insert(Change::Members);
                if old.is_none() {
                    out.push(Output::Notice(Notice::MemberJoined {
                        node: m.node,
                        name: m.name.to_string(),
                    }));
                }
                self.drop_fallen(m.node, now, out);
            }
            Record::Revocations(list) => self.revoke_all(&list, now, out),
            Record::Network(_) => self.enforce_networks(out),
            Record::Node(a) => {
                self.changes.insert(Change::Node(a.node));
                self.shared.revision += 1;
            }
            Record::Shared(s) => {
                let before = match &old.as_ref().map(|entry| &entry.record) {
                    Some(Record::Shared(before)) => before.bytes(),
                    _ => 0,
                };
                self.shared.replace(before, s.bytes());
                if s.node != self.me {
                    self.shared.unsaved.insert(key);
                }
            }
            Record::Endpoints(e) => {
                let before = match old.map(|entry| entry.record) {
                    Some(Record::Endpoints(before)) => before.list,
                    _ => Vec::new(),
                };
                self.contest(&before, &e, now, out);
            }
        }
    }

    fn remove(&mut self, key: &RecordKey, now: Now, out: &mut Outbox) {
        let Some(entry) = self.records.remove(key) else {
            return;
        };
        self.prints.remove(&entry.print);
        self.summary ^= mark(&entry);
        state::forget(out, &state_key(key));
        match entry.record {
            Record::Endpoints(e) => self.contest(
                &e.list,
                &Endpoints {
                    list: Vec::new(),
                    ..e.clone()
                },
                now,
                out,
            ),
            Record::Node(a) => {
                self.changes.insert(Change::Node(a.node));
                self.shared.revision += 1;
            }
            Record::Shared(s) => {
                self.shared.replace(s.bytes(), 0);
                self.shared.unsaved.remove(key);
            }
            Record::Membership(_) => {
                self.changes.insert(Change::Members);
            }
            Record::Network(_) | Record::Revocations(_) => {}
        }
    }

    fn keys_of(&self, node: NodeId) -> Vec<RecordKey> {
        let (Some(low), Some(high)) = (Vni::new(1).ok(), Vni::new((1 << 24) - 1).ok()) else {
            return Vec::new();
        };
        let networks = self
            .records
            .range(RecordKey::Network(node, low)..=RecordKey::Network(node, high));
        let endpoints = self
            .records
            .range(RecordKey::Endpoints(node, low)..=RecordKey::Endpoints(node, high));
        let shared = self
            .shared_of(node)
            .map(|shared| RecordKey::Shared(shared.node, shared.vni, shared.plugin.clone()));
        [RecordKey::Membership(node), RecordKey::Node(node)]
            .into_iter()
            .chain(networks.chain(endpoints).map(|(key, _)| key.clone()))
            .chain(shared)
            .collect()
    }

    fn revoke_all(&mut self, list: &Revocations, now: Now, out: &mut Outbox) {
        let news: Vec<NodeId> = list
            .nodes
            .iter()
            .copied()
            .filter(|node| !self.revoked.contains(node))
            .collect();
        // Never shrinks, whatever list comes.
        self.revoked.extend(&list.nodes);
        for node in news {
            let name = self
                .membership(node)
                .map(|m| m.name.to_string())
                .unwrap_or_default();
            for key in self.keys_of(node) {
                self.remove(&key, now, out);
            }
            if node != self.me {
                self.claims.forget(node);
            }
            self.changes.insert(Change::Revoked(node));
            out.push(Output::Notice(Notice::MemberRevoked { node, name }));
        }
        self.enforce_networks(out);
        if self.revoked.len() > list.nodes.len() {
            // A root that was restored from an older copy meets a list that it does not know: both count. Only the root
            // can sign that; the others wait for it.
            let nodes = self.revoked.iter().copied().collect();
            let all = Revocations {
                mesh: self.mesh,
                serial: 0,
                nodes,
            };
            let _ = self.publish(Record::Revocations(all), now, out);
        }
    }

    /// Drops what a member may not say any more. This node's own words stay, so that its ports go on among themselves.
    fn drop_fallen(&mut self, node: NodeId, now: Now, out: &mut Outbox) {
        if node == self.me {
            return;
        }
        let fallen = |this: &Self, key: &RecordKey| {
            this.records
                .get(key)
                .is_some_and(|e| this.check_standing(&e.record, now.wall).is_err())
        };
        let keys: Vec<RecordKey> = self
            .keys_of(node)
            .into_iter()
            .filter(|key| fallen(self, key))
            .collect();
        for key in &keys {
            self.remove(key, now, out);
        }
        if !keys.is_empty() {
            self.enforce_networks(out);
        }
    }

    /// Drops what expired members said, and keeps what others share. Once a second.
    pub fn expire(&mut self, now: Now, out: &mut Outbox) {
        let expired: Vec<NodeId> = self
            .all_memberships()
            .filter(|m| is_expired(m, now.wall))
            .map(|m| m.node)
            .collect();
        for node in expired {
            self.drop_fallen(node, now, out);
        }
        self.keep_shared(out);
    }

    // ---- claims and networks ---------------------------------------------------------------------------------------

    // ---- spreading -------------------------------------------------------------------------------------------------

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        core::mem::take(&mut self.changes).into_iter().collect()
    }

    /// Records that are new since the last call, each with the peer it came from (`None`: made here).
    pub fn take_fresh(&mut self) -> Vec<(Signed, Option<NodeId>)> {
        core::mem::take(&mut self.fresh)
    }
}

fn is_expired(member: &Membership, wall: WallTime) -> bool {
    member.expires.is_some_and(|at| at <= wall)
}

fn claims_of(endpoint: &Endpoint) -> impl Iterator<Item = Claim> {
    let ips = endpoint.ips.iter().map(|ip| Claim::Ip(*ip));
    core::iter::once(Claim::Mac(endpoint.mac))
        .chain(ips)
        .chain(endpoint.name.clone().map(Claim::Name))
}

fn tag_of(hash: &[u8; 32]) -> u32 {
    let [a, b, c, d, ..] = *hash;
    u32::from_be_bytes([a, b, c, d])
}

/// One entry's part of the summary. Mixed, so that entries do not cancel each other out.
fn mark(entry: &Entry) -> u64 {
    let mut x = entry.print ^ entry.record.serial().rotate_left(32) ^ u64::from(entry.tag);
    for _ in 0..2 {
        x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }
    x ^ (x >> 33)
}

/// Records in messages of about 250 kB.
pub(crate) fn in_chunks(records: impl Iterator<Item = Signed>) -> Vec<Vec<Signed>> {
    let mut chunks: Vec<Vec<Signed>> = Vec::new();
    let mut bytes = CHUNK_BYTES;
    for signed in records {
        let size = signed.body.len() + 72;
        if bytes + size > CHUNK_BYTES {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(last) = chunks.last_mut() {
            last.push(signed);
        }
    }
    chunks
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
