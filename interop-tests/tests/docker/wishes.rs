//! What Docker wishes of a network and its addresses, asked at the plugin socket as Docker asks it.

use super::{LAN, all_gone, ask, refused};
use anyhow::{Context, Result, ensure};
use interop_tests::docker::{Docker, is_here};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::node::Node;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A mesh with the network `lan`, and the driver of one host.
fn served(lab: &Lab, host: usize) -> Result<PathBuf> {
    let socket = lab.dir.join(format!("docker{host}.sock"));
    enable(lab.node(host), &socket, "/nonexistent/docker.sock")?;
    Ok(socket)
}

fn enable(node: &Node, socket: &Path, engine: &str) -> Result<()> {
    let socket = socket.display().to_string();
    node.ok(&["docker", "enable", "--plugin", &socket, "--engine", engine])?;
    Ok(())
}

fn create_network(id: char, options: Value, ipam: Value) -> Value {
    json!({
        "NetworkID": id.to_string().repeat(64), "IPv4Data": ipam,
        "Options": { "com.docker.network.generic": options },
    })
}

fn pool(socket: &Path, part: &str) -> Result<Value> {
    let wish =
        json!({ "Pool": "10.61.0.0/24", "SubPool": part, "Options": { "meshd.network": "lan" } });
    Ok(ask(socket, "IpamDriver.RequestPool", &wish)?["PoolID"].clone())
}

fn address_for(pool: &Value, ip: &str, mac: &str) -> Value {
    let options = match mac {
        "" => json!({}),
        mac => json!({ "com.docker.network.endpoint.macaddress": mac }),
    };
    json!({ "PoolID": pool, "Address": ip, "Options": options })
}

fn given(socket: &Path, wish: &Value) -> Result<String> {
    let answer = ask(socket, "IpamDriver.RequestAddress", wish)?;
    Ok(answer["Address"].as_str().context("no address")?.to_owned())
}

#[test]
fn labels_parts_routers_and_macs_are_held_to_what_they_say() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.61.0.0/24"])?;
        let (here, there) = (served(lab, 0)?, served(lab, 1)?);
        labels(&here)?;
        // Of the host that has all addresses, and of one that has to ask it.
        a_part(&here, "10.61.0.240/30")?;
        a_part(&there, "10.61.0.248/30")?;
        a_router(lab, &here)?;
        one_mac(lab, &here)?;
        a_network_that_goes_while_it_is_joined(lab, &here)?;
        enabled_again(lab, &here)?;
        all_gone(lab, 0)?;
        ensure!(!lab.node(0).panicked());
        Ok(())
    });
}

#[test]
fn a_network_is_waited_for_that_a_node_that_has_just_joined_is_yet_to_hear_of() {
    scene(LabSpec::hosts(2), |lab| {
        let (first, other) = (lab.node(0), lab.node(1));
        first.init("lab")?;
        first.run()?;
        lab.network("lan", &["--subnet", "10.61.0.0/24"])?;
        other.join(&first.invite(&[])?)?;
        lab.cut(0, 1)?;
        other.run()?;
        let socket = served(lab, 1)?;
        let body = create_network('8', json!({ "meshd.network": "lan" }), json!([]));
        let asked = std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&socket, "NetworkDriver.CreateNetwork", &body));
            std::thread::sleep(Duration::from_millis(300));
            ensure!(!asked.is_finished(), "it does not wait");
            lab.heal()?;
            asked.join().unwrap_or_else(|_| anyhow::bail!("a panic"))
        });
        asked?;
        ensure!(other.knows_network("lan")?);
        Ok(())
    });
}

fn labels(socket: &Path) -> Result<()> {
    let many = |from: u32, to: u32| -> Value {
        let pairs = (from..to).map(|at| (format!("meshd.label.k{at}"), json!("v")));
        Value::Object(
            pairs
                .chain([("meshd.network".to_owned(), json!("lan"))])
                .collect(),
        )
    };
    let network = |options| create_network('1', options, json!([])).to_string();
    let method = "NetworkDriver.CreateNetwork";
    let said = refused(socket, method, network(many(0, 33)).as_bytes())?;
    ensure!(said.contains("33 labels"), "{said}");
    let long = json!({ "meshd.network": "lan", "meshd.label.tier": "x".repeat(200) });
    let said = refused(socket, method, network(long).as_bytes())?;
    ensure!(
        said.contains("tier") && said.contains("at most 128"),
        "{said}"
    );

    ask(socket, method, &create_network('1', many(0, 20), json!([])))?;
    let endpoint = |labels: Value| {
        let (network, endpoint) = ("1".repeat(64), "2".repeat(64));
        json!({ "NetworkID": network, "EndpointID": endpoint, "Options": labels }).to_string()
    };
    let own = |from, to| {
        let mut own = many(from, to);
        if let Some(own) = own.as_object_mut() {
            own.remove("meshd.network");
        }
        own
    };
    let method = "NetworkDriver.CreateEndpoint";
    for (labels, why) in [
        (own(0, 33), "33 labels"),
        (own(20, 40), "40 labels"),
        (own(20, 40), "of its network"),
    ] {
        let said = refused(socket, method, endpoint(labels).as_bytes())?;
        ensure!(said.contains(why), "{why}: {said}");
    }
    ask(
        socket,
        "NetworkDriver.DeleteNetwork",
        &json!({ "NetworkID": "1".repeat(64) }),
    )?;
    Ok(())
}

/// A part of four addresses gives four, and refuses the fifth without waiting for anybody.
fn a_part(socket: &Path, part: &str) -> Result<()> {
    let pool = pool(socket, part)?;
    let wish = address_for(&pool, "", "");
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(given(socket, &wish)?);
    }
    let start = Instant::now();
    let said = refused(
        socket,
        "IpamDriver.RequestAddress",
        wish.to_string().as_bytes(),
    )?;
    ensure!(
        said.contains("no free address") && said.contains(part),
        "{said}"
    );
    ensure!(start.elapsed() < Duration::from_secs(2) * interop_tests::slow());
    for ip in all {
        ask(
            socket,
            "IpamDriver.ReleaseAddress",
            &json!({ "PoolID": pool, "Address": ip }),
        )?;
    }
    Ok(())
}

/// `--gateway` is for the router, as long as a network of Docker names it.
fn a_router(lab: &Lab, socket: &Path) -> Result<()> {
    let router =
        json!([{ "AddressSpace": "meshd", "Pool": "10.61.0.0/24", "Gateway": "10.61.0.200/24" }]);
    let network = |id| create_network(id, json!({ "meshd.network": "lan" }), router.clone());
    for id in ['3', '4'] {
        ask(socket, "NetworkDriver.CreateNetwork", &network(id))?;
    }
    let pool = pool(socket, "")?;
    let wish = address_for(&pool, "10.61.0.200", "");
    let kept = || -> Result<()> {
        let body = wish.to_string();
        let said = refused(socket, "IpamDriver.RequestAddress", body.as_bytes())?;
        ensure!(said.contains("10.61.0.200 is used"), "{said}");
        Ok(())
    };
    kept()?;
    // As Docker does before it removes a network.
    let back = json!({ "PoolID": pool, "Address": "10.61.0.200" });
    ask(socket, "IpamDriver.ReleaseAddress", &back)?;
    kept()?;
    lab.node(0).restart()?;
    kept()?;
    let gone = |id: char| json!({ "NetworkID": id.to_string().repeat(64) });
    ask(socket, "NetworkDriver.DeleteNetwork", &gone('3'))?;
    kept()?;
    // The router itself.
    let container = lab.container(0, 0);
    let port = lab
        .node(0)
        .attach("lan", container, &["--ip", "10.61.0.200/24"])?;
    lab.node(0).ok(&["detach", &port.id.to_string()])?;
    ask(socket, "NetworkDriver.DeleteNetwork", &gone('4'))?;
    ensure!(given(socket, &wish)? == "10.61.0.200/24");
    ask(socket, "IpamDriver.ReleaseAddress", &back)?;
    Ok(())
}

/// A second endpoint with the MAC of the first has an address of its own.
fn one_mac(lab: &Lab, socket: &Path) -> Result<()> {
    let (mac, pool) = ("02:42:00:00:61:01", pool(socket, "")?);
    let network = create_network('5', json!({ "meshd.network": "lan" }), json!([]));
    ask(socket, "NetworkDriver.CreateNetwork", &network)?;
    let first = given(socket, &address_for(&pool, "", mac))?;
    ensure!(
        given(socket, &address_for(&pool, "", mac))? == first,
        "asked again for the same"
    );
    let endpoint = json!({ "NetworkID": "5".repeat(64), "EndpointID": "6".repeat(64),
        "Interface": { "Address": first, "MacAddress": mac } });
    ask(socket, "NetworkDriver.CreateEndpoint", &endpoint)?;
    ask(socket, "NetworkDriver.Join", &endpoint)?;
    ensure!(lab.node(0).ports()?.len() == 1);
    let second = given(socket, &address_for(&pool, "", mac))?;
    ensure!(second != first, "{second} is the port's");
    ask(socket, "NetworkDriver.DeleteEndpoint", &endpoint)?;
    for ip in [first, second] {
        ask(
            socket,
            "IpamDriver.ReleaseAddress",
            &json!({ "PoolID": pool, "Address": ip }),
        )?;
    }
    ask(
        socket,
        "NetworkDriver.DeleteNetwork",
        &json!({ "NetworkID": "5".repeat(64) }),
    )?;
    Ok(())
}

/// Whichever comes first: no endpoint is left without a network, and no port without an endpoint.
fn a_network_that_goes_while_it_is_joined(lab: &Lab, socket: &Path) -> Result<()> {
    let network = create_network('7', json!({ "meshd.network": "lan" }), json!([]));
    let of = |at: u32| json!({ "NetworkID": "7".repeat(64), "EndpointID": format!("{at:08}").repeat(8) });
    for round in 0..4u32 {
        ask(socket, "NetworkDriver.CreateNetwork", &network)?;
        let endpoints: Vec<Value> = (0..4).map(|at| of(round * 4 + at)).collect();
        for endpoint in &endpoints {
            ask(socket, "NetworkDriver.CreateEndpoint", endpoint)?;
        }
        std::thread::scope(|scope| {
            let joins: Vec<_> = endpoints
                .iter()
                .map(|endpoint| {
                    let body = endpoint.to_string();
                    scope.spawn(move || super::post(socket, "NetworkDriver.Join", body.as_bytes()))
                })
                .collect();
            ask(socket, "NetworkDriver.DeleteNetwork", &endpoints[0])?;
            for join in joins {
                join.join().unwrap_or_else(|_| anyhow::bail!("a panic"))?;
            }
            anyhow::Ok(())
        })?;
        let status = lab.node(0).json(&["docker", "status"])?;
        ensure!(status["endpoints"] == json!([]), "round {round}: {status}");
        ensure!(lab.node(0).ports()?.is_empty(), "round {round}");
    }
    Ok(())
}

/// The same again, at the same socket with another engine, and at a place that cannot be: it is served all the while.
fn enabled_again(lab: &Lab, socket: &Path) -> Result<()> {
    let node = lab.node(0);
    let serves = |engine: &str| -> Result<()> {
        ask(socket, "Plugin.Activate", &json!({}))?;
        let status = node.json(&["docker", "status"])?;
        ensure!(
            status["problem"].is_null() && status["settings"]["engine"] == engine,
            "{status}"
        );
        Ok(())
    };
    for engine in ["/nonexistent/docker.sock", "/nonexistent/other.sock"] {
        enable(node, socket, engine)?;
        serves(engine)?;
    }
    std::fs::write(lab.dir.join("file"), "in the way")?;
    for bad in ["file", "file/x.sock"] {
        let bad = lab.dir.join(bad).display().to_string();
        node.refused(&["docker", "enable", "--plugin", &bad])?;
        serves("/nonexistent/other.sock")?;
    }
    // Another's letter in the socket's place, with another engine: what ran goes on.
    std::fs::remove_file(socket)?;
    std::fs::write(socket, "in the way")?;
    let text = socket.display().to_string();
    node.refused(&["docker", "enable", "--plugin", &text, "--engine", "/x"])?;
    std::fs::remove_file(socket)?;
    interop_tests::wait("it is served again", Duration::from_secs(10), || {
        Ok(socket.exists() && serves("/nonexistent/other.sock").is_ok())
    })?;
    Ok(())
}

#[test]
fn a_networks_router_and_its_part_outlive_a_tidying_by_docker_itself() {
    if !is_here() {
        return;
    }
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        lab.network("lan", &["--subnet", "10.61.0.0/24"])?;
        let docker = Docker::start(lab, 0)?;
        super::enable(lab, 0, &docker)?;
        let words = LAN.replace(
            "--ipam-opt",
            "--subnet 10.61.0.0/24 --gateway 10.61.0.200 --ip-range 10.61.0.240/31 --ipam-opt",
        );
        docker.ok(&words)?;
        for name in ["one", "two"] {
            docker.ok(&format!(
                "run -d --name {name} --network lan bb sleep 10000"
            ))?;
        }
        let said = docker.refused("run --rm --network lan bb sleep 1")?;
        ensure!(said.contains("no free address in 10.61.0.240/31"), "{said}");
        let said = docker.refused("run --rm --network lan --ip 10.61.0.200 bb sleep 1")?;
        ensure!(said.contains("10.61.0.200"), "{said}");
        let tidied = node.json(&["docker", "tidy"])?;
        ensure!(tidied["addresses"] == json!([]), "{tidied}");
        let route = docker.ok("exec one ip route")?;
        ensure!(route.contains("default via 10.61.0.200"), "{route}");
        docker.ok("rm -f one two")?;
        docker.ok("network rm lan")?;
        docker_s_own_addresses(&docker)?;
        let tidied = node.json(&["docker", "tidy"])?;
        ensure!(tidied["addresses"] == json!([]), "all came back: {tidied}");
        all_gone(lab, 0)
    });
}

/// By Docker's own IPAM there is a router where one is named, and else the way out that Docker has.
fn docker_s_own_addresses(docker: &Docker) -> Result<()> {
    let create = |more: &str| {
        let words = format!(
            "network create -d meshd --subnet 10.61.0.0/24 --ip-range 10.61.0.240/29 -o meshd.network=lan {more} own"
        );
        docker.ok(&words)
    };
    create("")?;
    docker.ok("run -d --name plain --network own -p 18081:80 bb sleep 10000")?;
    let (route, links) = (
        docker.ok("exec plain ip route")?,
        docker.ok("exec plain ip -o link")?,
    );
    ensure!(
        route.contains("default via") && !route.contains("default via 10.61."),
        "{route}"
    );
    ensure!(links.contains("eth1"), "a way out: {links}");
    docker.ok("rm -f plain")?;
    docker.ok("network rm own")?;
    create("--aux-address router=10.61.0.241 -o meshd.gateway=10.61.0.241")?;
    docker.ok("run -d --name routed --network own bb sleep 10000")?;
    let route = docker.ok("exec routed ip route")?;
    ensure!(route.contains("default via 10.61.0.241"), "{route}");
    let said = docker.refused("run --rm --network own -p 18081:80 bb sleep 1")?;
    ensure!(said.contains("meshd.gateway"), "{said}");
    docker.ok("rm -f routed")?;
    docker.ok("network rm own")?;
    Ok(())
}
