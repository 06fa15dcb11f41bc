//! What paths cost, and what strangers and liars can do.

use super::world::{FAIR, NODES, World, candidate, vni};
use crate::ident::{Moment, NodeId};
use crate::path::{HISTORY_MAX, Output, PATHS_MAX, PathReport, Paths};
use crate::wire::probe::{Fault, Heard, Plain, probe_mac};
use proptest::prelude::*;

#[test]
fn an_idle_path_costs_at_most_one_packet_in_two_seconds_each_way() {
    let mut world = World::busy(1);
    world.data = [false; 2];
    world.run(20_000);
    let (probes, reports) = (world.probes, world.reports);
    world.run(100_000);
    for host in [0, 1] {
        let probes = world.probes[host] - probes[host];
        let reports = world.reports[host] - reports[host];
        assert!(probes <= 25 && reports <= 25, "{probes} {reports}");
    }
}

#[test]
fn an_active_path_is_proved_by_probes_alone_while_both_directions_live() {
    let mut world = World::busy(1);
    let before = (world.probes[0], world.reports[0]);
    world.run(10_000);
    let probes = world.probes[0] - before.0;
    assert!((190..=215).contains(&probes), "{probes}");
    assert!(world.reports[0] - before.1 <= 2);
}

#[test]
fn one_way_alive_costs_ten_reports_a_second() {
    let mut world = World::busy(1);
    world.links[0] = super::BLOCKED;
    world.run(2000);
    let before = world.reports;
    world.run(10_000);
    assert!(world.reports[0] - before[0] <= 105, "{:?}", world.reports);
    assert!(world.reports[1] - before[1] <= 105, "{:?}", world.reports);
}

#[test]
fn many_active_paths_share_a_budget_and_none_dies_of_it() {
    let mut world = World::new(1, 300);
    world.run(10_000);
    world.data = [true; 2];
    world.run(5000);
    world.said.clear();
    let before = world.probes;
    world.run(10_000);
    for host in [0, 1] {
        let each_second = (world.probes[host] - before[host]) / 10;
        // Superframes have their own, slower rhythm.
        assert!((1000..1450).contains(&each_second), "{each_second}");
        assert!(world.closed(host).is_empty());
    }
    let messages = (world.reports[0], 300);
    assert!(messages.0 < 10_000, "{messages:?}");
    world.links = [super::BLOCKED; 2];
    world.run(3000);
    assert_eq!(world.closed(0).len(), 300);
}

#[test]
fn paths_are_bounded() {
    let mut paths = Paths::new(NODES[0], 1);
    for i in 0..PATHS_MAX {
        let peer = NodeId([(i % 250) as u8; 32]);
        let number = vni((i / 250) as u32 + 1);
        assert!(paths.set(peer, number, &candidate(true), Moment(5)));
        while paths.poll_output().is_some() {}
    }
    assert!(!paths.set(NodeId([255; 32]), vni(9), &candidate(true), Moment(5)));
    paths.remove(NodeId([0; 32]), vni(1), Moment(5));
    assert!(paths.set(NodeId([255; 32]), vni(9), &candidate(true), Moment(5)));
    // All of them are told of in few messages, at most 256 a message.
    paths.handle_timeout(Moment(6));
    let mut told = 0;
    while let Some(output) = paths.poll_output() {
        if let Output::Report { reports, .. } = output {
            assert!(reports.len() <= 256);
            told += reports.len();
        }
    }
    assert_eq!(told, PATHS_MAX);
}

#[test]
fn history_is_bounded() {
    let mut world = World::busy(1);
    for _ in 0..100 {
        world.set(0, &candidate(false));
        world.paths(0, |paths, now| paths.device(vni(1), false, now));
        world.paths(0, |paths, now| paths.device(vni(1), true, now));
    }
    assert_eq!(world.view(0).history.len(), HISTORY_MAX);
}

#[test]
fn probes_of_strangers_count_for_nothing() {
    let mut world = World::busy(1);
    let mut plain = Plain {
        dst: probe_mac(&NODES[0]),
        src: probe_mac(&NODES[1]),
        token: 1,
        seq: 1_000_000,
        size: 100,
        heard: Heard::default(),
    };
    world.paths(0, |paths, now| {
        let before = paths.view(NODES[1], vni(1), now);
        assert!(paths.frame(vni(1), &plain.encode().bytes, now));
        plain.token = 0;
        assert!(paths.frame(vni(1), &plain.encode().bytes, now));
        assert_eq!(paths.strange(), 2);
        assert_eq!(paths.view(NODES[1], vni(1), now), before);
        assert!(!paths.frame(vni(1), &[0; 100], now));
    });
}

#[test]
fn a_token_is_good_for_one_peer_on_one_network() {
    let mut paths = Paths::new(NODES[0], 1);
    let now = Moment(5);
    for (peer, number) in [(1, 1), (1, 2), (2, 1)] {
        paths.set(NodeId([peer; 32]), vni(number), &candidate(true), now);
    }
    paths.handle_timeout(now);
    let mut tokens = Vec::new();
    while let Some(output) = paths.poll_output() {
        if let Output::Report { peer, reports } = output {
            tokens.extend(reports.iter().map(|r| (peer, r.vni, r.token)));
        }
    }
    assert_eq!(tokens.len(), 3);
    let mut tried = 0;
    for &(_, _, token) in &tokens {
        for &(peer, number, own) in &tokens {
            let plain = Plain {
                dst: probe_mac(&NODES[0]),
                src: probe_mac(&peer),
                token,
                seq: 1,
                size: 64,
                heard: Heard::default(),
            };
            assert!(paths.frame(number, &plain.encode().bytes, now));
            tried += u64::from(token != own);
        }
    }
    assert_eq!(paths.strange(), tried);
}

prop_compose! {
    fn some_report()(
        vni in 1..4u32, token: u64, ask: bool, seq_max in prop_oneof![0..400u32, any::<u32>()],
        window: u64, delay_us: u32, data: u32, altered: u16, super_ok in 0..20u16, super_bad in 0..20u16,
    ) -> PathReport {
        let super_fault = Some(Fault::TcpChecksum);
        let heard = Heard { seq_max, window, delay_us, data, altered, super_ok, super_bad, super_fault };
        PathReport { vni: super::world::vni(vni), token, heard, ask }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A third node says what it likes; the path between the first two does not notice.
    #[test]
    fn a_liar_harms_only_its_own_paths(reports in prop::collection::vec((some_report(), 0..200u64), 1..100)) {
        let liar = NodeId([9; 32]);
        let mut world = World::busy(1);
        world.paths(0, |paths, now| { paths.set(liar, vni(1), &candidate(true), now); });
        world.said.clear();
        for (report, wait) in reports {
            world.paths(0, |paths, now| paths.report(liar, &report, now));
            world.run(wait);
        }
        prop_assert!(world.is_open(0) && world.links[0].delay_us == FAIR.delay_us);
        prop_assert!(world.closed(1).is_empty());
    }

    #[test]
    fn a_node_takes_any_reports_and_frames(
        reports: Vec<(u8, u64, bool, u32, u64, u32)>, frames: Vec<Vec<u8>>, jumps: Vec<u64>,
    ) {
        let mut paths = Paths::new(NODES[0], 1);
        let mut now = Moment(0);
        for i in 0..reports.len().max(frames.len()).max(jumps.len()) {
            now = Moment(now.0.saturating_add(jumps.get(i).copied().unwrap_or(7_000_000) >> 8));
            paths.set(NODES[1], vni(1), &candidate(i % 7 != 0), now);
            if let Some(&(number, token, ask, seq_max, window, delay_us)) = reports.get(i) {
                let heard = Heard { seq_max, window, delay_us, ..Heard::default() };
                let vni = vni(u32::from(number % 3) + 1);
                paths.report(NODES[1], &PathReport { vni, token, heard, ask }, now);
            }
            if let Some(frame) = frames.get(i) {
                paths.frame(vni(1), frame, now);
            }
            paths.handle_timeout(now);
            while paths.poll_output().is_some() {}
            prop_assert!(paths.poll_timeout().is_none_or(|at| at > now));
        }
    }
}
