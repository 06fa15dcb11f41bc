//! Meters and counters on real traffic: a numbered UDP stream on port 666, and the fixture that meters and counts it.

use anyhow::{Result, ensure};
use interop_tests::frames::{self, Tap, mac};
use interop_tests::lab::{Lab, LabSpec, plugin, scene};
use interop_tests::netns;
use interop_tests::segment::Station;
use interop_tests::traffic::ping_until;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SUBNETS: [&str; 4] = ["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"];
const SOON: Duration = Duration::from_secs(10);
/// Ethernet, IPv4 and UDP headers.
const HEADERS: u64 = 42;
/// Longer than any burst in here.
const SETTLE: Duration = Duration::from_millis(1000);
const WINDOW: Duration = Duration::from_secs(4);

fn with_fixture(spec: LabSpec, body: impl FnOnce(&Lab, &[Station]) -> Result<()>) {
    scene(spec.containers(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNETS)?;
        let file = plugin("fixture")?;
        lab.node(0)
            .ok(&["plugin", "install", "fixture", &file.to_string_lossy()])?;
        body(lab, &stations)
    });
}

fn attach(lab: &Lab, config: &str) -> Result<()> {
    lab.node(0)
        .ok(&["plugin", "attach", "fixture", "lan", "--config", config])?;
    Ok(())
}

/// What a stream was.
struct Stream {
    /// Datagrams in all.
    sent: u64,
    /// Datagrams a second that arrived, once the burst was over.
    arrived_pps: f64,
}

/// Datagrams of `bytes`, `pps` of them a second, from one station to port 666 of another.
fn stream(from: &Station, to: &Station, bytes: usize, pps: u32) -> Result<Stream> {
    let address = SocketAddr::new(to.port.v4()?, 666);
    let inbox = netns::within(&to.netns, || Ok(UdpSocket::bind(address)?))?;
    inbox.set_read_timeout(Some(Duration::from_millis(100)))?;
    let outbox = netns::within(&from.netns, || Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    let (over, received) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let (halt, count) = (Arc::clone(&over), Arc::clone(&received));
    let receiver = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !halt.load(Ordering::Relaxed) {
            if inbox.recv(&mut buffer).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let halt = Arc::clone(&over);
    let sender = std::thread::spawn(move || {
        let (payload, start, mut sent) = (vec![7; bytes], Instant::now(), 0u64);
        while !halt.load(Ordering::Relaxed) {
            if outbox.send_to(&payload, address).is_ok() {
                sent += 1;
            }
            let due = start + Duration::from_secs_f64(sent as f64 / f64::from(pps));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        sent
    });
    std::thread::sleep(SETTLE);
    let (before, start) = (received.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(WINDOW);
    let (after, took) = (received.load(Ordering::Relaxed), start.elapsed());
    over.store(true, Ordering::Relaxed);
    let sent = sender.join().unwrap_or_default();
    let _ = receiver.join();
    Ok(Stream {
        sent,
        arrived_pps: (after - before) as f64 / took.as_secs_f64(),
    })
}

fn within(measured: f64, wanted: f64, per_cent: f64) -> Result<()> {
    let off = (measured / wanted - 1.0) * 100.0;
    eprintln!("wanted {wanted:.0}, measured {measured:.0}, off by {off:.1} %");
    ensure!(
        off.abs() <= per_cent,
        "wanted {wanted}, measured {measured}"
    );
    Ok(())
}

fn why_in(lab: &Lab, to: IpAddr) -> Result<Vec<String>> {
    let flows = lab.node(0).list("flows")?;
    let of_stream = flows.iter().filter(|flow| {
        flow.to_string().contains(&to.to_string()) || flow.to_string().contains("666")
    });
    Ok(of_stream
        .filter_map(|flow| Some(flow.get("obstacle")?.as_str()?.to_owned()))
        .collect())
}

#[test]
fn a_meter_lets_its_rate_pass_within_five_per_cent_and_names_itself_where_it_does_not() {
    with_fixture(LabSpec::hosts(2), |lab, stations| {
        let (here, far) = (&stations[0], &stations[2]);
        let to = far.port.v4()?;
        ping_until(&here.netns, to, SOON)?;
        let meters = r#"[{"name":"gold","kbps":4000},{"name":"slow","pps":300,"burst-ms":50}]"#;
        for (at, name, bytes, wanted) in [
            (
                0,
                "gold",
                1000u64,
                4_000_000.0 / 8.0 / (1000.0 + HEADERS as f64),
            ),
            (1, "slow", 200, 300.0),
        ] {
            attach(
                lab,
                &format!(r#"{{"on-port":666,"do":"meter","to":{at},"meters":{meters}}}"#),
            )?;
            let seen = stream(here, far, usize::try_from(bytes)?, 1000)?;
            within(seen.arrived_pps, wanted, 5.0)?;
            let drops = lab.node(0).list("drops")?.into_iter();
            let metered = drops
                .map(|row| row.to_string())
                .find(|row| row.contains("\"metered\""));
            let metered = metered.unwrap_or_default();
            ensure!(
                metered.contains(&format!("meter fixture/{name}")),
                "{metered}"
            );
            let flow = format!("udp {}:4000 > {to}:666", here.port.v4()?);
            let trace = lab.node(0).json(&["trace", "lan", &flow])?.to_string();
            ensure!(trace.contains(&format!("fixture/{name}")), "{trace}");
            let why = why_in(lab, to)?;
            ensure!(why.iter().any(|why| why == "metered"), "{why:?}");
        }
        let refused = lab.node(0).refused(&[
            "plugin",
            "attach",
            "fixture",
            "lan",
            "--config",
            r#"{"on-port":666,"do":"meter","to":0,"meters":[{"name":"gold"}]}"#,
        ])?;
        ensure!(refused.contains("/meters/0"), "{refused}");
        Ok(())
    });
}

#[test]
fn labels_count_every_frame_of_a_cached_flow_whether_it_passes_or_not() {
    with_fixture(LabSpec::hosts(2), |lab, stations| {
        let (here, far) = (&stations[0], &stations[2]);
        ping_until(&here.netns, far.port.v4()?, SOON)?;
        let counted = |label: u64| -> Result<(u64, u64)> {
            // Reports are milliseconds old; the counters themselves are not.
            let stats = lab.node(0).json(&["plugin", "stats"])?;
            let labels = stats
                .pointer("/0/labels")
                .and_then(|l| l.as_array())
                .cloned();
            let row = labels
                .into_iter()
                .flatten()
                .find(|row| row["label"] == label);
            let number = |row: &serde_json::Value, key: &str| row[key].as_u64().unwrap_or_default();
            Ok(row.map_or((0, 0), |row| {
                (number(&row, "packets"), number(&row, "bytes"))
            }))
        };
        attach(
            lab,
            r#"{"on-port":666,"do":"meter","to":0,"meters":[{"name":"wide","kbps":1000000}]}"#,
        )?;
        let sent = stream(here, far, 300, 500)?.sent;
        let each = 300 + HEADERS;
        ensure!(
            counted(7)? == (sent, sent * each),
            "{:?} of {sent}",
            counted(7)?
        );
        ensure!(counted(0)? == counted(7)?, "both labels of the verdict");
        attach(lab, r#"{"on-port":666,"do":"count-drop"}"#)?;
        let more = stream(here, far, 300, 500)?;
        ensure!(more.arrived_pps == 0.0, "it drops");
        let all = sent + more.sent;
        ensure!(
            counted(7)? == (all, all * each),
            "{:?} of {all}",
            counted(7)?
        );
        Ok(())
    });
}

#[test]
fn qos_holds_a_port_to_its_rate_and_its_broadcasts_to_theirs_and_resets_its_dscp() {
    scene(LabSpec::hosts(2).containers(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &SUBNETS)?;
        let (here, near, far) = (&stations[0], &stations[1], &stations[2]);
        ping_until(&here.netns, far.port.v4()?, SOON)?;
        let file = plugin("qos")?;
        let node = lab.node(0);
        node.ok(&["plugin", "install", "qos", &file.to_string_lossy()])?;
        let config = format!(
            r#"{{"meters":[{{"name":"port","kbps":3000}},{{"name":"storm","pps":50}}],
                "limits":[{{"meter":"port","port":{}}}],"storm":{{"broadcast":"storm"}},
                "trust":{{"ports":[{}],"dscp":10}}}}"#,
            here.port.id, near.port.id
        );
        node.ok(&["plugin", "attach", "qos", "lan", "--config", &config])?;
        let seen = stream(here, far, 1000, 1000)?;
        within(
            seen.arrived_pps,
            3_000_000.0 / 8.0 / (1000.0 + HEADERS as f64),
            5.0,
        )?;
        let free = stream(near, far, 1000, 500)?;
        ensure!(
            free.arrived_pps > 450.0,
            "a port without limit: {:.0} of 500",
            free.arrived_pps
        );

        // Broadcasts of its own EtherType: 250 a second for three seconds.
        let mark = b"a storm in a teacup";
        let is_storm = |frame: &[u8]| frame.windows(mark.len()).any(|window| window == mark);
        let (from, to) = (
            Tap::open(&here.netns, "eth0")?,
            Tap::open(&near.netns, "eth0")?,
        );
        let storm = frames::frame([0xff; 6], mac(&here.port.mac)?, 0x88b5, mark);
        let start = Instant::now();
        for _ in 0..750 {
            from.send(&storm)?;
            std::thread::sleep(Duration::from_millis(4));
        }
        let took = start.elapsed();
        let heard = to.hear(Duration::from_millis(300), |_| false)?;
        let heard = heard.iter().filter(|frame| is_storm(frame)).count();
        // 50 a second, and a burst of five.
        within(heard as f64, 50.0 * took.as_secs_f64() + 5.0, 10.0)?;
        let drops = lab.node(0).list("drops")?;
        ensure!(
            drops
                .iter()
                .any(|row| row.to_string().contains("meter qos/storm")),
            "{drops:?}"
        );
        let flow = format!("udp {}:4000 > {}:666", here.port.v4()?, far.port.v4()?);
        let trace = node.json(&["trace", "lan", &flow])?.to_string();
        ensure!(trace.contains("set DSCP 10"), "{trace}");
        Ok(())
    });
}
