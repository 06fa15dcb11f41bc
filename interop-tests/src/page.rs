//! Pages of the documentation whose commands are typed by tests.
//!
//! Owns the place where its commands disturb nobody: bash, in mount, network and process namespaces of its own, where the names
//! that documentation uses are free. What of a page is typed, and where, is told by its blocks (`page/blocks.rs`).

mod blocks;

pub use blocks::{Block, Kind};

use crate::lab::meshd_binary;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Private /run and /etc/netns: namespaces and resolver files called as in the text are nobody else's.
const PRIVATE: &str = "mount --make-rprivate / && mount -t tmpfs none /run && mkdir -p /run/netns /etc/netns && mount -t tmpfs none /etc/netns && exec bash -euo pipefail -s";

/// Two hosts and what pages take for granted there.
const SCENE: &str = include_str!("page/scene.sh");
/// More words for the hosts of the scene: engines of containers.
const ENGINES: &str = include_str!("page/engines.sh");

/// Where the repository is.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All blocks of a page. `page`: from the repository's root on.
///
/// # Errors
/// If it cannot be read.
pub fn read(page: &str) -> Result<Vec<Block>> {
    let path = repository().join(page);
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    blocks::blocks(&text).with_context(|| page.to_owned())
}

/// All that is typed of a page, in order, in one shell. `page`: from the repository's root on.
///
/// # Errors
/// If it cannot be read.
pub fn commands(page: &str) -> Result<String> {
    let typed = read(page)?.into_iter();
    let typed = typed.filter(|block| matches!(block.kind, Kind::Typed(_)));
    Ok(typed.map(|block| block.text).collect())
}

/// Types a page: in the scene of two hosts, if it names hosts, and compares what it says with what the page says.
///
/// # Errors
/// If a command fails, takes too long, or says something else.
pub fn type_page(page: &str, environment: &[(&str, PathBuf)]) -> Result<String> {
    let blocks = read(page)?;
    let hosts = blocks.iter().any(|block| match &block.kind {
        Kind::Typed(hosts) | Kind::Config(hosts) => !hosts.is_empty(),
        Kind::Said | Kind::Elsewhere | Kind::Shown => false,
    });
    let scene = match hosts {
        true => format!("{SCENE}\ncat >>/run/scene/words.sh <<'@@@'\n{ENGINES}@@@\n"),
        false => String::new(),
    };
    let script = format!("{scene}\n{}", blocks::script(&blocks));
    let said = type_in(&script, environment).with_context(|| page.to_owned())?;
    blocks::compare(&blocks, &said).with_context(|| page.to_owned())?;
    Ok(said)
}

/// What is said when `script` is typed at the repository's root; at most two minutes.
///
/// # Errors
/// If a command fails, or takes too long: with all that was said.
pub fn type_in(script: &str, environment: &[(&str, PathBuf)]) -> Result<String> {
    let bin = meshd_binary()?;
    let folder = bin.parent().context("meshd is in a folder")?;
    let path = format!(
        "{}:{}:/usr/sbin:/sbin",
        folder.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    // unshare lets no SIGTERM through, and takes all that it started with it when it is killed.
    let mut child = Command::new("timeout")
        .args(["--signal", "KILL", &(120 * crate::slow()).to_string()])
        .args(["unshare", "--mount", "--net", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc", "sh", "-c", PRIVATE])
        .current_dir(repository())
        .env("PATH", path)
        .env("MESHD", &bin)
        // What a command that is killed leaves goes with the namespace.
        .env("TMPDIR", "/run")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start unshare")?;
    let mut input = child.stdin.take().context("no input")?;
    input.write_all(format!("set -x\n{script}").as_bytes())?;
    drop(input);
    let out = child.wait_with_output()?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    let typed: Vec<&str> = text.lines().collect();
    let last = typed[typed.len().saturating_sub(10)..].join("\n");
    ensure!(
        out.status.success(),
        "{}, after:\n{last}\n\nAll that was said:\n{text}",
        out.status
    );
    Ok(text)
}
