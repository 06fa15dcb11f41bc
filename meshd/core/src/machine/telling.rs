//! When other nodes are told of the endpoints here.
//!
//! A record holds all endpoints of a node on a network, so to tell of one more costs as much as there are, here and at each other
//! node. Who attaches is told of at once. What frames taught waits, where the last telling was long: its length sets the pause. A
//! flood of new MACs so costs a few records, and not one for each MAC.
//!
//! ```text
//!   attach, detach, VTEP ------------------> now
//!   learned, aged ----- short or long ago -> now
//!                  \--- long and just now --> later, with all that came since
//! ```

use crate::ident::{Moment, Vni};
use std::collections::{BTreeMap, BTreeSet};

/// Pause after a telling for each endpoint in it, in µs: a second after the longest record.
const PAUSE_US: u64 = 250;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Telling {
    now: BTreeSet<Vni>,
    later: BTreeMap<Vni, Moment>,
    /// When what was learned may be told again.
    paused: BTreeMap<Vni, Moment>,
}

impl Telling {
    /// Something was attached or declared.
    pub(super) fn at_once(&mut self, vni: Vni) {
        self.now.insert(vni);
    }

    /// Learned MACs are others.
    pub(super) fn learned(&mut self, vni: Vni, now: Moment) {
        match self.paused.get(&vni) {
            Some(&until) if until > now => drop(self.later.insert(vni, until)),
            _ => self.at_once(vni),
        }
    }

    /// A telling with so many endpoints.
    pub(super) fn told(&mut self, vni: Vni, endpoints: usize, now: Moment) {
        self.later.remove(&vni);
        let pause = PAUSE_US.saturating_mul(endpoints as u64);
        if pause < 1_000 {
            self.paused.remove(&vni);
        } else {
            self.paused
                .insert(vni, Moment(now.0.saturating_add(pause * 1_000)));
        }
    }

    /// Nothing is due at once?
    pub(super) fn is_settled(&self) -> bool {
        self.now.is_empty()
    }

    /// The networks to be told of.
    pub(super) fn take(&mut self) -> BTreeSet<Vni> {
        std::mem::take(&mut self.now)
    }

    /// Pauses that are over.
    pub(super) fn handle_timeout(&mut self, now: Moment) {
        self.paused.retain(|_, until| *until > now);
        let due = self.later.extract_if(.., |_, due| *due <= now);
        self.now.extend(due.map(|(vni, _)| vni));
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        let due = self.later.values().min()?;
        Some((*due, "endpoints: what was learned is told"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VNI: Vni = Vni::MIN;

    fn ms(ms: u64) -> Moment {
        Moment::default().plus_ms(ms)
    }

    #[test]
    fn after_a_long_telling_what_is_learned_waits_and_what_is_attached_does_not() {
        let mut telling = Telling::default();
        telling.learned(VNI, ms(0));
        assert_eq!(telling.take(), BTreeSet::from([VNI]));
        telling.told(VNI, 4_000, ms(0));
        for now in [1, 500, 999] {
            telling.learned(VNI, ms(now));
        }
        assert!(telling.is_settled());
        telling.handle_timeout(ms(999));
        assert!(telling.is_settled());
        let (due, _) = telling.poll_timeout().unwrap_or_default();
        assert_eq!(due, ms(1_000));
        telling.at_once(VNI);
        assert_eq!(telling.take(), BTreeSet::from([VNI]));
        // It told of what was learned as well.
        telling.told(VNI, 4_000, ms(999));
        assert_eq!(telling.poll_timeout(), None);
    }

    #[test]
    fn what_waited_is_told_once_and_a_short_telling_is_no_reason_to_wait() {
        let mut telling = Telling::default();
        telling.told(VNI, 1_000, ms(0));
        telling.learned(VNI, ms(10));
        telling.handle_timeout(ms(250));
        assert_eq!(telling.take(), BTreeSet::from([VNI]));
        assert_eq!(telling.poll_timeout(), None);
        telling.told(VNI, 3, ms(250));
        telling.learned(VNI, ms(250));
        assert!(!telling.is_settled());
    }
}
