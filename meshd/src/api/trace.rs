//! From the text of a packet to the frame that a port or peer would send: who has which address is looked up in the views.
//!
//! Owns the guesses that a person expects (the sender is who has the source address; a station of a LAN sends under a MAC that was
//! heard there; who has an unknown address is asked first) and the words when there is nothing to guess from. What becomes of the frame is the node's to say.

use crate::api::backend::Backend;
use meshd_core::code::ErrorCode;
use meshd_core::command::{Refusal, TraceSpec};
use meshd_core::flow::Origin;
use meshd_core::flowtext::Packet;
use meshd_core::ident::{MacAddr, PortId, escape};
use meshd_core::view::{FdbEntry, FdbKind, Member, MemberState, Network, Port, VtepRow};
use meshd_core::wire::datagram::FRAME_MAX;
use std::net::IpAddr;

/// The network called `text`, by name or VNI.
pub(super) fn network<'a>(networks: &'a [Network], text: &str) -> Result<&'a Network, Refusal> {
    networks
        .iter()
        .find(|n| n.name.as_str() == text.to_ascii_lowercase() || n.vni.to_string() == text)
        .ok_or_else(|| {
            Refusal::new(
                ErrorCode::NetworkUnknown,
                format!(
                    "there is no network \"{}\"; `meshd network ls` shows those there are",
                    escape(text.as_bytes())
                ),
            )
        })
}

/// The frame that `text` means on a network, and where it comes from: a packet in words, or `hex DIGITS from WHERE`.
pub(crate) async fn resolve<B: Backend>(
    backend: &B,
    wanted: &str,
    text: &str,
) -> Result<TraceSpec, Refusal> {
    let networks = backend.networks().await?;
    let network = network(&networks, wanted)?;
    let (ports, fdb) = (backend.ports().await?, backend.fdb().await?);
    let vteps = backend.vteps().await?;
    let scene = Scene::of(network, &ports, &fdb, &vteps);
    if let Some(rest) = text.trim_start().strip_prefix("hex ") {
        return scene.frame(rest);
    }
    let packet: Packet = text
        .parse()
        .map_err(|e| Refusal::new(ErrorCode::TraceInvalid, format!("{e}")))?;
    match scene.spec(&packet) {
        Err(refusal) if refusal.code == ErrorCode::EndpointUnknown => {
            Err(with_who_is_away(refusal, &backend.members().await?))
        }
        found => found,
    }
}

/// An address may be unknown because the node that has it is gone: its endpoints are withdrawn with it.
fn with_who_is_away(mut refusal: Refusal, members: &[Member]) -> Refusal {
    let away = members
        .iter()
        .filter(|member| matches!(member.state, MemberState::Dead | MemberState::Unknown));
    let names: Vec<&str> = away.map(|member| member.name.as_str()).collect();
    if let [first, rest @ ..] = names.as_slice() {
        let more = match rest.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let away = "not reached at the moment, and what they have is not known";
        refusal.message = format!("{}; {away}: {first}{more}", refusal.message);
    }
    refusal
}

/// The bytes of hex digits.
pub(crate) fn decode(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = digits
        .chars()
        .map(|c| u8::try_from(c.to_digit(16)?).ok())
        .collect();
    let pairs = digits?;
    let pairs = pairs.chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(high << 4 | low),
            _ => None,
        })
        .collect()
}

/// A station of a LAN of which nothing is known sends under this MAC: local, and no endpoint's.
const MADE_UP: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);

/// Where a traced frame comes from, and the MAC that it has then.
enum Sender {
    /// An endpoint's own.
    Known(Origin, MacAddr),
    /// One of the stations behind this port: an uplink, a bridge, or that of foreign VTEPs.
    Behind(Origin, PortId),
}

/// What is known of a network.
struct Scene<'a> {
    network: &'a Network,
    ports: Vec<&'a Port>,
    fdb: Vec<&'a FdbEntry>,
    vteps: Vec<&'a VtepRow>,
}

impl<'a> Scene<'a> {
    fn of(
        network: &'a Network,
        ports: &'a [Port],
        fdb: &'a [FdbEntry],
        vteps: &'a [VtepRow],
    ) -> Self {
        let vni = network.vni;
        Self {
            network,
            ports: ports.iter().filter(|p| p.vni == vni).collect(),
            fdb: fdb.iter().filter(|e| e.vni == vni).collect(),
            vteps: vteps.iter().filter(|v| v.vni == vni).collect(),
        }
    }

    /// `0200… from web`: digits may have spaces and colons in them.
    fn frame(&self, text: &str) -> Result<TraceSpec, Refusal> {
        let Some((digits, from)) = text.split_once(" from ") else {
            return Err(Refusal::new(
                ErrorCode::TraceInvalid,
                "behind the digits it should be said where the frame comes from: `hex 0200… from PORT` or `from peer NODE`",
            ));
        };
        let digits: String = digits
            .chars()
            .filter(|c| !c.is_whitespace() && *c != ':')
            .collect();
        let bytes = decode(&digits)
            .filter(|bytes| (14..=FRAME_MAX).contains(&bytes.len()))
            .ok_or_else(|| {
                Refusal::new(ErrorCode::TraceInvalid, format!(
                    "a frame is an even number of hex digits, of 14 to {FRAME_MAX} bytes, from the destination MAC on"
                ))
            })?;
        let (Sender::Known(origin, _) | Sender::Behind(origin, _)) = self.explicit(from.trim())?;
        Ok(TraceSpec::of(self.network.vni, origin, bytes))
    }

    /// The frame that `packet` means, and where it comes from.
    fn spec(&self, packet: &Packet) -> Result<TraceSpec, Refusal> {
        let known = self.owner(packet.src);
        let mut assumed = Vec::new();
        let (origin, src_mac) = match (&packet.from, known) {
            (Some(from), known) => match (self.explicit(from)?, known) {
                // From a peer the frame has the MAC of who has the address, wherever that is.
                (Sender::Known(origin @ Origin::Peer(_), _), Some((_, mac))) => (origin, mac),
                // From a port that does not have the address it has the port's own: that is the question then.
                (Sender::Known(origin, mac), _) => (origin, mac),
                (Sender::Behind(origin, port), _) => {
                    (origin, self.station(port, packet.src, &mut assumed))
                }
            },
            (None, Some(known)) => known,
            (None, None) => {
                return Err(Refusal::new(
                    ErrorCode::EndpointUnknown,
                    format!(
                        "nobody on network {} has {}; say where the packet comes from: `from PORT` or `from peer NODE`",
                        self.network.name, packet.src
                    ),
                ));
            }
        };
        let vni = self.network.vni;
        let broadcast = packet.via.is_none() && broadcast_of(self.network, packet.dst);
        let group = packet
            .group_mac()
            .or_else(|| broadcast.then_some(MacAddr::BROADCAST));
        let hop = packet.via.unwrap_or(packet.dst);
        let dst_mac = group.or_else(|| self.owner(hop).map(|(_, mac)| mac));
        if let Some(dst_mac) = dst_mac {
            return Ok(TraceSpec {
                assumed,
                ..TraceSpec::of(vni, origin, packet.frame(src_mac, dst_mac))
            });
        }
        // Stations of a LAN are known by their MACs alone: one of them may have it, and would say so.
        let question = packet.question(hop);
        match (question.group_mac(), self.may_answer(hop)) {
            (Some(group), true) => Ok(TraceSpec {
                assumed,
                question: Some(hop),
                ..TraceSpec::of(vni, origin, question.frame(src_mac, group))
            }),
            _ => Err(nobody(self.network, hop)),
        }
    }

    /// The port that stands for the foreign VTEPs.
    fn gateway(&self) -> Option<PortId> {
        self.vteps.first().map(|vtep| vtep.port)
    }

    /// What comes in by this port of the node's.
    fn entrance(&self, port: PortId) -> Origin {
        match self.gateway() == Some(port) {
            true => Origin::Vxlan(self.network.vni),
            false => Origin::Port(port),
        }
    }

    /// Who has an address, as the mesh knows it.
    fn owner(&self, ip: IpAddr) -> Option<(Origin, MacAddr)> {
        let mut ports = self.ports.iter();
        let port = ports
            .find(|p| p.ips.iter().any(|net| net.addr() == ip))
            .map(|p| (Origin::Port(p.id), p.mac));
        port.or_else(|| {
            let entry = self.fdb.iter().find(|e| e.ips.contains(&ip))?;
            let origin = match entry.port {
                Some(port) => self.entrance(port),
                None => Origin::Peer(entry.node.id),
            };
            Some((origin, entry.mac))
        })
    }

    /// The MAC under which a station behind a port sends, from this address.
    fn station(&self, port: PortId, ip: IpAddr, assumed: &mut Vec<String>) -> MacAddr {
        let behind = || self.fdb.iter().filter(|e| e.port == Some(port));
        if let Some(entry) = behind().find(|e| e.ips.contains(&ip)) {
            return entry.mac;
        }
        let declared = self.vteps.iter().filter(|vtep| vtep.port == port);
        let declared = declared.flat_map(|vtep| vtep.macs.iter().copied()).next();
        let heard = behind().filter(|e| e.kind == FdbKind::Learned);
        let heard = heard.min_by_key(|e| e.idle_s).map(|entry| entry.mac);
        let (mac, why) = match (heard, declared) {
            (Some(mac), _) => (mac, "the one that was heard there last"),
            (None, Some(mac)) => (mac, "one that is declared there"),
            (None, None) => (MADE_UP, "one made up, since none was heard there yet"),
        };
        assumed.push(format!(
            "which station behind port {port} has {ip} is not known: the source MAC is {mac}, {why}; `hex …` traces a certain frame"
        ));
        mac
    }

    /// May something that is not known have this address: is there a LAN or a foreign VTEP on the network, here or (by MACs that
    /// nobody was given) at a peer?
    fn may_answer(&self, ip: IpAddr) -> bool {
        let inside = self.network.subnets.iter().any(|net| net.contains(&ip));
        let here = self.ports.iter().any(|port| port.kind.uplink().is_some());
        let heard =
            |e: &&FdbEntry| e.kind == FdbKind::Remote && e.ips.is_empty() && e.name.is_none();
        inside && (here || !self.vteps.is_empty() || self.fdb.iter().any(heard))
    }

    fn explicit(&self, from: &str) -> Result<Sender, Refusal> {
        let network = &self.network.name;
        if let Some(peer) = from.strip_prefix("peer ") {
            let is = |e: &&&FdbEntry| {
                e.port.is_none()
                    && (e.node.show() == peer
                        || e.node.id.short() == peer
                        || e.node.id.to_string() == peer)
            };
            let entry = self.fdb.iter().find(is).ok_or_else(|| {
                Refusal::new(
                    ErrorCode::PeerUnknown,
                    format!(
                        "peer \"{}\" has no endpoint on network {network}; see `meshd fdb`",
                        escape(peer.as_bytes()),
                    ),
                )
            })?;
            return Ok(Sender::Known(Origin::Peer(entry.node.id), entry.mac));
        }
        let gateway = self.gateway().filter(|port| port.to_string() == from);
        if let Some(port) = gateway {
            return Ok(Sender::Behind(self.entrance(port), port));
        }
        let is = |p: &&&Port| {
            p.id.to_string() == from
                || p.name.as_ref().is_some_and(|name| {
                    name.as_str() == from || format!("{name}.{}", p.network) == from
                })
        };
        let port = self.ports.iter().find(is).ok_or_else(|| {
            Refusal::new(
                ErrorCode::PortUnknown,
                format!(
                    "this node has no port \"{}\" on network {network}; see `meshd ports`",
                    escape(from.as_bytes()),
                ),
            )
        })?;
        Ok(match port.kind.uplink() {
            Some(_) => Sender::Behind(Origin::Port(port.id), port.id),
            None => Sender::Known(Origin::Port(port.id), port.mac),
        })
    }
}

fn broadcast_of(network: &Network, ip: IpAddr) -> bool {
    network.subnets.iter().any(|net| matches!(net, ipnet::IpNet::V4(v4) if v4.prefix_len() < 31 && IpAddr::V4(v4.broadcast()) == ip))
}

fn nobody(network: &Network, ip: IpAddr) -> Refusal {
    if network.subnets.iter().any(|net| net.contains(&ip)) {
        let ask = if ip.is_ipv4() { "arp" } else { "nd" };
        Refusal::new(
            ErrorCode::EndpointUnknown,
            format!(
                "nobody on network {} has {ip}, as far as this node knows: the sender would ask for its MAC, and send nothing unless \
             something behind another node's uplink answers; see `meshd fdb`, or trace the question: `{ask} who-has {ip} tell ...`",
                network.name
            ),
        )
    } else {
        Refusal::new(
            ErrorCode::AddressOutside,
            format!(
                "{ip} is in no subnet of network {}, and meshd does not route: \
             name the next hop as `via ADDRESS`, or ask on the network that has it",
                network.name
            ),
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::tests::{attic, demo, web};
    use meshd_core::kind::{PortKind, UplinkSpec};

    const UPLINK: PortId = PortId(5);
    const GATEWAY: PortId = PortId(14);

    fn uplink() -> Port {
        Port {
            id: UPLINK,
            mac: MacAddr([0; 6]),
            ips: Vec::new(),
            name: Some("lan0".parse().unwrap()),
            kind: PortKind::Uplink(UplinkSpec::default()),
            ..web()
        }
    }

    fn learned(port: PortId, last: u8, idle_s: u64) -> FdbEntry {
        FdbEntry {
            mac: MacAddr([2, 0, 0, 0, 7, last]),
            port: Some(port),
            kind: FdbKind::Learned,
            ips: Vec::new(),
            idle_s: Some(idle_s),
            ..attic()
        }
    }

    fn vtep() -> VtepRow {
        VtepRow {
            network: "demo".to_owned(),
            vni: demo().vni,
            ip: "192.0.2.9".parse().unwrap(),
            macs: Vec::new(),
            port: GATEWAY,
            remote: None,
            trouble: None,
        }
    }

    fn traced(
        text: &str,
        ports: &[Port],
        fdb: &[FdbEntry],
        vteps: &[VtepRow],
    ) -> Result<TraceSpec, Refusal> {
        let network = demo();
        Scene::of(&network, ports, fdb, vteps).spec(&text.parse().unwrap())
    }

    #[test]
    fn a_station_behind_an_uplink_sends_under_a_mac_of_its_lan() {
        let text = "icmp 10.0.0.200 > 10.0.0.3 from lan0";
        let mut fdb = vec![
            learned(UPLINK, 1, 90),
            learned(UPLINK, 2, 4),
            learned(PortId(9), 3, 0),
        ];
        let ports = [web(), uplink()];
        let src = |fdb: &[FdbEntry]| {
            let spec = traced(text, &ports, fdb, &[]).unwrap();
            assert_eq!(spec.origin, Origin::Port(UPLINK));
            (spec.frame[6..12].to_vec(), spec.assumed.len())
        };
        assert_eq!(src(&fdb), (fdb[1].mac.0.to_vec(), 1));
        assert_eq!(src(&[]), (MADE_UP.0.to_vec(), 1));
        fdb[0].ips = vec!["10.0.0.200".parse().unwrap()];
        assert_eq!(src(&fdb), (fdb[0].mac.0.to_vec(), 0));
    }

    #[test]
    fn what_foreign_vteps_send_comes_in_by_their_port() {
        let fdb = [learned(GATEWAY, 1, 4)];
        let spec = traced(
            "icmp 10.0.0.200 > 10.0.0.3 from 14",
            &[web()],
            &fdb,
            &[vtep()],
        )
        .unwrap();
        assert_eq!(spec.origin, Origin::Vxlan(demo().vni));
        assert_eq!(spec.frame[6..12], fdb[0].mac.0);
        let network = demo();
        let vteps = [vtep()];
        let scene = Scene::of(&network, &[], &[], &vteps);
        let frame = scene.frame("0200000000030200000000070800 from 14").unwrap();
        assert_eq!(frame.origin, Origin::Vxlan(network.vni));
        let refused = traced("icmp 10.0.0.200 > 10.0.0.3 from 14", &[web()], &fdb, &[]);
        assert_eq!(refused.unwrap_err().code, ErrorCode::PortUnknown);
    }

    #[test]
    fn who_may_be_on_a_lan_is_asked_for_and_who_cannot_be_is_refused() {
        let text = "icmp 10.0.0.3 > 10.0.0.200";
        let far = FdbEntry {
            ips: Vec::new(),
            ..attic()
        };
        for (ports, fdb, vteps) in [
            (vec![web(), uplink()], vec![attic()], vec![]),
            (vec![web()], vec![attic()], vec![vtep()]),
            (vec![web()], vec![far], vec![]),
        ] {
            let spec = traced(text, &ports, &fdb, &vteps).unwrap();
            assert_eq!(spec.question, Some("10.0.0.200".parse().unwrap()));
            assert_eq!(
                (&spec.frame[..6], &spec.frame[12..14]),
                (&[0xff; 6][..], &[8, 6][..])
            );
        }
        let refused = traced(text, &[web()], &[attic()], &[]).unwrap_err();
        assert_eq!(refused.code, ErrorCode::EndpointUnknown);
        // An address that nobody on the network can have is not asked for.
        let outside = traced("icmp 10.0.0.3 > 192.0.2.1", &[web(), uplink()], &[], &[]);
        assert_eq!(outside.unwrap_err().code, ErrorCode::AddressOutside);
    }
}
