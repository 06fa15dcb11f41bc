//! What a plugin costs: time and fuel of a decision, and how much of the traffic it has to decide.

use crate::names::Names;
use crate::question::question;
use crate::recording::Recording;
use crate::replay::replay;
use meshd_core::node::Question;
use meshd_plugin_host::{ConfigureError, Fault, Instance, Plugin};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Decisions that are timed.
const TIMED: usize = 50_000;
/// Decisions before, so that caches are warm.
const WARM: usize = 2_000;

/// The outcome, as it is saved and compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Nanoseconds of a decision, half of them at most; the host's share is in it.
    pub p50_ns: u64,
    /// Nanoseconds that 99 of 100 decisions stay below.
    pub p99_ns: u64,
    /// Units of fuel, half of them at most.
    pub fuel_p50: u64,
    /// Units of fuel of the dearest.
    pub fuel_most: u64,
    /// Frames of the traffic.
    pub frames: u64,
    /// Different masks in it, for each 100,000 frames.
    pub masks_per_100k: f64,
    /// Frames that the cache answers, in parts of a hundred.
    pub hit_rate: f64,
}

/// Measures `plugin` with `config` on `recording`.
///
/// # Errors
/// If it does not start with that config, or fails in a decision.
pub fn bench(
    plugin: &Plugin,
    config: &str,
    recording: &Recording,
) -> Result<Result<Figures, Fault>, ConfigureError> {
    let mut instance = Instance::new(plugin, config, 1)?;
    let names = Names::default();
    let frames = recording.frames.iter();
    let questions: Vec<Question> = frames
        .filter_map(|captured| question(&captured.frame).ok())
        .collect();
    Ok(measure(&mut instance, &names, &questions, recording))
}

fn measure(
    instance: &mut Instance,
    names: &Names,
    questions: &[Question],
    recording: &Recording,
) -> Result<Figures, Fault> {
    let mut fuel = Vec::with_capacity(questions.len().min(TIMED));
    for question in questions.iter().take(TIMED) {
        let (_, words) = instance.decide_in_words(question, &|_| None)?;
        fuel.push(words.fuel);
    }
    let mut times = Vec::with_capacity(TIMED);
    for (n, question) in questions.iter().cycle().take(WARM + TIMED).enumerate() {
        let started = Instant::now();
        instance.decide(question)?;
        let ns = started.elapsed().as_nanos();
        if n >= WARM {
            times.push(u64::try_from(ns).unwrap_or(u64::MAX));
        }
    }
    let (seen, _) = replay(instance, names, recording, false);
    fuel.sort_unstable();
    times.sort_unstable();
    let part = |of: &[u64], hundredths: usize| {
        of.get(of.len() * hundredths / 100)
            .copied()
            .unwrap_or_default()
    };
    Ok(Figures {
        p50_ns: part(&times, 50),
        p99_ns: part(&times, 99),
        fuel_p50: part(&fuel, 50),
        fuel_most: fuel.last().copied().unwrap_or_default(),
        frames: seen.frames,
        // Counts of frames are far below 2^53.
        masks_per_100k: match seen.frames {
            0 => 0.0,
            frames => seen.masks as f64 * 1e5 / frames as f64,
        },
        hit_rate: seen.hit_rate(),
    })
}
