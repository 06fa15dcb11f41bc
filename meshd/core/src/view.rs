//! What an operator reads of a node, as plain data: `status`, `members`, `peers`, `paths`, `networks`, `ports`, `fdb`,
//! `drops`, `events`, `trace`, `doctor` and `plugin ls` are these structs, as JSON or as tables made of them.
//!
//! Owns the shapes and their words; whoever fills them decides nothing here. Rules for all of them:
//!
//! * An instant is a `u64` named `..._at_ms`: milliseconds since the Unix epoch. A span is named with its unit: `_s`, `_ms`, `_us`.
//! * Bytes that somebody else chose (interface names, paths, reasons) are shown escaped by [`escape`]. Where escaping
//!   changed something, [`ByteText::hex`] holds the exact bytes.
//! * A flow is text as [`flowtext`](crate::flowtext) writes it, and `meshd trace` reads that text back.

mod capture;
mod device;
mod doctor;
mod drops;
mod trace;

pub use capture::{Captured, CapturedFrame};
pub use device::{Device, DeviceSource, DeviceState};
pub use doctor::{Check, CheckState, Doctor};
pub use drops::{Balance, DropExample, DropPlace, Drops};
pub use trace::{FarTrace, TracePlugin, TraceReport, TraceStep};

use crate::command::PortRoute;
use crate::ident::{Epoch, Label, MacAddr, MeshId, NodeId, PortId, Vni, escape};
use crate::kind::PortKind;
use crate::notice::Notice;
pub use crate::offload::KernelTraffic;
use crate::offload::Obstacle;
use crate::owner::Owner;
use crate::path;
use crate::wire::record::Role;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// A node, in a way that both people and programs can use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeRef {
    /// Its id, in full.
    pub id: NodeId,
    /// Its name, if this node knows it.
    pub name: Option<Label>,
}

impl NodeRef {
    /// The name, or the short id.
    #[must_use]
    pub fn show(&self) -> String {
        self.name
            .as_ref()
            .map_or_else(|| self.id.short(), Label::to_string)
    }
}

/// Bytes that are mostly text: escaped, with the exact bytes beside where escaping lost something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ByteText {
    /// Printable, on one line.
    pub text: String,
    /// Lower-case hex; absent if `text` is exactly the bytes.
    pub hex: Option<String>,
}

impl ByteText {
    /// Of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let text = escape(bytes);
        let hex = (text.as_bytes() != bytes).then(|| {
            bytes.iter().fold(String::new(), |mut out, byte| {
                // Writing to a String cannot fail.
                let _ = write!(out, "{byte:02x}");
                out
            })
        });
        Self { text, hex }
    }
}

/// `meshd status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// The mesh's id.
    pub mesh: MeshId,
    /// The mesh's name.
    pub mesh_name: Label,
    /// Under which the names of the mesh are found, such as `lab.internal`.
    pub domain: String,
    /// This node.
    pub node: NodeRef,
    /// What it may do.
    pub role: Role,
    /// Does it hold the mesh's root key, so that it can invite and revoke?
    pub has_root: bool,
    /// Where others reach it, most likely first.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub addresses: Vec<SocketAddr>,
    /// When the daemon started.
    pub started_at_ms: u64,
    /// How long ago that was.
    pub uptime_s: u64,
    /// What rulings must be of, to count.
    pub epoch: Epoch,
    /// Members of the mesh, this node included, revoked ones not.
    pub members: u32,
    /// Those of them that are alive.
    pub members_alive: u32,
    /// Peers with a session.
    pub peers_up: u32,
    /// Networks of the mesh.
    pub networks: u32,
    /// Ports of this node.
    pub ports: u32,
    /// Those of them that are ready.
    pub ports_ready: u32,
    /// MACs known on all networks.
    pub fdb_entries: u32,
    /// Frames dropped since the start, all reasons.
    pub dropped: u64,
    /// VXLAN packets of strangers that the kernel's fence has dropped.
    pub fenced_off: u64,
    /// Two claims to one thing, that somebody should settle.
    pub conflicts: Vec<Conflict>,
    /// What else is not as it should be, one sentence each, with what to do. Empty: all is well.
    pub problems: Vec<String>,
}

/// Two claims to one MAC, IP, name or network: the first holder keeps it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Conflict {
    /// `mac`, `ip`, `name` or `network`.
    pub kind: String,
    /// The network's name, or its VNI if it has none.
    pub network: String,
    /// The MAC, IP or name.
    pub what: String,
    /// Who keeps it.
    pub holder: NodeRef,
    /// Who claims it too.
    pub other: NodeRef,
}

/// One line of `meshd members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its name in the mesh.
    pub name: Label,
    /// What it may do.
    pub role: Role,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How it is.
    pub state: MemberState,
    /// Of its membership statement.
    pub serial: u64,
    /// When the statement was signed.
    pub issued_at_ms: u64,
    /// When it ends, if it does.
    pub expires_at_ms: Option<u64>,
    /// Where it says it is reached.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub addresses: Vec<SocketAddr>,
    /// Networks with a port there, by name.
    pub networks: Vec<String>,
    /// Version of its program, if it has told.
    pub version: Option<String>,
    /// What answers at addresses of its own devices, as it says.
    pub services: Vec<MemberService>,
}

/// A name in the domain of the mesh, and where it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MemberService {
    /// Its name.
    pub name: Label,
    /// Of the underlay.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub ips: Vec<IpAddr>,
    /// This node's config lets it have the name, so that it is answered.
    pub answered: bool,
}

/// How a member is, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum MemberState {
    /// This node.
    Here,
    /// It answers.
    Alive,
    /// It has not answered lately; others are asked.
    Suspect,
    /// It is gone; its endpoints are withdrawn.
    Dead,
    /// Never heard of since this daemon started.
    Unknown,
    /// Its rights were taken.
    Revoked,
}

/// One line of `meshd peers`: a node that this one has, or wants, a session with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Peer {
    /// The node.
    pub node: NodeRef,
    /// Of the session.
    pub state: PeerState,
    /// Far end of the session, or of the last one.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub remote: Option<SocketAddr>,
    /// Did this node dial?
    pub dialed: Option<bool>,
    /// Since when `state` holds.
    pub since_at_ms: Option<u64>,
    /// Why there is no session, if there is none.
    pub reason: Option<String>,
    /// Until the next try, if one is planned.
    pub retry_in_ms: Option<u64>,
    /// Smoothed round-trip time.
    pub rtt_us: Option<u64>,
    /// Largest datagram, in bytes; a longer frame travels in pieces.
    pub datagram_max: Option<u32>,
    /// To and from the peer over QUIC.
    pub traffic: Traffic,
    /// What the kernel forwarded by itself over VXLAN, besides, since this daemon or the peer's membership of the networks began.
    pub kernel: KernelTraffic,
    /// QUIC packets of this node that the underlay lost.
    pub lost_packets: Option<u64>,
    /// Of what the peer sent and the underlay lost, the parts of superframes that were made again of repairs.
    pub mended: u64,
}

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum PeerState {
    /// Both sides proved their membership: frames flow.
    Up,
    /// Connected, membership not proven yet.
    Greeting,
    /// Being dialed.
    Dialing,
    /// Not reached; tried again later.
    Waiting,
    /// No session, and none is tried.
    Down,
}

/// Frames and bytes, from the side of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Traffic {
    /// Frames received from the port or peer.
    pub rx_frames: u64,
    /// Their bytes, from the destination MAC on.
    pub rx_bytes: u64,
    /// Frames sent to the port or peer.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames of either way that were dropped here.
    pub dropped: u64,
}

/// One line of `meshd paths`: a way to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Path {
    /// The peer.
    pub node: NodeRef,
    /// Its number among those to this peer: what plugins know it by.
    pub id: u32,
    /// `quic-direct`, `link` or `kernel-vxlan`.
    pub kind: String,
    /// Of a link: its name.
    pub link: Option<String>,
    /// Of a `kernel-vxlan` path: its network's name.
    pub network: Option<String>,
    /// May traffic take it? Of two that may, flows that the kernel can hold take VXLAN, the others QUIC.
    pub active: bool,
    /// Why it is, or is not, taken.
    pub reason: String,
    /// The same as a word for programs, of a `kernel-vxlan` path.
    pub reason_code: Option<path::Reason>,
    /// What was measured.
    pub evidence: Option<String>,
    /// What to do, if there is something to be done.
    pub remedy: Option<String>,
    /// Since when it is so.
    pub since_at_ms: Option<u64>,
    /// How it came to be so, oldest first.
    pub history: Vec<PathStep>,
    /// Far end.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub remote: Option<SocketAddr>,
    /// Smoothed round-trip time.
    pub rtt_us: Option<u64>,
    /// Largest UDP payload that fits, in bytes.
    pub mtu: Option<u32>,
    /// Lost packets in a million sent: of the last second, where there is a choice of ways, else since the path came up.
    pub loss_ppm: Option<u32>,
    /// Congestion window, in bytes.
    pub window_bytes: Option<u64>,
    /// The lower is taken first.
    pub cost: u32,
    /// Of a `kernel-vxlan` path: what the kernel forwarded by itself, from and to the peer.
    pub kernel: Option<KernelTraffic>,
    /// Mean deviation of the round trip over the last second, where there is a choice of ways.
    pub jitter_us: Option<u32>,
    /// What it takes now, where there is a choice of ways.
    pub used_kbps: Option<u32>,
    /// What it could take, as declared or estimated, where there is a choice of ways.
    pub avail_kbps: Option<u32>,
}

/// A change of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PathStep {
    /// When.
    pub at_ms: u64,
    /// What it was.
    pub from: path::PathState,
    /// What it became.
    pub to: path::PathState,
    /// Why.
    pub reason: path::Reason,
    /// What was measured.
    pub evidence: String,
}

/// One line of `meshd network vtep ls`: a foreign VTEP that was declared on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VtepRow {
    /// The network's name.
    pub network: String,
    /// The network's segment.
    pub vni: Vni,
    /// Where it is.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub ip: IpAddr,
    /// MACs that were declared behind it.
    pub macs: Vec<MacAddr>,
    /// The port of this node that stands for the foreign VTEPs of the network.
    pub port: PortId,
    /// What the foreign VTEP is to have as its remote: where this node takes VXLAN; `None`: nowhere at the moment.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub remote: Option<SocketAddr>,
    /// Why no frame goes there and none is let in, in words; `None`: frames do.
    pub trouble: Option<String>,
}

/// `meshd network groups`: who listens to which multicast on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Listeners {
    /// The network's name.
    pub network: String,
    /// The network's segment.
    pub vni: Vni,
    /// False: all multicast floods, and the rest is empty.
    pub snooping: bool,
    /// Ports of this node that get all: not asked yet, with a router, or the way to a LAN.
    pub all: Vec<PortId>,
    /// Groups with a listener.
    pub groups: Vec<GroupRow>,
    /// Messages of IGMP and MLD that were void.
    pub malformed: u64,
}

/// Who listens to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GroupRow {
    /// The group, by its MAC: groups that share one are one.
    pub group: MacAddr,
    /// Ports of this node.
    pub ports: Vec<PortId>,
    /// Other nodes.
    pub nodes: Vec<NodeRef>,
}

/// One line of `meshd network ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Network {
    /// Its name.
    pub name: Label,
    /// Its segment.
    pub vni: Vni,
    /// Its subnets.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub subnets: Vec<ipnet::IpNet>,
    /// Bytes of layer 3 payload.
    pub mtu: u16,
    /// Who defined it.
    pub author: NodeRef,
    /// When it was first defined.
    pub since_at_ms: u64,
    /// Where names are asked for: the first address of each subnet.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub service: Vec<IpAddr>,
    /// `<network>.<mesh domain>`.
    pub domain: String,
    /// Ports of this node.
    pub ports_here: u32,
    /// Endpoints of all nodes.
    pub endpoints: u32,
    /// Nodes that have ports there.
    pub nodes: Vec<NodeRef>,
    /// Plugins in its policy chain on this node.
    pub plugins: u32,
    /// Addresses that this node gave away to nodes that are revoked or not connected.
    pub away: Vec<Away>,
    /// Bridges of this host that are joined to it, or that it waits for.
    pub bridges: Vec<NetworkBridge>,
}

/// A bridge of this host that is of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NetworkBridge {
    /// Its name.
    pub name: ByteText,
    /// The port that is in it.
    pub port: PortId,
    /// How that is.
    pub state: PortState,
    /// Why, if it is not ready.
    pub reason: Option<String>,
}

/// Addresses that nobody in reach can lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Away {
    /// Their subnet.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub subnet: ipnet::IpNet,
    /// Who has them.
    pub node: NodeRef,
    /// How many at least, as a decimal number (it may exceed 2^64).
    pub addresses: String,
}

/// One line of `meshd ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// Its network's name.
    pub network: String,
    /// Its network's segment.
    pub vni: Vni,
    /// File of the namespace of its far end.
    pub netns: ByteText,
    /// Name of its far end.
    pub ifname: ByteText,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its addresses.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub ips: Vec<ipnet::IpNet>,
    /// Which of them are leased from the network's pool.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub leased: Vec<IpAddr>,
    /// Its name on the network.
    pub name: Option<Label>,
    /// `<name>.<network>.<mesh domain>`.
    pub domain_name: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was claimed.
    pub since_at_ms: u64,
    /// Of its far end, in bytes; `None` while its network is not known.
    pub mtu: Option<u16>,
    /// Routes of its far end besides those to its subnets.
    pub routes: Vec<PortRoute>,
    /// The VRF that its far end is in.
    pub vrf: Option<ByteText>,
    /// Who made it, if that was said.
    pub owner: Option<Owner>,
    /// What it is made of.
    pub kind: PortKind,
    /// How it is.
    pub state: PortState,
    /// Why, if it is not ready.
    pub reason: Option<String>,
    /// Does its far end carry frames: is the interface up on both sides?
    pub link: bool,
    /// The file of a macvtap, which a virtual machine opens.
    pub device: Option<ByteText>,
    /// Devices of this host that are the port's, such as `mv5` and `mt5`: the end of its veth here, and the TAP by which the daemon has
    /// its frames.
    pub devices: Vec<String>,
    /// Frames that came by each queue of its TAP: the flows of its container are spread over them, and each may have a core of its own.
    pub queues: Vec<u64>,
    /// MACs that were learned behind it.
    pub learned: usize,
    /// Root bridge of the spanning tree behind an uplink, as its BPDUs say: priority and MAC.
    pub stp_root: Option<String>,
    /// From and to the container, through the daemon.
    pub traffic: Traffic,
    /// What the kernel forwarded by itself, besides.
    pub kernel: KernelTraffic,
}

/// How a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum PortState {
    /// The kernel work is not done yet.
    Wiring,
    /// Frames flow.
    Ready,
    /// It would close a loop, or a new uplink listens whether it would: no frame enters or leaves the network by it.
    Blocked,
    /// The kernel work failed; it is tried again.
    Failed,
    /// Being undone.
    Leaving,
}

/// One line of `meshd fdb`: where a MAC is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FdbEntry {
    /// The network's name.
    pub network: String,
    /// The network's segment.
    pub vni: Vni,
    /// The address.
    pub mac: MacAddr,
    /// Behind this port of this node.
    pub port: Option<PortId>,
    /// Behind this node.
    pub node: NodeRef,
    /// How it is known.
    pub kind: FdbKind,
    /// Its IP addresses, as advertised.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub ips: Vec<IpAddr>,
    /// Its name, as advertised.
    pub name: Option<Label>,
    /// Since it last sent, for learned ones.
    pub idle_s: Option<u64>,
}

/// How a MAC is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum FdbKind {
    /// Given to a port when it was attached.
    Port,
    /// Seen as the source of a frame from a port.
    Learned,
    /// Advertised by another node.
    Remote,
    /// The node's own service on the network.
    Service,
}

/// One line of `meshd flows`: a ruling that holds for many frames, or a question on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Flow {
    /// The network's name.
    pub network: String,
    /// The network's segment.
    pub vni: Vni,
    /// `port 3 (web.demo)`, `peer berlin` or `vxlan`.
    pub origin: String,
    /// What it speaks of, as [`flowtext`](crate::flowtext) writes it; `*` where anything fits.
    pub flow: String,
    /// `to port 3`, `to peer berlin`, `drop: policy`.
    pub action: String,
    /// Where its frames are seen to.
    pub lives: FlowTier,
    /// Since when.
    pub since_at_ms: u64,
    /// Frames on all tiers, those in the kernel as units of what the network cards would see.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that the kernel saw to by itself.
    pub kernel_frames: u64,
    /// Entries that the kernel's gates have for it.
    pub kernel_entries: u32,
    /// The first thing that keeps it out of the kernel.
    pub obstacle: Option<Obstacle>,
    /// The same as a sentence.
    pub why: Option<String>,
}

/// One line of `meshd connections`: a connection of a tracked network, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Connection {
    /// The network's name.
    pub network: String,
    /// The network's segment.
    pub vni: Vni,
    /// Where its first frame came from: `port 3 (web.demo)`, `peer berlin` or `vxlan`.
    pub opened_by: String,
    /// `tcp`, `udp`, `sctp`, `icmp`, or the protocol's number.
    pub proto: String,
    /// Who opened it.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub src: IpAddr,
    /// As `src`; of an ICMP echo the identifier.
    pub src_port: u16,
    /// To whom.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub dst: IpAddr,
    /// As `dst`; of an ICMP echo 0.
    pub dst_port: u16,
    /// How far it is.
    pub state: crate::conntrack::State,
    /// Frames went both ways.
    pub replied: bool,
    /// The chain changed, and its next frame is decided anew.
    pub stale: bool,
    /// As a policy set it; 0: none.
    pub mark: u32,
    /// Seconds since its first frame.
    pub age_s: u64,
    /// Seconds without a frame.
    pub idle_s: u64,
    /// Seconds for which it lives, if no frame comes.
    pub left_s: u64,
    /// Who decided.
    pub why: String,
}

/// Where frames are seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum FlowTier {
    /// In the kernel: the daemon sees none of them.
    Kernel,
    /// By a cached ruling.
    Datapath,
    /// By a question of its own.
    Slow,
}

/// One line of `meshd events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Event {
    /// Grows, also over restarts; where numbers are left out, so may events be. `meshd events --follow` picks up behind it.
    pub seq: u64,
    /// When.
    pub at_ms: u64,
    /// One sentence.
    pub text: String,
    /// What.
    #[serde(flatten)]
    pub notice: Notice,
}

impl Event {
    /// Of `notice`.
    #[must_use]
    pub fn of(seq: u64, at_ms: u64, notice: Notice) -> Self {
        Self {
            seq,
            at_ms,
            text: sentence(&notice),
            notice,
        }
    }
}

/// One line of `meshd plugin ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Plugin {
    /// Its name on this node.
    pub name: Label,
    /// What its manifest says it is, if it has one.
    pub manifest: Option<PluginManifest>,
    /// SHA-256 of the component, as hex.
    pub digest: String,
    /// Bytes of the component.
    pub size: u64,
    /// The file that it was installed from, as who installed it named it.
    pub source: Option<String>,
    /// Why it cannot be used, if so.
    pub trouble: Option<String>,
    /// Digests of the versions to which it can go back, the one before first.
    pub earlier: Vec<String>,
    /// Keys that have signed it.
    #[serde(default)]
    pub signers: Vec<String>,
    /// What has to be granted to it where it is attached, as `--grant` takes it; empty: nothing.
    #[serde(default)]
    pub needs: String,
    /// Questions since the daemon started, on all networks.
    pub calls: u64,
    /// Where it decides.
    pub attachments: Vec<PluginAttachment>,
}

/// What a plugin's author says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PluginManifest {
    /// Of the plugin; it may be installed under another.
    pub name: String,
    /// Of the plugin.
    pub version: String,
    /// One sentence, or empty.
    pub description: String,
}

/// A plugin's place in the chain of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PluginAttachment {
    /// The network's name, or its VNI if this node does not know it.
    pub network: String,
    /// The network's segment.
    pub vni: Vni,
    /// Where in the chain: `guard`, `classify`, `forward` or `observe`, in this order.
    pub stage: String,
    /// Lower is asked earlier within the stage.
    pub order: u16,
    /// What holds for frames when it fails: `closed` (dropped), `open` (passed on) or `last-good` (the version before decides).
    pub fail: String,
    /// Its config, as given: JSON.
    pub config: String,
    /// Why its fail mode answers at the moment, or its controller does nothing, if so.
    pub trouble: Option<String>,
    /// How it failed last.
    pub last_fault: Option<String>,
    /// Questions since the daemon started.
    pub asked: u64,
    /// Of them, refused by the plugin.
    pub dropped: u64,
    /// Of them, answered by the fail mode.
    pub failed: u64,
    /// Time spent in the plugin, all questions together.
    pub busy_us: u64,
    /// Why its answers hold for exactly equal frames only, if so.
    pub quarantine: Option<String>,
    /// The version that runs beside it and is not obeyed, if one does.
    pub shadow: Option<PluginShadow>,
}

/// A version beside the one in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PluginShadow {
    /// SHA-256 of its component, as hex.
    pub digest: String,
    /// Questions that both answered.
    pub compared: u64,
    /// Of them, those that they answered in two ways.
    pub differ: u64,
}

/// A word of an enum as JSON has it: `MtuHole` is `mtu-hole`.
#[must_use]
pub fn word(value: &impl std::fmt::Debug) -> String {
    let mut out = String::new();
    for c in format!("{value:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// What happened, for people. What others chose in it is escaped.
#[must_use]
pub fn sentence(notice: &Notice) -> String {
    let esc = |text: &str| escape(text.as_bytes());
    let who = |node: &NodeId, name: &str| {
        if name.is_empty() {
            node.short()
        } else {
            format!("{} ({})", esc(name), node.short())
        }
    };
    match notice {
        Notice::Started { version, clean } => format!(
            "meshd {} runs{}",
            esc(version),
            if *clean { "" } else { "; the one before it did not stop in order, and what happened last may not be told" }
        ),
        Notice::Plugin { plugin, vni, state, reason } => {
            let place = vni.map(|vni| format!(" on VNI {vni}")).unwrap_or_default();
            let why = if reason.is_empty() { String::new() } else { format!(": {}", esc(reason)) };
            format!("plugin {}{place}: {}{why}", esc(plugin), word(state))
        }
        Notice::Device { name, from, to, reason } => {
            let state = |state: &Option<DeviceState>| state.as_ref().map_or_else(|| "none".to_owned(), word);
            let why = if reason.is_empty() { String::new() } else { format!(": {}", esc(reason)) };
            format!("device {}: {} to {}{why}", esc(name), state(from), state(to))
        }
        Notice::PluginQuarantined {
            plugin,
            vni,
            reason,
        } => format!(
            "plugin {} on VNI {vni} is quarantined, its answers hold for exactly equal frames only: {}; change its config or install a mended version",
            esc(plugin),
            esc(reason)
        ),
        Notice::PeerUp { node, name, remote } => {
            format!("session with {} at {} is up", who(node, name), esc(remote))
        }
        Notice::PeerDown { node, name, reason } => {
            format!("session with {} is over: {}", who(node, name), esc(reason))
        }
        Notice::LinkUp {
            node,
            name,
            link,
            remote,
        } => format!("link {} to {} is up, at {}", esc(link), who(node, name), esc(remote)),
        Notice::LinkDown {
            node,
            name,
            link,
            reason,
        } => format!("link {} to {} is down: {}", esc(link), who(node, name), esc(reason)),
        Notice::PathShrank {
            node,
            name,
            was,
            mtu,
        } => format!(
            "packets of up to {was} bytes to {} get lost: the path takes smaller ones now, or is overloaded; {mtu} bytes from now on, until more are proven",
            who(node, name)
        ),
        Notice::PeerRefused { remote, reason } => {
            format!("{} was refused: {}", esc(remote), esc(reason))
        }
        Notice::MemberJoined { node, name } => format!("{} is a member now", who(node, name)),
        Notice::MemberRevoked { node, name } => {
            format!("{} is no member any more: revoked", who(node, name))
        }
        Notice::NodeAlive { node, name } => format!("{} is alive", who(node, name)),
        Notice::NodeDead { node, name } => format!(
            "{} does not answer any more; its endpoints are withdrawn",
            who(node, name)
        ),
        Notice::InviteUsed { node, name } => format!("{} used an invite", who(node, name)),
        Notice::InviteRefused { remote, reason } => format!(
            "{} came with an invite and was refused: {}",
            esc(remote),
            esc(reason)
        ),
        Notice::NetworkAdded { vni, name } => {
            format!("network {} (VNI {vni}) was added", esc(name))
        }
        Notice::NetworkRemoved { vni, name } => {
            format!("network {} (VNI {vni}) was removed", esc(name))
        }
        Notice::NetworkConflict {
            vni,
            name,
            holder,
            other,
        } => {
            format!(
                "network {} (VNI {vni}) is defined twice: {} keeps it, {} claims it too",
                esc(name),
                holder.short(),
                other.short()
            )
        }
        Notice::PortReady { port, network } => {
            format!("port {port} on network {} is ready", esc(network))
        }
        Notice::PortMended { port, what } => format!("port {port} was mended: {}", esc(what)),
        Notice::PortFarEnd { port, up: true } => {
            format!("the far end of port {port} is up")
        }
        Notice::PortFarEnd { port, up: false } => {
            format!("the far end of port {port} is down")
        }
        Notice::PortNarrow { port, mtu, wanted } => format!(
            "what is behind port {port} has an MTU of {mtu} now, and the network of {wanted}: longer frames are lost there"
        ),
        Notice::PortBlocked { port, reason } => {
            format!("port {port} is blocked: {}", esc(reason))
        }
        Notice::PortUnblocked { port } => format!("port {port} is open again"),
        Notice::MacFlaps { vni, mac, port } => format!(
            "MAC {mac} on VNI {vni} jumps between port {port} and elsewhere: do two stations have it?"
        ),
        Notice::PortFailed { port, reason } => format!("port {port} failed: {}", esc(reason)),
        Notice::PortGone { port, reason } => format!("port {port} is gone: {}", esc(reason)),
        Notice::MacConflict {
            vni,
            mac,
            holder,
            other,
        } => {
            format!(
                "MAC {mac} on VNI {vni} is claimed twice: {} keeps it, {} claims it too",
                holder.short(),
                other.short()
            )
        }
        Notice::IpConflict {
            vni,
            ip,
            holder,
            other,
        } => {
            format!(
                "address {ip} on VNI {vni} is claimed twice: {} keeps it, {} claims it too",
                holder.short(),
                other.short()
            )
        }
        Notice::NameConflict {
            vni,
            name,
            holder,
            other,
        } => {
            format!(
                "name {} on VNI {vni} is claimed twice: {} keeps it, {} claims it too",
                esc(name),
                holder.short(),
                other.short()
            )
        }
        Notice::ServiceRefused { name, node } => format!(
            "service {} of {} is not answered: this node's config does not let it have that name; if it should, add the node under [[dns.service]]",
            esc(name),
            node.short()
        ),
        Notice::ServiceDiffers {
            name,
            holder,
            other,
        } => format!(
            "service {} is at other addresses on {} than on {}: names lead to both; if one of them is not meant, list the nodes under [[dns.service]]",
            esc(name),
            other.short(),
            holder.short()
        ),
        Notice::ServiceHidden { name, node } => format!(
            "service {} of {} is not answered: a network has that name, and names on it end so; give the service another, or the network",
            esc(name),
            node.short()
        ),
        Notice::PoolGranted { vni, from, range } => format!(
            "{} gave the addresses {} of VNI {vni}",
            from.short(),
            esc(range)
        ),
        Notice::Refused { what, reason } => format!("{} was refused: {}", esc(what), esc(reason)),
        Notice::StateUnkept { reason } => format!(
            "the state cannot be kept: {}; traffic goes on, changes are refused, and it is tried again each second",
            esc(reason)
        ),
        Notice::StateKept {} => "the state is kept again".to_owned(),
        Notice::HeldBack { what, count } => {
            format!(
                "{count} more events about {} were held back: too many at once",
                esc(what)
            )
        }
        Notice::Epoch { epoch } => format!("epoch {epoch}: rulings are asked again"),
        Notice::Path {
            vni,
            node,
            name,
            from,
            to,
            reason,
            evidence,
        } => {
            let (state, reason, means) = (word(to), word(reason), reason.explain());
            let now = match from == to {
                true => format!("still {state}"),
                false => format!("{state}, was {}", word(from)),
            };
            let mut why = match reason == state {
                true => means.to_owned(),
                false => format!("{reason}, {means}"),
            };
            if !evidence.is_empty() {
                why += &format!(" ({})", esc(evidence));
            }
            format!("path to {} on VNI {vni} is {now}: {why}", who(node, name))
        }
        Notice::KernelTrouble {
            network, reason, ..
        } => format!(
            "network {} in the kernel is not as it is to be: {}",
            esc(network),
            esc(reason)
        ),
        Notice::BridgeFiltered { by } => format!(
            "frames of bridges go through this host's firewall, where {} (br_netfilter): so that none is lost, the daemon \
             forwards all frames itself, more slowly; see `meshd doctor`",
            esc(by)
        ),
        Notice::BridgeUnfiltered {} => {
            "this host's firewall is in the way of bridged frames no more, or is to be ignored: the kernel forwards again"
                .to_owned()
        }
        Notice::KernelRepaired { network, what, .. } => format!(
            "network {} in the kernel was changed by somebody else, and put right: {}",
            esc(network),
            esc(what)
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_path_is_a_sentence_with_and_without_figures() {
        let told = |reason, evidence: &str| {
            sentence(&Notice::Path {
                vni: Vni::new(7).unwrap(),
                node: NodeId([1; 32]),
                name: "b".into(),
                from: path::PathState::Ineligible,
                to: path::PathState::Proving,
                reason,
                evidence: evidence.into(),
            })
        };
        let plain = told(path::Reason::Proving, "");
        let end = "on VNI 7 is proving, was ineligible: probes are on their way; frames travel by QUIC until enough arrived";
        assert!(plain.ends_with(end), "{plain}");
        let changed = told(path::Reason::Changed, "MTU 1380 to 1400");
        assert!(changed.contains(": changed, an address"), "{changed}");
        assert!(changed.ends_with(" (MTU 1380 to 1400)"), "{changed}");
    }

    #[test]
    fn a_name_that_is_no_text_keeps_its_bytes_beside_the_escaped_form() {
        assert_eq!(
            ByteText::of(b"eth0"),
            ByteText {
                text: "eth0".into(),
                hex: None
            }
        );
        assert_eq!(
            ByteText::of(b"\xff\"x"),
            ByteText {
                text: "\\xff\\\"x".into(),
                hex: Some("ff2278".into())
            }
        );
    }

    #[test]
    fn an_event_is_one_flat_object_that_reads_back() {
        let event = Event::of(
            7,
            1000,
            Notice::PeerDown {
                node: NodeId([1; 32]),
                name: "a\nb".into(),
                reason: "lost".into(),
            },
        );
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["event"], "peer-down");
        assert_eq!(
            json["text"],
            format!(
                "session with a\\nb ({}) is over: lost",
                NodeId([1; 32]).short()
            )
        );
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
