//! Figures: meshd beside a plain veth and kernel VXLAN, in one lab and in turns.
//!
//! ```text
//!   veth     host a und0 -- br0 on the wire -- und0 host b        no overlay at all
//!   vxlan    container a2 - bridge - vxlan - und0 …               what the kernel does, without encryption
//!   meshd    container a1 - daemon - QUIC - und0 …                the same way, encrypted, with policy
//! ```
//!
//! Each measure is taken in turns, one system after the other, several times; the median is told. Two cores carry both
//! hosts, both daemons and the load, so only ratios within one run mean something.

pub mod gate;

use crate::lab::Lab;
use crate::netns::{self, ip};
use crate::report::Table;
use crate::traffic;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::IpAddr;
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

/// A bridge with a kernel VXLAN device and the second container on each of two hosts, MTU 1450.
///
/// # Errors
/// If the kernel refuses.
pub fn kernel_vxlan(lab: &Lab) -> Result<Way> {
    for (here, there) in [(0, 1), (1, 0)] {
        let (host, far) = (&lab.hosts[here], &lab.hosts[there]);
        let (ns, container) = (&host.netns, lab.container(here, 1));
        ip(&format!(
            "-n {ns} link add bv0 mtu 1450 type bridge mcast_snooping 0"
        ))?;
        ip(&format!(
            "-n {ns} link add vx0 mtu 1450 type vxlan id 77 dstport 4789 local {} remote {} dev und0",
            host.v4, far.v4
        ))?;
        ip(&format!(
            "-n {ns} link add vc0 mtu 1450 type veth peer name eth0 mtu 1450 netns {container}"
        ))?;
        for device in ["vx0", "vc0"] {
            ip(&format!("-n {ns} link set dev {device} master bv0 up"))?;
        }
        ip(&format!("-n {ns} link set dev bv0 up"))?;
        ip(&format!(
            "-n {container} addr add 10.77.0.{}/24 dev eth0",
            here + 1
        ))?;
        ip(&format!("-n {container} link set dev eth0 up"))?;
    }
    let way = Way {
        name: "kernel VXLAN",
        client: lab.container(0, 1).into(),
        server: lab.container(1, 1).into(),
        to: IpAddr::from([10, 77, 0, 2]),
    };
    traffic::ping_until(&way.client, way.to, Duration::from_secs(5))?;
    Ok(way)
}

/// The middle of three or more.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All measures of all systems. `say` is told what is going on.
///
/// # Errors
/// If the mesh cannot be made or a measure fails.
pub fn run(lab: &Lab, rounds: usize, seconds: u32, mut say: impl FnMut(&str)) -> Result<Table> {
    lab.mesh()?;
    lab.network("bench", &["--subnet", "10.78.0.0/24"])?;
    let mut ports = Vec::new();
    for host in 0..2 {
        ports.push(
            lab.node(host)
                .attach("bench", lab.container(host, 0), &[])?,
        );
    }
    let mesh = Way {
        name: "meshd (QUIC)",
        client: lab.container(0, 0).into(),
        server: lab.container(1, 0).into(),
        to: ports[1].v4()?,
    };
    traffic::ping_until(&mesh.client, mesh.to, Duration::from_secs(5))?;
    let veth = Way {
        name: "veth",
        client: lab.hosts[0].netns.clone(),
        server: lab.hosts[1].netns.clone(),
        to: lab.hosts[1].v4.into(),
    };
    let ways = [veth, kernel_vxlan(lab)?, mesh];

    let cpu = || -> Result<f64> { Ok(lab.node(0).cpu_seconds()? + lab.node(1).cpu_seconds()?) };
    let mut port = 5200;
    // [system][measure][round]
    let mut values = vec![vec![Vec::new(); 6]; ways.len()];
    for round in 1..=rounds {
        for (measure, name, words) in [
            (0, "TCP, 1 stream", &["-P", "1"][..]),
            (1, "TCP, 4 streams", &["-P", "4"]),
            (2, "UDP, 64 bytes", &["-u", "-l", "64", "-b", "0"]),
        ] {
            for (way, values) in ways.iter().zip(&mut values) {
                port += 1;
                let before = cpu()?;
                let told = iperf(way, port, seconds, words)?;
                let spent = cpu()? - before;
                values[measure].push(if measure == 2 {
                    told.pps / 1e3
                } else {
                    told.gbps
                });
                if measure == 0 {
                    values[5].push(spent / (told.bytes / f64::from(1 << 30)));
                }
                say(&format!(
                    "round {round}: {name:<14}  {:<13} {}",
                    way.name,
                    if measure == 2 {
                        format!("{:8.1} kpps", told.pps / 1e3)
                    } else {
                        format!("{:8.2} Gbit/s", told.gbps)
                    }
                ));
            }
        }
        for (way, values) in ways.iter().zip(&mut values) {
            port += 1;
            let told = traffic::latency(
                &way.client,
                &way.server,
                way.to,
                port,
                Duration::from_secs(1),
            )?;
            values[3].push(told.p50_us);
            values[4].push(told.p99_us);
            say(&format!(
                "round {round}: {:<14}  {:<13} {:8.1} µs, p99 {:.1} µs",
                "round trip", way.name, told.p50_us, told.p99_us
            ));
        }
    }
    let mut table = Table::new(&[
        "",
        "TCP 1 Gbit/s",
        "TCP 4 Gbit/s",
        "UDP 64 B kpps",
        "RTT p50 µs",
        "RTT p99 µs",
        "daemon CPU s/GiB",
        "RSS MiB",
    ]);
    for (index, (way, values)) in ways.iter().zip(values).enumerate() {
        let [one, four, udp, p50, p99, spent] = <[Vec<f64>; 6]>::try_from(values)
            .unwrap_or_default()
            .map(median);
        let (spent, rss) = if index == 2 {
            (
                format!("{spent:.2}"),
                format!("{:.0}", lab.node(0).rss_mib()?),
            )
        } else {
            ("0".to_owned(), "0".to_owned())
        };
        table.row(&[
            &way.name,
            &format!("{one:.2}"),
            &format!("{four:.2}"),
            &format!("{udp:.0}"),
            &format!("{p50:.1}"),
            &format!("{p99:.1}"),
            &spent,
            &rss,
        ]);
    }
    Ok(table)
}
