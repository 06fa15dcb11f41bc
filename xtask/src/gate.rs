//! `cargo xtask test`: every check there is, in the order of speed, all of them even if one fails; then one line.

use crate::shell::{cargo, limited, root, run, watch};
use crate::{deb, docs, instructions, setup, suites, vm, walls, wasm};
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Of building and running the tests of a workspace: one that hangs is a failure, and the rest of the gate is run.
const LIMIT: Duration = Duration::from_secs(2400);

/// Checks passed and failed so far.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    ignored: u32,
    failures: Vec<String>,
}

impl Tally {
    /// One check that is not a set of tests.
    fn check(&mut self, name: &str, body: impl FnOnce() -> Result<()>) {
        let start = head(name);
        match body() {
            Ok(()) => self.passed += 1,
            Err(error) => {
                eprintln!("{error:#}");
                self.fail(name);
            }
        }
        foot(name, start);
    }

    /// A run of cargo's test harness.
    fn tests(&mut self, name: &str, words: &str, args: &[&str], plugins: Option<&PathBuf>) {
        let start = head(name);
        let before = (self.passed, self.failed);
        let mut command = cargo(words);
        command.arg("--").args(args);
        if let Some(folder) = plugins {
            command.env("MESHD_PLUGINS", folder);
        }
        let ended = watch(&mut limited(&command, LIMIT), |line| self.read(line));
        self.harness(name, ended, before.1);
        foot(name, start);
    }

    /// How a harness ended. Failed tests are counted one by one; one that did not come to its end is one failure.
    fn harness(&mut self, name: &str, ended: Result<bool>, failed_before: u32) {
        match ended {
            Ok(true) => {}
            Ok(false) if self.failed > failed_before => {}
            Ok(false) => self.fail(name),
            Err(error) => {
                eprintln!("{error:#}");
                self.fail(name);
            }
        }
    }

    /// All sets of the lab.
    fn lab(&mut self, plugins: Option<&PathBuf>) {
        let name = "lab";
        let start = head(name);
        let before = self.failed;
        let ended = suites::run(&[], plugins, |line| self.read(line));
        self.harness(name, ended, before);
        foot(name, start);
    }

    /// The tests of the VM, which the lab counted as ignored.
    fn guest(&mut self) {
        let name = "lab in the VM";
        if let Some(why) = vm::obstacle() {
            println!("\nthe VM was left out: {why}");
            return;
        }
        let start = head(name);
        let (before, ignored) = ((self.passed, self.failed), self.ignored);
        let ended = vm::own_tests(|line| {
            println!("{line}");
            self.read(line);
        });
        let ran = (self.passed + self.failed) - (before.0 + before.1);
        self.ignored = ignored.saturating_sub(ran);
        self.harness(name, ended, before.1);
        foot(name, start);
    }

    /// A line of the harness: `test NAME ... FAILED`, or `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
    fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| -> u32 {
                let words: Vec<&str> = result.split([' ', ';']).collect();
                let at = words.iter().position(|word| *word == what);
                at.and_then(|at| words.get(at.wrapping_sub(1))?.parse().ok())
                    .unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    fn fail(&mut self, name: &str) {
        self.failed += 1;
        self.failures.push(name.to_owned());
    }
}

fn head(name: &str) -> Instant {
    println!("\n== {name}");
    Instant::now()
}

fn foot(name: &str, start: Instant) {
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
}

/// All checks. `quick` leaves the lab out.
pub(crate) fn test(quick: bool) -> Result<()> {
    let start = Instant::now();
    let mut tally = Tally::default();
    tally.check("setup", setup::for_tests);
    let mut components = None;
    tally.check("plugins", || {
        components = Some(wasm::plugins()?);
        Ok(())
    });
    tally.check("fmt", fmt_check);
    tally.check("walls", || walls::walls().or_else(walls::explain));
    tally.check("links and contents of the documentation", docs::check);
    tally.check("clippy", || {
        run(&mut cargo(
            "clippy --quiet --workspace --all-targets -- -D warnings",
        ))
    });
    let components = components.as_ref();
    tally.tests(
        "tests",
        "test --workspace --exclude interop-tests --no-fail-fast",
        &[],
        components,
    );
    for folder in GUESTS {
        tally.tests(
            &format!("tests of {folder}, as native code"),
            &format!("test --manifest-path {folder}/Cargo.toml --no-fail-fast"),
            &[],
            None,
        );
    }
    tally.check("instructions of a frame", instructions::check);
    if quick {
        println!("\nthe lab was left out (--quick)");
    } else {
        tally.check("cargo-deb, and a clean Debian", deb::for_tests);
        tally.check("kernel for guests", vm::fetch_kernel);
        tally.lab(components);
        tally.guest();
    }
    for name in &tally.failures {
        println!("failed: {name}");
    }
    if tally.ignored > 0 {
        println!("{} ignored", tally.ignored);
    }
    println!("{:.0} s", start.elapsed().as_secs_f64());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("not all is well");
    }
    Ok(())
}

/// Guests have workspaces of their own: they are built for another machine.
const GUESTS: [&str; 3] = [
    "plugins",
    "examples/hello-plugin",
    "examples/hello-steering",
];

/// Every workspace of the repository.
fn workspaces() -> Vec<PathBuf> {
    let all = ["", "meshd/core/fuzz"].iter().chain(&GUESTS);
    all.map(|folder| root().join(folder).join("Cargo.toml"))
        .filter(|file| file.exists())
        .collect()
}

/// Formats everything.
pub(crate) fn fmt() -> Result<()> {
    workspaces()
        .iter()
        .try_for_each(|file| run(cargo("fmt --all --manifest-path").arg(file)))
}

fn fmt_check() -> Result<()> {
    workspaces()
        .iter()
        .try_for_each(|file| run(cargo("fmt --all --check --manifest-path").arg(file)))
}

/// The tests of the lab alone, `filter` as cargo's.
pub(crate) fn lab(filter: &[String]) -> Result<()> {
    setup::for_tests()?;
    deb::for_tests()?;
    let components = wasm::plugins()?;
    vm::fetch_kernel()?;
    if !suites::run(filter, Some(&components), |_| {})? {
        bail!("not all is well");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_harness_add_up() {
        let mut tally = Tally::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 7 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            tally.read(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (10, 1, 2));
        assert_eq!(tally.failures, ["a::c"]);
    }
}
