//! Addresses that have another MAC than before, told to those who may remember the old one.
//!
//! ```text
//!   port or directory: 10.0.0.2 is at B -> told: at A before -> due -> ARP request "10.0.0.2 is at B" / advertisement
//!                                                                      into each port of the network here
//! ```
//!
//! A container asks once and remembers for long; the switch answers questions, so nobody else tells it. Each node tells its
//! own ports. Owns the memory of what an address had last, also while nobody has it, and the pace of the telling. Refuses to
//! say anything of an address that is new: nobody remembers another MAC for it.

use crate::ident::{MacAddr, Moment};
use crate::neighbor::announcement;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Addresses of a network of which it is known what they had last.
const REMEMBERED_MAX: usize = 16_384;
/// Frames of announcements of one node at once, and per second. An announcement costs a frame for each port.
const FRAMES_MAX: i64 = 1024;
const FRAMES_PER_S: i64 = 256;

/// Of one network.
#[derive(Debug, Default)]
pub(crate) struct Announcements {
    last: BTreeMap<IpAddr, MacAddr>,
    due: BTreeSet<IpAddr>,
}

impl Announcements {
    /// `ip` has `mac` now. `in_use`: does anybody have the address?
    pub(crate) fn note(&mut self, ip: IpAddr, mac: MacAddr, in_use: impl Fn(IpAddr) -> bool) {
        if self.last.len() >= REMEMBERED_MAX && !self.last.contains_key(&ip) {
            self.last.retain(|&ip, _| in_use(ip));
            if self.last.len() >= REMEMBERED_MAX {
                return;
            }
        }
        if self
            .last
            .insert(ip, mac)
            .is_some_and(|before| before != mac)
        {
            self.due.insert(ip);
        }
    }

    pub(crate) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The next to be told, as a frame.
    pub(crate) fn pop(&mut self) -> Option<(IpAddr, Bytes)> {
        let ip = self.due.pop_first()?;
        Some((ip, announcement(ip, *self.last.get(&ip)?)))
    }
}

/// A token bucket; one announcement may overdraw it.
#[derive(Debug)]
pub(crate) struct Pace {
    left: i64,
    at: Moment,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            left: FRAMES_MAX,
            at: Moment::default(),
        }
    }
}

impl Pace {
    pub(crate) fn ready(&mut self, now: Moment) -> bool {
        let ms = i64::try_from(now.ms_since(self.at)).unwrap_or(i64::MAX);
        let gained = ms.saturating_mul(FRAMES_PER_S) / 1000;
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(FRAMES_MAX);
            self.at = now;
        }
        self.left > 0
    }

    pub(crate) fn spend(&mut self, frames: usize) {
        let frames = i64::try_from(frames).unwrap_or(FRAMES_MAX);
        self.left = self.left.saturating_sub(frames.max(1));
    }

    /// When it is ready next.
    pub(crate) fn next(&self) -> Moment {
        let missing = u64::try_from(1 - self.left).unwrap_or(0);
        self.at
            .plus_ms(missing.saturating_mul(1000) / FRAMES_PER_S.cast_unsigned() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

    #[test]
    fn only_an_address_with_another_mac_than_before_is_told_and_once() {
        let mut told = Announcements::default();
        let ip = IpAddr::from([10, 0, 0, 2]);
        told.note(ip, A, |_| true);
        told.note(ip, A, |_| true);
        assert!(!told.is_due() && told.pop().is_none());
        told.note(ip, B, |_| true);
        assert_eq!(told.pop().map(|(ip, _)| ip), Some(ip));
        assert!(told.pop().is_none());
    }

    #[test]
    fn no_more_is_remembered_than_fits_and_what_is_in_use_goes_last() {
        let mut told = Announcements::default();
        let ip = |n: usize| IpAddr::from(u32::try_from(n).unwrap_or(0).to_be_bytes());
        let in_use = |at: IpAddr| at == ip(0);
        for n in 0..REMEMBERED_MAX {
            told.note(ip(n), A, in_use);
        }
        told.note(ip(REMEMBERED_MAX), A, in_use);
        assert_eq!(told.last.len(), 2);
        told.note(ip(0), B, in_use);
        assert!(told.is_due());
    }

    #[test]
    fn after_a_burst_announcements_go_at_their_pace() {
        let mut pace = Pace::default();
        let at = |ms| Moment::default().plus_ms(ms);
        assert!(pace.ready(at(0)));
        pace.spend(2000);
        assert!(!pace.ready(at(0)) && !pace.ready(at(1000)));
        let next = pace.next();
        assert!(next > at(1000) && pace.ready(next));
    }
}
