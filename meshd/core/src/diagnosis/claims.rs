//! Things that two have and one should: MACs, addresses and names claimed twice, and MACs that jump.

use super::{Finding, fail, warn};
use crate::notice::Notice;
use crate::view::{Check, Conflict, Event};
use std::collections::BTreeMap;

/// Two claims to one thing.
#[must_use]
pub fn conflicts(conflicts: &[Conflict]) -> Vec<Check> {
    conflicts
        .iter()
        .map(|conflict| {
            let (what, fix) = match conflict.kind.as_str() {
                "mac" => ("MAC", "attach it again with `--mac` and another MAC, or without"),
                "ip" => ("address", "attach it again with another `--ip`, or with `--ip auto`"),
                "name" => ("name", "attach it again with another `--name`"),
                _ => ("network", "remove one of the two definitions: `meshd network rm`"),
            };
            let (holder, other) = (conflict.holder.show(), conflict.other.show());
            fail(
                Finding::DuplicateClaim,
                format!("{what} {}", conflict.what),
                format!(
                    "claimed twice on network {}: {holder} keeps it, {other} claims it too and is not reached by it",
                    conflict.network
                ),
                format!("on {other}: {fix}"),
            )
        })
        .collect()
}

/// MACs that jumped between `since_ms` and now, by the events.
#[must_use]
pub fn flaps(events: &[Event], since_ms: u64) -> Vec<Check> {
    let mut last: BTreeMap<String, (u64, &str)> = BTreeMap::new();
    for event in events.iter().filter(|event| event.at_ms >= since_ms) {
        if let Notice::MacFlaps { vni, mac, .. } = &event.notice {
            let entry = last.entry(format!("{mac} on VNI {vni}")).or_default();
            *entry = (entry.0 + 1, &event.text);
        }
    }
    last.into_iter()
        .map(|(mac, (times, text))| {
            warn(
                Finding::MacFlaps,
                format!("MAC {mac}"),
                format!("{text} (told {times} times in the last ten minutes)"),
                "look where it is by `meshd fdb`; give one of two clones a MAC of its own (`--mac`), or open the loop behind the port",
            )
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ident::{MacAddr, NodeId, PortId, Vni};
    use crate::view::NodeRef;

    #[test]
    fn a_conflict_names_both_sides_and_who_has_to_move() {
        let node = |n: u8, name: &str| NodeRef {
            id: NodeId([n; 32]),
            name: Some(name.parse().unwrap()),
        };
        let conflict = Conflict {
            kind: "ip".to_owned(),
            network: "lan".to_owned(),
            what: "10.0.0.9".to_owned(),
            holder: node(1, "a"),
            other: node(2, "b"),
        };
        let checks = conflicts(&[conflict]);
        assert_eq!(checks[0].code, Some(Finding::DuplicateClaim));
        assert!(checks[0].found.contains("a keeps it, b claims it too"));
        assert!(checks[0].advice.as_deref().unwrap().starts_with("on b:"));
    }

    #[test]
    fn old_jumps_are_left_alone_and_many_are_one() {
        let flap = |seq, at_ms, mac: u8| {
            let notice = Notice::MacFlaps {
                vni: Vni::new(7).unwrap(),
                mac: MacAddr([2, 0, 0, 0, 0, mac]),
                port: PortId(3),
            };
            Event::of(seq, at_ms, notice)
        };
        let checks = flaps(&[flap(1, 10, 1), flap(2, 100, 2), flap(3, 110, 2)], 50);
        assert_eq!(checks.len(), 1);
        assert!(checks[0].found.contains("told 2 times"), "{checks:?}");
    }
}
