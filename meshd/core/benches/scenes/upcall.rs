//! A node with two ports and a chain, and frames of new flows between them: all of the slow path but the plugin.
//!
//! ```text
//!   frame -> lane: no ruling -> node -> question, in -> node -> question, out -> node -> ruling -> lane: the frame leaves
//! ```

use bytes::Bytes;
use meshd_core::command::{AttachSpec, Command, IpSpec, NetnsRef, NetworkSpec};
use meshd_core::config::KernelSettings;
use meshd_core::conntrack::Tracked;
use meshd_core::flow::{FlowMask, Origin};
use meshd_core::ident::{
    CommandId, Epoch, IfName, Label, MacAddr, Moment, Now, PortId, Vni, WallTime,
};
use meshd_core::kind::PortKind;
use meshd_core::lane::{Lane, LaneLimits, Released, Step};
use meshd_core::machine::NodeConfig;
use meshd_core::node::{Input, KernelEvent, Node, Output, Question};
use meshd_core::planes::PlanesConfig;
use meshd_core::policy::{Answer, Verdict};
use meshd_core::testing::FakeKeyring;
use meshd_core::wire::record::{Keyring, Membership, Record, Role};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

/// A node, the lane of its first port, and who answers for the chain.
pub(crate) struct Bench<A> {
    node: Node,
    lane: Lane,
    answer: A,
    epoch: Epoch,
    macs: Vec<MacAddr>,
    vni: Vni,
    now: u64,
}

fn node() -> Result<Node, Box<dyn Error>> {
    let root = FakeKeyring::root(1);
    let membership = Record::Membership(Membership {
        mesh: root.mesh(),
        node: root.node(),
        name: "one".parse()?,
        role: Role::Admin,
        labels: BTreeMap::new(),
        serial: 1,
        issued: WallTime(1_000_000),
        expires: None,
    });
    let config = NodeConfig {
        mesh: root.mesh(),
        mesh_name: "bench".parse()?,
        domain: "bench.internal".to_owned(),
        version: "0".to_owned(),
        membership: membership.sign(root.mesh(), &root)?,
        records: Vec::new(),
        advertise: Vec::new(),
        links: Vec::new(),
        steering: BTreeMap::new(),
        macs_per_port: 8,
        ports_max: 100,
        dns: false,
        chains: BTreeMap::new(),
        planes: PlanesConfig {
            bridge: false,
            vxlan: Err("not here".to_owned()),
            kernel: KernelSettings::default(),
            bridge_filter: None,
            trusted: Vec::new(),
            port: 4789,
            first_slot: 0,
        },
        multicast: BTreeMap::new(),
        services: Default::default(),
        gates: (Epoch(0), Vec::new()),
    };
    Ok(Node::new(config, Arc::new(root), 7, Vec::new(), clock(0))?)
}

fn clock(ns: u64) -> Now {
    Now {
        moment: Moment(ns),
        wall: WallTime(1_000_000 + ns / 1_000_000),
    }
}

/// As a policy that read both ports answers.
pub(crate) fn pass(_: &Question) -> Answer {
    Answer {
        mask: FlowMask {
            src_port: u16::MAX,
            dst_port: u16::MAX,
            ..FlowMask::default()
        },
        ..Answer::of(Verdict::Pass)
    }
}

impl<A: FnMut(&Question) -> Answer> Bench<A> {
    /// Two ports `a` and `b` on one network.
    pub(crate) fn new(answer: A) -> Result<Self, Box<dyn Error>> {
        let vni = Vni::new(7)?;
        let mut bench = Self {
            node: node()?,
            lane: Lane::new(Origin::Port(PortId(1)), LaneLimits::default(), 3),
            answer,
            epoch: Epoch(0),
            macs: Vec::new(),
            vni,
            now: 0,
        };
        bench.command(Command::NetworkAdd(NetworkSpec {
            name: "lan".parse()?,
            vni: Some(vni),
            subnets: vec!["10.0.0.0/24".parse()?],
            mtu: None,
        }));
        for name in ["a", "b"] {
            bench.command(Command::Attach(AttachSpec {
                network: "lan".to_owned(),
                netns: NetnsRef::Path(format!("/run/netns/{name}").into_bytes()),
                ifname: IfName::new(b"eth0")?,
                ip: IpSpec::Auto,
                mac: None,
                name: Some(name.parse::<Label>()?),
                labels: BTreeMap::new(),
                mtu: None,
                routes: Vec::new(),
                vrf: None,
                owner: None,
                kind: PortKind::Veth,
            }));
        }
        bench.command(Command::PolicyChain { vni, plugins: 1 });
        Ok(bench)
    }

    /// TCP from `a` to `b`; the ports are at 34 to 37.
    pub(crate) fn template(&self) -> Option<[u8; 54]> {
        let (src, dst) = (self.macs.first()?, self.macs.get(1)?);
        let mut out = [0; 54];
        let parts: [&[u8]; 5] = [
            &dst.0,
            &src.0,
            &[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0],
            &[10, 0, 0, 2, 10, 0, 0, 3, 0, 9, 0, 9, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0],
        ];
        out.copy_from_slice(&parts.concat());
        Some(out)
    }

    fn command(&mut self, command: Command) {
        let id = CommandId(1);
        self.node
            .handle(Input::Command { id, command }, clock(self.now));
        self.settle();
    }

    /// Does what the node wants, until it wants nothing.
    fn settle(&mut self) -> Option<Released> {
        let mut released = None;
        while let Some(output) = self.node.poll_output() {
            self.now += 1000;
            let now = clock(self.now);
            match output {
                Output::Wire(wiring) => {
                    let port = wiring.port;
                    self.macs.push(port.mac);
                    let event = KernelEvent::Wired {
                        port: port.id,
                        ifname: port.ifname,
                        mac: port.mac,
                        file: None,
                    };
                    self.node.handle(Input::Kernel(event), now);
                }
                Output::Epoch(epoch) => self.epoch = epoch,
                Output::Ask {
                    query,
                    epoch,
                    question,
                } => {
                    let answer = (self.answer)(&question);
                    let input = Input::Answer {
                        query,
                        epoch,
                        answer: answer.into(),
                    };
                    self.node.handle(input, now);
                }
                Output::Ruling { upcall, ruling, .. } => {
                    released = self.lane.ruling(upcall, ruling, now.moment);
                }
                _ => {}
            }
        }
        released
    }

    /// One frame: true if it left, and an upcall was needed for that.
    pub(crate) fn frame(&mut self, frame: &[u8]) -> bool {
        let (epoch, now) = (self.epoch, self.now);
        let step = self.lane.frame(self.vni, frame, epoch, Moment(now));
        let Step::Upcall { upcall, frame, ct } = step else {
            return false;
        };
        let input = Input::Upcall {
            origin: Origin::Port(PortId(1)),
            upcall,
            vni: self.vni,
            frame: Bytes::clone(&frame),
            ct: Tracked::clone(&ct),
        };
        self.node.handle(input, clock(now));
        self.settle().is_some()
    }
}
