//! The underlay between two hosts: how long a message takes, whether a datagram arrives, who is parted from whom.

use rand::RngExt as _;
use rand::rngs::SmallRng;
use std::collections::BTreeSet;

/// Sins of the network.
#[derive(Clone, Debug)]
pub struct Weather {
    /// One way, in microseconds.
    pub latency_us: u64,
    /// Added at random, in microseconds: reorders datagrams.
    pub jitter_us: u64,
    /// Of a datagram, in a thousand. Messages come late instead, as QUIC sends them again.
    pub loss: u32,
}

impl Weather {
    pub fn fair() -> Self {
        Self {
            latency_us: 300,
            jitter_us: 100,
            loss: 0,
        }
    }

    pub fn foul() -> Self {
        Self {
            latency_us: 2_000,
            jitter_us: 6_000,
            loss: 100,
        }
    }

    /// When a reliable message that leaves now is there, in nanoseconds from now.
    pub fn message_ns(&self, rng: &mut SmallRng) -> u64 {
        let mut delay = self.latency_us + rng.random_range(0..=self.jitter_us);
        // Each loss costs about a round trip and a timer.
        while rng.random_range(0..1000) < self.loss {
            delay += 3 * self.latency_us + 1_000;
        }
        delay * 1000
    }

    /// The same for a datagram, unless it is lost.
    pub fn datagram_ns(&self, rng: &mut SmallRng) -> Option<u64> {
        let lost = rng.random_range(0..1000) < self.loss;
        (!lost).then(|| (self.latency_us + rng.random_range(0..=self.jitter_us)) * 1000)
    }
}

/// Pairs of hosts that do not hear each other.
#[derive(Clone, Debug, Default)]
pub struct Parting(BTreeSet<(usize, usize)>);

impl Parting {
    pub fn part(&mut self, a: usize, b: usize) {
        self.0.insert((a.min(b), a.max(b)));
    }

    /// No host of `left` hears one of the others.
    pub fn halves(&mut self, left: &[usize], all: usize) {
        for &a in left {
            for b in (0..all).filter(|b| !left.contains(b)) {
                self.part(a, b);
            }
        }
    }

    pub fn heal(&mut self) {
        self.0.clear();
    }

    pub fn parted(&self, a: usize, b: usize) -> bool {
        self.0.contains(&(a.min(b), a.max(b)))
    }
}
