//! What daemons log, read by who would read it: JSON by a reader of JSON, the journal by journalctl out of a real journal.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{Lab, LabSpec, find, meshd_binary, scene};
use interop_tests::netns;
use interop_tests::node::Node;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// All lines of a log, each of which has to be an object.
fn lines(node: &Node) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(&node.log)?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect()
}

/// Waits for a line about an event, and returns it.
fn event(node: &Node, word: &str) -> Result<Value> {
    let find = || {
        let all = lines(node)?;
        let found = all.into_iter().find(|line| line["fields"]["event"] == word);
        anyhow::Ok(found)
    };
    interop_tests::wait(
        &format!("{word} is logged"),
        LIMIT,
        || Ok(find()?.is_some()),
    )?;
    find()?.context("it was there")
}

#[test]
fn each_line_of_a_json_log_is_an_object_with_what_it_is_about_as_fields() {
    scene(LabSpec::hosts(2).containers(1), |lab| {
        let (node, other) = (lab.node(0), lab.node(1));
        std::fs::write(&node.config, "[log]\nformat = \"json\"\n")?;
        node.init("lab")?;
        node.run()?;
        let token = node.invite(&[])?;
        other.join(&token)?;
        other.run()?;
        let up = event(node, "peer-up")?;
        ensure!(
            up["level"] == "INFO"
                && up["target"] == "meshd::events"
                && up["fields"]["peer"] == other.name.as_str()
                && up["fields"]["subject"] == "peer"
                && up["fields"]["code"].is_null()
                && up["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')),
            "{up}"
        );
        node.ok(&["network", "add", "blue", "--subnet", "10.7.0.0/24"])?;
        let port = node.attach("blue", lab.container(0, 0), &[])?;
        let ready = event(node, "port-ready")?;
        let fields = &ready["fields"];
        ensure!(
            fields["network"] == "blue" && fields["port"] == port.id,
            "{ready}"
        );
        // A token that was used, from a state folder of its own: a trouble, with its code.
        let elsewhere = other.state.with_extension("another");
        let elsewhere = elsewhere.display().to_string();
        let said = other.refused(&["--state", &elsewhere, "join", &token])?;
        ensure!(said.contains("error[invite-used]: "), "{said}");
        let refused = event(node, "invite-refused")?;
        ensure!(
            refused["level"] == "WARN" && refused["fields"]["code"] == "invite-refused",
            "{refused}"
        );
        // From debug on there is more, from error on nothing of this.
        let is_debug = |line: &Value| line["level"] == "DEBUG";
        ensure!(!lines(node)?.iter().any(is_debug), "debug at level info");
        node.ok(&["log", "level", "debug"])?;
        node.ok(&["detach", &port.id.to_string()])?;
        interop_tests::wait("a line at debug", LIMIT, || {
            Ok(lines(node)?.iter().any(is_debug))
        })?;
        node.ok(&["log", "level", "error"])?;
        let before = lines(node)?.len();
        node.ok(&["network", "rm", "blue"])?;
        let after = lines(node)?.split_off(before);
        let loud = after
            .iter()
            .filter(|line| line["fields"]["event"] == "network-removed");
        ensure!(loud.count() == 0, "told at level error: {after:?}");
        Ok(())
    });
}

/// A journal of its own: the real daemon of systemd, in a mount namespace where `/run/systemd` and `/run/log` are empty.
struct Journal(Child);

impl Journal {
    fn start(program: &Path) -> Result<Self> {
        let script = format!(
            "mkdir -p /run/systemd /run/log && mount -t tmpfs tmpfs /run/systemd && mount -t tmpfs tmpfs /run/log && \
             mkdir -p /run/systemd/journal /run/log/journal && \
             {{ test -s /etc/machine-id || {{ echo 0123456789abcdef0123456789abcdef >/run/systemd/id && \
             mount --bind /run/systemd/id /etc/machine-id; }}; }} && exec {}",
            program.display()
        );
        let child = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private", "sh", "-ec"])
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start a journal")?;
        let journal = Self(child);
        interop_tests::wait("the journal listens", LIMIT, || {
            let there =
                "test -S /run/systemd/journal/socket && ls /run/log/journal/*/system.journal";
            let out = journal.within("sh").args(["-c", there]).output()?;
            Ok(out.status.success())
        })?;
        Ok(journal)
    }

    /// A command that sees this journal.
    fn within(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.0.id()));
        command.arg(program);
        command
    }

    /// Its entries of meshd, by journalctl.
    fn entries(&self) -> Result<Vec<Value>> {
        let mut read = self.within("journalctl");
        read.args([
            "-D",
            "/run/log/journal",
            "-o",
            "json",
            "SYSLOG_IDENTIFIER=meshd",
        ]);
        netns::output(&mut read)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
            .collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The daemon of a node, in the journal's view of `/run`.
fn run_beside(lab: &Lab, journal: &Journal) -> Result<Child> {
    let node = lab.node(0);
    let log = std::fs::File::create(&node.log)?;
    let mut command = netns::command(&node.netns, "nsenter")?;
    command
        .arg(format!("--mount=/proc/{}/ns/mnt", journal.0.id()))
        .arg(meshd_binary()?)
        .arg("run")
        .env("MESHD_STATE", &node.state)
        .env("MESHD_SOCKET", &node.socket)
        .env("MESHD_CONFIG", &node.config)
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command.spawn()?)
}

#[test]
fn a_real_journal_has_level_code_and_fields_of_each_line() {
    let places = [
        "/lib/systemd/systemd-journald",
        "/usr/lib/systemd/systemd-journald",
    ];
    let found = places.into_iter().map(Path::new).find(|path| path.exists());
    let (Some(program), Some(_)) = (found, find("journalctl")) else {
        eprintln!(
            "SKIPPED: this host has no systemd-journald and journalctl (apt-get install systemd)"
        );
        return;
    };
    scene(LabSpec::hosts(1).containers(1), |lab| {
        let node = lab.node(0);
        let journal = Journal::start(program)?;
        std::fs::write(&node.config, "[log]\nformat = \"journald\"\n")?;
        node.init("lab")?;
        let mut daemon = run_beside(lab, &journal)?;
        let told = tells(lab, &journal);
        // By its own id: it is this test's child.
        let _ = daemon.kill();
        let _ = daemon.wait();
        told
    });
}

fn tells(lab: &Lab, journal: &Journal) -> Result<()> {
    let node = lab.node(0);
    interop_tests::wait("the daemon answers", LIMIT, || {
        Ok(node.tell(&["status"])?.code == 0)
    })?;
    node.ok(&["network", "add", "blue", "--subnet", "10.7.0.0/24"])?;
    let port = node.attach("blue", lab.container(0, 0), &[])?;
    let entry = |event: &str| -> Result<Value> {
        let find = || -> Result<Option<Value>> {
            let all = journal.entries()?;
            Ok(all.into_iter().find(|entry| entry["MESHD_EVENT"] == event))
        };
        interop_tests::wait(&format!("{event} is in the journal"), LIMIT, || {
            Ok(find()?.is_some())
        })?;
        find()?.context("it was there")
    };
    let ready = entry("port-ready")?;
    ensure!(
        ready["PRIORITY"] == "5"
            && ready["TARGET"] == "meshd::events"
            && ready["MESHD_NETWORK"] == "blue"
            && ready["MESHD_PORT"] == port.id.to_string().as_str()
            && ready["MESSAGE"]
                .as_str()
                .is_some_and(|text| text.contains("blue")),
        "{ready}"
    );
    let told = std::fs::read_to_string(&node.log)?;
    ensure!(told.is_empty(), "on stderr, too: {told}");
    let is_debug = |entry: &Value| entry["PRIORITY"] == "7" || entry["PRIORITY"] == "6";
    ensure!(
        !journal.entries()?.iter().any(is_debug),
        "debug at level info"
    );
    node.ok(&["log", "level", "debug"])?;
    node.ok(&["detach", &port.id.to_string()])?;
    interop_tests::wait("a line at debug", LIMIT, || {
        Ok(journal.entries()?.iter().any(is_debug))
    })?;
    Ok(())
}
