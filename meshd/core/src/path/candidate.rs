//! Whether two nodes may have a kernel path at all: what both say about themselves, and nothing measured.

use super::Reason;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One end of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Does it have a VXLAN device for the network, or can it make one?
    pub vxlan: bool,
    /// Where it takes VXLAN: an address of its own that it trusts.
    pub vtep: Option<IpAddr>,
    /// Underlay that it trusts with frames in the clear.
    pub trusted: Vec<IpNet>,
}

/// What is known of a path before anything is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// This node.
    pub here: Side,
    /// The peer, as its advert says.
    pub there: Side,
    /// Is there a proven session?
    pub session: bool,
    /// Of the network, bytes of L3 payload.
    pub mtu: u16,
}

impl Candidate {
    /// The first obstacle but the session, and the evidence for it.
    pub(super) fn obstacle(&self) -> Option<(Reason, String)> {
        let (here, there) = (&self.here, &self.there);
        if here.trusted.is_empty() {
            let evidence = "no subnet is trusted here".to_owned();
            return Some((Reason::NotTrustedHere, evidence));
        }
        if !here.vxlan {
            let evidence = "no VXLAN device can be made here".to_owned();
            return Some((Reason::NoVxlanHere, evidence));
        }
        if there.trusted.is_empty() {
            let evidence = "the peer trusts no subnet".to_owned();
            return Some((Reason::NotTrustedThere, evidence));
        }
        if !there.vxlan {
            let evidence = "the peer's advert names no VXLAN device".to_owned();
            return Some((Reason::NoVxlanThere, evidence));
        }
        let Some(from) = here.vtep else {
            let evidence = "no address of this host is in a subnet that it trusts".to_owned();
            return Some((Reason::NotTrustedHere, evidence));
        };
        let Some(to) = there.vtep else {
            let evidence = "no address of the peer is in a subnet that it trusts".to_owned();
            return Some((Reason::NotTrustedThere, evidence));
        };
        if from.is_ipv4() != to.is_ipv4() {
            let evidence = format!("{from} here, {to} there");
            return Some((Reason::NoCommonFamily, evidence));
        }
        let outside = |trusted: &[IpNet]| {
            let is_in = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
            [from, to].into_iter().find(|ip| !is_in(ip))
        };
        if let Some(ip) = outside(&here.trusted) {
            let evidence = format!("{ip} is in no subnet that is trusted here");
            return Some((Reason::NotTrustedHere, evidence));
        }
        if let Some(ip) = outside(&there.trusted) {
            let evidence = format!("{ip} is in no subnet that the peer trusts");
            return Some((Reason::NotTrustedThere, evidence));
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn side(vtep: &str, trusted: &[&str]) -> Side {
        Side {
            vxlan: true,
            vtep: Some(vtep.parse().unwrap()),
            trusted: trusted.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    fn obstacle(here: Side, there: Side) -> Option<Reason> {
        let candidate = Candidate {
            here,
            there,
            session: true,
            mtu: 1450,
        };
        candidate.obstacle().map(|(reason, _)| reason)
    }

    #[test]
    fn both_addresses_must_be_trusted_by_both() {
        let lan = || side("10.0.0.1", &["10.0.0.0/24"]);
        let other = |trusted| side("10.0.0.2", trusted);
        assert_eq!(obstacle(lan(), other(&["10.0.0.0/24"])), None);
        assert_eq!(
            obstacle(lan(), side("10.0.1.2", &["10.0.0.0/16"])),
            Some(Reason::NotTrustedHere)
        );
        assert_eq!(
            obstacle(lan(), other(&["10.0.0.2/32"])),
            Some(Reason::NotTrustedThere)
        );
        assert_eq!(obstacle(lan(), other(&[])), Some(Reason::NotTrustedThere));
    }

    #[test]
    fn each_obstacle_has_its_name() {
        let lan = || side("10.0.0.1", &["10.0.0.0/24", "fd00::/8"]);
        let without = |side: Side| Side {
            vxlan: false,
            ..side
        };
        assert_eq!(obstacle(without(lan()), lan()), Some(Reason::NoVxlanHere));
        assert_eq!(obstacle(lan(), without(lan())), Some(Reason::NoVxlanThere));
        let six = side("fd00::2", &["10.0.0.0/24", "fd00::/8"]);
        assert_eq!(obstacle(lan(), six), Some(Reason::NoCommonFamily));
        let nowhere = Side {
            vtep: None,
            ..lan()
        };
        assert_eq!(obstacle(lan(), nowhere), Some(Reason::NotTrustedThere));
        assert_eq!(
            obstacle(Side::default(), lan()),
            Some(Reason::NotTrustedHere)
        );
    }
}
