//! The switch: all networks of this node, and the rulings on frames that no lane has a ruling for.
//!
//! ```text
//!   lane --upcall--> learn the source -> Walk (pipeline.rs) -- decided --> Output::Ruling (+ Inject)
//!                                          | a question is open           ^
//!                                          v                              |
//!                                 waits, Output::Ask ---- answer ---> walk again
//! ```
//!
//! Owns segments, their ports, FDBs and neighbours, the upcalls that wait for policy, and the epoch. Refuses to see frames
//! that a lane can decide. The epoch grows only when a ruling made before may be wrong now: a port, a peer of a network or a
//! chain came, went or changed; a MAC moved, aged or was withdrawn. A new MAC is no such thing, unless some ruling was made
//! on its absence. What of the rulings the kernel holds is in `switch/gates.rs`.

use crate::announce::Pace;
use crate::conntrack::Tracked;
use crate::fdb::{FdbLimits, Place};
use crate::flow::{FlowKey, FlowMask, Origin};
use crate::frame::Frame;
use crate::ident::{Epoch, MacAddr, Moment, NodeId, PortId, QueryId, UpcallId, Vni};
use crate::kind::UplinkSpec;
use crate::neighbor::is_neighborly;
use crate::node::{Direction, Output as Out, Question};
use crate::offload::{GateFlow, GateOp, Obstacle};
use crate::outbox::Outbox;
use crate::pipeline::{Decision, FAILED_MS, Network, Walk, longest};
use crate::policy::{ANSWER_MS_MAX, Answer, Known, Policy, PolicyLimits};
use crate::ruling::{self, Action, DropReason, Megaflow, Ruling};
use crate::steering::{Choice, Steering};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// ICMP errors of one node in a second, at most.
const COMPLAINTS_PER_S: u32 = 100;
/// Moves of MACs that wait to be taken.
const MOVES_MAX: usize = 256;

/// How big the switch may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchLimits {
    /// Of each network's FDB.
    pub fdb: FdbLimits,
    /// Of policy, all networks.
    pub policy: PolicyLimits,
    /// Upcalls that wait for policy.
    pub pending: usize,
    /// MACs on whose absence a ruling was made; with more, any new MAC makes a new epoch.
    pub unknown: usize,
}

impl Default for SwitchLimits {
    fn default() -> Self {
        Self {
            fdb: FdbLimits::default(),
            policy: PolicyLimits::default(),
            pending: 4096,
            unknown: 4096,
        }
    }
}

/// A port, as the switch sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFace {
    /// Its number.
    pub port: PortId,
    /// Its network.
    pub vni: Vni,
    /// Its own MAC.
    pub mac: MacAddr,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The node's own presence on the network.
    pub service: bool,
    /// The port of foreign VTEPs: its frames come and go by the VXLAN device. These MACs are behind it, besides `mac`.
    pub foreign: Option<BTreeSet<MacAddr>>,
    /// When it came up.
    pub since: Moment,
    /// It may send router advertisements and redirects.
    pub router: bool,
    /// What other nodes mirror to this one leaves here, too.
    pub monitor: bool,
    /// It is the way to a LAN.
    pub uplink: Option<UplinkSpec>,
}

/// An endpoint of another node, as the directory has it; of those that claim the same, the one that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEndpoint {
    /// Where it is.
    pub node: NodeId,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Of these, those that endpoints of other nodes have as well, as all of them say.
    pub shared: Vec<IpAddr>,
    /// Since when it is there, if it may move to another node.
    pub roams: Option<Moment>,
    /// It may send router advertisements and redirects.
    pub router: bool,
}

/// The last frame that was dropped for a reason by a ruling of the switch. Counting is for the lanes, which see each frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropSeen {
    /// When.
    pub at: Moment,
    /// On which network.
    pub vni: Vni,
    /// From where.
    pub origin: Origin,
    /// The frame's fields, if it was one.
    pub key: Option<FlowKey>,
    /// What is known beyond the reason.
    pub why: Option<String>,
}

/// An upcall that waits for policy.
#[derive(Debug)]
struct Pending {
    origin: Origin,
    /// `None`: no lane waits; it is only about what the gates hold.
    upcall: Option<UpcallId>,
    vni: Vni,
    frame: Bytes,
    /// Its fields, without its connection; `None`: it is no frame.
    key: Option<FlowKey>,
    /// What is known of its connection.
    ct: Tracked,
    since: Moment,
    /// Answers to its questions: those that must not be kept hold for it alone.
    said: Vec<(Direction, PortId, Arc<Answer>)>,
}

/// See the module.
#[derive(Debug)]
pub struct Switch {
    limits: SwitchLimits,
    epoch: Epoch,
    networks: BTreeMap<Vni, Network>,
    policy: Policy,
    /// Boxed, since trees move what they hold.
    pending: BTreeMap<u64, Box<Pending>>,
    next_pending: u64,
    /// MACs that were nowhere when a ruling of this epoch was made. With a node: it was the source of that node's frames, and
    /// if it turns out to be that node's, the ruling was right.
    unknown: BTreeMap<(Vni, MacAddr), Option<NodeId>>,
    unknown_overflow: bool,
    drops: BTreeMap<DropReason, DropSeen>,
    /// State of each FDB's learned MACs when they were last taken.
    taken: BTreeMap<Vni, u64>,
    /// A frame was learned from since then.
    learned: bool,
    /// MACs that moved, or tried to, and were not taken yet.
    moves: Vec<(Vni, MacAddr, Place, PortId)>,
    gates: Gates,
    steering: Steering,
    /// Where copies of other nodes leave, as was told last.
    monitors: BTreeMap<Vni, Monitor>,
    /// Networks whose frames are looked up among connections.
    tracked: BTreeSet<Vni>,
    /// ICMP errors sent since when.
    complained: (Moment, u32),
    /// Of all networks' announcements.
    pace: Pace,
}

impl Switch {
    /// A switch without networks. Rulings of an earlier run that the kernel still holds are of an epoch before `epoch`. `seed` makes
    /// its hashes unknown to senders.
    #[must_use]
    pub fn new(limits: SwitchLimits, epoch: Epoch, seed: u64) -> Self {
        Self {
            limits,
            epoch,
            networks: BTreeMap::new(),
            policy: Policy::new(limits.policy, seed),
            pending: BTreeMap::new(),
            next_pending: 0,
            unknown: BTreeMap::new(),
            unknown_overflow: false,
            drops: BTreeMap::new(),
            taken: BTreeMap::new(),
            learned: false,
            moves: Vec::new(),
            gates: Gates::default(),
            steering: Steering::default(),
            monitors: BTreeMap::new(),
            tracked: BTreeSet::new(),
            complained: (Moment(0), 0),
            pace: Pace::default(),
        }
    }

    /// The current epoch; every change of it is also an output.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last drop of each reason.
    #[must_use]
    pub fn drops(&self) -> &BTreeMap<DropReason, DropSeen> {
        &self.drops
    }

    /// True if what frames and answers did lately is nothing to anybody else: no MAC was learned, and what the gates hold is
    /// as it was.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.learned && self.moves.is_empty() && !self.gates.stale && !self.is_adopting()
    }

    // What the node has.

    // What happens.

    /// A lane has no ruling for a frame. The ruling is an output, now or once policy has answered.
    pub fn upcall(
        &mut self,
        origin: Origin,
        upcall: UpcallId,
        (vni, ct): (Vni, Tracked),
        frame: &Bytes,
        now: Moment,
        out: &mut Outbox,
    ) {
        let parsed = Frame::parse(frame).ok();
        if let (Some(port), Some(parsed)) = (self.entrance(origin, vni), &parsed) {
            self.learn(origin, port, vni, parsed, now, out);
        }
        let pending = Box::new(Pending {
            origin,
            upcall: Some(upcall),
            vni,
            frame: frame.clone(),
            key: parsed.map(|parsed| parsed.flow_key(vni)),
            ct,
            since: now,
            said: Vec::new(),
        });
        self.proceed(pending, now, out);
    }

    /// A lane forwards such frames by a ruling that the gates hold for exact flows only: this one is to be held, too.
    pub fn offer(&mut self, origin: Origin, vni: Vni, frame: Bytes, now: Moment, out: &mut Outbox) {
        let key = Frame::parse(&frame).map(|parsed| parsed.flow_key(vni)).ok();
        let pending = Box::new(Pending {
            origin,
            upcall: None,
            vni,
            frame,
            key,
            // Of a ruling that looked at none.
            ct: Tracked::default(),
            since: now,
            said: Vec::new(),
        });
        self.proceed(pending, now, out);
    }

    /// A chain answered. `epoch` is that of the question.
    pub fn answer(
        &mut self,
        query: QueryId,
        epoch: Epoch,
        answer: Arc<Answer>,
        now: Moment,
        out: &mut Outbox,
    ) {
        let Some((question, answer, waiters)) = self.policy.answer(query, epoch, answer, now)
        else {
            return;
        };
        if answer.is_tracked()
            && self.networks.contains_key(&question.vni)
            && !self.tracked.contains(&question.vni)
        {
            return self.begin_to_track(question.vni, waiters, now, out);
        }
        for waiter in waiters {
            if let Some(mut pending) = self.pending.remove(&waiter) {
                pending
                    .said
                    .push((question.direction, question.port, answer.clone()));
                self.proceed(pending, now, out);
            }
        }
    }

    /// Ages MACs, announces, and rules on what policy did not answer.
    pub fn handle_timeout(&mut self, now: Moment, out: &mut Outbox) {
        self.announce(now, out);
        self.age_listeners(now, out);
        let mut aged = false;
        for network in self.networks.values_mut() {
            aged |= network.fdb.age_out(now);
            network.neighbors.age_out(now);
        }
        if aged {
            self.new_epoch(out);
        }
        for (question, waiters) in self.policy.time_out(now) {
            for waiter in waiters {
                if let Some(pending) = self.pending.remove(&waiter) {
                    self.give_up(&pending, &question, now, out);
                }
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let announcing = self.networks.values().any(|n| n.announcements.is_due());
        self.networks
            .values()
            .flat_map(|n| {
                let listeners = n.multicast.as_ref().and_then(|m| m.poll_timeout());
                [n.fdb.next_age(), n.neighbors.next_age(), listeners]
            })
            .flatten()
            .chain(self.policy.poll_timeout())
            .chain(announcing.then(|| self.pace.next()))
            .min()
    }

    /// Tells the ports here which addresses have another MAC than before, as fast as it may.
    fn announce(&mut self, now: Moment, out: &mut Outbox) {
        for (&vni, network) in &mut self.networks {
            while network.announcements.is_due() && self.pace.ready(now) {
                let Some((ip, frame)) = network.announcements.pop() else {
                    break;
                };
                let Some(owner) = network.neighbors.owner(ip) else {
                    continue;
                };
                let mut frames = 0;
                for (&port, face) in &network.ports {
                    if !face.service && owner.place != Place::Port(port) {
                        let (to, frame) = (ruling::Output::Port(port), frame.clone());
                        out.push(Out::Inject { vni, to, frame });
                        frames += 1;
                    }
                }
                self.pace.spend(frames);
            }
        }
    }

    // Behind the curtain.

    /// The port that a frame came in by.
    fn entrance(&self, origin: Origin, vni: Vni) -> Option<PortId> {
        match origin {
            Origin::Port(port) => Some(port),
            Origin::Vxlan(_) => self.networks.get(&vni).and_then(Network::foreign_port),
            Origin::Peer(_) => None,
        }
    }

    fn proceed(&mut self, pending: Box<Pending>, now: Moment, out: &mut Outbox) {
        let Pending { origin, vni, .. } = *pending;
        let (Ok(frame), Some(key)) = (Frame::parse(&pending.frame), pending.key) else {
            let decision = Decision::of(Action::Drop(DropReason::Malformed));
            return self.finish(&pending, None, decision, now, out);
        };
        let key = key.with_ct(pending.ct);
        let policy = &self.policy;
        let mut oracle = |question: &Question| {
            let own = pending.said.iter().rev().find(|(direction, port, _)| {
                (*direction, *port) == (question.direction, question.port)
            });
            own.map(|(_, _, answer)| Known::from(Arc::clone(answer)))
                .or_else(|| policy.look(question, now))
        };
        let walk = Walk::new(
            self.networks.get(&vni),
            policy.has_chain(vni),
            origin,
            (frame, key),
            now,
            &mut oracle,
        );
        match walk.decide() {
            Ok(decision) => self.finish(&pending, Some(key), decision, now, out),
            // A flood asks for each receiver in turn; all of it together has the time of one answer.
            Err(question) if now.ms_since(pending.since) >= ANSWER_MS_MAX => {
                self.give_up(&pending, &question, now, out)
            }
            Err(question) => {
                let waiter = self.next_pending;
                self.next_pending += 1;
                let room = self.pending.len() < self.limits.pending;
                if room && self.policy.ask(*question, waiter, self.epoch, now, out) {
                    self.pending.insert(waiter, pending);
                } else {
                    let why = Some("too many frames of this node wait for policy".to_owned());
                    let decision = Decision {
                        why,
                        ..Decision::of(Action::Drop(DropReason::ParkingFull))
                    };
                    self.finish(&pending, Some(key), decision, now, out);
                }
            }
        }
    }

    /// The question came too late, or not at all: this very flow is not asked about again for a while.
    fn give_up(&mut self, pending: &Pending, question: &Question, now: Moment, out: &mut Outbox) {
        let decision = Decision {
            mask: (!is_neighborly(question.key.ip_kind)).then(FlowMask::exact),
            until: Some(now.plus_ms(FAILED_MS)),
            longest: self
                .networks
                .get(&pending.vni)
                .map_or(u32::MAX, |n| longest(n.mtu)),
            why: Some(format!(
                "asked about port {} and heard nothing for {ANSWER_MS_MAX} ms",
                question.port
            )),
            ..Decision::of(Action::Drop(DropReason::PolicyTimeout))
        };
        self.finish(pending, Some(question.key), decision, now, out);
    }

    fn finish(
        &mut self,
        pending: &Pending,
        key: Option<FlowKey>,
        mut decision: Decision,
        now: Moment,
        out: &mut Outbox,
    ) {
        let Pending {
            origin,
            upcall,
            vni,
            ..
        } = *pending;
        let Some(upcall) = upcall else {
            return self.reconsidered(pending, key, &decision, now, out);
        };
        if let (Some(mac), Some(_)) = (decision.unknown, decision.mask) {
            let user = match origin {
                Origin::Peer(node) if key.is_some_and(|k| k.src_mac == mac) => Some(node),
                _ => None,
            };
            let room = self.unknown.len() < self.limits.unknown;
            match self.unknown.get_mut(&(vni, mac)) {
                Some(old) if *old != user => *old = None,
                Some(_) => {}
                None if room => {
                    self.unknown.insert((vni, mac), user);
                }
                None => self.unknown_overflow = true,
            }
        }
        if let (Some(learn), Some(key)) = (decision.learn, &key) {
            self.remember(origin, key, learn, now);
        }
        if let Some(group) = decision.group {
            self.note_ruled_group(vni, group);
        }
        if decision.heard && !matches!(decision.action, Action::Drop(_)) {
            self.hear(origin, vni, &pending.frame, now, out);
        }
        let ways = key.and_then(|key| self.steer(&key, &mut decision, now));
        if let Some(key) = &key {
            self.steer_arms(key, &mut decision);
        }
        let gate = key.map_or(Err(Obstacle::NotForwarded), |key| {
            self.offload(origin, &key, &mut decision, now)
        });
        let ruling = match &key {
            Some(key) => self.ruling(&decision, key, ways, gate),
            None => Ruling {
                longest: decision.longest,
                obstacle: Some(Obstacle::NotForwarded),
                ..Ruling::of(decision.action.clone())
            },
        };
        if let Action::Drop(reason) = decision.action {
            self.drops.insert(
                reason,
                DropSeen {
                    at: now,
                    vni,
                    origin,
                    key,
                    why: decision.why,
                },
            );
        }
        if let Some((to, frame)) = decision.reply
            && (decision.action == Action::Consume || self.may_complain(now))
        {
            out.push(Out::Inject { vni, to, frame });
        }
        out.push(Out::Ruling {
            origin,
            upcall,
            ruling,
        });
        // After the frames that wait: those that follow are not to overtake them.
        if let Ok(flow) = gate {
            out.push(Out::Gate(GateOp::Open(flow)));
        }
    }

    fn ruling(
        &self,
        decision: &Decision,
        key: &FlowKey,
        ways: Option<Arc<Choice>>,
        gate: Result<GateFlow, Obstacle>,
    ) -> Ruling {
        let cache = self.mask(decision, key).map(|mask| Megaflow {
            key: mask.apply(key),
            mask,
            epoch: self.epoch,
            until: decision.until,
            idle_ms: decision.idle_ms,
        });
        Ruling {
            action: decision.action.clone(),
            edits: decision.edits.clone(),
            track: decision.track.as_ref().map(|order| self.dated(order)),
            dues: decision.dues.clone(),
            punts: decision.punts.clone(),
            ways,
            copies: decision.copies.clone(),
            select: decision.select.as_ref().map(|arms| {
                let arms = arms.iter().cloned().map(|mut arm| {
                    arm.ruling.track = arm.ruling.track.map(|order| self.dated(&order));
                    arm
                });
                arms.collect()
            }),
            cache,
            longest: decision.longest,
            obstacle: gate.err(),
            each_flow: gate.is_ok_and(|flow| flow.matches.l4.is_some()),
        }
    }

    /// ICMP errors have a rate (RFC 1812 §4.3.2.8).
    fn may_complain(&mut self, now: Moment) -> bool {
        if now.ms_since(self.complained.0) >= 1000 {
            self.complained = (now, 0);
        }
        self.complained.1 += 1;
        self.complained.1 <= COMPLAINTS_PER_S
    }

    fn ask_again(&mut self, waiting: Vec<u64>, now: Moment, out: &mut Outbox) {
        for waiter in waiting {
            if let Some(mut pending) = self.pending.remove(&waiter) {
                pending.said.clear();
                self.proceed(pending, now, out);
            }
        }
    }

    fn new_epoch(&mut self, out: &mut Outbox) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.unknown.clear();
        self.unknown_overflow = false;
        for network in self.networks.values_mut() {
            if let Some(multicast) = &mut network.multicast {
                multicast.new_epoch();
            }
        }
        self.gates.stale = true;
        out.push(Out::Epoch(self.epoch));
    }
}

mod gates;
mod learning;
mod listeners;
mod monitor;
mod networks;
mod packet_out;
mod policy;
mod trace;
mod ways;

pub use gates::Gates;
pub use learning::FdbRow;
pub use listeners::Listening;
pub use monitor::{MONITOR_LABEL, Monitor, is_monitor};
pub use networks::AddPortError;
pub use packet_out::{PacketOut, PacketTo, SendError};
pub use trace::{TraceEnd, TraceOutcome};

#[cfg(test)]
mod tests;
