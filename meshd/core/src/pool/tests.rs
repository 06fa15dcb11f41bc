//! Five nodes, their messages lost, doubled and late, restarts and partitions: no address is ever in two hands.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::state::StateKey;
use proptest::prelude::*;

const NODES: usize = 5;

fn node(at: usize) -> NodeId {
    NodeId([at as u8 + 1; 32])
}

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn network(subnet: &str) -> NetworkDef {
    NetworkDef {
        author: node(0),
        serial: 1,
        since: WallTime(1),
        vni: vni(),
        name: "blue".parse().unwrap(),
        subnets: vec![subnet.parse().unwrap()],
        mtu: 1450,
        removed: false,
    }
}

struct Host {
    pools: Pools,
    /// What a restart finds.
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    /// As the ports' records keep them.
    leases: BTreeMap<IpAddr, PortId>,
}

struct World {
    def: NetworkDef,
    hosts: Vec<Host>,
    flying: Vec<(usize, usize, Message)>,
    cut: BTreeSet<(usize, usize)>,
    now: Now,
    next_port: u32,
}

#[derive(Clone, Debug)]
enum Step {
    Lease(usize),
    Release(usize, usize),
    Deliver(usize),
    Lose(usize),
    Double(usize),
    Restart(usize),
    Cut(usize, usize),
    Heal,
    Wait(u64),
}

fn a_step() -> impl Strategy<Value = Step> {
    let host = || 0..NODES;
    prop_oneof![
        8 => host().prop_map(Step::Lease),
        3 => (host(), any::<usize>()).prop_map(|(n, i)| Step::Release(n, i)),
        12 => any::<usize>().prop_map(Step::Deliver),
        2 => any::<usize>().prop_map(Step::Lose),
        2 => any::<usize>().prop_map(Step::Double),
        2 => host().prop_map(Step::Restart),
        1 => (host(), host()).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => Just(Step::Heal),
        4 => (1u64..40_000).prop_map(Step::Wait),
    ]
}

impl World {
    fn new(subnet: &str) -> Self {
        let hosts = (0..NODES)
            .map(|at| Host {
                pools: Pools::new(node(at)),
                store: BTreeMap::new(),
                leases: BTreeMap::new(),
            })
            .collect();
        let mut world = Self {
            def: network(subnet),
            hosts,
            flying: Vec::new(),
            cut: BTreeSet::new(),
            now: Now::default(),
            next_port: 1,
        };
        for at in 0..NODES {
            let mut out = Outbox::default();
            let def = world.def.clone();
            world.hosts[at].pools.define(&def, at == 0, &mut out);
            world.drain(at, out);
            world.connect(at);
        }
        world
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        a != b && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn connect(&mut self, at: usize) {
        for other in 0..NODES {
            if self.connected(at, other) {
                self.hosts[at]
                    .pools
                    .peer_up(node(other), SessionId(other as u64));
                self.hosts[other]
                    .pools
                    .peer_up(node(at), SessionId(at as u64));
            }
        }
    }

    fn drain(&mut self, at: usize, mut out: Outbox) {
        while let Some(output) = out.pop() {
            match output {
                Output::Persist {
                    key,
                    value: Some(value),
                } => drop(self.hosts[at].store.insert(key, value)),
                Output::Persist { key, value: None } => drop(self.hosts[at].store.remove(&key)),
                Output::Message { session, message } => {
                    let to = session.0 as usize;
                    if self.connected(at, to) {
                        self.flying.push((at, to, message));
                    }
                }
                Output::Notice(Notice::Refused { what, reason }) => panic!("{what}: {reason}"),
                _ => {}
            }
        }
    }

    fn try_lease(&mut self, at: usize, within: Span) -> bool {
        let port = PortId(self.next_port);
        let pools = &mut self.hosts[at].pools;
        let Some(ip) = pools.lease(vni(), 0, port, within, &|_| false) else {
            return false;
        };
        self.next_port += 1;
        self.hosts[at].leases.insert(ip, port);
        true
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Lease(at) => {
                self.hosts[at].pools.set_active(vni(), true);
                if !self.try_lease(at, Span::ALL) {
                    let mut out = Outbox::default();
                    self.hosts[at]
                        .pools
                        .want(vni(), 0, Span::ALL, self.now, &mut out);
                    self.drain(at, out);
                }
            }
            Step::Release(at, index) => {
                let count = self.hosts[at].leases.len();
                if count > 0 {
                    let (&ip, &port) = self.hosts[at].leases.iter().nth(index % count).unwrap();
                    self.hosts[at].leases.remove(&ip);
                    self.hosts[at].pools.release(vni(), ip, port);
                }
            }
            Step::Deliver(index) if !self.flying.is_empty() => {
                let (from, to, message) = self.flying.remove(index % self.flying.len());
                self.deliver(from, to, message);
            }
            Step::Lose(index) if !self.flying.is_empty() => {
                drop(self.flying.remove(index % self.flying.len()))
            }
            Step::Double(index) if !self.flying.is_empty() => {
                let copy = self.flying[index % self.flying.len()].clone();
                self.flying.push(copy);
            }
            Step::Deliver(_) | Step::Lose(_) | Step::Double(_) => {}
            Step::Restart(at) => self.restart(at),
            Step::Cut(a, b) => {
                if a != b {
                    self.cut.insert((a.min(b), a.max(b)));
                    self.hosts[a].pools.peer_down(node(b), SessionId(b as u64));
                    self.hosts[b].pools.peer_down(node(a), SessionId(a as u64));
                }
            }
            Step::Heal => {
                self.cut.clear();
                (0..NODES).for_each(|at| self.connect(at));
            }
            Step::Wait(ms) => {
                self.now.moment = self.now.moment.plus_ms(ms);
                for at in 0..NODES {
                    let mut out = Outbox::default();
                    self.hosts[at].pools.handle_timeout(self.now, &mut out);
                    self.drain(at, out);
                }
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        let mut out = Outbox::default();
        let pools = &mut self.hosts[to].pools;
        match message {
            Message::PoolRequest(request) => {
                pools.on_request(
                    node(from),
                    SessionId(from as u64),
                    &request,
                    &|_| false,
                    &mut out,
                );
            }
            Message::PoolGrant(grant) => {
                pools.on_grant(node(from), &grant, self.now, &mut out);
            }
            _ => {}
        }
        self.drain(to, out);
    }

    fn restart(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.pools = Pools::new(node(at));
        for (key, value) in &host.store {
            host.pools
                .restore(&StateKey::decode(key).unwrap(), value)
                .unwrap();
        }
        let mut out = Outbox::default();
        host.pools.define(&self.def, false, &mut out);
        for (&ip, &port) in &host.leases {
            assert!(
                host.pools.take(vni(), ip, port),
                "a lease out of a range that is not owned"
            );
        }
        self.drain(at, out);
        self.connect(at);
    }

    fn check(&self) {
        let mut owned = Ranges::default();
        let mut leased = BTreeSet::new();
        for host in &self.hosts {
            let pool = &host.pools.pools[&(vni(), 0)];
            for (first, last) in pool.kept.owned.iter() {
                assert!(!owned.overlaps(first, last), "an address is owned twice");
                owned.insert(first, last);
            }
            for &ip in host.leases.keys() {
                assert!(
                    pool.kept.owned.contains(number(ip)),
                    "{ip} is leased but not owned"
                );
                assert!(leased.insert(ip), "{ip} is leased twice");
            }
        }
        let (first, last) = leasable(&self.def.subnets[0]).unwrap();
        assert!(owned.is_sound(first, last), "an address out of the subnet");
    }

    fn free(&self) -> u128 {
        self.hosts
            .iter()
            .map(|host| host.pools.pools[&(vni(), 0)].free())
            .sum()
    }

    /// As an attach does it: 5 seconds, nothing lost.
    fn lease_patiently(&mut self, at: usize) -> bool {
        self.lease_patiently_of(at, Span::ALL)
    }

    fn lease_patiently_of(&mut self, at: usize, within: Span) -> bool {
        if self.try_lease(at, within) {
            return true;
        }
        let mut out = Outbox::default();
        let pools = &mut self.hosts[at].pools;
        pools.want(vni(), 0, within, self.now, &mut out);
        self.drain(at, out);
        for _ in 0..50 {
            while !self.flying.is_empty() {
                self.step(Step::Deliver(0));
                if self.try_lease(at, within) {
                    return true;
                }
            }
            self.step(Step::Wait(100));
        }
        false
    }
}

proptest! {
    #[test]
    fn no_address_is_ever_in_two_hands_and_after_all_heals_whoever_asks_gets_one(
        subnet in prop_oneof![Just("10.0.0.0/29"), Just("10.0.0.0/27"), Just("10.0.0.0/24"), Just("fd00::/64")],
        steps in proptest::collection::vec(a_step(), 0..250),
        asker in 0..NODES,
    ) {
        let mut world = World::new(subnet);
        for step in steps {
            world.step(step);
            world.check();
        }
        world.step(Step::Heal);
        while !world.flying.is_empty() {
            world.step(Step::Deliver(0));
            world.check();
        }
        if world.free() > 0 {
            prop_assert!(world.lease_patiently(asker), "{} free, and none to be had", world.free());
        }
        world.check();
    }
}

#[test]
fn every_address_of_a_small_network_can_be_used_from_any_node() {
    let mut world = World::new("10.0.0.0/28");
    for turn in 0..13 {
        assert!(world.lease_patiently(turn % NODES), "address {turn}");
        world.check();
    }
    assert!(!world.lease_patiently(3));
    let hunt = world.hosts[3].pools.hunt(vni(), 0);
    assert!(hunt.author_connected);
    let gone = *world.hosts[1].leases.keys().next().unwrap();
    world.step(Step::Release(1, 0));
    assert!(world.lease_patiently(3));
    assert!(world.hosts[3].leases.contains_key(&gone));
}

#[test]
fn a_grant_that_comes_twice_does_not_bring_back_what_was_given_on() {
    let mut world = World::new("10.0.0.0/28");
    world.step(Step::Lease(1));
    world.step(Step::Deliver(0));
    let grant = world.flying[0].clone();
    world.step(Step::Deliver(0));
    let before = world.hosts[1].pools.view();
    assert!(!before[0].owned.is_empty());
    world.deliver(grant.0, grant.1, grant.2);
    assert_eq!(world.hosts[1].pools.view(), before);
}

#[test]
fn a_request_is_durable_before_it_leaves_and_a_gift_before_it_is_told() {
    let mut world = World::new("10.0.0.0/28");
    let mut out = Outbox::default();
    world.hosts[1]
        .pools
        .want(vni(), 0, Span::ALL, world.now, &mut out);
    assert!(matches!(out.pop(), Some(Output::Persist { .. })));
    assert!(matches!(out.pop(), Some(Output::Persist { .. })));
    let Some(Output::Message {
        message: Message::PoolRequest(request),
        ..
    }) = out.pop()
    else {
        panic!()
    };
    let mut out = Outbox::default();
    world.hosts[0]
        .pools
        .on_request(node(1), SessionId(1), &request, &|_| false, &mut out);
    assert!(matches!(out.pop(), Some(Output::Persist { .. })));
    assert!(matches!(
        out.pop(),
        Some(Output::Message {
            message: Message::PoolGrant(_),
            ..
        })
    ));
}

#[test]
fn a_grant_from_outside_of_the_subnet_or_of_what_is_owned_is_refused() {
    let mut world = World::new("10.0.0.0/28");
    world.step(Step::Lease(1));
    let (_, _, Message::PoolRequest(request)) = world.flying[0].clone() else {
        panic!()
    };
    for range in [
        (0, 5),
        (0x0a00_0001, 0x0a00_0002),
        (0x0a00_0005, 0x0a00_0004),
        (0x0a00_0002, u128::MAX),
    ] {
        let grant = PoolGrant {
            vni: vni(),
            subnet: 0,
            request: request.request,
            range: Some(range),
            ask: Vec::new(),
        };
        let mut out = Outbox::default();
        assert!(
            !world.hosts[1]
                .pools
                .on_grant(node(0), &grant, world.now, &mut out)
        );
        assert!(matches!(
            out.pop(),
            Some(Output::Notice(Notice::Refused { .. }))
        ));
    }
}

#[test]
fn a_damaged_pool_owns_nothing_rather_than_all() {
    let mut pools = Pools::new(node(0));
    assert!(
        pools
            .restore(&StateKey::Pool(vni(), 0), &[1, 2, 3])
            .is_err()
    );
    let mut out = Outbox::default();
    pools.define(&network("10.0.0.0/24"), false, &mut out);
    assert_eq!(
        pools.lease(vni(), 0, PortId(1), Span::ALL, &|_| false),
        None
    );
}

#[test]
fn a_network_that_is_defined_anew_begins_with_a_new_pool() {
    let mut pools = Pools::new(node(0));
    let mut out = Outbox::default();
    let old = network("10.0.0.0/24");
    pools.define(&old, true, &mut out);
    pools.define(
        &NetworkDef {
            removed: true,
            ..old.clone()
        },
        false,
        &mut out,
    );
    assert!(pools.view().is_empty());
    pools.define(
        &NetworkDef {
            since: WallTime(2),
            ..old
        },
        true,
        &mut out,
    );
    assert_eq!(
        pools
            .lease(vni(), 0, PortId(1), Span::ALL, &|ip| ip.to_string()
                == "10.0.0.2")
            .unwrap()
            .to_string(),
        "10.0.0.3"
    );
}

proptest! {
    #[test]
    fn a_run_is_split_into_two_parts_of_fair_size(first: u128, span in 1u128..100_000) {
        let first = first.min(u128::MAX - span);
        let last = first + span;
        let at = gifts::split(first, last);
        prop_assert!(first < at && at <= last);
        prop_assert!(span < 8 || ((at - first) * 5 > span && (last - at + 1) * 5 > span), "{} {}", at - first, span);
    }
}

#[test]
fn a_range_whose_grant_was_lost_is_fetched_later_though_nobody_waits() {
    let mut world = World::new("10.0.0.0/24");
    world.step(Step::Lease(1));
    world.step(Step::Deliver(0));
    // The grant.
    world.step(Step::Lose(0));
    world.restart(1);
    world.step(Step::Wait(60_000));
    assert_eq!(
        world.flying.len(),
        1,
        "only the one who did not answer is asked"
    );
    world.step(Step::Deliver(0));
    world.step(Step::Deliver(0));
    assert_eq!(world.free(), 253);
}

#[test]
fn a_freed_address_is_leased_again_only_when_no_other_is_left_and_the_first_freed_first() {
    let mut pools = Pools::new(node(0));
    pools.define(&network("10.0.0.0/29"), true, &mut Outbox::default());
    let port = PortId(1);
    let lease = |pools: &mut Pools| pools.lease(vni(), 0, port, Span::ALL, &|_| false);
    let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
    assert_eq!(lease(&mut pools), Some(ip(2)));
    assert_eq!(lease(&mut pools), Some(ip(3)));
    for freed in [3, 2] {
        pools.release(vni(), ip(freed), port);
    }
    let all: Vec<_> = std::iter::from_fn(|| lease(&mut pools)).collect();
    assert_eq!(all, [ip(4), ip(5), ip(6), ip(3), ip(2)]);
}

proptest! {
    #[test]
    fn who_looks_for_addresses_of_a_part_gets_all_of_it_and_comes_to_own_nothing_else(
        asker in 1..NODES,
        before in proptest::collection::vec(0..NODES, 0..8),
        first in 2u128..250,
        len in 1u128..24,
    ) {
        let mut world = World::new("10.0.0.0/24");
        // So that the part is in several hands.
        for at in before.into_iter().filter(|&at| at != asker) {
            prop_assert!(world.lease_patiently(at));
        }
        let base = 0x0a00_0000;
        let part = Span { first: base + first, last: base + (first + len - 1).min(254) };
        let taken = |world: &World| {
            let all = world.hosts.iter().flat_map(|host| host.leases.keys());
            all.filter(|ip| part.contains(number(**ip))).count() as u128
        };
        let free = part.last - part.first + 1 - taken(&world);
        let mut got = 0;
        while world.lease_patiently_of(asker, part) {
            got += 1;
            world.check();
        }
        prop_assert_eq!(got, free);
        let owned = &world.hosts[asker].pools.pools[&(vni(), 0)].kept.owned;
        prop_assert!(owned.iter().all(|(first, last)| part.contains(first) && part.contains(last)));
    }
}
