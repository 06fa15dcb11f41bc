//! Captures: copies of frames for whoever looks, taken where lanes take and send them.
//!
//! ```text
//!   lane --frame--> looked for? -- no, nearly always: one load of a word, and on
//!                      | yes, its network, filter, place
//!                      +--> copy -> queue with a bound (frames, bytes) -> stream of the API; full: counted, and on
//! ```
//!
//! What the kernel forwards by itself comes by a [`Feed`] into the same queue.
//!
//! Owns who looks, and the bounds: a slow reader loses frames and is told how many; it never slows a lane.

use bytes::Bytes;
use meshd_core::capture::{Fate, Filter, Glance, Spot, Subject, Way, output};
use meshd_core::flow::Origin;
use meshd_core::frame::Frame;
use meshd_core::ident::Vni;
use meshd_core::ruling::{DropReason, Output};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

use arc_swap::ArcSwap;

/// Captures at once.
pub(crate) const CAPTURES_MAX: usize = 8;
/// Frames that wait for a reader, and their bytes.
const QUEUE_FRAMES: usize = 8192;
const QUEUE_BYTES: usize = 8 << 20;
/// What a frame costs beside its bytes.
const FRAME_COST: usize = 256;
/// Receivers that are named of a flooded frame.
const RECEIVERS_MAX: usize = 16;

/// How a frame left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It came, and goes to these; with so many frames in it.
    Goes {
        /// The first of them.
        to: Vec<Output>,
        /// How many there are.
        receivers: usize,
        /// A ruling that the lane had, or (false) one that it waited for.
        cached: bool,
        /// It is changed on its way.
        edited: bool,
    },
    /// It came, and is not forwarded.
    Ends,
    /// It left.
    Left(Left),
    /// This node has made it: an answer, an ICMP error, a frame of a plugin.
    Made(Left),
    /// It is a copy for a mirror.
    Copied(Left),
    /// The kernel has it, and no lane sees it.
    Kernel(Hop),
}

/// A frame on its way through the kernel alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// By its source MAC; `None`: no port and no peer that is known.
    pub(crate) from: Option<Output>,
    /// By its destination MAC.
    pub(crate) to: Option<Output>,
    /// The other VTEP, where the frame is seen with its outer headers.
    pub(crate) vtep: Option<IpAddr>,
    /// It is no endpoint's: a node proves the path with it.
    pub(crate) probe: bool,
}

/// The way by which a frame left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Into the TAP of a port.
    Port,
    /// In datagrams of a session.
    Session(Encapsulation),
    /// Not: its fate says why.
    Not,
}

/// How a frame travels to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encapsulation {
    /// The number of the underlay link, from 1 on; `None`: the session.
    pub(crate) link: Option<usize>,
    /// The peer's address.
    pub(crate) remote: std::net::SocketAddr,
    /// Bytes of the longest datagram there.
    pub(crate) datagram_max: usize,
    /// How many datagrams it takes.
    pub(crate) datagrams: usize,
}

/// A frame, as a capture has it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Nanoseconds since the Unix epoch.
    pub(crate) at_ns: u64,
    /// Of this network.
    pub(crate) vni: Vni,
    /// Where.
    pub(crate) spot: Spot,
    /// Which way.
    pub(crate) way: Way,
    /// What became of it.
    pub(crate) fate: Fate,
    /// How.
    pub(crate) how: How,
    /// Frames that it stands for.
    pub(crate) frames: u64,
    /// As much of it as was asked for.
    pub(crate) bytes: Bytes,
    /// How long it was.
    pub(crate) length: u32,
}

/// What somebody wants to see.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) subject: Subject,
    pub(crate) filter: Filter,
    /// Bytes of each frame.
    pub(crate) snaplen: u32,
    /// Frames a second at most; the others are not looked at. `None`: all.
    pub(crate) per_s: Option<u32>,
}

/// One who looks.
#[derive(Debug)]
pub(crate) struct Capture {
    wish: Wish,
    queue: mpsc::Sender<Seen>,
    /// Bytes that wait.
    waiting: AtomicUsize,
    missed: AtomicU64,
    skipped: AtomicU64,
    /// The second that runs, and what was taken in it.
    second: Mutex<(u64, u32)>,
}

impl Capture {
    /// May one more be taken? Asked of frames that are wanted only.
    fn spend(&self, at_ns: u64) -> bool {
        let Some(per_s) = self.wish.per_s else {
            return true;
        };
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        let now = at_ns / 1_000_000_000;
        if second.0 != now {
            *second = (now, 0);
        }
        second.1 += 1;
        second.1 <= per_s
    }

    fn offer(&self, seen: &Seen, frame: &[u8]) {
        if !self.spend(seen.at_ns) {
            self.skipped.fetch_add(seen.frames, Ordering::Relaxed);
            return;
        }
        let kept = frame.get(..self.wish.snaplen as usize).unwrap_or(frame);
        let cost = kept.len() + FRAME_COST;
        if self.waiting.load(Ordering::Relaxed) + cost > QUEUE_BYTES {
            self.missed.fetch_add(seen.frames, Ordering::Relaxed);
            return;
        }
        let Ok(place) = self.queue.try_reserve() else {
            self.missed.fetch_add(seen.frames, Ordering::Relaxed);
            return;
        };
        self.waiting.fetch_add(cost, Ordering::Relaxed);
        place.send(Seen {
            bytes: Bytes::copy_from_slice(kept),
            ..seen.clone()
        });
    }
}

/// All who look.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    /// Grows with each change of the list.
    version: AtomicU64,
    list: ArcSwap<Vec<Arc<Capture>>>,
}

/// What a capture has taken, for its reader. It ends with it.
#[derive(Debug)]
pub(crate) struct Reader {
    capture: Arc<Capture>,
    captures: Arc<Captures>,
    queue: mpsc::Receiver<Seen>,
}

/// By which others than lanes give a capture frames.
#[derive(Clone, Debug)]
pub(crate) struct Feed(Arc<Capture>);

impl Feed {
    /// What is wanted.
    pub(crate) fn wish(&self) -> &Wish {
        &self.0.wish
    }

    /// Gives it a frame that is wanted; `frame`: all of it.
    pub(crate) fn offer(&self, seen: &Seen, frame: &[u8]) {
        self.0.offer(seen, frame);
    }

    /// So many frames were lost on their way to here.
    pub(crate) fn miss(&self, frames: u64) {
        self.0.missed.fetch_add(frames, Ordering::Relaxed);
    }
}

impl Reader {
    /// For others that give it frames.
    pub(crate) fn feed(&self) -> Feed {
        Feed(Arc::clone(&self.capture))
    }

    /// The next frame; cancelling loses none.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        let seen = self.queue.recv().await?;
        let cost = seen.bytes.len() + FRAME_COST;
        self.capture.waiting.fetch_sub(cost, Ordering::Relaxed);
        Some(seen)
    }

    /// The next frame, if it is there.
    pub(crate) fn try_next(&mut self) -> Option<Seen> {
        let seen = self.queue.try_recv().ok()?;
        let cost = seen.bytes.len() + FRAME_COST;
        self.capture.waiting.fetch_sub(cost, Ordering::Relaxed);
        Some(seen)
    }

    /// Frames that found no room so far.
    pub(crate) fn missed(&self) -> u64 {
        self.capture.missed.load(Ordering::Relaxed)
    }

    /// Frames that were beyond the rate so far.
    pub(crate) fn skipped(&self) -> u64 {
        self.capture.skipped.load(Ordering::Relaxed)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.captures.change(|list| {
            list.retain(|capture| !Arc::ptr_eq(capture, &self.capture));
        });
    }
}

impl Captures {
    /// Begins to capture; `None`: there are too many.
    pub(crate) fn begin(self: &Arc<Self>, wish: Wish) -> Option<Reader> {
        let (give, queue) = mpsc::channel(QUEUE_FRAMES);
        let capture = Arc::new(Capture {
            wish,
            queue: give,
            waiting: AtomicUsize::new(0),
            missed: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            second: Mutex::default(),
        });
        self.change(|list| {
            if list.len() < CAPTURES_MAX {
                list.push(Arc::clone(&capture));
            }
        });
        let list = self.list.load();
        let is_in = list.iter().any(|one| Arc::ptr_eq(one, &capture));
        is_in.then(|| Reader {
            capture,
            captures: Arc::clone(self),
            queue,
        })
    }

    fn change(&self, change: impl Fn(&mut Vec<Arc<Capture>>)) {
        self.list.rcu(|list| {
            let mut list = Vec::clone(list);
            change(&mut list);
            list
        });
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// A frame on its way, as a lane knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) vni: Vni,
    pub(crate) spot: Spot,
    pub(crate) way: Way,
    pub(crate) fate: Fate,
    pub(crate) frames: u64,
}

/// A lane's view of who looks: a copy of the list, as old as its last frame.
#[derive(Debug, Default)]
pub(super) struct Watch {
    version: u64,
    list: Vec<Arc<Capture>>,
}

impl Watch {
    /// Does anybody look at frames of this network? Nearly always nobody does, and this is one load and a comparison.
    #[inline(always)]
    pub(super) fn at(&mut self, captures: &Captures, vni: Vni) -> bool {
        if captures.version.load(Ordering::Relaxed) != self.version {
            self.renew(captures);
        }
        !self.list.is_empty() && self.concerns(vni)
    }

    #[cold]
    fn renew(&mut self, captures: &Captures) {
        // The version first: what changes behind it is seen with the next frame.
        self.version = captures.version.load(Ordering::Acquire);
        self.list = Vec::clone(&captures.list.load());
    }

    #[cold]
    fn concerns(&self, vni: Vni) -> bool {
        let of = |capture: &Arc<Capture>| capture.wish.subject.vni.is_none_or(|own| own == vni);
        self.list.iter().any(of)
    }

    /// Is there anybody at all?
    pub(super) fn is_on(&self) -> bool {
        !self.list.is_empty()
    }

    /// Shows a frame to those who want it.
    #[cold]
    pub(super) fn note(
        &self,
        moved: &Moved,
        frame: &[u8],
        from: Option<Origin>,
        how: impl Fn() -> How,
    ) {
        note(&self.list, moved, frame, from, how);
    }
}

impl Captures {
    /// Shows a frame that no lane has moved.
    pub(super) fn note(&self, moved: &Moved, frame: &[u8], how: impl Fn() -> How) {
        note(&self.list.load(), moved, frame, None, how);
    }
}

/// `from`: where it came from, if it is on its way out: who captures that place sees it there, too.
fn note(
    list: &[Arc<Capture>],
    moved: &Moved,
    frame: &[u8],
    from: Option<Origin>,
    how: impl Fn() -> How,
) {
    let mut key = None;
    let mut seen: Option<Seen> = None;
    for capture in list {
        let subject = &capture.wish.subject;
        let here = match moved.spot {
            Spot::Port(port) => Some(Output::Port(port)),
            Spot::Peer(node) => Some(Output::Peer(node)),
            Spot::Vxlan(_) | Spot::Underlay(_) => None,
        };
        let from = from.and_then(output);
        let wanted = subject.vni.is_none_or(|vni| vni == moved.vni)
            && subject
                .place
                .is_none_or(|place| here == Some(place) || from == Some(place));
        if !wanted {
            continue;
        }
        if !capture.wish.filter.is_open() {
            let key = key.get_or_insert_with(|| {
                let parsed = Frame::parse(frame).ok();
                parsed.map(|parsed| parsed.flow_key(moved.vni))
            });
            let glance = Glance {
                key: key.as_ref(),
                way: moved.way,
                fate: moved.fate,
            };
            if !capture.wish.filter.lets(&glance) {
                continue;
            }
        }
        let seen = seen.get_or_insert_with(|| Seen {
            at_ns: now_ns(),
            vni: moved.vni,
            spot: moved.spot,
            way: moved.way,
            fate: moved.fate,
            how: how(),
            frames: moved.frames,
            bytes: Bytes::new(),
            length: u32::try_from(frame.len()).unwrap_or(u32::MAX),
        });
        capture.offer(seen, frame);
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// How a frame goes on that came.
pub(super) fn goes(to: &[Output], cached: bool, edited: bool) -> How {
    How::Goes {
        to: to.iter().copied().take(RECEIVERS_MAX).collect(),
        receivers: to.len(),
        cached,
        edited,
    }
}

/// The fate of what was handed to a receiver.
pub(super) fn fate(sent: Result<(), DropReason>) -> Fate {
    match sent {
        Ok(()) => Fate::Forwarded,
        Err(reason) => Fate::Dropped(reason),
    }
}
