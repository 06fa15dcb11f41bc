//! Addresses that policy had the switch learn from ARP and neighbour discovery.
//!
//! ```text
//!   ARP, ND --policy: learn--> ip, MAC, port, until when --who-has--> answered, while the MAC is behind that port
//!                              moves with the next that policy has learned; ends when its time is over
//! ```
//!
//! Owns what is believed of addresses without an owner. Refuses to be more than that: who has an address leased, here or on
//! another node, comes before it, and another station that claims such an address is not refused. Other nodes are not told.

use crate::fdb::{Fdb, Place};
use crate::frame::{Frame, NdMessage};
use crate::ident::{MacAddr, Moment, PortId};
use crate::neighbor::Owner;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that are learned on a network, at most.
const LEARNED_MAX: usize = 4096;
/// And behind one port.
const PORT_LEARNED_MAX: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: MacAddr,
    port: PortId,
    due: Moment,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LearnedIps {
    entries: BTreeMap<IpAddr, Entry>,
    ages: BTreeSet<(Moment, IpAddr)>,
}

impl LearnedIps {
    /// Who has `ip`, if its MAC still is where it was learned.
    pub(super) fn owner(&self, ip: IpAddr, fdb: &Fdb) -> Option<Owner> {
        let &Entry { mac, port, .. } = self.entries.get(&ip)?;
        let place = Place::Port(port);
        (fdb.lookup(mac) == Some(place)).then_some(Owner { mac, place })
    }

    /// All of them, with their MACs and where these are.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, MacAddr, Place)> + '_ {
        let all = self.entries.iter();
        all.map(|(&ip, entry)| (ip, entry.mac, Place::Port(entry.port)))
    }

    /// Enters one, or what is now said of it. Without room for it nothing happens.
    pub(super) fn insert(&mut self, ip: IpAddr, mac: MacAddr, port: PortId, due: Moment) {
        let same_port = self.entries.get(&ip).is_some_and(|old| old.port == port);
        if !same_port {
            let held = self.entries.values().filter(|e| e.port == port).count();
            let full = self.entries.len() >= LEARNED_MAX && !self.entries.contains_key(&ip);
            if held >= PORT_LEARNED_MAX || full {
                return;
            }
        }
        let entry = Entry { mac, port, due };
        if let Some(old) = self.entries.insert(ip, entry) {
            self.ages.remove(&(old.due, ip));
        }
        self.ages.insert((due, ip));
    }

    pub(super) fn remove_port(&mut self, port: PortId) {
        self.entries.retain(|_, entry| entry.port != port);
        let entries = &self.entries;
        self.ages.retain(|(_, ip)| entries.contains_key(ip));
    }

    pub(super) fn age_out(&mut self, now: Moment) {
        while let Some(&(due, ip)) = self.ages.first()
            && due <= now
        {
            self.ages.pop_first();
            self.entries.remove(&ip);
        }
    }

    pub(super) fn next_age(&self) -> Option<Moment> {
        self.ages.first().map(|(due, _)| *due)
    }
}

/// The address that the sender of an ARP or ND frame says to have, if it is one that a station of the segment can have.
/// Link-local ones are made of the MAC and need no table; with a VLAN of its own a frame is of another link.
pub(crate) fn claimed(frame: &Frame<'_>) -> Option<IpAddr> {
    if frame.has_vlan() {
        return None;
    }
    if let Some(arp) = frame.arp() {
        let ip: Ipv4Addr = arp.sender_ip;
        let usable = !ip.is_unspecified()
            && !ip.is_multicast()
            && !ip.is_broadcast()
            && !ip.is_loopback()
            && !ip.is_link_local();
        return usable.then_some(IpAddr::V4(ip));
    }
    let nd = frame.nd()?;
    let ip: Ipv6Addr = match nd.message {
        NdMessage::Advertisement => nd.target,
        _ => nd.src,
    };
    let usable = !ip.is_unspecified()
        && !ip.is_multicast()
        && !ip.is_loopback()
        && !ip.is_unicast_link_local();
    usable.then_some(IpAddr::V6(ip))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fdb::FdbLimits;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);

    fn ip(last: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + last))
    }

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    #[test]
    fn an_address_is_where_it_was_learned_last_while_its_mac_is_there_and_its_time_lasts() {
        let mut fdb = Fdb::new(FdbLimits::default());
        fdb.learn(mac(1), A, Moment(0));
        fdb.learn(mac(2), B, Moment(0));
        let mut learned = LearnedIps::default();
        learned.insert(ip(1), mac(1), A, Moment(0).plus_ms(1000));
        assert_eq!(learned.owner(ip(1), &fdb).unwrap().mac, mac(1));
        learned.insert(ip(1), mac(2), B, Moment(0).plus_ms(5000));
        assert_eq!(learned.owner(ip(1), &fdb).unwrap().place, Place::Port(B));
        learned.age_out(Moment(0).plus_ms(4999));
        assert!(learned.owner(ip(1), &fdb).is_some());
        fdb.remove_port(B);
        assert!(learned.owner(ip(1), &fdb).is_none(), "its MAC is gone");
        fdb.learn(mac(2), B, Moment(0));
        learned.age_out(Moment(0).plus_ms(5000));
        assert!(learned.owner(ip(1), &fdb).is_none(), "its time is over");
        assert_eq!(learned.next_age(), None);
    }

    #[test]
    fn a_port_that_claims_the_world_fills_its_share_and_no_more() {
        let mut learned = LearnedIps::default();
        for last in 0..100_000 {
            learned.insert(ip(last), mac(1), A, Moment(0).plus_ms(last.into()));
        }
        assert_eq!(learned.entries.len(), PORT_LEARNED_MAX);
        for port in 2..1000 {
            for last in 0..PORT_LEARNED_MAX as u32 {
                let ip = ip(port * 1000 + last);
                learned.insert(ip, mac(2), PortId(port), Moment(0).plus_ms(1));
            }
        }
        assert_eq!(learned.entries.len(), LEARNED_MAX);
        assert_eq!(learned.ages.len(), LEARNED_MAX);
        learned.remove_port(B);
        assert_eq!(learned.entries.len(), LEARNED_MAX - PORT_LEARNED_MAX);
        assert_eq!(learned.ages.len(), learned.entries.len());
    }
}
