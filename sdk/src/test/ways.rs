//! Ways to one peer as a simulation: capacity, delay, a queue, and flows that follow what a steering plugin chooses. For its
//! tests, as native code.
//!
//! ```text
//!   load of each class --split as the choice says--> queue of a way --capacity--> out
//!                                                      |  what it holds is delay; what does not fit is loss
//!   figures of the last second, every 100 ms <---------+
//! ```

use crate::steering::{Choice, LinkStats, SteerKey, Steering};
use std::collections::BTreeMap;

/// One step of time, in ms: as often as the daemon looks.
pub const STEP_MS: u32 = 100;
/// Steps that figures are of.
const WINDOW: usize = 10;

/// A way of the simulation.
#[derive(Clone, Debug)]
pub struct Way {
    /// As an operator sees it.
    pub name: &'static str,
    /// What it carries, in kbit/s.
    pub kbps: u32,
    /// Round trip without a queue, in us.
    pub rtt_us: u32,
    /// The longest that anything waits, in ms.
    pub queue_ms: u32,
    /// Lost whatever the load, in a million.
    pub loss_ppm: u32,
    /// Not dead.
    pub up: bool,
    /// The operator's.
    pub cost: u32,
    queued_bits: u64,
    sent: Vec<u32>,
    lost: Vec<u32>,
}

impl Way {
    /// A way that is up, with a queue of 200 ms.
    #[must_use]
    pub fn new(name: &'static str, kbps: u32, rtt_us: u32) -> Self {
        Self {
            name,
            kbps,
            rtt_us,
            queue_ms: 200,
            loss_ppm: 0,
            up: true,
            cost: 0,
            queued_bits: 0,
            sent: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// With an operator's cost.
    #[must_use]
    pub fn cost(self, cost: u32) -> Self {
        Self { cost, ..self }
    }

    fn step(&mut self, offered_kbps: u32) {
        let ms = u64::from(STEP_MS);
        self.queued_bits += u64::from(offered_kbps) * ms;
        let out = self.queued_bits.min(u64::from(self.kbps) * ms);
        self.queued_bits -= out;
        let room = u64::from(self.kbps) * u64::from(self.queue_ms);
        let over = self.queued_bits.saturating_sub(room);
        self.queued_bits -= over;
        let offered = (u64::from(offered_kbps) * ms).max(1);
        let lost = over * 1_000_000 / offered + u64::from(self.loss_ppm);
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        self.sent.push(short(out / ms));
        self.lost.push(short(lost.min(1_000_000)));
        for past in [&mut self.sent, &mut self.lost] {
            let old = past.len().saturating_sub(WINDOW);
            past.drain(..old);
        }
    }

    /// Round trip with what waits, in us.
    #[must_use]
    pub fn delay_us(&self) -> u32 {
        let wait = self.queued_bits * 1000 / u64::from(self.kbps.max(1));
        self.rtt_us + u32::try_from(wait).unwrap_or(u32::MAX)
    }

    fn stats(&self, path: u32) -> LinkStats {
        let mean = |past: &[u32]| {
            let sum: u64 = past.iter().map(|value| u64::from(*value)).sum();
            u32::try_from(sum / past.len().max(1) as u64).unwrap_or(u32::MAX)
        };
        LinkStats {
            peer: 1,
            path,
            name: self.name.to_owned(),
            up: self.up,
            rtt_us: self.delay_us(),
            jitter_us: 0,
            loss_ppm: mean(&self.lost),
            avail_kbps: self.kbps,
            used_kbps: mean(&self.sent),
            mtu: 1452,
            cost: self.cost,
        }
    }
}

/// Ways to one peer, a plugin that chooses among them, and loads that follow.
pub struct Ways<S> {
    plugin: S,
    /// The first has the number 2, as a session does; others follow.
    pub ways: Vec<Way>,
    loads: BTreeMap<u8, u32>,
    choices: BTreeMap<u8, Choice>,
    told: BTreeMap<u8, Vec<LinkStats>>,
    /// How often a class went to another first way.
    pub moves: BTreeMap<u8, u32>,
}

impl<S: Steering> Ways<S> {
    /// A plugin before these ways.
    ///
    /// # Panics
    /// If `check` refuses its config.
    #[track_caller]
    pub fn new(mut plugin: S, ways: Vec<Way>) -> Self {
        if let Err(errors) = plugin.check() {
            panic!("the plugin refuses its config: {errors:?}");
        }
        Self {
            plugin,
            ways,
            loads: BTreeMap::new(),
            choices: BTreeMap::new(),
            told: BTreeMap::new(),
            moves: BTreeMap::new(),
        }
    }

    /// Traffic of a DSCP from now on, in kbit/s.
    pub fn load(&mut self, dscp: u8, kbps: u32) {
        self.loads.insert(dscp, kbps);
    }

    /// The name of the first way that a class takes and that is up.
    #[must_use]
    pub fn first(&self, dscp: u8) -> &'static str {
        self.taken(dscp)
            .first()
            .map_or("none", |at| self.ways[*at].name)
    }

    /// The names of all ways that a class is spread over.
    #[must_use]
    pub fn spread(&self, dscp: u8) -> Vec<&'static str> {
        self.taken(dscp)
            .iter()
            .map(|at| self.ways[*at].name)
            .collect()
    }

    fn taken(&self, dscp: u8) -> Vec<usize> {
        let Some(choice) = self.choices.get(&dscp) else {
            return Vec::new();
        };
        let named = choice.ranked().iter().map(|path| *path as usize);
        let named = named.filter_map(|path| path.checked_sub(2));
        let up = |at: &usize| self.ways.get(*at).is_some_and(|way| way.up);
        let mut all: Vec<usize> = named.filter(up).collect();
        // As in the daemon: what is not named comes last.
        let rest = (0..self.ways.len()).filter(|at| !all.contains(at) && self.ways[*at].up);
        all.extend(rest.collect::<Vec<_>>());
        all.truncate(usize::from(choice.width()));
        all
    }

    /// So many ms pass.
    pub fn run(&mut self, ms: u32) {
        for _ in 0..ms / STEP_MS {
            self.step();
        }
    }

    fn step(&mut self) {
        let stats: Vec<LinkStats> = (2u32..)
            .zip(&self.ways)
            .map(|(path, way)| way.stats(path))
            .collect();
        let classes: Vec<u8> = self.loads.keys().copied().collect();
        for dscp in classes {
            let news = self.told.get(&dscp).is_none_or(|told| differ(told, &stats));
            if !news {
                continue;
            }
            self.told.insert(dscp, stats.clone());
            let before = self.first(dscp);
            let key = SteerKey {
                tenant: 1,
                src_identity: 0,
                dst_identity: 0,
                dscp,
                dst_peer: 1,
            };
            let current = self.choices.get(&dscp).map_or(&[][..], Choice::ranked);
            let choice = self.plugin.choose(&key, &stats, current);
            let first = self.choices.insert(dscp, choice).is_none();
            if !first && self.first(dscp) != before {
                *self.moves.entry(dscp).or_default() += 1;
            }
        }
        let mut offered = vec![0; self.ways.len()];
        for (&dscp, &kbps) in &self.loads {
            let taken = self.taken(dscp);
            for at in &taken {
                offered[*at] += kbps / u32::try_from(taken.len()).unwrap_or(1);
            }
        }
        for (way, kbps) in self.ways.iter_mut().zip(offered) {
            way.step(kbps);
        }
    }
}

/// As the daemon has it: by more than a fifth, by 5 ms, or by a tenth of what could be.
fn differ(old: &[LinkStats], new: &[LinkStats]) -> bool {
    let moved = |a: u32, b: u32, noise: u32| a.abs_diff(b) > noise && a.abs_diff(b) > a.max(b) / 5;
    old.iter().zip(new).any(|(old, new)| {
        old.up != new.up
            || old.rtt_us.abs_diff(new.rtt_us) > 5_000
            || moved(old.rtt_us, new.rtt_us, 1_000)
            || moved(old.loss_ppm, new.loss_ppm, 5_000)
            || moved(old.used_kbps, new.used_kbps, 500)
            || old.used_kbps.abs_diff(new.used_kbps) > new.avail_kbps / 10 + 500
    })
}

/// The manifest that the component carries, as JSON.
///
/// # Panics
/// If it is no JSON: a mistake of the SDK.
#[must_use]
pub fn manifest<S: Steering>() -> serde_json::Value {
    serde_json::from_slice(S::MANIFEST).unwrap_or_else(|e| panic!("{e}"))
}
