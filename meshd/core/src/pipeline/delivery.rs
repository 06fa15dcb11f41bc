//! Where a frame goes that policy lets pass: one port or peer, whom policy names instead, or all that listen.

use super::{Network, Stop, UNKNOWN_MS, Walk, stop};
use crate::fdb::Place;
use crate::ident::MacAddr;
use crate::neighbor::is_neighborly;
use crate::node::{Direction, DstClass};
use crate::policy::{Answer, FloodSet, NamedPath, Redirect};
use crate::ruling::{DropReason, Output};

pub(super) const SERVICE_STAYS: &str =
    "the node's own service speaks to ports of this node only, and does not broadcast";

pub(super) const NOT_FLOODED: &str = "policy lets it be flooded to nobody here";

/// `port 3, port 4, node abcdefgh`.
pub(super) fn show(to: &[Output]) -> String {
    let names: Vec<String> = to
        .iter()
        .map(|output| match output {
            Output::Port(port) => format!("port {port}"),
            Output::Peer(node) => format!("node {}", node.short()),
        })
        .collect();
    names.join(", ")
}

impl Walk<'_> {
    pub(super) fn deliver(&mut self, network: &Network, from: Place) -> Result<Vec<Output>, Stop> {
        let dst = self.key.dst_mac;
        if dst == self.key.src_mac {
            return stop(DropReason::Hairpin);
        }
        let found = if dst.is_group() {
            None
        } else {
            network.fdb.lookup(dst)
        };
        let class = match found {
            Some(_) => DstClass::UnicastKnown,
            None if dst == MacAddr::BROADCAST => DstClass::Broadcast,
            None if dst.is_group() => DstClass::Multicast,
            None => DstClass::UnicastUnknown,
        };
        self.step("lookup", || match found {
            Some(Place::Port(port)) => format!("{dst} is behind port {port}"),
            Some(Place::Service(_)) => format!("{dst} is the node's own service"),
            Some(Place::Node(node)) => format!("{dst} is on node {}", node.short()),
            None if dst.is_group() => format!("{dst} is for all"),
            None => format!("nobody knows {dst}"),
        });
        let Some(to) = found else {
            return self.flood(network, from, class);
        };
        // Where it cannot go, policy need not be asked.
        match (from, to) {
            (Place::Port(a) | Place::Service(a), Place::Port(b) | Place::Service(b)) if a == b => {
                return stop(DropReason::Hairpin);
            }
            (Place::Node(_), Place::Node(_) | Place::Service(_)) => {
                return stop(DropReason::SplitHorizon);
            }
            (Place::Service(_), Place::Node(_)) => {
                return Err(Stop::Drop(
                    DropReason::NoReceiver,
                    Some(SERVICE_STAYS.to_owned()),
                ));
            }
            _ => {}
        }
        if let Place::Port(port) = from {
            let answer = self.pass(Direction::Ingress, port, class)?;
            if let Some(steered) = self.steered(network, from, dst, class, answer.as_deref()) {
                return steered;
            }
        }
        let output = match to {
            Place::Port(port) => {
                self.pass(Direction::Egress, port, class)?;
                Output::Port(port)
            }
            Place::Service(port) => Output::Port(port),
            Place::Node(node) => Output::Peer(node),
        };
        self.step("forward", || show(&[output]));
        Ok(vec![output])
    }

    /// Where the chain of the port that it came by sends it; `None`: on, as if nobody had been asked. `dst`: its destination before that.
    fn steered(
        &mut self,
        network: &Network,
        from: Place,
        dst: MacAddr,
        class: DstClass,
        answer: Option<&Answer>,
    ) -> Option<Result<Vec<Output>, Stop>> {
        if let Some(answer) = answer {
            if let Some(redirect) = answer.orders.redirect {
                return Some(self.redirect(network, from, redirect, class));
            }
            if let Some(group) = &answer.orders.group {
                return Some(self.by_group(network, from, group, class));
            }
        }
        (self.key.dst_mac != dst).then(|| self.deliver_changed(network, from))
    }

    /// To the destination that policy gave it, which must be one that is known: it chose that MAC.
    pub(super) fn deliver_changed(
        &mut self,
        network: &Network,
        from: Place,
    ) -> Result<Vec<Output>, Stop> {
        let dst = self.key.dst_mac;
        let class = DstClass::UnicastKnown;
        let output = match network.fdb.lookup(dst) {
            Some(Place::Port(port)) if from != Place::Port(port) => {
                self.pass(Direction::Egress, port, class)?;
                Output::Port(port)
            }
            Some(Place::Node(node)) => Output::Peer(node),
            _ => {
                // It may come.
                self.hold(self.now.plus_ms(UNKNOWN_MS));
                let why = format!("it is to go to {dst}, which is nowhere, or where it came from");
                return Err(Stop::Drop(DropReason::PolicyTarget, Some(why)));
            }
        };
        self.step("forward", || show(&[output]));
        Ok(vec![output])
    }

    /// To where policy sent it, if that is on the network.
    pub(super) fn redirect(
        &mut self,
        network: &Network,
        from: Place,
        redirect: Redirect,
        class: DstClass,
    ) -> Result<Vec<Output>, Stop> {
        self.redirected = true;
        let output = match redirect {
            Redirect::Port(port) => {
                let there = network.ports.get(&port).is_some_and(|face| !face.service);
                if !there || from == Place::Port(port) {
                    let why = format!("port {port} is not on the network, or it came from there");
                    return Err(Stop::Drop(DropReason::PolicyTarget, Some(why)));
                }
                self.pass(Direction::Egress, port, class)?;
                Output::Port(port)
            }
            Redirect::Peer(handle) | Redirect::Path(NamedPath { peer: handle, .. }) => {
                let node = network.members.iter().find(|node| node.handle() == handle);
                let Some(&node) = node else {
                    let why = format!("no peer on the network has the number {handle:#018x}");
                    return Err(Stop::Drop(DropReason::PolicyTarget, Some(why)));
                };
                Output::Peer(node)
            }
        };
        if let Redirect::Path(path) = redirect {
            self.path = Some(path);
            self.step("path", || format!("by way {} of `meshd paths`", path.way));
        }
        self.step("redirect", || show(&[output]));
        Ok(vec![output])
    }

    /// To all ports here but the one it came from, and, if it came from a port, to all peers that have the network; of those
    /// only to whom policy lets it.
    pub(super) fn flood(
        &mut self,
        network: &Network,
        from: Place,
        class: DstClass,
    ) -> Result<Vec<Output>, Stop> {
        let dst = self.key.dst_mac;
        if class == DstClass::UnicastUnknown {
            self.hold(self.now.plus_ms(UNKNOWN_MS));
            // In the place of an unknown source, if need be: this ruling ends within a second anyway.
            self.unknown = Some(self.key.dst_mac);
        }
        let mut answer = None;
        match from {
            Place::Port(port) => {
                answer = self.pass(Direction::Ingress, port, class)?;
                if let Some(steered) = self.steered(network, from, dst, class, answer.as_deref()) {
                    return steered;
                }
            }
            Place::Service(_) if !is_neighborly(self.key.ip_kind) => {
                return Err(Stop::Drop(
                    DropReason::NoReceiver,
                    Some(SERVICE_STAYS.to_owned()),
                ));
            }
            _ => {}
        }
        let only: Option<&FloodSet> = answer.as_ref().and_then(|said| said.orders.flood.as_ref());
        let mut to = Vec::new();
        let mut refused = None;
        let listeners = self.listeners(network, class);
        for (&port, face) in &network.ports {
            if face.service || from == Place::Port(port) {
                continue;
            }
            if !listeners.has_port(port, self.now) {
                continue;
            }
            if only.is_some_and(|only| !only.ports.contains(&port)) {
                refused = Some((DropReason::Policy, Some(NOT_FLOODED.to_owned())));
                continue;
            }
            match self.pass(Direction::Egress, port, class) {
                Ok(_) => to.push(Output::Port(port)),
                Err(Stop::Drop(reason, why)) => refused = Some((reason, why)),
                Err(other) => return Err(other),
            }
        }
        if matches!(from, Place::Port(_)) {
            let members = network
                .members
                .iter()
                .filter(|node| only.is_none_or(|only| only.peers.contains(&node.handle())))
                .filter(|node| listeners.has_node(**node));
            to.extend(members.map(|&node| Output::Peer(node)));
            if to.is_empty() && only.is_some() {
                refused = Some((DropReason::Policy, Some(NOT_FLOODED.to_owned())));
            }
        }
        match (to.is_empty(), refused) {
            (false, _) => {
                self.step("flood", || show(&to));
                Ok(to)
            }
            (true, Some((reason, why))) => Err(Stop::Drop(reason, why)),
            (true, None) if listeners.are_told_apart() => self.nobody_listens(),
            (true, None) => stop(if matches!(from, Place::Node(_)) {
                DropReason::SplitHorizon
            } else {
                DropReason::NoReceiver
            }),
        }
    }
}
