//! What the tasks of both kinds of lanes share: frames into the core's [`Lane`], its steps out to the outlets.
//!
//! Owns the lane. Per frame it takes no lock and allocates nothing; per batch it publishes what was counted.

use super::capture::{How, Moved, Watch, fate, goes};
use super::flows::LaneFlows;
use super::outlet::Outbox;
use super::{LaneReport, Outlets, Shared, left};
use bytes::{Bytes, BytesMut};
use meshd_core::capture::{Fate, Way};
use meshd_core::edit::{self, Edit};
use meshd_core::flow::Origin;
use meshd_core::frame::Frame;
use meshd_core::ident::{Epoch, Moment, UpcallId, Vni};
use meshd_core::lane::{Lane, LaneLimits, Purse, Step};
use meshd_core::node::Input;
use meshd_core::ruling::{Copied, DropReason, Output, Ruling};
use meshd_core::steering::Route;
use meshd_core::superframe::{self, Unit};
use meshd_core::wire::datagram;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// What the driver has for a lane.
pub(super) enum ToLane {
    /// The node ruled on an upcall. Each lane has room for some from its start, and most lanes are idle: so there is room for pointers.
    Ruling(UpcallId, Box<Ruling>),
    /// Somebody wants to see what it has cached.
    Show(oneshot::Sender<LaneFlows>),
}

/// Where a lane's rulings come from.
pub(super) type FromDriver = mpsc::Receiver<ToLane>;

/// What a lane's task is started with.
pub(super) struct Start {
    pub(super) origin: Origin,
    pub(super) shared: Arc<Shared>,
    /// Of this lane.
    pub(super) limits: LaneLimits,
    pub(super) from_driver: FromDriver,
    pub(super) report: Arc<Mutex<LaneReport>>,
    /// Differs each time; see [`Lane::new`].
    pub(super) seed: u64,
    /// Shared with the other lanes of a port.
    pub(super) purse: Purse,
}

impl Start {
    /// Returns once ports are read.
    pub(super) fn begun(&self) -> impl Future<Output = ()> + use<> {
        let mut begun = self.shared.begun.subscribe();
        async move {
            // Fails only if the datapath is gone.
            let _ = begun.wait_for(|begun| *begun).await;
        }
    }

    /// Where the driver takes inputs.
    pub(super) fn inputs(&self) -> mpsc::Sender<Input> {
        self.shared.inputs.clone()
    }
}

/// A lane at work.
pub(super) struct LaneTask {
    lane: Lane,
    shared: Arc<Shared>,
    report: Arc<Mutex<LaneReport>>,
    /// When to show what was counted; `None`: nothing new.
    show_at: Option<Moment>,
    /// When the batch that is at hand began: see [`Self::now`].
    now: Option<Moment>,
    outbox: Outbox,
    watch: Watch,
}

/// How old a report may be, in ms.
const REPORT_MS: u64 = 20;

impl LaneTask {
    /// The lane, and where its rulings come from.
    pub(super) fn new(start: Start) -> (Self, FromDriver) {
        let lane = Lane::new(start.origin, start.limits, start.seed).paying_from(start.purse);
        let this = Self {
            lane,
            shared: start.shared,
            report: start.report,
            show_at: None,
            now: None,
            outbox: Outbox::default(),
            watch: Watch::default(),
        };
        (this, start.from_driver)
    }

    /// The moment of the whole batch. What is sent leaves at its end, or in order before that, whatever kept this thread meanwhile: two
    /// frames of a batch have no pause between them, by which a flow might change its way and overtake itself.
    fn now(&mut self) -> Moment {
        *self.now.get_or_insert_with(|| self.shared.clock.moment())
    }

    /// One frame: `framed` is the overlay header of a whole frame with the frame right behind it.
    pub(super) fn frame(&mut self, vni: Vni, framed: &Bytes) {
        let now = self.now();
        let epoch = Epoch(self.shared.epoch.load(Ordering::Acquire));
        // After the epoch: a chain that is new in that epoch is also new to the connections.
        let zones = self.shared.zones.load();
        let frame = framed.get(datagram::WHOLE_LEN..).unwrap_or_default();
        let unit = Unit::frame(frame);
        let watched = self.watched(vni);
        let step = self.lane.frame_in(&zones, vni, &unit, epoch, now);
        if watched {
            self.note_step(vni, &unit, &step);
        }
        self.punt(now);
        match step {
            Step::Forward {
                to,
                edits,
                route,
                copies,
                offer,
            } => {
                let copies = copies.as_deref().unwrap_or_default();
                match edits {
                    None => self.forward(vni, framed, &to, route, copies),
                    Some(edits) => {
                        self.forward(vni, &edited(vni, frame, &edits), &to, route, copies);
                    }
                }
                if offer {
                    // The buffer that it was read into is larger.
                    self.offer(vni, Bytes::copy_from_slice(frame));
                }
            }
            Step::Upcall { upcall, frame, ct } => {
                let input = Input::Upcall {
                    origin: self.lane.origin(),
                    upcall,
                    vni,
                    frame,
                    ct,
                };
                if self.shared.inputs.try_send(input).is_err() {
                    self.lane.upcall_refused(upcall, now);
                    self.note_fallen();
                }
            }
            // A frame is not cut.
            Step::Cut | Step::Parked | Step::Dropped(_) | Step::Consumed => {}
        }
    }

    /// One superframe. It goes as it is where that can be, and else as the frames that it stands for.
    pub(super) fn superframe(&mut self, vni: Vni, unit: &Unit<'_>) {
        let now = self.now();
        let epoch = Epoch(self.shared.epoch.load(Ordering::Acquire));
        let zones = self.shared.zones.load();
        let watched = self.watched(vni);
        let step = self.lane.frame_in(&zones, vni, unit, epoch, now);
        drop(zones);
        if watched {
            self.note_step(vni, unit, &step);
        }
        match step {
            Step::Forward {
                to,
                edits,
                route,
                offer,
                ..
            } => {
                match edits {
                    None => self.forward_superframe(vni, unit, &to, route),
                    Some(edits) => {
                        let framed = edited(vni, unit.bytes(), &edits);
                        let frame = framed.get(datagram::WHOLE_LEN..).unwrap_or_default();
                        match Unit::of(frame, unit.segment()) {
                            Some(unit) => self.forward_superframe(vni, &unit, &to, route),
                            None => {
                                let copies = to.len() as u64 * unit.frames();
                                self.lane.count_drop(
                                    DropReason::Malformed,
                                    copies,
                                    Some(vni),
                                    None,
                                    now,
                                );
                            }
                        }
                    }
                }
                if offer {
                    let mut first = None;
                    self.each_frame(unit, |_, frame| {
                        first.get_or_insert_with(|| Bytes::copy_from_slice(frame));
                    });
                    self.offer(vni, first.unwrap_or_default());
                }
            }
            Step::Cut => self.each_frame(unit, |task, frame| {
                task.frame(vni, &edited(vni, frame, &[]));
            }),
            Step::Upcall { .. } | Step::Parked | Step::Dropped(_) | Step::Consumed => {}
        }
    }

    fn each_frame(&mut self, unit: &Unit<'_>, mut each: impl FnMut(&mut Self, &[u8])) {
        let mut room = std::mem::take(&mut self.outbox.frames);
        superframe::segments(unit.bytes(), unit.segment(), &mut room, |frame| {
            each(self, frame);
        });
        self.outbox.frames = room;
    }

    /// Tells the node of a flow that the kernel could hold.
    fn offer(&mut self, vni: Vni, frame: Bytes) {
        let input = Input::Offer {
            origin: self.lane.origin(),
            vni,
            frame,
        };
        if self.shared.inputs.try_send(input).is_err() {
            self.lane.offer_refused();
        }
    }

    fn forward_superframe(&mut self, vni: Vni, unit: &Unit<'_>, to: &[Output], route: Route) {
        let outlets = self.shared.outlets.load();
        let mut sent = 0;
        for output in to {
            let lost = match output {
                Output::Port(port) => match outlets.ports.get(port) {
                    Some(outlet) => outlet.send_superframe(unit, &mut self.outbox),
                    None => Err((DropReason::PortAbsent, unit.frames())),
                },
                Output::Peer(node) => match outlets.peers.get(node) {
                    Some(outlet) => outlet.send_superframe(vni, unit, route, &mut self.outbox),
                    None => Err((DropReason::NoSession, unit.frames())),
                },
            };
            if self.watch.is_on() {
                let sent = lost.map_err(|(reason, _)| reason);
                let (frame, frames) = (unit.bytes(), unit.frames());
                self.note_out(&outlets, (vni, *output, route), frame, frames, sent);
            }
            sent += unit.frames();
            if let Err((reason, frames)) = lost {
                sent -= frames;
                self.refused(reason, frames, vni, unit.bytes());
            }
        }
        self.lane.count_sent(vni, sent);
    }

    /// A receiver does not take it.
    #[cold]
    fn refused(&mut self, reason: DropReason, frames: u64, vni: Vni, frame: &[u8]) {
        let now = self.now();
        let wanted = self.lane.wants_example(vni, reason, now);
        let parsed = wanted.then(|| Frame::parse(frame).ok()).flatten();
        let key = parsed.map(|parsed| parsed.flow_key(vni));
        self.lane.count_drop(reason, frames, Some(vni), key, now);
    }

    /// What came is no frame, or cannot be put together. `vni`: if that is known.
    pub(super) fn lost(&mut self, reason: DropReason, frames: u64, vni: Option<Vni>) {
        if frames == 0 {
            return;
        }
        let now = self.now();
        self.lane.count_lost(reason, frames, vni, now);
    }

    /// Slices were made again.
    pub(super) fn mended(&mut self, slices: u64) {
        self.lane.count_mended(slices);
    }

    /// The driver has something for this lane.
    pub(super) fn told(&mut self, told: ToLane) {
        match told {
            ToLane::Ruling(upcall, ruling) => self.ruling(upcall, *ruling),
            ToLane::Show(tell) => {
                let epoch = Epoch(self.shared.epoch.load(Ordering::Acquire));
                let now = self.now();
                let shown = LaneFlows {
                    flows: self.lane.flows(epoch, now).collect(),
                    waiting: self.lane.waiting().collect(),
                };
                // Who asked may have gone.
                let _ = tell.send(shown);
            }
        }
    }

    /// The node has ruled; what waited goes its way, in order.
    fn ruling(&mut self, upcall: UpcallId, ruling: Ruling) {
        let now = self.now();
        let zones = self.shared.zones.load();
        let released = self.lane.ruling_in(&zones, upcall, ruling, now);
        drop(zones);
        self.note_fallen();
        self.punt(now);
        let Some(released) = released else {
            return;
        };
        let watched = self.watched(released.vni);
        for frame in released.frames {
            let vni = released.vni;
            if watched {
                let how = || goes(&released.to, false, released.edits.is_some());
                self.note_in(vni, &frame, 1, Fate::Forwarded, how);
            }
            let framed = edited(vni, &frame, released.edits.as_deref().unwrap_or_default());
            let copies = released.copies.as_deref().unwrap_or_default();
            self.forward(vni, &framed, &released.to, released.route, copies);
        }
    }

    /// Hands over what the lane has for controllers.
    fn punt(&mut self, now: Moment) {
        for punted in self.lane.punted() {
            self.shared.punts.offer(&punted, now);
        }
    }

    /// What came while a batch was read.
    pub(super) fn catch_up(&mut self, from_driver: &mut FromDriver) {
        while let Ok(told) = from_driver.try_recv() {
            self.told(told);
        }
    }

    /// A peer mirrors to this node: it leaves by the ports that take copies, past the switch. So nobody learns from it, floods it
    /// or mirrors it again.
    pub(super) fn copied(&mut self, vni: Vni, frame: &[u8]) {
        let now = self.now();
        let outlets = self.shared.outlets.load();
        let monitor = outlets.monitors.get(&vni).filter(|monitor| {
            matches!(self.lane.origin(), Origin::Peer(node) if monitor.members.contains(&node))
        });
        let Some(monitor) = monitor else {
            return self
                .lane
                .count_lost(DropReason::MirrorRefused, 1, Some(vni), now);
        };
        self.lane.count_copy(vni, frame, monitor.ports.len() as u64);
        for port in &monitor.ports {
            if !self.lane.may_copy(vni, now) {
                continue;
            }
            let sent = match outlets.ports.get(port) {
                Some(outlet) => outlet.send(frame),
                None => Err(DropReason::PortAbsent),
            };
            match sent {
                Ok(()) => self.lane.count_sent(vni, 1),
                Err(reason) => self.refused(reason, 1, vni, frame),
            }
        }
    }

    fn forward(
        &mut self,
        vni: Vni,
        framed: &Bytes,
        to: &[Output],
        route: Route,
        copies: &[Copied],
    ) {
        // Not kept beyond the frame: an idle lane would hold the TAPs of ports that are long gone, and the kernel would
        // give them to nobody else.
        let outlets = self.shared.outlets.load();
        let frame = framed.get(datagram::WHOLE_LEN..).unwrap_or_default();
        let mut taken = 0;
        for output in to {
            let sent = match output {
                Output::Port(port) => match outlets.ports.get(port) {
                    Some(outlet) => outlet.send(frame),
                    None => Err(DropReason::PortAbsent),
                },
                Output::Peer(node) => match outlets.peers.get(node) {
                    Some(outlet) => outlet.send(vni, framed, route, &mut self.outbox),
                    None => Err(DropReason::NoSession),
                },
            };
            if self.watch.is_on() {
                self.note_out(&outlets, (vni, *output, route), frame, 1, sent);
            }
            match sent {
                Ok(()) => taken += 1,
                Err(reason) => self.refused(reason, 1, vni, frame),
            }
        }
        self.lane.count_sent(vni, taken);
        for copy in copies {
            let now = self.now();
            self.lane.count_extra(vni, 1);
            if !self.lane.may_copy(vni, now) {
                continue;
            }
            let frame = copy.cut(frame);
            let sent = match copy.to {
                Output::Port(port) => outlets.ports.get(&port).map(|outlet| outlet.send(frame)),
                Output::Peer(node) => outlets
                    .peers
                    .get(&node)
                    .map(|outlet| outlet.send_copy(vni, frame, &mut self.outbox)),
            };
            if self.watch.is_on() {
                let sent = match sent {
                    Some(Ok(())) => Ok(()),
                    _ => Err(DropReason::MirrorLimit),
                };
                let moved = Moved {
                    vni,
                    spot: copy.to.into(),
                    way: Way::Out,
                    fate: fate(sent),
                    frames: 1,
                };
                self.watch
                    .note(&moved, frame, Some(self.lane.origin()), || {
                        How::Copied(left(&outlets, copy.to, Route::Any, frame.len(), sent))
                    });
            }
            match sent {
                Some(Ok(())) => self.lane.count_sent(vni, 1),
                _ => self.refused(DropReason::MirrorLimit, 1, vni, frame),
            }
        }
    }

    /// Does anybody look at frames of this network?
    #[inline(always)]
    fn watched(&mut self, vni: Vni) -> bool {
        let watched = self.watch.at(&self.shared.captures, vni);
        if watched {
            self.lane.set_watched(true);
        }
        watched
    }

    /// Shows a frame that came, if its lot is cast: one that waits is shown when its ruling comes.
    #[cold]
    fn note_step(&self, vni: Vni, unit: &Unit<'_>, step: &Step) {
        let (frame, frames) = (unit.bytes(), unit.frames());
        match step {
            Step::Forward { to, edits, .. } => {
                let how = || goes(to, true, edits.is_some());
                self.note_in(vni, frame, frames, Fate::Forwarded, how);
            }
            Step::Dropped(reason) => {
                self.note_in(vni, frame, frames, Fate::Dropped(*reason), || How::Ends);
            }
            Step::Consumed => self.note_in(vni, frame, frames, Fate::Answered, || How::Ends),
            Step::Cut | Step::Parked | Step::Upcall { .. } => {}
        }
    }

    fn note_in(&self, vni: Vni, frame: &[u8], frames: u64, fate: Fate, how: impl Fn() -> How) {
        let moved = Moved {
            vni,
            spot: self.lane.origin().into(),
            way: Way::In,
            fate,
            frames,
        };
        self.watch.note(&moved, frame, None, how);
    }

    /// Shows what became of frames that waited.
    fn note_fallen(&mut self) {
        let spot = self.lane.origin().into();
        let mut any = false;
        for fallen in self.lane.fallen() {
            any = true;
            let moved = Moved {
                vni: fallen.key.vni,
                spot,
                way: Way::In,
                fate: fallen.fate,
                frames: 1,
            };
            self.watch.note(&moved, &fallen.frame, None, || How::Ends);
        }
        if any && !self.watch.is_on() {
            self.lane.set_watched(false);
        }
    }

    #[cold]
    fn note_out(
        &self,
        outlets: &Outlets,
        (vni, to, route): (Vni, Output, Route),
        frame: &[u8],
        frames: u64,
        sent: Result<(), DropReason>,
    ) {
        let moved = Moved {
            vni,
            spot: to.into(),
            way: Way::Out,
            fate: fate(sent),
            frames,
        };
        let from = Some(self.lane.origin());
        self.watch.note(&moved, frame, from, || {
            How::Left(left(outlets, to, route, frame.len(), sent))
        });
    }

    /// Wakes when the lane wants [`Self::timeout`], or at `other`; never, if there is neither.
    pub(super) fn timer(&self, other: Option<Moment>) -> impl Future<Output = ()> + use<> {
        let due = [self.lane.poll_timeout(), self.show_at, other]
            .into_iter()
            .flatten()
            .min();
        let due = due.map(|moment| self.shared.clock.instant(moment));
        async move {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Gives up what waited too long, forgets what was not used.
    pub(super) fn timeout(&mut self) {
        self.lane.handle_timeout(self.shared.clock.moment());
        self.note_fallen();
    }

    /// What waits for the end of the batch leaves now.
    pub(super) fn flush(&mut self) {
        self.outbox.flush();
    }

    /// At the end of a batch: sends what waited for it, gives up what waited too long, and shows what was counted, if that is due.
    pub(super) fn batch_done(&mut self) {
        self.outbox.flush();
        self.now = None;
        let now = self.shared.clock.moment();
        // Under load nobody waits for the timer.
        if self.lane.poll_timeout().is_some_and(|due| due <= now) {
            self.lane.handle_timeout(now);
            self.note_fallen();
        }
        match self.show_at {
            None => self.show_at = Some(now.plus_ms(REPORT_MS)),
            Some(due) if due <= now => {
                self.show_at = None;
                self.report();
            }
            Some(_) => {}
        }
    }

    fn report(&self) {
        let told = LaneReport {
            counters: self.lane.counters(),
            tallies: self.lane.tallies(),
        };
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

impl Drop for LaneTask {
    /// The port or the session is gone: what waited goes, and the last of what was counted is told.
    fn drop(&mut self) {
        self.lane.end(self.shared.clock.moment());
        self.report();
    }
}

/// The frame as it is to go, behind its overlay header.
fn edited(vni: Vni, frame: &[u8], edits: &[Edit]) -> Bytes {
    let room = datagram::WHOLE_LEN + frame.len() + 4 * edits.len();
    let mut framed = BytesMut::with_capacity(room);
    datagram::Header::Whole { vni }.encode_into(&mut framed);
    edit::apply(edits, frame, &mut framed);
    framed.freeze()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
