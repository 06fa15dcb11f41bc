//! How a config declares groups. The host reads the key `groups` of every config, so a policy that uses them has the field
//!
//! ```
//! use meshd_sdk::prelude::*;
//!
//! #[derive(Config)]
//! struct Balancer {
//!     /// Where flows may go.
//!     #[config(default = [])]
//!     groups: Vec<Group>,
//! }
//! ```
//!
//! and says [`to_group(0)`](crate::to_group) for the first of them.

use crate::{Mac, Peer};

/// Several ways, of which each flow takes one.
#[derive(Clone, Debug, PartialEq, Eq, crate::Config)]
pub struct Group {
    /// 1 to 32 letters, digits, `-`, `_` or `.`; traces name it behind the plugin.
    pub name: String,
    /// How one is chosen.
    #[config(default = "select")]
    pub kind: GroupKind,
    /// The ways; at most 64.
    pub buckets: Vec<Bucket>,
}

/// How a group chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, crate::Config)]
pub enum GroupKind {
    /// By the hash of the flow; a flow stays on its way while that is there.
    Select,
    /// The first that is there.
    Failover,
}

/// One way: a port, a member, nowhere, or, with `set-dst-mac` alone, to where that MAC is.
#[derive(Clone, Debug, PartialEq, Eq, crate::Config)]
pub struct Bucket {
    /// A port of this node.
    pub port: Option<u32>,
    /// A member.
    pub peer: Option<Peer>,
    /// Nowhere.
    #[config(default = false)]
    pub drop: bool,
    /// The destination that a frame gets on this way.
    pub set_dst_mac: Option<Mac>,
    /// Its share; 0: it is not used.
    #[config(default = 1)]
    pub weight: u16,
}

/// Who gets a flood that a policy sends to [`flood_set`](crate::flood_set): the key `flood-sets` of a config is a list of these.
#[derive(Clone, Debug, PartialEq, Eq, crate::Config)]
pub struct FloodReceivers {
    /// 1 to 32 letters, digits, `-`, `_` or `.`, for people.
    pub name: String,
    /// Ports of this node.
    #[config(default = [])]
    pub ports: Vec<u32>,
    /// Members.
    #[config(default = [])]
    pub peers: Vec<Peer>,
}
