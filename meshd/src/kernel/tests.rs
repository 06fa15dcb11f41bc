//! The kernel's side against the real kernel, each test in a network namespace of its own that no process shares.
#![allow(clippy::unwrap_used)]

use super::*;
use meshd_core::command::{DnsHint, NetnsRef, PortRoute};
use meshd_core::ident::{Label, Vni};
use meshd_core::kind::PortKind;
use meshd_core::node::KernelEvent;
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs a test on a thread in a new network namespace, which stands for a host.
pub(in crate::kernel) fn on_a_host<T: Send + 'static>(
    test: impl AsyncFnOnce() -> T + Send + 'static,
) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!(
            "SKIPPED, NOT TESTED: needs root for network namespaces: {}",
            std::thread::current().name().unwrap_or("?")
        );
        return;
    }
    let host = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A network namespace that a thread keeps; it ends with this value, as that of a container does.
pub(in crate::kernel) struct Container {
    path: Vec<u8>,
    keeper: Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
}

impl Container {
    pub(in crate::kernel) fn start() -> Self {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(format!(
                "/proc/{}/task/{}/ns/net",
                std::process::id(),
                nix::unistd::gettid()
            ))
            .unwrap();
            let _ = stopped.recv();
        });
        Self {
            path: told.recv().unwrap().into_bytes(),
            keeper: Some((stop, thread)),
        }
    }

    pub(in crate::kernel) fn netns_path(&self) -> Vec<u8> {
        self.path.clone()
    }

    pub(super) fn netns(&self) -> NetnsRef {
        NetnsRef::Path(self.path.clone())
    }

    /// Runs `job` inside; the answer comes when it is done.
    pub(in crate::kernel) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        inside(&self.netns(), job).await
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.keeper.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

async fn inside<T: Send + 'static>(
    netns: &NetnsRef,
    job: impl FnOnce() -> T + Send + 'static,
) -> T {
    Netns::open(netns).unwrap().inside(job).await.unwrap()
}

/// Of the ports of nodes with an odd number.
const GSO_MAX: u32 = 50_000;
const UNDERLAY: &str = "[::]:7650";

pub(in crate::kernel) async fn kernel(node: u8) -> (Kernel, mpsc::Receiver<Input>) {
    let (events, received) = mpsc::channel(64);
    let config = KernelConfig {
        mesh: MeshId([1; 32]),
        node: NodeId([node; 32]),
        underlay: UNDERLAY.parse().unwrap(),
        // Nodes with an odd number: both kinds of TAPs are tried.
        superframes: node % 2 == 1,
        queues: 1,
        gso_max: (node % 2 == 1).then_some(GSO_MAX),
        data: tokio::runtime::Handle::current(),
        taps: Shelf::default(),
    };
    (
        Kernel::start(config, Moment(0), events).await.unwrap(),
        received,
    )
}

pub(super) fn wiring(id: u32, netns: NetnsRef, ifname: &[u8], ips: &[&str]) -> PortWiring {
    let ifname = IfName::new(ifname).unwrap();
    let [_, _, a, b] = id.to_be_bytes();
    PortWiring {
        port: PortRecord {
            id: PortId(id),
            vni: Vni::new(7).unwrap(),
            kind: PortKind::Veth,
            netns,
            ifname: ifname.clone(),
            mac: MacAddr([2, 0, 0, 0, a, b]),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            leased: Vec::new(),
            name: None::<Label>,
            labels: BTreeMap::new(),
            since: 0,
            ready: false,
            file: None,
            asked_ifname: ifname,
            mtu: None,
            routes: Vec::new(),
            vrf: None,
            owner: None,
        },
        mtu: 1450,
        dns: None,
    }
}

/// The names of the devices of the namespace that this thread is in.
pub(super) async fn devices() -> Vec<String> {
    let links = Netlink::here().unwrap().links().await.unwrap();
    links
        .iter()
        .map(|link| meshd_core::ident::escape(&link.name))
        .filter(|name| name != "lo")
        .collect()
}

async fn next_event(
    events: &mut mpsc::Receiver<Input>,
    wanted: impl Fn(&KernelEvent) -> bool,
) -> KernelEvent {
    let found = async {
        loop {
            match events.recv().await {
                Some(Input::Kernel(event)) if wanted(&event) => return event,
                Some(_) => {}
                None => panic!("no more events"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), found)
        .await
        .expect("the event comes within 5 s")
}

/// A switch of two ports.
fn switch(one: PortTap, other: PortTap) {
    let (one, other) = (Arc::new(one), Arc::new(other));
    for (from, to) in [(Arc::clone(&one), Arc::clone(&other)), (other, one)] {
        tokio::spawn(async move {
            let mut frame = vec![0; 65536];
            while let Ok((header, len)) = from.read(&mut frame).await {
                let frame = frame.get(..len).unwrap_or_default();
                while to.try_write(&header, frame).is_err() {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
}

/// Sends `bytes` bytes of a pattern from one container to the other and checks each; answers the rate in Mbit/s.
pub(super) async fn transfer(
    from: &Container,
    to: &Container,
    address: IpAddr,
    bytes: usize,
) -> f64 {
    let listener = to
        .run(move || TcpListener::bind((address, 9000)).unwrap())
        .await;
    let sink = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut seen) = (vec![0u8; 1 << 16], 0usize);
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return seen,
                len => {
                    assert!(
                        buffer
                            .iter()
                            .take(len)
                            .enumerate()
                            .all(|(at, &byte)| byte == ((seen + at) % 251) as u8),
                        "the bytes that were sent"
                    );
                    seen += len;
                }
            }
        }
    });
    let start = Instant::now();
    let mut stream = from
        .run(move || TcpStream::connect_timeout(&(address, 9000).into(), Duration::from_secs(3)))
        .await
        .expect("a TCP connection");
    tokio::task::spawn_blocking(move || {
        let pattern: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        stream.write_all(&pattern).unwrap();
    })
    .await
    .unwrap();
    assert_eq!(sink.await.unwrap(), bytes);
    bytes as f64 * 8e-6 / start.elapsed().as_secs_f64()
}

#[test]
fn containers_reach_each_other_over_wired_ports_by_tcp_and_udp_on_ipv4_and_ipv6_at_any_mtu() {
    on_a_host(async || {
        for mtu in [1450, 9000] {
            let (kernel, _events) = kernel(1).await;
            let (one, other) = (Container::start(), Container::start());
            let mut wire_one = wiring(1, one.netns(), b"eth0", &["10.7.0.2/24", "fd07::2/64"]);
            let route = |to: &str| PortRoute {
                to: to.parse().unwrap(),
                via: None,
            };
            wire_one.port.routes = vec![route("10.8.0.0/24"), route("fd08::/64")];
            wire_one.mtu = mtu;
            let mut wire_other = wiring(
                2,
                other.netns(),
                b"eth0",
                &["10.7.0.3/24", "10.8.0.3/24", "fd07::3/64"],
            );
            wire_other.mtu = mtu;
            let start = Instant::now();
            let (a, b) = (
                kernel.wire(&wire_one).await.unwrap(),
                kernel.wire(&wire_other).await.unwrap(),
            );
            println!("two ports wired in {:?}", start.elapsed());
            assert_eq!(
                (a.mac, a.ifname.as_bytes()),
                (wire_one.port.mac, &b"eth0"[..])
            );
            switch(a.tap, b.tap);
            for address in ["10.7.0.3", "fd07::3"] {
                let rate = transfer(&one, &other, address.parse().unwrap(), 32 << 20).await;
                println!(
                    "MTU {mtu}, TCP to {address} through two patches and a switch in user space: {rate:.0} Mbit/s"
                );
                let rate = transfer(
                    &other,
                    &one,
                    address.replace('3', "2").parse().unwrap(),
                    4 << 20,
                )
                .await;
                println!("and back: {rate:.0} Mbit/s");
            }
            // Through the extra route, and back by the first subnet.
            let echo = other.run(|| UdpSocket::bind("10.8.0.3:9").unwrap()).await;
            let sent = one.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).await;
            let done = tokio::task::spawn_blocking(move || {
                sent.send_to(&vec![9; 3 * usize::from(mtu)], "10.8.0.3:9")
                    .unwrap();
                echo.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                echo.recv_from(&mut [0; 65536]).unwrap().0
            });
            assert_eq!(
                done.await.unwrap(),
                3 * usize::from(mtu),
                "a datagram of three fragments"
            );
            for wiring in [wire_one, wire_other] {
                assert_eq!(kernel.unwire(&wiring.port).await, Vec::<String>::new());
            }
            assert_eq!(devices().await, Vec::<String>::new());
        }
    });
}

#[test]
fn the_host_ends_of_a_port_say_nothing_of_their_own() {
    on_a_host(async || {
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        let (kernel, _events) = kernel(1).await;
        let one = Container::start();
        let wiring = wiring(1, one.netns(), b"eth0", &["10.7.0.2/24"]);
        let wired = kernel.wire(&wiring).await.unwrap();
        let mut frame = [0; 2048];
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        while let Ok(read) = tokio::time::timeout_at(until, wired.tap.read(&mut frame)).await {
            let (_, len) = read.unwrap();
            assert_eq!(
                frame.get(6..12).unwrap(),
                wiring.port.mac.0,
                "a frame of {len} bytes that is not the container's"
            );
        }
    });
}

#[test]
fn a_restarted_daemon_adopts_its_ports_and_repairs_what_differs() {
    on_a_host(async || {
        let (one, other) = (Container::start(), Container::start());
        let (wire_one, mut wire_other) = (
            wiring(1, one.netns(), b"eth0", &["10.7.0.2/24"]),
            wiring(2, other.netns(), b"eth%d", &["10.7.0.3/24"]),
        );
        let before = {
            let (kernel, _events) = kernel(1).await;
            let (a, b) = (
                kernel.wire(&wire_one).await.unwrap(),
                kernel.wire(&wire_other).await.unwrap(),
            );
            assert_eq!(b.ifname.as_bytes(), b"eth0");
            drop((a, b));
            Netlink::here().unwrap().links().await.unwrap()
        };
        // What a careless person does meanwhile.
        other
            .run(|| {
                assert!(
                    Command::new("ip")
                        .args(["addr", "del", "10.7.0.3/24", "dev", "eth0"])
                        .status()
                        .unwrap()
                        .success()
                )
            })
            .await;
        other
            .run(|| {
                assert!(
                    Command::new("ip")
                        .args(["link", "set", "eth0", "down"])
                        .status()
                        .unwrap()
                        .success()
                )
            })
            .await;
        for args in [
            &["filter", "del", "dev", "mv2", "ingress"][..],
            &["qdisc", "del", "dev", "mt2", "clsact"],
        ] {
            assert!(Command::new("tc").args(args).status().unwrap().success());
        }
        wire_other.mtu = 4000;
        let mut wire_one = wire_one;
        wire_one.mtu = 4000;

        let (kernel, _events) = kernel(1).await;
        let (a, b) = (
            kernel.wire(&wire_one).await.unwrap(),
            kernel.wire(&wire_other).await.unwrap(),
        );
        let after = Netlink::here().unwrap().links().await.unwrap();
        let indices = |links: &[netlink::Link]| {
            links
                .iter()
                .map(|link| (link.index, link.name.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(indices(&before), indices(&after));
        let mtu_of = |name: &[u8]| after.iter().find(|link| link.name == name).unwrap().mtu;
        assert_eq!(mtu_of(b"mt2"), 4000);
        assert_eq!(
            mtu_of(b"mv2"),
            65_535,
            "what is too long gets to the switch"
        );
        other
            .run(|| {
                let mut ip = Command::new("ip");
                let shown = ip.args(["-d", "link", "show", "eth0"]).output().unwrap();
                let shown = String::from_utf8(shown.stdout).unwrap();
                assert!(
                    shown.contains(&format!("gso_max_size {GSO_MAX} ")),
                    "{shown}"
                );
            })
            .await;
        switch(a.tap, b.tap);
        transfer(&one, &other, "10.7.0.3".parse().unwrap(), 1 << 20).await;
        assert_eq!(
            kernel.sweep(&BTreeSet::from([PortId(2)])).await,
            Vec::<String>::new()
        );
        assert_eq!(devices().await, ["mv2", "mt2"]);
        assert_eq!(one.run(std::thread::current).await.name(), Some("netns"));
        assert!(
            one.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap())
                .await
                .lines()
                .all(|line| !line.contains("eth0"))
        );
    });
}

#[test]
fn interface_names_are_any_bytes_that_the_kernel_takes() {
    on_a_host(async || {
        let (kernel, _events) = kernel(1).await;
        let names: [&[u8]; 7] = [
            b"\xff\xfe\x80",
            "caf\u{e9}".as_bytes(),
            "\u{1f980}".as_bytes(),
            b"-x",
            b"$(id)*\"'",
            b"\x1b[31m",
            b"fifteen-bytes-x",
        ];
        let container = Container::start();
        for (id, name) in (1..).zip(names) {
            let mut wiring = wiring(id, container.netns(), name, &[]);
            wiring.port.ips = vec![
                format!("10.7.{id}.2/24").parse().unwrap(),
                format!("fd07:{id}::2/64").parse().unwrap(),
            ];
            let wired = kernel.wire(&wiring).await.unwrap();
            assert_eq!(wired.ifname.as_bytes(), name);
            drop(wired);
            // Adopting reads its addresses, of which the kernel tells the label, too.
            assert_eq!(kernel.wire(&wiring).await.unwrap().ifname.as_bytes(), name);
        }
        for (id, name) in (20..).zip([&b"eth%d"[..], b"eth%d"]) {
            let wired = kernel
                .wire(&wiring(id, container.netns(), name, &[]))
                .await
                .unwrap();
            assert_eq!(
                wired.ifname.as_bytes(),
                format!("eth{}", id - 20).as_bytes()
            );
        }
        let refused = kernel
            .wire(&wiring(30, container.netns(), b"a%s", &[]))
            .await
            .err()
            .unwrap();
        println!("{refused}");
        assert_eq!(devices().await.len(), 2 * 9);
    });
}

#[test]
fn a_port_that_cannot_be_made_leaves_nothing_and_says_why() {
    on_a_host(async || {
        let (kernel, _events) = kernel(1).await;
        let container = Container::start();
        let nowhere = NetnsRef::Path(b"/run/netns/no-such-\x1b".to_vec());
        let missing = kernel
            .wire(&wiring(1, nowhere, b"eth0", &[]))
            .await
            .err()
            .unwrap();
        assert!(
            missing.gone && missing.reason.contains("does not exist"),
            "{missing}"
        );
        let file = kernel
            .wire(&wiring(
                1,
                NetnsRef::Path(b"/etc/hostname".to_vec()),
                b"eth0",
                &[],
            ))
            .await
            .err()
            .unwrap();
        assert!(
            !file.gone && file.reason.contains("is no network namespace"),
            "{file}"
        );
        let _first = kernel
            .wire(&wiring(1, container.netns(), b"eth0", &[]))
            .await
            .unwrap();
        let taken = kernel
            .wire(&wiring(2, container.netns(), b"eth0", &[]))
            .await
            .err()
            .unwrap();
        assert!(
            !taken.gone && taken.reason.contains("has an interface \"eth0\" already"),
            "{taken}"
        );
        let mut small = wiring(3, container.netns(), b"eth1", &["fd07::2/64"]);
        small.mtu = 1000;
        let small = kernel.wire(&small).await.err().unwrap();
        assert!(
            !small.gone && small.reason.contains("1280 or more"),
            "{small}"
        );
        let busy = kernel
            .wire(&wiring(1, container.netns(), b"eth0", &[]))
            .await
            .err()
            .unwrap();
        assert!(!busy.gone && busy.reason.contains("open"), "{busy}");
        println!("{missing}\n{file}\n{taken}\n{small}\n{busy}");
        assert_eq!(
            devices().await,
            ["mv1", "mt1"],
            "a TAP in use is left alone"
        );
    });
}

#[test]
fn devices_of_others_are_never_touched() {
    on_a_host(async || {
        let container = Container::start();
        for args in [
            &["link", "add", "mv1", "type", "veth", "peer", "name", "x"][..],
            &["tuntap", "add", "mt1", "mode", "tap"],
            &["link", "set", "mt1", "alias", "meshd:other:other:1"],
        ] {
            assert!(Command::new("ip").args(args).status().unwrap().success());
        }
        let foreign = devices().await;
        let (mine, _events) = kernel(1).await;
        let (theirs, _events) = kernel(2).await;
        let wiring_one = wiring(1, container.netns(), b"eth0", &[]);
        let _wired = mine.wire(&wiring_one).await.unwrap();
        let _other = theirs
            .wire(&wiring(1, container.netns(), b"eth1", &[]))
            .await
            .unwrap();
        assert_eq!(devices().await.len(), foreign.len() + 4);
        assert_eq!(mine.unwire(&wiring_one.port).await, Vec::<String>::new());
        assert_eq!(
            theirs.sweep(&BTreeSet::from([PortId(1)])).await,
            Vec::<String>::new()
        );
        assert_eq!(devices().await.len(), foreign.len() + 2);
        assert_eq!(theirs.sweep(&BTreeSet::new()).await, Vec::<String>::new());
        assert_eq!(devices().await, foreign);
    });
}

#[test]
fn ports_that_go_together_leave_nothing_and_one_that_is_gone_already_keeps_no_other() {
    on_a_host(async || {
        let ip = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            assert!(Command::new("ip").args(words).status().unwrap().success());
        };
        ip("link add stranger type veth peer name other");
        let foreign = devices().await;
        let container = Container::start();
        let (kernel, _events) = kernel(1).await;
        let mut wired = Vec::new();
        let wirings: Vec<_> = (1..=4)
            .map(|id| wiring(id, container.netns(), format!("e{id}").as_bytes(), &[]))
            .collect();
        for wiring in &wirings {
            wired.push(kernel.wire(wiring).await.unwrap());
        }
        assert_eq!(devices().await.len(), foreign.len() + 8);
        ip("link del mv2");
        let ports: Vec<_> = wirings.iter().map(|wiring| wiring.port.clone()).collect();
        let errors = kernel.unwire_all(&ports).await;
        assert_eq!(errors, vec![Vec::<String>::new(); 4]);
        assert_eq!(devices().await, foreign);
        // A second time there is nothing to do.
        assert_eq!(
            kernel.unwire_all(&ports).await.concat(),
            Vec::<String>::new()
        );
    });
}

#[test]
fn what_a_daemon_left_that_died_while_wiring_is_found_again() {
    on_a_host(async || {
        let marks = Marks::new(MeshId([1; 32]), NodeId([1; 32]));
        let mac = marks.mac(PortId(5)).to_string();
        assert!(
            Command::new("ip")
                .args([
                    "link", "add", "mv5", "address", &mac, "type", "veth", "peer", "name", "eth0"
                ])
                .status()
                .unwrap()
                .success()
        );
        let (kernel, _events) = kernel(1).await;
        assert_eq!(kernel.sweep(&BTreeSet::new()).await, Vec::<String>::new());
        assert_eq!(devices().await, Vec::<String>::new());
    });
}

#[test]
fn a_container_that_ends_is_told_and_another_at_its_path_is_not_taken_for_it() {
    on_a_host(async || {
        let name = format!("mkern{}", std::process::id());
        let ip = |args: &[&str]| {
            assert!(
                Command::new("ip").args(args).status().unwrap().success(),
                "{args:?}"
            )
        };
        ip(&["netns", "add", &name]);
        let path = NetnsRef::Path(format!("/run/netns/{name}").into_bytes());
        let resolv = std::path::PathBuf::from(format!("/etc/netns/{name}/resolv.conf"));
        let mut wiring = wiring(1, path.clone(), b"eth0", &["10.7.0.2/24"]);
        wiring.dns = Some(DnsHint {
            servers: vec!["10.7.0.1".parse().unwrap()],
            search: "lan.mesh.internal".to_owned(),
        });

        let (first, mut events) = kernel(1).await;
        drop(first.wire(&wiring).await.unwrap());
        assert!(
            std::fs::read_to_string(&resolv)
                .unwrap()
                .contains("nameserver 10.7.0.1\nsearch lan.mesh.internal\n")
        );
        let kept = Netns::open(&path).unwrap();
        ip(&["netns", "del", &name]);
        ip(&["netns", "add", &name]);
        // The old namespace lives on while somebody holds it, but the path leads to another.
        let other = first.wire(&wiring).await.err().unwrap();
        assert!(
            other.gone && other.reason.contains("is not the one"),
            "{other}"
        );
        assert_eq!(devices().await, Vec::<String>::new());
        assert!(!resolv.exists() && !resolv.parent().unwrap().exists());
        drop(kept);

        drop(first.wire(&wiring).await.unwrap());
        let start = Instant::now();
        ip(&["netns", "del", &name]);
        next_event(&mut events, |event| {
            matches!(event, KernelEvent::PortGone { port: PortId(1) })
        })
        .await;
        println!("told {:?} after the namespace was deleted", start.elapsed());
        assert_eq!(first.unwire(&wiring.port).await, Vec::<String>::new());
        assert_eq!(devices().await, Vec::<String>::new());
    });
}

/// The wiring as the node keeps it once the port was ready.
fn kept(wiring: &PortWiring) -> PortWiring {
    let mut kept = wiring.clone();
    kept.port.ready = true;
    kept
}

#[test]
fn a_port_outlives_the_process_that_named_its_namespace_and_another_of_its_number_gets_nothing() {
    on_a_host(async || {
        let container = Container::start();
        let named = settle(container.netns());
        let NetnsRef::Nameless(nameless) = &named else {
            panic!("{named:?}");
        };
        assert!(nameless.born.is_some() && settle(named.clone()) == named);
        let wiring = wiring(1, named.clone(), b"eth%d", &["10.7.0.2/24"]);
        let (first, _events) = kernel(1).await;
        let wired = first.wire(&wiring).await.unwrap();
        assert_eq!(wired.ifname.as_bytes(), b"eth0");
        drop((wired, first));
        let before = devices().await;

        // The process is gone and the namespace is not: no file leads there, only somebody's descriptor.
        let held = Netns::open(&container.netns()).unwrap();
        drop(container);
        let mut again = kept(&wiring);
        again.port.ifname = IfName::new(b"eth0").unwrap();
        let (second, _events) = kernel(1).await;
        let wired = second.wire(&again).await.unwrap();
        assert_eq!(wired.ifname.as_bytes(), b"eth0");
        assert_eq!(devices().await, before);
        drop(wired);

        // With a way in that has nothing to do with the process the far end is looked after, too.
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = tokio::sync::oneshot::channel();
        let guest = held.inside(move || {
            let _ = tell.send(());
            let _ = stopped.recv();
        });
        let look = async {
            told.await.unwrap();
            let far = Netlink::at(&held).await.unwrap();
            let eth0 = far.link_by_name(b"eth0").await.unwrap().unwrap();
            let mut down = netlink_packet_route::link::LinkMessage::default();
            down.header.index = eth0.index;
            down.header.change_mask = netlink_packet_route::link::LinkFlags::Up;
            far.rt.link().set(down).execute().await.unwrap();
            let wired = second.wire(&again).await.unwrap();
            assert!(
                far.link_by_index(eth0.index)
                    .await
                    .unwrap()
                    .unwrap()
                    .is_up()
            );
            drop((wired, stop));
        };
        let (guest, ()) = tokio::join!(guest, look);
        guest.unwrap();

        // The namespace ends; whoever has the number then, and even the inode, is somebody else.
        drop(held);
        for _ in 0..100 {
            if devices().await.iter().all(|name| !name.starts_with("mv")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let stranger = Container::start();
        let NetnsRef::Nameless(theirs) = settle(stranger.netns()) else {
            panic!("a container has no name");
        };
        let same_inode = NetnsRef::Nameless(meshd_core::command::Nameless {
            born: nameless.born.map(|ticks| ticks + 1),
            ..theirs.clone()
        });
        let same_number = NetnsRef::Nameless(meshd_core::command::Nameless {
            via: theirs.via.clone(),
            ..nameless.clone()
        });
        for netns in [same_inode, same_number, named.clone()] {
            let mut later = again.clone();
            later.port.netns = netns;
            let refused = second.wire(&later).await.err().unwrap();
            assert!(refused.gone, "{refused}");
            assert_eq!(devices().await, Vec::<String>::new());
        }
        let theirs = Netns::open(&stranger.netns()).unwrap();
        let theirs = Netlink::at(&theirs).await.unwrap();
        assert_eq!(theirs.links().await.unwrap().len(), 1);
    });
}

#[test]
fn a_far_end_that_is_moved_elsewhere_is_gone() {
    on_a_host(async || {
        let (kernel, mut events) = kernel(1).await;
        let (one, other) = (Container::start(), Container::start());
        let _wired = kernel
            .wire(&wiring(1, one.netns(), b"eth0", &[]))
            .await
            .unwrap();
        let target = String::from_utf8(other.path.clone()).unwrap();
        one.run(move || {
            assert!(
                Command::new("ip")
                    .args(["link", "set", "eth0", "netns", &target])
                    .status()
                    .unwrap()
                    .success()
            )
        })
        .await;
        next_event(&mut events, |event| {
            matches!(event, KernelEvent::PortGone { port: PortId(1) })
        })
        .await;
    });
}

#[test]
fn addresses_are_told_at_the_start_and_when_they_change_also_after_an_overrun() {
    on_a_host(async || {
        let ip = |args: &[&str]| {
            assert!(
                Command::new("ip").args(args).status().unwrap().success(),
                "{args:?}"
            )
        };
        ip(&["link", "add", "u0", "type", "veth", "peer", "name", "u1"]);
        for args in [["link", "set", "u0", "up"], ["link", "set", "u1", "up"]] {
            ip(&args);
        }
        ip(&["addr", "add", "10.5.0.1/24", "dev", "u0"]);
        let (_kernel, mut events) = kernel(1).await;
        let offers = |wanted: &'static str| move |event: &KernelEvent| matches!(event, KernelEvent::Addresses(all) if all.first().is_some_and(|a| a.to_string() == wanted));
        next_event(&mut events, offers("10.5.0.1:7650")).await;
        let start = Instant::now();
        ip(&["addr", "add", "10.6.0.1/24", "dev", "u0"]);
        ip(&["addr", "del", "10.5.0.1/24", "dev", "u0"]);
        next_event(&mut events, offers("10.6.0.1:7650")).await;
        println!("told {:?} after the change", start.elapsed());
        // The monitor does not read while this thread is kept busy, so the kernel's buffer overruns.
        let mut batch = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let changes: String = (0..20_000)
            .map(|n| format!("addr add 10.{}.{}.1/32 dev u1\n", 100 + n / 200, n % 200))
            .collect();
        let mut input = batch.stdin.take().unwrap();
        input.write_all(changes.as_bytes()).unwrap();
        input
            .write_all(b"addr del 10.6.0.1/24 dev u0\naddr add 10.4.0.1/24 dev u0\n")
            .unwrap();
        drop(input);
        assert!(batch.wait().unwrap().success());
        let start = Instant::now();
        next_event(&mut events, |event| matches!(event, KernelEvent::Addresses(all) if all.iter().all(|a| a.to_string() != "10.6.0.1:7650"))).await;
        println!("told {:?} after 20000 changes", start.elapsed());
    });
}

#[test]
fn the_work_may_be_spawned_on_any_thread() {
    fn is_send(_: impl Send) {}
    let _ = |kernel: Kernel, wiring: PortWiring| {
        is_send(kernel.wire(&wiring));
        is_send(kernel.unwire(&wiring.port));
        is_send(kernel.sweep(&BTreeSet::new()));
    };
}

#[test]
fn two_hundred_ports_are_wired_and_unwired_quickly() {
    on_a_host(async || {
        let (kernel, _events) = kernel(1).await;
        let container = Container::start();
        let wirings: Vec<_> = (1..=200)
            .map(|id| {
                wiring(
                    id,
                    container.netns(),
                    format!("e{id}").as_bytes(),
                    &[&format!("10.7.{id}.2/24")],
                )
            })
            .collect();
        let start = Instant::now();
        let wired =
            futures_util::future::join_all(wirings.iter().map(|wiring| kernel.wire(wiring))).await;
        assert!(wired.iter().all(Result::is_ok));
        let took = start.elapsed();
        println!("200 ports wired in {took:?}, {:?} each", took / 200);
        drop(wired);
        let start = Instant::now();
        let again =
            futures_util::future::join_all(wirings.iter().map(|wiring| kernel.wire(wiring))).await;
        assert!(again.iter().all(Result::is_ok));
        println!("200 ports adopted in {:?}", start.elapsed());
        drop(again);
        let start = Instant::now();
        let ports: Vec<_> = wirings.iter().map(|wiring| wiring.port.clone()).collect();
        let errors = kernel.unwire_all(&ports).await.concat();
        assert_eq!(errors, Vec::<String>::new());
        println!("200 ports unwired in {:?}", start.elapsed());
        assert_eq!(devices().await, Vec::<String>::new());
    });
}
