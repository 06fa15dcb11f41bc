//! Docker on a host of the lab: its own daemon, with what it keeps and mounts in a place that goes with the lab.
//!
//! ```text
//!   namespaces of the box:  network of the host, mounts and processes of its own
//!      a shell (process 1)  reaps; with it all containers end
//!      dockerd              ends and starts as a test likes; `--live-restore`, so containers outlive it
//!   outside:                docker -H DIR/docker.sock;  meshd's plugin socket DIR/plugins is /run/docker/plugins inside
//! ```
//!
//! Owns the box. The image `bb` in it is `BusyBox` and nothing else.

use crate::lab::{Lab, find};
use crate::netns;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const DOCKER: &str = "/usr/bin/docker";
const DOCKERD: &str = "/usr/sbin/dockerd";

/// Mounts of the box. `$1`: its folder. Cgroups are the machine's, all else is fresh.
const BOX: &str = r#"set -e
mkdir -p "$1/cgroup" "$1/plugins"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/docker/plugins /run/lock
mount --bind "$1/plugins" /run/docker/plugins
echo ready > "$1/ready"
while :; do sleep 1; done
"#;

/// One daemon of Docker.
#[derive(Debug)]
pub struct Docker {
    netns: String,
    dir: PathBuf,
    outer: Child,
    inner: u32,
    daemon: Mutex<Option<Child>>,
}

/// Whether Debian's Docker is here; if not, says so loudly.
#[must_use]
pub fn is_here() -> bool {
    let missing: Vec<&str> = [DOCKER, DOCKERD, "busybox", "nsenter", "unshare"]
        .into_iter()
        .filter(|tool| !PathBuf::from(tool).is_file() && find(tool).is_none())
        .collect();
    if !missing.is_empty() {
        use std::io::Write as _;
        // Past the capture of the test harness: a skipped test must be seen.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no {}: apt-get install docker.io busybox-static",
            missing.join(", ")
        );
    }
    missing.is_empty()
}

impl Docker {
    /// Starts it on a host; the image `bb` is there.
    ///
    /// # Errors
    /// If the box cannot be made or the daemon does not answer.
    pub fn start(lab: &Lab, host: usize) -> Result<Self> {
        let netns = lab.hosts[host].netns.clone();
        let dir = lab.dir.join(format!("docker-{}", lab.hosts[host].letter));
        std::fs::create_dir_all(&dir)?;
        let mut command = netns::command(&netns, "unshare")?;
        command
            .args(["-m", "-p", "-f", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private", "sh", "-c", BOX, "box"])
            .arg(&dir)
            .stdout(Stdio::null());
        let outer = command.spawn().context("start the box")?;
        let mut docker = Self {
            netns,
            dir,
            outer,
            inner: 0,
            daemon: Mutex::default(),
        };
        let ready = docker.dir.join("ready");
        crate::wait("the box of Docker", Duration::from_secs(10), || {
            Ok(ready.exists())
        })?;
        let outer = docker.outer.id();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        let inner = children.split_whitespace().next();
        docker.inner = inner.context("the box has no process")?.parse()?;
        docker.run()?;
        docker.image()?;
        Ok(docker)
    }

    /// Where meshd is to serve the plugin, for a driver of this name.
    #[must_use]
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.dir.join("plugins").join(format!("{name}.sock"))
    }

    /// Where Docker answers.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// Starts the daemon.
    ///
    /// # Errors
    /// If it does not answer within 20 s; the message has the end of its log.
    pub fn run(&self) -> Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))?;
        let mut command = netns::command(&self.netns, "nsenter")?;
        command
            .args([
                "-t",
                &self.inner.to_string(),
                "-m",
                "-p",
                "-r",
                "-w",
                DOCKERD,
            ])
            .args([
                "--live-restore",
                "--exec-root",
                "/run/docker",
                "-p",
                "/run/docker.pid",
            ])
            .arg("--data-root")
            .arg(self.dir.join("data"))
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("start dockerd")?;
        *self.lock() = Some(child);
        crate::wait("dockerd answers", Duration::from_secs(20), || {
            Ok(self.tell(&["info"])?.0)
        })
        .with_context(|| self.log_tail(15))?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `kill -9` of the daemon; containers go on.
    pub fn kill(&self) {
        let Some(mut child) = self.lock().take() else {
            return;
        };
        // The daemon is a child of nsenter, which it outlives.
        let pid = child.id();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        for daemon in children.split_whitespace() {
            let _ = Command::new("kill").args(["-9", daemon]).status();
        }
        let _ = child.kill();
        let _ = child.wait();
        let _ = std::fs::remove_file(self.socket());
        let inside = [
            "-t",
            &self.inner.to_string(),
            "-m",
            "-p",
            "rm",
            "-f",
            "/run/docker.pid",
        ];
        let _ = Command::new("nsenter").args(inside).status();
    }

    /// A command of Docker's; whether it was done, and what it said on both streams.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn tell(&self, args: &[&str]) -> Result<(bool, String)> {
        let out = Command::new(DOCKER)
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()))
            .args(args)
            .env("DOCKER_CONFIG", self.dir.join("config"))
            .stdin(Stdio::null())
            .output()
            .context("start docker")?;
        let text = [out.stdout, out.stderr].concat();
        Ok((
            out.status.success(),
            String::from_utf8_lossy(&text).trim().to_owned(),
        ))
    }

    /// The same, in words, of a command that must be done.
    ///
    /// # Errors
    /// If it is not.
    pub fn ok(&self, words: &str) -> Result<String> {
        let args: Vec<&str> = words.split_whitespace().collect();
        let (done, text) = self.tell(&args)?;
        ensure!(done, "`docker {words}`: {text}\n{}", self.log_tail(8));
        Ok(text)
    }

    /// The same, of a command that must be refused.
    ///
    /// # Errors
    /// If it is not.
    pub fn refused(&self, words: &str) -> Result<String> {
        let args: Vec<&str> = words.split_whitespace().collect();
        let (done, text) = self.tell(&args)?;
        ensure!(!done, "`docker {words}` was to be refused: {text}");
        Ok(text)
    }

    /// True if `to` answers a ping of the container's within `seconds`.
    ///
    /// # Errors
    /// If docker cannot be started.
    pub fn pings(&self, container: &str, to: &str, seconds: u32) -> Result<bool> {
        let seconds = (seconds * crate::slow()).to_string();
        let words = ["exec", container, "ping", "-c", "1", "-w", &seconds, to];
        Ok(self.tell(&words)?.0)
    }

    /// The first IPv4 address of an interface of a container.
    ///
    /// # Errors
    /// If there is none.
    pub fn address(&self, container: &str, interface: &str) -> Result<String> {
        let text = self.ok(&format!(
            "exec {container} ip -4 -o addr show dev {interface}"
        ))?;
        let mut words = text.split_whitespace();
        let found = words
            .find(|word| *word == "inet")
            .and_then(|_| words.next());
        let found = found.and_then(|word| word.split('/').next());
        found
            .map(str::to_owned)
            .with_context(|| format!("{container} has no address at {interface}: {text}"))
    }

    fn image(&self) -> Result<()> {
        let root = self.dir.join("root");
        std::fs::create_dir_all(root.join("bin"))?;
        let busybox = find("busybox").context("no busybox")?;
        std::fs::copy(busybox, root.join("bin/busybox"))?;
        for applet in [
            "sh", "sleep", "ping", "ip", "nslookup", "cat", "httpd", "wget", "echo",
        ] {
            let link = root.join("bin").join(applet);
            if !link.exists() {
                std::os::unix::fs::symlink("busybox", link)?;
            }
        }
        let tar = self.dir.join("bb.tar");
        netns::output(
            Command::new("tar")
                .arg("-C")
                .arg(&root)
                .arg("-cf")
                .arg(&tar)
                .arg("bin"),
        )?;
        self.ok(&format!("import {} bb:latest", tar.display()))?;
        Ok(())
    }

    /// The end of the daemon's log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Process 1 of the box ends with it, and so all that is inside.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        if let Some(mut child) = self.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
