#![allow(clippy::unwrap_used)]
//! Claims about a lane.

use super::*;
use crate::conntrack::{CtState, Order};
use crate::dues::Dues;
use crate::edit::Edit;
use crate::flow::{Fields, FlowMask};
use crate::frame::tests::{arp, udp};
use crate::ident::{AttachmentId, MacAddr, NodeId, PortId};
use crate::node::{Direction, DstClass, Question};
use crate::policy::Punt;
use crate::ruling::{Copied, Output, PuntOrder};
use proptest::prelude::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const EPOCH: Epoch = Epoch(1);

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn at(ms: u64) -> Moment {
    Moment(0).plus_ms(ms)
}

fn lane(limits: LaneLimits) -> Lane {
    Lane::new(Origin::Port(PortId(1)), limits, 42)
}

/// A UDP frame to `port`, told apart from others by its length.
fn frame(port: u16, payload: usize) -> Bytes {
    Bytes::from(udp(B, A, [10, 0, 0, 1], [10, 0, 0, 2], port, payload))
}

fn key(frame: &Bytes) -> FlowKey {
    Frame::parse(frame).unwrap().flow_key(vni())
}

fn to_b() -> Action {
    Action::Forward(Arc::new([Output::Port(PortId(2))]))
}

fn ruling(action: Action, frame: &Bytes, mask: FlowMask) -> Ruling {
    Ruling {
        cache: Some(Megaflow {
            key: mask.apply(&key(frame)),
            mask,
            epoch: EPOCH,
            until: None,
            idle_ms: None,
        }),
        longest: 1500,
        ..Ruling::of(action)
    }
}

fn to_port() -> FlowMask {
    FlowMask {
        dst_port: 0xffff,
        ..FlowMask::default()
    }
    .with_prerequisites()
}

fn upcall(step: Step) -> UpcallId {
    match step {
        Step::Upcall { upcall, .. } => upcall,
        other => panic!("{other:?}"),
    }
}

/// Lets the lane learn a ruling by its first frame.
fn teach(lane: &mut Lane, frame: &Bytes, action: Action, mask: FlowMask, now: Moment) {
    let id = upcall(lane.frame(vni(), frame.clone(), EPOCH, now));
    lane.ruling(id, ruling(action, frame, mask), now);
}

#[test]
fn a_frame_does_not_overtake_those_of_its_flow_that_wait_though_a_wider_ruling_came_first() {
    let mut lane = lane(LaneLimits::default());
    let (one, two) = (frame(80, 0), frame(81, 1));
    let first = upcall(lane.frame(vni(), one.clone(), EPOCH, at(0)));
    let second = upcall(lane.frame(vni(), two.clone(), EPOCH, at(0)));
    // Covers both flows.
    let wide = FlowMask::default();
    lane.ruling(first, ruling(to_b(), &one, wide), at(1));
    let later = frame(81, 2);
    assert_eq!(lane.frame(vni(), later.clone(), EPOCH, at(1)), Step::Parked);
    let released = lane
        .ruling(second, ruling(to_b(), &two, wide), at(2))
        .unwrap();
    assert_eq!(released.frames, [two, later]);
    let step = lane.frame(vni(), frame(81, 3), EPOCH, at(2));
    assert!(matches!(step, Step::Forward { .. }), "{step:?}");
}

#[test]
fn a_frame_that_waits_holds_no_more_memory_than_its_length() {
    let mut lane = lane(LaneLimits::default());
    let chunk = Bytes::from([frame(80, 0).as_ref(), &[0; 200_000]].concat());
    let read = chunk.slice(..frame(80, 0).len());
    let id = upcall(lane.frame(vni(), read.clone(), EPOCH, at(0)));
    let released = lane
        .ruling(id, ruling(to_b(), &read, to_port()), at(1))
        .unwrap();
    drop((chunk, read));
    let waited = released.frames.into_iter().next().unwrap();
    assert!(waited.try_into_mut().is_ok(), "it shares a buffer");
}

#[test]
fn one_upcall_is_sent_for_a_flow_and_its_frames_leave_in_the_order_in_which_they_came() {
    let mut lane = lane(LaneLimits::default());
    let frames: Vec<Bytes> = (0..5).map(|i| frame(80, i)).collect();
    let id = upcall(lane.frame(vni(), frames[0].clone(), EPOCH, at(0)));
    for frame in &frames[1..] {
        assert_eq!(lane.frame(vni(), frame.clone(), EPOCH, at(0)), Step::Parked);
    }
    let other = upcall(lane.frame(vni(), frame(81, 0), EPOCH, at(0)));
    assert_ne!(id, other);
    let released = lane
        .ruling(id, ruling(to_b(), &frames[0], to_port()), at(1))
        .unwrap();
    assert_eq!(released.frames, frames);
    assert!(matches!(
        lane.frame(vni(), frames[0].clone(), EPOCH, at(1)),
        Step::Forward { .. }
    ));
    assert_eq!(lane.counters().hits, 1);
    assert_eq!(lane.sizes(), (1, 1));
}

#[test]
fn a_ruling_with_an_idle_time_lives_by_its_frames_and_ends_without_them_before_any_sweep() {
    let mut lane = lane(LaneLimits::default());
    let first = frame(80, 0);
    let id = upcall(lane.frame(vni(), first.clone(), EPOCH, at(0)));
    let mut short = ruling(to_b(), &first, to_port());
    if let Some(cache) = &mut short.cache {
        cache.idle_ms = Some(100);
    }
    lane.ruling(id, short, at(0));
    for ms in [99, 198, 297, 396] {
        let step = lane.frame(vni(), frame(80, 1), EPOCH, at(ms));
        assert!(matches!(step, Step::Forward { .. }), "{ms}: {step:?}");
    }
    assert_eq!(lane.flows(EPOCH, at(495)).count(), 1);
    assert_eq!(lane.flows(EPOCH, at(496)).count(), 0);
    upcall(lane.frame(vni(), frame(80, 2), EPOCH, at(496)));
}

#[test]
fn a_ruling_of_another_epoch_or_past_its_time_is_a_miss() {
    let mut lane = lane(LaneLimits::default());
    teach(&mut lane, &frame(80, 0), to_b(), to_port(), at(0));
    assert!(matches!(
        lane.frame(vni(), frame(80, 1), EPOCH, at(0)),
        Step::Forward { .. }
    ));
    let id = upcall(lane.frame(vni(), frame(80, 1), Epoch(2), at(0)));
    let mut short = ruling(to_b(), &frame(80, 1), to_port());
    let flow = short.cache.as_mut().unwrap();
    (flow.epoch, flow.until) = (Epoch(2), Some(at(10)));
    lane.ruling(id, short, at(0));
    assert!(matches!(
        lane.frame(vni(), frame(80, 1), Epoch(2), at(9)),
        Step::Forward { .. }
    ));
    upcall(lane.frame(vni(), frame(80, 1), Epoch(2), at(10)));
    assert_eq!(
        lane.sizes().0,
        1,
        "the new ruling took the place of the old one"
    );
}

#[test]
fn a_ruling_on_drop_counts_each_frame_and_remembers_the_last() {
    let mut lane = lane(LaneLimits::default());
    teach(
        &mut lane,
        &frame(22, 0),
        Action::Drop(DropReason::Policy),
        to_port(),
        at(0),
    );
    assert_eq!(
        lane.frame(vni(), frame(22, 9), EPOCH, at(5)),
        Step::Dropped(DropReason::Policy)
    );
    assert_eq!(lane.counters().drops.get(DropReason::Policy), 2);
    assert_eq!(
        lane.tallies().total().last,
        [LaneDrop {
            reason: DropReason::Policy,
            at: at(5),
            key: Some(key(&frame(22, 9))),
            meter: None,
        }]
    );
    assert_eq!(
        lane.frame(vni(), Bytes::from_static(&[0; 13]), EPOCH, at(5)),
        Step::Dropped(DropReason::Malformed)
    );
}

#[test]
fn a_frame_longer_than_its_ruling_allows_is_dropped_whether_it_waited_or_hit() {
    let mut lane = lane(LaneLimits::default());
    let id = upcall(lane.frame(vni(), frame(80, 0), EPOCH, at(0)));
    assert_eq!(
        lane.frame(vni(), frame(80, 1600), EPOCH, at(0)),
        Step::Parked
    );
    let released = lane
        .ruling(id, ruling(to_b(), &frame(80, 0), to_port()), at(0))
        .unwrap();
    assert_eq!(released.frames.len(), 1);
    assert_eq!(
        lane.frame(vni(), frame(80, 1600), EPOCH, at(0)),
        Step::Dropped(DropReason::TooLong)
    );
    assert_eq!(lane.counters().drops.get(DropReason::TooLong), 2);
}

#[test]
fn every_arp_frame_has_an_upcall_of_its_own() {
    let mut lane = lane(LaneLimits::default());
    let ask = Bytes::from(arp(
        MacAddr::BROADCAST,
        A,
        1,
        A,
        [10, 0, 0, 1],
        [10, 0, 0, 2],
    ));
    let first = upcall(lane.frame(vni(), ask.clone(), EPOCH, at(0)));
    let second = upcall(lane.frame(vni(), ask, EPOCH, at(0)));
    let uncached = Ruling {
        longest: 1500,
        ..Ruling::of(to_b())
    };
    assert_eq!(
        lane.ruling(second, uncached.clone(), at(0))
            .unwrap()
            .frames
            .len(),
        1
    );
    assert_eq!(lane.ruling(first, uncached, at(0)).unwrap().frames.len(), 1);
    assert_eq!(lane.sizes(), (0, 0));
}

#[test]
fn every_report_of_who_listens_has_an_upcall_of_its_own() {
    let report = |proto: u8, said: &[u8]| {
        let mut frame = frame(7, 0).to_vec();
        // As long as its UDP header was, of a protocol of its own.
        frame[14 + 9] = proto;
        frame[34..34 + said.len()].copy_from_slice(said);
        Bytes::from(frame)
    };
    let mut lane = lane(LaneLimits::default());
    let igmp = report(2, &[0x22, 0, 0, 0, 0, 0, 0, 0]);
    let first = upcall(lane.frame(vni(), igmp.clone(), EPOCH, at(0)));
    assert_ne!(first, upcall(lane.frame(vni(), igmp, EPOCH, at(0))));
    let other = report(47, &[0x22, 0, 0, 0, 0, 0, 0, 0]);
    upcall(lane.frame(vni(), other.clone(), EPOCH, at(0)));
    assert!(matches!(
        lane.frame(vni(), other, EPOCH, at(0)),
        Step::Parked
    ));
}

#[test]
fn frames_that_wait_are_bounded_by_flow_by_lane_and_by_bytes() {
    let limits = LaneLimits {
        upcalls: 3,
        parked_per_upcall: 2,
        parked: 5,
        parked_bytes: 400,
        ..LaneLimits::default()
    };
    let full = Step::Dropped(DropReason::ParkingFull);
    let mut by_flow = lane(limits);
    upcall(by_flow.frame(vni(), frame(1, 0), EPOCH, at(0)));
    assert_eq!(
        by_flow.frame(vni(), frame(1, 0), EPOCH, at(0)),
        Step::Parked
    );
    assert_eq!(by_flow.frame(vni(), frame(1, 0), EPOCH, at(0)), full);
    let mut by_upcalls = lane(limits);
    for port in 1..4 {
        upcall(by_upcalls.frame(vni(), frame(port, 0), EPOCH, at(0)));
    }
    assert_eq!(by_upcalls.frame(vni(), frame(4, 0), EPOCH, at(0)), full);
    let mut by_bytes = lane(limits);
    upcall(by_bytes.frame(vni(), frame(1, 300), EPOCH, at(0)));
    assert_eq!(by_bytes.frame(vni(), frame(2, 100), EPOCH, at(0)), full);
}

#[test]
fn an_upcall_without_answer_ends_after_three_seconds_and_a_late_ruling_is_kept() {
    let mut lane = lane(LaneLimits::default());
    let id = upcall(lane.frame(vni(), frame(80, 0), EPOCH, at(0)));
    assert_eq!(lane.poll_timeout(), Some(at(3000)));
    lane.handle_timeout(at(3000));
    assert_eq!(lane.counters().drops.get(DropReason::UpcallTimeout), 1);
    assert_eq!(lane.sizes(), (0, 0));
    assert_eq!(
        lane.ruling(id, ruling(to_b(), &frame(80, 0), to_port()), at(3001)),
        None
    );
    assert!(matches!(
        lane.frame(vni(), frame(80, 0), EPOCH, at(3001)),
        Step::Forward { .. }
    ));
}

#[test]
fn an_upcall_that_could_not_be_handed_over_drops_what_waits_behind_it() {
    let mut lane = lane(LaneLimits::default());
    let id = upcall(lane.frame(vni(), frame(80, 0), EPOCH, at(0)));
    lane.upcall_refused(id, at(0));
    assert_eq!(lane.counters().drops.get(DropReason::UpcallQueueFull), 1);
    upcall(lane.frame(vni(), frame(80, 0), EPOCH, at(0)));
}

#[test]
fn flooding_is_limited_by_the_second_and_unicast_is_not() {
    let mut lane = lane(LaneLimits {
        floods_per_s: 10,
        ..LaneLimits::default()
    });
    let everybody: Action = Action::Forward(Arc::new([
        Output::Port(PortId(2)),
        Output::Peer(NodeId([1; 32])),
    ]));
    teach(&mut lane, &frame(80, 0), everybody, to_port(), at(0));
    let count = |lane: &mut Lane, now| {
        (0..100)
            .filter(|_| {
                matches!(
                    lane.frame(vni(), frame(80, 0), EPOCH, now),
                    Step::Forward { .. }
                )
            })
            .count()
    };
    assert_eq!(count(&mut lane, at(0)), 9, "the first one was the upcall");
    assert_eq!(count(&mut lane, at(500)), 5);
    assert_eq!(
        count(&mut lane, at(5000)),
        10,
        "no more than a second's worth is saved up"
    );
    assert_eq!(lane.counters().drops.get(DropReason::BumLimit), 276);
    teach(&mut lane, &frame(81, 0), to_b(), to_port(), at(5000));
    assert!((0..100).all(|_| matches!(
        lane.frame(vni(), frame(81, 0), EPOCH, at(5000)),
        Step::Forward { .. }
    )));
}

#[test]
fn a_megaflow_without_frames_is_forgotten_and_one_with_frames_is_not() {
    let mut lane = lane(LaneLimits::default());
    teach(&mut lane, &frame(80, 0), to_b(), to_port(), at(0));
    teach(&mut lane, &frame(81, 0), to_b(), to_port(), at(0));
    lane.handle_timeout(at(0));
    lane.frame(vni(), frame(81, 0), EPOCH, at(9000));
    lane.handle_timeout(at(10_000));
    assert_eq!(lane.sizes().0, 1);
    assert!(matches!(
        lane.frame(vni(), frame(81, 0), EPOCH, at(10_000)),
        Step::Forward { .. }
    ));
}

/// A mask out of few, so that they repeat and overlap.
fn mask(number: u8) -> FlowMask {
    let fields = if number & 1 > 0 {
        Fields::TTL
    } else {
        Fields::default()
    };
    FlowMask {
        dst_port: 0xffff << (number % 9),
        src_ip: number % 5,
        fields,
        ..FlowMask::default()
    }
    .with_prerequisites()
}

proptest! {
    /// The reference is a list of all rulings ever given, of which the lane may have forgotten any, but must not obey another.
    #[test]
    fn a_hit_is_always_a_ruling_whose_megaflow_matches_and_the_tables_stay_within_bounds(
        events in proptest::collection::vec((0..400u16, any::<u8>(), 0..3u8), 1..600),
    ) {
        let limits = LaneLimits { flows: 32, masks: 5, ..LaneLimits::default() };
        let mut lane = lane(limits);
        let mut given: Vec<Megaflow> = Vec::new();
        for (i, (port, number, late)) in events.into_iter().enumerate() {
            let now = at(i as u64 * 50);
            let frame = frame(port, 0);
            match lane.frame(vni(), frame.clone(), EPOCH, now) {
                Step::Upcall { upcall, .. } => {
                    let mut ruling = ruling(to_b(), &frame, mask(number));
                    ruling.cache.as_mut().unwrap().until = (late > 0).then(|| now.plus_ms(u64::from(late) * 300));
                    given.extend(ruling.cache.clone());
                    lane.ruling(upcall, ruling, now);
                }
                Step::Forward { .. } => {
                    let key = key(&frame);
                    prop_assert!(given.iter().any(|m| m.mask.apply(&key) == m.key && m.until.is_none_or(|u| now < u)));
                }
                other => prop_assert!(false, "{other:?}"),
            }
            if i % 100 == 99 {
                lane.handle_timeout(now);
            }
            let (places, held) = lane.cache.places();
            prop_assert!(places <= limits.flows && lane.cache.masks().len() <= limits.masks + 1);
            prop_assert_eq!(held, lane.sizes().0);
        }
    }

    #[test]
    fn what_waits_is_counted_and_all_of_it_leaves(events in proptest::collection::vec((0..40u16, 0..600usize, any::<bool>()), 1..300)) {
        let mut lane = lane(LaneLimits { upcalls: 20, parked_per_upcall: 5, parked: 50, parked_bytes: 8000, ..LaneLimits::default() });
        let mut open = Vec::new();
        for (port, len, answer) in events {
            if let Step::Upcall { upcall, .. } = lane.frame(vni(), frame(port, len), EPOCH, at(0)) {
                open.push(upcall);
            }
            if answer && let Some(upcall) = open.pop() {
                lane.ruling(upcall, Ruling { longest: 1500, ..Ruling::of(to_b()) }, at(0));
            }
            let waiting: Vec<&Bytes> = lane.parking.iter().flat_map(|w| &w.frames).collect();
            let held: usize = waiting.iter().map(|frame| frame.len()).sum();
            prop_assert_eq!((waiting.len(), held), lane.parking.sizes());
            prop_assert!(waiting.len() <= 50 && held <= 8000 && lane.parking.iter().count() <= 20);
        }
        lane.handle_timeout(at(3000));
        prop_assert_eq!(lane.parking.sizes(), (0, 0));
        prop_assert!((0..40).all(|port| !lane.parking.has(&KeyWords::of(&key(&frame(port, 0))))));
    }
}

#[test]
fn each_new_flow_under_a_ruling_that_the_kernel_holds_by_flow_is_offered_once() {
    let limits = LaneLimits {
        offers_per_s: 2,
        ..LaneLimits::default()
    };
    let mut lane = lane(limits);
    let all = FlowMask::default();
    let each = |flow: &Bytes| Ruling {
        each_flow: true,
        ..ruling(to_b(), flow, all)
    };
    let offered = |lane: &mut Lane, port: u16, ms: u64| match lane.frame(
        vni(),
        frame(port, 1),
        EPOCH,
        at(ms),
    ) {
        Step::Forward { offer, .. } => offer,
        other => panic!("{other:?}"),
    };
    let first = frame(80, 1);
    let id = upcall(lane.frame(vni(), first.clone(), EPOCH, at(0)));
    lane.ruling(id, each(&first), at(0));
    assert!(!offered(&mut lane, 80, 1), "the first one is held already");
    assert!(offered(&mut lane, 81, 1));
    assert!(!offered(&mut lane, 81, 2), "once");
    assert!(offered(&mut lane, 82, 3));
    lane.offer_refused();
    assert!(!offered(&mut lane, 82, 4), "two a second");
    assert!(offered(&mut lane, 82, 600), "later again");
    // In a new epoch it is for the switch to say.
    let step = lane.frame(vni(), frame(81, 1), Epoch(2), at(700));
    assert!(matches!(step, Step::Upcall { .. }), "{step:?}");
}

#[test]
fn flows_under_a_ruling_that_the_kernel_holds_by_pair_or_not_at_all_are_not_offered() {
    let mut lane = lane(LaneLimits::default());
    teach(&mut lane, &frame(80, 1), to_b(), FlowMask::default(), at(0));
    for port in 1..100 {
        let step = lane.frame(vni(), frame(port, 1), EPOCH, at(1));
        assert!(
            matches!(step, Step::Forward { offer: false, .. }),
            "{step:?}"
        );
    }
}

#[test]
fn a_ruling_for_new_frames_enters_their_connections_and_the_answer_is_another_flow() {
    let zones = Zones::default().track(vni(), Some(EPOCH), 7).unwrap();
    let (mut a, mut b) = (lane(LaneLimits::default()), lane(LaneLimits::default()));
    let there = frame(80, 1);
    let answer = Bytes::from(udp(A, B, [10, 0, 0, 2], [10, 0, 0, 1], 4000, 0));
    let answer = {
        // From the port that was asked.
        let mut bytes = answer.to_vec();
        bytes[34..36].copy_from_slice(&80u16.to_be_bytes());
        Bytes::from(bytes)
    };
    let ct = |step: Step| match step {
        Step::Upcall { upcall, ct, .. } => (upcall, ct.state),
        other => panic!("{other:?}"),
    };
    let (id, state) = ct(a.frame_in(&zones, vni(), &Unit::frame(&there), EPOCH, at(0)));
    assert_eq!(state, CtState::NEW);
    let mask = FlowMask {
        fields: Fields::CT,
        ..FlowMask::default()
    };
    let mut rule = ruling(to_b(), &there, mask);
    rule.cache.as_mut().unwrap().key.ct = CtState::NEW;
    rule.track = Some(Arc::new(Order {
        commit: true,
        mark: Some(3),
        epoch: EPOCH,
        why: String::new(),
    }));
    a.ruling_in(&zones, id, rule, at(0));
    let zone = zones.get(vni()).unwrap();
    assert_eq!(zone.len(), 1, "by the frame that waited");
    let step = a.frame_in(&zones, vni(), &Unit::frame(&frame(81, 1)), EPOCH, at(1));
    assert!(matches!(step, Step::Forward { .. }), "{step:?}");
    assert_eq!(zone.len(), 2, "by one that the cached ruling forwards");
    let (id, state) = ct(b.frame_in(&zones, vni(), &Unit::frame(&answer), EPOCH, at(2)));
    assert_eq!(state, CtState::ESTABLISHED.with(CtState::REPLY));
    let refused = Ruling {
        cache: None,
        ..ruling(Action::Drop(DropReason::SpoofedSource), &answer, mask)
    };
    b.ruling_in(&zones, id, refused, at(2));
    let step = a.frame_in(&zones, vni(), &Unit::frame(&there), EPOCH, at(2));
    assert!(
        matches!(step, Step::Forward { .. }),
        "a refused answer is none: {step:?}"
    );
    let (id, _) = ct(b.frame_in(&zones, vni(), &Unit::frame(&answer), EPOCH, at(2)));
    b.ruling_in(&zones, id, ruling(to_b(), &answer, mask), at(2));
    // Both ends were heard: the ruling for new frames does not speak of this one.
    let (_, state) = ct(a.frame_in(&zones, vni(), &Unit::frame(&there), EPOCH, at(3)));
    assert_eq!(state, CtState::ESTABLISHED);
    assert_eq!(
        zone.rows(9, at(3)).iter().map(|row| row.mark).max(),
        Some(3)
    );
}

#[test]
fn what_is_due_is_paid_by_each_frame_cached_or_parked_and_the_meter_is_named() {
    let tally = Arc::new(crate::dues::Tally::default());
    let mut due = Dues::default();
    let rate = crate::dues::Rate::Pps(10);
    due.meter(Arc::new(crate::dues::Meter::new(
        "qos: gold".into(),
        rate,
        300,
    )));
    due.count(Arc::clone(&tally));
    let mut lane = lane(LaneLimits::default());
    let first = frame(80, 0);
    let id = upcall(lane.frame(vni(), first.clone(), EPOCH, at(0)));
    assert_eq!(lane.frame(vni(), first.clone(), EPOCH, at(0)), Step::Parked);
    let metered = Ruling {
        dues: Some(Arc::new(due)),
        ways: None,
        ..ruling(to_b(), &first, to_port())
    };
    let released = lane.ruling(id, metered, at(0)).unwrap();
    assert_eq!(released.frames.len(), 2);
    let mut passed = |ms| {
        matches!(
            lane.frame(vni(), frame(80, 1), EPOCH, at(ms)),
            Step::Forward { .. }
        )
    };
    // A burst of three, and one each 100 ms.
    assert_eq!(
        [0, 0, 50, 100, 150].map(&mut passed),
        [true, false, false, true, false]
    );
    assert_eq!(lane.counters().drops.get(DropReason::Metered), 3);
    assert_eq!(
        lane.tallies().total().last[0].meter.as_deref(),
        Some("qos: gold")
    );
    assert_eq!(tally.read().packets, 7);
    let bytes = 2 * first.len() + 5 * frame(80, 1).len();
    assert_eq!(tally.read().bytes, bytes as u64);
}

#[test]
fn what_is_punted_is_each_frame_as_it_came_once_cached_or_parked_forwarded_or_dropped() {
    let order = PuntOrder {
        punt: Punt {
            to: AttachmentId(4),
            bytes: 0,
        },
        question: Question {
            vni: vni(),
            direction: Direction::Ingress,
            port: PortId(1),
            peer: None,
            key: FlowKey::blank(vni()),
            dst_class: DstClass::UnicastKnown,
        },
    };
    for action in [to_b(), Action::Drop(DropReason::Policy), Action::Consume] {
        let mut lane = lane(LaneLimits::default());
        let frames: Vec<Bytes> = (0..3).map(|n| frame(53, n)).collect();
        let asked = upcall(lane.frame(vni(), frames[0].clone(), EPOCH, at(0)));
        lane.frame(vni(), frames[1].clone(), EPOCH, at(0));
        assert_eq!(lane.punted().count(), 0, "nobody has said so yet");
        let punts = Some([order.clone()].into());
        let edits = Some([Edit::SetPcp(3)].into());
        let told = Ruling {
            punts,
            edits,
            ..ruling(action, &frames[0], to_port())
        };
        lane.ruling(asked, told, at(0));
        let mut punted: Vec<Punted> = lane.punted().collect();
        lane.frame(vni(), frames[2].clone(), EPOCH, at(0));
        punted.extend(lane.punted());
        let heard: Vec<&Bytes> = punted.iter().map(|one| &one.frame).collect();
        assert_eq!(heard, [&frames[0], &frames[1], &frames[2]]);
        assert!(punted.iter().all(|one| one.key == key(&frames[0])));
        lane.frame(vni(), frame(80, 0), EPOCH, at(0));
        assert_eq!(lane.punted().count(), 0, "another flow");
    }
}

/// A superframe of UDP to `port`: `frames` datagrams of 100 bytes of payload.
fn superframe(port: u16, frames: usize) -> Bytes {
    frame(port, 100 * frames)
}

#[test]
fn a_superframe_goes_as_one_where_it_can_and_is_counted_as_the_frames_that_it_stands_for() {
    let mut lane = lane(LaneLimits::default());
    let bytes = superframe(80, 5);
    let unit = Unit::of(&bytes, 100).unwrap();
    assert_eq!((unit.frames(), unit.longest()), (5, 142));
    let go =
        |lane: &mut Lane, unit: &Unit<'_>| lane.frame_in(Zones::NONE, vni(), unit, EPOCH, at(1));
    assert_eq!(go(&mut lane, &unit), Step::Cut, "the switch sees frames");
    assert_eq!(lane.counters(), LaneCounters::default());
    teach(&mut lane, &frame(80, 0), to_b(), to_port(), at(0));
    assert!(matches!(go(&mut lane, &unit), Step::Forward { .. }));
    assert_eq!((lane.counters().frames, lane.counters().hits), (6, 5));
    let Some(flow) = lane.flows(EPOCH, at(1)).next() else {
        panic!("nothing is cached");
    };
    assert_eq!(flow.frames, 6);
    // The MTU is of each frame.
    let bytes = frame(80, 6000);
    let long = Unit::of(&bytes, 1500).unwrap();
    assert_eq!(go(&mut lane, &long), Step::Dropped(DropReason::TooLong));
    assert_eq!(lane.counters().drops.get(DropReason::TooLong), 4);
}

#[test]
fn a_superframe_is_cut_where_each_frame_pays_is_copied_or_punted() {
    let bytes = superframe(80, 5);
    let unit = Unit::of(&bytes, 100).unwrap();
    let copies = Copied {
        to: Output::Port(PortId(9)),
        bytes: 0,
    };
    for ruling in [
        Ruling {
            dues: Some(Arc::new(Dues::default())),
            ..ruling(to_b(), &frame(80, 0), to_port())
        },
        Ruling {
            copies: Some([copies].into()),
            ..ruling(to_b(), &frame(80, 0), to_port())
        },
    ] {
        let mut lane = lane(LaneLimits::default());
        let id = upcall(lane.frame(vni(), frame(80, 0), EPOCH, at(0)));
        lane.ruling(id, ruling, at(0));
        let step = lane.frame_in(Zones::NONE, vni(), &unit, EPOCH, at(1));
        assert_eq!(step, Step::Cut);
    }
    let mut lane = lane(LaneLimits::default());
    teach(
        &mut lane,
        &frame(80, 0),
        Action::Drop(DropReason::Policy),
        to_port(),
        at(0),
    );
    let step = lane.frame_in(Zones::NONE, vni(), &unit, EPOCH, at(1));
    assert_eq!(step, Step::Dropped(DropReason::Policy));
    assert_eq!(lane.counters().drops.get(DropReason::Policy), 6);
}

#[test]
fn copies_have_a_rate_of_their_own_and_those_beyond_it_are_counted() {
    let mut lane = lane(LaneLimits {
        copies_per_s: 10,
        ..LaneLimits::default()
    });
    let made = (0..100).filter(|_| lane.may_copy(vni(), at(0))).count();
    assert_eq!(made, 10);
    assert_eq!(lane.counters().drops.get(DropReason::MirrorLimit), 90);
    let made = (0..100).filter(|_| lane.may_copy(vni(), at(500))).count();
    assert_eq!(made, 5);
}
