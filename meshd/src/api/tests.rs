//! The API as a client meets it: a real socket, a small backend.
#![allow(clippy::unwrap_used)]

mod devices;

use super::backend::{Answer, Backend, DropFilter};
use super::capture::CaptureWish;
use super::client::{Client, ClientError, Followed};
use super::requests::{AttachWish, ByteInput, Invite, InviteWish, TraceWish};
use super::socket::Socket;
use super::told::Told;
use crate::api::{Doors, Rules};
use crate::events::{Past, Wanted};
use crate::rulings::Rulings;
use crate::store::Store;
use bytes::Bytes;
use meshd_core::code::{ErrorCode, RefusalKind};
use meshd_core::command::{
    AttachSpec, Command, IpSpec, NetnsRef, PortRoute, Refusal, Reply, TraceSpec,
};
use meshd_core::config::{Declared, DeviceConfig, DeviceName, unknown_device};
use meshd_core::flow::Origin;
use meshd_core::ident::{Epoch, IfName, Label, MacAddr, NodeId, PortId, Vni};
use meshd_core::kind::PortKind;
use meshd_core::notice::Notice;
use meshd_core::view;
use meshd_core::wire::record::Role;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

#[derive(Clone)]
struct Fake(Arc<Inner>);

struct Inner {
    commands: Mutex<Vec<Command>>,
    traced: Mutex<Option<TraceSpec>>,
    filtered: Mutex<DropFilter>,
    events: broadcast::Sender<view::Event>,
    rulings: Rulings,
    declared: Mutex<Declared>,
    /// While it is held for writing, commands wait.
    held: tokio::sync::RwLock<()>,
}

fn not_here<T>() -> Answer<T> {
    Err(Refusal {
        code: ErrorCode::NetworkExists,
        message: "not here".to_owned(),
    })
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn event(seq: u64) -> view::Event {
    view::Event::of(seq, 0, Notice::Epoch { epoch: Epoch(seq) })
}

impl Backend for Fake {
    async fn command(&self, command: Command) -> Answer<Reply> {
        let _held = self.0.held.read().await;
        self.0.commands.lock().unwrap().push(command);
        Ok(Reply::Done)
    }
    async fn invite(&self, wish: InviteWish) -> Answer<Invite> {
        Ok(Invite {
            token: format!("meshd1{}", wish.ttl_s),
            expires_at_ms: 1,
        })
    }
    async fn status(&self) -> Answer<view::Status> {
        not_here()
    }
    async fn members(&self) -> Answer<Vec<view::Member>> {
        Ok(vec![])
    }
    async fn peers(&self) -> Answer<Vec<view::Peer>> {
        Ok(vec![])
    }
    async fn paths(&self) -> Answer<Vec<view::Path>> {
        Ok(vec![])
    }
    async fn networks(&self) -> Answer<Vec<view::Network>> {
        Ok(vec![demo()])
    }
    async fn docker(&self) -> Answer<crate::docker::Status> {
        not_here()
    }
    async fn docker_tidy(&self) -> Answer<crate::docker::Tidied> {
        not_here()
    }
    async fn set_docker(&self, _: Option<crate::docker::Settings>) -> Answer<()> {
        not_here()
    }
    async fn ports(&self) -> Answer<Vec<view::Port>> {
        Ok(vec![web()])
    }
    async fn fdb(&self) -> Answer<Vec<view::FdbEntry>> {
        Ok(vec![attic()])
    }
    async fn connections(&self) -> Answer<Vec<view::Connection>> {
        Ok(Vec::new())
    }

    async fn flows(&self) -> Answer<Vec<view::Flow>> {
        Ok(vec![])
    }
    async fn groups(&self) -> Answer<Vec<view::Listeners>> {
        Ok(Vec::new())
    }
    async fn vteps(&self) -> Answer<Vec<view::VtepRow>> {
        Ok(vec![])
    }
    async fn drops_where(&self, filter: DropFilter) -> Answer<Vec<view::Drops>> {
        *self.0.filtered.lock().unwrap() = filter;
        Ok(vec![])
    }
    async fn capture(
        &self,
        wish: CaptureWish,
    ) -> Answer<futures_util::stream::BoxStream<'static, Result<Bytes, std::convert::Infallible>>>
    {
        let told = format!("{:?} {} {:?}", wish.subject, wish.text, wish.format);
        Ok(Box::pin(futures_util::stream::iter([Ok(Bytes::from(
            told,
        ))])))
    }
    async fn balance(&self) -> Answer<Vec<view::Balance>> {
        Ok(vec![])
    }
    async fn devices(&self) -> Answer<Vec<view::Device>> {
        let merged = self.0.declared.lock().unwrap().merge();
        Ok(crate::devices::told(&[], &merged))
    }
    async fn device(&self, name: &str) -> Answer<view::Device> {
        let mut rows = self.devices().await?.into_iter();
        let row = rows.find(|row| row.name.text == name);
        row.ok_or_else(|| unknown_device(name))
    }
    async fn put_device(&self, device: DeviceConfig) -> Answer<view::Device> {
        let name = device.name().to_string();
        {
            let mut declared = self.0.declared.lock().unwrap();
            *declared = declared.put(device)?;
        }
        self.device(&name).await
    }
    async fn remove_device(&self, name: DeviceName) -> Answer<()> {
        let mut declared = self.0.declared.lock().unwrap();
        *declared = declared.remove(&name)?;
        Ok(())
    }
    async fn doctor(&self) -> Answer<view::Doctor> {
        Ok(view::Doctor::default())
    }
    async fn trace(&self, spec: TraceSpec) -> Answer<view::TraceReport> {
        *self.0.traced.lock().unwrap() = Some(spec);
        not_here()
    }
    async fn trace_on(&self, _: NodeId, _: Vni, _: String) -> Answer<view::TraceReport> {
        not_here()
    }
    fn events(&self, wanted: &Wanted) -> Past {
        // Number 3 is both remembered and on its way.
        let coming = self.0.events.subscribe();
        for seq in [3, 4] {
            self.0.events.send(event(seq)).unwrap();
        }
        let remembered = (1..=3).map(event);
        Past {
            events: remembered.filter(|event| wanted.takes(event)).collect(),
            missed: 0,
            anew: false,
            coming,
        }
    }
    fn rulings(&self) -> Rulings {
        self.0.rulings.clone()
    }
}

pub(super) fn demo() -> view::Network {
    view::Network {
        name: label("demo"),
        vni: vni(),
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
        mtu: 1450,
        author: here(),
        since_at_ms: 0,
        service: vec![],
        domain: "demo.mesh.internal".to_owned(),
        ports_here: 1,
        endpoints: 2,
        nodes: vec![here()],
        plugins: 0,
        away: Vec::new(),
        bridges: Vec::new(),
    }
}

pub(crate) fn web() -> view::Port {
    view::Port {
        id: PortId(3),
        network: "demo".to_owned(),
        vni: vni(),
        netns: view::ByteText::of(b"/run/netns/web"),
        ifname: view::ByteText::of(b"eth0"),
        mac: MacAddr([2, 0, 0, 0, 0, 3]),
        ips: vec!["10.0.0.3/24".parse().unwrap()],
        leased: vec![],
        name: Some(label("web")),
        domain_name: None,
        labels: BTreeMap::new(),
        since_at_ms: 0,
        mtu: None,
        routes: vec![],
        vrf: None,
        owner: None,
        state: view::PortState::Ready,
        reason: None,
        kind: PortKind::Veth,
        link: true,
        device: None,
        devices: vec![],
        queues: vec![5, 7],
        learned: 0,
        stp_root: None,
        kernel: view::KernelTraffic::default(),
        traffic: view::Traffic::default(),
    }
}

pub(super) fn attic() -> view::FdbEntry {
    view::FdbEntry {
        network: "demo".to_owned(),
        vni: vni(),
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        port: None,
        node: view::NodeRef {
            id: NodeId([9; 32]),
            name: Some(label("attic")),
        },
        kind: view::FdbKind::Remote,
        ips: vec!["10.0.0.9".parse().unwrap()],
        name: None,
        idle_s: None,
    }
}

fn here() -> view::NodeRef {
    view::NodeRef {
        id: NodeId([1; 32]),
        name: Some(label("here")),
    }
}

struct Scene {
    client: Client,
    backend: Fake,
    socket: PathBuf,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    _folder: tempfile::TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (inputs, _) = tokio::sync::mpsc::channel(8);
    let rulings = Rulings::start(
        Store::open(&state).unwrap(),
        &state,
        inputs,
        crate::compiler::Trust::default(),
        Arc::new(crate::controllers::Nowhere),
    )
    .unwrap();
    let backend = Fake(Arc::new(Inner {
        commands: Mutex::default(),
        traced: Mutex::default(),
        filtered: Mutex::default(),
        events: broadcast::channel(16).0,
        rulings,
        declared: Mutex::default(),
        held: tokio::sync::RwLock::default(),
    }));
    let path = folder.path().join("sock");
    let socket = Socket::bind(&path).unwrap();
    let doors = Doors {
        socket,
        rules: Rules::default(),
        tcp: None,
    };
    let server = tokio::spawn(super::serve(doors, backend.clone()));
    Scene {
        client: Client::new(&path),
        backend,
        socket: path,
        server,
        _folder: folder,
    }
}

fn refused(result: Result<Value, ClientError>) -> Told {
    match result {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refusal_comes_through_as_it_was_said() {
    let scene = scene();
    let refusal = refused(scene.client.get("/v1/status").await);
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (ErrorCode::NetworkExists, "not here")
    );
    assert_eq!(
        refused(scene.client.get("/v1/nothing").await).kind,
        RefusalKind::NotFound
    );
    assert_eq!(
        refused(scene.client.post("/v1/status", &json!({})).await).kind,
        RefusalKind::Invalid
    );
}

#[tokio::test]
async fn what_is_wrong_with_path_query_or_method_is_told_as_everything_else() {
    let scene = scene();
    for (request, status) in [
        ("DELETE /v1/ports/%ff", 400),
        ("GET /v1/events?after=-1", 400),
        ("GET /v1/events?behind=1", 400),
        ("GET /v1/peers?verbose=true", 400),
        ("PUT /v1/peers", 405),
        ("GET /v1/peer", 404),
        ("GET /v1/peers", 200),
    ] {
        let answer = raw(
            &scene,
            &format!("{request} HTTP/1.1\r\nhost: meshd\r\n\r\n"),
        )
        .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            body["message"].is_string(),
            status != 200,
            "{request}: {body}"
        );
    }
}

/// All that comes back for these bytes, until the far end closes.
async fn raw(scene: &Scene, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::UnixStream::connect(&scene.socket)
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn half_requests_keep_nobody_waiting_and_end_by_themselves() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let scene = scene();
    let mut halves = Vec::new();
    for n in 0..300 {
        let mut half = tokio::net::UnixStream::connect(&scene.socket)
            .await
            .unwrap();
        let text: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /v1/version HT",
            _ => b"POST /v1/networks HTTP/1.1\r\nhost: m\r\ncontent-length: 9\r\n\r\n{",
        };
        half.write_all(text).await.unwrap();
        halves.push(half);
    }
    let start = std::time::Instant::now();
    assert!(scene.client.get::<Value>("/v1/version").await.is_ok());
    assert!(start.elapsed() < std::time::Duration::from_secs(1));
    let mut head = halves.swap_remove(1);
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(
        std::time::Duration::from_secs(8),
        head.read_to_end(&mut answer),
    );
    assert!(ended.await.is_ok());
}

#[tokio::test]
async fn a_wrong_body_is_refused_with_its_place_and_reaches_no_node() {
    let scene = scene();
    for body in [
        "{",
        "{\"ttl_s\": 60, \"rule\": \"member\"}",
        "{\"ttl_s\": 0, \"role\": \"member\"}",
    ] {
        let answer = scene
            .client
            .post_bytes("/v1/invites", Bytes::from_static(body.as_bytes()))
            .await;
        let refusal = refused(answer);
        assert_eq!(refusal.kind, RefusalKind::Invalid, "{refusal}");
    }
    let large = refused(
        scene
            .client
            .post_bytes("/v1/networks", Bytes::from(vec![b' '; 2 << 20]))
            .await,
    );
    assert_eq!(large.kind, RefusalKind::Invalid, "{large}");
    let relative = json!({"network": "demo", "netns": "web", "ifname": "eth0", "ip": "auto"});
    assert!(
        refused(scene.client.post("/v1/ports", &relative).await)
            .message
            .contains("no absolute path")
    );
    assert!(scene.backend.0.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn names_of_any_bytes_reach_the_node_as_they_are() {
    let scene = scene();
    let wish = AttachWish {
        network: "demo".to_owned(),
        netns: Some(ByteInput::of(b"/run/netns/\xff")),
        ifname: ByteInput::of(b"-\xfe%d"),
        ip: IpSpec::Fixed(vec!["10.0.0.5/24".parse().unwrap()]),
        mac: None,
        name: None,
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        mtu: Some(1400),
        routes: vec![PortRoute {
            to: "0.0.0.0/0".parse().unwrap(),
            via: Some("10.0.0.9".parse().unwrap()),
        }],
        vrf: None,
        owner: Some("cni/demo/1/eth0".parse().unwrap()),
        kind: PortKind::Veth,
    };
    // The small backend makes no port.
    assert_eq!(
        refused(scene.client.post("/v1/ports", &wish).await).kind,
        RefusalKind::Failed
    );
    let spec = AttachSpec {
        network: "demo".to_owned(),
        netns: NetnsRef::Path(b"/run/netns/\xff".to_vec()),
        ifname: IfName::new(b"-\xfe%d").unwrap(),
        ip: wish.ip.clone(),
        mac: None,
        name: None,
        labels: wish.labels.clone(),
        mtu: wish.mtu,
        routes: wish.routes.clone(),
        vrf: None,
        owner: wish.owner.clone(),
        kind: PortKind::Veth,
    };
    assert_eq!(
        *scene.backend.0.commands.lock().unwrap(),
        [Command::Attach(spec)]
    );
}

#[tokio::test]
async fn a_path_segment_carries_any_text() {
    let scene = scene();
    let member = "a/b?c=%20 d\u{e9}";
    scene
        .client
        .delete(&format!("/v1/members/{}", super::client::segment(member)))
        .await
        .unwrap();
    assert_eq!(
        *scene.backend.0.commands.lock().unwrap(),
        [Command::Revoke {
            member: member.to_owned()
        }]
    );
}

#[tokio::test]
async fn an_invite_is_made_within_its_bounds() {
    let scene = scene();
    let wish = InviteWish {
        ttl_s: 60,
        role: Role::Member,
        labels: BTreeMap::new(),
    };
    assert_eq!(
        scene
            .client
            .post::<Invite>("/v1/invites", &wish)
            .await
            .unwrap()
            .token,
        "meshd160"
    );
    let forever = InviteWish {
        ttl_s: u64::MAX,
        ..wish
    };
    assert_eq!(
        refused(scene.client.post("/v1/invites", &forever).await).kind,
        RefusalKind::Invalid
    );
}

#[tokio::test]
async fn a_change_goes_on_when_its_client_is_gone() {
    use tokio::io::AsyncWriteExt;
    let scene = scene();
    let held = scene.backend.0.held.write().await;
    let mut stream = tokio::net::UnixStream::connect(&scene.socket)
        .await
        .unwrap();
    let request = "DELETE /v1/networks/demo HTTP/1.1\r\nhost: meshd\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    drop(stream);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(scene.backend.0.commands.lock().unwrap().is_empty());
    drop(held);
    for _ in 0..500 {
        if !scene.backend.0.commands.lock().unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it was given up half way");
}

#[tokio::test]
async fn followers_see_each_event_once_and_in_order() {
    let scene = scene();
    let mut seen = Vec::new();
    scene
        .client
        .follow("/v1/events?follow=true&after=1", |followed| {
            let Followed::Event(event) = followed else {
                panic!("{followed:?}")
            };
            seen.push(event.seq);
            event.seq < 4
        })
        .await
        .unwrap();
    assert_eq!(seen, [2, 3, 4]);
}

async fn traced(packet: &str) -> Result<TraceSpec, Told> {
    let scene = scene();
    let wish = TraceWish {
        network: "demo".to_owned(),
        packet: packet.to_owned(),
        on: None,
    };
    let refusal = refused(scene.client.post("/v1/trace", &wish).await);
    let spec = scene.backend.0.traced.lock().unwrap().take();
    spec.ok_or(refusal)
}

#[tokio::test]
async fn a_traced_packet_comes_from_who_has_its_source_and_goes_to_who_has_its_destination() {
    let (web, attic) = ([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 9]);
    for (packet, origin, src, dst) in [
        (
            "icmp 10.0.0.3 > 10.0.0.9",
            Origin::Port(PortId(3)),
            web,
            attic,
        ),
        (
            "icmp 10.0.0.9 > 10.0.0.3",
            Origin::Peer(NodeId([9; 32])),
            attic,
            web,
        ),
        (
            "icmp 10.0.0.9 > 10.0.0.3 from web",
            Origin::Port(PortId(3)),
            web,
            web,
        ),
        (
            "icmp 10.0.0.77 > 10.0.0.3 from peer attic",
            Origin::Peer(NodeId([9; 32])),
            attic,
            web,
        ),
        (
            "udp 10.0.0.3:1 > 192.0.2.1:53 via 10.0.0.9",
            Origin::Port(PortId(3)),
            web,
            attic,
        ),
        (
            "udp 10.0.0.3:1 > 10.0.0.255:53",
            Origin::Port(PortId(3)),
            web,
            [0xff; 6],
        ),
        (
            "arp who-has 10.0.0.44 tell 10.0.0.3",
            Origin::Port(PortId(3)),
            web,
            [0xff; 6],
        ),
    ] {
        let spec = traced(packet).await.unwrap();
        assert_eq!(
            (spec.origin, &spec.frame[6..12], &spec.frame[..6]),
            (origin, &src[..], &dst[..]),
            "{packet}"
        );
    }
}

#[tokio::test]
async fn a_packet_that_nobody_would_send_is_refused_with_what_to_write_instead() {
    for (packet, words) in [
        ("icmp 10.0.0.3 > 10.0.0.44", "`arp who-has 10.0.0.44"),
        ("icmp 10.0.0.44 > 10.0.0.3", "`from PORT`"),
        ("icmp 10.0.0.3 > 192.0.2.1", "`via ADDRESS`"),
        ("icmp 10.0.0.3 > 10.0.0.9 from db", "no port \"db\""),
        ("icmp 10.0.0.3 < 10.0.0.9", "\n                ^"),
    ] {
        let refusal = traced(packet).await.unwrap_err();
        assert!(refusal.message.contains(words), "{refusal}");
    }
}

#[tokio::test]
async fn no_daemon_is_told_from_a_daemon_that_broke() {
    let scene = scene();
    let elsewhere = Client::new(&scene.socket.with_extension("none"));
    assert!(matches!(
        elsewhere.get::<Value>("/v1/status").await,
        Err(ClientError::NoDaemon { .. })
    ));
    assert_eq!(
        scene.client.get::<Value>("/v1/plugins").await.unwrap(),
        json!([])
    );
    let junk = Bytes::from_static(b"not wasm");
    assert_eq!(
        refused(scene.client.post_bytes("/v1/plugins/acl", junk).await).kind,
        RefusalKind::Invalid
    );
}

#[tokio::test]
async fn drops_are_narrowed_by_names_that_are_found_and_by_nothing_else() {
    use crate::api::backend::DropFilter;
    use meshd_core::ruling::DropReason;
    let scene = scene();
    let ask = async |query: &str| {
        scene
            .client
            .get::<Vec<view::Drops>>(&format!("/v1/drops{query}"))
            .await
    };
    let asked = || *scene.backend.0.filtered.lock().unwrap();
    ask("").await.unwrap();
    assert_eq!(asked(), DropFilter::default());
    ask("?network=demo&port=web.demo&reason=too-long")
        .await
        .unwrap();
    assert_eq!(
        asked(),
        DropFilter {
            vni: Some(vni()),
            origin: Some(Origin::Port(PortId(3))),
            reason: Some(DropReason::TooLong),
        }
    );
    for (query, words) in [
        ("?network=nowhere", "no network"),
        ("?port=9", "no port \"9\""),
        ("?peer=x", "no peer \"x\""),
        ("?reason=bad-luck", "too-long"),
        ("?port=web&peer=x", "one of the two"),
        ("?colour=red", "colour"),
    ] {
        let error = ask(query).await.unwrap_err().to_string();
        assert!(error.contains(words), "{query}: {error}");
    }
}
