//! `[underlay]` of the configuration: how this node is reached, and its uplinks.
//!
//! Owns the words for addresses and rates of uplinks. Bounds of numbers are checked in `config.rs`.

use super::UNDERLAY_PORT;
use crate::ident::{Label, escape};
use crate::links::LinkSpec;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// RFC 7348 §4.
const VXLAN_PORT: u16 = 4789;

/// `[underlay]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnderlayConfig {
    /// Address of the QUIC endpoint.
    pub listen: SocketAddr,
    /// Where others reach it, besides the addresses of this host's interfaces. At most 16.
    pub advertise: Vec<SocketAddr>,
    /// Subnets of the underlay that may carry frames in the clear, as kernel VXLAN, between nodes that both trust them. At
    /// most 16.
    pub trusted: Vec<IpNet>,
    /// UDP port of VXLAN, the same on all nodes.
    pub vxlan_port: u16,
    /// Uplinks between which traffic to each peer is spread or chosen. At most 6.
    #[serde(rename = "link")]
    pub links: Vec<LinkConfig>,
}

/// One `[[underlay.link]]`: an uplink of this host. Two nodes have a connection for each name that both declare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Its name, the same on all nodes that it connects.
    pub name: Label,
    /// An address of this host.
    pub address: LinkAddress,
    /// The lower is taken first, 0 to 1000000; the session itself counts as 1000.
    #[serde(default)]
    pub cost: u32,
    /// What it can carry; `None`: that is estimated.
    pub rate: Option<LinkRate>,
}

/// `10.1.0.1` or `10.1.0.1:7651`; without a port it is the one after that of `listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkAddress {
    /// Of this host.
    pub ip: IpAddr,
    /// UDP.
    pub port: Option<u16>,
}

impl TryFrom<String> for LinkAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let alone = text.parse().map(|ip| Self { ip, port: None });
        let both = || text.parse::<SocketAddr>().map(|at| (at.ip(), at.port()));
        let address = alone.or_else(|_| {
            both().map(|(ip, port)| Self {
                ip,
                port: Some(port),
            })
        });
        let usable = |address: &Self| {
            !address.ip.is_unspecified() && !address.ip.is_multicast() && address.port != Some(0)
        };
        address.ok().filter(usable).ok_or_else(|| {
            format!(
                "\"{}\" is no address of an uplink; use one of this host's, such as \"10.1.0.1\" or \"10.1.0.1:7651\"",
                escape(text.as_bytes())
            )
        })
    }
}

impl From<LinkAddress> for String {
    fn from(address: LinkAddress) -> Self {
        match address.port {
            Some(port) => SocketAddr::new(address.ip, port).to_string(),
            None => address.ip.to_string(),
        }
    }
}

/// `100mbit`: a number and `kbit`, `mbit` or `gbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkRate {
    /// At least 1.
    pub kbps: u32,
}

impl TryFrom<String> for LinkRate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let units = [("kbit", 1u32), ("mbit", 1_000), ("gbit", 1_000_000)];
        let read = units.iter().find_map(|(unit, kbps)| {
            let number: u32 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(*kbps)
        });
        let rate = read.filter(|kbps| *kbps > 0).map(|kbps| Self { kbps });
        rate.ok_or_else(|| {
            format!(
                "\"{}\" is no rate; use a number and a unit, such as \"100mbit\", \"512kbit\" or \"1gbit\"",
                escape(text.as_bytes())
            )
        })
    }
}

impl From<LinkRate> for String {
    fn from(rate: LinkRate) -> Self {
        format!("{}kbit", rate.kbps)
    }
}

impl UnderlayConfig {
    /// The links as the node takes them.
    #[must_use]
    pub fn link_specs(&self) -> Vec<LinkSpec> {
        let spec = |link: &LinkConfig| {
            let next = self.listen.port().checked_add(1).unwrap_or(UNDERLAY_PORT);
            LinkSpec {
                name: link.name.clone(),
                address: SocketAddr::new(link.address.ip, link.address.port.unwrap_or(next)),
                cost: link.cost,
                rate_kbps: link.rate.map(|rate| rate.kbps),
            }
        };
        self.links.iter().map(spec).collect()
    }

    /// Of two links one is too many: which, and why.
    pub(super) fn link_twice(&self) -> Option<(usize, &'static str, String)> {
        self.links.iter().enumerate().find_map(|(nth, link)| {
            let before = self.links.get(..nth).unwrap_or_default();
            if before.iter().any(|other| other.name == link.name) {
                let message = format!("link {} is there twice; leave one out", link.name);
                return Some((nth, "name", message));
            }
            let same = before.iter().find(|other| other.address == link.address)?;
            let message = format!(
                "links {} and {} have one address; give each its own",
                same.name, link.name
            );
            Some((nth, "address", message))
        })
    }
}

impl Default for UnderlayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), UNDERLAY_PORT),
            advertise: Vec::new(),
            trusted: Vec::new(),
            vxlan_port: VXLAN_PORT,
            links: Vec::new(),
        }
    }
}
