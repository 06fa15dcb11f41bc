//! Ports of several queues: the flows of a container are carried by several lanes on several threads, each flow in order.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{Lab, LabSpec, nothing_left, scene};
use interop_tests::netns::{self, within};
use interop_tests::segment::Station;
use interop_tests::traffic::{ping_until, transfer};
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FLOWS: u16 = 32;
/// Datagrams of each flow in each direction.
const ROUNDS: u32 = 400;

fn configure(lab: &Lab, host: usize, queues: u32) -> Result<()> {
    let text = format!("[datapath]\nthreads = 2\nqueues = {queues}\n");
    std::fs::write(&lab.node(host).config, text).context("write a config file")
}

/// Sockets of one end of all flows.
fn sockets(netns: &str, own: (IpAddr, u16), far: (IpAddr, u16)) -> Result<Vec<UdpSocket>> {
    within(netns, || {
        (0..FLOWS)
            .map(|flow| {
                let socket = UdpSocket::bind((own.0, own.1 + flow)).context("bind")?;
                socket.connect((far.0, far.1 + flow)).context("connect")?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .collect()
    })
}

/// Sends numbered datagrams of many lengths by all flows, some in a row, and hears those of the other end: how many came. Fails if
/// one comes that was sent before another that came.
fn exchange(sockets: &[UdpSocket], done: &AtomicBool) -> Result<u32> {
    let (mut last, mut came, mut quiet) = (vec![None; sockets.len()], 0, Instant::now());
    let mut hear = |came: &mut u32| -> Result<bool> {
        let (mut any, mut datagram) = (false, [0; 2048]);
        for (socket, last) in sockets.iter().zip(&mut last) {
            // An error besides that there is none: what was sent before found nobody.
            while let Ok(length) = socket.recv(&mut datagram) {
                let number = datagram[..length].first_chunk().context("cut short")?;
                let number = u32::from_be_bytes(*number);
                ensure!(
                    last.is_none_or(|last| last < number),
                    "{number} came behind {last:?} of the same flow"
                );
                (*last, any) = (Some(number), true);
                *came += 1;
            }
        }
        Ok(any)
    };
    for round in 0..ROUNDS / 4 {
        for (flow, socket) in sockets.iter().enumerate() {
            for number in round * 4..round * 4 + 4 {
                let length = 4 + (number as usize * 97 + flow * 31) % 1300;
                let mut datagram = vec![0; length];
                datagram[..4].copy_from_slice(&number.to_be_bytes());
                // One for which there is no room is lost, as one on the way is.
                let _ = socket.send(&datagram);
            }
        }
        hear(&mut came)?;
        std::thread::sleep(Duration::from_millis(4));
    }
    while quiet.elapsed() < Duration::from_secs(1) || !done.load(Ordering::Relaxed) {
        if hear(&mut came)? {
            quiet = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(came)
}

/// All at once: datagrams by all flows both ways, and streams of TCP whose bytes are checked.
fn all_in_order(here: &Station, far: &Station) -> Result<()> {
    let (a, b) = (here.port.v4()?, far.port.v4()?);
    let left = sockets(&here.netns, (a, 20_000), (b, 21_000))?;
    let right = sockets(&far.netns, (b, 21_000), (a, 20_000))?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..4)
            .map(|n| scope.spawn(move || transfer(&here.netns, &far.netns, b, 9000 + n, 8_000_000)))
            .collect();
        let ends = [&left, &right].map(|end| scope.spawn(|| exchange(end, &done)));
        let moved = streams
            .into_iter()
            .try_for_each(|stream| stream.join().expect("a stream").map(drop));
        done.store(true, Ordering::Relaxed);
        for end in ends {
            let came = end.join().expect("an end")?;
            let sent = u32::from(FLOWS) * ROUNDS;
            eprintln!("{came} of {sent} datagrams came");
            // Six busy loops beside it cost a twentieth.
            ensure!(came > sent / 2, "{came} of {sent} came");
        }
        moved
    })
}

/// How many descriptors the TAP of a port has, as the kernel says.
fn queues_in_kernel(lab: &Lab, host: usize, port: u64) -> Result<u64> {
    let shown = lab.node(host).json(&["ports", "show", &port.to_string()])?;
    let devices = shown["devices"].as_array().context("no `devices`")?;
    let mut names = devices.iter().filter_map(|name| name.as_str());
    let tap = names.find(|name| name.starts_with("mt"));
    let words = ["-d", "-j", "link", "show", "dev", tap.context("no TAP")?];
    let link = netns::run(&lab.hosts[host].netns, "ip", &words)?;
    let link: serde_json::Value = serde_json::from_str(&link)?;
    let data = &link[0]["linkinfo"]["info_data"];
    if data["multi_queue"] != true {
        return Ok(1);
    }
    data["numqueues"].as_u64().context("no `numqueues`")
}

/// Frames that each queue of a port has carried.
fn frames(lab: &Lab, host: usize, port: u64) -> Result<Vec<u64>> {
    let shown = lab.node(host).json(&["ports", "show", &port.to_string()])?;
    let queues = shown["queues"].as_array().context("no `queues`")?;
    Ok(queues
        .iter()
        .filter_map(serde_json::Value::as_u64)
        .collect())
}

#[test]
fn flows_are_spread_over_queues_and_stay_in_order_also_after_kills_with_other_numbers_of_queues() {
    scene(LabSpec::hosts(2), |lab| {
        for host in 0..2 {
            configure(lab, host, 4)?;
        }
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (here, far) = (&stations[0], &stations[1]);
        ping_until(&here.netns, far.port.v4()?, Duration::from_secs(5))?;
        for (host, station) in [here, far].into_iter().enumerate() {
            ensure!(queues_in_kernel(lab, host, station.port.id)? == 4);
        }
        all_in_order(here, far).context("four queues")?;
        for (host, station) in [here, far].into_iter().enumerate() {
            interop_tests::wait("all queues are used", Duration::from_secs(5), || {
                let frames = frames(lab, host, station.port.id)?;
                Ok(frames.len() == 4 && frames.iter().all(|&frames| frames > 100))
            })?;
        }
        for (one, other) in [(2, 3), (1, 6)] {
            for (host, queues) in [(0, one), (1, other)] {
                lab.node(host).kill();
                configure(lab, host, queues)?;
                lab.node(host).run()?;
            }
            lab.converged(Duration::from_secs(15))?;
            ping_until(&here.netns, far.port.v4()?, Duration::from_secs(15))?;
            ensure!(queues_in_kernel(lab, 0, here.port.id)? == u64::from(one));
            ensure!(queues_in_kernel(lab, 1, far.port.id)? == u64::from(other));
            all_in_order(here, far).with_context(|| format!("{one} and {other} queues"))?;
        }
        Ok(())
    });
}

#[test]
fn a_port_of_one_queue_works_on_with_more_wished_and_has_them_when_it_is_attached_anew() {
    scene(LabSpec::hosts(1).containers(2), |lab| {
        configure(lab, 0, 1)?;
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (here, far) = (&stations[0], &stations[1]);
        ping_until(&here.netns, far.port.v4()?, Duration::from_secs(5))?;
        let node = lab.node(0);
        node.kill();
        configure(lab, 0, 8)?;
        node.run()?;
        ping_until(&here.netns, far.port.v4()?, Duration::from_secs(15))?;
        ensure!(queues_in_kernel(lab, 0, here.port.id)? == 1);
        let descriptors = || -> Result<usize> {
            let pid = node.pid().context("it does not run")?;
            Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
        };
        let before = descriptors()?;
        let detach_all = || -> Result<()> {
            for port in node.ports()? {
                node.ok(&["detach", &port.id.to_string()])?;
            }
            nothing_left(&lab.hosts[0].netns)
        };
        for round in 0..3 {
            detach_all()?;
            let port = node.attach("lan", &here.netns, &[])?;
            let other = node.attach("lan", &far.netns, &[])?;
            ping_until(&here.netns, other.v4()?, Duration::from_secs(5))
                .with_context(|| format!("round {round}"))?;
            ensure!(queues_in_kernel(lab, 0, port.id)? == 8);
        }
        let rss = node.rss_mib()?;
        ensure!(rss < 64.0, "{rss} MiB");
        detach_all()?;
        interop_tests::wait("descriptors are closed", Duration::from_secs(5), || {
            Ok(descriptors()? <= before)
        })?;
        Ok(())
    });
}
