//! The lane of a peer: reads the datagrams of its session, and puts pieces together.

use super::lane_task::{LaneTask, Start};
use bytes::{BufMut, Bytes, BytesMut};
use meshd_core::ident::Moment;
use meshd_core::ruling::DropReason;
use meshd_core::wire::datagram::{self, Header, Pushed, Reassembly};

/// Reads until the session is over; the driver hears of that by itself.
pub(super) async fn run(start: Start, connection: quinn::Connection) {
    let clock = start.shared.clock;
    let (mut task, mut from_driver) = LaneTask::new(start);
    let mut reassembly = Reassembly::new();
    loop {
        tokio::select! {
            biased;
            told = from_driver.recv() => match told {
                Some(told) => task.told(told),
                None => return,
            },
            datagram = connection.read_datagram() => match datagram {
                Ok(datagram) => take(&mut task, &mut reassembly, &datagram, clock.moment()),
                Err(_) => return,
            },
            () = task.timer(reassembly.poll_timeout()) => {
                task.timeout();
                reassembly.handle_timeout(clock.moment());
            }
        }
        let (full, expired) = reassembly.take_lost();
        task.drop(DropReason::ReassemblyFull, full);
        task.drop(DropReason::PieceMissing, expired);
        task.catch_up(&mut from_driver);
        task.batch_done();
    }
}

fn take(task: &mut LaneTask, reassembly: &mut Reassembly, datagram: &Bytes, now: Moment) {
    if datagram::is_padding(datagram) {
        return;
    }
    match datagram::decode(datagram) {
        Ok((Header::Whole { vni }, _)) => task.frame(vni, datagram),
        Ok((header, payload)) => match reassembly.push(&header, &payload, now) {
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
