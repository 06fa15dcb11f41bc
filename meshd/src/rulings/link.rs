//! One plugin in one network's chain: its instance, its counters, and the breaker that keeps a broken one from being
//! asked again and again.
//!
//! ```text
//!   question --> rules of its controller: one fits? --yes--> its decision
//!                       | none                               mask: of all rules that were looked at, and of the policy
//!                       v
//!                    the policy
//!
//!   closed --5 faults in 10 s--> open for 10 s: answered by fail mode, not called --> closed
//!   trusted --a sample of its decisions does not hold--> quarantined: its answers hold for exactly equal frames only
//! ```

use super::breaker::{self, Breaker};
use super::checker::{Checker, Sample};
use super::groups::{Groups, Kept, Put};
use super::place::Place;
use super::shadow::Shadow;
use super::tolls::{Tallies, Tolls};
use crate::punts::PuntBox;
use meshd_core::code::ErrorCode;
use meshd_core::flow::FlowMask;
use meshd_core::ident::Label;
use meshd_core::node::Question;
use meshd_core::policy::Punt;
use meshd_core::steering::{SteerAnswer, SteerQuestion};
use meshd_plugin_host::{Decision, Digest, Facts, Fault, Instance, Looked, Rule, Rules, Say};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One decision of so many is examined, beginning with the first.
const SAMPLE: u64 = 256;
/// Times of decisions are counted by powers of two: below 128 ns, below 256 ns and so on up to a second and more.
pub(super) const TIMES: usize = 24;
/// See [`TIMES`].
const FIRST_TIME_LOG2: u32 = 7;

/// Codes of refusals that are counted one by one; what comes behind is counted together.
const CODES: usize = 64;

/// What came of the questions so far; survives a change of config and code.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) asked: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) ns: AtomicU64,
    pub(super) accepted: AtomicU64,
    /// Of `failed`, answered by the last good version.
    pub(super) fell_back: AtomicU64,
    /// Of `dropped`, by code; at most [`CODES`].
    pub(super) codes: Mutex<BTreeMap<u16, u64>>,
    /// Decisions that were examined.
    pub(super) examined: Arc<AtomicU64>,
    /// By [`Fault::KINDS`].
    pub(super) faults: [AtomicU64; Fault::KINDS.len()],
    /// Calls by how long they took.
    pub(super) times: [AtomicU64; TIMES],
    /// What frames are counted under in the data path.
    pub(super) tallies: Tallies,
}

impl Counters {
    /// Refusals by code, as far as they are counted one by one.
    pub(super) fn by_code(&self) -> BTreeMap<u16, u64> {
        let codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.clone()
    }

    fn fault(&self, fault: &Fault) {
        if let Some(faults) = self.faults.get(fault.kind()) {
            faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn refused(&self, code: u16) {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if codes.len() < CODES || codes.contains_key(&code) {
            *codes.entry(code).or_default() += 1;
        }
    }
}

/// The bucket of [`Counters::times`] for a call.
fn bucket(ns: u64) -> usize {
    let bits = u64::BITS - ns.leading_zeros();
    (bits.saturating_sub(FIRST_TIME_LOG2) as usize).min(TIMES - 1)
}

/// Calls in this bucket took less, in ns; the last bucket has no end.
pub(super) fn below(bucket: usize) -> Option<u64> {
    let bits = u32::try_from(bucket).unwrap_or(u32::MAX);
    (bucket + 1 < TIMES).then(|| 1 << (bits + FIRST_TIME_LOG2))
}

/// What of an attachment lasts as long as it does, whatever becomes of its config and code.
#[derive(Clone)]
pub(super) struct Lasting {
    /// Its number, and where frames for its controller go.
    pub(super) punts: Arc<PuntBox>,
    /// Groups and flood sets that were put at run time.
    pub(super) put: Arc<Put>,
}

/// An attachment at work.
pub(crate) struct Link {
    name: Label,
    place: Place,
    counters: Arc<Counters>,
    lasting: Lasting,
    tolls: Tolls,
    groups: Groups,
    seat: Mutex<Seat>,
    checker: Option<Checker>,
    /// A version that is asked the same, to see what it would say.
    shadow: Mutex<Option<Arc<Shadow>>>,
    /// A sample is with the checker: one at a time, so that a slow plugin keeps no other from being examined.
    in_check: Arc<AtomicBool>,
}

/// Another version that answers where the plugin fails.
pub(super) struct Spare {
    pub(super) digest: Digest,
    pub(super) instance: Instance,
    /// Of its own config.
    pub(super) tolls: Tolls,
    /// The same.
    pub(super) groups: Groups,
}

struct Seat {
    /// Or why there is none.
    instance: Result<Instance, String>,
    breaker: Breaker,
    last_fault: Option<String>,
    decisions: u64,
    /// Why its masks are not believed, if so.
    quarantine: Option<String>,
    spare: Option<Spare>,
    spare_breaker: Breaker,
    /// What its controller wrote; asked before the instance.
    rules: Rules,
}

impl Link {
    pub(super) fn new(
        name: Label,
        place: Place,
        instance: Result<Instance, String>,
        counters: Arc<Counters>,
        lasting: Lasting,
    ) -> Self {
        Self {
            name,
            place,
            counters,
            lasting,
            tolls: Tolls::default(),
            groups: Groups::default(),
            seat: Mutex::new(Seat {
                instance,
                breaker: Breaker::default(),
                last_fault: None,
                decisions: 0,
                quarantine: None,
                spare: None,
                spare_breaker: Breaker::default(),
                rules: Rules::default(),
            }),
            checker: None,
            shadow: Mutex::default(),
            in_check: Arc::default(),
        }
    }

    /// With the meters of its config.
    pub(super) fn with_tolls(self, tolls: Tolls) -> Self {
        Self { tolls, ..self }
    }

    /// With the groups and flood sets of its config.
    pub(super) fn with_groups(self, groups: Groups) -> Self {
        Self { groups, ..self }
    }

    /// The meters of its config.
    pub(super) fn tolls(&self) -> &Tolls {
        &self.tolls
    }

    /// With a version that answers where this one fails.
    pub(super) fn with_spare(self, spare: Option<Spare>) -> Self {
        self.seat().spare = spare;
        self
    }

    /// With somebody who examines a sample of its decisions.
    pub(super) fn with_checker(self, checker: Option<Checker>) -> Self {
        Self { checker, ..self }
    }

    /// Its masks are not believed from now on, or never were.
    pub(super) fn quarantine(&self, reason: Option<String>) {
        self.seat().quarantine = reason;
    }

    /// Why its masks are not believed, if so.
    pub(super) fn quarantined(&self) -> Option<String> {
        self.seat().quarantine.clone()
    }

    /// Is `mark` of a sample of this very link, and not of one before it?
    pub(super) fn is_mark(&self, mark: &Arc<AtomicBool>) -> bool {
        Arc::ptr_eq(&self.in_check, mark)
    }

    /// Which version would answer if it failed.
    pub(super) fn spare(&self) -> Option<Digest> {
        self.seat().spare.as_ref().map(|spare| spare.digest)
    }

    /// From now on this one is asked the same; `None`: nobody is. Returns who was.
    pub(super) fn set_shadow(&self, shadow: Option<Shadow>) -> Option<Arc<Shadow>> {
        let mut seat = self.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *seat, shadow.map(Arc::new))
    }

    /// Who is asked the same, if anybody is.
    pub(super) fn shadow(&self) -> Option<Arc<Shadow>> {
        let seat = self.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        seat.clone()
    }

    /// Could this link carry the rule out, by its place, its meters and its groups, and those that are `put`?
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admits(&self, rule: &Rule, put: &Kept) -> Result<(), Fault> {
        let decision = self.place.allows(Ok(rule.decision().clone()))?;
        let decision = self.tolls.impose(&self.counters.tallies, decision)?;
        self.groups.resolve(put, decision).map(drop)
    }

    /// An instance like the one in use, that nobody asks.
    pub(crate) fn sibling(&self) -> Option<Instance> {
        self.seat().instance.as_ref().ok().map(Instance::sibling)
    }

    /// What a controller wrote holds from now on, with `instance` in place of the one in use, which is given back. Frames
    /// wait for the exchange and for nothing else.
    pub(crate) fn publish(
        &self,
        instance: Option<Instance>,
        facts: &Facts,
        rules: &Rules,
    ) -> Option<Instance> {
        if let Some(shadow) = self.shadow() {
            shadow.set_facts(facts.clone());
        }
        let mut seat = self.seat();
        seat.rules = rules.clone();
        if let Some(spare) = &mut seat.spare {
            spare.instance.set_facts(facts.clone());
        }
        match (&mut seat.instance, instance) {
            (Ok(old), Some(new)) => Some(std::mem::replace(old, new)),
            _ => None,
        }
    }

    /// What the last good version says, if there is one and it works.
    pub(super) fn fall_back(
        &self,
        question: &Question,
        now: Instant,
    ) -> Option<(Digest, Place, Decision)> {
        let mut seat = self.seat();
        let Seat {
            spare,
            spare_breaker,
            ..
        } = &mut *seat;
        let spare = spare.as_mut().filter(|_| !spare_breaker.is_open(now))?;
        let decided = self.place.allows(spare.instance.decide(question));
        let decided =
            decided.and_then(|decision| self.finish(&spare.tolls, &spare.groups, decision));
        match decided {
            Ok(decision) => {
                self.counters.fell_back.fetch_add(1, Ordering::Relaxed);
                // Its codes are its own version's.
                let manifest = spare.instance.plugin().manifest().cloned();
                Some((spare.digest, self.place.with_manifest(manifest), decision))
            }
            Err(fault) => {
                tracing::warn!(code = %ErrorCode::PluginFailed, plugin = %self.name, vni = %question.vni, %fault, "the last good version failed too");
                spare_breaker.fault(now);
                None
            }
        }
    }

    pub(crate) fn name(&self) -> &Label {
        &self.name
    }

    /// Where it stands, and what is known of it.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Its number, and where frames for its controller go.
    pub(crate) fn punts(&self) -> &Arc<PuntBox> {
        &self.lasting.punts
    }

    /// Groups and flood sets that its controller made.
    pub(crate) fn put(&self) -> &Put {
        &self.lasting.put
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Why it does not answer by its own mind at the moment, if so.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let seat = self.seat();
        match &seat.instance {
            Err(reason) => Some(reason.clone()),
            Ok(_) if seat.breaker.is_open(now) => Some(format!(
                "{} (last: {})",
                breaker::paused(),
                seat.last_fault.as_deref().unwrap_or("unknown")
            )),
            Ok(_) => None,
        }
    }

    /// How it failed last, if ever.
    pub(super) fn last_fault(&self) -> Option<String> {
        self.seat().last_fault.clone()
    }

    /// What the plugin decides, or why it does not.
    pub(super) fn ask(&self, question: &Question, now: Instant) -> Result<Decision, String> {
        let mut seat = self.seat();
        let Seat {
            instance,
            breaker,
            last_fault,
            decisions,
            quarantine,
            rules,
            ..
        } = &mut *seat;
        let looked = rules.look(question);
        let add = |counter: &AtomicU64, n| counter.fetch_add(n, Ordering::Relaxed);
        add(&self.counters.asked, 1);
        let outcome = match instance {
            _ if looked.decision.is_some() => self.ruled(&looked),
            Err(reason) => Err(reason.clone()),
            Ok(_) if breaker.is_open(now) => Err(breaker::paused()),
            Ok(instance) => {
                let started = Instant::now();
                let mut decided = instance.decide(question);
                if let Err(fault) = &decided
                    && breaker.pardons(fault, now)
                {
                    self.counters.fault(fault);
                    tracing::debug!(plugin = %self.name, vni = %question.vni, "a policy plugin did not return in time; it is asked once more");
                    *last_fault = Some(format!("{fault}; it was asked once more"));
                    decided = instance.decide(question);
                }
                let outcome = self.place.allows(decided);
                let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
                if let Some(shadow) = self.shadow() {
                    shadow.offer(
                        question,
                        &outcome.as_ref().map_err(ToString::to_string).cloned(),
                    );
                }
                add(&self.counters.ns, ns);
                if let Some(times) = self.counters.times.get(bucket(ns)) {
                    add(times, 1);
                }
                outcome.and_then(|decision| {
                    *decisions += 1;
                    // As the plugin made it: its meters and counters are ours.
                    if quarantine.is_none() && *decisions % SAMPLE == 1 && decision.cacheable {
                        self.sample(instance, question, &decision);
                    }
                    let decision = self.finish(&self.tolls, &self.groups, decision)?;
                    Ok(believed(decision, &looked, quarantine.is_some()))
                }).map_err(|fault| {
                    let text = fault.to_string();
                    self.counters.fault(&fault);
                    // The breaker bounds how often this is said.
                    tracing::warn!(code = %ErrorCode::PluginFailed, plugin = %self.name, vni = %question.vni, fault = %text, "a policy plugin failed");
                    *last_fault = Some(text.clone());
                    if breaker.fault(now) {
                        tracing::warn!(code = %ErrorCode::PluginFailed, plugin = %self.name, vni = %question.vni, "the plugin is not asked for {} s; its fail mode answers", breaker::PAUSE.as_secs());
                    }
                    text
                })
            }
        };
        match &outcome {
            Ok(Decision {
                say: Say::Drop { code },
                ..
            }) => {
                self.counters.refused(*code);
                add(&self.counters.dropped, 1)
            }
            Ok(Decision {
                say: Say::Accept, ..
            }) => add(&self.counters.accepted, 1),
            Ok(_) => 0,
            Err(_) => add(&self.counters.failed, 1),
        };
        outcome
    }

    /// The ways that the plugin chooses; `None`: it failed, or is not asked at the moment.
    pub(super) fn choose(&self, question: &SteerQuestion, now: Instant) -> Option<SteerAnswer> {
        let mut seat = self.seat();
        let Seat {
            instance,
            breaker,
            last_fault,
            ..
        } = &mut *seat;
        let add = |counter: &AtomicU64, n| counter.fetch_add(n, Ordering::Relaxed);
        add(&self.counters.asked, 1);
        let instance = instance.as_mut().ok().filter(|_| !breaker.is_open(now));
        let Some(instance) = instance else {
            add(&self.counters.failed, 1);
            return None;
        };
        let started = Instant::now();
        let chosen = instance.choose(question);
        let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        add(&self.counters.ns, ns);
        if let Some(times) = self.counters.times.get(bucket(ns)) {
            add(times, 1);
        }
        match chosen {
            Ok(answer) => Some(answer),
            Err(fault) => {
                let text = fault.to_string();
                add(&self.counters.failed, 1);
                self.counters.fault(&fault);
                tracing::warn!(code = %ErrorCode::PluginFailed, plugin = %self.name, vni = %question.key.vni, fault = %text, "a steering plugin failed; the choice that holds goes on to hold");
                *last_fault = Some(text);
                if breaker.fault(now) {
                    tracing::warn!(code = %ErrorCode::PluginFailed, plugin = %self.name, vni = %question.key.vni, "the plugin is not asked for {} s", breaker::PAUSE.as_secs());
                }
                None
            }
        }
    }

    /// The plugin's own numbers become what the data path has.
    fn finish(
        &self,
        tolls: &Tolls,
        groups: &Groups,
        decision: Decision,
    ) -> Result<Decision, Fault> {
        let decision = tolls.impose(&self.counters.tallies, decision)?;
        let names = decision.group.is_some() || decision.flood_set.is_some();
        let mut decision = match names {
            true => groups.resolve(&self.lasting.put.kept(), decision)?,
            false => decision,
        };
        let to = self.lasting.punts.id();
        let punt = decision.punt.map(|bytes| Punt { to, bytes });
        decision.orders.punts.extend(punt);
        Ok(decision)
    }

    /// A rule answers. What it says was found right when it was written, and its meters with it.
    fn ruled(&self, looked: &Looked) -> Result<Decision, String> {
        let decision = looked.decision.clone().ok_or_else(breaker::paused)?;
        let finished = self.finish(&self.tolls, &self.groups, decision);
        finished.map_err(|fault| fault.to_string())
    }

    /// What it would decide, without a trace of the question in it: for `meshd trace`. What is asked for people must not trip
    /// the breaker, nor be counted.
    pub(super) fn look(&self, question: &Question, now: Instant) -> Result<Decision, String> {
        let seat = self.seat();
        let quarantined = seat.quarantine.is_some();
        let looked = seat.rules.look(question);
        if looked.decision.is_some() {
            return self.ruled(&looked);
        }
        let mut instance = match &seat.instance {
            Err(reason) => return Err(reason.clone()),
            Ok(_) if seat.breaker.is_open(now) => return Err(breaker::paused()),
            Ok(instance) => instance.sibling(),
        };
        std::mem::drop(seat);
        let decided = self.place.allows(instance.decide(question));
        let decided = decided.and_then(|decision| self.finish(&self.tolls, &self.groups, decision));
        let decision = decided.map_err(|fault| fault.to_string())?;
        Ok(believed(decision, &looked, quarantined))
    }

    /// The same of the last good version.
    pub(super) fn look_back(
        &self,
        question: &Question,
        now: Instant,
    ) -> Option<(Digest, Place, Decision)> {
        let seat = self.seat();
        let spare = seat.spare.as_ref();
        let spare = spare.filter(|_| !seat.spare_breaker.is_open(now))?;
        let (digest, tolls, groups) = (spare.digest, spare.tolls.clone(), spare.groups.clone());
        let mut instance = spare.instance.sibling();
        std::mem::drop(seat);
        let decided = self.place.allows(instance.decide(question)).ok()?;
        let decision = self.finish(&tolls, &groups, decided).ok()?;
        let manifest = instance.plugin().manifest().cloned();
        Some((digest, self.place.with_manifest(manifest), decision))
    }

    fn sample(&self, instance: &Instance, question: &Question, decision: &Decision) {
        let Some(checker) = &self.checker else {
            return;
        };
        if self.in_check.swap(true, Ordering::AcqRel) {
            return;
        }
        checker.offer(Sample {
            name: self.name.clone(),
            mark: Arc::clone(&self.in_check),
            examined: Arc::clone(&self.counters.examined),
            instance: instance.sibling(),
            question: question.clone(),
            decision: decision.clone(),
        });
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        // A panic inside leaves an instance that replaces itself.
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a decision rests on: the rules that were looked at before the plugin, and what it read; where its masks are not
/// believed, the very frame.
fn believed(decision: Decision, looked: &Looked, quarantined: bool) -> Decision {
    let (mask, read_dst_class) = if quarantined {
        (FlowMask::exact(), true)
    } else {
        (
            decision.mask.union(&looked.mask),
            decision.read_dst_class | looked.read_dst_class,
        )
    };
    Decision {
        mask,
        read_dst_class,
        ..decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_where_the_bound_of_its_bucket_says() {
        for ns in [0, 1, 127, 128, 129, 700, 1 << 20, u64::MAX] {
            let at = bucket(ns);
            assert!(below(at).is_none_or(|end| ns < end), "{ns}");
            assert!(
                at == 0 || below(at - 1).is_some_and(|end| ns >= end),
                "{ns}"
            );
        }
        assert_eq!((below(0), below(TIMES - 1)), (Some(128), None));
    }
}
