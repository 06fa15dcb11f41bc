//! A network's devices against the real kernel, each test in a network namespace of its own.
#![allow(clippy::unwrap_used)]

use super::tests::{Container, devices, kernel, on_a_host, wiring};
use super::*;
use meshd_core::ident::Vni;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

pub(in crate::kernel) fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

/// Runs a command line, of which words are separated by blanks.
pub(in crate::kernel) fn run(line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    let (program, args) = words.split_first().unwrap();
    let done = Command::new(program).args(args).output().unwrap();
    assert!(
        done.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

pub(in crate::kernel) fn output(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let (program, args) = words.split_first().unwrap();
    let done = Command::new(program).args(args).output().unwrap();
    assert!(
        done.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

pub(in crate::kernel) fn spec(number: u32, local: &str) -> VxlanSpec {
    VxlanSpec {
        vni: vni(number),
        local: local.parse().unwrap(),
        port: 4789,
        mtu: 1450,
        checksum: true,
    }
}

fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 1, a, b, c, d])
}

async fn disturbance(kernel: &Kernel, wanted: impl Fn(&Disturbance) -> bool) -> Disturbance {
    let found = async {
        loop {
            if let Some(found) = kernel.disturbed().await.into_iter().find(|d| wanted(d)) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(3), found)
        .await
        .expect("it is told within 3 s")
}

async fn quiet(kernel: &Kernel) {
    let more = tokio::time::timeout(Duration::from_millis(300), kernel.disturbed()).await;
    assert!(
        more.is_err(),
        "our own doing is told as another's: {more:?}"
    );
}

#[test]
fn a_bridge_is_made_once_adopted_and_repaired() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let made = one.make_bridge(vni(7), 1450).await.unwrap();
        assert!(made.is_up && made.name == "mb7" && made.mtu == 1450);
        assert_eq!(one.make_bridge(vni(7), 1450).await.unwrap(), made);
        quiet(&one).await;
        let shown = output("ip -d link show mb7");
        for fact in ["stp_state 0", "mcast_snooping 0", "NOARP", "alias meshd:"] {
            assert!(shown.contains(fact), "{fact} in {shown}");
        }
        assert_eq!(output("ip -6 addr show dev mb7"), "");
        for line in [
            "ip link set mb7 type bridge mcast_snooping 1 stp_state 1",
            "ip link set mb7 mtu 1300",
        ] {
            run(line);
        }
        disturbance(&one, |d| {
            d.part == Part::Device(NetworkRole::Bridge) && d.what == What::Changed
        })
        .await;
        drop(one);

        let (other, _events) = kernel(1).await;
        assert_eq!(other.make_bridge(vni(7), 1450).await.unwrap(), made);
        assert!(output("ip -d link show mb7").contains("mcast_snooping 0"));
        assert_eq!(other.remove_network(vni(7)).await, []);
        assert_eq!(devices().await, Vec::<String>::new());
    });
}

#[test]
fn a_network_of_others_is_never_touched_whatever_its_devices_are_called() {
    on_a_host(async || {
        run("ip link add mb7 type bridge");
        run("ip link add mx7 type vxlan id 8 dstport 4789 local 192.0.2.9");
        run("ip tuntap add mu7 mode tap");
        run("ip link set mb7 alias meshd:other:other:n7");
        let foreign = output("ip -d link show");
        let (one, _events) = kernel(1).await;
        let (other, _events) = kernel(2).await;
        assert_eq!(one.make_bridge(vni(7), 1450).await.unwrap().name, "mb7x1");
        assert_eq!(other.make_bridge(vni(7), 1450).await.unwrap().name, "mb7x2");
        let (vxlan, is_new) = one.make_vxlan(&spec(7, "192.0.2.1")).await.unwrap();
        assert!(is_new && !vxlan.is_up && vxlan.name == "mx7x1");
        let _vtap = one.make_vtap(vni(7), 1450).await.unwrap();
        assert!(devices().await.contains(&"mu7x1".to_owned()));
        let taken = one.make_vxlan(&spec(8, "192.0.2.1")).await.unwrap_err();
        assert!(taken.reason.contains("the device mx7 has VNI 8"), "{taken}");
        println!("{taken}");
        assert_eq!(one.sweep_networks(&BTreeSet::new()).await, []);
        assert_eq!(other.sweep_networks(&BTreeSet::from([vni(7)])).await, []);
        assert_eq!(other.remove_network(vni(7)).await, []);
        assert_eq!(output("ip -d link show"), foreign);
    });
}

#[test]
fn what_a_daemon_left_that_died_between_making_and_marking_is_found_again() {
    on_a_host(async || {
        let marks = Marks::new(MeshId([1; 32]), NodeId([1; 32]));
        let mac = |role| marks.network_mac(vni(7), role);
        run(&format!(
            "ip link add mb7 address {} type bridge",
            mac(NetworkRole::Bridge)
        ));
        run(&format!(
            "ip link add mx7 address {} type vxlan id 7 dstport 4789",
            mac(NetworkRole::Vxlan)
        ));
        let (one, _events) = kernel(1).await;
        assert_eq!(one.networks(), BTreeSet::from([vni(7)]));
        let (vxlan, is_new) = one.make_vxlan(&spec(7, "192.0.2.1")).await.unwrap();
        assert!(is_new && vxlan.name == "mx7", "it was set otherwise");
        assert_eq!(one.sweep_networks(&BTreeSet::new()).await, []);
        assert_eq!(devices().await, Vec::<String>::new());
    });
}

#[test]
fn a_vxlan_device_is_made_anew_only_for_another_address_or_port() {
    on_a_host(async || {
        run("ip link set lo up");
        let (one, _events) = kernel(1).await;
        for local in ["192.0.2.1", "2001:db8::1"] {
            let first = spec(7, local);
            let (made, is_new) = one.make_vxlan(&first).await.unwrap();
            assert!(is_new);
            let shown = output("ip -d link show mx7");
            for fact in [
                "nolearning",
                "tos inherit",
                "ttl 64",
                "dstport 4789",
                "NOARP",
            ] {
                assert!(shown.contains(fact), "{fact} in {shown}");
            }
            assert_eq!(shown.contains("df set"), made_for_ipv4(local), "{shown}");
            one.set_up(vni(7), NetworkRole::Vxlan, true).await.unwrap();
            let (again, is_new) = one.make_vxlan(&first).await.unwrap();
            assert!(!is_new && again.is_up && again.index == made.index);
            assert_eq!(one.observe(vni(7)).await.unwrap().vxlan, Some(first));
            let small = VxlanSpec { mtu: 1400, ..first };
            let (smaller, is_new) = one.make_vxlan(&small).await.unwrap();
            assert!(!is_new && smaller.index == made.index && smaller.mtu == 1400);
            let moved = VxlanSpec {
                port: 4790,
                ..first
            };
            let (anew, is_new) = one.make_vxlan(&moved).await.unwrap();
            assert!(is_new && !anew.is_up && anew.index != made.index);
            assert_eq!(one.observe(vni(7)).await.unwrap().vxlan, Some(moved));
            assert_eq!(output("ip -6 addr show dev mx7"), "");
            one.remove(vni(7), NetworkRole::Vxlan).await.unwrap();
        }
        quiet(&one).await;
        // Another socket has the port: said when it is raised.
        let _taken = UdpSocket::bind("0.0.0.0:4789").unwrap();
        one.make_vxlan(&spec(7, "192.0.2.1")).await.unwrap();
        let refused = one.set_up(vni(7), NetworkRole::Vxlan, true).await;
        let refused = refused.unwrap_err();
        println!("{refused}");
        assert!(refused.reason.contains("UDP port"), "{refused}");
    });
}

fn made_for_ipv4(local: &str) -> bool {
    local.parse::<Ipv4Addr>().is_ok()
}

/// A bridge, a VXLAN device that is up and in it, and a veth in it: its index.
async fn scene(kernel: &Kernel, number: u32) -> (u32, u32, u32) {
    let bridge = kernel.make_bridge(vni(number), 1450).await.unwrap();
    let local = "192.0.2.1";
    let (vxlan, _) = kernel.make_vxlan(&spec(number, local)).await.unwrap();
    run(&format!(
        "ip link add p{number} type veth peer name q{number}"
    ));
    for end in ["p", "q"] {
        run(&format!("ip link set {end}{number} up"));
    }
    let port = Netlink::here().unwrap();
    let port = port.link_by_name(format!("p{number}").as_bytes()).await;
    let port = port.unwrap().unwrap().index;
    for device in [vxlan.index, port] {
        kernel.join(vni(number), device).await.unwrap();
        kernel.join(vni(number), device).await.unwrap();
    }
    kernel
        .set_up(vni(number), NetworkRole::Vxlan, true)
        .await
        .unwrap();
    (bridge.index, vxlan.index, port)
}

#[test]
fn ports_of_the_bridge_neither_learn_nor_flood_and_what_others_change_is_told() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let (_, vxlan, port) = scene(&one, 7).await;
        let ports = one.observe(vni(7)).await.unwrap().ports;
        assert_eq!(ports, BTreeMap::from([(vxlan, true), (port, true)]));
        let shown = output("ip -d link show p7");
        for fact in [
            "learning off",
            "flood off",
            "mcast_flood off",
            "bcast_flood off",
        ] {
            assert!(shown.contains(fact), "{fact} in {shown}");
        }
        quiet(&one).await;
        for (line, part, what) in [
            (
                "bridge link set dev p7 learning on",
                Part::Port(port),
                What::Changed,
            ),
            (
                "bridge link set dev mx7 flood on",
                Part::Device(NetworkRole::Vxlan),
                What::Changed,
            ),
            (
                "ip link set p7 nomaster",
                Part::Port(port),
                What::LeftBridge,
            ),
            (
                "ip link set mx7 down",
                Part::Device(NetworkRole::Vxlan),
                What::Down,
            ),
            (
                "ip link set mx7 name other",
                Part::Device(NetworkRole::Vxlan),
                What::Renamed,
            ),
            (
                "ip link set other nomaster",
                Part::Device(NetworkRole::Vxlan),
                What::LeftBridge,
            ),
            (
                "ip link set mb7 mtu 1200",
                Part::Device(NetworkRole::Bridge),
                What::Changed,
            ),
            ("ip link del p7", Part::Port(port), What::Gone),
            (
                "ip link del other",
                Part::Device(NetworkRole::Vxlan),
                What::Gone,
            ),
            (
                "ip link del mb7",
                Part::Device(NetworkRole::Bridge),
                What::Gone,
            ),
        ] {
            if what == What::Renamed {
                // Older kernels rename no device that is up.
                one.set_up(vni(7), NetworkRole::Vxlan, false).await.unwrap();
            }
            let start = Instant::now();
            run(line);
            let wanted = Disturbance {
                vni: vni(7),
                part,
                what,
            };
            disturbance(&one, |told| *told == wanted).await;
            println!("{line}: told {:?} after it began", start.elapsed());
            // As the caller would: the whole network again, but for what is gone or renamed.
            if what == What::Changed || what == What::LeftBridge || what == What::Down {
                one.make_bridge(vni(7), 1450).await.unwrap();
                for device in [vxlan, port] {
                    one.join(vni(7), device).await.unwrap();
                }
                one.set_up(vni(7), NetworkRole::Vxlan, true).await.unwrap();
                let observed = one.observe(vni(7)).await.unwrap();
                assert!(observed.ports.values().all(|is_set| *is_set));
            } else if what == What::Renamed {
                one.make_vxlan(&spec(7, "192.0.2.1")).await.unwrap();
            }
            while tokio::time::timeout(Duration::from_millis(100), one.disturbed())
                .await
                .is_ok()
            {}
        }
        assert_eq!(one.networks(), BTreeSet::new());
    });
}

#[test]
fn a_lost_filter_of_a_networks_device_is_told() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let (_, vxlan, port) = scene(&one, 7).await;
        let netlink = Netlink::here().unwrap();
        gate::redirect(&netlink, vxlan, port).await.unwrap();
        one.expect_filter(vxlan, true);
        run("tc filter del dev mx7 ingress");
        let wanted = What::LostFilter;
        disturbance(&one, |d| {
            d.part == Part::Device(NetworkRole::Vxlan) && d.what == wanted
        })
        .await;
    });
}

#[test]
fn ten_thousand_entries_are_set_read_and_removed_quickly() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let (_, vxlan, port) = scene(&one, 7).await;
        let vtep = |n: u32| IpAddr::from(Ipv4Addr::from(0xc612_0000 + n % 500));
        let remote = |n: u32| {
            let target = FdbTarget::Vtep {
                ip: vtep(n),
                port: n.is_multiple_of(7).then_some(4790),
            };
            let entry = |target| FdbEntry {
                device: vxlan,
                mac: mac(n),
                target,
            };
            [entry(FdbTarget::Port), entry(target)]
        };
        let mut entries: BTreeSet<_> = (0..10_000).flat_map(remote).collect();
        entries.insert(FdbEntry {
            device: port,
            mac: mac(1 << 20),
            target: FdbTarget::Port,
        });
        for n in 0..3 {
            entries.insert(FdbEntry {
                device: vxlan,
                mac: MacAddr::default(),
                target: FdbTarget::Vtep {
                    ip: vtep(n),
                    port: None,
                },
            });
        }
        let set: Vec<_> = entries.iter().map(|entry| FdbChange::Set(*entry)).collect();
        for again in ["anew", "again"] {
            let start = Instant::now();
            assert_eq!(one.change_fdb(vni(7), &set).await, []);
            println!("{} entries set {again} in {:?}", set.len(), start.elapsed());
            assert!(start.elapsed() < Duration::from_secs(4));
        }
        let start = Instant::now();
        let table = one.read_fdb(vni(7)).await.unwrap();
        println!("and read in {:?}", start.elapsed());
        assert_eq!(table.entries, entries);
        assert_eq!(table.others, BTreeSet::new());
        quiet(&one).await;
        let remove: Vec<_> = entries.iter().map(|e| FdbChange::Remove(*e)).collect();
        let start = Instant::now();
        assert_eq!(one.change_fdb(vni(7), &remove).await, []);
        println!("and removed in {:?}", start.elapsed());
        assert_eq!(one.change_fdb(vni(7), &remove).await, [], "already gone");
        assert_eq!(one.read_fdb(vni(7)).await.unwrap(), FdbTable::default());
        quiet(&one).await;
    });
}

#[test]
fn a_refused_entry_is_named_and_the_others_are_made() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let (_, vxlan, port) = scene(&one, 7).await;
        let entry = |device, n, target| {
            FdbChange::Set(FdbEntry {
                device,
                mac: mac(n),
                target,
            })
        };
        let vtep = |ip: &str| FdbTarget::Vtep {
            ip: ip.parse().unwrap(),
            port: None,
        };
        let mut changes: Vec<_> = (0..600).map(|n| entry(port, n, FdbTarget::Port)).collect();
        changes.insert(300, entry(vxlan, 1000, vtep("2001:db8::1")));
        changes.insert(500, entry(9998, 1001, vtep("192.0.2.2")));
        changes.push(entry(9999, 1002, FdbTarget::Port));
        let failed = one.change_fdb(vni(7), &changes).await;
        for failure in &failed {
            println!("{failure}");
        }
        let macs: Vec<_> = failed.iter().map(|f| f.change.entry().mac).collect();
        assert_eq!(macs, [mac(1000), mac(1001), mac(1002)]);
        assert_eq!(one.read_fdb(vni(7)).await.unwrap().entries.len(), 600);
    });
}

#[test]
fn what_others_do_to_entries_is_told_once_and_what_we_do_is_not() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let (_, vxlan, port) = scene(&one, 7).await;
        let at = |device| FdbEntry {
            device,
            mac: mac(1),
            target: FdbTarget::Port,
        };
        let to = |mac, last| FdbEntry {
            device: vxlan,
            mac,
            target: FdbTarget::Vtep {
                ip: IpAddr::from([192, 0, 2, last]),
                port: None,
            },
        };
        let all = [
            at(port),
            to(mac(1), 2),
            to(MacAddr::default(), 2),
            to(MacAddr::default(), 3),
        ];
        let set = all.map(FdbChange::Set);
        let address = mac(1);
        // A MAC moves to and fro: our own doing.
        for device in [port, vxlan, port] {
            let moved = [FdbChange::Set(at(device)), FdbChange::Set(to(mac(1), 9))];
            assert_eq!(one.change_fdb(vni(7), &moved).await, []);
        }
        assert_eq!(one.change_fdb(vni(7), &set).await, []);
        quiet(&one).await;
        for line in [
            format!("bridge fdb del {address} dev p7 master"),
            format!("bridge fdb replace {address} dev mx7 master static"),
            format!("bridge fdb replace {address} dev p7 master dynamic"),
            format!("bridge fdb del {address} dev mx7 dst 192.0.2.2 self"),
            format!("bridge fdb replace {address} dev mx7 dst 192.0.2.66 self"),
            "bridge fdb del 00:00:00:00:00:00 dev mx7 dst 192.0.2.3 self".to_owned(),
            "bridge fdb append 00:00:00:00:00:00 dev mx7 dst 192.0.2.66 self".to_owned(),
            format!("bridge fdb add {} dev p7 master static", mac(66)),
        ] {
            let start = Instant::now();
            run(&line);
            let told = disturbance(&one, |told| told.part == Part::Fdb).await;
            println!("{line}: {told}, {:?} after it began", start.elapsed());
            let table = one.read_fdb(vni(7)).await.unwrap();
            let strangers = table.entries.iter().chain(&table.others);
            let strangers = strangers.filter(|entry| !all.contains(entry));
            let undo: Vec<_> = strangers.map(|e| FdbChange::Remove(*e)).collect();
            assert_eq!(one.change_fdb(vni(7), &undo).await, []);
            assert_eq!(one.change_fdb(vni(7), &set).await, []);
            let after = one.read_fdb(vni(7)).await.unwrap();
            assert_eq!(after.entries, BTreeSet::from(all), "{line}");
            assert_eq!(after.others, BTreeSet::new(), "{line}");
            quiet(&one).await;
        }
    });
}

#[test]
fn a_port_that_is_unwired_takes_its_entries_along_without_an_alarm() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        let container = Container::start();
        let wiring = wiring(1, container.netns(), b"eth0", &["10.7.0.2/24"]);
        let wired = one.wire(&wiring).await.unwrap();
        one.make_bridge(vni(7), 1450).await.unwrap();
        let port = one.port_device(PortId(1)).unwrap();
        one.join(vni(7), port).await.unwrap();
        let entry = FdbEntry {
            device: port,
            mac: mac(1),
            target: FdbTarget::Port,
        };
        assert_eq!(one.change_fdb(vni(7), &[FdbChange::Set(entry)]).await, []);
        one.leave(vni(7), port).await.unwrap();
        assert_eq!(one.read_fdb(vni(7)).await.unwrap(), FdbTable::default());
        one.join(vni(7), port).await.unwrap();
        assert_eq!(one.change_fdb(vni(7), &[FdbChange::Set(entry)]).await, []);
        drop(wired);
        assert_eq!(one.unwire(&wiring.port).await, Vec::<String>::new());
        assert_eq!(one.read_fdb(vni(7)).await.unwrap(), FdbTable::default());
        quiet(&one).await;
    });
}

#[test]
fn the_work_on_networks_may_be_spawned_on_any_thread() {
    fn is_send(_: impl Send) {}
    let _ = |kernel: Kernel, spec: VxlanSpec, vtap: Vtap| {
        is_send(kernel.make_bridge(spec.vni, 1450));
        is_send(kernel.make_vxlan(&spec));
        is_send(kernel.make_vtap(spec.vni, 1450));
        is_send(kernel.join(spec.vni, 1));
        is_send(kernel.leave(spec.vni, 1));
        is_send(kernel.observe(spec.vni));
        is_send(kernel.remove_network(spec.vni));
        is_send(kernel.read_fdb(spec.vni));
        is_send(kernel.change_fdb(spec.vni, &[]));
        is_send(kernel.disturbed());
        is_send(kernel.fence().read());
        is_send(kernel.fence().write(&FenceState::default()));
        is_send(kernel.fence().remove());
        is_send(vtap.read(&mut []));
        is_send(async move {
            let mut watch = kernel.fence().watch().unwrap();
            watch.changed().await
        });
    };
}
