//! The overlay header in front of every QUIC datagram (RFC 9221) that carries a frame or a piece of one.
