//! What is not let in.

use super::*;

#[test]
fn link_local_control_frames_stay_on_their_link() {
    let mut bench = Bench::new();
    for last in 0..16 {
        let bpdu = [
            &[0x01, 0x80, 0xc2, 0, 0, last][..],
            &A.0,
            &[0, 38],
            &[0x42; 38],
        ]
        .concat();
        assert_eq!(bench.drops(FROM_A, &bpdu), DropReason::LinkLocalControl);
    }
}

#[test]
fn a_container_cannot_send_with_the_mac_of_another_port_of_another_node_or_of_the_service() {
    let mut bench = Bench::new();
    for mac in [B, R, SERVICE] {
        assert_eq!(bench.drops(FROM_A, &ip(X, mac)), DropReason::SpoofedSource);
        assert!(
            bench.switch.drops()[&DropReason::SpoofedSource]
                .why
                .as_ref()
                .unwrap()
                .contains(&mac.to_string())
        );
    }
    for mac in [MacAddr([0; 6]), MacAddr::BROADCAST, MULTICAST] {
        assert_eq!(bench.drops(FROM_A, &ip(B, mac)), DropReason::InvalidSource);
    }
}

#[test]
fn a_peer_cannot_send_with_the_mac_of_a_port_here_or_of_another_node() {
    let mut bench = Bench::new();
    bench.switch.set_remote(
        vni(),
        &[remote(N8, R, 18), remote(N9, X, 19)],
        &mut bench.out,
    );
    for mac in [A, SERVICE, X] {
        assert_eq!(bench.drops(FROM_8, &ip(B, mac)), DropReason::SpoofedSource);
    }
    bench
        .switch
        .set_members(vni(), BTreeSet::from([N9]), &mut bench.out);
    assert_eq!(bench.drops(FROM_8, &ip(B, R)), DropReason::NotOnNetwork);
}

#[test]
fn a_ruling_on_a_peers_unknown_source_ends_when_the_source_turns_out_to_be_anothers() {
    let mut bench = Bench::new();
    assert_eq!(bench.receivers(FROM_8, &ip(B, X)), [To::Port(PB)]);
    let before = bench.switch.epoch();
    bench.switch.set_remote(
        vni(),
        &[remote(N8, R, 18), remote(N9, X, 19)],
        &mut bench.out,
    );
    assert!(bench.switch.epoch() > before);
    assert_eq!(bench.drops(FROM_8, &ip(B, X)), DropReason::SpoofedSource);
}

#[test]
fn a_peer_that_speaks_before_its_advert_came_costs_no_epoch() {
    let mut bench = Bench::new();
    bench.rule(FROM_8, &ip(MULTICAST, X));
    let before = bench.switch.epoch();
    let both = [remote(N8, R, 18), remote(N8, X, 19)];
    bench.switch.set_remote(vni(), &both, &mut bench.out);
    assert_eq!(bench.switch.epoch(), before);
}

#[test]
fn headers_that_lie_and_frames_that_are_too_long_are_dropped_and_short_frames_of_the_flow_are_not()
{
    let mut bench = Bench::new();
    let mut lie = ip(B, A);
    lie[16] = 0xff;
    assert_eq!(bench.drops(FROM_A, &lie), DropReason::Malformed);
    let long = udp(B, A, [10, 0, 0, 11], [10, 0, 0, 12], 53, 1450);
    let ruling = bench.rule(FROM_A, &long);
    assert_eq!(
        (ruling.action, ruling.cache),
        (Action::Drop(DropReason::TooLong), None)
    );
    let ruling = bench.rule(FROM_A, &ip(B, A));
    assert_eq!(
        (ruling.longest, bench.receivers(FROM_A, &ip(B, A))),
        (1472, vec![To::Port(PB)])
    );
}
