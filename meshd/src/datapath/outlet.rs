//! Outlets: where a lane sends a frame, by port or by peer.
//!
//! Owns the way out and its limits: a TAP that is full, or a session whose datagram buffer is, takes no more, and the lane
//! counts the drop. Nothing waits here.

use super::capture::Encapsulation;
use crate::kernel::{PortTap, Vtap};
use crate::quic::{Connection, Outgoing, SendError};
use crate::underlay::{QUEUE_BYTES, acknowledged};
use bytes::{BufMut, Bytes, BytesMut};
use meshd_core::ident::{NodeId, PortId, Vni};
use meshd_core::node::Monitor;
use meshd_core::ruling::DropReason;
use meshd_core::steering::{Live, Route, WAYS_END, WayId, WaySample};
use meshd_core::superframe::{self, Cut, Shape, Unit, VnetHeader};
use meshd_core::wire::datagram;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Frames shorter than this do not keep their share of a read buffer when they wait behind many others.
const SHARE_MIN: usize = 4096;

/// At least what a datagram counts in its queue beside its bytes.
const QUEUED_COST: usize = 64;

/// All ways out, at one moment.
#[derive(Clone, Default)]
pub(crate) struct Outlets {
    pub(crate) ports: HashMap<PortId, PortOutlet>,
    pub(crate) peers: HashMap<NodeId, PeerOutlet>,
    /// Where copies that peers mirror to this node leave, and whose are taken.
    pub(crate) monitors: HashMap<Vni, Arc<Monitor>>,
}

/// What went out.
#[derive(Default)]
struct Sent {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Sent {
    fn count(&self, frames: u64, bytes: usize) {
        self.frames.fetch_add(frames, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (
            self.frames.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}

/// The way out of a port.
#[derive(Clone)]
pub(crate) struct PortOutlet {
    way: Way,
    sent: Arc<Sent>,
}

#[derive(Clone)]
enum Way {
    /// The port's TAP.
    Tap(Arc<PortTap>),
    /// The TAP of the network's VXLAN device: the port stands for foreign VTEPs.
    Vxlan(Arc<Vtap>),
}

impl PortOutlet {
    pub(crate) fn new(tap: Arc<PortTap>) -> Self {
        Self {
            way: Way::Tap(tap),
            sent: Arc::default(),
        }
    }

    /// Of the port of foreign VTEPs.
    pub(crate) fn vxlan(tap: Arc<Vtap>) -> Self {
        Self {
            way: Way::Vxlan(tap),
            sent: Arc::default(),
        }
    }

    /// Hands a frame to the kernel.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<(), DropReason> {
        let written = self.write(&VnetHeader::default(), frame);
        written.map_err(|_| DropReason::PortQueueFull)?;
        self.sent.count(1, frame.len());
        Ok(())
    }

    fn write(&self, header: &VnetHeader, frame: &[u8]) -> io::Result<()> {
        match &self.way {
            Way::Tap(tap) => tap.try_write(header, frame),
            Way::Vxlan(tap) => tap.try_write(header, frame),
        }
    }

    /// Hands a superframe to the kernel, or the frames of it. How many were lost, and why.
    pub(crate) fn send_superframe(&self, unit: &Unit<'_>, outbox: &mut Outbox) -> Result<(), Lost> {
        let takes = match &self.way {
            Way::Tap(tap) => tap.takes_superframes(),
            Way::Vxlan(_) => true,
        };
        let shape = Shape::of(unit.bytes()).filter(|_| takes);
        if let Some(shape) = shape {
            match self.write(&shape.vnet(unit.segment()), unit.bytes()) {
                Ok(()) => {
                    self.sent.count(unit.frames(), unit.bytes().len());
                    return Ok(());
                }
                // Not of this kind: before Linux 6.2 a TAP takes none of UDP.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(_) => return Err((DropReason::PortQueueFull, unit.frames())),
            }
        }
        each_frame(unit, outbox, |_, frame| self.send(frame))
    }

    /// Frames and bytes so far.
    pub(crate) fn sent(&self) -> (u64, u64) {
        self.sent.read()
    }
}

/// Why frames were lost, and how many.
pub(crate) type Lost = (DropReason, u64);

/// Sends the frames of a superframe one by one.
fn each_frame(
    unit: &Unit<'_>,
    outbox: &mut Outbox,
    mut send: impl FnMut(&mut Outbox, &[u8]) -> Result<(), DropReason>,
) -> Result<(), Lost> {
    let (mut lost, mut why) = (0, None);
    let mut room = std::mem::take(&mut outbox.frames);
    superframe::segments(unit.bytes(), unit.segment(), &mut room, |frame| {
        if let Err(reason) = send(outbox, frame) {
            lost += 1;
            why = Some(reason);
        }
    });
    outbox.frames = room;
    why.map_or(Ok(()), |reason| Err((reason, lost)))
}

/// The ways to a peer: its session, and its links.
#[derive(Clone, Default)]
pub(crate) struct PeerOutlet {
    ways: Arc<[Option<Line>; WAYS_END]>,
    /// Which of them are alive; `None`: there is but one.
    live: Option<Arc<Live>>,
    sent: Arc<Sent>,
}

/// One connection to a peer.
#[derive(Clone)]
struct Line {
    connection: Connection,
    /// Numbers the frames that are cut into pieces. The far end puts those of each connection together by itself.
    next_frame: Arc<AtomicU32>,
}

impl PeerOutlet {
    /// A way has this connection now; `None`: it has none any more.
    pub(crate) fn set_way(&mut self, way: WayId, connection: Option<Connection>) {
        let mut ways = (*self.ways).clone();
        if let Some(place) = ways.get_mut(way.number() as usize) {
            *place = connection.map(|connection| Line {
                connection,
                next_frame: Arc::default(),
            });
        }
        self.ways = Arc::new(ways);
    }

    /// There may be several ways from now on.
    pub(crate) fn set_live(&mut self, live: Arc<Live>) {
        self.live = Some(live);
    }

    /// Is there no way, and nothing to be remembered for the next?
    pub(crate) fn is_spent(&self) -> bool {
        self.live.is_none() && self.ways.iter().all(Option::is_none)
    }

    /// The counters of all connections, if there is a choice of them.
    pub(crate) fn samples(&self, node: NodeId) -> impl Iterator<Item = WaySample> + '_ {
        let lines = self.ways.iter().zip(0u32..).filter(|_| self.live.is_some());
        lines.filter_map(move |(line, number)| {
            let (line, way) = (line.as_ref()?, WayId::new(number)?);
            let stats = line.connection.stats();
            Some(WaySample {
                node,
                way,
                rtt_us: u32::try_from(stats.path.rtt.as_micros()).unwrap_or(u32::MAX),
                acks: stats.frame_rx.acks,
                sent_packets: stats.path.sent_packets,
                lost_packets: stats.path.lost_packets,
                sent_bytes: stats.udp_tx.bytes,
                heard_bytes: stats.udp_rx.bytes,
                asked: stats.frame_tx.datagram + stats.frame_tx.stream + stats.frame_tx.ping,
                answered_bytes: acknowledged(&line.connection),
                cwnd: stats.path.cwnd,
                mtu: stats.path.current_mtu,
            })
        })
    }

    fn line(&self, way: WayId) -> Option<&Line> {
        self.ways.get(way.number() as usize)?.as_ref()
    }

    /// The best way, if its connection is here; else one that is alive, the session before links; where none seems to be, any.
    fn any(&self) -> Option<&Line> {
        let live = self.live.as_ref();
        let ways = live.map(|live| live.ways());
        let alive = |way: WayId| ways.is_none_or(|ways| ways.has(way));
        let best = live.and_then(|live| self.line(live.best()?));
        best.or_else(|| self.line(WayId::MAIN).filter(|_| alive(WayId::MAIN)))
            .or_else(|| {
                let numbered = self.ways.iter().zip(0u32..);
                let mut living = numbered.filter(|(_, n)| WayId::new(*n).is_some_and(alive));
                living.find_map(|(line, _)| line.as_ref())
            })
            .or_else(|| self.ways.iter().find_map(Option::as_ref))
    }

    /// Frames and bytes so far.
    pub(crate) fn sent(&self) -> (u64, u64) {
        self.sent.read()
    }

    /// Sends a frame: `framed` is the overlay header of a whole frame, and the frame right behind it. What is longer than
    /// a datagram goes in pieces, all or none.
    pub(crate) fn send(
        &self,
        vni: Vni,
        framed: &Bytes,
        route: Route,
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let line = self.by(route).ok_or(DropReason::NoSession)?;
        line.offer(vni, framed, false, outbox)?;
        self.sent.count(1, framed.len() - datagram::WHOLE_LEN);
        Ok(())
    }

    /// How a frame of so many bytes travels by a route.
    pub(super) fn describe(&self, route: Route, length: usize) -> Option<Encapsulation> {
        let line = self.by(route)?;
        let mut lines = self.ways.iter().zip(0u32..);
        let same = |other: &Line| other.connection.is(&line.connection);
        let (_, way) = lines.find(|(other, _)| other.as_ref().is_some_and(same))?;
        let datagram_max = line.connection.max_datagram_size()?;
        let room = datagram_max.saturating_sub(datagram::PIECE_LEN).max(1);
        let link = WayId::new(way).and_then(WayId::nth_link);
        let remote = line.connection.remote_address();
        Some(Encapsulation {
            link: link.map(|nth| nth + 1),
            remote: SocketAddr::new(remote.ip().to_canonical(), remote.port()),
            datagram_max,
            datagrams: match length + datagram::WHOLE_LEN <= datagram_max {
                true => 1,
                false => length.div_ceil(room),
            },
        })
    }

    fn by(&self, route: Route) -> Option<&Line> {
        match route {
            Route::Any => self.any(),
            Route::Prefer(way) => self.line(way).or_else(|| self.any()),
            Route::Only(way) => self.line(way),
        }
    }

    /// Sends a superframe in slices, or the frames of it where no slice takes a segment. How many were lost, and why.
    pub(crate) fn send_superframe(
        &self,
        vni: Vni,
        unit: &Unit<'_>,
        route: Route,
        outbox: &mut Outbox,
    ) -> Result<(), Lost> {
        let line = self.by(route);
        let line = line.ok_or((DropReason::NoSession, unit.frames()))?;
        match line.offer_superframe(vni, unit, outbox) {
            Some(Ok(())) => {
                self.sent.count(unit.frames(), unit.bytes().len());
                Ok(())
            }
            Some(Err(reason)) => Err((reason, unit.frames())),
            None => each_frame(unit, outbox, |outbox, frame| {
                let mut framed = BytesMut::with_capacity(datagram::WHOLE_LEN + frame.len());
                datagram::Header::Whole { vni }.encode_into(&mut framed);
                framed.put_slice(frame);
                line.offer(vni, &framed.freeze(), false, outbox)?;
                self.sent.count(1, frame.len());
                Ok(())
            }),
        }
    }

    /// Sends a mirror's copy, if the traffic leaves more than half of the queue free.
    pub(crate) fn send_copy(
        &self,
        vni: Vni,
        frame: &[u8],
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let line = self.any().ok_or(DropReason::NoSession)?;
        if line.connection.outgoing().space() < QUEUE_BYTES / 2 {
            return Err(DropReason::MirrorLimit);
        }
        let mut framed = BytesMut::with_capacity(datagram::WHOLE_LEN + frame.len());
        datagram::Header::Copy { vni }.encode_into(&mut framed);
        framed.put_slice(frame);
        line.offer(vni, &framed.freeze(), true, outbox)?;
        self.sent.count(1, frame.len());
        Ok(())
    }
}

impl Line {
    fn offer(
        &self,
        vni: Vni,
        framed: &Bytes,
        copy: bool,
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let mut outgoing = self.connection.outgoing();
        let max = outgoing.max_size().ok_or(DropReason::NoSession)?;
        if framed.len() <= max {
            let waiting = QUEUE_BYTES.saturating_sub(outgoing.space());
            let datagram = if waiting > QUEUE_BYTES / 8 && framed.len() < SHARE_MIN {
                // It may wait for long, and would hold the large buffer that it was read into.
                Bytes::copy_from_slice(framed)
            } else {
                framed.clone()
            };
            push(&mut outgoing, datagram)?;
        } else {
            let frame = framed.get(datagram::WHOLE_LEN..).unwrap_or_default();
            let id = self.next_frame.fetch_add(1, Ordering::Relaxed);
            let count = frame
                .len()
                .div_ceil(max.saturating_sub(datagram::PIECE_LEN).max(1));
            if outgoing.space() < frame.len() + count * (datagram::PIECE_LEN + QUEUED_COST) {
                return Err(DropReason::SessionQueueFull);
            }
            let mut pieces = datagram::split(vni, id, frame.len(), max, copy).peekable();
            if pieces.peek().is_none() {
                return Err(DropReason::TooLong);
            }
            for (header, range) in pieces {
                let mut piece = BytesMut::with_capacity(datagram::PIECE_LEN + range.len());
                header.encode_into(&mut piece);
                piece.put_slice(frame.get(range).unwrap_or_default());
                push(&mut outgoing, piece.freeze())?;
            }
        }
        drop(outgoing);
        outbox.add(&self.connection);
        Ok(())
    }

    /// Sends it at once: it fills packets by itself. `None`: it cannot be cut into slices.
    fn offer_superframe(
        &self,
        vni: Vni,
        unit: &Unit<'_>,
        outbox: &mut Outbox,
    ) -> Option<Result<(), DropReason>> {
        let mut outgoing = self.connection.outgoing();
        let Some(max) = outgoing.max_size() else {
            return Some(Err(DropReason::NoSession));
        };
        // All or nothing: what is half sent is sent again.
        if outgoing.space() < 2 * unit.bytes().len() {
            return Some(Err(DropReason::SessionQueueFull));
        }
        let id = self.next_frame.fetch_add(1, Ordering::Relaxed);
        let cut = Cut::of(unit.bytes(), unit.segment(), max)?;
        let repairs = outgoing.repairs(cut.count());
        let mut datagrams = cut.datagrams(vni, id, repairs, &mut outbox.slices);
        let pushed = datagrams.try_for_each(|datagram| push(&mut outgoing, datagram));
        drop(datagrams);
        outgoing.flush();
        Some(pushed)
    }
}

fn push(outgoing: &mut Outgoing<'_>, datagram: Bytes) -> Result<(), DropReason> {
    outgoing.push(datagram).map_err(|error| match error {
        // The path's MTU shrank between the question and now.
        SendError::TooLarge | SendError::Full => DropReason::SessionQueueFull,
        SendError::Unsupported => DropReason::NoSession,
    })
}

/// What a lane sends with. Short frames go in packets together, and packets in calls together, so they wait for the end of the
/// batch that they came in, unless their lane does not wait for that.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Connections with datagrams that have not left yet.
    unsent: Vec<Connection>,
    /// Where superframes are cut into slices.
    slices: BytesMut,
    /// Where they are cut into frames.
    pub(crate) frames: Vec<u8>,
}

/// Connections that are remembered. With more of them a batch has few frames for each.
const UNSENT_MAX: usize = 16;

impl Outbox {
    fn add(&mut self, connection: &Connection) {
        if self.unsent.iter().any(|known| known.is(connection)) {
            return;
        }
        if self.unsent.len() >= UNSENT_MAX {
            self.flush();
        }
        self.unsent.push(connection.clone());
    }

    /// What waits leaves: the batch is over, or its lane does not wait for that.
    pub(crate) fn flush(&mut self) {
        for connection in self.unsent.drain(..) {
            connection.flush();
        }
    }
}
