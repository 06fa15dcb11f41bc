//! Plugins and their places in chains, to be shown. Refuses to change anything.

use super::link::{Counters, below};
use super::registry::{Installed, words};
use super::shadow::Tally;
use crate::controllers::{Attached, ControllerInfo};
use crate::punts::PuntCounts;
use meshd_core::ident::{Label, Vni};
use meshd_core::signer::Signer;
#[cfg(doc)]
use meshd_plugin_host::Fault;
use meshd_plugin_host::{Digest, FailMode, Stage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// An installed plugin, to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PluginInfo {
    /// Its name on this node.
    pub name: Label,
    /// Name and version by its manifest, if it has one.
    pub about: Option<About>,
    /// SHA-256 of the component.
    pub digest: Digest,
    /// Bytes of the component.
    pub size: u64,
    /// The file that it was installed from, as who installed it named it.
    pub source: Option<String>,
    /// Why it cannot be used, if so.
    pub trouble: Option<String>,
    /// It chooses ways, and is in no chain.
    pub steers: bool,
    /// What has to be granted to it where it is attached, as `--grant` takes it; empty: nothing.
    pub needs: String,
    /// Versions to which `rollback` can go back, the next one first.
    pub earlier: Vec<Digest>,
    /// Who has signed it.
    pub signers: Vec<Signer>,
    /// By VNI.
    pub attachments: Vec<AttachmentInfo>,
}

/// A version beside the one in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Shadow)]
pub struct ShadowInfo {
    /// SHA-256 of its component.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// What came of it.
    #[serde(flatten)]
    pub tally: Tally,
}

/// What a plugin's manifest says it is; a stranger's words, escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Of the plugin; an operator may have installed it under another.
    pub name: String,
    /// Of the plugin.
    pub version: String,
    /// One sentence, or empty.
    pub description: String,
}

/// A plugin in a network's chain, to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AttachmentInfo {
    /// The network.
    pub vni: Vni,
    /// Where in the chain; stages are asked in their order.
    pub stage: Stage,
    /// Lower is asked earlier within the stage.
    pub order: u16,
    /// JSON.
    pub config: String,
    /// What holds when it fails.
    pub fail: FailMode,
    /// Why its fail mode answers at the moment, if so.
    pub trouble: Option<String>,
    /// How it failed last.
    pub last_fault: Option<String>,
    /// Questions since the daemon started.
    pub asked: u64,
    /// Of them, refused by the plugin.
    pub dropped: u64,
    /// Of these, by reason; at most 64 different ones.
    pub reasons: BTreeMap<String, u64>,
    /// Of them, answered by the fail mode.
    pub failed: u64,
    /// Time in the plugin, in ns.
    pub ns: u64,
    /// Of the questions, those after whose answer nobody else was asked.
    pub accepted: u64,
    /// Of `failed`, decided by the last good version.
    pub fell_back: u64,
    /// The version that decides if it fails, where its fail mode wants one.
    pub last_good: Option<Digest>,
    /// Why its answers hold for exactly equal frames only, if so.
    pub quarantine: Option<String>,
    /// The version that is asked the same and not obeyed, and what it would have said, if there is one.
    pub shadow: Option<ShadowInfo>,
    /// Decisions that were examined.
    pub examined: u64,
    /// By [`Fault::KINDS`].
    pub faults: Vec<u64>,
    /// Calls by how long they took: below so many ns (`None`: or more), and how many. Empty buckets are left out.
    pub times: Vec<(Option<u64>, u64)>,
    /// Frames by the label that they are counted under.
    pub labels: Vec<LabelCount>,
    /// The meters of its config.
    pub meters: Vec<MeterInfo>,
    /// Frames that its verdicts sent to its controller.
    pub punts: PuntCounts,
    /// Its controller, if it has one.
    pub controller: Option<ControllerInfo>,
}

/// Frames that were counted under a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LabelCount {
    /// As the plugin numbers it.
    pub label: u32,
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A meter, and what it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MeterInfo {
    /// As the config names it, behind the plugin's name.
    pub meter: String,
    /// `1000 kbit/s`, `50 packets/s`.
    pub rate: String,
    /// Frames that passed.
    pub passed: u64,
    /// Their bytes.
    pub passed_bytes: u64,
    /// Frames that it had no room for.
    pub held: u64,
    /// Their bytes.
    pub held_bytes: u64,
}

pub(super) fn show(name: &Label, installed: &Installed) -> PluginInfo {
    let Installed {
        record,
        plugin,
        manifest,
        links,
        controllers,
    } = installed;
    let now = Instant::now();
    let attachments = record.attachments.iter().map(|(&vni, attachment)| {
        let link = links.get(&vni);
        let count = |of: fn(&Counters) -> &std::sync::atomic::AtomicU64| {
            link.map_or(0, |link| of(link.counters()).load(Ordering::Relaxed))
        };
        AttachmentInfo {
            vni,
            stage: link.map_or_else(Stage::default, |link| link.place().stage),
            order: attachment.order,
            config: attachment.config.clone(),
            fail: link.map_or_else(FailMode::default, |link| link.place().fail),
            trouble: link.and_then(|link| link.trouble(now)),
            last_fault: link.and_then(|link| link.last_fault()),
            asked: count(|c| &c.asked),
            dropped: count(|c| &c.dropped),
            reasons: link.map_or_else(BTreeMap::new, |link| {
                let codes = link.counters().by_code().into_iter();
                codes
                    .map(|(code, n)| (link.place().reason(code), n))
                    .collect()
            }),
            failed: count(|c| &c.failed),
            ns: count(|c| &c.ns),
            accepted: count(|c| &c.accepted),
            fell_back: count(|c| &c.fell_back),
            last_good: link.and_then(|link| link.spare()),
            quarantine: link.and_then(|link| link.quarantined()),
            shadow: link
                .and_then(|link| link.shadow())
                .map(|shadow| ShadowInfo {
                    digest: shadow.digest(),
                    tally: shadow.tally(),
                }),
            examined: count(|c| &c.examined),
            faults: link.map_or_else(Vec::new, |link| {
                let faults = link.counters().faults.iter();
                faults.map(|n| n.load(Ordering::Relaxed)).collect()
            }),
            times: link.map_or_else(Vec::new, |link| {
                let times = link.counters().times.iter().enumerate();
                times
                    .map(|(at, n)| (below(at), n.load(Ordering::Relaxed)))
                    .filter(|(_, n)| *n > 0)
                    .collect()
            }),
            labels: link.map_or_else(Vec::new, |link| link.counters().tallies.show()),
            meters: link.map_or_else(Vec::new, |link| link.tolls().show()),
            punts: link.map_or_else(PuntCounts::default, |link| link.punts().counts()),
            controller: controllers.get(&vni).map(Attached::info),
        }
    });
    PluginInfo {
        name: name.clone(),
        about: manifest.as_ref().map(|manifest| About {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            description: manifest.description.clone(),
        }),
        digest: record.digest,
        size: record.size,
        source: record.source.clone(),
        trouble: plugin.as_ref().err().cloned(),
        steers: installed.steers(),
        needs: plugin
            .as_ref()
            .map_or_else(|_| String::new(), |plugin| words(plugin.wants())),
        signers: plugin
            .as_ref()
            .map_or_else(|_| Vec::new(), |plugin| plugin.signers().to_vec()),
        earlier: record
            .history
            .iter()
            .map(|version| version.digest)
            .collect(),
        attachments: attachments.collect(),
    }
}
