//! Further underlays between all hosts, as an operator with several uplinks has them: each a wire of its own, that can be made
//! slow, lossy or dead.
//!
//! ```text
//!   host a: up0 --veth-- bridge up0 of the wire's namespace --veth-- up0 :host b        198.18.0.0/24
//!           up1 --veth-- bridge up1                         --veth-- up1                198.18.1.0/24
//! ```
//!
//! The queue in front of a slow link is that of `tbf`, at the sender's end, as with a modem.

use crate::lab::Lab;
use crate::netns::{self, ip};
use anyhow::{Context, Result};
use std::fmt::Write as _;

/// An uplink that every host is to have.
#[derive(Clone, Copy, Debug)]
pub struct Uplink {
    /// As all config files name it.
    pub name: &'static str,
    /// As all config files have it.
    pub cost: u32,
}

impl Lab {
    /// Gives every host these uplinks, and writes config files that declare them; `more` goes in front, keys of `[underlay]`
    /// first. Daemons read that when they start.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn uplinks(&self, uplinks: &[Uplink], more: &str) -> Result<()> {
        for nth in 0..uplinks.len() {
            let wire = &self.wire;
            ip(&format!(
                "-n {wire} link add up{nth} type bridge mcast_snooping 0"
            ))?;
            ip(&format!("-n {wire} link set up{nth} mtu 1500 up"))?;
            for host in &self.hosts {
                let (ns, letter) = (&host.netns, host.letter);
                ip(&format!(
                    "-n {ns} link add up{nth} type veth peer name {letter}u{nth} netns {wire}"
                ))?;
                ip(&format!(
                    "-n {wire} link set dev {letter}u{nth} master up{nth} up"
                ))?;
                ip(&format!("-n {ns} link set up{nth} up"))?;
                let at = uplink_address(letter, nth);
                ip(&format!("-n {ns} addr add {at}/24 dev up{nth}"))?;
            }
        }
        for (host, node) in self.hosts.iter().zip(&self.nodes) {
            let mut text = more.to_owned();
            for (nth, Uplink { name, cost }) in uplinks.iter().enumerate() {
                let address = uplink_address(host.letter, nth);
                write!(
                    text,
                    "\n[[underlay.link]]\nname = \"{name}\"\naddress = \"{address}\"\ncost = {cost}\n"
                )?;
            }
            std::fs::write(&node.config, text).context("write a config file")?;
        }
        Ok(())
    }

    /// The nth uplink of host `index` sends no faster than this, and lets what waits wait for `ms` at most.
    ///
    /// # Errors
    /// If tc refuses.
    pub fn throttle(&self, index: usize, nth: usize, kbit: u32, ms: u32) -> Result<()> {
        let words =
            format!("qdisc replace dev up{nth} root tbf rate {kbit}kbit burst 6kb latency {ms}ms");
        let words: Vec<&str> = words.split_whitespace().collect();
        netns::run(&self.hosts[index].netns, "tc", &words).map(drop)
    }

    /// It is as fast as it can again.
    ///
    /// # Errors
    /// If tc refuses.
    pub fn unthrottle(&self, index: usize, nth: usize) -> Result<()> {
        let device = format!("up{nth}");
        let words = ["qdisc", "del", "dev", &device, "root"];
        netns::run(&self.hosts[index].netns, "tc", &words).map(drop)
    }

    /// Frames that the nth uplink of host `index` sent.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn sent_by(&self, index: usize, nth: usize) -> Result<u64> {
        let device = format!("up{nth}");
        let words = ["-j", "-s", "link", "show", "dev", &device];
        let text = netns::run(&self.hosts[index].netns, "ip", &words)?;
        let rows: serde_json::Value = serde_json::from_str(&text)?;
        let sent = &rows[0]["stats64"]["tx"]["bytes"];
        sent.as_u64().context("no counter of bytes")
    }
}

/// Where a host is on an uplink.
#[must_use]
pub fn uplink_address(letter: char, nth: usize) -> String {
    format!("198.18.{nth}.{}", u32::from(letter) - u32::from('a') + 1)
}
