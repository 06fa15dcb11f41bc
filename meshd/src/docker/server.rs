//! HTTP on the plugin socket: every answer is JSON, and every refusal is `{"Err": "...", "Error": "..."}` in words that Docker shows.
//!
//! Owns the limits: connections, requests at work, bytes and time of a body. A request that was begun is ended, also if
//! who asked went away: nothing stays half done.

use super::ipam::SPACE;
use super::protocol::{self, read};
use super::{Driver, told};
use crate::api::socket::{self, Socket};
use crate::telemetry::{self, operation};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::any};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::Instrument as _;

/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 256;
/// Requests at work at once; more wait.
const WORK_MAX: usize = 64;
/// Bytes of a body; an endpoint with a thousand published ports has about a tenth of it.
const BODY_MAX: usize = 1 << 20;
/// For a request's head, and then for its body, to come.
const HEAD_WITHIN: Duration = Duration::from_secs(3);
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// Docker waits 30 s for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);
/// As Docker's plugins have it.
const CONTENT: &str = "application/vnd.docker.plugins.v1.2+json";

struct Desk {
    driver: Arc<Driver>,
    work: Arc<Semaphore>,
}

/// Answers on `socket` until the future is dropped; the socket's file goes with it.
pub(super) async fn serve(listener: Socket, driver: Arc<Driver>) {
    let desk = Arc::new(Desk {
        driver,
        work: Arc::new(Semaphore::new(WORK_MAX)),
    });
    let router = Router::new()
        .route("/{method}", any(take))
        .fallback(async || refused(StatusCode::NOT_FOUND, "there is no such method of a plugin"))
        .with_state(desk);
    let mut serving = tokio::task::JoinSet::new();
    socket::serve(
        listener,
        CONNECTIONS_MAX,
        HEAD_WITHIN,
        router,
        |connection| {
            while serving.try_join_next().is_some() {}
            serving.spawn(connection);
        },
    )
    .await;
}

/// Why a request was not done in time.
enum Late {
    /// Not even begun, so that it never will be.
    NoPlace,
    /// It goes on.
    AtWork,
    /// It panicked.
    Broke,
}

/// Does the work as soon as there is a place for it. Once begun it is ended, also if who asked is gone; one that finds no
/// place in time, or whose asker goes away before, is not begun: nothing queues up behind work that hangs.
async fn at_work<T: Send + 'static>(
    places: &Arc<Semaphore>,
    within: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Late> {
    let end = tokio::time::Instant::now() + within;
    let place = tokio::time::timeout_at(end, Arc::clone(places).acquire_owned());
    // The semaphore is never closed.
    let Ok(Ok(place)) = place.await else {
        return Err(Late::NoPlace);
    };
    let work = tokio::spawn(async move {
        let _place = place;
        work.await
    });
    match tokio::time::timeout_at(end, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(Late::Broke),
        Err(_) => Err(Late::AtWork),
    }
}

fn answer(status: StatusCode, value: &Value) -> Response {
    let body = Body::from(value.to_string());
    (status, [(header::CONTENT_TYPE, CONTENT)], body).into_response()
}

fn refused(status: StatusCode, reason: impl Into<String>) -> Response {
    let reason: String = reason.into();
    // A network driver says `Err`, an IPAM driver `Error`.
    answer(status, &json!({ "Err": reason, "Error": reason }))
}

async fn take(State(desk): State<Arc<Desk>>, request: Request) -> Response {
    if request.method() != Method::POST {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "a plugin is asked by POST");
    }
    let method = request.uri().path().trim_start_matches('/').to_owned();
    // Read before it counts, so that nobody holds a place by sending slowly.
    let read = tokio::time::timeout(BODY_WITHIN, to_bytes(request.into_body(), BODY_MAX));
    let body = match read.await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let reason = format!("the body broke off, or is longer than {BODY_MAX} bytes");
            return refused(StatusCode::PAYLOAD_TOO_LARGE, reason);
        }
        Err(_) => {
            let reason = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
            return refused(StatusCode::REQUEST_TIMEOUT, reason);
        }
    };
    let driver = Arc::clone(&desk.driver);
    let span = operation!(
        "docker request",
        otel.name = method.as_str(),
        method = method.as_str()
    );
    let work = async move {
        let done = driver.answer(&method, &body).instrument(span.clone()).await;
        if let Some(Err(refusal)) = &done {
            telemetry::failed(&span, refusal.code, &refusal.message);
        }
        done
    };
    let late = |what: &str| {
        let within = ANSWER_WITHIN.as_secs();
        let message = format!("{what} within {within} s; see `meshd status` and its log");
        let refusal = Refusal::new(ErrorCode::AnswerLate, message);
        refused(StatusCode::OK, format!("meshd: {}", told(&refusal)))
    };
    match at_work(&desk.work, ANSWER_WITHIN, work).await {
        Ok(Some(Ok(value))) => answer(StatusCode::OK, &value),
        Ok(Some(Err(refusal))) => {
            tracing::warn!(code = %refusal.code, "refused to Docker: {refusal}");
            refused(StatusCode::OK, format!("meshd: {}", told(&refusal)))
        }
        Ok(None) => refused(
            StatusCode::NOT_FOUND,
            "this driver has no such method; it is one of networks and of IPAM, of local scope",
        ),
        Err(Late::Broke) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "meshd failed within this request; its log says how",
        ),
        Err(Late::AtWork) => late("not done"),
        Err(Late::NoPlace) => late(&format!("not begun, with {WORK_MAX} requests at work,")),
    }
}

impl Driver {
    /// `None`: there is no such method.
    async fn answer(&self, method: &str, body: &[u8]) -> Option<Result<Value, Refusal>> {
        self.done(method, body).await.transpose()
    }

    async fn done(&self, method: &str, body: &[u8]) -> Result<Option<Value>, Refusal> {
        let done = json!({});
        let value = match method {
            "Plugin.Activate" => json!({ "Implements": ["NetworkDriver", "IpamDriver"] }),
            "NetworkDriver.GetCapabilities" => {
                json!({ "Scope": "local", "ConnectivityScope": "global" })
            }
            "NetworkDriver.CreateNetwork" => self.create_network(read(body)?).await?,
            "NetworkDriver.DeleteNetwork" => self.delete_network(read(body)?).await?,
            "NetworkDriver.CreateEndpoint" => self.create_endpoint(read(body)?).await?,
            "NetworkDriver.DeleteEndpoint" => self.delete_endpoint(read(body)?).await?,
            "NetworkDriver.EndpointOperInfo" => self.endpoint_info(&read(body)?)?,
            "NetworkDriver.Join" => self.join(read(body)?).await?,
            "NetworkDriver.ProgramExternalConnectivity" => self.publish(&read(body)?)?,
            "NetworkDriver.Leave" | "NetworkDriver.RevokeExternalConnectivity" => {
                read::<protocol::OfEndpoint>(body)?;
                done
            }
            "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => done,
            "IpamDriver.GetCapabilities" => {
                json!({ "RequiresMACAddress": true, "RequiresRequestReplay": false })
            }
            "IpamDriver.GetDefaultAddressSpaces" => {
                json!({ "LocalDefaultAddressSpace": SPACE, "GlobalDefaultAddressSpace": SPACE })
            }
            "IpamDriver.RequestPool" => self.request_pool(read(body)?).await?,
            // A pool is a network of the mesh, or a part of it: nothing was taken.
            "IpamDriver.ReleasePool" => done,
            "IpamDriver.RequestAddress" => self.request_address(read(body)?).await?,
            "IpamDriver.ReleaseAddress" => self.release_address(read(body)?).await?,
            _ => return Ok(None),
        };
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn a_request_that_finds_no_place_in_time_is_never_begun_and_one_that_was_begun_is_ended()
    {
        let places = Arc::new(Semaphore::new(1));
        let within = Duration::from_millis(20);
        let begun = Arc::new(AtomicU32::new(0));
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let count = || {
            let begun = Arc::clone(&begun);
            async move { begun.fetch_add(1, Ordering::SeqCst) }
        };
        let hangs = {
            let done = count();
            async move {
                let _ = gate.await;
                done.await
            }
        };
        assert!(matches!(
            at_work(&places, within, hangs).await,
            Err(Late::AtWork)
        ));
        for _ in 0..10 {
            let late = at_work(&places, within, count()).await;
            assert!(matches!(late, Err(Late::NoPlace)));
        }
        assert_eq!(begun.load(Ordering::SeqCst), 0);
        // What hung goes on, and after it there is a place again, with nobody before in the queue.
        assert!(open.send(()).is_ok());
        let patient = Duration::from_secs(20);
        assert!(matches!(at_work(&places, patient, count()).await, Ok(1)));
        let broke = at_work(&places, patient, async { panic!("as it should") });
        assert!(matches!(broke.await, Err::<(), _>(Late::Broke)));
        assert!(matches!(at_work(&places, patient, count()).await, Ok(2)));
    }
}
