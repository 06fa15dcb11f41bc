//! The machine of a connection behind one lock, driven by whoever has something for it.
//!
//! ```text
//!    reader --------> act, if nobody holds the state
//!           --mail--> else whoever does, on his way out; what is left: keep_time
//!    keep_time --deadlines--> act: packets to the socket, events to who waits, the next deadline
//!    lanes, sessions --push, write, close--> act
//! ```
//!
//! Owns the lock, the mail, the deadline's task and the wakers. Its memory is the machine's: what is to be sent is put together in
//! room that each thread has once.

use super::connection::Connection;
use super::endpoint::Inner;
use super::silence::{Due, Pace, Silence};
use super::socket::Socket;
use bytes::Bytes;
use meshd_core::superframe::Losses;
use quinn::{ConnectionError, Transmit, TransportErrorCode, VarInt};
use quinn_proto::{ConnectionEvent, ConnectionHandle, EndpointEvent, Event, TransportError};
use std::cell::RefCell;
use std::collections::VecDeque;
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
/// What the endpoint, the timer task and all clones hold.
pub(super) struct Shared {
    endpoint: Arc<Inner>,
    handle: ConnectionHandle,
    state: Mutex<State>,
    /// What came while somebody else held the state: who holds it handles that, too, before he goes.
    mail: Mutex<VecDeque<ConnectionEvent>>,
    /// Something has changed that is no datagram.
    pub(super) changed: Notify,
    pub(super) arrived: Notify,
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
    pub(super) connected: bool,
    pub(super) over: Option<ConnectionError>,
    drained: bool,
    /// Room for a round of the mail.
    round: VecDeque<ConnectionEvent>,
    /// Datagrams may wait for long until they are read.
    pub(super) hoards: bool,
    /// Those that have come meanwhile, copied.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    /// Datagrams that were read, and those that came and made room for others.
    taken: u64,
    overrun: u64,
    pub(super) silence: Silence,
    /// Of packets that this end has sent.
    pub(super) losses: Losses,
    /// Of the far end's frames, as many as had come when it was heard last.
    frames_heard: u64,
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

    /// The next one that has come.
    pub(super) fn datagram(&mut self) -> Option<Bytes> {
        let datagram = match self.kept.pop_front() {
            Some(kept) => {
                self.kept_bytes -= kept.len() + KEPT_COST;
                Some(kept)
            }
            None => self.machine.datagrams().recv(),
        };
        match datagram.is_some() {
            true => self.taken += 1,
            // Nothing waits: of those that came, what was not read is gone.
            false => {
                let came = self.machine.stats().frame_rx.datagram;
                self.overrun += came.saturating_sub(self.taken);
                self.taken = self.taken.max(came);
            }
        }
        datagram
    }

    /// How many made room for others, since the last call.
    pub(super) fn take_overrun(&mut self) -> u64 {
        std::mem::take(&mut self.overrun)
    }

    /// Has the far end been heard? Only what was in packets that it has sealed counts, each once: anybody can send the others.
    fn listen(&mut self, now: Instant) {
        let rx = self.machine.stats().frame_rx;
        let frames = rx.acks + rx.datagram + rx.ping + rx.stream + rx.crypto + rx.max_data;
        if std::mem::replace(&mut self.frames_heard, frames) != frames {
            self.silence.heard(now);
        }
    }

    /// When the machine wants to know the time, or the far end is to be asked or given up.
    fn deadline(&mut self) -> Option<Instant> {
        let looks = self.connected && self.over.is_none();
        let silence = looks.then(|| self.silence.deadline());
        self.machine.poll_timeout().into_iter().chain(silence).min()
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
        pace: Pace,
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
                taken: 0,
                overrun: 0,
                silence: Silence::new(pace, Instant::now()),
                losses: Losses::default(),
                frames_heard: 0,
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
        Connection::new(shared)
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
    pub(super) fn deliver(self: &Arc<Self>, mut events: impl Iterator<Item = ConnectionEvent>) {
        // What others put into the mail from here on is handled below. An event is long: it is better not put down and taken up.
        let is_first = self.mail().is_empty();
        if let (true, Ok(mut state)) = (is_first, self.state.try_lock()) {
            self.take(&mut state, events.by_ref().take(ROUND_MAX));
        }
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
        {
            let mut mail = self.mail();
            let count = mail.len().min(ROUND_MAX);
            round.extend(mail.drain(..count));
        }
        self.take(&mut state, round.drain(..));
        state.round = round;
        drop(state);
        // Also what came meanwhile, by somebody who found the state held.
        !self.mail().is_empty()
    }

    /// Handles packets, and does what follows.
    fn take(self: &Arc<Self>, state: &mut State, events: impl Iterator<Item = ConnectionEvent>) {
        let now = Instant::now();
        events.for_each(|event| state.handle(event));
        state.listen(now);
        self.act(state, now);
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
    pub(super) fn act(self: &Arc<Self>, state: &mut State, now: Instant) {
        if state.drained {
            return;
        }
        state.silence.note(now);
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
                    state.silence.frames_in();
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
        state.silence.note(now);
        if changed {
            self.changed.notify_waiters();
            if state.over.is_some() {
                self.arrived.notify_waiters();
            }
        }
        let due = state.deadline();
        let earlier = due.is_some_and(|due| state.armed.is_none_or(|armed| due < armed));
        if earlier || state.drained {
            state.armed = due;
            self.earlier.notify_one();
        }
    }

    /// Ends it, unless it is over.
    pub(super) fn close(self: &Arc<Self>, code: VarInt, reason: Bytes) {
        let mut state = self.state();
        let now = Instant::now();
        self.end(
            &mut state,
            now,
            ConnectionError::LocallyClosed,
            code,
            reason,
        );
    }

    fn end(
        self: &Arc<Self>,
        state: &mut State,
        now: Instant,
        why: ConnectionError,
        code: VarInt,
        reason: Bytes,
    ) {
        if state.over.is_some() {
            return;
        }
        state.machine.close(now, code, reason);
        state.over = Some(why);
        self.act(state, now);
        self.changed.notify_waiters();
        self.arrived.notify_waiters();
    }

    /// Does what time has made due.
    fn keep(self: &Arc<Self>, state: &mut State, now: Instant) {
        if state.machine.poll_timeout().is_some_and(|due| due <= now) {
            state.machine.handle_timeout(now);
            self.act(state, now);
        }
        if !state.connected || state.over.is_some() {
            return;
        }
        if !self.mail().is_empty() {
            // It may be the answer, and is read when the state is let go.
            return;
        }
        match state.silence.due(now) {
            Some(Due::Ask) => {
                state.machine.ping();
                self.act(state, now);
            }
            Some(Due::GiveUp) => {
                // Should it hear us after all, it need not find out by itself.
                let reason = Bytes::from_static(b"nothing is heard of you");
                self.end(
                    state,
                    now,
                    ConnectionError::TimedOut,
                    VarInt::from_u32(0),
                    reason,
                );
            }
            None => {}
        }
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
            state.armed = state.deadline();
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
            shared.keep(&mut state, now);
        }
        // It may be woken for mail again and again.
        tokio::task::consume_budget().await;
    }
}
