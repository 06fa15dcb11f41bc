//! `meshd trace`: through this node and on at the far side, as asked of it; and real frames.

#[path = "trace/kernel.rs"]
mod kernel;

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, scene};
use interop_tests::node::Node;
use interop_tests::segment::ping_pairs;
use interop_tests::traffic::ping;
use interop_tests::wait;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];

/// `meshd trace lan --live` at work, and the lines that it has said.
struct Live {
    child: Child,
    told: Receiver<String>,
    lines: Vec<String>,
}

impl Live {
    fn start(node: &Node, words: &[&str]) -> Result<Self> {
        let mut command = node.command()?;
        command.args(["trace", "lan", "--live"]).args(words);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("a pipe")?;
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            told,
            lines: Vec::new(),
        })
    }

    /// Those so far.
    fn lines(&mut self) -> &[String] {
        self.lines.extend(self.told.try_iter());
        &self.lines
    }

    /// Ends it: those that were seen.
    fn end(mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str> {
    let text = value[name].as_str();
    text.with_context(|| format!("no {name} in {value}"))
}

#[test]
fn a_trace_goes_on_at_the_peer_that_is_asked_and_says_the_way_and_the_caches() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        ping_pairs(&stations, false)?;
        let (here, far) = (stations[0].port.v4()?, stations[1].port.v4()?);
        let (a, b) = (lab.node(0), lab.node(1));
        let packet = format!("icmp {here} > {far}");
        let report = a.json(&["trace", "lan", &packet])?;
        ensure!(report["node"]["name"] == "a", "{report}");
        let path = report["steps"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|step| step["what"] == "path");
        let path = path.with_context(|| format!("no path in {report}"))?;
        ensure!(
            text(path, "detail")?.contains("to peer b by quic-direct "),
            "{path}"
        );
        let cached = report["cached"].to_string();
        ensure!(cached.contains("the lane of port"), "{cached}");
        let there = &report["far"][0];
        ensure!(
            there["node"]["name"] == "b" && there["failure"].is_null(),
            "{there}"
        );
        let there = &there["report"];
        ensure!(text(there, "origin")? == "peer a", "{there}");
        let port = format!("forwarded to port {}", stations[1].port.id);
        ensure!(text(there, "verdict")?.starts_with(&port), "{there}");
        ensure!(
            there["steps"]
                .as_array()
                .is_some_and(|steps| steps.len() > 2),
            "{there}"
        );
        let shown = a.ok(&["trace", "lan", &packet])?;
        ensure!(
            shown.contains("---- at peer b ----") && shown.contains("on node b"),
            "{shown}"
        );
        // The same frame, as it was captured, and one that is not the port's.
        let frame = text(&report, "leaves")?;
        let hex = format!("hex {frame} from ca1");
        let again = a.json(&["trace", "lan", &hex])?;
        ensure!(
            again["flow"] == report["flow"]
                && again["far"][0]["report"]["verdict"] == there["verdict"],
            "{again}"
        );
        let stolen = format!(
            "hex {}{}0806{} from ca1",
            "ff".repeat(6),
            stations[1].port.mac,
            "00".repeat(28)
        );
        let stolen = a.json(&["trace", "lan", &stolen])?;
        ensure!(
            stolen["drop"] == "spoofed-source" && stolen["far"] == Value::Array(vec![]),
            "{stolen}"
        );
        for wrong in ["hex 02 from ca1", "hex zz from ca1", "hex 0200"] {
            a.refused(&["trace", "lan", wrong])?;
        }
        // The way back, asked here.
        let back = format!("icmp {far} > {here} type 0");
        let report = a.json(&["trace", "lan", "--on", "b", &back])?;
        ensure!(report["node"]["name"] == "b", "{report}");
        ensure!(text(&report, "origin")?.contains("cb1.lan"), "{report}");
        let there = &report["far"][0]["report"];
        ensure!(
            there["node"]["name"] == "a" && text(there, "origin")? == "peer b",
            "{report}"
        );
        ensure!(
            text(there, "verdict")?.starts_with("forwarded to port"),
            "{report}"
        );
        let said = a.refused(&["trace", "lan", "--on", "nobody", &back])?;
        ensure!(said.contains("no member"), "{said}");
        let said = a.refused(&["trace", "lan", "--on", "b", "icmp 10.10.0.99 > 10.10.0.98"])?;
        ensure!(
            said.contains("nobody on network lan has 10.10.0.99"),
            "{said}"
        );
        // Questions beyond a few a second are left unanswered; the node goes on.
        for _ in 0..12 {
            let _ = b.json(&["trace", "lan", &back])?;
        }
        // A peer that is away says nothing, and that is said.
        b.kill();
        let report = a.json(&["trace", "lan", &packet])?;
        if let Some(there) = report["far"].as_array().and_then(|far| far.first()) {
            ensure!(
                there["report"].is_null() && there["failure"].is_string(),
                "{there}"
            );
        }
        Ok(())
    });
}

#[test]
fn real_frames_are_shown_with_their_reasons_and_no_more_a_second_than_wanted() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        ping_pairs(&stations, false)?;
        let mut live = Live::start(lab.node(0), &["icmp", "--rate", "3"])?;
        wait("frames are shown", Duration::from_secs(8), || {
            ping(&stations[0].netns, stations[1].port.v4()?, 10, 56)?;
            Ok(live.lines().len() >= 6)
        })?;
        let lines = live.end();
        ensure!(
            lines
                .iter()
                // ICMPv6 is meant, too: hosts look for each other, and whether their addresses are taken.
                .all(|line| line.contains(" in ")
                    && (line.contains(" icmp ") || line.contains(" nd "))),
            "{lines:?}"
        );
        ensure!(
            lines
                .iter()
                .any(|line| line.contains("forwarded to peer b")),
            "{lines:?}"
        );
        // By the second on the line.
        let mut by_second = std::collections::BTreeMap::new();
        for line in &lines {
            *by_second
                .entry(line.get(..8).unwrap_or_default().to_owned())
                .or_insert(0) += 1;
        }
        ensure!(by_second.values().all(|count| *count <= 3), "{by_second:?}");
        Ok(())
    });
}
