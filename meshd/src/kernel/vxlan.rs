//! The VXLAN device of a network (RFC 7348): to members' VTEPs whose underlay is trusted.
//!
//! ```text
//!    mb<vni> <--> mx<vni> -- FDB: MAC -> VTEP --> UDP to the VTEP; nothing is learned, nothing flooded but to foreign VTEPs
//! ```
//!
//! Owns how it is set, and reads that back. It is made down: the fence and its filter come before it is raised. What cannot
//! be changed of it while it lives (address, port) takes another device.

use super::failure::{Failure, failure};
use super::marks::{self, NetworkRole};
use super::netlink::{self, Body, Link};
use super::netns::Netlink;
use super::port::Workbench;
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Vni, escape};
use std::net::IpAddr;

// enum IFLA_VXLAN_* of linux/if_link.h.
const ID: u16 = 1;
const GROUP: u16 = 2;
const LINK: u16 = 3;
const LOCAL: u16 = 4;
const TTL: u16 = 5;
const TOS: u16 = 6;
const LEARNING: u16 = 7;
const PROXY: u16 = 11;
const L2MISS: u16 = 13;
const L3MISS: u16 = 14;
const PORT: u16 = 15;
const GROUP6: u16 = 16;
const LOCAL6: u16 = 17;
const UDP_CSUM: u16 = 18;
const UDP_ZERO_CSUM6_TX: u16 = 19;
const UDP_ZERO_CSUM6_RX: u16 = 20;
const GBP: u16 = 23;
const COLLECT_METADATA: u16 = 25;
const GPE: u16 = 27;
const DF: u16 = 29;

/// `tos inherit`: DSCP and ECN of the inner packet are those of the outer one.
const TOS_INHERIT: u8 = 1;
/// `VXLAN_DF_SET`.
const DF_SET: u8 = 1;
/// Hops to a VTEP, as for any packet of this host.
const HOPS: u8 = 64;

/// What a VXLAN device is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanSpec {
    /// The network, and nothing else.
    pub vni: Vni,
    /// This node's VTEP.
    pub local: IpAddr,
    /// The UDP port, here and at members; 4789 by IANA.
    pub port: u16,
    /// The network's, in bytes of Layer 3.
    pub mtu: u16,
    /// Over IPv4: with an outer UDP checksum, as the kernel's own default is. Over IPv6 there always is one.
    pub checksum: bool,
}

/// How a VXLAN device is set, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    vni: u32,
    local: Option<IpAddr>,
    port: u16,
    ttl: u8,
    tos: u8,
    df: u8,
    checksum: bool,
    /// Attributes that should be absent or zero, and are not.
    odd: Vec<u16>,
}

/// From `IFLA_INFO_DATA`.
pub(super) fn settings(data: &[u8]) -> Settings {
    let mut settings = Settings::default();
    let byte = |value: &[u8]| value.first().copied().unwrap_or_default();
    for (kind, value) in netlink::attributes(data, 0) {
        match kind {
            ID => settings.vni = netlink::word(value).unwrap_or_default(),
            LOCAL => settings.local = netlink::ip(2, value),
            LOCAL6 => settings.local = netlink::ip(10, value),
            TTL => settings.ttl = byte(value),
            TOS => settings.tos = byte(value),
            DF => settings.df = byte(value),
            UDP_CSUM => settings.checksum = byte(value) != 0,
            PORT => settings.port = netlink::half(value).map(u16::from_be).unwrap_or_default(),
            GBP | GPE => settings.odd.push(kind),
            GROUP | LINK | GROUP6 | LEARNING | PROXY | L2MISS | L3MISS | UDP_ZERO_CSUM6_TX
            | UDP_ZERO_CSUM6_RX | COLLECT_METADATA
                if value.iter().any(|&byte| byte != 0) =>
            {
                settings.odd.push(kind);
            }
            _ => {}
        }
    }
    settings
}

impl VxlanSpec {
    /// What a device is, if all of it is as we make it.
    pub(super) fn read(link: &Link) -> Option<Self> {
        let there = settings(&link.data);
        let spec = Self {
            vni: Vni::new(there.vni).ok()?,
            local: there.local?,
            port: there.port,
            mtu: u16::try_from(link.mtu).ok()?,
            checksum: there.checksum,
        };
        (spec.settings() == there).then_some(spec)
    }

    fn settings(&self) -> Settings {
        Settings {
            vni: self.vni.get(),
            local: Some(self.local),
            port: self.port,
            ttl: HOPS,
            tos: TOS_INHERIT,
            df: if self.local.is_ipv4() { DF_SET } else { 0 },
            checksum: self.checksum,
            odd: Vec::new(),
        }
    }

    /// `IFLA_INFO_DATA`.
    pub(super) fn data(&self) -> Body {
        let body = Body::attributes()
            .attribute(ID, &self.vni.get().to_ne_bytes())
            .attribute(PORT, &self.port.to_be_bytes())
            .attribute(LEARNING, &[0])
            .attribute(TOS, &[TOS_INHERIT])
            .attribute(TTL, &[HOPS])
            .attribute(UDP_CSUM, &[u8::from(self.checksum)]);
        match self.local {
            IpAddr::V4(ip) => body.attribute(LOCAL, &ip.octets()).attribute(DF, &[DF_SET]),
            IpAddr::V6(ip) => body.attribute(LOCAL6, &ip.octets()),
        }
    }
}

/// The device that has this VNI on this port already.
pub(super) fn holder<'a>(links: &'a [Link], spec: &VxlanSpec) -> Option<&'a Link> {
    links.iter().find(|link| {
        let there = settings(&link.data);
        link.kind == b"vxlan" && (there.vni, there.port) == (spec.vni.get(), spec.port)
    })
}

/// VXLAN devices in the caller's namespace that no mesh has, on this UDP port: name and VNI; `None`: it takes all (`external`). Needs
/// no rights and no daemon.
///
/// # Errors
/// If netlink cannot be opened or read.
pub async fn foreign_vxlans(port: u16) -> std::io::Result<Vec<(Vec<u8>, Option<u32>)>> {
    let links = Netlink::here()?.links().await?;
    let others = links
        .into_iter()
        .filter(|link| link.kind == b"vxlan" && !marks::is_of_overlay(link));
    Ok(others
        .filter_map(|link| {
            let there = settings(&link.data);
            let all = there.odd.contains(&COLLECT_METADATA);
            (there.port == port).then_some((link.name, (!all).then_some(there.vni)))
        })
        .collect())
}

impl Workbench<'_> {
    /// Makes the network's VXLAN device, or adopts it. A new one is down and in no bridge; true: it is new, and an earlier
    /// one, which was set otherwise, is gone with its FDB.
    pub(super) async fn make_vxlan(&self, spec: &VxlanSpec) -> Result<(Link, bool), Failure> {
        let role = NetworkRole::Vxlan;
        let (mut device, mut new) = (self.find_device(spec.vni, role).await?, false);
        if let Some(link) = &device
            && settings(&link.data) != spec.settings()
        {
            tracing::info!(vni = %spec.vni, "the VXLAN device is to be set otherwise: it is made again");
            self.remove_device(spec.vni, role).await?;
            device = None;
        }
        let link = match device {
            Some(link) => link,
            None => {
                new = true;
                match self
                    .make_device(spec.vni, role, spec.mtu, || spec.data())
                    .await
                {
                    Ok(link) => link,
                    Err(failure) => return Err(self.explain(spec, failure).await),
                }
            }
        };
        self.inventory.networks.unwatch(link.index);
        self.mark_device(&link, spec.vni, role, spec.mtu).await?;
        self.watch_device(link.index).await?;
        let link = self.find_device(spec.vni, role).await?;
        let link = link.ok_or_else(|| {
            failure(
                ErrorCode::DeviceMeddled,
                format!("the VXLAN device of VNI {} went away meanwhile", spec.vni),
            )
        })?;
        Ok((link, new))
    }

    /// The kernel has one device for a VNI on a port, whoever made it.
    async fn explain(&self, spec: &VxlanSpec, refusal: Failure) -> Failure {
        let links = self.own.links().await.unwrap_or_default();
        match holder(&links, spec) {
            Some(link) => failure(
                ErrorCode::VniTakenHere,
                format!(
                    "the device {} has VNI {} on UDP port {} already, and is not this node's: remove it, or give the network another VNI",
                    escape(&link.name),
                    spec.vni,
                    spec.port
                ),
            ),
            None => refusal,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_reads_back_as_what_is_wanted() {
        for local in ["192.0.2.1", "2001:db8::1"] {
            let spec = VxlanSpec {
                vni: Vni::new(0x0a_bcde).unwrap(),
                local: local.parse().unwrap(),
                port: 4790,
                mtu: 1450,
                checksum: true,
            };
            assert_eq!(settings(&spec.data().bytes()), spec.settings());
            let other = spec.data().attribute(COLLECT_METADATA, &[1]).bytes();
            assert_ne!(settings(&other), spec.settings());
        }
    }
}
