//! When a path speaks, and how often: probes, superframes, reports, and what becomes due by time alone.
//!
//! Owns the intervals. All of them stretch when many paths share the budget of probes.

use super::life::{Context, Life, State};
use super::voice::Kind;
use super::{MS, Output, PathReport, REPORT_MS, Reason, SESSION_GRACE_MS, ms};
use crate::ident::Moment;
use crate::wire::probe::{Plain, superframe};

/// Between full-size probes of a path that is up: active, for some seconds after, and idle.
const ACTIVE_PROBE_MS: u64 = 50;
const RECENT_PROBE_MS: u64 = 1000;
const IDLE_PROBE_MS: u64 = 5000;
/// How long after it was active a path counts as recent.
const RECENT_MS: u64 = 8000;
/// Between rounds of proving, and how long the first two rhythms last.
const PROVE_MS: [u64; 3] = [100, 1000, 10_000];
pub(super) const PROVE_FAST_MS: u64 = 10_000;
const PROVE_SLOW_MS: u64 = 120_000;
/// The fast rhythm again, once a full-size probe was heard.
pub(super) const PROVE_HOPE_MS: u64 = 3000;
/// Between superframes: proving, active, idle.
pub(super) const SUPER_MS: [u64; 3] = [400, 1000, 30_000];
/// How long small probes go with those that are not answered, to tell a hole from a block.
const DOUBT_MS: u64 = 1000;
/// Between diagnoses of a path that is being proved.
pub(super) const DIAGNOSE_MS: u64 = 1000;
impl Life {
    /// Decides what is to be decided and sends what is to be sent.
    pub(super) fn settle(&mut self, context: &mut Context<'_>) {
        let own = context.own;
        self.stretch = context.stretch;
        self.ear.handle_timeout(own);
        match self.state {
            State::Held { until } if until <= own => {
                self.prove(Reason::Proving, String::new(), context);
            }
            State::Proving { .. } => {
                if let Some(evidence) = self.proof() {
                    self.voice.proved();
                    self.enter_up(Reason::Proved, evidence, context);
                } else if own >= self.next_diagnosis {
                    self.diagnose(context);
                }
            }
            State::Up { .. } if !self.session && own >= ms(self.session_at, SESSION_GRACE_MS) => {
                self.close(context);
                let evidence = format!("down for {} ms", own.ms_since(self.session_at));
                self.enter(State::Ineligible, Reason::SessionDown, evidence, context);
            }
            State::Up { .. } if own >= context.judge_from => {
                if let Some((reason, evidence)) = self.verdict(own) {
                    self.fail(reason, evidence, context);
                }
            }
            _ => {}
        }
        self.speak(context);
        let overdue = self.ask_at(own).is_some_and(|at| at <= own);
        if self.is_running() && overdue && self.asked < self.voice.seq {
            self.asked = self.voice.seq;
            self.ask = true;
        }
    }

    fn diagnose(&mut self, context: &mut Context<'_>) {
        self.next_diagnosis = ms(context.own, DIAGNOSE_MS);
        let (reason, evidence) = self.diagnosis(context.own);
        if reason != self.reason {
            self.enter(self.state, reason, evidence, context);
        } else {
            self.evidence = evidence;
        }
    }

    fn ask_at(&self, own: Moment) -> Option<Moment> {
        let proving = matches!(self.state, State::Proving { .. });
        self.voice.ask_at(proving && own >= self.fast_until)
    }

    /// Nanoseconds between rounds of probes.
    pub(super) fn interval(&self, own: Moment) -> u64 {
        (self.wished_ms(own) * MS / 1000).saturating_mul(self.stretch)
    }

    fn wished_ms(&self, own: Moment) -> u64 {
        let [fast, slow, rare] = PROVE_MS;
        match self.state {
            State::Proving { .. } if own < self.fast_until => fast,
            State::Proving { since } if own < ms(since, PROVE_SLOW_MS) => slow,
            State::Proving { .. } => rare,
            _ if self.is_active(own) => ACTIVE_PROBE_MS,
            _ if own < ms(self.active_until, RECENT_MS) => RECENT_PROBE_MS,
            _ => IDLE_PROBE_MS,
        }
    }

    /// What it would send, were it alone, in probes per 1000 s.
    pub(super) fn wished_rate(&self, own: Moment) -> u64 {
        let each = match self.state {
            _ if self.voice.token.is_none() => 0,
            State::Proving { .. } => 2,
            State::Up { .. } => 1,
            State::Ineligible | State::Held { .. } => 0,
        };
        each * 1_000_000 / self.wished_ms(own).max(1)
    }

    fn speak(&mut self, context: &mut Context<'_>) {
        let own = context.own;
        let proving = match self.state {
            State::Proving { .. } => true,
            State::Up { .. } => false,
            State::Ineligible | State::Held { .. } => return,
        };
        if own < self.next_probe {
            return;
        }
        self.next_probe = Moment(own.0.saturating_add(self.interval(own)));
        let Some(token) = self.voice.token else {
            self.ask = true;
            return;
        };
        let overdue = self.ask_at(own).is_some_and(|at| at <= own);
        let since = self.voice.waiting().map_or(own, |waiting| waiting.at);
        let doubtful = overdue && (proving || own.ms_since(since) < DOUBT_MS);
        self.send(Kind::Full, token, context);
        let tally = self.voice.tally(0);
        if proving && tally.small_heard > 0 && self.voice.may_search(own) {
            self.send(Kind::Search, token, context);
        } else if doubtful || proving && tally.small_heard == 0 {
            self.send(Kind::Small, token, context);
        }
        let [first, active, idle] = SUPER_MS;
        if own >= self.next_super && (!proving || tally.full_heard > 0) {
            let wait = match proving {
                true => first,
                false if self.is_active(own) => active,
                false => idle,
            };
            let wait = (wait * MS / 1000).saturating_mul(context.stretch);
            self.next_super = Moment(own.0.saturating_add(wait));
            let number = self.voice.supers.send();
            let probe = superframe(self.mac, context.mac, token, number, self.mtu);
            let (peer, vni) = (self.peer, self.vni);
            context.out.push_back(Output::Probe { peer, vni, probe });
        }
    }

    fn send(&mut self, kind: Kind, token: u64, context: &mut Context<'_>) {
        let (seq, size) = self.voice.send(kind, context.own);
        let plain = Plain {
            dst: self.mac,
            src: context.mac,
            token,
            seq,
            size,
            heard: self.ear.heard(context.own),
        };
        context.out.push_back(Output::Probe {
            peer: self.peer,
            vni: self.vni,
            probe: plain.encode(),
        });
    }

    /// When the next report is due. One who asks is answered in any state; else there is nothing to say of a path that
    /// cannot be.
    pub(super) fn report_at(&self, own: Moment) -> Option<Moment> {
        let ours = self.state != State::Ineligible && (self.ask || self.told_at.is_none());
        let wait = (REPORT_MS * MS / 1000).saturating_mul(self.stretch);
        let after = |told: Moment| Moment(told.0.saturating_add(wait)).max(own);
        (self.session && (self.answer || ours)).then(|| self.told_at.map_or(own, after))
    }

    pub(super) fn make_report(&mut self, own: Moment) -> PathReport {
        let ask = self.ask;
        self.told_at = Some(own);
        (self.answer, self.ask) = (false, false);
        PathReport {
            vni: self.vni,
            token: self.ear.token,
            heard: self.ear.heard(own),
            ask,
        }
    }

    /// When [`Self::settle`] has something to do.
    pub(super) fn poll_timeout(&self, own: Moment, judge_from: Moment) -> Option<Moment> {
        let session_end = (!self.session).then(|| ms(self.session_at, SESSION_GRACE_MS));
        let ask_at = self
            .ask_at(own)
            .filter(|&at| at > own && self.asked < self.voice.seq);
        let of_state = match self.state {
            State::Ineligible => [None; 4],
            State::Held { until } => [Some(until), None, None, None],
            State::Proving { .. } => [
                Some(self.next_probe),
                Some(self.next_diagnosis),
                ask_at,
                None,
            ],
            State::Up { .. } => {
                let judged = self.judged_at(own).map(|at| at.max(judge_from));
                [Some(self.next_probe), session_end, ask_at, judged]
            }
        };
        of_state
            .into_iter()
            .chain([self.report_at(own), self.ear.poll_timeout()])
            .flatten()
            .min()
    }
}
