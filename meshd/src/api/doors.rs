//! The ways in: a Unix socket, and a TCP port of the loopback if there is to be one. One request a connection.
//!
//! Owns the connections: how many there are, how long a head may take, who came by which door.

use super::access::{Caller, Gate, Rules};
use super::backend::Backend;
use super::extract::status;
use super::patient::Patient;
use super::socket::{self, Socket};
use super::{CONNECTIONS_MAX, GUESTS_MAX, HEAD_WITHIN, REMOTE_MAX, credentials, routes};
use axum::{Extension, Router};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// What is said to whom there is no place for; he may be gone before he hears it.
fn full() -> Vec<u8> {
    let why = "too many connections; close some, or wait";
    let refusal = Refusal::new(ErrorCode::ConnectionsFull, why);
    // Two words and a text: there is no way to fail.
    let body = serde_json::to_string(&refusal).unwrap_or_default();
    format!(
        "HTTP/1.1 {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\n\r\n{body}",
        status(refusal.code),
        body.len()
    )
    .into_bytes()
}

/// Where the API is reached.
pub struct Doors {
    /// The Unix socket.
    pub socket: Socket,
    /// Who besides root may use it.
    pub rules: Rules,
    /// A TCP port, and what stands before it.
    pub tcp: Option<(TcpListener, Gate)>,
}

/// Answers until the future is dropped; the socket file goes with it.
///
/// # Errors
/// None at present: a listener that breaks is tried again.
pub async fn serve(doors: Doors, backend: impl Backend) -> std::io::Result<()> {
    let router = routes::router(backend);
    let remote = async {
        match doors.tcp {
            Some((listener, gate)) => by_tcp(listener, Arc::new(gate), &router).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(by_socket(doors.socket, &doors.rules, &router), remote);
    Ok(())
}

async fn by_socket(socket: Socket, rules: &Rules, router: &Router) {
    let (mut listener, _file) = socket.into_parts(CONNECTIONS_MAX);
    let guests = Arc::new(Semaphore::new(GUESTS_MAX));
    loop {
        let mut connection = listener.accept().await;
        let peer = match credentials::of(connection.stream()) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(code = %ErrorCode::ConnectionsFailed, %error, "a connection of the API whose user the kernel does not tell");
                continue;
            }
        };
        let caller = Caller::local(&peer, rules);
        // Whoever may connect cannot take the places of those who keep the node.
        let place = match caller.is_own() {
            true => None,
            false => match Arc::clone(&guests).try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => {
                    let _ = connection.stream().try_write(&full());
                    let _ = connection.shutdown().await;
                    continue;
                }
            },
        };
        answer(Patient::new(connection, place), caller, router);
    }
}

async fn by_tcp(listener: TcpListener, gate: Arc<Gate>, router: &Router) {
    let places = Arc::new(Semaphore::new(REMOTE_MAX));
    loop {
        // The semaphore is never closed; if it were, no place is the safe answer.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let _ = stream.set_nodelay(true);
                let gate = Arc::clone(&gate);
                let caller = Caller::Remote { from, gate };
                answer(Patient::new(stream, Some(place)), caller, router);
            }
            Err(error) => {
                tracing::warn!(code = %ErrorCode::ConnectionsFailed, %error, "cannot accept a connection of the API by TCP");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn answer<S>(connection: Patient<S>, caller: Caller, router: &Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = router.clone().layer(Extension(caller));
    tokio::spawn(socket::answer(connection, router, HEAD_WITHIN));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::told::Told;
    use meshd_core::code::RefusalKind;

    #[test]
    fn who_finds_no_place_is_told_a_code_and_a_kind_in_an_answer_of_known_length() {
        let text = String::from_utf8(full()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())));
        let told = Told::read(body.as_bytes(), RefusalKind::Failed).unwrap();
        assert_eq!(told.code, ErrorCode::ConnectionsFull);
        assert_eq!(told.kind, RefusalKind::Unavailable);
        assert!(body.contains(r#""kind":"unavailable""#), "{body}");
    }
}
