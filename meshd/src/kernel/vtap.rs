//! The TAP of a network, whose frames have a virtio-net header in front: so one write can hand the kernel a superframe,
//! which it cuts as late as it can.
//!
//! ```text
//!    mx<vni> --what is not open, and probes--> mu<vni> --read--> daemon         header and frame, never a superframe
//!    mx<vni> <--all that enters by mu<vni>---- mu<vni> <--write-- daemon        header and frame, up to 64 KiB by TCP
//! ```
//!
//! Owns its opening, which tokio-tun cannot do with that header, and the header's bytes. It is made persistent only after
//! it bears our mark, as the ports' TAPs are. Refuses to have offloads set: so the kernel cuts superframes and fills in
//! checksums before the daemon reads.
#![allow(unsafe_code)] // Two ioctls on a descriptor of our own, and waiting for it.

use super::device::NAMES_MAX;
use super::failure::{Failure, failure, refused};
use super::marks::NetworkRole;
use super::port::Workbench;
use super::tap::StepError;
use meshd_core::ident::{Vni, escape};
use nix::errno::Errno;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

nix::ioctl_write_int!(
    /// TUNSETPERSIST of linux/if_tun.h: 1 keeps the device when its last descriptor is closed.
    tunsetpersist,
    b'T',
    203
);
nix::ioctl_readwrite_bad!(
    /// TUNSETIFF of linux/if_tun.h, a number that says `int` and means `struct ifreq`.
    tunsetiff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// `struct virtio_net_hdr` of linux/virtio_net.h: what the kernel is to know of a frame before it. All zero: nothing.
/// Numbers are in the host's byte order, as TUN has them unless told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum at `csum_start + csum_offset` covers the pseudo header only: the rest is to be added from
    /// `csum_start` on (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    pub needs_checksum: bool,
    /// The checksum was checked by who gave us the frame (VIRTIO_NET_HDR_F_DATA_VALID).
    pub is_valid: bool,
    /// What kind of superframe it is.
    pub gso: Gso,
    /// Congestion was experienced on the way, so only the first segment has CWR (VIRTIO_NET_HDR_GSO_ECN).
    pub ecn: bool,
    /// The frame's headers, in bytes; a hint.
    pub header_len: u16,
    /// Bytes of payload in each segment.
    pub gso_size: u16,
    /// From the frame's start, in bytes.
    pub csum_start: u16,
    /// From `csum_start`, in bytes.
    pub csum_offset: u16,
}

/// Kinds of superframes (`VIRTIO_NET_HDR_GSO_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// An ordinary frame.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// UDP, to be cut into IP fragments.
    Ufo,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, to be cut into datagrams.
    Udp,
}

impl VnetHeader {
    /// Bytes of it before each frame.
    pub const LEN: usize = 10;

    const NEEDS_CSUM: u8 = 1;
    const DATA_VALID: u8 = 2;
    const ECN: u8 = 0x80;

    /// As it is before the frame.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut flags = 0;
        if self.needs_checksum {
            flags |= Self::NEEDS_CSUM;
        }
        if self.is_valid {
            flags |= Self::DATA_VALID;
        }
        let gso = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Ufo => 3,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
        };
        let gso = if self.ecn { gso | Self::ECN } else { gso };
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [flags, gso, a, b, c, d, e, f, g, h]
    }

    /// `None`: a kind of superframe that we do not know.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [flags, gso, a, b, c, d, e, f, g, h] = bytes;
        Some(Self {
            needs_checksum: flags & Self::NEEDS_CSUM != 0,
            is_valid: flags & Self::DATA_VALID != 0,
            gso: match gso & !Self::ECN {
                0 => Gso::None,
                1 => Gso::Tcp4,
                3 => Gso::Ufo,
                4 => Gso::Tcp6,
                5 => Gso::Udp,
                _ => return None,
            },
            ecn: gso & Self::ECN != 0,
            header_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        })
    }
}

/// An open TAP with virtio-net headers. Reading and writing take `&self`, so tasks may share it.
#[derive(Debug)]
pub struct Vtap {
    file: AsyncFd<File>,
    index: u32,
}

impl Vtap {
    /// The device's index.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Reads one frame into `frame`: how long it is, and its header. What does not fit is cut off: 64 KiB always fit.
    ///
    /// # Errors
    /// The kernel's; EBADFD or EIO once the device is deleted. `InvalidData`: a header that we do not know.
    pub async fn read(&self, frame: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        loop {
            // That the device is deleted is told as an error only.
            let interest = Interest::READABLE | Interest::ERROR;
            let mut ready = self.file.ready(interest).await?;
            let mut head = [0; VnetHeader::LEN];
            let read = ready.try_io(|file| {
                let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(frame)];
                file.get_ref().read_vectored(&mut parts)
            });
            let Ok(read) = read else { continue };
            let len = read?
                .checked_sub(VnetHeader::LEN)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            let header = VnetHeader::from_bytes(head).ok_or(io::ErrorKind::InvalidData)?;
            return Ok((header, len));
        }
    }

    /// As [`Self::read`], if there is a frame at once.
    ///
    /// # Errors
    /// As [`Self::read`]; `WouldBlock` if there is none.
    pub fn try_read(&self, frame: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        let mut head = [0; VnetHeader::LEN];
        let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(frame)];
        let read = self.file.get_ref().read_vectored(&mut parts)?;
        let len = read
            .checked_sub(VnetHeader::LEN)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let header = VnetHeader::from_bytes(head).ok_or(io::ErrorKind::InvalidData)?;
        Ok((header, len))
    }

    /// As [`Self::write`], if the kernel takes it at once.
    ///
    /// # Errors
    /// As [`Self::write`]; `WouldBlock` if it does not.
    pub fn try_write(&self, header: &VnetHeader, frame: &[u8]) -> io::Result<()> {
        let head = header.to_bytes();
        let parts = [IoSlice::new(&head), IoSlice::new(frame)];
        self.file.get_ref().write_vectored(&parts).map(drop)
    }

    /// Writes one frame: it enters the kernel by this device.
    ///
    /// # Errors
    /// The kernel's; EINVAL for a header that does not fit the frame, EIO while the device is down.
    pub async fn write(&self, header: &VnetHeader, frame: &[u8]) -> io::Result<()> {
        let head = header.to_bytes();
        loop {
            let mut ready = self.file.writable().await?;
            let wrote = ready.try_io(|file| {
                file.get_ref()
                    .write_vectored(&[IoSlice::new(&head), IoSlice::new(frame)])
            });
            // A TAP takes a frame whole or not at all.
            if let Ok(wrote) = wrote {
                return wrote.map(drop);
            }
        }
    }
}

/// Opens the TAP `name`, making it if there is none. It ends with its descriptor until [`keep`] is called.
///
/// # Errors
/// EBUSY: another descriptor is open on it.
pub(super) fn open(name: &str) -> Result<File, StepError> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            ("open /dev/net/tun for", errno)
        })?;
    let mut ifr_name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    if name.len() >= ifr_name.len() {
        return Err(("name", Errno::ENAMETOOLONG));
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut wish = libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: i16::try_from(flags).unwrap_or_default(),
        },
    };
    // SAFETY: the descriptor is open and `file`'s; `wish` is a whole `struct ifreq` that lives over the call.
    unsafe { tunsetiff(file.as_raw_fd(), &raw mut wish) }.map_err(|error| ("open", error))?;
    Ok(file)
}

/// The device stays when its descriptor is closed, also by a `kill -9`.
fn keep(file: &File) -> Result<(), StepError> {
    // SAFETY: the descriptor is open and `file`'s; the argument is a plain number.
    unsafe { tunsetpersist(file.as_raw_fd(), 1) }
        .map(drop)
        .map_err(|error| ("keep", error))
}

impl Workbench<'_> {
    /// Makes the network's TAP, or adopts it, and raises it.
    pub(super) async fn make_vtap(&self, vni: Vni, mtu: u16) -> Result<Vtap, Failure> {
        let role = NetworkRole::Vtap;
        if let Some(link) = self.find_device(vni, role).await? {
            let name = String::from_utf8(link.name).map_err(|_| {
                failure(format!(
                    "the TAP of VNI {vni} was renamed by somebody else to what is no UTF-8: rename it back"
                ))
            })?;
            let file = open(&name).map_err(|(step, error)| Failure {
                keep: error == Errno::EBUSY,
                ..refused(step, &name, self.own_netns)(error)
            })?;
            return self.adopt_vtap(vni, &name, file, mtu).await;
        }
        for attempt in 0..NAMES_MAX {
            let name = role.name(vni, attempt);
            let refused = |step| refused(step, &name, self.own_netns);
            let there = self.own.link_by_name(name.as_bytes()).await;
            if there.map_err(refused("look for"))?.is_some() {
                continue;
            }
            match open(&name) {
                Ok(file) => return self.adopt_vtap(vni, &name, file, mtu).await,
                // Somebody else was faster.
                Err((_, Errno::EBUSY)) => {}
                Err((step, error)) => return Err(refused(step)(error)),
            }
        }
        Err(failure(format!(
            "all {NAMES_MAX} names such as {} are taken by devices of others",
            role.name(vni, 0)
        )))
    }

    async fn adopt_vtap(
        &self,
        vni: Vni,
        name: &str,
        file: File,
        mtu: u16,
    ) -> Result<Vtap, Failure> {
        let role = NetworkRole::Vtap;
        let refused = |step| refused(step, &name, self.own_netns);
        let link = self.own.link_by_name(name.as_bytes()).await;
        let link = link
            .map_err(refused("read"))?
            .ok_or_else(|| refused("find")(Errno::ENODEV))?;
        self.inventory.networks.add(vni, role, link.index);
        self.inventory.networks.unwatch(link.index);
        self.mark_device(&link, vni, role, mtu).await?;
        keep(&file).map_err(|(step, error)| refused(step)(error))?;
        self.set_device_up(vni, role, true).await?;
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::ERROR;
        // SAFETY: the file owns its descriptor, which stays open and the same as long as the file lives.
        let file = unsafe { AsyncFd::register_with_interest(file, interest) }
            .map_err(|error| failure(format!("wait for {}: {error}", escape(name.as_bytes()))))?;
        Ok(Vtap {
            file,
            index: link.index,
        })
    }
}

#[cfg(test)]
#[path = "vtap_tests.rs"]
pub(super) mod kernel_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_header_that_is_read_is_written_alike(mut bytes in any::<[u8; VnetHeader::LEN]>()) {
            if let Some(header) = VnetHeader::from_bytes(bytes) {
                // Flags that have no meaning here are left out.
                bytes[0] &= 3;
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_tcp_superframe_is_said_as_virtio_says_it() {
        let header = VnetHeader {
            needs_checksum: true,
            gso: Gso::Tcp4,
            header_len: 54,
            gso_size: 1400,
            csum_start: 34,
            csum_offset: 16,
            ..VnetHeader::default()
        };
        let mut wanted = vec![1, 1];
        for number in [54u16, 1400, 34, 16] {
            wanted.extend(number.to_ne_bytes());
        }
        assert_eq!(header.to_bytes().to_vec(), wanted);
    }
}
