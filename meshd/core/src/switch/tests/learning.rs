//! What is learned from frames, and how long it holds.

use super::*;

#[test]
fn a_second_mac_behind_a_port_is_learned_told_once_and_found_by_others() {
    let mut bench = Bench::new();
    assert!(bench.switch.take_learned().is_empty());
    bench.rule(FROM_A, &broadcast(X));
    assert_eq!(bench.switch.take_learned(), [vni()]);
    assert!(bench.switch.take_learned().is_empty());
    assert_eq!(bench.receivers(Origin::Port(PB), &ip(X, B)), [To::Port(PA)]);
    assert_eq!(bench.receivers(FROM_8, &ip(X, R)), [To::Port(PA)]);
}

#[test]
fn a_ruling_for_a_learned_source_returns_in_time_to_keep_it_young() {
    let mut bench = Bench::new();
    let until = bench.rule(FROM_A, &ip(B, X)).cache.unwrap().until.unwrap();
    assert!(until.0 < at(AGE_MS).0);
    bench.now = until;
    bench.rule(FROM_A, &ip(B, X));
    bench.switch.handle_timeout(at(AGE_MS), &mut bench.out);
    assert_eq!(bench.receivers(Origin::Port(PB), &ip(X, B)), [To::Port(PA)]);
}

#[test]
fn an_aged_mac_is_flooded_again_and_the_change_is_told_and_ends_old_rulings() {
    let mut bench = Bench::new();
    bench.rule(FROM_A, &broadcast(X));
    bench.switch.take_learned();
    let before = bench.switch.epoch();
    assert_eq!(bench.switch.poll_timeout(), Some(at(AGE_MS)));
    bench.switch.handle_timeout(at(AGE_MS), &mut bench.out);
    assert!(bench.switch.epoch() > before);
    assert_eq!(bench.switch.take_learned(), [vni()]);
    assert_eq!(
        bench.receivers(Origin::Port(PB), &ip(X, B)),
        [To::Port(PA), To::Peer(N8), To::Peer(N9)]
    );
}

#[test]
fn a_moved_mac_is_not_sent_to_its_old_port() {
    let mut bench = Bench::new();
    bench.rule(FROM_A, &broadcast(X));
    assert_eq!(
        bench.drops(Origin::Port(PB), &broadcast(X)),
        DropReason::SpoofedSource
    );
    bench.now = at(HOLD_MS);
    let before = bench.switch.epoch();
    bench.rule(Origin::Port(PB), &broadcast(X));
    assert!(bench.switch.epoch() > before, "rulings to the old port end");
    assert_eq!(bench.receivers(FROM_8, &ip(X, R)), [To::Port(PB)]);
}

#[test]
fn a_port_with_eight_macs_sends_from_no_ninth() {
    let mut bench = Bench::new();
    for last in 0..7 {
        bench.rule(FROM_A, &broadcast(MacAddr([2, 1, 0, 0, 0, last])));
    }
    assert_eq!(
        bench.drops(FROM_A, &broadcast(MacAddr([2, 1, 0, 0, 0, 7]))),
        DropReason::PortMacsFull
    );
    assert_eq!(
        bench.receivers(FROM_A, &ip(B, A)),
        [To::Port(PB)],
        "its own still does"
    );
}

fn learns(ms: u32) -> Answer {
    let orders = Orders {
        learn_ms: Some(ms),
        ..Orders::default()
    };
    with_orders(orders)
}

/// A chain that says so of what comes in by a port, and lets all go out.
fn learning(bench: &mut Bench, from: Origin, frame: &[u8], ms: u32) -> Ruling {
    let mut outputs = bench.upcall(from, frame);
    while let Some((_, _, asked)) = question(&outputs) {
        let answer = match asked.direction {
            Direction::Ingress => learns(ms),
            Direction::Egress => pass(),
        };
        outputs = bench.answer(&outputs, answer);
    }
    ruling(&outputs).unwrap()
}

#[test]
fn what_policy_learns_lives_as_long_as_it_says_and_rulings_return_in_time_to_keep_it() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let ruled = learning(&mut bench, FROM_A, &ip(B, X), 2000);
    assert_eq!(ruled.cache.unwrap().until, Some(at(1000)));
    assert_eq!(bench.switch.poll_timeout(), Some(at(2000)));
    // The answer is kept; the frame alone keeps its source young.
    bench.now = at(1000);
    assert_eq!(
        bench.rule(FROM_A, &ip(B, X)).cache.unwrap().until,
        Some(at(2000))
    );
    bench.switch.handle_timeout(at(2999), &mut bench.out);
    assert_eq!(
        bench.switch.networks[&vni()].fdb.lookup(X),
        Some(Place::Port(PA))
    );
    let before = bench.switch.epoch();
    bench.switch.handle_timeout(at(3000), &mut bench.out);
    assert_eq!(bench.switch.networks[&vni()].fdb.lookup(X), None);
    assert!(bench.switch.epoch() > before, "no ruling sends to it");
}

#[test]
fn policy_may_learn_for_longer_than_usual_and_what_it_learned_ends_with_the_chain() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    learning(&mut bench, FROM_A, &ip(B, X), 86_400_000);
    assert_eq!(bench.switch.poll_timeout(), Some(at(86_400_000)));
    bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    assert_eq!(bench.switch.poll_timeout(), Some(at(AGE_MS)));
}

#[test]
fn of_a_refused_frame_nothing_is_learned_and_a_ports_own_mac_is_known_anyway() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let own = learning(&mut bench, FROM_A, &ip(B, A), 1000);
    assert_eq!(own.cache.unwrap().until, None);
    bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(B, X));
    let asked = bench.answer(&asked, learns(1000));
    bench.answer(&asked, deny());
    assert_eq!(bench.switch.poll_timeout(), Some(at(AGE_MS)));
}

#[test]
fn an_address_that_policy_learned_is_answered_while_it_holds_and_is_nobodys_property() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let announce = |mac| {
        arp(
            MacAddr::BROADCAST,
            mac,
            1,
            mac,
            [10, 0, 0, 99],
            [10, 0, 0, 99],
        )
    };
    let ask = arp(MacAddr::BROADCAST, B, 1, B, [10, 0, 0, 12], [10, 0, 0, 99]);
    let from_b = Origin::Port(PB);
    let answered = |bench: &mut Bench| {
        let frames = injected(&bench.upcall(from_b, &ask));
        let (to, frame) = frames.first()?.clone();
        assert_eq!(to, To::Port(PB));
        Frame::parse(&frame)
            .unwrap()
            .arp()
            .map(|arp| arp.sender_mac)
    };
    assert_eq!(answered(&mut bench), None);
    learning(&mut bench, FROM_A, &announce(X), 2000);
    assert_eq!(answered(&mut bench), Some(X));
    assert!(
        bench
            .switch
            .fdb(vni())
            .iter()
            .any(|row| row.mac == X && row.ips == [IpAddr::from([10, 0, 0, 99])])
    );
    // It moves with who says to have it, without a word of refusal.
    learning(&mut bench, FROM_A, &announce(A), 2000);
    assert_eq!(answered(&mut bench), Some(A));
    bench.switch.handle_timeout(at(2000), &mut bench.out);
    bench.drain();
    assert_eq!(answered(&mut bench), None);
    // Who has it leased comes first, and is who may say so.
    learning(&mut bench, FROM_A, &announce(A), 2000);
    let owner = remote(N8, R, 99);
    bench.switch.set_remote(vni(), &[owner], &mut bench.out);
    bench.drain();
    assert_eq!(answered(&mut bench), Some(R));
    assert_eq!(
        bench.drops(FROM_A, &announce(A)),
        DropReason::SpoofedAddress
    );
}
