//! What policy orders: elsewhere, copies, meters, refusals that are told, rewrites.

use super::*;

#[test]
fn a_flood_goes_only_to_whom_policy_lets_it() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let only = FloodSet {
        ports: [PB].into(),
        peers: [N9.handle()].into(),
    };
    let nobody = FloodSet::default();
    for (set, wanted) in [(only, vec![To::Port(PB), To::Peer(N9)]), (nobody, vec![])] {
        let asked = bench.upcall(FROM_A, &broadcast(A));
        let flood = Some(set);
        let mut told = bench.answer(
            &asked,
            with_orders(Orders {
                flood,
                ..Orders::default()
            }),
        );
        while question(&told).is_some() {
            told = bench.answer(&told, pass());
        }
        match ruling(&told).unwrap().action {
            Action::Forward(to) => assert_eq!(to.to_vec(), wanted),
            action => assert_eq!((action, wanted), (Action::Drop(DropReason::Policy), vec![])),
        }
        bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    }
}

#[test]
fn policy_may_send_a_flow_elsewhere_and_only_to_places_that_are_on_the_network() {
    for (redirect, wanted) in [
        (Redirect::Port(PB), Ok(To::Port(PB))),
        (Redirect::Peer(N9.handle()), Ok(To::Peer(N9))),
        (Redirect::Port(PA), Err(DropReason::PolicyTarget)),
        (Redirect::Port(PortId(77)), Err(DropReason::PolicyTarget)),
        (Redirect::Peer(77), Err(DropReason::PolicyTarget)),
    ] {
        for frame in [ip(R, A), ip(X, A), broadcast(A)] {
            let mut bench = Bench::new();
            bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
            let asked = bench.upcall(FROM_A, &frame);
            let mut told = bench.answer(
                &asked,
                with_orders(Orders {
                    redirect: Some(redirect),
                    ..Orders::default()
                }),
            );
            // A port that gets it may refuse it.
            if question(&told).is_some() {
                assert_eq!(question(&told).unwrap().2.port, PB);
                told = bench.answer(&told, pass());
            }
            let ruling = ruling(&told).unwrap();
            match (&ruling.action, wanted) {
                (Action::Forward(to), Ok(wanted)) => assert_eq!(to.to_vec(), [wanted]),
                (Action::Drop(reason), Err(wanted)) => assert_eq!(*reason, wanted),
                other => panic!("{redirect:?}: {other:?}"),
            }
            assert!(ruling.cache.is_some() && ruling.obstacle.is_some());
        }
    }
}

#[test]
fn a_mirror_gets_a_copy_of_what_is_forwarded_and_of_nothing_else() {
    let mirrors = Orders {
        mirrors: [
            MirrorPlace::Port(PB),
            MirrorPlace::Port(PA),
            MirrorPlace::Port(PortId(77)),
            MirrorPlace::Peer(N9.handle()),
            MirrorPlace::Peer(77),
        ]
        .map(|to| Mirror { to, bytes: 64 })
        .into(),
        ..Orders::default()
    };
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(R, A));
    bench
        .switch
        .set_plane(vni(), Some(Plane::default()), &mut bench.out);
    let told = ruling(&bench.answer(&asked, with_orders(mirrors.clone()))).unwrap();
    assert_eq!(told.action, Action::Forward([To::Peer(N8)].into()));
    let copies = [To::Port(PB), To::Peer(N9)].map(|to| Copied { to, bytes: 64 });
    assert_eq!(told.copies.as_deref(), Some(&copies[..]));
    assert_eq!(told.obstacle, Some(Obstacle::Mirrored));
    bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(R, A));
    let refused = Answer {
        orders: mirrors,
        ..deny()
    };
    let told = ruling(&bench.answer(&asked, refused)).unwrap();
    assert_eq!(
        (told.action, told.copies),
        (Action::Drop(DropReason::Policy), None)
    );
}

#[test]
fn copies_of_members_leave_by_the_ports_that_take_them_and_by_none_where_none_does() {
    let mut bench = Bench::new();
    let told = |bench: &mut Bench| {
        let mut told = Vec::new();
        while let Some(output) = bench.out.pop() {
            if let Out::Monitor { monitor, .. } = output {
                told.push(monitor);
            }
        }
        told
    };
    assert!(told(&mut bench).is_empty());
    let face = PortFace {
        port: PortId(9),
        vni: vni(),
        mac: X,
        ips: Vec::new(),
        service: false,
        foreign: None,
        since: at(0),
        router: false,
        monitor: true,
        uplink: None,
    };
    let monitor = |ports: &[PortId], members: &[NodeId]| {
        Some(Monitor {
            ports: ports.iter().copied().collect(),
            members: members.iter().copied().collect(),
        })
    };
    let mut second = face.clone();
    (second.port, second.mac) = (PortId(10), MacAddr([2, 0, 0, 0, 0, 0x78]));
    bench.switch.add_port(face, at(0), &mut bench.out).unwrap();
    assert_eq!(told(&mut bench), [monitor(&[PortId(9)], &[N8, N9])]);
    bench
        .switch
        .add_port(second, at(0), &mut bench.out)
        .unwrap();
    let both = [PortId(9), PortId(10)];
    assert_eq!(told(&mut bench), [monitor(&both, &[N8, N9])]);
    bench.switch.set_members(vni(), [N9].into(), &mut bench.out);
    assert_eq!(told(&mut bench), [monitor(&both, &[N9])]);
    bench.switch.remove_port(PB, at(0), &mut bench.out);
    assert!(told(&mut bench).is_empty(), "nothing has changed");
    bench.switch.remove_port(PortId(9), at(0), &mut bench.out);
    bench.switch.remove_port(PortId(10), at(0), &mut bench.out);
    assert_eq!(told(&mut bench), [monitor(&both[1..], &[N9]), None]);
}

#[test]
fn a_metered_or_counted_flow_stays_with_the_daemon_and_a_refusal_is_counted_and_not_charged() {
    let meter = Arc::new(Meter::new("m".into(), Rate::Pps(1), 0));
    let mut counted = Dues::default();
    counted.count(Arc::default());
    let mut metered = counted.clone();
    metered.meter(meter);
    for (dues, obstacle) in [
        (counted.clone(), Obstacle::Counted),
        (metered.clone(), Obstacle::Metered),
    ] {
        let mut bench = Bench::new();
        bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
        bench
            .switch
            .set_plane(vni(), Some(Plane::default()), &mut bench.out);
        let orders = Orders {
            dues: dues.clone(),
            ..Orders::default()
        };
        let asked = bench.upcall(FROM_A, &ip(R, A));
        let ruled = ruling(&bench.answer(&asked, with_orders(orders.clone()))).unwrap();
        assert_eq!(ruled.obstacle, Some(obstacle));
        assert_eq!(ruled.dues.as_deref(), Some(&dues));
        bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
        let asked = bench.upcall(FROM_A, &ip(R, A));
        let refused = Answer { orders, ..deny() };
        let ruled = ruling(&bench.answer(&asked, refused)).unwrap();
        assert_eq!(ruled.dues.as_deref(), Some(&counted));
    }
}

#[test]
fn who_is_refused_is_told_if_the_plugin_wants_it_and_not_for_each_frame() {
    let rejects = Answer {
        orders: Orders {
            reject: true,
            ..Orders::default()
        },
        ..deny()
    };
    // From a port here: at the sender. From a peer: at the receiver, and the answer goes back there.
    for (from, frame, back) in [
        (FROM_A, ip(R, A), To::Port(PA)),
        (FROM_8, ip(B, R), To::Peer(N8)),
    ] {
        let mut bench = Bench::new();
        bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
        let asked = bench.upcall(from, &frame);
        let told = bench.answer(&asked, rejects.clone());
        let frames = injected(&told);
        assert_eq!(frames.len(), 1);
        let (to, answer) = &frames[0];
        let parsed = Frame::parse(answer).unwrap();
        let asker = Frame::parse(&frame).unwrap();
        assert_eq!(
            (*to, parsed.dst(), parsed.src()),
            (back, asker.src(), asker.dst())
        );
        let cache = ruling(&told).unwrap().cache.unwrap();
        assert_eq!(cache.until, Some(at(crate::pipeline::REJECTED_MS)));
    }
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &broadcast(A));
    assert!(
        injected(&bench.answer(&asked, rejects)).is_empty(),
        "a group"
    );
}

#[test]
fn what_policy_changes_is_seen_by_the_receivers_policy_and_by_the_fdb() {
    let edits = |edits: &[Edit]| Orders {
        edits: edits.to_vec(),
        ..Orders::default()
    };
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    // To R on node 8; it is sent to B here instead, with a tag.
    let asked = bench.upcall(FROM_A, &ip(R, A));
    let changes = [Edit::SetDstMac(B), Edit::PushVlan(7), Edit::SetDscp(46)];
    let asked = bench.answer(&asked, with_orders(edits(&changes)));
    let (_, _, out) = question(&asked).unwrap();
    assert_eq!((out.direction, out.port), (Direction::Egress, PB));
    assert_eq!(
        (out.key.dst_mac, out.key.vlan, out.key.dscp),
        (B, 0x1007, 46)
    );
    let ruling_b = ruling(&bench.answer(&asked, pass())).unwrap();
    assert!(matches!(&ruling_b.action, Action::Forward(to) if to[..] == [To::Port(PB)]));
    assert_eq!(ruling_b.edits.as_deref(), Some(&changes[..]));
    let mask = ruling_b.cache.unwrap().mask;
    assert!(
        mask.fields.has(Fields::VLAN.with(Fields::INNER_VLAN)),
        "of the frame as it came"
    );
    assert_eq!(mask.dst_mac, 48);
    // Nowhere, or back to where it came from.
    for dst in [X, A] {
        bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
        let asked = bench.upcall(FROM_A, &ip(B, A));
        let told = bench.answer(&asked, with_orders(edits(&[Edit::SetDstMac(dst)])));
        assert_eq!(
            ruling(&told).unwrap().action,
            Action::Drop(DropReason::PolicyTarget)
        );
    }
}

#[test]
fn a_ruling_on_an_answer_with_an_end_ends_with_it() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(R, A));
    let ends = Answer {
        hard_ms: Some(250),
        ..pass()
    };
    let cache = ruling(&bench.answer(&asked, ends)).unwrap().cache.unwrap();
    assert_eq!((cache.until, cache.idle_ms), (Some(at(250)), None));
}

#[test]
fn a_ruling_on_an_answer_that_ends_without_frames_says_so_and_stays_out_of_the_kernel() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(R, A));
    let ends = Answer {
        idle_ms: Some(250),
        ..pass()
    };
    let ruling = ruling(&bench.answer(&asked, ends)).unwrap();
    assert_eq!(ruling.obstacle, Some(crate::offload::Obstacle::Idle));
    let cache = ruling.cache.unwrap();
    assert_eq!((cache.until, cache.idle_ms), (None, Some(250)));
}

#[test]
fn a_port_that_goes_takes_its_questions_with_it() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    bench.upcall(FROM_A, &ip(B, A));
    bench.switch.remove_port(PA, at(0), &mut bench.out);
    assert_eq!(
        ruling(&bench.drain()).unwrap().action,
        Action::Drop(DropReason::NotOnNetwork)
    );
    assert!(bench.switch.pending.is_empty());
}
