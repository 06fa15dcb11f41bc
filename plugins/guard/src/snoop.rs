//! The controller: who may claim which address, from where that is known, and for how long.
//!
//! ```text
//!   ports, with the leases of the mesh --+
//!   DHCP: a client asked at a port,      +--> what should be told --differs from what was--> one commit
//!         and that port got the answer --+        leases also in kv: a restart knows them; a timer ends them
//! ```
//!
//! Trusts what comes out to a port from a DHCP server: on this node servers are behind trusted ports only, and on others the
//! guard there sees to it.

use crate::dhcp::{self, Message};
use crate::{BOUND, Guard, TRUSTED, address_tag, port_tag};
use meshd_sdk::controller::{Commit, Event, Fact, Host, Port, Punt};
use meshd_sdk::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Between two looks for what has run out, in ms.
const TICK_MS: u32 = 1000;
/// Questions that wait for an answer, of one port; and for how long.
const PENDING: usize = 16;
/// See [`PENDING`].
const PENDING_MS: u64 = 60_000;
/// Addresses that the stations of one port can have by DHCP.
const LEASES: usize = 64;
/// More tags than this, and everything goes stale instead.
const TAGS: usize = 64;
/// Before an address, in kv.
const KEPT: &str = "lease/";
/// The label of a port where routers and DHCP servers are.
const LABEL: (&str, &str) = ("guard", "trusted");

/// An address that a server gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    mac: Mac,
    port: u32,
    /// Seconds since 1970.
    until: u64,
}

/// A question on its way.
struct Pending {
    mac: Mac,
    at_ms: u64,
}

/// See the module.
pub(crate) struct Snoop {
    ports: BTreeMap<u32, Port>,
    leases: BTreeMap<IpAddr, Lease>,
    /// By port and transaction.
    pending: BTreeMap<(u32, u32), Pending>,
    /// What the policy was told; none: not known, a version before may have told something.
    told: Option<BTreeMap<String, Vec<u8>>>,
}

#[controller(log, metrics, clock, timers, topology, flows, kv(bytes = 262144))]
impl Controller for Snoop {
    type Config = Guard;

    fn new(_config: Guard, host: &Host) -> Result<Self, Vec<ConfigError>> {
        host.every(TICK_MS);
        let mut out = Self {
            ports: BTreeMap::new(),
            leases: BTreeMap::new(),
            pending: BTreeMap::new(),
            told: None,
        };
        for key in host.keys(KEPT).unwrap_or_default() {
            let kept = host.get(&key).ok().flatten();
            let kept = kept.and_then(|entry| <(Mac, u32, u64)>::from_bytes(&entry.value));
            let ip = key.strip_prefix(KEPT).and_then(|ip| ip.parse().ok());
            if let (Some(ip), Some((mac, port, until))) = (ip, kept) {
                out.leases.insert(ip, Lease { mac, port, until });
            }
        }
        Ok(out)
    }

    fn on_event(&mut self, event: Event, host: &Host) {
        match event {
            Event::PortAdded(port) | Event::PortChanged(port) => {
                self.ports.insert(port.id, port);
            }
            Event::PortRemoved(port) => {
                self.ports.remove(&port);
                self.end(host, |lease| lease.port == port);
            }
            Event::Lost(_) => {
                let ports = host.ports().into_iter();
                self.ports = ports.map(|port| (port.id, port)).collect();
            }
            Event::Punted(punt) => self.punted(&punt, host),
            Event::Timer(_) => {
                let (wall, now) = (host.wall(), host.now_ms());
                self.end(host, |lease| lease.until <= wall);
                self.pending
                    .retain(|_, asked| now < asked.at_ms + PENDING_MS);
            }
            _ => return,
        }
        self.tell(host);
    }
}

impl Snoop {
    fn punted(&mut self, punt: &Punt, host: &Host) {
        let (port, inward) = (punt.key.in_port, punt.key.dir == Direction::Ingress);
        match (dhcp::read(&punt.frame), inward) {
            (Some(Message::Ask { xid, mac }), true) => {
                let of_port = self.pending.range((port, 0)..=(port, u32::MAX)).count();
                if of_port >= PENDING && !self.pending.contains_key(&(port, xid)) {
                    host.count("questions-passed-over", 1);
                    return;
                }
                let at_ms = host.now_ms();
                self.pending.insert((port, xid), Pending { mac, at_ms });
            }
            (Some(Message::Give { xid, mac, leases }), false) => {
                // A flood brings the answer to all; it is for who asked.
                let asked = self.pending.get(&(port, xid));
                let Some(asked) = asked.filter(|asked| mac.is_none_or(|mac| mac == asked.mac))
                else {
                    return;
                };
                let mac = asked.mac;
                for (ip, seconds) in leases {
                    self.lease(host, ip, mac, port, seconds);
                }
            }
            (Some(Message::Release { ips }), true) => {
                let mine = |lease: &Lease| lease.port == port;
                for ip in ips {
                    if self.leases.get(&ip).is_some_and(mine) {
                        self.forget(host, &ip);
                    }
                }
            }
            _ => {}
        }
    }

    fn lease(&mut self, host: &Host, ip: IpAddr, mac: Mac, port: u32, seconds: u32) {
        let of_port = self.leases.values().filter(|lease| lease.port == port);
        if of_port.count() >= LEASES && !self.leases.contains_key(&ip) {
            host.warn(&format!(
                "port {port} has {LEASES} addresses by DHCP already; {ip} of {mac} is not let through"
            ));
            return;
        }
        if seconds == 0 {
            self.forget(host, &ip);
            return;
        }
        let until = host.wall() + u64::from(seconds);
        let lease = Lease { mac, port, until };
        if self.leases.insert(ip, lease).is_none() {
            host.info(&format!("{ip} is {mac}'s on port {port}, for {seconds} s"));
        }
        let kept = (mac, port, until).to_bytes();
        host.warn_if(host.set(&format!("{KEPT}{ip}"), &kept));
    }

    fn end(&mut self, host: &Host, over: impl Fn(&Lease) -> bool) {
        let gone = self.leases.iter().filter(|(_, lease)| over(lease));
        let gone: Vec<IpAddr> = gone.map(|(ip, _)| *ip).collect();
        for ip in gone {
            host.info(&format!("{ip} is nobody's any more"));
            self.forget(host, &ip);
        }
    }

    fn forget(&mut self, host: &Host, ip: &IpAddr) {
        self.leases.remove(ip);
        host.warn_if(host.delete(&format!("{KEPT}{ip}")));
    }

    /// What the policy has to know now.
    fn facts(&self) -> BTreeMap<String, Vec<u8>> {
        let mut out = BTreeMap::new();
        for (ip, lease) in &self.leases {
            if self.ports.contains_key(&lease.port) {
                out.insert(format!("{BOUND}{ip}"), (lease.mac, lease.port).to_bytes());
            }
        }
        // What the mesh leased is surer than what a server says.
        for (id, port) in &self.ports {
            for ip in &port.ips {
                out.insert(format!("{BOUND}{ip}"), (port.mac, *id).to_bytes());
            }
            if port.label(LABEL.0) == Some(LABEL.1) {
                out.insert(format!("{TRUSTED}{id}"), ().to_bytes());
            }
        }
        out
    }

    /// Commits what differs; where that fails, the next event tries again.
    fn tell(&mut self, host: &Host) {
        let facts = self.facts();
        let (told, anew) = match &self.told {
            Some(told) => (told.clone(), false),
            None => (BTreeMap::new(), true),
        };
        let mut commit = Commit::new();
        if anew {
            commit = commit.clear_facts();
        }
        let mut tags = BTreeSet::new();
        for (key, value) in &facts {
            if told.get(key) != Some(value) {
                commit = commit.put_bytes(key, value);
                tags.extend(tag(key));
            }
        }
        for key in told.keys().filter(|key| !facts.contains_key(*key)) {
            commit = commit.forget("", key);
            tags.extend(tag(key));
        }
        if commit.is_empty() {
            return;
        }
        if !anew && tags.len() <= TAGS {
            commit = tags.into_iter().fold(commit, Commit::invalidate);
        }
        match host.commit(commit) {
            Ok(_) => {
                let bound = facts.keys().filter(|key| key.starts_with(BOUND));
                host.gauge(
                    "addresses",
                    i64::try_from(bound.count()).unwrap_or(i64::MAX),
                );
                self.told = Some(facts);
            }
            Err(error) => host.warn(&format!("{error:?}; tried again")),
        }
    }
}

/// What rests on a fact.
fn tag(key: &str) -> Option<u32> {
    match (key.strip_prefix(BOUND), key.strip_prefix(TRUSTED)) {
        (Some(ip), _) => ip.parse().ok().map(|ip| address_tag(&ip)),
        (_, Some(port)) => port.parse().ok().map(port_tag),
        _ => None,
    }
}
