//! What a process and the machine have used, as the kernel tells it (proc(5)): processor time and memory.
#![allow(unsafe_code)] // The affinity of a thread has no safe wrapper without a dependency.

use anyhow::{Context, Result, ensure};
use std::fs;

/// Seconds in a tick of the kernel's clock.
fn tick() -> f64 {
    // SAFETY: sysconf has no preconditions.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    #[allow(clippy::cast_precision_loss)]
    let hertz = hertz as f64;
    1.0 / hertz
}

/// Processor seconds of a process so far, user and kernel, all threads.
///
/// # Errors
/// If it does not run.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} does not run"))?;
    // The name may have blanks and brackets in it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = times.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks * tick())
}

/// Seconds for which a core of this machine was not idle since its start, summed over all cores. What other guests took of
/// them (`steal`) does not count.
///
/// # Errors
/// If the kernel does not tell.
pub fn busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    busy_ticks(&stat)
        .map(|ticks| ticks * tick())
        .context("/proc/stat has no line for all cores")
}

/// Of `cpu  user nice system idle iowait irq softirq steal guest guest_nice`.
fn busy_ticks(stat: &str) -> Option<f64> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let field = |at: usize| line.split_whitespace().nth(at)?.parse::<f64>().ok();
    [1, 2, 3, 6, 7].into_iter().map(field).sum()
}

/// Resident memory of a process, MiB.
///
/// # Errors
/// If it does not run.
pub fn rss_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "VmRSS:")
}

/// The most that was ever resident of a process, MiB.
///
/// # Errors
/// If it does not run.
pub fn peak_rss_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "VmHWM:")
}

/// Resident memory of a process that is of no file, MiB: what it has written, and not its program.
///
/// # Errors
/// If it does not run.
pub fn written_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "RssAnon:")
}

fn status_mib(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} does not run"))?;
    let line = status.lines().find(|line| line.starts_with(field));
    let kib: Option<f64> = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    Ok(kib.with_context(|| format!("process {pid} has no {field}"))? / 1024.0)
}

/// Cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps this thread, and all that it starts, on one core.
///
/// # Errors
/// If there is no such core.
pub fn stay_on_core(core: usize) -> Result<()> {
    // SAFETY: a set of zeros is an empty one, and the kernel reads as much of it as it is long.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    ensure!(
        done == 0,
        "stay on core {core}: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_cores_are_not_busy() {
        let stat = "cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(busy_ticks(stat), Some(31.0));
        assert_eq!(busy_ticks("intr 1\n"), None);
    }

    #[test]
    fn this_process_is_in_memory_and_has_had_more_before() {
        let pid = std::process::id();
        let (now, most) = (rss_mib(pid).unwrap(), peak_rss_mib(pid).unwrap());
        assert!(now > 0.1 && most > 0.1, "{now} {most}");
        let written = written_mib(pid).unwrap();
        assert!(written > 0.0 && written < most, "{written} of {most}");
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(cpu_seconds(u32::MAX).is_err());
    }
}
