//! Punts: frames that verdicts send to the controllers of plugins.
//!
//! ```text
//!   lane --frame, whose--> box of the attachment --listened to?--budget--room?--> queue --> PuntReader
//!                                                   | no         | no    | no
//!                                                   '------------'-------'---> counted, by why
//! ```
//!
//! Owns the number of each attachment, its box, and the bounds: a budget of frames a second, and a queue. Nothing waits here, and
//! a frame that is not punted costs a look at an empty list. Refuses to know what a controller makes of a frame.

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use meshd_core::dues::{Dues, Meter, Rate};
use meshd_core::ident::{AttachmentId, Moment};
use meshd_core::lane;
use meshd_core::node::Question;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Frames a second of an attachment, unless it listens with another budget.
pub const BUDGET_PPS: u64 = 1000;
/// What of the budget may come at once, in ms of it.
const BURST_MS: u64 = 250;
/// Frames that wait for one controller.
const QUEUE: usize = 256;

/// A frame that a verdict sent to a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Punted {
    /// What the policy was asked, with the fields of this very frame as it came in.
    pub question: Question,
    /// From the destination MAC on; a copy of its own.
    pub frame: Bytes,
    /// It was longer.
    pub truncated: bool,
}

/// What became of the frames that verdicts sent to one controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PuntCounts {
    /// Put into its queue.
    pub taken: u64,
    /// Above its budget.
    pub surplus: u64,
    /// Its queue was full.
    pub overrun: u64,
    /// Nobody listens: the plugin has no controller, or it does not run.
    pub unheard: u64,
}

/// The boxes of all attachments. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Punts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    boxes: ArcSwap<BTreeMap<AttachmentId, Arc<PuntBox>>>,
    next: AtomicU32,
}

impl Punts {
    /// A box for an attachment, under a number that none had before.
    pub(crate) fn open(&self) -> Arc<PuntBox> {
        let id = AttachmentId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let new = Arc::new(PuntBox {
            id,
            desk: ArcSwapOption::empty(),
            counts: Counts::default(),
        });
        self.0.boxes.rcu(|boxes| {
            let mut boxes = BTreeMap::clone(boxes);
            boxes.insert(id, Arc::clone(&new));
            boxes
        });
        new
    }

    /// The attachment is gone, and so is what still comes for it.
    pub(crate) fn close(&self, id: AttachmentId) {
        self.0.boxes.rcu(|boxes| {
            let mut boxes = BTreeMap::clone(boxes);
            boxes.remove(&id);
            boxes
        });
    }

    /// A lane has a frame for controllers.
    pub(crate) fn offer(&self, punted: &lane::Punted, now: Moment) {
        let boxes = self.0.boxes.load();
        for order in punted.to.iter() {
            if let Some(punt_box) = boxes.get(&order.punt.to) {
                punt_box.offer(punted, order, now);
            }
        }
    }
}

/// Where frames for one attachment's controller go; survives a change of its config and code.
#[derive(Debug)]
pub struct PuntBox {
    id: AttachmentId,
    desk: ArcSwapOption<Desk>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    taken: AtomicU64,
    surplus: AtomicU64,
    overrun: AtomicU64,
    unheard: AtomicU64,
}

/// Somebody listens.
#[derive(Debug)]
struct Desk {
    budget: Dues,
    queue: mpsc::Sender<Punted>,
}

impl PuntBox {
    /// The attachment's number.
    #[must_use]
    pub fn id(&self) -> AttachmentId {
        self.id
    }

    /// From now on frames come to the reader, up to `pps` a second; whoever listened before hears no more.
    #[must_use]
    pub fn listen(&self, pps: u64) -> PuntReader {
        let (queue, reader) = mpsc::channel(QUEUE);
        let mut budget = Dues::default();
        let meter = Meter::new("punts".into(), Rate::Pps(pps), BURST_MS);
        budget.meter(Arc::new(meter));
        self.desk.store(Some(Arc::new(Desk { budget, queue })));
        PuntReader(reader)
    }

    /// Nobody listens from now on.
    pub(crate) fn leave(&self) {
        self.desk.store(None);
    }

    /// What became of the frames so far.
    #[must_use]
    pub fn counts(&self) -> PuntCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        PuntCounts {
            taken: read(&self.counts.taken),
            surplus: read(&self.counts.surplus),
            overrun: read(&self.counts.overrun),
            unheard: read(&self.counts.unheard),
        }
    }

    fn offer(&self, punted: &lane::Punted, order: &meshd_core::ruling::PuntOrder, now: Moment) {
        let desk = self.desk.load();
        let counted = match &*desk {
            None => &self.counts.unheard,
            Some(desk) if desk.budget.pay(punted.frame.len(), now).is_err() => &self.counts.surplus,
            Some(desk) => match desk.queue.try_reserve() {
                Ok(place) => {
                    place.send(copy(punted, order));
                    &self.counts.taken
                }
                Err(mpsc::error::TrySendError::Full(())) => &self.counts.overrun,
                Err(mpsc::error::TrySendError::Closed(())) => &self.counts.unheard,
            },
        };
        counted.fetch_add(1, Ordering::Relaxed);
    }
}

fn copy(punted: &lane::Punted, order: &meshd_core::ruling::PuntOrder) -> Punted {
    let frame = order.punt.cut(&punted.frame);
    Punted {
        question: Question {
            key: punted.key,
            ..order.question.clone()
        },
        // It may wait for long, and would hold the large buffer that it was read into.
        frame: Bytes::copy_from_slice(frame),
        truncated: frame.len() < punted.frame.len(),
    }
}

/// The reading end of a box: frames in order of arrival, for one controller.
#[derive(Debug)]
pub struct PuntReader(mpsc::Receiver<Punted>);

impl PuntReader {
    /// The next frame; `None`: the attachment is gone, or another listens.
    pub async fn recv(&mut self) -> Option<Punted> {
        self.0.recv().await
    }

    /// The same, on a thread that may wait.
    pub fn blocking_recv(&mut self) -> Option<Punted> {
        self.0.blocking_recv()
    }

    /// A frame that waits; `None`: none does.
    pub fn try_recv(&mut self) -> Option<Punted> {
        self.0.try_recv().ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::flow::FlowKey;
    use meshd_core::ident::{PortId, Vni};
    use meshd_core::node::{Direction, DstClass};
    use meshd_core::policy::Punt;
    use meshd_core::ruling::PuntOrder;

    fn punted(to: &[(AttachmentId, u16)]) -> lane::Punted {
        let vni = Vni::new(7).unwrap();
        let key = FlowKey {
            dst_port: 67,
            ..FlowKey::blank(vni)
        };
        let order = |&(to, bytes): &(AttachmentId, u16)| PuntOrder {
            punt: Punt { to, bytes },
            question: Question {
                vni,
                direction: Direction::Ingress,
                port: PortId(3),
                peer: None,
                key: FlowKey::blank(vni),
                dst_class: DstClass::Broadcast,
            },
        };
        lane::Punted {
            key,
            frame: Bytes::from(vec![7; 300]),
            to: to.iter().map(order).collect(),
        }
    }

    #[test]
    fn each_controller_gets_its_own_copy_as_long_as_it_wants_and_with_the_frames_own_fields() {
        let punts = Punts::default();
        let (one, other) = (punts.open(), punts.open());
        let (mut first, mut second) = (one.listen(BUDGET_PPS), other.listen(BUDGET_PPS));
        punts.offer(&punted(&[(one.id(), 64), (other.id(), 0)]), Moment(1));
        let (short, whole) = (first.try_recv().unwrap(), second.try_recv().unwrap());
        assert_eq!((short.frame.len(), short.truncated), (64, true));
        assert_eq!((whole.frame.len(), whole.truncated), (300, false));
        assert_eq!(short.question.key.dst_port, 67);
        assert_eq!(short.question.port, PortId(3));
        assert_eq!(first.try_recv(), None);
    }

    #[test]
    fn what_is_above_the_budget_or_the_queue_or_that_nobody_hears_is_counted_and_does_not_wait() {
        let punts = Punts::default();
        let punt_box = punts.open();
        let frame = punted(&[(punt_box.id(), 0)]);
        punts.offer(&frame, Moment(1));
        assert_eq!(punt_box.counts().unheard, 1);
        let mut slow = punt_box.listen(40);
        for _ in 0..100 {
            punts.offer(&frame, Moment(1));
        }
        let counts = punt_box.counts();
        assert_eq!(
            (counts.taken, counts.surplus),
            (10, 90),
            "a quarter of a second's"
        );
        assert_eq!(std::iter::from_fn(|| slow.try_recv()).count(), 10);
        let full = punt_box.listen(1_000_000);
        for _ in 0..300 {
            punts.offer(&frame, Moment(1));
        }
        let counts = punt_box.counts();
        assert_eq!((counts.taken, counts.overrun), (10 + 256, 44));
        assert_eq!(slow.try_recv(), None, "another listens");
        drop(full);
        punts.offer(&frame, Moment(1));
        assert_eq!(punt_box.counts().unheard, 2);
    }

    #[test]
    fn a_number_is_never_given_twice_and_what_comes_for_a_closed_box_is_nothing() {
        let punts = Punts::default();
        let first = punts.open();
        let mut reader = first.listen(BUDGET_PPS);
        punts.close(first.id());
        assert_ne!(punts.open().id(), first.id());
        punts.offer(&punted(&[(first.id(), 0)]), Moment(1));
        assert_eq!(
            (reader.try_recv(), first.counts()),
            (None, PuntCounts::default())
        );
    }
}
