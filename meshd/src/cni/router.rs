//! Routers that a configuration names: that there is one a family, each within reach, and none that cannot route.
//!
//! Owns what is said of them by `meshd cni install`, before anything is written, and by ADD, of those that no route names. Of
//! routes the node says it itself.

use ipnet::IpNet;
use meshd_core::ranges::service_address;
use std::net::IpAddr;

/// An interface has one default route of a family.
///
/// # Errors
/// Which two are too many.
pub(super) fn one_a_family(routers: &[IpAddr]) -> Result<(), String> {
    for (at, router) in routers.iter().enumerate() {
        let mut before = routers.iter().take(at);
        if let Some(other) = before.find(|other| other.is_ipv4() == router.is_ipv4()) {
            let family = if router.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(format!(
                "{other} and {router} are both {family}: one router a family is possible"
            ));
        }
    }
    Ok(())
}

/// Can they be routers of the network with these subnets?
///
/// # Errors
/// Which one cannot, and why.
pub(super) fn on_network(
    routers: &[IpAddr],
    network: &str,
    subnets: &[IpNet],
) -> Result<(), String> {
    for router in routers {
        let Some(subnet) = subnets.iter().find(|subnet| subnet.contains(router)) else {
            let has: Vec<String> = subnets.iter().map(ToString::to_string).collect();
            let has = match has.is_empty() {
                true => "which has none".to_owned(),
                false => has.join(", "),
            };
            return Err(format!(
                "{router} is in no subnet of network {network} ({has}): name a router on the network"
            ));
        };
        if service_address(subnet) == Some(*router) {
            return Err(format!(
                "{router} is meshd's own service on network {network}, which answers names and routes nothing: name a router"
            ));
        }
        if *router == subnet.network() || (router.is_ipv4() && *router == subnet.broadcast()) {
            return Err(format!(
                "{router} is the network or broadcast address of {subnet}, which no router has: name a router"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_one_of_its_family_in_a_subnet_and_neither_service_nor_edge() {
        let ips =
            |text: &str| -> Vec<IpAddr> { text.split(' ').map(|ip| ip.parse().unwrap()).collect() };
        assert!(one_a_family(&ips("10.10.0.9 fd10::9")).is_ok());
        let refused = one_a_family(&ips("10.10.0.9 fd10::9 10.10.0.8")).unwrap_err();
        assert!(refused.contains("10.10.0.9 and 10.10.0.8"), "{refused}");
        let subnets = [
            "10.10.0.0/24".parse().unwrap(),
            "fd10::/64".parse().unwrap(),
        ];
        let check = |text| on_network(&ips(text), "lan", &subnets);
        assert!(check("10.10.0.9 fd10::9").is_ok());
        for (router, why) in [
            ("99.1.1.1", "in no subnet of network lan (10.10.0.0/24"),
            ("10.10.0.1", "own service"),
            ("fd10::1", "own service"),
            ("10.10.0.0", "network or broadcast"),
            ("10.10.0.255", "network or broadcast"),
        ] {
            let refused = check(router).unwrap_err();
            assert!(
                refused.contains(router) && refused.contains(why),
                "{refused}"
            );
        }
        assert!(on_network(&ips("10.0.0.9"), "bare", &[]).is_err());
    }
}
