//! What the Linux kernel holds for this node: the devices of ports and networks, the fence, and the host's own addresses.
//!
//! ```text
//!    container netns            the daemon's netns                         the daemon
//!    far end  <==== veth ====>  mv<port> --clsact, bpf redirect--> mt<port> ----> descriptor (tokio-tun)
//!                               mv<port> <--clsact, bpf redirect-- mt<port> <----
//! ```
//!
//! Owns every device that bears this node's mark, and nothing else: a device with our name and a foreign mark is left
//! alone. Refuses to decide: it makes what a [`PortWiring`] says, adopts what is there already, and tells what went away.
//! The daemon's own namespace is never left: work inside another one is done by sockets that were opened there.

mod addresses;
mod adopted;
mod batch;
mod bridge;
mod bridge_filter;
mod device;
mod devices;
mod disturbance;
mod entries;
mod failure;
mod fdb;
mod fdb_monitor;
mod features;
mod fence;
mod fence_rules;
pub mod gate;
mod hint;
mod holdings;
mod inventory;
mod ledger;
mod listen;
mod losses;
mod macvlan;
mod marks;
mod monitor;
mod nameless;
mod netlink;
mod netns;
mod network;
#[cfg(test)]
mod network_tests;
mod nft;
mod port;
mod removal;
mod renamed;
mod route;
pub(crate) mod shelf;
mod still;
mod tally;
mod tap;
mod tap_file;
#[cfg(test)]
mod tests;
mod uplink;
#[cfg(test)]
mod uplink_tests;
mod vrf;
mod vtap;
mod vxlan;
mod wireless;

pub use bridge_filter::{BridgeFilterWatch, bridge_filter};
pub use devices::{DeviceError, DeviceWatch, HostDevices};
pub use disturbance::{Disturbance, Part, What};
pub use fdb::{FdbChange, FdbEntry, FdbFailure, FdbTable, FdbTarget};
pub use features::{Feature, UseOf, try_devices, try_features};
pub use fence::{Fence, FenceError, FenceReading, FenceState, FenceWatch};
pub use ledger::Ledger;
pub use listen::{Heard, Listener};
pub use losses::KernelLosses;
pub use marks::NetworkRole;
pub use network::{NetworkDevice, NetworkError, Observed};
pub use route::{RouteFound, routes_to};
pub use tap::PortTap;
pub use vtap::Vtap;
pub use vxlan::{VxlanSpec, foreign_vxlans};

use batch::Batch;
use fdb_monitor::FdbMonitor;
use inventory::Inventory;
use marks::Marks;
pub use nameless::settle;
pub use netns::Netlink;
use netns::Netns;
use port::Workbench;
pub use shelf::Shelf;
use tap::StepError;

use meshd_core::code::ErrorCode;
use meshd_core::command::{PortRecord, PortWiring};
use meshd_core::ident::{IfName, MacAddr, MeshId, Moment, NodeId, PortId};
use meshd_core::node::{Input, KernelEvent};
use monitor::Monitor;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, MutexGuard, mpsc};
use tokio::task::AbortHandle;

/// What the kernel's side has to know of the node.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Part of the mark.
    pub mesh: MeshId,
    /// Part of the mark.
    pub node: NodeId,
    /// Where the underlay's endpoint is bound, with its real port: an unspecified address offers all of this host's.
    pub underlay: SocketAddr,
    /// Have ports hand over superframes, where the kernel can.
    pub superframes: bool,
    /// Queues of a port, where the kernel can: at least one.
    pub queues: usize,
    /// Bytes of the largest superframe that a port's far end is to send; `None`: as the kernel has it.
    pub gso_max: Option<u32>,
    /// Where TAPs are waited for.
    pub data: Handle,
    /// Descriptors of TAPs that outlive the daemon.
    pub taps: Shelf,
}

/// A port that is as it should be.
pub struct Wired {
    /// The far end, as the kernel named it (`eth%d` becomes `eth0`).
    pub ifname: IfName,
    /// The far end's, as the kernel has it.
    pub mac: MacAddr,
    /// The port's frames, from the destination MAC on.
    pub tap: PortTap,
    /// Further queues of the same TAP, which has a part of the flows in each.
    pub more: Vec<PortTap>,
    /// The file of a macvtap.
    pub file: Option<PathBuf>,
}

/// A port that was looked through.
pub struct Mended {
    /// As in [`Wired`].
    pub ifname: IfName,
    /// As in [`Wired`].
    pub mac: MacAddr,
    /// What was not as it should be, in words.
    pub mended: Vec<String>,
}

/// Why a port could not be made. Nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct WireError {
    /// What kind of fault.
    pub code: ErrorCode,
    /// Step, device, namespace, and what to do.
    pub reason: String,
    /// The namespace, or the far end in it, does not exist any more: give the port up.
    pub gone: bool,
}

/// Why the kernel's side could not start.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct KernelError {
    step: &'static str,
    reason: String,
}

/// An address of this host that other nodes are offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlayAddress {
    /// With the port of the endpoint.
    pub address: SocketAddr,
    /// The name of its device, as the kernel has it.
    pub device: Vec<u8>,
    /// Of that device, in bytes.
    pub mtu: u32,
}

/// Which addresses of this host an endpoint bound to `underlay` offers, most likely first. Needs no rights and no daemon.
///
/// # Errors
/// If netlink cannot be opened or read.
pub async fn underlay_addresses(underlay: SocketAddr) -> std::io::Result<Vec<UnderlayAddress>> {
    let host = monitor::host(&Netlink::here()?, &Inventory::default()).await?;
    let device = |address: &SocketAddr| {
        let index = host.addresses.iter().find(|a| a.ip == address.ip())?.index;
        host.links.iter().find(|link| link.index == index)
    };
    let found = addresses::offered(&host, underlay).into_iter();
    Ok(found
        .filter_map(|address| {
            device(&address).map(|link| UnderlayAddress {
                address,
                device: link.name.clone(),
                mtu: link.mtu,
            })
        })
        .collect())
}

/// Frames that a device queues; the kernel's own choice for Ethernet.
const QUEUE_LEN: u32 = 1000;

/// How often the counters of paths are read: a death of a path under traffic is to be found in some 200 ms.
const GAUGE: std::time::Duration = std::time::Duration::from_millis(50);
/// The same before there was any path to be read.
const GAUGE_NOTHING: std::time::Duration = std::time::Duration::from_millis(250);
/// All entries are looked through so seldom.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

/// Ports that are worked on at the same time, at most; the same port never twice.
const LANES: usize = 16;

/// A port's lane.
fn place(port: PortId) -> usize {
    port.0 as usize % LANES
}

/// The kernel's side of this node. Clones are the same.
#[derive(Clone)]
pub struct Kernel(Arc<Inner>);

struct Inner {
    own: Netlink,
    own_netns: Netns,
    marks: Marks,
    inventory: Arc<Inventory>,
    superframes: bool,
    queues: usize,
    gso_max: Option<u32>,
    data: Handle,
    taps: Shelf,
    lanes: [Mutex<()>; LANES],
    network_lanes: [Mutex<()>; LANES],
    batch: Batch,
    fence: Fence,
    ledger: Ledger,
    monitor: AbortHandle,
    fdb_monitor: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.monitor.abort();
        self.fdb_monitor.abort();
    }
}

impl Kernel {
    /// Opens netlink in the caller's namespace, reads which devices bear this node's mark, and watches: sends
    /// `KernelEvent::PortGone`, and `KernelEvent::Addresses` at once and on each change. `now`: what the daemon's clock shows.
    ///
    /// # Errors
    /// If netlink cannot be opened or read.
    pub async fn start(
        config: KernelConfig,
        now: Moment,
        events: mpsc::Sender<Input>,
    ) -> Result<Self, KernelError> {
        let failed = |step| {
            move |error: std::io::Error| KernelError {
                step,
                reason: error.to_string(),
            }
        };
        let own = Netlink::here().map_err(failed("open a netlink socket"))?;
        let own_netns = Netns::own().map_err(failed(
            "open the network namespace of this process (is /proc mounted?)",
        ))?;
        let marks = Marks::new(config.mesh, config.node);
        let (superframes, gso_max, data) = (config.superframes, config.gso_max, config.data);
        let (taps, queues) = (config.taps, config.queues);
        // Subscribed before the reading, so that nothing falls between.
        let inventory = Arc::new(Inventory::default());
        let monitor = Monitor::open(own.clone(), Arc::clone(&inventory), config.underlay, events)
            .map_err(failed("subscribe to kernel events"))?;
        let fdb_monitor = FdbMonitor::open(own.clone(), Arc::clone(&inventory))
            .map_err(failed("subscribe to FDB changes"))?;
        let batch = Batch::open().map_err(failed("open a netlink socket"))?;
        let fence = Fence::open(&config.node.short(), marks.of_thing("fence"));
        let links = own.links().await.map_err(|error| KernelError {
            step: "read the network devices",
            reason: error.to_string(),
        })?;
        inventory.read(&marks, &links);
        let gates = gate::Gate::find(&own, inventory.devices()).await;
        let gate = match gates {
            Ok(Some(gate)) => gate,
            // None, or none that this release can go on with: then all frames come to the daemon first.
            Ok(None) | Err(_) => gate::Gate::make().map_err(|(step, error)| KernelError {
                step: "make the gates",
                reason: format!("{step} the gates: {}; see `meshd doctor`", error.desc()),
            })?,
        };
        let ledger = Ledger::new(gate, Arc::clone(&inventory), now);
        let monitor = tokio::spawn(monitor.run()).abort_handle();
        let fdb_monitor = tokio::spawn(fdb_monitor.run()).abort_handle();
        Ok(Self(Arc::new(Inner {
            own,
            own_netns,
            marks,
            inventory,
            superframes,
            queues,
            gso_max,
            data,
            taps,
            lanes: Default::default(),
            network_lanes: Default::default(),
            batch,
            fence,
            ledger,
            monitor,
            fdb_monitor,
        })))
    }

    fn bench(&self) -> Workbench<'_> {
        let Inner {
            own,
            own_netns,
            marks,
            inventory,
            superframes,
            queues,
            gso_max,
            data,
            taps,
            batch,
            ledger,
            ..
        } = &*self.0;
        Workbench {
            own,
            own_netns,
            marks,
            inventory,
            superframes: *superframes,
            queues: *queues,
            gso_max: *gso_max,
            data,
            taps,
            batch,
            gate: ledger.gate(),
        }
    }

    /// The gates, in the core's words.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Watches what the gates count, as long as the receiver of the events is there.
    pub async fn gauge(self, events: mpsc::Sender<Input>) {
        let mut looked: Option<std::time::Instant> = None;
        loop {
            let nothing = !self.0.ledger.has_paths();
            match nothing {
                true => crate::rhythm::beat(GAUGE_NOTHING).await,
                false => tokio::time::sleep(GAUGE).await,
            }
            let traffic = self.0.ledger.traffic();
            let mut news = Vec::new();
            if !traffic.is_empty() {
                news.push(KernelEvent::Traffic(traffic));
            }
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                looked = Some(std::time::Instant::now());
                let idle = self.0.ledger.look();
                if !idle.is_empty() {
                    news.push(KernelEvent::GatesIdle(idle));
                }
            }
            for event in news {
                if events.send(Input::Kernel(event)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Held while a port is worked on.
    async fn lane(&self, port: PortId) -> Option<MutexGuard<'_, ()>> {
        match self.0.lanes.get(place(port)) {
            Some(lane) => Some(lane.lock().await),
            None => None,
        }
    }

    /// Makes the port, or adopts what is there of it without interrupting its traffic: the port's devices may be from an
    /// earlier run of the daemon. Their TAP must not be open elsewhere, so drop an earlier [`Wired::tap`] first.
    ///
    /// # Errors
    /// Nothing of the port is left then, except where another descriptor of its TAP is open: then all of it is left.
    pub async fn wire(&self, wiring: &PortWiring) -> Result<Wired, WireError> {
        let _lane = self.lane(wiring.port.id).await;
        self.bench().wire(wiring).await
    }

    /// Has the monitor tell whether what is behind a port carries frames; to be asked once it was told that the port is wired.
    pub fn look_at_far_end(&self, port: PortId) {
        self.0.inventory.have_seen(port);
    }

    /// Looks through a port that carries frames, and mends what somebody did to its veth and its far end: up, MAC, MTU,
    /// addresses. The TAP and the filters are watched by themselves.
    ///
    /// # Errors
    /// All of the port is left as it is.
    pub async fn mend(&self, wiring: &PortWiring) -> Result<Mended, WireError> {
        let _lane = self.lane(wiring.port.id).await;
        self.bench().mend(wiring).await
    }

    /// Removes all of the port; goes on after a failure. The answer is what could not be undone.
    pub async fn unwire(&self, port: &PortRecord) -> Vec<String> {
        let all = self.unwire_all(std::slice::from_ref(port)).await;
        all.into_iter().flatten().collect()
    }

    /// The same of several ports, which takes little longer than of one. Answers of each in their order.
    pub async fn unwire_all(&self, ports: &[PortRecord]) -> Vec<Vec<String>> {
        let places: BTreeSet<usize> = ports.iter().map(|port| place(port.id)).collect();
        // In this order always, so that nobody waits for somebody who waits for him.
        let mut held = Vec::new();
        for place in places {
            if let Some(lane) = self.0.lanes.get(place) {
                held.push(lane.lock().await);
            }
        }
        for port in ports {
            self.0.inventory.forget_awaited(port.id);
        }
        self.bench().unwire(ports).await
    }

    /// Removes devices with our mark whose port is not in `keep`. The answer is what could not be removed.
    pub async fn sweep(&self, keep: &BTreeSet<PortId>) -> Vec<String> {
        let mut errors = Vec::new();
        for port in self
            .0
            .inventory
            .ports()
            .into_iter()
            .filter(|port| !keep.contains(port))
        {
            let _lane = self.lane(port).await;
            tracing::info!(%port, "removing devices that no port has");
            let failed = self.bench().remove_devices(&[port]).await;
            errors.extend(failed.into_iter().map(|(_, error)| error));
        }
        let keeps = |port| keep.contains(&port);
        errors.extend(self.bench().sweep_uplinks(&keeps).await);
        errors
    }
}
