//! A firewall with connections on real traffic: `plugins/stateful-firewall` lets one container open connections, and nobody
//! open any to it.

use anyhow::{Context, Result, ensure};
use interop_tests::frames::{self, Tap, mac};
use interop_tests::lab::{Lab, LabSpec, plugin, scene};
use interop_tests::netns;
use interop_tests::segment::Station;
use interop_tests::traffic::{ping, tcp_opens};
use interop_tests::wait;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_secs(2);

/// Two hosts with two containers each; only the first container may open connections.
fn behind_a_wall(body: impl FnOnce(&Lab, &[Station]) -> Result<()>) {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let file = plugin("stateful-firewall")?;
        for node in &lab.nodes {
            let file = file.to_string_lossy();
            node.ok(&["plugin", "install", "stateful-firewall", &file])?;
        }
        let opener = stations[0].port.v4()?;
        for host in 0..2 {
            rules(lab, host, &format!(r#"{{"allow":{{"src":"{opener}"}}}}"#))?;
        }
        body(lab, &stations)
    });
}

fn rules(lab: &Lab, host: usize, list: &str) -> Result<()> {
    let config = format!(r#"{{"rules":[{list}]}}"#);
    let words = ["plugin", "attach", "stateful-firewall", "lan"];
    let words = [&words[..], &["--config", &config]].concat();
    lab.node(host).ok(&words)?;
    Ok(())
}

/// A TCP connection on which a few bytes go every 10 ms.
struct Stream {
    heard: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Stream {
    fn open(client: &Station, server: &Station, port: u16) -> Result<Self> {
        let to = SocketAddr::new(server.port.v4()?, port);
        let listener = netns::within(&server.netns, || Ok(TcpListener::bind(to)?))?;
        let out = netns::within(&client.netns, || Ok(TcpStream::connect_timeout(&to, SOON)?))?;
        let (mut into, _) = listener.accept()?;
        let (heard, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        into.set_read_timeout(Some(Duration::from_millis(100)))?;
        out.set_write_timeout(Some(Duration::from_millis(100)))?;
        out.set_nodelay(true)?;
        let (count, end) = (Arc::clone(&heard), Arc::clone(&stop));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !end.load(Ordering::Relaxed) {
                match into.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(bytes) => count.fetch_add(bytes as u64, Ordering::Relaxed),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                    Err(_) if end.load(Ordering::Relaxed) => break,
                    Err(e) => return Err(e.into()),
                };
            }
            Ok(())
        });
        let end = Arc::clone(&stop);
        let writer = std::thread::spawn(move || {
            let mut out = out;
            while !end.load(Ordering::Relaxed) {
                match out.write(b"on it goes") {
                    Ok(_) => std::thread::sleep(Duration::from_millis(10)),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    // The other end was told to stop first.
                    Err(_) if end.load(Ordering::Relaxed) => break,
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(())
        });
        Ok(Self {
            heard,
            stop,
            threads: vec![reader, writer],
        })
    }

    /// What arrives within `time`.
    fn progress(&self, time: Duration) -> u64 {
        let before = self.heard.load(Ordering::Relaxed);
        std::thread::sleep(time);
        self.heard.load(Ordering::Relaxed) - before
    }

    fn goes_on(&self, when: &str) -> Result<()> {
        let before = self.heard.load(Ordering::Relaxed);
        wait(&format!("the stream {when}"), SOON * 2, || {
            Ok(self.heard.load(Ordering::Relaxed) > before + 100)
        })?;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a stream's thread panicked"))??;
        }
        Ok(())
    }
}

#[test]
fn who_may_open_connections_has_its_answers_and_errors_and_nobody_opens_one_to_it() {
    behind_a_wall(|lab, stations| {
        let (opener, near, far) = (&stations[0], &stations[1], &stations[2]);
        for to in [near, far] {
            let out = tcp_opens(&opener.netns, &to.netns, to.port.v4()?, 80, SOON)?;
            ensure!(out, "out to {}", to.name);
            let back = tcp_opens(&to.netns, &opener.netns, opener.port.v4()?, 80, NEVER)?;
            ensure!(!back, "in from {}", to.name);
            let pings = ping(&to.netns, opener.port.v4()?, 3, 56)?;
            ensure!(pings.received == 0, "in from {}: {pings:?}", to.name);
            let pings = ping(&opener.netns, to.port.v4()?, 3, 56)?;
            ensure!(pings.received == 3, "out to {}: {pings:?}", to.name);

            // An ICMP error about a datagram passes, though its sender may not even ping.
            let address = SocketAddr::new(to.port.v4()?, 9);
            let told = netns::within(&opener.netns, || {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.set_read_timeout(Some(SOON))?;
                socket.connect(address)?;
                // As who speaks UDP asks again: on a busy machine a policy may run out of its time for one frame.
                let mut told = None;
                for _ in 0..3 {
                    socket.send(b"is anybody there")?;
                    told = socket.recv(&mut [0; 16]).err().map(|e| e.kind());
                    if told == Some(ErrorKind::ConnectionRefused) {
                        break;
                    }
                }
                Ok(told)
            })?;
            ensure!(
                told == Some(ErrorKind::ConnectionRefused),
                "{} is told: {told:?}",
                to.name
            );
        }
        let stream = Stream::open(opener, far, 4711)?;
        stream.goes_on("begins")?;
        let all = lab.node(0).list("connections --network lan")?;
        let ours = all.iter().find(|c| c["dst_port"] == 4711);
        let ours = ours.with_context(|| format!("no such connection: {all:?}"))?;
        ensure!(
            ours["state"] == "established" && ours["mark"] == 1 && ours["stale"] == false,
            "{ours}"
        );
        ensure!(
            ours["why"].to_string().contains("stateful-firewall"),
            "{ours}"
        );
        let (from, to) = (opener.port.v4()?, far.port.v4()?);
        let port = &ours["src_port"];
        let packet = format!("tcp {to}:4711 > {from}:{port} ack");
        let words = ["trace", "lan", &packet];
        let report = lab.node(0).json(&words)?;
        ensure!(
            report.to_string().contains("established reply, mark 1") && report["drop"].is_null(),
            "{report}"
        );
        let flows = lab.node(0).list("flows --network lan")?;
        ensure!(
            flows.iter().any(|flow| flow["obstacle"] == "tracked"),
            "{flows:?}"
        );
        let held = |flow: &serde_json::Value| flow["lives"] == "kernel";
        ensure!(!lab.node(0).list("flows --why")?.iter().any(held));
        stream.finish()
    });
}

#[test]
fn an_open_stream_stops_as_soon_as_its_rule_is_gone_and_goes_on_once_it_is_back() {
    behind_a_wall(|lab, stations| {
        let (opener, near, far) = (&stations[0], &stations[1], &stations[2]);
        let allowed = format!(r#"{{"allow":{{"src":"{}"}}}}"#, opener.port.v4()?);
        for to in [near, far] {
            let stream = Stream::open(opener, to, 4711)?;
            stream.goes_on("begins")?;
            // Another rule of the same meaning: it is decided anew, and nobody notices.
            rules(lab, 0, &format!(r#"{{"deny":{{"proto":47}}}},{allowed}"#))?;
            stream.goes_on("is allowed by another rule")?;
            rules(lab, 0, r#"{"deny":{"proto":"tcp","port":4711}}"#)?;
            // What was on its way to the reader's socket.
            std::thread::sleep(Duration::from_millis(50));
            let late = stream.progress(Duration::from_secs(1));
            ensure!(
                late == 0,
                "{late} bytes came to {} after the rule was gone",
                to.name
            );
            rules(lab, 0, &allowed)?;
            stream.goes_on("is allowed again")?;
            stream.finish()?;
        }
        Ok(())
    });
}

/// A TCP SYN between these, as a scanner sends it.
fn syn(from: &Station, to: &Station, src_port: u16, port: u16) -> Result<Vec<u8>> {
    let v4 = |ip| match ip {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => anyhow::bail!("an IPv4 address is wanted"),
    };
    let (src, dst): (Ipv4Addr, Ipv4Addr) = (v4(from.port.v4()?)?, v4(to.port.v4()?)?);
    let ends = [src.octets(), dst.octets()].concat();
    let sum = |bytes: &[u8]| {
        let words = bytes
            .chunks(2)
            .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
        let mut all: u32 = words.sum();
        while all > 0xffff {
            all = (all & 0xffff) + (all >> 16);
        }
        (!(all as u16)).to_be_bytes()
    };
    let mut tcp = [&src_port.to_be_bytes()[..], &port.to_be_bytes()].concat();
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let check = sum(&[&ends[..], &[0, 6, 0, 20], &tcp].concat());
    tcp[16..18].copy_from_slice(&check);
    let mut ip = [&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0][..], &ends].concat();
    let check = sum(&ip);
    ip[10..12].copy_from_slice(&check);
    let macs = (mac(&to.port.mac)?, mac(&from.port.mac)?);
    Ok(frames::frame(macs.0, macs.1, 0x0800, &[ip, tcp].concat()))
}

#[test]
fn a_scan_of_more_ports_than_a_source_may_have_open_cuts_nobodys_stream() {
    behind_a_wall(|lab, stations| {
        let (opener, far) = (&stations[0], &stations[2]);
        let stream = Stream::open(opener, far, 4711)?;
        stream.goes_on("begins")?;
        let tap = Tap::open(&opener.netns, "eth0")?;
        for port in 1..=20_000u16 {
            tap.send(&syn(opener, far, 40_000, port)?)?;
            if port % 100 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        ensure!(
            stream.progress(Duration::from_secs(1)) > 0,
            "the stream goes on during the scan"
        );
        stream.goes_on("goes on after the scan")?;
        let all = lab.node(0).list("connections")?;
        ensure!(all.len() > 1000, "the scan was entered: {} rows", all.len());
        let again = tcp_opens(&opener.netns, &far.netns, far.port.v4()?, 30_000, SOON)?;
        ensure!(again, "new connections open");
        stream.finish()
    });
}

#[test]
fn the_very_first_frame_after_the_firewall_came_opens_a_connection() {
    behind_a_wall(|lab, stations| {
        let (here, far) = (&stations[0], &stations[2]);
        // Their MACs are known, and no IP packet has met the firewall.
        let to = far.port.v4()?;
        let socket = netns::within(&here.netns, || Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        let inbox = netns::within(&far.netns, || Ok(UdpSocket::bind((to, 4000))?))?;
        inbox.set_read_timeout(Some(SOON))?;
        socket.send_to(b"once", (to, 4000))?;
        inbox.recv(&mut [0; 16]).context("it does not arrive")?;
        for node in &lab.nodes {
            let all = node.list("connections")?;
            let udp = all.iter().filter(|row| row["dst_port"] == 4000);
            ensure!(udp.count() == 1, "on {}: {all:?}", node.name);
        }
        Ok(())
    });
}
