//! Claims about strangers and rogue members: what they say costs little, and is believed only as far as it must be.

use super::*;

#[test]
fn strangers_are_dropped_after_three_seconds_or_when_there_are_too_many() {
    let mut world = World::new();
    let connect = |world: &mut World, n: u64| {
        let event = SessionEvent::Connected {
            session: SessionId(1_000 + n),
            key: NodeId([9; 32]),
            remote: address(9),
            dialed: false,
        };
        let (now, mut out) = (world.now(), Outbox::default());
        world
            .nodes
            .get_mut(&1)
            .unwrap()
            .session(event, now, &mut out);
        core::iter::from_fn(|| out.pop())
            .filter(|o| matches!(o, Output::Hangup { .. }))
            .count()
    };
    let hung_up: usize = (0..100).map(|n| connect(&mut world, n)).sum();
    assert_eq!(hung_up, 100 - 64);
    world.run(3_100);
    assert_eq!(connect(&mut world, 200), 0);
    assert!(
        (0..100).all(|n| world.mesh(1).peers.standing(SessionId(1_000 + n)) == Standing::Unknown)
    );
}

#[test]
fn nothing_is_believed_before_a_statement_for_the_sessions_own_key() {
    let mut world = lab(3);
    let shown = statement(2, Role::Admin);
    let hello = Hello {
        version: VERSION,
        mesh: keys(1).mesh(),
        membership: shown.clone(),
        dialed: 1,
    };
    let bad = [
        // Somebody else's statement.
        Message::Hello(hello.clone()),
        Message::Hello(Hello {
            version: 9,
            ..hello.clone()
        }),
        Message::Hello(Hello {
            mesh: FakeKeyring::root(2).mesh(),
            ..hello
        }),
        Message::Summary(1),
        Message::Records(vec![shown]),
    ];
    for (at, message) in bad.into_iter().enumerate() {
        let session = SessionId(5_000 + at as u64);
        let before = world.mesh(1).directory.summary();
        let event = SessionEvent::Connected {
            session,
            key: NodeId([9; 32]),
            remote: address(9),
            dialed: false,
        };
        world.event(1, |m, now, out| m.session(event, now, out));
        world.event(1, |m, now, out| drop(m.message(session, message, now, out)));
        assert_eq!(world.mesh(1).peers.standing(session), Standing::Unknown);
        assert_eq!(world.mesh(1).directory.summary(), before);
        assert!(
            world
                .queue
                .iter()
                .any(|(_, o)| matches!(o, Output::Hangup { session: s, .. } if *s == session))
        );
        world.queue.clear();
    }
}

#[test]
fn swim_garbage_takes_nobody_away() {
    let mut world = lab(3);
    world.event(1, |m, now, out| {
        let session = m.session_of(id(3)).unwrap();
        drop(m.message(session, Message::Swim(vec![0xff; 300]), now, out));
    });
    world.settle();
    assert!(world.mesh(1).directory.reachable(id(2)) && world.mesh(1).directory.reachable(id(3)));
}

#[test]
fn a_member_that_calls_another_dead_takes_nothing_away_while_a_session_holds() {
    let mut world = lab(3);
    world
        .with(2, |m, now, out| {
            m.advertise_endpoints(vni(), vec![endpoint(2, 1)], now, out)
        })
        .unwrap();
    let rumour = crate::swim::tests::rumour(world.mesh(3), world.mesh(1), id(2));
    world.event(1, |m, now, out| {
        let session = m.session_of(id(3)).unwrap();
        drop(m.message(session, Message::Swim(rumour), now, out));
    });
    // It is believed for a moment, until node 2 hears of it.
    assert!(!world.mesh(1).swim.alive(id(2)));
    assert!(world.mesh(1).directory.reachable(id(2)));
    assert_eq!(world.mesh(1).directory.endpoints(vni()).count(), 1);
    world.settle();
    world.run(2_000);
    assert!(world.mesh(1).swim.alive(id(2)));
}

#[test]
fn a_rogue_member_that_backdates_takes_nothing() {
    let mut world = lab(3);
    let now = world.now().wall.0;
    world
        .with(2, |m, now_, out| {
            m.advertise_endpoints(vni(), vec![endpoint(9, now)], now_, out)
        })
        .unwrap();
    world.run(5_000);
    world
        .with(3, |m, now_, out| {
            m.advertise_endpoints(vni(), vec![endpoint(9, 1)], now_, out)
        })
        .unwrap();
    world.run(5_000);
    for n in 1..=2 {
        assert_eq!(
            world
                .mesh(n)
                .directory
                .mac(vni(), endpoint(9, 0).mac)
                .unwrap()
                .0,
            id(2),
            "node {n}"
        );
    }
}

#[test]
fn a_stranger_that_connects_and_says_nothing_is_told_nothing() {
    let mut world = World::new();
    let event = SessionEvent::Connected {
        session: SessionId(1_000),
        key: NodeId([9; 32]),
        remote: address(9),
        dialed: false,
    };
    let (now, mut out) = (world.now(), Outbox::default());
    let node = world.nodes.get_mut(&1).unwrap();
    node.session(event, now, &mut out);
    let said = core::iter::from_fn(|| out.pop())
        .filter(|o| matches!(o, Output::Message { .. }))
        .count();
    assert_eq!(said, 0);
}

#[test]
fn a_member_that_passes_on_a_record_that_does_not_hold_loses_its_session() {
    let mut world = lab(3);
    let mut forged = statement(3, Role::Admin);
    forged.body = {
        let Record::Membership(m) = forged.decode().unwrap() else {
            unreachable!()
        };
        let newer = Membership { serial: 9, ..m };
        let root = keys(1);
        Record::Membership(newer)
            .sign(root.mesh(), &root)
            .unwrap()
            .body
    };
    let session = world.mesh(1).session_of(id(3)).unwrap();
    world.notices.clear();
    world.event(1, |m, now, out| {
        drop(m.message(session, Message::Records(vec![forged]), now, out))
    });
    world.settle();
    assert_eq!(world.mesh(1).session_of(id(3)), None);
    let told = |n: &Notice| matches!(n, Notice::PeerRefused { reason, .. } if reason.contains("does not hold"));
    assert!(
        world
            .notices
            .iter()
            .any(|(n, notice)| *n == 1 && told(notice))
    );
    assert!(world.mesh(1).session_of(id(2)).is_some());
}

#[test]
fn a_member_gets_only_so_many_records_at_once_however_often_it_asks() {
    let mut world = lab(2);
    for vni in 1..40 {
        let long = |i: u8| Endpoint {
            labels: (0..16).map(|l| (format!("l{l}"), "x".repeat(60))).collect(),
            ..endpoint(i, 1)
        };
        let list = (0..100).map(long).collect();
        let vni = Vni::new(vni).unwrap();
        world
            .with(1, |m, now, out| m.advertise_endpoints(vni, list, now, out))
            .unwrap();
    }
    let session = world.mesh(1).session_of(id(2)).unwrap();
    let all = Message::Digest {
        from: 0,
        to: u64::MAX,
        have: Vec::new(),
        reply: false,
    };
    let (now, mut out) = (world.now(), Outbox::default());
    let node = world.nodes.get_mut(&1).unwrap();
    for _ in 0..100 {
        drop(node.message(session, all.clone(), now, &mut out));
    }
    let said: usize = core::iter::from_fn(|| out.pop())
        .map(|o| match o {
            Output::Message { message, .. } => message.encode().unwrap().len(),
            _ => 0,
        })
        .sum();
    assert!(said > 4 << 20, "it is given much: {said}");
    assert!(
        said < 8 << 20,
        "but no more than may wait to be sent: {said}"
    );
}

#[test]
fn a_node_that_comes_back_with_its_clock_set_back_is_taken_at_once() {
    let mut world = lab(2);
    let dialer = if world.mesh(1).peers()[0].dialed {
        1
    } else {
        2
    };
    let other = 3 - dialer;
    let old = world.mesh(other).session_of(id(dialer)).unwrap();
    // Its old session is dead, and the other side does not know yet.
    world.links.retain(|_, _| false);
    let (session, remote) = (SessionId(7_000), address(dialer));
    let hello = Hello {
        version: VERSION,
        mesh: keys(1).mesh(),
        membership: world
            .mesh(dialer)
            .directory
            .signed(&crate::wire::record::RecordKey::Membership(id(dialer)))
            .unwrap()
            .clone(),
        dialed: 1,
    };
    world.event(other, |m, now, out| {
        let key = id(dialer);
        m.session(
            SessionEvent::Connected {
                session,
                key,
                remote,
                dialed: false,
            },
            now,
            out,
        );
        drop(m.message(session, Message::Hello(hello), now, out));
    });
    assert_ne!(old, session);
    assert_eq!(world.mesh(other).session_of(id(dialer)), Some(session));
}

/// What node 1 does about something on the socket of its first link.
fn on_link(world: &mut World, session: u64, key: NodeId, said: Option<Message>) -> Vec<Output> {
    let session = SessionId(session);
    let (now, mut out) = (world.now(), Outbox::default());
    let mesh = world.nodes.get_mut(&1).unwrap();
    let connected = SessionEvent::LinkConnected {
        session,
        key,
        way: crate::steering::WayId::link(0).unwrap(),
        remote: address(9),
        dialed: false,
    };
    mesh.session(connected, now, &mut out);
    if let Some(said) = said {
        mesh.message(session, said, now, &mut out);
    }
    core::iter::from_fn(|| out.pop()).collect()
}

#[test]
fn a_link_is_believed_no_more_than_a_session_is() {
    let mut world = lab(3);
    let hello = |of: u64| {
        Message::Hello(Hello {
            version: VERSION,
            mesh: keys(1).mesh(),
            membership: statement(of, Role::Admin),
            dialed: 0,
        })
    };
    let proven = |acts: &[Output]| {
        let mut acts = acts.iter();
        acts.any(|act| matches!(act, Output::LinkProven { .. }))
    };
    let hung_up = |acts: &[Output]| acts.iter().any(|act| matches!(act, Output::Hangup { .. }));
    let strange = [
        hello(3),
        Message::Summary(1),
        Message::Records(vec![statement(2, Role::Admin)]),
        Message::Swim(vec![1, 2, 3]),
    ];
    for (at, message) in (0..).zip(strange) {
        let acts = on_link(&mut world, 7_000 + at, id(2), Some(message));
        assert!(hung_up(&acts) && !proven(&acts), "{at}: {acts:?}");
    }
    let acts = on_link(&mut world, 7_100, id(2), Some(hello(2)));
    assert!(proven(&acts) && !hung_up(&acts), "{acts:?}");
    // One that says nothing hears nothing, and goes after three seconds.
    let acts = on_link(&mut world, 7_200, id(3), None);
    assert!(acts.is_empty(), "{acts:?}");
    let (mut later, mut out) = (world.now(), Outbox::default());
    later.moment = later.moment.plus_ms(3_100);
    let mesh = world.nodes.get_mut(&1).unwrap();
    mesh.handle_timeout(later, &mut out);
    let acts: Vec<Output> = core::iter::from_fn(|| out.pop()).collect();
    let gone = |act: &Output| {
        matches!(
            act,
            Output::Hangup {
                session: SessionId(7_200),
                ..
            }
        )
    };
    assert!(acts.iter().any(gone), "{acts:?}");
}

#[test]
fn strangers_on_links_are_bounded_and_a_newer_link_takes_the_place_of_the_old_one() {
    let mut world = lab(2);
    let ended = |acts: &[Output]| {
        let acts = acts.iter();
        acts.filter(|act| matches!(act, Output::Hangup { .. }))
            .count()
    };
    let count: usize = (0..100)
        .map(|n| ended(&on_link(&mut world, 8_000 + n, NodeId([9; 32]), None)))
        .sum();
    assert_eq!(count, 100 - 64);
    let hello = || {
        Some(Message::Hello(Hello {
            version: VERSION,
            mesh: keys(1).mesh(),
            membership: statement(2, Role::Admin),
            dialed: 0,
        }))
    };
    on_link(&mut world, 9_000, id(2), hello());
    let acts = on_link(&mut world, 9_001, id(2), hello());
    let old = |act: &Output| {
        matches!(
            act,
            Output::Hangup {
                session: SessionId(9_000),
                ..
            }
        )
    };
    assert!(acts.iter().any(old), "{acts:?}");
    let way = crate::steering::WayId::link(0).unwrap();
    assert_eq!(world.mesh(1).session_by(id(2), way), Some(SessionId(9_001)));
}
