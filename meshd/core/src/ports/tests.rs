//! A node's ports against a fake directory and a kernel that is played by the test.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::attach::service_mac;
use crate::code::RefusalKind;
use crate::command::{AttachSpec, IpSpec, NetnsRef, Refusal};
use crate::ident::{SessionId, WallTime};
use crate::kind::PortKind;
use crate::wire::control::{Message, PoolGrant};
use proptest::prelude::*;

mod bridges;
mod owners;
mod serving;

const ME: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);

#[derive(Default)]
struct Around {
    networks: Vec<NetworkDef>,
    macs: BTreeMap<MacAddr, NodeId>,
    ips: BTreeMap<IpAddr, NodeId>,
    names: BTreeMap<Label, NodeId>,
}

impl Surroundings for Around {
    fn network(&self, text: &str) -> Option<&NetworkDef> {
        self.networks.iter().find(|def| def.name.as_str() == text)
    }
    fn network_by_vni(&self, vni: Vni) -> Option<&NetworkDef> {
        self.networks.iter().find(|def| def.vni == vni)
    }
    fn network_names(&self) -> Vec<String> {
        self.networks
            .iter()
            .map(|def| def.name.to_string())
            .collect()
    }
    fn mac_holder(&self, _: Vni, mac: MacAddr) -> Option<NodeId> {
        self.macs.get(&mac).copied()
    }
    fn ip_holder(&self, _: Vni, ip: IpAddr) -> Option<NodeId> {
        self.ips.get(&ip).copied()
    }
    fn name_holder(&self, _: Vni, name: &Label) -> Option<NodeId> {
        self.names.get(name).copied()
    }
    fn is_shared(&self, _: Vni, _: &crate::claims::Claim) -> bool {
        false
    }
    fn show_node(&self, node: NodeId) -> String {
        if node == OTHER {
            "other".to_owned()
        } else {
            node.short()
        }
    }
}

fn network(name: &str, vni: u32, author: NodeId, subnets: &[&str]) -> NetworkDef {
    NetworkDef {
        author,
        serial: 1,
        since: WallTime(1),
        vni: Vni::new(vni).unwrap(),
        name: name.parse().unwrap(),
        subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
        mtu: 1450,
        removed: false,
    }
}

struct Lab {
    ports: Ports,
    pools: Pools,
    around: Around,
    out: Outbox,
    now: Now,
    next: u64,
    store: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn config() -> PortsConfig {
    PortsConfig {
        domain: "home.internal".into(),
        dns: true,
        ports_max: 8,
    }
}

impl Lab {
    fn new(author: NodeId) -> Self {
        let networks = vec![
            network("blue", 5, author, &["10.0.0.0/29", "fd00::/64"]),
            network("red", 6, author, &["10.0.0.0/29"]),
            network("bare", 7, author, &[]),
        ];
        let mut lab = Self {
            ports: Ports::new(ME, config(), 1),
            pools: Pools::new(ME),
            around: Around {
                networks,
                ..Around::default()
            },
            out: Outbox::default(),
            now: Now::default(),
            next: 0,
            store: BTreeMap::new(),
        };
        for def in &lab.around.networks {
            lab.pools.define(def, true, &mut lab.out);
        }
        lab.outputs();
        lab
    }

    /// All outputs but persists, which go to the store.
    fn outputs(&mut self) -> Vec<Output> {
        let mut rest = Vec::new();
        while let Some(output) = self.out.pop() {
            match output {
                Output::Persist {
                    key,
                    value: Some(value),
                } => drop(self.store.insert(key, value)),
                Output::Persist { key, value: None } => drop(self.store.remove(&key)),
                other => rest.push(other),
            }
        }
        rest
    }

    fn attach(&mut self, spec: AttachSpec) -> CommandId {
        self.next += 1;
        let id = CommandId(self.next);
        self.ports.attach(
            id,
            spec,
            &self.around,
            &mut self.pools,
            self.now,
            &mut self.out,
        );
        id
    }

    fn detach(&mut self, target: &str) -> CommandId {
        self.next += 1;
        let id = CommandId(self.next);
        self.ports
            .detach(id, target, &self.around, &mut self.pools, &mut self.out);
        id
    }

    fn detach_owner(&mut self, owner: &str) -> CommandId {
        self.next += 1;
        let id = CommandId(self.next);
        let owner = owner.parse().unwrap();
        self.ports
            .detach_owner(id, &owner, &mut self.pools, &mut self.out);
        id
    }

    fn refused(&mut self, spec: AttachSpec) -> Refusal {
        self.attach(spec);
        match self.outputs().as_slice() {
            [
                ..,
                Output::Reply {
                    result: Err(refusal),
                    ..
                },
            ] => refusal.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn wired(&mut self, record: &PortRecord) {
        self.ports.wired(
            record.id,
            record.ifname.clone(),
            record.mac,
            &self.around,
            &mut self.pools,
            &mut self.out,
        );
    }

    fn mended(&mut self, record: &PortRecord, what: &[&str]) {
        let what: Vec<String> = what.iter().map(|&w| w.to_owned()).collect();
        let (ifname, mac) = (record.ifname.clone(), record.mac);
        self.ports
            .mended(record.id, ifname, mac, &what, &mut self.out);
    }

    fn unwired(&mut self, id: PortId, errors: &[&str]) {
        let errors = errors.iter().map(|&e| e.to_owned()).collect();
        self.ports.unwired(
            id,
            errors,
            &self.around,
            &mut self.pools,
            self.now,
            &mut self.out,
        );
    }

    /// Attached and ready.
    fn up(&mut self, spec: AttachSpec) -> PortRecord {
        self.attach(spec);
        let wiring = wire_of(&self.outputs()).unwrap();
        self.wired(&wiring.port);
        reply_port(&self.outputs()).unwrap()
    }

    fn restarted(self) -> Self {
        let mut lab = Self {
            ports: Ports::new(ME, config(), 2),
            pools: Pools::new(ME),
            out: Outbox::default(),
            ..self
        };
        for (key, value) in &lab.store {
            let key = StateKey::decode(key).unwrap();
            lab.ports.restore(&key, value).unwrap();
            lab.pools.restore(&key, value).unwrap();
        }
        for def in &lab.around.networks {
            lab.pools.define(def, false, &mut lab.out);
        }
        lab.ports
            .start(&lab.around, &mut lab.pools, lab.now, &mut lab.out);
        lab
    }
}

fn wire_of(outputs: &[Output]) -> Option<PortWiring> {
    outputs.iter().find_map(|o| {
        if let Output::Wire(wiring) = o {
            Some(wiring.clone())
        } else {
            None
        }
    })
}

fn reply_port(outputs: &[Output]) -> Option<PortRecord> {
    outputs.iter().find_map(|o| match o {
        Output::Reply {
            result: Ok(Reply::Port(record)),
            ..
        } => Some(record.clone()),
        _ => None,
    })
}

fn replies(outputs: &[Output]) -> Vec<(CommandId, Result<Reply, Refusal>)> {
    let reply = |o: &Output| {
        if let Output::Reply { id, result } = o {
            Some((*id, result.clone()))
        } else {
            None
        }
    };
    outputs.iter().filter_map(reply).collect()
}

fn spec(network: &str, netns: &str) -> AttachSpec {
    AttachSpec {
        network: network.to_owned(),
        netns: NetnsRef::Path(format!("/run/netns/{netns}").into_bytes()),
        ifname: IfName::new(b"eth0").unwrap(),
        ip: IpSpec::Auto,
        mac: None,
        name: None,
        labels: BTreeMap::new(),
        mtu: None,
        routes: Vec::new(),
        vrf: None,
        owner: None,
        kind: PortKind::Veth,
    }
}

fn fixed(network: &str, netns: &str, ip: &str) -> AttachSpec {
    AttachSpec {
        ip: IpSpec::Fixed(vec![ip.parse().unwrap()]),
        ..spec(network, netns)
    }
}

fn named(network: &str, netns: &str, name: &str) -> AttachSpec {
    AttachSpec {
        name: Some(name.parse().unwrap()),
        ..spec(network, netns)
    }
}

#[test]
fn a_port_is_durable_before_the_kernel_hears_of_it_and_ready_before_the_reply() {
    let mut lab = Lab::new(ME);
    lab.attach(named("blue", "a", "web"));
    let mut kept = false;
    let mut wiring = None;
    while let Some(output) = lab.out.pop() {
        match output {
            Output::Persist { key, .. } => {
                kept |= matches!(StateKey::decode(&key), Ok(StateKey::Port(_)))
            }
            Output::Wire(w) => {
                assert!(kept);
                wiring = Some(w);
            }
            _ => {}
        }
    }
    let wiring = wiring.unwrap();
    let shown: Vec<String> = wiring.port.ips.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.2/29", "fd00::2/64"]);
    assert_eq!(wiring.dns.unwrap().search, "blue.home.internal");
    assert!(wiring.port.mac.is_source() && wiring.port.mac.0[0] & 2 == 2);
    let named_by_kernel = IfName::new(b"eth7").unwrap();
    lab.ports.wired(
        wiring.port.id,
        named_by_kernel.clone(),
        wiring.port.mac,
        &lab.around,
        &mut lab.pools,
        &mut lab.out,
    );
    assert!(matches!(lab.out.pop(), Some(Output::Persist { .. })));
    let record = reply_port(&lab.outputs()).unwrap();
    assert!(record.ready);
    assert_eq!(record.ifname, named_by_kernel);
    let changes = lab.ports.take_changes();
    assert!(
        matches!(
            changes.as_slice(),
            [
                PortChange::Presence,
                PortChange::ServiceUp(_),
                PortChange::PortUp(_)
            ]
        ),
        "{changes:?}"
    );
    assert!(lab.ports.take_changes().is_empty());
}

#[test]
fn the_same_attach_again_is_the_same_port_and_another_wish_there_is_a_conflict() {
    let mut lab = Lab::new(ME);
    let first = lab.attach(named("blue", "a", "web"));
    let second = lab.attach(spec("blue", "a"));
    let wiring = wire_of(&lab.outputs()).unwrap();
    lab.wired(&wiring.port);
    let answered: Vec<CommandId> = replies(&lab.outputs())
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(answered, [first, second]);
    // A port that is there is looked through first.
    lab.attach(named("blue", "a", "web"));
    let outputs = lab.outputs();
    assert!(wire_of(&outputs).is_none() && replies(&outputs).is_empty());
    let mend = outputs.iter().find_map(|o| match o {
        Output::Mend(wiring) => Some(wiring.clone()),
        _ => None,
    });
    let mend = mend.unwrap();
    assert_eq!(
        mend,
        PortWiring {
            port: mend.port.clone(),
            ..wiring.clone()
        }
    );
    lab.mended(&mend.port, &["it was down"]);
    let outputs = lab.outputs();
    assert_eq!(reply_port(&outputs).unwrap().id, wiring.port.id);
    assert!(
        outputs
            .iter()
            .any(|o| matches!(o, Output::Notice(Notice::PortMended { .. })))
    );
    assert!(
        lab.refused(named("blue", "a", "db"))
            .message
            .contains("with other name")
    );
    assert!(
        lab.refused(spec("red", "a"))
            .message
            .contains("on network blue; detach it first")
    );
    assert_eq!(lab.refused(spec("red", "a")).kind(), RefusalKind::Conflict);
    // A pattern on another network is another interface.
    let pattern = |network| AttachSpec {
        ifname: IfName::new(b"eth%d").unwrap(),
        ..spec(network, "b")
    };
    assert_ne!(lab.up(pattern("blue")).id, lab.up(pattern("red")).id);
}

#[test]
fn what_a_port_may_not_be_is_refused_with_advice() {
    let mut lab = Lab::new(ME);
    lab.around.ips.insert("10.0.0.6".parse().unwrap(), OTHER);
    lab.around.macs.insert(MacAddr([2, 0, 0, 0, 0, 9]), OTHER);
    lab.around.names.insert("db".parse().unwrap(), OTHER);
    lab.up(named("blue", "taken", "web"));
    let with_mac = |mac| AttachSpec {
        mac: Some(MacAddr(mac)),
        ..spec("blue", "x")
    };
    let labels: BTreeMap<String, String> =
        (0..33).map(|n| (format!("k{n}"), String::new())).collect();
    for (wish, expected) in [
        (spec("green", "x"), "there are: blue, red, bare"),
        (
            fixed("blue", "x", "10.0.1.2/29"),
            "in no subnet of network blue",
        ),
        (fixed("blue", "x", "10.0.0.2/24"), "use 10.0.0.2/29"),
        (fixed("blue", "x", "10.0.0.1/29"), "meshd's own service"),
        (fixed("blue", "x", "10.0.0.0/29"), "network or broadcast"),
        (fixed("blue", "x", "10.0.0.7/29"), "network or broadcast"),
        (fixed("blue", "x", "fd00::/64"), "network or broadcast"),
        (fixed("blue", "x", "10.0.0.6/29"), "by node other"),
        (fixed("blue", "x", "10.0.0.2/29"), "belongs to port"),
        (fixed("bare", "x", "10.0.0.2/29"), "has no subnets"),
        (named("blue", "x", "db"), "by node other"),
        (named("blue", "x", "web"), "belongs to port"),
        (with_mac([3, 0, 0, 0, 0, 1]), "no address of a station"),
        (with_mac([0; 6]), "no address of a station"),
        (with_mac([2, 0, 0, 0, 0, 9]), "by node other"),
        (
            with_mac(service_mac(Vni::new(5).unwrap()).0),
            "meshd's own service",
        ),
        (
            AttachSpec {
                labels,
                ..spec("blue", "x")
            },
            "at most 32",
        ),
        (
            AttachSpec {
                labels: [("k".into(), "v".repeat(200))].into(),
                ..spec("blue", "x")
            },
            "at most 128",
        ),
        (
            AttachSpec {
                netns: NetnsRef::Path(b"x".to_vec()),
                ..spec("blue", "x")
            },
            "no absolute path",
        ),
        (
            AttachSpec {
                netns: NetnsRef::Path(b"/x\0".to_vec()),
                ..spec("blue", "x")
            },
            "NUL byte",
        ),
    ] {
        let refusal = lab.refused(wish);
        assert!(refusal.message.contains(expected), "{refusal} / {expected}");
    }
    assert_eq!(lab.ports.iter().count(), 1);
    for n in 0..7 {
        lab.up(spec("bare", &n.to_string()));
    }
    assert!(
        lab.refused(spec("bare", "more"))
            .message
            .contains("8 ports already")
    );
}

#[test]
fn a_port_waits_for_a_grant_and_goes_on_with_it() {
    let mut lab = Lab::new(OTHER);
    lab.pools.peer_up(OTHER, SessionId(4));
    lab.attach(spec("red", "a"));
    let request = lab.outputs().into_iter().find_map(|o| match o {
        Output::Message {
            message: Message::PoolRequest(request),
            ..
        } => Some(request),
        _ => None,
    });
    let request = request.unwrap();
    let range = Some((0x0a00_0004, 0x0a00_0006));
    let grant = PoolGrant {
        vni: request.vni,
        subnet: 0,
        request: request.request,
        range,
        ask: Vec::new(),
    };
    assert!(lab.pools.on_grant(OTHER, &grant, lab.now, &mut lab.out));
    lab.ports
        .addresses_changed(&lab.around, &mut lab.pools, lab.now, &mut lab.out);
    assert_eq!(
        wire_of(&lab.outputs()).unwrap().port.leased,
        ["10.0.0.4".parse::<IpAddr>().unwrap()]
    );
}

#[test]
fn a_port_that_gets_no_address_is_refused_after_five_seconds_with_whom_was_asked() {
    let mut lab = Lab::new(OTHER);
    lab.pools.peer_up(OTHER, SessionId(4));
    lab.attach(spec("red", "a"));
    lab.outputs();
    assert_eq!(
        lab.ports.poll_timeout().unwrap().0,
        Moment::default().plus_ms(5_000)
    );
    lab.now.moment = Moment::default().plus_ms(5_000);
    lab.ports
        .handle_timeout(&lab.around, &mut lab.pools, lab.now, &mut lab.out);
    let (_, result) = replies(&lab.outputs()).remove(0);
    let refusal = result.unwrap_err();
    assert!(
        refusal.message.contains("other did not answer") && refusal.message.contains("10.0.0.0/29"),
        "{refusal}"
    );
    assert_eq!(lab.ports.iter().count(), 0);
    assert!(lab.ports.poll_timeout().is_none());
    // With the author out of reach.
    lab.pools.peer_down(OTHER, SessionId(4));
    lab.attach(spec("red", "a"));
    lab.now.moment = lab.now.moment.plus_ms(5_000);
    lab.ports
        .handle_timeout(&lab.around, &mut lab.pools, lab.now, &mut lab.out);
    let (_, result) = replies(&lab.outputs()).remove(0);
    assert!(result.unwrap_err().message.contains("is not connected"));
}

#[test]
fn the_author_of_a_full_network_refuses_at_once_and_a_detach_frees_the_address_for_who_waits() {
    let mut lab = Lab::new(ME);
    let ports: Vec<PortRecord> = (0..5)
        .map(|n| lab.up(spec("red", &n.to_string())))
        .collect();
    assert!(
        lab.refused(spec("red", "more"))
            .message
            .contains("nobody to ask")
    );
    lab.pools.peer_up(OTHER, SessionId(4));
    let waiting = lab.attach(spec("red", "more"));
    assert!(replies(&lab.outputs()).is_empty());
    let detaching = lab.detach(&ports[2].id.to_string());
    let unwire = lab.outputs();
    assert!(
        matches!(unwire.as_slice(), [Output::Unwire(_)]),
        "{unwire:?}"
    );
    lab.unwired(ports[2].id, &[]);
    let outputs = lab.outputs();
    assert_eq!(replies(&outputs), [(detaching, Ok(Reply::Done))]);
    let wiring = wire_of(&outputs).unwrap();
    assert_eq!(wiring.port.leased, ports[2].leased);
    assert!(wiring.port.id > ports[4].id, "a number was used twice");
    lab.wired(&wiring.port);
    assert_eq!(replies(&lab.outputs())[0].0, waiting);
}

#[test]
fn a_failed_wiring_gives_everything_back_and_says_why() {
    let mut lab = Lab::new(ME);
    let before = lab.pools.view();
    let id = lab.attach(named("blue", "a", "web"));
    let wiring = wire_of(&lab.outputs()).unwrap();
    lab.ports.wire_failed(
        wiring.port.id,
        (ErrorCode::KernelRefused, "no such namespace".into()),
        true,
        lab.now,
        &mut lab.pools,
        &mut lab.out,
    );
    let outputs = lab.outputs();
    let (answered, result) = replies(&outputs).remove(0);
    assert_eq!(answered, id);
    assert!(result.unwrap_err().message.contains("no such namespace"));
    assert!(outputs.iter().any(|o| matches!(o, Output::Unserve { .. })));
    assert_eq!(lab.pools.view(), before);
    assert!(
        !lab.store
            .keys()
            .any(|key| matches!(StateKey::decode(key), Ok(StateKey::Port(_))))
    );
}

#[test]
fn a_detach_during_wiring_is_done_once_the_kernel_is() {
    let mut lab = Lab::new(ME);
    let attaching = lab.attach(named("blue", "a", "web"));
    let wiring = wire_of(&lab.outputs()).unwrap();
    let detaching = lab.detach("web");
    let outputs = lab.outputs();
    assert_eq!(replies(&outputs)[0].0, attaching);
    assert!(replies(&outputs)[0].1.is_err());
    assert!(
        lab.refused(spec("blue", "a"))
            .message
            .contains("being removed")
    );
    lab.wired(&wiring.port);
    assert!(matches!(lab.outputs().as_slice(), [Output::Unwire(_)]));
    lab.unwired(wiring.port.id, &[]);
    assert!(replies(&lab.outputs()).contains(&(detaching, Ok(Reply::Done))));
    assert!(
        lab.ports
            .take_changes()
            .iter()
            .all(|c| !matches!(c, PortChange::PortUp(_) | PortChange::PortDown(_)))
    );
}

fn routed(netns: &str, to: &str, via: &str) -> AttachSpec {
    AttachSpec {
        routes: vec![crate::command::PortRoute {
            to: to.parse().unwrap(),
            via: Some(via.parse().unwrap()),
        }],
        ..spec("red", netns)
    }
}

#[test]
fn the_address_of_a_router_is_leased_to_nobody_and_set_by_hand_at_the_router_alone() {
    let mut lab = Lab::new(ME);
    let by_router = |netns| routed(netns, "0.0.0.0/0", "10.0.0.3");
    let mut given = Vec::new();
    for spec in [by_router("a"), by_router("b"), spec("red", "c")] {
        given.push(lab.up(spec).ips[0].to_string());
    }
    assert_eq!(given, ["10.0.0.2/29", "10.0.0.4/29", "10.0.0.5/29"]);
    let itself = AttachSpec {
        ip: IpSpec::Fixed(vec!["10.0.0.3/29".parse().unwrap()]),
        ..by_router("d")
    };
    let refused = lab.refused(itself);
    assert_eq!(refused.code, ErrorCode::RouteInvalid);
    assert!(refused.message.contains("the port's own"), "{refused}");
    let router = lab.up(fixed("red", "e", "10.0.0.3/29"));
    assert_eq!(router.leased, ["10.0.0.3".parse::<IpAddr>().unwrap()]);
}

#[test]
fn two_routes_to_one_destination_and_routers_that_cannot_be_are_refused_with_their_values() {
    let mut lab = Lab::new(ME);
    let mut two = routed("a", "0.0.0.0/0", "10.0.0.3");
    two.routes
        .extend(routed("a", "0.0.0.0/0", "10.0.0.4").routes);
    for (spec, why) in [
        (two, "0.0.0.0/0 via 10.0.0.4 lead to the same destination"),
        (
            routed("a", "10.9.0.0/16", "10.0.0.0"),
            "10.0.0.0 is the network",
        ),
        (
            routed("a", "10.9.0.0/16", "10.0.0.7"),
            "10.0.0.7 is the network or broadcast",
        ),
        (routed("a", "10.9.0.0/16", "10.0.0.1"), "own service"),
    ] {
        let refused = lab.refused(spec);
        assert_eq!(refused.code, ErrorCode::RouteInvalid);
        assert!(refused.message.contains(why), "{refused}");
    }
}

#[test]
fn a_detach_that_leaves_something_says_so_but_the_port_is_gone() {
    let mut lab = Lab::new(ME);
    let record = lab.up(spec("blue", "a"));
    lab.detach(&record.id.to_string());
    lab.unwired(record.id, &["device busy"]);
    let (_, result) = replies(&lab.outputs()).remove(0);
    assert!(result.unwrap_err().message.contains("device busy"));
    assert_eq!(lab.ports.iter().count(), 0);
    lab.detach("nope");
    assert_eq!(
        replies(&lab.outputs())[0].1.clone().unwrap_err().kind(),
        RefusalKind::NotFound
    );
}

#[test]
fn a_name_on_two_networks_needs_its_network_to_be_detached() {
    let mut lab = Lab::new(ME);
    lab.up(named("blue", "a", "web"));
    let red = lab.up(named("red", "b", "web"));
    lab.detach("web");
    assert!(
        replies(&lab.outputs())[0]
            .1
            .clone()
            .unwrap_err()
            .message
            .contains("web.blue, web.red")
    );
    assert_eq!(lab.ports.find("web.red", &lab.around).unwrap(), red.id);
    assert_eq!(
        lab.ports
            .find("WEB.red.home.internal.", &lab.around)
            .unwrap(),
        red.id
    );
    assert!(lab.ports.find("web.green", &lab.around).is_err());
}

#[test]
fn a_port_whose_namespace_goes_away_is_cleaned_up_and_told() {
    let mut lab = Lab::new(ME);
    let record = lab.up(spec("blue", "a"));
    lab.ports.take_changes();
    lab.ports.port_gone(record.id, &mut lab.pools, &mut lab.out);
    lab.ports.port_gone(record.id, &mut lab.pools, &mut lab.out);
    let outputs = lab.outputs();
    assert!(
        matches!(
            outputs.as_slice(),
            [Output::Notice(Notice::PortGone { .. }), Output::Unwire(_)]
        ),
        "{outputs:?}"
    );
    lab.unwired(record.id, &[]);
    assert!(matches!(
        lab.ports.take_changes().as_slice(),
        [
            PortChange::PortDown(_),
            PortChange::Presence,
            PortChange::ServiceDown { .. }
        ]
    ));
}

#[test]
fn a_port_that_loses_a_part_carries_nothing_until_it_is_whole_again() {
    let mut lab = Lab::new(ME);
    let record = lab.up(spec("blue", "a"));
    lab.ports.take_changes();
    for _ in 0..2 {
        lab.ports.wire_failed(
            record.id,
            (ErrorCode::KernelRefused, "its TAP was deleted".into()),
            false,
            lab.now,
            &mut lab.pools,
            &mut lab.out,
        );
    }
    assert_eq!(
        lab.ports.take_changes(),
        [PortChange::PortDown(record.clone())]
    );
    assert!(matches!(
        lab.outputs().as_slice(),
        [Output::Notice(Notice::PortFailed { .. })]
    ));
    // Frames wait for it: no pause but the one for whoever is not done yet.
    let lost = lab.now.moment;
    lab.now.moment = lab.ports.poll_timeout().unwrap().0;
    assert!(lab.now.moment.ms_since(lost) <= 200);
    lab.ports
        .handle_timeout(&lab.around, &mut lab.pools, lab.now, &mut lab.out);
    let wiring = wire_of(&lab.outputs()).unwrap();
    assert_eq!(wiring.port, record);
    lab.wired(&wiring.port);
    assert!(
        lab.ports
            .take_changes()
            .contains(&PortChange::PortUp(record))
    );
}

#[test]
fn a_node_is_on_a_network_before_the_first_frame_of_its_first_port() {
    let mut lab = Lab::new(ME);
    lab.attach(spec("blue", "a"));
    assert!(lab.ports.take_changes().contains(&PortChange::Presence));
    let blue = lab.around.networks[0].vni;
    assert_eq!(lab.ports.networks(), [blue].into());
    let wiring = wire_of(&lab.outputs()).unwrap();
    lab.wired(&wiring.port);
    lab.detach(&wiring.port.id.to_string());
    assert_eq!(lab.ports.networks(), [].into());
}

#[test]
fn after_a_restart_each_port_is_adopted_with_its_addresses_and_no_number_comes_again() {
    let mut lab = Lab::new(ME);
    let first = lab.up(named("blue", "a", "web"));
    let second = lab.up(spec("blue", "b"));
    lab.detach(&second.id.to_string());
    lab.unwired(second.id, &[]);
    lab.outputs();
    let mut lab = lab.restarted();
    let wiring = wire_of(&lab.outputs()).unwrap();
    assert_eq!(wiring.port, first);
    lab.wired(&wiring.port);
    lab.outputs();
    let third = lab.up(spec("blue", "c"));
    assert!(third.id > second.id);
    assert!(third.ips.iter().all(|ip| !first.ips.contains(ip)));
}

#[test]
fn a_kept_port_that_the_kernel_refuses_is_tried_again_unless_its_namespace_is_gone() {
    let mut lab = Lab::new(ME);
    let record = lab.up(spec("blue", "a"));
    let mut lab = lab.restarted();
    lab.outputs();
    lab.ports.wire_failed(
        record.id,
        (ErrorCode::KernelRefused, "busy".into()),
        false,
        lab.now,
        &mut lab.pools,
        &mut lab.out,
    );
    assert!(
        lab.refused(spec("blue", "a"))
            .message
            .contains("busy; it is tried again")
    );
    assert_eq!(lab.ports.iter().next().unwrap().1, PortState::Failed);
    lab.now.moment = lab.ports.poll_timeout().unwrap().0;
    lab.ports
        .handle_timeout(&lab.around, &mut lab.pools, lab.now, &mut lab.out);
    assert_eq!(wire_of(&lab.outputs()).unwrap().port.id, record.id);
    lab.ports.wire_failed(
        record.id,
        (ErrorCode::KernelRefused, "no namespace".into()),
        true,
        lab.now,
        &mut lab.pools,
        &mut lab.out,
    );
    assert!(
        lab.outputs()
            .iter()
            .any(|o| matches!(o, Output::Notice(Notice::PortGone { .. })))
    );
    assert_eq!(lab.ports.iter().count(), 0);
    let mut again = lab.restarted();
    assert!(again.outputs().is_empty());
}

proptest! {
    /// Whatever the order of wishes, kernel events, restarts: each command is answered at most once, and in the end
    /// nothing is leased that no port has.
    #[test]
    fn every_command_is_answered_once_and_every_lease_has_a_port(steps in proptest::collection::vec((0u8..7, 0usize..6), 0..120)) {
        let mut lab = Lab::new(ME);
        let mut answered = BTreeSet::new();
        let mut asked = BTreeSet::new();
        let mut wiring: Vec<PortRecord> = Vec::new();
        let mut unwiring: Vec<PortId> = Vec::new();
        let mut mending: Vec<PortRecord> = Vec::new();
        for (step, at) in steps {
            match step {
                0 | 1 => drop(asked.insert(lab.attach(spec(if at % 2 == 0 { "blue" } else { "red" }, &at.to_string())))),
                2 => {
                    let target = lab.ports.iter().nth(at).map_or("none".to_owned(), |(r, ..)| r.id.to_string());
                    asked.insert(lab.detach(&target));
                }
                3 if !wiring.is_empty() => {
                    let record = wiring.remove(at % wiring.len());
                    lab.wired(&record);
                }
                4 if !wiring.is_empty() => {
                    let record = wiring.remove(at % wiring.len());
                    lab.ports.wire_failed(record.id, (ErrorCode::KernelRefused, "why".into()), at == 0, lab.now, &mut lab.pools, &mut lab.out);
                }
                5 if !unwiring.is_empty() => {
                    let id = unwiring.remove(at % unwiring.len());
                    lab.unwired(id, if at == 1 { &["left"] } else { &[] });
                }
                6 if at == 0 => {
                    // Commands that were open are lost with the daemon.
                    asked = answered.clone();
                    (wiring, unwiring, mending) = (Vec::new(), Vec::new(), Vec::new());
                    lab = lab.restarted();
                }
                6 => {
                    lab.now.moment = lab.now.moment.plus_ms(10_000);
                    lab.ports.handle_timeout(&lab.around, &mut lab.pools, lab.now, &mut lab.out);
                }
                _ if !mending.is_empty() => lab.mended(&mending.remove(0), &[]),
                _ => {}
            }
            for output in lab.outputs() {
                match output {
                    Output::Wire(w) => wiring.push(w.port),
                    Output::Mend(w) => mending.push(w.port),
                    Output::Unwire(record) => unwiring.push(record.id),
                    Output::Reply { id, .. } => {
                        prop_assert!(answered.insert(id), "answered twice");
                        prop_assert!(asked.contains(&id));
                    }
                    _ => {}
                }
            }
            let leased: usize = lab.ports.iter().map(|(record, ..)| record.leased.len()).sum();
            prop_assert_eq!(leased, lab.pools.view().iter().map(|pool| pool.leased).sum::<usize>());
            let mut ips: Vec<_> = lab.ports.iter().flat_map(|(r, ..)| r.ips.iter().map(|ip| (r.vni, *ip))).collect();
            let count = ips.len();
            ips.sort();
            ips.dedup();
            prop_assert_eq!(ips.len(), count, "an address twice");
        }
        // In the end the kernel answers all that is open, and so does the node.
        while !wiring.is_empty() || !unwiring.is_empty() || !mending.is_empty() {
            for record in std::mem::take(&mut mending) {
                lab.mended(&record, &[]);
            }
            for record in std::mem::take(&mut wiring) {
                lab.wired(&record);
            }
            for id in std::mem::take(&mut unwiring) {
                lab.unwired(id, &[]);
            }
            for output in lab.outputs() {
                match output {
                    Output::Wire(w) => wiring.push(w.port),
                    Output::Unwire(record) => unwiring.push(record.id),
                    Output::Mend(w) => mending.push(w.port),
                    Output::Reply { id, .. } => prop_assert!(answered.insert(id), "answered twice"),
                    _ => {}
                }
            }
        }
        prop_assert_eq!(answered, asked);
    }
}

impl Lab {
    /// The network is this one now; `None`: it is gone.
    fn redefine(&mut self, vni: Vni, def: Option<NetworkDef>) {
        self.around.networks.retain(|net| net.vni != vni);
        self.around.networks.extend(def);
        self.ports
            .network_changed(vni, &self.around, self.now, &mut self.out);
    }

    fn state(&self) -> (PortState, String) {
        let (_, state, why) = self.ports.iter().next().unwrap();
        (state, why.unwrap_or_default().to_owned())
    }

    /// What happens until every pause is over.
    fn later(&mut self) -> Vec<Output> {
        self.now.moment = self.now.moment.plus_ms(RETRY_MS_MAX);
        self.ports
            .handle_timeout(&self.around, &mut self.pools, self.now, &mut self.out);
        self.outputs()
    }
}

#[test]
fn a_port_fails_with_its_network_and_does_not_wake_up_in_another_of_that_name() {
    let mut lab = Lab::new(ME);
    let port = lab.up(spec("red", "a"));
    let red = lab.around.networks[1].clone();
    lab.ports.take_changes();
    lab.redefine(port.vni, None);
    let outputs = lab.outputs();
    assert!(outputs.iter().any(|o| matches!(o, Output::Unserve { .. })));
    assert!(
        outputs
            .iter()
            .any(|o| matches!(o, Output::Notice(Notice::PortFailed { .. })))
    );
    assert!(
        lab.ports
            .take_changes()
            .contains(&PortChange::PortDown(port.clone()))
    );
    assert!(lab.ports.networks().is_empty());
    let (state, why) = lab.state();
    assert!(
        state == PortState::Failed && why.contains("meshd detach 1"),
        "{why}"
    );
    // Of the same name and VNI, with other subnets; also after a restart.
    let other = NetworkDef {
        subnets: vec!["10.9.0.0/24".parse().unwrap()],
        ..red.clone()
    };
    lab.redefine(port.vni, Some(other));
    assert_eq!(wire_of(&lab.later()), None);
    let mut lab = lab.restarted();
    assert_eq!(wire_of(&lab.outputs()), None);
    let (state, why) = lab.state();
    assert!(
        state == PortState::Failed && why.contains("10.0.0.2/29"),
        "{why}"
    );
    // It was a mistake, and is as it was.
    lab.redefine(port.vni, Some(red));
    assert_eq!(wire_of(&lab.later()).unwrap().port.id, port.id);
}

#[test]
fn a_port_that_is_wired_when_its_network_is_gone_is_not_ready() {
    let mut lab = Lab::new(ME);
    let command = lab.attach(spec("red", "a"));
    let wiring = wire_of(&lab.outputs()).unwrap();
    lab.redefine(wiring.port.vni, None);
    lab.wired(&wiring.port);
    let outputs = lab.outputs();
    assert!(matches!(replies(&outputs).as_slice(), [(id, Err(_))] if *id == command));
    assert!(outputs.iter().any(|o| matches!(o, Output::Unwire(_))));
}

#[test]
fn an_interface_that_its_container_set_down_is_told_once_and_shown_until_it_is_up() {
    let mut lab = Lab::new(ME);
    let port = lab.up(spec("red", "a"));
    let told = |lab: &mut Lab, up| {
        lab.ports.far_end(port.id, up, &mut lab.out);
        lab.outputs().len()
    };
    assert_eq!(
        (
            told(&mut lab, true),
            told(&mut lab, false),
            told(&mut lab, false)
        ),
        (0, 1, 0)
    );
    let (state, why) = lab.state();
    assert!(state == PortState::Ready && why.contains("down"), "{why}");
    assert_eq!((told(&mut lab, true), lab.state().1), (1, String::new()));
}

#[test]
fn an_interface_that_becomes_too_narrow_is_told_once_and_goes_on() {
    let mut lab = Lab::new(ME);
    let port = lab.up(spec("red", "a"));
    let told = |lab: &mut Lab, mtu| {
        lab.ports.far_mtu(port.id, mtu, &lab.around, &mut lab.out);
        lab.outputs().len()
    };
    let steps = [9000, 1450, 1400, 1400, 1300, 1450].map(|mtu| told(&mut lab, mtu));
    assert_eq!(steps, [0, 0, 1, 0, 1, 1]);
    assert_eq!(told(&mut lab, 600), 1);
    let (state, why) = lab.state();
    assert_eq!(state, PortState::Ready);
    assert!(
        why.contains("MTU of 600 now, and the network of 1450"),
        "{why}"
    );
    // A far end that is down comes first; it is narrow still when it is up.
    lab.ports.far_end(port.id, false, &mut lab.out);
    assert!(lab.state().1.contains("down"));
    lab.ports.far_end(port.id, true, &mut lab.out);
    assert!(lab.state().1.contains("MTU"));
    assert!(lab.ports.has_link(port.id));
}
