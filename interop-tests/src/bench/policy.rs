//! What a chain of five plugins costs traffic that it lets pass: two networks of the same hosts, one without policy.
//!
//! ```text
//!   container 1 - open  - far container 1      no plugin
//!   container 2 - ruled - far container 2      acl with 1,000 rules, another acl, qos, two of one comparison
//! ```
//!
//! Once between hosts that trust the wire (what passes is in the kernel) and once between hosts that do not (it is in the
//! daemons' caches). Each pair of runs is one without and one with, in turns; medians of the ratios of neighbours count.

use super::load::{Iperf, Traffic, Way};
use super::median;
use super::system::attach_both;
use crate::lab::{Lab, LabSpec};
use crate::node::Node;
use crate::report::Table;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// The lab for [`run`]: four hosts, of which the last two do not trust the wire.
#[must_use]
pub fn spec() -> LabSpec {
    LabSpec::hosts(4).containers(2).trusted()
}

/// The chain: names, components and configs.
fn chain() -> [(&'static str, &'static str, String); 5] {
    let rules: Vec<String> = (0..1000u32)
        .map(|n| {
            let host = std::net::Ipv4Addr::from_bits(0x0a63_0000 + n * 8);
            format!(r#"{{"proto":"tcp","dst":"{host}","port":22}}"#)
        })
        .collect();
    let telnet = r#"{"deny":[{"proto":"tcp","port":23}]}"#;
    [
        ("acl", "acl", format!(r#"{{"deny":[{}]}}"#, rules.join(","))),
        ("acl-b", "acl", telnet.to_owned()),
        ("qos", "qos", "{}".to_owned()),
        ("hello", "hello-plugin", r#"{"port":24}"#.to_owned()),
        ("hello-b", "hello-plugin", r#"{"port":25}"#.to_owned()),
    ]
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
) -> Result<Table> {
    for node in &lab.nodes[2..] {
        std::fs::write(&node.config, "").context("write a config file")?;
    }
    lab.mesh()?;
    lab.network("open", &["--subnet", "10.78.0.0/24"])?;
    lab.network("ruled", &["--subnet", "10.79.0.0/24"])?;
    for node in &lab.nodes {
        for (name, component, config) in chain() {
            let file = plugins.join(format!("{component}.wasm"));
            node.ok(&["plugin", "install", name, &file.to_string_lossy()])?;
            node.ok(&["plugin", "attach", name, "ruled", "--config", &config])?;
        }
    }
    let mut table = Table::new(&[
        "five plugins, by none",
        "TCP 1 stream, Gbit/s, none",
        "with five",
        "ratio",
    ]);
    let mut port = 5200;
    for (name, here, there, trusted) in [("kernel path", 0, 1, true), ("QUIC path", 2, 3, false)] {
        let ways: [(&str, Way); 2] = [
            ("without", attach_both(lab, "open", (here, there), 0)?),
            ("with five", attach_both(lab, "ruled", (here, there), 1)?),
        ];
        if trusted {
            for (node, far) in [(0, "b"), (1, "a")] {
                let node: &Node = lab.node(node);
                node.waits_for_kernel_path(far, true, Duration::from_secs(10))?;
            }
        }
        let mut turns: Vec<[f64; 2]> = Vec::new();
        for round in 0..rounds {
            let mut turn = [f64::NAN; 2];
            // There and back again, so that what changes with time hits both alike.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for at in order {
                port += 1;
                let (chain, way) = &ways[at];
                turn[at] = Iperf {
                    traffic: Traffic::STREAM,
                    seconds,
                    port,
                }
                .run(way)?
                .gbps;
                let (round, gbps) = (round + 1, turn[at]);
                say(&format!(
                    "round {round}: {name:<12} {chain:<10} {gbps:8.2} Gbit/s"
                ));
            }
            turns.push(turn);
        }
        let of = |at: usize| median(turns.iter().map(|turn| turn[at]).collect());
        let ratio = median(turns.iter().map(|[none, five]| five / none).collect());
        table.row(&[
            &name,
            &format!("{:.2}", of(0)),
            &format!("{:.2}", of(1)),
            &format!("{ratio:.3}"),
        ]);
    }
    Ok(table)
}
