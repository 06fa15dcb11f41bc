//! The routes: one handler each, as thin as it gets.

use super::backend::Backend;
use super::requests::{AttachWish, Invite, InviteWish, TraceWish, invalid};
use super::{
    BODY_MAX, BODY_WITHIN, CHANGES_MAX, FOLLOWERS_MAX, PLUGIN_MAX, REQUEST_S, plugins, trace,
};
use axum::Router;
use axum::body::{self, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post};
use futures_util::stream;
use futures_util::{Stream, StreamExt};
use meshd_core::command::{Command, ForeignVtep, NetworkSpec, Refusal, RefusalCode, Reply};
use meshd_core::flowtext::Packet;
use meshd_core::ident::MacAddr;
use meshd_core::view;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

pub(super) type Answer<T> = Result<Json<T>, ApiError>;

/// A [`Refusal`] on its way out.
#[derive(Debug)]
pub(super) struct ApiError(Refusal);

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            RefusalCode::NotFound => StatusCode::NOT_FOUND,
            RefusalCode::Conflict => StatusCode::CONFLICT,
            RefusalCode::Forbidden => StatusCode::FORBIDDEN,
            RefusalCode::Invalid => StatusCode::BAD_REQUEST,
            RefusalCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}

/// A JSON body; what is wrong with it is told with line and column.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|e| invalid(format!("the body: {e}")))?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|e| invalid(format!("the body is not what is wanted: {e}")).into())
    }
}

/// Parts of the path between slashes.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let segments = Path::from_request_parts(parts, state).await;
        segments
            .map(|Path(segments)| Self(segments))
            .map_err(|e| invalid(format!("the path: {e}")).into())
    }
}

/// What stands behind the `?`.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|e| invalid(format!("the query: {}", e.body_text())).into())
    }
}

/// All routes over `backend`.
pub(super) fn router<B: Backend>(backend: B) -> Router {
    let changes = Arc::new(Semaphore::new(CHANGES_MAX));
    let in_time = move |request: Request, next: Next| in_time(changes.clone(), request, next);
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status::<B>))
        .route("/v1/members", get(members::<B>))
        .route("/v1/members/{member}", delete(revoke::<B>))
        .route("/v1/invites", post(invite::<B>))
        .route("/v1/peers", get(peers::<B>))
        .route("/v1/paths", get(paths::<B>))
        .route("/v1/networks", get(networks::<B>).post(network_add::<B>))
        .route("/v1/networks/{network}", delete(network_remove::<B>))
        .route(
            "/v1/networks/{network}/plugins/{plugin}",
            post(plugins::attach::<B>).delete(plugins::detach::<B>),
        )
        .route(
            "/v1/networks/{network}/plugins/{plugin}/shadow",
            post(plugins::shadow::<B>)
                .layer(DefaultBodyLimit::max(PLUGIN_MAX))
                .delete(plugins::unshadow::<B>),
        )
        .route(
            "/v1/networks/{network}/plugins/{plugin}/log",
            get(plugins::log::<B>),
        )
        .route(
            "/v1/networks/{network}/vteps/{ip}",
            post(vtep_add::<B>).delete(vtep_remove::<B>),
        )
        .route("/v1/vteps", get(vteps::<B>))
        .route("/v1/ports", get(ports::<B>).post(attach::<B>))
        .route("/v1/ports/{port}", delete(detach::<B>))
        .route("/v1/fdb", get(fdb::<B>))
        .route("/v1/flows", get(flows::<B>))
        .route("/v1/connections", get(connections::<B>))
        .route("/v1/drops", get(drops::<B>))
        .route("/v1/events", get(events::<B>))
        .route("/v1/trace", post(trace_packet::<B>))
        .route("/v1/doctor", get(doctor::<B>))
        .route("/v1/plugins", get(plugins::list::<B>))
        .route(
            "/v1/plugins/{plugin}",
            post(plugins::install::<B>)
                .layer(DefaultBodyLimit::max(PLUGIN_MAX))
                .delete(plugins::remove::<B>),
        )
        .route(
            "/v1/plugins/{plugin}/rollback",
            post(plugins::roll_back::<B>),
        )
        .route("/v1/networks/{network}/plugins", get(plugins::chain::<B>))
        .route("/v1/plugin-stats", get(plugins::stats::<B>))
        .fallback(async || {
            no_such("there is nothing at this path; docs/reference/api.md lists what there is")
        })
        .method_not_allowed_fallback(async || {
            let refusal = invalid("this path does not take this method");
            (StatusCode::METHOD_NOT_ALLOWED, Json(refusal))
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(axum::middleware::from_fn(in_time))
        .with_state(backend)
}

fn no_such(message: &str) -> ApiError {
    ApiError(Refusal {
        code: RefusalCode::NotFound,
        message: message.to_owned(),
    })
}

/// The whole of a request, from the body that is to come on, within its times; only so many changes at once.
async fn in_time(changes: Arc<Semaphore>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let takes_query = matches!(
        path,
        "/v1/fdb" | "/v1/flows" | "/v1/connections" | "/v1/events" | "/v1/plugin-stats"
    ) || path
        .strip_prefix("/v1/plugins/")
        .is_some_and(|name| request.method() == Method::POST && !name.contains('/'))
        || (path.starts_with("/v1/networks/") && path.ends_with("/log"));
    if !takes_query && request.uri().query().is_some_and(|query| !query.is_empty()) {
        let refusal = invalid("this path takes no query (what stands behind the `?`)");
        return ApiError(refusal).into_response();
    }
    let takes_component = path.starts_with("/v1/plugins/") || path.ends_with("/shadow");
    let most = match takes_component {
        true => PLUGIN_MAX,
        false => BODY_MAX,
    };
    let (parts, body) = request.into_parts();
    // Read before it counts, so that nobody holds a place by sending slowly.
    let bytes = match tokio::time::timeout(BODY_WITHIN, body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let refusal = invalid(format!("the body: {error}; at most {most} bytes are taken"));
            return ApiError(refusal).into_response();
        }
        Err(_) => {
            let message = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
            return ApiError(invalid(message)).into_response();
        }
    };
    let is_view = matches!(parts.method, Method::GET | Method::HEAD);
    let request = Request::from_parts(parts, bytes.into());
    let work = async move {
        if is_view {
            return next.run(request).await;
        }
        // A task of its own: who changes something and goes away must not leave half of it done.
        let change = async move {
            // The semaphore is never closed.
            let _place = changes.acquire().await.ok();
            next.run(request).await
        };
        tokio::spawn(change).await.unwrap_or_else(|_| {
            let message = "the daemon failed within this request; its log says how".to_owned();
            ApiError(Refusal {
                code: RefusalCode::Unavailable,
                message,
            })
            .into_response()
        })
    };
    tokio::time::timeout(Duration::from_secs(REQUEST_S), work).await.unwrap_or_else(|_| {
        let message = format!("no answer within {REQUEST_S} s; the work may still be done, look before you ask again");
        ApiError(Refusal { code: RefusalCode::Unavailable, message }).into_response()
    })
}

async fn version() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }))
}

macro_rules! views {
    ($($name:ident -> $view:ty;)*) => { $(
        async fn $name<B: Backend>(State(backend): State<B>) -> Answer<$view> {
            Ok(Json(backend.$name().await?))
        }
    )* };
}
views! {
    status -> view::Status;
    members -> Vec<view::Member>;
    peers -> Vec<view::Peer>;
    paths -> Vec<view::Path>;
    networks -> Vec<view::Network>;
    vteps -> Vec<view::VtepRow>;
    ports -> Vec<view::Port>;
    drops -> Vec<view::Drops>;
    doctor -> view::Doctor;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkQuery {
    network: Option<String>,
}

async fn flows<B: Backend>(
    State(backend): State<B>,
    Asked(query): Asked<NetworkQuery>,
) -> Answer<Vec<view::Flow>> {
    let mut flows = backend.flows().await?;
    if let Some(wanted) = query.network {
        let vni = trace::network(&backend.networks().await?, &wanted)?.vni;
        flows.retain(|flow| flow.vni == vni);
    }
    Ok(Json(flows))
}

async fn connections<B: Backend>(
    State(backend): State<B>,
    Asked(query): Asked<NetworkQuery>,
) -> Answer<Vec<view::Connection>> {
    let mut all = backend.connections().await?;
    if let Some(wanted) = query.network {
        let vni = trace::network(&backend.networks().await?, &wanted)?.vni;
        all.retain(|connection| connection.vni == vni);
    }
    Ok(Json(all))
}

async fn fdb<B: Backend>(
    State(backend): State<B>,
    Asked(query): Asked<NetworkQuery>,
) -> Answer<Vec<view::FdbEntry>> {
    let mut entries = backend.fdb().await?;
    if let Some(wanted) = query.network {
        let networks = backend.networks().await?;
        let vni = trace::network(&networks, &wanted)?.vni;
        entries.retain(|entry| entry.vni == vni);
    }
    Ok(Json(entries))
}

async fn invite<B: Backend>(
    State(backend): State<B>,
    Body(wish): Body<InviteWish>,
) -> Answer<Invite> {
    wish.check()?;
    Ok(Json(backend.invite(wish).await?))
}

async fn revoke<B: Backend>(
    State(backend): State<B>,
    Segments(member): Segments<String>,
) -> Result<StatusCode, ApiError> {
    backend.command(Command::Revoke { member }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn network_add<B: Backend>(
    State(backend): State<B>,
    Body(spec): Body<NetworkSpec>,
) -> Answer<view::Network> {
    match backend.command(Command::NetworkAdd(spec)).await? {
        Reply::Network(def) => {
            let made = backend
                .networks()
                .await?
                .into_iter()
                .find(|n| n.vni == def.vni);
            made.map(Json).ok_or_else(|| vanished("the network"))
        }
        other => Err(unexpected(&other)),
    }
}

async fn network_remove<B: Backend>(
    State(backend): State<B>,
    Segments(network): Segments<String>,
) -> Result<StatusCode, ApiError> {
    backend.command(Command::NetworkRemove { network }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is behind a foreign VTEP.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VtepWish {
    #[serde(default)]
    macs: std::collections::BTreeSet<MacAddr>,
}

async fn vtep_add<B: Backend>(
    State(backend): State<B>,
    Segments((network, ip)): Segments<(String, IpAddr)>,
    Body(wish): Body<VtepWish>,
) -> Answer<view::VtepRow> {
    let vtep = ForeignVtep {
        ip,
        macs: wish.macs,
    };
    let vni = trace::network(&backend.networks().await?, &network)?.vni;
    backend.command(Command::VtepAdd { network, vtep }).await?;
    let rows = backend.vteps().await?.into_iter();
    let made = rows.into_iter().find(|row| (row.vni, row.ip) == (vni, ip));
    made.map(Json).ok_or_else(|| vanished("the VTEP"))
}

async fn vtep_remove<B: Backend>(
    State(backend): State<B>,
    Segments((network, ip)): Segments<(String, IpAddr)>,
) -> Result<StatusCode, ApiError> {
    backend.command(Command::VtepRemove { network, ip }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn attach<B: Backend>(
    State(backend): State<B>,
    Body(wish): Body<AttachWish>,
) -> Answer<view::Port> {
    match backend.command(Command::Attach(wish.spec()?)).await? {
        Reply::Port(record) => {
            let made = backend
                .ports()
                .await?
                .into_iter()
                .find(|p| p.id == record.id);
            made.map(Json).ok_or_else(|| vanished("the port"))
        }
        other => Err(unexpected(&other)),
    }
}

async fn detach<B: Backend>(
    State(backend): State<B>,
    Segments(port): Segments<String>,
) -> Result<StatusCode, ApiError> {
    backend.command(Command::Detach { port }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn vanished(what: &str) -> ApiError {
    ApiError(Refusal {
        code: RefusalCode::Conflict,
        message: format!(
            "{what} was made, and removed by somebody else before this answer; see `meshd events`"
        ),
    })
}

fn unexpected(reply: &Reply) -> ApiError {
    ApiError(Refusal {
        code: RefusalCode::Failed,
        message: format!("the node answered something else: {reply:?}"),
    })
}

async fn trace_packet<B: Backend>(
    State(backend): State<B>,
    Body(wish): Body<TraceWish>,
) -> Answer<view::TraceReport> {
    let packet: Packet = wish.packet.parse().map_err(|e| invalid(format!("{e}")))?;
    let (networks, ports, fdb) = (
        backend.networks().await?,
        backend.ports().await?,
        backend.fdb().await?,
    );
    let spec = trace::spec(
        &packet,
        trace::network(&networks, &wish.network)?,
        &ports,
        &fdb,
    )?;
    Ok(Json(backend.trace(spec).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    /// Server-sent events, without end.
    #[serde(default)]
    follow: bool,
    /// Only events behind this number.
    after: Option<u64>,
}

async fn events<B: Backend>(
    State(backend): State<B>,
    Asked(query): Asked<EventsQuery>,
    headers: HeaderMap,
) -> Response {
    let (mut recent, coming) = backend.events();
    let last_seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    if let Some(after) = last_seen.or(query.after) {
        recent.retain(|event| event.seq > after);
    }
    if query.follow {
        static FOLLOWERS: Semaphore = Semaphore::const_new(FOLLOWERS_MAX);
        let Ok(place) = FOLLOWERS.try_acquire() else {
            let message = format!("{FOLLOWERS_MAX} clients follow events already; end one of them");
            let code = RefusalCode::Unavailable;
            return ApiError(Refusal { code, message }).into_response();
        };
        let events = follow(recent.into(), coming).map(move |event| {
            let _held = &place;
            event
        });
        Sse::new(events)
            .keep_alive(sse::KeepAlive::default())
            .into_response()
    } else {
        Json(recent).into_response()
    }
}

/// First what is remembered, then what comes. Whoever reads too slowly is told how many were left out.
fn follow(
    recent: VecDeque<view::Event>,
    coming: broadcast::Receiver<view::Event>,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold(
        (recent, coming, 0),
        async |(mut recent, mut coming, mut last)| {
            loop {
                let event = match recent.pop_front() {
                    Some(event) => event,
                    None => match coming.recv().await {
                        Ok(event) => event,
                        Err(RecvError::Closed) => return None,
                        Err(RecvError::Lagged(missed)) => {
                            let told = sse::Event::default()
                                .event("missed")
                                .data(format!("{{\"missed\":{missed}}}"));
                            return Some((Ok(told), (recent, coming, last)));
                        }
                    },
                };
                // What was remembered may also be in the channel.
                if event.seq <= last {
                    continue;
                }
                last = event.seq;
                if let Ok(text) = serde_json::to_string(&event) {
                    return Some((
                        Ok(sse::Event::default().id(last.to_string()).data(text)),
                        (recent, coming, last),
                    ));
                }
            }
        },
    )
}
