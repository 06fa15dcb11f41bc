//! What policy costs where nothing is cached, where all of it is forgotten at once, and where a plugin hangs.
//!
//! ```text
//!   new flows     container 1 - daemon - container 2     each frame of another flow: an upcall, a decision, a ruling
//!   reload        container 3 - daemon - QUIC - daemon - far container 3   100,000 flows; the chain changes under them
//!   hang          container 4 - …        a plugin that never answers, asked by 1,000 new flows a second
//!   beside it     container 5 - …        round trips of a network without a plugin, with and without the hang
//! ```

use super::median;
use crate::flows::{Flows, Heard, Load};
use crate::lab::{Lab, LabSpec};
use crate::latency::{Latency, PingPong};
use crate::node::{Attached, Node};
use crate::report::Table;
use crate::traffic::ping_until;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// The lab for [`run`]: two hosts that do not trust the wire.
#[must_use]
pub fn spec() -> LabSpec {
    LabSpec::hosts(2).containers(5)
}

/// Both ends of a load, wired.
struct Ends {
    client: (String, Attached),
    server: (String, Attached),
}

impl Ends {
    fn new(lab: &Lab, network: &str, from: (usize, usize), to: (usize, usize)) -> Result<Self> {
        let end = |(host, container): (usize, usize)| -> Result<(String, Attached)> {
            let netns = lab.container(host, container);
            Ok((netns.into(), lab.node(host).attach(network, netns, &[])?))
        };
        let ends = Self {
            client: end(from)?,
            server: end(to)?,
        };
        ping_until(&ends.client.0, ends.server.1.v4()?, Duration::from_secs(5))?;
        Ok(ends)
    }

    fn load(&self, load: Load) -> Result<Flows> {
        let (client, server) = (&self.client, &self.server);
        Flows::start((&client.0, &client.1), (&server.0, &server.1), load)
    }
}

fn attach(node: &Node, plugins: &Path, name: &str, network: &str, config: &str) -> Result<()> {
    let file = plugins.join(format!("{name}.wasm"));
    node.ok(&["plugin", "install", name, &file.to_string_lossy()])?;
    node.ok(&["plugin", "attach", name, network, "--config", config])?;
    Ok(())
}

/// Questions that a plugin of this node was asked so far.
fn asked(node: &Node, name: &str) -> Result<f64> {
    let stats = node.json(&["plugin", "stats", name])?;
    let rows = stats.as_array().context("stats are no list")?;
    let asked = rows.iter().filter_map(|row| row["asked"].as_f64()).sum();
    Ok(asked)
}

/// Measures; `plugins` is the folder of the components, `say` is told what is going on.
///
/// # Errors
/// If the mesh cannot be made, a plugin is refused, or a measure fails.
pub fn run(
    lab: &Lab,
    plugins: &Path,
    rounds: usize,
    seconds: u32,
    mut say: impl FnMut(&str),
) -> Result<[Table; 3]> {
    lab.mesh()?;
    for (name, subnet) in [
        ("new", "10.78.0.0/24"),
        ("reload", "10.79.0.0/24"),
        ("hang", "10.80.0.0/24"),
        ("beside", "10.81.0.0/24"),
    ] {
        lab.network(name, &["--subnet", subnet])?;
    }
    Ok([
        new_flows(lab, plugins, rounds, seconds, &mut say)?,
        reload(lab, plugins, rounds, &mut say)?,
        hang(lab, plugins, rounds, seconds, &mut say)?,
    ])
}

fn new_flows(
    lab: &Lab,
    plugins: &Path,
    rounds: usize,
    seconds: u32,
    say: &mut impl FnMut(&str),
) -> Result<Table> {
    let node = lab.node(0);
    // Reads the whole port of each frame.
    let config = r#"{"on-port":9,"do":"drop"}"#;
    attach(node, plugins, "fixture", "new", config)?;
    let ends = Ends::new(lab, "new", (0, 0), (0, 1))?;
    let mut turns: Vec<[f64; 3]> = Vec::new();
    for round in 1..=rounds {
        let flows = ends.load(Load {
            flows: 60_000,
            rate: None,
            first_port: 1024,
            one_port_each: true,
        })?;
        let before = (asked(node, "fixture")?, node.cpu_seconds()?);
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs(seconds.into()));
        let after = (asked(node, "fixture")?, node.cpu_seconds()?);
        let (wall, (sent, heard)) = (start.elapsed().as_secs_f64(), flows.finish()?);
        let upcalls = (after.0 - before.0) / 2.0;
        let turn = [
            upcalls / wall,
            upcalls / (after.1 - before.1).max(0.01),
            heard.len() as f64 / sent as f64 * 100.0,
        ];
        say(&format!(
            "round {round}: new flows {:9.0} a second, {:9.0} a second of CPU",
            turn[0], turn[1]
        ));
        turns.push(turn);
    }
    let of = |at: usize| median(turns.iter().map(|turn| turn[at]).collect());
    let mut table = Table::new(&[
        "each frame a new flow",
        "upcalls/s",
        "upcalls/s of the daemon's CPU",
        "frames delivered, %",
    ]);
    table.row(&[
        &"in and out of one host, asked at both ends",
        &format!("{:.0}", of(0)),
        &format!("{:.0}", of(1)),
        &format!("{:.1}", of(2)),
    ]);
    Ok(table)
}

/// One DSCP for whatever comes in.
fn marking(dscp: u8) -> String {
    format!(r#"{{"trust":{{"ports":[4294967295],"dscp":{dscp},"pcp":0}}}}"#)
}

fn reload(lab: &Lab, plugins: &Path, rounds: usize, say: &mut impl FnMut(&str)) -> Result<Table> {
    let node = lab.node(0);
    attach(node, plugins, "qos", "reload", &marking(8))?;
    attach(
        node,
        plugins,
        "acl",
        "reload",
        r#"{"deny":[{"proto":"udp","port":9}]}"#,
    )?;
    let ends = Ends::new(lab, "reload", (0, 2), (1, 2))?;
    let (mut lost, mut sent_all, mut overlap, mut late) = (0, 0, Vec::new(), Vec::new());
    for round in 1..=rounds {
        // From 8 to 16 and back again.
        let (old, new) = if round % 2 == 1 { (8, 16) } else { (16, 8) };
        let flows = ends.load(Load {
            flows: 100_000,
            rate: Some(RATE / crate::slow()),
            first_port: 2000,
            one_port_each: false,
        })?;
        // Each flow has been seen once.
        std::thread::sleep(Duration::from_secs_f64(
            100_000.0 / f64::from(RATE / crate::slow()) + 0.5,
        ));
        node.ok(&[
            "plugin",
            "attach",
            "qos",
            "reload",
            "--config",
            &marking(new),
        ])?;
        let done = SystemTime::now();
        std::thread::sleep(Duration::from_secs(1));
        let (sent, heard) = flows.finish()?;
        let mut numbers: Vec<u64> = heard.iter().map(|one| one.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        lost += sent - numbers.len() as u64;
        sent_all += sent;
        let last_old = heard.iter().rfind(|one| one.dscp == old);
        let first_new = heard.iter().find(|one| one.dscp == new);
        let (Some(last_old), Some(first_new)) = (last_old, first_new) else {
            anyhow::bail!("no frame with the old marking, or none with the new one");
        };
        // None, if it came before.
        let ms = |from: SystemTime, to: &Heard| {
            to.at.duration_since(from).unwrap_or_default().as_secs_f64() * 1e3
        };
        overlap.push(ms(first_new.at, last_old));
        late.push(ms(done, last_old));
        say(&format!(
            "round {round}: reload under 100,000 flows: {} of {sent} lost, old rulings for {:.2} ms beside new ones",
            sent - numbers.len() as u64,
            ms(first_new.at, last_old)
        ));
    }
    let mut table = Table::new(&[
        "the chain changes under 100,000 flows",
        "frames lost",
        "last old beside first new ruling, ms",
        "last old ruling behind the answer, ms",
    ]);
    table.row(&[
        &format!("{RATE} frames/s between two hosts"),
        &format!("{lost} of {sent_all}"),
        &format!("{:.2}", median(overlap)),
        &format!("{:.2}", median(late)),
    ]);
    Ok(table)
}

/// Frames a second of the reload.
const RATE: u32 = 25_000;

fn hang(
    lab: &Lab,
    plugins: &Path,
    rounds: usize,
    seconds: u32,
    say: &mut impl FnMut(&str),
) -> Result<Table> {
    let node = lab.node(0);
    let config = r#"{"on-port":666,"do":"spin"}"#;
    attach(node, plugins, "fixture", "hang", config)?;
    let ends = Ends::new(lab, "hang", (0, 3), (1, 3))?;
    let beside = Ends::new(lab, "beside", (0, 4), (1, 4))?;
    let time = Duration::from_secs(seconds.into());
    let to = beside.server.1.v4()?;
    let mut turns: Vec<[Latency; 2]> = Vec::new();
    for round in 1..=rounds {
        // The same load, of ports at which the plugin answers and then of that at which it does not.
        let measure = |first_port: u16, port: u16| -> Result<Latency> {
            let flows = ends.load(Load {
                flows: 317,
                rate: Some(1000),
                first_port,
                one_port_each: false,
            })?;
            let seen = PingPong::lasting(time).run(&beside.client.0, &beside.server.0, to, port)?;
            flows.finish()?;
            Ok(seen)
        };
        let port = 6000 + 2 * u16::try_from(round)?;
        let turn = [measure(800, port)?, measure(666, port + 1)?];
        say(&format!(
            "round {round}: p99 beside a plugin that answers {:7.1} us, beside one that hangs {:7.1} us",
            turn[0].p99_us, turn[1].p99_us
        ));
        turns.push(turn);
    }
    ensure!(
        node.json(&["plugin", "stats", "fixture"])?
            .to_string()
            .contains("failed"),
        "the plugin did not hang"
    );
    let of = |of: fn(&[Latency; 2]) -> f64| median(turns.iter().map(of).collect());
    let mut table = Table::new(&[
        "another network, beside a plugin",
        "that answers: p50, us",
        "p99, us",
        "that hangs: p50, us",
        "p99, us",
        "ratio of p99",
    ]);
    table.row(&[
        &"round trip between two hosts",
        &format!("{:.1}", of(|t| t[0].p50_us)),
        &format!("{:.1}", of(|t| t[0].p99_us)),
        &format!("{:.1}", of(|t| t[1].p50_us)),
        &format!("{:.1}", of(|t| t[1].p99_us)),
        &format!("{:.3}", of(|t| t[1].p99_us / t[0].p99_us)),
    ]);
    Ok(table)
}
