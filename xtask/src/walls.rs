//! The wall around `meshd-core`: no clock, socket, file, thread or async, so that a run can be replayed from its inputs.
//!
//! What is absent from its dependencies cannot be used; what the standard library offers all the same is looked for in the
//! source. Test modules at the end of a file are outside of the wall.

use crate::shell::{cargo, output, root, run};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

/// Every crate that may be below `meshd-core`, at any depth.
const ALLOWED: &str = include_str!("../core-dependencies.txt");

/// What must not stand in its source, and why.
const FORBIDDEN: [(&str, &str); 12] = [
    ("Instant", "time comes in as `Now`"),
    ("SystemTime", "time comes in as `Now`"),
    ("UdpSocket", "sockets are the shell's"),
    ("TcpStream", "sockets are the shell's"),
    ("TcpListener", "sockets are the shell's"),
    ("std::fs", "files are the shell's"),
    ("std::io", "the outside is the shell's"),
    ("std::env", "configuration comes in as an argument"),
    ("std::thread", "the core has no threads"),
    ("async fn", "the core does not wait"),
    ("tokio::", "the core does not wait"),
    (
        "collections::HashMap",
        "its order differs from run to run; BTreeMap",
    ),
];

/// Checks all of it.
pub(crate) fn walls() -> Result<()> {
    dependencies()?;
    source(&root().join("meshd/core/src"))?;
    without_an_operating_system()
}

fn dependencies() -> Result<()> {
    let allowed: Vec<&str> = ALLOWED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::trim)
        .collect();
    let tree = output(&mut cargo(
        "tree -p meshd-core --edges normal --prefix none --format {p}",
    ))?;
    let mut foreign: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty() && !allowed.contains(name))
        .collect();
    foreign.sort_unstable();
    foreign.dedup();
    ensure!(
        foreign.is_empty(),
        "meshd-core depends on {}: not in xtask/core-dependencies.txt",
        foreign.join(", ")
    );
    Ok(())
}

fn source(folder: &Path) -> Result<()> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                found.extend(offences(&text).into_iter().map(|(line, word, why)| {
                    format!("{}:{line}: `{word}`: {why}", path.display())
                }));
            }
        }
    }
    ensure!(found.is_empty(), "in meshd-core:\n{}", found.join("\n"));
    Ok(())
}

/// Line, word and reason of each forbidden word before the test module.
fn offences(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_end() == "#[cfg(test)]" {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        found.extend(
            FORBIDDEN
                .iter()
                .filter(|(word, _)| code.contains(word))
                .map(|(word, why)| (number + 1, *word, *why)),
        );
    }
    found
}

fn without_an_operating_system() -> Result<()> {
    let target = "wasm32-unknown-unknown";
    let listed = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .output();
    let there = listed.is_ok_and(|out| {
        String::from_utf8_lossy(&out.stdout)
            .lines()
            .any(|line| line == target)
    });
    if there {
        return run(&mut cargo(&format!(
            "check --quiet -p meshd-core --target {target}"
        )))
        .context("meshd-core needs an operating system");
    }
    let added = Command::new("rustup")
        .args(["target", "add", target])
        .output()
        .is_ok_and(|out| out.status.success());
    if added {
        return without_an_operating_system();
    }
    eprintln!(
        "walls: NOT CHECKED: that meshd-core builds for {target}, because rustup cannot add that target here"
    );
    Ok(())
}

/// Says what the wall is, for a person who ran into it.
pub(crate) fn explain(error: anyhow::Error) -> Result<()> {
    bail!(
        "{error:#}\nmeshd-core decides and touches nothing; move what acts to meshd/src (docs/adr/0001-core-without-io.md)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_found_but_not_in_a_comment_nor_in_a_test() {
        let text = "// Instant is not for us\nlet now = Instant::now();\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        assert_eq!(offences(text), [(2, "Instant", "time comes in as `Now`")]);
    }
}
