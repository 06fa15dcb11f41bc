//! Captures: which frames somebody wants to see, and how they are written down.
//!
//! Owns the words of a filter and the shape of a pcapng file. Who sees the frames, and when, is the shell's.

mod filter;
pub mod pcapng;

pub use filter::{Filter, Glance, TERMS_MAX, TEXT_MAX};

use crate::flow::Origin;
use crate::ident::{NodeId, PortId, Vni};
use crate::ruling::{DropReason, Output};
use serde::{Deserialize, Serialize};

/// Whose frames are captured; all that is given must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Frames of this network.
    pub vni: Option<Vni>,
    /// Frames that come from there, or go there.
    pub place: Option<Output>,
}

impl Subject {
    /// Does a frame concern it that came from `from`, or goes to `to`?
    #[must_use]
    pub fn concerns(&self, vni: Vni, from: Option<Origin>, to: &[Output]) -> bool {
        if self.vni.is_some_and(|wanted| wanted != vni) {
            return false;
        }
        self.place
            .is_none_or(|place| from.and_then(output) == Some(place) || to.contains(&place))
    }
}

/// An origin as a place that frames may also go to.
#[must_use]
pub fn output(origin: Origin) -> Option<Output> {
    match origin {
        Origin::Port(port) => Some(Output::Port(port)),
        Origin::Peer(node) => Some(Output::Peer(node)),
        Origin::Vxlan(_) => None,
    }
}

/// Into meshd or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// As a port or peer gave it.
    In,
    /// As a port or peer gets it.
    Out,
}

/// What became of a frame, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It goes on.
    Forwarded,
    /// It is counted and gone.
    Dropped(DropReason),
    /// The switch has answered it, or it was for the switch.
    Answered,
}

/// Where a frame is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    /// At a port.
    Port(PortId),
    /// At the session with a peer.
    Peer(NodeId),
    /// At the VXLAN device of a network.
    Vxlan(Vni),
    /// At a device of the underlay, by its number in the kernel.
    Underlay(u32),
}

impl From<Origin> for Spot {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Port(port) => Self::Port(port),
            Origin::Peer(node) => Self::Peer(node),
            Origin::Vxlan(vni) => Self::Vxlan(vni),
        }
    }
}

impl From<Output> for Spot {
    fn from(output: Output) -> Self {
        match output {
            Output::Port(port) => Self::Port(port),
            Output::Peer(node) => Self::Peer(node),
        }
    }
}
