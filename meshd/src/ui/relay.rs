//! What the page may ask of the daemon, and the way there and back.
//!
//! Owns the list. A path that is not on it is not reached, whatever rights the user has who runs `meshd ui`.

use super::refused;
use crate::api::client::Client;
use crate::coded::Coded as _;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, header};
use axum::response::IntoResponse;
use http_body_util::{BodyExt, Limited};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use std::time::Duration;

/// Views.
pub(super) const READ: [&str; 15] = [
    "/v1/version",
    "/v1/status",
    "/v1/members",
    "/v1/peers",
    "/v1/paths",
    "/v1/networks",
    "/v1/networks/{network}/plugins",
    "/v1/ports",
    "/v1/fdb",
    "/v1/flows",
    "/v1/drops",
    "/v1/balance",
    "/v1/plugins",
    "/v1/plugin-stats",
    "/v1/events",
];
/// Questions with a body; nothing is changed by them.
pub(super) const ASKED: [&str; 1] = ["/v1/trace"];

/// Of a question's body, in bytes.
const BODY_MAX: usize = 16 << 10;
/// For a question's body to come.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Takes a request to the daemon, and its answer back as it comes: events flow as they happen.
pub(super) async fn relay(
    State(client): State<Client>,
    request: Request,
) -> axum::response::Response {
    let method = request.method().clone();
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let path = request
        .uri()
        .path_and_query()
        .map(ToString::to_string)
        .unwrap_or_default();
    // Who announces too much need not send it first.
    let told = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX);
    let whole = async {
        if told > BODY_MAX {
            return None;
        }
        let body = Limited::new(request.into_body(), BODY_MAX).collect();
        let body = tokio::time::timeout(BODY_WITHIN, body).await.ok()?.ok()?;
        Some(body.to_bytes())
    };
    let Some(body) = whole.await else {
        return refused(&Refusal {
            code: ErrorCode::RequestBodyInvalid,
            message: format!(
                "the body did not come whole within {} s, or has more than {BODY_MAX} bytes",
                BODY_WITHIN.as_secs()
            ),
        });
    };
    match client.send(method, &path, body, known.as_ref()).await {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let mut answer = Response::new(Body::new(body));
            *answer.status_mut() = head.status;
            for name in [header::CONTENT_TYPE, header::ETAG] {
                if let Some(value) = head.headers.get(&name) {
                    answer.headers_mut().insert(name, value.clone());
                }
            }
            answer
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            answer.into_response()
        }
        Err(error) => refused(&Refusal {
            code: error.code(),
            message: error.to_string(),
        }),
    }
}
