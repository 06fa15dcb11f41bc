//! meshd against the real kernel, in network namespaces.
//!
//! ```text
//!   ml<pid>a1  ml<pid>a2      ml<pid>b1  ml<pid>b2        containers: empty namespaces, wired by the daemons
//!        \      /                  \      /
//!        ml<pid>a                  ml<pid>b               hosts: one daemon each
//!           | und0                    | und0              192.0.2.1/24  2001:db8::1/64 …
//!   ========+==== br0 in ml<pid>w ====+========           the wire
//! ```
//!
//! [`lab`] owns the namespaces and their end, [`node`] one daemon and its command line, [`traffic`], [`frames`] and
//! [`lookup`] what containers send, [`flows`] very many of them, [`docker`] Docker on a host, [`systemd`] one in a box, [`impair`] what the wire does to it, [`foreign`] hosts that
//! speak VXLAN and are no members, [`guest`] what only a machine that is thrown away may suffer, [`report`] how results
//! are shown, [`browser`] what a person would see of the web page.

pub mod bench;
pub mod browser;
pub mod card;
pub mod cni;
pub mod collector;
pub mod containers;
pub mod debian;
pub mod docker;
pub mod flows;
pub mod foreign;
pub mod frames;
mod guardian;
pub mod guest;
pub mod impair;
pub mod lab;
pub mod latency;
pub mod link;
pub mod lookup;
pub mod netns;
pub mod node;
pub mod package;
pub mod page;
pub mod process;
pub mod report;
pub mod segment;
pub mod systemd;
pub mod traffic;
pub mod uplinks;

use anyhow::{Result, bail};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How many times slower this machine is than those that the lab's limits are for: `MESHD_LAB_SLOW`, 1 unless told otherwise.
///
/// All of the lab's time is stretched by it, so that each claim stays what it is: whoever waits has as much more patience, and
/// whoever sends at a steady rate has as much more time between two datagrams.
#[must_use]
pub fn slow() -> u32 {
    static SLOW: OnceLock<u32> = OnceLock::new();
    *SLOW.get_or_init(|| {
        let told = std::env::var("MESHD_LAB_SLOW").ok();
        told.and_then(|text| text.parse().ok())
            .map_or(1, |factor: u32| factor.clamp(1, 100))
    })
}

/// How many times longer whoever waits may wait, where other sets of tests run beside: `MESHD_LAB_PATIENCE`, 1 unless told
/// otherwise. Unlike [`slow`] it stretches nothing that is sent: patience costs a test that passes no time.
#[must_use]
pub fn patience() -> u32 {
    static PATIENCE: OnceLock<u32> = OnceLock::new();
    *PATIENCE.get_or_init(|| {
        let told = std::env::var("MESHD_LAB_PATIENCE").ok();
        told.and_then(|text| text.parse().ok())
            .map_or(1, |factor: u32| factor.clamp(1, 100))
    })
}

/// Asks `done` every 50 ms until it says yes. On a [`slow`] machine, and beside other sets, the limit is longer; where the time
/// is the claim, look at what is returned.
///
/// # Errors
/// If `done` fails or has not said yes within `limit`; the message names `what`.
pub fn wait(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let (start, limit) = (Instant::now(), limit * slow() * patience());
    loop {
        if done()? {
            return Ok(start.elapsed());
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {:.1} s", limit.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
