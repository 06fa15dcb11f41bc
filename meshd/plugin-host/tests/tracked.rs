//! The world `policy-tracked`: the host's own notes of what a guest asks, and the SDK's notes held against them.
#![allow(clippy::unwrap_used)]

mod guests;

use guests::{component, instance, plugin, tcp_to};
use meshd_core::flow::{FlowKey, FlowMask, Frag, IpKind};
use meshd_core::ident::MacAddr;
use meshd_core::node::Question;
use meshd_plugin_host::{Engine, Fault, Limits, LoadError, Plugin, Say, World};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

fn asks(what: &str) -> meshd_plugin_host::Instance {
    instance("fixture-tracked", &format!(r#"{{"do":"{what}"}}"#))
}

#[test]
fn a_component_of_either_world_is_taken_and_says_which() {
    assert_eq!(plugin("acl").shape().world, World::Policy);
    let tracked = plugin("acl-tracked");
    assert_eq!(tracked.shape().world, World::PolicyTracked);
    assert_eq!(
        tracked.shape().imports,
        ["meshd:policy/types@0.1.0", "meshd:policy/tracked-key@0.1.0"]
    );
}

#[test]
fn an_answer_rests_on_what_was_asked_and_on_nothing_else() {
    let silent = asks("nothing").decide(&tcp_to(22)).unwrap();
    assert_eq!(silent.say, Say::Drop { code: 7 });
    assert_eq!(silent.mask, FlowMask::default().with_prerequisites());
    assert!(!silent.read_dst_class);

    let all = asks("all").decide(&tcp_to(22)).unwrap();
    assert_eq!(all.say, Say::Next);
    assert!(all.mask.is_superset(&FlowMask::exact()) && all.read_dst_class);

    let some = asks("predicates").decide(&tcp_to(22)).unwrap();
    assert_eq!(some.say, Say::Drop { code: 7 }, "each answer is right");
    let (mask, no) = (some.mask, FlowMask::default());
    assert_eq!((mask.src_mac, mask.dst_mac), (24, 16));
    // 10.0.0.2 is not 10.0.0.0: they differ in the last bit but one.
    assert_eq!((mask.src_ip, mask.dst_ip), (104, 127));
    // 4000 to 4095 around 4000: 4000 is 0x0fa0, and the block of 32 is the largest inside. 0 to 1023: one block.
    assert_eq!((mask.src_port, mask.dst_port), (0xffe0, 0xfc00));
    let parts = FlowMask {
        src_mac: 24,
        dst_mac: 16,
        src_ip: 104,
        dst_ip: 127,
        src_port: 0xffe0,
        dst_port: 0xfc00,
        ..no
    };
    assert_eq!(mask, parts.with_prerequisites());
}

#[test]
fn a_question_that_cannot_be_and_questions_without_end_end_the_plugin() {
    let mut guest = asks("long-prefix");
    let fault = guest.decide(&tcp_to(22)).unwrap_err();
    assert!(
        matches!(&fault, Fault::Trap { .. }) && fault.to_string().contains("49 bits"),
        "{fault}"
    );
    assert_eq!(guest.decide(&tcp_to(22)).unwrap_err(), fault, "a fresh one");
    // It asks for ever, but not about the frame of the first decision.
    let fault = asks("ask").decide(&tcp_to(22)).unwrap_err();
    assert!(
        matches!(fault, Fault::Fuel { .. } | Fault::Deadline),
        "{fault}"
    );
}

/// `wasm` with another version of the contract in all its names.
fn of_version(wasm: &[u8], version: &[u8; 6]) -> Vec<u8> {
    let mut bytes = wasm.to_vec();
    let found: Vec<usize> = bytes
        .windows(6)
        .enumerate()
        .filter(|(_, at)| *at == b"@0.1.0")
        .map(|(at, _)| at)
        .collect();
    assert!(!found.is_empty());
    for at in found {
        bytes[at..at + 6].copy_from_slice(version);
    }
    bytes
}

#[test]
fn a_plugin_of_a_later_patch_of_the_contract_works_and_of_another_minor_is_refused_by_name() {
    let engine = Engine::new(Limits::default()).unwrap();
    for guest in ["acl", "acl-tracked"] {
        let later = Plugin::load(&engine, &of_version(&component(guest), b"@0.1.7")).unwrap();
        let config = r#"{"deny":[{"proto":"tcp","port":22}]}"#;
        let mut acl = meshd_plugin_host::Instance::new(&later, config, 1).unwrap();
        assert_eq!(
            acl.decide(&tcp_to(22)).unwrap().say,
            Say::Drop { code: 1 },
            "{guest}"
        );

        let other = Plugin::load(&engine, &of_version(&component(guest), b"@0.2.0")).unwrap_err();
        let words = other.to_string();
        assert!(
            matches!(other, LoadError::Version { .. } | LoadError::Manifest(_))
                && words.contains("0.2.0")
                && words.contains("0.1.0"),
            "{words}"
        );
    }
}

const RULES: &str = r#"{
  "deny": [
    { "proto": "tcp", "port": 22 },
    { "src": "10.0.0.0/8", "dst": "10.0.0.2", "proto": "udp", "port": "1000-2000" },
    { "src": "fd00::/8" },
    { "dst": "10.0.0.0/30", "proto": "icmp" }
  ]
}"#;

fn question() -> impl Strategy<Value = Question> {
    let ip = prop_oneof![
        (0u128..6).prop_map(|host| 0xffff_0a00_0000 + host),
        any::<u32>().prop_map(|v4| 0xffff_0000_0000 | u128::from(v4)),
        any::<u128>(),
        any::<u64>().prop_map(|low| 0xfd00_u128 << 112 | u128::from(low)),
    ];
    let port = prop_oneof![Just(22u16), 990u16..2010, any::<u16>()];
    let kind = prop_oneof![
        Just((IpKind::V4, 0x0800)),
        Just((IpKind::V6, 0x86dd)),
        Just((IpKind::ArpV4, 0x0806)),
        Just((IpKind::None, 0x88cc)),
    ];
    let proto = prop_oneof![Just(6u8), Just(17), Just(1), Just(58), any::<u8>()];
    (
        kind,
        ip.clone(),
        ip,
        proto,
        any::<bool>(),
        port.clone(),
        port,
        any::<[u8; 6]>(),
    )
        .prop_map(
            |((ip_kind, ether_type), src_ip, dst_ip, ip_proto, l4_ok, src_port, dst_port, mac)| {
                let first = tcp_to(0);
                let has = |yes: bool, port: u16| if yes { port } else { 0 };
                let layer_4 = l4_ok && matches!(ip_kind, IpKind::V4 | IpKind::V6);
                let addresses = ip_kind != IpKind::None;
                let mapped = |ip: u128| 0xffff_0000_0000 | ip & 0xffff_ffff;
                let bits = |ip: u128| match ip_kind {
                    IpKind::None => 0,
                    IpKind::V4 | IpKind::ArpV4 => mapped(ip),
                    IpKind::V6 | IpKind::NdV6 => ip,
                };
                let key = FlowKey {
                    src_mac: MacAddr(mac),
                    ether_type,
                    ip_kind,
                    src_ip: bits(src_ip),
                    dst_ip: bits(dst_ip),
                    ip_proto: if addresses { ip_proto } else { 0 },
                    frag: Frag::None,
                    l4_ok: layer_4,
                    src_port: has(layer_4, src_port),
                    dst_port: has(layer_4, dst_port),
                    ..first.key
                };
                Question { key, ..first }
            },
        )
}

#[test]
fn what_the_sdk_notes_is_what_the_host_saw_asked() {
    let mut notes = instance("acl", RULES);
    let mut asked = instance("acl-tracked", RULES);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut drops = 0;
    for _ in 0..3000 {
        let question = question().new_tree(&mut runner).unwrap().current();
        let (noted, seen) = (
            notes.decide(&question).unwrap(),
            asked.decide(&question).unwrap(),
        );
        assert_eq!(noted, seen, "{question:?}");
        drops += u32::from(matches!(noted.say, Say::Drop { .. }));
    }
    assert!(
        (100..2900).contains(&drops),
        "{drops} of 3000 dropped: no test of both"
    );
}

#[test]
fn a_component_whose_types_are_others_than_the_contracts_is_refused_when_it_is_loaded() {
    let wasm = component("acl");
    let mut other = wasm.clone();
    let (was, is) = (b"set-ct-mark", b"set-ct-marc");
    let found: Vec<usize> = (0..wasm.len() - was.len())
        .filter(|&at| wasm[at..].starts_with(was))
        .collect();
    assert!(!found.is_empty());
    for at in found {
        other[at..at + is.len()].copy_from_slice(is);
    }
    let engine = Engine::new(Limits::default()).unwrap_or_else(|e| panic!("{e}"));
    let refused = Plugin::load(&engine, &other).err();
    let text = refused.map(|e| e.to_string()).unwrap_or_default();
    assert!(
        text.contains("meshd:policy/decide") && text.contains("set-ct-mark"),
        "{text}"
    );
}
