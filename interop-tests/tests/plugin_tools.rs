//! From a new project to a live network; signed plugins and a daemon that wants signatures; a plugin in C.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, meshd_binary, plugin, scene};
use interop_tests::traffic::tcp_opens;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `meshd plugin …` with cargo's results in `target`; its standard output.
fn tool(target: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(meshd_binary()?)
        .arg("plugin")
        .args(words)
        .env("CARGO_TARGET_DIR", target)
        // All that it needs is in the lock file of the repository's own example.
        .env("CARGO_NET_OFFLINE", "true")
        .output()?;
    ensure!(
        output.status.success(),
        "meshd plugin {words:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Where cargo's results for guests are.
fn guests() -> Result<PathBuf> {
    let daemon = meshd_binary()?;
    let target = daemon.ancestors().nth(2);
    Ok(target
        .context("the daemon is not in a target folder")?
        .join("guests"))
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

#[test]
fn a_signed_plugin_drops_real_traffic_and_one_that_nobody_trusted_signed_is_refused() {
    scene(LabSpec::hosts(2), |lab| {
        let node = lab.node(0);
        let room = node.config.parent().context("a node without a folder")?;
        let target = guests()?;
        let path = |name: &str| room.join(name).to_string_lossy().into_owned();
        let (one, two) = (path("one.wasm"), path("two.wasm"));
        for copy in [&one, &two] {
            fs::copy(plugin("hello-plugin")?, copy)?;
        }

        let key: serde_json::Value =
            serde_json::from_str(&tool(&target, &["keygen", &path("key"), "--json"])?)?;
        let key = key["public_key"]
            .as_str()
            .context("no public key")?
            .to_owned();
        fs::write(
            &node.config,
            format!("[plugins]\ntrusted = [\"{key}\"]\nrequire_signature = true\n"),
        )?;
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (here, far) = (&stations[0], &stations[1]);
        let to = far.port.v4()?;
        let open = |port| tcp_opens(&here.netns, &far.netns, to, port, Duration::from_secs(2));
        ensure!(open(80)?, "no policy, no refusal");

        let said = node.refused(&["plugin", "install", "no-web", &one])?;
        ensure!(said.contains("not signed"), "{said}");
        tool(&target, &["keygen", &path("stranger")])?;
        tool(&target, &["sign", &two, "--key", &path("stranger")])?;
        let said = node.refused(&["plugin", "install", "no-web", &two])?;
        ensure!(said.contains("does not trust"), "{said}");
        tool(&target, &["sign", &one, "--key", &path("key")])?;
        node.ok(&["plugin", "install", "no-web", &one])?;
        let listed = node.list("plugin ls")?;
        ensure!(listed[0]["signers"][0] == key.as_str(), "{listed:?}");
        let mut bytes = fs::read(&one)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&two, &bytes)?;
        let said = node.refused(&["plugin", "install", "no-web", &two])?;
        ensure!(said.contains("was changed after it was signed"), "{said}");

        node.ok(&[
            "plugin",
            "attach",
            "no-web",
            "lan",
            "--config",
            "{\"port\":80}",
        ])?;
        ensure!(!open(80)?, "tcp/80 is refused by the new plugin");
        ensure!(open(23)?, "tcp/23 passes");
        node.restart()?;
        lab.converged(Duration::from_secs(10))?;
        lab.know_each_other(&stations)?;
        ensure!(!open(80)? && open(23)?, "it is trusted after a restart too");

        // Who is trusted no more has no say after the next start: the attachment answers by its fail mode.
        let other = format!("ed25519:{}", "ab".repeat(32));
        fs::write(
            &node.config,
            format!("[plugins]\ntrusted = [\"{other}\"]\nrequire_signature = true\n"),
        )?;
        node.restart()?;
        let listed = node.list("plugin ls")?;
        let trouble = listed[0]["trouble"].as_str().unwrap_or_default();
        ensure!(trouble.contains("does not trust"), "{listed:?}");
        Ok(())
    });
}

/// As the tutorial does it, each word after the other.
#[test]
fn a_new_project_is_built_tested_replayed_signed_installed_and_drops_real_traffic() {
    scene(LabSpec::hosts(2), |lab| {
        let node = lab.node(0);
        let room = node.config.parent().context("a node without a folder")?;
        let target = guests()?;
        let path = |name: &str| room.join(name).to_string_lossy().into_owned();
        let (project, wasm, key) = (path("no-telnet"), path("no-telnet.wasm"), path("key"));
        let sdk = root().to_string_lossy().into_owned();
        tool(
            &target,
            &["new", "no-telnet", "--dir", &project, "--sdk", &sdk],
        )?;
        tool(&target, &["build", &project, "-o", &wasm])?;
        let said = tool(&target, &["test", &wasm])?;
        ensure!(said.contains("keeps the contract"), "{said}");
        let recording = root().join("examples/hello-plugin/testdata/office.pcap");
        let passed = path("passed.pcap");
        let said = tool(
            &target,
            &[
                "replay",
                &wasm,
                &recording.to_string_lossy(),
                "--out",
                &passed,
            ],
        )?;
        ensure!(
            fs::metadata(&passed)?.len() < fs::metadata(&recording)?.len(),
            "nothing of the recording is dropped: {said}"
        );
        let made: serde_json::Value =
            serde_json::from_str(&tool(&target, &["keygen", &key, "--json"])?)?;
        let public = made["public_key"].as_str().context("no public key")?;
        tool(&target, &["sign", &wasm, "--key", &key])?;
        fs::write(
            &node.config,
            format!("[plugins]\ntrusted = [\"{public}\"]\nrequire_signature = true\n"),
        )?;
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (here, far) = (&stations[0], &stations[1]);
        let to = far.port.v4()?;
        let open = |port| tcp_opens(&here.netns, &far.netns, to, port, Duration::from_secs(2));
        ensure!(open(23)?, "no policy, no refusal");
        node.ok(&["plugin", "install", "no-telnet", &wasm])?;
        node.ok(&["plugin", "attach", "no-telnet", "lan"])?;
        ensure!(!open(23)?, "tcp/23 is refused");
        ensure!(open(80)?, "tcp/80 passes");
        node.ok(&["plugin", "detach", "no-telnet", "lan"])?;
        ensure!(open(23)?, "and tcp/23 passes without it");
        Ok(())
    });
}

#[test]
fn a_plugin_in_c_says_and_reads_what_the_one_in_rust_does() -> Result<()> {
    let room = std::env::temp_dir().join(format!("meshd-c-plugin-{}", std::process::id()));
    fs::create_dir_all(&room)?;
    let wasm = room.join("no-telnet.wasm").to_string_lossy().into_owned();
    let build = || -> Result<Vec<u8>> {
        let status = Command::new(root().join("examples/c-plugin/build.sh"))
            .arg(&wasm)
            .env("MESHD", meshd_binary()?)
            .status()?;
        ensure!(
            status.success(),
            "examples/c-plugin does not build: {status}"
        );
        Ok(fs::read(&wasm)?)
    };
    ensure!(
        build()? == build()?,
        "two builds of the same sources differ"
    );
    tool(&room, &["check", &wasm, "--config", "{\"port\":23}"])?;
    let wrong = tool(&room, &["check", &wasm, "--config", "{\"port\":66000}"]);
    let wrong = wrong
        .err()
        .context("66000 is taken for a port")?
        .to_string();
    ensure!(
        wrong.contains("at /port") && wrong.contains("65535"),
        "{wrong}"
    );
    let said = tool(&room, &["test", &wasm])?;
    ensure!(said.contains("keeps the contract"), "{said}");
    let data = root().join("examples/hello-plugin/testdata");
    let [pcap, golden] =
        ["office.pcap", "office.golden"].map(|name| data.join(name).to_string_lossy().into_owned());
    tool(&room, &["replay", &wasm, &pcap, "--golden", &golden])?;
    fs::remove_dir_all(&room)?;
    Ok(())
}

#[test]
fn a_new_project_with_a_controller_becomes_one_file_with_what_it_wants_in_it() -> Result<()> {
    let room = std::env::temp_dir().join(format!("meshd-controllers-{}", std::process::id()));
    fs::create_dir_all(&room)?;
    let target = guests()?;
    let sdk = root().to_string_lossy().into_owned();
    for (name, kind, wants, world) in [
        ("speakers", "both", vec!["log", "flows"], "policy"),
        (
            "watcher",
            "controller",
            vec!["log", "metrics"],
            "controller",
        ),
    ] {
        let folder = room.join(name).to_string_lossy().into_owned();
        let wasm = room
            .join(format!("{name}.wasm"))
            .to_string_lossy()
            .into_owned();
        tool(
            &target,
            &["new", name, "--kind", kind, "--dir", &folder, "--sdk", &sdk],
        )?;
        tool(&target, &["build", &folder, "-o", &wasm])?;
        let said = tool(&target, &["check", &wasm, "--config", "{}", "--json"])?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        ensure!(said["world"] == world, "{said}");
        let imports = said["controller"].as_array().context("no controller")?;
        ensure!(
            wants
                .iter()
                .all(|one| imports.iter().any(|import| import == one)),
            "{name} wants {imports:?}"
        );
    }
    fs::remove_dir_all(&room)?;
    Ok(())
}
