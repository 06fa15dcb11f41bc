use super::*;
use meshd_sdk::test::ways::{Way, Ways};
use std::fmt::Write as _;

const VOICE: u8 = 46;
const REST: u8 = 0;
const BULK: u8 = 8;

fn steer() -> Steer {
    Steer {
        classes: Vec::new(),
        busy: 80,
        rest: Class::default(),
        queue_ms: 50,
        memory: BTreeMap::new(),
        shortest: BTreeMap::new(),
    }
}

fn ways() -> Ways<Steer> {
    Ways::new(
        steer(),
        vec![
            Way::new("fibre", 10_000, 10_000).cost(1),
            Way::new("dsl", 10_000, 25_000).cost(2),
        ],
    )
}

#[test]
fn the_cheaper_way_is_taken_while_it_is_fit() {
    let mut sim = ways();
    sim.load(VOICE, 100);
    sim.load(REST, 2_000);
    sim.run(5_000);
    assert_eq!((sim.first(VOICE), sim.first(REST)), ("fibre", "fibre"));
    assert!(sim.moves.is_empty());
}

#[test]
fn voice_leaves_a_busy_way_within_a_second_and_stays_away() {
    let mut sim = ways();
    sim.load(VOICE, 100);
    sim.run(2_000);
    // A backup goes by both ways, and fills the smaller one.
    sim.ways[1].kbps = 100_000;
    sim.load(BULK, 20_000);
    sim.run(1_000);
    assert_eq!(sim.first(VOICE), "dsl");
    sim.run(120_000);
    assert_eq!(sim.moves.get(&VOICE), Some(&1));
}

#[test]
fn a_way_that_others_fill_is_left_within_a_second() {
    let mut sim = ways();
    sim.load(REST, 500);
    sim.run(2_000);
    // Not a packet more of ours, and yet it takes 120 ms more.
    sim.ways[0].rtt_us = 130_000;
    sim.run(1_000);
    assert_eq!(sim.first(REST), "dsl");
    sim.run(60_000);
    assert_eq!(sim.moves.get(&REST), Some(&1));
}

#[test]
fn bulk_is_spread_over_all_ways_and_is_not_driven_away_by_itself() {
    let mut sim = ways();
    sim.load(BULK, 16_000);
    sim.run(1_000);
    assert_eq!(sim.spread(BULK), ["fibre", "dsl"]);
    sim.run(60_000);
    assert_eq!(sim.spread(BULK).len(), 2);
    assert!(
        sim.moves.get(&BULK).is_none_or(|moves| *moves <= 1),
        "{:?}",
        sim.moves
    );
}

#[test]
fn a_lossy_way_is_left_within_a_second_and_comes_back_once_it_was_calm() {
    let mut sim = ways();
    sim.load(VOICE, 100);
    sim.load(REST, 2_000);
    sim.run(2_000);
    sim.ways[0].loss_ppm = 80_000;
    sim.run(1_000);
    assert_eq!((sim.first(VOICE), sim.first(REST)), ("dsl", "dsl"));
    sim.ways[0].loss_ppm = 0;
    // Looks come with news: here a load that goes up and down.
    for step in 0..60 {
        sim.load(REST, if step % 2 == 0 { 2_000 } else { 4_000 });
        sim.run(2_000);
    }
    assert_eq!(sim.first(VOICE), "fibre");
    assert!(
        sim.moves.values().all(|moves| *moves == 2),
        "{:?}",
        sim.moves
    );
}

#[test]
fn a_way_that_is_good_only_while_it_is_idle_is_not_taken_again_and_again() {
    let mut sim = Ways::new(
        steer(),
        vec![
            Way::new("small", 1_000, 10_000).cost(1),
            Way::new("large", 100_000, 40_000).cost(2),
        ],
    );
    // More than the cheaper way can take.
    for step in 0..600 {
        sim.load(REST, if step % 2 == 0 { 2_000 } else { 3_000 });
        sim.run(500);
    }
    assert_eq!(sim.first(REST), "large");
    assert_eq!(sim.moves.get(&REST), Some(&1), "five minutes");
}

#[test]
fn delays_that_waver_move_nothing() {
    let mut sim = Ways::new(
        steer(),
        vec![
            Way::new("one", 10_000, 20_000),
            Way::new("two", 10_000, 21_000),
        ],
    );
    sim.load(VOICE, 100);
    for step in 0..300u32 {
        sim.ways[0].rtt_us = 20_000 + (step * 7_919) % 5_000;
        sim.ways[1].rtt_us = 20_000 + (step * 104_729) % 5_000;
        sim.run(200);
    }
    assert!(
        sim.moves.get(&VOICE).is_none_or(|moves| *moves <= 1),
        "{:?}",
        sim.moves
    );
}

#[test]
fn where_all_are_in_trouble_nothing_moves() {
    let mut sim = ways();
    sim.load(VOICE, 100);
    sim.run(1_000);
    for way in &mut sim.ways {
        way.loss_ppm = 200_000;
    }
    sim.run(60_000);
    assert_eq!(sim.first(VOICE), "fibre");
    assert!(sim.moves.is_empty(), "{:?}", sim.moves);
}

#[test]
fn what_is_wrong_in_a_config_is_told_by_its_place() {
    let mut wrong = steer();
    wrong.busy = 0;
    wrong.classes = vec![Class {
        dscp: vec![46, 64],
        ..Class::default()
    }];
    let errors = wrong.check().unwrap_err();
    let places: Vec<_> = errors.iter().map(|e| e.pointer.as_str()).collect();
    assert_eq!(places, ["/busy", "/classes/0/dscp/1"]);
}

#[test]
fn the_manifest_says_steering_and_has_a_schema() {
    let manifest = meshd_sdk::test::ways::manifest::<Steer>();
    assert_eq!(manifest["world"], "steering");
    assert!(manifest.get("stage").is_none());
    assert!(manifest["config-schema"]["properties"]["classes"].is_object());
}

/// A day of two ways, second by second. `MESHD_BLESS=1` writes it anew.
#[test]
fn a_day_of_two_ways_goes_as_it_did() {
    let mut sim = ways();
    let mut story = String::new();
    let mut tell = |sim: &mut Ways<Steer>, what: &str| {
        sim.run(1_000);
        writeln!(
            story,
            "{what:<28} voice {:<6} rest {:<6} bulk {}",
            sim.first(VOICE),
            sim.first(REST),
            sim.spread(BULK).join("+")
        )
        .unwrap();
    };
    sim.load(VOICE, 100);
    sim.load(REST, 1_000);
    sim.load(BULK, 0);
    tell(&mut sim, "quiet");
    sim.load(BULK, 14_000);
    tell(&mut sim, "a backup begins");
    sim.ways[1].up = false;
    tell(&mut sim, "dsl dies");
    sim.ways[1].up = true;
    tell(&mut sim, "dsl is back");
    sim.load(BULK, 0);
    tell(&mut sim, "the backup ends");
    sim.ways[0].loss_ppm = 100_000;
    tell(&mut sim, "fibre loses every tenth");
    sim.ways[0].loss_ppm = 0;
    tell(&mut sim, "fibre is well");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/day.golden");
    if std::env::var_os("MESHD_BLESS").is_some() {
        std::fs::write(path, &story).unwrap();
    }
    assert_eq!(story, std::fs::read_to_string(path).unwrap());
}
