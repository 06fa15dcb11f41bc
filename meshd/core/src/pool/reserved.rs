//! Addresses that are kept for ports to come: an engine asks for the address first, and makes the port with it later.
//!
//! ```text
//!   reserve --> free here: leased, to nobody yet --> durable --> the port is made with the address set by hand
//!      |  none free: the pool hunts for a range,                       |
//!      |  and who asks tries again                   release <---------+ (the port gives nothing back)
//! ```
//!
//! Owns the reservations, over restarts. An address that is not owned here may be reserved as well, as it may be set by
//! hand; it is then not leased by this node, should it come to own it. Refuses to give an address twice.

use super::{Pools, no_address};
use crate::attach::{Surroundings, check_ip, refusal};
use crate::code::ErrorCode;
use crate::command::{Refusal, Reply, ReserveSpec};
use crate::ident::{MacAddr, Now, PortId, Vni, escape};
use crate::outbox::Outbox;
use crate::owner::Owner;
use crate::ranges::{Span, leasable, number};
use crate::state::{StateKey, forget, keep};
use crate::wire::record::NetworkDef;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Holder of the leases of reserved addresses: no port has this number.
const NOBODY_YET: PortId = PortId(0);
/// Reservations of one node.
const RESERVED_MAX: usize = 16_384;

/// What is kept of a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reserved {
    mac: Option<MacAddr>,
    owner: Owner,
}

/// One reservation, for people and for who cleans up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedView {
    /// The network.
    pub vni: Vni,
    /// The address.
    pub ip: IpAddr,
    /// Of the port that it is for.
    pub mac: Option<MacAddr>,
    /// As it was said.
    pub owner: Owner,
}

impl Pools {
    /// Keeps an address for a port to come. `used`: by a port of this node already? `router`: a port of this node is to be
    /// routed by it, so it is for whoever asks for just this address.
    ///
    /// # Errors
    /// `Unavailable` while others are asked for addresses: try again. Else that there is none, or what is wrong.
    pub fn reserve(
        &mut self,
        spec: &ReserveSpec,
        used: &dyn Fn(Vni, IpAddr) -> bool,
        router: &dyn Fn(Vni, IpAddr) -> bool,
        around: &dyn Surroundings,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        let me = self.me;
        let net = around.network(&spec.network).ok_or_else(|| {
            let shown = escape(
                spec.network
                    .as_bytes()
                    .get(..80)
                    .unwrap_or(spec.network.as_bytes()),
            );
            refusal(
                ErrorCode::NetworkUnknown,
                format!("there is no network \"{shown}\""),
            )
        })?;
        let vni = net.vni;
        let places = (0..=u8::MAX).zip(&net.subnets);
        let Some((subnet, net_of)) = places.into_iter().find(|(_, s)| **s == spec.subnet) else {
            let message = format!("network {} has no subnet {}", net.name, spec.subnet);
            return Err(refusal(ErrorCode::SubnetUnknown, message));
        };
        let with_prefix = |ip| {
            IpNet::new(ip, net_of.prefix_len())
                .map_err(|error| refusal(ErrorCode::AddressInvalid, error.to_string()))
        };
        let known = self.reserved.iter().find(|((of, ip), reserved)| {
            let same =
                spec.mac.is_some() && reserved.mac == spec.mac && reserved.owner == spec.owner;
            // What a port has already is its own, not that of another with the same MAC.
            let fits = net_of.contains(ip) && spec.ip.is_none_or(|wanted| wanted == *ip);
            *of == vni && fits && same && !used(vni, *ip)
        });
        if let Some(((_, ip), _)) = known {
            return with_prefix(*ip).map(Reply::Address);
        }
        if self.reserved.len() >= RESERVED_MAX {
            let message = format!("{RESERVED_MAX} addresses are reserved already");
            return Err(refusal(ErrorCode::AddressesReservedFull, message));
        }
        let elsewhere = |ip| around.ip_holder(vni, ip).filter(|&holder| holder != me);
        let ip = match spec.ip {
            Some(ip) => {
                check_ip(&with_prefix(ip)?, net)?;
                let by = match elsewhere(ip) {
                    Some(holder) => Some(format!("by node {}", around.show_node(holder))),
                    None if used(vni, ip) => Some("by a port of this node".to_owned()),
                    None => self
                        .reserved
                        .get(&(vni, ip))
                        .map(|reserved| format!("by {} on this node", reserved.owner)),
                };
                if let Some(by) = by {
                    let message = format!("address {ip} is used on network {} {by}", net.name);
                    return Err(refusal(ErrorCode::AddressTaken, message));
                }
                ip
            }
            None => {
                let avoid = |ip| used(vni, ip) || router(vni, ip) || elsewhere(ip).is_some();
                let within = Span::of(&spec.within);
                match self.lease(vni, subnet, NOBODY_YET, within, &avoid) {
                    Some(ip) => ip,
                    None => return Err(self.none_to_reserve(net, subnet, spec, around, now, out)),
                }
            }
        };
        let reserved = Reserved {
            mac: spec.mac,
            owner: spec.owner.clone(),
        };
        keep(out, &StateKey::Reserved(vni, ip), &reserved);
        self.reserved.insert((vni, ip), reserved);
        self.lease_reserved(vni);
        with_prefix(ip).map(Reply::Address)
    }

    fn none_to_reserve(
        &mut self,
        net: &NetworkDef,
        subnet: u8,
        spec: &ReserveSpec,
        around: &dyn Surroundings,
        now: Now,
        out: &mut Outbox,
    ) -> Refusal {
        let of_use = leasable(&spec.subnet)
            .and_then(|(first, last)| Span { first, last }.meet(Span::of(&spec.within)));
        let pool = self.pools.get(&(net.vni, subnet));
        let Some(of_use) = of_use.filter(|of_use| {
            // Who has it all need not ask.
            pool.is_none_or(|pool| !pool.kept.owned.covers(*of_use))
        }) else {
            let message = format!(
                "no free address in {} on network {}: all are in use; remove what is not needed, or take a larger part of {}",
                spec.within, net.name, spec.subnet
            );
            return refusal(ErrorCode::AddressNoneFree, message);
        };
        let within = match spec.within == spec.subnet {
            true => Span::ALL,
            false => of_use,
        };
        self.want(net.vni, subnet, within, now, out);
        let code = match self.hunt(net.vni, subnet).exhausted {
            true => ErrorCode::AddressNoneFree,
            false => ErrorCode::AddressPending,
        };
        let mut message = no_address(net.vni, subnet, around, self);
        if within != Span::ALL {
            message = format!("of {} only: {message}", spec.within);
        }
        refusal(code, message)
    }

    /// Gives a reserved address back.
    pub fn unreserve(&mut self, vni: Vni, ip: IpAddr, out: &mut Outbox) {
        if self.reserved.remove(&(vni, ip)).is_some() {
            forget(out, &StateKey::Reserved(vni, ip));
            self.release(vni, ip, NOBODY_YET);
        }
    }

    /// The MAC of the port that an address is kept for.
    #[must_use]
    pub fn reserved_for(&self, vni: Vni, ip: IpAddr) -> Option<MacAddr> {
        self.reserved
            .get(&(vni, ip))
            .and_then(|reserved| reserved.mac)
    }

    /// All reservations.
    #[must_use]
    pub fn reservations(&self) -> Vec<ReservedView> {
        let show = |(&(vni, ip), reserved): (&(Vni, IpAddr), &Reserved)| ReservedView {
            vni,
            ip,
            mac: reserved.mac,
            owner: reserved.owner.clone(),
        };
        self.reserved.iter().map(show).collect()
    }

    /// What of the network is reserved and owned here is leased to nobody else, also if it came to be owned after.
    pub(super) fn lease_reserved(&mut self, vni: Vni) {
        let ips: Vec<IpAddr> = self.reserved_of(vni);
        for ip in ips {
            if let Some((_, pool)) = self.pool_of_ip(vni, ip)
                && pool.kept.owned.contains(number(ip))
            {
                pool.leases.entry(number(ip)).or_insert(NOBODY_YET);
            }
        }
    }

    /// The network is this one: what is in none of its subnets is not reserved any more.
    pub(super) fn keep_reserved(&mut self, def: &NetworkDef, out: &mut Outbox) {
        let inside = |ip: &IpAddr| def.subnets.iter().any(|subnet| subnet.contains(ip));
        for ip in self
            .reserved_of(def.vni)
            .into_iter()
            .filter(|ip| !inside(ip))
        {
            self.unreserve(def.vni, ip, out);
        }
        self.lease_reserved(def.vni);
    }

    pub(super) fn forget_reserved(&mut self, vni: Vni, out: &mut Outbox) {
        for ip in self.reserved_of(vni) {
            self.unreserve(vni, ip, out);
        }
    }

    fn reserved_of(&self, vni: Vni) -> Vec<IpAddr> {
        let of_network = self.reserved.keys().filter(|(of, _)| *of == vni);
        of_network.map(|&(_, ip)| ip).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::code::RefusalKind;
    use crate::command::{Reply, ReserveSpec};
    use crate::ident::{Label, Moment, NodeId, SessionId, WallTime};
    use crate::node::Output;
    use crate::state::decode;
    use crate::wire::control::Message;
    use std::collections::BTreeMap;

    fn me() -> NodeId {
        NodeId([1; 32])
    }

    struct Around(NetworkDef, Option<IpAddr>);

    impl Surroundings for Around {
        fn network(&self, text: &str) -> Option<&NetworkDef> {
            (text == self.0.name.as_str()).then_some(&self.0)
        }
        fn network_by_vni(&self, vni: Vni) -> Option<&NetworkDef> {
            (vni == self.0.vni).then_some(&self.0)
        }
        fn network_names(&self) -> Vec<String> {
            vec![self.0.name.to_string()]
        }
        fn mac_holder(&self, _: Vni, _: MacAddr) -> Option<NodeId> {
            None
        }
        fn ip_holder(&self, _: Vni, ip: IpAddr) -> Option<NodeId> {
            (self.1 == Some(ip)).then_some(NodeId([2; 32]))
        }
        fn name_holder(&self, _: Vni, _: &Label) -> Option<NodeId> {
            None
        }
        fn is_shared(&self, _: Vni, _: &crate::claims::Claim) -> bool {
            false
        }
        fn show_node(&self, node: NodeId) -> String {
            node.short()
        }
    }

    fn net() -> NetworkDef {
        NetworkDef {
            author: me(),
            serial: 1,
            since: WallTime(1),
            vni: Vni::new(7).unwrap(),
            name: "lan".parse().unwrap(),
            subnets: vec!["10.0.0.0/29".parse().unwrap()],
            mtu: 1450,
            removed: false,
        }
    }

    fn spec(ip: Option<&str>, mac: u8) -> ReserveSpec {
        ReserveSpec {
            network: "lan".to_owned(),
            subnet: "10.0.0.0/29".parse().unwrap(),
            within: "10.0.0.0/29".parse().unwrap(),
            ip: ip.map(|ip| ip.parse().unwrap()),
            mac: (mac > 0).then_some(MacAddr([2, 0, 0, 0, 0, mac])),
            owner: "docker".parse().unwrap(),
        }
    }

    fn founded() -> (Pools, Around, Outbox) {
        let (mut pools, mut out) = (Pools::new(me()), Outbox::default());
        pools.define(&net(), true, &mut out);
        (pools, Around(net(), None), out)
    }

    fn now() -> Now {
        Now {
            moment: Moment::default(),
            wall: WallTime(5),
        }
    }

    fn reserve(
        (pools, around, out): &mut (Pools, Around, Outbox),
        spec: &ReserveSpec,
    ) -> Result<String, Refusal> {
        let reply = pools.reserve(spec, &|_, _| false, &|_, _| false, around, now(), out)?;
        match reply {
            Reply::Address(ip) => Ok(ip.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_is_reserved_once_and_the_same_port_gets_the_same_again() {
        let mut world = founded();
        assert_eq!(reserve(&mut world, &spec(None, 1)).unwrap(), "10.0.0.2/29");
        assert_eq!(reserve(&mut world, &spec(None, 1)).unwrap(), "10.0.0.2/29");
        assert_eq!(reserve(&mut world, &spec(None, 2)).unwrap(), "10.0.0.3/29");
        let taken = reserve(&mut world, &spec(Some("10.0.0.2"), 3)).unwrap_err();
        assert!(taken.message.contains("10.0.0.2 is used"), "{taken}");
        let vni = net().vni;
        assert_eq!(
            world
                .0
                .lease(vni, 0, PortId(9), Span::ALL, &|_| false)
                .unwrap()
                .to_string(),
            "10.0.0.4"
        );
        assert!(!world.0.take(vni, "10.0.0.2".parse().unwrap(), PortId(9)));
        world
            .0
            .unreserve(vni, "10.0.0.2".parse().unwrap(), &mut world.2);
        assert_eq!(
            reserve(&mut world, &spec(Some("10.0.0.2"), 3)).unwrap(),
            "10.0.0.2/29"
        );
    }

    #[test]
    fn addresses_without_a_mac_of_other_nodes_and_of_the_service_are_each_told_apart() {
        let mut world = founded();
        world.1.1 = Some("10.0.0.5".parse().unwrap());
        for (ip, why) in [
            ("10.0.0.5", "by node"),
            ("10.0.0.1", "own service"),
            ("10.0.0.7", "broadcast"),
            ("10.9.0.1", "no subnet"),
        ] {
            let refused = reserve(&mut world, &spec(Some(ip), 1)).unwrap_err();
            assert!(refused.message.contains(why), "{ip}: {refused}");
        }
        for _ in 0..4 {
            reserve(&mut world, &spec(None, 0)).unwrap();
        }
        // 2, 3, 4 and 6: one each time, since nothing says that they are for the same port.
        let none = reserve(&mut world, &spec(None, 0)).unwrap_err();
        assert!(none.message.contains("no free address"), "{none}");
        assert_eq!(none.kind(), RefusalKind::Conflict);
    }

    #[test]
    fn a_router_of_a_port_is_for_whoever_asks_for_just_that_address() {
        let (mut pools, around, mut out) = founded();
        let router = |_, ip: IpAddr| ip.to_string() == "10.0.0.2";
        let mut ask = |spec: &ReserveSpec| {
            let reply = pools.reserve(spec, &|_, _| false, &router, &around, now(), &mut out);
            match reply.unwrap() {
                Reply::Address(ip) => ip.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(ask(&spec(None, 1)), "10.0.0.3/29");
        assert_eq!(ask(&spec(Some("10.0.0.2"), 2)), "10.0.0.2/29");
    }

    #[test]
    fn a_part_that_is_full_here_is_refused_at_once_and_nobody_is_asked() {
        let mut world = founded();
        world.0.peer_up(NodeId([2; 32]), SessionId(2));
        while world.2.pop().is_some() {}
        let part = ReserveSpec {
            within: "10.0.0.4/31".parse().unwrap(),
            ..spec(None, 0)
        };
        for wanted in ["10.0.0.4/29", "10.0.0.5/29"] {
            assert_eq!(reserve(&mut world, &part).unwrap(), wanted);
        }
        let none = reserve(&mut world, &part).unwrap_err();
        assert_eq!(none.kind(), RefusalKind::Conflict);
        assert!(none.message.contains("10.0.0.4/31"), "{none}");
        let asked = |out: &mut Outbox| {
            std::iter::from_fn(|| out.pop()).find_map(|output| match output {
                Output::Message {
                    message: Message::PoolRequest(request),
                    ..
                } => Some(request),
                _ => None,
            })
        };
        assert_eq!(asked(&mut world.2), None);
        // The rest is there as before.
        assert_eq!(reserve(&mut world, &spec(None, 0)).unwrap(), "10.0.0.2/29");

        // Where another has the part, it is asked for that part alone.
        let mut other = (Pools::new(me()), Around(net(), None), Outbox::default());
        other.0.define(&net(), false, &mut other.2);
        other.0.peer_up(NodeId([2; 32]), SessionId(2));
        let later = reserve(&mut other, &part).unwrap_err();
        assert_eq!(later.kind(), RefusalKind::Unavailable);
        let request = asked(&mut other.2).unwrap();
        assert_eq!(request.within, Some((0x0a00_0004, 0x0a00_0005)));
        // Somebody who can use any of them widens the question, and it is put again.
        other.0.want(net().vni, 0, Span::ALL, now(), &mut other.2);
        assert_eq!(asked(&mut other.2).unwrap().within, None);
    }

    #[test]
    fn a_reservation_outlives_a_restart_and_goes_with_its_network() {
        let mut world = founded();
        reserve(&mut world, &spec(None, 1)).unwrap();
        let mut store: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        while let Some(output) = world.2.pop() {
            if let Output::Persist { key, value } = output {
                match value {
                    Some(value) => store.insert(key, value),
                    None => store.remove(&key),
                };
            }
        }
        let mut again = (Pools::new(me()), Around(net(), None), Outbox::default());
        for (key, value) in &store {
            again
                .0
                .restore(&StateKey::decode(key).unwrap(), value)
                .unwrap();
        }
        again.0.define(&net(), false, &mut again.2);
        assert_eq!(reserve(&mut again, &spec(None, 2)).unwrap(), "10.0.0.3/29");
        assert_eq!(again.0.reservations().len(), 2);
        again.0.remove(net().vni, &mut again.2);
        assert!(again.0.reservations().is_empty());
        let key = StateKey::Reserved(net().vni, "10.0.0.2".parse().unwrap());
        assert!(decode::<Reserved>(store.get(&key.encode()).unwrap()).is_ok());
    }
}
