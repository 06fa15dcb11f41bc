//! Figures: meshd beside a plain veth and kernel VXLAN, in one lab and in turns.
//!
//! ```text
//!   veth            host a und0 -- br0 on the wire -- und0 host b         no overlay at all
//!   kernel VXLAN    container a2 - bridge - vxlan - und0 a -- und0 b …    what the kernel does, without encryption
//!   meshd (kernel)  container a1 - gate - bridge - gate - vxlan - …       the same, of a network where all may pass
//!   … with policy   container a3 - the same                               of a network with a plugin in its chain
//!   meshd (QUIC)    container c1 - daemon - QUIC - und0 c -- und0 d …     hosts that do not trust the wire
//! ```
//!
//! Each measure is taken in turns, one system after the other, there and back again, several times; the median is told, and
//! of what has a yardstick the median of the ratios of neighbours. Two cores carry all hosts, all daemons and the load, so
//! only ratios within one run mean something.

pub mod churn;
pub mod gate;
pub mod policy;
mod yardstick;

pub use yardstick::kernel_vxlan;

use crate::lab::Lab;
use crate::netns;
use crate::node::Node;
use crate::report::Table;
use crate::traffic;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// One way from a client to a server.
#[derive(Clone, Debug)]
pub struct Way {
    /// Its name in the table.
    pub name: &'static str,
    /// Namespace of the client.
    pub client: String,
    /// Namespace of the server.
    pub server: String,
    /// The server's address.
    pub to: IpAddr,
}

/// What iperf3 told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Iperf {
    /// Bits a second at the receiver, in 10^9.
    pub gbps: f64,
    /// Bytes at the receiver.
    pub bytes: f64,
    /// Datagrams a second at the receiver.
    pub pps: f64,
    /// Share of datagrams lost, percent.
    pub lost_percent: f64,
    /// Processor time of both ends, percent of one core.
    pub cpu_percent: f64,
}

/// Runs iperf3 from client to server for `seconds` with extra words; TCP is cubic, which is checked.
///
/// # Errors
/// If iperf3 fails, or ran with another congestion control.
pub fn iperf(way: &Way, port: u16, seconds: u32, extra: &[&str]) -> Result<Iperf> {
    let port = port.to_string();
    let mut server = netns::command(&way.server, "iperf3")?
        .args(["-s", "-1", "-p", &port])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start iperf3")?;
    std::thread::sleep(Duration::from_millis(300));
    let (to, time, udp) = (
        way.to.to_string(),
        seconds.to_string(),
        extra.contains(&"-u"),
    );
    let mut client = netns::command(&way.client, "iperf3")?;
    client
        .args([
            "-J",
            "-c",
            &to,
            "-p",
            &port,
            "-t",
            &time,
            "--connect-timeout",
            "3000",
        ])
        .args(extra);
    if !udp {
        client.args(["-C", "cubic"]);
    }
    let out = client.output().context("start iperf3");
    let _ = server.kill();
    let _ = server.wait();
    let report: Value = serde_json::from_slice(&out?.stdout).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        anyhow::bail!("iperf3 over {}: {error}", way.name);
    }
    let end = &report["end"];
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    if udp {
        let sum = &end["sum"];
        let received = number(&sum["packets"]) - number(&sum["lost_packets"]);
        return Ok(Iperf {
            pps: received / number(&sum["seconds"]).max(0.1),
            lost_percent: number(&sum["lost_percent"]),
            ..Iperf::default()
        });
    }
    let control = end["sender_tcp_congestion"].as_str().unwrap_or_default();
    ensure!(control == "cubic", "congestion control was {control:?}");
    let sum = &end["sum_received"];
    Ok(Iperf {
        gbps: number(&sum["bits_per_second"]) / 1e9,
        bytes: number(&sum["bytes"]),
        cpu_percent: number(&end["cpu_utilization_percent"]["host_total"])
            + number(&end["cpu_utilization_percent"]["remote_total"]),
        ..Iperf::default()
    })
}

/// The middle of three or more.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What is measured, with the daemons that may have a share in it.
struct System<'a> {
    way: Way,
    daemons: [Option<&'a Node>; 2],
}

/// What one measure of one system gave in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Measure {
    Tcp1,
    Tcp4,
    Udp,
    P50,
    P99,
    /// CPU of the daemons during `Tcp1`, percent of one core.
    Cpu,
    /// The same by GiB.
    CpuGib,
}

const MEASURES: [Measure; 7] = [
    Measure::Tcp1,
    Measure::Tcp4,
    Measure::Udp,
    Measure::P50,
    Measure::P99,
    Measure::Cpu,
    Measure::CpuGib,
];

/// The lab for [`run`]: four hosts, of which the last two do not trust the wire.
#[must_use]
pub fn spec() -> crate::lab::LabSpec {
    crate::lab::LabSpec::hosts(4).containers(3).trusted()
}

/// Name, place of both containers and network of meshd's own rows.
const ROWS: [(&str, (usize, usize), usize, &str); 3] = [
    ("meshd (kernel)", (0, 1), 0, "open"),
    ("meshd (kernel), policy", (0, 1), 2, "ruled"),
    ("meshd (QUIC)", (2, 3), 0, "open"),
];

/// From a container of one host to that of the other, both attached to the network.
fn way(
    lab: &Lab,
    name: &'static str,
    network: &str,
    (here, there): (usize, usize),
    container: usize,
) -> Result<Way> {
    let (client, server) = (
        lab.container(here, container),
        lab.container(there, container),
    );
    lab.node(here).attach(network, client, &[])?;
    let far = lab.node(there).attach(network, server, &[])?;
    let way = Way {
        name,
        client: client.into(),
        server: server.into(),
        to: far.v4()?,
    };
    traffic::ping_until(&way.client, way.to, Duration::from_secs(5))?;
    Ok(way)
}

fn systems<'a>(lab: &'a Lab, acl: &Path) -> Result<Vec<System<'a>>> {
    for node in &lab.nodes[2..] {
        std::fs::write(&node.config, "").context("write a config file")?;
    }
    lab.mesh()?;
    lab.network("open", &["--subnet", "10.78.0.0/24"])?;
    lab.network("ruled", &["--subnet", "10.79.0.0/24"])?;
    let acl = acl.to_string_lossy();
    for node in &lab.nodes[..2] {
        node.ok(&["plugin", "install", "acl", &acl])?;
        let deny = r#"{"deny":[{"proto":"tcp","port":22}]}"#;
        node.ok(&["plugin", "attach", "acl", "ruled", "--config", deny])?;
    }
    let veth = Way {
        name: "veth",
        client: lab.hosts[0].netns.clone(),
        server: lab.hosts[1].netns.clone(),
        to: lab.hosts[1].v4.into(),
    };
    let mut all: Vec<System<'a>> = [veth, kernel_vxlan(lab)?]
        .map(|way| System {
            way,
            daemons: [None; 2],
        })
        .into();
    for (name, (here, there), container, network) in ROWS {
        all.push(System {
            way: way(lab, name, network, (here, there), container)?,
            daemons: [Some(lab.node(here)), Some(lab.node(there))],
        });
    }
    for (here, there) in [(0, "b"), (1, "a")] {
        lab.node(here)
            .waits_for_kernel_path(there, true, Duration::from_secs(10))?;
    }
    Ok(all)
}

/// All measures of all systems, with the plugin `acl` where there is policy. `say` is told what is going on.
///
/// # Errors
/// If the mesh cannot be made or a measure fails.
pub fn run(
    lab: &Lab,
    acl: &Path,
    rounds: usize,
    seconds: u32,
    mut say: impl FnMut(&str),
) -> Result<[Table; 2]> {
    let systems = systems(lab, acl)?;
    let mut port = 5200;
    // [system][turn]
    let mut told: Vec<Vec<[f64; MEASURES.len()]>> = vec![Vec::new(); systems.len()];
    for round in 0..rounds {
        // There and back again, so that what changes with time hits all alike.
        let mut order: Vec<usize> = (0..systems.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        let mut turn = vec![[f64::NAN; MEASURES.len()]; systems.len()];
        for measure in [Measure::Tcp1, Measure::Tcp4, Measure::Udp, Measure::P50] {
            for &index in &order {
                port += 1;
                let text = take(&systems[index], measure, port, seconds, &mut turn[index])?;
                say(&format!("round {}: {text}", round + 1));
            }
        }
        for (all, turn) in told.iter_mut().zip(turn) {
            all.push(turn);
        }
    }
    let yardstick = told[1].clone();
    let mut figures = Table::new(&[
        "",
        "TCP 1 stream, Gbit/s",
        "TCP 4 streams, Gbit/s",
        "UDP 64 B, kpps",
        "RTT p50, µs",
        "RTT p99, µs",
        "both daemons, % of a core",
        "CPU s/GiB",
        "RSS, MiB",
    ]);
    let mut ratios = Table::new(&[
        "by kernel VXLAN",
        "TCP 1 stream",
        "TCP 4 streams",
        "UDP 64 B",
        "RTT p50",
    ]);
    for (system, turns) in systems.iter().zip(&told) {
        let of = |measure: Measure| median(turns.iter().map(|t| t[measure as usize]).collect());
        let daemons = system.daemons.iter().flatten().count() > 0;
        let only = |text: String| if daemons { text } else { "–".to_owned() };
        let rss = system.daemons[0].map_or(Ok(0.0), Node::rss_mib)?;
        figures.row(&[
            &system.way.name,
            &format!("{:.2}", of(Measure::Tcp1)),
            &format!("{:.2}", of(Measure::Tcp4)),
            &format!("{:.0}", of(Measure::Udp)),
            &format!("{:.1}", of(Measure::P50)),
            &format!("{:.1}", of(Measure::P99)),
            &only(format!("{:.1}", of(Measure::Cpu))),
            &only(format!("{:.2}", of(Measure::CpuGib))),
            &only(format!("{rss:.0}")),
        ]);
        let ratio = |measure: Measure| {
            let pairs = turns.iter().zip(&yardstick);
            let ratios =
                pairs.map(|(ours, theirs)| ours[measure as usize] / theirs[measure as usize]);
            format!("{:.3}", median(ratios.collect()))
        };
        if daemons {
            ratios.row(&[
                &system.way.name,
                &ratio(Measure::Tcp1),
                &ratio(Measure::Tcp4),
                &ratio(Measure::Udp),
                &ratio(Measure::P50),
            ]);
        }
    }
    Ok([figures, ratios])
}

/// One measure of one system; returns a line about it.
fn take(
    system: &System<'_>,
    measure: Measure,
    port: u16,
    seconds: u32,
    into: &mut [f64; MEASURES.len()],
) -> Result<String> {
    let way = &system.way;
    let cpu = || -> Result<f64> {
        let daemons = system.daemons.iter().flatten();
        daemons.map(|node| node.cpu_seconds()).sum()
    };
    let mut set = |measure: Measure, value: f64| into[measure as usize] = value;
    let (name, text) = match measure {
        Measure::Tcp1 | Measure::Tcp4 => {
            let streams = if measure == Measure::Tcp1 { "1" } else { "4" };
            let before = cpu()?;
            let told = iperf(way, port, seconds, &["-P", streams])?;
            let spent = cpu()? - before;
            set(measure, told.gbps);
            if measure == Measure::Tcp1 {
                set(Measure::Cpu, 100.0 * spent / f64::from(seconds));
                set(Measure::CpuGib, spent / (told.bytes / f64::from(1 << 30)));
            }
            (
                format!("TCP, {streams} streams"),
                format!("{:8.2} Gbit/s, daemons {spent:.2} s of CPU", told.gbps),
            )
        }
        Measure::Udp => {
            let told = iperf(way, port, seconds, &["-u", "-l", "64", "-b", "0"])?;
            set(measure, told.pps / 1e3);
            (
                "UDP, 64 bytes".to_owned(),
                format!("{:8.1} kpps", told.pps / 1e3),
            )
        }
        _ => {
            let time = Duration::from_secs(u64::from(seconds));
            let told = traffic::latency(&way.client, &way.server, way.to, port, time)?;
            set(Measure::P50, told.p50_us);
            set(Measure::P99, told.p99_us);
            (
                "round trip".to_owned(),
                format!("{:8.1} µs, p99 {:.1} µs", told.p50_us, told.p99_us),
            )
        }
    };
    Ok(format!("{name:<14}  {:<23} {text}", way.name))
}
