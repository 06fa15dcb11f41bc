//! Host devices of the config file and the API on whatever kernel this is. `vm.rs` has those with traffic that many kernels lack.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::lookup::{Kind, ask};
use interop_tests::netns::{self, ip};
use interop_tests::node::Node;
use interop_tests::traffic::ping_until;
use serde_json::Value;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn device(node: &Node, name: &str) -> Result<Option<Value>> {
    let rows = node.list("devices")?;
    Ok(rows.into_iter().find(|row| row["name"]["text"] == name))
}

fn becomes(node: &Node, name: &str, state: &str) -> Result<Value> {
    let mut last = Value::Null;
    interop_tests::wait(&format!("{name} is {state}"), SOON, || {
        last = device(node, name)?.unwrap_or_default();
        Ok(last["state"] == state)
    })
    .with_context(|| format!("it is {last}"))?;
    Ok(last)
}

fn why(row: &Value) -> String {
    row["why"].to_string()
}

fn index(netns: &str, name: &str) -> Result<String> {
    let line = netns::run(netns, "ip", &["-o", "link", "show", "dev", name])?;
    Ok(line.split(':').next().unwrap_or_default().to_owned())
}

/// A cable that leads from host a into a container of it.
fn cable(lab: &Lab, name: &str, container: usize) -> Result<()> {
    let (host, far) = (&lab.hosts[0].netns, lab.container(0, container));
    ip(&format!(
        "-n {host} link add {name} type veth peer name {name} netns {far}"
    ))?;
    ip(&format!("-n {far} link set {name} up"))?;
    Ok(())
}

fn write(node: &Node, config: &str) -> Result<()> {
    std::fs::write(&node.config, config).context("write a config file")
}

const ALL: &str = r#"
[[device.dummy]]
name = "svc0"
addresses = ["10.77.0.1/32"]

[[device.bond]]
name = "bo0"
members = ["c0"]

[[device.vlan]]
name = "bo0.7"
parent = "bo0"
id = 7

[[device.bridge]]
name = "brv"
vlan_filtering = true

[[device.bridge]]
name = "br0"
members = ["c1", "later"]
addresses = ["10.78.0.1/24"]

[[device.vlan]]
name = "br0.7"
parent = "br0"
id = 7

[[device.macvlan]]
name = "st0"
parent = "br0"

[[device.macvtap]]
name = "vm0"
parent = "br0"
"#;

#[test]
fn what_the_kernel_lacks_is_told_with_its_option_and_the_rest_is_there() {
    scene(LabSpec::hosts(1).containers(2), |lab| {
        let (node, far) = (lab.node(0), lab.container(0, 1));
        cable(lab, "c0", 0)?;
        cable(lab, "c1", 1)?;
        ip(&format!("-n {far} addr add 10.78.0.2/24 dev c1"))?;
        write(node, ALL)?;
        node.init("lab")?;
        node.run()?;
        let doctor = node.json(&["doctor"])?;
        let checks = doctor["checks"].as_array().context("no checks")?;
        for (name, check, option) in [
            ("svc0", "kernel: dummy", "CONFIG_DUMMY"),
            ("bo0", "kernel: bond", "CONFIG_BONDING"),
            (
                "brv",
                "kernel: bridge with VLANs",
                "CONFIG_BRIDGE_VLAN_FILTERING",
            ),
            ("br0.7", "kernel: vlan", "CONFIG_VLAN_8021Q"),
            ("st0", "kernel: macvlan", "CONFIG_MACVLAN"),
            ("vm0", "kernel: macvtap", "CONFIG_MACVTAP"),
        ] {
            let told = checks.iter().find(|one| one["name"] == check);
            let told = told.with_context(|| format!("no check {check} in {doctor}"))?;
            if told["state"] == "ok" {
                becomes(node, name, "ready")?;
                continue;
            }
            ensure!(told["advice"].to_string().contains(option), "{told}");
            let row = becomes(node, name, "failed")?;
            ensure!(why(&row).contains(option), "{row}");
            ensure!(row["there"] == false, "{row}");
            let said = format!("device {name}");
            ensure!(
                checks.iter().any(|one| one["name"] == said.as_str()),
                "{doctor}"
            );
        }
        // What stands on it says what it waits for.
        if device(node, "bo0")?.context("no bo0")?["state"] == "failed" {
            let row = device(node, "bo0.7")?.context("no bo0.7")?;
            ensure!(
                row["state"] != "ready" && why(&row).contains("bo0"),
                "{row}"
            );
        }
        let row = becomes(node, "br0", "partial")?;
        ensure!(why(&row).contains("later is not there"), "{row}");
        ensure!(row["members"][0]["text"] == "c1", "{row}");
        ping_until(far, "10.78.0.1".parse()?, SOON)?;

        // What comes later is taken in.
        let host = &node.netns;
        ip(&format!(
            "-n {host} link add later type veth peer name other"
        ))?;
        becomes(node, "br0", "ready")?;
        Ok(())
    });
}

#[test]
fn a_device_outlives_the_daemon_changes_with_the_file_and_goes_with_it() {
    scene(LabSpec::hosts(1).containers(1), |lab| {
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        cable(lab, "c0", 0)?;
        let bridge =
            |more: &str| format!("[[device.bridge]]\nname = \"br0\"\nmembers = [\"c0\"]\n{more}\n");
        write(
            node,
            &bridge("addresses = [\"10.78.0.1/24\"]\nmac = \"02:00:00:00:07:01\""),
        )?;
        node.init("lab")?;
        node.run()?;
        let row = becomes(node, "br0", "ready")?;
        ensure!(row["mac"] == "02:00:00:00:07:01", "{row}");
        let first = index(&host, "br0")?;
        // Not ours: it stays whatever the file says.
        ip(&format!("-n {host} addr add 10.79.0.1/24 dev br0"))?;

        node.restart()?;
        becomes(node, "br0", "ready")?;
        ensure!(index(&host, "br0")? == first, "it was made again");

        write(
            node,
            &bridge(
                "addresses = [\"10.78.0.9/24\"]\nstp = true\nmulticast_snooping = false\nmtu = 1400",
            ),
        )?;
        interop_tests::wait("the file holds", SOON, || {
            let shown = netns::run(&host, "ip", &["-d", "addr", "show", "dev", "br0"])?;
            Ok([
                "10.78.0.9/24",
                "10.79.0.1/24",
                "stp_state 1",
                "mcast_snooping 0",
                "mtu 1400",
            ]
            .iter()
            .all(|word| shown.contains(word))
                && !shown.contains("10.78.0.1/24"))
        })?;
        ensure!(index(&host, "br0")? == first, "it was made again");

        // Somebody undoes it; it is done again.
        ip(&format!("-n {host} link set c0 nomaster"))?;
        ip(&format!("-n {host} link set br0 type bridge stp_state 0"))?;
        interop_tests::wait("it is as it was", SOON, || {
            let shown = netns::run(&host, "ip", &["-d", "link", "show"])?;
            Ok(shown.contains("master br0") && shown.contains("stp_state 1"))
        })?;

        // A file with an error changes nothing.
        write(node, &bridge("addresses = [\"10.78.0.0/24\"]"))?;
        interop_tests::wait("the error is told", SOON, || {
            let refused = node.events("refused")?;
            Ok(refused
                .iter()
                .any(|it| it.to_string().contains("config file")))
        })?;
        ensure!(index(&host, "br0")? == first);
        write(node, "")?;
        interop_tests::wait("it is gone", SOON, || {
            let shown = netns::run(&host, "ip", &["-o", "link", "show"])?;
            Ok(!shown.contains("br0") && node.list("devices")?.is_empty())
        })?;
        let member = netns::run(&host, "ip", &["-o", "link", "show", "dev", "c0"])?;
        ensure!(!member.contains("master"), "{member}");
        Ok(())
    });
}

#[test]
fn a_config_file_behind_symlinks_is_followed_and_a_fifo_in_its_place_is_refused_in_words() {
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        // As a `ConfigMap` is mounted.
        let folder = lab.dir.join("mounted");
        for (version, device) in [("one", "bri0"), ("two", "bri1")] {
            std::fs::create_dir_all(folder.join(version))?;
            let text = format!("[[device.bridge]]\nname = \"{device}\"\n");
            std::fs::write(folder.join(version).join("meshd.toml"), text)?;
        }
        symlink("one", folder.join("..data"))?;
        symlink("..data/meshd.toml", folder.join("meshd.toml"))?;
        let _ = std::fs::remove_file(&node.config);
        symlink(folder.join("meshd.toml"), &node.config)?;
        node.init("lab")?;
        node.run()?;
        becomes(node, "bri0", "ready")?;
        symlink("two", folder.join("..new"))?;
        std::fs::rename(folder.join("..new"), folder.join("..data"))?;
        becomes(node, "bri1", "ready")?;
        interop_tests::wait("the other is gone", SOON, || {
            Ok(device(node, "bri0")?.is_none())
        })?;

        let fifo = folder.join("fifo");
        let done = std::process::Command::new("mkfifo").arg(&fifo).status()?;
        ensure!(done.success());
        std::fs::rename(&fifo, &node.config)?;
        interop_tests::wait("the FIFO is refused", SOON, || {
            let refused = node.events("refused")?;
            Ok(refused
                .iter()
                .any(|it| it.to_string().contains("no regular file")))
        })?;
        std::fs::remove_file(&node.config)?;
        write(node, "[[device.bridge]]\nname = \"bri2\"\n")?;
        becomes(node, "bri2", "ready")?;
        Ok(())
    });
}

#[test]
fn devices_of_others_are_left_and_told_and_an_adopted_bridge_keeps_what_it_had() {
    scene(LabSpec::hosts(1).containers(1), |lab| {
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        cable(lab, "c0", 0)?;
        for name in ["virbr0", "mine"] {
            ip(&format!("-n {host} link add {name} type bridge"))?;
            ip(&format!("-n {host} link set {name} up"))?;
        }
        ip(&format!("-n {host} link set c0 master virbr0"))?;
        ip(&format!("-n {host} addr add 10.80.0.1/24 dev virbr0"))?;
        let before = [index(&host, "virbr0")?, index(&host, "mine")?];
        let config = r#"
[[device.bridge]]
name = "mine"
stp = true

[[device.bridge]]
name = "virbr0"
adopt = true

[[device.bridge]]
name = "br1"
members = ["c0"]
"#;
        write(node, config)?;
        node.init("lab")?;
        node.run()?;
        let row = becomes(node, "mine", "waiting")?;
        ensure!(why(&row).contains("did not make"), "{row}");
        becomes(node, "virbr0", "ready")?;
        let row = becomes(node, "br1", "partial")?;
        ensure!(why(&row).contains("c0 is in virbr0"), "{row}");
        let shown = netns::run(&host, "ip", &["-d", "link", "show", "dev", "mine"])?;
        ensure!(shown.contains("stp_state 0"), "{shown}");

        write(node, "")?;
        interop_tests::wait("ours is gone", SOON, || {
            let shown = netns::run(&host, "ip", &["-o", "link", "show"])?;
            Ok(!shown.contains("br1"))
        })?;
        let after = [index(&host, "virbr0")?, index(&host, "mine")?];
        ensure!(before == after);
        let shown = netns::run(&host, "ip", &["addr", "show"])?;
        ensure!(
            shown.contains("10.80.0.1/24") && shown.contains("master virbr0"),
            "{shown}"
        );
        Ok(())
    });
}

#[test]
fn a_service_address_is_that_of_several_nodes_and_goes_to_another_when_one_ends() {
    scene(LabSpec::hosts(3), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
        let shared = [
            "--name",
            "web",
            "--ip",
            "10.10.0.53/24",
            "--label",
            "meshd.shared=true",
        ];
        let address = "10.10.0.53".parse()?;
        let [a, b, c] = [0, 1, 2].map(|host| lab.container(host, 0));
        let first = lab.node(0).attach("lan", a, &shared)?;
        lab.node(1).learns(&first.mac)?;
        // Not by chance: who does not say so is refused.
        let alone = &shared[..4];
        let words = ["attach", "lan", "--netns", b];
        let words: Vec<&str> = words.iter().chain(alone).copied().collect();
        let said = lab.node(1).refused(&words)?;
        ensure!(said.contains("is used on network lan by node"), "{said}");
        let second = lab.node(1).attach("lan", b, &shared)?;
        lab.node(2).attach("lan", c, &["--name", "client"])?;
        for mac in [&first.mac, &second.mac] {
            lab.node(2).learns(mac)?;
        }
        ping_until(c, address, SOON)?;
        let server = "10.10.0.1".parse()?;
        let reply = ask(c, server, "web.lan.lab.internal", Kind::A)?;
        ensure!(reply.ips == [address], "{reply:?}");

        // Each of the two in turn is the only one.
        let there = |mac: &str| -> Result<bool> {
            netns::run(c, "ip", &["neigh", "flush", "dev", "eth0"])?;
            ping_until(c, address, SOON)?;
            let known = netns::run(c, "ip", &["neigh", "show", "10.10.0.53"])?;
            Ok(known.contains(mac))
        };
        for (gone, other) in [(0, &second.mac), (1, &first.mac)] {
            lab.node(gone).stop()?;
            interop_tests::wait("the other one answers", SOON * 2, || there(other))?;
            lab.node(gone).run()?;
            lab.converged(SOON)?;
        }
        for node in &lab.nodes {
            for kind in ["ip-conflict", "name-conflict"] {
                ensure!(node.events(kind)?.is_empty(), "{kind} on {}", node.name);
            }
        }
        Ok(())
    });
}

/// What programs of others do with the daemon's socket.
fn request(node: &Node, method: &str, name: &str, body: Option<&Value>) -> Result<(u16, Value)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let socket = node.socket.to_string_lossy().into_owned();
    let url = format!("http://meshd/v1/devices/{name}");
    let told = std::process::Command::new("curl")
        .args([
            "-sS",
            "--unix-socket",
            &socket,
            "-X",
            method,
            "-w",
            "\n%{http_code}",
        ])
        .args(["--data-binary", &body, &url])
        .output()
        .context("run curl")?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let (body, status) = text.trim_end().rsplit_once('\n').context("no status")?;
    Ok((
        status.parse()?,
        serde_json::from_str(body).unwrap_or_default(),
    ))
}

#[test]
fn a_bridge_declared_by_api_carries_frames_over_a_killed_daemon_and_the_file_goes_first() {
    scene(LabSpec::hosts(1).containers(2), |lab| {
        let (node, host) = (lab.node(0), lab.hosts[0].netns.clone());
        let far = [lab.container(0, 0), lab.container(0, 1)];
        cable(lab, "c0", 0)?;
        cable(lab, "c1", 1)?;
        ip(&format!("-n {} addr add 10.78.0.2/24 dev c0", far[0]))?;
        ip(&format!("-n {} addr add 10.78.0.3/24 dev c1", far[1]))?;
        write(node, "")?;
        node.init("lab")?;
        node.run()?;
        let add = [
            "device",
            "add",
            "bridge",
            "br0",
            "members=c0,c1",
            "stp=false",
            "addresses=10.78.0.1/24",
        ];
        let row = node.json(&add)?;
        // Looked at before it is answered.
        ensure!(row["state"] == "ready" && row["source"] == "api", "{row}");
        ping_until(far[0], "10.78.0.3".parse()?, SOON)?;
        ping_until(far[0], "10.78.0.1".parse()?, SOON)?;
        let first = index(&host, "br0")?;
        let again = node.json(&add)?;
        ensure!(
            again["declared"] == row["declared"] && index(&host, "br0")? == first,
            "{again}"
        );

        // What stands on it, as JSON of a program, which a restart keeps too.
        let body = serde_json::json!({ "macvlan": {
            "name": "st0", "parent": "br0", "netns": lab.container(0, 0), "ifname": "st0",
            "addresses": ["10.79.0.9/24"] } });
        let (status, made) = request(node, "PUT", "st0", Some(&body))?;
        ensure!(status == 200, "{status} {made}");
        let has_macvlan = made["state"] == "ready";
        ensure!(
            has_macvlan || why(&made).contains("CONFIG_MACVLAN"),
            "{made}"
        );
        let refused = node.refused(&["device", "rm", "br0"])?;
        ensure!(
            refused.contains("[device-in-use]") && refused.contains("macvlan st0"),
            "{refused}"
        );

        // Killed while a program declares one device after the other: what was answered is there, and nothing by half.
        let told = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for nth in 0..200 {
                    let name = format!("k{nth}");
                    let body = serde_json::json!({ "bridge": { "name": name } });
                    match request(node, "PUT", &name, Some(&body)) {
                        Ok((200, _)) => told.fetch_add(1, Ordering::SeqCst),
                        _ => break,
                    };
                }
            });
            let enough = interop_tests::wait("some are answered", SOON, || {
                Ok(told.load(Ordering::SeqCst) >= 3)
            });
            node.kill();
            enough
        })?;
        let told = told.into_inner();
        node.run()?;
        for nth in 0..told {
            becomes(node, &format!("k{nth}"), "ready")?;
        }
        let row = becomes(node, "br0", "ready")?;
        ensure!(
            index(&host, "br0")? == first && row["source"] == "api",
            "it was made again: {row}"
        );
        ping_until(far[0], "10.78.0.3".parse()?, SOON)?;

        // The file comes to have its member, then its name.
        write(
            node,
            "[[device.bridge]]\nname = \"br1\"\nmembers = [\"c0\"]\n",
        )?;
        becomes(node, "br1", "ready")?;
        let row = becomes(node, "br0", "waiting")?;
        ensure!(
            why(&row).contains("br1") && why(&row).contains("meshd device rm br0"),
            "{row}"
        );
        write(
            node,
            "[[device.bridge]]\nname = \"br0\"\nmembers = [\"c0\"]\naddresses = [\"10.78.0.1/24\"]\n",
        )?;
        interop_tests::wait("the file's br0 counts", SOON, || {
            let row = device(node, "br0")?.unwrap_or_default();
            Ok(row["source"] == "file"
                && row["members"].as_array().is_some_and(|all| all.len() == 1))
        })?;
        let refused = node.refused(&["device", "add", "dummy", "br0"])?;
        let config = node.config.to_string_lossy().into_owned();
        ensure!(
            refused.contains("[device-in-file]") && refused.contains(&config),
            "{refused}"
        );
        write(node, "")?;
        let row = becomes(node, "br0", "ready")?;
        ensure!(row["source"] == "api", "{row}");
        ping_until(far[0], "10.78.0.3".parse()?, SOON)?;

        // All of it goes as it came, and what was never there is not gone.
        let rows = node.list("devices")?;
        let names = rows.iter().filter(|row| row["source"] == "api");
        let names: Vec<String> = names
            .map(|row| row["name"]["text"].as_str().unwrap_or_default().to_owned())
            .collect();
        for name in names.iter().filter(|name| *name != "br0") {
            node.ok(&["device", "rm", name])?;
        }
        let (status, _) = request(node, "DELETE", "br0", None)?;
        ensure!(status == 204, "{status}");
        interop_tests::wait("all is gone", SOON, || {
            let links = netns::run(&host, "ip", &["-o", "link", "show", "type", "bridge"])?;
            Ok(links.is_empty() && node.list("devices")?.is_empty())
        })?;
        let (status, body) = request(node, "DELETE", "br0", None)?;
        ensure!(
            status == 404 && body["code"] == "device-unknown",
            "{status} {body}"
        );
        Ok(())
    });
}

#[test]
fn devices_of_many_programs_at_once_are_all_there_or_refused_whole() {
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        write(node, "")?;
        node.init("lab")?;
        node.run()?;
        let all = std::thread::scope(|scope| {
            let ask = |nth: usize| {
                scope.spawn(move || {
                    // Four want the same member; the rest want the same name, each otherwise.
                    let (name, body) = match nth % 2 {
                        0 => {
                            let name = format!("q{nth}");
                            let body = serde_json::json!({ "bridge": { "name": name, "members": ["later"] } });
                            (name, body)
                        }
                        _ => ("one".to_owned(), serde_json::json!({ "bridge": { "name": "one", "priority": nth * 4096 } })),
                    };
                    request(node, "PUT", &name, Some(&body))
                })
            };
            let asked: Vec<_> = (0..8).map(ask).collect();
            let told = asked
                .into_iter()
                .map(|it| it.join().map_err(|_| anyhow::anyhow!("a request broke"))?);
            told.collect::<Result<Vec<_>>>()
        })?;
        let count = |status: u16| all.iter().filter(|(told, _)| *told == status).count();
        ensure!(count(200) == 5 && count(409) == 3, "{all:?}");
        node.restart()?;
        let rows = node.list("devices")?;
        ensure!(rows.len() == 2, "{rows:?}");
        let row = becomes(node, "one", "ready")?;
        let priority = row["declared"]["bridge"]["priority"].to_string();
        let shown = netns::run(&node.netns, "ip", &["-d", "link", "show", "dev", "one"])?;
        ensure!(
            shown.contains(&format!(" priority {priority} ")),
            "{priority}: {shown}"
        );
        // A file of several, of which one cannot be: those before it are told.
        let refused = "[[device.bridge]]\nname = \"x\"\n[[device.bridge]]\nname = \"y\"\nmembers = [\"later\"]\n";
        let file = node.config.with_file_name("devices.toml");
        std::fs::write(&file, refused)?;
        let file = file.to_string_lossy().into_owned();
        let told = node.refused(&["device", "add", "--file", &file])?;
        ensure!(
            told.contains("[device-conflict]") && told.contains("declared before it: x"),
            "{told}"
        );
        Ok(())
    });
}
