//! What a network has in the kernel, for who carries out the plan: each step by itself.
//!
//! ```text
//!    fence -> make_bridge, make_vtap, make_vxlan (down) -> filters -> join -> FDB -> set_up
//!    disturbed: somebody else changed something -> observe, read_fdb, fence().read(): the whole network again
//! ```
//!
//! Owns that no two steps on one network run at the same time. Refuses to decide what a network should have.

use super::disturbance::Disturbance;
use super::failure::Failure;
use super::fdb::{FdbChange, FdbFailure, FdbTable};
use super::fence::{Fence, FenceReading};
use super::marks::NetworkRole;
use super::netlink::Link;
use super::vtap::Vtap;
use super::vxlan::VxlanSpec;
use super::{Kernel, LANES, bridge, gate};
use meshd_core::ident::{PortId, Vni, escape};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::MutexGuard;

/// A step on a network's devices failed. What was there before is still there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NetworkError {
    /// Step, device, and what to do.
    pub reason: String,
}

impl From<Failure> for NetworkError {
    fn from(failure: Failure) -> Self {
        Self {
            reason: failure.reason,
        }
    }
}

/// A device as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDevice {
    /// The kernel's number of it.
    pub index: u32,
    /// Its name, escaped if it is no plain text.
    pub name: String,
    /// Of Layer 3, in bytes.
    pub mtu: u32,
    /// Is it up?
    pub is_up: bool,
    /// The device that it is a port of.
    pub master: Option<u32>,
}

impl From<&Link> for NetworkDevice {
    fn from(link: &Link) -> Self {
        Self {
            index: link.index,
            name: escape(&link.name),
            mtu: link.mtu,
            is_up: link.is_up(),
            master: link.master,
        }
    }
}

/// What a network has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its devices with our mark.
    pub devices: BTreeMap<NetworkRole, NetworkDevice>,
    /// The VXLAN device's settings, if they are such as we make: what [`Kernel::make_vxlan`] would find nothing to change
    /// in.
    pub vxlan: Option<VxlanSpec>,
    /// The ports of its bridge, by the index of their device; true: with flags as they should be.
    pub ports: BTreeMap<u32, bool>,
    /// Devices that are down, or in MAC or settings not as we make them.
    pub odd: BTreeSet<NetworkRole>,
}

impl Kernel {
    /// Held while a network is worked on.
    async fn network_lane(&self, vni: Vni) -> Option<MutexGuard<'_, ()>> {
        let lane = usize::try_from(vni.get()).unwrap_or_default() % LANES;
        match self.0.network_lanes.get(lane) {
            Some(lane) => Some(lane.lock().await),
            None => None,
        }
    }

    /// Makes the network's bridge, or adopts and repairs it. It is up then, and has no ports that it had not before.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub async fn make_bridge(&self, vni: Vni, mtu: u16) -> Result<NetworkDevice, NetworkError> {
        let _lane = self.network_lane(vni).await;
        let bridge = self.bench().make_bridge(vni, mtu).await?;
        Ok((&bridge).into())
    }

    /// Makes the network's VXLAN device, or adopts it; true: it is new, so it is down and in no bridge, and has no entry.
    /// With another address or port than it has, it is made anew.
    ///
    /// # Errors
    /// The step that the kernel refused; if another's device has the VNI on this port, its name.
    pub async fn make_vxlan(
        &self,
        spec: &VxlanSpec,
    ) -> Result<(NetworkDevice, bool), NetworkError> {
        let _lane = self.network_lane(spec.vni).await;
        let (device, is_new) = self.bench().make_vxlan(spec).await?;
        Ok(((&device).into(), is_new))
    }

    /// Makes the network's TAP with virtio-net headers, or adopts it, and raises it. It must not be open elsewhere, so drop
    /// an earlier one first.
    ///
    /// # Errors
    /// The step that the kernel refused; EBUSY while another descriptor is open on it.
    pub async fn make_vtap(&self, vni: Vni, mtu: u16) -> Result<Vtap, NetworkError> {
        let _lane = self.network_lane(vni).await;
        Ok(self.bench().make_vtap(vni, mtu).await?)
    }

    /// Sets a device of the network up or down. A VXLAN device opens its UDP port when it is raised.
    ///
    /// # Errors
    /// EADDRINUSE: another socket has the UDP port.
    pub async fn set_up(
        &self,
        vni: Vni,
        role: NetworkRole,
        is_up: bool,
    ) -> Result<(), NetworkError> {
        let _lane = self.network_lane(vni).await;
        Ok(self.bench().set_device_up(vni, role, is_up).await?)
    }

    /// Makes a device a port of the network's bridge, without learning and flooding.
    ///
    /// # Errors
    /// The step that the kernel refused; if it is a port of another bridge.
    pub async fn join(&self, vni: Vni, device: u32) -> Result<(), NetworkError> {
        let _lane = self.network_lane(vni).await;
        Ok(self.bench().join_bridge(vni, device).await?)
    }

    /// Takes a device out of the network's bridge, if it is in it. The bridge's entries for it go with that.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub async fn leave(&self, vni: Vni, device: u32) -> Result<(), NetworkError> {
        let _lane = self.network_lane(vni).await;
        Ok(self.bench().leave_bridge(vni, device).await?)
    }

    /// Says whether a device, of a port or of a network, must have a filter of ours: then the loss of it is told.
    pub fn expect_filter(&self, device: u32, is_expected: bool) {
        self.0.inventory.networks.expect_filter(device, is_expected);
    }

    /// The index of the host's end of a port's veth, once it is wired.
    #[must_use]
    pub fn port_device(&self, port: PortId) -> Option<u32> {
        self.0.inventory.of(port).veth
    }

    /// Names of the devices that a port has in the daemon's namespace; those that are gone are left out.
    #[must_use]
    pub fn device_names(&self, port: PortId) -> Vec<String> {
        let devices = self.0.inventory.of(port);
        let indices = [devices.veth, devices.tap, devices.lower];
        let names = indices.into_iter().flatten().filter_map(|index| {
            let name = nix::net::if_::if_indextoname(index).ok()?;
            Some(name.to_string_lossy().into_owned())
        });
        names.collect()
    }

    /// The port whose host's end this device is.
    #[must_use]
    pub fn port_of(&self, device: u32) -> Option<PortId> {
        self.0.inventory.port_of_veth(device)
    }

    /// The index of a network's device.
    #[must_use]
    pub fn network_device(&self, vni: Vni, role: NetworkRole) -> Option<u32> {
        self.0.inventory.networks.of(vni, role)
    }

    /// Stands our filter at the device, as far as was heard?
    #[must_use]
    pub fn filter_stands(&self, device: u32) -> bool {
        self.0.inventory.networks.has_filter(device)
    }

    /// Puts the gate at a VXLAN device: what does not pass, and probes, leave by its TAP; what is written to the TAP leaves by
    /// the VXLAN device. The loss of either filter is told from then on.
    ///
    /// # Errors
    /// The step that the kernel refused, in words.
    pub async fn gate_vxlan(
        &self,
        vni: Vni,
        vxlan: u32,
        vtap: u32,
        mtu: u16,
    ) -> Result<(), String> {
        let _lane = self.network_lane(vni).await;
        let own = &self.0.own;
        let gated = async {
            gate::redirect(own, vtap, vxlan).await?;
            let program = self.0.ledger.gate().vxlan_program(vtap, mtu)?;
            gate::attach(own, vxlan, &program, "vxlan").await
        };
        gated.await.map_err(|(step, error): gate::StepError| {
            format!("{step} the VXLAN device of VNI {vni}: {}", error.desc())
        })?;
        self.expect_filter(vxlan, true);
        self.expect_filter(vtap, true);
        Ok(())
    }

    /// Networks that have a device of ours.
    #[must_use]
    pub fn networks(&self) -> BTreeSet<Vni> {
        self.0.inventory.networks.networks()
    }

    /// Reads what the network has, from the kernel. From then on changes of what is as it should be are told.
    ///
    /// # Errors
    /// If the devices cannot be read.
    pub async fn observe(&self, vni: Vni) -> Result<Observed, NetworkError> {
        let inner = &self.0;
        let failed = |error: Errno| NetworkError {
            reason: format!("read the network devices: {}", error.desc()),
        };
        let mut observed = Observed::default();
        for role in [NetworkRole::Bridge, NetworkRole::Vxlan, NetworkRole::Vtap] {
            let Some(index) = inner.inventory.networks.of(vni, role) else {
                continue;
            };
            let link = inner.own.link_by_index(index).await.map_err(failed)?;
            if let Some(link) = &link
                && inner.marks.read_network(link) == Some((vni, role))
            {
                observed.devices.insert(role, link.into());
                let mac = Some(inner.marks.network_mac(vni, role));
                let is_right = match role {
                    NetworkRole::Bridge => {
                        bridge::settings(&link.data).is_empty() && link.mac == mac
                    }
                    NetworkRole::Vxlan => {
                        observed.vxlan = VxlanSpec::read(link);
                        observed.vxlan.is_some() && link.mac == mac
                    }
                    NetworkRole::Vtap => true,
                };
                if is_right && link.is_up() {
                    inner.inventory.networks.watch_again(link);
                } else {
                    observed.odd.insert(role);
                }
            }
        }
        let bridge = observed.devices.get(&NetworkRole::Bridge);
        if let Some(bridge) = bridge.map(|bridge| bridge.index) {
            for link in inner.own.links_of(bridge).await.map_err(failed)? {
                let is_set = bridge::port_odds(&link).is_empty();
                if is_set && inner.inventory.networks.bridge_of(link.index) == Some(bridge) {
                    inner.inventory.networks.watch_again(&link);
                }
                observed.ports.insert(link.index, is_set);
            }
        }
        Ok(observed)
    }

    /// Removes a device of the network, if it is there and ours.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn remove(&self, vni: Vni, role: NetworkRole) -> Result<(), NetworkError> {
        let _lane = self.network_lane(vni).await;
        Ok(self.bench().remove_device(vni, role).await?)
    }

    /// Removes all devices of the network, those that receive first; goes on after a failure. The answer is what failed.
    pub async fn remove_network(&self, vni: Vni) -> Vec<NetworkError> {
        let _lane = self.network_lane(vni).await;
        let mut errors = Vec::new();
        for role in [NetworkRole::Vxlan, NetworkRole::Vtap, NetworkRole::Bridge] {
            let removed = self.bench().remove_device(vni, role).await;
            errors.extend(removed.err().map(NetworkError::from));
        }
        errors
    }

    /// Removes the devices with our mark of networks that are not in `keep`, and then what the fence says of them. The answer is what could not be removed.
    pub async fn sweep_networks(&self, keep: &BTreeSet<Vni>) -> Vec<NetworkError> {
        let mut errors = Vec::new();
        for vni in self.networks().difference(keep) {
            tracing::info!(%vni, "removing devices of a network that is not here");
            errors.extend(self.remove_network(*vni).await);
        }
        if let Ok(FenceReading::Whole(mut state)) = self.fence().read().await {
            let before = state.vnis.len();
            state.vnis.retain(|vni| keep.contains(vni));
            state.members.retain(|(_, vni)| keep.contains(vni));
            let swept = if state.vnis.is_empty() {
                self.fence().remove().await
            } else if state.vnis.len() < before {
                self.fence().write(&state).await
            } else {
                Ok(())
            };
            errors.extend(swept.err().map(|error| NetworkError {
                reason: error.to_string(),
            }));
        }
        errors
    }

    /// Reads the entries of the network's bridge and VXLAN device. From then on the loss of any is told.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn read_fdb(&self, vni: Vni) -> Result<FdbTable, NetworkError> {
        let _lane = self.network_lane(vni).await;
        Ok(self.bench().read_fdb(vni).await?)
    }

    /// Changes entries of the network, in few sends; goes on after a failure. The answer is what failed.
    pub async fn change_fdb(&self, vni: Vni, changes: &[FdbChange]) -> Vec<FdbFailure> {
        let _lane = self.network_lane(vni).await;
        self.bench().change_fdb(changes).await
    }

    /// The fence of this node.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// Waits until somebody else did something to our networks' devices or entries, and answers with all of it. May be
    /// dropped at any time; for one waiter. The fence has its own watch.
    pub async fn disturbed(&self) -> BTreeSet<Disturbance> {
        self.0.inventory.disturbances.take().await
    }
}
