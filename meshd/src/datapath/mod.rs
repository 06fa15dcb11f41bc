//! Tier 1: frames between ports and peers, by the rulings that lanes have cached.
//!
//! ```text
//!   TAP of a port ---> lane task --hit--> outlet of a port (TAP)  or of a peer (QUIC datagrams)
//!   datagrams of a peer ---> lane task --hit--> outlet of a port
//!                               | miss: park, upcall              ^
//!                               v                                 | ruling: release what was parked
//!                             driver (Node) ---------------------+
//!   TAP of a VXLAN device ---> lane task, as that of a peer; probes go on to the driver
//! ```
//!
//! Owns the lane tasks, the outlets and the counters that all tiers of `meshd drops` add up. It decides nothing: a frame
//! goes where its ruling says. One task a lane, so a lane needs no lock; outlets are found in a snapshot. A peer has a lane for
//! each connection: those of its underlay links are lanes of the same origin. So are those of a port, which has one for each queue of
//! its TAP: a flow is always in the same queue, so in the same lane, and stays in order. Rulings go to all lanes of an origin.

pub(crate) mod capture;
mod ended;
mod flows;
mod lane_task;
mod outlet;
mod peer;
mod port;
mod strand;
mod vxlan;

pub(crate) use flows::LaneFlows;
pub(crate) use outlet::{Outlets, PeerOutlet, PortOutlet};

use crate::kernel::{PortTap, Vtap};
use capture::{Captures, How, Left, Moved, fate};
use ended::Ended;
use lane_task::ToLane;
use strand::{LaneId, Strand};

use crate::clock::Clock;
use crate::punts::Punts;
use crate::quic::Connection;
use crate::rhythm::beat;
use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use meshd_core::capture::Way;
use meshd_core::conntrack::Zones;
use meshd_core::flow::Origin;
use meshd_core::frame::Frame;
use meshd_core::ident::{Epoch, NodeId, PortId, SessionId, UpcallId, Vni};
use meshd_core::lane::{LaneCounters, LaneLimits, Purse};
use meshd_core::node::{Input, Monitor};
use meshd_core::ruling::{self, DropReason, Ruling};
use meshd_core::steering::{Live, Route, SAMPLE_MS, WayId, WaySample};
use meshd_core::tally::Tallies;
use meshd_core::wire::datagram;
use meshd_core::wire::probe::ProbeFrame;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Rulings that may wait for a lane; it has at most as many upcalls open.
const RULINGS_MAX: usize = 1024;

/// What a lane shows of itself: a copy, some milliseconds old.
#[derive(Clone, Debug, Default)]
pub(crate) struct LaneReport {
    /// Counted since the lane began.
    pub(crate) counters: LaneCounters,
    /// The same, network by network, with the last drop of each reason.
    pub(crate) tallies: Tallies,
}

impl LaneReport {
    /// Of another lane of the same origin.
    fn add(&mut self, other: Self) {
        self.counters.frames += other.counters.frames;
        self.counters.bytes += other.counters.bytes;
        self.counters.hits += other.counters.hits;
        self.counters.upcalls += other.counters.upcalls;
        self.counters.mended += other.counters.mended;
        self.counters.drops.merge(&other.counters.drops);
        self.tallies.merge(&other.tallies);
    }
}

/// What all lanes share.
pub(crate) struct Shared {
    /// From here on only rulings of this epoch count.
    epoch: AtomicU64,
    /// Connections of tracked networks. A zone's epoch is moved before `epoch` is, and read after it.
    zones: ArcSwap<Zones>,
    outlets: ArcSwap<Outlets>,
    inputs: mpsc::Sender<Input>,
    clock: Clock,
    limits: LaneLimits,
    /// Who looks at frames.
    captures: Arc<Captures>,
    /// Frames for controllers.
    punts: Punts,
    /// Ports are read: those that an earlier run left are all there again.
    begun: watch::Sender<bool>,
}

struct LaneHandle {
    to_lane: mpsc::Sender<ToLane>,
    report: Arc<Mutex<LaneReport>>,
    task: JoinHandle<()>,
    session: Option<SessionId>,
}

/// All lanes of the node. Used by the driver alone.
pub(crate) struct Datapath {
    shared: Arc<Shared>,
    /// Where lanes run.
    data: Handle,
    lanes: BTreeMap<LaneId, LaneHandle>,
    ended: Ended,
    /// Of frames that this node made itself.
    made: Mutex<Tallies>,
    seed: u64,
    vtaps: BTreeMap<Vni, Arc<Vtap>>,
    /// The ports that stand for foreign VTEPs.
    gateways: BTreeMap<Vni, PortId>,
}

impl Datapath {
    /// No lanes yet; they will run in `data`. Upcalls go to `inputs`; what does not fit there is dropped and counted.
    pub(crate) fn new(
        inputs: mpsc::Sender<Input>,
        clock: Clock,
        limits: LaneLimits,
        seed: u64,
        punts: Punts,
        data: Handle,
    ) -> Self {
        let shared = Shared {
            epoch: AtomicU64::new(0),
            zones: ArcSwap::default(),
            outlets: ArcSwap::default(),
            inputs,
            clock,
            limits,
            captures: Arc::default(),
            punts,
            begun: watch::Sender::new(false),
        };
        Self {
            shared: Arc::new(shared),
            data,
            lanes: BTreeMap::new(),
            ended: Ended::default(),
            made: Mutex::default(),
            seed,
            vtaps: BTreeMap::new(),
            gateways: BTreeMap::new(),
        }
    }

    /// Who looks at frames.
    pub(crate) fn captures(&self) -> Arc<Captures> {
        Arc::clone(&self.shared.captures)
    }

    /// Are ports read?
    pub(crate) fn has_begun(&self) -> bool {
        *self.shared.begun.borrow()
    }

    /// Ports are read from now on.
    pub(crate) fn begin(&self) {
        self.shared.begun.send_replace(true);
    }

    /// Only rulings of `epoch` count from now on, on every lane.
    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        self.shared.epoch.store(epoch.0, Ordering::Release);
    }

    /// Frames of a network are looked up among connections, or no longer; see
    /// [`Output::Track`](meshd_core::node::Output::Track).
    pub(crate) fn track(&mut self, vni: Vni, since: Option<Epoch>) {
        let seed = self.next_seed();
        if let Some(zones) = self.shared.zones.load().track(vni, since, seed) {
            self.shared.zones.store(Arc::new(zones));
        }
    }

    /// The connections of tracked networks.
    pub(crate) fn zones(&self) -> Arc<Zones> {
        self.shared.zones.load_full()
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.seed
    }

    /// A port is there: its frames are read, and it can be sent to. Of its queues each has a lane. `guarded`: see
    /// [`LaneLimits::guarded`].
    pub(crate) fn add_port(
        &mut self,
        port: PortId,
        vni: Vni,
        (tap, more): (PortTap, Vec<PortTap>),
        guarded: bool,
    ) {
        let first = Arc::new(tap);
        let outlet = PortOutlet::new(Arc::clone(&first));
        self.change_outlets(|outlets| {
            outlets.ports.insert(port, outlet.clone());
        });
        let origin = Origin::Port(port);
        self.stop_all(origin);
        let queues = 1 + more.len();
        let purse = Purse::default();
        let data = self.data.clone();
        let taps = std::iter::once(first).chain(more.into_iter().map(Arc::new));
        for (queue, tap) in taps.enumerate() {
            self.start((origin, Strand::Queue(queue)), None, |mut start| {
                start.limits = start.limits.among(queues);
                start.limits.guarded = guarded;
                start.purse = purse.clone();
                data.spawn(port::run(start, vni, tap))
            });
        }
    }

    /// A port is gone.
    pub(crate) fn remove_port(&mut self, port: PortId) {
        self.change_outlets(|outlets| {
            outlets.ports.remove(&port);
        });
        self.stop_all(Origin::Port(port));
    }

    /// A network has a VXLAN device now: what its gate does not let pass is read here, and probes are sent here.
    pub(crate) fn add_vxlan(&mut self, vni: Vni, mtu: u16, tap: Vtap) {
        let tap = Arc::new(tap);
        self.vtaps.insert(vni, Arc::clone(&tap));
        self.open_gateway(vni);
        let data = self.data.clone();
        self.start((Origin::Vxlan(vni), Strand::Whole), None, |start| {
            data.spawn(vxlan::run(start, vni, mtu, tap))
        });
    }

    /// A network has none any more.
    pub(crate) fn remove_vxlan(&mut self, vni: Vni) {
        self.vtaps.remove(&vni);
        if let Some(port) = self.gateways.get(&vni) {
            self.change_outlets(|outlets| {
                outlets.ports.remove(port);
            });
        }
        self.stop_all(Origin::Vxlan(vni));
    }

    /// Which port of a network stands for its foreign VTEPs: what is sent to it leaves by the VXLAN device.
    pub(crate) fn set_gateway(&mut self, vni: Vni, port: Option<PortId>) {
        let before = match port {
            Some(port) => self.gateways.insert(vni, port),
            None => self.gateways.remove(&vni),
        };
        if let Some(before) = before.filter(|before| Some(*before) != port) {
            self.change_outlets(|outlets| {
                outlets.ports.remove(&before);
            });
        }
        self.open_gateway(vni);
    }

    fn open_gateway(&self, vni: Vni) {
        if let (Some(port), Some(tap)) = (self.gateways.get(&vni), self.vtaps.get(&vni)) {
            let outlet = PortOutlet::vxlan(Arc::clone(tap));
            self.change_outlets(|outlets| {
                outlets.ports.insert(*port, outlet.clone());
            });
        }
    }

    /// Where copies that peers mirror to this node leave, and whose are taken.
    pub(crate) fn set_monitor(&self, vni: Vni, monitor: Option<Monitor>) {
        let monitor = monitor.map(Arc::new);
        self.change_outlets(|outlets| {
            match &monitor {
                Some(monitor) => outlets.monitors.insert(vni, Arc::clone(monitor)),
                None => outlets.monitors.remove(&vni),
            };
        });
    }

    /// Sends a probe through a network's VXLAN device. One that cannot be sent is one that is lost.
    pub(crate) fn probe(&self, vni: Vni, probe: &ProbeFrame) {
        if let Some(tap) = self.vtaps.get(&vni) {
            vxlan::send(tap, probe);
        }
    }

    /// Asks each lane what it has cached; lanes answer beside the driver.
    pub(crate) fn flows(&self) -> Vec<(Origin, oneshot::Receiver<LaneFlows>)> {
        let ask = |((origin, _), lane): (&LaneId, &LaneHandle)| {
            let (tell, told) = oneshot::channel();
            // A lane too busy to take the question has no answer.
            lane.to_lane.try_send(ToLane::Show(tell)).ok()?;
            Some((*origin, told))
        };
        self.lanes.iter().filter_map(ask).collect()
    }

    /// A proven session with a peer, or a link, carries frames both ways; it takes the place of an older one of the same way.
    pub(crate) fn add_way(
        &mut self,
        node: NodeId,
        way: WayId,
        session: SessionId,
        connection: Connection,
    ) {
        self.change_outlets(|outlets| {
            let outlet = outlets.peers.entry(node).or_default();
            outlet.set_way(way, Some(connection.clone()));
        });
        let data = self.data.clone();
        let lane = (Origin::Peer(node), Strand::Way(way));
        self.start(lane, Some(session), |start| {
            data.spawn(peer::run(start, connection))
        });
    }

    /// There may be several ways to a peer from now on: see [`Output::Ways`](meshd_core::node::Output::Ways).
    pub(crate) fn set_live(&mut self, node: NodeId, live: &Arc<Live>) {
        self.change_outlets(|outlets| {
            let outlet = outlets.peers.entry(node).or_default();
            outlet.set_live(Arc::clone(live));
        });
    }

    /// Tells the node the counters of all connections between which it has a choice, ten times a second, until it is aborted. While
    /// there is none it looks for one twice a second.
    pub(crate) fn gauge(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            let sample = Duration::from_millis(SAMPLE_MS);
            let mut nothing = false;
            loop {
                match nothing {
                    true => beat(5 * sample).await,
                    // Figures are of equal times.
                    false => tokio::time::sleep(sample).await,
                }
                let outlets = shared.outlets.load_full();
                let all = outlets.peers.iter();
                let samples: Vec<WaySample> = all
                    .flat_map(|(node, outlet)| outlet.samples(*node))
                    .collect();
                nothing = samples.is_empty();
                if !nothing {
                    // A round that finds no room is followed by the next.
                    let _ = shared.inputs.try_send(Input::Ways(samples));
                }
            }
        }
    }

    /// A session is over. True if it carried the frames of a peer.
    pub(crate) fn remove_session(&mut self, session: SessionId) -> bool {
        let found = self
            .lanes
            .iter()
            .find(|(_, lane)| lane.session == Some(session))
            .map(|(lane, _)| *lane);
        let Some(lane @ (Origin::Peer(node), Strand::Way(way))) = found else {
            return false;
        };
        self.change_outlets(|outlets| {
            if let Some(outlet) = outlets.peers.get_mut(&node) {
                outlet.set_way(way, None);
                if outlet.is_spent() {
                    outlets.peers.remove(&node);
                }
            }
        });
        self.stop(lane);
        true
    }

    /// A lane's upcall was ruled on.
    pub(crate) fn ruling(&mut self, origin: Origin, upcall: UpcallId, ruling: Ruling) {
        // Of several lanes the one that asked knows the number, and the others keep the ruling: each counts from a number that it drew.
        for (_, lane) in self.lanes.range(strand::all(origin)) {
            // A ruling that does not fit is lost; the lane's own time-out gives the parked frames up, and counts them.
            let _ = lane
                .to_lane
                .try_send(ToLane::Ruling(upcall, Box::new(ruling.clone())));
        }
    }

    /// A frame of the switch's own making. What does not fit is asked for again by who sent the question.
    pub(crate) fn inject(&self, vni: Vni, to: ruling::Output, frame: &Bytes) {
        let outlets = self.shared.outlets.load();
        let sent = match to {
            ruling::Output::Port(port) => match outlets.ports.get(&port) {
                Some(outlet) => outlet.send(frame),
                None => Err(DropReason::PortAbsent),
            },
            ruling::Output::Peer(node) => match outlets.peers.get(&node) {
                Some(outlet) => {
                    let mut framed = BytesMut::with_capacity(datagram::WHOLE_LEN + frame.len());
                    datagram::Header::Whole { vni }.encode_into(&mut framed);
                    framed.extend_from_slice(frame);
                    let mut outbox = outlet::Outbox::default();
                    let sent = outlet.send(vni, &framed.freeze(), Route::Any, &mut outbox);
                    outbox.flush();
                    sent
                }
                None => Err(DropReason::NoSession),
            },
        };
        let moved = Moved {
            vni,
            spot: to.into(),
            way: Way::Out,
            fate: fate(sent),
            frames: 1,
        };
        self.shared.captures.note(&moved, frame, || {
            How::Made(left(&outlets, to, Route::Any, frame.len(), sent))
        });
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = made.of(Some(vni));
        tally.came += 1;
        tally.bytes += frame.len() as u64;
        match sent {
            Ok(()) => tally.sent += 1,
            Err(reason) => {
                let parsed = Frame::parse(frame).ok();
                let key = parsed.map(|parsed| parsed.flow_key(vni));
                tally.drop(reason, 1, key, self.shared.clock.moment());
            }
        }
    }

    /// Per lane, those that run.
    pub(crate) fn reports(&self) -> BTreeMap<Origin, LaneReport> {
        let mut all: BTreeMap<Origin, LaneReport> = BTreeMap::new();
        for ((origin, _), lane) in &self.lanes {
            all.entry(*origin).or_default().add(read(&lane.report));
        }
        all
    }

    /// Frames that came by each queue of a port's TAP; empty: it has none.
    pub(crate) fn queues(&self, port: PortId) -> Vec<u64> {
        let lanes = self.lanes.range(strand::all(Origin::Port(port)));
        lanes
            .map(|(_, lane)| read(&lane.report).counters.frames)
            .collect()
    }

    /// Frames and bytes that went out of a port or to a peer.
    pub(crate) fn sent(&self, origin: Origin) -> (u64, u64) {
        let outlets = self.shared.outlets.load();
        match origin {
            Origin::Port(port) => outlets.ports.get(&port).map_or((0, 0), PortOutlet::sent),
            Origin::Peer(node) => outlets.peers.get(&node).map_or((0, 0), PeerOutlet::sent),
            Origin::Vxlan(_) => (0, 0),
        }
    }

    /// What was counted since the start, by where frames came from; `None`: from this node, or from where nobody knows any more.
    pub(crate) fn tallies(&self) -> BTreeMap<Option<Origin>, Tallies> {
        let mut all = self.ended.tallies();
        for ((origin, _), lane) in &self.lanes {
            let report = read(&lane.report);
            all.entry(Some(*origin)).or_default().merge(&report.tallies);
        }
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(None).or_default().merge(&made);
        all
    }

    fn start(
        &mut self,
        lane: LaneId,
        session: Option<SessionId>,
        spawn: impl FnOnce(lane_task::Start) -> JoinHandle<()>,
    ) {
        self.stop(lane);
        let (to_lane, from_driver) = mpsc::channel(RULINGS_MAX);
        let report = Arc::new(Mutex::new(LaneReport::default()));
        let seed = self.next_seed();
        let start = lane_task::Start {
            origin: lane.0,
            shared: Arc::clone(&self.shared),
            limits: self.shared.limits,
            from_driver,
            report: Arc::clone(&report),
            seed,
            purse: Purse::default(),
        };
        let task = spawn(start);
        self.lanes.insert(
            lane,
            LaneHandle {
                to_lane,
                report,
                task,
                session,
            },
        );
    }

    fn stop(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.remove(&id) {
            lane.task.abort();
            self.ended.add(id.0, lane.report, lane.task);
        }
    }

    /// All lanes of an origin.
    fn stop_all(&mut self, origin: Origin) {
        let all = self.lanes.range(strand::all(origin));
        let all: Vec<LaneId> = all.map(|(lane, _)| *lane).collect();
        for lane in all {
            self.stop(lane);
        }
    }

    fn change_outlets(&self, change: impl Fn(&mut Outlets)) {
        self.shared.outlets.rcu(|outlets| {
            let mut outlets = Outlets::clone(outlets);
            change(&mut outlets);
            outlets
        });
    }
}

/// By which way a frame of so many bytes left.
fn left(
    outlets: &Outlets,
    to: ruling::Output,
    route: Route,
    length: usize,
    sent: Result<(), DropReason>,
) -> Left {
    match to {
        _ if sent.is_err() => Left::Not,
        ruling::Output::Port(_) => Left::Port,
        ruling::Output::Peer(node) => {
            let outlet = outlets.peers.get(&node);
            let how = outlet.and_then(|outlet| outlet.describe(route, length));
            how.map_or(Left::Not, Left::Session)
        }
    }
}

fn read(report: &Mutex<LaneReport>) -> LaneReport {
    report
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}
