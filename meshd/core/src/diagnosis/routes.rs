//! By which interface this host reaches its peers, beside the one that is assumed.

use super::{Finding, fail, list, warn, well};
use crate::view::Check;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The way that packets to a peer take out of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// As it is called.
    pub peer: String,
    /// Where its packets go to.
    pub remote: IpAddr,
    /// What they carry: `VXLAN` or `QUIC`.
    pub carries: &'static str,
    /// The address of this host that they bear, and its device, as shown; `None`: the kernel chooses.
    pub bears: Option<(IpAddr, String)>,
    /// The device that they leave by, as shown.
    pub device: String,
    /// That device is one of a mesh.
    pub overlay: bool,
}

const NAME: &str = "underlay routes";

/// Do packets leave by the interface whose address they bear, and not by the mesh itself?
#[must_use]
pub fn checks(routes: &[Route]) -> Vec<Check> {
    let mut checks = Vec::new();
    let (mut peers, mut devices) = (BTreeSet::new(), BTreeSet::new());
    for route in routes {
        let Route {
            peer,
            remote,
            carries,
            device,
            ..
        } = route;
        if route.overlay {
            checks.push(fail(
                Finding::UnderlayRoute,
                format!("route to {peer}"),
                format!("{carries} to {peer} at {remote} leaves by {device}, an interface of a mesh: what carries the mesh would travel in it"),
                format!(
                    "route {remote} over the underlay: `ip route add {remote} via GATEWAY dev IFNAME`; a subnet of a network must not cover addresses of hosts"
                ),
            ));
            continue;
        }
        match &route.bears {
            Some((own, at)) if at != device => checks.push(warn(
                Finding::UnderlayRoute,
                format!("route to {peer}"),
                format!(
                    "{carries} to {peer} at {remote} bears {own}, which is {at}'s address, and leaves by {device}: the answer comes back by {at}, filters of the reverse path may drop either, and the MTU is {device}'s"
                ),
                format!(
                    "let it leave by {at} (`ip route replace {remote} dev {at}`), or have meshd take {device}'s address: {}",
                    match *carries {
                        "VXLAN" => "name only its subnet by `trusted` under [underlay]",
                        _ => "set `listen` under [underlay] to it, or to `[::]:7650` for all",
                    }
                ),
            )),
            _ => {
                peers.insert(peer.clone());
                devices.insert(device.clone());
            }
        }
    }
    if !peers.is_empty() {
        let devices: Vec<_> = devices.into_iter().collect();
        let peers = match peers.len() {
            1 => peers.into_iter().collect(),
            many => format!("{many} peers"),
        };
        checks.push(well(NAME, format!("to {peers} by {}", list(&devices))));
    }
    checks
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::view::CheckState;

    fn route(bears: Option<&str>, device: &str, overlay: bool) -> Route {
        Route {
            peer: "b".to_owned(),
            remote: "192.0.2.2".parse().unwrap(),
            carries: "VXLAN",
            bears: bears.map(|at| ("192.0.2.1".parse().unwrap(), at.to_owned())),
            device: device.to_owned(),
            overlay,
        }
    }

    #[test]
    fn a_packet_that_leaves_by_another_interface_than_its_address_is_of_is_told_with_both() {
        let checks = checks(&[route(Some("eth0"), "eth1", false)]);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].code, Some(Finding::UnderlayRoute));
        assert_eq!(checks[0].state, CheckState::Warn);
        for word in ["192.0.2.1", "eth0", "eth1", "192.0.2.2"] {
            assert!(checks[0].found.contains(word), "{checks:?}");
        }
    }

    #[test]
    fn the_underlay_over_the_overlay_does_not_work_and_the_right_way_is_well() {
        let all = checks(&[
            route(Some("eth0"), "eth0", false),
            route(None, "eth1", false),
            route(None, "mv1", true),
        ]);
        assert_eq!(all[0].state, CheckState::Fail);
        assert_eq!(all[1].state, CheckState::Ok);
        assert!(all[1].found.contains("eth0") && all[1].found.contains("eth1"));
    }
}
