#![allow(clippy::unwrap_used)]
//! Claims about the switch, one network at a time: who gets a frame, who does not, and why.

use super::*;
use crate::conntrack::CtState;
use crate::dues::{Dues, Meter, Rate};
use crate::edit::Edit;
use crate::fdb::{AGE_MS, HOLD_MS};
use crate::flow::Fields;
use crate::frame::tests::{arp, udp, v6};
use crate::group::{Bucket, BucketTarget, Group, GroupKind};
use crate::offload::Plane;
use crate::policy::{FloodSet, Mirror, MirrorPlace, Orders, Part, Punt, Redirect, Verdict};
use crate::ruling::{Copied, Output as To};
use proptest::prelude::*;
use std::net::Ipv6Addr;
use std::sync::Arc;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
/// On node 8.
const R: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x8f]);
const SERVICE: MacAddr = MacAddr([2, 0x6d, 0x64, 0, 0, 7]);
/// Nobody's.
const X: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);
const MULTICAST: MacAddr = MacAddr([1, 0, 0x5e, 0, 0, 5]);
const PA: PortId = PortId(1);
const PB: PortId = PortId(2);
const PS: PortId = PortId(3);
const N8: NodeId = NodeId([8; 32]);
const N9: NodeId = NodeId([9; 32]);
const FROM_A: Origin = Origin::Port(PA);
const FROM_8: Origin = Origin::Peer(N8);

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn at(ms: u64) -> Moment {
    Moment(0).plus_ms(ms)
}

/// Ports 1 and 2 (A, B) and the service on a network that nodes 8 (with R) and 9 have too.
struct Bench {
    switch: Switch,
    out: Outbox,
    now: Moment,
    upcalls: u64,
    /// Of the frames that come.
    ct: Tracked,
}

fn remote(node: NodeId, mac: MacAddr, last: u8) -> RemoteEndpoint {
    RemoteEndpoint {
        node,
        mac,
        ips: vec![IpAddr::from([10, 0, 0, last])],
        roams: None,
        router: false,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(SwitchLimits::default())
    }

    fn with(limits: SwitchLimits) -> Self {
        let (mut switch, mut out) = (Switch::new(limits, Epoch(0), 7), Outbox::default());
        switch.set_network(vni(), 1450, &mut out);
        for (port, mac, last, service) in [
            (PA, A, 11, false),
            (PB, B, 12, false),
            (PS, SERVICE, 1, true),
        ] {
            let face = PortFace {
                port,
                vni: vni(),
                mac,
                ips: vec![IpAddr::from([10, 0, 0, last])],
                service,
                foreign: None,
                since: Moment(0),
                router: false,
                monitor: false,
            };
            switch.add_port(face, at(0), &mut out).unwrap();
        }
        switch.set_members(vni(), BTreeSet::from([N8, N9]), &mut out);
        switch.set_remote(vni(), &[remote(N8, R, 18)], &mut out);
        let mut bench = Self {
            switch,
            out,
            now: at(0),
            upcalls: 0,
            ct: Tracked::default(),
        };
        bench.drain();
        bench
    }

    fn drain(&mut self) -> Vec<Out> {
        std::iter::from_fn(|| self.out.pop()).collect()
    }

    fn upcall(&mut self, origin: Origin, frame: &[u8]) -> Vec<Out> {
        self.upcalls += 1;
        self.switch.upcall(
            origin,
            UpcallId(self.upcalls),
            (vni(), self.ct),
            &Bytes::copy_from_slice(frame),
            self.now,
            &mut self.out,
        );
        self.drain()
    }

    /// The ruling on a frame that needs no policy.
    fn rule(&mut self, origin: Origin, frame: &[u8]) -> Ruling {
        ruling(&self.upcall(origin, frame)).unwrap()
    }

    fn drops(&mut self, origin: Origin, frame: &[u8]) -> DropReason {
        match self.rule(origin, frame).action {
            Action::Drop(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn receivers(&mut self, origin: Origin, frame: &[u8]) -> Vec<To> {
        match self.rule(origin, frame).action {
            Action::Forward(to) => to.to_vec(),
            other => panic!("{other:?}, {:?}", self.switch.drops()),
        }
    }

    fn answer(&mut self, asked: &[Out], answer: Answer) -> Vec<Out> {
        let (query, epoch, _) = question(asked).expect("a question");
        self.switch
            .answer(query, epoch, answer.into(), self.now, &mut self.out);
        self.drain()
    }
}

fn ruling(outputs: &[Out]) -> Option<Ruling> {
    outputs.iter().find_map(|o| {
        if let Out::Ruling { ruling, .. } = o {
            Some(ruling.clone())
        } else {
            None
        }
    })
}

fn question(outputs: &[Out]) -> Option<(QueryId, Epoch, Question)> {
    outputs.iter().find_map(|o| {
        if let Out::Ask {
            query,
            epoch,
            question,
        } = o
        {
            Some((*query, *epoch, question.clone()))
        } else {
            None
        }
    })
}

fn pass() -> Answer {
    let mask = FlowMask {
        dst_port: 0xffff,
        ..FlowMask::default()
    };
    Answer {
        mask,
        why: "acl: pass".into(),
        ..Answer::of(Verdict::Pass)
    }
}

fn deny() -> Answer {
    Answer {
        verdict: Verdict::Drop,
        why: "acl: udp/53".into(),
        ..pass()
    }
}

fn ip(dst: MacAddr, src: MacAddr) -> Vec<u8> {
    udp(dst, src, [10, 0, 0, 11], [10, 0, 0, 12], 53, 8)
}

fn broadcast(src: MacAddr) -> Vec<u8> {
    ip(MacAddr::BROADCAST, src)
}

// Where frames go.

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

// What is not let in.

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

// Learning.

#[test]
fn a_second_mac_behind_a_port_is_learned_told_once_and_found_by_others() {
    let mut bench = Bench::new();
    assert!(bench.switch.take_learned().is_empty());
    bench.rule(FROM_A, &broadcast(X));
    assert_eq!(bench.switch.take_learned(), [(vni(), vec![(X, PA)])]);
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
    assert_eq!(bench.switch.take_learned(), [(vni(), vec![])]);
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

// ARP, ND and the service.

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

// Policy.

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

fn with_orders(orders: Orders) -> Answer {
    Answer { orders, ..pass() }
}

fn injected(outputs: &[Out]) -> Vec<(To, Vec<u8>)> {
    let frames = outputs.iter().filter_map(|output| match output {
        Out::Inject { to, frame, .. } => Some((*to, frame.to_vec())),
        _ => None,
    });
    frames.collect()
}

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

// The epoch.

#[test]
fn the_epoch_grows_only_when_an_old_ruling_may_be_wrong() {
    let mut bench = Bench::new();
    let start = bench.switch.epoch();
    bench.rule(FROM_A, &ip(B, A));
    bench.rule(FROM_A, &broadcast(X));
    bench.switch.set_network(vni(), 1450, &mut bench.out);
    bench
        .switch
        .set_members(vni(), BTreeSet::from([N8, N9]), &mut bench.out);
    let more = MacAddr([2, 9, 9, 9, 9, 9]);
    bench.switch.set_remote(
        vni(),
        &[remote(N8, R, 18), remote(N8, more, 20)],
        &mut bench.out,
    );
    assert_eq!(
        bench.switch.epoch(),
        start,
        "new MACs that nobody asked for change no ruling"
    );
    bench.switch.set_remote(
        vni(),
        &[remote(N8, R, 18), remote(N9, more, 20)],
        &mut bench.out,
    );
    assert_eq!(bench.switch.epoch().0, start.0 + 1, "a MAC on another node");
    bench
        .switch
        .set_remote(vni(), &[remote(N8, R, 18)], &mut bench.out);
    assert_eq!(bench.switch.epoch().0, start.0 + 2, "a MAC withdrawn");
    bench
        .switch
        .set_members(vni(), BTreeSet::from([N8]), &mut bench.out);
    assert_eq!(bench.switch.epoch().0, start.0 + 3, "a peer gone");
    let epochs: Vec<Epoch> = bench
        .drain()
        .iter()
        .filter_map(|o| {
            if let Out::Epoch(e) = o {
                Some(*e)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(epochs.last(), Some(&bench.switch.epoch()));
}

#[test]
fn more_unknown_macs_than_can_be_remembered_cost_epochs_not_wrong_rulings() {
    let mut bench = Bench::with(SwitchLimits {
        unknown: 2,
        ..SwitchLimits::default()
    });
    for last in 0..5 {
        bench.rule(FROM_A, &ip(MacAddr([2, 5, 0, 0, 0, last]), A));
    }
    let before = bench.switch.epoch();
    bench.switch.set_remote(
        vni(),
        &[
            remote(N8, R, 18),
            remote(N9, MacAddr([2, 5, 0, 0, 0, 4]), 20),
        ],
        &mut bench.out,
    );
    assert!(bench.switch.epoch() > before);
}

#[test]
fn two_ports_cannot_have_one_mac() {
    let mut bench = Bench::new();
    let face = PortFace {
        port: PortId(5),
        vni: vni(),
        mac: A,
        ips: vec![],
        service: false,
        foreign: None,
        since: Moment(0),
        router: false,
        monitor: false,
    };
    let error = bench
        .switch
        .add_port(face.clone(), at(0), &mut bench.out)
        .unwrap_err();
    assert_eq!(
        error,
        AddPortError::MacTaken {
            port: PortId(5),
            mac: A,
            holder: PA
        }
    );
    let elsewhere = PortFace {
        vni: Vni::new(99).unwrap(),
        ..face
    };
    assert!(matches!(
        bench.switch.add_port(elsewhere, at(0), &mut bench.out),
        Err(AddPortError::UnknownVni { .. })
    ));
}

// Tracing.

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

// Connections.

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
