//! What the kernel does by itself: the wire alone, and bridge with VXLAN. Neither encrypts.

use super::{Entry, Site, System};
use crate::bench::load::Way;
use crate::netns::ip;
use anyhow::Result;

/// The wire itself, from host to host: no overlay at all, whatever the ends of the others.
pub(super) const VETH: Entry = Entry {
    id: "veth",
    title: "veth, no overlay",
    layer: 2,
    cipher: "",
    pair: 0,
    program: None,
    up: veth,
};

/// VXLAN of the kernel.
pub(super) const VXLAN: Entry = Entry {
    id: "vxlan",
    title: "kernel VXLAN",
    layer: 2,
    cipher: "",
    pair: 0,
    program: None,
    up: vxlan,
};

fn veth(site: &Site<'_>) -> Result<System> {
    let way = Way {
        client: site.host(0).netns.clone(),
        server: site.host(1).netns.clone(),
        to: site.underlay(1),
    };
    site.done(way, site.setting.mtu, Vec::new(), Vec::new())
}

fn vxlan(site: &Site<'_>) -> Result<System> {
    let mtu = site.setting.mtu - 50;
    for side in [0, 1] {
        let (host, device) = (site.host(side), site.device(side));
        ip(&format!(
            "-n {} link add {device} mtu {mtu} type vxlan id 77 dstport 4789 local {} remote {} dev und0",
            host.netns,
            host.v4,
            site.underlay(1 - side)
        ))?;
    }
    let way = site.connect(mtu)?;
    site.done(way, mtu, Vec::new(), Vec::new())
}
