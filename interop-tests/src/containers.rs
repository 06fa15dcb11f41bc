//! Real containers: a containerd of its own for each host, run by `ctr`, with a root file system of BusyBox.
//!
//! Owns the daemon, its folders and every container, and their end. `ctr` looks for CNI in fixed folders, so each host sees its
//! own there, in a mount namespace.

use crate::lab::{Lab, find};
use crate::netns;
use crate::node::Node;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Programs and the Debian packages that have them.
pub const NEEDS: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
];

/// The programs that are missing; empty: containers can be run.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    NEEDS
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(program, _)| *program)
        .collect()
}

/// One host's containerd.
#[derive(Debug)]
pub struct Containerd {
    host: String,
    dir: PathBuf,
    bin: PathBuf,
    child: Child,
    containers: std::sync::Mutex<Vec<String>>,
}

/// The folders that `ctr` looks into.
const FOLDERS: [&str; 2] = ["/etc/cni/net.d", "/opt/cni/bin"];

impl Containerd {
    /// Starts it in the host's namespace; `conflist` is the one network of its containers, whose plugins are in `bin`.
    ///
    /// # Errors
    /// If it does not answer within 10 s.
    pub fn start(lab: &Lab, node: &Node, bin: &Path, conflist: &str) -> Result<Self> {
        let dir = lab.dir.join(format!("containerd-{}", node.name));
        for folder in ["root", "state", "net.d"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        for folder in FOLDERS {
            // Where something can be mounted; empty.
            fs::create_dir_all(folder).with_context(|| format!("create {folder}"))?;
        }
        fs::write(dir.join("net.d/10-lab.conflist"), conflist)?;
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = \"{0}/sock\"\n",
            dir.display()
        );
        fs::write(dir.join("config.toml"), config)?;
        let log = fs::File::create(dir.join("log"))?;
        let child = netns::command(&node.netns, "containerd")?
            .arg("-c")
            .arg(dir.join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        let made = Self {
            host: node.netns.clone(),
            dir,
            bin: bin.to_owned(),
            child,
            containers: std::sync::Mutex::default(),
        };
        crate::wait("containerd answers", Duration::from_secs(10), || {
            Ok(made.command(&["version"])?.output()?.status.success())
        })?;
        Ok(made)
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let [net_d, bin] = FOLDERS;
        let script = format!(
            "mount --bind {0}/net.d {net_d} && mount --bind {1} {bin} && exec ctr -a {0}/sock \"$@\"",
            self.dir.display(),
            self.bin.display()
        );
        let mut command = netns::command(&self.host, "unshare")?;
        command
            .args(["-m", "--propagation", "private", "sh", "-c", &script, "ctr"])
            .args(words);
        Ok(command)
    }

    /// Runs `ctr` with these words; what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn ctr(&self, words: &[&str]) -> Result<String> {
        netns::output(&mut self.command(words)?)
    }

    /// A container that does nothing, attached by CNI.
    ///
    /// # Errors
    /// If it does not start; the message has what `ctr` said.
    pub fn run(&self, id: &str) -> Result<()> {
        let root = self.dir.join(format!("rootfs-{id}"));
        busybox(&root)?;
        if let Ok(mut all) = self.containers.lock() {
            all.push(id.to_owned());
        }
        let root = root.display().to_string();
        self.ctr(&[
            "run",
            "-d",
            "--cni",
            "--rootfs",
            &root,
            id,
            "/bin/sleep",
            "1000",
        ])
        .map(drop)
    }

    /// A command in a container; its standard output.
    ///
    /// # Errors
    /// If it fails.
    pub fn exec(&self, id: &str, words: &[&str]) -> Result<String> {
        let all: Vec<&str> = ["task", "exec", "--exec-id", "x", id]
            .iter()
            .chain(words)
            .copied()
            .collect();
        self.ctr(&all)
    }

    /// A container that runs one command and is then removed, as is its interface; its standard output.
    ///
    /// # Errors
    /// If it fails.
    pub fn once(&self, id: &str, words: &[&str]) -> Result<String> {
        let root = self.dir.join(format!("rootfs-{id}"));
        busybox(&root)?;
        let root = root.display().to_string();
        let all = ["run", "--rm", "--cni", "--rootfs", &root, id];
        let all: Vec<&str> = all.iter().chain(words).copied().collect();
        self.ctr(&all)
    }

    /// Kills a container and forgets it. `ctr` sends no DEL for it.
    pub fn kill(&self, id: &str) {
        let _ = self.ctr(&["task", "rm", "-f", id]);
        let _ = self.ctr(&["container", "rm", id]);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let all = self
            .containers
            .lock()
            .map(|all| all.clone())
            .unwrap_or_default();
        for id in all {
            self.kill(&id);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A root file system with BusyBox and the names that are used of it.
///
/// # Errors
/// If there is none that runs alone.
pub fn busybox(root: &Path) -> Result<()> {
    let program = find("busybox").context("busybox is missing")?;
    for folder in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let copy = root.join("bin/busybox");
    if !copy.exists() {
        fs::copy(&program, &copy)?;
        let linked = Command::new("chroot")
            .arg(root)
            .args(["/bin/busybox", "true"])
            .status()?;
        ensure!(
            linked.success(),
            "{} does not run alone: install busybox-static",
            program.display()
        );
        for name in ["sh", "sleep", "ping", "nslookup", "ip", "cat"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
        }
    }
    Ok(())
}
