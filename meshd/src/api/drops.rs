//! The routes of what was dropped: who is asked about is found by name here.

use super::backend::{Backend, DropFilter};
use super::extract::{Answer, Asked};
use super::trace;
use axum::extract::State;
use axum::response::Json;
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::flow::Origin;
use meshd_core::ident::escape;
use meshd_core::ruling::DropReason;
use meshd_core::view;
use serde::Deserialize;

/// What stands behind the `?` of `/v1/drops`; each narrows the answer.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Name or VNI: of frames on this network.
    network: Option<String>,
    /// Number or name: of frames that came from this port.
    port: Option<String>,
    /// Name or id: of frames that came from this peer.
    peer: Option<String>,
    /// For this reason.
    reason: Option<String>,
}

fn unknown(code: ErrorCode, what: &str, name: &str, see: &str) -> Refusal {
    let shown = escape(name.as_bytes());
    Refusal::new(
        code,
        format!("there is no {what} \"{shown}\" here; see `{see}`"),
    )
}

/// The port that people mean by `name`: its number, its name, or `NAME.NETWORK`.
pub(super) fn port<'a>(ports: &'a [view::Port], name: &str) -> Option<&'a view::Port> {
    ports.iter().find(|port| {
        port.id.to_string() == name
            || port.name.as_ref().is_some_and(|own| {
                own.as_str() == name || format!("{own}.{}", port.network) == name
            })
    })
}

/// The peer that people mean by `name`: its name, or its id in short or in full.
pub(super) fn peer<'a>(peers: &'a [view::Peer], name: &str) -> Option<&'a view::Peer> {
    peers.iter().find(|peer| {
        let id = peer.node.id;
        peer.node.show() == name || id.short() == name || id.to_string() == name
    })
}

async fn filter<B: Backend>(backend: &B, wanted: Wanted) -> Result<DropFilter, Refusal> {
    let mut filter = DropFilter::default();
    if let Some(name) = wanted.network {
        filter.vni = Some(trace::network(&backend.networks().await?, &name)?.vni);
    }
    if let Some(name) = wanted.port {
        let ports = backend.ports().await?;
        let port = port(&ports, &name)
            .ok_or_else(|| unknown(ErrorCode::PortUnknown, "port", &name, "meshd ports"))?;
        filter.origin = Some(Origin::Port(port.id));
    }
    if let Some(name) = wanted.peer {
        if filter.origin.is_some() {
            return Err(Refusal::new(
                ErrorCode::RequestQueryInvalid,
                "frames come from a port or from a peer: give one of the two",
            ));
        }
        let peers = backend.peers().await?;
        let peer = peer(&peers, &name)
            .ok_or_else(|| unknown(ErrorCode::PeerUnknown, "peer", &name, "meshd peers"))?;
        filter.origin = Some(Origin::Peer(peer.node.id));
    }
    if let Some(name) = wanted.reason {
        let known = DropReason::ALL.iter().find(|reason| reason.name() == name);
        let all = || DropReason::ALL.iter().map(|reason| reason.name());
        filter.reason = Some(*known.ok_or_else(|| {
            let all: Vec<_> = all().collect();
            Refusal::new(
                ErrorCode::DropReasonUnknown,
                format!(
                    "\"{}\" is no reason; those there are: {}",
                    escape(name.as_bytes()),
                    all.join(", ")
                ),
            )
        })?);
    }
    Ok(filter)
}

/// `GET /v1/drops`.
pub(super) async fn drops<B: Backend>(
    State(backend): State<B>,
    Asked(wanted): Asked<Wanted>,
) -> Answer<Vec<view::Drops>> {
    let filter = filter(&backend, wanted).await?;
    Ok(Json(backend.drops_where(filter).await?))
}

/// `GET /v1/balance`.
pub(super) async fn balance<B: Backend>(State(backend): State<B>) -> Answer<Vec<view::Balance>> {
    Ok(Json(backend.balance().await?))
}
