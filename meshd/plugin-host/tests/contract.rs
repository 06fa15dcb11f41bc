//! What the host survives, and what it says about it. The guests are built by `cargo xtask plugins`.
#![allow(clippy::unwrap_used)]

mod guests;

use guests::{component, instance, plugin, tcp_to};
use meshd_core::conntrack::{CtState, Tracked};
use meshd_core::edit::Edit;
use meshd_core::flow::{Fields, FlowMask};
use meshd_core::ident::PortId;
use meshd_core::node::{Direction, Question};
use meshd_core::policy::{Mirror, MirrorPlace, Orders, Redirect};
use meshd_plugin_host::{
    ConfigureError, Digest, Engine, Fault, Instance, Limits, LoadError, MAX_COMPONENT, MAX_CONFIG,
    Plugin, Say, compatibility, precompile,
};
use std::time::{Duration, Instant};

fn fixture(what: &str) -> Instance {
    instance("fixture", &format!(r#"{{"on-port":666,"do":"{what}"}}"#))
}

/// A fault on port 666 ends the guest, and the next question finds a fresh one.
fn fault(what: &str) -> Fault {
    let mut guest = fixture(what);
    assert_eq!(guest.decide(&tcp_to(1)).unwrap().say, Say::Next);
    let started = Instant::now();
    let fault = guest.decide(&tcp_to(666)).unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{what} took {:?}",
        started.elapsed()
    );
    assert_eq!(
        guest.decide(&tcp_to(1)).unwrap().say,
        Say::Next,
        "{what}: a fresh instance answers"
    );
    assert_eq!(
        guest.decide(&tcp_to(666)).unwrap_err(),
        fault,
        "{what}: and fails in the same way"
    );
    fault
}

#[test]
fn a_trap_is_a_fault_and_the_next_question_finds_a_fresh_instance() {
    assert!(
        matches!(fault("trap"), Fault::Trap { .. }),
        "{:?}",
        fault("trap")
    );
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    assert_eq!(
        fault("spin"),
        Fault::Fuel {
            limit: Limits::default().decide_fuel
        }
    );
}

#[test]
fn a_memory_bomb_meets_the_limit() {
    let fault = fault("memory");
    assert!(
        matches!(fault, Fault::Memory { limit, .. } if limit == 16 << 20),
        "{fault:?}"
    );
}

#[test]
fn bulk_memory_costs_fuel_by_the_byte() {
    let fault = fault("fill");
    assert!(matches!(fault, Fault::Fuel { .. }), "{fault:?}");
}

#[test]
fn where_fuel_does_not_end_a_loop_the_clock_does() {
    let endless = Limits {
        decide_fuel: u64::MAX / 2,
        ..Limits::default()
    };
    let engine = Engine::new(endless).unwrap();
    let plugin = Plugin::load(&engine, &component("fixture")).unwrap();
    let mut guest = Instance::new(&plugin, r#"{"on-port":666,"do":"spin"}"#, 1).unwrap();
    let mut spent: Vec<Duration> = (0..20)
        .map(|_| {
            guest.decide(&tcp_to(1)).unwrap();
            let started = Instant::now();
            assert_eq!(guest.decide(&tcp_to(666)).unwrap_err(), Fault::Deadline);
            started.elapsed()
        })
        .collect();
    spent.sort();
    // The rule about processor time ended it (1.5 ms), not the one about wall time behind it (100 ms). How near it comes to
    // its 1.5 ms is in ADR 11 and no matter of a test: on a machine with other work the watch itself wakes late.
    assert!(spent[0] < Duration::from_millis(50), "{spent:?}");
}

#[test]
fn compiled_elsewhere_it_is_the_same_plugin_and_anything_else_is_stale() {
    let wasm = component("acl");
    let engine = Engine::new(Limits::default()).unwrap();
    let code = precompile(&wasm).unwrap();
    // SAFETY: precompile made it.
    #[allow(unsafe_code)]
    let plugin = unsafe { Plugin::from_compiled(&engine, &wasm, &code) }.unwrap();
    assert_eq!(plugin.digest(), Digest::of(&wasm));
    assert_eq!(plugin.shape().imports, ["meshd:policy/types@0.1.0"]);
    assert_eq!(plugin.shape().exports, ["meshd:policy/decide@0.1.0"]);
    let mut acl = Instance::new(&plugin, r#"{"deny":[{"proto":"tcp","port":22}]}"#, 1).unwrap();
    assert_eq!(acl.decide(&tcp_to(22)).unwrap().say, Say::Drop { code: 1 });
    // SAFETY: nothing of it is run: it is no machine code.
    #[allow(unsafe_code)]
    let stale = unsafe { Plugin::from_compiled(&engine, &wasm, b"junk") };
    assert!(matches!(stale, Err(LoadError::Stale { .. })), "{stale:?}");
    let again = Engine::new(Limits::default()).unwrap();
    assert_eq!(compatibility(&engine), compatibility(&again));
    assert_eq!(compatibility(&engine).len(), 16);
}

#[test]
fn endless_recursion_ends() {
    let fault = fault("recurse");
    // Whichever comes first: the fuel, our stack, or the guest's own stack in its memory.
    assert!(
        matches!(
            fault,
            Fault::Fuel { .. } | Fault::Stack | Fault::Trap { .. }
        ),
        "{fault:?}"
    );
}

#[test]
fn verdicts_that_cannot_be_are_faults_that_say_what_is_wrong() {
    for (what, words) in [
        ("bad-prefix", "src-ip-prefix is 200"),
        ("bad-target", "no capture sessions"),
        ("bad-action", "set-dscp is 64, and must be 0 to 63"),
    ] {
        let fault = fault(what);
        assert!(fault.to_string().contains(words), "{fault}");
    }
}

#[test]
fn a_verdict_comes_with_the_mask_and_its_prerequisites() {
    let decision = fixture("drop").decide(&tcp_to(666)).unwrap();
    assert_eq!(decision.say, Say::Drop { code: 7 });
    let fields = Fields::ETHER_TYPE
        .with(Fields::IP_KIND)
        .with(Fields::IP_PROTO)
        .with(Fields::FRAG)
        .with(Fields::L4_OK);
    assert_eq!(
        decision.mask,
        FlowMask {
            dst_port: 0xffff,
            fields,
            ..FlowMask::default()
        }
    );
    assert!(decision.cacheable && !decision.read_dst_class);
    let decision = fixture("accept").decide(&tcp_to(666)).unwrap();
    assert_eq!(
        (decision.say, decision.mask),
        (Say::Accept, FlowMask::default())
    );
}

#[test]
fn what_a_verdict_orders_is_read_and_only_where_it_can_be_done() {
    let guest = |what: &str| {
        let config = format!(r#"{{"on-port":666,"do":"{what}","to":3}}"#);
        instance("fixture", &config)
    };
    let orders = |what: &str| guest(what).decide(&tcp_to(666)).unwrap().orders;
    let none = Orders::default();
    assert!(orders("drop").reject);
    assert_eq!(orders("redirect").redirect, Some(Redirect::Port(PortId(3))));
    let mirror = |config: &str| {
        let config = format!(r#"{{"on-port":666,"do":"mirror",{config}}}"#);
        instance("fixture", &config).decide(&tcp_to(666))
    };
    for (config, to, bytes) in [
        (r#""to":3"#, MirrorPlace::Port(PortId(3)), 0),
        (r#""to":3,"cut":64"#, MirrorPlace::Port(PortId(3)), 64),
        (r#""peer":7,"cut":14"#, MirrorPlace::Peer(7), 14),
    ] {
        let mirrors = mirror(config).unwrap().orders.mirrors;
        assert_eq!(mirrors, [Mirror { to, bytes }].into());
    }
    let short = mirror(r#""to":3,"cut":13"#).unwrap_err().to_string();
    assert!(short.contains("must be 14 to"), "{short}");
    let flood = orders("flood").flood.unwrap();
    assert_eq!((flood.ports, flood.peers.len()), ([PortId(3)].into(), 0));
    assert_eq!(orders("edit").edits, [Edit::PushVlan(7), Edit::SetDscp(46)]);
    assert_eq!(orders("nothing"), none);
    let shortly = guest("shortly").decide(&tcp_to(666)).unwrap();
    assert_eq!((shortly.hard_ms, shortly.idle_ms), (Some(300), Some(200)));
    assert_eq!(shortly.orders, none);
    assert_eq!(guest("group").decide(&tcp_to(666)).unwrap().group, Some(3));
    assert_eq!(
        guest("flood-set").decide(&tcp_to(666)).unwrap().flood_set,
        Some(3)
    );
    let punted = guest("punt").decide(&tcp_to(666)).unwrap();
    assert_eq!((punted.punt, punted.say), (Some(3), Say::Drop { code: 7 }));
    assert_eq!(guest("tag").decide(&tcp_to(666)).unwrap().tags, [3]);
    let learn = |ms: u64, direction| {
        let config = format!(r#"{{"do":"learn","to":{ms}}}"#);
        let question = Question {
            direction,
            ..tcp_to(1)
        };
        instance("fixture", &config).decide(&question)
    };
    let learned = learn(5000, Direction::Ingress).unwrap();
    assert_eq!(learned.orders.learn_ms, Some(5000));
    assert_eq!(learn(5000, Direction::Egress).unwrap().orders, none);
    let short = r#"{"do":"learn","to":999}"#;
    let short = Instance::new(&plugin("fixture"), short, 1).unwrap_err();
    let short = short.to_string();
    assert!(short.contains("must be 1000 to 86400000"), "{short}");
}

#[test]
fn what_fails_in_configure_is_told_and_bounded() {
    let plugin = plugin("fixture");
    let configure = |config: &str| Instance::new(&plugin, config, 1).unwrap_err();
    assert!(matches!(
        configure(r#"{"do":"trap"}"#),
        ConfigureError::Fault(Fault::Trap { .. })
    ));
    assert!(matches!(
        configure(r#"{"do":"memory"}"#),
        ConfigureError::Fault(Fault::Memory { .. })
    ));
    let started = Instant::now();
    assert!(matches!(
        configure(r#"{"do":"spin"}"#),
        ConfigureError::Fault(Fault::Fuel { .. } | Fault::Deadline)
    ));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let ConfigureError::Refused(problems) = configure(r#"{"do":"refuse"}"#) else {
        panic!("not refused")
    };
    assert!(problems.len() <= 16 && problems.iter().all(|p| p.message.len() <= 500));
    assert!(matches!(
        configure(&" ".repeat(MAX_CONFIG + 1)),
        ConfigureError::TooLong { .. }
    ));
    assert!(
        configure("not json").to_string().contains("line 1"),
        "{}",
        configure("not json")
    );
    // Port 0 is the warm-up's.
    assert!(matches!(
        configure(r#"{"on-port":0,"do":"trap"}"#),
        ConfigureError::FirstDecision(Fault::Trap { .. })
    ));
}

#[test]
fn the_acl_refuses_its_port_and_says_what_is_wrong_in_its_config() {
    let mut acl = instance("acl", r#"{"deny":[{"proto":"tcp","port":22}]}"#);
    assert_eq!(acl.decide(&tcp_to(22)).unwrap().say, Say::Drop { code: 1 });
    let passed = acl.decide(&tcp_to(80)).unwrap();
    assert_eq!(
        (passed.say, passed.mask.dst_port, passed.mask.src_port),
        (Say::Next, 0xffc0, 0)
    );
    assert_eq!(
        instance("acl", "").decide(&tcp_to(22)).unwrap().say,
        Say::Next,
        "no config is the empty one"
    );
    let error = Instance::new(
        &plugin("acl"),
        r#"{"deny":[{"proto":"tcp","port":70000}]}"#,
        1,
    )
    .unwrap_err();
    assert!(error.to_string().contains("at /deny/0/port: "), "{error}");
}

#[test]
fn the_longest_access_list_fits_the_fuel_of_one_decision() {
    let rules: Vec<String> = (1..=1024)
        .map(|n| {
            format!(r#"{{"proto":"tcp","port":"{n}-{n}","src":"10.0.0.0/24","dst":"10.0.0.0/24"}}"#)
        })
        .collect();
    let mut acl = instance("acl", &format!(r#"{{"deny":[{}]}}"#, rules.join(",")));
    for port in [1, 64, 1024] {
        assert_eq!(
            acl.decide(&tcp_to(port)).unwrap().say,
            Say::Drop { code: port }
        );
    }
    assert_eq!(acl.decide(&tcp_to(40_000)).unwrap().say, Say::Next);
}

#[test]
fn the_firewall_reads_the_state_of_a_connection_and_orders_it_with_the_longest_list() {
    let rules: Vec<String> = (1..=1024)
        .map(|n| {
            format!(r#"{{"allow":{{"way":"out","proto":"tcp","port":"{n}-{n}","src":"10.0.0.0/24","dst":"10.0.0.0/24"}}}}"#)
        })
        .collect();
    let config = format!(r#"{{"rules":[{}]}}"#, rules.join(","));
    let mut wall = instance("stateful-firewall", &config);
    let mut decide = |port, state, mark| {
        let mut question = tcp_to(port);
        question.key = question.key.with_ct(Tracked { state, mark });
        wall.decide(&question).unwrap()
    };
    let new = decide(48, CtState::NEW, 0);
    assert_eq!((new.say, new.orders.commit), (Say::Next, true));
    assert_eq!(new.orders.ct_mark, Some(48));
    assert!(new.mask.fields.has(Fields::CT));
    assert!(!new.mask.fields.has(Fields::TCP_FLAGS));
    assert_eq!(
        decide(40_000, CtState::NEW, 0).say,
        Say::Drop { code: 1025 },
        "by default: names come behind the numbers of rules"
    );
    let known = decide(40_000, CtState::ESTABLISHED.with(CtState::REPLY), 7);
    assert_eq!((known.say, known.orders.commit), (Say::Next, false));
    assert_eq!(known.mask.dst_port, 0, "no rule was looked at");
    assert_eq!(
        decide(48, CtState::INVALID, 0).say,
        Say::Drop { code: 1026 }
    );
}

#[test]
fn the_example_is_a_plugin() {
    assert_eq!(
        instance("hello-plugin", r#"{"port":23}"#)
            .decide(&tcp_to(23))
            .unwrap()
            .say,
        Say::Drop { code: 1 }
    );
}

const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

fn load(bytes: &[u8]) -> LoadError {
    Plugin::load(&Engine::new(Limits::default()).unwrap(), bytes).unwrap_err()
}

#[test]
fn what_is_no_component_is_refused_by_what_it_is() {
    assert_eq!(
        load(b""),
        LoadError::NotWasm {
            start: "nothing".to_owned()
        }
    );
    assert_eq!(
        load(b"#!/bin/sh"),
        LoadError::NotWasm {
            start: "23 21 2f 62".to_owned()
        }
    );
    assert_eq!(
        load(&[0, b'a', b's', b'm', 1, 0, 0, 0]),
        LoadError::CoreModule
    );
    assert!(matches!(
        load(&[0, b'a', b's', b'm', 0x0d, 0, 1, 0, 0xff, 0xff]),
        LoadError::Compile { .. }
    ));
    assert_eq!(
        load(&vec![0; MAX_COMPONENT + 1]),
        LoadError::TooLarge {
            size: MAX_COMPONENT + 1
        }
    );
}

#[test]
fn garbage_and_cut_or_flipped_components_never_do_more_than_fail() {
    let whole = component("acl");
    let engine = Engine::new(Limits::default()).unwrap();
    for cut in (0..whole.len()).step_by(997) {
        assert!(
            Plugin::load(&engine, &whole[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    for at in (8..whole.len()).step_by(7919) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x55;
        // Some flips are in data and change nothing that is checked.
        let _ = Plugin::load(&engine, &flipped)
            .map(|plugin| Instance::new(&plugin, "{}", 1).map(|mut acl| acl.decide(&tcp_to(22))));
    }
}

#[test]
fn another_world_is_refused_with_what_it_exports() {
    assert_eq!(
        load(&COMPONENT),
        LoadError::NoDecide {
            found: "nothing".to_owned()
        }
    );
    // An instance without functions, under the right name.
    let name = b"meshd:policy/decide@0.1.0";
    let mut impostor = COMPONENT.to_vec();
    impostor.extend([5, 3, 1, 1, 0]);
    impostor.extend([11, name.len() as u8 + 6, 1, 0, name.len() as u8]);
    impostor.extend(name);
    impostor.extend([5, 0, 0]);
    assert!(
        matches!(load(&impostor), LoadError::Contract { .. }),
        "{:?}",
        load(&impostor)
    );
}

#[test]
fn an_import_is_refused_by_name() {
    let mut importer = COMPONENT.to_vec();
    importer.extend([7, 5, 1, 0x40, 0, 1, 0]); // a function type without parameters and result
    importer.extend([10, 8, 1, 0, 3, b'n', b'o', b'w', 1, 0]);
    let error = load(&importer);
    assert!(
        matches!(&error, LoadError::Import { import, .. } if import == "now"),
        "{error:?}"
    );
}

#[test]
fn a_digest_reads_back_what_it_shows() {
    let digest = Digest::of(b"");
    assert_eq!(
        digest.to_string(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    assert!(
        "e3".parse::<Digest>().is_err()
            && "g".repeat(64).parse::<Digest>().is_err()
            && "ä".repeat(32).parse::<Digest>().is_err()
    );
}
