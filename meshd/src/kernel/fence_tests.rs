//! The fence against the real kernel, with real VXLAN packets from another network namespace.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kernel::network_tests::{output, run, spec, vni};
use crate::kernel::tests::{Container, kernel, on_a_host};
use crate::kernel::{Kernel, NetworkRole};
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

const V4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const V6: [&str; 3] = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];

/// A host `1` in this namespace and an outside with two addresses, `2` and `3`.
async fn outside() -> Container {
    let outside = Container::start();
    let path = String::from_utf8(outside.netns_path()).unwrap();
    run("ip link set lo up");
    run(&format!(
        "ip link add u0 type veth peer name u1 netns {path}"
    ));
    run("ip link set u0 up");
    run("ip addr add 192.0.2.1/24 dev u0");
    run("ip addr add 2001:db8::1/64 dev u0 nodad");
    outside
        .run(|| {
            run("ip link set u1 up");
            for last in [2, 3] {
                run(&format!("ip addr add 192.0.2.{last}/24 dev u1"));
                run(&format!("ip addr add 2001:db8::{last}/64 dev u1 nodad"));
            }
        })
        .await;
    outside
}

/// A VXLAN packet with a broadcast frame of `len` bytes.
fn packet(number: u32, len: usize) -> Vec<u8> {
    let [_, a, b, c] = number.to_be_bytes();
    let mut packet = vec![8, 0, 0, 0, a, b, c, 0];
    packet.extend([0xff; 6]);
    packet.extend([2, 9, 9, 9, 9, 9, 0x88, 0xb5]);
    packet.resize(packet.len() + len.saturating_sub(14), 0);
    packet
}

/// Sends from an address of the outside to the host.
async fn send(outside: &Container, from: &str, port: u16, payload: Vec<u8>) {
    let from: IpAddr = from.parse().unwrap();
    let to: IpAddr = if from.is_ipv4() { V4[0] } else { V6[0] }.parse().unwrap();
    outside
        .run(move || {
            let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
            socket.send_to(&payload, SocketAddr::new(to, port)).unwrap();
        })
        .await;
}

/// Packets that a device received.
fn received(device: &str) -> u64 {
    let all = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = all
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(&format!("{device}:")));
    let line = line.unwrap().to_owned();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn state(members: &[(&str, u32)], vnis: &[u32]) -> FenceState {
    FenceState {
        port: 4789,
        vnis: vnis.iter().map(|number| vni(*number)).collect(),
        members: members
            .iter()
            .map(|(ip, number)| (ip.parse().unwrap(), vni(*number)))
            .collect(),
        dropped: 0,
    }
}

async fn whole(fence: &Fence) -> FenceState {
    match fence.read().await.unwrap() {
        FenceReading::Whole(state) => state,
        other => panic!("{other:?}"),
    }
}

async fn dropped(kernel: &Kernel) -> u64 {
    whole(kernel.fence()).await.dropped
}

#[test]
fn a_members_vxlan_gets_in_and_a_strangers_or_another_networks_does_not() {
    on_a_host(async || {
        let outside = outside().await;
        for [host, member, stranger] in [V4, V6] {
            let (one, _events) = kernel(1).await;
            let fence = one.fence();
            assert_eq!(fence.read().await.unwrap(), FenceReading::Missing);
            let wanted = state(&[(member, 7)], &[7, 9]);
            fence.write(&wanted).await.unwrap();
            assert_eq!(whole(fence).await, wanted);
            for number in [7, 9] {
                one.make_vxlan(&spec(number, host)).await.unwrap();
                one.set_up(vni(number), NetworkRole::Vxlan, true)
                    .await
                    .unwrap();
            }
            run(&format!(
                "ip link add other type vxlan id 1000 dstport 4789 local {host}"
            ));
            run("ip link set other up");

            send(&outside, member, 4789, packet(7, 100)).await;
            assert_eq!((received("mx7"), dropped(&one).await), (1, 0));
            send(&outside, stranger, 4789, packet(7, 100)).await;
            assert_eq!((received("mx7"), dropped(&one).await), (1, 1));
            send(&outside, member, 4789, packet(9, 100)).await;
            assert_eq!((received("mx9"), dropped(&one).await), (0, 2));
            // The VNI of others is their affair.
            send(&outside, stranger, 4789, packet(1000, 100)).await;
            assert_eq!((received("other"), dropped(&one).await), (1, 2));
            // Too short to tell whose it is.
            send(&outside, stranger, 4789, packet(7, 14)[..6].to_vec()).await;
            assert_eq!(dropped(&one).await, 3);
            // In fragments.
            send(&outside, stranger, 4789, packet(7, 4000)).await;
            assert_eq!((received("mx7"), dropped(&one).await), (1, 4));
            send(&outside, member, 4789, packet(7, 4000)).await;
            assert_eq!((received("mx7"), dropped(&one).await), (2, 4));
            // Bits in the reserved byte before the VNI change nothing.
            let mut odd = packet(7, 100);
            odd[3] = 1;
            send(&outside, stranger, 4789, odd).await;
            assert_eq!((received("mx7"), dropped(&one).await), (2, 5));
            // Another port is not fenced.
            let echo = UdpSocket::bind(format!("[::]:{}", 4999)).unwrap();
            send(&outside, stranger, 4999, packet(7, 100)).await;
            assert_eq!(echo.recv(&mut [0; 200]).unwrap(), 108);

            let (add, remove) = (
                [(stranger.parse().unwrap(), vni(7))],
                [(member.parse().unwrap(), vni(7))],
            );
            fence.change(&add, &remove).await.unwrap();
            for from in [member, stranger] {
                send(&outside, from, 4789, packet(7, 100)).await;
            }
            assert_eq!((received("mx7"), dropped(&one).await), (3, 6));
            let absent = fence.change(&[], &remove).await.unwrap_err();
            println!("{absent}");
            // Written otherwise, and altered and repaired, the count goes on.
            fence.write(&state(&[], &[7])).await.unwrap();
            assert_eq!(dropped(&one).await, 6);
            run("nft flush ruleset");
            let from_seven = FenceState {
                dropped: 7,
                ..wanted.clone()
            };
            fence.write(&from_seven).await.unwrap();
            assert_eq!(whole(fence).await, from_seven);
            println!("{}", output("nft list ruleset"));
            let moved = FenceState {
                port: 4790,
                ..from_seven
            };
            fence.write(&moved).await.unwrap();
            assert_eq!(whole(fence).await, moved);
            drop(one);

            // It outlives the daemon.
            let (again, _events) = kernel(1).await;
            assert_eq!(whole(again.fence()).await, moved);
            again.fence().remove().await.unwrap();
            again.fence().remove().await.unwrap();
            assert_eq!(output("nft list ruleset"), "");
            for number in [7, 9] {
                assert_eq!(again.remove_network(vni(number)).await, []);
            }
            run("ip link del other");
        }
    });
}

/// IPv6 fragments of a VXLAN packet from the outside's second address: the first ends `cut` bytes into what follows the
/// fragment header, which is a UDP header, behind an empty header of destination options if `hidden`.
fn fragments(number: u32, cut: usize, hidden: bool) -> [Vec<u8>; 2] {
    use crate::kernel::vtap::kernel_tests::sum;
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let (from, to) = (address(V6[2]), address(V6[0]));
    let payload = packet(number, 100);
    let len = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
    let mut udp = [
        &[0x30, 0x39, 0x12, 0xb5, len[0], len[1], 0, 0][..],
        &payload,
    ]
    .concat();
    let pseudo = [&from[..], &to, &[0, 0], &len, &[0, 0, 0, 17]].concat();
    let check = !sum(&[&pseudo, &udp]);
    udp[6..8].copy_from_slice(&check.to_be_bytes());
    let whole = if hidden {
        [&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp].concat()
    } else {
        udp
    };
    let (one, other) = whole.split_at(cut);
    let fragment = |at: usize, more: u16, part: &[u8]| {
        let len = u16::try_from(part.len() + 8).unwrap().to_be_bytes();
        let offset = (u16::try_from(at).unwrap() | more).to_be_bytes();
        let next = if hidden { 60 } else { 17 };
        let head = [0x60, 0, 0, 0, len[0], len[1], 44, 64];
        let id = [0, 0, u8::try_from(cut).unwrap(), u8::from(hidden)];
        let extension = [&[next, 0, offset[0], offset[1]][..], &id].concat();
        [&head[..], &from, &to, &extension, part].concat()
    };
    [fragment(0, 1, one), fragment(cut, 0, other)]
}

#[test]
fn ipv6_fragments_that_hide_the_vni_do_not_get_in() {
    on_a_host(async || {
        let outside = outside().await;
        let (one, _events) = kernel(1).await;
        one.make_vxlan(&spec(7, V6[0])).await.unwrap();
        one.set_up(vni(7), NetworkRole::Vxlan, true).await.unwrap();
        let send = async |cut, hidden| {
            let to: SocketAddr = format!("[{}]:0", V6[0]).parse().unwrap();
            let sender = outside.run(move || {
                use socket2::{Domain, Protocol, Socket, Type};
                let raw = Type::RAW;
                // IPPROTO_RAW: whole packets, with their headers.
                let socket = Socket::new(Domain::IPV6, raw, Some(Protocol::from(255))).unwrap();
                for fragment in fragments(7, cut, hidden) {
                    socket.send_to(&fragment, &to.into()).unwrap();
                }
            });
            sender.await;
            // Put together and delivered at once.
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        send(8, false).await;
        assert_eq!(received("mx7"), 1, "without a fence they do");
        one.fence()
            .write(&state(&[(V6[1], 7)], &[7]))
            .await
            .unwrap();
        for (cut, hidden) in [(8, false), (16, false), (24, false), (8, true), (16, true)] {
            send(cut, hidden).await;
            println!(
                "cut {cut}, hidden {hidden}: {} dropped",
                dropped(&one).await
            );
            assert_eq!(received("mx7"), 1, "cut {cut}, hidden {hidden}");
        }
    });
}

#[test]
fn a_table_of_our_name_without_our_mark_is_left_alone() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let name = one.fence().table.clone();
        run(&format!("nft add table inet {name}"));
        assert_eq!(one.fence().read().await.unwrap(), FenceReading::Foreign);
        let refused = one.fence().write(&state(&[], &[7])).await.unwrap_err();
        println!("{refused}");
        one.fence().remove().await.unwrap();
        assert!(output("nft list tables").contains(&name));
    });
}

#[test]
fn whatever_others_do_to_the_fence_is_told_at_once_and_repaired() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let fence = one.fence();
        let table = format!("inet {}", fence.table);
        let wanted = state(
            &[("192.0.2.2", 7), ("2001:db8::2", 7), ("192.0.2.3", 9)],
            &[7, 9],
        );
        let mut watch = fence.watch().unwrap();
        fence.write(&wanted).await.unwrap();
        let quiet = async |watch: &mut FenceWatch, what: &str| {
            let told = tokio::time::timeout(Duration::from_millis(150), watch.changed()).await;
            assert!(told.is_err(), "told for nothing: {what}");
        };
        fence
            .change(&[("192.0.2.9".parse().unwrap(), vni(7))], &[])
            .await
            .unwrap();
        fence.write(&wanted).await.unwrap();
        quiet(&mut watch, "our own changes").await;
        run("nft add table inet other");
        run("nft add chain inet other input { type filter hook input priority 0 ; }");
        quiet(&mut watch, "another table").await;
        let handle = |chain: &str, words: &str| {
            let listed = output(&format!("nft -a list chain {table} {chain}"));
            let line = listed.lines().find(|line| line.contains(words)).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        let deeds = [
            "nft flush ruleset".to_owned(),
            format!("nft delete table {table}"),
            format!("nft flush table {table}"),
            format!("nft flush chain {table} vxlan"),
            format!("nft flush chain {table} input"),
            format!("nft flush set {table} vnis"),
            format!("nft delete element {table} vnis {{ 0x7 }}"),
            format!("nft delete element {table} members4 {{ 192.0.2.2 . 0x7 }}"),
            format!("nft add element {table} members4 {{ 192.0.2.66 . 0x7 }}"),
            format!("nft add element {table} members6 {{ 2001:db8::66 . 0x7 }}"),
            format!("nft insert rule {table} input accept"),
            format!("nft insert rule {table} vxlan udp length 100 accept"),
            format!(
                "nft delete rule {table} vxlan handle {}",
                handle("vxlan", "drop")
            ),
            format!("nft add table {table} {{ flags dormant ; }}"),
            format!("nft add chain {table} extra"),
            format!("nft add chain {table} input {{ policy drop ; }}"),
        ];
        let mut took = Vec::new();
        for (number, deed) in deeds.iter().enumerate() {
            // The rule has another handle by now.
            let deed = if deed.contains(" handle ") {
                format!(
                    "nft delete rule {table} vxlan handle {}",
                    handle("vxlan", "drop")
                )
            } else {
                deed.clone()
            };
            run(&deed);
            let done = Instant::now();
            let told = tokio::time::timeout(Duration::from_secs(2), watch.changed()).await;
            told.unwrap_or_else(|_| panic!("{deed}: not told")).unwrap();
            took.push(done.elapsed());
            let reading = fence.read().await.unwrap();
            assert_ne!(reading, FenceReading::Whole(wanted.clone()), "{deed}");
            if number < 2 {
                assert_eq!(reading, FenceReading::Missing);
            }
            let shown = match &reading {
                FenceReading::Whole(_) => "other elements".to_owned(),
                other => format!("{other:?}"),
            };
            println!("{deed}: told {:?} after it; {shown}", took[number]);
            fence.write(&wanted).await.unwrap();
            assert_eq!(whole(fence).await, wanted, "{deed}");
            quiet(&mut watch, "the repair").await;
        }
        // As the kernel tells it, not by looking now and then. The median: a busy machine wakes the reader late now and then.
        took.sort();
        assert!(
            took[took.len() / 2] < Duration::from_millis(100),
            "{took:?}"
        );
    });
}

#[test]
fn while_the_fence_is_made_anew_no_stranger_gets_in() {
    on_a_host(async || {
        let outside = outside().await;
        let (one, _events) = kernel(1).await;
        let fence = one.fence();
        let wanted = state(&[(V4[1], 7)], &[7]);
        fence.write(&wanted).await.unwrap();
        one.make_vxlan(&spec(7, V4[0])).await.unwrap();
        one.set_up(vni(7), NetworkRole::Vxlan, true).await.unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let sender = outside
            .run(move || {
                let socket = UdpSocket::bind(format!("{}:0", V4[2])).unwrap();
                std::thread::spawn(move || {
                    let mut sent = 0u64;
                    while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                        socket.send_to(&packet(7, 100), (V4[0], 4789)).unwrap();
                        sent += 1;
                    }
                    sent
                })
            })
            .await;
        let start = Instant::now();
        for _ in 0..100 {
            let anew = fence.anew(&wanted, 0);
            fence
                .nft("write")
                .unwrap()
                .commit(None, &anew)
                .await
                .unwrap();
        }
        let took = start.elapsed() / 100;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let sent = sender.join().unwrap();
        println!("made anew 100 times, {took:?} each, under {sent} packets of a stranger");
        assert!(sent > 1000);
        assert_eq!(received("mx7"), 0);
    });
}

#[test]
fn ten_thousand_members_are_written_and_changed_quickly() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let fence = one.fence();
        let member = |n: u32| {
            (
                IpAddr::from(0x0a00_0000u32.wrapping_add(n).to_be_bytes()),
                vni(1 + n % 100),
            )
        };
        let mut wanted = FenceState {
            port: 4789,
            vnis: (1..=100).map(vni).collect(),
            members: (0..10_000).map(member).collect(),
            dropped: 0,
        };
        let start = Instant::now();
        fence.write(&wanted).await.unwrap();
        println!("10000 members written in {:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(whole(fence).await, wanted);
        println!("and read in {:?}", start.elapsed());
        let start = Instant::now();
        fence.change(&[member(20_000)], &[member(5)]).await.unwrap();
        println!("one exchanged in {:?}", start.elapsed());
        wanted.members.remove(&member(5));
        wanted.members.insert(member(20_000));
        assert_eq!(whole(fence).await, wanted);
        wanted.members.remove(&member(6));
        let start = Instant::now();
        fence.write(&wanted).await.unwrap();
        println!("one removed by the difference in {:?}", start.elapsed());
        assert_eq!(whole(fence).await, wanted);
    });
}
