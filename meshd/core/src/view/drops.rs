//! What `meshd drops` shows.

use crate::ident::{PortId, Vni};
use crate::ruling::DropReason;
use serde::{Deserialize, Serialize};

/// One line of `meshd drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Drops {
    /// The reason.
    pub reason: DropReason,
    /// Frames, since the daemon started; of a reason that the kernel counts, since its device or table is there.
    pub count: u64,
    /// Of them, in the last [`recent_ms`](Self::recent_ms).
    #[serde(default)]
    pub recent: u64,
    /// How long that is; 0: the daemon has not looked yet.
    #[serde(default)]
    pub recent_ms: u64,
    /// The reason, in one sentence.
    pub explanation: String,
    /// The last such frame.
    pub last: Option<DropExample>,
    /// Where they were, most first; the places with most, if there are many.
    #[serde(default)]
    pub places: Vec<DropPlace>,
}

/// Where frames were dropped, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DropPlace {
    /// The network's name, or `vni N`; absent where what was dropped did not tell.
    pub network: Option<String>,
    /// `port 3 (web.demo)`, `peer berlin`, `this node`: where they came from; absent where that is not known.
    pub origin: Option<String>,
    /// The port that they came from, if it was one.
    pub port: Option<PortId>,
    /// Frames.
    pub count: u64,
    /// Of them, lately.
    pub recent: u64,
}

/// A frame that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DropExample {
    /// When.
    pub at_ms: u64,
    /// The network's name, or `vni N`; absent where the frame did not tell.
    pub network: Option<String>,
    /// `port 3 (web.demo)` or `peer berlin`.
    pub origin: String,
    /// As [`flowtext`](crate::flowtext) writes it; absent where the frame could not be read.
    pub flow: Option<String>,
    /// What is known beyond the reason: which plugin with which words, whose address.
    pub why: Option<String>,
}

/// What came and what left on a network, as the daemon counts it: [`missing`](Self::missing) is 0, or meshd has a bug. What the
/// kernel forwards by itself is in none of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Balance {
    /// The network's name, or `vni N`; absent: what told no network.
    pub network: Option<String>,
    /// The network's segment.
    pub vni: Option<Vni>,
    /// Frames that came from ports and peers, and those that this node made.
    pub came: u64,
    /// Copies beyond the first of a frame: floods, mirrors.
    pub extra: u64,
    /// Copies that left by a port or to a peer.
    pub sent: u64,
    /// Frames that this node answered, or that were for it.
    pub answered: u64,
    /// Frames that wait for a ruling.
    pub waiting: u64,
    /// Frames and copies that were dropped.
    pub dropped: u64,
    /// `came + extra - sent - answered - waiting - dropped`.
    pub missing: i64,
}
