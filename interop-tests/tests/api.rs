//! The API of a running daemon: answers fit its OpenAPI document, doors let in whom they should, hostile requests cost nobody
//! else anything, and events outlive the daemon.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::netns;
use interop_tests::node::Node;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

const PORT: u16 = 7651;
/// `nobody` on all systems that know it.
const NOBODY: u32 = 65534;

/// An answer as it came.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(mut stream: impl Read) -> Result<Self> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).context("read the answer")?;
        let text = String::from_utf8(bytes).context("the answer is no text")?;
        let (head, body) = text
            .split_once("\r\n\r\n")
            .with_context(|| format!("no answer: {text:?}"))?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok(Self {
            status: status.with_context(|| format!("no status: {head}"))?,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        })
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }

    fn refused(&self, status: u16, kind: &str) -> Result<()> {
        let body = self.json()?;
        ensure!(
            self.status == status && body["kind"] == kind,
            "wanted {status} {kind}, got {} {body}",
            self.status
        );
        let code = body["code"].as_str().unwrap_or_default();
        ensure!(
            code.contains('-') && code != "code-unknown",
            "no code: {body}"
        );
        let words = body["message"].as_str().unwrap_or_default();
        ensure!(words.len() > 10, "refused without words: {body}");
        Ok(())
    }
}

fn by_socket(node: &Node, request: &str) -> Result<Answer> {
    let mut stream = UnixStream::connect(&node.socket).context("connect")?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request.as_bytes())?;
    Answer::read(stream)
}

fn by_tcp(node: &Node, request: &str) -> Result<Answer> {
    netns::within(&node.netns, || {
        let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("connect")?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // It may be refused before all of it is sent.
        let _ = stream.write_all(request.as_bytes());
        Answer::read(stream)
    })
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{headers}\r\n")
}

/// A daemon alone, with this config.
fn alone(config: &str, body: impl FnOnce(&Lab) -> Result<()>) {
    scene(LabSpec::hosts(1).containers(1), |lab| {
        let node = lab.node(0);
        std::fs::write(&node.config, config)?;
        node.init("lab")?;
        node.run()?;
        body(lab)
    });
}

/// Every schema of the document, with what is to fit it.
fn fits(document: &Value, answers: &[(String, Value, Value)]) -> Result<()> {
    const CHECK: &str = r"
import json, sys
from jsonschema import Draft202012Validator
told = json.load(sys.stdin)
wrong = []
for name, schema, value in told['answers']:
    schema = dict(schema, components=told['components'])
    Draft202012Validator.check_schema(schema)
    for error in Draft202012Validator(schema).iter_errors(value):
        wrong.append('%s: %s at %s' % (name, error.message[:300], list(error.absolute_path)))
print('\n'.join(wrong))
";
    // The system's, which has the package.
    let mut child = std::process::Command::new("/usr/bin/python3")
        .args(["-W", "ignore", "-c", CHECK])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start python3")?;
    let told = json!({ "components": document["components"], "answers": answers });
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(told.to_string().as_bytes())?;
    drop(stdin);
    let out = child.wait_with_output()?;
    ensure!(
        out.status.success(),
        "the check broke (python3-jsonschema is needed): {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let wrong = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    ensure!(wrong.is_empty(), "answers that do not fit:\n{wrong}");
    Ok(())
}

#[test]
fn every_answer_of_a_running_daemon_fits_its_openapi_document() {
    scene(LabSpec::hosts(2).containers(1).trusted(), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let node = lab.node(0);
        let plugin = interop_tests::lab::plugin("acl")?;
        node.ok(&[
            "plugin".as_ref(),
            "install".as_ref(),
            "acl".as_ref(),
            plugin.as_os_str(),
        ])?;
        node.ok(&[
            "plugin",
            "attach",
            "acl",
            "lan",
            "--config",
            "{\"rules\":[]}",
        ])?;
        interop_tests::segment::ping_pairs(&stations, false)?;
        let document = by_socket(node, &get("/v1/openapi.json", "host: meshd\r\n"))?.json()?;
        ensure!(
            document["openapi"]
                .as_str()
                .is_some_and(|version| version.starts_with("3."))
        );
        let mut answers = Vec::new();
        let mut empty = Vec::new();
        let fill = |path: &str| path.replace("{network}", "lan").replace("{plugin}", "acl");
        for (path, operations) in document["paths"].as_object().context("no paths")? {
            let Some(operation) = operations.get("get") else {
                continue;
            };
            let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            if path == "/v1/openapi.json" || schema.is_null() {
                continue;
            }
            let answer = by_socket(node, &get(&fill(path), "host: meshd\r\n"))?;
            let body = answer.json()?;
            if answer.status != 200 {
                let refusal =
                    operation["responses"]["default"]["content"]["application/json"]["schema"]
                        .clone();
                answers.push((format!("{path} refused"), refusal, body));
                continue;
            }
            if body.as_array().is_some_and(Vec::is_empty) {
                empty.push(path.clone());
            }
            answers.push((path.clone(), schema.clone(), body));
        }
        let trace = json!({ "network": "lan", "packet": format!("icmp {} > {}", stations[0].port.v4()?, stations[1].port.v4()?) }).to_string();
        let request = format!(
            "POST /v1/trace HTTP/1.1\r\nhost: meshd\r\ncontent-length: {}\r\n\r\n{trace}",
            trace.len()
        );
        let traced = by_socket(node, &request)?;
        ensure!(traced.status == 200, "{}", traced.body);
        let of_trace = &document["paths"]["/v1/trace"]["post"]["responses"]["200"]["content"]["application/json"]
            ["schema"];
        answers.push(("/v1/trace".to_owned(), of_trace.clone(), traced.json()?));
        ensure!(answers.len() >= 20, "{} answers alone", answers.len());
        for filled in [
            "/v1/members",
            "/v1/peers",
            "/v1/paths",
            "/v1/networks",
            "/v1/ports",
            "/v1/fdb",
            "/v1/flows",
            "/v1/events",
            "/v1/plugins",
            "/v1/plugin-stats",
        ] {
            ensure!(
                !empty.iter().any(|path| path == filled),
                "{filled} is empty, so nothing was checked"
            );
        }
        fits(&document, &answers)?;
        // The check can fail: an answer without one of its fields does not fit.
        let mut broken = answers
            .iter()
            .find(|(path, ..)| path == "/v1/status")
            .context("no status")?
            .clone();
        if let Some(fields) = broken.2.as_object_mut() {
            fields.remove("node");
        }
        ensure!(
            fits(&document, &[broken]).is_err(),
            "a status without a node fits"
        );
        Ok(())
    });
}

#[test]
fn who_knows_an_answer_already_gets_none() {
    alone("", |lab| {
        let node = lab.node(0);
        let first = by_socket(node, &get("/v1/networks", "host: m\r\n"))?;
        let tag = first
            .head
            .lines()
            .find_map(|line| line.strip_prefix("etag: "))
            .context("no tag")?;
        let again = format!("host: m\r\nif-none-match: {tag}\r\n");
        let same = by_socket(node, &get("/v1/networks", &again))?;
        ensure!(
            (same.status, same.body.as_str()) == (304, ""),
            "{}",
            same.head
        );
        node.ok(&["network", "add", "lan"])?;
        let changed = by_socket(node, &get("/v1/networks", &again))?;
        ensure!(changed.status == 200 && changed.body.contains("lan"));
        let head = by_socket(node, "HEAD /v1/networks HTTP/1.1\r\nhost: m\r\n\r\n")?;
        ensure!(
            (head.status, head.body.as_str()) == (200, ""),
            "{}",
            head.head
        );
        Ok(())
    });
}

/// What another user of the host is answered; `None`: the kernel does not let it connect.
fn by_user(node: &Node, uid: u32, gid: u32, request: &str) -> Result<Option<Answer>> {
    const ASK: &str = r"
import socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except PermissionError:
    sys.exit(13)
s.sendall(sys.argv[2].encode())
while True:
    part = s.recv(65536)
    if not part: break
    sys.stdout.buffer.write(part)
";
    let out = std::process::Command::new("/usr/bin/python3")
        .args(["-c", ASK])
        .arg(&node.socket)
        .arg(request)
        .stdin(Stdio::null())
        .uid(uid)
        .gid(gid)
        .output()?;
    if out.status.code() == Some(13) {
        return Ok(None);
    }
    Answer::read(&out.stdout[..]).map(Some)
}

#[test]
fn users_may_read_or_change_by_the_socket_as_the_config_says() {
    alone("", |lab| {
        let node = lab.node(0);
        let status = get("/v1/status", "host: m\r\n");
        let body = "{\"name\":\"lan\"}";
        let add = format!(
            "POST /v1/networks HTTP/1.1\r\nhost: m\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let remove = "DELETE /v1/networks/lan HTTP/1.1\r\nhost: m\r\n\r\n";
        ensure!(
            by_user(node, NOBODY, NOBODY, &status)?.is_none(),
            "nobody was let in"
        );
        std::fs::write(
            &node.config,
            "[api]\nread = [\"%4242\"]\nchange = [\"4243\"]\n",
        )?;
        node.restart()?;
        let ask = |uid, gid, request: &str| {
            by_user(node, uid, gid, request)?.context("the kernel let nobody connect")
        };
        // Whose group may read.
        ensure!(ask(NOBODY, 4242, &status)?.status == 200);
        ask(NOBODY, 4242, &add)?.refused(403, "forbidden")?;
        // Who may change.
        ensure!(ask(4243, NOBODY, &status)?.status == 200);
        ensure!(ask(4243, NOBODY, &add)?.status == 200);
        // Who is not named.
        for request in [
            status.as_str(),
            &add,
            remove,
            &get("/metrics", ""),
            &get("/nothing", ""),
        ] {
            ask(NOBODY, NOBODY, request)?.refused(403, "forbidden")?;
        }
        ensure!(node.knows_network("lan")?, "somebody removed it");
        // Somebody who holds all the places that he can get keeps root out of nothing.
        let mut held = Vec::new();
        let hold = "import socket,sys,time\ns=[]\nfor i in range(400):\n c=socket.socket(socket.AF_UNIX); c.settimeout(2)\n \
            c.connect(sys.argv[1]); c.send(b'GET /v1/ev'); s.append(c)\nprint('held',flush=True); time.sleep(2)";
        held.push(
            std::process::Command::new("/usr/bin/python3")
                .args(["-c", hold])
                .arg(&node.socket)
                .uid(NOBODY)
                .gid(4242)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
        );
        std::thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        node.ok(&["status"])?;
        ensure!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        for mut child in held {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(())
    });
}

#[test]
fn the_tcp_port_asks_for_token_host_and_origin() {
    alone(
        "[api]\nlisten = \"127.0.0.1:7651\"\nhosts = [\"mesh.example\"]\n",
        |lab| {
            let node = lab.node(0);
            let host = "host: 127.0.0.1:7651\r\n";
            by_tcp(node, &get("/v1/status", host))?.refused(401, "unauthorized")?;
            let token = node.ok(&["api", "token"])?.trim().to_owned();
            let reading = node.ok(&["api", "token", "--read"])?.trim().to_owned();
            let with = |token: &str, host: &str, more: &str| {
                format!("host: {host}\r\nauthorization: Bearer {token}\r\n{more}")
            };
            let ours = "127.0.0.1:7651";
            for host in [ours, "localhost:7651", "[::1]:7651", "mesh.example"] {
                let answer = by_tcp(node, &get("/v1/status", &with(&token, host, "")))?;
                ensure!(answer.status == 200, "{host}: {}", answer.body);
            }
            let own = format!("origin: http://{ours}\r\n");
            ensure!(by_tcp(node, &get("/v1/status", &with(&token, ours, &own)))?.status == 200);
            for (headers, status, code) in [
                (with(&token, "evil.example", ""), 403, "forbidden"),
                (with(&token, "127.0.0.1.evil.example", ""), 403, "forbidden"),
                (
                    with(&token, ours, "host: evil.example\r\n"),
                    403,
                    "forbidden",
                ),
                (
                    with(&token, ours, "origin: http://evil.example\r\n"),
                    403,
                    "forbidden",
                ),
                (with(&token, ours, "origin: null\r\n"), 403, "forbidden"),
                (with("", ours, ""), 401, "unauthorized"),
                (
                    with(&token[..token.len() - 1], ours, ""),
                    401,
                    "unauthorized",
                ),
                (with(&format!("{token}x"), ours, ""), 401, "unauthorized"),
            ] {
                by_tcp(node, &get("/v1/status", &headers))?
                    .refused(status, code)
                    .with_context(|| headers.clone())?;
            }
            // A token for reading reads.
            ensure!(by_tcp(node, &get("/v1/status", &with(&reading, ours, "")))?.status == 200);
            let remove = format!(
                "DELETE /v1/networks/lan HTTP/1.1\r\n{}\r\n",
                with(&reading, ours, "")
            );
            by_tcp(node, &remove)?.refused(403, "forbidden")?;
            let remove = format!(
                "DELETE /v1/networks/lan HTTP/1.1\r\n{}\r\n",
                with(&token, ours, "")
            );
            by_tcp(node, &remove)?.refused(404, "not-found")?;
            // The one before a new one is good no more.
            let renewed = node.ok(&["api", "token", "--renew"])?.trim().to_owned();
            by_tcp(node, &get("/v1/status", &with(&token, ours, "")))?
                .refused(401, "unauthorized")?;
            ensure!(by_tcp(node, &get("/v1/status", &with(&renewed, ours, "")))?.status == 200);
            // Who guesses is stopped, and keeps nobody else out.
            let mut stopped = false;
            for _ in 0..40 {
                let answer = by_tcp(node, &get("/v1/status", &with("guess", ours, "")))?;
                stopped |= answer.status == 429;
            }
            ensure!(stopped, "40 guesses, and none too many");
            ensure!(by_tcp(node, &get("/v1/status", &with(&renewed, ours, "")))?.status == 200);
            // Nobody reaches it from elsewhere.
            let sockets = netns::run(&node.netns, "ss", &["-Hltn"])?;
            ensure!(
                sockets.contains("127.0.0.1:7651") && !sockets.contains("0.0.0.0:7651"),
                "{sockets}"
            );
            Ok(())
        },
    );
}

#[test]
fn hostile_requests_are_refused_and_hold_up_nobody() {
    alone("[api]\nlisten = \"127.0.0.1:7651\"\n", |lab| {
        let node = lab.node(0);
        let token = node.ok(&["api", "token"])?.trim().to_owned();
        let auth = format!("host: localhost\r\nauthorization: Bearer {token}\r\n");
        let large = format!(
            "POST /v1/networks HTTP/1.1\r\n{auth}content-length: 99999999\r\n\r\n{}",
            "x".repeat(3 << 20)
        );
        by_tcp(node, &large)?.refused(400, "invalid")?;
        // Without a token not a byte of the body is waited for.
        let start = Instant::now();
        by_tcp(
            node,
            "POST /v1/networks HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n",
        )?
        .refused(401, "unauthorized")?;
        ensure!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        let long = format!("GET /v1/{} HTTP/1.1\r\n{auth}\r\n", "x".repeat(1 << 20));
        let answer = by_tcp(node, &long);
        ensure!(answer.as_ref().map_or(true, |answer| answer.status >= 400));
        let many = format!(
            "GET /v1/status HTTP/1.1\r\n{auth}{}\r\n",
            "a: b\r\n".repeat(5000)
        );
        let answer = by_tcp(node, &many);
        ensure!(answer.as_ref().map_or(true, |answer| answer.status >= 400));
        for nonsense in [
            "\r\n\r\n",
            "\0\0\0\0",
            "GET\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET http:// HTTP/1.1\r\n\r\n",
        ] {
            let _ = by_tcp(node, nonsense);
        }
        // All places by TCP held by heads that never end, and the socket answers as if nothing were; a little later the places
        // are free again.
        let held = netns::within(&node.netns, || {
            let mut held = Vec::new();
            for _ in 0..200 {
                if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", PORT)) {
                    let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: local");
                    held.push(stream);
                }
            }
            Ok(held)
        })?;
        ensure!(held.len() >= 128, "{} held", held.len());
        let start = Instant::now();
        node.ok(&["status"])?;
        ensure!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        let answer = by_tcp(node, &get("/v1/status", &auth))?;
        ensure!(answer.status == 200, "{}", answer.body);
        ensure!(
            start.elapsed() < Duration::from_secs(15),
            "{:?}",
            start.elapsed()
        );
        drop(held);
        ensure!(!node.panicked(), "{}", node.log_tail(20));
        Ok(())
    });
}

#[test]
fn events_outlive_the_daemon_and_a_follower_misses_none() {
    alone("", |lab| {
        let node = lab.node(0);
        let mut follower = node
            .command()?
            .args(["events", "--follow", "--json", "--after", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        node.ok(&["network", "add", "one", "--subnet", "10.1.0.0/24"])?;
        node.attach("one", lab.container(0, 0), &[])?;
        let before = node.list("events")?;
        let seq = |event: &Value| event["seq"].as_u64().unwrap_or_default();
        ensure!(
            before.iter().any(|event| event["event"] == "port-ready"),
            "{before:?}"
        );
        node.stop()?;
        node.run()?;
        let after = node.list("events")?;
        ensure!(
            after.len() > before.len() && after[..before.len()] == before[..],
            "the past is another: {after:?}"
        );
        let started = after.iter().rfind(|event| event["event"] == "started");
        ensure!(
            started.is_some_and(|event| event["clean"] == true),
            "{after:?}"
        );
        // A batch is on disk after a second, and stays there when the daemon is killed.
        std::thread::sleep(Duration::from_millis(2500));
        let settled = node.list("events")?;
        node.kill();
        node.run()?;
        let again = node.list("events")?;
        ensure!(
            again[..settled.len()] == settled[..],
            "something is lost: {again:?}"
        );
        let started = again
            .iter()
            .rfind(|event| event["event"] == "started")
            .context("no start")?;
        ensure!(started["clean"] == false, "{started}");
        ensure!(seq(started) > settled.iter().map(seq).max().unwrap_or_default());
        node.ok(&["network", "add", "two"])?;
        // Kinds, numbers, times.
        let ports = node.list("events --kind port")?;
        ensure!(
            !ports.is_empty()
                && ports.iter().all(|event| event["event"]
                    .as_str()
                    .is_some_and(|word| word.starts_with("port-"))),
            "{ports:?}"
        );
        let two = node.list("events --kind network-added,started --since 1h")?;
        ensure!(two.iter().any(|event| event["name"] == "two"), "{two:?}");
        let last = again.iter().map(seq).max().unwrap_or_default();
        ensure!(
            node.list(&format!("events --after {last}"))?
                .iter()
                .all(|event| seq(event) > last)
        );
        node.refused(&["events", "--kind", "Ports!"])?;
        interop_tests::wait("the follower saw the end", Duration::from_secs(10), || {
            Ok(node
                .list("events --kind network-added")?
                .iter()
                .any(|event| event["name"] == "two"))
        })?;
        std::thread::sleep(Duration::from_millis(1500));
        follower.kill()?;
        let out = follower.wait_with_output()?;
        let seen: Vec<Value> = String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let all = node.list("events")?;
        let numbers = |events: &[Value]| events.iter().map(seq).collect::<Vec<u64>>();
        ensure!(
            numbers(&seen) == numbers(&all),
            "followed {:?} of {:?}",
            numbers(&seen),
            numbers(&all)
        );
        Ok(())
    });
}

#[test]
fn the_level_of_the_log_changes_while_the_daemon_runs() {
    alone("", |lab| {
        let node = lab.node(0);
        ensure!(node.ok(&["log", "level"])?.trim() == "info");
        ensure!(
            !node.log_tail(1000).contains("DEBUG"),
            "{}",
            node.log_tail(10)
        );
        node.ok(&["log", "level", "debug"])?;
        node.ok(&["network", "add", "one"])?;
        node.attach("one", lab.container(0, 0), &["--ip", "none"])?;
        interop_tests::wait(
            "something is logged at debug",
            Duration::from_secs(5),
            || Ok(node.log_tail(1000).contains("DEBUG")),
        )?;
        let told = node.refused(&["log", "level", "chatty"])?;
        ensure!(told.contains("no level"), "{told}");
        Ok(())
    });
}
