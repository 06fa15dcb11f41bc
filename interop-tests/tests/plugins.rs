//! Plugins as they are run: who is asked and who decides, a new version beside the old one, and one in its place under load.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, plugin, scene};
use interop_tests::netns;
use interop_tests::node::Node;
use interop_tests::traffic::{Probe, ping_until, tcp_opens};
use serde_json::Value;
use std::time::{Duration, Instant};

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const SOON: Duration = Duration::from_secs(10);

fn install(node: &Node, name: &str, component: &str) -> Result<()> {
    let file = plugin(component)?;
    node.ok(&["plugin", "install", name, &file.to_string_lossy()])?;
    Ok(())
}

fn attachment(node: &Node, name: &str) -> Result<Value> {
    let plugins = node.list("plugin ls")?;
    let found = plugins.into_iter().find(|plugin| plugin["name"] == name);
    Ok(found.context("not installed")?["attachments"][0].clone())
}

#[test]
fn a_chain_goes_by_stages_and_people_see_who_decided_and_by_which_name() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (here, far) = (&stations[0], &stations[1]);
        let (node, to) = (lab.node(0), far.port.v4()?);
        let open = |port| tcp_opens(&here.netns, &far.netns, to, port, Duration::from_secs(2));
        install(node, "acl", "acl")?;
        install(node, "a-first", "fixture")?;
        install(node, "watch", "fixture")?;
        let attach = |name: &str, stage: &str, config: &str| {
            node.ok(&[
                "plugin", "attach", name, "lan", "--stage", stage, "--config", config,
            ])
        };
        // Attached from the last to the first; a name that sorts first stands in a late stage.
        attach("watch", "observe", r#"{"on-port":80,"do":"drop"}"#)?;
        attach("a-first", "classify", r#"{"on-port":22,"do":"accept"}"#)?;
        node.ok(&[
            "plugin",
            "attach",
            "acl",
            "lan",
            "--config",
            r#"{"deny":[{"proto":"tcp","port":22}],"rules":[{"allow":{"proto":"tcp","port":80}},{"allow":{"proto":"tcp","src-port":80}}],"default":"drop"}"#,
        ])?;
        let chain = node.json(&["plugin", "chain", "lan"])?;
        let rows: Vec<(&str, &str, &str)> = chain
            .as_array()
            .context("no list")?
            .iter()
            .map(|row| {
                let word = |name: &str| row[name].as_str().unwrap_or_default();
                (word("stage"), word("plugin"), word("fail"))
            })
            .collect();
        ensure!(
            rows == [
                ("guard", "acl", "closed"),
                ("classify", "a-first", "closed"),
                ("observe", "watch", "open")
            ],
            "{rows:?}"
        );

        ensure!(!open(22)?, "a classifier's accept undoes no guard");
        // The observer says drop, which is not its to say: it fails, open, and the frame goes on.
        ensure!(open(80)?, "an observer stops nothing");
        let from = here.port.v4()?;
        let trace = |port: u16| {
            node.json(&[
                "trace",
                "lan",
                &format!("tcp {from}:4000 > {to}:{port} syn"),
            ])
        };
        let report = trace(22)?;
        let first = &report["plugins"][0];
        ensure!(
            first["plugin"] == "acl"
                && first["answer"] == "drop"
                && first["reason"] == "rule 1"
                && first["decides"] == true,
            "{report}"
        );
        ensure!(
            first["read"]
                .as_str()
                .is_some_and(|read| read.contains("dst-port 22")),
            "{report}"
        );
        ensure!(
            report["plugins"]
                .as_array()
                .is_some_and(|all| all.len() == 1),
            "{report}"
        );
        let report = trace(443)?;
        ensure!(report["plugins"][0]["reason"] == "default", "{report}");
        ensure!(
            report["verdict"]
                .as_str()
                .is_some_and(|v| v.contains("acl: default")),
            "{report}"
        );
        let report = trace(80)?;
        let answers: Vec<&str> = report["plugins"]
            .as_array()
            .context("no list")?
            .iter()
            .filter_map(|plugin| plugin["answer"].as_str())
            .collect();
        ensure!(
            answers == ["pass", "pass", "failed"] || answers == ["accept", "pass", "failed"],
            "{report}"
        );
        let text = node.ok(&["trace", "lan", &format!("tcp {from}:4000 > {to}:22 syn")])?;
        ensure!(text.contains("acl: drop, rule 1  <= decides"), "{text}");

        ensure!(!open(443)?, "by default");
        let drops = node.json(&["drops"])?;
        ensure!(drops.to_string().contains("acl: default"), "{drops}");
        let stats = node.json(&["plugin", "stats", "acl"])?;
        ensure!(stats[0]["reasons"]["default"].as_u64() > Some(0), "{stats}");
        ensure!(stats[0]["reasons"]["rule 1"].as_u64() > Some(0), "{stats}");

        let told = node.refused(&["plugin", "attach", "acl", "lan", "--stage", "observe"])?;
        ensure!(told.contains("cannot stand in observe"), "{told}");
        let told = node.refused(&[
            "plugin",
            "attach",
            "acl",
            "lan",
            "--config",
            r#"{"deny":[{"port":-1}]}"#,
        ])?;
        ensure!(told.contains("/deny/0/port"), "{told}");
        ensure!(!open(22)? && open(80)?, "what was refused changed nothing");
        Ok(())
    });
}

#[test]
fn a_version_beside_another_is_compared_on_real_traffic_and_not_obeyed() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (here, far) = (&stations[0], &stations[1]);
        let (node, to) = (lab.node(0), far.port.v4()?);
        let open = |port| tcp_opens(&here.netns, &far.netns, to, port, Duration::from_secs(2));
        // The version in use reads nothing, so what is asked first of a port and peer decides for all that follows, and the shadow
        // sees no more: it has to be TCP, and no neighbour question or report.
        for (one, other) in [(here, far), (far, here)] {
            netns::run(
                &one.netns,
                "sysctl",
                &["-qw", "net.ipv6.conf.all.disable_ipv6=1"],
            )?;
            let (ip, mac) = (other.port.v4()?.to_string(), &other.port.mac);
            let words = [
                "neigh",
                "replace",
                &ip,
                "lladdr",
                mac,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ];
            netns::run(&one.netns, "ip", &words)?;
        }
        install(node, "acl", "acl")?;
        node.ok(&["plugin", "attach", "acl", "lan"])?;
        let new = plugin("hello-plugin")?;
        node.ok(&[
            "plugin",
            "shadow",
            "acl",
            &new.to_string_lossy(),
            "--network",
            "lan",
        ])?;
        ensure!(
            open(23)? && open(80)?,
            "the one in use passes all, and is obeyed"
        );
        let until = Instant::now() + SOON;
        let shadow = loop {
            let shadow = node.json(&["plugin", "shadow", "acl", "--network", "lan"])?;
            if shadow["differences"]["verdict"].as_u64() > Some(0) || Instant::now() > until {
                break shadow;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let example = &shadow["examples"]["verdict"][0];
        ensure!(
            example["new"]
                .as_str()
                .is_some_and(|new| new.starts_with("drop, telnet"))
                && example["old"]
                    .as_str()
                    .is_some_and(|old| old.starts_with("pass")),
            "{shadow}"
        );
        let text = node.ok(&["plugin", "shadow", "acl", "--network", "lan"])?;
        ensure!(text.contains("telnet"), "{text}");
        ensure!(attachment(node, "acl")?["shadow"]["differ"].as_u64() > Some(0));
        node.ok(&["plugin", "shadow", "acl", "--network", "lan", "--stop"])?;
        ensure!(attachment(node, "acl")?["shadow"].is_null());
        node.refused(&["plugin", "shadow", "acl", "--network", "lan", "--stop"])?;
        ensure!(open(23)?);
        Ok(())
    });
}

#[test]
fn twenty_reloads_under_load_lose_no_frame() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (here, far) = (&stations[0], &stations[1]);
        ping_until(&here.netns, far.port.v4()?, SOON)?;
        let wasm = std::fs::read(plugin("acl")?)?;
        let file = lab.dir.join("acl.wasm");
        let path = file.to_string_lossy().into_owned();
        // A section that nobody reads makes another version that does the same.
        let write = |salt: u8| std::fs::write(&file, [&wasm[..], &[0, 3, 1, b's', salt]].concat());
        write(0)?;
        for node in &lab.nodes {
            node.ok(&["plugin", "install", "acl", &path])?;
            node.ok(&[
                "plugin",
                "attach",
                "acl",
                "lan",
                "--config",
                r#"{"deny":[{"proto":"tcp","port":22}]}"#,
            ])?;
        }
        let digest = |node: &Node| -> Result<String> {
            let plugins = node.json(&["plugin", "ls"])?;
            Ok(plugins[0]["digest"]
                .as_str()
                .context("no digest")?
                .to_owned())
        };
        let probe = Probe::start(&here.netns, &far.netns, far.port.v4()?, 5001, 4000)?;
        let back = Probe::start(&far.netns, &here.netns, here.port.v4()?, 5001, 4000)?;
        let mut slowest = Duration::ZERO;
        for salt in 1..=10 {
            write(salt)?;
            for node in &lab.nodes {
                let before = digest(node)?;
                let started = Instant::now();
                node.ok(&["plugin", "reload", "acl"])?;
                slowest = slowest.max(started.elapsed());
                ensure!(digest(node)? != before, "another version decides");
            }
        }
        let told = lab.node(0).ok(&["plugin", "reload", "acl"])?;
        ensure!(told.contains("has not changed"), "{told}");
        for (way, probe) in [("there", probe), ("back", back)] {
            let probed = probe.finish();
            println!(
                "{way}: {} sent, {} lost, gap {:?}; slowest reload {slowest:?}",
                probed.sent,
                probed.lost(),
                probed.gap
            );
            ensure!(
                probed.sent > 1000 && probed.lost() == 0,
                "{way}: {probed:?}"
            );
        }
        // A file that is no plugin changes nothing.
        std::fs::write(&file, b"junk")?;
        let before = digest(lab.node(0))?;
        lab.node(0).refused(&["plugin", "reload", "acl"])?;
        ensure!(digest(lab.node(0))? == before);
        Ok(())
    });
}
