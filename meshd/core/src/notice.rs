//! Notices: what an operator may want to know, as data. `meshd events`, the log and `status` render them.

use crate::ident::{Epoch, MacAddr, NodeId, PortId, Vni};
use crate::path::{PathState, Reason};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
#[allow(missing_docs)]
pub enum Notice {
    /// An answer of the plugin did not hold for all frames that its mask named.
    PluginQuarantined {
        plugin: String,
        vni: Vni,
        reason: String,
    },
    PeerUp {
        node: NodeId,
        name: String,
        remote: String,
    },
    PeerDown {
        node: NodeId,
        name: String,
        reason: String,
    },
    PathShrank {
        node: NodeId,
        name: String,
        was: u16,
        mtu: u16,
    },
    LinkUp {
        node: NodeId,
        name: String,
        link: String,
        remote: String,
    },
    LinkDown {
        node: NodeId,
        name: String,
        link: String,
        reason: String,
    },
    PeerRefused {
        remote: String,
        reason: String,
    },
    MemberJoined {
        node: NodeId,
        name: String,
    },
    MemberRevoked {
        node: NodeId,
        name: String,
    },
    NodeAlive {
        node: NodeId,
        name: String,
    },
    NodeDead {
        node: NodeId,
        name: String,
    },
    InviteUsed {
        node: NodeId,
        name: String,
    },
    InviteRefused {
        remote: String,
        reason: String,
    },
    NetworkAdded {
        vni: Vni,
        name: String,
    },
    NetworkRemoved {
        vni: Vni,
        name: String,
    },
    NetworkConflict {
        vni: Vni,
        name: String,
        holder: NodeId,
        other: NodeId,
    },
    PortReady {
        port: PortId,
        network: String,
    },
    PortFailed {
        port: PortId,
        reason: String,
    },
    PortMended {
        port: PortId,
        what: String,
    },
    PortFarEnd {
        port: PortId,
        up: bool,
    },
    PortGone {
        port: PortId,
        reason: String,
    },
    MacConflict {
        vni: Vni,
        mac: MacAddr,
        holder: NodeId,
        other: NodeId,
    },
    IpConflict {
        vni: Vni,
        ip: IpAddr,
        holder: NodeId,
        other: NodeId,
    },
    NameConflict {
        vni: Vni,
        name: String,
        holder: NodeId,
        other: NodeId,
    },
    PoolGranted {
        vni: Vni,
        from: NodeId,
        range: String,
    },
    Refused {
        what: String,
        reason: String,
    },
    StateUnkept {
        reason: String,
    },
    StateKept {},
    HeldBack {
        what: String,
        count: u64,
    },
    Epoch {
        epoch: Epoch,
    },
    /// The way that frames of a network take to a peer changed, or did not where it could have.
    Path {
        vni: Vni,
        node: NodeId,
        name: String,
        from: PathState,
        to: PathState,
        reason: Reason,
        evidence: String,
    },
    /// The kernel's side of a network is not as it is to be.
    KernelTrouble {
        vni: Vni,
        network: String,
        reason: String,
    },
    /// The host's own firewall may drop what its bridges forward, so the daemon forwards all frames itself.
    BridgeFiltered {
        by: String,
    },
    /// It may not any more.
    BridgeUnfiltered {},
    /// Somebody else changed something of ours, and it was put right.
    KernelRepaired {
        vni: Vni,
        network: String,
        what: String,
    },
}
