//! What policy is asked, and what its answers do.

use super::*;

#[test]
fn without_plugins_nothing_is_asked_and_with_them_sender_and_receiver_are_asked_once() {
    let mut bench = Bench::new();
    assert!(question(&bench.upcall(FROM_A, &ip(B, A))).is_none());
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    bench.drain();
    let asked = bench.upcall(FROM_A, &ip(B, A));
    let (_, _, first) = question(&asked).unwrap();
    assert_eq!(
        (first.direction, first.port, first.dst_class),
        (Direction::Ingress, PA, crate::node::DstClass::UnicastKnown)
    );
    let asked = bench.answer(&asked, pass());
    let (_, _, second) = question(&asked).unwrap();
    assert_eq!((second.direction, second.port), (Direction::Egress, PB));
    let flow = ruling(&bench.answer(&asked, pass()))
        .unwrap()
        .cache
        .unwrap();
    assert_eq!(flow.mask.dst_port, 0xffff, "what policy read is matched");
    assert!(
        flow.mask
            .fields
            .has(Fields::IP_PROTO.with(Fields::L4_OK).with(Fields::FRAG))
    );
    assert!(
        ruling(&bench.upcall(FROM_A, &udp(B, A, [1, 1, 1, 1], [2, 2, 2, 2], 53, 0))).is_some(),
        "the answers are kept"
    );
    let from_peer = question(&bench.upcall(FROM_8, &ip(B, R))).unwrap().2;
    assert_eq!(
        (from_peer.direction, from_peer.port, from_peer.peer),
        (Direction::Egress, PB, Some(N8))
    );
}

#[test]
fn a_refused_flow_is_dropped_with_the_plugins_words_and_cached() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(B, A));
    let ruling = ruling(&bench.answer(&asked, deny())).unwrap();
    assert_eq!(ruling.action, Action::Drop(DropReason::Policy));
    assert!(ruling.cache.is_some());
    assert_eq!(
        bench.switch.drops()[&DropReason::Policy].why.as_deref(),
        Some("acl: udp/53")
    );
}

#[test]
fn a_changed_chain_is_asked_again_also_about_frames_that_wait() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(R, A));
    let before = bench.switch.epoch();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let again = bench.drain();
    assert!(bench.switch.epoch() > before && question(&again).is_some());
    assert!(
        bench.answer(&asked, pass()).is_empty(),
        "the old chain's answer is void"
    );
    assert!(matches!(
        ruling(&bench.answer(&again, pass())).unwrap().action,
        Action::Forward(_)
    ));
    bench.upcall(FROM_A, &ip(B, A));
    bench.switch.set_policy(vni(), 0, at(0), &mut bench.out);
    assert!(
        ruling(&bench.drain()).is_some(),
        "without a chain nobody waits"
    );
}

#[test]
fn a_plugin_that_does_not_answer_costs_two_seconds_and_only_its_flow() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    bench.upcall(FROM_A, &ip(B, A));
    assert_eq!(bench.switch.poll_timeout(), Some(at(2000)));
    bench.switch.handle_timeout(at(2000), &mut bench.out);
    let ruling = ruling(&bench.drain()).unwrap();
    assert_eq!(ruling.action, Action::Drop(DropReason::PolicyTimeout));
    let flow = ruling.cache.unwrap();
    assert_eq!((flow.mask, flow.until), (FlowMask::exact(), Some(at(3000))));
    assert!(bench.switch.pending.is_empty());
}

#[test]
fn a_failed_plugin_fails_closed_for_a_second() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(B, A));
    let failed = Answer {
        verdict: Verdict::Failed,
        cacheable: false,
        why: "acl: trap".into(),
        ..pass()
    };
    let ruling = ruling(&bench.answer(&asked, failed)).unwrap();
    assert_eq!(
        (ruling.action, ruling.cache.unwrap().until),
        (Action::Drop(DropReason::PolicyFailed), Some(at(1000)))
    );
}

#[test]
fn an_answer_that_must_not_be_kept_is_used_for_its_frame_and_not_cached() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(R, A));
    let ruling = ruling(&bench.answer(
        &asked,
        Answer {
            cacheable: false,
            ..pass()
        },
    ))
    .unwrap();
    assert!(matches!(ruling.action, Action::Forward(_)));
    assert_eq!(ruling.cache, None);
    assert!(question(&bench.upcall(FROM_A, &ip(R, A))).is_some());
}

#[test]
fn a_flood_leaves_out_the_receivers_that_policy_refuses() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &broadcast(A));
    let asked = bench.answer(&asked, pass());
    assert_eq!(question(&asked).unwrap().2.port, PB);
    let Action::Forward(to) = ruling(&bench.answer(&asked, deny())).unwrap().action else {
        panic!()
    };
    assert_eq!(to.to_vec(), [To::Peer(N8), To::Peer(N9)]);
}
