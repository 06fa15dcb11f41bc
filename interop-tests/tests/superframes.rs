//! Superframes between containers of two hosts, by QUIC: whatever the ends hand over, and whatever the wire loses, bytes are whole.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, scene};
use interop_tests::netns;
use interop_tests::traffic::{ping_until, transfer};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Turns offloads of a container's `eth0` on or off.
fn offload(container: &str, features: &[(&str, bool)]) -> Result<()> {
    let mut words = vec!["-K", "eth0"];
    for (feature, on) in features {
        words.extend([*feature, if *on { "on" } else { "off" }]);
    }
    netns::run(container, "ethtool", &words).map(drop)
}

#[test]
fn tcp_is_whole_with_every_combination_of_offloads_at_both_ends() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment(
            "lan",
            &["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"],
        )?;
        let (here, far) = (&stations[0], &stations[1]);
        let addresses = [far.port.v4()?, far.port.v6()?];
        for to in addresses {
            ping_until(&here.netns, to, Duration::from_secs(5))?;
        }
        let mut port = 7000;
        for bits in 0..64u8 {
            let on = |bit: u8| bits >> bit & 1 == 1;
            for (station, first) in [(here, 0), (far, 3)] {
                // Without checksums there is no segmentation either: the kernel sees to that by itself.
                let wishes = [
                    ("tx", on(first)),
                    ("tso", on(first + 1)),
                    ("gro", on(first + 2)),
                ];
                offload(&station.netns, &wishes)?;
            }
            // Each family with each combination of one end at least.
            let to = addresses[usize::from((bits ^ bits >> 3) & 1)];
            port += 1;
            transfer(&here.netns, &far.netns, to, port, 3_000_000)
                .with_context(|| format!("combination {bits:06b} to {to}"))?;
        }
        Ok(())
    });
}

#[test]
fn tcp_is_whole_while_the_wire_loses_datagrams_and_no_superframe_is_lost_for_one_of_them() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (here, far) = (&stations[0], &stations[1]);
        let to = far.port.v4()?;
        ping_until(&here.netns, to, Duration::from_secs(5))?;
        lab.lose(1)?;
        transfer(&here.netns, &far.netns, to, 7000, 20_000_000)?;
        lab.heal()?;
        // About one frame of 14,000 in a hundred is lost; were it its whole superframe, four in ten would be.
        let missing = lab.node(1).drops("piece-missing")?;
        ensure!(
            missing < 1400,
            "a lost slice costs what it held: {missing} frames"
        );
        Ok(())
    });
}

#[test]
fn a_node_without_superframes_and_one_with_them_understand_each_other() {
    scene(LabSpec::hosts(2), |lab| {
        std::fs::write(&lab.node(1).config, "[kernel]\nsuperframes = false\n")?;
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (here, far) = (&stations[0], &stations[1]);
        let to = far.port.v4()?;
        ping_until(&here.netns, to, Duration::from_secs(5))?;
        transfer(&here.netns, &far.netns, to, 7000, 20_000_000).map(drop)
    });
}

/// Sends `bytes` as one burst of datagrams of `size` bytes (UDP_SEGMENT of udp(7)).
fn burst(socket: &UdpSocket, size: u16, bytes: &[u8]) -> Result<()> {
    let size = libc::c_int::from(size);
    // SAFETY: the pointer is to a live number of the length said.
    #[allow(unsafe_code)]
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            u32::try_from(size_of::<libc::c_int>())?,
        )
    };
    ensure!(set == 0, "UDP_SEGMENT: {}", io::Error::last_os_error());
    socket.send(bytes)?;
    Ok(())
}

#[test]
fn a_burst_of_udp_arrives_as_its_datagrams_in_order() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let subnets = ["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"];
        let stations = lab.segment("lan", &subnets)?;
        let (here, far) = (&stations[0], &stations[1]);
        for (to, any) in [(far.port.v4()?, "0.0.0.0"), (far.port.v6()?, "::")] {
            ping_until(&here.netns, to, Duration::from_secs(5))?;
            let any: IpAddr = any.parse()?;
            let inbox = netns::within(&far.netns, || Ok(UdpSocket::bind((to, 7001))?))?;
            inbox.set_read_timeout(Some(Duration::from_secs(2) * interop_tests::slow()))?;
            let outbox = netns::within(&here.netns, || Ok(UdpSocket::bind((any, 0))?))?;
            outbox.connect((to, 7001))?;
            // The last one of each is shorter; those of 1300 go one in a slice, those of 100 many.
            for (size, datagrams) in [(1300u16, 20usize), (100, 60), (700, 33), (1200, 2)] {
                let len = usize::from(size) * datagrams - 7;
                let bytes: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
                // What the first one asks about must not be lost among those that wait for it.
                outbox.send(b"first")?;
                let mut buffer = [0; 2048];
                ensure!(inbox.recv(&mut buffer)? == 5);
                burst(&outbox, size, &bytes)?;
                for wanted in bytes.chunks(size.into()) {
                    let got = inbox.recv(&mut buffer);
                    let got =
                        got.with_context(|| format!("{datagrams} of {size} bytes to {to}"))?;
                    ensure!(&buffer[..got] == wanted, "other bytes than were sent");
                }
                burst(&outbox, 0, b"")?;
                ensure!(inbox.recv(&mut buffer)? == 0);
            }
        }
        Ok(())
    });
}
