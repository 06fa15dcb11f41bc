//! Host devices as attributes of rtnetlink: what each kind is set to, written and read back.
//!
//! Owns the numbers of linux/if_link.h and linux/if_bonding.h. What a device has that we never set is not looked at.

use super::super::macvlan;
use super::super::netlink::{self, Body, Link};
use meshd_core::devices::{
    Bond, BondHash, BondMode, Bridge, LacpRate, LacpSelect, Macvlan, Monitor, Shape, Vlan,
    VlanProtocol,
};
use meshd_core::ident::IfName;
use meshd_core::kind::MacvlanMode;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// `IFLA_BOND_*`.
mod bond {
    pub(super) const MODE: u16 = 1;
    pub(super) const ACTIVE: u16 = 2;
    pub(super) const MIIMON: u16 = 3;
    pub(super) const UP_DELAY: u16 = 4;
    pub(super) const DOWN_DELAY: u16 = 5;
    pub(super) const ARP_INTERVAL: u16 = 7;
    pub(super) const ARP_TARGETS: u16 = 8;
    pub(super) const PRIMARY: u16 = 11;
    pub(super) const HASH: u16 = 14;
    pub(super) const MIN_LINKS: u16 = 18;
    pub(super) const LACP_RATE: u16 = 21;
    pub(super) const LACP_SELECT: u16 = 22;
}

/// `IFLA_VLAN_*`.
mod vlan {
    pub(super) const ID: u16 = 1;
    pub(super) const PROTOCOL: u16 = 5;
}

/// `IFLA_BR_*`.
mod bridge {
    pub(super) const STP: u16 = 5;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const VLAN_FILTERING: u16 = 7;
    pub(super) const MCAST_SNOOPING: u16 = 23;
    pub(super) const MCAST_QUERIER: u16 = 25;
}

/// The kernel's word for the kind of a shape.
pub(super) fn kind(shape: &Shape) -> &'static str {
    shape.word()
}

/// The attributes with which a device of this shape is made. Filtering of VLANs is set by itself: a kernel may lack it.
pub(super) fn data(shape: &Shape) -> Body {
    let body = Body::attributes();
    match shape {
        Shape::Dummy | Shape::Adopted => body,
        Shape::Bond(bond) => bond_data(bond),
        Shape::Vlan(vlan) => body
            .attribute(vlan::ID, &vlan.id.to_ne_bytes())
            .attribute(vlan::PROTOCOL, &vlan.protocol.ethertype().to_be_bytes()),
        Shape::Bridge(bridge) => bridge_data(bridge),
        Shape::Macvlan(it) => macvlan::settings(it.mode, &it.sources),
        Shape::Shim(_) => macvlan::settings(MacvlanMode::Bridge, &BTreeSet::new()),
    }
}

fn number<T: PartialEq>(all: &[T], one: &T) -> u8 {
    let at = all.iter().position(|other| other == one);
    at.and_then(|at| u8::try_from(at).ok()).unwrap_or_default()
}

fn bond_data(bond: &Bond) -> Body {
    let mut body = Body::attributes().attribute(bond::MODE, &[number(&BondMode::ALL, &bond.mode)]);
    match &bond.monitor {
        Monitor::Mii {
            every_ms,
            up_ms,
            down_ms,
        } => {
            body = body.attribute(bond::MIIMON, &every_ms.to_ne_bytes());
            // Without looks the kernel takes no delays.
            for (kind, ms) in [(bond::UP_DELAY, up_ms), (bond::DOWN_DELAY, down_ms)] {
                if *ms != 0 {
                    body = body.attribute(kind, &ms.to_ne_bytes());
                }
            }
        }
        Monitor::Arp { every_ms, targets } => {
            let list = (0u16..).zip(targets);
            let list = list.fold(Body::attributes(), |list, (nth, target)| {
                list.attribute(nth, &target.octets())
            });
            body = body
                .attribute(bond::ARP_INTERVAL, &every_ms.to_ne_bytes())
                .nested(bond::ARP_TARGETS, list);
        }
    }
    if bond.mode.hashes() {
        body = body.attribute(bond::HASH, &[number(&BondHash::ALL, &bond.hash)]);
    }
    if bond.mode == BondMode::Lacp {
        body = body
            .attribute(
                bond::LACP_RATE,
                &[u8::from(bond.lacp_rate == LacpRate::Fast)],
            )
            .attribute(bond::LACP_SELECT, &[number(&SELECTS, &bond.lacp_select)])
            .attribute(bond::MIN_LINKS, &bond.min_links.to_ne_bytes());
    }
    body
}

/// In the order of the kernel's numbers (`BOND_AD_*`).
const SELECTS: [LacpSelect; 3] = [LacpSelect::Stable, LacpSelect::Bandwidth, LacpSelect::Count];

/// All of a bridge's settings but the filtering of VLANs.
pub(super) fn bridge_data(bridge: &Bridge) -> Body {
    Body::attributes()
        .attribute(bridge::STP, &u32::from(bridge.stp).to_ne_bytes())
        .attribute(bridge::PRIORITY, &bridge.priority.to_ne_bytes())
        .attribute(
            bridge::MCAST_SNOOPING,
            &[u8::from(bridge.multicast_snooping)],
        )
        .attribute(bridge::MCAST_QUERIER, &[u8::from(bridge.multicast_querier)])
}

/// Whether a bridge keeps VLANs apart.
pub(super) fn filtering_data(is_on: bool) -> Body {
    Body::attributes().attribute(bridge::VLAN_FILTERING, &[u8::from(is_on)])
}

/// The member that a bond prefers; 0: none.
pub(super) fn primary_data(index: u32) -> Body {
    Body::attributes().attribute(bond::PRIMARY, &index.to_ne_bytes())
}

/// The members that a bond prefers, and that it sends by, by number.
pub(super) fn bond_members(link: &Link) -> (Option<u32>, Option<u32>) {
    let find = |wanted| {
        let found = netlink::attributes(&link.data, 0).find(|(kind, _)| *kind == wanted);
        found
            .and_then(|(_, value)| netlink::word(value))
            .filter(|index| *index != 0)
    };
    if link.kind == b"bond" {
        (find(bond::PRIMARY), find(bond::ACTIVE))
    } else {
        (None, None)
    }
}

/// The shape of a device, if it is one of ours. `parent`: the name of what it stands upon.
pub(super) fn read(link: &Link, parent: Option<&IfName>) -> Option<Shape> {
    match link.kind.as_slice() {
        b"dummy" => Some(Shape::Dummy),
        b"bond" => read_bond(&link.data).map(Shape::Bond),
        b"vlan" => read_vlan(&link.data, parent?).map(Shape::Vlan),
        b"bridge" => Some(Shape::Bridge(read_bridge(&link.data))),
        b"macvlan" | b"macvtap" => {
            let (mode, sources) = macvlan::read_settings(&link.data)?;
            Some(Shape::Macvlan(Macvlan {
                parent: parent?.clone(),
                mode,
                sources,
                tap: link.kind == b"macvtap",
            }))
        }
        _ => None,
    }
}

fn read_bond(data: &[u8]) -> Option<Bond> {
    let (mut mode, mut hash, mut fast, mut select) = (0usize, 0usize, false, 0usize);
    let (mut mii, mut up_ms, mut down_ms, mut arp, mut min_links) = (0, 0, 0, 0, 0);
    let mut targets = Vec::new();
    for (kind, value) in netlink::attributes(data, 0) {
        let byte = usize::from(value.first().copied().unwrap_or_default());
        let word = netlink::word(value).unwrap_or_default();
        match kind {
            bond::MODE => mode = byte,
            bond::MIIMON => mii = word,
            bond::UP_DELAY => up_ms = word,
            bond::DOWN_DELAY => down_ms = word,
            bond::ARP_INTERVAL => arp = word,
            bond::ARP_TARGETS => {
                let each = netlink::attributes(value, 0);
                targets.extend(each.filter_map(|(_, ip)| {
                    ip.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
                }));
            }
            bond::HASH => hash = byte,
            bond::MIN_LINKS => min_links = word,
            bond::LACP_RATE => fast = byte == 1,
            bond::LACP_SELECT => select = byte,
            _ => {}
        }
    }
    let mode = *BondMode::ALL.get(mode)?;
    let is_lacp = mode == BondMode::Lacp;
    Some(Bond {
        mode,
        monitor: match arp {
            0 => Monitor::Mii {
                every_ms: mii,
                up_ms,
                down_ms,
            },
            every_ms => Monitor::Arp { every_ms, targets },
        },
        // What the mode does not use reads as whatever it was.
        hash: if mode.hashes() {
            *BondHash::ALL.get(hash)?
        } else {
            BondHash::default()
        },
        lacp_rate: if is_lacp && fast {
            LacpRate::Fast
        } else {
            LacpRate::Slow
        },
        lacp_select: if is_lacp {
            *SELECTS.get(select)?
        } else {
            LacpSelect::default()
        },
        min_links: if is_lacp { min_links } else { 0 },
    })
}

/// The number of a VLAN, of what the kernel says of the device.
pub(in super::super) fn vlan_id(data: &[u8]) -> Option<u16> {
    let mut all = netlink::attributes(data, 0);
    let (_, value) = all.find(|(kind, _)| *kind == vlan::ID)?;
    netlink::half(value)
}

fn read_vlan(data: &[u8], parent: &IfName) -> Option<Vlan> {
    let (mut id, mut protocol) = (None, VlanProtocol::Customer);
    for (kind, value) in netlink::attributes(data, 0) {
        match kind {
            vlan::ID => id = netlink::half(value),
            vlan::PROTOCOL => {
                let ethertype = netlink::half(value).map(u16::from_be);
                protocol = [VlanProtocol::Customer, VlanProtocol::Provider]
                    .into_iter()
                    .find(|known| Some(known.ethertype()) == ethertype)?;
            }
            _ => {}
        }
    }
    Some(Vlan {
        parent: parent.clone(),
        id: id?,
        protocol,
    })
}

/// What a kernel does not have reads as our default, so that nobody tries to set it.
fn read_bridge(data: &[u8]) -> Bridge {
    let mut bridge = Bridge::default();
    for (kind, value) in netlink::attributes(data, 0) {
        let is_on = value.iter().any(|&byte| byte != 0);
        match kind {
            bridge::STP => bridge.stp = is_on,
            bridge::PRIORITY => bridge.priority = netlink::half(value).unwrap_or_default(),
            bridge::MCAST_SNOOPING => bridge.multicast_snooping = is_on,
            bridge::MCAST_QUERIER => bridge.multicast_querier = is_on,
            bridge::VLAN_FILTERING => bridge.vlan_filtering = is_on,
            _ => {}
        }
    }
    bridge
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::ident::MacAddr;
    use proptest::prelude::*;

    fn any_bond() -> impl Strategy<Value = Bond> {
        let monitor = prop_oneof![
            (1u32..1000, 0u32..1000, 0u32..1000).prop_map(|(every_ms, up_ms, down_ms)| {
                Monitor::Mii {
                    every_ms,
                    up_ms,
                    down_ms,
                }
            }),
            (
                1u32..1000,
                prop::collection::vec(any::<[u8; 4]>().prop_map(Ipv4Addr::from), 1..4)
            )
                .prop_map(|(every_ms, targets)| Monitor::Arp { every_ms, targets }),
        ];
        let mode = prop::sample::select(&BondMode::ALL[..]);
        let hash = prop::sample::select(&BondHash::ALL[..]);
        let select = prop::sample::select(&SELECTS[..]);
        (mode, monitor, hash, any::<bool>(), select, 0u32..9).prop_map(
            |(mode, monitor, hash, fast, select, min_links)| {
                let is_lacp = mode == BondMode::Lacp;
                Bond {
                    mode,
                    monitor,
                    hash: if mode.hashes() {
                        hash
                    } else {
                        BondHash::Layer2
                    },
                    lacp_rate: if is_lacp && fast {
                        LacpRate::Fast
                    } else {
                        LacpRate::Slow
                    },
                    lacp_select: if is_lacp { select } else { LacpSelect::Stable },
                    min_links: if is_lacp { min_links } else { 0 },
                }
            },
        )
    }

    fn link(shape: &Shape) -> Link {
        Link {
            kind: kind(shape).as_bytes().to_vec(),
            data: data(shape).bytes(),
            ..Link::default()
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bond in any_bond(), id in 1u16..4095, provider in any::<bool>(), flags in any::<[bool; 4]>(), priority: u16, mode in prop::sample::select(&MacvlanMode::ALL[..]), macs in prop::collection::btree_set(any::<[u8; 6]>().prop_map(MacAddr), 0..4)) {
            let parent = IfName::new(b"eth0").unwrap();
            let protocol = if provider { VlanProtocol::Provider } else { VlanProtocol::Customer };
            let bridge = Bridge { stp: flags[0], priority, multicast_snooping: flags[1], multicast_querier: flags[2], vlan_filtering: false };
            for shape in [
                Shape::Dummy,
                Shape::Bond(bond),
                Shape::Vlan(Vlan { parent: parent.clone(), id, protocol }),
                Shape::Bridge(bridge),
                Shape::Macvlan(Macvlan {
                    parent: parent.clone(),
                    mode,
                    sources: if mode == MacvlanMode::Source { macs } else { BTreeSet::new() },
                    tap: flags[3],
                }),
            ] {
                prop_assert_eq!(read(&link(&shape), Some(&parent)), Some(shape));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            for kind in ["dummy", "bond", "vlan", "bridge", "macvlan", "macvtap"] {
                let link = Link { kind: kind.as_bytes().to_vec(), data: bytes.clone(), ..Link::default() };
                let _ = (read(&link, Some(&IfName::new(b"eth0").unwrap())), bond_members(&link));
            }
        }
    }
}
