//! The Debian package: what goes into it, made by the program itself, and `cargo deb`.
//!
//! Owns the folder `target/deb` of the repository, which the list of assets in `meshd/Cargo.toml` names.

use crate::lab::find;
use crate::netns::output;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release of `cargo-deb` that is installed where there is none.
const CARGO_DEB: &str = "cargo-deb@3.8.0";

/// The repository.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Cargo's target folder, in which this program is.
#[must_use]
pub fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let found = own
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file());
    found.map_or_else(|| root().join("target"), Path::to_owned)
}

/// `cargo-deb`, where it is: in the search path, or where [`get_cargo_deb`] puts it.
#[must_use]
pub fn cargo_deb() -> Option<PathBuf> {
    let own = target().join("tools/bin/cargo-deb");
    find("cargo-deb").or_else(|| own.is_file().then_some(own))
}

/// Installs `cargo-deb` into the target folder, where there is none.
///
/// # Errors
/// If it does not build.
pub fn get_cargo_deb() -> Result<()> {
    match cargo_deb() {
        Some(_) => Ok(()),
        None => install(CARGO_DEB, "cargo-deb", &[]).map(drop),
    }
}

/// Installs a program of crates.io into the target folder, unless it is there; where it is. It is run once or twice, so it is
/// built in a hurry. `release` is `crate@version`, `words` go to `cargo install`.
///
/// # Errors
/// If it does not build.
pub fn install(release: &str, program: &str, words: &[&str]) -> Result<PathBuf> {
    let tools = target().join("tools");
    let place = tools.join("bin").join(program);
    if place.is_file() {
        return Ok(place);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    println!("{release} into {}", tools.display());
    let status = Command::new(cargo)
        .args(["install", "--quiet", "--locked", "--debug", release])
        .args(words)
        .arg("--root")
        .arg(&tools)
        // Its own folder: that of the workspace may be in use by who calls this.
        .env("CARGO_TARGET_DIR", tools.join("build"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        // It compresses.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .status()
        .context("start cargo")?;
    let _ = std::fs::remove_dir_all(tools.join("build"));
    ensure!(status.success(), "cargo install {release} failed");
    Ok(place)
}

/// A copy of the program without its symbols.
///
/// # Errors
/// If `strip` fails.
pub fn strip(program: &Path, to: &Path) -> Result<()> {
    output(Command::new("strip").arg("-o").arg(to).arg(program))?;
    Ok(())
}

/// What goes into the package beside what stands in the repository, of a program that is built.
///
/// # Errors
/// If a step fails.
fn stage(program: &Path) -> Result<PathBuf> {
    let stage = root().join("target/deb");
    let _ = std::fs::remove_dir_all(&stage);
    std::fs::create_dir_all(stage.join("man"))?;
    let own = stage.join("meshd");
    strip(program, &own)?;
    output(Command::new(&own).arg("man").arg(stage.join("man")))?;
    for (shell, file) in [
        ("bash", "meshd.bash"),
        ("zsh", "_meshd"),
        ("fish", "meshd.fish"),
    ] {
        let script = output(Command::new(&own).args(["completions", shell]))?;
        std::fs::write(stage.join(file), script)?;
    }
    output(
        Command::new(&own)
            .args(["install", "--program", "/usr/bin/meshd", "--unit-dir"])
            .arg(stage.join("units")),
    )?;
    Ok(stage)
}

/// What Debian calls a changelog: which version this is.
fn changes() -> Result<String> {
    let date = output(Command::new("date").arg("-R"))?;
    let (version, date) = (env!("CARGO_PKG_VERSION"), date.trim());
    Ok(format!(
        "meshd ({version}-1) unstable; urgency=medium\n\n  * What changed stands in /usr/share/doc/meshd/NEWS.gz.\n\n -- {MAINTAINER}  {date}\n"
    ))
}

/// As in `meshd/Cargo.toml`.
const MAINTAINER: &str = "The meshd contributors <maintainers@users.noreply.github.com>";

/// Makes the package of a program that is built, in `folder`; `None`: there is no `cargo-deb` here.
///
/// # Errors
/// If a step fails.
pub fn build(program: &Path, folder: &Path) -> Result<Option<PathBuf>> {
    let Some(tool) = cargo_deb() else {
        return Ok(None);
    };
    let stage = stage(program)?;
    std::fs::write(stage.join("changelog"), changes()?)?;
    std::fs::create_dir_all(folder)?;
    let deb = folder.join("meshd.deb");
    output(
        Command::new(tool)
            .args(["--quiet", "--no-build", "--no-strip", "--fast", "-o"])
            .arg(&deb)
            .current_dir(root().join("meshd")),
    )
    .context("cargo deb")?;
    Ok(Some(deb))
}

/// The same package once more, under the next version.
///
/// # Errors
/// If it cannot be taken apart and put together.
pub fn successor(deb: &Path) -> Result<PathBuf> {
    let (parts, next) = (deb.with_extension("parts"), deb.with_extension("next.deb"));
    output(Command::new("dpkg-deb").arg("-R").arg(deb).arg(&parts))?;
    let control = parts.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control)?;
    let own = format!("Version: {}-1\n", env!("CARGO_PKG_VERSION"));
    ensure!(text.contains(&own), "{text}");
    let later = own.replace("-1\n", "-2\n");
    std::fs::write(&control, text.replace(&own, &later))?;
    output(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "-z1", "-b"])
            .args([&parts, &next]),
    )?;
    std::fs::remove_dir_all(parts)?;
    Ok(next)
}
