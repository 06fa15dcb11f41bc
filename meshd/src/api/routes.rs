//! The routes: one handler each, as thin as it gets.

use super::backend::Backend;
use super::describe::{Routes, Text};
use super::extract::{Answer, ApiError, Asked, Body, Segments};
use super::limits::{self, Desk};
use super::requests::{AttachWish, Invite, InviteWish, LogLevel, TraceWish, Version, VtepWish};
use super::{capture, devices, drops, follow, metrics, plugins, trace};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use meshd_core::code::ErrorCode;
use meshd_core::command::{Command, ForeignVtep, NetworkSpec, Refusal, Reply};
use meshd_core::owner::Owner;
use meshd_core::view;
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use utoipa::openapi::OpenApi;

/// All routes over `backend`.
pub(super) fn router<B: Backend>(backend: B) -> Router {
    let (router, table, document) = table::<B>().done();
    // A document of strings and numbers; it can be written.
    let _ = DOCUMENT.set(document.to_pretty_json().unwrap_or_default());
    let desk = Arc::new(Desk::new(table));
    let at_work = move |request: Request, next: Next| limits::at_work(desk.clone(), request, next);
    router
        .fallback(async || {
            no_such(
                ErrorCode::PathUnknown,
                "there is nothing at this path; docs/reference/api.md lists what there is",
            )
        })
        .method_not_allowed_fallback(async || {
            let refusal = Refusal::new(
                ErrorCode::MethodNotTaken,
                "this path does not take this method",
            );
            (StatusCode::METHOD_NOT_ALLOWED, Json(refusal))
        })
        // What comes here was measured before.
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn(at_work))
        .with_state(backend)
}

/// The document, as it is answered and kept in `docs/reference/openapi.json`.
static DOCUMENT: OnceLock<String> = OnceLock::new();

/// The OpenAPI document.
pub(super) fn document<B: Backend>() -> OpenApi {
    table::<B>().done().2
}

fn table<B: Backend>() -> Routes<B> {
    Routes::new()
        .get("/metrics", "Figures for a scraper, as Prometheus' text or, if `Accept` prefers it, as OpenMetrics.", metrics::scrape::<B>)
        .get("/v1/openapi.json", "This document.", openapi)
        .get("/v1/version", "Version of the daemon.", version)
        .get("/v1/status", "The node and the mesh, in short.", status::<B>)
        .get("/v1/members", "Members of the mesh.", members::<B>)
        .delete("/v1/members/{member}", "Takes a member's rights for good.", revoke::<B>)
        .post("/v1/invites", "Makes a one-time token that lets another node join.", invite::<B>)
        .get("/v1/peers", "Sessions with other nodes.", peers::<B>)
        .get("/v1/paths", "All ways to each peer.", paths::<B>)
        .get("/v1/networks", "Networks of the mesh.", networks::<B>)
        .post("/v1/networks", "Defines a network; the same again changes nothing.", network_add::<B>)
        .delete("/v1/networks/{network}", "Removes a network that has no ports.", network_remove::<B>)
        .get("/v1/networks/{network}/plugins", "The network's policy chain on this node, in the order in which it is asked.", plugins::chain::<B>)
        .post("/v1/networks/{network}/plugins/{plugin}", "Attaches a plugin; what is left out stays as it was.", plugins::attach::<B>)
        .delete("/v1/networks/{network}/plugins/{plugin}", "Detaches a plugin.", plugins::detach::<B>)
        .post("/v1/networks/{network}/plugins/{plugin}/shadow", "Runs another version beside the one in use, and obeys it in nothing.", plugins::shadow::<B>)
        .delete("/v1/networks/{network}/plugins/{plugin}/shadow", "Ends what runs beside.", plugins::unshadow::<B>)
        .get("/v1/networks/{network}/plugins/{plugin}/log", "What the plugin's controller told.", plugins::log::<B>)
        .post("/v1/networks/{network}/vteps/{ip}", "Declares a foreign VTEP of a network on this node.", vtep_add::<B>)
        .delete("/v1/networks/{network}/vteps/{ip}", "Takes the declaration back.", vtep_remove::<B>)
        .get("/v1/vteps", "Foreign VTEPs that were declared on this node.", vteps::<B>)
        .get("/v1/ports", "Ports of this node.", ports::<B>)
        .post("/v1/ports", "Attaches a port; the answer is the port, ready.", attach::<B>)
        .delete("/v1/ports/{port}", "Detaches a port.", detach::<B>)
        .delete("/v1/owners/{owner}", "Detaches the port of an owner.", detach_owner::<B>)
        .get("/v1/docker", "How the Docker driver is.", docker::<B>)
        .put("/v1/docker", "Serves Docker's plugin socket, now and after each start.", docker_enable::<B>)
        .delete("/v1/docker", "Serves it no more.", docker_disable::<B>)
        .post("/v1/docker/tidy", "Removes what Docker has no more, and says what that was.", docker_tidy::<B>)
        .get("/v1/devices", "Devices of this host that were declared, in the config file or here.", devices::of_host::<B>)
        .get("/v1/devices/{device}", "One of them.", devices::one::<B>)
        .put("/v1/devices/{device}", "Declares a device, or declares it otherwise; the same again changes nothing. The answer is how it is, looked at.", devices::put::<B>)
        .delete("/v1/devices/{device}", "Declares a device no more that was declared here, and removes it.", devices::remove::<B>)
        .get("/v1/fdb", "Where each MAC is.", fdb::<B>)
        .get("/v1/flows", "Rulings that hold for many frames.", flows::<B>)
        .get("/v1/connections", "Connections of tracked networks, at most 4096 a network.", connections::<B>)
        .get("/v1/groups", "Who listens to which multicast, by network.", groups::<B>)
        .get("/v1/drops", "Why frames were dropped, how many, where, and the last of each.", drops::drops::<B>)
        .on(Method::GET, "/v1/capture", "Frames as they come and go, with what becomes of each, without end: pcapng, or lines of JSON. Needs the right to change.", true, capture::capture::<B>)
        .get("/v1/balance", "What came and what left, by network.", drops::balance::<B>)
        .get("/v1/events", "What happened, and what happens.", follow::events::<B>)
        .ask("/v1/trace", "What would become of a packet, and why; nothing is sent.", trace_packet::<B>)
        .get("/v1/doctor", "What only the daemon knows for `meshd doctor`.", doctor::<B>)
        .get("/v1/plugins", "Plugins of this node.", plugins::list::<B>)
        .post("/v1/plugins/{plugin}", "Installs a component, or puts it in the place of the one of that name.", plugins::install::<B>)
        .delete("/v1/plugins/{plugin}", "Removes a plugin that is attached nowhere.", plugins::remove::<B>)
        .post("/v1/plugins/{plugin}/rollback", "Goes back to an earlier version.", plugins::roll_back::<B>)
        .get("/v1/plugin-stats", "What plugins were asked and said, and how long it took.", plugins::stats::<B>)
        .get("/v1/log", "What is logged.", log_level)
        .put("/v1/log", "Logs this from now on, until the daemon or its config is started or read again.", set_log_level)
}

fn no_such(code: ErrorCode, message: &str) -> ApiError {
    ApiError::new(code, message)
}

/// The document, as text.
struct Document(&'static str);

impl Text for Document {
    const KINDS: &'static [&'static str] = &["application/json"];
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

async fn openapi() -> Result<Document, ApiError> {
    Ok(Document(DOCUMENT.get().map_or("", String::as_str)))
}

async fn version() -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

async fn log_level() -> Json<LogLevel> {
    Json(LogLevel {
        level: crate::logging::level(),
    })
}

async fn set_log_level(Body(wish): Body<LogLevel>) -> Answer<LogLevel> {
    crate::logging::set(&wish.level)
        .map_err(|why| Refusal::new(ErrorCode::LogLevelInvalid, why))?;
    tracing::info!(level = %wish.level, "logged from now on");
    Ok(log_level().await)
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
    groups -> Vec<view::Listeners>;
    ports -> Vec<view::Port>;
    doctor -> view::Doctor;
    docker -> crate::docker::Status;
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct NetworkQuery {
    /// Name or VNI: only those on this network.
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

async fn detach_owner<B: Backend>(
    State(backend): State<B>,
    Segments(owner): Segments<Owner>,
) -> Result<StatusCode, ApiError> {
    backend.command(Command::DetachOwner { owner }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn docker_enable<B: Backend>(
    State(backend): State<B>,
    Body(settings): Body<crate::docker::Settings>,
) -> Answer<crate::docker::Status> {
    backend.set_docker(Some(settings)).await?;
    Ok(Json(backend.docker().await?))
}

async fn docker_tidy<B: Backend>(State(backend): State<B>) -> Answer<crate::docker::Tidied> {
    Ok(Json(backend.docker_tidy().await?))
}

async fn docker_disable<B: Backend>(State(backend): State<B>) -> Result<StatusCode, ApiError> {
    backend.set_docker(None).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn vanished(what: &str) -> ApiError {
    ApiError::new(
        ErrorCode::MadeAndGone,
        format!(
            "{what} was made, and removed by somebody else before this answer; see `meshd events`"
        ),
    )
}

fn unexpected(reply: &Reply) -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        format!("the node answered something else: {reply:?}"),
    )
}

async fn trace_packet<B: Backend>(
    State(backend): State<B>,
    Body(wish): Body<TraceWish>,
) -> Answer<view::TraceReport> {
    if let Some(on) = wish.on {
        let vni = trace::network(&backend.networks().await?, &wish.network)?.vni;
        let members = backend.members().await?;
        let is = |member: &&view::Member| {
            member.name.as_str() == on || member.id.short() == on || member.id.to_string() == on
        };
        let node = members.iter().find(is);
        let node = node.ok_or_else(|| {
            no_such(
                ErrorCode::MemberUnknown,
                &format!(
                    "there is no member \"{}\"; see `meshd members`",
                    meshd_core::ident::escape(on.as_bytes())
                ),
            )
        })?;
        return Ok(Json(backend.trace_on(node.id, vni, wish.packet).await?));
    }
    let spec = trace::resolve(&backend, &wish.network, &wish.packet).await?;
    Ok(Json(backend.trace(spec).await?))
}
