//! The kernel plan: what the kernel is to have of each network, as a value, and the steps from what it has to that.
//!
//! ```text
//!   ports, directory, trust --derive (machine.rs)--> NetworkPlan ---+
//!                                                                   +--diff--> steps, in order --> the shell does them
//!   what bears our mark ----observe (shell)-------> NetworkScene ---+
//! ```
//!
//! Owns the shape of the scene and the order of steps. Refuses to know devices that do not bear our mark: they are not in a
//! scene, so no step can touch them. Which flows pass the gates is not part of it (`offload.rs`): they change with traffic.
//!
//! **Order.** A way is opened from its far end to its near end and closed the other way round, so that no frame enters a way
//! that does not lead out: fence, VXLAN device, its FDB, then the bridge's FDB; MACs of ports last, since only they let others'
//! frames in. What is to be closed is closed before anything is opened, except that an FDB entry whose MAC merely moved is
//! replaced in one step.

use crate::ident::{MacAddr, PortId, Vni};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What the kernel is to have for one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// Bytes of layer 3 payload; of the bridge and the VXLAN device.
    pub mtu: u16,
    /// Ports on the bridge, with the MACs behind each.
    pub ports: BTreeMap<PortId, BTreeSet<MacAddr>>,
    /// The tunnels' end, where the underlay is trusted.
    pub vxlan: Option<VxlanPlan>,
}

/// What the network's VXLAN device is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanPlan {
    /// This node's VTEP.
    pub local: IpAddr,
    /// UDP port, of all VTEPs.
    pub port: u16,
    /// Endpoints of other nodes, and the VTEP of each.
    pub endpoints: BTreeMap<MacAddr, IpAddr>,
    /// MACs that only probes are sent to.
    pub probes: BTreeMap<MacAddr, IpAddr>,
    /// Foreign VTEPs: they also get what is for all, and what nobody knows.
    pub floods: BTreeSet<IpAddr>,
    /// The port that stands for them: what the daemon sends to it leaves by the device.
    pub gateway: Option<PortId>,
    /// From whom VXLAN of this network is taken.
    pub fence: BTreeSet<IpAddr>,
}

/// What the kernel has for one network, of ours. What differs from how we make it in a way that no field tells is shown as
/// absent, so that it is made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkScene {
    /// MTU of the bridge, if there is one and it is up.
    pub bridge: Option<u16>,
    /// Ports on the bridge with all flags right, with the MACs that the bridge knows behind each.
    pub ports: BTreeMap<PortId, BTreeSet<MacAddr>>,
    /// The VXLAN device.
    pub vxlan: Option<VxlanScene>,
    /// From whom VXLAN of this network is taken; `None`: the network is not fenced.
    pub fence: Option<BTreeSet<IpAddr>>,
}

/// What the kernel has of a VXLAN device of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanScene {
    /// Its address.
    pub local: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// Its MTU.
    pub mtu: u16,
    /// Whole: it is on the bridge with all flags right, its gate is in place, its TAP is there, and it is up.
    pub ready: bool,
    /// Its FDB.
    pub fdb: BTreeMap<MacAddr, IpAddr>,
    /// Default destinations.
    pub floods: BTreeSet<IpAddr>,
    /// MACs that the bridge knows behind it.
    pub bridged: BTreeSet<MacAddr>,
}

/// One step. Steps of one kind that follow each other may be done together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    /// The bridge forgets a MAC: no more frames to it stay in the kernel.
    Unbridge { mac: MacAddr, behind: Behind },
    /// The VXLAN device forgets a MAC.
    Unlearn { mac: MacAddr },
    /// The VXLAN device forgets a default destination.
    Unflood { vtep: IpAddr },
    /// The VXLAN device goes, with all it knows.
    RemoveVxlan,
    /// A port leaves the bridge.
    Leave { port: PortId },
    /// The bridge goes.
    RemoveBridge,
    /// The fence takes no more from these; `whole`: nor from anybody.
    Bar {
        vteps: BTreeSet<IpAddr>,
        whole: bool,
    },
    /// The fence stands, and takes from these.
    Admit { vteps: BTreeSet<IpAddr> },
    /// The bridge is made, or its MTU set.
    MakeBridge { mtu: u16 },
    /// The VXLAN device is made whole: made, on the bridge, gated, with its TAP, up. It keeps what it knows.
    MakeVxlan { local: IpAddr, port: u16, mtu: u16 },
    /// The VXLAN device learns where a MAC is, or where it is now.
    Learn { mac: MacAddr, vtep: IpAddr },
    /// The VXLAN device gets one more default destination.
    Flood { vtep: IpAddr },
    /// A port joins the bridge.
    Join { port: PortId },
    /// The bridge learns where a MAC is, or where it is now.
    Bridge { mac: MacAddr, behind: Behind },
}

impl Step {
    /// Does it, or what it prepares, let frames in from other hosts? Then the fence comes first.
    #[must_use]
    pub fn opens_vxlan(&self) -> bool {
        matches!(
            self,
            Self::MakeVxlan { .. }
                | Self::Learn { .. }
                | Self::Flood { .. }
                | Self::Bridge {
                    behind: Behind::Vxlan,
                    ..
                }
        )
    }
}

/// Which device of the bridge a MAC is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behind {
    /// A port's.
    Port(PortId),
    /// The VXLAN device.
    Vxlan,
}

impl NetworkPlan {
    /// Is a frame to `mac` delivered by the kernel, once this plan holds?
    #[must_use]
    pub fn reaches(&self, mac: MacAddr) -> Option<Behind> {
        let port = self.ports.iter().find(|(_, macs)| macs.contains(&mac));
        port.map(|(&port, _)| Behind::Port(port)).or_else(|| {
            let vxlan = self.vxlan.as_ref()?;
            vxlan.endpoints.contains_key(&mac).then_some(Behind::Vxlan)
        })
    }

    /// The scene that this plan asks for.
    #[must_use]
    pub fn scene(&self) -> NetworkScene {
        NetworkScene {
            bridge: Some(self.mtu),
            ports: self.ports.clone(),
            vxlan: self.vxlan.as_ref().map(|vxlan| VxlanScene {
                local: vxlan.local,
                port: vxlan.port,
                mtu: self.mtu,
                ready: true,
                fdb: vxlan.fdb(),
                floods: vxlan.floods.clone(),
                bridged: vxlan.endpoints.keys().copied().collect(),
            }),
            fence: self.vxlan.as_ref().map(|vxlan| vxlan.fence.clone()),
        }
    }
}

impl VxlanPlan {
    fn fdb(&self) -> BTreeMap<MacAddr, IpAddr> {
        let mut fdb = self.probes.clone();
        fdb.extend(self.endpoints.iter().map(|(&mac, &vtep)| (mac, vtep)));
        fdb
    }
}

impl NetworkScene {
    fn bridged(&self) -> BTreeMap<MacAddr, BTreeSet<Behind>> {
        let mut all: BTreeMap<MacAddr, BTreeSet<Behind>> = BTreeMap::new();
        for (&port, macs) in &self.ports {
            for &mac in macs {
                all.entry(mac).or_default().insert(Behind::Port(port));
            }
        }
        for &mac in self.vxlan.iter().flat_map(|vxlan| &vxlan.bridged) {
            all.entry(mac).or_default().insert(Behind::Vxlan);
        }
        all
    }
}

/// The steps from `scene` to `plan` of one network, in order; none if all is as it should be. `None`: the network is to have
/// nothing in the kernel.
#[must_use]
pub fn diff(scene: &NetworkScene, plan: Option<&NetworkPlan>) -> Vec<Step> {
    let wanted = plan.map(NetworkPlan::scene).unwrap_or_default();
    let mut steps = Vec::new();
    let (has, wants) = (scene.bridged(), wanted.bridged());
    // A device that is made anew takes its FDB entries with it.
    let remade = |there: &VxlanScene| {
        wanted
            .vxlan
            .as_ref()
            .is_none_or(|w| (w.local, w.port) != (there.local, there.port))
    };
    let old = scene.vxlan.as_ref();
    let kept = old.filter(|there| !remade(there));

    // Closing: near before far.
    for (&mac, places) in &has {
        for &behind in places {
            let stays = wants
                .get(&mac)
                .is_some_and(|w| w.contains(&behind) || places.len() == 1);
            if !stays {
                steps.push(Step::Unbridge { mac, behind });
            }
        }
    }
    if let (Some(there), Some(wanted)) = (kept, &wanted.vxlan) {
        for &mac in there.fdb.keys() {
            if !wanted.fdb.contains_key(&mac) {
                steps.push(Step::Unlearn { mac });
            }
        }
        for &vtep in there.floods.difference(&wanted.floods) {
            steps.push(Step::Unflood { vtep });
        }
    }
    if old.is_some() && kept.is_none() {
        steps.push(Step::RemoveVxlan);
    }
    for &port in scene.ports.keys() {
        if !wanted.ports.contains_key(&port) {
            steps.push(Step::Leave { port });
        }
    }
    if scene.bridge.is_some() && wanted.bridge.is_none() {
        steps.push(Step::RemoveBridge);
    }
    if let Some(admitted) = &scene.fence {
        let none = BTreeSet::new();
        let wanted_fence = wanted.fence.as_ref();
        let vteps: BTreeSet<IpAddr> = admitted
            .difference(wanted_fence.unwrap_or(&none))
            .copied()
            .collect();
        let whole = wanted_fence.is_none();
        if whole || !vteps.is_empty() {
            steps.push(Step::Bar { vteps, whole });
        }
    }

    // Opening: far before near.
    if let Some(fence) = &wanted.fence {
        let none = BTreeSet::new();
        let vteps: BTreeSet<IpAddr> = fence
            .difference(scene.fence.as_ref().unwrap_or(&none))
            .copied()
            .collect();
        if scene.fence.is_none() || !vteps.is_empty() {
            steps.push(Step::Admit { vteps });
        }
    }
    if let Some(mtu) = wanted.bridge
        && scene.bridge != wanted.bridge
    {
        steps.push(Step::MakeBridge { mtu });
    }
    if let Some(wanted) = &wanted.vxlan {
        if kept.is_none_or(|there| !there.ready || there.mtu != wanted.mtu)
            || scene.bridge.is_none()
        {
            steps.push(Step::MakeVxlan {
                local: wanted.local,
                port: wanted.port,
                mtu: wanted.mtu,
            });
        }
        for (&mac, &vtep) in &wanted.fdb {
            if kept.is_none_or(|there| there.fdb.get(&mac) != Some(&vtep)) {
                steps.push(Step::Learn { mac, vtep });
            }
        }
        for &vtep in &wanted.floods {
            if kept.is_none_or(|there| !there.floods.contains(&vtep)) {
                steps.push(Step::Flood { vtep });
            }
        }
    }
    for &port in wanted.ports.keys() {
        if !scene.ports.contains_key(&port) || scene.bridge.is_none() {
            steps.push(Step::Join { port });
        }
    }
    for (&mac, places) in &wants {
        for &behind in places {
            let lost = scene.bridge.is_none() || (behind == Behind::Vxlan && kept.is_none());
            if lost || !has.get(&mac).is_some_and(|h| h.contains(&behind)) {
                steps.push(Step::Bridge { mac, behind });
            }
        }
    }
    steps
}

/// The networks of a node, as the kernel is to have them.
pub type Plan = BTreeMap<Vni, NetworkPlan>;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
