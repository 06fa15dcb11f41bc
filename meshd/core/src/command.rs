//! What an operator can ask of a node, and what comes back. The API and the command line speak these types as JSON.
//!
//! Owns the shapes. `node.rs` dispatches them; reading without change is in `view.rs`.

use crate::config::KernelSettings;
use crate::flow::Origin;
use crate::ident::{AttachmentId, IfName, Label, MacAddr, NodeId, PortId, Vni};
use crate::wire::record::{NetworkDef, Role, SharedValue};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A change that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Command {
    /// A one-time invite; the answer is [`Reply::Invite`].
    Invite(InviteSpec),
    /// Takes a member's rights for good.
    Revoke {
        /// Name, or id, or a prefix of the id of at least 6 characters.
        member: String,
    },
    /// Defines a network. The same definition again changes nothing.
    NetworkAdd(NetworkSpec),
    /// Removes a network that has no port anywhere in reach.
    NetworkRemove {
        /// Its name or VNI.
        network: String,
    },
    /// Makes a port. The same again answers with the same port.
    Attach(AttachSpec),
    /// Removes a port.
    Detach {
        /// The port's number, or `name` or `name.network` of its endpoint.
        port: String,
    },
    /// Declares a foreign VTEP of a network on this node.
    VtepAdd {
        /// Name or VNI of the network.
        network: String,
        /// The VTEP.
        vtep: ForeignVtep,
    },
    /// Takes the declaration back.
    VtepRemove {
        /// Name or VNI of the network.
        network: String,
        /// The VTEP's address.
        ip: IpAddr,
    },
    /// What the config file says of the kernel's side.
    KernelWishes {
        /// `[underlay] trusted`.
        trusted: Vec<ipnet::IpNet>,
        /// `[kernel]`.
        kernel: KernelSettings,
    },
    /// What was found of the host's own filter of bridged frames.
    BridgeFilter {
        /// What of it may drop what the kernel forwards, in words; `None`: nothing.
        in_the_way: Option<String>,
    },
    /// Sets the policy chain of a network on this node; the shell has loaded the plugins.
    PolicyChain {
        /// The network.
        vni: Vni,
        /// Bumped by each change of the chain, of code or of config. 0 plugins: no policy.
        plugins: u32,
    },
    /// What a plugin answered on a network is not so any more: such frames are asked about anew, and when the reply comes none
    /// obeys what was.
    PolicyInvalidate {
        /// The network.
        vni: Vni,
        /// The plugin there.
        attachment: AttachmentId,
        /// Only what bears this tag of its own; `None`: all of it.
        tag: Option<u32>,
    },
    /// What the controller of a plugin on this node shares with those on the other nodes of a network, in the place of what it
    /// shared before.
    Share {
        /// The network.
        vni: Vni,
        /// The plugin.
        plugin: Label,
        /// Sorted by key.
        list: Vec<SharedValue>,
    },
    /// The attachments that there are: of others nothing is shared any more.
    ShareOnly {
        /// By network and plugin.
        attachments: BTreeSet<(Vni, Label)>,
    },
    /// Says which steering plugin a network has on this node; the shell has loaded it.
    SteeringPlugin {
        /// The network.
        vni: Vni,
        /// Moved by each change of it, of code or of config. 0: there is none.
        revision: u32,
    },
}

/// What an invite grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteSpec {
    /// Seconds until it expires.
    pub ttl_s: u64,
    /// What the newcomer may do.
    pub role: Role,
    /// Labels of the newcomer.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// 16 random bytes by the shell; only their hash is kept.
    pub secret: [u8; 16],
}

/// A network to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name.
    pub name: Label,
    /// Its segment; `None`: derived from the name, moved on where taken.
    #[serde(default)]
    pub vni: Option<Vni>,
    /// Its subnets.
    #[serde(default)]
    pub subnets: Vec<ipnet::IpNet>,
    /// Bytes of layer 3 payload; `None`: 1450.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// A port to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSpec {
    /// Name or VNI of the network.
    pub network: String,
    /// The namespace that the port's far end goes to.
    pub netns: NetnsRef,
    /// Name of the interface there.
    pub ifname: IfName,
    /// Its addresses.
    pub ip: IpSpec,
    /// Its MAC; `None`: made by the node, stable while the port exists.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// Its name on the network.
    #[serde(default)]
    pub name: Option<Label>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A VTEP that is no node: it speaks VXLAN (RFC 7348) and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignVtep {
    /// Where it is.
    pub ip: IpAddr,
    /// MACs behind it; others are learned if it is the only foreign VTEP of the network here.
    #[serde(default)]
    pub macs: std::collections::BTreeSet<MacAddr>,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetnsRef {
    /// A file: `/run/netns/NAME`, or any bind mount. The shell makes it absolute. Bytes, since paths are.
    Path(Vec<u8>),
    /// What a process is in: its number can come to mean another process, in another namespace.
    Nameless(Nameless),
}

/// A network namespace that was reached through a process, and may outlive it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Nameless {
    /// The path by which it was reached, such as `/proc/N/ns/net`.
    pub via: Vec<u8>,
    /// Of the namespace's file (`st_dev`).
    pub device: u64,
    /// Of the namespace's file (`st_ino`); used again by the kernel once the namespace is gone.
    pub inode: u64,
    /// When the process started, in ticks since the host's start (proc(5), `starttime`); `None`: not known.
    pub born: Option<u64>,
}

impl NetnsRef {
    /// The path by which it is, or was, reached.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Path(path) => path,
            Self::Nameless(nameless) => &nameless.via,
        }
    }

    /// True if both mean the same namespace, by whichever process.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nameless(one), Self::Nameless(other)) => {
                (one.device, one.inode) == (other.device, other.inode)
            }
            _ => self == other,
        }
    }
}

/// Which addresses a port gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpSpec {
    /// One leased from each subnet of the network.
    Auto,
    /// None.
    None,
    /// These, with the prefix length of their subnet.
    Fixed(Vec<ipnet::IpNet>),
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done, and durable.
    Done,
    /// The shell makes a token of it.
    Invite {
        /// When it expires, ms since the Unix epoch.
        expires: u64,
    },
    /// The network, as defined.
    Network(NetworkDef),
    /// The port, ready.
    Port(PortRecord),
}

/// Why a command is refused. `message` says what, where and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
}

/// Kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum RefusalCode {
    NotFound,
    Conflict,
    Forbidden,
    Invalid,
    Unavailable,
    Failed,
}

/// A port of this node, as it is kept over restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Its number.
    pub id: PortId,
    /// Its network.
    pub vni: Vni,
    /// Where its far end is.
    pub netns: NetnsRef,
    /// The interface there; as the kernel named it, once wired.
    pub ifname: IfName,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its addresses with prefix lengths.
    pub ips: Vec<ipnet::IpNet>,
    /// Which of them are leased, and go back on detach.
    pub leased: Vec<IpAddr>,
    /// Its name on the network.
    pub name: Option<Label>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was claimed, ms since the Unix epoch.
    pub since: u64,
    /// Set once the kernel has it.
    pub ready: bool,
    /// `ifname` as it was asked for: the key of idempotence (`eth%d` becomes `eth0`).
    pub asked_ifname: IfName,
}

/// What the kernel is to have for one port. The shell makes it so, whatever is there, and touches nothing without our mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortWiring {
    /// The port.
    pub port: PortRecord,
    /// Bytes of layer 3 payload.
    pub mtu: u16,
    /// Routes of the far end besides its subnets.
    pub routes: Vec<ipnet::IpNet>,
    /// Name server and search domain for the far end; written only where that disturbs nobody.
    pub dns: Option<DnsHint>,
}

/// Name service as a container should use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsHint {
    /// Addresses of the node's service on the network.
    pub servers: Vec<IpAddr>,
    /// `<network>.<mesh domain>`.
    pub search: String,
}

/// The node's own presence on a network: name service today. The same addresses and MAC on every node; frames to it never
/// leave the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceWiring {
    /// The port that carries it.
    pub port: PortId,
    /// The network.
    pub vni: Vni,
    /// `02:6d:64` and the VNI.
    pub mac: MacAddr,
    /// First address of each subnet.
    pub ips: Vec<ipnet::IpNet>,
    /// Bytes of layer 3 payload.
    pub mtu: u16,
    /// `<network>.<mesh domain>`.
    pub domain: String,
}

/// A frame to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSpec {
    /// The network.
    pub vni: Vni,
    /// Where it would come from.
    pub origin: Origin,
    /// The frame, from the destination MAC on.
    pub frame: Vec<u8>,
}

/// Somebody else's name for a member, for messages.
#[must_use]
pub fn show_member(name: Option<&Label>, node: NodeId) -> String {
    name.map_or_else(|| node.short(), |n| format!("{n} ({})", node.short()))
}
