//! Which peers can be reached by the kernel's VXLAN, on which network: proved by probes, to their sender, one way at a time.
//!
//! ```text
//!   candidates, sessions, devices --+                         +--> probes, for the network's VXLAN device
//!   probes of peers ----------------+--> a life for each -----+--> reports, for the session
//!   reports of peers, by QUIC ------+    (peer, network)      +--> Open, Close: may the kernel send there?
//!   the kernel's counters of data --+                         +--> transitions, for people
//! ```
//!
//! A path is Up at this end if *our* frames arrive at the far end, as the peer's echo says: in its own probes, or in its
//! reports, whichever is newer. If one direction dies, its sender leaves it, and the other may stay. QUIC is the other way
//! and not this module's business; who has no session at all keeps an open path for [`SESSION_GRACE_MS`], since closing it
//! would leave nothing (a peer that starts anew forwards in its kernel all the while).
//!
//! A direction is dead if full-size probes are overdue *and* an echo that was made later says that they did not arrive. If
//! no echo comes at all, the peer's daemon may be the one that is stuck, and QUIC would be stuck with it: that takes longer.
//!
//! All deadlines are of an own clock that stands still while this host gives us no time. Whoever is late by more than
//! [`LATE_MS`] moves everything by that much, so that a busy host declares nobody dead.
//!
//! Refuses more than [`PATHS_MAX`] paths. What a peer says touches its own path only.

mod candidate;
mod ear;
mod judge;
mod life;
mod reason;
mod rhythm;
mod search;
mod supers;
#[cfg(test)]
mod tests;
mod view;
mod voice;

pub use candidate::{Candidate, Side};
pub use reason::Reason;
pub use view::{PathState, PathView, Transition};

use crate::ident::{MacAddr, Moment, NodeId, Vni};
use crate::offload::KernelTraffic;
use crate::wire::probe::{Heard, Probe, ProbeError, ProbeFrame, parse, probe_mac};
use life::{Context, Life};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Paths of a node.
pub const PATHS_MAX: usize = 16_384;
/// How long a path that is up does without a session, in ms.
pub const SESSION_GRACE_MS: u64 = 30_000;
/// How late [`Paths::handle_timeout`] may come before it counts as late, in ms.
pub const LATE_MS: u64 = 20;
/// How long after its last data a path is active, in ms.
pub const IDLE_MS: u64 = 2000;
/// Least time between two reports on one path, in ms.
pub const REPORT_MS: u64 = 100;
/// Transitions that one path remembers.
pub const HISTORY_MAX: usize = 32;
/// Reports in one message.
const REPORTS_MAX: usize = 256;
/// A report that is due so soon goes with one that is due now.
const REPORT_LEAD_MS: u64 = 30;
/// Lateness that counts as standing still: all waits begin anew.
const STALL_MS: u64 = 1000;
/// Probes of all paths together, in 1000 s.
const RATE_MAX: u64 = 1_300_000;
/// Nanoseconds.
const MS: u64 = 1_000_000;

/// `after` milliseconds later.
fn ms(at: Moment, after: u64) -> Moment {
    at.plus_ms(after)
}

type Key = (NodeId, Vni);

/// What one end tells the other about a path, over the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// The network.
    pub vni: Vni,
    /// What the receiver of this is to put into its probes; another than before means that the sender began anew.
    pub token: u64,
    /// What the sender heard of the receiver's probes.
    pub heard: Heard,
    /// The sender waits for the same from the far end.
    pub ask: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Send a frame through the network's VXLAN device.
    Probe {
        /// To whom.
        peer: NodeId,
        /// On which network.
        vni: Vni,
        /// The frame.
        probe: ProbeFrame,
    },
    /// Send reports over the session; at most 256.
    Report {
        /// To whom.
        peer: NodeId,
        /// One for each network.
        reports: Vec<PathReport>,
    },
    /// From now on the kernel may send frames of the network to the peer.
    Open {
        /// The peer.
        peer: NodeId,
        /// The network.
        vni: Vni,
    },
    /// From now on it must not.
    Close {
        /// The peer.
        peer: NodeId,
        /// The network.
        vni: Vni,
    },
    /// For the record. Comes before the `Open` that belongs to it, and after the `Close`.
    Changed {
        /// The peer.
        peer: NodeId,
        /// The network.
        vni: Vni,
        /// What changed.
        transition: Transition,
    },
}

/// All kernel paths of a node. Drain [`Self::poll_output`] after each call.
pub struct Paths {
    mac: MacAddr,
    rng: SmallRng,
    paths: BTreeMap<Key, Life>,
    /// Whose probes bear which token.
    tokens: BTreeMap<u64, Key>,
    /// One for each path that waits for something, in own time.
    timers: BTreeSet<(Moment, Key)>,
    /// Networks without a device.
    gone: BTreeSet<Vni>,
    /// By how much own time is behind, in nanoseconds.
    lost: u64,
    judge_from: Moment,
    /// What all paths wish to send, in probes per 1000 s.
    rate: u64,
    strange: u64,
    out: VecDeque<Output>,
}

impl Paths {
    /// None yet. `seed` makes the tokens, so it must not be guessable.
    #[must_use]
    pub fn new(me: NodeId, seed: u64) -> Self {
        Self {
            mac: probe_mac(&me),
            rng: SmallRng::seed_from_u64(seed),
            paths: BTreeMap::new(),
            tokens: BTreeMap::new(),
            timers: BTreeSet::new(),
            gone: BTreeSet::new(),
            lost: 0,
            judge_from: Moment(0),
            rate: 0,
            strange: 0,
            out: VecDeque::new(),
        }
    }

    /// What is known of a path; again whenever any of it changes. False if there are [`PATHS_MAX`] already.
    pub fn set(&mut self, peer: NodeId, vni: Vni, candidate: &Candidate, now: Moment) -> bool {
        let own = self.clock(now);
        let key = (peer, vni);
        if !self.paths.contains_key(&key) {
            if self.paths.len() >= PATHS_MAX {
                return false;
            }
            let token = self.token(key);
            self.paths
                .insert(key, Life::new(peer, vni, token, (own, now)));
        } else if candidate.session && self.paths.get(&key).is_some_and(|life| !life.session) {
            // Another session, another token: what the peer sends in the name of the old one is over.
            let token = self.token(key);
            if let Some(life) = self.paths.get_mut(&key) {
                self.tokens.remove(&life.ear.token);
                life.ear.token = token;
                life.ear.forget(own);
            }
        }
        let device = !self.gone.contains(&vni);
        self.with(key, own, now, |life, context| {
            life.set(candidate, device, context);
        });
        true
    }

    /// There is no such path any more. It is closed if it was open.
    pub fn remove(&mut self, peer: NodeId, vni: Vni, now: Moment) {
        let own = self.clock(now);
        let key = (peer, vni);
        self.with(key, own, now, Life::removed);
        if let Some(life) = self.paths.remove(&key) {
            self.tokens.remove(&life.ear.token);
            self.timers.remove(&(life.due, key));
            self.rate = self.rate.saturating_sub(life.rate);
        }
    }

    /// Is the network's VXLAN device there? It is taken to be until this says otherwise.
    pub fn device(&mut self, vni: Vni, there: bool, now: Moment) {
        let own = self.clock(now);
        let changed = if there {
            self.gone.remove(&vni)
        } else {
            self.gone.insert(vni)
        };
        if changed {
            for key in self.keys(|key| key.1 == vni) {
                self.with(key, own, now, |life, context| {
                    life.set_device(there, context)
                });
            }
        }
    }

    /// The kernel forwards to this peer already, as a daemon before this one left it: the path is up until probes say
    /// otherwise. To be called after [`Self::set`]. False if it cannot be, because of anything but a missing session.
    pub fn adopt(&mut self, peer: NodeId, vni: Vni, now: Moment) -> bool {
        let own = self.clock(now);
        let adopted = self.with((peer, vni), own, now, Life::adopt);
        adopted.unwrap_or(false)
    }

    /// A frame came out of the network's VXLAN device. True if it was a probe, good or bad, and is done with.
    pub fn frame(&mut self, vni: Vni, frame: &[u8], now: Moment) -> bool {
        let Some(probe) = parse(frame) else {
            return false;
        };
        let own = self.clock(now);
        let token = match &probe {
            Ok(Probe::Plain(plain)) => plain.token,
            Ok(Probe::Segment(segment)) => segment.token,
            Err(ProbeError::Altered { token, .. }) => *token,
            Err(ProbeError::Version { .. }) => 0,
        };
        let mine = self.mac;
        let ours = self.tokens.get(&token).copied().filter(|key| {
            let Some(life) = self.paths.get(key) else {
                return false;
            };
            let from_to = match &probe {
                Ok(Probe::Plain(plain)) => Some((plain.src, plain.dst)),
                Ok(Probe::Segment(segment)) => Some((segment.src, segment.dst)),
                Err(_) => None,
            };
            key.1 == vni && from_to.is_none_or(|from_to| from_to == (life.mac, mine))
        });
        let Some(key) = ours else {
            self.strange = self.strange.saturating_add(1);
            return true;
        };
        self.with(key, own, now, |life, context| match probe {
            Ok(Probe::Plain(plain)) => life.plain(&plain, context),
            Ok(Probe::Segment(segment)) => life.segment(&segment, context.own),
            Err(ProbeError::Altered {
                superframe, fault, ..
            }) => life.altered(superframe, fault),
            Err(ProbeError::Version { .. }) => {}
        });
        true
    }

    /// A report came over the session with `peer`.
    pub fn report(&mut self, peer: NodeId, report: &PathReport, now: Moment) {
        let own = self.clock(now);
        self.with((peer, report.vni), own, now, |life, context| {
            life.report(report, context);
        });
    }

    /// Data frames that the kernel sent to the peer and heard of it on this path since this was told last: some twenty times a second
    /// for paths with traffic.
    pub fn traffic(&mut self, peer: NodeId, vni: Vni, passed: KernelTraffic, now: Moment) {
        let own = self.clock(now);
        self.with((peer, vni), own, now, |life, context| {
            life.traffic(passed, context);
        });
    }

    /// Time passed; see [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Moment) {
        let own = self.clock(now);
        let due: Vec<Key> = self
            .timers
            .iter()
            .take_while(|(at, _)| *at <= own)
            .map(|&(_, key)| key)
            .collect();
        for &key in &due {
            self.with(key, own, now, |_, _| ());
        }
        let mut peer = None;
        for &key in &due {
            if peer != Some(key.0) || self.report_within(key, own, 0) {
                peer = Some(key.0);
                self.report_to(key.0, own);
            }
        }
        let soon = ms(own, 1);
        for key in due {
            // Whatever was missed has a chance in a millisecond, and this call comes to an end.
            self.plan(key, own, soon);
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.timers.first().map(|&(at, _)| self.real(at))
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// May the kernel send frames of the network to the peer?
    #[must_use]
    pub fn is_open(&self, peer: NodeId, vni: Vni) -> bool {
        self.paths.get(&(peer, vni)).is_some_and(Life::is_up)
    }

    /// Probes that no peer of ours can have sent: wrong token, wrong network, wrong address.
    #[must_use]
    pub fn strange(&self) -> u64 {
        self.strange
    }

    /// Has anything of the peer come in by a path that is up, data or probes, in the last `within` milliseconds? Its kernel
    /// forwards then, whatever its daemon does.
    #[must_use]
    pub fn hears(&self, peer: NodeId, within: u64, now: Moment) -> bool {
        let own = Moment(now.0.saturating_sub(self.lost));
        let of_peer = (peer, Vni::MIN)..=(peer, Vni::MAX);
        let mut lives = self.paths.range(of_peer).map(|(_, life)| life);
        lives.any(|life| {
            let last = life.ear.last;
            life.is_up() && last.is_some_and(|last| own.ms_since(last) < within)
        })
    }

    /// One path, for people.
    #[must_use]
    pub fn view(&self, peer: NodeId, vni: Vni, now: Moment) -> Option<PathView> {
        let own = Moment(now.0.saturating_sub(self.lost));
        let life = self.paths.get(&(peer, vni))?;
        Some(life.view(own, |at| self.real(at)))
    }

    /// All of them, by peer and network.
    pub fn views(&self, now: Moment) -> impl Iterator<Item = PathView> + '_ {
        let own = Moment(now.0.saturating_sub(self.lost));
        let lives = self.paths.values();
        lives.map(move |life| life.view(own, |at| self.real(at)))
    }

    fn real(&self, own: Moment) -> Moment {
        Moment(own.0.saturating_add(self.lost))
    }

    /// Own time. If the first timer is late, so are we: time stood still since it was due.
    fn clock(&mut self, now: Moment) -> Moment {
        let own = Moment(now.0.saturating_sub(self.lost));
        let Some(&(due, _)) = self.timers.first() else {
            return own;
        };
        let late = own.0.saturating_sub(due.0);
        if late <= LATE_MS * MS {
            return own;
        }
        self.lost = self.lost.saturating_add(late);
        self.judge_from = ms(due, LATE_MS);
        if late >= STALL_MS * MS {
            for key in self.keys(|_| true) {
                self.with(key, due, now, |life, context| life.stalled(late, context));
            }
        }
        due
    }

    fn keys(&self, wanted: impl Fn(&Key) -> bool) -> Vec<Key> {
        self.paths.keys().copied().filter(wanted).collect()
    }

    fn token(&mut self, key: Key) -> u64 {
        loop {
            let token = self.rng.random_range(1..=u64::MAX);
            if let std::collections::btree_map::Entry::Vacant(place) = self.tokens.entry(token) {
                place.insert(key);
                return token;
            }
        }
    }

    /// Lets something happen to a path, and then what follows from it.
    fn with<R>(
        &mut self,
        key: Key,
        own: Moment,
        now: Moment,
        what: impl FnOnce(&mut Life, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let stretch = (self.rate.saturating_mul(1000) / RATE_MAX).max(1000);
        let history_max = (2048 * HISTORY_MAX / self.paths.len().max(1)).clamp(4, HISTORY_MAX);
        let life = self.paths.get_mut(&key)?;
        let mut context = Context {
            mac: self.mac,
            own,
            real: now,
            judge_from: self.judge_from,
            stretch,
            history_max,
            rng: &mut self.rng,
            out: &mut self.out,
        };
        let returned = what(life, &mut context);
        life.settle(&mut context);
        let rate = life.wished_rate(own);
        self.rate = self.rate.saturating_sub(life.rate).saturating_add(rate);
        life.rate = rate;
        self.plan(key, own, own);
        Some(returned)
    }

    /// Sets the path's timer, not before `least`.
    fn plan(&mut self, key: Key, own: Moment, least: Moment) {
        if let Some(life) = self.paths.get_mut(&key) {
            self.timers.remove(&(life.due, key));
            if let Some(due) = life.poll_timeout(own, self.judge_from) {
                life.due = due.max(least);
                self.timers.insert((life.due, key));
            }
        }
    }

    fn report_within(&self, key: Key, own: Moment, lead_ms: u64) -> bool {
        let at = self.paths.get(&key).and_then(|life| life.report_at(own));
        at.is_some_and(|at| at <= ms(own, lead_ms))
    }

    /// Sends the reports that are due, in one message, with those that will be in a moment.
    fn report_to(&mut self, peer: NodeId, own: Moment) {
        let first = Vni::new(1).ok().map(|vni| (peer, vni));
        let keys: Vec<Key> = first
            .into_iter()
            .flat_map(|first| self.paths.range(first..))
            .map(|(&key, _)| key)
            .take_while(|key| key.0 == peer)
            .collect();
        if !keys.iter().any(|&key| self.report_within(key, own, 0)) {
            return;
        }
        let mut reports = Vec::new();
        for key in keys {
            if reports.len() < REPORTS_MAX && self.report_within(key, own, REPORT_LEAD_MS) {
                reports.extend(self.paths.get_mut(&key).map(|life| life.make_report(own)));
                self.plan(key, own, own);
            }
        }
        self.out.push_back(Output::Report { peer, reports });
    }
}
