//! Frames for the programs, and the programs beside `meshd_core::frame` on frames that nobody made up.

use super::{DEVICE, MISS, MTU, PASS, Trial};
use crate::kernel::gate::Key;
use crate::kernel::tests::on_a_host;
use meshd_core::flow::FlowKey;
use meshd_core::frame::Frame;
use meshd_core::ident::{MacAddr, Vni};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::cell::Cell;

pub(super) const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
pub(super) const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
pub(super) const PROTO_TCP: u8 = 6;
/// Frames that are compared, or nearly.
const CASES: u32 = 20_000;

pub(super) fn ether(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&B.0[..], &A.0, &ether_type.to_be_bytes(), payload].concat()
}

pub(super) fn ipv4(proto: u8, l4: &[u8]) -> Vec<u8> {
    ipv4_with(proto, &[], 0, l4)
}

/// With options and the field of flags and offset.
fn ipv4_with(proto: u8, options: &[u8], fragment: u16, l4: &[u8]) -> Vec<u8> {
    let first = 0x45 + (options.len() / 4) as u8;
    let total = (20 + options.len() + l4.len()) as u16;
    let [a, b] = total.to_be_bytes();
    let [c, d] = fragment.to_be_bytes();
    let head = [
        first, 0, a, b, 0, 0, c, d, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    [&head[..], options, l4].concat()
}

pub(super) fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b] = (payload.len() as u16).to_be_bytes();
    let ip = |last| [0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, last];
    let head = [0x60, 0, 0, 0, a, b, next, 64];
    [&head[..], &ip(1), &ip(2), payload].concat()
}

fn ports(src: u16, dst: u16, rest: usize) -> Vec<u8> {
    [&src.to_be_bytes()[..], &dst.to_be_bytes(), &vec![0; rest]].concat()
}

pub(super) fn tcp(src: u16, dst: u16) -> Vec<u8> {
    let mut bytes = ports(src, dst, 16);
    bytes[12] = 0x50;
    bytes
}

pub(super) fn udp(src: u16, dst: u16) -> Vec<u8> {
    ports(src, dst, 4 + 11)
}

fn icmp(kind: u8, code: u8) -> Vec<u8> {
    [&[kind, code][..], &[0; 30]].concat()
}

pub(super) fn key_of(frame: &[u8]) -> FlowKey {
    Frame::parse(frame).unwrap().flow_key(Vni::new(7).unwrap())
}

/// Frames of flows, each of another one.
pub(super) fn flows() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for ports in [(1000, 80), (1000, 81), (80, 1000)] {
        let (tcp, udp) = (tcp(ports.0, ports.1), udp(ports.0, ports.1));
        let sctp = super::frames::ports(ports.0, ports.1, 8);
        for (proto, l4) in [(PROTO_TCP, tcp), (17, udp), (132, sctp)] {
            all.push(ether(0x0800, &ipv4(proto, &l4)));
            all.push(ether(0x86dd, &ipv6(proto, &l4)));
        }
    }
    for (kind, code) in [(8, 0), (0, 0), (3, 4), (3, 1)] {
        all.push(ether(0x0800, &ipv4(1, &icmp(kind, code))));
    }
    for (kind, code) in [(128, 0), (129, 0), (2, 0), (132, 0), (138, 0)] {
        all.push(ether(0x86dd, &ipv6(58, &icmp(kind, code))));
    }
    let mut elsewhere = ether(0x0800, &ipv4(PROTO_TCP, &tcp(1000, 80)));
    elsewhere[33] = 3;
    all.push(elsewhere);
    let mut elsewhere = ether(0x86dd, &ipv6(PROTO_TCP, &tcp(1000, 80)));
    elsewhere[24] ^= 1;
    all.push(elsewhere);
    all.push(ether(
        0x0800,
        &ipv4_with(PROTO_TCP, &[1; 8], 0, &tcp(1000, 90)),
    ));
    all
}

/// Frames that may not pass, whatever is open.
pub(super) fn for_the_daemon() -> Vec<(&'static str, Vec<u8>)> {
    let whole = ipv4(PROTO_TCP, &tcp(1, 2));
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        ether(0x0800, &bytes)
    };
    let v6 = |at: usize, byte: u8| {
        let mut bytes = ipv6(PROTO_TCP, &tcp(1, 2));
        bytes[at] = byte;
        ether(0x86dd, &bytes)
    };
    let mut all = vec![
        ("ARP", ether(0x0806, &[0; 46])),
        ("a length for an EtherType", ether(46, &[0; 46])),
        (
            "a tag",
            ether(0x8100, &[&[0, 5, 8, 0][..], &whole].concat()),
        ),
        (
            "a service tag",
            ether(0x88a8, &[&[0, 5, 8, 0][..], &whole].concat()),
        ),
        ("IPv4 of version 5", with(0, 0x55)),
        ("an IPv4 header of 16 bytes", with(0, 0x44)),
        ("an IPv4 header longer than its packet", with(0, 0x4f)),
        ("IPv4 longer than its frame", with(3, 41)),
        ("IPv4 shorter than its header", with(3, 19)),
        ("a cut IPv4 header", ether(0x0800, &whole[..19])),
        ("IPv6 of version 4", v6(0, 0x45)),
        ("IPv6 longer than its frame", v6(5, 21)),
        ("a cut IPv6 header", ether(0x86dd, &ipv6(58, &[])[..39])),
        ("cut ICMPv6", ether(0x86dd, &ipv6(58, &icmp(128, 0)[..7]))),
        (
            "ICMPv6 in padding",
            ether(0x86dd, &[&ipv6(58, &[])[..], &icmp(135, 0)].concat()),
        ),
    ];
    for kind in 133..=137 {
        all.push((
            "neighbour discovery",
            ether(0x86dd, &ipv6(58, &icmp(kind, 0))),
        ));
    }
    for extension in [0, 43, 44, 51, 60] {
        let inside = [&[58, 0, 0, 0, 0, 0, 0, 0][..], &icmp(135, 0)].concat();
        all.push((
            "an extension header",
            ether(0x86dd, &ipv6(extension, &inside)),
        ));
    }
    all
}

/// Where the gate may be stricter than the daemon: extension headers, ICMPv6 that is cut or for routers.
fn is_only_for_the_daemon(frame: &[u8]) -> bool {
    let byte = |at: usize| frame.get(at).copied().unwrap_or_default();
    if key_of(frame).ether_type != 0x86dd {
        return false;
    }
    let length = usize::from(byte(18)) << 8 | usize::from(byte(19));
    match byte(20) {
        0 | 43 | 44 | 51 | 60 => true,
        58 => length < 8 || matches!(byte(54), 133..=137),
        _ => false,
    }
}

fn any_frame() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let mut bases = flows();
    bases.extend(for_the_daemon().into_iter().map(|(_, frame)| frame));
    bases.push(ether(0x0800, &ipv4_with(17, &[], 0x2000, &udp(1, 2))));
    bases.push(ether(0x0800, &ipv4_with(17, &[], 0x0010, &udp(1, 2))));
    bases.push(ether(0x0800, &ipv4(47, &[0; 30])));
    bases.push(ether(0x0800, &ipv4(58, &icmp(135, 0))));
    bases.push(ether(0x86dd, &ipv6(1, &icmp(8, 0))));
    bases.push(ether(0x88cc, &[0; 46]));
    let changes = prop::collection::vec((12usize..60, any::<u8>()), 0..4);
    let few = prop_oneof![4 => Just(None), 1 => (15usize..100).prop_map(Some)];
    (prop::sample::select(bases), changes, few).prop_map(|(base, changes, length)| {
        let mut frame = base.clone();
        for (at, byte) in changes {
            if let Some(there) = frame.get_mut(at) {
                *there = byte;
            }
        }
        if let Some(length) = length {
            frame.resize(length, 0);
        }
        (base, frame)
    })
}

#[test]
fn the_gate_reads_any_frame_as_the_daemon_does() {
    on_a_host(async || {
        let trial = Trial::new();
        let config = Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        };
        let compared = Cell::new(0);
        TestRunner::new(config)
            .run(&any_frame(), |(base, frame)| {
                // The kernel tries no frame whose IP header is cut off.
                if trial.try_port(&frame).is_none() {
                    return Ok(());
                }
                compared.set(compared.get() + 1);
                compare(&trial, &base, &frame)
            })
            .unwrap();
        assert!(compared.get() > CASES / 2, "{compared:?}");
    });
}

fn compare(trial: &Trial, base: &[u8], frame: &[u8]) -> Result<(), TestCaseError> {
    let parsed = Frame::parse(frame).unwrap();
    let key = key_of(frame);
    let pair = Key::pair(DEVICE, &key);
    let flow = Key::flow(DEVICE, &key);
    let may = !parsed.is_malformed()
        && frame.len() <= usize::from(MTU) + 14
        && !is_only_for_the_daemon(frame);

    // Whatever pair the bytes could be of is open: does the gate refuse what the daemon would?
    let named = Key {
        device: DEVICE,
        src_mac: parsed.src(),
        dst_mac: parsed.dst(),
        ether_type: u16::from_be_bytes([frame[12], frame[13]]),
        flow: None,
    };
    trial.open(&named, 0, 0);
    let verdict = trial.port(frame);
    trial.gate.close(&named).unwrap();
    let wanted = if pair.is_some() && may { PASS } else { MISS };
    prop_assert_eq!(verdict, wanted, "by its pair: {:02x?}", frame);

    // Only its flow is open.
    if let Some(flow) = flow {
        trial.open(&flow, 0, 0);
        let verdict = trial.port(frame);
        trial.gate.close(&flow).unwrap();
        let wanted = if may { PASS } else { MISS };
        prop_assert_eq!(verdict, wanted, "by its flow: {:02x?}", frame);
    }

    // Only the flow is open that it was before it was changed.
    if let Some(before) = Key::flow(DEVICE, &key_of(base)) {
        trial.open(&before, 0, 0);
        let verdict = trial.port(frame);
        trial.gate.close(&before).unwrap();
        let wanted = if may && flow == Some(before) {
            PASS
        } else {
            MISS
        };
        prop_assert_eq!(verdict, wanted, "by another flow: {:02x?}", frame);
    }
    Ok(())
}
