//! From the text of a packet to the frame that a port or peer would send: who has which address is looked up in the views.
//!
//! Owns the guesses that a person expects (the sender is who has the source address) and the words when there is nothing to
//! guess from. What becomes of the frame is the node's to say.

use crate::api::requests::invalid;
use meshd_core::command::{Refusal, RefusalCode, TraceSpec};
use meshd_core::flow::Origin;
use meshd_core::flowtext::Packet;
use meshd_core::ident::{MacAddr, escape};
use meshd_core::view::{FdbEntry, Network, Port};
use std::net::IpAddr;

fn unknown(message: String) -> Refusal {
    Refusal {
        code: RefusalCode::NotFound,
        message,
    }
}

/// The network called `text`, by name or VNI.
pub(super) fn network<'a>(networks: &'a [Network], text: &str) -> Result<&'a Network, Refusal> {
    networks
        .iter()
        .find(|n| n.name.as_str() == text.to_ascii_lowercase() || n.vni.to_string() == text)
        .ok_or_else(|| {
            unknown(format!(
                "there is no network \"{}\"; `meshd network ls` shows those there are",
                escape(text.as_bytes())
            ))
        })
}

/// The frame that `packet` means on `network`, and where it comes from.
pub(super) fn spec(
    packet: &Packet,
    network: &Network,
    ports: &[Port],
    fdb: &[FdbEntry],
) -> Result<TraceSpec, Refusal> {
    let ports: Vec<&Port> = ports.iter().filter(|p| p.vni == network.vni).collect();
    let fdb: Vec<&FdbEntry> = fdb.iter().filter(|e| e.vni == network.vni).collect();
    let sender = owner(packet.src, &ports, &fdb);
    let (origin, own_mac) = match &packet.from {
        Some(from) => explicit(from, network, &ports, &fdb)?,
        None => sender.ok_or_else(|| {
            unknown(format!(
                "nobody on network {} has {}; say where the packet comes from: `from PORT` or `from peer NODE`",
                network.name, packet.src
            ))
        })?,
    };
    // From a port that does not have the source address the frame has the port's own MAC: that is the question then.
    let src_mac = match (origin, sender, own_mac) {
        (Origin::Peer(_), Some((_, mac)), _) => mac,
        (_, _, mac) => mac,
    };
    let dst_mac = match packet.group_mac() {
        Some(mac) => mac,
        None if packet.via.is_none() && broadcast_of(network, packet.dst) => MacAddr::BROADCAST,
        None => {
            let hop = packet.via.unwrap_or(packet.dst);
            owner(hop, &ports, &fdb)
                .map(|(_, mac)| mac)
                .ok_or_else(|| nobody(network, hop))?
        }
    };
    Ok(TraceSpec {
        vni: network.vni,
        origin,
        frame: packet.frame(src_mac, dst_mac),
    })
}

fn owner(ip: IpAddr, ports: &[&Port], fdb: &[&FdbEntry]) -> Option<(Origin, MacAddr)> {
    let port = ports
        .iter()
        .find(|p| p.ips.iter().any(|net| net.addr() == ip))
        .map(|p| (Origin::Port(p.id), p.mac));
    port.or_else(|| {
        let entry = fdb.iter().find(|e| e.ips.contains(&ip))?;
        Some((
            entry.port.map_or(Origin::Peer(entry.node.id), Origin::Port),
            entry.mac,
        ))
    })
}

fn explicit(
    from: &str,
    network: &Network,
    ports: &[&Port],
    fdb: &[&FdbEntry],
) -> Result<(Origin, MacAddr), Refusal> {
    if let Some(peer) = from.strip_prefix("peer ") {
        let is = |e: &&&FdbEntry| {
            e.port.is_none()
                && (e.node.show() == peer
                    || e.node.id.short() == peer
                    || e.node.id.to_string() == peer)
        };
        return fdb
            .iter()
            .find(is)
            .map(|e| (Origin::Peer(e.node.id), e.mac))
            .ok_or_else(|| {
                unknown(format!(
                    "peer \"{}\" has no endpoint on network {}; see `meshd fdb`",
                    escape(peer.as_bytes()),
                    network.name
                ))
            });
    }
    let is = |p: &&&Port| {
        p.id.to_string() == from
            || p.name.as_ref().is_some_and(|name| {
                name.as_str() == from || format!("{name}.{}", p.network) == from
            })
    };
    ports
        .iter()
        .find(is)
        .map(|p| (Origin::Port(p.id), p.mac))
        .ok_or_else(|| {
            unknown(format!(
                "this node has no port \"{}\" on network {}; see `meshd ports`",
                escape(from.as_bytes()),
                network.name
            ))
        })
}

fn broadcast_of(network: &Network, ip: IpAddr) -> bool {
    network.subnets.iter().any(|net| matches!(net, ipnet::IpNet::V4(v4) if v4.prefix_len() < 31 && IpAddr::V4(v4.broadcast()) == ip))
}

fn nobody(network: &Network, ip: IpAddr) -> Refusal {
    if network.subnets.iter().any(|net| net.contains(&ip)) {
        let ask = if ip.is_ipv4() { "arp" } else { "nd" };
        unknown(format!(
            "nobody on network {} has {ip}, so the sender would ask for its MAC, get no answer and send nothing; \
             see `meshd fdb`, or trace the question: `{ask} who-has {ip} tell ...`",
            network.name
        ))
    } else {
        invalid(format!(
            "{ip} is in no subnet of network {}, and meshd does not route: \
             name the next hop as `via ADDRESS`, or ask on the network that has it",
            network.name
        ))
    }
}
