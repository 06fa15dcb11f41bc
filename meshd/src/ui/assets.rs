//! The files of the page, as they are in `page/`: no step builds them. And what a browser is told to allow.
//!
//! A browser keeps a file and asks by its ETag (RFC 9110 §8.8.3) whether it is still the same one.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;

/// One file.
#[derive(Debug)]
pub(super) struct Asset {
    /// Where a browser asks for it.
    pub(super) path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($path:literal, $file:literal, $kind:expr;)*) => {
        &[$(Asset { path: $path, kind: $kind, bytes: include_bytes!(concat!("page/", $file)) }),*]
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All of them.
pub(super) static ALL: &[Asset] = assets! {
    "/", "index.html", "text/html; charset=utf-8";
    "/page.css", "page.css", "text/css; charset=utf-8";
    "/icon.svg", "icon.svg", "image/svg+xml";
    "/main.js", "main.js", SCRIPT;
    "/daemon.js", "daemon.js", SCRIPT;
    "/amounts.js", "amounts.js", SCRIPT;
    "/dom.js", "dom.js", SCRIPT;
    "/words.js", "words.js", SCRIPT;
    "/table.js", "table.js", SCRIPT;
    "/health.js", "health.js", SCRIPT;
    "/topology.js", "topology.js", SCRIPT;
    "/overview.js", "overview.js", SCRIPT;
    "/peers.js", "peers.js", SCRIPT;
    "/networks.js", "networks.js", SCRIPT;
    "/traffic.js", "traffic.js", SCRIPT;
    "/plugins.js", "plugins.js", SCRIPT;
    "/trace.js", "trace.js", SCRIPT;
    "/events.js", "events.js", SCRIPT;
};

/// What every answer says. Nothing of elsewhere is loaded, no script stands in the page, text never becomes markup (`trusted types`
/// without a policy: a script that tries is stopped), and no other page may frame, open or embed this one.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), geolocation=(), microphone=()",
    ),
];

/// Answers a request for a file.
pub(super) fn answer(asset: &'static Asset, asked: &HeaderMap) -> Response {
    let digest = ring::digest::digest(&ring::digest::SHA256, asset.bytes);
    let etag = format!("\"{}\"", BASE64URL_NOPAD.encode(&digest.as_ref()[..16]));
    let has_it = asked
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|list| list.split(',').any(|one| one.trim() == etag));
    let mut answer = if has_it {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut answer = Body::from(asset.bytes).into_response();
        answer
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
        answer
    };
    let headers = answer.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// With [`HEADERS`].
pub(super) fn guarded(mut answer: Response) -> Response {
    for (name, value) in HEADERS {
        answer.headers_mut().insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    answer
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_each_file_of_it_is_served() {
        let bytes: usize = ALL.iter().map(|asset| asset.bytes.len()).sum();
        assert!(bytes < 300 << 10, "{bytes} bytes");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ui/page");
        let there = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(there, ALL.len());
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let asset = &ALL[0];
        let first = answer(asset, &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let mut asked = HeaderMap::new();
        asked.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(answer(asset, &asked).status(), StatusCode::NOT_MODIFIED);
        asked.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"x\""));
        assert_eq!(answer(asset, &asked).status(), StatusCode::OK);
    }
}
