//! The workbench on real components. `cargo xtask plugins` makes them.
#![allow(clippy::unwrap_used)]

use meshd_plugin_host::{Engine, Instance, Limits, Plugin};
use meshd_workbench::{
    Names, Recording, bench, difference, question, replay, trace, traffic, trial,
};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn component(name: &str) -> Vec<u8> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir));
    let folder =
        std::env::var_os("MESHD_PLUGINS").map_or_else(|| target.join("plugins"), PathBuf::from);
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: run `cargo xtask plugins` first", path.display()))
}

fn load(wasm: &[u8]) -> Plugin {
    Plugin::load(&Engine::new(Limits::default()).unwrap(), wasm).unwrap()
}

fn office() -> Recording {
    Recording::read(&std::fs::read(root().join("sdk/testdata/office.pcap")).unwrap()).unwrap()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn a_component_says_of_every_frame_what_its_native_code_said_in_the_same_words() {
    for (name, folder, config) in [
        (
            "hello-plugin",
            "examples/hello-plugin",
            "{\"port\":23}".to_owned(),
        ),
        ("acl", "plugins/acl", text("plugins/acl/example.json")),
        (
            "isolation",
            "plugins/isolation",
            text("plugins/isolation/example.json"),
        ),
    ] {
        let wasm = component(name);
        let mut instance = Instance::new(&load(&wasm), &config, 1).unwrap();
        let new = trace(&mut instance, &Names::of(&wasm), &office());
        let golden = text(&format!("{folder}/testdata/office.golden"));
        if let Some(difference) = difference(&golden, &new) {
            panic!("{name}:\n{difference}");
        }
        let other = difference(&golden, &new.replace("next", "drop")).unwrap();
        assert!(other.starts_with("- {"), "{other}");
    }
}

#[test]
fn a_replay_accounts_for_every_frame_and_only_what_passes_goes_on() {
    let wasm = component("hello-plugin");
    let mut instance = Instance::new(&load(&wasm), "{\"port\":443}", 1).unwrap();
    let recording = traffic(20_000, 3);
    let (seen, passed) = replay(&mut instance, &Names::of(&wasm), &recording, true);
    assert_eq!(seen.frames, 20_000);
    assert_eq!(seen.not_asked + seen.asked + seen.hits, seen.frames);
    let dropped = seen.verdicts.get("drop telnet").copied().unwrap();
    assert!(dropped > 1000, "{dropped}");
    assert_eq!(passed.frames.len() as u64 + dropped, seen.frames);
    assert!(passed.frames.iter().all(|captured| {
        let key = question(&captured.frame).unwrap().key;
        !(key.ip_proto == 6 && key.dst_port == 443)
    }));
    assert_eq!((seen.wrong, seen.faults.len()), (0, 0));
    assert!(seen.masks >= 2 && seen.hit_rate() > 50.0, "{seen:?}");
    let again = Recording::read(&passed.write().unwrap()).unwrap();
    assert_eq!(again.frames.len(), passed.frames.len());
}

#[test]
fn a_trial_passes_honest_plugins_and_finds_faults_state_and_lies() {
    let frames = traffic(300, 1).frames;
    let questions: Vec<_> = frames.iter().map(|c| question(&c.frame).unwrap()).collect();
    let ask = |name: &str, config: &str| {
        let seen = trial(&load(&component(name)), config, &questions, 100).unwrap();
        let kinds: Vec<&str> = seen.troubles.iter().map(|trouble| trouble.kind).collect();
        (kinds, seen)
    };
    let (kinds, honest) = ask("acl", &text("plugins/acl/example.json"));
    assert!(kinds.is_empty(), "{honest:?}");
    assert!(honest.fuel_most > 0 && honest.fuel_most < honest.fuel_limit);
    assert_eq!(
        (honest.questions, honest.examined),
        (600, 100),
        "each at both ends"
    );
    // The fixture does as its config says.
    // The fixture does as its config says: here, on frames to one port.
    let (kinds, seen) = ask("fixture", r#"{"do":"trap","on-port":443}"#);
    assert_eq!(kinds, ["fault"], "{seen:?}");
    let (kinds, seen) = ask("fixture", r#"{"do":"accept","on-port":443}"#);
    assert_eq!(kinds, ["mask"], "{seen:?}");
    let (kinds, seen) = ask("fixture", r#"{"do":"moody","on-port":443}"#);
    assert!(kinds.contains(&"state"), "{seen:?}");
}

#[test]
fn figures_come_from_what_the_plugin_does() {
    let plugin = load(&component("hello-plugin"));
    let figures = bench(&plugin, "{}", &traffic(5_000, 2)).unwrap().unwrap();
    assert_eq!(figures.frames, 5_000);
    assert!(figures.p50_ns > 100 && figures.p50_ns <= figures.p99_ns);
    assert!(figures.fuel_p50 > 10 && figures.fuel_most < 20_000);
    assert!(figures.hit_rate > 50.0 && figures.masks_per_100k >= 20.0);
}
