//! What carries us: QUIC sessions to other nodes.
//!
//! ```text
//!    dial()  -> dial.rs: addresses raced, key pinned -+                       +-> Input::Session(Connected | Closed | DialFailed)
//!    dial_link() -> from the socket of a link --------+                       |
//!    network -> gate.rs: places for strangers --------+-> session.rs (a task) +-> Input::Message, at a pace
//!    send(), hangup(), prove() -----------------------+                       +-> prove(): the connection, for frames
//! ```
//!
//! Owns the sockets (one, and one for each underlay link) and the sessions. Decides nothing about them: who is a member is the node's word, and frames are the
//! datapath's. Refuses more than 64 connections of strangers, and lets none hold much memory or stay long.

mod congestion;
mod dial;
mod endpoint;
#[cfg(test)]
mod frame_tests;
mod gate;
mod pace;
mod queue;
mod session;
mod shrink;
pub(crate) mod socket;
#[cfg(test)]
mod tests;
mod tls;

pub(crate) use congestion::acknowledged;
pub use dial::RaceError;
pub(crate) use dial::race;
pub use endpoint::DialError;
pub(crate) use endpoint::{Endpoint, QUEUE_BYTES, show_close};
pub use session::Heard;

use crate::identity::Identity;
use crate::quic::Connection;
use crate::telemetry::{self, operation};
use gate::{Entry, Gate, Place};
use meshd_core::code::ErrorCode;
use meshd_core::ident::{NodeId, SessionId};
use meshd_core::node::SessionEvent;
use meshd_core::steering::WayId;
use meshd_core::wire::control::{Goodbye, Message};
use session::{PROVE_WITHIN, Session};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::Instrument as _;

/// UDP port, unless told otherwise.
pub const DEFAULT_PORT: u16 = 7650;
/// In which sessions end when the node stops.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

/// How the underlay is set up.
#[derive(Clone, Debug)]
pub struct UnderlayConfig {
    /// Where to listen. `[::]` takes IPv4 too, and means `0.0.0.0` on a host without IPv6. Port 0: any.
    pub listen: SocketAddr,
    /// Tasks that read there: each has a socket of its own, and a far end is read by one of them.
    pub readers: usize,
    /// The addresses of the underlay links, in the order of the config file. Port 0: any.
    pub links: Vec<SocketAddr>,
}

impl Default for UnderlayConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into(),
            readers: 1,
            links: Vec::new(),
        }
    }
}

/// Why there is no underlay.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// The socket.
    #[error(
        "cannot listen on UDP {listen}: {source}; is another meshd running there? Set `listen` under [underlay] to another port"
    )]
    Bind {
        /// As asked.
        listen: SocketAddr,
        /// Of the kernel.
        source: io::Error,
    },
    /// The socket of a link.
    #[error(
        "cannot listen on UDP {address}, an underlay link: {source}; give it another port under [[underlay.link]], as in \"{ip}:7660\"", ip = .address.ip()
    )]
    Link {
        /// As declared.
        address: SocketAddr,
        /// Of the kernel.
        source: io::Error,
    },
    /// The keys.
    #[error("QUIC cannot be set up: {0}")]
    Tls(String),
}

/// A session in numbers, at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStats {
    /// Where the far end is now.
    pub remote: SocketAddr,
    /// Dialed by this node?
    pub dialed: bool,
    /// The far end is a member?
    pub proven: bool,
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u64,
    /// Smallest seen, in microseconds.
    pub rtt_min_us: u64,
    /// Bytes that may be under way.
    pub cwnd: u64,
    /// Largest UDP payload that the path takes, in bytes.
    pub mtu: u16,
    /// What it took before, if that was more.
    pub mtu_before: Option<u16>,
    /// Largest datagram for a frame, in bytes.
    pub datagram_max: Option<usize>,
    /// QUIC packets sent.
    pub sent_packets: u64,
    /// QUIC packets lost on the way.
    pub lost_packets: u64,
    /// UDP payload sent, in bytes.
    pub sent_bytes: u64,
    /// UDP payload received, in bytes.
    pub received_bytes: u64,
}

/// What came of a dial.
enum Dialed {
    To(Connection),
    Nowhere(SessionEvent),
}

#[derive(Default)]
struct State {
    last_session: u64,
    sessions: BTreeMap<SessionId, Arc<Session>>,
    last_dial: u64,
    dials: BTreeMap<(NodeId, WayId), (u64, AbortHandle)>,
    closed: bool,
}

struct Inner {
    endpoint: Endpoint,
    links: Vec<Endpoint>,
    gate: Gate,
    heard: mpsc::Sender<Heard>,
    state: Mutex<State>,
    port: u16,
}

/// The underlay of one node. Clones share it.
#[derive(Clone)]
pub struct Underlay(Arc<Inner>);

impl Underlay {
    /// Listens, and takes connections from then on. What happens goes to `heard`; while that is full, sessions read no
    /// further. Packets are handled in `data`, sessions in the caller's runtime.
    ///
    /// # Errors
    /// If the socket cannot be had.
    pub fn start(
        config: UnderlayConfig,
        identity: Identity,
        heard: mpsc::Sender<Heard>,
        data: &Handle,
    ) -> Result<Self, UnderlayError> {
        let on = data.enter();
        let mut endpoint =
            Endpoint::bind(config.listen, config.readers, identity.node_key(), true)?;
        if !config.links.is_empty() {
            endpoint = endpoint.watchful();
        }
        let links = config.links.iter();
        let links = links.map(|address| Endpoint::bind_link(*address, identity.node_key()));
        let links = links.collect::<Result<Vec<_>, _>>()?;
        drop(on);
        let port = endpoint
            .quic
            .local_addr()
            .map_err(|source| UnderlayError::Bind {
                listen: config.listen,
                source,
            })?
            .port();
        let underlay = Self(Arc::new(Inner {
            endpoint,
            links,
            gate: Gate::default(),
            heard,
            state: Mutex::default(),
            port,
        }));
        for way in (0..underlay.0.links.len()).filter_map(WayId::link) {
            tokio::spawn(underlay.clone().accept(way));
        }
        tokio::spawn(underlay.clone().accept(WayId::MAIN));
        Ok(underlay)
    }

    /// The UDP port.
    #[must_use]
    pub fn local_port(&self) -> u16 {
        self.0.port
    }

    /// The UDP ports of all sockets.
    #[must_use]
    pub fn local_ports(&self) -> Vec<u16> {
        let links = (0..self.0.links.len()).filter_map(WayId::link);
        let links = links.filter_map(|way| self.link_port(way));
        links.chain([self.0.port]).collect()
    }

    /// The UDP port of all but the links.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The UDP port of a link.
    #[must_use]
    pub fn link_port(&self, way: WayId) -> Option<u16> {
        let endpoint = self.0.links.get(way.nth_link()?)?;
        endpoint.quic.local_addr().ok().map(|at| at.port())
    }

    fn endpoint(&self, way: WayId) -> Option<&Endpoint> {
        match way.nth_link() {
            Some(nth) => self.0.links.get(nth),
            None => Some(&self.0.endpoint),
        }
    }

    /// Dials `node` from the socket of a link; `LinkConnected` or `LinkDialFailed` follows. An older dial by the same link is
    /// given up without a word.
    pub fn dial_link(&self, node: NodeId, way: WayId, address: SocketAddr) {
        let underlay = self.clone();
        self.start_dial((node, way), async move {
            let endpoint = underlay.endpoint(way)?;
            match endpoint.connect(node, address, dial::PATIENCE).await {
                Ok(connection) => Some(Dialed::To(connection)),
                Err(error) => {
                    let reason = format!("{address}: {error}");
                    let failed = SessionEvent::LinkDialFailed { node, way, reason };
                    Some(Dialed::Nowhere(failed))
                }
            }
        });
    }

    /// Dials `node` at all of `addresses`; `Connected` or `DialFailed` follows. An older dial to the same node is given up
    /// without a word.
    pub fn dial(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        let underlay = self.clone();
        self.start_dial((node, WayId::MAIN), async move {
            let span = operation!("dial", peer = %node, addresses = addresses.len());
            let race = race(&underlay.0.endpoint, node, &addresses);
            match race.instrument(span.clone()).await {
                Ok(connection) => Some(Dialed::To(connection)),
                Err(error) => {
                    let reason = error.to_string();
                    telemetry::failed(&span, ErrorCode::PeerSilent, &reason);
                    let failed = SessionEvent::DialFailed { node, reason };
                    Some(Dialed::Nowhere(failed))
                }
            }
        });
    }

    fn start_dial(
        &self,
        to: (NodeId, WayId),
        dial: impl Future<Output = Option<Dialed>> + Send + 'static,
    ) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        state.last_dial += 1;
        let number = state.last_dial;
        let underlay = self.clone();
        let task = tokio::spawn(async move {
            let dialed = dial.await;
            {
                let mut state = underlay.state();
                if state
                    .dials
                    .get(&to)
                    .is_none_or(|(current, _)| *current != number)
                {
                    return;
                }
                state.dials.remove(&to);
            }
            match dialed {
                Some(Dialed::To(connection)) => underlay.adopt(connection, to, true, None),
                Some(Dialed::Nowhere(failed)) => {
                    let _ = underlay.0.heard.send(failed.into()).await;
                }
                None => {}
            }
        });
        if let Some((_, older)) = state.dials.insert(to, (number, task.abort_handle())) {
            older.abort();
        }
    }

    /// Sends `message`; a session that is over takes it without a word, since `Closed` is on its way.
    pub fn send(&self, session: SessionId, message: Message) {
        if let Some(session) = self.session(session) {
            session.send(&message);
        }
    }

    /// Ends a session once what was sent has left, at the latest after half a second; `Closed` follows.
    pub fn hangup(&self, session: SessionId, reason: String) {
        if let Some(session) = self.session(session) {
            session.hangup(&reason);
        }
    }

    /// The far end is a member: lifts the limits of a stranger, and gives out the connection, for frames. `None` if the
    /// session is over.
    #[must_use]
    pub(crate) fn prove(&self, session: SessionId) -> Option<Connection> {
        let session = self.session(session)?;
        session.prove();
        Some(session.connection.clone())
    }

    /// The session in numbers; `None` if it is over.
    #[must_use]
    pub fn stats(&self, session: SessionId) -> Option<SessionStats> {
        let session = self.session(session)?;
        let stats = session.connection.stats();
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Some(SessionStats {
            remote: socket::plain(session.connection.remote_address()),
            dialed: session.dialed,
            proven: session.is_proven(),
            rtt_us: us(stats.path.rtt),
            rtt_min_us: us(stats.path.min_rtt),
            cwnd: stats.path.cwnd,
            mtu: stats.path.current_mtu,
            mtu_before: session.before.than(stats.path.current_mtu),
            datagram_max: session.connection.max_datagram_size(),
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
        })
    }

    /// Says goodbye on all sessions, and returns when they are over, at the latest after 0.75 s. Nothing is dialed
    /// or taken from then on.
    pub async fn close(&self) {
        let sessions: Vec<_> = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.dials)
                .into_values()
                .for_each(|(_, dial)| dial.abort());
            state.sessions.values().cloned().collect()
        };
        for session in &sessions {
            session.send(&Message::Goodbye(Goodbye::Stopping));
            session.hangup("the node stops");
        }
        let all = async {
            for session in &sessions {
                session.connection.closed().await;
            }
        };
        let _ = timeout(CLOSE_WITHIN, all).await;
        let endpoints = self.0.links.iter().chain([&self.0.endpoint]);
        futures_util::future::join_all(endpoints.map(Endpoint::close)).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, session: SessionId) -> Option<Arc<Session>> {
        self.state().sessions.get(&session).cloned()
    }

    /// Makes a session of a connection, in a task of its own.
    fn adopt(
        &self,
        connection: Connection,
        (key, way): (NodeId, WayId),
        dialed: bool,
        place: Option<Place>,
    ) {
        let mut state = self.state();
        if state.closed {
            connection.close(quinn::VarInt::from_u32(0), b"the node stops");
            return;
        }
        state.last_session += 1;
        let id = SessionId(state.last_session);
        let session = Arc::new(Session::new(id, connection, way, dialed, place));
        state.sessions.insert(id, session.clone());
        drop(state);
        let underlay = self.clone();
        tokio::spawn(async move {
            session.run(key, &underlay.0.heard).await;
            underlay.state().sessions.remove(&id);
        });
    }

    /// Takes connections until the endpoint is closed.
    async fn accept(self, way: WayId) {
        let Some(endpoint) = self.endpoint(way) else {
            return;
        };
        while let Some(incoming) = endpoint.quic.accept().await {
            let remote = incoming.remote();
            match self.0.gate.enter(remote.ip(), incoming.is_validated()) {
                Entry::Retry => incoming.retry(),
                Entry::Refuse => drop(incoming),
                Entry::Place(place) => {
                    let Some(config) = endpoint.server_config(remote) else {
                        continue;
                    };
                    // Fails on packets that are no handshake; nobody is there to be told.
                    if let Ok(connection) = incoming.accept(config, endpoint.pace) {
                        tokio::spawn(self.clone().shake_hands(connection, way, place));
                    }
                }
            }
        }
    }

    async fn shake_hands(self, connection: Connection, way: WayId, mut place: Place) {
        let Ok(Ok(())) = timeout(PROVE_WITHIN, connection.established()).await else {
            return;
        };
        place.shook_hands();
        match tls::peer_key(&connection) {
            Some(key) => self.adopt(connection, (key, way), false, Some(place)),
            None => connection.close(quinn::VarInt::from_u32(0), b"no Ed25519 key shown"),
        }
    }
}
