//! What requests are made of and refused by, always in the one shape of errors: `{"code", "message"}`.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use meshd_core::code::{ErrorCode, RefusalKind};
use meshd_core::command::Refusal;
use serde::de::DeserializeOwned;

/// What a handler comes to.
pub(super) type Answer<T> = Result<Json<T>, ApiError>;

/// A [`Refusal`] on its way out.
#[derive(Debug)]
pub(super) struct ApiError(pub(super) Refusal);

impl ApiError {
    /// Of a kind, with words.
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Refusal::new(code, message))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// The HTTP status of an error: that of its kind, but where HTTP has a narrower one.
pub(crate) fn status(code: ErrorCode) -> StatusCode {
    match code.kind() {
        _ if code == ErrorCode::MethodNotTaken => StatusCode::METHOD_NOT_ALLOWED,
        RefusalKind::NotFound => StatusCode::NOT_FOUND,
        RefusalKind::Conflict => StatusCode::CONFLICT,
        RefusalKind::Forbidden => StatusCode::FORBIDDEN,
        RefusalKind::Invalid => StatusCode::BAD_REQUEST,
        RefusalKind::Unauthorized => StatusCode::UNAUTHORIZED,
        RefusalKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The kind that an HTTP status stands for, where nothing else says it. Other statuses say only that it came to nothing.
pub(crate) fn kind_of(status: StatusCode) -> RefusalKind {
    match status {
        StatusCode::NOT_FOUND => RefusalKind::NotFound,
        StatusCode::CONFLICT => RefusalKind::Conflict,
        StatusCode::FORBIDDEN => RefusalKind::Forbidden,
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => RefusalKind::Invalid,
        StatusCode::UNAUTHORIZED => RefusalKind::Unauthorized,
        StatusCode::TOO_MANY_REQUESTS => RefusalKind::TooMany,
        StatusCode::SERVICE_UNAVAILABLE => RefusalKind::Unavailable,
        _ => RefusalKind::Failed,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = status(self.0.code);
        let mut response = (status, Json(&self.0)).into_response();
        // RFC 9110 §11.6.1 and §10.2.3.
        if status == StatusCode::UNAUTHORIZED {
            let wanted = HeaderValue::from_static("Bearer realm=\"meshd\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, wanted);
        } else if status == StatusCode::TOO_MANY_REQUESTS {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // For the trace.
        response.extensions_mut().insert(self.0);
        response
    }
}

/// A JSON body; what is wrong with it is told with line and column.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|e| Refusal::new(ErrorCode::RequestBodyInvalid, format!("the body: {e}")))?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| {
            Refusal::new(
                ErrorCode::RequestBodyInvalid,
                format!("the body is not what is wanted: {e}"),
            )
            .into()
        })
    }
}

/// Parts of the path between slashes.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let segments = Path::from_request_parts(parts, state).await;
        segments.map(|Path(segments)| Self(segments)).map_err(|e| {
            Refusal::new(ErrorCode::RequestPathInvalid, format!("the path: {e}")).into()
        })
    }
}

/// What stands behind the `?`.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|e| {
            Refusal::new(
                ErrorCode::RequestQueryInvalid,
                format!("the query: {}", e.body_text()),
            )
            .into()
        })
    }
}
