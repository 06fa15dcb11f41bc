//! Reading the directory: members, networks, and the winners among endpoints. Changes nothing.

use super::{Directory, is_expired};
use crate::claims::{Claim, Conflict};
use crate::ident::{Label, MacAddr, NodeId, Vni, WallTime};
use crate::wire::record::{
    Endpoint, Endpoints, Membership, NetworkDef, NodeAdvert, Record, RecordKey, Service, Signed,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Characters of an id's beginning that can stand for it, at least.
const PREFIX_MIN: usize = 6;
/// As many as [`NodeId::short`] shows.
const SHOWN: usize = 8;

impl Directory {
    // ---- members ---------------------------------------------------------------------------------------------------

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    pub(super) fn membership(&self, node: NodeId) -> Option<&Membership> {
        match &self.records.get(&RecordKey::Membership(node))?.record {
            Record::Membership(m) => Some(m),
            _ => None,
        }
    }

    pub(super) fn all_memberships(&self) -> impl Iterator<Item = &Membership> {
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

    /// By id, a prefix of the id as long as people are shown it, name, or a shorter prefix of at least 6 characters; none if
    /// the prefix is ambiguous. Ids go first, and a whole one is never a name: who joins says what it wants to be called.
    #[must_use]
    pub fn find_member(&self, text: &str) -> Option<&Membership> {
        if let Ok(node) = text.parse::<NodeId>() {
            return self.membership(node);
        }
        let mut fitting = self
            .all_memberships()
            .filter(|m| text.len() >= PREFIX_MIN && m.node.to_string().starts_with(text));
        let (first, second) = (fitting.next(), fitting.next());
        if text.len() < SHOWN || first.is_none() {
            let named = self.all_memberships().find(|m| m.name.as_str() == text);
            if named.is_some() {
                return named;
            }
        }
        first.filter(|_| second.is_none())
    }

    /// True if no member is called so, and the id of none, nor of one that was revoked, begins so.
    #[must_use]
    pub fn name_is_free(&self, name: &Label) -> bool {
        let text = name.as_str();
        let of_an_id =
            |node: NodeId| text.len() >= PREFIX_MIN && node.to_string().starts_with(text);
        let taken = |m: &Membership| m.name == *name || of_an_id(m.node);
        !self.all_memberships().any(taken) && !self.revoked.iter().any(|&node| of_an_id(node))
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

    /// What answers at addresses of hosts in reach, this one among them: name and addresses, of each node by itself.
    pub fn services(&self) -> impl Iterator<Item = (NodeId, &Service)> {
        let (low, high) = (
            RecordKey::Node(NodeId([0; 32])),
            RecordKey::Node(NodeId([0xff; 32])),
        );
        let adverts = self.records.range(low..=high);
        let adverts = adverts.filter_map(|(_, entry)| match &entry.record {
            Record::Node(advert) if self.reachable(advert.node) => Some(advert),
            _ => None,
        });
        adverts.flat_map(|advert| advert.services.iter().map(|service| (advert.node, service)))
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

    pub(super) fn all_networks(&self) -> impl Iterator<Item = &NetworkDef> {
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

    pub(super) fn endpoints_of(&self, node: NodeId) -> impl Iterator<Item = &Endpoints> {
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
