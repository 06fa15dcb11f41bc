//! Round trips of a small datagram, one at a time.

use crate::netns::within;
use crate::process::{cores, stay_on_core};
use crate::traffic::any;
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an answer is waited for. What is lost counts as that long, so that a way that drops under load cannot look fast.
const PATIENCE: Duration = Duration::from_millis(500);

/// A ping-pong of one UDP datagram of 64 bytes.
#[derive(Clone, Copy, Debug)]
pub struct PingPong {
    /// For how long.
    pub time: Duration,
    /// From the start of one to the start of the next, unless its answer takes longer.
    pub every: Duration,
    /// Each end on a core of its own: a round trip between two cores takes several times as long as on one, and which it is
    /// would be the scheduler's luck.
    pub apart: bool,
}

/// Round trips, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Half were faster.
    pub p50_us: f64,
    /// One in a hundred was slower.
    pub p99_us: f64,
    /// Sent and never answered.
    pub lost: usize,
}

impl PingPong {
    /// For `time`, one after the other, on whatever cores.
    #[must_use]
    pub fn lasting(time: Duration) -> Self {
        Self {
            time,
            every: Duration::ZERO,
            apart: false,
        }
    }

    /// From `client` to `to`, which is inside `server`.
    ///
    /// # Errors
    /// If a socket cannot be made, or no answer comes at all.
    pub fn run(&self, client: &str, server: &str, to: IpAddr, port: u16) -> Result<Latency> {
        let echo = within(server, || UdpSocket::bind((to, port)).context("bind"))?;
        echo.set_read_timeout(Some(Duration::from_millis(200)))?;
        let socket = within(client, || UdpSocket::bind(any(to)).context("bind"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((to, port))?;
        let stop = AtomicBool::new(false);
        let keep_apart = self.apart && cores() > 1;
        let trips = std::thread::scope(|scope| {
            let echoing = scope.spawn(|| {
                if keep_apart {
                    stay_on_core(1)?;
                }
                let mut buffer = [0; 128];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((len, from)) = echo.recv_from(&mut buffer) {
                        let _ = echo.send_to(&buffer[..len], from);
                    }
                }
                anyhow::Ok(())
            });
            let asking = scope.spawn(|| {
                if keep_apart {
                    stay_on_core(0)?;
                }
                let trips = self.ask(&socket);
                stop.store(true, Ordering::Relaxed);
                anyhow::Ok(trips)
            });
            let trips = asking.join();
            stop.store(true, Ordering::Relaxed);
            let echoed = echoing.join();
            echoed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            trips.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        ensure!(trips.iter().any(Option::is_some), "no answer from {to}");
        Ok(Latency::of(&trips))
    }

    /// Each trip's time, none for the lost.
    fn ask(&self, socket: &UdpSocket) -> Vec<Option<Duration>> {
        let (mut trips, mut buffer, start) = (Vec::new(), [0; 128], Instant::now());
        for number in 0u64.. {
            if start.elapsed() > self.time {
                break;
            }
            let mut packet = [0; 64];
            packet[..8].copy_from_slice(&number.to_be_bytes());
            let sent = Instant::now();
            if socket.send(&packet).is_err() {
                continue;
            }
            let mut trip = None;
            // An answer to an older packet, which was given up, does not count.
            while let Ok(len) = socket.recv(&mut buffer) {
                if buffer[..len].get(..8) == Some(&number.to_be_bytes()[..]) {
                    trip = Some(sent.elapsed());
                    break;
                }
            }
            trips.push(trip);
            let due = sent + self.every;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        trips
    }
}

impl Latency {
    fn of(trips: &[Option<Duration>]) -> Self {
        let time = |trip: &Option<Duration>| trip.unwrap_or(PATIENCE).as_secs_f64() * 1e6;
        let mut times: Vec<f64> = trips.iter().map(time).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: usize| {
            let index = (times.len() * share / 100).min(times.len().saturating_sub(1));
            times.get(index).copied().unwrap_or(f64::NAN)
        };
        Self {
            p50_us: at(50),
            p99_us: at(99),
            lost: trips.iter().filter(|trip| trip.is_none()).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_datagram_counts_as_a_slow_one() {
        let mut trips = vec![Some(Duration::from_micros(10)); 97];
        trips.extend([None; 3]);
        let told = Latency::of(&trips);
        assert_eq!((told.p50_us, told.p99_us, told.lost), (10.0, 5e5, 3));
    }
}
