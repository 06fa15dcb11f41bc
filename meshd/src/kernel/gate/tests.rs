//! The gate against the real kernel: programs run on single frames, and devices with traffic.
#![allow(clippy::unwrap_used)]

mod devices;
mod frames;
mod spread;

use super::*;
use crate::kernel::tests::on_a_host;
use frames::{A, B, PROTO_TCP, ether, ipv4, ipv6, key_of};
use std::num::NonZeroU64;

/// What a program says: let it go on, or redirect it (`TC_ACT_REDIRECT`).
const PASS: i32 = -1;
const MISS: i32 = 7;
/// The loopback device, which the kernel says that a frame of a trial run entered.
const DEVICE: u32 = 1;
const MTU: u16 = 1450;

/// A gate with both programs; misses leave by a device that needs not be there, since nothing really leaves.
struct Trial {
    gate: Gate,
    port: OwnedFd,
    vxlan: OwnedFd,
}

impl Trial {
    fn new() -> Self {
        let gate = Gate::make().unwrap();
        Self {
            port: gate.port_program(9, MTU).unwrap(),
            vxlan: gate.vxlan_program(9, MTU).unwrap(),
            gate,
        }
    }

    fn port(&self, frame: &[u8]) -> i32 {
        self.try_port(frame).unwrap()
    }

    /// `None`: the kernel does not try such a frame.
    fn try_port(&self, frame: &[u8]) -> Option<i32> {
        match sys::run(&self.port, frame, &[], 1) {
            Ok((verdict, _)) => Some(verdict),
            Err(Errno::EINVAL) => None,
            Err(error) => panic!("{error}: {frame:02x?}"),
        }
    }

    fn vxlan(&self, frame: &[u8]) -> i32 {
        sys::run(&self.vxlan, frame, &[], 1).unwrap().0
    }

    /// As a superframe of segments with `gso_size` bytes of payload.
    fn superframe(&self, frame: &[u8], gso_size: u32, segments: u32) -> i32 {
        let mut context = [0; 184];
        context[164..168].copy_from_slice(&segments.to_ne_bytes());
        context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
        sys::run(&self.port, frame, &context, 1).unwrap().0
    }

    fn open(&self, key: &Key, epoch: u64, path: u32) {
        self.gate.open(key, &Entry::new(epoch, path)).unwrap();
    }
}

fn pair(ether_type: u16) -> Key {
    Key {
        device: DEVICE,
        src_mac: A,
        dst_mac: B,
        ether_type,
        flow: None,
    }
}

fn tcp(port: u16) -> Vec<u8> {
    ether(0x0800, &ipv4(PROTO_TCP, &frames::tcp(40_000, port)))
}

#[test]
fn an_open_pair_passes_and_a_closed_one_does_not_on_both_sides() {
    on_a_host(async || {
        let trial = Trial::new();
        let frame = tcp(80);
        assert_eq!((trial.port(&frame), trial.vxlan(&frame)), (MISS, MISS));
        trial.open(&pair(0x0800), 0, 0);
        assert_eq!((trial.port(&frame), trial.vxlan(&frame)), (PASS, PASS));
        for other in [
            Key {
                device: 2,
                ..pair(0x0800)
            },
            Key {
                src_mac: B,
                dst_mac: A,
                ..pair(0x0800)
            },
            pair(0x86dd),
        ] {
            trial.gate.close(&pair(0x0800)).unwrap();
            trial.open(&other, 0, 0);
            assert_eq!(trial.port(&frame), MISS, "{other:?}");
        }
    });
}

#[test]
fn a_higher_epoch_closes_all_entries_until_they_are_opened_again() {
    on_a_host(async || {
        let trial = Trial::new();
        trial.gate.set_epoch(5);
        trial.open(&pair(0x0800), 5, 0);
        assert_eq!(trial.port(&tcp(80)), PASS);
        trial.gate.set_epoch(6);
        assert_eq!((trial.gate.epoch(), trial.port(&tcp(80))), (6, MISS));
        trial.open(&pair(0x0800), u64::MAX, 0);
        assert_eq!(trial.port(&tcp(80)), PASS);
    });
}

#[test]
fn an_entry_ends_at_its_time() {
    on_a_host(async || {
        let trial = Trial::new();
        let end = Gate::now() + 200_000_000;
        let entry = Entry {
            until: NonZeroU64::new(end),
            ..Entry::new(0, 0)
        };
        trial.gate.open(&pair(0x0800), &entry).unwrap();
        assert_eq!(trial.port(&tcp(80)), PASS);
        while Gate::now() <= end {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!((trial.port(&tcp(80)), trial.vxlan(&tcp(80))), (MISS, MISS));
    });
}

#[test]
fn a_closed_path_closes_what_leaves_by_it_and_not_what_came_by_it() {
    on_a_host(async || {
        let trial = Trial::new();
        let slot = PATHS_MAX - 1;
        trial.open(&pair(0x0800), 0, slot);
        assert_eq!((trial.port(&tcp(80)), trial.vxlan(&tcp(80))), (MISS, PASS));
        trial.gate.set_path(slot, true).unwrap();
        assert_eq!((trial.port(&tcp(80)), trial.vxlan(&tcp(80))), (PASS, PASS));
        trial.gate.set_path(slot, false).unwrap();
        assert_eq!((trial.port(&tcp(80)), trial.vxlan(&tcp(80))), (MISS, PASS));
        let len = tcp(80).len() as u64;
        let counters = PathCounters {
            open: false,
            sent_packets: 1,
            sent_bytes: len,
            heard_packets: 3,
            heard_bytes: 3 * len,
        };
        assert_eq!(trial.gate.path(slot), Some(counters));
        assert_eq!(trial.gate.paths(PATHS_MAX).last(), Some(&counters));
        trial.gate.clear_path(slot).unwrap();
        assert_eq!(trial.gate.path(slot), Some(PathCounters::default()));
        for none in [0, PATHS_MAX] {
            assert!(trial.gate.set_path(none, true).is_err());
        }
        trial.open(&pair(0x0800), 0, PATHS_MAX);
        assert_eq!(trial.port(&tcp(80)), MISS, "a slot that is not there");
    });
}

#[test]
fn a_flow_passes_and_another_port_address_or_protocol_does_not() {
    on_a_host(async || {
        let trial = Trial::new();
        let all = frames::flows();
        for frame in &all {
            let flow = Key::flow(DEVICE, &key_of(frame)).unwrap();
            trial.open(&flow, 0, 0);
            for other in &all {
                let wanted = if other == frame { PASS } else { MISS };
                assert_eq!(trial.port(other), wanted, "{flow:?} and {other:02x?}");
            }
            assert_eq!(trial.gate.close(&flow).unwrap().unwrap().packets, 1);
        }
    });
}

#[test]
fn what_the_daemon_has_to_see_never_passes() {
    on_a_host(async || {
        let trial = Trial::new();
        for ether_type in [
            0x0806, 0x0800, 0x86dd, 0x8100, 0x88a8, 0x88b5, 0x002e, 0x88cc,
        ] {
            trial.open(&pair(ether_type), 0, 0);
        }
        assert_eq!(
            trial.port(&ether(0x88cc, &[0; 50])),
            PASS,
            "anything else does"
        );
        let frames = frames::for_the_daemon();
        let (mut tried, all) = (0, frames.len());
        for (what, frame) in frames {
            if let Some(verdict) = trial.try_port(&frame) {
                assert_eq!((verdict, trial.vxlan(&frame)), (MISS, MISS), "{what}");
                tried += 1;
            }
        }
        assert!(
            tried + 2 >= all,
            "{tried} of {all}: only cut IP headers are not tried"
        );
        let probe = ether(0x88b5, &[0; 50]);
        assert_eq!((trial.port(&probe), trial.vxlan(&probe)), (PASS, MISS));
    });
}

#[test]
fn what_is_too_large_for_the_network_does_not_pass() {
    on_a_host(async || {
        let trial = Trial::new();
        for ether_type in [0x0800, 0x86dd, 0x88cc] {
            trial.open(&pair(ether_type), 0, 0);
        }
        let mtu = usize::from(MTU);
        assert_eq!(trial.port(&ether(0x88cc, &vec![0; mtu])), PASS);
        assert_eq!(trial.port(&ether(0x88cc, &vec![0; mtu + 1])), MISS);

        let segment = [&frames::tcp(1, 2)[..], &[0; 2900]].concat();
        let datagram = [&frames::udp(1, 2)[..], &[0; 2900]].concat();
        // Header of IP, of layer 4, and what is left of the MTU.
        for (what, frame, fits) in [
            (
                "TCP on IPv4",
                ether(0x0800, &ipv4(PROTO_TCP, &segment)),
                mtu - 20 - 20,
            ),
            (
                "TCP on IPv6",
                ether(0x86dd, &ipv6(PROTO_TCP, &segment)),
                mtu - 40 - 20,
            ),
            (
                "UDP on IPv4",
                ether(0x0800, &ipv4(17, &datagram)),
                mtu - 20 - 8,
            ),
            (
                "UDP on IPv6",
                ether(0x86dd, &ipv6(17, &datagram)),
                mtu - 40 - 8,
            ),
        ] {
            let fits = fits as u32;
            assert_eq!(trial.port(&frame), MISS, "{what} in one piece");
            assert_eq!(trial.superframe(&frame, fits, 3), PASS, "{what}");
            assert_eq!(trial.superframe(&frame, fits + 1, 3), MISS, "{what}");
        }
        assert_eq!(trial.superframe(&ether(0x88cc, &[0; 2900]), 1000, 4), MISS);
        let counted = trial.gate.entry(&pair(0x0800)).unwrap().unwrap();
        let bytes = [segment.len(), datagram.len()].map(|len| len + 34);
        assert_eq!(counted.packets, 6);
        assert_eq!(counted.bytes, bytes.iter().sum::<usize>() as u64);
    });
}

#[test]
fn an_entry_that_is_opened_again_keeps_its_counts_and_closing_tells_them() {
    on_a_host(async || {
        let trial = Trial::new();
        trial.open(&pair(0x0800), 1, 0);
        trial.port(&tcp(80));
        let made = trial.gate.entry(&pair(0x0800)).unwrap().unwrap().made;
        assert!(made != 0 && made <= Gate::now());
        trial.gate.set_path(7, true).unwrap();
        trial.open(&pair(0x0800), 2, 7);
        trial.port(&tcp(81));
        let wanted = Entry {
            packets: 2,
            bytes: 2 * tcp(80).len() as u64,
            made,
            ..Entry::new(2, 7)
        };
        assert_eq!(trial.gate.close(&pair(0x0800)).unwrap(), Some(wanted));
        assert_eq!(trial.gate.close(&pair(0x0800)).unwrap(), None);
        assert_eq!(trial.port(&tcp(80)), MISS);
    });
}

#[test]
fn thousands_of_entries_are_opened_at_once_and_read_back_in_batches_or_one_by_one() {
    on_a_host(async || {
        let gate = Gate::make().unwrap();
        let key = |number: u32| Key {
            device: number,
            ..pair(0x0800)
        };
        let mut all: Vec<(Key, Entry)> = (0..ENTRIES_MAX)
            .map(|number| (key(number), Entry::new(u64::from(number), 3)))
            .collect();
        for (_, entry) in &mut all {
            entry.made = 1;
        }
        gate.open_all(&all).unwrap();
        gate.open_all(&[]).unwrap();
        let mut read = gate.entries().unwrap();
        read.sort_by_key(|(key, _)| *key);
        assert!(read == all, "{} of {} entries", read.len(), all.len());
        let mut walked = Vec::new();
        gate.flows
            .walk(|key, value| {
                walked.extend(Key::from_bytes(key).zip(Entry::from_bytes(value)));
            })
            .unwrap();
        walked.sort_by_key(|(key, _)| *key);
        assert!(walked == all, "{} of {} entries", walked.len(), all.len());

        let one = (key(u32::MAX), Entry::new(0, 0));
        let full = gate.open(&one.0, &one.1);
        assert_eq!(full, Err(("open an entry of", Errno::E2BIG)));
        gate.close(&key(5)).unwrap();
        let two = [one, (key(u32::MAX - 1), one.1)];
        let full = gate.open_all(&two);
        assert_eq!(full, Err((1, ("open entries of", Errno::E2BIG))));
    });
}

#[test]
fn the_verifier_says_why_it_refuses_a_program() {
    on_a_host(async || {
        // Nothing is in R0.
        let mut asm = asm::Assembler::default();
        asm.exit();
        let refused =
            sys::load(sys::Kind::Classifier, &asm.finish().unwrap(), [0; 16]).unwrap_err();
        assert!(refused.log.contains("R0 !read_ok"), "{refused:?}");
    });
}

#[test]
fn a_verdict_takes_less_than_ten_microseconds_also_in_an_emulated_machine() {
    on_a_host(async || {
        let trial = Trial::new();
        trial.gate.set_path(1, true).unwrap();
        let cost_of = |what: &str, frame: &[u8], wanted: i32| {
            // The best of some: others are at work here too.
            let runs = (0..20).map(|_| sys::run(&trial.port, frame, &[], 20_000).unwrap());
            let (verdict, best) = runs.min_by_key(|(_, time)| *time).unwrap();
            println!("{what:<28} {best:>4} ns a frame");
            assert_eq!(verdict, wanted, "{what}");
            assert!(best < 10_000, "{what}: {best} ns");
        };
        cost_of("ARP", &ether(0x0806, &[0; 46]), MISS);
        cost_of("IPv4 of version 0", &ether(0x0800, &[0; 46]), MISS);
        let cost = |what: &str, wanted: i32| cost_of(what, &tcp(80), wanted);
        cost("nothing is open", MISS);
        let flow = Key::flow(DEVICE, &key_of(&tcp(80))).unwrap();
        trial.open(&flow, 0, 0);
        cost("a flow that stays here", PASS);
        trial.open(&flow, 0, 1);
        cost("a flow that leaves by a path", PASS);
        trial.open(&pair(0x0800), 0, 0);
        cost("a pair that stays here", PASS);
        trial.open(&pair(0x0800), 0, 1);
        cost("a pair that leaves by a path", PASS);
    });
}
