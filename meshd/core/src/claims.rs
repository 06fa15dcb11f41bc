//! Claims: of several nodes that say "this is mine", one is believed.

use crate::ident::{Label, MacAddr, NodeId, Vni};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What only one node can have on a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// A MAC.
    Mac(MacAddr),
    /// An address.
    Ip(IpAddr),
    /// A name.
    Name(Label),
    /// The network itself, by VNI or name.
    Network(Label),
}

/// Two say it is theirs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conflict {
    /// The network.
    pub vni: Vni,
    /// What.
    pub claim: Claim,
    /// Who is believed.
    pub holder: NodeId,
    /// Who is not.
    pub other: NodeId,
}
