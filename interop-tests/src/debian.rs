//! A clean Debian: a root of the machine's own release with nothing in it but apt, systemd and what the tests call.
//!
//! Made by mmdebstrap once, and kept in the target folder; whose folder `debian-*` is removed gets a newer one. Nothing is
//! written to it: boxes lay what they change over it.

use crate::lab::{find, is_root};
use crate::netns::output;
use crate::package::target;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;

/// What is in it beside apt and what Debian calls essential.
const PACKAGES: &str = "systemd,iproute2,iputils-ping";

/// The release's name, `bookworm`; `None`: this is no Debian, nor of its kin.
fn suite() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let mut lines = text.lines();
    let name = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let plain = |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase());
    find("dpkg")?;
    Some(name).filter(plain).map(str::to_owned)
}

/// Where it is, or is to be.
fn place() -> Option<PathBuf> {
    Some(target().join(format!("debian-{}", suite()?)))
}

/// The root, if it was made.
#[must_use]
pub fn root() -> Option<PathBuf> {
    place().filter(|place| place.is_dir())
}

/// Makes the root, where it is missing and can be had.
///
/// # Errors
/// If the archive cannot be reached.
pub fn make() -> Result<()> {
    let Some(place) = place().filter(|place| is_root() && !place.is_dir()) else {
        return Ok(());
    };
    ensure!(
        find("mmdebstrap").is_some(),
        "no mmdebstrap: apt-get install mmdebstrap"
    );
    let suite = suite().context("the release's name")?;
    println!("a clean Debian in {}", place.display());
    let fresh = place.with_extension("new");
    let _ = std::fs::remove_dir_all(&fresh);
    output(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--format=directory"])
            .arg(format!("--include={PACKAGES}"))
            // Only what is run; what packages say of themselves is not read here.
            .args([
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                "--aptopt=APT::Install-Recommends \"false\"",
            ])
            .arg(suite)
            .arg(&fresh),
    )
    .context("mmdebstrap")?;
    std::fs::rename(&fresh, &place)?;
    Ok(())
}
