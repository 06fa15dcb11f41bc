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

mod allowance;
mod cache;
mod front;
mod numbers;
mod parking;
mod step;

use self::allowance::Allowance;
use self::cache::{Cache, Entry};
use self::front::Spot;
use self::numbers::Number;
use self::parking::{Parked, Parking, Waiting};
pub use self::step::{Punted, Receivers, Released, Step};
use crate::conntrack::{Opener, Order, Seen, Subject, Zone, Zones};
use crate::flow::{FlowKey, KeyWords, Origin};
use crate::frame::Frame;
use crate::ident::{Epoch, Moment, UpcallId, Vni};
use crate::offload::Obstacle;
use crate::ruling::{Action, DropCounts, DropReason, Megaflow, Ruling};
use crate::steering::Route;
use crate::superframe::Unit;
use bytes::Bytes;
use foldhash::fast::FixedState;
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

/// One input of the switch.
#[derive(Debug)]
pub struct Lane {
    origin: Origin,
    limits: LaneLimits,
    hasher: FixedState,
    cache: Cache,
    parking: Parking,
    /// Connections of tracked networks.
    seen: Seen,
    /// Of the last frame, or of those that were released last.
    punted: Vec<Punted>,
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
            cache: Cache::new(limits, hasher.clone()),
            parking: Parking::new(limits, hasher.clone(), UpcallId(seed >> 1)),
            hasher,
            seen: Seen::new(seed.rotate_left(32)),
            punted: Vec::new(),
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
        (self.cache.len(), self.parking.sizes().0)
    }

    /// Rulings that are obeyed in `epoch`, as they lie in the cache.
    pub fn flows(&self, epoch: Epoch, now: Moment) -> impl Iterator<Item = LaneFlow> + '_ {
        let live = self.cache.live(epoch, now);
        live.map(|(slot, rest)| LaneFlow {
            flow: rest.flow.clone(),
            action: rest.ruling.action.clone(),
            obstacle: rest.ruling.obstacle,
            since: rest.since,
            used: slot.used(),
            frames: slot.frames,
            bytes: slot.bytes,
        })
    }

    /// What waits for a ruling: the key, and how many frames.
    pub fn waiting(&self) -> impl Iterator<Item = (FlowKey, usize)> + '_ {
        self.parking.iter().map(|w| (w.key, w.frames.len()))
    }

    /// A frame arrived on network `vni`, which is not tracked; `epoch` is the current one.
    pub fn frame(&mut self, vni: Vni, frame: impl AsRef<[u8]>, epoch: Epoch, now: Moment) -> Step {
        let unit = Unit::frame(frame.as_ref());
        self.frame_in(Zones::NONE, vni, &unit, epoch, now)
    }

    /// A frame or a superframe arrived on network `vni`; `epoch` is the current one, and was read before `zones`.
    pub fn frame_in(
        &mut self,
        zones: &Zones,
        vni: Vni,
        unit: &Unit<'_>,
        epoch: Epoch,
        now: Moment,
    ) -> Step {
        self.counters.frames += unit.frames();
        self.counters.bytes += unit.bytes().len() as u64;
        let frame = unit.bytes();
        let Ok(parsed) = Frame::parse(frame) else {
            return self.drop_unit(DropReason::Malformed, unit, None, now);
        };
        let mut key = parsed.flow_key(vni);
        let zone = zones.get(vni).map(Arc::as_ref);
        let mut subject = Subject::None;
        if let Some(zone) = zone {
            subject = parsed.subject(&key);
            let tracked = zone.look(&mut self.seen, &subject, now);
            (key.ct, key.ct_mark) = (tracked.state, tracked.mark);
        }
        let words = KeyWords::of(&key);
        // A wider ruling may have come first: what waits of this flow still goes before this frame.
        if self.parking.has(&words) {
            return self.park(key, unit, now);
        }
        let spot = self.cache.spot(&words);
        let (slot, offer) = match self.cache.known(&words, spot, epoch, now) {
            Some(slot) => (slot, false),
            None => {
                let (offers, per_s) = (&mut self.offers, self.limits.offers_per_s);
                let may_offer = || offers.spend(per_s, now);
                match self.cache.find(&words, spot, epoch, now, may_offer) {
                    Some(found) => found,
                    None => return self.park(key, unit, now),
                }
            }
        };
        if unit.segment() != 0 && self.cache.looks_at_each(slot, &key) {
            return self.cut(unit);
        }
        let Some(flow) = self.cache.slot(slot) else {
            return self.park(key, unit, now);
        };
        self.counters.hits += unit.frames();
        flow.count(unit, now);
        if unit.longest() > flow.longest as usize {
            return self.drop_unit(DropReason::TooLong, unit, Some(key), now);
        }
        if offer {
            self.offered = spot;
        }
        let plain = flow.plain;
        if plain != Number::NONE {
            if let Err(reason) = self.pass(zone, &subject, &key, None, 1, now) {
                return self.drop_unit(reason, unit, Some(key), now);
            }
            // Looked up here and not before, so that it is copied once: it is longer than a register.
            if let Some(&to) = self.cache.receiver(plain) {
                return Step::Forward {
                    to: Receivers::One(to),
                    edits: None,
                    route: Route::Any,
                    copies: None,
                    offer,
                };
            }
        }
        let Some(rest) = self.cache.rest(slot) else {
            return self.park(key, unit, now);
        };
        let ruling = rest.ruling.choose(&key);
        if let Some(to) = ruling.punts.clone() {
            let frame = Bytes::copy_from_slice(frame);
            self.punted.push(Punted { key, frame, to });
        }
        if let Some(dues) = ruling.dues.clone()
            && let Err(meter) = dues.pay(frame.len(), now)
        {
            self.count_metered(1, meter, key, now);
            return Step::Dropped(DropReason::Metered);
        }
        let Action::Forward(to) = &ruling.action else {
            return match ruling.action {
                Action::Drop(reason) => self.drop_unit(reason, unit, Some(key), now),
                _ => Step::Consumed,
            };
        };
        let (to, edits, copies) = (Arc::clone(to), ruling.edits.clone(), ruling.copies.clone());
        let track = ruling.track.clone();
        let route = match ruling.ways.as_deref() {
            None => Some(Route::Any),
            Some(ways) => ways.route(key.flow_hash(&self.hasher), now),
        };
        let Some(route) = route else {
            return self.drop_unit(DropReason::PathLost, unit, Some(key), now);
        };
        if let Err(reason) = self.pass(zone, &subject, &key, track.as_deref(), to.len(), now) {
            return self.drop_unit(reason, unit, Some(key), now);
        }
        Step::Forward {
            to: Receivers::Many(to),
            edits,
            route,
            copies,
            offer,
        }
    }

    /// A frame is on its way out to so many receivers: it costs what a flood costs, and its connection is told of it.
    fn pass(
        &mut self,
        zone: Option<&Zone>,
        subject: &Subject,
        key: &FlowKey,
        track: Option<&Order>,
        receivers: usize,
        now: Moment,
    ) -> Result<(), DropReason> {
        if !self.may_flood(receivers, now) {
            return Err(DropReason::BumLimit);
        }
        if let Some(zone) = zone {
            zone.pass(&mut self.seen, subject, now);
            if let Some(order) = track {
                let opener = Opener::of(self.origin, key.src_mac);
                zone.order(&mut self.seen, subject, opener, order, now);
            }
        }
        Ok(())
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
        mut ruling: Ruling,
        now: Moment,
    ) -> Option<Released> {
        let waited = self.parking.take(upcall);
        if let Some(flow) = ruling.cache.take() {
            let frames = waited.as_ref().map_or(&[][..], |w| &w.frames);
            let entry = Entry {
                flow,
                ruling: ruling.clone(),
                frames: frames.len() as u64,
                bytes: frames.iter().map(|frame| frame.len() as u64).sum(),
            };
            let key = waited.as_ref().map(|w| w.key);
            self.cache.install(entry, key.as_ref(), now);
        }
        let Waiting {
            key, mut frames, ..
        } = *waited?;
        let longest = ruling.longest as usize;
        if ruling.select.is_some() {
            ruling = ruling.choose(&key).clone();
        }
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
        if let Some(waiting) = self.parking.take(upcall) {
            let Waiting { key, frames, .. } = *waiting;
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
        self.cache.forget(self.offered);
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
        while let Some(waiting) = self.parking.take_overdue(now) {
            let Waiting { key, frames, .. } = *waiting;
            let frames = frames.len() as u64;
            self.count_drop(DropReason::UpcallTimeout, frames, Some(key), now);
        }
        self.cache.sweep(now);
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let due = [self.parking.deadline(), self.cache.next_sweep()];
        due.into_iter().flatten().min()
    }

    /// Its frames come one by one, and are counted then.
    fn cut(&mut self, unit: &Unit<'_>) -> Step {
        self.counters.frames -= unit.frames();
        self.counters.bytes -= unit.bytes().len() as u64;
        Step::Cut
    }

    #[cold]
    fn drop_unit(
        &mut self,
        reason: DropReason,
        unit: &Unit<'_>,
        key: Option<FlowKey>,
        now: Moment,
    ) -> Step {
        self.count_drop(reason, unit.frames(), key, now);
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

    /// A superframe waits as what it stands for: the switch sees frames.
    fn park(&mut self, key: FlowKey, unit: &Unit<'_>, now: Moment) -> Step {
        if unit.segment() != 0 {
            return self.cut(unit);
        }
        match self.parking.park(key, unit.bytes(), now) {
            Parked::Full => self.drop_unit(DropReason::ParkingFull, unit, Some(key), now),
            Parked::Behind => Step::Parked,
            Parked::First(upcall, frame) => {
                self.counters.upcalls += 1;
                let ct = key.tracked();
                Step::Upcall { upcall, frame, ct }
            }
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
