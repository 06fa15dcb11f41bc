//! Plugins of this node that do not do what they are there for.

use super::{Finding, fail, list, span, warn, well};
use crate::view::Check;
use std::collections::BTreeMap;

/// 99 of 100 questions should take less, in ns: each new flow waits for the chain.
const SLOW_NS: u64 = 2_000_000;
/// Questions before which their times say little.
const CALLS_MIN: u64 = 100;

/// A plugin's place on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name on this node.
    pub plugin: String,
    /// Network's name; `None`: it is attached nowhere.
    pub network: Option<String>,
    /// What holds when it fails: `closed`, `open`, `last-good`.
    pub fail: String,
    /// Why it cannot be used, or its fail mode answers.
    pub trouble: Option<String>,
    /// Why its answers hold for exactly equal frames only.
    pub quarantine: Option<String>,
    /// Why its controller does nothing.
    pub controller: Option<String>,
    /// Faults by kind since the daemon started.
    pub faults: BTreeMap<String, u64>,
    /// How it failed last.
    pub last_fault: Option<String>,
    /// Calls.
    pub calls: u64,
    /// 99 of 100 calls took less, in ns; `None`: no bound, or none were.
    pub p99_ns: Option<u64>,
}

/// All places, and the kinds of faults that mean that a budget was used up.
#[must_use]
pub fn checks(places: &[Place], over_budget: &[&str]) -> Vec<Check> {
    let mut checks: Vec<Check> = places
        .iter()
        .flat_map(|place| one(place, over_budget))
        .collect();
    if checks.is_empty() && !places.is_empty() {
        checks.push(well("plugins", format!("{} at work", places.len())));
    }
    checks
}

fn one(place: &Place, over_budget: &[&str]) -> Vec<Check> {
    let on = place
        .network
        .as_ref()
        .map_or_else(String::new, |network| format!(" on {network}"));
    let name = format!("plugin {}{on}", place.plugin);
    let network = place.network.as_deref().unwrap_or("NETWORK");
    let mut checks = Vec::new();
    if let Some(trouble) = &place.trouble {
        let last = place
            .last_fault
            .as_ref()
            .filter(|last| !trouble.contains(*last));
        let last = last.map_or_else(String::new, |last| format!("; last: {last}"));
        let found = format!("{trouble}{last}");
        let advice = format!(
            "`meshd plugin rollback {}`, or install a mended version; `meshd plugin stats` has all faults",
            place.plugin
        );
        checks.push(match place.fail.as_str() {
            // What fails closed refuses all frames meanwhile.
            "closed" if place.network.is_some() => fail(
                Finding::PluginBroken,
                &name,
                format!("{found}; it fails closed, so frames are refused"),
                advice,
            ),
            _ => warn(Finding::PluginBroken, &name, found, advice),
        });
    }
    if let Some(why) = &place.quarantine {
        checks.push(warn(
            Finding::PluginQuarantined,
            &name,
            format!("quarantined, its answers hold for exactly equal frames only: {why}"),
            format!("mend what it reads without saying so, and install it again; `meshd plugin chain {network}` has the case"),
        ));
    }
    if let Some(why) = &place.controller {
        checks.push(warn(
            Finding::ControllerTrouble,
            &name,
            format!("its controller does nothing: {why}"),
            format!("`meshd plugin logs {} {network}`", place.plugin),
        ));
    }
    let over: Vec<_> = over_budget
        .iter()
        .filter_map(|kind| Some(format!("{} times {kind}", place.faults.get(*kind)?)))
        .collect();
    if !over.is_empty() && place.trouble.is_none() {
        checks.push(warn(
            Finding::PluginOverBudget,
            &name,
            format!("was stopped {} in {} calls", list(&over), place.calls),
            "`meshd plugin bench` shows what a question costs; a lighter config, or a mended version",
        ));
    }
    if let Some(p99) = place
        .p99_ns
        .filter(|ns| *ns > SLOW_NS && place.calls >= CALLS_MIN)
    {
        checks.push(warn(
            Finding::PluginSlow,
            &name,
            format!("one of 100 questions takes up to {}, and the first frame of a flow waits for it", span(p99 / 1_000_000)),
            "`meshd plugin bench`; a lighter config, or place what refuses most before it (`--order`)",
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::CheckState;

    fn codes(change: impl FnOnce(&mut Place)) -> Vec<(Finding, CheckState)> {
        let mut place = Place {
            plugin: "fw".to_owned(),
            network: Some("lan".to_owned()),
            fail: "open".to_owned(),
            calls: 1000,
            ..Place::default()
        };
        change(&mut place);
        let checks = checks(&[place], &["fuel"]);
        checks
            .iter()
            .filter_map(|check| Some((check.code?, check.state)))
            .collect()
    }

    #[test]
    fn each_trouble_has_its_name_and_one_that_refuses_all_is_a_fault() {
        use CheckState::{Fail, Warn};
        assert!(codes(|_| {}).is_empty());
        assert_eq!(
            codes(|it| it.trouble = Some("paused".into())),
            [(Finding::PluginBroken, Warn)]
        );
        let closed =
            |it: &mut Place| (it.trouble, it.fail) = (Some("paused".into()), "closed".into());
        assert_eq!(codes(closed), [(Finding::PluginBroken, Fail)]);
        assert_eq!(
            codes(|it| it.quarantine = Some("lied".into())),
            [(Finding::PluginQuarantined, Warn)]
        );
        assert_eq!(
            codes(|it| it.controller = Some("died".into())),
            [(Finding::ControllerTrouble, Warn)]
        );
        assert_eq!(
            codes(|it| it.faults = BTreeMap::from([("fuel".into(), 3)])),
            [(Finding::PluginOverBudget, Warn)]
        );
        assert!(codes(|it| it.faults = BTreeMap::from([("trap".into(), 3)])).is_empty());
        assert_eq!(
            codes(|it| it.p99_ns = Some(SLOW_NS * 2)),
            [(Finding::PluginSlow, Warn)]
        );
        assert!(codes(|it| (it.p99_ns, it.calls) = (Some(SLOW_NS * 2), 5)).is_empty());
    }
}
