//! Routes of this host, as the kernel would take them now.

use super::inventory::Inventory;
use super::netns::Netlink;
use super::{addresses, monitor, netlink};
use std::io;
use std::net::IpAddr;

/// Where a packet would leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFound {
    /// The name of the device, as the kernel has it.
    pub device: Vec<u8>,
    /// It is a device of a mesh, or leads into one.
    pub overlay: bool,
}

/// By which device a packet to each would leave that bears the address beside it, in their order. `None`: by none. Needs no rights
/// and no daemon.
///
/// # Errors
/// If netlink cannot be opened or read.
pub async fn routes_to(wanted: &[(IpAddr, Option<IpAddr>)]) -> io::Result<Vec<Option<RouteFound>>> {
    let netlink = Netlink::here()?;
    let host = monitor::host(&netlink, &Inventory::default()).await?;
    let overlay = addresses::overlay(&host);
    let mut found = Vec::with_capacity(wanted.len());
    for (remote, from) in wanted {
        // No route is an answer too.
        let answer = netlink.ask(libc::RTM_GETROUTE, false, question(*remote, *from));
        let answer = answer.await.unwrap_or_default();
        let index = answer.first().and_then(|body| {
            let mut attributes = netlink::attributes(body, 12);
            let (_, value) = attributes.find(|(kind, _)| *kind == libc::RTA_OIF)?;
            netlink::word(value)
        });
        let link = host.links.iter().find(|link| Some(link.index) == index);
        found.push(link.map(|link| RouteFound {
            device: link.name.clone(),
            overlay: overlay.contains(&link.index),
        }));
    }
    Ok(found)
}

/// `struct rtmsg` (family, then the lengths of both prefixes, in bits) and addresses.
fn question(remote: IpAddr, from: Option<IpAddr>) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (family, bits) = match remote {
        IpAddr::V4(_) => (libc::AF_INET, 32u8),
        IpAddr::V6(_) => (libc::AF_INET6, 128),
    };
    let body = netlink::Body::new(u8::try_from(family).unwrap_or(0), 12)
        .set(1, &[bits])
        .attribute(libc::RTA_DST, &octets(remote));
    match from.filter(|from| from.is_ipv4() == remote.is_ipv4()) {
        Some(from) => body
            .set(2, &[bits])
            .attribute(libc::RTA_SRC, &octets(from))
            .bytes(),
        None => body.bytes(),
    }
}
