//! Which queue a frame goes to, as the kernel's own interpreter of the program has it.

use super::frames::{PROTO_TCP, ether};
use crate::kernel::gate::{spreader, sys};
use crate::kernel::tests::on_a_host;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

const UDP: u8 = 17;

/// What a flow is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    v6: bool,
    src: u32,
    dst: u32,
    protocol: u8,
    ports: (u16, u16),
}

/// What differs from frame to frame of a flow.
#[derive(Clone, Debug)]
struct Rest {
    tag: Option<u16>,
    options: u8,
    first: [u8; 4],
    payload: Vec<u8>,
}

const WHOLE: u16 = 0x4000;

fn frame(flow: &Flow, rest: &Rest, fragment: u16) -> Vec<u8> {
    let (src, dst) = (flow.src.to_be_bytes(), flow.dst.to_be_bytes());
    let (sport, dport) = (flow.ports.0.to_be_bytes(), flow.ports.1.to_be_bytes());
    let l4 = [&sport[..], &dport, &rest.payload].concat();
    let [tos, id, ttl, sum] = rest.first;
    let (ether_type, packet) = if flow.v6 {
        let net = [0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        let [a, b] = (l4.len() as u16).to_be_bytes();
        let head = [0x60 | tos >> 4, tos << 4, id, 0, a, b, flow.protocol, ttl];
        (0x86dd, [&head[..], &net, &src, &net, &dst, &l4].concat())
    } else {
        let options = vec![1; usize::from(rest.options % 11) * 4];
        let [a, b] = ((20 + options.len() + l4.len()) as u16).to_be_bytes();
        let [c, d] = fragment.to_be_bytes();
        let first = 0x45 + rest.options % 11;
        let head = [first, tos, a, b, 0, id, c, d, ttl, flow.protocol, sum, sum];
        (0x0800, [&head[..], &src, &dst, &options, &l4].concat())
    };
    match rest.tag {
        None => ether(ether_type, &packet),
        Some(tag) => {
            let tag = [tag.to_be_bytes(), u16::to_be_bytes(ether_type)].concat();
            ether(0x8100, &[tag, packet].concat())
        }
    }
}

/// The number of a frame; the kernel takes a trial frame's first 14 bytes off for a socket filter.
fn number(program: &OwnedFd, frame: &[u8]) -> u32 {
    let padded = [&ether(0x88b5, &[])[..], frame].concat();
    let (number, _) = sys::run(program, &padded, &[], 1).unwrap();
    number.cast_unsigned()
}

fn flow() -> impl Strategy<Value = Flow> {
    let protocol = prop_oneof![Just(PROTO_TCP), Just(UDP), Just(132), Just(1), any::<u8>()];
    let ports = (any::<u16>(), any::<u16>());
    (any::<bool>(), any::<u32>(), any::<u32>(), protocol, ports).prop_map(
        |(v6, src, dst, protocol, ports)| Flow {
            v6,
            src,
            dst,
            protocol,
            ports,
        },
    )
}

fn rest() -> impl Strategy<Value = Rest> {
    let tag = proptest::option::of(0u16..4096);
    let payload = proptest::collection::vec(any::<u8>(), 16..60);
    (tag, any::<u8>(), any::<[u8; 4]>(), payload).prop_map(|(tag, options, first, payload)| Rest {
        tag,
        options,
        first,
        payload,
    })
}

#[test]
fn the_frames_of_a_flow_have_one_number_whatever_else_is_in_them() {
    on_a_host(async || {
        let program = spreader().unwrap();
        let mut runner = TestRunner::new(Config::with_cases(2000));
        let two = (flow(), rest(), rest(), 0u16..0x2000);
        let tried = runner.run(&two, |(flow, one, other, offset)| {
            let of = |rest: &Rest, fragment| number(&program, &frame(&flow, rest, fragment));
            prop_assert_eq!(of(&one, WHOLE), of(&other, WHOLE));
            // All fragments of a datagram, the first and the last too.
            let (first, later, last) = (0x2000, 0x2000 | offset, offset.max(1));
            if !flow.v6 {
                prop_assert_eq!(of(&one, first), of(&other, later));
                prop_assert_eq!(of(&one, first), of(&other, last));
            }
            let other_port = Flow {
                ports: (flow.ports.0 ^ 1, flow.ports.1),
                ..flow
            };
            let same = number(&program, &frame(&other_port, &one, WHOLE)) == of(&one, WHOLE);
            let has_ports = [PROTO_TCP, UDP, 132].contains(&flow.protocol);
            prop_assert_eq!(
                same,
                !has_ports,
                "a port tells flows apart where there are ports"
            );
            Ok(())
        });
        tried.unwrap();
    });
}

#[test]
fn flows_that_differ_little_are_spread_evenly() {
    on_a_host(async || {
        let program = spreader().unwrap();
        let rest = Rest {
            tag: None,
            options: 0,
            first: [0, 0, 64, 0],
            payload: vec![0; 30],
        };
        let base = Flow {
            v6: false,
            src: 0x0a0a_0001,
            dst: 0x0a0a_0002,
            protocol: UDP,
            ports: (40_000, 443),
        };
        let by_source_port = |n: u16| Flow {
            ports: (1024 + n, 443),
            ..base
        };
        let by_target_port = |n: u16| Flow {
            ports: (9, 1 + n),
            protocol: PROTO_TCP,
            ..base
        };
        let by_address = |n: u16| Flow {
            dst: base.dst + u32::from(n),
            v6: true,
            ..base
        };
        let by_ping = |n: u16| Flow {
            dst: base.dst + u32::from(n),
            protocol: 1,
            ..base
        };
        for (how, queues) in (2..=8).flat_map(|queues| (0..4).map(move |how| (how, queues))) {
            let mut found: BTreeMap<u32, u32> = BTreeMap::new();
            const FLOWS: u16 = 2000;
            for n in 0..FLOWS {
                let flow = match how {
                    0 => by_source_port(n),
                    1 => by_target_port(n),
                    2 => by_address(n),
                    _ => by_ping(n),
                };
                // As the kernel counts: 16 bits of it.
                let number = number(&program, &frame(&flow, &rest, WHOLE)) & 0xffff;
                *found.entry(number % queues).or_default() += 1;
            }
            let share = u32::from(FLOWS) / queues;
            let even = |of: &u32| of.abs_diff(share) < share / 3;
            assert!(
                found.len() == queues as usize && found.values().all(even),
                "{how}, {queues} queues: {found:?}"
            );
        }
    });
}

#[test]
fn what_is_for_a_group_is_in_the_first_queue_and_what_is_cut_short_in_one() {
    on_a_host(async || {
        let program = spreader().unwrap();
        let mut runner = TestRunner::new(Config::with_cases(500));
        let cases = (flow(), rest(), 0usize..120);
        let tried = runner.run(&cases, |(flow, rest, cut)| {
            let mut frame = frame(&flow, &rest, WHOLE);
            let short = &frame[..cut.min(frame.len())];
            prop_assert_eq!(number(&program, short), number(&program, short));
            frame[0] |= 1;
            prop_assert_eq!(number(&program, &frame), 0);
            Ok(())
        });
        tried.unwrap();
    });
}
