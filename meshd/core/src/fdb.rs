//! The forwarding table of one network: which MAC is behind which port of this node, or on which other node.
//!
//! ```text
//!   attach ------> own      never ages, never moves
//!   first frame -> learned  ages after 300 s without an upcall, or as policy says; moves between ports; at most 8 a port
//!   directory ---> remote   as advertised, until withdrawn; gives way to `own`, displaces `learned`; if it was only learned
//!                           there, it may be learned here next (a virtual machine that moves)
//! ```
//!
//! Owns where a MAC is. Refuses sources that belong to somebody else. Knows no frame: the switch tells it what it saw.

use crate::ident::{MacAddr, Moment, NodeId, PortId};
use crate::ruling::DropReason;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// A learned MAC without a frame for so long is forgotten, in ms (802.1D §7.9.2 recommends 300 s).
pub const AGE_MS: u64 = 300_000;
/// What policy may say instead, in ms: not so short that each frame is one of a new station, and a day at most.
pub const LIFE_MS: RangeInclusive<u32> = 1000..=86_400_000;
/// A MAC that was just learned or moved stays where it is for so long, in ms: two ports that use one MAC cannot make it
/// jump with every frame.
pub const HOLD_MS: u64 = 1000;

/// How big a table may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbLimits {
    /// Source MACs of a port, its own included.
    pub macs_per_port: usize,
    /// Learned MACs of the network.
    pub learned: usize,
    /// MACs on other nodes.
    pub remote: usize,
}

impl Default for FdbLimits {
    fn default() -> Self {
        Self {
            macs_per_port: 8,
            learned: 4096,
            remote: 65_536,
        }
    }
}

/// Where a MAC or an IP address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Behind a port of this node.
    Port(PortId),
    /// The node's own presence on the network, which has this port.
    Service(PortId),
    /// On another node.
    Node(NodeId),
}

/// How a MAC is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Given to the port.
    Own,
    /// Seen as a source.
    Learned {
        /// Last time that the switch saw it; cached rulings hide later frames, but not for longer than half of `life_ms`.
        seen: Moment,
        /// When it came to its port.
        since: Moment,
        /// It is forgotten so long after `seen`: [`AGE_MS`], or what policy said.
        life_ms: u64,
    },
    /// Advertised.
    Remote,
}

/// What is known of a source that may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The port's own.
    Own,
    /// Learned before, at this port.
    Known,
    /// Not seen yet; there is room for it.
    New,
    /// Learned before, at another port.
    Moved {
        /// Where it was.
        from: PortId,
    },
    /// Learned by another node, and not given to a port there.
    Roamed {
        /// Where it was.
        from: NodeId,
    },
}

/// Why a source may not send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRefused {
    /// For the counters.
    pub reason: DropReason,
    /// For people.
    pub why: String,
    /// Holds no longer than this by itself.
    pub until: Option<Moment>,
}

/// What an advertised table changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteChange {
    /// A MAC is not where it was: gone, on another node, or a learned one that is another node's now.
    pub moved: bool,
    /// MACs that were nowhere.
    pub new: Vec<MacAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Local {
    place: Place,
    how: How,
}

/// The table of one network.
#[derive(Debug)]
pub struct Fdb {
    limits: FdbLimits,
    local: BTreeMap<MacAddr, Local>,
    /// Learned MACs by the time at which they are forgotten.
    ages: BTreeSet<(Moment, MacAddr)>,
    remote: BTreeMap<MacAddr, NodeId>,
    /// Those of them that may move, and since when they are where they are.
    roaming: BTreeMap<MacAddr, Moment>,
    /// Ports that may have more MACs than others, or fewer.
    rooms: BTreeMap<PortId, usize>,
    /// Counts changes of the learned MACs.
    changes: u64,
}

fn port_of(place: Place) -> Option<PortId> {
    match place {
        Place::Port(port) | Place::Service(port) => Some(port),
        Place::Node(_) => None,
    }
}

impl Fdb {
    /// An empty table.
    #[must_use]
    pub fn new(limits: FdbLimits) -> Self {
        Self {
            limits,
            local: BTreeMap::new(),
            ages: BTreeSet::new(),
            remote: BTreeMap::new(),
            roaming: BTreeMap::new(),
            rooms: BTreeMap::new(),
            changes: 0,
        }
    }

    /// Where `mac` is; what is here comes before what another node says to have.
    #[must_use]
    pub fn lookup(&self, mac: MacAddr) -> Option<Place> {
        self.local
            .get(&mac)
            .map(|l| l.place)
            .or_else(|| self.remote.get(&mac).map(|&node| Place::Node(node)))
    }

    /// How `mac` is known here; `None` if it is not behind a port of this node.
    #[must_use]
    pub fn how(&self, mac: MacAddr) -> Option<How> {
        self.local.get(&mac).map(|l| l.how)
    }

    /// All entries, by MAC; a MAC that two claim has two.
    pub fn rows(&self) -> impl Iterator<Item = (MacAddr, Place, How)> + '_ {
        let local = self.local.iter().map(|(&mac, l)| (mac, l.place, l.how));
        local.chain(
            self.remote
                .iter()
                .map(|(&mac, &node)| (mac, Place::Node(node), How::Remote)),
        )
    }

    /// Learned MACs and their ports.
    pub fn learned(&self) -> impl Iterator<Item = (MacAddr, PortId)> + '_ {
        self.local
            .iter()
            .filter(|(_, l)| matches!(l.how, How::Learned { .. }))
            .filter_map(|(&mac, l)| Some((mac, port_of(l.place)?)))
    }

    /// Grows whenever [`Self::learned`] changes.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Gives `mac` to a port, or to the service. A learned entry for it goes.
    ///
    /// # Errors
    /// The port that has it already.
    pub fn add_own(&mut self, mac: MacAddr, place: Place) -> Result<(), PortId> {
        if let Some(Local {
            place: old,
            how: How::Own,
        }) = self.local.get(&mac)
            && *old != place
        {
            return Err(port_of(*old).unwrap_or_default());
        }
        self.forget(mac);
        self.local.insert(
            mac,
            Local {
                place,
                how: How::Own,
            },
        );
        Ok(())
    }

    /// So many source MACs a port may have, its own included, until it is removed.
    pub fn set_room(&mut self, port: PortId, macs: usize) {
        self.rooms.insert(port, macs);
    }

    /// Forgets what was learned behind a port, so that it can be learned where it is now.
    pub fn forget_learned(&mut self, port: PortId) {
        let learned: Vec<MacAddr> = self
            .learned()
            .filter_map(|(mac, at)| (at == port).then_some(mac))
            .collect();
        for mac in learned {
            self.forget(mac);
        }
    }

    /// Forgets a port and all MACs behind it.
    pub fn remove_port(&mut self, port: PortId) {
        self.rooms.remove(&port);
        let gone: Vec<MacAddr> = self
            .local
            .iter()
            .filter(|(_, l)| port_of(l.place) == Some(port))
            .map(|(&mac, _)| mac)
            .collect();
        for mac in gone {
            self.forget(mac);
        }
    }

    /// May `mac` send from `port`? Changes nothing.
    ///
    /// # Errors
    /// [`DropReason::SpoofedSource`] if it is somebody else's, [`DropReason::PortMacsFull`] or [`DropReason::FdbFull`] if
    /// there is no room to learn it.
    pub fn check_source(
        &self,
        mac: MacAddr,
        port: PortId,
        now: Moment,
    ) -> Result<Source, SourceRefused> {
        let refused = |reason, why, until| Err(SourceRefused { reason, why, until });
        let moved = match self.local.get(&mac) {
            Some(Local { place, how }) if port_of(*place) == Some(port) => {
                return Ok(if *how == How::Own {
                    Source::Own
                } else {
                    Source::Known
                });
            }
            Some(Local {
                place: Place::Service(_),
                ..
            }) => {
                return refused(
                    DropReason::SpoofedSource,
                    format!("{mac} is the MAC of the node's own service"),
                    None,
                );
            }
            Some(Local {
                place,
                how: How::Learned { since, .. },
            }) if since.plus_ms(HOLD_MS) > now => {
                let from = port_of(*place).unwrap_or_default();
                let why = format!("{mac} came to port {from} less than {HOLD_MS} ms ago");
                return refused(DropReason::SpoofedSource, why, Some(since.plus_ms(HOLD_MS)));
            }
            Some(Local {
                place,
                how: How::Learned { .. },
            }) => port_of(*place),
            Some(Local { place, .. }) => {
                let why = format!(
                    "{mac} is the MAC of port {}",
                    port_of(*place).unwrap_or_default()
                );
                return refused(DropReason::SpoofedSource, why, None);
            }
            None => None,
        };
        let mut roamed = None;
        match (self.remote.get(&mac), self.roaming.get(&mac)) {
            (Some(node), Some(since)) if since.plus_ms(HOLD_MS) > now => {
                let why = format!(
                    "{mac} came to node {} less than {HOLD_MS} ms ago",
                    node.short()
                );
                return refused(DropReason::SpoofedSource, why, Some(since.plus_ms(HOLD_MS)));
            }
            (Some(node), Some(_)) => roamed = Some(*node),
            (Some(node), None) => {
                return refused(
                    DropReason::SpoofedSource,
                    format!("{mac} belongs to an endpoint of node {}", node.short()),
                    None,
                );
            }
            (None, _) => {}
        }
        // The table is small, and this is asked only about MACs that are new to the port.
        let held = self
            .local
            .values()
            .filter(|l| port_of(l.place) == Some(port))
            .count();
        let room = self.rooms.get(&port).copied();
        if held >= room.unwrap_or(self.limits.macs_per_port) {
            let why =
                format!("port {port} sends from {held} MACs already; {mac} would be one more");
            return refused(DropReason::PortMacsFull, why, None);
        }
        match (moved, roamed) {
            (Some(from), _) => Ok(Source::Moved { from }),
            (None, Some(from)) if self.ages.len() < self.limits.learned => {
                Ok(Source::Roamed { from })
            }
            (None, _) if self.ages.len() >= self.limits.learned => refused(
                DropReason::FdbFull,
                format!("{} MACs are learned on the network", self.ages.len()),
                None,
            ),
            (None, _) => Ok(Source::New),
        }
    }

    /// Learns that `mac` lives behind `port`, or that it still does. For a source that [`Self::check_source`] let pass.
    pub fn learn(&mut self, mac: MacAddr, port: PortId, now: Moment) {
        let before = match self.local.get(&mac) {
            Some(Local { how: How::Own, .. }) => return,
            Some(Local {
                place,
                how:
                    How::Learned {
                        seen,
                        since,
                        life_ms,
                    },
            }) => {
                self.ages.remove(&(seen.plus_ms(*life_ms), mac));
                (*place == Place::Port(port)).then_some((*since, *life_ms))
            }
            _ => None,
        };
        if before.is_none() {
            self.changes += 1;
        }
        let (since, life_ms) = before.unwrap_or((now, AGE_MS));
        self.ages.insert((now.plus_ms(life_ms), mac));
        self.local.insert(
            mac,
            Local {
                place: Place::Port(port),
                how: How::Learned {
                    seen: now,
                    since,
                    life_ms,
                },
            },
        );
    }

    /// A MAC that was learned at `port` is forgotten so many ms after it was last seen, until it moves. Of another MAC it
    /// says nothing.
    pub fn keep_for(&mut self, mac: MacAddr, port: PortId, life_ms: u64) {
        if let Some(Local {
            place,
            how: How::Learned {
                seen, life_ms: old, ..
            },
        }) = self.local.get_mut(&mac)
            && *place == Place::Port(port)
        {
            self.ages.remove(&(seen.plus_ms(*old), mac));
            *old = life_ms;
            self.ages.insert((seen.plus_ms(life_ms), mac));
        }
    }

    /// Learned MACs age again as if nobody had said for how long.
    pub fn keep_as_usual(&mut self) {
        self.ages.clear();
        for (&mac, entry) in &mut self.local {
            if let How::Learned { seen, life_ms, .. } = &mut entry.how {
                *life_ms = AGE_MS;
                self.ages.insert((seen.plus_ms(AGE_MS), mac));
            }
        }
    }

    /// Replaces what the directory says. What is beyond the limit is left out, highest MACs first. A learned MAC that is
    /// in it is forgotten here: the directory knows who was first.
    pub fn set_remote(&mut self, mut remote: BTreeMap<MacAddr, NodeId>) -> RemoteChange {
        while remote.len() > self.limits.remote {
            remote.pop_last();
        }
        let mut change = RemoteChange::default();
        for (&mac, &node) in &remote {
            match self.lookup(mac) {
                Some(Place::Node(old)) => change.moved |= old != node,
                Some(_) => {
                    if matches!(
                        self.local.get(&mac),
                        Some(Local {
                            how: How::Learned { .. },
                            ..
                        })
                    ) {
                        self.forget(mac);
                        change.moved = true;
                    }
                }
                None => change.new.push(mac),
            }
        }
        change.moved |= self.remote.keys().any(|mac| !remote.contains_key(mac));
        self.remote = remote;
        change
    }

    /// Which MACs of other nodes may move here, and since when they are there.
    pub fn set_roaming(&mut self, roaming: BTreeMap<MacAddr, Moment>) {
        self.roaming = roaming;
        self.roaming.retain(|mac, _| self.remote.contains_key(mac));
    }

    /// Forgets learned MACs that were quiet for too long; true if there were any.
    pub fn age_out(&mut self, now: Moment) -> bool {
        let mut any = false;
        while let Some(&(due, mac)) = self.ages.first() {
            if due > now {
                break;
            }
            self.forget(mac);
            any = true;
        }
        any
    }

    /// When the next one is due.
    #[must_use]
    pub fn next_age(&self) -> Option<Moment> {
        self.ages.first().map(|(due, _)| *due)
    }

    fn forget(&mut self, mac: MacAddr) {
        if let Some(Local {
            how: How::Learned { seen, life_ms, .. },
            ..
        }) = self.local.remove(&mac)
        {
            self.ages.remove(&(seen.plus_ms(life_ms), mac));
            self.changes += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn at(ms: u64) -> Moment {
        Moment(0).plus_ms(ms)
    }

    /// What the switch does with a frame's source.
    fn sees(fdb: &mut Fdb, mac: MacAddr, port: PortId, now: Moment) -> Result<Source, DropReason> {
        let source = fdb.check_source(mac, port, now).map_err(|r| r.reason)?;
        fdb.learn(mac, port, now);
        Ok(source)
    }

    #[test]
    fn a_learned_mac_is_found_until_it_was_quiet_for_300_seconds() {
        let mut fdb = Fdb::new(FdbLimits::default());
        assert_eq!(sees(&mut fdb, mac(9), A, at(0)), Ok(Source::New));
        assert_eq!(sees(&mut fdb, mac(9), A, at(200_000)), Ok(Source::Known));
        assert!(!fdb.age_out(at(499_999)));
        assert_eq!(fdb.lookup(mac(9)), Some(Place::Port(A)));
        assert_eq!(fdb.next_age(), Some(at(500_000)));
        assert!(fdb.age_out(at(500_000)));
        assert_eq!(fdb.lookup(mac(9)), None);
    }

    #[test]
    fn a_mac_lives_as_long_as_policy_says_and_as_usual_once_it_moves_or_nobody_says_so() {
        let mut fdb = Fdb::new(FdbLimits::default());
        sees(&mut fdb, mac(9), A, at(0)).unwrap();
        fdb.keep_for(mac(9), B, 10);
        assert_eq!(fdb.next_age(), Some(at(AGE_MS)), "it is not at that port");
        fdb.keep_for(mac(9), A, 5000);
        sees(&mut fdb, mac(9), A, at(4000)).unwrap();
        assert_eq!(fdb.next_age(), Some(at(9000)));
        assert!(!fdb.age_out(at(8999)));
        sees(&mut fdb, mac(9), B, at(8999)).unwrap();
        assert_eq!(fdb.next_age(), Some(at(8999 + AGE_MS)), "it has moved");
        fdb.keep_for(mac(9), B, 5000);
        fdb.keep_as_usual();
        assert!(!fdb.age_out(at(8998 + AGE_MS)));
        assert!(fdb.age_out(at(8999 + AGE_MS)));
        assert_eq!(fdb.lookup(mac(9)), None);
    }

    #[test]
    fn a_moved_mac_is_not_sent_to_its_old_port_and_does_not_jump_with_every_frame() {
        let mut fdb = Fdb::new(FdbLimits::default());
        assert_eq!(sees(&mut fdb, mac(9), A, at(0)), Ok(Source::New));
        assert_eq!(
            sees(&mut fdb, mac(9), B, at(HOLD_MS - 1)),
            Err(DropReason::SpoofedSource)
        );
        assert_eq!(
            sees(&mut fdb, mac(9), B, at(HOLD_MS)),
            Ok(Source::Moved { from: A })
        );
        assert_eq!(fdb.lookup(mac(9)), Some(Place::Port(B)));
        assert_eq!(
            sees(&mut fdb, mac(9), A, at(HOLD_MS + 1)),
            Err(DropReason::SpoofedSource)
        );
    }

    #[test]
    fn a_ports_own_mac_never_moves_never_ages_and_is_nobody_elses_source() {
        let mut fdb = Fdb::new(FdbLimits::default());
        fdb.add_own(mac(1), Place::Port(A)).unwrap();
        assert_eq!(fdb.add_own(mac(1), Place::Port(B)), Err(A));
        assert_eq!(
            sees(&mut fdb, mac(1), B, at(999_999)),
            Err(DropReason::SpoofedSource)
        );
        assert_eq!(sees(&mut fdb, mac(1), A, at(999_999)), Ok(Source::Own));
        assert!(!fdb.age_out(at(9_999_999)));
        fdb.set_remote(BTreeMap::from([(mac(1), NodeId([7; 32]))]));
        assert_eq!(fdb.lookup(mac(1)), Some(Place::Port(A)));
    }

    #[test]
    fn a_port_has_at_most_eight_macs_and_the_ninth_is_refused_without_change() {
        let mut fdb = Fdb::new(FdbLimits::default());
        fdb.add_own(mac(0), Place::Port(A)).unwrap();
        for last in 1..8 {
            assert_eq!(sees(&mut fdb, mac(last), A, at(0)), Ok(Source::New));
        }
        assert_eq!(
            sees(&mut fdb, mac(8), A, at(0)),
            Err(DropReason::PortMacsFull)
        );
        assert_eq!(fdb.rows().count(), 8);
        assert_eq!(sees(&mut fdb, mac(8), B, at(0)), Ok(Source::New));
    }

    #[test]
    fn a_mac_of_another_node_is_no_source_here_and_a_learned_one_gives_way_to_it() {
        let mut fdb = Fdb::new(FdbLimits::default());
        let node = NodeId([7; 32]);
        let change = fdb.set_remote(BTreeMap::from([(mac(1), node)]));
        assert_eq!(
            change,
            RemoteChange {
                moved: false,
                new: vec![mac(1)]
            }
        );
        assert_eq!(
            sees(&mut fdb, mac(1), A, at(0)),
            Err(DropReason::SpoofedSource)
        );
        sees(&mut fdb, mac(2), A, at(0)).unwrap();
        assert!(
            fdb.set_remote(BTreeMap::from([(mac(1), node), (mac(2), node)]))
                .moved
        );
        assert_eq!(fdb.lookup(mac(2)), Some(Place::Node(node)));
        assert!(fdb.set_remote(BTreeMap::new()).moved);
        assert_eq!(fdb.lookup(mac(1)), None);
    }

    #[derive(Clone, Debug)]
    enum Op {
        See(u8, u8),
        Age,
        Remote(Vec<u8>),
        RemovePort(u8),
        AddOwn(u8, u8),
        Keep(u8, u8, u32),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (any::<u8>(), 0..6u8).prop_map(|(m, p)| Op::See(m, p)),
            1 => Just(Op::Age),
            1 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Op::Remote),
            1 => (0..6u8).prop_map(Op::RemovePort),
            1 => (any::<u8>(), 0..6u8).prop_map(|(m, p)| Op::AddOwn(m, p)),
            2 => (any::<u8>(), 0..6u8, LIFE_MS).prop_map(|(m, p, ms)| Op::Keep(m, p, ms)),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_of_events_exceeds_the_bounds_or_loses_an_own_mac(ops in proptest::collection::vec((any_op(), 0..100_000u64), 1..200)) {
            let limits = FdbLimits { macs_per_port: 3, learned: 10, remote: 8 };
            let mut fdb = Fdb::new(limits);
            let mut own = BTreeMap::new();
            let mut now = at(0);
            for (op, ms) in ops {
                now = now.plus_ms(ms);
                match op {
                    Op::See(m, p) => drop(sees(&mut fdb, mac(m), PortId(p.into()), now)),
                    Op::Keep(m, p, ms) => fdb.keep_for(mac(m), PortId(p.into()), ms.into()),
                    Op::Age => drop(fdb.age_out(now)),
                    Op::Remote(macs) => drop(fdb.set_remote(macs.into_iter().map(|m| (mac(m), NodeId([m; 32]))).collect())),
                    Op::RemovePort(p) => {
                        fdb.remove_port(PortId(p.into()));
                        own.retain(|_, port| *port != p);
                    }
                    Op::AddOwn(m, p) => {
                        if !own.values().any(|&port| port == p) && fdb.add_own(mac(m), Place::Port(PortId(p.into()))).is_ok() {
                            own.insert(m, p);
                        }
                    }
                }
                let learned: Vec<_> = fdb.learned().collect();
                prop_assert!(learned.len() <= limits.learned);
                prop_assert_eq!(learned.len(), fdb.ages.len());
                prop_assert!(fdb.remote.len() <= limits.remote);
                for port in 0..6u8 {
                    let held = learned.iter().filter(|(_, p)| *p == PortId(port.into())).count();
                    prop_assert!(held <= limits.macs_per_port);
                }
                for (&m, &p) in &own {
                    prop_assert_eq!(fdb.lookup(mac(m)), Some(Place::Port(PortId(p.into()))));
                }
            }
        }
    }
}
