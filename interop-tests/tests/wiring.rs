//! Ports, leases and claims.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, nothing_left, scene};
use interop_tests::netns;
use interop_tests::traffic::{ping, ping_until};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

const BOTH: [&str; 4] = ["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"];

#[test]
fn attach_again_is_the_same_port_and_detach_leaves_nothing() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("lan", &BOTH)?;
        let (node, container) = (lab.node(0), lab.container(0, 0));
        let before = netns::run(&node.netns, "ip", &["-o", "link", "show"])?
            .lines()
            .count();
        let first = node.attach("lan", container, &["--name", "web"])?;
        let again = node.attach("lan", container, &["--name", "web"])?;
        ensure!(
            (first.id, &first.mac, &first.ips) == (again.id, &again.mac, &again.ips),
            "{first:?}, then {again:?}"
        );
        let shown = netns::run(container, "ip", &["-o", "addr", "show", "eth0"])?;
        ensure!(
            first.ips.iter().all(|ip| shown.contains(&ip.to_string())),
            "{shown}"
        );
        let link = netns::run(container, "ip", &["-o", "link", "show", "eth0"])?;
        ensure!(
            link.contains(&first.mac) && link.contains("mtu 1380"),
            "{link}"
        );
        lab.node(1).learns(&first.mac)?;

        node.ok(&["detach", "web"])?;
        ensure!(node.ports()?.is_empty());
        nothing_left(&node.netns)?;
        ensure!(
            netns::run(container, "ip", &["-o", "link", "show"])?
                .lines()
                .count()
                == 1,
            "only lo is left in the container"
        );
        let after = netns::run(&node.netns, "ip", &["-o", "link", "show"])?
            .lines()
            .count();
        ensure!(
            before == after,
            "{before} devices on the host before, {after} after"
        );
        interop_tests::wait("withdrawn", Duration::from_secs(5), || {
            Ok(!lab.node(1).knows_mac(&first.mac)?)
        })?;
        ensure!(
            node.tell(&["detach", "web"])?.code == 1,
            "a second detach is refused with words"
        );
        Ok(())
    });
}

#[test]
fn interface_names_are_bytes_and_never_commands() {
    scene(LabSpec::hosts(1), |lab| {
        let (node, container) = (lab.node(0), lab.container(0, 0));
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let names: [&[u8]; 8] = [
            "\u{1f980}".as_bytes(),
            b"-x",
            b"%d",
            b"eth%d",
            b"\xff\xfe\x80",
            b"$(id)",
            b"a;b|c&d",
            "caf\u{e9}\u{202e}".as_bytes(),
        ];
        for name in names {
            let before = links(container)?;
            let option = [b"--ifname=", name].concat();
            let words: [&OsStr; 7] = [
                OsStr::new("attach"),
                OsStr::new("lan"),
                OsStr::new("--netns"),
                OsStr::new(container),
                // One word, so that a name with a leading dash is no option.
                OsStr::from_bytes(&option),
                OsStr::new("--json"),
                OsStr::new("--ip=auto"),
            ];
            let text = node.ok(&words)?;
            let port: serde_json::Value =
                serde_json::from_str(&text).context("attach prints JSON")?;
            let added: Vec<Vec<u8>> = links(container)?.difference(&before).cloned().collect();
            ensure!(added.len() == 1, "one more interface, not {added:?}");
            if !name.contains(&b'%') {
                ensure!(added[0] == name, "asked for {name:?}, got {:?}", added[0]);
            }
            let table = node.ok(&["ports"])?;
            ensure!(
                !table.contains('\u{202e}') && table.chars().all(|c| c == '\n' || !c.is_control()),
                "shown escaped: {table:?}"
            );
            node.ok(&["detach", &port["id"].to_string()])?;
            ensure!(links(container)? == before, "nothing is left of {name:?}");
        }
        for name in ["", "a b", "a/b", "..", "sixteen-bytes-xx"] {
            let told = node.tell(&[
                "attach",
                "lan",
                "--netns",
                container,
                &format!("--ifname={name}"),
            ])?;
            ensure!(told.code == 1 || told.code == 2, "{name:?} was taken");
        }
        ensure!(!node.panicked());
        Ok(())
    });
}

/// Names of all interfaces in `netns`, as bytes.
fn links(netns: &str) -> Result<BTreeSet<Vec<u8>>> {
    let out = netns::command(netns, "cat")?
        .arg("/proc/thread-self/net/dev")
        .output()?;
    let lines = out.stdout.split(|byte| *byte == b'\n').skip(2);
    // The name ends at the last colon before the counters; a name holds none.
    Ok(lines
        .filter_map(|line| {
            Some(
                line[..line.iter().position(|byte| *byte == b':')?]
                    .trim_ascii_start()
                    .to_vec(),
            )
        })
        .collect())
}

#[test]
fn a_namespace_that_goes_away_frees_port_and_address() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        // Room for three: .1 is the service, so two leases.
        lab.network("tiny", &["--subnet", "10.10.0.0/30"])?;
        let gone = lab.add_container(0, "gone")?;
        let first = lab.node(0).attach("tiny", &gone, &["--name", "brief"])?;
        lab.node(1).learns(&first.mac)?;
        netns::ip(&format!("netns del {gone}"))?;
        interop_tests::wait("the port is given up", Duration::from_secs(5), || {
            Ok(lab.node(0).ports()?.is_empty())
        })?;
        interop_tests::wait("and withdrawn", Duration::from_secs(5), || {
            Ok(!lab.node(1).knows_mac(&first.mac)?)
        })?;
        nothing_left(&lab.hosts[0].netns)?;
        let second = lab.node(0).attach("tiny", lab.container(0, 0), &[])?;
        ensure!(
            second.v4()? == first.v4()?,
            "the address is free again: {first:?}, {second:?}"
        );
        Ok(())
    });
}

#[test]
fn a_namespace_that_goes_with_its_ports_is_told_of_the_ports_and_nobody_is_blamed() {
    scene(LabSpec::hosts(2).trusted(), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &BOTH)?;
        let node = lab.node(0);
        // The kernel forwards, so the network has a bridge, and ports are in it.
        node.waits_for_kernel_path("b", true, Duration::from_secs(15))?;
        let gone = lab.add_container(0, "gone")?;
        for ifname in ["eth0", "eth1", "eth2"] {
            node.attach("lan", &gone, &["--ifname", ifname])?;
        }
        let far = stations[1].port.v4()?;
        ping_until(&stations[0].netns, far, Duration::from_secs(10))?;
        netns::ip(&format!("netns del {gone}"))?;
        interop_tests::wait("the ports are given up", Duration::from_secs(10), || {
            Ok(node.ports()?.len() == 1)
        })?;
        ensure!(node.events("port-gone")?.len() == 3);
        // What somebody does do is told, by the names of the network and of the port.
        let ours = node.ports()?[0].id;
        let shown = node.json(&["ports", "show", &ours.to_string()])?;
        let veth = shown["devices"][0].as_str().context("the port's veth")?;
        netns::run(
            &node.netns,
            "bridge",
            &["link", "set", "dev", veth, "flood", "on"],
        )?;
        let repaired = || node.events("kernel-repaired");
        interop_tests::wait("it is put back", Duration::from_secs(10), || {
            Ok(!repaired()?.is_empty())
        })?;
        let all = repaired()?;
        let text = all[0].to_string();
        ensure!(
            all.len() == 1 && text.contains("lan") && text.contains(&format!("port {ours} in")),
            "{all:?}"
        );
        Ok(())
    });
}

#[test]
fn no_address_is_leased_twice_also_not_during_a_partition() {
    scene(LabSpec::hosts(3).containers(4), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/26"])?;
        let mut leased = Vec::new();
        let mut attach = |host: usize, index: usize| -> Result<bool> {
            // Refusing is right where a node has no addresses of its own left; handing one out twice is not.
            let told = lab.node(host).tell(&[
                "attach",
                "lan",
                "--netns",
                lab.container(host, index),
                "--json",
            ])?;
            if told.code == 0 {
                let port: serde_json::Value = serde_json::from_str(&told.stdout)?;
                leased.push(port["ips"][0].as_str().context("no address")?.to_owned());
            }
            Ok(told.code == 0)
        };
        for host in 0..3 {
            ensure!(attach(host, 0)?, "host {host} has no address");
        }
        lab.partition(&[1])?;
        for host in 0..3 {
            attach(host, 1)?;
            attach(host, 2)?;
        }
        lab.heal()?;
        lab.converged(Duration::from_secs(20))?;
        for host in 0..3 {
            ensure!(
                attach(host, 3)?,
                "host {host} has no address after the partition"
            );
        }
        let distinct: BTreeSet<_> = leased.iter().collect();
        ensure!(distinct.len() == leased.len(), "leased twice: {leased:?}");
        ensure!(
            !distinct.iter().any(|ip| ip.starts_with("10.10.0.0/")
                || ip.starts_with("10.10.0.1/")
                || ip.starts_with("10.10.0.63/")),
            "{leased:?}"
        );
        Ok(())
    });
}

#[test]
fn two_claims_to_one_address_are_shown_and_the_first_holder_keeps_it() {
    scene(LabSpec::hosts(3), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let mac = "02:00:00:00:00:77";
        let first = lab.node(0).attach(
            "lan",
            lab.container(0, 0),
            &["--ip", "10.10.0.50/24", "--mac", mac],
        )?;
        for node in &lab.nodes {
            node.learns(&first.mac)?;
        }
        let asker = lab.node(2).attach("lan", lab.container(2, 0), &[])?;
        lab.node(0).learns(&asker.mac)?;
        // While everybody knows the holder, the second claim is refused where it is made.
        let words = lab.node(1).refused(&[
            "attach",
            "lan",
            "--netns",
            lab.container(1, 0),
            "--ip",
            "10.10.0.50/24",
        ])?;
        ensure!(words.contains("10.10.0.50"), "{words}");

        // Made in a partition it is found when the parts meet.
        lab.partition(&[1])?;
        interop_tests::wait("b is alone", Duration::from_secs(10), || {
            Ok(!lab.node(1).knows_mac(mac)?)
        })?;
        lab.node(1).attach(
            "lan",
            lab.container(1, 0),
            &["--ip", "10.10.0.50/24", "--mac", mac],
        )?;
        lab.heal()?;
        lab.converged(Duration::from_secs(20))?;
        for kind in ["mac", "ip"] {
            interop_tests::wait(
                &format!("the {kind} conflict is shown"),
                Duration::from_secs(5),
                || {
                    let status = lab.node(2).json(&["status"])?;
                    let conflicts = status["conflicts"].as_array().cloned().unwrap_or_default();
                    Ok(conflicts.iter().any(|c| {
                        c["kind"] == kind && c["holder"]["name"] == "a" && c["other"]["name"] == "b"
                    }))
                },
            )?;
        }
        ensure!(
            !lab.node(2).events("ip-conflict")?.is_empty()
                && !lab.node(2).events("mac-conflict")?.is_empty()
        );
        ping_until(
            lab.container(2, 0),
            "10.10.0.50".parse()?,
            Duration::from_secs(5),
        )?;
        let entries = lab.node(2).list("fdb")?;
        let entry = entries
            .iter()
            .find(|entry| entry["mac"] == mac)
            .context("the MAC is known")?;
        ensure!(entry["node"]["name"] == "a", "{entry}");
        Ok(())
    });
}

#[test]
fn a_namespace_is_named_by_name_path_or_process() {
    scene(LabSpec::hosts(1).containers(3), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let mut sleeper = netns::command(lab.container(0, 2), "sleep")?
            .arg("60")
            .spawn()?;
        let path = format!("/run/netns/{}", lab.container(0, 1));
        let by_pid = format!("pid:{}", sleeper.id());
        let mut ips = Vec::new();
        for name in [lab.container(0, 0), &path, &by_pid] {
            ips.push(node.attach("lan", name, &[])?.v4()?);
        }
        let reached = ping_until(lab.container(0, 0), ips[2], Duration::from_secs(5));
        let alone = ping(lab.container(0, 1), "10.10.0.1".parse()?, 3, 56);
        sleeper.kill()?;
        sleeper.wait()?;
        reached?;
        ensure!(alone?.received > 0, "the service address answers");
        let words = node.refused(&["attach", "lan", "--netns", "no-such-netns"])?;
        ensure!(words.contains("no-such-netns"), "{words}");
        Ok(())
    });
}

#[test]
fn an_address_of_the_overlay_is_not_offered_as_a_way_to_this_host() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let node = lab.node(0);
        node.ok(&["attach", "lan", "--netns", "self", "--ifname", "lan0"])?;
        let shown = netns::run(&lab.hosts[0].netns, "ip", &["-o", "addr", "show", "lan0"])?;
        ensure!(shown.contains("10.10.0."), "lan0 has no address: {shown}");
        // Longer than the daemon takes to read its addresses again and to tell them.
        std::thread::sleep(Duration::from_secs(4));
        for (who, command) in [(1, "members"), (0, "doctor")] {
            let text = lab.node(who).json(&[command])?.to_string();
            ensure!(text.contains("192.0.2.1"), "{command}: {text}");
            ensure!(
                !text.contains("10.10.0."),
                "{command} offers the overlay: {text}"
            );
        }
        Ok(())
    });
}

#[test]
fn the_same_attach_again_mends_what_was_done_to_the_interface_and_it_is_told() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &BOTH)?;
        let (here, far) = (&stations[0], &stations[1]);
        let (v4, v6) = (far.port.v4()?, far.port.v6()?);
        ping_until(&here.netns, v4, Duration::from_secs(5))?;
        for (done, told) in [
            ("addr flush dev eth0", "was missing"),
            ("link set eth0 down", "was down"),
            ("link set eth0 mtu 1300", "MTU was 1300"),
            ("link set eth0 address 02:00:00:00:00:99", "another MAC"),
        ] {
            netns::ip(&format!("-n {} {done}", far.netns))?;
            if done.ends_with("down") {
                interop_tests::wait("the port says so", Duration::from_secs(10), || {
                    Ok(lab
                        .node(1)
                        .json(&["ports"])?
                        .to_string()
                        .contains("is down in the container"))
                })?;
                ensure!(
                    !lab.node(1).events("port-far-end")?.is_empty(),
                    "no event tells it"
                );
            }
            let again = lab
                .node(1)
                .attach("lan", &far.netns, &["--name", &far.name])?;
            ensure!(
                again.id == far.port.id && again.mac == far.port.mac,
                "{done}: {again:?}"
            );
            let last = lab.node(1).events("port-mended")?;
            let text = last.last().map(ToString::to_string).unwrap_or_default();
            ensure!(text.contains(told), "{done}: {text}");
            for ip in [v4, v6] {
                ping_until(&here.netns, ip, Duration::from_secs(5))?;
            }
        }
        for words in ["link set eth0 down", "link set eth0 name foo"] {
            netns::ip(&format!("-n {} {words}", far.netns))?;
        }
        let attach = || {
            lab.node(1)
                .attach("lan", &far.netns, &["--name", &far.name])
        };
        ensure!(attach()?.id == far.port.id);
        let shown = netns::run(&far.netns, "ip", &["-o", "link"])?;
        ensure!(
            shown.contains(" eth0@") && !shown.contains(" foo@"),
            "{shown}"
        );
        let last = lab.node(1).events("port-mended")?;
        let text = last.last().map(ToString::to_string).unwrap_or_default();
        ensure!(text.contains("was renamed to"), "{text}");
        for ip in [v4, v6] {
            ping_until(&here.netns, ip, Duration::from_secs(5))?;
        }
        let count = lab.node(1).events("port-mended")?.len();
        lab.node(1)
            .attach("lan", &far.netns, &["--name", &far.name])?;
        ensure!(
            lab.node(1).events("port-mended")?.len() == count,
            "there was nothing to mend"
        );
        Ok(())
    });
}
