//! A capture on its way to who asked: frames with names and verdicts, as pcapng or as lines.
//!
//! Owns the writing. What is captured is the datapath's, and the kernel's by `capture/kernel.rs`; a reader that is slow loses
//! frames there, not here.

mod kernel;
mod verdict;

use crate::api::backend::Answer;
use crate::api::capture::{CaptureWish, Format};
use crate::datapath::capture::{CAPTURES_MAX, How, Reader, Seen, Wish};
use crate::driver::DriverHandle;
use crate::views;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use meshd_core::capture::{Fate, Spot, Subject, Way, pcapng};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::flow::{FlowKey, Origin};
use meshd_core::flowtext;
use meshd_core::frame::Frame;
use meshd_core::ident::{Vni, escape};
use meshd_core::node::Node;
use meshd_core::ruling::DropReason;
use meshd_core::view::{Captured, CapturedFrame};
use nix::net::if_::if_indextoname;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What is written at once.
const CHUNK: usize = 64 * 1024;
/// Interfaces that are listed before the first frame; others follow when something is seen there.
const LISTED_MAX: usize = 64;
/// Names that are remembered.
const NAMES_MAX: usize = 4096;
/// How often the reader is told what it missed.
const TOLD: Duration = Duration::from_secs(1);

/// A capture as a client gets it.
pub(crate) type Stream = BoxStream<'static, Result<Bytes, Infallible>>;

struct Writer {
    reader: Reader,
    driver: DriverHandle,
    wish: CaptureWish,
    end: Instant,
    left: u64,
    names: BTreeMap<Spot, String>,
    networks: BTreeMap<Vni, String>,
    /// What policy said of flows that it drops.
    whys: BTreeMap<(DropReason, FlowKey), Option<String>>,
    /// In the order in which they were written.
    interfaces: Vec<Spot>,
    /// What had been missed when the last frame was written, and when that was told last.
    missed: u64,
    told: u64,
    out: Vec<u8>,
    begun: bool,
    over: bool,
    notes: Vec<String>,
    /// Who listens in the kernel, as long as this is here.
    _listening: JoinSet<()>,
}

/// Begins a capture.
///
/// # Errors
/// There are too many, or the daemon stops.
pub(crate) async fn begin(driver: &DriverHandle, wish: CaptureWish) -> Answer<Stream> {
    let subject = wish.subject;
    let seen = Wish {
        subject,
        filter: wish.filter.clone(),
        snaplen: wish.snaplen,
        per_s: wish.per_s,
    };
    let (reader, spots) = driver
        .view(move |node, world, _| {
            let reader = world.datapath.captures().begin(seen);
            (reader, spots(node, &subject))
        })
        .await?;
    let reader = reader.ok_or_else(|| Refusal {
        code: ErrorCode::CapturesFull,
        message: format!("{CAPTURES_MAX} captures run already; end one of them"),
    })?;
    let (listening, notes) = kernel::listen(driver, reader.feed()).await?;
    let mut writer = Writer {
        _listening: listening,
        reader,
        driver: driver.clone(),
        end: Instant::now() + wish.time,
        left: wish.count.unwrap_or(u64::MAX),
        wish,
        names: BTreeMap::new(),
        networks: BTreeMap::new(),
        whys: BTreeMap::new(),
        interfaces: Vec::new(),
        missed: 0,
        told: 0,
        out: Vec::new(),
        begun: false,
        over: false,
        notes,
    };
    writer.head(&spots).await?;
    let chunks = stream::unfold(writer, async |mut writer| {
        let chunk = writer.chunk().await?;
        Some((Ok(chunk), writer))
    });
    Ok(chunks.boxed())
}

/// Where frames of a subject can be seen.
fn spots(node: &Node, subject: &Subject) -> Vec<Spot> {
    if let Some(place) = subject.place {
        return vec![place.into()];
    }
    let Some(vni) = subject.vni else {
        return Vec::new();
    };
    let ports = node.ports().iter();
    let ports = ports.filter(|(record, ..)| record.vni == vni);
    let ports = ports.map(|(record, ..)| Spot::Port(record.id));
    let peers = node.directory().members_with_network(vni);
    let peers = peers.filter(|id| *id != node.id()).map(Spot::Peer);
    ports.chain(peers).take(LISTED_MAX).collect()
}

fn spot_name(node: &Node, spot: Spot) -> String {
    let origin = match spot {
        Spot::Port(port) => Origin::Port(port),
        Spot::Peer(peer) => Origin::Peer(peer),
        Spot::Vxlan(vni) => Origin::Vxlan(vni),
        Spot::Underlay(device) => {
            let name = if_indextoname(device).map_or_else(
                |_| format!("device {device}"),
                |name| escape(name.to_bytes()),
            );
            return format!("underlay {name}");
        }
    };
    views::show_origin(node, origin)
}

/// Places that are named in what is told of a frame.
fn named(seen: &Seen) -> impl Iterator<Item = Spot> + '_ {
    let (to, ends) = match &seen.how {
        How::Goes { to, .. } => (to.as_slice(), [None, None]),
        How::Kernel(hop) => (&[][..], [hop.from, hop.to]),
        _ => (&[][..], [None, None]),
    };
    let ends = ends.into_iter().flatten();
    let to = to.iter().copied().chain(ends).map(Spot::from);
    std::iter::once(seen.spot).chain(to)
}

impl Writer {
    /// What is to be written next; `None`: it is over.
    async fn chunk(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            return Some(Bytes::from(std::mem::take(&mut self.out)));
        }
        if self.over {
            return None;
        }
        tokio::select! {
            seen = self.reader.next() => match seen {
                Some(seen) => self.frame(seen).await?,
                None => self.over = true,
            },
            () = tokio::time::sleep_until(self.end) => self.over = true,
            // A reader that waits on a quiet network hears at once of what it lost.
            () = tokio::time::sleep(TOLD), if self.told != self.reader.missed() => self.tell(),
        }
        while self.out.len() < CHUNK && !self.over {
            match self.reader.try_next() {
                Some(seen) => self.frame(seen).await?,
                None => break,
            }
        }
        if self.over {
            self.tell();
        }
        Some(Bytes::from(std::mem::take(&mut self.out)))
    }

    async fn head(&mut self, spots: &[Spot]) -> Answer<()> {
        self.learn(spots.iter().copied(), None).await?;
        match self.wish.format {
            Format::Pcapng => {
                let program = concat!("meshd ", env!("CARGO_PKG_VERSION"));
                pcapng::section(&mut self.out, program, &self.notes.join("\n"));
                for spot in spots {
                    self.interface(*spot);
                }
            }
            Format::Json => {
                for note in std::mem::take(&mut self.notes) {
                    self.line(&Captured::Note { note });
                }
            }
        }
        Ok(())
    }

    /// Asks for the names of what is not known yet.
    async fn learn(&mut self, spots: impl Iterator<Item = Spot>, vni: Option<Vni>) -> Answer<()> {
        let spots = spots.filter(|spot| !self.names.contains_key(spot));
        let spots: Vec<Spot> = spots.collect();
        let vni = vni.filter(|vni| !self.networks.contains_key(vni));
        if spots.is_empty() && vni.is_none() {
            return Ok(());
        }
        let told = self.driver.view(move |node, _, _| {
            let names = spots.iter().map(|spot| (*spot, spot_name(node, *spot)));
            let network = vni.map(|vni| (vni, views::network_name(node, vni)));
            (names.collect::<Vec<_>>(), network)
        });
        let (names, network) = told.await?;
        if self.names.len() > NAMES_MAX || self.networks.len() > NAMES_MAX {
            self.names.clear();
            self.networks.clear();
        }
        self.names.extend(names);
        self.networks.extend(network);
        Ok(())
    }

    fn name(&self, spot: Spot) -> &str {
        self.names.get(&spot).map_or("somewhere", String::as_str)
    }

    fn interface(&mut self, spot: Spot) -> u32 {
        let known = self.interfaces.iter().position(|other| *other == spot);
        let number = known.unwrap_or(self.interfaces.len());
        if known.is_none() {
            let name = self.names.get(&spot).map_or("somewhere", String::as_str);
            pcapng::interface(&mut self.out, name, &self.wish.text, self.wish.snaplen);
            self.interfaces.push(spot);
        }
        u32::try_from(number).unwrap_or_default()
    }

    fn line(&mut self, line: &Captured) {
        // Plain data, and nothing in it that is no JSON.
        if let Ok(text) = serde_json::to_vec(line) {
            self.out.extend_from_slice(&text);
            self.out.push(b'\n');
        }
    }

    /// How much is not in it.
    fn tell(&mut self) {
        let (missed, skipped) = (self.reader.missed(), self.reader.skipped());
        self.told = missed;
        match self.wish.format {
            Format::Pcapng if !self.interfaces.is_empty() => {
                let now = std::time::SystemTime::now();
                let now = now
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
                pcapng::statistics(&mut self.out, 0, now, missed + skipped);
            }
            Format::Pcapng => {}
            Format::Json => self.line(&Captured::Missed { missed, skipped }),
        }
    }

    /// Beyond the reason of a drop by policy, who said so: the switch knows it of the last one for each reason, and here it is kept by
    /// flow, since what is cached does not come to the switch again.
    async fn why(&mut self, seen: &Seen) -> Answer<Option<String>> {
        let Fate::Dropped(reason @ (DropReason::Policy | DropReason::PolicyFailed)) = seen.fate
        else {
            return Ok(None);
        };
        let Ok(frame) = Frame::parse(&seen.bytes) else {
            return Ok(None);
        };
        let key = frame.flow_key(seen.vni);
        let of = |key: &FlowKey| FlowKey {
            src_port: 0,
            tcp_flags: 0,
            ..*key
        };
        let known = (reason, of(&key));
        if let Some(why) = self.whys.get(&known) {
            return Ok(why.clone());
        }
        let told = self.driver.view(move |node, _, _| {
            let last = node.switch().drops().get(&reason)?;
            let is_it = last.key.as_ref().is_some_and(|last| of(last) == of(&key));
            last.why.clone().filter(|_| is_it)
        });
        let why = told.await?;
        if why.is_some() {
            if self.whys.len() > NAMES_MAX {
                self.whys.clear();
            }
            self.whys.insert(known, why.clone());
        }
        Ok(why)
    }

    async fn frame(&mut self, seen: Seen) -> Option<()> {
        self.learn(named(&seen), Some(seen.vni)).await.ok()?;
        let mut verdict = verdict::words(&seen, &|spot| self.name(spot).to_owned());
        if let Some(why) = self.why(&seen).await.ok()? {
            verdict += &format!(" ({why})");
        }
        let missed = self.reader.missed();
        let lost = missed - std::mem::replace(&mut self.missed, missed).min(missed);
        match self.wish.format {
            Format::Pcapng => {
                let interface = self.interface(seen.spot);
                let packet = pcapng::Packet {
                    interface,
                    at_ns: seen.at_ns,
                    bytes: &seen.bytes,
                    length: seen.length,
                    inbound: seen.way == Way::In,
                    missed: lost,
                    comment: &verdict,
                };
                pcapng::packet(&mut self.out, &packet);
            }
            Format::Json => {
                let parsed = Frame::parse(&seen.bytes).ok();
                let network = self.networks.get(&seen.vni);
                let line = Captured::Frame(CapturedFrame {
                    at_ns: seen.at_ns,
                    network: network.cloned().unwrap_or_default(),
                    place: self.name(seen.spot).to_owned(),
                    way: seen.way,
                    flow: parsed.map(|parsed| flowtext::show(&parsed.flow_key(seen.vni))),
                    verdict,
                    drop: match seen.fate {
                        Fate::Dropped(reason) => Some(reason),
                        _ => None,
                    },
                    length: seen.length,
                    frames: seen.frames,
                });
                self.line(&line);
            }
        }
        self.left -= 1;
        self.over |= self.left == 0;
        Some(())
    }
}
