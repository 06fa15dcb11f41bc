//! A simulated host for controllers: a clock that goes when a test says so, events as scripted, commits kept to be looked at.
//!
//! ```text
//!   test --port, peer, punt, wait_ms--> Event --on_event--> controller --Host--> Sim: log, kv, timers, facts, frames
//!                                                                     facts --policy::<P>()--> the policy, to be asked
//! ```

use super::{Packet, PolicyHost, keys};
use crate::config::{ConfigError, from_json};
use crate::controller::{Controller, Event, FactChange, FlowError, Host, OutTo, Port, Punt};
use crate::mac::Mac;
use crate::policy::{self, Policy};
use crate::wit::flows::{Change, Rule, RuleStats};
use crate::wit::http::{HttpError, Request};
use crate::wit::kv::{Entry, KvError, Scope};
use crate::wit::packet_out::{self, OutError};
use crate::wit::topology::{Endpoint, PeerInfo, PortInfo};
use crate::wit::types::{self, LinkStats, LogLevel};
use core::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;

/// The simulated host, as controller and test share it.
#[doc(hidden)]
pub type Shared = Rc<RefCell<Sim>>;

/// See [`World`]; its functions are those of `wit/host.wit`.
#[doc(hidden)]
#[derive(Default)]
pub struct Sim {
    now_ms: u64,
    timers: BTreeMap<(u64, u64), Option<u64>>,
    timer: u64,
    kv: BTreeMap<String, Entry>,
    mesh: BTreeMap<String, Entry>,
    version: u64,
    ports: BTreeMap<u32, Port>,
    peers: BTreeMap<u64, PeerInfo>,
    stations: BTreeMap<Mac, (Vec<IpAddr>, Option<u64>)>,
    lines: Vec<String>,
    figures: BTreeMap<String, i64>,
    facts: BTreeMap<String, Vec<u8>>,
    rules: BTreeMap<u64, Rule>,
    commits: Vec<Vec<Change>>,
    refused: Option<FlowError>,
    sent: Vec<(Vec<u8>, OutTo)>,
    asked: Vec<Request>,
    calls: u64,
    events: VecDeque<Event>,
    may_commit: bool,
    random: u64,
}

/// When the simulated wall clock starts, in seconds since 1970.
const WALL: u64 = 1_700_000_000;

pub(crate) fn halves(mac: Mac) -> types::Mac {
    let [a, b, c, d, e, f] = mac.octets();
    types::Mac {
        hi: u16::from_be_bytes([a, b]),
        lo: u32::from_be_bytes([c, d, e, f]),
    }
}

fn ip_halves(ip: IpAddr) -> types::Ip {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    types::Ip {
        hi: (bits >> 64) as u64,
        lo: bits as u64,
    }
}

impl Sim {
    pub(crate) fn log(&mut self, _level: LogLevel, text: &str) {
        self.lines.push(text.to_owned());
    }

    pub(crate) fn count(&mut self, name: &str, n: u64) {
        *self.figures.entry(name.to_owned()).or_default() += n as i64;
    }

    pub(crate) fn gauge(&mut self, name: &str, value: i64) {
        self.figures.insert(name.to_owned(), value);
    }

    pub(crate) fn monotonic_ms(&mut self) -> u64 {
        self.now_ms
    }

    pub(crate) fn wall(&mut self) -> u64 {
        WALL + self.now_ms / 1000
    }

    /// The same in each run.
    pub(crate) fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 27
    }

    fn start_timer(&mut self, ms: u32, again: bool) -> Option<u64> {
        if self.timers.len() >= 256 {
            return None;
        }
        let ms = u64::from(ms.max(10));
        self.timer += 1;
        let period = again.then_some(ms);
        self.timers.insert((self.now_ms + ms, self.timer), period);
        Some(self.timer)
    }

    pub(crate) fn once(&mut self, ms: u32) -> Option<u64> {
        self.start_timer(ms, false)
    }

    pub(crate) fn every(&mut self, ms: u32) -> Option<u64> {
        self.start_timer(ms, true)
    }

    pub(crate) fn cancel(&mut self, id: u64) {
        self.timers.retain(|(_, timer), _| *timer != id);
    }

    fn kept(&mut self, of: Scope) -> &mut BTreeMap<String, Entry> {
        match of {
            Scope::Node => &mut self.kv,
            Scope::Mesh => &mut self.mesh,
        }
    }

    pub(crate) fn get(&mut self, of: Scope, key: &str) -> Result<Option<Entry>, KvError> {
        Ok(self.kept(of).get(key).cloned())
    }

    pub(crate) fn set(
        &mut self,
        of: Scope,
        key: &str,
        value: &[u8],
        expect: Option<u64>,
        _ttl_ms: u32,
    ) -> Result<u64, KvError> {
        let there = self.kept(of).get(key).map_or(0, |entry| entry.version);
        if expect.is_some_and(|expect| expect != there) {
            return Err(KvError::Conflict(there));
        }
        self.version += 1;
        let entry = Entry {
            value: value.to_vec(),
            version: self.version,
        };
        self.kept(of).insert(key.to_owned(), entry);
        Ok(self.version)
    }

    pub(crate) fn delete(&mut self, of: Scope, key: &str) -> Result<(), KvError> {
        self.kept(of).remove(key);
        Ok(())
    }

    pub(crate) fn list_keys(
        &mut self,
        of: Scope,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, KvError> {
        let keys = self.kept(of).keys().filter(|key| key.starts_with(prefix));
        let keys = keys.filter(|key| after.is_none_or(|after| key.as_str() > after));
        Ok(keys.take(limit as usize).cloned().collect())
    }

    pub(crate) fn ports(&mut self) -> Vec<PortInfo> {
        let ports = self.ports.values();
        ports
            .map(|port| PortInfo {
                id: port.id,
                name: port.name.clone(),
                mac: halves(port.mac),
                ips: port.ips.iter().copied().map(ip_halves).collect(),
                up: port.up,
                labels: port.labels.clone(),
            })
            .collect()
    }

    pub(crate) fn peers(&mut self) -> Vec<PeerInfo> {
        self.peers.values().cloned().collect()
    }

    pub(crate) fn paths(&mut self, _peer: u64) -> Vec<LinkStats> {
        Vec::new()
    }

    pub(crate) fn endpoints(&mut self, after: Option<types::Mac>, limit: u32) -> Vec<Endpoint> {
        let after = after.map(|after| Mac::from_halves(after.hi, after.lo));
        self.stations
            .iter()
            .filter(|(mac, _)| after.is_none_or(|after| **mac > after))
            .take(limit as usize)
            .map(|(&mac, (ips, at))| Endpoint {
                mac: halves(mac),
                ips: ips.iter().copied().map(ip_halves).collect(),
                name: String::new(),
                at: *at,
            })
            .collect()
    }

    pub(crate) fn commit(&mut self, changes: &[Change]) -> Result<u64, FlowError> {
        if !self.may_commit {
            let why = "nothing is in place yet; commit in an event".to_owned();
            return Err(FlowError::Unavailable(why));
        }
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        for change in changes {
            match change {
                Change::PutFacts(facts) => {
                    for fact in facts {
                        match &fact.value {
                            Some(value) => self.facts.insert(fact.key.clone(), value.clone()),
                            None => self.facts.remove(&fact.key),
                        };
                    }
                }
                Change::ClearFacts => self.facts.clear(),
                Change::PutRule(rule) => {
                    self.rules.insert(rule.id, rule.clone());
                }
                Change::DeleteRule(id) => {
                    self.rules.remove(id);
                }
                Change::DeleteTag(tag) => {
                    self.rules.retain(|_, rule| !rule.life.tags.contains(tag));
                }
                _ => {}
            }
        }
        self.commits.push(changes.to_vec());
        let generation = self.commits.len() as u64;
        self.events.push_back(Event::Committed(generation));
        Ok(generation)
    }

    pub(crate) fn stats(
        &mut self,
        tagged: Option<u32>,
        after: Option<u64>,
        limit: u32,
    ) -> Vec<RuleStats> {
        let rules = self.rules.values();
        let rules = rules.filter(|rule| tagged.is_none_or(|tag| rule.life.tags.contains(&tag)));
        rules
            .filter(|rule| after.is_none_or(|after| rule.id > after))
            .take(limit as usize)
            .map(|rule| RuleStats {
                id: rule.id,
                hits: 0,
            })
            .collect()
    }

    pub(crate) fn send(&mut self, frame: &[u8], to: packet_out::OutTo) -> Result<(), OutError> {
        let to = match to {
            packet_out::OutTo::Network => OutTo::Network,
            packet_out::OutTo::Port(port) => OutTo::Port(port),
            packet_out::OutTo::Peer(peer) => OutTo::Peer(peer),
        };
        self.sent.push((frame.to_vec(), to));
        Ok(())
    }

    pub(crate) fn start(&mut self, request: &Request) -> Result<u64, HttpError> {
        self.asked.push(request.clone());
        self.calls += 1;
        Ok(self.calls)
    }
}

/// A controller with a simulated host around it.
pub struct World<C> {
    controller: C,
    config: String,
    sim: Shared,
}

/// Starts a controller with a config, as JSON. It is told nothing yet.
///
/// # Errors
/// Everything that is wrong in the config.
pub fn controlled<C: Controller>(config: &str) -> Result<World<C>, Vec<ConfigError>> {
    let sim = Shared::default();
    let controller = C::new(from_json(config)?, &Host::of(Rc::clone(&sim)))?;
    sim.borrow_mut().may_commit = true;
    Ok(World {
        controller,
        config: config.to_owned(),
        sim,
    })
}

impl<C: Controller> World<C> {
    /// Tells the controller something, and then what comes of it, such as that a commit holds.
    pub fn event(&mut self, event: Event) {
        self.sim.borrow_mut().events.push_back(event);
        let host = Host::of(Rc::clone(&self.sim));
        loop {
            let next = self.sim.borrow_mut().events.pop_front();
            match next {
                Some(event) => self.controller.on_event(event, &host),
                None => break,
            }
        }
    }

    /// A port of this node, to be named further.
    ///
    /// # Panics
    /// If `mac` or one of `ips` is none.
    #[track_caller]
    pub fn port(&mut self, id: u32, mac: &str, ips: &[&str]) -> NewPort<'_, C> {
        NewPort {
            port: Port {
                id,
                name: format!("port-{id}"),
                mac: parse(mac),
                ips: ips.iter().map(|ip| parse(ip)).collect(),
                up: true,
                labels: Vec::new(),
            },
            world: self,
        }
    }

    /// A port goes.
    pub fn remove_port(&mut self, id: u32) {
        self.sim.borrow_mut().ports.remove(&id);
        self.event(Event::PortRemoved(id));
    }

    /// A station is there, at a member or (none) here. No event tells that.
    ///
    /// # Panics
    /// If `mac` or one of `ips` is none.
    #[track_caller]
    pub fn station(&mut self, mac: &str, ips: &[&str], at: Option<u64>) {
        let ips = ips.iter().map(|ip| parse(ip)).collect();
        self.sim.borrow_mut().stations.insert(parse(mac), (ips, at));
    }

    /// A station is gone.
    ///
    /// # Panics
    /// If `mac` is none.
    #[track_caller]
    pub fn remove_station(&mut self, mac: &str) {
        self.sim.borrow_mut().stations.remove(&parse(mac));
    }

    /// Another node keeps a value for all nodes.
    pub fn mesh_set(&mut self, key: &str, value: &[u8]) {
        // Nothing is expected of what is there, so it cannot fail.
        let _ = self.sim.borrow_mut().set(Scope::Mesh, key, value, None, 0);
        self.event(Event::MeshChanged(vec![key.to_owned()]));
    }

    /// Another node deletes one.
    pub fn mesh_delete(&mut self, key: &str) {
        self.sim.borrow_mut().mesh.remove(key);
        self.event(Event::MeshChanged(vec![key.to_owned()]));
    }

    /// What is kept for all nodes under a key.
    #[must_use]
    pub fn mesh_get(&self, key: &str) -> Option<Vec<u8>> {
        let sim = self.sim.borrow();
        sim.mesh.get(key).map(|entry| entry.value.clone())
    }

    /// A frame comes, and the policy punts it whole.
    ///
    /// # Panics
    /// If no policy would be asked about the packet.
    #[track_caller]
    pub fn punt(&mut self, packet: &Packet) {
        let key = match keys::key(packet) {
            Ok(key) => key,
            Err(why) => panic!("no policy is asked about it: {why}"),
        };
        self.event(Event::Punted(Punt {
            key,
            frame: packet.bytes().to_vec(),
            truncated: false,
        }));
    }

    /// Time passes; timers come when they are due.
    pub fn wait_ms(&mut self, ms: u64) {
        let end = self.sim.borrow().now_ms + ms;
        loop {
            let due = {
                let mut sim = self.sim.borrow_mut();
                let first = sim
                    .timers
                    .first_key_value()
                    .map(|(at, period)| (*at, *period));
                let Some(((at, id), period)) = first.filter(|((at, _), _)| *at <= end) else {
                    sim.now_ms = end;
                    break;
                };
                sim.timers.remove(&(at, id));
                if let Some(period) = period {
                    sim.timers.insert((at + period, id), Some(period));
                }
                sim.now_ms = at;
                id
            };
            self.event(Event::Timer(due));
        }
    }

    /// The next commit is refused, with these words.
    pub fn refuse_commit(&mut self, why: &str) {
        self.sim.borrow_mut().refused = Some(FlowError::Full(why.to_owned()));
    }

    /// The next version takes over: state is handed over, timers end, facts stay, and what is there is told.
    ///
    /// # Errors
    /// It does not take the config or the state.
    pub fn reload(&mut self) -> Result<(), String> {
        let state = self.controller.save();
        self.sim.borrow_mut().timers.clear();
        let host = Host::of(Rc::clone(&self.sim));
        let config = from_json(&self.config).map_err(|e| format!("{e:?}"))?;
        self.sim.borrow_mut().may_commit = false;
        let mut next = C::new(config, &host).map_err(|e| format!("{e:?}"))?;
        next.restore(&state, "0.0.0")?;
        self.sim.borrow_mut().may_commit = true;
        self.controller = next;
        let ports: Vec<Port> = self.sim.borrow().ports.values().cloned().collect();
        ports
            .into_iter()
            .for_each(|port| self.event(Event::PortAdded(port)));
        Ok(())
    }

    /// The policy of the crate with the same config and the facts as they are now.
    ///
    /// # Panics
    /// If it does not take the config.
    #[must_use]
    #[track_caller]
    pub fn policy<P: Policy>(&self) -> PolicyHost<P> {
        let mut policy: P = match policy::read(&self.config) {
            Ok(policy) => policy,
            Err(errors) => panic!("the policy refuses the config: {errors:?}"),
        };
        for (key, value) in &self.sim.borrow().facts {
            policy.update(&FactChange {
                key: key.clone(),
                value: Some(value.clone()),
            });
        }
        PolicyHost {
            policy,
            sent: RefCell::default(),
            connections: None,
        }
    }

    /// What it has logged.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.sim.borrow().lines.clone()
    }

    /// A figure of its own.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<i64> {
        self.sim.borrow().figures.get(name).copied()
    }

    /// The names of the facts.
    #[must_use]
    pub fn facts(&self) -> Vec<String> {
        self.sim.borrow().facts.keys().cloned().collect()
    }

    /// The numbers of the rules.
    #[must_use]
    pub fn rules(&self) -> Vec<u64> {
        self.sim.borrow().rules.keys().copied().collect()
    }

    /// What it has written, commit by commit.
    #[must_use]
    pub fn commits(&self) -> Vec<Vec<Change>> {
        self.sim.borrow().commits.clone()
    }

    /// Frames that it has sent.
    #[must_use]
    pub fn sent(&self) -> Vec<(Vec<u8>, OutTo)> {
        self.sim.borrow().sent.clone()
    }

    /// The keys that it keeps.
    #[must_use]
    pub fn kept(&self) -> Vec<String> {
        self.sim.borrow().kv.keys().cloned().collect()
    }

    /// The controller itself.
    #[must_use]
    pub fn controller(&self) -> &C {
        &self.controller
    }
}

/// A port that is about to come.
pub struct NewPort<'w, C> {
    world: &'w mut World<C>,
    port: Port,
}

impl<C: Controller> NewPort<'_, C> {
    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.port.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// It is there; or, if it was, another.
    pub fn arrives(self) {
        let (id, port) = (self.port.id, self.port);
        let old = self.world.sim.borrow_mut().ports.insert(id, port.clone());
        self.world.event(match old {
            None => Event::PortAdded(port),
            Some(_) => Event::PortChanged(port),
        });
    }
}

#[track_caller]
fn parse<T: core::str::FromStr>(text: &str) -> T {
    match text.parse() {
        Ok(value) => value,
        Err(_) => panic!("{text} is none"),
    }
}
