//! Claims: of several nodes that say "this MAC, this address, this name is mine", one is believed.
//!
//! ```text
//!   signed records -> set / unset ----+
//!   sessions, SWIM -> set_reachable --+--> contest per (network, claim) --> holder, losers, notices
//! ```
//!
//! The rule, as seen from this node. "Incumbent" is the claim that this node saw first; "older" compares
//! (`since` floored by the claimant's membership, then NodeId).
//!
//! | when the challenger's claim comes in                                        | who holds        |
//! |-----------------------------------------------------------------------------|------------------|
//! | its node was reachable when the incumbent's claim was seen (the normal case) | the incumbent    |
//! | its node was unreachable then: two halves of a partition claimed apart       | the older        |
//! | both came in with the first sync after this node started                     | the older        |
//! | less than 2 s after the incumbent's: both claimed before they could hear     | the older        |
//! | any of the above, and the holder becomes unreachable                         | the best reachable |
//! | …and it comes back                                                           | as if never gone |
//! | one was given to a port, the other only seen behind one                      | the given one    |
//! | both were only seen (a virtual machine that moves)                           | the newer        |
//! | both are shared (a service address of several nodes)                         | this node, else the older |
//!
//! Honest nodes do not claim what they see taken, so in their histories "seen first" and "older" agree, and all nodes
//! come to one winner. A member that backdates gains nothing over a claim that stands, because it was reachable when
//! that claim was seen; that it once was away helps only against claims made meanwhile, and never against one older than
//! its own membership. Who loses is listed, and told once.
//!
//! Of shared claims nobody loses, and each node has a holder of its own: itself, or the oldest that can be reached. So what is
//! sent to a shared address stays where it is, if it can, and goes elsewhere when its holder is gone.
//!
//! Owns the contests and who was reachable when. Knows no records and no signatures.

use crate::ident::{Label, MacAddr, Moment, NodeId, Vni, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Claims seen this close to each other count as made at once.
const AT_ONCE_MS: u64 = 2_000;
/// Remembered times of reachability, a node. Older ones are joined, which favours incumbents.
const SPANS_MAX: usize = 16;

/// What only one node can have on a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// A MAC.
    Mac(MacAddr),
    /// An address.
    Ip(IpAddr),
    /// A name.
    Name(Label),
    /// The network itself, by VNI or name.
    Network(Label),
}

/// Two say it is theirs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conflict {
    /// The network.
    pub vni: Vni,
    /// What.
    pub claim: Claim,
    /// Who is believed.
    pub holder: NodeId,
    /// Who is not.
    pub other: NodeId,
}

/// One node's word.
#[derive(Clone, Debug)]
struct Held {
    node: NodeId,
    /// The endpoint it stands in.
    mac: MacAddr,
    /// As the node says, for telling whether it changed its word.
    said: WallTime,
    /// Floored by its membership.
    since: WallTime,
    /// In events of this node.
    seen: u64,
    at: Moment,
    first_sync: bool,
    /// Only seen behind a port, not given to it.
    roams: bool,
    /// Others may have it as well.
    shared: bool,
}

#[derive(Debug, Default)]
struct Contest {
    /// In the order in which they were seen.
    claims: Vec<Held>,
    holder: Option<(NodeId, MacAddr)>,
    losers: BTreeSet<NodeId>,
}

/// From which event to which one a node was reachable; the last span may be open.
#[derive(Debug, Default)]
struct Reach(Vec<(u64, u64)>);

impl Reach {
    fn now(&self) -> bool {
        self.0.last().is_some_and(|&(_, to)| to == u64::MAX)
    }

    fn at(&self, event: u64) -> bool {
        self.0.iter().any(|&(from, to)| (from..to).contains(&event))
    }

    fn set(&mut self, reachable: bool, event: u64) {
        match (self.0.last_mut(), reachable) {
            (Some((_, to)), false) if *to == u64::MAX => *to = event,
            (Some(&mut (_, u64::MAX)), true) | (_, false) => {}
            (_, true) => {
                self.0.push((event, u64::MAX));
                if self.0.len() > SPANS_MAX {
                    let (from, _) = self.0.remove(0);
                    if let Some(first) = self.0.first_mut() {
                        first.0 = from;
                    }
                }
            }
        }
    }
}

/// What deciding a contest came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Another node holds it, or its endpoint is another.
    pub(crate) moved: bool,
    /// Losers that were none before, and to whom.
    pub(crate) conflicts: Vec<Conflict>,
}

#[derive(Debug, Default)]
pub(crate) struct Claims {
    table: BTreeMap<Vni, BTreeMap<Claim, Contest>>,
    reach: BTreeMap<NodeId, Reach>,
    events: u64,
    settled: bool,
    /// This node.
    me: Option<NodeId>,
}

impl Claims {
    /// As node `me` sees them.
    pub(crate) fn of(me: NodeId) -> Self {
        Self {
            me: Some(me),
            ..Self::default()
        }
    }

    /// The first sync is over: from now on it counts who was first.
    pub(crate) fn settle(&mut self) {
        self.settled = true;
    }

    /// Notes a claim, or that it moved to another endpoint of the node. A claim whose `since` changed is a new one.
    pub(crate) fn set(
        &mut self,
        node: NodeId,
        vni: Vni,
        claim: &Claim,
        mac: MacAddr,
        said: WallTime,
        floor: WallTime,
        at: Moment,
        (roams, shared): (bool, bool),
    ) {
        let claims = &mut self
            .table
            .entry(vni)
            .or_default()
            .entry(claim.clone())
            .or_default()
            .claims;
        if let Some(held) = claims
            .iter_mut()
            .find(|held| held.node == node && held.said == said)
        {
            (held.mac, held.shared) = (mac, shared);
            return;
        }
        claims.retain(|held| held.node != node);
        self.events += 1;
        claims.push(Held {
            node,
            mac,
            said,
            since: said.max(floor),
            seen: self.events,
            at,
            first_sync: !self.settled,
            roams,
            shared,
        });
    }

    /// The node does not claim it any more.
    pub(crate) fn unset(&mut self, node: NodeId, vni: Vni, claim: &Claim) {
        if let Some(contest) = self
            .table
            .get_mut(&vni)
            .and_then(|table| table.get_mut(claim))
        {
            contest.claims.retain(|held| held.node != node);
        }
    }

    /// Notes whether a node is reachable; true if that is news. Its contests must be decided then.
    pub(crate) fn set_reachable(&mut self, node: NodeId, reachable: bool) -> bool {
        if self.reachable(node) == reachable {
            return false;
        }
        self.events += 1;
        self.reach
            .entry(node)
            .or_default()
            .set(reachable, self.events);
        true
    }

    pub(crate) fn reachable(&self, node: NodeId) -> bool {
        self.reach.get(&node).is_some_and(Reach::now)
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.reach.remove(&node);
    }

    /// Decides a contest anew.
    pub(crate) fn decide(&mut self, vni: Vni, claim: &Claim) -> Decision {
        let Some(table) = self.table.get_mut(&vni) else {
            return Decision::default();
        };
        let Some(contest) = table.get_mut(claim) else {
            return Decision::default();
        };
        let (reach, me) = (&self.reach, self.me);
        let mut running = contest
            .claims
            .iter()
            .filter(|held| reach.get(&held.node).is_some_and(Reach::now));
        let best = running.next().map(|first| {
            running.fold(first, |holder, c| {
                if beats(c, holder, reach, me) {
                    c
                } else {
                    holder
                }
            })
        });
        let is_shared = best.is_some_and(|held| held.shared);
        let holder = best.map(|held| (held.node, held.mac));
        let mut decision = Decision {
            moved: holder != contest.holder,
            conflicts: Vec::new(),
        };
        let losers: BTreeSet<NodeId> = contest
            .claims
            .iter()
            // What roams has left where it is not any more.
            .filter(|held| !(held.roams || is_shared && held.shared))
            .map(|held| held.node)
            .filter(|node| {
                holder.is_some_and(|(h, _)| h != *node) && reach.get(node).is_some_and(Reach::now)
            })
            .collect();
        if let Some((winner, _)) = holder {
            let news = losers.iter().filter(|node| !contest.losers.contains(*node));
            decision.conflicts = news
                .map(|&other| Conflict {
                    vni,
                    claim: claim.clone(),
                    holder: winner,
                    other,
                })
                .collect();
        }
        contest.losers = losers;
        contest.holder = holder;
        if contest.claims.is_empty() {
            table.remove(claim);
            if table.is_empty() {
                self.table.remove(&vni);
            }
        }
        decision
    }

    /// Would one more that shares it be no conflict?
    pub(crate) fn is_shared(&self, vni: Vni, claim: &Claim) -> bool {
        let contest = self.table.get(&vni).and_then(|table| table.get(claim));
        contest.is_some_and(|contest| contest.claims.iter().all(|held| held.shared))
    }

    /// Who holds it, and in which endpoint it stands.
    pub(crate) fn holder(&self, vni: Vni, claim: &Claim) -> Option<(NodeId, MacAddr)> {
        self.table.get(&vni)?.get(claim)?.holder
    }

    /// All that is held on a network, sorted: MACs, addresses, names.
    pub(crate) fn held(&self, vni: Vni) -> impl Iterator<Item = (&Claim, NodeId, MacAddr)> {
        let contests = self.table.get(&vni).into_iter().flatten();
        contests.filter_map(|(claim, contest)| contest.holder.map(|(node, mac)| (claim, node, mac)))
    }

    pub(crate) fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.table
            .iter()
            .flat_map(|(&vni, table)| table.iter().map(move |entry| (vni, entry)))
            .flat_map(|(vni, (claim, contest))| {
                contest.holder.into_iter().flat_map(move |(holder, _)| {
                    contest.losers.iter().map(move |&other| Conflict {
                        vni,
                        claim: claim.clone(),
                        holder,
                        other,
                    })
                })
            })
    }
}

/// True if `challenger`, seen after `holder`, takes over: the table at the head of this file.
fn beats(
    challenger: &Held,
    holder: &Held,
    reach: &BTreeMap<NodeId, Reach>,
    me: Option<NodeId>,
) -> bool {
    if challenger.shared && holder.shared {
        let rank = |held: &Held| (Some(held.node) != me, held.since, held.node);
        return rank(challenger) < rank(holder);
    }
    match (challenger.roams, holder.roams) {
        (true, true) => {
            return (challenger.since, challenger.node) > (holder.since, holder.node);
        }
        (true, false) => return false,
        (false, true) => return true,
        (false, false) => {}
    }
    let was_reachable = reach
        .get(&challenger.node)
        .is_some_and(|spans| spans.at(holder.seen));
    let by_age = !was_reachable
        || (holder.first_sync && challenger.first_sync)
        || challenger.at.ms_since(holder.at) < AT_ONCE_MS;
    by_age && (challenger.since, challenger.node) < (holder.since, holder.node)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn vni() -> Vni {
        Vni::new(7).unwrap()
    }

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const FLOOR: WallTime = WallTime(0);

    fn settled(nodes: &[u8]) -> Claims {
        let mut claims = Claims::default();
        claims.settle();
        for &n in nodes {
            claims.set_reachable(node(n), true);
        }
        claims
    }

    fn claim_at(claims: &mut Claims, n: u8, since: u64, ms: u64) -> Option<NodeId> {
        claims.set(
            node(n),
            vni(),
            &Claim::Mac(MAC),
            MAC,
            WallTime(since),
            FLOOR,
            Moment::default().plus_ms(ms),
            (false, false),
        );
        claims.decide(vni(), &Claim::Mac(MAC));
        claims.holder(vni(), &Claim::Mac(MAC)).map(|(node, _)| node)
    }

    fn reach(claims: &mut Claims, n: u8, reachable: bool) -> Option<NodeId> {
        claims.set_reachable(node(n), reachable);
        claims.decide(vni(), &Claim::Mac(MAC));
        claims.holder(vni(), &Claim::Mac(MAC)).map(|(node, _)| node)
    }

    #[test]
    fn a_member_that_backdates_cannot_take_what_stands() {
        let mut claims = settled(&[1, 2]);
        assert_eq!(claim_at(&mut claims, 1, 5_000, 5_000), Some(node(1)));
        assert_eq!(claim_at(&mut claims, 2, 1, 8_000), Some(node(1)));
        // Nor by saying it again with another date, nor by leaving and coming back.
        assert_eq!(claim_at(&mut claims, 2, 0, 9_000), Some(node(1)));
        reach(&mut claims, 2, false);
        assert_eq!(reach(&mut claims, 2, true), Some(node(1)));
        assert_eq!(claim_at(&mut claims, 2, 1, 20_000), Some(node(1)));
    }

    #[test]
    fn nor_while_the_holder_is_away_and_comes_back() {
        let mut claims = settled(&[1, 2]);
        claim_at(&mut claims, 1, 5_000, 5_000);
        assert_eq!(reach(&mut claims, 1, false), None);
        assert_eq!(claim_at(&mut claims, 2, 1, 60_000), Some(node(2)));
        assert_eq!(reach(&mut claims, 1, true), Some(node(1)));
    }

    #[test]
    fn of_two_claims_made_apart_the_older_holds() {
        let mut claims = settled(&[1]);
        assert_eq!(claim_at(&mut claims, 1, 5_000, 5_000), Some(node(1)));
        reach(&mut claims, 2, true);
        assert_eq!(claim_at(&mut claims, 2, 4_000, 60_000), Some(node(2)));
    }

    #[test]
    fn a_claim_is_never_older_than_its_membership() {
        let mut claims = settled(&[1]);
        claim_at(&mut claims, 1, 5_000, 5_000);
        reach(&mut claims, 2, true);
        claims.set(
            node(2),
            vni(),
            &Claim::Mac(MAC),
            MAC,
            WallTime(1),
            WallTime(6_000),
            Moment::default().plus_ms(60_000),
            (false, false),
        );
        claims.decide(vni(), &Claim::Mac(MAC));
        assert_eq!(claims.holder(vni(), &Claim::Mac(MAC)), Some((node(1), MAC)));
    }

    #[test]
    fn what_was_only_seen_is_where_it_was_seen_last_and_never_where_another_was_given_it() {
        let mut claims = settled(&[1, 2, 3]);
        let mut say = |n: u8, since: u64, roams: bool| {
            let (claim, at) = (Claim::Mac(MAC), Moment::default().plus_ms(since));
            claims.set(
                node(n),
                vni(),
                &claim,
                MAC,
                WallTime(since),
                FLOOR,
                at,
                (roams, false),
            );
            claims.decide(vni(), &claim);
            claims.holder(vni(), &claim).map(|(node, _)| node)
        };
        assert_eq!(say(1, 5_000, true), Some(node(1)));
        assert_eq!(say(2, 9_000, true), Some(node(2)));
        assert_eq!(say(1, 12_000, true), Some(node(1)));
        assert_eq!(say(3, 20_000, false), Some(node(3)));
        assert_eq!(say(2, 30_000, true), Some(node(3)));
    }

    #[test]
    fn a_conflict_is_told_once_and_listed_while_it_lasts() {
        let mut claims = settled(&[1, 2]);
        claim_at(&mut claims, 1, 1, 0);
        claims.set(
            node(2),
            vni(),
            &Claim::Mac(MAC),
            MAC,
            WallTime(9),
            FLOOR,
            Moment::default().plus_ms(9_000),
            (false, false),
        );
        assert_eq!(claims.decide(vni(), &Claim::Mac(MAC)).conflicts.len(), 1);
        assert_eq!(claims.decide(vni(), &Claim::Mac(MAC)).conflicts.len(), 0);
        assert_eq!(claims.conflicts().count(), 1);
        claims.unset(node(2), vni(), &Claim::Mac(MAC));
        claims.decide(vni(), &Claim::Mac(MAC));
        assert_eq!(claims.conflicts().count(), 0);
        claims.unset(node(1), vni(), &Claim::Mac(MAC));
        claims.decide(vni(), &Claim::Mac(MAC));
        assert!(claims.table.is_empty());
    }

    /// A mesh of honest nodes: who is in which part of the network, and what each has heard.
    struct World {
        views: Vec<Claims>,
        part: Vec<bool>,
        split: bool,
        /// When each claimed.
        claimed: Vec<Option<u64>>,
        ms: u64,
    }

    impl World {
        fn linked(&self, a: usize, b: usize) -> bool {
            a == b || !self.split || self.part[a] == self.part[b]
        }

        /// Everyone hears everyone it can reach.
        fn sync(&mut self) {
            for a in 0..self.views.len() {
                for b in 0..self.views.len() {
                    let linked = self.linked(a, b);
                    reach(&mut self.views[a], u8::try_from(b).unwrap(), linked);
                }
                for b in 0..self.views.len() {
                    if let Some(since) = self.claimed[b].filter(|_| self.linked(a, b)) {
                        claim_at(&mut self.views[a], u8::try_from(b).unwrap(), since, self.ms);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn honest_histories_with_partitions_end_with_one_holder_on_all_nodes(
            steps in prop::collection::vec((0usize..5, 0u8..4, prop::collection::vec(any::<bool>(), 5)), 1..40)
        ) {
            let mut world = World { views: (0..5).map(|_| settled(&[])).collect(), part: vec![false; 5], split: false, claimed: vec![None; 5], ms: 0 };
            world.sync();
            for (who, what, parts) in steps {
                world.ms += 10_000;
                match what {
                    // Claims if it sees it free.
                    0 | 1 => {
                        let free = world.views[who].holder(vni(), &Claim::Mac(MAC)).is_none();
                        if free && world.claimed[who].is_none() {
                            world.claimed[who] = Some(world.ms);
                        }
                    }
                    2 => (world.split, world.part) = (true, parts),
                    _ => world.split = false,
                }
                world.sync();
            }
            world.split = false;
            world.ms += 10_000;
            world.sync();
            let oldest = (0..5).filter_map(|n| world.claimed[n].map(|since| (since, n))).min();
            for view in &world.views {
                let holder = view.holder(vni(), &Claim::Mac(MAC)).map(|(node, _)| node);
                prop_assert_eq!(holder, oldest.map(|(_, n)| node(u8::try_from(n).unwrap())));
            }
        }
    }

    #[test]
    fn a_shared_address_is_this_nodes_own_else_that_of_the_oldest_in_reach() {
        let claim = Claim::Ip("10.0.0.53".parse().unwrap());
        let decided = |me: u8, gone: &[u8]| {
            let mut claims = Claims::of(node(me));
            claims.settle();
            for n in 1..=4 {
                claims.set_reachable(node(n), true);
            }
            for (n, since) in [(1, 30), (2, 20), (3, 40)] {
                let mac = MacAddr([2, 0, 0, 0, 0, n]);
                let (said, at) = (WallTime(since), Moment::default().plus_ms(since * 1000));
                claims.set(node(n), vni(), &claim, mac, said, FLOOR, at, (false, true));
                assert_eq!(claims.decide(vni(), &claim).conflicts, []);
            }
            assert!(claims.is_shared(vni(), &claim));
            for n in gone {
                claims.set_reachable(node(*n), false);
                claims.decide(vni(), &claim);
            }
            claims.holder(vni(), &claim).map(|(node, _)| node)
        };
        assert_eq!(decided(1, &[]), Some(node(1)));
        assert_eq!(decided(3, &[]), Some(node(3)));
        assert_eq!(decided(4, &[]), Some(node(2)));
        assert_eq!(decided(4, &[2]), Some(node(1)));
        assert_eq!(decided(4, &[1, 2, 3]), None);
    }

    #[test]
    fn who_shares_alone_is_in_conflict_as_ever() {
        let claim = Claim::Ip("10.0.0.53".parse().unwrap());
        let mut claims = settled(&[1, 2]);
        let mut set = |n: u8, shared| {
            let at = Moment::default().plus_ms(u64::from(n) * 10_000);
            let said = WallTime(n.into());
            claims.set(
                node(n),
                vni(),
                &claim,
                MAC,
                said,
                FLOOR,
                at,
                (false, shared),
            );
            (
                claims.decide(vni(), &claim).conflicts.len(),
                claims.is_shared(vni(), &claim),
            )
        };
        assert_eq!(set(1, false), (0, false));
        assert_eq!(set(2, true), (1, false));
    }
}
