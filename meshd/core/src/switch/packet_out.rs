//! Frames of a plugin's own making: answers and probes, sent past the plugins of this node.
//!
//! ```text
//!   frame --checked--> network: where its destination is, else to all --> Output::Inject, one for each receiver
//!             |        port | peer: there, and nowhere else
//!             '--> SendError
//! ```
//!
//! Owns what such a frame may be and where it goes. No plugin of this node is asked about it, and nothing is learned from its
//! source; a node that gets it looks at it as at any frame of this one. Refuses to limit how many there are: who sends has a
//! budget, and the way out of a port or to a peer has its own bound, where what does not fit is lost.

use super::Switch;
use crate::fdb::Place;
use crate::frame::Frame;
use crate::ident::{NodeId, PortId, Vni};
use crate::node::Output as Out;
use crate::outbox::Outbox;
use crate::pipeline::{Network, longest};
use crate::ruling::Output;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A frame of a plugin's own making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketOut {
    /// Its network.
    pub vni: Vni,
    /// Where it goes.
    pub to: PacketTo,
    /// From the destination MAC on, without checksum.
    pub frame: Bytes,
}

/// Where a frame of a plugin goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PacketTo {
    /// Where its destination MAC is; to all ports and members, if that is a group or not known.
    Network,
    /// Out of this port of the node.
    Port(PortId),
    /// To this member, by its [`NodeId::handle`].
    Peer(u64),
}

/// Why a frame of a plugin is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendError {
    /// No such network here.
    #[error("no network of this node has VNI {vni}")]
    UnknownVni {
        /// The network.
        vni: Vni,
    },
    /// It is none that may be sent.
    #[error("the frame {what}")]
    BadFrame {
        /// What is wrong with it.
        what: String,
    },
    /// No such port or member, or nobody who could get it.
    #[error("{to} is not on the network")]
    NoTarget {
        /// Who is not there.
        to: String,
    },
    /// The node stops.
    #[error("the daemon is stopping")]
    Stopping,
}

impl Switch {
    /// Sends a frame of a plugin, and says to how many ports and peers it was handed.
    ///
    /// # Errors
    /// It is no frame that may be sent, or there is no such place on the network; nothing is sent then.
    pub fn packet_out(&self, packet: &PacketOut, out: &mut Outbox) -> Result<u32, SendError> {
        let &PacketOut { vni, to, ref frame } = packet;
        let network = self
            .networks
            .get(&vni)
            .ok_or(SendError::UnknownVni { vni })?;
        check(network, to, frame)?;
        let receivers = match to {
            PacketTo::Port(port) => {
                if network.ports.get(&port).is_none_or(|face| face.service) {
                    let to = format!("port {port}");
                    return Err(SendError::NoTarget { to });
                }
                vec![Output::Port(port)]
            }
            PacketTo::Peer(handle) => {
                let node = network.members.iter().find(|node| node.handle() == handle);
                let to = || SendError::NoTarget {
                    to: format!("peer {handle:#018x}"),
                };
                vec![Output::Peer(*node.ok_or_else(to)?)]
            }
            PacketTo::Network => receivers(network, frame),
        };
        if receivers.is_empty() {
            let to = "anybody who could get the frame".to_owned();
            return Err(SendError::NoTarget { to });
        }
        let handed = u32::try_from(receivers.len()).unwrap_or(u32::MAX);
        for to in receivers {
            let frame = frame.clone();
            out.push(Out::Inject { vni, to, frame });
        }
        Ok(handed)
    }
}

fn check(network: &Network, to: PacketTo, frame: &Bytes) -> Result<(), SendError> {
    let bad = |what: String| Err(SendError::BadFrame { what });
    let Ok(parsed) = Frame::parse(frame) else {
        return bad(format!(
            "has {} bytes, which are no Ethernet header",
            frame.len()
        ));
    };
    let most = longest(network.mtu) as usize;
    if frame.len() > most {
        return bad(format!(
            "has {} bytes; with an MTU of {} it may have {most}",
            frame.len(),
            network.mtu
        ));
    }
    if !parsed.src().is_source() {
        return bad(format!(
            "has the source {}, which is zero or a group",
            parsed.src()
        ));
    }
    if parsed.dst().is_link_local_control() && !matches!(to, PacketTo::Port(_)) {
        return bad(format!(
            "is for {}, which stays on its link: send it out of a port",
            parsed.dst()
        ));
    }
    Ok(())
}

/// Where the destination is; all, if it is a group or nowhere.
fn receivers(network: &Network, frame: &Bytes) -> Vec<Output> {
    let Ok(parsed) = Frame::parse(frame) else {
        return Vec::new();
    };
    let there = match parsed.dst().is_group() {
        true => None,
        false => network.fdb.lookup(parsed.dst()),
    };
    let node = |node: NodeId| {
        network
            .members
            .contains(&node)
            .then_some(Output::Peer(node))
    };
    match there {
        Some(Place::Port(port) | Place::Service(port)) => vec![Output::Port(port)],
        Some(Place::Node(owner)) => node(owner).into_iter().collect(),
        None => {
            let ports = network.ports.values().filter(|face| !face.service);
            let ports = ports.map(|face| Output::Port(face.port));
            ports
                .chain(network.members.iter().copied().filter_map(node))
                .collect()
        }
    }
}
