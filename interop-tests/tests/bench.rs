//! The benchmark itself: does what it compares carry traffic in every setting, and is its wire what it says?

use anyhow::{Context, Result, ensure};
use interop_tests::bench::load::{Iperf, Traffic, Way};
use interop_tests::bench::overlays::measure::Measure;
use interop_tests::bench::overlays::{Plan, entry, run};
use interop_tests::bench::setting::{Ends, Setting, Underlay};
use interop_tests::bench::system::Programs;
use interop_tests::lab::{Lab, find, is_root, scene};
use interop_tests::netns::ip;
use std::path::PathBuf;

/// True if these tests can run; says so loudly if not.
fn can_run() -> bool {
    let can = is_root() && find("iperf3").is_some() && find("ethtool").is_some();
    if !can {
        eprintln!("SKIPPED: the benchmark needs root, iperf3 and ethtool");
    }
    can
}

fn setting(ends: Ends, mtu: u32, underlay: Underlay) -> Setting {
    Setting {
        ends,
        mtu,
        underlay,
    }
}

#[test]
fn what_is_compared_carries_traffic_between_containers_and_hosts_at_any_mtu_with_and_without_superframes()
 {
    if !can_run() {
        return;
    }
    let names = [
        "veth",
        "vxlan",
        "meshd-kernel",
        "meshd-quic",
        "reference-tunnel",
    ];
    let programs = Programs::from([(
        "reference-tunnel".to_owned(),
        PathBuf::from(env!("CARGO_BIN_EXE_reference-tunnel")),
    )]);
    for setting in [
        setting(Ends::Containers, 1500, Underlay::Wire),
        setting(Ends::Hosts, 9000, Underlay::Offloads),
    ] {
        let plan = Plan {
            setting,
            systems: names.iter().filter_map(|name| entry(name)).collect(),
            yardstick: "vxlan",
            measures: vec![Measure::Tcp1, Measure::RttP50, Measure::RssIdle],
            rounds: 1,
            seconds: 1,
            programs: programs.clone(),
            profiles: None,
        };
        let mut said = Vec::new();
        let figures = run(&plan, |line| said.push(line.to_owned()));
        let figures = figures.unwrap_or_else(|error| panic!("{setting}: {error:#}\n{said:?}"));
        assert!(figures.failures.is_empty(), "{setting}: {said:?}");
        for name in names {
            let system = figures.system(name).unwrap();
            let tcp = system.median(Measure::Tcp1);
            assert!(
                tcp.is_some_and(|gbps| gbps > 0.01),
                "{setting}, {name}: {tcp:?}"
            );
            let beside = system.ratio(Measure::Tcp1).is_some();
            assert_eq!(
                beside,
                name != "vxlan",
                "{setting}, {name}: beside the yardstick"
            );
            let daemons = system.median(Measure::RssIdle).is_some();
            let is_kernel = name == "veth" || name == "vxlan";
            assert_eq!(daemons, !is_kernel, "{setting}, {name}: memory of daemons");
        }
    }
}

/// Packets that host 0 sent on the wire while one stream ran, and what arrived in bytes.
fn packets_of_a_stream(lab: &Lab) -> Result<(f64, f64)> {
    let sent = || -> Result<f64> {
        let told = ip(&format!("-n {} -s -j link show und0", lab.hosts[0].netns))?;
        let told: serde_json::Value = serde_json::from_str(&told)?;
        let packets = told[0]["stats64"]["tx"]["packets"].as_f64();
        packets.context("no counter of packets")
    };
    let way = Way {
        client: lab.hosts[0].netns.clone(),
        server: lab.hosts[1].netns.clone(),
        to: lab.hosts[1].v4.into(),
    };
    let before = sent()?;
    let stream = Iperf {
        traffic: Traffic::STREAM,
        seconds: 1,
        port: 5201,
    };
    let arrived = stream.run(&way)?;
    Ok((sent()? - before, arrived.bytes))
}

#[test]
fn wire_mode_has_packets_of_the_mtu_only_and_offloads_have_superframes() {
    if !can_run() {
        return;
    }
    scene(setting(Ends::Hosts, 1500, Underlay::Wire).lab(1), |lab| {
        let (packets, bytes) = packets_of_a_stream(lab)?;
        ensure!(
            packets >= bytes / 1460.0,
            "{bytes} bytes in {packets} packets: some were longer than the MTU"
        );
        Ok(())
    });
    scene(
        setting(Ends::Hosts, 1500, Underlay::Offloads).lab(1),
        |lab| {
            let (packets, bytes) = packets_of_a_stream(lab)?;
            ensure!(
                packets < bytes / 3000.0,
                "{bytes} bytes in {packets} packets: no superframes"
            );
            Ok(())
        },
    );
}
