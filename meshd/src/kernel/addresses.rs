//! Which addresses of this host are offered to other nodes as a way to it.
//!
//! Owns the choice and the order, as a pure function; the monitor reads and asks. Never offers an address of the overlay:
//! neither of a device that bears a mark of meshd, whichever daemon's, nor of the far end of one that lies in the same
//! namespace (`attach --netns self`). What travels over the mesh cannot carry it.

use super::marks;
use super::netlink::{Address, Link};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// More are not offered: each is dialed by every node that looks for this one.
const OFFERED_MAX: usize = 16;
/// `RT_SCOPE_UNIVERSE` of linux/rtnetlink.h.
const SCOPE_UNIVERSE: u8 = 0;
/// `RT_SCOPE_SITE`.
const SCOPE_SITE: u8 = 200;

/// What the choice looks at.
pub(super) struct Host {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    /// What the kernel would send from towards the world, by family.
    pub(super) preferred: Vec<IpAddr>,
    /// Devices of meshd itself.
    pub(super) own: BTreeSet<u32>,
}

/// The addresses to offer, most likely first: those that face the default routes, then others, then those of bridges
/// that container engines make, which exist with the same address on many hosts.
pub(super) fn offered(host: &Host, underlay: SocketAddr) -> Vec<SocketAddr> {
    if !underlay.ip().is_unspecified() {
        return vec![underlay];
    }
    let overlay = overlay(host);
    let mut ranked: Vec<_> = host
        .addresses
        .iter()
        .filter(|address| !overlay.contains(&address.index))
        .filter_map(|address| Some((rank(host, address, underlay)?, address.ip)))
        .collect();
    ranked.sort();
    ranked.dedup_by_key(|(_, ip)| *ip);
    ranked
        .into_iter()
        .take(OFFERED_MAX)
        .map(|(_, ip)| SocketAddr::new(ip, underlay.port()))
        .collect()
}

/// Devices of the overlay: ours, those with a mark, and the far ends of both that are in this namespace.
pub(super) fn overlay(host: &Host) -> BTreeSet<u32> {
    let mut devices = host.own.clone();
    for link in &host.links {
        if marks::is_of_overlay(link) || host.own.contains(&link.index) {
            devices.insert(link.index);
            if link.kind == b"veth" && link.peer_netns.is_none() {
                devices.extend(link.peer);
            }
        }
    }
    devices
}

/// Less is better; `None`: not to be offered.
fn rank(
    host: &Host,
    address: &Address,
    underlay: SocketAddr,
) -> Option<(bool, bool, bool, bool, u32)> {
    let link = host.links.iter().find(|link| link.index == address.index)?;
    let usable = link.is_up() && link.flags & libc::IFF_LOOPBACK.cast_unsigned() == 0;
    let settled = address.flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) == 0;
    let scope = matches!(address.scope, SCOPE_UNIVERSE | SCOPE_SITE);
    if !(usable && settled && scope && is_unicast(address.ip) && reaches(underlay, address.ip)) {
        return None;
    }
    let bridge = is_container_bridge(link);
    let fleeting = address.flags & (libc::IFA_F_DEPRECATED | libc::IFA_F_TEMPORARY) != 0;
    Some((
        bridge,
        fleeting,
        !host.preferred.contains(&address.ip),
        address.ip.is_ipv6(),
        address.index,
    ))
}

fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
                || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.is_unspecified())
        }
    }
}

/// A socket bound to `0.0.0.0` hears no IPv6; one bound to `::` hears both.
fn reaches(underlay: SocketAddr, ip: IpAddr) -> bool {
    underlay.is_ipv6() || ip.is_ipv4()
}

fn is_container_bridge(link: &Link) -> bool {
    const PREFIXES: [&[u8]; 6] = [b"docker", b"br-", b"cni", b"podman", b"virbr", b"lxc"];
    link.kind == b"bridge" && PREFIXES.iter().any(|prefix| link.name.starts_with(prefix))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str, flags: libc::c_int) -> Link {
        Link {
            index,
            name: name.as_bytes().to_vec(),
            kind: kind.as_bytes().to_vec(),
            flags: flags.cast_unsigned(),
            ..Link::default()
        }
    }

    fn address(index: u32, ip: &str) -> Address {
        Address {
            index,
            ip: ip.parse().unwrap(),
            prefix: 24,
            scope: SCOPE_UNIVERSE,
            flags: 0,
            proto: 0,
        }
    }

    fn host() -> Host {
        let up = libc::IFF_UP;
        Host {
            links: vec![
                link(1, "lo", "", up | libc::IFF_LOOPBACK),
                link(2, "docker0", "bridge", up),
                link(3, "eth1", "", up),
                link(4, "eth0", "", up),
                link(5, "mt1", "tun", up),
                link(6, "down0", "", 0),
            ],
            addresses: vec![
                address(1, "127.0.0.1"),
                address(2, "172.17.0.1"),
                address(3, "10.9.0.1"),
                address(4, "fe80::1"),
                address(4, "2001:db8::4"),
                address(4, "192.0.2.4"),
                address(5, "10.77.0.1"),
                address(6, "10.78.0.1"),
            ],
            preferred: vec!["192.0.2.4".parse().unwrap()],
            own: BTreeSet::from([5]),
        }
    }

    #[test]
    fn addresses_towards_the_world_come_first_and_container_bridges_last() {
        let texts: Vec<_> = offered(&host(), "[::]:7650".parse().unwrap())
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "192.0.2.4:7650",
                "10.9.0.1:7650",
                "[2001:db8::4]:7650",
                "172.17.0.1:7650"
            ]
        );
    }

    #[test]
    fn an_address_of_the_overlay_is_never_offered_whichever_daemon_made_it() {
        let veth = |index, name, alias: &str, peer, peer_netns| Link {
            alias: alias.as_bytes().to_vec(),
            peer: Some(peer),
            peer_netns,
            ..link(index, name, "veth", libc::IFF_UP)
        };
        let mut host = Host {
            links: vec![
                // Far ends beside their host ends: of ours, of another daemon's, and of one that nobody has marked yet.
                veth(10, "mv1", "meshd:aaaaaaaa:bbbbbbbb:1", 11, None),
                veth(11, "lan0", "", 10, None),
                veth(12, "mv7", "meshd:cccccccc:dddddddd:7", 13, None),
                veth(13, "lan1", "", 12, None),
                veth(14, "mv2", "", 15, None),
                veth(15, "lan2", "", 14, None),
                // A container's far end has the number of a device of this namespace in its own.
                veth(16, "mv3", "meshd:aaaaaaaa:bbbbbbbb:3", 18, Some(0)),
                // This host is a container itself: its veth has no mark.
                veth(18, "eth0", "", 16, Some(1)),
            ],
            addresses: [11, 13, 15, 18]
                .map(|index| address(index, &format!("10.0.0.{index}")))
                .to_vec(),
            preferred: Vec::new(),
            own: BTreeSet::from([10, 14, 16]),
        };
        let only = ["10.0.0.18:1".parse().unwrap()];
        assert_eq!(offered(&host, "[::]:1".parse().unwrap()), only);
        // The doctor knows no device of ours by number.
        host.own.clear();
        host.links.retain(|link| link.index != 15);
        assert_eq!(offered(&host, "[::]:1".parse().unwrap()), only);
    }

    #[test]
    fn an_endpoint_on_one_address_offers_only_that() {
        let only = "10.9.0.1:1".parse().unwrap();
        assert_eq!(offered(&host(), only), [only]);
    }

    #[test]
    fn an_ipv4_endpoint_offers_no_ipv6() {
        assert!(
            offered(&host(), "0.0.0.0:1".parse().unwrap())
                .iter()
                .all(SocketAddr::is_ipv4)
        );
    }
}
