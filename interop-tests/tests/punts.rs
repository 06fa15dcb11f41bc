//! Punts on real traffic: the fixture refuses UDP port 666 and sends each frame of it to a controller that it does not have.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, plugin, scene};
use interop_tests::traffic::ping_until;
use interop_tests::{netns, wait};
use std::net::UdpSocket;
use std::time::Duration;

const SUBNETS: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const SOON: Duration = Duration::from_secs(10);
const FRAMES: u64 = 50;

#[test]
fn every_frame_of_a_punted_flow_is_punted_once_though_it_is_refused_and_cached_and_no_other_is() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNETS)?;
        let (here, far, node) = (&stations[0], &stations[1], lab.node(0));
        let to = far.port.v4()?;
        node.ok(&[
            "plugin",
            "install",
            "fixture",
            &plugin("fixture")?.to_string_lossy(),
        ])?;
        let config = r#"{"on-port":666,"do":"punt","to":64}"#;
        node.ok(&["plugin", "attach", "fixture", "lan", "--config", config])?;
        ping_until(&here.netns, to, SOON)?;
        let inbox = netns::within(&far.netns, || Ok(UdpSocket::bind((to, 666))?))?;
        inbox.set_read_timeout(Some(Duration::from_millis(500)))?;
        netns::within(&here.netns, || {
            let outbox = UdpSocket::bind("0.0.0.0:0")?;
            for turn in 0..FRAMES {
                outbox.send_to(b"to the controller", (to, 666))?;
                outbox.send_to(b"not", (to, 667))?;
                if turn % 10 == 9 {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Ok(())
        })?;
        let punts = || -> Result<(u64, u64)> {
            let stats = node.json(&["plugin", "stats"])?;
            let row = stats.as_array().and_then(|rows| rows.first().cloned());
            let row = row.context("no plugin is attached")?;
            let count = |what: &str| row["punts"][what].as_u64().context(format!("{row}"));
            Ok((count("unheard")?, count("taken")?))
        };
        wait("all are counted", SOON, || Ok(punts()?.0 >= FRAMES))?;
        std::thread::sleep(Duration::from_millis(300));
        ensure!(punts()? == (FRAMES, 0), "{:?}", punts()?);
        ensure!(inbox.recv(&mut [0; 64]).is_err(), "it was refused");
        ensure!(node.drops("policy")? >= FRAMES, "{}", node.drops("policy")?);
        let shown = node.ok(&["plugin", "stats"])?;
        ensure!(shown.contains("NO CONTROLLER"), "{shown}");
        Ok(())
    });
}
