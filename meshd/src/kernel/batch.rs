//! Many netlink requests in few sends.
//!
//! ```text
//!    messages --256 at a time--> one datagram --> kernel works them off one by one
//!    <-- one acknowledgement each, known by its sequence number ------------------
//! ```
//!
//! Owns one socket of its own, so that the acknowledgements of ten thousand changes never crowd out another request's
//! answer. A request that fails does not keep the others from being tried.

use super::netlink;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_proto::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::time::Duration;
use tokio::sync::Mutex;

/// Requests in one datagram: their acknowledgements fit the socket's buffer with room to spare.
const CHUNK: usize = 256;
/// The kernel answers at once; without an answer something is badly wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) kind: u16,
    /// Besides those that any request has.
    pub(super) flags: u16,
    pub(super) body: Vec<u8>,
}

/// A socket for batches, in the namespace where it was opened.
pub(super) struct Batch(Mutex<Wire>);

struct Wire {
    socket: TokioSocket,
    sequence: u32,
}

/// Gives a socket room for `bytes` of what it is sent, beyond the host's limit where we may.
pub(super) fn set_receive_buffer(socket: &TokioSocket, bytes: usize) -> io::Result<()> {
    setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &bytes)
        .or_else(|_| setsockopt(socket.socket_ref(), sockopt::RcvBuf, &bytes))
        .map_err(Into::into)
}

/// Lets one datagram have `bytes`, beyond the host's limit where we may.
pub(super) fn set_send_buffer(socket: &TokioSocket, bytes: usize) -> io::Result<()> {
    setsockopt(socket.socket_ref(), sockopt::SndBufForce, &bytes)
        .or_else(|_| setsockopt(socket.socket_ref(), sockopt::SndBuf, &bytes))
        .map_err(Into::into)
}

impl Batch {
    /// In the caller's namespace.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub(super) fn open() -> io::Result<Self> {
        let socket = TokioSocket::new(NETLINK_ROUTE)?;
        set_receive_buffer(&socket, 1 << 20)?;
        // Acknowledgements without a copy of what they answer.
        socket.socket_ref().set_cap_ack(true)?;
        Ok(Self(Mutex::new(Wire {
            socket,
            sequence: 0,
        })))
    }

    /// Sends all; answers which failed, by their place in `requests`.
    ///
    /// # Errors
    /// If the socket fails: then it is unknown which were done.
    pub(super) async fn send(&self, requests: &[Request]) -> io::Result<Vec<(usize, Errno)>> {
        let mut wire = self.0.lock().await;
        let mut failed = Vec::new();
        for (number, chunk) in requests.chunks(CHUNK).enumerate() {
            let answers = wire.send(chunk).await?;
            failed.extend(
                answers
                    .into_iter()
                    .map(|(at, error)| (number * CHUNK + at, error)),
            );
        }
        Ok(failed)
    }
}

impl Wire {
    async fn send(&mut self, chunk: &[Request]) -> io::Result<Vec<(usize, Errno)>> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for request in chunk {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = NLM_F_REQUEST | NLM_F_ACK | request.flags;
            netlink::append(
                &mut datagram,
                request.kind,
                flags,
                self.sequence,
                &request.body,
            );
        }
        let kernel = SocketAddr::new(0, 0);
        std::future::poll_fn(|cx| self.socket.poll_send_to(cx, &datagram, &kernel)).await?;
        let (mut failed, mut open) = (Vec::new(), chunk.len());
        while open > 0 {
            let read = std::future::poll_fn(|cx| self.socket.poll_recv_from_full(cx));
            let (datagram, _) = tokio::time::timeout(PATIENCE, read)
                .await
                .map_err(|_| io::Error::from(Errno::ETIMEDOUT))??;
            for part in netlink::parts(&datagram) {
                // Answers to a batch whose sender gave up come late, and are nobody's.
                let at = usize::try_from(part.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                let (Some(answer), true) = (part.answer(), at < chunk.len()) else {
                    continue;
                };
                open = open.saturating_sub(1);
                failed.extend(answer.err().map(|error| (at, error)));
            }
        }
        Ok(failed)
    }
}
