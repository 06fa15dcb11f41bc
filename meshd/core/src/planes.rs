//! The kernel's side of all networks: what each is to have there, what it has, and which peers are reached by it.
//!
//! ```text
//!   directory, ports, FDB --touch--> dirty --20 ms--> derive --differs--> Output::Plan ... KernelEvent::Planned
//!                                                        |                                     |
//!   adverts, trust, sessions --> path candidates <-------'                                     v
//!   probes, reports, counters --> Paths (path.rs) --Open, Close--> slots ----------------> Plane, for the switch
//! ```
//!
//! Owns the derivation of plans, the numbers of paths and what the kernel was last heard to have. Refuses to decide what passes
//! a gate (`offload.rs`) and which path is good (`path.rs`): it feeds both.

use crate::config::{BridgeFilter, KernelSettings};
use crate::directory::Directory;
use crate::fdb::{How, Place};
use crate::ident::{MacAddr, Moment, NodeId, Now, PortId, Vni};
use crate::mesh::Mesh;
use crate::node::{Output, PathTraffic};
use crate::notice::Notice;
use crate::offload::{GateOp, PathSlot, Plane, SLOTS_MAX};
use crate::outbox::Outbox;
use crate::path::{self, Candidate, PathReport, PathState, PathView, Paths, Side};
use crate::plan::{NetworkPlan, VxlanPlan};
use crate::ports::Ports;
use crate::switch::Switch;
use crate::view::PortState;
use crate::vteps::Vteps;
use crate::wire::control::Message;
use crate::wire::probe::probe_mac;
use crate::wire::record::{RecordKey, Vtep};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Changes that come within this time are one change of the plan, in ms.
const GATHER_MS: u64 = 10;
/// How long the endpoints of others are waited for before what an earlier run left is taken for too much, in ms.
const SYNC_MS: u64 = 5_000;
/// A peer of which nothing came in by the kernel for so long is not there, in ms.
const HEARD_MS: u64 = 4_000;

/// What the kernel can do, and what the operator wants of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanesConfig {
    /// It has bridges and gates.
    pub bridge: bool,
    /// It has VXLAN and the fence; if not: why, in words.
    pub vxlan: Result<(), String>,
    /// `[kernel]`.
    pub kernel: KernelSettings,
    /// What of the host's own filter may drop what its bridges forward, in words.
    pub bridge_filter: Option<String>,
    /// `[underlay] trusted`.
    pub trusted: Vec<IpNet>,
    /// `[underlay] vxlan_port`.
    pub port: u16,
    /// Paths of an earlier run have lower numbers. With any: what the kernel carries now goes on until probes say otherwise.
    pub first_slot: u32,
}

impl PlanesConfig {
    /// Why the daemon forwards all frames though the operator wants the kernel to: the host's filter would drop some.
    #[must_use]
    pub fn steps_back(&self) -> Option<&str> {
        let wanted = self.kernel.fast_path && self.kernel.bridge_filter == BridgeFilter::Avoid;
        self.bridge_filter.as_deref().filter(|_| wanted)
    }

    /// Is there to be anything in the kernel?
    #[must_use]
    pub fn in_kernel(&self) -> bool {
        self.bridge && self.kernel.fast_path && self.steps_back().is_none()
    }
}

/// What the kernel was last heard to have of a network.
#[derive(Clone, Debug, Default)]
struct Held {
    plan: Option<Arc<NetworkPlan>>,
    problems: Vec<String>,
}

/// See the module.
pub struct Planes {
    me: NodeId,
    config: PlanesConfig,
    /// `None`: not heard yet. Nothing is planned before: a VXLAN device that is there would seem to be one too many.
    underlay: Option<Vec<IpAddr>>,
    dirty: BTreeSet<Vni>,
    due: Option<Moment>,
    /// As last asked for.
    asked: BTreeMap<Vni, Arc<NetworkPlan>>,
    held: BTreeMap<Vni, Held>,
    paths: Paths,
    /// Paths there are, so that those that cease are taken back.
    candidates: BTreeMap<Vni, BTreeSet<NodeId>>,
    slots: BTreeMap<(Vni, NodeId), PathSlot>,
    free: Vec<PathSlot>,
    next_slot: u32,
    /// The kernel may carry something of an earlier run.
    adopts: bool,
    started: Option<Moment>,
    open: BTreeSet<(Vni, NodeId)>,
    adopted: BTreeSet<(Vni, NodeId)>,
    /// Paths that are no more, and whose numbers are free once what they wanted is done.
    removed: BTreeSet<(Vni, NodeId)>,
}

/// What a plan is derived from.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) ports: &'a Ports,
    pub(crate) switch: &'a Switch,
    pub(crate) vteps: &'a Vteps,
}

/// Is a node on the network whose endpoints are not known? They are not kept over a restart, and come with the first sync:
/// until then what the kernel has of them would seem to be too much.
fn lacks_endpoints(vni: Vni, directory: &Directory) -> bool {
    let mut members = directory.members_with_network(vni);
    members.any(|node| directory.signed(&RecordKey::Endpoints(node, vni)).is_none())
}

impl Planes {
    /// Nothing is known of the kernel yet. `seed`: of tokens.
    #[must_use]
    pub fn new(me: NodeId, config: PlanesConfig, seed: u64) -> Self {
        let first_slot = config.first_slot;
        Self {
            me,
            config,
            underlay: None,
            dirty: BTreeSet::new(),
            due: None,
            asked: BTreeMap::new(),
            held: BTreeMap::new(),
            paths: Paths::new(me, seed),
            candidates: BTreeMap::new(),
            slots: BTreeMap::new(),
            free: Vec::new(),
            next_slot: if first_slot < SLOTS_MAX / 2 {
                first_slot.max(1)
            } else {
                1
            },
            adopts: first_slot > 1,
            started: None,
            open: BTreeSet::new(),
            adopted: BTreeSet::new(),
            removed: BTreeSet::new(),
        }
    }

    /// The addresses of this host.
    pub fn set_underlay(&mut self, addresses: &[SocketAddr]) {
        self.underlay = Some(addresses.iter().map(SocketAddr::ip).collect());
    }

    /// Another `[underlay] trusted` and `[kernel]`.
    pub(crate) fn set_wishes(
        &mut self,
        trusted: Vec<IpNet>,
        kernel: KernelSettings,
        out: &mut Outbox,
    ) {
        let before = self.config.steps_back().map(str::to_owned);
        (self.config.trusted, self.config.kernel) = (trusted, kernel);
        self.tell_step(before, out);
    }

    /// Something else, or nothing, stands in the way of what bridges forward.
    pub(crate) fn set_bridge_filter(&mut self, found: Option<String>, out: &mut Outbox) {
        let before = self.config.steps_back().map(str::to_owned);
        self.config.bridge_filter = found;
        self.tell_step(before, out);
    }

    fn tell_step(&self, before: Option<String>, out: &mut Outbox) {
        let after = self.config.steps_back();
        if before.as_deref() == after {
            return;
        }
        out.push(Output::Notice(match after {
            Some(by) => Notice::BridgeFiltered { by: by.to_owned() },
            None => Notice::BridgeUnfiltered {},
        }));
    }

    /// Where this node takes VXLAN: at its first address that it trusts.
    #[must_use]
    pub fn vtep(&self) -> Option<Vtep> {
        let trusted = |ip: &&IpAddr| self.config.trusted.iter().any(|net| net.contains(*ip));
        let able = self.config.in_kernel() && self.config.vxlan.is_ok();
        let ip = self
            .underlay
            .iter()
            .flatten()
            .find(trusted)
            .filter(|_| able)?;
        Some(Vtep {
            ip: *ip,
            port: self.config.port,
        })
    }

    /// What this node trusts, as others are told.
    #[must_use]
    pub fn trusted(&self) -> &[IpNet] {
        &self.config.trusted
    }

    /// UDP port of VXLAN.
    #[must_use]
    pub fn vxlan_port(&self) -> u16 {
        self.config.port
    }

    /// Something of the network changed: its plan is looked at again in a moment.
    pub fn touch(&mut self, vni: Vni, now: Moment) {
        self.dirty.insert(vni);
        if self.underlay.is_some() {
            self.due.get_or_insert(now.plus_ms(GATHER_MS));
        }
    }

    /// As [`Self::touch`], for all networks that have or had something in the kernel, and those given.
    pub fn touch_all(&mut self, networks: impl IntoIterator<Item = Vni>, now: Moment) {
        let known: Vec<Vni> = self.asked.keys().chain(self.held.keys()).copied().collect();
        for vni in known.into_iter().chain(networks) {
            self.touch(vni, now);
        }
    }

    /// The peer's VTEP, if frames of both ways may travel in the clear.
    fn vtep_of(&self, directory: &Directory, node: NodeId) -> Option<IpAddr> {
        let (ours, advert) = (self.vtep()?, directory.advert(node)?);
        let theirs = advert.vtep?;
        let here = self
            .config
            .trusted
            .iter()
            .any(|net| net.contains(&theirs.ip));
        let there = advert.trusted.iter().any(|net| net.contains(&ours.ip));
        (here
            && there
            && theirs.port == ours.port
            && theirs.ip.is_ipv4() == ours.ip.is_ipv4()
            && theirs.ip != ours.ip)
            .then_some(theirs.ip)
    }

    /// Why nothing goes to a foreign VTEP at `ip` and nothing of it is let in, in words; `None`: frames do.
    #[must_use]
    pub fn foreign_trouble(&self, ip: IpAddr) -> Option<String> {
        let Some(ours) = self.vtep() else {
            return Some(self.vtep_trouble());
        };
        if !self.config.trusted.iter().any(|net| net.contains(&ip)) {
            return Some(format!(
                "{ip} is in no subnet under `trusted` of [underlay] any more"
            ));
        }
        (ours.ip.is_ipv4() != ip.is_ipv4()).then(|| {
            format!(
                "this node takes VXLAN at {}, which is of the other IP version",
                ours.ip
            )
        })
    }

    /// Why this node takes no VXLAN, in words.
    fn vtep_trouble(&self) -> String {
        let config = &self.config;
        if let Err(why) = &config.vxlan {
            return format!("this node has no VXLAN: {why}");
        }
        if let Some(by) = config.steps_back() {
            return format!("the daemon forwards all frames itself: {by}");
        }
        if !config.in_kernel() {
            return "the kernel's fast path is off: see `fast_path` under [kernel]".to_owned();
        }
        match &self.underlay {
            None => "the addresses of this node are not known yet".to_owned(),
            Some(_) => {
                "no address of this node is in a subnet under `trusted` of [underlay]".to_owned()
            }
        }
    }

    /// What the kernel is to have of a network; `None`: nothing.
    fn derive(&self, vni: Vni, around: Around<'_>) -> Option<NetworkPlan> {
        let directory = &around.mesh.directory;
        let def = directory.network_by_vni(vni)?;
        if !self.config.in_kernel() {
            return None;
        }
        let mut ports: BTreeMap<PortId, BTreeSet<MacAddr>> = around
            .ports
            .iter()
            .filter(|(record, state, _)| record.vni == vni && *state == PortState::Ready)
            // The guards of an uplink are the daemon's: its frames do not stay in the kernel.
            .filter(|(record, ..)| record.kind.uplink().is_none())
            .map(|(record, ..)| (record.id, BTreeSet::from([record.mac])))
            .collect();
        let gateway = around.vteps.of(vni);
        if ports.is_empty() && gateway.is_none() {
            return None;
        }
        let all = gateway.iter().flat_map(|g| g.list.keys()).copied();
        let reached: BTreeSet<IpAddr> = all
            .filter(|ip| self.foreign_trouble(*ip).is_none())
            .collect();
        let mut foreign: BTreeMap<MacAddr, IpAddr> = BTreeMap::new();
        for (mac, place, how) in around.switch.macs(vni) {
            let Place::Port(port) = place else { continue };
            if let Some(gateway) = gateway
                && port == gateway.port
                && let Some(vtep) = gateway.vtep_of(mac)
                && reached.contains(&vtep)
            {
                foreign.insert(mac, vtep);
            }
            if let How::Learned { .. } = how
                && let Some(macs) = ports.get_mut(&port)
            {
                macs.insert(mac);
            }
        }
        let here: BTreeSet<MacAddr> = ports.values().flatten().copied().collect();
        let vxlan = self.vtep().map(|vtep| {
            let members: BTreeMap<NodeId, IpAddr> = directory
                .members_with_network(vni)
                .filter_map(|node| Some((node, self.vtep_of(directory, node)?)))
                .collect();
            VxlanPlan {
                local: vtep.ip,
                port: vtep.port,
                endpoints: directory
                    .endpoints(vni)
                    .filter(|(node, endpoint)| *node != self.me && !here.contains(&endpoint.mac))
                    .filter_map(|(node, endpoint)| Some((endpoint.mac, *members.get(&node)?)))
                    .chain(foreign)
                    .collect(),
                probes: members
                    .iter()
                    .map(|(node, vtep)| (probe_mac(node), *vtep))
                    .collect(),
                floods: reached.clone(),
                // None that is reached: nothing leads to their port.
                gateway: gateway
                    .filter(|_| !reached.is_empty())
                    .map(|gateway| gateway.port),
                fence: members.values().chain(&reached).copied().collect(),
            }
        });
        Some(NetworkPlan {
            mtu: def.mtu,
            ports,
            vxlan,
        })
    }

    /// Tells the path machine who could be reached by VXLAN on this network.
    fn refresh_candidates(&mut self, vni: Vni, around: Around<'_>, now: Moment) {
        let directory = &around.mesh.directory;
        let has = self.held.get(&vni).and_then(|held| held.plan.as_ref());
        let device = has.is_some_and(|plan| plan.vxlan.is_some());
        // Before the kernel's first answer it may well be there, from an earlier run.
        let unknown = !self.held.contains_key(&vni) && self.adopts;
        self.paths.device(vni, device || unknown, now);
        let here = Side {
            vxlan: self.config.vxlan.is_ok() && self.config.in_kernel(),
            vtep: self.vtep().map(|vtep| vtep.ip),
            trusted: self.config.trusted.clone(),
        };
        let mut members: BTreeSet<NodeId> = BTreeSet::new();
        if let Some(def) = directory
            .network_by_vni(vni)
            .filter(|_| around.ports.networks().contains(&vni))
        {
            members.extend(directory.members_with_network(vni));
            for &node in &members {
                let there = directory
                    .advert(node)
                    .map_or_else(Side::default, |advert| Side {
                        vxlan: advert.vtep.is_some(),
                        vtep: advert.vtep.map(|vtep| vtep.ip),
                        trusted: advert.trusted.clone(),
                    });
                let candidate = Candidate {
                    here: here.clone(),
                    there,
                    session: around.mesh.session_of(node).is_some(),
                    mtu: def.mtu,
                };
                self.paths.set(node, vni, &candidate, now);
                if self.adopts
                    && around.switch.is_adopting()
                    && !self.adopted.contains(&(vni, node))
                {
                    // Once; what it comes to after that is its own.
                    if self.paths.adopt(node, vni, now) {
                        self.adopted.insert((vni, node));
                    }
                }
            }
        }
        let before = self
            .candidates
            .insert(vni, members.clone())
            .unwrap_or_default();
        for &node in before.difference(&members) {
            self.paths.remove(node, vni, now);
            self.removed.insert((vni, node));
        }
    }

    /// Does what is due. `true` for networks whose plane the switch has to be told anew.
    pub(crate) fn settle(
        &mut self,
        around: Around<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> BTreeSet<Vni> {
        let mut changed = BTreeSet::new();
        let started = *self.started.get_or_insert(now.moment);
        let early = self.adopts && now.moment.ms_since(started) < SYNC_MS;
        if self.due.is_some_and(|due| due <= now.moment) {
            self.due = None;
            for vni in std::mem::take(&mut self.dirty) {
                self.refresh_candidates(vni, around, now.moment);
                changed.insert(vni);
                if early && lacks_endpoints(vni, &around.mesh.directory) {
                    self.dirty.insert(vni);
                    self.due = Some(now.moment.plus_ms(GATHER_MS));
                    continue;
                }
                let plan = self.derive(vni, around);
                if plan.as_ref() != self.asked.get(&vni).map(|asked| &**asked) {
                    let plan = plan.map(Arc::new);
                    match &plan {
                        Some(plan) => self.asked.insert(vni, Arc::clone(plan)),
                        None => self.asked.remove(&vni),
                    };
                    out.push(Output::Plan { vni, plan });
                }
            }
        }
        changed.extend(self.follow_paths(around, out));
        changed
    }

    /// The kernel has this now.
    pub fn planned(
        &mut self,
        vni: Vni,
        network: &str,
        plan: Option<Arc<NetworkPlan>>,
        problems: Vec<String>,
        now: Moment,
        out: &mut Outbox,
    ) {
        let before = self.held.remove(&vni).unwrap_or_default();
        for reason in problems.iter().filter(|p| !before.problems.contains(p)) {
            out.push(Output::Notice(Notice::KernelTrouble {
                vni,
                network: network.to_owned(),
                reason: reason.clone(),
            }));
        }
        if plan.is_some() || !problems.is_empty() {
            self.held.insert(vni, Held { plan, problems });
        }
        self.touch(vni, now);
    }

    /// What the switch is to believe of a network.
    #[must_use]
    pub(crate) fn plane(&self, vni: Vni, directory: &Directory, vteps: &Vteps) -> Option<Plane> {
        let plan = self.held.get(&vni)?.plan.as_ref()?;
        // What is about to be taken away is not relied on any more: gates close before the bridge forgets.
        let asked = self.asked.get(&vni)?;
        let here = plan
            .ports
            .iter()
            .filter_map(|(port, macs)| Some((*port, macs, asked.ports.get(port)?)))
            .flat_map(|(port, macs, stay)| macs.intersection(stay).map(move |&mac| (mac, port)))
            .collect();
        let stays = |mac: &MacAddr, vtep: &IpAddr| {
            let vxlan = asked.vxlan.as_ref();
            vxlan.is_some_and(|vxlan| vxlan.endpoints.get(mac) == Some(vtep))
        };
        let there = plan.vxlan.iter().flat_map(|vxlan| &vxlan.endpoints);
        let there = there.filter(|(mac, vtep)| stays(mac, vtep));
        let there = there
            .filter_map(|(&mac, &vtep)| {
                let (node, _) = directory.mac(vni, mac)?;
                // The directory may be ahead of the kernel.
                (self.vtep_of(directory, node) == Some(vtep)).then_some((mac, node))
            })
            .collect();
        let foreign = vteps.of(vni).map_or_else(BTreeMap::new, |gateway| {
            let known = plan.vxlan.iter().flat_map(|vxlan| &vxlan.endpoints);
            let behind = known.filter(|(mac, vtep)| {
                stays(mac, vtep)
                    && gateway.vtep_of(**mac) == Some(**vtep)
                    && directory
                        .mac(vni, **mac)
                        .is_none_or(|(node, _)| node == self.me)
            });
            behind.map(|(&mac, _)| (mac, gateway.port)).collect()
        });
        let of =
            |(&(of, node), &slot): (&(Vni, NodeId), &PathSlot)| (of == vni).then_some((node, slot));
        let slots: BTreeMap<NodeId, PathSlot> = self
            .slots
            .range((vni, NodeId([0; 32]))..=(vni, NodeId([0xff; 32])))
            .filter_map(of)
            .collect();
        Some(Plane {
            here,
            foreign,
            there,
            open: slots
                .iter()
                .filter(|(node, _)| self.open.contains(&(vni, **node)))
                .map(|(&node, &slot)| (node, slot))
                .collect(),
            slots,
            vxlan: plan.vxlan.is_some(),
        })
    }

    /// The number of a path, a new one if it has none yet; `None`: there are as many as may be.
    fn slot(&mut self, vni: Vni, node: NodeId) -> Option<PathSlot> {
        if let Some(slot) = self.slots.get(&(vni, node)) {
            return Some(*slot);
        }
        let slot = self.free.pop().or_else(|| {
            let slot = PathSlot(self.next_slot);
            (slot.0 < SLOTS_MAX).then(|| {
                self.next_slot += 1;
                slot
            })
        })?;
        self.slots.insert((vni, node), slot);
        Some(slot)
    }

    /// Does what the path machine wants.
    fn follow_paths(&mut self, around: Around<'_>, out: &mut Outbox) -> BTreeSet<Vni> {
        let mut changed = BTreeSet::new();
        let directory = &around.mesh.directory;
        while let Some(output) = self.paths.poll_output() {
            match output {
                path::Output::Probe { vni, probe, .. } => out.push(Output::Probe { vni, probe }),
                path::Output::Report { peer, reports } => {
                    if let Some(session) = around.mesh.session_of(peer) {
                        out.push(Output::Message {
                            session,
                            message: Message::Paths(reports),
                        });
                    }
                }
                path::Output::Open { peer, vni } => {
                    if let Some(slot) = self.slot(vni, peer) {
                        self.open.insert((vni, peer));
                        out.push(Output::Gate(GateOp::Path { slot, open: true }));
                        changed.insert(vni);
                    }
                }
                path::Output::Close { peer, vni } => {
                    self.open.remove(&(vni, peer));
                    if let Some(&slot) = self.slots.get(&(vni, peer)) {
                        out.push(Output::Gate(GateOp::Path { slot, open: false }));
                        changed.insert(vni);
                    }
                }
                path::Output::Changed {
                    peer,
                    vni,
                    transition,
                } => {
                    let name = directory
                        .member(peer)
                        .map(|m| m.name.to_string())
                        .unwrap_or_default();
                    out.push(Output::Notice(Notice::Path {
                        vni,
                        node: peer,
                        name,
                        from: transition.from,
                        to: transition.to,
                        reason: transition.reason,
                        evidence: transition.evidence,
                    }));
                }
            }
        }
        for (vni, node) in std::mem::take(&mut self.removed) {
            let back = self
                .candidates
                .get(&vni)
                .is_some_and(|all| all.contains(&node));
            if let Some(slot) = self.slots.remove(&(vni, node)).filter(|_| !back) {
                out.push(Output::Gate(GateOp::Path { slot, open: false }));
                self.free.push(slot);
                changed.insert(vni);
            }
        }
        changed
    }

    // What comes in.

    /// A probe came in by the VXLAN device of `vni`.
    pub fn probe(&mut self, vni: Vni, frame: &[u8], now: Moment) {
        self.paths.frame(vni, frame, now);
    }

    /// A peer tells what it heard of us.
    pub fn reports(&mut self, peer: NodeId, reports: &[PathReport], now: Moment) {
        for report in reports {
            self.paths.report(peer, report, now);
        }
    }

    /// The gates counted.
    pub fn traffic(&mut self, counted: &[PathTraffic], now: Moment) {
        let by_slot: BTreeMap<PathSlot, (Vni, NodeId)> =
            self.slots.iter().map(|(&at, &slot)| (slot, at)).collect();
        for traffic in counted {
            if let Some(&(vni, node)) = by_slot.get(&traffic.slot) {
                self.paths.traffic(node, vni, traffic.passed, now);
            }
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.paths.handle_timeout(now);
    }

    /// When something is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        let plan = self.due.map(|due| (due, "planes: a plan is derived"));
        let paths = self
            .paths
            .poll_timeout()
            .map(|due| (due, "paths: probes and verdicts"));
        plan.into_iter().chain(paths).min()
    }

    /// Nothing is about to change any more of what an earlier run left: plans are done and paths are decided.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let done = |(vni, plan): (&Vni, &Arc<NetworkPlan>)| {
            self.held
                .get(vni)
                .is_some_and(|held| held.plan.as_ref() == Some(plan) || !held.problems.is_empty())
        };
        self.due.is_none()
            && self.asked.iter().all(done)
            && self
                .paths
                .views(Moment(0))
                .all(|path| path.state != PathState::Proving)
    }

    /// Peers whose kernel forwards to us, as far as was seen in the last seconds.
    pub(crate) fn heard(&self, now: Moment) -> BTreeSet<NodeId> {
        let peers: BTreeSet<NodeId> = self.open.iter().map(|(_, node)| *node).collect();
        let heard = |node: &NodeId| self.paths.hears(*node, HEARD_MS, now);
        peers.into_iter().filter(heard).collect()
    }

    // What others may read.

    /// How the paths are.
    pub fn paths(&self, now: Moment) -> impl Iterator<Item = PathView> + '_ {
        self.paths.views(now)
    }

    /// What is not as it is to be, by network.
    pub fn problems(&self) -> impl Iterator<Item = (Vni, &str)> {
        self.held
            .iter()
            .flat_map(|(&vni, held)| held.problems.iter().map(move |p| (vni, p.as_str())))
    }
}
