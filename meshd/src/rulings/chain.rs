//! The chains of all networks, as one immutable set, and how a chain comes to its answer.
//!
//! ```text
//!   guard* --> classify* --> forward* --> observe* --> the switch
//!   drop: nobody is asked any more      accept: the rest of its stage is not asked      next, a place: the next one
//! ```
//!
//! The order is stage, order, name. The mask is the union over those that were asked and no others: a guard that drops on a
//! VLAN keeps the ports out of it. Of what they want besides, the first redirect holds, a flood goes to whom all let it, and
//! every mirror gets its copy; the answer ends with the first that ends.

use super::link::Link;
use super::place::Place;
use meshd_core::dues::DUES_MAX;
use meshd_core::edit::{EDITS_MAX, Edit};
use meshd_core::flow::{FlowKey, FlowMask};
use meshd_core::ident::{Label, Vni};
use meshd_core::node::Question;
use meshd_core::policy::{Answer, MirrorPlace, Orders, Part, Redirect, Verdict};
use meshd_core::steering::{SteerAnswer, SteerQuestion};
use meshd_plugin_host::{Decision, FailMode, Say, Stage};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Each network's links in the order in which they are asked.
#[derive(Default)]
pub(super) struct Chains {
    pub(super) links: BTreeMap<Vni, Vec<Arc<Link>>>,
    /// Who chooses ways.
    pub(super) steering: BTreeMap<Vni, Arc<Link>>,
}

impl Chains {
    /// What the chain of the question's network says; a network without one lets everything pass.
    pub(super) fn answer(&self, question: &Question, now: Instant) -> Answer {
        self.links.get(&question.vni).map_or_else(
            || passed("no policy".to_owned()),
            |links| answer(links, question, now, None),
        )
    }

    /// What the steering plugin of a network says; `None`: there is none, or it failed.
    pub(super) fn steer(&self, question: &SteerQuestion, now: Instant) -> Option<SteerAnswer> {
        self.steering.get(&question.key.vni)?.choose(question, now)
    }

    /// The same, with what each plugin said.
    pub(super) fn trace(&self, question: &Question, now: Instant) -> (Answer, Vec<Asked>) {
        let mut asked = Vec::new();
        let answer = self.links.get(&question.vni).map_or_else(
            || passed("no policy".to_owned()),
            |links| answer(links, question, now, Some(&mut asked)),
        );
        (answer, asked)
    }
}

/// What became of one plugin of a chain, for one question.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The plugin.
    pub plugin: Label,
    /// Where it stands.
    pub stage: Stage,
    /// Where it stands within the stage.
    pub order: u16,
    /// Its answer.
    pub said: Said,
    /// The key it was asked about; changed by those before it.
    pub key: FlowKey,
    /// What of that it read.
    pub mask: FlowMask,
    /// Whether it read how the destination was found.
    pub read_dst_class: bool,
    /// What it wants besides.
    pub orders: String,
    /// It says what becomes of the frame.
    pub decides: bool,
}

/// See [`Asked`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The next one is to decide.
    Next,
    /// The rest of its stage need not be asked.
    Accept,
    /// Refused.
    Drop {
        /// The plugin's number for why.
        code: u16,
        /// The same for people.
        reason: String,
    },
    /// It sends the frame, or its flood, to these places.
    Place,
    /// It failed, and its fail mode holds.
    Failed {
        /// The fail mode.
        fail: FailMode,
        /// How it failed, and what held then.
        why: String,
    },
    /// It was not asked: one before it accepted.
    Skipped,
}

fn passed(why: String) -> Answer {
    Answer {
        why,
        ..Answer::of(Verdict::Pass)
    }
}

/// The answer where nobody could be asked.
pub(super) fn failed(why: String) -> Answer {
    Answer {
        mask: FlowMask::exact(),
        read_dst_class: true,
        cacheable: false,
        why,
        ..Answer::of(Verdict::Failed)
    }
}

fn answer(
    links: &[Arc<Link>],
    question: &Question,
    now: Instant,
    asked: Option<&mut Vec<Asked>>,
) -> Answer {
    let mut fell_back = String::new();
    let mut out = walk(links, question, now, &mut fell_back, asked);
    if out.verdict == Verdict::Failed {
        // What a plugin that failed would have read is not known, so the failure speaks of this very flow.
        (out.mask, out.read_dst_class) = (FlowMask::exact(), true);
    }
    if !fell_back.is_empty() {
        out.why = format!("{}, where {fell_back}", out.why);
    }
    out
}

/// `fell_back`: who could not answer, and which version did.
fn walk(
    links: &[Arc<Link>],
    question: &Question,
    now: Instant,
    fell_back: &mut String,
    mut asked: Option<&mut Vec<Asked>>,
) -> Answer {
    let mut out = passed(String::new());
    let mut question = Cow::Borrowed(question);
    let mut accepted = None;
    // A key has two tags, and not the priority of the inner one: what a pop brings out is not known.
    let mut blind = false;
    for link in links {
        let (name, place) = (link.name(), link.place());
        let mut spare = None;
        if accepted == Some(place.stage) {
            seen(&mut asked, link, &question, Said::Skipped);
            continue;
        }
        if blind {
            out.verdict = Verdict::Failed;
            out.cacheable = false;
            out.why = format!(
                "{name} cannot be asked: one before it took a tag off that has others behind it; put it last in the chain"
            );
            return decided(asked, out);
        }
        // What is asked for people leaves nothing behind.
        let looked = asked.is_some();
        let decision = match looked {
            true => link.look(&question, now),
            false => link.ask(&question, now),
        };
        let decision = match decision {
            Ok(decision) => decision,
            Err(reason) => {
                // Whether a plugin fails does not depend on the key alone, so nothing of this is kept.
                out.cacheable = false;
                let fail = place.fail;
                let failed = |why: &str| Said::Failed {
                    fail,
                    why: why.to_owned(),
                };
                match fail {
                    FailMode::Closed => {
                        seen(&mut asked, link, &question, failed(&reason));
                        out.verdict = Verdict::Failed;
                        out.why = format!("{name}: {reason}; it fails closed");
                        return decided(asked, out);
                    }
                    FailMode::Open => {
                        seen(&mut asked, link, &question, failed(&reason));
                        note(
                            &mut out.why,
                            format_args!("{name}: {reason}; it fails open"),
                        );
                        continue;
                    }
                    FailMode::LastGood => {
                        let back = match looked {
                            true => link.look_back(&question, now),
                            false => link.fall_back(&question, now),
                        };
                        let Some((digest, its, decision)) = back else {
                            let why =
                                format!("{reason}; there is no last good version that answers");
                            seen(&mut asked, link, &question, failed(&why));
                            out.verdict = Verdict::Failed;
                            out.why = format!("{name}: {why}, so it fails closed");
                            return decided(asked, out);
                        };
                        spare = Some(its);
                        let digest = digest.short();
                        let why = format!("{reason}; its last good version {digest} answers");
                        seen(&mut asked, link, &question, failed(&why));
                        note(
                            fell_back,
                            format_args!("{name} is its last good version {digest}: {reason}"),
                        );
                        decision
                    }
                }
            }
        };
        let reasons = spare.as_ref().unwrap_or(place);
        told(&mut asked, link, reasons, &question, &decision);
        out.mask = out.mask.union(&decision.mask);
        out.read_dst_class |= decision.read_dst_class;
        out.cacheable &= decision.cacheable;
        out.hard_ms = sooner(out.hard_ms, decision.hard_ms);
        out.idle_ms = sooner(out.idle_ms, decision.idle_ms);
        out.orders.compose(&decision.orders);
        out.parts.push(Part {
            of: link.punts().id(),
            tags: decision.tags,
        });
        if out.orders.dues.is_too_long() || out.orders.punts.len() > DUES_MAX {
            out.verdict = Verdict::Failed;
            out.cacheable = false;
            out.why = format!(
                "the chain meters, counts or punts a frame under more than {DUES_MAX} names"
            );
            return out;
        }
        if out.orders.edits.len() > EDITS_MAX {
            out.verdict = Verdict::Failed;
            out.cacheable = false;
            out.why = format!("the chain changes more than {EDITS_MAX} things of a frame");
            return decided(asked, out);
        }
        // Later links see the frame as it will be.
        for edit in &decision.orders.edits {
            blind |= *edit == Edit::PopVlan && question.key.inner_vlan != 0;
            edit.rekey(&mut question.to_mut().key);
            out.mask.fields = out.mask.fields.with(edit.needs());
        }
        match decision.say {
            Say::Next => note(
                &mut out.why,
                format_args!("{name}: pass{}", Told(&decision.orders)),
            ),
            Say::Accept => {
                note(&mut out.why, format_args!("{name}: accept"));
                accepted = Some(place.stage);
            }
            Say::Drop { code } => {
                out.verdict = Verdict::Drop;
                out.orders = std::mem::take(&mut out.orders).refused(&decision.orders);
                out.why = format!("{name}: {}", reasons.reason(code));
                return decided(asked, out);
            }
        }
    }
    out
}

fn sooner(ours: Option<u32>, theirs: Option<u32>) -> Option<u32> {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
        (ours, theirs) => ours.or(theirs),
    }
}

/// Whoever was asked last ended it.
fn decided(asked: Option<&mut Vec<Asked>>, answer: Answer) -> Answer {
    if let Some(asked) = asked {
        asked.iter_mut().for_each(|one| one.decides = false);
        if let Some(last) = asked.last_mut() {
            last.decides = true;
        }
    }
    answer
}

fn seen(asked: &mut Option<&mut Vec<Asked>>, link: &Link, question: &Question, said: Said) {
    if let Some(asked) = asked {
        asked.push(Asked {
            plugin: link.name().clone(),
            stage: link.place().stage,
            order: link.place().order,
            said,
            key: question.key,
            mask: FlowMask::default(),
            read_dst_class: false,
            orders: String::new(),
            decides: false,
        });
    }
}

fn told(
    asked: &mut Option<&mut Vec<Asked>>,
    link: &Link,
    reasons: &Place,
    question: &Question,
    decision: &Decision,
) {
    let Some(asked) = asked else {
        return;
    };
    let orders = Told(&decision.orders).to_string();
    let placed = decision.orders.redirect.is_some() || decision.orders.group.is_some();
    asked.push(Asked {
        plugin: link.name().clone(),
        stage: link.place().stage,
        order: link.place().order,
        said: match decision.say {
            Say::Next if placed || decision.orders.flood.is_some() => Said::Place,
            Say::Next => Said::Next,
            Say::Accept => Said::Accept,
            Say::Drop { code } => Said::Drop {
                code,
                reason: reasons.reason(code),
            },
        },
        key: question.key,
        mask: decision.mask,
        read_dst_class: decision.read_dst_class,
        orders: orders.trim_start_matches(", ").to_owned(),
        // Of several that send it elsewhere the first does.
        decides: placed && !asked.iter().any(|one| one.decides),
    });
}

/// What a plugin wants besides, for people.
pub(super) struct Told<'a>(pub(super) &'a Orders);

impl core::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0.redirect {
            Some(Redirect::Port(port)) => write!(f, ", to port {port}")?,
            Some(Redirect::Peer(peer)) => write!(f, ", to peer {peer:#018x}")?,
            Some(Redirect::Path(path)) => {
                write!(f, ", to peer {:#018x} by way {}", path.peer, path.way)?;
            }
            None => {}
        }
        if let Some(group) = &self.0.group {
            write!(
                f,
                ", by group {} ({} ways)",
                group.name,
                group.buckets.len()
            )?;
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
        for punt in &self.0.punts {
            match punt.bytes {
                0 => f.write_str(", a copy to the controller")?,
                bytes => write!(f, ", {bytes} bytes to the controller")?,
            }
        }
        self.0
            .mirrors
            .iter()
            .try_for_each(|mirror| match mirror.to {
                MirrorPlace::Port(port) => write!(f, ", a copy to port {port}"),
                MirrorPlace::Peer(peer) => write!(f, ", a copy to peer {peer:#018x}"),
            })
    }
}

fn note(why: &mut String, text: core::fmt::Arguments<'_>) {
    if !why.is_empty() {
        why.push_str(", ");
    }
    // Writing to a String cannot fail.
    let _ = core::fmt::Write::write_fmt(why, text);
}
