//! The lane of a peer: reads the datagrams of its session, and puts pieces and slices together.

use super::lane_task::{LaneTask, Start};
use crate::quic::Connection;
use bytes::{BufMut, Bytes, BytesMut};
use meshd_core::ident::Moment;
use meshd_core::ruling::DropReason;
use meshd_core::superframe::{Joined, Run, Slice, Unit};
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
    loop {
        tokio::select! {
            biased;
            told = from_driver.recv() => match told {
                Some(told) => task.told(told),
                None => return,
            },
            arrived = connection.datagrams(&mut datagrams, BATCH_MAX) => if arrived.is_err() {
                return;
            },
            () = task.timer(parts.reassembly.poll_timeout()) => {
                task.timeout();
            }
        }
        let now = clock.moment();
        for datagram in datagrams.drain(..) {
            parts.take(&mut task, &datagram, now);
        }
        // Nothing more is at hand, and what is missing may be lost.
        parts.end(&mut task);
        let (full, expired) = parts.reassembly.take_lost();
        task.drop(DropReason::ReassemblyFull, full);
        task.drop(DropReason::PieceMissing, expired);
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
    run: Run,
}

impl Parts {
    fn take(&mut self, task: &mut LaneTask, datagram: &Bytes, now: Moment) {
        if datagram::is_padding(datagram) {
            return;
        }
        if datagram::is_slice(datagram) {
            let Ok(slice) = Slice::decode(datagram) else {
                return task.drop(DropReason::BadDatagram, 1);
            };
            if let Some(before) = self.run.push(&slice) {
                hand_over(task, &before);
            }
            if self.run.is_complete() {
                self.end(task);
            }
            return;
        }
        // What comes behind a superframe does not overtake it.
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
                Pushed::Rejected => task.drop(DropReason::BadDatagram, 1),
            },
            Err(_) => task.drop(DropReason::BadDatagram, 1),
        }
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
        None => task.drop(DropReason::BadDatagram, 1),
    }
}
