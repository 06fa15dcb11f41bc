//! The gate at real devices: two containers on one bridge, and the daemon's switch beside it.

use super::super::*;
use super::{frames, pair};
use crate::kernel::PortTap;
use crate::kernel::tests::{Container, kernel, on_a_host, transfer, wiring};
use meshd_core::ident::MacAddr;
use meshd_core::superframe::Unit;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.unwrap().success(), "ip {words}");
}

async fn index(netlink: &Netlink, name: &str) -> u32 {
    let link = netlink.link_by_name(name.as_bytes()).await.unwrap();
    link.unwrap().index
}

/// Frames that the switch of the daemon saw.
#[derive(Default)]
struct Seen {
    ipv4: AtomicUsize,
    arp: AtomicUsize,
    longest: AtomicUsize,
}

/// A switch of two ports, which counts.
fn switch(one: PortTap, other: PortTap) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let (one, other) = (Arc::new(one), Arc::new(other));
    for (from, to) in [(Arc::clone(&one), Arc::clone(&other)), (other, one)] {
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut frame = vec![0; 65536];
            while let Ok((header, len)) = from.read(&mut frame).await {
                let frame = &frame[..len];
                let unit = Unit::of(frame, header.gso_size).unwrap();
                let counter = match frame[12..14] {
                    [8, 0] => &seen.ipv4,
                    [8, 6] => &seen.arp,
                    _ => continue,
                };
                counter.fetch_add(unit.frames() as usize, Ordering::SeqCst);
                seen.longest.fetch_max(unit.longest(), Ordering::SeqCst);
                while to.try_write(&header, frame).is_err() {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    seen
}

impl Seen {
    /// IPv4 frames since the last time, when the last words of a connection have come through.
    async fn take(&self) -> usize {
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.ipv4.swap(0, Ordering::SeqCst)
    }
}

#[test]
fn open_traffic_stays_in_the_kernel_and_all_other_reaches_the_daemon() {
    on_a_host(async || {
        let (kernel, _events) = kernel(1).await;
        let netlink = Netlink::here().unwrap();
        let (one, other) = (Container::start(), Container::start());
        let wirings = [
            wiring(1, one.netns(), b"eth0", &["10.7.0.2/24"]),
            wiring(2, other.netns(), b"eth0", &["10.7.0.3/24"]),
        ];
        let (a, b) = (
            kernel.wire(&wirings[0]).await.unwrap(),
            kernel.wire(&wirings[1]).await.unwrap(),
        );
        ip("link add br0 type bridge mcast_snooping 0");
        let gate = Gate::make().unwrap();
        let mut keys = Vec::new();
        for (port, far) in [(1, 2), (2, 1)] {
            let (veth, tap) = (
                index(&netlink, &format!("mv{port}")).await,
                index(&netlink, &format!("mt{port}")).await,
            );
            let program = gate.port_program(tap, 1450).unwrap();
            attach(&netlink, veth, &program, "-gate").await.unwrap();
            ip(&format!("link set mv{port} master br0"));
            keys.push(Key {
                device: veth,
                src_mac: MacAddr([2, 0, 0, 0, 0, port]),
                dst_mac: MacAddr([2, 0, 0, 0, 0, far]),
                ether_type: 0x0800,
                flow: None,
            });
        }
        ip("link set br0 up");
        let seen = switch(a.tap, b.tap);
        let target = "10.7.0.3".parse().unwrap();
        let bytes = 8 << 20;

        let slow = transfer(&one, &other, target, bytes).await;
        assert!(
            seen.take().await > bytes / 1450,
            "closed: all of it goes up"
        );
        gate.set_path(3, true).unwrap();
        for key in &keys {
            gate.open(key, &Entry::new(0, 3)).unwrap();
        }
        let fast = transfer(&one, &other, target, bytes).await;
        assert_eq!(seen.take().await, 0, "open: none of it goes up");
        println!(
            "through the daemon's switch {slow:.0} Mbit/s, through the bridge {fast:.0} Mbit/s"
        );
        let counted = gate.entry(&keys[0]).unwrap().unwrap();
        assert!(counted.bytes > bytes as u64 && counted.packets > bytes as u64 / 1450);
        let back = gate.entry(&keys[1]).unwrap().unwrap();
        let path = gate.path(3).unwrap();
        assert_eq!(path.sent_packets, counted.packets + back.packets);
        assert_eq!(path.sent_bytes, counted.bytes + back.bytes);

        gate.set_epoch(1);
        transfer(&one, &other, target, 1 << 20).await;
        assert!(seen.take().await > 0, "a new epoch: all of it goes up");
        for key in &keys {
            gate.open(key, &Entry::new(1, 3)).unwrap();
        }
        transfer(&one, &other, target, 1 << 20).await;
        assert_eq!(seen.take().await, 0);
        gate.set_path(3, false).unwrap();
        transfer(&one, &other, target, 1 << 20).await;
        assert!(
            seen.take().await > 0,
            "the path is closed: all of it goes up"
        );
        gate.set_path(3, true).unwrap();

        // What the container does to its own interface.
        assert!(seen.longest.swap(0, Ordering::SeqCst) <= 1464);
        assert!(seen.arp.load(Ordering::SeqCst) > 0);
        one.run(|| {
            ip("link set eth0 mtu 1454");
            let mut ping = Command::new("ping");
            ping.args(["-c1", "-W1", "-Mdo", "-s", "1426", "10.7.0.3"]);
            let _ = ping.output().unwrap();
        })
        .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(seen.longest.load(Ordering::SeqCst), 1454 + 14);
    });
}

#[test]
fn each_frame_that_the_daemon_has_to_see_reaches_it_as_it_was() {
    on_a_host(async || {
        let netlink = Netlink::here().unwrap();
        let tap = |name: &str| {
            let tap = tokio_tun::Tun::builder().name(name).tap().up().build();
            tap.unwrap().pop().unwrap()
        };
        let (port, daemon) = (tap("t0"), tap("t1"));
        let device = index(&netlink, "t0").await;
        let gate = Gate::make().unwrap();
        let program = gate
            .port_program(index(&netlink, "t1").await, 1450)
            .unwrap();
        attach(&netlink, device, &program, "-gate").await.unwrap();
        for ether_type in [0x0806, 0x0800, 0x86dd, 0x8100, 0x88a8, 46] {
            let key = Key {
                device,
                ether_type,
                ..pair(0)
            };
            gate.open(&key, &Entry::new(0, 0)).unwrap();
        }
        let mut frame = vec![0; 65536];
        for (what, sent) in frames::for_the_daemon() {
            port.send(&sent).await.unwrap();
            // The host's own chatter comes as well.
            let found = async {
                loop {
                    let len = daemon.recv(&mut frame).await.unwrap();
                    if frame[..len] == sent {
                        return;
                    }
                }
            };
            let found = tokio::time::timeout(Duration::from_secs(2), found).await;
            assert!(found.is_ok(), "{what} never came");
        }
        let counted = gate.entries().unwrap();
        assert!(
            counted.iter().all(|(_, entry)| entry.packets == 0),
            "{counted:?}"
        );
    });
}

#[test]
fn a_gate_is_found_again_with_all_that_is_open_after_its_maker_is_gone() {
    on_a_host(async || {
        let netlink = Netlink::here().unwrap();
        ip("link add d0 type veth peer name d1");
        ip("link add e0 type veth peer name e1");
        let (device, foreign) = (index(&netlink, "d0").await, index(&netlink, "e0").await);
        let key = Key {
            device,
            src_mac: MacAddr([2; 6]),
            dst_mac: MacAddr([4; 6]),
            ether_type: 0x0800,
            flow: None,
        };
        assert_eq!(attached(&netlink, device).await, Ok(None));
        let before = {
            let gate = Gate::make().unwrap();
            let program = gate.port_program(1, 1450).unwrap();
            attach(&netlink, device, &program, "-gate").await.unwrap();
            gate.open(&key, &Entry::new(4, 9)).unwrap();
            gate.set_epoch(4);
            gate.set_path(9, true).unwrap();
            gate.entries().unwrap()
        };
        // A plain patch is ours too, but has no gate.
        redirect(&netlink, foreign, device).await.unwrap();
        let patch = attached(&netlink, foreign).await.unwrap().unwrap();
        assert!(Gate::adopt(patch).unwrap().is_none());

        let gate = Gate::find(&netlink, [foreign, device])
            .await
            .unwrap()
            .unwrap();
        assert_eq!(gate.entries().unwrap(), before);
        assert_eq!((gate.epoch(), gate.path(9).unwrap().open), (4, true));
        // And another program in its place keeps it.
        let first = attached(&netlink, device).await.unwrap();
        let program = gate.vxlan_program(1, 1450).unwrap();
        attach(&netlink, device, &program, "-gate").await.unwrap();
        assert_ne!(attached(&netlink, device).await.unwrap(), first);
        drop((gate, program));
        let gate = Gate::find(&netlink, [device]).await.unwrap().unwrap();
        assert_eq!(gate.entries().unwrap(), before);
        // The kernel lets the first program go a little later.
        let mut gone = Ok(());
        for _ in 0..100 {
            gone = Gate::adopt(first.unwrap()).map(|_| ());
            if gone.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(gone, Err(("read the program (bpf) of", Errno::ENOENT)));
    });
}

#[test]
fn a_filter_of_others_is_not_taken_for_ours() {
    on_a_host(async || {
        let netlink = Netlink::here().unwrap();
        ip("link add d0 type veth peer name d1");
        let device = index(&netlink, "d0").await;
        for words in [
            "qdisc add dev d0 clsact",
            "filter add dev d0 ingress prio 5 protocol all bpf bytecode 1,6/0/0/0",
        ] {
            // The four numbers of a classic instruction are one word.
            let words = words.split_whitespace().map(|word| word.replace('/', " "));
            let status = Command::new("tc").args(words.clone()).status();
            assert!(status.unwrap().success(), "tc {words:?}");
        }
        assert_eq!(attached(&netlink, device).await, Ok(None));
        redirect(&netlink, device, 1).await.unwrap();
        assert!(attached(&netlink, device).await.unwrap().is_some());
    });
}
