//! What happens when the underlay's MTU shrinks under live sessions: no black hole, and it is told.

use anyhow::{Result, ensure};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::netns::ip;
use interop_tests::traffic::{ping, ping_until};
use std::io::Write;
use std::time::{Duration, Instant};

/// Bytes of a ping that travels in one datagram, of more than 1300 bytes.
const SIZE: u32 = 1320;

/// Sparse large pings pass again within 10 s after `shrink`.
fn large_pings_survive(shrink: impl Fn(&Lab) -> Result<()>) {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (here, far) = (&stations[0].netns, stations[1].port.v4()?);
        ping_until(here, far, Duration::from_secs(5))?;
        interop_tests::wait("the session finds its MTU", Duration::from_secs(5), || {
            Ok(ping(here, far, 1, SIZE)?.received == 1
                && lab
                    .node(0)
                    .list("paths")?
                    .iter()
                    .filter(|path| path["kind"] == "quic-direct")
                    .all(|path| path["mtu"].as_u64() > Some(1400)))
        })?;
        shrink(lab)?;
        let start = Instant::now();
        while ping(here, far, 1, SIZE)?.received == 0 {
            ensure!(
                start.elapsed() < Duration::from_secs(30),
                "they do not pass after {:?}",
                start.elapsed()
            );
        }
        let _ = writeln!(
            std::io::stderr(),
            "large pings pass again after {} ms",
            start.elapsed().as_millis()
        );
        ensure!(
            start.elapsed() < Duration::from_secs(10),
            "it took {:?}",
            start.elapsed()
        );
        let pings = ping(here, far, 20, SIZE)?;
        ensure!(pings.received == 20, "afterwards: {pings:?}");
        ensure!(
            lab.node(0).events("path-shrank")?.len() + lab.node(1).events("path-shrank")?.len() > 0,
            "no event tells it"
        );
        Ok(())
    });
}

#[test]
fn a_link_of_this_host_that_shrinks_is_no_black_hole() {
    large_pings_survive(|lab| {
        ip(&format!("-n {} link set und0 mtu 1300", lab.hosts[0].netns)).map(drop)
    });
}

#[test]
fn a_link_that_shrinks_far_away_is_no_black_hole() {
    large_pings_survive(|lab| {
        // A real wire carries no superframes; this one would let them pass, whatever they are cut into later.
        for host in &lab.hosts {
            ip(&format!(
                "-n {} link set dev und0 gso_max_segs 1",
                host.netns
            ))?;
        }
        // What does not fit into the port of the bridge vanishes without a word.
        ip(&format!("-n {} link set dev a mtu 1300", lab.wire))?;
        Ok(())
    });
}
