//! Rulings: what is to happen to every frame under a megaflow, and the reasons why one may be dropped.
//!
//! Owns the words; the switch (`switch.rs`) makes rulings, a lane (`lane.rs`) obeys them, and counters, `meshd drops`,
//! `meshd trace` and the API all render [`DropReason`].

use crate::conntrack::Order;
use crate::dues::Dues;
use crate::edit::Edit;
use crate::flow::{FlowKey, FlowMask};
use crate::group;
use crate::ident::{Epoch, Moment, NodeId, PortId};
use crate::node::Question;
use crate::offload::Obstacle;
use crate::policy::Punt;
use crate::steering::Choice;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// Out of a port of this node.
    Port(PortId),
    /// To a peer, over its session.
    Peer(NodeId),
}

/// A copy of each frame that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// A port here; or a node, which sends it out of the port that takes copies there.
    pub to: Output,
    /// So many bytes of it; 0: all.
    pub bytes: u16,
}

impl Copied {
    /// What of the frame is copied.
    #[must_use]
    pub fn cut<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        match self.bytes {
            0 => frame,
            bytes => frame.get(..usize::from(bytes)).unwrap_or(frame),
        }
    }
}

/// What happens to a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A copy to each; never empty.
    Forward(Arc<[Output]>),
    /// Counted and gone.
    Drop(DropReason),
    /// The switch answered it itself (ARP, ND); nothing is to be forwarded.
    Consume,
}

/// A copy of each frame as it came in, for a controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PuntOrder {
    /// Whose, and how long.
    pub punt: Punt,
    /// What its policy was asked, about a frame of the flow.
    pub question: Question,
}

/// The answer to an upcall. If `cache` is set it holds for every frame under the megaflow, until the epoch moves or
/// `until` passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// What happens to the frame of the upcall and to those parked behind it.
    pub action: Action,
    /// What is changed of each frame that is forwarded; `None`: nothing.
    pub edits: Option<Arc<[Edit]>>,
    /// What it wants of the connection of each frame that is forwarded; `None`: nothing.
    pub track: Option<Arc<Order>>,
    /// What each frame is charged with and counted under; `None`: nothing. No part of a recording.
    #[serde(skip)]
    pub dues: Option<Arc<Dues>>,
    /// Copies of each frame for controllers, also of those that are dropped; `None`: none.
    pub punts: Option<Arc<[PuntOrder]>>,
    /// By which way each frame goes to a peer, where there is a choice; `None`: by any that is alive. No part of a recording.
    #[serde(skip)]
    pub ways: Option<Arc<Choice>>,
    /// Copies of each frame that is forwarded, as it leaves; `None`: none.
    pub copies: Option<Arc<[Copied]>>,
    /// Each flow fares by one of these instead, in all of the above; `None`: all fare alike.
    pub select: Option<Arc<[Arm]>>,
    /// For what other frames the same holds; `None`: for no other.
    pub cache: Option<Megaflow>,
    /// Bytes of the longest frame that it speaks of, tags included. A length is no field of the key, so the lane looks at
    /// it; a longer frame is [`DropReason::TooLong`].
    pub longest: u32,
    /// Why the kernel's gates do not hold it; `None`: they do.
    pub obstacle: Option<Obstacle>,
    /// The gates hold it for exact flows only, and now for this one: each other flow under the megaflow is to be offered.
    pub each_flow: bool,
}

/// One of several rulings, of which each flow takes one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// Tells it from the others, whichever there are: [`Bucket::seed`](crate::group::Bucket::seed).
    pub seed: u64,
    /// Its share.
    pub weight: u16,
    /// What becomes of the flow's frames. How long that holds, and for whom, the ruling says that it is an arm of.
    pub ruling: Ruling,
}

impl Ruling {
    /// How frames of a flow with this key fare: by this ruling, or by the arm of it that the flow takes.
    #[must_use]
    pub fn choose(&self, key: &FlowKey) -> &Self {
        let Some(arms) = &self.select else {
            return self;
        };
        let ways = arms.iter().map(|arm| (arm.seed, arm.weight));
        let chosen = group::choose(group::flow_hash(key), ways);
        chosen
            .and_then(|at| arms.get(at))
            .map_or(self, |arm| &arm.ruling)
    }

    /// The receiver, if frames are forwarded to a single one as they are, and nothing else is done.
    #[must_use]
    pub fn plain(&self) -> Option<Output> {
        let Self {
            action: Action::Forward(to),
            edits: None,
            track: None,
            dues: None,
            punts: None,
            ways: None,
            copies: None,
            select: None,
            ..
        } = self
        else {
            return None;
        };
        let [one] = **to else {
            return None;
        };
        Some(one)
    }

    /// That this becomes of one frame, and of no other.
    #[must_use]
    pub fn of(action: Action) -> Self {
        Self {
            action,
            edits: None,
            track: None,
            dues: None,
            punts: None,
            ways: None,
            copies: None,
            select: None,
            cache: None,
            longest: u32::MAX,
            obstacle: None,
            each_flow: false,
        }
    }
}

/// A flow key with a mask, and how long the ruling on it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Megaflow {
    /// The key; bits outside the mask are zero.
    pub key: FlowKey,
    /// The bits that mattered.
    pub mask: FlowMask,
    /// The epoch of the decision.
    pub epoch: Epoch,
    /// Obeyed no longer than this.
    pub until: Option<Moment>,
    /// And no longer than so many ms behind its last frame; `None`: as long as the lane keeps anything.
    pub idle_ms: Option<u32>,
}

/// `TooLong` as `too-long`.
fn dashed(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a frame was dropped. One list for the whole node; every reason has a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All of them, in order of their number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As people and programs write it: `too-long`.
            #[must_use]
            pub fn name(self) -> &'static str {
                static NAMES: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
                    [$(stringify!($name),)*].map(dashed).to_vec()
                });
                NAMES.get(self as usize).map_or("", String::as_str)
            }

            /// One sentence for an operator.
            #[must_use]
            pub fn explain(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than an Ethernet header, or longer than the network's MTU allows.
    Malformed = "the frame is cut short, or its headers contradict its length",
    /// Longer than the network's MTU.
    TooLong = "the frame is longer than the network's MTU allows",
    /// Reserved group addresses of IEEE 802.1D.
    LinkLocalControl = "link-local control frames (BPDU, pause, LLDP) stay on their link",
    /// Zero or a group address as source.
    InvalidSource = "the source MAC is zero or a group address",
    /// The source MAC is another endpoint's.
    SpoofedSource = "the source MAC belongs to another port or node",
    /// ARP or ND speaks for somebody else's address.
    SpoofedAddress = "ARP or neighbour discovery claims an IP address that belongs to another endpoint",
    /// Only endpoints with the label `meshd.router=true` may say where the way out is.
    RouterAdvertisement = "a router advertisement or redirect from an endpoint that is not labelled meshd.router=true",
    /// The guard blocked the port.
    Blocked = "the port is blocked, since it would close a loop: see `meshd ports`",
    /// What configures or advertises one LAN is not for another.
    StaysAtSite = "DHCP answers, router advertisements, mDNS and SSDP do not cross between an uplink and other sites, unless `--allow` says so",
    /// The port has as many MACs as it may.
    PortMacsFull = "the port already has as many source MACs as it may have",
    /// The table is full.
    FdbFull = "the network's FDB is full",
    /// The peer does not have the network, or does not say so.
    NotOnNetwork = "the sender is not on this network",
    /// No such network here.
    UnknownVni = "no network of this node has the frame's VNI",
    /// The destination is where the frame came from.
    Hairpin = "the destination is behind the port the frame came from",
    /// From a peer, and for no port of this node.
    SplitHorizon = "frames from a peer never go to a peer, and no port of this node is the destination",
    /// Flooding found nobody.
    NoReceiver = "nobody else is on the network",
    /// The policy chain said no.
    Policy = "a policy plugin refused the flow",
    /// The policy chain said where to, and that is no place.
    PolicyTarget = "a policy plugin sent the flow to a port or peer that is not on the network, or that it came from",
    /// A plugin failed, and fails closed.
    PolicyFailed = "a policy plugin failed, and its fail mode is closed",
    /// A meter of a plugin had no room.
    Metered = "a meter of a policy plugin has no room for more at the moment",
    /// The question to the plugin was not answered in time.
    PolicyTimeout = "a policy plugin did not answer in time",
    /// Too many frames wait for a ruling.
    ParkingFull = "too many frames of this port or peer wait for a ruling",
    /// The switch did not answer in time.
    UpcallTimeout = "the switch did not rule in time",
    /// The queue to the switch is full.
    UpcallQueueFull = "the queue to the switch is full",
    /// No session to the peer.
    NoSession = "there is no session to the peer at the moment",
    /// The path that policy named is dead.
    PathLost = "the path to the peer that a policy plugin chose is down, and the plugin wants the frame dropped then",
    /// The session cannot take more.
    SessionQueueFull = "the session to the peer cannot take more at the moment",
    /// The port does not take the frame.
    PortQueueFull = "the port does not take more frames at the moment",
    /// Datagram of a peer that is no datagram of ours.
    BadDatagram = "a peer sent a datagram that does not follow the protocol",
    /// A frame of which a piece is missing.
    PieceMissing = "a piece of the frame was lost on the underlay",
    /// Too many unfinished frames.
    ReassemblyFull = "too many unfinished frames of this peer",
    /// A mirror's copy, where traffic needs the room.
    MirrorLimit = "a mirror's copy was left out: there are too many copies, or the traffic needs the way",
    /// A mirror's copy that nobody here has agreed to take.
    MirrorRefused = "a peer sent a mirror's copy, and no port of the network is labelled meshd.monitor=true here",
    /// Broadcast, unknown or multicast frames above the sender's allowance.
    BumLimit = "more broadcast, unknown-unicast or multicast frames than a sender may flood",
    /// The lane ended while the frame was in it.
    LaneEnded = "the port or session that the frame came from went away while the frame waited for a ruling",
    /// The kernel's queue of a port's TAP.
    TapOverrun = "the kernel's queue towards meshd was full: the port sent faster than meshd reads",
    /// The fence in nf_tables.
    Fenced = "VXLAN for one of our networks from an address that is no member's VTEP: the fence let it not in",
    /// The kernel's buffer of an underlay socket.
    SocketOverrun = "the kernel's buffer of an underlay socket was full: packets came faster than meshd reads",
    /// Datagrams of a session that were not read in time.
    SessionOverrun = "datagrams of the session came faster than meshd reads, and the oldest made room",
    /// Nothing leads to the port: it is going, its interface is missing, or its VTEPs are not trusted.
    PortAbsent = "nothing leads to the port at the moment: it is just going, its interface is missing, or it is that of foreign VTEPs, and those are not reached",
}

/// One counter for each [`DropReason`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCounts([u64; DropReason::ALL.len()]);

impl Default for DropCounts {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounts {
    /// `frames` more.
    pub fn add(&mut self, reason: DropReason, frames: u64) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += frames;
        }
    }

    /// All that another counted.
    pub fn merge(&mut self, other: &Self) {
        for (reason, frames) in other.iter() {
            self.add(reason, frames);
        }
    }

    /// Frames so far.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// Of all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Those that are not zero, in order of their number.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, self.get(reason)))
            .filter(|&(_, count)| count > 0)
    }
}
