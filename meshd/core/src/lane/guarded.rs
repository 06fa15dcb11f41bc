#![allow(clippy::unwrap_used)]
//! Claims about the lane of an uplink: a storm, and the probes that are to end it.

use super::*;
use crate::frame::tests::udp;
use crate::ident::{MacAddr, PortId};
use crate::testing::FakeKeyring;
use crate::wire::loop_probe::LoopProbe;
use crate::wire::record::Keyring;

const FLOODS: u32 = 10;

fn at(ms: u64) -> Moment {
    Moment(0).plus_ms(ms)
}

fn lane() -> Lane {
    let limits = LaneLimits {
        floods_per_s: FLOODS,
        guarded: true,
        ..LaneLimits::default()
    };
    Lane::new(Origin::Port(PortId(1)), limits, 42)
}

fn probe(at: u64) -> Bytes {
    let keyring = FakeKeyring::root(1);
    let probe = LoopProbe {
        mesh: keyring.mesh(),
        node: keyring.node(),
        vni: Vni::new(7).unwrap(),
        port: PortId(3),
        since: 1,
        at,
        blocked: false,
    };
    probe.encode(&keyring)
}

/// How many of `frames` are let in, to be asked about or behind another of their flow.
fn enter(lane: &mut Lane, frames: impl Iterator<Item = Bytes>, now: Moment) -> u32 {
    let vni = Vni::new(7).unwrap();
    let step = |frame| lane.frame(vni, frame, Epoch(1), now);
    let is_in = |step: &Step| !matches!(step, Step::Dropped(DropReason::BumLimit));
    frames.map(step).filter(is_in).count().try_into().unwrap()
}

fn storm() -> impl Iterator<Item = Bytes> {
    let src = MacAddr([2, 0, 0, 0, 0, 0xa]);
    let to_all = move |n: u16| udp(MacAddr::BROADCAST, src, [10, 0, 0, 1], [10, 0, 0, 2], n, 8);
    (1..1000).map(to_all).map(Bytes::from)
}

#[test]
fn a_storm_leaves_room_for_loop_probes_and_they_leave_none_for_a_storm_of_their_own() {
    let mut lane = lane();
    assert_eq!(enter(&mut lane, storm(), at(0)), FLOODS);
    assert_eq!(enter(&mut lane, storm(), at(0)), 0);
    // Three a second of each uplink, under which the lane groans.
    assert_eq!(enter(&mut lane, (0..60).map(probe), at(0)), 60);
    // Played again and again they are no more than their purse holds.
    let played = std::iter::repeat_n(probe(1), 5000);
    assert_eq!(enter(&mut lane, played, at(0)), PROBES_PER_S - 60);
    let before = lane.counters().drops.get(DropReason::BumLimit);
    assert!(before >= 5000, "{before}");
    // Both have something again a second later; what probes lack they take of the rest.
    let played = std::iter::repeat_n(probe(1), 5000);
    assert_eq!(enter(&mut lane, played, at(1000)), PROBES_PER_S + FLOODS);
}
