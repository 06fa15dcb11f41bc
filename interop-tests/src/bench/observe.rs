//! What observation costs the data path: somebody who looks at everything, beside nobody.
//!
//! ```text
//!   container 1 - daemon - QUIC - daemon - far container 1    carries
//!   both daemons    metrics scraped each second, `top`, events followed, a capture of another network, the web page's state
//! ```

use super::load::{Iperf, Traffic, Way};
use super::median;
use super::system::attach_both;
use crate::lab::{Lab, LabSpec};
use crate::report::Table;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The lab for [`run`].
#[must_use]
pub fn spec() -> LabSpec {
    LabSpec::hosts(2).containers(2)
}

/// Who looks, until they are dropped.
struct Watchers {
    programs: Vec<Child>,
    end: Arc<AtomicBool>,
    scrapers: Vec<JoinHandle<Result<()>>>,
}

/// Asks for metrics once a second.
fn scrape(socket: &Path, end: &AtomicBool) -> Result<()> {
    while !end.load(Ordering::Relaxed) {
        let mut stream = UnixStream::connect(socket).context("connect to the API")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: meshd\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

impl Watchers {
    fn start(lab: &Lab) -> Result<Self> {
        let mut all = Self {
            programs: Vec::new(),
            end: Arc::new(AtomicBool::new(false)),
            scrapers: Vec::new(),
        };
        for node in &lab.nodes {
            let (socket, end) = (node.socket.clone(), Arc::clone(&all.end));
            all.scrapers
                .push(std::thread::spawn(move || scrape(&socket, &end)));
            let commands = [
                // In a terminal of its own, that nobody types at.
                r#"sleep 1000 | script -qfc "stty rows 40 cols 120; exec $0 top" /dev/null"#,
                r#"exec "$0" events --follow"#,
                r#"exec "$0" capture other -w /dev/null"#,
            ];
            for line in commands {
                let own = node.command()?;
                let mut command = crate::netns::command(&node.netns, "sh")?;
                for (name, value) in own.get_envs() {
                    if let Some(value) = value {
                        command.env(name, value);
                    }
                }
                command
                    .args(["-c", line])
                    .arg(crate::lab::meshd_binary()?)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .process_group(0);
                all.programs
                    .push(command.spawn().context("start a watcher")?);
            }
        }
        Ok(all)
    }

    fn all_run(&mut self) -> Result<()> {
        for child in &mut self.programs {
            if let Some(status) = child.try_wait()? {
                bail!("a watcher has ended: {status}");
            }
        }
        ensure!(
            !self.scrapers.iter().any(JoinHandle::is_finished),
            "metrics were refused"
        );
        Ok(())
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for child in &mut self.programs {
            // The shell and all that it started; a terminal that goes ends what runs in it.
            let group = i32::try_from(child.id()).unwrap_or(0);
            // SAFETY: a plain system call; the group is that of our child, which nobody else waits for.
            #[allow(unsafe_code)]
            let _ = (group > 1).then(|| unsafe { libc::kill(-group, libc::SIGKILL) });
            let _ = child.wait();
        }
        for scraper in self.scrapers.drain(..) {
            let _ = scraper.join();
        }
    }
}

fn value(way: &Way, traffic: Traffic, port: u16, seconds: u32) -> Result<f64> {
    let run = Iperf {
        traffic,
        seconds,
        port,
    };
    let arrived = run.run(way)?;
    Ok(match traffic {
        Traffic::Tcp { .. } => arrived.gbps,
        Traffic::Udp { .. } => arrived.pps / 1e3,
    })
}

/// Measures; `say` is told what is going on.
///
/// # Errors
/// If the mesh cannot be made, somebody who looks ends, or a measure fails.
pub fn run(lab: &Lab, rounds: usize, seconds: u32, mut say: impl FnMut(&str)) -> Result<Table> {
    lab.mesh()?;
    lab.network("lan", &["--subnet", "10.78.0.0/24"])?;
    lab.network("other", &["--subnet", "10.79.0.0/24"])?;
    let way = attach_both(lab, "lan", (0, 1), 0)?;
    attach_both(lab, "other", (0, 1), 1)?;
    let mut table = Table::new(&["", "nobody looks", "everything is watched", "ratio"]);
    let mut port = 5200;
    for (name, traffic) in [
        ("TCP 1 stream, Gbit/s", Traffic::STREAM),
        ("UDP 64 B, kpps", Traffic::Udp { bytes: 64 }),
    ] {
        let mut turns: Vec<[f64; 2]> = Vec::new();
        for round in 0..rounds {
            let mut turn = [f64::NAN; 2];
            // There and back again, so that what changes with time hits both alike.
            for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                port += 1;
                let mut watchers = (at == 1).then(|| Watchers::start(lab)).transpose()?;
                // They begin, or have ended.
                std::thread::sleep(Duration::from_millis(500));
                turn[at] = value(&way, traffic, port, seconds)?;
                watchers.as_mut().map(Watchers::all_run).transpose()?;
            }
            let [alone, watched] = turn;
            let round = round + 1;
            say(&format!(
                "round {round}: {name}: {alone:.2} alone, {watched:.2} watched"
            ));
            turns.push(turn);
        }
        let of = |at: usize| median(turns.iter().map(|turn| turn[at]).collect());
        let ratio = median(
            turns
                .iter()
                .map(|[alone, watched]| watched / alone)
                .collect(),
        );
        table.row(&[
            &name,
            &format!("{:.2}", of(0)),
            &format!("{:.2}", of(1)),
            &format!("{ratio:.3}"),
        ]);
    }
    Ok(table)
}
