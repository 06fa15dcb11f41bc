//! Address pools: which addresses of each subnet this node may hand out, and how ranges change hands.
//!
//! ```text
//!   author founds the network: owns all of the subnet
//!   node without a free address --PoolRequest(n)--> author, or whom it names, or any peer
//!                                                   giver: durable first: the range is not mine any more
//!                               <--PoolGrant(n)---  the same range again for the same n
//! ```
//!
//! Owns the ranges and the leases out of them. A lease needs no talk with anybody, so it also works in a partition. An
//! address is in the hands of one node at most: a giver forgets a range durably before it tells, and a receiver takes a
//! grant only for a request that it durably knows to be open. Refuses to lease what it does not own. Addresses that an
//! operator sets by hand are not its business, except that it does not lease the ones it is told to avoid.

mod free;
mod gifts;
mod reserved;

use crate::ident::{Moment, NodeId, Now, PortId, SessionId, Vni, WallTime};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::ports::no_address;
use crate::ranges::{Ranges, Span, address, leasable, number};
use crate::state::{Counter, StateError, StateKey, decode, forget, keep};
use crate::wire::control::{Message, PoolGrant, PoolRequest};
use crate::wire::record::NetworkDef;
use ipnet::IpNet;
use reserved::Reserved;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// A pool with fewer free addresses asks for more while the network has a port here.
const LOW: u128 = 4;
/// Reserve is given only out of at least this many free addresses, so that two nodes do not play ball with the last ones.
const SPARE: u128 = 8;
/// Ranges that one pool may fall into; one with more gives nothing away and asks for nothing.
const RANGES_MAX: usize = 1024;
/// Nodes that one pool remembers to have given to, and to have asked.
const NODES_MAX: usize = 4096;
/// Names of others in one answer, and taken from one.
const HINTS_MAX: usize = 8;
/// Addresses of one pool that are remembered to have been leased; beyond, the oldest counts as never used.
const USED_MAX: usize = 1024;
/// How long one node may take to answer.
const ANSWER_MS: u64 = 700;
/// Pause after everybody was asked, for somebody who waits.
const ROUND_MS: u64 = 1_000;
/// Pause after everybody was asked, for reserve.
const RESERVE_MS: u64 = 30_000;
/// How long an address is wanted after [`Pools::want`].
pub const WANT_MS: u64 = 5_000;

/// All pools of this node.
#[derive(Debug)]
pub struct Pools {
    me: NodeId,
    pools: BTreeMap<(Vni, u8), Pool>,
    /// Networks with a port here.
    active: BTreeSet<Vni>,
    peers: BTreeMap<NodeId, SessionId>,
    next_request: u64,
    /// Addresses kept for ports to come, whether owned here or not.
    reserved: BTreeMap<(Vni, IpAddr), Reserved>,
}

/// What is kept of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    subnet: IpNet,
    /// With `since`: which of several networks that had this VNI over time.
    author: NodeId,
    since: WallTime,
    owned: Ranges,
    /// The last grant to each node, to be repeated if it asks again.
    given: BTreeMap<NodeId, (u64, u128, u128)>,
    /// The request that is open at each node. It stays so until that node grants it, since a grant may be under way.
    asked: BTreeMap<NodeId, u64>,
}

#[derive(Debug)]
struct Pool {
    kept: Kept,
    /// By number. Kept over restarts by the ports' records.
    leases: BTreeMap<u128, PortId>,
    /// Numbers that were leased once, in the order in which they came back: others may still remember the MAC they had.
    used: VecDeque<u128>,
    hunt: Option<Hunt>,
    /// Nodes asked that have not answered since: they may have given us a range that we do not know of.
    unanswered: BTreeSet<NodeId>,
    /// When to look for reserve, or after unanswered nodes, next.
    look: Moment,
}

/// The search for addresses.
#[derive(Debug)]
struct Hunt {
    /// Somebody waits until then.
    urgent: Option<Moment>,
    /// What is of use to all who wait.
    within: Span,
    queue: VecDeque<NodeId>,
    asked: BTreeMap<NodeId, Asked>,
    waiting: Option<NodeId>,
    /// Everybody was asked, or nobody yet: a round begins at `next`.
    resting: bool,
    /// When to go on: the answer is late, or the next round begins.
    next: Moment,
}

/// How far one node got in a hunt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Silent,
    Refused,
}

/// How the search for an address goes, for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HuntView {
    /// The network's author, who owned all at first, is this node or can be asked.
    pub author_connected: bool,
    /// Asked without an answer.
    pub silent: Vec<NodeId>,
    /// Asked; they had nothing to spare.
    pub refused: Vec<NodeId>,
    /// Everybody in reach, the author too, had nothing to spare.
    pub exhausted: bool,
}

/// One pool, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// The network.
    pub vni: Vni,
    /// The subnet.
    pub subnet: IpNet,
    /// First and last address of each range owned here.
    pub owned: Vec<(IpAddr, IpAddr)>,
    /// How many of them are leased.
    pub leased: usize,
    /// How many are not, as a decimal number (it may exceed 2^64).
    pub free: String,
    /// Addresses are being asked for.
    pub asking: bool,
}

impl Pools {
    /// No pools yet.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            pools: BTreeMap::new(),
            active: BTreeSet::new(),
            peers: BTreeMap::new(),
            next_request: 1,
            reserved: BTreeMap::new(),
        }
    }

    /// Takes back one entry of the state ([`StateKey::Pool`], [`StateKey::Counter`]); before anything else is called.
    ///
    /// # Errors
    /// If the value is damaged. The pool then owns nothing here: better to lose addresses than to lease them twice.
    pub fn restore(&mut self, key: &StateKey, value: &[u8]) -> Result<(), StateError> {
        match *key {
            StateKey::Counter(Counter::NextPoolRequest) => self.next_request = decode(value)?,
            StateKey::Pool(vni, subnet) => {
                let kept: Kept = decode(value)?;
                let sound = leasable(&kept.subnet)
                    .is_some_and(|(first, last)| kept.owned.is_sound(first, last));
                if !sound {
                    let reason = format!("ranges outside of {}", kept.subnet);
                    return Err(StateError::Damaged {
                        shown: format!("pool of network {vni}"),
                        reason,
                    });
                }
                self.pools.insert((vni, subnet), Pool::new(kept));
            }
            StateKey::Reserved(vni, ip) => {
                self.reserved.insert((vni, ip), decode(value)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// The network exists and is this one. `founding`: it was defined by this node just now, which so owns all of its
    /// addresses; never for what comes from the state or from others.
    pub fn define(&mut self, def: &NetworkDef, founding: bool, out: &mut Outbox) {
        if def.removed {
            self.remove(def.vni, out);
            return;
        }
        let wanted: BTreeMap<u8, IpNet> = (0..=u8::MAX).zip(def.subnets.iter().copied()).collect();
        let same = |kept: &Kept, net: Option<&IpNet>| {
            net == Some(&kept.subnet) && (kept.author, kept.since) == (def.author, def.since)
        };
        let stale: Vec<u8> = of_network(&self.pools, def.vni)
            .filter(|(index, pool)| !same(&pool.kept, wanted.get(index)))
            .map(|(index, _)| index)
            .collect();
        for index in stale {
            self.pools.remove(&(def.vni, index));
            forget(out, &StateKey::Pool(def.vni, index));
        }
        for (index, subnet) in wanted {
            let key = (def.vni, index);
            if self.pools.contains_key(&key) {
                continue;
            }
            let mut pool = Pool::new(Kept {
                subnet,
                author: def.author,
                since: def.since,
                owned: Ranges::default(),
                given: BTreeMap::new(),
                asked: BTreeMap::new(),
            });
            if founding && def.author == self.me {
                if let Some((first, last)) = leasable(&subnet) {
                    pool.kept.owned.insert(first, last);
                }
                keep(out, &StateKey::Pool(def.vni, index), &pool.kept);
            }
            self.pools.insert(key, pool);
        }
        self.keep_reserved(def, out);
    }

    /// The network is gone.
    pub fn remove(&mut self, vni: Vni, out: &mut Outbox) {
        let gone: Vec<u8> = of_network(&self.pools, vni)
            .map(|(index, _)| index)
            .collect();
        for index in gone {
            self.pools.remove(&(vni, index));
            forget(out, &StateKey::Pool(vni, index));
        }
        self.active.remove(&vni);
        self.forget_reserved(vni, out);
    }

    /// A node was revoked: nothing is expected from it any more. What it was given stays noted, to be told: nobody can
    /// know whether all of it came back into other hands, so none of it is leased again (ADR 9).
    pub fn forget_node(&mut self, node: NodeId, out: &mut Outbox) {
        self.peers.remove(&node);
        for (&(vni, index), pool) in &mut self.pools {
            let known = pool.kept.asked.remove(&node).is_some();
            pool.unanswered.remove(&node);
            if known {
                keep(out, &StateKey::Pool(vni, index), &pool.kept);
            }
        }
    }

    /// A member can be talked to over this session.
    pub fn peer_up(&mut self, node: NodeId, session: SessionId) {
        self.peers.insert(node, session);
    }

    /// It cannot any more, if `session` is still the one in use.
    pub fn peer_down(&mut self, node: NodeId, session: SessionId) {
        if self.peers.get(&node) == Some(&session) {
            self.peers.remove(&node);
        }
    }

    /// Whether the network has a port here, and so wants some reserve.
    pub fn set_active(&mut self, vni: Vni, active: bool) {
        if active {
            self.active.insert(vni);
        } else {
            self.active.remove(&vni);
        }
    }

    /// Leases the lowest free address of `within` that is not to be avoided and was not leased before; when there is none,
    /// the one that came back first. Durable with the port's record, which the caller persists.
    pub fn lease(
        &mut self,
        vni: Vni,
        subnet: u8,
        port: PortId,
        within: Span,
        avoid: &dyn Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let reserved = &self.reserved;
        let avoid: &dyn Fn(IpAddr) -> bool = &|ip| reserved.contains_key(&(vni, ip)) || avoid(ip);
        let pool = self.pools.get_mut(&(vni, subnet))?;
        let found = pool.never_used(within, avoid);
        let (at, ip) = found.or_else(|| pool.used_first(within, avoid))?;
        pool.leases.insert(at, port);
        pool.used.retain(|&used| used != at);
        Some(ip)
    }

    /// Leases this very address, if it is owned here and free or already this port's: for a record read back from the
    /// state, and for an address set by hand.
    pub fn take(&mut self, vni: Vni, ip: IpAddr, port: PortId) -> bool {
        let Some((_, pool)) = self.pool_of_ip(vni, ip) else {
            return false;
        };
        let number = number(ip);
        pool.kept.owned.contains(number) && *pool.leases.entry(number).or_insert(port) == port
    }

    /// Gives a lease back; nothing if it is not this port's.
    pub fn release(&mut self, vni: Vni, ip: IpAddr, port: PortId) {
        let Some((_, pool)) = self.pool_of_ip(vni, ip) else {
            return;
        };
        let number = number(ip);
        if pool.leases.get(&number) == Some(&port) {
            pool.leases.remove(&number);
            pool.used.retain(|&used| used != number);
            pool.used.push_back(number);
            if pool.used.len() > USED_MAX {
                pool.used.pop_front();
            }
        }
    }

    fn pool_of_ip(&mut self, vni: Vni, ip: IpAddr) -> Option<(u8, &mut Pool)> {
        self.pools
            .range_mut((vni, 0)..=(vni, u8::MAX))
            .find(|(_, pool)| pool.kept.subnet.contains(&ip))
            .map(|(&(_, index), pool)| (index, pool))
    }

    /// Somebody waits for an address of `within`, for [`WANT_MS`] from now on: ask for it.
    pub fn want(&mut self, vni: Vni, subnet: u8, within: Span, now: Now, out: &mut Outbox) {
        let key = (vni, subnet);
        let Some(pool) = self.pools.get_mut(&key) else {
            return;
        };
        let until = now.moment.plus_ms(WANT_MS);
        match &mut pool.hunt {
            Some(hunt) if hunt.urgent.is_some() && hunt.within.join(within) == hunt.within => {
                hunt.urgent = Some(until);
                return;
            }
            // Who had nothing of the part may have some of the rest.
            Some(hunt) if hunt.urgent.is_some() => {
                let all = hunt.within.join(within);
                pool.hunt = Some(Hunt::start(Some(until), all, now.moment));
            }
            _ => pool.hunt = Some(Hunt::start(Some(until), within, now.moment)),
        }
        self.go_on(key, now, out);
    }

    /// Who was asked by the present hunt and did not answer, who had nothing, and whether nobody is left to ask.
    #[must_use]
    pub fn hunt(&self, vni: Vni, subnet: u8) -> HuntView {
        let mut view = HuntView::default();
        let Some(pool) = self.pools.get(&(vni, subnet)) else {
            return view;
        };
        view.author_connected =
            pool.kept.author == self.me || self.peers.contains_key(&pool.kept.author);
        let Some(hunt) = &pool.hunt else { return view };
        for (&node, &asked) in &hunt.asked {
            match asked {
                Asked::Silent => view.silent.push(node),
                Asked::Refused => view.refused.push(node),
            }
        }
        let refused = |node| hunt.asked.get(node) == Some(&Asked::Refused);
        view.exhausted = hunt.resting && view.author_connected && self.peers.keys().all(refused);
        view
    }

    /// Nodes that this one gave a range to and that are not connected, or were revoked, each with how many addresses the
    /// last one had: out of reach is at least so much.
    #[must_use]
    pub fn away(&self, vni: Vni, subnet: u8) -> Vec<(NodeId, u128)> {
        let pool = self.pools.get(&(vni, subnet));
        pool.into_iter()
            .flat_map(|pool| &pool.kept.given)
            .filter(|(node, _)| !self.peers.contains_key(*node))
            .map(|(&node, &(_, first, last))| (node, (last - first).saturating_add(1)))
            .collect()
    }

    /// Takes a member's answer. True if there are new addresses: who waits may try again.
    pub fn on_grant(
        &mut self,
        from: NodeId,
        grant: &PoolGrant,
        now: Now,
        out: &mut Outbox,
    ) -> bool {
        let key = (grant.vni, grant.subnet);
        let Some(pool) = self.pools.get_mut(&key) else {
            return false;
        };
        // Only an open request is answered: else a duplicate would bring back what has been given away since.
        if pool.kept.asked.get(&from) != Some(&grant.request) {
            return false;
        }
        pool.unanswered.remove(&from);
        let Some((first, last)) = grant.range else {
            if let Some(hunt) = &mut pool.hunt {
                hunt.asked.insert(from, Asked::Refused);
                let hints = grant
                    .ask
                    .iter()
                    .take(HINTS_MAX)
                    .filter(|n| !hunt.asked.contains_key(*n));
                for &hint in hints {
                    hunt.queue.retain(|n| *n != hint);
                    hunt.queue.push_front(hint);
                }
                if hunt.waiting == Some(from) {
                    hunt.waiting = None;
                    hunt.next = now.moment;
                }
            }
            self.go_on(key, now, out);
            return false;
        };
        let inside = leasable(&pool.kept.subnet)
            .is_some_and(|(f, l)| f <= first && first <= last && last <= l);
        if !inside || pool.kept.owned.overlaps(first, last) {
            let what = format!("pool grant of {} for network {}", from.short(), grant.vni);
            let reason = format!(
                "the range is outside of {} or owned here already",
                pool.kept.subnet
            );
            out.push(Output::Notice(Notice::Refused { what, reason }));
            return false;
        }
        pool.kept.owned.insert(first, last);
        pool.kept.asked.remove(&from);
        pool.hunt = None;
        pool.look = now.moment;
        keep(out, &StateKey::Pool(grant.vni, grant.subnet), &pool.kept);
        let range = match (
            address(&pool.kept.subnet, first),
            address(&pool.kept.subnet, last),
        ) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => String::new(),
        };
        out.push(Output::Notice(Notice::PoolGranted {
            vni: grant.vni,
            from,
            range,
        }));
        self.lease_reserved(grant.vni);
        true
    }

    /// When time has something to do here, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        self.pools
            .iter()
            .filter_map(|(&(vni, _), pool)| match &pool.hunt {
                Some(hunt) => Some((hunt.next, "pool: next node to ask")),
                None if self.is_looking(vni, pool) => Some((pool.look, "pool: look for reserve")),
                None => None,
            })
            .min()
    }

    fn is_looking(&self, vni: Vni, pool: &Pool) -> bool {
        let low =
            self.active.contains(&vni) && pool.free() < LOW && pool.kept.owned.count() < RANGES_MAX;
        (low && !self.peers.is_empty())
            || pool
                .unanswered
                .iter()
                .any(|node| self.peers.contains_key(node))
    }

    /// Does what time has to do.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        let due: Vec<(Vni, u8)> = self
            .pools
            .iter()
            .filter(|&(&(vni, _), pool)| match &pool.hunt {
                Some(hunt) => hunt.next <= now.moment,
                None => pool.look <= now.moment && self.is_looking(vni, pool),
            })
            .map(|(&key, _)| key)
            .collect();
        for key in due {
            let active = self.active.contains(&key.0);
            if let Some(pool) = self.pools.get_mut(&key)
                && pool.hunt.is_none()
            {
                pool.look = now.moment.plus_ms(RESERVE_MS);
                let mut hunt = Hunt::start(None, Span::ALL, now.moment);
                if !active || pool.free() >= LOW {
                    // Nothing is needed: only fetch what may have been given to us already.
                    hunt.resting = false;
                    hunt.queue = pool.unanswered.iter().copied().collect();
                }
                pool.hunt = Some(hunt);
            }
            self.go_on(key, now, out);
        }
    }

    /// Asks the next node of a hunt, if none is being waited for.
    fn go_on(&mut self, key: (Vni, u8), now: Now, out: &mut Outbox) {
        let Some(pool) = self.pools.get_mut(&key) else {
            return;
        };
        let Some(hunt) = &mut pool.hunt else { return };
        if hunt.urgent.is_some_and(|until| until <= now.moment) {
            // Nobody waits any more; an answer that comes later is still taken.
            pool.hunt = None;
            return;
        }
        if hunt.next > now.moment {
            return;
        }
        hunt.waiting = None;
        if hunt.resting {
            hunt.resting = false;
            hunt.asked.clear();
            hunt.queue = order(self.me, &pool.kept, &self.peers);
        }
        while let Some(node) = hunt.queue.pop_front() {
            let Some(&session) = self.peers.get(&node) else {
                continue;
            };
            if hunt.asked.contains_key(&node) {
                continue;
            }
            let number = match pool.kept.asked.get(&node) {
                Some(&number) => number,
                None if pool.kept.asked.len() >= NODES_MAX
                    || pool.kept.owned.count() >= RANGES_MAX =>
                {
                    continue;
                }
                None => {
                    let number = self.next_request;
                    self.next_request += 1;
                    pool.kept.asked.insert(node, number);
                    keep(
                        out,
                        &StateKey::Counter(Counter::NextPoolRequest),
                        &self.next_request,
                    );
                    keep(out, &StateKey::Pool(key.0, key.1), &pool.kept);
                    number
                }
            };
            hunt.asked.insert(node, Asked::Silent);
            hunt.waiting = Some(node);
            hunt.next = now.moment.plus_ms(ANSWER_MS);
            pool.unanswered.insert(node);
            let urgent = hunt.urgent.is_some();
            let Span { first, last } = hunt.within;
            let within = (hunt.within != Span::ALL).then_some((first, last));
            let request = PoolRequest {
                vni: key.0,
                subnet: key.1,
                request: number,
                urgent,
                within,
            };
            out.push(Output::Message {
                session,
                message: Message::PoolRequest(request),
            });
            return;
        }
        // Everybody was asked.
        if hunt.urgent.is_some() {
            hunt.resting = true;
            hunt.next = now.moment.plus_ms(ROUND_MS);
        } else {
            pool.hunt = None;
        }
    }

    /// All pools, for people.
    #[must_use]
    pub fn view(&self) -> Vec<PoolView> {
        let show = |(&(vni, _), pool): (&(Vni, u8), &Pool)| PoolView {
            vni,
            subnet: pool.kept.subnet,
            owned: pool
                .kept
                .owned
                .iter()
                .filter_map(|(f, l)| {
                    Some((
                        address(&pool.kept.subnet, f)?,
                        address(&pool.kept.subnet, l)?,
                    ))
                })
                .collect(),
            leased: pool.leases.len(),
            free: pool.free().to_string(),
            asking: pool.hunt.is_some(),
        };
        self.pools.iter().map(show).collect()
    }
}

impl Pool {
    fn new(kept: Kept) -> Self {
        let unanswered = kept.asked.keys().copied().collect();
        Self {
            kept,
            leases: BTreeMap::new(),
            used: VecDeque::new(),
            hunt: None,
            unanswered,
            look: Moment::default(),
        }
    }
}

impl Hunt {
    fn start(urgent: Option<Moment>, within: Span, now: Moment) -> Self {
        Self {
            urgent,
            within,
            queue: VecDeque::new(),
            asked: BTreeMap::new(),
            waiting: None,
            resting: true,
            next: now,
        }
    }
}

/// In which order to ask: the author, then those whose answer is missing, then everybody else from this node's place in
/// the ring on, so that not all nodes ask the same one.
fn order(me: NodeId, kept: &Kept, peers: &BTreeMap<NodeId, SessionId>) -> VecDeque<NodeId> {
    let mut queue: VecDeque<NodeId> = VecDeque::new();
    let ring = peers
        .range(me..)
        .chain(peers.range(..me))
        .map(|(&node, _)| node);
    for node in [kept.author]
        .into_iter()
        .chain(kept.asked.keys().copied())
        .chain(ring)
    {
        if node != me && peers.contains_key(&node) && !queue.contains(&node) {
            queue.push_back(node);
        }
    }
    queue
}

fn of_network(pools: &BTreeMap<(Vni, u8), Pool>, vni: Vni) -> impl Iterator<Item = (u8, &Pool)> {
    pools
        .range((vni, 0)..=(vni, u8::MAX))
        .map(|(&(_, index), pool)| (index, pool))
}

#[cfg(test)]
mod tests;
