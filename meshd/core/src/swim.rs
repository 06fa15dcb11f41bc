//! Who is alive, by SWIM (foca): every node probes others and all hear of the result, so that a death is known to those
//! who had no session with the dead.
//!
//! ```text
//!   proven session --> announce --+                +--> packets for sessions (no session: lost, as on any network)
//!   packets of peers --> filter --+--> foca -------+--> alive, dead
//!   time -------------------------+                +--> timers
//! ```
//!
//! Owns the instance of foca, its timers and its configuration. Refuses packets whose sender is not the session's peer,
//! and takes out of them every update about one who is no member, before foca sees them: a rogue peer can neither invent
//! nodes nor speak as another. What it can do, say that a node is down or up, is outvoted by a session with that node;
//! see the rule in `mesh.rs`.

use crate::ident::{Moment, NodeId, Now};
use foca::{
    AccumulatingRuntime, Codec, Config, Foca, Header, Identity, Member, NoCustomBroadcast,
    OwnedNotification, PeriodicParams, PostcardCodec, Timer,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// Largest SWIM packet, bytes: some 300 members. It rides on a stream, so no MTU bounds it.
const PACKET_MAX: usize = 16 * 1024;
/// Renewals of one boot, as bits of a life.
const RENEWAL_BITS: u32 = 24;
/// Timers beyond this are not kept; foca then forgets a suspicion or a dead node later than it would.
const TIMERS_MAX: usize = 65_536;

/// A node in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Life {
    node: NodeId,
    /// Grows with each start and each time it was called dead. The highest counts.
    life: u64,
}

impl Identity for Life {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            life: self.life.checked_add(1)?,
            ..*self
        })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

/// What SWIM found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Alive(NodeId),
    Dead(NodeId),
}

/// Packets to send and what was found out, of one call.
#[derive(Debug, Default)]
pub(crate) struct Swum {
    pub(crate) packets: Vec<(NodeId, Vec<u8>)>,
    pub(crate) findings: Vec<Finding>,
}

pub(crate) struct Swim {
    foca: Foca<Life, PostcardCodec, SmallRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Life>,
    timers: BTreeMap<(Moment, u64), Timer<Life>>,
    numbered: u64,
    alive: BTreeSet<NodeId>,
}

/// A node that stops is found by a probe within a second, suspected for one and a half, and heard of by all within half a
/// second more: down within four seconds, with room for a lost round.
fn config() -> Config {
    let periodic = |ms, nodes: usize| {
        Some(PeriodicParams {
            frequency: Duration::from_millis(ms),
            num_members: NonZeroUsize::MIN.saturating_add(nodes - 1),
        })
    };
    Config {
        probe_period: Duration::from_millis(600),
        probe_rtt: Duration::from_millis(250),
        num_indirect_probes: NonZeroUsize::MIN.saturating_add(2),
        max_transmissions: NonZeroU8::MIN.saturating_add(9),
        suspect_to_down_after: Duration::from_millis(1500),
        remove_down_after: Some(Duration::from_secs(3600)),
        max_packet_size: NonZeroUsize::MIN.saturating_add(PACKET_MAX - 1),
        notify_down_members: true,
        periodic_announce: periodic(30_000, 1),
        periodic_announce_to_down_members: periodic(10_000, 2),
        periodic_gossip: periodic(200, 3),
    }
}

impl Swim {
    /// `boot` is that of the node's advert. Renewals count in the lower bits, so a restart is always above them.
    pub(crate) fn new(node: NodeId, boot: u64, seed: u64) -> Self {
        let life = Life {
            node,
            life: boot << RENEWAL_BITS,
        };
        Self {
            foca: Foca::new(life, config(), SmallRng::seed_from_u64(seed), PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            numbered: 0,
            alive: BTreeSet::new(),
        }
    }

    /// True if others, or this node, find the node alive.
    pub(crate) fn alive(&self, node: NodeId) -> bool {
        self.alive.contains(&node)
    }

    /// A session with the node was proven: says hello.
    pub(crate) fn announce(&mut self, node: NodeId, now: Now) -> Swum {
        // The far end takes an announce to any of its lives.
        let _ = self
            .foca
            .announce(Life { node, life: 0 }, &mut self.runtime);
        self.drain(now)
    }

    /// A packet of a proven peer. `boot_of` tells who may be spoken of: the boot that a member's advert names.
    pub(crate) fn packet(
        &mut self,
        from: NodeId,
        packet: &[u8],
        boot_of: impl Fn(NodeId) -> Option<u64>,
        now: Now,
    ) -> Swum {
        let can_be =
            |life: &Life| boot_of(life.node).is_some_and(|boot| life.life >> RENEWAL_BITS <= boot);
        if let Some(clean) = clean(from, packet, can_be) {
            // Errors are about what the sender said; there is nothing to undo.
            let _ = self.foca.handle_data(&clean, &mut self.runtime);
        }
        self.drain(now)
    }

    /// The node is no member any more.
    pub(crate) fn forget(&mut self, node: NodeId, now: Now) -> Swum {
        let known: Vec<Life> = self
            .foca
            .iter_members()
            .map(|member| *member.id())
            .filter(|life| life.node == node)
            .collect();
        let _ = self
            .foca
            .apply_many(known.into_iter().map(Member::down), true, &mut self.runtime);
        self.drain(now)
    }

    /// Tells all that this node goes, so that nobody waits.
    pub(crate) fn leave(&mut self, now: Now) -> Swum {
        let _ = self.foca.leave_cluster(&mut self.runtime);
        self.drain(now)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.timers.first_key_value().map(|(&(at, _), _)| at)
    }

    pub(crate) fn handle_timeout(&mut self, now: Now) -> Swum {
        let mut due = Vec::new();
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now.moment
        {
            due.push(entry.remove());
        }
        // Late timers may come together: foca wants them in an order of its own then.
        due.sort();
        for timer in due {
            let _ = self.foca.handle_timer(timer, &mut self.runtime);
        }
        self.drain(now)
    }

    fn drain(&mut self, now: Now) -> Swum {
        let mut swum = Swum::default();
        while let Some((to, data)) = self.runtime.to_send() {
            swum.packets.push((to.node, data.to_vec()));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            let keeps_going = !matches!(
                timer,
                Timer::ChangeSuspectToDown { .. } | Timer::RemoveDown(_)
            );
            if keeps_going || self.timers.len() < TIMERS_MAX {
                let at = now
                    .moment
                    .plus_ms(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                self.numbered += 1;
                self.timers.insert((at, self.numbered), timer);
            }
        }
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(life) if self.alive.insert(life.node) => {
                    swum.findings.push(Finding::Alive(life.node))
                }
                OwnedNotification::MemberDown(life) if self.alive.remove(&life.node) => {
                    swum.findings.push(Finding::Dead(life.node))
                }
                _ => {}
            }
        }
        swum
    }
}

/// The packet without updates about lives that cannot be (no member, or later than its own advert says); nothing if it is
/// not by `from`, or speaks of such a life in its head.
fn clean(from: NodeId, mut packet: &[u8], can_be: impl Fn(&Life) -> bool) -> Option<Vec<u8>> {
    if packet.len() > PACKET_MAX {
        return None;
    }
    let mut codec = PostcardCodec;
    let header: Header<Life> = codec.decode_header(&mut packet).ok()?;
    let third = match &header.message {
        foca::Message::PingReq { target, .. } | foca::Message::IndirectAck { target, .. } => {
            Some(target)
        }
        foca::Message::IndirectPing { origin, .. } | foca::Message::ForwardedAck { origin, .. } => {
            Some(origin)
        }
        _ => None,
    };
    if header.src.node != from || third.is_some_and(|life| !can_be(life)) {
        return None;
    }
    let mut out = Vec::with_capacity(PACKET_MAX.min(packet.len() + 128));
    codec.encode_header(&header, &mut out).ok()?;
    let Some((count, mut rest)) = packet.split_first_chunk::<2>() else {
        return packet.is_empty().then_some(out);
    };
    let mut kept = 0u16;
    let mut members = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let member: Member<Life> = codec.decode_member(&mut rest).ok()?;
        // The first `u16::MAX` members at most, so the count holds.
        if can_be(member.id()) {
            codec.encode_member(&member, &mut members).ok()?;
            kept += 1;
        }
    }
    out.extend(kept.to_be_bytes());
    out.extend(members);
    rest.is_empty().then_some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::mesh::Mesh;
    use foca::{Message, State};

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn life(n: u8, boot: u64) -> Life {
        Life {
            node: node(n),
            life: boot << RENEWAL_BITS,
        }
    }

    fn packet(src: Life, dst: Life, message: Message<Life>, said: &[Member<Life>]) -> Vec<u8> {
        let mut out = Vec::new();
        let header = Header {
            src,
            src_incarnation: 0,
            dst,
            message,
        };
        PostcardCodec.encode_header(&header, &mut out).unwrap();
        out.extend(u16::try_from(said.len()).unwrap().to_be_bytes());
        for member in said {
            PostcardCodec.encode_member(member, &mut out).unwrap();
        }
        out
    }

    /// What `from` would send to tell `to` that `victim` is down.
    pub(crate) fn rumour(from: &Mesh, to: &Mesh, victim: NodeId) -> Vec<u8> {
        let (src, dst) = (*from.swim().foca.identity(), *to.swim().foca.identity());
        let known = to
            .swim()
            .foca
            .iter_members()
            .find(|m| m.id().node == victim)
            .unwrap();
        let down = Member::new(*known.id(), known.incarnation(), State::Down);
        packet(src, dst, Message::Gossip, &[down])
    }

    fn members(swim: &Swim) -> Vec<NodeId> {
        swim.foca
            .iter_membership_state()
            .map(|m| m.id().node)
            .collect()
    }

    /// Nodes 1 to 3 are members, in their fifth boot.
    fn boot_of(of: NodeId) -> Option<u64> {
        (1..=3).any(|n| of == node(n)).then_some(5)
    }

    #[test]
    fn invented_nodes_and_lives_are_taken_out_and_the_rest_is_heard() {
        let mut swim = Swim::new(node(1), 5, 1);
        let said = [
            Member::alive(life(9, 5)),
            Member::alive(life(3, 6)),
            Member::alive(life(3, 5)),
        ];
        let gossip = packet(life(2, 5), life(1, 5), Message::Gossip, &said);
        swim.packet(node(2), &gossip, boot_of, Now::default());
        assert_eq!(members(&swim), [node(2), node(3)]);
        assert!(swim.alive(node(3)) && !swim.alive(node(9)));
        let known: Vec<u64> = swim
            .foca
            .iter_members()
            .map(|m| m.id().life >> RENEWAL_BITS)
            .collect();
        assert_eq!(known, [5, 5]);
    }

    #[test]
    fn a_packet_in_the_name_of_another_is_dropped() {
        let mut swim = Swim::new(node(1), 5, 1);
        let forged = packet(life(3, 5), life(1, 5), Message::Gossip, &[]);
        swim.packet(node(2), &forged, boot_of, Now::default());
        assert!(members(&swim).is_empty());
        let through = Message::PingReq {
            target: life(9, 5),
            probe_number: 1,
        };
        let swum = swim.packet(
            node(2),
            &packet(life(2, 5), life(1, 5), through, &[]),
            boot_of,
            Now::default(),
        );
        assert!(swum.packets.is_empty() && members(&swim).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_harmless(bytes: Vec<u8>) {
            let mut swim = Swim::new(node(1), 5, 1);
            swim.packet(node(2), &bytes, boot_of, Now::default());
        }
    }
}
