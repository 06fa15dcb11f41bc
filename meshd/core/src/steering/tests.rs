use super::*;
use crate::ident::Label;

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

const PEER: NodeId = NodeId([7; 32]);

fn vni() -> Vni {
    Vni::new(5).unwrap()
}

fn link(nth: usize) -> WayId {
    WayId::link(nth).unwrap()
}

fn face(way: WayId, cost: u32, up: bool) -> WayFace {
    let name: Label = format!("way{way}").parse().unwrap();
    WayFace {
        way,
        name: name.to_string(),
        cost,
        rate_kbps: None,
        up,
    }
}

fn faces(up: [bool; 3]) -> BTreeMap<NodeId, Vec<WayFace>> {
    let [main, first, second] = up;
    let all = vec![
        face(WayId::MAIN, MAIN_COST, main),
        face(link(0), 1, first),
        face(link(1), 2, second),
    ];
    [(PEER, all)].into()
}

fn steering() -> (Steering, Outbox) {
    let (mut steering, mut out) = (Steering::default(), Outbox::default());
    assert!(steering.set_ways(faces([true; 3]), &mut out));
    (steering, out)
}

#[test]
fn what_no_choice_is_made_for_takes_the_cheapest_way_that_is_alive() {
    let (mut steering, mut out) = steering();
    let live = steering.peers.get(&PEER).map(|peer| Arc::clone(&peer.live));
    let live = live.unwrap();
    assert_eq!(live.best(), Some(link(0)));
    assert!(live.ways().has(link(1)) && live.ways().has(WayId::MAIN));
    steering.set_ways(faces([true, false, true]), &mut out);
    assert_eq!(live.best(), Some(link(1)));
    steering.set_ways(faces([false; 3]), &mut out);
    assert_eq!((live.best(), live.ways().is_empty()), (None, true));
}

fn key(dscp: u8) -> SteerKey {
    SteerKey {
        vni: vni(),
        node: PEER,
        dscp,
    }
}

fn sample(way: WayId, rtt_us: u32, heard: u64) -> WaySample {
    WaySample {
        node: PEER,
        way,
        rtt_us,
        // Many between two samples: what is smoothed is what was said.
        acks: 1000 * heard,
        sent_packets: 0,
        lost_packets: 0,
        sent_bytes: 0,
        heard_bytes: heard,
        asked: 0,
        answered_bytes: heard,
        cwnd: 10_000,
        mtu: 1452,
    }
}

/// One round in which all ways but `silent` are heard.
fn round(steering: &mut Steering, ms: u64, rtt_us: u32, silent: Option<WayId>) {
    let ways = [WayId::MAIN, link(0), link(1)].into_iter();
    let heard = |way| if Some(way) == silent { 0 } else { ms };
    let samples: Vec<_> = ways.map(|way| sample(way, rtt_us, heard(way))).collect();
    steering.measure(&samples, at(ms));
}

fn questions(steering: &mut Steering, now: Moment) -> Vec<(QueryId, SteerQuestion)> {
    let mut out = Outbox::default();
    steering.ask(now, &mut out);
    let all = std::iter::from_fn(|| out.pop());
    all.filter_map(|output| match output {
        Output::Steer { query, question } => Some((query, question)),
        _ => None,
    })
    .collect()
}

fn said(ranked: &[WayId]) -> Option<SteerAnswer> {
    Some(SteerAnswer {
        ranked: ranked.to_vec(),
        spread: 0,
        gap_ms: 0,
    })
}

#[test]
fn without_a_plugin_the_cheapest_way_that_lives_is_taken() {
    let (mut steering, mut out) = steering();
    let choice = steering.choose(key(0)).unwrap();
    assert_eq!(choice.pick(1, at(0)), Some(link(0)));
    assert!(!steering.set_ways(faces([true, false, true]), &mut out));
    assert_eq!(choice.pick(1, at(1)), Some(link(1)));
    steering.set_ways(faces([true, false, false]), &mut out);
    assert_eq!(choice.pick(1, at(2)), Some(WayId::MAIN));
    steering.set_ways(faces([true; 3]), &mut out);
    assert_eq!(choice.pick(1, at(1000)), Some(link(0)));
}

#[test]
fn of_ways_of_one_cost_the_quicker_is_taken() {
    let (mut steering, mut out) = (Steering::default(), Outbox::default());
    let all = vec![face(link(0), 1, true), face(link(1), 1, true)];
    steering.set_ways([(PEER, all)].into(), &mut out);
    let choice = steering.choose(key(0)).unwrap();
    steering.measure(
        &[sample(link(0), 30_000, 1), sample(link(1), 9_000, 1)],
        at(0),
    );
    assert_eq!(choice.pick(1, at(0)), Some(link(1)));
    // A little quicker is not another way.
    steering.measure(
        &[sample(link(0), 8_500, 2), sample(link(1), 9_000, 2)],
        at(100),
    );
    steering.measure(
        &[sample(link(0), 8_500, 3), sample(link(1), 9_000, 3)],
        at(200),
    );
    let ranked: Vec<_> = choice.ranked().collect();
    assert_eq!(ranked, [WayId::KERNEL, link(0), link(1)]);
}

#[test]
fn a_silent_way_is_left_and_all_silent_ones_are_not() {
    let (mut steering, _) = steering();
    let choice = steering.choose(key(0)).unwrap();
    for ms in (0..=900).step_by(100) {
        round(&mut steering, ms, 10_000, Some(link(0)));
    }
    assert_eq!(choice.pick(1, at(900)), Some(link(1)));
    assert!(steering.silent_sessions().is_empty());
    // Now nothing at all is heard.
    let still: Vec<_> = [WayId::MAIN, link(0), link(1)]
        .map(|way| sample(way, 10_000, if way == link(0) { 0 } else { 900 }))
        .into();
    for ms in (1000..3000).step_by(100) {
        steering.measure(&still, at(ms));
    }
    assert_eq!(choice.pick(2, at(3000)), Some(link(0)));
}

#[test]
fn a_plugin_is_asked_at_first_and_when_figures_move_by_much() {
    let (mut steering, _) = steering();
    assert!(steering.set_plugin(vni(), 1));
    assert!(!steering.set_plugin(vni(), 1));
    let choice = steering.choose(key(46)).unwrap();
    let asked = questions(&mut steering, at(0));
    let [(query, question)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((question.ways.len(), question.current.len()), (3, 0));
    // Until it answers the host's order holds, and nobody asks twice.
    assert_eq!(choice.pick(1, at(0)), Some(link(0)));
    assert!(questions(&mut steering, at(1)).is_empty());
    steering.answer(*query, said(&[link(1), WayId::new(8).unwrap()]));
    let ranked: Vec<_> = choice.ranked().collect();
    assert_eq!(ranked, [link(1), WayId::KERNEL, link(0), WayId::MAIN]);
    round(&mut steering, 100, 10_000, None);
    let asked = questions(&mut steering, at(100));
    assert_eq!(asked[0].1.current, ranked);
    steering.answer(asked[0].0, said(&[link(1)]));
    round(&mut steering, 200, 10_900, None);
    assert!(questions(&mut steering, at(200)).is_empty(), "a little");
    for ms in [300, 400] {
        round(&mut steering, ms, 16_000, None);
        assert!(
            questions(&mut steering, at(ms)).is_empty(),
            "it may be a late thread"
        );
    }
    round(&mut steering, 500, 16_000, None);
    let asked = questions(&mut steering, at(500));
    assert_eq!(asked.len(), 1);
    // It fails: what held holds.
    steering.answer(asked[0].0, None);
    assert_eq!(choice.ranked().next(), Some(link(1)));
}

#[test]
fn each_dscp_has_its_own_choice_and_what_no_ruling_holds_is_not_asked_about() {
    let (mut steering, _) = steering();
    steering.set_plugin(vni(), 1);
    let held = steering.choose(key(46)).unwrap();
    steering.choose(key(0)).unwrap();
    let asked = questions(&mut steering, at(0));
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1.key.dscp, 46);
    assert_eq!(steering.choose(key(46)).unwrap(), held);
    assert_ne!(steering.choose(key(1)).unwrap(), held);
    // Without the plugin all have the host's.
    steering.set_plugin(vni(), 0);
    assert_eq!(steering.choose(key(46)), steering.choose(key(0)));
}

#[test]
fn the_table_of_choices_is_bounded() {
    let (mut steering, _) = steering();
    let mut held = Vec::new();
    for number in 0..5000u32 {
        let vni = Vni::new(1 + number).unwrap();
        steering.set_plugin(vni, 1);
        let key = SteerKey { vni, ..key(0) };
        held.push(steering.choose(key).unwrap());
    }
    assert_eq!(steering.steered.len(), CHOICES_MAX);
    assert!(questions(&mut steering, at(0)).len() <= QUESTIONS_MAX);
    // Those that nobody holds make room.
    held.truncate(10);
    let vni = Vni::new(9000).unwrap();
    steering.set_plugin(vni, 1);
    steering.choose(SteerKey { vni, ..key(0) }).unwrap();
    assert_eq!(steering.steered.len(), 11);
}

#[test]
fn kernel_vxlan_leads_until_a_plugin_prefers_another_way() {
    let (mut steering, _) = steering();
    let open = KernelWay {
        open: true,
        figures: Figures::default(),
    };
    steering.set_kernel(&[((PEER, vni()), open)].into());
    steering.set_plugin(vni(), 1);
    let choice = steering.choose(key(0)).unwrap();
    assert!(choice.prefers_kernel());
    let asked = questions(&mut steering, at(0));
    assert_eq!(asked[0].1.ways[0].name, "kernel-vxlan");
    assert!(steering.answer(asked[0].0, said(&[link(0)])));
    assert!(!choice.prefers_kernel());
    steering.set_kernel(&BTreeMap::new());
    let asked = questions(&mut steering, at(1));
    assert!(steering.answer(asked[0].0, said(&[WayId::KERNEL])));
}

#[test]
fn a_named_way_is_exactly_that_one_or_is_left_for_another() {
    let (mut steering, mut out) = steering();
    let strict = steering.exactly(PEER, link(1), true).unwrap();
    let other = steering.exactly(PEER, link(1), false).unwrap();
    assert_eq!(strict.route(1, at(0)), Some(Route::Only(link(1))));
    assert_eq!(other.route(1, at(0)), Some(Route::Prefer(link(1))));
    steering.set_ways(faces([true, true, false]), &mut out);
    assert_eq!(strict.route(1, at(0)), None);
    assert_eq!(other.route(1, at(0)), Some(Route::Prefer(link(0))));
    assert!(steering.exactly(PEER, link(4), true).is_none());
}
