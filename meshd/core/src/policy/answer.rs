//! The words of an answer: a verdict, what is to be done beside it, and for which frames and how long it holds.
//!
//! Owns how the orders of one plugin and those of the next become one. Refuses to know who is asked.

use crate::dues::Dues;
use crate::edit::Edit;
use crate::flow::{Fields, FlowMask};
use crate::group::Group;
use crate::ident::{AttachmentId, PortId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a chain of plugins answers to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Pass or not.
    pub verdict: Verdict,
    /// Which bits of the key it read; the port and direction are always taken as read.
    pub mask: FlowMask,
    /// Whether the destination class was read.
    pub read_dst_class: bool,
    /// False: ask for every frame.
    pub cacheable: bool,
    /// It holds for so many ms; `None`: until the chain changes.
    pub hard_ms: Option<u32>,
    /// And for so many ms without a frame; `None`: as long as the lanes keep anything.
    pub idle_ms: Option<u32>,
    /// What else the chain wants.
    pub orders: Orders,
    /// Who was asked, and the tags by which each may take the answer back.
    pub parts: Vec<Part>,
    /// Who decided, and under which reason, for people: `acl: tcp/22 (code 1)`.
    pub why: String,
}

impl Answer {
    /// That holds for all frames, rests on nothing, and has nothing else to say.
    #[must_use]
    pub fn of(verdict: Verdict) -> Self {
        Self {
            verdict,
            mask: FlowMask::default(),
            read_dst_class: false,
            cacheable: true,
            hard_ms: None,
            idle_ms: None,
            orders: Orders::default(),
            parts: Vec::new(),
            why: String::new(),
        }
    }

    /// True if it rests on the connection of the frame, or is about it.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        let read = self.mask.fields.meets(Fields::CT.with(Fields::CT_MARK));
        read || self.orders.commit || self.orders.ct_mark.is_some()
    }
}

/// An answer that holds, shared by all who heard it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// As it was given.
    pub answer: Arc<Answer>,
    /// For so many ms from now; `None`: until the chain changes.
    pub hard_ms: Option<u32>,
}

impl From<Arc<Answer>> for Known {
    fn from(answer: Arc<Answer>) -> Self {
        let hard_ms = answer.hard_ms;
        Self { answer, hard_ms }
    }
}

/// One plugin's part in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The plugin, on this network.
    pub of: AttachmentId,
    /// Its own tags.
    pub tags: Vec<u32>,
}

/// What a chain wants of a frame besides its verdict. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// With [`Verdict::Drop`]: the sender is told, where its protocol has words for it.
    pub reject: bool,
    /// It goes there, and not where its destination MAC is. Of questions at ingress only.
    pub redirect: Option<Redirect>,
    /// It goes one of these ways, and not where its destination MAC is. Of questions at ingress only, and not beside `redirect`.
    pub group: Option<Arc<Group>>,
    /// If it is flooded, only to these; `None`: to all. Of questions at ingress only.
    pub flood: Option<FloodSet>,
    /// These get a copy, if it is forwarded at all, as it leaves.
    pub mirrors: BTreeSet<Mirror>,
    /// What is changed of it, in this order; at most [`EDITS_MAX`](crate::edit::EDITS_MAX). Of questions at ingress only.
    pub edits: Vec<Edit>,
    /// Its connection is entered in the network's table.
    pub commit: bool,
    /// Its connection, if it is in the table, gets this mark.
    pub ct_mark: Option<u32>,
    /// These controllers get a copy of it as it came in, also if it is refused.
    pub punts: Vec<Punt>,
    /// Its source, and on ARP and ND the address that it claims, are remembered for so many ms, of
    /// [`LIFE_MS`](crate::fdb::LIFE_MS). Of questions at ingress only.
    pub learn_ms: Option<u32>,
    /// What each frame is charged with and counted under. Shared state of the running node, so no part of a recording.
    #[serde(skip)]
    pub dues: Dues,
}

/// A copy of a frame as it came in, for a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Punt {
    /// Whose.
    pub to: AttachmentId,
    /// The first so many bytes; 0: all.
    pub bytes: u16,
}

impl Punt {
    /// What of the frame is copied.
    #[must_use]
    pub fn cut<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        match self.bytes {
            0 => frame,
            bytes => frame.get(..usize::from(bytes)).unwrap_or(frame),
        }
    }
}

/// A copy of a frame as it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mirror {
    /// Where it goes.
    pub to: MirrorPlace,
    /// So many bytes of the frame; 0: all.
    pub bytes: u16,
}

/// Where a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorPlace {
    /// Out of a port of this node.
    Port(PortId),
    /// To a member, by its [`NodeId::handle`]: there it leaves by the ports that take copies.
    Peer(u64),
}

/// Where a frame goes instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Redirect {
    /// Out of a port of this node.
    Port(PortId),
    /// To a member, by its [`NodeId::handle`].
    Peer(u64),
    /// To a member, by exactly this way.
    Path(NamedPath),
}

/// A way to a member, as a plugin names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPath {
    /// The member, by its [`NodeId::handle`].
    pub peer: u64,
    /// The number of the way.
    pub way: u32,
    /// What if it is dead.
    pub lost: PathLost,
}

/// What becomes of frames whose way, which policy named, is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathLost {
    /// They go by another way.
    HostChoice,
    /// They are dropped.
    Drop,
    /// The chain is asked anew; until it answers, they go by another way.
    AskAgain,
}

/// Who may get a flooded frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloodSet {
    /// Ports of this node.
    pub ports: BTreeSet<PortId>,
    /// Members, by their [`NodeId::handle`].
    pub peers: BTreeSet<u64>,
}

impl Orders {
    /// As a chain is composed: what a later plugin wants besides. The first redirect or group stays, flood sets are intersected, mirrors
    /// united, the last mark and the shortest `learn_ms` hold, and every meter, label and punt applies.
    pub fn compose(&mut self, later: &Self) {
        if self.redirect.is_none() && self.group.is_none() {
            (self.redirect, self.group) = (later.redirect, later.group.clone());
        }
        self.flood = match (self.flood.take(), &later.flood) {
            (Some(ours), Some(theirs)) => Some(FloodSet {
                ports: ours.ports.intersection(&theirs.ports).copied().collect(),
                peers: ours.peers.intersection(&theirs.peers).copied().collect(),
            }),
            (ours, theirs) => ours.or_else(|| theirs.clone()),
        };
        self.mirrors.extend(&later.mirrors);
        self.edits.extend(&later.edits);
        self.commit |= later.commit;
        self.ct_mark = later.ct_mark.or(self.ct_mark);
        self.learn_ms = [self.learn_ms, later.learn_ms].into_iter().flatten().min();
        self.punts.extend(&later.punts);
        self.dues.add(&later.dues, false);
    }

    /// What is left of them where `last`, which is composed in, refuses the frame: it is counted and punted, and nothing else
    /// is done with it.
    #[must_use]
    pub fn refused(mut self, last: &Self) -> Self {
        self.dues.forgive();
        Self {
            reject: last.reject,
            punts: self.punts,
            dues: self.dues,
            ..Self::default()
        }
    }
}

/// Composed over the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// On to the switch.
    Pass,
    /// A plugin refused.
    Drop,
    /// A plugin failed, and fails closed.
    Failed,
}
