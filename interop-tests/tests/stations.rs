//! Macvlans and macvtaps of the config file: stations of their own on the LAN behind a card of the host.

use anyhow::{Context, Result, ensure};
use interop_tests::card::{asks, open};
use interop_tests::frames::mac;
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::netns::{self, ip};
use interop_tests::node::Node;
use interop_tests::traffic::ping_until;
use serde_json::Value;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const CARD: &str = "lan0";
const HOST: [&str; 2] = ["192.168.77.1", "fd77::1"];
const DESK: [&str; 2] = ["192.168.77.2", "fd77::2"];
const WEB: [&str; 2] = ["192.168.77.9", "fd77::9"];

fn address(text: &str) -> Result<IpAddr> {
    Ok(text.parse()?)
}

fn row(node: &Node, name: &str) -> Result<Option<Value>> {
    let rows = node.list("devices")?;
    Ok(rows.into_iter().find(|row| row["name"]["text"] == name))
}

fn becomes(node: &Node, name: &str, state: &str) -> Result<Value> {
    let mut last = Value::Null;
    interop_tests::wait(&format!("{name} is {state}"), SOON, || {
        last = row(node, name)?.unwrap_or_default();
        Ok(last["state"] == state)
    })
    .with_context(|| format!("it is {last}"))?;
    Ok(last)
}

fn write(node: &Node, config: &str) -> Result<()> {
    std::fs::write(&node.config, config).context("write a config file")
}

/// A card of host a, whose LAN has one other machine: the container of this number.
fn lan(lab: &Lab, desk: usize) -> Result<()> {
    let (host, desk) = (&lab.hosts[0].netns, lab.container(0, desk));
    ip(&format!(
        "-n {host} link add {CARD} type veth peer name {CARD} netns {desk}"
    ))?;
    for (netns, own) in [(host.as_str(), HOST), (desk, DESK)] {
        ip(&format!("-n {netns} addr add {}/24 dev {CARD}", own[0]))?;
        ip(&format!(
            "-n {netns} addr add {}/64 dev {CARD} nodad",
            own[1]
        ))?;
        ip(&format!("-n {netns} link set {CARD} up"))?;
    }
    Ok(())
}

fn station(netns: &str, more: &str) -> String {
    format!(
        "[[device.macvlan]]\nname = \"web\"\nparent = \"{CARD}\"\nnetns = \"{netns}\"\nifname = \"eth0\"\n\
         addresses = [\"{}/24\", \"{}/64\"]\n{more}\n",
        WEB[0], WEB[1]
    )
}

fn shown(netns: &str, what: &[&str]) -> Result<String> {
    netns::run(netns, "ip", what)
}

fn index(netns: &str, name: &str) -> Result<String> {
    let line = shown(netns, &["-o", "link", "show", "dev", name])?;
    Ok(line.split(':').next().unwrap_or_default().to_owned())
}

fn mac_of(netns: &str, name: &str) -> Result<String> {
    let line = shown(netns, &["-o", "link", "show", "dev", name])?;
    let mut words = line
        .split_whitespace()
        .skip_while(|word| *word != "link/ether");
    words.nth(1).map(str::to_owned).context("no MAC")
}

fn gone(lab: &Lab, web: &str) -> Result<()> {
    let host = &lab.hosts[0].netns;
    interop_tests::wait("all of it is gone", SOON, || {
        let here = shown(host, &["-o", "link", "show", "type", "macvlan"])?;
        let there = shown(web, &["-o", "link", "show"])?;
        Ok(here.is_empty() && there.lines().count() == 1)
    })?;
    let routes = shown(host, &["route", "show", "proto", "109"])?;
    ensure!(routes.is_empty(), "{routes}");
    Ok(())
}

#[test]
fn a_station_of_each_mode_is_on_the_cards_lan_and_the_host_keeps_its_address() {
    scene(LabSpec::hosts(1).containers(2), |lab| {
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        let (web, desk) = (lab.container(0, 0), lab.container(0, 1));
        lan(lab, 1)?;
        write(node, "")?;
        node.init("lab")?;
        node.run()?;
        for mode in ["bridge", "private", "vepa", "passthru", "source"] {
            let more = match mode {
                "source" => format!("sources = [\"{}\"]", mac_of(desk, CARD)?),
                _ => String::new(),
            };
            write(node, &station(web, &format!("mode = \"{mode}\"\n{more}")))?;
            interop_tests::wait(&format!("it has mode {mode}"), SOON, || {
                let all = shown(web, &["-d", "link", "show"])?;
                Ok(all.contains(&format!("macvlan mode {mode}")))
            })?;
            becomes(node, "web", "ready")?;
            for (desk_ip, web_ip) in DESK.into_iter().zip(WEB) {
                ping_until(web, address(desk_ip)?, SOON)?;
                ping_until(desk, address(web_ip)?, SOON)?;
            }
            if mode == "bridge" {
                the_host_and_it_find_each_other(&host, web, desk)?;
            } else {
                interop_tests::wait("the shim is gone", SOON, || {
                    Ok(!shown(&host, &["-o", "link"])?.contains("ms-lan0"))
                })?;
            }
        }
        write(node, "")?;
        gone(lab, web)?;
        ping_until(desk, address(HOST[0])?, SOON)?;
        Ok(())
    });
}

fn the_host_and_it_find_each_other(host: &str, web: &str, desk: &str) -> Result<()> {
    for (own, there) in HOST.into_iter().zip(WEB) {
        // Nobody remembers anybody: each in turn asks first.
        for (from, to) in [(host, there), (web, own), (host, there)] {
            for netns in [host, web] {
                for family in ["-4", "-6"] {
                    shown(netns, &[family, "neigh", "flush", "all"])?;
                }
            }
            ping_until(from, address(to)?, SOON)?;
        }
        let spoken = shown(host, &["route", "get", there])?;
        ensure!(spoken.contains("dev ms-lan0"), "{spoken}");
        ensure!(spoken.contains(&format!("src {own}")), "{spoken}");
    }
    // The LAN finds the host by its card, whoever answers first.
    let card = mac_of(host, CARD)?;
    for _ in 0..5 {
        for (family, own) in ["-4", "-6"].into_iter().zip(HOST) {
            shown(desk, &[family, "neigh", "flush", "all"])?;
            ping_until(desk, address(own)?, SOON)?;
            interop_tests::wait("the card's MAC is known", SOON, || {
                Ok(shown(desk, &["neigh", "show", own])?.contains(&card))
            })?;
        }
    }
    let own = shown(host, &["addr", "show", "dev", "ms-lan0"])?;
    ensure!(!own.contains("192.168.77."), "{own}");
    Ok(())
}

#[test]
fn a_station_outlives_the_daemon_and_comes_back_after_its_card_or_its_namespace() {
    scene(LabSpec::hosts(1).containers(2), |lab| {
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        let (web, desk) = (lab.container(0, 0), lab.container(0, 1));
        lan(lab, 1)?;
        // Of somebody else, on the same card.
        ip(&format!(
            "-n {host} link add theirs link {CARD} type macvlan mode bridge"
        ))?;
        let theirs = index(&host, "theirs")?;
        write(node, &station(web, ""))?;
        node.init("lab")?;
        node.run()?;
        becomes(node, "web", "ready")?;
        ping_until(&host, address(WEB[0])?, SOON)?;
        let before = [index(web, "eth0")?, index(&host, "ms-lan0")?];
        node.restart()?;
        becomes(node, "web", "ready")?;
        ping_until(&host, address(WEB[0])?, SOON)?;
        ensure!(before == [index(web, "eth0")?, index(&host, "ms-lan0")?]);
        ensure!(theirs == index(&host, "theirs")?);

        // Somebody takes it, its address, or its route away.
        ip(&format!("-n {web} link del eth0"))?;
        interop_tests::wait("it is made again", SOON, || {
            Ok(shown(web, &["-o", "link"])?.contains("eth0"))
        })?;
        ping_until(&host, address(WEB[0])?, SOON)?;
        ip(&format!("-n {web} addr add 192.168.77.10/24 dev eth0"))?;
        ping_until(&host, address("192.168.77.10")?, SOON)?;

        // The namespace is replaced by another of its name.
        ip(&format!("netns del {web}"))?;
        let row = becomes(node, "web", "failed")?;
        ensure!(row["why"].to_string().contains("does not exist"), "{row}");
        interop_tests::wait("the shim is gone", SOON, || {
            Ok(!shown(&host, &["-o", "link"])?.contains("ms-lan0"))
        })?;
        ip(&format!("netns add {web}"))?;
        ip(&format!("-n {web} link set lo up"))?;
        becomes(node, "web", "ready")?;
        ping_until(&host, address(WEB[0])?, SOON)?;

        // So is the card.
        ip(&format!("-n {host} link del {CARD}"))?;
        let row = becomes(node, "web", "waiting")?;
        ensure!(row["why"].to_string().contains("no such device"), "{row}");
        lan(lab, 1)?;
        becomes(node, "web", "ready")?;
        ping_until(desk, address(WEB[0])?, SOON)?;
        ping_until(&host, address(WEB[0])?, SOON)?;

        // What left the file while no daemon ran goes with the next one.
        node.stop()?;
        write(node, "")?;
        node.run()?;
        gone(lab, web)?;

        // A card whose frames another takes.
        ip(&format!("-n {host} link add br9 type bridge"))?;
        ip(&format!("-n {host} link set {CARD} master br9"))?;
        write(node, &station(web, ""))?;
        let row = becomes(node, "web", "waiting")?;
        ensure!(
            row["why"].to_string().contains("name br9 as the parent"),
            "{row}"
        );
        ip(&format!("-n {host} link set {CARD} nomaster"))?;
        becomes(node, "web", "ready")?;
        Ok(())
    });
}

#[test]
fn a_station_whose_new_name_is_taken_there_stays_as_it_was() {
    scene(LabSpec::hosts(1).containers(2), |lab| {
        let (node, web) = (lab.node(0), lab.container(0, 0));
        lan(lab, 1)?;
        write(node, &station(web, ""))?;
        node.init("lab")?;
        node.run()?;
        becomes(node, "web", "ready")?;
        let number = index(web, "eth0")?;
        ip(&format!("-n {web} link add eth9 type veth peer name other"))?;
        let renamed = |name: &str| station(web, "").replace("eth0", name);
        write(node, &renamed("eth9"))?;
        let row = becomes(node, "web", "failed")?;
        ensure!(row["why"].to_string().contains("eth9 already"), "{row}");
        let links = shown(web, &["-o", "link"])?;
        ensure!(links.lines().count() == 4, "something half made: {links}");
        ensure!(index(web, "eth0")? == number, "the old one: {links}");
        write(node, &renamed("eth8"))?;
        becomes(node, "web", "ready")?;
        ping_until(lab.container(0, 1), address(WEB[0])?, SOON)?;
        let links = shown(web, &["-o", "link"])?;
        ensure!(!links.contains("eth0"), "{links}");
        Ok(())
    });
}

#[test]
fn a_macvtap_on_a_card_has_a_file_and_one_name_is_not_two_devices() {
    scene(LabSpec::hosts(1).containers(2), |lab| {
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        lan(lab, 1)?;
        let tap = format!(
            "[[device.macvtap]]\nname = \"vm0\"\nparent = \"{CARD}\"\nmac = \"02:00:00:00:77:01\"\nreach = [\"192.168.77.50\"]\n"
        );
        write(node, &tap)?;
        node.init("lab")?;
        node.run()?;
        let row = becomes(node, "vm0", "ready")?;
        let file = row["file"]["text"].as_str().context("no file")?.to_owned();
        ensure!(file.starts_with("/dev/tap"), "{row}");
        // A machine there finds the LAN, and the host by the shim.
        let mut card = open(&file)?;
        let own = mac("02:00:00:00:77:01")?;
        for there in [DESK[0], HOST[0]] {
            let answered = asks(&mut card, own, "192.168.77.50".parse()?, address(there)?)?;
            ensure!(answered, "{there} does not answer");
        }
        drop(card);
        let route = shown(&host, &["route", "get", "192.168.77.50"])?;
        ensure!(route.contains("dev ms-lan0"), "{route}");

        // Its card becomes an uplink of a network only once it is gone.
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let said = node.refused(&["attach", "lan", "--uplink", CARD])?;
        ensure!(said.contains("carries vm0"), "{said}");
        write(node, "")?;
        interop_tests::wait("it is gone, and its file", SOON, || {
            let left = shown(&host, &["-o", "link"])?;
            Ok(!left.contains("vm0") && !left.contains("ms-lan0") && !Path::new(&file).exists())
        })?;
        ip(&format!("-n {host} addr flush dev {CARD}"))?;
        node.ok(&["attach", "lan", "--uplink", CARD, "--name", "attic"])?;
        write(node, &tap)?;
        let row = becomes(node, "vm0", "waiting")?;
        ensure!(
            row["why"].to_string().contains("an uplink of a network"),
            "{row}"
        );
        node.ok(&["detach", "attic"])?;
        becomes(node, "vm0", "ready")?;
        Ok(())
    });
}

/// Who answers ARP for an address at the desk: a MAC, or nobody.
fn answers(desk: &str, whom: &str) -> Result<Option<String>> {
    shown(desk, &["neigh", "flush", "dev", CARD])?;
    // Whether it answers pings is not asked.
    let _ = netns::run(desk, "ping", &["-c", "2", "-i", "0.3", "-W", "1", whom]);
    let line = shown(desk, &["neigh", "show", whom, "dev", CARD])?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "lladdr");
    Ok(words.nth(1).map(str::to_owned))
}

#[test]
fn a_macvtap_that_no_machine_has_opened_answers_for_nothing_but_its_own_addresses() {
    const OTHER: &str = "198.18.99.1";
    const MAC: &str = "02:00:00:00:77:02";
    scene(LabSpec::hosts(1).containers(2), |lab| {
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        let desk = lab.container(0, 1);
        lan(lab, 1)?;
        // An address of the host's that its card says nothing of: whoever answers for it is the station.
        ip(&format!("-n {host} addr add {OTHER}/32 dev lo"))?;
        ip(&format!("-n {desk} route add {OTHER}/32 dev {CARD}"))?;
        ip(&format!("-n {desk} addr add 192.168.78.2/24 dev {CARD}"))?;
        let set = |name: &str, key: &str, value: &str| {
            let line = format!("net.ipv4.conf.{name}.{key}={value}");
            netns::run(&host, "sysctl", &["-qw", &line])
        };
        set(CARD, "arp_ignore", "8")?;
        // Nor does its card name that one when it asks for the desk.
        set(CARD, "arp_announce", "2")?;
        set("all", "rp_filter", "0")?;
        let tap = |more: &str| {
            format!(
                "[[device.macvtap]]\nname = \"vm0\"\nparent = \"{CARD}\"\nshim = false\nmac = \"{MAC}\"\n{more}\n"
            )
        };
        write(node, &tap(""))?;
        node.init("lab")?;
        node.run()?;
        becomes(node, "vm0", "ready")?;
        ensure!(answers(desk, OTHER)?.is_none(), "the host answers there");
        // As it would be without that.
        set("vm0", "arp_ignore", "0")?;
        set("vm0", "rp_filter", "0")?;
        ensure!(answers(desk, OTHER)?.as_deref() == Some(MAC));

        write(node, &tap("addresses = [\"192.168.78.5/24\"]"))?;
        interop_tests::wait("it answers for its own", SOON, || {
            Ok(answers(desk, "192.168.78.5")?.as_deref() == Some(MAC))
        })?;
        ensure!(answers(desk, OTHER)?.is_none(), "the host answers there");
        write(node, &tap(""))?;
        interop_tests::wait("it answers no more", SOON, || {
            Ok(answers(desk, "192.168.78.5")?.is_none())
        })?;
        ensure!(answers(desk, OTHER)?.is_none(), "the host answers there");
        Ok(())
    });
}

#[test]
fn a_service_of_the_hosts_has_a_name_that_containers_find_while_one_of_them_has_it() {
    use interop_tests::lookup::{Kind, ask};
    scene(LabSpec::hosts(3), |lab| {
        // A bridge without members is a place for addresses as a dummy is, and every kernel has it.
        let service = "[[device.bridge]]\nname = \"svc0\"\nservice = \"dns\"\naddresses = [\"10.9.0.53/32\", \"fd09::53/128\"]\n";
        for host in [0, 1] {
            write(lab.node(host), service)?;
        }
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let client = lab.container(2, 0);
        lab.node(2).attach("lan", client, &["--name", "client"])?;
        let server = address("10.10.0.1")?;
        let found = |expected: &[&str]| {
            interop_tests::wait(&format!("dns is at {expected:?}"), SOON * 2, || {
                let reply = ask(client, server, "dns.lab.internal", Kind::A)?;
                let ips: Vec<String> = reply.ips.iter().map(ToString::to_string).collect();
                Ok(ips == expected)
            })
        };
        found(&["10.9.0.53"])?;
        let v6 = ask(client, server, "dns.lab.internal", Kind::Aaaa)?;
        ensure!(v6.ips == [address("fd09::53")?], "{v6:?}");
        // One of them ends: the other has it still. Its device goes: nobody has.
        lab.node(0).stop()?;
        std::thread::sleep(Duration::from_secs(1));
        found(&["10.9.0.53"])?;
        write(lab.node(1), &service.replace("10.9.0.53", "10.9.0.54"))?;
        found(&["10.9.0.54"])?;
        write(lab.node(1), "")?;
        found(&[])?;
        lab.node(0).run()?;
        found(&["10.9.0.53"])?;
        lab.node(0).kill();
        found(&[])?;
        for node in &lab.nodes[1..] {
            for kind in ["ip-conflict", "name-conflict"] {
                ensure!(node.events(kind)?.is_empty(), "{kind} on {}", node.name);
            }
        }
        Ok(())
    });
}
