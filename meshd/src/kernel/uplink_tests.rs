//! Uplinks against the real kernel: whatever was done to the interface, what is wished is there in the end.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)] // capget(2), capset(2)

use super::tests::{Container, kernel, on_a_host, wiring};
use super::*;
use meshd_core::command::NetnsRef;
use meshd_core::kind::{PortKind, UplinkSpec};
use std::process::Command;

/// Runs a command in the host's namespace; its output, whether it succeeds or not.
fn run(words: &str) -> String {
    let mut words = words.split(' ');
    let done = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Ports 1, 2, 3: VLANs 20 and 30 of `lan0`, and the rest.
fn uplink(id: u32) -> PortWiring {
    let netns = NetnsRef::Path(b"/proc/self/ns/net".to_vec());
    let mut wiring = wiring(id, netns, b"lan0", &[]);
    wiring.port.mac = MacAddr::default();
    wiring.port.kind = PortKind::Uplink(UplinkSpec {
        vlan: [None, Some(20), Some(30), None]
            .get(id as usize)
            .copied()
            .flatten(),
        ..UplinkSpec::default()
    });
    wiring
}

/// What of the interface is an uplink's doing.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    up: bool,
    promiscuous: bool,
    hooked: bool,
    /// Priorities of our filters.
    filters: BTreeSet<u16>,
    taps: usize,
}

async fn seen() -> Seen {
    let own = Netlink::here().unwrap();
    let link = own.link_by_name(b"lan0").await.unwrap().unwrap();
    let mut filters = BTreeSet::new();
    for id in 1..=3 {
        let priority = gate::uplink_priority(uplink(id).port.kind.vlan());
        let there = gate::attached_at(&own, link.index, priority).await.unwrap();
        filters.extend(there.map(|_| priority));
    }
    let links = own.links().await.unwrap();
    Seen {
        up: link.is_up(),
        promiscuous: link.flags & libc::IFF_PROMISC.cast_unsigned() != 0,
        hooked: run("tc qdisc show dev lan0").contains("clsact"),
        filters,
        taps: links.iter().filter(|link| link.kind == b"tun").count(),
    }
}

/// What somebody may do meanwhile; the last takes away what knows how it was.
const DEEDS: [&str; 7] = [
    "ip link set lan0 down",
    "ip link set lan0 promisc off",
    "tc qdisc del dev lan0 clsact",
    "tc filter del dev lan0 ingress pref 120",
    "tc filter del dev lan0 ingress pref 5000",
    "ip link set mt1 down",
    "ip link del mt2",
];

#[test]
fn from_any_state_of_an_interface_its_uplinks_become_what_is_wished() {
    on_a_host(async || {
        run("ip link add lan0 type veth peer name far0");
        let before = seen().await;
        assert_eq!(before.taps, 0);
        // xorshift (Marsaglia 2003).
        let mut seed = 0x9e37_79b9_u32;
        let mut dice = |sides: u32| {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            seed % sides
        };
        let (mut daemon, mut events) = kernel(1).await;
        for round in 0..40 {
            for _ in 0..dice(4) {
                if let Some(deed) = DEEDS.get(dice(7) as usize) {
                    run(deed);
                }
            }
            if dice(2) == 0 {
                // Another run of the daemon, which finds what there is.
                drop((daemon, events));
                (daemon, events) = kernel(1).await;
            }
            let wished: BTreeSet<PortId> = (1..=3).filter(|_| dice(2) == 0).map(PortId).collect();
            let left = daemon.sweep(&wished).await;
            assert!(left.is_empty(), "round {round}: {left:?}");
            let mut taps = Vec::new();
            for port in &wished {
                let wired = daemon.wire(&uplink(port.0)).await;
                taps.push(wired.unwrap_or_else(|error| panic!("round {round}: {error}")));
            }
            let now = seen().await;
            assert_eq!(now.taps, wished.len(), "round {round}");
            let wanted: BTreeSet<u16> = wished
                .iter()
                .map(|port| gate::uplink_priority(uplink(port.0).port.kind.vlan()))
                .collect();
            assert_eq!(now.filters, wanted, "round {round}");
            if !wished.is_empty() {
                assert!(
                    now.up && now.promiscuous && now.hooked,
                    "round {round}: {now:?}"
                );
            }
        }
        for id in 1..=3 {
            let left = daemon.unwire(&uplink(id).port).await;
            assert!(left.is_empty(), "{left:?}");
        }
        let after = seen().await;
        assert_eq!((after.taps, after.filters.len()), (0, 0));
        // And without disturbance all is as it was.
        run("ip link set lan0 down promisc off");
        run("tc qdisc del dev lan0 clsact");
        let before = seen().await;
        for id in 1..=3 {
            daemon.wire(&uplink(id)).await.unwrap();
        }
        drop((daemon, events));
        let (daemon, _events) = kernel(1).await;
        assert!(daemon.sweep(&BTreeSet::new()).await.is_empty());
        assert_eq!(seen().await, before);
    });
}

#[test]
fn an_interface_that_goes_away_is_told_and_one_that_comes_back_is_wired_again() {
    on_a_host(async || {
        run("ip link add lan0 type veth peer name far0");
        let (kernel, mut events) = kernel(1).await;
        drop(kernel.wire(&uplink(3)).await.unwrap());
        let told = async |events: &mut mpsc::Receiver<Input>, wanted: fn(&KernelEvent) -> bool| {
            let found = async {
                while let Some(input) = events.recv().await {
                    if matches!(&input, Input::Kernel(event) if wanted(event)) {
                        return;
                    }
                }
                panic!("no more events");
            };
            let limit = std::time::Duration::from_secs(10);
            tokio::time::timeout(limit, found)
                .await
                .expect("it is told");
        };
        kernel.look_at_far_end(uplink(3).port.id);
        told(&mut events, |event| {
            matches!(event, KernelEvent::FarEnd { up: false, .. })
        })
        .await;
        run("ip link set far0 up");
        told(&mut events, |event| {
            matches!(event, KernelEvent::FarEnd { up: true, .. })
        })
        .await;
        run("ip link set lan0 mtu 1300");
        told(&mut events, |event| {
            matches!(event, KernelEvent::FarMtu { mtu: 1300, .. })
        })
        .await;
        run("ip link set lan0 mtu 1500");
        // What is asked for late is told as it is, and not as it was when it was asked for first.
        kernel.look_at_far_end(uplink(3).port.id);
        told(&mut events, |event| {
            matches!(event, KernelEvent::FarEnd { up: true, .. })
        })
        .await;
        run("ip link del lan0");
        told(&mut events, |event| {
            matches!(event, KernelEvent::WireFailed { gone: false, .. })
        })
        .await;
        let Err(error) = kernel.wire(&uplink(3)).await else {
            panic!("there is no lan0")
        };
        assert!(error.reason.contains("no interface \"lan0\""), "{error}");
        run("ip link add lan0 type veth peer name far0");
        assert!(kernel.wire(&uplink(3)).await.is_ok());
        assert!(kernel.unwire(&uplink(3).port).await.is_empty());
        let now = seen().await;
        assert!(!now.up && !now.promiscuous && !now.hooked && now.taps == 0);
    });
}

#[test]
fn an_interface_that_was_in_another_namespace_meanwhile_is_put_back_as_it_was_before_all() {
    on_a_host(async || {
        run("ip link add lan0 type veth peer name far0");
        let before = seen().await;
        let (kernel, _events) = kernel(1).await;
        drop(kernel.wire(&uplink(3)).await.unwrap());
        let elsewhere = Container::start();
        let there = String::from_utf8(elsewhere.netns_path()).unwrap();
        let here = std::fs::read_link("/proc/thread-self").unwrap();
        let here = format!("/proc/{}/ns/net", here.display());
        run(&format!("ip link set lan0 netns {there}"));
        assert!(kernel.wire(&uplink(3)).await.is_err(), "it is not here");
        let back = format!("ip link set lan0 netns {here}");
        elsewhere.run(move || run(&back)).await;
        drop(kernel.wire(&uplink(3)).await.unwrap());
        assert!(kernel.unwire(&uplink(3).port).await.is_empty());
        assert_eq!(seen().await, before);
    });
}

/// Effective, permitted and inheritable capabilities of this thread, as the kernel has them in two words each.
type Capabilities = [u32; 6];

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
const VERSION_3: [u32; 2] = [0x2008_0522, 0];

fn capabilities() -> Capabilities {
    let mut all = Capabilities::default();
    // SAFETY: both are as long as the kernel reads and writes at this version.
    let got = unsafe { libc::syscall(libc::SYS_capget, VERSION_3.as_ptr(), all.as_mut_ptr()) };
    assert_eq!(got, 0);
    all
}

fn set_capabilities(all: &Capabilities) {
    // SAFETY: both are as long as the kernel reads at this version.
    let set = unsafe { libc::syscall(libc::SYS_capset, VERSION_3.as_ptr(), all.as_ptr()) };
    assert_eq!(set, 0);
}

#[test]
fn an_uplink_that_the_kernel_does_not_release_is_told_and_the_next_try_puts_the_interface_back() {
    on_a_host(async || {
        run("ip link add lan0 type veth peer name far0");
        let before = seen().await;
        let (daemon, events) = kernel(1).await;
        for id in [1, 3] {
            drop(daemon.wire(&uplink(id)).await.unwrap());
        }
        let wired = seen().await;
        // The kernel refuses whatever this thread asks for now.
        let full = capabilities();
        let mut few = full;
        // CAP_NET_ADMIN is number 12, CAP_BPF 39; the effective ones are the first word of each three.
        (few[0], few[3]) = (few[0] & !(1 << 12), few[3] & !(1 << 7));
        set_capabilities(&few);
        let first = daemon.unwire(&uplink(1).port).await;
        let last = daemon.unwire(&uplink(3).port).await;
        set_capabilities(&full);
        for errors in [&first, &last] {
            let told = errors.join("; ");
            assert!(told.contains("lan0"), "which interface: {told}");
            assert!(told.contains("CAP_NET_ADMIN"), "why: {told}");
        }
        // Half of it is never lost: the TAP, which alone knows how the interface was, is kept with the rest.
        assert_eq!(seen().await, wired);
        // The same daemon tries again; and another one, which finds what is left.
        assert!(daemon.unwire(&uplink(1).port).await.is_empty());
        assert_eq!(seen().await.filters.len(), 1);
        drop((daemon, events));
        let (daemon, _events) = kernel(1).await;
        assert!(daemon.sweep(&BTreeSet::new()).await.is_empty());
        assert_eq!(seen().await, before);
    });
}

#[test]
fn an_uplink_whose_interface_is_gone_is_released_without_a_word() {
    on_a_host(async || {
        run("ip link add lan0 type veth peer name far0");
        let (daemon, _events) = kernel(1).await;
        for id in [2, 3] {
            drop(daemon.wire(&uplink(id)).await.unwrap());
        }
        run("ip link del lan0");
        // Of the same name, and nobody's uplink.
        run("ip link add lan0 type veth peer name far0");
        run("ip link set lan0 up promisc on");
        for id in [2, 3] {
            let left = daemon.unwire(&uplink(id).port).await;
            assert!(left.is_empty(), "{left:?}");
        }
        let now = seen().await;
        assert!(now.up && now.promiscuous, "that one is not ours: {now:?}");
        assert_eq!((now.taps, now.filters.len()), (0, 0));
    });
}
