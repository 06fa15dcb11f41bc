//! What views take on a node that knows much: how long a client waits, and what traffic feels of it.
//!
//! ```text
//!   hosts b, c, d     four ports each with 840 MACs behind it: 10,080 endpoints, which all others know
//!   a crowd           daemons in namespaces of their own on the same wire, each with a session to all others
//!   host a            is asked; a stream of numbered datagrams from a to b meanwhile, 1000 a second
//! ```
//!
//! While views are asked for, the crowd is stopped (SIGSTOP), as in `crowd.rs`: it would share the cores with the one that is measured.

use super::crowd::Crowd;
use super::median;
use crate::frames::{Tap, frame, mac};
use crate::lab::{Lab, LabSpec};
use crate::report::Table;
use crate::traffic::{Probe, Probed};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Hosts beside the measured one.
const OTHERS: u8 = 3;
/// Ports of each of them.
const PORTS: u8 = 4;
/// MACs behind each port.
const MACS: u32 = 840;
/// What `meshd status` may take, in ms.
const STATUS_MS: f64 = 20.0;

const ROUTES: [&str; 5] = [
    "/v1/status",
    "/v1/peers",
    "/v1/paths",
    "/v1/fdb",
    "/metrics",
];

/// The lab for [`run`].
#[must_use]
pub fn spec() -> LabSpec {
    LabSpec::hosts(1 + OTHERS).containers(PORTS)
}

/// Asks once; how long it took, in ms, and bytes of the answer.
fn ask(socket: &Path, route: &str) -> Result<(f64, usize)> {
    let start = Instant::now();
    let mut stream = UnixStream::connect(socket).context("connect to the API")?;
    write!(
        stream,
        "GET {route} HTTP/1.1\r\nHost: meshd\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{route}: {}",
        String::from_utf8_lossy(answer.get(..200).unwrap_or(&answer))
    );
    Ok((start.elapsed().as_secs_f64() * 1e3, answer.len()))
}

/// Has each port of hosts b, c, d be a way to many MACs.
fn fill(lab: &Lab, to: [u8; 6]) -> Result<usize> {
    let mut number = 0u32;
    for host in 1..=usize::from(OTHERS) {
        for port in 0..usize::from(PORTS) {
            let netns = lab.container(host, port);
            lab.node(host).attach("lan", netns, &[])?;
            let wire = Tap::open(netns, "eth0")?;
            for _ in 0..MACS {
                number += 1;
                let [_, high, middle, low] = number.to_be_bytes();
                let own = [2, 0xee, 0, high, middle, low];
                wire.send(&frame(to, own, 0x88b5, b"here"))?;
                if number.is_multiple_of(32) {
                    // Not faster than upcalls are answered.
                    std::thread::sleep(Duration::from_millis(40));
                }
            }
        }
    }
    Ok(usize::try_from(number)?)
}

/// Datagrams from a to b while `act` runs.
fn beside(
    (from, to, ip): &(String, String, IpAddr),
    act: impl FnOnce() -> Result<()>,
) -> Result<Probed> {
    let probe = Probe::start(from, to, *ip, 5000, 1000)?;
    act()?;
    Ok(probe.finish())
}

/// Measures; `say` is told what is going on. The answer says whether `status` is quick enough.
///
/// # Errors
/// If the mesh cannot be made, not all endpoints come to be known, or a view is refused.
pub fn run(
    lab: &Lab,
    peers: usize,
    rounds: usize,
    mut say: impl FnMut(&str),
) -> Result<(Table, bool)> {
    for other in lab.nodes.iter().skip(1) {
        let wish = format!("[limits]\nmacs_per_port = {}\n", MACS + 2);
        std::fs::write(&other.config, wish)?;
    }
    lab.mesh()?;
    lab.network("lan", &["--subnet", "10.77.0.0/16"])?;
    let node = lab.node(0);
    let own = lab.container(0, 0).to_owned();
    let port = node.attach("lan", &own, &[])?;
    let sent = fill(lab, mac(&port.mac)?)?;
    let far = lab.container(1, 0).to_owned();
    let ip = lab.node(1).ports()?.first().context("a port")?.v4()?;
    crate::traffic::ping_until(&own, ip, Duration::from_secs(20))?;
    let mut known = 0;
    let filled = crate::wait("all endpoints are known", Duration::from_secs(60), || {
        known = node.json(&["status"])?["fdb_entries"].as_u64().unwrap_or(0);
        Ok(known >= u64::try_from(sent)?)
    });
    filled.with_context(|| format!("{known} of {sent} are known"))?;
    let crowd = Crowd::start(lab, peers.saturating_sub(usize::from(OTHERS)), &mut say)?;
    crate::wait("every session is up", Duration::from_secs(600), || {
        Ok(node.peers_up()? >= peers)
    })?;
    say(&format!("{known} endpoints, {peers} peers"));
    crowd.signal(libc::SIGSTOP);
    let ends = (own, far, ip);
    let quiet = beside(&ends, || {
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    })?;
    let mut table = Table::new(&["", "median, ms", "slowest, ms", "KiB"]);
    let mut is_quick = true;
    let busy = beside(&ends, || {
        for route in ROUTES {
            let (mut times, mut bytes) = (Vec::new(), 0);
            for _ in 0..rounds {
                let (took, length) = ask(&node.socket, route)?;
                times.push(took);
                bytes = length;
                // Within the rate that a client has.
                std::thread::sleep(Duration::from_millis(50));
            }
            let slowest = times.iter().copied().fold(0.0, f64::max);
            let middle = median(times);
            is_quick &= route != "/v1/status" || middle <= STATUS_MS;
            table.row(&[
                &format!("GET {route}"),
                &format!("{middle:.1}"),
                &format!("{slowest:.1}"),
                &(bytes / 1024),
            ]);
        }
        Ok(())
    })?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        node.ok(&["status"])?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let slowest = times.iter().copied().fold(0.0, f64::max);
    let middle = median(times);
    is_quick &= middle <= STATUS_MS;
    table.row(&[
        &"meshd status, the whole command",
        &format!("{middle:.1}"),
        &format!("{slowest:.1}"),
        &"–",
    ]);
    for (name, probed) in [
        ("longest gap of 1000 datagrams a second, nobody asks", quiet),
        ("the same while views are asked for", busy),
    ] {
        say(&format!("{name}: {probed:?}"));
        let gap = probed.gap.as_secs_f64() * 1e3;
        table.row(&[&name, &"–", &format!("{gap:.1}"), &"–"]);
    }
    crowd.signal(libc::SIGCONT);
    Ok((table, is_quick))
}
