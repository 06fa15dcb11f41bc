//! The daemon's API: HTTP with JSON on a Unix socket, for the command line and for programs.
//!
//! ```text
//!   meshd status ---+                                      +--> Backend: the driver, the plugins
//!   curl -----------+--> socket --> routes --> requests ---+
//!   a CNI driver ---+    (0600)     (thin)    (parsed)     +--> trace: text -> frame
//! ```
//!
//! Owns the socket file, the routes, the limits (connections, body, time) and the shape of errors: `{"code", "message"}`.
//! Decides nothing: [`backend::Backend`] is what it asks.

pub mod backend;
pub mod client;
mod plugins;
pub mod requests;
mod routes;
pub mod socket;
#[cfg(test)]
mod tests;
mod trace;

pub use backend::Backend;

/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 64;
/// Until a request is answered, or refused.
const REQUEST_S: u64 = 60;
/// Largest body, in bytes.
const BODY_MAX: usize = 1 << 20;
/// Largest component, in bytes.
const PLUGIN_MAX: usize = 32 << 20;

/// Answers on `socket` until the future is dropped; the socket file goes with it.
///
/// # Errors
/// If the listening socket breaks.
pub async fn serve(socket: socket::Socket, backend: impl Backend) -> std::io::Result<()> {
    let (listener, _file) = socket.into_parts(CONNECTIONS_MAX);
    axum::serve(listener, routes::router(backend)).await
}
