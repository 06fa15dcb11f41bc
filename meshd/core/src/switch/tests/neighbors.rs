//! ARP, ND and the service.

use super::*;

#[test]
fn arp_for_a_known_address_is_answered_to_the_asker_alone_and_never_cached() {
    let mut bench = Bench::new();
    for (last, owner) in [(12, B), (18, R), (1, SERVICE)] {
        let outputs = bench.upcall(
            FROM_A,
            &arp(
                MacAddr::BROADCAST,
                A,
                1,
                A,
                [10, 0, 0, 11],
                [10, 0, 0, last],
            ),
        );
        let Out::Inject {
            to: To::Port(port),
            frame,
            ..
        } = &outputs[0]
        else {
            panic!("{outputs:?}")
        };
        assert_eq!(
            (
                *port,
                Frame::parse(frame).unwrap().arp().unwrap().sender_mac
            ),
            (PA, owner)
        );
        let ruling = ruling(&outputs).unwrap();
        assert_eq!((ruling.action, ruling.cache), (Action::Consume, None));
    }
    let unknown = bench.rule(
        FROM_A,
        &arp(MacAddr::BROADCAST, A, 1, A, [10, 0, 0, 11], [10, 0, 0, 99]),
    );
    assert!(matches!(unknown.action, Action::Forward(to) if to.len() == 3));
    assert_eq!(unknown.cache, None);
}

/// What is told, as (port, MAC).
fn announced(bench: &mut Bench) -> Vec<(PortId, MacAddr)> {
    let due = bench.switch.poll_timeout().expect("something to do");
    assert!(due <= bench.now.plus_ms(5));
    bench.now = bench.now.max(due);
    bench.switch.handle_timeout(bench.now, &mut bench.out);
    let told = bench.drain().into_iter().filter_map(|output| match output {
        Out::Inject {
            to: To::Port(port),
            frame,
            ..
        } => Some((port, Frame::parse(&frame).unwrap().src())),
        _ => None,
    });
    told.collect()
}

#[test]
fn an_address_that_has_another_mac_is_told_to_the_other_ports_here_whoever_has_it() {
    let mut bench = Bench::new();
    assert_eq!(bench.switch.poll_timeout(), None);
    // Elsewhere, after a while without an owner.
    bench.switch.set_remote(vni(), &[], &mut bench.out);
    assert_eq!(bench.switch.poll_timeout(), None);
    bench
        .switch
        .set_remote(vni(), &[remote(N9, X, 18)], &mut bench.out);
    assert_eq!(announced(&mut bench), [(PA, X), (PB, X)]);
    // Here: the same address behind a new port, in both families.
    bench.switch.remove_port(PB, bench.now, &mut bench.out);
    let ips = vec![IpAddr::from([10, 0, 0, 18]), "fd00::18".parse().unwrap()];
    let mut face = PortFace {
        port: PortId(9),
        vni: vni(),
        mac: B,
        ips: ips.clone(),
        service: false,
        foreign: None,
        since: Moment(0),
        router: false,
        monitor: false,
        uplink: None,
    };
    bench
        .switch
        .add_port(face.clone(), bench.now, &mut bench.out)
        .unwrap();
    assert_eq!(announced(&mut bench), [(PA, B)]);
    bench
        .switch
        .remove_port(PortId(9), bench.now, &mut bench.out);
    (face.port, face.mac) = (PortId(10), MacAddr([2, 0, 0, 0, 0, 0xc]));
    bench.switch.set_remote(vni(), &[], &mut bench.out);
    bench
        .switch
        .add_port(face.clone(), bench.now, &mut bench.out)
        .unwrap();
    assert_eq!(announced(&mut bench), [(PA, face.mac), (PA, face.mac)]);
    assert_eq!(bench.switch.poll_timeout(), None);
}

#[test]
fn a_claim_of_anothers_address_goes_nowhere() {
    let mut bench = Bench::new();
    for last in [12, 18, 1] {
        assert_eq!(
            bench.drops(
                FROM_A,
                &arp(
                    MacAddr::BROADCAST,
                    A,
                    2,
                    A,
                    [10, 0, 0, last],
                    [10, 0, 0, last]
                )
            ),
            DropReason::SpoofedAddress
        );
    }
}

#[test]
fn a_router_advertisement_passes_from_a_labelled_port_alone_and_meets_no_cached_ruling() {
    let mut bench = Bench::new();
    let all = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    let ip: Ipv6Addr = "fe80::ff:fe00:a".parse().unwrap();
    let to = "ff02::1".parse().unwrap();
    let other = v6(all, A, ip, to, 17, 64, &[0; 8]);
    let routes = v6(
        all,
        A,
        ip,
        to,
        58,
        255,
        &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    let cached = bench.rule(FROM_A, &other).cache.unwrap();
    let key = Frame::parse(&routes).unwrap().flow_key(vni());
    assert_ne!(cached.mask.apply(&key), cached.key);
    assert_eq!(
        bench.drops(FROM_A, &routes),
        DropReason::RouterAdvertisement
    );
    let face = PortFace {
        port: PA,
        vni: vni(),
        mac: A,
        ips: vec![],
        service: false,
        foreign: None,
        since: Moment(0),
        router: true,
        monitor: false,
        uplink: None,
    };
    bench.switch.add_port(face, at(0), &mut bench.out).unwrap();
    let ruling = bench.rule(FROM_A, &routes);
    assert!(matches!(ruling.action, Action::Forward(to) if to.len() == 3));
    assert_eq!(ruling.cache, None);
}

#[test]
fn the_service_is_reached_by_ports_here_and_speaks_to_nobody_else() {
    let mut bench = Bench::new();
    let from_service = Origin::Port(PS);
    assert_eq!(bench.receivers(FROM_A, &ip(SERVICE, A)), [To::Port(PS)]);
    assert_eq!(
        bench.receivers(from_service, &ip(A, SERVICE)),
        [To::Port(PA)]
    );
    for dst in [R, X, MULTICAST, MacAddr::BROADCAST] {
        assert_eq!(
            bench.drops(from_service, &ip(dst, SERVICE)),
            DropReason::NoReceiver
        );
    }
    assert_eq!(
        bench.drops(from_service, &ip(A, X)),
        DropReason::SpoofedSource
    );
    let ask = arp(
        MacAddr::BROADCAST,
        SERVICE,
        1,
        SERVICE,
        [10, 0, 0, 1],
        [10, 0, 0, 99],
    );
    assert_eq!(
        bench.receivers(from_service, &ask),
        [To::Port(PA), To::Port(PB)]
    );
}
