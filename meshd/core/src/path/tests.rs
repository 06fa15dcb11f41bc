//! Scenarios: two nodes, and what can happen between them.

#![allow(clippy::unwrap_used)]

mod bounds;
mod world;

use super::*;
use world::{FAIR, Link, World, candidate};

const BLOCKED: Link = Link {
    blocked: true,
    ..FAIR
};

fn lossy(loss: u32) -> Link {
    Link { loss, ..FAIR }
}

#[test]
fn a_healthy_path_is_taken_within_a_second_and_kept() {
    for seed in 0..20 {
        let mut world = World::new(seed, 1);
        world.run(1000);
        assert!(world.is_open(0) && world.is_open(1), "{:?}", world.said);
        assert_eq!(world.view(0).reason, Reason::Proved);
        world.data = [true; 2];
        world.run(60_000);
        world.data = [false; 2];
        world.run(60_000);
        assert!(world.closed(0).is_empty() && world.closed(1).is_empty());
        assert_eq!(world.eaten, 0);
        let view = world.view(0);
        let rtt = view.rtt_us.unwrap();
        assert!((300..650).contains(&rtt), "{rtt}");
        assert_eq!((view.path_mtu, view.loss_ppm), (Some(1450), Some(0)));
    }
}

#[test]
fn a_direction_that_dies_is_left_within_300_ms_and_the_other_one_stays() {
    for seed in 0..50 {
        let mut world = World::busy(seed);
        world.run(seed * 7);
        let since = world.now;
        world.links[0] = BLOCKED;
        world.run(10_000);
        let closed = world.closed(0);
        assert_eq!(closed.len(), 1, "seed {seed}: {:?}", world.said);
        let (at, reason) = closed[0];
        assert!(at.ms_since(since) <= 300, "seed {seed}: {at:?}");
        assert_eq!(reason, Reason::OneWay, "seed {seed}: {:?}", world.said);
        assert!(world.closed(1).is_empty(), "seed {seed}: {:?}", world.said);
        world.links[0] = FAIR;
        world.run(15_000);
        assert!(world.is_open(0), "seed {seed}: {:?}", world.said);
    }
}

#[test]
fn a_direction_with_data_of_its_own_only_is_left_as_fast() {
    for seed in 0..50 {
        let mut world = World::busy(seed);
        world.data = [true, false];
        world.run(5000 + seed * 7);
        let since = world.now;
        world.links = [BLOCKED; 2];
        world.run(3000);
        let (at, _) = world.closed(0)[0];
        assert!(at.ms_since(since) <= 300, "seed {seed}: {:?}", world.said);
    }
}

#[test]
fn a_block_is_told_from_a_one_way_street() {
    for seed in 0..50 {
        let mut world = World::busy(seed);
        world.run(seed * 7);
        let since = world.now;
        world.links = [BLOCKED; 2];
        world.run(10_000);
        for host in 0..2 {
            let (at, reason) = world.closed(host)[0];
            assert!(at.ms_since(since) <= 300, "seed {seed}: {:?}", world.said);
            assert_eq!(reason, Reason::UdpBlocked, "seed {seed}: {:?}", world.said);
        }
        assert!(world.eaten <= 600);
    }
}

#[test]
fn far_away_a_death_takes_a_round_trip_more() {
    for seed in 0..20 {
        let mut world = World::busy(seed);
        let far = Link {
            delay_us: 50_000,
            ..FAIR
        };
        (world.links, world.session_us) = ([far; 2], 50_000);
        world.run(20_000);
        assert!(world.closed(0).is_empty(), "seed {seed}: {:?}", world.said);
        let since = world.now;
        world.links[0] = BLOCKED;
        world.run(3000);
        let (at, _) = world.closed(0)[0];
        assert!(at.ms_since(since) <= 500, "seed {seed}: {:?}", world.said);
    }
}

#[test]
fn a_death_while_idle_is_found_when_data_comes_or_within_a_quarter_minute() {
    for seed in 0..20 {
        let mut world = World::busy(seed);
        world.data = [false; 2];
        world.run(30_000);
        world.links[0] = BLOCKED;
        world.run(200);
        world.data = [true; 2];
        let since = world.now;
        world.run(3000);
        let (at, _) = world.closed(0)[0];
        // One poll of the counters is in it.
        assert!(at.ms_since(since) <= 400, "seed {seed}: {:?}", world.said);

        let mut world = World::busy(seed);
        world.data = [false; 2];
        world.run(30_000);
        world.links[0] = BLOCKED;
        world.run(16_000);
        assert_eq!(world.closed(0).len(), 1, "seed {seed}: {:?}", world.said);
    }
}

#[test]
fn an_mtu_hole_is_left_and_measured_to_the_byte() {
    for seed in 0..20 {
        let mut world = World::busy(seed);
        let since = world.now;
        world.links[0].size_max = 1401;
        world.run(9000);
        let (at, reason) = world.closed(0)[0];
        assert!(at.ms_since(since) <= 600, "seed {seed}: {:?}", world.said);
        assert_eq!(reason, Reason::MtuHole, "seed {seed}: {:?}", world.said);
        assert!(world.closed(1).is_empty());
        world.run(4000);
        let view = world.view(0);
        assert_eq!(view.path_mtu, Some(1387), "seed {seed}: {view:?}");
        assert_eq!(view.reason, Reason::MtuHole);
        assert!(view.evidence.contains("1401 bytes pass, 1402 do not"));
        world.links[0] = FAIR;
        world.run(5000);
        assert!(world.is_open(0), "seed {seed}: {:?}", world.view(0));
    }
}

#[test]
fn bad_offload_is_named_and_never_taken() {
    let mut world = World::new(1, 1);
    world.links[0].bad_offload = true;
    world.run(20_000);
    let view = world.view(0);
    assert!(!world.is_open(0) && world.is_open(1), "{:?}", world.said);
    assert_eq!(view.reason, Reason::OffloadBad, "{view:?}");
    assert!(view.evidence.contains("a wrong TCP checksum"), "{view:?}");
    world.links[0].bad_offload = false;
    world.run(15_000);
    assert!(world.is_open(0), "{:?}", world.said);

    let mut world = World::busy(2);
    world.links[0].bad_offload = true;
    world.run(3000);
    assert_eq!(world.closed(0)[0].1, Reason::OffloadBad);
    assert!(world.closed(1).is_empty());
}

#[test]
fn a_path_that_loses_thirty_percent_is_left_and_seldom_tried_again() {
    for seed in 0..10 {
        let mut world = World::busy(seed);
        world.links[0] = lossy(300);
        world.run(10_000);
        let closed = world.closed(0);
        assert_eq!(closed.len(), 1, "seed {seed}: {:?}", world.said);
        assert!(world.closed(1).is_empty(), "seed {seed}: {:?}", world.said);
        let share = world.share_open(300_000);
        assert!(share < 0.05, "seed {seed}: {share}");
        world.links[0] = FAIR;
        world.run(75_000);
        assert!(world.is_open(0), "seed {seed}: {:?}", world.view(0));
    }
}

#[test]
fn a_path_that_loses_three_percent_is_kept() {
    for seed in 0..20 {
        let mut world = World::busy(seed);
        world.links = [lossy(30); 2];
        world.run(60_000);
        assert!(world.closed(0).is_empty(), "seed {seed}: {:?}", world.said);
        assert!(world.closed(1).is_empty(), "seed {seed}: {:?}", world.said);
    }
}

#[test]
fn a_busy_host_declares_nobody_dead_and_nobody_declares_it() {
    for seed in 0..20 {
        let mut world = World::busy(seed);
        for i in 0..100 {
            let stopped = 25 + (seed + i) * 53 % 900;
            world.stop(0, stopped);
            world.run(stopped + 1 + i * 11 % 400);
        }
        for host in 0..2 {
            let closed = world.closed(host);
            assert!(closed.is_empty(), "seed {seed}: {:?}", world.said);
        }
    }
}

#[test]
fn a_host_that_was_stopped_for_long_begins_its_waits_anew() {
    for seed in 0..20 {
        let mut world = World::busy(seed);
        world.stop(0, 60_000);
        world.run(70_000);
        assert!(world.closed(0).is_empty(), "seed {seed}: {:?}", world.said);
        let history = world.view(0).history;
        assert!(history.iter().any(|t| t.reason == Reason::HostBusy));
        // The other one could not know.
        assert_eq!(world.closed(1)[0].1, Reason::Silent);
        world.run(10_000);
        assert!(world.is_open(1), "seed {seed}: {:?}", world.said);
    }
}

#[test]
fn a_busy_host_still_finds_a_death() {
    for seed in 0..20 {
        let mut world = World::busy(seed);
        let since = world.now;
        world.links[0] = BLOCKED;
        for _ in 0..10 {
            world.run(60);
            world.stop(0, 60);
        }
        world.run(200);
        let (at, _) = world.closed(0)[0];
        assert!(at.ms_since(since) <= 1000, "seed {seed}: {:?}", world.said);
    }
}

#[test]
fn hold_down_grows_and_forgives() {
    let mut world = World::busy(1);
    let mut holds = Vec::new();
    for _ in 0..7 {
        world.links[0] = BLOCKED;
        world.run(500);
        let view = world.view(0);
        assert_eq!(view.state, PathState::Held);
        let hold = view.held_until.unwrap().0 - view.since.0;
        holds.push((hold + MS / 2) / MS / 1000);
        world.links[0] = FAIR;
        world.run(hold / MS + 3000);
        assert!(world.is_open(0), "{:?}", world.said);
    }
    assert_eq!(holds, [2, 4, 8, 16, 32, 60, 60]);
    world.run(300_000);
    world.links[0] = BLOCKED;
    world.run(500);
    let view = world.view(0);
    let hold = view.held_until.unwrap().0 - view.since.0;
    assert_eq!((hold + MS / 2) / MS, 2000);
}

#[test]
fn who_failed_lately_waits_even_if_the_device_came_back() {
    let mut world = World::busy(1);
    world.links[0] = BLOCKED;
    world.run(500);
    world.paths(0, |paths, now| paths.device(world::vni(1), false, now));
    assert_eq!(world.view(0).state, PathState::Ineligible);
    world.paths(0, |paths, now| paths.device(world::vni(1), true, now));
    let view = world.view(0);
    assert_eq!((view.state, view.reason), (PathState::Held, Reason::Held));
    world.links[0] = FAIR;
    world.run(5000);
    assert!(world.is_open(0), "{:?}", world.said);
}

#[test]
fn a_daemon_that_starts_anew_loses_no_frame() {
    for seed in 0..20 {
        let mut world = World::busy(seed);
        // Its kernel goes on. The peer notices that the session is gone.
        world.stop(1, 1500);
        world.run(200);
        world.set(0, &candidate(false));
        world.run(1300);
        world.restart(1, seed + 1000);
        world.run(300);
        // The two do not learn of the session at the same time.
        world.set(usize::from(seed % 2 == 0), &candidate(true));
        world.run(seed * 3 % 50);
        world.set(usize::from(seed % 2 == 1), &candidate(true));
        world.run(20_000);
        for host in 0..2 {
            assert!(world.closed(host).is_empty(), "{seed}: {:?}", world.said);
            assert_eq!(world.view(host).loss_ppm, Some(0), "seed {seed}");
        }
        assert_eq!(world.eaten, 0, "seed {seed}");
        // And it is a path like any other.
        let since = world.now;
        world.links[1] = BLOCKED;
        world.run(1000);
        let (at, _) = world.closed(1)[0];
        assert!(at.ms_since(since) <= 300, "seed {seed}: {:?}", world.said);
    }
}

#[test]
fn a_session_that_is_another_all_at_once_is_no_trouble() {
    let mut world = World::busy(3);
    world.restart(1, 77);
    world.set(1, &candidate(true));
    world.run(20_000);
    assert!(world.closed(0).is_empty(), "{:?}", world.said);
    assert!(world.closed(1).is_empty(), "{:?}", world.said);
    assert_eq!(world.view(0).loss_ppm, Some(0));
}

#[test]
fn an_adopted_path_that_is_dead_is_left() {
    let mut world = World::busy(3);
    world.links[1] = BLOCKED;
    world.restart(1, 77);
    world.set(1, &candidate(true));
    world.run(1500);
    assert_eq!(world.closed(1).len(), 1, "{:?}", world.said);
}

#[test]
fn without_a_session_an_open_path_is_kept_for_half_a_minute() {
    let mut world = World::busy(4);
    world.set(0, &candidate(false));
    world.run(SESSION_GRACE_MS - 100);
    assert!(world.is_open(0), "{:?}", world.said);
    world.run(200);
    assert_eq!(world.closed(0)[0].1, Reason::SessionDown);
    assert_eq!(world.view(0).state, PathState::Ineligible);
    world.set(0, &candidate(true));
    world.run(2000);
    assert!(world.is_open(0), "{:?}", world.said);
}

#[test]
fn an_obstacle_closes_at_once_and_names_itself() {
    let mut world = World::busy(5);
    let mut without = candidate(true);
    without.there.vxlan = false;
    world.set(0, &without);
    assert_eq!(world.closed(0)[0], (world.now, Reason::NoVxlanThere));
    world.set(0, &candidate(true));
    world.run(2000);
    assert!(world.is_open(0));
    world.said.clear();
    world.paths(0, |paths, now| paths.device(world::vni(1), false, now));
    assert_eq!(world.closed(0)[0], (world.now, Reason::DeviceGone));
    world.paths(0, |paths, now| paths.device(world::vni(1), true, now));
    world.run(2000);
    assert!(world.is_open(0));
    world.said.clear();
    let mut larger = candidate(true);
    larger.mtu = 8000;
    world.set(0, &larger);
    assert_eq!(world.closed(0)[0], (world.now, Reason::Changed));
    world.paths(0, |paths, now| {
        paths.remove(world::NODES[1], world::vni(1), now);
    });
    assert!(!world.is_open(0));
}

#[test]
fn a_smaller_mtu_closes_nothing() {
    let mut world = World::busy(6);
    for mtu in [1400, 1300] {
        let smaller = Candidate {
            mtu,
            ..candidate(true)
        };
        (0..2).for_each(|host| world.set(host, &smaller));
        world.run(5000);
        assert!(world.closed(0).is_empty() && world.closed(1).is_empty());
        assert_eq!(world.view(0).path_mtu, Some(mtu));
    }
}

#[test]
fn a_path_that_was_never_possible_says_why() {
    let mut world = World::new(7, 1);
    world.links = [BLOCKED; 2];
    world.run(5000);
    let view = world.view(0);
    assert_eq!(
        (view.state, view.reason),
        (PathState::Proving, Reason::UdpBlocked)
    );
    assert!(view.evidence.contains(", 0 heard"), "{}", view.evidence);
    world.links[1] = FAIR;
    world.run(9000);
    let view = world.view(0);
    assert_eq!(view.reason, Reason::OneWay, "{view:?}");
    world.links[0] = FAIR;
    world.run(15_000);
    assert!(world.is_open(0));
}

#[test]
fn a_peer_that_never_answers_is_silent() {
    let mut world = World::new(8, 1);
    world.stop(1, 60_000);
    world.run(6000);
    assert_eq!(world.view(0).reason, Reason::Silent, "{:?}", world.view(0));
}

#[test]
fn after_any_troubles_a_healthy_path_is_taken_again_and_one_seed_replays() {
    use rand::{RngExt, SeedableRng};
    let play = |seed: u64| {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
        let mut world = World::busy(seed);
        for _ in 0..30 {
            let which = rng.random_range(0..2);
            match rng.random_range(0..9) {
                0 => world.links[which] = BLOCKED,
                1 => world.links[which] = lossy(rng.random_range(0..600)),
                2 => world.links[which].size_max = rng.random_range(64..1500),
                3 => world.links[which].bad_offload = true,
                4 => world.stop(which, rng.random_range(1..8000)),
                5 => world.set(which, &candidate(false)),
                6 => world.data[which] = !world.data[which],
                7 => world.restart(which, rng.random_range(0..1000)),
                _ => world.links = [FAIR; 2],
            }
            world.run(rng.random_range(1..5000));
            (0..2).for_each(|host| world.set(host, &candidate(true)));
        }
        world.links = [FAIR; 2];
        world.run(150_000);
        assert!(world.is_open(0), "seed {seed}: {:?}", world.view(0));
        assert!(world.is_open(1), "seed {seed}: {:?}", world.view(1));
        (world.said, world.probes, world.reports, world.eaten)
    };
    for seed in 0..12 {
        let once = play(seed);
        if seed < 2 {
            assert_eq!(once, play(seed));
        }
    }
}
