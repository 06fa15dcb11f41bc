//! What an operator can ask of a node, and what comes back. The API and the command line speak these types as JSON.
//!
//! Owns the shapes. `node.rs` dispatches them; reading without change is in `view.rs`.

use crate::code::{ErrorCode, RefusalKind};
use crate::config::KernelSettings;
use crate::flow::Origin;
use crate::ident::{AttachmentId, IfName, Label, MacAddr, NodeId, PortId, Vni};
use crate::kind::PortKind;
use crate::multicast::MulticastSpec;
use crate::owner::Owner;
use crate::services::ServiceRules;
use crate::wire::record::{NetworkDef, Role, Service, SharedValue};
use serde::{Deserialize, Serialize, Serializer};
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
    /// Removes the port of an owner.
    DetachOwner {
        /// As it was given with the port.
        owner: Owner,
    },
    /// Takes an address out of a network's pool for a port that is made later; the answer is [`Reply::Address`].
    Reserve(ReserveSpec),
    /// Gives a reserved address back; nothing, if it is not reserved.
    Release {
        /// Name or VNI of the network.
        network: String,
        /// The address.
        ip: IpAddr,
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
    /// What answers at addresses that this host's own devices have now.
    Services {
        /// At most 16, each name once.
        services: Vec<Service>,
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
    /// How multicast is treated on networks, by name; others as it is by default.
    Multicast(BTreeMap<Label, MulticastSpec>),
    /// Whose services of hosts are answered.
    ServiceRules(ServiceRules),
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
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NetworkSpec {
    /// Its name.
    pub name: Label,
    /// Its segment; `None`: derived from the name, moved on where taken.
    #[serde(default)]
    pub vni: Option<Vni>,
    /// Its subnets.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub subnets: Vec<ipnet::IpNet>,
    /// Bytes of layer 3 payload; `None`: 1380.
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
    /// Bytes of layer 3 payload of the interface; `None`: those of the network, which it may not exceed.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Routes through the interface, besides those to its subnets; set in this order.
    #[serde(default)]
    pub routes: Vec<PortRoute>,
    /// The VRF of the namespace that the interface is put into.
    #[serde(default)]
    pub vrf: Option<IfName>,
    /// Whose port it is. The same owner with the same wish has the same port, with another wish it is refused.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// What it is made of.
    #[serde(default)]
    pub kind: PortKind,
}

/// A route that the far end of a port gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PortRoute {
    /// Where it leads; a length of 0 makes it the default route.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub to: ipnet::IpNet,
    /// The router, in a subnet of the network or behind an earlier route; `None`: all of it is on the network itself.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub via: Option<IpAddr>,
}

impl std::fmt::Display for PortRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.via {
            Some(via) => write!(f, "{} via {via}", self.to),
            None => write!(f, "{}", self.to),
        }
    }
}

/// An address to be kept for a port that is made later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveSpec {
    /// Name or VNI of the network.
    pub network: String,
    /// One of its subnets.
    pub subnet: ipnet::IpNet,
    /// The part of the subnet that a free address is looked for in.
    pub within: ipnet::IpNet,
    /// This very address; `None`: a free one.
    pub ip: Option<IpAddr>,
    /// Of the port that the address is for; only a port with this MAC can be made with the address then. What is reserved
    /// for the same MAC already is the answer once more. `None`: any port that asks for the address by hand gets it.
    pub mac: Option<MacAddr>,
    /// For whom.
    pub owner: Owner,
}

/// A VTEP that is no node: it speaks VXLAN (RFC 7348) and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ForeignVtep {
    /// Where it is.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
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
    /// Wherever a container engine takes it: the far end is made in the daemon's own namespace, bare and down, and what
    /// becomes of it is the engine's business from then on. It is never made twice: with its veth the port goes.
    Handed,
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
            Self::Handed => b"handed over",
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

impl Command {
    /// Its word, as JSON has it under `do`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Invite(_) => "invite",
            Self::Revoke { .. } => "revoke",
            Self::NetworkAdd(_) => "network-add",
            Self::NetworkRemove { .. } => "network-remove",
            Self::Attach(_) => "attach",
            Self::Detach { .. } => "detach",
            Self::DetachOwner { .. } => "detach-owner",
            Self::Reserve(_) => "reserve",
            Self::Release { .. } => "release",
            Self::VtepAdd { .. } => "vtep-add",
            Self::VtepRemove { .. } => "vtep-remove",
            Self::KernelWishes { .. } => "kernel-wishes",
            Self::Services { .. } => "services",
            Self::BridgeFilter { .. } => "bridge-filter",
            Self::ServiceRules(_) => "service-rules",
            Self::PolicyChain { .. } => "policy-chain",
            Self::PolicyInvalidate { .. } => "policy-invalidate",
            Self::Multicast(_) => "multicast",
            Self::Share { .. } => "share",
            Self::ShareOnly { .. } => "share-only",
            Self::SteeringPlugin { .. } => "steering-plugin",
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
    /// The address, with the prefix length of its subnet.
    Address(ipnet::IpNet),
}

/// Why a command is refused. `message` says what, where and what to do. In JSON the kind of the code stands beside it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs, and for `meshd explain`.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// With words.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// What kind it is, which follows from the code.
    #[must_use]
    pub fn kind(&self) -> RefusalKind {
        self.code.kind()
    }
}

/// A [`Refusal`] as JSON has it.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(as = Refusal))]
struct RefusalBody<'a> {
    code: ErrorCode,
    kind: RefusalKind,
    /// For people.
    message: &'a str,
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (code, kind, message) = (self.code, self.kind(), self.message.as_str());
        RefusalBody {
            code,
            kind,
            message,
        }
        .serialize(to)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Refusal {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        RefusalBody::schema()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Refusal {
    fn name() -> std::borrow::Cow<'static, str> {
        "Refusal".into()
    }

    fn schemas(
        schemas: &mut Vec<(
            String,
            utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>,
        )>,
    ) {
        RefusalBody::schemas(schemas);
    }
}

/// A port of this node, as it is kept over restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Its number.
    pub id: PortId,
    /// Its network.
    pub vni: Vni,
    /// What it is made of.
    pub kind: PortKind,
    /// Where its far end is.
    pub netns: NetnsRef,
    /// The interface there; as the kernel named it, once wired.
    pub ifname: IfName,
    /// Its MAC; zero: it has none of its own, as an uplink.
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
    /// The file of a macvtap, such as `/dev/tap7`, once wired.
    pub file: Option<Vec<u8>>,
    /// `ifname` as it was asked for: the key of idempotence (`eth%d` becomes `eth0`).
    pub asked_ifname: IfName,
    /// Bytes of layer 3 payload, if others than the network's.
    pub mtu: Option<u16>,
    /// Routes of the far end besides those to its subnets.
    pub routes: Vec<PortRoute>,
    /// The VRF that the far end is in.
    pub vrf: Option<IfName>,
    /// Who made it, if that was said.
    pub owner: Option<Owner>,
}

impl PortRecord {
    /// The routers of its routes, each with the network that it is on.
    pub fn routers(&self) -> impl Iterator<Item = (Vni, IpAddr)> + '_ {
        let via = self.routes.iter().filter_map(|route| route.via);
        via.map(|via| (self.vni, via))
    }
}

/// What the kernel is to have for one port. The shell makes it so, whatever is there, and touches nothing without our mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortWiring {
    /// The port.
    pub port: PortRecord,
    /// Bytes of layer 3 payload.
    pub mtu: u16,
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
    /// What was not known and so is assumed, a sentence each.
    pub assumed: Vec<String>,
    /// The frame is the question (ARP, ND) for this address, which goes before what was to be traced: nobody is known to have it.
    pub question: Option<std::net::IpAddr>,
}

impl TraceSpec {
    /// A frame that is what was asked about, with nothing assumed.
    #[must_use]
    pub fn of(vni: Vni, origin: Origin, frame: Vec<u8>) -> Self {
        Self {
            vni,
            origin,
            frame,
            assumed: Vec::new(),
            question: None,
        }
    }
}

/// Somebody else's name for a member, for messages.
#[must_use]
pub fn show_member(name: Option<&Label>, node: NodeId) -> String {
    name.map_or_else(|| node.short(), |n| format!("{n} ({})", node.short()))
}
