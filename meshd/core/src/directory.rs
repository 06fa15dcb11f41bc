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

use crate::claims::{Claim, Claims, Conflict};
use crate::ident::{Label, MacAddr, MeshId, NodeId, Now, Vni, WallTime};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::state::{self, RecordKind, StateKey};
use crate::wire::control::Have;
use crate::wire::record::{
    Endpoint, Endpoints, Keyring, Membership, NETWORKS_MAX, NetworkDef, NodeAdvert, Record,
    RecordError, RecordKey, Revocations, Role, Signed,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Most members of a mesh.
pub const MEMBERS_MAX: usize = 16_384;
/// Most endpoints of one node over all networks.
const NODE_ENDPOINTS_MAX: usize = 4096;
/// Most networks on which one node has or had endpoints.
const NODE_NETWORKS_MAX: usize = 1024;
/// Records are sent in messages of about this many bytes.
const CHUNK_BYTES: usize = 250_000;
/// Most messages in one answer to a digest; the next one gets the rest.
const CHUNKS_MAX: usize = 64;
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
            claims: Claims::default(),
            in_force: BTreeMap::new(),
            network_conflicts: BTreeSet::new(),
            changes: BTreeSet::new(),
            fresh: Vec::new(),
        };
        this.claims.set_reachable(me, true);
        let mut kept: BTreeMap<RecordKey, Signed> = BTreeMap::new();
        for (key, value) in state {
            if let Ok(StateKey::Record(..)) = StateKey::decode(key)
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
        self.check_room(&peek)?;
        let record = signed.open(self.mesh, &*self.keyring)?;
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
            (None, _) => return false,
        };
        current.set_serial(back.serial().saturating_add(1));
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
        self.prints.insert(print, key);
        let old = self.records.insert(key, entry);
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
        [RecordKey::Membership(node), RecordKey::Node(node)]
            .into_iter()
            .chain(networks.chain(endpoints).map(|(key, _)| *key))
            .collect()
    }

    fn revoke_all(&mut self, list: &Revocations, now: Now, out: &mut Outbox) {
        let news: Vec<NodeId> = list
            .nodes
            .iter()
            .copied()
            .filter(|node| !self.revoked.contains(node))
            .collect();
        self.revoked = list.nodes.iter().copied().collect();
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

    /// Drops what expired members said. Once a second.
    pub fn expire(&mut self, now: Now, out: &mut Outbox) {
        let expired: Vec<NodeId> = self
            .all_memberships()
            .filter(|m| is_expired(m, now.wall))
            .map(|m| m.node)
            .collect();
        for node in expired {
            self.drop_fallen(node, now, out);
        }
    }

    // ---- claims and networks ---------------------------------------------------------------------------------------

    fn contest(&mut self, before: &[Endpoint], after: &Endpoints, now: Now, out: &mut Outbox) {
        let floor = self
            .membership(after.node)
            .map_or(WallTime(0), |m| m.issued);
        let old: BTreeMap<Claim, &Endpoint> = before
            .iter()
            .flat_map(|e| claims_of(e).map(move |c| (c, e)))
            .collect();
        let mut new: BTreeMap<Claim, &Endpoint> = BTreeMap::new();
        for endpoint in &after.list {
            for claim in claims_of(endpoint) {
                // A node that names one thing twice means the first.
                new.entry(claim).or_insert(endpoint);
            }
        }
        let mut touched: BTreeSet<&Claim> = BTreeSet::new();
        for claim in old.keys().filter(|claim| !new.contains_key(*claim)) {
            self.claims.unset(after.node, after.vni, claim);
            touched.insert(claim);
        }
        for (claim, endpoint) in &new {
            self.claims.set(
                after.node,
                after.vni,
                claim,
                endpoint.mac,
                endpoint.since,
                floor,
                now.moment,
            );
            touched.insert(claim);
        }
        for claim in touched {
            self.decide(after.vni, claim, out);
        }
        // Labels, and which address is behind which MAC, count too.
        self.changes.insert(Change::Endpoints(after.vni));
    }

    fn decide(&mut self, vni: Vni, claim: &Claim, out: &mut Outbox) {
        let decision = self.claims.decide(vni, claim);
        if decision.moved {
            self.changes.insert(Change::Endpoints(vni));
        }
        for conflict in decision.conflicts {
            let Conflict { holder, other, .. } = conflict;
            out.push(Output::Notice(match conflict.claim {
                Claim::Mac(mac) => Notice::MacConflict {
                    vni,
                    mac,
                    holder,
                    other,
                },
                Claim::Ip(ip) => Notice::IpConflict {
                    vni,
                    ip,
                    holder,
                    other,
                },
                Claim::Name(name) | Claim::Network(name) => Notice::NameConflict {
                    vni,
                    name: name.to_string(),
                    holder,
                    other,
                },
            }));
        }
    }

    /// Which definitions count: the older first, each if neither its VNI nor its name is taken.
    fn enforce_networks(&mut self, out: &mut Outbox) {
        let mut defs: Vec<&NetworkDef> = self.all_networks().filter(|def| !def.removed).collect();
        defs.sort_by_key(|def| {
            (
                def.since.max(
                    self.membership(def.author)
                        .map_or(WallTime(0), |m| m.issued),
                ),
                def.author,
                def.vni,
            )
        });
        let (mut in_force, mut names) = (
            BTreeMap::<Vni, NodeId>::new(),
            BTreeMap::<&Label, NodeId>::new(),
        );
        let mut conflicts = BTreeSet::new();
        for def in defs {
            let taken = in_force
                .get(&def.vni)
                .or_else(|| names.get(&def.name))
                .copied();
            if let Some(holder) = taken {
                conflicts.insert(Conflict {
                    vni: def.vni,
                    claim: Claim::Network(def.name.clone()),
                    holder,
                    other: def.author,
                });
            } else {
                in_force.insert(def.vni, def.author);
                names.insert(&def.name, def.author);
            }
        }
        for conflict in conflicts.difference(&self.network_conflicts) {
            let Conflict {
                vni, holder, other, ..
            } = *conflict;
            let name = match &conflict.claim {
                Claim::Network(name) => name.to_string(),
                _ => String::new(),
            };
            out.push(Output::Notice(Notice::NetworkConflict {
                vni,
                name,
                holder,
                other,
            }));
        }
        // Changes of content come with a record of the same author, so each definition in force counts as changed once
        // its record is new; telling all of them keeps this simple and costs a comparison at the receiver.
        let touched: BTreeSet<Vni> = in_force
            .keys()
            .chain(self.in_force.keys())
            .copied()
            .collect();
        self.changes
            .extend(touched.into_iter().map(Change::Network));
        self.in_force = in_force;
        self.network_conflicts = conflicts;
    }

    /// Whether a node can be reached; the rule is in `mesh.rs`.
    pub fn set_reachable(&mut self, node: NodeId, reachable: bool, out: &mut Outbox) {
        if node == self.me || !self.claims.set_reachable(node, reachable) {
            return;
        }
        self.changes.insert(Change::Node(node));
        let lists: Vec<(Vni, Vec<Claim>)> = self
            .endpoints_of(node)
            .map(|e| (e.vni, e.list.iter().flat_map(claims_of).collect()))
            .collect();
        for (vni, claims) in lists {
            for claim in claims {
                self.decide(vni, &claim, out);
            }
        }
    }

    /// The first sync after the start is over.
    pub fn settle(&mut self) {
        self.claims.settle();
    }

    // ---- spreading -------------------------------------------------------------------------------------------------

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        core::mem::take(&mut self.changes).into_iter().collect()
    }

    /// Records that are new since the last call, each with the peer it came from (`None`: made here).
    pub fn take_fresh(&mut self) -> Vec<(Signed, Option<NodeId>)> {
        core::mem::take(&mut self.fresh)
    }

    /// All that is known, as one number.
    #[must_use]
    pub fn summary(&self) -> u64 {
        self.summary
    }

    /// All that is known, as digests of consecutive ranges: first key, last key, lines.
    #[must_use]
    pub fn digest(&self) -> Vec<(u64, u64, Vec<Have>)> {
        self.digest_in_chunks(DIGEST_LINES)
    }

    fn digest_in_chunks(&self, size: usize) -> Vec<(u64, u64, Vec<Have>)> {
        let lines: Vec<Have> = self.lines(0, u64::MAX).map(|(have, _)| have).collect();
        let mut chunks: Vec<(u64, u64, Vec<Have>)> = Vec::new();
        let mut from = 0;
        for chunk in lines.chunks(size) {
            let to = chunk.last().map_or(u64::MAX, |have| have.key);
            chunks.push((from, to, chunk.to_vec()));
            from = to.saturating_add(1);
        }
        match chunks.last_mut() {
            Some(last) => last.1 = u64::MAX,
            None => chunks.push((0, u64::MAX, Vec::new())),
        }
        chunks
    }

    /// What is known of a range of key hashes.
    #[must_use]
    pub fn digest_of(&self, from: u64, to: u64) -> Vec<Have> {
        self.lines(from, to)
            .map(|(have, _)| have)
            .take(DIGEST_LINES * 2)
            .collect()
    }

    fn lines(&self, from: u64, to: u64) -> impl Iterator<Item = (Have, RecordKey)> {
        let range = if from <= to {
            Some(self.prints.range(from..=to))
        } else {
            None
        };
        range.into_iter().flatten().filter_map(|(&print, key)| {
            let entry = self.records.get(key)?;
            Some((
                Have {
                    key: print,
                    serial: entry.record.serial(),
                    tag: entry.tag,
                },
                *key,
            ))
        })
    }

    /// What the sender of a digest lacks, in the order in which it can take it, in messages of about 250 kB.
    #[must_use]
    pub fn newer_than(&self, from: u64, to: u64, have: &[Have]) -> Vec<Vec<Signed>> {
        let theirs: BTreeMap<u64, (u64, u32)> =
            have.iter().map(|h| (h.key, (h.serial, h.tag))).collect();
        let newer = |ours: &Have| {
            theirs.get(&ours.key).is_none_or(|&(serial, tag)| {
                serial < ours.serial || (serial == ours.serial && tag != ours.tag)
            })
        };
        let keys: BTreeSet<RecordKey> = self
            .lines(from, to)
            .filter(|(have, _)| newer(have))
            .map(|(_, key)| key)
            .collect();
        let mut chunks = in_chunks(
            keys.iter()
                .filter_map(|key| self.records.get(key))
                .map(|entry| entry.signed.clone()),
        );
        chunks.truncate(CHUNKS_MAX);
        chunks
    }

    // ---- members ---------------------------------------------------------------------------------------------------

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    fn membership(&self, node: NodeId) -> Option<&Membership> {
        match &self.records.get(&RecordKey::Membership(node))?.record {
            Record::Membership(m) => Some(m),
            _ => None,
        }
    }

    fn all_memberships(&self) -> impl Iterator<Item = &Membership> {
        let (low, high) = (
            RecordKey::Membership(NodeId([0; 32])),
            RecordKey::Membership(NodeId([0xff; 32])),
        );
        self.records
            .range(low..=high)
            .filter_map(|(_, entry)| match &entry.record {
                Record::Membership(m) => Some(m),
                _ => None,
            })
    }

    /// All members that are not revoked, this node and expired ones among them.
    pub fn members(&self) -> impl Iterator<Item = &Membership> {
        self.all_memberships()
    }

    /// A member that is not revoked; it may have expired.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Membership> {
        self.membership(node)
    }

    /// Name and id for messages.
    #[must_use]
    pub fn show(&self, node: NodeId) -> String {
        crate::command::show_member(self.membership(node).map(|m| &m.name), node)
    }

    /// The statement about a member, to show to others.
    #[must_use]
    pub fn signed(&self, key: &RecordKey) -> Option<&Signed> {
        self.records.get(key).map(|entry| &entry.signed)
    }

    /// By name, id, or a prefix of the id of at least 6 characters; none if the prefix is ambiguous.
    #[must_use]
    pub fn find_member(&self, text: &str) -> Option<&Membership> {
        if let Some(named) = self.all_memberships().find(|m| m.name.as_str() == text) {
            return Some(named);
        }
        let mut fitting = self
            .all_memberships()
            .filter(|m| text.len() >= 6 && m.node.to_string().starts_with(text));
        let first = fitting.next()?;
        fitting.next().is_none().then_some(first)
    }

    /// What a member says of itself.
    #[must_use]
    pub fn advert(&self, node: NodeId) -> Option<&NodeAdvert> {
        match &self.records.get(&RecordKey::Node(node))?.record {
            Record::Node(a) => Some(a),
            _ => None,
        }
    }

    /// True if frames can be sent to the node; see [`Self::set_reachable`]. This node is.
    #[must_use]
    pub fn reachable(&self, node: NodeId) -> bool {
        self.claims.reachable(node)
    }

    /// True if the key is on the list.
    #[must_use]
    pub fn is_revoked(&self, node: NodeId) -> bool {
        self.revoked.contains(&node)
    }

    /// The current list.
    #[must_use]
    pub fn revoked(&self) -> &BTreeSet<NodeId> {
        &self.revoked
    }

    /// True if the node is a member, not revoked, and its time has not run out.
    #[must_use]
    pub fn in_good_standing(&self, node: NodeId, wall: WallTime) -> bool {
        !self.is_revoked(node) && self.membership(node).is_some_and(|m| !is_expired(m, wall))
    }

    /// Reachable members that have a port on the network, this node not among them.
    pub fn members_with_network(&self, vni: Vni) -> impl Iterator<Item = NodeId> {
        let (low, high) = (
            RecordKey::Node(NodeId([0; 32])),
            RecordKey::Node(NodeId([0xff; 32])),
        );
        self.records
            .range(low..=high)
            .filter_map(move |(_, entry)| match &entry.record {
                Record::Node(a) => (a.node != self.me
                    && a.networks.binary_search(&vni).is_ok()
                    && self.reachable(a.node))
                .then_some(a.node),
                _ => None,
            })
    }

    // ---- networks --------------------------------------------------------------------------------------------------

    fn all_networks(&self) -> impl Iterator<Item = &NetworkDef> {
        // Between the list of revocations and the adverts.
        let (low, high) = (RecordKey::Revocations, RecordKey::Node(NodeId([0; 32])));
        self.records
            .range(low..high)
            .filter_map(|(_, entry)| match &entry.record {
                Record::Network(def) => Some(def),
                _ => None,
            })
    }

    /// The network in force, by name or VNI.
    #[must_use]
    pub fn network(&self, text: &str) -> Option<&NetworkDef> {
        let by_name = self.networks().find(|def| def.name.as_str() == text);
        by_name.or_else(|| self.network_by_vni(Vni::new(text.parse().ok()?).ok()?))
    }

    /// The network in force.
    #[must_use]
    pub fn network_by_vni(&self, vni: Vni) -> Option<&NetworkDef> {
        self.network_of(*self.in_force.get(&vni)?, vni)
    }

    /// An author's definition, in force or not, removed or not.
    #[must_use]
    pub fn network_of(&self, author: NodeId, vni: Vni) -> Option<&NetworkDef> {
        match &self.records.get(&RecordKey::Network(author, vni))?.record {
            Record::Network(def) => Some(def),
            _ => None,
        }
    }

    /// All that this node ever defined and that is kept, removed ones too.
    pub fn own_networks(&self) -> impl Iterator<Item = &NetworkDef> + Clone {
        let (low, high) = (RecordKey::Revocations, RecordKey::Node(NodeId([0; 32])));
        self.records
            .range(low..high)
            .filter_map(|(_, entry)| match &entry.record {
                Record::Network(def) if def.author == self.me => Some(def),
                _ => None,
            })
    }

    /// The networks in force, by VNI.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkDef> + Clone {
        self.in_force
            .iter()
            .filter_map(|(&vni, &author)| self.network_of(author, vni))
    }

    // ---- endpoints -------------------------------------------------------------------------------------------------

    fn endpoints_of(&self, node: NodeId) -> impl Iterator<Item = &Endpoints> {
        let low = Vni::new(1).map(|vni| RecordKey::Endpoints(node, vni));
        low.into_iter()
            .flat_map(|low| self.records.range(low..))
            .map_while(move |(_, entry)| match &entry.record {
                Record::Endpoints(e) if e.node == node => Some(e),
                _ => None,
            })
    }

    /// True if this node has a record of endpoints on the network.
    #[must_use]
    pub fn advertises(&self, vni: Vni) -> bool {
        self.records
            .contains_key(&RecordKey::Endpoints(self.me, vni))
    }

    fn endpoint(&self, node: NodeId, vni: Vni, mac: MacAddr) -> Option<&Endpoint> {
        match &self.records.get(&RecordKey::Endpoints(node, vni))?.record {
            Record::Endpoints(e) => e
                .list
                .binary_search_by_key(&mac, |endpoint| endpoint.mac)
                .ok()
                .and_then(|at| e.list.get(at)),
            _ => None,
        }
    }

    fn holder(&self, vni: Vni, claim: &Claim) -> Option<(NodeId, &Endpoint)> {
        let (node, mac) = self.claims.holder(vni, claim)?;
        Some((node, self.endpoint(node, vni, mac)?))
    }

    /// Winners of their MAC among reachable nodes (this one among them), by MAC. Of an endpoint's addresses and name some
    /// may belong to another: ask [`Self::ip`] and [`Self::name`].
    pub fn endpoints(&self, vni: Vni) -> impl Iterator<Item = (NodeId, &Endpoint)> {
        self.claims
            .held(vni)
            .filter_map(move |(claim, node, mac)| match claim {
                Claim::Mac(_) => Some((node, self.endpoint(node, vni, mac)?)),
                _ => None,
            })
    }

    /// Who has the MAC.
    #[must_use]
    pub fn mac(&self, vni: Vni, mac: MacAddr) -> Option<(NodeId, &Endpoint)> {
        self.holder(vni, &Claim::Mac(mac))
    }

    /// Who has the address.
    #[must_use]
    pub fn ip(&self, vni: Vni, ip: IpAddr) -> Option<(NodeId, &Endpoint)> {
        self.holder(vni, &Claim::Ip(ip))
    }

    /// Who has the name.
    #[must_use]
    pub fn name(&self, vni: Vni, name: &Label) -> Option<(NodeId, &Endpoint)> {
        self.holder(vni, &Claim::Name(name.clone()))
    }

    /// Winners of addresses, by address.
    pub fn ips(&self, vni: Vni) -> impl Iterator<Item = (IpAddr, NodeId, &Endpoint)> {
        self.claims
            .held(vni)
            .filter_map(move |(claim, node, mac)| match claim {
                Claim::Ip(ip) => Some((*ip, node, self.endpoint(node, vni, mac)?)),
                _ => None,
            })
    }

    /// Winners of names, by name.
    pub fn names(&self, vni: Vni) -> impl Iterator<Item = (&Label, NodeId, &Endpoint)> {
        self.claims
            .held(vni)
            .filter_map(move |(claim, node, mac)| match claim {
                Claim::Name(name) => Some((name, node, self.endpoint(node, vni, mac)?)),
                _ => None,
            })
    }

    /// Endpoints and networks that lost, now.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.claims
            .conflicts()
            .chain(self.network_conflicts.iter().cloned())
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
mod tests {
    use super::*;
    use crate::ident::Moment;
    use crate::testing::FakeKeyring;
    use proptest::prelude::*;

    fn at(ms: u64) -> Now {
        Now {
            moment: Moment::default().plus_ms(ms),
            wall: WallTime(1_000_000 + ms),
        }
    }

    fn vni(n: u32) -> Vni {
        Vni::new(n).unwrap()
    }

    fn mac(n: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, n])
    }

    fn node(n: u64) -> NodeId {
        FakeKeyring::member(1, n).node()
    }

    fn membership(n: u64, role: Role, expires: Option<WallTime>) -> Signed {
        let root = FakeKeyring::root(1);
        let name: Label = format!("n{n}").parse().unwrap();
        Record::Membership(Membership {
            mesh: root.mesh(),
            node: node(n),
            name,
            role,
            labels: BTreeMap::new(),
            serial: 1,
            issued: WallTime(0),
            expires,
        })
        .sign(root.mesh(), &root)
        .unwrap()
    }

    fn revocations(serial: u64, nodes: &[u64]) -> Signed {
        let root = FakeKeyring::root(1);
        let mut nodes: Vec<NodeId> = nodes.iter().map(|&n| node(n)).collect();
        nodes.sort();
        Record::Revocations(Revocations {
            mesh: root.mesh(),
            serial,
            nodes,
        })
        .sign(root.mesh(), &root)
        .unwrap()
    }

    fn endpoint(n: u8) -> Endpoint {
        Endpoint {
            mac: mac(n),
            ips: vec![IpAddr::from([10, 0, 0, n])],
            name: Some(format!("c{n}").parse().unwrap()),
            labels: BTreeMap::new(),
            since: WallTime(5),
        }
    }

    fn endpoints(n: u64, serial: u64, list: Vec<Endpoint>) -> Signed {
        let keys = FakeKeyring::member(1, n);
        Record::Endpoints(Endpoints {
            node: node(n),
            vni: vni(7),
            serial,
            list,
        })
        .sign(keys.mesh(), &keys)
        .unwrap()
    }

    fn network(author: u64, number: u32, name: &str, since: u64) -> Signed {
        let keys = FakeKeyring::member(1, author);
        Record::Network(NetworkDef {
            author: node(author),
            serial: 1,
            since: WallTime(since),
            vni: vni(number),
            name: name.parse().unwrap(),
            subnets: vec![],
            mtu: 1450,
            removed: false,
        })
        .sign(keys.mesh(), &keys)
        .unwrap()
    }

    /// The directory of node 1, which knows members 1 to 4; 1 and 2 are admins.
    fn directory_of(n: u64) -> Directory {
        let keys = FakeKeyring::member(1, n);
        let mut directory = Directory::new(keys.mesh(), Arc::new(keys), &[], at(0));
        for m in 1..=4 {
            let role = if m <= 2 { Role::Admin } else { Role::Member };
            let mut out = Outbox::default();
            directory
                .accept(&membership(m, role, None), None, at(0), &mut out)
                .unwrap();
        }
        directory
    }

    fn take(directory: &mut Directory, signed: &Signed) -> Result<bool, AcceptError> {
        directory.accept(signed, None, at(10), &mut Outbox::default())
    }

    #[test]
    fn only_members_are_believed_and_only_about_themselves() {
        let mut directory = directory_of(1);
        assert_eq!(
            take(&mut directory, &endpoints(3, 1, vec![endpoint(1)])),
            Ok(true)
        );
        assert_eq!(
            take(&mut directory, &endpoints(9, 1, vec![endpoint(2)])),
            Err(AcceptError::Stranger(node(9)))
        );
        // Member 4 signs what member 3 would say.
        let honest = endpoints(3, 2, vec![endpoint(4)]);
        let forger = FakeKeyring::member(1, 4);
        let message = [
            b"meshd record v1\0".as_slice(),
            &forger.mesh().0,
            &honest.body,
        ]
        .concat();
        let forged = Signed {
            signature: forger.sign(&message).into(),
            ..honest
        };
        assert!(matches!(
            take(&mut directory, &forged),
            Err(AcceptError::Record(RecordError::Signature(_)))
        ));
    }

    #[test]
    fn the_newest_serial_counts_and_an_old_one_is_no_news() {
        let mut directory = directory_of(1);
        directory.set_reachable(node(3), true, &mut Outbox::default());
        assert_eq!(
            take(&mut directory, &endpoints(3, 5, vec![endpoint(1)])),
            Ok(true)
        );
        assert_eq!(
            take(&mut directory, &endpoints(3, 5, vec![endpoint(1)])),
            Ok(false)
        );
        assert_eq!(
            take(&mut directory, &endpoints(3, 4, vec![endpoint(2)])),
            Ok(false)
        );
        assert_eq!(
            directory
                .endpoints(vni(7))
                .map(|(n, e)| (n, e.mac))
                .collect::<Vec<_>>(),
            [(node(3), mac(1))]
        );
        assert_eq!(
            take(&mut directory, &endpoints(3, u64::MAX, vec![])),
            Ok(true)
        );
        assert_eq!(directory.endpoints(vni(7)).count(), 0);
    }

    #[test]
    fn revocation_removes_all_that_a_node_said_and_nothing_comes_back() {
        let mut directory = directory_of(1);
        directory.set_reachable(node(2), true, &mut Outbox::default());
        take(&mut directory, &endpoints(2, 1, vec![endpoint(1)])).unwrap();
        take(&mut directory, &network(2, 7, "red", 1)).unwrap();
        assert!(directory.network("red").is_some());
        directory.take_changes();
        take(&mut directory, &revocations(1, &[2])).unwrap();
        assert!(directory.take_changes().contains(&Change::Revoked(node(2))));
        assert_eq!(directory.endpoints(vni(7)).count(), 0);
        assert!(directory.network("red").is_none() && directory.member(node(2)).is_none());
        assert_eq!(
            take(&mut directory, &membership(2, Role::Admin, None)),
            Err(AcceptError::Revoked(node(2)))
        );
        assert_eq!(
            take(&mut directory, &endpoints(2, 9, vec![endpoint(1)])),
            Err(AcceptError::Revoked(node(2)))
        );
    }

    #[test]
    fn an_expired_member_is_not_believed_any_more() {
        let mut directory = directory_of(1);
        take(
            &mut directory,
            &membership(5, Role::Member, Some(WallTime(1_002_000))),
        )
        .unwrap();
        directory.set_reachable(node(5), true, &mut Outbox::default());
        assert_eq!(
            take(&mut directory, &endpoints(5, 1, vec![endpoint(1)])),
            Ok(true)
        );
        assert_eq!(directory.endpoints(vni(7)).count(), 1);
        let late = at(2_000);
        directory.expire(late, &mut Outbox::default());
        assert_eq!(directory.endpoints(vni(7)).count(), 0);
        let again = directory.accept(
            &endpoints(5, 2, vec![endpoint(1)]),
            None,
            late,
            &mut Outbox::default(),
        );
        assert_eq!(again, Err(AcceptError::Expired(node(5))));
    }

    #[test]
    fn networks_are_defined_by_admins_and_of_two_of_one_name_the_older_holds() {
        let mut directory = directory_of(1);
        assert_eq!(
            take(&mut directory, &network(3, 7, "red", 1)),
            Err(AcceptError::NotAdmin(node(3)))
        );
        take(&mut directory, &network(1, 7, "red", 50)).unwrap();
        let mut out = Outbox::default();
        directory
            .accept(&network(2, 8, "red", 40), None, at(10), &mut out)
            .unwrap();
        assert_eq!(directory.network("red").unwrap().author, node(2));
        assert!(directory.network_by_vni(vni(7)).is_none());
        let told = core::iter::from_fn(|| out.pop())
            .filter(|o| matches!(o, Output::Notice(Notice::NetworkConflict { .. })))
            .count();
        assert_eq!((told, directory.conflicts().count()), (1, 1));
    }

    #[test]
    fn an_endpoint_is_found_by_mac_address_and_name_while_its_node_is_reachable() {
        let mut directory = directory_of(1);
        take(
            &mut directory,
            &endpoints(3, 1, vec![endpoint(1), endpoint(2)]),
        )
        .unwrap();
        assert!(directory.mac(vni(7), mac(1)).is_none());
        directory.set_reachable(node(3), true, &mut Outbox::default());
        assert_eq!(directory.mac(vni(7), mac(1)).unwrap().0, node(3));
        assert_eq!(
            directory.ip(vni(7), [10, 0, 0, 2].into()).unwrap().1.mac,
            mac(2)
        );
        assert_eq!(
            directory
                .name(vni(7), &"c2".parse().unwrap())
                .unwrap()
                .1
                .mac,
            mac(2)
        );
        assert_eq!(
            (
                directory.ips(vni(7)).count(),
                directory.names(vni(7)).count()
            ),
            (2, 2)
        );
        assert!(directory.mac(vni(8), mac(1)).is_none());
        directory.set_reachable(node(3), false, &mut Outbox::default());
        assert!(directory.ip(vni(7), [10, 0, 0, 2].into()).is_none());
    }

    #[test]
    fn a_node_that_lost_its_state_goes_on_above_its_old_records() {
        let mut before = directory_of(1);
        let say = |networks| {
            Record::Node(NodeAdvert {
                node: node(1),
                serial: 0,
                boot: 1,
                addresses: vec![],
                networks,
                version: String::new(),
            })
        };
        for n in 1..=5 {
            before
                .publish(say(vec![vni(n)]), at(0), &mut Outbox::default())
                .unwrap();
        }
        let old = before.signed(&RecordKey::Node(node(1))).unwrap().clone();
        let mut after = directory_of(1);
        after
            .publish(say(vec![vni(9)]), at(0), &mut Outbox::default())
            .unwrap();
        take(&mut after, &old).unwrap();
        let advert = after.advert(node(1)).unwrap();
        assert_eq!(
            (advert.serial, advert.networks.as_slice()),
            (6, [vni(9)].as_slice())
        );
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart() {
        let mut out = Outbox::default();
        let mut directory = directory_of(1);
        directory
            .accept(&network(2, 7, "red", 1), None, at(0), &mut out)
            .unwrap();
        directory
            .accept(&endpoints(3, 1, vec![endpoint(1)]), None, at(0), &mut out)
            .unwrap();
        let list = vec![endpoint(9)];
        directory
            .publish(
                Record::Endpoints(Endpoints {
                    node: node(1),
                    vni: vni(7),
                    serial: 0,
                    list,
                }),
                at(0),
                &mut out,
            )
            .unwrap();
        let kept = core::iter::from_fn(|| out.pop()).filter_map(|o| match o {
            Output::Persist { key, value } => Some((key, value.unwrap())),
            _ => None,
        });
        let mut state: Vec<_> = kept.collect();
        state.extend((1..=3).filter_map(|m| state_of(&membership(m, Role::Admin, None))));
        state.push((b"foreign".to_vec(), b"\xff".to_vec()));
        let keys = FakeKeyring::member(1, 1);
        let again = Directory::new(keys.mesh(), Arc::new(keys), &state, at(9));
        assert!(again.network("red").is_some());
        assert_eq!(
            again.endpoints(vni(7)).map(|(n, _)| n).collect::<Vec<_>>(),
            [node(1)]
        );
    }

    #[test]
    fn one_node_cannot_fill_the_directory() {
        let mut directory = directory_of(1);
        let many = |from: u16, count: u16| -> Vec<Endpoint> {
            (from..from + count)
                .map(|n| {
                    let [a, b] = n.to_be_bytes();
                    Endpoint {
                        mac: MacAddr([2, 0, 0, 0, a, b]),
                        ips: vec![],
                        name: None,
                        labels: BTreeMap::new(),
                        since: WallTime(1),
                    }
                })
                .collect()
        };
        assert_eq!(
            take(&mut directory, &endpoints(3, 1, many(0, 4096))),
            Ok(true)
        );
        let keys = FakeKeyring::member(1, 3);
        let more = Record::Endpoints(Endpoints {
            node: node(3),
            vni: vni(8),
            serial: 1,
            list: many(5000, 1),
        })
        .sign(keys.mesh(), &keys)
        .unwrap();
        assert!(matches!(
            take(&mut directory, &more),
            Err(AcceptError::Full(_))
        ));
    }

    fn exchange(a: &Directory, b: &mut Directory, chunk: usize) {
        for (from, to, _) in a.digest_in_chunks(chunk) {
            for records in a.newer_than(from, to, &b.digest_of(from, to)) {
                for signed in records {
                    let _ = take(b, &signed);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_digest_each_way_makes_two_directories_equal(
            said in prop::collection::vec((1u64..=4, 1u64..6, 0u8..4, any::<bool>()), 0..40),
            chunk in 1usize..6,
        ) {
            let (mut a, mut b) = (directory_of(1), directory_of(2));
            let mut lost: BTreeMap<(u64, u64), u8> = BTreeMap::new();
            for (who, serial, what, to_a) in said {
                let known = *lost.entry((who, serial)).or_insert(what);
                // What these two said themselves is told by `reclaim`, another story.
                if who > 2 {
                    let _ = take(if to_a { &mut a } else { &mut b }, &endpoints(who, serial, vec![endpoint(known)]));
                }
            }
            if a.summary() != b.summary() {
                exchange(&a, &mut b, chunk);
                exchange(&b, &mut a, chunk);
            }
            prop_assert_eq!(a.summary(), b.summary());
            prop_assert_eq!(a.digest(), b.digest());
        }
    }

    #[test]
    fn an_author_that_says_two_things_with_one_serial_is_heard_alike_everywhere() {
        let (mut a, mut b) = (directory_of(1), directory_of(2));
        take(&mut a, &endpoints(3, 1, vec![endpoint(1)])).unwrap();
        take(&mut b, &endpoints(3, 1, vec![endpoint(2)])).unwrap();
        assert_ne!(a.summary(), b.summary());
        exchange(&a, &mut b, 100);
        exchange(&b, &mut a, 100);
        assert_eq!(a.summary(), b.summary());
    }
}
