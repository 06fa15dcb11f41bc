//! `cargo xtask demo`: three hosts become one switch, before your eyes. Every line is a claim that is checked.

use crate::shell::{cargo, run, target};
use crate::{setup, wasm};
use anyhow::{Context, Result, bail, ensure};
use interop_tests::lab::{Lab, LabSpec, is_root, use_binary};
use interop_tests::lookup::{Kind, ask};
use interop_tests::report::Table;
use interop_tests::segment::{Station, ping_pairs};
use interop_tests::traffic::{Probe, ping_until, tcp_opens, transfer};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const DENY_SSH: &str = r#"{"deny":[{"proto":"tcp","port":22}]}"#;

/// Claims, and how they went.
#[derive(Default)]
struct Show {
    table: Vec<(String, bool, String, f64)>,
}

impl Show {
    /// Checks one claim; what it returns is shown beside it. A claim that fails does not end the show.
    fn claim(&mut self, name: &str, body: impl FnOnce() -> Result<String>) {
        let live = std::io::stdout().is_terminal();
        if live {
            print!("  … {name}\r");
            let _ = std::io::stdout().flush();
        }
        let start = Instant::now();
        let (good, detail) = match body() {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:#}")),
        };
        let seconds = start.elapsed().as_secs_f64();
        println!("  {} {name}: {detail}", if good { "✓" } else { "✗" });
        self.table.push((name.to_owned(), good, detail, seconds));
    }

    fn failed(&self) -> usize {
        self.table.iter().filter(|(_, good, ..)| !good).count()
    }

    fn summary(&self) -> String {
        let mut table = Table::new(&["claim", "result", "figure", "s"]);
        for (name, good, detail, seconds) in &self.table {
            let short = detail.lines().next().unwrap_or_default();
            table.row(&[
                name,
                &if *good { "holds" } else { "FAILED" },
                &short,
                &format!("{seconds:.1}"),
            ]);
        }
        table.text()
    }
}

/// Runs the demo; with `keep` the lab stays.
pub(crate) fn demo(keep: bool) -> Result<()> {
    ensure!(
        is_root(),
        "the demo makes network namespaces and needs root: sudo -E env PATH=\"$PATH\" cargo xtask demo"
    );
    println!("1. What the machine needs");
    setup::setup()?;
    println!(
        "2. Building the daemon and the policy plugin (minutes the first time, seconds later)"
    );
    run(&mut cargo("build --release -p meshd"))?;
    let components = wasm::plugins()?;
    use_binary(target()?.join("release/meshd"));

    println!("3. Three hosts with two containers each, in network namespaces");
    let lab = Lab::start(LabSpec::hosts(3).containers(2))?;
    let mut show = Show::default();
    if let Err(error) = scenes(&lab, &components, &mut show) {
        show.table.push((
            "the show reaches its end".into(),
            false,
            format!("{error:#}"),
            0.0,
        ));
    }
    println!("\n{}", show.summary());
    let failed = show.failed();
    if failed > 0 {
        lab.post_mortem();
    }
    if keep {
        hints(&lab);
        println!("To remove it all:\n  {}", lab.keep());
    }
    if failed > 0 {
        bail!("{failed} of {} claims failed", show.table.len());
    }
    println!("All {} claims hold.", show.table.len());
    Ok(())
}

fn scenes(lab: &Lab, plugins: &Path, show: &mut Show) -> Result<()> {
    let (a, b, c) = (lab.node(0), lab.node(1), lab.node(2));
    let mut stations: Vec<Station> = Vec::new();
    show.claim("host a starts a mesh", || {
        a.init("demo")?;
        a.run()?;
        Ok("meshd init --mesh demo; meshd run".into())
    });
    for node in [b, c] {
        show.claim(
            &format!("host {} joins by a one-time invite", node.name),
            || {
                let start = Instant::now();
                node.join(&a.invite(&[])?)?;
                node.run()?;
                interop_tests::wait("session with a", Duration::from_secs(10), || {
                    Ok(node.peers_up()? > 0)
                })?;
                Ok(format!(
                    "invite, join, run, session: {:.1} s",
                    start.elapsed().as_secs_f64()
                ))
            },
        );
    }
    show.claim("every host finds every other", || {
        lab.converged(Duration::from_secs(15))?;
        Ok("3 sessions, b and c learned of each other from a".into())
    });
    show.claim("six containers on one network", || {
        stations = lab.segment(
            "lan",
            &["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"],
        )?;
        let ips: Vec<String> = stations
            .iter()
            .filter_map(|station| Some(station.port.v4().ok()?.to_string()))
            .collect();
        Ok(format!("leased {}", ips.join(" ")))
    });
    ensure!(
        stations.len() == 6,
        "without containers there is nothing more to show"
    );
    let (first, last, middle) = (&stations[0], &stations[4], &stations[2]);
    show.claim("ping across all pairs, IPv4", || {
        Ok(format!("{} of 30", ping_pairs(&stations, false)?))
    });
    show.claim("ping across all pairs, IPv6", || {
        Ok(format!("{} of 30", ping_pairs(&stations, true)?))
    });
    show.claim("a container finds another by name", || {
        let name = format!("{}.lan.demo.internal", last.name);
        let reply = ask(&first.netns, "10.10.0.1".parse()?, &name, Kind::A)?;
        ensure!(reply.ips == [last.port.v4()?], "{name} is {:?}", reply.ips);
        Ok(format!("{name} is {}", reply.ips[0]))
    });
    show.claim("TCP both ways at once, every byte checked", || {
        let moved = transfer(&first.netns, &last.netns, last.port.v4()?, 5000, 512 << 20)?;
        Ok(format!(
            "2 x 512 MiB, {:.2} Gbit/s each way, CRC-32 {:08x} {:08x}",
            moved.gbps(),
            moved.crc_up,
            moved.crc_down
        ))
    });
    show.claim("the ACL refuses tcp/22 and nothing else", || {
        for node in [a, b, c] {
            node.ok(&[
                "plugin",
                "install",
                "acl",
                &plugins.join("acl.wasm").to_string_lossy(),
            ])?;
            node.ok(&["plugin", "attach", "acl", "lan", "--config", DENY_SSH])?;
        }
        let open = |port| {
            tcp_opens(
                &first.netns,
                &last.netns,
                last.port.v4()?,
                port,
                Duration::from_secs(2),
            )
        };
        ensure!(!open(22)?, "tcp/22 is open");
        ensure!(open(80)?, "tcp/80 is refused");
        Ok("tcp/22 refused, tcp/80 open".into())
    });
    show.claim("`meshd trace` says why", || {
        let flow = format!("tcp {}:4000 > {}:22 syn", first.port.v4()?, last.port.v4()?);
        let report = a.json(&["trace", "lan", &flow])?;
        ensure!(report["drop"] == "policy", "{report}");
        let steps = report["steps"].as_array().context("no steps")?;
        let why = steps
            .iter()
            .filter_map(|step| step["detail"].as_str())
            .find(|detail| detail.contains("acl"));
        Ok(format!(
            "{flow}: {}",
            why.context("the plugin is not named")?
        ))
    });
    let probe = Probe::start(&first.netns, &middle.netns, middle.port.v4()?, 5001, 200)?;
    show.claim("host c is killed; a and b go on", || {
        c.kill();
        let took = interop_tests::wait("c is withdrawn", Duration::from_secs(6), || {
            Ok(!a.knows_mac(&last.port.mac)?)
        })?;
        let came = probe.received();
        interop_tests::wait("traffic goes on", Duration::from_secs(2), || {
            Ok(probe.received() > came + 50)
        })?;
        Ok(format!("withdrawn after {:.1} s", took.as_secs_f64()))
    });
    show.claim("host c is back, with its containers as they were", || {
        let start = Instant::now();
        c.run()?;
        ping_until(&first.netns, last.port.v4()?, Duration::from_secs(15))?;
        Ok(format!(
            "reached {:.1} s after its start, nothing attached again",
            start.elapsed().as_secs_f64()
        ))
    });
    show.claim("meanwhile between a and b", || {
        let seen = probe.finish();
        ensure!(
            seen.lost() * 100 <= seen.sent,
            "{} of {} datagrams lost",
            seen.lost(),
            seen.sent
        );
        Ok(format!(
            "{} of {} datagrams lost, {} twice, longest silence {} ms",
            seen.lost(),
            seen.sent,
            seen.duplicated,
            seen.gap.as_millis()
        ))
    });
    Ok(())
}

fn hints(lab: &Lab) {
    println!("The lab stays. Look around:");
    for node in &lab.nodes {
        println!(
            "  export MESHD_STATE={} MESHD_SOCKET={}    # host {}",
            node.state.display(),
            node.socket.display(),
            node.name
        );
    }
    let binary = interop_tests::lab::meshd_binary().unwrap_or_default();
    println!(
        "  {} status        # also: peers, ports, fdb, drops, events, members",
        binary.display()
    );
    println!("  ip netns exec {} ping 10.10.0.1", lab.container(0, 0));
    println!("  tail -f {}", lab.node(0).log.display());
}
