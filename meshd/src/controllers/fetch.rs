//! HTTP and HTTPS for controllers: one connection a request, to a host that was granted, and no redirect is followed.
//!
//! ```text
//!   start --host granted? fewer than eight on their way? small enough?--> task: connect, TLS, ask, read --> event http-done
//!            | no                                                          time: at most a minute; body: at most 1 MiB
//!            '-> http-error at once
//! ```
//!
//! A redirect is an answer like any other: who follows it asks again, and the grant is looked at again. Certificates are checked
//! against the roots that Mozilla trusts. Owns what of a guest's request is sent: method, path, headers but those that say
//! how the body is framed, and the body.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, Request as Sent, Uri};
use hyper_util::rt::TokioIo;
use meshd_plugin_host::contract::http::{HttpError, Request, Response};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Bytes of a request's body.
const BODY: usize = 256 << 10;
/// Bytes of an answer's body.
const ANSWER: usize = 1 << 20;
/// Headers either way, and bytes of all of them together.
const HEADERS: usize = 64;
/// See [`HEADERS`].
const HEADER_BYTES: usize = 16 << 10;
/// The longest that is waited for.
const LONGEST: Duration = Duration::from_secs(60);

/// One of the places of an attachment for requests on their way; free again when all that is done for the request is over.
#[derive(Debug)]
pub(super) struct Slot(Arc<AtomicU32>);

impl Slot {
    /// `None`: `most` are taken.
    pub(super) fn take(taken: &Arc<AtomicU32>, most: u32) -> Option<Self> {
        let room = |n: u32| (n < most).then_some(n + 1);
        taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, room)
            .ok()
            .map(|_| Self(Arc::clone(taken)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request that may be sent.
#[derive(Debug)]
pub(crate) struct Fetch {
    slot: Option<Arc<Slot>>,
    host: String,
    port: u16,
    tls: bool,
    request: Sent<Full<Bytes>>,
    within: Duration,
}

fn failed(why: impl core::fmt::Display) -> HttpError {
    HttpError::Failed(why.to_string().chars().take(300).collect())
}

impl Fetch {
    /// What is sent for a guest's request, if `hosts` has its host: `api.example.org` for the port of the scheme, else with
    /// the port.
    ///
    /// # Errors
    /// It is not granted, or no request.
    pub(crate) fn new(asked: Request, hosts: &[String]) -> Result<Self, HttpError> {
        let uri: Uri = asked.url.parse().map_err(failed)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(failed("the URL has to begin with https:// or http://")),
        };
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let usual = if tls { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let full = format!("{host}:{port}");
        let granted = |one: &String| *one == full || (port == usual && *one == host);
        if host.is_empty() || !hosts.iter().any(granted) {
            return Err(HttpError::Denied(full));
        }
        let bytes: usize = asked.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        if asked.body.len() > BODY || asked.headers.len() > HEADERS || bytes > HEADER_BYTES {
            return Err(failed(format!(
                "a request has at most {BODY} bytes of body, {HEADERS} headers and {HEADER_BYTES} bytes of them"
            )));
        }
        let method = Method::from_bytes(asked.method.as_bytes()).map_err(failed)?;
        if method == Method::CONNECT {
            return Err(failed("CONNECT asks for no resource"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let named = match port == usual {
            true => host.clone(),
            false => full,
        };
        let mut request = Sent::builder().method(method).uri(path).header(HOST, named);
        for (name, value) in &asked.headers {
            let own = [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE];
            if !own
                .iter()
                .any(|own| name.eq_ignore_ascii_case(own.as_str()))
            {
                request = request.header(name, value);
            }
        }
        let request = request.body(Full::from(asked.body)).map_err(failed)?;
        let within = Duration::from_millis(u64::from(asked.timeout_ms)).min(LONGEST);
        Ok(Self {
            slot: None,
            host,
            port,
            tls,
            request,
            within,
        })
    }

    /// The same, which has its place until it is over.
    pub(super) fn in_slot(self, slot: Slot) -> Self {
        Self {
            slot: Some(Arc::new(slot)),
            ..self
        }
    }

    /// Sends it; the answer, or why there is none.
    ///
    /// # Errors
    /// As `wit/host.wit` has them.
    pub(crate) async fn run(self) -> Result<Response, HttpError> {
        let within = self.within;
        let answer = tokio::time::timeout(within, self.exchange());
        answer.await.unwrap_or(Err(HttpError::Timeout))
    }

    async fn exchange(self) -> Result<Response, HttpError> {
        let bare = self
            .host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        // The system's resolver has a thread until it is done, also if nobody waits any more: so long the slot is taken.
        let (slot, name, port) = (self.slot.clone(), bare.clone(), self.port);
        let found = tokio::spawn(async move {
            let found = tokio::net::lookup_host((name.as_str(), port)).await;
            std::mem::drop(slot);
            found.map(Vec::from_iter)
        });
        let found = found.await.map_err(failed)?.map_err(failed)?;
        let stream = TcpStream::connect(&*found).await.map_err(failed)?;
        if !self.tls {
            return ask(stream, self.request).await;
        }
        let name = rustls::pki_types::ServerName::try_from(bare).map_err(failed)?;
        let connector = TlsConnector::from(tls()?);
        let stream = connector.connect(name, stream).await.map_err(failed)?;
        ask(stream, self.request).await
    }
}

fn tls() -> Result<Arc<rustls::ClientConfig>, HttpError> {
    static CONFIG: OnceLock<Option<Arc<rustls::ClientConfig>>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let roots = rustls::RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().ok()?;
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        Some(Arc::new(config))
    });
    config
        .clone()
        .ok_or_else(|| failed("this release has no TLS"))
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Sent<Full<Bytes>>,
) -> Result<Response, HttpError> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_headers(HEADERS)
        .max_buf_size(4 * HEADER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // It ends with the set, also if nobody waits any more.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let answer = sender.send_request(request).await.map_err(failed);
    let read = async {
        let (head, body) = answer?.into_parts();
        let body = Limited::new(body, ANSWER).collect().await;
        let body = body.map_err(|e| failed(format!("the body: {e}")))?;
        let headers = head.headers.iter();
        let headers = headers.map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        });
        Ok(Response {
            status: head.status.as_u16(),
            headers: headers.collect(),
            body: body.to_bytes().to_vec(),
        })
    };
    read.await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::task::Poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn get(url: &str) -> Request {
        Request {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: vec![
                ("X-Of".to_owned(), "plugin".to_owned()),
                ("Host".to_owned(), "elsewhere".to_owned()),
            ],
            body: Vec::new(),
            timeout_ms: 5000,
        }
    }

    #[test]
    fn only_hosts_that_were_granted_are_asked_with_their_port() {
        let hosts = ["api.example.org".to_owned(), "10.0.0.1:8080".to_owned()];
        let may = |url: &str| Fetch::new(get(url), &hosts);
        for fine in [
            "https://api.example.org/x?y=1",
            "http://API.example.org",
            "http://10.0.0.1:8080/",
        ] {
            assert!(may(fine).is_ok(), "{fine}");
        }
        for wrong in [
            "https://api.example.org:8443/",
            "https://api.example.org.evil.test/",
            "https://user@evil.test/api.example.org",
            "http://10.0.0.1/",
            "https:///",
        ] {
            let error = may(wrong).unwrap_err();
            assert!(
                matches!(error, HttpError::Denied(_) | HttpError::Failed(_)),
                "{wrong}: {error:?}"
            );
        }
        assert!(matches!(
            may("file:///etc/passwd"),
            Err(HttpError::Failed(_))
        ));
        let mut big = get("https://api.example.org/");
        big.body = vec![0; BODY + 1];
        assert!(Fetch::new(big, &hosts).is_err());
    }

    /// A server that answers one request so; and what it was asked.
    async fn server(answer: Vec<u8>) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let n = stream.read(&mut asked).await.unwrap();
            // Who has enough hangs up.
            let _ = stream.write_all(&answer).await;
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        (at, asked)
    }

    #[tokio::test]
    async fn a_slot_is_taken_until_the_name_was_looked_up_even_if_nobody_waits_any_more() {
        let taken = Arc::default();
        assert!(Slot::take(&taken, 1).is_some());
        let slot = Slot::take(&taken, 1).unwrap();
        assert!(Slot::take(&taken, 1).is_none());
        let at = "localhost:1".to_owned();
        let fetch = Fetch::new(get(&format!("http://{at}/")), &[at]).unwrap();
        let mut running = Box::pin(fetch.in_slot(slot).run());
        // It begins, and is given up before the task of the lookup, which is to run on this very thread, had its turn.
        std::future::poll_fn(|context| {
            assert!(running.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(running);
        assert_eq!(taken.load(Ordering::Relaxed), 1);
        while taken.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn fetch(at: &str) -> Result<Response, HttpError> {
        let url = format!("http://{at}/list");
        Fetch::new(get(&url), &[at.to_owned()]).unwrap().run().await
    }

    #[tokio::test]
    async fn an_answer_comes_whole_and_a_redirect_is_an_answer() {
        let redirect =
            b"HTTP/1.1 302 Found\r\nLocation: http://evil.test/\r\nContent-Length: 2\r\n\r\nhi";
        let (at, asked) = server(redirect.to_vec()).await;
        let answer = fetch(&at).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (302, b"hi".as_slice()));
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET /list HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("host: {at}\r\n")), "{asked}");
        assert!(
            asked.contains("x-of: plugin") && !asked.contains("elsewhere"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn an_answer_without_end_is_none() {
        let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        endless.extend(vec![b'x'; ANSWER + 1]);
        let (at, _asked) = server(endless).await;
        assert!(matches!(fetch(&at).await, Err(HttpError::Failed(_))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let mut silent = get(&format!("http://{at}/"));
        silent.timeout_ms = 50;
        let fetch = Fetch::new(silent, &[at]).unwrap();
        assert!(matches!(fetch.run().await, Err(HttpError::Timeout)));
    }
}
