//! Programs that are run for a build: cargo, rustc, rustup, apt-get.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Without what cargo and rustup tell their children: these builds are another toolchain's and another target's.
pub(crate) fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        let from_cargo = name_text.starts_with("CARGO")
            && !matches!(
                &*name_text,
                "CARGO_HOME" | "CARGO_HTTP_PROXY" | "CARGO_NET_OFFLINE"
            );
        if from_cargo
            || name_text.starts_with("RUSTC")
            || name_text == "RUSTFLAGS"
            || name_text == "RUSTDOCFLAGS"
        {
            command.env_remove(&name);
        }
    }
    command
}

pub(crate) fn quiet(program: &str) -> Command {
    let mut command = clean(program);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Where `program` is in PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", name(command)))?;
    ensure!(status.success(), "`{}` ended with {status}", name(command));
    Ok(())
}

pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot run {}", name(command)))?;
    ensure!(
        output.status.success(),
        "`{}` ended with {}: {}",
        name(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The program and its arguments, without the environment.
fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}
