//! Made-up traffic of an office: many short flows, few long ones; the same seed makes the same frames.

use crate::recording::{Captured, Recording};
use meshd_core::flowtext::Packet;
use meshd_core::ident::MacAddr;
use std::time::Duration;

/// Stations that talk.
const HOSTS: u64 = 60;
/// TCP and UDP ports that are called, the first ones more often.
const PORTS: &[u16] = &[443, 443, 443, 80, 53, 22, 445, 123, 3389, 25, 5432, 23];
/// Flows that are under way at once.
const FLOWS: usize = 256;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }
}

/// So many frames, a millisecond apart: TCP, UDP, ICMP over IPv4 and IPv6, ARP and ND, among 60 stations. Of four frames three
/// belong to a flow that is under way.
#[must_use]
pub fn traffic(frames: usize, seed: u64) -> Recording {
    let mut dice = Dice(seed);
    let mut flows: Vec<Vec<u8>> = Vec::new();
    let mut out = Recording::default();
    for n in 0..frames {
        let known = dice.below(4) != 0 && !flows.is_empty();
        let frame = if known {
            // The product of two leans to the first flows, which so are the long ones.
            let reach = dice.below(flows.len() as u64) + 1;
            let at = dice.below(reach) as usize;
            flows.get(at).cloned().unwrap_or_default()
        } else {
            let frame = flow(&mut dice);
            match flows.len() < FLOWS {
                true => flows.push(frame.clone()),
                false => {
                    let at = dice.below(FLOWS as u64) as usize;
                    if let Some(place) = flows.get_mut(at) {
                        place.clone_from(&frame);
                    }
                }
            }
            frame
        };
        out.frames.push(Captured {
            at: Duration::from_millis(n as u64),
            length: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            frame,
        });
    }
    out
}

/// The first frame of a flow.
fn flow(dice: &mut Dice) -> Vec<u8> {
    let (from, to) = (dice.below(HOSTS) + 1, dice.below(HOSTS) + 1);
    let port = PORTS
        .get(dice.below(PORTS.len() as u64) as usize)
        .copied()
        .unwrap_or(443);
    let high = 32_768 + dice.below(28_000);
    let v4 = |host: u64| format!("10.0.{}.{host}", host % 3);
    let v6 = |host: u64| format!("fd00::{host:x}");
    let text = match dice.below(16) {
        0 => format!("arp who-has {} tell {}", v4(to), v4(from)),
        1 => format!("icmp {} > {}", v4(from), v4(to)),
        2 => format!("udp {}:{high} > {}:53", v4(from), v4(to)),
        3 => format!("udp [{}]:{high} > [{}]:53", v6(from), v6(to)),
        4..6 => format!("tcp [{}]:{high} > [{}]:{port} syn", v6(from), v6(to)),
        6..8 => format!("tcp {}:{port} > {}:{high} ack", v4(to), v4(from)),
        _ => format!("tcp {}:{high} > {}:{port} syn", v4(from), v4(to)),
    };
    let mac = |host: u64| MacAddr([2, 0, 0, 0, 0, (host & 0xff) as u8]);
    match text.parse::<Packet>() {
        Ok(packet) => {
            let to = packet.group_mac().unwrap_or(mac(to));
            packet.frame(mac(from), to)
        }
        // Every line above is one that the parser takes; a test says so.
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::question;
    use std::collections::BTreeSet;

    #[test]
    fn every_made_up_frame_is_asked_about_and_the_same_seed_makes_the_same() {
        let frames = traffic(5000, 7);
        assert_eq!(frames, traffic(5000, 7));
        assert_ne!(frames, traffic(5000, 8));
        let keys: BTreeSet<_> = frames
            .frames
            .iter()
            .map(|captured| question(&captured.frame).map(|q| q.key))
            .collect::<Result<_, _>>()
            .unwrap_or_else(|why| panic!("{why}"));
        assert!(keys.len() > 1000, "{}", keys.len());
    }
}
