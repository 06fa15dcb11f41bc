//! A lane: one input of the switch (a port, or a peer) with its cache of rulings, and the frames that wait for one.
//!
//! ```text
//!   frame -> key -> exact front -> tuples (key & mask) -- hit --> act: forward | drop | consume
//!                                        | miss
//!                                        v
//!                              parked behind ONE upcall per key --- ruling ---> act on all of them, in order
//! ```
//!
//! Owns what happens between a frame's arrival and the decision on it. Decides nothing: it obeys [`Ruling`]s, and those only
//! in the epoch in which they were made. A hit allocates nothing. Every table has a bound, named in [`LaneLimits`].
//!
//! A mask is a look that every frame pays for which the front does not know, so a lane has few of them. Where they are spent, a
//! ruling is kept under the narrowest mask here that holds all of its own, and at worst for its very key: what is kept then
//! is true as before, of fewer frames. So a sender that makes policy answer with ever new masks (tuple space explosion,
//! CVE-2019-25076) gets misses, and takes no mask away from anybody. The looks go by how often they found something.
//!
//! Order within a flow holds, since frames of a key wait behind the first one, also when a wider ruling that covers them
//! comes before theirs. ARP and ND are not gathered by key: the key
//! does not hold all that the switch checks in them, so each has an upcall of its own.
//!
//! A gate of the kernel may hold a ruling for exact flows only. Then each flow that the front does not know is offered to the
//! switch beside its being forwarded, so that its next frames do not come here; [`LaneLimits::offers_per_s`] bounds that.
//!
//! Flooding bypasses the switch once a ruling is cached, so the allowance for it is kept here: a frame with more than one
//! receiver costs a token, and a lane has [`LaneLimits::floods_per_s`] of them a second and saves up one second's worth.
//! A frame with a single receiver costs no more than unicast does and is not limited.

mod front;

use self::front::{Front, Hint, Spot};
use crate::conntrack::{Opener, Seen, Subject, Tracked, Zones};
use crate::edit::Edit;
use crate::flow::{FlowKey, FlowMask, IpKind, Origin};
use crate::frame::Frame;
use crate::ident::{Epoch, Moment, UpcallId, Vni};
use crate::offload::Obstacle;
use crate::ruling::{Action, Copied, DropCounts, DropReason, Megaflow, Output, PuntOrder, Ruling};
use crate::steering::Route;
use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How big a lane may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Cached megaflows.
    pub flows: usize,
    /// Different masks among them, beside that of whole keys.
    pub masks: usize,
    /// Upcalls that are not answered yet.
    pub upcalls: usize,
    /// Frames that wait behind one upcall.
    pub parked_per_upcall: usize,
    /// Frames that wait, in all.
    pub parked: usize,
    /// Bytes of the frames that wait.
    pub parked_bytes: usize,
    /// Frames with more than one receiver, per second.
    pub floods_per_s: u32,
    /// Copies that are made for mirrors, or taken from a peer's, per second.
    pub copies_per_s: u32,
    /// Flows that are offered to the kernel, per second.
    pub offers_per_s: u32,
    /// How long an upcall is waited for, in ms. More than [`policy::ANSWER_MS_MAX`](crate::policy::ANSWER_MS_MAX), so that
    /// the switch says first why.
    pub upcall_ms: u64,
    /// A megaflow without a frame for so long is forgotten, in ms.
    pub idle_ms: u64,
}

impl Default for LaneLimits {
    fn default() -> Self {
        Self {
            flows: 4096,
            masks: 32,
            upcalls: 256,
            parked_per_upcall: 64,
            parked: 512,
            parked_bytes: 1 << 20,
            floods_per_s: 1000,
            copies_per_s: 10_000,
            offers_per_s: 2000,
            upcall_ms: 3000,
            idle_ms: 10_000,
        }
    }
}

/// How often idle megaflows are looked for.
const SWEEP_MS: u64 = 5000;

/// What to do with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a copy to each.
    Forward {
        /// As it came.
        frame: Bytes,
        /// Never empty.
        to: Arc<[Output]>,
        /// To be done to the frame first.
        edits: Option<Arc<[Edit]>>,
        /// By which way to the peer, if it goes to one.
        route: Route,
        /// Copies of it as it goes, each if [`Lane::may_copy`] lets it.
        copies: Option<Arc<[Copied]>>,
        /// The kernel could hold this flow: tell the node of it ([`Input::Offer`](crate::node::Input::Offer)). If that
        /// fails, call [`Lane::offer_refused`].
        offer: bool,
    },
    /// It waits for a ruling that is on its way.
    Parked,
    /// It waits; send this upcall to the node. If that fails, call [`Lane::upcall_refused`].
    Upcall {
        /// To be named in the ruling.
        upcall: UpcallId,
        /// As it came.
        frame: Bytes,
        /// What is known of its connection.
        ct: Tracked,
    },
    /// Counted and gone.
    Dropped(DropReason),
    /// By a cached ruling nothing is to be done with it.
    Consumed,
}

/// Frames whose ruling came, in order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The network of the frames.
    pub vni: Vni,
    /// The receivers of each frame.
    pub to: Arc<[Output]>,
    /// To be done to each frame first.
    pub edits: Option<Arc<[Edit]>>,
    /// By which way to the peer, if they go to one.
    pub route: Route,
    /// Copies of each as it goes, each if [`Lane::may_copy`] lets it.
    pub copies: Option<Arc<[Copied]>>,
    /// Those that are to be forwarded.
    pub frames: Vec<Bytes>,
}

/// A frame for controllers; see [`Lane::punted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Punted {
    /// Its fields.
    pub key: FlowKey,
    /// As it came.
    pub frame: Bytes,
    /// Whose, and what they were asked.
    pub to: Arc<[PuntOrder]>,
}

/// What a lane counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneCounters {
    /// Frames that came.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that a cached ruling decided.
    pub hits: u64,
    /// Upcalls sent.
    pub upcalls: u64,
    /// Frames dropped by this lane, or by the shell on its behalf.
    pub drops: DropCounts,
}

/// The last frame that a lane dropped for a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneDrop {
    /// Why.
    pub reason: DropReason,
    /// When.
    pub at: Moment,
    /// What it was, if it was a frame.
    pub key: Option<FlowKey>,
    /// The meter that had no room, if it was one.
    pub meter: Option<Arc<str>>,
}

/// A cached ruling, as an operator may want to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFlow {
    /// What it speaks of.
    pub flow: Megaflow,
    /// What is done.
    pub action: Action,
    /// Why the kernel does not hold it; `None`: it does.
    pub obstacle: Option<Obstacle>,
    /// Since when it is cached here.
    pub since: Moment,
    /// Last frame.
    pub used: Moment,
    /// Frames that it decided in this lane, those that waited for it included.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Debug)]
struct Flow {
    flow: Megaflow,
    /// Its `cache` is in `flow`.
    ruling: Ruling,
    since: Moment,
    used: Moment,
    /// A frame came since the hand last came by.
    recent: bool,
    frames: u64,
    bytes: u64,
}

impl Flow {
    /// True while its time and its time without frames last.
    fn is_fresh(&self, now: Moment) -> bool {
        let idle = self.flow.idle_ms;
        self.flow.until.is_none_or(|until| now < until)
            && idle.is_none_or(|ms| now.ms_since(self.used) < u64::from(ms))
    }
}

/// A place for a flow; `turn` grows each time it is given away, so that the front notices.
#[derive(Debug, Default)]
struct Slot {
    turn: u32,
    flow: Option<Flow>,
}

#[derive(Debug)]
struct Tuple {
    mask: FlowMask,
    /// Frames that found a flow here of late; halved at each sweep.
    hits: u64,
    flows: HashMap<FlowKey, u32, FixedState>,
}

/// So many a second; what was not used is saved up, a second's worth at most.
#[derive(Debug)]
struct Allowance {
    /// In nanoseconds.
    credit: u64,
    seen: Moment,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            credit: 1_000_000_000,
            seen: Moment(0),
        }
    }
}

impl Allowance {
    fn spend(&mut self, per_s: u32, now: Moment) -> bool {
        let price = 1_000_000_000 / u64::from(per_s.max(1));
        let earned = now.0.saturating_sub(self.seen.0);
        self.credit = self.credit.saturating_add(earned).min(1_000_000_000);
        self.seen = self.seen.max(now);
        let paid = self.credit.checked_sub(price);
        self.credit = paid.unwrap_or(self.credit);
        paid.is_some()
    }
}

#[derive(Debug)]
struct Waiting {
    key: FlowKey,
    frames: Vec<Bytes>,
    deadline: Moment,
}

/// One input of the switch.
#[derive(Debug)]
pub struct Lane {
    origin: Origin,
    limits: LaneLimits,
    hasher: FixedState,
    front: Front,
    slots: Vec<Slot>,
    free: Vec<u32>,
    tuples: Vec<Tuple>,
    /// Where the search for a flow to give up goes on.
    hand: usize,
    next_sweep: Moment,
    /// The epoch for which room was made among the masks.
    swept_for: Epoch,
    waiting: BTreeMap<UpcallId, Waiting>,
    waiting_by_key: HashMap<FlowKey, UpcallId, FixedState>,
    /// Connections of tracked networks.
    seen: Seen,
    next_upcall: UpcallId,
    /// Of the last frame, or of those that were released last.
    punted: Vec<Punted>,
    parked: usize,
    parked_bytes: usize,
    floods: Allowance,
    copies: Allowance,
    offers: Allowance,
    /// Where the front has the flow that was offered last.
    offered: Spot,
    counters: LaneCounters,
    last_drops: Vec<LaneDrop>,
}

impl Lane {
    /// An empty lane. `seed` makes its hashes unknown to senders and its upcall numbers different from those of a lane
    /// before it with the same origin, so it must differ each time.
    #[must_use]
    pub fn new(origin: Origin, limits: LaneLimits, seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        Self {
            origin,
            limits,
            hasher: hasher.clone(),
            front: Front::new(hasher.clone()),
            slots: Vec::new(),
            free: Vec::new(),
            tuples: Vec::new(),
            hand: 0,
            next_sweep: Moment(0),
            swept_for: Epoch(0),
            waiting: BTreeMap::new(),
            waiting_by_key: HashMap::with_hasher(hasher),
            seen: Seen::new(seed.rotate_left(32)),
            next_upcall: UpcallId(seed >> 1),
            punted: Vec::new(),
            parked: 0,
            parked_bytes: 0,
            floods: Allowance::default(),
            copies: Allowance::default(),
            offers: Allowance::default(),
            offered: Spot::default(),
            counters: LaneCounters::default(),
            last_drops: Vec::new(),
        }
    }

    /// Whose lane it is.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> &LaneCounters {
        &self.counters
    }

    /// The last drop of each reason, in order of the reason's first appearance.
    #[must_use]
    pub fn last_drops(&self) -> &[LaneDrop] {
        &self.last_drops
    }

    /// Cached megaflows, and frames that wait.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.slots.len() - self.free.len(), self.parked)
    }

    /// Rulings that are obeyed in `epoch`, as they lie in the cache.
    pub fn flows(&self, epoch: Epoch, now: Moment) -> impl Iterator<Item = LaneFlow> + '_ {
        let live = move |f: &&Flow| f.flow.epoch == epoch && f.is_fresh(now);
        let slots = self.slots.iter().filter_map(|slot| slot.flow.as_ref());
        slots.filter(live).map(|f| LaneFlow {
            flow: f.flow.clone(),
            action: f.ruling.action.clone(),
            obstacle: f.ruling.obstacle,
            since: f.since,
            used: f.used,
            frames: f.frames,
            bytes: f.bytes,
        })
    }

    /// What waits for a ruling: the key, and how many frames.
    pub fn waiting(&self) -> impl Iterator<Item = (FlowKey, usize)> + '_ {
        self.waiting.values().map(|w| (w.key, w.frames.len()))
    }

    /// A frame arrived on network `vni`, which is not tracked; `epoch` is the current one.
    pub fn frame(&mut self, vni: Vni, frame: Bytes, epoch: Epoch, now: Moment) -> Step {
        self.frame_in(Zones::NONE, vni, frame, epoch, now)
    }

    /// A frame arrived on network `vni`; `epoch` is the current one, and was read before `zones`.
    pub fn frame_in(
        &mut self,
        zones: &Zones,
        vni: Vni,
        frame: Bytes,
        epoch: Epoch,
        now: Moment,
    ) -> Step {
        self.counters.frames += 1;
        self.counters.bytes += frame.len() as u64;
        let Ok(parsed) = Frame::parse(&frame) else {
            return self.drop_frame(DropReason::Malformed, None, now);
        };
        let mut key = parsed.flow_key(vni);
        let zone = zones.get(vni);
        let mut subject = Subject::None;
        if let Some(zone) = zone {
            subject = parsed.subject(&key);
            key = key.with_ct(zone.look(&mut self.seen, &subject, now));
        }
        // A wider ruling may have come first: what waits of this flow still goes before this frame.
        if !self.waiting_by_key.is_empty() && self.waiting_by_key.contains_key(&key) {
            return self.park(key, frame, now);
        }
        let Some((slot, offer)) = self.find(&key, epoch, now) else {
            return self.park(key, frame, now);
        };
        let Some(flow) = self
            .slots
            .get_mut(slot as usize)
            .and_then(|s| s.flow.as_mut())
        else {
            return self.park(key, frame, now);
        };
        self.counters.hits += 1;
        flow.used = now;
        flow.recent = true;
        flow.frames += 1;
        flow.bytes += frame.len() as u64;
        if frame.len() > flow.ruling.longest as usize {
            return self.drop_frame(DropReason::TooLong, Some(key), now);
        }
        let ruling = flow.ruling.choose(&key);
        if let Some(to) = ruling.punts.clone() {
            let frame = frame.clone();
            self.punted.push(Punted { key, frame, to });
        }
        if let Some(dues) = ruling.dues.clone()
            && let Err(meter) = dues.pay(frame.len(), now)
        {
            self.count_metered(1, meter, key, now);
            return Step::Dropped(DropReason::Metered);
        }
        match &ruling.action {
            Action::Forward(to) => {
                let (to, edits, copies) =
                    (Arc::clone(to), ruling.edits.clone(), ruling.copies.clone());
                let track = ruling.track.clone();
                let route = ruling.ways.as_deref().map_or(Some(Route::Any), |ways| {
                    ways.route(key.flow_hash(&self.hasher), now)
                });
                let Some(route) = route else {
                    return self.drop_frame(DropReason::PathLost, Some(key), now);
                };
                if self.may_flood(to.len(), now) {
                    if let Some(zone) = zone {
                        let opener = Opener::of(self.origin, key.src_mac);
                        zone.pass(&mut self.seen, &subject, now);
                        if let Some(order) = track {
                            zone.order(&mut self.seen, &subject, opener, &order, now);
                        }
                    }
                    Step::Forward {
                        frame,
                        to,
                        edits,
                        route,
                        copies,
                        offer,
                    }
                } else {
                    self.drop_frame(DropReason::BumLimit, Some(key), now)
                }
            }
            &Action::Drop(reason) => self.drop_frame(reason, Some(key), now),
            Action::Consume => Step::Consumed,
        }
    }

    /// The ruling on an upcall: it is kept if it says so, and done to the frames that wait. One on an upcall that is
    /// not waited for any more is kept all the same.
    pub fn ruling(&mut self, upcall: UpcallId, ruling: Ruling, now: Moment) -> Option<Released> {
        self.ruling_in(Zones::NONE, upcall, ruling, now)
    }

    /// As [`Self::ruling`], where networks are tracked.
    pub fn ruling_in(
        &mut self,
        zones: &Zones,
        upcall: UpcallId,
        ruling: Ruling,
        now: Moment,
    ) -> Option<Released> {
        let waited = self.take_waiting(upcall);
        if let Some(flow) = ruling.cache.clone() {
            let frames = waited.as_ref().map_or(&[][..], |w| &w.frames);
            let entry = Flow {
                flow,
                ruling: Ruling {
                    cache: None,
                    ..ruling.clone()
                },
                since: now,
                used: now,
                recent: false,
                frames: frames.len() as u64,
                bytes: frames.iter().map(|frame| frame.len() as u64).sum(),
            };
            let key = waited.as_ref().map(|w| w.key);
            let slot = self.install(entry, key.as_ref(), now);
            if let (Some(slot), Some(Waiting { key, .. })) = (slot, &waited) {
                self.remember(self.front.spot(key), slot);
            }
        }
        let Waiting {
            key, mut frames, ..
        } = waited?;
        let longest = ruling.longest as usize;
        let ruling = ruling.choose(&key).clone();
        let before = frames.len();
        frames.retain(|frame| frame.len() <= longest);
        self.count_drop(
            DropReason::TooLong,
            (before - frames.len()) as u64,
            Some(key),
            now,
        );
        if let Some(to) = ruling.punts {
            let punted = |frame: &Bytes| Punted {
                key,
                frame: frame.clone(),
                to: Arc::clone(&to),
            };
            self.punted.extend(frames.iter().map(punted));
        }
        if let Some(dues) = &ruling.dues {
            frames.retain(|frame| match dues.pay(frame.len(), now) {
                Ok(()) => true,
                Err(meter) => {
                    self.count_metered(1, meter, key, now);
                    false
                }
            });
        }
        match ruling.action {
            Action::Forward(to) => {
                let before = frames.len();
                frames.retain(|_| self.may_flood(to.len(), now));
                self.count_drop(
                    DropReason::BumLimit,
                    (before - frames.len()) as u64,
                    Some(key),
                    now,
                );
                if let Some(zone) = zones.get(key.vni) {
                    let opener = Opener::of(self.origin, key.src_mac);
                    for frame in &frames {
                        let Ok(parsed) = Frame::parse(frame) else {
                            continue;
                        };
                        let subject = parsed.subject(&key);
                        zone.pass(&mut self.seen, &subject, now);
                        if let Some(order) = &ruling.track {
                            zone.order(&mut self.seen, &subject, opener, order, now);
                        }
                    }
                }
                let route = ruling.ways.as_deref().map_or(Some(Route::Any), |ways| {
                    ways.route(key.flow_hash(&self.hasher), now)
                });
                let Some(route) = route else {
                    self.count_drop(DropReason::PathLost, frames.len() as u64, Some(key), now);
                    return None;
                };
                (!frames.is_empty()).then_some(Released {
                    vni: key.vni,
                    to,
                    edits: ruling.edits,
                    route,
                    copies: ruling.copies,
                    frames,
                })
            }
            Action::Drop(reason) => {
                self.count_drop(reason, frames.len() as u64, Some(key), now);
                None
            }
            Action::Consume => None,
        }
    }

    /// Copies that the last call of [`Self::frame_in`] or [`Self::ruling_in`] made for controllers, in order of arrival; to be
    /// taken before the next one.
    pub fn punted(&mut self) -> std::vec::Drain<'_, Punted> {
        self.punted.drain(..)
    }

    /// The shell could not hand the upcall over: the frames behind it are dropped.
    pub fn upcall_refused(&mut self, upcall: UpcallId, now: Moment) {
        if let Some(Waiting { key, frames, .. }) = self.take_waiting(upcall) {
            self.count_drop(
                DropReason::UpcallQueueFull,
                frames.len() as u64,
                Some(key),
                now,
            );
        }
    }

    /// The shell could not hand the last offer over: the flow is offered again.
    pub fn offer_refused(&mut self) {
        self.front.forget(self.offered);
    }

    /// Counts drops, also for the shell: where a receiver does not take a frame of this lane.
    pub fn count_drop(
        &mut self,
        reason: DropReason,
        frames: u64,
        key: Option<FlowKey>,
        now: Moment,
    ) {
        if frames == 0 {
            return;
        }
        self.counters.drops.add(reason, frames);
        // One row for each reason, so at most as many as there are reasons.
        match self.last_drops.iter_mut().find(|d| d.reason == reason) {
            Some(last) => (last.at, last.key) = (now, key),
            None => self.last_drops.push(LaneDrop {
                reason,
                at: now,
                key,
                meter: None,
            }),
        }
    }

    fn count_metered(&mut self, frames: u64, meter: &Arc<str>, key: FlowKey, now: Moment) {
        self.count_drop(DropReason::Metered, frames, Some(key), now);
        let metered = |d: &&mut LaneDrop| d.reason == DropReason::Metered;
        if let Some(last) = self.last_drops.iter_mut().find(metered) {
            last.meter = Some(Arc::clone(meter));
        }
    }

    /// Gives up upcalls that took too long, and megaflows without frames.
    pub fn handle_timeout(&mut self, now: Moment) {
        while let Some((&upcall, waiting)) = self.waiting.first_key_value() {
            if waiting.deadline > now {
                break;
            }
            if let Some(Waiting { key, frames, .. }) = self.take_waiting(upcall) {
                self.count_drop(
                    DropReason::UpcallTimeout,
                    frames.len() as u64,
                    Some(key),
                    now,
                );
            }
        }
        if self.next_sweep <= now {
            self.next_sweep = now.plus_ms(SWEEP_MS);
            for slot in 0..self.slots.len() {
                if self.is_over(slot, now) {
                    self.evict(slot);
                }
            }
            self.tuples.sort_by_key(|t| core::cmp::Reverse(t.hits));
            self.tuples.iter_mut().for_each(|t| t.hits /= 2);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        // Upcalls are numbered as they are made and all wait equally long: the first one is due first.
        let upcall = self.waiting.first_key_value().map(|(_, w)| w.deadline);
        let sweep = (self.slots.len() > self.free.len()).then_some(self.next_sweep);
        upcall.into_iter().chain(sweep).min()
    }

    fn drop_frame(&mut self, reason: DropReason, key: Option<FlowKey>, now: Moment) -> Step {
        self.count_drop(reason, 1, key, now);
        Step::Dropped(reason)
    }

    /// May one more copy be made, or taken? Counted as [`DropReason::MirrorLimit`] if not: copies have a rate of their own, so
    /// that a mirror does not take the traffic's place.
    pub fn may_copy(&mut self, now: Moment) -> bool {
        let may = self.copies.spend(self.limits.copies_per_s, now);
        if !may {
            self.count_drop(DropReason::MirrorLimit, 1, None, now);
        }
        may
    }

    fn may_flood(&mut self, receivers: usize, now: Moment) -> bool {
        if receivers < 2 {
            return true;
        }
        self.floods.spend(self.limits.floods_per_s, now)
    }

    // The cache.

    fn holds(&self, slot: u32, epoch: Epoch, now: Moment) -> bool {
        let flow = self.slots.get(slot as usize).and_then(|s| s.flow.as_ref());
        flow.is_some_and(|f| f.flow.epoch == epoch && f.is_fresh(now))
    }

    fn remember(&mut self, spot: Spot, slot: u32) {
        if let Some(turn) = self.slots.get(slot as usize).map(|slot| slot.turn) {
            self.front.put(spot, Hint { slot, turn });
        }
    }

    /// True if the slot still has the flow that was put there, and the key is under its mask.
    fn is_of(&self, hint: Hint, key: &FlowKey) -> bool {
        let slot = self.slots.get(hint.slot as usize);
        let slot = slot.filter(|slot| slot.turn == hint.turn);
        let flow = slot.and_then(|slot| slot.flow.as_ref());
        flow.is_some_and(|flow| flow.flow.mask.apply(key) == flow.flow.key)
    }

    /// The slot of the flow, and whether the kernel could hold this key and has not been offered it.
    fn find(&mut self, key: &FlowKey, epoch: Epoch, now: Moment) -> Option<(u32, bool)> {
        let spot = self.front.spot(key);
        let mut hints = self.front.hints(spot);
        if let Some(hint) =
            hints.find(|hint| self.holds(hint.slot, epoch, now) && self.is_of(*hint, key))
        {
            return Some((hint.slot, false));
        }
        drop(hints);
        let (at, found) = self
            .tuples
            .iter()
            .enumerate()
            .filter_map(|(at, t)| Some((at, *t.flows.get(&t.mask.apply(key))?)))
            .find(|&(_, slot)| self.holds(slot, epoch, now))?;
        if let Some(tuple) = self.tuples.get_mut(at) {
            tuple.hits += 1;
        }
        let flow = self.slots.get(found as usize)?.flow.as_ref()?;
        let offer = flow.ruling.each_flow && self.offers.spend(self.limits.offers_per_s, now);
        // One that could not be offered now comes by again.
        if offer || !flow.ruling.each_flow {
            self.remember(spot, found);
        }
        if offer {
            self.offered = spot;
        }
        Some((found, offer))
    }

    /// `key`: of the frame that was asked about, if it still waited.
    fn install(&mut self, mut entry: Flow, key: Option<&FlowKey>, now: Moment) -> Option<u32> {
        if self.limits.flows == 0 {
            return None;
        }
        let mut mask = self.mask_for(entry.flow.mask);
        if mask != entry.flow.mask && self.swept_for != entry.flow.epoch {
            // Masks of an epoch that is over take up room yet. Once an epoch, since it is a look at every flow.
            self.swept_for = entry.flow.epoch;
            self.sweep_stale(entry.flow.epoch);
            mask = self.mask_for(entry.flow.mask);
        }
        if mask != entry.flow.mask {
            // The bits that it did not rest on are not in the ruling's own key.
            entry.flow.key = *key?;
            entry.flow.mask = mask;
        }
        entry.flow.key = entry.flow.mask.apply(&entry.flow.key);
        let (key, mask) = (entry.flow.key, entry.flow.mask);
        let old = self
            .tuples
            .iter()
            .find(|t| t.mask == mask)
            .and_then(|t| t.flows.get(&key));
        if let Some(&number) = old
            && let Some(slot) = self.slots.get_mut(number as usize)
        {
            if let Some(before) = &slot.flow {
                // The same flow in a new epoch: it goes on.
                entry.since = before.since;
                entry.frames += before.frames;
                entry.bytes += before.bytes;
            }
            slot.flow = Some(entry);
            return Some(number);
        }
        // Room first: to evict may remove tuples.
        let slot = self.free_slot(now);
        let tuple = self.tuple_of(mask);
        if let (Some(place), Some(tuple)) = (
            self.slots.get_mut(slot as usize),
            self.tuples.get_mut(tuple),
        ) {
            place.flow = Some(entry);
            tuple.flows.insert(key, slot);
            return Some(slot);
        }
        None
    }

    fn sweep_stale(&mut self, epoch: Epoch) {
        for slot in 0..self.slots.len() {
            let flow = self.slots.get(slot).and_then(|s| s.flow.as_ref());
            if flow.is_some_and(|f| f.flow.epoch != epoch) {
                self.evict(slot);
            }
        }
    }

    /// The mask under which a ruling on `mask` can be kept: that one, where it is here or there is room for it; else the
    /// narrowest here that holds all of it; else that of whole keys, which has a place in any case.
    fn mask_for(&self, mask: FlowMask) -> FlowMask {
        let exact = FlowMask::exact();
        let masks = self.tuples.iter().map(|t| t.mask);
        if masks.clone().any(|one| one == mask)
            || masks.clone().filter(|one| *one != exact).count() < self.limits.masks
        {
            return mask;
        }
        masks
            .filter(|one| one.is_superset(&mask))
            .min_by_key(FlowMask::weight)
            .unwrap_or(exact)
    }

    fn tuple_of(&mut self, mask: FlowMask) -> usize {
        if let Some(at) = self.tuples.iter().position(|t| t.mask == mask) {
            return at;
        }
        self.tuples.push(Tuple {
            mask,
            hits: 0,
            flows: HashMap::with_hasher(self.hasher.clone()),
        });
        self.tuples.len() - 1
    }

    /// A slot without a flow; where all have one, the first that has seen no frame since the hand last came by gives way.
    fn free_slot(&mut self, now: Moment) -> u32 {
        if self.free.is_empty() && self.slots.len() < self.limits.flows {
            self.slots.push(Slot::default());
            return (self.slots.len() - 1) as u32;
        }
        if self.free.is_empty() {
            // A bounded look for one that nobody would miss, then whichever is next.
            let (hand, all) = (self.hand, self.slots.len());
            let found = (0..64)
                .map(|step| (hand + step) % all)
                .find(|&slot| self.is_over(slot, now) || !self.spare(slot));
            let slot = found.unwrap_or(self.hand % self.slots.len());
            self.hand = slot + 1;
            self.evict(slot);
        }
        self.free.pop().unwrap_or_default()
    }

    /// True if the slot's flow is out of time or idle.
    fn is_over(&self, slot: usize, now: Moment) -> bool {
        let flow = self.slots.get(slot).and_then(|s| s.flow.as_ref());
        flow.is_some_and(|f| now.ms_since(f.used) >= self.limits.idle_ms || !f.is_fresh(now))
    }

    /// True, once, if a frame came since it was asked last.
    fn spare(&mut self, slot: usize) -> bool {
        let flow = self.slots.get_mut(slot).and_then(|s| s.flow.as_mut());
        flow.is_some_and(|f| core::mem::take(&mut f.recent))
    }

    fn evict(&mut self, slot: usize) {
        let Some(place) = self.slots.get_mut(slot) else {
            return;
        };
        let Some(flow) = place.flow.take() else {
            return;
        };
        place.turn = place.turn.wrapping_add(1);
        if let Some(tuple) = self.tuples.iter_mut().find(|t| t.mask == flow.flow.mask) {
            tuple.flows.remove(&flow.flow.key);
        }
        // A tuple without flows costs a look for every miss.
        self.tuples.retain(|t| !t.flows.is_empty());
        self.free.push(slot as u32);
    }

    // The frames that wait.

    fn park(&mut self, key: FlowKey, frame: Bytes, now: Moment) -> Step {
        let gathers = !matches!(key.ip_kind, IpKind::ArpV4 | IpKind::NdV6);
        let behind = if gathers {
            self.waiting_by_key.get(&key).copied()
        } else {
            None
        };
        let full = self.parked >= self.limits.parked
            || self.parked_bytes.saturating_add(frame.len()) > self.limits.parked_bytes;
        let full = full || (behind.is_none() && self.waiting.len() >= self.limits.upcalls);
        if full {
            return self.drop_frame(DropReason::ParkingFull, Some(key), now);
        }
        // What waits is counted by its length, so it must not hold the large buffer that it was read into.
        let frame = Bytes::copy_from_slice(&frame);
        if let Some(waiting) = behind.and_then(|upcall| self.waiting.get_mut(&upcall)) {
            if waiting.frames.len() >= self.limits.parked_per_upcall {
                return self.drop_frame(DropReason::ParkingFull, Some(key), now);
            }
            self.parked += 1;
            self.parked_bytes += frame.len();
            waiting.frames.push(frame);
            return Step::Parked;
        }
        let upcall = self.next_upcall;
        self.next_upcall = UpcallId(upcall.0.wrapping_add(1));
        self.parked += 1;
        self.parked_bytes += frame.len();
        self.counters.upcalls += 1;
        if gathers {
            self.waiting_by_key.insert(key, upcall);
        }
        self.waiting.insert(
            upcall,
            Waiting {
                key,
                frames: vec![frame.clone()],
                deadline: now.plus_ms(self.limits.upcall_ms),
            },
        );
        let ct = key.tracked();
        Step::Upcall { upcall, frame, ct }
    }

    fn take_waiting(&mut self, upcall: UpcallId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&upcall)?;
        if self.waiting_by_key.get(&waiting.key) == Some(&upcall) {
            self.waiting_by_key.remove(&waiting.key);
        }
        self.parked -= waiting.frames.len();
        self.parked_bytes -= waiting.frames.iter().map(Bytes::len).sum::<usize>();
        Some(waiting)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
