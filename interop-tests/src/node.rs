//! One daemon in its host's namespace, and its command line.
//!
//! Owns the process: start, `kill -9`, stop, and what it said. Commands run in the host's namespace, with the daemon's own
//! state folder and socket.
#![allow(unsafe_code)]

use crate::lab::{Host, meshd_binary};
use crate::{netns, process};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One daemon, running or not.
#[derive(Debug)]
pub struct Node {
    /// The host's letter; also the node's name in the mesh.
    pub name: String,
    /// The host's namespace.
    pub netns: String,
    /// The folder with its state.
    pub state: PathBuf,
    /// Its API.
    pub socket: PathBuf,
    /// What it logged, over all its runs.
    pub log: PathBuf,
    /// Its config file; missing unless a test writes it.
    pub config: PathBuf,
    child: Mutex<Option<Child>>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Told {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// One port, as `ports --json` has it.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Its number.
    pub id: u64,
    /// Its MAC.
    pub mac: String,
    /// Its addresses, without prefix length.
    pub ips: Vec<std::net::IpAddr>,
}

impl Attached {
    /// The first IPv4 address.
    ///
    /// # Errors
    /// If it has none.
    pub fn v4(&self) -> Result<std::net::IpAddr> {
        self.ips
            .iter()
            .copied()
            .find(std::net::IpAddr::is_ipv4)
            .context("the port has no IPv4 address")
    }

    /// The first IPv6 address.
    ///
    /// # Errors
    /// If it has none.
    pub fn v6(&self) -> Result<std::net::IpAddr> {
        self.ips
            .iter()
            .copied()
            .find(std::net::IpAddr::is_ipv6)
            .context("the port has no IPv6 address")
    }

    fn of(port: &Value) -> Result<Self> {
        let ips = port["ips"].as_array().context("a port without `ips`")?;
        Ok(Self {
            id: port["id"].as_u64().context("a port without `id`")?,
            mac: port["mac"]
                .as_str()
                .context("a port without `mac`")?
                .to_owned(),
            ips: ips
                .iter()
                .filter_map(|ip| ip.as_str()?.split('/').next()?.parse().ok())
                .collect(),
        })
    }
}

/// The number by which plugins know a node: the first eight bytes of its id.
///
/// # Errors
/// If that is no id of a node.
pub fn handle(id: &str) -> Result<u64> {
    let bits = id.bytes().take(13).try_fold(0u128, |all, byte| {
        let digit = b"abcdefghijklmnopqrstuvwxyz234567"
            .iter()
            .position(|&c| c == byte);
        Some(all << 5 | u128::try_from(digit?).ok()?)
    });
    Ok(u64::try_from(bits.context("no node id")? >> 1)?)
}

impl Node {
    /// The daemon of `host`, with its folder under `dir`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(host: &Host, dir: &Path) -> Result<Self> {
        Self::within(&host.letter.to_string(), &host.netns, dir)
    }

    /// A daemon of this name in a namespace, with its folder under `dir`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn within(name: &str, netns: &str, dir: &Path) -> Result<Self> {
        let own = dir.join(name);
        fs::create_dir_all(&own).with_context(|| format!("create {}", own.display()))?;
        Ok(Self {
            name: name.to_owned(),
            netns: netns.to_owned(),
            state: own.join("state"),
            socket: own.join("meshd.sock"),
            log: own.join("log"),
            config: own.join("meshd.toml"),
            child: Mutex::new(None),
        })
    }

    /// A meshd command in the host's namespace, not started.
    ///
    /// # Errors
    /// If the namespace is missing, or the daemon was not built.
    pub fn command(&self) -> Result<Command> {
        let mut command = netns::command(&self.netns, meshd_binary()?)?;
        command
            .env("MESHD_STATE", &self.state)
            .env("MESHD_SOCKET", &self.socket)
            .env("NO_COLOR", "1");
        if self.config.exists() {
            command.env("MESHD_CONFIG", &self.config);
        }
        Ok(command)
    }

    /// Runs a meshd command, however it ends.
    ///
    /// # Errors
    /// If it cannot start, or runs for more than 30 s.
    pub fn tell<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Told> {
        let mut command = self.command()?;
        command
            .args(args)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let pid = child.id();
        let (done, watch) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if watch.recv_timeout(Duration::from_secs(30))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                kill_pid(pid, libc::SIGKILL);
            }
        });
        let out = child.wait_with_output();
        let _ = done.send(());
        let _ = watchdog.join();
        let out = out.context("wait for meshd")?;
        Ok(Told {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        })
    }

    /// Runs a meshd command that must succeed; its standard output.
    ///
    /// # Errors
    /// If it fails; the message has what it said.
    pub fn ok<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<String> {
        let told = self.tell(args)?;
        let words: Vec<_> = args
            .iter()
            .map(|word| word.as_ref().to_string_lossy().into_owned())
            .collect();
        ensure!(
            told.code == 0,
            "on {}: `meshd {}` ended with {}: {}",
            self.name,
            words.join(" "),
            told.code,
            told.stderr.trim()
        );
        Ok(told.stdout)
    }

    /// Runs a meshd command that must be refused: exit code 1 and a message, which is returned.
    ///
    /// # Errors
    /// If it succeeds, crashes, or says nothing.
    pub fn refused<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<String> {
        let told = self.tell(args)?;
        ensure!(
            told.code == 1,
            "wanted a refusal, got exit code {}: {}{}",
            told.code,
            told.stdout,
            told.stderr
        );
        ensure!(
            told.stderr.contains("error[") && !told.stderr.contains("panicked"),
            "refused without words: {}",
            told.stderr
        );
        Ok(told.stderr)
    }

    /// Runs a meshd command with `--json`.
    ///
    /// # Errors
    /// If it fails or does not print one JSON document.
    pub fn json<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Value> {
        let mut words: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
        words.push(OsStr::new("--json"));
        let text = self.ok(&words)?;
        serde_json::from_str(&text).with_context(|| format!("on {}: no JSON: {text}", self.name))
    }

    /// A command whose JSON is a list.
    ///
    /// # Errors
    /// As [`Node::json`], and if there is no list in it.
    pub fn list(&self, command: &str) -> Result<Vec<Value>> {
        let value = self.json(&command.split(' ').collect::<Vec<_>>())?;
        match value {
            Value::Array(list) => Ok(list),
            other => bail!("`meshd {command} --json` printed no list: {other}"),
        }
    }

    /// Makes a mesh of which this node is the root.
    ///
    /// # Errors
    /// If refused.
    pub fn init(&self, mesh: &str) -> Result<()> {
        self.ok(&["init", "--mesh", mesh, "--name", &self.name])?;
        Ok(())
    }

    /// A token.
    ///
    /// # Errors
    /// If refused.
    pub fn invite(&self, args: &[&str]) -> Result<String> {
        let words: Vec<_> = ["invite"].iter().chain(args).copied().collect();
        let value = self.json(&words)?;
        Ok(value["token"]
            .as_str()
            .with_context(|| format!("no token in {value}"))?
            .to_owned())
    }

    /// Joins by token.
    ///
    /// # Errors
    /// If refused.
    pub fn join(&self, token: &str) -> Result<()> {
        self.ok(&["join", token, "--name", &self.name])?;
        Ok(())
    }

    /// Starts the daemon and waits until its socket answers.
    ///
    /// # Errors
    /// If it ends at once or does not answer within 10 s; the message has the end of its log.
    pub fn run(&self) -> Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .context("open the log")?;
        let mut command = self.command()?;
        command.arg("run").stdout(log.try_clone()?).stderr(log);
        command.env("RUST_BACKTRACE", "1");
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        *self.lock() = Some(child);
        crate::wait(
            &format!("daemon {} answers", self.name),
            Duration::from_secs(10),
            || {
                if let Some(child) = self.lock().as_mut()
                    && let Some(status) = child.try_wait()?
                {
                    bail!(
                        "daemon {} ended: {status}\n{}",
                        self.name,
                        self.log_tail(20)
                    );
                }
                // A refusal is an answer too: a revoked node's daemon gives one.
                let told = self.tell(&["status", "--json"])?;
                Ok(told.code == 0 || !told.stderr.contains("no daemon answers"))
            },
        )?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True between [`Node::run`] and its end.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lock()
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Child::id)
    }

    /// `kill -9`; returns once the process is gone.
    pub fn kill(&self) {
        if let Some(mut child) = self.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, as an init system sends it.
    ///
    /// # Errors
    /// If the daemon does not end within 10 s, or not with success.
    pub fn stop(&self) -> Result<()> {
        let Some(mut child) = self.lock().take() else {
            return Ok(());
        };
        kill_pid(child.id(), libc::SIGTERM);
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(
                    status.success(),
                    "daemon {} ended with {status}\n{}",
                    self.name,
                    self.log_tail(20)
                );
                return Ok(());
            }
            if start.elapsed() > Duration::from_secs(10) {
                let _ = child.kill();
                let _ = child.wait();
                bail!(
                    "daemon {} does not end on SIGTERM\n{}",
                    self.name,
                    self.log_tail(20)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kill -9` and a new start.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn restart(&self) -> Result<()> {
        self.kill();
        self.run()
    }

    /// `meshd attach NETWORK --netns CONTAINER`, with more words; the port.
    ///
    /// # Errors
    /// If refused.
    pub fn attach(&self, network: &str, container: &str, args: &[&str]) -> Result<Attached> {
        let words: Vec<_> = ["attach", network, "--netns", container]
            .iter()
            .chain(args)
            .copied()
            .collect();
        Attached::of(&self.json(&words)?)
    }

    /// The ports.
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn ports(&self) -> Result<Vec<Attached>> {
        self.list("ports")?.iter().map(Attached::of).collect()
    }

    /// Peers with a live session.
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn peers_up(&self) -> Result<usize> {
        Ok(self
            .list("peers")?
            .iter()
            .filter(|peer| peer["state"] == "up")
            .count())
    }

    /// What this node holds of member `name`: `alive`, `suspect`, `dead`, …; empty if it does not know it.
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn member_state(&self, name: &str) -> Result<String> {
        let members = self.list("members")?;
        let found = members.iter().find(|member| member["name"] == name);
        Ok(found
            .and_then(|member| member["state"].as_str())
            .unwrap_or_default()
            .to_owned())
    }

    /// True if this node has heard of the network.
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn knows_network(&self, name: &str) -> Result<bool> {
        Ok(self
            .list("network ls")?
            .iter()
            .any(|network| network["name"] == name))
    }

    /// True if this node knows where `mac` is.
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn knows_mac(&self, mac: &str) -> Result<bool> {
        Ok(self.list("fdb")?.iter().any(|entry| entry["mac"] == mac))
    }

    /// Waits until this node knows where `mac` is.
    ///
    /// # Errors
    /// If that takes more than 5 s.
    pub fn learns(&self, mac: &str) -> Result<()> {
        crate::wait(
            &format!("{mac} known on {}", self.name),
            Duration::from_secs(5),
            || self.knows_mac(mac),
        )?;
        Ok(())
    }

    /// Frames dropped for `reason` since the daemon started.
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let drops = self.list("drops")?;
        Ok(drops
            .iter()
            .filter(|drop| drop["reason"] == reason)
            .filter_map(|drop| drop["count"].as_u64())
            .sum())
    }

    /// Events of a kind, such as `peer-up`.
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn events(&self, kind: &str) -> Result<Vec<Value>> {
        Ok(self
            .list("events")?
            .into_iter()
            .filter(|event| event["event"] == kind)
            .collect())
    }

    /// The row of `meshd paths` of this kind to a peer on a network (QUIC has no network).
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn path(&self, peer: &str, kind: &str) -> Result<Option<Value>> {
        let rows = self.list("paths")?;
        Ok(rows
            .into_iter()
            .find(|row| row["node"]["name"] == peer && row["kind"] == kind))
    }

    /// Waits until the kernel path to `peer` is taken (or is not).
    ///
    /// # Errors
    /// If that does not happen within `limit`; the message has the row.
    pub fn waits_for_kernel_path(&self, peer: &str, up: bool, limit: Duration) -> Result<Duration> {
        let mut last = None;
        crate::wait(
            &format!("the kernel path from {} to {peer} is up: {up}", self.name),
            limit,
            || {
                last = self.path(peer, "kernel-vxlan")?;
                Ok(last.as_ref().is_some_and(|row| row["active"] == up))
            },
        )
        .with_context(|| format!("it was {last:?}"))
    }

    /// Rows of `meshd flows` that live where `lives` says.
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn flows(&self, lives: &str) -> Result<Vec<Value>> {
        Ok(self
            .list("flows")?
            .into_iter()
            .filter(|flow| flow["lives"] == lives)
            .collect())
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// True if a thread of the daemon panicked in any of its runs.
    #[must_use]
    pub fn panicked(&self) -> bool {
        fs::read(&self.log)
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains("panicked at"))
    }

    /// CPU seconds, user and kernel, that the daemon has used.
    ///
    /// # Errors
    /// If it does not run.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid().context("the daemon does not run")?)
    }

    /// Resident memory of the daemon, MiB.
    ///
    /// # Errors
    /// If it does not run.
    pub fn rss_mib(&self) -> Result<f64> {
        process::rss_mib(self.pid().context("the daemon does not run")?)
    }

    /// The part of it that is of no file: heap and stacks, and not the program, which other processes share.
    ///
    /// # Errors
    /// If it does not run.
    pub fn written_mib(&self) -> Result<f64> {
        process::written_mib(self.pid().context("the daemon does not run")?)
    }

    /// Status, peers and the end of the log, for a person who looks for a cause.
    #[must_use]
    pub fn post_mortem(&self) -> String {
        let mut out = String::new();
        if self.is_running() {
            for command in ["status", "peers", "ports", "drops"] {
                match self.tell(&[command]) {
                    Ok(told) => out.push_str(&format!(
                        "$ meshd {command}\n{}{}",
                        told.stdout, told.stderr
                    )),
                    Err(error) => out.push_str(&format!("$ meshd {command}: {error:#}\n")),
                }
            }
        } else {
            out.push_str("(not running)\n");
        }
        out + "log: ...\n" + &self.log_tail(40)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill_pid(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: kill has no memory effects; the process is a child of ours that was not reaped yet.
        unsafe {
            libc::kill(pid, signal);
        }
    }
}
