//! Several uplinks between two hosts: traffic takes the best, leaves one that is dead, slow or lossy, and keeps its order.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::segment::Station;
use interop_tests::traffic::{Probe, ping};
use interop_tests::uplinks::Uplink;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const SOON: Duration = Duration::from_secs(15);
const FIBRE: usize = 0;
const DSL: usize = 1;
const UPLINKS: [Uplink; 2] = [
    Uplink {
        name: "fibre",
        cost: 1,
    },
    Uplink {
        name: "dsl",
        cost: 2,
    },
];

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Two hosts with two uplinks beside the wire, a container each; both links are up.
fn linked(spec: LabSpec, more: &str, body: impl FnOnce(&Lab, &[Station]) -> Result<()>) {
    scene(spec, |lab| {
        lab.uplinks(&UPLINKS, more)?;
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        for (node, peer) in [(0, "b"), (1, "a")] {
            for Uplink { name, .. } in UPLINKS {
                interop_tests::wait(&format!("link {name} to {peer} is up"), SOON, || {
                    Ok(link(lab, node, name)?["active"] == true)
                })?;
            }
        }
        body(lab, &stations)
    });
}

/// The row of `meshd paths` of a link.
fn link(lab: &Lab, node: usize, name: &str) -> Result<Value> {
    let rows = lab.node(node).list("paths")?;
    let found = rows.into_iter().find(|row| row["link"] == name);
    found.with_context(|| format!("no link {name}"))
}

/// Bytes that each uplink of host a sends while `body` does what it does.
fn sent(lab: &Lab, body: impl FnOnce() -> Result<()>) -> Result<[u64; 2]> {
    let read = || -> Result<[u64; 2]> { Ok([lab.sent_by(0, FIBRE)?, lab.sent_by(0, DSL)?]) };
    let before = read()?;
    body()?;
    let after = read()?;
    Ok([after[0] - before[0], after[1] - before[1]])
}

#[test]
fn traffic_takes_the_cheapest_link_and_paths_show_all() {
    linked(LabSpec::hosts(2), "", |lab, stations| {
        let to = stations[1].port.v4()?;
        let [fibre, dsl] = sent(lab, || {
            let pings = ping(&stations[0].netns, to, 20, 1000)?;
            ensure!(pings.received == 20, "{pings:?}");
            Ok(())
        })?;
        say(&format!("20 pings: {fibre} bytes by fibre, {dsl} by dsl"));
        ensure!(fibre > 20_000 && dsl < 10_000, "{fibre} {dsl}");
        let row = link(lab, 0, "fibre")?;
        ensure!(
            row["id"] == 3 && row["cost"] == 1 && row["rtt_us"].as_u64().is_some(),
            "{row}"
        );
        ensure!(lab.node(0).events("link-up")?.len() == 2, "events");
        let doctor = lab.node(0).json(&["doctor"])?;
        let found = doctor["checks"].as_array().context("checks")?.iter();
        let links = found.filter(|c| c["name"].as_str().is_some_and(|n| n.contains("link ")));
        ensure!(
            links.filter(|c| c["state"] == "ok").count() == 2,
            "{doctor}"
        );
        Ok(())
    });
}

#[test]
fn a_dead_link_is_left_within_a_second_and_taken_again_without_flapping() {
    linked(LabSpec::hosts(2), "", |lab, stations| {
        let (a, b) = (&stations[0], &stations[1]);
        let probe = Probe::start(&a.netns, &b.netns, b.port.v4()?, 5000, 500)?;
        std::thread::sleep(Duration::from_secs(1));
        for host in 0..2 {
            lab.deafen_device(host, "up0", "meta l4proto udp")?;
        }
        std::thread::sleep(Duration::from_secs(8));
        let down = link(lab, 0, "fibre")?;
        ensure!(down["active"] == false, "{down}");
        let outage = probe.finish();
        say(&format!(
            "fibre died: nothing for {} ms, {} of {} datagrams lost",
            outage.gap.as_millis(),
            outage.lost(),
            outage.sent
        ));
        // Found by silence after 0.8 s; the connection itself would take 4 s.
        let limit = Duration::from_millis(2500) * interop_tests::slow();
        ensure!(outage.gap < limit, "{outage:?}");
        lab.heal()?;
        interop_tests::wait("fibre is back", Duration::from_secs(40), || {
            Ok(link(lab, 0, "fibre")?["active"] == true)
        })?;
        let probe = Probe::start(&a.netns, &b.netns, b.port.v4()?, 5002, 20)?;
        std::thread::sleep(Duration::from_secs(1));
        let [fibre, dsl] = sent(lab, || {
            std::thread::sleep(Duration::from_secs(3));
            Ok(())
        })?;
        let back = probe.finish();
        say(&format!(
            "fibre is back: {fibre} bytes by fibre, {dsl} by dsl"
        ));
        ensure!(back.lost() == 0 && back.reordered == 0, "{back:?}");
        ensure!(fibre > dsl, "{fibre} {dsl}");
        Ok(())
    });
}

#[test]
fn without_the_wire_of_the_session_frames_and_control_go_by_links() {
    linked(LabSpec::hosts(2), "", |lab, stations| {
        let (a, b) = (&stations[0], &stations[1]);
        let probe = Probe::start(&a.netns, &b.netns, b.port.v4()?, 5000, 200)?;
        lab.cut(0, 1)?;
        std::thread::sleep(Duration::from_secs(12));
        let seen = probe.finish();
        say(&format!("the session's wire is cut: {seen:?}"));
        ensure!(seen.gap < Duration::from_millis(2500), "{seen:?}");
        ensure!(lab.node(0).member_state("b")? == "alive", "b is not alive");
        Ok(())
    });
}
