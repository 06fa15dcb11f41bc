//! Where the copies that other nodes mirror to this one leave: the ports with the label `meshd.monitor=true`.
//!
//! ```text
//!   member --copy of a frame--> its lane here --member of the network?--> monitor ports, past the switch
//! ```
//!
//! Owns who agrees to take copies, and whose. Refuses to look at one: a copy is not learned from, asked about, flooded or
//! mirrored again, so the shell hands it to the ports and to nothing else.

use super::Switch;
use crate::ident::{NodeId, PortId, Vni};
use crate::node::Output as Out;
use crate::outbox::Outbox;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// With the value `true`, what other nodes mirror to this one leaves by the port with it.
pub const MONITOR_LABEL: &str = "meshd.monitor";

/// True if `labels` make a port one that takes copies.
#[must_use]
pub fn is_monitor(labels: &BTreeMap<String, String>) -> bool {
    labels
        .get(MONITOR_LABEL)
        .is_some_and(|value| value == "true")
}

/// Where what other nodes mirror to this one leaves, on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// Each of these ports gets a copy.
    pub ports: BTreeSet<PortId>,
    /// If it comes from one of these.
    pub members: BTreeSet<NodeId>,
}

impl Switch {
    /// Says where copies of other nodes leave, if that is another place than before.
    pub(super) fn tell_monitor(&mut self, vni: Vni, out: &mut Outbox) {
        let now = self.networks.get(&vni).and_then(|network| {
            let ports = network.ports.values().filter(|face| face.monitor);
            let ports: BTreeSet<PortId> = ports.map(|face| face.port).collect();
            let members = network.members.clone();
            (!ports.is_empty()).then_some(Monitor { ports, members })
        });
        if self.monitors.get(&vni) == now.as_ref() {
            return;
        }
        match &now {
            Some(now) => self.monitors.insert(vni, now.clone()),
            None => self.monitors.remove(&vni),
        };
        out.push(Out::Monitor { vni, monitor: now });
    }
}
