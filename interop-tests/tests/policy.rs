//! One real policy: `plugins/acl` refuses a TCP port, is asked once a flow, and again when its config changes.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, plugin, scene};
use interop_tests::node::Node;
use interop_tests::segment::ping_pairs;
use interop_tests::traffic::tcp_opens;
use std::time::Duration;

const DENY_SSH: &str = r#"{"deny":[{"proto":"tcp","port":22}]}"#;
const DENY_WEB: &str = r#"{"deny":[{"proto":"tcp","port":80}]}"#;

fn asked(node: &Node) -> Result<u64> {
    let plugins = node.list("plugin ls")?;
    plugins
        .iter()
        .find(|plugin| plugin["name"] == "acl")
        .and_then(|plugin| plugin["calls"].as_u64())
        .context("no plugin acl")
}

#[test]
fn the_acl_refuses_a_port_and_trace_says_why() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (here, far) = (&stations[0], &stations[1]);
        let (node, to) = (lab.node(0), far.port.v4()?);
        let open = |port| tcp_opens(&here.netns, &far.netns, to, port, Duration::from_secs(2));
        ensure!(open(22)? && open(80)?, "no policy, no refusal");

        node.ok(&[
            "plugin",
            "install",
            "acl",
            &plugin("acl")?.to_string_lossy(),
        ])?;
        node.ok(&["plugin", "attach", "acl", "lan", "--config", DENY_SSH])?;
        ensure!(!open(22)?, "tcp/22 is refused");
        ensure!(open(80)?, "tcp/80 passes");
        ping_pairs(&stations, false)?;
        ensure!(node.drops("policy")? > 0, "the drop is counted");

        let from = here.port.v4()?;
        let report = node.json(&["trace", "lan", &format!("tcp {from}:4000 > {to}:22 syn")])?;
        ensure!(report["drop"] == "policy", "{report}");
        ensure!(
            report.to_string().contains("acl"),
            "trace names the plugin: {report}"
        );
        let report = node.json(&["trace", "lan", &format!("tcp {from}:4000 > {to}:80 syn")])?;
        ensure!(report["drop"].is_null(), "{report}");

        // A flow that is known is not asked again.
        open(80)?;
        let before = asked(node)?;
        for _ in 0..5 {
            open(80)?;
        }
        ensure!(
            asked(node)? <= before + 6,
            "asked {} times for 5 connections of one kind",
            asked(node)? - before
        );

        // The other way round, at once: what was cached counts no more.
        node.ok(&["plugin", "attach", "acl", "lan", "--config", DENY_WEB])?;
        ensure!(
            open(22)? && !open(80)?,
            "the new config holds for flows that were known"
        );
        // A config that the plugin refuses leaves the old one.
        node.refused(&[
            "plugin",
            "attach",
            "acl",
            "lan",
            "--config",
            "{\"rules\": 7}",
        ])?;
        ensure!(!open(80)?);
        // After a restart it still holds.
        node.restart()?;
        lab.converged(Duration::from_secs(10))?;
        lab.know_each_other(&stations)?;
        ping_pairs(&stations, false)?;
        ensure!(open(22)? && !open(80)?, "the policy survives a restart");
        node.ok(&["plugin", "detach", "acl", "lan"])?;
        ensure!(open(80)?, "no policy, no refusal");
        Ok(())
    });
}
