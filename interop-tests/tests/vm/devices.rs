//! Host devices with traffic through them: kinds that kernels of developers often lack.

use anyhow::{Context, Result, ensure};
use interop_tests::guest::needs;
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::lookup::{Kind, ask};
use interop_tests::netns::{self, ip};
use interop_tests::node::Node;
use interop_tests::segment::ping_pairs;
use interop_tests::traffic::{Probe, ping, ping_until};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);
const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];

fn becomes(node: &Node, name: &str, state: &str) -> Result<Value> {
    let mut last = Value::Null;
    interop_tests::wait(&format!("{name} is {state}"), SOON, || {
        let rows = node.list("devices")?;
        let row = rows.into_iter().find(|row| row["name"]["text"] == name);
        last = row.unwrap_or_default();
        Ok(last["state"] == state)
    })
    .with_context(|| format!("it is {last}"))?;
    Ok(last)
}

fn index(netns: &str, name: &str) -> Result<String> {
    let line = netns::run(netns, "ip", &["-o", "link", "show", "dev", name])?;
    Ok(line.split(':').next().unwrap_or_default().to_owned())
}

fn write(node: &Node, config: &str) -> Result<()> {
    std::fs::write(&node.config, config).context("write a config file")
}

/// Addresses of the lab's own wire begin so.
const WIRE: [&str; 2] = ["\"192.0.2.", "\"[2001:db8"];

/// Takes ways away by `cut`; returns when both nodes are in session by none of the addresses that begin as `gone`. `by` is
/// offered before.
fn moves_to(lab: &Lab, by: &str, gone: &[&str], cut: impl FnOnce() -> Result<()>) -> Result<()> {
    for node in &lab.nodes {
        // Offered before it is needed.
        interop_tests::wait("its address is offered", SOON, || {
            let doctor = node.json(&["doctor"])?.to_string();
            Ok(doctor.contains(by))
        })?;
    }
    std::thread::sleep(Duration::from_secs(1));
    cut()?;
    let mut last = Vec::new();
    interop_tests::wait("both are in session by what is left", SOON * 3, || {
        last.clear();
        for node in &lab.nodes {
            let rows = node.list("peers")?;
            last.extend(rows.iter().map(ToString::to_string));
        }
        let is_by = |row: &String| {
            row.contains("\"up\"") && !gone.iter().any(|address| row.contains(address))
        };
        Ok(last.len() == 2 && last.iter().all(is_by))
    })
    .with_context(|| format!("{last:?}"))?;
    lab.converged(SOON)
}

/// Two cables from each host to a switch of their own.
fn two_cables(lab: &Lab) -> Result<()> {
    let wire = &lab.wire;
    ip(&format!(
        "-n {wire} link add sw type bridge mcast_snooping 0"
    ))?;
    ip(&format!("-n {wire} link set sw up"))?;
    for host in &lab.hosts {
        let (ns, letter) = (&host.netns, host.letter);
        for nth in 0..2 {
            ip(&format!(
                "-n {ns} link add m{nth} type veth peer name {letter}m{nth} netns {wire}"
            ))?;
            ip(&format!(
                "-n {wire} link set dev {letter}m{nth} master sw up"
            ))?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_cable_of_a_bond_is_pulled_and_quic_sessions_and_their_traffic_go_on() {
    scene(LabSpec::hosts(2), |lab| {
        needs(&["bonding"])?;
        two_cables(lab)?;
        for (host, node) in lab.hosts.iter().zip(&lab.nodes) {
            let last = host.v4.octets()[3];
            write(
                node,
                &format!(
                    "[[device.bond]]\nname = \"up0\"\nmembers = [\"m0\", \"m1\"]\n\
                     mode = \"active-backup\"\nprimary = \"m0\"\nmiimon = 50\naddresses = [\"198.18.5.{last}/24\"]\n"
                ),
            )?;
        }
        lab.mesh()?;
        let node = lab.node(0);
        let row = becomes(node, "up0", "ready")?;
        ensure!(row["active"]["text"] == "m0", "{row}");
        moves_to(lab, "198.18.5.", &WIRE, || {
            for host in &lab.hosts {
                ip(&format!("-n {} link set und0 down", host.netns))?;
            }
            Ok(())
        })?;
        let stations = lab.segment("lan", &SUBNET)?;
        ensure!(ping_pairs(&stations, false)? == 2);
        let downs = node.events("peer-down")?.len();
        let (here, far) = (&stations[0], &stations[1]);
        let probe = Probe::start(&here.netns, &far.netns, far.port.v4()?, 5000, 200)?;
        for (pulled, takes_over) in [("am0", "m1"), ("am1", "m0")] {
            ip(&format!("-n {} link set {pulled} down", lab.wire))?;
            interop_tests::wait(&format!("{takes_over} takes over"), SOON, || {
                let row = becomes(node, "up0", "ready")?;
                Ok(row["active"]["text"] == takes_over)
            })?;
            let came = probe.received();
            interop_tests::wait("traffic goes on", SOON, || Ok(probe.received() > came + 50))?;
            ip(&format!("-n {} link set {pulled} up", lab.wire))?;
            std::thread::sleep(Duration::from_millis(300));
        }
        let gap = probe.finish().gap;
        super::say(&format!(
            "a cable of a bond is pulled, twice: no frame for {} ms",
            gap.as_millis()
        ));
        ensure!(
            gap < Duration::from_secs(2) * interop_tests::slow(),
            "{gap:?}"
        );
        ensure!(node.events("peer-down")?.len() == downs, "a session ended");
        // The daemon goes, the bond stays.
        let first = index(&node.netns, "up0")?;
        node.restart()?;
        lab.converged(SOON)?;
        ensure!(
            index(&node.netns, "up0")? == first,
            "the bond was made again"
        );
        ping_until(&here.netns, far.port.v4()?, SOON)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn lacp_finds_its_partner_and_arp_watches_a_bond() {
    scene(LabSpec::hosts(2), |lab| {
        needs(&["bonding"])?;
        let [a, b] = [0, 1].map(|nth| lab.hosts[nth].netns.clone());
        for nth in 0..3 {
            ip(&format!(
                "-n {a} link add m{nth} type veth peer name m{nth} netns {b}"
            ))?;
        }
        for (nth, node) in lab.nodes.iter().enumerate() {
            let (own, other) = (nth + 1, 2 - nth);
            write(
                node,
                &format!(
                    "[[device.bond]]\nname = \"lacp0\"\nmembers = [\"m0\", \"m1\"]\nmode = \"802.3ad\"\nlacp_rate = \"fast\"\n\
                     hash = \"layer3+4\"\nmin_links = 1\naddresses = [\"198.18.6.{own}/24\"]\n\n\
                     [[device.bond]]\nname = \"arp0\"\nmembers = [\"m2\"]\nmode = \"balance-xor\"\nhash = \"layer2+3\"\n\
                     arp_interval = 200\narp_targets = [\"198.18.7.{other}\"]\naddresses = [\"198.18.7.{own}/24\"]\n"
                ),
            )?;
        }
        lab.mesh()?;
        for node in &lab.nodes {
            for bond in ["lacp0", "arp0"] {
                becomes(node, bond, "ready")?;
            }
        }
        for far in ["198.18.6.2", "198.18.7.2"] {
            ping_until(&a, far.parse()?, SOON)?;
        }
        let mut text = String::new();
        interop_tests::wait("both cables are in one aggregate", SOON, || {
            text = netns::run(&a, "cat", &["/proc/net/bonding/lacp0"])?;
            Ok(text.contains("Number of ports: 2")
                && !text.contains("Partner Mac Address: 00:00:00:00:00:00"))
        })
        .with_context(|| text)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_mesh_runs_over_a_vlan_in_a_vlan_and_service_addresses_stay_while_nodes_do() {
    scene(LabSpec::hosts(2), |lab| {
        needs(&["8021q", "dummy"])?;
        for (host, node) in lab.hosts.iter().zip(&lab.nodes) {
            let last = host.v4.octets()[3];
            write(
                node,
                &format!(
                    "[[device.vlan]]\nname = \"inner\"\nparent = \"outer\"\nid = 30\nmtu = 1492\naddresses = [\"198.18.8.{last}/24\"]\n\n\
                     [[device.vlan]]\nname = \"outer\"\nparent = \"und0\"\nid = 200\nprotocol = \"802.1ad\"\n\n\
                     [[device.vlan]]\nname = \"und0.100\"\nparent = \"und0\"\nid = 100\naddresses = [\"198.18.9.{last}/24\", \"fd09::{last}/64\"]\n\n\
                     [[device.dummy]]\nname = \"svc0\"\naddresses = [\"198.18.99.{last}/32\", \"fd99::{last}/128\"]\n"
                ),
            )?;
        }
        lab.mesh()?;
        let (node, a) = (lab.node(0), &lab.hosts[0].netns);
        for name in ["inner", "outer", "und0.100", "svc0"] {
            becomes(node, name, "ready")?;
        }
        // The addresses of und0 itself, and then those of the simple VLAN, go: what is left is a tag in a tag.
        moves_to(lab, "198.18.8.", &WIRE, || {
            for host in &lab.hosts {
                ip(&format!("-n {} addr flush dev und0", host.netns))?;
            }
            Ok(())
        })?;
        let stations = lab.segment("lan", &SUBNET)?;
        ensure!(ping_pairs(&stations, false)? == 2);
        for far in ["198.18.8.2", "198.18.9.2", "fd09::2"] {
            ping_until(a, far.parse()?, SOON)?;
        }
        // Tags as they are on the wire.
        let shown = netns::run(a, "ip", &["-d", "link", "show"])?;
        ensure!(
            shown.contains("vlan protocol 802.1ad id 200")
                && shown.contains("vlan protocol 802.1Q id 30"),
            "{shown}"
        );
        // A service address is reached by whoever has a route to its node.
        ip(&format!("-n {a} route add 198.18.99.2/32 via 198.18.9.2"))?;
        ping_until(a, "198.18.99.2".parse()?, SOON)?;
        // It is no way to the node: several may have it.
        let doctor = node.json(&["doctor"])?.to_string();
        ensure!(!doctor.contains("198.18.99.1:"), "{doctor}");

        moves_to(lab, "198.18.8.", &["\"198.18.9.", "\"[fd09"], || {
            for node in &lab.nodes {
                let text = std::fs::read_to_string(&node.config)?;
                let end = text
                    .find("[[device.vlan]]\nname = \"und0.100\"")
                    .context("no VLAN")?;
                write(node, &text[..end])?;
            }
            Ok(())
        })?;
        ping_until(&stations[0].netns, stations[1].port.v4()?, SOON)?;
        // What stands on others goes first.
        write(node, "")?;
        interop_tests::wait("all are gone", SOON, || {
            let shown = netns::run(a, "ip", &["-o", "link", "show"])?;
            Ok(!["inner", "outer", "und0.100", "svc0"]
                .iter()
                .any(|name| shown.contains(name)))
        })?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_bridge_keeps_vlans_apart_between_access_ports_and_a_trunk() {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        needs(&["8021q", "bridge"])?;
        let [a, b] = [0, 1].map(|nth| lab.hosts[nth].netns.clone());
        ip(&format!(
            "-n {a} link add t0 type veth peer name t0 netns {b}"
        ))?;
        ip(&format!("-n {b} link set t0 up"))?;
        for nth in 0..2 {
            let far = lab.container(0, nth);
            ip(&format!(
                "-n {a} link add p{nth} type veth peer name eth0 netns {far}"
            ))?;
            ip(&format!("-n {far} link set eth0 up"))?;
            ip(&format!(
                "-n {far} addr add 198.18.20.{}/24 dev eth0",
                nth + 11
            ))?;
        }
        write(
            lab.node(0),
            "[[device.bridge]]\nname = \"br0\"\nmembers = [\"p0\", \"p1\", \"t0\"]\nvlan_filtering = true\n\
             access = { p0 = 10, p1 = 20 }\ntrunk = { t0 = [10, 20] }\nnative = { t0 = 5 }\n\n\
             [[device.vlan]]\nname = \"br0.10\"\nparent = \"br0\"\nid = 10\naddresses = [\"198.18.20.1/24\"]\n",
        )?;
        write(
            lab.node(1),
            "[[device.vlan]]\nname = \"t0.10\"\nparent = \"t0\"\nid = 10\naddresses = [\"198.18.20.2/24\"]\n\n\
             [[device.vlan]]\nname = \"t0.20\"\nparent = \"t0\"\nid = 20\naddresses = [\"198.18.21.2/24\"]\n",
        )?;
        lab.mesh()?;
        for (nth, name) in [(0, "br0"), (0, "br0.10"), (1, "t0.10"), (1, "t0.20")] {
            becomes(lab.node(nth), name, "ready")?;
        }
        let (ten, twenty) = (lab.container(0, 0), lab.container(0, 1));
        for reached in ["198.18.20.1", "198.18.20.2"] {
            ping_until(ten, reached.parse()?, SOON)?;
        }
        ip(&format!("-n {twenty} addr add 198.18.21.12/24 dev eth0"))?;
        ping_until(twenty, "198.18.21.2".parse()?, SOON)?;
        for foreign in ["198.18.20.1", "198.18.20.2", "198.18.20.11"] {
            let seen = ping(twenty, foreign.parse()?, 1, 56);
            ensure!(
                seen.is_err() || seen.is_ok_and(|p| p.received == 0),
                "VLAN 20 reached {foreign} in VLAN 10"
            );
        }
        // Changed while it lives: the port moves to the other VLAN.
        let text = std::fs::read_to_string(&lab.node(0).config)?;
        write(lab.node(0), &text.replace("p1 = 20", "p1 = 10"))?;
        ping_until(twenty, "198.18.20.11".parse()?, SOON)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_bond_is_the_uplink_of_a_network_and_a_pulled_cable_does_not_stop_its_lan() {
    scene(LabSpec::hosts(2), |lab| {
        needs(&["bonding"])?;
        two_cables(lab)?;
        // A station of the LAN behind both cables.
        let station = lab.add_container(0, "s")?;
        ip(&format!(
            "-n {} link add st type veth peer name eth0 netns {station}",
            lab.wire
        ))?;
        ip(&format!("-n {} link set st master sw up", lab.wire))?;
        ip(&format!("-n {station} link set eth0 mtu 1380 up"))?;
        ip(&format!("-n {station} addr add 10.10.0.101/24 dev eth0"))?;
        let node = lab.node(0);
        write(
            node,
            "[[device.bond]]\nname = \"lan0\"\nmembers = [\"m0\", \"m1\"]\nmode = \"active-backup\"\nprimary = \"m0\"\nmiimon = 50\n",
        )?;
        lab.mesh()?;
        becomes(node, "lan0", "ready")?;
        lab.network("lan", &SUBNET)?;
        let far = lab.node(1).attach("lan", lab.container(1, 0), &[])?;
        node.ok(&["attach", "lan", "--uplink", "lan0", "--name", "cables"])?;
        node.ok(&["ports", "wait", "cables"])?;
        ping_until(&station, far.v4()?, SOON)?;
        let probe = Probe::start(&station, lab.container(1, 0), far.v4()?, 5000, 200)?;
        for (pulled, takes_over) in [("am0", "m1"), ("am1", "m0")] {
            ip(&format!("-n {} link set {pulled} down", lab.wire))?;
            interop_tests::wait(&format!("{takes_over} takes over"), SOON, || {
                let row = becomes(node, "lan0", "ready")?;
                Ok(row["active"]["text"] == takes_over)
            })?;
            let came = probe.received();
            interop_tests::wait("traffic goes on", SOON, || Ok(probe.received() > came + 50))?;
            // And from the mesh to the LAN.
            ping_until(lab.container(1, 0), "10.10.0.101".parse()?, SOON)?;
            ip(&format!("-n {} link set {pulled} up", lab.wire))?;
            std::thread::sleep(Duration::from_millis(300));
        }
        let gap = probe.finish().gap;
        super::say(&format!(
            "a cable of a bond that is a network's uplink is pulled, twice: no frame for {} ms",
            gap.as_millis()
        ));
        ensure!(
            gap < Duration::from_secs(2) * interop_tests::slow(),
            "{gap:?}"
        );
        // No cable, no link; and it comes back by itself.
        for cable in ["am0", "am1"] {
            ip(&format!("-n {} link set {cable} down", lab.wire))?;
        }
        let port = |node: &Node| -> Result<Value> {
            let ports = node.list("ports")?;
            let found = ports.into_iter().find(|port| port["name"] == "cables");
            found.context("no port")
        };
        interop_tests::wait("the port has no link", SOON, || {
            Ok(port(node)?["link"] == false)
        })?;
        ip(&format!("-n {} link set am1 up", lab.wire))?;
        node.ok(&["ports", "wait", "cables"])?;
        ping_until(&station, far.v4()?, SOON)?;
        node.ok(&["detach", "cables"])?;
        becomes(node, "lan0", "ready")?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_port_in_a_vrf_has_its_addresses_and_routes_in_that_table_alone() {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        needs(&["vrf"])?;
        lab.mesh()?;
        lab.network("red", &["--subnet", "10.10.0.0/24"])?;
        lab.network("blue", &["--subnet", "10.10.0.0/24"])?;
        let (node, router) = (lab.node(0), lab.container(0, 0));
        let words = ["--vrf", "red", "--ifname", "r0"];
        let told = node.refused(&[&["attach", "red", "--netns", router][..], &words].concat())?;
        ensure!(told.contains("there is no VRF \"red\""), "{told}");
        for (name, table) in [("red", 10), ("blue", 20)] {
            ip(&format!(
                "-n {router} link add {name} type vrf table {table}"
            ))?;
            ip(&format!("-n {router} link set {name} up"))?;
        }
        // The same subnet twice, apart.
        for (network, far) in [("red", lab.container(1, 0)), ("blue", lab.container(1, 1))] {
            let ifname = format!("{network}0");
            let words = [
                "--vrf",
                network,
                "--ifname",
                &ifname,
                "--ip",
                "10.10.0.5/24",
                "--route",
                "198.18.77.0/24,10.10.0.9",
            ];
            node.attach(network, router, &words)?;
            let words = ["--ip", "10.10.0.9/24"];
            lab.node(1).attach(network, far, &words)?;
            ip(&format!("-n {far} addr add 198.18.77.1/32 dev lo"))?;
            for to in ["10.10.0.9", "198.18.77.1"] {
                interop_tests::wait(&format!("{to} by {network}"), SOON, || {
                    let words = ["-I", network, "-c", "1", "-W", "1", to];
                    Ok(netns::run(router, "ping", &words).is_ok())
                })?;
            }
        }
        let main = netns::run(router, "ip", &["route", "show", "table", "main"])?;
        ensure!(
            !main.contains("10.10.0") && !main.contains("198.18.77"),
            "{main}"
        );
        // Somebody takes it out; the same attach again puts it back.
        ip(&format!("-n {router} link set red0 nomaster"))?;
        let words = [
            "attach", "red", "--netns", router, "--vrf", "red", "--ifname", "red0",
        ];
        node.ok(&words)?;
        let shown = netns::run(router, "ip", &["-o", "link", "show", "master", "red"])?;
        ensure!(shown.contains("red0"), "{shown}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_dummys_service_address_has_a_name_in_containers_and_answers_at_whichever_node_has_it() {
    scene(LabSpec::hosts(3), |lab| {
        needs(&["dummy"])?;
        let service = "[[device.dummy]]\nname = \"svc0\"\nservice = \"dns\"\naddresses = [\"198.18.9.53/32\"]\n";
        for host in [0, 1] {
            write(lab.node(host), service)?;
        }
        lab.mesh()?;
        lab.network("lan", &SUBNET)?;
        for host in [0, 1] {
            becomes(lab.node(host), "svc0", "ready")?;
        }
        let (client, asking) = (lab.container(2, 0), &lab.hosts[2].netns);
        lab.node(2).attach("lan", client, &[])?;
        let server = "10.10.0.1".parse()?;
        let address: std::net::IpAddr = "198.18.9.53".parse()?;
        let resolves = |there: bool| {
            interop_tests::wait(&format!("it has a name: {there}"), SOON * 2, || {
                let reply = ask(client, server, "dns.lab.internal", Kind::A)?;
                Ok(reply.ips == there.then_some(address).into_iter().collect::<Vec<_>>())
            })
        };
        resolves(true)?;
        let reply = ask(
            client,
            server,
            &interop_tests::lookup::reverse(address),
            Kind::Ptr,
        )?;
        ensure!(reply.code == 0, "{reply:?}");
        // Routes of the underlay lead to either; each is the only one in turn.
        for (here, gone) in [(0, 1), (1, 0)] {
            lab.node(gone).stop()?;
            ip(&format!("-n {} link del svc0", lab.hosts[gone].netns))?;
            let via = lab.hosts[here].v4;
            ip(&format!(
                "-n {asking} route replace 198.18.9.53/32 via {via}"
            ))?;
            ping_until(asking, address, SOON)?;
            resolves(true)?;
            lab.node(gone).run()?;
            becomes(lab.node(gone), "svc0", "ready")?;
            lab.converged(SOON)?;
        }
        for host in [0, 1] {
            write(lab.node(host), "")?;
        }
        resolves(false)?;
        for node in &lab.nodes {
            for kind in ["ip-conflict", "name-conflict"] {
                ensure!(node.events(kind)?.is_empty(), "{kind} on {}", node.name);
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_station_stands_on_a_vlan_of_a_bond_and_the_host_reaches_it() {
    scene(LabSpec::hosts(2), |lab| {
        needs(&["bonding", "8021q", "macvlan"])?;
        two_cables(lab)?;
        let far = &lab.hosts[1].netns;
        for line in [
            "link set m0 up".to_owned(),
            "link add m0.7 link m0 type vlan id 7".to_owned(),
            "addr add 198.18.7.2/24 dev m0.7".to_owned(),
            "link set m0.7 up".to_owned(),
        ] {
            ip(&format!("-n {far} {line}"))?;
        }
        let (node, web) = (lab.node(0), lab.container(0, 0));
        write(
            node,
            &format!(
                "[[device.bond]]\nname = \"up0\"\nmembers = [\"m0\", \"m1\"]\n\
                 [[device.vlan]]\nname = \"up0.7\"\nparent = \"up0\"\nid = 7\naddresses = [\"198.18.7.1/24\"]\n\
                 [[device.macvlan]]\nname = \"web\"\nparent = \"up0.7\"\nnetns = \"{web}\"\nifname = \"eth0\"\naddresses = [\"198.18.7.9/24\"]\n"
            ),
        )?;
        node.init("lab")?;
        node.run()?;
        becomes(node, "web", "ready")?;
        ping_until(web, "198.18.7.2".parse()?, SOON)?;
        ping_until(&node.netns, "198.18.7.9".parse()?, SOON)?;
        ping_until(web, "198.18.7.1".parse()?, SOON)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a guest: cargo xtask vm"]
fn a_bond_and_its_vlan_declared_by_api_carry_a_mesh_over_a_pulled_cable_and_a_restart() {
    scene(LabSpec::hosts(2), |lab| {
        needs(&["bonding", "8021q"])?;
        two_cables(lab)?;
        lab.mesh()?;
        for (host, node) in lab.hosts.iter().zip(&lab.nodes) {
            let last = host.v4.octets()[3];
            node.ok(&[
                "device",
                "add",
                "bond",
                "up0",
                "members=m0,m1",
                "primary=m0",
                "miimon=50",
            ])?;
            let address = format!("addresses=198.18.6.{last}/24");
            let row = node.json(&[
                "device",
                "add",
                "vlan",
                "up0.7",
                "parent=up0",
                "id=7",
                &address,
            ])?;
            ensure!(row["there"] == true && row["source"] == "api", "{row}");
            becomes(node, "up0.7", "ready")?;
        }
        let (node, far) = (lab.node(0), &lab.hosts[1]);
        let far = format!("198.18.6.{}", far.v4.octets()[3]).parse()?;
        ping_until(&node.netns, far, SOON)?;
        let refused = node.refused(&["device", "rm", "up0"])?;
        ensure!(
            refused.contains("[device-in-use]") && refused.contains("vlan up0.7"),
            "{refused}"
        );
        let first = (index(&node.netns, "up0")?, index(&node.netns, "up0.7")?);
        node.restart()?;
        becomes(node, "up0.7", "ready")?;
        let second = (index(&node.netns, "up0")?, index(&node.netns, "up0.7")?);
        ensure!(first == second, "they were made again");
        let own = &lab.hosts[0];
        ip(&format!("-n {} link set {}m0 down", lab.wire, own.letter))?;
        interop_tests::wait("the other cable is taken", SOON, || {
            let rows = node.list("devices")?;
            Ok(rows.iter().any(|row| row["active"]["text"] == "m1"))
        })?;
        ping_until(&node.netns, far, SOON)?;
        for name in ["up0.7", "up0"] {
            node.ok(&["device", "rm", name])?;
        }
        interop_tests::wait("both are gone", SOON, || {
            Ok(node.list("devices")?.is_empty())
        })?;
        let links = netns::run(&node.netns, "ip", &["-o", "link", "show"])?;
        ensure!(!links.contains("up0"), "{links}");
        Ok(())
    });
}
