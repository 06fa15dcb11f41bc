//! Versions of the contract: what this host does with components of a later one, and that a host of a later one can serve those of
//! today. The next version is a dummy, `tests/next/next.wit`: a key with one field more, in a world of its own.
#![allow(clippy::unwrap_used)]

mod guests;

use guests::{component, tcp_to};
use meshd_plugin_host::contract::types::{FlowKey, Target, Verdict};
use meshd_plugin_host::{Engine, Instance, Limits, LoadError, Plugin, Say, contract};
use next::exports::meshd::policy0_2_0::decide_v2::FlowKeyV2;
use wasmtime::Store;
use wasmtime::component::{Component, Linker};

/// The same component, made for another patch number: names have one length.
fn patched(wasm: &[u8], patch: &[u8; 6]) -> Vec<u8> {
    renamed(wasm, b"@0.1.0", patch)
}

fn renamed<const N: usize>(wasm: &[u8], from: &[u8; N], to: &[u8; N]) -> Vec<u8> {
    let mut out = wasm.to_vec();
    let mut at = 0;
    let mut found = false;
    while let Some(place) = out.get_mut(at..at + N) {
        if place == from {
            place.copy_from_slice(to);
            found = true;
        }
        at += 1;
    }
    assert!(found, "{} is not in it", String::from_utf8_lossy(from));
    out
}

fn load(wasm: &[u8]) -> Result<Plugin, LoadError> {
    Plugin::load(&Engine::new(Limits::default()).unwrap(), wasm)
}

#[test]
fn a_component_of_a_later_patch_that_needs_nothing_new_decides_as_ever() {
    let plugin = load(&patched(&component("acl"), b"@0.1.7")).unwrap();
    let terms = plugin.terms();
    assert_eq!(terms.needs, "meshd:policy/policy@0.1.7");
    assert_eq!(terms.offers, "meshd:policy@0.1.0");
    assert!(terms.adapters.is_empty());
    let config = r#"{"deny":[{"proto":"tcp","port":22}]}"#;
    let mut acl = Instance::new(&plugin, config, 1).unwrap();
    assert_eq!(acl.decide(&tcp_to(22)).unwrap().say, Say::Drop { code: 1 });
    // With imports that have functions, of a policy and of a controller.
    for name in ["acl-tracked", "fixture-controlled"] {
        load(&patched(&component(name), b"@0.1.7")).unwrap();
    }
}

#[test]
fn one_that_needs_something_new_is_refused_and_the_new_thing_is_named() {
    // As if the key by questions, and topology, were another interface that came later.
    let policy = renamed(
        &component("acl-tracked"),
        b"/tracked-key@",
        b"/terrain-map@",
    );
    let controller = renamed(
        &component("fixture-controlled"),
        b"/topology@",
        b"/hologram@",
    );
    for (wasm, needs) in [
        (policy, "meshd:policy/terrain-map@0.1.7"),
        (controller, "meshd:policy/hologram@0.1.7"),
    ] {
        let error = load(&patched(&wasm, b"@0.1.7")).unwrap_err();
        assert_eq!(
            error,
            LoadError::Newer {
                needs: needs.to_owned()
            }
        );
        let words = error.to_string();
        assert!(words.contains("meshd:policy@0.1.0"), "{words}");
        assert!(words.contains("Upgrade meshd"), "{words}");
    }
}

#[test]
fn a_component_of_the_next_minor_is_refused_with_both_versions_and_who_is_to_upgrade() {
    let words = load(&component("next")).unwrap_err().to_string();
    for wanted in ["meshd:policy@0.2.0", "meshd:policy@0.1.0", "Upgrade meshd"] {
        assert!(words.contains(wanted), "{words}");
    }
    // And the other way round.
    let words = load(&patched(&component("acl"), b"@0.0.9")).unwrap_err();
    let words = words.to_string();
    assert!(words.contains("0.0.9"), "{words}");
    assert!(
        words.contains("Build it with the meshd-sdk of this release"),
        "{words}"
    );
}

// A host of the next version: it keeps the world of today beside its own, and asks it about the old part of its key.

mod next {
    wasmtime::component::bindgen!({
        path: ["../../wit", "tests/next"],
        world: "meshd:policy/policy-v2@0.2.0",
        with: { "meshd:policy/types@0.1.0": meshd_plugin_host::contract::types },
    });
}

mod today {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "policy",
        with: { "meshd:policy/types@0.1.0": meshd_plugin_host::contract::types },
    });
}

enum Served {
    Today(today::Policy),
    Next(next::PolicyV2),
}

struct NextHost {
    store: Store<()>,
    served: Served,
}

/// What the host of the next version makes of its key for a policy of today.
fn lower(key: &FlowKeyV2) -> FlowKey {
    key.base
}

impl NextHost {
    fn start(wasm: &[u8], config: &str) -> Self {
        let engine = wasmtime::Engine::default();
        let component = Component::from_binary(&engine, wasm).unwrap();
        let (linker, mut store) = (Linker::new(&engine), Store::new(&engine, ()));
        let is_next = component
            .component_type()
            .exports(&engine)
            .any(|(name, _)| name == "meshd:policy/decide-v2@0.2.0");
        let served = match is_next {
            true => {
                Served::Next(next::PolicyV2::instantiate(&mut store, &component, &linker).unwrap())
            }
            false => {
                Served::Today(today::Policy::instantiate(&mut store, &component, &linker).unwrap())
            }
        };
        let taken = match &served {
            Served::Next(policy) => policy
                .meshd_policy0_2_0_decide_v2()
                .call_configure(&mut store, config, 1),
            Served::Today(policy) => policy
                .meshd_policy_decide()
                .call_configure(&mut store, config, 1),
        };
        taken.unwrap().unwrap();
        Self { store, served }
    }

    fn decide(&mut self, key: &FlowKeyV2) -> Verdict {
        match &self.served {
            Served::Next(policy) => policy
                .meshd_policy0_2_0_decide_v2()
                .call_decide(&mut self.store, *key),
            Served::Today(policy) => policy
                .meshd_policy_decide()
                .call_decide(&mut self.store, lower(key)),
        }
        .unwrap()
    }
}

#[test]
fn a_host_of_the_next_version_serves_both_worlds_and_lowers_its_key_for_the_old_one() {
    let key = |port: u16, flow_label: u32| FlowKeyV2 {
        base: contract::key(&tcp_to(port)),
        flow_label,
    };
    let refuses = |host: &mut NextHost, key: &FlowKeyV2| match host.decide(key).target {
        Target::Drop(reason) => Some(reason.code),
        _ => None,
    };
    let config = r#"{"deny":[{"proto":"tcp","port":22}]}"#;
    let mut acl = NextHost::start(&component("acl"), config);
    assert_eq!(refuses(&mut acl, &key(22, 7)), Some(1));
    assert_eq!(refuses(&mut acl, &key(80, 7)), None);
    let mut next = NextHost::start(&component("next"), "{}");
    assert_eq!(refuses(&mut next, &key(22, 7)), Some(6));
    assert_eq!(refuses(&mut next, &key(22, 8)), None);
    // What the old one says it rests on is said of the old key, and so of the new one.
    let deps = acl.decide(&key(22, 7)).deps;
    assert_eq!(deps.partial.dst_port_mask, 0xffff);
}
