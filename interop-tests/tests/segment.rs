//! The main job: containers on different hosts share an Ethernet segment.

use anyhow::{Result, bail, ensure};
use interop_tests::lab::{LabSpec, scene};
use interop_tests::lookup::{self, Kind, ask};
use interop_tests::netns::within;
use interop_tests::node::Node;
use interop_tests::segment::ping_pairs;
use interop_tests::traffic::{ping, ping_until, tcp_opens, transfer};
use std::net::IpAddr;
use std::time::Duration;

const BOTH: [&str; 4] = ["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"];

#[test]
fn three_hosts_become_one_switch() {
    scene(LabSpec::hosts(3).containers(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &BOTH)?;
        ensure!(ping_pairs(&stations, false)? == 30, "all pairs by IPv4");
        ensure!(ping_pairs(&stations, true)? == 30, "all pairs by IPv6");
        // A kernel greets a network as soon as its interface is up, perhaps before the far node has heard of the port:
        // from here on all know of all.
        let strangers = lab
            .nodes
            .iter()
            .map(|node| node.drops("not-on-network"))
            .collect::<Result<Vec<_>>>()?;
        let (first, last) = (&stations[0], &stations[5]);
        transfer(&first.netns, &last.netns, last.port.v4()?, 5000, 32 << 20)?;
        transfer(&first.netns, &last.netns, last.port.v6()?, 5000, 32 << 20)?;
        // Two containers of one host.
        transfer(
            &first.netns,
            &stations[1].netns,
            stations[1].port.v4()?,
            5000,
            32 << 20,
        )?;
        for (node, strangers) in lab.nodes.iter().zip(strangers) {
            for (reason, before) in [
                ("malformed", 0),
                ("spoofed-source", 0),
                ("not-on-network", strangers),
                ("bad-datagram", 0),
            ] {
                let drops = node.drops(reason)? - before;
                ensure!(drops == 0, "{drops} drops for {reason} on {}", node.name);
            }
        }
        Ok(())
    });
}

#[test]
fn containers_find_each_other_by_name_and_nobody_changes_the_zone() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &BOTH)?;
        let (here, far) = (&stations[0], &stations[1]);
        let server: IpAddr = "10.10.0.1".parse()?;
        ping_until(&here.netns, server, Duration::from_secs(5))?;
        let name = "cb1.lan.lab.internal";
        interop_tests::wait("the name spreads", Duration::from_secs(5), || {
            Ok(ask(&here.netns, server, name, Kind::A)?.code == 0)
        })?;
        ensure!(ask(&here.netns, server, name, Kind::A)?.ips == [far.port.v4()?]);
        ensure!(ask(&here.netns, server, name, Kind::Aaaa)?.ips == [far.port.v6()?]);
        for ip in [far.port.v4()?, far.port.v6()?] {
            let names = ask(&here.netns, server, &lookup::reverse(ip), Kind::Ptr)?.names;
            ensure!(
                names
                    .iter()
                    .any(|found| found.trim_end_matches('.') == name),
                "{ip} is named {names:?}"
            );
        }
        // By IPv6, from the other side, at the same service address.
        ensure!(
            ask(
                &far.netns,
                "fd10::1".parse()?,
                "ca1.lan.lab.internal",
                Kind::A
            )?
            .ips == [here.port.v4()?]
        );
        ensure!(
            ask(&here.netns, server, "nobody.lan.lab.internal", Kind::A)?.code == 3,
            "no such name"
        );
        ensure!(
            ask(&here.netns, server, "lan.lab.internal", Kind::Axfr)?
                .ips
                .is_empty()
        );
        for zone in ["lan.lab.internal", "lab.internal", "0.10.10.in-addr.arpa"] {
            let head = ask(&here.netns, server, zone, Kind::Soa)?;
            ensure!(head.code == 0 && head.zones.len() == 1, "{zone}: {head:?}");
            let servers = ask(&here.netns, server, zone, Kind::Ns)?.names;
            ensure!(
                servers.len() == 1 && servers[0].starts_with("meshd.lan."),
                "{servers:?}"
            );
        }
        for (name, zone) in [
            ("nobody.lan.lab.internal", "lan.lab.internal"),
            ("web.other.lab.internal", "lab.internal"),
            ("99.0.10.10.in-addr.arpa", "0.10.10.in-addr.arpa"),
        ] {
            let no = ask(&here.netns, server, name, Kind::A)?;
            let told: Vec<_> = no.zones.iter().map(|z| z.trim_end_matches('.')).collect();
            ensure!(no.code == 3 && told == [zone], "{name}: {no:?}");
        }
        let code = lookup::update(&here.netns, server, "lan.lab.internal")?;
        ensure!(code != 0, "a dynamic update was accepted");
        Ok(())
    });
}

fn underlay_of_1500_carries(mtu: u16) {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let text = mtu.to_string();
        let stations = lab.segment(
            "lan",
            &[
                "--subnet",
                "10.10.0.0/24",
                "--subnet",
                "fd10::/64",
                "--mtu",
                &text,
            ],
        )?;
        let (here, far) = (&stations[0], &stations[1]);
        ping_until(&here.netns, far.port.v4()?, Duration::from_secs(5))?;
        let (v4, v6) = (u32::from(mtu) - 28, u32::from(mtu) - 48);
        ensure!(
            ping(&here.netns, far.port.v4()?, 10, v4)?.received >= 10,
            "a full IPv4 packet passes"
        );
        ensure!(
            ping(&here.netns, far.port.v6()?, 10, v6)?.received >= 10,
            "a full IPv6 packet passes"
        );
        ensure!(
            ping(&here.netns, far.port.v4()?, 2, v4 + 1)?.received == 0,
            "one byte more does not"
        );
        transfer(&here.netns, &far.netns, far.port.v4()?, 5000, 32 << 20)?;
        transfer(&far.netns, &here.netns, here.port.v6()?, 5000, 32 << 20)?;
        Ok(())
    });
}

#[test]
fn full_packets_of_1500_bytes_cross_an_underlay_of_1500() {
    underlay_of_1500_carries(1500);
}

#[test]
fn full_packets_of_9000_bytes_cross_an_underlay_of_1500() {
    underlay_of_1500_carries(9000);
}

#[test]
fn an_underlay_without_ipv4_is_enough() {
    scene(LabSpec::hosts(3).v6_only(), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &BOTH)?;
        ping_pairs(&stations, false)?;
        ping_pairs(&stations, true)?;
        transfer(
            &stations[0].netns,
            &stations[2].netns,
            stations[2].port.v4()?,
            5000,
            16 << 20,
        )?;
        Ok(())
    });
}

/// TCP that goes on trying once a second. At 30 % loss two of three tries come to nothing, frame or answer, and with
/// waits that double each time, as far as two minutes, a good network may look dead for longer than a test can wait.
/// Kernels before 6.15 cannot be told.
fn patient_tcp(netns: &str) -> Result<()> {
    within(netns, || {
        for (name, value) in [("tcp_rto_max_ms", "1000"), ("tcp_retries2", "100")] {
            match std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    bail!("{name}: {error}")
                }
                _ => {}
            }
        }
        Ok(())
    })
}

#[test]
fn with_30_percent_loss_on_the_underlay_transfers_complete_and_nobody_is_declared_dead() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &BOTH)?;
        let (here, far) = (&stations[0], &stations[1]);
        ping_until(&here.netns, far.port.v4()?, Duration::from_secs(5))?;
        // At the start both may dial, and one of the two sessions gives way to the other.
        let settled = |node: &Node| Ok::<_, anyhow::Error>(node.events("peer-down")?.len());
        let before = lab.nodes.iter().map(settled).collect::<Result<Vec<_>>>()?;
        for station in [here, far] {
            patient_tcp(&station.netns)?;
        }
        lab.lose(30)?;
        ping_until(&here.netns, far.port.v4()?, Duration::from_secs(30))?;
        transfer(&here.netns, &far.netns, far.port.v4()?, 5000, 256 << 10)?;
        // Long enough for a wrong verdict of the membership protocol.
        std::thread::sleep(Duration::from_secs(6));
        for (node, before) in lab.nodes.iter().zip(before) {
            ensure!(
                node.events("node-dead")?.is_empty(),
                "{} declared a node dead",
                node.name
            );
            ensure!(settled(node)? == before, "{} lost a session", node.name);
        }
        ensure!(lab.eaten(0)? > 0, "there was loss");
        Ok(())
    });
}

#[test]
fn two_networks_with_one_subnet_do_not_see_each_other() {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        lab.mesh()?;
        lab.network("red", &["--subnet", "10.10.0.0/24"])?;
        lab.network("blue", &["--subnet", "10.10.0.0/24"])?;
        let mut ports = Vec::new();
        for host in 0..2 {
            let last = host + 2;
            for (container, network) in ["red", "blue"].iter().enumerate() {
                let ip = format!("10.10.0.{last}{container}/24");
                ports.push(lab.node(host).attach(
                    network,
                    lab.container(host, container),
                    &["--ip", &ip],
                )?);
            }
        }
        // Addresses 20 (red) and 21 (blue) on host a, 30 and 31 on host b.
        let (red, blue) = (lab.container(0, 0), lab.container(0, 1));
        for port in &ports {
            lab.node(0).learns(&port.mac)?;
        }
        ping_until(red, "10.10.0.30".parse()?, Duration::from_secs(5))?;
        ping_until(blue, "10.10.0.31".parse()?, Duration::from_secs(5))?;
        for (from, to) in [
            (red, "10.10.0.31"),
            (red, "10.10.0.21"),
            (blue, "10.10.0.30"),
            (blue, "10.10.0.20"),
        ] {
            ensure!(
                ping(from, to.parse()?, 2, 56)?.received == 0,
                "{to} answered across networks"
            );
        }
        // The same address on both networks is two addresses.
        let extra = lab.add_container(0, "x")?;
        lab.node(0)
            .attach("blue", &extra, &["--ip", "10.10.0.30/24"])?;
        ping_until(blue, "10.10.0.30".parse()?, Duration::from_secs(5))?;
        Ok(())
    });
}

#[test]
fn one_container_on_two_networks_keeps_them_apart() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let red = lab.segment("red", &["--subnet", "10.10.0.0/24"])?;
        lab.network("blue", &["--subnet", "10.20.0.0/24"])?;
        let (here, there) = (lab.container(0, 0), lab.container(1, 0));
        lab.node(0).attach("blue", here, &["--ifname", "eth1"])?;
        let far = lab.node(1).attach("blue", there, &["--ifname", "eth1"])?;
        lab.node(0).learns(&far.mac)?;
        ping_until(here, far.v4()?, Duration::from_secs(5))?;
        ping_until(here, red[1].port.v4()?, Duration::from_secs(5))?;
        ensure!(tcp_opens(
            here,
            there,
            far.v4()?,
            5000,
            Duration::from_secs(10)
        )?);
        Ok(())
    });
}

#[test]
fn the_daemon_speaks_to_the_operator_in_json_and_in_tables() -> Result<()> {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.segment("lan", &BOTH)?;
        let node = lab.node(0);
        for command in [
            "status",
            "members",
            "peers",
            "paths",
            "network ls",
            "ports",
            "fdb",
            "drops",
            "doctor",
            "events",
        ] {
            let words: Vec<_> = command.split(' ').collect();
            ensure!(
                !node.ok(&words)?.trim().is_empty(),
                "`meshd {command}` says nothing"
            );
            node.json(&words)?;
        }
        ensure!(node.json(&["status"])?["peers_up"] == 1);
        // Usage errors have an exit code of their own.
        ensure!(node.tell(&["attach"])?.code == 2 && node.tell(&["no-such-command"])?.code == 2);
        ensure!(
            node.refused(&["attach", "no-such-network", "--netns", lab.container(0, 0)])?
                .contains("no-such-network")
        );
        Ok(())
    });
    Ok(())
}
