//! Recordings: what a policy says about every frame of one, and whether it is what it said before.
//!
//! A golden trace has one JSON line a frame, so that a change of a policy is reviewed as a diff. `MESHD_BLESS=1` writes it.

use super::packet::Packet;
use super::{Host, keys, said};
use crate::policy::Policy;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// First line of a golden trace: the format's version.
const HEAD: &str = r#"{"golden":1}"#;
/// Differences that are shown.
const SHOWN: usize = 20;

/// What a policy said about the frames of a recording.
pub struct Replay {
    pub(super) lines: Vec<String>,
}

pub(super) fn replay<P: Policy>(host: &Host<P>, path: &Path) -> Replay {
    let frames = match frames(path) {
        Ok(frames) => frames,
        Err(why) => panic!("{}: {why}", path.display()),
    };
    let lines = frames.into_iter().enumerate();
    let lines = lines.map(|(at, frame)| line(host, at + 1, &Packet::frame(frame)));
    Replay {
        lines: lines.collect(),
    }
}

fn line<P: Policy>(host: &Host<P>, n: usize, packet: &Packet) -> String {
    let packet_text = keys::show(packet);
    let (key, verdict, deps) = match host.ask(packet) {
        Ok(asked) => asked,
        // The daemon drops it without a question.
        Err(why) => {
            return format!(
                r#"{{"n":{n},"packet":{},"not-asked":{}}}"#,
                json(&packet_text),
                json(&why)
            );
        }
    };
    format!(
        r#"{{"n":{n},"key":"{:016x}","packet":{},"verdict":{},"reads":{}}}"#,
        keys::digest(&key),
        json(&packet_text),
        json(&said::<P>(&verdict)),
        json(&keys::names(&deps))
    )
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Replay {
    /// Compares with a golden trace, or writes it if `MESHD_BLESS` is set. The path is seen from the crate's folder.
    ///
    /// # Panics
    /// If they differ, with the differences; or if the file cannot be read or written.
    #[track_caller]
    pub fn matches(&self, golden: impl AsRef<Path>) {
        let path = golden.as_ref();
        if std::env::var_os("MESHD_BLESS").is_some() {
            let all = format!("{HEAD}\n{}\n", self.lines.join("\n"));
            if let Err(error) = fs::write(path, all) {
                panic!("{}: {error}", path.display());
            }
            return;
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => panic!(
                "{}: {error}. Write it by running the test with MESHD_BLESS=1",
                path.display()
            ),
        };
        if let Some(difference) = self.difference(&text) {
            panic!(
                "{} says otherwise. If the change is meant, run the test with MESHD_BLESS=1\n{difference}",
                path.display()
            );
        }
    }

    /// Line by line, since a line is a frame and frames keep their order.
    pub(super) fn difference(&self, golden: &str) -> Option<String> {
        let mut old = golden.lines();
        if old.next() != Some(HEAD) {
            return Some(format!("its first line is not {HEAD}"));
        }
        let (mut out, mut count, mut new) = (String::new(), 0, self.lines.iter());
        loop {
            let (old, new) = (old.next(), new.next().map(String::as_str));
            if old.is_none() && new.is_none() {
                break;
            }
            if old == new {
                continue;
            }
            count += 1;
            for (sign, line) in [('-', old), ('+', new)] {
                if let Some(line) = line.filter(|_| count <= SHOWN) {
                    // Writing to a String cannot fail.
                    let _ = writeln!(out, "{sign} {line}");
                }
            }
        }
        if count > SHOWN {
            let _ = writeln!(out, "and {} more", count - SHOWN);
        }
        (count > 0).then_some(out)
    }
}

/// The frames of a recording.
fn frames(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let wrong = |e: PcapError| format!("this is no recording: {e}");
    let ethernet = |link: DataLink| match link {
        DataLink::ETHERNET => Ok(()),
        other => Err(format!("it was not recorded on Ethernet, but on {other:?}")),
    };
    let mut out = Vec::new();
    // A section header block of pcapng.
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        let mut reader = PcapNgReader::new(bytes.as_slice()).map_err(wrong)?;
        while let Some(block) = reader.next_block() {
            match block.map_err(wrong)? {
                Block::InterfaceDescription(interface) => ethernet(interface.linktype)?,
                Block::EnhancedPacket(packet) => out.push(packet.data.into_owned()),
                Block::SimplePacket(packet) => out.push(packet.data.into_owned()),
                _ => {}
            }
        }
        return Ok(out);
    }
    let mut reader = PcapReader::new(bytes.as_slice()).map_err(wrong)?;
    ethernet(reader.header().datalink)?;
    while let Some(packet) = reader.next_packet() {
        out.push(packet.map_err(wrong)?.data.into_owned());
    }
    Ok(out)
}

/// Writes packets down as a recording, a millisecond apart; for tests that make their own.
///
/// # Panics
/// If the file cannot be written.
pub fn write_pcap(path: impl AsRef<Path>, packets: &[Packet]) {
    let (path, bytes) = (path.as_ref(), recording(packets));
    if let Err(error) = fs::write(path, bytes) {
        panic!("{}: {error}", path.display());
    }
}

pub(super) fn recording(packets: &[Packet]) -> Vec<u8> {
    let header = PcapHeader {
        endianness: pcap_file::Endianness::Little,
        datalink: DataLink::ETHERNET,
        ..PcapHeader::default()
    };
    let written = PcapWriter::with_header(Vec::new(), header).and_then(|mut writer| {
        for (at, packet) in packets.iter().enumerate() {
            let bytes = packet.bytes();
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let time = Duration::from_millis(at as u64);
            writer.write_packet(&PcapPacket {
                timestamp: time,
                orig_len: len,
                data: Cow::Borrowed(bytes),
            })?;
        }
        Ok(writer.into_writer())
    });
    written.unwrap_or_else(|e| panic!("a recording in memory: {e}"))
}
