//! `meshd doctor` finds what is made wrong here, by its word, with figures and a line to type; and its archive has no secrets.
//!
//! Each scene has several faults, made and mended one after the other.

#[path = "doctor/bundle.rs"]
mod bundle;
#[path = "doctor/underlay.rs"]
mod underlay;

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, plugin, scene};
use interop_tests::netns::{self, ip};
use interop_tests::node::{Node, Told};
use interop_tests::traffic::ping_until;
use interop_tests::wait;
use serde_json::Value;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// What the doctor says, however bad it is; and how long it took.
fn doctor(node: &Node) -> Result<(Vec<Value>, Told)> {
    let begun = Instant::now();
    let told = node.tell(&["doctor", "--json"])?;
    let value: Value = serde_json::from_str(&told.stdout).with_context(|| format!("{told:?}"))?;
    let checks = value["checks"].as_array().context("no checks")?.clone();
    ensure!(
        begun.elapsed()
            < Duration::from_secs(6) * interop_tests::slow() * interop_tests::patience(),
        "the doctor took {:?}",
        begun.elapsed()
    );
    let fails = checks.iter().any(|check| check["state"] == "fail");
    ensure!(
        (told.code == 1) == fails,
        "exit code {}: {checks:?}",
        told.code
    );
    for check in &checks {
        let well = check["state"] == "ok";
        ensure!(
            check["code"].is_null() == well && check["advice"].is_null() == well,
            "{check}"
        );
    }
    Ok((checks, told))
}

fn coded<'a>(checks: &'a [Value], code: &str) -> Vec<&'a Value> {
    checks
        .iter()
        .filter(|check| check["code"] == code)
        .collect()
}

/// Waits until the doctor of a node has found `code`, with all these words in what it says.
fn finds(node: &Node, code: &str, words: &[&str]) -> Result<()> {
    let mut last = Vec::new();
    let found = wait(
        &format!("{} finds {code} {words:?}", node.name),
        SOON,
        || {
            last = doctor(node)?.0;
            let texts = coded(&last, code).into_iter().map(Value::to_string);
            Ok(texts
                .into_iter()
                .any(|text| words.iter().all(|word| text.contains(word))))
        },
    );
    found.map(drop).with_context(|| {
        let shown: Vec<_> = last.iter().filter(|check| check["state"] != "ok").collect();
        format!("the last one said {shown:#?}")
    })
}

/// The doctor of a node has none of these to say.
fn finds_none(node: &Node, codes: &[&str]) -> Result<()> {
    let (checks, _) = doctor(node)?;
    for code in codes {
        let found = coded(&checks, code);
        ensure!(found.is_empty(), "{found:?}");
    }
    Ok(())
}

fn in_netns(netns: &str, words: &str) -> Result<String> {
    let words: Vec<&str> = words.split(' ').collect();
    netns::run(netns, words[0], &words[1..])
}

#[test]
fn a_black_hole_of_the_underlay_is_found_to_the_byte_and_ports_are_looked_into() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (a, inside) = (lab.node(0), &stations[0].netns);
        ping_until(inside, stations[1].port.v4()?, SOON)?;
        let codes = [
            "underlay-mtu-hole",
            "port-mtu",
            "dns-silent",
            "resolver-foreign",
            "clock-skew",
            "nat",
            "duplicate-claim",
            "version-differs",
            "network-differs",
        ];
        wait("all is well", SOON, || Ok(finds_none(a, &codes).is_ok()))
            .or_else(|_| finds_none(a, &codes).map(|()| Duration::ZERO))?;
        let (checks, _) = doctor(a)?;
        for name in [
            "packet sizes",
            "clocks of peers",
            "NAT",
            "agreement",
            "versions",
            "rights",
            "disk",
            "ports from inside",
        ] {
            ensure!(
                checks
                    .iter()
                    .any(|check| check["name"] == name && check["state"] == "ok"),
                "{name}: {checks:#?}"
            );
        }

        // What does not fit into the port of the bridge vanishes without a word.
        ip(&format!("-n {} link set dev b mtu 1400", lab.wire))?;
        // IPv6 has 48 bytes of headers, IPv4 28.
        let most = if stations_by_v6(a)? { "1352" } else { "1372" };
        finds(
            a,
            "underlay-mtu-hole",
            &[
                &format!("above {most} bytes"),
                "und0 here has MTU 1500",
                "ip link set dev und0 mtu 1400",
            ],
        )?;
        ip(&format!("-n {} link set dev b mtu 1500", lab.wire))?;
        finds_none(a, &["underlay-mtu-hole"])?;

        ip(&format!("-n {inside} link set eth0 mtu 1500"))?;
        finds(
            a,
            "port-mtu",
            &["has MTU 1500, network lan has 1380", "mtu 1380"],
        )?;
        ip(&format!("-n {inside} link set eth0 mtu 1380"))?;

        in_netns(inside, "nft add table inet deaf")?;
        in_netns(
            inside,
            "nft add chain inet deaf out { type filter hook output priority 0 ; }",
        )?;
        in_netns(inside, "nft add rule inet deaf out udp dport 53 drop")?;
        finds(a, "dns-silent", &["10.10.0.1 does not answer"])?;
        in_netns(inside, "nft delete table inet deaf")?;

        // As `ip netns` has it, and the daemon wrote it.
        let resolver = Path::new("/etc/netns").join(inside).join("resolv.conf");
        let ours = std::fs::read(&resolver).context("the daemon wrote no resolv.conf")?;
        std::fs::write(&resolver, "nameserver 192.0.2.53\n")?;
        let found = finds(
            a,
            "resolver-foreign",
            &["asks 192.0.2.53", "nameserver 10.10.0.1"],
        );
        std::fs::write(&resolver, ours)?;
        found?;

        in_netns(&lab.hosts[0].netns, "ethtool -K und0 gso off")?;
        finds(
            a,
            "nic-offload",
            &["tx-generic-segmentation is off", "ethtool -K und0 gso on"],
        )?;
        in_netns(&lab.hosts[0].netns, "ethtool -K und0 gso on")?;

        // As by a unit without LimitNOFILE.
        let pid = a.pid().context("it runs")?.to_string();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let limit = |files: usize| {
            let done = Command::new("prlimit")
                .args(["--pid", &pid, &format!("--nofile={files}:")])
                .status()?;
            ensure!(done.success(), "prlimit");
            Ok(())
        };
        limit(open + open / 10 + 4)?;
        finds(a, "descriptors-low", &["LimitNOFILE=65536"])?;
        limit(1024)?;

        // A daemon that has no time loses what comes, and does not answer; the doctor still ends.
        let stop = |signal: &str| {
            let done = Command::new("kill").args([signal, &pid]).status()?;
            ensure!(done.success(), "kill");
            Ok(())
        };
        stop("-STOP")?;
        netns::within(&lab.hosts[1].netns, || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            for _ in 0..30_000 {
                socket.send_to(&[0; 1200], "192.0.2.1:7650")?;
            }
            Ok(())
        })?;
        let stuck = finds(a, "daemon-stuck", &["has not answered within"]);
        // Commands do not wait for it, either, and name the process.
        let begun = Instant::now();
        let commands = [
            &["status"][..],
            &["drops", "--watch"],
            &["events", "-f"],
            &["capture", "lan", "--for", "2s"],
        ];
        let told: Result<Vec<_>> = commands.iter().map(|words| a.refused(words)).collect();
        let took = begun.elapsed();
        stop("-CONT")?;
        stuck?;
        for said in told? {
            ensure!(
                said.contains("daemon-stuck")
                    && said.contains(&format!("(process {pid}) is stopped")),
                "{said}"
            );
        }
        ensure!(took < Duration::from_secs(40), "{took:?} for four commands");
        finds(
            a,
            "socket-overflow",
            &["datagrams of peers were thrown away"],
        )?;

        // One node trusts the wire, the other does not.
        lab.set_fast_path(0, true)?;
        a.restart()?;
        lab.converged(SOON)?;
        finds(a, "trust-differs", &["b trusts nothing", "trusted = ["])?;
        Ok(())
    });
}

/// Is the session with the peer over IPv6?
fn stations_by_v6(node: &Node) -> Result<bool> {
    let peers = node.list("peers")?;
    let remote = peers.first().and_then(|peer| peer["remote"].as_str());
    Ok(remote.context("no session")?.starts_with('['))
}

#[test]
fn each_way_of_not_reaching_a_peer_has_its_own_word() {
    let spec = LabSpec {
        v6: false,
        ..LabSpec::hosts(2)
    };
    scene(spec, |lab| {
        lab.mesh()?;
        let a = lab.node(0);
        lab.node(1).kill();
        finds(a, "peer-refuses", &["nobody listens on 192.0.2.2:7650"])?;
        lab.deafen(1, "udp dport 7650")?;
        finds(
            a,
            "peer-udp-blocked",
            &[
                "UDP to 192.0.2.2:7650 is not answered, while the host answers to ping",
                "udp dport 7650 accept",
            ],
        )?;
        // A tunnel on the way that is too narrow for QUIC.
        lab.heal()?;
        lab.deafen(1, "ip length > 1000")?;
        finds(
            a,
            "underlay-mtu-small",
            &["small pings to 192.0.2.2:7650 are answered"],
        )?;
        lab.heal()?;
        lab.cut(0, 1)?;
        finds(
            a,
            "peer-silent",
            &["nothing comes back from 192.0.2.2:7650"],
        )?;
        lab.heal()?;
        let host = &lab.hosts[0].netns;
        in_netns(host, "nft add table inet fw")?;
        in_netns(
            host,
            "nft add chain inet fw out { type filter hook output priority 0 ; }",
        )?;
        in_netns(host, "nft add rule inet fw out udp dport 7650 drop")?;
        finds(a, "local-firewall", &["refuses UDP to 192.0.2.2:7650"])?;
        in_netns(host, "nft delete table inet fw")?;
        lab.node(1).run()?;
        lab.converged(SOON)?;
        finds_none(
            a,
            &[
                "peer-refuses",
                "peer-udp-blocked",
                "peer-silent",
                "local-firewall",
                "peer-unreached",
            ],
        )
    });
}

#[test]
fn a_nat_that_maps_by_peer_is_told_from_none() {
    let spec = LabSpec {
        v6: false,
        ..LabSpec::hosts(3)
    };
    scene(spec, |lab| {
        let host = &lab.hosts[2].netns;
        for rule in [
            "nft add table ip nat",
            "nft add chain ip nat post { type nat hook postrouting priority 100 ; }",
            "nft add rule ip nat post ip daddr 192.0.2.1 udp sport 7650 snat to 192.0.2.3:40001",
            "nft add rule ip nat post ip daddr 192.0.2.2 udp sport 7650 snat to 192.0.2.3:40002",
            "nft add table ip fw",
            "nft add chain ip fw in { type filter hook input priority 0 ; }",
            // As behind a NAT: nobody dials in.
            "nft add rule ip fw in ct state new udp dport 7650 drop",
        ] {
            in_netns(host, rule)?;
        }
        lab.mesh()?;
        finds(
            lab.node(2),
            "nat-symmetric",
            &[
                "a sees 192.0.2.3:40001",
                "b sees 192.0.2.3:40002",
                "advertise =",
            ],
        )?;
        finds_none(lab.node(0), &["nat", "nat-symmetric"])
    });
}

#[test]
fn vxlan_that_a_firewall_drops_is_told_and_so_are_two_claims_to_one_address() {
    scene(LabSpec::hosts(2).trusted(), |lab| {
        for index in 0..2 {
            lab.deafen(index, "udp dport 4789")?;
        }
        lab.mesh()?;
        lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let a = lab.node(0);
        finds(
            a,
            "vxlan-blocked",
            &["network lan", "udp dport 4789 accept"],
        )?;
        lab.heal()?;

        // Made in a partition, found when the parts meet.
        lab.partition(&[1])?;
        wait("b is alone", SOON, || Ok(lab.node(1).peers_up()? == 0))?;
        for (index, suffix) in [(0, "x"), (1, "y")] {
            let container = lab.add_container(index, suffix)?;
            let claim = || {
                lab.node(index)
                    .attach("lan", &container, &["--ip", "10.10.0.50/24"])
            };
            wait("the address is free there", SOON, || Ok(claim().is_ok()))?;
        }
        lab.heal()?;
        lab.converged(SOON)?;
        finds(
            a,
            "duplicate-claim",
            &["address 10.10.0.50", "keeps it", "--ip"],
        )?;
        let (_, told) = doctor(a)?;
        ensure!(told.code == 1, "a fault is no success");
        Ok(())
    });
}

/// Ends with its value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_peer_whose_clock_is_wrong_and_a_plugin_that_only_one_has_are_told() {
    let preload = Path::new("/usr/lib").join(format!(
        "{}-linux-gnu/faketime/libfaketimeMT.so.1",
        std::env::consts::ARCH
    ));
    if !preload.exists() {
        use std::io::Write;
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED, NOT TESTED: {} is not here (`cargo xtask setup`)",
            preload.display()
        );
        return;
    }
    scene(LabSpec::hosts(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (a, late) = (lab.node(0), lab.node(2));
        late.stop()?;
        let mut command = late.command()?;
        command
            .arg("run")
            .env("LD_PRELOAD", &preload)
            .env("FAKETIME", "+95s");
        command
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running = Killed(command.spawn()?);
        finds(
            a,
            "clock-skew",
            &[
                "that of c is 9",
                "ahead of this host's",
                "so it is that of c",
            ],
        )?;
        drop(running);
        late.run()?;
        lab.converged(SOON)?;

        let file = plugin("acl")?;
        let file = file.to_str().context("its path")?;
        let rules = r#"{"deny":[{"proto":"tcp","port":23}]}"#;
        a.ok(&["plugin", "install", "acl", file])?;
        a.ok(&["plugin", "attach", "acl", "lan", "--config", rules])?;
        finds(a, "policy-differs", &["acl", "no plugin at b"])?;

        // A plugin that breaks at each question is not asked any more.
        let file = plugin("fixture")?;
        a.ok(&[
            "plugin",
            "install",
            "bad",
            file.to_str().context("its path")?,
        ])?;
        let config = r#"{"on-port":666,"do":"trap"}"#;
        a.ok(&["plugin", "attach", "bad", "lan", "--config", config])?;
        let (inside, to) = (&stations[0].netns, stations[1].port.v4()?);
        ping_until(inside, to, SOON)?;
        netns::within(inside, || {
            for _ in 0..20 {
                UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (to, 666))?;
            }
            Ok(())
        })?;
        finds(
            a,
            "plugin-broken",
            &["plugin bad on lan", "failed 5 times", "rollback bad"],
        )
    });
}

#[test]
fn without_a_daemon_the_host_is_examined_and_each_fault_of_it_has_its_word() {
    scene(LabSpec::hosts(1), |lab| {
        let (a, host) = (lab.node(0), &lab.hosts[0].netns);
        a.init("lab")?;
        let (checks, told) = doctor(a)?;
        ensure!(
            told.code == 0 && coded(&checks, "daemon-down").len() == 1,
            "{checks:#?}"
        );

        // Somebody else has our ports.
        let holder = netns::within(host, || {
            Ok((
                UdpSocket::bind("0.0.0.0:7650")?,
                UdpSocket::bind("0.0.0.0:4789")?,
            ))
        })?;
        lab.set_fast_path(0, true)?;
        let pid = format!("(pid {})", std::process::id());
        finds(a, "port-taken", &["7650 is taken by", &pid])?;
        finds(a, "port-taken", &["UDP 4789 is taken by", &pid])?;
        drop(holder);
        finds_none(a, &["port-taken"])?;

        // A second uplink, and the reverse path is checked strictly.
        ip(&format!("-n {host} link add und1 type veth peer name far1"))?;
        ip(&format!("-n {host} link set far1 up"))?;
        ip(&format!("-n {host} link set und1 up"))?;
        ip(&format!("-n {host} addr add 198.51.100.1/24 dev und1"))?;
        netns::within(host, || {
            Ok(std::fs::write(
                "/proc/sys/net/ipv4/conf/und1/rp_filter",
                "1",
            )?)
        })?;
        finds(
            a,
            "reverse-path",
            &["strict on und1", "2 interfaces", "rp_filter=2"],
        )?;
        ip(&format!("-n {host} link set und1 mtu 1200"))?;
        finds(a, "underlay-mtu-small", &["und1 has MTU 1200"])?;
        ip(&format!("-n {host} link del und1"))?;

        // Rights, by name and by what falls away.
        let with = |program: &str, words: &[&str]| -> Result<String> {
            let meshd = a.command()?;
            let mut command = netns::command(host, program)?;
            command
                .args(words)
                .arg(meshd.get_program())
                .args(["doctor", "--json"]);
            command.envs(
                meshd
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            );
            let out = command.output()?;
            Ok(String::from_utf8(out.stdout)?)
        };
        let told = with(
            "setpriv",
            &[
                "--bounding-set",
                "-sys_admin,-bpf",
                "--inh-caps",
                "-sys_admin,-bpf",
            ],
        )?;
        ensure!(
            told.contains("rights-missing") && told.contains("lacks CAP_SYS_ADMIN, CAP_BPF"),
            "{told}"
        );

        // A disk that is full, and one that takes nothing.
        let small = |options: &str| {
            let script = format!(
                "mount -t tmpfs -o {options} t '{}' && exec \"$0\" \"$@\"",
                a.state.display()
            );
            with("unshare", &["--mount", "sh", "-c", &script])
        };
        let told = small("size=1m,mode=700")?;
        ensure!(told.contains("disk-low"), "{told}");
        let told = small("ro,mode=700")?;
        ensure!(
            told.contains("state-unkept") && told.contains("read-only"),
            "{told}"
        );

        // A config that does not read, and a folder that others can read.
        std::fs::write(&a.config, "[underlay]\nlisten = 7\n")?;
        finds(a, "config-invalid", &["listen"])?;
        std::fs::remove_file(&a.config)?;
        let mode = |mode| {
            std::fs::set_permissions(&a.state, std::os::unix::fs::PermissionsExt::from_mode(mode))
        };
        mode(0o755)?;
        finds(a, "state-folder", &["has mode 755", "chmod 700"])?;
        mode(0o700)?;
        Ok(())
    });
}
