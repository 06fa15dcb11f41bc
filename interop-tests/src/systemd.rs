//! systemd as process 1 of a box: namespaces of its own, and a root that shows the machine's and keeps nothing.
//!
//! Owns the box and its cgroup. No unit of the machine's is started in it, no device of the machine's is there but
//! `/dev/net/tun` and the likes of `/dev/null`.

#![allow(unsafe_code)] // The box ends with this process, however it ends.

use crate::lab::{find, is_root};
use anyhow::{Context, Result, ensure};
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// A running systemd.
#[derive(Debug)]
pub struct Systemd {
    dir: PathBuf,
    cgroup: PathBuf,
    outer: Child,
    inner: u32,
}

/// Whether there can be one here; if not, says so loudly.
#[must_use]
pub fn is_here() -> bool {
    let why = if !is_root() {
        "needs root"
    } else if !Path::new(SYSTEMD).is_file() {
        "no systemd: apt-get install systemd"
    } else if find("nsenter").is_none() {
        "no nsenter: apt-get install util-linux"
    } else {
        return true;
    };
    // Past the capture of the test harness: a skipped test must be seen.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    false
}

impl Systemd {
    /// Starts it on the machine's root; `program` is there as `/usr/bin/meshd`.
    ///
    /// # Errors
    /// If the box cannot be made, or systemd does not come up within 20 s.
    pub fn start(program: &Path) -> Result<Self> {
        Self::start_on(Path::new("/"), program)
    }

    /// Starts it on a root of its own, as that is.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub fn start_in(root: &Path) -> Result<Self> {
        Self::start_on(root, Path::new(""))
    }

    fn start_on(root: &Path, program: &Path) -> Result<Self> {
        let own = format!("meshd-box{}", std::process::id());
        let dir = std::env::temp_dir().join(&own);
        std::fs::create_dir_all(&dir)?;
        let script = dir.join("box.sh");
        std::fs::write(&script, include_str!("box.sh"))?;
        let hierarchy = Path::new("/sys/fs/cgroup/systemd");
        let base = if hierarchy.is_dir() {
            hierarchy
        } else {
            Path::new("/sys/fs/cgroup")
        };
        let cgroup = base.join(&own);
        std::fs::create_dir_all(&cgroup)?;
        let log = std::fs::File::create(dir.join("log"))?;
        let mut command = Command::new("sh");
        // Its own cgroup first, so that it is the root of what systemd sees.
        command
            .args([
                "-c",
                "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"",
                "sh",
            ])
            .arg(&cgroup)
            .args([
                "unshare",
                "-C",
                "-m",
                "-p",
                "-f",
                "-n",
                "-i",
                "-u",
                "--kill-child",
            ])
            .args(["--propagation", "private", "sh"])
            .arg(&script)
            .arg(&dir)
            .arg(program)
            .arg(root)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let outer = command.spawn().context("start the box")?;
        let mut systemd = Self {
            dir,
            cgroup,
            outer,
            inner: 0,
        };
        crate::wait("systemd is up", Duration::from_secs(20), || {
            let outer = systemd.outer.id();
            let path = format!("/proc/{outer}/task/{outer}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            let inner = children.split_whitespace().next();
            systemd.inner = inner.and_then(|pid| pid.parse().ok()).unwrap_or(0);
            if systemd.inner == 0 {
                return Ok(false);
            }
            let (_, said) = systemd.tell("systemctl is-system-running")?;
            Ok(matches!(said.as_str(), "running" | "degraded"))
        })
        .with_context(|| systemd.log())?;
        Ok(systemd)
    }

    /// A shell command inside, not started.
    #[must_use]
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "-t",
                &self.inner.to_string(),
                "-a",
                "-r",
                "-w",
                "sh",
                "-c",
                script,
            ])
            .stdin(Stdio::null());
        command
    }

    /// A shell command inside: whether it was done, and what it said.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn tell(&self, script: &str) -> Result<(bool, String)> {
        let out = self.command(script).output().context("nsenter")?;
        let text = [out.stdout, out.stderr].concat();
        Ok((
            out.status.success(),
            String::from_utf8_lossy(&text).trim().to_owned(),
        ))
    }

    /// The same, of one that must be done.
    ///
    /// # Errors
    /// If it is not.
    pub fn ok(&self, script: &str) -> Result<String> {
        let (done, text) = self.tell(script)?;
        ensure!(done, "`{script}`: {text}");
        Ok(text)
    }

    /// Copies a file of the machine's into the box.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let mut command = self.command(&format!("cat > {to}"));
        let status = command.stdin(std::fs::File::open(from)?).status()?;
        ensure!(status.success(), "copy {} to {to}", from.display());
        Ok(())
    }

    /// What systemd said.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Process 1 ends with it, and so all that is inside.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
        // Those that ended leave their cgroups a moment later.
        let gone = |path: &Path| !path.exists() || std::fs::remove_dir(path).is_ok();
        let _ = crate::wait("the cgroups go", Duration::from_secs(3), || {
            let list = Command::new("find")
                .arg(&self.cgroup)
                .args(["-depth", "-type", "d"])
                .output()?;
            let text = String::from_utf8_lossy(&list.stdout).into_owned();
            for path in text.lines() {
                let _ = gone(Path::new(path));
            }
            Ok(gone(&self.cgroup))
        });
    }
}
