//! Stations speak for nobody but themselves: source guard, ARP and ND inspection, RA guard, DHCP snooping.
//!
//! ```text
//!   leases of the mesh, stations of the config, DHCP answers seen --controller--> facts: address -> (MAC, port)
//!                                                                                   |
//!   frame from a port of this node --> whose address does it claim? --> bound to this MAC here: next      else: drop
//! ```
//!
//! What comes from another node was inspected there, so only frames on their way in are looked at. A port with the label
//! `guard=trusted` may do all that others may not: it is where routers and DHCP servers are. Owns what a frame claims; what a
//! station may claim is the controller's, in `snoop.rs`, and comes as facts.

mod dhcp;
mod snoop;

use meshd_sdk::controller::{FactChange, FactMap};
use meshd_sdk::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Before the address that a fact is about: bound to this MAC, on this port.
const BOUND: &str = "bound/";
/// Before the number of a port that is trusted.
const TRUSTED: &str = "trusted/";
/// Marks the tags of ports; the others are of addresses.
const PORT_TAG: u32 = 0x8000_0000;

/// Addresses that stations may claim besides those that the mesh leased them.
#[derive(Clone, Debug, Config)]
struct Guard {
    /// Stations with addresses of their own choice, on whatever port of this node.
    #[config(default = [])]
    stations: Vec<Station>,
    /// The first is what each node's ARP frames are charged to; without any they are not limited.
    #[config(default = [])]
    meters: Vec<Meter>,
    #[config(skip)]
    fixed: BTreeMap<IpAddr, Mac>,
    #[config(skip)]
    bound: FactMap<IpAddr, (Mac, u32)>,
    #[config(skip)]
    trusted: FactMap<u32, ()>,
}

/// A station of the config.
#[derive(Clone, Debug, Config)]
struct Station {
    /// Its address on the network.
    mac: Mac,
    /// What it may claim.
    ips: Vec<IpAddr>,
}

/// The most addresses of a config; more would not be read within the fuel that it has.
const MAX_FIXED: usize = 4096;

/// The tag of all that rests on who an address is bound to: FNV-1a of its bytes.
fn address_tag(ip: &IpAddr) -> u32 {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => *ip,
    };
    let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    bits.octets().into_iter().fold(0x811c_9dc5, mix) & !PORT_TAG
}

/// The tag of all that rests on what a port is.
fn port_tag(port: u32) -> u32 {
    PORT_TAG | port
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80)
}

#[policy(stage = "guard", fail = "closed")]
impl Policy for Guard {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        for (at, station) in self.stations.iter().enumerate() {
            if station.mac.is_group() {
                let message = format!("{} is no station, but a group", station.mac);
                errors.push(ConfigError::new(format!("/stations/{at}/mac"), message));
            }
            for (place, &ip) in station.ips.iter().enumerate() {
                if let Some(other) = self.fixed.insert(ip, station.mac)
                    && other != station.mac
                {
                    errors.push(ConfigError::new(
                        format!("/stations/{at}/ips/{place}"),
                        format!("{ip} is {other}'s too; it can be only one station's"),
                    ));
                }
            }
        }
        if self.fixed.len() > MAX_FIXED {
            let message = format!("{} addresses; at most {MAX_FIXED}", self.fixed.len());
            errors.push(ConfigError::new("/stations", message));
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    fn update(&mut self, change: &FactChange) {
        self.bound.apply(BOUND, change);
        self.trusted.apply(TRUSTED, change);
    }

    fn decide(&self, key: &Key) -> Verdict {
        if key.dir() == Direction::Egress {
            return answers(key);
        }
        let port = key.in_port();
        if self.trusted.get(&port).is_some() {
            return next().tag(port_tag(port));
        }
        let found = self.inspect(key, port);
        let verdict = match found.wrong {
            None => next(),
            Some(Wrong::Arp) => drop("arp"),
            Some(Wrong::Neighbor) => drop("neighbor"),
            Some(Wrong::Router) => drop("router"),
            Some(Wrong::DhcpServer) => drop("dhcp-server"),
            Some(Wrong::Source) => drop("source"),
        };
        let verdict = match found.claimed {
            Some(ip) => verdict.tag(address_tag(&ip)),
            None => verdict,
        };
        let verdict = if found.asks { verdict.punt(0) } else { verdict };
        let is_metered = found.is_arp && !self.meters.is_empty();
        let verdict = if is_metered {
            verdict.meter(0)
        } else {
            verdict
        };
        verdict.tag(port_tag(port))
    }
}

/// What goes out to a port: leases that a server gives are looked at by the controller.
fn answers(key: &Key) -> Verdict {
    let from_server = match key.ip_kind() {
        IpKind::V4 => key.is_udp() && key.src_port() == dhcp::SERVER_V4,
        IpKind::V6 => key.is_udp() && key.src_port() == dhcp::SERVER_V6,
        _ => false,
    };
    if from_server { next().punt(0) } else { next() }
}

#[derive(Clone, Copy)]
enum Wrong {
    Arp,
    Neighbor,
    Router,
    DhcpServer,
    Source,
}

/// What a frame claims, and whether it may.
#[derive(Default)]
struct Found {
    wrong: Option<Wrong>,
    /// The address that this rests on.
    claimed: Option<IpAddr>,
    /// It asks a DHCP server.
    asks: bool,
    is_arp: bool,
}

impl Found {
    fn wrong(wrong: Wrong) -> Self {
        Self {
            wrong: Some(wrong),
            ..Self::default()
        }
    }
}

impl Guard {
    fn inspect(&self, key: &Key, port: u32) -> Found {
        match key.ip_kind() {
            IpKind::ArpV4 => Found {
                is_arp: true,
                ..self.claims(key, port, key.src_ip(), Wrong::Arp)
            },
            IpKind::NdV6 => match key.icmp_type() {
                // Router advertisement, redirect.
                134 | 137 => Found::wrong(Wrong::Router),
                // A neighbour advertisement claims its target; the others their sender.
                136 => self.claims(key, port, key.dst_ip(), Wrong::Neighbor),
                _ => self.claims(key, port, key.src_ip(), Wrong::Neighbor),
            },
            IpKind::V4 => self.datagram(key, port, dhcp::SERVER_V4),
            IpKind::V6 => self.datagram(key, port, dhcp::SERVER_V6),
            IpKind::None => Found::default(),
        }
    }

    fn datagram(&self, key: &Key, port: u32, server: u16) -> Found {
        let udp = key.is_udp();
        if udp && key.src_port() == server {
            return Found::wrong(Wrong::DhcpServer);
        }
        let asks = udp && key.dst_port() == server;
        let source = key.src_ip();
        // Who has no IPv4 address yet asks for one, and says nothing else.
        let nobody = matches!(source, Some(IpAddr::V4(ip)) if ip.is_unspecified());
        let found = match nobody && !asks {
            true => Found::wrong(Wrong::Source),
            false => self.claims(key, port, source, Wrong::Source),
        };
        Found { asks, ..found }
    }

    /// The frame claims `ip`. Nobody has to be bound to no address, as in a probe, nor to a link-local one that is nobody
    /// else's.
    fn claims(&self, key: &Key, port: u32, ip: Option<IpAddr>, wrong: Wrong) -> Found {
        let Some(ip) = ip else {
            return Found::wrong(wrong);
        };
        let free = ip.is_unspecified() || is_link_local(&ip) && self.owner(&ip).is_none();
        let right = free || self.is_bound(key, port, ip);
        Found {
            wrong: (!right).then_some(wrong),
            claimed: Some(ip),
            ..Found::default()
        }
    }

    /// Of a port 0: on any.
    fn owner(&self, ip: &IpAddr) -> Option<(Mac, u32)> {
        let bound = self.bound.get(ip).copied();
        bound.or_else(|| Some((*self.fixed.get(ip)?, 0)))
    }

    fn is_bound(&self, key: &Key, port: u32, ip: IpAddr) -> bool {
        self.owner(&ip)
            .is_some_and(|(mac, at)| (at == 0 || at == port) && key.src_mac_is(mac))
    }
}

#[cfg(test)]
mod tests;
