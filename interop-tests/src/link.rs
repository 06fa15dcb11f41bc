//! A long way between two hosts, simulated in user space: delay, a bottleneck with a queue before it, loss and reordering.
//! The kernel's netem does the same in the guest; this does it on every kernel.
//!
//! ```text
//!   host a: und0 === a1 --AF_PACKET--> loss -> queue | rate -> delay (+ late ones) --AF_PACKET--> b1 === und0 : host b
//!                              one thread for each direction, both ends in the wire's namespace
//! ```
//!
//! Owns the frames while they are under way. Refuses superframes and unfinished checksums: the hosts' ends of the wire send
//! none ([`LabSpec::link`](crate::lab::LabSpec::link)).
#![allow(unsafe_code)]

use crate::frames::Tap;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a way does to packets, each direction alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    /// From one end to the other.
    pub delay: Duration,
    /// Bits a second through the bottleneck.
    pub rate: u64,
    /// So many bytes wait before the bottleneck; what comes then is lost.
    pub queue: usize,
    /// Lost by chance, of 100,000 packets.
    pub lost: u32,
    /// Of 100,000 packets, those that come later than what was sent after them.
    pub late: u32,
    /// By so much.
    pub later: Duration,
}

/// Frames under way in one direction, by the time at which they come out.
#[derive(Debug)]
struct Direction {
    spec: LinkSpec,
    /// When the bottleneck has sent all that waits.
    free: Instant,
    /// Of two that are due at once the one that came first goes first.
    under_way: BTreeMap<(Instant, u64), Vec<u8>>,
    count: u64,
    chance: u64,
}

impl Direction {
    fn new(spec: LinkSpec, seed: u64, now: Instant) -> Self {
        Self {
            spec,
            free: now,
            under_way: BTreeMap::new(),
            count: 0,
            chance: seed,
        }
    }

    /// True for `share` of 100,000 calls. splitmix64.
    fn chance(&mut self, share: u32) -> bool {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 100_000 < u64::from(share)
    }

    fn time_of(&self, bytes: usize) -> Duration {
        Duration::from_nanos(8_000_000_000_u64.saturating_mul(bytes as u64) / self.spec.rate.max(1))
    }

    /// A frame enters.
    fn enter(&mut self, frame: &[u8], now: Instant) {
        if self.chance(self.spec.lost) {
            return;
        }
        let start = self.free.max(now);
        if start - now > self.time_of(self.spec.queue) {
            return;
        }
        self.free = start + self.time_of(frame.len());
        let mut due = self.free + self.spec.delay;
        if self.chance(self.spec.late) {
            due += self.spec.later;
        }
        self.count += 1;
        self.under_way.insert((due, self.count), frame.to_vec());
    }

    /// A frame that is due.
    fn leave(&mut self, now: Instant) -> Option<Vec<u8>> {
        let first = self.under_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn next(&self) -> Option<Instant> {
        Some(self.under_way.first_key_value()?.0.0)
    }
}

/// A way that works until it is dropped.
#[derive(Debug)]
pub struct Link {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    /// Joins interfaces `left` and `right` of namespace `netns`.
    ///
    /// # Errors
    /// If there is no such interface, or without `CAP_NET_RAW`.
    pub fn start(netns: &str, left: &str, right: &str, spec: LinkSpec) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let left = Arc::new(Tap::open_inbound(netns, left)?);
        let right = Arc::new(Tap::open_inbound(netns, right)?);
        for (seed, (from, to)) in [(&left, &right), (&right, &left)].into_iter().enumerate() {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            let end = Arc::clone(&end);
            let carry = move || {
                let mut direction = Direction::new(spec, seed as u64, Instant::now());
                while !end.load(Ordering::Relaxed) {
                    carry(&mut direction, &from, &to);
                }
            };
            let thread = std::thread::Builder::new().name("link".into());
            threads.push(thread.spawn(carry).context("start a thread")?);
        }
        Ok(Self { end, threads })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits for the next frame or the next that is due, and does what is to be done.
fn carry(direction: &mut Direction, from: &Tap, to: &Tap) {
    let now = Instant::now();
    let rest = Duration::from_millis(50);
    let wait = direction
        .next()
        .map_or(rest, |due| due.saturating_duration_since(now).min(rest));
    let mut poll = libc::pollfd {
        fd: from.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    // SAFETY: one live pollfd, a live time, no mask.
    let ready = unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, std::ptr::null()) };
    let now = Instant::now();
    if ready > 0 {
        let mut buffer = [0u8; 10_240];
        // A frame that is due must not wait for a flood.
        for _ in 0..64 {
            match from.take(&mut buffer) {
                Some(len) => direction.enter(&buffer[..len], now),
                None => break,
            }
        }
    }
    while let Some(frame) = direction.leave(Instant::now()) {
        // A full ring at the far end is a full queue: what does not fit is lost.
        let _ = to.send(&frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: LinkSpec = LinkSpec {
        delay: Duration::from_millis(10),
        rate: 8_000_000,
        queue: 5_000,
        lost: 0,
        late: 0,
        later: Duration::from_millis(3),
    };

    #[test]
    fn a_frame_takes_its_time_through_the_bottleneck_and_then_the_delay() {
        let start = Instant::now();
        let mut way = Direction::new(SPEC, 1, start);
        way.enter(&[1; 1000], start);
        way.enter(&[2; 1000], start);
        let after = |ms| start + Duration::from_millis(ms);
        assert!(way.leave(after(10)).is_none());
        assert_eq!(way.leave(after(11)).unwrap()[0], 1);
        assert!(way.leave(after(11)).is_none());
        assert_eq!(way.next(), Some(after(12)));
        assert_eq!(way.leave(after(12)).unwrap()[0], 2);
    }

    #[test]
    fn what_finds_the_queue_full_is_lost_and_no_more() {
        let start = Instant::now();
        let mut way = Direction::new(SPEC, 1, start);
        for _ in 0..100 {
            way.enter(&[0; 1000], start);
        }
        // The one that is being sent, and five that wait.
        assert_eq!(way.under_way.len(), 6);
        way.enter(&[0; 1000], start + Duration::from_millis(3));
        assert_eq!(way.under_way.len(), 7);
    }

    #[test]
    fn loss_and_lateness_are_of_the_share_that_was_asked_for() {
        let start = Instant::now();
        let spec = LinkSpec {
            lost: 10_000,
            late: 20_000,
            rate: u64::MAX,
            queue: usize::MAX / 16,
            ..SPEC
        };
        let mut way = Direction::new(spec, 1, start);
        for _ in 0..10_000 {
            way.enter(&[0; 100], start);
        }
        assert!((8_800..9_200).contains(&way.under_way.len()));
        let late = way
            .under_way
            .keys()
            .filter(|key| key.0 > start + SPEC.delay);
        assert!((1_650..1_950).contains(&late.count()));
    }
}
