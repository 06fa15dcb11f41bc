//! Controllers on real traffic: what they write holds for frames, and what they do wrong harms nobody.

use anyhow::{Context, Result, ensure};
use interop_tests::frames::{self, Tap, mac};
use interop_tests::lab::{Lab, LabSpec, plugin, scene};
use interop_tests::netns;
use interop_tests::node::Node;
use interop_tests::segment::Station;
use interop_tests::traffic::{ping, ping_until};
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

const SUBNETS: [&str; 4] = ["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"];
const SOON: Duration = Duration::from_secs(20);
const ALL: &str = "random,timers,kv,topology,flows,packet-out,http";
const GUARD: &str = "topology,flows,timers,kv";
const MARK: &[u8] = b"listen to your controller";

fn patience() -> Duration {
    Duration::from_millis(700) * interop_tests::slow()
}

/// Two hosts with two containers each on `lan`, and a plugin installed on both.
fn with(name: &str, body: impl FnOnce(&Lab, &[Station]) -> Result<()>) {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNETS)?;
        let file = plugin(name)?;
        for node in &lab.nodes {
            let said = node.ok(&["plugin", "install", "it", &file.to_string_lossy()])?;
            ensure!(
                said.contains("attach it NETWORK --grant "),
                "it does not say what has to be granted: {said}"
            );
        }
        body(lab, &stations)
    });
}

fn attach(node: &Node, grant: &str, config: &str) -> Result<()> {
    let words = [
        "plugin", "attach", "it", "lan", "--grant", grant, "--config", config,
    ];
    node.ok(&words).map(drop)
}

fn control(node: &Node, what: &str) -> Result<()> {
    attach(
        node,
        ALL,
        &format!(r#"{{"do":"facts","to":666,"control":"{what}"}}"#),
    )
}

fn log(node: &Node) -> Result<String> {
    node.ok(&["plugin", "logs", "it", "--network", "lan"])
}

/// A figure of the controller, as it shows it to the operator.
fn figure(node: &Node, name: &str) -> Result<Option<i64>> {
    let stats = node.json(&["plugin", "stats", "it"])?;
    let row = stats
        .as_array()
        .and_then(|rows| rows.first())
        .context("no statistics")?;
    let figure = row.pointer(&format!("/controller/figures/{name}"));
    Ok(figure.and_then(serde_json::Value::as_i64))
}

fn until(what: &str, node: &Node, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + SOON * interop_tests::slow();
    while !holds()? {
        ensure!(Instant::now() < end, "{what} does not come\n{}", log(node)?);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn says(node: &Node, line: &str) -> Result<()> {
    until(line, node, || Ok(log(node)?.contains(line)))
}

fn say(from: &Station, to: IpAddr) -> Result<()> {
    netns::within(&from.netns, || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.send_to(MARK, (to, 666))?;
        Ok(())
    })
}

/// Does `ear` get a frame with `sign` in it after this?
fn heard(ear: &str, sign: &[u8], speak: impl FnOnce() -> Result<()>) -> Result<bool> {
    let tap = Tap::open(ear, "eth0")?;
    let fits = |frame: &[u8]| frame.windows(sign.len()).any(|window| window == sign);
    speak()?;
    Ok(tap.hear(patience(), fits)?.iter().any(|frame| fits(frame)))
}

fn sends(from: &str, frame: &[u8]) -> Result<()> {
    Ok(Tap::open(from, "eth0")?.send(frame)?)
}

const EVERYBODY: [u8; 6] = [0xff; 6];

/// An ARP reply to everybody: `ip` is at `sender`.
fn arp_lie(sender: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 2];
    body.extend(sender);
    body.extend(ip);
    body.extend(EVERYBODY);
    body.extend(ip);
    frames::frame(EVERYBODY, sender, 0x0806, &body)
}

fn udp(
    dst: [u8; 6],
    src: [u8; 6],
    from: ([u8; 4], u16),
    to: ([u8; 4], u16),
    body: &[u8],
) -> Vec<u8> {
    let length = body.len() as u16 + 8;
    let mut ip = vec![0x45, 0];
    ip.extend((length + 20).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    ip.extend(from.0);
    ip.extend(to.0);
    let sum: u32 = ip
        .chunks(2)
        .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend(from.1.to_be_bytes());
    ip.extend(to.1.to_be_bytes());
    ip.extend(length.to_be_bytes());
    ip.extend([0, 0]);
    ip.extend(body);
    frames::frame(dst, src, 0x0800, &ip)
}

/// A message of DHCP about `client`, by which `given` is given.
fn dhcp(op: u8, kind: u8, client: [u8; 6], given: [u8; 4]) -> Vec<u8> {
    let mut body = vec![op, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe];
    body.extend([0; 8]);
    body.extend(given);
    body.extend([0; 8]);
    body.extend(client);
    body.extend([0; 10 + 64 + 128]);
    body.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 51, 4, 0, 0, 2, 88, 255]);
    body
}

fn v4(station: &Station) -> Result<[u8; 4]> {
    match station.port.v4()? {
        IpAddr::V4(ip) => Ok(ip.octets()),
        IpAddr::V6(_) => anyhow::bail!("no IPv4 address"),
    }
}

#[test]
fn guard_stops_a_spoofed_arp_and_a_rogue_dhcp_server_and_learns_leases_of_the_right_one() {
    with("guard", |lab, stations| {
        let (thief, far) = (&stations[0], &stations[2]);
        let (thief_mac, far_mac) = (mac(&thief.port.mac)?, mac(&far.port.mac)?);
        ping_until(&thief.netns, far.port.v4()?, SOON)?;
        // What the mesh leased to others it defends itself; a gateway of no port is nobody's that it knows.
        let gateway = [10, 10, 0, 200];
        let lie = arp_lie(thief_mac, gateway);
        let sign: Vec<u8> = [&thief_mac[..], &gateway].concat();
        let rogue = udp(
            EVERYBODY,
            thief_mac,
            (v4(thief)?, 67),
            ([255; 4], 68),
            b"rogue lease",
        );
        ensure!(
            heard(&far.netns, &sign, || sends(&thief.netns, &lie))?,
            "without guard the lie crosses"
        );
        ensure!(
            heard(&far.netns, b"rogue lease", || sends(&thief.netns, &rogue))?,
            "without guard the rogue server is heard"
        );
        for node in &lab.nodes {
            attach(node, GUARD, "{}")?;
        }
        until("addresses", lab.node(0), || {
            Ok(figure(lab.node(0), "addresses")? >= Some(4))
        })?;
        ensure!(
            !heard(&far.netns, &sign, || sends(&thief.netns, &lie))?,
            "the lie crosses"
        );
        ensure!(
            !heard(&far.netns, b"rogue lease", || sends(&thief.netns, &rogue))?,
            "the rogue server is heard"
        );
        let pings = ping(&thief.netns, far.port.v4()?, 5, 56)?;
        ensure!(pings.received == 5, "what is right passes: {pings:?}");
        let reasons = lab.node(0).json(&["plugin", "stats", "it"])?;
        for reason in ["arp", "dhcp-server"] {
            let counted = reasons.pointer(&format!("/0/reasons/{reason}"));
            ensure!(
                counted.and_then(serde_json::Value::as_u64) >= Some(1),
                "{reason}: {reasons}"
            );
        }

        // A server behind a trusted port of the other node gives the thief an address.
        let container = lab.add_container(1, "server")?;
        let server = lab
            .node(1)
            .attach("lan", &container, &["--label", "guard=trusted"])?;
        let server_mac = mac(&server.mac)?;
        let given = [10, 10, 0, 250];
        let claim = udp(
            far_mac,
            thief_mac,
            (given, 4000),
            (v4(far)?, 4000),
            b"by the new address",
        );
        let claims = || sends(&thief.netns, &claim);
        ensure!(
            !heard(&far.netns, b"by the new address", claims)?,
            "nobody gave it yet"
        );
        let ask = udp(
            EVERYBODY,
            thief_mac,
            ([0; 4], 68),
            ([255; 4], 67),
            &dhcp(1, 3, thief_mac, [0; 4]),
        );
        let answer = dhcp(2, 5, thief_mac, given);
        let answer = udp(
            thief_mac,
            server_mac,
            ([10, 10, 0, 1], 67),
            (given, 68),
            &answer,
        );
        // Until the guard there knows that the port is trusted, the answer is refused.
        until("a lease", lab.node(0), || {
            ensure!(
                heard(&container, &[0xca, 0xfe, 0xba, 0xbe], || sends(
                    &thief.netns,
                    &ask
                ))?,
                "the question does not arrive"
            );
            sends(&container, &answer)?;
            std::thread::sleep(Duration::from_millis(200));
            Ok(log(lab.node(0))?.contains("10.10.0.250 is "))
        })?;
        until("its traffic", lab.node(0), || {
            heard(&far.netns, b"by the new address", claims)
        })
    });
}

#[test]
fn after_an_acknowledged_commit_no_frame_obeys_what_was() {
    with("fixture-controlled", |lab, stations| {
        let (here, far) = (&stations[0], &stations[2]);
        let to = far.port.v4()?;
        ping_until(&here.netns, to, SOON)?;
        control(lab.node(0), "nothing")?;
        ensure!(
            heard(&far.netns, MARK, || say(here, to))?,
            "it passes before"
        );
        control(lab.node(0), "ban")?;
        says(lab.node(0), "committed")?;
        let many = || (0..50).try_for_each(|_| say(here, to));
        ensure!(!heard(&far.netns, MARK, many)?, "a frame obeys what was");
        ensure!(
            ping(&here.netns, to, 3, 56)?.received == 3,
            "others are not concerned"
        );
        // A rule, with nothing of the policy.
        lab.node(0).ok(&["plugin", "detach", "it", "lan"])?;
        ensure!(
            heard(&far.netns, MARK, || say(here, to))?,
            "nobody is asked"
        );
        control(lab.node(0), "rule")?;
        says(lab.node(0), "committed")?;
        ensure!(
            !heard(&far.netns, MARK, many)?,
            "a frame passes by the rule"
        );
        Ok(())
    });
}

#[test]
fn groups_and_flood_sets_that_a_controller_makes_hold_for_frames_until_it_is_detached() {
    with("fixture-controlled", |lab, stations| {
        let (here, near, far) = (&stations[0], &stations[1], &stations[2]);
        let (node, to) = (lab.node(0), far.port.v4()?);
        ping_until(&here.netns, to, SOON)?;
        let make = |what: &str| {
            let made_to = near.port.id;
            let config = format!(
                r#"{{"do":"{what}","on-port":666,"to":7,"control":"make","made-to":{made_to}}}"#
            );
            attach(node, ALL, &config)?;
            says(node, "committed")
        };
        make("group")?;
        ensure!(
            heard(&near.netns, MARK, || say(here, to))?,
            "its group leads to the other container"
        );
        ensure!(
            !heard(&far.netns, MARK, || say(here, to))?,
            "and nowhere else"
        );
        node.ok(&["plugin", "detach", "it", "lan"])?;
        make("flood-set")?;
        let shout = frames::frame(EVERYBODY, mac(&here.port.mac)?, 0x88b5, MARK);
        let shouts = || sends(&here.netns, &shout);
        ensure!(heard(&near.netns, MARK, shouts)?, "who is in the set");
        ensure!(!heard(&far.netns, MARK, shouts)?, "who is not");
        node.ok(&["plugin", "detach", "it", "lan"])?;
        ensure!(heard(&far.netns, MARK, shouts)?, "nobody says anything now");
        Ok(())
    });
}

#[test]
fn one_that_hangs_traps_eats_memory_or_floods_harms_nobody() {
    with("fixture-controlled", |lab, stations| {
        let (here, far) = (&stations[0], &stations[2]);
        let to = far.port.v4()?;
        ping_until(&here.netns, to, SOON)?;
        for (what, sign) in [
            ("spin", "did not return from an event in time"),
            ("trap", "it trapped"),
            ("memory", "bytes of memory"),
            ("log-flood", "lines were left out"),
            ("timer-flood", "timers"),
            ("commit-flood", "did not return from an event in time"),
            ("kv-flood", "did not return from an event in time"),
            ("send-flood", "send Err(OutError::BadFrame"),
        ] {
            control(lab.node(0), what)?;
            says(lab.node(0), sign)?;
            if what == "trap" {
                until("its trouble in the list", lab.node(0), || {
                    let list = lab.node(0).ok(&["plugin", "ls"])?;
                    Ok(list.contains("its controller failed"))
                })?;
            }
            let pings = ping(&here.netns, to, 10, 56)?;
            ensure!(pings.received == 10, "{what}: {pings:?}");
            ensure!(
                heard(&far.netns, MARK, || say(here, to))?,
                "{what}: the policy decides"
            );
            lab.node(0).ok(&["plugin", "detach", "it", "lan"])?;
        }
        ensure!(!lab.node(0).panicked(), "it panicked");
        Ok(())
    });
}

#[test]
fn what_it_keeps_outlives_the_daemon_and_a_reload_hands_its_state_over() {
    with("fixture-controlled", |lab, _| {
        let node = lab.node(0);
        control(node, "count")?;
        until("three ticks", node, || Ok(figure(node, "kept")? >= Some(3)))?;
        let file = plugin("fixture-controlled")?;
        node.ok(&["plugin", "reload", "it", &file.to_string_lossy()])?;
        says(node, "took over")?;
        let before = figure(node, "kept")?;
        node.restart()?;
        until("one tick more", node, || Ok(figure(node, "kept")? > before))?;
        let refused = node.refused(&["plugin", "attach", "it", "lan", "--grant", "none"])?;
        ensure!(refused.contains("is not granted"), "{refused}");
        says(node, "started")
    });
}

fn shares(node: &Node, grant: &str, what: &str, to: u32) -> Result<()> {
    let config = format!(r#"{{"do":"facts","to":{to},"control":"{what}"}}"#);
    attach(node, grant, &config)
}

#[test]
fn what_a_controller_keeps_for_all_nodes_is_seen_there_survives_kill_9_and_ends_with_its_attachment()
 {
    with("fixture-controlled", |lab, _| {
        let all = format!("{ALL},kv-mesh");
        let (a, b) = (lab.node(0), lab.node(1));
        let sees = |node: &Node, keys: i64| {
            until(&format!("{keys} keys"), node, || {
                Ok(figure(node, "shared")? == Some(keys))
            })
        };
        // The scope is granted by itself.
        shares(a, ALL, "share", 1)?;
        sees(a, -1)?;
        shares(a, &all, "share", 1)?;
        sees(a, 1)?;
        shares(b, &all, "share", 2)?;
        for node in [a, b] {
            sees(node, 2)?;
        }
        // Told by an event, and with what is there then.
        says(a, r#"mesh of/2 Ok(Some("2"))"#)?;
        let bytes = a.json(&["plugin", "stats", "it"])?;
        let bytes = bytes.pointer("/0/controller/shared").cloned();
        ensure!(
            bytes.as_ref().and_then(serde_json::Value::as_u64) > Some(0),
            "{bytes:?}"
        );

        // What each wrote is on the disk of both.
        std::thread::sleep(Duration::from_secs(3));
        b.kill();
        a.kill();
        b.run()?;
        sees(b, 2)?;
        a.run()?;
        sees(a, 2)?;

        // It is deleted for all, written again, and ends with its attachment.
        shares(b, &all, "unshare", 2)?;
        for node in [a, b] {
            sees(node, 1)?;
        }
        says(a, "mesh of/2 Ok(None)")?;
        shares(b, &all, "share", 2)?;
        sees(a, 2)?;
        b.ok(&["plugin", "detach", "it", "lan"])?;
        sees(a, 1)?;
        Ok(())
    });
}
