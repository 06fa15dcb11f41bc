//! Prints what an upcall costs, all of it: `cargo run --release -p meshd-plugin-host --example upcalls`.
//!
//! ```text
//!   frame -> lane: no ruling -> node -> plugin, in -> node -> plugin, out -> node -> ruling -> lane: the frame leaves
//! ```
//!
//! On one thread, without the queues and threads between. Each frame is of another flow, and the policy reads what tells it from
//! the others.
#![allow(clippy::disallowed_methods)]

#[path = "../tests/guests/mod.rs"]
mod guests;

use meshd_core::command::{AttachSpec, Command, IpSpec, NetnsRef, NetworkSpec};
use meshd_core::config::KernelSettings;
use meshd_core::conntrack::Tracked;
use meshd_core::flow::Origin;
use meshd_core::ident::{
    CommandId, Epoch, IfName, Label, MacAddr, Moment, Now, PortId, Vni, WallTime,
};
use meshd_core::lane::{Lane, LaneLimits, Step};
use meshd_core::machine::NodeConfig;
use meshd_core::node::{Input, KernelEvent, Node, Output};
use meshd_core::planes::PlanesConfig;
use meshd_core::policy::{Answer, Verdict};
use meshd_core::testing::FakeKeyring;
use meshd_core::wire::record::{Keyring, Membership, Record, Role};
use meshd_plugin_host::{Instance, Say};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FLOWS: u32 = 200_000;
const ROUNDS: usize = 5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A node with two ports on a network, and where their time goes.
struct Bench {
    node: Node,
    lane: Lane,
    plugin: Instance,
    epoch: Epoch,
    macs: Vec<MacAddr>,
    vni: Vni,
    now: u64,
    in_plugin: Duration,
}

fn node() -> Result<Node> {
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

impl Bench {
    fn new(config: &str) -> Result<Self> {
        let limits = LaneLimits::default();
        let mut bench = Self {
            node: node()?,
            lane: Lane::new(Origin::Port(PortId(1)), limits, 3),
            plugin: guests::instance("acl", config),
            epoch: Epoch(0),
            macs: Vec::new(),
            vni: Vni::new(7)?,
            now: 0,
            in_plugin: Duration::ZERO,
        };
        let network = NetworkSpec {
            name: "lan".parse()?,
            vni: Some(bench.vni),
            subnets: vec!["10.0.0.0/24".parse()?],
            mtu: None,
        };
        bench.command(Command::NetworkAdd(network));
        for name in ["a", "b"] {
            let spec = AttachSpec {
                network: "lan".to_owned(),
                netns: NetnsRef::Path(format!("/run/netns/{name}").into_bytes()),
                ifname: IfName::new(b"eth0")?,
                ip: IpSpec::Auto,
                mac: None,
                name: Some(name.parse::<Label>()?),
                labels: BTreeMap::new(),
            };
            bench.command(Command::Attach(spec));
        }
        let vni = bench.vni;
        bench.command(Command::PolicyChain { vni, plugins: 1 });
        Ok(bench)
    }

    fn command(&mut self, command: Command) {
        let id = CommandId(1);
        self.node
            .handle(Input::Command { id, command }, clock(self.now));
        self.settle();
    }

    /// Does what the node wants, until it wants nothing.
    fn settle(&mut self) {
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
                    };
                    self.node.handle(Input::Kernel(event), now);
                }
                Output::Epoch(epoch) => self.epoch = epoch,
                Output::Ask {
                    query,
                    epoch,
                    question,
                } => {
                    let started = Instant::now();
                    let decided = self.plugin.decide(&question);
                    self.in_plugin += started.elapsed();
                    let answer = decided.map_or(Answer::of(Verdict::Failed), |decision| Answer {
                        mask: decision.mask,
                        ..Answer::of(match decision.say {
                            Say::Drop { .. } => Verdict::Drop,
                            _ => Verdict::Pass,
                        })
                    });
                    let input = Input::Answer {
                        query,
                        epoch,
                        answer,
                    };
                    self.node.handle(input, now);
                }
                Output::Ruling { upcall, ruling, .. } => {
                    self.lane.ruling(upcall, ruling, now.moment);
                }
                _ => {}
            }
        }
    }

    /// One frame of its own flow: how long its upcall took, if it needed one.
    fn frame(&mut self, frame: &[u8]) -> Option<Duration> {
        let started = Instant::now();
        let step = self.lane.frame(
            self.vni,
            bytes::Bytes::copy_from_slice(frame),
            self.epoch,
            Moment(self.now),
        );
        let Step::Upcall { upcall, frame, .. } = step else {
            return None;
        };
        let input = Input::Upcall {
            origin: Origin::Port(PortId(1)),
            upcall,
            vni: self.vni,
            frame,
            ct: Tracked::default(),
        };
        self.node.handle(input, clock(self.now));
        self.settle();
        Some(started.elapsed())
    }

    /// Ns an upcall, ns of it in the plugin, and the share of frames that needed one.
    fn measure(&mut self) -> Result<[f64; 3]> {
        let [src, dst] = [self.macs.first(), self.macs.get(1)].map(|mac| mac.copied());
        let (src, dst) = (src.ok_or("no port")?, dst.ok_or("one port")?);
        let mut frame: Vec<u8> = [dst.0, src.0].concat();
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend([10, 0, 0, 2, 10, 0, 0, 3]);
        frame.extend([
            0, 9, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
        ]);
        self.in_plugin = Duration::ZERO;
        let (mut upcalls, mut took) = (0u32, Duration::ZERO);
        for flow in 0..FLOWS {
            let ports = (flow * 40_503).to_be_bytes();
            if let Some(place) = frame.get_mut(34..38) {
                place.copy_from_slice(&ports);
            }
            if let Some(time) = self.frame(&frame) {
                upcalls += 1;
                took += time;
            }
        }
        let all = f64::from(upcalls.max(1));
        Ok([
            took.as_secs_f64() * 1e9 / all,
            self.in_plugin.as_secs_f64() * 1e9 / all,
            all / f64::from(FLOWS),
        ])
    }
}

fn main() -> Result<()> {
    // Odd and even ports are told apart by their last bit, and the rules by all of them.
    let rules: Vec<String> = (0..1000)
        .map(|n| format!(r#"{{"proto":"tcp","port":{}}}"#, 1 + n * 64))
        .collect();
    let many = format!(r#"{{"deny":[{}]}}"#, rules.join(","));
    for (what, config) in [
        ("acl, 1 rule", r#"{"deny":[{"proto":"tcp","port":9}]}"#),
        ("acl, 1000 rules", many.as_str()),
    ] {
        let mut bench = Bench::new(config)?;
        let mut rounds: Vec<[f64; 3]> = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(bench.measure()?);
        }
        rounds.sort_by(|a, b| a[0].total_cmp(&b[0]));
        let [ns, plugin, share] = rounds[ROUNDS / 2];
        println!(
            "{what:<16} {ns:>7.0} ns an upcall, {plugin:>6.0} of it in the plugin: {:>8.0} a second; {:.1} % of frames",
            1e9 / ns,
            share * 100.0
        );
    }
    Ok(())
}
