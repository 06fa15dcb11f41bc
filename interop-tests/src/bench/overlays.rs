//! The comparison: every system that is installed, in one lab and in turns.
//!
//! ```text
//!   round 1    A - yardstick - B    C - yardstick - D    E - yardstick      of each load
//!   round 2    yardstick - E    D - yardstick - C    B - yardstick - A      and back, so that what drifts hits all alike
//! ```
//!
//! Each run of a system has a run of the yardstick beside it, with nothing in between; the ratio of these two is what counts,
//! and the median over all rounds is told. One run that fails is told and is no end of the others.

pub mod figures;
pub mod measure;
mod schedule;

use super::load::{Iperf, Traffic, idle_latency, loaded_latency};
use super::meter::{CallCounter, Meter, no_call_counter, others_share, sample};
use super::setting::{Setting, Underlay};
use super::system::{ENTRIES, Entry, Programs, Site, System};
use crate::lab::Lab;
use crate::process::{peak_rss_mib, rss_mib};
use anyhow::{Context, Result, ensure};
use figures::{Figures, Machine, Sample, SystemFigures};
use measure::{Load, Measure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pairs of hosts: of all that are neither, of meshd over QUIC, of meshd in the kernel.
const PAIRS: u8 = 3;
/// From the end of a start to idleness.
const IDLE_AFTER: Duration = Duration::from_secs(6);

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where.
    pub setting: Setting,
    /// Which systems.
    pub systems: Vec<&'static Entry>,
    /// Which one is run beside all others; it is among the systems.
    pub yardstick: &'static str,
    /// What.
    pub measures: Vec<Measure>,
    /// How often.
    pub rounds: usize,
    /// How long each run is.
    pub seconds: u32,
    /// Where programs are.
    pub programs: Programs,
    /// Where profiles go, if they are wanted.
    pub profiles: Option<PathBuf>,
}

/// The system of this name.
#[must_use]
pub fn entry(id: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.id == id)
}

/// Puts all systems up and measures them. `say` is told what is going on.
///
/// # Errors
/// If the lab, the yardstick or meshd does not come up. A foreign peer that does not, and a run that fails, are told and
/// left out.
pub fn run(plan: &Plan, mut say: impl FnMut(&str)) -> Result<Figures> {
    let lab = Lab::start(plan.setting.lab(PAIRS))?;
    let mut failures = Vec::new();
    let mut tell = |failure: String| {
        say(&failure);
        failures.push(failure);
    };
    let result = put_up(plan, &lab, &mut tell).and_then(|systems| {
        let mut comparison = Comparison::new(plan, &lab, systems, failures)?;
        if plan.measures.contains(&Measure::RssIdle) {
            std::thread::sleep(IDLE_AFTER);
        }
        comparison.memory(Measure::RssIdle, rss_mib);
        comparison.rounds(&mut say)?;
        comparison.memory(Measure::RssPeak, peak_rss_mib);
        comparison.profiles(&mut say)?;
        Ok(comparison.finish())
    });
    if result.is_err() {
        lab.post_mortem();
    }
    result
}

fn put_up(plan: &Plan, lab: &Lab, failed: &mut impl FnMut(String)) -> Result<Vec<System>> {
    let mut systems = Vec::new();
    for entry in &plan.systems {
        let number = ENTRIES.iter().position(|other| other.id == entry.id);
        let site = Site {
            lab,
            setting: plan.setting,
            entry,
            number: u8::try_from(number.unwrap_or_default())?,
            first: 2 * entry.pair,
            programs: &plan.programs,
        };
        match entry.up(&site) {
            Ok(system) => systems.push(system),
            Err(error) if entry.is_foreign() => {
                failed(format!("{} does not come up: {error:#}", entry.title));
            }
            Err(error) => return Err(error.context(entry.title)),
        }
    }
    Ok(systems)
}

/// A comparison under way.
struct Comparison<'a> {
    plan: &'a Plan,
    lab: &'a Lab,
    systems: Vec<System>,
    yardstick: usize,
    samples: Vec<Vec<Sample>>,
    failures: Vec<String>,
    port: u16,
}

/// What one run of one load gave.
type Told = Vec<(Measure, f64)>;

impl<'a> Comparison<'a> {
    fn new(
        plan: &'a Plan,
        lab: &'a Lab,
        systems: Vec<System>,
        failures: Vec<String>,
    ) -> Result<Self> {
        let yardstick = systems
            .iter()
            .position(|system| system.about.id == plan.yardstick);
        Ok(Self {
            plan,
            lab,
            yardstick: yardstick.context("the yardstick is not among the systems")?,
            samples: vec![Vec::new(); systems.len()],
            systems,
            failures,
            port: 5200,
        })
    }

    /// Both daemons' memory, the larger one, by one way of asking.
    fn memory(&mut self, measure: Measure, ask: fn(u32) -> Result<f64>) {
        if !self.plan.measures.contains(&measure) {
            return;
        }
        for (system, samples) in self.systems.iter().zip(&mut self.samples) {
            let sizes = system.pids.iter().map(|pid| ask(*pid));
            match sizes.collect::<Result<Vec<f64>>>() {
                Ok(sizes) => samples.extend(
                    sizes
                        .into_iter()
                        .reduce(f64::max)
                        .map(|size| Sample::once(measure, size)),
                ),
                Err(error) => {
                    let line = format!("{}: {error:#}", system.about.title);
                    self.failures.push(line);
                }
            }
        }
    }

    fn rounds(&mut self, say: &mut impl FnMut(&str)) -> Result<()> {
        let loads: Vec<Load> = Load::of(&self.plan.measures);
        for round in 1..=self.plan.rounds {
            for load in &loads {
                for turn in schedule::turns(self.systems.len(), self.yardstick, round) {
                    self.turn(round, *load, &turn, say)?;
                }
            }
        }
        Ok(())
    }

    fn makes_sense(&self, load: Load, system: &System) -> bool {
        match load {
            Load::Calls => !system.pids.is_empty() && no_call_counter().is_none(),
            // A lost superframe is not a lost packet.
            Load::Loss(_) => self.plan.setting.underlay == Underlay::Wire,
            _ => true,
        }
    }

    /// Two systems, or one, with the yardstick beside them.
    fn turn(
        &mut self,
        round: usize,
        load: Load,
        turn: &[usize],
        say: &mut impl FnMut(&str),
    ) -> Result<()> {
        let mut told: Vec<(usize, f64, Told)> = Vec::new();
        for &index in turn {
            let system = &self.systems[index];
            if !self.makes_sense(load, system) {
                continue;
            }
            let others = others_share()?;
            self.port += 1;
            let title = &system.about.title;
            match self.take(system, load, self.port) {
                Ok(values) => {
                    let texts: Vec<String> = values
                        .iter()
                        .map(|(measure, value)| measure.show(*value))
                        .collect();
                    let texts = texts.join(", ");
                    say(&format!(
                        "round {round}  {:<20} {title:<20} {texts}",
                        load.title()
                    ));
                    told.push((index, others, values));
                }
                Err(error) => {
                    let line = format!("round {round}, {}: {title}: {error:#}", load.title());
                    say(&line);
                    self.failures.push(line);
                }
            }
        }
        let yardstick = told.iter().find(|(index, _, _)| *index == self.yardstick);
        let yardstick: Told = yardstick
            .map(|(_, _, told)| told.clone())
            .unwrap_or_default();
        for (index, others, values) in told {
            for (measure, value) in values {
                let beside = yardstick.iter().find(|(other, _)| *other == measure);
                self.samples[index].push(Sample {
                    measure,
                    round,
                    value,
                    beside: beside
                        .filter(|_| index != self.yardstick)
                        .map(|(_, value)| *value),
                    others: Some(others),
                });
            }
        }
        Ok(())
    }

    /// One run of one load over one system.
    fn take(&self, system: &System, load: Load, port: u16) -> Result<Told> {
        let seconds = self.plan.seconds;
        let iperf = |traffic| Iperf {
            traffic,
            seconds,
            port,
        };
        match load {
            Load::Tcp { streams, back } => {
                let meter = Meter::start(&system.pids)?;
                let traffic = Traffic::Tcp { streams, back };
                let arrived = iperf(traffic).run(&system.way)?;
                let cost = meter.read()?;
                let gib = gib(arrived.bytes)?;
                let mut told = vec![(Measure::of_stream(streams, back), arrived.gbps)];
                if traffic == Traffic::STREAM {
                    told.push((Measure::Cpu, cost.machine / gib));
                    if !system.pids.is_empty() {
                        told.push((Measure::CpuDaemons, cost.daemons / gib));
                    }
                }
                Ok(told)
            }
            Load::UdpSmall => {
                let arrived = iperf(Traffic::Udp { bytes: 64 }).run(&system.way)?;
                Ok(vec![(Measure::Udp64, arrived.pps / 1e3)])
            }
            Load::UdpLarge => {
                // 1400, or what fits without fragments.
                let bytes = 1400.min(system.about.mtu - 28);
                let arrived = iperf(Traffic::Udp { bytes }).run(&system.way)?;
                Ok(vec![(Measure::Udp1400, arrived.gbps)])
            }
            Load::Idle => {
                let told = idle_latency(&system.way, port, seconds)?;
                Ok(vec![
                    (Measure::RttP50, told.p50_us),
                    (Measure::RttP99, told.p99_us),
                ])
            }
            Load::Beside => {
                let told = loaded_latency(&system.way, port, seconds)?;
                Ok(vec![
                    (Measure::LoadedP50, told.p50_us),
                    (Measure::LoadedP99, told.p99_us),
                ])
            }
            Load::Calls => {
                let counter = CallCounter::start(&system.pids, &self.lab.dir)?;
                let arrived = iperf(Traffic::STREAM).run(&system.way);
                let calls = counter.finish()?;
                Ok(vec![(Measure::Calls, calls / 1e3 / gib(arrived?.bytes)?)])
            }
            Load::Loss(share) => {
                self.lab.join_on_arrival(false)?;
                self.lab.lose_per_mille(share)?;
                let arrived = iperf(Traffic::STREAM).run(&system.way);
                self.lab.heal()?;
                self.lab.join_on_arrival(true)?;
                Ok(vec![(Measure::under_loss(share), arrived?.gbps)])
            }
        }
    }

    /// Where each system's daemons are while one stream runs.
    fn profiles(&mut self, say: &mut impl FnMut(&str)) -> Result<()> {
        let Some(folder) = &self.plan.profiles else {
            return Ok(());
        };
        for system in self.systems.iter().filter(|system| !system.pids.is_empty()) {
            self.port += 1;
            let stream = Iperf {
                traffic: Traffic::STREAM,
                seconds: 4,
                port: self.port,
            };
            let stream = stream.start(&system.way)?;
            let file = profile(folder, &system.about.id);
            sample(&system.pids, 3, &file)?;
            stream.finish()?;
            say(&format!(
                "profile of {}: {}",
                system.about.title,
                file.display()
            ));
        }
        Ok(())
    }

    fn finish(self) -> Figures {
        let systems = self.systems.into_iter().zip(self.samples);
        Figures {
            setting: self.plan.setting,
            machine: Machine::this(),
            yardstick: self.plan.yardstick.to_owned(),
            rounds: self.plan.rounds,
            seconds: self.plan.seconds,
            failures: self.failures,
            systems: systems
                .map(|(system, samples)| SystemFigures {
                    about: system.about.clone(),
                    samples,
                })
                .collect(),
        }
    }
}

/// Where the profile of a system is, as perf has it.
#[must_use]
pub fn profile(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.perf"))
}

fn gib(bytes: f64) -> Result<f64> {
    ensure!(bytes > 0.0, "nothing arrived");
    Ok(bytes / f64::from(1 << 30))
}
