//! Frames over a session, as lanes send and read them.
#![allow(clippy::unwrap_used)]

use super::tests::{Party, pair, party};
use super::*;
use crate::quic::SendError;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::UdpSocket;
use std::time::Instant;

async fn proven() -> (Party, Party, [SessionId; 2], [Connection; 2]) {
    let (a, b, at_a, at_b) = pair().await;
    let connections = [
        a.underlay.prove(at_a).unwrap(),
        b.underlay.prove(at_b).unwrap(),
    ];
    // The drop of frames stops at the reader's next turn.
    tokio::time::sleep(Duration::from_millis(50)).await;
    (a, b, [at_a, at_b], connections)
}

/// The next `count` datagrams.
async fn read(connection: &Connection, count: usize) -> VecDeque<Bytes> {
    let mut heard = VecDeque::new();
    let all = async {
        while heard.len() < count {
            let rest = count - heard.len();
            connection.datagrams(&mut heard, rest).await.unwrap();
        }
    };
    let _ = timeout(Duration::from_secs(5), all).await;
    heard
}

fn numbered(number: usize, length: usize) -> Bytes {
    let mut datagram = vec![0; length];
    datagram[..8].copy_from_slice(&number.to_be_bytes());
    datagram.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_arrives_in_order_and_what_does_not_fit_is_said() {
    let (_a, _b, _, [from, to]) = proven().await;
    let mut taken = 0;
    {
        let mut outgoing = from.outgoing();
        let most = outgoing.max_size().unwrap();
        let long = Bytes::from(vec![0; most + 1]);
        assert_eq!(outgoing.push(long), Err(SendError::TooLarge));
        let full = loop {
            match outgoing.push(numbered(taken, 1000)) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full, SendError::Full);
        assert!(taken > 500 && outgoing.space() < 2000, "{taken}");
        outgoing.flush();
    }
    let heard = read(&to, taken).await;
    // A machine with other work may overflow the far end's socket.
    assert!(heard.len() > taken / 2, "{} of {taken}", heard.len());
    let numbers: Vec<u64> = heard
        .iter()
        .map(|datagram| u64::from_be_bytes(datagram[..8].try_into().unwrap()))
        .collect();
    assert!(numbers.is_sorted_by(|before, after| before < after));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_while_somebody_sends_is_heard_when_he_is_done() {
    let (_a, _b, _, [from, to]) = proven().await;
    let held = to.outgoing();
    for number in 0..20 {
        let mut outgoing = from.outgoing();
        outgoing.push(numbered(number, 100)).unwrap();
        outgoing.flush();
    }
    // The reader must not wait for us, or it would hear nobody else.
    std::thread::sleep(Duration::from_millis(200));
    drop(held);
    let mut heard = VecDeque::new();
    while to.take_datagrams(&mut heard, 64).unwrap().is_some() {}
    assert_eq!(heard.len(), 20, "without waiting for anything");
}

#[tokio::test]
async fn a_short_datagram_does_not_keep_what_it_was_read_into() {
    let (_a, _b, _, [from, to]) = proven().await;
    let mut kept = Vec::new();
    let before = resident();
    for number in 0..2000 {
        let mut outgoing = from.outgoing();
        outgoing.push(numbered(number, 8)).unwrap();
        outgoing.flush();
        kept.extend(read(&to, 1).await);
    }
    let grown = resident().saturating_sub(before);
    assert!(kept.len() > 1000);
    assert!(grown < 32 << 20, "{grown} bytes for {}", kept.len());
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test]
async fn an_endpoint_that_nobody_has_gives_its_socket_back() {
    let (a, mut b, _, connections) = proven().await;
    let address = a.address;
    drop(connections);
    a.underlay.close().await;
    drop(a);
    b.closed().await;
    let began = Instant::now();
    while let Err(error) = UdpSocket::bind(address) {
        assert!(began.elapsed() < Duration::from_secs(10), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_before_the_far_end_is_proven_is_kept_up_to_a_megabyte() {
    let (a, b, at_a, at_b) = pair().await;
    let from = b.underlay.prove(at_b).unwrap();
    for number in 0..3000 {
        loop {
            let mut outgoing = from.outgoing();
            let pushed = outgoing.push(numbered(number, 1000));
            outgoing.flush();
            match pushed {
                Ok(()) => break,
                Err(error) => assert_eq!(error, SendError::Full),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let to = a.underlay.prove(at_a).unwrap();
    let kept = read(&to, 985).await;
    // A machine with other work may overflow the socket: then some are missing in between.
    assert!(kept.len() > 500, "{}", kept.len());
    let mut more = VecDeque::new();
    while to.take_datagrams(&mut more, 64).unwrap().is_some() {}
    assert!(kept.len() + more.len() < 1050, "{}", more.len());
    let mut outgoing = from.outgoing();
    outgoing.push(Bytes::from_static(b"and on")).unwrap();
    outgoing.flush();
    assert_eq!(read(&to, 1).await, ["and on"]);
}

#[tokio::test]
async fn a_connection_that_broke_down_is_over_and_takes_nobody_with_it() {
    let (mut a, mut b, [at_a, _], connections) = proven().await;
    let (mut c, at_c) = {
        let mut c = party().await;
        c.underlay.dial(a.id, vec![a.address]);
        let ((at_c, _), _) = (c.connected().await, a.connected().await);
        (c, at_c)
    };
    connections[0].break_down();
    let reason = a.closed().await;
    assert!(reason.contains("met a bug"), "{reason}");
    assert_eq!(connections[0].outgoing().max_size(), None);
    assert!(a.underlay.stats(at_a).is_none());
    // The far end is told that nobody knows the connection any more, or hears nothing.
    b.closed().await;
    let message = Message::Goodbye(Goodbye::Refused("still here".to_owned()));
    c.underlay.send(at_c, message.clone());
    assert_eq!(a.message().await, message);
    c.underlay.hangup(at_c, "done".into());
    a.closed().await;
    c.closed().await;
}
