//! What a peer says of this node and of itself, when the doctor asks.

use crate::ident::Vni;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    /// Its clock when it answered, in ms since the Unix epoch.
    pub wall_ms: u64,
    /// Of its program.
    pub version: String,
    /// Where it sees the session with who asks.
    pub sees: Option<SocketAddr>,
    /// Largest UDP payload that the session found to reach who asks, in bytes.
    pub mtu: Option<u16>,
    /// As it holds them.
    pub networks: Vec<NetworkSaid>,
    /// Underlays that it trusts.
    pub trusted: Vec<IpNet>,
    /// Of its config.
    pub vxlan_port: u16,
}

/// A network, as a node holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSaid {
    /// Its name.
    pub name: String,
    /// Its segment.
    pub vni: Vni,
    /// Bytes of layer 3 payload.
    pub mtu: u16,
    /// Its subnets, sorted.
    pub subnets: Vec<IpNet>,
    /// Ports of the node.
    pub ports: u32,
    /// The chain in its order, a plugin a line: `guard 100 firewall 0123456789ab`, with a digest of its config.
    pub chain: Vec<String>,
}

/// A peer that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its name, or its short id.
    pub peer: String,
    /// What it said, or why it did not.
    pub said: Result<Heard, String>,
}

/// A testimony, and when it was asked for and came, by this host's clock in ms since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What was said.
    pub testimony: Testimony,
    /// Asked.
    pub asked_ms: u64,
    /// Came.
    pub came_ms: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn witness(peer: &str, change: impl FnOnce(&mut Testimony)) -> Witness {
    let mut testimony = Testimony {
        wall_ms: 1_000_050,
        version: "0.1.0".to_owned(),
        sees: Some("192.0.2.1:7650".parse().unwrap()),
        mtu: Some(1452),
        networks: Vec::new(),
        trusted: Vec::new(),
        vxlan_port: 4789,
    };
    change(&mut testimony);
    let said = Ok(Heard {
        testimony,
        asked_ms: 1_000_000,
        came_ms: 1_000_100,
    });
    Witness {
        peer: peer.to_owned(),
        said,
    }
}
