//! The route of captures: who is meant is found by name here, and the answer is a stream.

use super::backend::Backend;
use super::describe::Text;
use super::drops::{peer, port};
use super::extract::{ApiError, Asked};
use super::trace;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use meshd_core::capture::{Filter, Subject};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::ident::escape;
use meshd_core::ruling::Output;
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;

/// Bytes that are kept of each frame unless somebody says otherwise: all of the longest superframe.
const SNAPLEN: u32 = 262_144;
/// Captures do not run longer than this unless somebody says so.
const SECONDS_MAX: u64 = 7 * 24 * 3600;

/// In which shape frames are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Blocks of pcapng.
    #[default]
    Pcapng,
    /// Lines of JSON, as [`Captured`](meshd_core::view::Captured).
    Json,
}

/// What is to be captured.
#[derive(Clone, Debug)]
pub struct CaptureWish {
    /// Whose frames.
    pub subject: Subject,
    /// Which of them.
    pub filter: Filter,
    /// Its text.
    pub text: String,
    /// In which shape.
    pub format: Format,
    /// Bytes that are kept of each.
    pub snaplen: u32,
    /// Ends after so many frames.
    pub count: Option<u64>,
    /// Ends after so long.
    pub time: Duration,
    /// Shows at most so many a second.
    pub per_s: Option<u32>,
}

/// What stands behind the `?`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Network, port or peer: a name, or `network:NAME`, `port:NAME`, `peer:NAME`.
    of: String,
    /// Which frames, as `meshd capture` takes it.
    filter: Option<String>,
    /// `pcapng`, or `json` for lines of `Captured`.
    #[serde(default)]
    #[param(required = false, inline)]
    format: Format,
    /// Bytes that are kept of each frame.
    snaplen: Option<u32>,
    /// Ends after so many frames.
    count: Option<u64>,
    /// Ends after so long.
    seconds: Option<u64>,
    /// At most so many frames a second.
    per_s: Option<u32>,
}

/// Whom people mean: `network:NAME`, `port:NAME`, `peer:NAME`, or a name that is one of these.
async fn subject<B: Backend>(backend: &B, of: &str) -> Result<Subject, Refusal> {
    let (kind, name) = match of.split_once(':') {
        Some((kind @ ("network" | "port" | "peer"), name)) => (Some(kind), name),
        _ => (None, of),
    };
    let may = |wanted| kind.is_none_or(|kind| kind == wanted);
    let mut found = Vec::new();
    if may("network")
        && let Ok(network) = trace::network(&backend.networks().await?, name)
    {
        let subject = Subject {
            vni: Some(network.vni),
            place: None,
        };
        found.push(("network", subject));
    }
    if may("port")
        && let Some(port) = port(&backend.ports().await?, name)
    {
        let subject = Subject {
            vni: Some(port.vni),
            place: Some(Output::Port(port.id)),
        };
        found.push(("port", subject));
    }
    if may("peer")
        && let Some(peer) = peer(&backend.peers().await?, name)
    {
        let subject = Subject {
            vni: None,
            place: Some(Output::Peer(peer.node.id)),
        };
        found.push(("peer", subject));
    }
    let shown = escape(name.as_bytes());
    match found.as_slice() {
        [(_, subject)] => Ok(*subject),
        [] => Err(Refusal {
            code: ErrorCode::SubjectUnknown,
            message: format!(
                "there is no {} \"{shown}\" here; see `meshd network ls`, `meshd ports`, `meshd peers`",
                kind.unwrap_or("network, port or peer")
            ),
        }),
        several => {
            let ways: Vec<String> = several
                .iter()
                .map(|(kind, _)| format!("{kind}:{shown}"))
                .collect();
            Err(Refusal::new(
                ErrorCode::SubjectAmbiguous,
                format!(
                    "\"{shown}\" may be several: say which, as {}",
                    ways.join(" or ")
                ),
            ))
        }
    }
}

/// Kinds of what is answered: streams, without end perhaps.
pub(super) const PCAPNG: &str = "application/x-pcapng";
pub(super) const LINES: &str = "application/x-ndjson";

/// Frames on their way.
pub(super) struct Frames {
    kind: &'static str,
    stream: BoxStream<'static, Result<Bytes, Infallible>>,
}

impl Text for Frames {
    const KINDS: &'static [&'static str] = &[PCAPNG, LINES];
}

impl IntoResponse for Frames {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, self.kind)], Body::from_stream(self.stream)).into_response()
    }
}

/// `GET /v1/capture`.
pub(super) async fn capture<B: Backend>(
    State(backend): State<B>,
    Asked(wanted): Asked<Wanted>,
) -> Result<Frames, ApiError> {
    let text = wanted.filter.unwrap_or_default();
    let filter: Filter = text
        .parse()
        .map_err(|error| Refusal::new(ErrorCode::FilterInvalid, format!("{error}")))?;
    let seconds = wanted.seconds.unwrap_or(SECONDS_MAX);
    if wanted.snaplen == Some(0)
        || wanted.count == Some(0)
        || seconds == 0
        || wanted.per_s == Some(0)
    {
        return Err(Refusal::new(
            ErrorCode::RequestBodyInvalid,
            "`snaplen`, `count`, `seconds` and `per_s` begin at 1",
        )
        .into());
    }
    let wish = CaptureWish {
        subject: subject(&backend, &wanted.of).await?,
        filter,
        text,
        format: wanted.format,
        snaplen: wanted.snaplen.unwrap_or(SNAPLEN).min(SNAPLEN),
        count: wanted.count,
        time: Duration::from_secs(seconds.min(SECONDS_MAX)),
        per_s: wanted.per_s,
    };
    let kind = match wish.format {
        Format::Pcapng => PCAPNG,
        Format::Json => LINES,
    };
    Ok(Frames {
        kind,
        stream: backend.capture(wish).await?,
    })
}
