//! The far end of a port under another name than the port's.
//!
//! Owns the way back. Refuses to take the name from another interface that has it by now.

use super::device::link_body;
use super::failure::{Failure, failure, refused};
use super::netlink::Link;
use super::netns::{Netlink, Netns};
use meshd_core::code::ErrorCode;
use meshd_core::command::{NetnsRef, PortRecord};
use meshd_core::ident::escape;

/// Gives the interface its name again; what was done, if anything was. It is down then: the kernel renames nothing else.
///
/// # Errors
/// If another interface has the name, or the kernel refuses.
pub(super) async fn give_back(
    port: &PortRecord,
    link: &Link,
    (netns, far): (&Netns, &Netlink),
) -> Result<Option<String>, Failure> {
    let wanted = port.ifname.as_bytes();
    // What an engine takes from us it names as it likes.
    if link.name == wanted || port.netns == NetnsRef::Handed {
        return Ok(None);
    }
    let name = escape(&link.name);
    let read = refused("look for", &port.ifname, netns);
    if far.link_by_name(wanted).await.map_err(read)?.is_some() {
        return Err(failure(
            ErrorCode::InterfaceExists,
            format!(
                "its interface was renamed to \"{name}\", and \"{}\" is another's in {} now: rename or remove that one",
                port.ifname,
                netns.shown()
            ),
        ));
    }
    let step = format!("name \"{}\" again", port.ifname);
    let refused = refused(&step, &name, netns);
    let down = link_body(link.index, 0, libc::IFF_UP);
    let done = far.change(libc::RTM_NEWLINK, 0, down.bytes()).await;
    done.map_err(&refused)?;
    let body = link_body(link.index, 0, 0);
    let body = body.attribute(libc::IFLA_IFNAME, &[wanted, b"\0"].concat());
    let done = far.change(libc::RTM_NEWLINK, 0, body.bytes()).await;
    done.map_err(&refused)?;
    Ok(Some(format!("it was renamed to {name}")))
}
