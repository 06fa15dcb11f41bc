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
/// Lives beyond this are nobody's: a boot is of the second at which it began, and clocks are about right.
const AHEAD_S: u64 = 86_400;
/// Renewals after which being called dead once more is taken for the doing of a later life.
const RENEWALS_MAX: u64 = 3;
/// Between two boots that others make this node take: each is a new advert for the whole mesh, and whoever lies could ask for one with
/// every packet.
const RISE_MS: u64 = 10_000;
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
    /// Others know this node by a later life: of a copy of it, or of a state that was lost. From this boot on they would believe it.
    pub(crate) outlived: Option<u64>,
}

pub(crate) struct Swim {
    foca: Foca<Life, PostcardCodec, SmallRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Life>,
    timers: BTreeMap<(Moment, u64), Timer<Life>>,
    numbered: u64,
    alive: BTreeSet<NodeId>,
    /// When it last went on in another boot.
    risen: Option<Moment>,
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
            risen: None,
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
        let mut outlived = None;
        if let Some((header, clean)) = clean(from, packet, can_be) {
            outlived = self.outlived(&header, now);
            // One more renewal below the later life would be answered like those before, without an end.
            if !self.is_in_vain(&header) {
                // Errors are about what the sender said; there is nothing to undo.
                let _ = self.foca.handle_data(&clean, &mut self.runtime);
            }
        }
        Swum {
            outlived,
            ..self.drain(now)
        }
    }

    /// Is this node called dead once more, after it was renewed again and again?
    fn is_in_vain(&self, said: &Header<Life>) -> bool {
        let renewals = self.foca.identity().life & ((1 << RENEWAL_BITS) - 1);
        said.message == foca::Message::TurnUndead && renewals >= RENEWALS_MAX
    }

    /// The boot above a later life of this node that the sender knows, or must know: it calls one life after the other dead.
    fn outlived(&mut self, said: &Header<Life>, now: Now) -> Option<u64> {
        let (me, wall_s) = (*self.foca.identity(), now.wall.0 / 1000);
        let known = said.dst.life >> RENEWAL_BITS;
        let boot = if said.dst.node == me.node && said.dst.life > me.life {
            known.saturating_add(1)
        } else if self.is_in_vain(said) {
            wall_s.max((me.life >> RENEWAL_BITS).saturating_add(1))
        } else {
            return None;
        };
        let just_now = |at: Moment| now.moment.ms_since(at) < RISE_MS;
        if boot > wall_s.saturating_add(AHEAD_S) || self.risen.is_some_and(just_now) {
            return None;
        }
        self.risen = Some(now.moment);
        Some(boot)
    }

    /// Goes on in a life of this boot, if that is a later one. True if it was.
    pub(crate) fn rise(&mut self, boot: u64) -> bool {
        let me = *self.foca.identity();
        let risen = Life {
            life: boot << RENEWAL_BITS,
            ..me
        };
        boot > me.life >> RENEWAL_BITS
            && self.foca.change_identity(risen, &mut self.runtime).is_ok()
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

/// Its head, and the packet without updates about lives that cannot be (no member, or later than its own advert says); nothing if it is
/// not by `from`, or speaks of such a life in its head.
fn clean(
    from: NodeId,
    mut packet: &[u8],
    can_be: impl Fn(&Life) -> bool,
) -> Option<(Header<Life>, Vec<u8>)> {
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
        return packet.is_empty().then_some((header, out));
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
    rest.is_empty().then_some((header, out))
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
    fn a_later_life_that_others_know_is_gone_above_once_in_ten_seconds_and_never_a_day_ahead() {
        let mut swim = Swim::new(node(1), 5, 1);
        let at = |ms: u64| Now {
            moment: Moment(0).plus_ms(ms),
            wall: crate::ident::WallTime(9_000 + ms),
        };
        let mut heard = |boot: u64, ms: u64| {
            let said = packet(life(2, 5), life(1, boot), Message::Gossip, &[]);
            let outlived = swim.packet(node(2), &said, boot_of, at(ms)).outlived;
            let rose = outlived.map(|boot| swim.rise(boot));
            assert_ne!(rose, Some(false));
            outlived
        };
        assert_eq!(heard(5, 0), None);
        assert_eq!(heard(7, 1), Some(8));
        assert_eq!(heard(20, RISE_MS), None);
        assert_eq!(heard(20, RISE_MS + 1), Some(21));
        assert_eq!(heard(21, 3 * RISE_MS), None);
        assert_eq!(heard(AHEAD_S + 9 + 3 * RISE_MS / 1000, 3 * RISE_MS), None);
        assert_eq!(heard(u64::MAX >> RENEWAL_BITS, 3 * RISE_MS), None);
    }

    #[test]
    fn one_who_is_called_dead_again_and_again_takes_a_later_boot_and_answers_no_more_until_then() {
        let mut swim = Swim::new(node(1), 5, 1);
        let now = Now {
            moment: Moment(0).plus_ms(1),
            wall: crate::ident::WallTime(9_000),
        };
        let (mut answers, mut outlived) = (0, Vec::new());
        for _ in 0..20 {
            let me = *swim.foca.identity();
            let said = packet(life(2, 5), me, Message::TurnUndead, &[]);
            let swum = swim.packet(node(2), &said, boot_of, now);
            answers += usize::from(*swim.foca.identity() != me);
            outlived.extend(swum.outlived);
        }
        assert_eq!((answers, outlived), (3, vec![9]));
        assert!(swim.rise(9));
        assert_eq!(*swim.foca.identity(), life(1, 9));
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
