//! One session: a QUIC connection with one control stream, from the handshake to the last word.
//!
//! ```text
//!   send() -> queue (bounded) -> writer --control stream--> far end
//!   heard <-------- reader <-----------control stream------ far end      a megabyte that the node has not handled, or a
//!                                                                         far end that says too much, stops the reader, and
//!                                                                         QUIC's windows stop the far end
//!   until prove(): two messages of up to 4 KiB, 64 KiB in flight, frames dropped, 5 s
//! ```
//!
//! Owns the stream, the deadline, the pace and the reason for the end. Whatever the far end sends, the session ends with a reason and
//! one `Closed`; nothing else of the node is touched.

use super::endpoint::{PROVEN_WINDOW, show_close};
use super::gate::Place;
use super::pace::{self, Pace};
use super::queue::Queue;
use super::shrink;
use crate::quic::{Connection, ReadError, RecvStream, SendStream, WriteError};
use meshd_core::ident::{NodeId, SessionId};
use meshd_core::node::{Input, SessionEvent};
use meshd_core::steering::WayId;
use meshd_core::wire::control::{MESSAGE_MAX, Message, UNPROVEN_MESSAGE_MAX};
use quinn::VarInt;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

/// In which a far end must have proven to be a member.
pub(super) const PROVE_WITHIN: Duration = Duration::from_secs(5);
/// In which what was sent before a hang-up may still leave.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);
/// In which the reason follows the end of the stream.
const REASON_WITHIN: Duration = Duration::from_secs(1);
/// Bytes of a reason that travel.
const REASON_MAX: usize = 300;
/// Bytes of messages that the node may have before it has handled them: one of the longest, or many short ones.
const AHEAD_BYTES: usize = MESSAGE_MAX;
/// Datagrams of a stranger that are dropped at a time.
const DROP_MAX: usize = 64;
/// What a message costs of that at least.
const AHEAD_BYTES_MIN: usize = 1024;
/// Messages of a far end that has not proven to be a member: who it is or what it wants, and why it goes.
const UNPROVEN_MESSAGES: usize = 2;

/// What a session tells, for the node. Hold it until the node has handled the input: it is what bounds how far ahead the
/// session reads.
pub struct Heard {
    /// For [`Node::handle`](meshd_core::node::Node::handle).
    pub input: Input,
    _ahead: Option<OwnedSemaphorePermit>,
}

impl From<SessionEvent> for Heard {
    fn from(event: SessionEvent) -> Self {
        Self {
            input: Input::Session(event),
            _ahead: None,
        }
    }
}

/// The part of a session that others reach.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) connection: Connection,
    pub(super) remote: SocketAddr,
    way: WayId,
    pub(super) dialed: bool,
    queue: Queue,
    proven: watch::Sender<bool>,
    pub(super) before: shrink::Before,
    place: Mutex<Option<Place>>,
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        connection: Connection,
        way: WayId,
        dialed: bool,
        place: Option<Place>,
    ) -> Self {
        let remote = super::socket::plain(connection.remote_address());
        Self {
            id,
            connection,
            remote,
            way,
            dialed,
            queue: Queue::default(),
            proven: watch::Sender::new(false),
            before: shrink::Before::default(),
            place: Mutex::new(place),
        }
    }

    /// Queues a message; a far end that does not read loses the session.
    pub(super) fn send(&self, message: &Message) {
        match message.encode() {
            Ok(bytes) => {
                if self.queue.push(bytes).is_err() {
                    self.abort("the far end reads too slowly: more than 8 MiB or 4096 messages wait for it");
                }
            }
            Err(error) => self.abort(&format!(
                "this node made a message that cannot be sent: {error}"
            )),
        }
    }

    /// Ends the session once what was sent has left, or half a second has passed.
    pub(super) fn hangup(&self, reason: &str) {
        self.queue.close(reason);
    }

    fn abort(&self, reason: &str) {
        self.queue.close(reason);
        self.close(reason);
    }

    fn close(&self, reason: &str) {
        let end = reason.floor_char_boundary(REASON_MAX);
        self.connection.close(
            VarInt::from_u32(0),
            reason.get(..end).unwrap_or_default().as_bytes(),
        );
    }

    /// Lifts the limits of a stranger.
    pub(super) fn prove(&self) {
        self.queue.prove();
        self.connection.release();
        self.connection
            .set_receive_window(VarInt::from_u32(PROVEN_WINDOW));
        self.proven.send_replace(true);
        self.leave();
    }

    pub(super) fn is_proven(&self) -> bool {
        *self.proven.borrow()
    }

    fn leave(&self) {
        drop(
            self.place
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    async fn until_proven(&self) {
        // Cannot fail: the sender is in `self`.
        let _ = self.proven.subscribe().wait_for(|proven| *proven).await;
    }

    /// Runs the session to its end; returns after `Closed` was taken.
    pub(super) async fn run(&self, key: NodeId, heard: &mpsc::Sender<Heard>) {
        let (session, remote, dialed) = (self.id, self.remote, self.dialed);
        let connected = match self.way {
            WayId::MAIN => SessionEvent::Connected {
                session,
                key,
                remote,
                dialed,
            },
            way => SessionEvent::LinkConnected {
                session,
                key,
                way,
                remote,
                dialed,
            },
        };
        if heard.send(connected.into()).await.is_ok() {
            let reason = tokio::select! {
                biased;
                reason = self.deadline() => reason,
                reason = self.talk(heard) => reason,
                never = self.watch_path(heard) => match never {},
            };
            // A reason of our own says more than how the connection then ended.
            let reason = self.queue.reason().unwrap_or(reason);
            self.abort(&reason);
            // Fails only if the node is gone, too.
            let closed = SessionEvent::Closed {
                session: self.id,
                reason,
            };
            let _ = heard.send(closed.into()).await;
        }
        self.abort("the node has stopped");
        self.leave();
    }

    /// Returns if the session must end whatever it does: not proven in time, or hung up and not flushed in time.
    async fn deadline(&self) -> String {
        let proof = async {
            if timeout(PROVE_WITHIN, self.until_proven()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let hangup = async {
            self.queue.until_closed().await;
            sleep(FLUSH_WITHIN).await;
        };
        tokio::select! {
            () = proof => format!("not proven to be a member within {} s", PROVE_WITHIN.as_secs()),
            () = hangup => "hung up".to_owned(),
        }
    }

    async fn talk(&self, heard: &mpsc::Sender<Heard>) -> String {
        let streams = async {
            if self.dialed {
                self.connection.open_bi().await
            } else {
                self.connection.accept_bi().await
            }
        };
        let (sender, receiver) = tokio::select! {
            streams = streams => match streams {
                Ok(streams) => streams,
                Err(error) => return show_close(&error),
            },
            never = self.drop_frames() => match never {},
        };
        tokio::select! {
            // A far end that says goodbye and closes: its last message must be read before the writer sees the closing.
            biased;
            reason = self.read(receiver, heard) => reason,
            reason = self.write(sender) => reason,
            never = self.drop_frames() => match never {},
        }
    }

    async fn write(&self, mut stream: SendStream) -> String {
        while let Some(message) = self.queue.pop().await {
            match stream.write_all(&message).await {
                Ok(()) => {}
                // The reader tells the reason, once it has read all that came before.
                Err(WriteError::Over(_)) => std::future::pending().await,
                Err(error) => return format!("the far end stopped the control stream: {error}"),
            }
        }
        if stream.finish().is_ok() {
            let _ = timeout(FLUSH_WITHIN, stream.stopped()).await;
        }
        "hung up".to_owned()
    }

    async fn read(&self, mut stream: RecvStream, heard: &mpsc::Sender<Heard>) -> String {
        let (mut said, mut pace) = (0, Pace::new());
        let ahead = Arc::new(Semaphore::new(AHEAD_BYTES));
        loop {
            if said == UNPROVEN_MESSAGES {
                self.until_proven().await;
            }
            let (message, len) = match self.read_message(&mut stream, said == 0).await {
                Ok(read) => read,
                Err(End::Wrong(reason)) => return reason,
                Err(End::Stream) => return self.last_words().await,
            };
            said += 1;
            let debt = pace.pay(pace::cost(&message, len), Instant::now());
            sleep(debt).await;
            let bytes = len.clamp(AHEAD_BYTES_MIN, AHEAD_BYTES);
            let permit = Arc::clone(&ahead).acquire_many_owned(bytes as u32).await;
            let read = Heard {
                input: Input::Message {
                    session: self.id,
                    message,
                },
                _ahead: permit.ok(),
            };
            if heard.send(read).await.is_err() {
                return "the node has stopped".to_owned();
            }
        }
    }

    /// A message, and its length in bytes.
    async fn read_message(
        &self,
        stream: &mut RecvStream,
        first: bool,
    ) -> Result<(Message, usize), End> {
        let mut prefix = [0; 4];
        read_exact(stream, &mut prefix).await?;
        let len = match Message::body_len(prefix, UNPROVEN_MESSAGE_MAX) {
            Ok(len) => len,
            Err(error) => {
                let len = Message::body_len(prefix, MESSAGE_MAX)?;
                // A member may send long messages as soon as it believes us; the node may yet be reading its `Hello`.
                if first && !self.is_proven() {
                    return Err(error.into());
                }
                self.until_proven().await;
                len
            }
        };
        let mut body = vec![0; len];
        read_exact(stream, &mut body).await?;
        Ok((Message::decode(&body)?, len))
    }

    /// Tells each time that the path to a member shrank.
    async fn watch_path(&self, heard: &mpsc::Sender<Heard>) -> std::convert::Infallible {
        self.until_proven().await;
        let mut watch = shrink::Watch::new(&self.connection);
        loop {
            let (was, mtu) = watch.shrunk(&self.connection, &self.before).await;
            let session = self.id;
            let shrank = SessionEvent::Shrank { session, was, mtu };
            let _ = heard.send(shrank.into()).await;
        }
    }

    /// The far end has ended its stream, or the connection is over: why?
    async fn last_words(&self) -> String {
        match timeout(REASON_WITHIN, self.connection.closed()).await {
            Ok(error) => show_close(&error),
            Err(_) => "the far end ended the control stream".to_owned(),
        }
    }

    /// Keeps frames of a stranger from waiting in memory. Those of a node that we dialed are kept for later, within the
    /// bounds of the buffer: its key is the expected one.
    async fn drop_frames(&self) -> std::convert::Infallible {
        if !self.dialed {
            let drops = async {
                let mut frames = VecDeque::new();
                while self
                    .connection
                    .datagrams(&mut frames, DROP_MAX)
                    .await
                    .is_ok()
                {
                    frames.clear();
                    tokio::task::consume_budget().await;
                }
            };
            tokio::select! {
                biased;
                () = self.until_proven() => {}
                () = drops => {}
            }
        }
        std::future::pending().await
    }
}

enum End {
    /// The stream is over, or the connection.
    Stream,
    /// What came is no message.
    Wrong(String),
}

impl From<meshd_core::wire::control::MessageError> for End {
    fn from(error: meshd_core::wire::control::MessageError) -> Self {
        Self::Wrong(error.to_string())
    }
}

async fn read_exact(stream: &mut RecvStream, buffer: &mut [u8]) -> Result<(), End> {
    stream
        .read_exact(buffer)
        .await
        .map_err(|error| match error {
            ReadError::Ended(0) | ReadError::Over(_) => End::Stream,
            ReadError::Ended(_) => {
                End::Wrong("the control stream ends within a message".to_owned())
            }
            error => End::Wrong(format!("the control stream cannot be read: {error}")),
        })
}
