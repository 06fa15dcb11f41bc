//! The TAP of a port: how frames reach the daemon.
//!
//! Owns its opening, by tokio-tun. It is made persistent only after it bears our mark, so that a daemon that dies in
//! between leaves nothing that nobody owns.
#![allow(unsafe_code)] // One ioctl that tokio-tun offers only at the opening.

use super::netlink;
use super::netns::Netlink;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nix::errno::Errno;
use std::os::fd::AsRawFd;
use tokio_tun::Tun;

nix::ioctl_write_int!(
    /// TUNSETPERSIST of linux/if_tun.h: 1 keeps the device when its last descriptor is closed.
    tunsetpersist,
    b'T',
    203
);

/// A step of the opening, and the kernel's answer to it.
pub type StepError = (&'static str, Errno);

/// Opens the TAP `name`, making it if there is none, and gives it the alias. The caller has checked whose it is.
///
/// # Errors
/// EBUSY: another descriptor is open on it.
pub(super) async fn open(
    netlink: &Netlink,
    name: &str,
    alias: &str,
    mtu: u16,
) -> Result<(Tun, u32), StepError> {
    let tun = Tun::builder().name(name).tap().mtu(i32::from(mtu)).build();
    let tun = tun
        .map_err(|error| ("open /dev/net/tun for", errno(&error)))?
        .pop()
        .ok_or(("open", Errno::ENODEV))?;
    let link = netlink
        .link_by_name(name.as_bytes())
        .await
        .map_err(|error| ("read", error))?
        .ok_or(("find", Errno::ENODEV))?;
    let mut marked = LinkMessage::default();
    marked.header.index = link.index;
    marked.attributes = vec![
        LinkAttribute::IfAlias(alias.to_owned()),
        LinkAttribute::TxQueueLen(super::QUEUE_LEN),
    ];
    netlink
        .rt
        .link()
        .set(marked)
        .execute()
        .await
        .map_err(|error| ("mark", netlink::errno(&error)))?;
    // SAFETY: the descriptor is open and belongs to `tun`; the argument is a plain number.
    unsafe { tunsetpersist(tun.as_raw_fd(), 1) }.map_err(|error| ("keep", error))?;
    Ok((tun, link.index))
}

fn errno(error: &tokio_tun::Error) -> Errno {
    match error {
        tokio_tun::Error::NixError(errno) => *errno,
        tokio_tun::Error::IoError(error) => {
            Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
        }
    }
}
