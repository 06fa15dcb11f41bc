//! `meshd doctor`: what meshd needs of this host and of the ways to its peers, and how to get what is missing.
//!
//! ```text
//!   host      works without a daemon: kernel, rights, clock, addresses, UDP ports, state folder, disk, tables, offloads
//!   probe     addresses of peers: does UDP pass, and packets of which size?
//!   inside    ports, from inside: MTU, names, resolv.conf
//!   underlay  routes to peers, VXLAN devices of others
//!   bundle    all of it, and the daemon's views, in one archive without secrets
//! ```
//!
//! Owns the gathering; `meshd_core::diagnosis` decides what is wrong. Each part has its share of the time, and what has not ended
//! by then is said. Refuses to repair anything.

pub(crate) mod bundle;
mod clock;
mod hide;
mod holder;
pub(crate) mod host;
pub(crate) mod inside;
mod nic;
pub(crate) mod probe;
mod redact;
pub(crate) mod underlay;
mod upstream;

use meshd_core::diagnosis::{Finding, warn};
use meshd_core::view::Check;
use std::time::{Duration, Instant};

/// All of it ends by then.
pub(crate) const WITHIN: Duration = Duration::from_millis(4500);

/// Runs a job that may block, on a thread of its own: nobody waits for it when its time is over.
pub(crate) async fn apart<T: Send + 'static>(
    until: Instant,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("doctor".to_owned());
    thread
        .spawn(move || {
            let _ = tell.send(job());
        })
        .ok()?;
    tokio::time::timeout_at(until.into(), told).await.ok()?.ok()
}

/// What is said of a part that did not end.
pub(crate) fn unfinished(what: &str) -> Check {
    warn(
        Finding::ProbeUnfinished,
        what,
        format!(
            "not known after {} s, when the doctor's time was over",
            WITHIN.as_secs_f32()
        ),
        "run `meshd doctor` again; is the host very busy?",
    )
}
