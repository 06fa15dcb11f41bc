//! The lab itself: without a daemon, does the wire carry, lose and part as it says, and is nothing left behind?

use anyhow::{Result, ensure};
use interop_tests::lab::{LabSpec, scene};
use interop_tests::latency::PingPong;
use interop_tests::traffic::{Probe, ping, ping_until, transfer};
use std::path::Path;
use std::time::Duration;

#[test]
fn the_wire_carries_ipv4_and_ipv6_and_bytes_arrive_as_sent() {
    scene(LabSpec::hosts(2), |lab| {
        let (a, b) = (&lab.hosts[0], &lab.hosts[1]);
        ping_until(&a.netns, b.v4.into(), Duration::from_secs(5))?;
        ping_until(&a.netns, b.v6.into(), Duration::from_secs(5))?;
        ensure!(
            ping(&a.netns, b.v4.into(), 2, 1472)?.received == 2,
            "1500 bytes fit"
        );
        ensure!(
            ping(&a.netns, b.v4.into(), 2, 1473)?.received == 0,
            "1501 bytes do not"
        );
        let moved = transfer(&a.netns, &b.netns, b.v4.into(), 5000, 20 << 20)?;
        ensure!(moved.crc_up != moved.crc_down);
        ensure!(
            PingPong::lasting(Duration::from_millis(200))
                .run(&a.netns, &b.netns, b.v6.into(), 5001)?
                .p50_us
                > 1.0
        );
        Ok(())
    });
}

#[test]
fn loss_is_as_asked_for_and_a_cut_is_a_cut() {
    scene(LabSpec::hosts(3), |lab| {
        let (a, b, c) = (&lab.hosts[0], &lab.hosts[1], &lab.hosts[2]);
        ping_until(&a.netns, b.v4.into(), Duration::from_secs(5))?;
        lab.lose(30)?;
        let probe = Probe::start(&a.netns, &b.netns, b.v4.into(), 5000, 2000)?;
        std::thread::sleep(Duration::from_secs(1));
        let seen = probe.finish();
        let percent = seen.lost() * 100 / seen.sent;
        ensure!(
            (20..40).contains(&percent),
            "{percent} % of {} lost, wanted 30",
            seen.sent
        );
        ensure!(seen.duplicated == 0);
        lab.heal()?;
        lab.partition(&[0])?;
        ensure!(
            ping(&a.netns, b.v4.into(), 1, 56)?.received == 0
                && ping(&c.netns, a.v6.into(), 1, 56)?.received == 0
        );
        ensure!(ping(&b.netns, c.v4.into(), 1, 56)?.received == 1);
        lab.heal()?;
        ping_until(&a.netns, b.v4.into(), Duration::from_secs(5))?;
        Ok(())
    });
}

#[test]
fn a_lab_that_is_gone_has_left_nothing() {
    let (mut names, mut dir) = (Vec::new(), None);
    scene(LabSpec::hosts(1), |lab| {
        names = vec![
            lab.wire.clone(),
            lab.hosts[0].netns.clone(),
            lab.container(0, 0).to_owned(),
        ];
        dir = Some(lab.dir.clone());
        Ok(())
    });
    let left = |name: &String| Path::new("/run/netns").join(name).exists();
    assert!(!names.iter().any(left) && !dir.is_some_and(|dir| dir.exists()));
}

#[test]
fn a_process_that_is_killed_leaves_nothing_either() -> Result<()> {
    // This test is also the victim: started again with the variable set, it builds a lab and waits for its end.
    if std::env::var_os("LAB_VICTIM").is_some() {
        scene(LabSpec::hosts(1), |_| {
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        });
        return Ok(());
    }
    if !interop_tests::lab::is_root() {
        return Ok(());
    }
    let this = "a_process_that_is_killed_leaves_nothing_either";
    let mut victim = std::process::Command::new(std::env::current_exe()?)
        .args([this, "--exact"])
        .env("LAB_VICTIM", "1")
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let name = Path::new("/run/netns").join(format!("ml{}a1", victim.id()));
    interop_tests::wait("the victim builds its lab", Duration::from_secs(10), || {
        Ok(name.exists())
    })?;
    victim.kill()?;
    victim.wait()?;
    interop_tests::wait("nothing is left of it", Duration::from_secs(5), || {
        Ok(!name.exists())
    })?;
    Ok(())
}
