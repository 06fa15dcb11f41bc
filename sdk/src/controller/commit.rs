//! What a controller writes at once: all of it holds, or nothing.

use super::facts::{Fact, FactChange};
use crate::verdict::Verdict;
use crate::wit::flows::{Change, Rule};
use crate::wit::types;
use core::fmt::Display;

/// Changes that become one commit; see [`Host::commit`](super::Host::commit).
#[derive(Clone, Debug, Default)]
pub struct Commit {
    clear: bool,
    facts: Vec<FactChange>,
    rest: Vec<Change>,
}

impl Commit {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells the policy a fact, under `prefix` and `key`.
    #[must_use]
    pub fn put(mut self, prefix: &str, key: &impl Display, value: &impl Fact) -> Self {
        self.facts.push(FactChange {
            key: format!("{prefix}{key}"),
            value: Some(value.to_bytes()),
        });
        self
    }

    /// As [`Commit::put`], with the whole name and the content as it is.
    #[must_use]
    pub fn put_bytes(mut self, key: &str, value: &[u8]) -> Self {
        self.facts.push(FactChange {
            key: key.to_owned(),
            value: Some(value.to_vec()),
        });
        self
    }

    /// Takes all facts back that were told before this commit, also by a version before.
    #[must_use]
    pub fn clear_facts(mut self) -> Self {
        self.clear = true;
        self
    }

    /// Takes a fact back.
    #[must_use]
    pub fn forget(mut self, prefix: &str, key: &impl Display) -> Self {
        self.facts.push(FactChange {
            key: format!("{prefix}{key}"),
            value: None,
        });
        self
    }

    /// Only the verdicts of the policy with this tag go stale by the facts, and not all.
    #[must_use]
    pub fn invalidate(mut self, tag: u32) -> Self {
        self.rest.push(Change::Invalidate(tag));
        self
    }

    /// Any other change, in the words of `wit/host.wit`.
    #[must_use]
    pub fn change(mut self, change: Change) -> Self {
        self.rest.push(change);
        self
    }

    /// What the policy would say to frames that agree with `key` in what `mask` names, from now on and before it is asked.
    /// Another rule with the same number is replaced.
    #[must_use]
    pub fn rule(
        self,
        id: u64,
        priority: u16,
        key: types::FlowKey,
        mask: types::DepMask,
        verdict: Verdict,
    ) -> Self {
        let verdict = verdict.with_deps(mask);
        self.change(Change::PutRule(Rule {
            id,
            priority,
            key,
            mask,
            target: verdict.target,
            actions: verdict.actions,
            life: verdict.life,
        }))
    }

    /// The facts in it.
    #[must_use]
    pub fn facts(&self) -> &[FactChange] {
        &self.facts
    }

    /// Is there nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.clear && self.facts.is_empty() && self.rest.is_empty()
    }

    /// As the host takes it.
    pub(crate) fn changes(self) -> Vec<Change> {
        let mut out = self.rest;
        if !self.facts.is_empty() {
            let facts = self.facts.into_iter().map(|change| types::Fact {
                key: change.key,
                value: change.value,
            });
            out.insert(0, Change::PutFacts(facts.collect()));
        }
        if self.clear {
            out.insert(0, Change::ClearFacts);
        }
        out
    }
}
