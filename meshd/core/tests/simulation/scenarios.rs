//! The stories. Each runs from a seed; the swarm runs many.

use crate::link::Weather;
use crate::world::{World, views, vni};
use meshd_core::command::Command;
use meshd_core::ident::{MacAddr, PortId, Vni};
use meshd_core::wire::record::RecordKey;
use rand::RngExt as _;
use std::collections::BTreeSet;

pub fn seed() -> u64 {
    std::env::var("MESHD_SIM_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20_261_124)
}

/// Runs `story` with a line that tells how to run it again, should it fail.
pub fn with_seed<T>(seed: u64, story: impl FnOnce(u64) -> T) -> T {
    struct Tell(u64);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("to see this run again: MESHD_SIM_SEED={}", self.0);
            }
        }
    }
    let _tell = Tell(seed);
    story(seed)
}

/// `hosts` hosts, one network on all of them, one port each.
pub struct Mesh {
    pub world: World,
    pub vni: Vni,
    ports: Vec<(usize, PortId, MacAddr)>,
}

fn mesh(seed: u64, hosts: usize, weather: Weather) -> Mesh {
    mesh_in(World::new(seed, weather), hosts)
}

pub fn mesh_in(mut world: World, hosts: usize) -> Mesh {
    let vni = world.add_network(1, &["10.1.0.0/16"]);
    for _ in 1..hosts {
        world.join();
    }
    let settled = world.run_until(60_000, |w| {
        w.up().iter().all(|&at| {
            w.hosts[at]
                .node
                .as_ref()
                .unwrap()
                .directory()
                .network_by_vni(vni)
                .is_some()
        })
    });
    assert!(settled, "the network did not spread to all hosts");
    let mut ports = Vec::new();
    for at in 0..hosts {
        let port = world.attach(at, vni, &format!("c{at}")).unwrap();
        ports.push((at, port.id, port.mac));
    }
    Mesh { world, vni, ports }
}

fn agree(world: &mut World, ms: u64) -> bool {
    world.run_until(ms, |w| views(w).len() == 1)
}

/// Everybody sends to everybody; returns the share that arrived.
pub fn all_pairs(mesh: &mut Mesh) -> (u32, u32) {
    let mut sent = Vec::new();
    for &(from, from_port, _) in &mesh.ports {
        for &(to, to_port, mac) in &mesh.ports {
            if from != to {
                sent.push((mesh.world.send(from, from_port, mac), to, to_port));
            }
        }
        mesh.world.run(5);
    }
    mesh.world.run(3_500);
    let arrived = sent
        .iter()
        .filter(|(id, to, port)| mesh.world.checkers.was_delivered(*id, *to, *port))
        .count();
    (
        u32::try_from(arrived).unwrap(),
        u32::try_from(sent.len()).unwrap(),
    )
}

#[test]
// How fast it runs is told, never checked.
#[allow(clippy::disallowed_methods)]
fn fifty_nodes_converge_and_every_pair_talks() {
    with_seed(seed(), |seed| {
        let started = std::time::Instant::now();
        let mut mesh = mesh(seed, 50, Weather::fair());
        assert!(
            agree(&mut mesh.world, 60_000),
            "50 nodes did not agree on members and endpoints"
        );
        let members = mesh.world.hosts[49]
            .node
            .as_ref()
            .unwrap()
            .directory()
            .members()
            .count();
        assert_eq!(members, 50);
        assert_eq!(all_pairs(&mut mesh), (2450, 2450));
        mesh.world.run(60_000);
        let simulated = 50.0 * mesh.world.now as f64 / 3.6e12;
        println!(
            "{simulated:.2} node-hours simulated, {:.2} per second",
            simulated / started.elapsed().as_secs_f64()
        );
    });
}

#[test]
fn known_unicast_reaches_its_port_and_no_other() {
    with_seed(seed(), |seed| {
        let mut mesh = mesh(seed, 6, Weather::fair());
        assert!(agree(&mut mesh.world, 30_000));
        let (from, port, _) = mesh.ports[0];
        for &(_, _, mac) in &mesh.ports.clone()[1..] {
            let id = mesh.world.send(from, port, mac);
            mesh.world.run(500);
            assert_eq!(
                mesh.world.checkers.copies(id),
                1,
                "a frame to a known MAC was flooded"
            );
        }
    });
}

#[test]
fn a_broadcast_reaches_every_other_port_of_its_network_once() {
    with_seed(seed(), |seed| {
        let mut mesh = mesh(seed, 8, Weather::fair());
        let other = mesh.world.add_network(2, &["10.1.0.0/16"]);
        mesh.world.run(3_000);
        mesh.world.attach(3, other, "other").unwrap();
        assert!(agree(&mut mesh.world, 30_000));
        let (from, port, _) = mesh.ports[2];
        let id = mesh.world.send(from, port, MacAddr::BROADCAST);
        mesh.world.run(1_000);
        assert_eq!(mesh.world.checkers.copies(id), 7);
    });
}

#[test]
fn a_flood_of_new_macs_is_told_in_few_records_and_all_are_known_a_second_later() {
    with_seed(seed(), |seed| {
        let mut world = World::new(seed, Weather::fair());
        world.macs_per_port = 1024;
        let mut mesh = mesh_in(world, 3);
        assert!(agree(&mut mesh.world, 30_000));
        // The first host was there before.
        let (from, port, _) = mesh.ports[1];
        let (teller, vni) = (mesh.world.id(from), mesh.vni);
        let known = |world: &World, at: usize| {
            let directory = world.hosts[at].node.as_ref().unwrap().directory();
            directory.endpoints(vni).count()
        };
        let serial = |world: &World| {
            let directory = world.hosts[0].node.as_ref().unwrap().directory();
            let signed = directory.signed(&RecordKey::Endpoints(teller, vni));
            directory.open(signed.unwrap()).unwrap().serial()
        };
        let before = serial(&mesh.world);
        for number in 0..1_000u16 {
            let [high, low] = number.to_be_bytes();
            let mac = MacAddr([2, 0xee, 0, 0, high, low]);
            mesh.world.send_from(from, port, mac, MacAddr::BROADCAST, 7);
            mesh.world.run(1);
        }
        let all_known =
            |world: &World| (0..3).all(|at| known(world, at) == 1_000 + mesh.ports.len());
        assert!(mesh.world.run_until(2_000, all_known));
        let records = serial(&mesh.world) - before;
        assert!((2..60).contains(&records), "{records} records");
    });
}

#[test]
fn one_seed_makes_one_history() {
    let run = |seed| {
        let mut mesh = mesh(seed, 10, Weather::foul());
        all_pairs(&mut mesh);
        mesh.world.run(20_000);
        (mesh.world.history, mesh.world.checkers.deliveries)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(
        run(5).0,
        run(6).0,
        "the history does not depend on the seed: it is no history"
    );
}

#[test]
fn a_killed_node_is_withdrawn_within_five_seconds_and_comes_back() {
    with_seed(seed(), |seed| {
        let mut mesh = mesh(seed, 10, Weather::fair());
        assert!(agree(&mut mesh.world, 30_000));
        let vni = mesh.vni;
        mesh.world.kill(4);
        let withdrawn = mesh.world.run_until(5_000, |w| {
            w.up().iter().all(|&at| {
                w.hosts[at]
                    .node
                    .as_ref()
                    .unwrap()
                    .directory()
                    .endpoints(vni)
                    .count()
                    == 9
            })
        });
        assert!(
            withdrawn,
            "a dead node's endpoints were still there after 5 s"
        );
        mesh.world.run(20_000);
        mesh.world.start(4);
        let back = mesh.world.run_until(10_000, |w| {
            w.up().iter().all(|&at| {
                w.hosts[at]
                    .node
                    .as_ref()
                    .unwrap()
                    .directory()
                    .endpoints(vni)
                    .count()
                    == 10
            })
        });
        assert!(back, "a node that came back was not seen again");
        mesh.world.run(2_000);
        assert_eq!(all_pairs(&mut mesh), (90, 90));
    });
}

#[test]
fn ten_percent_loss_declares_nobody_dead() {
    with_seed(seed(), |seed| {
        let mut mesh = mesh(seed, 12, Weather::foul());
        assert!(agree(&mut mesh.world, 60_000));
        let ids: Vec<_> = (0..12).map(|at| mesh.world.id(at)).collect();
        for _ in 0..600 {
            mesh.world.run(1_000);
            for at in 0..12 {
                let directory = mesh.world.hosts[at].node.as_ref().unwrap().directory();
                let dead: Vec<_> = ids.iter().filter(|id| !directory.reachable(**id)).collect();
                assert!(dead.is_empty(), "host {at} takes {dead:?} for dead");
            }
        }
    });
}

#[test]
fn halves_of_a_partition_work_on_and_agree_after_it_heals() {
    with_seed(seed(), |seed| {
        let mut mesh = mesh(seed, 12, Weather::fair());
        assert!(agree(&mut mesh.world, 30_000));
        let left: Vec<usize> = (0..5).collect();
        mesh.world.parting.halves(&left, 12);
        mesh.world.run(10_000);
        // Addresses are leased on both sides, without a word between them.
        let mut leased = BTreeSet::new();
        for at in 0..12 {
            let port = mesh
                .world
                .attach(at, mesh.vni, &format!("late{at}"))
                .unwrap();
            assert!(
                leased.insert(port.ips[0].addr()),
                "{} was handed out twice",
                port.ips[0]
            );
        }
        for host in &mesh.world.hosts {
            for port in host
                .ports
                .values()
                .filter(|p| p.name.as_ref().is_some_and(|n| n.as_str().starts_with('c')))
            {
                assert!(!leased.contains(&port.ips[0].addr()));
            }
        }
        let (from, port, _) = mesh.ports[0];
        let inside = mesh.world.send(from, port, mesh.ports[3].2);
        mesh.world.run(1_000);
        assert!(
            mesh.world
                .checkers
                .was_delivered(inside, 3, mesh.ports[3].1)
        );
        mesh.world.parting.heal();
        assert!(
            agree(&mut mesh.world, 40_000),
            "views differ after the partition healed"
        );
        mesh.world.run(3_000);
        assert_eq!(all_pairs(&mut mesh), (132, 132));
    });
}

#[test]
fn nothing_goes_to_a_revoked_node_and_its_endpoints_are_gone() {
    with_seed(seed(), |seed| {
        let mut mesh = mesh(seed, 8, Weather::fair());
        assert!(agree(&mut mesh.world, 30_000));
        mesh.world
            .command(
                0,
                Command::Revoke {
                    member: "host5".to_owned(),
                },
            )
            .unwrap();
        mesh.world.run(5_000);
        let gone = mesh.ports.remove(5);
        for at in (0..8).filter(|&at| at != 5) {
            let directory = mesh.world.hosts[at].node.as_ref().unwrap().directory();
            assert!(
                directory.member(mesh.world.id(5)).is_none(),
                "host {at} still takes host5 for a member"
            );
            assert_eq!(directory.endpoints(mesh.vni).count(), 7);
        }
        // The checker asserts that no frame crosses to it; broadcasts and its own MAC try.
        for &(from, port, _) in &mesh.ports.clone() {
            mesh.world.send(from, port, gone.2);
            mesh.world.send(from, port, MacAddr::BROADCAST);
        }
        mesh.world.run(2_000);
        assert_eq!(all_pairs(&mut mesh), (42, 42));
    });
}

#[test]
fn a_denied_port_is_never_delivered_and_others_are() {
    with_seed(seed(), |seed| {
        let mut mesh = mesh(seed, 4, Weather::fair());
        for at in 0..4 {
            mesh.world.hosts[at].deny_port = Some(23);
            mesh.world
                .command(
                    at,
                    Command::PolicyChain {
                        vni: vni(1),
                        plugins: 1,
                    },
                )
                .unwrap();
        }
        assert!(agree(&mut mesh.world, 30_000));
        for &(from, port, _) in &mesh.ports.clone() {
            for &(to, to_port, mac) in &mesh.ports.clone() {
                if from != to {
                    let denied = mesh.world.send_to_port(from, port, mac, 23);
                    let passed = mesh.world.send_to_port(from, port, mac, 80);
                    mesh.world.run(200);
                    assert!(!mesh.world.checkers.was_delivered(denied, to, to_port));
                    assert!(mesh.world.checkers.was_delivered(passed, to, to_port));
                }
            }
        }
    });
}

/// Random faults on a mesh; after they end, everybody agrees and every pair talks.
fn storm(seed: u64) {
    let mut mesh = mesh(seed, 9, Weather::foul());
    let mut down = BTreeSet::new();
    for _ in 0..30 {
        match mesh.world.rng.random_range(0..6u8) {
            0 => {
                let at = mesh.world.rng.random_range(1..9);
                if down.insert(at) {
                    mesh.world.kill(at);
                }
            }
            1 => {
                if let Some(at) = down.pop_first() {
                    mesh.world.start(at);
                }
            }
            2 => {
                let (a, b) = (
                    mesh.world.rng.random_range(0..9),
                    mesh.world.rng.random_range(0..9),
                );
                if a != b {
                    mesh.world.parting.part(a, b);
                }
            }
            3 => {
                let left: Vec<usize> = (0..9).filter(|_| mesh.world.rng.random()).collect();
                mesh.world.parting.halves(&left, 9);
            }
            4 => mesh.world.parting.heal(),
            _ => {}
        }
        for _ in 0..20 {
            let (from, port, _) = mesh.ports[mesh.world.rng.random_range(0..9)];
            let to = if mesh.world.rng.random() {
                MacAddr::BROADCAST
            } else {
                mesh.ports[mesh.world.rng.random_range(0..9)].2
            };
            if mesh.world.hosts[from].ports.contains_key(&port) {
                mesh.world.send(from, port, to);
            }
        }
        let pause = mesh.world.rng.random_range(100..4_000);
        mesh.world.run(pause);
    }
    mesh.world.parting.heal();
    while let Some(at) = down.pop_first() {
        mesh.world.start(at);
    }
    mesh.world.weather = Weather::fair();
    assert!(
        agree(&mut mesh.world, 90_000),
        "views differ after the storm: {:#?}",
        views(&mesh.world)
    );
    mesh.world.run(5_000);
    assert_eq!(all_pairs(&mut mesh), (72, 72));
}

#[test]
fn a_swarm_of_storms_ends_in_agreement() {
    let seeds = std::env::var("MESHD_SIM_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(8);
    for seed in seed()..seed() + seeds {
        with_seed(seed, storm);
    }
}

/// As [`mesh`], with kernels that have VXLAN on a trusted underlay; all pairs have talked and all paths are up.
fn kernel_mesh(seed: u64, hosts: usize) -> Mesh {
    let mut world = World::trusted(seed, Weather::fair());
    let vni = world.add_network(1, &["10.1.0.0/16"]);
    for _ in 1..hosts {
        world.join();
    }
    assert!(agree(&mut world, 60_000));
    let mut ports = Vec::new();
    for at in 0..hosts {
        let port = world.attach(at, vni, &format!("c{at}")).unwrap();
        ports.push((at, port.id, port.mac));
    }
    assert!(agree(&mut world, 60_000));
    let mut mesh = Mesh { world, vni, ports };
    mesh.world.run(3_000);
    mesh
}

/// One frame each way between hosts 0 and 1 each millisecond, for `ms`; how many were lost.
fn stream(mesh: &mut Mesh, ms: u64, mut each: impl FnMut(&mut World, u64)) -> usize {
    let (a, b) = (mesh.ports[0], mesh.ports[1]);
    let mut sent = Vec::new();
    for at in 0..ms {
        for (from, to) in [(a, b), (b, a)] {
            if mesh.world.hosts[from.0].ports.contains_key(&from.1) {
                sent.push((mesh.world.send(from.0, from.1, to.2), to.0, to.1, at));
            }
        }
        each(&mut mesh.world, at);
        mesh.world.run(1);
    }
    mesh.world.run(3_500);
    let lost = sent
        .iter()
        .filter(|(id, to, port, _)| !mesh.world.checkers.was_delivered(*id, *to, *port));
    // Seen if the test fails.
    let lost: Vec<(usize, u64)> = lost.map(|(_, to, _, at)| (*to, *at)).collect();
    println!("lost on the way to, in ms: {lost:?}");
    lost.len()
}

#[test]
fn trusted_kernels_carry_what_was_ruled_on_once_and_the_daemons_see_no_more_of_it() {
    with_seed(seed(), |seed| {
        let mut mesh = kernel_mesh(seed, 4);
        assert_eq!(all_pairs(&mut mesh), (12, 12));
        let before = mesh.world.by_kernel;
        assert_eq!(all_pairs(&mut mesh), (12, 12));
        assert_eq!(mesh.world.by_kernel - before, 12, "all of the second round");
    });
}

#[test]
fn a_direction_that_dies_under_traffic_costs_some_frames_and_the_other_one_none() {
    with_seed(seed(), |seed| {
        let mut mesh = kernel_mesh(seed, 2);
        assert_eq!(stream(&mut mesh, 1_000, |_, _| ()), 0);
        let lost = stream(&mut mesh, 3_000, |world, at| {
            if at == 500 {
                world.vxlan_cut.insert((0, 1));
            }
        });
        assert!(lost > 0 && lost < 400, "lost {lost} frames");
        // Back, without loss.
        let lost = stream(&mut mesh, 10_000, |world, at| {
            if at == 500 {
                world.vxlan_cut.clear();
            }
        });
        assert_eq!(lost, 0, "promotion lost frames");
        assert!(mesh.world.hosts[0].kernel.held() > 0);
    });
}

#[test]
fn a_node_that_starts_anew_finds_its_flows_in_the_kernel_and_nothing_is_lost() {
    with_seed(seed(), |seed| {
        let mut mesh = kernel_mesh(seed, 3);
        assert_eq!(stream(&mut mesh, 1_000, |_, _| ()), 0);
        let kept = mesh.world.hosts[1].ports.clone();
        let lost = stream(&mut mesh, 12_000, |world, at| match at {
            500 => {
                world.kill(1);
                // The devices stay, and the containers with them.
                world.hosts[1].ports = kept.clone();
            }
            4_500 => world.start(1),
            _ => {}
        });
        assert_eq!(lost, 0);
        assert!(mesh.world.hosts[1].kernel.held() > 0, "adopted");
    });
}
