#![allow(clippy::unwrap_used)]
//! Who is blocked, when, and by what he may not be.

use super::*;
use crate::command::NetnsRef;
use crate::ident::{IfName, WallTime};
use crate::kind::{PortKind, UplinkSpec};
use crate::testing::FakeKeyring;
use crate::wire::record::{Membership, Record, Role};
use proptest::prelude::*;

const T0: u64 = 1_000_000;

fn at(ms: u64) -> Now {
    Now {
        moment: Moment::default().plus_ms(ms),
        wall: WallTime(T0 + ms),
    }
}

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn record(id: u32, since: u64, kind: PortKind) -> PortRecord {
    PortRecord {
        id: PortId(id),
        vni: vni(),
        kind,
        netns: NetnsRef::Path(b"/proc/self/ns/net".to_vec()),
        ifname: IfName::new(b"lan0").unwrap(),
        mac: MacAddr::default(),
        ips: Vec::new(),
        leased: Vec::new(),
        name: None,
        labels: BTreeMap::new(),
        since,
        ready: true,
        file: None,
        asked_ifname: IfName::new(b"lan0").unwrap(),
        mtu: None,
        routes: Vec::new(),
        vrf: None,
        owner: None,
    }
}

fn uplink(id: u32, since: u64) -> PortRecord {
    record(id, since, PortKind::Uplink(UplinkSpec::default()))
}

/// Nodes 1 to 3, all members.
fn directory() -> Directory {
    let root = FakeKeyring::root(1);
    let mut directory = Directory::new(root.mesh(), Arc::new(root.clone()), &[], at(0));
    let mut out = Outbox::default();
    for n in 1..=3 {
        let membership = Record::Membership(Membership {
            mesh: root.mesh(),
            node: FakeKeyring::member(1, n).node(),
            name: format!("n{n}").parse().unwrap(),
            role: Role::Member,
            labels: BTreeMap::new(),
            serial: 1,
            issued: WallTime(0),
            expires: None,
        });
        let signed = membership.sign(root.mesh(), &root).unwrap();
        directory.accept(&signed, None, at(0), &mut out).unwrap();
    }
    directory
}

/// Guards of several nodes whose uplinks are on one LAN, or not.
struct Lan {
    guards: BTreeMap<u64, Guard>,
    directory: Directory,
    /// Node and port of those that the LAN joins.
    joined: Vec<(u64, PortId)>,
    notices: Vec<(u64, Notice)>,
    now: u64,
}

impl Lan {
    fn new(nodes: &[u64]) -> Self {
        let mesh = FakeKeyring::root(1).mesh();
        let guard = |n| Guard::new(mesh, Arc::new(FakeKeyring::member(1, n)));
        Self {
            guards: nodes.iter().map(|&n| (n, guard(n))).collect(),
            directory: directory(),
            joined: Vec::new(),
            notices: Vec::new(),
            now: 0,
        }
    }

    fn add(&mut self, node: u64, record: &PortRecord) {
        let now = at(self.now);
        self.guards.get_mut(&node).unwrap().add_port(record, now);
    }

    /// Lets time pass; what an uplink sends reaches all others on the LAN.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now += 50;
            let now = at(self.now);
            let mut sent = Vec::new();
            for (&node, guard) in &mut self.guards {
                let mut out = Outbox::default();
                guard.handle_timeout(now, &mut out);
                while let Some(output) = out.pop() {
                    match output {
                        Output::Inject {
                            to: ruling::Output::Port(port),
                            frame,
                            ..
                        } => sent.push(((node, port), frame)),
                        Output::Notice(notice) => self.notices.push((node, notice)),
                        _ => {}
                    }
                }
            }
            for (from, frame) in sent {
                let joined = self.joined.clone();
                for &to in joined.iter().filter(|_| joined.contains(&from)) {
                    if to != from {
                        self.hear(to, &frame);
                    }
                }
            }
        }
    }

    fn hear(&mut self, (node, port): (u64, PortId), frame: &Bytes) {
        let (now, mut out) = (at(self.now), Outbox::default());
        let guard = self.guards.get_mut(&node).unwrap();
        guard.probe(port, frame, &self.directory, now, &mut out);
        while let Some(output) = out.pop() {
            if let Output::Notice(notice) = output {
                self.notices.push((node, notice));
            }
        }
    }

    fn blocked(&self, node: u64, port: u32) -> bool {
        let found = self.guards[&node].blocked(PortId(port));
        found.is_some_and(|(_, listens)| !listens)
    }

    fn open(&self, node: u64, port: u32) -> bool {
        self.guards[&node].blocked(PortId(port)).is_none()
    }
}

#[test]
fn the_newer_of_two_uplinks_on_one_lan_never_opens_and_the_older_goes_on() {
    let mut lan = Lan::new(&[1, 2]);
    lan.joined = vec![(1, PortId(1)), (2, PortId(9))];
    lan.add(1, &uplink(1, T0));
    lan.run(3000);
    assert!(lan.open(1, 1), "it has listened");
    lan.add(2, &uplink(9, T0 + 3000));
    for _ in 0..100 {
        lan.run(100);
        assert!(!lan.open(2, 9));
        assert!(lan.open(1, 1));
    }
    let told: Vec<_> = lan
        .notices
        .iter()
        .map(|(node, notice)| (*node, notice))
        .collect();
    let [(2, Notice::PortBlocked { port, reason })] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(*port, PortId(9));
    assert!(reason.contains("port 1 of node n1"), "{reason}");

    // The LANs are two again.
    lan.joined.clear();
    lan.run(QUIET_MS + 1000);
    assert!(lan.open(2, 9) && lan.open(1, 1));
    assert!(matches!(
        lan.notices.last(),
        Some((2, Notice::PortUnblocked { .. }))
    ));
}

#[test]
fn a_loop_that_comes_later_is_found_within_a_second() {
    let mut lan = Lan::new(&[1, 2]);
    lan.add(1, &uplink(1, T0));
    lan.add(2, &uplink(2, T0 + 1));
    lan.run(20_000);
    assert!(lan.open(1, 1) && lan.open(2, 2));
    lan.joined = vec![(1, PortId(1)), (2, PortId(2))];
    lan.run(1000);
    assert!(lan.blocked(2, 2) && lan.open(1, 1));
}

#[test]
fn forged_probes_do_not_take_the_place_of_those_that_were_heard_before() {
    let mut lan = Lan::new(&[1, 2]);
    lan.joined = vec![(1, PortId(1)), (2, PortId(9))];
    lan.add(1, &uplink(1, T0));
    lan.run(3000);
    lan.add(2, &uplink(9, T0 + 3000));
    lan.run(2000);
    assert!(lan.blocked(2, 9));
    let mut out = Outbox::default();
    let own = lan.guards.get_mut(&1).unwrap();
    own.handle_timeout(at(lan.now + PROBE_MS), &mut out);
    let probe = std::iter::from_fn(|| out.pop()).find_map(|output| match output {
        Output::Inject { frame, .. } => Some(frame),
        _ => None,
    });
    let probe = probe.unwrap();
    for _ in 0..(QUIET_MS + 2000) / 50 {
        for port in 0..50 {
            // The last byte of the number of the port that it says it is from: nothing that was signed.
            let mut forged = probe.to_vec();
            *forged.get_mut(90).unwrap() = 100 + port;
            lan.hear((2, PortId(9)), &Bytes::from(forged));
        }
        lan.run(50);
        assert!(!lan.open(2, 9) && lan.open(1, 1));
    }
}

#[test]
fn a_container_that_bridges_its_port_to_the_lan_is_blocked_though_it_is_older() {
    let mut lan = Lan::new(&[1]);
    lan.add(1, &record(1, T0 - 90_000, PortKind::Veth));
    lan.add(1, &uplink(2, T0));
    lan.joined = vec![(1, PortId(1)), (1, PortId(2))];
    lan.run(2000);
    assert!(lan.blocked(1, 1) && lan.open(1, 2));
}

#[test]
fn a_lan_that_reflects_blocks_its_uplink() {
    let mut lan = Lan::new(&[1]);
    lan.add(1, &uplink(1, T0));
    let mut out = Outbox::default();
    lan.guards
        .get_mut(&1)
        .unwrap()
        .handle_timeout(at(0), &mut out);
    let Some(Output::Inject { frame, .. }) = out.pop() else {
        panic!("no probe");
    };
    lan.hear((1, PortId(1)), &frame);
    assert!(lan.blocked(1, 1));
}

#[test]
fn an_older_uplink_gives_way_to_a_newer_one_that_does_not_hear_it() {
    let mut lan = Lan::new(&[1, 2]);
    lan.add(1, &uplink(1, T0));
    lan.add(2, &uplink(2, T0 + 1));
    // Only what node 2 sends arrives.
    let newer = |now: u64| {
        let probe = LoopProbe {
            mesh: FakeKeyring::root(1).mesh(),
            node: FakeKeyring::member(1, 2).node(),
            vni: vni(),
            port: PortId(2),
            since: T0 + 1,
            at: T0 + now,
            blocked: false,
        };
        probe.encode(&FakeKeyring::member(1, 2))
    };
    for _ in 0..20 {
        lan.run(500);
        lan.hear((1, PortId(1)), &newer(lan.now));
    }
    assert!(lan.blocked(1, 1));
    let (_, Notice::PortBlocked { reason, .. }) = lan.notices.last().unwrap() else {
        panic!("{:?}", lan.notices);
    };
    assert!(reason.contains("newer but does not hear"), "{reason}");
    // When it opens, the newer one has its time again to hear it.
    let mut probes = 0;
    while lan.blocked(1, 1) || probes < 4 {
        lan.run(500);
        let open = !lan.blocked(1, 1);
        lan.hear((1, PortId(1)), &newer(lan.now));
        assert!(lan.blocked(1, 1) != open, "after {probes}");
        probes += u32::from(open);
        assert!(lan.now < 60_000);
    }
}

#[test]
fn what_no_member_signed_just_now_blocks_nobody() {
    let mesh = FakeKeyring::root(1).mesh();
    let good = LoopProbe {
        mesh,
        node: FakeKeyring::member(1, 2).node(),
        vni: vni(),
        port: PortId(2),
        since: 0,
        at: T0,
        blocked: false,
    };
    let theirs = FakeKeyring::member(1, 2);
    let stranger = FakeKeyring::member(1, 9);
    let bad = [
        good.encode(&stranger),
        LoopProbe {
            node: stranger.node(),
            ..good
        }
        .encode(&stranger),
        LoopProbe {
            at: T0 - STALE_MS - 1,
            ..good
        }
        .encode(&theirs),
        LoopProbe {
            at: T0 + STALE_MS + 1,
            ..good
        }
        .encode(&theirs),
        LoopProbe {
            vni: Vni::new(8).unwrap(),
            ..good
        }
        .encode(&theirs),
        LoopProbe {
            mesh: FakeKeyring::root(2).mesh(),
            ..good
        }
        .encode(&theirs),
        LoopProbe {
            blocked: true,
            ..good
        }
        .encode(&theirs),
    ];
    let mut lan = Lan::new(&[1]);
    lan.add(1, &uplink(1, T0 - 50_000));
    for frame in &bad {
        lan.hear((1, PortId(1)), frame);
        assert!(!lan.blocked(1, 1), "{:?}", LoopProbe::decode(frame));
    }
    lan.hear((1, PortId(1)), &good.encode(&theirs));
    assert!(lan.blocked(1, 1));
}

#[test]
fn forged_probes_cost_a_few_checks_a_second() {
    let mut lan = Lan::new(&[1]);
    lan.add(1, &uplink(1, T0 - 50_000));
    for n in 0..1000 {
        let forged = LoopProbe {
            mesh: FakeKeyring::root(1).mesh(),
            node: FakeKeyring::member(1, 2).node(),
            vni: vni(),
            port: PortId(n),
            since: 0,
            at: T0,
            blocked: false,
        };
        let frame = forged.encode(&FakeKeyring::member(1, 9));
        lan.hear((1, PortId(1)), &frame);
    }
    let watch = &lan.guards[&1].ports[&PortId(1)];
    assert!(watch.heard.is_empty());
    assert!(lan.open(1, 1));
}

fn bpdu(root: u8) -> Vec<u8> {
    let llc = [0x42, 0x42, 0x03, 0, 0, 2, 2, 0x3c];
    [
        &[0x01, 0x80, 0xc2, 0, 0, 0][..],
        &[2, 0, 0, 0, 0, 1],
        &[0, 39],
        &llc,
        &[0x80, 0, 2, 0, 0, 0, 0, root],
        &[0; 23],
    ]
    .concat()
}

#[test]
fn two_uplinks_here_with_one_root_bridge_are_a_loop_and_with_two_are_none() {
    let mut lan = Lan::new(&[1]);
    lan.add(1, &uplink(1, T0 - 50_000));
    lan.add(1, &uplink(2, T0 - 40_000));
    let mut out = Outbox::default();
    let guard = lan.guards.get_mut(&1).unwrap();
    let now = at(0).moment;
    guard.bpdu(PortId(1), &bpdu(1), now, &mut out);
    guard.bpdu(PortId(2), &bpdu(2), now, &mut out);
    assert_eq!(guard.blocks().count(), 0);
    assert_eq!(guard.root(PortId(2)).unwrap(), "32768 02:00:00:00:00:02");
    guard.bpdu(PortId(2), &bpdu(1), now, &mut out);
    assert!(guard.blocked(PortId(2)).is_some() && guard.blocked(PortId(1)).is_none());
}

#[test]
fn one_mac_that_jumps_is_told_and_three_are_a_loop() {
    let mut lan = Lan::new(&[1]);
    lan.add(1, &uplink(1, T0 - 50_000));
    lan.add(1, &uplink(2, T0 - 40_000));
    let mut out = Outbox::default();
    let guard = lan.guards.get_mut(&1).unwrap();
    let mac = |n| MacAddr([2, 0, 0, 0, 9, n]);
    for step in 0..10 {
        let (from, to) = match step % 2 {
            0 => (PortId(1), PortId(2)),
            _ => (PortId(2), PortId(1)),
        };
        guard.moved(
            vni(),
            mac(1),
            Place::Port(from),
            to,
            at(step * 100).moment,
            &mut out,
        );
    }
    assert!(matches!(
        out.pop(),
        Some(Output::Notice(Notice::MacFlaps { .. }))
    ));
    assert!(out.pop().is_none(), "once");
    assert_eq!(guard.blocks().count(), 0);
    // Three machines that move at once are no loop either.
    for n in 2..8 {
        guard.moved(
            vni(),
            mac(n),
            Place::Port(PortId(1)),
            PortId(2),
            at(1000).moment,
            &mut out,
        );
    }
    assert_eq!(guard.blocks().count(), 0);
    for step in 0..3 {
        for n in 2..4 {
            guard.moved(
                vni(),
                mac(n),
                Place::Port(PortId(2)),
                PortId(1),
                at(1100 + step).moment,
                &mut out,
            );
        }
    }
    assert!(guard.blocked(PortId(2)).is_some(), "the newer one");
    assert!(guard.blocked(PortId(1)).is_none());
}

proptest! {
    /// However many uplinks of however many nodes are on one LAN: in the end one is open.
    #[test]
    fn of_all_uplinks_on_one_lan_the_oldest_alone_stays_open(
        ports in prop::collection::btree_map((1u64..4, 1u32..6), 0u64..5000, 1..8),
    ) {
        let mut lan = Lan::new(&[1, 2, 3]);
        for (&(node, port), &since) in &ports {
            lan.add(node, &uplink(port, T0 + since));
            lan.joined.push((node, PortId(port)));
        }
        lan.run(6000);
        let oldest = ports
            .iter()
            .map(|(&(node, port), &since)| (since, FakeKeyring::member(1, node).node(), port))
            .min()
            .unwrap();
        for (&(node, port), &since) in &ports {
            let is_oldest = (since, FakeKeyring::member(1, node).node(), port) == oldest;
            prop_assert_eq!(lan.open(node, port), is_oldest, "node {} port {}", node, port);
        }
    }

    #[test]
    fn any_bytes_of_a_lan_are_no_panic(bytes: Vec<u8>) {
        let mut lan = Lan::new(&[1]);
        lan.add(1, &uplink(1, T0));
        lan.hear((1, PortId(1)), &Bytes::from(bytes.clone()));
        let mut out = Outbox::default();
        lan.guards.get_mut(&1).unwrap().bpdu(PortId(1), &bytes, at(0).moment, &mut out);
    }
}

#[test]
fn macs_that_come_back_by_a_lan_block_the_lan_and_not_the_container_that_has_them() {
    let mut lan = Lan::new(&[1]);
    lan.add(1, &uplink(1, T0 - 50_000));
    lan.add(1, &record(2, T0 - 40_000, PortKind::Veth));
    let mut out = Outbox::default();
    let guard = lan.guards.get_mut(&1).unwrap();
    for step in 0..6 {
        let (from, to) = match step % 2 {
            0 => (PortId(2), PortId(1)),
            _ => (PortId(1), PortId(2)),
        };
        for n in 1..4 {
            let (mac, now) = (MacAddr([2, 0, 0, 0, 9, n]), at(step * 100).moment);
            guard.moved(vni(), mac, Place::Port(from), to, now, &mut out);
        }
    }
    assert!(guard.blocked(PortId(1)).is_some(), "the LAN");
    assert!(guard.blocked(PortId(2)).is_none(), "the newer one");
}
