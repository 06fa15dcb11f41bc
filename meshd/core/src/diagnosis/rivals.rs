//! What others have in the kernel that stands where meshd should, and what they did to its own.

use super::{Finding, fail, warn};
use crate::ident::Vni;
use crate::notice::Notice;
use crate::view::{Check, Event};

/// A VXLAN device of this host, on the UDP port of meshd's, that is not meshd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its name, as shown.
    pub device: String,
    /// What it takes; `None`: all VNIs (`external`).
    pub vni: Option<u32>,
}

/// Devices that take what is a network's, by name and VNI. `port`: the UDP port.
#[must_use]
pub fn vxlans(rivals: &[Rival], networks: &[(String, Vni)], port: u16) -> Vec<Check> {
    let told = |rival: &Rival, takes: String| {
        let device = &rival.device;
        fail(
            Finding::VxlanForeign,
            format!("VXLAN device {device}"),
            format!(
                "{device} is not meshd's and takes {takes} on UDP port {port}: the kernel delivers to one device only, so frames of that network travel by QUIC, or to {device}"
            ),
            format!(
                "`ip link del {device}` if nobody needs it; else give the network another VNI, or set another `vxlan_port` under [underlay] on all nodes"
            ),
        )
    };
    let mut checks = Vec::new();
    for rival in rivals {
        match rival.vni {
            None if !networks.is_empty() => checks.push(told(rival, "all VNIs".to_owned())),
            None => {}
            Some(vni) => {
                let taken = networks.iter().filter(|(_, own)| own.get() == vni);
                let takes = |(name, vni): &(String, Vni)| format!("VNI {vni} of network {name}");
                checks.extend(taken.map(|network| told(rival, takes(network))));
            }
        }
    }
    checks
}

/// What was changed by others and put right again between `since_ms` and now, by the events.
#[must_use]
pub fn meddling(events: &[Event], since_ms: u64) -> Option<Check> {
    let recent = events.iter().filter(|event| event.at_ms >= since_ms);
    let repairs: Vec<&Event> = recent
        .filter(|event| {
            matches!(
                event.notice,
                Notice::KernelRepaired { .. } | Notice::PortMended { .. }
            )
        })
        .collect();
    let last = repairs.last()?;
    let times = match repairs.len() {
        1 => "once".to_owned(),
        many => format!("{many} times"),
    };
    Some(warn(
        Finding::KernelMeddled,
        "kernel state",
        format!(
            "somebody else changed what meshd has in the kernel {times} in the last ten minutes; it was put right. The last: {}",
            last.text
        ),
        "find out who (`meshd events --kind kernel-repaired`): a firewall that is loaded anew by `nft flush ruleset` should flush its own tables only; network managers should leave devices with the alias `meshd:…` alone",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_takes_a_networks_vni_or_all_is_told() {
        let vni = Vni::new(4242).unwrap();
        let rival = |vni| Rival {
            device: "flannel.1".to_owned(),
            vni,
        };
        let networks = [("lan".to_owned(), vni)];
        let found = |vni| vxlans(&[rival(vni)], &networks, 4789);
        assert!(found(Some(1)).is_empty());
        assert!(vxlans(&[rival(None)], &[], 4789).is_empty());
        let own = found(Some(4242));
        assert!(own[0].found.contains("VNI 4242 of network lan"), "{own:?}");
        assert!(found(None)[0].found.contains("all VNIs"));
    }

    #[test]
    fn repairs_of_the_last_minutes_are_counted_and_old_ones_left_alone() {
        let repair = |seq, at_ms| {
            let notice = Notice::KernelRepaired {
                vni: Vni::new(7).unwrap(),
                network: "lan".to_owned(),
                what: "its filter is gone".to_owned(),
            };
            Event::of(seq, at_ms, notice)
        };
        assert_eq!(meddling(&[repair(1, 10)], 50), None);
        let check = meddling(&[repair(1, 10), repair(2, 60), repair(3, 70)], 50).unwrap();
        assert!(check.found.contains("2 times"), "{check:?}");
        assert!(check.found.contains("its filter is gone"), "{check:?}");
    }
}
