//! The directory: who is a member, which networks there are, who owns which MAC, IP and name; all from signed records.

use crate::claims::Conflict;
use crate::ident::{Label, MacAddr, NodeId, Vni};
use crate::wire::record::{Endpoint, Membership, NetworkDef, NodeAdvert};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

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

/// The replicated set.
#[derive(Default)]
pub struct Directory {}

impl Directory {
    /// Winners of their MAC among reachable nodes, by MAC.
    pub fn endpoints(&self, _vni: Vni) -> impl Iterator<Item = (NodeId, &Endpoint)> {
        core::iter::empty()
    }
    /// Who has the MAC.
    #[must_use]
    pub fn mac(&self, _vni: Vni, _mac: MacAddr) -> Option<(NodeId, &Endpoint)> {
        None
    }
    /// Who has the address.
    #[must_use]
    pub fn ip(&self, _vni: Vni, _ip: IpAddr) -> Option<(NodeId, &Endpoint)> {
        None
    }
    /// Who has the name.
    #[must_use]
    pub fn name(&self, _vni: Vni, _name: &Label) -> Option<(NodeId, &Endpoint)> {
        None
    }
    /// Winners of addresses, by address.
    pub fn ips(&self, _vni: Vni) -> impl Iterator<Item = (IpAddr, NodeId, &Endpoint)> {
        core::iter::empty()
    }
    /// Winners of names, by name.
    pub fn names(&self, _vni: Vni) -> impl Iterator<Item = (&Label, NodeId, &Endpoint)> {
        core::iter::empty()
    }
    /// Endpoints and networks that lost, now.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        core::iter::empty()
    }
    /// Reachable members that have a port on the network, this node not among them.
    pub fn members_with_network(&self, _vni: Vni) -> impl Iterator<Item = NodeId> {
        core::iter::empty()
    }
    /// Members in good standing.
    pub fn members(&self) -> impl Iterator<Item = &Membership> {
        core::iter::empty()
    }
    /// A member in good standing.
    #[must_use]
    pub fn member(&self, _node: NodeId) -> Option<&Membership> {
        None
    }
    /// By name, id, or a prefix of the id of at least 6 characters; none if the prefix is ambiguous.
    #[must_use]
    pub fn find_member(&self, _text: &str) -> Option<&Membership> {
        None
    }
    /// What a member says of itself.
    #[must_use]
    pub fn advert(&self, _node: NodeId) -> Option<&NodeAdvert> {
        None
    }
    /// True if the node has a proven session, or others say it is alive, or it is this one.
    #[must_use]
    pub fn reachable(&self, _node: NodeId) -> bool {
        false
    }
    /// True if the key is on the list.
    #[must_use]
    pub fn is_revoked(&self, _node: NodeId) -> bool {
        false
    }
    /// The network in force, by name or VNI.
    #[must_use]
    pub fn network(&self, _text: &str) -> Option<&NetworkDef> {
        None
    }
    /// The network in force.
    #[must_use]
    pub fn network_by_vni(&self, _vni: Vni) -> Option<&NetworkDef> {
        None
    }
    /// The networks in force, by VNI.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkDef> {
        core::iter::empty()
    }
}
