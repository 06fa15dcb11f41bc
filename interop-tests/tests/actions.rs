//! What a policy may do with a frame besides letting it pass: refuse with an answer, send it elsewhere, copy it, change it,
//! and say who gets a flood. `plugins/fixture` does on UDP or TCP port 666 what its config says.

use anyhow::{Context, Result, ensure};
use interop_tests::frames::{self, Tap, mac};
use interop_tests::lab::{Lab, LabSpec, plugin, scene};
use interop_tests::netns;
use interop_tests::segment::{Station, all_heard};
use interop_tests::traffic::ping_until;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const SUBNETS: [&str; 4] = ["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"];
const SOON: Duration = Duration::from_secs(10);
const MARK: &[u8] = b"do as you are told";

/// Two hosts; `ca1`, `ca2` and `ca3` on the first, as many on the second; the fixture is installed on both.
fn with_fixture(spec: LabSpec, body: impl FnOnce(&Lab, &[Station]) -> Result<()>) {
    scene(spec.containers(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNETS)?;
        let file = plugin("fixture")?;
        for node in &lab.nodes {
            node.ok(&["plugin", "install", "fixture", &file.to_string_lossy()])?;
        }
        body(lab, &stations)
    });
}

fn orders(lab: &Lab, host: usize, what: &str, to: u64) -> Result<()> {
    let config = format!(r#"{{"on-port":666,"do":"{what}","to":{to}}}"#);
    let words = ["plugin", "attach", "fixture", "lan", "--config", &config];
    lab.node(host).ok(&words)?;
    Ok(())
}

fn say(from: &Station, to: IpAddr) -> Result<()> {
    netns::within(&from.netns, || {
        let socket = UdpSocket::bind(match to {
            IpAddr::V4(_) => "0.0.0.0:0",
            IpAddr::V6(_) => "[::]:0",
        })?;
        socket.send_to(MARK, (to, 666))?;
        Ok(())
    })
}

fn is_marked(frame: &[u8]) -> bool {
    frame.windows(MARK.len()).any(|window| window == MARK)
}

/// Who of these hears what is said, and the frame as it came there.
fn heard(
    stations: &[&Station],
    speak: impl FnOnce() -> Result<()>,
) -> Result<Vec<Option<Vec<u8>>>> {
    let heard = all_heard(stations, is_marked, speak)?;
    let first = |marked: Vec<Vec<u8>>| marked.into_iter().next();
    Ok(heard.into_iter().map(first).collect())
}

/// How a connection to port 666 ends, and after how long.
fn refused(from: &Station, to: IpAddr) -> Result<(ErrorKind, Duration)> {
    netns::within(&from.netns, || {
        let start = Instant::now();
        match TcpStream::connect_timeout(&SocketAddr::new(to, 666), SOON) {
            Ok(_) => anyhow::bail!("it opened"),
            Err(error) => Ok((error.kind(), start.elapsed())),
        }
    })
}

#[test]
fn who_is_refused_a_connection_learns_it_at_once_whichever_side_refuses() {
    with_fixture(LabSpec::hosts(2), |lab, stations| {
        let (here, near, far) = (&stations[0], &stations[1], &stations[3]);
        ping_until(&here.netns, far.port.v4()?, SOON)?;
        for (host, side) in [(0, "the sender's"), (1, "the receiver's")] {
            orders(lab, host, "drop", 0)?;
            for to in [far.port.v4()?, far.port.v6()?] {
                // Each new connection, not only the first of a flow.
                for turn in 0..3 {
                    let (kind, after) = refused(here, to)?;
                    ensure!(
                        kind == ErrorKind::ConnectionRefused && after < SOON / 2,
                        "{side} node refuses {to}, turn {turn}: {kind} after {after:?}"
                    );
                }
            }
            if host == 0 {
                let (kind, _) = refused(here, near.port.v4()?)?;
                ensure!(kind == ErrorKind::ConnectionRefused, "on one host: {kind}");
            }
            lab.node(host).ok(&["plugin", "detach", "fixture", "lan"])?;
        }
        // Nobody listens, and that is said by the container itself.
        let (kind, _) = refused(here, far.port.v4()?)?;
        ensure!(kind == ErrorKind::ConnectionRefused, "{kind}");
        Ok(())
    });
}

#[test]
fn a_flow_is_redirected_copied_and_changed_as_policy_says() {
    with_fixture(LabSpec::hosts(2), |lab, stations| {
        let (here, other) = (&stations[0], &stations[2]);
        for receiver in [&stations[1], &stations[3]] {
            let to = receiver.port.v4()?;
            ping_until(&here.netns, to, SOON)?;
            let both = [receiver, other];

            orders(lab, 0, "redirect", other.port.id)?;
            let got = heard(&both, || say(here, to))?;
            ensure!(got[0].is_none() && got[1].is_some(), "redirect: {got:?}");

            orders(lab, 0, "mirror", other.port.id)?;
            let got = heard(&both, || say(here, to))?;
            ensure!(got[0].is_some() && got[0] == got[1], "mirror: {got:?}");

            orders(lab, 0, "edit", 0)?;
            let got = heard(&both, || say(here, to))?;
            ensure!(got[1].is_none(), "no mirror any more: {got:?}");
            let frame = got[0].as_ref().context("edit: nothing came")?;
            // The kernel takes the tag off what a packet socket sees, so the DSCP is looked for where it then is.
            let ip = frame
                .windows(2)
                .position(|two| two == [0x08, 0x00])
                .context("no IPv4")?;
            ensure!(frame.get(ip + 3) == Some(&(46 << 2)), "DSCP: {frame:02x?}");

            let report = lab.node(0).json(&[
                "trace",
                "lan",
                &format!("udp {}:4000 > {to}:666", here.port.v4()?),
            ])?;
            ensure!(report.to_string().contains("push VLAN 7"), "{report}");
        }
        // A port that is not there: dropped, counted, and the daemon goes on.
        orders(lab, 0, "redirect", 4_000_000)?;
        let got = heard(&[&stations[1], other], || say(here, stations[1].port.v4()?))?;
        ensure!(got.iter().all(Option::is_none), "{got:?}");
        ensure!(lab.node(0).drops("policy-target")? > 0, "it is counted");
        Ok(())
    });
}

/// An ARP request for `target`, by which `sender` says to have `ip`.
fn who_has(sender: [u8; 6], ip: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let body = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &sender,
        &ip,
        &[0; 6],
        &target,
        &[0; 18],
    ];
    frames::frame([0xff; 6], sender, 0x0806, &body.concat())
}

#[test]
fn a_station_that_policy_learned_is_sent_to_alone_and_forgotten_when_its_time_is_over() {
    const MACHINE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
    const ITS_IP: [u8; 4] = [10, 10, 0, 200];
    fn asks(frame: &[u8]) -> bool {
        frame.get(12..14) == Some(&[0x08, 0x06]) && frame.get(38..42) == Some(&ITS_IP)
    }
    with_fixture(LabSpec::hosts(2), |lab, stations| {
        let (home, near, far) = (&stations[0], &stations[1], &stations[3]);
        ping_until(&near.netns, far.port.v4()?, SOON)?;
        let machine = Tap::open(&home.netns, "eth0")?;
        let knows = |want: bool| {
            lab.node(0).json(&["fdb"]).map(|fdb| {
                let text = fdb.to_string();
                text.contains("02:00:00:00:00:77") == want && text.contains("10.10.0.200") == want
            })
        };
        let wait = |want: bool| -> Result<()> {
            let end = Instant::now() + SOON * 2;
            while !knows(want)? {
                ensure!(Instant::now() < end, "known is to be {want}");
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        };
        let sends = |to: [u8; 6], from: &Station| -> Result<Vec<u8>> {
            Ok(frames::frame(to, mac(&from.port.mac)?, 0x88b5, MARK))
        };
        let question = who_has(mac(&near.port.mac)?, [10, 10, 0, 3], ITS_IP);
        // For ten minutes: longer than this test, and than the switch by itself remembers.
        orders(lab, 0, "learn", 600_000)?;
        machine.send(&who_has(MACHINE, ITS_IP, ITS_IP))?;
        wait(true)?;
        let speaker = Tap::open(&near.netns, "eth0")?;
        let frame = sends(MACHINE, near)?;
        let got = heard(&[home, far], || Ok(speaker.send(&frame)?))?;
        ensure!(got[0].is_some() && got[1].is_none(), "to it alone: {got:?}");
        let both = all_heard(&[home, far], asks, || Ok(speaker.send(&question)?))?;
        ensure!(both.iter().all(Vec::is_empty), "answered here: {both:?}");

        // Two seconds: it is quiet, and forgotten.
        orders(lab, 0, "learn", 2000)?;
        // The change of the config has made it age as usual, until it is learned anew.
        machine.send(&who_has(MACHINE, ITS_IP, ITS_IP))?;
        wait(false)?;
        let got = heard(&[home, far], || Ok(speaker.send(&frame)?))?;
        ensure!(got.iter().all(Option::is_some), "flooded: {got:?}");
        let both = all_heard(&[home, far], asks, || Ok(speaker.send(&question)?))?;
        ensure!(
            both.iter().all(|heard| !heard.is_empty()),
            "asked: {both:?}"
        );
        Ok(())
    });
}

#[test]
fn a_flood_reaches_whom_policy_lets_it_and_nobody_else_on_any_host() {
    with_fixture(LabSpec::hosts(2), |lab, stations| {
        let (here, others) = (&stations[0], &stations[1..]);
        let others: Vec<&Station> = others.iter().collect();
        ping_until(&here.netns, stations[3].port.v4()?, SOON)?;
        let from = Tap::open(&here.netns, "eth0")?;
        let frame = frames::frame([0xff; 6], mac(&here.port.mac)?, 0x88b5, MARK);
        let got = heard(&others, || Ok(from.send(&frame)?))?;
        ensure!(got.iter().all(Option::is_some), "without policy: {got:?}");

        orders(lab, 0, "flood", stations[2].port.id)?;
        let got = heard(&others, || Ok(from.send(&frame)?))?;
        let who: Vec<bool> = got.iter().map(Option::is_some).collect();
        ensure!(who == [false, true, false, false, false], "{who:?}");
        Ok(())
    });
}
