//! The machine: the node's parts in one piece, and how what changes in one reaches the others.
//!
//! ```text
//!    Mesh (directory, peers, SWIM, invites) --changes--> Switch (who has which MAC), Ports and Pools (networks), names
//!    Ports --changes--> Switch (ports), Mesh (our endpoints, our networks)
//!    Switch --learned MACs--> Mesh (our endpoints)
//!    Mesh, Ports, Switch --what changed--> Planes (the kernel's side) --what it has--> Switch (gates)
//! ```
//!
//! Owns the dispatch and the order of it. Every decision is in a part.

mod changes;
mod commands;
mod telling;

use crate::command::PortRecord;
use crate::directory::Directory;
use crate::flow::Origin;
use crate::guard::Guard;
use crate::ident::{Epoch, Label, MeshId, Moment, NodeId, Now, PortId, SessionId, Vni};
use crate::kind::Crossing;
use crate::links::LinkSpec;
use crate::mesh::{Mesh, MeshConfig, PeerMessage};
use crate::multicast::{GroupReport, MulticastSpec};
use crate::names::Names;
use crate::node::{Input, KernelEvent, Output};
use crate::notice::Notice;
use crate::offload::GateMatch;
use crate::outbox::Outbox;
use crate::path::PathState;
use crate::planes::{Around, Planes, PlanesConfig};
use crate::pool::Pools;
use crate::ports::{Ports, PortsConfig};
use crate::services::{ServiceRules, Services};
use crate::state::StateKey;
use crate::steering::{Figures, KernelWay, Steering, WaySample};
use crate::switch::{Switch, SwitchLimits};
use crate::view::PortState;
use crate::vteps::Vteps;
use crate::wire::control::Message;
use crate::wire::loop_probe::is_loop_probe;
use crate::wire::record::{Keyring, NetworkDef, RecordError, Signed};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use telling::Telling;

/// What a node is born with; all of it from the shell.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The mesh.
    pub mesh: MeshId,
    /// The mesh's name.
    pub mesh_name: Label,
    /// Under which the mesh's names are found, such as `lab.internal`.
    pub domain: String,
    /// Of the program, for people.
    pub version: String,
    /// This node's statement.
    pub membership: Signed,
    /// What the inviter told of itself, so that there is somebody to dial.
    pub records: Vec<Signed>,
    /// Addresses to be advertised before those that the host has.
    pub advertise: Vec<SocketAddr>,
    /// Underlay links, at most [`LINKS_MAX`](crate::steering::LINKS_MAX).
    pub links: Vec<LinkSpec>,
    /// Networks with a steering plugin, with a number that every change of it moves.
    pub steering: BTreeMap<Vni, u32>,
    /// Source MACs that a port may have.
    pub macs_per_port: usize,
    /// Ports of this node.
    pub ports_max: usize,
    /// Answer names on each network?
    pub dns: bool,
    /// Plugins in the policy chain of each network.
    pub chains: BTreeMap<Vni, u32>,
    /// How multicast is treated on networks, by name; others as it is by default.
    pub multicast: BTreeMap<Label, MulticastSpec>,
    /// Whose services of hosts are answered.
    pub services: ServiceRules,
    /// The kernel's side.
    pub planes: PlanesConfig,
    /// What the kernel's gates hold of an earlier run: their epoch, and their entries.
    pub gates: (Epoch, Vec<GateMatch>),
}

/// How long the gates of an earlier run are gone by at most, in ms.
const ADOPT_MS: u64 = 10_000;

/// Where the bridges of a LAN talk about its spanning tree (IEEE 802.1D-2004 §7.12.3).
const BPDU_MAC: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];

/// True for an uplink that lets router advertisements pass.
fn lets_routers(record: &PortRecord) -> bool {
    let uplink = record.kind.uplink();
    uplink.is_some_and(|uplink| uplink.allow.contains(&Crossing::Ra))
}

/// See the module, and [`crate::node`] for its alphabet.
pub struct Node {
    me: NodeId,
    config: NodeConfig,
    mesh: Mesh,
    ports: Ports,
    pools: Pools,
    switch: Switch,
    planes: Planes,
    guard: Guard,
    vteps: Vteps,
    chains: BTreeMap<Vni, u32>,
    out: Outbox,
    /// Peers that can be asked for addresses.
    proven: BTreeMap<NodeId, SessionId>,
    telling: Telling,
    names_changed: bool,
    /// As the names have them.
    services: Services,
    /// There was a choice of ways to some peer.
    choices: bool,
    started: Now,
}

impl Node {
    /// A node as it was left: `state` are all pairs that [`Output::Persist`] ever kept. Its first outputs wait already.
    ///
    /// # Errors
    /// If this node's own membership does not hold.
    pub fn new(
        config: NodeConfig,
        keyring: Arc<dyn Keyring>,
        seed: u64,
        state: Vec<(Vec<u8>, Vec<u8>)>,
        now: Now,
    ) -> Result<Self, RecordError> {
        let me = keyring.node();
        let mut out = Outbox::default();
        let mesh_config = MeshConfig {
            mesh: config.mesh,
            mesh_name: config.mesh_name.clone(),
            membership: config.membership.clone(),
            records: config.records.clone(),
            keyring: Arc::clone(&keyring),
            links: config.links.clone(),
            seed,
            version: config.version.clone(),
        };
        let mesh = Mesh::new(mesh_config, &state, now, &mut out)?;
        let ports_config = PortsConfig {
            domain: config.domain.clone(),
            dns: config.dns,
            ports_max: config.ports_max,
        };
        let mut limits = SwitchLimits::default();
        limits.fdb.macs_per_port = config.macs_per_port;
        let mut node = Self {
            ports: Ports::new(me, ports_config, seed.rotate_left(17)),
            pools: Pools::new(me),
            switch: Switch::new(limits, Epoch(config.gates.0.0 + 1), seed.rotate_left(41)),
            planes: Planes::new(me, config.planes.clone(), seed.rotate_left(29)),
            guard: Guard::new(config.mesh, keyring),
            vteps: Vteps::default(),
            chains: config.chains.clone(),
            services: Services::new(config.services.clone()),
            config,
            mesh,
            out,
            me,
            proven: BTreeMap::new(),
            telling: Telling::default(),
            names_changed: true,
            choices: false,
            started: now,
        };
        let entries = std::mem::take(&mut node.config.gates.1);
        node.switch.adopt(entries, now.moment.plus_ms(ADOPT_MS));
        for (key, value) in &state {
            node.restore(key, value);
        }
        for (&vni, &revision) in &node.config.steering {
            node.switch.set_steering(vni, revision, &mut node.out);
        }
        let known: Vec<NetworkDef> = node.mesh.directory.networks().cloned().collect();
        for def in &known {
            node.pools.define(def, false, &mut node.out);
            node.network_changed(def.vni, now);
        }
        node.ports
            .start(&node.mesh.directory, &mut node.pools, now, &mut node.out);
        node.settle(now);
        Ok(node)
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) {
        let restored = StateKey::decode(key).and_then(|key| {
            self.ports.restore(&key, value)?;
            self.pools.restore(&key, value)?;
            self.vteps.restore(&key, value)
        });
        if let Err(error) = restored {
            let what = "an entry of the state".to_owned();
            self.out.push(Output::Notice(Notice::Refused {
                what,
                reason: error.to_string(),
            }));
        }
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, now: Now) {
        let out = &mut self.out;
        let of_frames = matches!(
            input,
            Input::Upcall { .. } | Input::Offer { .. } | Input::Answer { .. }
        );
        match input {
            Input::Upcall {
                origin,
                upcall,
                vni,
                frame,
                ct,
            } => {
                if let Origin::Port(port) = origin {
                    let directory = &self.mesh.directory;
                    if is_loop_probe(&frame) {
                        self.guard.probe(port, &frame, directory, now, out);
                    } else if frame.starts_with(&BPDU_MAC) {
                        self.guard.bpdu(port, &frame, now.moment, out);
                    }
                }
                self.switch
                    .upcall(origin, upcall, (vni, ct), &frame, now.moment, out);
            }
            Input::Offer { origin, vni, frame } => {
                self.switch.offer(origin, vni, frame, now.moment, out);
            }
            Input::Answer {
                query,
                epoch,
                answer,
            } => self.switch.answer(query, epoch, answer, now.moment, out),
            Input::Steered { query, answer } => self.switch.steered(query, answer, out),
            Input::Ways(samples) => self.measure(&samples, now),
            Input::Session(event) => {
                self.mesh.session(event, now, out);
                self.sessions_changed(now);
            }
            Input::Message { session, message } => self.message(session, message, now),
            Input::Send { id, packet } => {
                let result = self.switch.packet_out(&packet, out);
                out.push(Output::Sent { id, result });
            }
            Input::Probe { vni, frame } => self.planes.probe(vni, &frame, now.moment),
            Input::Kernel(event) => self.kernel(event, now),
            Input::Command { id, command } => self.command(id, command, now),
        }
        // These come by the hundred thousand and reach nobody but the switch.
        if of_frames && self.switch.is_settled() && self.guard.is_settled() {
            return self.switch.ask_steering(now.moment, &mut self.out);
        }
        self.settle(now);
    }

    /// Time passed; see [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        let out = &mut self.out;
        self.switch.handle_timeout(now.moment, out);
        self.mesh.handle_timeout(now, out);
        self.pools.handle_timeout(now, out);
        self.planes.handle_timeout(now.moment);
        self.telling.handle_timeout(now.moment);
        self.guard.handle_timeout(now, out);
        self.ports
            .handle_timeout(&self.mesh.directory, &mut self.pools, now, out);
        self.mesh
            .set_in_kernel(self.planes.heard(now.moment), now, &mut self.out);
        self.sessions_changed(now);
        self.settle(now);
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop()
    }

    /// When [`Self::handle_timeout`] is to be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        let switch = self
            .switch
            .poll_timeout()
            .map(|moment| (moment, "switch: ageing and policy"));
        let gates = self
            .switch
            .gates_timeout()
            .map(|moment| (moment, "gates: an earlier run's entries are given up"));
        [
            switch,
            gates,
            self.switch
                .interest_timeout()
                .map(|moment| (moment, "switch: say who listens")),
            self.planes.poll_timeout(),
            self.mesh.poll_timeout(),
            self.pools.poll_timeout(),
            self.ports.poll_timeout(),
            self.guard.poll_timeout(),
            self.telling.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The names, if they are not what they were at the last call.
    pub fn take_names(&mut self) -> Option<Names> {
        if !std::mem::take(&mut self.names_changed) {
            return None;
        }
        let directory = &self.mesh.directory;
        let networks = directory
            .networks()
            .map(|def| (def.vni, &def.name, def.subnets.as_slice()));
        let endpoints = directory.networks().flat_map(|def| {
            directory
                .names(def.vni)
                .map(|(name, _, endpoint)| (def.vni, name, endpoint.ips.as_slice()))
        });
        let services = self.services.iter();
        let services = services.map(|service| (&service.name, service.ips.as_slice()));
        let names = Names::build(&self.config.domain, networks, endpoints);
        Some(names.with_services(services))
    }

    /// Says goodbye to all peers.
    pub fn stop(&mut self, now: Now) {
        self.mesh.stop(now, &mut self.out);
    }

    fn message(&mut self, session: SessionId, message: Message, now: Now) {
        let greeting = matches!(message, Message::Hello(_) | Message::Goodbye(_));
        let for_others = self.mesh.message(session, message, now, &mut self.out);
        if greeting {
            self.sessions_changed(now);
        }
        let directory = &self.mesh.directory;
        match for_others {
            Some((from, PeerMessage::PoolRequest(request))) => {
                let taken = |ip| directory.ip(request.vni, ip).is_some();
                self.pools
                    .on_request(from, session, &request, &taken, &mut self.out);
            }
            Some((from, PeerMessage::Paths(reports))) => {
                self.planes.reports(from, &reports, now.moment);
            }
            Some((from, PeerMessage::Groups(GroupReport { vni, interest }))) => {
                let out = &mut self.out;
                self.switch
                    .set_interest(vni, from, interest, now.moment, out);
            }
            Some((node, PeerMessage::Inquiry(word))) => {
                self.out.push(Output::Inquiry { node, word });
            }
            Some((from, PeerMessage::PoolGrant(grant))) => {
                self.pools.on_grant(from, &grant, now, &mut self.out);
                self.ports
                    .addresses_changed(directory, &mut self.pools, now, &mut self.out);
            }
            None => {}
        }
    }

    fn kernel(&mut self, event: KernelEvent, now: Now) {
        let (around, pools, out) = (&self.mesh.directory, &mut self.pools, &mut self.out);
        match event {
            KernelEvent::Wired {
                port,
                ifname,
                mac,
                file,
            } => {
                self.ports.note_file(port, file);
                self.ports.wired(port, ifname, mac, around, pools, out)
            }
            KernelEvent::Mended {
                port,
                ifname,
                mac,
                mended,
            } => self.ports.mended(port, ifname, mac, &mended, out),
            KernelEvent::FarEnd { port, up } => self.ports.far_end(port, up, out),
            KernelEvent::FarMtu { port, mtu } => {
                self.ports.far_mtu(port, mtu, &self.mesh.directory, out);
            }
            KernelEvent::WireFailed {
                port,
                code,
                reason,
                gone,
            } => {
                let why = (code, reason);
                self.ports.wire_failed(port, why, gone, now, pools, out);
            }
            KernelEvent::Served { port } => self.ports.served(port),
            KernelEvent::ServeFailed { port, reason } => {
                self.ports.serve_failed(port, reason, now);
            }
            KernelEvent::Unwired { port, errors } => {
                self.ports.unwired(port, errors, around, pools, now, out)
            }
            KernelEvent::PortGone { port } => self.ports.port_gone(port, pools, out),
            KernelEvent::Appeared { port } => self.ports.appeared(port, around, pools, now, out),
            KernelEvent::Planned {
                vni,
                plan,
                problems,
            } => {
                let name = around
                    .network_by_vni(vni)
                    .map_or_else(|| vni.to_string(), |def| def.name.to_string());
                self.planes
                    .planned(vni, &name, plan, problems, now.moment, out);
            }
            KernelEvent::Traffic(counted) => self.planes.traffic(&counted, now.moment),
            KernelEvent::GatesIdle(idle) => self.switch.gates_idle(&idle, out),
            KernelEvent::Addresses(found) => {
                self.planes.set_underlay(&found);
                let mut addresses = self.config.advertise.clone();
                addresses.extend(
                    found
                        .into_iter()
                        .filter(|a| !self.config.advertise.contains(a)),
                );
                self.mesh.addresses(addresses, now, out);
                self.trust_changed(now);
            }
        }
    }

    /// The counters of connections, ten times a second; what the kernels' probes measured is looked at besides.
    fn measure(&mut self, samples: &[WaySample], now: Now) {
        let mut kernel: BTreeMap<(NodeId, Vni), KernelWay> = BTreeMap::new();
        for view in self.planes.paths(now.moment) {
            let short = |us: u64| u32::try_from(us).unwrap_or(u32::MAX);
            let figures = Figures {
                rtt_us: view.rtt_us.map_or(0, short),
                loss_ppm: view.loss_ppm.unwrap_or(0),
                mtu: view.path_mtu.unwrap_or(0),
                ..Figures::default()
            };
            let open = view.state == PathState::Up;
            kernel.insert((view.peer, view.vni), KernelWay { open, figures });
        }
        self.switch
            .measure(samples, &kernel, now.moment, &mut self.out);
        self.mesh
            .set_silent(self.switch.steering().silent_sessions());
    }

    /// Ways to peers, and the choices between them.
    #[must_use]
    pub fn steering(&self) -> &Steering {
        self.switch.steering()
    }

    /// Lets what changed in one part reach the others, until nothing changes any more.
    fn settle(&mut self, now: Now) {
        for (vni, mac, from, to) in self.switch.take_moves() {
            self.guard
                .moved(vni, mac, from, to, now.moment, &mut self.out);
        }
        loop {
            for change in self.guard.take_changes() {
                let (vni, port) = (change.vni, change.port);
                self.switch
                    .set_blocked(vni, port, change.blocked, &mut self.out);
            }
            let changes = self.mesh.take_changes();
            let port_changes = self.ports.take_changes();
            for vni in self.switch.take_learned() {
                self.telling.learned(vni, now.moment);
                self.planes.touch(vni, now.moment);
            }
            let vteps = self.vteps.take_changes();
            if changes.is_empty()
                && port_changes.is_empty()
                && vteps.is_empty()
                && self.telling.is_settled()
            {
                return self.settle_kernel(now);
            }
            for change in changes {
                self.mesh_changed(change, now);
            }
            if !port_changes.is_empty() || !vteps.is_empty() {
                self.tell_networks(now);
            }
            for change in port_changes {
                self.port_changed(change, now);
            }
            for (vni, port) in vteps {
                self.vteps_changed(vni, port, now);
            }
            for vni in self.telling.take() {
                self.tell_endpoints(vni, now);
            }
        }
    }

    /// What the kernel is to have and what its gates hold, after all else has settled.
    fn settle_kernel(&mut self, now: Now) {
        self.tell_groups(now);
        let around = Around {
            mesh: &self.mesh,
            ports: &self.ports,
            switch: &self.switch,
            vteps: &self.vteps,
        };
        for vni in self.planes.settle(around, now, &mut self.out) {
            let plane = self.planes.plane(vni, &self.mesh.directory, &self.vteps);
            self.switch.set_plane(vni, plane, &mut self.out);
        }
        let ready = self.switch.is_adopting()
            && self.planes.is_settled()
            && self
                .ports
                .iter()
                .all(|(_, state, _)| state != PortState::Wiring);
        self.switch.settle_gates(ready, now.moment, &mut self.out);
        self.switch.ask_steering(now.moment, &mut self.out);
    }

    // What others may read.

    /// Members, networks, endpoints.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.mesh.directory
    }

    /// Sessions and SWIM.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Ports and services.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Address pools.
    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Foreign VTEPs that were declared here.
    #[must_use]
    pub fn vteps(&self) -> &Vteps {
        &self.vteps
    }

    /// Is the kernel still at ports that frames passed before this run of the daemon?
    #[must_use]
    pub fn is_adopting(&self) -> bool {
        self.ports.is_adopting()
    }

    /// The kernel's side: plans, paths, problems.
    #[must_use]
    pub fn planes(&self) -> &Planes {
        &self.planes
    }

    /// Loops that were found, and ports that are blocked for them.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// FDB, drops and traces.
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Whose services of hosts are answered.
    #[must_use]
    pub fn service_rules(&self) -> &ServiceRules {
        self.services.rules()
    }

    /// What it was born with.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.me
    }

    /// When it was made.
    #[must_use]
    pub fn started(&self) -> Now {
        self.started
    }

    /// Plugins in the chain of a network.
    #[must_use]
    pub fn chain(&self, vni: Vni) -> u32 {
        self.chains.get(&vni).copied().unwrap_or(0)
    }

    /// Numbers of all ports, services among them.
    #[must_use]
    pub fn port_ids(&self) -> BTreeSet<PortId> {
        self.ports
            .iter()
            .map(|(record, ..)| record.id)
            .chain(self.ports.services().map(|s| s.port))
            .collect()
    }
}
