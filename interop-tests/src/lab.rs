//! The lab: hosts, containers and the wire between them as network namespaces.
//!
//! Owns every namespace it makes, the folder with state, sockets and logs, and their end. A guardian process waits on a
//! pipe and removes everything as soon as the lab is dropped or this process is gone, by whatever signal: there is no
//! way to end a lab that leaves debris, except [`Lab::keep`].
#![allow(unsafe_code)]

use crate::guardian::{GUARDIAN, Guardian, bury_the_dead};
use crate::link::{Link, LinkSpec};
use crate::netns::{self, ip};
use crate::node::Node;
use anyhow::{Context, Result, bail, ensure};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// What to build.
#[derive(Clone, Debug)]
pub struct LabSpec {
    /// Hosts, at most 20.
    pub hosts: u8,
    /// Containers on each.
    pub containers: u8,
    /// IPv4 on the wire.
    pub v4: bool,
    /// IPv6 on the wire.
    pub v6: bool,
    /// MTU of the wire, bytes.
    pub mtu: u32,
    /// Every node trusts the wire, so that frames may travel in kernel VXLAN.
    pub trusted: bool,
    /// Hosts two and two, joined by one veth pair each, without a bridge in between.
    pub cabled: bool,
    /// The wire takes packets of its MTU only, and no superframes: hosts segment in software, as before a card that cannot.
    pub packets_only: bool,
    /// Hosts two and two, as if cabled, and far from each other.
    pub link: Option<LinkSpec>,
}

/// What the config files of a trusted lab say; `fast_path` as TOML.
fn trusting(fast_path: bool) -> String {
    format!(
        "[underlay]\ntrusted = [\"192.0.2.0/24\", \"2001:db8::/64\"]\n\n[kernel]\nfast_path = {fast_path}\n"
    )
}

impl LabSpec {
    /// `hosts` hosts with one container each, IPv4 and IPv6 on a wire of 1500 bytes.
    #[must_use]
    pub fn hosts(hosts: u8) -> Self {
        Self {
            hosts,
            containers: 1,
            v4: true,
            v6: true,
            mtu: 1500,
            trusted: false,
            cabled: false,
            packets_only: false,
            link: None,
        }
    }

    /// So many containers on each host.
    #[must_use]
    pub fn containers(self, containers: u8) -> Self {
        Self { containers, ..self }
    }

    /// All trust the wire.
    #[must_use]
    pub fn trusted(self) -> Self {
        Self {
            trusted: true,
            ..self
        }
    }

    /// Hosts 0 and 1, 2 and 3 and so on, each two on a wire of their own.
    #[must_use]
    pub fn cabled(self) -> Self {
        Self {
            cabled: true,
            ..self
        }
    }

    /// Hosts 0 and 1, 2 and 3 and so on, with such a way between each two.
    #[must_use]
    pub fn linked(self, link: LinkSpec) -> Self {
        Self {
            link: Some(link),
            packets_only: true,
            ..self
        }
    }

    /// No IPv4 on the wire.
    #[must_use]
    pub fn v6_only(self) -> Self {
        Self { v4: false, ..self }
    }
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// `a`, `b`, …: its port on the wire's bridge.
    pub letter: char,
    /// Its namespace.
    pub netns: String,
    /// The namespaces of its containers.
    pub containers: Vec<String>,
    /// Its address on the wire.
    pub v4: Ipv4Addr,
    /// Its address on the wire.
    pub v6: Ipv6Addr,
}

/// A running lab. One at a time in a process; the next [`Lab::start`] waits.
#[derive(Debug)]
pub struct Lab {
    /// What was asked for.
    pub spec: LabSpec,
    /// The hosts, in order.
    pub hosts: Vec<Host>,
    /// The daemons, one a host, not started.
    pub nodes: Vec<Node>,
    /// State, sockets and logs.
    pub dir: PathBuf,
    /// The namespace with the bridge.
    pub wire: String,
    prefix: String,
    links: Vec<Link>,
    _slot: Slot,
}

impl Lab {
    /// Builds namespaces, wire and folders; starts no daemon.
    ///
    /// # Errors
    /// If not root, if a tool is missing, or if the kernel refuses; what was made is removed.
    pub fn start(spec: LabSpec) -> Result<Self> {
        ensure!(is_root(), "the lab needs root: it makes network namespaces");
        for tool in ["ip", "nft", "ping"] {
            ensure!(
                find(tool).is_some(),
                "`{tool}` is missing: run `cargo xtask setup`"
            );
        }
        let slot = Slot::take();
        let prefix = format!("ml{}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        bury_the_dead();
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Guardian::begin(&prefix, &dir)?;
        let wire = format!("{prefix}w");
        let mut lab = Self {
            spec,
            hosts: Vec::new(),
            nodes: Vec::new(),
            dir,
            wire,
            prefix,
            links: Vec::new(),
            _slot: slot,
        };
        // From here on dropping `lab` removes everything.
        lab.build()?;
        lab.nodes = lab
            .hosts
            .iter()
            .map(|host| Node::new(host, &lab.dir))
            .collect::<Result<_>>()?;
        if lab.spec.trusted {
            for index in 0..lab.nodes.len() {
                lab.set_fast_path(index, true)?;
            }
        }
        Ok(lab)
    }

    /// Writes the config file of a node that trusts the wire, with or without the kernel's fast path. A running daemon reads
    /// it by itself.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_fast_path(&self, index: usize, on: bool) -> Result<()> {
        std::fs::write(&self.nodes[index].config, trusting(on)).context("write a config file")
    }

    fn build(&mut self) -> Result<()> {
        let (wire, mtu) = (self.wire.clone(), self.spec.mtu);
        add_netns(&wire)?;
        ip(&format!(
            "-n {wire} link add br0 type bridge mcast_snooping 0"
        ))?;
        ip(&format!("-n {wire} link set br0 mtu {mtu} up"))?;
        for index in 0..self.spec.hosts {
            let letter = char::from(b'a' + index);
            let netns = format!("{}{letter}", self.prefix);
            let last = index + 1;
            let host = Host {
                letter,
                containers: (1..=self.spec.containers)
                    .map(|n| format!("{netns}{n}"))
                    .collect(),
                netns,
                v4: Ipv4Addr::new(192, 0, 2, last),
                v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)),
            };
            add_netns(&host.netns)?;
            let ns = &host.netns;
            match self.hosts.last() {
                Some(before) if self.spec.cabled && index % 2 == 1 => {
                    ip(&format!(
                        "-n {ns} link add und0 mtu {mtu} type veth peer name und0 mtu {mtu} netns {}",
                        before.netns
                    ))?;
                    self.start_wire(before)?;
                    self.start_wire(&host)?;
                }
                _ if self.spec.cabled => {}
                _ => {
                    ip(&format!(
                        "-n {ns} link add und0 mtu {mtu} type veth peer name {letter} mtu {mtu} netns {wire}"
                    ))?;
                    let master = if self.spec.link.is_none() {
                        "master br0"
                    } else {
                        ""
                    };
                    ip(&format!("-n {wire} link set dev {letter} {master} up"))?;
                    self.start_wire(&host)?;
                    self.link(&host)?;
                }
            }
            for container in &host.containers {
                add_netns(container)?;
            }
            self.hosts.push(host);
        }
        Ok(())
    }

    /// Joins every second host to the one before, if they are far from each other.
    fn link(&mut self, host: &Host) -> Result<()> {
        if let (Some(spec), Some(before), true) =
            (self.spec.link, self.hosts.last(), self.hosts.len() % 2 == 1)
        {
            let (left, right) = (before.letter.to_string(), host.letter.to_string());
            self.links
                .push(Link::start(&self.wire, &left, &right, spec)?);
        }
        Ok(())
    }

    /// Brings up a host's end of the wire.
    fn start_wire(&self, host: &Host) -> Result<()> {
        let ns = &host.netns;
        if self.spec.packets_only {
            // The receiver may still join what arrives, as a card's driver does.
            let words = "-K und0 tso off gso off gro on tx-udp-segmentation off tx-udp_tnl-segmentation off \
                         tx-udp_tnl-csum-segmentation off";
            let words: Vec<&str> = words.split_whitespace().collect();
            netns::run(ns, "ethtool", &words)?;
        }
        if self.spec.link.is_some() {
            // Who carries bytes is no card: nobody finishes a checksum later.
            netns::run(ns, "ethtool", &["-K", "und0", "tx", "off"])?;
        }
        ip(&format!("-n {ns} link set und0 up"))?;
        if self.spec.v4 {
            ip(&format!("-n {ns} addr add {}/24 dev und0", host.v4))?;
        }
        if self.spec.v6 {
            ip(&format!("-n {ns} addr add {}/64 dev und0 nodad", host.v6))?;
        }
        Ok(())
    }

    /// The daemon of host `index`.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The namespace of container `index` (from 0) on host `host`.
    #[must_use]
    pub fn container(&self, host: usize, index: usize) -> &str {
        &self.hosts[host].containers[index]
    }

    /// An underlay address of host `index`.
    #[must_use]
    pub fn underlay(&self, index: usize) -> IpAddr {
        let host = &self.hosts[index];
        if self.spec.v4 {
            host.v4.into()
        } else {
            host.v6.into()
        }
    }

    /// Another empty namespace for `host`, as a container that comes later.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_container(&self, host: usize, suffix: &str) -> Result<String> {
        let name = format!("{}{suffix}", self.hosts[host].netns);
        add_netns(&name)?;
        Ok(name)
    }

    /// Init on host 0, daemons everywhere, all others joined by invite; returns when everybody sees everybody.
    ///
    /// # Errors
    /// If a daemon fails, or they do not find each other within 15 s.
    pub fn mesh(&self) -> Result<()> {
        self.mesh_of(self.nodes.len())
    }

    /// The same with the first `count` hosts; the others are strangers on the wire.
    ///
    /// # Errors
    /// As [`mesh`](Self::mesh).
    pub fn mesh_of(&self, count: usize) -> Result<()> {
        let first = self.node(0);
        first.init("lab")?;
        first.run()?;
        for node in self.nodes.iter().take(count).skip(1) {
            node.join(&first.invite(&[])?)?;
            node.run()?;
        }
        self.converged(Duration::from_secs(15))
    }

    /// Waits until each running daemon has a live session with all other running ones.
    ///
    /// # Errors
    /// If that does not happen within `limit`.
    pub fn converged(&self, limit: Duration) -> Result<()> {
        let running: Vec<_> = self.nodes.iter().filter(|node| node.is_running()).collect();
        crate::wait("every node sees every other", limit, || {
            for node in &running {
                if node.peers_up()? + 1 < running.len() {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(())
    }

    /// A network on all nodes: defined on the first, waited for on the others.
    ///
    /// # Errors
    /// If it is refused or does not spread within 10 s.
    pub fn network(&self, name: &str, args: &[&str]) -> Result<()> {
        let words: Vec<_> = ["network", "add", name]
            .iter()
            .chain(args)
            .copied()
            .collect();
        self.node(0).ok(&words)?;
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            crate::wait(
                &format!("network {name} known on {}", node.name),
                Duration::from_secs(10),
                || node.knows_network(name),
            )?;
        }
        Ok(())
    }

    /// Prints what a person wants to see after a failure: each daemon's status and the end of its log.
    pub fn post_mortem(&self) {
        let mut err = std::io::stderr().lock();
        for node in &self.nodes {
            let _ = writeln!(
                err,
                "---- node {} ({})\n{}",
                node.name,
                node.netns,
                node.post_mortem()
            );
        }
    }

    /// Leaves everything as it is when this process ends. Returns the commands that remove it.
    #[must_use]
    pub fn keep(self) -> String {
        Guardian::dismiss();
        let script = self.dir.join("down.sh");
        let _ = std::fs::write(
            &script,
            format!("set -- {} {}\n{GUARDIAN}", self.prefix, self.dir.display()),
        );
        let line = format!("sh {}", script.display());
        std::mem::forget(self);
        line
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.kill();
        }
        Guardian::finish();
    }
}

/// A test: builds the lab, runs `body`, and on any failure shows what the daemons said. Without root the test is skipped
/// with one loud line.
///
/// # Panics
/// If the lab cannot be built or `body` fails: that is how a test says so.
pub fn scene(spec: LabSpec, body: impl FnOnce(&Lab) -> Result<()>) {
    if !is_root() {
        // Past the capture of the test harness: a skipped test must be seen.
        let name = std::thread::current().name().unwrap_or("test").to_owned();
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {name}: the netns lab needs root"
        );
        return;
    }
    let lab = match Lab::start(spec) {
        Ok(lab) => lab,
        Err(error) => panic!("building the lab: {error:#}"),
    };
    match catch_unwind(AssertUnwindSafe(|| body(&lab))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            lab.post_mortem();
            drop(lab);
            panic!("{error:#}");
        }
        Err(panic) => {
            lab.post_mortem();
            drop(lab);
            std::panic::resume_unwind(panic);
        }
    }
}

/// True for user 0.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// First executable `tool` in the search path or the system folders.
#[must_use]
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(tool))
        .find(|file| file.is_file())
}

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Takes this daemon for all labs of this process.
pub fn use_binary(path: PathBuf) {
    let _ = BINARY.set(path);
}

/// The daemon under test: what [`use_binary`] was told, else `MESHD_BIN`, else `meshd` beside the running test or xtask.
///
/// # Errors
/// If it was not built.
pub fn meshd_binary() -> Result<PathBuf> {
    if let Some(path) = BINARY
        .get()
        .cloned()
        .or_else(|| std::env::var_os("MESHD_BIN").map(Into::into))
    {
        return Ok(path);
    }
    let exe = std::env::current_exe().context("own path")?;
    let found = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("meshd"))
        .find(|file| file.is_file());
    found.context(
        "no meshd binary beside this program: run `cargo build -p meshd`, or set MESHD_BIN",
    )
}

fn add_netns(name: &str) -> Result<()> {
    ip(&format!("netns add {name}"))?;
    ip(&format!("-n {name} link set lo up"))?;
    Ok(())
}

/// One lab at a time: two cores carry one set of daemons honestly, not two.
#[derive(Debug)]
struct Slot;

static TAKEN: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

impl Slot {
    fn take() -> Self {
        let mut taken = TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            taken = TAKEN.1.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = true;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
        TAKEN.1.notify_one();
    }
}

/// A policy component, built by `cargo xtask plugins`; `MESHD_PLUGINS` names the folder, else it is beside the daemon.
///
/// # Errors
/// If it is not there.
pub fn plugin(name: &str) -> Result<PathBuf> {
    let beside = || -> Result<PathBuf> {
        let binary = meshd_binary()?;
        let target = binary.ancestors().nth(2);
        Ok(target
            .context("the daemon is not in a target folder")?
            .join("plugins"))
    };
    let folder =
        std::env::var_os("MESHD_PLUGINS").map_or_else(beside, |folder| Ok(folder.into()))?;
    let file = folder.join(format!("{name}.wasm"));
    ensure!(
        file.is_file(),
        "{} is missing: run `cargo xtask plugins`",
        file.display()
    );
    Ok(file)
}

/// Fails with what `netns` has left of ours, if anything: devices and filters made by a daemon. A network's own go a moment after
/// its last port did.
///
/// # Errors
/// If something is left, or `ip` fails.
pub fn nothing_left(netns: &str) -> Result<()> {
    let gone = crate::wait("nothing is left", GONE_WITHIN, || {
        Ok(ours_in(netns)?.is_empty())
    });
    if gone.is_err() {
        bail!("left in {netns}: {:?}", ours_in(netns)?);
    }
    Ok(())
}

/// From the end of a network's last port to that of its devices.
const GONE_WITHIN: Duration = Duration::from_secs(3);

fn ours_in(netns: &str) -> Result<Vec<String>> {
    let links = netns::run(netns, "ip", &["-o", "link", "show"])?;
    // `7: mv3@if2: <…> … alias meshd:…`
    let is_ours = |line: &&str| {
        let name = line.split(": ").nth(1).unwrap_or_default();
        name.starts_with("mv")
            || name.starts_with("ml")
            || name.starts_with("mt")
            || line.contains("alias meshd:")
    };
    Ok(links.lines().filter(is_ours).map(str::to_owned).collect())
}
