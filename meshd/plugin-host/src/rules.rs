//! Rules that a controller writes: what the paired policy would answer for their keys. They are asked before it.
//!
//! ```text
//!   question --> highest priority first: key fits as far as the mask says? --yes--> its decision
//!                        | no rule fits                  mask: the union over all that were looked at, with or without success
//!                        v
//!                      the policy; its mask has the same union in it
//! ```
//!
//! Owns their order, their bounds and their conversion, which is that of verdicts. A set never changes; one with changes is
//! another, and shares the counters of the rules that stayed.

use crate::bindings::controller::meshd::policy::flows;
use crate::bindings::meshd::policy::types::{
    Deps, Direction as GuestDirection, DstClass as GuestClass, Verdict,
};
use crate::convert::{self, Decision};
use crate::fault::Fault;
use meshd_core::flow::{FlowKey, FlowMask};
use meshd_core::ident::Vni;
use meshd_core::node::{Direction, DstClass, Question};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tags of one rule.
const TAGS_MAX: usize = 16;

/// One rule, ready to be asked.
#[derive(Clone, Debug)]
pub struct Rule {
    id: u64,
    priority: u16,
    /// As the mask has it; fields outside of it are zero.
    key: FlowKey,
    /// As it was claimed; that of the decision has the prerequisites too.
    mask: FlowMask,
    direction: Option<Direction>,
    port: Option<u32>,
    peer: Option<u64>,
    class: Option<DstClass>,
    decision: Decision,
    tags: Vec<u32>,
    hits: Arc<AtomicU64>,
}

/// Why a rule is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// What it says cannot be carried out.
    #[error(transparent)]
    Verdict(#[from] Fault),
    /// It can never fit.
    #[error("it is of network {tenant}, and the attachment is of {vni}")]
    Network {
        /// As it says.
        tenant: u32,
        /// The attachment's.
        vni: Vni,
    },
    /// More tags than may be.
    #[error("it has more than {TAGS_MAX} tags")]
    Tags,
}

impl Rule {
    /// Of what a controller wrote, on network `vni`.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn new(rule: &flows::Rule, vni: Vni) -> Result<Self, RuleError> {
        let fields = rule.mask.fields;
        let has = |dep| fields.contains(dep);
        let direction = has(Deps::DIR).then_some(match rule.key.dir {
            GuestDirection::Ingress => Direction::Ingress,
            GuestDirection::Egress => Direction::Egress,
        });
        if fields.contains(Deps::TENANT) && rule.key.tenant != vni.get() {
            let tenant = rule.key.tenant;
            return Err(RuleError::Network { tenant, vni });
        }
        if rule.life.tags.len() > TAGS_MAX {
            return Err(RuleError::Tags);
        }
        let verdict = Verdict {
            target: rule.target.clone(),
            actions: rule.actions.clone(),
            deps: rule.mask,
            life: rule.life.clone(),
        };
        // One of both directions must be right at egress, where less is allowed.
        let strictest = direction.unwrap_or(Direction::Egress);
        let decision = convert::decision(&verdict, strictest)?;
        let mask = convert::mask(&rule.mask)?;
        Ok(Self {
            id: rule.id,
            priority: rule.priority,
            key: mask.apply(&convert::flow_key(&rule.key, vni)),
            mask,
            direction,
            port: has(Deps::IN_PORT).then_some(rule.key.in_port),
            peer: has(Deps::IN_PEER).then_some(rule.key.in_peer),
            class: has(Deps::DST_CLASS).then_some(match rule.key.dst_class {
                GuestClass::UnicastKnown => DstClass::UnicastKnown,
                GuestClass::UnicastUnknown => DstClass::UnicastUnknown,
                GuestClass::Multicast => DstClass::Multicast,
                GuestClass::Broadcast => DstClass::Broadcast,
            }),
            decision,
            tags: rule.life.tags.clone(),
            hits: Arc::default(),
        })
    }

    /// Chosen by the controller.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it says.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Decisions that it made.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Does its life have this tag?
    #[must_use]
    pub fn has_tag(&self, tag: u32) -> bool {
        self.tags.contains(&tag)
    }

    /// Of scope nothing is in a mask: answers are kept for each port, direction and peer by themselves.
    fn is_of_scope(&self, question: &Question) -> bool {
        let peer = question.peer.map_or(0, |node| node.handle());
        self.direction.is_none_or(|of| of == question.direction)
            && self.port.is_none_or(|port| port == question.port.0)
            && self.peer.is_none_or(|of| of == peer)
    }

    fn fits(&self, question: &Question) -> bool {
        self.class.is_none_or(|class| class == question.dst_class)
            && self.mask.apply(&question.key) == self.key
    }
}

/// The rules of an attachment at one time. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Rules(Arc<Vec<Rule>>);

/// What came of asking them.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// What the first that fits says, if one does; its mask is of all that were looked at.
    pub decision: Option<Decision>,
    /// Of all that were looked at, if none fits.
    pub mask: FlowMask,
    /// Whether one of them reads how the destination was found.
    pub read_dst_class: bool,
}

impl Rules {
    /// In the order in which they are asked. Of two with one number the later one counts.
    #[must_use]
    pub fn of(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut out: Vec<Rule> = Vec::new();
        for rule in rules {
            match out.iter_mut().find(|old| old.id == rule.id) {
                Some(old) => *old = rule,
                None => out.push(rule),
            }
        }
        out.sort_by_key(|rule| (core::cmp::Reverse(rule.priority), rule.id));
        Self(Arc::new(out))
    }

    /// Asks them.
    #[must_use]
    pub fn look(&self, question: &Question) -> Looked {
        let mut out = Looked::default();
        for rule in self.0.iter().filter(|rule| rule.is_of_scope(question)) {
            out.mask = out.mask.union(&rule.decision.mask);
            out.read_dst_class |= rule.class.is_some();
            if rule.fits(question) {
                rule.hits.fetch_add(1, Ordering::Relaxed);
                out.decision = Some(Decision {
                    mask: out.mask,
                    read_dst_class: out.read_dst_class,
                    ..rule.decision.clone()
                });
                break;
            }
        }
        out
    }

    /// In the order in which they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
