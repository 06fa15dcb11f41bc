//! meshd itself, on hosts of its own: over QUIC where the wire is not trusted, in the kernel's VXLAN where it is.

use super::{Entry, Site, System};
use crate::bench::load::Way;
use crate::bench::setting::Ends;
use crate::lab::Lab;
use crate::traffic::ping_until;
use anyhow::{Context, Result};
use std::time::Duration;

/// Frames in datagrams of QUIC, by the daemons.
pub(super) const QUIC: Entry = Entry {
    id: "meshd-quic",
    title: "meshd (QUIC)",
    layer: 2,
    cipher: "AES-128-GCM",
    pair: 1,
    program: None,
    up: quic,
};

/// Frames in the kernel's VXLAN, where policy lets them pass.
pub(super) const KERNEL: Entry = Entry {
    id: "meshd-kernel",
    title: "meshd (kernel path)",
    layer: 2,
    cipher: "",
    pair: 2,
    program: None,
    up: kernel,
};

fn quic(site: &Site<'_>) -> Result<System> {
    up(site, false)
}

fn kernel(site: &Site<'_>) -> Result<System> {
    up(site, true)
}

fn up(site: &Site<'_>, trusted: bool) -> Result<System> {
    let lab = site.lab;
    let [here, there] = [0, 1].map(|side| lab.node(site.first + side));
    if trusted {
        for side in [0, 1] {
            lab.set_fast_path(site.first + side, true)?;
        }
    }
    here.init("bench")?;
    here.run()?;
    there.join(&here.invite(&[])?)?;
    there.run()?;
    let network = "bench";
    // What fits into one packet of the underlay: VXLAN takes 50 bytes; for QUIC as much as the default leaves on 1500.
    let mtu = site.setting.mtu - if trusted { 50 } else { 120 };
    let subnet = format!("10.{}.0.0/24", 100 + site.number);
    here.ok(&[
        "network",
        "add",
        network,
        "--subnet",
        &subnet,
        "--mtu",
        &mtu.to_string(),
    ])?;
    crate::wait("the network is known", Duration::from_secs(10), || {
        there.knows_network(network)
    })?;
    let mut ends = Vec::new();
    for side in [0, 1] {
        ends.push(match site.setting.ends {
            Ends::Containers => {
                let suffix = format!("s{}", site.number);
                lab.add_container(site.first + side, &suffix)?
            }
            Ends::Hosts => site.host(side).netns.clone(),
        });
    }
    let [client, server] = [ends.remove(0), ends.remove(0)];
    here.attach(network, &client, &[])?;
    let far = there.attach(network, &server, &[])?;
    let way = Way {
        client,
        server,
        to: far.v4()?,
    };
    ping_until(&way.client, way.to, Duration::from_secs(10))?;
    if trusted {
        for (node, far) in [(here, &there.name), (there, &here.name)] {
            node.waits_for_kernel_path(far, true, Duration::from_secs(10))?;
        }
    }
    let pids = [here, there].map(|node| node.pid().context("a daemon has ended"));
    let pids = pids.into_iter().collect::<Result<_>>()?;
    let mut system = site.done(way, mtu, pids, Vec::new())?;
    system.about.version = here.ok(&["--version"])?.trim().replace("meshd ", "");
    Ok(system)
}

/// From a container of one host to that of the other, both attached to the network; containers by their index.
///
/// # Errors
/// If one is refused, or no ping passes.
pub fn attach_both(
    lab: &Lab,
    network: &str,
    (here, there): (usize, usize),
    container: usize,
) -> Result<Way> {
    let (client, server) = (
        lab.container(here, container),
        lab.container(there, container),
    );
    lab.node(here).attach(network, client, &[])?;
    let far = lab.node(there).attach(network, server, &[])?;
    let way = Way {
        client: client.into(),
        server: server.into(),
        to: far.v4()?,
    };
    ping_until(&way.client, way.to, Duration::from_secs(5))?;
    Ok(way)
}
