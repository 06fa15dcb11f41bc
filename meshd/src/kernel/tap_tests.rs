//! TAPs of several queues against the real kernel.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kernel::tests::on_a_host;
use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::process::Command;

const NAME: &str = "mt7";

fn wish(queues: usize) -> Wish<'static> {
    Wish {
        name: NAME,
        alias: "meshd trial",
        mtu: 1450,
        superframes: true,
        queues,
    }
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.unwrap().success(), "ip {words}");
}

struct Host {
    netlink: Netlink,
    shelf: Shelf,
}

impl Host {
    fn new(shelf: Shelf) -> Self {
        let netlink = Netlink::here().unwrap();
        Self { netlink, shelf }
    }

    async fn try_open(&self, wish: Wish<'_>) -> Result<Vec<PortTap>, StepError> {
        let data = Handle::current();
        let opened = open(&self.netlink, &data, &self.shelf, wish).await?;
        Ok(std::iter::once(opened.tap).chain(opened.more).collect())
    }

    /// Opens it; it is up and reaches neighbours.
    async fn open(&self, wish: Wish<'_>) -> Vec<PortTap> {
        let taps = self.try_open(wish).await.unwrap();
        ip("link set mt7 up");
        ip("address replace 10.7.0.1/24 dev mt7");
        ip("neighbour replace 10.7.0.2 lladdr 02:00:00:00:00:02 dev mt7");
        taps
    }

    async fn link(&self) -> Link {
        let link = self.netlink.link_by_name(NAME.as_bytes()).await;
        link.unwrap().unwrap()
    }
}

const FLOWS: u16 = 64;

/// Sends numbered datagrams of each flow; each number after all flows have sent the one before.
fn send(numbers: std::ops::Range<u8>) {
    let sockets: Vec<UdpSocket> = (0..FLOWS)
        .map(|flow| UdpSocket::bind(("10.7.0.1", 5000 + flow)).unwrap())
        .collect();
    for number in numbers {
        for socket in &sockets {
            socket.send_to(&[number], "10.7.0.2:9").unwrap();
        }
    }
}

/// By flow: the queues in which it was, and the numbers in the order in which they were read.
type Found = BTreeMap<u16, (BTreeSet<usize>, Vec<u8>)>;

/// What the queues have.
fn read(taps: &[PortTap]) -> Found {
    let (mut found, mut frame) = (Found::new(), vec![0; 70_000]);
    for (queue, tap) in taps.iter().enumerate() {
        while let Ok((_, length)) = tap.try_read(&mut frame) {
            // UDP over IPv4 to port 9; the host's own chatter comes as well.
            if length < 43 || frame[12..14] != [8, 0] || frame[23] != 17 || frame[37] != 9 {
                continue;
            }
            let flow = u16::from_be_bytes([frame[34], frame[35]]) - 5000;
            let (queues, numbers) = found.entry(flow).or_default();
            queues.insert(queue);
            numbers.push(frame[42]);
        }
    }
    found
}

/// All flows are whole, in order and each in one queue; answers which queues have any.
fn judge(found: &Found, numbers: &[u8]) -> BTreeSet<usize> {
    assert_eq!(found.len(), usize::from(FLOWS));
    let mut used = BTreeSet::new();
    for (flow, (queues, of)) in found {
        assert_eq!((queues.len(), &of[..]), (1, numbers), "flow {flow}");
        used.extend(queues);
    }
    used
}

#[test]
fn each_flow_has_a_queue_of_its_own_choice_and_a_restart_may_have_any_number_of_them() {
    on_a_host(async || {
        let host = Host::new(Shelf::default());
        let mut index = None;
        for queues in [4, 2, 1, 6, 4] {
            let taps = host.open(wish(queues)).await;
            assert_eq!(taps.len(), queues);
            assert!(taps.iter().all(PortTap::takes_superframes));
            send(0..5);
            let used = judge(&read(&taps), &[0, 1, 2, 3, 4]);
            assert_eq!(used, (0..queues).collect(), "all queues are used");
            // What is written by one of them, answers too, moves no flow.
            let answer = [
                &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5][..],
                &[0; 46],
            ]
            .concat();
            taps[0].try_write(&VnetHeader::default(), &answer).unwrap();
            send(0..2);
            judge(&read(&taps), &[0, 1]);
            let link = host.link().await;
            assert_eq!(super::queues(&link), Some(queues));
            assert_eq!(*index.get_or_insert(link.index), link.index, "it was kept");
        }
        let shown = Command::new("tc")
            .args(["qdisc", "show", "dev", NAME])
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.starts_with("qdisc noqueue"), "{shown}");
    });
}

#[test]
fn a_flow_whose_answers_are_written_elsewhere_stays_in_its_queue() {
    on_a_host(async || {
        let host = Host::new(Shelf::default());
        let taps = host.open(wish(4)).await;
        for round in 0..8 {
            send(round..round + 1);
            // The answer to each flow, by another queue each time: the kernel's own way would move the flow there.
            for flow in 0..FLOWS {
                let port = (5000 + flow).to_be_bytes();
                let ip = [
                    0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 7, 0, 2, 10, 7, 0, 1,
                ];
                let udp = [0, 9, port[0], port[1], 0, 9, 0, 0, 0];
                let ether = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
                let answer = [&ether[..], &ip, &udp].concat();
                let queue = usize::from(round + 1) % taps.len();
                taps[queue]
                    .try_write(&VnetHeader::default(), &answer)
                    .unwrap();
            }
        }
        judge(&read(&taps), &[0, 1, 2, 3, 4, 5, 6, 7]);
    });
}

#[test]
fn a_tap_of_an_earlier_run_keeps_its_kind_and_the_port_works() {
    on_a_host(async || {
        let host = Host::new(Shelf::default());
        let index = {
            let taps = host.open(wish(1)).await;
            assert_eq!(taps.len(), 1);
            host.link().await.index
        };
        let taps = host.open(wish(4)).await;
        assert_eq!((taps.len(), host.link().await.index), (1, index));
        send(0..2);
        judge(&read(&taps), &[0, 1]);
        drop(taps);
        ip("link delete mt7");
        // And one of several queues without superframes.
        drop(host.open(wish(3)).await);
        let plain = Wish {
            superframes: false,
            ..wish(3)
        };
        let taps = host.open(plain).await;
        assert_eq!(taps.len(), 3, "it is as it was made");
        send(0..2);
        judge(&read(&taps), &[0, 1]);
    });
}

#[test]
fn a_queue_that_somebody_else_has_is_told_and_not_shared() {
    on_a_host(async || {
        let host = Host::new(Shelf::default());
        drop(host.open(wish(2)).await);
        let foreign = vtap::open_as(NAME, Kind::Queues).unwrap();
        let refused = host.try_open(wish(2)).await.err();
        assert_eq!(refused, Some(("open", Errno::EBUSY)));
        assert_eq!(
            super::queues(&host.link().await),
            Some(1),
            "ours are closed"
        );
        drop(foreign);
        assert_eq!(host.open(wish(2)).await.len(), 2);
    });
}

#[test]
fn what_waits_in_held_queues_over_a_restart_is_read_after_it() {
    on_a_host(async || {
        let host = Host::new(Shelf::new(BTreeMap::new()));
        drop(host.open(wish(3)).await);
        send(0..4);
        let taps = host.open(wish(3)).await;
        let used = judge(&read(&taps), &[0, 1, 2, 3]);
        assert_eq!(used, (0..3).collect());
        drop(taps);
        // Fewer are wanted, and then more.
        for queues in [2, 4, 1] {
            let taps = host.open(wish(queues)).await;
            assert_eq!(taps.len(), queues);
            assert_eq!(super::queues(&host.link().await), Some(queues));
            send(0..1);
            judge(&read(&taps), &[0]);
            drop(taps);
            assert_eq!(
                super::queues(&host.link().await),
                Some(queues),
                "they are held"
            );
        }
        host.shelf.remove(NAME);
        assert_eq!(super::queues(&host.link().await), Some(0));
    });
}
