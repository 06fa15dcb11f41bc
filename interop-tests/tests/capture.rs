//! `meshd capture` and `meshd trace --live` on real traffic.

#[path = "capture/kernel.rs"]
mod kernel;

use anyhow::{Context, Result, ensure};
use interop_tests::frames::{Tap, frame, mac};
use interop_tests::lab::{LabSpec, find, scene};
use interop_tests::node::Node;
use interop_tests::segment::ping_pairs;
use interop_tests::traffic::ping;
use interop_tests::wait;
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::Block;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const WITHIN: Duration = Duration::from_secs(8);

/// A capture that runs, and ends with the test.
struct Running {
    child: Child,
    out: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `meshd capture` with its output in a file, and returns when it has begun.
fn start(node: &Node, name: &str, args: &[&str]) -> Result<Running> {
    let out = node.state.join(name);
    let mut command = node.command()?;
    command
        .args(args)
        .stdout(File::create(&out)?)
        .stderr(Stdio::piped());
    let running = Running {
        child: command.spawn()?,
        out,
    };
    Ok(running)
}

impl Running {
    /// Waits for its end; what it said on stderr.
    fn end(mut self) -> Result<(PathBuf, String)> {
        let mut status = None;
        wait("the capture ends", WITHIN, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .context("stderr")?
            .read_to_string(&mut said)?;
        ensure!(status.is_some_and(|status| status.success()), "{said}");
        Ok((self.out.clone(), said))
    }
}

/// The name of the interface, whether it came in, the comment, the bytes.
type Packet = (String, bool, String, Vec<u8>);

/// Packets of a file.
fn packets(file: &Path) -> Result<Vec<Packet>> {
    let mut reader = PcapNgReader::new(File::open(file)?)?;
    let (mut names, mut all) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block? {
            Block::InterfaceDescription(interface) => {
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                names.push(name.context("an interface without a name")?);
            }
            Block::EnhancedPacket(packet) => {
                let (mut inbound, mut comment) = (None, String::new());
                for option in &packet.options {
                    match option {
                        EnhancedPacketOption::Flags(flags) => inbound = Some(flags & 3 == 1),
                        EnhancedPacketOption::Comment(text) => comment = text.to_string(),
                        _ => {}
                    }
                }
                let name = names.get(packet.interface_id as usize);
                all.push((
                    name.context("an interface that was not described")?.clone(),
                    inbound.context("a packet without a direction")?,
                    comment,
                    packet.data.to_vec(),
                ));
            }
            _ => {}
        }
    }
    Ok(all)
}

#[test]
fn a_ports_packets_are_written_with_names_directions_and_verdicts_and_others_can_read_it() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        ping_pairs(&stations, false)?;
        let node = lab.node(0);
        let file = node.state.join("file.pcapng");
        let path = file.to_str().context("a path")?;
        // Two pings: each request as it came and as it left, each answer as it left.
        let running = start(
            node,
            "out",
            &["capture", "ca1.lan", "ip", "icmp", "-w", path, "-c", "6"],
        )?;
        wait("it has begun", WITHIN, || {
            Ok(file.metadata().is_ok_and(|file| file.len() > 0))
        })?;
        ping(&stations[0].netns, stations[1].port.v4()?, 2, 56)?;
        let (_, said) = running.end()?;
        ensure!(said.is_empty(), "{said}");
        let all = packets(&file)?;
        ensure!(all.len() == 6, "{all:?}");
        let port = format!("port {} (ca1.lan)", stations[0].port.id);
        let has = |name: &str, inbound: bool, words: &[&str]| {
            let is = |packet: &&(String, bool, String, Vec<u8>)| {
                packet.0 == name
                    && packet.1 == inbound
                    && words.iter().all(|word| packet.2.contains(word))
            };
            all.iter().filter(is).count()
        };
        ensure!(has(&port, true, &["forwarded to peer b"]) == 2, "{all:?}");
        ensure!(
            has(
                "peer b",
                false,
                &["left by the session (quic-direct) to ", "in one datagram"]
            ) == 2,
            "{all:?}"
        );
        ensure!(has(&port, false, &["left by the port"]) == 2, "{all:?}");
        // The frame is what the container sent.
        ensure!(all.iter().all(|packet| packet.3.len() == 98), "{all:?}");
        let Some(tcpdump) = find("tcpdump") else {
            println!(
                "SKIPPED: tcpdump is not here (Debian: apt-get install tcpdump), so no other program has read the file"
            );
            return Ok(());
        };
        let out = Command::new(&tcpdump).args(["-n", "-r", path]).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        ensure!(
            out.status.success()
                && count("ICMP echo request") == 4
                && count("ICMP echo reply") == 2,
            "{text}"
        );
        // By a pipe, as the documentation says.
        let mut writer = node.command()?;
        let mut writer = writer
            .args(["capture", "lan", "ip", "icmp", "in", "-w", "-", "-c", "2"])
            .stdout(Stdio::piped())
            .spawn()?;
        let pipe = writer.stdout.take().context("a pipe")?;
        let reader = Command::new(&tcpdump)
            .args(["-n", "-l", "-r", "-"])
            .stdin(pipe)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut running = Running {
            child: writer,
            out: PathBuf::new(),
        };
        wait("two packets pass", WITHIN, || {
            ping(&stations[0].netns, stations[1].port.v4()?, 1, 56)?;
            Ok(running.child.try_wait()?.is_some())
        })?;
        let text = String::from_utf8_lossy(&reader.wait_with_output()?.stdout).into_owned();
        ensure!(
            text.lines().filter(|line| line.contains("ICMP")).count() == 2,
            "{text}"
        );
        Ok(())
    });
}

#[test]
fn what_is_dropped_is_seen_with_its_reason_and_of_another_network_nothing() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        lab.network("other", &["--subnet", "10.20.0.0/24"])?;
        let node = lab.node(0);
        let dropped = start(
            node,
            "drops",
            &[
                "capture",
                "lan",
                "drop",
                "spoofed-source",
                "-c",
                "5",
                "--json",
            ],
        )?;
        let other = start(
            node,
            "other",
            &["capture", "other", "--for", "3s", "--json"],
        )?;
        let text = start(node, "text", &["capture", "network:lan", "drop", "-c", "1"])?;
        let wire = Tap::open(&stations[0].netns, "eth0")?;
        let stolen = frame(
            mac(&stations[1].port.mac)?,
            mac(&stations[1].port.mac)?,
            0x88b5,
            b"stolen",
        );
        let mut children = vec![dropped, text];
        wait("they have seen it", WITHIN, || {
            wire.send(&stolen)?;
            std::thread::sleep(Duration::from_millis(100));
            let over = children.iter_mut().map(|one| one.child.try_wait());
            Ok(over
                .collect::<Result<Vec<_>, _>>()?
                .iter()
                .all(Option::is_some))
        })?;
        let mut told = children
            .into_iter()
            .map(Running::end)
            .collect::<Result<Vec<_>>>()?
            .into_iter();
        let (file, _) = told.next().context("json")?;
        let lines = std::fs::read_to_string(file)?;
        let rows: Vec<Value> = lines
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let frames: Vec<&Value> = rows.iter().filter(|row| row["kind"] == "frame").collect();
        ensure!(frames.len() == 5, "{lines}");
        for row in frames {
            ensure!(
                row["drop"] == "spoofed-source" && row["way"] == "in" && row["network"] == "lan",
                "{row}"
            );
            ensure!(
                row["flow"]
                    .as_str()
                    .is_some_and(|flow| flow.contains("0x88b5")),
                "{row}"
            );
        }
        let (file, _) = told.next().context("text")?;
        let line = std::fs::read_to_string(file)?;
        ensure!(
            line.contains("on lan: ") && line.contains("dropped: "),
            "{line}"
        );
        let (file, _) = other.end()?;
        let nothing = std::fs::read_to_string(file)?;
        ensure!(!nothing.contains("\"frame\""), "{nothing}");
        for (args, words) in [
            (&["capture", "nobody"][..], "no network, port or peer"),
            (&["capture", "lan", "tcp", "10.0.0.300"], "^"),
            (&["capture", "port:lan"], "no port \"lan\""),
        ] {
            let said = node.refused(args)?;
            ensure!(said.contains(words), "{args:?}: {said}");
        }
        Ok(())
    });
}

#[test]
fn a_reader_that_does_not_read_loses_frames_and_is_told_and_nobody_else_does() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        ping_pairs(&stations, false)?;
        let node = lab.node(0);
        let mut command = node.command()?;
        command.args([
            "capture", "ca1.lan", "ether", "0x88b5", "-w", "-", "--for", "6s",
        ]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut running = Running {
            child,
            out: PathBuf::new(),
        };
        let mut pipe = running.child.stdout.take().context("a pipe")?;
        // The head, so that it runs; then nothing is read for a while.
        let mut head = [0; 64];
        pipe.read_exact(&mut head)?;
        let wire = Tap::open(&stations[0].netns, "eth0")?;
        let (to, own) = (mac(&stations[1].port.mac)?, mac(&stations[0].port.mac)?);
        let sent = 20_000u32;
        let before = node.drops("port-queue-full")?;
        for number in 0..sent {
            let _ = wire.send(&frame(to, own, 0x88b5, &[7; 1300]));
            if number.is_multiple_of(64) {
                // Not faster than the lane reads.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let answered = ping(&stations[0].netns, stations[1].port.v4()?, 5, 56)?;
        ensure!(answered.received == 5, "traffic goes on");
        ensure!(node.drops("port-queue-full")? == before);
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest)?;
        let file = node.state.join("slow.pcapng");
        std::fs::write(&file, [&head[..], &rest].concat())?;
        let seen = packets(&file)?.len() as u64;
        let (_, said) = running.end()?;
        let missing = said
            .split_whitespace()
            .find_map(|word| word.parse::<u64>().ok());
        let missing = missing.with_context(|| format!("it is told what is missing: {said:?}"))?;
        let lost = node.drops("session-queue-full")? + node.drops("tap-overrun")?;
        println!("{seen} seen, {missing} missing, {lost} lost elsewhere");
        ensure!(
            seen > 1000 && missing > 1000,
            "{seen} seen, {missing} missing"
        );
        // Each frame once as it came, and once as it left or was refused.
        ensure!(seen + missing <= 2 * u64::from(sent));
        ensure!(
            seen + missing + 2 * lost >= 2 * u64::from(sent) - 2000,
            "{seen} {missing} {lost}"
        );
        Ok(())
    });
}
