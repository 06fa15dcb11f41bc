//! What of the node `meshd doctor` looks at, and what the node says of itself to others that ask.

use super::{links, missing_bridges, network_name, node_ref, show_conflict, show_port};
use crate::driver::World;
use meshd_core::command::PortRecord;
use meshd_core::diagnosis::{
    Finding, NetworkSaid, Testimony, agreement, claims, fail, nat, vxlan, warn, well,
};
use meshd_core::ident::{NodeId, Now, Vni, escape};
use meshd_core::node::Node;
use meshd_core::view::{Check, Conflict, Doctor, PortState};
use std::collections::BTreeMap;

/// A membership that ends within this, in ms, is told.
const MEMBERSHIP_MS: u64 = 7 * 86_400_000;
/// A session that is so old has found its MTU, in ms.
const SEARCHED_MS: u64 = 15_000;

/// What only the running daemon knows for `meshd doctor`.
pub(crate) fn doctor(node: &Node, world: &World<'_>, now: Now) -> Doctor {
    let mut checks = membership(node, now);
    checks.extend(world.unkept.map(|why| {
        fail(
            Finding::StateUnkept,
            "state",
            format!("cannot be kept: {why}; traffic goes on, changes are refused"),
            "make room where the state folder is, or mount it writable (`df -h`, `dmesg`)",
        )
    }));
    checks.extend(world.refused_config.map(|why| {
        let advice = "mend the file: `meshd config check FILE` says when it is right, and the daemon reads it by itself";
        fail(Finding::ConfigInvalid, "config of the daemon", why, advice)
    }));
    for (port, reason) in node.guard().blocks() {
        let advice =
            "take one of the two ways between the LANs away: detach an uplink, or pull the cable";
        let found = format!("port {port} is blocked: {reason}");
        checks.push(warn(Finding::LoopBlocked, "loops", found, advice));
    }
    for missing in missing_bridges(node) {
        let advice = "see to whoever makes it, or detach the port";
        checks.push(warn(Finding::BridgeMissing, "bridges", missing, advice));
    }
    for (vni, reason) in node.planes().problems() {
        let name = format!("network {} in the kernel", network_name(node, vni));
        let advice =
            "the daemon tries again; `meshd events --kind kernel-trouble` has the kernel's answers";
        checks.push(warn(Finding::NetworkInKernel, name, reason, advice));
    }
    for (port, state, reason) in node.ports().iter() {
        if node.ports().is_down(port.id) {
            let name = show_port(node, port.id);
            let (found, advice) = down(port, reason.unwrap_or_default());
            checks.push(warn(Finding::PortDown, name, found, advice));
        }
        if state == PortState::Failed {
            let found = format!(
                "could not be wired: {}",
                reason.unwrap_or("no reason was given")
            );
            let advice = "does the namespace still exist? `meshd ports` shows it; `meshd detach` gives it up";
            checks.push(warn(
                Finding::PortFailed,
                show_port(node, port.id),
                found,
                advice,
            ));
        }
    }
    let conflicts: Vec<Conflict> = node
        .directory()
        .conflicts()
        .map(|conflict| show_conflict(node, &conflict))
        .collect();
    checks.extend(claims::conflicts(&conflicts));
    checks.push(advertised(node));
    checks.push(sessions(node));
    checks.extend(twins(node, now));
    checks.extend(datagrams(node, world));
    checks.extend(versions(node));
    checks.extend(vxlan::checks(&super::paths(node, world, now)));
    checks.extend(links::checks(node));
    Doctor { checks }
}

/// Of a port whose interface is down: what that means, and what raises it.
fn down(port: &PortRecord, reason: &str) -> (String, String) {
    let found = format!("is wired, {reason}; all frames to it are lost there");
    let name = &port.ifname;
    let advice = match (port.kind.uplink(), port.netns.path()) {
        (Some(_), _) => format!("is the cable in, and its far end up? `ip link show {name}`"),
        (None, netns) => format!(
            "`nsenter --net={} ip link set dev {name} up`, or the same `meshd attach` again; who set it down in there?",
            escape(netns)
        ),
    };
    (found, advice)
}

fn membership(node: &Node, now: Now) -> Vec<Check> {
    if let Some(revoked) = node.mesh().revoked() {
        let (found, advice) = revoked.split_once("; ").unwrap_or((&revoked, ""));
        return vec![fail(
            Finding::MembershipRevoked,
            "membership",
            found,
            advice,
        )];
    }
    let directory = node.directory();
    let ends = directory
        .members()
        .filter_map(|member| Some((member, member.expires?.0)));
    ends.filter(|(_, ends)| *ends < now.wall.0.saturating_add(MEMBERSHIP_MS))
        .map(|(member, ends)| {
            let name = format!("membership of {}", member.name);
            let advice = format!(
                "on the node with the root key `meshd invite`, and `meshd join` on {} again before that",
                member.name
            );
            match ends.checked_sub(now.wall.0) {
                Some(left) => {
                    let found = format!("ends in {} hours", left / 3_600_000);
                    warn(Finding::MembershipEnds, name, found, advice)
                }
                None => fail(Finding::MembershipEnds, name, "has ended, by this host's clock", advice),
            }
        })
        .collect()
}

fn advertised(node: &Node) -> Check {
    let advert = node.directory().advert(node.id());
    let addresses = advert.map(|advert| advert.addresses.as_slice());
    let shown: Vec<_> = addresses
        .into_iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    let name = "advertised addresses";
    match shown.is_empty() {
        true => warn(
            Finding::NotAdvertised,
            name,
            "none: other nodes cannot dial this one",
            "give the host an address, or set `advertise` under [underlay]",
        ),
        false => well(name, shown.join(", ")),
    }
}

fn sessions(node: &Node) -> Check {
    let peers = node.mesh().peers();
    let unreached: Vec<String> = peers
        .iter()
        .filter(|peer| peer.session.is_none())
        .map(|peer| {
            let why = peer.last_error.as_deref().unwrap_or("being dialed");
            format!("{}: {why}", node.directory().show(peer.node))
        })
        .collect();
    match (peers.len(), unreached.is_empty()) {
        (0, _) => well("peers", "this node is the only member"),
        (all, true) => well("peers", format!("sessions with all {all}")),
        (..) => warn(
            Finding::PeerUnreached,
            "peers",
            format!("no session with {}", unreached.join("; ")),
            "see `meshd peers`, and what is said here of the way to each; one that is gone for good is taken out by `meshd revoke`",
        ),
    }
}

fn twins(node: &Node, now: Now) -> impl Iterator<Item = Check> {
    let twins = node.mesh().twins(now.moment);
    twins.map(|(twin, here, there)| {
        let name = node.directory().show(twin);
        let found = format!(
            "two hosts run with its key: {here}, which has the session, and {there}, which is refused"
        );
        let advice = "on the one that is the copy: stop meshd, remove its state folder, and join by an invite of its own";
        fail(Finding::KeyTwice, format!("key of {name}"), found, advice)
    })
}

fn datagrams(node: &Node, world: &World<'_>) -> Option<Check> {
    let peers = node.mesh().peers();
    let narrowest = peers
        .iter()
        .filter_map(|peer| world.underlay.stats(peer.session?)?.datagram_max)
        .min()?;
    let networks = node.directory().networks();
    let widest = networks.map(|def| usize::from(def.mtu) + 14).max()?;
    let found = match widest > narrowest {
        true => format!(
            "frames of up to {widest} bytes travel in pieces of {narrowest}: right, but slower"
        ),
        false => format!("frames of up to {widest} bytes fit in one datagram ({narrowest})"),
    };
    Some(well("MTU", found))
}

fn versions(node: &Node) -> Option<Check> {
    let directory = node.directory();
    let others = directory.members().filter(|member| {
        // Of one that is gone the last word may be old.
        member.node != node.id() && directory.reachable(member.node)
    });
    let told: BTreeMap<String, String> = others
        .filter_map(|member| {
            let advert = directory.advert(member.node)?;
            Some((member.name.to_string(), advert.version.clone()))
        })
        .collect();
    agreement::versions(&node.config().version, &told)
}

/// What this node says of itself to `asker`; chains are the shell's to say, by VNI.
pub(crate) fn testimony(
    node: &Node,
    world: &World<'_>,
    now: Now,
    asker: NodeId,
    mut chains: BTreeMap<Vni, Vec<String>>,
) -> Testimony {
    let session = node.mesh().session_of(asker);
    let stats = session.and_then(|session| world.underlay.stats(session));
    let networks = node.directory().networks().map(|def| {
        let mut subnets = def.subnets.clone();
        subnets.sort();
        let ports = node.ports().iter().filter(|(port, ..)| port.vni == def.vni);
        NetworkSaid {
            name: def.name.to_string(),
            vni: def.vni,
            mtu: def.mtu,
            subnets,
            ports: super::count(ports),
            chain: chains.remove(&def.vni).unwrap_or_default(),
        }
    });
    Testimony {
        wall_ms: now.wall.0,
        version: node.config().version.clone(),
        sees: stats.map(|stats| stats.remote),
        mtu: stats.map(|stats| stats.mtu),
        networks: networks.collect(),
        trusted: node.planes().trusted().to_vec(),
        vxlan_port: node.planes().vxlan_port(),
    }
}

/// What a NAT would be known by, without what peers see: that is asked of them.
pub(crate) fn nat(node: &Node, world: &World<'_>) -> nat::Facts {
    let advert = node.directory().advert(node.id());
    nat::Facts {
        port: world.underlay.port(),
        advertised: advert
            .map(|advert| advert.addresses.clone())
            .unwrap_or_default(),
        ..nat::Facts::default()
    }
}

/// Largest UDP payloads to peers, as sessions found them that had the time to.
pub(crate) fn payloads(node: &Node, world: &World<'_>, now: Now) -> BTreeMap<String, u16> {
    let peers = node.mesh().peers().into_iter();
    peers
        .filter(|peer| {
            let is_old = |since| now.moment.ms_since(since) >= SEARCHED_MS;
            peer.since.is_some_and(is_old)
        })
        .filter_map(|peer| {
            let stats = world.underlay.stats(peer.session?)?;
            Some((node_ref(node, peer.node).show(), stats.mtu))
        })
        .collect()
}

/// Peers with a session, and how they are called.
pub(crate) fn askable(node: &Node) -> Vec<(NodeId, String)> {
    let peers = node.mesh().peers().into_iter();
    peers
        .filter(|peer| peer.session.is_some())
        .map(|peer| (peer.node, node_ref(node, peer.node).show()))
        .collect()
}
