//! The reference tunnel: what this machine can do at most with superframes and one cipher. The benchmark's yardstick for all
//! that carry more than bytes.
//!
//! ```text
//!   TAP --readv--> |head|piece      |tag|head|piece      |tag|…  --sealed in place--> sendmsg with UDP_SEGMENT
//!   TAP <-writev--      |piece      |        |piece      |       <-opened in place--- recvmmsg with UDP_GRO
//! ```
//!
//! A frame with its virtio-net header is read so that room is left around each piece, and written from where it was received: no
//! copy but the kernel's, and of a frame that comes with two calls. One thread for each direction, one key for ever. It refuses
//! to be a product: no handshake, no loss recovery (a lost piece is a lost frame), no congestion control, two ends only.
//!
//!     reference-tunnel DEVICE OWN-ADDRESS:PORT PEER-ADDRESS:PORT UNDERLAY-MTU
#![allow(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use libc::{c_int, c_void, iovec, mmsghdr, msghdr};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::zeroed;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::null_mut;

/// Number of the frame 4, of the piece 2, of all its pieces 2.
const HEAD: usize = 8;
const TAG: usize = 16;
/// IPv4 and UDP.
const OUTER: usize = 28;
/// The longest frame, with Ethernet and virtio-net header.
const FRAME: usize = 65_536 + 64;
/// What one sendmsg may cut: bytes of one UDP packet, and pieces.
const BATCH: (usize, usize) = (65_507, 64);
/// Messages of one recvmmsg.
const MESSAGES: usize = 8;
const MESSAGE: usize = 65_536;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [device, own, peer, mtu] = words.as_slice() else {
        bail!("reference-tunnel DEVICE OWN-ADDRESS:PORT PEER-ADDRESS:PORT UNDERLAY-MTU");
    };
    let (own, peer): (SocketAddrV4, SocketAddrV4) = (own.parse()?, peer.parse()?);
    let datagram = mtu.parse::<usize>()?.saturating_sub(OUTER);
    ensure!((500..=9000).contains(&datagram), "the MTU is out of range");
    let (tap, socket) = (open_tap(device)?, open_socket(own, peer)?);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&tap, &socket, datagram, Cipher::new(own)?));
        let received = receive(&tap, &socket, datagram, &Cipher::new(peer)?);
        received.and(
            sending
                .join()
                .unwrap_or_else(|_| bail!("the sender panicked")),
        )
    })
}

/// One key for all; nonces differ by sender, frame and piece.
struct Cipher {
    key: LessSafeKey,
    sender: [u8; 4],
}

impl Cipher {
    fn new(sender: SocketAddrV4) -> Result<Self> {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|_| anyhow::anyhow!("no key"))?;
        Ok(Self {
            key: LessSafeKey::new(key),
            sender: sender.ip().octets(),
        })
    }

    fn nonce(&self, head: [u8; HEAD]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..HEAD].copy_from_slice(&head);
        nonce[HEAD..].copy_from_slice(&self.sender);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Fills in head and tag of a slot.
    fn seal(&self, slot: &mut [u8], head: [u8; HEAD]) -> Result<()> {
        let (before, rest) = slot.split_at_mut(HEAD);
        let (piece, room) = rest.split_at_mut(rest.len() - TAG);
        before.copy_from_slice(&head);
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(head), Aad::from(head), piece);
        let tag = tag.map_err(|_| anyhow::anyhow!("not sealed"))?;
        room.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Head and piece of a datagram, if it is one of ours.
    fn open<'a>(&self, datagram: &'a mut [u8]) -> Option<([u8; HEAD], &'a mut [u8])> {
        let (head, rest) = datagram.split_first_chunk_mut::<HEAD>()?;
        let opened = self
            .key
            .open_in_place(self.nonce(*head), Aad::from(*head), rest);
        Some((*head, opened.ok()?))
    }
}

fn head(frame: u32, piece: usize, pieces: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&frame.to_be_bytes());
    head[4..6].copy_from_slice(&(piece as u16).to_be_bytes());
    head[6..].copy_from_slice(&(pieces as u16).to_be_bytes());
    head
}

fn send(tap: &File, socket: &UdpSocket, datagram: usize, cipher: Cipher) -> Result<()> {
    let room = datagram - HEAD - TAG;
    let slots = FRAME.div_ceil(room);
    let mut buffer = vec![0u8; slots * datagram];
    let holes: Vec<iovec> = buffer
        .chunks_mut(datagram)
        .map(|slot| part(&mut slot[HEAD..HEAD + room]))
        .collect();
    let batch = (BATCH.0 / datagram).min(BATCH.1) * datagram;
    for number in 0u32.. {
        // SAFETY: the holes lie in `buffer`, which lives as long and is not touched meanwhile.
        let read = unsafe { libc::readv(tap.as_raw_fd(), holes.as_ptr(), holes.len() as c_int) };
        let Ok(len) = usize::try_from(read) else {
            bail!("read the TAP: {}", io::Error::last_os_error());
        };
        let pieces = len.div_ceil(room);
        let bytes = len + pieces * (HEAD + TAG);
        for (piece, slot) in buffer[..bytes].chunks_mut(datagram).enumerate() {
            cipher.seal(slot, head(number, piece, pieces))?;
        }
        for batch in buffer[..bytes].chunks_mut(batch) {
            send_batch(socket.as_raw_fd(), batch, datagram);
        }
    }
    Ok(())
}

/// One call; the kernel cuts. What it refuses is lost.
fn send_batch(socket: RawFd, bytes: &mut [u8], datagram: usize) {
    let mut data = part(bytes);
    let mut control = [0u64; 3];
    // SAFETY: all zeros is a message without anything; the pointers set below live until the call returns. The control buffer
    // is aligned for a cmsghdr and has room for one with two bytes of data.
    unsafe {
        let mut message: msghdr = zeroed();
        message.msg_iov = &raw mut data;
        message.msg_iovlen = 1;
        if bytes.len() > datagram {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(2) as _;
            let segment = libc::CMSG_FIRSTHDR(&raw const message);
            (*segment).cmsg_level = libc::SOL_UDP;
            (*segment).cmsg_type = libc::UDP_SEGMENT;
            (*segment).cmsg_len = libc::CMSG_LEN(2) as _;
            libc::CMSG_DATA(segment)
                .cast::<u16>()
                .write_unaligned(datagram as u16);
        }
        libc::sendmsg(socket, &raw const message, 0);
    }
}

/// The frame that is being received.
#[derive(Default)]
struct Open {
    number: u32,
    pieces: usize,
    parts: Vec<iovec>,
    /// Parts that were copied here, since their buffers are used anew; as many as are in front.
    kept: Vec<u8>,
    kept_parts: usize,
}

impl Open {
    fn clear(&mut self) {
        (self.pieces, self.kept_parts) = (0, 0);
        self.parts.clear();
        self.kept.clear();
    }

    /// Takes a piece; true if it was the last one. What is not the next one ends the frame.
    fn take(&mut self, head: [u8; HEAD], piece: &mut [u8]) -> bool {
        let number = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let index = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let pieces = usize::from(u16::from_be_bytes([head[6], head[7]]));
        if index == 0 {
            self.clear();
            (self.number, self.pieces) = (number, pieces);
        } else if (number, pieces, index) != (self.number, self.pieces, self.parts.len()) {
            self.clear();
            return false;
        }
        self.parts.push(part(piece));
        self.parts.len() == self.pieces
    }

    /// Copies what is still in buffers that will be used anew.
    fn keep(&mut self) {
        for part in &mut self.parts[self.kept_parts..] {
            // SAFETY: the part is in a buffer that nobody has written since.
            let bytes = unsafe { std::slice::from_raw_parts(part.iov_base.cast(), part.iov_len) };
            let at = self.kept.len();
            if at + bytes.len() > self.kept.capacity() {
                // More than any frame: it is none, and parts must not move.
                self.pieces = usize::MAX;
                return;
            }
            self.kept.extend_from_slice(bytes);
            part.iov_base = self.kept[at..].as_mut_ptr().cast();
        }
        self.kept_parts = self.parts.len();
    }
}

fn receive(tap: &File, socket: &UdpSocket, datagram: usize, cipher: &Cipher) -> Result<()> {
    let mut buffer = vec![0u8; MESSAGES * MESSAGE];
    let mut frame = Open {
        parts: Vec::with_capacity(FRAME),
        kept: Vec::with_capacity(2 * FRAME),
        ..Open::default()
    };
    let mut parts: Vec<iovec> = buffer.chunks_mut(MESSAGE).map(part).collect();
    let mut controls = [[0u64; 4]; MESSAGES];
    loop {
        // SAFETY: all zeros is a message without anything; parts and controls live as long as the call.
        let mut messages: [mmsghdr; MESSAGES] = unsafe { zeroed() };
        for ((message, part), control) in messages.iter_mut().zip(&mut parts).zip(&mut controls) {
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of_val(control) as _;
        }
        // SAFETY: as above; the kernel writes at most what each part is long.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                MESSAGES as u32,
                libc::MSG_WAITFORONE,
                null_mut(),
            )
        };
        // A peer that is not up yet is told by an error.
        let count = usize::try_from(count).unwrap_or(0);
        let filled = buffer.chunks_mut(MESSAGE).zip(&messages[..count]);
        for (bytes, message) in filled {
            let step = segment(&message.msg_hdr).unwrap_or(datagram);
            let bytes = &mut bytes[..message.msg_len as usize];
            for packet in bytes.chunks_mut(step.max(1)) {
                let Some((head, piece)) = cipher.open(packet) else {
                    continue;
                };
                if frame.take(head, piece) {
                    // SAFETY: each part is in `buffer` or in `kept`, unchanged since it was opened. What the kernel refuses
                    // is lost.
                    unsafe {
                        let parts = &frame.parts;
                        libc::writev(tap.as_raw_fd(), parts.as_ptr(), parts.len() as c_int);
                    }
                    frame.clear();
                }
            }
        }
        frame.keep();
    }
}

/// Length of the datagrams that the kernel joined in a message.
fn segment(message: &msghdr) -> Option<usize> {
    // SAFETY: the kernel has written the control messages that the header tells of.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(message);
        if control.is_null()
            || ((*control).cmsg_level, (*control).cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO)
        {
            return None;
        }
        let step = libc::CMSG_DATA(control).cast::<c_int>().read_unaligned();
        usize::try_from(step).ok()
    }
}

fn part(bytes: &mut [u8]) -> iovec {
    iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

/// A TAP that takes and gives superframes.
fn open_tap(device: &str) -> Result<File> {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("open /dev/net/tun")?;
    // SAFETY: all zeros is a request without a name.
    let mut request: libc::ifreq = unsafe { zeroed() };
    ensure!(
        device.len() < request.ifr_name.len(),
        "the name is too long"
    );
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: the request lives as long as the call.
    let made = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    ensure!(made == 0, "make the TAP: {}", io::Error::last_os_error());
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    // SAFETY: the argument is a number.
    let taken = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD as _, offloads) };
    ensure!(taken == 0, "offloads: {}", io::Error::last_os_error());
    Ok(tap)
}

fn open_socket(own: SocketAddrV4, peer: SocketAddrV4) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(own).with_context(|| format!("bind {own}"))?;
    socket
        .connect(peer)
        .with_context(|| format!("connect {peer}"))?;
    let options = [
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20),
        (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 8 << 20),
        (libc::SOL_UDP, libc::UDP_GRO, 1),
    ];
    for (level, name, value) in options {
        let value: c_int = value;
        // SAFETY: the value lives as long as the call, and is as long as it says.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw const value).cast::<c_void>(),
                size_of::<c_int>() as u32,
            )
        };
        ensure!(
            set == 0,
            "socket option {name}: {}",
            io::Error::last_os_error()
        );
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher(address: &str) -> Cipher {
        Cipher::new(address.parse().unwrap()).unwrap()
    }

    fn bytes(open: &Open) -> Vec<u8> {
        let parts = open.parts.iter();
        // SAFETY: the parts are in buffers of the test that still live.
        let bytes = parts
            .map(|part| unsafe { std::slice::from_raw_parts(part.iov_base.cast(), part.iov_len) });
        bytes.collect::<Vec<&[u8]>>().concat()
    }

    #[test]
    fn a_piece_is_opened_by_the_other_side_alone_and_only_as_it_was_sealed() {
        let (one, other) = (cipher("192.0.2.1:1"), cipher("192.0.2.2:1"));
        let mut slot = [5; HEAD + 3 + TAG];
        let place = head(9, 0, 1);
        one.seal(&mut slot, place).unwrap();
        assert!(other.open(&mut slot.clone()).is_none(), "of another sender");
        let mut changed = slot;
        changed[5] ^= 1;
        assert!(one.open(&mut changed).is_none(), "of another place");
        assert!(one.open(&mut slot[..7]).is_none(), "too short");
        let (told, piece) = one.open(&mut slot).unwrap();
        assert_eq!((told, &*piece), (place, &[5; 3][..]));
    }

    #[test]
    fn a_frame_is_whole_across_calls_and_ends_with_the_first_piece_that_is_missing() {
        let mut open = Open {
            kept: Vec::with_capacity(16),
            ..Open::default()
        };
        let mut buffer = *b"abcd";
        assert!(!open.take(head(1, 0, 2), &mut buffer[..2]));
        open.keep();
        buffer = *b"zzef";
        assert!(open.take(head(1, 1, 2), &mut buffer[2..]));
        assert_eq!(bytes(&open), b"abef");
        open.clear();
        assert!(!open.take(head(2, 0, 3), &mut buffer[..1]));
        assert!(!open.take(head(2, 2, 3), &mut buffer[..1]), "one is lost");
        assert!(!open.take(head(2, 1, 3), &mut buffer[..1]), "too late");
        assert!(open.take(head(3, 0, 1), &mut buffer[..1]));
    }

    #[test]
    fn more_than_any_frame_is_not_kept() {
        let mut open = Open {
            kept: Vec::with_capacity(3),
            ..Open::default()
        };
        let mut buffer = *b"abcd";
        open.take(head(1, 0, 2), &mut buffer);
        open.keep();
        assert!(!open.take(head(1, 1, 2), &mut buffer));
        assert!(open.parts.is_empty());
    }
}
