//! The daemon's API: HTTP with JSON on a Unix socket, and on a TCP port of the loopback if the config says so; for the command
//! line and for programs.
//!
//! ```text
//!   meshd status ---+      Unix: uid, groups                                      +--> Backend: the driver, the plugins
//!   curl -----------+--> doors ---------------> limits --> routes --> requests ---+
//!   a scraper ------+      TCP: Host, Origin,               (thin)    (parsed)    +--> trace: text -> frame
//!                               token
//! ```
//!
//! Owns the doors, the routes with their description in OpenAPI, the limits (who, how often, how much, how long) and the shape of
//! errors: `{"code", "message"}`. Decides nothing of the mesh: [`backend::Backend`] is what it asks.

mod access;
pub mod backend;
pub mod capture;
pub mod client;
mod credentials;
mod describe;
mod devices;
mod doors;
mod drops;
mod extract;
mod follow;
mod limits;
mod metrics;
mod patient;
pub mod plugin_views;
mod plugins;
mod rates;
pub mod requests;
mod routes;
pub mod socket;
#[cfg(test)]
pub(crate) mod tests;
pub mod tokens;
pub mod told;
pub(crate) mod trace;

pub use access::{Gate, Rules};
pub use backend::Backend;
pub use doors::{Doors, serve};
pub(crate) use extract::status;

use std::time::Duration;

/// Connections at once; more wait. Far more than requests at work: who has said nothing yet must keep nobody out.
const CONNECTIONS_MAX: usize = 512;
/// Of them, those that neither root nor the daemon's own user made.
const GUESTS_MAX: usize = 128;
/// Connections by TCP at once; more wait.
const REMOTE_MAX: usize = 128;
/// Changes at work at once; more wait. Views are not counted.
const CHANGES_MAX: usize = 64;
/// Who may follow events at once.
const FOLLOWERS_MAX: usize = 64;
/// Of them, those that may only read.
const READERS_MAX: usize = FOLLOWERS_MAX / 2;
/// For a request's head, and then for its body, to come.
const HEAD_WITHIN: Duration = Duration::from_secs(3);
/// See [`HEAD_WITHIN`].
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Until a request is answered, or refused.
const REQUEST_S: u64 = 60;
/// Largest body, in bytes.
const BODY_MAX: usize = 1 << 20;
/// Largest component, in bytes.
const PLUGIN_MAX: usize = 32 << 20;

/// The table of metrics, as `docs/reference/metrics.md` has it.
#[must_use]
pub fn metrics_page() -> String {
    metrics::page()
}

/// The OpenAPI document, as `docs/reference/openapi.json` has it.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    routes::document::<crate::backend::Live>()
}
