//! Who may ask: only a page that this command served (`Host`, `Origin`), and for what the daemon says only with the token.
//!
//! A page of elsewhere that a browser shows can send requests to the loopback, also under a name of its own that it lets point
//! there (DNS rebinding). It cannot choose `Host` and `Origin`, and it has no token.

use axum::extract::Request;
use axum::http::{HeaderMap, header, uri::Authority};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// Names of the loopback, as a browser writes them. The port may be another one: `ssh -L` changes it.
const OWN_HOSTS: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// What stands before the page.
pub(super) struct Gate {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Gate {
    pub(super) fn new(token: &str) -> Self {
        let mut key = [0; 32];
        // Without randomness the comparison is as right; it only tells more by its time.
        let _ = SystemRandom::new().fill(&mut key);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let tag = hmac::sign(&key, token.as_bytes());
        Self { key, tag }
    }

    /// Is it from the page itself, or typed by somebody?
    ///
    /// # Errors
    /// If not, with what would help.
    pub(super) fn is_ours(&self, request: &Request) -> Result<(), Refusal> {
        let headers = request.headers();
        let host = only(headers, &header::HOST)
            .and_then(|host| host.parse::<Authority>().ok())
            .filter(|host| OWN_HOSTS.contains(&host.host()) && !host.as_str().contains('@'));
        let Some(host) = host else {
            return Err(Refusal::new(
                ErrorCode::HostForbidden,
                "the page answers to 127.0.0.1 and localhost only; to see it from elsewhere use `ssh -L`: docs/howto/web-page.md",
            ));
        };
        if headers.contains_key(header::ORIGIN)
            && only(headers, &header::ORIGIN)
                .and_then(|origin| origin.strip_prefix("http://"))
                .is_none_or(|origin| origin != host.as_str())
        {
            return Err(Refusal::new(
                ErrorCode::OriginForbidden,
                "this request is of another page",
            ));
        }
        Ok(())
    }

    /// Does it carry the token?
    ///
    /// # Errors
    /// If not, with what would help.
    pub(super) fn has_token(&self, request: &Request) -> Result<(), Refusal> {
        let told = only(request.headers(), &header::AUTHORIZATION)
            .and_then(|told| told.strip_prefix("Bearer "))
            .unwrap_or_default();
        // Both under a key that nobody knows: how long it takes says nothing of how much was right.
        hmac::verify(&self.key, told.as_bytes(), self.tag.as_ref()).map_err(|_| Refusal {
            code: ErrorCode::TokenWrong,
            message:
                "the token is missing or of an earlier run; open the address that `meshd ui` printed"
                    .to_owned(),
        })
    }
}

/// A header's text, if it is there once.
fn only<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().uri("/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn only_names_of_the_loopback_are_answered_on_any_port() {
        let gate = Gate::new("t");
        for (host, fine) in [
            ("127.0.0.1:7652", true),
            ("localhost:9000", true),
            ("127.0.0.1", true),
            ("[::1]:7652", true),
            ("evil.example:7652", false),
            ("127.0.0.1.evil.example", false),
            ("user@127.0.0.1:1", false),
            ("", false),
        ] {
            let asked = request(&[("host", host)]);
            assert_eq!(gate.is_ours(&asked).is_ok(), fine, "{host:?}");
        }
        assert!(gate.is_ours(&request(&[])).is_err());
        let two = request(&[("host", "127.0.0.1"), ("host", "evil.example")]);
        assert!(gate.is_ours(&two).is_err());
    }

    #[test]
    fn a_request_of_another_page_is_refused() {
        let gate = Gate::new("t");
        for (origin, fine) in [
            ("http://127.0.0.1:7652", true),
            ("http://127.0.0.1:7653", false),
            ("http://localhost:7652", false),
            ("https://127.0.0.1:7652", false),
            ("null", false),
        ] {
            let asked = request(&[("host", "127.0.0.1:7652"), ("origin", origin)]);
            assert_eq!(gate.is_ours(&asked).is_ok(), fine, "{origin:?}");
        }
    }

    #[test]
    fn the_whole_token_and_nothing_else_opens() {
        let gate = Gate::new("abcdef");
        for (told, fine) in [
            ("Bearer abcdef", true),
            ("Bearer abcde", false),
            ("Bearer abcdefg", false),
            ("Bearer ", false),
            ("abcdef", false),
        ] {
            let asked = request(&[("authorization", told)]);
            assert_eq!(gate.has_token(&asked).is_ok(), fine, "{told:?}");
        }
        assert!(gate.has_token(&request(&[])).is_err());
    }
}
