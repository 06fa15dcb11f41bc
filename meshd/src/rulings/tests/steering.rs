//! Steering plugins: attached to networks, one each, in no chain, asked beside the driver.

use super::*;
use meshd_core::ident::NodeId;
use meshd_core::steering::{Figures, SteerKey, SteerQuestion, WayId, WayStats};

fn question() -> SteerQuestion {
    let way = |number: u32, rtt_us| WayStats {
        way: WayId::new(number).unwrap(),
        name: format!("way{number}"),
        alive: true,
        figures: Figures {
            rtt_us,
            ..Figures::default()
        },
        cost: 0,
    };
    SteerQuestion {
        key: SteerKey {
            vni: lan(),
            node: NodeId([3; 32]),
            dscp: 0,
        },
        ways: vec![way(2, 30_000), way(3, 5_000)],
        current: Vec::new(),
    }
}

fn chosen(rulings: &Rulings, seen: &mut mpsc::Receiver<Input>) -> Option<Vec<u32>> {
    rulings.steer(QueryId(9), question());
    match seen.blocking_recv() {
        Some(Input::Steered {
            query: QueryId(9),
            answer,
        }) => answer.map(|answer| answer.ranked.iter().map(|way| way.number()).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_steering_plugin_is_in_no_chain_and_chooses_for_its_network() {
    let (_dir, rulings, mut seen) = with(&["hello-steering"]);
    assert_eq!(chosen(&rulings, &mut seen), None);
    let name = label("hello-steering");
    rulings
        .attach(&name, lan(), "{}", Placement::default())
        .unwrap();
    assert_eq!(chosen(&rulings, &mut seen), Some(vec![3, 2]));
    assert!(rulings.steering().get(&lan()).is_some_and(|n| *n > 0));
    assert_eq!(rulings.chains().get(&lan()).copied().unwrap_or(0), 0);
    let (answer, asked) = rulings.ask_now(&tcp_to(22));
    assert_eq!((answer.verdict, asked.len()), (Verdict::Pass, 0));
    rulings.detach(&name, lan()).unwrap();
    assert_eq!(rulings.steering().get(&lan()), Some(&0));
    assert_eq!(chosen(&rulings, &mut seen), None);
}

#[test]
fn a_network_has_one_steering_plugin_and_it_has_no_stage() {
    let (_dir, rulings, _seen) = with(&["hello-steering", "steer"]);
    let place = |stage| Placement {
        stage,
        ..Placement::default()
    };
    let (one, two) = (label("hello-steering"), label("steer"));
    let staged = rulings.attach(&one, lan(), "{}", place(Some(Stage::Forward)));
    assert!(matches!(staged, Err(AttachError::SteeringPlace { .. })));
    rulings.attach(&one, lan(), "{}", place(None)).unwrap();
    let second = rulings.attach(&two, lan(), "{}", place(None));
    assert!(matches!(second, Err(AttachError::SteeringTaken { .. })));
    // A policy does not take its place while it is attached.
    let other = rulings.install(&one, &component("acl"), None);
    assert!(
        matches!(other, Err(InstallError::World { .. })),
        "{other:?}"
    );
    let beside = rulings.shadow(&one, lan(), &component("hello-steering"));
    assert!(matches!(beside, Err(ShadowError::Steering { .. })));
}
