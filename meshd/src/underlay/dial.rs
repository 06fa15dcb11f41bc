//! One dial: all addresses of a node, a little apart, the first that leads there wins (RFC 8305).
//!
//! ```text
//!    t=0      first address   ----------------------- silence
//!    t=250ms  second          ------ wrong key: the third starts at once
//!    t=310ms  third           ---- the node: done, the others are dropped
//! ```

use super::endpoint::{DialError, Endpoint};
use crate::quic::Connection;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use meshd_core::ident::NodeId;
use std::net::SocketAddr;
use std::time::Duration;

/// Between two starts.
const STAGGER: Duration = Duration::from_millis(250);
/// For one address.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// Most addresses of one dial; the rest is not looked at.
const ADDRESSES_MAX: usize = 16;

/// Why no address led to the node.
#[derive(Debug, thiserror::Error)]
#[error("{}", show(.0))]
pub struct RaceError(pub Vec<(SocketAddr, DialError)>);

fn show(errors: &[(SocketAddr, DialError)]) -> String {
    if errors.is_empty() {
        return "no address of it is known".to_owned();
    }
    errors
        .iter()
        .map(|(address, error)| format!("{address}: {error}"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Dials `node` at all of `addresses`.
///
/// # Errors
/// What each address came to, in their order.
pub(crate) async fn race(
    endpoint: &Endpoint,
    node: NodeId,
    addresses: &[SocketAddr],
) -> Result<Connection, RaceError> {
    let mut waiting = addresses.iter().copied().take(ADDRESSES_MAX).enumerate();
    let mut trying = FuturesUnordered::new();
    let mut failed = Vec::new();
    loop {
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            Some((at, address, result)) = trying.next(), if !trying.is_empty() => match result {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    failed.push((at, address, error));
                    if trying.is_empty() && !more {
                        failed.sort_by_key(|(at, ..)| *at);
                        return Err(RaceError(failed.into_iter().map(|(_, address, error)| (address, error)).collect()));
                    }
                }
            },
            () = tokio::time::sleep(STAGGER), if more && !trying.is_empty() => {}
            else => if !more { return Err(RaceError(Vec::new())) },
        }
        if let Some((at, address)) = waiting.next() {
            trying.push(
                async move { (at, address, endpoint.connect(node, address, PATIENCE).await) },
            );
        }
    }
}
