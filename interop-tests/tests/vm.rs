//! Tests that need a machine of their own: kernels without something, netem, filters on all bridges.
//!
//! Each says by `guest::needs` or `guest::Without` what it needs, and fails where that cannot be had. Nothing here runs on
//! the kernel of whoever develops: `cargo xtask vm` runs all of it in a guest.

#[path = "vm/devices.rs"]
mod devices;

use anyhow::{Context, Result, ensure};
use interop_tests::guest::{Without, needs};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::netns;
use interop_tests::segment::{Station, ping_pairs};
use interop_tests::traffic::{Probe, ping, ping_until, transfer};
use std::io::Write;
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const SOON: Duration = Duration::from_secs(10);

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Host a starts on a kernel without `module`; host b, later, on one that has it.
fn takes_part_without(module: &str, feature: &str) {
    scene(LabSpec::hosts(2).trusted(), |lab| {
        let (a, b) = (lab.node(0), lab.node(1));
        let without = Without::module(module)?;
        a.init("lab")?;
        a.run()?;
        let doctor = a.json(&["doctor"])?;
        let checks = doctor["checks"].as_array().context("no checks")?;
        let told = checks.iter().find(|check| check["name"] == feature);
        let told = told.with_context(|| format!("no check {feature} in {doctor}"))?;
        ensure!(told["state"] == "warn", "{told}");
        ensure!(
            told["advice"]
                .as_str()
                .is_some_and(|text| text.contains("CONFIG_")),
            "{told}"
        );
        say(&format!("doctor: {told}"));
        drop(without);
        needs(&[module])?;
        b.join(&a.invite(&[])?)?;
        b.run()?;
        lab.converged(SOON)?;

        let stations = lab.segment("lan", &SUBNET)?;
        let (here, far) = (&stations[0], &stations[1]);
        ensure!(ping_pairs(&stations, false)? == 2);
        transfer(&here.netns, &far.netns, far.port.v4()?, 5001, 4 << 20)?;
        for (node, peer, why) in [(a, "b", "no-vxlan-here"), (b, "a", "no-vxlan-there")] {
            let row = node.path(peer, "kernel-vxlan")?.context("listed")?;
            ensure!(row["active"] == false, "{row}");
            ensure!(row["reason_code"] == why, "{row}");
            ensure!(
                row["remedy"]
                    .as_str()
                    .is_some_and(|text| text.contains("meshd doctor")),
                "{row}"
            );
            let quic = node.path(peer, "quic-direct")?.context("QUIC is listed")?;
            ensure!(quic["active"] == true, "{quic}");
        }

        // Once the kernel has it and the daemon was started again, all is as it should be.
        a.restart()?;
        a.waits_for_kernel_path("b", true, SOON)?;
        b.waits_for_kernel_path("a", true, SOON)?;
        ensure!(ping_pairs(&stations, false)? == 2);
        Ok(())
    });
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_node_whose_kernel_has_no_vxlan_takes_part_by_quic_and_says_so() {
    takes_part_without("vxlan", "kernel: vxlan");
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_node_whose_kernel_has_no_nftables_takes_part_by_quic_and_says_so() {
    takes_part_without("nf_tables", "kernel: nftables");
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn tcp_over_a_bad_wire_stays_up_and_whole_on_both_paths_and_between_them() {
    scene(LabSpec::hosts(2).trusted(), |lab| {
        needs(&["sch_netem"])?;
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (here, far) = (&stations[0], &stations[1]);
        both_in_kernel(lab, &stations[0], &stations[1])?;
        lab.netem("delay 20ms loss 1% reorder 25% 50%")?;
        let to = far.port.v4()?;
        let kernel = transfer(&here.netns, &far.netns, to, 5001, 1 << 20)?;
        for (index, peer) in [(0, "b"), (1, "a")] {
            let row = lab.node(index).path(peer, "kernel-vxlan")?;
            let row = row.context("listed")?;
            ensure!(
                row["active"] == true,
                "1 % loss is no reason to leave: {row}"
            );
        }
        // The path goes away under a connection, and comes back.
        let across = std::thread::scope(|scope| -> Result<_> {
            let moving = scope.spawn(|| transfer(&here.netns, &far.netns, to, 5002, 6 << 20));
            std::thread::sleep(Duration::from_millis(500));
            fast_path(lab, false)?;
            ensure!(
                !moving.is_finished(),
                "the transfer was over before the path moved"
            );
            moving
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .context("a connection whose path moved")
        })?;
        let quic = transfer(&here.netns, &far.netns, to, 5003, 1 << 20)?;
        say(&format!(
            "40 ms, 1 % loss, reordering; both ways at once: 1 MiB in the kernel {:.1} s, 2 MiB from kernel to QUIC {:.1} s, 1 MiB by QUIC {:.1} s",
            kernel.seconds, across.seconds, quic.seconds
        ));
        Ok(())
    });
}

/// Turns the kernel's fast path on or off everywhere; returns when it is so.
fn fast_path(lab: &Lab, on: bool) -> Result<()> {
    for (index, peer) in [(0, "b"), (1, "a")] {
        lab.set_fast_path(index, on)?;
        lab.node(index).waits_for_kernel_path(peer, on, SOON)?;
    }
    Ok(())
}

/// Pings until both hosts' kernels carry the flow from `from` to `to`.
fn both_in_kernel(lab: &Lab, from: &Station, to: &Station) -> Result<()> {
    interop_tests::wait("the flow lives in the kernel", SOON, || {
        ping(&from.netns, to.port.v4()?, 1, 56)?;
        Ok(in_kernel(lab, from.host, from)? && in_kernel(lab, to.host, from)?)
    })?;
    Ok(())
}

/// True if the kernel of `host` carries a flow from `from`.
fn in_kernel(lab: &Lab, host: usize, from: &Station) -> Result<bool> {
    let flows = lab.node(host).flows("kernel")?;
    let is_its = |text: &str| text.starts_with(&from.port.mac);
    Ok(flows
        .iter()
        .any(|flow| flow["flow"].as_str().is_some_and(is_its)))
}

/// As Docker has it.
const DROP: &str =
    "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }";

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_firewall_that_drops_what_bridges_forward_is_stepped_back_from() {
    scene(LabSpec::hosts(2).containers(2).trusted(), |lab| {
        needs(&["br_netfilter"])?;
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (here, near, far) = (&stations[0], &stations[1], &stations[2]);
        for to in [near, far] {
            both_in_kernel(lab, here, to)?;
        }
        let beside = Probe::start(&here.netns, &near.netns, near.port.v4()?, 5000, 400)?;
        let across = Probe::start(&here.netns, &far.netns, far.port.v4()?, 5000, 400)?;
        for host in &lab.hosts {
            let switch = netns::run(
                &host.netns,
                "cat",
                &["/proc/sys/net/bridge/bridge-nf-call-iptables"],
            )?;
            ensure!(
                switch.trim() == "1",
                "bridges of {} are not filtered",
                host.letter
            );
            netns::run(&host.netns, "nft", &[DROP])?;
        }
        for (probe, what) in [(&beside, "on one host"), (&across, "between two")] {
            let came = probe.received();
            interop_tests::wait(&format!("traffic {what} goes on"), SOON, || {
                Ok(probe.received() > came + 100)
            })?;
        }
        for host in 0..2 {
            ensure!(
                !in_kernel(lab, host, here)?,
                "the kernel still has it on host {host}"
            );
        }
        for host in &lab.hosts {
            netns::run(&host.netns, "nft", &["delete", "table", "ip", "filter"])?;
        }
        for to in [near, far] {
            both_in_kernel(lab, here, to)?;
        }
        let came = (beside.received(), across.received());
        interop_tests::wait("traffic goes on in the kernel", SOON, || {
            Ok(beside.received() > came.0 + 100 && across.received() > came.1 + 100)
        })?;
        let (beside, across) = (beside.finish(), across.finish());
        say(&format!(
            "a FORWARD policy of drop: outages of {} ms on one host, {} ms between two",
            beside.gap.as_millis(),
            across.gap.as_millis()
        ));
        let limit = Duration::from_secs(3) * interop_tests::slow();
        ensure!(
            beside.gap < limit && across.gap < limit,
            "{beside:?} {across:?}"
        );
        ping_until(&far.netns, here.port.v4()?, SOON)?;
        Ok(())
    });
}
