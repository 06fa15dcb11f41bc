//! Commands of other programs, and where the workspace and its target folder are.

use anyhow::{Context, Result, bail};
use interop_tests::lab::find;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The folder with the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or(own.clone(), PathBuf::from)
}

/// The target folder that this program was built into.
pub(crate) fn target() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("own path")?;
    let dir = exe.parent().and_then(|profile| profile.parent());
    Ok(dir
        .context("xtask runs outside of a target folder")?
        .to_owned())
}

/// Cargo of the toolchain that built us, in the workspace; all workspaces of the repository share one target folder.
pub(crate) fn cargo(words: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(words.split_whitespace());
    // What cargo told about xtask is not meant for others: build scripts that look at it would run each time anew.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST")
            || text == "CARGO_BIN_NAME"
        {
            command.env_remove(&name);
        }
    }
    if let Ok(target) = target() {
        command.env("CARGO_TARGET_DIR", target);
    }
    command
}

/// The same command, killed with all that it started in its group when it takes longer. Without `timeout` (coreutils): as it is.
pub(crate) fn limited(command: &Command, limit: Duration) -> Command {
    let Some(timeout) = find("timeout") else {
        eprintln!("timeout is not here (coreutils): what hangs will hang");
        return again(command, command.get_program(), &[]);
    };
    let seconds = limit.as_secs().to_string();
    let words = [
        "--kill-after=10".as_ref(),
        seconds.as_ref(),
        command.get_program(),
    ];
    again(command, timeout.as_os_str(), &words)
}

/// Its arguments after these words, its folder and its environment, for another program.
fn again(command: &Command, program: &OsStr, words: &[&OsStr]) -> Command {
    let mut other = Command::new(program);
    other.args(words).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        other.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

/// Runs a command with our terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{} ended with {status}", show(command));
    }
    Ok(())
}

/// Runs a command and returns its standard output; its errors go to our terminal.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    if !out.status.success() {
        bail!("{} ended with {}", show(command), out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a command, shows what it prints, and gives each line to `read`; true if it succeeded.
pub(crate) fn watch(command: &mut Command, mut read: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let out = child.stdout.take().context("no standard output")?;
    for line in BufReader::new(out).split(b'\n') {
        let line = line?;
        let text = String::from_utf8_lossy(&line);
        println!("{text}");
        read(&text);
    }
    Ok(child.wait()?.success())
}

fn show(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    command
        .get_args()
        .fold(name, |line, word| line + " " + &word.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_ended_and_what_does_not_is_as_it_was() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $WORD; [ $WORD = a ] || exec sleep 100"])
            .env("WORD", "a");
        let mut said = Vec::new();
        let limit = Duration::from_secs(1);
        let mut run = |command: &Command| {
            watch(&mut limited(command, limit), |line| {
                said.push(line.to_owned())
            })
        };
        assert!(run(&command).unwrap());
        command.env("WORD", "b");
        assert!(!run(&command).unwrap());
        assert_eq!(said, ["a", "b"]);
    }
}
