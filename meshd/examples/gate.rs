//! The gate by hand, for measuring: `cargo xtask bench gate` runs it.
//!
//! ```text
//! gate pair ENTRIES MISS DEVICE MAC IP DEVICE MAC IP               opens the two for each other
//! gate flow ENTRIES MISS DEVICE MAC IP DEVICE MAC IP PORTS PORTS   only TCP and UDP between the first's and the second's ports
//! gate rate ENTRIES                                                how fast entries come and go: lines of name and entries a second
//! ```
//!
//! Devices and ports of the current namespace; ports are `FIRST-LAST`. What was opened stays when the program is gone, with
//! ENTRIES others beside it.

use anyhow::{Context, Result, bail};
use meshd::kernel::Netlink;
use meshd::kernel::gate::{Entry, Gate, Key, L4, attach};
use meshd_core::ident::MacAddr;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pair", entries, miss, a, a_mac, a_ip, b, b_mac, b_ip] => {
            let ends = [End::read(a, a_mac, a_ip)?, End::read(b, b_mac, b_ip)?];
            stand(entries.parse()?, miss, &ends, None).await
        }
        [
            "flow",
            entries,
            miss,
            a,
            a_mac,
            a_ip,
            b,
            b_mac,
            b_ip,
            clients,
            servers,
        ] => {
            let ends = [End::read(a, a_mac, a_ip)?, End::read(b, b_mac, b_ip)?];
            let ports = Some((range(clients)?, range(servers)?));
            stand(entries.parse()?, miss, &ends, ports).await
        }
        ["rate", entries] => rate(entries.parse()?),
        _ => bail!("usage: gate pair|flow|rate …, see the head of its source"),
    }
}

struct End<'a> {
    device: &'a str,
    mac: MacAddr,
    ip: u128,
}

impl<'a> End<'a> {
    fn read(device: &'a str, mac: &str, ip: &str) -> Result<Self> {
        let ip: Ipv4Addr = ip.parse()?;
        Ok(Self {
            device,
            mac: mac.parse().context("a MAC")?,
            ip: ip.to_ipv6_mapped().to_bits(),
        })
    }
}

fn range(words: &str) -> Result<RangeInclusive<u16>> {
    let (first, last) = words.split_once('-').context("FIRST-LAST")?;
    Ok(first.parse()?..=last.parse()?)
}

fn index(device: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(device).with_context(|| device.to_owned())
}

type Ports = (RangeInclusive<u16>, RangeInclusive<u16>);

async fn stand(entries: u32, miss: &str, ends: &[End<'_>; 2], ports: Option<Ports>) -> Result<()> {
    let refused = |(step, error)| anyhow::anyhow!("{step} the bench: {error}");
    let netlink = Netlink::here()?;
    let gate = Gate::make().map_err(refused)?;
    gate.set_path(1, true).map_err(refused)?;
    let [a, b] = ends;
    let mut keys: Vec<(Key, Entry)> = (0..entries).map(other).collect();
    for (from, to, back) in [(a, b, false), (b, a, true)] {
        let pair = Key {
            device: index(from.device)?,
            src_mac: from.mac,
            dst_mac: to.mac,
            ether_type: 0x0800,
            flow: None,
        };
        let Some((clients, servers)) = &ports else {
            keys.push((pair, Entry::new(0, 1)));
            continue;
        };
        for client in clients.clone() {
            for server in servers.clone() {
                let (src_port, dst_port) = if back {
                    (server, client)
                } else {
                    (client, server)
                };
                for ip_proto in [6, 17] {
                    let flow = L4 {
                        ip_proto,
                        src_ip: from.ip,
                        dst_ip: to.ip,
                        src_port,
                        dst_port,
                    };
                    let key = Key {
                        flow: Some(flow),
                        ..pair
                    };
                    keys.push((key, Entry::new(0, 1)));
                }
            }
        }
    }
    gate.open_all(&keys).map_err(|(_, error)| refused(error))?;
    for end in ends {
        let program = gate.port_program(index(miss)?, 1500).map_err(refused)?;
        attach(&netlink, index(end.device)?, &program, "-bench")
            .await
            .map_err(refused)?;
    }
    Ok(())
}

/// An entry of somebody else.
fn other(number: u32) -> (Key, Entry) {
    let [a, b, c, d] = number.to_be_bytes();
    let key = Key {
        device: 1,
        src_mac: MacAddr([2, 1, a, b, c, d]),
        dst_mac: MacAddr([2, 2, a, b, c, d]),
        ether_type: 0x0800,
        flow: None,
    };
    (key, Entry::new(0, 1))
}

fn rate(entries: u32) -> Result<()> {
    let refused = |(step, error)| anyhow::anyhow!("{step} the bench: {error}");
    let gate = Gate::make().map_err(refused)?;
    let all: Vec<(Key, Entry)> = (0..entries).map(other).collect();
    let tell = |name: &str, start: Instant| {
        let rate = f64::from(entries) / start.elapsed().as_secs_f64();
        println!("{name} {rate:.0}");
    };

    let start = Instant::now();
    for (key, entry) in &all {
        gate.open(key, entry).map_err(refused)?;
    }
    tell("open", start);
    let start = Instant::now();
    for (key, entry) in &all {
        gate.open(key, entry).map_err(refused)?;
    }
    tell("reopen", start);
    let start = Instant::now();
    anyhow::ensure!(gate.entries().map_err(refused)?.len() == all.len());
    tell("read", start);
    let start = Instant::now();
    for (key, _) in &all {
        gate.close(key).map_err(refused)?;
    }
    tell("close", start);
    let start = Instant::now();
    for thousand in all.chunks(1000) {
        gate.open_all(thousand)
            .map_err(|(_, error)| refused(error))?;
    }
    tell("open-1000", start);
    let start = Instant::now();
    for epoch in 0..u64::from(entries) {
        gate.set_epoch(epoch);
    }
    tell("epoch", start);
    Ok(())
}
