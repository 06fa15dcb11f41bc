//! The life of a port, from the wish to the last trace in the kernel.
//!
//! ```text
//!   attach --> Addressing --(all leased)--> Wiring --Wired--> Up --detach, PortGone--> Unwiring --Unwired--> gone
//!                  |  waits for a grant       |  ^             (restart: Wiring again, to adopt)
//!                  | 5 s, or nobody has any   |  | time
//!                  v                          v  |
//!               refused             new: refused; kept from before: Failed
//! ```
//!
//! Owns the ports' records, their numbers and MACs, and the node's own presence on each network that has a port here. A
//! record is durable before the kernel hears of it and until the kernel has forgotten it, so a crash at any moment leaves
//! nothing that nobody knows of. Refuses to touch the kernel, the switch or the directory: it tells them by
//! [`Ports::take_changes`].

use crate::attach::{Surroundings, check, refusal, same_wish, service_mac};
use crate::command::{
    AttachSpec, DnsHint, IpSpec, PortRecord, PortWiring, Refusal, RefusalCode, Reply, ServiceWiring,
};
use crate::ident::{CommandId, IfName, Label, MacAddr, Moment, NodeId, Now, PortId, Vni, escape};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::pool::{Pools, WANT_MS};
use crate::ranges::service_address;
use crate::state::{Counter, StateError, StateKey, decode, forget, keep};
use crate::view::PortState;
use crate::wire::record::NetworkDef;
use ipnet::IpNet;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Commands that may wait for one port.
const WAITERS_MAX: usize = 16;
/// First and longest pause before a port is tried again that the kernel refused.
const RETRY_MS: u64 = 1_000;
const RETRY_MS_MAX: u64 = 30_000;

/// What the ports need to know of the node's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsConfig {
    /// The mesh's domain, without a dot at the end.
    pub domain: String,
    /// Tell containers of the name service.
    pub dns: bool,
    /// Most ports of this node.
    pub ports_max: usize,
}

/// What the switch and the directory have to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortChange {
    /// [`Ports::networks`] may be another.
    Presence,
    /// Frames flow from now on.
    PortUp(PortRecord),
    /// They do not any more.
    PortDown(PortRecord),
    /// The node has a presence on a network.
    ServiceUp(ServiceWiring),
    /// It has none any more.
    ServiceDown {
        /// The network.
        vni: Vni,
        /// The port that carried it.
        port: PortId,
    },
}

/// All ports of this node.
#[derive(Debug)]
pub struct Ports {
    me: NodeId,
    config: PortsConfig,
    rng: SmallRng,
    next_id: u32,
    ports: BTreeMap<PortId, Port>,
    services: BTreeMap<Vni, ServiceWiring>,
    changes: Vec<PortChange>,
}

#[derive(Debug)]
struct Port {
    record: PortRecord,
    phase: Phase,
    attaching: Vec<CommandId>,
    detaching: Vec<CommandId>,
}

#[derive(Debug)]
enum Phase {
    /// Waits for addresses out of these subnets. The record is not kept yet.
    Addressing {
        missing: BTreeSet<u8>,
        deadline: Moment,
    },
    /// The kernel works on it. `doomed`: to be undone as soon as it is done.
    Wiring { doomed: bool, tries: u32 },
    /// The kernel refused a port that was ready once; it is tried again.
    Failed {
        reason: String,
        retry: Moment,
        tries: u32,
    },
    /// Frames flow.
    Up,
    /// The kernel undoes it.
    Unwiring,
}

impl Ports {
    /// No ports yet. `seed`: of the MACs.
    #[must_use]
    pub fn new(me: NodeId, config: PortsConfig, seed: u64) -> Self {
        Self {
            me,
            config,
            rng: SmallRng::seed_from_u64(seed),
            next_id: 1,
            ports: BTreeMap::new(),
            services: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    /// Takes back one entry of the state ([`StateKey::Port`], [`StateKey::Counter`]); before anything else is called.
    ///
    /// # Errors
    /// If the value is damaged; the port is then unknown.
    pub fn restore(&mut self, key: &StateKey, value: &[u8]) -> Result<(), StateError> {
        match *key {
            StateKey::Counter(Counter::NextPort) => self.next_id = self.next_id.max(decode(value)?),
            StateKey::Port(id) => {
                // Also if the record is damaged, its number is not given to another.
                self.next_id = self.next_id.max(id.0.saturating_add(1));
                let record: PortRecord = decode(value)?;
                let phase = Phase::Wiring {
                    doomed: false,
                    tries: 0,
                };
                self.ports.insert(
                    id,
                    Port {
                        record,
                        phase,
                        attaching: Vec::new(),
                        detaching: Vec::new(),
                    },
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// Once, when all is restored and the directory is there: has the kernel make or adopt every port.
    pub fn start(
        &mut self,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        let ids: Vec<PortId> = self.ports.keys().copied().collect();
        for &id in &ids {
            let Some(port) = self.ports.get(&id) else {
                continue;
            };
            for &ip in &port.record.leased {
                if !pools.take(port.record.vni, ip, id) {
                    let what = format!("lease of {ip} by port {id}");
                    let reason =
                        "this node does not own the address any more; the port keeps it".to_owned();
                    out.push(Output::Notice(Notice::Refused { what, reason }));
                }
            }
        }
        for id in ids {
            self.wire(id, 0, around, pools, now, out);
        }
    }

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
        if let Some(known) = self.at_same_place(&spec, net.vni) {
            return self.attach_again(id, known, &spec, net, around, out);
        }
        if self.ports.len() >= self.config.ports_max {
            let message = format!(
                "this node has {} ports already; raise `ports` under [limits] in its configuration",
                self.ports.len()
            );
            return Err(refusal(RefusalCode::Unavailable, message));
        }
        check(&spec, net, self.records(), around, self.me)?;
        let port_id = self.allocate(out)?;
        let mac = match spec.mac {
            Some(mac) => mac,
            None => self.make_mac(net.vni, around),
        };
        let mut record = PortRecord {
            id: port_id,
            vni: net.vni,
            netns: spec.netns,
            ifname: spec.ifname.clone(),
            mac,
            ips: Vec::new(),
            leased: Vec::new(),
            name: spec.name,
            labels: spec.labels,
            since: now.wall.0,
            ready: false,
            asked_ifname: spec.ifname,
        };
        let mut missing = BTreeSet::new();
        match spec.ip {
            IpSpec::None => {}
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
            },
        );
        pools.set_active(net.vni, true);
        self.lease_missing(port_id, around, pools, now, out);
        if let Some(Phase::Addressing { missing, .. }) =
            self.ports.get(&port_id).map(|port| &port.phase)
        {
            for &subnet in missing {
                pools.want(net.vni, subnet, now, out);
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
            record.netns == spec.netns
                && (record.asked_ifname == spec.ifname || record.ifname == spec.ifname)
                && (!pattern || record.vni == vni)
        };
        self.records()
            .find(|record| same(record))
            .map(|record| record.id)
    }

    fn attach_again(
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
            return Err(refusal(
                RefusalCode::Conflict,
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
                RefusalCode::Unavailable,
                format!("port {known} at that interface is {why}; try again in a moment"),
            ));
        }
        if let Err(what) = same_wish(&port.record, spec) {
            return Err(refusal(
                RefusalCode::Conflict,
                format!(
                    "port {known} is at that interface already, with other {what}; detach it first (`meshd detach {known}`)"
                ),
            ));
        }
        match &port.phase {
            Phase::Up => out.push(Output::Reply {
                id,
                result: Ok(Reply::Port(port.record.clone())),
            }),
            Phase::Failed { reason, .. } => {
                let message = format!(
                    "port {known} is at that interface already, but does not work: {reason}; it is tried again by itself"
                );
                return Err(refusal(RefusalCode::Failed, message));
            }
            _ => port.attaching.push(id),
        }
        Ok(())
    }

    fn allocate(&mut self, out: &mut Outbox) -> Result<PortId, Refusal> {
        let id = PortId(self.next_id);
        self.next_id = self.next_id.checked_add(1).ok_or_else(|| {
            refusal(
                RefusalCode::Unavailable,
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
    fn lease_missing(
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
        let ours: BTreeSet<(Vni, IpAddr)> = self.records().flat_map(used).collect();
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
            let Some(ip) = pools.lease(vni, index, id, &avoid) else {
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
    fn give_up_waiting(
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
                Err(refusal(RefusalCode::Unavailable, message)),
                pools,
                out,
            );
        }
    }

    /// Has the kernel make or adopt the port. Its record is kept already.
    fn wire(
        &mut self,
        id: PortId,
        tries: u32,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        let Some(net) = around.network_by_vni(port.record.vni) else {
            let reason = format!("network {} is not known (yet)", port.record.vni);
            port.phase = Phase::Failed {
                reason,
                retry: now.moment.plus_ms(pause(tries)),
                tries: tries.saturating_add(1),
            };
            return;
        };
        port.phase = Phase::Wiring {
            doomed: false,
            tries,
        };
        let search = self.search(&net.name);
        let servers: Vec<IpAddr> = net.subnets.iter().filter_map(service_address).collect();
        let dns = (self.config.dns && !servers.is_empty()).then_some(DnsHint { servers, search });
        if let Some(port) = self.ports.get(&id) {
            let wiring = PortWiring {
                port: port.record.clone(),
                mtu: net.mtu,
                routes: Vec::new(),
                dns,
            };
            out.push(Output::Wire(wiring));
        }
        self.changes.push(PortChange::Presence);
        pools.set_active(net.vni, true);
        self.serve(net, out);
    }

    fn search(&self, network: &Label) -> String {
        match self.config.domain.as_str() {
            "" => network.to_string(),
            domain => format!("{network}.{domain}"),
        }
    }

    /// The node's own presence on a network, if it has none yet and the network has an address for it.
    fn serve(&mut self, net: &NetworkDef, out: &mut Outbox) {
        let ips: Vec<IpNet> = net
            .subnets
            .iter()
            .filter_map(|s| IpNet::new(service_address(s)?, s.prefix_len()).ok())
            .collect();
        if ips.is_empty() || self.services.contains_key(&net.vni) {
            return;
        }
        // Without a number there is no service; ports go on without it.
        let Ok(port) = self.allocate(out) else { return };
        let domain = self.search(&net.name);
        let service = ServiceWiring {
            port,
            vni: net.vni,
            mac: service_mac(net.vni),
            ips,
            mtu: net.mtu,
            domain,
        };
        self.services.insert(net.vni, service.clone());
        self.changes.push(PortChange::ServiceUp(service.clone()));
        out.push(Output::Serve(service));
    }

    /// The kernel has the port.
    pub fn wired(
        &mut self,
        id: PortId,
        ifname: IfName,
        mac: MacAddr,
        around: &dyn Surroundings,
        pools: &mut Pools,
        out: &mut Outbox,
    ) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        match port.phase {
            Phase::Wiring { doomed: false, .. } => {}
            Phase::Wiring { doomed: true, .. } => return self.unwire(id, pools, out),
            // Nobody asked for it; the shell tells what it has once more.
            _ => return,
        }
        let before = port.record.clone();
        port.record.ifname = ifname;
        port.record.mac = mac;
        port.record.ready = true;
        port.phase = Phase::Up;
        if port.record != before {
            keep(out, &StateKey::Port(id), &port.record);
        }
        self.changes.push(PortChange::PortUp(port.record.clone()));
        let network = show_network(port.record.vni, around);
        out.push(Output::Notice(Notice::PortReady { port: id, network }));
        for waiter in port.attaching.drain(..) {
            out.push(Output::Reply {
                id: waiter,
                result: Ok(Reply::Port(port.record.clone())),
            });
        }
    }

    /// The kernel could not make the port, and nothing of it is left; or it lost a part of a port that frames flowed
    /// through, and the port is to be made whole.
    pub fn wire_failed(
        &mut self,
        id: PortId,
        reason: String,
        gone: bool,
        now: Now,
        pools: &mut Pools,
        out: &mut Outbox,
    ) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        let (doomed, tries) = match port.phase {
            Phase::Wiring { doomed, tries } => (doomed, tries),
            Phase::Up => {
                self.changes.push(PortChange::PortDown(port.record.clone()));
                (false, 0)
            }
            _ => return,
        };
        let failed = refusal(
            RefusalCode::Failed,
            format!("port {id} could not be made: {reason}"),
        );
        if doomed {
            self.drop_port(id, Err(failed), pools, out);
            return;
        }
        if !port.record.ready {
            out.push(Output::Notice(Notice::PortFailed { port: id, reason }));
            self.drop_port(id, Err(failed), pools, out);
            return;
        }
        if gone {
            out.push(Output::Notice(Notice::PortGone { port: id, reason }));
            self.drop_port(id, Err(failed), pools, out);
            return;
        }
        // It was promised once, so it is kept, and tried again.
        for waiter in port.attaching.drain(..) {
            out.push(Output::Reply {
                id: waiter,
                result: Err(failed.clone()),
            });
        }
        port.phase = Phase::Failed {
            reason: reason.clone(),
            retry: now.moment.plus_ms(pause(tries)),
            tries: tries.saturating_add(1),
        };
        out.push(Output::Notice(Notice::PortFailed { port: id, reason }));
    }

    /// Removes a port; the reply comes when the kernel has forgotten it. `target`: number, `name` or `name.network`.
    pub fn detach(
        &mut self,
        id: CommandId,
        target: &str,
        around: &dyn Surroundings,
        pools: &mut Pools,
        out: &mut Outbox,
    ) {
        let found = self.find(target, around).and_then(|port_id| {
            let full = self
                .ports
                .get(&port_id)
                .is_some_and(|port| port.detaching.len() >= WAITERS_MAX);
            if full {
                Err(refusal(
                    RefusalCode::Unavailable,
                    format!("port {port_id} is being removed already"),
                ))
            } else {
                Ok(port_id)
            }
        });
        match found {
            Ok(port_id) => {
                if let Some(port) = self.ports.get_mut(&port_id) {
                    port.detaching.push(id);
                }
                self.leave(port_id, "it was detached meanwhile", pools, out);
            }
            Err(refused) => out.push(Output::Reply {
                id,
                result: Err(refused),
            }),
        }
    }

    /// The port that an operator means.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` if several networks have that name.
    pub fn find(&self, target: &str, around: &dyn Surroundings) -> Result<PortId, Refusal> {
        if let Some(record) = target
            .parse()
            .ok()
            .and_then(|number| self.ports.get(&PortId(number)))
            .map(|port| &port.record)
        {
            return Ok(record.id);
        }
        let folded = target.to_ascii_lowercase();
        let (name, network) = match folded.split_once('.') {
            Some((name, network)) => (name, Some(network)),
            None => (folded.as_str(), None),
        };
        // A full domain name will do as well.
        let suffix = format!(".{}", self.config.domain);
        let network = network
            .map(|text| text.trim_end_matches('.'))
            .map(|text| text.strip_suffix(&suffix).unwrap_or(text));
        let fits = |record: &&PortRecord| {
            record.name.as_ref().is_some_and(|n| n.as_str() == name)
                && network
                    .is_none_or(|n| around.network(n).is_some_and(|def| def.vni == record.vni))
        };
        let found: Vec<&PortRecord> = self.records().filter(fits).collect();
        match found.as_slice() {
            [record] => Ok(record.id),
            [] => {
                let shown = escape(target.as_bytes().get(..80).unwrap_or(target.as_bytes()));
                Err(refusal(
                    RefusalCode::NotFound,
                    format!(
                        "there is no port \"{shown}\" on this node; `meshd ports` shows which there are"
                    ),
                ))
            }
            several => {
                let names: Vec<String> = several
                    .iter()
                    .take(8)
                    .map(|r| format!("{name}.{}", show_network(r.vni, around)))
                    .collect();
                Err(refusal(
                    RefusalCode::Conflict,
                    format!(
                        "several ports are called {name}; say which: {}",
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    /// The far end or its namespace went away by itself.
    pub fn port_gone(&mut self, id: PortId, pools: &mut Pools, out: &mut Outbox) {
        let Some(port) = self.ports.get(&id) else {
            return;
        };
        if matches!(
            port.phase,
            Phase::Addressing { .. } | Phase::Unwiring | Phase::Wiring { doomed: true, .. }
        ) {
            return;
        }
        let reason = "the interface or its namespace was removed by somebody else".to_owned();
        out.push(Output::Notice(Notice::PortGone { port: id, reason }));
        self.leave(id, "its namespace went away", pools, out);
    }

    /// From wherever it is, towards its end.
    fn leave(&mut self, id: PortId, why: &str, pools: &mut Pools, out: &mut Outbox) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        let refused = refusal(
            RefusalCode::Conflict,
            format!("port {id} is not made: {why}"),
        );
        match &mut port.phase {
            Phase::Addressing { .. } => self.drop_port(id, Err(refused), pools, out),
            Phase::Wiring { doomed, .. } => {
                *doomed = true;
                for waiter in port.attaching.drain(..) {
                    out.push(Output::Reply {
                        id: waiter,
                        result: Err(refused.clone()),
                    });
                }
            }
            Phase::Up | Phase::Failed { .. } => self.unwire(id, pools, out),
            Phase::Unwiring => {}
        }
    }

    /// Has the kernel forget the port. The record stays until that is done.
    fn unwire(&mut self, id: PortId, _pools: &mut Pools, out: &mut Outbox) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        if matches!(port.phase, Phase::Up) {
            self.changes.push(PortChange::PortDown(port.record.clone()));
        }
        port.phase = Phase::Unwiring;
        out.push(Output::Unwire(port.record.clone()));
    }

    /// Nothing of the port is left in the kernel, or all that could be undone is.
    pub fn unwired(
        &mut self,
        id: PortId,
        errors: Vec<String>,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        let Some(port) = self.ports.get(&id) else {
            return;
        };
        if !matches!(port.phase, Phase::Unwiring) {
            return;
        }
        let left = (!errors.is_empty()).then(|| {
            let shown: Vec<&str> = errors.iter().take(8).map(String::as_str).collect();
            refusal(
                RefusalCode::Failed,
                format!(
                    "port {id} is removed, but something of it is left: {}",
                    shown.join("; ")
                ),
            )
        });
        if let (Some(left), true) = (&left, port.detaching.is_empty()) {
            out.push(Output::Notice(Notice::Refused {
                what: format!("removal of port {id}"),
                reason: left.message.clone(),
            }));
        }
        self.drop_port(id, left.map_or(Ok(()), Err), pools, out);
        // Somebody may have waited for just these addresses.
        self.addresses_changed(around, pools, now, out);
    }

    /// Forgets a port of which the kernel has nothing. Who detaches it is told that it is done, or what is left; who
    /// attaches it, why it is not there.
    fn drop_port(
        &mut self,
        id: PortId,
        result: Result<(), Refusal>,
        pools: &mut Pools,
        out: &mut Outbox,
    ) {
        let Some(port) = self.ports.remove(&id) else {
            return;
        };
        for &ip in &port.record.leased {
            pools.release(port.record.vni, ip, id);
        }
        self.changes.push(PortChange::Presence);
        let removed = matches!(port.phase, Phase::Unwiring);
        if !matches!(port.phase, Phase::Addressing { .. }) {
            forget(out, &StateKey::Port(id));
        }
        let vni = port.record.vni;
        if !self.records().any(|record| record.vni == vni) {
            pools.set_active(vni, false);
            if let Some(service) = self.services.remove(&vni) {
                self.changes.push(PortChange::ServiceDown {
                    vni,
                    port: service.port,
                });
                out.push(Output::Unserve {
                    vni,
                    port: service.port,
                });
            }
        }
        for waiter in port.detaching {
            // That a port which is to go was never made is just what was wished for.
            let result = if removed {
                result.clone().map(|()| Reply::Done)
            } else {
                Ok(Reply::Done)
            };
            out.push(Output::Reply { id: waiter, result });
        }
        let failed = result
            .err()
            .unwrap_or_else(|| refusal(RefusalCode::Conflict, format!("port {id} was removed")));
        for waiter in port.attaching {
            out.push(Output::Reply {
                id: waiter,
                result: Err(failed.clone()),
            });
        }
    }

    /// When time has something to do here, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        self.ports
            .values()
            .filter_map(|port| match port.phase {
                Phase::Addressing { deadline, .. } => {
                    Some((deadline, "ports: wait for an address ends"))
                }
                Phase::Failed { retry, .. } => Some((retry, "ports: try a failed port again")),
                _ => None,
            })
            .min()
    }

    /// Does what time has to do.
    pub fn handle_timeout(
        &mut self,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        self.give_up_waiting(None, around, pools, now, out);
        let again: Vec<(PortId, u32)> = self
            .ports
            .iter()
            .filter_map(|(&id, port)| match port.phase {
                Phase::Failed { retry, tries, .. } if retry <= now.moment => Some((id, tries)),
                _ => None,
            })
            .collect();
        for (id, tries) in again {
            self.wire(id, tries, around, pools, now, out);
        }
    }

    /// What the switch and the directory have to know since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<PortChange> {
        std::mem::take(&mut self.changes)
    }

    fn records(&self) -> impl Iterator<Item = &PortRecord> + Clone {
        self.ports.values().map(|port| &port.record)
    }

    /// All ports, how they are, and why if they do not work.
    pub fn iter(&self) -> impl Iterator<Item = (&PortRecord, PortState, Option<&str>)> {
        self.ports.values().map(|port| match &port.phase {
            Phase::Addressing { .. } => (
                &port.record,
                PortState::Wiring,
                Some("waits for an address"),
            ),
            Phase::Wiring { doomed: false, .. } => (&port.record, PortState::Wiring, None),
            Phase::Failed { reason, .. } => {
                (&port.record, PortState::Failed, Some(reason.as_str()))
            }
            Phase::Up => (&port.record, PortState::Ready, None),
            Phase::Wiring { doomed: true, .. } | Phase::Unwiring => {
                (&port.record, PortState::Leaving, None)
            }
        })
    }

    /// Networks that this node is on. It says so while the kernel still works on the first port, so that the others
    /// know it before the first frame comes.
    #[must_use]
    pub fn networks(&self) -> BTreeSet<Vni> {
        self.ports
            .values()
            .filter(|port| matches!(port.phase, Phase::Wiring { doomed: false, .. } | Phase::Up))
            .map(|port| port.record.vni)
            .collect()
    }

    /// The node's own presence on each network that has a port here.
    pub fn services(&self) -> impl Iterator<Item = &ServiceWiring> {
        self.services.values()
    }
}

/// Milliseconds until a port is tried again after `tries` failures.
fn pause(tries: u32) -> u64 {
    RETRY_MS.saturating_mul(1 << tries.min(8)).min(RETRY_MS_MAX)
}

fn show_network(vni: Vni, around: &dyn Surroundings) -> String {
    around
        .network_by_vni(vni)
        .map_or_else(|| format!("with VNI {vni}"), |def| def.name.to_string())
}

fn no_network(text: &str, around: &dyn Surroundings) -> Refusal {
    let shown = escape(text.as_bytes().get(..80).unwrap_or(text.as_bytes()));
    let names: Vec<String> = around.network_names().into_iter().take(8).collect();
    let advice = match names.is_empty() {
        true => "this node knows of none yet: define one with `meshd network add`".to_owned(),
        false => format!("there are: {}", names.join(", ")),
    };
    refusal(
        RefusalCode::NotFound,
        format!("there is no network \"{shown}\"; {advice}"),
    )
}

/// Why there is no address, who was asked, and what to do.
fn no_address(vni: Vni, subnet: u8, around: &dyn Surroundings, pools: &Pools) -> String {
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
    if asked.is_empty() {
        asked.push("there is nobody to ask".to_owned());
    }
    format!(
        "no free address{range} on network {}: this node has none, and {}; detach ports that are not needed, or give an address by hand (--ip)",
        show_network(vni, around),
        asked.join("; ")
    )
}

#[cfg(test)]
mod tests;
