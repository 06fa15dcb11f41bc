//! What the tasks of both kinds of lanes share: frames into the core's [`Lane`], its steps out to the outlets.
//!
//! Owns the lane. Per frame it takes no lock and allocates nothing; per batch it publishes what was counted.

use super::outlet::Outbox;
use super::{LaneReport, Shared};
use bytes::{Bytes, BytesMut};
use meshd_core::edit::{self, Edit};
use meshd_core::flow::FlowKey;
use meshd_core::flow::Origin;
use meshd_core::ident::{Epoch, Moment, UpcallId, Vni};
use meshd_core::lane::{Lane, LaneFlow, Step};
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
    /// The node ruled on an upcall.
    Ruling(UpcallId, Ruling),
    /// Somebody wants to see what it has cached.
    Show(oneshot::Sender<LaneFlows>),
}

/// What a lane has cached, and what waits in it.
#[derive(Debug, Default)]
pub(crate) struct LaneFlows {
    /// Cached rulings.
    pub(crate) flows: Vec<LaneFlow>,
    /// Keys without a ruling, and how many frames of each wait.
    pub(crate) waiting: Vec<(FlowKey, usize)>,
}

/// Where a lane's rulings come from.
pub(super) type FromDriver = mpsc::Receiver<ToLane>;

/// What a lane's task is started with.
pub(super) struct Start {
    pub(super) origin: Origin,
    pub(super) shared: Arc<Shared>,
    pub(super) from_driver: FromDriver,
    pub(super) report: Arc<Mutex<LaneReport>>,
    /// Differs each time; see [`Lane::new`].
    pub(super) seed: u64,
}

impl Start {
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
    outbox: Outbox,
}

/// How old a report may be, in ms.
const REPORT_MS: u64 = 20;

impl LaneTask {
    /// The lane, and where its rulings come from.
    pub(super) fn new(start: Start) -> (Self, FromDriver) {
        let lane = Lane::new(start.origin, start.shared.limits, start.seed);
        let this = Self {
            lane,
            shared: start.shared,
            report: start.report,
            show_at: None,
            outbox: Outbox::default(),
        };
        (this, start.from_driver)
    }

    /// One frame: `framed` is the overlay header of a whole frame with the frame right behind it.
    pub(super) fn frame(&mut self, vni: Vni, framed: &Bytes) {
        let now = self.shared.clock.moment();
        let epoch = Epoch(self.shared.epoch.load(Ordering::Acquire));
        // After the epoch: a chain that is new in that epoch is also new to the connections.
        let zones = self.shared.zones.load();
        let frame = framed.get(datagram::WHOLE_LEN..).unwrap_or_default();
        let unit = Unit::frame(frame);
        let step = self.lane.frame_in(&zones, vni, &unit, epoch, now);
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
                }
            }
            // A frame is not cut.
            Step::Cut | Step::Parked | Step::Dropped(_) | Step::Consumed => {}
        }
    }

    /// One superframe. It goes as it is where that can be, and else as the frames that it stands for.
    pub(super) fn superframe(&mut self, vni: Vni, unit: &Unit<'_>) {
        let now = self.shared.clock.moment();
        let epoch = Epoch(self.shared.epoch.load(Ordering::Acquire));
        let zones = self.shared.zones.load();
        let step = self.lane.frame_in(&zones, vni, unit, epoch, now);
        drop(zones);
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
                            None => self.drop(DropReason::Malformed, unit.frames()),
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
        for output in to {
            let lost = match output {
                Output::Port(port) => match outlets.ports.get(port) {
                    Some(outlet) => outlet.send_superframe(unit, &mut self.outbox),
                    None => Err((DropReason::PortQueueFull, unit.frames())),
                },
                Output::Peer(node) => match outlets.peers.get(node) {
                    Some(outlet) => outlet.send_superframe(vni, unit, route, &mut self.outbox),
                    None => Err((DropReason::NoSession, unit.frames())),
                },
            };
            if let Err((reason, frames)) = lost {
                let now = self.shared.clock.moment();
                self.lane.count_drop(reason, frames, None, now);
            }
        }
    }

    /// A frame that is none, or cannot be put together.
    pub(super) fn drop(&mut self, reason: DropReason, frames: u64) {
        if frames == 0 {
            return;
        }
        let now = self.shared.clock.moment();
        self.lane.count_drop(reason, frames, None, now);
    }

    /// The driver has something for this lane.
    pub(super) fn told(&mut self, told: ToLane) {
        match told {
            ToLane::Ruling(upcall, ruling) => self.ruling(upcall, ruling),
            ToLane::Show(tell) => {
                let epoch = Epoch(self.shared.epoch.load(Ordering::Acquire));
                let now = self.shared.clock.moment();
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
        let now = self.shared.clock.moment();
        let zones = self.shared.zones.load();
        let released = self.lane.ruling_in(&zones, upcall, ruling, now);
        drop(zones);
        self.punt(now);
        let Some(released) = released else {
            return;
        };
        for frame in released.frames {
            let vni = released.vni;
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
        let now = self.shared.clock.moment();
        let outlets = self.shared.outlets.load();
        let monitor = outlets.monitors.get(&vni).filter(|monitor| {
            matches!(self.lane.origin(), Origin::Peer(node) if monitor.members.contains(&node))
        });
        let Some(monitor) = monitor else {
            return self
                .lane
                .count_drop(DropReason::MirrorRefused, 1, None, now);
        };
        for port in &monitor.ports {
            if !self.lane.may_copy(now) {
                continue;
            }
            let sent = match outlets.ports.get(port) {
                Some(outlet) => outlet.send(frame),
                None => Err(DropReason::PortQueueFull),
            };
            if let Err(reason) = sent {
                self.lane.count_drop(reason, 1, None, now);
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
        for output in to {
            let sent = match output {
                Output::Port(port) => match outlets.ports.get(port) {
                    Some(outlet) => outlet.send(frame),
                    None => Err(DropReason::PortQueueFull),
                },
                Output::Peer(node) => match outlets.peers.get(node) {
                    Some(outlet) => outlet.send(vni, framed, route, &mut self.outbox),
                    None => Err(DropReason::NoSession),
                },
            };
            if let Err(reason) = sent {
                self.lane
                    .count_drop(reason, 1, None, self.shared.clock.moment());
            }
        }
        for copy in copies {
            let now = self.shared.clock.moment();
            if !self.lane.may_copy(now) {
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
            if sent != Some(Ok(())) {
                self.lane.count_drop(DropReason::MirrorLimit, 1, None, now);
            }
        }
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
    }

    /// At the end of a batch: sends what waited for it, gives up what waited too long, and shows what was counted, if that is due.
    pub(super) fn batch_done(&mut self) {
        self.outbox.flush();
        let now = self.shared.clock.moment();
        // Under load nobody waits for the timer.
        if self.lane.poll_timeout().is_some_and(|due| due <= now) {
            self.lane.handle_timeout(now);
        }
        match self.show_at {
            None => self.show_at = Some(now.plus_ms(REPORT_MS)),
            Some(due) if due <= now => {
                let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
                self.show_at = None;
                if report.counters != *self.lane.counters() {
                    report.counters.clone_from(self.lane.counters());
                    report.last_drops.clear();
                    report.last_drops.extend_from_slice(self.lane.last_drops());
                }
            }
            Some(_) => {}
        }
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
