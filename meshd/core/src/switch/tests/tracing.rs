//! What a trace says, and what holds of any frame.

use super::*;

#[test]
fn a_trace_says_what_a_frame_would_meet_and_changes_nothing() {
    let mut bench = Bench::new();
    let nobody = MacAddr([2, 7, 7, 7, 7, 7]);
    let traced = bench.switch.trace(
        FROM_A,
        vni(),
        (&ip(nobody, X), Tracked::default()),
        &[],
        at(0),
    );
    assert!(bench.switch.fdb(vni()).iter().all(|row| row.mac != X));
    assert_eq!(
        traced
            .steps
            .iter()
            .map(|s| s.what.as_str())
            .collect::<Vec<_>>(),
        ["source check", "network", "lookup", "flood", "kernel"]
    );
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let TraceEnd::Ask(first) = bench
        .switch
        .trace(FROM_A, vni(), (&ip(B, A), Tracked::default()), &[], at(0))
        .end
    else {
        panic!()
    };
    assert_eq!(first.direction, Direction::Ingress);
    let TraceEnd::Ask(second) = bench
        .switch
        .trace(
            FROM_A,
            vni(),
            (&ip(B, A), Tracked::default()),
            &[pass()],
            at(0),
        )
        .end
    else {
        panic!()
    };
    assert_eq!(second.direction, Direction::Egress);
    let end = bench
        .switch
        .trace(
            FROM_A,
            vni(),
            (&ip(B, A), Tracked::default()),
            &[pass(), deny()],
            at(0),
        )
        .end;
    let TraceEnd::Ruled { ruling, why } = end else {
        panic!()
    };
    assert_eq!(
        (ruling.action, why.as_deref()),
        (Action::Drop(DropReason::Policy), Some("acl: udp/53"))
    );
}

fn any_mac() -> impl Strategy<Value = MacAddr> {
    prop_oneof![
        Just(A),
        Just(B),
        Just(R),
        Just(SERVICE),
        Just(X),
        Just(MULTICAST),
        Just(MacAddr::BROADCAST),
        Just(MacAddr([0; 6])),
        any::<[u8; 6]>().prop_map(MacAddr)
    ]
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..40);
    (
        any_mac(),
        any_mac(),
        0..6u8,
        any::<(u8, u8, u16)>(),
        payload,
    )
        .prop_map(|(dst, src, kind, (a, b, port), payload)| match kind {
            0 => udp(dst, src, [10, 0, 0, a], [10, 0, 0, b], port, payload.len()),
            1 => arp(
                dst,
                src,
                u16::from(a % 3),
                src,
                [10, 0, 0, a % 20],
                [10, 0, 0, b % 20],
            ),
            2 => v6(
                dst,
                src,
                Ipv6Addr::LOCALHOST,
                Ipv6Addr::LOCALHOST,
                17,
                64,
                &[&payload[..], &[0; 8]].concat(),
            ),
            3 => v6(
                dst,
                src,
                Ipv6Addr::LOCALHOST,
                Ipv6Addr::LOCALHOST,
                58,
                255,
                &[&[135, 0, 0, 0][..], &[0; 4], &[7; 16]].concat(),
            ),
            4 => [&dst.0[..], &src.0, &port.to_be_bytes(), &payload].concat(),
            _ => payload,
        })
}

fn any_origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        Just(FROM_A),
        Just(Origin::Port(PB)),
        Just(Origin::Port(PS)),
        Just(FROM_8),
        Just(Origin::Peer(N9))
    ]
}

proptest! {
    #[test]
    fn any_frames_are_ruled_once_never_back_never_from_peer_to_peer_and_as_traced(frames in proptest::collection::vec((any_origin(), any_frame()), 1..60)) {
        let mut bench = Bench::new();
        for (origin, frame) in frames {
            let traced = bench.switch.trace(origin, vni(), (&frame, Tracked::default()), &[], bench.now);
            let outputs = bench.upcall(origin, &frame);
            let rulings = outputs.iter().filter(|o| matches!(o, Out::Ruling { .. })).count();
            prop_assert_eq!(rulings, 1);
            let ruling = ruling(&outputs).unwrap();
            let TraceEnd::Ruled { ruling: expected, .. } = traced.end else { panic!() };
            prop_assert_eq!(&ruling.action, &expected.action);
            if let Action::Forward(to) = &ruling.action {
                let unique: BTreeSet<To> = to.iter().copied().collect();
                prop_assert!(!to.is_empty() && unique.len() == to.len());
                for output in to.iter() {
                    match (origin, output) {
                        (Origin::Port(from), To::Port(port)) => prop_assert_ne!(from, *port),
                        (Origin::Peer(_) | Origin::Port(PS), To::Peer(_)) => prop_assert!(false, "{origin:?} to {output:?}"),
                        (_, To::Port(PS)) => prop_assert_eq!(&frame[..6], &SERVICE.0),
                        _ => {}
                    }
                }
            }
        }
    }

    #[test]
    fn no_arp_or_nd_frame_ever_meets_a_cached_ruling(frames in proptest::collection::vec((any_origin(), any_frame()), 1..40), others in proptest::collection::vec(any_frame(), 1..40)) {
        let mut bench = Bench::new();
        let flows: Vec<Megaflow> = frames.iter().filter_map(|(origin, frame)| bench.rule(*origin, frame).cache).collect();
        for frame in others.iter().chain(frames.iter().map(|(_, f)| f)) {
            let Ok(frame) = Frame::parse(frame) else { continue };
            let key = frame.flow_key(vni());
            if is_neighborly(key.ip_kind) {
                prop_assert!(flows.iter().all(|flow| flow.mask.apply(&key) != flow.key));
            }
        }
    }
}

#[test]
fn under_one_ruling_each_flow_that_is_offered_gets_its_own_entry_without_asking_again() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let plane = crate::offload::Plane {
        here: [(A, PA), (B, PB)].into(),
        ..crate::offload::Plane::default()
    };
    bench.switch.set_plane(vni(), Some(plane), &mut bench.out);
    bench.drain();
    let opened = |outputs: &[Out]| -> Vec<u16> {
        let entries = outputs.iter().filter_map(|output| match output {
            Out::Gate(crate::offload::GateOp::Open(flow)) => flow.matches.l4,
            _ => None,
        });
        entries.map(|l4| l4.src_port).collect()
    };
    let frame = |src_port: u16| {
        let mut frame = udp(B, A, [10, 0, 0, 11], [10, 0, 0, 12], 53, 0);
        frame[34..36].copy_from_slice(&src_port.to_be_bytes());
        frame
    };
    let asked = bench.upcall(FROM_A, &frame(1000));
    let asked = bench.answer(&asked, pass());
    let outputs = bench.answer(&asked, pass());
    assert!(ruling(&outputs).unwrap().each_flow);
    assert_eq!(opened(&outputs), [1000]);
    let offered = Bytes::from(frame(1001));
    bench
        .switch
        .offer(FROM_A, vni(), offered, at(1), &mut bench.out);
    let outputs = bench.drain();
    assert_eq!(opened(&outputs), [1001]);
    assert!(question(&outputs).is_none() && ruling(&outputs).is_none());
    assert_eq!(bench.switch.offloads().iter().count(), 2);
}
