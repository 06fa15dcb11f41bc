//! `meshd plugin` without a daemon, as it is typed. `cargo test -p meshd --test workshop`; `cargo xtask plugins` makes the components.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MESHD: &str = env!("CARGO_BIN_EXE_meshd");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn component(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir));
    let folder =
        std::env::var_os("MESHD_PLUGINS").map_or_else(|| target.join("plugins"), PathBuf::from);
    let path = folder.join(format!("{name}.wasm"));
    assert!(
        path.is_file(),
        "{}: run `cargo xtask plugins` first",
        path.display()
    );
    path
}

fn meshd(words: &[&str]) -> Output {
    Command::new(MESHD)
        .arg("plugin")
        .args(words)
        .output()
        .unwrap()
}

fn done(words: &[&str]) -> String {
    let output = meshd(words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code 1, and what was said.
fn refused(words: &[&str]) -> String {
    let output = meshd(words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8(said).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_replay_agrees_with_the_golden_trace_of_the_native_code_until_the_config_is_another() {
    let wasm = component("hello-plugin");
    let data = root().join("examples/hello-plugin/testdata");
    let (pcap, golden) = (data.join("office.pcap"), data.join("office.golden"));
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("passed.pcap");
    let common = [
        "replay",
        text(&wasm),
        text(&pcap),
        "--golden",
        text(&golden),
    ];
    let json = done(&[&common[..], &["--json", "--out", text(&out)]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    let seen = &json["replay"];
    let frames = seen["frames"].as_u64().unwrap();
    let dropped = seen["verdicts"]["drop telnet"].as_u64().unwrap();
    assert!(dropped > 0 && seen["wrong"] == 0, "{json}");
    let asked = ["asked", "hits", "not_asked"].map(|field| seen[field].as_u64().unwrap());
    assert_eq!(asked.iter().sum::<u64>(), frames);
    let passed = json["passed"].as_u64().unwrap();
    assert_eq!(
        passed + dropped + seen["not_asked"].as_u64().unwrap(),
        frames
    );
    let again = done(&["replay", text(&wasm), text(&out), "--json"]);
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["replay"]["frames"], passed);
    assert!(again["replay"]["verdicts"]["drop telnet"].is_null());

    let other = [&common[..], &["--config", "{\"port\":443}"]].concat();
    let said = refused(&other);
    assert!(
        said.contains("says otherwise") && said.contains("drop telnet"),
        "{said}"
    );
    let blessed = room.path().join("new.golden");
    let words = [
        "replay",
        text(&wasm),
        text(&pcap),
        "--golden",
        text(&blessed),
    ];
    done(&[&words[..], &["--bless"]].concat());
    assert_eq!(
        std::fs::read(&blessed).unwrap(),
        std::fs::read(&golden).unwrap()
    );
}

#[test]
fn a_test_passes_an_honest_plugin_and_says_what_a_liar_leaves_out() {
    let acl = component("acl");
    let config = format!("@{}", text(&root().join("plugins/acl/example.json")));
    let said = done(&["test", text(&acl), "--config", &config]);
    assert!(said.contains("keeps the contract"), "{said}");
    let fixture = component("fixture");
    let lies = [
        "test",
        text(&fixture),
        "--config",
        r#"{"do":"accept","on-port":443}"#,
    ];
    let said = refused(&lies);
    assert!(
        said.contains("does not pass") && said.contains("wrong"),
        "{said}"
    );
    assert!(said.contains("does not hold for"), "{said}");
}

#[test]
fn figures_are_kept_and_compared() {
    let room = tempfile::tempdir().unwrap();
    let kept = room.path().join("before.json");
    let wasm = component("hello-plugin");
    done(&["bench", text(&wasm), "--save", text(&kept)]);
    let said = done(&["bench", text(&wasm), "--compare", text(&kept)]);
    assert!(said.contains("was") && said.contains("(+0.0 %)"), "{said}");
}

#[test]
fn who_signed_is_shown_and_a_changed_byte_is_refused() {
    let room = tempfile::tempdir().unwrap();
    let [one, two, wasm] = ["one.key", "two.key", "p.wasm"].map(|name| room.path().join(name));
    std::fs::copy(component("hello-plugin"), &wasm).unwrap();
    assert!(refused(&["verify", text(&wasm)]).contains("not signed"));
    let public: Vec<String> = [&one, &two]
        .iter()
        .map(|file| {
            let json: Value =
                serde_json::from_str(&done(&["keygen", text(file), "--json"])).unwrap();
            let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(file).unwrap());
            assert_eq!(mode & 0o777, 0o600);
            json["public_key"].as_str().unwrap().to_owned()
        })
        .collect();
    let said = refused(&["keygen", text(&one)]);
    assert!(said.contains("never overwritten"), "{said}");
    for key in [&one, &two] {
        done(&["sign", text(&wasm), "--key", text(key)]);
    }
    let said = done(&["verify", text(&wasm)]);
    assert!(public.iter().all(|key| said.contains(key)), "{said}");
    done(&["verify", text(&wasm), "--trusted", &public[1]]);
    let stranger = format!("ed25519:{}", "ab".repeat(32));
    let said = refused(&["verify", text(&wasm), "--trusted", &stranger]);
    assert!(said.contains("None of them"), "{said}");
    // It is a plugin as before.
    done(&["check", text(&wasm)]);
    let mut bytes = std::fs::read(&wasm).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&wasm, &bytes).unwrap();
    let said = refused(&["verify", text(&wasm)]);
    assert!(said.contains("was changed after it was signed"), "{said}");
    let said = refused(&["sign", text(&wasm), "--key", text(&one)]);
    assert!(said.contains("was changed after"), "{said}");
}

#[test]
fn a_project_is_made_beside_a_checkout_and_what_cannot_be_made_says_why() {
    let room = tempfile::tempdir().unwrap();
    let folder = room.path().join("no-ssh");
    let sdk = root();
    let new = ["new", "no-ssh", "--dir", text(&folder), "--sdk", text(&sdk)];
    let said = done(&new);
    assert!(said.contains("no-ssh is made"), "{said}");
    assert!(folder.join("src/lib.rs").is_file());
    assert!(refused(&new).contains("there already"));
    let said = refused(&["new", "x", "--sdk", text(room.path())]);
    assert!(said.contains("neither a checkout"), "{said}");
    let said = refused(&["build", text(room.path())]);
    assert!(said.contains("has no Cargo.toml"), "{said}");
    let said = refused(&["build", text(&component("acl")), "--out", "/dev/null"]);
    assert!(said.contains("a component already"), "{said}");
}
