//! `meshd capture`: frames on the terminal, or as pcapng in a file or a pipe.

use super::remote::Ask;
use super::{Failure, Printed, show, values};
use crate::api::client::segment;
use clap::Args;
use meshd_core::capture::pcapng;
use meshd_core::code::ErrorCode;
use meshd_core::view::Captured;
use nix::unistd::AccessFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Behind the options.
pub(super) const HELP: &str = "Examples:
  meshd capture web                                      what comes from port `web` and goes to it
  meshd capture lan tcp '*' '>' '*:22' syn               attempts to log in, on network `lan`
  meshd capture lan drop                                 what is dropped, and why
  meshd capture peer:berlin 10.0.0.0/24 not icmp
  meshd capture lan -w lan.pcapng -c 1000 --for 1m
  meshd capture lan -w - | wireshark -k -i -
  meshd capture lan -w - | tcpdump -n -r -

FILTER: all of these must hold, and `not` stands before what must not:
  tcp udp sctp icmp arp nd ip ipv6    ether 0x88b5    proto 47    vlan 7
  10.0.0.1    10.0.0.0/24    10.0.0.1:80    :80    02:00:00:00:00:01      from there or to there
  10.0.0.1 > *:80                                                     from the one to the other
  syn ack fin rst psh urg ece cwr ns    type 8    code 0
  in    out                             as it came from a port or peer, as it leaves to one
  forwarded    answered    drop    drop REASON

A frame is seen where it comes in, with what becomes of it, and again where it goes out. What the kernel
forwards by itself (`meshd flows`: kernel) is seen at ports, at the network's VXLAN device and, with its outer
headers, on the underlay. docs/reference/capture.md has more, and what is not seen.";

/// What `meshd capture` takes.
#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    /// Network, port or peer; `network:NAME`, `port:NAME` or `peer:NAME` where a name may be several.
    #[arg(value_name = "NETWORK|PORT|PEER", value_parser = values::word)]
    of: String,
    /// Which frames; see below.
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Write pcapng to this file, which is emptied when the capture begins; `-`: to standard output.
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Keep so many bytes of each frame [default: all].
    #[arg(long, short, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    snaplen: Option<u32>,
    /// End after so many frames.
    #[arg(long, short, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = values::duration)]
    time: Option<Duration>,
}

/// Frames as lines, until it ends; `query` is what stands behind the `?`.
pub(super) async fn lines(ask: &Ask, query: &str) -> Result<Printed, Failure> {
    let (mut rest, mut failed, mut lost) = (Vec::new(), None, (0, 0));
    let json = ask.json;
    let each = |bytes: &[u8]| {
        rest.extend_from_slice(bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let Ok(captured) = serde_json::from_slice::<Captured>(&line) else {
                failed = Some(Failure::new(
                    ErrorCode::DaemonBrokeOff,
                    "the daemon told a frame in other words than this program knows; are both of the same version?",
                ));
                return false;
            };
            let text = match (&captured, json) {
                (_, true) => String::from_utf8_lossy(&line).into_owned(),
                (Captured::Frame(frame), _) => show::captured(frame),
                (Captured::Note { note }, _) => {
                    eprintln!("hint: {}", show::clean(note));
                    continue;
                }
                (Captured::Missed { missed, skipped }, _) => {
                    lost = (*missed, *skipped);
                    continue;
                }
            };
            if let Err(error) = super::write(&text) {
                failed = super::forgive(Err(error))
                    .err()
                    .map(|error| super::unwritten(&error));
                return false;
            }
        }
        true
    };
    ask.client
        .stream(&format!("/v1/capture?format=json&{query}"), each)
        .await?;
    tell_lost(lost);
    match failed {
        Some(failure) => Err(failure),
        None => Printed::text(""),
    }
}

fn tell_lost((missed, skipped): (u64, u64)) {
    if missed > 0 {
        eprintln!(
            "hint: {missed} frames are missing: they came faster than they were read; a narrower FILTER or a shorter --snaplen helps"
        );
    }
    if skipped > 0 {
        eprintln!("hint: {skipped} frames were beyond the rate and are not shown");
    }
}

/// Where pcapng goes.
enum Sink {
    Stdout,
    /// It was there; what it has stays until the first block.
    There(File),
    /// It is made with the first block.
    Absent(PathBuf),
}

impl Sink {
    /// Sees that it can be written, and changes nothing.
    fn of(to: &Path) -> io::Result<Self> {
        if to.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        match OpenOptions::new().write(true).open(to) {
            Ok(file) => Ok(Self::There(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
                let access = AccessFlags::W_OK | AccessFlags::X_OK;
                nix::unistd::access(folder.unwrap_or(Path::new(".")), access)?;
                Ok(Self::Absent(to.to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Emptied or made: from now on it is the capture's.
    fn begin(self) -> io::Result<Box<dyn Write>> {
        Ok(match self {
            Self::Stdout => Box::new(io::stdout().lock()),
            Self::There(file) => {
                if file.metadata()?.is_file() {
                    file.set_len(0)?;
                }
                Box::new(file)
            }
            Self::Absent(path) => {
                let mut options = OpenOptions::new();
                // Others' traffic is in it.
                let options = options.write(true).create(true).truncate(true).mode(0o600);
                Box::new(options.open(path)?)
            }
        })
    }
}

async fn write(ask: &Ask, query: &str, to: &Path) -> Result<Printed, Failure> {
    let shown = to.display();
    let unwritten = |error: io::Error| {
        Failure::new(
            ErrorCode::FileUnwritten,
            format!("cannot write {shown}: {error}"),
        )
    };
    let mut sink = Some(Sink::of(to).map_err(unwritten)?);
    let mut out: Option<Box<dyn Write>> = None;
    let mut frames = 0u64;
    let (mut rest, mut failed, mut lost) = (Vec::new(), None, 0);
    let each = |bytes: &[u8]| {
        rest.extend_from_slice(bytes);
        // Whole blocks only: whenever it ends, the file can be read.
        let mut whole = 0;
        loop {
            match pcapng::whole(rest.get(whole..).unwrap_or_default()) {
                Ok(Some(block)) => {
                    whole += block.length;
                    frames += u64::from(block.is_frame);
                    lost = block.missed.unwrap_or(lost);
                }
                Ok(None) => break,
                Err(error) => {
                    failed = Some(Failure::new(ErrorCode::DaemonBrokeOff, error));
                    return false;
                }
            }
        }
        let blocks: Vec<u8> = rest.drain(..whole).collect();
        if blocks.is_empty() {
            return true;
        }
        let begun = sink.take().map(Sink::begin).transpose();
        let written = begun.and_then(|begun| {
            out = begun.or(out.take());
            let Some(out) = &mut out else { return Ok(()) };
            out.write_all(&blocks)?;
            out.flush()
        });
        if let Err(error) = written {
            // Who has read enough has closed the pipe.
            failed = super::forgive(Err(error)).err().map(unwritten);
            return false;
        }
        true
    };
    ask.client
        .stream(&format!("/v1/capture?{query}"), each)
        .await?;
    tell_lost((lost, 0));
    match failed {
        Some(failure) => Err(failure),
        None if ask.json && to.as_os_str() != "-" => Printed::text(show::json(
            &serde_json::json!({ "file": to, "frames": frames, "missed": lost }),
        )),
        None => Printed::text(""),
    }
}

/// Real frames with their reasons, some a second: `meshd trace --live`.
pub(super) async fn live(
    ask: &Ask,
    network: &str,
    filter: &str,
    rate: u32,
) -> Result<Printed, Failure> {
    // What comes has the reasons; who wants to see frames leave says so.
    let way = filter
        .split_whitespace()
        .any(|word| matches!(word, "in" | "out"));
    let filter = match way {
        true => filter.to_owned(),
        false => format!("in {filter}"),
    };
    let query = format!(
        "of={}&filter={}&per_s={rate}",
        segment(&format!("network:{network}")),
        segment(&filter)
    );
    lines(ask, &query).await
}

pub(super) async fn run(ask: &Ask, args: &CaptureArgs) -> Result<Printed, Failure> {
    let mut query = format!("of={}", segment(&args.of));
    let filter = args.filter.join(" ");
    for (name, value) in [
        ("filter", (!filter.is_empty()).then(|| segment(&filter))),
        ("snaplen", args.snaplen.map(|bytes| bytes.to_string())),
        ("count", args.count.map(|frames| frames.to_string())),
        (
            "seconds",
            args.time.map(|time| time.as_secs().max(1).to_string()),
        ),
    ] {
        if let Some(value) = value {
            query += &format!("&{name}={value}");
        }
    }
    match &args.write {
        Some(to) => write(ask, &query, to).await,
        None => lines(ask, &query).await,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_it_has_until_the_first_block() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        std::fs::write(&old, "a long capture of yesterday").unwrap();
        let sinks = [&old, &new].map(|path| Sink::of(path).unwrap());
        assert_eq!(std::fs::read(&old).unwrap(), b"a long capture of yesterday");
        assert!(!new.exists());
        for sink in sinks {
            sink.begin().unwrap().write_all(b"new").unwrap();
        }
        for path in [&old, &new] {
            assert_eq!(std::fs::read(path).unwrap(), b"new");
        }
        assert!(Sink::of(&folder.path().join("no/such/folder")).is_err());
        assert!(Sink::of(folder.path()).is_err());
    }
}
