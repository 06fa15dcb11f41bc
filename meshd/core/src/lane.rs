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

pub use self::allowance::Purse;
use self::cache::{Cache, Entry};
use self::front::Spot;
use self::numbers::Number;
use self::parking::{Parked, Parking, Waiting};
pub use self::step::{Fallen, Punted, Receivers, Released, Step};
use crate::capture::Fate;
use crate::conntrack::{Opener, Order, Seen, Subject, Zone, Zones};
use crate::flow::{FlowKey, KeyWords, Origin};
use crate::frame::Frame;
use crate::ident::{Epoch, Moment, UpcallId, Vni};
use crate::offload::Obstacle;
use crate::ruling::{Action, DropCounts, DropReason, Megaflow, Ruling};
use crate::steering::Route;
use crate::superframe::Unit;
use crate::tally::{LaneDrop, Tallies};
use crate::wire::loop_probe::is_loop_probe;
use bytes::Bytes;
use foldhash::fast::FixedState;
use std::sync::Arc;

/// Loop probes that a guarded lane lets in beside what is for groups: those of sixty uplinks.
const PROBES_PER_S: u32 = 200;

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
    /// Also frames for a group that have one receiver cost of it: what an uplink's LAN floods is flooded on another LAN.
    pub guarded: bool,
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

impl LaneLimits {
    /// For each of several lanes that a port's frames are spread over: what waits for rulings is bounded as of one. Rulings are
    /// kept by all of them, and what goes by the second is a [`Purse`].
    #[must_use]
    pub fn among(self, lanes: usize) -> Self {
        let part = |whole: usize| whole.div_ceil(lanes.max(1));
        Self {
            upcalls: part(self.upcalls),
            parked: part(self.parked),
            parked_bytes: part(self.parked_bytes),
            ..self
        }
    }
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
            guarded: false,
            copies_per_s: 10_000,
            offers_per_s: 2000,
            upcall_ms: 3000,
            idle_ms: 10_000,
        }
    }
}

/// What a lane counts, all networks together.
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
    /// Slices that the underlay lost, and that were made again of repairs.
    pub mended: u64,
    /// Frames dropped by this lane, or by the shell on its behalf.
    pub drops: DropCounts,
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
    /// Its own, or that of all lanes of its port.
    purse: Purse,
    /// Where the front has the flow that was offered last.
    offered: Spot,
    tallies: Tallies,
    hits: u64,
    upcalls: u64,
    mended: u64,
    /// Somebody looks.
    watched: bool,
    fallen: Vec<Fallen>,
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
            purse: Purse::default(),
            offered: Spot::default(),
            tallies: Tallies::default(),
            hits: 0,
            upcalls: 0,
            mended: 0,
            watched: false,
            fallen: Vec::new(),
        }
    }

    /// What may be done so many times a second is paid out of this purse from now on, which other lanes may have too.
    #[must_use]
    pub fn paying_from(mut self, purse: Purse) -> Self {
        self.purse = purse;
        self
    }

    /// Whose lane it is.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Somebody looks at frames: what becomes of those that waited and are not forwarded is to be told, by [`Self::fallen`].
    pub fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// Frames that waited and were dropped or answered, since the last call; only where [`Self::set_watched`] says so.
    pub fn fallen(&mut self) -> std::vec::Drain<'_, Fallen> {
        self.fallen.drain(..)
    }

    fn falls<'f>(&mut self, key: FlowKey, fate: Fate, frames: impl IntoIterator<Item = &'f Bytes>) {
        if self.watched {
            let frames = frames.into_iter().cloned();
            self.fallen
                .extend(frames.map(|frame| Fallen { key, frame, fate }));
        }
    }

    /// The shell has made slices again of which frames came to this lane.
    pub fn count_mended(&mut self, slices: u64) {
        self.mended += slices;
    }

    /// What it counted, all networks together.
    #[must_use]
    pub fn counters(&self) -> LaneCounters {
        let total = self.tallies.total();
        LaneCounters {
            frames: total.came,
            bytes: total.bytes,
            hits: self.hits,
            upcalls: self.upcalls,
            mended: self.mended,
            drops: total.drops,
        }
    }

    /// What it counted, network by network.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        let mut all = self.tallies.clone();
        for waiting in self.parking.iter() {
            all.of(Some(waiting.key.vni)).waiting += waiting.frames.len() as u64;
        }
        all
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
        let tally = self.tallies.of(Some(vni));
        tally.came += unit.frames();
        tally.bytes += unit.bytes().len() as u64;
        let frame = unit.bytes();
        let Ok(parsed) = Frame::parse(frame) else {
            self.count_drop(DropReason::Malformed, unit.frames(), Some(vni), None, now);
            return Step::Dropped(DropReason::Malformed);
        };
        let mut key = parsed.flow_key(vni);
        if !self.may_enter(unit.bytes(), &key, now) {
            return self.drop_unit(DropReason::BumLimit, unit, key, now);
        }
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
                let (offers, per_s) = (&self.purse.0.offers, self.limits.offers_per_s);
                let may_offer = || offers.spend(per_s, now);
                match self.cache.find(&words, spot, epoch, now, may_offer) {
                    Some(found) => found,
                    None => return self.park(key, unit, now),
                }
            }
        };
        if unit.segment() != 0 && self.cache.looks_at_each(slot, &key) {
            return self.cut(vni, unit);
        }
        let Some(flow) = self.cache.slot(slot) else {
            return self.park(key, unit, now);
        };
        self.hits += unit.frames();
        flow.count(unit, now);
        if unit.longest() > flow.longest as usize {
            return self.drop_unit(DropReason::TooLong, unit, key, now);
        }
        if offer {
            self.offered = spot;
        }
        let plain = flow.plain;
        if plain != Number::NONE {
            if let Err(reason) = self.pass(zone, &subject, &key, None, 1, now) {
                return self.drop_unit(reason, unit, key, now);
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
                Action::Drop(reason) => self.drop_unit(reason, unit, key, now),
                _ => {
                    self.tallies.of(Some(vni)).answered += unit.frames();
                    Step::Consumed
                }
            };
        };
        let (to, edits, copies) = (Arc::clone(to), ruling.edits.clone(), ruling.copies.clone());
        let track = ruling.track.clone();
        let route = match ruling.ways.as_deref() {
            None => Some(Route::Any),
            Some(ways) => ways.route(key.flow_hash(&self.hasher), now),
        };
        let Some(route) = route else {
            return self.drop_unit(DropReason::PathLost, unit, key, now);
        };
        if let Err(reason) = self.pass(zone, &subject, &key, track.as_deref(), to.len(), now) {
            return self.drop_unit(reason, unit, key, now);
        }
        self.tallies.of(Some(vni)).extra += (to.len() as u64).saturating_sub(1) * unit.frames();
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
        if !self.may_flood(key, receivers, now) {
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
        let long = frames.iter().filter(|frame| frame.len() > longest);
        self.falls(key, Fate::Dropped(DropReason::TooLong), long);
        frames.retain(|frame| frame.len() <= longest);
        self.count_keyed(
            DropReason::TooLong,
            (before - frames.len()) as u64,
            key,
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
                    self.falls(key, Fate::Dropped(DropReason::Metered), [frame]);
                    false
                }
            });
        }
        match ruling.action {
            Action::Forward(to) => {
                let before = frames.len();
                frames.retain(|frame| {
                    let may = self.may_flood(&key, to.len(), now);
                    if !may {
                        self.falls(key, Fate::Dropped(DropReason::BumLimit), [frame]);
                    }
                    may
                });
                self.count_keyed(
                    DropReason::BumLimit,
                    (before - frames.len()) as u64,
                    key,
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
                    self.count_keyed(DropReason::PathLost, frames.len() as u64, key, now);
                    self.falls(key, Fate::Dropped(DropReason::PathLost), &frames);
                    return None;
                };
                let extra = (to.len() as u64).saturating_sub(1) * frames.len() as u64;
                self.tallies.of(Some(key.vni)).extra += extra;
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
                self.count_keyed(reason, frames.len() as u64, key, now);
                self.falls(key, Fate::Dropped(reason), &frames);
                None
            }
            Action::Consume => {
                self.falls(key, Fate::Answered, &frames);
                self.tallies.of(Some(key.vni)).answered += frames.len() as u64;
                None
            }
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
            self.count_keyed(DropReason::UpcallQueueFull, frames.len() as u64, key, now);
            self.falls(key, Fate::Dropped(DropReason::UpcallQueueFull), &frames);
        }
    }

    /// The shell could not hand the last offer over: the flow is offered again.
    pub fn offer_refused(&mut self) {
        self.cache.forget(self.offered);
    }

    /// Counts drops, also for the shell: where a receiver does not take a frame of this lane. `vni`: the frame's, if that is
    /// known.
    pub fn count_drop(
        &mut self,
        reason: DropReason,
        frames: u64,
        vni: Option<Vni>,
        key: Option<FlowKey>,
        now: Moment,
    ) {
        self.tallies.of(vni).drop(reason, frames, key, now);
    }

    fn count_keyed(&mut self, reason: DropReason, frames: u64, key: FlowKey, now: Moment) {
        self.count_drop(reason, frames, Some(key.vni), Some(key), now);
    }

    /// For the shell: what came is no frame, or did not come whole.
    pub fn count_lost(&mut self, reason: DropReason, frames: u64, vni: Option<Vni>, now: Moment) {
        self.tallies.of(vni).came += frames;
        self.count_drop(reason, frames, vni, None, now);
    }

    /// For the shell: a port or a session took so many frames of this lane.
    pub fn count_sent(&mut self, vni: Vni, frames: u64) {
        self.tallies.of(Some(vni)).sent += frames;
    }

    /// For the shell: so many copies are made beyond the frame itself.
    pub fn count_extra(&mut self, vni: Vni, copies: u64) {
        self.tallies.of(Some(vni)).extra += copies;
    }

    /// For the shell: a copy that a peer mirrors came, for so many ports here.
    pub fn count_copy(&mut self, vni: Vni, frame: &[u8], ports: u64) {
        let tally = self.tallies.of(Some(vni));
        tally.came += 1;
        tally.bytes += frame.len() as u64;
        match ports.checked_sub(1) {
            Some(extra) => tally.extra += extra,
            None => tally.answered += 1,
        }
    }

    /// For the shell: is it time that it reads a frame that a receiver did not take, so that there is an example of it?
    #[must_use]
    pub fn wants_example(&self, vni: Vni, reason: DropReason, now: Moment) -> bool {
        self.tallies.wants_example(vni, reason, now)
    }

    /// The lane is over: what waits in it goes.
    pub fn end(&mut self, now: Moment) {
        while let Some(waiting) = self.parking.take_oldest() {
            let Waiting { key, frames, .. } = *waiting;
            self.count_keyed(DropReason::LaneEnded, frames.len() as u64, key, now);
        }
    }

    fn count_metered(&mut self, frames: u64, meter: &Arc<str>, key: FlowKey, now: Moment) {
        self.count_keyed(DropReason::Metered, frames, key, now);
        let metered = |d: &&mut LaneDrop| d.reason == DropReason::Metered;
        let row = self.tallies.of(Some(key.vni));
        if let Some(last) = row.last.iter_mut().find(metered) {
            last.meter = Some(Arc::clone(meter));
        }
    }

    /// Gives up upcalls that took too long, and megaflows without frames.
    pub fn handle_timeout(&mut self, now: Moment) {
        while let Some(waiting) = self.parking.take_overdue(now) {
            let Waiting { key, frames, .. } = *waiting;
            self.count_keyed(DropReason::UpcallTimeout, frames.len() as u64, key, now);
            self.falls(key, Fate::Dropped(DropReason::UpcallTimeout), &frames);
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
    fn cut(&mut self, vni: Vni, unit: &Unit<'_>) -> Step {
        let tally = self.tallies.of(Some(vni));
        tally.came -= unit.frames();
        tally.bytes -= unit.bytes().len() as u64;
        Step::Cut
    }

    #[cold]
    fn drop_unit(
        &mut self,
        reason: DropReason,
        unit: &Unit<'_>,
        key: FlowKey,
        now: Moment,
    ) -> Step {
        self.count_keyed(reason, unit.frames(), key, now);
        Step::Dropped(reason)
    }

    /// May one more copy be made, or taken? Counted as [`DropReason::MirrorLimit`] if not: copies have a rate of their own, so
    /// that a mirror does not take the traffic's place.
    pub fn may_copy(&mut self, vni: Vni, now: Moment) -> bool {
        let may = self.purse.0.copies.spend(self.limits.copies_per_s, now);
        if !may {
            self.count_drop(DropReason::MirrorLimit, 1, Some(vni), None, now);
        }
        may
    }

    /// What is for a group on a guarded lane pays when it comes, so that a storm asks the switch nothing. Loop probes have a purse
    /// of their own: they are to end the storm.
    fn may_enter(&mut self, frame: &[u8], key: &FlowKey, now: Moment) -> bool {
        if !self.limits.guarded || !key.dst_mac.is_group() {
            return true;
        }
        let probe = is_loop_probe(frame) && self.purse.0.probes.spend(PROBES_PER_S, now);
        probe || self.purse.0.floods.spend(self.limits.floods_per_s, now)
    }

    fn may_flood(&mut self, key: &FlowKey, receivers: usize, now: Moment) -> bool {
        if receivers < 2 || (self.limits.guarded && key.dst_mac.is_group()) {
            return true;
        }
        self.purse.0.floods.spend(self.limits.floods_per_s, now)
    }

    /// A superframe waits as what it stands for: the switch sees frames.
    fn park(&mut self, key: FlowKey, unit: &Unit<'_>, now: Moment) -> Step {
        if unit.segment() != 0 {
            return self.cut(key.vni, unit);
        }
        match self.parking.park(key, unit.bytes(), now) {
            Parked::Full => self.drop_unit(DropReason::ParkingFull, unit, key, now),
            Parked::Behind => Step::Parked,
            Parked::First(upcall, frame) => {
                self.upcalls += 1;
                let ct = key.tracked();
                Step::Upcall { upcall, frame, ct }
            }
        }
    }
}

#[cfg(test)]
mod balance;
#[cfg(test)]
mod guarded;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
