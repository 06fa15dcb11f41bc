//! The chains of all networks, as one immutable set, and how a chain comes to its answer.
//!
//! The links are asked in order; the first that drops ends it, `accept` skips the rest. The mask is the union over those
//! that were asked and no others: a guard that drops on a VLAN keeps the ports out of it. Of what they want besides, the first
//! redirect holds, a flood goes to whom all let it, and every mirror gets its copy; the answer ends with the first that ends.

use super::link::{FailMode, Link};
use meshd_core::dues::DUES_MAX;
use meshd_core::edit::EDITS_MAX;
use meshd_core::flow::FlowMask;
use meshd_core::ident::Vni;
use meshd_core::node::Question;
use meshd_core::policy::{Answer, Orders, Redirect, Verdict};
use meshd_plugin_host::Say;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Each network's links in the order in which they are asked.
#[derive(Default)]
pub(super) struct Chains(pub(super) BTreeMap<Vni, Vec<Arc<Link>>>);

impl Chains {
    /// What the chain of the question's network says; a network without one lets everything pass.
    pub(super) fn answer(&self, question: &Question, now: Instant) -> Answer {
        self.0.get(&question.vni).map_or_else(
            || passed("no policy".to_owned()),
            |links| answer(links, question, now),
        )
    }
}

fn passed(why: String) -> Answer {
    Answer {
        verdict: Verdict::Pass,
        mask: FlowMask::default(),
        read_dst_class: false,
        cacheable: true,
        hard_ms: None,
        orders: Orders::default(),
        why,
    }
}

/// The answer where nobody could be asked.
pub(super) fn failed(why: String) -> Answer {
    Answer {
        verdict: Verdict::Failed,
        mask: FlowMask::default(),
        read_dst_class: false,
        cacheable: false,
        hard_ms: None,
        orders: Orders::default(),
        why,
    }
}

fn answer(links: &[Arc<Link>], question: &Question, now: Instant) -> Answer {
    let mut fell_back = String::new();
    let mut out = walk(links, question, now, &mut fell_back);
    if !fell_back.is_empty() {
        out.why = format!("{}, where {fell_back}", out.why);
    }
    out
}

/// `fell_back`: who could not answer, and which version did.
fn walk(links: &[Arc<Link>], question: &Question, now: Instant, fell_back: &mut String) -> Answer {
    let mut out = passed(String::new());
    let mut question = Cow::Borrowed(question);
    for link in links {
        let decision = match link.ask(&question, now) {
            Ok(decision) => decision,
            Err(reason) => {
                // Whether a plugin fails does not depend on the key alone, so nothing of this is kept.
                out.cacheable = false;
                match link.fail() {
                    FailMode::Closed => {
                        out.verdict = Verdict::Failed;
                        out.why = format!("{}: {reason}; it fails closed", link.name());
                        return out;
                    }
                    FailMode::Open => {
                        note(
                            &mut out.why,
                            format_args!("{}: {reason}; it fails open", link.name()),
                        );
                        continue;
                    }
                    FailMode::LastGood => {
                        let Some((digest, decision)) = link.fall_back(&question, now) else {
                            out.verdict = Verdict::Failed;
                            out.why = format!(
                                "{}: {reason}; there is no last good version that answers, so it fails closed",
                                link.name()
                            );
                            return out;
                        };
                        let (name, digest) = (link.name(), digest.short());
                        note(
                            fell_back,
                            format_args!("{name} is its last good version {digest}: {reason}"),
                        );
                        decision
                    }
                }
            }
        };
        out.mask = out.mask.union(&decision.mask);
        out.read_dst_class |= decision.read_dst_class;
        out.cacheable &= decision.cacheable;
        out.hard_ms = match (out.hard_ms, decision.hard_ms) {
            (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
        out.orders.compose(&decision.orders);
        if out.orders.dues.is_too_long() {
            out.verdict = Verdict::Failed;
            out.cacheable = false;
            out.why =
                format!("the chain meters or counts a frame under more than {DUES_MAX} names");
            return out;
        }
        if out.orders.edits.len() > EDITS_MAX {
            out.verdict = Verdict::Failed;
            out.cacheable = false;
            out.why = format!("the chain changes more than {EDITS_MAX} things of a frame");
            return out;
        }
        // Later links see the frame as it will be.
        for edit in &decision.orders.edits {
            edit.rekey(&mut question.to_mut().key);
            out.mask.fields = out.mask.fields.with(edit.needs());
        }
        match decision.say {
            Say::Next => note(
                &mut out.why,
                format_args!("{}: pass{}", link.name(), Told(&decision.orders)),
            ),
            Say::Accept => {
                note(&mut out.why, format_args!("{}: accept", link.name()));
                return out;
            }
            Say::Drop { code } => {
                out.verdict = Verdict::Drop;
                out.orders = std::mem::take(&mut out.orders).refused(&decision.orders);
                out.why = format!("{}: rule {code}", link.name());
                return out;
            }
        }
    }
    out
}

/// What a plugin wants besides, for people.
struct Told<'a>(&'a Orders);

impl core::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0.redirect {
            Some(Redirect::Port(port)) => write!(f, ", to port {port}")?,
            Some(Redirect::Peer(peer)) => write!(f, ", to peer {peer:#018x}")?,
            None => {}
        }
        if let Some(set) = &self.0.flood {
            let (ports, peers) = (set.ports.len(), set.peers.len());
            write!(f, ", floods to at most {ports} ports and {peers} peers")?;
        }
        for edit in &self.0.edits {
            write!(f, ", {edit}")?;
        }
        for meter in self.0.dues.meters() {
            write!(f, ", meter {} ({})", meter.name(), meter.rate())?;
        }
        self.0
            .mirrors
            .iter()
            .try_for_each(|port| write!(f, ", a copy to port {port}"))
    }
}

fn note(why: &mut String, text: core::fmt::Arguments<'_>) {
    if !why.is_empty() {
        why.push_str(", ");
    }
    // Writing to a String cannot fail.
    let _ = core::fmt::Write::write_fmt(why, text);
}
