//! What an operator reads of kernel paths. Instants are [`Moment`]s; the node turns them into times of day.

use super::Reason;
use crate::ident::{Moment, NodeId, Vni};
use crate::offload::KernelTraffic;
use serde::{Deserialize, Serialize};

/// How a kernel path is, seen from this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum PathState {
    /// It cannot be; nothing is sent.
    Ineligible,
    /// Probes are sent, data is not.
    Proving,
    /// Data is sent.
    Up,
    /// It failed and is left alone for a while.
    Held,
}

/// A path became another, or what is wrong with it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    pub at: Moment,
    /// What it was.
    pub from: PathState,
    /// What it is now.
    pub to: PathState,
    /// Why.
    pub reason: Reason,
    /// A sentence with figures. Nothing that a peer chose but numbers is in it.
    pub evidence: String,
}

/// One kernel path, for `meshd paths`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathView {
    /// The peer.
    pub peer: NodeId,
    /// The network.
    pub vni: Vni,
    /// How it is.
    pub state: PathState,
    /// Why.
    pub reason: Reason,
    /// A sentence with figures.
    pub evidence: String,
    /// Since when state and reason hold.
    pub since: Moment,
    /// Did data go one way or the other in the last two seconds?
    pub active: bool,
    /// Smoothed round trip of probes, without the time that the peer took to answer.
    pub rtt_us: Option<u64>,
    /// Proved: the network's while up; less if a hole was measured.
    pub path_mtu: Option<u16>,
    /// Probes lost on the way there, in a million, of the last hundred whose fate is known.
    pub loss_ppm: Option<u32>,
    /// When it will be tried again, if it is held.
    pub held_until: Option<Moment>,
    /// What the kernel forwarded since this path was made.
    pub passed: KernelTraffic,
    /// Oldest first.
    pub history: Vec<Transition>,
}
