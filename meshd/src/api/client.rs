//! The command line's end of the API: one connection a request, over the Unix socket.

use crate::api::extract::kind_of;
use crate::api::told::Told;
use crate::api::{PLUGIN_MAX, REQUEST_S};
use crate::starting;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, IF_NONE_MATCH, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use meshd_core::view;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// The span in whose course the daemon is asked (W3C Trace Context §3.2).
const TRACEPARENT: &str = "traceparent";

/// As programs hand it to those that they start, in the environment, if it can be a header.
fn caller() -> Option<HeaderValue> {
    let text = std::env::var("TRACEPARENT").ok()?;
    (text.len() == 55).then_some(text)?.parse().ok()
}

/// An answer that takes longer may be one that takes long, or none: the daemon is looked at.
const LOOK_AT: Duration = Duration::from_secs(2);
/// A daemon that is well says its version within this, also on a busy host.
const SAYS_VERSION: Duration = Duration::from_secs(8);
/// Between two looks for a daemon that starts.
const LOOK: Duration = Duration::from_millis(50);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ClientError {
    #[error("no daemon answers at {path} ({source}){waited}", path = path.display())]
    NoDaemon {
        path: PathBuf,
        source: io::Error,
        waited: Waited,
    },
    #[error("the daemon at {path}{} {}, and does not answer", whose(*pid), if *stopped { "is stopped" } else { "takes requests" }, path = path.display())]
    Stuck {
        path: PathBuf,
        pid: Option<i32>,
        stopped: bool,
    },
    #[error("{path} may be used by its owner only, who is most likely root", path = path.display())]
    Forbidden { path: PathBuf },
    #[error("{0}")]
    Refused(Told),
    #[error("the daemon at {path} broke off: {detail}", path = path.display())]
    Broken { path: PathBuf, detail: String },
}

/// ` (process 17)`
fn whose(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// For how long a daemon was waited for that may have been about to start; shown as a part of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited(pub Duration);

impl std::fmt::Display for Waited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_millis() {
            0 => Ok(()),
            ms => write!(
                f,
                "; waited {}.{} s for one that starts",
                ms / 1000,
                ms / 100 % 10
            ),
        }
    }
}

/// Speaks to the daemon behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// Who asks, for the daemon's traces: `User-Agent` (RFC 9110 §10.1.5).
    agent: String,
    /// The state folder of a daemon that may be about to start.
    starting: Option<PathBuf>,
}

impl Client {
    /// Of the daemon at `socket`; connects only when asked.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            agent: format!("meshd/{}", env!("CARGO_PKG_VERSION")),
            starting: None,
        }
    }

    /// Waits a moment for a daemon with this state folder where there is none yet, since `meshd run &` was typed just before: so long as
    /// one is starting, and half a second for that to be seen. Where the folder is no node's, nothing is waited for.
    #[must_use]
    pub(crate) fn while_starting(self, state: &Path) -> Self {
        let starting = Some(state.to_owned());
        Self { starting, ..self }
    }

    /// The socket, as soon as somebody listens there.
    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let begun = Instant::now();
        let mut waited = Duration::ZERO;
        loop {
            let source = match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(source) => source,
            };
            let path = self.socket.clone();
            let absent = match source.kind() {
                io::ErrorKind::PermissionDenied => return Err(ClientError::Forbidden { path }),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => true,
                _ => false,
            };
            let may_come = absent
                && self
                    .starting
                    .as_ref()
                    .is_some_and(|state| starting::may_come(state, begun.elapsed()));
            if !may_come {
                let waited = Waited(waited);
                return Err(ClientError::NoDaemon {
                    path,
                    source,
                    waited,
                });
            }
            tokio::time::sleep(LOOK).await;
            waited = begun.elapsed();
        }
    }

    /// Asks in the name of `who`, such as `meshd-cni ADD`: letters, digits, hyphens and spaces.
    #[must_use]
    pub(crate) fn on_behalf_of(self, who: &str) -> Self {
        let agent = who.replacen(' ', concat!("/", env!("CARGO_PKG_VERSION"), " "), 1);
        Self { agent, ..self }
    }

    /// Reads a view.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// Reads text.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let response = self.request(Method::GET, path, Bytes::new()).await?;
        let bytes = self.collect(response).await?;
        String::from_utf8(bytes.to_vec()).map_err(|e| self.broken(e))
    }

    /// Asks for something, with a JSON body.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.broken(e))?;
        self.json(Method::POST, path, body.into()).await
    }

    /// Sets something, with a JSON body.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.broken(e))?;
        self.json(Method::PUT, path, body.into()).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.json(Method::POST, path, body).await
    }

    /// Removes something; the answer is what is left of it, if anything.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        let response = self.request(Method::DELETE, path, Bytes::new()).await?;
        self.collect(response).await.map(drop)
    }

    /// Calls `each` with every piece of an answer that has no end, until it says stop or the answer ends.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stream(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), ClientError> {
        let mut response = self.request(Method::GET, path, Bytes::new()).await?;
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|e| self.broken(e))?;
            if !each(frame.data_ref().map_or(&[][..], |data| data)) {
                break;
            }
        }
        Ok(())
    }

    /// Calls `each` with every event from now on, until it says stop or the daemon ends.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(Followed) -> bool,
    ) -> Result<(), ClientError> {
        let mut response = self.request(Method::GET, path, Bytes::new()).await?;
        let mut buffer = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|e| self.broken(e))?;
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = buffer.drain(..end + 2).collect();
                if let Some(followed) = self.block(&block)?
                    && !each(followed)
                {
                    return Ok(());
                }
            }
            if buffer.len() > PLUGIN_MAX {
                return Err(self.broken("an event without end"));
            }
        }
        Ok(())
    }

    /// One block of server-sent events (WHATWG HTML §9.2); `None` for a comment.
    fn block(&self, block: &[u8]) -> Result<Option<Followed>, ClientError> {
        let text = String::from_utf8_lossy(block);
        let Some(data) = text.lines().find_map(|line| line.strip_prefix("data:")) else {
            return Ok(None);
        };
        if text.lines().any(|line| line == "event: missed") {
            let missed =
                serde_json::from_str::<serde_json::Value>(data).map_err(|e| self.broken(e))?;
            return Ok(Some(Followed::Missed(
                missed["missed"].as_u64().unwrap_or_default(),
            )));
        }
        serde_json::from_str(data)
            .map(|event| Some(Followed::Event(event)))
            .map_err(|e| self.broken(e))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.request(method, path, body).await?;
        let bytes = self.collect(response).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| self.broken(format!("{e}; is the daemon of another release?")))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let response = self.send(method, path, body, None).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.collect(response).await?;
        Err(Told::read(&bytes, kind_of(status)).map_or_else(
            |_| self.broken(format!("HTTP status {status}")),
            ClientError::Refused,
        ))
    }

    /// Sends a request; the answer as it is, refusals too. `known` is the ETag of an answer that need not be sent again.
    ///
    /// # Errors
    /// If there is none: see [`ClientError`].
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        known: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let pid = holder(&stream);
        let answer = self.exchange(stream, method, path, body, known);
        tokio::select! {
            answer = answer => answer,
            stuck = self.stuck(pid, LOOK_AT, SAYS_VERSION) => Err(stuck),
        }
    }

    /// Ends when the daemon is stopped, or does not even say its version: then no answer will come. What takes long, such as the
    /// loading of a plugin, is waited for.
    async fn stuck(&self, pid: Option<i32>, look_at: Duration, within: Duration) -> ClientError {
        let path = || self.socket.clone();
        loop {
            tokio::time::sleep(look_at).await;
            let stopped = pid.is_some_and(is_stopped);
            if stopped {
                let path = path();
                return ClientError::Stuck { path, pid, stopped };
            }
            let version = async {
                let stream = UnixStream::connect(&self.socket).await.ok()?;
                let get = (Method::GET, "/v1/version", Bytes::new());
                self.exchange(stream, get.0, get.1, get.2, None).await.ok()
            };
            // One that refuses or breaks off has said something; the request itself will tell what.
            if tokio::time::timeout(within, version).await.is_err() {
                let (path, stopped) = (path(), pid.is_some_and(is_stopped));
                return ClientError::Stuck { path, pid, stopped };
            }
        }
    }

    /// One request on a connection of its own, until the head of its answer is there.
    async fn exchange(
        &self,
        stream: UnixStream,
        method: Method,
        path: &str,
        body: Bytes,
        known: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, ClientError> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(e))?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "meshd")
            .header(USER_AGENT, &self.agent)
            .header("content-type", "application/json");
        if let Some(known) = known {
            request = request.header(IF_NONE_MATCH, known);
        }
        if let Some(caller) = caller() {
            request = request.header(TRACEPARENT, caller);
        }
        let request = request.body(Full::new(body)).map_err(|e| self.broken(e))?;
        // The daemon gives up by itself before; this is for one that is stopped or stuck.
        let wait = Duration::from_secs(REQUEST_S + 10);
        tokio::time::timeout(wait, sender.send_request(request))
            .await
            .map_err(|_| self.broken(format!("no answer within {} s", wait.as_secs())))?
            .map_err(|e| self.broken(e))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), 2 * PLUGIN_MAX);
        body.collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|e| self.broken(e))
    }

    pub(crate) fn broken(&self, detail: impl ToString) -> ClientError {
        ClientError::Broken {
            path: self.socket.clone(),
            detail: detail.to_string(),
        }
    }
}

/// The process that listens at the other end (unix(7), `SO_PEERCRED`); `None`: the service manager does, for the daemon.
fn holder(stream: &UnixStream) -> Option<i32> {
    let pid = stream.peer_cred().ok()?.pid()?;
    (pid > 1).then_some(pid)
}

/// By a signal, or by who traces it (proc_pid_stat(5)): the state stands behind the name, which is in brackets and may have some.
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}

/// What [`Client::follow`] sees.
#[derive(Clone, Debug)]
pub enum Followed {
    /// It happened.
    Event(view::Event),
    /// This many were left out, since they were read too slowly.
    Missed(u64),
}

/// `text` as one segment of a path (RFC 3986 §2.1).
#[must_use]
pub fn segment(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use tokio::net::UnixListener;

    /// Takes connections, and says nothing.
    fn mute(folder: &Path) -> (PathBuf, UnixListener) {
        let path = folder.join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (path, listener)
    }

    #[tokio::test]
    async fn a_daemon_that_takes_requests_and_answers_none_is_stuck() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _held) = mute(folder.path());
        let own = std::process::id().cast_signed();
        let stream = UnixStream::connect(&path).await.unwrap();
        assert_eq!(holder(&stream), Some(own));
        let moment = Duration::from_millis(50);
        let error = Client::new(&path).stuck(Some(own), moment, moment).await;
        let ClientError::Stuck { pid, stopped, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((pid, stopped), (Some(own), false));
    }

    #[test]
    fn a_process_that_was_stopped_is_known_as_such() {
        let mut child = Command::new("sh")
            .args(["-c", "echo here; kill -STOP $$"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let begun = Instant::now();
        while !is_stopped(pid) {
            assert!(begun.elapsed() < Duration::from_secs(20), "never stopped");
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_stopped(pid) && !is_stopped(std::process::id().cast_signed()));
    }
}
