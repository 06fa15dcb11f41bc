//! Groups on real traffic: UDP flows to an address that nobody has, spread over four backends on two nodes by the fixture.

use anyhow::{Context, Result, bail, ensure};
use interop_tests::frames::Tap;
use interop_tests::lab::{Lab, LabSpec, plugin, scene};
use interop_tests::netns;
use interop_tests::segment::Station;
use interop_tests::traffic::ping_until;
use interop_tests::wait;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const SUBNETS: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const SOON: Duration = Duration::from_secs(10);
/// Of no station.
const VIRTUAL_IP: &str = "10.10.0.200";
const VIRTUAL_MAC: &str = "02:76:69:70:00:01";
const FIRST_PORT: u16 = 20_000;
/// Ethernet and IPv4 headers.
const UDP_AT: usize = 34;
const PORT: u16 = 666;

/// The source port of a frame to UDP port 666.
fn flow_of(frame: &[u8]) -> Option<u16> {
    let port = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let is_udp = frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17);
    (is_udp && port(UDP_AT + 2) == Some(PORT))
        .then(|| port(UDP_AT))
        .flatten()
}

/// Of a group in a config: one for each.
fn buckets(backends: &[&Station]) -> String {
    let each = |one: &&Station| format!(r#"{{"set-dst-mac":"{}"}}"#, one.port.mac);
    let all: Vec<String> = backends.iter().map(each).collect();
    all.join(",")
}

/// Two datagrams of each of so many flows, and the place of the backend that each arrived at; flows that did not arrive are not
/// in it.
fn spread(from: &Station, backends: &[&Station], flows: u16) -> Result<BTreeMap<u16, usize>> {
    let taps: Vec<Tap> = backends
        .iter()
        .map(|station| Tap::open(&station.netns, "eth0"))
        .collect::<Result<_>>()?;
    let to: IpAddr = VIRTUAL_IP.parse()?;
    netns::within(&from.netns, || {
        for turn in 0..2 {
            for port in FIRST_PORT..FIRST_PORT + flows {
                let socket = UdpSocket::bind(("0.0.0.0", port))?;
                socket.send_to(b"to whom it may concern", (to, PORT))?;
                if turn == 0 || port % 8 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })?;
    let patience = Duration::from_millis(300) * interop_tests::slow();
    let mut at = BTreeMap::new();
    for (place, tap) in taps.iter().enumerate() {
        for flow in tap
            .hear(patience, |_| false)?
            .iter()
            .filter_map(|frame| flow_of(frame))
        {
            if let Some(before) = at.insert(flow, place).filter(|before| *before != place) {
                bail!("flow {flow} arrived at {before} and at {place}");
            }
        }
    }
    Ok(at)
}

fn asked(lab: &Lab) -> Result<u64> {
    let plugins = lab.node(0).list("plugin ls")?;
    let row = plugins.first().context("no plugin")?;
    row["calls"].as_u64().context(format!("{row}"))
}

#[test]
fn flows_stay_on_their_backend_when_another_goes_and_one_answer_serves_them_all() {
    scene(LabSpec::hosts(2).containers(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNETS)?;
        let here = &stations[0];
        let backends: Vec<&Station> = stations
            .iter()
            .filter(|one| one.name != "ca1" && one.name != "ca3")
            .collect();
        ensure!(backends.len() == 4);
        ping_until(&here.netns, backends[3].port.v4()?, SOON)?;
        netns::run(
            &here.netns,
            "ip",
            &[
                "neigh",
                "add",
                VIRTUAL_IP,
                "lladdr",
                VIRTUAL_MAC,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ],
        )?;
        lab.node(0).ok(&[
            "plugin",
            "install",
            "fixture",
            &plugin("fixture")?.to_string_lossy(),
        ])?;
        let config = format!(
            r#"{{"on-port":{PORT},"do":"group","to":0,"groups":[{{"name":"web","buckets":[{}]}}]}}"#,
            buckets(&backends)
        );
        lab.node(0)
            .ok(&["plugin", "attach", "fixture", "lan", "--config", &config])?;
        let flows = 240u16;
        let before = spread(here, &backends, flows)?;
        ensure!(
            before.len() == usize::from(flows),
            "{} of {flows} arrived",
            before.len()
        );
        let share = |place: usize, at: &BTreeMap<u16, usize>| {
            at.values().filter(|one| **one == place).count()
        };
        for place in 0..4 {
            let got = share(place, &before);
            ensure!(
                got >= usize::from(flows) / 10,
                "backend {place} got {got} of {flows}"
            );
        }
        let calls = asked(lab)?;
        ensure!(
            calls < u64::from(flows) / 2,
            "{calls} questions for {flows} flows of one kind"
        );
        let from = here.port.v4()?;
        let trace = lab.node(0).json(&[
            "trace",
            "lan",
            &format!("udp {from}:4000 > {}:{PORT}", backends[3].port.v4()?),
        ])?;
        ensure!(trace.to_string().contains("fixture/web"), "{trace}");

        let gone = 3;
        lab.node(1).ok(&["detach", &backends[gone].name])?;
        let left = &backends[..gone];
        wait("all flows have a backend again", SOON, || {
            Ok(spread(here, left, 40)?.len() == 40)
        })?;
        let after = spread(here, left, flows)?;
        ensure!(
            after.len() == usize::from(flows),
            "{} of {flows} arrived",
            after.len()
        );
        let moved = before
            .iter()
            .filter(|(flow, place)| after.get(flow) != Some(place));
        let moved: Vec<_> = moved.collect();
        ensure!(moved.iter().all(|(_, place)| **place == gone), "{moved:?}");
        eprintln!(
            "{} of {flows} flows moved, one of four backends went",
            moved.len()
        );
        ensure!(moved.len() == share(gone, &before));
        Ok(())
    });
}

/// Answers each connection with its number, and each byte after that with the same byte.
fn serve(backend: &Station, to: IpAddr, number: u8) -> Result<()> {
    netns::run(
        &backend.netns,
        "sysctl",
        &["-qw", "net.ipv4.conf.all.arp_announce=2"],
    )?;
    netns::run(
        &backend.netns,
        "ip",
        &["addr", "add", &format!("{to}/32"), "dev", "lo"],
    )?;
    let listener = netns::within(&backend.netns, || Ok(TcpListener::bind((to, 8080))?))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || echo(stream, number));
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream, number: u8) -> std::io::Result<()> {
    stream.write_all(&[number])?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// A connection, and who answered it.
fn connect(from: &Station, to: IpAddr) -> Result<(TcpStream, u8)> {
    let mut stream = netns::within(&from.netns, || {
        Ok(TcpStream::connect_timeout(&(to, 8080).into(), SOON)?)
    })?;
    stream.set_read_timeout(Some(SOON))?;
    let mut number = [0];
    stream.read_exact(&mut number)?;
    Ok((stream, number[0]))
}

#[test]
fn connections_to_a_virtual_address_are_served_by_all_backends_and_live_on_when_another_goes() {
    scene(LabSpec::hosts(2).containers(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNETS)?;
        // `ca3` has the virtual address, and serves nothing.
        let (here, virtual_ip) = (&stations[0], stations[2].port.v4()?);
        let backends = [&stations[1], &stations[3], &stations[4], &stations[5]];
        for (number, backend) in (0u8..).zip(backends) {
            serve(backend, virtual_ip, number)?;
        }
        ping_until(&here.netns, virtual_ip, SOON)?;
        ensure!(
            connect(here, virtual_ip).is_err(),
            "nothing is balanced yet"
        );
        let node = lab.node(0);
        node.ok(&[
            "plugin",
            "install",
            "vip",
            &plugin("vip")?.to_string_lossy(),
        ])?;
        let config = format!(
            r#"{{"services":[{{"ip":"{virtual_ip}","port":8080,"group":"web"}}],"groups":[{{"name":"web","buckets":[{}]}}]}}"#,
            buckets(&backends)
        );
        node.ok(&["plugin", "attach", "vip", "lan", "--config", &config])?;
        let mut open: Vec<(TcpStream, u8)> = (0..60)
            .map(|_| connect(here, virtual_ip))
            .collect::<Result<_>>()?;
        for number in 0..4 {
            let got = open.iter().filter(|(_, by)| *by == number).count();
            ensure!(got > 0, "backend {number} got none of 60");
        }
        ping_until(&here.netns, virtual_ip, SOON)?;
        lab.node(1).ok(&["detach", &stations[5].name])?;
        let mut alive = 0;
        for (stream, by) in open.iter_mut().filter(|(_, by)| *by != 3) {
            stream.write_all(&[7])?;
            let mut byte = [0];
            stream
                .read_exact(&mut byte)
                .with_context(|| format!("a connection to backend {by}, which has not gone"))?;
            alive += 1;
        }
        wait("new connections go to those that are left", SOON, || {
            Ok(connect(here, virtual_ip).is_ok())
        })?;
        for _ in 0..20 {
            ensure!(connect(here, virtual_ip)?.1 != 3);
        }
        eprintln!("{alive} of 60 connections lived on");
        Ok(())
    });
}
