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
//! [`Ports::take_changes`]. How a port comes stands in `arrival.rs`, how it goes in `departure.rs`, the node's presence
//! in `serving.rs`.

mod arrival;
mod departure;
mod far;
mod serving;

pub(crate) use arrival::no_address;

use serving::Serving;

use crate::attach::{Surroundings, refusal};
use crate::code::ErrorCode;
use crate::command::{DnsHint, PortRecord, PortWiring, Reply, ServiceWiring};
use crate::ident::{CommandId, IfName, Label, MacAddr, Moment, NodeId, Now, PortId, Vni};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::pool::Pools;
use crate::ranges::service_address;
use crate::state::{Counter, StateError, StateKey, decode, keep};
use crate::view::PortState;
use crate::wire::record::NetworkDef;
use ipnet::IpNet;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Commands that may wait for one port.
const WAITERS_MAX: usize = 16;
/// First and longest pause before a port or service is tried again that the kernel refused.
const RETRY_MS: u64 = 1_000;
const RETRY_MS_MAX: u64 = 30_000;
/// Before a port that lost a part is made whole, so that whoever takes several parts away at once is done.
const MEND_MS: u64 = 100;

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
    services: BTreeMap<Vni, Serving>,
    changes: Vec<PortChange>,
}

#[derive(Debug)]
struct Port {
    record: PortRecord,
    phase: Phase,
    attaching: Vec<CommandId>,
    detaching: Vec<CommandId>,
    /// The container set its end down.
    far_down: bool,
    /// The interface behind it takes shorter frames than the network's: why that matters.
    narrow: Option<String>,
    /// As the kernel said last.
    file: Option<Vec<u8>>,
    /// Why it does not work, as it was told: the same again is not told again.
    told: Option<String>,
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
                        far_down: false,
                        narrow: None,
                        file: None,
                        told: None,
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

    /// Is the kernel still at ports that frames passed before this run of the daemon?
    #[must_use]
    pub fn is_adopting(&self) -> bool {
        self.ports.values().any(|port| {
            let first = matches!(
                port.phase,
                Phase::Wiring {
                    doomed: false,
                    tries: 0
                }
            );
            first && port.record.ready
        })
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
        let net = match home(&port.record, around) {
            Ok(net) => net,
            Err(reason) => {
                port.phase = Phase::Failed {
                    reason,
                    retry: now.moment.plus_ms(pause(tries)),
                    tries: tries.saturating_add(1),
                };
                return;
            }
        };
        port.phase = Phase::Wiring {
            doomed: false,
            tries,
        };
        port.far_down = false;
        port.narrow = None;
        let record = port.record.clone();
        out.push(Output::Wire(self.wiring(record, net)));
        self.changes.push(PortChange::Presence);
        pools.set_active(net.vni, true);
        self.serve(net, out);
    }

    /// What the kernel is to have for the port.
    fn wiring(&self, port: PortRecord, net: &NetworkDef) -> PortWiring {
        let search = self.search(&net.name);
        let servers: Vec<IpAddr> = net.subnets.iter().filter_map(service_address).collect();
        // Who has a word for its ports makes the containers' resolv.conf as well.
        let wanted = self.config.dns && port.owner.is_none() && !servers.is_empty();
        let dns = wanted.then_some(DnsHint { servers, search });
        PortWiring {
            mtu: port.mtu.unwrap_or(net.mtu).min(net.mtu),
            port,
            dns,
        }
    }

    fn search(&self, network: &Label) -> String {
        match self.config.domain.as_str() {
            "" => network.to_string(),
            domain => format!("{network}.{domain}"),
        }
    }

    /// What the kernel offers of the port as a file; kept with the rest by [`Self::wired`].
    pub fn note_file(&mut self, id: PortId, file: Option<Vec<u8>>) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.file = file;
        }
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
        if let Err(reason) = home(&port.record, around) {
            let failed = refusal(ErrorCode::PortHomeless, format!("port {id}: {reason}"));
            for waiter in port.attaching.drain(..) {
                out.push(Output::Reply {
                    id: waiter,
                    result: Err(failed.clone()),
                });
            }
            let ready = port.record.ready;
            port.phase = Phase::Failed {
                reason: reason.clone(),
                retry: Moment::default(),
                tries: 0,
            };
            out.push(Output::Notice(Notice::PortFailed { port: id, reason }));
            if !ready {
                self.unwire(id, pools, out);
            }
            return;
        }
        let before = port.record.clone();
        port.record.ifname = ifname;
        port.record.mac = mac;
        port.record.file = port.file.take();
        port.record.ready = true;
        port.told = None;
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

    /// The kernel has looked through a port that frames flow through.
    pub fn mended(
        &mut self,
        id: PortId,
        ifname: IfName,
        mac: MacAddr,
        mended: &[String],
        out: &mut Outbox,
    ) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        if !matches!(port.phase, Phase::Up) {
            // Who waits is answered by what happens to it instead.
            return;
        }
        let before = port.record.clone();
        (port.record.ifname, port.record.mac) = (ifname, mac);
        if port.record != before {
            keep(out, &StateKey::Port(id), &port.record);
            self.changes.push(PortChange::PortUp(port.record.clone()));
        }
        if !mended.is_empty() {
            let what = mended.join(", ");
            out.push(Output::Notice(Notice::PortMended { port: id, what }));
        }
        for waiter in port.attaching.drain(..) {
            out.push(Output::Reply {
                id: waiter,
                result: Ok(Reply::Port(port.record.clone())),
            });
        }
    }

    /// A network came, went, or is another one under the same number: ports that are not at home on it any more fail, and
    /// its service goes with it or is made anew. A port that the kernel works on is looked at once it is done.
    pub fn network_changed(
        &mut self,
        vni: Vni,
        around: &dyn Surroundings,
        now: Now,
        out: &mut Outbox,
    ) {
        let net = around.network_by_vni(vni);
        let stale = |serving: &Serving| !net.is_some_and(|net| serving.fits(net));
        if self.services.get(&vni).is_some_and(stale) {
            self.unserve(vni, out);
        }
        let ids: Vec<PortId> = self.ports.keys().copied().collect();
        for id in ids {
            let Some(port) = self.ports.get_mut(&id).filter(|p| p.record.vni == vni) else {
                continue;
            };
            if let (Phase::Up, Err(reason)) = (&port.phase, home(&port.record, around)) {
                self.changes.push(PortChange::PortDown(port.record.clone()));
                self.changes.push(PortChange::Presence);
                port.phase = Phase::Failed {
                    reason: reason.clone(),
                    retry: now.moment.plus_ms(RETRY_MS),
                    tries: 0,
                };
                out.push(Output::Notice(Notice::PortFailed { port: id, reason }));
            }
        }
        let lives = |port: &Port| port.record.vni == vni && matches!(port.phase, Phase::Up);
        if let Some(net) = net.filter(|_| self.ports.values().any(lives)) {
            self.serve(net, out);
        }
    }

    /// The kernel could not make the port, and nothing of it is left; or it lost a part of a port that frames flowed
    /// through, and the port is to be made whole.
    pub fn wire_failed(
        &mut self,
        id: PortId,
        (code, reason): (ErrorCode, String),
        gone: bool,
        now: Now,
        pools: &mut Pools,
        out: &mut Outbox,
    ) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        let (doomed, tries, rest) = match port.phase {
            Phase::Wiring { doomed, tries } => (doomed, tries, pause(tries)),
            Phase::Up => {
                self.changes.push(PortChange::PortDown(port.record.clone()));
                (false, 0, MEND_MS)
            }
            _ => return,
        };
        let failed = refusal(code, format!("port {id} could not be made: {reason}"));
        if doomed {
            self.drop_port(id, Err(failed), pools, out);
            return;
        }
        let waits = port.record.kind.waits();
        if !port.record.ready && !waits {
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
                result: match waits {
                    true => Ok(Reply::Port(port.record.clone())),
                    false => Err(failed.clone()),
                },
            });
        }
        port.phase = Phase::Failed {
            reason: reason.clone(),
            retry: now.moment.plus_ms(rest),
            tries: tries.saturating_add(1),
        };
        if port.told.as_ref() != Some(&reason) {
            port.told = Some(reason.clone());
            out.push(Output::Notice(Notice::PortFailed { port: id, reason }));
        }
    }

    /// What a port waits for may be there: it is tried at once.
    pub fn appeared(
        &mut self,
        id: PortId,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        let port = self.ports.get(&id);
        if port.is_some_and(|port| matches!(port.phase, Phase::Failed { .. })) {
            self.wire(id, 0, around, pools, now, out);
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
            .chain(self.services_due())
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
        self.serve_again(now, out);
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
            Phase::Up => (&port.record, PortState::Ready, far::reason(port)),
            Phase::Wiring { doomed: true, .. } | Phase::Unwiring => {
                (&port.record, PortState::Leaving, None)
            }
        })
    }

    /// True if frames flow through the port, and its far end carries them.
    #[must_use]
    pub fn has_link(&self, id: PortId) -> bool {
        let port = self.ports.get(&id);
        port.is_some_and(|port| matches!(port.phase, Phase::Up) && !port.far_down)
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
}

/// The network that a port is on, if its addresses are of it: one that was removed may have been defined anew under the
/// same name, and so the same VNI, with other subnets.
fn home<'a>(record: &PortRecord, around: &'a dyn Surroundings) -> Result<&'a NetworkDef, String> {
    let id = record.id;
    let Some(net) = around.network_by_vni(record.vni) else {
        return Err(format!(
            "its network, VNI {}, was removed or is not known yet; `meshd detach {id}` removes the port",
            record.vni
        ));
    };
    let fits = |ip: &IpNet| net.subnets.iter().any(|s| s.contains(&ip.addr()));
    match record.ips.iter().find(|ip| !fits(ip)) {
        None => Ok(net),
        Some(ip) => Err(format!(
            "network {} was removed and defined anew, and {ip} is in none of its subnets; `meshd detach {id}` and attach again",
            net.name
        )),
    }
}

/// Milliseconds until a port or service is tried again after `tries` failures.
fn pause(tries: u32) -> u64 {
    RETRY_MS.saturating_mul(1 << tries.min(8)).min(RETRY_MS_MAX)
}

fn show_network(vni: Vni, around: &dyn Surroundings) -> String {
    around
        .network_by_vni(vni)
        .map_or_else(|| format!("with VNI {vni}"), |def| def.name.to_string())
}

#[cfg(test)]
mod tests;
