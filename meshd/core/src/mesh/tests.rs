//! Meshes of a few nodes over sessions that are queues.

use super::*;
use crate::command::InviteSpec;
use crate::ident::{Vni, WallTime};
use crate::testing::FakeKeyring;
use crate::wire::control::{Hello, JoinRefusal, JoinRequest, VERSION, Welcome};
use crate::wire::record::{Endpoint, Membership, RecordKey, Role, Service};
use std::collections::{BTreeMap, VecDeque};

mod distrust;
mod services;

const SECRET: [u8; 16] = [7; 16];

/// A few nodes, each at the address of its number, and the sessions between them.
struct World {
    ms: u64,
    nodes: BTreeMap<u64, Mesh>,
    /// (node, session) to the far end's.
    links: BTreeMap<(u64, SessionId), (u64, SessionId)>,
    next: u64,
    /// Pairs that cannot dial each other or hear each other.
    cut: BTreeSet<(u64, u64)>,
    queue: VecDeque<(u64, Output)>,
    notices: Vec<(u64, Notice)>,
    state: BTreeMap<u64, BTreeMap<Vec<u8>, Vec<u8>>>,
    pools: usize,
}

fn address(n: u64) -> SocketAddr {
    format!("192.0.2.{n}:7650").parse().unwrap()
}

fn keys(n: u64) -> FakeKeyring {
    if n == 1 {
        FakeKeyring::root(1)
    } else {
        FakeKeyring::member(1, n)
    }
}

fn id(n: u64) -> NodeId {
    keys(n).node()
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn statement(n: u64, role: Role) -> Signed {
    let root = keys(1);
    let name = label(&format!("n{n}"));
    let (mesh, issued) = (root.mesh(), WallTime(0));
    let membership = Membership {
        mesh,
        node: id(n),
        name,
        role,
        labels: BTreeMap::new(),
        serial: 1,
        issued,
        expires: None,
    };
    Record::Membership(membership).sign(mesh, &root).unwrap()
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            ms: 1_000,
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            next: 1,
            cut: BTreeSet::new(),
            queue: VecDeque::new(),
            notices: Vec::new(),
            state: BTreeMap::new(),
            pools: 0,
        };
        world.start(1, statement(1, Role::Admin), &[]);
        world
    }

    fn now(&self) -> Now {
        Now {
            moment: Moment::default().plus_ms(self.ms),
            wall: WallTime(1_700_000_000_000 + self.ms),
        }
    }

    fn start(&mut self, n: u64, membership: Signed, records: &[Signed]) {
        let keyring = keys(n);
        let mut kept = self.state.remove(&n).unwrap_or_default();
        kept.extend(records.iter().filter_map(crate::directory::state_of));
        let state: Vec<_> = kept.clone().into_iter().collect();
        self.state.insert(n, kept);
        let config = MeshConfig {
            records: Vec::new(),
            mesh: keyring.mesh(),
            mesh_name: label("lab"),
            membership,
            keyring: Arc::new(keyring),
            links: Vec::new(),
            seed: n,
            version: "0".into(),
        };
        let mut out = Outbox::default();
        let mut mesh = Mesh::new(config, &state, self.now(), &mut out).unwrap();
        mesh.addresses(vec![address(n)], self.now(), &mut out);
        self.nodes.insert(n, mesh);
        self.collect(n, out);
    }

    fn collect(&mut self, n: u64, mut out: Outbox) {
        while let Some(output) = out.pop() {
            self.queue.push_back((n, output));
        }
    }

    fn with<T>(&mut self, n: u64, f: impl FnOnce(&mut Mesh, Now, &mut Outbox) -> T) -> T {
        let (now, mut out) = (self.now(), Outbox::default());
        let answer = f(self.nodes.get_mut(&n).unwrap(), now, &mut out);
        self.collect(n, out);
        self.settle();
        answer
    }

    fn event(&mut self, n: u64, f: impl FnOnce(&mut Mesh, Now, &mut Outbox)) {
        let (now, mut out) = (self.now(), Outbox::default());
        if let Some(mesh) = self.nodes.get_mut(&n) {
            f(mesh, now, &mut out);
        }
        self.collect(n, out);
    }

    fn linked(&self, a: u64, b: u64) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
            && self.nodes.contains_key(&a)
            && self.nodes.contains_key(&b)
    }

    fn connect(&mut self, from: u64, key_from: NodeId, to: u64) -> SessionId {
        let (mine, theirs) = (SessionId(self.next), SessionId(self.next + 1));
        self.next += 2;
        self.links.insert((from, mine), (to, theirs));
        self.links.insert((to, theirs), (from, mine));
        let (here, there) = (address(from), address(to));
        self.event(from, |m, now, out| {
            m.session(
                SessionEvent::Connected {
                    session: mine,
                    key: id(to),
                    remote: there,
                    dialed: true,
                },
                now,
                out,
            )
        });
        self.event(to, |m, now, out| {
            m.session(
                SessionEvent::Connected {
                    session: theirs,
                    key: key_from,
                    remote: here,
                    dialed: false,
                },
                now,
                out,
            )
        });
        mine
    }

    fn hang_up(&mut self, n: u64, session: SessionId, reason: &str) {
        if let Some((peer, theirs)) = self.links.remove(&(n, session)) {
            self.links.remove(&(peer, theirs));
            for (node, session) in [(n, session), (peer, theirs)] {
                let reason = reason.to_owned();
                self.event(node, |m, now, out| {
                    m.session(SessionEvent::Closed { session, reason }, now, out)
                });
            }
        }
    }

    fn settle(&mut self) {
        while let Some((n, output)) = self.queue.pop_front() {
            match output {
                Output::Persist { key, value } => {
                    let state = self.state.entry(n).or_default();
                    match value {
                        Some(value) => drop(state.insert(key, value)),
                        None => drop(state.remove(&key)),
                    }
                }
                Output::Dial { node, addresses } => {
                    let to = self
                        .nodes
                        .keys()
                        .copied()
                        .find(|&m| addresses.contains(&address(m)) && id(m) == node);
                    match to.filter(|&to| self.linked(n, to)) {
                        Some(to) => drop(self.connect(n, id(n), to)),
                        None => self.event(n, |m, now, out| {
                            m.session(
                                SessionEvent::DialFailed {
                                    node,
                                    reason: "no answer".into(),
                                },
                                now,
                                out,
                            )
                        }),
                    }
                }
                Output::Message { session, message } => {
                    let bytes = message.encode().unwrap();
                    let message = Message::decode(&bytes[4..]).unwrap();
                    if let Some(&(peer, theirs)) = self.links.get(&(n, session))
                        && self.linked(n, peer)
                    {
                        let mut pools = 0;
                        self.event(peer, |m, now, out| {
                            pools += usize::from(m.message(theirs, message, now, out).is_some())
                        });
                        self.pools += pools;
                    }
                }
                Output::Hangup { session, reason } => self.hang_up(n, session, &reason),
                Output::Notice(notice) => self.notices.push((n, notice)),
                _ => {}
            }
        }
    }

    fn run(&mut self, ms: u64) {
        let end = self.ms + ms;
        while self.ms < end {
            self.ms += 50;
            for n in self.nodes.keys().copied().collect::<Vec<_>>() {
                let due =
                    |m: &Mesh, now: Now| m.poll_timeout().is_some_and(|(at, _)| at <= now.moment);
                self.event(n, |m, now, out| {
                    if due(m, now) {
                        m.handle_timeout(now, out);
                    }
                    assert!(
                        !due(m, now),
                        "a timeout that stays due: {:?}",
                        m.poll_timeout()
                    );
                });
            }
            self.settle();
        }
    }

    /// Nothing passes between the two; sessions notice after 4 s.
    fn cut(&mut self, a: u64, b: u64) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    fn idle_out(&mut self) {
        let dead: Vec<_> = self
            .links
            .iter()
            .filter(|(from, to)| !self.linked(from.0, to.0))
            .map(|(from, _)| *from)
            .collect();
        for (n, session) in dead {
            self.hang_up(n, session, "timed out");
        }
        self.settle();
    }

    fn kill(&mut self, n: u64) {
        self.nodes.remove(&n);
    }

    fn invite(&mut self, secret: [u8; 16], ttl_s: u64) {
        let spec = InviteSpec {
            ttl_s,
            role: Role::Member,
            labels: BTreeMap::new(),
            secret,
        };
        self.with(1, |m, now, out| m.invite(&spec, now, out))
            .unwrap();
    }

    fn ask(&mut self, n: u64, request: JoinRequest) -> Result<Welcome, JoinRefusal> {
        let session = SessionId(self.next);
        self.next += 1;
        let (now, mut out) = (self.now(), Outbox::default());
        let inviter = self.nodes.get_mut(&1).unwrap();
        inviter.session(
            SessionEvent::Connected {
                session,
                key: id(n),
                remote: address(n),
                dialed: false,
            },
            now,
            &mut out,
        );
        inviter.message(session, Message::Join(request), now, &mut out);
        let mut answer = None;
        while let Some(output) = out.pop() {
            match output {
                Output::Message {
                    message: Message::Joined(result),
                    ..
                } => answer = Some(result),
                output => self.queue.push_back((1, output)),
            }
        }
        self.settle();
        answer.unwrap()
    }

    fn request(secret: [u8; 16]) -> JoinRequest {
        JoinRequest {
            version: VERSION,
            mesh: keys(1).mesh(),
            secret,
            name: label("box"),
        }
    }

    fn join(&mut self, n: u64) {
        let mut secret = SECRET;
        secret[0] = u8::try_from(n).unwrap();
        self.invite(secret, 60);
        let welcome = self.ask(n, Self::request(secret)).unwrap();
        self.start(n, welcome.membership, &welcome.records);
        self.settle();
    }

    fn mesh(&self, n: u64) -> &Mesh {
        &self.nodes[&n]
    }

    fn all_sessions(&self) -> bool {
        let nodes: Vec<u64> = self.nodes.keys().copied().collect();
        nodes.iter().all(|&a| {
            nodes
                .iter()
                .all(|&b| a == b || self.mesh(a).session_of(id(b)).is_some())
        })
    }
}

fn endpoint(mac: u8, since: u64) -> Endpoint {
    Endpoint {
        mac: crate::ident::MacAddr([2, 0, 0, 0, 0, mac]),
        ips: vec![],
        name: None,
        labels: BTreeMap::new(),
        since: WallTime(since),
        roams: false,
    }
}

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn lab(nodes: u64) -> World {
    let mut world = World::new();
    for n in 2..=nodes {
        world.join(n);
    }
    world.run(6_000);
    world
}

#[test]
fn nodes_learn_of_each_other_from_the_one_they_joined_and_agree() {
    let world = lab(5);
    assert!(world.all_sessions());
    let summaries: BTreeSet<u64> = world
        .nodes
        .values()
        .map(|m| m.directory.summary())
        .collect();
    assert_eq!(summaries.len(), 1);
    let names: Vec<String> = world
        .mesh(5)
        .directory
        .members()
        .map(|m| m.name.to_string())
        .collect();
    assert!(
        ["n1", "box", "box-2", "box-3", "box-4"]
            .iter()
            .all(|name| names.contains(&(*name).to_owned())),
        "{names:?}"
    );
    // One session for each pair and end, and no more.
    assert_eq!(world.links.len(), 5 * 4);
}

#[test]
fn a_node_is_believed_to_live_again_after_a_copy_of_it_that_began_later_has_ended() {
    let mut world = lab(3);
    let membership = world
        .mesh(3)
        .directory
        .signed(&RecordKey::Membership(id(3)))
        .unwrap()
        .clone();
    for other in [1, 2] {
        world.cut(3, other);
    }
    world.idle_out();
    let copied = world.state[&3].clone();
    // It says more than its copy will: nobody has the copy's words any more when it is back.
    for n in 0..9 {
        let services = vec![Service {
            name: label(&format!("s{n}")),
            ips: vec!["10.0.0.9".parse().unwrap()],
        }];
        world.with(3, |m, now, out| m.advertise_services(services, now, out));
    }
    let original = world.nodes.remove(&3).unwrap();
    world.state.insert(3, copied);
    world.cut.clear();
    world.run(10_000);
    world.start(3, membership, &[]);
    world.run(10_000);
    let lives = |world: &World| [1, 2].map(|n| world.mesh(n).swim.alive(id(3)));
    assert_eq!(lives(&world), [true; 2]);
    world.kill(3);
    world.idle_out();
    assert!(
        [1, 2]
            .iter()
            .all(|&n| world.mesh(n).session_of(id(3)).is_none())
    );
    world.run(10_000);
    assert_eq!(lives(&world), [false; 2]);
    world.nodes.insert(3, original);
    world.run(40_000);
    assert!(world.all_sessions());
    assert_eq!(lives(&world), [true; 2]);
    for n in [1, 2] {
        let advert = world.mesh(n).directory.advert(id(3)).unwrap();
        assert_eq!(advert.services[0].name, label("s8"));
    }
}

#[test]
fn a_dead_node_is_gone_within_five_seconds_and_back_within_two() {
    let mut world = lab(4);
    world
        .with(3, |m, now, out| {
            m.advertise_endpoints(vni(), vec![endpoint(3, 1)], now, out)
        })
        .unwrap();
    assert_eq!(world.mesh(2).directory.endpoints(vni()).count(), 1);
    world.kill(3);
    world.run(4_000);
    world.idle_out();
    world.run(950);
    for n in [1, 2, 4] {
        assert_eq!(
            world.mesh(n).directory.endpoints(vni()).count(),
            0,
            "node {n}"
        );
    }
    world.run(20_000);
    let membership = world
        .mesh(1)
        .directory
        .signed(&crate::wire::record::RecordKey::Membership(id(3)))
        .unwrap()
        .clone();
    world.start(3, membership, &[]);
    world.settle();
    world.run(2_000);
    for n in [1, 2, 4] {
        assert!(world.mesh(n).directory.reachable(id(3)), "node {n}");
        assert!(world.mesh(n).swim.alive(id(3)), "node {n}");
        assert_eq!(
            world.mesh(n).directory.endpoints(vni()).count(),
            1,
            "node {n}"
        );
    }
}

#[test]
fn halves_that_were_apart_find_together_and_agree_on_the_older_claim() {
    let mut world = lab(4);
    for (a, b) in [(1, 3), (1, 4), (2, 3), (2, 4)] {
        world.cut(a, b);
    }
    world.run(4_000);
    world.idle_out();
    world.run(6_000);
    assert!(!world.mesh(1).directory.reachable(id(3)));
    let early = world.now().wall.0;
    world
        .with(3, |m, now, out| {
            m.advertise_endpoints(vni(), vec![endpoint(9, early)], now, out)
        })
        .unwrap();
    world.run(5_000);
    world
        .with(1, |m, now, out| {
            m.advertise_endpoints(vni(), vec![endpoint(9, early + 5_000)], now, out)
        })
        .unwrap();
    world.run(5_000);
    assert_eq!(
        world
            .mesh(2)
            .directory
            .mac(vni(), endpoint(9, 0).mac)
            .unwrap()
            .0,
        id(1)
    );
    assert_eq!(
        world
            .mesh(4)
            .directory
            .mac(vni(), endpoint(9, 0).mac)
            .unwrap()
            .0,
        id(3)
    );
    world.cut.clear();
    world.run(40_000);
    assert!(world.all_sessions());
    for n in 1..=4 {
        assert_eq!(
            world
                .mesh(n)
                .directory
                .mac(vni(), endpoint(9, 0).mac)
                .unwrap()
                .0,
            id(3),
            "node {n}"
        );
        assert_eq!(world.mesh(n).directory.conflicts().count(), 1, "node {n}");
        let told = world
            .notices
            .iter()
            .filter(|(at, notice)| *at == n && matches!(notice, Notice::MacConflict { .. }))
            .count();
        assert_eq!(told, 1, "node {n}");
    }
    let summaries: BTreeSet<u64> = world
        .nodes
        .values()
        .map(|m| m.directory.summary())
        .collect();
    assert_eq!(summaries.len(), 1);
}

#[test]
fn an_invite_makes_one_key_a_member_and_a_lost_answer_is_given_again() {
    let mut world = World::new();
    world.invite(SECRET, 60);
    let first = world.ask(2, World::request(SECRET)).unwrap();
    assert_eq!(
        world.ask(2, World::request(SECRET)).unwrap().membership,
        first.membership
    );
    assert_eq!(world.ask(3, World::request(SECRET)), Err(JoinRefusal::Used));
    // Also after a restart of the inviter.
    world.kill(1);
    world.start(1, statement(1, Role::Admin), &[]);
    assert_eq!(world.ask(3, World::request(SECRET)), Err(JoinRefusal::Used));
    assert_eq!(
        world.ask(2, World::request(SECRET)).unwrap().membership,
        first.membership
    );
}

#[test]
fn an_invite_that_is_expired_unknown_or_of_another_mesh_is_refused_with_what_is_wrong() {
    let mut world = World::new();
    world.invite(SECRET, 10);
    let other = JoinRequest {
        mesh: FakeKeyring::root(2).mesh(),
        ..World::request(SECRET)
    };
    assert_eq!(world.ask(2, other), Err(JoinRefusal::OtherMesh));
    let newer = JoinRequest {
        version: VERSION + 1,
        ..World::request(SECRET)
    };
    assert_eq!(world.ask(2, newer), Err(JoinRefusal::Version));
    assert_eq!(
        world.ask(2, World::request([8; 16])),
        Err(JoinRefusal::Unknown)
    );
    world.run(11_000);
    assert_eq!(
        world.ask(2, World::request(SECRET)),
        Err(JoinRefusal::Expired)
    );
    assert!(world.mesh(1).directory.member(id(2)).is_none());
}

#[test]
fn who_guesses_is_slowed_down_for_a_minute() {
    let mut world = World::new();
    world.invite(SECRET, 600);
    for n in 0..5 {
        assert_eq!(
            world.ask(2, World::request([n; 16])),
            Err(JoinRefusal::Unknown)
        );
    }
    assert_eq!(
        world.ask(2, World::request(SECRET)),
        Err(JoinRefusal::SlowDown)
    );
    // Others are not.
    assert!(world.ask(3, World::request(SECRET)).is_ok());
    world.run(61_000);
    assert_eq!(world.ask(2, World::request(SECRET)), Err(JoinRefusal::Used));
}

#[test]
fn a_revoked_member_loses_its_sessions_everywhere_and_does_not_come_back() {
    let mut world = lab(4);
    assert!(
        world
            .with(2, |m, now, out| m.revoke("n1", now, out))
            .is_err()
    );
    assert!(
        world
            .with(1, |m, now, out| m.revoke("n1", now, out))
            .is_err()
    );
    assert!(
        world
            .with(1, |m, now, out| m.revoke("nobody", now, out))
            .is_err()
    );
    let name = world
        .mesh(1)
        .directory
        .member(id(3))
        .unwrap()
        .name
        .to_string();
    world
        .with(1, |m, now, out| m.revoke(&name, now, out))
        .unwrap();
    for n in [1, 2, 4] {
        assert!(world.mesh(n).session_of(id(3)).is_none(), "node {n}");
        assert!(!world.mesh(n).directory.reachable(id(3)), "node {n}");
    }
    world.run(60_000);
    for n in [1, 2, 4] {
        assert!(world.mesh(n).session_of(id(3)).is_none(), "node {n}");
        assert!(!world.mesh(n).directory.reachable(id(3)), "node {n}");
        assert_eq!(world.mesh(n).revoked(), None, "node {n}");
    }
    let told = world.mesh(3).revoked().unwrap();
    assert!(
        told.contains("revoked") && told.contains("remove its state folder"),
        "{told}"
    );
    world.invite(SECRET, 60);
    assert_eq!(
        world.ask(3, World::request(SECRET)),
        Err(JoinRefusal::Revoked)
    );
}

#[test]
fn two_that_dial_each_other_at_once_keep_one_and_the_same_session() {
    let mut world = lab(2);
    for dialer in [1, 2, 2, 1] {
        let other = 3 - dialer;
        world.ms += 7;
        world.connect(dialer, id(dialer), other);
        world.settle();
        let (a, b) = (
            world.mesh(1).session_of(id(2)).unwrap(),
            world.mesh(2).session_of(id(1)).unwrap(),
        );
        assert_eq!(world.links[&(1, a)], (2, b));
        assert_eq!(world.links.len(), 2);
    }
}

#[test]
fn of_two_dials_of_one_node_both_ends_keep_the_later_one_whichever_is_proven_first() {
    for (here, dialed) in [(1, false), (2, true)] {
        for later_first in [false, true] {
            let mut world = lab(2);
            let there = 3 - here;
            let old = world.mesh(here).session_of(id(there)).unwrap();
            world.hang_up(here, old, "cut");
            world.queue.clear();
            let sessions = [SessionId(7_001), SessionId(7_002)];
            for session in sessions {
                let connected = SessionEvent::Connected {
                    session,
                    key: id(there),
                    remote: address(there),
                    dialed,
                };
                world.event(here, |m, now, out| m.session(connected, now, out));
            }
            let mut order = [0, 1];
            if later_first {
                order.reverse();
            }
            let membership = world
                .mesh(here)
                .directory
                .signed(&crate::wire::record::RecordKey::Membership(id(there)))
                .unwrap()
                .clone();
            for at in order {
                let hello = Message::Hello(Hello {
                    version: VERSION,
                    mesh: keys(1).mesh(),
                    membership: membership.clone(),
                    dialed: if dialed { 0 } else { 1_700_000_000_000 + at },
                });
                let session = sessions[at as usize];
                world.event(here, |m, now, out| {
                    drop(m.message(session, hello, now, out))
                });
            }
            assert_eq!(
                world.mesh(here).session_of(id(there)),
                Some(sessions[1]),
                "dialed here: {dialed}, later one first: {later_first}"
            );
        }
    }
}

#[test]
fn a_changed_address_is_told_and_peers_that_dialed_it_are_dialed() {
    let mut world = lab(3);
    let accepted: Vec<u64> = (2..=3)
        .filter(|&n| {
            !world
                .mesh(1)
                .peers()
                .iter()
                .any(|p| p.node == id(n) && p.dialed)
        })
        .collect();
    world.event(1, |m, now, out| {
        m.addresses(vec![address(1), address(101)], now, out)
    });
    world.settle();
    assert_eq!(
        world
            .mesh(3)
            .directory
            .advert(id(1))
            .unwrap()
            .addresses
            .len(),
        2
    );
    world.run(1_000);
    for n in accepted {
        assert!(
            world
                .mesh(1)
                .peers()
                .iter()
                .any(|p| p.node == id(n) && p.dialed),
            "node {n}"
        );
    }
    assert!(world.all_sessions());
}

#[test]
fn pool_messages_of_peers_are_handed_on_and_those_of_strangers_are_not() {
    let mut world = lab(2);
    let request = Message::PoolRequest(PoolRequest {
        vni: vni(),
        subnet: 0,
        request: 1,
        urgent: false,
        within: None,
    });
    assert!(world.with(2, |m, _, out| m.send(id(1), request, out)));
    assert_eq!(world.pools, 1);
}

#[test]
fn a_node_has_heard_of_its_mesh_once_it_had_a_peer_and_time_for_the_first_exchange() {
    let mut alone = World::new();
    alone.run(60_000);
    assert!(!alone.mesh(1).is_settled());
    let mut world = lab(2);
    world.run(30_000);
    assert!(world.mesh(1).is_settled() && world.mesh(2).is_settled());
}
