//! What is dropped has a reason, and nothing else is lost.

#[path = "drops/kernel.rs"]
mod kernel;

use anyhow::{Context, Result, ensure};
use interop_tests::frames::{Tap, frame, mac};
use interop_tests::lab::{LabSpec, scene};
use interop_tests::node::Node;
use interop_tests::segment::ping_pairs;
use interop_tests::{netns, wait};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const WITHIN: Duration = Duration::from_secs(5);

/// Packets that `eth0` of a namespace has sent and received, as its kernel counts.
fn counted(netns: &str) -> Result<(u64, u64)> {
    let out = netns::command(netns, "ip")?
        .args(["-j", "-s", "link", "show", "eth0"])
        .output()?;
    let all: Value = serde_json::from_slice(&out.stdout).context("`ip -j -s link`")?;
    let packets = |way: &str| {
        all[0]["stats64"][way]["packets"]
            .as_u64()
            .context("no packets")
    };
    Ok((packets("tx")?, packets("rx")?))
}

/// The balance of a network, as `meshd drops --balance` has it; what is missing is an error.
fn balance(node: &Node, network: &str) -> Result<BTreeMap<String, u64>> {
    let rows = node.json(&["drops", "--balance"])?;
    for row in rows.as_array().context("a list")? {
        ensure!(row["missing"] == 0, "on {}: {row}", node.name);
    }
    let row = rows.as_array().into_iter().flatten();
    let row = row.clone().find(|row| row["network"] == network);
    let row = row.context("the network has a balance")?.as_object();
    let numbers = row.context("an object")?.iter();
    Ok(numbers
        .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
        .collect())
}

fn traffic(node: &Node) -> Result<(u64, u64)> {
    let sum = |list: &str, way: &str| -> Result<u64> {
        let rows = node.list(list)?;
        Ok(rows
            .iter()
            .filter_map(|row| row["traffic"][way].as_u64())
            .sum())
    };
    Ok((
        sum("ports", "rx_frames")? + sum("peers", "rx_frames")?,
        sum("ports", "tx_frames")? + sum("peers", "tx_frames")?,
    ))
}

#[test]
fn what_comes_in_is_what_leaves_and_what_was_dropped_for_a_reason() {
    scene(LabSpec::hosts(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        ping_pairs(&stations, false)?;
        let (here, far, other) = (&stations[0], &stations[1], &stations[2]);
        let node = lab.node(0);
        let wire = Tap::open(&here.netns, "eth0")?;
        let (own, to) = (mac(&here.port.mac)?, mac(&far.port.mac)?);
        let reasons = ["spoofed-source", "link-local-control", "malformed"];
        let drops = || {
            reasons
                .iter()
                .map(|reason| node.drops(reason))
                .collect::<Result<Vec<_>>>()
        };
        let (drops_before, before) = (drops()?, balance(node, "lan")?);
        let heard_before = [far, other].map(|station| counted(&station.netns));
        for _ in 0..40 {
            wire.send(&frame(to, own, 0x88b5, b"allowed"))?;
        }
        for _ in 0..10 {
            wire.send(&frame([0xff; 6], own, 0x88b5, b"to all"))?;
        }
        for _ in 0..25 {
            wire.send(&frame(to, mac(&other.port.mac)?, 0x88b5, b"stolen"))?;
        }
        for _ in 0..7 {
            wire.send(&frame(
                [1, 0x80, 0xc2, 0, 0, 2],
                own,
                0x88b5,
                b"of the link",
            ))?;
        }
        for _ in 0..3 {
            // IPv4, and the header is not all there.
            wire.send(&frame(to, own, 0x0800, &[0x45, 0, 0, 20]))?;
        }
        let wanted = [25, 7, 3];
        wait("the drops are counted", WITHIN, || {
            let now = drops()?;
            let more: Vec<u64> = now
                .iter()
                .zip(&drops_before)
                .map(|(now, before)| now - before)
                .collect();
            ensure!(
                more.iter()
                    .zip(wanted)
                    .all(|(more, wanted)| *more <= wanted),
                "{more:?}"
            );
            Ok(more == wanted)
        })?;
        let after = balance(node, "lan")?;
        let more = |what: &str| after[what] - before[what];
        ensure!(
            more("came") >= 85 && more("dropped") >= 35,
            "{before:?} {after:?}"
        );
        // A broadcast goes to two peers: ten copies more.
        ensure!(
            more("extra") >= 10 && more("sent") >= 60,
            "{before:?} {after:?}"
        );
        for (station, (before, copies)) in [far, other]
            .iter()
            .zip(heard_before.into_iter().zip([50, 10]))
        {
            let before = before?;
            wait("they arrive", WITHIN, || {
                Ok(counted(&station.netns)?.1 >= before.1 + copies)
            })?;
        }
        // What the kernels count is what the daemons count: on all nodes, of all that ever was.
        for (at, station) in stations.iter().enumerate() {
            let node = lab.node(at);
            let (mut last, mut same) = ((0, 0), false);
            wait("the counts are those of the kernel", WITHIN, || {
                let (sent, heard) = counted(&station.netns)?;
                let ports = node.list("ports")?;
                let of = |way: &str| ports[0]["traffic"][way].as_u64().unwrap_or(0);
                last = ((sent - of("rx_frames")), (heard - of("tx_frames")));
                same = last == (0, 0);
                Ok(same)
            })
            .with_context(|| format!("on {}: the kernel counts {last:?} more", node.name))?;
            // And all of it is in the balance.
            wait("the balance is of all frames", WITHIN, || {
                let (into, out) = traffic(node)?;
                let rows = node.json(&["drops", "--balance"])?;
                let sum = |what: &str| -> u64 {
                    rows.as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|row| row[what].as_u64())
                        .sum()
                };
                let missing: i64 = rows
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|row| row["missing"].as_i64())
                    .sum();
                // What the node makes itself comes from no port and no peer, and leaves by one.
                Ok(missing == 0 && sum("sent") == out && sum("came") >= into)
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_reason_is_told_with_place_rate_and_example_and_can_be_asked_for() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let node = lab.node(0);
        let wire = Tap::open(&stations[0].netns, "eth0")?;
        let (stolen, to) = (mac(&stations[1].port.mac)?, mac(&stations[1].port.mac)?);
        // An earlier look, so that there is something to compare with.
        std::thread::sleep(Duration::from_millis(2500));
        for _ in 0..20 {
            wire.send(&frame(to, stolen, 0x0806, &[0; 28]))?;
        }
        let ask = |args: &[&str]| node.json(&[&["drops"], args].concat());
        wait("they are counted", WITHIN, || {
            Ok(node.drops("spoofed-source")? >= 20)
        })?;
        let rows = ask(&["--port", "ca1.lan", "--reason", "spoofed-source"])?;
        let row = &rows[0];
        ensure!(
            rows.as_array().is_some_and(|rows| rows.len() == 1),
            "{rows}"
        );
        ensure!(row["count"] == 20 && row["recent"] == 20, "{row}");
        ensure!(
            row["recent_ms"]
                .as_u64()
                .is_some_and(|ms| ms > 0 && ms < 60_000),
            "{row}"
        );
        let place = &row["places"][0];
        ensure!(
            place["network"] == "lan" && place["port"] == stations[0].port.id,
            "{row}"
        );
        let last = &row["last"];
        ensure!(
            last["flow"]
                .as_str()
                .is_some_and(|flow| flow.contains(&stations[1].port.mac)),
            "{row}"
        );
        ensure!(last["at_ms"].as_u64().is_some_and(|at| at > 0), "{row}");
        ensure!(ask(&["--peer", "b"])?.as_array().is_some_and(Vec::is_empty));
        let text = node.ok(&["drops"])?;
        ensure!(
            text.contains("spoofed-source: ") && text.contains("/s now"),
            "{text}"
        );
        let said = node.refused(&["drops", "--reason", "bad-luck"])?;
        ensure!(said.contains("too-long"), "{said}");
        Ok(())
    });
}

fn signal(node: &Node, signal: i32) -> Result<()> {
    let pid = node.pid().context("the daemon runs")?;
    // SAFETY: a plain system call on a process of ours.
    #[allow(unsafe_code)]
    let done = unsafe { libc::kill(i32::try_from(pid)?, signal) };
    ensure!(done == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

#[test]
fn what_the_kernel_drops_in_front_of_a_busy_daemon_is_told_too() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        ping_pairs(&stations, false)?;
        let node = lab.node(0);
        let wire = Tap::open(&stations[0].netns, "eth0")?;
        let own = mac(&stations[0].port.mac)?;
        let (sent, _) = counted(&stations[0].netns)?;
        // As a daemon that gets no CPU.
        signal(node, libc::SIGSTOP)?;
        for _ in 0..3000 {
            wire.send(&frame(mac(&stations[1].port.mac)?, own, 0x88b5, &[0; 100]))?;
        }
        signal(node, libc::SIGCONT)?;
        wait("it is counted", WITHIN, || {
            Ok(node.drops("tap-overrun")? > 1000)
        })?;
        // What the container sent is what came, and what the kernel dropped.
        wait("nothing else is lost", WITHIN, || {
            let (all, _) = counted(&stations[0].netns)?;
            let ports = node.list("ports")?;
            let came = ports[0]["traffic"]["rx_frames"].as_u64().unwrap_or(0);
            ensure!(all >= sent + 3000);
            Ok(all == came + node.drops("tap-overrun")?)
        })?;
        let rows = node.json(&["drops", "--reason", "tap-overrun"])?;
        ensure!(
            rows[0]["places"][0]["port"] == stations[0].port.id,
            "{rows}"
        );
        balance(node, "lan")?;
        Ok(())
    });
}
