//! The lane of a network's VXLAN device: what its gate does not let pass, and probes.
//!
//! Frames from here go to ports only, as those of a peer do; who sent them is told by the source MAC, and the fence sees to it
//! that only members send. Probes are the node's.

use super::lane_task::{LaneTask, Start};
use crate::kernel::Vtap;
use bytes::{BufMut, Bytes, BytesMut};
use meshd_core::ident::Vni;
use meshd_core::node::Input;
use meshd_core::superframe::{Gso, VnetHeader};
use meshd_core::wire::datagram;
use meshd_core::wire::probe::{self, ProbeFrame};
use std::sync::Arc;

/// Frames read in a row before rulings, timers and other tasks have their turn.
const BATCH_MAX: usize = 64;
/// Ethernet header and two VLAN tags, beside the MTU.
const L2_MAX: usize = 14 + 8;

/// Reads until the TAP is gone.
pub(super) async fn run(start: Start, vni: Vni, mtu: u16, tap: Arc<Vtap>) {
    let inputs = start.inputs();
    let (mut task, mut from_driver) = LaneTask::new(start);
    // One byte more than allowed: a longer frame is seen to be longer, and dropped by the switch under its name.
    let mut buffer = vec![0; usize::from(mtu) + L2_MAX + 1];
    let take = |task: &mut LaneTask, frame: &[u8]| {
        if probe::is_probe(frame) {
            let frame = Bytes::copy_from_slice(frame);
            // One that finds no room is one that was lost.
            let _ = inputs.try_send(Input::Probe { vni, frame });
            return;
        }
        let mut framed = BytesMut::with_capacity(datagram::WHOLE_LEN + frame.len());
        datagram::Header::Whole { vni }.encode_into(&mut framed);
        framed.put_slice(frame);
        task.frame(vni, &framed.freeze());
    };
    loop {
        tokio::select! {
            biased;
            told = from_driver.recv() => match told {
                Some(told) => task.told(told),
                None => return,
            },
            read = tap.read(&mut buffer) => match read {
                Ok((_, length)) => take(&mut task, buffer.get(..length).unwrap_or_default()),
                Err(error) => {
                    tracing::debug!(%vni, %error, "the TAP of a VXLAN device cannot be read any more");
                    return;
                }
            },
            () = task.timer(None) => task.timeout(),
        }
        for _ in 1..BATCH_MAX {
            match tap.try_read(&mut buffer) {
                Ok((_, length)) => take(&mut task, buffer.get(..length).unwrap_or_default()),
                Err(_) => break,
            }
        }
        task.catch_up(&mut from_driver);
        task.batch_done();
        tokio::task::consume_budget().await;
    }
}

/// Sends a probe; one that the kernel does not take is one that is lost.
pub(super) fn send(tap: &Vtap, probe: &ProbeFrame) {
    let header = probe
        .segmentation
        .map_or_else(VnetHeader::default, |cut| VnetHeader {
            needs_checksum: true,
            gso: Gso::Tcp4,
            header_len: cut.hdr_len,
            gso_size: cut.gso_size,
            csum_start: cut.csum_start,
            csum_offset: cut.csum_offset,
            ..VnetHeader::default()
        });
    if let Err(error) = tap.try_write(&header, &probe.bytes) {
        tracing::debug!(%error, "a probe was not sent");
    }
}
