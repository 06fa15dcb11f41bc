//! Answers about plugins at work, as both the command line and the routes know them: chains and counters.

use crate::punts::PuntCounts;
use crate::rulings::{
    Asked, AttachmentInfo, ControllerInfo, LabelCount, MeterInfo, PluginInfo, Said, ShadowInfo,
    Stage,
};
use meshd_core::flow::{FlowKey, FlowMask};
use meshd_core::flowtext;
use meshd_core::ident::{Label, PortId, Vni};
use meshd_core::node::Direction;
use meshd_core::view::{self, TracePlugin};
use meshd_plugin_host::Fault;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of `meshd plugin chain`: a plugin's place in a network's chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChainLink {
    /// Stages are asked in their order.
    #[schema(value_type = String)]
    pub stage: Stage,
    /// Lower is asked earlier within the stage.
    pub order: u16,
    /// Its name on this node.
    pub plugin: Label,
    /// SHA-256 of the component, as hex.
    pub digest: String,
    /// Its config, as given: JSON.
    pub config: String,
    /// What holds for frames when it fails: `closed`, `open` or `last-good`.
    pub fail: String,
    /// The version that decides then, for `last-good`; absent: there is none, and it fails closed.
    pub last_good: Option<String>,
    /// What its answers come to at the moment.
    pub state: LinkState,
    /// Why, if it is not `answers`.
    pub trouble: Option<String>,
    /// Questions since the daemon started.
    pub asked: u64,
    /// Of them, left to the next one.
    pub passed: u64,
    /// Of them, passed without asking the next one.
    pub accepted: u64,
    /// Of them, refused.
    pub dropped: u64,
    /// Of them, answered by the fail mode.
    pub failed: u64,
}

/// See [`ChainLink::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// It decides, and its answers hold as widely as it says.
    Answers,
    /// It decides, but its answers hold for exactly equal frames only: one did not hold where it said so.
    Quarantined,
    /// It failed too often and is not asked for a while; its fail mode answers.
    Paused,
    /// It cannot be used; its fail mode answers.
    Broken,
}

/// One line of `meshd plugin stats`: a plugin on a network, since the daemon started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PluginStats {
    /// Its name on this node.
    pub plugin: Label,
    /// The network's name, or its VNI if this node does not know it.
    pub network: String,
    /// The network's segment.
    pub vni: Vni,
    /// Questions.
    pub asked: u64,
    /// Of them, refused.
    pub dropped: u64,
    /// Of these, by reason; at most 64 different ones.
    pub reasons: BTreeMap<String, u64>,
    /// Of them, answered by the fail mode.
    pub failed: u64,
    /// Of these, decided by the last good version.
    pub fell_back: u64,
    /// Times that it was called; those that met the breaker are not.
    pub calls: u64,
    /// Mean of a call, in ns.
    pub mean_ns: u64,
    /// Half of the calls took less.
    pub p50_below_ns: Option<u64>,
    /// 99 of 100 calls took less; absent: there is no bound.
    pub p99_below_ns: Option<u64>,
    /// Calls by how long they took, in ascending order.
    pub times: Vec<TimeBucket>,
    /// Faults by kind; those that never happened are left out.
    pub faults: BTreeMap<String, u64>,
    /// How it failed last.
    pub last_fault: Option<String>,
    /// The version that is asked the same and not obeyed, and what it would have said; absent: there is none.
    pub shadow: Option<ShadowInfo>,
    /// Decisions that were examined.
    pub examined: u64,
    /// Why its answers hold for exactly equal frames only, if so.
    pub quarantine: Option<String>,
    /// Frames by the label that they are counted under (action `count`).
    pub labels: Vec<LabelCount>,
    /// What the meters of its config let pass and held back.
    pub meters: Vec<MeterInfo>,
    /// Frames that its verdicts sent to its controller (action `punt`).
    pub punts: PuntCounts,
    /// Its controller; absent: it has none.
    pub controller: Option<ControllerInfo>,
}

/// Calls that took less than a bound and not less than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TimeBucket {
    /// The bound; absent: none.
    pub below_ns: Option<u64>,
    /// How many.
    pub calls: u64,
}

pub(super) fn link(plugin: &PluginInfo, at: &AttachmentInfo) -> ChainLink {
    let state = match (&plugin.trouble, &at.trouble, &at.quarantine) {
        (Some(_), ..) => LinkState::Broken,
        (None, Some(_), _) if at.faults.iter().any(|n| *n > 0) => LinkState::Paused,
        (None, Some(_), _) => LinkState::Broken,
        (None, None, Some(_)) => LinkState::Quarantined,
        (None, None, None) => LinkState::Answers,
    };
    let reasons = [&plugin.trouble, &at.trouble, &at.quarantine];
    ChainLink {
        stage: at.stage,
        order: at.order,
        plugin: plugin.name.clone(),
        digest: plugin.digest.to_string(),
        config: at.config.clone(),
        fail: at.fail.word().to_owned(),
        last_good: at.last_good.map(|digest| digest.to_string()),
        state,
        trouble: reasons.into_iter().flatten().next().cloned(),
        asked: at.asked,
        passed: at.asked.saturating_sub(
            at.accepted
                .saturating_add(at.dropped)
                .saturating_add(at.failed),
        ),
        accepted: at.accepted,
        dropped: at.dropped,
        failed: at.failed,
    }
}

pub(crate) fn stats(plugin: &PluginInfo, at: &AttachmentInfo, network: String) -> PluginStats {
    let calls: u64 = at.times.iter().map(|(_, calls)| calls).sum();
    PluginStats {
        plugin: plugin.name.clone(),
        network,
        vni: at.vni,
        asked: at.asked,
        dropped: at.dropped,
        reasons: at.reasons.clone(),
        failed: at.failed,
        fell_back: at.fell_back,
        calls,
        mean_ns: at.ns.checked_div(calls).unwrap_or_default(),
        p50_below_ns: quantile(&at.times, calls, 50),
        p99_below_ns: quantile(&at.times, calls, 99),
        times: at
            .times
            .iter()
            .map(|&(below_ns, calls)| TimeBucket { below_ns, calls })
            .collect(),
        faults: Fault::KINDS
            .iter()
            .zip(&at.faults)
            .filter(|(_, n)| **n > 0)
            .map(|(kind, n)| ((*kind).to_owned(), *n))
            .collect(),
        last_fault: at.last_fault.clone(),
        shadow: at.shadow.clone(),
        examined: at.examined,
        quarantine: at.quarantine.clone(),
        labels: at.labels.clone(),
        meters: at.meters.clone(),
        punts: at.punts,
        controller: at.controller.clone(),
    }
}

/// A plugin's answer to the question that a port asks in a trace.
pub(crate) fn traced(direction: Direction, port: PortId, asked: Asked) -> TracePlugin {
    let (mut reason, mut code, mut failure) = (None, None, None);
    let answer = match asked.said {
        Said::Next => "pass",
        Said::Accept => "accept",
        Said::Place => "place",
        Said::Skipped => "not asked",
        Said::Drop {
            code: number,
            reason: name,
        } => {
            (reason, code) = (Some(name), Some(number));
            "drop"
        }
        Said::Failed { fail, why } => {
            failure = Some(format!("{why} (it fails {})", fail.word()));
            "failed"
        }
    };
    let mut read = show_read(&asked.key, &asked.mask);
    if asked.read_dst_class {
        read.push("how the destination was found".to_owned());
    }
    TracePlugin {
        direction: view::word(&direction),
        port,
        stage: asked.stage.word().to_owned(),
        order: asked.order,
        plugin: asked.plugin,
        answer: answer.to_owned(),
        reason,
        code,
        failure,
        read: (!read.is_empty()).then(|| read.join(", ")),
        wants: (!asked.orders.is_empty()).then_some(asked.orders),
        decides: asked.decides,
    }
}

/// Of a network's number; the number itself, if this node does not know the network.
pub(crate) fn network_name(networks: &[view::Network], vni: Vni) -> String {
    networks
        .iter()
        .find(|n| n.vni == vni)
        .map_or_else(|| vni.to_string(), |n| n.name.to_string())
}

/// What of the key a mask has, without the network, which is in every mask.
fn show_read(key: &FlowKey, mask: &FlowMask) -> Vec<String> {
    let all = flowtext::show_masked(key, mask);
    all.split(", ").skip(1).map(str::to_owned).collect()
}

/// The bound below which so many of 100 calls stayed.
fn quantile(times: &[(Option<u64>, u64)], calls: u64, percent: u64) -> Option<u64> {
    let mut seen = 0u64;
    times.iter().find_map(|&(below, n)| {
        seen += n;
        // A count of calls that overflows at 100 times itself is centuries away.
        (seen.saturating_mul(100) >= calls.saturating_mul(percent)).then_some(below)
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_that_so_many_calls_stayed_below() {
        let times = [(Some(256), 50), (Some(512), 49), (None, 1)];
        assert_eq!(quantile(&times, 100, 50), Some(256));
        assert_eq!(quantile(&times, 100, 51), Some(512));
        assert_eq!(quantile(&times, 100, 99), Some(512));
        assert_eq!(quantile(&times, 100, 100), None);
        assert_eq!(quantile(&[], 0, 50), None);
    }
}
