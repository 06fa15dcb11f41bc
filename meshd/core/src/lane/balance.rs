#![allow(clippy::unwrap_used)]
//! The law of a lane's counts: whatever comes and whatever becomes of it, no frame is lost without a reason.

use super::*;
use crate::flow::FlowMask;
use crate::frame::tests::udp;
use crate::ident::{MacAddr, PortId};
use crate::ruling::{Copied, Output};
use proptest::prelude::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

#[derive(Clone, Debug)]
enum Event {
    /// A frame of a network to a UDP port, of so many bytes of payload.
    Frame(u32, u16, u16),
    /// A superframe of so many segments.
    Superframe(u32, u16, u16),
    /// Bytes that are no frame.
    Noise(u32),
    /// Something was lost before it was whole; of a network or of none.
    Lost(Option<u32>, u64),
    /// A copy that a peer mirrors, for so many ports.
    Copy(u32, u64),
    /// The oldest upcall is ruled on so.
    Answer(Fate),
    /// The next upcall finds the queue full.
    Refuse,
    Wait(u16),
    Epoch,
}

#[derive(Clone, Debug)]
enum Fate {
    Drop,
    Consume,
    /// To so many receivers, with so many mirrors.
    Forward(u8, u8),
}

fn event() -> impl Strategy<Value = Event> {
    let fate = prop_oneof![
        Just(Fate::Drop),
        Just(Fate::Consume),
        (1..4u8, 0..3u8).prop_map(|(to, copies)| Fate::Forward(to, copies)),
    ];
    prop_oneof![
        12 => (1..4u32, 0..6u16, 0..1600u16).prop_map(|(vni, port, len)| Event::Frame(vni, port, len)),
        4 => (1..4u32, 0..6u16, 2..9u16).prop_map(|(vni, port, parts)| Event::Superframe(vni, port, parts)),
        1 => (1..4u32).prop_map(Event::Noise),
        1 => (proptest::option::of(1..4u32), 0..5u64).prop_map(|(vni, frames)| Event::Lost(vni, frames)),
        1 => (1..4u32, 0..4u64).prop_map(|(vni, ports)| Event::Copy(vni, ports)),
        8 => fate.prop_map(Event::Answer),
        2 => Just(Event::Refuse),
        1 => (0..5000u16).prop_map(Event::Wait),
        1 => Just(Event::Epoch),
    ]
}

fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

/// A shell whose receivers take what a sequence of bits says.
struct Shell {
    lane: Lane,
    takes: Vec<bool>,
    asked: Vec<(UpcallId, FlowKey)>,
    refuses: bool,
}

impl Shell {
    fn takes(&mut self) -> bool {
        self.takes.rotate_left(1);
        self.takes.first().copied().unwrap_or(true)
    }

    fn send(&mut self, vni: Vni, frames: u64, to: &[Output], copies: &[Copied], now: Moment) {
        for _ in to {
            match self.takes() {
                true => self.lane.count_sent(vni, frames),
                false => {
                    self.lane
                        .count_drop(DropReason::PortQueueFull, frames, Some(vni), None, now)
                }
            }
        }
        for _ in copies {
            self.lane.count_extra(vni, 1);
            if !self.lane.may_copy(vni, now) {
                continue;
            }
            match self.takes() {
                true => self.lane.count_sent(vni, 1),
                false => self
                    .lane
                    .count_drop(DropReason::MirrorLimit, 1, Some(vni), None, now),
            }
        }
    }

    fn step(&mut self, vni: Vni, unit: &Unit<'_>, epoch: Epoch, now: Moment) {
        match self.lane.frame_in(Zones::NONE, vni, unit, epoch, now) {
            Step::Forward { to, copies, .. } => {
                self.send(
                    vni,
                    unit.frames(),
                    &to,
                    copies.as_deref().unwrap_or_default(),
                    now,
                );
            }
            Step::Upcall { upcall, frame, .. } => {
                if core::mem::take(&mut self.refuses) {
                    self.lane.upcall_refused(upcall, now);
                } else {
                    let key = Frame::parse(&frame).unwrap().flow_key(vni);
                    self.asked.push((upcall, key));
                }
            }
            Step::Cut => {
                let mut room = Vec::new();
                let mut frames = Vec::new();
                crate::superframe::segments(unit.bytes(), unit.segment(), &mut room, |frame| {
                    frames.push(frame.to_vec());
                });
                for frame in frames {
                    self.step(vni, &Unit::frame(&frame), epoch, now);
                }
            }
            Step::Parked | Step::Dropped(_) | Step::Consumed => {}
        }
    }
}

proptest! {
    #[test]
    fn what_came_and_was_copied_has_left_was_answered_waits_or_was_dropped(
        events in proptest::collection::vec(event(), 1..300),
        takes in proptest::collection::vec(any::<bool>(), 1..20),
        masks in 0..3usize,
    ) {
        let limits = LaneLimits {
            masks,
            parked: 12,
            parked_per_upcall: 4,
            upcalls: 6,
            floods_per_s: 5,
            copies_per_s: 5,
            ..LaneLimits::default()
        };
        let lane = Lane::new(Origin::Port(PortId(1)), limits, 7);
        let mut shell = Shell { lane, takes, asked: Vec::new(), refuses: false };
        let (mut now, mut epoch) = (Moment(0), Epoch(1));
        let mut came = 0;
        for event in events {
            match event {
                Event::Frame(network, port, len) => {
                    let bytes = udp(B, A, [10, 0, 0, 1], [10, 0, 0, 2], port, len.into());
                    shell.step(vni(network), &Unit::frame(&bytes), epoch, now);
                    came += 1;
                }
                Event::Superframe(network, port, parts) => {
                    let bytes = udp(B, A, [10, 0, 0, 1], [10, 0, 0, 2], port, usize::from(parts) * 100);
                    let unit = Unit::of(&bytes, 100).unwrap();
                    came += unit.frames();
                    shell.step(vni(network), &unit, epoch, now);
                }
                Event::Noise(network) => {
                    shell.step(vni(network), &Unit::frame(&[0; 9]), epoch, now);
                    came += 1;
                }
                Event::Lost(network, frames) => {
                    shell.lane.count_lost(DropReason::PieceMissing, frames, network.map(vni), now);
                    came += frames;
                }
                Event::Copy(network, ports) => {
                    shell.lane.count_copy(vni(network), &[0; 60], ports);
                    shell.send(vni(network), 1, &vec![Output::Port(PortId(1)); ports as usize], &[], now);
                    came += 1;
                }
                Event::Answer(fate) if !shell.asked.is_empty() => {
                    let (upcall, key) = shell.asked.remove(0);
                    let (action, copies) = match fate {
                        Fate::Drop => (Action::Drop(DropReason::Policy), 0),
                        Fate::Consume => (Action::Consume, 0),
                        Fate::Forward(to, copies) => {
                            let to = (0..to).map(|port| Output::Port(PortId(port.into())));
                            (Action::Forward(to.collect()), copies)
                        }
                    };
                    let copied = Copied { to: Output::Port(PortId(9)), bytes: 0 };
                    let copies: Vec<Copied> = (0..copies).map(|_| copied).collect();
                    let mask = FlowMask::exact();
                    let ruling = Ruling {
                        copies: (!copies.is_empty()).then(|| copies.into()),
                        cache: Some(Megaflow { key, mask, epoch, until: None, idle_ms: None }),
                        longest: 1200,
                        ..Ruling::of(action)
                    };
                    if let Some(released) = shell.lane.ruling(upcall, ruling, now) {
                        for _ in &released.frames {
                            shell.send(released.vni, 1, &released.to, released.copies.as_deref().unwrap_or_default(), now);
                        }
                    }
                }
                Event::Answer(_) => {}
                Event::Refuse => shell.refuses = true,
                Event::Wait(ms) => {
                    now = now.plus_ms(ms.into());
                    shell.lane.handle_timeout(now);
                }
                Event::Epoch => epoch = Epoch(epoch.0 + 1),
            }
            let tallies = shell.lane.tallies();
            for (_, tally) in tallies.iter() {
                prop_assert_eq!(tally.missing(), 0, "{:?}", tally);
            }
            prop_assert_eq!(tallies.total().came, came);
        }
        shell.lane.end(now);
        let total = shell.lane.tallies().total();
        prop_assert_eq!((total.missing(), total.waiting), (0, 0));
    }
}
