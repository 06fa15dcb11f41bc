//! Figures: what a gate costs, by nftables and by tc-bpf, and how fast it changes.
//!
//! ```text
//!   container a1 eth0 == va --gate--> br0 --> vb == eth0 container a2
//!                           \--> else: tap0, which nobody reads
//! ```
//!
//! All traffic that is measured is open, so what differs is the price of the look-up. A gate that lets nothing through would
//! measure nothing. Before each gate the same is measured without one, and the ratio of the two is what counts.

use super::load::{Iperf, Traffic, Way};
use super::median;
use crate::lab::Lab;
use crate::latency::PingPong;
use crate::netns::{self, ip};
use crate::process::stay_on_core;
use crate::report::Table;
use crate::traffic;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Ports that clients use, so that flows can be opened before they begin.
const CLIENTS: std::ops::RangeInclusive<u16> = 40_000..=40_063;
/// Of iperf3, and of round trips.
const SERVERS: std::ops::RangeInclusive<u16> = 5201..=5202;
/// Device, MAC and address of each container.
const ENDS: [(&str, &str, &str); 2] = [
    ("va", "02:00:00:00:00:01", "10.99.0.1"),
    ("vb", "02:00:00:00:00:02", "10.99.0.2"),
];
/// Entries beside those that are hit, where there are many.
const MANY: u32 = 10_000;

/// A gate that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    None,
    NftPair(u32),
    NftFlow(u32),
    BpfPair(u32),
    BpfFlow(u32),
    /// The hook of tc-bpf, with a program that says nothing.
    BpfNothing,
}

const GATES: [Gate; 10] = [
    Gate::None,
    Gate::BpfNothing,
    Gate::NftPair(0),
    Gate::NftPair(MANY),
    Gate::NftFlow(0),
    Gate::NftFlow(MANY),
    Gate::BpfPair(0),
    Gate::BpfPair(MANY),
    Gate::BpfFlow(0),
    Gate::BpfFlow(MANY),
];

impl Gate {
    fn name(self) -> String {
        let others = |others| {
            if others == 0 {
                "no others".to_owned()
            } else {
                format!("{others} others")
            }
        };
        match self {
            Self::None => "no gate".to_owned(),
            Self::BpfNothing => "tc-bpf, an empty program".to_owned(),
            Self::NftPair(n) => format!("nft, pair, {}", others(n)),
            Self::NftFlow(n) => format!("nft, flow, {}", others(n)),
            Self::BpfPair(n) => format!("tc-bpf, pair, {}", others(n)),
            Self::BpfFlow(n) => format!("tc-bpf, flow, {}", others(n)),
        }
    }

    /// Takes the gate before it away and puts this one in its place.
    fn stand(self, host: &str, program: &Path) -> Result<()> {
        // Neither needs to be there.
        let _ = netns::run(host, "nft", &["delete", "table", "netdev", "gate"]);
        for (device, _, _) in ENDS {
            let _ = netns::run(host, "tc", &["qdisc", "del", "dev", device, "clsact"]);
        }
        match self {
            Self::None => Ok(()),
            Self::BpfNothing => ENDS.iter().try_for_each(|(device, _, _)| {
                let words = format!("filter add dev {device} ingress protocol all bpf bytecode");
                let mut words: Vec<&str> = words.split(' ').collect();
                netns::run(host, "tc", &["qdisc", "add", "dev", device, "clsact"])?;
                // One instruction: return 0, no match.
                words.push("1,6 0 0 0");
                netns::run(host, "tc", &words).map(|_| ())
            }),
            Self::NftPair(others) => nft(host, &pair_table(others)),
            Self::NftFlow(others) => nft(host, &flow_table(others)),
            Self::BpfPair(others) => bpf(host, program, "pair", others, &[]),
            Self::BpfFlow(others) => {
                let ports = [CLIENTS, SERVERS].map(|r| format!("{}-{}", r.start(), r.end()));
                bpf(host, program, "flow", others, &ports)
            }
        }
    }
}

fn bpf(host: &str, program: &Path, kind: &str, others: u32, ports: &[String]) -> Result<()> {
    let others = others.to_string();
    let mut command = netns::command(host, program)?;
    command.args([kind, &others, "tap0"]);
    for (device, mac, ip) in ENDS {
        command.args([device, mac, ip]);
    }
    netns::output(command.args(ports)).map(|_| ())
}

/// One transaction.
fn nft(host: &str, text: &str) -> Result<()> {
    let mut command = netns::command(host, "nft")?;
    feed(command.args(["-f", "-"]), text)
}

fn feed(command: &mut Command, text: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no standard input")?;
    input.write_all(text.as_bytes())?;
    drop(input);
    let out = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "nft: {}", errors.trim());
    Ok(())
}

/// The MACs of somebody else's pair.
fn other(number: u32) -> String {
    let [a, b, c, d] = number.to_be_bytes();
    format!("02:01:{a:02x}:{b:02x}:{c:02x}:{d:02x} . 02:02:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Elements are counted, as the other gate's are.
fn table(set: &str, elements: &[String], key: &str) -> String {
    let mut text = format!(
        "table netdev gate {{\nset open {{ {set}; size 65536; counter; elements = {{ {} }} }}\n",
        elements.join(", ")
    );
    for (device, _, _) in ENDS {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "chain {device} {{ type filter hook ingress device \"{device}\" priority 0; policy accept; {key} @open accept; fwd to \"tap0\"; }}"
        );
    }
    text + "}\n"
}

fn pair_table(others: u32) -> String {
    let [(_, a, _), (_, b, _)] = ENDS;
    let mut elements = vec![format!("{a} . {b}"), format!("{b} . {a}")];
    elements.extend((0..others).map(other));
    let key = "ether saddr . ether daddr";
    table("type ether_addr . ether_addr", &elements, key)
}

fn flow_table(others: u32) -> String {
    let [(_, a, a_ip), (_, b, b_ip)] = ENDS;
    let mut elements = Vec::new();
    for (client, server) in CLIENTS.flat_map(|c| SERVERS.map(move |s| (c, s))) {
        for proto in ["tcp", "udp"] {
            elements.push(format!(
                "{a} . {b} . {a_ip} . {b_ip} . {proto} . {client} . {server}"
            ));
            elements.push(format!(
                "{b} . {a} . {b_ip} . {a_ip} . {proto} . {server} . {client}"
            ));
        }
    }
    elements.extend(
        (0..others).map(|number| format!("{} . {a_ip} . {b_ip} . tcp . 1 . 2", other(number))),
    );
    let key = "ether saddr . ether daddr . ip saddr . ip daddr . ip protocol . th sport . th dport";
    // `typeof`: of more than five types nft 1.0.6 forgets the first ones.
    table(&format!("typeof {key}"), &elements, key)
}

/// Two containers on one bridge; neither asks for the other's MAC, since ARP never passes a gate.
fn wire(lab: &Lab) -> Result<Way> {
    let host = &lab.hosts[0].netns;
    ip(&format!(
        "-n {host} link add br0 type bridge mcast_snooping 0"
    ))?;
    ip(&format!("-n {host} link set br0 up"))?;
    ip(&format!("-n {host} tuntap add tap0 mode tap"))?;
    ip(&format!("-n {host} link set tap0 up"))?;
    for (at, (device, mac, address)) in ENDS.into_iter().enumerate() {
        let container = lab.container(0, at);
        ip(&format!(
            "-n {host} link add {device} type veth peer name eth0 address {mac} netns {container}"
        ))?;
        ip(&format!("-n {host} link set dev {device} master br0 up"))?;
        ip(&format!("-n {container} addr add {address}/24 dev eth0"))?;
        ip(&format!("-n {container} link set eth0 up"))?;
        let (_, far_mac, far) = ENDS[1 - at];
        ip(&format!(
            "-n {container} neigh replace {far} lladdr {far_mac} dev eth0 nud permanent"
        ))?;
        let range = format!(
            "net.ipv4.ip_local_port_range={} {}",
            CLIENTS.start(),
            CLIENTS.end()
        );
        netns::run(
            container,
            "sysctl",
            &["-qw", &range, "net.ipv4.tcp_tw_reuse=1"],
        )?;
    }
    let to: IpAddr = ENDS[1].2.parse()?;
    let way = Way {
        client: lab.container(0, 0).into(),
        server: lab.container(0, 1).into(),
        to,
    };
    traffic::ping_until(&way.client, way.to, Duration::from_secs(5))?;
    Ok(way)
}

/// What is measured of one gate: TCP, small datagrams, round trips.
type Figures = [f64; 3];

/// All of it on one core, so that what is measured is work and not luck with cores: a round trip between two of them takes
/// four times as long as on one. What others take of the core in that time does not count, but for round trips.
fn measure(way: &Way, seconds: u32) -> Result<Figures> {
    let on_one_core = || {
        stay_on_core(0)?;
        let tcp = Iperf {
            traffic: Traffic::STREAM,
            seconds,
            port: *SERVERS.start(),
        }
        .run(way)?;
        let echo_port = *SERVERS.end();
        let time = Duration::from_secs(seconds.into());
        let trip = PingPong::lasting(time).run(&way.client, &way.server, way.to, echo_port)?;
        Ok([
            tcp.gbps / (tcp.cpu_percent / 100.0),
            1e6 / send(way, echo_port)?,
            trip.p50_us,
        ])
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(on_one_core);
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What each gate costs. `program` is the example `gate` of package meshd; `say` is told what is going on.
///
/// # Errors
/// If the kernel refuses, or a measure fails.
pub fn cost(
    lab: &Lab,
    program: &Path,
    rounds: usize,
    seconds: u32,
    mut say: impl FnMut(&str),
) -> Result<Table> {
    let way = wire(lab)?;
    let host = &lab.hosts[0].netns;
    let mut figure = |gate: Gate| -> Result<Figures> {
        gate.stand(host, program).with_context(|| gate.name())?;
        let figures = measure(&way, seconds).with_context(|| gate.name())?;
        let [tcp, udp, trip] = figures;
        say(&format!(
            "{:<26} {tcp:6.1} {udp:6.1} {trip:6.1}",
            gate.name()
        ));
        Ok(figures)
    };
    // [gate][measure][round], of each gate and of the run without one just before it.
    let mut pairs = vec![vec![Vec::new(); 3]; GATES.len()];
    for _ in 1..=rounds {
        for (gate, pairs) in GATES.into_iter().zip(&mut pairs) {
            let (without, with) = (figure(Gate::None)?, figure(gate)?);
            for (pairs, pair) in pairs.iter_mut().zip(without.into_iter().zip(with)) {
                pairs.push(pair);
            }
        }
    }
    let mut table = Table::new(&[
        "gate, and what else is open",
        "TCP Gbit a core second",
        "× no gate",
        "UDP 64 B 1000 a core second",
        "× no gate",
        "RTT p50 µs",
        "× no gate",
    ]);
    for (gate, pairs) in GATES.into_iter().zip(pairs) {
        let mut cells = vec![gate.name()];
        for pairs in pairs {
            let ratios = pairs.iter().map(|(without, with)| with / without);
            let ratio = median(ratios.collect());
            cells.push(format!(
                "{:.1}",
                median(pairs.iter().map(|pair| pair.1).collect())
            ));
            cells.push(format!("{ratio:.3}"));
        }
        let cells: Vec<&dyn std::fmt::Display> = cells.iter().map(|cell| cell as _).collect();
        table.row(&cells);
    }
    Ok(table)
}

/// What one small datagram costs, nanoseconds of processor time: the sender's thread carries it through gate and bridge up to
/// the receiver's socket, which is full, in one go. Others who are at work at the same time do not count.
fn send(way: &Way, port: u16) -> Result<f64> {
    const COUNT: u32 = 200_000;
    let _sink = netns::within(&way.server, || Ok(UdpSocket::bind((way.to, port))?))?;
    netns::within(&way.client, || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((way.to, port))?;
        let start = own_time()?;
        for _ in 0..COUNT {
            socket.send(&[0; 64])?;
        }
        Ok((own_time()? - start) / f64::from(COUNT))
    })
}

/// Nanoseconds that this thread was on a processor (proc(5): schedstat).
fn own_time() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// How fast entries come and go, entries a second.
///
/// # Errors
/// If the kernel refuses.
pub fn rate(lab: &Lab, program: &Path) -> Result<Table> {
    let host = &lab.hosts[0].netns;
    let mut table = Table::new(&["change", "entries a second"]);
    let entries = 50_000;
    let told = netns::run(
        host,
        &program.to_string_lossy(),
        &["rate", &entries.to_string()],
    )?;
    for (name, rate) in told.lines().filter_map(|line| line.split_once(' ')) {
        table.row(&[&format!("tc-bpf: {}", in_words(name)), &rate]);
    }
    let open = |range: std::ops::Range<u32>| {
        let elements: Vec<String> = range.map(other).collect();
        format!(
            "add element netdev gate open {{ {} }}\n",
            elements.join(", ")
        )
    };
    let lines = |range: std::ops::Range<u32>| range.map(|n| open(n..n + 1)).collect::<String>();
    let thousands = |range: std::ops::Range<u32>| -> String {
        range.step_by(1000).map(|n| open(n..n + 1000)).collect()
    };
    let mut measure = |name: &str, count: u32, words: &[&str], text: String| -> Result<()> {
        nft(host, "add table netdev gate; delete table netdev gate;")?;
        nft(host, &pair_table(0))?;
        let start = Instant::now();
        feed(netns::command(host, "nft")?.args(words), &text)?;
        let rate = f64::from(count) / start.elapsed().as_secs_f64();
        table.row(&[&format!("nft: {name}"), &format!("{rate:.0}")]);
        Ok(())
    };
    // A session of nft takes each line as a transaction; so does not each pay for the start of a program.
    measure("open, one a transaction", 2000, &["-i"], lines(0..2000))?;
    measure(
        "open, 1000 a transaction",
        entries,
        &["-i"],
        thousands(0..entries),
    )?;
    measure(
        "open, all in one transaction",
        entries,
        &["-f", "-"],
        open(0..entries),
    )?;
    Ok(table)
}

fn in_words(name: &str) -> &str {
    match name {
        "open" => "open, one a call",
        "reopen" => "open again with the counts kept, one a call",
        "read" => "read all",
        "close" => "close, one a call",
        "open-1000" => "open, 1000 a call",
        "epoch" => "close all by the epoch (times a second, whatever their number)",
        other => other,
    }
}
