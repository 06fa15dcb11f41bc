//! Values that controllers share over all nodes: who writes last holds, on both sides of a partition and after it.

use crate::link::Weather;
use crate::scenarios::{mesh_in, seed, with_seed};
use crate::world::World;
use meshd_core::command::{Command, Refusal};
use meshd_core::ident::WallTime;
use meshd_core::ident::{Label, Vni};
use meshd_core::shared::Replica;
use meshd_core::wire::record::{SHARED_BYTES_MAX, SharedValue};
use rand::RngExt as _;
use std::collections::{BTreeMap, BTreeSet};

const MOST: usize = 64 << 10;

fn plugin() -> Label {
    "limits".parse().unwrap()
}

/// One controller on each host.
struct Controllers {
    world: World,
    vni: Vni,
    replicas: Vec<Replica>,
}

impl Controllers {
    fn new(seed: u64, hosts: usize) -> Self {
        let mesh = mesh_in(World::new(seed, Weather::fair()), hosts);
        let replicas = (0..hosts).map(|at| Replica::new(mesh.world.id(at), Vec::new()));
        Self {
            replicas: replicas.collect(),
            vni: mesh.vni,
            world: mesh.world,
        }
    }

    /// What the shell of each host does twice a second.
    fn tend(&mut self) {
        for at in self.world.up() {
            let now = self.world.clock().wall;
            if let Some(list) = self.replicas[at].take_share(now) {
                self.share(at, list).unwrap();
            }
            let now = self.world.clock();
            let directory = self.world.hosts[at].node.as_ref().unwrap().directory();
            self.replicas[at].hear(directory.shared(self.vni, &plugin(), now.wall), now.wall);
        }
    }

    fn share(&mut self, at: usize, list: Vec<SharedValue>) -> Result<(), Refusal> {
        let (vni, plugin) = (self.vni, plugin());
        let command = Command::Share { vni, plugin, list };
        self.world.command(at, command).map(drop)
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 500 {
            self.world.run(500);
            self.tend();
        }
    }

    fn set(&mut self, at: usize, key: &str, value: &str) {
        let now = self.world.clock().wall;
        let set = self.replicas[at].set(key, value.into(), None, 0, MOST, now);
        set.unwrap();
    }

    fn view(&self, at: usize) -> BTreeMap<String, String> {
        let now = self.world.clock().wall;
        let keys = self.replicas[at].list("", None, 1024, now);
        let text = |key: &String| {
            let (value, _) = self.replicas[at].get(key, now).unwrap();
            String::from_utf8(value.to_vec()).unwrap()
        };
        keys.into_iter()
            .map(|key| (key.clone(), text(&key)))
            .collect()
    }

    fn views(&self) -> BTreeSet<BTreeMap<String, String>> {
        self.world
            .up()
            .into_iter()
            .map(|at| self.view(at))
            .collect()
    }
}

#[test]
fn what_one_controller_writes_all_see_within_seconds_and_the_last_write_holds() {
    with_seed(seed(), |seed| {
        let mut all = Controllers::new(seed, 10);
        all.run(5_000);
        all.set(3, "limit", "10");
        all.run(4_000);
        for at in 0..10 {
            assert_eq!(all.view(at)["limit"], "10", "host {at}");
        }
        all.set(7, "limit", "20");
        all.set(7, "only", "here");
        all.run(4_000);
        let now = all.world.clock().wall;
        all.replicas[2].delete("only", MOST, now).unwrap();
        all.run(4_000);
        let expected = BTreeMap::from([("limit".to_owned(), "20".to_owned())]);
        assert_eq!(all.views(), BTreeSet::from([expected]));
    });
}

#[test]
fn concurrent_writers_on_both_sides_of_a_partition_agree_after_it_heals() {
    for round in 0..3 {
        with_seed(seed() + round, |seed| {
            let mut all = Controllers::new(seed, 9);
            all.run(5_000);
            let left: Vec<usize> = (0..4).collect();
            all.world.parting.halves(&left, 9);
            for turn in 0..20 {
                for _ in 0..4 {
                    let (at, key) = (
                        all.world.rng.random_range(0..9),
                        all.world.rng.random_range(0..5),
                    );
                    let now = all.world.clock().wall;
                    match all.world.rng.random_range(0..4) {
                        0 => all.replicas[at]
                            .delete(&format!("k{key}"), MOST, now)
                            .unwrap(),
                        _ => all.set(at, &format!("k{key}"), &format!("{turn} of {at}")),
                    }
                }
                all.run(500);
            }
            assert!(all.views().len() > 1, "they are parted");
            all.world.parting.heal();
            all.run(40_000);
            assert_eq!(all.views().len(), 1, "{:#?}", all.views());
        });
    }
}

#[test]
fn what_was_shared_survives_restarts_and_ends_with_the_attachment_or_the_membership() {
    with_seed(seed(), |seed| {
        let mut all = Controllers::new(seed, 4);
        all.set(1, "of/1", "one");
        all.set(2, "of/2", "two");
        all.run(6_000);
        // Host 1 loses power, and host 3 as well, which comes back: it has kept what host 1 wrote.
        all.world.kill(1);
        all.world.kill(3);
        all.replicas[3] = Replica::new(all.world.id(3), Vec::new());
        all.world.start(3);
        all.tend();
        assert_eq!(all.view(3).len(), 2, "from the disk");
        all.world.start(1);
        all.run(8_000);
        // Its attachment ends.
        let vni = all.vni;
        let attachments = [(vni, "another".parse().unwrap())].into();
        let only = Command::ShareOnly { attachments };
        all.world.command(1, only).unwrap();
        all.replicas[1] = Replica::new(all.world.id(1), Vec::new());
        all.run(6_000);
        let expected = BTreeMap::from([("of/2".to_owned(), "two".to_owned())]);
        assert_eq!(all.views(), BTreeSet::from([expected]));
        let member = "host2".to_owned();
        all.world.command(0, Command::Revoke { member }).unwrap();
        all.run(6_000);
        for at in [0, 1, 3] {
            assert_eq!(all.view(at), BTreeMap::new(), "host {at}");
        }
    });
}

#[test]
fn a_member_shares_so_much_and_no_more_and_off_the_network_it_is_not_listened_to() {
    with_seed(seed(), |seed| {
        let mut all = Controllers::new(seed, 3);
        let value = |n: usize, bytes: usize| SharedValue {
            key: format!("{n:03}"),
            value: Some(vec![0; bytes]),
            stamp: 1,
            until: WallTime(0),
        };
        let much = vec![value(0, SHARED_BYTES_MAX)];
        assert!(all.share(1, much).is_err(), "more than a value may have");
        let much = (0..4).map(|n| value(n, 60_000)).collect();
        assert!(all.share(1, much).is_err(), "more than a record may have");
        // Each is right, and there are many.
        let shared = (0..10).filter(|n| {
            let plugin = format!("p{n}").parse().unwrap();
            let list = (0..3).map(|n| value(n, 60_000)).collect();
            let command = Command::Share {
                vni: all.vni,
                plugin,
                list,
            };
            all.world.command(1, command).is_ok()
        });
        assert_eq!(shared.count(), 5, "1 MiB of a node");
        // It shares on a network that it has no port on.
        let other = all.world.add_network(2, &["10.2.0.0/16"]);
        all.world.run(3_000);
        let list = vec![value(0, 1)];
        let command = Command::Share {
            vni: other,
            plugin: plugin(),
            list,
        };
        all.world.command(1, command).unwrap();
        all.run(6_000);
        let heard = |all: &Controllers| {
            let now = all.world.clock().wall;
            let directory = all.world.hosts[0].node.as_ref().unwrap().directory();
            directory.shared(other, &plugin(), now).count()
        };
        assert_eq!(heard(&all), 0);
        all.world.attach(1, other, "late").unwrap();
        all.run(6_000);
        assert_eq!(heard(&all), 1);
    });
}
