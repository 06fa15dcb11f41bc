//! Services of the hosts: whose word counts on this node, and where several nodes mean different things by one name.
//!
//! ```text
//!   adverts of nodes in reach --rules of this node's config--> what names are answered by (`names.rs`)
//!                                   | not listed: told once        | other addresses at another node: told once
//!                                                                  | the name of a network: told once, and not answered
//! ```
//!
//! Owns the choice. Whoever is a member may say anything of himself; a mesh whose members do not trust each other lists who may
//! have which name. Refuses to judge addresses: of those whose word counts they are joined.

use crate::directory::Directory;
use crate::ident::{Label, NodeId};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::wire::record::Service;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Who may have which name, by this node's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRules {
    /// Names of services, each with the nodes that may advertise it: a member's name, its id, or how that begins.
    pub nodes: BTreeMap<Label, BTreeSet<String>>,
    /// Names that are not listed are nobody's.
    pub only_listed: bool,
}

impl ServiceRules {
    /// Does the word of `node` about `name` count?
    #[must_use]
    pub fn allow(&self, name: &Label, node: NodeId, directory: &Directory) -> bool {
        let is_it = |text: &String| {
            let found = directory.find_member(text);
            found.is_some_and(|member| member.node == node)
        };
        match self.nodes.get(name) {
            Some(nodes) => nodes.iter().any(is_it),
            None => !self.only_listed,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Services {
    rules: ServiceRules,
    counted: Vec<(NodeId, Service)>,
    /// Told, and still so.
    refused: BTreeSet<(NodeId, Label)>,
    differing: BTreeSet<(Label, NodeId, NodeId)>,
    hidden: BTreeSet<(NodeId, Label)>,
}

impl Services {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(rules: ServiceRules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Other rules hold from now on; [`Self::look`] applies them.
    pub fn set_rules(&mut self, rules: ServiceRules) {
        self.rules = rules;
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &ServiceRules {
        &self.rules
    }

    /// What counts, in the order of nodes and names.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.counted.iter().map(|(_, service)| service)
    }

    /// Looks at what nodes say. True if something else counts than before.
    pub fn look(&mut self, directory: &Directory, out: &mut Outbox) -> bool {
        let (mut counted, mut refused) = (Vec::new(), BTreeSet::new());
        for (node, service) in directory.services() {
            match self.rules.allow(&service.name, node, directory) {
                true => counted.push((node, service.clone())),
                false => {
                    refused.insert((node, service.name.clone()));
                }
            }
        }
        for (node, name) in refused.difference(&self.refused) {
            out.push(Output::Notice(Notice::ServiceRefused {
                name: name.to_string(),
                node: *node,
            }));
        }
        self.refused = refused;
        let differing = differing(&counted);
        for (name, holder, other) in differing.difference(&self.differing) {
            out.push(Output::Notice(Notice::ServiceDiffers {
                name: name.to_string(),
                holder: *holder,
                other: *other,
            }));
        }
        self.differing = differing;
        let networks: BTreeSet<&Label> = directory.networks().map(|def| &def.name).collect();
        let names = counted.iter().map(|(node, service)| (*node, &service.name));
        let hidden: BTreeSet<(NodeId, Label)> = names
            .filter(|(_, name)| networks.contains(name))
            .map(|(node, name)| (node, name.clone()))
            .collect();
        for (node, name) in hidden.difference(&self.hidden) {
            out.push(Output::Notice(Notice::ServiceHidden {
                name: name.to_string(),
                node: *node,
            }));
        }
        self.hidden = hidden;
        let is_new = counted != self.counted;
        self.counted = counted;
        is_new
    }
}

/// Names under which a node has no address in common with the first that has the name.
fn differing(counted: &[(NodeId, Service)]) -> BTreeSet<(Label, NodeId, NodeId)> {
    let mut first: BTreeMap<&Label, &(NodeId, Service)> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for entry in counted {
        let (holder, known) = first.entry(&entry.1.name).or_insert(entry);
        if entry.1.ips.iter().all(|ip| !known.ips.contains(ip)) {
            all.insert((entry.1.name.clone(), *holder, entry.0));
        }
    }
    all
}
