//! Documentation is a test: what `docs/quickstart.md` and `examples/` tell people to type is typed here.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{is_root, meshd_binary};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs `script` by bash in a mount and network namespace of its own, where the names that documentation uses are free.
fn type_in(script: &str) -> Result<String> {
    let bin = meshd_binary()?;
    let folder = bin.parent().context("meshd is in a folder")?;
    let path = format!(
        "{}:{}:/usr/sbin:/sbin",
        folder.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    // Private /run and /etc/netns: namespaces and resolver files called as in the text disturb nobody.
    let private = "mount --make-rprivate / && mount -t tmpfs none /run && mkdir -p /run/netns /etc/netns && mount -t tmpfs none /etc/netns && exec bash -euo pipefail -s";
    let mut child = Command::new("timeout")
        .args([
            "60",
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            private,
        ])
        .env("PATH", path)
        .env("MESHD", &bin)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start unshare")?;
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(format!("set -x\n{script}").as_bytes())?;
    let out = child.wait_with_output()?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    ensure!(out.status.success(), "{}\n{text}", out.status);
    Ok(text)
}

fn skipped(name: &str) -> bool {
    if !is_root() {
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs root");
    }
    !is_root()
}

#[test]
fn what_is_typed_here_disturbs_nobody_outside() -> Result<()> {
    if skipped("what_is_typed_here_disturbs_nobody_outside") {
        return Ok(());
    }
    let said = type_in(
        "ip netns add berlin; ip netns exec berlin ip link set lo up; ip netns exec berlin ping -c 1 127.0.0.1; ip netns del berlin",
    )?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    ensure!(
        type_in("false; true").is_err(),
        "the first command that fails ends the script"
    );
    ensure!(!Path::new("/run/netns/berlin").exists());
    Ok(())
}

#[test]
fn the_quickstart_holds_word_for_word() -> Result<()> {
    if skipped("the_quickstart_holds_word_for_word") {
        return Ok(());
    }
    let page = std::fs::read_to_string(repository().join("docs/quickstart.md"))?;
    let mut script = String::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => script += &format!("{line}\n"),
            _ => {}
        }
    }
    ensure!(
        script.contains("meshd invite"),
        "the page has lost its commands"
    );
    let said = type_in(&script)?;
    ensure!(
        said.matches(" 0% packet loss").count() == 2,
        "both pings are answered:\n{said}"
    );
    Ok(())
}

#[test]
fn the_examples_run() -> Result<()> {
    if skipped("the_examples_run") {
        return Ok(());
    }
    for example in ["two-hosts", "homelab"] {
        let script = repository().join("examples").join(example).join("run.sh");
        type_in(&format!("bash {}", script.canonicalize()?.display()))
            .with_context(|| format!("examples/{example}"))?;
    }
    Ok(())
}
