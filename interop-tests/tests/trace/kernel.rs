//! Traces where the kernel forwards, where nobody is, and where a node is gone; and real frames that only the kernel sees.

use super::Live;
use anyhow::{Context, ensure};
use interop_tests::lab::{LabSpec, scene};
use interop_tests::traffic::ping;
use interop_tests::wait;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn steps_have_names_the_kernels_flows_are_live_and_a_node_that_is_gone_is_named() {
    scene(LabSpec::hosts(3).trusted(), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (here, far, third) = (&stations[0], &stations[1], &stations[2]);
        let a = lab.node(0);
        a.waits_for_kernel_path("b", true, SOON)?;
        lab.node(1).waits_for_kernel_path("a", true, SOON)?;
        let (from, to) = (here.port.v4()?, far.port.v4()?);
        let packet = format!("icmp {from} > {to}");
        let mut report = serde_json::Value::Null;
        wait("the kernel holds the flow", SOON, || {
            ping(&here.netns, to, 2, 56)?;
            report = a.json(&["trace", "lan", &packet])?;
            Ok(report["cached"]
                .to_string()
                .contains("the kernel holds flows"))
        })?;
        let steps = report["steps"].to_string();
        for words in [
            "is on node b (",
            "to peer b by kernel-vxlan",
            "its gate lets such frames pass",
        ] {
            ensure!(steps.contains(words), "{words}: {report}");
        }
        ensure!(report["far"][0]["node"]["name"] == "b", "{report}");

        // What is for the node itself, and what is for nobody.
        let service = a.list("network ls")?[0]["service"][0]
            .as_str()
            .context("a service address")?
            .to_owned();
        let question = format!("udp {from}:5000 > {service}:53");
        let report = a.json(&["trace", "lan", &question])?;
        ensure!(
            report["steps"]
                .to_string()
                .contains("the node's own name service"),
            "{report}"
        );
        let nobody = format!("icmp {from} > 10.10.0.250");
        let said = a.refused(&["trace", "lan", &nobody])?;
        ensure!(
            said.contains("nobody on network lan has 10.10.0.250") && !said.contains("not reached"),
            "{said}"
        );

        // Real ones, of which the daemon sees none.
        let mut live = Live::start(a, &["--rate", "50", "ip", "icmp", "type", "8"])?;
        let shown = wait("frames of the kernel are shown", SOON, || {
            ping(&here.netns, to, 3, 56)?;
            let by_kernel = |line: &&String| line.contains("forwarded by the kernel to peer b");
            Ok(live.lines().iter().filter(by_kernel).count() >= 6)
        });
        let lines = live.end();
        shown.with_context(|| format!("{lines:#?}"))?;
        ensure!(
            !lines.iter().any(|line| line.contains("underlay")),
            "{lines:#?}"
        );

        // A node that goes takes its endpoints along.
        let gone = format!("icmp {from} > {}", third.port.v4()?);
        lab.node(2).stop()?;
        let mut said = String::new();
        wait("it is known to be gone", SOON, || {
            let told = a.tell(&["trace", "lan", &gone])?;
            said = told.stderr;
            Ok(told.code != 0)
        })?;
        wait("it is said who is gone", SOON, || {
            said = a.tell(&["trace", "lan", &gone])?.stderr;
            Ok(said.contains("not reached at the moment") && said.contains(": c"))
        })
        .with_context(|| said.clone())?;
        Ok(())
    });
}
