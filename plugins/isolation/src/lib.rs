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
    ports: Vec<(u32, Role)>,
    #[config(skip)]
    macs: Vec<(Mac, Role)>,
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

/// More would not be decided within the fuel of one decision: both ends are looked for in all of them.
const MAX_MEMBERS: usize = 256;

#[policy(stage = "guard", fail = "closed")]
impl Policy for Isolation {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let mut seen = BTreeMap::new();
        let mut errors = Vec::new();
        for (place, member, role) in self.listed() {
            if let Some(first) = seen.insert(member, place.clone()) {
                errors.push(ConfigError::new(
                    &place,
                    format!("this member is at {first} too; it can be only one of both"),
                ));
            }
            match member {
                Member::Port(port) => self.ports.push((port, role)),
                Member::Station(mac) if mac.is_group() => {
                    errors.push(ConfigError::new(
                        place,
                        format!("{mac} is no member, but a group"),
                    ));
                }
                Member::Station(mac) => self.macs.push((mac, role)),
            }
        }
        if seen.len() > MAX_MEMBERS {
            errors.push(ConfigError::new(
                "",
                format!(
                    "{} members; at most {MAX_MEMBERS} can be looked through in the time a decision has",
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
            .unwrap_or_else(|| self.station(|mac| key.src_mac_is(mac)));
        // Reaches all: where to does not matter.
        if from == Role::Promiscuous {
            return next();
        }
        let to = match self.port(key, egress) {
            Some(role) => role,
            None if key.is_group() => return next(),
            None => self.station(|mac| key.dst_mac_is(mac)),
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
        let port = key.in_port();
        let found = self.ports.iter().find(|(number, _)| *number == port);
        found.map(|(_, role)| *role)
    }

    fn station(&self, is: impl Fn(Mac) -> bool) -> Role {
        let found = self.macs.iter().find(|(mac, _)| is(*mac));
        match (found, self.others) {
            (Some((_, role)), _) => *role,
            (None, Others::Promiscuous) => Role::Promiscuous,
            (None, Others::Isolated) => Role::Isolated,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
