//! Shims: how the host itself reaches the macvlans on one of its devices.
//!
//! ```text
//!   host: 192.0.2.1 on eth1          web (macvlan on eth1, in a namespace): 192.0.2.9
//!      \-- 192.0.2.9/32 dev shim src 192.0.2.1 --> shim (macvlan on eth1) --/     never by eth1: the kernel hands nothing
//!                                                                                between a device and the macvlans on it
//! ```
//!
//! A shim has no address of its own. It answers for those of the host, and only to stations that the host reaches by it: so the LAN
//! finds the host by its card as before. (IPv4: `arp_filter`; IPv6: as a proxy without the override flag, RFC 4861 §7.2.8, which
//! loses against the card's own answer.)
//!
//! Owns which shims there are, and which routes. One is there as long as a station with a known address is on the device.

use super::{Scene, Shape, Wish, Wishes};
use crate::ident::IfName;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An address that the host reaches by a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// The station's.
    pub to: IpAddr,
    /// The host's, from which it is spoken to; `None`: as the kernel chooses.
    pub src: Option<IpAddr>,
}

/// The wishes, and a shim for each device that carries stations which the host is to reach, as `scene` has them now.
#[must_use]
pub fn with_shims(scene: &Scene, wishes: &Wishes) -> Wishes {
    let mut found: BTreeMap<&IfName, BTreeSet<IpAddr>> = BTreeMap::new();
    for (name, wish) in wishes.iter().filter(|(_, wish)| wish.shim) {
        let (Some(parent), Some(seen)) = (wish.shape.parent(), scene.get(name)) else {
            continue;
        };
        // What is not there yet, or has another shape, is found in the next round.
        if !seen.ours
            || !seen.up
            || seen.place != wish.place
            || seen.shape.as_ref() != Some(&wish.shape)
        {
            continue;
        }
        // Its routes are in another table than the host's.
        let master = scene.get(parent).and_then(|parent| parent.master.as_ref());
        if master
            .and_then(|master| scene.get(master))
            .is_some_and(|master| master.kind == "vrf")
        {
            continue;
        }
        let own = seen.addresses.keys().map(ipnet::IpNet::addr);
        let own = own.filter(|_| seen.place.is_some());
        found
            .entry(parent)
            .or_default()
            .extend(own.chain(wish.reach.iter().copied()));
    }
    let mut all = wishes.clone();
    for (parent, stations) in found
        .into_iter()
        .filter(|(_, stations)| !stations.is_empty())
    {
        all.entry(shim_name(parent))
            .or_insert_with(|| shim(scene, parent, &stations));
    }
    all
}

fn shim(scene: &Scene, parent: &IfName, stations: &BTreeSet<IpAddr>) -> Wish {
    let hosts = scene.get(parent).map(|seen| &seen.addresses);
    let hosts = || hosts.into_iter().flat_map(|all| all.keys());
    let route = |&to: &IpAddr| {
        let fitting = || hosts().filter(|host| host.addr().is_ipv4() == to.is_ipv4());
        let nearest = fitting().find(|host| host.contains(&to));
        HostRoute {
            to,
            src: nearest.or(fitting().next()).map(ipnet::IpNet::addr),
        }
    };
    let is_own = |to: &&IpAddr| hosts().any(|host| host.addr() == **to);
    let routes: BTreeSet<HostRoute> = stations
        .iter()
        .filter(|to| !is_own(to))
        .map(route)
        .collect();
    let speaks_v6 = routes.iter().any(|route| route.to.is_ipv6());
    let proxies = hosts()
        .filter(|_| speaks_v6)
        .filter_map(|host| match host.addr() {
            IpAddr::V6(ip) => Some(ip),
            IpAddr::V4(_) => None,
        });
    Wish {
        proxies: proxies.collect(),
        routes,
        ..Wish::of(Shape::Shim(parent.clone()))
    }
}

/// The name of the shim on a device. Of two long names that begin alike it is not the same.
#[must_use]
pub fn shim_name(parent: &IfName) -> IfName {
    let bytes = parent.as_bytes();
    let whole = [b"ms-", bytes].concat();
    // FNV-1a, 32 bit.
    let digest = bytes.iter().fold(0x811c_9dc5u32, |digest, &byte| {
        (digest ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let short = format!("ms-{digest:08x}");
    IfName::new(&whole)
        .or_else(|_| IfName::new(short.as_bytes()))
        .unwrap_or_else(|_| parent.clone())
}
