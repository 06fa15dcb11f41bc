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
pub mod plugin_views;
mod plugins;
pub mod requests;
mod routes;
pub mod socket;
#[cfg(test)]
mod tests;
mod trace;

pub use backend::Backend;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::time::Duration;

/// Connections at once; more wait. Far more than requests at work: who has said nothing yet must keep nobody out.
const CONNECTIONS_MAX: usize = 512;
/// Changes at work at once; more wait. Views are not counted.
const CHANGES_MAX: usize = 64;
/// Who may follow events at once.
const FOLLOWERS_MAX: usize = 64;
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

/// Answers on `socket` until the future is dropped; the socket file goes with it. One request a connection.
///
/// # Errors
/// None at present: a listening socket that breaks is tried again.
pub async fn serve(socket: socket::Socket, backend: impl Backend) -> std::io::Result<()> {
    let (mut listener, _file) = socket.into_parts(CONNECTIONS_MAX);
    let router = routes::router(backend);
    loop {
        let connection = listener.accept().await;
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .keep_alive(false);
            // Whoever went away, or was too slow, has nobody to be told.
            let _ = http
                .serve_connection(TokioIo::new(connection), service)
                .await;
        });
    }
}
