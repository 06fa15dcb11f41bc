#![allow(clippy::unwrap_used)]
//! A lane against no lane: whatever the policy, the frames, the order of answers and the size of the tables, what happens to a
//! frame is what the policy of that moment says.

use super::*;
use crate::flow::FlowMask;
use crate::frame::tests::udp;
use crate::ident::{MacAddr, PortId};
use crate::ruling::Output;
use proptest::prelude::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

/// A question about a key, and the bits that its answer rests on.
#[derive(Clone, Copy, Debug)]
enum Test {
    /// Is the source in a prefix?
    Source(u32, u8),
    /// Is the destination in a prefix?
    Destination(u32, u8),
    /// Is this bit of the destination port set?
    PortBit(u8),
}

/// A policy: a decision tree over what it reads.
#[derive(Clone, Debug)]
enum Tree {
    /// Out of this port; 0: refused.
    Leaf(u32),
    Ask(Test, Box<Tree>, Box<Tree>),
}

fn first_difference(bits: u128, prefix: u32, len: u8) -> (bool, u8) {
    let same = (bits ^ (0xffff_0000_0000 | u128::from(prefix))).leading_zeros() as u8;
    let len = 96 + len;
    (same >= len, if same >= len { len } else { same + 1 })
}

impl Tree {
    /// What it says of a key, and what that rests on.
    fn decide(&self, key: &FlowKey) -> (u32, FlowMask) {
        let mut mask = FlowMask::default();
        let mut at = self;
        loop {
            match at {
                Self::Leaf(port) => return (*port, mask.with_prerequisites()),
                Self::Ask(test, yes, no) => {
                    let answer = match *test {
                        Test::Source(prefix, len) => {
                            let (inside, bits) = first_difference(key.src_ip, prefix, len);
                            mask.src_ip = mask.src_ip.max(bits);
                            inside
                        }
                        Test::Destination(prefix, len) => {
                            let (inside, bits) = first_difference(key.dst_ip, prefix, len);
                            mask.dst_ip = mask.dst_ip.max(bits);
                            inside
                        }
                        Test::PortBit(bit) => {
                            mask.dst_port |= 1 << bit;
                            key.dst_port >> bit & 1 == 1
                        }
                    };
                    at = if answer { yes } else { no };
                }
            }
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let test = prop_oneof![
        (0u32..8, 24u8..=32).prop_map(|(host, len)| Test::Source(0x0a00_0000 + host, len)),
        (0u32..8, 24u8..=32).prop_map(|(host, len)| Test::Destination(0x0a00_0000 + host, len)),
        (0u8..16).prop_map(Test::PortBit),
    ];
    (0u32..4)
        .prop_map(Tree::Leaf)
        .prop_recursive(6, 40, 2, move |inner| {
            (test.clone(), inner.clone(), inner)
                .prop_map(|(test, yes, no)| Tree::Ask(test, Box::new(yes), Box::new(no)))
        })
}

#[derive(Clone, Debug)]
enum Event {
    /// From, to, port.
    Frame(u8, u8, u16),
    /// The oldest question is answered by the policy of the moment in which it was asked.
    Answer,
    /// Another policy.
    Commit(Tree),
    /// So many ms go by.
    Wait(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0u8..8, 0u8..8, prop_oneof![0u16..4, any::<u16>()]).prop_map(|(from, to, port)| Event::Frame(from, to, port)),
        8 => Just(Event::Answer),
        1 => tree().prop_map(Event::Commit),
        1 => (0u16..12_000).prop_map(Event::Wait),
    ]
}

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn frame(from: u8, to: u8, port: u16) -> Bytes {
    Bytes::from(udp(B, A, [10, 0, 0, from], [10, 0, 0, to], port, 0))
}

fn action(port: u32) -> Action {
    match port {
        0 => Action::Drop(DropReason::Policy),
        port => Action::Forward(Arc::new([Output::Port(PortId(port))])),
    }
}

/// An answer as the switch would give it.
fn ruling(tree: &Tree, key: &FlowKey, epoch: Epoch) -> Ruling {
    let (port, mask) = tree.decide(key);
    Ruling {
        cache: Some(Megaflow {
            key: mask.apply(key),
            mask,
            epoch,
            until: None,
            idle_ms: None,
        }),
        longest: 1500,
        ..Ruling::of(action(port))
    }
}

/// What became of a frame at once; `None`: it waits.
fn outcome(step: &Step) -> Option<u32> {
    match step {
        Step::Forward { to, .. } => match to.first() {
            Some(Output::Port(port)) => Some(port.0),
            other => panic!("{other:?}"),
        },
        Step::Dropped(DropReason::Policy) => Some(0),
        Step::Parked | Step::Upcall { .. } => None,
        other => panic!("{other:?}"),
    }
}

fn lane(flows: usize, masks: usize) -> Lane {
    let limits = LaneLimits {
        flows,
        masks,
        ..LaneLimits::default()
    };
    Lane::new(Origin::Port(PortId(9)), limits, 42)
}

proptest! {
    /// Each frame that a lane decides by itself is decided as the policy in force says, though answers of policies before it
    /// come late; and each that waits leaves as the policy said when it was asked.
    #[test]
    fn with_a_cache_of_any_size_frames_fare_as_without_one(
        first in tree(), events in proptest::collection::vec(event(), 1..400),
        (flows, masks) in prop_oneof![Just((0, 0)), Just((1, 1)), Just((2, 2)), Just((16, 0)), Just((4096, 3)), Just((4096, 32))],
    ) {
        let mut lane = lane(flows, masks);
        let (mut policy, mut epoch, mut now) = (first, Epoch(1), Moment(0));
        let mut asked: Vec<(UpcallId, FlowKey, Ruling)> = Vec::new();
        for event in events {
            match event {
                Event::Frame(from, to, port) => {
                    let frame = frame(from, to, port);
                    let key = Frame::parse(&frame).unwrap().flow_key(vni());
                    let step = lane.frame(vni(), frame, epoch, now);
                    if let Some(port) = outcome(&step) {
                        prop_assert_eq!(port, policy.decide(&key).0);
                    }
                    if let Step::Upcall { upcall, .. } = step {
                        asked.push((upcall, key, ruling(&policy, &key, epoch)));
                    }
                }
                Event::Answer => {
                    if asked.is_empty() {
                        continue;
                    }
                    let (upcall, key, ruling) = asked.remove(0);
                    let Action::Forward(to) = ruling.action.clone() else {
                        prop_assert!(lane.ruling(upcall, ruling, now).is_none_or(|r| r.frames.is_empty()));
                        continue;
                    };
                    if let Some(released) = lane.ruling(upcall, ruling, now) {
                        prop_assert_eq!(&released.to, &to);
                        for frame in released.frames {
                            prop_assert_eq!(Frame::parse(&frame).unwrap().flow_key(vni()), key);
                        }
                    }
                }
                Event::Commit(next) => {
                    policy = next;
                    epoch = Epoch(epoch.0 + 1);
                }
                Event::Wait(ms) => {
                    now = now.plus_ms(u64::from(ms));
                    lane.handle_timeout(now);
                }
            }
            prop_assert!(lane.cache.masks().len() <= masks + 1 && lane.sizes().0 <= flows);
        }
    }
}

/// "Allow three, drop the rest": to refuse, it reads up to the first bit that differs from each that is allowed.
fn allow_three() -> Tree {
    let leaf = |port| Box::new(Tree::Leaf(port));
    let mut port = Tree::Leaf(0);
    for bit in 0..16u8 {
        let test = Test::PortBit(bit);
        port = match 80u16 >> bit & 1 {
            1 => Tree::Ask(test, Box::new(port), leaf(0)),
            _ => Tree::Ask(test, leaf(0), Box::new(port)),
        };
    }
    Tree::Ask(
        Test::Source(0x0a00_0007, 32),
        leaf(1),
        Box::new(Tree::Ask(
            Test::Destination(0xc0a8_0105, 32),
            leaf(1),
            Box::new(port),
        )),
    )
}

/// Frames of random addresses and ports, and after each thousand one of a friend: those that found no ruling, and the most
/// masks that there were.
fn explosion(lane: &mut Lane, frames: u32, friend: Option<&Bytes>) -> (u32, usize) {
    let policy = allow_three();
    let mut rng = proptest::test_runner::TestRng::deterministic_rng(
        proptest::test_runner::RngAlgorithm::ChaCha,
    );
    let (mut misses, mut most) = (0, 0);
    for n in 0..frames {
        let now = Moment(0).plus_ms(u64::from(n) / 100);
        let [from, to] = [rng.next_u32().to_be_bytes(), rng.next_u32().to_be_bytes()];
        let port = (rng.next_u32() >> 16) as u16;
        let frame = Bytes::from(udp(B, A, from, to, port, 0));
        let key = Frame::parse(&frame).unwrap().flow_key(vni());
        match lane.frame(vni(), frame, Epoch(1), now) {
            Step::Upcall { upcall, .. } => {
                misses += 1;
                lane.ruling(upcall, ruling(&policy, &key, Epoch(1)), now);
            }
            step => assert_eq!(outcome(&step), Some(policy.decide(&key).0)),
        }
        most = most.max(lane.cache.masks().len());
        if let Some(friend) = friend.filter(|_| n % 1000 == 999) {
            let step = lane.frame(vni(), friend.clone(), Epoch(1), now);
            assert_eq!(outcome(&step), Some(1), "its ruling was taken away");
        }
    }
    (misses, most)
}

#[test]
fn under_tuple_space_explosion_the_masks_stay_few_and_most_frames_find_a_ruling() {
    let (_, unbounded) = explosion(&mut lane(4096, usize::MAX), 50_000, None);
    let mut bounded = lane(4096, 32);
    // Somebody who was there before.
    let friend = frame(7, 1, 80);
    let key = Frame::parse(&friend).unwrap().flow_key(vni());
    let Step::Upcall { upcall, .. } = bounded.frame(vni(), friend.clone(), Epoch(1), Moment(0))
    else {
        panic!("a miss")
    };
    bounded.ruling(upcall, ruling(&allow_three(), &key, Epoch(1)), Moment(0));
    let (misses, most) = explosion(&mut bounded, 50_000, Some(&friend));
    println!("{unbounded} masks without a bound, {most} with; {misses} of 50000 frames missed");
    assert!(unbounded > 200, "{unbounded}: no explosion");
    assert!(most <= 33, "{most}");
    assert!(misses < 50_000 / 5, "{misses}");
}

#[test]
fn masks_of_an_epoch_that_is_over_make_room_for_those_of_the_next() {
    let mut lane = lane(4096, 4);
    explosion(&mut lane, 2000, None);
    let frame = frame(200, 200, 443);
    let key = Frame::parse(&frame).unwrap().flow_key(vni());
    let now = Moment(0).plus_ms(30);
    let Step::Upcall { upcall, .. } = lane.frame(vni(), frame, Epoch(2), now) else {
        panic!("a miss")
    };
    let ruling = ruling(&allow_three(), &key, Epoch(2));
    let mask = ruling.cache.as_ref().unwrap().mask;
    lane.ruling(upcall, ruling, now);
    assert_eq!(lane.cache.masks(), [mask]);
}
