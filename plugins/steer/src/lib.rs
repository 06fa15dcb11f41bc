//! Ways by class of traffic.
//!
//! ```text
//!   DSCP --> class --> each way that is up: fit | in trouble (lost too much, too slow, too narrow, too busy)
//!                      fit ones first; then by cost; then the one that holds, unless another is much quicker
//!                      bulk: spread over all that are fit, and not driven away by the load that it makes itself
//! ```
//!
//! A way that was left for trouble is fit again once it showed none for a number of looks that doubles with each relapse, and
//! would not be busy with what the class takes now. So two ways that are good only while they are idle do not take turns.

use meshd_sdk::prelude::*;
use meshd_sdk::steering::*;
use std::collections::BTreeMap;

/// Looks without trouble after which a way is fit again, at first.
const CALM: u32 = 16;
/// Looks without trouble after which it is better than one that is in trouble now, at first.
const BREATH: u32 = 4;
/// How often both double.
const RELAPSES_MAX: u32 = 6;
/// Ways of members and classes that are remembered; with more, all are fit again.
const MEMORY_MAX: usize = 4096;
/// Less quicker than this is not worth a move, in us.
const QUICKER_US: u32 = 2_000;

/// Which traffic wants what.
#[derive(Debug, Config)]
struct Steer {
    /// Looked through in order; what is in none of them is of a class without targets. Empty: the classes of the README.
    #[config(default = [])]
    classes: Vec<Class>,
    /// A way that takes more than this of what it could is busy, in percent.
    #[config(default = 80)]
    busy: u8,
    /// So is one whose round trip is longer by more than this than it was at its best, in ms: something waits there, whoever sent
    /// it. 0: that does not count.
    #[config(default = 50)]
    queue_ms: u32,
    #[config(skip)]
    rest: Class,
    #[config(skip)]
    memory: BTreeMap<Place, Trouble>,
    /// The shortest round trip of each way of a member, in us.
    #[config(skip)]
    shortest: BTreeMap<(u64, u32), u32>,
}

/// Traffic with these code points.
#[derive(Clone, Debug, Default, Config)]
struct Class {
    /// Code points, 0 to 63.
    dscp: Vec<u8>,
    /// A way with a longer round trip is no good, in ms. 0: any will do.
    #[config(default = 0)]
    max_rtt_ms: u32,
    /// One that loses more is no good, in packets of a million. 0: any will do.
    #[config(default = 0)]
    max_loss_ppm: u32,
    /// One that could take less is no good, in kbit/s. 0: any will do.
    #[config(default = 0)]
    min_kbps: u32,
    /// Flows go over all ways that are fit, and stay on a busy one: it is they who make it busy.
    #[config(default = false)]
    bulk: bool,
    /// A flow moves no sooner than after so long a pause, in ms. 0: 50.
    #[config(default = 0)]
    gap_ms: u32,
}

/// Whose trouble: tenant, member, class, way.
type Place = (u32, u64, usize, u32);

/// What is remembered of a way.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    relapses: u32,
    /// Looks without trouble since.
    calm: u32,
    /// Not fit yet.
    holds: bool,
}

impl Trouble {
    fn note(&mut self, troubled: bool, fits: bool) {
        if troubled {
            if !self.holds {
                self.relapses = (self.relapses + 1).min(RELAPSES_MAX);
            }
            *self = Self {
                holds: true,
                calm: 0,
                ..*self
            };
            return;
        }
        self.calm = self.calm.saturating_add(1);
        if self.holds && fits && self.calm >= self.wanted(CALM) {
            self.holds = false;
        }
    }

    fn wanted(self, at_first: u32) -> u32 {
        at_first << self.relapses.saturating_sub(1)
    }

    fn standing(self, fits: bool) -> Standing {
        match self.holds {
            false => Standing::Fit,
            true if fits && self.calm >= self.wanted(BREATH) => Standing::Recovering,
            true => Standing::InTrouble,
        }
    }
}

/// The best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Fit,
    /// Without trouble for a moment.
    Recovering,
    InTrouble,
}

impl Steer {
    fn class(&self, dscp: u8) -> (usize, Class) {
        let found = self
            .classes
            .iter()
            .position(|class| class.dscp.contains(&dscp));
        let class = found.and_then(|at| self.classes.get(at));
        let class = class.unwrap_or(&self.rest).clone();
        (found.unwrap_or(self.classes.len()), class)
    }

    fn is_busy(&self, used: u32, avail: u32) -> bool {
        avail > 0 && u64::from(used) * 100 > u64::from(avail) * u64::from(self.busy)
    }

    /// Does something wait in front of it?
    fn is_queued(&self, way: &LinkStats) -> bool {
        let shortest = self.shortest.get(&(way.peer, way.path));
        let shortest = shortest.copied().unwrap_or(way.rtt_us);
        let most = self.queue_ms.saturating_mul(1000);
        most > 0 && way.rtt_us.saturating_sub(shortest) > most
    }

    /// Notes the shortest round trips; what is down may come back by another road.
    fn measure(&mut self, candidates: &[LinkStats]) {
        if self.shortest.len() > MEMORY_MAX {
            self.shortest.clear();
        }
        for way in candidates {
            if !way.up {
                self.shortest.remove(&(way.peer, way.path));
            } else if way.rtt_us > 0 {
                let shortest = self.shortest.entry((way.peer, way.path));
                let shortest = shortest.or_insert(way.rtt_us);
                *shortest = way.rtt_us.min(*shortest);
            }
        }
    }

    fn is_troubled(&self, class: &Class, way: &LinkStats) -> bool {
        let over = |value: u32, most: u32| most > 0 && value > most;
        let busy = self.is_busy(way.used_kbps, way.avail_kbps) || self.is_queued(way);
        // What bulk loses on a full way it makes itself.
        over(way.rtt_us, class.max_rtt_ms.saturating_mul(1000))
            || (over(way.loss_ppm, class.max_loss_ppm) && !(class.bulk && busy))
            || (way.avail_kbps > 0 && way.avail_kbps < class.min_kbps)
            || (!class.bulk && busy)
    }
}

#[steering]
impl Steering for Steer {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if !(1..=100).contains(&self.busy) {
            errors.push(ConfigError::new(
                "/busy",
                "a percentage from 1 to 100 is wanted",
            ));
        }
        for (at, class) in self.classes.iter().enumerate() {
            if let Some(place) = class.dscp.iter().position(|dscp| *dscp > 63) {
                let pointer = format!("/classes/{at}/dscp/{place}");
                errors.push(ConfigError::new(pointer, "a code point is 0 to 63"));
            }
        }
        if self.classes.is_empty() {
            self.classes = usual();
        }
        self.rest.max_loss_ppm = 50_000;
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn choose(&mut self, key: &SteerKey, candidates: &[LinkStats], current: &[u32]) -> Choice {
        let (number, class) = self.class(key.dscp);
        self.measure(candidates);
        if self.memory.len() > MEMORY_MAX {
            self.memory.clear();
        }
        let holding = current
            .first()
            .and_then(|path| candidates.iter().find(|way| way.path == *path && way.up));
        let load = holding.map_or(0, |way| way.used_kbps);
        let mut ranked = Vec::new();
        for way in candidates.iter().filter(|way| way.up) {
            let troubled = self.is_troubled(&class, way);
            let holds = holding.is_some_and(|holding| holding.path == way.path);
            // With what goes by the way that holds now, it must not be busy: else it is left again at once.
            let more = if holds { 0 } else { load };
            let fits =
                class.bulk || !self.is_busy(way.used_kbps.saturating_add(more), way.avail_kbps);
            let place = (key.tenant, key.dst_peer, number, way.path);
            // Only trouble is worth remembering.
            let trouble = if troubled {
                let trouble = self.memory.entry(place).or_default();
                trouble.note(true, fits);
                *trouble
            } else if let Some(trouble) = self.memory.get_mut(&place) {
                trouble.note(false, fits);
                *trouble
            } else {
                Trouble::default()
            };
            ranked.push((trouble.standing(fits), way));
        }
        // Where all are in trouble the one that holds is no worse than another.
        ranked.sort_by_key(|(standing, way)| {
            let holds = holding.is_some_and(|holding| holding.path == way.path);
            let quicker = holding.is_some_and(|holding| is_quicker(way, holding));
            let cost = match standing {
                Standing::Fit => way.cost,
                Standing::Recovering | Standing::InTrouble => 0,
            };
            (*standing, cost, !quicker, !holds, way.rtt_us, way.path)
        });
        let fit = ranked.iter().filter(|(at, _)| *at == Standing::Fit).count();
        let choice = Choice::of(ranked.iter().map(|(_, way)| way.path)).gap_ms(class.gap_ms);
        if class.bulk {
            choice.spread(u8::try_from(fit).unwrap_or(u8::MAX))
        } else {
            choice
        }
    }
}

/// Is it worth a move?
fn is_quicker(way: &LinkStats, than: &LinkStats) -> bool {
    let by = than.rtt_us.saturating_sub(way.rtt_us);
    by > QUICKER_US && by > than.rtt_us / 4
}

/// Voice and control; video and signalling; what yields to all else (RFC 4594, RFC 8622).
fn usual() -> Vec<Class> {
    vec![
        Class {
            dscp: vec![46, 44, 48, 56],
            max_rtt_ms: 150,
            max_loss_ppm: 10_000,
            min_kbps: 100,
            ..Class::default()
        },
        Class {
            dscp: vec![34, 36, 38, 40, 26, 28, 30, 24, 32],
            max_rtt_ms: 250,
            max_loss_ppm: 20_000,
            min_kbps: 1_000,
            ..Class::default()
        },
        Class {
            dscp: vec![8, 1, 10, 12, 14],
            max_loss_ppm: 100_000,
            bulk: true,
            ..Class::default()
        },
    ]
}

#[cfg(test)]
mod tests;
