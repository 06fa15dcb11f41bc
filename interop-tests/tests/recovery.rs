//! What goes on when something ends: daemons, hosts, the wire, addresses.

use anyhow::{Context, ensure};
use interop_tests::lab::{LabSpec, scene};
use interop_tests::netns;
use interop_tests::segment::ping_pairs;
use interop_tests::traffic::{Probe, ping_until, transfer};
use std::io::Write;
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];

#[test]
fn a_daemon_that_is_killed_under_traffic_comes_back_with_its_ports() {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (here, far) = (&stations[0], &stations[2]);
        ping_until(&here.netns, far.port.v4()?, Duration::from_secs(5))?;
        let before = lab.node(1).ports()?;
        let link = netns::run(&far.netns, "ip", &["-o", "link", "show", "eth0"])?;
        let probe = Probe::start(&here.netns, &far.netns, far.port.v4()?, 5000, 1000)?;
        std::thread::sleep(Duration::from_millis(500));
        lab.node(1).kill();
        lab.node(1).run()?;
        let came = probe.received();
        interop_tests::wait("traffic flows again", Duration::from_secs(10), || {
            Ok(probe.received() > came + 500)
        })?;
        let seen = probe.finish();
        let after = lab.node(1).ports()?;
        let _ = writeln!(
            std::io::stderr(),
            "restart under traffic: outage {} ms, {} of {} datagrams lost, {} duplicated",
            seen.gap.as_millis(),
            seen.lost(),
            seen.sent,
            seen.duplicated
        );
        ensure!(
            seen.duplicated == 0,
            "{} datagrams came twice",
            seen.duplicated
        );
        ensure!(
            before.len() == after.len(),
            "ports: {before:?}, then {after:?}"
        );
        for (old, new) in before.iter().zip(&after) {
            ensure!(
                (old.id, &old.mac, &old.ips) == (new.id, &new.mac, &new.ips),
                "{old:?} became {new:?}"
            );
        }
        ensure!(
            link == netns::run(&far.netns, "ip", &["-o", "link", "show", "eth0"])?,
            "the container's interface was replaced"
        );
        lab.converged(Duration::from_secs(10))?;
        ping_pairs(&stations, false)?;
        Ok(())
    });
}

#[test]
fn a_daemon_stops_within_a_second_though_a_member_is_out_of_reach_and_starts_again_at_once() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.segment("lan", &SUBNET)?;
        netns::run(&lab.hosts[1].netns, "ip", &["link", "set", "und0", "down"])?;
        for _ in 0..3 {
            let start = std::time::Instant::now();
            lab.node(0).stop()?;
            let took = start.elapsed();
            ensure!(took < Duration::from_secs(1), "it took {took:?} to stop");
            // Its port and state are free by then, or are waited for.
            lab.node(0).run()?;
        }
        ensure!(lab.node(0).ports()?.len() == 1);
        Ok(())
    });
}

#[test]
fn an_orderly_stop_and_start_keeps_members_networks_and_ports() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        for node in &lab.nodes {
            node.stop()?;
        }
        for node in &lab.nodes {
            node.run()?;
        }
        lab.converged(Duration::from_secs(10))?;
        lab.know_each_other(&stations)?;
        ping_pairs(&stations, false)?;
        transfer(
            &stations[0].netns,
            &stations[1].netns,
            stations[1].port.v4()?,
            5000,
            1 << 20,
        )?;
        Ok(())
    });
}

#[test]
fn a_dead_host_is_withdrawn_within_5_seconds_and_its_return_is_seen() {
    scene(LabSpec::hosts(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (a, b, c) = (&stations[0], &stations[1], &stations[2]);
        ping_pairs(&stations, false)?;
        lab.node(2).kill();
        let took = interop_tests::wait("c is withdrawn", Duration::from_secs(5), || {
            Ok(!lab.node(0).knows_mac(&c.port.mac)? && !lab.node(1).knows_mac(&c.port.mac)?)
        })?;
        let _ = writeln!(
            std::io::stderr(),
            "dead host: withdrawn after {} ms",
            took.as_millis()
        );
        ensure!(lab.node(0).member_state("c")? == "dead");
        ping_until(&a.netns, b.port.v4()?, Duration::from_secs(2))?;
        lab.node(2).run()?;
        let back = ping_until(&a.netns, c.port.v4()?, Duration::from_secs(10))?;
        let _ = writeln!(
            std::io::stderr(),
            "dead host: reached again {} ms after its start",
            back.as_millis()
        );
        ensure!(lab.node(0).member_state("c")? == "alive");
        Ok(())
    });
}

#[test]
fn a_partition_heals_without_anybodys_help() {
    scene(LabSpec::hosts(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (a, b, c) = (&stations[0], &stations[1], &stations[2]);
        lab.partition(&[2])?;
        interop_tests::wait("c is withdrawn", Duration::from_secs(8), || {
            Ok(!lab.node(0).knows_mac(&c.port.mac)?)
        })?;
        ping_until(&a.netns, b.port.v4()?, Duration::from_secs(2))?;
        lab.heal()?;
        ping_until(&a.netns, c.port.v4()?, Duration::from_secs(15))?;
        lab.know_each_other(&stations)?;
        ping_pairs(&stations, false)?;
        Ok(())
    });
}

#[test]
fn what_somebody_does_to_the_devices_of_a_port_is_undone() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (here, far) = (&stations[0], &stations[1]);
        ping_until(&here.netns, far.port.v4()?, Duration::from_secs(5))?;
        let node = lab.node(0);
        let (veth, tap) = (
            format!("mv{:x}", here.port.id),
            format!("mt{:x}", here.port.id),
        );
        let faults = [
            ("ip", format!("link del {tap}")),
            ("ip", format!("link set {tap} down")),
            ("ip", format!("link set {veth} down")),
            ("tc", format!("qdisc del dev {veth} clsact")),
            ("tc", format!("filter del dev {tap} ingress")),
        ];
        let repairs = || -> anyhow::Result<usize> {
            let events = node.tell(&["events"])?.stdout;
            Ok(events.matches("wired again").count())
        };
        for (tool, words) in &faults {
            let before = repairs()?;
            netns::run(&node.netns, tool, &words.split(' ').collect::<Vec<_>>())?;
            let start = std::time::Instant::now();
            // On a busy machine it may be seen in two steps, and later.
            interop_tests::wait(
                &format!("{words}: noticed"),
                Duration::from_secs(10),
                || Ok(repairs()? > before),
            )?;
            ping_until(&here.netns, far.port.v4()?, Duration::from_secs(10))?;
            ping_until(&far.netns, here.port.v4()?, Duration::from_secs(10))?;
            let _ = writeln!(
                std::io::stderr(),
                "{tool} {words}: frames flow again after {} ms",
                start.elapsed().as_millis()
            );
        }
        ensure!(
            node.ports()?
                .iter()
                .any(|port| port.id == here.port.id && port.mac == here.port.mac),
            "the port is what it was"
        );
        Ok(())
    });
}

#[test]
fn containers_that_end_are_no_trouble_of_their_network() {
    scene(LabSpec::hosts(1).containers(8), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        ping_pairs(&stations[..2], false)?;
        let node = lab.node(0);
        for station in &stations {
            netns::ip(&format!("netns del {}", station.netns))?;
        }
        interop_tests::wait("all ports are gone", Duration::from_secs(10), || {
            Ok(node.ports()?.is_empty())
        })?;
        let told = node.events("port-gone")?.len();
        ensure!(told == stations.len(), "{told} are told");
        let trouble = node.events("kernel-trouble")?;
        ensure!(trouble.is_empty(), "{trouble:?}");
        Ok(())
    });
}

#[test]
fn a_host_that_changes_its_underlay_address_is_found_again() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        ping_pairs(&stations, false)?;
        let host = &lab.hosts[1];
        for words in ["addr flush dev und0", "addr add 192.0.2.99/24 dev und0"] {
            let words: Vec<_> = words.split(' ').collect();
            netns::run(&host.netns, "ip", &words)?;
        }
        ping_until(
            &stations[0].netns,
            stations[1].port.v4()?,
            Duration::from_secs(10),
        )?;
        ping_until(
            &stations[1].netns,
            stations[0].port.v4()?,
            Duration::from_secs(10),
        )?;
        Ok(())
    });
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    scene(LabSpec::hosts(1).containers(3), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &SUBNET)?;
        let mut ips = Vec::new();
        for index in 0..3 {
            // Killed the moment the answer is there.
            let port = node.attach("lan", lab.container(0, index), &[])?;
            node.kill();
            node.run()?;
            let kept = node.ports()?;
            ensure!(
                kept.iter()
                    .any(|kept| kept.id == port.id && kept.ips == port.ips),
                "port {} is gone: {kept:?}",
                port.id
            );
            ips.push(port.v4()?);
        }
        ips.sort();
        ips.dedup();
        ensure!(ips.len() == 3, "an address was leased twice: {ips:?}");
        let token = node.invite(&[])?;
        node.kill();
        node.run()?;
        node.json(&["status"])?["node"]["id"]
            .as_str()
            .context("no id")?;
        ensure!(!token.is_empty() && node.knows_network("lan")?);
        Ok(())
    });
}

#[test]
fn a_container_that_is_attached_anew_is_reached_at_once_by_those_who_knew_it() {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment(
            "lan",
            &["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"],
        )?;
        let moved = &stations[2];
        let (v4, v6) = (moved.port.v4()?, moved.port.v6()?);
        let others = [&stations[0], &stations[1], &stations[3]];
        for other in others {
            ping_until(&other.netns, v4, Duration::from_secs(5))?;
            ping_until(&other.netns, v6, Duration::from_secs(5))?;
        }
        lab.node(1).ok(&["detach", &moved.port.id.to_string()])?;
        let ips = format!("{v4}/24,{v6}/64");
        let port = lab.node(1).attach("lan", &moved.netns, &["--ip", &ips])?;
        ensure!(port.mac != moved.port.mac, "the port has its old MAC");
        for other in others {
            // Duplicate address detection takes a second.
            for (ip, limit) in [(v4, 2), (v6, 4)] {
                ping_until(&other.netns, ip, Duration::from_secs(limit))?;
            }
        }
        // One that is leased is not the one that has just come back.
        lab.node(1).ok(&["detach", &port.id.to_string()])?;
        let port = lab.node(1).attach("lan", &moved.netns, &[])?;
        ensure!(port.v4()? != v4, "{v4} was leased again at once");
        Ok(())
    });
}
