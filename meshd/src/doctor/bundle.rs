//! The archive for a bug report: what the daemon shows, what the doctor found, and the host's kernel; a gzipped tar of mode 0600.
//!
//! Owns the list of what is in it, and writes that into it. All of it goes through the redactor. What cannot be had is said in its
//! place, so that an archive of a broken daemon is an archive, too.

use super::redact::Redactor;
use crate::api::client::Client;
use flate2::Compression;
use flate2::write::GzEncoder;
use meshd_core::view::{Doctor, Flow, word};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Views of the daemon: name in the archive, route, what it is.
const VIEWS: [(&str, &str, &str); 17] = [
    ("version.json", "/v1/version", "release of the daemon"),
    (
        "status.json",
        "/v1/status",
        "the node at a glance, and what it complains of",
    ),
    (
        "members.json",
        "/v1/members",
        "members of the mesh, with their versions and addresses",
    ),
    ("peers.json", "/v1/peers", "sessions"),
    (
        "paths.json",
        "/v1/paths",
        "all ways to each peer, with reasons and history",
    ),
    ("networks.json", "/v1/networks", "networks"),
    ("ports.json", "/v1/ports", "ports of this node"),
    ("devices.json", "/v1/devices", "devices of the host"),
    ("vteps.json", "/v1/vteps", "foreign VTEPs"),
    ("fdb.json", "/v1/fdb", "where each MAC is"),
    (
        "groups.json",
        "/v1/groups",
        "who listens to which multicast",
    ),
    ("drops.json", "/v1/drops", "why frames were dropped"),
    ("balance.json", "/v1/balance", "what came and what left"),
    ("events.json", "/v1/events?last=2000", "the last events"),
    (
        "plugins.json",
        "/v1/plugins",
        "plugins; of their configs numbers and addresses only",
    ),
    (
        "plugin-stats.json",
        "/v1/plugin-stats",
        "what plugins were asked, and how long it took",
    ),
    ("docker.json", "/v1/docker", "the Docker driver"),
];
/// Of one file, in bytes: of a longer one the end.
const FILE_MAX: usize = 8 << 20;
/// For all questions to the daemon, and for the log.
const WITHIN: Duration = Duration::from_secs(15);
/// Lines of the log, the last ones.
const LOG_LINES: &str = "5000";
/// The config file, in bytes.
const CONFIG_MAX: usize = 1 << 20;

/// What goes in.
pub(crate) struct Wish<'a> {
    /// To be made; never one that is there already.
    pub(crate) file: &'a Path,
    /// Addresses become names.
    pub(crate) hide_addresses: bool,
    /// The state folder, for its tokens: so that they are known where they are met.
    pub(crate) state: &'a Path,
    /// The config file.
    pub(crate) config: &'a Path,
    /// What the doctor found, and the same as text.
    pub(crate) doctor: (&'a Doctor, String),
}

struct Entry {
    name: &'static str,
    about: &'static str,
    text: String,
}

/// Makes the archive; how many files are in it.
///
/// # Errors
/// The file cannot be written, or is there already.
pub(crate) async fn make(wish: Wish<'_>, client: &Client) -> io::Result<usize> {
    // Before anything is asked, so that a wrong name is said at once.
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(wish.file)?;
    let made = fill(&wish, client, file).await;
    if made.is_err() {
        let _ = fs::remove_file(wish.file);
    }
    made
}

async fn fill(wish: &Wish<'_>, client: &Client, file: fs::File) -> io::Result<usize> {
    let redactor = Redactor::new(wish.state, wish.hide_addresses);
    let entries = gather(wish, client, &redactor).await;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let readme = readme(wish, &entries);
    let all = entries
        .iter()
        .map(|entry| (entry.name, entry.text.as_str()));
    for (name, text) in [("README.txt", readme.as_str())].into_iter().chain(all) {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(crate::clock::wall().0 / 1000);
        archive.append_data(&mut header, format!("meshd-bundle/{name}"), text.as_bytes())?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()?;
    Ok(entries.len() + 1)
}

async fn gather(wish: &Wish<'_>, client: &Client, redactor: &Redactor) -> Vec<Entry> {
    let until = Instant::now() + WITHIN;
    let mut entries = Vec::new();
    let mut add = |name, about, text: &str| {
        entries.push(Entry {
            name,
            about,
            text: redactor.text(&cut(text)),
        });
    };
    let (report, text) = &wish.doctor;
    add("doctor.txt", "what `meshd doctor` found", text);
    let json = |value: &mut Value| {
        redactor.json(value);
        serde_json::to_string_pretty(value).unwrap_or_default()
    };
    let mut report = serde_json::to_value(report).unwrap_or_default();
    add("doctor.json", "the same for programs", &json(&mut report));
    let config = crate::bounded::text(wish.config, CONFIG_MAX).map_err(|error| error.to_string());
    let config = config.and_then(|text| redactor.toml(&text));
    let config = config.unwrap_or_else(|why| format!("# {}: {why}\n", wish.config.display()));
    add(
        "config.toml",
        "the config file, without comments and secrets",
        &config,
    );
    for (name, route, about) in VIEWS {
        let told = tokio::time::timeout_at(until.into(), client.get::<Value>(route)).await;
        let text = match told {
            Ok(Ok(mut value)) => json(&mut value),
            Ok(Err(error)) => missing(&error.to_string()),
            Err(_) => missing("the daemon did not answer in time"),
        };
        add(name, about, &text);
    }
    let flows = tokio::time::timeout_at(until.into(), client.get::<Vec<Flow>>("/v1/flows")).await;
    let text = match flows {
        Ok(Ok(flows)) => summary(&flows),
        Ok(Err(error)) => missing(&error.to_string()),
        Err(_) => missing("the daemon did not answer in time"),
    };
    add(
        "flows.txt",
        "flows, counted by network, tier, action and obstacle; none is named",
        &text,
    );
    let metrics = tokio::time::timeout_at(until.into(), client.text("/metrics")).await;
    let text = match metrics {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => missing(&error.to_string()),
        Err(_) => missing("the daemon did not answer in time"),
    };
    add("metrics.txt", "all figures, as a scraper gets them", &text);
    add(
        "kernel.txt",
        "kernel, modules, interfaces and limits of this host",
        &kernel(),
    );
    let log = tokio::time::timeout_at(until.into(), log()).await;
    let text = log.unwrap_or_else(|_| missing("the journal did not answer in time"));
    add(
        "log.txt",
        "the end of the unit's log, if the journal has one",
        &text,
    );
    entries
}

fn missing(why: &str) -> String {
    Value::from(format!("not there: {why}")).to_string()
}

/// The end, if it is long; at a line.
fn cut(text: &str) -> String {
    if text.len() <= FILE_MAX {
        return text.to_owned();
    }
    let from = (text.len() - FILE_MAX..text.len()).find(|at| text.is_char_boundary(*at));
    let end = text.get(from.unwrap_or(text.len())..).unwrap_or_default();
    let end = end.split_once('\n').map_or(end, |(_, whole)| whole);
    format!("[cut: of {} bytes the end]\n{end}", text.len())
}

fn readme(wish: &Wish<'_>, entries: &[Entry]) -> String {
    let hidden = match wish.hide_addresses {
        true => {
            "Addresses (IP and MAC) have names instead, such as ip4-1a2b3c4d: the same name is the same address, in this archive only."
        }
        false => "Addresses are in it; `--hide-addresses` gives them names instead.",
    };
    let mut out = format!(
        "What `meshd doctor --bundle` of meshd {} put together, for a bug report.\n\n\
         Secrets are taken out: no key, invite or token is in it; the state folder was not read. Of plugins' configs only numbers\n\
         and addresses are kept, of the config file no comments. {hidden}\n\
         Names of hosts, networks, ports and interfaces are in it, and so is who is a member. Look through it before you send it:\n\n",
        env!("CARGO_PKG_VERSION")
    );
    for entry in entries {
        out.push_str(&format!(
            "  {:18}  {:>8} bytes  {}\n",
            entry.name,
            entry.text.len(),
            entry.about
        ));
    }
    out
}

/// How many flows of each kind, and their frames; of their addresses nothing.
fn summary(flows: &[Flow]) -> String {
    let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for flow in flows {
        // `to port 3`, `drop: policy`: the kind of it.
        let action = flow.action.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let obstacle = flow
            .obstacle
            .map_or_else(|| "-".to_owned(), |obstacle| word(&obstacle));
        let kind = format!(
            "{:16} {:10} {action:16} {obstacle}",
            flow.network,
            word(&flow.lives)
        );
        let entry = kinds.entry(kind).or_default();
        *entry = (entry.0 + 1, entry.1.saturating_add(flow.frames));
    }
    let mut out =
        "   flows       frames  network          tier       action           obstacle\n".to_owned();
    for (kind, (flows, frames)) in kinds {
        out.push_str(&format!("{flows:8} {frames:12}  {kind}\n"));
    }
    out
}

const CMDLINE: &str = "/proc/cmdline";

/// Of the kernel's command line what is known to be no secret and nobody's address, and how many words are left out.
fn harmless(cmdline: &str) -> String {
    const KEYS: [&str; 26] = [
        "amd_iommu",
        "apparmor",
        "cgroup_disable",
        "cgroup_enable",
        "cgroup_no_v1",
        "clocksource",
        "default_hugepagesz",
        "hugepages",
        "hugepagesz",
        "idle",
        "intel_iommu",
        "iommu",
        "ipv6.disable",
        "isolcpus",
        "lockdown",
        "maxcpus",
        "mitigations",
        "net.ifnames",
        "nohz_full",
        "nosmt",
        "preempt",
        "rcu_nocbs",
        "selinux",
        "systemd.unified_cgroup_hierarchy",
        "threadirqs",
        "transparent_hugepage",
    ];
    let is_known = |word: &&str| {
        let key = word.split_once('=').map_or(*word, |(key, _)| key);
        KEYS.contains(&key)
    };
    let (known, others): (Vec<&str>, Vec<&str>) = cmdline.split_whitespace().partition(is_known);
    format!("{} [{} others left out]", known.join(" "), others.len())
}

/// Files of the kernel that say how the host is, and nothing of who is on it.
fn kernel() -> String {
    const FILES: [&str; 9] = [
        "/proc/version",
        CMDLINE,
        "/etc/os-release",
        "/proc/meminfo",
        "/proc/loadavg",
        "/proc/modules",
        "/proc/net/dev",
        "/proc/net/snmp",
        "/proc/net/softnet_stat",
    ];
    FILES.iter().fold(String::new(), |mut out, file| {
        let text = crate::bounded::text(Path::new(file), FILE_MAX);
        let text = match text {
            Ok(text) if *file == CMDLINE => harmless(&text),
            Ok(text) => text,
            Err(error) => format!("not there: {error}"),
        };
        out.extend(["==== ", file, "\n", text.trim_end(), "\n\n"]);
        out
    })
}

async fn log() -> String {
    let mut command = tokio::process::Command::new("journalctl");
    command.args([
        "--unit",
        "meshd",
        "--lines",
        LOG_LINES,
        "--no-pager",
        "--output",
        "short-iso",
    ]);
    command.kill_on_drop(true);
    match command.output().await {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).into_owned(),
        Ok(out) => missing(String::from_utf8_lossy(&out.stderr).trim()),
        Err(error) => missing(&format!("journalctl: {error}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    const TOKEN: &str = "meshd-api-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    async fn archive(folder: &Path) -> (io::Result<usize>, std::path::PathBuf) {
        let (state, config, file) = (
            folder.join("state"),
            folder.join("meshd.toml"),
            folder.join("b.tar.gz"),
        );
        fs::create_dir_all(state.join("api")).unwrap();
        fs::write(state.join("api/change.token"), TOKEN).unwrap();
        fs::write(
            &config,
            format!("# {TOKEN}\n[log]\nlevel = \"info\"\npassword = \"hunter2\"\n"),
        )
        .unwrap();
        let report = Doctor::default();
        let wish = Wish {
            file: &file,
            hide_addresses: true,
            state: &state,
            config: &config,
            doctor: (
                &report,
                format!(
                    "at 192.0.2.9 {TOKEN} {}\n",
                    data_encoding::BASE64.encode(TOKEN.as_bytes())
                ),
            ),
        };
        (
            make(wish, &Client::new(&folder.join("none.sock"))).await,
            file,
        )
    }

    #[tokio::test]
    async fn an_archive_without_a_daemon_is_whole_private_and_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let (made, file) = archive(folder.path()).await;
        let count = made.unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let mut names = Vec::new();
        let mut all = String::new();
        let bytes = fs::read(&file).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().display().to_string());
            entry.read_to_string(&mut all).unwrap();
        }
        assert_eq!(names.len(), count);
        assert_eq!(names[0], "meshd-bundle/README.txt");
        for name in &names[1..] {
            assert!(
                all.contains(&format!("  {}", name.trim_start_matches("meshd-bundle/"))),
                "{name} is not in the README"
            );
        }
        for secret in [
            TOKEN,
            "hunter2",
            "AAECAwQFBgcICQoL",
            &data_encoding::BASE64_NOPAD.encode(TOKEN.as_bytes()),
            "192.0.2.9",
        ] {
            assert!(!all.contains(secret), "{secret}");
        }
        assert!(all.contains("level = \"info\"") && all.contains("no daemon answers"));
    }

    #[tokio::test]
    async fn a_file_that_is_there_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b.tar.gz"), "mine").unwrap();
        let (made, file) = archive(folder.path()).await;
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(file).unwrap(), "mine");
    }

    #[test]
    fn a_long_text_is_cut_at_a_line_and_says_so() {
        let text = "zeile ä\n".repeat(FILE_MAX / 8);
        let cut = cut(&text);
        assert!(cut.starts_with("[cut: of ") && cut.len() <= FILE_MAX + 64 && cut.ends_with("ä\n"));
    }
}
