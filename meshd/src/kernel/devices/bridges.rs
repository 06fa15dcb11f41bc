//! Bridges among the host devices: their settings, and the VLANs of their ports.
//!
//! Owns the numbers of linux/if_bridge.h.

use super::super::failure::{Failure, refused};
use super::super::netlink::{self, Body, Link};
use super::{HostDevices, info, shapes};
use meshd_core::devices::{Bridge, Shape, Tagging, Vlans};
use meshd_core::ident::IfName;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// `AF_BRIDGE`.
const BRIDGE_FAMILY: u8 = 7;
// `IFLA_BRIDGE_*`, `BRIDGE_VLAN_INFO_*` and `BRIDGE_FLAGS_SELF` of linux/if_bridge.h.
const BRIDGE_FLAGS: u16 = 0;
const BRIDGE_VLAN_INFO: u16 = 2;
const FLAGS_SELF: u16 = 2;
const VLAN_PVID: u16 = 1 << 1;
const VLAN_UNTAGGED: u16 = 1 << 2;

impl HostDevices {
    /// The VLANs of bridges and their ports, by number of the device.
    pub(super) async fn vlans(&self) -> Result<BTreeMap<u32, Vlans>, Errno> {
        const RTEXT_FILTER_BRVLAN: u32 = 1 << 1;
        let body = Body::new(BRIDGE_FAMILY, 16)
            .attribute(libc::IFLA_EXT_MASK, &RTEXT_FILTER_BRVLAN.to_ne_bytes());
        let answers = self.own.ask(libc::RTM_GETLINK, true, body.bytes()).await?;
        let mut all = BTreeMap::new();
        for body in &answers {
            let Some(index) = body.get(4..).and_then(netlink::word) else {
                continue;
            };
            let spec = netlink::attributes(body, 16).find(|(kind, _)| *kind == libc::IFLA_AF_SPEC);
            let Some((_, spec)) = spec else { continue };
            let infos = netlink::attributes(spec, 0).filter(|(kind, _)| *kind == BRIDGE_VLAN_INFO);
            let vlans = infos.filter_map(|(_, info)| {
                let (flags, id) = (netlink::half(info)?, netlink::half(info.get(2..)?)?);
                let how = Tagging {
                    pvid: flags & VLAN_PVID != 0,
                    untagged: flags & VLAN_UNTAGGED != 0,
                };
                Some((id, how))
            });
            all.insert(index, vlans.collect());
        }
        Ok(all)
    }

    pub(super) async fn filter_vlans(
        &self,
        of: &IfName,
        index: u32,
        is_on: bool,
    ) -> Result<(), Failure> {
        let body = info(index, "bridge", shapes::filtering_data(is_on));
        self.set("keep VLANs apart on", of, body).await
    }

    pub(super) async fn set_bridge(
        &self,
        of: &IfName,
        link: &Link,
        bridge: &Bridge,
    ) -> Result<(), Failure> {
        let body = info(link.index, "bridge", shapes::bridge_data(bridge));
        self.set("set the bridge", of, body).await?;
        match shapes::read(link, None) {
            Some(Shape::Bridge(was)) if was.vlan_filtering != bridge.vlan_filtering => {
                self.filter_vlans(of, link.index, bridge.vlan_filtering)
                    .await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn set_vlans(
        &self,
        port: &IfName,
        is_own: bool,
        add: &Vlans,
        remove: &BTreeSet<u16>,
    ) -> Result<(), Failure> {
        let link = self.find(port).await?;
        let refused = refused("set the VLANs of", port, &self.netns);
        let message = |vlans: &mut dyn Iterator<Item = (u16, u16)>| {
            let mut spec = Body::attributes();
            if is_own {
                spec = spec.attribute(BRIDGE_FLAGS, &FLAGS_SELF.to_ne_bytes());
            }
            for (flags, id) in vlans {
                let info = [flags.to_ne_bytes(), id.to_ne_bytes()].concat();
                spec = spec.attribute(BRIDGE_VLAN_INFO, &info);
            }
            Body::new(BRIDGE_FAMILY, 16)
                .set(4, &link.index.to_ne_bytes())
                .nested(libc::IFLA_AF_SPEC, spec)
                .bytes()
        };
        if !remove.is_empty() {
            let body = message(&mut remove.iter().map(|id| (0, *id)));
            let gone = self.own.change(libc::RTM_DELLINK, 0, body).await;
            gone.map_err(&refused)?;
        }
        if !add.is_empty() {
            let body = message(&mut add.iter().map(|(id, how)| {
                let pvid = if how.pvid { VLAN_PVID } else { 0 };
                let untagged = if how.untagged { VLAN_UNTAGGED } else { 0 };
                (pvid | untagged, *id)
            }));
            let there = self.own.change(libc::RTM_SETLINK, 0, body).await;
            there.map_err(&refused)?;
        }
        Ok(())
    }
}
