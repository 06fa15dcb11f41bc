//! LANs behind uplinks: what crosses, what stays at its site, and what is done about loops and storms.

use anyhow::{Context, Result, ensure};
use interop_tests::frames::{Tap, frame, mac};
use interop_tests::lab::{Lab, LabSpec, nothing_left, scene};
use interop_tests::netns::{self, ip};
use interop_tests::node::{Attached, Node};
use interop_tests::traffic::{ping, ping_until, transfer};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// A LAN: a bridge in a namespace of its own, stations on it, and a cable to a host.
struct Lan {
    /// The bridge's namespace.
    netns: String,
    stations: Vec<String>,
}

/// A LAN `name` with stations, cabled to interface `ifname` of a host.
fn lan(lab: &Lab, host: usize, name: &str, ifname: &str, ips: &[&str]) -> Result<Lan> {
    let netns = lab.add_container(host, name)?;
    ip(&format!(
        "-n {netns} link add br0 type bridge mcast_snooping 0"
    ))?;
    ip(&format!("-n {netns} link set br0 up"))?;
    let mut stations = Vec::new();
    for (n, address) in ips.iter().enumerate() {
        let station = lab.add_container(host, &format!("{name}{n}"))?;
        ip(&format!(
            "-n {netns} link add p{n} type veth peer name eth0 netns {station}"
        ))?;
        ip(&format!("-n {netns} link set p{n} master br0 up"))?;
        ip(&format!("-n {station} link set eth0 mtu 1380 up"))?;
        ip(&format!("-n {station} addr add {address} dev eth0"))?;
        stations.push(station);
    }
    cable(&netns, &lab.hosts[host].netns, ifname)?;
    Ok(Lan { netns, stations })
}

/// A cable between a LAN and a host.
fn cable(lan: &str, host: &str, ifname: &str) -> Result<()> {
    ip(&format!(
        "-n {lan} link add {ifname} type veth peer name {ifname} netns {host}"
    ))?;
    ip(&format!("-n {lan} link set {ifname} master br0 up"))?;
    Ok(())
}

/// Attaches interface `ifname` of a host, and waits until frames flow.
fn uplink(lab: &Lab, host: usize, name: &str, more: &[&str]) -> Result<()> {
    let words = [
        &["attach", "lan", "--uplink", "lan0", "--name", name][..],
        more,
    ]
    .concat();
    lab.node(host).ok(&words)?;
    lab.node(host).ok(&["ports", "wait", name])?;
    Ok(())
}

fn port(node: &Node, name: &str) -> Result<Value> {
    let ports = node.list("ports")?;
    let found = ports.into_iter().find(|port| port["name"] == name);
    found.with_context(|| format!("no port {name} on {}", node.name))
}

/// What an uplink may change of an interface: flags and how often it was made promiscuous, qdiscs, filters, master, name.
fn state(netns: &str, ifname: &str) -> Result<String> {
    let link = netns::run(netns, "ip", &["-o", "-d", "link", "show", ifname])?;
    let flags = link.split(['<', '>']).nth(1).unwrap_or_default();
    let words: Vec<&str> = link.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|w| *w == word);
        at.and_then(|at| words.get(at + 1)).copied().unwrap_or("-")
    };
    let qdiscs = netns::run(netns, "tc", &["qdisc", "show", "dev", ifname])?;
    let hooks = qdiscs
        .lines()
        .filter(|line| line.contains("clsact"))
        .count();
    // An interface that was up and is down has no carrier to show.
    let flags: Vec<&str> = flags.split(',').filter(|f| *f != "NO-CARRIER").collect();
    Ok(format!(
        "{flags:?} promiscuity {} master {} clsact {hooks} {}",
        after("promiscuity"),
        after("master"),
        netns::run(netns, "tc", &["filter", "show", "dev", ifname, "ingress"])?
    ))
}

#[test]
fn two_lans_are_one_segment_and_detach_puts_the_interface_back() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let left = lan(lab, 0, "l", "lan0", &["10.10.0.101/24", "10.10.0.102/24"])?;
        let right = lan(lab, 1, "r", "lan0", &["10.10.0.201/24"])?;
        let host = lab.hosts[0].netns.clone();
        let before = state(&host, "lan0")?;
        let there: IpAddr = "10.10.0.201".parse()?;

        let refused = lab
            .node(0)
            .refused(&["attach", "lan", "--uplink", "nowhere"])?;
        ensure!(refused.contains("no interface \"nowhere\""), "{refused}");
        uplink(lab, 0, "attic", &[])?;
        uplink(lab, 1, "cellar", &[])?;
        // From LAN to LAN, and to a container of either host.
        let container = lab.node(0).attach("lan", lab.container(0, 0), &[])?;
        ping_until(&left.stations[0], there, SOON)?;
        ping_until(&left.stations[1], there, SOON)?;
        ping_until(&right.stations[0], container.v4()?, SOON)?;
        // TCP, in superframes, both ways.
        let moved = transfer(&left.stations[0], &right.stations[0], there, 4000, 8 << 20)?;
        eprintln!("LAN to LAN: {:.2} Gbit/s each way", moved.gbps());

        let shown = port(lab.node(0), "attic")?;
        ensure!(shown["link"] == true, "{shown}");
        // Both stations are learned, and nothing but what is on that LAN: its bridge and its ports speak, too.
        let macs_in = |netns: &String| -> Result<Vec<String>> {
            let links = netns::run(netns, "ip", &["-o", "link", "show"])?;
            let words: Vec<&str> = links.split_whitespace().collect();
            let pairs = words.windows(2).filter(|pair| pair[0] == "link/ether");
            Ok(pairs.map(|pair| pair[1].to_owned()).collect())
        };
        let mut on_lan = macs_in(&left.netns)?;
        for station in &left.stations {
            on_lan.extend(macs_in(station)?);
        }
        let rows = lab.node(0).list("fdb")?;
        let learned: Vec<&str> = rows
            .iter()
            .filter(|row| row["kind"] == "learned")
            .filter_map(|row| row["mac"].as_str())
            .collect();
        ensure!(
            learned.iter().all(|mac| on_lan.iter().any(|m| m == mac)),
            "{learned:?} of {on_lan:?}"
        );
        ensure!(shown["learned"].as_u64() >= Some(2), "{shown}");
        for station in &left.stations {
            let address = netns::run(station, "cat", &["/sys/class/net/eth0/address"]);
            let link = netns::run(station, "ip", &["-o", "link", "show", "eth0"])?;
            let mac = link
                .split_whitespace()
                .skip_while(|word| *word != "link/ether")
                .nth(1)
                .with_context(|| format!("no MAC: {address:?}"))?
                .to_owned();
            lab.node(1).learns(&mac)?;
        }
        ensure!(state(&host, "lan0")?.contains("PROMISC"));
        let netns = lab.container(0, 0);
        is_seen(lab.node(0), (&container, netns), &shown["id"].to_string())?;

        // The LAN's cable is pulled.
        ip(&format!("-n {} link set lan0 down", left.netns))?;
        interop_tests::wait("the port has no link", SOON, || {
            Ok(port(lab.node(0), "attic")?["link"] == false)
        })?;
        let late = lab
            .node(0)
            .refused(&["ports", "wait", "attic", "--timeout", "1s"])?;
        ensure!(late.contains("no carrier"), "{late}");
        ip(&format!("-n {} link set lan0 up", left.netns))?;
        lab.node(0).ok(&["ports", "wait", "attic"])?;

        // A restart adopts it.
        lab.node(0).restart()?;
        lab.node(0).ok(&["ports", "wait", "attic"])?;
        ping_until(&left.stations[0], there, SOON)?;

        // Somebody takes its filter away.
        netns::run(&host, "tc", &["qdisc", "del", "dev", "lan0", "clsact"])?;
        ping_until(&left.stations[0], there, SOON)?;

        // Somebody renames it, and thinks better of it.
        let rename = |from: &str, to: &str| -> Result<()> {
            for words in [
                format!("set {from} down"),
                format!("set {from} name {to}"),
                format!("set {to} up"),
            ] {
                ip(&format!("-n {host} link {words}"))?;
            }
            Ok(())
        };
        rename("lan0", "other0")?;
        interop_tests::wait("the port is not ready any more", SOON, || {
            Ok(port(lab.node(0), "attic")?["state"] != "ready")
        })?;
        let events = lab.node(0).list("events")?;
        ensure!(
            events
                .iter()
                .any(|event| event.to_string().contains("was renamed to")),
            "{events:?}"
        );
        rename("other0", "lan0")?;
        lab.node(0).ok(&["ports", "wait", "attic"])?;
        ping_until(&left.stations[0], there, SOON)?;

        lab.node(0).ok(&["detach", "attic"])?;
        let after = state(&host, "lan0")?;
        ensure!(before == after, "before {before}\nafter  {after}");
        ensure!(ping(&left.stations[0], there, 1, 56)?.received == 0);
        Ok(())
    });
}

/// Traces from an uplink and towards what is behind it, and what the doctor has to say of it. `container` is at the node.
fn is_seen(node: &Node, (container, netns): (&Attached, &str), uplink: &str) -> Result<()> {
    let inside = container.v4()?;
    let from = |words: &str| node.json(&["trace", "lan", words]);
    let report = from(&format!("icmp 10.10.0.101 > {inside} from attic"))?;
    let verdict = report["verdict"].to_string();
    ensure!(
        verdict.contains(&format!("forwarded to port {}", container.id)),
        "{report}"
    );
    ensure!(
        report["steps"][0]["what"] == "assumed"
            && report["steps"].to_string().contains("heard there last"),
        "{report}"
    );
    // Who is behind it is asked for first, there and at the peer.
    let report = from(&format!("icmp {inside} > 10.10.0.101"))?;
    let verdict = report["verdict"].to_string();
    ensure!(
        verdict.contains("the question who has 10.10.0.101 is forwarded to")
            && verdict.contains(&format!("port {uplink} (attic.lan)"))
            && verdict.contains("its own policy has the last word there"),
        "{report}"
    );
    let said = node.refused(&["trace", "lan", "--on", "b", "icmp 10.10.0.98 > 10.10.0.97"])?;
    ensure!(said.contains("error[endpoint-unknown]"), "{said}");

    // It is no container: only its MTU counts, and the network is to have that.
    let checks: Value = serde_json::from_str(&node.tell(&["doctor", "--json"])?.stdout)?;
    let checks = checks["checks"].as_array().context("checks")?;
    let of = |code: &str| {
        checks
            .iter()
            .filter(|check| check["code"] == code)
            .collect::<Vec<_>>()
    };
    for code in ["dns-silent", "resolver-foreign", "port-down"] {
        ensure!(of(code).is_empty(), "{:?}", of(code));
    }
    let [narrow] = of("port-mtu")[..] else {
        anyhow::bail!("{checks:#?}")
    };
    let advice = narrow["advice"].to_string();
    ensure!(
        advice.contains("--mtu 1500") && !advice.contains("nsenter"),
        "{narrow}"
    );

    // The container sets its interface down.
    let ports = node.list("ports")?;
    let own = ports.iter().find(|port| port["id"] == container.id);
    let ifname = own.and_then(|port| port["ifname"]["text"].as_str());
    let ifname = ifname.context("its interface")?.to_owned();
    let link = |state: &str| ip(&format!("-n {netns} link set {ifname} {state}")).map(drop);
    link("down")?;
    interop_tests::wait("status names it", SOON, || {
        let problems = node.json(&["status"])?["problems"].to_string();
        Ok(problems.contains(&format!("port {}", container.id)) && problems.contains("is down"))
    })?;
    let report = from(&format!("icmp 10.10.0.101 > {inside} from attic"))?;
    ensure!(
        report["verdict"]
            .to_string()
            .contains("whose interface is down"),
        "{report}"
    );
    let checks = node.tell(&["doctor", "--json"])?.stdout;
    ensure!(checks.contains("\"port-down\""), "{checks}");
    link("up")?;
    interop_tests::wait("it is well again", SOON, || {
        Ok(!node.json(&["status"])?["problems"]
            .to_string()
            .contains("is down"))
    })?;
    Ok(())
}

#[test]
fn a_station_that_moves_to_the_other_lan_is_found_there() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let left = lan(lab, 0, "l", "lan0", &["10.10.0.101/24"])?;
        let right = lan(lab, 1, "r", "lan0", &["10.10.0.201/24"])?;
        uplink(lab, 0, "attic", &[])?;
        uplink(lab, 1, "cellar", &[])?;
        let moving = mac("02:00:00:00:0a:77")?;
        let hello = frame([0xff; 6], moving, 0x88b5, &[0; 46]);
        let kind_at = |n: usize| -> Result<String> {
            let rows = lab.node(n).list("fdb")?;
            let row = rows.into_iter().find(|r| r["mac"] == "02:00:00:00:0a:77");
            Ok(row.map_or_else(String::new, |r| {
                r["kind"].as_str().unwrap_or_default().to_owned()
            }))
        };
        for (station, here, there) in [(&left, 0, 1), (&right, 1, 0), (&left, 0, 1)] {
            let tap = Tap::open(&station.stations[0], "eth0")?;
            interop_tests::wait("the station is where it speaks", SOON, || {
                tap.send(&hello)?;
                Ok(kind_at(here)? == "learned" && kind_at(there)? == "remote")
            })?;
        }
        Ok(())
    });
}

#[test]
fn an_interface_that_the_host_needs_is_refused_by_name() {
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let host = &node.netns;
        let try_it = |ifname: &str| node.refused(&["attach", "lan", "--uplink", ifname]);
        let addresses = netns::run(host, "ip", &["-o", "-4", "addr", "show"])?;
        let underlay = addresses
            .lines()
            .find(|line| line.contains("192.0.2."))
            .and_then(|line| line.split_whitespace().nth(1))
            .context("the host has no underlay")?;
        let said = try_it(underlay)?;
        ensure!(said.contains("192.0.2.1/24"), "{said}");
        ip(&format!("-n {host} link add u0 type veth peer name u1"))?;
        ip(&format!("-n {host} link add br9 type bridge"))?;
        ip(&format!("-n {host} link set u0 master br9"))?;
        let said = try_it("u0")?;
        ensure!(said.contains("is a port of br9"), "{said}");
        ip(&format!(
            "-n {host} link add mac0 link u1 type macvlan mode bridge"
        ))?;
        let said = try_it("u1")?;
        ensure!(said.contains("carries mac0"), "{said}");
        let said = try_it("lo")?;
        ensure!(said.contains("no Ethernet interface"), "{said}");
        ip(&format!("-n {host} link del mac0"))?;
        ip(&format!("-n {host} link set u1 mtu 1000"))?;
        let before = state(host, "u1")?;
        let said = try_it("u1")?;
        ensure!(said.contains("MTU of 1000"), "{said}");
        ensure!(state(host, "u1")? == before, "nothing is left");
        ensure!(node.ports()?.is_empty());
        nothing_left(host)
    });
}

/// An ARP request for `target`, and whether it is answered within two seconds, both with the tag of `vlan`.
fn asks(tap: &Tap, vlan: u16, own: Ipv4Addr, target: IpAddr) -> Result<bool> {
    let IpAddr::V4(target) = target else {
        anyhow::bail!("not IPv4")
    };
    let src = [2, 0, 0, 0, 0x20, vlan.to_be_bytes()[1]];
    let tag = [&vlan.to_be_bytes()[..], &[0x08, 0x06]].concat();
    let body = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &src,
        &own.octets(),
        &[0; 6],
        &target.octets(),
        &[0; 18],
    ]
    .concat();
    let ask = frame([0xff; 6], src, 0x8100, &[tag.clone(), body].concat());
    for _ in 0..4 {
        tap.send(&ask)?;
        // A packet socket is given the frame without its tag; who it is for, and that it is a reply, is enough.
        let answered = |f: &[u8]| {
            let reply = [0, 1, 8, 0, 6, 4, 0, 2];
            f.starts_with(&src) && f.windows(8).any(|w| w == reply)
        };
        let heard = tap.hear(Duration::from_millis(500), answered)?;
        if heard.iter().any(|f| answered(f)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn a_trunk_maps_vlans_to_networks_and_what_is_untagged_stays_with_the_host() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("red", &["--subnet", "10.20.0.0/24"])?;
        lab.network("blue", &["--subnet", "10.30.0.0/24"])?;
        let host = lab.hosts[0].netns.clone();
        let trunk = lab.add_container(0, "t")?;
        ip(&format!(
            "-n {trunk} link add eth0 type veth peer name lan0 netns {host}"
        ))?;
        ip(&format!("-n {trunk} link set eth0 up"))?;
        ip(&format!("-n {trunk} addr add 10.99.0.1/24 dev eth0"))?;
        // The host's own address on the trunk, untagged, is no obstacle.
        ip(&format!("-n {host} link set lan0 up"))?;
        ip(&format!("-n {host} addr add 10.99.0.2/24 dev lan0"))?;
        let before = state(&host, "lan0")?;
        for (vlan, network) in [("20", "red"), ("30", "blue")] {
            let words = ["attach", network, "--uplink", "lan0", "--vlan", vlan];
            lab.node(0)
                .ok(&[&words[..], &["--name", network]].concat())?;
            lab.node(0).ok(&["ports", "wait", network])?;
        }
        let again = lab
            .node(0)
            .refused(&["attach", "blue", "--uplink", "lan0", "--vlan", "20"])?;
        ensure!(again.contains("red"), "{again}");
        let red = lab.node(1).attach("red", lab.container(1, 0), &[])?.v4()?;
        let other = lab.add_container(1, "blue")?;
        let blue = lab.node(1).attach("blue", &other, &[])?.v4()?;
        let tap = Tap::open(&trunk, "eth0")?;
        let (in_red, in_blue) = ("10.20.0.101".parse()?, "10.30.0.101".parse()?);
        ensure!(asks(&tap, 20, in_red, red)?, "VLAN 20 is red");
        ensure!(asks(&tap, 30, in_blue, blue)?, "VLAN 30 is blue");
        ensure!(!asks(&tap, 20, in_red, blue)?, "a VLAN is one network");
        ensure!(!asks(&tap, 40, in_red, red)?, "another VLAN is none");
        ping_until(&trunk, "10.99.0.2".parse()?, SOON)?;
        // What goes to a station of a VLAN has its tag.
        lab.node(0).ok(&["detach", "red"])?;
        ensure!(asks(&tap, 30, in_blue, blue)?, "the other goes on");
        ensure!(!asks(&tap, 20, in_red, red)?, "and this one does not");
        lab.node(0).ok(&["detach", "blue"])?;
        let after = state(&host, "lan0")?;
        ensure!(before == after, "before {before}\nafter  {after}");
        Ok(())
    });
}

#[test]
fn a_loop_blocks_the_newer_uplink_within_two_seconds_and_it_opens_once_the_loop_is_gone() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let left = lan(lab, 0, "l", "lan0", &["10.10.0.101/24"])?;
        let right = lan(lab, 1, "r", "lan0", &["10.10.0.201/24"])?;
        let there: IpAddr = "10.10.0.201".parse()?;
        uplink(lab, 0, "old", &[])?;
        uplink(lab, 1, "new", &[])?;
        ping_until(&left.stations[0], there, SOON)?;
        // Somebody joins the two LANs by a cable.
        ip(&format!(
            "-n {} link add loop0 type veth peer name loop0 netns {}",
            left.netns, right.netns
        ))?;
        ip(&format!("-n {} link set loop0 master br0 up", left.netns))?;
        ip(&format!("-n {} link set loop0 master br0 up", right.netns))?;
        let since = Instant::now();
        interop_tests::wait("the newer is blocked", SOON, || {
            Ok(port(lab.node(1), "new")?["state"] == "blocked")
        })?;
        let took = since.elapsed();
        eprintln!("blocked after {} ms", took.as_millis());
        // The promise is two seconds; the machine may be busy with other things.
        ensure!(took < Duration::from_secs(2) * interop_tests::slow() + Duration::from_secs(1));
        ensure!(port(lab.node(0), "old")?["state"] == "ready");
        let reason = port(lab.node(1), "new")?["reason"].to_string();
        ensure!(reason.contains("of node a"), "{reason}");
        let told = lab.node(1).events("port-blocked")?;
        ensure!(told.len() == 1, "an event tells it: {told:?}");
        let doctor = lab.node(1).tell(&["doctor"])?.stdout;
        ensure!(doctor.contains("is blocked"), "{doctor}");
        // They reach each other by the cable, once they have asked anew, and no frame goes round.
        for lan in [&left, &right] {
            ip(&format!("-n {} neigh flush all", lan.stations[0]))?;
        }
        ping_until(&left.stations[0], there, SOON)?;
        let frames = || -> Result<u64> {
            let shown = port(lab.node(0), "old")?;
            shown["traffic"]["rx_frames"].as_u64().context("no count")
        };
        let before = frames()?;
        std::thread::sleep(Duration::from_secs(1));
        let during = frames()? - before;
        ensure!(during < 500, "{during} frames in a second: a storm");

        ip(&format!("-n {} link del loop0", left.netns))?;
        interop_tests::wait("it opens by itself", Duration::from_secs(20), || {
            Ok(port(lab.node(1), "new")?["state"] == "ready")
        })?;
        for lan in [&left, &right] {
            ip(&format!("-n {} neigh flush all", lan.stations[0]))?;
        }
        ping_until(&left.stations[0], there, SOON)?;
        Ok(())
    });
}

/// UDP in IPv4, with a good header checksum and none of its own.
fn udp(src: [u8; 6], dst: [u8; 6], to: Ipv4Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(28 + payload.len()).unwrap_or(0);
    let mut header = [
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 10, 0, 101, 0, 0, 0, 0,
    ];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[16..].copy_from_slice(&to.octets());
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) & 0xffff;
    header[10..12].copy_from_slice(&sum.to_be_bytes()[2..]);
    let udp = [
        ports.0.to_be_bytes(),
        ports.1.to_be_bytes(),
        (length - 20).to_be_bytes(),
        [0, 0],
    ];
    frame(
        dst,
        src,
        0x0800,
        &[&header[..], &udp.concat(), payload].concat(),
    )
}

#[test]
fn what_configures_a_lan_stays_at_its_site_unless_it_may_cross() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let left = lan(lab, 0, "l", "lan0", &["10.10.0.101/24"])?;
        let right = lan(lab, 1, "r", "lan0", &["10.10.0.201/24"])?;
        let port = lab
            .node(0)
            .attach("lan", lab.container(0, 0), &["--name", "here"])?;
        // As whoever wants SSDP does; of mDNS switches need not be told.
        let _listens = netns::within(lab.container(0, 0), || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 1900))?;
            if let IpAddr::V4(ip) = port.v4()? {
                socket.join_multicast_v4(&Ipv4Addr::new(239, 255, 255, 250), &ip)?;
            }
            Ok(socket)
        })?;
        uplink(lab, 0, "attic", &[])?;
        uplink(lab, 1, "cellar", &[])?;
        ping_until(&left.stations[0], "10.10.0.201".parse()?, SOON)?;
        let own = mac("02:00:00:00:0b:01")?;
        let all = [0xff; 6];
        let tell = Tap::open(&left.stations[0], "eth0")?;
        let there = Tap::open(&right.stations[0], "eth0")?;
        let here = Tap::open(lab.container(0, 0), "eth0")?;
        let offer = udp(own, all, Ipv4Addr::BROADCAST, (67, 68), b"meshd-test offer");
        let ask = udp(own, all, Ipv4Addr::BROADCAST, (68, 67), b"meshd-test ask");
        let mdns = udp(
            own,
            [1, 0, 0x5e, 0, 0, 0xfb],
            Ipv4Addr::new(224, 0, 0, 251),
            (5353, 5353),
            b"meshd-test mdns",
        );
        let ssdp = udp(
            own,
            [1, 0, 0x5e, 0x7f, 0xff, 0xfa],
            Ipv4Addr::new(239, 255, 255, 250),
            (50_000, 1900),
            b"meshd-test ssdp",
        );
        let crosses = |frame: &[u8], to: &Tap| -> Result<bool> {
            for _ in 0..3 {
                tell.send(frame)?;
                let end = |f: &[u8]| f.starts_with(frame);
                if to
                    .hear(Duration::from_millis(400), end)?
                    .iter()
                    .any(|f| end(f))
                {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        // What should cross is waited for, however busy the machine is.
        let arrives = |what: &str, frame: &[u8], to: &Tap| {
            interop_tests::wait(what, SOON, || crosses(frame, to))
        };
        arrives("a question crosses", &ask, &there)?;
        for (what, frame) in [("offer", &offer), ("mDNS", &mdns), ("SSDP", &ssdp)] {
            ensure!(!crosses(frame, &there)?, "{what} stays");
            arrives(&format!("{what} reaches its own site"), frame, &here)?;
        }
        // Without anybody at its own site it goes nowhere, and is counted.
        lab.node(0).ok(&["detach", "here"])?;
        ensure!(!crosses(&offer, &there)?);
        interop_tests::wait("it is counted", SOON, || {
            Ok(lab.node(0).drops("stays-at-site")? > 0)
        })?;
        // Both must let it pass.
        for (node, name) in [(0, "attic"), (1, "cellar")] {
            lab.node(node).ok(&["detach", name])?;
            uplink(lab, node, name, &["--allow", "dhcp,mdns"])?;
        }
        arrives("an offer crosses now", &offer, &there)?;
        arrives("mDNS crosses now", &mdns, &there)?;
        ensure!(!crosses(&ssdp, &there)?, "SSDP still stays");
        Ok(())
    });
}

#[test]
fn a_storm_on_one_lan_is_a_breeze_on_the_other() {
    scene(LabSpec::hosts(2), |lab| {
        std::fs::write(&lab.node(0).config, "[limits]\nbum_per_second = 100\n")?;
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let left = lan(lab, 0, "l", "lan0", &["10.10.0.101/24"])?;
        let right = lan(lab, 1, "r", "lan0", &["10.10.0.201/24"])?;
        uplink(lab, 0, "attic", &[])?;
        uplink(lab, 1, "cellar", &[])?;
        ping_until(&left.stations[0], "10.10.0.201".parse()?, SOON)?;
        let (tell, there) = (
            Tap::open(&left.stations[0], "eth0")?,
            Tap::open(&right.stations[0], "eth0")?,
        );
        let noise = frame(
            [0xff; 6],
            mac("02:00:00:00:0c:01")?,
            0x88b5,
            b"meshd-test storm",
        );
        let sent = std::thread::spawn(move || -> Result<u32> {
            let (since, mut sent) = (Instant::now(), 0);
            while since.elapsed() < Duration::from_secs(2) {
                for _ in 0..50 {
                    let _ = tell.send(&noise);
                    sent += 1;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(sent)
        });
        let heard = there.hear(Duration::from_millis(2500), |_| false)?;
        let heard = heard
            .iter()
            .filter(|f| f.windows(16).any(|w| w == b"meshd-test storm"))
            .count();
        let sent = sent.join().ok().context("the sender failed")??;
        eprintln!("of {sent} broadcasts {heard} crossed");
        ensure!(sent > 2000 && (50..=600).contains(&heard));
        ensure!(lab.node(0).drops("bum-limit")? > 1000);
        // And the others go on.
        ensure!(ping(&left.stations[0], "10.10.0.201".parse()?, 5, 56)?.received == 5);
        Ok(())
    });
}

#[test]
fn attaching_and_detaching_an_uplink_many_times_leaks_nothing() {
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let host = &node.netns;
        ip(&format!("-n {host} link add lan0 type veth peer name far0"))?;
        let before = state(host, "lan0")?;
        let descriptors = || -> Result<usize> {
            let pid = node.pid().context("the daemon runs")?;
            Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
        };
        let cycle = || -> Result<()> {
            node.ok(&["attach", "lan", "--uplink", "lan0", "--name", "up"])?;
            node.ok(&["detach", "up"])?;
            Ok(())
        };
        cycle()?;
        let open = descriptors()?;
        let cycles = std::env::var("MESHD_CYCLES")
            .ok()
            .and_then(|n| n.parse().ok());
        for _ in 0..cycles.unwrap_or(25) {
            cycle()?;
        }
        interop_tests::wait("all descriptors are closed", SOON, || {
            Ok(descriptors()? <= open)
        })?;
        ensure!(state(host, "lan0")? == before);
        nothing_left(host)
    });
}
