//! A new version beside the old one: asked the same, believed in nothing, and what it would have said otherwise is counted.
//!
//! ```text
//!   link --question, what the plugin said--> queue (32, else passed over) --> the new version --differs--> tally, examples
//! ```
//!
//! Owns the thread, how much of a processor it may have, and the count. It is off the way of every decision: where the queue
//! is full, the question is passed over and counted as such. A shadow that traps or hangs differs in that, and goes on.

use super::chain::Told;
use super::place::Place;
use meshd_core::flowtext;
use meshd_core::node::Question;
use meshd_plugin_host::{Decision, Digest, Facts, Instance, Say};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Questions that may wait; each is a few hundred bytes.
const QUEUE: usize = 32;
/// It rests so many times as long as a decision took, and at most [`REST_MAX`]: a tenth of one processor, unless a fresh
/// instance takes a second.
const REST: u32 = 9;
/// See [`REST`].
const REST_MAX: Duration = Duration::from_secs(5);
/// Examples of each kind that are kept, the last ones.
const EXAMPLES: usize = 3;

/// In what two versions differ; the gravest is counted.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schema(as = ShadowDifference)]
pub enum Difference {
    /// The new one fails where the old one does not.
    Fails,
    /// The new one does not fail where the old one does.
    Mends,
    /// One passes, accepts or drops what the other does not.
    Verdict,
    /// Both drop, for different reasons.
    Reason,
    /// Changes, copies or places differ.
    Wants,
    /// It holds for another time.
    Life,
    /// The same answer, having read other fields: it is cached otherwise.
    Mask,
}

/// One question that was answered in two ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ShadowExample)]
pub struct Example {
    /// The frame, as `meshd trace` shows it.
    pub flow: String,
    /// What the version in use said.
    pub old: String,
    /// What the new one would have said.
    pub new: String,
}

/// What came of a shadow so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ShadowTally)]
pub struct Tally {
    /// Questions that both answered.
    pub compared: u64,
    /// Questions that the shadow had no time for.
    pub passed_over: u64,
    /// Of those compared, those that differ, by kind.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub differences: BTreeMap<Difference, u64>,
    /// The last ones of each kind.
    #[schema(value_type = BTreeMap<String, Vec<Example>>)]
    pub examples: BTreeMap<Difference, VecDeque<Example>>,
}

impl Tally {
    /// Questions that were answered in two ways.
    #[must_use]
    pub fn differ(&self) -> u64 {
        self.differences.values().sum()
    }
}

type Outcome = Result<Decision, String>;

/// A version beside another. The thread ends with it.
pub(super) struct Shadow {
    digest: Digest,
    questions: SyncSender<(Question, Outcome)>,
    tally: Arc<Mutex<Tally>>,
    /// Facts that it has not taken yet.
    facts: Arc<Mutex<Option<Facts>>>,
}

impl Shadow {
    /// `old` and `new` have the names of their reasons.
    pub(super) fn start(
        digest: Digest,
        instance: Instance,
        old: Place,
        new: Place,
    ) -> std::io::Result<Self> {
        let (questions, queue) = sync_channel(QUEUE);
        let tally = Arc::default();
        let seen = Arc::clone(&tally);
        let facts = Arc::<Mutex<Option<Facts>>>::default();
        let fresh = Arc::clone(&facts);
        std::thread::Builder::new()
            .name("meshd-shadow".to_owned())
            .spawn(move || work(&queue, instance, &old, &new, &seen, &fresh))?;
        Ok(Self {
            digest,
            questions,
            tally,
            facts,
        })
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// The facts of the version in use are the new one's too, from its next question on.
    pub(super) fn set_facts(&self, facts: Facts) {
        let mut slot = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(facts);
    }

    /// Never blocks.
    pub(super) fn offer(&self, question: &Question, said: &Outcome) {
        if self
            .questions
            .try_send((question.clone(), said.clone()))
            .is_err()
        {
            lock(&self.tally).passed_over += 1;
        }
    }

    pub(super) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(
    queue: &Receiver<(Question, Outcome)>,
    mut instance: Instance,
    old: &Place,
    new: &Place,
    tally: &Mutex<Tally>,
    facts: &Mutex<Option<Facts>>,
) {
    while let Ok((question, said)) = queue.recv() {
        let started = Instant::now();
        let fresh = facts.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(facts) = fresh {
            instance.set_facts(facts);
        }
        let would = new
            .allows(instance.decide(&question))
            .map_err(|fault| fault.to_string());
        let took = started.elapsed();
        let found = difference(
            &said,
            &would,
            |code| old.reason(code),
            |code| new.reason(code),
        );
        let mut tally = lock(tally);
        tally.compared += 1;
        if let Some(kind) = found {
            *tally.differences.entry(kind).or_default() += 1;
            let examples = tally.examples.entry(kind).or_default();
            if examples.len() >= EXAMPLES {
                examples.pop_front();
            }
            examples.push_back(Example {
                flow: flowtext::show(&question.key),
                old: show(&said, &question, old),
                new: show(&would, &question, new),
            });
        }
        drop(tally);
        std::thread::sleep((took * REST).min(REST_MAX));
    }
}

fn difference(
    old: &Outcome,
    new: &Outcome,
    old_reason: impl Fn(u16) -> String,
    new_reason: impl Fn(u16) -> String,
) -> Option<Difference> {
    let (old, new) = match (old, new) {
        (Ok(old), Ok(new)) => (old, new),
        (Ok(_), Err(_)) => return Some(Difference::Fails),
        (Err(_), Ok(_)) => return Some(Difference::Mends),
        (Err(_), Err(_)) => return None,
    };
    match (old.say, new.say) {
        // Codes are numbered anew in each version; names last.
        (Say::Drop { code: one }, Say::Drop { code: other }) => {
            if old_reason(one) != new_reason(other) {
                return Some(Difference::Reason);
            }
        }
        (one, other) if one == other => {}
        _ => return Some(Difference::Verdict),
    }
    let wants = |one: &Decision| {
        let (meters, counts) = (one.meters.clone(), one.counts.clone());
        let places = (one.group, one.flood_set);
        (one.orders.clone(), meters, counts, one.punt, places)
    };
    if wants(old) != wants(new) {
        return Some(Difference::Wants);
    }
    let life = |one: &Decision| (one.cacheable, one.hard_ms, one.idle_ms);
    if life(old) != life(new) {
        return Some(Difference::Life);
    }
    let reads = |decision: &Decision| (decision.mask, decision.read_dst_class);
    (reads(old) != reads(new)).then_some(Difference::Mask)
}

/// An answer in one line.
fn show(outcome: &Outcome, question: &Question, place: &Place) -> String {
    match outcome {
        Err(fault) => format!("fails: {fault}"),
        Ok(decision) => {
            let say = match decision.say {
                Say::Next => "pass".to_owned(),
                Say::Accept => "accept".to_owned(),
                Say::Drop { code } => format!("drop, {}", place.reason(code)),
            };
            let life = match (decision.cacheable, decision.hard_ms) {
                (false, _) => ", for this frame only".to_owned(),
                (true, Some(ms)) => format!(", for {ms} ms"),
                (true, None) => String::new(),
            };
            let read = flowtext::show_masked(&question.key, &decision.mask);
            format!("{say}{}{life} (read {read})", Told(&decision.orders))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_core::flow::FlowMask;

    #[test]
    fn the_gravest_difference_is_the_one_that_is_told() {
        let pass = Decision::of(Say::Next);
        let drop = |code| Decision::of(Say::Drop { code });
        let name = |code: u16| {
            if code == 1 {
                "telnet".to_owned()
            } else {
                format!("code {code}")
            }
        };
        // The new version numbers its reasons from 5 on.
        let other = |code: u16| name(code.saturating_sub(4));
        let narrow = Decision {
            mask: FlowMask::exact(),
            ..pass.clone()
        };
        let short = Decision {
            hard_ms: Some(9),
            ..narrow.clone()
        };
        let fault = || Err("trap".to_owned());
        for (old, new, kind) in [
            (Ok(pass.clone()), Ok(pass.clone()), None),
            (fault(), fault(), None),
            (Ok(pass.clone()), fault(), Some(Difference::Fails)),
            (fault(), Ok(pass.clone()), Some(Difference::Mends)),
            (Ok(pass.clone()), Ok(drop(5)), Some(Difference::Verdict)),
            (
                Ok(pass.clone()),
                Ok(Decision::of(Say::Accept)),
                Some(Difference::Verdict),
            ),
            (Ok(drop(1)), Ok(drop(5)), None),
            (Ok(drop(1)), Ok(drop(1)), Some(Difference::Reason)),
            (Ok(pass.clone()), Ok(short), Some(Difference::Life)),
            (Ok(pass.clone()), Ok(narrow), Some(Difference::Mask)),
        ] {
            assert_eq!(difference(&old, &new, name, other), kind, "{old:?} {new:?}");
        }
        let (mut mirrors, mut meters) = (pass.clone(), pass.clone());
        mirrors.orders.mirrors.insert(meshd_core::policy::Mirror {
            to: meshd_core::policy::MirrorPlace::Port(meshd_core::ident::PortId(1)),
            bytes: 0,
        });
        meters.meters.push(0);
        for wants in [mirrors, meters] {
            assert_eq!(
                difference(&Ok(pass.clone()), &Ok(wants), name, other),
                Some(Difference::Wants)
            );
        }
    }
}
