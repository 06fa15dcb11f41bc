//! The executor: makes the kernel's side of each network as the node planned it, and makes it so again when somebody else
//! changed it.
//!
//! ```text
//!   Output::Plan --wish--> [latest plan of each network] --+
//!   devices, FDB disturbed (kernel/monitor.rs) ------------+--> observe -> diff (plan.rs) -> steps -> observe again
//!   fence disturbed: VXLAN devices down first -------------+                                            |
//!                                                                 what it has now --> KernelEvent::Planned
//! ```
//!
//! Owns the order of acts and the networks' VXLAN TAPs while they are made. Decides nothing: what is to be there is a plan,
//! and what to do for it is `plan::diff`. A step that fails is told, and the others are done; it is tried again with the next
//! plan, and every few seconds.

use crate::driver::{Carry, DriverHandle};
use crate::kernel::{
    Disturbance, FdbChange, FdbEntry, FdbTarget, FenceReading, FenceState, Kernel, NetworkRole,
    Part, VxlanSpec,
};
use crate::telemetry::{self, operation};
use meshd_core::code::ErrorCode;
use meshd_core::ident::{MacAddr, PortId, Vni};
use meshd_core::node::{Input, KernelEvent};
use meshd_core::notice::Notice;
use meshd_core::plan::{Behind, NetworkPlan, NetworkScene, Step, VxlanPlan, VxlanScene, diff};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

/// A network whose plan could not be carried out is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// The kernel is asked again so often, and after so long, where it could not be read.
const LOOKS_MAX: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// After wishes were carried out the next ones wait this many times as long as that took, and at most so long: while very many
/// ports are made, each looks at all others of its network, and many wishes at once cost as one does.
const REST: u32 = 2;
const REST_MAX: Duration = Duration::from_millis(250);
/// Passes over one network in a row, before it is left until the retry.
const PASSES_MAX: u32 = 3;

/// Latest wishes that were not looked at yet; `None`: nothing is to be left.
type Wishes = BTreeMap<Vni, Option<Arc<NetworkPlan>>>;

/// Takes plans.
#[derive(Clone)]
pub(crate) struct Executor {
    wishes: Arc<Mutex<Wishes>>,
    wake: Arc<Notify>,
}

/// What the executor works with.
pub(crate) struct Tools {
    /// Netlink, nf_tables, gates.
    pub(crate) kernel: Kernel,
    /// Gets TAPs of VXLAN devices, and is told what was repaired.
    pub(crate) driver: DriverHandle,
    /// Gets what the kernel has.
    pub(crate) inputs: mpsc::Sender<Input>,
    /// UDP port of VXLAN.
    pub(crate) port: u16,
}

impl Executor {
    /// Starts the task.
    pub(crate) fn start(tools: Tools) -> Self {
        let executor = Self {
            wishes: Arc::default(),
            wake: Arc::default(),
        };
        let work = Work {
            tools,
            wanted: BTreeMap::new(),
            whole: BTreeMap::new(),
            told: BTreeMap::new(),
            trouble: BTreeSet::new(),
            awaits: false,
            rest: Instant::now(),
        };
        tokio::spawn(work.run(executor.clone()));
        executor
    }

    /// The kernel's side of `vni` is to be like this from now on.
    pub(crate) fn wish(&self, vni: Vni, plan: Option<Arc<NetworkPlan>>) {
        tracing::debug!(%vni, ?plan, "a plan for the kernel");
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.insert(vni, plan);
        self.wake.notify_one();
    }

    fn take(&self) -> Wishes {
        std::mem::take(&mut self.wishes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the executor told last of a network.
type Told = (Option<Arc<NetworkPlan>>, Vec<String>);

struct Work {
    tools: Tools,
    wanted: BTreeMap<Vni, Arc<NetworkPlan>>,
    /// Networks whose VXLAN device this run has made whole: the indices of the device and of its TAP.
    whole: BTreeMap<Vni, (u32, u32)>,
    told: BTreeMap<Vni, Told>,
    /// Networks to be tried again.
    trouble: BTreeSet<Vni>,
    /// A port had no device when it was to join: it is on its way out, or about to be made anew.
    awaits: bool,
    /// No wishes are taken before.
    rest: Instant,
}

impl Work {
    async fn run(mut self, executor: Executor) {
        let mut watch = self.tools.kernel.fence().watch().ok();
        loop {
            let retry = tokio::time::sleep(RETRY);
            let fence = async {
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let rest = self.rest;
            let wished = async {
                tokio::time::sleep_until(rest).await;
                executor.wake.notified().await;
            };
            tokio::select! {
                () = wished => self.fulfil(executor.take()).await,
                all = self.tools.kernel.disturbed() => self.disturbed(&all).await,
                changed = fence => match changed {
                    Ok(()) => self.look_at_fence().await,
                    Err(error) => {
                        tracing::warn!(code = %ErrorCode::FenceFailed, %error, "the fence cannot be watched any more");
                        watch = self.tools.kernel.fence().watch().ok();
                        self.look_at_fence().await;
                    }
                },
                () = retry, if !self.trouble.is_empty() => {
                    for vni in std::mem::take(&mut self.trouble) {
                        self.carry_out(vni, None).await;
                    }
                }
            }
        }
    }

    async fn fulfil(&mut self, wishes: Wishes) {
        let start = Instant::now();
        for (vni, plan) in wishes {
            match plan {
                Some(plan) => self.wanted.insert(vni, plan),
                None => self.wanted.remove(&vni),
            };
            self.carry_out(vni, None).await;
        }
        let end = Instant::now();
        self.rest = end + ((end - start) * REST).min(REST_MAX);
    }

    async fn disturbed(&mut self, all: &BTreeSet<Disturbance>) {
        let mut by_network: BTreeMap<Vni, Vec<String>> = BTreeMap::new();
        for disturbance in all {
            let port = match disturbance.part {
                Part::Port(index) => self.tools.kernel.port_of(index),
                Part::Device(_) | Part::Fdb => None,
            };
            by_network
                .entry(disturbance.vni)
                .or_default()
                .push(disturbance.told(port));
        }
        for (vni, what) in by_network {
            self.carry_out(vni, Some(what.join("; "))).await;
        }
    }

    /// Somebody else changed something of nf_tables: if the fence is not as it was, no VXLAN comes in until it is again.
    async fn look_at_fence(&mut self) {
        let wanted = self.fence_wanted();
        if wanted.vnis.is_empty() {
            return;
        }
        let found = self.tools.kernel.fence().read().await;
        if let Ok(FenceReading::Whole(state)) = &found
            && (state.port, &state.vnis, &state.members)
                == (wanted.port, &wanted.vnis, &wanted.members)
        {
            return;
        }
        let fenced: Vec<Vni> = wanted.vnis.iter().copied().collect();
        for &vni in &fenced {
            if let Err(error) = self.close_vxlan(vni).await {
                tracing::error!(code = %ErrorCode::FenceFailed, %vni, %error, "the fence is gone, and the VXLAN device cannot be set down");
            }
        }
        for vni in fenced {
            self.carry_out(vni, Some("the fence (nf_tables)".to_owned()))
                .await;
        }
    }

    /// The fence of all networks as they are wanted.
    fn fence_wanted(&self) -> FenceState {
        let mut state = FenceState {
            port: self.tools.port,
            ..FenceState::default()
        };
        for (&vni, plan) in &self.wanted {
            if let Some(vxlan) = &plan.vxlan {
                state.vnis.insert(vni);
                state
                    .members
                    .extend(vxlan.fence.iter().map(|ip| (*ip, vni)));
            }
        }
        state
    }

    /// Makes one network as it is to be. `disturbed`: what somebody else did to it.
    async fn carry_out(&mut self, vni: Vni, disturbed: Option<String>) {
        let span = operation!("carry out plan", vni = vni.get());
        self.pass_by_pass(vni, disturbed).instrument(span).await;
    }

    async fn pass_by_pass(&mut self, vni: Vni, mut disturbed: Option<String>) {
        let plan = self.wanted.get(&vni).cloned();
        let left = self.told.get(&vni).and_then(|(plan, problems)| {
            let whole = plan.clone().filter(|_| problems.is_empty())?;
            Some(whole)
        });
        let (mut problems, mut acted) = (Vec::new(), false);
        self.awaits = false;
        let mut scene = NetworkScene::default();
        for pass in 0..=PASSES_MAX {
            scene = match self.observe(vni).await {
                Ok(scene) => scene,
                Err(reason) => {
                    problems.push(reason);
                    break;
                }
            };
            let steps = diff(&scene, plan.as_deref());
            if steps.is_empty() || pass == PASSES_MAX {
                break;
            }
            // A wish may come before the news of what somebody else did, or that news was lost.
            if let (0, None, Some(left)) = (pass, &disturbed, &left) {
                disturbed = missing(&scene, left);
            }
            acted = true;
            problems = self.act(vni, &steps).await;
        }
        if problems.is_empty() && !self.awaits {
            self.trouble.remove(&vni);
        } else {
            self.trouble.insert(vni);
        }
        if plan.as_ref().is_none_or(|plan| plan.vxlan.is_none()) {
            self.forget_vxlan(vni).await;
        }
        if let Some(what) = disturbed.filter(|_| acted && problems.is_empty()) {
            let name = self.tools.driver.view(move |node, _, _| {
                let def = node.directory().network_by_vni(vni);
                def.map(|def| def.name.to_string())
            });
            let network = name.await.ok().flatten();
            let network = network.unwrap_or_else(|| vni.to_string());
            self.tools
                .driver
                .notice(Notice::KernelRepaired { vni, network, what });
        }
        let has = held(&scene, plan.as_deref()).map(Arc::new);
        let news = (has.clone(), problems.clone());
        // Told also if nothing changed: who asked waits for it.
        self.told.insert(vni, news);
        if let Some(problem) = problems.first() {
            telemetry::failed(&Span::current(), ErrorCode::KernelTrouble, problem);
        }
        let event = KernelEvent::Planned {
            vni,
            plan: has,
            problems,
        };
        let _ = self.tools.inputs.send(Input::Kernel(event)).await;
    }

    async fn forget_vxlan(&mut self, vni: Vni) {
        if self.whole.remove(&vni).is_some() {
            self.tools.driver.carry(Carry::VxlanGone(vni)).await;
            // The TAP is free now.
            if let Err(error) = self.tools.kernel.remove(vni, NetworkRole::Vtap).await {
                tracing::warn!(code = %ErrorCode::LeftoversKept, %vni, %error, "the TAP of a VXLAN device stays");
            }
        }
    }

    /// As [`Self::look`], with patience: while others change devices in a storm, no list of them comes out whole.
    async fn observe(&self, vni: Vni) -> Result<NetworkScene, String> {
        for _ in 0..LOOKS_MAX {
            if let Ok(scene) = self.look(vni).await {
                return Ok(scene);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.look(vni).await
    }

    /// What the kernel has of a network, in the words of plans.
    async fn look(&self, vni: Vni) -> Result<NetworkScene, String> {
        let kernel = &self.tools.kernel;
        let seen = kernel.observe(vni).await.map_err(|e| e.to_string())?;
        let table = kernel.read_fdb(vni).await.map_err(|e| e.to_string())?;
        let of = |role| seen.devices.get(&role);
        let bridge = of(NetworkRole::Bridge);
        let vxlan = of(NetworkRole::Vxlan);
        let mut scene = NetworkScene {
            bridge: bridge
                .filter(|_| !seen.odd.contains(&NetworkRole::Bridge))
                .and_then(|device| u16::try_from(device.mtu).ok()),
            ..NetworkScene::default()
        };
        let mut ports: BTreeMap<u32, PortId> = BTreeMap::new();
        for (&index, &right) in &seen.ports {
            if let Some(port) = kernel.port_of(index).filter(|_| right) {
                ports.insert(index, port);
                scene.ports.insert(port, BTreeSet::new());
            }
        }
        scene.vxlan = vxlan.map(|device| {
            let in_bridge = seen.ports.get(&device.index) == Some(&true);
            let vtap = of(NetworkRole::Vtap).map(|vtap| vtap.index);
            let whole = self.whole.get(&vni) == vtap.map(|vtap| (device.index, vtap)).as_ref();
            let spec = seen.vxlan;
            VxlanScene {
                local: spec.map_or(IpAddr::from([0, 0, 0, 0]), |spec| spec.local),
                port: spec.map_or(0, |spec| spec.port),
                mtu: u16::try_from(device.mtu).unwrap_or(u16::MAX),
                ready: !seen.odd.contains(&NetworkRole::Vxlan)
                    && !seen.odd.contains(&NetworkRole::Vtap)
                    && in_bridge
                    && whole
                    && kernel.filter_stands(device.index)
                    && vtap.is_some_and(|vtap| kernel.filter_stands(vtap)),
                fdb: BTreeMap::new(),
                floods: BTreeSet::new(),
                bridged: BTreeSet::new(),
            }
        });
        for entry in &table.entries {
            match (entry.target, ports.get(&entry.device), &mut scene.vxlan) {
                (FdbTarget::Port, Some(port), _) => {
                    scene.ports.entry(*port).or_default().insert(entry.mac);
                }
                (FdbTarget::Port, None, Some(there)) => {
                    there.bridged.insert(entry.mac);
                }
                (FdbTarget::Vtep { ip, .. }, _, Some(there)) if entry.is_flood() => {
                    there.floods.insert(ip);
                }
                (FdbTarget::Vtep { ip, .. }, _, Some(there)) => {
                    there.fdb.insert(entry.mac, ip);
                }
                _ => {}
            }
        }
        // A kernel without nf_tables has no fence, and no VXLAN device of ours either.
        if let Ok(FenceReading::Whole(state)) = kernel.fence().read().await
            && state.port == self.tools.port
            && state.vnis.contains(&vni)
        {
            let members = state.members.iter().filter(|(_, of)| *of == vni);
            scene.fence = Some(members.map(|(ip, _)| *ip).collect());
        }
        Ok(scene)
    }

    /// Does the steps; FDB entries that follow each other go in one send. Answers what failed.
    /// While the fence is not as it is to be, nothing is done that lets VXLAN in, and the device goes down.
    async fn act(&mut self, vni: Vni, steps: &[Step]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut entries: Vec<FdbChange> = Vec::new();
        let mut fenced = true;
        for step in steps {
            if !fenced && step.opens_vxlan() {
                continue;
            }
            if let Some(change) = self.entry(vni, step) {
                entries.push(change);
                continue;
            }
            self.send(vni, &mut entries, &mut problems).await;
            // An entry whose device is not there yet is made in the next pass.
            if let Err(problem) = self.step(vni, step).await {
                problems.push(problem);
                if matches!(step, Step::Bar { .. } | Step::Admit { .. }) {
                    fenced = false;
                    problems.extend(self.close_vxlan(vni).await.err());
                }
            }
        }
        self.send(vni, &mut entries, &mut problems).await;
        problems
    }

    /// Nothing comes in by VXLAN from now on.
    async fn close_vxlan(&self, vni: Vni) -> Result<(), String> {
        let down = self.tools.kernel.set_up(vni, NetworkRole::Vxlan, false);
        down.await.map_err(|error| error.to_string())
    }

    async fn send(&self, vni: Vni, entries: &mut Vec<FdbChange>, problems: &mut Vec<String>) {
        if entries.is_empty() {
            return;
        }
        let failed = self.tools.kernel.change_fdb(vni, entries).await;
        let count = failed.len();
        problems.extend(
            failed
                .iter()
                .take(3)
                .map(|failure| format!("FDB entry {failure}")),
        );
        if count > 3 {
            problems.push(format!("and {} more FDB entries", count - 3));
        }
        entries.clear();
    }

    /// The step as a change of the FDB, if it is one.
    fn entry(&self, vni: Vni, step: &Step) -> Option<FdbChange> {
        let kernel = &self.tools.kernel;
        let vxlan = || kernel.network_device(vni, NetworkRole::Vxlan);
        let device = |behind| match behind {
            Behind::Port(port) => kernel.port_device(port),
            Behind::Vxlan => vxlan(),
        };
        let bridged = |mac, behind| {
            Some(FdbEntry {
                device: device(behind)?,
                mac,
                target: FdbTarget::Port,
            })
        };
        let learned = |mac, ip| {
            Some(FdbEntry {
                device: vxlan()?,
                mac,
                target: FdbTarget::Vtep { ip, port: None },
            })
        };
        match *step {
            Step::Unbridge { mac, behind } => bridged(mac, behind).map(FdbChange::Remove),
            Step::Bridge { mac, behind } => bridged(mac, behind).map(FdbChange::Set),
            // Whatever VTEP it is behind: the kernel looks at it only for the MAC zero.
            Step::Unlearn { mac } => {
                learned(mac, IpAddr::from([0, 0, 0, 0])).map(FdbChange::Remove)
            }
            Step::Learn { mac, vtep } => learned(mac, vtep).map(FdbChange::Set),
            Step::Flood { vtep } => learned(MacAddr::default(), vtep).map(FdbChange::Set),
            Step::Unflood { vtep } => learned(MacAddr::default(), vtep).map(FdbChange::Remove),
            _ => None,
        }
    }

    async fn step(&mut self, vni: Vni, step: &Step) -> Result<(), String> {
        let kernel = self.tools.kernel.clone();
        match step {
            Step::RemoveVxlan => kernel.remove(vni, NetworkRole::Vxlan).await,
            Step::Leave { port } => match kernel.port_device(*port) {
                Some(device) => kernel.leave(vni, device).await,
                None => Ok(()),
            },
            Step::Join { port } => match kernel.port_device(*port) {
                Some(device) => kernel.join(vni, device).await,
                // Of its loss the port itself tells; a container that ends is no trouble of its network.
                None => {
                    self.awaits = true;
                    Ok(())
                }
            },
            Step::RemoveBridge => kernel.remove(vni, NetworkRole::Bridge).await,
            Step::MakeBridge { mtu } => kernel.make_bridge(vni, *mtu).await.map(drop),
            Step::MakeVxlan { local, port, mtu } => {
                return self.make_vxlan(vni, *local, *port, *mtu).await;
            }
            Step::Bar { vteps, whole } => return self.refence(vni, vteps, *whole, false).await,
            Step::Admit { vteps } => return self.refence(vni, vteps, false, true).await,
            // Entries of devices that are not there: see `entry`.
            _ => Ok(()),
        }
        .map_err(|error| error.to_string())
    }

    /// Changes the fence of one network; those of others stay as they are, also if this run has not heard of them yet.
    async fn refence(
        &self,
        vni: Vni,
        vteps: &BTreeSet<IpAddr>,
        whole: bool,
        admit: bool,
    ) -> Result<(), String> {
        let fence = self.tools.kernel.fence();
        let mut state = match fence.read().await.map_err(|error| error.to_string())? {
            FenceReading::Whole(state) => state,
            _ => self.fence_wanted(),
        };
        state.port = self.tools.port;
        if admit {
            state.vnis.insert(vni);
            state.members.extend(vteps.iter().map(|ip| (*ip, vni)));
        } else {
            state
                .members
                .retain(|(ip, of)| *of != vni || !(whole || vteps.contains(ip)));
            if whole {
                state.vnis.remove(&vni);
            }
        }
        let done = if state.vnis.is_empty() {
            fence.remove().await
        } else {
            fence.write(&state).await
        };
        done.map_err(|error| error.to_string())
    }

    /// The VXLAN device, whole: made, with its TAP and its gate, on the bridge, up.
    async fn make_vxlan(
        &mut self,
        vni: Vni,
        local: IpAddr,
        port: u16,
        mtu: u16,
    ) -> Result<(), String> {
        let kernel = self.tools.kernel.clone();
        let spec = VxlanSpec {
            vni,
            local,
            port,
            mtu,
            checksum: true,
        };
        let text = |error: crate::kernel::NetworkError| error.to_string();
        let (device, _) = kernel.make_vxlan(&spec).await.map_err(text)?;
        let held = self.whole.get(&vni).map(|(_, vtap)| *vtap);
        let vtap = match held
            .filter(|vtap| kernel.network_device(vni, NetworkRole::Vtap) == Some(*vtap))
        {
            Some(vtap) => vtap,
            None => {
                self.tools.driver.carry(Carry::VxlanGone(vni)).await;
                let tap = kernel.make_vtap(vni, mtu).await.map_err(text)?;
                let index = tap.index();
                let carry = Carry::Vxlan { vni, mtu, tap };
                self.tools.driver.carry(carry).await;
                index
            }
        };
        kernel.gate_vxlan(vni, device.index, vtap, mtu).await?;
        kernel.join(vni, device.index).await.map_err(text)?;
        // Read again: a plan that changes nothing of the fence does not look at it.
        match kernel.fence().read().await {
            Ok(FenceReading::Whole(state)) if state.port == port && state.vnis.contains(&vni) => {}
            _ => {
                self.close_vxlan(vni).await?;
                return Err("the fence does not stand, so the VXLAN device stays down".to_owned());
            }
        }
        kernel
            .set_up(vni, NetworkRole::Vxlan, true)
            .await
            .map_err(text)?;
        self.whole.insert(vni, (device.index, vtap));
        Ok(())
    }
}

/// What a scene comes to, as a plan: what of it frames can rely on.
fn held(scene: &NetworkScene, plan: Option<&NetworkPlan>) -> Option<NetworkPlan> {
    let mtu = scene.bridge?;
    let wanted = plan.and_then(|plan| plan.vxlan.as_ref());
    let vxlan = scene.vxlan.as_ref().filter(|vxlan| vxlan.ready);
    Some(NetworkPlan {
        mtu,
        ports: scene.ports.clone(),
        vxlan: vxlan.zip(scene.fence.as_ref()).map(|(vxlan, fence)| {
            let is_endpoint = |mac: &MacAddr| vxlan.bridged.contains(mac);
            // A MAC of probes may also be an endpoint's only by accident.
            let probes = vxlan.fdb.iter().filter(|(mac, _)| {
                !is_endpoint(mac) || wanted.is_some_and(|w| w.probes.contains_key(*mac))
            });
            VxlanPlan {
                local: vxlan.local,
                port: vxlan.port,
                endpoints: vxlan
                    .fdb
                    .iter()
                    .filter(|(mac, _)| is_endpoint(mac))
                    .map(|(mac, vtep)| (*mac, *vtep))
                    .collect(),
                probes: probes.map(|(mac, vtep)| (*mac, *vtep)).collect(),
                floods: vxlan.floods.clone(),
                gateway: wanted.and_then(|wanted| wanted.gateway),
                fence: fence.clone(),
            }
        }),
    })
}

/// Devices that were left whole and are not any more, in words.
fn missing(scene: &NetworkScene, left: &NetworkPlan) -> Option<String> {
    let missing: Vec<&str> = diff(scene, Some(left))
        .iter()
        .filter_map(|step| match step {
            Step::MakeBridge { .. } => Some("the bridge is gone, or not as it was left"),
            Step::MakeVxlan { .. } => Some("the VXLAN device is gone, or not as it was left"),
            _ => None,
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}
