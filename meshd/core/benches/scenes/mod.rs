//! What is done to a frame between two sockets, scene by scene, on fixed input.
//!
//! ```text
//!   bytes -- key --> parsed fields -- hit --> receivers, by a cached ruling -- rewrite --> bytes
//! ```
//!
//! Three programs play them: `benches/switch.rs` by the clock, `examples/instructions.rs` under valgrind, and
//! `tests/allocations.rs` under an allocator that counts. A scene is made once; each call of it is one frame, or one superframe.
//! Addresses, seeds and the order of frames are constants, so that two runs do the same.

#![allow(dead_code, reason = "each program plays some of them")]

pub(crate) mod upcall;

use bytes::{Bytes, BytesMut};
use meshd_core::conntrack::Zones;
use meshd_core::edit::{self, Edit};
use meshd_core::flow::{FlowKey, FlowMask, Origin};
use meshd_core::frame::Frame;
use meshd_core::ident::{Epoch, Moment, NodeId, PortId, Vni};
use meshd_core::lane::{Lane, LaneLimits, Step};
use meshd_core::ruling::{Action, DropReason, Megaflow, Output, Ruling};
use meshd_core::superframe::{self, Cut, Run, Slice, Unit};
use std::hint::black_box;

const EPOCH: Epoch = Epoch(1);
const THEN: Moment = Moment(1);
/// Bytes of payload in a segment, of the UDP datagram that carries it, and segments of a superframe.
const SEGMENT: u16 = 1348;
const DATAGRAM: usize = 1452;
const SEGMENTS: usize = 16;

/// What is played, again and again.
pub(crate) type Act = Box<dyn FnMut()>;

/// A scene: its name, and what makes it. `None`: something in it is not as it was written, which is a mistake in it.
pub(crate) type Scene = (&'static str, fn() -> Option<Act>);

/// Those of one frame each.
pub(crate) const FRAMES: [Scene; 8] = [
    ("key of TCP over IPv4", || key(tcp4(1, 1))),
    ("key of UDP over IPv6 in a VLAN", || key(udp6(1))),
    ("key of ARP", || key(arp())),
    ("hit in the front", hit_front),
    ("hit in the sixteenth tuple", hit_tuples),
    ("hit, to a peer", || hit(to(Output::Peer(NodeId([9; 32]))))),
    ("hit, dropped", || {
        hit(Ruling::of(Action::Drop(DropReason::Policy)))
    }),
    ("hit and rewrite", hit_rewrite),
];

/// Those of one new flow each.
pub(crate) const UPCALLS: [Scene; 1] = [("upcall, two answers", upcall_answered)];

/// Those of one superframe each.
pub(crate) const SUPERFRAMES: [Scene; 4] = [
    ("superframe: hit", superframe_hit),
    ("superframe: cut into frames", superframe_segments),
    ("superframe: cut into slices", superframe_slices),
    ("superframe: joined from slices", superframe_join),
];

fn vni() -> Option<Vni> {
    Vni::new(7).ok()
}

/// TCP from one of many hosts and ports, as a container sends it.
fn tcp4(host: u8, port: u16) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    out.extend([8, 0, 0x45, 0, 0, 92, 0, 0, 0, 0, 64, 6, 0, 0]);
    out.extend([10, host, 0, 0, 10, 0, 0, 2]);
    out.extend(port.to_be_bytes());
    out.extend([0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    out.resize(106, 7);
    out
}

fn udp6(port: u16) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    out.extend([0x81, 0, 0x20, 5, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 48, 17, 64]);
    for host in [1, 2] {
        out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    out.extend(port.to_be_bytes());
    out.extend([0, 53, 0, 48, 0, 0]);
    out.resize(106, 7);
    out
}

fn arp() -> Vec<u8> {
    let mut out = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2];
    out.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
    out.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 3]);
    out
}

/// A TCP superframe of so many segments.
fn superframe(segments: usize) -> Vec<u8> {
    let mut out = tcp4(1, 1);
    out.truncate(54);
    out.resize(54 + segments * usize::from(SEGMENT), 7);
    let total = (out.len() - 14) as u16;
    out[16..18].copy_from_slice(&total.to_be_bytes());
    out
}

fn to(output: Output) -> Ruling {
    Ruling::of(Action::Forward([output].into()))
}

fn key(frame: Vec<u8>) -> Option<Act> {
    let vni = vni()?;
    Some(Box::new(move || {
        let parsed = Frame::parse(black_box(&frame));
        black_box(parsed.map(|parsed| FlowKey::of(vni, &parsed))).ok();
    }))
}

/// Tells flows apart by so many bits of the source, and by ports if those matter.
fn mask(bits: u8, ports: u16) -> FlowMask {
    FlowMask {
        src_ip: 96 + bits,
        dst_ip: 128,
        src_port: ports,
        dst_port: u16::MAX,
        ..FlowMask::default()
    }
    .with_prerequisites()
}

fn lane() -> Lane {
    let limits = LaneLimits {
        flows: 65_536,
        ..LaneLimits::default()
    };
    Lane::new(Origin::Port(PortId(1)), limits, 5)
}

/// The first frame of a flow, and the ruling on it. `None`: there was a ruling already.
fn rule(lane: &mut Lane, frame: &[u8], mask: FlowMask, ruling: &Ruling) -> Option<()> {
    let vni = vni()?;
    let Step::Upcall { upcall, .. } = lane.frame(vni, frame, EPOCH, THEN) else {
        return None;
    };
    let key = mask.apply(&FlowKey::of(vni, &Frame::parse(frame).ok()?));
    let cache = Some(Megaflow {
        key,
        mask,
        epoch: EPOCH,
        until: None,
        idle_ms: None,
    });
    let ruling = Ruling {
        cache,
        ..ruling.clone()
    };
    lane.ruling(upcall, ruling, THEN);
    Some(())
}

/// One flow, and its frames.
fn hit(ruling: Ruling) -> Option<Act> {
    let (vni, mut lane, frame) = (vni()?, lane(), tcp4(1, 1));
    rule(&mut lane, &frame, mask(32, u16::MAX), &ruling)?;
    Some(Box::new(move || {
        black_box(lane.frame(vni, black_box(&frame), EPOCH, THEN));
    }))
}

/// A thousand flows under four masks; the front knows them all.
fn hit_front() -> Option<Act> {
    let (vni, mut lane, mut frames) = (vni()?, lane(), Vec::new());
    for port in 0..250 {
        for host in 0..4 {
            let frame = tcp4(host, port);
            let mask = mask(16 + host, u16::MAX);
            rule(&mut lane, &frame, mask, &to(Output::Port(PortId(2))))?;
            frames.push(frame);
        }
    }
    let (mut at, len) = (0, frames.len());
    Some(Box::new(move || {
        // So that neighbours in time are none in a table.
        at = (at + 7919) % len;
        black_box(lane.frame(vni, black_box(&frames[at]), EPOCH, THEN));
    }))
}

/// Sixteen masks that do not hold the port, and ports that the front has never seen, all under the mask that is asked last.
fn hit_tuples() -> Option<Act> {
    let (vni, mut lane) = (vni()?, lane());
    for host in 0..16 {
        let mask = mask(16 + host, 0);
        rule(
            &mut lane,
            &tcp4(host << 1, 1),
            mask,
            &to(Output::Port(PortId(2))),
        )?;
    }
    let (mut frame, mut port) = (tcp4(15 << 1, 0), 1u16);
    Some(Box::new(move || {
        port = port.wrapping_add(1);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        black_box(lane.frame(vni, black_box(&frame), EPOCH, THEN));
    }))
}

/// A flow that a policy changes: the frame is made anew, in room that is there.
fn hit_rewrite() -> Option<Act> {
    let edits = [Edit::SetDscp(46), Edit::PushVlan(5)];
    let ruling = Ruling {
        edits: Some(edits.into()),
        ..to(Output::Port(PortId(2)))
    };
    let (vni, mut lane, frame) = (vni()?, lane(), tcp4(1, 1));
    rule(&mut lane, &frame, mask(32, u16::MAX), &ruling)?;
    let mut room = Vec::with_capacity(2048);
    Some(Box::new(move || {
        let step = lane.frame(vni, black_box(&frame), EPOCH, THEN);
        let Step::Forward { edits, .. } = &step else {
            return;
        };
        room.clear();
        edit::apply(edits.as_deref().unwrap_or_default(), &frame, &mut room);
        black_box(&room);
    }))
}

fn upcall_answered() -> Option<Act> {
    let mut bench = upcall::Bench::new(upcall::pass).ok()?;
    let (mut frame, mut flow) = (bench.template()?, 0u32);
    Some(Box::new(move || {
        flow = flow.wrapping_add(1);
        frame[34..38].copy_from_slice(&(flow.wrapping_mul(40_503)).to_be_bytes());
        black_box(bench.frame(&frame));
    }))
}

fn superframe_hit() -> Option<Act> {
    let (vni, mut lane) = (vni()?, lane());
    rule(
        &mut lane,
        &tcp4(1, 1),
        mask(32, u16::MAX),
        &to(Output::Port(PortId(2))),
    )?;
    let frame = superframe(SEGMENTS);
    Some(Box::new(move || {
        if let Some(unit) = Unit::of(black_box(&frame), SEGMENT) {
            black_box(lane.frame_in(Zones::NONE, vni, &unit, EPOCH, THEN));
        }
    }))
}

fn superframe_segments() -> Option<Act> {
    let (frame, mut room) = (superframe(SEGMENTS), Vec::with_capacity(2048));
    Some(Box::new(move || {
        superframe::segments(black_box(&frame), SEGMENT, &mut room, |frame| {
            black_box(frame);
        });
    }))
}

fn superframe_slices() -> Option<Act> {
    let (vni, frame, mut room) = (vni()?, superframe(SEGMENTS), BytesMut::new());
    Some(Box::new(move || {
        if let Some(cut) = Cut::of(black_box(&frame), SEGMENT, DATAGRAM) {
            cut.datagrams(vni, 1, 0, &mut room).for_each(|slice| {
                black_box(slice);
            });
        }
    }))
}

fn superframe_join() -> Option<Act> {
    let vni = vni()?;
    let (frame, mut room) = (superframe(SEGMENTS), BytesMut::new());
    let cut = Cut::of(&frame, SEGMENT, DATAGRAM)?;
    let datagrams: Vec<Bytes> = cut.datagrams(vni, 1, 0, &mut room).collect();
    let mut run = Run::default();
    Some(Box::new(move || {
        for datagram in &datagrams {
            if let Ok(slice) = Slice::decode(black_box(datagram)) {
                black_box(run.push(&slice));
            }
        }
        black_box(run.end());
    }))
}
