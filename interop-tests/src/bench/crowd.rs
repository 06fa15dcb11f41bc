//! What many sessions cost a node: one that has a crowd of peers, beside one that has a single peer.
//!
//! ```text
//!   mesh 1    a - b, and on the same wire 254 more daemons: each with a session to all others
//!   mesh 2    c - d
//! ```
//!
//! While a stream runs, the crowd is stopped (SIGSTOP): its sessions stay as they are, and its daemons, which would share these
//! cores with the stream and in the world do not, take none of them. Idle time and memory are read while it runs.

use super::load::{Iperf, Traffic, Way};
use super::median;
use super::system::attach_both;
use crate::lab::{Lab, LabSpec};
use crate::netns::ip;
use crate::node::Node;
use crate::report::Table;
use anyhow::{Context, Result};
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// Between two looks at what an idle daemon has used.
const IDLE: Duration = Duration::from_secs(20);

/// The lab for [`run`]: two hosts of the mesh with the crowd, and two of the other.
#[must_use]
pub fn spec() -> LabSpec {
    LabSpec::hosts(4)
}

/// The neighbours that all hosts of this machine may know together: there is one table for all namespaces, and one host of the world
/// would have it for itself. As it was before once this is dropped; a run that is killed leaves them higher. Where they cannot be
/// raised, as in a container, a crowd that is too large shows in sessions that do not come up.
struct Neighbours {
    before: Vec<(String, String)>,
}

impl Neighbours {
    fn of(hosts: usize) -> Self {
        let mut this = Self { before: Vec::new() };
        // Each knows each, and some have just gone.
        let wanted = 2 * hosts * hosts;
        for family in ["ipv4", "ipv6"] {
            for limit in 1..=3 {
                let file = format!("/proc/sys/net/{family}/neigh/default/gc_thresh{limit}");
                let raised = fs::read_to_string(&file).and_then(|was| {
                    if was.trim().parse().is_ok_and(|was: usize| was < wanted) {
                        fs::write(&file, wanted.to_string())?;
                        this.before.push((file.clone(), was.trim().to_owned()));
                    }
                    Ok(())
                });
                if let Err(error) = raised {
                    eprintln!("{file} is not raised to {wanted}: {error}");
                }
            }
        }
        this
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for (file, was) in self.before.iter().rev() {
            if let Err(error) = fs::write(file, was) {
                eprintln!("{file} stays higher than it was, which was {was}: {error}");
            }
        }
    }
}

/// Daemons on the lab's wire, each in a namespace of its own.
pub(super) struct Crowd {
    nodes: Vec<Node>,
    _neighbours: Neighbours,
}

impl Crowd {
    pub(super) fn start(lab: &Lab, count: usize, say: &mut impl FnMut(&str)) -> Result<Self> {
        let mut crowd = Self {
            nodes: Vec::new(),
            _neighbours: Neighbours::of(count + lab.hosts.len()),
        };
        for number in 1..=count {
            let netns = lab.add_container(0, &format!("z{number}"))?;
            let (wire, name) = (&lab.wire, format!("z{number}"));
            ip(&format!(
                "-n {netns} link add und0 type veth peer name {name} netns {wire}"
            ))?;
            ip(&format!("-n {wire} link set dev {name} master br0 up"))?;
            ip(&format!("-n {netns} link set und0 up"))?;
            ip(&format!(
                "-n {netns} addr add 2001:db8::1:{number:x}/64 dev und0 nodad"
            ))?;
            let node = Node::within(&name, &netns, &lab.dir)?;
            node.join(&lab.node(0).invite(&[])?)?;
            node.run()?;
            crowd.nodes.push(node);
            if number % 32 == 0 {
                say(&format!("{number} peers"));
            }
        }
        Ok(crowd)
    }

    pub(super) fn signal(&self, signal: libc::c_int) {
        for pid in self.nodes.iter().filter_map(Node::pid) {
            if let Ok(pid) = i32::try_from(pid) {
                // SAFETY: a plain system call; the process is our child, which nobody else waits for.
                #[allow(unsafe_code)]
                let _ = unsafe { libc::kill(pid, signal) };
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.signal(libc::SIGCONT);
        self.nodes.iter().for_each(Node::kill);
    }
}

fn stream(way: &Way, port: u16, seconds: u32) -> Result<f64> {
    let traffic = Traffic::STREAM;
    let run = Iperf {
        traffic,
        seconds,
        port,
    };
    Ok(run.run(way)?.gbps)
}

/// Percent of a core that a node takes.
fn idle(node: &Node) -> Result<f64> {
    let before = node.cpu_seconds()?;
    sleep(IDLE);
    Ok(100.0 * (node.cpu_seconds()? - before) / IDLE.as_secs_f64())
}

/// What a node takes that has nothing to do.
struct Look {
    /// MiB.
    rss: f64,
    /// Heap and stacks, MiB.
    written: f64,
    /// Percent of a core.
    idle: f64,
}

impl Look {
    fn at(node: &Node) -> Result<Self> {
        Ok(Self {
            rss: node.rss_mib()?,
            written: node.written_mib()?,
            idle: idle(node)?,
        })
    }
}

/// Measures a node with `peers` sessions; `say` is told what is going on.
///
/// # Errors
/// If a daemon fails, they do not find each other, or a measure fails.
pub fn run(
    lab: &Lab,
    peers: usize,
    rounds: usize,
    seconds: u32,
    mut say: impl FnMut(&str),
) -> Result<Table> {
    for (first, second) in [(0, 1), (2, 3)] {
        let (one, other) = (lab.node(first), lab.node(second));
        one.init("crowd")?;
        one.run()?;
        other.join(&one.invite(&[])?)?;
        other.run()?;
        one.ok(&["network", "add", "lan", "--subnet", "10.77.0.0/24"])?;
        crate::wait("the network is known", Duration::from_secs(10), || {
            other.knows_network("lan")
        })?;
    }
    let ways = [
        attach_both(lab, "lan", (0, 1), 0)?,
        attach_both(lab, "lan", (2, 3), 0)?,
    ];
    sleep(Duration::from_secs(6));
    let node = lab.node(0);
    let before = Look::at(node)?;
    let crowd = Crowd::start(lab, peers.saturating_sub(1), &mut say)?;
    let all = |limit| {
        crate::wait("every session is up", Duration::from_secs(limit), || {
            Ok(lab.node(0).peers_up()? >= peers && lab.node(1).peers_up()? >= peers)
        })
    };
    all(300)?;
    // What the sessions needed to come up is given back once the node was idle for a while.
    sleep(2 * IDLE);
    let after = Look::at(node)?;
    say(&format!(
        "{peers} peers: {:.1} MiB, {:.2} % of a core",
        after.rss, after.idle
    ));
    let mut turns: Vec<[f64; 2]> = Vec::new();
    let mut port = 5200;
    for round in 0..rounds {
        all(60)?;
        crowd.signal(libc::SIGSTOP);
        let mut turn = [f64::NAN; 2];
        // There and back again, so that what changes with time hits both alike.
        for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            port += 1;
            turn[at] = stream(&ways[at], port, seconds)?;
        }
        let up = node.peers_up()?;
        crowd.signal(libc::SIGCONT);
        say(&format!(
            "round {}: {:.2} Gbit/s with {up} sessions, {:.2} with one",
            round + 1,
            turn[0],
            turn[1]
        ));
        turns.push(turn);
    }
    let of = |at: usize| median(turns.iter().map(|turn| turn[at]).collect());
    let ratio = median(turns.iter().map(|[many, one]| many / one).collect());
    let mut table = Table::new(&["", "one peer", &format!("{peers} peers"), "ratio or a peer"]);
    let count = f64::from(u32::try_from(peers).context("too many peers")?);
    table.row(&[
        &"TCP 1 stream over QUIC, Gbit/s",
        &format!("{:.2}", of(1)),
        &format!("{:.2}", of(0)),
        &format!("{ratio:.3}"),
    ]);
    table.row(&[
        &"idle, percent of a core",
        &format!("{:.2}", before.idle),
        &format!("{:.2}", after.idle),
        &"–",
    ]);
    for (name, before, after) in [
        ("RSS, MiB", before.rss, after.rss),
        ("of it heap and stacks, MiB", before.written, after.written),
    ] {
        let each = 1024.0 * (after - before) / (count - 1.0).max(1.0);
        table.row(&[
            &name,
            &format!("{before:.1}"),
            &format!("{after:.1}"),
            &format!("{each:.0} KiB"),
        ]);
    }
    Ok(table)
}
