//! Whom to dial, and when again.

use super::{Peers, words};
use crate::directory::Directory;
use crate::ident::{Moment, NodeId, Now};
use crate::node::Output;
use crate::outbox::Outbox;
use rand::RngExt;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

pub(super) const BACKOFF_MS_MIN: u64 = 500;
pub(super) const BACKOFF_MS_MAX: u64 = 30_000;
/// The higher of two nodes waits this long for the lower one to dial.
const HIGHER_WAITS_MS: u64 = 2_000;
/// A node that has just started dials all at once: the others may be in the middle of a long wait.
const STARTING_MS: u64 = 1_000;
/// Dials under way.
const DIALING_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Dial {
    pub(super) next: Moment,
    pub(super) backoff_ms: u64,
    /// Since when one is under way, and when that was by this node's clock.
    pub(super) under_way: Option<(Moment, u64)>,
    /// Also beside a session: its far end dialed an address that this node may have lost.
    pub(super) beside: bool,
    pub(super) error: Option<String>,
}

impl Peers {
    /// Brings the list of nodes to dial up to date with the directory.
    pub(crate) fn plan(&mut self, directory: &Directory, now: Now) {
        let wanted = |node: NodeId| {
            node != directory.me()
                && !directory.is_revoked(directory.me())
                && directory.in_good_standing(node, now.wall)
                && directory
                    .advert(node)
                    .is_some_and(|a| !a.addresses.is_empty())
        };
        self.dials.retain(|&node, _| wanted(node));
        let missing: Vec<NodeId> = directory
            .members()
            .map(|m| m.node)
            .filter(|&node| {
                wanted(node) && !self.proven.contains_key(&node) && !self.dials.contains_key(&node)
            })
            .collect();
        for node in missing {
            let starting = now.moment.ms_since(self.started) < STARTING_MS;
            let next = if starting || self.me < node {
                now.moment
            } else {
                now.moment.plus_ms(HIGHER_WAITS_MS)
            };
            self.dials.insert(
                node,
                Dial {
                    next,
                    backoff_ms: 0,
                    under_way: None,
                    beside: false,
                    error: None,
                },
            );
        }
    }

    /// The node's advert is new: what failed before may work now.
    pub(crate) fn dial_soon(&mut self, node: NodeId, now: Now) {
        let wait = if self.me < node { 0 } else { HIGHER_WAITS_MS };
        if let Some(dial) = self.dials.get_mut(&node) {
            dial.backoff_ms = 0;
            dial.next = dial.next.min(now.moment.plus_ms(wait));
        }
    }

    /// This node's addresses changed: whoever dialed it may have lost it.
    pub(crate) fn dial_beside_accepted(&mut self, now: Now) {
        for s in self
            .sessions
            .values()
            .filter(|s| s.proven.is_some() && !s.dialed)
        {
            self.dials.insert(
                s.key,
                Dial {
                    next: now.moment,
                    backoff_ms: 0,
                    under_way: None,
                    beside: true,
                    error: None,
                },
            );
        }
    }

    pub(super) fn postpone(&mut self, node: NodeId, at_least_ms: u64, reason: &str, now: Now) {
        let waits = if self.me < node { 0 } else { HIGHER_WAITS_MS };
        if let Some(dial) = self.dials.get_mut(&node) {
            dial.under_way = None;
            dial.backoff_ms =
                (dial.backoff_ms * 2).clamp(at_least_ms.max(BACKOFF_MS_MIN), BACKOFF_MS_MAX);
            dial.error = Some(reason.to_owned());
            // Half is fixed, half is chance, so that nodes that lost each other at once do not come at once.
            let jittered = dial.backoff_ms / 2 + self.rng.random_range(0..=dial.backoff_ms / 2);
            dial.next = now.moment.plus_ms(
                jittered
                    + if dial.backoff_ms <= BACKOFF_MS_MIN {
                        waits
                    } else {
                        0
                    },
            );
            if dial.beside {
                self.dials.remove(&node);
            }
        }
    }

    pub(crate) fn dial_failed(&mut self, node: NodeId, reason: &str, now: Now) {
        self.postpone(node, BACKOFF_MS_MIN, &words(reason), now);
    }

    /// Nodes that were dialed and have a session that is not proven yet.
    pub(super) fn proving(&self) -> BTreeSet<NodeId> {
        self.sessions
            .values()
            .filter(|s| s.proven.is_none() && s.dialed)
            .map(|s| s.key)
            .collect()
    }

    pub(super) fn dial_all(
        &mut self,
        nodes: Vec<NodeId>,
        directory: &Directory,
        now: Now,
        out: &mut Outbox,
    ) {
        let proving = self.proving();
        let under_way = |dial: &&Dial| dial.under_way.is_some();
        let mut places = DIALING_MAX.saturating_sub(self.dials.values().filter(under_way).count());
        for node in nodes {
            if places == 0 || proving.contains(&node) {
                if let Some(dial) = self.dials.get_mut(&node) {
                    dial.next = now.moment.plus_ms(BACKOFF_MS_MIN);
                }
            } else if self.dial(node, directory, now, out) {
                places -= 1;
            }
        }
    }

    /// True if a dial is under way now.
    fn dial(&mut self, node: NodeId, directory: &Directory, now: Now, out: &mut Outbox) -> bool {
        let proven = self.proven.contains_key(&node);
        let Some(dial) = self.dials.get_mut(&node) else {
            return false;
        };
        if proven && !dial.beside {
            self.dials.remove(&node);
            return false;
        }
        let own_loopback = directory
            .advert(self.me)
            .is_some_and(|a| a.addresses.iter().any(|at| at.ip().is_loopback()));
        let addresses: Vec<SocketAddr> = directory
            .advert(node)
            .into_iter()
            .flat_map(|a| a.addresses.iter().copied())
            .filter(|address| may_dial(*address, own_loopback))
            .collect();
        if addresses.is_empty() {
            self.postpone(
                node,
                BACKOFF_MS_MAX,
                "none of the addresses that it advertises may be dialed",
                now,
            );
            return false;
        }
        dial.under_way = Some((now.moment, now.wall.0));
        out.push(Output::Dial { node, addresses });
        true
    }
}

/// Whether a member may make this node send packets there: to one host, on a port, on an ordinary network.
fn may_dial(address: SocketAddr, own_loopback: bool) -> bool {
    let fits = match address.ip() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() || ip.is_link_local())
        }
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast()),
    };
    fits && address.port() != 0 && (own_loopback || !address.ip().is_loopback())
}
