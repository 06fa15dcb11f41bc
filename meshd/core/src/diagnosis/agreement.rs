//! Where nodes should agree and do not: releases, networks, chains, what they trust.
//!
//! Refuses to say who is right.

use super::{Finding, NetworkSaid, Testimony, Witness, list, warn, well};
use crate::view::Check;
use std::collections::BTreeMap;

/// Peers against this node, which says of itself what it would say of itself to them.
#[must_use]
pub fn checks(own: &Testimony, witnesses: &[Witness]) -> Vec<Check> {
    let heard: Vec<(&str, &Testimony)> = witnesses
        .iter()
        .filter_map(|witness| {
            Some((
                witness.peer.as_str(),
                &witness.said.as_ref().ok()?.testimony,
            ))
        })
        .collect();
    let mut checks = Vec::new();
    for (peer, theirs) in &heard {
        for there in &theirs.networks {
            let here = own.networks.iter().find(|here| here.name == there.name);
            checks.extend(here.and_then(|here| network(peer, here, there)));
        }
        checks.extend(trust(peer, own, theirs));
    }
    if checks.is_empty() && !heard.is_empty() {
        let found = format!(
            "networks, chains and trust are alike on {} peers that were asked",
            heard.len()
        );
        checks.push(well("agreement", found));
    }
    checks
}

fn network(peer: &str, here: &NetworkSaid, there: &NetworkSaid) -> Option<Check> {
    let name = format!("network {}", here.name);
    let mut differ = Vec::new();
    if here.vni != there.vni {
        differ.push(format!("VNI {} here, {} at {peer}", here.vni, there.vni));
    }
    if here.mtu != there.mtu {
        differ.push(format!("MTU {} here, {} at {peer}", here.mtu, there.mtu));
    }
    if here.subnets != there.subnets {
        differ.push(format!(
            "subnets {} here, {} at {peer}",
            list(&here.subnets),
            list(&there.subnets)
        ));
    }
    if !differ.is_empty() {
        return Some(warn(
            Finding::NetworkDiffers,
            name,
            differ.join("; "),
            "look again in a few seconds; if it stays, `meshd events` on both has why a record was refused",
        ));
    }
    if here.chain != there.chain && here.ports > 0 && there.ports > 0 {
        let show = |chain: &[String]| match chain {
            [] => "no plugin".to_owned(),
            some => list(some),
        };
        return Some(warn(
            Finding::PolicyDiffers,
            format!("policy of {}", here.name),
            format!(
                "{} here, {} at {peer}",
                show(&here.chain),
                show(&there.chain)
            ),
            format!(
                "if that is not meant, attach the same on both: `meshd plugin chain {}` on each",
                here.name
            ),
        ));
    }
    None
}

fn trust(peer: &str, own: &Testimony, theirs: &Testimony) -> Option<Check> {
    let both = !own.trusted.is_empty() && !theirs.trusted.is_empty();
    if both && own.vxlan_port != theirs.vxlan_port {
        return Some(warn(
            Finding::TrustDiffers,
            "trusted underlay",
            format!(
                "the VXLAN port is {} here and {} at {peer}",
                own.vxlan_port, theirs.vxlan_port
            ),
            format!(
                "set `vxlan_port = {}` under [underlay] on both",
                own.vxlan_port
            ),
        ));
    }
    let sorted = |said: &Testimony| {
        let mut all: Vec<String> = said.trusted.iter().map(ToString::to_string).collect();
        all.sort();
        all
    };
    let (here, there) = (sorted(own), sorted(theirs));
    if here == there {
        return None;
    }
    let show = |all: &[String]| match all {
        [] => "nothing".to_owned(),
        some => list(some),
    };
    let wanted = here
        .iter()
        .chain(there.iter().filter(|net| !here.contains(net)));
    let wanted: Vec<_> = wanted.map(|net| format!("\"{net}\"")).collect();
    Some(warn(
        Finding::TrustDiffers,
        "trusted underlay",
        format!(
            "this node trusts {}, {peer} trusts {}: where not both do, QUIC is taken",
            show(&here),
            show(&there)
        ),
        format!(
            "if the underlay is yours, set `trusted = [{}]` under [underlay] on both",
            wanted.join(", ")
        ),
    ))
}

/// Sizes that differ by so many bytes are told: searches end within a few bytes of each other.
const ASYMMETRY: u16 = 64;

/// Ways whose two directions take packets of different size: UDP payloads that this node's sessions found, by peer, against what
/// those found that come here. Both of sessions that had the time to search.
#[must_use]
pub fn directions(there: &BTreeMap<String, u16>, witnesses: &[Witness]) -> Vec<Check> {
    let both = witnesses.iter().filter_map(|witness| {
        let back = witness.said.as_ref().ok()?.testimony.mtu?;
        Some((&witness.peer, *there.get(&witness.peer)?, back))
    });
    both.filter(|(_, there, back)| there.abs_diff(*back) >= ASYMMETRY)
        .map(|(peer, there, back)| {
            warn(
                Finding::PathAsymmetric,
                format!("ways to and from {peer}"),
                format!(
                    "the largest payload that reaches {peer} has {there} bytes, the largest from there to here {back}, as the sessions found"
                ),
                "`tracepath` on both hosts shows where the two ways part; mend the route, or the MTU of the narrower link",
            )
        })
        .collect()
}

/// Releases, by what members tell of themselves.
#[must_use]
pub fn versions(own: &str, members: &BTreeMap<String, String>) -> Option<Check> {
    let other: Vec<_> = members
        .iter()
        .filter(|(_, version)| *version != own)
        .map(|(member, version)| format!("{member} runs {version}"))
        .collect();
    match (members.is_empty(), other.is_empty()) {
        (true, _) => None,
        (false, true) => Some(well(
            "versions",
            format!("all {} members run {own}", members.len() + 1),
        )),
        (false, false) => Some(warn(
            Finding::VersionDiffers,
            "versions",
            format!("{}; this node runs {own}", list(&other)),
            "upgrade to one release, node by node: docs/operations/upgrade.md",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testimony::witness;
    use super::*;
    use crate::ident::Vni;

    fn network(chain: &[&str]) -> NetworkSaid {
        NetworkSaid {
            name: "lan".to_owned(),
            vni: Vni::new(7).unwrap(),
            mtu: 1450,
            subnets: vec!["10.1.0.0/24".parse().unwrap()],
            ports: 1,
            chain: chain.iter().map(|&line| line.to_owned()).collect(),
        }
    }

    fn own() -> Testimony {
        let mut own = witness("a", |_| {}).said.unwrap().testimony;
        own.networks.push(network(&["guard 100 fw aa"]));
        own
    }

    fn codes(change: impl FnOnce(&mut Testimony)) -> Vec<Finding> {
        let mut theirs = own();
        change(&mut theirs);
        let told = checks(&own(), &[witness("b", |said| *said = theirs)]);
        told.iter().filter_map(|check| check.code).collect()
    }

    #[test]
    fn who_agrees_is_well_and_each_difference_has_its_name() {
        assert!(codes(|_| {}).is_empty());
        assert_eq!(
            codes(|b| b.networks[0].mtu = 1400),
            [Finding::NetworkDiffers]
        );
        assert_eq!(
            codes(|b| b.networks[0].vni = Vni::new(8).unwrap()),
            [Finding::NetworkDiffers]
        );
        assert_eq!(
            codes(|b| b.networks[0].chain.clear()),
            [Finding::PolicyDiffers]
        );
        assert_eq!(
            codes(|b| b.trusted.push("10.0.0.0/8".parse().unwrap())),
            [Finding::TrustDiffers]
        );
    }

    #[test]
    fn a_chain_matters_only_where_both_have_ports() {
        assert!(
            codes(|b| {
                b.networks[0].chain.clear();
                b.networks[0].ports = 0;
            })
            .is_empty()
        );
    }

    #[test]
    fn the_line_to_set_has_what_both_trust() {
        let mut own = own();
        own.trusted.push("192.0.2.0/24".parse().unwrap());
        let told = checks(
            &own,
            &[witness("b", |said| {
                said.trusted.push("10.0.0.0/8".parse().unwrap())
            })],
        );
        let advice = told.last().unwrap().advice.as_deref().unwrap();
        assert!(
            advice.contains("trusted = [\"192.0.2.0/24\", \"10.0.0.0/8\"]"),
            "{advice}"
        );
    }

    #[test]
    fn ways_that_differ_by_more_than_a_search_does_are_told() {
        let there = |mtu| BTreeMap::from([("b".to_owned(), mtu)]);
        let back = [witness("b", |said| said.mtu = Some(1400))];
        assert!(directions(&there(1420), &back).is_empty());
        assert!(directions(&BTreeMap::new(), &back).is_empty());
        let told = directions(&there(1472), &back);
        assert_eq!(told[0].code, Some(Finding::PathAsymmetric));
        assert!(told[0].found.contains("1472") && told[0].found.contains("1400"));
    }

    #[test]
    fn another_release_is_told() {
        let members = |version: &str| BTreeMap::from([("b".to_owned(), version.to_owned())]);
        assert!(versions("0.1.0", &BTreeMap::new()).is_none());
        assert_eq!(versions("0.1.0", &members("0.1.0")).unwrap().code, None);
        let told = versions("0.1.0", &members("0.2.0")).unwrap();
        assert_eq!(told.code, Some(Finding::VersionDiffers));
        assert!(told.found.contains("b runs 0.2.0"));
    }
}
