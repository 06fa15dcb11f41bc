//! The VRF of a port's namespace that its interface is put into (Documentation/networking/vrf.rst).
//!
//! Owns the entering. Refuses to make VRFs: whose namespace it is knows its tables.

use super::failure::{Failure, failure, refused, refused_rt};
use super::netlink::{self, Link};
use super::netns::{Netlink, Netns};
use super::port::change;
use meshd_core::code::ErrorCode;
use meshd_core::command::PortWiring;
use meshd_core::ident::escape;
use netlink_packet_route::link::LinkAttribute;

/// `IFLA_VRF_TABLE` of linux/if_link.h.
const TABLE: u16 = 1;

/// Puts the far end of a port into its VRF, if it has one and is not in it; answers the VRF's table.
pub(super) async fn enter(
    wiring: &PortWiring,
    link: &Link,
    (netns, far): (&Netns, &Netlink),
) -> Result<Option<u32>, Failure> {
    let Some(name) = &wiring.port.vrf else {
        return Ok(None);
    };
    let found = far.link_by_name(name.as_bytes()).await;
    let vrf = found.map_err(refused("read", name, netns))?;
    let vrf = vrf.ok_or_else(|| {
        failure(ErrorCode::InterfaceMissing, format!(
            "there is no VRF \"{name}\" in {}; make it first (`ip link add {name} type vrf table 10`)",
            netns.shown()
        ))
    })?;
    let table = netlink::attributes(&vrf.data, 0)
        .find(|(kind, _)| *kind == TABLE)
        .and_then(|(_, value)| Some(u32::from_ne_bytes(*value.first_chunk()?)));
    let Some(table) = table.filter(|_| vrf.kind == b"vrf") else {
        return Err(failure(
            ErrorCode::InterfaceMissing,
            format!(
                "\"{name}\" in {} is no VRF; name one, or leave out --vrf",
                netns.shown()
            ),
        ));
    };
    if link.master != Some(vrf.index) {
        let shown = format!("{} into VRF {name}", escape(&link.name));
        let set = change(link.index, vec![LinkAttribute::Controller(vrf.index)]);
        let done = far.rt.link().set(set).execute().await;
        done.map_err(refused_rt("put", &shown, netns))?;
    }
    Ok(Some(table))
}
