//! A connection: its machine behind one lock, driven by whoever has something for it.
//!
//! Owns the lock, the deadline's task and the wakers. Its memory is the machine's: what is to be sent is put together in room that
//! each thread has once.

use super::endpoint::Inner;
use super::socket::Socket;
use super::stream::{RecvStream, SendStream};
use bytes::Bytes;
use quinn::congestion::Controller;
use quinn::{ConnectionError, ConnectionStats, Dir, Transmit, TransportErrorCode, VarInt};
use quinn_proto::{
    ConnectionEvent, ConnectionHandle, EndpointEvent, Event, SendDatagramError, TransportError,
};
use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;
use tokio::sync::Notify;

/// Packets that may wait for who holds the state: what 10 Gbit/s bring in 5 ms.
const MAIL_MAX: usize = 4096;
/// Packets that somebody who has done something else handles on his way out.
const ROUND_MAX: usize = 256;
/// Bytes of datagrams that are kept until they are read, and what each costs of that beside its own.
const KEPT_MAX: usize = 1 << 20;
const KEPT_COST: usize = 64;

thread_local! {
    /// Where packets are put together. No more than one connection at a time sends in a thread.
    static PACKETS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection. Clones share it; it is closed when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Owner>);

struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close(VarInt::from_u32(0), Bytes::new());
    }
}

/// What the endpoint, the timer task and all clones hold.
pub(super) struct Shared {
    endpoint: Arc<Inner>,
    handle: ConnectionHandle,
    state: Mutex<State>,
    /// What came while somebody else held the state: who holds it handles that, too, before he goes.
    mail: Mutex<VecDeque<ConnectionEvent>>,
    /// Something has changed that is no datagram.
    changed: Notify,
    arrived: Notify,
    /// The deadline is an earlier one.
    earlier: Notify,
}

pub(super) struct State {
    pub(super) machine: quinn_proto::Connection,
    /// What the kernel did not take.
    blocked: Option<(Transmit, Vec<u8>)>,
    /// The endpoint knows of it.
    listed: bool,
    /// When the timer task wakes by itself.
    armed: Option<Instant>,
    connected: bool,
    over: Option<ConnectionError>,
    drained: bool,
    /// Room for a round of the mail.
    round: VecDeque<ConnectionEvent>,
    /// Datagrams may wait for long until they are read.
    hoards: bool,
    /// Those that have come meanwhile, copied.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
}

impl State {
    /// A packet, or a word of the endpoint.
    pub(super) fn handle(&mut self, event: ConnectionEvent) {
        // The endpoint has forgotten it, and would take no answer.
        if !self.drained {
            self.machine.handle_event(event);
        }
    }

    /// Copies what has come out of the large rooms that it was read into; what is too much is dropped.
    fn compact(&mut self) {
        while self.hoards
            && let Some(datagram) = self.machine.datagrams().recv()
        {
            if self.kept_bytes + datagram.len() + KEPT_COST <= KEPT_MAX {
                self.kept_bytes += datagram.len() + KEPT_COST;
                self.kept.push_back(Bytes::copy_from_slice(&datagram));
            }
        }
    }

    fn datagram(&mut self) -> Option<Bytes> {
        let Some(kept) = self.kept.pop_front() else {
            return self.machine.datagrams().recv();
        };
        self.kept_bytes -= kept.len() + KEPT_COST;
        Some(kept)
    }

    /// Why the connection is over, if it is.
    pub(super) fn over(&self) -> Option<ConnectionError> {
        self.over.clone()
    }

    /// Sends all that may be sent and that the kernel takes.
    fn transmit(&mut self, socket: &Socket, now: Instant) {
        if let Some((transmit, packets)) = self.blocked.take()
            && !socket.try_send(&transmit, &packets)
        {
            self.blocked = Some((transmit, packets));
            return;
        }
        PACKETS.with_borrow_mut(|packets| {
            loop {
                packets.clear();
                let batch = socket.batch(self.machine.current_mtu().into());
                let Some(transmit) = self.machine.poll_transmit(now, batch, packets) else {
                    return;
                };
                packets.truncate(transmit.size);
                if !socket.try_send(&transmit, packets) {
                    self.blocked = Some((transmit, packets.clone()));
                    return;
                }
            }
        })
    }
}

impl Shared {
    pub(super) fn new(
        endpoint: Arc<Inner>,
        handle: ConnectionHandle,
        machine: quinn_proto::Connection,
    ) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            handle,
            state: Mutex::new(State {
                machine,
                blocked: None,
                listed: false,
                armed: None,
                connected: false,
                over: None,
                drained: false,
                round: VecDeque::new(),
                hoards: true,
                kept: VecDeque::new(),
                kept_bytes: 0,
            }),
            mail: Mutex::default(),
            changed: Notify::new(),
            arrived: Notify::new(),
            earlier: Notify::new(),
        })
    }

    /// Sends its first packets, and watches its clock from then on.
    pub(super) fn begin(shared: Arc<Self>) -> Connection {
        shared.drive(Instant::now());
        let runtime = &shared.endpoint.runtime;
        runtime.spawn(keep_time(Arc::clone(&shared)));
        Connection(Arc::new(Owner(shared)))
    }

    pub(super) fn state(self: &Arc<Self>) -> Held<'_> {
        // No code panics while it holds the lock.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Held {
            state,
            _after: Settle(self),
        }
    }

    pub(super) fn handle(&self) -> ConnectionHandle {
        self.handle
    }

    fn mail(&self) -> MutexGuard<'_, VecDeque<ConnectionEvent>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packets have come. Waits for nobody; what is more than who holds the state will get to is as good as lost on the way.
    pub(super) fn deliver(self: &Arc<Self>, events: impl Iterator<Item = ConnectionEvent>) {
        let mut mail = self.mail();
        let room = MAIL_MAX.saturating_sub(mail.len());
        mail.extend(events.take(room));
        drop(mail);
        while self.settle() {}
    }

    /// Handles some of what has come, unless somebody holds the state, who then will. True: there is more.
    fn settle(self: &Arc<Self>) -> bool {
        if self.mail().is_empty() {
            return false;
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It is seen: the mail was put there before this look at the lock, and is looked at after its release.
            Err(TryLockError::WouldBlock) => return false,
        };
        let mut round = std::mem::take(&mut state.round);
        let left = {
            let mut mail = self.mail();
            let count = mail.len().min(ROUND_MAX);
            round.extend(mail.drain(..count));
            !mail.is_empty()
        };
        round.drain(..).for_each(|event| state.handle(event));
        state.round = round;
        self.act(&mut state, Instant::now());
        left
    }

    /// Its machine cannot be used any more: the connection is over without a word to the far end.
    pub(super) fn give_up(self: &Arc<Self>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut state.drained, true) {
            self.endpoint.handle(self.handle, EndpointEvent::drained());
        }
        state
            .over
            .get_or_insert(ConnectionError::TransportError(TransportError {
                code: TransportErrorCode::INTERNAL_ERROR,
                frame: None,
                reason: "a packet of it met a bug, which is in the log".to_owned(),
            }));
        drop(state);
        self.mail().clear();
        self.changed.notify_waiters();
        self.arrived.notify_waiters();
        self.earlier.notify_one();
    }

    /// The kernel takes packets again.
    pub(super) fn unblock(self: &Arc<Self>) {
        let mut state = self.state();
        state.listed = false;
        self.act(&mut state, Instant::now());
    }

    /// To be called after whatever was done to the machine.
    pub(super) fn drive(self: &Arc<Self>, now: Instant) {
        self.act(&mut self.state(), now);
    }

    /// Sends, tells and arms what is due.
    fn act(self: &Arc<Self>, state: &mut State, now: Instant) {
        if state.drained {
            return;
        }
        // What the endpoint answers may have to be sent, too.
        loop {
            state.transmit(&self.endpoint.socket, now);
            let mut answered = false;
            while let Some(event) = state.machine.poll_endpoint_events() {
                state.drained |= event.is_drained();
                if let Some(answer) = self.endpoint.handle(self.handle, event) {
                    state.handle(answer);
                    answered = true;
                }
            }
            if !answered {
                break;
            }
        }
        if state.blocked.is_some() && !state.listed {
            state.listed = true;
            self.endpoint.block(Arc::clone(self));
        }
        let mut changed = false;
        while let Some(event) = state.machine.poll() {
            match event {
                Event::DatagramReceived => {
                    state.compact();
                    self.arrived.notify_waiters();
                }
                Event::ConnectionLost { reason } => {
                    state.over.get_or_insert(reason);
                    changed = true;
                }
                Event::Connected => {
                    state.connected = true;
                    changed = true;
                }
                Event::Stream(_) => changed = true,
                Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
            }
        }
        if changed {
            self.changed.notify_waiters();
            if state.over.is_some() {
                self.arrived.notify_waiters();
            }
        }
        let due = state.machine.poll_timeout();
        let earlier = due.is_some_and(|due| state.armed.is_none_or(|armed| due < armed));
        if earlier || state.drained {
            state.armed = due;
            self.earlier.notify_one();
        }
    }

    /// Ends it, unless it is over.
    pub(super) fn close(self: &Arc<Self>, code: VarInt, reason: Bytes) {
        let mut state = self.state();
        if state.over.is_some() {
            return;
        }
        let now = Instant::now();
        state.machine.close(now, code, reason);
        state.over = Some(ConnectionError::LocallyClosed);
        self.act(&mut state, now);
        drop(state);
        self.changed.notify_waiters();
        self.arrived.notify_waiters();
    }
}

/// The state of a connection, held. Dropped in this order.
pub(super) struct Held<'a> {
    state: MutexGuard<'a, State>,
    _after: Settle<'a>,
}

struct Settle<'a>(&'a Arc<Shared>);

impl Drop for Settle<'_> {
    fn drop(&mut self) {
        // One round: nobody becomes the connection's receiver for having looked at it.
        if self.0.settle() {
            self.0.earlier.notify_one();
        }
    }
}

impl Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// Tells a connection the time when it wants to know, and handles mail that others left, until it has drained.
async fn keep_time(shared: Arc<Shared>) {
    loop {
        let due = {
            let mut state = shared.state();
            if state.drained {
                return;
            }
            state.armed = state.machine.poll_timeout();
            state.armed
        };
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = shared.earlier.notified() => {}
        }
        {
            let now = Instant::now();
            let mut state = shared.state();
            if state.machine.poll_timeout().is_some_and(|due| due <= now) {
                state.machine.handle_timeout(now);
                shared.act(&mut state, now);
            }
        }
        // It may be woken for mail again and again.
        tokio::task::consume_budget().await;
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

    /// One more.
    ///
    /// # Errors
    /// It is not taken, and nothing that waits has gone for it.
    pub(crate) fn push(&mut self, datagram: Bytes) -> Result<(), SendError> {
        let pushed = self.state.machine.datagrams().send(datagram, false);
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

    /// Takes up to `max` datagrams that have come, at least one. Cancelling loses nothing.
    ///
    /// # Errors
    /// If the connection is over, and none is left.
    pub(crate) async fn datagrams(
        &self,
        into: &mut VecDeque<Bytes>,
        max: usize,
    ) -> Result<(), ConnectionError> {
        let shared = self.shared();
        loop {
            let mut arrived = std::pin::pin!(shared.arrived.notified());
            arrived.as_mut().enable();
            if self.take_datagrams(into, max)? {
                return Ok(());
            }
            arrived.await;
        }
    }

    /// The same of what is there now; false: nothing is.
    pub(crate) fn take_datagrams(
        &self,
        into: &mut VecDeque<Bytes>,
        max: usize,
    ) -> Result<bool, ConnectionError> {
        let mut state = self.shared().state();
        let before = into.len();
        let taken = std::iter::from_fn(|| state.datagram());
        into.extend(taken.take(max));
        match state.over() {
            Some(over) if into.len() == before => Err(over),
            _ => Ok(into.len() > before),
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
