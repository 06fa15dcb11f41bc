//! The kernel's share of the switch: which rulings its gates hold, looked at again whenever the epoch moves.
//!
//! ```text
//!   ruling --offload--> entry opened, noted                     epoch moves --revalidate--> still so: opened in the new epoch
//!   plane (FDB, paths) changes --> rulings that wanted it       |                           not so:   closed
//!                                  are made anew: new epoch     '--> then the gates' own epoch moves: nothing old is obeyed
//!
//!   a restart:  entries found in the gates --adopt--> each looked at as soon as its port and path are there; until all are,
//!               or time is up, the gates keep their epoch, so that traffic goes on
//! ```
//!
//! Owns the order: an entry that still holds gets its new epoch before the gates do, so no frame of it leaves the kernel; one
//! that does not is closed before. Decides nothing about frames: it walks them as `pipeline.rs` does.

use super::{Pending, Switch};
use crate::conntrack::Tracked;
use crate::fdb::How;
use crate::flow::{FlowKey, Origin};
use crate::frame::{ETHER_IPV4, ETHER_IPV6, Frame};
use crate::ident::{MacAddr, Moment, NodeId, Vni};
use crate::node::Output as Out;
use crate::node::Question;
use crate::offload::{
    Considered, Entrance, FRESH_MS, GateFlow, GateMatch, GateOp, Kept, Obstacle, Offloads, Plane,
    consider,
};
use crate::outbox::Outbox;
use crate::pipeline::{Decision, Walk, sender};
use crate::ruling::{Action, Output};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Things that rulings wanted of the plane and did not find; with more, any new thing makes a new epoch.
const WANTED_MAX: usize = 4096;
/// Entries of an earlier run that are looked at in one go, at most.
const ADOPT_TURN: usize = 1024;

/// What a ruling wanted of the plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Mac(Vni, MacAddr),
    Path(Vni, NodeId),
    Vxlan(Vni),
}

/// Entries of an earlier run, and which of them policy was asked about.
#[derive(Debug, Default)]
struct Adoption {
    waiting: BTreeMap<GateMatch, bool>,
    deadline: Moment,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Gates {
    planes: BTreeMap<Vni, Plane>,
    offloads: Offloads,
    /// The epoch moved since the gates were told.
    pub(super) stale: bool,
    wanted: BTreeSet<Wanted>,
    wanted_overflow: bool,
    adoption: Option<Adoption>,
}

impl Switch {
    /// The flows that the kernel holds.
    #[must_use]
    pub fn offloads(&self) -> &Offloads {
        &self.gates.offloads
    }

    /// The kernel's side of a network, if it has one.
    #[must_use]
    pub fn plane(&self, vni: Vni) -> Option<&Plane> {
        self.gates.planes.get(&vni)
    }

    /// Are entries of an earlier run still to be looked at?
    #[must_use]
    pub fn is_adopting(&self) -> bool {
        self.gates.adoption.is_some()
    }

    /// Says what the kernel now has for a network; `None`: nothing. What it does not have any more is believed no longer
    /// from this call on.
    pub fn set_plane(&mut self, vni: Vni, plane: Option<Plane>, out: &mut Outbox) {
        let before = self.gates.planes.get(&vni);
        if before == plane.as_ref() {
            return;
        }
        let (none, new) = (Plane::default(), plane.as_ref());
        let (old, new) = (before.unwrap_or(&none), new.unwrap_or(&none));
        let lost = old.here.iter().any(|(m, p)| new.here.get(m) != Some(p))
            || old.there.iter().any(|(m, n)| new.there.get(m) != Some(n))
            || old.open.iter().any(|(n, s)| new.open.get(n) != Some(s))
            || old
                .foreign
                .iter()
                .any(|(m, p)| new.foreign.get(m) != Some(p))
            || (old.vxlan && !new.vxlan);
        let wanted = |wanted: Wanted| self.gates.wanted.contains(&wanted);
        let fresh_mac = |mac: &MacAddr| wanted(Wanted::Mac(vni, *mac));
        let found = self.gates.wanted_overflow
            || (new.vxlan && !old.vxlan && wanted(Wanted::Vxlan(vni)))
            || (new.here.keys().filter(|m| !old.here.contains_key(m))).any(fresh_mac)
            || (new.there.keys().filter(|m| !old.there.contains_key(m))).any(fresh_mac)
            || (new.foreign.keys().filter(|m| !old.foreign.contains_key(m))).any(fresh_mac)
            || (new.open.keys().filter(|n| !old.open.contains_key(n)))
                .any(|node| wanted(Wanted::Path(vni, *node)));
        match plane {
            Some(plane) => self.gates.planes.insert(vni, plane),
            None => self.gates.planes.remove(&vni),
        };
        if lost || found {
            self.new_epoch(out);
        }
    }

    /// Entries whose frames ceased long ago: they are closed, and the next frame is ruled on anew.
    pub fn gates_idle(&mut self, idle: &[GateMatch], out: &mut Outbox) {
        for matches in idle {
            if self.gates.offloads.remove(matches) {
                out.push(Out::Gate(GateOp::Close(*matches)));
            }
        }
    }

    /// Entries that an earlier run left in the gates. Until `deadline`, or until all are looked at, the gates go on by them.
    pub fn adopt(&mut self, entries: Vec<GateMatch>, deadline: Moment) {
        self.gates.stale = true;
        self.gates.adoption = Some(Adoption {
            waiting: entries.into_iter().map(|entry| (entry, false)).collect(),
            deadline,
        });
    }

    /// When [`Self::settle_gates`] is due by time alone.
    #[must_use]
    pub fn gates_timeout(&self) -> Option<Moment> {
        self.gates.adoption.as_ref().map(|a| a.deadline)
    }

    /// At the end of each input: what the gates hold is made true again, if the epoch moved. `ready`: all ports and paths of
    /// an earlier run are as they are going to be.
    pub fn settle_gates(&mut self, ready: bool, now: Moment, out: &mut Outbox) {
        self.adopt_turn(ready, now, out);
        if !std::mem::take(&mut self.gates.stale) {
            return;
        }
        self.gates.wanted.clear();
        self.gates.wanted_overflow = false;
        for (matches, kept) in self.gates.offloads.take() {
            match self.reconsider(kept.origin, &kept.key, now) {
                Some(Ok(flow)) if flow.matches == matches => {
                    out.push(Out::Gate(GateOp::Open(flow)));
                    self.gates.offloads.insert(Kept { flow, ..kept });
                }
                _ => out.push(Out::Gate(GateOp::Close(matches))),
            }
        }
        if self.gates.adoption.is_none() {
            out.push(Out::Gate(GateOp::Epoch(self.epoch)));
        } else {
            // Said when the adoption ends.
            self.gates.stale = true;
        }
    }

    /// The entry for a ruling that is being made; notes it, and notes what was missing.
    pub(super) fn offload(
        &mut self,
        origin: Origin,
        key: &FlowKey,
        decision: &mut Decision,
        now: Moment,
    ) -> Result<GateFlow, Obstacle> {
        let considered = self.consider(origin, key, decision, now);
        match considered {
            Ok(flow) => {
                let megaflow = decision.mask.map_or(*key, |mask| mask.apply(key));
                let kept = Kept {
                    origin,
                    key: self.kept_key(&flow, key, decision),
                    megaflow,
                    flow,
                    since: now,
                };
                if self.gates.offloads.insert(kept) {
                    if let Some(adoption) = &mut self.gates.adoption {
                        adoption.waiting.remove(&flow.matches);
                    }
                    Ok(flow)
                } else {
                    Err(Obstacle::TableFull)
                }
            }
            Err(obstacle) => {
                self.want(obstacle, origin, key, decision, now);
                Err(obstacle)
            }
        }
    }

    /// What the entry is looked at again with: what it matches, and the DSCP where that chooses the way.
    fn kept_key(&self, flow: &GateFlow, key: &FlowKey, decision: &Decision) -> FlowKey {
        let dscp = match self.rests_on_dscp(key, decision) {
            true => key.dscp,
            false => 0,
        };
        FlowKey {
            dscp,
            ..flow.matches.key(key.vni)
        }
    }

    /// So that the ruling is made again once it could be held.
    fn want(
        &mut self,
        obstacle: Obstacle,
        origin: Origin,
        key: &FlowKey,
        decision: &mut Decision,
        now: Moment,
    ) {
        let wanted: &[Wanted] = match (obstacle, &decision.action, origin) {
            (Obstacle::Fresh, ..) => {
                let due = self
                    .source_since(origin, key)
                    .unwrap_or(now)
                    .plus_ms(FRESH_MS);
                decision.until = Some(decision.until.map_or(due, |until| until.min(due)));
                &[]
            }
            (Obstacle::NotWired, ..) => &[
                Wanted::Mac(key.vni, key.src_mac),
                Wanted::Mac(key.vni, key.dst_mac),
            ],
            (Obstacle::PathIsQuic, _, Origin::Peer(_)) => &[Wanted::Vxlan(key.vni)],
            (Obstacle::PathIsQuic, Action::Forward(to), _) => match to[..] {
                [Output::Peer(node)] => &[Wanted::Path(key.vni, node)],
                _ => &[],
            },
            (Obstacle::NoGate, ..) => &[
                Wanted::Mac(key.vni, key.src_mac),
                Wanted::Mac(key.vni, key.dst_mac),
            ],
            _ => &[],
        };
        if self.gates.wanted.len() + wanted.len() > WANTED_MAX {
            self.gates.wanted_overflow = true;
        } else {
            self.gates.wanted.extend(wanted);
        }
    }

    pub(super) fn consider(
        &self,
        origin: Origin,
        key: &FlowKey,
        decision: &Decision,
        now: Moment,
    ) -> Result<GateFlow, Obstacle> {
        if decision.idle_ms.is_some() {
            return Err(Obstacle::Idle);
        }
        let network = self.networks.get(&key.vni);
        let uplink = |port| network.is_some_and(|network| network.uplink(port).is_some());
        let from = matches!(origin, Origin::Port(port) if uplink(port));
        let to = |to: &Output| matches!(*to, Output::Port(port) if uplink(port));
        if from || matches!(&decision.action, Action::Forward(all) if all.iter().any(to)) {
            return Err(Obstacle::Uplink);
        }
        let service = |port| {
            let face = network.and_then(|network| network.ports.get(&port));
            face.is_some_and(|face| face.service)
        };
        let from = matches!(origin, Origin::Port(port) if service(port));
        let to = |to: &Output| matches!(*to, Output::Port(port) if service(port));
        if from
            || matches!(&decision.action, Action::Forward(all) if all.len() == 1 && all.iter().all(to))
        {
            return Err(Obstacle::Service);
        }
        let mask = self.gate_mask(decision, key)?;
        let flow = consider(
            self.gates.planes.get(&key.vni),
            &Considered {
                origin,
                sender: sender(network, origin, key.src_mac),
                key,
                action: &decision.action,
                redirected: decision.redirected,
                edited: decision.edits.is_some(),
                tracked: decision.track.is_some(),
                punted: decision.punts.is_some(),
                copied: decision.copies.is_some(),
                dues: decision.dues.as_deref(),
                mask: mask.as_ref(),
                epoch: self.epoch,
                until: decision.until,
            },
        )?;
        let leaves =
            matches!(&decision.action, Action::Forward(to) if matches!(to[..], [Output::Peer(_)]));
        let fresh = self
            .source_since(origin, key)
            .is_some_and(|since| now < since.plus_ms(FRESH_MS));
        if leaves && fresh {
            return Err(Obstacle::Fresh);
        }
        Ok(flow)
    }

    /// Since when a source is behind the port.
    fn source_since(&self, origin: Origin, key: &FlowKey) -> Option<Moment> {
        let (Origin::Port(port), network) = (origin, self.networks.get(&key.vni)?) else {
            return None;
        };
        match network.fdb.how(key.src_mac) {
            Some(How::Learned { since, .. }) => Some(since),
            _ => network.ports.get(&port).map(|face| face.since),
        }
    }

    /// The ruling on such a frame as it would be made now; `None`: policy would have to be asked.
    fn reconsider(
        &self,
        origin: Origin,
        key: &FlowKey,
        now: Moment,
    ) -> Option<Result<GateFlow, Obstacle>> {
        let bytes = specimen(key);
        let frame = Frame::parse(&bytes).ok()?;
        let policy = &self.policy;
        let mut oracle = |question: &Question| policy.look(question, now);
        let decision = Walk::new(
            self.networks.get(&key.vni),
            policy.has_chain(key.vni),
            origin,
            // A ruling that a gate holds has looked at no connection.
            (frame, frame.flow_key(key.vni)),
            now,
            &mut oracle,
        )
        .decide()
        .ok()?;
        Some(self.consider(origin, key, &decision, now))
    }

    /// Looks at entries of an earlier run whose time has come.
    fn adopt_turn(&mut self, ready: bool, now: Moment, out: &mut Outbox) {
        let Some(adoption) = &self.gates.adoption else {
            return;
        };
        let over = ready || adoption.deadline <= now;
        let turn: Vec<(GateMatch, bool)> = adoption
            .waiting
            .iter()
            .map(|(matches, asked)| (*matches, *asked))
            .take(if over { usize::MAX } else { ADOPT_TURN })
            .collect();
        for (matches, asked) in turn {
            let place = match matches.entrance {
                Entrance::Vxlan(vni) => Some((Origin::Vxlan(vni), vni)),
                Entrance::Port(port) => self
                    .networks
                    .iter()
                    .find(|(_, network)| network.ports.contains_key(&port))
                    .map(|(&vni, _)| (Origin::Port(port), vni)),
            };
            let Some((origin, vni)) = place.filter(|(_, vni)| self.networks.contains_key(vni))
            else {
                continue;
            };
            let key = matches.key(vni);
            match self.reconsider(origin, &key, now) {
                Some(Ok(flow)) if flow.matches == matches => {
                    let kept = Kept {
                        origin,
                        key,
                        megaflow: key,
                        flow,
                        since: now,
                    };
                    if self.gates.offloads.insert(kept) {
                        out.push(Out::Gate(GateOp::Open(flow)));
                        self.adopted(&matches);
                    }
                }
                // What is in the way may be about to go: ports, paths and plans come one after the other.
                Some(Err(_)) if !over => {}
                Some(Ok(_) | Err(_)) => {
                    out.push(Out::Gate(GateOp::Close(matches)));
                    self.adopted(&matches);
                }
                None if asked => {}
                None => {
                    if let Some(asked) = self
                        .gates
                        .adoption
                        .as_mut()
                        .and_then(|a| a.waiting.get_mut(&matches))
                    {
                        *asked = true;
                    }
                    let frame = Bytes::from(specimen(&key));
                    let parsed = Frame::parse(&frame);
                    let pending = Box::new(Pending {
                        origin,
                        upcall: None,
                        vni,
                        key: parsed.map(|parsed| parsed.flow_key(vni)).ok(),
                        frame,
                        ct: Tracked::default(),
                        since: now,
                        said: Vec::new(),
                    });
                    self.proceed(pending, now, out);
                }
            }
        }
        let done = self
            .gates
            .adoption
            .as_ref()
            .is_some_and(|a| a.waiting.is_empty());
        if over || (done && ready) {
            for matches in self
                .gates
                .adoption
                .take()
                .unwrap_or_default()
                .waiting
                .keys()
            {
                out.push(Out::Gate(GateOp::Close(*matches)));
            }
        }
    }

    fn adopted(&mut self, matches: &GateMatch) {
        if let Some(adoption) = &mut self.gates.adoption {
            adoption.waiting.remove(matches);
        }
    }

    /// What has become of an entry of an earlier run, or of a flow that was offered.
    pub(super) fn reconsidered(
        &mut self,
        pending: &Pending,
        key: Option<FlowKey>,
        decision: &Decision,
        now: Moment,
        out: &mut Outbox,
    ) {
        let Some(key) = key else { return };
        let Some(Ok(flow)) = Some(self.consider(pending.origin, &key, decision, now)) else {
            return;
        };
        let kept = Kept {
            origin: pending.origin,
            key: self.kept_key(&flow, &key, decision),
            megaflow: decision.mask.map_or(key, |mask| mask.apply(&key)),
            flow,
            since: now,
        };
        if self.gates.offloads.insert(kept) {
            out.push(Out::Gate(GateOp::Open(flow)));
            self.adopted(&flow.matches);
        }
    }
}

/// A frame with this key, as far as gates look at it. Checksums are zero: nobody looks at them here.
fn specimen(key: &FlowKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(&key.dst_mac.0);
    out.extend_from_slice(&key.src_mac.0);
    out.extend_from_slice(&key.ether_type.to_be_bytes());
    let mut l4 = vec![0u8; if key.ip_proto == 6 { 20 } else { 12 }];
    let head: [u8; 4] = match key.ip_proto {
        1 | 58 => [key.icmp_type, key.icmp_code, 0, 0],
        _ => {
            let [a, b] = key.src_port.to_be_bytes();
            let [c, d] = key.dst_port.to_be_bytes();
            [a, b, c, d]
        }
    };
    l4.splice(..4, head);
    match key.ip_proto {
        // Data offset 5.
        6 => l4.splice(12..13, [0x50]).for_each(drop),
        17 => l4.splice(4..6, [0, 12]).for_each(drop),
        _ => {}
    }
    let len = u8::try_from(l4.len()).unwrap_or(u8::MAX);
    match key.ether_type {
        ETHER_IPV4 => {
            // 253 is for experiments (RFC 3692): what a pair does not look at.
            let proto = if key.l4_ok { key.ip_proto } else { 253 };
            out.extend_from_slice(&[
                0x45,
                key.dscp << 2,
                0,
                20 + len,
                0,
                0,
                0,
                0,
                64,
                proto,
                0,
                0,
            ]);
            let v4 = |ip: u128| u32::try_from(ip & 0xffff_ffff).unwrap_or(0).to_be_bytes();
            out.extend_from_slice(&v4(key.src_ip));
            out.extend_from_slice(&v4(key.dst_ip));
            out.extend_from_slice(&l4);
        }
        ETHER_IPV6 => {
            let proto = if key.l4_ok { key.ip_proto } else { 253 };
            let class = [0x60 | key.dscp >> 2, (key.dscp & 3) << 6];
            out.extend_from_slice(&class);
            out.extend_from_slice(&[0, 0, 0, len, proto, 64]);
            out.extend_from_slice(&key.src_ip.to_be_bytes());
            out.extend_from_slice(&key.dst_ip.to_be_bytes());
            out.extend_from_slice(&l4);
        }
        _ => out.extend_from_slice(&l4),
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::offload::GateL4;
    use proptest::prelude::*;

    fn any_l4() -> impl Strategy<Value = (u16, Option<GateL4>)> {
        let ports = (any::<u32>(), any::<u32>(), any::<u16>(), any::<u16>());
        prop_oneof![
            Just((ETHER_IPV4, None)),
            Just((ETHER_IPV6, None)),
            Just((0x88cc, None)),
            (prop::sample::select(vec![1u8, 6, 17, 132]), ports).prop_map(
                |(ip_proto, (a, b, s, d))| {
                    let icmp = ip_proto == 1;
                    (
                        ETHER_IPV4,
                        Some(GateL4 {
                            ip_proto,
                            src_ip: 0xffff_0000_0000 | u128::from(a),
                            dst_ip: 0xffff_0000_0000 | u128::from(b),
                            src_port: if icmp { s & 0xff } else { s },
                            dst_port: if icmp { d & 0xff } else { d },
                        }),
                    )
                }
            ),
            (
                prop::sample::select(vec![6u8, 17]),
                any::<(u128, u128, u16, u16)>()
            )
                .prop_map(|(ip_proto, (src_ip, dst_ip, src_port, dst_port))| {
                    (
                        ETHER_IPV6,
                        Some(GateL4 {
                            ip_proto,
                            src_ip,
                            dst_ip,
                            src_port,
                            dst_port,
                        }),
                    )
                }),
        ]
    }

    proptest! {
        #[test]
        fn a_specimen_has_the_key_it_was_made_from((ether_type, l4) in any_l4(), dscp in 0u8..64) {
            let vni = Vni::new(7).unwrap();
            let entry = GateMatch {
                entrance: Entrance::Vxlan(vni),
                src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
                dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
                ether_type,
                l4,
            };
            let key = FlowKey { dscp, ..entry.key(vni) };
            let bytes = specimen(&key);
            let frame = Frame::parse(&bytes).unwrap();
            prop_assert!(!frame.is_malformed());
            let mut read = frame.flow_key(vni);
            prop_assert_eq!(read.ip_kind, key.ip_kind);
            if entry.l4.is_some() {
                read.ttl = 0;
                prop_assert_eq!(read, key);
            }
        }
    }
}
