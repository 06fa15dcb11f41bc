//! The lane of a port: reads its TAP in batches.

use super::lane_task::{LaneTask, Start};
use bytes::BytesMut;
use meshd_core::ident::Vni;
use meshd_core::wire::datagram;
use std::sync::Arc;
use tokio_tun::Tun;

/// Frames read in a row before rulings, timers and other tasks have their turn.
const BATCH_MAX: usize = 64;
/// Ethernet header and two VLAN tags, beside the MTU.
const L2_MAX: usize = 14 + 8;
/// Read ahead of what frames need, so that memory is asked for once in many frames.
const CHUNK: usize = 256 * 1024;

/// Reads until the TAP is gone.
pub(super) async fn run(start: Start, vni: Vni, mtu: u16, tap: Arc<Tun>) {
    let (mut task, mut from_driver) = LaneTask::new(start);
    // One byte more than allowed: a longer frame is seen to be longer, and dropped by the switch under its name.
    let room = datagram::WHOLE_LEN + usize::from(mtu) + L2_MAX + 1;
    let mut buffer = BytesMut::zeroed(CHUNK);
    loop {
        tokio::select! {
            biased;
            told = from_driver.recv() => match told {
                Some(told) => task.told(told),
                None => return,
            },
            read = tap.recv(space(&mut buffer, room)) => match read {
                Ok(length) => take(&mut task, vni, &mut buffer, length),
                Err(error) => {
                    tracing::debug!(tap = tap.name(), %error, "the TAP of a port cannot be read any more");
                    return;
                }
            },
            () = task.timer(None) => task.timeout(),
        }
        for _ in 1..BATCH_MAX {
            match tap.try_recv(space(&mut buffer, room)) {
                Ok(length) => take(&mut task, vni, &mut buffer, length),
                Err(_) => break,
            }
        }
        task.catch_up(&mut from_driver);
        task.batch_done();
        // A flood on one port must not keep the others from the runtime's few threads.
        tokio::task::consume_budget().await;
    }
}

/// Where the next frame is read to, behind the room for the overlay header.
fn space(buffer: &mut BytesMut, room: usize) -> &mut [u8] {
    if buffer.len() < room {
        *buffer = BytesMut::zeroed(CHUNK);
    }
    buffer
        .get_mut(datagram::WHOLE_LEN..room)
        .unwrap_or_default()
}

fn take(task: &mut LaneTask, vni: Vni, buffer: &mut BytesMut, length: usize) {
    let mut framed = buffer.split_to((datagram::WHOLE_LEN + length).min(buffer.len()));
    if let Some(mut header) = framed.get_mut(..datagram::WHOLE_LEN) {
        datagram::Header::Whole { vni }.encode_into(&mut header);
    }
    task.frame(vni, &framed.freeze());
}
