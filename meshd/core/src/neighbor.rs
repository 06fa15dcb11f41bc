//! Who has which IP address on a network: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861) without flooding.
//!
//! ```text
//!   who-has, owner known     -> answered here, in the owner's name       (Answer)
//!   who-has, owner unknown   -> flooded like any broadcast               (Forward)
//!   probe for one's own      -> silence is the right answer              (Silence)
//!   claim of somebody else's -> dropped                                  (Refuse)
//! ```
//!
//! Owns the table IP to MAC, fed by ports and by the directory, and the frames of the answers. Never learns from traffic: what
//! a container says about addresses is checked against the table, not believed. Frames with a VLAN of their own are another
//! link's business and pass.

use crate::fdb::Place;
use crate::flow::IpKind;
use crate::frame::{Arp, ETHER_ARP, ETHER_IPV6, Frame, Nd};
use crate::ident::{MacAddr, NodeId, PortId};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// It is void by its own standard; in words.
    Void(&'static str),
}

/// The addresses of one network.
#[derive(Debug, Default)]
pub struct Neighbors {
    local: BTreeMap<IpAddr, Owner>,
    remote: BTreeMap<IpAddr, Owner>,
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

    /// The addresses of `mac`.
    pub fn ips_of(&self, mac: MacAddr, place: Place) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.local.iter().chain(&self.remote);
        all.filter(move |(_, owner)| owner.mac == mac && owner.place == place)
            .map(|(&ip, _)| ip)
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

    /// What to do with `frame`, which came from `from`. Only askers behind a port of this node are answered: a peer asks its
    /// own switch.
    #[must_use]
    pub fn consider(&self, frame: &Frame<'_>, from: Place) -> Advice {
        if frame.has_vlan() {
            return Advice::Forward;
        }
        if let Some(arp) = frame.arp() {
            self.consider_arp(frame, &arp, from)
        } else if let Some(nd) = frame.nd() {
            self.consider_nd(frame, &nd, from)
        } else {
            Advice::Forward
        }
    }

    /// The words of a refusal if `ip` is not for one at `from` to claim.
    fn claim(&self, ip: IpAddr, from: Place) -> Result<(), Advice> {
        match self.owner(ip) {
            Some(owner) if owner.place != from => {
                let whose = match owner.place {
                    Place::Port(port) => format!("port {port}"),
                    Place::Service(_) => "the node's own service".to_owned(),
                    Place::Node(node) => format!("an endpoint of node {}", node.short()),
                };
                Err(Advice::Refuse(format!(
                    "it claims {ip}, which belongs to {whose} ({})",
                    owner.mac
                )))
            }
            _ => Ok(()),
        }
    }

    fn consider_arp(&self, frame: &Frame<'_>, arp: &Arp, from: Place) -> Advice {
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
        self.resolve(target, from, |owner| {
            arp_reply(frame.src(), arp.sender_ip, owner.mac, arp.target_ip)
        })
    }

    fn consider_nd(&self, frame: &Frame<'_>, nd: &Nd<'_>, from: Place) -> Advice {
        if nd.hop_limit != 255 {
            return Advice::Void(
                "neighbour discovery with a hop limit other than 255 has passed a router (RFC 4861 §7.1)",
            );
        }
        if !nd.speaks_for(frame.src()) {
            return Advice::Refuse(format!(
                "neighbour discovery from {} names another link-layer address",
                frame.src()
            ));
        }
        let probe = nd.src.is_unspecified();
        let claimed = if nd.solicitation { nd.src } else { nd.target };
        if !(nd.solicitation && probe)
            && let Err(refused) = self.claim(IpAddr::V6(claimed), from)
        {
            return refused;
        }
        if !nd.solicitation || !frame.dst().is_group() {
            return Advice::Forward;
        }
        self.resolve(IpAddr::V6(nd.target), from, |owner| {
            nd_advertisement(frame.src(), nd.src, owner.mac, nd.target)
        })
    }

    fn resolve(&self, ip: IpAddr, from: Place, reply: impl FnOnce(Owner) -> Bytes) -> Advice {
        match (self.owner(ip), from) {
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
