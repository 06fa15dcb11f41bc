//! Interfaces at which the IP stack of their namespace is to be still: nobody is answered there, and nothing is forwarded.
//!
//! ```text
//!    frames --> macvtap --> its file, if somebody has it open; else --> IP stack: still
//!    frames --> lower end of a macvlan --> macvlan; what is for all, also --> IP stack: still
//! ```
//!
//! An interface with addresses of its own answers for these, and for nothing else of the host.
//!
//! Without it the host would be a station of the overlay: it answers ARP for each of its addresses at whichever interface it is asked,
//! and takes packets to them. Owns what is set for that (linux/ip.h, Documentation/networking/ip-sysctl.rst). Where a kernel has no
//! IPv4, or no IPv6, nothing of it has to be still.

use super::device::link_body;
use super::netlink::Body;
use super::netns::{Netlink, Netns};
use nix::errno::Errno;

/// `IFLA_INET_CONF` of linux/if_link.h.
const INET_CONF: u16 = 1;
/// `IPV4_DEVCONF_*`: do not forward; take nothing whose sender is not to be reached by this interface; answer ARP for no address.
const SILENT: [(u16, u32); 3] = [(1, 0), (8, 1), (19, 8)];
/// Do not forward; take what anybody of the same segment sends; answer ARP for the interface's own addresses alone.
const OF_ITS_OWN: [(u16, u32); 3] = [(1, 0), (8, 2), (19, 1)];

fn request(index: u32, settings: &[(u16, u32)]) -> Vec<u8> {
    let conf = settings
        .iter()
        .fold(Body::attributes(), |conf, (key, value)| {
            conf.attribute(*key, &value.to_ne_bytes())
        });
    let family = u16::try_from(libc::AF_INET).unwrap_or_default();
    let inet = Body::attributes().nested(INET_CONF, conf);
    link_body(index, 0, 0)
        .nested(libc::IFLA_AF_SPEC, Body::attributes().nested(family, inet))
        .bytes()
}

/// Makes it still at interface `index`, called `name`, of the namespace.
///
/// # Errors
/// The kernel's.
pub(super) async fn still(index: u32, name: &[u8], way: (&Netns, &Netlink)) -> Result<(), Errno> {
    set(index, name, way, (&SILENT, "1")).await
}

/// Lets it answer for addresses of its own, and for those alone.
///
/// # Errors
/// The kernel's.
pub(super) async fn for_its_own(
    index: u32,
    name: &[u8],
    way: (&Netns, &Netlink),
) -> Result<(), Errno> {
    set(index, name, way, (&OF_ITS_OWN, "0")).await
}

async fn set(
    index: u32,
    name: &[u8],
    (netns, netlink): (&Netns, &Netlink),
    (settings, no_ipv6): (&[(u16, u32)], &'static str),
) -> Result<(), Errno> {
    let body = request(index, settings);
    match netlink.change(libc::RTM_NEWLINK, 0, body).await {
        Ok(()) | Err(Errno::EAFNOSUPPORT) => {}
        Err(error) => return Err(error),
    }
    // Two names stand for all interfaces there.
    if let Ok(name) = std::str::from_utf8(name)
        && !matches!(name, "all" | "default")
    {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        // Where that is not to be written there are no addresses of ours all the same, and so nobody to answer for.
        let _ = netns.inside(move || std::fs::write(path, no_ipv6)).await;
    }
    Ok(())
}
