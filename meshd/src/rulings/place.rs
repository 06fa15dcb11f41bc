//! Where in a chain an attachment stands: what the operator said, else what the plugin's manifest says, else what its stage does.
//!
//! ```text
//!   guard --> classify --> forward --> observe      each: by order, then by name
//!   an operator may move a plugin to a later stage, up to forward; not into observe, and not out of it
//! ```
//!
//! In a later stage everybody is still asked who was asked before the plugin, and its `accept` passes over nobody whom it did
//! not pass over before but in its new stage. In an earlier one it would skip plugins that its author never meant to skip. An
//! observer has no say, so a plugin that refuses would refuse nothing there, and one that was made without a say gets none.

use meshd_core::policy::Orders;
use meshd_plugin_host::{Decision, FailMode, Fault, Manifest, Say, Stage};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where an attachment stands if nothing is said.
const ORDER: u16 = 100;

/// Where in the chain a plugin stands, and what holds when it fails. `None`: as it was, or else 100 and what its manifest says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Placement {
    /// Lower is asked earlier within a stage; the plugin's name decides between equals.
    pub order: Option<u16>,
    /// Dropped, passed on, or decided by the version before.
    pub fail: Option<FailMode>,
    /// Another stage than the manifest's.
    pub stage: Option<Stage>,
}

/// A place, with everything decided.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) stage: Stage,
    pub(super) order: u16,
    pub(super) fail: FailMode,
    manifest: Option<Arc<Manifest>>,
}

impl Place {
    pub(super) fn new(placement: Placement, manifest: Option<Arc<Manifest>>) -> Self {
        let said = manifest.as_deref();
        let stage = placement
            .stage
            .or(said.and_then(|manifest| manifest.stage))
            .unwrap_or_default();
        Self {
            stage,
            order: placement.order.unwrap_or(ORDER),
            fail: placement
                .fail
                .or(said.and_then(|manifest| manifest.fail))
                .unwrap_or_else(|| stage.fail()),
            manifest,
        }
    }

    /// The same place for another version.
    pub(super) fn with_manifest(&self, manifest: Option<Arc<Manifest>>) -> Self {
        Self {
            manifest,
            ..self.clone()
        }
    }

    /// The code of a refusal, for people.
    pub(super) fn reason(&self, code: u16) -> String {
        match &self.manifest {
            Some(manifest) => manifest.reason(code),
            None => format!("code {code}"),
        }
    }

    /// A decision that this stage has no right to is a fault, and no decision.
    pub(super) fn allows(&self, decision: Result<Decision, Fault>) -> Result<Decision, Fault> {
        let decision = decision?;
        if self.stage == Stage::Observe
            && let Some(what) = has_a_say(&decision)
        {
            return Err(Fault::Verdict {
                what: format!(
                    "it stands in the stage observe, which may copy frames, and it {what}"
                ),
            });
        }
        Ok(decision)
    }
}

/// What in a decision bears on where a frame goes and what it is.
fn has_a_say(decision: &Decision) -> Option<&'static str> {
    let Orders {
        redirect,
        group: _,
        flood,
        edits,
        commit,
        ct_mark,
        learn_ms,
        reject: _,
        mirrors: _,
        punts: _,
        // Made of the decision's meters and counts, behind this.
        dues: _,
    } = &decision.orders;
    match decision.say {
        Say::Drop { .. } => return Some("refuses one"),
        Say::Next | Say::Accept => {}
    }
    if redirect.is_some() || decision.group.is_some() {
        return Some("sends one elsewhere");
    }
    if flood.is_some() || decision.flood_set.is_some() {
        return Some("says who gets a flood");
    }
    if !decision.meters.is_empty() {
        return Some("holds one back by a meter");
    }
    if *commit || ct_mark.is_some() {
        return Some("has a say in connections");
    }
    if learn_ms.is_some() {
        return Some("has the switch remember one");
    }
    (!edits.is_empty()).then_some("changes one")
}

/// May a plugin that was made for one stage stand in the other? If not: why.
pub(super) fn may_move(from: Option<Stage>, to: Stage) -> Result<(), &'static str> {
    match from {
        // Nobody knows what it was made for but the operator.
        None => Ok(()),
        Some(from) if from == to => Ok(()),
        Some(Stage::Observe) => Err("one made to observe gets no say"),
        Some(_) if to == Stage::Observe => {
            Err("what it refuses, redirects or changes would not hold there")
        }
        Some(from) if to < from => {
            Err("there its `accept` would pass over plugins that it was made to come behind")
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_moves_to_later_stages_only_and_neither_into_observe_nor_out() {
        let allowed: Vec<(Stage, Stage)> = Stage::ALL
            .into_iter()
            .flat_map(|from| Stage::ALL.map(|to| (from, to)))
            .filter(|&(from, to)| may_move(Some(from), to).is_ok())
            .collect();
        use Stage::{Classify, Forward, Guard, Observe};
        assert_eq!(
            allowed,
            [
                (Guard, Guard),
                (Guard, Classify),
                (Guard, Forward),
                (Classify, Classify),
                (Classify, Forward),
                (Forward, Forward),
                (Observe, Observe)
            ]
        );
        assert!(Stage::ALL.iter().all(|&to| may_move(None, to).is_ok()));
    }

    #[test]
    fn the_operator_goes_before_the_manifest_and_that_before_the_stage() {
        let fail = |stage, fail| {
            Place::new(
                Placement {
                    stage,
                    fail,
                    order: None,
                },
                None,
            )
            .fail
        };
        assert_eq!(fail(None, None), FailMode::Closed);
        assert_eq!(fail(Some(Stage::Classify), None), FailMode::Closed);
        assert_eq!(fail(Some(Stage::Forward), None), FailMode::Open);
        assert_eq!(fail(Some(Stage::Observe), None), FailMode::Open);
        assert_eq!(
            fail(Some(Stage::Observe), Some(FailMode::Closed)),
            FailMode::Closed
        );
    }
}
