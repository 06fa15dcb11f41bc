//! What a plugin would do to recorded traffic, and how much of it the daemon's cache would ask it about.
//!
//! Every frame goes by [`Policy`], the cache that the daemon keeps answers in. What it answers from is asked of the plugin all
//! the same, and must be what the plugin says: so a recording also tells whether the masks are right on it.

use crate::names::Names;
use crate::question::{question, show};
use crate::recording::{Captured, Recording};
use bytes::BytesMut;
use meshd_core::edit;
use meshd_core::flow::{Fields, FlowKey, FlowMask};
use meshd_core::flowtext;
use meshd_core::ident::{Epoch, Moment};
use meshd_core::node::{DstClass, Output, Question};
use meshd_core::outbox::Outbox;
use meshd_core::policy::{Answer, Known, Policy, PolicyLimits, Verdict};
use meshd_plugin_host::{Decision, Fault, Instance, Say};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Entries that are told apart; what comes behind is counted as one more frame and no entry.
const ENTRIES: usize = 100_000;
/// Different verdicts that are told apart.
const VERDICTS: usize = 1000;
const EPOCH: Epoch = Epoch(1);

/// One entry of the cache, as it would be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Which frames it answers.
    pub matches: String,
    /// Bits of a key that it looks at; fewer bits, more frames.
    pub bits: u32,
    /// What it says.
    pub verdict: String,
    /// Frames of this recording that it would have answered, the first one included.
    pub frames: u64,
}

/// The outcome.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Replay {
    /// Frames of the recording.
    pub frames: u64,
    /// Those that the daemon drops before any plugin.
    pub not_asked: u64,
    /// Frames by verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// Frames by what the plugin failed with.
    pub faults: BTreeMap<String, u64>,
    /// Questions to the plugin; all other frames were answered from the cache.
    pub asked: u64,
    /// Frames that the cache answered.
    pub hits: u64,
    /// Different masks.
    pub masks: usize,
    /// Different entries.
    pub entries: usize,
    /// The ten that look at the fewest bits, the widest first.
    pub widest: Vec<Entry>,
    /// The ten that look at the most bits, the narrowest first.
    pub narrowest: Vec<Entry>,
    /// Frames to which the cache would have given another answer than the plugin, the first ones in words.
    pub wrong: u64,
    /// See [`Replay::wrong`].
    pub wrong_frames: Vec<String>,
    /// Time in the plugin, of the questions that it was asked, in nanoseconds.
    pub busy_ns: u64,
}

impl Replay {
    /// Of the frames that a plugin decides, how many it was not asked about, in parts of a hundred.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        let all = self.hits + self.asked;
        match all {
            0 => 0.0,
            // Counts of frames are far below 2^53.
            all => 100.0 * self.hits as f64 / all as f64,
        }
    }

    /// Decisions that the plugin makes in a second, on one core of this machine.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        match self.busy_ns {
            0 => 0.0,
            ns => self.asked as f64 * 1e9 / ns as f64,
        }
    }
}

type Kept = BTreeMap<(FlowMask, FlowKey, Option<DstClass>), (String, u64)>;

struct Run<'a> {
    policy: Policy,
    outbox: Outbox,
    instance: &'a mut Instance,
    names: &'a Names,
    /// By verdict in words, as the cache keeps [`Answer::why`].
    out: Replay,
    masks: BTreeSet<FlowMask>,
    kept: Kept,
}

/// Sends `recording` by the daemon's cache to `instance`. Also returns what passes, changed as the plugin wants it.
pub fn replay(
    instance: &mut Instance,
    names: &Names,
    recording: &Recording,
    check: bool,
) -> (Replay, Recording) {
    let mut run = Run {
        // A replay is the same each time.
        policy: Policy::new(PolicyLimits::default(), 0),
        outbox: Outbox::default(),
        instance,
        names,
        out: Replay::default(),
        masks: BTreeSet::new(),
        kept: BTreeMap::new(),
    };
    let mut passed = Recording::default();
    for captured in &recording.frames {
        run.out.frames += 1;
        let Ok(question) = question(&captured.frame) else {
            run.out.not_asked += 1;
            continue;
        };
        let at = u64::try_from(captured.at.as_nanos()).unwrap_or(u64::MAX);
        if let Some(answer) = run.frame(&question, Moment(at), check, &captured.frame)
            && answer.verdict == Verdict::Pass
        {
            let mut frame = BytesMut::new();
            edit::apply(&answer.orders.edits, &captured.frame, &mut frame);
            let grown = frame.len().saturating_sub(captured.frame.len());
            passed.frames.push(Captured {
                at: captured.at,
                length: captured
                    .length
                    .saturating_add(u32::try_from(grown).unwrap_or_default()),
                frame: frame.to_vec(),
            });
        }
    }
    (run.finish(), passed)
}

impl Run<'_> {
    fn frame(
        &mut self,
        question: &Question,
        now: Moment,
        check: bool,
        frame: &[u8],
    ) -> Option<Arc<Answer>> {
        let answer = match self.policy.look(question, now) {
            Some(Known { answer, .. }) => {
                self.out.hits += 1;
                if check {
                    self.compare(question, &answer, frame);
                }
                answer
            }
            None => self.ask(question, now)?,
        };
        self.count(&answer.why);
        if answer.cacheable {
            self.masks.insert(answer.mask);
            let class = answer.read_dst_class.then_some(question.dst_class);
            let entry = (answer.mask, answer.mask.apply(&question.key), class);
            let room = self.kept.len() < ENTRIES;
            match self.kept.get_mut(&entry) {
                Some((_, frames)) => *frames += 1,
                None if room => {
                    self.kept.insert(entry, (answer.why.clone(), 1));
                }
                None => {}
            }
        }
        Some(answer)
    }

    fn ask(&mut self, question: &Question, now: Moment) -> Option<Arc<Answer>> {
        self.out.asked += 1;
        let started = Instant::now();
        let said = self.decide(question);
        let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.out.busy_ns = self.out.busy_ns.saturating_add(ns);
        let (decision, verdict) = match said {
            Ok(said) => said,
            Err(fault) => {
                *self.out.faults.entry(fault.to_string()).or_default() += 1;
                return None;
            }
        };
        self.policy
            .ask(question.clone(), 0, EPOCH, now, &mut self.outbox);
        let Some(Output::Ask { query, .. }) = self.outbox.pop() else {
            return None;
        };
        let answer = Answer {
            verdict: match decision.say {
                Say::Drop { .. } => Verdict::Drop,
                Say::Next | Say::Accept => Verdict::Pass,
            },
            mask: decision.mask,
            read_dst_class: decision.read_dst_class,
            cacheable: decision.cacheable,
            hard_ms: decision.hard_ms,
            idle_ms: decision.idle_ms,
            orders: decision.orders,
            parts: Vec::new(),
            why: verdict,
        };
        let (_, answer, _) = self.policy.answer(query, EPOCH, answer.into(), now)?;
        Some(answer)
    }

    fn decide(&mut self, question: &Question) -> Result<(Decision, String), Fault> {
        let names = self.names;
        let said = self
            .instance
            .decide_in_words(question, &|code| names.get(code))?;
        Ok((said.0, said.1.verdict))
    }

    fn compare(&mut self, question: &Question, answer: &Answer, frame: &[u8]) {
        let said = match self.decide(question) {
            Ok((_, said)) => said,
            Err(fault) => fault.to_string(),
        };
        if said != answer.why {
            self.out.wrong += 1;
            if self.out.wrong_frames.len() < 10 {
                self.out.wrong_frames.push(format!(
                    "{}: the cache says {}, the plugin {said}",
                    show(frame),
                    answer.why
                ));
            }
        }
    }

    fn count(&mut self, verdict: &str) {
        let room = self.out.verdicts.len() < VERDICTS;
        match self.out.verdicts.get_mut(verdict) {
            Some(count) => *count += 1,
            None if room => {
                self.out.verdicts.insert(verdict.to_owned(), 1);
            }
            None => *self.out.verdicts.entry("others".to_owned()).or_default() += 1,
        }
    }

    fn finish(mut self) -> Replay {
        let mut entries: Vec<Entry> = self
            .kept
            .iter()
            .map(|((mask, key, class), (verdict, frames))| {
                let word = match class {
                    None => "",
                    Some(DstClass::UnicastKnown) => ", to a known station",
                    Some(DstClass::UnicastUnknown) => ", to an unknown station",
                    Some(DstClass::Multicast) => ", multicast",
                    Some(DstClass::Broadcast) => ", broadcast",
                };
                Entry {
                    matches: match mask_bits(mask) {
                        0 => format!("everything{word}"),
                        _ => format!("{}{word}", flowtext::show_match(key, mask)),
                    },
                    bits: mask_bits(mask),
                    verdict: verdict.clone(),
                    frames: *frames,
                }
            })
            .collect();
        self.out.masks = self.masks.len();
        self.out.entries = entries.len();
        entries.sort_by(|a, b| (a.bits, b.frames, &a.matches).cmp(&(b.bits, a.frames, &b.matches)));
        self.out.widest = entries.iter().take(10).cloned().collect();
        self.out.narrowest = entries.iter().rev().take(10).cloned().collect();
        self.out
    }
}

/// Bits of a key that a mask looks at.
pub(crate) fn mask_bits(mask: &FlowMask) -> u32 {
    let widths = [
        (Fields::ETHER_TYPE, 16),
        (Fields::VLAN, 13),
        (Fields::PCP, 3),
        (Fields::INNER_VLAN, 13),
        (Fields::IP_KIND, 3),
        (Fields::IP_PROTO, 8),
        (Fields::DSCP, 6),
        (Fields::ECN, 2),
        (Fields::TTL, 8),
        (Fields::FRAG, 2),
        (Fields::L4_OK, 1),
        (Fields::TCP_FLAGS, 9),
        (Fields::ICMP_TYPE, 8),
        (Fields::ICMP_CODE, 8),
        (Fields::CT, 6),
        (Fields::CT_MARK, 32),
    ];
    let whole = widths.iter().filter(|(field, _)| mask.fields.has(*field));
    let parts = [mask.src_mac, mask.dst_mac, mask.src_ip, mask.dst_ip];
    whole.map(|(_, width)| width).sum::<u32>()
        + parts.iter().copied().map(u32::from).sum::<u32>()
        + mask.src_port.count_ones()
        + mask.dst_port.count_ones()
}
