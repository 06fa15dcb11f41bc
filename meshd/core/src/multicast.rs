//! Who listens to which group: what a switch learns from IGMP and MLD (RFC 4541), on one network.
//!
//! ```text
//!   a port's reports --hear--> members, by group and port --interest--> other nodes, one message a network
//!   general queries <--timeout-- each host port, at first twice, then each 125 s unless a router asks
//!   a frame to a group --wants--> ports here and nodes that listen, those with a router, and those of which nothing is known
//! ```
//!
//! Owns the tables, their bounds and their times. **In doubt it floods**: to a port that was not asked yet or is the way to a LAN that
//! nobody may ask, to one that says it listens to more than is kept, to nodes that have not said anything. A group to which nobody
//! listens goes to routers alone, as RFC 4541 §2.1.2 has it: every port was asked, so silence is an answer.
//!
//! Frames are told apart by the MAC of their group. What always floods is not in the tables: 224.0.0.0/24, IPv6 groups of a scope
//! up to that of the link, and whatever is no IP.

pub mod control;
mod query;

use crate::ident::{MacAddr, Moment, NodeId, PortId, Vni};
use bytes::Bytes;
use control::{Control, Family, Malformed, Word};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Groups of one port; who says more gets all.
pub const GROUPS_PER_PORT: usize = 256;
/// Groups of this node on one network, and of what another says of itself.
pub const GROUPS_MAX: usize = 1024;
/// A member that was not heard of for so long is none, in ms: twice the interval and the time for an answer (RFC 3376 §8.4).
pub const MEMBER_MS: u64 = 260_000;
/// The same for a router.
pub const ROUTER_MS: u64 = 255_000;
/// Between general queries, in ms (RFC 3376 §8.2).
pub const QUERY_MS: u64 = 125_000;
/// Between the first two (RFC 3376 §8.6 says a quarter of the interval; a port of a container need not wait so long).
pub const STARTUP_MS: u64 = 1000;
/// Answers come within so long after a query, in ms: a second that the query allows, and some way.
pub const ANSWER_MS: u64 = 1500;
/// Who left and was asked has so long to say that others at his port stay, in ms.
pub const LEAVE_MS: u64 = 2000;
/// Changes reach rulings at most so often, in ms …
const EPOCH_MS: u64 = 50;
/// … and, the longer they come without a pause, the less often, down to this: reports of one port must not keep caches cold that
/// are everybody's …
const EPOCH_SLOW_MS: u64 = 800;
/// … and other nodes at most so often.
const TELL_MS: u64 = 200;
/// They are told again after so long, in ms.
const REFRESH_MS: u64 = 60_000;
/// Groups on which rulings were made; with more, every change makes a new epoch.
const RULED_MAX: usize = 1024;

/// How multicast is treated on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MulticastSpec {
    /// Send it only where somebody listens.
    pub snooping: bool,
    /// Ask also the LANs behind uplinks and bridges who listens; else all of it goes to them.
    pub querier: bool,
}

impl Default for MulticastSpec {
    fn default() -> Self {
        Self {
            snooping: true,
            querier: false,
        }
    }
}

/// What a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A host, which answers.
    Host,
    /// A LAN.
    Lan,
    /// Foreign VTEPs: whatever they say, others of them may want more.
    Foreign,
}

impl Kind {
    /// May it be asked?
    fn is_asked(self, querier: bool) -> bool {
        match self {
            Self::Host => true,
            Self::Lan => querier,
            Self::Foreign => false,
        }
    }
}

/// What a node wants of a network's multicast.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interest {
    /// All of it.
    pub all: bool,
    /// It has a router, which wants to hear who listens.
    pub routers: bool,
    /// Else that to these groups, ascending.
    pub groups: Vec<MacAddr>,
}

/// Tells other nodes what the sender wants of a network's multicast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// The network.
    pub vni: Vni,
    /// What it wants of it from now on.
    pub interest: Interest,
}

/// For whom a multicast frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Those who listen to this group.
    Group(MacAddr),
    /// Routers: it says who listens.
    Report,
}

#[derive(Debug)]
struct Port {
    kind: Kind,
    /// Queries so far.
    asked: u8,
    next_query: Moment,
    /// From then on silence means that nobody listens.
    known: Option<Moment>,
    router: Option<Moment>,
    /// It said more than is kept.
    full: Option<Moment>,
    /// Of its members, how many groups.
    groups: usize,
    /// When it was asked last since somebody left.
    left: Option<Moment>,
}

/// One line of what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// The group.
    pub group: MacAddr,
    /// Ports here.
    pub ports: Vec<PortId>,
    /// Other nodes.
    pub nodes: Vec<NodeId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Multicast {
    querier: bool,
    ports: BTreeMap<PortId, Port>,
    members: BTreeMap<MacAddr, BTreeMap<PortId, Moment>>,
    others: BTreeMap<NodeId, (Interest, BTreeSet<MacAddr>)>,
    /// Until when a router counts as asking, IGMP and MLD.
    asking: [Option<Moment>; 2],
    ruled: BTreeSet<MacAddr>,
    ruled_overflow: bool,
    /// Rulings may be wrong from then on.
    stale: Option<Moment>,
    last_epoch: Option<Moment>,
    /// How long after the last epoch another may follow, in ms.
    epoch_pause: u64,
    told: Option<Interest>,
    last_told: Option<Moment>,
    changed: bool,
    malformed: u64,
}

impl Multicast {
    pub(crate) fn new(querier: bool) -> Self {
        Self {
            querier,
            ports: BTreeMap::new(),
            members: BTreeMap::new(),
            others: BTreeMap::new(),
            asking: [None, None],
            ruled: BTreeSet::new(),
            ruled_overflow: false,
            stale: None,
            last_epoch: None,
            epoch_pause: EPOCH_MS,
            told: None,
            last_told: None,
            changed: true,
            malformed: 0,
        }
    }

    /// Are LANs asked as well?
    pub(crate) fn asks_lans(&self) -> bool {
        self.querier
    }

    /// A port came. The same again changes nothing.
    pub(crate) fn add_port(&mut self, port: PortId, kind: Kind, now: Moment) {
        if self
            .ports
            .get(&port)
            .is_some_and(|known| known.kind == kind)
        {
            return;
        }
        self.remove_port(port);
        self.changed = true;
        let fresh = Port {
            kind,
            asked: 0,
            next_query: now,
            known: None,
            router: None,
            full: None,
            groups: 0,
            left: None,
        };
        self.ports.insert(port, fresh);
    }

    /// A port went. That makes an epoch anyway.
    pub(crate) fn remove_port(&mut self, port: PortId) {
        if self.ports.remove(&port).is_some() {
            self.changed = true;
            for ports in self.members.values_mut() {
                ports.remove(&port);
            }
            self.members.retain(|_, ports| !ports.is_empty());
        }
    }

    fn is_asked(&self, port: &Port) -> bool {
        port.kind.is_asked(self.querier)
    }

    /// Does the port get whatever there is?
    fn gets_all(&self, port: &Port, now: Moment) -> bool {
        let live = |until: Option<Moment>| until.is_some_and(|until| until > now);
        !self.is_asked(port)
            || port.known.is_none_or(|known| known > now)
            || live(port.router)
            || live(port.full)
    }

    /// Is such a frame for this port?
    pub(crate) fn wants(&self, port: PortId, aim: Aim, now: Moment) -> bool {
        let Some(there) = self.ports.get(&port) else {
            return true;
        };
        match aim {
            Aim::Report => there.router.is_some_and(|until| until > now),
            Aim::Group(group) => {
                self.gets_all(there, now)
                    || self
                        .members
                        .get(&group)
                        .is_some_and(|ports| ports.contains_key(&port))
            }
        }
    }

    /// Is it for this node?
    pub(crate) fn node_wants(&self, node: NodeId, aim: Aim) -> bool {
        let Some((interest, groups)) = self.others.get(&node) else {
            return true;
        };
        match aim {
            Aim::Report => interest.routers,
            Aim::Group(group) => interest.all || groups.contains(&group),
        }
    }

    /// When what was answered may be otherwise by time alone: a port counts as asked.
    pub(crate) fn holds_until(&self, now: Moment) -> Option<Moment> {
        let known = self.ports.values().filter_map(|port| {
            let due = match port.known {
                Some(known) => known,
                None if self.is_asked(port) => port.next_query.max(now).plus_ms(STARTUP_MS),
                None => return None,
            };
            (due > now).then_some(due)
        });
        known.min()
    }

    /// A ruling was made on who listens to this group.
    pub(crate) fn note_ruled(&mut self, group: MacAddr) {
        if self.ruled.len() < RULED_MAX || self.ruled.contains(&group) {
            self.ruled.insert(group);
        } else {
            self.ruled_overflow = true;
        }
    }

    /// Rulings of before do not count any more.
    pub(crate) fn new_epoch(&mut self) {
        self.ruled.clear();
        self.ruled_overflow = false;
        self.stale = None;
    }

    /// Is a new epoch due? Says so once.
    pub(crate) fn take_stale(&mut self, now: Moment) -> bool {
        let due = self.stale.is_some_and(|due| due <= now);
        if due {
            self.stale = None;
            let pause = self.epoch_pause;
            let goes_on = self
                .last_epoch
                .is_some_and(|last| now.ms_since(last) < 2 * pause);
            self.epoch_pause = match goes_on {
                true => (2 * pause).min(EPOCH_SLOW_MS),
                false => EPOCH_MS,
            };
            self.last_epoch = Some(now);
        }
        due
    }

    /// Rulings on this group, or on all of them, may be wrong.
    fn touch(&mut self, group: Option<MacAddr>, now: Moment) {
        let matters = match group {
            Some(group) => self.ruled_overflow || self.ruled.contains(&group),
            None => self.ruled_overflow || !self.ruled.is_empty(),
        };
        if matters && self.stale.is_none() {
            let soonest = self
                .last_epoch
                .map_or(now, |last| last.plus_ms(self.epoch_pause));
            self.stale = Some(soonest.max(now));
        }
    }

    /// A frame of a port (`None`: of another node, or a foreign VTEP's without a port) that policy let pass. The answer is whom to
    /// ask at once.
    pub(crate) fn hear(
        &mut self,
        port: Option<PortId>,
        said: Result<Option<Control>, Malformed>,
        now: Moment,
    ) -> Option<PortId> {
        match said {
            Err(Malformed) => self.malformed = self.malformed.saturating_add(1),
            Ok(None | Some(Control::Proxy)) => {}
            Ok(Some(Control::Query(family))) => {
                self.asking[usize::from(family == Family::V6)] = Some(now.plus_ms(ROUTER_MS));
                self.router_at(port, now);
            }
            Ok(Some(Control::Router)) => self.router_at(port, now),
            Ok(Some(Control::Report(words))) => {
                let mut left = false;
                for Word { group, joins } in words {
                    match joins {
                        true => self.join(port?, group, now),
                        false => left |= self.leave(port?, group, now),
                    }
                }
                let there = self.ports.get_mut(&port?)?;
                // Once a second is enough for all that leave at a port.
                if left && there.left.is_none_or(|last| now.ms_since(last) >= 1000) {
                    there.left = Some(now);
                    return port;
                }
            }
        }
        None
    }

    fn router_at(&mut self, port: Option<PortId>, now: Moment) {
        let Some(there) = port.and_then(|port| self.ports.get_mut(&port)) else {
            return;
        };
        if there.router.replace(now.plus_ms(ROUTER_MS)).is_none() {
            self.changed = true;
            self.touch(None, now);
        }
    }

    fn join(&mut self, port: PortId, group: MacAddr, now: Moment) {
        let until = now.plus_ms(MEMBER_MS);
        let Some(there) = self.ports.get_mut(&port) else {
            return;
        };
        if let Some(member) = self
            .members
            .get_mut(&group)
            .and_then(|of| of.get_mut(&port))
        {
            *member = until;
            return;
        }
        let no_room = self.members.len() >= GROUPS_MAX && !self.members.contains_key(&group);
        if there.groups >= GROUPS_PER_PORT || no_room {
            if there.full.replace(until).is_none() {
                self.changed = true;
                self.touch(None, now);
            }
            return;
        }
        there.groups += 1;
        let of = self.members.entry(group).or_default();
        self.changed |= of.is_empty();
        of.insert(port, until);
        self.touch(Some(group), now);
    }

    /// True if the port's others are to be asked.
    fn leave(&mut self, port: PortId, group: MacAddr, now: Moment) -> bool {
        let of = self.members.get_mut(&group);
        let Some(until) = of.and_then(|of| of.get_mut(&port)) else {
            return false;
        };
        // Who is not asked cannot say that he stays.
        let there = self.ports.get(&port);
        let asked = there.is_some_and(|there| there.kind.is_asked(self.querier));
        if asked {
            *until = (*until).min(now.plus_ms(LEAVE_MS));
        }
        asked
    }

    /// What another node wants. One that says too much gets all.
    pub(crate) fn set_other(&mut self, node: NodeId, mut interest: Interest, now: Moment) {
        if interest.groups.len() > GROUPS_MAX {
            interest.all = true;
            interest.groups.clear();
        }
        let groups: BTreeSet<MacAddr> = interest.groups.iter().copied().collect();
        let none = (Interest::default(), BTreeSet::new());
        let before = self.others.get(&node);
        let (old, had) = before.unwrap_or(&none);
        let other_way = (old.all, old.routers) != (interest.all, interest.routers);
        if before.is_none() || other_way {
            self.touch(None, now);
        } else {
            let differ: Vec<MacAddr> = had.symmetric_difference(&groups).copied().collect();
            for group in differ {
                self.touch(Some(group), now);
            }
        }
        self.others.insert(node, (interest, groups));
    }

    /// What the others want is not known any more. True if it was: rulings may be wrong then.
    pub(crate) fn keep_others(&mut self, keep: impl Fn(NodeId) -> bool) -> bool {
        let before = self.others.len();
        self.others.retain(|node, _| keep(*node));
        self.others.len() != before
    }

    /// What this node wants of the others.
    pub(crate) fn interest(&self, now: Moment) -> Interest {
        let live = |until: Option<Moment>| until.is_some_and(|until| until > now);
        let all = self.ports.values().any(|port| self.gets_all(port, now));
        Interest {
            all,
            routers: self.ports.values().any(|port| live(port.router)),
            groups: match all {
                true => Vec::new(),
                false => self.members.keys().copied().collect(),
            },
        }
    }

    /// What this node wants, if others do not know it yet, or long ago.
    pub(crate) fn take_interest(&mut self, now: Moment) -> Option<Interest> {
        if self.tell_timeout() > now {
            return None;
        }
        self.changed = false;
        let interest = self.interest(now);
        let old = self
            .last_told
            .is_none_or(|last| now.ms_since(last) >= REFRESH_MS);
        if !old && self.told.as_ref() == Some(&interest) {
            return None;
        }
        self.last_told = Some(now);
        self.told = Some(interest.clone());
        Some(interest)
    }

    /// Somebody came who was not told.
    pub(crate) fn tell_again(&mut self) {
        (self.told, self.last_told, self.changed) = (None, None, true);
    }

    /// When [`Self::take_interest`] has something to look at.
    pub(crate) fn tell_timeout(&self) -> Moment {
        match (self.last_told, self.changed) {
            (None, _) => Moment(0),
            (Some(last), true) => last.plus_ms(TELL_MS),
            (Some(last), false) => last.plus_ms(REFRESH_MS),
        }
    }

    /// When [`Self::handle_timeout`] or [`Self::take_stale`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        let ports = self.ports.values().flat_map(|port| {
            let query = self.is_asked(port).then_some(port.next_query);
            let known = port.known.filter(|_| port.asked <= 2);
            [query, known, port.router, port.full]
        });
        let members = self.members.values().flat_map(|of| of.values().copied());
        ports.flatten().chain(members).chain(self.stale).min()
    }

    /// Forgets who was not heard of. The answer is who is to be asked now, and by which protocol.
    pub(crate) fn handle_timeout(&mut self, now: Moment) -> Vec<(PortId, Family)> {
        let due = |until: &mut Option<Moment>| until.take_if(|until| *until <= now).is_some();
        let (mut gone, mut ask, mut all) = (Vec::new(), Vec::new(), false);
        for (&group, of) in &mut self.members {
            of.retain(|port, until| {
                let stays = *until > now;
                if !stays {
                    gone.push(group);
                    if let Some(there) = self.ports.get_mut(port) {
                        there.groups = there.groups.saturating_sub(1);
                    }
                }
                stays
            });
        }
        self.members.retain(|_, of| !of.is_empty());
        let mut asking = self.asking;
        let quiet = asking.each_mut().map(|until| {
            due(until);
            until.is_none()
        });
        self.asking = asking;
        let querier = self.querier;
        for (&id, port) in &mut self.ports {
            all |= due(&mut port.router) | due(&mut port.full);
            if port.known.is_some_and(|known| known <= now) && port.asked == 2 {
                // Said once: from here on silence is an answer.
                port.asked = 3;
                self.changed = true;
            }
            if !port.kind.is_asked(querier) || port.next_query > now {
                continue;
            }
            for (family, quiet) in [Family::V4, Family::V6].into_iter().zip(quiet) {
                if quiet || port.asked < 2 {
                    ask.push((id, family));
                }
            }
            let first = port.asked < 2;
            if first {
                port.asked += 1;
            }
            let pause = match port.asked {
                0 | 1 => STARTUP_MS,
                _ => QUERY_MS,
            };
            port.next_query = now.plus_ms(pause);
            if first && port.asked == 2 {
                port.known = Some(now.plus_ms(ANSWER_MS));
            }
        }
        self.changed |= all || !gone.is_empty();
        if all {
            self.touch(None, now);
        }
        for group in gone {
            self.touch(Some(group), now);
        }
        ask
    }

    /// What is known, by group.
    pub(crate) fn rows(&self) -> Vec<GroupRow> {
        let mut groups: BTreeSet<MacAddr> = self.members.keys().copied().collect();
        groups.extend(self.others.values().flat_map(|(_, groups)| groups));
        groups
            .into_iter()
            .map(|group| GroupRow {
                group,
                ports: self
                    .members
                    .get(&group)
                    .map(|of| of.keys().copied().collect())
                    .unwrap_or_default(),
                nodes: self
                    .others
                    .iter()
                    .filter(|(_, (_, groups))| groups.contains(&group))
                    .map(|(&node, _)| node)
                    .collect(),
            })
            .collect()
    }

    /// Ports that get all, here.
    pub(crate) fn get_all(&self, now: Moment) -> Vec<PortId> {
        let all = self.ports.iter();
        all.filter(|(_, port)| self.gets_all(port, now))
            .map(|(&port, _)| port)
            .collect()
    }

    /// Messages that were void.
    pub(crate) fn malformed(&self) -> u64 {
        self.malformed
    }
}

/// A general query for one port.
pub(crate) fn query(family: Family, src: MacAddr) -> Bytes {
    query::general(family, src)
}

#[cfg(test)]
mod tests;
