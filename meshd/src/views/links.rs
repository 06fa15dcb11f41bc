//! What `meshd doctor` says of the underlay links of this node.

use meshd_core::diagnosis::{Finding, fail, warn, well};
use meshd_core::node::Node;
use meshd_core::steering::WayId;
use meshd_core::view::Check;
use std::io::ErrorKind;
use std::net::UdpSocket;

/// One check for each link: does this host have its address, and some peer a link of its name?
pub(super) fn checks(node: &Node) -> Vec<Check> {
    let peers = node.mesh().peers();
    let with: Vec<_> = peers
        .iter()
        .flat_map(|peer| node.mesh().links_with(peer.node))
        .collect();
    let all = node.mesh().links().iter().enumerate();
    all.filter_map(|(nth, link)| {
        let way = WayId::link(nth)?;
        let common = with.iter().filter(|other| other.way == way);
        let up = common.clone().filter(|other| other.session.is_some());
        let (up, common) = (up.count(), common.count());
        let ip = link.address.ip();
        // Any port will do: it is about the address.
        let absent = UdpSocket::bind((ip, 0))
            .is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable);
        let name = format!("underlay link {}", link.name);
        Some(if absent {
            let advice = "give the host the address, or correct `address` under [[underlay.link]]";
            let found = format!("this host does not have the address {ip}");
            fail(Finding::LinkAddress, name, found, advice)
        } else if common == 0 && !peers.is_empty() {
            let advice = "declare a link of the same name under [[underlay.link]] on other nodes";
            warn(Finding::LinkAlone, name, "no peer has a link of this name", advice)
        } else if up < common {
            let advice = "see `meshd paths`; is UDP open between these uplinks, and does the reply leave by the same one?";
            let found = format!("connected to {up} of {common} peers that have it");
            warn(Finding::LinkDown, name, found, advice)
        } else {
            let found = format!("at {}, connected to all {common} peers that have it", link.address);
            well(name, found)
        })
    })
    .collect()
}
