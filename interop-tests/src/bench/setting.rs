//! Where a comparison is made: what the wire takes, and between whom it is measured.

use crate::lab::LabSpec;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the underlay carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Underlay {
    /// Superframes of up to 64 KiB cross it whole, as they do inside one machine: kernel VXLAN and UDP GSO too. The same work as
    /// with a card that segments all of that by itself.
    Offloads,
    /// Packets of its MTU only, cut in software by the sender: as before a card without offloads for tunnels and UDP.
    Wire,
}

/// Between whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ends {
    /// Containers: network namespaces behind a veth of their host, and a bridge (Layer 2) or a route (Layer 3).
    Containers,
    /// The hosts themselves, with an address on the tunnel's own device.
    Hosts,
}

/// Where a comparison is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// Between whom.
    pub ends: Ends,
    /// MTU of the underlay, bytes.
    pub mtu: u32,
    /// What it carries.
    pub underlay: Underlay,
}

impl Setting {
    /// The lab for it: hosts two and two on wires of their own, so that systems do not share kernels' tables.
    #[must_use]
    pub fn lab(&self, pairs: u8) -> LabSpec {
        LabSpec {
            mtu: self.mtu,
            v6: false,
            packets_only: self.underlay == Underlay::Wire,
            ..LabSpec::hosts(2 * pairs).containers(0).cabled()
        }
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offloads => "offloads on",
            Self::Wire => "wire mode",
        })
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Containers => "container to container",
            Self::Hosts => "host to host",
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ends,
            mtu,
            underlay,
        } = self;
        write!(f, "{ends}, underlay {mtu}, {underlay}")
    }
}
