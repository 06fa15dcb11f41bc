//! What stands before every route: who asks, how often, how much, for how long.
//!
//! ```text
//!   request --may it?--too often?--query?--body in time?--> route --in time?--> answer, with its ETag
//! ```
//!
//! Owns the bounds of a request. A change goes on when its client is gone: nothing is left half done.

use super::access::Caller;
use super::capture::{LINES, PCAPNG};
use super::describe::{NOWHERE, Table, Takes};
use super::extract::ApiError;
use super::rates::Rates;
use super::{BODY_WITHIN, CHANGES_MAX, REQUEST_S};
use crate::telemetry::{self, operation};
use axum::body::{self, Body};
use axum::extract::{MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

/// What all requests share.
pub(super) struct Desk {
    changes: Semaphore,
    rates: Rates,
    table: Table,
}

impl Desk {
    /// For these routes.
    pub(super) fn new(table: Table) -> Self {
        Self {
            changes: Semaphore::new(CHANGES_MAX),
            rates: Rates::default(),
            table,
        }
    }

    fn takes(&self, request: &Request) -> Takes {
        let path = request.extensions().get::<MatchedPath>();
        let method = match request.method() {
            &Method::HEAD => &Method::GET,
            other => other,
        };
        path.and_then(|path| self.table.get(path.as_str()))
            .and_then(|all| all.iter().find(|(of, _)| of == method))
            .map_or(NOWHERE, |(_, takes)| *takes)
    }
}

/// The whole of a request, from the body that is to come on, within its times; only so many changes at once.
pub(super) async fn at_work(desk: Arc<Desk>, mut request: Request, next: Next) -> Response {
    let takes = desk.takes(&request);
    let Some(caller) = request.extensions().get::<Caller>() else {
        // Each door says who came by it.
        return ApiError::new(ErrorCode::UserForbidden, "nobody asked").into_response();
    };
    let (whose, admitted) = caller.admit(request.uri(), request.headers(), takes.changes);
    if !desk.rates.take(whose, Instant::now()) {
        let message = "too many requests; ask again in a second, and less often";
        return ApiError::new(ErrorCode::RateLimited, message).into_response();
    }
    match admitted {
        Ok(rights) => drop(request.extensions_mut().insert(rights)),
        Err(refusal) => return refusal.into_response(),
    }
    if !takes.query && request.uri().query().is_some_and(|query| !query.is_empty()) {
        let refusal = Refusal::new(
            ErrorCode::RequestQueryInvalid,
            "this path takes no query (what stands behind the `?`)",
        );
        return ApiError(refusal).into_response();
    }
    let (parts, body) = request.into_parts();
    // Read before it counts, so that nobody holds a place by sending slowly.
    let most = takes.body;
    let bytes = match tokio::time::timeout(BODY_WITHIN, body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let refusal = Refusal::new(
                ErrorCode::RequestBodyLarge,
                format!("the body: {error}; at most {most} bytes are taken"),
            );
            return ApiError(refusal).into_response();
        }
        Err(_) => {
            let message = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
            return ApiError(Refusal::new(ErrorCode::RequestBodyLate, message)).into_response();
        }
    };
    let is_view = matches!(parts.method, Method::GET | Method::HEAD);
    let is_get = parts.method == Method::GET;
    let known = parts.headers.get(header::IF_NONE_MATCH).cloned();
    let span = match is_view {
        // What only looks is no operation.
        true => tracing::Span::none(),
        false => spanned(&parts),
    };
    let request = Request::from_parts(parts, bytes.into());
    let work = async move {
        if is_view && !is_get {
            return next.run(request).await;
        }
        if is_get {
            return tagged(next.run(request).await, known.as_ref()).await;
        }
        // A task of its own: who changes something and goes away must not leave half of it done.
        let change = async move {
            // The semaphore is never closed.
            let _place = desk.changes.acquire().await.ok();
            next.run(request).await
        };
        tokio::spawn(change.in_current_span())
            .await
            .unwrap_or_else(|_| {
                let message = "the daemon failed within this request; its log says how";
                ApiError::new(ErrorCode::Internal, message).into_response()
            })
    };
    let mut response = tokio::time::timeout(
        Duration::from_secs(REQUEST_S),
        work.instrument(span.clone()),
    )
    .await
    .unwrap_or_else(|_| {
        let message = format!(
            "no answer within {REQUEST_S} s; the work may still be done, look before you ask again"
        );
        ApiError::new(ErrorCode::AnswerLate, message).into_response()
    });
    span.record("http.response.status_code", response.status().as_u16());
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        telemetry::failed(&span, refusal.code, &refusal.message);
    }
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The span of a request, by the words that OpenTelemetry has for those of HTTP.
fn spanned(parts: &Parts) -> tracing::Span {
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let route = parts.extensions.get::<MatchedPath>();
    let route = route.map_or("", MatchedPath::as_str);
    let span = operation!(
        "api request",
        otel.name = format!("{} {route}", parts.method),
        otel.kind = "server",
        http.request.method = parts.method.as_str(),
        http.route = route,
        url.path = parts.uri.path(),
        http.response.status_code = tracing::field::Empty,
        user_agent.original = header("user-agent")
    );
    if let Some(caller) = header("traceparent") {
        telemetry::follow(&span, caller);
    }
    span
}

/// With a tag of its content (RFC 9110 §8.8.3); without the content, if that is known already.
async fn tagged(response: Response, known: Option<&HeaderValue>) -> Response {
    let streams = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| {
            let streams: [&[u8]; 3] = [b"text/event-stream", PCAPNG.as_bytes(), LINES.as_bytes()];
            streams
                .iter()
                .any(|stream| kind.as_bytes().starts_with(stream))
        });
    if streams || response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It is in memory already.
    let Ok(bytes) = body::to_bytes(body, usize::MAX).await else {
        let message = "the answer could not be written down";
        return ApiError::new(ErrorCode::Internal, message).into_response();
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let short = digest.as_ref().get(..16).unwrap_or_default();
    let tag = format!("\"{}\"", HEXLOWER.encode(short));
    let same = known
        .and_then(|known| known.to_str().ok())
        .is_some_and(|known| {
            let mut tags = known
                .split(',')
                .map(|one| one.trim().trim_start_matches("W/"));
            tags.any(|one| one == tag || one == "*")
        });
    if let Ok(value) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, value);
    }
    if same {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}
