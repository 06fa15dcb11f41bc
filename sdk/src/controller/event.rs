//! What a controller is told, in the SDK's types.

use crate::mac::Mac;
use crate::wit::events as wire;
use crate::wit::http::{HttpError, Response};
use crate::wit::types::{self, FlowKey, LinkStats};
use std::net::{IpAddr, Ipv6Addr};

/// A port of this node on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its station.
    pub mac: Mac,
    /// The addresses that are leased to it.
    pub ips: Vec<IpAddr>,
    /// Is the other end there?
    pub up: bool,
    /// As it was attached with.
    pub labels: Vec<(String, String)>,
}

impl Port {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// A member that is on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Is there a session?
    pub up: bool,
}

/// A station of the network, wherever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub mac: Mac,
    /// The addresses that it has.
    pub ips: Vec<IpAddr>,
    /// Its name, or empty.
    pub name: String,
    /// Where it is: none is this node.
    pub at: Option<u64>,
}

/// A frame that a verdict of the policy sent here.
#[derive(Clone, Debug)]
pub struct Punt {
    /// What the policy was asked about.
    pub key: FlowKey,
    /// The frame, as it came in.
    pub frame: Vec<u8>,
    /// It was longer.
    pub truncated: bool,
}

/// A timer of this instance.
pub type TimerId = u64;

/// Something happened. Those of ports and peers tell what is there as well when a controller starts.
#[derive(Clone, Debug)]
pub enum Event {
    /// On the network from now on, or there at the start.
    PortAdded(Port),
    /// Something of it changed.
    PortChanged(Port),
    /// Gone.
    PortRemoved(u32),
    /// On the network from now on, or there at the start.
    PeerUp(Peer),
    /// Something of it changed.
    PeerChanged(Peer),
    /// Not on the network any more, or without a session.
    PeerDown(u64),
    /// Of paths whose figures changed by more than a fifth.
    LinkMetrics(Vec<LinkStats>),
    /// A timer is due.
    Timer(TimerId),
    /// A frame was sent here by the action `punt`.
    Punted(Punt),
    /// A station moved: from a port of this node or elsewhere, to one or elsewhere.
    Moved {
        /// The station.
        mac: Mac,
        /// Where it was.
        from: Option<u32>,
        /// Where it is.
        to: Option<u32>,
    },
    /// Keys that other nodes wrote or deleted; see [`Host::mesh`](super::Host::mesh).
    MeshChanged(Vec<String>),
    /// Every frame obeys that commit.
    Committed(u64),
    /// An answer to [`Host::fetch`](super::Host::fetch), or why there is none.
    Fetched(u64, Result<Response, HttpError>),
    /// So many events were lost: look at the topology anew.
    Lost(u64),
}

pub(crate) fn mac(mac: &types::Mac) -> Mac {
    Mac::from_halves(mac.hi, mac.lo)
}

pub(crate) fn ip(ip: &types::Ip) -> IpAddr {
    let bits = Ipv6Addr::from_bits(u128::from(ip.hi) << 64 | u128::from(ip.lo));
    bits.to_ipv4_mapped().map_or(IpAddr::V6(bits), IpAddr::V4)
}

impl From<crate::wit::topology::PortInfo> for Port {
    fn from(port: crate::wit::topology::PortInfo) -> Self {
        Self {
            id: port.id,
            name: port.name,
            mac: mac(&port.mac),
            ips: port.ips.iter().map(ip).collect(),
            up: port.up,
            labels: port.labels,
        }
    }
}

impl From<crate::wit::topology::PeerInfo> for Peer {
    fn from(peer: crate::wit::topology::PeerInfo) -> Self {
        Self {
            id: peer.id,
            name: peer.name,
            up: peer.up,
        }
    }
}

impl From<crate::wit::topology::Endpoint> for Endpoint {
    fn from(station: crate::wit::topology::Endpoint) -> Self {
        Self {
            mac: mac(&station.mac),
            ips: station.ips.iter().map(ip).collect(),
            name: station.name,
            at: station.at,
        }
    }
}

impl From<wire::Event> for Event {
    fn from(event: wire::Event) -> Self {
        match event {
            wire::Event::PortAdded(port) => Self::PortAdded(port.into()),
            wire::Event::PortChanged(port) => Self::PortChanged(port.into()),
            wire::Event::PortRemoved(port) => Self::PortRemoved(port),
            wire::Event::PeerUp(peer) => Self::PeerUp(peer.into()),
            wire::Event::PeerChanged(peer) => Self::PeerChanged(peer.into()),
            wire::Event::PeerDown(peer) => Self::PeerDown(peer),
            wire::Event::LinkMetrics(links) => Self::LinkMetrics(links),
            wire::Event::Timer(timer) => Self::Timer(timer),
            wire::Event::Punted(punt) => Self::Punted(Punt {
                key: punt.key,
                frame: punt.frame,
                truncated: punt.truncated,
            }),
            wire::Event::Moved(moved) => Self::Moved {
                mac: mac(&moved.mac),
                from: moved.old_port,
                to: moved.new_port,
            },
            wire::Event::KvChanged(keys) => Self::MeshChanged(keys),
            wire::Event::Committed(generation) => Self::Committed(generation),
            wire::Event::HttpDone((call, answer)) => Self::Fetched(call, answer),
            wire::Event::Lost(n) => Self::Lost(n),
        }
    }
}
