//! What one large network costs a node: 500 peers with 20 endpoints each. `cargo xtask bench scale` runs it.
//!
//! Memory is what the process grew by, all of it: the signed records as they travel, the directory, the switch's FDB and
//! neighbours, the plan and the scene that it is compared with.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use meshd_core::directory::Directory;
use meshd_core::ident::{Epoch, Label, MacAddr, Moment, NodeId, Now, Vni, WallTime};
use meshd_core::outbox::Outbox;
use meshd_core::plan::{NetworkPlan, VxlanPlan, diff};
use meshd_core::switch::{RemoteEndpoint, Switch, SwitchLimits};
use meshd_core::testing::FakeKeyring;
use meshd_core::wire::record::{
    Endpoint, Endpoints, Keyring, Membership, NetworkDef, NodeAdvert, Record, Role, Vtep,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

const PEERS: u64 = 500;
const EACH: u64 = 20;
const ROUNDS: usize = 9;

fn mac(n: u64) -> MacAddr {
    let [.., a, b, c] = n.to_be_bytes();
    MacAddr([2, 0, 0, a, b, c])
}

fn vtep(n: u64) -> IpAddr {
    IpAddr::from([10, 9, (n >> 8) as u8, n as u8])
}

/// Bytes of memory that the process has in hand.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0
}

/// The median of some runs, in ms.
fn median(mut run: impl FnMut()) -> f64 {
    let mut all: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[ROUNDS / 2]
}

fn records(vni: Vni) -> Vec<(u64, Record)> {
    let mut all = Vec::new();
    let root = FakeKeyring::root(1);
    for number in 1..=PEERS {
        let node = FakeKeyring::member(1, number).node();
        let name = format!("node-{number}").parse::<Label>().unwrap();
        all.push((
            1,
            Record::Membership(Membership {
                mesh: root.mesh(),
                node,
                name,
                role: if number == 1 {
                    Role::Admin
                } else {
                    Role::Member
                },
                labels: BTreeMap::new(),
                serial: 1,
                issued: WallTime(1),
                expires: None,
            }),
        ));
    }
    all.push((
        1,
        Record::Network(NetworkDef {
            author: root.node(),
            vni,
            serial: 1,
            since: WallTime(1),
            name: "big".parse().unwrap(),
            subnets: vec!["10.0.0.0/16".parse().unwrap()],
            mtu: 1450,
            removed: false,
        }),
    ));
    for number in 1..=PEERS {
        let node = FakeKeyring::member(1, number).node();
        let ip = vtep(number);
        all.push((
            number,
            Record::Node(NodeAdvert {
                node,
                serial: 1,
                boot: 1,
                addresses: vec![(ip, 7650).into()],
                networks: vec![vni],
                version: "0.1.0".to_owned(),
                vtep: Some(Vtep { ip, port: 4789 }),
                trusted: vec!["10.9.0.0/16".parse().unwrap()],
                links: vec![],
                services: vec![],
            }),
        ));
        let list = (0..EACH).map(|n| {
            let n = number * EACH + n;
            Endpoint {
                mac: mac(n),
                ips: vec![IpAddr::from([10, 0, (n >> 8) as u8, n as u8])],
                name: Some(format!("web-{n}").parse().unwrap()),
                labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
                since: WallTime(1),
                roams: false,
            }
        });
        all.push((
            number,
            Record::Endpoints(Endpoints {
                node,
                vni,
                serial: 1,
                list: list.collect(),
            }),
        ));
    }
    all
}

fn plan(directory: &Directory, vni: Vni) -> NetworkPlan {
    let vtep_of = |node: NodeId| Some(directory.advert(node)?.vtep?.ip);
    let there = directory.endpoints(vni);
    NetworkPlan {
        mtu: 1450,
        ports: BTreeMap::new(),
        vxlan: Some(VxlanPlan {
            local: vtep(0),
            port: 4789,
            endpoints: there
                .filter_map(|(node, endpoint)| Some((endpoint.mac, vtep_of(node)?)))
                .collect(),
            probes: (1..=PEERS).map(|n| (mac(n << 20), vtep(n))).collect(),
            floods: (1..=PEERS).map(vtep).collect(),
            gateway: None,
            fence: (1..=PEERS).map(vtep).collect(),
        }),
    }
}

fn main() {
    let vni = Vni::new(7).unwrap();
    let now = Now {
        moment: Moment(0),
        wall: WallTime(1_000),
    };
    let endpoints = (PEERS * EACH) as f64;
    let signed: Vec<_> = records(vni)
        .into_iter()
        .map(|(number, record)| {
            let keyring = if number == 1 {
                FakeKeyring::root(1)
            } else {
                FakeKeyring::member(1, number)
            };
            record.sign(keyring.mesh(), &keyring).unwrap()
        })
        .collect();

    let before = resident();
    let mut out = Outbox::default();
    let keyring = Arc::new(FakeKeyring::member(1, PEERS + 1));
    let mut directory = Directory::new(keyring.mesh(), keyring, &[], now);
    let start = Instant::now();
    for record in &signed {
        assert!(directory.accept(record, None, now, &mut out).unwrap());
    }
    for number in 1..=PEERS {
        let node = FakeKeyring::member(1, number).node();
        directory.set_reachable(node, true, &mut out);
    }
    let accepted = start.elapsed().as_secs_f64() * 1e3;
    directory.settle();
    while out.pop().is_some() {}
    directory.take_fresh();
    directory.take_changes();
    assert_eq!(directory.endpoints(vni).count() as f64, endpoints);

    let mut switch = Switch::new(SwitchLimits::default(), Epoch(0), 7);
    switch.set_network(vni, 1450, &mut out);
    let remote: Vec<_> = directory
        .endpoints(vni)
        .map(|(node, endpoint)| RemoteEndpoint {
            node,
            mac: endpoint.mac,
            ips: endpoint.ips.clone(),
            shared: Vec::new(),
            roams: None,
            router: false,
        })
        .collect();
    let learned = median(|| switch.set_remote(vni, &remote, &mut out));
    drop(remote);
    let listed = median(|| assert!(switch.fdb(vni).len() as f64 >= endpoints));
    let counted = median(|| assert!(switch.macs(vni).count() as f64 >= endpoints));
    while out.pop().is_some() {}

    let whole = plan(&directory, vni);
    let scene = whole.scene();
    let grown = resident() - before;

    let derived = median(|| drop(plan(&directory, vni)));
    let mut other = whole.clone();
    if let Some(vxlan) = &mut other.vxlan {
        vxlan.endpoints.insert(mac(EACH), vtep(77));
    }
    let same = median(|| assert!(diff(&scene, Some(&whole)).is_empty()));
    let one = median(|| assert_eq!(diff(&scene, Some(&other)).len(), 1));
    let nothing = plan_without(&whole).scene();
    let all = median(|| assert!(diff(&nothing, Some(&whole)).len() as f64 >= endpoints));

    println!("one network, {PEERS} peers, {endpoints} endpoints; medians of {ROUNDS}\n");
    println!("| | |\n| --- | --- |");
    println!("| records taken in, without signatures | {accepted:.1} ms |");
    println!("| FDB and neighbours set anew | {learned:.1} ms |");
    println!("| FDB with addresses listed, as for `meshd fdb` | {listed:.1} ms |");
    println!("| FDB counted, as for `meshd status` | {counted:.2} ms |");
    println!("| plan derived | {derived:.1} ms |");
    println!("| diff, nothing changed | {same:.2} ms |");
    println!("| diff, one endpoint moved | {one:.2} ms |");
    println!("| diff, all of it is new | {all:.2} ms |");
    println!(
        "| memory for an endpoint, everything that it has a share in | {:.0} bytes |",
        grown / endpoints
    );
}

/// The same network before it knew of anybody.
fn plan_without(plan: &NetworkPlan) -> NetworkPlan {
    let mut empty = plan.clone();
    if let Some(vxlan) = &mut empty.vxlan {
        vxlan.endpoints.clear();
        vxlan.probes.clear();
        vxlan.floods.clear();
        vxlan.fence.clear();
    }
    empty
}
