//! What happens to the kernel's fast path when something of it breaks: traffic goes on by QUIC, and comes back.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::netns;
use interop_tests::segment::Station;
use interop_tests::traffic::{Probe, Probed, ping, ping_until, transfer};
use std::io::Write;
use std::net::UdpSocket;
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const SOON: Duration = Duration::from_secs(10);
const VXLAN: &str = "udp dport 4789";
const RESTARTED: &str = "bridge down, after a restart";

/// An outage that is none to speak of.
fn brief() -> Duration {
    Duration::from_secs(1) * interop_tests::slow()
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Two trusted hosts with a container each, and both directions in the kernel.
fn in_kernel(body: impl FnOnce(&Lab, &[Station]) -> Result<()>) {
    scene(LabSpec::hosts(2).trusted(), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        lab.node(0).waits_for_kernel_path("b", true, SOON)?;
        lab.node(1).waits_for_kernel_path("a", true, SOON)?;
        back_in_kernel(lab, &stations)?;
        body(lab, &stations)
    });
}

fn back_in_kernel(lab: &Lab, stations: &[Station]) -> Result<()> {
    interop_tests::wait("both directions live in the kernel", SOON, || {
        ping(&stations[0].netns, stations[1].port.v4()?, 1, 56)?;
        let lives = |host: usize, src: &Station| -> Result<bool> {
            Ok(lab.node(host).flows("kernel")?.iter().any(|flow| {
                flow["flow"]
                    .as_str()
                    .is_some_and(|text| text.starts_with(&src.port.mac))
            }))
        };
        Ok(lives(0, &stations[0])? && lives(1, &stations[1])?)
    })?;
    Ok(())
}

/// A thousand datagrams a second each way, while `body` does what it does.
fn under_traffic(
    stations: &[Station],
    body: impl FnOnce() -> Result<()>,
) -> Result<(Probed, Probed)> {
    let (a, b) = (&stations[0], &stations[1]);
    let forth = Probe::start(&a.netns, &b.netns, b.port.v4()?, 5000, 1000)?;
    let back = Probe::start(&b.netns, &a.netns, a.port.v4()?, 5000, 1000)?;
    std::thread::sleep(Duration::from_secs(1));
    body()?;
    Ok((forth.finish(), back.finish()))
}

#[test]
fn blocked_vxlan_moves_to_quic_at_once_and_back_when_it_is_lifted() {
    in_kernel(|lab, stations| {
        let (forth, back) = under_traffic(stations, || {
            for host in 0..2 {
                lab.deafen(host, VXLAN)?;
            }
            lab.node(0).waits_for_kernel_path("b", false, SOON)?;
            lab.node(1).waits_for_kernel_path("a", false, SOON)?;
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        })?;
        say(&format!(
            "VXLAN blocked: outages of {} and {} ms, {} and {} datagrams lost",
            forth.gap.as_millis(),
            back.gap.as_millis(),
            forth.lost(),
            back.lost()
        ));
        // The goal is 300 ms; machines that run tests are busy.
        ensure!(
            forth.gap < brief() && back.gap < brief(),
            "{forth:?} {back:?}"
        );
        let events = lab.node(0).events("path")?;
        let left = events.iter().rfind(|event| event["from"] == "up");
        let left = left.context("the move is an event")?;
        ensure!(
            left["evidence"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{left}"
        );
        lab.heal()?;
        let (forth, back) = under_traffic(stations, || {
            let took = lab
                .node(0)
                .waits_for_kernel_path("b", true, Duration::from_secs(30))?;
            lab.node(1)
                .waits_for_kernel_path("a", true, Duration::from_secs(30))?;
            say(&format!(
                "VXLAN lifted: the kernel path is back after {} ms",
                took.as_millis()
            ));
            std::thread::sleep(Duration::from_secs(1));
            Ok(())
        })?;
        ensure!(
            forth.lost() == 0 && back.lost() == 0,
            "promotion lost: {forth:?} {back:?}"
        );
        back_in_kernel(lab, stations)
    });
}

#[test]
fn a_direction_that_dies_is_left_by_its_sender_and_the_other_one_goes_on() {
    in_kernel(|lab, stations| {
        // b does not hear a any more.
        let (forth, back) = under_traffic(stations, || {
            lab.deafen(1, VXLAN)?;
            lab.node(0)
                .waits_for_kernel_path("b", false, Duration::from_secs(2))?;
            std::thread::sleep(Duration::from_secs(1));
            Ok(())
        })?;
        say(&format!(
            "one way: outage {} ms that way, {} ms the other",
            forth.gap.as_millis(),
            back.gap.as_millis()
        ));
        ensure!(forth.gap < brief(), "{forth:?}");
        ensure!(back.lost() == 0, "the other direction lost {back:?}");
        // It may be on trial again by now; why it was left stays on record.
        let row = lab.node(0).path("b", "kernel-vxlan")?.context("listed")?;
        let left = row["history"]
            .as_array()
            .and_then(|all| all.iter().rfind(|step| step["from"] == "up"));
        ensure!(
            left.is_some_and(|step| step["reason"] == "one-way"),
            "{row}"
        );
        ping_until(&stations[0].netns, stations[1].port.v4()?, SOON)?;
        Ok(())
    });
}

#[test]
fn a_hole_for_large_packets_is_found_named_and_gone_round() {
    in_kernel(|lab, stations| {
        let (a, b) = (&stations[0], &stations[1]);
        for host in 0..2 {
            lab.deafen(host, &format!("{VXLAN} meta length > 1400"))?;
        }
        lab.node(0).waits_for_kernel_path("b", false, SOON)?;
        transfer(&a.netns, &b.netns, b.port.v4()?, 5001, 4 << 20)?;
        interop_tests::wait("the hole is named", SOON, || {
            let row = lab.node(0).path("b", "kernel-vxlan")?.context("listed")?;
            let named = row["history"]
                .as_array()
                .is_some_and(|all| all.iter().any(|step| step["reason"] == "mtu-hole"));
            let mtu = row["mtu"].as_u64().unwrap_or(0);
            Ok(named && (1000..1400).contains(&mtu))
        })?;
        Ok(())
    });
}

#[test]
fn payload_that_arrives_altered_is_found_and_gone_round() {
    in_kernel(|lab, stations| {
        // One byte deep inside of the inner packet, and no checksum on the outside to tell: @th is the outer UDP header, of
        // which older kernels reach 255 bytes.
        for host in 0..2 {
            lab.corrupt(
                host,
                &format!("{VXLAN} meta length > 600"),
                "udp checksum set 0 @th,2000,8 set 0x55",
            )?;
        }
        lab.node(0).waits_for_kernel_path("b", false, SOON)?;
        let (a, b) = (&stations[0], &stations[1]);
        transfer(&a.netns, &b.netns, b.port.v4()?, 5001, 4 << 20)?;
        let row = lab.node(0).path("b", "kernel-vxlan")?.context("listed")?;
        let text = row["history"].to_string();
        ensure!(
            text.contains("altered") || text.contains("offload-bad"),
            "{text}"
        );
        Ok(())
    });
}

#[test]
fn what_somebody_does_to_the_kernels_side_of_a_network_is_undone_and_told() {
    in_kernel(|lab, stations| {
        let ns = &lab.hosts[0].netns;
        let named = |prefix: &str| -> Result<String> {
            let links = netns::run(ns, "ip", &["-br", "link"])?;
            links
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .find(|name| name.starts_with(prefix))
                .map(|name| name.split('@').next().unwrap_or(name).to_owned())
                .with_context(|| format!("no device {prefix}… in\n{links}"))
        };
        let peer = &stations[1].port.mac;
        // More news than its sockets hold while the daemon stands still, and the device deleted meanwhile.
        let pid = lab.node(0).pid().context("the daemon runs")?;
        let storm = format!(
            "kill -STOP {pid}; ip link del {{mx}}; \
             seq 20000 | sed 's/.*/link set lo alias storm&/' | ip -batch -; kill -CONT {pid}"
        );
        let rename = |from: &str, to: &str| {
            format!(
                "ip link set {{{from}}} down; ip link set {{{from}}} name {to}; ip link set {to} up"
            )
        };
        let faults: [(&str, String); 16] = [
            ("VXLAN device deleted", "ip link del {mx}".into()),
            ("VXLAN device down", "ip link set {mx} down".into()),
            ("bridge deleted", "ip link del {mb}".into()),
            ("bridge down", "ip link set {mb} down".into()),
            ("ruleset flushed", "nft flush ruleset".into()),
            (
                "FDB flushed",
                format!("bridge fdb del {peer} dev {{mx}} self"),
            ),
            ("filter deleted", "tc filter del dev {mx} ingress".into()),
            ("qdisc deleted", "tc qdisc del dev {mv} clsact".into()),
            ("events lost", storm),
            (
                "spanning tree on",
                "ip link set {mb} type bridge stp_state 1".into(),
            ),
            (
                "bridge down, after another setting",
                "ip link set {mb} down".into(),
            ),
            (
                "bridge port closed",
                "bridge link set dev {mv} state 0".into(),
            ),
            (RESTARTED, "ip link set {mb} down".into()),
            (
                "port floods, after a restart",
                "bridge link set dev {mv} flood on".into(),
            ),
            ("bridge renamed", rename("mb", "other0")),
            ("VXLAN device renamed", rename("mx", "other1")),
        ];
        for (what, script) in faults {
            if what == RESTARTED {
                // What an earlier run made is watched as well.
                lab.node(0).restart()?;
                lab.converged(SOON)?;
                lab.node(0).waits_for_kernel_path("b", true, SOON)?;
                back_in_kernel(lab, stations)?;
            }
            // A device that was made anew may have another name.
            let mut script = script;
            for prefix in ["mx", "mb", "mv"] {
                let place = format!("{{{prefix}}}");
                if script.contains(&place) {
                    script = script.replace(&place, &named(prefix)?);
                }
            }
            let before = lab.node(0).events("kernel-repaired")?.len();
            let (forth, back) = under_traffic(stations, || {
                netns::run(ns, "sh", &["-ec", &script])?;
                std::thread::sleep(Duration::from_secs(2));
                Ok(())
            })?;
            say(&format!(
                "{what}: outages of {} and {} ms, {} and {} datagrams lost",
                forth.gap.as_millis(),
                back.gap.as_millis(),
                forth.lost(),
                back.lost()
            ));
            ensure!(
                forth.gap < 3 * brief() && back.gap < 3 * brief(),
                "{what}: {forth:?} {back:?}"
            );
            interop_tests::wait(&format!("{what}: it is told"), SOON, || {
                Ok(
                    what == "qdisc deleted"
                        || lab.node(0).events("kernel-repaired")?.len() > before,
                )
            })?;
            lab.node(0)
                .waits_for_kernel_path("b", true, Duration::from_secs(90))?;
            lab.node(1)
                .waits_for_kernel_path("a", true, Duration::from_secs(90))?;
            back_in_kernel(lab, stations)?;
        }
        Ok(())
    });
}

/// A VXLAN datagram of `vni` with an Ethernet frame inside.
fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let mut out = vec![8, 0, 0, 0];
    out.extend_from_slice(&(vni << 8).to_be_bytes());
    out.extend_from_slice(frame);
    out
}

#[test]
fn a_stranger_cannot_send_into_a_network_by_vxlan() {
    scene(LabSpec::hosts(3).trusted(), |lab| {
        // The third host is on the wire and no member.
        let first = lab.node(0);
        first.init("lab")?;
        first.run()?;
        lab.node(1).join(&first.invite(&[])?)?;
        lab.node(1).run()?;
        lab.converged(SOON)?;
        lab.network("lan", &SUBNET)?;
        let a = first.attach("lan", lab.container(0, 0), &[])?;
        let b = lab.node(1).attach("lan", lab.container(1, 0), &[])?;
        first.waits_for_kernel_path("b", true, SOON)?;
        let vni = first.list("network ls")?[0]["vni"]
            .as_u64()
            .context("vni")? as u32;
        let hearer = interop_tests::frames::Tap::open(lab.container(0, 0), "eth0")?;
        let mac = interop_tests::frames::mac;
        let frame = interop_tests::frames::frame(
            mac(&a.mac)?,
            mac(&b.mac)?,
            0x0800,
            b"from a stranger, who is no member of the mesh",
        );
        let to = format!("{}:4789", lab.hosts[0].v4);
        let send = |host: usize, vni: u32| {
            netns::within(&lab.hosts[host].netns, || {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                for _ in 0..5 {
                    socket.send_to(&vxlan(vni, &frame), &to)?;
                }
                Ok(())
            })
        };
        let ours = |seen: &[u8]| seen.windows(9).any(|w| w == b"stranger,");
        let heard = || -> Result<bool> {
            let all = hearer.hear(Duration::from_millis(500), ours)?;
            Ok(all.iter().any(|seen| ours(seen)))
        };
        send(2, vni)?;
        ensure!(!heard()?, "a stranger was heard");
        send(1, vni ^ 1)?;
        ensure!(!heard()?, "a member was heard on another network");
        let status = first.json(&["status"])?;
        ensure!(status["fenced_off"].as_u64().unwrap_or(0) >= 5, "{status}");

        // Where the fence cannot stand nothing comes in by VXLAN, also after a restart; and that is said.
        let host = &lab.hosts[0].netns;
        let tables = netns::run(host, "nft", &["list", "tables", "inet"])?;
        let table = tables
            .split_whitespace()
            .find(|word| word.starts_with("meshd-"))
            .with_context(|| format!("no fence in {tables}"))?;
        let script = format!("flush ruleset; add table inet {table} {{ comment \"mine\" ; }}");
        netns::run(host, "nft", &[&script])?;
        for run in ["at once", "after a restart"] {
            first.waits_for_kernel_path("b", false, SOON)?;
            std::thread::sleep(Duration::from_secs(1));
            send(2, vni)?;
            ensure!(!heard()?, "a stranger was heard without a fence, {run}");
            let links = netns::run(host, "ip", &["-br", "link", "show", "type", "vxlan"])?;
            ensure!(!links.contains(",UP"), "the device is up, {run}: {links}");
            let status = first.json(&["status"])?;
            let problems = status["problems"].to_string();
            ensure!(problems.contains(table), "{run}: {problems}");
            ping_until(lab.container(0, 0), b.v4()?, SOON)?;
            first.kill();
            first.run()?;
            lab.converged(SOON)?;
        }
        netns::run(host, "nft", &["delete", "table", "inet", table])?;
        first.waits_for_kernel_path("b", true, Duration::from_secs(90))?;
        send(2, vni)?;
        ensure!(!heard()?, "a stranger was heard in the end");
        Ok(())
    });
}
