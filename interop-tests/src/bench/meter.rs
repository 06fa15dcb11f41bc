//! What a load costs: processor time of the machine and of daemons, and the daemons' calls into the kernel.

use crate::lab::find;
use crate::process::{busy_seconds, cores, cpu_seconds};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Processor time since it was started.
#[derive(Debug)]
pub struct Meter<'a> {
    pids: &'a [u32],
    machine: f64,
    daemons: f64,
}

/// Processor seconds.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Of all cores, whatever ran there.
    pub machine: f64,
    /// Of the daemons.
    pub daemons: f64,
}

impl<'a> Meter<'a> {
    /// Of these daemons, from now on.
    ///
    /// # Errors
    /// If one of them does not run.
    pub fn start(pids: &'a [u32]) -> Result<Self> {
        Ok(Self {
            pids,
            machine: busy_seconds()?,
            daemons: spent(pids)?,
        })
    }

    /// Since the start.
    ///
    /// # Errors
    /// If a daemon has ended meanwhile.
    pub fn read(&self) -> Result<Cost> {
        Ok(Cost {
            machine: busy_seconds()? - self.machine,
            daemons: spent(self.pids)? - self.daemons,
        })
    }
}

fn spent(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| cpu_seconds(*pid)).sum()
}

/// Share of the machine that is busy while the lab is not: others are at work, and the next figure is not to be trusted.
///
/// # Errors
/// If the kernel does not tell.
pub fn others_share() -> Result<f64> {
    let (before, start) = (busy_seconds()?, Instant::now());
    std::thread::sleep(Duration::from_millis(200));
    #[allow(clippy::cast_precision_loss)]
    let cores = cores() as f64;
    Ok((busy_seconds()? - before) / start.elapsed().as_secs_f64() / cores)
}

/// Counts calls of daemons into the kernel, by perf and the tracepoint of all system calls.
#[derive(Debug)]
pub struct CallCounter {
    perf: Child,
    file: PathBuf,
}

/// What keeps calls from being counted here; nothing if they can be.
#[must_use]
pub fn no_call_counter() -> Option<&'static str> {
    if find("perf").is_none() {
        return Some("system calls are not counted: perf is missing (Debian: linux-perf)");
    }
    let paths = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let there = paths
        .iter()
        .any(|path| Path::new(path).join("events/raw_syscalls").exists());
    (!there).then_some("system calls are not counted: the kernel has no tracepoint raw_syscalls, or tracefs is not mounted")
}

impl CallCounter {
    /// From now on; `folder` takes perf's file for that time.
    ///
    /// # Errors
    /// If perf cannot start.
    pub fn start(pids: &[u32], folder: &Path) -> Result<Self> {
        let file = folder.join("calls");
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let perf = Command::new("perf")
            .args(["stat", "-x", ";", "-e", "raw_syscalls:sys_enter", "-p"])
            .arg(pids.join(","))
            .arg("-o")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start perf")?;
        // It has no way to say that it counts.
        std::thread::sleep(Duration::from_millis(200));
        Ok(Self { perf, file })
    }

    /// Ends it and tells.
    ///
    /// # Errors
    /// If perf could not count.
    pub fn finish(mut self) -> Result<f64> {
        interrupt(&self.perf);
        self.perf.wait().context("wait for perf")?;
        let text = std::fs::read_to_string(&self.file).context("read what perf counted")?;
        let _ = std::fs::remove_file(&self.file);
        calls(&text).with_context(|| format!("perf counted nothing: {}", text.trim()))
    }
}

/// Asks a child to end and to write what it has.
#[allow(unsafe_code)]
pub(crate) fn interrupt(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // SAFETY: kill has no memory effects; the process is a child of ours that was not reaped yet.
        unsafe {
            libc::kill(pid, libc::SIGINT);
        }
    }
}

/// Of `141;;raw_syscalls:sys_enter;…`; what could not be counted has words in the first field.
fn calls(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("sys_enter"))?;
    line.split(';').next()?.trim().parse().ok()
}

/// Samples where these processes are, 499 times a second of processor time, for `seconds`, into `file`, as `perf script`
/// reads it.
///
/// # Errors
/// If perf is missing or refused.
pub fn sample(pids: &[u32], seconds: u32, file: &Path) -> Result<()> {
    ensure!(
        find("perf").is_some(),
        "no profile without perf (Debian: linux-perf)"
    );
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    // The clock, since a guest may have no counters; frames by DWARF, since release builds keep no frame pointers.
    let out = Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", "499"])
        .args(["--call-graph", "dwarf,16384", "-p"])
        .arg(pids.join(","))
        .arg("-o")
        .arg(file)
        .args(["--", "sleep", &seconds.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("start perf")?;
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "perf record: {}", errors.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_could_not_count_is_no_zero() {
        assert_eq!(
            calls("# started\n\n141;;raw_syscalls:sys_enter;1;100.00;;\n"),
            Some(141.0)
        );
        assert_eq!(
            calls("<not counted>;;raw_syscalls:sys_enter;0;100.00\n"),
            None
        );
        assert_eq!(calls(""), None);
    }
}
