//! Raw Ethernet frames from and to a container, by AF_PACKET.
#![allow(unsafe_code)]

use crate::netns;
use anyhow::{Context, Result, ensure};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

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

    /// Gives `each` every frame that comes within `time`, and goes on while frames come; false: none did. The socket holds
    /// 16 MiB meanwhile.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn each(&self, time: Duration, mut each: impl FnMut(&[u8])) -> Result<bool> {
        let bytes: libc::c_int = 16 << 20;
        let len = u32::try_from(size_of::<libc::c_int>())?;
        let mut buffer = [0u8; 2048];
        // SAFETY: the pointers are to live values of the length said.
        unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const bytes).cast(),
                len,
            );
            let mut poll = libc::pollfd {
                fd: self.fd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            if libc::poll(&raw mut poll, 1, i32::try_from(time.as_millis())?) <= 0 {
                return Ok(false);
            }
            loop {
                let got = libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                );
                let Ok(len) = usize::try_from(got) else {
                    return Ok(true);
                };
                each(buffer.get(..len).unwrap_or_default());
            }
        }
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
