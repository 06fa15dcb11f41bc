//! How long a look at a large mesh takes: a daemon alone, whose state says that it has 500 peers and 10,000 endpoints.
#![allow(clippy::unwrap_used)]

use meshd::identity::Identity;
use meshd::store::{Change, Store};
use meshd_core::ident::{Label, MacAddr, MeshId, NodeId, Vni, WallTime};
use meshd_core::state::{self, RecordKind, StateKey};
use meshd_core::wire::record::{
    Endpoint, Endpoints, Keyring, Membership, NetworkDef, NodeAdvert, Record, Role, Signed,
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PEERS: u32 = 500;
const ENDPOINTS_EACH: u32 = 20;
const MEASURE: Duration = Duration::from_millis(20);

/// A member's own key.
struct Member(Ed25519KeyPair);

impl Keyring for Member {
    fn node(&self) -> NodeId {
        NodeId(self.0.public_key().as_ref().try_into().unwrap())
    }
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).as_ref().try_into().unwrap()
    }
    fn sign_as_root(&self, _: &[u8]) -> Option<[u8; 64]> {
        None
    }
    fn verify(&self, _: &[u8; 32], _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
    fn hash(&self, message: &[u8]) -> [u8; 32] {
        ring::digest::digest(&ring::digest::SHA256, message)
            .as_ref()
            .try_into()
            .unwrap()
    }
}

fn keep(kind: RecordKind, node: NodeId, vni: Option<Vni>, signed: &Signed) -> Change {
    let key = StateKey::Record(kind, node, vni).encode();
    (key, Some(state::encode(signed)))
}

/// The state of a node that has heard of all of them.
fn large_mesh(dir: &Path) {
    let store = Store::open(dir).unwrap();
    let label = |text: &str| -> Label { text.parse().unwrap() };
    let identity = Identity::init(&store, &label("large"), &label("here")).unwrap();
    let mesh: MeshId = identity.mesh();
    let vni = Vni::new(77).unwrap();
    let now = WallTime(1_700_000_000_000);
    let network = Record::Network(NetworkDef {
        author: identity.node_id(),
        serial: 1,
        since: now,
        vni,
        name: label("lan"),
        subnets: vec!["10.64.0.0/10".parse().unwrap()],
        mtu: 1450,
        removed: false,
    });
    let me = identity.node_id();
    let network = network.sign(mesh, &identity).unwrap();
    let mut rows = vec![
        keep(RecordKind::Membership, me, None, identity.membership()),
        keep(RecordKind::Network, me, Some(vni), &network),
    ];
    for n in 1..=PEERS {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        let member = Member(Ed25519KeyPair::from_seed_unchecked(&seed).unwrap());
        let node = member.node();
        let membership = Record::Membership(Membership {
            mesh,
            node,
            name: label(&format!("node{n}")),
            role: Role::Member,
            labels: BTreeMap::new(),
            serial: 1,
            issued: now,
            expires: None,
        });
        let signed = membership.sign(mesh, &identity).unwrap();
        rows.push(keep(RecordKind::Membership, node, None, &signed));
        let [.., high, low] = n.to_be_bytes();
        let advert = Record::Node(NodeAdvert {
            node,
            serial: 1,
            boot: 1,
            addresses: vec![format!("192.0.2.{}:{}", low, 20_000 + n).parse().unwrap()],
            networks: vec![vni],
            version: "0".to_owned(),
            vtep: None,
            trusted: Vec::new(),
            links: Vec::new(),
            services: Vec::new(),
        });
        rows.push(keep(
            RecordKind::Node,
            node,
            None,
            &advert.sign(mesh, &member).unwrap(),
        ));
        let endpoint = |m: u32| {
            let [.., third] = m.to_be_bytes();
            Endpoint {
                mac: MacAddr([2, 1, 0, high, low, third]),
                ips: vec![
                    format!("10.65.{}.{}", n / 2, (n % 2) * 100 + m)
                        .parse()
                        .unwrap(),
                ],
                name: Some(label(&format!("e{n}-{m}"))),
                labels: BTreeMap::new(),
                since: now,
                roams: false,
            }
        };
        let endpoints = Record::Endpoints(Endpoints {
            node,
            vni,
            serial: 1,
            list: (1..=ENDPOINTS_EACH).map(endpoint).collect(),
        });
        let signed = endpoints.sign(mesh, &member).unwrap();
        rows.push(keep(RecordKind::Endpoints, node, Some(vni), &signed));
    }
    store.commit(&rows).unwrap();
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(socket: &Path, path: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: m\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

#[test]
#[ignore = "a figure, taken by name: cargo test -p meshd --test status -- --ignored --nocapture"]
fn status_takes_less_than_20_ms_with_500_members_and_the_records_of_10000_endpoints() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT CHECKED: it takes root to give a daemon a network namespace of its own");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (state, socket) = (folder.path().join("state"), folder.path().join("sock"));
    large_mesh(&state);
    let daemon = Command::new("unshare")
        .args(["--net", "--", env!("CARGO_BIN_EXE_meshd"), "run"])
        .env("MESHD_STATE", &state)
        .env("MESHD_SOCKET", &socket)
        .env("MESHD_CONFIG", "/dev/null")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _daemon = Daemon(daemon);
    let end = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = get(&socket, "/v1/status") {
            break status;
        }
        assert!(Instant::now() < end, "no daemon answers");
        std::thread::sleep(Duration::from_millis(100));
    };
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["members"], PEERS + 1);
    let peers = get(&socket, "/v1/peers").unwrap();
    let peers: serde_json::Value = serde_json::from_str(&peers).unwrap();
    assert_eq!(peers.as_array().map(Vec::len), Some(PEERS as usize));
    let median = |path: &str| {
        let mut times: Vec<Duration> = (0..41)
            .map(|_| {
                let start = Instant::now();
                assert!(get(&socket, path).is_some());
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (status, scrape) = (median("/v1/status"), median("/metrics"));
    eprintln!(
        "{PEERS} peers, {} endpoints: status {status:?}, metrics {scrape:?}",
        PEERS * ENDPOINTS_EACH
    );
    assert!(status < MEASURE, "{status:?}");
}
