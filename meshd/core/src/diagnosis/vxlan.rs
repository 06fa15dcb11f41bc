//! Where both nodes trust the underlay and the kernel's path is not taken all the same.
//!
//! The probes and their judge are of [`path`](crate::path); this says what they found, once for each peer and cause.

use super::{Finding, fail, list, span, warn, well};
use crate::path::Reason;
use crate::view::{Check, Path};
use std::collections::BTreeMap;

/// Of all rows of `meshd paths`.
#[must_use]
pub fn checks(paths: &[Path]) -> Vec<Check> {
    let kernel = paths.iter().filter(|path| path.kind == "kernel-vxlan");
    let (mut up, mut faults) = (Vec::new(), BTreeMap::<_, Vec<&Path>>::new());
    for path in kernel {
        match path.reason_code.and_then(fault) {
            // What waits after a failure has its cause in the history.
            None if path.reason_code == Some(Reason::Held) => {
                let last = path
                    .history
                    .iter()
                    .rev()
                    .find_map(|step| fault(step.reason));
                if let Some(last) = last {
                    faults
                        .entry((path.node.show(), last))
                        .or_default()
                        .push(path);
                }
            }
            None if path.active => up.push(path.node.show()),
            None => {}
            Some(fault) => faults
                .entry((path.node.show(), fault))
                .or_default()
                .push(path),
        }
    }
    let mut checks: Vec<Check> = faults
        .into_iter()
        .map(|((peer, code), rows)| told(&peer, code, &rows))
        .collect();
    up.sort();
    up.dedup();
    if !up.is_empty() {
        checks.push(well(
            "VXLAN",
            format!("passes, of the networks' MTU, to {}", list(&up)),
        ));
    }
    checks
}

fn fault(reason: Reason) -> Option<Finding> {
    match reason {
        Reason::UdpBlocked | Reason::OneWay => Some(Finding::VxlanBlocked),
        Reason::MtuHole => Some(Finding::VxlanMtu),
        Reason::OffloadBad | Reason::Altered => Some(Finding::VxlanOffload),
        Reason::Lossy => Some(Finding::UnderlayLossy),
        _ => None,
    }
}

fn told(peer: &str, code: Finding, rows: &[&Path]) -> Check {
    let mut networks: Vec<_> = rows
        .iter()
        .filter_map(|row| row.network.as_deref())
        .collect();
    networks.dedup();
    let first = rows.first();
    let remote = first.and_then(|row| row.remote);
    let reason = first.map_or("", |row| row.reason.as_str());
    let evidence = first.and_then(|row| row.evidence.as_deref());
    let found = format!(
        "{reason}{}{} (network {}); frames travel by QUIC",
        remote.map_or_else(String::new, |at| format!(", to {at}")),
        evidence.map_or_else(String::new, |text| format!(": {text}")),
        list(&networks)
    );
    let port = remote.map_or(4789, |at| at.port());
    let advice = match code {
        Finding::VxlanBlocked => format!(
            "on both hosts: `nft add rule inet filter input udp dport {port} accept` (or `ufw allow {port}/udp`), and the same in the cloud's security group"
        ),
        _ => first
            .and_then(|row| row.remedy.clone())
            .unwrap_or_else(|| code.remedy().to_owned()),
    };
    let name = format!("VXLAN to {peer}");
    match code {
        Finding::VxlanOffload => fail(code, name, found, advice),
        _ => warn(code, name, found, advice),
    }
}

/// Of the fence: packets that it dropped in the last `ms`, and since it is there. A few are of a member whose news came late.
#[must_use]
pub fn strangers(recent: u64, ms: u64, all: u64) -> Option<Check> {
    /// In the time that is looked at.
    const FEW: u64 = 3;
    (recent >= FEW).then(|| {
        warn(
            Finding::VxlanStranger,
            "VXLAN from outside",
            format!(
                "{recent} packets in {} with a VNI of the mesh, from an address that is no member's VTEP; the fence dropped them, and {all} in all",
                span(ms)
            ),
            "`meshd capture NETWORK drop fenced` shows them with the VTEP that they come from; declare it by `meshd network vtep add`, or stop it at its host",
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_sending_vxlan_from_outside_is_told_with_figures() {
        assert_eq!(strangers(2, 10_000, 500), None);
        let Some(check) = strangers(9, 10_000, 500) else {
            panic!("nine are told")
        };
        assert_eq!(check.code, Some(Finding::VxlanStranger));
        assert!(
            check.found.contains("9 packets in 10.0 s") && check.found.contains("500 in all"),
            "{check:?}"
        );
    }
    use crate::ident::NodeId;
    use crate::path::PathState;
    use crate::view::{NodeRef, PathStep};

    fn row(network: &str, reason: Reason) -> Path {
        Path {
            node: NodeRef {
                id: NodeId([2; 32]),
                name: Some("b".parse().unwrap()),
            },
            id: 0,
            kind: "kernel-vxlan".to_owned(),
            link: None,
            network: Some(network.to_owned()),
            active: reason == Reason::Proved,
            reason: reason.explain().to_owned(),
            reason_code: Some(reason),
            evidence: Some("0 of 12 answered".to_owned()),
            remedy: reason.remedy().map(str::to_owned),
            since_at_ms: None,
            history: Vec::new(),
            remote: Some("192.0.2.2:4789".parse().unwrap()),
            rtt_us: None,
            mtu: None,
            loss_ppm: None,
            window_bytes: None,
            cost: 0,
            kernel: None,
            jitter_us: None,
            used_kbps: None,
            avail_kbps: None,
        }
    }

    #[test]
    fn a_blocked_port_is_told_once_for_all_networks() {
        let checks = checks(&[
            row("lan", Reason::UdpBlocked),
            row("web", Reason::UdpBlocked),
        ]);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].code, Some(Finding::VxlanBlocked));
        assert!(
            checks[0].found.contains("network lan, web")
                && checks[0].found.contains("0 of 12 answered")
        );
        assert!(
            checks[0]
                .advice
                .as_deref()
                .unwrap()
                .contains("udp dport 4789 accept")
        );
    }

    #[test]
    fn a_path_that_waits_after_a_failure_still_has_its_cause() {
        let mut held = row("lan", Reason::Held);
        held.history.push(PathStep {
            at_ms: 1,
            from: PathState::Up,
            to: PathState::Up,
            reason: Reason::MtuHole,
            evidence: String::new(),
        });
        assert_eq!(checks(&[held])[0].code, Some(Finding::VxlanMtu));
    }

    #[test]
    fn what_is_not_trusted_is_no_fault_and_what_is_proved_is_well() {
        assert!(checks(&[row("lan", Reason::NotTrustedHere)]).is_empty());
        let up = checks(&[row("lan", Reason::Proved), row("web", Reason::Proved)]);
        assert!(up.len() == 1 && up[0].code.is_none());
    }
}
