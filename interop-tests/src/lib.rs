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
//! [`lookup`] what containers send, [`impair`] what the wire does to it, [`foreign`] hosts that
//! speak VXLAN and are no members, [`report`] how results are shown.

pub mod bench;
pub mod foreign;
pub mod frames;
pub mod impair;
pub mod lab;
pub mod lookup;
pub mod netns;
pub mod node;
pub mod report;
pub mod segment;
pub mod traffic;

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Asks `done` every 50 ms until it says yes.
///
/// # Errors
/// If `done` fails or has not said yes within `limit`; the message names `what`.
pub fn wait(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
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
