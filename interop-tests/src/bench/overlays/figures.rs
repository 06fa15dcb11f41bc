//! What a comparison gave: every single value, and what is made of them.

use super::measure::Measure;
use crate::bench::median;
use crate::bench::setting::Setting;
use crate::bench::system::About;
use crate::process::cores;
use serde::{Deserialize, Serialize, Serializer};
use std::fs;

/// Of one setting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Where.
    pub setting: Setting,
    /// On what.
    pub machine: Machine,
    /// The system that ran beside all others.
    pub yardstick: String,
    /// How often each was measured.
    pub rounds: usize,
    /// How long each run was.
    pub seconds: u32,
    /// Runs that failed, in words.
    pub failures: Vec<String>,
    /// Each system.
    pub systems: Vec<SystemFigures>,
}

/// Of one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SystemFigures {
    /// What it is.
    pub about: About,
    /// Every value, in the order in which they were taken.
    pub samples: Vec<Sample>,
}

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Of what.
    pub measure: Measure,
    /// In which round; 0 for what is read off once.
    pub round: usize,
    /// In the measure's unit.
    #[serde(serialize_with = "short")]
    pub value: f64,
    /// What the yardstick had right before or after.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "short_or_none",
        default
    )]
    pub beside: Option<f64>,
    /// Share of the machine that others had right before.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "short_or_none",
        default
    )]
    pub others: Option<f64>,
}

/// Four digits that count: no measurement here is worth more.
fn short<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    let text = format!("{value:.3e}");
    to.serialize_f64(text.parse().unwrap_or(*value))
}

fn short_or_none<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => short(value, to),
        None => to.serialize_none(),
    }
}

impl Sample {
    pub(super) fn once(measure: Measure, value: f64) -> Self {
        Self {
            measure,
            round: 0,
            value,
            beside: None,
            others: None,
        }
    }
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Of the processor, as it says.
    pub processor: String,
    /// That the lab had, for hosts, daemons and load together.
    pub cores: usize,
    /// GiB.
    pub memory: u64,
    /// Of the kernel.
    pub linux: String,
}

impl Machine {
    /// The one that this runs on.
    #[must_use]
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| -> String {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split(':').nth(1));
            value.unwrap_or_default().trim().to_owned()
        };
        let total = field(&read("/proc/meminfo"), "MemTotal");
        let kib = total.split(' ').next().and_then(|kib| kib.parse().ok());
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: cores(),
            memory: kib.map_or(0, |kib: u64| (kib + (1 << 19)) >> 20),
            linux: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

impl SystemFigures {
    fn values(&self, measure: Measure) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.measure == measure)
    }

    /// The median; none if it was never measured.
    #[must_use]
    pub fn median(&self, measure: Measure) -> Option<f64> {
        let values: Vec<f64> = self.values(measure).map(|sample| sample.value).collect();
        (!values.is_empty()).then(|| median(values))
    }

    /// The median of the ratios to the yardstick's runs beside.
    #[must_use]
    pub fn ratio(&self, measure: Measure) -> Option<f64> {
        let pairs = self.values(measure);
        let ratios: Vec<f64> = pairs
            .filter_map(|sample| Some(sample.value / sample.beside?))
            .collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }

    /// The median of the ratios to another system's runs in the same round; of what both have once, that ratio.
    #[must_use]
    pub fn ratio_to(&self, other: &Self, measure: Measure) -> Option<f64> {
        let ratios: Vec<f64> = self
            .values(measure)
            .filter_map(|ours| {
                let theirs = other
                    .values(measure)
                    .find(|their| their.round == ours.round)?;
                Some(ours.value / theirs.value)
            })
            .collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

impl Figures {
    /// A system that was measured.
    #[must_use]
    pub fn system(&self, id: &str) -> Option<&SystemFigures> {
        self.systems.iter().find(|system| system.about.id == id)
    }

    /// The least and the most that the yardstick had in its own runs: the weather of this machine.
    #[must_use]
    pub fn weather(&self, measure: Measure) -> Option<(f64, f64)> {
        let yardstick = self.system(&self.yardstick)?;
        let values = yardstick.values(measure).map(|sample| sample.value);
        values.fold(None, |range, value| match range {
            None => Some((value, value)),
            Some((least, most)) => Some((value.min(least), value.max(most))),
        })
    }

    /// Values in all, and those before which others had more than a tenth of the machine.
    #[must_use]
    pub fn disturbed(&self) -> (usize, usize) {
        let samples = self.systems.iter().flat_map(|system| &system.samples);
        let others: Vec<f64> = samples.filter_map(|sample| sample.others).collect();
        (
            others.len(),
            others.iter().filter(|share| **share > 0.1).count(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(id: &str, values: &[(usize, f64, f64)]) -> SystemFigures {
        let sample = |&(round, value, beside): &(usize, f64, f64)| Sample {
            measure: Measure::Tcp1,
            round,
            value,
            beside: Some(beside),
            others: Some(0.0),
        };
        SystemFigures {
            about: About {
                id: id.into(),
                title: id.into(),
                layer: 2,
                cipher: String::new(),
                version: String::new(),
                mtu: 1450,
            },
            samples: values.iter().map(sample).collect(),
        }
    }

    #[test]
    fn the_ratio_is_the_median_of_neighbours_and_not_the_ratio_of_medians() {
        let ours = system("a", &[(1, 1.0, 1.0), (2, 10.0, 100.0), (3, 2.0, 2.0)]);
        assert_eq!(ours.ratio(Measure::Tcp1), Some(1.0));
        assert_eq!(ours.median(Measure::Tcp1), Some(2.0));
        assert_eq!(ours.median(Measure::Cpu), None);
    }

    #[test]
    fn values_are_kept_with_four_digits() {
        let sample = Sample {
            beside: Some(0.123_456),
            ..Sample::once(Measure::Cpu, 12_345.678)
        };
        let text = serde_json::to_string(&sample).unwrap();
        assert!(text.contains("12350") && text.contains("0.1235"), "{text}");
        let again: Sample = serde_json::from_str(&text).unwrap();
        assert_eq!((again.value, again.others), (12_350.0, None));
    }

    #[test]
    fn systems_are_compared_by_round() {
        let ours = system("a", &[(1, 4.0, 1.0), (2, 9.0, 1.0), (3, 8.0, 1.0)]);
        let theirs = system("b", &[(3, 2.0, 1.0), (2, 3.0, 1.0), (1, 2.0, 1.0)]);
        assert_eq!(ours.ratio_to(&theirs, Measure::Tcp1), Some(3.0));
    }
}
