//! The chains of all networks, as one immutable set, and how a chain comes to its answer.
//!
//! The links are asked in order; the first that drops ends it, `accept` skips the rest. The mask is the union over those
//! that were asked and no others: a guard that drops on a VLAN keeps the ports out of it.

use super::link::{FailMode, Link};
use meshd_core::flow::FlowMask;
use meshd_core::ident::Vni;
use meshd_core::node::Question;
use meshd_core::policy::{Answer, Verdict};
use meshd_plugin_host::Say;
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
        why,
    }
}

fn answer(links: &[Arc<Link>], question: &Question, now: Instant) -> Answer {
    let mut out = passed(String::new());
    for link in links {
        let decision = match link.ask(question, now) {
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
                    FailMode::Open => note(
                        &mut out.why,
                        format_args!("{}: {reason}; it fails open", link.name()),
                    ),
                }
                continue;
            }
        };
        out.mask = out.mask.union(&decision.mask);
        out.read_dst_class |= decision.read_dst_class;
        out.cacheable &= decision.cacheable;
        match decision.say {
            Say::Next => note(&mut out.why, format_args!("{}: pass", link.name())),
            Say::Accept => {
                note(&mut out.why, format_args!("{}: accept", link.name()));
                return out;
            }
            Say::Drop { code } => {
                out.verdict = Verdict::Drop;
                out.why = format!("{}: rule {code}", link.name());
                return out;
            }
        }
    }
    out
}

fn note(why: &mut String, text: core::fmt::Arguments<'_>) {
    if !why.is_empty() {
        why.push_str(", ");
    }
    // Writing to a String cannot fail.
    let _ = core::fmt::Write::write_fmt(why, text);
}
