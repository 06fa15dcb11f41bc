//! The world of a run: hosts with a disk, sessions between them, and one queue of what happens next.
//!
//! ```text
//!   command, frame, timer --> Node / Lane of a host --> outputs --> queue (with the weather's delay) --> another host
//! ```
//!
//! Stands in for the shell: keeps what is to be kept, carries messages in order and datagrams in any, wires ports after a
//! while, forgets all but the disk when a host is killed. It decides nothing, and owns the only randomness beside the nodes'.

mod frames;
mod sessions;
mod turns;

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
use meshd_core::kind::PortKind;
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

use frames::udp_frame;

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
    /// Of hosts that start from now on.
    pub macs_per_port: usize,
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
            macs_per_port: 8,
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
            macs_per_port: self.macs_per_port,
            ports_max: 100,
            dns: false,
            chains: host.deny_port.map(|_| (vni(1), 1)).into_iter().collect(),
            multicast: BTreeMap::new(),
            services: Default::default(),
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
            mtu: None,
            routes: Vec::new(),
            vrf: None,
            owner: None,
            kind: PortKind::Veth,
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
        let mac = self.hosts[at].ports[&port].mac;
        self.send_from(at, port, mac, dst, udp)
    }

    /// The same from a MAC of what is behind the container.
    pub fn send_from(
        &mut self,
        at: usize,
        port: PortId,
        mac: MacAddr,
        dst: MacAddr,
        udp: u16,
    ) -> FrameId {
        let id = self.fresh();
        let record = self.hosts[at].ports[&port].clone();
        let frame = udp_frame(mac, dst, udp, id);
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
}

pub fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
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
