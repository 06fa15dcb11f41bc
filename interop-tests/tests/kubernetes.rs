//! `examples/kubernetes`: its manifests against the API schemas, and what it runs on a node on hosts of the lab.

use anyhow::{Context, Result, ensure};
use interop_tests::cni::{Runtime, addresses};
use interop_tests::lab::{Lab, LabSpec, find, meshd_binary, scene};
use interop_tests::netns;
use interop_tests::node::Node;
use interop_tests::traffic::ping_until;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/kubernetes")
}

/// The validator with the API schemas in it: in the search path, or fetched once from PyPI into the target folder.
fn validator() -> Option<PathBuf> {
    if let Some(found) = find("kubernetes-validate") {
        return Some(found);
    }
    let target = std::env::current_exe().ok()?.ancestors().nth(3)?.to_owned();
    let venv = target.join("kubernetes-validate");
    let program = venv.join("bin/kubernetes-validate");
    let run = |program: &Path, words: &[&str]| {
        let done = Command::new(program)
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|status| status.success())
    };
    let python = find("python3")?;
    let there = program.is_file()
        || (run(&python, &["-m", "venv", venv.to_str()?])
            && run(
                &venv.join("bin/pip"),
                &["-q", "install", "kubernetes-validate"],
            ));
    there.then_some(program)
}

#[test]
fn the_manifests_are_what_the_api_takes_and_a_misspelt_key_is_found() {
    let Some(validator) = validator() else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no kubernetes-validate (PyPI), which has the API's schemas"
        );
        return;
    };
    let valid = |file: &Path| {
        let out = Command::new(&validator)
            .args(["--strict", "--no-warn"])
            .arg(file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        (
            out.status.success(),
            text + &String::from_utf8_lossy(&out.stderr),
        )
    };
    for name in ["meshd.yaml", "tokens.example.yaml"] {
        let (good, text) = valid(&example().join(name));
        assert!(good, "{name}: {text}");
    }
    let text = fs::read_to_string(example().join("meshd.yaml")).unwrap();
    for (right, wrong) in [
        ("mountPropagation", "mountPropagatoin"),
        ("privileged: true", "privileged: very"),
        ("hostPID: true", "hostPid: true"),
    ] {
        assert!(text.contains(right));
        let file = std::env::temp_dir().join(format!("meshd-manifest-{}.yaml", std::process::id()));
        fs::write(&file, text.replacen(right, wrong, 1)).unwrap();
        let (good, said) = valid(&file);
        let _ = fs::remove_file(&file);
        assert!(!good, "{wrong} is found: {said}");
    }
}

/// The entry point on a host, until dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn start(lab: &Lab, node: &Node) -> Result<Running> {
    let dir = lab.dir.join(format!("node-{}", node.name));
    let path = lab.dir.join("path");
    fs::create_dir_all(dir.join("tokens"))?;
    fs::create_dir_all(&path)?;
    let link = path.join("meshd");
    if !link.exists() {
        std::os::unix::fs::symlink(meshd_binary()?, &link)?;
    }
    let log = fs::File::create(&node.log)?;
    let child = netns::command(&node.netns, example().join("entrypoint.sh"))?
        .env(
            "PATH",
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path.display()),
        )
        .env("NODE_NAME", &node.name)
        .env("TOKENS", dir.join("tokens"))
        .env("BIN_DIR", dir.join("bin"))
        .env("CONF_DIR", dir.join("net.d"))
        .env("INSTALL", "--portmap")
        .env("MESHD_STATE", &node.state)
        .env("MESHD_SOCKET", &node.socket)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start entrypoint.sh")?;
    Ok(Running(child))
}

/// The plugin's configuration, as the entry point has installed it.
fn installed(lab: &Lab, node: &Node) -> Result<Value> {
    let file = lab
        .dir
        .join(format!("node-{}/net.d/10-meshd.conflist", node.name));
    interop_tests::wait("the plugin is installed", Duration::from_secs(20), || {
        Ok(file.exists())
    })?;
    let list: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let mut conf = list["plugins"][0].clone();
    conf["cniVersion"] = list["cniVersion"].clone();
    conf["name"] = list["name"].clone();
    Ok(conf)
}

/// Answers each connection to `at` in a namespace with the caller's address, until the process ends.
fn serve(netns: &str, at: (IpAddr, u16)) -> Result<()> {
    let listener = netns::within(netns, || Ok(TcpListener::bind(at)?))?;
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let _ = stream.write_all(from.ip().to_string().as_bytes());
        }
    });
    Ok(())
}

fn ask(netns: &str, at: (IpAddr, u16)) -> Result<String> {
    netns::within(netns, || {
        let mut text = String::new();
        let mut stream = TcpStream::connect_timeout(&at.into(), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

#[test]
fn nodes_join_by_their_tokens_and_pods_reach_each_other_services_their_nodes_and_the_world() {
    scene(LabSpec::hosts(3).containers(2), |lab| {
        let (first, second) = (lab.node(0), lab.node(1));
        let (_a, _b) = (start(lab, first)?, start(lab, second)?);
        // Step 4 of the README: the mesh, on one node.
        first.ok(&["init", "--mesh", "cluster", "--name", "a"])?;
        interop_tests::wait("the daemon of a", Duration::from_secs(15), || {
            Ok(first.tell(&["status"])?.code == 0)
        })?;
        first.ok(&["network", "add", "pods", "--subnet", "10.42.0.0/16"])?;
        // Step 5: a token for the other.
        let tokens = lab.dir.join("node-b/tokens");
        fs::write(tokens.join("new"), first.invite(&[])?)?;
        fs::rename(tokens.join("new"), tokens.join("b"))?;
        let (conf_a, conf_b) = (installed(lab, first)?, installed(lab, second)?);

        let runtime = Runtime::new(lab)?;
        let pod = |node: &Node, container: &str, name: &str, conf: &Value| -> Result<IpAddr> {
            let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}");
            let call = runtime
                .call("ADD", container, conf)
                .env("CNI_ARGS", Some(&args));
            Ok(addresses(&call.run(&node.netns)?.ok()?)?[0])
        };
        let (web, db) = (lab.container(0, 0), lab.container(1, 0));
        let web_ip = pod(first, web, "web", &conf_a)?;
        let db_ip = pod(second, db, "db", &conf_b)?;
        ping_until(web, db_ip, Duration::from_secs(5))?;
        ping_until(&first.netns, web_ip, Duration::from_secs(5))?;
        ping_until(&second.netns, web_ip, Duration::from_secs(5))?;
        let named = second.list("ports")?;
        ensure!(
            named.iter().any(|port| port["name"] == "db--default"),
            "{named:?}"
        );

        // The world, here a host of the underlay that is no member: it sees the node.
        let world: IpAddr = lab.hosts[2].v4.into();
        serve(&lab.hosts[2].netns, (world, 80))?;
        ensure!(
            ask(web, (world, 80))? == lab.hosts[0].v4.to_string(),
            "by its node"
        );

        // A Service, as kube-proxy makes it on every node.
        serve(db, (db_ip, 80))?;
        let rule = format!("dnat to {db_ip}:80");
        for words in [
            "add table ip services",
            "add chain ip services pre { type nat hook prerouting priority -100 ; }",
            "add chain ip services out { type nat hook output priority -100 ; }",
            &format!("add rule ip services pre ip daddr 10.96.0.10 tcp dport 80 {rule}"),
        ] {
            netns::run(&first.netns, "nft", &[words])?;
        }
        let service = "10.96.0.10".parse()?;
        for _ in 0..3 {
            let seen = ask(web, (service, 80))?;
            ensure!(
                seen.starts_with("10.42.") && seen != web_ip.to_string(),
                "{seen}"
            );
        }
        // Also from a pod of the same node as the one behind it.
        let other = lab.container(0, 1);
        let other_ip = pod(first, other, "other", &conf_a)?;
        serve(other, (other_ip, 81))?;
        let rule = format!(
            "add rule ip services pre ip daddr 10.96.0.11 tcp dport 81 dnat to {other_ip}:81"
        );
        netns::run(&first.netns, "nft", &[&rule])?;
        for _ in 0..3 {
            ask(web, ("10.96.0.11".parse()?, 81))?;
        }
        runtime.del(first, web, &conf_a)?;
        runtime.del(second, db, &json!(conf_b))?;
        Ok(())
    });
}
