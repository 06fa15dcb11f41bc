//! What follows from a change: the parts of the node that rest on another one are told when that has changed.

use super::{Node, lets_routers};
use crate::command::PortRecord;
use crate::directory::Change;
use crate::fdb::{How, Place};
use crate::ident::{MacAddr, Moment, NodeId, Now, PortId, SessionId, Vni, WallTime};
use crate::multicast::GroupReport;
use crate::neighbor::{ROUTER_LABEL, is_router};
use crate::node::Output;
use crate::notice::Notice;
use crate::ports::PortChange;
use crate::steering::{MAIN_COST, WayFace, WayId};
use crate::switch::{PortFace, RemoteEndpoint, is_monitor};
use crate::view::PortState;
use crate::wire::control::Message;
use crate::wire::record::Endpoint;
use std::collections::{BTreeMap, BTreeSet};

impl Node {
    /// Tells the pools who can be asked.
    pub(super) fn sessions_changed(&mut self, now: Now) {
        let current: BTreeMap<NodeId, SessionId> = self
            .mesh
            .peers()
            .into_iter()
            .filter_map(|peer| Some((peer.node, peer.session?)))
            .collect();
        for (node, session) in &self.proven {
            if current.get(node) != Some(session) {
                self.pools.peer_down(*node, *session);
                self.switch.forget_interest(*node, &mut self.out);
            }
        }
        for (node, session) in &current {
            if self.proven.get(node) != Some(session) {
                self.pools.peer_up(*node, *session);
                self.switch.tell_interest_again();
            }
        }
        self.ways_changed();
        if current != self.proven {
            self.proven = current;
            self.planes.touch_all(None, now.moment);
            self.ports
                .addresses_changed(&self.mesh.directory, &mut self.pools, now, &mut self.out);
        }
    }

    /// Tells the switch which ways there are to each peer. A peer has a choice of ways if it has links in common with this
    /// node, or if some network has a plugin that chooses between VXLAN and the session.
    pub(super) fn ways_changed(&mut self) {
        let steered = self.switch.steering().has_plugins();
        if self.mesh.links().is_empty() && !steered && !self.choices {
            return;
        }
        self.choices = steered || !self.mesh.links().is_empty();
        let mut all = BTreeMap::new();
        for peer in self.mesh.peers() {
            let links = self.mesh.links_with(peer.node);
            let mut faces = Vec::new();
            if steered || !links.is_empty() {
                faces.push(WayFace {
                    way: WayId::MAIN,
                    name: "quic-direct".to_owned(),
                    cost: MAIN_COST,
                    rate_kbps: None,
                    up: peer.session.is_some(),
                });
            }
            let specs = self.mesh.links();
            faces.extend(links.into_iter().filter_map(|link| {
                let spec = specs.get(link.way.nth_link()?)?;
                Some(WayFace {
                    way: link.way,
                    name: spec.name.to_string(),
                    cost: spec.cost,
                    rate_kbps: spec.rate_kbps,
                    up: link.session.is_some(),
                })
            }));
            if !faces.is_empty() {
                all.insert(peer.node, faces);
            }
        }
        self.switch.set_ways(all, &mut self.out);
    }

    /// Tells the other nodes of each network what this one wants of its multicast.
    pub(super) fn tell_groups(&mut self, now: Now) {
        for (vni, interest) in self.switch.take_interest(now.moment) {
            for node in self.mesh.directory.members_with_network(vni) {
                if let Some(&session) = self.proven.get(&node) {
                    let interest = interest.clone();
                    let message = Message::Groups(GroupReport { vni, interest });
                    self.out.push(Output::Message { session, message });
                }
            }
        }
    }

    /// The port that stands for a network's foreign VTEPs, as they are now.
    pub(super) fn vteps_changed(&mut self, vni: Vni, port: PortId, now: Now) {
        self.planes.touch(vni, now.moment);
        self.telling.at_once(vni);
        let Some(gateway) = self.vteps.of(vni) else {
            return self.switch.remove_port(port, now.moment, &mut self.out);
        };
        let face = PortFace {
            port,
            vni,
            mac: MacAddr::default(),
            ips: Vec::new(),
            service: false,
            foreign: Some(gateway.macs()),
            since: now.moment,
            router: false,
            monitor: false,
            uplink: None,
        };
        // If the network is not known (yet), it is said again once it is.
        let _ = self.switch.add_port(face, now.moment, &mut self.out);
    }

    /// Other nodes are told where this one takes VXLAN, and plans are made anew.
    pub(super) fn trust_changed(&mut self, now: Now) {
        let (vtep, trusted) = (self.planes.vtep(), self.planes.trusted().to_vec());
        self.mesh.advertise_vtep(vtep, trusted, now, &mut self.out);
        self.planes.touch_all(self.ports.networks(), now.moment);
    }

    pub(super) fn mesh_changed(&mut self, change: Change, now: Now) {
        match change {
            Change::Members => {}
            Change::Revoked(node) => self.pools.forget_node(node, &mut self.out),
            Change::Network(vni) => {
                match self.mesh.directory.network_by_vni(vni).cloned() {
                    Some(def) => self.pools.define(&def, false, &mut self.out),
                    None => self.pools.remove(vni, &mut self.out),
                }
                self.network_changed(vni, now);
                self.ports
                    .network_changed(vni, &self.mesh.directory, now, &mut self.out);
            }
            Change::Node(_) => {
                self.ways_changed();
                self.services_changed();
                let networks: Vec<Vni> =
                    self.mesh.directory.networks().map(|def| def.vni).collect();
                for vni in networks {
                    self.members_changed(vni);
                    self.planes.touch(vni, now.moment);
                }
            }
            Change::Endpoints(vni) => {
                self.endpoints_changed(vni, now);
                self.planes.touch(vni, now.moment);
            }
        }
    }

    /// Adverts come often, and few tell of another service.
    pub(super) fn services_changed(&mut self) {
        let is_new = self.services.look(&self.mesh.directory, &mut self.out);
        self.names_changed |= is_new;
    }

    pub(super) fn network_changed(&mut self, vni: Vni, now: Now) {
        self.names_changed = true;
        // Its name may be a service's.
        self.services_changed();
        self.planes.touch(vni, now.moment);
        let Some(def) = self.mesh.directory.network_by_vni(vni) else {
            return self.switch.remove_network(vni, now.moment, &mut self.out);
        };
        let mtu = def.mtu;
        let multicast = self.config.multicast.get(&def.name).copied();
        self.switch.set_network(vni, mtu, &mut self.out);
        self.switch.set_multicast(
            vni,
            multicast.unwrap_or_default(),
            now.moment,
            &mut self.out,
        );
        let plugins = self.chains.get(&vni).copied().unwrap_or(0);
        if plugins > 0 {
            self.switch
                .set_policy(vni, plugins, now.moment, &mut self.out);
        }
        if let Some(gateway) = self.vteps.of(vni) {
            self.vteps_changed(vni, gateway.port, now);
        }
        self.members_changed(vni);
        self.endpoints_changed(vni, now);
    }

    pub(super) fn members_changed(&mut self, vni: Vni) {
        let members = self.mesh.directory.members_with_network(vni).collect();
        self.switch.set_members(vni, members, &mut self.out);
    }

    pub(super) fn endpoints_changed(&mut self, vni: Vni, now: Now) {
        self.names_changed = true;
        let me = self.me;
        let remote: Vec<RemoteEndpoint> = self
            .mesh
            .directory
            .endpoints(vni)
            .filter(|(node, _)| *node != me)
            .map(|(node, endpoint)| RemoteEndpoint {
                node,
                mac: endpoint.mac,
                ips: endpoint.ips.clone(),
                shared: self.mesh.directory.shared_ips(vni, endpoint),
                roams: endpoint.roams.then(|| {
                    let age = now.wall.0.saturating_sub(endpoint.since.0);
                    Moment(now.moment.0.saturating_sub(age.saturating_mul(1_000_000)))
                }),
                router: is_router(&endpoint.labels),
            })
            .collect();
        self.switch.set_remote(vni, &remote, &mut self.out);
    }

    pub(super) fn port_changed(&mut self, change: PortChange, now: Now) {
        let face = match change {
            PortChange::Presence => return,
            PortChange::PortUp(record) => {
                self.telling.at_once(record.vni);
                self.guard.add_port(&record, now);
                let ips = record.ips.iter().map(ipnet::IpNet::addr).collect();
                PortFace {
                    port: record.id,
                    vni: record.vni,
                    mac: record.mac,
                    ips,
                    service: false,
                    foreign: None,
                    since: now.moment,
                    router: is_router(&record.labels) || lets_routers(&record),
                    monitor: is_monitor(&record.labels),
                    uplink: record.kind.uplink().cloned(),
                }
            }
            PortChange::ServiceUp(wiring) => {
                let ips = wiring.ips.iter().map(ipnet::IpNet::addr).collect();
                PortFace {
                    port: wiring.port,
                    vni: wiring.vni,
                    mac: wiring.mac,
                    ips,
                    service: true,
                    foreign: None,
                    since: now.moment,
                    router: false,
                    monitor: false,
                    uplink: None,
                }
            }
            PortChange::PortDown(record) => {
                self.telling.at_once(record.vni);
                self.guard.remove_port(record.id);
                self.planes.touch(record.vni, now.moment);
                return self
                    .switch
                    .remove_port(record.id, now.moment, &mut self.out);
            }
            PortChange::ServiceDown { port, .. } => {
                return self.switch.remove_port(port, now.moment, &mut self.out);
            }
        };
        let (port, vni) = (face.port, face.vni);
        self.planes.touch(vni, now.moment);
        if let Err(error) = self.switch.add_port(face, now.moment, &mut self.out) {
            self.out.push(Output::Notice(Notice::PortFailed {
                port,
                reason: error.to_string(),
            }));
        }
        // The network may have come before its first port: say what is on it.
        self.members_changed(vni);
        self.endpoints_changed(vni, now);
    }

    /// Our endpoints and our networks, as the ports and their learned MACs are now.
    pub(super) fn tell_endpoints(&mut self, vni: Vni, now: Now) {
        // A port of an earlier run is there while the kernel is asked about it: others are not to lose it for that moment.
        let ready = |record: &PortRecord, state| match state {
            PortState::Ready => true,
            PortState::Wiring => record.ready,
            _ => false,
        };
        // What is behind an uplink that lets router advertisements pass may be a router.
        let routers: BTreeSet<PortId> = self
            .ports
            .iter()
            .filter_map(|(record, ..)| lets_routers(record).then_some(record.id))
            .collect();
        let mut list: BTreeMap<MacAddr, Endpoint> = BTreeMap::new();
        for (record, state, _) in self.ports.iter().filter(|(record, ..)| record.vni == vni) {
            if ready(record, state) && record.mac.is_source() {
                let endpoint = Endpoint {
                    mac: record.mac,
                    ips: record.ips.iter().map(ipnet::IpNet::addr).collect(),
                    name: record.name.clone(),
                    labels: record.labels.clone(),
                    since: WallTime(record.since),
                    roams: false,
                };
                list.insert(record.mac, endpoint);
            }
        }
        for (mac, place, how) in self.switch.macs(vni) {
            if let (How::Learned { since, .. }, Place::Port(port)) = (how, place) {
                let age = now.moment.ms_since(since);
                let labels = match routers.contains(&port) {
                    true => BTreeMap::from([(ROUTER_LABEL.to_owned(), "true".to_owned())]),
                    false => BTreeMap::new(),
                };
                list.entry(mac).or_insert_with(|| Endpoint {
                    mac,
                    ips: Vec::new(),
                    name: None,
                    labels,
                    since: WallTime(now.wall.0.saturating_sub(age)),
                    roams: true,
                });
            }
        }
        if let Some(gateway) = self.vteps.of(vni) {
            for mac in gateway.macs() {
                list.entry(mac).or_insert_with(|| Endpoint {
                    mac,
                    ips: Vec::new(),
                    name: None,
                    labels: BTreeMap::new(),
                    since: self.started.wall,
                    roams: false,
                });
            }
        }
        self.telling.told(vni, list.len(), now.moment);
        let list = list.into_values().collect();
        if let Err(error) = self.mesh.advertise_endpoints(vni, list, now, &mut self.out) {
            let what = format!("endpoints of network {vni}");
            self.out.push(Output::Notice(Notice::Refused {
                what,
                reason: error.to_string(),
            }));
        }
    }

    /// On which networks this node is.
    pub(super) fn tell_networks(&mut self, now: Now) {
        let mut networks = self.ports.networks();
        networks.extend(self.vteps.iter().map(|(vni, _)| vni));
        let networks = networks.into_iter().collect();
        self.mesh.advertise_networks(networks, now, &mut self.out);
    }
}
