//! Ports from inside: the interface's MTU, the mesh's name service, and the container's `resolv.conf`; and the servers that this
//! host's name service asks for what is not of the mesh.

use super::{Finding, list, warn, well};
use crate::view::Check;
use std::net::{IpAddr, SocketAddr};

/// What was found inside of a port's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// `port 3 (web.lan)`.
    pub port: String,
    /// Network's name.
    pub network: String,
    /// The far end's name.
    pub ifname: String,
    /// It leads to a LAN: what is there is others', and only how large packets are counts.
    pub lan: bool,
    /// What the port should have, and has; `None`: not known.
    pub mtu: Option<(u32, u32)>,
    /// Where names are asked for, and what came back; `None`: not asked, as where names are not served.
    pub asked: Option<(IpAddr, Asked)>,
    /// Name servers of the container's `resolv.conf`; `None`: it could not be found.
    pub servers: Option<Vec<IpAddr>>,
    /// The service addresses of its network.
    pub service: Vec<IpAddr>,
    /// How to enter it: `/run/netns/x`.
    pub netns: String,
}

/// What came back to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An answer after so many ms.
    Answered(u64),
    /// Nothing.
    Silent,
    /// The port could not be entered, or had no address to ask from.
    Untried,
}

/// Of each port that was visited.
#[must_use]
pub fn inside(ports: &[Inside]) -> Vec<Check> {
    let mut checks: Vec<Check> = ports.iter().filter_map(mtu).collect();
    checks.extend(ports.iter().filter_map(silent));
    checks.extend(ports.iter().filter_map(resolver));
    if checks.is_empty() && !ports.is_empty() {
        let answered = ports.iter().filter_map(|port| match port.asked {
            Some((_, Asked::Answered(ms))) => Some(ms),
            _ => None,
        });
        let slowest = answered.clone().max();
        let names = slowest.map_or_else(String::new, |ms| {
            format!(
                "; names are answered within {ms} ms in {}",
                answered.count()
            )
        });
        checks.push(well(
            "ports from inside",
            format!("{} looked at{names}", ports.len()),
        ));
    }
    checks
}

fn mtu(port: &Inside) -> Option<Check> {
    let (wanted, has) = port.mtu?;
    if port.lan {
        return (wanted != has).then(|| lan_mtu(port, wanted, has));
    }
    (wanted != has).then(|| {
        let cost = match has > wanted {
            true => "larger packets than the network carries are answered with \"too big\", or lost where that is filtered",
            false => "packets are smaller than they could be",
        };
        warn(
            Finding::PortMtu,
            &port.port,
            format!("{} inside of it has MTU {has}, network {} has {wanted}: {cost}", port.ifname, port.network),
            format!("`nsenter --net={} ip link set dev {} mtu {wanted}`", port.netns, port.ifname),
        )
    })
}

/// The interface of an uplink is the host's, and stations behind it have the LAN's MTU: it is the network that should fit.
fn lan_mtu(port: &Inside, network: u32, lan: u32) -> Check {
    let Inside {
        network: name,
        ifname,
        ..
    } = port;
    let (cost, advice) = match lan > network {
        true => (
            "stations that send larger packets are told so by ICMP, which not all of them heed",
            format!(
                "define the network with the MTU of its LANs: `meshd network add NAME --mtu {lan}` and attach there; it is fixed for {name}"
            ),
        ),
        false => (
            "larger packets do not enter the LAN",
            format!(
                "`ip link set dev {ifname} mtu {network}`, if the LAN carries that, or a network with `--mtu {lan}`"
            ),
        ),
    };
    warn(
        Finding::PortMtu,
        &port.port,
        format!("the LAN at {ifname} has MTU {lan}, network {name} has {network}: {cost}"),
        advice,
    )
}

fn silent(port: &Inside) -> Option<Check> {
    let (server, Asked::Silent) = port.asked? else {
        return None;
    };
    Some(warn(
        Finding::DnsSilent,
        format!("names in {}", port.network),
        format!(
            "{server} does not answer {} about names of the mesh",
            port.port
        ),
        format!(
            "is UDP 53 filtered inside (`nsenter --net={} nft list ruleset`), or its route taken (`ip route get {server}`)?",
            port.netns
        ),
    ))
}

fn resolver(port: &Inside) -> Option<Check> {
    let servers = port.servers.as_ref()?;
    // Who has none, or asks a stub on the loopback, is taken care of by somebody else.
    let own = servers.is_empty()
        || servers
            .iter()
            .any(|ip| ip.is_loopback() || port.service.contains(ip));
    let first = port.service.first()?;
    (!own && port.asked.is_some()).then(|| {
        warn(
            Finding::ResolverForeign,
            format!("resolver of {}", port.port),
            format!("its resolv.conf asks {}, who do not know names of the mesh; {first} does", list(servers)),
            format!("put `nameserver {first}` first in it (with `ip netns`: /etc/netns/NAME/resolv.conf), or say `--dns {first}` to the engine"),
        )
    })
}

/// Servers for names outside of the mesh, and whether each answered.
#[must_use]
pub fn upstream(servers: &[(SocketAddr, bool)], own_choice: bool) -> Check {
    let name = "names outside of the mesh";
    let place = if own_choice {
        "`upstream` under [dns]"
    } else {
        "/etc/resolv.conf"
    };
    let silent: Vec<_> = servers
        .iter()
        .filter(|(_, answers)| !answers)
        .map(|(server, _)| server)
        .collect();
    if servers.is_empty() {
        return warn(
            Finding::DnsUpstream,
            name,
            format!("are refused: {place} names no server"),
            "name one: `upstream = [\"9.9.9.9\"]` under [dns]",
        );
    }
    match silent.is_empty() {
        true => well(name, format!("{} of {place} answer", servers.len())),
        false if silent.len() == servers.len() => warn(
            Finding::DnsUpstream,
            name,
            format!("no server of {place} answers: {}", list(&silent)),
            format!("mend {place}, or let UDP 53 out"),
        ),
        false => warn(
            Finding::DnsUpstream,
            name,
            format!(
                "{} of {place} does not answer, so each question to it waits",
                list(&silent)
            ),
            format!("take it out of {place}"),
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn port() -> Inside {
        let service: IpAddr = "10.1.0.1".parse().unwrap();
        Inside {
            port: "port 1 (web.lan)".to_owned(),
            network: "lan".to_owned(),
            ifname: "eth0".to_owned(),
            lan: false,
            mtu: Some((1450, 1450)),
            asked: Some((service, Asked::Answered(3))),
            servers: Some(vec![service]),
            service: vec![service],
            netns: "/run/netns/x".to_owned(),
        }
    }

    fn codes(change: impl FnOnce(&mut Inside)) -> Vec<Finding> {
        let mut port = port();
        change(&mut port);
        inside(&[port])
            .iter()
            .filter_map(|check| check.code)
            .collect()
    }

    #[test]
    fn a_port_that_is_as_it_should_be_is_well() {
        assert!(codes(|_| {}).is_empty());
        assert!(codes(|port| port.servers = Some(vec!["127.0.0.53".parse().unwrap()])).is_empty());
        assert!(codes(|port| (port.servers, port.asked, port.mtu) = (None, None, None)).is_empty());
    }

    #[test]
    fn mtu_silence_and_a_foreign_resolver_are_told_apart() {
        assert_eq!(
            codes(|port| port.mtu = Some((1450, 1500))),
            [Finding::PortMtu]
        );
        assert_eq!(
            codes(|port| port.asked = Some((port.service[0], Asked::Silent))),
            [Finding::DnsSilent]
        );
        assert_eq!(
            codes(|port| port.servers = Some(vec!["8.8.8.8".parse().unwrap()])),
            [Finding::ResolverForeign]
        );
    }

    #[test]
    fn a_lan_behind_an_uplink_is_judged_by_its_mtu_alone_and_the_network_is_to_fit() {
        let lan = |mtu| Inside {
            lan: true,
            mtu: Some(mtu),
            asked: None,
            servers: None,
            ..port()
        };
        assert!(
            inside(&[lan((1500, 1500))])
                .iter()
                .all(|check| check.code.is_none())
        );
        for (mtu, advice) in [((1380, 1500), "--mtu 1500"), ((1500, 1400), "mtu 1500")] {
            let [check] = inside(&[lan(mtu)]).try_into().unwrap();
            assert_eq!(check.code, Some(Finding::PortMtu));
            let said = check.advice.unwrap();
            assert!(said.contains(advice) && !said.contains("nsenter"), "{said}");
        }
    }

    #[test]
    fn upstreams_that_are_missing_or_silent_are_told() {
        let server: SocketAddr = "192.0.2.53:53".parse().unwrap();
        assert_eq!(upstream(&[(server, true)], false).code, None);
        for servers in [
            &[][..],
            &[(server, false)],
            &[(server, false), (server, true)],
        ] {
            assert_eq!(upstream(servers, true).code, Some(Finding::DnsUpstream));
        }
    }
}
