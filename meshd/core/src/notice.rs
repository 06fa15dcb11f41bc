//! Notices: what an operator may want to know, as data. `meshd events`, the log and `status` render them.

use crate::ident::{Epoch, MacAddr, NodeId, PortId, Vni};
use crate::path::{PathState, Reason};
use crate::view::DeviceState;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
#[allow(missing_docs)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Notice {
    /// The daemon runs; `clean`: what the one before it told is all there.
    Started {
        version: String,
        clean: bool,
    },
    /// A plugin came, went, or became another; on a network, or (`vni` absent) on this node.
    Plugin {
        plugin: String,
        vni: Option<Vni>,
        state: PluginStep,
        reason: String,
    },
    /// A host device is in another state.
    Device {
        name: String,
        from: Option<DeviceState>,
        to: Option<DeviceState>,
        reason: String,
    },
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
    /// The interface or bridge behind it takes shorter frames than the network has, by now.
    PortNarrow {
        port: PortId,
        mtu: u32,
        wanted: u16,
    },
    PortGone {
        port: PortId,
        reason: String,
    },
    /// It would close a loop: no frame enters or leaves the network by it.
    PortBlocked {
        port: PortId,
        reason: String,
    },
    PortUnblocked {
        port: PortId,
    },
    /// A MAC moves to and fro: two stations have it, or there is a loop.
    MacFlaps {
        vni: Vni,
        mac: MacAddr,
        port: PortId,
    },
    MacConflict {
        vni: Vni,
        mac: MacAddr,
        holder: NodeId,
        other: NodeId,
    },
    IpConflict {
        vni: Vni,
        #[cfg_attr(feature = "schema", schema(value_type = String))]
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
    /// A node advertises a service that this node's config gives to others.
    ServiceRefused {
        name: String,
        node: NodeId,
    },
    /// Two nodes advertise one service, and have no address of it in common.
    ServiceDiffers {
        name: String,
        holder: NodeId,
        other: NodeId,
    },
    /// A node advertises a service whose name is a network's, so that nobody is answered by it.
    ServiceHidden {
        name: String,
        node: NodeId,
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

/// What became of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum PluginStep {
    /// It is kept on this node.
    Installed,
    /// Another version is in its place.
    Replaced,
    /// It is kept no more.
    Removed,
    /// It decides on the network.
    Attached,
    /// Its config, place or fail mode there is another.
    Changed,
    /// It decides there no more.
    Detached,
    /// Its fail mode answers, or its controller does nothing.
    Failing,
    /// It answers again.
    Well,
}

impl Notice {
    /// All words that [`Self::names`] gives.
    pub const WORDS: [&'static str; 45] = [
        "started",
        "plugin",
        "plugin-quarantined",
        "device",
        "peer-up",
        "peer-down",
        "peer-refused",
        "path-shrank",
        "link-up",
        "link-down",
        "path",
        "member-joined",
        "member-revoked",
        "node-alive",
        "node-dead",
        "invite-used",
        "invite-refused",
        "network-added",
        "network-removed",
        "network-conflict",
        "mac-conflict",
        "ip-conflict",
        "name-conflict",
        "service-refused",
        "service-differs",
        "service-hidden",
        "pool-granted",
        "kernel-trouble",
        "kernel-repaired",
        "port-ready",
        "port-failed",
        "port-mended",
        "port-far-end",
        "port-narrow",
        "port-gone",
        "port-blocked",
        "port-unblocked",
        "mac-flaps",
        "refused",
        "state-unkept",
        "state-kept",
        "held-back",
        "epoch",
        "bridge-filtered",
        "bridge-unfiltered",
    ];

    /// Its word, as JSON has it under `event`, and what it is about.
    #[must_use]
    pub fn names(&self) -> (&'static str, Subject) {
        use Subject as S;
        match self {
            Self::Started { .. } => ("started", S::Node),
            Self::Plugin { .. } => ("plugin", S::Plugin),
            Self::PluginQuarantined { .. } => ("plugin-quarantined", S::Plugin),
            Self::Device { .. } => ("device", S::Device),
            Self::PeerUp { .. } => ("peer-up", S::Peer),
            Self::PeerDown { .. } => ("peer-down", S::Peer),
            Self::PeerRefused { .. } => ("peer-refused", S::Peer),
            Self::PathShrank { .. } => ("path-shrank", S::Path),
            Self::LinkUp { .. } => ("link-up", S::Path),
            Self::LinkDown { .. } => ("link-down", S::Path),
            Self::Path { .. } => ("path", S::Path),
            Self::MemberJoined { .. } => ("member-joined", S::Member),
            Self::MemberRevoked { .. } => ("member-revoked", S::Member),
            Self::NodeAlive { .. } => ("node-alive", S::Member),
            Self::NodeDead { .. } => ("node-dead", S::Member),
            Self::InviteUsed { .. } => ("invite-used", S::Member),
            Self::InviteRefused { .. } => ("invite-refused", S::Member),
            Self::NetworkAdded { .. } => ("network-added", S::Network),
            Self::NetworkRemoved { .. } => ("network-removed", S::Network),
            Self::NetworkConflict { .. } => ("network-conflict", S::Network),
            Self::MacConflict { .. } => ("mac-conflict", S::Network),
            Self::IpConflict { .. } => ("ip-conflict", S::Network),
            Self::NameConflict { .. } => ("name-conflict", S::Network),
            Self::ServiceRefused { .. } => ("service-refused", S::Member),
            Self::ServiceDiffers { .. } => ("service-differs", S::Member),
            Self::ServiceHidden { .. } => ("service-hidden", S::Member),
            Self::PoolGranted { .. } => ("pool-granted", S::Network),
            Self::KernelTrouble { .. } => ("kernel-trouble", S::Network),
            Self::KernelRepaired { .. } => ("kernel-repaired", S::Network),
            Self::PortReady { .. } => ("port-ready", S::Port),
            Self::PortFailed { .. } => ("port-failed", S::Port),
            Self::PortMended { .. } => ("port-mended", S::Port),
            Self::PortFarEnd { .. } => ("port-far-end", S::Port),
            Self::PortNarrow { .. } => ("port-narrow", S::Port),
            Self::PortGone { .. } => ("port-gone", S::Port),
            Self::PortBlocked { .. } => ("port-blocked", S::Port),
            Self::PortUnblocked { .. } => ("port-unblocked", S::Port),
            Self::MacFlaps { .. } => ("mac-flaps", S::Port),
            Self::Refused { .. } => ("refused", S::Node),
            Self::StateUnkept { .. } => ("state-unkept", S::Node),
            Self::StateKept {} => ("state-kept", S::Node),
            Self::HeldBack { .. } => ("held-back", S::Node),
            Self::Epoch { .. } => ("epoch", S::Node),
            Self::BridgeFiltered { .. } => ("bridge-filtered", S::Node),
            Self::BridgeUnfiltered {} => ("bridge-unfiltered", S::Node),
        }
    }
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// This node as a whole.
    Node,
    /// Who belongs to the mesh and is alive.
    Member,
    /// Sessions.
    Peer,
    /// Ways to peers.
    Path,
    /// Networks and what is claimed on them.
    Network,
    /// Ports of this node.
    Port,
    /// Plugins of this node.
    Plugin,
    /// Devices of this host.
    Device,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Node,
        Self::Member,
        Self::Peer,
        Self::Path,
        Self::Network,
        Self::Port,
        Self::Plugin,
        Self::Device,
    ];

    /// As it is typed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Member => "member",
            Self::Peer => "peer",
            Self::Path => "path",
            Self::Network => "network",
            Self::Port => "port",
            Self::Plugin => "plugin",
            Self::Device => "device",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What serde makes of a variant's name by `kebab-case`.
    fn kebab(name: &str) -> String {
        let mut out = String::new();
        for c in name.chars() {
            if c.is_ascii_uppercase() && !out.is_empty() {
                out.push('-');
            }
            out.push(c.to_ascii_lowercase());
        }
        out
    }

    #[test]
    fn each_word_is_the_one_that_json_has() {
        let source = include_str!("notice.rs");
        let (_, names) = source.split_once("pub fn names(").unwrap();
        let (names, _) = names.split_once("\n    }\n").unwrap();
        let mut words = Vec::new();
        for line in names.lines().filter(|line| line.contains("=> (\"")) {
            let variant = line.trim().trim_start_matches("Self::");
            let variant = variant.split(' ').next().unwrap();
            let word = line.split('"').nth(1).unwrap();
            assert_eq!(kebab(variant), word);
            words.push(word);
        }
        assert_eq!(words, Notice::WORDS);
        let json = serde_json::to_value(Notice::StateKept {}).unwrap();
        assert_eq!(json["event"], Notice::StateKept {}.names().0);
        for subject in Subject::ALL {
            assert_eq!(serde_json::to_value(subject).unwrap(), subject.word());
        }
    }
}
