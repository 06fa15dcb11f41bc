//! What probes of peers' addresses came to: does UDP pass, does the host answer at all, and how large may a packet be?
//!
//! The probe is a QUIC packet of a version that nobody speaks. An endpoint answers it, if it has 1200 bytes or more, with the
//! versions that it does speak, and remembers nothing (RFC 9000 §5.2.2, §6.1; RFC 8999 §6). So any peer that listens can be
//! probed, at each size, from a socket of its own.

use super::{Finding, fail, list, warn, well};
use crate::view::Check;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Smaller ones are not answered, and QUIC does not work where they do not pass (RFC 9000 §14.1).
pub const PROBE_MIN: u16 = 1200;

/// An address of a peer, and what came of probing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Name of the peer, or its short id.
    pub peer: String,
    /// Of its endpoint.
    pub address: SocketAddr,
    /// There is a session with the peer, by whatever address.
    pub session: bool,
    /// What came back.
    pub answer: Answer,
    /// Did the host answer to ICMP echoes?
    pub echo: Echo,
    /// The interface that they left by, and its MTU.
    pub device: Option<(String, u32)>,
}

/// What came back to datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Answers.
    Sizes {
        /// Largest UDP payload that was answered.
        passes: u16,
        /// Smallest larger one that was sent and not answered, if there was one: above the first, sizes get lost.
        lost: Option<u16>,
        /// A router said so, by ICMP "fragmentation needed" or "packet too big": no black hole.
        told: bool,
    },
    /// Nobody listens there (ICMP port unreachable).
    Refused,
    /// A router or this host says that there is no way (ICMP unreachable, no route).
    Unreachable(String),
    /// This host's firewall refuses to send (EPERM).
    Forbidden,
    /// Nothing.
    Silent,
    /// The time was over before it was known.
    Unfinished,
}

/// What came back to echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// To small ones and to those of the size of the smallest QUIC packet.
    All,
    /// To small ones only.
    Small,
    /// Nothing.
    Nothing,
    /// Not tried: not needed, or no right to.
    Untried,
}

/// All of it. Of a peer with a session only what is wrong with the size of packets is of interest.
#[must_use]
pub fn checks(probed: &[Probed]) -> Vec<Check> {
    let mut peers: BTreeMap<&str, Vec<&Probed>> = BTreeMap::new();
    for one in probed {
        peers.entry(&one.peer).or_default().push(one);
    }
    let mut checks = Vec::new();
    let mut whole = Vec::new();
    for (peer, addresses) in peers {
        for one in &addresses {
            checks.extend(size(one));
            match one.answer {
                Answer::Sizes {
                    passes, lost: None, ..
                } => {
                    whole.push(format!("{peer} at {} takes {passes}", one.address));
                }
                Answer::Sizes {
                    passes, told: true, ..
                } => whole.push(format!(
                    "{peer} at {} takes {passes}, and a router says so when more is sent",
                    one.address
                )),
                _ => {}
            }
        }
        match addresses.iter().any(|one| one.session) {
            // A session ends some seconds after its way.
            true => checks.extend(forbidden(peer, &addresses)),
            false => checks.extend(unreached(peer, &addresses)),
        }
        let unfinished = addresses
            .iter()
            .filter(|one| one.answer == Answer::Unfinished);
        let unfinished: Vec<_> = unfinished.map(|one| one.address).collect();
        if !unfinished.is_empty() {
            checks.push(warn(
                Finding::ProbeUnfinished,
                format!("packet sizes to {peer}"),
                format!("{}: not known when the time was over", list(&unfinished)),
                "run `meshd doctor` again",
            ));
        }
    }
    if !whole.is_empty() {
        checks.insert(
            0,
            well(
                "packet sizes",
                format!("payload of UDP, in bytes: {}", list(&whole)),
            ),
        );
    }
    checks
}

fn size(one: &Probed) -> Option<Check> {
    let name = format!("packet sizes to {}", one.peer);
    let Answer::Sizes {
        passes,
        lost: Some(lost),
        told: false,
    } = one.answer
    else {
        return None;
    };
    let (device, mtu) = match &one.device {
        Some((device, mtu)) => (device.clone(), format!("; {device} here has MTU {mtu}")),
        None => ("IFNAME".to_owned(), String::new()),
    };
    let headers = if one.address.is_ipv6() { 48 } else { 28 };
    let packet = u32::from(passes) + headers;
    let found = format!(
        "datagrams above {passes} bytes of payload are lost on the way to {} at {}, and nothing says so: those of {lost} were sent, packets of {packet} bytes pass{mtu}",
        one.peer, one.address
    );
    let advice = format!(
        "`ip link set dev {device} mtu {packet}` on the hosts with that uplink, or let ICMP \"fragmentation needed\" pass on the routers between; \
         networks that are to travel by VXLAN want an MTU of {} at most",
        packet.saturating_sub(headers + 22)
    );
    Some(warn(Finding::UnderlayMtuHole, name, found, advice))
}

/// This host does not let the daemon send.
fn forbidden(peer: &str, addresses: &[&Probed]) -> Option<Check> {
    let forbidden = addresses
        .iter()
        .filter(|one| one.answer == Answer::Forbidden)
        .map(|one| one.address);
    let forbidden: Vec<SocketAddr> = forbidden.collect();
    let first = forbidden.first()?;
    Some(fail(
        Finding::LocalFirewall,
        format!("way to {peer}"),
        format!(
            "this host's own firewall refuses UDP to {}",
            list(&forbidden)
        ),
        format!(
            "let it out: `nft list ruleset` shows the chain with hook output; accept `udp dport {}`",
            first.port()
        ),
    ))
}

/// The best of what the addresses of a peer without a session say.
fn unreached(peer: &str, addresses: &[&Probed]) -> Option<Check> {
    let name = format!("way to {peer}");
    let with = |wanted: &dyn Fn(&Probed) -> bool| -> Vec<SocketAddr> {
        let matching = addresses.iter().filter(|one| wanted(one));
        matching.map(|one| one.address).collect()
    };
    let answered = with(&|one| matches!(one.answer, Answer::Sizes { .. }));
    if let [first, ..] = answered.as_slice() {
        return Some(warn(
            Finding::PeerUnreached,
            name,
            format!("a QUIC endpoint answers at {first}, but there is no session"),
            "`meshd peers` has the reason; another node may have that address now, or its membership does not hold",
        ));
    }
    if let Some(check) = forbidden(peer, addresses) {
        return Some(check);
    }
    let refused = with(&|one| one.answer == Answer::Refused);
    if !refused.is_empty() {
        return Some(warn(
            Finding::PeerRefuses,
            name,
            format!("the host answers that nobody listens on {}", list(&refused)),
            format!(
                "is the daemon of {peer} running (`systemctl status meshd` there), and on this port?"
            ),
        ));
    }
    let narrow = with(&|one| one.answer == Answer::Silent && one.echo == Echo::Small);
    if !narrow.is_empty() {
        return Some(fail(
            Finding::UnderlayMtuSmall,
            name,
            format!(
                "small pings to {} are answered, those of {} bytes are not: the path carries no packet that QUIC needs",
                list(&narrow),
                u32::from(PROBE_MIN) + 28
            ),
            "raise the MTU of the tunnel or link between the hosts to 1280 or more",
        ));
    }
    let blocked = with(&|one| one.answer == Answer::Silent && one.echo == Echo::All);
    if let [first, ..] = blocked.as_slice() {
        return Some(fail(
            Finding::PeerUdpBlocked,
            name,
            format!(
                "UDP to {} is not answered, while the host answers to ping: a firewall there or on the way drops UDP, or the daemon does not answer",
                list(&blocked)
            ),
            format!(
                "on {peer}: `nft add rule inet filter input udp dport {0} accept` (or `ufw allow {0}/udp`), and the same in the cloud's security group",
                first.port()
            ),
        ));
    }
    let unreachable = addresses.iter().find_map(|one| match &one.answer {
        Answer::Unreachable(why) => Some(format!("{}: {why}", one.address)),
        _ => None,
    });
    let silent = with(&|one| one.answer == Answer::Silent);
    let found = match (silent.is_empty(), unreachable) {
        (false, _) => format!(
            "nothing comes back from {}, neither to UDP nor to ping",
            list(&silent)
        ),
        (true, Some(why)) => why,
        (true, None) => return None,
    };
    Some(warn(
        Finding::PeerSilent,
        name,
        found,
        "is the host up, and the address right from here (`meshd members`, `ip route get ADDRESS`)? Behind a router it wants a port forwarding and `advertise`",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::view::CheckState;

    fn probed(answer: Answer, echo: Echo, session: bool) -> Probed {
        Probed {
            peer: "b".to_owned(),
            address: "192.0.2.2:7650".parse().unwrap(),
            session,
            answer,
            echo,
            device: Some(("und0".to_owned(), 1500)),
        }
    }

    fn codes(probed: &[Probed]) -> Vec<Finding> {
        checks(probed)
            .iter()
            .filter_map(|check| check.code)
            .collect()
    }

    #[test]
    fn a_hole_is_told_with_its_size_and_the_line_to_type() {
        let hole = probed(
            Answer::Sizes {
                passes: 1372,
                lost: Some(1373),
                told: false,
            },
            Echo::Untried,
            true,
        );
        let checks = checks(&[hole]);
        assert_eq!(checks[0].code, Some(Finding::UnderlayMtuHole));
        assert!(
            checks[0].found.contains("above 1372 bytes")
                && checks[0].found.contains("und0 here has MTU 1500")
        );
        let advice = checks[0].advice.as_deref().unwrap();
        assert!(
            advice.contains("ip link set dev und0 mtu 1400") && advice.contains("MTU of 1350"),
            "{advice}"
        );
    }

    #[test]
    fn what_passes_whole_is_well_with_or_without_a_session() {
        let whole = Answer::Sizes {
            passes: 1472,
            lost: None,
            told: false,
        };
        let with = checks(&[probed(whole.clone(), Echo::Untried, true)]);
        assert!(
            with.len() == 1 && with[0].state == CheckState::Ok && with[0].found.contains("1472")
        );
        assert_eq!(
            codes(&[probed(whole, Echo::Untried, false)]),
            [Finding::PeerUnreached]
        );
    }

    #[test]
    fn a_smaller_size_that_a_router_tells_is_no_hole() {
        let told = Answer::Sizes {
            passes: 1372,
            lost: Some(1373),
            told: true,
        };
        let checks = checks(&[probed(told, Echo::Untried, true)]);
        assert!(
            checks.len() == 1
                && checks[0].code.is_none()
                && checks[0].found.contains("a router says so")
        );
    }

    #[test]
    fn a_firewall_of_this_host_is_named_before_the_session_has_ended() {
        let of = |session| codes(&[probed(Answer::Forbidden, Echo::Untried, session)]);
        assert_eq!(of(true), [Finding::LocalFirewall]);
        assert_eq!(of(false), [Finding::LocalFirewall]);
        assert_eq!(codes(&[probed(Answer::Silent, Echo::Nothing, true)]), []);
    }

    #[test]
    fn each_silence_has_its_own_name() {
        let of = |answer, echo| codes(&[probed(answer, echo, false)]);
        assert_eq!(of(Answer::Silent, Echo::All), [Finding::PeerUdpBlocked]);
        assert_eq!(of(Answer::Silent, Echo::Small), [Finding::UnderlayMtuSmall]);
        assert_eq!(of(Answer::Silent, Echo::Nothing), [Finding::PeerSilent]);
        assert_eq!(of(Answer::Silent, Echo::Untried), [Finding::PeerSilent]);
        assert_eq!(of(Answer::Refused, Echo::All), [Finding::PeerRefuses]);
        assert_eq!(of(Answer::Forbidden, Echo::All), [Finding::LocalFirewall]);
        assert_eq!(
            of(Answer::Unreachable("no route".into()), Echo::Untried),
            [Finding::PeerSilent]
        );
        assert_eq!(
            of(Answer::Unfinished, Echo::Untried),
            [Finding::ProbeUnfinished]
        );
        // With a session the peer is reached, by whatever address.
        assert!(codes(&[probed(Answer::Silent, Echo::All, true)]).is_empty());
    }

    #[test]
    fn of_several_addresses_the_one_that_says_most_is_told() {
        let mut other = probed(Answer::Silent, Echo::Nothing, false);
        other.address = "198.51.100.2:7650".parse().unwrap();
        assert_eq!(
            codes(&[other, probed(Answer::Refused, Echo::All, false)]),
            [Finding::PeerRefuses]
        );
    }
}
