//! One segment, as this node has it, and who of it a frame comes from.

use crate::announce::Announcements;
use crate::fdb::{Fdb, Place};
use crate::flow::Origin;
use crate::ident::{MacAddr, NodeId, PortId};
use crate::multicast::Multicast;
use crate::neighbor::Neighbors;
use crate::switch::PortFace;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// One segment, as this node has it.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) mtu: u16,
    pub(crate) fdb: Fdb,
    pub(crate) neighbors: Neighbors,
    pub(crate) ports: BTreeMap<PortId, PortFace>,
    pub(crate) members: BTreeSet<NodeId>,
    pub(crate) announcements: Announcements,
    /// Ports that would close a loop.
    pub(crate) blocked: BTreeSet<PortId>,
    /// Who listens to which group; `None`: all get all.
    pub(crate) multicast: Option<Multicast>,
}

impl Network {
    /// Who has these addresses may be another than before.
    pub(crate) fn note_owners(&mut self, ips: impl Iterator<Item = IpAddr>) {
        let neighbors = &self.neighbors;
        for ip in ips {
            if let Some(owner) = neighbors.owner(ip) {
                self.announcements
                    .note(ip, owner.mac, |ip| neighbors.owner(ip).is_some());
            }
        }
    }

    /// The port of foreign VTEPs, if there is one.
    pub(crate) fn foreign_port(&self) -> Option<PortId> {
        let face = self.ports.values().find(|face| face.foreign.is_some());
        face.map(|face| face.port)
    }
}

/// The node that a frame comes from; `None`: from here, or from nobody knows whom.
pub(crate) fn sender(network: Option<&Network>, origin: Origin, src: MacAddr) -> Option<NodeId> {
    match origin {
        Origin::Port(_) => None,
        Origin::Peer(node) => Some(node),
        Origin::Vxlan(_) => match network?.fdb.lookup(src)? {
            Place::Node(node) => Some(node),
            Place::Port(_) | Place::Service(_) => None,
        },
    }
}
