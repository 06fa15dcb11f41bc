//! The node as one machine: inputs in, outputs out, no clock, no socket, no thread.
//!
//! ```text
//!    upcalls of lanes ---+                              +--> rulings for lanes, frames to ports and peers
//!    sessions, messages -+--> handle(input, now) -------+--> messages, dials, hang-ups
//!    policy answers -----+        |        ^            +--> questions for plugins
//!    kernel events ------+        v        |            +--> kernel work
//!    commands -----------+   the machines below         +--> state to keep, notices, replies
//! ```
//!
//! Owns the alphabet and the dispatch to the machines, each a file of its own: `switch`, `directory`, `swim`, `peers`,
//! `pool`, `ports`, `policy`. It refuses to compute anything itself.
//!
//! Contract with the driver: drain `poll_output` after each input; make every [`Output::Persist`] of one drain durable
//! before any other output of that drain is acted on.

pub use crate::machine::{Node, NodeConfig};
pub use crate::switch::{Monitor, PacketOut, PacketTo, SendError};

use crate::code::ErrorCode;
use crate::command::{Command, PortRecord, PortWiring, Refusal, Reply, ServiceWiring};
use crate::conntrack::Tracked;
use crate::flow::{FlowKey, Origin};
use crate::ident::{
    CommandId, Epoch, IfName, MacAddr, NodeId, PortId, QueryId, SessionId, UpcallId, Vni,
};
use crate::notice::Notice;
use crate::offload::{GateMatch, GateOp, KernelTraffic, PathSlot};
use crate::plan::NetworkPlan;
use crate::policy::Answer;
use crate::ruling::{self, Ruling};
use crate::steering::{Live, SteerAnswer, SteerQuestion, WayId, WaySample};
use crate::wire::control::{JoinRefusal, Message, Welcome};
use crate::wire::inquiry::InquiryWord;
use crate::wire::probe::ProbeFrame;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// What happens to a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A lane has no ruling for a frame.
    Upcall {
        /// The lane.
        origin: Origin,
        /// To be named in the answer.
        upcall: UpcallId,
        /// The network, as the port or the datagram says.
        vni: Vni,
        /// From the destination MAC on.
        frame: Bytes,
        /// What is known of its connection.
        ct: Tracked,
    },
    /// A lane has a ruling that the kernel holds for exact flows only, and here is another flow: see [`Step::Forward`].
    ///
    /// [`Step::Forward`]: crate::lane::Step::Forward
    Offer {
        /// The lane.
        origin: Origin,
        /// The network.
        vni: Vni,
        /// One of the flow's frames, from the destination MAC on.
        frame: Bytes,
    },
    /// Something about a QUIC connection.
    Session(SessionEvent),
    /// A message on a session's control stream.
    Message {
        /// The session.
        session: SessionId,
        /// The message.
        message: Message,
    },
    /// A plugin chain answered.
    Answer {
        /// The question.
        query: QueryId,
        /// The epoch of the question.
        epoch: Epoch,
        /// The chain's answer, or that it failed.
        answer: Arc<Answer>,
    },
    /// A steering plugin answered.
    Steered {
        /// The question.
        query: QueryId,
        /// Its answer; `None`: it failed.
        answer: Option<SteerAnswer>,
    },
    /// The counters of all connections to peers between which there is a choice; see [`Output::Ways`].
    Ways(Vec<WaySample>),
    /// A probe came in by a network's VXLAN device.
    Probe {
        /// The network.
        vni: Vni,
        /// From the destination MAC on.
        frame: Bytes,
    },
    /// A frame of a plugin's own making is to be sent.
    Send {
        /// To be named in the answer.
        id: CommandId,
        /// The frame.
        packet: PacketOut,
    },
    /// Something about this host.
    Kernel(KernelEvent),
    /// An operator.
    Command {
        /// To be named in the reply.
        id: CommandId,
        /// The wish.
        command: Command,
    },
}

/// What happens to a QUIC connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SessionEvent {
    /// TLS is done: the far end holds the private key of `key`. Nothing more is known.
    Connected {
        /// The connection.
        session: SessionId,
        /// The far end's key.
        key: NodeId,
        /// Where it is.
        remote: SocketAddr,
        /// By this node?
        dialed: bool,
    },
    /// The same, of a connection of an underlay link.
    LinkConnected {
        /// The connection.
        session: SessionId,
        /// The far end's key.
        key: NodeId,
        /// The link: that of this node's socket.
        way: WayId,
        /// Where the far end is.
        remote: SocketAddr,
        /// By this node?
        dialed: bool,
    },
    /// It is over.
    Closed {
        /// The connection.
        session: SessionId,
        /// In words.
        reason: String,
    },
    /// The path takes smaller packets than before.
    Shrank {
        /// The connection.
        session: SessionId,
        /// Bytes of UDP payload that it took.
        was: u16,
        /// Bytes that it takes for certain.
        mtu: u16,
    },
    /// The far end of a link did not answer.
    LinkDialFailed {
        /// The node dialed.
        node: NodeId,
        /// The link.
        way: WayId,
        /// In words.
        reason: String,
    },
    /// No address of the node answered.
    DialFailed {
        /// The node dialed.
        node: NodeId,
        /// In words, address by address.
        reason: String,
    },
}

/// What happens on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum KernelEvent {
    /// The port is as it should be.
    Wired {
        /// The port.
        port: PortId,
        /// As the kernel named it (`eth%d` becomes `eth0`).
        ifname: IfName,
        /// As the kernel has it.
        mac: MacAddr,
        /// The file of a macvtap.
        file: Option<Vec<u8>>,
    },
    /// A port was looked through, and made what it should be.
    Mended {
        /// The port.
        port: PortId,
        /// As in `Wired`.
        ifname: IfName,
        /// As in `Wired`.
        mac: MacAddr,
        /// What was not as it should be.
        mended: Vec<String>,
    },
    /// How long frames may be behind a port.
    FarMtu {
        /// The port: an uplink, or a place in a bridge of the host.
        port: PortId,
        /// What the interface or bridge takes now, in bytes.
        mtu: u32,
    },
    /// The container set its end of a live port down, or up again.
    FarEnd {
        /// The port.
        port: PortId,
        /// Does it carry frames?
        up: bool,
    },
    /// The port could not be made; nothing of it is left.
    WireFailed {
        /// The port.
        port: PortId,
        /// What kind of fault.
        code: ErrorCode,
        /// In words, for the operator.
        reason: String,
        /// The namespace does not exist any more: give the port up.
        gone: bool,
    },
    /// The node's own presence on a network is there.
    Served {
        /// Its port.
        port: PortId,
    },
    /// It could not be made; nothing of it is left.
    ServeFailed {
        /// Its port.
        port: PortId,
        /// In words, for the operator.
        reason: String,
    },
    /// Nothing of the port is left.
    Unwired {
        /// The port.
        port: PortId,
        /// What could not be undone.
        errors: Vec<String>,
    },
    /// The far end or its namespace went away.
    PortGone {
        /// The port.
        port: PortId,
    },
    /// What a port waits for may be there now.
    Appeared {
        /// The port.
        port: PortId,
    },
    /// The underlay addresses of this host, with the port of the endpoint, most likely first.
    Addresses(Vec<SocketAddr>),
    /// What the kernel now has for a network; the answer to [`Output::Plan`], and told again when it became another.
    Planned {
        /// The network.
        vni: Vni,
        /// As a plan; `None`: nothing.
        plan: Option<Arc<NetworkPlan>>,
        /// What could not be done, and why, in words for the operator.
        problems: Vec<String>,
    },
    /// Frames that gates counted on paths since they were told last, where there were any.
    Traffic(Vec<PathTraffic>),
    /// Entries of gates that no frame met for long.
    GatesIdle(Vec<GateMatch>),
}

/// What passed on a path since it was told last, as the kernel's gates counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathTraffic {
    /// The path.
    pub slot: PathSlot,
    /// From and to the peer.
    pub passed: KernelTraffic,
}

/// What a node wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Keep this over restarts (`None`: forget it), before anything else of this drain happens.
    Persist {
        /// Opaque, unique; see `state.rs`.
        key: Vec<u8>,
        /// Opaque.
        value: Option<Vec<u8>>,
    },
    /// The ruling on an upcall. The shell hands it to the lane.
    Ruling {
        /// The lane.
        origin: Origin,
        /// The upcall.
        upcall: UpcallId,
        /// The ruling.
        ruling: Ruling,
    },
    /// A frame that the switch made itself, or a plugin: ARP and ND answers, complaints.
    Inject {
        /// Of this network.
        vni: Vni,
        /// Out of a port, or to a peer.
        to: ruling::Output,
        /// From the destination MAC on.
        frame: Bytes,
    },
    /// What came of an [`Input::Send`].
    Sent {
        /// The input.
        id: CommandId,
        /// To how many ports and peers it was handed, or why to none.
        result: Result<u32, SendError>,
    },
    /// A member asks something for a person there, or answers.
    Inquiry {
        /// The member.
        node: NodeId,
        /// What it says.
        word: InquiryWord,
    },
    /// What peers mirror to this node leaves so from now on.
    Monitor {
        /// On this network.
        vni: Vni,
        /// `None`: copies are refused.
        monitor: Option<Monitor>,
    },
    /// From now on only rulings of this epoch count.
    Epoch(Epoch),
    /// Look the frames of a network up in its connection table, and take for decided only what rulings of `since` or later
    /// entered there. To be done before an `Epoch` that follows.
    Track {
        /// The network.
        vni: Vni,
        /// `None`: do not look them up; the table is to be forgotten.
        since: Option<Epoch>,
    },
    /// Let the kernel hold a ruling, or no longer.
    Gate(GateOp),
    /// Ask the plugin chain of the network.
    Ask {
        /// To be named in the answer.
        query: QueryId,
        /// The current one.
        epoch: Epoch,
        /// In or out of the network, and by whom.
        question: Question,
    },
    /// Dial a node, all addresses; `Connected` or `DialFailed` will follow.
    Dial {
        /// Only this key is accepted.
        node: NodeId,
        /// Most likely first.
        addresses: Vec<SocketAddr>,
    },
    /// Dial a node from one of this node's underlay links; `LinkConnected` or `LinkDialFailed` will follow.
    DialLink {
        /// Only this key is accepted.
        node: NodeId,
        /// From the socket of this link.
        way: WayId,
        /// Where the node takes connections of it.
        address: SocketAddr,
    },
    /// Send a message.
    Message {
        /// The session.
        session: SessionId,
        /// The message.
        message: Message,
    },
    /// The far end of a link's connection is this member: let its frames in, and send it frames over it.
    LinkProven {
        /// The connection.
        session: SessionId,
        /// The member.
        node: NodeId,
        /// The link.
        way: WayId,
    },
    /// From now on there may be several ways to this peer: frames that no ruling puts on one of them take one that is alive, and
    /// the node wants to see the counters of all ([`Input::Ways`]) every [`SAMPLE_MS`](crate::steering::SAMPLE_MS).
    Ways {
        /// The peer.
        node: NodeId,
        /// Those that are alive, kept up to date by the node. Shared state, so no part of a recording.
        #[serde(skip)]
        live: Arc<Live>,
    },
    /// Ask the steering plugin of the network; [`Input::Steered`] will follow.
    Steer {
        /// To be named in the answer.
        query: QueryId,
        /// The question.
        question: SteerQuestion,
    },
    /// The far end of the session is this member: let its frames in, and send it frames over this session.
    Proven {
        /// The session.
        session: SessionId,
        /// The member.
        node: NodeId,
    },
    /// Close a session once what was sent has left.
    Hangup {
        /// The session.
        session: SessionId,
        /// Goes to the far end.
        reason: String,
    },
    /// Make a port, or adopt it; `Wired` or `WireFailed` will follow.
    Wire(PortWiring),
    /// Look through a port that frames flow through, and mend what is not as it should be, without interrupting it;
    /// `Mended`, `WireFailed` or `PortGone` will follow.
    Mend(PortWiring),
    /// Undo a port; `Unwired` will follow.
    Unwire(PortRecord),
    /// Make or adopt the node's own presence on a network; `Served` or `ServeFailed` will follow.
    Serve(ServiceWiring),
    /// Make the kernel's side of a network so; `None`: nothing is to be left. `Planned` will follow.
    Plan {
        /// The network.
        vni: Vni,
        /// All of it.
        plan: Option<Arc<NetworkPlan>>,
    },
    /// Send a probe through the network's VXLAN device.
    Probe {
        /// The network.
        vni: Vni,
        /// The frame, and how the kernel is to segment it.
        probe: ProbeFrame,
    },
    /// Undo it.
    Unserve {
        /// The network.
        vni: Vni,
        /// Its port.
        port: PortId,
    },
    /// The answer to a command.
    Reply {
        /// The command.
        id: CommandId,
        /// How it went.
        result: Result<Reply, Refusal>,
    },
    /// Something an operator may want to know.
    Notice(Notice),
}

/// What a plugin chain is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The network, whose chain it is.
    pub vni: Vni,
    /// Into the network from a port, or out of it to a port.
    pub direction: Direction,
    /// The port it comes from or goes to.
    pub port: PortId,
    /// The peer it came from.
    pub peer: Option<NodeId>,
    /// The frame's fields.
    pub key: FlowKey,
    /// How the destination was found.
    pub dst_class: DstClass,
}

/// As `direction` in `wit/types.wit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From a port into the network.
    Ingress,
    /// From the network to a port.
    Egress,
}

/// As `dst-class` in `wit/types.wit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum DstClass {
    UnicastKnown,
    UnicastUnknown,
    Multicast,
    Broadcast,
}

/// What came of a redeemed invite; the joining side of the protocol is the shell's, since there is no node yet.
pub type JoinAnswer = Result<Welcome, JoinRefusal>;
