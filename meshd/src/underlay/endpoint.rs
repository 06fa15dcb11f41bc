//! The QUIC endpoint: a UDP address, this node's key, and what each connection may hold.
//!
//! Owns the transport parameters. A session is tuned for its path: the largest packet that is searched for is what the
//! kernel's route takes, so that no search begins with packets that cannot leave the host.

use super::congestion::BoundedCubic;
use super::tls::{Pin, Tls, peer_key};
use super::{UnderlayError, socket};
use crate::identity::NodeKey;
use crate::quic::{self, Connection, Pace};
use meshd_core::ident::NodeId;
use meshd_core::wire::control::MESSAGE_MAX;
use quinn::{
    ClientConfig, ConnectError, ConnectionError, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ServerConfig, TransportConfig, VarInt,
};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// What is asked and gets no answer for so long is given up.
const SILENT_MS: u64 = 3000;
/// How often the far end of a session is asked whether it is there. Those without frames are looked after by SWIM, too.
const PACE: Pace = Pace {
    used: Duration::from_secs(1),
    unused: Duration::from_secs(10),
    patience: Duration::from_millis(SILENT_MS),
};
/// The same of a node with several uplinks: one that falls silent is to be left within a second. See
/// [`SILENT_MS`](meshd_core::steering::SILENT_MS).
const PACE_LINKS: Pace = Pace {
    used: Duration::from_millis(200),
    unused: Duration::from_millis(200),
    ..PACE
};
/// What QUIC itself takes for dead: long after we do.
const IDLE_MS: u32 = 30_000;
/// Smallest and largest UDP payload, in bytes: RFC 9000 §14.1; a 9000-byte underlay.
const PAYLOAD_MIN: u16 = 1200;
const PAYLOAD_MAX: u16 = 8952;
/// A packet is lost when so many that were sent behind it have come, or when one has and so many round trips went by. RFC 9002 §6.1
/// advises 3 and 9/8, for who sends again what is lost. Here nobody waits for that: frames that come late are as good as others, and
/// what takes them for lost slows down and sends repairs in vain. Bounded, since all that may be lost yet is gone through with each
/// acknowledgement.
const LOST_BEHIND: u32 = 512;
const LOST_AFTER: f32 = 1.5;
/// Frames that wait to leave, in bytes: a few milliseconds at a gigabit. What comes then is refused.
pub(crate) const QUEUE_BYTES: usize = 1 << 20;
/// Frames that wait to be read, in bytes.
const DATAGRAMS_IN: usize = 4 << 20;
/// Control bytes on the way from one who has not proven to be a member.
const UNPROVEN_WINDOW: u32 = 64 << 10;
/// Control bytes on the way from a member.
pub(super) const PROVEN_WINDOW: u32 = 4 << 20;

/// In which far ends are told that it is over.
const CLOSE_WITHIN: Duration = Duration::from_millis(250);

/// Which side of a connection this node is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Dialer,
    Acceptor,
}

fn transport(side: Side, remote: SocketAddr) -> Arc<TransportConfig> {
    let payload = socket::route_payload(remote)
        .unwrap_or(1452)
        .clamp(PAYLOAD_MIN, PAYLOAD_MAX);
    let mut search = MtuDiscoveryConfig::default();
    search.upper_bound(payload);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .mtu_discovery_config(Some(search))
        .datagram_send_buffer_size(QUEUE_BYTES)
        .datagram_receive_buffer_size(Some(DATAGRAMS_IN))
        .congestion_controller_factory(Arc::new(BoundedCubic))
        .packet_threshold(LOST_BEHIND)
        .time_threshold(LOST_AFTER)
        // One control stream, opened by the dialer; nothing else.
        .max_concurrent_bidi_streams(VarInt::from_u32(u32::from(side == Side::Acceptor)))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(UNPROVEN_WINDOW))
        .stream_receive_window(VarInt::from_u32(MESSAGE_MAX as u32 + 4));
    Arc::new(config)
}

/// Why one address did not lead to the node.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Somebody else answers there.
    #[error("another node answers there: expected key {expected}, found {found}")]
    WrongKey {
        /// The node dialed.
        expected: NodeId,
        /// Who is there.
        found: NodeId,
    },
    /// Never a node's address, or none that this host can send to.
    #[error("not an address to dial: {0}")]
    Address(&'static str),
    /// Silence.
    #[error("no answer within {ms} ms; is UDP to it open, and does meshd run there?")]
    Silence {
        /// Waited.
        ms: u64,
    },
    /// An answer, and it is no.
    #[error("{0}")]
    Refused(String),
    /// The endpoint cannot dial at all.
    #[error("this node cannot dial: {0}")]
    Local(String),
}

/// A UDP address and a key. Clones share it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(super) quic: quic::Endpoint,
    tls: Arc<Tls>,
    server: Option<ServerConfig>,
    /// Loopback addresses are dialed only from a socket on one: in an advert they would mean another host's loopback.
    loopback: bool,
    pub(super) pace: Pace,
}

impl Endpoint {
    /// Binds `listen`, to be read by one task for each of `readers`. With `accept`, connections are taken too.
    pub(crate) fn bind(
        listen: SocketAddr,
        readers: usize,
        key: &NodeKey,
        accept: bool,
    ) -> Result<Self, UnderlayError> {
        let bound = socket::bind(listen, readers);
        let udp = bound.map_err(|source| UnderlayError::Bind { listen, source })?;
        Self::over(udp, listen, key, accept)
    }

    /// Binds the address of an uplink, and takes connections there.
    pub(super) fn bind_link(address: SocketAddr, key: &NodeKey) -> Result<Self, UnderlayError> {
        let udp =
            socket::bind_link(address).map_err(|source| UnderlayError::Link { address, source })?;
        Ok(Self::over(vec![udp], address, key, true)?.watchful())
    }

    /// Of a node with several uplinks.
    pub(super) fn watchful(self) -> Self {
        Self {
            pace: PACE_LINKS,
            ..self
        }
    }

    fn over(
        udp: Vec<UdpSocket>,
        listen: SocketAddr,
        key: &NodeKey,
        accept: bool,
    ) -> Result<Self, UnderlayError> {
        let tls = Tls::new(key).map_err(|e| UnderlayError::Tls(e.to_string()))?;
        let mut config = EndpointConfig::default();
        config
            .max_udp_payload_size(PAYLOAD_MAX)
            .map_err(|e| UnderlayError::Tls(e.to_string()))?;
        let server = if accept {
            let crypto = tls
                .server()
                .map_err(|e| UnderlayError::Tls(e.to_string()))?;
            let mut server = ServerConfig::with_crypto(Arc::new(crypto));
            // Connections are taken from the endpoint at once, so these only bound a burst: 256 of 16 KiB.
            server
                .max_incoming(256)
                .incoming_buffer_size(16 << 10)
                .incoming_buffer_size_total(1 << 20);
            Some(server)
        } else {
            None
        };
        let quic = quic::Endpoint::new(config, server.clone(), udp)
            .map_err(|source| UnderlayError::Bind { listen, source })?;
        Ok(Self {
            quic,
            tls: Arc::new(tls),
            server,
            loopback: listen.ip().is_loopback(),
            pace: PACE,
        })
    }

    /// Ends all connections; returns once the far ends have been told, or after a short while.
    pub(crate) async fn close(&self) {
        self.quic.close(VarInt::from_u32(0), b"done");
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.quic.wait_idle()).await;
    }

    /// For one accepted connection.
    pub(super) fn server_config(&self, remote: SocketAddr) -> Option<Arc<ServerConfig>> {
        let mut config = self.server.clone()?;
        config.transport_config(transport(Side::Acceptor, remote));
        Some(Arc::new(config))
    }

    /// Dials one address; only `node`'s key is taken.
    pub(super) async fn connect(
        &self,
        node: NodeId,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<Connection, DialError> {
        check_address(address, self.loopback)?;
        let pin = Pin::new(node);
        let crypto = self
            .tls
            .client(pin.clone())
            .map_err(|e| DialError::Local(e.to_string()))?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport(Side::Dialer, address));
        // The name is not sent; rustls wants one.
        let connection = self
            .quic
            .connect(config, address, "meshd", self.pace)
            .map_err(|e| match e {
                ConnectError::InvalidRemoteAddress(_) => {
                    DialError::Address("this host has no IPv6")
                }
                other => DialError::Local(other.to_string()),
            })?;
        let silence = DialError::Silence {
            ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        match tokio::time::timeout(patience, connection.established()).await {
            Err(_) | Ok(Err(ConnectionError::TimedOut)) => return Err(silence),
            Ok(Err(error)) => {
                return Err(match pin.other() {
                    Some(found) => DialError::WrongKey {
                        expected: node,
                        found,
                    },
                    None => DialError::Refused(show_close(&error)),
                });
            }
            Ok(Ok(())) => {}
        }
        // The verifier has seen to it; a mistake there must not pass unseen.
        match peer_key(&connection) {
            Some(found) if found == node => Ok(connection),
            Some(found) => Err(DialError::WrongKey {
                expected: node,
                found,
            }),
            None => Err(DialError::Refused("it shows no Ed25519 key".into())),
        }
    }
}

/// Refuses what no node is reached at: adverts are others' words, and a dial sends packets where they say.
fn check_address(address: SocketAddr, loopback: bool) -> Result<(), DialError> {
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast() || v4.octets() == [169, 254, 169, 254]);
    match () {
        () if address.port() == 0 => Err(DialError::Address("port 0")),
        () if ip.is_unspecified() => Err(DialError::Address("the unspecified address")),
        () if ip.is_multicast() => Err(DialError::Address("a multicast address")),
        () if broadcast => Err(DialError::Address("a broadcast or metadata address")),
        () if ip.is_loopback() && !loopback => Err(DialError::Address(
            "a loopback address; listen on one to dial one",
        )),
        () => Ok(()),
    }
}

/// Why a connection ended, in words.
pub(crate) fn show_close(error: &ConnectionError) -> String {
    let text = |reason: &[u8]| meshd_core::ident::escape(reason);
    match error {
        ConnectionError::ApplicationClosed(frame) if frame.reason.is_empty() => {
            "closed by the far end".to_owned()
        }
        ConnectionError::ApplicationClosed(frame) => {
            format!("closed by the far end: {}", text(&frame.reason))
        }
        ConnectionError::ConnectionClosed(frame)
            if frame.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
        {
            "the far end takes no more connections now".to_owned()
        }
        ConnectionError::ConnectionClosed(frame) => format!(
            "ended by the far end's QUIC: {} {}",
            frame.error_code,
            text(&frame.reason)
        ),
        ConnectionError::TransportError(error) => {
            format!("QUIC: {}", text(error.to_string().as_bytes()))
        }
        ConnectionError::TimedOut => "nothing is heard of the far end any more".to_owned(),
        ConnectionError::Reset => "the far end has restarted".to_owned(),
        ConnectionError::LocallyClosed => "closed by this node".to_owned(),
        other => text(other.to_string().as_bytes()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_node_has_are_not_dialed() {
        for wrong in [
            "10.0.0.1:0",
            "0.0.0.0:7650",
            "[::]:7650",
            "224.0.0.1:7650",
            "[ff02::1]:7650",
            "255.255.255.255:7650",
            "169.254.169.254:80",
            "127.0.0.1:7650",
            "[::1]:7650",
            "[::ffff:127.0.0.1]:7650",
        ] {
            assert!(
                check_address(wrong.parse().unwrap(), false).is_err(),
                "{wrong}"
            );
        }
        for right in ["10.0.0.1:7650", "[2001:db8::1]:7650", "192.168.1.2:1"] {
            assert!(
                check_address(right.parse().unwrap(), false).is_ok(),
                "{right}"
            );
        }
        assert!(check_address("127.0.0.1:7650".parse().unwrap(), true).is_ok());
    }
}
