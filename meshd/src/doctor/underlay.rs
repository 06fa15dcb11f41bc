//! How this host's kernel carries the underlay: by which interface, and beside whose VXLAN devices.

use crate::kernel;
use meshd_core::config::Config;
use meshd_core::diagnosis::host::Address;
use meshd_core::diagnosis::rivals::{self, Rival};
use meshd_core::diagnosis::routes::{self, Route};
use meshd_core::diagnosis::{Finding, warn};
use meshd_core::ident::{Vni, escape};
use meshd_core::view::{Check, Network, Path, Peer};
use std::net::IpAddr;

/// Peers whose routes are looked up, the first ones.
const PEERS_MAX: usize = 32;

/// Looks at routes to peers and at VXLAN devices. `own`: addresses of the underlay, most likely first.
pub(crate) async fn checks(
    config: &Config,
    own: &[Address],
    peers: &[Peer],
    paths: &[Path],
    networks: &[Network],
) -> Vec<Check> {
    let trusted = &config.underlay.trusted;
    let vtep = own.iter().find(|one| {
        let ip = one.address.ip();
        trusted.iter().any(|net| net.contains(&ip))
    });
    let bears = |ip: IpAddr| {
        let at = own.iter().find(|one| one.address.ip() == ip)?;
        Some((ip, at.device.clone()))
    };
    let listen = config.underlay.listen.ip();
    let fixed = if listen.is_unspecified() {
        None
    } else {
        bears(listen)
    };
    let sessions = peers.iter().filter_map(|peer| {
        let remote = peer.remote?.ip();
        Some((peer.node.show(), remote, "QUIC", fixed.clone()))
    });
    let kernel = paths.iter().filter(|path| path.kind == "kernel-vxlan");
    let kernel = kernel.filter_map(|path| {
        let (remote, from) = (path.remote?.ip(), vtep?.address.ip());
        let same = remote.is_ipv4() == from.is_ipv4();
        same.then(|| (path.node.show(), remote, "VXLAN", bears(from)))
    });
    let mut wanted: Vec<_> = kernel.chain(sessions.take(PEERS_MAX)).collect();
    wanted.sort();
    wanted.dedup();
    wanted.truncate(2 * PEERS_MAX);
    let asked: Vec<_> = wanted
        .iter()
        .map(|(_, remote, _, bears)| (*remote, bears.as_ref().map(|(ip, _)| *ip)))
        .collect();
    let told = kernel::routes_to(&asked).await.unwrap_or_default();
    let found = wanted.into_iter().zip(told);
    let found: Vec<Route> = found
        .filter_map(|((peer, remote, carries, bears), route)| {
            // No route at all is told by what probes find.
            let route = route?;
            Some(Route {
                peer,
                remote,
                carries,
                bears,
                device: escape(&route.device),
                overlay: route.overlay,
            })
        })
        .collect();
    let mut checks = routes::checks(&found);
    if !trusted.is_empty() {
        let port = config.underlay.vxlan_port;
        checks.extend(match kernel::foreign_vxlans(port).await {
            Ok(others) => {
                let others: Vec<Rival> = others
                    .into_iter()
                    .map(|(device, vni)| Rival {
                        device: escape(&device),
                        vni,
                    })
                    .collect();
                let networks: Vec<(String, Vni)> = networks
                    .iter()
                    .map(|network| (network.name.to_string(), network.vni))
                    .collect();
                rivals::vxlans(&others, &networks, port)
            }
            Err(error) => vec![warn(
                Finding::RightsMissing,
                "VXLAN devices of others",
                format!("cannot be read: {error}"),
                "run `meshd doctor` as root",
            )],
        });
    }
    checks
}
