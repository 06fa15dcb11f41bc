//! What looking a frame up costs: `cargo run -p meshd-core --release --example lane`.
//!
//! Each line is the cost of one frame in a lane, from its bytes to its receivers, by a cached ruling. The frames of a line
//! are made anew and differ from each other, so that what is found in the exact front and what is not both count.

#![allow(clippy::disallowed_methods)]

use bytes::Bytes;
use meshd_core::flow::{FlowKey, FlowMask, Origin};
use meshd_core::frame::Frame;
use meshd_core::ident::{Epoch, Moment, PortId, Vni};
use meshd_core::lane::{Lane, LaneLimits, Step};
use meshd_core::ruling::{Action, Megaflow, Output, Ruling};
use std::hint::black_box;
use std::time::Instant;

const EPOCH: Epoch = Epoch(1);
const FRAMES: usize = 1_000_000;
const ROUNDS: usize = 7;

/// Flow `n` under mask `mask`: masks tell flows apart by ever longer prefixes of the source.
fn frame(mask: u8, n: u16) -> Bytes {
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    out.extend([8, 0, 0x45, 0, 0, 92, 0, 0, 0, 0, 64, 17, 0, 0]);
    out.extend([10, mask, 0, 0, 10, 0, 0, 2]);
    out.extend(n.to_be_bytes());
    out.extend([0, 53, 0, 72, 0, 0]);
    out.resize(106, 0);
    Bytes::from(out)
}

fn mask(n: u8) -> FlowMask {
    FlowMask {
        // Of 128: the first 16 bits of IPv4 and 0 to 15 more.
        src_ip: 96 + 16 + n,
        dst_ip: 128,
        src_port: u16::MAX,
        dst_port: u16::MAX,
        ..FlowMask::default()
    }
    .with_prerequisites()
}

/// A lane with so many megaflows under so many masks, and a frame of each.
fn lane(vni: Vni, masks: u8, flows: u16) -> Option<(Lane, Vec<Bytes>)> {
    let limits = LaneLimits {
        flows: 65_536,
        ..LaneLimits::default()
    };
    let mut lane = Lane::new(Origin::Port(PortId(1)), limits, 5);
    let mut frames = Vec::new();
    for n in 0..flows {
        for m in 0..masks {
            let frame = frame(m, n);
            let step = lane.frame(vni, frame.clone(), EPOCH, Moment(0));
            let Step::Upcall { upcall, .. } = step else {
                return None;
            };
            let mask = mask(m);
            let key = FlowKey::of(vni, &Frame::parse(&frame).ok()?);
            let ruling = Ruling {
                cache: Some(Megaflow {
                    key: mask.apply(&key),
                    mask,
                    epoch: EPOCH,
                    until: None,
                    idle_ms: None,
                }),
                ..Ruling::of(Action::Forward([Output::Port(PortId(2))].into()))
            };
            lane.ruling(upcall, ruling, Moment(0));
            frames.push(frame);
        }
    }
    // So that neighbours in time are none in a table.
    let len = frames.len();
    let shuffled = (0..len).map(|i| frames.get(i * 7919 % len).cloned());
    Some((lane, shuffled.collect::<Option<_>>()?))
}

/// Ns a frame, the median of some rounds.
fn measure(frames: &[Bytes], mut each: impl FnMut(Bytes)) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for frame in frames.iter().cycle().take(FRAMES) {
                each(frame.clone());
            }
            start.elapsed().as_secs_f64() * 1e9 / FRAMES as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds.get(ROUNDS / 2).copied().unwrap_or_default()
}

fn main() {
    let Ok(vni) = Vni::new(7) else { return };
    for (masks, flows) in [
        (1, 1),
        (1, 1000),
        (1, 10_000),
        (4, 2500),
        (16, 625),
        (32, 312),
    ] {
        let Some((mut lane, frames)) = lane(vni, masks, flows) else {
            println!("{masks} masks, {flows} flows each: a frame found what is not its own");
            continue;
        };
        // The frames come from memory in either case.
        let parsed = measure(&frames, |frame| {
            black_box(Frame::parse(&frame).map(|parsed| FlowKey::of(vni, &parsed))).ok();
        });
        let each = measure(&frames, |frame| {
            black_box(lane.frame(vni, frame, EPOCH, Moment(1)));
        });
        let megaflows = frames.len();
        println!(
            "{megaflows:>6} megaflows, {masks:>2} masks {each:>7.1} ns a frame, {:>6.1} more than its key alone",
            each - parsed
        );
    }
}
