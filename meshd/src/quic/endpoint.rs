//! An endpoint: who hears a packet, and who may connect.
//!
//! ```text
//!   far ends --UDP--> socket ----> reader -----+                     one address; the kernel gives each far end
//!            \-UDP--> socket ----> reader -----+--> connections      one socket of it (SO_REUSEPORT)
//!                       ^--------------------------- packets out: by the first socket, from whoever has some
//! ```
//!
//! Owns the reader tasks and the table of connections. The readers end when nobody holds the endpoint and its last connection has
//! drained, and the sockets go with them. A far end whose address changes may come by another socket from then on: a connection's
//! packets may come from any reader.

use super::connection::Connection;
use super::machine::Shared;
use super::silence::Pace;
use super::socket::{Inbox, Socket};
use bytes::Bytes;
use meshd_core::code::ErrorCode;
use quinn::{ClientConfig, ConnectError, ConnectionError, EndpointConfig, ServerConfig, VarInt};
use quinn_proto::{ConnectionEvent, ConnectionHandle, DatagramEvent, EndpointEvent};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Pause of the reader after an error of the socket that is none of QUIC's, as when an uplink is gone.
const PAUSE: Duration = Duration::from_millis(100);

/// A UDP address and the connections over it. Clones share it; after the last one open connections go on to their end.
#[derive(Clone)]
pub(crate) struct Endpoint(Arc<Owner>);

/// What all clones of an endpoint share, and no connection.
struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
        self.0.reader.notify_one();
    }
}

pub(super) struct Inner {
    /// What leaves, leaves by it. Other sockets of the same address are with their readers.
    pub(super) socket: Socket,
    table: Mutex<Table>,
    /// A stranger waits, a connection has drained, or the endpoint is closing.
    changed: Notify,
    /// For the reader: look whether you are still needed.
    reader: Notify,
    abandoned: AtomicBool,
    /// Connections whose packets the kernel did not take.
    blocked: Mutex<Vec<Arc<Shared>>>,
    unblock: Notify,
    /// Where packets are handled.
    pub(super) runtime: Handle,
}

struct Table {
    machine: quinn_proto::Endpoint,
    connections: BTreeMap<usize, Arc<Shared>>,
    incoming: VecDeque<quinn_proto::Incoming>,
    /// Why nobody is taken any more.
    closed: Option<(VarInt, Bytes)>,
    /// Answers to strangers are written here.
    answer: Vec<u8>,
}

impl Endpoint {
    /// Reads `sockets`, which are bound to one address, from now on, in the runtime that this is called in; `server`: strangers may
    /// connect.
    ///
    /// # Errors
    /// If a socket cannot be used or there is none, or there is no runtime.
    pub(crate) fn new(
        config: EndpointConfig,
        server: Option<ServerConfig>,
        sockets: Vec<UdpSocket>,
    ) -> io::Result<Self> {
        let sockets: Result<Vec<Socket>, _> = sockets.into_iter().map(Socket::new).collect();
        let mut sockets = sockets?.into_iter();
        let socket = sockets.next();
        let socket = socket.ok_or_else(|| io::Error::other("an endpoint needs a socket"))?;
        let learns = !socket.may_fragment();
        let machine =
            quinn_proto::Endpoint::new(Arc::new(config), server.map(Arc::new), learns, None);
        let inner = Arc::new(Inner {
            socket,
            table: Mutex::new(Table {
                machine,
                connections: BTreeMap::new(),
                incoming: VecDeque::new(),
                closed: None,
                answer: Vec::new(),
            }),
            changed: Notify::new(),
            reader: Notify::new(),
            abandoned: AtomicBool::new(false),
            blocked: Mutex::default(),
            unblock: Notify::new(),
            runtime: Handle::current(),
        });
        let mut beside = JoinSet::new();
        for socket in sockets {
            beside.spawn(read_beside(Arc::clone(&inner), socket));
        }
        tokio::spawn(read(Arc::clone(&inner), beside));
        Ok(Self(Arc::new(Owner(inner))))
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.0.0
    }

    /// Where the socket is bound.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner().socket.local_addr()
    }

    /// Begins a connection; see [`Connection::established`].
    ///
    /// # Errors
    /// If the address or the configuration is none to connect with.
    pub(crate) fn connect(
        &self,
        config: ClientConfig,
        remote: SocketAddr,
        name: &str,
        pace: Pace,
    ) -> Result<Connection, ConnectError> {
        let inner = self.inner();
        let local = inner.socket.local_addr();
        let remote = match (remote, local) {
            (SocketAddr::V4(v4), Ok(SocketAddr::V6(_))) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            (SocketAddr::V6(_), Ok(SocketAddr::V4(_))) => {
                return Err(ConnectError::InvalidRemoteAddress(remote));
            }
            _ => remote,
        };
        let mut table = inner.table();
        if table.closed.is_some() {
            return Err(ConnectError::EndpointStopping);
        }
        let (handle, machine) = table
            .machine
            .connect(Instant::now(), config, remote, name)?;
        Ok(inner.adopt(table, handle, machine, pace))
    }

    /// The next stranger; `None` once the endpoint is closed.
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        let inner = self.inner();
        loop {
            let mut changed = std::pin::pin!(inner.changed.notified());
            changed.as_mut().enable();
            {
                let mut table = inner.table();
                if table.closed.is_some() {
                    return None;
                }
                if let Some(machine) = table.incoming.pop_front() {
                    return Some(Incoming {
                        machine: Some(machine),
                        inner: Arc::clone(inner),
                    });
                }
            }
            changed.await;
        }
    }

    /// Ends all connections, and takes no more.
    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        let inner = self.inner();
        let reason = Bytes::copy_from_slice(reason);
        let mut table = inner.table();
        let connections: Vec<_> = table.connections.values().cloned().collect();
        table.closed = Some((code, reason.clone()));
        table.refuse_all(&inner.socket);
        drop(table);
        inner.changed.notify_waiters();
        for connection in connections {
            connection.close(code, reason.clone());
        }
    }

    /// Returns when no connection is left.
    pub(crate) async fn wait_idle(&self) {
        let inner = self.inner();
        loop {
            let mut changed = std::pin::pin!(inner.changed.notified());
            changed.as_mut().enable();
            if inner.table().connections.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Connections that are not drained, of all kinds.
    #[cfg(test)]
    pub(crate) fn open_connections(&self) -> usize {
        self.inner().table().machine.open_connections()
    }
}

impl Table {
    fn refuse_all(&mut self, socket: &Socket) {
        while let Some(incoming) = self.incoming.pop_front() {
            self.refuse(socket, incoming);
        }
    }

    fn refuse(&mut self, socket: &Socket, incoming: quinn_proto::Incoming) {
        self.answer.clear();
        let transmit = self.machine.refuse(incoming, &mut self.answer);
        self.respond(socket, &transmit);
    }

    /// Lost if the kernel does not take it at once: a stranger asks again.
    fn respond(&self, socket: &Socket, transmit: &quinn::Transmit) {
        if let Some(packet) = self.answer.get(..transmit.size) {
            socket.try_send(transmit, packet);
        }
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics while it holds the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adopt(
        self: &Arc<Self>,
        mut table: MutexGuard<'_, Table>,
        handle: ConnectionHandle,
        machine: quinn_proto::Connection,
        pace: Pace,
    ) -> Connection {
        let shared = Shared::new(Arc::clone(self), handle, machine, pace);
        table.connections.insert(handle.0, Arc::clone(&shared));
        drop(table);
        Shared::begin(shared)
    }

    /// What a connection has for its endpoint; the answer is for the connection.
    pub(super) fn handle(
        &self,
        handle: ConnectionHandle,
        event: EndpointEvent,
    ) -> Option<ConnectionEvent> {
        let mut table = self.table();
        let drained = event.is_drained();
        let answer = table.machine.handle_event(handle, event);
        if drained {
            table.connections.remove(&handle.0);
            drop(table);
            self.changed.notify_waiters();
            self.reader.notify_one();
        }
        answer
    }

    fn blocked(&self) -> MutexGuard<'_, Vec<Arc<Shared>>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel did not take a connection's packets: it is driven again once the kernel takes some.
    pub(super) fn block(&self, connection: Arc<Shared>) {
        self.socket.fill();
        self.blocked().push(connection);
        self.unblock.notify_one();
    }

    async fn unblock(&self) {
        loop {
            self.unblock.notified().await;
            self.socket.writable().await;
            let connections = std::mem::take(&mut *self.blocked());
            for connection in connections {
                connection.unblock();
            }
        }
    }

    fn is_needed(&self) -> bool {
        !self.abandoned.load(Ordering::Acquire) || !self.table().connections.is_empty()
    }
}

/// What was read at one call, by connection.
#[derive(Default)]
struct Sorted {
    /// Whose the next events are, and how many of them.
    runs: Vec<(Arc<Shared>, usize)>,
    events: VecDeque<ConnectionEvent>,
}

impl Sorted {
    fn add(
        &mut self,
        connections: &BTreeMap<usize, Arc<Shared>>,
        handle: ConnectionHandle,
        event: ConnectionEvent,
    ) {
        match self.runs.last_mut() {
            Some((connection, count)) if connection.handle() == handle => *count += 1,
            _ => match connections.get(&handle.0) {
                Some(connection) => self.runs.push((Arc::clone(connection), 1)),
                // It has drained.
                None => return,
            },
        }
        self.events.push_back(event);
    }
}

/// What a reader reads with.
#[derive(Default)]
struct Desk {
    inbox: Inbox,
    sorted: Sorted,
}

impl Desk {
    /// Gives each connection its packets, of one call of the kernel. `read`: see [`Socket::receive`].
    async fn deliver(&mut self, inner: &Inner, read: io::Result<bool>) {
        let all = match read {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(code = %ErrorCode::UnderlayReadFailed, %error, "the underlay's socket cannot be read; it is tried again");
                return tokio::time::sleep(PAUSE).await;
            }
        };
        inner.sort(&mut self.inbox, &mut self.sorted);
        for (connection, count) in self.sorted.runs.drain(..) {
            let events = self.sorted.events.drain(..count);
            // A bug that a packet meets must cost its connection, and not all others of the node.
            let delivered = catch_unwind(AssertUnwindSafe(|| connection.deliver(events)));
            if delivered.is_err() {
                connection.give_up();
            }
        }
        if !all {
            // Those that have been woken come first.
            tokio::task::yield_now().await;
        }
    }
}

/// Reads the first socket, until the endpoint is not needed any more; those who read others, `beside`, end then, too.
async fn read(inner: Arc<Inner>, beside: JoinSet<()>) {
    let mut desk = Desk::default();
    let mut unblock = std::pin::pin!(inner.unblock());
    while inner.is_needed() {
        let read = tokio::select! {
            read = inner.socket.receive(&mut desk.inbox) => read,
            () = inner.reader.notified() => continue,
            () = &mut unblock => continue,
        };
        desk.deliver(&inner, read).await;
    }
    drop(beside);
    // Who is still here would hold the socket.
    inner.table().refuse_all(&inner.socket);
    inner.blocked().clear();
}

/// Reads another socket of the endpoint.
async fn read_beside(inner: Arc<Inner>, socket: Socket) {
    let mut desk = Desk::default();
    loop {
        let read = socket.receive(&mut desk.inbox).await;
        desk.deliver(&inner, read).await;
    }
}

impl Inner {
    /// Finds out whose packets these are.
    fn sort(&self, inbox: &mut Inbox, sorted: &mut Sorted) {
        let now = Instant::now();
        let mut guard = self.table();
        let table = &mut *guard;
        let mut strangers = false;
        inbox.packets(|meta, packet| {
            table.answer.clear();
            let ecn = meta
                .ecn
                .and_then(|ecn| quinn::EcnCodepoint::from_bits(ecn as u8));
            let event =
                table
                    .machine
                    .handle(now, meta.addr, meta.dst_ip, ecn, packet, &mut table.answer);
            match event {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    sorted.add(&table.connections, handle, event);
                }
                Some(DatagramEvent::NewConnection(incoming)) if table.closed.is_some() => {
                    table.refuse(&self.socket, incoming);
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    table.incoming.push_back(incoming);
                    strangers = true;
                }
                Some(DatagramEvent::Response(transmit)) => table.respond(&self.socket, &transmit),
                None => {}
            }
        });
        drop(guard);
        if strangers {
            self.changed.notify_waiters();
        }
    }
}

/// Somebody who wants to connect. Refused when it is dropped.
pub(crate) struct Incoming {
    machine: Option<quinn_proto::Incoming>,
    inner: Arc<Inner>,
}

impl Incoming {
    /// Who says so; see [`Self::is_validated`].
    pub(crate) fn remote(&self) -> SocketAddr {
        let unknown = SocketAddr::new(IpAddr::from([0; 4]), 0);
        self.machine
            .as_ref()
            .map_or(unknown, |incoming| incoming.remote_address())
    }

    /// Has the far end shown that it hears what is sent there?
    pub(crate) fn is_validated(&self) -> bool {
        self.machine
            .as_ref()
            .is_some_and(|incoming| incoming.remote_address_validated())
    }

    /// Asks the far end to show that it hears what is sent there, or refuses it if it has been asked.
    pub(crate) fn retry(mut self) {
        let mut table = self.inner.table();
        let table = &mut *table;
        let Some(incoming) = self.machine.take() else {
            return;
        };
        table.answer.clear();
        match table.machine.retry(incoming, &mut table.answer) {
            Ok(transmit) => table.respond(&self.inner.socket, &transmit),
            Err(error) => table.refuse(&self.inner.socket, error.into_incoming()),
        }
    }

    /// Begins the connection; see [`Connection::established`].
    ///
    /// # Errors
    /// If the packets are no handshake.
    pub(crate) fn accept(
        mut self,
        config: Arc<ServerConfig>,
        pace: Pace,
    ) -> Result<Connection, ConnectionError> {
        let mut guard = self.inner.table();
        let table = &mut *guard;
        let Some(incoming) = self.machine.take() else {
            return Err(ConnectionError::LocallyClosed);
        };
        if table.closed.is_some() {
            table.refuse(&self.inner.socket, incoming);
            return Err(ConnectionError::LocallyClosed);
        }
        table.answer.clear();
        let accepted =
            table
                .machine
                .accept(incoming, Instant::now(), &mut table.answer, Some(config));
        match accepted {
            Ok((handle, machine)) => Ok(self.inner.adopt(guard, handle, machine, pace)),
            Err(error) => {
                if let Some(transmit) = error.response {
                    table.respond(&self.inner.socket, &transmit);
                }
                Err(error.cause)
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(incoming) = self.machine.take() {
            self.inner.table().refuse(&self.inner.socket, incoming);
        }
    }
}
