//! meshd as Docker's network and IPAM driver: Debian's dockerd on two hosts, and strangers at the plugin socket.

#[path = "docker/wishes.rs"]
mod wishes;

use anyhow::{Context, Result, ensure};
use interop_tests::docker::{Docker, is_here};
use interop_tests::lab::{Lab, LabSpec, is_root, nothing_left, scene};
use interop_tests::netns;
use interop_tests::page::type_page;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

fn enable(lab: &Lab, host: usize, docker: &Docker) -> Result<()> {
    let (plugin, engine) = (docker.plugin("meshd"), docker.socket());
    let (plugin, engine) = (plugin.display().to_string(), engine.display().to_string());
    let words = ["docker", "enable", "--plugin", &plugin, "--engine", &engine];
    let said = lab.node(host).ok(&words)?;
    ensure!(said.contains("served at"), "{said}");
    Ok(())
}

/// Nothing of Docker's is left: no port, no device of ours, no interface that waits.
fn all_gone(lab: &Lab, host: usize) -> Result<()> {
    let node = lab.node(host);
    ensure!(node.ports()?.is_empty(), "{:?}", node.ports()?);
    nothing_left(&node.netns)?;
    let links = netns::run(&node.netns, "ip", &["-o", "link", "show"])?;
    ensure!(!links.contains(": mc"), "{links}");
    Ok(())
}

#[test]
fn the_page_about_docker_holds_word_for_word() -> Result<()> {
    if is_root() && is_here() {
        type_page("docs/howto/docker.md", &[])?;
    }
    Ok(())
}

const LAN: &str = "network create -d meshd --ipam-driver meshd --ipam-opt meshd.network=lan -o meshd.network=lan lan";

#[test]
fn containers_of_two_hosts_are_one_segment_and_outlive_restarts_of_both_daemons() {
    if !is_here() {
        return;
    }
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.61.0.0/24"])?;
        let (one, other) = (Docker::start(lab, 0)?, Docker::start(lab, 1)?);
        enable(lab, 0, &one)?;
        enable(lab, 1, &other)?;

        one.ok(LAN)?;
        // Docker takes --ip only where a subnet was given; it also says which network of the mesh is meant.
        other.ok("network create -d meshd --ipam-driver meshd --subnet 10.61.0.0/24 lan")?;
        one.ok("run -d --name web --network lan bb sleep 10000")?;
        one.ok("run -d --name web_2 --network lan --label meshd.label.tier=web bb sleep 10000")?;
        other.ok(
            "run -d --name db --network lan --ip 10.61.0.77 --mac-address 02:00:00:00:61:77 --dns 10.61.0.1 bb sleep 10000",
        )?;
        let web = one.address("web", "eth0")?;
        let second = one.address("web_2", "eth0")?;
        ensure!(other.address("db", "eth0")? == "10.61.0.77" && web != second);
        // By a bridge of the host, too, where Docker has set its FORWARD chain to drop.
        ensure!(
            one.pings("web", &second, 5)?,
            "on one host, beside Docker's firewall"
        );
        ensure!(one.pings("web", "10.61.0.77", 5)?, "to the other host");
        ensure!(other.pings("db", &web, 5)?, "and back");
        let name = other.ok("exec db nslookup web.lan.lab.internal 10.61.0.1")?;
        ensure!(
            name.contains(&web),
            "the other host's container by name: {name}"
        );
        let name = other.ok("exec db nslookup web-2.lan.lab.internal")?;
        ensure!(name.contains(&second), "by Docker's resolver: {name}");
        let ports = lab.node(0).list("ports")?;
        let labelled = ports.iter().find(|port| port["name"] == "web-2");
        ensure!(labelled.context("port web-2")?["labels"]["tier"] == "web");

        hot_plug(lab, &one)?;
        refusals(&one, &other)?;
        meshd_restarts(lab, &one, &other, &web)?;
        dockerd_restarts(&other, &one, &web)?;

        other.ok("run -d --name after --network lan bb sleep 10000")?;
        ensure!(other.pings("after", &web, 5)?);
        one.ok("rm -f web web_2")?;
        one.ok("network rm lan two")?;
        other.ok("rm -f db after")?;
        other.ok("network rm lan")?;
        for host in [0, 1] {
            all_gone(lab, host)?;
            let status = lab.node(host).json(&["docker", "status"])?;
            ensure!(
                status["networks"] == json!([]) && status["endpoints"] == json!([]),
                "{status}"
            );
        }
        let tidied = lab.node(0).json(&["docker", "tidy"])?;
        ensure!(
            tidied["addresses"] == json!([]),
            "every address came back: {tidied}"
        );
        lab.node(0).ok(&["docker", "disable"])?;
        ensure!(!one.plugin("meshd").exists());
        Ok(())
    });
}

/// `docker network connect` to a second network, which Docker has its own IPAM for and the mesh does not know yet.
fn hot_plug(lab: &Lab, one: &Docker) -> Result<()> {
    one.ok("network create -d meshd --subnet 10.62.0.0/24 -o meshd.network=two -o meshd.egress=false two")?;
    ensure!(lab.node(0).knows_network("two")?);
    one.ok("network connect --ip 10.62.0.9 two web")?;
    one.ok("network connect --driver-opt meshd.name=second two web_2")?;
    let links = one.ok("exec web ip -4 -o addr")?;
    ensure!(links.contains("10.62.0.9/24"), "{links}");
    ensure!(one.pings("web_2", "10.62.0.9", 5)?);
    let ports = lab.node(0).list("ports")?;
    ensure!(ports.iter().any(|port| port["name"] == "second"));
    one.ok("network disconnect two web")?;
    one.ok("network disconnect two web_2")?;
    let links = one.ok("exec web ip -4 -o addr")?;
    ensure!(!links.contains("10.62.0"), "{links}");
    ensure!(lab.node(0).ports()?.len() == 2, "two on lan, none on two");
    Ok(())
}

fn refusals(one: &Docker, other: &Docker) -> Result<()> {
    for (docker, words, why) in [
        (
            other,
            "run --rm --network lan --ip 10.61.0.77 bb sleep 1",
            "10.61.0.77 is used on network lan by",
        ),
        (
            other,
            "run --rm --network lan --ip 10.61.0.1 bb sleep 1",
            "meshd's own service",
        ),
        (
            one,
            "network create -d meshd -o meshd.netwrok=lan x",
            "meshd.network=NAME",
        ),
        (
            one,
            "network create -d meshd --subnet 10.9.0.0/24 -o meshd.network=lan x",
            "has the subnets 10.61.0.0/24",
        ),
        (
            one,
            "network create -d meshd --ipam-driver meshd --ipam-opt meshd.network=none x",
            "there are: lan",
        ),
    ] {
        let said = docker.refused(words)?;
        ensure!(said.contains(why), "`{words}`: {said}");
    }
    Ok(())
}

/// The daemon is killed and comes back: interfaces are the same ones, and traffic goes on.
fn meshd_restarts(lab: &Lab, one: &Docker, other: &Docker, web: &str) -> Result<()> {
    let before = one.ok("exec web ip -o link show eth0")?;
    let ports: Vec<u64> = lab.node(0).ports()?.iter().map(|port| port.id).collect();
    lab.node(0).restart()?;
    lab.node(1).stop()?;
    lab.node(1).run()?;
    lab.converged(Duration::from_secs(15))?;
    interop_tests::wait(
        "traffic after restarts of meshd",
        Duration::from_secs(15),
        || Ok(one.pings("web", "10.61.0.77", 1)? && other.pings("db", web, 1)?),
    )?;
    ensure!(one.ok("exec web ip -o link show eth0")? == before);
    let after: Vec<u64> = lab.node(0).ports()?.iter().map(|port| port.id).collect();
    ensure!(ports == after, "the same ports: {ports:?}, {after:?}");
    // Served again without being told.
    let status = lab.node(1).json(&["docker", "status"])?;
    ensure!(
        status["enabled"] == true && status["problem"].is_null(),
        "{status}"
    );
    Ok(())
}

/// dockerd is killed and comes back; its containers go on all the while.
fn dockerd_restarts(other: &Docker, one: &Docker, web: &str) -> Result<()> {
    other.kill();
    ensure!(one.pings("web", "10.61.0.77", 2)?, "while dockerd is away");
    other.run()?;
    ensure!(other.pings("db", web, 5)?, "after dockerd came back");
    Ok(())
}

#[test]
fn what_docker_forgot_is_removed_and_what_it_has_is_not() {
    if !is_here() {
        return;
    }
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &["--subnet", "10.61.0.0/24"])?;
        let docker = Docker::start(lab, 0)?;
        enable(lab, 0, &docker)?;
        docker.ok(LAN)?;
        docker.ok("run -d --name web --network lan bb sleep 10000")?;
        // As if Docker had made them, and lost its state since.
        let plugin = docker.plugin("meshd");
        let network = "f".repeat(64);
        let pool = ask(
            &plugin,
            "IpamDriver.RequestPool",
            &json!({ "Options": { "meshd.network": "lan" } }),
        )?;
        let options = json!({ "com.docker.network.endpoint.macaddress": "02:42:00:00:00:09" });
        let wish = json!({ "PoolID": pool["PoolID"], "Address": "", "Options": options });
        let address = ask(&plugin, "IpamDriver.RequestAddress", &wish)?["Address"].clone();
        let options = json!({ "com.docker.network.generic": { "meshd.network": "lan" } });
        ask(
            &plugin,
            "NetworkDriver.CreateNetwork",
            &json!({ "NetworkID": network, "Options": options }),
        )?;
        let endpoint = json!({ "NetworkID": network, "EndpointID": "e".repeat(64),
            "Interface": { "Address": address, "MacAddress": "02:42:00:00:00:09" } });
        ask(&plugin, "NetworkDriver.CreateEndpoint", &endpoint)?;
        let joined = ask(&plugin, "NetworkDriver.Join", &endpoint)?;
        ensure!(
            joined["InterfaceName"]["SrcName"] == "mceeeeeeeeeee",
            "{joined}"
        );
        ensure!(node.ports()?.len() == 2);

        node.restart()?;
        let tidied = node.json(&["docker", "tidy"])?;
        ensure!(tidied["networks"] == json!([network]), "{tidied}");
        ensure!(
            tidied["addresses"]
                .as_array()
                .is_some_and(|all| all.len() == 1),
            "{tidied}"
        );
        ensure!(node.ports()?.len() == 1, "the container's port is there");
        ensure!(docker.pings("web", "10.61.0.1", 5)?, "and works");

        // The container dies, and its namespace with it; and then Docker's own network, with the plugin away.
        docker.ok("rm -f web")?;
        docker.ok("network rm lan")?;
        all_gone(lab, 0)
    });
}

/// One request on the plugin socket, whatever the bytes: status and body.
fn raw(socket: &Path, request: &[u8]) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    // Whoever is refused early does not read it all.
    let _ = stream.write_all(request);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    Ok((status.unwrap_or(0), body.unwrap_or_default()))
}

fn post(socket: &Path, method: &str, body: &[u8]) -> Result<(u16, Value)> {
    let head = format!(
        "POST /{method} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (status, body) = raw(socket, &[head.as_bytes(), body].concat())?;
    let value = serde_json::from_str(&body)
        .with_context(|| format!("no JSON to {method}: {status} {body}"))?;
    Ok((status, value))
}

/// A request that must be done.
fn ask(socket: &Path, method: &str, body: &Value) -> Result<Value> {
    let (status, answer) = post(socket, method, body.to_string().as_bytes())?;
    ensure!(
        status == 200 && answer.get("Err").is_none(),
        "{method}: {status} {answer}"
    );
    Ok(answer)
}

/// A request that must be refused, in words.
fn refused(socket: &Path, method: &str, body: &[u8]) -> Result<String> {
    let (_, answer) = post(socket, method, body)?;
    let reason = answer["Err"]
        .as_str()
        .with_context(|| format!("{method}: {answer}"))?;
    ensure!(!reason.is_empty() && reason.len() < 1000, "{reason}");
    ensure!(!reason.chars().any(char::is_control), "{reason:?}");
    Ok(reason.to_owned())
}

#[test]
fn hostile_requests_at_the_plugin_socket_are_refused_in_words_and_leave_nothing() {
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &["--subnet", "10.61.0.0/28"])?;
        let socket = lab.dir.join("meshd.sock");
        let text = socket.display().to_string();
        for bad in ["/x/meshd", "/x/..sock/", "/run/a b.sock"] {
            node.refused(&["docker", "enable", "--plugin", bad])?;
        }
        node.refused(&["docker", "tidy"])?;
        node.ok(&[
            "docker",
            "enable",
            "--plugin",
            &text,
            "--engine",
            "/nonexistent/docker.sock",
        ])?;
        ask(&socket, "Plugin.Activate", &json!({}))?;
        let slow = slow(&socket)?;
        broken(&socket)?;
        unknown(&socket)?;
        crowd(lab, &socket)?;
        told_off(slow)?;

        // The socket's file is removed by a stranger: it comes back.
        std::fs::remove_file(&socket)?;
        interop_tests::wait("the socket is back", Duration::from_secs(10), || {
            Ok(socket.exists())
        })?;
        ask(&socket, "Plugin.Activate", &json!({}))?;
        ensure!(!node.panicked());
        all_gone(lab, 0)
    });
}

fn broken(socket: &Path) -> Result<()> {
    let methods = [
        "NetworkDriver.CreateNetwork",
        "NetworkDriver.CreateEndpoint",
        "NetworkDriver.Join",
        "NetworkDriver.DeleteEndpoint",
        "IpamDriver.RequestPool",
        "IpamDriver.RequestAddress",
    ];
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    for method in methods {
        for body in [
            b"".as_slice(),
            b"{",
            b"null",
            b"\xff\xfe",
            b"[]",
            b"{\"NetworkID\":7,\"PoolID\":7,\"V6\":7}",
            deep.as_bytes(),
        ] {
            refused(socket, method, body)?;
        }
    }
    let huge = format!("{{\"NetworkID\":\"{}\"}}", "a".repeat(3 << 20));
    let (status, _) = post(socket, "NetworkDriver.CreateNetwork", huge.as_bytes())?;
    ensure!(status == 413, "{status}");
    let (status, answer) = post(socket, "NetworkDriver.Nothing", b"{}")?;
    ensure!(status == 404 && answer["Err"].is_string());
    for path in ["../../etc/passwd", "%2e%2e/x", "NetworkDriver.Join/..", ""] {
        let (status, answer) = post(socket, path, b"{}")?;
        ensure!(
            status == 404 && answer["Err"].is_string(),
            "{path}: {status} {answer}"
        );
    }
    let (status, _) = raw(socket, b"GET /Plugin.Activate HTTP/1.1\r\nHost: x\r\n\r\n")?;
    ensure!(status == 405, "{status}");
    let chunked = b"POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    ensure!(raw(socket, chunked)?.0 == 200, "as Docker may send it");
    Ok(())
}

fn unknown(socket: &Path) -> Result<()> {
    let (network, endpoint) = ("a".repeat(64), "b".repeat(64));
    let of = |network: &str, endpoint: &str| {
        json!({ "NetworkID": network, "EndpointID": endpoint }).to_string()
    };
    for (bad, good) in [
        ("../x", "a"),
        ("", "a"),
        ("a\u{0}b", "a"),
        (&"a".repeat(65), "a"),
    ] {
        refused(socket, "NetworkDriver.Join", of(bad, good).as_bytes())?;
        refused(
            socket,
            "NetworkDriver.CreateEndpoint",
            of(good, bad).as_bytes(),
        )?;
    }
    let said = refused(
        socket,
        "NetworkDriver.Join",
        of(&network, &endpoint).as_bytes(),
    )?;
    ensure!(said.contains("was not made on this node"), "{said}");
    // What is gone already is gone: Docker tries again after a lost answer.
    for method in [
        "NetworkDriver.Leave",
        "NetworkDriver.DeleteEndpoint",
        "NetworkDriver.DeleteNetwork",
    ] {
        ask(
            socket,
            method,
            &json!({ "NetworkID": network, "EndpointID": endpoint }),
        )?;
    }
    for pool in [
        "",
        "x",
        "7:10.61.0.0/28:10.61.0.0/28",
        "1:::::",
        "99999999999:10.0.0.0/8:10.0.0.0/8",
    ] {
        let body = json!({ "PoolID": pool, "Address": "" }).to_string();
        refused(socket, "IpamDriver.RequestAddress", body.as_bytes())?;
    }
    for options in [json!({ "x": "y" }), json!({ "meshd.network": "none" })] {
        refused(
            socket,
            "IpamDriver.RequestPool",
            json!({ "Options": options }).to_string().as_bytes(),
        )?;
    }
    Ok(())
}

/// Who says nothing, or very slowly, keeps nobody out. The one who said half of it goes on being waited for.
fn slow(socket: &Path) -> Result<UnixStream> {
    let silent: Vec<UnixStream> = (0..100)
        .map(|_| UnixStream::connect(socket))
        .collect::<std::io::Result<_>>()?;
    let mut half = UnixStream::connect(socket)?;
    half.write_all(
        b"POST /NetworkDriver.Join HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    )?;
    let start = Instant::now();
    ask(socket, "Plugin.Activate", &json!({}))?;
    ensure!(start.elapsed() < Duration::from_secs(2) * interop_tests::slow());
    drop(silent);
    Ok(half)
}

/// Whoever does not come to an end in time is told so.
fn told_off(mut half: UnixStream) -> Result<()> {
    half.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut text = String::new();
    half.read_to_string(&mut text)?;
    ensure!(text.contains("did not come within"), "{text}");
    Ok(())
}

/// The same endpoint made, joined and removed by many at once, and more addresses asked for than there are.
fn crowd(lab: &Lab, socket: &Path) -> Result<()> {
    let pool = ask(
        socket,
        "IpamDriver.RequestPool",
        &json!({ "Options": { "meshd.network": "lan" } }),
    )?;
    let taken: Vec<Value> = std::thread::scope(|scope| {
        let asking: Vec<_> = (1..=20u8)
            .map(|at| {
                let wish = json!({ "PoolID": pool["PoolID"], "Address": "", "Options":
                    { "com.docker.network.endpoint.macaddress": format!("02:42:00:00:01:{at:02x}") } });
                scope.spawn(move || post(socket, "IpamDriver.RequestAddress", wish.to_string().as_bytes()))
            })
            .collect();
        let done = asking
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("panic")));
        done.map(|answer| answer.map(|(_, value)| value))
            .collect::<Result<_>>()
    })?;
    let mut given: Vec<&str> = taken
        .iter()
        .filter_map(|answer| answer["Address"].as_str())
        .collect();
    let count = given.len();
    given.sort_unstable();
    given.dedup();
    // A /28 has 14 hosts, of which the first is the service.
    ensure!(count == 13 && given.len() == 13, "{taken:?}");
    ensure!(
        taken
            .iter()
            .filter_map(|answer| answer["Err"].as_str())
            .all(|why| why.contains("no free address"))
    );
    let address = given[0].to_owned();
    let mac = taken
        .iter()
        .position(|answer| answer["Address"] == json!(address))
        .context("whose")?
        + 1;
    let (network, endpoint) = ("c".repeat(64), "d".repeat(64));
    let options = json!({ "com.docker.network.generic": { "meshd.network": "lan" } });
    ask(
        socket,
        "NetworkDriver.CreateNetwork",
        &json!({ "NetworkID": network, "Options": options }),
    )?;
    let wish = json!({ "NetworkID": network, "EndpointID": endpoint,
        "Interface": { "Address": address, "MacAddress": format!("02:42:00:00:01:{mac:02x}") } });
    let at_once = |method: &'static str, wish: &Value| -> Result<Vec<Value>> {
        let body = wish.to_string();
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..12)
                .map(|_| scope.spawn(|| post(socket, method, body.as_bytes())))
                .collect();
            let done = all
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("panic")));
            done.map(|answer| answer.map(|(_, value)| value)).collect()
        })
    };
    for answer in at_once("NetworkDriver.CreateEndpoint", &wish)? {
        ensure!(
            answer.get("Err").is_none(),
            "the same again is the same: {answer}"
        );
    }
    let other = json!({ "NetworkID": network, "EndpointID": endpoint, "Interface": { "MacAddress": "02:42:00:00:09:09" } });
    let said = refused(
        socket,
        "NetworkDriver.CreateEndpoint",
        other.to_string().as_bytes(),
    )?;
    ensure!(said.contains("other properties"), "{said}");
    for answer in at_once("NetworkDriver.Join", &wish)? {
        ensure!(
            answer["InterfaceName"]["SrcName"] == "mcddddddddddd",
            "{answer}"
        );
    }
    ensure!(lab.node(0).ports()?.len() == 1, "one endpoint, one port");
    for answer in at_once("NetworkDriver.DeleteEndpoint", &wish)? {
        ensure!(answer.get("Err").is_none(), "{answer}");
    }
    for address in given {
        ask(
            socket,
            "IpamDriver.ReleaseAddress",
            &json!({ "PoolID": pool["PoolID"], "Address": address }),
        )?;
    }
    ask(
        socket,
        "NetworkDriver.DeleteNetwork",
        &json!({ "NetworkID": network }),
    )?;
    Ok(())
}
