//! What host devices need of the kernel, tried.

use super::super::netlink::Body;
use super::super::netns::Netlink;
use super::{info, shapes};
use meshd_core::devices::{
    Bond, BondHash, BondMode, Bridge, LacpRate, LacpSelect, Macvlan, Monitor, Shape, Vlan,
    VlanProtocol,
};
use meshd_core::ident::IfName;
use meshd_core::kind::MacvlanMode;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use std::collections::BTreeSet;

/// Tries, in the caller's namespace, which is thrown away, what host devices need: the kernel's word for it, the option that it
/// is built with, and what came of it.
pub(in super::super) async fn try_here(
    netlink: &Netlink,
) -> Vec<(&'static str, &'static str, Result<(), String>)> {
    let make = async |name: &str, shape: &Shape| {
        let kind = Body::attributes()
            .attribute(libc::IFLA_INFO_KIND, shapes::kind(shape).as_bytes())
            .nested(libc::IFLA_INFO_DATA, shapes::data(shape));
        let mut body =
            Body::new(0, 16).attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        if shape.parent().is_some() {
            let parent = netlink.link_by_name(b"trial0").await.ok().flatten();
            let parent = parent.ok_or("not tried, since veth is missing")?;
            body = body.attribute(libc::IFLA_LINK, &parent.index.to_ne_bytes());
        }
        let body = body.nested(libc::IFLA_LINKINFO, kind).bytes();
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let made = netlink.change(libc::RTM_NEWLINK, flags, body).await;
        made.map_err(|error| error.desc().to_owned())
    };
    let Ok(parent) = IfName::new(b"trial0") else {
        return Vec::new();
    };
    let bond = Shape::Bond(Bond {
        mode: BondMode::ActiveBackup,
        monitor: Monitor::Mii {
            every_ms: 100,
            up_ms: 0,
            down_ms: 0,
        },
        hash: BondHash::default(),
        lacp_rate: LacpRate::default(),
        lacp_select: LacpSelect::default(),
        min_links: 0,
    });
    let vlan = Shape::Vlan(Vlan {
        parent: parent.clone(),
        id: 7,
        protocol: VlanProtocol::Customer,
    });
    let station = |tap| {
        Shape::Macvlan(Macvlan {
            parent: parent.clone(),
            mode: MacvlanMode::Bridge,
            sources: BTreeSet::new(),
            tap,
        })
    };
    let filtering = async {
        make("trial13", &Shape::Bridge(Bridge::default())).await?;
        let bridge = netlink.link_by_name(b"trial13").await.ok().flatten();
        let bridge = bridge.ok_or("not tried, since bridge is missing")?;
        let body = info(bridge.index, "bridge", shapes::filtering_data(true)).bytes();
        let set = netlink.change(libc::RTM_NEWLINK, 0, body).await;
        set.map_err(|error| error.desc().to_owned())
    };
    vec![
        (
            "dummy",
            "CONFIG_DUMMY",
            make("trial10", &Shape::Dummy).await,
        ),
        ("bond", "CONFIG_BONDING", make("trial11", &bond).await),
        ("vlan", "CONFIG_VLAN_8021Q", make("trial12", &vlan).await),
        (
            "macvlan",
            "CONFIG_MACVLAN",
            make("trial14", &station(false)).await,
        ),
        (
            "macvtap",
            "CONFIG_MACVTAP",
            make("trial15", &station(true)).await,
        ),
        (
            "bridge with VLANs",
            "CONFIG_BRIDGE_VLAN_FILTERING",
            filtering.await,
        ),
    ]
}
