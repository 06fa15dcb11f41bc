//! Who has which IP address on a network: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861) without flooding.
//!
//! ```text
//!   who-has, owner known     -> answered here, in the owner's name       (Answer)
//!   who-has, owner unknown   -> flooded like any broadcast               (Forward)
//!   probe for one's own      -> silence is the right answer              (Silence)
//!   claim of somebody else's -> dropped                                  (Refuse)
//!   "I am a router" of one that may not be one -> dropped                (NoRouter)
//! ```
//!
//! Owns the table IP to MAC, fed by ports and by the directory, the frames of the answers, and who may be a router. Does not
//! learn from traffic by itself: what a container says about addresses is checked against the table, not believed. What policy
//! has it learn is answered with and belongs to nobody (`neighbor/learned.rs`). Link-local
//! addresses are in no table, but the usual ones are made of the MAC (RFC 4291, appendix A), so whose they are can be read
//! off; one that was made otherwise belongs to whom it pleases. Frames with a VLAN of their own are another link's business
//! and pass.

use crate::fdb::{Fdb, Place};
use crate::flow::IpKind;
use crate::frame::{Arp, ETHER_ARP, ETHER_IPV6, Frame, Nd, NdMessage};
use crate::ident::{MacAddr, Moment, NodeId, PortId};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Label of an endpoint that may send router advertisements and redirects; its value is `true`.
pub const ROUTER_LABEL: &str = "meshd.router";

/// True if `labels` make an endpoint a router.
#[must_use]
pub fn is_router(labels: &BTreeMap<String, String>) -> bool {
    labels
        .get(ROUTER_LABEL)
        .is_some_and(|value| value == "true")
}

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its MAC.
    pub mac: MacAddr,
    /// Where it is.
    pub place: Place,
}

/// What to do with an ARP or ND frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Neither of them, or nothing that can be decided here: forward it as its destination says.
    Forward,
    /// Send this back to the asker; done.
    Answer {
        /// From the destination MAC on.
        reply: Bytes,
        /// Who has it.
        owner: Owner,
        /// Which address.
        ip: IpAddr,
    },
    /// Nothing is to be said; done.
    Silence(IpAddr),
    /// It claims what is not the sender's; in words.
    Refuse(String),
    /// Only a router may say that; in words.
    NoRouter,
    /// It is void by its own standard; in words.
    Void(&'static str),
}

/// The addresses of one network.
#[derive(Debug, Default)]
pub struct Neighbors {
    local: BTreeMap<IpAddr, Owner>,
    remote: BTreeMap<IpAddr, Owner>,
    /// Nodes that may speak for an address though another is its owner here.
    shared: BTreeSet<(IpAddr, NodeId)>,
    /// Ports that may be routers, and nodes that say that they have such a port: each checks its own.
    routers: BTreeSet<Place>,
    learned: LearnedIps,
}

impl Neighbors {
    /// Who has `ip`; what is here comes first.
    #[must_use]
    pub fn owner(&self, ip: IpAddr) -> Option<Owner> {
        self.local
            .get(&ip)
            .or_else(|| self.remote.get(&ip))
            .copied()
    }

    /// The addresses of each MAC at its place, those that it owns first.
    #[must_use]
    pub fn ips(&self) -> BTreeMap<(MacAddr, Place), Vec<IpAddr>> {
        let mut all: BTreeMap<(MacAddr, Place), Vec<IpAddr>> = BTreeMap::new();
        let owned = self.local.iter().chain(&self.remote);
        let owned = owned.map(|(&ip, owner)| (ip, owner.mac, owner.place));
        let learned = self.learned.iter();
        let learned = learned.filter(|(ip, ..)| self.owner(*ip).is_none());
        for (ip, mac, place) in owned.chain(learned) {
            all.entry((mac, place)).or_default().push(ip);
        }
        all
    }

    /// `ip` was said to be at `mac` behind `port`; that is believed until `due`. Nothing happens if it has an owner, or there
    /// is no room.
    pub fn learn(&mut self, ip: IpAddr, mac: MacAddr, port: PortId, due: Moment) {
        if self.owner(ip).is_none() {
            self.learned.insert(ip, mac, port, due);
        }
    }

    /// Forgets all that was learned.
    pub fn forget_learned(&mut self) {
        self.learned = LearnedIps::default();
    }

    /// Forgets what is believed no longer.
    pub fn age_out(&mut self, now: Moment) {
        self.learned.age_out(now);
    }

    /// When the next one is due.
    #[must_use]
    pub fn next_age(&self) -> Option<Moment> {
        self.learned.next_age()
    }

    /// Gives addresses to a port or to the service; an address that has an owner here stays with it.
    pub fn add_local(&mut self, ips: &[IpAddr], owner: Owner) {
        for &ip in ips {
            self.local.entry(ip).or_insert(owner);
        }
    }

    /// Takes the addresses of a port away.
    pub fn remove_port(&mut self, port: PortId) {
        self.local.retain(|_, owner| {
            owner.place != Place::Port(port) && owner.place != Place::Service(port)
        });
        self.routers.remove(&Place::Port(port));
        self.learned.remove_port(port);
    }

    /// What is behind the port may be a router.
    pub fn add_router(&mut self, port: PortId) {
        self.routers.insert(Place::Port(port));
    }

    /// Replaces the nodes that have a router.
    pub fn set_remote_routers(&mut self, nodes: impl Iterator<Item = NodeId>) {
        self.routers
            .retain(|place| !matches!(place, Place::Node(_)));
        self.routers.extend(nodes.map(Place::Node));
    }

    /// Replaces what the directory says; at most `limit` addresses are kept.
    pub fn set_remote(
        &mut self,
        entries: impl Iterator<Item = (IpAddr, MacAddr, NodeId)>,
        limit: usize,
    ) {
        self.remote.clear();
        for (ip, mac, node) in entries.take(limit) {
            self.remote.entry(ip).or_insert(Owner {
                mac,
                place: Place::Node(node),
            });
        }
    }

    /// Replaces what several nodes have.
    pub fn set_shared(&mut self, entries: impl Iterator<Item = (IpAddr, NodeId)>) {
        self.shared = entries.collect();
    }

    /// What to do with `frame`, which came from `from`. Only askers behind a port of this node are answered: a peer asks its
    /// own switch.
    #[must_use]
    pub fn consider(&self, frame: &Frame<'_>, from: Place, fdb: &Fdb) -> Advice {
        if frame.has_vlan() {
            return Advice::Forward;
        }
        if let Some(arp) = frame.arp() {
            self.consider_arp(frame, &arp, from, fdb)
        } else if let Some(nd) = frame.nd() {
            self.consider_nd(frame, &nd, from, fdb)
        } else {
            Advice::Forward
        }
    }

    /// The words of a refusal if `ip` is not for one at `from` to claim.
    fn claim(&self, ip: IpAddr, from: Place) -> Result<(), Advice> {
        let is_shared = match from {
            Place::Node(node) => self.shared.contains(&(ip, node)),
            _ => false,
        };
        match self.owner(ip) {
            Some(owner) if owner.place != from && !is_shared => Err(is_others(ip, owner)),
            _ => Ok(()),
        }
    }

    /// The same, and for a link-local address made of a MAC: where is the MAC?
    fn claim_v6(&self, ip: Ipv6Addr, from: Place, fdb: &Fdb) -> Result<(), Advice> {
        self.claim(IpAddr::V6(ip), from)?;
        let Some(mac) = MacAddr::of_link_local(ip) else {
            return Ok(());
        };
        match fdb.lookup(mac) {
            Some(place) if place != from => Err(is_others(IpAddr::V6(ip), Owner { mac, place })),
            _ => Ok(()),
        }
    }

    fn consider_arp(&self, frame: &Frame<'_>, arp: &Arp, from: Place, fdb: &Fdb) -> Advice {
        if arp.sender_mac != frame.src() {
            return Advice::Refuse(format!(
                "an ARP packet from {} says that its sender is {}",
                frame.src(),
                arp.sender_mac
            ));
        }
        let probe = arp.sender_ip.is_unspecified();
        if !probe && let Err(refused) = self.claim(IpAddr::V4(arp.sender_ip), from) {
            return refused;
        }
        let target = IpAddr::V4(arp.target_ip);
        // One who asks the owner directly wants to know whether it is alive, and one who asks for itself announces.
        if arp.operation != 1 || !frame.dst().is_group() || arp.sender_ip == arp.target_ip {
            return Advice::Forward;
        }
        self.resolve(target, from, fdb, |owner| {
            arp_reply(frame.src(), arp.sender_ip, owner.mac, arp.target_ip)
        })
    }

    fn consider_nd(&self, frame: &Frame<'_>, nd: &Nd<'_>, from: Place, fdb: &Fdb) -> Advice {
        let routes = matches!(
            nd.message,
            NdMessage::RouterAdvertisement | NdMessage::Redirect
        );
        if routes && !self.routers.contains(&from) {
            return Advice::NoRouter;
        }
        if nd.fragment {
            return Advice::Void("neighbour discovery in fragments (RFC 6980)");
        }
        if nd.hop_limit != 255 {
            return Advice::Void(
                "neighbour discovery with a hop limit other than 255 has passed a router (RFC 4861 §7.1)",
            );
        }
        // A redirect names the way that is better than its sender.
        if nd.message != NdMessage::Redirect && !nd.speaks_for(frame.src()) {
            return Advice::Refuse(format!(
                "neighbour discovery from {} names another link-layer address",
                frame.src()
            ));
        }
        let solicitation = nd.message == NdMessage::Solicitation;
        let claimed = match nd.message {
            NdMessage::Advertisement => nd.target,
            // Whoever has the address in use would give it up: a claim, as far as it is not answered below.
            NdMessage::Solicitation if nd.src.is_unspecified() => {
                match self.owner(IpAddr::V6(nd.target)) {
                    Some(_) => Ipv6Addr::UNSPECIFIED,
                    None => nd.target,
                }
            }
            _ => nd.src,
        };
        if !claimed.is_unspecified()
            && let Err(refused) = self.claim_v6(claimed, from, fdb)
        {
            return refused;
        }
        if !solicitation || !frame.dst().is_group() {
            return Advice::Forward;
        }
        self.resolve(IpAddr::V6(nd.target), from, fdb, |owner| {
            nd_advertisement(frame.src(), nd.src, owner.mac, nd.target)
        })
    }

    fn resolve(
        &self,
        ip: IpAddr,
        from: Place,
        fdb: &Fdb,
        reply: impl FnOnce(Owner) -> Bytes,
    ) -> Advice {
        let known = self.owner(ip).or_else(|| self.learned.owner(ip, fdb));
        match (known, from) {
            (None, _) | (_, Place::Node(_)) => Advice::Forward,
            // It asks whether somebody else has its address: nobody has. Without a probe, the owner is behind the same
            // port and hears the question itself.
            (Some(owner), _) if owner.place == from => Advice::Silence(ip),
            (Some(owner), _) => Advice::Answer {
                reply: reply(owner),
                owner,
                ip,
            },
        }
    }
}

mod learned;

use learned::LearnedIps;
pub(crate) use learned::claimed;

fn is_others(ip: IpAddr, owner: Owner) -> Advice {
    let whose = match owner.place {
        Place::Port(port) => format!("port {port}"),
        Place::Service(_) => "the node's own service".to_owned(),
        Place::Node(node) => format!("an endpoint of node {}", node.short()),
    };
    Advice::Refuse(format!(
        "it claims {ip}, which belongs to {whose} ({})",
        owner.mac
    ))
}

/// True for the keys of frames that [`Neighbors::consider`] wants to see each of.
#[must_use]
pub fn is_neighborly(kind: IpKind) -> bool {
    matches!(kind, IpKind::ArpV4 | IpKind::NdV6)
}

fn ethernet(dst: MacAddr, src: MacAddr, ether_type: u16) -> BytesMut {
    let mut out = BytesMut::with_capacity(96);
    out.put_slice(&dst.0);
    out.put_slice(&src.0);
    out.put_u16(ether_type);
    out
}

/// `owner_ip` is at `owner`, told to the asker.
fn arp_reply(asker: MacAddr, asker_ip: Ipv4Addr, owner: MacAddr, owner_ip: Ipv4Addr) -> Bytes {
    let mut out = ethernet(asker, owner, ETHER_ARP);
    out.put_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    out.put_slice(&owner.0);
    out.put_slice(&owner_ip.octets());
    out.put_slice(&asker.0);
    out.put_slice(&asker_ip.octets());
    out.freeze()
}

/// "`ip` is at `mac`", to all: an ARP request for one's own address (RFC 5227 §2.3), or an unsolicited advertisement that
/// overrides (RFC 4861 §7.2.6).
pub(crate) fn announcement(ip: IpAddr, mac: MacAddr) -> Bytes {
    match ip {
        IpAddr::V4(ip) => {
            let mut out = ethernet(MacAddr::BROADCAST, mac, ETHER_ARP);
            out.put_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
            out.put_slice(&mac.0);
            out.put_slice(&ip.octets());
            out.put_slice(&[0; 6]);
            out.put_slice(&ip.octets());
            out.freeze()
        }
        IpAddr::V6(ip) => nd_advertisement(mac, Ipv6Addr::UNSPECIFIED, mac, ip),
    }
}

/// A neighbour advertisement with the target's link-layer address (RFC 4861 §4.4), to the asker, or to all nodes if the
/// asker has no address yet (§7.2.4).
fn nd_advertisement(
    asker: MacAddr,
    asker_ip: Ipv6Addr,
    owner: MacAddr,
    owner_ip: Ipv6Addr,
) -> Bytes {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (dst_mac, dst_ip, flags) = if asker_ip.is_unspecified() {
        (MacAddr([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES, 0x20)
    } else {
        (asker, asker_ip, 0x60) // solicited, override
    };
    let mut message = BytesMut::with_capacity(32);
    message.put_slice(&[136, 0, 0, 0, flags, 0, 0, 0]);
    message.put_slice(&owner_ip.octets());
    message.put_slice(&[2, 1]);
    message.put_slice(&owner.0);
    let sum = icmpv6_checksum(owner_ip, dst_ip, &message);
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    let mut out = ethernet(dst_mac, owner, ETHER_IPV6);
    out.put_u32(6 << 28);
    out.put_u16(32);
    out.put_slice(&[58, 255]);
    out.put_slice(&owner_ip.octets());
    out.put_slice(&dst_ip.octets());
    out.put_slice(&message);
    out.freeze()
}

/// RFC 4443 §2.3: one's complement sum over the pseudo-header and the message, whose own field is zero.
fn icmpv6_checksum(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|c| {
                u32::from(u16::from_be_bytes([
                    c.first().copied().unwrap_or(0),
                    c.get(1).copied().unwrap_or(0),
                ]))
            })
            .sum()
    };
    let mut sum =
        words(&src.octets()) + words(&dst.octets()) + message.len() as u32 + 58 + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame::tests::{arp, v6};
    use crate::ident::Vni;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
    const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
    const PORT: Place = Place::Port(PortId(1));
    const NODE: NodeId = NodeId([9; 32]);
    const ZERO: [u8; 4] = [0; 4];

    /// A behind port 1 with .1, B behind port 2 with .2, C on a node with .3; the same in fd00::.
    fn table() -> Neighbors {
        let mut table = Neighbors::default();
        let ips = |last: u8| [IpAddr::from([10, 0, 0, last]), IpAddr::V6(ip6(last.into()))];
        table.add_local(
            &ips(1),
            Owner {
                mac: A,
                place: PORT,
            },
        );
        table.add_local(
            &ips(2),
            Owner {
                mac: B,
                place: Place::Port(PortId(2)),
            },
        );
        table.set_remote(ips(3).into_iter().map(|ip| (ip, C, NODE)), 100);
        table
    }

    fn ip6(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
    }

    fn fdb() -> Fdb {
        let mut fdb = Fdb::new(crate::fdb::FdbLimits::default());
        fdb.add_own(A, PORT).unwrap();
        fdb.add_own(B, Place::Port(PortId(2))).unwrap();
        fdb.set_remote(BTreeMap::from([(C, NODE)]));
        fdb
    }

    fn consider(frame: &[u8], from: Place) -> Advice {
        table().consider(&Frame::parse(frame).unwrap(), from, &fdb())
    }

    fn who_has(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        arp(MacAddr::BROADCAST, A, 1, A, sender, target)
    }

    #[test]
    fn who_shares_an_address_may_speak_for_it_and_nobody_else_may() {
        let mut table = Neighbors::default();
        let (ip, other) = (IpAddr::from([10, 0, 0, 3]), NodeId([0x77; 32]));
        table.set_remote([(ip, C, NODE), (ip, A, other)].into_iter(), 100);
        assert!(table.claim(ip, Place::Node(NODE)).is_ok());
        assert!(table.claim(ip, Place::Node(other)).is_err());
        table.set_shared([(ip, NODE), (ip, other)].into_iter());
        assert!(table.claim(ip, Place::Node(other)).is_ok());
        assert!(table.claim(ip, Place::Port(PortId(9))).is_err());
        assert_eq!(table.owner(ip).unwrap().mac, C);
    }

    #[test]
    fn who_has_is_answered_with_the_owners_mac_here_and_elsewhere() {
        for (last, owner) in [(2, B), (3, C)] {
            let Advice::Answer { reply, .. } =
                consider(&who_has([10, 0, 0, 1], [10, 0, 0, last]), PORT)
            else {
                panic!()
            };
            let frame = Frame::parse(&reply).unwrap();
            assert_eq!((frame.dst(), frame.src()), (A, owner));
            let told = frame.arp().unwrap();
            assert_eq!(
                told,
                Arp {
                    operation: 2,
                    sender_mac: owner,
                    sender_ip: [10, 0, 0, last].into(),
                    target_ip: [10, 0, 0, 1].into()
                }
            );
        }
    }

    #[test]
    fn an_unknown_address_is_asked_of_everybody_and_a_peer_is_never_answered() {
        assert_eq!(
            consider(&who_has([10, 0, 0, 1], [10, 0, 0, 77]), PORT),
            Advice::Forward
        );
        assert_eq!(
            consider(
                &arp(MacAddr::BROADCAST, C, 1, C, [10, 0, 0, 3], [10, 0, 0, 1]),
                Place::Node(NODE)
            ),
            Advice::Forward
        );
    }

    #[test]
    fn a_probe_is_answered_if_the_address_is_somebody_elses_and_met_with_silence_if_it_is_the_probers()
     {
        assert!(matches!(
            consider(&who_has(ZERO, [10, 0, 0, 3]), PORT),
            Advice::Answer { .. }
        ));
        assert!(matches!(
            consider(&who_has(ZERO, [10, 0, 0, 1]), PORT),
            Advice::Silence(_)
        ));
        assert_eq!(
            consider(&who_has(ZERO, [10, 0, 0, 77]), PORT),
            Advice::Forward
        );
    }

    #[test]
    fn an_announcement_of_ones_own_address_is_spread_and_that_of_anothers_is_refused() {
        assert_eq!(
            consider(&who_has([10, 0, 0, 1], [10, 0, 0, 1]), PORT),
            Advice::Forward
        );
        for operation in [1, 2] {
            let lie = arp(
                MacAddr::BROADCAST,
                A,
                operation,
                A,
                [10, 0, 0, 3],
                [10, 0, 0, 3],
            );
            assert!(matches!(consider(&lie, PORT), Advice::Refuse(_)));
        }
        let lie = arp(MacAddr::BROADCAST, C, 1, C, [10, 0, 0, 2], [10, 0, 0, 2]);
        assert!(matches!(
            consider(&lie, Place::Node(NODE)),
            Advice::Refuse(_)
        ));
    }

    #[test]
    fn an_arp_packet_that_names_another_sender_than_its_frame_is_refused() {
        assert!(matches!(
            consider(&arp(B, A, 2, C, [10, 0, 0, 1], [10, 0, 0, 2]), PORT),
            Advice::Refuse(_)
        ));
    }

    #[test]
    fn one_who_asks_the_owner_directly_reaches_the_owner() {
        assert_eq!(
            consider(&arp(B, A, 1, A, [10, 0, 0, 1], [10, 0, 0, 2]), PORT),
            Advice::Forward
        );
    }

    fn solicit(src: Ipv6Addr, target: Ipv6Addr, lladdr: Option<MacAddr>, hop_limit: u8) -> Vec<u8> {
        let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
        if let Some(mac) = lladdr {
            message.extend([&[1, 1][..], &mac.0].concat());
        }
        let group = MacAddr([0x33, 0x33, 0xff, 0, 0, target.octets()[15]]);
        v6(
            group,
            A,
            src,
            "ff02::1:ff00:3".parse().unwrap(),
            58,
            hop_limit,
            &message,
        )
    }

    #[test]
    fn a_solicitation_is_answered_with_an_advertisement_whose_checksum_holds() {
        let Advice::Answer { reply, .. } = consider(&solicit(ip6(1), ip6(3), Some(A), 255), PORT)
        else {
            panic!()
        };
        let frame = Frame::parse(&reply).unwrap();
        assert_eq!(
            (
                frame.dst(),
                frame.src(),
                frame.flow_key(Vni::new(1).unwrap()).ip_kind
            ),
            (A, C, IpKind::NdV6)
        );
        let nd = frame.nd().unwrap();
        assert!(
            nd.message == NdMessage::Advertisement
                && nd.speaks_for(C)
                && nd.target == ip6(3)
                && nd.src == ip6(3)
                && nd.hop_limit == 255
        );
        let packet = etherparse::PacketHeaders::from_ethernet_slice(&reply).unwrap();
        let Some(etherparse::TransportHeader::Icmpv6(icmp)) = packet.transport else {
            panic!()
        };
        let sum = icmp
            .icmp_type
            .calc_checksum(ip6(3).octets(), ip6(1).octets(), packet.payload.slice())
            .unwrap();
        assert_eq!(icmp.checksum, sum);
    }

    #[test]
    fn duplicate_address_detection_is_answered_to_all_nodes_if_the_address_is_taken() {
        let Advice::Answer { reply, .. } =
            consider(&solicit(Ipv6Addr::UNSPECIFIED, ip6(3), None, 255), PORT)
        else {
            panic!()
        };
        assert_eq!(
            Frame::parse(&reply).unwrap().dst(),
            MacAddr([0x33, 0x33, 0, 0, 0, 1])
        );
        assert!(matches!(
            consider(&solicit(Ipv6Addr::UNSPECIFIED, ip6(1), None, 255), PORT),
            Advice::Silence(_)
        ));
        assert_eq!(
            consider(&solicit(Ipv6Addr::UNSPECIFIED, ip6(77), None, 255), PORT),
            Advice::Forward
        );
    }

    #[test]
    fn discovery_that_lies_about_its_sender_or_has_passed_a_router_goes_nowhere() {
        assert!(matches!(
            consider(&solicit(ip6(3), ip6(2), Some(A), 255), PORT),
            Advice::Refuse(_)
        ));
        assert!(matches!(
            consider(&solicit(ip6(1), ip6(2), Some(B), 255), PORT),
            Advice::Refuse(_)
        ));
        assert!(matches!(
            consider(&solicit(ip6(1), ip6(2), Some(A), 64), PORT),
            Advice::Void(_)
        ));
        let advert = [
            &[136, 0, 0, 0, 0x20, 0, 0, 0][..],
            &ip6(3).octets(),
            &[2, 1],
            &A.0,
        ]
        .concat();
        let lie = v6(B, A, ip6(1), ip6(2), 58, 255, &advert);
        assert!(matches!(consider(&lie, PORT), Advice::Refuse(_)));
    }

    /// "`target` is at A", by A.
    fn advert(target: Ipv6Addr) -> Vec<u8> {
        let message = [
            &[136, 0, 0, 0, 0x20, 0, 0, 0][..],
            &target.octets(),
            &[2, 1],
            &A.0,
        ];
        v6(B, A, target, ip6(2), 58, 255, &message.concat())
    }

    #[test]
    fn a_link_local_address_made_of_anothers_mac_is_nobody_elses_to_claim() {
        assert_eq!(A.link_local().to_string(), "fe80::ff:fe00:a");
        for other in [B, C] {
            let ip = other.link_local();
            for lie in [
                advert(ip),
                solicit(ip, ip6(2), Some(A), 255),
                // A question without a sender makes its owner give the address up (RFC 4862 §5.4.3).
                solicit(Ipv6Addr::UNSPECIFIED, ip, None, 255),
            ] {
                assert!(matches!(consider(&lie, PORT), Advice::Refuse(_)), "{ip}");
            }
        }
        let router_solicitation = [&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1][..], &A.0].concat();
        let all_routers = "ff02::2".parse().unwrap();
        for (ip, ours) in [(A.link_local(), true), (B.link_local(), false)] {
            let asks = v6(B, A, ip, all_routers, 58, 255, &router_solicitation);
            assert_eq!(consider(&asks, PORT) == Advice::Forward, ours);
        }
        // One's own, one of a MAC that nobody has, and one that is made of no MAC.
        let free = MacAddr([2, 0, 0, 0, 0, 0x77]).link_local();
        for ip in [
            A.link_local(),
            free,
            "fe80::1234:5678:9abc:def0".parse().unwrap(),
        ] {
            assert_eq!(consider(&advert(ip), PORT), Advice::Forward, "{ip}");
            let probe = solicit(Ipv6Addr::UNSPECIFIED, ip, None, 255);
            assert_eq!(consider(&probe, PORT), Advice::Forward, "{ip}");
        }
        assert_eq!(
            consider(&solicit(ip6(1), B.link_local(), Some(A), 255), PORT),
            Advice::Forward
        );
    }

    #[test]
    fn only_an_endpoint_labelled_as_a_router_advertises_routes_and_redirects() {
        let label = |value: &str| BTreeMap::from([(ROUTER_LABEL.to_owned(), value.to_owned())]);
        assert!(is_router(&label("true")) && !is_router(&label("false")));
        let all_nodes = "ff02::1".parse().unwrap();
        let routes = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8], &[1, 1], &A.0].concat();
        let redirects = [
            &[137, 0, 0, 0, 0, 0, 0, 0][..],
            &ip6(2).octets(),
            &ip6(9).octets(),
            &[2, 1],
            &B.0,
        ];
        for message in [routes, redirects.concat(), vec![134]] {
            let frame = v6(B, A, A.link_local(), all_nodes, 58, 255, &message);
            let frame = Frame::parse(&frame).unwrap();
            let mut table = table();
            for from in [PORT, Place::Node(NODE)] {
                assert!(matches!(
                    table.consider(&frame, from, &fdb()),
                    Advice::NoRouter
                ));
            }
            table.add_router(PortId(1));
            assert_eq!(table.consider(&frame, PORT, &fdb()), Advice::Forward);
            table.remove_port(PortId(1));
            assert!(matches!(
                table.consider(&frame, PORT, &fdb()),
                Advice::NoRouter
            ));
        }
        let frame = v6(
            B,
            C,
            C.link_local(),
            all_nodes,
            58,
            255,
            &[134, 0, 0, 0, 64, 0, 7, 8],
        );
        let frame = Frame::parse(&frame).unwrap();
        let mut table = table();
        table.set_remote_routers([NODE].into_iter());
        assert_eq!(
            table.consider(&frame, Place::Node(NODE), &fdb()),
            Advice::Forward
        );
        table.set_remote_routers([].into_iter());
        assert!(matches!(
            table.consider(&frame, Place::Node(NODE), &fdb()),
            Advice::NoRouter
        ));
    }
}
