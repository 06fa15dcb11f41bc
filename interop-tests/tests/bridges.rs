//! Bridges that somebody else made: joined to a network, waited for, released as they were.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{Lab, LabSpec, nothing_left, scene};
use interop_tests::netns::{self, ip};
use interop_tests::node::Node;
use interop_tests::traffic::{ping, ping_until, transfer};
use serde_json::Value;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Puts a guest of somebody else into a bridge of a host: a namespace with an `eth0`.
fn guest(lab: &Lab, host: usize, bridge: &str, n: usize, address: &str) -> Result<String> {
    let guest = lab.add_container(host, &format!("g{n}"))?;
    let netns = &lab.hosts[host].netns;
    ip(&format!(
        "-n {netns} link add vnet{n} mtu 1500 type veth peer name eth0 netns {guest}"
    ))?;
    ip(&format!("-n {netns} link set vnet{n} master {bridge} up"))?;
    ip(&format!("-n {guest} link set eth0 mtu 1380 up"))?;
    ip(&format!("-n {guest} addr add {address} dev eth0"))?;
    Ok(guest)
}

fn port(node: &Node) -> Result<Value> {
    let ports = node.list("ports")?;
    let mut bridges = ports
        .into_iter()
        .filter(|port| port["kind"]["bridge"].is_object());
    bridges.next().context("no port is a bridge")
}

/// What may not change of a bridge: its settings, its MAC and MTU, and what else is in it.
fn settings(netns: &str, bridge: &str) -> Result<String> {
    let own = netns::run(netns, "ip", &["-d", "-j", "link", "show", bridge])?;
    let mut own: Value = serde_json::from_str(&own)?;
    for timer in [
        "hello_timer",
        "tcn_timer",
        "topology_change_timer",
        "gc_timer",
        "topology_change",
    ] {
        own[0]["linkinfo"]["info_data"]
            .as_object_mut()
            .context("a bridge")?
            .remove(timer);
    }
    let picked: Vec<String> = ["address", "mtu", "linkinfo"]
        .iter()
        .map(|key| own[0][key].to_string())
        .collect();
    Ok(picked.join("\n"))
}

fn members(netns: &str, bridge: &str) -> Result<Vec<String>> {
    let links = netns::run(netns, "ip", &["-j", "link", "show", "master", bridge])?;
    let links: Vec<Value> = serde_json::from_str(&links)?;
    let names = links.iter().filter_map(|link| link["ifname"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn waits(node: &Node, text: &str) -> Result<()> {
    interop_tests::wait(text, SOON, || {
        let found = port(node);
        Ok(found.is_ok_and(|port| {
            let why = port["reason"].as_str().unwrap_or_default();
            port["state"] == "failed" && why.contains(text)
        }))
    })?;
    Ok(())
}

#[test]
fn guests_in_a_foreign_bridge_are_on_the_network_and_it_is_left_as_it_was() {
    for trusted in [false, true] {
        let spec = LabSpec::hosts(2);
        scene(if trusted { spec.trusted() } else { spec }, |lab| {
            lab.mesh()?;
            lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
            let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
            ip(&format!("-n {host} link add virbr0 type bridge"))?;
            ip(&format!("-n {host} link set virbr0 up"))?;
            ip(&format!("-n {host} addr add 10.10.0.50/24 dev virbr0"))?;
            let guests = [
                guest(lab, 0, "virbr0", 1, "10.10.0.101/24")?,
                guest(lab, 0, "virbr0", 2, "10.10.0.102/24")?,
            ];
            let before = settings(&host, "virbr0")?;
            let far = lab.node(1).attach("lan", lab.container(1, 0), &[])?;
            let near = node.attach("lan", lab.container(0, 0), &[])?;
            if trusted {
                node.waits_for_kernel_path("b", true, SOON)?;
            }
            let words = ["attach", "lan", "--bridge", "virbr0", "--name", "guests"];
            node.ok(&words)?;
            node.ok(&["ports", "wait", "guests"])?;
            ensure!(members(&host, "virbr0")?.len() == 3);
            ensure!(settings(&host, "virbr0")? == before, "joined");
            for guest in &guests {
                ping_until(guest, far.v4()?, SOON)?;
                ping_until(guest, near.v4()?, SOON)?;
            }
            // The other way round, and to the host itself on its bridge.
            for address in ["10.10.0.101", "10.10.0.102", "10.10.0.50"] {
                ping_until(lab.container(1, 0), address.parse()?, SOON)?;
            }
            let moved = transfer(&guests[0], lab.container(1, 0), far.v4()?, 4000, 8 << 20)?;
            eprintln!(
                "bridge to container, trusted {trusted}: {:.2} Gbit/s each way",
                moved.gbps()
            );

            // The same again is the same port; another network is refused, and says why.
            node.ok(&words)?;
            ensure!(members(&host, "virbr0")?.len() == 3);
            lab.network("other", &["--subnet", "10.11.0.0/24"])?;
            let refused = node.refused(&["attach", "other", "--bridge", "virbr0"])?;
            ensure!(
                refused.contains("bridge virbr0 is that of network lan"),
                "{refused}"
            );
            let refused = node.refused(&["attach", "lan", "--bridge", "virbr0", "--vlan", "3"])?;
            ensure!(refused.contains("joined whole"), "{refused}");

            // A restart adopts it without a gap for the bridge.
            let index =
                |netns: &str| netns::run(netns, "ip", &["-o", "link", "show", "master", "virbr0"]);
            let first = index(&host)?;
            node.restart()?;
            node.ok(&["ports", "wait", "guests"])?;
            let names = |text: &str| -> Vec<String> {
                let lines = text.lines().filter_map(|line| line.split(": ").next());
                lines.map(str::to_owned).collect()
            };
            ensure!(names(&first) == names(&index(&host)?), "the same devices");
            ping_until(&guests[0], far.v4()?, SOON)?;

            // Somebody takes our port out of it.
            let ours = members(&host, "virbr0")?;
            let ours = ours.iter().find(|name| name.starts_with("mt"));
            let ours = ours.context("no TAP of ours in the bridge")?;
            ip(&format!("-n {host} link set {ours} nomaster"))?;
            interop_tests::wait("it is put back", SOON, || {
                Ok(members(&host, "virbr0")?.contains(ours))
            })?;
            ping_until(&guests[0], far.v4()?, SOON)?;

            node.ok(&["detach", "guests"])?;
            ensure!(settings(&host, "virbr0")? == before, "released");
            let left = members(&host, "virbr0")?;
            ensure!(left.iter().all(|name| name.starts_with("vnet")), "{left:?}");
            ensure!(ping(&guests[0], far.v4()?, 1, 56)?.received == 0);
            ping_until(&guests[0], "10.10.0.102".parse()?, SOON)?;
            Ok(())
        });
    }
}

#[test]
fn a_network_waits_for_the_bridge_that_the_config_names() {
    scene(LabSpec::hosts(2), |lab| {
        // Watched if it is there from the start.
        std::fs::write(&lab.node(0).config, "")?;
        lab.mesh()?;
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        let far: IpAddr = "10.10.0.201".parse()?;
        let config = |text: &str| std::fs::write(&node.config, text).context("write a config file");
        config("[[network]]\nname = \"lan\"\nsubnets = [\"10.10.0.0/24\"]\nbridge = \"br7\"\n")?;
        // The rest is applied.
        interop_tests::wait("network", SOON, || lab.node(1).knows_network("lan"))?;
        let words = ["--ip", "10.10.0.201/24"];
        lab.node(1).attach("lan", lab.container(1, 0), &words)?;
        waits(node, "no bridge \"br7\"")?;
        let doctor = node.tell(&["doctor"])?;
        ensure!(
            doctor.stdout.contains("network lan waits for a bridge"),
            "{}",
            doctor.stdout
        );
        let shown = node.ok(&["network", "ls"])?;
        ensure!(shown.contains("waits for bridge br7"), "{shown}");
        ensure!(!node.events("port-failed")?.is_empty(), "it is told");

        // What is no bridge is named as such.
        ip(&format!("-n {host} link add br7 type veth peer name br8"))?;
        waits(node, "no bridge; `--uplink br7`")?;
        ip(&format!("-n {host} link del br7"))?;

        // It comes, goes, and comes again: at once, and not when some timer says.
        for round in 0..2 {
            ip(&format!("-n {host} link add br7 type bridge"))?;
            ip(&format!("-n {host} link set br7 up"))?;
            let guest = guest(lab, 0, "br7", round, &format!("10.10.0.10{round}/24"))?;
            ping_until(&guest, far, SOON)?;
            ip(&format!("-n {host} link del br7"))?;
            waits(node, "no bridge \"br7\"")?;
        }
        ip(&format!("-n {host} link add br7 type bridge"))?;
        interop_tests::wait("joined again", SOON, || {
            Ok(members(&host, "br7")?.len() == 1)
        })?;

        // Two networks with one bridge are refused with the line, and the running config stays.
        config(
            "[[network]]\nname = \"lan\"\nbridge = \"br7\"\n\n[[network]]\nname = \"other\"\nbridge = \"br7\"\n",
        )?;
        interop_tests::wait("the file is refused", SOON, || {
            let told = node.events("refused")?;
            Ok(told.iter().any(|event| {
                let text = event.to_string();
                text.contains("is that of networks lan and other") && text.contains("line 7")
            }))
        })?;
        ensure!(members(&host, "br7")?.len() == 1);

        // Another bridge, then none.
        ip(&format!("-n {host} link add br9 type bridge"))?;
        config("[[network]]\nname = \"lan\"\nsubnets = [\"10.10.0.0/24\"]\nbridge = \"br9\"\n")?;
        interop_tests::wait("the other bridge", SOON, || {
            Ok(members(&host, "br9")?.len() == 1 && members(&host, "br7")?.is_empty())
        })?;
        config("[[network]]\nname = \"lan\"\nsubnets = [\"10.10.0.0/24\"]\n")?;
        interop_tests::wait("no bridge", SOON, || Ok(members(&host, "br9")?.is_empty()))?;
        interop_tests::wait("no port", SOON, || Ok(node.ports()?.is_empty()))?;
        nothing_left(&host)?;
        ip(&format!("-n {host} link show br7"))?;

        // Its name may be any bytes.
        let name = OsStr::from_bytes(b"br\xff\xfe");
        let mut make = netns::command(&host, "ip")?;
        make.args(["link", "add"])
            .arg(name)
            .args(["type", "bridge"]);
        netns::output(&mut make)?;
        let words = ["attach", "lan", "--bridge"].map(OsStr::new);
        node.ok(&[&words[..], &[name]].concat())?;
        interop_tests::wait("a name of bytes", SOON, || {
            Ok(port(node)?["state"] == "ready")
        })?;
        Ok(())
    });
}

#[test]
fn a_bridge_that_meshd_makes_itself_is_seen_to_be_up_however_soon_it_was_joined() {
    scene(LabSpec::hosts(1).containers(1), |lab| {
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        ip(&format!(
            "-n {host} link add p0 type veth peer name p0 netns {}",
            lab.container(0, 0)
        ))?;
        let write = |text: &str| std::fs::write(&node.config, text).context("write a config file");
        let base = "[[network]]\nname = \"lan\"\nsubnets = [\"10.10.0.0/24\"]\n";
        write(base)?;
        node.init("lab")?;
        node.run()?;
        let own = "[[device.bridge]]\nname = \"br-home\"\nmembers = [\"p0\"]\n";
        for _ in 0..2 {
            write(&format!("{own}{base}bridge = \"br-home\"\n"))?;
            // It is named, and joined, before it is raised.
            interop_tests::wait("it is up, and known to be", SOON, || {
                let ports = node.list("ports")?;
                let is_it = |row: &Value| row["state"] == "ready" && row["link"] == true;
                Ok(ports
                    .iter()
                    .any(|row| is_it(row) && row["reason"].is_null()))
            })?;
            write(base)?;
            interop_tests::wait("it is gone", SOON, || Ok(node.ports()?.is_empty()))?;
        }
        Ok(())
    });
}

#[test]
fn a_networks_own_bridge_has_a_spanning_tree_of_its_site_and_is_kept_as_the_file_says() {
    scene(LabSpec::hosts(2), |lab| {
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        let config = |priority: u16| {
            let text = format!(
                "[[device.bridge]]\nname = \"br-home\"\nmembers = [\"p0\"]\nstp = true\npriority = {priority}\n\
                 multicast_snooping = true\nmulticast_querier = true\n\n\
                 [[network]]\nname = \"lan\"\nsubnets = [\"10.10.0.0/24\"]\nbridge = \"br-home\"\n"
            );
            std::fs::write(&node.config, text).context("write a config file")
        };
        config(4096)?;
        let station = lab.add_container(0, "s")?;
        ip(&format!(
            "-n {host} link add p0 type veth peer name eth0 netns {station}"
        ))?;
        ip(&format!("-n {station} link set eth0 up"))?;
        lab.mesh()?;
        interop_tests::wait("network", SOON, || lab.node(1).knows_network("lan"))?;
        let far = lab.container(1, 0);
        lab.node(1).attach("lan", far, &[])?;
        let setting = |key: &str| -> Result<Value> {
            let shown = netns::run(&host, "ip", &["-d", "-j", "link", "show", "br-home"])?;
            let shown: Value = serde_json::from_str(&shown)?;
            Ok(shown[0]["linkinfo"]["info_data"][key].clone())
        };
        let becomes = |key: &str, value: u64| {
            interop_tests::wait(&format!("{key} is {value}"), SOON, || {
                Ok(setting(key)? == value)
            })
        };
        for (key, value) in [
            ("stp_state", 1),
            ("priority", 4096),
            ("mcast_snooping", 1),
            ("mcast_querier", 1),
        ] {
            becomes(key, value)?;
        }
        // Its BPDUs reach our port, and the station; they end there.
        let root = |text: &str| {
            interop_tests::wait(&format!("the root is {text}"), SOON, || {
                let root = port(node)?["stp_root"].clone();
                Ok(root.as_str().is_some_and(|root| root.starts_with(text)))
            })
        };
        root("4096 ")?;
        let bpdus = |netns: &str, time: Duration| -> Result<usize> {
            let tap = interop_tests::frames::Tap::open(netns, "eth0")?;
            let is_bpdu = |frame: &[u8]| frame.starts_with(&[0x01, 0x80, 0xc2, 0, 0, 0]);
            let heard = tap.hear(time, is_bpdu)?;
            Ok(heard.iter().filter(|frame| is_bpdu(frame)).count())
        };
        ensure!(bpdus(&station, SOON)? == 1, "the bridge speaks");
        ensure!(bpdus(far, Duration::from_secs(3))? == 0, "they cross");
        // What somebody else sets is set back, and a change of the file applies.
        ip(&format!(
            "-n {host} link set br-home type bridge stp_state 0 mcast_querier 0"
        ))?;
        becomes("stp_state", 1)?;
        becomes("mcast_querier", 1)?;
        config(8192)?;
        becomes("priority", 8192)?;
        root("8192 ")?;
        ensure!(port(node)?["state"] == "ready");
        Ok(())
    });
}
