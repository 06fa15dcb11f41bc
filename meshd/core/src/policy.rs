//! Policy: what the plugin chain said, kept as megaflows, and the questions that are on their way to it.
//!
//! ```text
//!   question -> answers kept? --yes--> answer
//!                  | no
//!                  v
//!            in flight already? join it : Output::Ask ... answer | 2 s pass -> everybody who waits goes on
//! ```
//!
//! Owns the answers and who waits for which question. Refuses to know frames: a waiter is a number of the switch. An answer
//! holds until the chain changes; a topology change asks nothing again, since a question has no topology in it but the
//! destination class, which is kept with an answer that read it.

use crate::flow::{FlowMask, KeyWords};
use crate::ident::{AttachmentId, Epoch, Moment, NodeId, PortId, QueryId, Vni};
use crate::node::{Direction, DstClass, Output, Question};
use crate::outbox::Outbox;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

mod answer;

pub use answer::{
    Answer, FloodSet, Known, Mirror, MirrorPlace, NamedPath, Orders, Part, PathLost, Punt,
    Redirect, Verdict,
};

/// How long an answer is waited for, in ms.
pub const ANSWER_MS_MAX: u64 = 2000;

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyLimits {
    /// Answers kept for one port, direction and peer.
    pub answers_per_scope: usize,
    /// Different masks among them.
    pub masks_per_scope: usize,
    /// Scopes with answers.
    pub scopes: usize,
    /// Questions on their way.
    pub questions: usize,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self {
            answers_per_scope: 1024,
            masks_per_scope: 16,
            scopes: 4096,
            questions: 1024,
        }
    }
}

/// What an answer always depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Scope {
    vni: Vni,
    direction: Direction,
    port: PortId,
    peer: Option<NodeId>,
}

impl Scope {
    fn of(question: &Question) -> Self {
        let &Question {
            vni,
            direction,
            port,
            peer,
            ..
        } = question;
        Self {
            vni,
            direction,
            port,
            peer,
        }
    }
}

/// Answers of one scope with one mask.
#[derive(Debug)]
struct Kept {
    mask: FlowMask,
    words: KeyWords,
    /// By masked key, and destination class if that was read.
    answers: HashMap<Asked, (Arc<Answer>, Until), FixedState>,
}

/// What of a question an answer holds for.
type Asked = (KeyWords, Option<DstClass>);

/// Until when an answer holds, as far as it says so.
#[derive(Clone, Copy, Debug)]
struct Until {
    hard: Option<Moment>,
    /// If no frame came since it was given.
    idle: Option<Moment>,
}

/// What tells a question from others.
fn by_question(question: &Question) -> (Scope, KeyWords, DstClass) {
    let key = KeyWords::of(&question.key);
    (Scope::of(question), key, question.dst_class)
}

/// A question on its way, and who waits for it.
#[derive(Debug)]
struct Flight {
    question: Question,
    epoch: Epoch,
    deadline: Moment,
    waiters: Vec<u64>,
}

/// Chains, answers and questions of all networks.
#[derive(Debug)]
pub struct Policy {
    limits: PolicyLimits,
    chains: BTreeMap<Vni, u32>,
    kept: BTreeMap<Scope, Vec<Kept>>,
    /// Boxed, since trees move what they hold.
    flights: BTreeMap<QueryId, Box<Flight>>,
    flights_by_question: HashMap<(Scope, KeyWords, DstClass), QueryId, FixedState>,
    next_query: QueryId,
    hasher: FixedState,
}

impl Policy {
    /// No chain anywhere. `seed` makes its hashes unknown to senders.
    #[must_use]
    pub fn new(limits: PolicyLimits, seed: u64) -> Self {
        Self {
            limits,
            chains: BTreeMap::new(),
            kept: BTreeMap::new(),
            flights: BTreeMap::new(),
            flights_by_question: HashMap::with_hasher(FixedState::with_seed(seed)),
            hasher: FixedState::with_seed(seed),
            next_query: QueryId(0),
        }
    }

    /// True if the network has plugins to ask.
    #[must_use]
    pub fn has_chain(&self, vni: Vni) -> bool {
        self.chains.contains_key(&vni)
    }

    /// The chain of `vni` changed, in code, config or length (0: none). All its answers are void; those who wait for
    /// one must ask again and are returned.
    pub fn set_chain(&mut self, vni: Vni, plugins: u32) -> Vec<u64> {
        if plugins == 0 {
            self.chains.remove(&vni);
        } else {
            self.chains.insert(vni, plugins);
        }
        self.forget(|scope| scope.vni == vni)
    }

    /// What `of` has a part in is void, as far as it has this tag there; `None`: all of it. So is each question about the network
    /// that is on its way, since its answer may be of before; those who wait for one must ask again and are returned.
    pub fn invalidate(&mut self, vni: Vni, of: AttachmentId, tag: Option<u32>) -> Vec<u64> {
        let void = |answer: &Answer| {
            let mut parts = answer.parts.iter().filter(|part| part.of == of);
            parts.any(|part| tag.is_none_or(|tag| part.tags.contains(&tag)))
        };
        for (_, kept) in self.kept.iter_mut().filter(|(scope, _)| scope.vni == vni) {
            for kept in kept.iter_mut() {
                kept.answers.retain(|_, (answer, _)| !void(answer));
            }
            kept.retain(|kept| !kept.answers.is_empty());
        }
        self.kept.retain(|_, kept| !kept.is_empty());
        self.recall(|scope| scope.vni == vni)
    }

    /// The port is gone, and what was said about it. Returns those who wait for an answer about it.
    pub fn remove_port(&mut self, port: PortId) -> Vec<u64> {
        self.forget(|scope| scope.port == port)
    }

    /// This way died: answers that named it and want to be given anew then are void.
    pub fn forget_path(&mut self, peer: u64, way: u32) {
        let lost = PathLost::AskAgain;
        let named = Some(Redirect::Path(NamedPath { peer, way, lost }));
        for kept in self.kept.values_mut().flatten() {
            kept.answers
                .retain(|_, (answer, _)| answer.orders.redirect != named);
        }
    }

    fn forget(&mut self, void: impl Fn(&Scope) -> bool) -> Vec<u64> {
        self.kept.retain(|scope, _| !void(scope));
        self.recall(void)
    }

    /// Each question about this network is on its way in vain; those who wait for one must ask again and are returned.
    pub fn recall_all(&mut self, vni: Vni) -> Vec<u64> {
        self.recall(|scope| scope.vni == vni)
    }

    /// Forgets questions on their way; who waits for them is returned.
    fn recall(&mut self, void: impl Fn(&Scope) -> bool) -> Vec<u64> {
        let gone: Vec<QueryId> = self
            .flights
            .iter()
            .filter(|(_, f)| void(&Scope::of(&f.question)))
            .map(|(&q, _)| q)
            .collect();
        gone.into_iter()
            .filter_map(|query| self.land(query))
            .flat_map(|f| f.waiters)
            .collect()
    }

    /// What the chain said to such a question, if that is known and still holds, and for how long from now.
    #[must_use]
    pub fn look(&self, question: &Question, now: Moment) -> Option<Known> {
        let kept = self.kept.get(&Scope::of(question))?;
        let words = KeyWords::of(&question.key);
        kept.iter().find_map(|kept| {
            let key = words.and(&kept.words);
            let of = |class| kept.answers.get(&(key, class));
            let (answer, until) = of(None).or_else(|| of(Some(question.dst_class)))?;
            let mut known = Known::from(Arc::clone(answer));
            if let Some(until) = until.hard {
                let left = until.ms_since(now);
                if left == 0 {
                    return None;
                }
                known.hard_ms = Some(u32::try_from(left).unwrap_or(u32::MAX));
            }
            // A lane that had a frame since then has a ruling and does not ask.
            if until.idle.is_some_and(|until| until <= now) {
                return None;
            }
            Some(known)
        })
    }

    /// Asks, or joins one who asked the same. False if too many questions are on their way.
    pub fn ask(
        &mut self,
        question: Question,
        waiter: u64,
        epoch: Epoch,
        now: Moment,
        out: &mut Outbox,
    ) -> bool {
        let by = by_question(&question);
        if let Some(flight) = self
            .flights_by_question
            .get(&by)
            .and_then(|query| self.flights.get_mut(query))
        {
            flight.waiters.push(waiter);
            return true;
        }
        if self.flights.len() >= self.limits.questions {
            return false;
        }
        let query = self.next_query;
        self.next_query = QueryId(query.0.wrapping_add(1));
        out.push(Output::Ask {
            query,
            epoch,
            question: question.clone(),
        });
        self.flights_by_question.insert(by, query);
        self.flights.insert(
            query,
            Box::new(Flight {
                question,
                epoch,
                deadline: now.plus_ms(ANSWER_MS_MAX),
                waiters: vec![waiter],
            }),
        );
        true
    }

    /// The chain answered: keeps the answer if it may, and returns the question, the answer with its mask made whole, and
    /// who waits for it. `None` if nobody asked, or not any more.
    pub fn answer(
        &mut self,
        query: QueryId,
        epoch: Epoch,
        mut answer: Arc<Answer>,
        now: Moment,
    ) -> Option<(Question, Arc<Answer>, Vec<u64>)> {
        if self.flights.get(&query)?.epoch != epoch {
            return None;
        }
        let Flight {
            question, waiters, ..
        } = *self.land(query)?;
        let mask = answer.mask.with_prerequisites();
        if mask != answer.mask {
            // Nobody else has it yet, so nothing is copied.
            Arc::make_mut(&mut answer).mask = mask;
        }
        // What failed is asked again as soon as the ruling made of it has run out.
        if answer.cacheable && answer.verdict != Verdict::Failed {
            self.keep(&question, &answer, now);
        }
        Some((question, answer, waiters))
    }

    /// Those who waited for too long, with what they asked.
    pub fn time_out(&mut self, now: Moment) -> Vec<(Question, Vec<u64>)> {
        let late: Vec<QueryId> = self
            .flights
            .iter()
            .take_while(|(_, f)| f.deadline <= now)
            .map(|(&query, _)| query)
            .collect();
        late.into_iter()
            .filter_map(|query| self.land(query))
            .map(|f| (f.question, f.waiters))
            .collect()
    }

    /// When the first question is late. All wait equally long and are numbered in order.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.flights.first_key_value().map(|(_, f)| f.deadline)
    }

    fn land(&mut self, query: QueryId) -> Option<Box<Flight>> {
        let flight = self.flights.remove(&query)?;
        self.flights_by_question
            .remove(&by_question(&flight.question));
        Some(flight)
    }

    fn keep(&mut self, question: &Question, answer: &Arc<Answer>, now: Moment) {
        let scope = Scope::of(question);
        // What is full starts anew: answers can be asked for again, and lanes keep the rulings that were made of them.
        if !self.kept.contains_key(&scope) && self.kept.len() >= self.limits.scopes {
            self.kept.pop_first();
        }
        let kept = self.kept.entry(scope).or_default();
        let held: usize = kept.iter().map(|kept| kept.answers.len()).sum();
        if held >= self.limits.answers_per_scope {
            kept.clear();
        }
        let at = match kept.iter().position(|kept| kept.mask == answer.mask) {
            Some(at) => at,
            None => {
                if kept.len() >= self.limits.masks_per_scope {
                    kept.clear();
                }
                kept.push(Kept {
                    mask: answer.mask,
                    words: KeyWords::of_mask(&answer.mask),
                    answers: HashMap::with_hasher(self.hasher.clone()),
                });
                kept.len() - 1
            }
        };
        if let Some(kept) = kept.get_mut(at) {
            let class = answer.read_dst_class.then_some(question.dst_class);
            let behind = |ms: u32| now.plus_ms(u64::from(ms));
            let until = Until {
                hard: answer.hard_ms.map(behind),
                idle: answer.idle_ms.map(behind),
            };
            let key = KeyWords::of(&question.key).and(&kept.words);
            kept.answers
                .insert((key, class), (Arc::clone(answer), until));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dues::Dues;
    use crate::edit::Edit;
    use crate::flow::Fields;
    use crate::flow::FlowKey;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn question(dst_port: u16) -> Question {
        let vni = Vni::new(7).unwrap();
        let key = FlowKey {
            ether_type: 0x0800,
            ip_proto: 6,
            l4_ok: true,
            dst_port,
            ..FlowKey::blank(vni)
        };
        Question {
            vni,
            direction: Direction::Ingress,
            port: PortId(1),
            peer: None,
            key,
            dst_class: DstClass::UnicastKnown,
        }
    }

    fn answer(dst_port_bits: u16) -> Answer {
        let mask = FlowMask {
            dst_port: dst_port_bits,
            ..FlowMask::default()
        };
        Answer {
            mask,
            ..Answer::of(Verdict::Pass)
        }
    }

    fn asked(out: &mut Outbox) -> Vec<QueryId> {
        std::iter::from_fn(|| out.pop())
            .filter_map(|o| {
                if let Output::Ask { query, .. } = o {
                    Some(query)
                } else {
                    None
                }
            })
            .collect()
    }

    #[test]
    fn an_answer_that_ends_without_frames_is_not_kept_longer_than_that() {
        let mut policy = Policy::new(PolicyLimits::default(), 7);
        let said = Answer {
            idle_ms: Some(200),
            hard_ms: Some(10_000),
            ..answer(0xffff)
        };
        let ms = |ms| Moment(0).plus_ms(ms);
        policy.keep(&question(80), &Arc::new(said), ms(1000));
        let at = |now| policy.look(&question(80), ms(now));
        let kept = at(1199).unwrap();
        assert_eq!((kept.answer.idle_ms, kept.hard_ms), (Some(200), Some(9801)));
        assert_eq!(at(1200), None);
    }

    #[test]
    fn one_question_is_asked_once_and_answers_everybody_and_all_that_it_did_not_tell_apart() {
        let (mut policy, mut out, epoch) = (
            Policy::new(PolicyLimits::default(), 7),
            Outbox::default(),
            Epoch(3),
        );
        assert!(policy.ask(question(80), 10, epoch, Moment(0), &mut out));
        assert!(policy.ask(question(80), 11, epoch, Moment(0), &mut out));
        let queries = asked(&mut out);
        assert_eq!(queries.len(), 1);
        let (_, said, waiters) = policy
            .answer(queries[0], epoch, answer(0xfff0).into(), Moment(0))
            .unwrap();
        assert_eq!(waiters, [10, 11]);
        assert!(
            said.mask.fields.has(Fields::IP_PROTO.with(Fields::L4_OK)),
            "a mask is made whole"
        );
        assert!(policy.look(&question(81), Moment(0)).is_some());
        assert!(policy.look(&question(96), Moment(0)).is_none());
        let elsewhere = Question {
            port: PortId(2),
            ..question(80)
        };
        assert!(policy.look(&elsewhere, Moment(0)).is_none());
    }

    #[test]
    fn a_changed_chain_voids_answers_and_sends_those_who_wait_to_ask_again() {
        let (mut policy, mut out, epoch) = (
            Policy::new(PolicyLimits::default(), 7),
            Outbox::default(),
            Epoch(3),
        );
        policy.ask(question(80), 1, epoch, Moment(0), &mut out);
        policy.ask(question(81), 2, epoch, Moment(0), &mut out);
        let queries = asked(&mut out);
        policy
            .answer(queries[0], epoch, answer(0xffff).into(), Moment(0))
            .unwrap();
        assert_eq!(policy.set_chain(question(80).vni, 2), [2]);
        assert!(policy.look(&question(80), Moment(0)).is_none());
        assert!(
            policy
                .answer(queries[1], epoch, answer(0xffff).into(), Moment(0))
                .is_none(),
            "an answer of the old chain came home late"
        );
    }

    #[test]
    fn a_question_without_answer_ends_after_two_seconds() {
        let (mut policy, mut out) = (Policy::new(PolicyLimits::default(), 7), Outbox::default());
        policy.ask(question(80), 1, Epoch(0), Moment(0), &mut out);
        assert_eq!(policy.poll_timeout(), Some(Moment(0).plus_ms(2000)));
        assert!(policy.time_out(Moment(0).plus_ms(1999)).is_empty());
        assert_eq!(
            policy.time_out(Moment(0).plus_ms(2000)),
            [(question(80), vec![1])]
        );
        assert_eq!(policy.poll_timeout(), None);
    }

    #[test]
    fn an_answer_that_must_not_be_kept_or_that_read_the_class_is_not_given_to_others() {
        let (mut policy, mut out) = (Policy::new(PolicyLimits::default(), 7), Outbox::default());
        policy.ask(question(80), 1, Epoch(0), Moment(0), &mut out);
        policy
            .answer(
                asked(&mut out)[0],
                Epoch(0),
                Answer {
                    cacheable: false,
                    ..answer(0)
                }
                .into(),
                Moment(0),
            )
            .unwrap();
        assert!(policy.look(&question(80), Moment(0)).is_none());
        policy.ask(question(80), 1, Epoch(0), Moment(0), &mut out);
        policy
            .answer(
                asked(&mut out)[0],
                Epoch(0),
                Answer {
                    read_dst_class: true,
                    ..answer(0)
                }
                .into(),
                Moment(0),
            )
            .unwrap();
        assert!(policy.look(&question(81), Moment(0)).is_some());
        assert!(
            policy
                .look(
                    &Question {
                        dst_class: DstClass::Broadcast,
                        ..question(81)
                    },
                    Moment(0)
                )
                .is_none()
        );
    }

    #[test]
    fn an_answer_with_an_end_is_kept_until_then_and_says_how_long_it_still_holds() {
        let (mut policy, mut out) = (Policy::new(PolicyLimits::default(), 7), Outbox::default());
        policy.ask(question(80), 1, Epoch(0), Moment(0), &mut out);
        let ends = Answer {
            hard_ms: Some(500),
            ..answer(0xffff)
        };
        let start = Moment(0).plus_ms(100);
        let query = asked(&mut out)[0];
        policy.answer(query, Epoch(0), ends.into(), start).unwrap();
        let at = |ms| policy.look(&question(80), Moment(0).plus_ms(ms));
        assert_eq!(at(200).unwrap().hard_ms, Some(400));
        assert_eq!(at(599).unwrap().hard_ms, Some(1));
        assert_eq!(at(600), None);
    }

    #[test]
    fn orders_of_a_chain_are_composed_the_first_redirect_common_receivers_all_mirrors_the_shortest_memory()
     {
        let ports = |list: &[u32]| list.iter().map(|&n| PortId(n)).collect::<BTreeSet<_>>();
        let mirrors = |list: &[u32]| {
            let mirror = |port: &u32| Mirror {
                to: MirrorPlace::Port(PortId(*port)),
                bytes: 0,
            };
            list.iter().map(mirror).collect::<BTreeSet<_>>()
        };
        let orders = |port, flood: &[u32], copies: &[u32]| Orders {
            reject: false,
            redirect: Some(Redirect::Port(PortId(port))),
            group: None,
            flood: Some(FloodSet {
                ports: ports(flood),
                peers: BTreeSet::new(),
            }),
            mirrors: mirrors(copies),
            edits: vec![Edit::SetPcp(u8::try_from(port).unwrap())],
            commit: port == 2,
            ct_mark: Some(port),
            punts: Vec::new(),
            learn_ms: Some(1000 * port),
            dues: Dues::default(),
        };
        let mut all = Orders::default();
        all.compose(&Orders::default());
        assert_eq!(all, Orders::default());
        all.compose(&orders(1, &[1, 2, 3], &[7]));
        all.compose(&orders(2, &[2, 3, 4], &[8]));
        assert_eq!(all.edits, [Edit::SetPcp(1), Edit::SetPcp(2)]);
        assert!(all.commit);
        assert_eq!(all.ct_mark, Some(2));
        all.edits.pop();
        (all.commit, all.ct_mark) = (false, Some(1));
        assert_eq!(all, orders(1, &[2, 3], &[7, 8]));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A question about a destination port; answered at once, or later.
        Ask(u16, bool),
        /// The oldest open question is answered, as things are by now.
        Answer,
        /// The plugin's mind about the ports with this tag changes, and so it says.
        Change(u32),
        /// About all.
        ChangeAll,
        /// Another plugin's.
        Other(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u16..32, any::<bool>()).prop_map(|(port, now)| Step::Ask(port, now)),
            3 => Just(Step::Answer),
            2 => (0u32..4).prop_map(Step::Change),
            1 => Just(Step::ChangeAll),
            1 => (0u32..4).prop_map(Step::Other),
        ]
    }

    proptest! {
        /// One plugin whose mind about each tag is a number that grows; each answer says which it was of, and was made when
        /// the question was asked.
        #[test]
        fn no_answer_is_obeyed_that_was_made_before_its_tag_was_taken_back(steps in proptest::collection::vec(step(), 1..200)) {
            let (us, them) = (AttachmentId(1), AttachmentId(2));
            let (mut policy, mut out) = (Policy::new(PolicyLimits::default(), 7), Outbox::default());
            let mut minds = [0u32; 4];
            let mut open: Vec<(QueryId, Answer)> = Vec::new();
            let made = |port: u16, minds: &[u32; 4]| Answer {
                parts: vec![
                    Part { of: us, tags: vec![u32::from(port % 4)] },
                    Part { of: them, tags: Vec::new() },
                ],
                why: minds[usize::from(port % 4)].to_string(),
                ..answer(3 | port & 0x1c)
            };
            let vni = question(0).vni;
            for step in steps {
                let before: usize = policy.kept.values().flatten().map(|kept| kept.answers.len()).sum();
                match step {
                    Step::Ask(port, at_once) => {
                        if policy.look(&question(port), Moment(0)).is_none() {
                            policy.ask(question(port), 0, Epoch(0), Moment(0), &mut out);
                            open.extend(asked(&mut out).into_iter().map(|query| (query, made(port, &minds))));
                        }
                        if at_once && !open.is_empty() {
                            let (query, answer) = open.remove(open.len() - 1);
                            policy.answer(query, Epoch(0), answer.into(), Moment(0));
                        }
                    }
                    Step::Answer if open.is_empty() => {}
                    Step::Answer => {
                        let (query, answer) = open.remove(0);
                        policy.answer(query, Epoch(0), answer.into(), Moment(0));
                    }
                    Step::Change(tag) => {
                        minds[tag as usize] += 1;
                        policy.invalidate(vni, us, Some(tag));
                    }
                    Step::ChangeAll => {
                        minds.iter_mut().for_each(|mind| *mind += 1);
                        policy.invalidate(vni, us, None);
                    }
                    Step::Other(tag) => {
                        policy.invalidate(vni, them, Some(tag));
                        let after: usize = policy.kept.values().flatten().map(|kept| kept.answers.len()).sum();
                        prop_assert_eq!(before, after, "others keep what they said");
                    }
                }
                for port in 0..32 {
                    if let Some(kept) = policy.look(&question(port), Moment(0)) {
                        prop_assert_eq!(&kept.answer.why, &minds[usize::from(port % 4)].to_string());
                    }
                }
            }
        }

        #[test]
        fn no_sequence_of_questions_exceeds_the_bounds(asks in proptest::collection::vec((0..50u32, any::<u16>(), any::<u16>()), 1..300)) {
            let limits = PolicyLimits { answers_per_scope: 4, masks_per_scope: 2, scopes: 3, questions: 5 };
            let (mut policy, mut out) = (Policy::new(limits, 7), Outbox::default());
            for (port, dst_port, bits) in asks {
                let question = Question { port: PortId(port), ..question(dst_port) };
                policy.ask(question, 0, Epoch(0), Moment(0), &mut out);
                if bits % 3 > 0 {
                    for query in asked(&mut out) {
                        policy.answer(query, Epoch(0), answer(bits).into(), Moment(0));
                    }
                }
                prop_assert!(policy.kept.len() <= 3 && policy.flights.len() <= 5);
                prop_assert_eq!(policy.flights.len(), policy.flights_by_question.len());
                for kept in policy.kept.values() {
                    prop_assert!(kept.len() <= 2 && kept.iter().map(|kept| kept.answers.len()).sum::<usize>() <= 4);
                }
            }
        }
    }
}
