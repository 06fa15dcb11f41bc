//! The meters that an attachment's config declares, and the counters of its labels: a plugin's numbers become the shared
//! buckets and counters that the data path has.
//!
//! ```json
//! { "meters": [ { "name": "gold", "kbps": 20000, "burst-ms": 100 }, { "name": "storm", "pps": 50 } ] }
//! ```
//!
//! `meter(0)` is the first of the list. Owns the key `meters` of every config, its bounds, and which bucket outlives a change:
//! one of the same name and rate. Refuses a meter that the config does not declare; that is a fault of the plugin.

use super::declares;
use super::report::{LabelCount, MeterInfo};
use meshd_core::dues::{BURST_MS_MAX, Meter, RATE_MAX, Rate, Tally};
use meshd_core::ident::Label;
use meshd_plugin_host::{Decision, Fault};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Meters of one attachment.
const METERS_MAX: usize = 256;
/// Labels of one attachment.
const LABELS_MAX: usize = 256;
/// Letters of a meter's name.
const NAME_MAX: usize = 32;
/// The burst where none is given, in ms.
const BURST_MS: u64 = 100;

#[derive(Deserialize)]
struct Declared {
    #[serde(default)]
    meters: Vec<Declaration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Declaration {
    name: String,
    kbps: Option<u64>,
    pps: Option<u64>,
    burst_ms: Option<u64>,
}

/// The meters of one config.
#[derive(Clone, Debug, Default)]
pub(super) struct Tolls(Vec<(Arc<Meter>, u64)>);

impl Tolls {
    /// Those that `config` declares; of `before` those stay that are declared the same again.
    pub(super) fn of(plugin: &Label, config: &str, before: Option<&Self>) -> Result<Self, String> {
        if !declares(config) {
            return Ok(Self::default());
        }
        let Declared { meters } = serde_json::from_str(config).map_err(|e| {
            format!("its `meters` cannot be read: {e}; each is {{\"name\": …, \"kbps\" or \"pps\": …, \"burst-ms\": …}}")
        })?;
        if meters.len() > METERS_MAX {
            let count = meters.len();
            return Err(format!(
                "it declares {count} `meters`; at most {METERS_MAX} are kept"
            ));
        }
        let mut out = Self::default();
        for (at, declared) in meters.into_iter().enumerate() {
            let (rate, burst_ms) = declared
                .check()
                .map_err(|what| format!("at /meters/{at}: {what}"))?;
            let name: Arc<str> = format!("{plugin}/{}", declared.name).into();
            if out.0.iter().any(|(meter, _)| *meter.name() == name) {
                return Err(format!(
                    "at /meters/{at}: another meter is called \"{}\" already",
                    declared.name
                ));
            }
            let same = before.into_iter().flat_map(|before| &before.0);
            let same = same.clone().find(|(meter, burst)| {
                *meter.name() == name && meter.rate() == rate && *burst == burst_ms
            });
            let meter = match same {
                Some((meter, _)) => Arc::clone(meter),
                None => Arc::new(Meter::new(name, rate, burst_ms)),
            };
            out.0.push((meter, burst_ms));
        }
        Ok(out)
    }

    /// Gives a decision the buckets and counters that it names.
    pub(super) fn impose(
        &self,
        tallies: &Tallies,
        mut decision: Decision,
    ) -> Result<Decision, Fault> {
        for &number in &decision.meters {
            let Some((meter, _)) = self.0.get(number as usize) else {
                let declared = self.0.len();
                return Err(Fault::Verdict {
                    what: format!(
                        "it names meter {number}, and its config declares {declared} under `meters`; the first is 0"
                    ),
                });
            };
            decision.orders.dues.meter(Arc::clone(meter));
        }
        for &label in &decision.counts {
            let Some(tally) = tallies.of(label) else {
                return Err(Fault::Verdict {
                    what: format!("it counts under more than {LABELS_MAX} labels"),
                });
            };
            decision.orders.dues.count(tally);
        }
        Ok(decision)
    }

    pub(super) fn show(&self) -> Vec<MeterInfo> {
        let meters = self.0.iter().map(|(meter, _)| {
            let (passed, held) = meter.seen();
            MeterInfo {
                meter: meter.name().to_string(),
                rate: meter.rate().to_string(),
                passed: passed.packets,
                passed_bytes: passed.bytes,
                held: held.packets,
                held_bytes: held.bytes,
            }
        });
        meters.collect()
    }
}

impl Declaration {
    fn check(&self) -> Result<(Rate, u64), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > NAME_MAX || !self.name.chars().all(plain) {
            return Err(format!(
                "a meter's name has 1 to {NAME_MAX} letters, digits, and `-`, `_` or `.`"
            ));
        }
        let (rate, number) = match (self.kbps, self.pps) {
            (Some(rate), None) => (Rate::Kbps(rate), rate),
            (None, Some(rate)) => (Rate::Pps(rate), rate),
            _ => return Err("give either `kbps` or `pps`".to_owned()),
        };
        if !(1..=RATE_MAX).contains(&number) {
            return Err(format!("the rate is {number}, and must be 1 to {RATE_MAX}"));
        }
        let burst_ms = self.burst_ms.unwrap_or(BURST_MS);
        if burst_ms > BURST_MS_MAX {
            return Err(format!(
                "burst-ms is {burst_ms}, and must be at most {BURST_MS_MAX}"
            ));
        }
        Ok((rate, burst_ms))
    }
}

/// The counters of an attachment, by label.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<BTreeMap<u32, Arc<Tally>>>);

impl Tallies {
    /// One under which nothing is counted any more gives way to a new one. `None`: all are in use.
    fn of(&self, label: u32) -> Option<Arc<Tally>> {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tallies.len() >= LABELS_MAX && !tallies.contains_key(&label) {
            let mut idle = tallies
                .iter()
                .filter(|(_, tally)| Arc::strong_count(tally) == 1);
            let idle = idle.next().map(|(label, _)| *label)?;
            tallies.remove(&idle);
        }
        Some(Arc::clone(tallies.entry(label).or_default()))
    }

    pub(super) fn show(&self) -> Vec<LabelCount> {
        let tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = tallies.iter().map(|(&label, tally)| {
            let counted = tally.read();
            LabelCount {
                label,
                packets: counted.packets,
                bytes: counted.bytes,
            }
        });
        rows.collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(config: &str, before: Option<&Tolls>) -> Result<Tolls, String> {
        Tolls::of(&"qos".parse().unwrap(), config, before)
    }

    #[test]
    fn meters_are_read_from_a_config_that_has_other_things_in_it_too() {
        let tolls = of(
            r#"{"rules": [1], "meters": [{"name": "gold", "kbps": 5000}, {"name": "storm", "pps": 50, "burst-ms": 20}]}"#,
            None,
        )
        .unwrap();
        let shown = tolls.show();
        assert_eq!(
            (shown[0].meter.as_str(), shown[0].rate.as_str()),
            ("qos/gold", "5000 kbit/s")
        );
        assert_eq!(
            (shown[1].meter.as_str(), shown[1].rate.as_str()),
            ("qos/storm", "50 packets/s")
        );
        assert!(
            of("{}", None).unwrap().show().is_empty() && of("", None).unwrap().show().is_empty()
        );
    }

    #[test]
    fn a_declaration_that_is_none_is_refused_with_its_place() {
        for (meters, said) in [
            (
                r#"[{"name": "a", "pps": 1}, {"name": "b"}]"#,
                "at /meters/1: give either",
            ),
            (
                r#"[{"name": "a", "pps": 1, "kbps": 1}]"#,
                "at /meters/0: give either",
            ),
            (r#"[{"name": "a", "pps": 0}]"#, "must be 1 to"),
            (r#"[{"name": "a b", "pps": 1}]"#, "a meter's name"),
            (
                r#"[{"name": "a", "pps": 1}, {"name": "a", "pps": 2}]"#,
                "called \"a\" already",
            ),
            (
                r#"[{"name": "a", "pps": 1, "burst-ms": 10001}]"#,
                "at most 10000",
            ),
            (r#"[{"name": "a", "mbps": 1}]"#, "mbps"),
            ("7", "cannot be read"),
        ] {
            let error = of(&format!("{{\"meters\": {meters}}}"), None).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let many: Vec<String> = (0..257)
            .map(|n| format!("{{\"name\": \"m{n}\", \"pps\": 1}}"))
            .collect();
        assert!(
            of(&format!("{{\"meters\": [{}]}}", many.join(",")), None)
                .unwrap_err()
                .contains("at most 256")
        );
    }

    #[test]
    fn a_config_that_is_no_object_declares_nothing() {
        for config in ["", " ", "[1, 2]", "7", "null", r#""text""#] {
            assert!(
                of(config, None).is_ok_and(|tolls| tolls.0.is_empty()),
                "{config}"
            );
            assert!(crate::rulings::check_config(config).is_ok(), "{config}");
        }
        let both = crate::rulings::check_config(r#"{"groups": [{"name": "a b", "buckets": []}]}"#);
        assert!(both.is_err_and(|why| why.contains("/groups/0")));
    }

    #[test]
    fn a_meter_that_is_declared_the_same_again_is_the_same_bucket() {
        let before = of(
            r#"{"meters": [{"name": "a", "pps": 5}, {"name": "b", "pps": 5}]}"#,
            None,
        )
        .unwrap();
        let after = of(
            r#"{"meters": [{"name": "b", "pps": 6}, {"name": "a", "pps": 5}]}"#,
            Some(&before),
        )
        .unwrap();
        assert!(Arc::ptr_eq(&after.0[1].0, &before.0[0].0));
        assert!(!Arc::ptr_eq(&after.0[0].0, &before.0[1].0));
    }

    #[test]
    fn labels_are_bounded_and_one_that_nothing_uses_gives_way() {
        let tallies = Tallies::default();
        let mut used: Vec<_> = (0..256).map(|label| tallies.of(label).unwrap()).collect();
        assert!(tallies.of(256).is_none());
        used.remove(3);
        assert!(tallies.of(256).is_some());
        assert!(tallies.show().iter().all(|row| row.label != 3));
        assert!(Arc::ptr_eq(
            &tallies.of(7).unwrap(),
            &tallies.of(7).unwrap()
        ));
    }
}
