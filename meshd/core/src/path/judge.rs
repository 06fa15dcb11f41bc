//! The verdicts on a path: is it proved, is it dead, and what is wrong with it. Pure functions of what was sent and heard.

use super::life::{Life, State};
use super::supers::{ALTERED_MIN, MISSED_MIN};
use super::voice::{LOSS_OVER, Waiting};
use super::{MS, Reason, ms};
use crate::ident::Moment;
use crate::wire::probe::Fault;

/// Age of the oldest unanswered full-size probe, besides a round trip, at which its direction is dead.
const DEAD_MS: u64 = 200;
/// What is added while data arrives there: a queue may have swallowed the probes.
const DATA_MS: u64 = 200;
/// How late a peer counts its data: it looks each 50 ms. With time to spare for a busy one, where a wrong reason would hang on it.
const COUNTED_MS: u64 = 50;
const COUNTED_MS_MAX: u64 = 150;
/// Probes sent after it, while active and while idle.
const LATER_ACTIVE_MIN: u32 = 3;
const LATER_IDLE_MIN: u32 = 2;
/// How long nothing at all is heard of a peer whose session stands. Longer than SWIM needs to find a node dead: a peer
/// whose daemon has no time still forwards in its kernel, and QUIC would need that daemon.
const SILENT_MS: u64 = 5000;
/// Of what is proved.
const RUN_MIN: u32 = 3;
const RUN_MS_MIN: u64 = 250;
/// Known fates that a path needs that has failed before, and by which loss is told from a block.
const FATES_MIN: u32 = 20;
/// Share of lost probes, in per cent: above the first a path is left, up to the second it is taken.
const LOSS_LEAVE: u32 = 20;
const LOSS_TAKE: u32 = 10;
/// Below it, superframes that do not come are not the network's loss.
const LOSS_CLEAN: u32 = 2;

/// Is `lost` of `all` more than `percent`?
fn more_than(percent: u32, (lost, all): (u32, u32)) -> bool {
    lost.saturating_mul(100) > all.saturating_mul(percent)
}

impl Life {
    /// The evidence, if all that is wanted for a promotion is there.
    pub(super) fn proof(&self) -> Option<String> {
        let (run, span) = self.voice.run();
        let loss = self.voice.loss(u32::MAX);
        let enough = if self.failures > 0 { FATES_MIN } else { 0 };
        let proved = run >= RUN_MIN
            && span >= RUN_MS_MIN * MS
            && self.voice.tally(0).small_heard > 0
            && self.voice.supers.whole
            && loss.1 >= enough
            // What was lost before a long run of good ones is over.
            && (loss.1 < FATES_MIN || run >= FATES_MIN || !more_than(LOSS_TAKE, loss));
        proved.then(|| {
            let rtt = self.voice.rtt.smoothed_us().unwrap_or_default();
            format!(
                "{run} probes of {} bytes in a row over {} ms, a small one and a superframe heard; round trip {rtt} us",
                self.voice.full(),
                span / MS
            )
        })
    }

    /// When silence or a missing answer will be judged, if nothing comes until then.
    pub(super) fn judged_at(&self, own: Moment) -> Option<Moment> {
        if self.voice.token.is_none() {
            return self.session.then(|| ms(self.session_at, SILENT_MS));
        }
        let waiting = self.voice.waiting()?;
        let silent = Some(ms(waiting.at, SILENT_MS)).filter(|_| self.session);
        let dead = [
            self.dead_at(&waiting, false, own),
            self.dead_at(&waiting, true, own),
        ];
        dead.into_iter()
            .chain([silent])
            .flatten()
            .filter(|&at| at > own)
            .min()
    }

    /// When `waiting` is too old. `None`: while too few probes came after it.
    fn dead_at(&self, waiting: &Waiting, data: bool, own: Moment) -> Option<Moment> {
        let patience = DEAD_MS + if data { DATA_MS } else { 0 };
        let (from, least) = if self.is_active(own) {
            (waiting.at, LATER_ACTIVE_MIN)
        } else {
            // The last of them must have had its time.
            (waiting.last, LATER_IDLE_MIN)
        };
        let at = ms(from, patience)
            .0
            .saturating_add(self.voice.rtt.allowance());
        (waiting.later >= least).then_some(Moment(at))
    }

    /// Why this path, which is up, is to be left.
    pub(super) fn verdict(&self, own: Moment) -> Option<(Reason, String)> {
        let supers = &self.voice.supers;
        let loss = self.voice.loss(u32::MAX);
        if supers.altered >= ALTERED_MIN
            || supers.missed >= MISSED_MIN && loss.1 >= FATES_MIN && !more_than(LOSS_CLEAN, loss)
        {
            return Some((Reason::OffloadBad, self.super_evidence()));
        }
        if loss.1 >= LOSS_OVER && more_than(LOSS_LEAVE, loss) {
            return Some((Reason::Lossy, loss_evidence(loss)));
        }
        if self.voice.token.is_none() {
            let silent = self.session && own >= ms(self.session_at, SILENT_MS);
            return silent.then(|| (Reason::Silent, self.silent_evidence(self.session_at, own)));
        }
        let waiting = self.voice.waiting()?;
        let data = self.voice.data_since(&waiting, COUNTED_MS).is_some();
        let dead = self
            .dead_at(&waiting, data, own)
            .is_some_and(|at| own >= at);
        if dead && waiting.told {
            return Some(self.cause(&waiting));
        }
        let silent = self.session
            && waiting.later >= LATER_IDLE_MIN
            && own >= ms(waiting.at, SILENT_MS)
            && !waiting.told;
        silent.then(|| (Reason::Silent, self.silent_evidence(waiting.at, own)))
    }

    /// Why nobody answers `waiting`, which did not arrive.
    fn cause(&self, waiting: &Waiting) -> (Reason, String) {
        let loss = self.voice.loss(waiting.seq);
        if loss.1 >= FATES_MIN && more_than(LOSS_TAKE, loss) {
            return (Reason::Lossy, loss_evidence(loss));
        }
        self.stuck(waiting.seq, ms(waiting.at, DEAD_MS / 2))
    }

    /// Full-size probes from number `from` on do not arrive. The peer is heard if it was since `heard_since`.
    fn stuck(&self, from: u32, heard_since: Moment) -> (Reason, String) {
        let tally = self.voice.tally(from);
        let mut evidence = format!(
            "{} probes of {} bytes sent, {} heard; {} small ones sent, {} heard",
            tally.full_sent,
            self.voice.full(),
            tally.full_heard,
            tally.small_sent,
            tally.small_heard
        );
        if self.voice.altered_grown > 0 {
            evidence += &format!("; {} came altered", self.voice.altered_grown);
            return (Reason::Altered, evidence);
        }
        let waiting = self.voice.waiting();
        let data = waiting.and_then(|waiting| self.voice.data_since(&waiting, COUNTED_MS_MAX));
        if tally.small_heard > 0 || data.is_some() {
            if let Some(later) = data {
                evidence += &format!(
                    "; data came there {later} ms after the oldest unanswered one was sent"
                );
            }
            if let Some((passed, stuck)) = self.voice.search.bounds() {
                evidence += &format!("; {passed} bytes pass, {stuck} do not");
            }
            return (Reason::MtuHole, evidence);
        }
        if self.ear.last.is_some_and(|last| last >= heard_since) {
            evidence += "; the peer's are heard here";
            return (Reason::OneWay, evidence);
        }
        evidence += "; nothing is heard of the peer's";
        (Reason::UdpBlocked, evidence)
    }

    /// What is known to be wrong with a path that is being proved; [`Reason::Proving`] if nothing is.
    pub(super) fn diagnosis(&self, own: Moment) -> (Reason, String) {
        let State::Proving { since } = self.state else {
            return (self.reason, self.evidence.clone());
        };
        let interval = self.interval(own);
        let answered = self.voice.echo_at.filter(|&at| at >= since);
        let quiet_since = answered.unwrap_or(since);
        if own.0.saturating_sub(quiet_since.0) > SILENT_MS * MS / 2 + 2 * interval
            || self.voice.token.is_none() && own.ms_since(since) >= SILENT_MS / 2
        {
            return (Reason::Silent, self.silent_evidence(quiet_since, own));
        }
        let tally = self.voice.tally(0);
        let (supers, loss) = (&self.voice.supers, self.voice.loss(u32::MAX));
        if tally.full_heard == 0 && tally.full_lost >= RUN_MIN {
            let heard_since = own.0.saturating_sub(MS * 1000 + 2 * interval);
            return self.stuck(0, Moment(heard_since.max(since.0)));
        }
        if supers.altered > 0 || !supers.whole && supers.missed >= RUN_MIN {
            return (Reason::OffloadBad, self.super_evidence());
        }
        if loss.1 >= FATES_MIN && more_than(LOSS_TAKE, loss) {
            return (Reason::Lossy, loss_evidence(loss));
        }
        let evidence = format!(
            "{} probes of {} bytes sent, {} heard; {} superframes sent, {} whole",
            tally.full_sent,
            self.voice.full(),
            tally.full_heard,
            supers.sent(),
            if supers.whole {
                "one came"
            } else {
                "none came"
            }
        );
        (Reason::Proving, evidence)
    }

    fn super_evidence(&self) -> String {
        let supers = &self.voice.supers;
        match supers.fault {
            Some(fault) if supers.altered > 0 => format!(
                "{} superframes in a row came with {}",
                supers.altered,
                fault.words()
            ),
            fault => format!(
                "{} superframes in a row did not come whole{}",
                supers.missed,
                if fault == Some(Fault::Incomplete) {
                    ", some of their segments did"
                } else {
                    ""
                }
            ),
        }
    }

    fn silent_evidence(&self, since: Moment, own: Moment) -> String {
        let tally = self.voice.tally(0);
        format!(
            "no report and no echo for {} ms; {} probes sent",
            own.ms_since(since),
            tally.full_sent + tally.small_sent
        )
    }
}

fn loss_evidence((lost, all): (u32, u32)) -> String {
    format!("{lost} of the last {all} probes lost")
}
