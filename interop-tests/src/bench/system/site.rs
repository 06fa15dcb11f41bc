//! Where a system is put up: two hosts on one wire, with ends that it shall connect.
//!
//! ```text
//!   Layer 2, containers    eth0 - veth - bridge - device          Layer 3, containers    eth0 - veth - route - device
//!   hosts                  device with an address                 hosts                  the same
//! ```

use super::{About, Entry, System};
use crate::bench::load::Way;
use crate::bench::setting::{Ends, Setting};
use crate::lab::{Host, Lab, find};
use crate::netns::{self, ip};
use crate::traffic::{ping, ping_until};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where programs are that are not in the search path.
pub type Programs = BTreeMap<String, PathBuf>;

/// Where one system is put up.
#[derive(Debug)]
pub struct Site<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Its setting.
    pub setting: Setting,
    /// Which system.
    pub entry: &'a Entry,
    /// Its number: addresses, containers and device names differ by it.
    pub number: u8,
    /// Index of the first of its two hosts.
    pub first: usize,
    /// Where programs are.
    pub programs: &'a Programs,
}

/// A daemon of a system; ends with it.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
    /// A file outside of the lab's folder that it would leave behind.
    leaves: Option<PathBuf>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(file) = &self.leaves {
            let _ = fs::remove_file(file);
        }
    }
}

impl Daemon {
    /// Removes this file when the daemon ends.
    pub(super) fn leaving(mut self, file: impl Into<PathBuf>) -> Self {
        self.leaves = Some(file.into());
        self
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Site<'_> {
    /// Host 0 or 1.
    pub(super) fn host(&self, side: usize) -> &Host {
        &self.lab.hosts[self.first + side]
    }

    /// The tunnel's device on one side. Nothing else on this machine is called so: some daemons name files after it, which
    /// all namespaces see.
    pub(super) fn device(&self, side: usize) -> String {
        format!("t{}x{}{side}", std::process::id(), self.number)
    }

    /// Address of an end: what is told to the tunnel's own device between hosts.
    pub(super) fn end(&self, side: usize) -> Ipv4Addr {
        let last = u8::try_from(side).unwrap_or(0) + 1;
        match self.entry.layer {
            2 => Ipv4Addr::new(10, 100 + self.number, 0, last),
            _ => Ipv4Addr::new(10, 100 + self.number, last, 2),
        }
    }

    /// A folder for files of its daemons.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        let folder = self.lab.dir.join(self.entry.id);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(folder)
    }

    /// A program: where it was told to be, else in the search path.
    ///
    /// # Errors
    /// If it is in neither.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf> {
        let told = self.programs.get(name).cloned();
        told.or_else(|| find(name))
            .with_context(|| format!("{name} is not installed"))
    }

    /// Starts a daemon on a host; `shape` gives its arguments.
    pub(super) fn daemon(
        &self,
        side: usize,
        program: &str,
        shape: impl FnOnce(&mut Command),
    ) -> Result<Daemon> {
        let log = self.folder()?.join(format!("{program}-{side}.log"));
        let out = File::create(&log).context("create a log")?;
        let mut command = netns::command(&self.host(side).netns, self.program(program)?)?;
        shape(&mut command);
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        Ok(Daemon {
            child,
            log,
            leaves: None,
        })
    }

    /// Waits for the tunnel's device on both hosts.
    pub(super) fn device_comes(&self) -> Result<()> {
        for side in [0, 1] {
            let (netns, device) = (&self.host(side).netns, self.device(side));
            let what = format!("device {device} of {}", self.entry.id);
            crate::wait(&what, Duration::from_secs(10), || {
                Ok(ip(&format!("-n {netns} link show dev {device}")).is_ok())
            })?;
        }
        Ok(())
    }

    /// Makes a namespace for a container on this side and a veth into it; the host's end is named `c` and the number.
    fn container(&self, side: usize, mtu: u32) -> Result<String> {
        let suffix = format!("s{}", self.number);
        let name = self.lab.add_container(self.first + side, &suffix)?;
        let (host, number) = (&self.host(side).netns, self.number);
        ip(&format!(
            "-n {host} link add c{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"
        ))?;
        ip(&format!("-n {host} link set dev c{number} up"))?;
        ip(&format!("-n {name} link set dev eth0 up"))?;
        Ok(name)
    }

    /// Connects the ends to the tunnel's device, which is there on both hosts; it gets this MTU.
    pub(super) fn connect(&self, mtu: u32) -> Result<Way> {
        let mut ends = Vec::new();
        for side in [0, 1] {
            let (host, device) = (self.host(side).netns.clone(), self.device(side));
            ip(&format!("-n {host} addr flush dev {device}"))?;
            ip(&format!("-n {host} link set dev {device} mtu {mtu} up"))?;
            ends.push(match (self.setting.ends, self.entry.layer) {
                (Ends::Hosts, layer) => {
                    let (own, len) = (self.end(side), if layer == 2 { 24 } else { 32 });
                    ip(&format!("-n {host} addr add {own}/{len} dev {device}"))?;
                    if layer == 3 {
                        let far = self.end(1 - side);
                        ip(&format!("-n {host} route add {far}/32 dev {device}"))?;
                    }
                    host
                }
                (Ends::Containers, 2) => self.bridge(side, &device, mtu)?,
                (Ends::Containers, _) => self.route(side, &device, mtu)?,
            });
        }
        let [client, server] = [ends.remove(0), ends.remove(0)];
        Ok(Way {
            client,
            server,
            to: self.end(1).into(),
        })
    }

    fn bridge(&self, side: usize, device: &str, mtu: u32) -> Result<String> {
        let (host, number) = (&self.host(side).netns, self.number);
        let container = self.container(side, mtu)?;
        ip(&format!(
            "-n {host} link add b{number} mtu {mtu} type bridge mcast_snooping 0"
        ))?;
        for port in [device, &format!("c{number}")] {
            ip(&format!("-n {host} link set dev {port} master b{number}"))?;
        }
        ip(&format!("-n {host} link set dev b{number} up"))?;
        let own = self.end(side);
        ip(&format!("-n {container} addr add {own}/24 dev eth0"))?;
        Ok(container)
    }

    fn route(&self, side: usize, device: &str, mtu: u32) -> Result<String> {
        let (host, number) = (&self.host(side).netns, self.number);
        let container = self.container(side, mtu)?;
        let (own, far) = (self.end(side), self.end(1 - side));
        let [a, b, c, _] = own.octets();
        let gate = Ipv4Addr::new(a, b, c, 1);
        ip(&format!("-n {host} addr add {gate}/24 dev c{number}"))?;
        ip(&format!("-n {host} route add {far}/32 dev {device}"))?;
        ip(&format!("-n {container} addr add {own}/24 dev eth0"))?;
        ip(&format!("-n {container} route add default via {gate}"))?;
        netns::run(host, "sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
        Ok(container)
    }

    /// The system, once packets of its whole MTU pass; the daemons are those that carry them.
    pub(super) fn done(
        &self,
        way: Way,
        mtu: u32,
        pids: Vec<u32>,
        daemons: Vec<Daemon>,
    ) -> Result<System> {
        let passes = || -> Result<()> {
            ping_until(&way.client, way.to, Duration::from_secs(20))?;
            // Some daemons look at their device's MTU once a second only.
            let what = format!("packets of {mtu} bytes pass");
            crate::wait(&what, Duration::from_secs(5), || {
                Ok(ping(&way.client, way.to, 1, mtu - 28)?.received > 0)
            })?;
            Ok(())
        };
        passes().with_context(|| {
            let said: Vec<String> = daemons.iter().map(Daemon::last_words).collect();
            format!("{}: {}", self.entry.id, said.join("\n"))
        })?;
        for end in [&way.client, &way.server] {
            // What one run learns of a way must not make the next one faster.
            netns::run(end, "sysctl", &["-qw", "net.ipv4.tcp_no_metrics_save=1"])?;
        }
        Ok(System {
            about: About {
                id: self.entry.id.to_owned(),
                title: self.entry.title.to_owned(),
                layer: self.entry.layer,
                cipher: self.entry.cipher.to_owned(),
                version: self.version(),
                mtu,
            },
            way,
            pids,
            _daemons: daemons,
        })
    }

    /// As [`Site::done`], of a system whose daemons all carry.
    pub(super) fn done_with(&self, daemons: Vec<Daemon>, mtu: u32) -> Result<System> {
        self.device_comes().with_context(|| {
            let said: Vec<String> = daemons.iter().map(Daemon::last_words).collect();
            said.join("\n")
        })?;
        let way = self.connect(mtu)?;
        let pids = daemons.iter().map(Daemon::pid).collect();
        self.done(way, mtu, pids, daemons)
    }

    /// The last word of the first line that a program says of itself.
    fn version(&self) -> String {
        let Some(program) = self.entry.program else {
            return String::new();
        };
        if program.version.is_empty() {
            return String::new();
        }
        let told = self.program(program.name).ok().and_then(|path| {
            let out = Command::new(path).arg(program.version).output().ok()?;
            Some(String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
        });
        first_number(&told.unwrap_or_default())
    }

    /// The wire's address of a host.
    pub(super) fn underlay(&self, side: usize) -> IpAddr {
        self.host(side).v4.into()
    }
}

/// The first word with a digit at its head, but for a `v`.
fn first_number(text: &str) -> String {
    let mut words = text.split_whitespace().map(|word| {
        word.trim_start_matches('v')
            .trim_end_matches([',', ';', ')'])
    });
    words
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .unwrap_or_default()
        .to_owned()
}

/// Writes a file of a daemon.
pub(super) fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        assert_eq!(first_number("VpnCloud v2.3.0\n"), "2.3.0");
        assert_eq!(first_number("tinc version 1.0.36 (built …)"), "1.0.36");
        assert_eq!(first_number("fastd v22\n"), "");
    }
}
