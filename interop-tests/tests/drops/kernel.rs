//! Where the kernel forwards by itself the sum holds, too: what a port sent is what the daemon saw and what the gate let pass.

use super::{balance, counted};
use anyhow::{Context, Result, ensure};
use interop_tests::frames::{Tap, frame, mac};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::netns::{self, ip};
use interop_tests::node::Node;
use interop_tests::segment::Station;
use interop_tests::traffic::ping;
use interop_tests::wait;
use std::net::UdpSocket;
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const SOON: Duration = Duration::from_secs(20);

/// Frames that the kernel has forwarded by itself, from the station's port and to it.
fn by_kernel(node: &Node, station: &Station) -> Result<(u64, u64)> {
    let ports = node.list("ports")?;
    let port = ports.iter().find(|row| row["id"] == station.port.id);
    let kernel = &port.context("the port")?["kernel"];
    let figure = |name: &str| kernel[name].as_u64().context("a figure of the port");
    Ok((figure("rx_frames")?, figure("tx_frames")?))
}

fn until_in_kernel(lab: &Lab, here: &Station, far: &Station) -> Result<()> {
    let to = far.port.v4()?;
    wait("the flow passes the gate", SOON, || {
        ping(&here.netns, to, 2, 56)?;
        Ok(by_kernel(lab.node(0), here)?.0 > 0)
    })?;
    Ok(())
}

#[test]
fn what_a_port_sent_is_what_the_daemon_saw_and_what_the_gate_let_pass_also_of_hostile_frames() {
    scene(LabSpec::hosts(2).trusted(), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let (here, far) = (&stations[0], &stations[1]);
        let node = lab.node(0);
        node.waits_for_kernel_path("b", true, SOON)?;
        lab.node(1).waits_for_kernel_path("a", true, SOON)?;
        until_in_kernel(lab, here, far)?;
        let seen = || -> Result<u64> {
            let ports = node.list("ports")?;
            let port = ports.iter().find(|row| row["id"] == here.port.id);
            let port = port.context("the port")?;
            port["traffic"]["rx_frames"].as_u64().context("rx_frames")
        };
        // All of it at one instant: nothing may come in between.
        let sums = || -> Result<(u64, u64, u64)> {
            let mut last = (0, 0, 0);
            wait("it is quiet", SOON, || {
                let before = counted(&here.netns)?.0;
                last = (before, seen()?, by_kernel(node, here)?.0);
                Ok(counted(&here.netns)?.0 == before)
            })?;
            Ok(last)
        };
        let fenced = node.drops("fenced")?;
        let reasons = ["spoofed-source", "malformed", "link-local-control"];
        let drops = || -> Result<u64> {
            let all = reasons.iter().map(|reason| node.drops(reason));
            Ok(all.collect::<Result<Vec<_>>>()?.iter().sum())
        };
        let dropped = drops()?;
        let before = sums()?;
        let arrived_before = by_kernel(lab.node(1), far)?.1;
        let wire = Tap::open(&here.netns, "eth0")?;
        let (own, to) = (mac(&here.port.mac)?, mac(&far.port.mac)?);
        let answered = ping(&here.netns, far.port.v4()?, 20, 56)?;
        ensure!(answered.received == 20, "{answered:?}");
        for number in 0..30 {
            // From another's MAC; an IP header that is not all there; of the link.
            let hostile = match number % 3 {
                0 => frame(to, mac(&far.port.mac)?, 0x0800, &[0x45; 40]),
                1 => frame(to, own, 0x0800, &[0x45, 0, 0, 20]),
                _ => frame([1, 0x80, 0xc2, 0, 0, 2], own, 0x88b5, b"of the link"),
            };
            wire.send(&hostile)?;
        }
        let mut after = before;
        let met = wait("sent is seen and passed", SOON, || {
            after = sums()?;
            let sent = after.0 - before.0;
            ensure!(sent >= 50, "{before:?} {after:?}");
            Ok(sent == (after.1 - before.1) + (after.2 - before.2))
        });
        met.with_context(|| format!("sent, seen, passed: {before:?}, then {after:?}"))?;
        ensure!(
            after.2 - before.2 >= 18,
            "the kernel carried the pings: {before:?} {after:?}"
        );
        // At the far end it is what went to the port.
        let arrived = by_kernel(lab.node(1), far)?.1 - arrived_before;
        ensure!(arrived >= 18, "{arrived}");
        wait("each hostile frame has its reason", SOON, || {
            Ok(drops()? - dropped == 30)
        })?;
        balance(node, "lan")?;

        // What the fence stops is counted frame by frame.
        let vni = node.list("network ls")?[0]["vni"].as_u64().context("vni")?;
        ip(&format!(
            "-n {} addr add 192.0.2.99/24 dev und0",
            lab.hosts[1].netns
        ))?;
        let vtep = format!("{}:4789", lab.hosts[0].v4);
        netns::within(&lab.hosts[1].netns, || {
            let socket = UdpSocket::bind("192.0.2.99:0")?;
            let mut packet = vec![8, 0, 0, 0];
            packet.extend_from_slice(&u32::try_from(vni << 8)?.to_be_bytes());
            packet.extend_from_slice(&frame(to, own, 0x0800, &[0x45; 40]));
            for _ in 0..17 {
                socket.send_to(&packet, &vtep)?;
            }
            Ok(())
        })?;
        wait("what was fenced off is counted", SOON, || {
            Ok(node.drops("fenced")? == fenced + 17)
        })?;
        balance(node, "lan")?;

        // What passed stays counted when the flows that it passed by are no more.
        lab.node(1).ok(&["detach", &far.port.id.to_string()])?;
        wait("the kernel forwards nothing more to it", SOON, || {
            Ok(node.flows("kernel")?.is_empty())
        })?;
        let kept = by_kernel(node, here)?.0;
        ensure!(kept >= after.2, "{kept} of {after:?}");
        Ok(())
    });
}
