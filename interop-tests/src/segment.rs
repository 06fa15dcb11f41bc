//! A network with every container of the lab on it.

use crate::frames::Tap;
use crate::lab::Lab;
use crate::node::Attached;
use crate::traffic;
use anyhow::Result;
use std::net::IpAddr;
use std::time::Duration;

/// A container on a network.
#[derive(Clone, Debug)]
pub struct Station {
    /// Index of its host.
    pub host: usize,
    /// Its namespace.
    pub netns: String,
    /// Its name on the network: `c`, the host's letter, its number.
    pub name: String,
    /// Its port.
    pub port: Attached,
}

/// The marked frames that each of these hears of what is said; half a second is waited for the first.
///
/// # Errors
/// If a socket fails, or what is said.
pub fn all_heard(
    stations: &[&Station],
    is_marked: fn(&[u8]) -> bool,
    speak: impl FnOnce() -> Result<()>,
) -> Result<Vec<Vec<Vec<u8>>>> {
    let taps: Vec<Tap> = stations
        .iter()
        .map(|station| Tap::open(&station.netns, "eth0"))
        .collect::<Result<_>>()?;
    speak()?;
    let patience = Duration::from_millis(500) * crate::slow();
    taps.iter()
        .map(|tap| {
            let mut all = tap.hear(patience, is_marked)?;
            all.retain(|frame| is_marked(frame));
            Ok(all)
        })
        .collect()
}

impl Lab {
    /// Defines network `name` and attaches every container to it, named `ca1`, `ca2`, `cb1`, …; returns once all nodes
    /// know all of them.
    ///
    /// # Errors
    /// If anything is refused or does not spread.
    pub fn segment(&self, name: &str, args: &[&str]) -> Result<Vec<Station>> {
        self.network(name, args)?;
        let mut stations = Vec::new();
        for (host, description) in self.hosts.iter().enumerate() {
            for (index, netns) in description.containers.iter().enumerate() {
                let label = format!("c{}{}", description.letter, index + 1);
                let port = self.node(host).attach(name, netns, &["--name", &label])?;
                stations.push(Station {
                    host,
                    netns: netns.clone(),
                    name: label,
                    port,
                });
            }
        }
        self.know_each_other(&stations)?;
        Ok(stations)
    }

    /// Waits until each running node knows the MAC of each station.
    ///
    /// # Errors
    /// If that takes more than 5 s for one of them.
    pub fn know_each_other(&self, stations: &[Station]) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            for station in stations {
                node.learns(&station.port.mac)?;
            }
        }
        Ok(())
    }
}

/// Every station pings every other, by IPv4 or IPv6; how many pairs.
///
/// # Errors
/// Names the first silent pair.
pub fn ping_pairs(stations: &[Station], v6: bool) -> Result<usize> {
    let mut pairs: Vec<(&str, IpAddr)> = Vec::new();
    for from in stations {
        for to in stations.iter().filter(|to| to.name != from.name) {
            pairs.push((&from.netns, if v6 { to.port.v6()? } else { to.port.v4()? }));
        }
    }
    traffic::ping_all(pairs)
}
