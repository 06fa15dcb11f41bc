//! `cargo xtask instructions`: how many instructions a frame costs between two sockets, against the figures that are kept.
//!
//! ```text
//!   scene, 1000 times -- valgrind --> instructions \
//!   scene, 3000 times -- valgrind --> instructions -'-> difference / 2000 = one frame --> 5 % more than kept: fails
//! ```
//!
//! Owns the comparison. Time depends on what else the machine does; instructions depend on the compiler and the code alone, so
//! figures are compared under the compiler that they were made with, and under no other. The scenes are
//! `meshd/core/benches/scenes`; `cargo bench -p meshd-core` plays the same by the clock.

use crate::shell::{cargo, output, root, run, target};
use anyhow::{Context, Result, bail, ensure};
use interop_tests::lab::find;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How often a scene is played in the one run and in the other. What comes before the first frame is the same in both.
const TIMES: [u64; 2] = [1000, 3000];
/// In percent of what is kept.
const RISE_MAX: u64 = 5;
/// The C library copies memory by what the processor can do best; here it is to do the same everywhere.
const PLAIN: &str =
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM";

fn file() -> PathBuf {
    root().join("meshd/core/benches/instructions.txt")
}

/// The compiler and its target, as one line.
fn compiler() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let all = output(Command::new(rustc).arg("-vV"))?;
    let of = |name: &str| {
        let line = all.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    Ok(format!(
        "{} {} {}",
        of("release:"),
        of("commit-hash:"),
        of("host:")
    ))
}

/// What is kept: the compiler, and instructions by scene.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kept {
    compiler: String,
    scenes: BTreeMap<String, u64>,
}

impl Kept {
    fn read(text: &str) -> Self {
        let mut kept = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(compiler) = line.strip_prefix("rustc ") {
                kept.compiler = compiler.to_owned();
            } else if let Some((count, scene)) = line.trim().split_once(' ')
                && let Ok(count) = count.parse()
            {
                kept.scenes.insert(scene.to_owned(), count);
            }
        }
        kept
    }

    fn write(compiler: &str, counted: &[(String, u64)]) -> String {
        let rows = counted
            .iter()
            .map(|(scene, count)| format!("{count:>6} {scene}\n"));
        format!(
            "# Instructions of one frame, or of what the scene is of: `cargo xtask instructions --write`.\nrustc {compiler}\n{}",
            rows.collect::<String>()
        )
    }

    /// What is wrong with a figure, if something is.
    fn objection(&self, scene: &str, count: u64) -> Option<String> {
        let Some(&kept) = self.scenes.get(scene) else {
            return Some(format!("{scene}: no figure is kept"));
        };
        (count * 100 > kept * (100 + RISE_MAX)).then(|| {
            format!(
                "{scene}: {count} instructions, and {kept} are kept: more than {RISE_MAX} % above"
            )
        })
    }
}

/// Why nothing can be compared here, if so.
fn obstacle(kept: &Kept, compiler: &str) -> Option<String> {
    if find("valgrind").is_none() {
        return Some("valgrind is not here (Debian: apt-get install valgrind)".to_owned());
    }
    (kept.compiler != compiler).then(|| {
        format!(
            "the figures are of rustc {}, and this is {compiler}",
            kept.compiler
        )
    })
}

/// Counts, and compares with what is kept. Where that cannot be, one line says so.
pub(crate) fn check() -> Result<()> {
    let kept = Kept::read(&std::fs::read_to_string(file()).context("read the kept figures")?);
    if let Some(why) = obstacle(&kept, &compiler()?) {
        println!("SKIPPED: instructions were not counted: {why}");
        return Ok(());
    }
    let mut objections = Vec::new();
    for (scene, count) in count_all()? {
        println!("{count:>6} {scene}");
        objections.extend(kept.objection(&scene, count));
    }
    if !objections.is_empty() {
        bail!(
            "{}\nIf that is what the change is worth: `cargo xtask instructions --write`, and say why in the commit",
            objections.join("\n")
        );
    }
    Ok(())
}

/// Counts, and keeps the figures.
pub(crate) fn write() -> Result<()> {
    ensure!(find("valgrind").is_some(), "valgrind is not here");
    let text = Kept::write(&compiler()?, &count_all()?);
    print!("{text}");
    std::fs::write(file(), text).context("write the figures")
}

fn count_all() -> Result<Vec<(String, u64)>> {
    run(&mut cargo(
        "build --quiet --release -p meshd-core --example instructions",
    ))?;
    let program = target()?.join("release/examples/instructions");
    let scenes = output(&mut Command::new(&program))?;
    let one = |scene: &str| -> Result<(String, u64)> {
        let [few, many] = TIMES.map(|times| instructions(&program, scene, times));
        let frames = TIMES[1] - TIMES[0];
        Ok((scene.to_owned(), many?.saturating_sub(few?) / frames))
    };
    scenes.lines().map(one).collect()
}

/// Of a whole run.
fn instructions(program: &Path, scene: &str, times: u64) -> Result<u64> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([scene, &times.to_string()])
        // The same memory, whatever the caller's environment.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GLIBC_TUNABLES", PLAIN)
        .output()
        .context("start valgrind")?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success(),
        "valgrind failed on {scene:?}:\n{said}"
    );
    // `==123== Collected : 456`
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.with_context(|| format!("valgrind told no figure of {scene:?}:\n{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_more_than_five_percent_above_the_kept_one_is_objected_to_and_so_is_a_new_scene() {
        let text = Kept::write("1.0 abc here", &[("hit, to a peer".to_owned(), 600)]);
        let kept = Kept::read(&text);
        assert_eq!(kept.compiler, "1.0 abc here");
        assert_eq!(kept.objection("hit, to a peer", 630), None);
        assert!(kept.objection("hit, to a peer", 631).is_some());
        assert!(kept.objection("another", 1).is_some());
    }
}
