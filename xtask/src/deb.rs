//! `cargo xtask deb`: the Debian package, of the release build; and what its test needs.

use crate::shell::{cargo, root, run};
use anyhow::{Context, Result};
use interop_tests::lab::{find, is_root};
use interop_tests::{debian, package};
use std::path::PathBuf;
use std::process::Command;

/// Builds it; where it is.
pub(crate) fn deb() -> Result<PathBuf> {
    run(&mut cargo("build --release -p meshd"))?;
    package::get_cargo_deb()?;
    let program = package::target().join("release/meshd");
    let made = package::build(&program, &root().join("target/debian"))?;
    let deb = made.context("cargo-deb was installed, and is not to be found")?;
    match find("lintian") {
        // Debian's own judge of packages; what it only warns of is shown.
        Some(lintian) => run(Command::new(lintian).args(["--fail-on", "error"]).arg(&deb))?,
        None => println!("lintian is not asked: apt-get install lintian"),
    }
    Ok(deb)
}

/// What the package's test in the lab needs: `cargo-deb`, and a clean Debian to install it in.
pub(crate) fn for_tests() -> Result<()> {
    if !is_root() || find("dpkg").is_none() {
        return Ok(());
    }
    // One waits for the network most of the time, the other for the compiler.
    std::thread::scope(|scope| {
        let root = scope.spawn(debian::make);
        let tool = package::get_cargo_deb();
        let root = root.join().unwrap_or_else(|_| anyhow::bail!("a panic"));
        tool.and(root)
    })
}
