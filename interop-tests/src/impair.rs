//! What can go wrong on the wire: loss and partitions, by nftables at the receiver's `und0`; delay and reordering, by netem
//! at the sender's, where the kernel has it.
//!
//! The ingress hook of the receiver is the place: a rule at the sender would tell it, by an error, what a real wire does
//! in silence.

use crate::lab::Lab;
use crate::netns;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::process::Stdio;

impl Lab {
    /// Each host loses `percent` % of what it receives on the wire.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn lose(&self, percent: u32) -> Result<()> {
        self.lose_per_mille(10 * percent)
    }

    /// The same, of a thousand packets.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn lose_per_mille(&self, share: u32) -> Result<()> {
        for host in &self.hosts {
            nft(
                &host.netns,
                &format!("numgen random mod 1000 < {share} counter drop"),
            )?;
        }
        Ok(())
    }

    /// Packets that arrive on the wire are joined by the receiver's driver, or each is handled alone.
    ///
    /// # Errors
    /// If ethtool refuses.
    pub fn join_on_arrival(&self, on: bool) -> Result<()> {
        let words = ["-K", "und0", "gro", if on { "on" } else { "off" }];
        for host in &self.hosts {
            netns::run(&host.netns, "ethtool", &words)?;
        }
        Ok(())
    }

    /// Hosts `left` and `right` do not hear each other any more.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn cut(&self, left: usize, right: usize) -> Result<()> {
        for (here, there) in [(left, right), (right, left)] {
            let far = &self.hosts[there];
            nft(
                &self.hosts[here].netns,
                &format!("ip saddr {} counter drop", far.v4),
            )?;
            nft(
                &self.hosts[here].netns,
                &format!("ip6 saddr {} counter drop", far.v6),
            )?;
        }
        Ok(())
    }

    /// The hosts in `group` hear nobody outside of it, and nobody hears them.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn partition(&self, group: &[usize]) -> Result<()> {
        for inside in group {
            for outside in (0..self.hosts.len()).filter(|index| !group.contains(index)) {
                self.cut(*inside, outside)?;
            }
        }
        Ok(())
    }

    /// Host `index` does not hear what `what` matches (a rule of nft without its verdict).
    ///
    /// # Errors
    /// If nft refuses.
    pub fn deafen(&self, index: usize, what: &str) -> Result<()> {
        nft(&self.hosts[index].netns, &format!("{what} counter drop"))
    }

    /// As [`Lab::deafen`], on another device than `und0`.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn deafen_device(&self, index: usize, device: &str, what: &str) -> Result<()> {
        nft_on(
            &self.hosts[index].netns,
            device,
            &format!("{what} counter drop"),
        )
    }

    /// What host `index` hears is changed: `what` matches, `how` changes.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn corrupt(&self, index: usize, what: &str, how: &str) -> Result<()> {
        nft(&self.hosts[index].netns, &format!("{what} counter {how}"))
    }

    /// What each host sends on the wire goes through netem with these words.
    ///
    /// # Errors
    /// If tc refuses, as where the kernel has no netem.
    pub fn netem(&self, words: &str) -> Result<()> {
        let all = format!("qdisc replace dev und0 root netem {words}");
        let all: Vec<&str> = all.split_whitespace().collect();
        for host in &self.hosts {
            netns::run(&host.netns, "tc", &all)?;
        }
        Ok(())
    }

    /// All impairments end.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn heal(&self) -> Result<()> {
        for host in &self.hosts {
            let qdisc = ["qdisc", "del", "dev", "und0", "root"];
            let _ = netns::run(&host.netns, "tc", &qdisc);
            let _ = netns::run(&host.netns, "nft", &["delete", "table", "netdev", "impair"]);
        }
        Ok(())
    }

    /// Packets that impairments have eaten on host `index`.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn eaten(&self, index: usize) -> Result<u64> {
        let rules = netns::run(
            &self.hosts[index].netns,
            "nft",
            &["list", "table", "netdev", "impair"],
        )?;
        let words: Vec<_> = rules.split_whitespace().collect();
        Ok(words
            .windows(2)
            .filter(|pair| pair[0] == "packets")
            .filter_map(|pair| pair[1].parse::<u64>().ok())
            .sum())
    }
}

/// Adds one rule to the ingress chain of `und0`, or of another device, in `netns`.
fn nft(netns: &str, rule: &str) -> Result<()> {
    nft_on(netns, "und0", rule)
}

fn nft_on(netns: &str, device: &str, rule: &str) -> Result<()> {
    let script = format!(
        "add table netdev impair\n\
         add chain netdev impair {device} {{ type filter hook ingress device \"{device}\" priority 0; policy accept; }}\n\
         add rule netdev impair {device} {rule}\n"
    );
    let mut command = netns::command(netns, "nft")?;
    let mut child = command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start nft")?;
    child
        .stdin
        .take()
        .context("nft has no input")?
        .write_all(script.as_bytes())?;
    let out = child.wait_with_output()?;
    ensure!(
        out.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
