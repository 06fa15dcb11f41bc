//! Bad input: from containers, from strangers on the underlay, from a config file. The daemon goes on, counters tell.

use anyhow::{Result, ensure};
use interop_tests::frames::{Tap, frame, mac};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::netns::within;
use interop_tests::segment::{Station, ping_pairs};
use interop_tests::traffic::{ping_until, transfer};
use std::net::UdpSocket;
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];

/// Two hosts, one container each, on one network that works.
fn pair(lab: &Lab) -> Result<Vec<Station>> {
    lab.mesh()?;
    let stations = lab.segment("lan", &SUBNET)?;
    ping_pairs(&stations, false)?;
    Ok(stations)
}

/// Network and daemons are as well as before.
fn unharmed(lab: &Lab, stations: &[Station]) -> Result<()> {
    for node in lab.nodes.iter().filter(|node| node.log.exists()) {
        ensure!(
            node.is_running() && !node.panicked(),
            "daemon {} did not survive\n{}",
            node.name,
            node.log_tail(20)
        );
    }
    ping_pairs(stations, false)?;
    transfer(
        &stations[0].netns,
        &stations[1].netns,
        stations[1].port.v4()?,
        5999,
        1 << 20,
    )?;
    Ok(())
}

/// `count` bytes that look random, the same for the same seed.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

#[test]
fn a_container_cannot_send_with_the_mac_of_another() {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        let stations = pair(lab)?;
        let (thief, local, remote) = (&stations[0], &stations[1], &stations[2]);
        let wire = Tap::open(&thief.netns, "eth0")?;
        let ears = Tap::open(&remote.netns, "eth0")?;
        for victim in [local, remote] {
            let before = lab.node(0).drops("spoofed-source")?;
            let marked = frame([0xff; 6], mac(&victim.port.mac)?, 0x88b5, b"stolen");
            for _ in 0..10 {
                wire.send(&marked)?;
            }
            interop_tests::wait("the drops are counted", Duration::from_secs(3), || {
                Ok(lab.node(0).drops("spoofed-source")? >= before + 10)
            })?;
        }
        let heard = ears.hear(Duration::from_millis(300), |_| false)?;
        ensure!(
            !heard
                .iter()
                .any(|frame| frame.windows(6).any(|bytes| bytes == b"stolen")),
            "a spoofed frame arrived"
        );
        // Nobody was moved by that.
        ping_pairs(&stations, false)?;
        Ok(())
    });
}

#[test]
fn control_frames_of_a_link_stay_on_it() {
    scene(LabSpec::hosts(2), |lab| {
        let stations = pair(lab)?;
        let own = mac(&stations[0].port.mac)?;
        let wire = Tap::open(&stations[0].netns, "eth0")?;
        let ears = Tap::open(&stations[1].netns, "eth0")?;
        // BPDU, pause, slow protocols, LLDP; and one ordinary group as the counter-check.
        for last in [0x00, 0x01, 0x02, 0x0e] {
            wire.send(&frame(
                [0x01, 0x80, 0xc2, 0, 0, last],
                own,
                0x88b5,
                b"link-local",
            ))?;
        }
        wire.send(&frame(
            [0x01, 0, 0x5e, 0, 0, 0x77],
            own,
            0x88b5,
            b"multicast",
        ))?;
        let is = |frame: &[u8], text: &[u8]| frame.windows(text.len()).any(|bytes| bytes == text);
        let heard = ears.hear(Duration::from_secs(2), |frame| is(frame, b"multicast"))?;
        ensure!(
            heard.iter().any(|frame| is(frame, b"multicast")),
            "multicast is flooded"
        );
        ensure!(
            !heard.iter().any(|frame| is(frame, b"link-local")),
            "link-local control frames are not"
        );
        interop_tests::wait("the drops are counted", Duration::from_secs(3), || {
            Ok(lab.node(0).drops("link-local-control")? >= 4)
        })?;
        Ok(())
    });
}

#[test]
fn a_broadcast_arrives_once_and_never_comes_back() {
    scene(LabSpec::hosts(3).containers(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNET)?;
        let taps: Vec<Tap> = stations
            .iter()
            .map(|station| Tap::open(&station.netns, "eth0"))
            .collect::<Result<_>>()?;
        let own = mac(&stations[0].port.mac)?;
        for number in 0..20u8 {
            taps[0].send(&frame(
                [0xff; 6],
                own,
                0x88b5,
                &[b"once"[..].to_vec(), vec![number; 60]].concat(),
            ))?;
        }
        std::thread::sleep(Duration::from_millis(500));
        for (tap, station) in taps.iter().zip(&stations) {
            let heard = tap.hear(Duration::from_millis(50), |_| false)?;
            let copies = heard
                .iter()
                .filter(|frame| frame.windows(4).any(|bytes| bytes == b"once"))
                .count();
            // A packet socket does not hear itself: what the sender hears came back from the network.
            let wanted = if station.name == stations[0].name {
                0
            } else {
                20
            };
            ensure!(
                copies == wanted,
                "{} heard {copies} copies, wanted {wanted}",
                station.name
            );
        }
        Ok(())
    });
}

#[test]
fn malformed_frames_from_a_container_harm_nobody() {
    scene(LabSpec::hosts(2), |lab| {
        let stations = pair(lab)?;
        let own = mac(&stations[0].port.mac)?;
        let far = mac(&stations[1].port.mac)?;
        let wire = Tap::open(&stations[0].netns, "eth0")?;
        let mut refused = 0;
        for seed in 0..3000u64 {
            let body = noise(seed, (seed as usize * 7) % 1400);
            let types = [
                0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x0000, 0x05dc, 0xffff,
            ];
            let dst = match seed % 4 {
                0 => far,
                1 => [0xff; 6],
                2 => [0x33, 0x33, 0, 0, 0, 1],
                _ => [0x02, 0xaa, 0, 0, (seed >> 8) as u8, seed as u8],
            };
            let mut bytes = frame(dst, own, types[seed as usize % types.len()], &body);
            if seed % 5 == 0 {
                // An IPv4 header that promises what is not there.
                bytes.splice(12.., [0x08, 0, 0x4f, 0, 0xff, 0xff]);
            }
            // Frames below 14 bytes the kernel refuses itself.
            refused += u32::from(wire.send(&bytes).is_err());
        }
        for seed in 0..300u64 {
            // Any source: zero, groups, strangers.
            let _ = wire.send(&noise(seed, 14 + seed as usize));
        }
        ensure!(refused < 3000);
        let drops: u64 = lab
            .node(0)
            .list("drops")?
            .iter()
            .filter_map(|drop| drop["count"].as_u64())
            .sum();
        ensure!(drops > 0, "nothing was counted");
        unharmed(lab, &stations)
    });
}

#[test]
fn garbage_on_the_mesh_port_harms_nobody() {
    scene(LabSpec::hosts(3), |lab| {
        // Host c is a stranger: no daemon, only noise.
        lab.node(0).init("lab")?;
        lab.node(0).run()?;
        lab.node(1).join(&lab.node(0).invite(&[])?)?;
        lab.node(1).run()?;
        lab.converged(Duration::from_secs(10))?;
        lab.network("lan", &SUBNET)?;
        let mut stations = Vec::new();
        for host in 0..2 {
            let netns = lab.container(host, 0).to_owned();
            let port = lab.node(host).attach("lan", &netns, &[])?;
            stations.push(Station {
                host,
                netns,
                name: format!("c{host}"),
                port,
            });
        }
        lab.know_each_other(&stations)?;
        let target = lab.underlay(0);
        within(&lab.hosts[2].netns, || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            for seed in 0..20_000u64 {
                let mut bytes = noise(seed, 1 + (seed as usize * 13) % 1400);
                match seed % 4 {
                    // Long headers of QUIC version 1, of an unknown version, and short ones.
                    0 => bytes
                        .splice(..bytes.len().min(6), [0xc3, 0, 0, 0, 1, 8])
                        .for_each(drop),
                    1 => bytes
                        .splice(..bytes.len().min(5), [0xc3, 0xba, 0xba, 0xba, 0xba])
                        .for_each(drop),
                    2 => bytes[0] = 0x40,
                    _ => {}
                }
                let _ = socket.send_to(&bytes, (target, 7650));
            }
            Ok(())
        })?;
        ensure!(
            lab.node(0).rss_mib()? < 400.0,
            "{} MiB resident",
            lab.node(0).rss_mib()?
        );
        unharmed(lab, &stations)
    });
}

#[test]
fn a_config_with_an_error_is_refused_with_line_and_column_and_the_daemon_goes_on() {
    scene(LabSpec::hosts(2), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        for wrong in [
            "[underlay\nlisten = 1",
            "\n\nno-such-key = true\n",
            "\u{0}\u{1}\u{2}",
            "[underlay]\nlisten = \"nowhere\"\n",
        ] {
            std::fs::write(&node.config, wrong)?;
            let told = node.tell(&["run"])?;
            ensure!(
                told.code == 1 || told.code == 2,
                "{wrong:?} was taken: exit code {}",
                told.code
            );
            ensure!(
                told.stderr.contains("line") && !told.stderr.contains("panicked"),
                "{wrong:?}: {}",
                told.stderr
            );
        }
        std::fs::write(&node.config, "")?;
        node.run()?;
        // While it runs such a file changes nothing, and whoever looks is told until it is mended.
        let told = |wanted: bool| {
            interop_tests::wait("problem of the config", Duration::from_secs(10), || {
                let told = node.json(&["status"])?["problems"].to_string();
                let found = node.tell(&["doctor", "--json"])?.stdout;
                Ok(told.contains("stays as it is") == wanted
                    && found.contains("config of the daemon") == wanted)
            })
        };
        for wrong in ["garbage ===\n", "[underlay]\nlisten = 1\n"] {
            std::fs::write(&node.config, wrong)?;
            told(true)?;
        }
        std::fs::write(&node.config, "")?;
        told(false)?;
        Ok(())
    });
}

#[test]
fn a_container_that_floods_does_not_stop_its_neighbours() {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        let stations = pair(lab)?;
        let own = mac(&stations[0].port.mac)?;
        let wire = Tap::open(&stations[0].netns, "eth0")?;
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            scope.spawn(|| {
                let mut number = 0u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    number += 1;
                    let _ = wire.send(&frame([0xff; 6], own, 0x88b5, &noise(number, 200)));
                    if number.is_multiple_of(64) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            let reached = ping_until(
                &stations[1].netns,
                stations[2].port.v4()?,
                Duration::from_secs(10),
            );
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            reached.map(drop)
        })?;
        unharmed(lab, &stations)
    });
}
