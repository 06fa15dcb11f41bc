use crate::conntrack::Tracked;
use crate::flow::{Fields, Origin};
use crate::group::{Bucket, BucketTarget, Group, GroupKind};
use crate::ident::{Epoch, MacAddr, Moment, NodeId, PortId, UpcallId, Vni};
use crate::node::Output as Out;
use crate::offload::{Obstacle, PathSlot, Plane};
use crate::outbox::Outbox;
use crate::policy::{Answer, NamedPath, Orders, PathLost, Redirect, Verdict};
use crate::ruling::{Action, DropReason, Ruling};
use crate::steering::{MAIN_COST, Route, SteerAnswer, WayFace, WayId};
use crate::switch::{PortFace, RemoteEndpoint, Switch, SwitchLimits};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const PORT: PortId = PortId(1);
const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PEER: NodeId = NodeId([9; 32]);

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

fn link() -> WayId {
    WayId::link(0).unwrap()
}

/// A UDP packet with this DSCP.
fn packet(dscp: u8) -> Bytes {
    let mut out = [&THERE.0[..], &HERE.0[..], &[8, 0]].concat();
    let tos = dscp << 2;
    out.extend([
        0x45, tos, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    out.extend([0x10, 0, 0x20, 0, 0, 12, 0, 0, 1, 2, 3, 4]);
    out.into()
}

struct Bench {
    switch: Switch,
    out: Outbox,
}

impl Bench {
    fn new() -> Self {
        let (mut switch, mut out) = (
            Switch::new(SwitchLimits::default(), Epoch(0), 7),
            Outbox::default(),
        );
        switch.set_network(vni(), 1450, &mut out);
        let face = PortFace {
            port: PORT,
            vni: vni(),
            mac: HERE,
            ips: Vec::new(),
            service: false,
            foreign: None,
            since: Moment(0),
            router: false,
            monitor: false,
            uplink: None,
        };
        switch.add_port(face, at(0), &mut out).unwrap();
        switch.set_members(vni(), BTreeSet::from([PEER]), &mut out);
        let there = RemoteEndpoint {
            node: PEER,
            mac: THERE,
            ips: Vec::new(),
            shared: Vec::new(),
            roams: None,
            router: false,
        };
        switch.set_remote(vni(), &[there], &mut out);
        // The kernel could hold what goes there.
        let plane = Plane {
            here: [(HERE, PORT)].into(),
            there: [(THERE, PEER)].into(),
            open: [(PEER, PathSlot(1))].into(),
            slots: [(PEER, PathSlot(1))].into(),
            vxlan: true,
            ..Plane::default()
        };
        switch.set_plane(vni(), Some(plane), &mut out);
        let mut bench = Self { switch, out };
        bench.ways(true);
        bench
    }

    fn ways(&mut self, link_up: bool) {
        let face = |way, cost, up| WayFace {
            way,
            name: format!("{way}"),
            cost,
            rate_kbps: None,
            up,
        };
        let faces = vec![face(WayId::MAIN, MAIN_COST, true), face(link(), 1, link_up)];
        self.switch
            .set_ways(BTreeMap::from([(PEER, faces)]), &mut self.out);
    }

    fn drain(&mut self) -> Vec<Out> {
        std::iter::from_fn(|| self.out.pop()).collect()
    }

    fn upcall(&mut self, dscp: u8) -> Vec<Out> {
        self.drain();
        // Late enough that the source is not fresh.
        let (origin, network) = (Origin::Port(PORT), (vni(), Tracked::default()));
        let frame = packet(dscp);
        self.switch.upcall(
            origin,
            UpcallId(1),
            network,
            &frame,
            at(60_000),
            &mut self.out,
        );
        self.drain()
    }

    fn rule(&mut self, dscp: u8) -> Ruling {
        ruling(&self.upcall(dscp)).unwrap()
    }

    /// The ruling where policy names a way.
    fn named(&mut self, way: u32, lost: PathLost) -> Ruling {
        let asked = self.upcall(0);
        let found = asked.iter().find_map(|out| match out {
            Out::Ask { query, epoch, .. } => Some((*query, *epoch)),
            _ => None,
        });
        let Some((query, epoch)) = found else {
            return ruling(&asked).unwrap();
        };
        let redirect = Some(Redirect::Path(NamedPath {
            peer: PEER.handle(),
            way,
            lost,
        }));
        let answer = Answer {
            orders: Orders {
                redirect,
                ..Orders::default()
            },
            ..Answer::of(Verdict::Pass)
        };
        self.switch
            .answer(query, epoch, answer.into(), at(60_000), &mut self.out);
        ruling(&self.drain()).unwrap()
    }

    /// The ruling where policy lets a group choose between the peer and nobody.
    fn grouped(&mut self) -> Ruling {
        let asked = self.upcall(46);
        let found = asked.iter().find_map(|out| match out {
            Out::Ask { query, epoch, .. } => Some((*query, *epoch)),
            _ => None,
        });
        let (query, epoch) = found.unwrap();
        let bucket = |to| Bucket {
            weight: 1,
            to,
            edits: Vec::new(),
        };
        let group = Group {
            name: "web".into(),
            kind: GroupKind::Select,
            buckets: vec![
                bucket(BucketTarget::Peer(PEER.handle())),
                bucket(BucketTarget::Drop),
            ],
        };
        let answer = Answer {
            orders: Orders {
                group: Some(Arc::new(group)),
                ..Orders::default()
            },
            ..Answer::of(Verdict::Pass)
        };
        self.switch
            .answer(query, epoch, answer.into(), at(60_000), &mut self.out);
        ruling(&self.drain()).unwrap()
    }

    fn steer(&mut self, ranked: &[WayId]) {
        self.switch.ask_steering(at(60_000), &mut self.out);
        for out in self.drain() {
            if let Out::Steer { query, .. } = out {
                let answer = SteerAnswer {
                    ranked: ranked.to_vec(),
                    spread: 0,
                    gap_ms: 0,
                };
                self.switch.steered(query, Some(answer), &mut self.out);
            }
        }
    }
}

fn ruling(outputs: &[Out]) -> Option<Ruling> {
    outputs.iter().find_map(|out| match out {
        Out::Ruling { ruling, .. } => Some(ruling.clone()),
        _ => None,
    })
}

fn route(ruling: &Ruling, ms: u64) -> Option<Route> {
    ruling.ways.as_ref().unwrap().route(1, at(ms))
}

#[test]
fn without_a_plugin_a_ruling_has_the_hosts_choice_and_the_kernel_its_flows() {
    let mut bench = Bench::new();
    let ruling = bench.rule(46);
    assert_eq!(route(&ruling, 0), Some(Route::Prefer(link())));
    assert_eq!(ruling.obstacle, None);
    assert!(!ruling.cache.unwrap().mask.fields.has(Fields::DSCP));
}

#[test]
fn with_a_plugin_a_ruling_is_of_one_dscp_and_the_gates_hold_flows_one_by_one() {
    let mut bench = Bench::new();
    bench.switch.set_steering(vni(), 1, &mut bench.out);
    let ruling = bench.rule(46);
    assert!(ruling.cache.unwrap().mask.fields.has(Fields::DSCP));
    assert_eq!((ruling.obstacle, ruling.each_flow), (None, true));
    let other = bench.rule(0);
    assert_ne!(other.ways, ruling.ways);
}

#[test]
fn a_flow_that_is_to_go_by_a_link_is_none_for_the_kernel_and_the_kernel_lets_go_of_it() {
    let mut bench = Bench::new();
    bench.switch.set_steering(vni(), 1, &mut bench.out);
    let before = bench.rule(46);
    assert_eq!(before.obstacle, None);
    assert_eq!(bench.switch.offloads().len(), 1);
    bench.steer(&[link()]);
    bench.switch.settle_gates(true, at(60_000), &mut bench.out);
    assert!(bench.switch.offloads().is_empty());
    let after = bench.rule(46);
    assert_eq!(after.obstacle, Some(Obstacle::Steered));
    assert_eq!(route(&after, 0), Some(Route::Prefer(link())));
    // And takes it again.
    bench.ways(false);
    bench.steer(&[WayId::KERNEL]);
    assert_eq!(bench.rule(46).obstacle, None);
}

#[test]
fn a_way_that_policy_names_is_taken_and_what_if_it_is_dead_is_as_policy_says() {
    for lost in [PathLost::HostChoice, PathLost::Drop, PathLost::AskAgain] {
        let mut bench = Bench::new();
        bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
        let way = link().number();
        let named = bench.named(way, lost);
        let wanted = match lost {
            PathLost::Drop => Route::Only(link()),
            _ => Route::Prefer(link()),
        };
        assert_eq!(route(&named, 0), Some(wanted));
        assert_eq!(named.obstacle, Some(Obstacle::Redirected));
        let epoch = bench.switch.epoch();
        bench.ways(false);
        match lost {
            PathLost::Drop => assert_eq!(route(&named, 1), None),
            _ => assert_eq!(route(&named, 1), Some(Route::Prefer(WayId::MAIN))),
        }
        // Only who wants to be asked again is.
        assert_eq!(bench.switch.epoch() != epoch, lost == PathLost::AskAgain);
        let asked = bench.upcall(0);
        let again = asked.iter().any(|out| matches!(out, Out::Ask { .. }));
        assert_eq!(again, lost == PathLost::AskAgain);
    }
}

#[test]
fn the_arms_of_a_group_go_by_the_hosts_choice_or_a_plugins_as_all_that_goes_to_a_peer() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let by = |ruling: &Ruling| -> Vec<Option<Route>> {
        let arms = ruling.select.as_ref().unwrap().iter();
        arms.map(|arm| arm.ruling.ways.as_ref()?.route(1, at(0)))
            .collect()
    };
    let plain = bench.grouped();
    assert_eq!(by(&plain), [Some(Route::Prefer(link())), None]);
    assert!(!plain.cache.unwrap().mask.fields.has(Fields::DSCP));
    bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    bench.switch.set_steering(vni(), 1, &mut bench.out);
    let steered = bench.grouped();
    assert!(
        steered
            .cache
            .as_ref()
            .unwrap()
            .mask
            .fields
            .has(Fields::DSCP)
    );
    bench.steer(&[WayId::MAIN]);
    assert_eq!(by(&steered), [Some(Route::Prefer(WayId::MAIN)), None]);
}

#[test]
fn the_session_can_be_named_where_it_is_the_only_way() {
    let mut bench = Bench::new();
    bench.switch.set_ways(BTreeMap::new(), &mut bench.out);
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let named = bench.named(WayId::MAIN.number(), PathLost::Drop);
    assert!(matches!(named.action, Action::Forward(_)) && named.ways.is_none());
    bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    let named = bench.named(link().number(), PathLost::Drop);
    assert_eq!(named.action, Action::Drop(DropReason::PathLost));
}

#[test]
fn a_way_that_is_none_is_a_dead_one() {
    let mut bench = Bench::new();
    bench.switch.set_policy(vni(), 1, at(0), &mut bench.out);
    let named = bench.named(99, PathLost::Drop);
    assert_eq!(named.action, Action::Drop(DropReason::PathLost));
    assert!(named.cache.unwrap().until.is_some(), "it may come");
    bench.switch.set_policy(vni(), 2, at(0), &mut bench.out);
    let named = bench.named(8, PathLost::HostChoice);
    assert_eq!(route(&named, 0), Some(Route::Prefer(link())));
}
