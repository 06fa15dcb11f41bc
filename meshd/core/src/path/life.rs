//! One path, from what is known of it to its end.
//!
//! ```text
//!   Ineligible <--> Proving --proof--> Up --verdict--> Held --time--> Proving
//!        ^                             |
//!        +------- an obstacle ---------+
//! ```
//!
//! Owns the states and what happens to them. What counts as proof and as death is in `judge`, what becomes due is in
//! `rhythm`. Times are of the path's own clock, except those that an operator sees (see [`super`]).

use super::candidate::Candidate;
use super::ear::Ear;
use super::rhythm::{DIAGNOSE_MS, PROVE_FAST_MS, PROVE_HOPE_MS, SUPER_MS};
use super::voice::Voice;
use super::{IDLE_MS, MS, Output, PathReport, PathState, PathView, Reason, Transition, ms};
use crate::frame::ETHERNET_LEN;
use crate::ident::{MacAddr, Moment, NodeId, Vni};
use crate::offload::KernelTraffic;
use crate::wire::probe::{Fault, Heard, PROBE_MIN, Plain, Segment, probe_mac};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Hold-down after the first failure, and at most; forgiven after so long a time up.
const HOLD_MS: u64 = 2000;
const HOLD_MS_MAX: u64 = 60_000;
const FORGIVE_MS: u64 = 300_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ineligible,
    Proving { since: Moment },
    Up { since: Moment },
    Held { until: Moment },
}

impl State {
    fn name(self) -> PathState {
        match self {
            Self::Ineligible => PathState::Ineligible,
            Self::Proving { .. } => PathState::Proving,
            Self::Up { .. } => PathState::Up,
            Self::Held { .. } => PathState::Held,
        }
    }
}

/// What a path may use while it handles something.
pub(super) struct Context<'a> {
    pub(super) mac: MacAddr,
    /// In own time.
    pub(super) own: Moment,
    pub(super) real: Moment,
    /// Nobody is judged before: this host was late, and what came meanwhile is not read yet.
    pub(super) judge_from: Moment,
    /// By how much intervals are longer than wished, in a thousand; at least 1000.
    pub(super) stretch: u64,
    pub(super) history_max: usize,
    pub(super) rng: &'a mut SmallRng,
    pub(super) out: &'a mut VecDeque<Output>,
}

pub(super) struct Life {
    pub(super) peer: NodeId,
    pub(super) vni: Vni,
    pub(super) mac: MacAddr,
    pub(super) mtu: u16,
    pub(super) ends: (Option<IpAddr>, Option<IpAddr>),
    /// Any but the session and the device.
    pub(super) obstacle: Option<(Reason, String)>,
    pub(super) device: bool,
    pub(super) session: bool,
    /// When it came or went.
    pub(super) session_at: Moment,
    pub(super) state: State,
    pub(super) reason: Reason,
    pub(super) evidence: String,
    pub(super) since: Moment,
    pub(super) voice: Voice,
    pub(super) ear: Ear,
    pub(super) failures: u32,
    pub(super) held_until: Moment,
    pub(super) active_until: Moment,
    pub(super) fast_until: Moment,
    /// What the kernel forwarded since the path was made.
    pub(super) passed: KernelTraffic,
    pub(super) stretch: u64,
    pub(super) next_probe: Moment,
    pub(super) next_super: Moment,
    pub(super) next_diagnosis: Moment,
    /// When the last report went out, in this session.
    pub(super) told_at: Option<Moment>,
    /// A report is wanted: by the peer, or to ask the peer for one.
    pub(super) answer: bool,
    pub(super) ask: bool,
    /// Highest probe that was asked about.
    pub(super) asked: u32,
    pub(super) history: VecDeque<Transition>,
    /// Under which time it stands in the table of timers.
    pub(super) due: Moment,
    /// What it adds to the sum of rates, in probes per 1000 s.
    pub(super) rate: u64,
}

fn full_size(mtu: u16) -> u16 {
    let header = u16::try_from(ETHERNET_LEN).unwrap_or_default();
    mtu.saturating_add(header).max(PROBE_MIN + 1)
}

impl Life {
    pub(super) fn new(peer: NodeId, vni: Vni, token: u64, now: (Moment, Moment)) -> Self {
        let (own, real) = now;
        Self {
            peer,
            vni,
            mac: probe_mac(&peer),
            mtu: 0,
            ends: (None, None),
            obstacle: None,
            device: true,
            session: false,
            session_at: own,
            state: State::Ineligible,
            reason: Reason::NoSession,
            evidence: String::new(),
            since: real,
            voice: Voice::new(),
            ear: Ear::new(token, own),
            failures: 0,
            held_until: own,
            active_until: Moment(0),
            fast_until: own,
            passed: KernelTraffic::default(),
            stretch: 1000,
            next_probe: own,
            next_super: own,
            next_diagnosis: own,
            told_at: None,
            answer: false,
            ask: false,
            asked: 0,
            history: VecDeque::new(),
            due: own,
            rate: 0,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Up { .. } | State::Proving { .. })
    }

    pub(super) fn is_active(&self, own: Moment) -> bool {
        own < self.active_until
    }

    // What happens to it.

    pub(super) fn set(&mut self, candidate: &Candidate, device: bool, context: &mut Context<'_>) {
        let ends = (candidate.here.vtep, candidate.there.vtep);
        let moved = self.ends != ends || self.mtu < candidate.mtu;
        let shrunk = self.mtu > candidate.mtu;
        (self.ends, self.mtu) = (ends, candidate.mtu);
        self.obstacle = candidate.obstacle();
        self.device = device;
        if self.session != candidate.session {
            self.session = candidate.session;
            self.session_at = context.own;
            // The first report asks, so that both have the other's token whoever is ready first.
            (self.told_at, self.answer, self.ask) = (None, false, true);
            self.voice.forget_unanswered();
        }
        let ran = self.is_running();
        self.reconsider(context);
        let running = ran && self.is_running();
        if running && moved {
            if self.is_up() {
                self.close(context);
            }
            let evidence = match self.ends {
                (Some(here), Some(there)) => format!("{here} to {there}, MTU {}", self.mtu),
                _ => String::new(),
            };
            self.prove(Reason::Changed, evidence, context);
        } else if running && shrunk {
            self.voice.shrink(full_size(self.mtu));
        }
    }

    pub(super) fn set_device(&mut self, device: bool, context: &mut Context<'_>) {
        self.device = device;
        self.reconsider(context);
    }

    /// The kernel forwards on it already: a daemon before this one left it open.
    pub(super) fn adopt(&mut self, context: &mut Context<'_>) -> bool {
        let possible = self.obstacle.is_none() && self.device && !self.is_up();
        if possible {
            self.session_at = context.own;
            self.voice.begin(full_size(self.mtu));
            self.enter_up(Reason::Adopted, String::new(), context);
        }
        possible
    }

    /// A probe of the peer's that came as it was sent.
    pub(super) fn plain(&mut self, plain: &Plain, context: &mut Context<'_>) {
        if self.state != State::Ineligible {
            self.ear.plain(plain.seq, context.own);
            self.echo(&plain.heard, context);
        }
    }

    pub(super) fn segment(&mut self, segment: &Segment, own: Moment) {
        if self.state != State::Ineligible {
            self.ear.segment(segment, own);
        }
    }

    pub(super) fn altered(&mut self, superframe: Option<u16>, fault: Fault) {
        if self.state != State::Ineligible {
            self.ear.altered(superframe, fault);
        }
    }

    pub(super) fn report(&mut self, report: &PathReport, context: &mut Context<'_>) {
        if !self.session {
            return;
        }
        if !self.voice.set_token(report.token) {
            // The peer began anew, and so do its numbers. What it heard, it heard in another life.
            self.ear.forget(context.own);
            self.next_probe = self.next_probe.min(context.own);
        }
        self.answer |= report.ask;
        self.echo(&report.heard, context);
    }

    fn echo(&mut self, heard: &Heard, context: &Context<'_>) {
        let full_heard = self.voice.echo(heard, context.own);
        if full_heard && matches!(self.state, State::Proving { .. }) {
            self.fast_until = self.fast_until.max(ms(context.own, PROVE_HOPE_MS));
            let soon = context.own.0.saturating_add(self.interval(context.own));
            self.next_probe = self.next_probe.min(Moment(soon));
        }
        if self.voice.supers.altered > 0 {
            // A second opinion, at once.
            self.next_super = self.next_super.min(context.own);
        }
    }

    /// The kernel forwarded data on the path.
    pub(super) fn traffic(&mut self, passed: KernelTraffic, context: &Context<'_>) {
        let own = context.own;
        self.passed = self.passed.and(passed);
        if passed.rx_frames > 0 {
            self.ear.data(passed.rx_frames, own);
        }
        if passed.rx_frames > 0 || passed.tx_frames > 0 {
            if !self.is_active(own) {
                self.voice.wait_anew();
                self.next_probe = self.next_probe.min(own);
                self.next_super = self.next_super.min(own);
            }
            self.active_until = ms(own, IDLE_MS);
        }
    }

    /// This host stood still for `lost` nanoseconds.
    pub(super) fn stalled(&mut self, lost: u64, context: &mut Context<'_>) {
        self.voice.wait_anew();
        if self.is_up() && self.is_active(context.own) {
            let evidence = format!("this host was {} ms late", lost / MS);
            self.record(self.state, Reason::HostBusy, evidence, context);
        }
    }

    pub(super) fn removed(&mut self, context: &mut Context<'_>) {
        if self.is_up() {
            self.close(context);
        }
    }

    // States.

    pub(super) fn close(&self, context: &mut Context<'_>) {
        let (peer, vni) = (self.peer, self.vni);
        context.out.push_back(Output::Close { peer, vni });
    }

    fn record(&mut self, from: State, reason: Reason, evidence: String, context: &mut Context<'_>) {
        let transition = Transition {
            at: context.real,
            from: from.name(),
            to: self.state.name(),
            reason,
            evidence,
        };
        while self.history.len() >= context.history_max {
            self.history.pop_front();
        }
        self.history.push_back(transition.clone());
        context.out.push_back(Output::Changed {
            peer: self.peer,
            vni: self.vni,
            transition,
        });
    }

    pub(super) fn enter(
        &mut self,
        to: State,
        reason: Reason,
        evidence: String,
        context: &mut Context<'_>,
    ) {
        let from = std::mem::replace(&mut self.state, to);
        self.since = context.real;
        self.reason = reason;
        self.evidence.clone_from(&evidence);
        self.record(from, reason, evidence, context);
    }

    fn reconsider(&mut self, context: &mut Context<'_>) {
        let gone = (!self.device).then(|| {
            let evidence = "the kernel has no VXLAN device for the network".to_owned();
            (Reason::DeviceGone, evidence)
        });
        let obstacle = self.obstacle.clone().or(gone).or_else(|| {
            // One that is up keeps going for a while: the peer's daemon may be starting anew.
            let needed = !self.session && !self.is_up();
            needed.then(|| (Reason::NoSession, String::new()))
        });
        match (obstacle, self.state) {
            (Some((reason, evidence)), State::Ineligible) => {
                if self.reason != reason || self.history.is_empty() {
                    self.enter(State::Ineligible, reason, evidence, context);
                } else {
                    self.evidence = evidence;
                }
            }
            (Some((reason, evidence)), from) => {
                if matches!(from, State::Up { .. }) {
                    self.close(context);
                }
                self.enter(State::Ineligible, reason, evidence, context);
            }
            (None, State::Ineligible) if self.held_until > context.own => {
                let until = self.held_until;
                let evidence = format!("{} failures lately", self.failures);
                self.enter(State::Held { until }, Reason::Held, evidence, context);
            }
            (None, State::Ineligible) => {
                self.prove(Reason::Proving, String::new(), context);
            }
            (None, _) => {}
        }
    }

    pub(super) fn prove(&mut self, reason: Reason, evidence: String, context: &mut Context<'_>) {
        let own = context.own;
        self.voice.begin(full_size(self.mtu));
        self.fast_until = ms(own, PROVE_FAST_MS);
        self.next_diagnosis = ms(own, DIAGNOSE_MS);
        self.next_super = own;
        self.enter(State::Proving { since: own }, reason, evidence, context);
        self.stretch = context.stretch;
        let spread = if context.stretch > 1000 {
            // Many paths do not begin in one instant.
            context.rng.random_range(0..self.interval(own))
        } else {
            0
        };
        self.next_probe = Moment(own.0.saturating_add(spread));
    }

    pub(super) fn enter_up(&mut self, reason: Reason, evidence: String, context: &mut Context<'_>) {
        let own = context.own;
        self.enter(State::Up { since: own }, reason, evidence, context);
        // Data will move here in a moment.
        self.active_until = self.active_until.max(ms(own, IDLE_MS));
        self.next_probe = own;
        self.next_super = ms(own, SUPER_MS[1]);
        let (peer, vni) = (self.peer, self.vni);
        context.out.push_back(Output::Open { peer, vni });
    }

    pub(super) fn fail(&mut self, reason: Reason, evidence: String, context: &mut Context<'_>) {
        let own = context.own;
        if let State::Up { since } = self.state
            && own.ms_since(since) >= FORGIVE_MS
        {
            self.failures = 0;
        }
        let hold = HOLD_MS.checked_shl(self.failures).unwrap_or(HOLD_MS_MAX);
        self.failures = (self.failures + 1).min(16);
        let until = ms(own, hold.min(HOLD_MS_MAX));
        self.held_until = until;
        self.close(context);
        self.enter(State::Held { until }, reason, evidence, context);
        if !self.session {
            self.reconsider(context);
        }
    }

    pub(super) fn view(&self, own: Moment, real: impl Fn(Moment) -> Moment) -> PathView {
        let (lost, all) = self.voice.loss(u32::MAX);
        let ppm = u64::from(lost) * 1_000_000 / u64::from(all.max(1));
        let held_until = match self.state {
            State::Held { until } => Some(real(until)),
            _ => None,
        };
        PathView {
            peer: self.peer,
            vni: self.vni,
            state: self.state.name(),
            reason: self.reason,
            evidence: self.evidence.clone(),
            since: self.since,
            active: self.is_active(own),
            rtt_us: self.voice.rtt.smoothed_us(),
            path_mtu: if self.is_up() {
                Some(self.mtu)
            } else {
                self.voice.search.found()
            },
            loss_ppm: (all > 0).then(|| u32::try_from(ppm).unwrap_or(u32::MAX)),
            held_until,
            passed: self.passed,
            history: self.history.iter().cloned().collect(),
        }
    }
}
