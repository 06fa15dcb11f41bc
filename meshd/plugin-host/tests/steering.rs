//! Steering plugins: asked about ways, and distrusted like all others. The guests are built by `cargo xtask plugins`.
#![allow(clippy::unwrap_used)]

mod guests;

use guests::{instance, plugin, tcp_to};
use meshd_core::ident::{NodeId, Vni};
use meshd_core::steering::{Figures, SteerKey, SteerQuestion, WayId, WayStats};
use meshd_plugin_host::{Fault, Instance, World};

fn way(number: u32, rtt_us: u32, alive: bool) -> WayStats {
    WayStats {
        way: WayId::new(number).unwrap(),
        name: format!("way{number}"),
        alive,
        figures: Figures {
            rtt_us,
            ..Figures::default()
        },
        cost: 0,
    }
}

fn question(ways: Vec<WayStats>, current: &[u32]) -> SteerQuestion {
    SteerQuestion {
        key: SteerKey {
            vni: Vni::new(7).unwrap(),
            node: NodeId([3; 32]),
            dscp: 46,
        },
        ways,
        current: current.iter().map(|n| WayId::new(*n).unwrap()).collect(),
    }
}

fn ranked(guest: &mut Instance, question: &SteerQuestion) -> Vec<u32> {
    let answer = guest.choose(question).unwrap();
    answer.ranked.iter().map(|way| way.number()).collect()
}

#[test]
fn a_steering_plugin_ranks_the_ways_it_is_told_of() {
    assert_eq!(plugin("hello-steering").shape().world, World::Steering);
    let mut guest = instance("hello-steering", "{}");
    let ways = vec![way(2, 30_000, true), way(3, 9_000, true), way(4, 1, false)];
    assert_eq!(ranked(&mut guest, &question(ways, &[])), [3, 2]);
    // The one that holds has a head start of 2 ms.
    let ways = vec![way(2, 9_000, true), way(3, 10_000, true)];
    assert_eq!(ranked(&mut guest, &question(ways, &[3, 2])), [3, 2]);
}

#[test]
fn it_remembers_from_one_question_to_the_next() {
    let mut guest = instance("steer", "{}");
    let lossy = |loss_ppm| {
        let mut first = way(3, 10_000, true);
        first.figures.loss_ppm = loss_ppm;
        vec![first, way(4, 11_000, true)]
    };
    assert_eq!(ranked(&mut guest, &question(lossy(0), &[])), [3, 4]);
    assert_eq!(
        ranked(&mut guest, &question(lossy(90_000), &[3, 4])),
        [4, 3]
    );
    // It is well again, and that is not believed at once.
    assert_eq!(ranked(&mut guest, &question(lossy(0), &[4, 3])), [4, 3]);
    let mut fresh = instance("steer", "{}");
    assert_eq!(ranked(&mut fresh, &question(lossy(0), &[])), [3, 4]);
}

#[test]
fn a_policy_chooses_no_ways_and_a_steering_plugin_decides_nothing() {
    let mut policy = instance("acl", "{}");
    let asked = policy.choose(&question(vec![way(2, 1, true)], &[]));
    assert!(matches!(asked, Err(Fault::Verdict { .. })), "{asked:?}");
    let mut steering = instance("hello-steering", "{}");
    assert!(steering.decide(&tcp_to(22)).is_err());
    // And does its own work after that.
    let ways = vec![way(2, 1, true)];
    assert_eq!(ranked(&mut steering, &question(ways, &[])), [2]);
}

#[test]
fn what_is_wrong_in_its_config_is_told_by_its_place() {
    let refused = Instance::new(&plugin("steer"), r#"{"busy":0}"#, 1).unwrap_err();
    assert!(refused.to_string().contains("/busy"), "{refused}");
    let strange = Instance::new(&plugin("steer"), r#"{"bsy":80}"#, 1).unwrap_err();
    assert!(strange.to_string().contains("bsy"), "{strange}");
}
