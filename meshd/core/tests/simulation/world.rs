//! The world of a run: hosts with a disk, sessions between them, and one queue of what happens next.
//!
//! ```text
//!   command, frame, timer --> Node / Lane of a host --> outputs --> queue (with the weather's delay) --> another host
//! ```
//!
//! Stands in for the shell: keeps what is to be kept, carries messages in order and datagrams in any, wires ports after a
//! while, forgets all but the disk when a host is killed. It decides nothing, and owns the only randomness beside the nodes'.

use crate::checkers::{Checkers, FrameId, Sent};
use crate::kernel::{Fate, Kernel};
use crate::link::{Parting, Weather};
use bytes::Bytes;
use meshd_core::command::{
    AttachSpec, Command, InviteSpec, IpSpec, NetnsRef, NetworkSpec, PortRecord, Refusal, Reply,
};
use meshd_core::config::KernelSettings;
use meshd_core::conntrack::Zones;
use meshd_core::flow::{FlowMask, Origin};
use meshd_core::ident::{
    CommandId, Epoch, IfName, MacAddr, Moment, NodeId, Now, PortId, SessionId, Vni, WallTime,
};
use meshd_core::lane::{Lane, LaneLimits, Step};
use meshd_core::links::LinkSpec;
use meshd_core::node::{Input, KernelEvent, Node, NodeConfig, Output, SessionEvent};
use meshd_core::notice::Notice;
use meshd_core::offload::GateOp;
use meshd_core::planes::PlanesConfig;
use meshd_core::policy::{Answer, Verdict};
use meshd_core::ruling;
use meshd_core::steering::{Live, Route, SAMPLE_MS, WayId, WaySample};
use meshd_core::superframe::Unit;
use meshd_core::testing::FakeKeyring;
use meshd_core::wire::control::{JoinRequest, Message, VERSION};
use meshd_core::wire::record::{Keyring, Membership, Record, Role, Signed};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

const MESH: u64 = 7;
const MS: u64 = 1_000_000;
const EPOCH_MS: u64 = 1_800_000_000_000;
const MAGIC: &[u8; 8] = b"meshdsim";

pub struct Host {
    pub keyring: FakeKeyring,
    pub node: Option<Node>,
    membership: Option<Signed>,
    records: Vec<Signed>,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    lanes: BTreeMap<Origin, Lane>,
    pub ports: BTreeMap<PortId, PortRecord>,
    pub sessions: BTreeMap<(NodeId, WayId), SessionId>,
    /// Which ways to a peer are alive, where there are several.
    live: BTreeMap<NodeId, Arc<Live>>,
    epoch: Epoch,
    zones: Zones,
    pub replies: BTreeMap<CommandId, Result<Reply, Refusal>>,
    pub notices: VecDeque<Notice>,
    /// Grows each start: what was meant for an earlier life is not delivered.
    life: u64,
    wake_at: Option<u64>,
    /// TCP port that the host's plugin refuses; the same on all hosts.
    pub deny_port: Option<u16>,
    pub kernel: Kernel,
}

struct Session {
    /// The dialer first.
    ends: [(usize, u64); 2],
    way: WayId,
    up: bool,
    queues: [VecDeque<Parcel>; 2],
    silent_since: Option<u64>,
    /// What its ends heard, as a counter of bytes.
    heard: u64,
}

enum Parcel {
    Message(Message),
    Close(String),
}

enum Event {
    Input(usize, u64, Input),
    Wake(usize, u64),
    /// The next parcel towards end 0 or 1.
    Pump(SessionId, usize),
    Idle(SessionId),
    Datagram {
        session: SessionId,
        to: usize,
        vni: Vni,
        frame: Bytes,
    },
    Connected {
        from: usize,
        life: u64,
        node: NodeId,
        way: WayId,
        to: usize,
    },
    Vxlan {
        from: usize,
        to: usize,
        vni: Vni,
        frame: Bytes,
    },
    /// The host's shell looks at what the gates counted.
    Gauge(usize, u64),
    /// It looks at the counters of its connections.
    Sample(usize, u64),
}

pub struct World {
    pub now: u64,
    pub rng: SmallRng,
    pub hosts: Vec<Host>,
    pub weather: Weather,
    pub parting: Parting,
    pub checkers: Checkers,
    /// Do all hosts trust the underlay, and have kernels with VXLAN?
    pub trusted: bool,
    /// VXLAN from the one does not get to the other.
    pub vxlan_cut: BTreeSet<(usize, usize)>,
    /// Underlay links of each host.
    pub links: usize,
    /// Nothing passes on these ways, of all hosts.
    pub cut_ways: BTreeSet<WayId>,
    /// Frames of containers that crossed by each way.
    pub crossed: BTreeMap<WayId, u64>,
    /// Frames of containers that kernels delivered.
    pub by_kernel: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    sessions: BTreeMap<SessionId, Session>,
    next_id: u64,
    /// Digest of all that happened, to compare two runs of one seed.
    pub history: u64,
}

/// Where a host takes connections of one of its links.
fn link_address(host: usize, nth: usize) -> SocketAddr {
    let mut at = address(host);
    at.set_port(u16::try_from(7651 + nth).unwrap());
    at
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from((
        [
            10,
            255,
            u8::try_from(host / 250).unwrap(),
            u8::try_from(host % 250 + 1).unwrap(),
        ],
        7650,
    ))
}

impl World {
    /// One host that made the mesh; more come by [`World::join`].
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self::over(seed, weather, false, 0)
    }

    /// The same, with so many underlay links on each host.
    pub fn linked(seed: u64, weather: Weather, links: usize) -> Self {
        Self::over(seed, weather, false, links)
    }

    /// The same, with kernels that have VXLAN, on an underlay that all trust.
    pub fn trusted(seed: u64, weather: Weather) -> Self {
        Self::over(seed, weather, true, 0)
    }

    fn over(seed: u64, weather: Weather, trusted: bool, links: usize) -> Self {
        let mut world = Self {
            now: 0,
            rng: SmallRng::seed_from_u64(seed),
            hosts: Vec::new(),
            weather,
            parting: Parting::default(),
            checkers: Checkers::default(),
            events: BTreeMap::new(),
            next_event: 0,
            sessions: BTreeMap::new(),
            next_id: 1,
            history: 0,
            trusted,
            vxlan_cut: BTreeSet::new(),
            by_kernel: 0,
            links,
            cut_ways: BTreeSet::new(),
            crossed: BTreeMap::new(),
        };
        let root = FakeKeyring::root(MESH);
        let membership = Membership {
            mesh: root.mesh(),
            node: root.node(),
            name: "host0".parse().unwrap(),
            role: Role::Admin,
            labels: BTreeMap::new(),
            serial: 1,
            issued: WallTime(EPOCH_MS),
            expires: None,
        };
        let signed = Record::Membership(membership)
            .sign(root.mesh(), &root)
            .unwrap();
        world.add_host(root, Some(signed), Vec::new());
        world.start(0);
        world.run(10);
        world
    }

    fn add_host(
        &mut self,
        keyring: FakeKeyring,
        membership: Option<Signed>,
        records: Vec<Signed>,
    ) -> usize {
        self.hosts.push(Host {
            keyring,
            node: None,
            membership,
            records,
            disk: BTreeMap::new(),
            lanes: BTreeMap::new(),
            ports: BTreeMap::new(),
            sessions: BTreeMap::new(),
            live: BTreeMap::new(),
            epoch: Epoch(0),
            zones: Zones::default(),
            replies: BTreeMap::new(),
            notices: VecDeque::new(),
            life: 0,
            wake_at: None,
            deny_port: None,
            kernel: Kernel::default(),
        });
        self.hosts.len() - 1
    }

    pub fn clock(&self) -> Now {
        Now {
            moment: Moment(self.now),
            wall: WallTime(EPOCH_MS + self.now / MS),
        }
    }

    /// Starts a host that is down, with what its disk holds.
    pub fn start(&mut self, at: usize) {
        let (now, seed) = (self.clock(), self.rng.random());
        let host = &mut self.hosts[at];
        assert!(host.node.is_none(), "host {at} runs already");
        host.life += 1;
        host.epoch = Epoch(0);
        host.wake_at = None;
        let config = NodeConfig {
            mesh: host.keyring.mesh(),
            mesh_name: "sim".parse().unwrap(),
            domain: "sim.internal".to_owned(),
            version: "0".to_owned(),
            membership: host.membership.clone().unwrap(),
            records: host.records.clone(),
            advertise: Vec::new(),
            links: (0..self.links)
                .map(|nth| LinkSpec {
                    name: format!("link{nth}").parse().unwrap(),
                    address: link_address(at, nth),
                    cost: 1 + u32::try_from(nth).unwrap(),
                    rate_kbps: None,
                })
                .collect(),
            steering: BTreeMap::new(),
            macs_per_port: 8,
            ports_max: 100,
            dns: false,
            chains: host.deny_port.map(|_| (vni(1), 1)).into_iter().collect(),
            planes: PlanesConfig {
                bridge: self.trusted,
                vxlan: Ok(()),
                kernel: KernelSettings {
                    fast_path: self.trusted,
                    ..KernelSettings::default()
                },
                bridge_filter: None,
                trusted: vec!["10.255.0.0/16".parse().unwrap()],
                port: 4789,
                first_slot: host.kernel.first_slot(),
            },
            gates: host.kernel.found(),
        };
        let state = host.disk.clone().into_iter().collect();
        let keyring: Arc<dyn Keyring> = Arc::new(host.keyring.clone());
        host.node = Some(Node::new(config, keyring, seed, state, now).unwrap());
        let life = host.life;
        self.later(
            0,
            Event::Input(
                at,
                life,
                Input::Kernel(KernelEvent::Addresses(vec![address(at)])),
            ),
        );
        if self.trusted {
            self.later(50 * MS, Event::Gauge(at, life));
        }
        if self.links > 0 {
            self.later(SAMPLE_MS * MS, Event::Sample(at, life));
        }
        self.act(at);
    }

    /// Power off: only the disk is left.
    pub fn kill(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.node = None;
        host.lanes.clear();
        host.ports.clear();
        host.sessions.clear();
        host.live.clear();
        host.life += 1;
    }

    /// A new host joins by an invite of host 0, through the messages of the protocol. Returns its number, once it runs.
    pub fn join(&mut self) -> usize {
        let number = self.hosts.len();
        let secret: [u8; 16] = self.rng.random();
        let spec = InviteSpec {
            ttl_s: 3600,
            role: Role::Member,
            labels: BTreeMap::new(),
            secret,
        };
        let reply = self.command(0, Command::Invite(spec));
        assert!(matches!(reply, Ok(Reply::Invite { .. })), "{reply:?}");
        let keyring = FakeKeyring::member(MESH, 1 + number as u64);
        let mesh = keyring.mesh();
        let at = self.add_host(keyring.clone(), None, Vec::new());
        let session = self.session_id();
        let life = self.hosts[0].life;
        let connected = SessionEvent::Connected {
            session,
            key: keyring.node(),
            remote: address(at),
            dialed: false,
        };
        self.input(0, life, Input::Session(connected));
        let name = format!("host{at}").parse().unwrap();
        let message = Message::Join(JoinRequest {
            version: VERSION,
            mesh,
            secret,
            name,
        });
        // No session of the world: the answer is picked from what host 0 wants sent.
        self.input(0, life, Input::Message { session, message });
        assert!(
            self.hosts[at].membership.is_some(),
            "host {at} was not welcomed"
        );
        self.start(at);
        self.run(10);
        at
    }

    /// Has a command done, and waits for the answer for up to ten seconds.
    pub fn command(&mut self, at: usize, command: Command) -> Result<Reply, Refusal> {
        let id = CommandId(self.fresh());
        let life = self.hosts[at].life;
        self.input(at, life, Input::Command { id, command });
        let end = self.now + 10_000 * MS;
        while self.now < end {
            if let Some(reply) = self.hosts[at].replies.remove(&id) {
                return reply;
            }
            self.run(10);
        }
        panic!("host {at} did not answer a command in 10 s");
    }

    pub fn add_network(&mut self, number: u32, subnets: &[&str]) -> Vni {
        let spec = NetworkSpec {
            name: format!("net{number}").parse().unwrap(),
            vni: Some(vni(number)),
            subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
            mtu: None,
        };
        self.command(0, Command::NetworkAdd(spec)).unwrap();
        vni(number)
    }

    /// A port with a leased address.
    pub fn attach(&mut self, at: usize, vni: Vni, name: &str) -> Result<PortRecord, Refusal> {
        let netns = NetnsRef::Path(format!("/run/netns/{name}").into_bytes());
        let spec = AttachSpec {
            network: vni.to_string(),
            netns,
            ifname: IfName::new(b"eth0").unwrap(),
            ip: IpSpec::Auto,
            mac: None,
            name: Some(name.parse().unwrap()),
            labels: BTreeMap::new(),
        };
        match self.command(at, Command::Attach(spec))? {
            Reply::Port(port) => Ok(port),
            other => panic!("attach answered {other:?}"),
        }
    }

    /// Sends a numbered UDP frame out of a port's container.
    pub fn send(&mut self, at: usize, port: PortId, dst: MacAddr) -> FrameId {
        self.send_to_port(at, port, dst, 7)
    }

    /// The same to a given UDP port.
    pub fn send_to_port(&mut self, at: usize, port: PortId, dst: MacAddr, udp: u16) -> FrameId {
        let id = self.fresh();
        let record = self.hosts[at].ports[&port].clone();
        let frame = udp_frame(record.mac, dst, udp, id);
        self.checkers.sent(
            id,
            Sent {
                host: at,
                vni: record.vni,
            },
        );
        self.container_sends(at, port, record.vni, frame);
        id
    }

    /// Lets `ms` milliseconds pass.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((time, _), event) = entry.remove_entry();
            self.now = time;
            self.happen(event);
        }
        self.now = end;
    }

    /// Lets time pass until `done`, for `ms` at most; false if it never was.
    pub fn run_until(&mut self, ms: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + ms * MS;
        while !done(self) {
            if self.now >= end {
                return false;
            }
            self.run(50);
        }
        true
    }

    pub fn id(&self, at: usize) -> NodeId {
        self.hosts[at].keyring.node()
    }

    pub fn up(&self) -> Vec<usize> {
        (0..self.hosts.len())
            .filter(|&at| self.hosts[at].node.is_some())
            .collect()
    }

    fn host_of(&self, node: NodeId) -> Option<usize> {
        self.hosts
            .iter()
            .position(|host| host.keyring.node() == node)
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn session_id(&mut self) -> SessionId {
        SessionId(self.fresh())
    }

    fn later(&mut self, ns: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + ns, self.next_event), event);
    }

    fn note(&mut self, what: u64) {
        self.history = (self.history ^ what ^ self.now)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Input(at, life, input) => self.input(at, life, input),
            Event::Wake(at, life) => self.wake(at, life),
            Event::Pump(session, end) => self.pump(session, end),
            Event::Idle(session) => self.idle(session),
            Event::Datagram {
                session,
                to,
                vni,
                frame,
            } => self.datagram(session, to, vni, frame),
            Event::Connected {
                from,
                life,
                node,
                way,
                to,
            } => self.connected(from, life, node, way, to),
            Event::Sample(at, life) => self.sample(at, life),
            Event::Vxlan {
                from,
                to,
                vni,
                frame,
            } => self.vxlan(from, to, vni, frame),
            Event::Gauge(at, life) => {
                if self.hosts[at].life == life {
                    let news = self.hosts[at].kernel.traffic();
                    if !news.is_empty() {
                        self.input(at, life, Input::Kernel(KernelEvent::Traffic(news)));
                    }
                    self.later(50 * MS, Event::Gauge(at, life));
                }
            }
        }
    }

    fn input(&mut self, at: usize, life: u64, input: Input) {
        let now = self.clock();
        self.note(at as u64);
        if let Input::Kernel(KernelEvent::Wired { port, .. }) = &input {
            // The shell has the lane before it tells the node.
            self.new_lane(at, Origin::Port(*port));
        }
        let host = &mut self.hosts[at];
        if host.life != life {
            return;
        }
        if let Input::Session(SessionEvent::Closed { session, .. }) = &input {
            let before: Vec<NodeId> = host.sessions.keys().map(|(node, _)| *node).collect();
            host.sessions.retain(|_, s| s != session);
            for node in before {
                if !host.sessions.keys().any(|(of, _)| *of == node) {
                    host.lanes.remove(&Origin::Peer(node));
                }
            }
        }
        if let Some(node) = &mut host.node {
            node.handle(input, now);
            self.act(at);
        }
    }

    fn wake(&mut self, at: usize, life: u64) {
        let now = self.clock();
        let host = &mut self.hosts[at];
        if host.life != life || host.wake_at != Some(self.now) {
            return;
        }
        if std::env::var("MESHD_SIM_TRACE").is_ok() {
            eprintln!(
                "{:>9} us host {at} wakes: {:?}",
                now.moment.0 / 1000,
                host.node.as_ref().and_then(Node::poll_timeout)
            );
        }
        host.wake_at = None;
        for lane in host.lanes.values_mut() {
            lane.handle_timeout(now.moment);
        }
        if let Some(node) = &mut host.node {
            node.handle_timeout(now);
        }
        self.act(at);
    }

    fn act(&mut self, at: usize) {
        let mut acts = Vec::new();
        if let Some(node) = &mut self.hosts[at].node {
            while let Some(output) = node.poll_output() {
                acts.push(output);
            }
        }
        let host = &mut self.hosts[at];
        for act in &acts {
            if let Output::Persist { key, value } = act {
                match value {
                    Some(value) => host.disk.insert(key.clone(), value.clone()),
                    None => host.disk.remove(key),
                };
            }
        }
        for act in acts {
            self.output(at, act);
        }
        self.schedule_wake(at);
    }

    fn schedule_wake(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let node = host
            .node
            .as_ref()
            .and_then(Node::poll_timeout)
            .map(|(moment, _)| moment);
        let lanes = host.lanes.values().filter_map(Lane::poll_timeout).min();
        let Some(Moment(due)) = [node, lanes].into_iter().flatten().min() else {
            return;
        };
        // A node that wants to be woken in the past must not stop the world's clock.
        let due = due.max(self.now + 1000);
        if host.wake_at.is_none_or(|earlier| due < earlier) {
            host.wake_at = Some(due);
            let life = host.life;
            self.later(due - self.now, Event::Wake(at, life));
        }
    }

    fn output(&mut self, at: usize, output: Output) {
        if std::env::var("MESHD_SIM_TRACE").is_ok() {
            eprintln!("{:>9} us host {at}: {output:?}", self.now / 1000);
        }
        let life = self.hosts[at].life;
        match output {
            Output::Persist { .. }
            | Output::Serve(_)
            | Output::Unserve { .. }
            | Output::Steer { .. } => {}
            Output::Ways { node, live } => {
                self.hosts[at].live.insert(node, live);
            }
            Output::LinkProven { session, node, way } => self.proven(at, session, node, way),
            Output::DialLink { node, way, address } => {
                let nth = way.nth_link().unwrap();
                let to = (0..self.hosts.len()).find(|&to| address == link_address(to, nth));
                match to {
                    Some(to) => self.dial(at, life, node, way, to),
                    None => self.dial_failed(at, life, node, way),
                }
            }
            Output::Gate(op) => self.gate(at, op),
            Output::Plan { vni, plan } => {
                let kernel = &mut self.hosts[at].kernel;
                match &plan {
                    Some(plan) => kernel.plans.insert(vni, Arc::clone(plan)),
                    None => kernel.plans.remove(&vni),
                };
                if plan.as_ref().is_some_and(|plan| plan.vxlan.is_some()) {
                    let origin = Origin::Vxlan(vni);
                    if !self.hosts[at].lanes.contains_key(&origin) {
                        self.new_lane(at, origin);
                    }
                }
                let event = KernelEvent::Planned {
                    vni,
                    plan,
                    problems: Vec::new(),
                };
                self.later(3 * MS, Event::Input(at, life, Input::Kernel(event)));
            }
            Output::Probe { vni, probe } => {
                for segment in meshd_core::wire::probe::segments(&probe) {
                    self.transmit(at, vni, Bytes::from(segment));
                }
            }
            Output::Ruling {
                origin,
                upcall,
                ruling,
            } => self.ruling(at, origin, upcall, ruling),
            Output::Inject { to, frame, .. } => {
                if let ruling::Output::Port(port) = to {
                    self.deliver(at, port, &frame);
                }
            }
            // No plugin sends or mirrors in here.
            Output::Sent { .. } | Output::Monitor { .. } => {}
            Output::Epoch(epoch) => self.hosts[at].epoch = epoch,
            Output::Track { vni, since } => {
                let host = &mut self.hosts[at];
                if let Some(zones) = host.zones.track(vni, since, 7) {
                    host.zones = zones;
                }
            }
            Output::Ask {
                query,
                epoch,
                question,
            } => {
                let denied = self.hosts[at].deny_port == Some(question.key.dst_port);
                let mask = FlowMask {
                    dst_port: 0xffff,
                    ..FlowMask::default()
                }
                .with_prerequisites();
                let answer = Answer {
                    mask,
                    ..Answer::of(if denied { Verdict::Drop } else { Verdict::Pass })
                };
                self.later(
                    50_000,
                    Event::Input(
                        at,
                        life,
                        Input::Answer {
                            query,
                            epoch,
                            answer: answer.into(),
                        },
                    ),
                );
            }
            Output::Dial { node, addresses } => {
                let to = (0..self.hosts.len()).find(|&to| addresses.contains(&address(to)));
                match to {
                    Some(to) => self.dial(at, life, node, WayId::MAIN, to),
                    None => self.dial_failed(at, life, node, WayId::MAIN),
                }
            }
            Output::Message { session, message } => {
                self.post(at, session, Parcel::Message(message))
            }
            Output::Proven { session, node } => {
                self.proven(at, session, node, WayId::MAIN);
            }
            Output::Hangup { session, reason } => self.post(at, session, Parcel::Close(reason)),
            Output::Wire(wiring) => {
                let record = wiring.port;
                let (port, ifname, mac) = (record.id, record.ifname.clone(), record.mac);
                self.hosts[at].ports.insert(port, record);
                self.later(
                    3 * MS,
                    Event::Input(
                        at,
                        life,
                        Input::Kernel(KernelEvent::Wired { port, ifname, mac }),
                    ),
                );
            }
            Output::Mend(wiring) => {
                let record = wiring.port;
                let event = KernelEvent::Mended {
                    port: record.id,
                    ifname: record.ifname,
                    mac: record.mac,
                    mended: Vec::new(),
                };
                self.later(3 * MS, Event::Input(at, life, Input::Kernel(event)));
            }
            Output::Unwire(record) => {
                let host = &mut self.hosts[at];
                host.ports.remove(&record.id);
                host.lanes.remove(&Origin::Port(record.id));
                let event = KernelEvent::Unwired {
                    port: record.id,
                    errors: Vec::new(),
                };
                self.later(2 * MS, Event::Input(at, life, Input::Kernel(event)));
            }
            Output::Reply { id, result } => {
                self.hosts[at].replies.insert(id, result);
            }
            Output::Notice(notice) => {
                let notices = &mut self.hosts[at].notices;
                notices.push_back(notice);
                if notices.len() > 200 {
                    notices.pop_front();
                }
            }
        }
    }

    fn new_lane(&mut self, at: usize, origin: Origin) {
        let seed = self.rng.random();
        self.hosts[at]
            .lanes
            .insert(origin, Lane::new(origin, LaneLimits::default(), seed));
    }

    fn proven(&mut self, at: usize, session: SessionId, node: NodeId, way: WayId) {
        self.hosts[at].sessions.insert((node, way), session);
        let origin = Origin::Peer(node);
        // In the shell each connection has a lane; here the first one will do for all.
        if way == WayId::MAIN || !self.hosts[at].lanes.contains_key(&origin) {
            self.new_lane(at, origin);
        }
    }

    fn dial(&mut self, from: usize, life: u64, node: NodeId, way: WayId, to: usize) {
        let delay = 3 * self.weather.message_ns(&mut self.rng);
        let event = Event::Connected {
            from,
            life,
            node,
            way,
            to,
        };
        self.later(delay, event);
    }

    /// Can anything pass between two hosts on this way?
    fn open(&self, a: usize, b: usize, way: WayId) -> bool {
        !self.parting.parted(a, b) && !self.cut_ways.contains(&way)
    }

    fn dial_failed(&mut self, at: usize, life: u64, node: NodeId, way: WayId) {
        let reason = "no answer".to_owned();
        let event = match way {
            WayId::MAIN => SessionEvent::DialFailed { node, reason },
            way => SessionEvent::LinkDialFailed { node, way, reason },
        };
        self.later(1000 * MS, Event::Input(at, life, Input::Session(event)));
    }

    fn connected(&mut self, from: usize, life: u64, node: NodeId, way: WayId, to: usize) {
        let there =
            self.hosts[to].node.is_some() && self.id(to) == node && self.open(from, to, way);
        if self.hosts[from].life != life {
            return;
        }
        if !there {
            return self.dial_failed(from, life, node, way);
        }
        let session = self.session_id();
        let far = self.hosts[to].life;
        let ends = [(from, life), (to, far)];
        self.sessions.insert(
            session,
            Session {
                ends,
                way,
                up: true,
                queues: Default::default(),
                silent_since: None,
                heard: 0,
            },
        );
        self.later(500 * MS, Event::Idle(session));
        let event = |key, far: usize, dialed| match way.nth_link() {
            None => SessionEvent::Connected {
                session,
                key,
                remote: address(far),
                dialed,
            },
            Some(nth) => SessionEvent::LinkConnected {
                session,
                key,
                way,
                remote: link_address(far, nth),
                dialed,
            },
        };
        let mine = event(node, to, true);
        let theirs = event(self.id(from), from, false);
        self.input(to, far, Input::Session(theirs));
        self.input(from, life, Input::Session(mine));
    }

    fn post(&mut self, from: usize, session: SessionId, parcel: Parcel) {
        let Some(state) = self.sessions.get_mut(&session) else {
            // The session of a newcomer that joins.
            if let Parcel::Message(Message::Joined(answer)) = parcel {
                let welcome = answer.expect("the invite holds");
                let newcomer = self.hosts.last_mut().unwrap();
                newcomer.membership = Some(welcome.membership);
                newcomer.records = welcome.records;
            }
            return;
        };
        if !state.up {
            return;
        }
        let end = usize::from(state.ends[0].0 == from);
        let queue = &mut state.queues[end];
        queue.push_back(parcel);
        if queue.len() == 1 {
            let delay = self.weather.message_ns(&mut self.rng);
            self.later(delay, Event::Pump(session, end));
        }
    }

    fn pump(&mut self, session: SessionId, end: usize) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let [a, b] = state.ends;
        if !state.up {
            return;
        }
        let way = state.way;
        if !self.open(a.0, b.0, way) {
            return self.later(100 * MS, Event::Pump(session, end));
        }
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let Some(parcel) = state.queues[end].pop_front() else {
            return;
        };
        if !state.queues[end].is_empty() {
            self.later(20_000, Event::Pump(session, end));
        }
        let (to, life) = [a, b][end];
        match parcel {
            Parcel::Message(message) => {
                // As the wire does it: what cannot be encoded is not sent.
                self.note(1);
                self.input(to, life, Input::Message { session, message });
            }
            Parcel::Close(reason) => self.close(session, &reason),
        }
    }

    fn close(&mut self, session: SessionId, reason: &str) {
        let Some(state) = self.sessions.remove(&session) else {
            return;
        };
        for (at, life) in state.ends {
            let event = SessionEvent::Closed {
                session,
                reason: reason.to_owned(),
            };
            self.later(1000, Event::Input(at, life, Input::Session(event)));
        }
    }

    /// QUIC's keep-alive and idle time-out: four seconds of silence end a session.
    fn idle(&mut self, session: SessionId) {
        let now = self.now;
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let [a, b] = state.ends;
        let alive = [a, b]
            .iter()
            .all(|&(at, life)| self.hosts[at].life == life && self.hosts[at].node.is_some());
        let open = !self.parting.parted(a.0, b.0) && !self.cut_ways.contains(&state.way);
        if alive && open {
            state.silent_since = None;
        } else if now - *state.silent_since.get_or_insert(now) >= 4000 * MS {
            return self.close(session, "timed out");
        }
        self.later(500 * MS, Event::Idle(session));
    }

    /// Counters of a host's connections. What is heard grows while something can pass, since each end says something now and
    /// then.
    fn sample(&mut self, at: usize, life: u64) {
        if self.hosts[at].life != life || self.hosts[at].node.is_none() {
            return;
        }
        let sessions = self.hosts[at].sessions.iter();
        let samples = sessions.filter_map(|(&(node, way), session)| {
            let [a, b] = self.sessions.get(session)?.ends;
            let open = self.open(a.0, b.0, way);
            let heard = if open { self.now } else { 0 };
            Some((session, node, way, heard))
        });
        let samples: Vec<_> = samples.map(|(s, n, w, h)| (*s, n, w, h)).collect();
        let mut all = Vec::new();
        for (session, node, way, heard) in samples {
            let state = self.sessions.get_mut(&session).unwrap();
            state.heard = state.heard.max(heard);
            all.push(WaySample {
                node,
                way,
                rtt_us: u32::try_from(2 * self.weather.latency_us).unwrap(),
                acks: self.now / MS,
                sent_packets: self.now / MS / 100,
                lost_packets: 0,
                sent_bytes: self.now / MS,
                heard_bytes: state.heard,
                asked: self.now / MS,
                answered_bytes: state.heard,
                cwnd: 100_000,
                mtu: 1452,
            });
        }
        self.input(at, life, Input::Ways(all));
        self.later(SAMPLE_MS * MS, Event::Sample(at, life));
    }

    fn ruling(
        &mut self,
        at: usize,
        origin: Origin,
        upcall: meshd_core::ident::UpcallId,
        ruling: ruling::Ruling,
    ) {
        let now = self.clock().moment;
        let zones = self.hosts[at].zones.clone();
        let Some(lane) = self.hosts[at].lanes.get_mut(&origin) else {
            return;
        };
        let Some(released) = lane.ruling_in(&zones, upcall, ruling, now) else {
            return;
        };
        for frame in released.frames {
            self.forward(at, released.vni, &frame, &released.to, released.route);
        }
    }

    fn lane_frame(&mut self, at: usize, origin: Origin, vni: Vni, frame: Bytes) {
        let now = self.clock();
        let epoch = self.hosts[at].epoch;
        let zones = self.hosts[at].zones.clone();
        let Some(lane) = self.hosts[at].lanes.get_mut(&origin) else {
            return;
        };
        match lane.frame_in(&zones, vni, &Unit::frame(&frame), epoch, now.moment) {
            Step::Forward {
                to, route, offer, ..
            } => {
                self.forward(at, vni, &frame, &to, route);
                if offer {
                    let life = self.hosts[at].life;
                    let offer = Input::Offer { origin, vni, frame };
                    self.later(20_000, Event::Input(at, life, offer));
                }
            }
            Step::Upcall { upcall, frame, ct } => {
                let life = self.hosts[at].life;
                self.later(
                    20_000,
                    Event::Input(
                        at,
                        life,
                        Input::Upcall {
                            origin,
                            upcall,
                            vni,
                            frame,
                            ct,
                        },
                    ),
                );
            }
            Step::Cut | Step::Parked | Step::Dropped(_) | Step::Consumed => {}
        }
        self.schedule_wake(at);
    }

    fn forward(&mut self, at: usize, vni: Vni, frame: &Bytes, to: &[ruling::Output], route: Route) {
        for output in to {
            match output {
                ruling::Output::Port(port) => self.deliver(at, *port, frame),
                ruling::Output::Peer(node) => self.cross(at, *node, vni, frame, route),
            }
        }
    }

    fn cross(&mut self, at: usize, node: NodeId, vni: Vni, frame: &Bytes, route: Route) {
        let Some(to) = self.host_of(node) else {
            panic!("host {at} sends to {node:?}, who does not exist")
        };
        if let Some(id) = frame_id(frame) {
            let revoked = self.hosts[at]
                .node
                .as_ref()
                .is_some_and(|n| n.directory().is_revoked(node));
            self.checkers.crossed(id, at, to, node, revoked);
        }
        let live = self.hosts[at].live.get(&node).map(|live| live.ways());
        let any = || {
            (2..=8)
                .filter_map(WayId::new)
                .find(|way| live.is_none_or(|l| l.has(*way)))
        };
        let way = match route {
            Route::Any => any(),
            Route::Prefer(way) | Route::Only(way) => Some(way),
        };
        let Some(way) = way else { return };
        let Some(&session) = self.hosts[at].sessions.get(&(node, way)) else {
            return;
        };
        if !self.open(at, to, way) {
            return;
        }
        if frame_id(frame).is_some() {
            *self.crossed.entry(way).or_default() += 1;
        }
        if let Some(delay) = self.weather.datagram_ns(&mut self.rng) {
            self.later(
                delay,
                Event::Datagram {
                    session,
                    to,
                    vni,
                    frame: frame.clone(),
                },
            );
        }
    }

    fn datagram(&mut self, session: SessionId, to: usize, vni: Vni, frame: Bytes) {
        let Some(state) = self.sessions.get(&session) else {
            return;
        };
        let from = if state.ends[0].0 == to {
            state.ends[1].0
        } else {
            state.ends[0].0
        };
        let way = state.way;
        let from = self.id(from);
        self.note(2);
        // The shell reads frames only from the session that is in use.
        if self.hosts[to].sessions.get(&(from, way)) == Some(&session) {
            self.lane_frame(to, Origin::Peer(from), vni, frame);
        }
    }

    fn gate(&mut self, at: usize, op: GateOp) {
        self.hosts[at].kernel.act(op);
    }

    fn container_sends(&mut self, at: usize, port: PortId, vni: Vni, frame: Bytes) {
        let now = self.clock().moment;
        match self.hosts[at].kernel.port_sends(port, vni, &frame, now) {
            Fate::Up => self.lane_frame(at, Origin::Port(port), vni, frame),
            Fate::Port(to) => {
                self.by_kernel += 1;
                self.deliver(at, to, &frame);
            }
            Fate::Vtep => self.transmit(at, vni, frame),
            Fate::Lost => panic!("a gate let pass what the bridge does not know"),
        }
    }

    /// Out of a network's VXLAN device.
    fn transmit(&mut self, at: usize, vni: Vni, frame: Bytes) {
        let Some(vtep) = frame
            .first_chunk::<6>()
            .and_then(|dst| self.hosts[at].kernel.vtep(vni, MacAddr(*dst)))
        else {
            return;
        };
        let Some(to) = (0..self.hosts.len()).find(|&to| address(to).ip() == vtep) else {
            return;
        };
        let lost = self.parting.parted(at, to) || self.vxlan_cut.contains(&(at, to));
        if let Some(delay) = self.weather.datagram_ns(&mut self.rng).filter(|_| !lost) {
            let event = Event::Vxlan {
                from: at,
                to,
                vni,
                frame,
            };
            self.later(delay, event);
        }
    }

    fn vxlan(&mut self, from: usize, to: usize, vni: Vni, frame: Bytes) {
        let now = self.clock().moment;
        self.note(3);
        let ip = address(from).ip();
        match self.hosts[to].kernel.vxlan_receives(ip, vni, &frame, now) {
            // The fence, or no such network.
            None => {}
            Some(Fate::Port(port)) => {
                self.by_kernel += 1;
                self.deliver(to, port, &frame);
            }
            Some(Fate::Up) if meshd_core::wire::probe::is_probe(&frame) => {
                let life = self.hosts[to].life;
                self.input(to, life, Input::Probe { vni, frame });
            }
            Some(Fate::Up) => self.lane_frame(to, Origin::Vxlan(vni), vni, frame),
            Some(Fate::Vtep | Fate::Lost) => panic!("VXLAN goes on to a VTEP, or nowhere"),
        }
    }

    fn deliver(&mut self, at: usize, port: PortId, frame: &Bytes) {
        let Some(id) = frame_id(frame) else { return };
        let Some(record) = self.hosts[at].ports.get(&port) else {
            return;
        };
        let vni = record.vni;
        self.note(id);
        self.checkers.delivered(id, at, port, vni);
    }
}

pub fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

fn udp_frame(src: MacAddr, dst: MacAddr, port: u16, id: FrameId) -> Bytes {
    let mut frame = Vec::new();
    frame.extend_from_slice(&dst.0);
    frame.extend_from_slice(&src.0);
    frame.extend_from_slice(&[0x08, 0x00]);
    // IPv4: 20 bytes of header, 8 of UDP, 16 of payload.
    frame.extend_from_slice(&[
        0x45, 0, 0, 44, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ]);
    frame.extend_from_slice(&4000u16.to_be_bytes());
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&[0, 24, 0, 0]);
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&id.to_be_bytes());
    Bytes::from(frame)
}

fn frame_id(frame: &[u8]) -> Option<FrameId> {
    let payload = frame.get(42..58)?;
    payload
        .strip_prefix(MAGIC.as_slice())
        .map(|id| u64::from_be_bytes(id.try_into().unwrap()))
}

/// What nodes must agree on.
pub fn views(world: &World) -> BTreeSet<String> {
    let view = |at: usize| {
        let node = world.hosts[at].node.as_ref().unwrap();
        let directory = node.directory();
        let members: Vec<_> = directory
            .members()
            .map(|m| (m.name.to_string(), directory.reachable(m.node)))
            .collect();
        let endpoints: Vec<_> = directory
            .networks()
            .map(|n| {
                (
                    n.vni,
                    directory
                        .endpoints(n.vni)
                        .map(|(node, e)| (node, e.mac, e.ips.clone()))
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        format!("{members:?} {endpoints:?}")
    };
    world.up().into_iter().map(view).collect()
}
