//! Connections, tags, punts, frames of plugins, and groups.

use super::*;
use crate::ident::AttachmentId;

fn by_connection(verdict: Verdict, commit: bool) -> Answer {
    let mask = FlowMask {
        fields: Fields::CT,
        ..FlowMask::default()
    };
    let orders = Orders {
        commit,
        ct_mark: commit.then_some(7),
        ..Orders::default()
    };
    Answer {
        verdict,
        mask,
        orders,
        why: "stateful-firewall: pass".into(),
        ..pass()
    }
}

fn tracks(outputs: &[Out]) -> Vec<Option<Epoch>> {
    let since = |o: &Out| match o {
        Out::Track { since, .. } => Some(*since),
        _ => None,
    };
    outputs.iter().filter_map(since).collect()
}

#[test]
fn a_network_is_tracked_from_the_first_answer_that_looks_at_connections_until_its_last_plugin_goes()
{
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    assert!(tracks(&bench.drain()).is_empty());
    let asked = bench.upcall(FROM_A, &ip(B, A));
    let asked = bench.answer(&asked, pass());
    assert!(tracks(&asked).is_empty(), "nobody looks at connections");
    let told = bench.answer(&asked, by_connection(Verdict::Drop, false));
    let epoch = bench.switch.epoch();
    assert_eq!(tracks(&told), [Some(epoch)]);
    let track = told.iter().position(|o| matches!(o, Out::Track { .. }));
    let moved = told.iter().position(|o| matches!(o, Out::Epoch(_)));
    assert!(track < moved, "a lane that knows the epoch knows the table");
    bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    let next = bench.switch.epoch();
    assert!(next > epoch);
    assert_eq!(tracks(&bench.drain()), [Some(next)], "all are decided anew");
    bench.switch.set_policy(vni(), 0, at(0), &mut bench.out);
    assert_eq!(tracks(&bench.drain()), [None]);
}

#[test]
fn who_waits_when_a_network_becomes_a_tracked_one_is_asked_about_again_with_its_state() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    bench.drain();
    let first = bench.upcall(FROM_A, &ip(B, A));
    let other = bench.upcall(FROM_A, &udp(B, A, [10, 0, 0, 11], [10, 0, 0, 12], 54, 8));
    for asked in [&first, &other] {
        assert_eq!(question(asked).unwrap().2.key.ct, CtState::UNTRACKED);
    }
    let again = bench.answer(&first, by_connection(Verdict::Pass, true));
    assert!(ruling(&again).is_none(), "nothing rests on that answer");
    let states: Vec<CtState> = again
        .iter()
        .filter_map(|o| match o {
            Out::Ask { question, .. } => Some(question.key.ct),
            _ => None,
        })
        .collect();
    assert_eq!(states, [CtState::NEW, CtState::NEW]);
    assert!(
        bench.answer(&other, pass()).is_empty(),
        "it was asked without its state"
    );
    let ingress = bench.answer(&again, by_connection(Verdict::Pass, true));
    let ruled = ruling(&bench.answer(&ingress, pass())).unwrap();
    assert!(ruled.track.unwrap().commit);
    assert_eq!(ruled.cache.unwrap().key.ct, CtState::NEW);
}

#[test]
fn a_ruling_by_connection_bears_its_order_and_epoch_matches_the_state_and_stays_out_of_the_kernel()
{
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    bench.drain();
    bench.ct = Tracked {
        state: CtState::NEW,
        mark: 0,
    };
    let asked = bench.upcall(FROM_A, &ip(B, A));
    assert_eq!(question(&asked).unwrap().2.key.ct, CtState::NEW);
    let asked = bench.answer(&asked, by_connection(Verdict::Pass, true));
    let ruled = ruling(&bench.answer(&asked, pass())).unwrap();
    let order = ruled.track.unwrap();
    assert!(order.commit);
    assert_eq!(
        (order.mark, order.epoch, order.why.as_str()),
        (Some(7), bench.switch.epoch(), "stateful-firewall: pass")
    );
    assert_eq!(ruled.obstacle, Some(Obstacle::NoGate));
    let flow = ruled.cache.unwrap();
    assert!(flow.mask.fields.has(Fields::CT));
    assert_eq!(flow.key.ct, CtState::NEW);
    // An established frame is another question.
    bench.ct.state = CtState::ESTABLISHED;
    assert!(question(&bench.upcall(FROM_A, &ip(B, A))).is_some());
}

#[test]
fn a_punt_is_one_copy_a_frame_and_controller_also_of_what_is_refused_and_keeps_the_kernel_out() {
    let punt = |to, bytes| Punt {
        to: AttachmentId(to),
        bytes,
    };
    let orders = |punts: &[Punt]| Orders {
        punts: punts.to_vec(),
        ..Orders::default()
    };
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    bench
        .switch
        .set_plane(vni(), Some(Plane::default()), &mut bench.out);
    // In at A, out at B: asked twice, told once.
    let asked = bench.upcall(FROM_A, &ip(B, A));
    let asked = bench.answer(&asked, with_orders(orders(&[punt(1, 64)])));
    let told = bench.answer(&asked, with_orders(orders(&[punt(1, 0), punt(2, 14)])));
    let ruled = ruling(&told).unwrap();
    assert_eq!(ruled.obstacle, Some(Obstacle::Punted));
    let punts = ruled.punts.unwrap();
    let whose: Vec<_> = punts
        .iter()
        .map(|order| (order.punt, order.question.direction))
        .collect();
    assert_eq!(
        whose,
        [
            (punt(1, 0), Direction::Ingress),
            (punt(2, 14), Direction::Egress)
        ]
    );
    bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    let asked = bench.upcall(FROM_A, &ip(B, A));
    let refused = Answer {
        orders: orders(&[punt(1, 64)]),
        ..deny()
    };
    let ruled = ruling(&bench.answer(&asked, refused)).unwrap();
    assert_eq!(ruled.action, Action::Drop(DropReason::Policy));
    assert_eq!(ruled.punts.map(|punts| punts.len()), Some(1));
}

#[test]
fn what_was_said_under_a_tag_is_asked_anew_at_once_and_what_others_said_is_not() {
    let tagged = |of, tag: u32| Answer {
        parts: vec![Part {
            of: AttachmentId(of),
            tags: vec![tag],
        }],
        ..pass()
    };
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let (one, other) = (ip(R, A), udp(R, A, [10, 0, 0, 11], [10, 0, 0, 18], 7, 0));
    for (frame, tag) in [(&one, 1), (&other, 2)] {
        let asked = bench.upcall(FROM_A, frame);
        bench.answer(&asked, tagged(5, tag));
    }
    let epoch = bench.switch.epoch();
    let of = AttachmentId(5);
    bench
        .switch
        .invalidate_policy(vni(), of, Some(1), at(0), &mut bench.out);
    assert!(bench.switch.epoch() > epoch);
    bench.drain();
    assert!(question(&bench.upcall(FROM_A, &one)).is_some());
    assert!(ruling(&bench.upcall(FROM_A, &other)).is_some());
    // A question that is on its way is asked again, for its answer may be of before.
    let third = udp(R, A, [10, 0, 0, 11], [10, 0, 0, 18], 9, 0);
    let asked = bench.upcall(FROM_A, &third);
    bench
        .switch
        .invalidate_policy(vni(), of, Some(3), at(0), &mut bench.out);
    let again = bench.drain();
    assert!(ruling(&bench.answer(&asked, tagged(5, 3))).is_none());
    assert!(ruling(&bench.answer(&again, tagged(5, 3))).is_some());
    bench
        .switch
        .invalidate_policy(vni(), of, None, at(0), &mut bench.out);
    bench.drain();
    assert!(question(&bench.upcall(FROM_A, &other)).is_some());
}

#[test]
fn a_frame_of_a_plugin_goes_where_it_is_told_and_is_neither_asked_about_nor_learned_from() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    bench.drain();
    let send = |bench: &mut Bench, to, frame: Vec<u8>| {
        let packet = PacketOut {
            vni: vni(),
            to,
            frame: frame.into(),
        };
        let sent = bench.switch.packet_out(&packet, &mut bench.out);
        let outputs = bench.drain();
        let to: Vec<To> = injected(&outputs).into_iter().map(|(to, _)| to).collect();
        assert_eq!(outputs.len(), to.len(), "frames and nothing else");
        sent.map(|handed| {
            assert_eq!(handed as usize, to.len());
            to
        })
    };
    let all = [To::Port(PA), To::Port(PB), To::Peer(N8), To::Peer(N9)];
    for (to, frame, wanted) in [
        (PacketTo::Network, ip(B, X), &[To::Port(PB)][..]),
        (PacketTo::Network, ip(R, X), &[To::Peer(N8)]),
        (PacketTo::Network, ip(SERVICE, X), &[To::Port(PS)]),
        (PacketTo::Network, broadcast(X), &all),
        (PacketTo::Network, ip(MacAddr([2, 9, 9, 9, 9, 9]), X), &all),
        (PacketTo::Port(PA), ip(R, X), &[To::Port(PA)]),
        (PacketTo::Peer(N9.handle()), ip(B, X), &[To::Peer(N9)]),
        (
            PacketTo::Port(PA),
            ip(MacAddr([1, 0x80, 0xc2, 0, 0, 0xe]), X),
            &[To::Port(PA)],
        ),
    ] {
        assert_eq!(send(&mut bench, to, frame).unwrap(), wanted, "{to:?}");
    }
    assert!(bench.switch.fdb(vni()).iter().all(|row| row.mac != X));
    let wanted = |error: SendError, text: &str| {
        assert!(error.to_string().contains(text), "{error}");
    };
    for (to, frame, text) in [
        (PacketTo::Network, vec![0; 13], "13 bytes"),
        (
            PacketTo::Network,
            [ip(B, X), vec![0; 1600]].concat(),
            "with an MTU of 1450",
        ),
        (PacketTo::Network, ip(B, MULTICAST), "a group"),
        (
            PacketTo::Network,
            ip(MacAddr([1, 0x80, 0xc2, 0, 0, 0xe]), X),
            "stays on its link",
        ),
        (
            PacketTo::Port(PortId(99)),
            ip(B, X),
            "port 99 is not on the network",
        ),
        (PacketTo::Port(PS), ip(B, X), "port 3 is not on the network"),
        (
            PacketTo::Peer(7),
            ip(B, X),
            "peer 0x0000000000000007 is not",
        ),
    ] {
        wanted(send(&mut bench, to, frame).unwrap_err(), text);
    }
    let elsewhere = PacketOut {
        vni: Vni::new(9).unwrap(),
        to: PacketTo::Network,
        frame: ip(B, X).into(),
    };
    let error = bench
        .switch
        .packet_out(&elsewhere, &mut bench.out)
        .unwrap_err();
    wanted(error, "VNI 9");
}

fn group(kind: GroupKind, buckets: &[(BucketTarget, Option<MacAddr>, u16)]) -> Orders {
    let bucket = |&(to, mac, weight): &(BucketTarget, Option<MacAddr>, u16)| Bucket {
        weight,
        to,
        edits: mac.map(Edit::SetDstMac).into_iter().collect(),
    };
    Orders {
        group: Some(Arc::new(Group {
            name: "vip/web".into(),
            kind,
            buckets: buckets.iter().map(bucket).collect(),
        })),
        ..Orders::default()
    }
}

#[test]
fn a_group_sends_each_flow_one_way_that_is_there_and_all_of_them_by_one_ruling() {
    let nowhere = MacAddr([2, 9, 9, 9, 9, 9]);
    let ways = [
        (BucketTarget::Next, Some(B), 1),
        (BucketTarget::Next, Some(R), 1),
        (BucketTarget::Next, Some(nowhere), 1),
        (BucketTarget::Port(PortId(77)), None, 1),
        (BucketTarget::Port(PA), None, 1),
        (BucketTarget::Peer(N9.handle()), None, 0),
    ];
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    bench
        .switch
        .set_plane(vni(), Some(Plane::default()), &mut bench.out);
    bench.drain();
    let frame = |port: u16| {
        udp(
            X,
            A,
            [10, 0, 0, 11],
            [10, 0, 0, 100],
            53,
            usize::from(port % 7),
        )
        .into_iter()
        .enumerate()
        .map(|(at, byte)| match at {
            34 => (port >> 8) as u8,
            35 => port as u8,
            _ => byte,
        })
        .collect::<Vec<u8>>()
    };
    let asked = bench.upcall(FROM_A, &frame(0));
    let wide = |orders| Answer {
        mask: FlowMask::default(),
        ..with_orders(orders)
    };
    let egress = bench.answer(&asked, wide(group(GroupKind::Select, &ways)));
    let (_, _, about) = question(&egress).expect("the receiver here is asked");
    assert_eq!((about.port, about.key.dst_mac), (PB, B));
    let ruled = ruling(&bench.answer(&egress, wide(Orders::default()))).unwrap();
    assert_eq!(ruled.obstacle, Some(Obstacle::Redirected));
    let until = ruled.cache.as_ref().unwrap().until;
    assert_eq!(
        until,
        Some(at(crate::pipeline::UNKNOWN_MS)),
        "others may come"
    );
    assert_eq!(
        ruled.cache.as_ref().unwrap().mask.src_port,
        0,
        "for all flows"
    );
    let mut got = BTreeMap::new();
    for port in 0..1000 {
        let bytes = frame(port);
        let key = Frame::parse(&bytes).unwrap().flow_key(vni());
        let arm = ruled.choose(&key);
        let Action::Forward(to) = &arm.action else {
            panic!("{arm:?}")
        };
        let [Edit::SetDstMac(mac)] = arm.edits.as_deref().unwrap() else {
            panic!("{arm:?}")
        };
        *got.entry((to.to_vec(), *mac)).or_insert(0) += 1;
    }
    let wanted = [(vec![To::Port(PB)], B), (vec![To::Peer(N8)], R)];
    assert_eq!(got.keys().cloned().collect::<Vec<_>>(), wanted);
    assert!(got.values().all(|n| *n > 400), "{got:?}");
}

#[test]
fn a_failover_takes_the_first_way_that_is_there_and_a_refusal_of_one_arm_is_no_other_arms() {
    let ways = [
        (BucketTarget::Peer(N9.handle()), None, 1),
        (BucketTarget::Next, Some(B), 1),
        (BucketTarget::Drop, None, 1),
    ];
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let orders = |kind| with_orders(group(kind, &ways));
    let asked = bench.upcall(FROM_A, &ip(X, A));
    let ruled = ruling(&bench.answer(&asked, orders(GroupKind::Failover))).unwrap();
    assert_eq!(ruled.action, Action::Forward([To::Peer(N9)].into()));
    let epoch = bench.switch.epoch();
    bench.switch.set_members(vni(), [N8].into(), &mut bench.out);
    assert!(bench.switch.epoch() > epoch, "what is cached ends");
    bench.drain();
    let asked = bench.upcall(FROM_A, &ip(X, A));
    let ruled = ruling(&bench.answer(&asked, pass())).unwrap();
    assert_eq!(ruled.action, Action::Forward([To::Port(PB)].into()));

    bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    bench.drain();
    let asked = bench.upcall(FROM_A, &ip(X, A));
    let asked = bench.answer(&asked, orders(GroupKind::Select));
    let ruled = ruling(&bench.answer(&asked, deny())).unwrap();
    let arms = ruled.select.unwrap();
    let fates: Vec<&Action> = arms.iter().map(|arm| &arm.ruling.action).collect();
    let refused = Action::Drop(DropReason::Policy);
    assert_eq!(
        fates,
        [&refused, &refused],
        "B refuses, and one leads nowhere"
    );
    bench.switch.set_policy(vni(), 3, at(0), &mut bench.out);
    bench.drain();
    let asked = bench.upcall(FROM_A, &ip(X, A));
    let none = group(GroupKind::Select, &[(BucketTarget::Port(PA), None, 1)]);
    let ruled = ruling(&bench.answer(&asked, with_orders(none))).unwrap();
    assert_eq!(ruled.action, Action::Drop(DropReason::PolicyTarget));
}
