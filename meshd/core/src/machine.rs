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

use crate::command::{Command, NetworkSpec, PortRecord, Refusal, RefusalCode, Reply};
use crate::directory::{Change, Directory};
use crate::fdb::{How, Place};
use crate::ident::{
    CommandId, Epoch, Label, MacAddr, MeshId, Moment, NodeId, Now, PortId, SessionId, Vni, WallTime,
};
use crate::links::LinkSpec;
use crate::mesh::{Mesh, MeshConfig, PeerMessage};
use crate::names::Names;
use crate::neighbor::is_router;
use crate::networks::Added;
use crate::node::{Input, KernelEvent, Output};
use crate::notice::Notice;
use crate::offload::GateMatch;
use crate::outbox::Outbox;
use crate::path::PathState;
use crate::planes::{Around, Planes, PlanesConfig};
use crate::pool::Pools;
use crate::ports::{PortChange, Ports, PortsConfig};
use crate::state::StateKey;
use crate::steering::{Figures, KernelWay, MAIN_COST, Steering, WayFace, WayId, WaySample};
use crate::switch::{PortFace, RemoteEndpoint, Switch, SwitchLimits, is_monitor};
use crate::view::PortState;
use crate::vteps::Vteps;
use crate::wire::control::Message;
use crate::wire::record::{Endpoint, Keyring, NetworkDef, RecordError, Signed};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

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
    /// The kernel's side.
    pub planes: PlanesConfig,
    /// What the kernel's gates hold of an earlier run: their epoch, and their entries.
    pub gates: (Epoch, Vec<GateMatch>),
}

/// How long the gates of an earlier run are gone by at most, in ms.
const ADOPT_MS: u64 = 10_000;

/// See the module, and [`crate::node`] for its alphabet.
pub struct Node {
    me: NodeId,
    config: NodeConfig,
    mesh: Mesh,
    ports: Ports,
    pools: Pools,
    switch: Switch,
    planes: Planes,
    vteps: Vteps,
    chains: BTreeMap<Vni, u32>,
    out: Outbox,
    /// Peers that can be asked for addresses.
    proven: BTreeMap<NodeId, SessionId>,
    /// Networks whose endpoints here are to be told anew.
    tell: BTreeSet<Vni>,
    names_changed: bool,
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
            keyring,
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
            vteps: Vteps::default(),
            chains: config.chains.clone(),
            config,
            mesh,
            out,
            me,
            proven: BTreeMap::new(),
            tell: BTreeSet::new(),
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
        if of_frames && self.switch.is_settled() {
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
            self.planes.poll_timeout(),
            self.mesh.poll_timeout(),
            self.pools.poll_timeout(),
            self.ports.poll_timeout(),
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
        Some(Names::build(&self.config.domain, networks, endpoints))
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
            KernelEvent::Wired { port, ifname, mac } => {
                self.ports.wired(port, ifname, mac, around, pools, out)
            }
            KernelEvent::Mended {
                port,
                ifname,
                mac,
                mended,
            } => self.ports.mended(port, ifname, mac, &mended, out),
            KernelEvent::FarEnd { port, up } => self.ports.far_end(port, up, out),
            KernelEvent::WireFailed { port, reason, gone } => {
                self.ports.wire_failed(port, reason, gone, now, pools, out);
            }
            KernelEvent::Unwired { port, errors } => {
                self.ports.unwired(port, errors, around, pools, now, out)
            }
            KernelEvent::PortGone { port } => self.ports.port_gone(port, pools, out),
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

    fn command(&mut self, id: CommandId, command: Command, now: Now) {
        let is_policy = matches!(
            command,
            Command::PolicyChain { .. }
                | Command::PolicyInvalidate { .. }
                | Command::SteeringPlugin { .. }
        );
        let undoes =
            is_policy || matches!(command, Command::Detach { .. } | Command::ShareOnly { .. });
        if !undoes
            && self.mesh.directory.is_revoked(self.me)
            && let Some(message) = self.mesh.revoked()
        {
            let code = RefusalCode::Forbidden;
            let result = Err(Refusal { code, message });
            return self.out.push(Output::Reply { id, result });
        }
        let result = match command {
            Command::Invite(spec) => self.mesh.invite(&spec, now, &mut self.out),
            Command::Revoke { member } => self.mesh.revoke(&member, now, &mut self.out),
            Command::NetworkAdd(spec) => self.add_network(&spec, now),
            Command::NetworkRemove { network } => self
                .mesh
                .remove_network(&network, now, &mut self.out)
                .map(|_tombstone| Reply::Done),
            Command::Attach(spec) => {
                return self.ports.attach(
                    id,
                    spec,
                    &self.mesh.directory,
                    &mut self.pools,
                    now,
                    &mut self.out,
                );
            }
            Command::Detach { port } => {
                return self.ports.detach(
                    id,
                    &port,
                    &self.mesh.directory,
                    &mut self.pools,
                    &mut self.out,
                );
            }
            Command::VtepAdd { network, vtep } => {
                let members =
                    self.mesh.directory.members().filter_map(|m| {
                        self.mesh.directory.advert(m.node)?.vtep.map(|vtep| vtep.ip)
                    });
                let members = members.collect();
                self.vteps.add(
                    &network,
                    vtep,
                    self.planes.trusted(),
                    &members,
                    &self.mesh.directory,
                    &mut self.ports,
                    now,
                    &mut self.out,
                )
            }
            Command::VtepRemove { network, ip } => {
                self.vteps
                    .remove(&network, ip, &self.mesh.directory, &mut self.out)
            }
            Command::KernelWishes { trusted, kernel } => {
                self.planes.set_wishes(trusted, kernel, &mut self.out);
                self.trust_changed(now);
                Ok(Reply::Done)
            }
            Command::BridgeFilter { in_the_way } => {
                self.planes.set_bridge_filter(in_the_way, &mut self.out);
                self.trust_changed(now);
                Ok(Reply::Done)
            }
            Command::Share { vni, plugin, list } => {
                self.mesh.share(vni, plugin, list, now, &mut self.out)
            }
            Command::ShareOnly { attachments } => {
                self.mesh.share_only(&attachments, now, &mut self.out);
                Ok(Reply::Done)
            }
            Command::SteeringPlugin { vni, revision } => {
                self.switch.set_steering(vni, revision, &mut self.out);
                self.ways_changed();
                Ok(Reply::Done)
            }
            Command::PolicyChain { vni, plugins } => {
                self.chains.insert(vni, plugins);
                self.switch
                    .set_policy(vni, plugins, now.moment, &mut self.out);
                Ok(Reply::Done)
            }
            Command::PolicyInvalidate {
                vni,
                attachment,
                tag,
            } => {
                let out = &mut self.out;
                self.switch
                    .invalidate_policy(vni, attachment, tag, now.moment, out);
                Ok(Reply::Done)
            }
        };
        if is_policy {
            // The reply is the moment from which nothing obeys what was: the kernel's gates come first.
            self.settle(now);
        }
        self.out.push(Output::Reply { id, result });
    }

    /// Who founds a network owns all of its addresses, from the same drain on in which the network is kept.
    fn add_network(&mut self, spec: &NetworkSpec, now: Now) -> Result<Reply, Refusal> {
        match self.mesh.add_network(spec, now, &mut self.out)? {
            Added::New(def) => {
                self.pools.define(&def, true, &mut self.out);
                Ok(Reply::Network(def))
            }
            Added::Same(def) => Ok(Reply::Network(def)),
        }
    }

    /// Tells the pools who can be asked.
    fn sessions_changed(&mut self, now: Now) {
        let current: BTreeMap<NodeId, SessionId> = self
            .mesh
            .peers()
            .into_iter()
            .filter_map(|peer| Some((peer.node, peer.session?)))
            .collect();
        for (node, session) in &self.proven {
            if current.get(node) != Some(session) {
                self.pools.peer_down(*node, *session);
            }
        }
        for (node, session) in &current {
            if self.proven.get(node) != Some(session) {
                self.pools.peer_up(*node, *session);
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
    fn ways_changed(&mut self) {
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
        loop {
            let changes = self.mesh.take_changes();
            let port_changes = self.ports.take_changes();
            for (vni, _) in self.switch.take_learned() {
                self.tell.insert(vni);
                self.planes.touch(vni, now.moment);
            }
            let vteps = self.vteps.take_changes();
            if changes.is_empty()
                && port_changes.is_empty()
                && vteps.is_empty()
                && self.tell.is_empty()
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
            for vni in std::mem::take(&mut self.tell) {
                self.tell_endpoints(vni, now);
            }
        }
    }

    /// What the kernel is to have and what its gates hold, after all else has settled.
    fn settle_kernel(&mut self, now: Now) {
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

    /// The port that stands for a network's foreign VTEPs, as they are now.
    fn vteps_changed(&mut self, vni: Vni, port: PortId, now: Now) {
        self.planes.touch(vni, now.moment);
        self.tell.insert(vni);
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
        };
        // If the network is not known (yet), it is said again once it is.
        let _ = self.switch.add_port(face, now.moment, &mut self.out);
    }

    /// Other nodes are told where this one takes VXLAN, and plans are made anew.
    fn trust_changed(&mut self, now: Now) {
        let (vtep, trusted) = (self.planes.vtep(), self.planes.trusted().to_vec());
        self.mesh.advertise_vtep(vtep, trusted, now, &mut self.out);
        self.planes.touch_all(self.ports.networks(), now.moment);
    }

    fn mesh_changed(&mut self, change: Change, now: Now) {
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

    fn network_changed(&mut self, vni: Vni, now: Now) {
        self.names_changed = true;
        self.planes.touch(vni, now.moment);
        let Some(def) = self.mesh.directory.network_by_vni(vni) else {
            return self.switch.remove_network(vni, now.moment, &mut self.out);
        };
        let mtu = def.mtu;
        self.switch.set_network(vni, mtu, &mut self.out);
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

    fn members_changed(&mut self, vni: Vni) {
        let members = self.mesh.directory.members_with_network(vni).collect();
        self.switch.set_members(vni, members, &mut self.out);
    }

    fn endpoints_changed(&mut self, vni: Vni, now: Now) {
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
                roams: endpoint.roams.then(|| {
                    let age = now.wall.0.saturating_sub(endpoint.since.0);
                    Moment(now.moment.0.saturating_sub(age.saturating_mul(1_000_000)))
                }),
                router: is_router(&endpoint.labels),
            })
            .collect();
        self.switch.set_remote(vni, &remote, &mut self.out);
    }

    fn port_changed(&mut self, change: PortChange, now: Now) {
        let face = match change {
            PortChange::Presence => return,
            PortChange::PortUp(record) => {
                self.tell.insert(record.vni);
                let ips = record.ips.iter().map(ipnet::IpNet::addr).collect();
                PortFace {
                    port: record.id,
                    vni: record.vni,
                    mac: record.mac,
                    ips,
                    service: false,
                    foreign: None,
                    since: now.moment,
                    router: is_router(&record.labels),
                    monitor: is_monitor(&record.labels),
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
                }
            }
            PortChange::PortDown(record) => {
                self.tell.insert(record.vni);
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
    fn tell_endpoints(&mut self, vni: Vni, now: Now) {
        // A port of an earlier run is there while the kernel is asked about it: others are not to lose it for that moment.
        let ready = |record: &PortRecord, state| match state {
            PortState::Ready => true,
            PortState::Wiring => record.ready,
            _ => false,
        };
        let mut list: BTreeMap<MacAddr, Endpoint> = BTreeMap::new();
        for (record, state, _) in self.ports.iter().filter(|(record, ..)| record.vni == vni) {
            if ready(record, state) {
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
        for row in self.switch.fdb(vni) {
            if let (How::Learned { since, .. }, Place::Port(_)) = (row.how, row.place) {
                let age = now.moment.ms_since(since);
                list.entry(row.mac).or_insert_with(|| Endpoint {
                    mac: row.mac,
                    ips: Vec::new(),
                    name: None,
                    labels: BTreeMap::new(),
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
    fn tell_networks(&mut self, now: Now) {
        let mut networks = self.ports.networks();
        networks.extend(self.vteps.iter().map(|(vni, _)| vni));
        let networks = networks.into_iter().collect();
        self.mesh.advertise_networks(networks, now, &mut self.out);
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

    /// The kernel's side: plans, paths, problems.
    #[must_use]
    pub fn planes(&self) -> &Planes {
        &self.planes
    }

    /// FDB, drops and traces.
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.switch
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
