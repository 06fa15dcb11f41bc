//! The running node as controllers see it: asked through the driver, like everything else is.
//!
//! Owns the putting together of a [`Snapshot`], and the handle to the runtime by which a controller's thread waits for the
//! driver.

use super::fetch::Fetch;
use super::surroundings::{
    Done, Heard, SeenPath, SeenPeer, SeenPort, SeenStation, Snapshot, Surroundings,
};
use crate::driver::{DriverHandle, World};
use meshd_core::command::Command;
use meshd_core::fdb::Place;
use meshd_core::ident::{AttachmentId, Label, Now, Vni};
use meshd_core::node::{Node, PacketOut, SendError};
use meshd_core::path::PathState;
use meshd_core::steering::{MAIN_COST, WayId, WayStats};
use meshd_core::view::PortState;
use meshd_core::wire::record::SharedValue;
use tokio::runtime::Handle;

/// See the module.
pub(crate) struct Live {
    driver: DriverHandle,
    runtime: Handle,
}

impl Live {
    /// Waits on `runtime`, so its threads must not be the ones that call.
    pub(crate) fn new(driver: DriverHandle, runtime: Handle) -> Self {
        Self { driver, runtime }
    }
}

impl Surroundings for Live {
    fn look(&self, vni: Vni) -> Option<Snapshot> {
        let seen = self
            .driver
            .view(move |node, world, now| snapshot(node, world, now, vni));
        self.runtime.block_on(seen).ok()
    }

    fn invalidate(
        &self,
        vni: Vni,
        attachment: AttachmentId,
        tag: Option<u32>,
    ) -> Result<(), String> {
        let command = self.driver.command(Command::PolicyInvalidate {
            vni,
            attachment,
            tag,
        });
        let done = self.runtime.block_on(command);
        done.map(drop).map_err(|refusal| refusal.message)
    }

    fn shared(&self, vni: Vni, plugin: &Label, since: Option<u64>) -> Option<Heard> {
        let plugin = plugin.clone();
        let heard = self.driver.view(move |node, _, now| {
            let directory = node.directory();
            let revision = directory.shared_revision();
            (since != Some(revision)).then(|| Heard {
                me: node.id(),
                revision,
                shares: directory
                    .shared(vni, &plugin, now.wall)
                    .map(|(node, list)| (node, list.to_vec()))
                    .collect(),
            })
        });
        self.runtime.block_on(heard).ok()?
    }

    fn share(&self, vni: Vni, plugin: &Label, list: Vec<SharedValue>) -> Result<(), String> {
        let plugin = plugin.clone();
        let done = self.driver.command(Command::Share { vni, plugin, list });
        let done = self.runtime.block_on(done);
        done.map(drop).map_err(|refusal| refusal.message)
    }

    fn send(&self, packet: PacketOut) -> Result<(), SendError> {
        self.runtime.block_on(self.driver.send(packet)).map(drop)
    }

    fn fetch(&self, fetch: Fetch, done: Done) {
        self.runtime.spawn(async move { done(fetch.run().await) });
    }
}

fn snapshot(node: &Node, world: &World<'_>, now: Now, vni: Vni) -> Snapshot {
    let mut out = Snapshot::default();
    let name = |name: &Option<meshd_core::ident::Label>| {
        name.as_ref().map_or_else(String::new, ToString::to_string)
    };
    let ports = node.ports().iter();
    for (record, state, _) in ports.filter(|(record, ..)| record.vni == vni) {
        let labels = record.labels.iter();
        let port = SeenPort {
            name: name(&record.name),
            mac: record.mac,
            ips: record.ips.iter().map(ipnet::IpNet::addr).collect(),
            up: state == PortState::Ready,
            labels: labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
        };
        out.ports.insert(record.id, port);
    }
    let directory = node.directory();
    let there: std::collections::BTreeSet<_> = directory.members_with_network(vni).collect();
    for peer in node.mesh().peers() {
        if !there.contains(&peer.node) {
            continue;
        }
        let id = peer.node.handle();
        let member = directory.member(peer.node);
        let seen = SeenPeer {
            name: member.map_or_else(String::new, |member| member.name.to_string()),
            up: peer.session.is_some(),
        };
        out.peers.insert(id, seen);
        let ways = node.steering().ways(peer.node);
        for (way, _) in &ways {
            out.paths.insert((id, way.way.number()), measured(way));
        }
        if ways.is_empty()
            && let Some(stats) = peer
                .session
                .and_then(|session| world.underlay.stats(session))
        {
            // The only way, so nobody measures it.
            let path = SeenPath {
                name: "quic-direct".to_owned(),
                up: true,
                rtt_us: u32::try_from(stats.rtt_us).unwrap_or(u32::MAX),
                mtu: stats.mtu,
                cost: MAIN_COST,
                ..SeenPath::default()
            };
            out.paths.insert((id, WayId::MAIN.number()), path);
        }
    }
    for view in node.planes().paths(now.moment) {
        if view.vni == vni && there.contains(&view.peer) {
            let path = SeenPath {
                name: "kernel-vxlan".to_owned(),
                up: view.state == PathState::Up,
                rtt_us: view
                    .rtt_us
                    .and_then(|us| u32::try_from(us).ok())
                    .unwrap_or(0),
                loss_ppm: view.loss_ppm.unwrap_or(0),
                mtu: view.path_mtu.unwrap_or(0),
                ..SeenPath::default()
            };
            let at = (view.peer.handle(), WayId::KERNEL.number());
            out.paths.insert(at, path);
        }
    }
    for (at, endpoint) in directory.endpoints(vni) {
        let station = SeenStation {
            ips: endpoint.ips.clone(),
            name: name(&endpoint.name),
            at: (at != node.id()).then_some(at),
        };
        out.stations.insert(endpoint.mac, station);
    }
    for (mac, place, _) in node.switch().macs(vni) {
        if let Place::Port(port) = place {
            out.learned.insert(mac, port);
        }
    }
    out
}

fn measured(way: &WayStats) -> SeenPath {
    let figures = way.figures;
    SeenPath {
        name: way.name.clone(),
        up: way.alive,
        rtt_us: figures.rtt_us,
        jitter_us: figures.jitter_us,
        loss_ppm: figures.loss_ppm,
        avail_kbps: figures.avail_kbps,
        used_kbps: figures.used_kbps,
        mtu: figures.mtu,
        cost: way.cost,
    }
}
