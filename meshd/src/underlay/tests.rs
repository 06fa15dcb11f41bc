//! Sessions over loopback: what two nodes say to each other, and what strangers cannot do.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::identity::tests::fresh;
use crate::store::Store;
use bytes::Bytes;
use meshd_core::node::Input;
use meshd_core::wire::control::MESSAGE_MAX;
use std::collections::VecDeque;
use std::net::UdpSocket;
use std::time::Instant;
use tokio::sync::watch;

/// A node of a test, with what its underlay told.
pub(super) struct Party {
    pub(super) underlay: Underlay,
    happened: mpsc::Receiver<Heard>,
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
    _state: (tempfile::TempDir, Store),
}

async fn party_with(inputs_max: usize, listen: &str) -> Party {
    let (folder, store, identity) = fresh("node");
    let (inputs, happened) = mpsc::channel(inputs_max);
    let id = identity.node_id();
    let listen: SocketAddr = listen.parse().unwrap();
    let underlay = Underlay::start(
        UnderlayConfig {
            listen,
            // One reader or two, as it comes.
            readers: 1 + usize::from(id.0[0] & 1),
            links: Vec::new(),
        },
        identity,
        inputs,
        &Handle::current(),
    )
    .unwrap();
    let address = SocketAddr::new(listen.ip(), underlay.local_port());
    Party {
        underlay,
        happened,
        id,
        address,
        _state: (folder, store),
    }
}

pub(super) async fn party() -> Party {
    party_with(1024, "127.0.0.1:0").await
}

impl Party {
    /// What happens next, but for what a path carries: a burst that
    /// overflows a socket of the machine shrinks it at any time.
    async fn next(&mut self) -> Input {
        loop {
            let input = timeout(Duration::from_secs(15), self.happened.recv())
                .await
                .expect("something happens")
                .unwrap()
                .input;
            if !matches!(input, Input::Session(SessionEvent::Shrank { .. })) {
                return input;
            }
        }
    }

    pub(super) async fn connected(&mut self) -> (SessionId, NodeId) {
        match self.next().await {
            Input::Session(SessionEvent::Connected { session, key, .. }) => (session, key),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn message(&mut self) -> Message {
        match self.next().await {
            Input::Message { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn closed(&mut self) -> String {
        loop {
            match self.next().await {
                Input::Session(SessionEvent::Closed { reason, .. }) => return reason,
                Input::Message { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn dial_failed(&mut self) -> String {
        match self.next().await {
            Input::Session(SessionEvent::DialFailed { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn sessions(&self) -> usize {
        self.underlay.state().sessions.len()
    }
}

/// Two nodes with one session, and its number at each.
pub(super) async fn pair() -> (Party, Party, SessionId, SessionId) {
    let (mut a, mut b) = (party().await, party().await);
    a.underlay.dial(b.id, vec![b.address]);
    let (at_a, key_of_b) = a.connected().await;
    let (at_b, key_of_a) = b.connected().await;
    assert_eq!((key_of_a, key_of_b), (a.id, b.id));
    (a, b, at_a, at_b)
}

/// A client of its own making, for bytes that no node sends.
struct Stranger {
    endpoint: Endpoint,
    _state: (tempfile::TempDir, Store),
}

fn stranger(listen: &str) -> Stranger {
    let (folder, store, identity) = fresh("stranger");
    let endpoint = Endpoint::bind(listen.parse().unwrap(), 1, identity.node_key(), false).unwrap();
    Stranger {
        endpoint,
        _state: (folder, store),
    }
}

fn text(text: &str) -> Message {
    Message::Goodbye(Goodbye::Refused(text.to_owned()))
}

#[tokio::test]
async fn messages_go_both_ways_and_frames_once_both_are_proven() {
    let (mut a, mut b, at_a, at_b) = pair().await;
    a.underlay.send(at_a, text("from a"));
    b.underlay.send(at_b, text("from b"));
    assert_eq!(a.message().await, text("from b"));
    assert_eq!(b.message().await, text("from a"));
    let (to_b, from_a) = (
        a.underlay.prove(at_a).unwrap(),
        b.underlay.prove(at_b).unwrap(),
    );
    assert_eq!(
        b.underlay.0.gate.taken(),
        (0, 0),
        "a member takes no place of a stranger"
    );
    // The drop of frames stops at the reader's next turn.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut outgoing = to_b.outgoing();
    outgoing.push(Bytes::from_static(b"frame")).unwrap();
    outgoing.flush();
    let mut heard = VecDeque::new();
    timeout(Duration::from_secs(5), from_a.datagrams(&mut heard, 8))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard, ["frame"]);
    // As large as messages get.
    let large = Message::Swim(vec![7; MESSAGE_MAX - 64]);
    a.underlay.send(at_a, large.clone());
    assert_eq!(b.message().await, large);
    let stats = a.underlay.stats(at_a).unwrap();
    assert!(
        stats.dialed
            && stats.proven
            && stats.remote == b.address
            && stats.mtu >= 1200
            && stats.sent_packets > 0,
        "{stats:?}"
    );
}

#[tokio::test]
async fn a_wildcard_node_is_reached_over_ipv4_and_ipv6() {
    let mut b = party_with(64, "[::]:0").await;
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut a = party_with(64, listen).await;
        let address = SocketAddr::new(a.address.ip(), b.underlay.local_port());
        a.underlay.dial(b.id, vec![address]);
        let (session, _) = a.connected().await;
        match b.next().await {
            Input::Session(SessionEvent::Connected { remote, .. }) => {
                assert_eq!(remote, a.address, "shown without the wrapping")
            }
            other => panic!("{other:?}"),
        }
        a.underlay.hangup(session, "done".into());
        b.closed().await;
    }
}

#[tokio::test]
async fn a_dial_takes_no_key_but_the_expected_one_and_names_both() {
    let (mut a, b) = (party().await, party().await);
    let wanted = NodeId([5; 32]);
    a.underlay.dial(wanted, vec![b.address]);
    let reason = a.dial_failed().await;
    assert!(
        reason.contains(&wanted.to_string()) && reason.contains(&b.id.to_string()),
        "{reason}"
    );
    assert!(reason.contains(&b.address.to_string()), "{reason}");
}

#[tokio::test]
async fn the_first_address_that_leads_to_the_node_wins_and_each_failure_has_its_reason() {
    let (mut a, mut b, other) = (party().await, party().await, party().await);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    a.underlay.dial(
        b.id,
        vec![silent.local_addr().unwrap(), other.address, b.address],
    );
    a.connected().await;
    b.connected().await;
    assert!(began.elapsed() < Duration::from_secs(2));
    a.underlay.dial(
        NodeId([6; 32]),
        vec!["224.0.0.1:1".parse().unwrap(), silent.local_addr().unwrap()],
    );
    let reason = a.dial_failed().await;
    assert!(
        reason.contains("multicast") && reason.contains("no answer within"),
        "{reason}"
    );
    a.underlay.dial(NodeId([6; 32]), vec![]);
    assert!(a.dial_failed().await.contains("no address"));
}

#[tokio::test]
async fn a_newer_dial_takes_the_place_of_an_older_one() {
    let (mut a, b) = (party().await, party().await);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    a.underlay.dial(b.id, vec![silent.local_addr().unwrap()]);
    a.underlay.dial(b.id, vec![b.address]);
    a.connected().await;
    tokio::time::sleep(Duration::from_millis(4500)).await;
    while let Ok(Heard { input, .. }) = a.happened.try_recv() {
        assert!(
            !matches!(input, Input::Session(SessionEvent::DialFailed { .. })),
            "{input:?}"
        );
    }
}

#[tokio::test]
async fn what_was_sent_before_a_hangup_arrives_and_so_does_the_reason() {
    let (a, mut b, at_a, at_b) = pair().await;
    let _frames = b.underlay.prove(at_b).unwrap();
    for n in 0..100u8 {
        a.underlay.send(at_a, Message::Swim(vec![n; 1000]));
    }
    a.underlay.hangup(at_a, "because".into());
    for n in 0..100u8 {
        assert_eq!(b.message().await, Message::Swim(vec![n; 1000]));
    }
    let reason = b.closed().await;
    assert!(reason.contains("because"), "{reason}");
    let (c, mut d, ..) = pair().await;
    let began = Instant::now();
    c.underlay.close().await;
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(d.message().await, Message::Goodbye(Goodbye::Stopping));
    assert!(d.closed().await.contains("the node stops"));
}

#[tokio::test]
async fn one_that_proves_nothing_is_out_after_five_seconds() {
    let (mut a, mut b, ..) = pair().await;
    let began = Instant::now();
    let reasons = (a.closed().await, b.closed().await);
    assert!(began.elapsed() < Duration::from_secs(7));
    assert!(format!("{reasons:?}").contains("not proven"), "{reasons:?}");
    assert_eq!(b.underlay.0.gate.taken(), (0, 0));
}

/// 200 connections from 20 addresses; none says a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_take_a_bounded_number_of_places_and_not_for_long() {
    let mut node = party_with(4096, "127.0.0.1:0").await;
    let strangers: Vec<_> = (0..20)
        .map(|n| stranger(&format!("127.0.1.{}:0", n + 1)))
        .collect();
    let dials = strangers.iter().flat_map(|s| {
        (0..10).map(|_| {
            s.endpoint
                .connect(node.id, node.address, Duration::from_secs(4))
        })
    });
    let results = futures_util::future::join_all(dials).await;
    let open: Vec<_> = results.into_iter().filter_map(Result::ok).collect();
    assert!(
        !open.is_empty() && open.len() <= gate::PLACES,
        "{} connections",
        open.len()
    );
    assert!(node.underlay.0.gate.taken().0 <= gate::PLACES);
    assert!(node.sessions() <= gate::PLACES);
    assert!(
        node.underlay.0.endpoint.quic.open_connections() <= gate::PLACES,
        "no more is kept below either"
    );
    tokio::time::sleep(PROVE_WITHIN + Duration::from_secs(1)).await;
    assert_eq!((node.underlay.0.gate.taken(), node.sessions()), ((0, 0), 0));
    let (mut connected, mut closed) = (0, 0);
    while let Ok(heard) = node.happened.try_recv() {
        match heard.input {
            Input::Session(SessionEvent::Connected { .. }) => connected += 1,
            Input::Session(SessionEvent::Closed { .. }) => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(connected, closed);
    // The door is open again.
    let mut guest = party().await;
    guest.underlay.dial(node.id, vec![node.address]);
    guest.connected().await;
}

#[tokio::test]
async fn garbage_datagrams_do_no_harm() {
    let mut node = party().await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for n in 0..3000usize {
        let mut packet = vec![0; 1 + (n * 37) % 1500];
        for byte in &mut packet {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            *byte = seed as u8;
        }
        if n % 3 == 0 {
            // A long header of version 1, so that the parser goes deeper.
            for (to, from) in packet.iter_mut().zip([0xc0, 0, 0, 0, 1, 8]) {
                *to = from;
            }
        }
        let _ = socket.send_to(&packet, node.address);
    }
    let mut guest = party().await;
    guest.underlay.dial(node.id, vec![node.address]);
    guest.connected().await;
    node.connected().await;
    assert_eq!(node.underlay.0.gate.taken().0, 1);
}

/// What a stranger's first bytes on the stream come to.
async fn end_of(bytes: &[u8], finish: bool) -> String {
    let mut node = party().await;
    let stranger = stranger("127.0.0.1:0");
    let connection = stranger
        .endpoint
        .connect(node.id, node.address, Duration::from_secs(4))
        .await
        .unwrap();
    let (mut stream, _receiver) = connection.open_bi().await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if finish {
        stream.finish().unwrap();
    }
    node.connected().await;
    let began = Instant::now();
    let reason = node.closed().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{reason}");
    reason
}

#[tokio::test]
async fn bytes_that_are_no_message_end_the_session_with_a_reason() {
    let reason = end_of(&[0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff], false).await;
    assert!(reason.contains("does not decode"), "{reason}");
    let reason = end_of(&[0, 0, 0, 0], false).await;
    assert!(reason.contains("does not decode"), "{reason}");
    let reason = end_of(&[0, 0, 0x10, 1], false).await;
    assert!(reason.contains("4097 bytes; at most 4096"), "{reason}");
    let reason = end_of(&[0xff; 64], false).await;
    assert!(reason.contains("4294967295 bytes"), "{reason}");
    let reason = end_of(&[0, 0, 0, 9, 1], true).await;
    assert!(reason.contains("ends within a message"), "{reason}");
}

#[tokio::test]
async fn frames_of_a_stranger_are_dropped_and_cost_no_memory() {
    let mut node = party().await;
    let stranger = stranger("127.0.0.1:0");
    let connection = stranger
        .endpoint
        .connect(node.id, node.address, Duration::from_secs(4))
        .await
        .unwrap();
    let (session, _) = node.connected().await;
    for _ in 0..200 {
        let mut outgoing = connection.outgoing();
        outgoing.push(Bytes::from(vec![0; 1000])).unwrap();
        outgoing.flush();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let frames = node.underlay.prove(session).unwrap();
    let mut heard = VecDeque::new();
    let wait = frames.datagrams(&mut heard, 8);
    assert!(
        timeout(Duration::from_millis(300), wait).await.is_err(),
        "nothing waits"
    );
}

#[tokio::test]
async fn a_node_that_does_not_read_its_inputs_stops_the_reader_not_the_memory() {
    let mut slow = party_with(2, "127.0.0.1:0").await;
    let mut fast = party().await;
    fast.underlay.dial(slow.id, vec![slow.address]);
    let (at_fast, _) = fast.connected().await;
    let (at_slow, _) = slow.connected().await;
    let _ = (
        fast.underlay.prove(at_fast).unwrap(),
        slow.underlay.prove(at_slow).unwrap(),
    );
    // What the windows and the queue hold gets through, late but whole.
    for n in 0..6u8 {
        fast.underlay
            .send(at_fast, Message::Swim(vec![n; 1_000_000]));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for n in 0..6u8 {
        assert_eq!(slow.message().await, Message::Swim(vec![n; 1_000_000]));
    }
    // More than that ends the session.
    for _ in 0..40 {
        fast.underlay
            .send(at_fast, Message::Swim(vec![0; 1_000_000]));
    }
    let reason = fast.closed().await;
    assert!(reason.contains("too slowly"), "{reason}");
}

#[tokio::test]
async fn a_session_reads_a_megabyte_ahead_of_the_node_and_no_more() {
    let (mut a, mut b, at_a, at_b) = pair().await;
    let _ = (
        a.underlay.prove(at_a).unwrap(),
        b.underlay.prove(at_b).unwrap(),
    );
    // The dialer's first word opens the stream.
    a.underlay.send(at_a, text("hello"));
    b.message().await;
    for _ in 0..60 {
        b.underlay.send(at_b, Message::Swim(vec![0; 100_000]));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut waiting = Vec::new();
    while let Ok(heard) = a.happened.try_recv() {
        waiting.push(heard);
    }
    assert_eq!(waiting.len(), 10, "of 60 messages of 100 kB");
    drop(waiting);
    assert_eq!(a.message().await, Message::Swim(vec![0; 100_000]));
}

#[tokio::test]
async fn a_stranger_is_heard_twice_and_then_only_as_a_member() {
    let mut node = party().await;
    let stranger = stranger("127.0.0.1:0");
    let connection = stranger
        .endpoint
        .connect(node.id, node.address, Duration::from_secs(4))
        .await
        .unwrap();
    let (mut say, _hear) = connection.open_bi().await.unwrap();
    let word = text("x").encode().unwrap();
    for _ in 0..1000 {
        say.write_all(&word).await.unwrap();
    }
    let (session, _) = node.connected().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut heard = 0;
    while node.happened.try_recv().is_ok() {
        heard += 1;
    }
    assert_eq!(heard, 2);
    let _frames = node.underlay.prove(session).unwrap();
    assert_eq!(node.message().await, text("x"));
}

#[tokio::test]
async fn a_far_end_that_falls_silent_is_gone_after_four_seconds() {
    let mut node = party().await;
    let (id, address) = (node.id, node.address);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let stranger = stranger("127.0.0.1:0");
            // Leaked, so that nothing says goodbye.
            std::mem::forget(
                stranger
                    .endpoint
                    .connect(id, address, Duration::from_secs(4))
                    .await
                    .unwrap(),
            );
            std::mem::forget(stranger);
        });
        std::mem::forget(runtime);
    });
    let (session, _) = node.connected().await;
    let _frames = node.underlay.prove(session).unwrap();
    let began = Instant::now();
    let reason = node.closed().await;
    assert!(reason.contains("nothing is heard"), "{reason}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Passes packets between whoever writes first and `to`; those to it leave from the socket that is in place at the time.
struct Nat {
    address: SocketAddr,
    moved: watch::Sender<Arc<tokio::net::UdpSocket>>,
}

async fn outside() -> Arc<tokio::net::UdpSocket> {
    Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap())
}

async fn nat(to: SocketAddr) -> Nat {
    let inside = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = inside.local_addr().unwrap();
    let (moved, mut place) = watch::channel(outside().await);
    tokio::spawn(async move {
        let (mut from, mut there, mut back) = (None, vec![0; 65536], vec![0; 65536]);
        loop {
            let socket = Arc::clone(&place.borrow_and_update());
            tokio::select! {
                heard = inside.recv_from(&mut there) => {
                    let (length, who) = heard.unwrap();
                    from = Some(who);
                    socket.send_to(&there[..length], to).await.unwrap();
                }
                heard = socket.recv(&mut back) => {
                    inside.send_to(&back[..heard.unwrap()], from.unwrap()).await.unwrap();
                }
                _ = place.changed() => {}
            }
        }
    });
    Nat { address, moved }
}

#[tokio::test]
async fn a_session_survives_a_change_of_the_dialers_address() {
    let (mut a, mut b) = (party().await, party().await);
    let nat = nat(b.address).await;
    a.underlay.dial(b.id, vec![nat.address]);
    let ((at_a, _), (at_b, _)) = (a.connected().await, b.connected().await);
    let _ = (
        a.underlay.prove(at_a).unwrap(),
        b.underlay.prove(at_b).unwrap(),
    );
    let moved = outside().await;
    let address = moved.local_addr().unwrap();
    nat.moved.send_replace(moved);
    a.underlay.send(at_a, text("still here"));
    assert_eq!(b.message().await, text("still here"));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(b.underlay.stats(at_b).unwrap().remote, address);
    b.underlay.send(at_b, text("you too"));
    assert_eq!(a.message().await, text("you too"));
}
