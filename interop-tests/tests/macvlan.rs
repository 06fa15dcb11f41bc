//! Ports that are a macvlan or a macvtap.

use anyhow::{Context, Result, ensure};
use interop_tests::card::{asks, open};
use interop_tests::frames::mac;
use interop_tests::lab::{Lab, LabSpec, nothing_left, scene};
use interop_tests::netns::{self, ip};
use interop_tests::traffic::{ping, ping_until, transfer};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn port(lab: &Lab, host: usize, name: &str) -> Result<Value> {
    let ports = lab.node(host).list("ports")?;
    let found = ports.into_iter().find(|port| port["name"] == name);
    found.with_context(|| format!("no port {name}"))
}

#[test]
fn a_macvlan_of_each_mode_carries_traffic_and_leaves_nothing() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network(
            "lan",
            &["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"],
        )?;
        let there = lab.node(1).attach("lan", lab.container(1, 0), &[])?;
        let host = lab.hosts[0].netns.clone();
        let container = lab.container(0, 0);
        for mode in ["bridge", "private", "vepa", "passthru", "source"] {
            let mut words = vec!["--kind", "macvlan", "--mode", mode, "--name", "m"];
            if mode == "source" {
                words.extend(["--source", &there.mac]);
            }
            let made = lab.node(0).attach("lan", container, &words)?;
            let shown = netns::run(container, "ip", &["-d", "link", "show", "eth0"])?;
            ensure!(shown.contains(&format!("macvlan mode {mode}")), "{shown}");
            ensure!(shown.contains(&made.mac), "{shown}");
            let again = lab.node(0).attach("lan", container, &words)?;
            ensure!(again.id == made.id);
            ping_until(container, there.v4()?, SOON)?;
            ping_until(lab.container(1, 0), made.v6()?, SOON)?;
            if mode == "bridge" {
                let moved = transfer(container, lab.container(1, 0), there.v4()?, 4000, 4 << 20)?;
                eprintln!("macvlan: {:.2} Gbit/s each way", moved.gbps());
                // A restart adopts it, and the container's interface stays.
                let index = netns::run(container, "ip", &["-o", "link", "show", "eth0"])?;
                lab.node(0).restart()?;
                lab.node(0).ok(&["ports", "wait", "m"])?;
                ping_until(container, there.v4()?, SOON)?;
                let after = netns::run(container, "ip", &["-o", "link", "show", "eth0"])?;
                ensure!(
                    index.split(':').next() == after.split(':').next(),
                    "{index} {after}"
                );
            }
            lab.node(0).ok(&["detach", "m"])?;
            nothing_left(&host)?;
            let left = netns::run(container, "ip", &["-o", "link", "show"])?;
            ensure!(left.lines().count() == 1, "{left}");
        }
        let said = lab.node(0).refused(&[
            "attach", "lan", "--netns", container, "--kind", "macvlan", "--mode", "source",
        ])?;
        ensure!(said.contains("--source"), "{said}");
        Ok(())
    });
}

#[test]
fn a_macvlan_goes_with_its_namespace_and_with_whoever_deletes_it() {
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        for kind in ["macvlan", "macvtap"] {
            let gone = lab.add_container(0, "gone")?;
            node.attach("lan", &gone, &["--kind", kind])?;
            ip(&format!("netns del {gone}"))?;
            interop_tests::wait("the port is given up", SOON, || {
                Ok(node.ports()?.is_empty())
            })?;
            node.attach("lan", lab.container(0, 0), &["--kind", kind])?;
            ip(&format!("-n {} link del eth0", lab.container(0, 0)))?;
            interop_tests::wait("the port is given up", SOON, || {
                Ok(node.ports()?.is_empty())
            })?;
            nothing_left(&node.netns)?;
        }
        Ok(())
    });
}

#[test]
fn a_machine_on_a_macvtap_reaches_the_network_by_its_file() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let there = lab.node(1).attach("lan", lab.container(1, 0), &[])?.v4()?;
        let node = lab.node(0);
        let words = ["--kind", "macvtap", "--ifname", "vm0"];
        let named = [&words[..], &["--ip", "10.10.0.77/24", "--name", "vm"]].concat();
        let made = node.attach("lan", &node.netns, &named)?;
        // The machine has the address, not the host.
        let own = netns::run(&node.netns, "ip", &["addr", "show", "dev", "vm0"])?;
        ensure!(!own.contains("10.10.0.77"), "{own}");
        let shown = port(lab, 0, "vm")?;
        let path = shown["device"]["text"]
            .as_str()
            .context("no device")?
            .to_owned();
        ensure!(path.starts_with("/dev/tap"), "{path}");
        // While nobody has the file open, the host is no station of the network in its place.
        let far = lab.container(1, 0);
        netns::run(&node.netns, "sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
        ip(&format!("-n {} addr add 10.10.0.99/32 dev lo", node.netns))?;
        for address in ["10.10.0.99", "10.10.0.77"] {
            ensure!(
                ping(far, address.parse()?, 2, 56)?.received == 0,
                "{address}"
            );
        }
        let known = netns::run(far, "ip", &["neigh", "show", "10.10.0.99"])?;
        ensure!(!known.contains("lladdr"), "{known}");
        let own = netns::run(&node.netns, "ip", &["-6", "addr", "show", "dev", "vm0"])?;
        ensure!(!own.contains("fe80"), "{own}");

        let own = mac(&made.mac)?;
        let mut file = open(&path)?;
        ensure!(asks(&mut file, own, "10.10.0.77".parse()?, there)?);
        // The daemon's restart leaves the machine's file as it is.
        node.restart()?;
        node.ok(&["ports", "wait", "vm"])?;
        ensure!(asks(&mut file, own, "10.10.0.77".parse()?, there)?);
        // A stranger's MAC, but in passthru mode, is not the machine's: it hears no answer.
        drop(file);
        node.ok(&["detach", "vm"])?;
        ensure!(!std::path::Path::new(&path).exists(), "{path} is left");
        nothing_left(&node.netns)?;

        // In a namespace of its own, in passthru mode, with a MAC of its own choice.
        let words = [
            &words[..],
            &["--ip", "none", "--mode", "passthru", "--name", "vm"],
        ]
        .concat();
        node.attach("lan", lab.container(0, 0), &words)?;
        let shown = port(lab, 0, "vm")?;
        let path = shown["device"]["text"].as_str().context("no device")?;
        let mut file = open(path)?;
        let other = mac("02:00:00:00:0d:01")?;
        ensure!(asks(&mut file, other, "10.10.0.78".parse()?, there)?);
        drop(file);
        node.ok(&["detach", "vm"])?;
        ensure!(!std::path::Path::new(path).exists(), "{path} is left");
        Ok(())
    });
}

#[test]
fn attaching_and_detaching_many_times_leaks_nothing() {
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let descriptors = || -> Result<usize> {
            let pid = node.pid().context("the daemon runs")?;
            Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
        };
        let cycle = |kind: &str| -> Result<()> {
            node.attach("lan", lab.container(0, 0), &["--kind", kind, "--name", "x"])?;
            node.ok(&["detach", "x"])?;
            Ok(())
        };
        cycle("macvtap")?;
        let open = descriptors()?;
        let cycles = std::env::var("MESHD_CYCLES")
            .ok()
            .and_then(|n| n.parse().ok());
        for _ in 0..cycles.unwrap_or(10) {
            for kind in ["veth", "macvlan", "macvtap"] {
                cycle(kind)?;
            }
        }
        interop_tests::wait("all descriptors are closed", SOON, || {
            Ok(descriptors()? <= open)
        })?;
        nothing_left(&node.netns)
    });
}
