//! Mirrors on real traffic: copies that cross to another node, cut copies, and nodes that have not agreed. The fixture mirrors
//! UDP port 666.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{Lab, LabSpec, plugin, scene};
use interop_tests::netns;
use interop_tests::node::handle;
use interop_tests::segment::{Station, all_heard};
use interop_tests::traffic::ping_until;
use interop_tests::wait;
use std::net::UdpSocket;
use std::time::Duration;

const SUBNETS: [&str; 4] = ["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"];
const SOON: Duration = Duration::from_secs(10);
const MARK: &[u8] = b"copy me if you can";
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;

fn is_marked(frame: &[u8]) -> bool {
    frame.windows(MARK.len()).any(|window| window == MARK)
}

/// A datagram of so many bytes to port 666 of another station.
fn say(from: &Station, to: &Station, bytes: usize) -> Result<()> {
    let mut payload = MARK.to_vec();
    payload.resize(bytes, 7);
    let to = to.port.v4()?;
    netns::within(&from.netns, || {
        UdpSocket::bind("0.0.0.0:0")?.send_to(&payload, (to, 666))?;
        Ok(())
    })
}

/// The bytes of what each hears of what is said.
fn heard(listeners: &[&Station], speak: impl FnOnce() -> Result<()>) -> Result<Vec<Option<usize>>> {
    let heard = all_heard(listeners, is_marked, speak)?;
    let sizes = heard.into_iter().map(|marked| {
        ensure!(marked.len() <= 1, "more than one copy");
        Ok(marked.first().map(Vec::len))
    });
    sizes.collect()
}

fn mirror_to(lab: &Lab, place: &str, cut: usize) -> Result<()> {
    let config = format!(r#"{{"on-port":666,"do":"mirror",{place},"cut":{cut}}}"#);
    lab.node(0)
        .ok(&["plugin", "attach", "fixture", "lan", "--config", &config])?;
    Ok(())
}

#[test]
fn a_copy_crosses_to_the_member_that_agrees_whole_or_cut_and_to_no_other() {
    scene(LabSpec::hosts(2).containers(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNETS)?;
        let (here, near, far, other) = (&stations[0], &stations[1], &stations[3], &stations[4]);
        lab.node(0).ok(&[
            "plugin",
            "install",
            "fixture",
            &plugin("fixture")?.to_string_lossy(),
        ])?;
        ping_until(&here.netns, near.port.v4()?, SOON)?;
        ping_until(&here.netns, far.port.v4()?, SOON)?;
        let status = lab.node(1).json(&["status"])?;
        let id = status.pointer("/node/id").and_then(|id| id.as_str());
        let peer = handle(id.context("status names no node")?)?;

        // It has not agreed: the traffic goes on, the copy is refused there by name.
        mirror_to(lab, &format!("\"peer\":{peer}"), 0)?;
        let got = heard(&[near, other], || say(here, near, 200))?;
        ensure!(got == [Some(200 + HEADERS), None], "{got:?}");
        wait("the refusal is counted", SOON, || {
            Ok(lab.node(1).drops("mirror-refused")? > 0)
        })?;

        // `ca2` of the second host takes copies from now on.
        lab.node(1).ok(&["detach", &other.name])?;
        let args = ["--name", "watcher", "--label", "meshd.monitor=true"];
        lab.node(1).attach("lan", &other.netns, &args)?;
        for receiver in [near, far] {
            for (said, cut) in [(200, 0), (1300, 0), (200, 64), (1300, 100)] {
                mirror_to(lab, &format!("\"peer\":{peer}"), cut)?;
                let got = heard(&[receiver, other], || say(here, receiver, said))?;
                let whole = said + HEADERS;
                let copy = if cut == 0 { whole } else { cut };
                ensure!(
                    got == [Some(whole), Some(copy)],
                    "{said} cut {cut}: {got:?}"
                );
            }
        }
        // And to a port of this node, cut.
        mirror_to(lab, &format!("\"to\":{}", stations[2].port.id), 70)?;
        let got = heard(&[near, &stations[2]], || say(here, near, 1000))?;
        ensure!(got == [Some(1000 + HEADERS), Some(70)], "{got:?}");
        Ok(())
    });
}

#[test]
fn a_mirrored_stream_faster_than_copies_may_be_arrives_as_it_would_without() {
    scene(LabSpec::hosts(1).containers(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNETS)?;
        lab.node(0).ok(&[
            "plugin",
            "install",
            "fixture",
            &plugin("fixture")?.to_string_lossy(),
        ])?;
        let (here, near, watcher) = (&stations[0], &stations[1], &stations[2]);
        let to = near.port.v4()?;
        ping_until(&here.netns, to, SOON)?;
        mirror_to(lab, &format!("\"to\":{}", watcher.port.id), 64)?;
        // A flow with two receivers is no flood: the allowance of those, 1000 a second, is not touched.
        let inbox = netns::within(&near.netns, || Ok(UdpSocket::bind((to, 666))?))?;
        inbox.set_read_timeout(Some(Duration::from_millis(300)))?;
        let outbox = netns::within(&here.netns, || Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            std::iter::from_fn(|| inbox.recv(&mut buffer).ok()).count()
        });
        for turn in 0..4000u32 {
            outbox.send_to(MARK, (to, 666))?;
            if turn % 4 == 3 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let arrived = reader.join().unwrap_or_default();
        ensure!(arrived >= 3990, "{arrived} of 4000");
        ensure!(
            lab.node(0).drops("bum-limit")? == 0,
            "it was taken for a flood"
        );
        Ok(())
    });
}
