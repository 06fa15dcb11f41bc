//! What the switch works for: networks, their ports and members, and where endpoints of others are.
//!
//! Owns the changes, each of which begins a new epoch where a ruling could have been another by it.

use super::{PortFace, RemoteEndpoint, Switch};
use crate::announce::Announcements;
use crate::fdb::{Fdb, Place};
use crate::ident::{MacAddr, Moment, NodeId, PortId, Vni};
use crate::kind::UPLINK_MACS;
use crate::neighbor::{Neighbors, Owner};
use crate::outbox::Outbox;
use crate::pipeline::Network;
use std::collections::{BTreeMap, BTreeSet};

/// Why the switch does not take a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddPortError {
    /// No such network.
    #[error("port {port}: no network has VNI {vni} here")]
    UnknownVni {
        /// The port.
        port: PortId,
        /// Its network.
        vni: Vni,
    },
    /// Another port has its MAC.
    #[error("port {port}: port {holder} has MAC {mac} already; give the port another one")]
    MacTaken {
        /// The port.
        port: PortId,
        /// The MAC.
        mac: MacAddr,
        /// Who has it.
        holder: PortId,
    },
}

impl Switch {
    /// Adds a network, or gives it another MTU.
    pub fn set_network(&mut self, vni: Vni, mtu: u16, out: &mut Outbox) {
        match self.networks.get_mut(&vni) {
            Some(network) if network.mtu == mtu => return,
            Some(network) => network.mtu = mtu,
            None => {
                let fdb = Fdb::new(self.limits.fdb);
                let network = Network {
                    mtu,
                    fdb,
                    neighbors: Neighbors::default(),
                    ports: BTreeMap::new(),
                    members: BTreeSet::new(),
                    announcements: Announcements::default(),
                    blocked: BTreeSet::new(),
                    multicast: None,
                };
                self.networks.insert(vni, network);
            }
        }
        self.new_epoch(out);
    }

    /// Forgets a network, its ports and its policy.
    pub fn remove_network(&mut self, vni: Vni, now: Moment, out: &mut Outbox) {
        if self.networks.remove(&vni).is_none() {
            return;
        }
        self.taken.remove(&vni);
        self.tell_monitor(vni, out);
        self.new_epoch(out);
        self.untrack(vni, out);
        let waiting = self.policy.set_chain(vni, 0);
        self.ask_again(waiting, now, out);
    }

    /// Adds a port, or changes one. The same again changes nothing.
    ///
    /// # Errors
    /// If there is no such network, or another port has the MAC; nothing is changed then.
    pub fn add_port(
        &mut self,
        face: PortFace,
        now: Moment,
        out: &mut Outbox,
    ) -> Result<(), AddPortError> {
        let PortFace {
            port,
            vni,
            mac,
            service,
            ..
        } = face;
        let Some(network) = self.networks.get(&vni) else {
            return Err(AddPortError::UnknownVni { port, vni });
        };
        let same = |there: &PortFace| {
            PortFace {
                since: face.since,
                ..there.clone()
            } == face
        };
        if network.ports.get(&port).is_some_and(same) {
            return Ok(());
        }
        if let Some(holder) = network
            .ports
            .values()
            .find(|p| p.mac == mac && p.port != port && mac.is_source())
        {
            return Err(AddPortError::MacTaken {
                port,
                mac,
                holder: holder.port,
            });
        }
        self.remove_port(port, now, out);
        if let Some(network) = self.networks.get_mut(&vni) {
            let place = if service {
                Place::Service(port)
            } else {
                Place::Port(port)
            };
            // Nobody holds the MAC, as was looked up above. The port of foreign VTEPs may have none of its own.
            let more = face.foreign.iter().flatten().copied();
            for mac in more.chain((mac.is_source()).then_some(mac)) {
                let _ = network.fdb.add_own(mac, place);
            }
            network.neighbors.add_local(&face.ips, Owner { mac, place });
            if let Some(uplink) = &face.uplink {
                let macs = uplink.macs.unwrap_or(UPLINK_MACS);
                network.fdb.set_room(port, macs.into());
            }
            if face.router {
                network.neighbors.add_router(port);
            }
            network.note_owners(face.ips.iter().copied());
            network.ports.insert(port, face);
            network.note_listener(port, now);
        }
        self.tell_monitor(vni, out);
        self.new_epoch(out);
        Ok(())
    }

    /// No frame enters or leaves the network by a blocked port, and what was learned behind it is forgotten.
    pub fn set_blocked(&mut self, vni: Vni, port: PortId, blocked: bool, out: &mut Outbox) {
        let Some(network) = self.networks.get_mut(&vni) else {
            return;
        };
        let changed = match blocked {
            true => network.blocked.insert(port),
            false => network.blocked.remove(&port),
        };
        if changed {
            let before = network.fdb.changes();
            network.fdb.forget_learned(port);
            self.learned |= network.fdb.changes() != before;
            self.new_epoch(out);
        }
    }

    /// Forgets a port and what was learned behind it.
    pub fn remove_port(&mut self, port: PortId, now: Moment, out: &mut Outbox) {
        let mut any = None;
        for (&vni, network) in &mut self.networks {
            if let Some(face) = network.ports.remove(&port) {
                network.fdb.remove_port(port);
                if let Some(multicast) = &mut network.multicast {
                    multicast.remove_port(port);
                }
                network.neighbors.remove_port(port);
                network.note_owners(face.ips.into_iter());
                any = Some(vni);
            }
        }
        if let Some(vni) = any {
            self.tell_monitor(vni, out);
            self.new_epoch(out);
            let waiting = self.policy.remove_port(port);
            self.ask_again(waiting, now, out);
        }
    }

    /// Says which peers have the network and can be reached: those who get a copy of what is flooded, and whose frames are
    /// taken.
    pub fn set_members(&mut self, vni: Vni, members: BTreeSet<NodeId>, out: &mut Outbox) {
        if let Some(network) = self.networks.get_mut(&vni)
            && network.members != members
        {
            network.members = members;
            if let Some(multicast) = &mut network.multicast {
                let members = &network.members;
                multicast.keep_others(|node| members.contains(&node));
            }
            self.tell_monitor(vni, out);
            self.new_epoch(out);
        }
    }

    /// Says all that the directory knows of other nodes' endpoints on a network. Of two entries with one MAC or address the
    /// first counts.
    pub fn set_remote(&mut self, vni: Vni, entries: &[RemoteEndpoint], out: &mut Outbox) {
        let Some(network) = self.networks.get_mut(&vni) else {
            return;
        };
        let mut macs = BTreeMap::new();
        for entry in entries.iter().filter(|e| e.mac.is_source()) {
            macs.entry(entry.mac).or_insert(entry.node);
        }
        let change = network.fdb.set_remote(macs.clone());
        let roaming = entries.iter().filter_map(|e| Some((e.mac, e.roams?)));
        network.fdb.set_roaming(roaming.collect());
        let ips = entries
            .iter()
            .flat_map(|e| e.ips.iter().map(|&ip| (ip, e.mac, e.node)));
        network.neighbors.set_remote(ips, self.limits.fdb.remote);
        let shared = (entries.iter()).flat_map(|e| e.shared.iter().map(|&ip| (ip, e.node)));
        (network.neighbors).set_shared(shared.take(self.limits.fdb.remote));
        let routers = entries.iter().filter(|e| e.router).map(|e| e.node);
        network.neighbors.set_remote_routers(routers);
        network.note_owners(entries.iter().flat_map(|e| e.ips.iter().copied()));
        let found = |mac: &MacAddr| self.was_unknown(vni, *mac, macs.get(mac).copied());
        if change.moved || change.new.iter().any(found) {
            self.new_epoch(out);
        }
    }
}
