//! How many bytes of a session may be under way: CUBIC (RFC 9438) between a floor and a ceiling.
//!
//! ```text
//!    floor 64 KiB  <=  CUBIC  <=  ceiling: what 10 Gbit/s take in the smallest round trip seen, 1 to 16 MiB
//! ```
//!
//! A loss shrinks it only where more than 2 % is lost, as BBR's second version has it: a wire that loses a packet of a thousand is not
//! full. Frames inside mostly have congestion control of their own, which hears of each loss that is not mended.
//!
//! The ceiling, because an unbounded window only moves the loss into the far end's socket buffer and the queue into every
//! flow's latency. The floor, because the frames inside have congestion control of their own: a tunnel that shrinks to two
//! packets on a path with random loss would stop them where they would go on slowly.

use crate::quic::Connection;
use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FLOOR: u64 = 64 << 10;
const CEILING_MIN: u64 = 1 << 20;
const CEILING_MAX: u64 = 16 << 20;
/// 10 Gbit/s.
const BYTES_PER_US: u64 = 1250;
/// One lost byte of so many is no sign of congestion.
const LOST_OF: u64 = 50;
/// Bytes over which that is looked at.
const LOOK: u64 = 512 << 10;

/// Makes one per session.
#[derive(Default)]
pub(super) struct BoundedCubic;

impl ControllerFactory for BoundedCubic {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let mut config = CubicConfig::default();
        config.initial_window(FLOOR);
        Box::new(Bounded {
            cubic: Arc::new(config).build(now, mtu),
            ceiling: CEILING_MIN,
            acknowledged: 0,
            recent: Recent::default(),
        })
    }
}

struct Bounded {
    cubic: Box<dyn Controller>,
    ceiling: u64,
    acknowledged: u64,
    recent: Recent,
}

/// Bytes that came and that did not, lately.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    came: u64,
    lost: u64,
}

impl Recent {
    fn arrived(&mut self, bytes: u64) {
        self.came += bytes;
        if self.came > LOOK {
            (self.came, self.lost) = (self.came / 2, self.lost / 2);
        }
    }

    /// Is it congestion? A mark of the network (RFC 3168) comes as a loss of nothing, and always means it.
    fn tells(&mut self, persistent: bool, lost_bytes: u64) -> bool {
        self.lost += lost_bytes;
        persistent || lost_bytes == 0 || self.lost * LOST_OF > self.came
    }
}

/// Bytes of a connection that its far end has acknowledged. The count of acknowledgements in its statistics grows with each that is said
/// again, too.
pub(crate) fn acknowledged(connection: &Connection) -> u64 {
    let controller = connection.congestion().into_any();
    let bounded = controller.downcast::<Bounded>();
    bounded.map_or(0, |bounded| bounded.acknowledged)
}

fn ceiling(rtt_min: Duration) -> u64 {
    let us = u64::try_from(rtt_min.as_micros()).unwrap_or(u64::MAX);
    us.saturating_mul(BYTES_PER_US)
        .clamp(CEILING_MIN, CEILING_MAX)
}

impl Controller for Bounded {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.acknowledged += bytes;
        self.recent.arrived(bytes);
        self.ceiling = ceiling(rtt.min());
        // Growth beyond the ceiling would be spent by the first losses without any effect.
        let app_limited = app_limited || self.cubic.window() >= self.ceiling;
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest: Option<u64>,
    ) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        persistent: bool,
        lost_bytes: u64,
    ) {
        if self.recent.tells(persistent, lost_bytes) {
            self.cubic
                .on_congestion_event(now, sent, persistent, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.cubic.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().clamp(FLOOR, self.ceiling)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            ceiling: self.ceiling,
            acknowledged: self.acknowledged,
            recent: self.recent,
        })
    }

    fn initial_window(&self) -> u64 {
        FLOOR
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_losses_are_no_congestion_and_many_or_a_mark_are() {
        let after = |came, lost| Recent { came, lost }.tells(false, 1200);
        assert!(!after(100_000, 0) && after(100_000, 2000));
        assert!(after(1000, 0), "the first packets say nothing of a share");
        let mut quiet = Recent {
            came: 500_000,
            lost: 0,
        };
        assert!(!quiet.tells(false, 1200));
        assert!(quiet.tells(false, 0), "a mark");
        assert!(quiet.tells(true, 1200), "nothing came for long");
        (0..20).for_each(|_| quiet.arrived(LOOK));
        assert!(quiet.came <= LOOK && quiet.lost == 0);
    }

    #[test]
    fn the_window_stays_between_floor_and_ceiling() {
        let now = Instant::now();
        let mut controller = Arc::new(BoundedCubic).build(now, 1200);
        assert_eq!(controller.window(), FLOOR);
        for i in 1..50 {
            controller.on_congestion_event(
                now + Duration::from_secs(i),
                now + Duration::from_secs(i),
                true,
                1200,
            );
        }
        assert_eq!(controller.window(), FLOOR);
        assert_eq!(ceiling(Duration::from_micros(100)), CEILING_MIN);
        assert_eq!(ceiling(Duration::from_millis(4)), 5_000_000);
        assert_eq!(ceiling(Duration::from_secs(2)), CEILING_MAX);
    }
}
