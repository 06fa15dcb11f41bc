//! The lab's sets of tests: their programs, and the order in which they run.
//!
//! ```text
//!   first    lane 1   wiring ------- fastpath ---- meters --- ...      whoever is free takes the next chain
//!            lane 2   cni - docker - kubernetes - systemd - uplink ... sets that share an engine are one chain
//!   then     alone    steering - failover - bench - superframes        what measures times has the machine to itself
//! ```
//!
//! Labs have names of their own, and mostly wait: two at once take little more than half the time. Within a set tests run one by one.
//! Whoever waits beside another set has more patience, and a set that hangs is killed and named.

use crate::shell::{cargo, output, root};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// What measures times, or loads the machine until it gives way.
const ALONE: [&str; 6] = [
    "steering",
    "failover",
    "bench",
    "superframes",
    "hostile",
    "page",
];
/// What starts an engine that a machine has but one of.
const ENGINES: [&str; 5] = ["cni", "docker", "kubernetes", "systemd", "package"];
/// What takes longest begins first.
const LONG: [&str; 4] = ["wiring", "fastpath", "uplink", "segment"];
/// More would not be told apart from a slow machine.
const LANES_MAX: usize = 2;
/// How many times longer than alone a set waits for something while another one runs beside it.
const PATIENCE: &str = "5";

/// What has not come to its end by then hangs: it is killed, and the others go on.
const LIMIT: Duration = Duration::from_secs(600);
/// Who is left of a killed set may hold its output open for so long.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Programs by the name of their target, from cargo's messages.
pub(crate) fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let of = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(message["executable"].as_str()?)))
    };
    messages.lines().filter_map(of).collect()
}

/// Is it a message about a test of the lab?
fn is_of_lab(message: &str) -> bool {
    let Ok(message) = serde_json::from_str::<serde_json::Value>(message) else {
        return false;
    };
    let of = message["manifest_path"].as_str().map(Path::new);
    let folder = of.and_then(|file| file.parent()?.file_name());
    folder.is_some_and(|name| name == "interop-tests") && message["profile"]["test"] == true
}

/// Sets that run one after the other.
type Chain = Vec<String>;

/// What may run beside one another, and what runs alone, then.
fn plan(mut names: Vec<String>) -> (VecDeque<Chain>, Chain) {
    let mut take = |wanted: &[&str]| -> Chain {
        let mut found = Vec::new();
        for name in wanted {
            names.retain(|known| {
                let is = known == name;
                if is {
                    found.push(known.clone());
                }
                !is
            });
        }
        found
    };
    let alone = take(&ALONE);
    let engines = take(&ENGINES);
    let long = take(&LONG);
    let mut chains: VecDeque<Chain> = long.into_iter().map(|name| vec![name]).collect();
    if !engines.is_empty() {
        chains.insert(chains.len().min(1), engines);
    }
    chains.extend(names.into_iter().map(|name| vec![name]));
    (chains, alone)
}

/// Builds the lab's sets and runs them. `line` is told what they print, set by set. `filter`: for the harness of each.
///
/// # Errors
/// If they cannot be built. `false`: a set failed.
pub(crate) fn run(
    filter: &[String],
    components: Option<&PathBuf>,
    line: impl FnMut(&str) + Send,
) -> Result<bool> {
    // Of the whole workspace: of a part of it crates have other features, and all would be built once more.
    let built = output(&mut cargo(
        "test --quiet --workspace --no-run --message-format=json",
    ))?;
    let of_lab: Vec<&str> = built.lines().filter(|line| is_of_lab(line)).collect();
    let programs = executables(&of_lab.join("\n"));
    let names = programs.keys().cloned().collect();
    let mut words: Vec<OsString> = vec!["--test-threads=1".into()];
    words.extend(filter.iter().map(OsString::from));
    let set = Set {
        programs,
        words,
        components,
        line: Mutex::new(line),
    };
    let lanes = thread::available_parallelism().map_or(1, |cores| cores.get().min(LANES_MAX));
    let (chains, alone) = plan(names);
    let chains = Mutex::new(chains);
    let next = || chains.lock().ok()?.pop_front();
    let passed = thread::scope(|scope| {
        let lane = || {
            let mut passed = true;
            while let Some(chain) = next() {
                passed &= set.chain(&chain, PATIENCE);
            }
            passed
        };
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let mut passed = true;
        for lane in lanes {
            passed &= lane.join().unwrap_or(false);
        }
        passed
    });
    Ok(set.chain(&alone, "1") && passed)
}

struct Set<'a, L> {
    programs: BTreeMap<String, PathBuf>,
    words: Vec<OsString>,
    components: Option<&'a PathBuf>,
    line: Mutex<L>,
}

impl<L: FnMut(&str) + Send> Set<'_, L> {
    fn chain(&self, names: &[String], patience: &str) -> bool {
        let mut passed = true;
        for name in names {
            passed &= self.one(name, patience);
        }
        passed
    }

    fn one(&self, name: &str, patience: &str) -> bool {
        println!("   began {name}");
        let ended = self
            .programs
            .get(name)
            .context("not built")
            .and_then(|program| self.start(program, patience));
        let (lines, passed) = ended.unwrap_or_else(|error| (vec![format!("{error:#}")], false));
        let Ok(mut line) = self.line.lock() else {
            return false;
        };
        println!("\n     Running {name}");
        for text in &lines {
            println!("{text}");
            line(text);
        }
        if !passed && !lines.iter().any(|text| text.starts_with("test result: ")) {
            line(&format!("test {name} ... FAILED"));
            line("test result: FAILED. 0 passed; 1 failed; 0 ignored;");
        }
        passed
    }

    fn start(&self, program: &Path, patience: &str) -> Result<(Vec<String>, bool)> {
        let mut command = Command::new(program);
        command
            .args(&self.words)
            .env("MESHD_LAB_PATIENCE", patience)
            .current_dir(root().join("interop-tests"));
        if let Some(folder) = self.components {
            command.env("MESHD_PLUGINS", folder);
        }
        ended(command, LIMIT)
    }
}

/// Runs it to its end, or to its limit: what it said, and whether all was well. Standard output and standard error come as one, as
/// on a terminal.
fn ended(mut command: Command, limit: Duration) -> Result<(Vec<String>, bool)> {
    let (read, write) = std::io::pipe().context("make a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(write.try_clone()?)
        .stderr(write);
    let program = PathBuf::from(command.get_program());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    // The command holds the writing end.
    drop(command);
    let (say, said) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(read).split(b'\n').map_while(Result::ok);
        for line in lines {
            if say
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                break;
            }
        }
    });
    let end = Instant::now() + limit;
    let mut lines = Vec::new();
    let mut killed = false;
    loop {
        match said.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => lines.push(line),
            // All of its output was closed.
            Err(RecvTimeoutError::Disconnected) => break,
            // It is gone, and somebody whom it started is not.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() > end && !killed {
            killed = true;
            child.kill()?;
        }
    }
    let last = Instant::now() + if killed { LAST_WORDS } else { Duration::ZERO };
    while let Ok(line) = said.recv_timeout(last.saturating_duration_since(Instant::now())) {
        lines.push(line);
    }
    let passed = child.wait()?.success();
    if killed {
        lines.push(format!(
            "killed: it had not ended after {} s",
            limit.as_secs()
        ));
    }
    Ok((lines, passed && !killed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_what_cargo_says() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"interop_tests"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"fastpath"},"executable":"/t/debug/deps/fastpath-1"}
{"reason":"build-finished","success":true}"#;
        let found = executables(messages);
        assert_eq!(found.len(), 1);
        assert_eq!(found["fastpath"], Path::new("/t/debug/deps/fastpath-1"));
    }

    #[test]
    fn a_program_that_is_no_test_is_no_set_of_the_lab() {
        let message = |folder: &str, test: bool| {
            format!(
                r#"{{"manifest_path":"/w/{folder}/Cargo.toml","profile":{{"test":{test}}},"executable":"/t/x"}}"#
            )
        };
        assert!(is_of_lab(&message("interop-tests", true)));
        assert!(!is_of_lab(&message("interop-tests", false)));
        assert!(!is_of_lab(&message("meshd", true)));
        assert!(!is_of_lab("not json"));
    }

    #[test]
    fn what_hangs_is_killed_and_what_it_said_is_told() {
        let shell = |line: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            command
        };
        let limit = Duration::from_secs(1);
        let (said, passed) = ended(shell("echo a; echo b >&2"), limit).unwrap();
        assert_eq!((said, passed), (vec!["a".to_owned(), "b".to_owned()], true));
        assert!(!ended(shell("exit 3"), limit).unwrap().1);
        let (said, passed) = ended(shell("echo a; exec sleep 100"), limit).unwrap();
        assert_eq!(said, ["a", "killed: it had not ended after 1 s"]);
        assert!(!passed);
        // Who was left behind holds the output open, and is not waited for.
        let (said, passed) = ended(shell("sleep 30 & echo a"), limit * 20).unwrap();
        assert_eq!((said, passed), (vec!["a".to_owned()], true));
    }

    #[test]
    fn every_set_runs_once_and_what_measures_times_runs_alone() {
        let names = [
            "bench", "cni", "docker", "fastpath", "meters", "steering", "wire", "wiring",
        ];
        let (chains, alone) = plan(names.map(str::to_owned).to_vec());
        assert_eq!(alone, ["steering", "bench"]);
        let chains: Vec<_> = chains.into_iter().collect();
        assert_eq!(
            chains,
            [
                vec!["wiring"],
                vec!["cni", "docker"],
                vec!["fastpath"],
                vec!["meters"],
                vec!["wire"]
            ]
        );
    }
}
