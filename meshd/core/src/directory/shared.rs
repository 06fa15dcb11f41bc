//! What controllers share over the nodes of a network, as far as it is a matter of records: room, and who is listened to.
//!
//! Owns the bounds that keep members from growing everybody's memory, and when what others share is kept over a restart: once a
//! second, however often they change it. Refuses to know keys and values: those are of `shared.rs`.

use super::{AcceptError, Directory, state_key};
use crate::ident::{Label, NodeId, Now, Vni, WallTime};
use crate::outbox::Outbox;
use crate::state;
use crate::wire::record::{Record, RecordKey, SharedValue, SharedValues};
use std::collections::BTreeSet;

/// Plugins and networks of which one node shares or shared anything.
const NODE_SHARES_MAX: usize = 1024;
/// Bytes that one node shares in all.
const NODE_BYTES_MAX: usize = 1 << 20;
/// Bytes that all nodes of the mesh share.
const BYTES_MAX: usize = 64 << 20;

/// What the directory knows of them besides the records.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Moved by all that may change what is shared with anybody.
    pub(super) revision: u64,
    /// Those of others that are not kept yet.
    pub(super) unsaved: BTreeSet<RecordKey>,
    bytes: usize,
}

impl Shared {
    /// A record of so many bytes takes the place of one.
    pub(super) fn replace(&mut self, before: usize, after: usize) {
        self.revision += 1;
        self.bytes = self.bytes.saturating_sub(before).saturating_add(after);
    }
}

impl Directory {
    /// Moved by all that may change what [`Self::shared`] gives.
    #[must_use]
    pub fn shared_revision(&self) -> u64 {
        self.shared.revision
    }

    /// What members that are on the network share of a plugin, this node first, whether it is on it or not.
    pub fn shared(
        &self,
        vni: Vni,
        plugin: &Label,
        wall: WallTime,
    ) -> impl Iterator<Item = (NodeId, &[SharedValue])> {
        let others = self.members().map(|member| member.node);
        let others = others.filter(move |&node| {
            let there = |networks: &[Vni]| networks.binary_search(&vni).is_ok();
            node != self.me()
                && self.in_good_standing(node, wall)
                && self.advert(node).is_some_and(|a| there(&a.networks))
        });
        let all = core::iter::once(self.me()).chain(others);
        all.filter_map(move |node| {
            let key = RecordKey::Shared(node, vni, plugin.clone());
            match &self.records.get(&key)?.record {
                Record::Shared(shared) => Some((node, &shared.list[..])),
                _ => None,
            }
        })
    }

    /// All that a node shares.
    pub(crate) fn shared_of(&self, node: NodeId) -> impl Iterator<Item = &SharedValues> {
        // The least label.
        let low = "0".parse().ok().zip(Vni::new(1).ok());
        let low = low.map(|(plugin, vni)| RecordKey::Shared(node, vni, plugin));
        low.into_iter()
            .flat_map(|low| self.records.range(low..))
            .map_while(move |(_, entry)| match &entry.record {
                Record::Shared(shared) if shared.node == node => Some(shared),
                _ => None,
            })
    }

    pub(super) fn check_shared_room(&self, record: &SharedValues) -> Result<(), AcceptError> {
        let same = |other: &SharedValues| other.vni == record.vni && other.plugin == record.plugin;
        let (mut shares, mut bytes, mut before) = (1, record.bytes(), 0);
        for other in self.shared_of(record.node) {
            if same(other) {
                before = other.bytes();
            } else {
                (shares, bytes) = (shares + 1, bytes + other.bytes());
            }
        }
        let all = self.shared.bytes.saturating_sub(before) + record.bytes();
        if shares > NODE_SHARES_MAX {
            Err(AcceptError::Full(
                "the node shares values of 1024 plugins already",
            ))
        } else if bytes > NODE_BYTES_MAX {
            Err(AcceptError::Full("the node shares 1 MiB already"))
        } else if all > BYTES_MAX {
            Err(AcceptError::Full("the mesh shares 64 MiB already"))
        } else {
            Ok(())
        }
    }

    /// Says what this node shares, if there is room for it. The same again does nothing, and of what was never shared nothing
    /// need be said.
    ///
    /// # Errors
    /// It breaks a bound.
    pub(crate) fn share(
        &mut self,
        shared: SharedValues,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), AcceptError> {
        let record = Record::Shared(shared);
        if let Record::Shared(shared) = &record {
            if shared.list.is_empty() && !self.records.contains_key(&record.key()) {
                return Ok(());
            }
            self.check_shared_room(shared)?;
        }
        self.publish(record, now, out)?;
        Ok(())
    }

    pub(super) fn keep_shared(&mut self, out: &mut Outbox) {
        for key in core::mem::take(&mut self.shared.unsaved) {
            if let Some(entry) = self.records.get(&key) {
                state::keep(out, &state_key(&key), &entry.signed);
            }
        }
    }
}
