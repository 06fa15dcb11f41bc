//! What connection tracking costs a frame: `cargo run -p meshd-core --release --example connections`.
//!
//! Each line is the cost of one frame in a lane, from its bytes to its receivers, by a cached ruling.

#![allow(clippy::disallowed_methods)]

use bytes::Bytes;
use meshd_core::conntrack::{CtState, Order, Zones};
use meshd_core::flow::{Fields, FlowKey, FlowMask, Origin};
use meshd_core::frame::Frame;
use meshd_core::ident::{Epoch, Moment, PortId, Vni};
use meshd_core::lane::{Lane, LaneLimits, Step};
use meshd_core::ruling::{Action, DropReason, Megaflow, Output, Ruling};
use meshd_core::superframe::Unit;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const EPOCH: Epoch = Epoch(1);
const FRAMES: u32 = 1_000_000;

fn udp(answer: bool, src_port: u16) -> Bytes {
    let (a, b): ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let (mut ips, mut ports) = (vec![[10, 0, 0, 1], [10, 0, 0, 2]], vec![src_port, 53]);
    if answer {
        ips.reverse();
        ports.reverse();
    }
    let mut out = if answer {
        [a, b].concat()
    } else {
        [b, a].concat()
    };
    out.extend([8, 0, 0x45, 0, 0, 92, 0, 0, 0, 0, 64, 17, 0, 0]);
    out.extend(ips.concat());
    out.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    out.extend([0, 72, 0, 0]);
    out.resize(106, 0);
    Bytes::from(out)
}

/// A lane that has one ruling, for frames of this state.
fn lane(vni: Vni, zones: &Zones, frame: &Bytes, ruled: (Action, bool)) -> Option<Lane> {
    let mut lane = Lane::new(Origin::Port(PortId(1)), LaneLimits::default(), 5);
    let Step::Upcall { upcall, ct, .. } =
        lane.frame_in(zones, vni, &Unit::frame(frame), EPOCH, Moment(0))
    else {
        return None;
    };
    let key = FlowKey::of(vni, &Frame::parse(frame).ok()?).with_ct(ct);
    let mask = FlowMask {
        fields: Fields::CT,
        src_mac: 48,
        dst_mac: 48,
        ..FlowMask::default()
    };
    let (action, commit) = ruled;
    let order = Order {
        commit,
        mark: None,
        epoch: EPOCH,
        why: String::new(),
    };
    let ruling = Ruling {
        track: commit.then(|| Arc::new(order)),
        cache: Some(Megaflow {
            key: mask.apply(&key),
            mask,
            epoch: EPOCH,
            until: None,
            idle_ms: None,
        }),
        longest: 1500,
        ..Ruling::of(action)
    };
    lane.ruling_in(zones, upcall, ruling, Moment(0));
    Some(lane)
}

fn measure(what: &str, vni: Vni, zones: &Zones, lane: &mut Lane, frames: &[Bytes]) {
    let start = Instant::now();
    for frame in frames.iter().cycle().take(FRAMES as usize) {
        let step = lane.frame_in(zones, vni, &Unit::frame(frame), EPOCH, Moment(1));
        black_box(step);
    }
    let each = start.elapsed().as_secs_f64() * 1e9 / f64::from(FRAMES);
    println!("{what:<60} {each:>7.1} ns");
}

fn main() {
    let (Ok(vni), Ok(other)) = (Vni::new(7), Vni::new(8)) else {
        return;
    };
    let to = || Action::Forward([Output::Port(PortId(2))].into());
    let (Some(tracked), Some(elsewhere)) = (
        Zones::default().track(vni, Some(EPOCH), 7),
        Zones::default().track(other, Some(EPOCH), 7),
    ) else {
        return;
    };
    let ask = udp(false, 4000);
    for (what, zones) in [
        ("no network is tracked", Zones::NONE),
        ("another network is tracked", &elsewhere),
    ] {
        if let Some(mut lane) = lane(vni, zones, &ask, (to(), false)) {
            measure(what, vni, zones, &mut lane, std::slice::from_ref(&ask));
        }
    }
    let Some(mut new) = lane(vni, &tracked, &ask, (to(), true)) else {
        return;
    };
    measure(
        "new, one connection that is entered",
        vni,
        &tracked,
        &mut new,
        std::slice::from_ref(&ask),
    );
    // Heard from the other end.
    if let Some(mut back) = lane(vni, &tracked, &udp(true, 4000), (to(), false)) {
        measure(
            "established, answers",
            vni,
            &tracked,
            &mut back,
            &[udp(true, 4000)],
        );
    }
    let many: Vec<Bytes> = (0..60_000).map(|port| udp(false, port)).collect();
    measure(
        "new, 60,000 connections in turn: entered, and give way",
        vni,
        &tracked,
        &mut new,
        &many,
    );
    let drop = (Action::Drop(DropReason::Policy), false);
    let Some(empty) = Zones::default().track(vni, Some(EPOCH), 7) else {
        return;
    };
    if let Some(mut refused) = lane(vni, &empty, &ask, drop) {
        measure(
            "new, 60,000 connections in turn: refused",
            vni,
            &empty,
            &mut refused,
            &many,
        );
    }
    let state = empty.peek(vni, &ask, Moment(1)).state;
    assert_eq!(state, CtState::NEW, "what is refused is not entered");
}
