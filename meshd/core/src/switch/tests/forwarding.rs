//! Where frames go.

use super::*;

#[test]
fn known_unicast_goes_to_its_port_or_node_alone_and_may_be_cached() {
    let mut bench = Bench::new();
    assert_eq!(bench.receivers(FROM_A, &ip(B, A)), [To::Port(PB)]);
    assert_eq!(bench.receivers(FROM_A, &ip(R, A)), [To::Peer(N8)]);
    assert_eq!(bench.receivers(FROM_8, &ip(B, R)), [To::Port(PB)]);
    let flow = bench.rule(FROM_A, &ip(R, A)).cache.unwrap();
    assert_eq!(
        (flow.mask.dst_mac, flow.mask.dst_ip, flow.until, flow.epoch),
        (48, 0, None, bench.switch.epoch())
    );
}

#[test]
fn what_is_for_all_goes_to_the_other_ports_and_to_each_peer_once_but_not_to_the_service() {
    let mut bench = Bench::new();
    for dst in [MacAddr::BROADCAST, MULTICAST, X] {
        assert_eq!(
            bench.receivers(FROM_A, &ip(dst, A)),
            [To::Port(PB), To::Peer(N8), To::Peer(N9)]
        );
    }
}

#[test]
fn nothing_from_a_peer_goes_to_a_peer() {
    let mut bench = Bench::new();
    for dst in [MacAddr::BROADCAST, MULTICAST, X] {
        assert_eq!(
            bench.receivers(FROM_8, &ip(dst, R)),
            [To::Port(PA), To::Port(PB)]
        );
    }
    bench.switch.set_remote(
        vni(),
        &[remote(N8, R, 18), remote(N9, X, 19)],
        &mut bench.out,
    );
    assert_eq!(bench.drops(FROM_8, &ip(X, R)), DropReason::SplitHorizon);
    assert_eq!(
        bench.drops(FROM_8, &ip(SERVICE, R)),
        DropReason::SplitHorizon
    );
}

#[test]
fn unknown_unicast_is_flooded_for_a_second_at_most_and_no_longer_once_the_owner_is_known() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.rule(FROM_A, &ip(X, A)).cache.unwrap().until,
        Some(at(1000))
    );
    let before = bench.switch.epoch();
    bench.switch.set_remote(
        vni(),
        &[remote(N8, R, 18), remote(N9, X, 19)],
        &mut bench.out,
    );
    assert!(bench.switch.epoch() > before);
    assert_eq!(bench.receivers(FROM_A, &ip(X, A)), [To::Peer(N9)]);
}

#[test]
fn a_frame_for_nobody_else_and_one_for_its_own_port_are_dropped() {
    let mut bench = Bench::new();
    bench
        .switch
        .set_members(vni(), BTreeSet::new(), &mut bench.out);
    bench.switch.remove_port(PB, at(0), &mut bench.out);
    assert_eq!(bench.drops(FROM_A, &broadcast(A)), DropReason::NoReceiver);
    assert_eq!(bench.drops(FROM_A, &ip(A, X)), DropReason::Hairpin);
}

#[test]
fn networks_do_not_mix() {
    let mut bench = Bench::new();
    let other = Vni::new(8).unwrap();
    bench.switch.set_network(other, 1450, &mut bench.out);
    let face = PortFace {
        port: PortId(9),
        vni: other,
        mac: X,
        ips: vec![],
        service: false,
        foreign: None,
        since: Moment(0),
        router: false,
        monitor: false,
        uplink: None,
    };
    bench.switch.add_port(face, at(0), &mut bench.out).unwrap();
    assert!(
        !bench
            .receivers(FROM_A, &broadcast(A))
            .contains(&To::Port(PortId(9)))
    );
    assert_eq!(
        bench.receivers(FROM_A, &ip(X, A)),
        [To::Port(PB), To::Peer(N8), To::Peer(N9)]
    );
    let frame = Bytes::from(ip(B, R));
    bench.switch.upcall(
        FROM_8,
        UpcallId(0),
        (other, Tracked::default()),
        &frame,
        at(0),
        &mut bench.out,
    );
    assert_eq!(
        ruling(&bench.drain()).unwrap().action,
        Action::Drop(DropReason::NotOnNetwork)
    );
    bench.switch.upcall(
        FROM_A,
        UpcallId(0),
        (Vni::new(99).unwrap(), Tracked::default()),
        &frame,
        at(0),
        &mut bench.out,
    );
    assert_eq!(
        ruling(&bench.drain()).unwrap().action,
        Action::Drop(DropReason::UnknownVni)
    );
    bench.switch.upcall(
        FROM_A,
        UpcallId(0),
        (other, Tracked::default()),
        &frame,
        at(0),
        &mut bench.out,
    );
    assert_eq!(
        ruling(&bench.drain()).unwrap().action,
        Action::Drop(DropReason::NotOnNetwork)
    );
}
