//! Offloads of the underlay's interfaces: what is off and could be on, and what that costs.

use super::{Finding, list, warn, well};
use crate::view::Check;

/// Features by the kernel's names (net/ethtool/common.c), what each does for meshd, and the word by which `ethtool -K` knows it.
pub const WANTED: [(&str, &str, &str); 5] = [
    (
        "tx-generic-segmentation",
        "sending costs a system call and a walk through the kernel for each packet",
        "gso",
    ),
    (
        "rx-gro",
        "receiving costs a walk through the kernel for each packet",
        "gro",
    ),
    (
        "tx-udp-segmentation",
        "the processor cuts what QUIC sends, where the card could",
        "tx-udp-segmentation",
    ),
    (
        "tx-udp_tnl-segmentation",
        "the processor cuts what VXLAN sends, where the card could",
        "tx-udp_tnl-segmentation",
    ),
    (
        "tx-checksum-ip-generic",
        "the processor computes checksums that the card could",
        "tx",
    ),
];

/// An interface, and its features of [`WANTED`] that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, as shown.
    pub name: String,
    /// Feature and whether it is on. What it cannot do, or nobody may change, is left out.
    pub features: Vec<(String, bool)>,
}

/// One check for each interface that could do more, or one for all.
#[must_use]
pub fn checks(interfaces: &[Interface]) -> Vec<Check> {
    let mut checks: Vec<Check> = interfaces.iter().filter_map(interface).collect();
    if checks.is_empty() && !interfaces.is_empty() {
        let names: Vec<_> = interfaces.iter().map(|one| &one.name).collect();
        checks.push(well(
            "offloads",
            format!("{}: all that can be on are on", list(&names)),
        ));
    }
    checks
}

fn interface(one: &Interface) -> Option<Check> {
    let off: Vec<_> = WANTED
        .iter()
        .filter(|(wanted, ..)| one.features.iter().any(|(name, on)| name == wanted && !on))
        .collect();
    if off.is_empty() {
        return None;
    }
    let costs: Vec<_> = off
        .iter()
        .map(|(name, cost, _)| format!("{name} is off: {cost}"))
        .collect();
    let words: Vec<_> = off.iter().map(|(.., word)| format!("{word} on")).collect();
    Some(warn(
        Finding::NicOffload,
        format!("offloads of {}", one.name),
        costs.join("; "),
        format!(
            "`ethtool -K {} {}`, unless it was turned off for a fault of the card",
            one.name,
            words.join(" ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(features: &[(&str, bool)]) -> Interface {
        let features = features.iter().map(|&(name, on)| (name.to_owned(), on));
        Interface {
            name: "und0".to_owned(),
            features: features.collect(),
        }
    }

    #[test]
    fn what_is_off_is_told_with_its_cost_and_the_line_to_type() {
        let checks = checks(&[of(&[("rx-gro", false), ("tx-generic-segmentation", true)])]);
        assert_eq!(checks.len(), 1);
        assert!(checks.iter().all(|check| {
            check.code == Some(Finding::NicOffload)
                && check.found.contains("rx-gro is off")
                && check
                    .advice
                    .as_deref()
                    .is_some_and(|line| line.contains("ethtool -K und0 gro on`"))
        }));
    }

    #[test]
    fn what_a_card_cannot_do_is_no_fault() {
        let checks = checks(&[of(&[("tx-generic-segmentation", true)]), of(&[])]);
        assert!(checks.len() == 1 && checks.iter().all(|check| check.code.is_none()));
    }
}
