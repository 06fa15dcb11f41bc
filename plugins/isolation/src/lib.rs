//! Private VLAN (RFC 5517) for members of one network.
//!
//! ```text
//!               to  promiscuous  isolated  same community  other community
//!   promiscuous         yes         yes          yes              yes
//!   isolated            yes         no           no               no
//!   community           yes         no           yes              no
//! ```
//!
//! A member is a MAC address, known on every node, or the number of a port, known on the port's own node only: as the sender
//! of what comes in there, and as the receiver of what goes out there. A port says more than a MAC, which a container can
//! change, so it decides where both would. Whoever is not listed is what `others` says.
//!
//! Unicast is refused where it enters the network if both ends are known there, and else where it leaves. A frame to a group
//! enters, and is refused at each listed port that must not hear its sender. Elsewhere it arrives: a key does not say which
//! stations are behind a port. So broadcasts, ARP among them, do cross between isolated members that are listed by MAC only.

use meshd_sdk::config::{Errors, Schema, Value};
use meshd_sdk::prelude::*;
use std::collections::BTreeMap;

/// Who may send to whom in a network.
#[derive(Debug, Config)]
struct Isolation {
    /// Reach all and are reached by all: gateways, servers.
    #[config(default = [])]
    promiscuous: Vec<Member>,
    /// Reach the promiscuous only.
    #[config(default = [])]
    isolated: Vec<Member>,
    /// Reach the promiscuous and each other, each community by itself.
    #[config(default = {})]
    communities: BTreeMap<String, Vec<Member>>,
    /// What everybody is who is not listed.
    #[config(default = "isolated")]
    others: Others,
    #[config(skip)]
    ports: BTreeMap<u32, Role>,
    #[config(skip)]
    macs: MacMap<Role>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Member {
    Station(Mac),
    Port(u32),
}

impl Config for Member {
    const SCHEMA: Schema = Schema::AnyOf {
        doc: "A MAC address, or the number of a port of this node.",
        of: &[Mac::SCHEMA, u32::SCHEMA],
    };

    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        let read = match value.text() {
            Some(text) => text.parse().ok().map(Self::Station),
            None => value
                .whole()
                .and_then(|n| u32::try_from(n).ok())
                .map(Self::Port),
        };
        if read.is_none() {
            errors.wanted(
                "a MAC address, such as \"02:00:00:00:00:01\", or the number of a port",
                value,
            );
        }
        read
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
enum Others {
    Promiscuous,
    Isolated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Promiscuous,
    Isolated,
    /// By its place in the list.
    Community(usize),
}

impl Role {
    fn reaches(self, other: Self) -> bool {
        self == Self::Promiscuous
            || other == Self::Promiscuous
            || self == other && self != Self::Isolated
    }
}

/// More would not be read within the fuel that a config has.
const MAX_MEMBERS: usize = 4096;

#[policy(stage = "guard", fail = "closed")]
impl Policy for Isolation {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let mut seen = BTreeMap::new();
        let (mut errors, mut ports, mut macs) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (place, member, role) in self.listed() {
            if let Some(first) = seen.insert(member, place.clone()) {
                errors.push(ConfigError::new(
                    &place,
                    format!("this member is at {first} too; it can be only one of both"),
                ));
            }
            match member {
                Member::Port(port) => {
                    ports.insert(port, role);
                }
                Member::Station(mac) if mac.is_group() => {
                    let message = format!("{mac} is no member, but a group");
                    errors.push(ConfigError::new(place, message));
                }
                Member::Station(mac) => macs.push((mac, role)),
            }
        }
        (self.ports, self.macs) = (ports, macs.into_iter().collect());
        if seen.len() > MAX_MEMBERS {
            errors.push(ConfigError::new(
                "",
                format!(
                    "{} members; at most {MAX_MEMBERS} can be read in the time a config has",
                    seen.len()
                ),
            ));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn decide(&self, key: &Key) -> Verdict {
        let egress = key.dir() == Direction::Egress;
        let from = self
            .port(key, !egress)
            .unwrap_or_else(|| self.station(key.src_mac_in(&self.macs)));
        // Reaches all: where to does not matter.
        if from == Role::Promiscuous {
            return next();
        }
        let to = match self.port(key, egress) {
            Some(role) => role,
            None if key.is_group() => return next(),
            None => self.station(key.dst_mac_in(&self.macs)),
        };
        match from {
            _ if from.reaches(to) => next(),
            Role::Community(_) => drop("community"),
            _ => drop("isolated"),
        }
    }
}

impl Isolation {
    /// Everybody in the config: where, who, and as what.
    fn listed(&self) -> Vec<(String, Member, Role)> {
        let lists = [
            (
                "/promiscuous".to_owned(),
                &self.promiscuous,
                Role::Promiscuous,
            ),
            ("/isolated".to_owned(), &self.isolated, Role::Isolated),
        ];
        let communities = self.communities.iter().enumerate();
        let communities = communities.map(|(at, (name, members))| {
            let name = name.replace('~', "~0").replace('/', "~1");
            (format!("/communities/{name}"), members, Role::Community(at))
        });
        lists
            .into_iter()
            .chain(communities)
            .flat_map(|(place, members, role)| {
                let members = members.iter().enumerate();
                members.map(move |(at, member)| (format!("{place}/{at}"), *member, role))
            })
            .collect()
    }

    /// Of the port in the question, if it is the end that is asked for, and listed.
    fn port(&self, key: &Key<'_>, is_this_end: bool) -> Option<Role> {
        // Without ports in the config, the port does not matter.
        if !is_this_end || self.ports.is_empty() {
            return None;
        }
        self.ports.get(&key.in_port()).copied()
    }

    fn station(&self, listed: Option<&Role>) -> Role {
        match (listed, self.others) {
            (Some(role), _) => *role,
            (None, Others::Promiscuous) => Role::Promiscuous,
            (None, Others::Isolated) => Role::Isolated,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
