//! The web page: `meshd ui` serves it on the loopback for as long as that command runs, and takes its requests to the daemon.
//!
//! ```text
//!   browser --Host, Origin--> assets            files of the page, in the program
//!           \--and a token--> relay --> socket  what the page may ask: reads, and traces, which send nothing
//! ```
//!
//! Owns the listener, the token of this run, and the list of what the page may ask. The daemon sees the user who runs the
//! command, so nobody reads by the page what he may not read by `meshd status`; and whoever takes the token cannot change a
//! thing with it. When the command ends nothing listens any more.

mod assets;
mod gate;
mod relay;

use crate::api::client::Client;
use axum::Router;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::BASE64URL_NOPAD;
use gate::Gate;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use ring::rand::{SecureRandom, SystemRandom};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at once; more wait. A browser takes six for a page.
const CONNECTIONS_MAX: usize = 64;
/// For a request's head to come.
const HEAD_WITHIN: Duration = Duration::from_secs(3);

/// The page on a port of the loopback, not answered yet.
pub struct Page {
    listener: TcpListener,
    gate: Arc<Gate>,
    address: SocketAddr,
    url: String,
}

impl Page {
    /// Listens at 127.0.0.1; `port` 0 takes a free one.
    ///
    /// # Errors
    /// If the port is taken, or the system gives no random numbers for a token.
    pub async fn bind(port: u16) -> io::Result<Self> {
        let mut bytes = [0; 32];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| io::Error::other("the system gave no random numbers"))?;
        let token = BASE64URL_NOPAD.encode(&bytes);
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        let address = listener.local_addr()?;
        // What stands behind `#` is not sent by a browser, and so in no log of a server or proxy.
        let url = format!("http://{address}/#token={token}");
        Ok(Self {
            listener,
            address,
            gate: Arc::new(Gate::new(&token)),
            url,
        })
    }

    /// Where the page is, with its token: whoever has this can read what the page shows.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers, with what the daemon behind `client` says, until the future is dropped.
    pub async fn serve(self, client: Client) {
        let router = router(client, self.gate);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // The semaphore is never closed; if it were, no place is the safe answer.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(code = %ErrorCode::ConnectionsFailed, %error, "cannot accept a connection for the page");
                    // Out of descriptors, most likely: somebody must close one first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let _place = place;
                let mut http = http1::Builder::new();
                // Who keeps a connection without a request would keep a place.
                http.timer(TokioTimer::new())
                    .header_read_timeout(HEAD_WITHIN)
                    .keep_alive(false);
                // Whoever went away has nobody to be told.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }
}

fn router(client: Client, gate: Arc<Gate>) -> Router {
    let for_all = Arc::clone(&gate);
    let mut asked = Router::new();
    for path in relay::READ {
        asked = asked.route(path, get(relay::relay));
    }
    for path in relay::ASKED {
        asked = asked.route(path, post(relay::relay));
    }
    let asked = asked
        .layer(from_fn(move |request, next: Next| {
            let gate = Arc::clone(&gate);
            async move {
                match gate.has_token(&request) {
                    Ok(()) => next.run(request).await,
                    Err(refusal) => refused(&refusal),
                }
            }
        }))
        .with_state(client);
    let mut files = Router::new();
    for asset in assets::ALL {
        files = files.route(
            asset.path,
            get(async move |headers| assets::answer(asset, &headers)),
        );
    }
    files
        .merge(asked)
        .fallback(async || {
            refused(&Refusal {
                code: ErrorCode::PathUnknown,
                message: "the page has nothing here, and may not ask this; the API has more: docs/reference/api.md".to_owned(),
            })
        })
        .layer(from_fn(move |request, next: Next| {
            let gate = Arc::clone(&for_all);
            async move {
                let answer = match gate.is_ours(&request) {
                    Ok(()) => next.run(request).await,
                    Err(refusal) => refused(&refusal),
                };
                assets::guarded(answer)
            }
        }))
}

/// A refusal as the API has them.
fn refused(refusal: &Refusal) -> Response {
    (crate::api::status(refusal.code), axum::Json(refusal)).into_response()
}
