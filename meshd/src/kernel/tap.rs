//! The TAP of a port: how frames reach the daemon.
//!
//! ```text
//!    container -- veth --> TAP --superframes up to 64 KiB, checksums left to us--> daemon      virtio-net headers
//!                              --frames----------------------------------------->              by tokio-tun, where that fails
//! ```
//!
//! Owns its opening, and what a frame on it looks like. It is made persistent only after it bears our mark, so that a daemon that
//! dies in between leaves nothing that nobody owns.
#![allow(unsafe_code)] // One ioctl that tokio-tun offers only at the opening.

use super::netlink;
use super::netns::Netlink;
use super::vtap::{self, Vtap};
use meshd_core::superframe::VnetHeader;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use tokio::runtime::Handle;
use tokio_tun::Tun;

nix::ioctl_write_int!(
    /// TUNSETPERSIST of linux/if_tun.h: 1 keeps the device when its last descriptor is closed.
    tunsetpersist,
    b'T',
    203
);

/// A step of the opening, and the kernel's answer to it.
pub type StepError = (&'static str, Errno);

/// The TAP of a port, open.
pub enum PortTap {
    /// Gives and takes superframes.
    Super(Vtap),
    /// Gives and takes frames, with all checksums.
    Plain(Tun),
}

impl PortTap {
    /// Can it be given superframes?
    #[must_use]
    pub fn takes_superframes(&self) -> bool {
        matches!(self, Self::Super(_))
    }

    /// Reads a frame or a superframe: what the kernel says of it, and its length. Cancelling loses nothing.
    ///
    /// # Errors
    /// The kernel's, once the device is gone.
    pub async fn read(&self, frame: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        match self {
            Self::Super(tap) => tap.read(frame).await,
            Self::Plain(tap) => Ok((VnetHeader::default(), tap.recv(frame).await?)),
        }
    }

    /// As [`Self::read`], if there is one at once.
    ///
    /// # Errors
    /// As [`Self::read`]; `WouldBlock` if there is none.
    pub fn try_read(&self, frame: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        match self {
            Self::Super(tap) => tap.try_read(frame),
            Self::Plain(tap) => Ok((VnetHeader::default(), tap.try_recv(frame)?)),
        }
    }

    /// Writes a frame, or a superframe where it takes those, if the kernel takes it at once.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` if it does not. `InvalidInput`: it takes no superframes.
    pub fn try_write(&self, header: &VnetHeader, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::Super(tap) => tap.try_write(header, frame),
            Self::Plain(_) if *header != VnetHeader::default() => {
                Err(io::ErrorKind::InvalidInput.into())
            }
            Self::Plain(tap) => tap.try_send(frame).map(drop),
        }
    }
}

/// A descriptor before its device bears our mark.
enum Opened {
    Super(File),
    Plain(Tun),
}

impl Opened {
    /// With superframes, if they are wanted and the kernel has them.
    fn new(name: &str, superframes: bool) -> Result<Self, StepError> {
        if !superframes {
            return Self::plain(name);
        }
        let file = match vtap::open(name) {
            // It knows no virtio-net headers.
            Err((_, Errno::EINVAL)) => return Self::plain(name),
            file => file?,
        };
        match vtap::offload(&file) {
            Ok(()) => Ok(Self::Super(file)),
            Err(_) => {
                std::mem::drop(file);
                Self::plain(name)
            }
        }
    }

    fn plain(name: &str) -> Result<Self, StepError> {
        let tun = Tun::builder().name(name).tap().build();
        let tun = tun.map_err(|error| ("open /dev/net/tun for", errno(&error)))?;
        let mut queues = tun.into_iter();
        Ok(Self::Plain(queues.next().ok_or(("open", Errno::ENODEV))?))
    }

    /// The device stays when its descriptor is closed, also by a `kill -9`.
    fn keep(&self) -> Result<(), StepError> {
        match self {
            Self::Super(file) => vtap::keep(file),
            // SAFETY: the descriptor is open and belongs to `tun`; the argument is a plain number.
            Self::Plain(tun) => unsafe { tunsetpersist(tun.as_raw_fd(), 1) }
                .map(drop)
                .map_err(|error| ("keep", error)),
        }
    }
}

/// Opens the TAP `name`, making it if there is none, and gives it the alias; it will be waited for in `data`. The caller has
/// checked whose it is.
///
/// # Errors
/// EBUSY: another descriptor is open on it.
pub(super) async fn open(
    netlink: &Netlink,
    data: &Handle,
    name: &str,
    alias: &str,
    mtu: u16,
    superframes: bool,
) -> Result<(PortTap, u32), StepError> {
    let opened = {
        let _on = data.enter();
        Opened::new(name, superframes)?
    };
    let link = netlink
        .link_by_name(name.as_bytes())
        .await
        .map_err(|error| ("read", error))?
        .ok_or(("find", Errno::ENODEV))?;
    let mut marked = LinkMessage::default();
    marked.header.index = link.index;
    marked.attributes = vec![
        LinkAttribute::IfAlias(alias.to_owned()),
        LinkAttribute::Mtu(mtu.into()),
        LinkAttribute::TxQueueLen(super::QUEUE_LEN),
    ];
    netlink
        .rt
        .link()
        .set(marked)
        .execute()
        .await
        .map_err(|error| ("mark", netlink::errno(&error)))?;
    opened.keep()?;
    let tap = match opened {
        Opened::Plain(tun) => PortTap::Plain(tun),
        Opened::Super(file) => {
            let _on = data.enter();
            let tap = Vtap::new(file, link.index);
            PortTap::Super(tap.map_err(|_| ("wait for", Errno::EIO))?)
        }
    };
    Ok((tap, link.index))
}

fn errno(error: &tokio_tun::Error) -> Errno {
    match error {
        tokio_tun::Error::NixError(errno) => *errno,
        tokio_tun::Error::IoError(error) => {
            Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
        }
    }
}
