//! Commits: what a controller writes becomes what the paired policy and the data path obey, all of it or nothing.
//!
//! ```text
//!   prepare: changes converted -> facts and rules beside the old ones -> a second instance of the policy takes the facts
//!              | anything wrong: `flow-error`, and nothing has changed
//!   publish: link: instance and rules swapped -> the node: older answers of the attachment are void -> `committed`
//!              \-- the old instance takes the facts too, and is the second one next time
//! ```
//!
//! Owns the facts and the rules of an attachment; they outlive a restart of the controller and a new version of the plugin,
//! and end with the attachment or the daemon. Frames are decided all the while: what takes long happens on an instance that
//! nobody asks.

use super::{Outcome, Shared};
use crate::rulings::{Kept, Link, PutChange};
use meshd_core::ident::Vni;
use meshd_plugin_host::contract::flows::{Change, FlowError, RuleStats};
use meshd_plugin_host::groups;
use meshd_plugin_host::{FactChange, Facts, Instance, Rule, Rules};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Changes of one commit.
const CHANGES: usize = 8192;
/// Commits that may follow each other at once, and one more each [`PACE`]: each makes every flow of the node look for its
/// ruling anew.
const BURST: u32 = 10;
/// See [`BURST`].
const PACE: Duration = Duration::from_millis(100);
/// Rules whose figures are told at once.
const STATS: usize = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Writer {
    link: Option<Arc<Link>>,
    facts: Facts,
    rules: Rules,
    standby: Option<Instance>,
    /// Commits ahead of their time, and since when that is counted.
    ahead: Option<(u32, Instant)>,
}

/// Before anything is published.
struct Prepared {
    facts: Facts,
    changes: Vec<FactChange>,
    rules: Rules,
    /// Groups and flood sets, if any were among the changes.
    put: Option<Kept>,
    standby: Option<Instance>,
    /// Answers that are void: those with these tags, or all of the attachment.
    void: Void,
}

#[derive(Debug, PartialEq, Eq)]
enum Void {
    All,
    Tags(BTreeSet<u32>),
}

impl Writer {
    /// The attachment is this link from now on: another place, config or code.
    /// Rules that it cannot carry out go, and it is returned which and why.
    pub(super) fn stand_on(&mut self, link: Arc<Link>) -> Vec<String> {
        let put = link.put().all();
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for rule in self.rules.iter() {
            match link.admits(rule, &put) {
                Ok(()) => kept.push(rule.clone()),
                Err(why) => gone.push(format!("rule {} is gone: {why}", rule.id())),
            }
        }
        self.rules = Rules::of(kept);
        link.publish(None, &self.facts, &self.rules);
        self.link = Some(link);
        self.standby = None;
        gone
    }

    /// The attachment ends; nobody listens to its punts any more.
    pub(super) fn leave(&mut self) {
        if let Some(link) = self.link.take() {
            link.punts().leave();
        }
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// All or nothing; the generation from which on every frame obeys it.
    pub(super) fn commit(
        &mut self,
        changes: Vec<Change>,
        shared: &Shared,
        rules_max: usize,
    ) -> Outcome<u64, FlowError> {
        let Some(link) = self.link.clone() else {
            return Err(FlowError::Unavailable(
                "nothing is in place yet; commit in an event".to_owned(),
            ));
        };
        if changes.is_empty() {
            return Err(FlowError::Bad("there is no change in it".to_owned()));
        }
        if shared.queue.is_stopped() {
            // Who detaches waits for the event under way: one commit after the other must not hold it up.
            return Err(FlowError::Unavailable("the attachment ends".to_owned()));
        }
        self.keep_pace();
        let generation = shared.house.next_generation();
        let prepared = self.prepare(changes, &link, shared.vni, rules_max, generation)?;
        let Prepared {
            facts,
            changes,
            rules,
            put,
            standby,
            void,
        } = prepared;
        if let Some(put) = put {
            link.put().publish(put);
        }
        let old = link.publish(standby, &facts, &rules);
        self.standby = old.and_then(|mut old| {
            let taken = old.update(&facts, &changes, generation);
            taken.is_ok().then_some(old)
        });
        (self.facts, self.rules) = (facts, rules);
        let tags: Vec<Option<u32>> = match void {
            Void::All => vec![None],
            Void::Tags(tags) => tags.into_iter().map(Some).collect(),
        };
        for tag in tags {
            let of = link.punts().id();
            let done = shared.house.surroundings.invalidate(shared.vni, of, tag);
            done.map_err(FlowError::Unavailable)?;
        }
        Ok(generation)
    }

    fn prepare(
        &mut self,
        changes: Vec<Change>,
        link: &Link,
        vni: Vni,
        rules_max: usize,
        generation: u64,
    ) -> Outcome<Prepared, FlowError> {
        if changes.len() > CHANGES {
            return Err(FlowError::Full(format!(
                "a commit may have {CHANGES} changes"
            )));
        }
        let mut rules: Vec<Rule> = self.rules.iter().cloned().collect();
        let (mut facts, mut puts) = (Vec::new(), Vec::new());
        let (mut tags, mut ruled, mut all) = (BTreeSet::new(), false, false);
        for (at, change) in changes.into_iter().enumerate() {
            let bad = |why: &dyn core::fmt::Display| FlowError::Bad(format!("change {at}: {why}"));
            match change {
                Change::PutFacts(list) => {
                    facts.extend(list.into_iter().map(|fact| FactChange {
                        key: fact.key,
                        value: fact.value,
                    }));
                }
                Change::ClearFacts => {
                    let gone = self.facts.iter().map(|(key, _)| FactChange {
                        key: key.to_owned(),
                        value: None,
                    });
                    facts = gone.collect();
                }
                Change::Invalidate(tag) => {
                    tags.insert(tag);
                }
                Change::InvalidateAll => all = true,
                Change::PutRule(rule) => {
                    ruled = true;
                    let rule = Rule::new(&rule, vni).map_err(|e| bad(&e))?;
                    rules.retain(|old| old.id() != rule.id());
                    rules.push(rule);
                    if rules.len() > rules_max {
                        return Err(FlowError::Full(format!(
                            "change {at}: {rules_max} rules are granted"
                        )));
                    }
                }
                Change::DeleteRule(id) => {
                    ruled = true;
                    rules.retain(|rule| rule.id() != id);
                }
                Change::DeleteTag(tag) => {
                    ruled = true;
                    rules.retain(|rule| !rule.has_tag(tag));
                }
                Change::PutGroup(made) => {
                    let name = format!("{}/{}", link.name(), made.id);
                    let group = groups::group(&name, &made).map_err(|e| bad(&e))?;
                    puts.push(PutChange::Group(made.id, group));
                }
                Change::PutFloodSet((number, members)) => {
                    let set = groups::flood_set(&members);
                    puts.push(PutChange::FloodSet(number, set));
                }
            }
        }
        let new = self.facts.with(&facts).map_err(|e| match e {
            meshd_plugin_host::FactsError::Full { .. } => FlowError::Full(e.to_string()),
            meshd_plugin_host::FactsError::Key { .. } => FlowError::Bad(e.to_string()),
        })?;
        let standby = match facts.is_empty() {
            true => None,
            false => {
                let mut standby = self.standby.take().or_else(|| link.sibling());
                if let Some(standby) = &mut standby {
                    standby.update(&new, &facts, generation).map_err(|fault| {
                        FlowError::Bad(format!("the policy does not take the facts: {fault}"))
                    })?;
                }
                standby
            }
        };
        let put = match puts.is_empty() {
            true => None,
            false => Some(link.put().prepare(puts).map_err(FlowError::Full)?),
        };
        if ruled || put.is_some() {
            // All of them: a group that goes may be one that a rule of an earlier commit names.
            let put = put.clone().unwrap_or_else(|| link.put().all());
            for rule in &rules {
                let refused = |why| FlowError::Bad(format!("rule {}: {why}", rule.id()));
                link.admits(rule, &put).map_err(refused)?;
            }
        }
        // A rule or a group bears on answers that were given before there was one, whatever their tags.
        let void = match all || ruled || put.is_some() || tags.is_empty() {
            true => Void::All,
            false => Void::Tags(tags),
        };
        Ok(Prepared {
            facts: new,
            changes: facts,
            rules: Rules::of(rules),
            put,
            standby,
            void,
        })
    }

    /// Waits until its turn. The thread is the controller's own.
    fn keep_pace(&mut self) {
        let now = Instant::now();
        let (ahead, since) = self.ahead.unwrap_or((0, now));
        let passed = now.saturating_duration_since(since).as_millis() / PACE.as_millis();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let left = ahead.saturating_sub(passed);
        let since = match left {
            0 => now,
            _ => since + PACE * passed,
        };
        if left >= BURST {
            std::thread::sleep((since + PACE).saturating_duration_since(now));
        }
        self.ahead = Some((left.min(BURST) + 1, since));
    }

    pub(super) fn stats(&self, tag: Option<u32>, after: Option<u64>, limit: u32) -> Vec<RuleStats> {
        let mut rows: Vec<RuleStats> = self
            .rules
            .iter()
            .filter(|rule| tag.is_none_or(|tag| rule.has_tag(tag)))
            .filter(|rule| after.is_none_or(|after| rule.id() > after))
            .map(|rule| RuleStats {
                id: rule.id(),
                hits: rule.hits(),
            })
            .collect();
        rows.sort_by_key(|row| row.id);
        rows.truncate(STATS.min(limit as usize));
        rows
    }
}
