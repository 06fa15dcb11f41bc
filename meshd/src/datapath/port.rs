//! The lane of a port, or of one of its queues: reads the TAP in batches.

use super::lane_task::{LaneTask, Start};
use crate::kernel::PortTap;
use bytes::BytesMut;
use meshd_core::ident::Vni;
use meshd_core::ruling::DropReason;
use meshd_core::superframe::{self, Gso, SUPERFRAME_MAX, Unit, VnetHeader};
use meshd_core::wire::datagram;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Frames and superframes read in a row before rulings, timers and other tasks have their turn.
const BATCH_MAX: usize = 64;
/// Room for what is read: a superframe, however long the MTU. A frame that is longer than that is seen to be longer, and dropped
/// by the switch under its name.
const ROOM: usize = datagram::WHOLE_LEN + SUPERFRAME_MAX;
/// Read ahead of what frames need, so that memory is asked for once in many frames.
const CHUNK: usize = 256 * 1024;

/// Other ports are waited for so long after a restart.
const ADOPTED_WITHIN: Duration = Duration::from_secs(3);

/// Reads until the TAP is gone.
pub(super) async fn run(start: Start, vni: Vni, tap: Arc<PortTap>) {
    // What has waited in one TAP over a restart may be for another that is not there yet.
    let _ = tokio::time::timeout(ADOPTED_WITHIN, start.begun()).await;
    let (mut task, mut from_driver) = LaneTask::new(start);
    // A port has many queues, and most are idle: there is a buffer while frames come.
    let (mut buffer, mut idle) = (BytesMut::new(), true);
    // Frames of the last batch that had any.
    let mut before = 0;
    loop {
        let mut count = 0;
        tokio::select! {
            biased;
            told = from_driver.recv() => match told {
                Some(told) => task.told(told),
                None => return,
            },
            read = tap.read_into(&mut buffer, space) => match read {
                Ok((header, length)) => {
                    idle = false;
                    count = 1;
                    take(&mut task, vni, &mut buffer, &header, length);
                }
                // A kind of superframe that this release has not asked for.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    task.lost(DropReason::Malformed, 1, Some(vni));
                }
                Err(error) => {
                    tracing::debug!(%vni, %error, "the TAP of a port cannot be read any more");
                    return;
                }
            },
            () = task.timer(None) => {
                task.timeout();
                if std::mem::replace(&mut idle, true) {
                    buffer = BytesMut::new();
                }
            }
        }
        if before == 1 {
            // It is a conversation rather than a load: what has come leaves before it is looked whether there is more.
            task.flush();
        }
        for _ in 1..if idle { 0 } else { BATCH_MAX } {
            match tap.try_read(space(&mut buffer)) {
                Ok((header, length)) => {
                    count += 1;
                    take(&mut task, vni, &mut buffer, &header, length);
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    task.lost(DropReason::Malformed, 1, Some(vni));
                }
                Err(_) => break,
            }
        }
        if count > 0 {
            before = count;
        }
        task.catch_up(&mut from_driver);
        task.batch_done();
        // A flood on one port must not keep the others from the runtime's few threads.
        tokio::task::consume_budget().await;
    }
}

/// Where the next frame is read to, behind the room for the overlay header.
fn space(buffer: &mut BytesMut) -> &mut [u8] {
    if buffer.len() < ROOM {
        *buffer = BytesMut::zeroed(CHUNK);
    }
    buffer
        .get_mut(datagram::WHOLE_LEN..ROOM)
        .unwrap_or_default()
}

fn take(task: &mut LaneTask, vni: Vni, buffer: &mut BytesMut, header: &VnetHeader, length: usize) {
    let end = (datagram::WHOLE_LEN + length).min(buffer.len());
    if header.gso != Gso::None {
        // Its place is used again: what becomes of it are copies.
        let frame = buffer.get(datagram::WHOLE_LEN..end).unwrap_or_default();
        match Unit::of(frame, header.gso_size) {
            Some(unit) if header.gso != Gso::Ufo => task.superframe(vni, &unit),
            _ => task.lost(DropReason::Malformed, 1, Some(vni)),
        }
        return;
    }
    let mut framed = buffer.split_to(end);
    let (mut head, frame) = framed.split_at_mut(datagram::WHOLE_LEN.min(end));
    if header.needs_checksum {
        superframe::complete(frame, header.csum_start, header.csum_offset);
    }
    datagram::Header::Whole { vni }.encode_into(&mut head);
    task.frame(vni, &framed.freeze());
}
