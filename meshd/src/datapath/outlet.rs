//! Outlets: where a lane sends a frame, by port or by peer.
//!
//! Owns the way out and its limits: a TAP that is full, or a session whose datagram buffer is, takes no more, and the lane
//! counts the drop. Nothing waits here.

use crate::kernel::{VnetHeader, Vtap};
use crate::underlay::QUEUE_BYTES;
use bytes::{BufMut, Bytes, BytesMut};
use meshd_core::ident::{NodeId, PortId, Vni};
use meshd_core::ruling::DropReason;
use meshd_core::wire::datagram;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tokio_tun::Tun;

/// Frames shorter than this do not keep their share of a read buffer when they wait behind many others.
const SHARE_MIN: usize = 4096;

/// All ways out, at one moment.
#[derive(Clone, Default)]
pub(crate) struct Outlets {
    pub(crate) ports: HashMap<PortId, PortOutlet>,
    pub(crate) peers: HashMap<NodeId, PeerOutlet>,
}

/// What went out.
#[derive(Default)]
struct Sent {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Sent {
    fn count(&self, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
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
    Tap(Arc<Tun>),
    /// The TAP of the network's VXLAN device: the port stands for foreign VTEPs.
    Vxlan(Arc<Vtap>),
}

impl PortOutlet {
    pub(crate) fn new(tap: Arc<Tun>) -> Self {
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
        let taken = match &self.way {
            Way::Tap(tap) => tap.try_send(frame).is_ok(),
            Way::Vxlan(tap) => tap.try_write(&VnetHeader::default(), frame).is_ok(),
        };
        match taken {
            true => {
                self.sent.count(frame.len());
                Ok(())
            }
            false => Err(DropReason::PortQueueFull),
        }
    }

    /// Frames and bytes so far.
    pub(crate) fn sent(&self) -> (u64, u64) {
        self.sent.read()
    }
}

/// The session with a peer.
#[derive(Clone)]
pub(crate) struct PeerOutlet {
    connection: quinn::Connection,
    /// Numbers the frames that are cut into pieces.
    next_frame: Arc<AtomicU32>,
    sent: Arc<Sent>,
}

impl PeerOutlet {
    pub(crate) fn new(connection: quinn::Connection) -> Self {
        Self {
            connection,
            next_frame: Arc::default(),
            sent: Arc::default(),
        }
    }

    /// Frames and bytes so far.
    pub(crate) fn sent(&self) -> (u64, u64) {
        self.sent.read()
    }

    /// Sends a frame: `framed` is the overlay header of a whole frame, and the frame right behind it. What is longer than
    /// a datagram goes in pieces, all or none.
    pub(crate) fn send(&self, vni: Vni, framed: &Bytes) -> Result<(), DropReason> {
        self.offer(vni, framed)?;
        self.sent.count(framed.len() - datagram::WHOLE_LEN);
        Ok(())
    }

    fn offer(&self, vni: Vni, framed: &Bytes) -> Result<(), DropReason> {
        let Some(max) = self.connection.max_datagram_size() else {
            return Err(DropReason::NoSession);
        };
        // `send_datagram` would throw out the oldest; we rather refuse the newest, which costs no order.
        let space = self.connection.datagram_send_buffer_space();
        if framed.len() <= max {
            return if space < framed.len() {
                Err(DropReason::SessionQueueFull)
            } else if space < QUEUE_BYTES - QUEUE_BYTES / 8 && framed.len() < SHARE_MIN {
                // It may wait for long, and would hold the large buffer that it was read into.
                self.transmit(Bytes::copy_from_slice(framed))
            } else {
                self.transmit(framed.clone())
            };
        }
        let frame = framed.slice(datagram::WHOLE_LEN..);
        let id = self.next_frame.fetch_add(1, Ordering::Relaxed);
        let count = frame
            .len()
            .div_ceil(max.saturating_sub(datagram::PIECE_LEN).max(1));
        if space < frame.len() + count * datagram::PIECE_LEN {
            return Err(DropReason::SessionQueueFull);
        }
        let mut pieces = datagram::split(vni, id, frame.len(), max).peekable();
        if pieces.peek().is_none() {
            return Err(DropReason::TooLong);
        }
        for (header, range) in pieces {
            let mut piece = BytesMut::with_capacity(datagram::PIECE_LEN + range.len());
            header.encode_into(&mut piece);
            piece.put_slice(frame.get(range).unwrap_or_default());
            self.transmit(piece.freeze())?;
        }
        Ok(())
    }

    fn transmit(&self, datagram: Bytes) -> Result<(), DropReason> {
        use quinn::SendDatagramError as E;
        self.connection
            .send_datagram(datagram)
            .map_err(|error| match error {
                // The path's MTU shrank between the question and now.
                E::TooLarge => DropReason::SessionQueueFull,
                E::UnsupportedByPeer | E::Disabled | E::ConnectionLost(_) => DropReason::NoSession,
            })
    }
}
