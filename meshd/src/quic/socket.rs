//! The UDP socket: batches in, batches out.
//!
//! Owns the rooms that packets are read into. A large batch is handed on where it lies, and its room is used again once nobody
//! holds a packet of it; a small one is copied, so that one short datagram never keeps 64 KiB.
#![allow(unsafe_code)] // A room that is used again is not written with zeros again; waiting for a descriptor of our own.

use bytes::BytesMut;
use quinn::Transmit;
use quinn::udp::{self, RecvMeta, UdpSocketState};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Batches of one call at most, as many as quinn-udp reads: where the kernel joins nothing, each is one packet. Of a room only the
/// memory is there that was ever written to.
const ROOMS: usize = udp::BATCH_SIZE;
/// Batches of a call after one that found less: to offer rooms costs, also those that stay empty.
const ROOMS_MIN: usize = 4;
const _: () = assert!(ROOMS_MIN <= ROOMS);
/// The kernel joins no more than this into one batch (UDP_GRO), and a UDP payload is no longer.
const ROOM: usize = 64 << 10;
/// Batches from here on are handed on where they lie, and whoever keeps a packet of one keeps all of it. So what is kept for long is
/// copied: see [`Connection::release`](super::Connection::release).
const LARGE: usize = ROOM / 4;
/// Until a full socket is tried again that cannot be watched.
const PAUSE: Duration = Duration::from_millis(2);
/// Payload of one call at most: an IPv4 packet is 65535 bytes with its headers.
const CALL_MAX: usize = 65_507;

/// The socket of an endpoint. It is watched for what comes alone: the kernel would say after each call that it takes more, and wake
/// a thread for it.
pub(super) struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// It takes nothing, and somebody waits until it does: it need not be asked meanwhile.
    full: AtomicBool,
}

impl Socket {
    /// # Errors
    /// The kernel's, or that there is no runtime to wait with.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self {
            state: UdpSocketState::new((&socket).into())?,
            io: watched(socket, Interest::READABLE)?,
            full: AtomicBool::new(false),
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    /// May packets be cut in pieces on their way? Then nothing can be learned of the path's MTU.
    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Packets of `size` bytes that leave in one call: one, where the kernel or the device cannot cut (UDP_SEGMENT).
    pub(super) fn batch(&self, size: usize) -> usize {
        let fit = CALL_MAX / size.max(1);
        self.state.max_gso_segments().min(fit).max(1)
    }

    /// Hands packets to the kernel; false: it takes none now. What it refuses for another reason is as good as lost on the way.
    pub(super) fn try_send(&self, transmit: &Transmit, packets: &[u8]) -> bool {
        if self.full.load(Ordering::Relaxed) {
            return false;
        }
        let transmit = udp::Transmit {
            destination: transmit.destination,
            ecn: transmit
                .ecn
                .and_then(|ecn| udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: packets,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let sent = self.state.send(self.io.get_ref().into(), &transmit);
        !matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// It has just taken nothing. To be followed by [`Self::writable`].
    pub(super) fn fill(&self) {
        self.full.store(true, Ordering::Relaxed);
    }

    /// Returns when [`Self::try_send`] may be tried again.
    pub(super) async fn writable(&self) {
        let again = self.io.get_ref().try_clone();
        match again.and_then(|socket| watched(socket, Interest::WRITABLE)) {
            // An error shows at the next call.
            Ok(socket) => drop(socket.writable().await),
            Err(error) => {
                tracing::debug!(%error, "nobody can say when the underlay's socket takes packets again; it is tried again");
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.full.store(false, Ordering::Relaxed);
    }

    /// Reads what is there, at least one batch; false: there may be more. Cancelling loses nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) async fn receive(&self, inbox: &mut Inbox) -> io::Result<bool> {
        loop {
            let mut ready = self.io.readable().await?;
            // Not before: those who were given the last packets have read them by now, and their rooms are free.
            let offered = inbox.refill();
            let mut read = None;
            // One `try_io` for the call and for what it says of the next: readiness that came after the call must stay.
            let tried = ready.try_io(|io| {
                let mut rooms = inbox.rooms.iter_mut();
                let mut slices: [IoSliceMut<'_>; ROOMS] = std::array::from_fn(|_| {
                    IoSliceMut::new(rooms.next().map_or(&mut [][..], |room| &mut room[..]))
                });
                let slices = slices.get_mut(..offered).unwrap_or_default();
                let batches = self
                    .state
                    .recv(io.get_ref().into(), slices, &mut inbox.metas)?;
                read = Some(batches);
                // The kernel has just found no more: to wait for what comes needs no call that says so again.
                match batches < offered {
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(()),
                }
            });
            if let Some(batches) = read {
                inbox.batches = batches;
                // Down step by step, so that load that swings does not ask for memory each time that it grows.
                let enough = (2 * batches).max(inbox.wanted - 1);
                inbox.wanted = enough.clamp(ROOMS_MIN, ROOMS);
                return Ok(batches < offered);
            }
            match tried {
                // `ConnectionReset`: somebody's ICMP error. It means nothing in QUIC, and anybody could send one.
                Ok(Err(error)) if error.kind() != io::ErrorKind::ConnectionReset => {
                    return Err(error);
                }
                // There is nothing.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

fn watched(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: the socket owns its descriptor, which stays open and the same as long as the socket lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// What was read at one call.
pub(super) struct Inbox {
    rooms: [BytesMut; ROOMS],
    metas: [RecvMeta; ROOMS],
    batches: usize,
    /// Rooms of the next call.
    wanted: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            rooms: std::array::from_fn(|_| BytesMut::new()),
            metas: [RecvMeta::default(); ROOMS],
            batches: 0,
            wanted: ROOMS_MIN,
        }
    }
}

impl Inbox {
    /// Makes the rooms of the next call whole again, and gives up the others: how many they are.
    fn refill(&mut self) -> usize {
        let (rooms, others) = self.rooms.split_at_mut(self.wanted.min(ROOMS));
        others.fill_with(BytesMut::new);
        let offered = rooms.len();
        for room in rooms {
            if room.len() == ROOM {
                continue;
            }
            room.clear();
            if room.try_reclaim(ROOM) && room.capacity() == ROOM {
                // SAFETY: the room was made of `ROOM` bytes of zeros and has no other memory; `try_reclaim` gives all of that
                // back and never other memory, and all that happened since was that some of it was written to: each byte is
                // initialized.
                unsafe { room.set_len(ROOM) };
            } else {
                *room = BytesMut::zeroed(ROOM);
            }
        }
        offered
    }

    /// Each packet that was read, in order, with what the kernel says of it.
    pub(super) fn packets(&mut self, mut each: impl FnMut(&RecvMeta, BytesMut)) {
        let batches = self.rooms.iter_mut().zip(&self.metas).take(self.batches);
        for (room, meta) in batches {
            let length = meta.len.min(room.len());
            let mut batch = match length {
                0..LARGE => BytesMut::from(room.get(..length).unwrap_or_default()),
                _ => room.split_to(length),
            };
            while !batch.is_empty() {
                let length = meta.stride.clamp(1, batch.len());
                each(meta, batch.split_to(length));
            }
        }
        self.batches = 0;
    }
}
