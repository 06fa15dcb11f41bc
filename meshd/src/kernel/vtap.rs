//! The TAP of a network, whose frames have a virtio-net header in front: so one write can hand the kernel a superframe,
//! which it cuts as late as it can.
//!
//! ```text
//!    mx<vni> --what is not open, and probes--> mu<vni> --read--> daemon         header and frame, never a superframe
//!    mx<vni> <--all that enters by mu<vni>---- mu<vni> <--write-- daemon        header and frame, up to 64 KiB by TCP
//! ```
//!
//! Owns its opening, which tokio-tun cannot do with that header. It is made persistent only after
//! it bears our mark, as the ports' TAPs are. Refuses to have offloads set here: so the kernel cuts superframes and fills in
//! checksums before the daemon reads. Ports' TAPs have them ([`offload`]).
#![allow(unsafe_code)] // Ioctls on a descriptor of our own, and waiting for it.

use super::device::NAMES_MAX;
use super::failure::{Failure, failure, refused};
use super::marks::NetworkRole;
use super::port::Workbench;
use super::tap::StepError;
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Vni, escape};
use meshd_core::superframe::VnetHeader;
use nix::errno::Errno;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

nix::ioctl_write_int!(
    /// TUNSETPERSIST of linux/if_tun.h: 1 keeps the device when its last descriptor is closed.
    tunsetpersist,
    b'T',
    203
);
nix::ioctl_write_int!(
    /// TUNSETOFFLOAD of linux/if_tun.h: which superframes, and whether frames without checksum, may be handed to whom reads.
    tunsetoffload,
    b'T',
    208
);
nix::ioctl_read!(
    /// TUNGETFEATURES of linux/if_tun.h: the flags that TUNSETIFF knows.
    tungetfeatures,
    b'T',
    207,
    libc::c_uint
);
nix::ioctl_read!(
    /// TUNSETSTEERINGEBPF of linux/if_tun.h, which calls itself a reading one: the descriptor of the program that picks the queue.
    tunsetsteeringebpf,
    b'T',
    224,
    libc::c_int
);
nix::ioctl_readwrite_bad!(
    /// TUNSETIFF of linux/if_tun.h, a number that says `int` and means `struct ifreq`.
    tunsetiff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// An open TAP with virtio-net headers. Reading and writing take `&self`, so tasks may share it.
#[derive(Debug)]
pub struct Vtap {
    file: AsyncFd<File>,
    index: u32,
}

impl Vtap {
    /// What a reader waits for: that the device is deleted is told as an error only.
    const COMES: Interest = Interest::READABLE.add(Interest::ERROR);

    /// Of an open descriptor. To be called in a runtime.
    pub(super) fn new(file: File, index: u32) -> io::Result<Self> {
        // SAFETY: the file owns its descriptor, which stays open and the same as long as the file lives.
        let file = unsafe { AsyncFd::register_with_interest(file, Self::COMES) };
        Ok(Self {
            file: file.map_err(io::Error::from)?,
            index,
        })
    }

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
        self.read_into(frame, |frame| frame).await
    }

    /// As [`Self::read`], into the room that `buffer` has once there is something to read.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_into<B: ?Sized>(
        &self,
        buffer: &mut B,
        room: fn(&mut B) -> &mut [u8],
    ) -> io::Result<(VnetHeader, usize)> {
        loop {
            let mut ready = self.file.ready(Self::COMES).await?;
            if let Ok(read) = ready.try_io(|file| read(file.get_ref(), room(buffer))) {
                return read;
            }
        }
    }

    /// As [`Self::read`], if there is a frame at once.
    ///
    /// # Errors
    /// As [`Self::read`]; `WouldBlock` if there is none.
    pub fn try_read(&self, frame: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        // That there is none is not remembered: under load more has come by the next `read`, which so spares a wake-up.
        read(self.file.get_ref(), frame)
    }

    /// Writes one frame, if the kernel takes it at once: it enters the kernel by this device.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` if it does not take it, EINVAL for a header that does not fit the frame, EIO while the device is down.
    pub fn try_write(&self, header: &VnetHeader, frame: &[u8]) -> io::Result<()> {
        let head = header.to_bytes();
        let parts = [IoSlice::new(&head), IoSlice::new(frame)];
        self.file.get_ref().write_vectored(&parts).map(drop)
    }
}

fn read(mut file: &File, frame: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
    let mut head = [0; VnetHeader::LEN];
    let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(frame)];
    let read = file.read_vectored(&mut parts)?;
    let len = read
        .checked_sub(VnetHeader::LEN)
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let header = VnetHeader::from_bytes(head).ok_or(io::ErrorKind::InvalidData)?;
    Ok((header, len))
}

fn unbound() -> Result<File, StepError> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            ("open /dev/net/tun for", errno)
        })
}

/// Does the kernel have TAPs with several queues?
///
/// # Errors
/// EOPNOTSUPP: it does not.
pub(super) fn has_queues() -> Result<(), StepError> {
    let (file, mut features) = (unbound()?, 0);
    // SAFETY: the descriptor is open and `file`'s; `features` is an `unsigned int` that lives over the call.
    unsafe { tungetfeatures(file.as_raw_fd(), &raw mut features) }
        .map_err(|error| ("read the features of", error))?;
    match features & libc::IFF_MULTI_QUEUE.cast_unsigned() {
        0 => Err(("have several queues by", Errno::EOPNOTSUPP)),
        _ => Ok(()),
    }
}

/// Opens the TAP `name`, making it if there is none. It ends with its descriptor until [`keep`] is called.
///
/// # Errors
/// EBUSY: another descriptor is open on it.
pub(super) fn open(name: &str) -> Result<File, StepError> {
    open_as(name, Kind::Single)
}

/// How many descriptors a TAP may have; it keeps to that for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One.
    Single,
    /// A queue for each.
    Queues,
}

/// As [`open`], of this kind; one more queue, if there is a descriptor already.
///
/// # Errors
/// EINVAL: the TAP is of the other kind, or the kernel does not know this one. EBUSY: another descriptor is open on a single one.
pub(super) fn open_as(name: &str, kind: Kind) -> Result<File, StepError> {
    let file = unbound()?;
    let mut ifr_name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    if name.len() >= ifr_name.len() {
        return Err(("name", Errno::ENAMETOOLONG));
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let queues = match kind {
        Kind::Single => 0,
        Kind::Queues => libc::IFF_MULTI_QUEUE,
    };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues;
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

/// Has the kernel hand over superframes of TCP, and of UDP where it knows how to cut them (Linux 6.2), and leave checksums to us.
///
/// # Errors
/// EINVAL: it cannot do that of TCP.
pub(super) fn offload(file: &File) -> Result<(), StepError> {
    // TUN_F_CSUM, TSO4, TSO6; USO4, USO6.
    let (tcp, udp) = (0x01 | 0x02 | 0x04, 0x20 | 0x40);
    for wish in [tcp | udp, tcp] {
        // SAFETY: the descriptor is open and `file`'s; the argument is a plain number.
        match unsafe { tunsetoffload(file.as_raw_fd(), wish) } {
            Err(Errno::EINVAL) => {}
            other => {
                return other
                    .map(drop)
                    .map_err(|error| ("have superframes by", error));
            }
        }
    }
    Err(("have superframes by", Errno::EINVAL))
}

/// The inverse of [`offload`]: the kernel cuts superframes and fills in checksums.
///
/// # Errors
/// The kernel's.
pub(super) fn cut(file: &File) -> Result<(), StepError> {
    // SAFETY: the descriptor is open and `file`'s; the argument is a plain number.
    unsafe { tunsetoffload(file.as_raw_fd(), 0) }
        .map(drop)
        .map_err(|error| ("have no superframes by", error))
}

/// From now on this program picks the queue for what is sent to the device, in the place of the kernel's own way; also when the
/// device has been opened anew.
///
/// # Errors
/// EINVAL: the kernel cannot do that (Linux 4.16).
pub(super) fn spread(file: &File, program: &OwnedFd) -> Result<(), StepError> {
    let mut program = program.as_raw_fd();
    // SAFETY: the descriptor is open and `file`'s; `program` is an `int` that lives over the call, and is only read.
    unsafe { tunsetsteeringebpf(file.as_raw_fd(), &raw mut program) }
        .map(drop)
        .map_err(|error| ("spread flows over the queues of", error))
}

/// The device stays when its descriptor is closed, also by a `kill -9`.
pub(super) fn keep(file: &File) -> Result<(), StepError> {
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
                failure(ErrorCode::DeviceMeddled, format!(
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
        Err(failure(
            ErrorCode::InterfaceExists,
            format!(
                "all {NAMES_MAX} names such as {} are taken by devices of others",
                role.name(vni, 0)
            ),
        ))
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
        let _on = self.data.enter();
        Vtap::new(file, link.index).map_err(|error| {
            failure(
                ErrorCode::KernelRefused,
                format!("wait for {}: {error}", escape(name.as_bytes())),
            )
        })
    }
}

#[cfg(test)]
#[path = "vtap_tests.rs"]
pub(super) mod kernel_tests;
