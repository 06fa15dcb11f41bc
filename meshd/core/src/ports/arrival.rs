//! How a port comes: the wish, its number, its MAC, its addresses. From there on the kernel has it.

use super::{Phase, Port, Ports, WAITERS_MAX, show_network};
use crate::attach::{Surroundings, check, refusal, same_wish};
use crate::code::ErrorCode;
use crate::command::{AttachSpec, IpSpec, PortRecord, Refusal, Reply};
use crate::ident::{CommandId, MacAddr, NodeId, Now, PortId, Vni, escape};
use crate::kind::PortKind;
use crate::node::Output;
use crate::outbox::Outbox;
use crate::pool::{Pools, WANT_MS};
use crate::ranges::Span;
use crate::state::{Counter, StateKey, keep};
use crate::wire::record::NetworkDef;
use ipnet::IpNet;
use rand::Rng;
use std::collections::BTreeSet;
use std::net::IpAddr;

impl Ports {
    /// Makes a port; the reply comes when the kernel has it.
    pub fn attach(
        &mut self,
        id: CommandId,
        spec: AttachSpec,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        if let Err(refused) = self.try_attach(id, spec, around, pools, now, out) {
            out.push(Output::Reply {
                id,
                result: Err(refused),
            });
        }
    }

    fn try_attach(
        &mut self,
        id: CommandId,
        spec: AttachSpec,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Refusal> {
        let net = around
            .network(&spec.network)
            .ok_or_else(|| no_network(&spec.network, around))?;
        let same_place = self.at_same_place(&spec, net.vni);
        self.check_owner(&spec, same_place)?;
        if let Some(known) = same_place {
            return self.attach_again(id, known, &spec, net, around, out);
        }
        if self.ports.len() >= self.config.ports_max {
            let message = format!(
                "this node has {} ports already; raise `ports` under [limits] in its configuration",
                self.ports.len()
            );
            return Err(refusal(ErrorCode::PortsFull, message));
        }
        check(&spec, net, self.records(), around, self.me)?;
        check_reserved(&spec, net, pools)?;
        let port_id = self.allocate(out)?;
        let uplink = spec.kind.uplink().is_some();
        let mac = match spec.mac {
            Some(mac) => mac,
            None if uplink => MacAddr::default(),
            None => self.make_mac(net.vni, around),
        };
        let mut record = PortRecord {
            id: port_id,
            vni: net.vni,
            kind: spec.kind,
            netns: spec.netns,
            ifname: spec.ifname.clone(),
            mac,
            ips: Vec::new(),
            leased: Vec::new(),
            name: spec.name,
            labels: spec.labels,
            since: now.wall.0,
            ready: false,
            file: None,
            asked_ifname: spec.ifname,
            mtu: spec.mtu,
            routes: spec.routes,
            vrf: spec.vrf,
            owner: spec.owner,
        };
        let mut missing = BTreeSet::new();
        match spec.ip {
            IpSpec::None => {}
            IpSpec::Auto if uplink => {}
            IpSpec::Auto => missing.extend((0..=u8::MAX).take(net.subnets.len())),
            IpSpec::Fixed(ips) => {
                // An address of ours that was set by hand must not be leased to others as well.
                record.leased = ips
                    .iter()
                    .map(IpNet::addr)
                    .filter(|&ip| pools.take(net.vni, ip, port_id))
                    .collect();
                record.ips = ips;
            }
        }
        let deadline = now.moment.plus_ms(WANT_MS);
        let phase = Phase::Addressing { missing, deadline };
        self.ports.insert(
            port_id,
            Port {
                record,
                phase,
                attaching: vec![id],
                detaching: Vec::new(),
                far_down: false,
                narrow: None,
                file: None,
                told: None,
            },
        );
        pools.set_active(net.vni, true);
        self.lease_missing(port_id, around, pools, now, out);
        if let Some(Phase::Addressing { missing, .. }) =
            self.ports.get(&port_id).map(|port| &port.phase)
        {
            for &subnet in missing {
                pools.want(net.vni, subnet, Span::ALL, now, out);
            }
            self.give_up_waiting(Some(port_id), around, pools, now, out);
        }
        Ok(())
    }

    /// The port at the same interface of the same namespace. A pattern (`eth%d`) names another interface each time, so it
    /// is the same place only on the same network.
    fn at_same_place(&self, spec: &AttachSpec, vni: Vni) -> Option<PortId> {
        let pattern = spec.ifname.as_bytes().windows(2).any(|pair| pair == b"%d");
        let same = |record: &PortRecord| {
            record.netns.same(&spec.netns)
                && (record.asked_ifname == spec.ifname || record.ifname == spec.ifname)
                && (!pattern || record.vni == vni)
                && record.kind.vlan() == spec.kind.vlan()
        };
        self.records()
            .find(|record| same(record))
            .map(|record| record.id)
    }

    /// An owner has one port, so it has it at this place or nowhere.
    fn check_owner(&self, spec: &AttachSpec, same_place: Option<PortId>) -> Result<(), Refusal> {
        let owned = spec.owner.as_ref().and_then(|owner| self.owned_by(owner));
        match owned {
            Some(record) if Some(record.id) != same_place => {
                let (id, ifname) = (record.id, &record.ifname);
                let place = escape(record.netns.path());
                let owner = spec.owner.as_ref().map_or("", |owner| owner.as_str());
                let message = format!(
                    "owner {owner} has port {id} already, interface {ifname} of {place}; detach it first (`meshd detach {id}`) or name another owner"
                );
                Err(refusal(ErrorCode::OwnerTaken, message))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn attach_again(
        &mut self,
        id: CommandId,
        known: PortId,
        spec: &AttachSpec,
        net: &NetworkDef,
        around: &dyn Surroundings,
        out: &mut Outbox,
    ) -> Result<(), Refusal> {
        let Some(port) = self.ports.get_mut(&known) else {
            return Ok(());
        };
        if port.record.vni != net.vni {
            let other = show_network(port.record.vni, around);
            if matches!(spec.kind, PortKind::Bridge(_)) {
                return Err(refusal(
                    ErrorCode::BridgeTaken,
                    format!(
                        "bridge {} is that of network {other} here, by port {known}, and would join both: a bridge is of one network; detach it there first (`meshd detach {known}`), or name another bridge for network {}",
                        port.record.ifname, net.name
                    ),
                ));
            }
            if spec.kind.uplink().is_some() {
                return Err(refusal(
                    ErrorCode::InterfaceTaken,
                    format!(
                        "interface {} is an uplink of network {other} already, by port {known}; detach it there first (`meshd detach {known}`), or name another interface",
                        port.record.ifname
                    ),
                ));
            }
            return Err(refusal(
                ErrorCode::InterfaceTaken,
                format!(
                    "interface {} of that namespace is port {known} on network {other}; detach it first (`meshd detach {known}`) or use another --ifname",
                    port.record.ifname
                ),
            ));
        }
        let leaving = matches!(
            port.phase,
            Phase::Unwiring | Phase::Wiring { doomed: true, .. }
        );
        if leaving || port.attaching.len() >= WAITERS_MAX {
            let why = if leaving {
                "being removed"
            } else {
                "waited for by many already"
            };
            return Err(refusal(
                ErrorCode::PortBusy,
                format!("port {known} at that interface is {why}; try again in a moment"),
            ));
        }
        if let Err(what) = same_wish(&port.record, spec) {
            return Err(refusal(
                ErrorCode::PortDiffers,
                format!(
                    "port {known} is at that interface already, with other {what}; detach it first (`meshd detach {known}`)"
                ),
            ));
        }
        match &port.phase {
            // Whatever was done to it inside of the container meanwhile: who asks for it is to have it.
            Phase::Up => {
                port.attaching.push(id);
                let record = port.record.clone();
                out.push(Output::Mend(self.wiring(record, net)));
            }
            Phase::Failed { .. } if port.record.kind.waits() => out.push(Output::Reply {
                id,
                result: Ok(Reply::Port(port.record.clone())),
            }),
            Phase::Failed { reason, .. } => {
                let message = format!(
                    "port {known} is at that interface already, but does not work: {reason}; it is tried again by itself"
                );
                return Err(refusal(ErrorCode::PortFailed, message));
            }
            _ => port.attaching.push(id),
        }
        Ok(())
    }

    pub(crate) fn allocate(&mut self, out: &mut Outbox) -> Result<PortId, Refusal> {
        let id = PortId(self.next_id);
        self.next_id = self.next_id.checked_add(1).ok_or_else(|| {
            refusal(
                ErrorCode::PortNumbersUsedUp,
                "this node has used up all port numbers; make it anew with another state folder",
            )
        })?;
        keep(out, &StateKey::Counter(Counter::NextPort), &self.next_id);
        Ok(id)
    }

    /// A locally administered unicast MAC that nobody is known to have.
    fn make_mac(&mut self, vni: Vni, around: &dyn Surroundings) -> MacAddr {
        loop {
            let [a, b, c, d, e, f, ..] = self.rng.next_u64().to_be_bytes();
            let mac = MacAddr([(a & 0xfc) | 0x02, b, c, d, e, f]);
            let service = mac.0.starts_with(&[0x02, 0x6d, 0x64]);
            let known =
                self.records().any(|r| r.mac == mac) || around.mac_holder(vni, mac).is_some();
            if !service && !known {
                return mac;
            }
        }
    }

    /// New addresses may be there: those who wait try again, and those for whom nobody has any are told so. After each
    /// grant and each refusal of one.
    pub fn addresses_changed(
        &mut self,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        let waiting: Vec<PortId> = self
            .ports
            .iter()
            .filter(|(_, p)| matches!(p.phase, Phase::Addressing { .. }))
            .map(|(&id, _)| id)
            .collect();
        for id in waiting {
            self.lease_missing(id, around, pools, now, out);
        }
        self.give_up_waiting(None, around, pools, now, out);
    }

    /// Leases what a port waits for, as far as there is any, and goes on with the port that has all.
    pub(super) fn lease_missing(
        &mut self,
        id: PortId,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        let used = |record: &PortRecord| {
            record
                .ips
                .iter()
                .map(|ip| (record.vni, ip.addr()))
                .collect::<Vec<_>>()
        };
        let mut ours: BTreeSet<(Vni, IpAddr)> = self.records().flat_map(used).collect();
        // What a port is to be routed by is a router's, whether that is there already or not.
        ours.extend(self.records().flat_map(PortRecord::routers));
        let me = self.me;
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        let Phase::Addressing { missing, .. } = &mut port.phase else {
            return;
        };
        let vni = port.record.vni;
        let Some(net) = around.network_by_vni(vni) else {
            return;
        };
        let avoid = |ip| {
            ours.contains(&(vni, ip))
                || around.ip_holder(vni, ip).is_some_and(|holder| holder != me)
        };
        for (index, subnet) in (0..=u8::MAX).zip(&net.subnets) {
            if !missing.contains(&index) {
                continue;
            }
            let Some(ip) = pools.lease(vni, index, id, Span::ALL, &avoid) else {
                continue;
            };
            // The prefix is that of an existing subnet, so it fits.
            if let Ok(ip) = IpNet::new(ip, subnet.prefix_len()) {
                port.record.ips.push(ip);
            }
            port.record.leased.push(ip);
            missing.remove(&index);
        }
        if missing.is_empty() {
            keep(out, &StateKey::Port(id), &port.record);
            self.wire(id, 0, around, pools, now, out);
        }
    }

    /// Refuses ports that have waited too long, or for whom everybody was asked. `only`: look at this one.
    pub(super) fn give_up_waiting(
        &mut self,
        only: Option<PortId>,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        let hopeless: Vec<(PortId, u8)> = self
            .ports
            .iter()
            .filter(|&(&id, _)| only.is_none_or(|only| only == id))
            .filter_map(|(&id, port)| {
                let Phase::Addressing { missing, deadline } = &port.phase else {
                    return None;
                };
                let late = *deadline <= now.moment;
                missing
                    .iter()
                    .copied()
                    .find(|&s| late || pools.hunt(port.record.vni, s).exhausted)
                    .map(|s| (id, s))
            })
            .collect();
        for (id, subnet) in hopeless {
            let Some(port) = self.ports.get(&id) else {
                continue;
            };
            let message = no_address(port.record.vni, subnet, around, pools);
            self.drop_port(
                id,
                Err(refusal(ErrorCode::AddressPending, message)),
                pools,
                out,
            );
        }
    }
}

/// An address that is kept for a port with a certain MAC is for no other port.
fn check_reserved(spec: &AttachSpec, net: &NetworkDef, pools: &Pools) -> Result<(), Refusal> {
    let IpSpec::Fixed(ips) = &spec.ip else {
        return Ok(());
    };
    let kept = ips.iter().find_map(|ip| {
        let mac = pools.reserved_for(net.vni, ip.addr())?;
        (spec.mac != Some(mac)).then_some((ip, mac))
    });
    kept.map_or(Ok(()), |(ip, mac)| {
        let message = format!(
            "address {ip} of network {} is kept for a port with MAC {mac}; use another",
            net.name
        );
        Err(refusal(ErrorCode::AddressReserved, message))
    })
}

pub(super) fn no_network(text: &str, around: &dyn Surroundings) -> Refusal {
    let shown = escape(text.as_bytes().get(..80).unwrap_or(text.as_bytes()));
    let names: Vec<String> = around.network_names().into_iter().take(8).collect();
    let advice = match names.is_empty() {
        true => "this node knows of none yet: define one with `meshd network add`".to_owned(),
        false => format!("there are: {}", names.join(", ")),
    };
    refusal(
        ErrorCode::NetworkUnknown,
        format!("there is no network \"{shown}\"; {advice}"),
    )
}

/// Why there is no address, who was asked, and what to do.
pub(crate) fn no_address(vni: Vni, subnet: u8, around: &dyn Surroundings, pools: &Pools) -> String {
    let hunt = pools.hunt(vni, subnet);
    let net = around.network_by_vni(vni);
    let range = net
        .and_then(|def| def.subnets.get(usize::from(subnet)))
        .map_or_else(String::new, |s| format!(" in {s}"));
    let nodes = |nodes: &[NodeId]| {
        nodes
            .iter()
            .take(4)
            .map(|&n| around.show_node(n))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut asked = Vec::new();
    if !hunt.refused.is_empty() {
        asked.push(format!("{} had none to spare", nodes(&hunt.refused)));
    }
    if !hunt.silent.is_empty() {
        asked.push(format!("{} did not answer", nodes(&hunt.silent)));
    }
    if !hunt.author_connected
        && let Some(def) = net
    {
        asked.push(format!(
            "{}, which defined the network, is not connected (`meshd peers`)",
            around.show_node(def.author)
        ));
    }
    let mut away = pools.away(vni, subnet);
    away.sort_by_key(|&(_, addresses)| std::cmp::Reverse(addresses));
    for (node, addresses) in away.into_iter().take(4) {
        asked.push(format!(
            "{addresses} or more are with {}, which is revoked or not connected",
            around.show_node(node)
        ));
    }
    if asked.is_empty() {
        asked.push("there is nobody to ask".to_owned());
    }
    format!(
        "no free address{range} on network {}: this node has none, and {}; detach ports that are not needed, or give an address by hand (--ip)",
        show_network(vni, around),
        asked.join("; ")
    )
}
