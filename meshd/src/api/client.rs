//! The command line's end of the API: one connection a request, over the Unix socket.

use crate::api::{PLUGIN_MAX, REQUEST_S};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use meshd_core::command::Refusal;
use meshd_core::view;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ClientError {
    #[error("no daemon answers at {path} ({source})", path = path.display())]
    NoDaemon { path: PathBuf, source: io::Error },
    #[error("{path} may be used by its owner only, who is most likely root", path = path.display())]
    Forbidden { path: PathBuf },
    #[error("{0}")]
    Refused(Refusal),
    #[error("the daemon at {path} broke off: {detail}", path = path.display())]
    Broken { path: PathBuf, detail: String },
}

/// Speaks to the daemon behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Of the daemon at `socket`; connects only when asked.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Reads a view.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, Bytes::new()).await
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
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| match source.kind() {
                    io::ErrorKind::PermissionDenied => ClientError::Forbidden {
                        path: self.socket.clone(),
                    },
                    _ => ClientError::NoDaemon {
                        path: self.socket.clone(),
                        source,
                    },
                })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "meshd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| self.broken(e))?;
        // The daemon gives up by itself before; this is for one that is stopped or stuck.
        let wait = Duration::from_secs(REQUEST_S + 10);
        let response = tokio::time::timeout(wait, sender.send_request(request))
            .await
            .map_err(|_| self.broken(format!("no answer within {} s", wait.as_secs())))?
            .map_err(|e| self.broken(e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.collect(response).await?;
        let refusal = serde_json::from_slice(&bytes);
        Err(refusal.map_or_else(
            |_| self.broken(format!("HTTP status {status}")),
            ClientError::Refused,
        ))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), 2 * PLUGIN_MAX);
        body.collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|e| self.broken(e))
    }

    fn broken(&self, detail: impl ToString) -> ClientError {
        ClientError::Broken {
            path: self.socket.clone(),
            detail: detail.to_string(),
        }
    }
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
