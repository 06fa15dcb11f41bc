//! Where a comparison is made: what the wire takes, and between whom it is measured.

use crate::lab::LabSpec;
use crate::link::LinkSpec;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What the underlay carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Underlay {
    /// Superframes of up to 64 KiB cross it whole, as they do inside one machine: kernel VXLAN and UDP GSO too. The same work as
    /// with a card that segments all of that by itself.
    Offloads,
    /// Packets of its MTU only, cut in software by the sender: as before a card without offloads for tunnels and UDP.
    Wire,
    /// 100 Mbit/s and 100 ms there and back: another continent.
    Far,
    /// The same, and one packet of a thousand is lost.
    FarLossy,
    /// 20 Mbit/s and 30 ms there and back, and one packet of fifty overtakes others by 2 ms.
    Reordered,
    /// 1 Mbit/s and 40 ms there and back: a bad line.
    Narrow,
}

impl Underlay {
    /// What a long way does; none of what is near.
    #[must_use]
    pub fn link(self) -> Option<LinkSpec> {
        let far = LinkSpec {
            delay: Duration::from_millis(50),
            rate: 100_000_000,
            // 100 ms of it, as a router that knows its line has.
            queue: 1_250_000,
            lost: 0,
            late: 0,
            later: Duration::from_millis(2),
        };
        match self {
            Self::Offloads | Self::Wire => None,
            Self::Far => Some(far),
            Self::FarLossy => Some(LinkSpec { lost: 100, ..far }),
            Self::Reordered => Some(LinkSpec {
                delay: Duration::from_millis(15),
                rate: 20_000_000,
                queue: 250_000,
                late: 2_000,
                ..far
            }),
            Self::Narrow => Some(LinkSpec {
                delay: Duration::from_millis(20),
                rate: 1_000_000,
                // A quarter of a second.
                queue: 32_000,
                ..far
            }),
        }
    }
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
        let hosts = LabSpec {
            mtu: self.mtu,
            v6: false,
            packets_only: self.underlay == Underlay::Wire,
            ..LabSpec::hosts(2 * pairs).containers(0)
        };
        match self.underlay.link() {
            Some(link) => hosts.linked(link),
            None => hosts.cabled(),
        }
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offloads => "offloads on",
            Self::Wire => "wire mode",
            Self::Far => "100 Mbit/s, 100 ms",
            Self::FarLossy => "100 Mbit/s, 100 ms, 0.1 % lost",
            Self::Reordered => "20 Mbit/s, 30 ms, 2 % late",
            Self::Narrow => "1 Mbit/s, 40 ms",
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
