//! The TAP of a port: how frames reach the daemon.
//!
//! ```text
//!    container -- veth --> TAP --superframes up to 64 KiB, checksums left to us--> daemon      virtio-net headers
//!                              --frames----------------------------------------->              by tokio-tun, where that fails
//! ```
//!
//! One with superframes has as many queues as asked for, each with a descriptor; which flow is in which says a program of ours
//! (`gate/spread.rs`). A TAP stays of the kind as which it was made: one of an earlier run with a single queue has one until the port
//! is attached anew, one with more may have any number after a restart.
//!
//! Owns its opening, and what a frame on it looks like. It is made persistent only after it bears our mark, so that a daemon that
//! dies in between leaves nothing that nobody owns. Any process with the right could have a further queue of ours, and with it a
//! share of the frames; the kernel refuses that of single ones only, so we do of the others.
#![allow(unsafe_code)] // One ioctl that tokio-tun offers only at the opening.

use super::gate;
use super::netlink::{self, Link};
use super::netns::Netlink;
use super::shelf::Shelf;
use super::vtap::{self, Kind, Vtap};
use meshd_core::superframe::VnetHeader;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
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

/// The TAP of a port, open: a queue of it. All of them take what is written alike.
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
        self.read_into(frame, |frame| frame).await
    }

    /// As [`Self::read`], into the room that `buffer` has; of a TAP with superframes it is asked for once there is something to read.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_into<B: ?Sized>(
        &self,
        buffer: &mut B,
        room: fn(&mut B) -> &mut [u8],
    ) -> io::Result<(VnetHeader, usize)> {
        match self {
            Self::Super(tap) => tap.read_into(buffer, room).await,
            Self::Plain(tap) => Ok((VnetHeader::default(), tap.recv(room(buffer)).await?)),
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

/// An open TAP.
pub(super) struct OpenTap {
    /// Its only queue, or the first.
    pub(super) tap: PortTap,
    /// Its further ones.
    pub(super) more: Vec<PortTap>,
    /// Of the device.
    pub(super) index: u32,
}

/// What a port's TAP is to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) name: &'a str,
    pub(super) alias: &'a str,
    pub(super) mtu: u16,
    pub(super) superframes: bool,
    /// At least one. A TAP that is made without superframes has one.
    pub(super) queues: usize,
}

/// Descriptors before their device bears our mark.
enum Opened {
    /// A queue each.
    Super(File, Vec<File>),
    Plain(Tun),
}

impl Opened {
    /// Those that are held, if they still are what is wanted; else new ones.
    fn held_or_new(taps: &Shelf, wish: Wish<'_>) -> Result<Self, StepError> {
        let mut held = taps.take(wish.name).into_iter();
        let mut opened = match held.next() {
            Some(file) if wish.superframes && vtap::offload(&file).is_ok() => {
                Self::Super(file, held.collect())
            }
            first => {
                // Closed first: the kernel gives no second one.
                std::mem::drop((first, held));
                taps.remove(wish.name);
                Self::new(wish)?
            }
        };
        opened.widen(wish);
        taps.remove_from(wish.name, opened.count());
        Ok(opened)
    }

    /// With superframes, if they are wanted and the kernel has them. A single queue, or the first.
    fn new(wish: Wish<'_>) -> Result<Self, StepError> {
        if !wish.superframes {
            return Self::plain(wish.name);
        }
        let kinds = match wish.queues {
            0 | 1 => [Kind::Single, Kind::Queues],
            _ => [Kind::Queues, Kind::Single],
        };
        for kind in kinds {
            match vtap::open_as(wish.name, kind) {
                // It is there and of the other kind, or the kernel knows neither this kind nor that with virtio-net headers.
                Err((_, Errno::EINVAL)) => {}
                Err(error) => return Err(error),
                Ok(file) if vtap::offload(&file).is_ok() => {
                    return Ok(Self::Super(file, Vec::new()));
                }
                Ok(_) => break,
            }
        }
        Self::plain(wish.name)
    }

    /// As many queues as wanted, or one: all of them are spread over, or there is no second.
    fn widen(&mut self, wish: Wish<'_>) {
        let Self::Super(first, others) = self else {
            return;
        };
        others.truncate(wish.queues.saturating_sub(1));
        if wish.queues <= 1 {
            return;
        }
        // Before there is a second one, so that no flow is ever in another queue than it is to be.
        let spread = gate::spreader().and_then(|program| vtap::spread(first, &program));
        let widened = spread.and_then(|()| {
            while others.len() + 1 < wish.queues {
                others.push(vtap::open_as(wish.name, Kind::Queues)?);
            }
            Ok(())
        });
        if let Err((step, error)) = widened {
            others.clear();
            tracing::info!(
                tap = wish.name,
                "the port has one queue, not {}, until it is attached anew: {step} it: {}",
                wish.queues,
                error.desc()
            );
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Super(_, others) => others.len() + 1,
            Self::Plain(_) => 0,
        }
    }

    fn plain(name: &str) -> Result<Self, StepError> {
        let tun = Tun::builder().name(name).tap().build();
        let tun = match tun.map_err(|error| errno(&error)) {
            // One of several queues, which an earlier run made: then without superframes, and else as that was.
            Err(Errno::EINVAL) => {
                let file = vtap::open_as(name, Kind::Queues)?;
                vtap::cut(&file)?;
                return Ok(Self::Super(file, Vec::new()));
            }
            tun => tun.map_err(|error| ("open /dev/net/tun for", error))?,
        };
        let mut queues = tun.into_iter();
        Ok(Self::Plain(queues.next().ok_or(("open", Errno::ENODEV))?))
    }

    /// The device stays when its descriptor is closed, also by a `kill -9`.
    fn keep(&self) -> Result<(), StepError> {
        match self {
            Self::Super(file, _) => vtap::keep(file),
            // SAFETY: the descriptor is open and belongs to `tun`; the argument is a plain number.
            Self::Plain(tun) => unsafe { tunsetpersist(tun.as_raw_fd(), 1) }
                .map(drop)
                .map_err(|error| ("keep", error)),
        }
    }
}

/// Opens a TAP, making it if there is none, and gives it the alias; it will be waited for in `data`. The caller has checked whose
/// it is.
///
/// # Errors
/// EBUSY: somebody else has a descriptor of it.
pub(super) async fn open(
    netlink: &Netlink,
    data: &Handle,
    taps: &Shelf,
    wish: Wish<'_>,
) -> Result<OpenTap, StepError> {
    let opened = {
        let _on = data.enter();
        Opened::held_or_new(taps, wish)?
    };
    let link = netlink
        .link_by_name(wish.name.as_bytes())
        .await
        .map_err(|error| ("read", error))?
        .ok_or(("find", Errno::ENODEV))?;
    let is_of_queues = match queues(&link) {
        Some(there) if there > opened.count() => return Err(("open", Errno::EBUSY)),
        there => there.is_some(),
    };
    let mut marked = LinkMessage::default();
    marked.header.index = link.index;
    marked.attributes = vec![
        LinkAttribute::IfAlias(wish.alias.to_owned()),
        LinkAttribute::Mtu(wish.mtu.into()),
        LinkAttribute::TxQueueLen(super::QUEUE_LEN),
    ];
    netlink
        .rt
        .link()
        .set(marked)
        .execute()
        .await
        .map_err(|error| ("mark", netlink::errno(&error)))?;
    if is_of_queues && !link.is_up() {
        without_qdiscs(netlink, link.index).await;
    }
    opened.keep()?;
    let (tap, more) = match opened {
        Opened::Plain(tun) => (PortTap::Plain(tun), Vec::new()),
        Opened::Super(first, others) => {
            let _on = data.enter();
            let queue = |(number, file): (usize, File)| {
                taps.put(wish.name, number, &file);
                let tap = Vtap::new(file, link.index);
                tap.map(PortTap::Super)
                    .map_err(|_| ("wait for", Errno::EIO))
            };
            let others = others.into_iter().enumerate();
            let others = others.map(|(at, file)| (at + 1, file));
            (
                queue((0, first))?,
                others.map(queue).collect::<Result<_, _>>()?,
            )
        }
    };
    let index = link.index;
    Ok(OpenTap { tap, more, index })
}

/// How many descriptors a TAP has, ours among them; `None`: it may have but one.
fn queues(link: &Link) -> Option<usize> {
    /// Of linux/if_link.h.
    const IFLA_TUN_NUM_QUEUES: u16 = 8;
    let mut attributes = netlink::attributes(&link.data, 0);
    let (_, count) = attributes.find(|(kind, _)| *kind == IFLA_TUN_NUM_QUEUES)?;
    netlink::word(count).and_then(|count| usize::try_from(count).ok())
}

/// Has a device that was never up send without queueing disciplines. A TAP of several queues would get one for each of the 256 that
/// it might have, 6 MiB of kernel memory in all, and its frames wait in the queues that we read.
async fn without_qdiscs(netlink: &Netlink, index: u32) {
    const TC_H_ROOT: u32 = u32::MAX;
    // struct tcmsg: family 1, padding 3, index 4, handle 4, parent 4, info 4.
    let body = netlink::Body::new(0, 20)
        .set(4, &index.to_ne_bytes())
        .set(12, &TC_H_ROOT.to_ne_bytes())
        .attribute(libc::TCA_KIND, b"noqueue\0")
        .bytes();
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    if let Err(error) = netlink.change(libc::RTM_NEWQDISC, flags, body).await {
        tracing::debug!(
            index,
            error = error.desc(),
            "a TAP keeps the queueing disciplines of its queues"
        );
    }
}

fn errno(error: &tokio_tun::Error) -> Errno {
    match error {
        tokio_tun::Error::NixError(errno) => *errno,
        tokio_tun::Error::IoError(error) => {
            Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
        }
    }
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod kernel_tests;
