//! Raw Ethernet frames from and to a container, by AF_PACKET.
#![allow(unsafe_code)]

use crate::netns;
use anyhow::{Context, Result, ensure};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

/// `PACKET_IGNORE_OUTGOING` of linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// An AF_PACKET socket bound to one interface: sends whole frames, hears what passes in either direction.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
}

impl Tap {
    /// On interface `ifname` of namespace `netns`.
    ///
    /// # Errors
    /// If there is no such interface, or without CAP_NET_RAW.
    pub fn open(netns: &str, ifname: &str) -> Result<Self> {
        let name = CString::new(ifname)?;
        netns::within(netns, move || {
            let proto = u16::try_from(libc::ETH_P_ALL)?.to_be();
            // SAFETY: plain system calls; `address` is a valid sockaddr_ll for the length given.
            unsafe {
                let index = libc::if_nametoindex(name.as_ptr());
                ensure!(index != 0, "no interface {name:?}");
                let raw = libc::socket(
                    libc::AF_PACKET,
                    libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                    i32::from(proto),
                );
                ensure!(raw >= 0, "packet socket: {}", io::Error::last_os_error());
                let fd = OwnedFd::from_raw_fd(raw);
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = u16::try_from(libc::AF_PACKET)?;
                address.sll_protocol = proto;
                address.sll_ifindex = i32::try_from(index)?;
                let len = u32::try_from(size_of::<libc::sockaddr_ll>())?;
                ensure!(
                    libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) == 0,
                    "bind: {}",
                    io::Error::last_os_error()
                );
                Ok(Self { fd })
            }
        })
    }

    /// The same, but hears only what comes in, into 8 MiB.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_inbound(netns: &str, ifname: &str) -> Result<Self> {
        let tap = Self::open(netns, ifname)?;
        tap.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        tap.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20)?;
        Ok(tap)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> Result<()> {
        set_option(&self.fd, level, option, value)
    }

    /// A frame that is there, and its length; none: there is none. What is longer than the buffer is cut.
    pub fn take(&self, buffer: &mut [u8]) -> Option<usize> {
        let (fd, at) = (self.fd.as_raw_fd(), buffer.as_mut_ptr());
        // SAFETY: the buffer is as long as said.
        let got = unsafe { libc::recv(fd, at.cast(), buffer.len(), libc::MSG_DONTWAIT) };
        usize::try_from(got).ok()
    }

    /// Sends one frame, from the destination MAC on.
    ///
    /// # Errors
    /// If the kernel refuses it (shorter than an Ethernet header, longer than the MTU).
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length are of a live slice.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Frames heard within `time`, until `enough` says that one will do.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn hear(
        &self,
        time: Duration,
        mut enough: impl FnMut(&[u8]) -> bool,
    ) -> Result<Vec<Vec<u8>>> {
        let end = Instant::now() + time;
        let mut frames = Vec::new();
        let mut buffer = vec![0u8; 65_600];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(frames);
            }
            let mut poll = libc::pollfd {
                fd: self.fd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one live pollfd; the buffer is as long as said.
            let got = unsafe {
                if libc::poll(&raw mut poll, 1, i32::try_from(left.as_millis())?.max(1)) <= 0 {
                    continue;
                }
                libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                )
            };
            let len = usize::try_from(got).ok().context("packet socket failed")?;
            frames.push(buffer[..len].to_vec());
            if enough(&buffer[..len]) {
                return Ok(frames);
            }
        }
    }

    /// Gives `each` every frame that comes within `time`, with the moment at which the kernel had it, and goes on while frames
    /// come; false: none did. The socket holds 16 MiB meanwhile.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn each(&self, time: Duration, mut each: impl FnMut(&[u8], SystemTime)) -> Result<bool> {
        let fd = self.fd.as_raw_fd();
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
        self.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one live pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, i32::try_from(time.as_millis())?) } <= 0 {
            return Ok(false);
        }
        let (mut buffer, mut control) = ([0u8; 2048], [0u64; 16]);
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        loop {
            // SAFETY: all pointers are to live values of the lengths said; a header that is all zeros is one.
            let (got, at) = unsafe {
                let mut message: libc::msghdr = std::mem::zeroed();
                (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
                message.msg_control = control.as_mut_ptr().cast();
                message.msg_controllen = size_of_val(&control);
                let got = libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT);
                let told = libc::CMSG_FIRSTHDR(&raw const message);
                let at = if told.is_null() || (*told).cmsg_type != libc::SCM_TIMESTAMPNS {
                    None
                } else {
                    let at: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(told).cast());
                    Some((at.tv_sec, at.tv_nsec))
                };
                (got, at)
            };
            let Ok(len) = usize::try_from(got) else {
                return Ok(true);
            };
            let (s, ns) = at.context("the kernel does not tell when a frame came")?;
            let since = Duration::new(u64::try_from(s)?, u32::try_from(ns)?);
            each(
                buffer.get(..len).unwrap_or_default(),
                SystemTime::UNIX_EPOCH + since,
            );
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Six bytes of `02:00:00:00:00:01`.
///
/// # Errors
/// If it is no MAC.
pub fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{text:?} is no MAC"))?;
    bytes
        .try_into()
        .ok()
        .with_context(|| format!("{text:?} is no MAC"))
}

/// A frame of `ether_type` with `payload`.
#[must_use]
pub fn frame(dst: [u8; 6], src: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ether_type.to_be_bytes(), payload].concat()
}

/// setsockopt(2) of a number.
pub(crate) fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<()> {
    let len = u32::try_from(size_of_val(&value))?;
    // SAFETY: the pointer is to a live value of the length said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    ensure!(set == 0, "setsockopt: {}", io::Error::last_os_error());
    Ok(())
}
