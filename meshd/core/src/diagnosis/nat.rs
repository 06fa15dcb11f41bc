//! What stands between this node and its peers, by where they see it: nothing, a NAT that keeps one outer address, or one that
//! takes another for each peer (RFC 4787 §4.1: endpoint-independent or endpoint-dependent mapping).
//!
//! All sessions leave by one socket, so what peers see of it can be compared. Refuses to tell the kind from a single peer.

use super::{Finding, list, warn, well};
use crate::view::Check;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Addresses of this host.
    pub own: BTreeSet<IpAddr>,
    /// Of the underlay's socket.
    pub port: u16,
    /// Offered to others.
    pub advertised: Vec<SocketAddr>,
    /// By which addresses peers see this node, by peer. Sessions over links are left out: they have sockets of their own.
    pub seen: BTreeMap<String, SocketAddr>,
}

const NAME: &str = "NAT";

/// One check for each address family that a peer sees.
#[must_use]
pub fn checks(facts: &Facts) -> Vec<Check> {
    [false, true]
        .into_iter()
        .filter_map(|v6| {
            let seen: BTreeMap<&str, SocketAddr> = facts
                .seen
                .iter()
                .filter(|(_, at)| at.is_ipv6() == v6)
                .map(|(peer, at)| (peer.as_str(), *at))
                .collect();
            family(facts, &seen)
        })
        .collect()
}

fn family(facts: &Facts, seen: &BTreeMap<&str, SocketAddr>) -> Option<Check> {
    let outer: BTreeSet<SocketAddr> = seen.values().copied().collect();
    let first = outer.first().copied()?;
    let is_own = |at: &SocketAddr| facts.own.contains(&at.ip()) && at.port() == facts.port;
    if outer.iter().all(is_own) {
        let at: Vec<_> = outer.iter().collect();
        return Some(well(
            NAME,
            format!("none: peers see this node at its own {}", list(&at)),
        ));
    }
    // Peers on this side of the NAT see what is true, and say nothing of it.
    let (inside, beyond): (Vec<_>, Vec<_>) = seen.iter().partition(|(_, at)| is_own(at));
    let lines: Vec<_> = beyond
        .iter()
        .map(|(peer, at)| format!("{peer} sees {at}"))
        .collect();
    let translated: BTreeSet<_> = outer.iter().filter(|at| !is_own(at)).collect();
    if translated.len() > 1 {
        let found = format!(
            "{}: another outer address or port for each peer (endpoint-dependent, \"symmetric\"), so nobody can be told where to dial this node",
            list(&lines)
        );
        let advice = format!(
            "forward UDP {0} on the router to this host, and set `advertise = [\"{1}:{0}\"]` under [underlay]",
            facts.port,
            show_ip(first.ip())
        );
        return Some(warn(Finding::NatSymmetric, NAME, found, advice));
    }
    let outside = translated.first().copied().copied().unwrap_or(first);
    if facts.advertised.contains(&outside) {
        return Some(well(
            NAME,
            format!("peers see this node at {outside}, which `advertise` names"),
        ));
    }
    let port = match outside.port() == facts.port {
        true => "the port is kept".to_owned(),
        false => format!("port {} has become {}", facts.port, outside.port()),
    };
    let kind = match beyond.len() {
        1 => "; one peer alone cannot tell whether it does so towards each".to_owned(),
        all => format!("; the same for all {all} peers beyond it (endpoint-independent)"),
    };
    let inside: Vec<_> = inside.iter().map(|(peer, _)| (*peer).to_owned()).collect();
    let kept = match inside.is_empty() {
        true => String::new(),
        false => format!("; seen at its own address by {}", list(&inside)),
    };
    let inner = match is_shared(outside.ip()) {
        true => {
            "; that is no public address, so another NAT may follow (of the provider, or a router behind a router)"
        }
        false => "",
    };
    Some(warn(
        Finding::Nat,
        NAME,
        format!(
            "{}: an address that this host does not have; {port}{kind}{kept}{inner}",
            list(&lines)
        ),
        format!(
            "for others to dial this node, forward UDP {} on the router and set `advertise = [\"{outside}\"]` under [underlay]",
            outside.port()
        ),
    ))
}

fn show_ip(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Private, or of a provider's NAT (RFC 1918, RFC 6598).
fn is_shared(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::view::CheckState;

    fn facts(seen: &[(&str, &str)]) -> Facts {
        Facts {
            own: BTreeSet::from(["10.0.0.5".parse().unwrap()]),
            port: 7650,
            advertised: Vec::new(),
            seen: seen
                .iter()
                .map(|(peer, at)| ((*peer).to_owned(), at.parse().unwrap()))
                .collect(),
        }
    }

    #[test]
    fn who_is_seen_at_its_own_address_has_no_nat() {
        let checks = checks(&facts(&[("b", "10.0.0.5:7650"), ("c", "10.0.0.5:7650")]));
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].state, CheckState::Ok);
        assert!(super::checks(&facts(&[])).is_empty());
    }

    #[test]
    fn a_mapping_that_differs_by_peer_is_told_from_one_that_does_not() {
        let symmetric = checks(&facts(&[
            ("b", "203.0.113.9:40001"),
            ("c", "203.0.113.9:40002"),
        ]));
        assert_eq!(symmetric[0].code, Some(Finding::NatSymmetric));
        assert!(symmetric[0].found.contains("c sees 203.0.113.9:40002"));
        let kept = checks(&facts(&[
            ("b", "203.0.113.9:7650"),
            ("c", "203.0.113.9:7650"),
        ]));
        assert_eq!(kept[0].code, Some(Finding::Nat));
        assert!(
            kept[0].found.contains("the port is kept")
                && kept[0].found.contains("endpoint-independent")
        );
        let moved = checks(&facts(&[("b", "203.0.113.9:4000")]));
        assert!(
            moved[0].found.contains("7650 has become 4000")
                && moved[0].found.contains("one peer alone")
        );
        let shared = checks(&facts(&[("b", "100.64.1.1:7650")]));
        assert!(shared[0].found.contains("another NAT may follow"));
    }

    #[test]
    fn a_peer_inside_and_one_outside_make_no_symmetric_nat() {
        let both = checks(&facts(&[("b", "10.0.0.5:7650"), ("c", "203.0.113.9:7650")]));
        assert_eq!(both[0].code, Some(Finding::Nat), "{both:?}");
        let found = &both[0].found;
        assert!(
            found.starts_with("c sees 203.0.113.9:7650: an address that this host does not have"),
            "{found}"
        );
        assert!(
            found.contains("own address by b")
                && !found.contains("b sees")
                && !found.contains("all 2"),
            "{found}"
        );
    }

    #[test]
    fn an_outer_address_that_is_advertised_is_well() {
        let mut facts = facts(&[("b", "203.0.113.9:7650")]);
        facts.advertised.push("203.0.113.9:7650".parse().unwrap());
        assert_eq!(checks(&facts)[0].state, CheckState::Ok);
    }

    #[test]
    fn families_are_told_apart() {
        let two = checks(&facts(&[
            ("b", "203.0.113.9:7650"),
            ("c", "[2001:db8::9]:7650"),
        ]));
        assert_eq!(two.len(), 2);
        assert!(two.iter().all(|check| check.code == Some(Finding::Nat)));
    }
}
