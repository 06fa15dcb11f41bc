//! Who holds what when several claim it: endpoints by [`crate::claims`], networks by age.

use super::{Change, Directory, claims_of};
use crate::attach::SHARED_LABEL;
use crate::claims::{Claim, Conflict};
use crate::ident::{Label, NodeId, Now, Vni, WallTime};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::wire::record::{Endpoint, Endpoints, NetworkDef};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Says the node that others may have it as well? A MAC is never shared: it says which endpoint is meant.
fn is_shared(endpoint: &Endpoint, claim: &Claim) -> bool {
    let says = endpoint.labels.get(SHARED_LABEL);
    says.is_some_and(|value| value == "true") && !matches!(claim, Claim::Mac(_))
}

impl Directory {
    /// Would it be no conflict if one more node shared it?
    #[must_use]
    pub fn is_shared(&self, vni: Vni, claim: &Claim) -> bool {
        self.claims.is_shared(vni, claim)
    }

    /// The addresses of an endpoint that other nodes may have as well.
    #[must_use]
    pub fn shared_ips(&self, vni: Vni, endpoint: &Endpoint) -> Vec<IpAddr> {
        let ips = endpoint.ips.iter().copied();
        let shared = |ip: &IpAddr| {
            let claim = Claim::Ip(*ip);
            is_shared(endpoint, &claim) && self.is_shared(vni, &claim)
        };
        ips.filter(shared).collect()
    }

    pub(super) fn contest(
        &mut self,
        before: &[Endpoint],
        after: &Endpoints,
        now: Now,
        out: &mut Outbox,
    ) {
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
                (endpoint.roams, is_shared(endpoint, claim)),
            );
            touched.insert(claim);
        }
        for claim in touched {
            self.decide(after.vni, claim, out);
        }
        // Labels, and which address is behind which MAC, count too.
        self.changes.insert(Change::Endpoints(after.vni));
    }

    pub(super) fn decide(&mut self, vni: Vni, claim: &Claim, out: &mut Outbox) {
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
    pub(super) fn enforce_networks(&mut self, out: &mut Outbox) {
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
}
