//! Very many UDP flows from one container to another, as raw frames: numbered, at a steady rate, each heard with its time.
//!
//! ```text
//!   sender thread --AF_PACKET--> container's eth0 … far container's eth0 --AF_PACKET--> listener thread: number, DSCP, when
//! ```
//!
//! Flows differ in their ports. Owns no judgement of what was heard.

use crate::frames::Tap;
use crate::node::Attached;
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Ports at each end: so many squared is the most flows there can be.
const PORTS: u32 = 317;

/// Which flows, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many, one after the other and then again.
    pub flows: u32,
    /// Frames a second; `None`: as fast as they can be sent.
    pub rate: Option<u32>,
    /// The lowest destination port.
    pub first_port: u16,
    /// Do they differ in the destination port only? Then at most 60,000.
    pub one_port_each: bool,
}

/// A frame that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// Its number, from 0 in order of sending.
    pub number: u64,
    /// As it arrived.
    pub dscp: u8,
    /// When the kernel had it.
    pub at: SystemTime,
}

/// A load that is on.
#[derive(Debug)]
pub struct Flows {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    listener: JoinHandle<Result<Vec<Heard>>>,
}

impl Flows {
    /// Begins: from port `from` of container `client` to port `to` of container `server`.
    ///
    /// # Errors
    /// If a socket cannot be made, or a port has no IPv4 address.
    pub fn start(
        (client, from): (&str, &Attached),
        (server, to): (&str, &Attached),
        load: Load,
    ) -> Result<Self> {
        let mut frame = template(from, to)?;
        let (outbox, inbox) = (Tap::open(client, "eth0")?, Tap::open(server, "eth0")?);
        let stop = Arc::new(AtomicBool::new(false));
        let halt = Arc::clone(&stop);
        let sender = std::thread::spawn(move || {
            let (start, mut sent) = (Instant::now(), 0u64);
            while !halt.load(Ordering::Relaxed) {
                let flow = (sent % u64::from(load.flows.max(1))) as u32;
                let (src, dst) = if load.one_port_each {
                    (9, flow)
                } else {
                    (1024 + flow % PORTS, flow / PORTS)
                };
                frame[34..36].copy_from_slice(&(src as u16).to_be_bytes());
                let dst = u32::from(load.first_port) + dst;
                frame[36..38].copy_from_slice(&(dst as u16).to_be_bytes());
                frame[42..50].copy_from_slice(&sent.to_be_bytes());
                match outbox.send(&frame) {
                    Ok(()) => sent += 1,
                    // The device's queue is full: the same frame once more.
                    Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => continue,
                    Err(e) => return Err(e).context("send a frame"),
                }
                if let Some(rate) = load.rate {
                    let due = start + Duration::from_secs_f64(sent as f64 / f64::from(rate));
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            }
            Ok(sent)
        });
        let halt = Arc::clone(&stop);
        let listener = std::thread::spawn(move || {
            let mut heard = Vec::new();
            // Half a second without a frame behind the end: all that was on its way is here.
            while inbox.each(Duration::from_millis(500), |frame, at| {
                heard.extend(number_of(frame).map(|(number, dscp)| Heard { number, dscp, at }));
            })? || !halt.load(Ordering::Relaxed)
            {}
            Ok(heard)
        });
        Ok(Self {
            stop,
            sender,
            listener,
        })
    }

    /// Ends it: how many were sent, and what was heard.
    ///
    /// # Errors
    /// If a socket failed.
    pub fn finish(self) -> Result<(u64, Vec<Heard>)> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = |_| anyhow::anyhow!("a thread panicked");
        let sent = self.sender.join().map_err(thread)??;
        let heard = self.listener.join().map_err(thread)??;
        Ok((sent, heard))
    }
}

/// A frame of 64 bytes with the mark of this module and number 0.
fn template(from: &Attached, to: &Attached) -> Result<Vec<u8>> {
    let v4 = |port: &Attached| -> Result<Ipv4Addr> {
        match port.v4()? {
            std::net::IpAddr::V4(v4) => Ok(v4),
            std::net::IpAddr::V6(_) => anyhow::bail!("no IPv4 address"),
        }
    };
    let mut ip = vec![0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend(v4(from)?.octets());
    ip.extend(v4(to)?.octets());
    let sum: u32 = ip
        .chunks(2)
        .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    // Without a UDP checksum, as RFC 768 allows.
    ip.extend([0, 0, 0, 0, 0, 30, 0, 0]);
    ip.extend([0; 8]);
    ip.extend(MARK);
    let (dst, src) = (crate::frames::mac(&to.mac)?, crate::frames::mac(&from.mac)?);
    Ok(crate::frames::frame(dst, src, 0x0800, &ip))
}

/// Tells frames of this module from others.
const MARK: [u8; 14] = *b"meshd-flows-64";

fn number_of(frame: &[u8]) -> Option<(u64, u8)> {
    if frame.get(50..64)? != MARK {
        return None;
    }
    let number = u64::from_be_bytes(frame.get(42..50)?.try_into().ok()?);
    Some((number, frame.get(15)? >> 2))
}
