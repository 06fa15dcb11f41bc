//! Notices that a path takes smaller packets than before, also when little is sent.
//!
//! ```text
//!   packets are lost -> large, small, large, small, ...  (padding, 20 ms apart)
//!                         the large ones lost alone: QUIC finds a black hole, and sends 1200 bytes until it has searched
//!                         all arrived: it was ordinary loss
//! ```
//!
//! QUIC needs four bursts of losses with nothing but large packets in them. Sparse traffic makes one burst a frame, and what
//! leaves in one call with something large goes down with it, so that the burst does not look like it. Owns that evidence and
//! the word about what came of it. Decides nothing: the search is QUIC's.

use crate::quic::Connection;
use crate::rhythm::beat;
use meshd_core::wire::datagram;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Large packets of one round: one burst more than QUIC wants to see.
const LARGE: usize = 5;
/// Between two packets, so that each leaves in a call of its own.
const APART: Duration = Duration::from_millis(20);
/// Pause after a round in which nothing was found.
const REST: Duration = Duration::from_secs(2);
/// Where the search begins: nothing is smaller.
const PAYLOAD_MIN: u16 = 1200;

/// What a path took before, while it takes less; 0: it does not.
#[derive(Default)]
pub(super) struct Before(AtomicU16);

impl Before {
    /// What it took before, if `now` is less.
    pub(super) fn than(&self, now: u16) -> Option<u16> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&before| before > now)
    }
}

/// Looks for as long as it is polled; answers what the path took before and takes now, each time that it shrank.
pub(super) struct Watch {
    mtu: u16,
    lost: u64,
    /// Before a round. All sessions look at the same moment, and if one uplink loses packets of all, rounds that began together would
    /// be a burst of large packets, which are lost for that alone.
    turn: Duration,
}

impl Watch {
    pub(super) fn new(connection: &Connection) -> Self {
        let path = connection.stats().path;
        let number = RandomState::new().hash_one(connection.remote_address());
        Self {
            mtu: path.current_mtu,
            lost: path.lost_packets,
            turn: LOOK.mul_f64(number as f64 / u64::MAX as f64),
        }
    }

    pub(super) async fn shrunk(&mut self, connection: &Connection, before: &Before) -> (u16, u16) {
        loop {
            beat(LOOK).await;
            let path = connection.stats().path;
            let was = std::mem::replace(&mut self.mtu, path.current_mtu);
            if path.current_mtu < was {
                self.lost = path.lost_packets;
                before.0.store(was, Ordering::Relaxed);
                return (was, path.current_mtu);
            }
            let losing = std::mem::replace(&mut self.lost, path.lost_packets) < path.lost_packets;
            if losing && path.current_mtu > PAYLOAD_MIN {
                sleep(self.turn).await;
                round(connection).await;
                // What the round lost is looked at at once if it found something, and never for a round of its own.
                let path = connection.stats().path;
                self.lost = path.lost_packets;
                if path.current_mtu >= self.mtu {
                    sleep(REST).await;
                }
            }
        }
    }
}

async fn round(connection: &Connection) {
    for _ in 0..LARGE {
        let large = connection.max_datagram_size().unwrap_or(0);
        for bytes in [large, 1] {
            pad(connection, bytes);
            sleep(APART).await;
        }
    }
}

fn pad(connection: &Connection, bytes: usize) {
    let mut outgoing = connection.outgoing();
    // Where frames wait, they are evidence enough.
    let _ = outgoing.push(datagram::padding(bytes));
    outgoing.flush();
}
