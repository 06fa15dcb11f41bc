//! The guest: qemu, its console, and how it ended.
//!
//! Owns the process from start to end; it does not outlive the run. Refuses to take silence for success: what counts is the
//! status that `init.sh` prints.

use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Memory of the guest, MiB: the image is in it twice while it is unpacked.
const MEMORY: u32 = 2048;
/// What `init.sh` prints before the status.
const ENDED: &str = "meshd-guest-ended-with ";
/// How much of the console is told again when the guest ends in no orderly way.
const LAST: usize = 15;

/// What to boot.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    pub(super) vmlinuz: &'a Path,
    pub(super) initrd: &'a Path,
    /// Hardware acceleration.
    pub(super) kvm: bool,
    /// The kernel's log goes to the console.
    pub(super) verbose: bool,
    /// It is ended after this.
    pub(super) limit: Duration,
}

impl Guest<'_> {
    /// Boots, gives each line of the console to `read`, and returns the status of the job.
    pub(super) fn run(&self, mut read: impl FnMut(&str)) -> Result<i32> {
        let mut child = Ended(
            Command::new("qemu-system-x86_64")
                .args(self.words())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("start qemu-system-x86_64")?,
        );
        let console = child.0.stdout.take().context("qemu has no output")?;
        let mut errors = child.0.stderr.take().context("qemu has no errors")?;
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line);
                if tell.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    return;
                }
            }
        });
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        let end = Instant::now() + self.limit;
        let (mut status, mut last) = (None, VecDeque::new());
        loop {
            match told.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.strip_prefix(ENDED) {
                    Some(code) => status = code.trim().parse().ok(),
                    // After its status it only says that it resets.
                    None if status.is_some() => {}
                    None => {
                        read(&line);
                        last.push_back(line);
                        if last.len() > LAST {
                            last.pop_front();
                        }
                    }
                },
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!(
                    "the guest was ended after {} s; the last that it said was {:?}. Give it more time by --limit, or less to do",
                    self.limit.as_secs(),
                    last.back().map_or("", String::as_str)
                ),
            }
        }
        let ended = child.0.wait()?;
        match status {
            Some(status) => Ok(status),
            None => bail!(
                "the guest ended before its job did (qemu: {ended}). Its last lines:\n{}\n{}",
                Vec::from(last).join("\n"),
                complaints.join().unwrap_or_default().trim()
            ),
        }
    }

    /// The words of qemu's command line.
    fn words(&self) -> Vec<String> {
        let (accelerator, cpu) = if self.kvm {
            ("kvm", "host")
        } else {
            ("tcg", "max")
        };
        let mut append = "console=ttyS0 reboot=t panic=-1 oops=panic random.trust_cpu=on mitigations=off audit=0 no_timer_check tsc=reliable".to_owned();
        if !self.verbose {
            append += " quiet loglevel=1";
        }
        let words = [
            ("-M", format!("q35,accel={accelerator}")),
            ("-cpu", cpu.to_owned()),
            ("-m", MEMORY.to_string()),
            ("-smp", "2".to_owned()),
            ("-display", "none".to_owned()),
            ("-serial", "stdio".to_owned()),
            ("-kernel", self.vmlinuz.display().to_string()),
            ("-initrd", self.initrd.display().to_string()),
            ("-append", append),
        ];
        let plain = ["-nodefaults", "-no-user-config", "-no-reboot"];
        words
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value])
            .chain(plain.map(str::to_owned))
            .collect()
    }
}

/// Ended and waited for, in whatever way we leave.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
