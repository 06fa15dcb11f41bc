//! A connection, as lanes and sessions have it.
//!
//! Owns what waits to leave while it is held, and the end: the connection is closed when nobody has it any more.

use super::machine::{Held, Shared, State};
use super::stream::{RecvStream, SendStream};
use bytes::Bytes;
use quinn::congestion::Controller;
use quinn::{ConnectionError, ConnectionStats, Dir, VarInt};
use quinn_proto::SendDatagramError;
use std::any::Any;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// A connection. Clones share it; it is closed when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Owner>);

struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close(VarInt::from_u32(0), Bytes::new());
    }
}

/// Why a datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// It is longer than [`Outgoing::max_size`].
    TooLarge,
    /// As much as may wait is waiting.
    Full,
    /// The far end takes none.
    Unsupported,
}

/// The datagrams of a connection that wait to leave. What was pushed leaves at [`Connection::flush`], or when something else makes
/// the connection send.
pub(crate) struct Outgoing<'a> {
    shared: &'a Arc<Shared>,
    state: Held<'a>,
}

impl Outgoing<'_> {
    /// Bytes of the longest datagram that the path takes; `None`: the far end takes none, or the connection is over.
    pub(crate) fn max_size(&mut self) -> Option<usize> {
        if self.state.over.is_some() {
            return None;
        }
        self.state.machine.datagrams().max_size()
    }

    /// Bytes that may be pushed.
    pub(crate) fn space(&mut self) -> usize {
        self.state.machine.datagrams().send_buffer_space()
    }

    /// How many repairs a superframe of so many slices is to have, by what the path has lost lately.
    pub(crate) fn repairs(&mut self, slices: usize) -> u8 {
        let path = self.state.machine.stats().path;
        let queue = path.rtt.saturating_sub(path.min_rtt).as_micros();
        let queue = u64::try_from(queue).unwrap_or(u64::MAX);
        self.state
            .losses
            .look(path.sent_packets, path.lost_packets, queue);
        self.state.losses.repairs(slices)
    }

    /// One more.
    ///
    /// # Errors
    /// It is not taken, and nothing that waits has gone for it.
    pub(crate) fn push(&mut self, datagram: Bytes) -> Result<(), SendError> {
        let pushed = self.state.machine.datagrams().send(datagram, false);
        if pushed.is_ok() {
            self.state.silence.frame_out();
        }
        pushed.map_err(|error| match error {
            SendDatagramError::TooLarge => SendError::TooLarge,
            SendDatagramError::Blocked(_) => SendError::Full,
            SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled => {
                SendError::Unsupported
            }
        })
    }

    /// Sends what waits, as far as it may leave.
    pub(crate) fn flush(mut self) {
        let (shared, state) = (self.shared, &mut *self.state);
        shared.act(state, Instant::now());
    }
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(Arc::new(Owner(shared)))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Are both the same connection?
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What `look` finds, as soon as it finds something.
    pub(super) async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let shared = self.shared();
        loop {
            let mut changed = std::pin::pin!(shared.changed.notified());
            changed.as_mut().enable();
            let found = look(&mut shared.state());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }

    /// Does something to the machine, and what follows from it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.shared().state();
        let done = act(&mut state);
        self.shared().act(&mut state, Instant::now());
        done
    }

    /// Returns once the far end has shown its key.
    ///
    /// # Errors
    /// If it comes to nothing.
    pub(crate) async fn established(&self) -> Result<(), ConnectionError> {
        self.until(|state| match state.over() {
            Some(over) => Some(Err(over)),
            None => state.connected.then_some(Ok(())),
        })
        .await
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// If the connection is over.
    pub(crate) async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.stream(|state| state.machine.streams().open(Dir::Bi))
            .await
    }

    /// Takes a stream that the far end has opened.
    ///
    /// # Errors
    /// If the connection is over.
    pub(crate) async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.stream(|state| state.machine.streams().accept(Dir::Bi))
            .await
    }

    async fn stream(
        &self,
        take: impl Fn(&mut State) -> Option<quinn::StreamId>,
    ) -> Result<(SendStream, RecvStream), ConnectionError> {
        let id = self
            .until(|state| match (take(state), state.over()) {
                (Some(id), _) => Some(Ok(id)),
                (None, Some(over)) => Some(Err(over)),
                (None, None) => None,
            })
            .await?;
        // To take one gives the far end leave for another.
        self.flush();
        Ok((
            SendStream::new(self.clone(), id),
            RecvStream::new(self.clone(), id),
        ))
    }

    /// The datagrams that wait to leave; nothing else of the connection moves while this is held.
    pub(crate) fn outgoing(&self) -> Outgoing<'_> {
        let shared = self.shared();
        Outgoing {
            shared,
            state: shared.state(),
        }
    }

    /// Sends what waits, as far as it may leave.
    pub(crate) fn flush(&self) {
        self.shared().drive(Instant::now());
    }

    /// Takes up to `max` datagrams that have come, at least one. Cancelling loses nothing. The answer is how many were not kept
    /// since the last one, for lack of room.
    ///
    /// # Errors
    /// If the connection is over, and none is left.
    pub(crate) async fn datagrams(
        &self,
        into: &mut VecDeque<Bytes>,
        max: usize,
    ) -> Result<u64, ConnectionError> {
        let shared = self.shared();
        loop {
            let mut arrived = std::pin::pin!(shared.arrived.notified());
            arrived.as_mut().enable();
            if let Some(lost) = self.take_datagrams(into, max)? {
                return Ok(lost);
            }
            arrived.await;
        }
    }

    /// The same of what is there now; `None`: nothing is.
    pub(crate) fn take_datagrams(
        &self,
        into: &mut VecDeque<Bytes>,
        max: usize,
    ) -> Result<Option<u64>, ConnectionError> {
        let mut state = self.shared().state();
        let before = into.len();
        let taken = std::iter::from_fn(|| state.datagram());
        into.extend(taken.take(max));
        match state.over() {
            Some(over) if into.len() == before => Err(over),
            _ if into.len() == before => Ok(None),
            _ => Ok(Some(state.take_overrun())),
        }
    }

    /// As if a packet had met a bug.
    #[cfg(test)]
    pub(crate) fn break_down(&self) {
        self.shared().give_up();
    }

    /// Datagrams are read as they come from now on, and need not be copied: before, up to a megabyte is kept.
    pub(crate) fn release(&self) {
        self.shared().state().hoards = false;
    }

    /// Returns once the connection is over.
    pub(crate) async fn closed(&self) -> ConnectionError {
        self.until(|state| state.over()).await
    }

    /// Why it is over, if it is.
    pub(crate) fn close_reason(&self) -> Option<ConnectionError> {
        self.shared().state().over()
    }

    /// Ends it at once, with a word for the far end.
    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        self.shared().close(code, Bytes::copy_from_slice(reason));
    }

    /// Where the far end is now.
    pub(crate) fn remote_address(&self) -> SocketAddr {
        self.shared().state().machine.remote_address()
    }

    /// In numbers, at this instant.
    pub(crate) fn stats(&self) -> ConnectionStats {
        self.shared().state().machine.stats()
    }

    /// Bytes of the longest datagram that the path takes; `None`: the far end takes none.
    pub(crate) fn max_datagram_size(&self) -> Option<usize> {
        self.outgoing().max_size()
    }

    /// The congestion controller as it is now.
    pub(crate) fn congestion(&self) -> Box<dyn Controller> {
        self.shared().state().machine.congestion_state().clone_box()
    }

    /// What the far end has shown to be, by its TLS.
    pub(crate) fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.shared()
            .state()
            .machine
            .crypto_session()
            .peer_identity()
    }

    /// Bytes of streams that the far end may have under way.
    pub(crate) fn set_receive_window(&self, bytes: VarInt) {
        self.with(|state| state.machine.set_receive_window(bytes));
    }
}
