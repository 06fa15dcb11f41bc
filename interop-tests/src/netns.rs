//! Code and commands inside a named network namespace.
//!
//! Owns `setns`. Only the network namespace changes; files are the caller's.
#![allow(unsafe_code)]

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

fn open(name: &str) -> io::Result<File> {
    File::open(format!("/run/netns/{name}"))
}

fn set(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call; setns changes only the calling thread.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs `body` on a thread of its own inside namespace `name`. Sockets that it makes stay in that namespace, wherever
/// they are used afterwards.
///
/// # Errors
/// If the namespace is missing, or what `body` says.
pub fn within<T: Send>(name: &str, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = open(name).with_context(|| format!("open network namespace {name}"))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            set(&file).context("setns")?;
            body()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A command that will run inside namespace `name`, standard input closed.
///
/// # Errors
/// If the namespace is missing.
pub fn command(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
    let file = open(name).with_context(|| format!("open network namespace {name}"))?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    // SAFETY: between fork and exec only setns is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || set(&file));
    }
    Ok(command)
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// If it cannot start or fails; the message has its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    if !out.status.success() {
        bail!(
            "{command:?}: {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs `program` inside namespace `name` and returns its standard output.
///
/// # Errors
/// If it cannot start or fails; the message has its standard error.
pub fn run(name: &str, program: &str, args: &[&str]) -> Result<String> {
    output(command(name, program)?.args(args))
}

/// Runs `ip` with these words in the caller's namespace.
///
/// # Errors
/// If it fails.
pub fn ip(words: &str) -> Result<String> {
    output(Command::new("ip").args(words.split_whitespace()))
}
