//! The lane of a peer: reads the datagrams of its session, puts pieces and slices together, and mends what can be.

use super::lane_task::{LaneTask, Start};
use crate::quic::Connection;
use bytes::{BufMut, Bytes, BytesMut};
use meshd_core::ident::Moment;
use meshd_core::ruling::DropReason;
use meshd_core::superframe::{Joined, Mender, Missing, Repair, Run, Slice, Unit};
use meshd_core::wire::datagram::{self, Header, Pushed, Reassembly};
use std::collections::VecDeque;

/// Datagrams in a row before rulings, timers and other tasks have their turn.
const BATCH_MAX: usize = 256;

/// Reads until the session is over; the driver hears of that by itself.
pub(super) async fn run(start: Start, connection: Connection) {
    let clock = start.shared.clock;
    let (mut task, mut from_driver) = LaneTask::new(start);
    let mut parts = Parts::default();
    let mut datagrams = VecDeque::new();
    let mut overrun = 0;
    loop {
        tokio::select! {
            biased;
            told = from_driver.recv() => match told {
                Some(told) => task.told(told),
                None => return,
            },
            arrived = connection.datagrams(&mut datagrams, BATCH_MAX) => match arrived {
                Ok(lost) => overrun = lost,
                Err(_) => return parts.close(&mut task),
            },
            () = task.timer(parts.poll_timeout()) => {
                task.timeout();
            }
        }
        let now = clock.moment();
        for datagram in datagrams.drain(..) {
            parts.take(&mut task, &datagram, now);
        }
        parts.wait_no_longer(&mut task, now);
        task.mended(parts.mender.take_mended());
        // Nothing more is at hand, and what is missing may be lost.
        parts.end(&mut task);
        parts.count_lost(&mut task);
        task.lost(
            DropReason::SessionOverrun,
            std::mem::take(&mut overrun),
            None,
        );
        if parts
            .reassembly
            .poll_timeout()
            .is_some_and(|due| due <= now)
        {
            parts.reassembly.handle_timeout(now);
        }
        task.catch_up(&mut from_driver);
        task.batch_done();
        // A flood of one peer must not keep the others from the few threads for frames.
        tokio::task::consume_budget().await;
    }
}

/// What is not whole yet.
#[derive(Default)]
struct Parts {
    reassembly: Reassembly,
    mender: Mender,
    missing: Missing,
    /// What the mender hands on; empty between two datagrams.
    mended: VecDeque<Slice>,
    run: Run,
}

impl Parts {
    fn take(&mut self, task: &mut LaneTask, datagram: &Bytes, now: Moment) {
        if datagram::is_padding(datagram) {
            return;
        }
        if datagram::is_slice(datagram) {
            let Ok(slice) = Slice::decode(datagram) else {
                return task.lost(DropReason::BadDatagram, 1, None);
            };
            self.mender.slice(slice, now, &mut self.mended);
            return self.join(task, now);
        }
        if datagram::is_repair(datagram) {
            let Ok(repair) = Repair::decode(datagram) else {
                return task.lost(DropReason::BadDatagram, 1, None);
            };
            self.mender.repair(&repair, now, &mut self.mended);
            return self.join(task, now);
        }
        // What comes behind a superframe does not overtake it.
        self.mender.give_up(&mut self.mended);
        self.join(task, now);
        self.end(task);
        match datagram::decode(datagram) {
            Ok((Header::Whole { vni }, _)) => task.frame(vni, datagram),
            Ok((header, payload)) => match self.reassembly.push(&header, &payload, now) {
                Pushed::Frame(vni, frame) => {
                    let mut framed = BytesMut::with_capacity(datagram::WHOLE_LEN + frame.len());
                    Header::Whole { vni }.encode_into(&mut framed);
                    framed.put_slice(&frame);
                    task.frame(vni, &framed.freeze());
                }
                Pushed::Copy(vni, frame) => task.copied(vni, &frame),
                Pushed::Wanting => {}
                Pushed::Rejected => task.lost(DropReason::BadDatagram, 1, None),
            },
            Err(_) => task.lost(DropReason::BadDatagram, 1, None),
        }
    }

    /// When something is given up.
    fn poll_timeout(&self) -> Option<Moment> {
        let all = [
            self.reassembly.poll_timeout(),
            self.mender.poll_timeout(),
            self.missing.poll_timeout(),
        ];
        all.into_iter().flatten().min()
    }

    fn wait_no_longer(&mut self, task: &mut LaneTask, now: Moment) {
        self.mender.handle_timeout(now, &mut self.mended);
        self.join(task, now);
        while let Some((vni, frames)) = self.missing.handle_timeout(now) {
            task.lost(DropReason::PieceMissing, frames, Some(vni));
        }
    }

    /// Joins the slices that can be handed on.
    fn join(&mut self, task: &mut LaneTask, now: Moment) {
        while let Some(slice) = self.mended.pop_front() {
            if let Some((vni, frames)) = self.missing.slice(&slice, now) {
                task.lost(DropReason::PieceMissing, frames, Some(vni));
            }
            if let Some(before) = self.run.push(&slice) {
                hand_over(task, &before);
            }
            if self.run.is_complete() {
                self.end(task);
            }
        }
    }

    fn count_lost(&mut self, task: &mut LaneTask) {
        for ((vni, reason), frames) in self.reassembly.take_lost() {
            task.lost(reason, frames, vni);
        }
    }

    /// Nothing more comes: what is whole is handed on, and what is not is counted.
    fn close(&mut self, task: &mut LaneTask) {
        let never = Moment(u64::MAX);
        self.mender.give_up(&mut self.mended);
        self.wait_no_longer(task, never);
        self.end(task);
        self.reassembly.handle_timeout(never);
        self.count_lost(task);
        task.batch_done();
    }

    fn end(&mut self, task: &mut LaneTask) {
        if let Some(joined) = self.run.end() {
            hand_over(task, &joined);
        }
    }
}

fn hand_over(task: &mut LaneTask, (vni, framed, segment): &Joined) {
    if *segment == 0 {
        return task.frame(*vni, framed);
    }
    let frame = framed.get(datagram::WHOLE_LEN..).unwrap_or_default();
    match Unit::of(frame, *segment) {
        Some(unit) => task.superframe(*vni, &unit),
        None => task.lost(DropReason::BadDatagram, 1, None),
    }
}
