//! ICMP echoes (RFC 792, RFC 4443 §4): is the host there at all, and do packets pass of the size that QUIC needs?

use super::whole;
use meshd_core::diagnosis::reach::{Echo, PROBE_MIN};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Both sizes are sent so often.
const TRIES: u32 = 3;
/// Answers to each try are waited for so long.
const PATIENCE: Duration = Duration::from_millis(300);
const HEAD: usize = 8;
/// By which the two sizes are told apart.
const SMALL: u8 = 1;
const LARGE: u8 = 2;

/// Asks a host.
///
/// # Errors
/// No right to (neither CAP_NET_RAW nor `net.ipv4.ping_group_range`), or no way there.
pub(super) fn ask(host: IpAddr, until: Instant) -> io::Result<Echo> {
    let (domain, protocol) = match host {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let open = |kind| Socket::new(domain, kind, Some(protocol));
    let mut socket = open(Type::RAW).or_else(|_| open(Type::DGRAM))?;
    whole(&socket, host.is_ipv6())?;
    socket.connect(&SockAddr::from(SocketAddr::new(host, 0)))?;
    let large = usize::from(PROBE_MIN) + HEAD;
    let (mut small_came, mut large_came) = (false, false);
    for _ in 0..TRIES {
        for (seq, len) in [(SMALL, 64), (LARGE, large)] {
            // What does not fit is lost.
            let _ = socket.write(&request(host, seq, len));
        }
        let end = (Instant::now() + PATIENCE).min(until);
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut buffer = [0; 2048];
            let Ok(len) = socket.read(&mut buffer) else {
                continue;
            };
            match reply(host, &buffer[..len]) {
                Some(SMALL) => small_came = true,
                Some(LARGE) => large_came = true,
                _ => {}
            }
            if large_came {
                return Ok(Echo::All);
            }
        }
    }
    Ok(if small_came {
        Echo::Small
    } else {
        Echo::Nothing
    })
}

/// Our mark in the data, so that answers to other programs are not taken for ours.
fn mark() -> [u8; 8] {
    let pid = std::process::id().to_be_bytes();
    [b'm', b'e', b's', b'h', pid[0], pid[1], pid[2], pid[3]]
}

fn request(host: IpAddr, seq: u8, len: usize) -> Vec<u8> {
    let kind = if host.is_ipv6() { 128 } else { 8 };
    let [.., high, low] = std::process::id().to_be_bytes();
    let mut out = vec![kind, 0, 0, 0, high, low, 0, seq];
    out.extend(mark());
    out.resize(len, 0);
    if host.is_ipv4() {
        let sum = out
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        let mut sum: u32 = sum.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let sum = !u16::try_from(sum).unwrap_or(0);
        // Of ICMPv6 the kernel computes it.
        out[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    out
}

/// The number of the request that is answered.
fn reply(host: IpAddr, packet: &[u8]) -> Option<u8> {
    let (kind, head) = match host {
        // A raw socket of IPv4 brings the IP header, a ping socket does not.
        IpAddr::V4(_) if packet.first()? >> 4 == 4 => (0, usize::from(packet.first()? & 15) * 4),
        IpAddr::V4(_) => (0, 0),
        IpAddr::V6(_) => (129, 0),
    };
    let message = packet.get(head..)?;
    let ours = *message.first()? == kind && message.get(HEAD..HEAD + 8)? == mark();
    ours.then(|| message.get(7).copied()).flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_answers_to_both_sizes() {
        for host in ["127.0.0.1", "::1"] {
            match ask(
                host.parse().unwrap(),
                Instant::now() + Duration::from_secs(10),
            ) {
                Ok(echo) => assert_eq!(echo, Echo::All, "{host}"),
                Err(error) => eprintln!("SKIPPED, NOT TESTED: {host}: {error}"),
            }
        }
    }

    #[test]
    fn requests_are_no_replies_and_short_packets_no_harm() {
        let host = "127.0.0.1".parse().unwrap();
        let mut packet = request(host, SMALL, 64);
        assert_eq!(reply(host, &packet), None);
        packet[0] = 0;
        assert_eq!(reply(host, &packet), Some(SMALL));
        for cut in 0..packet.len() {
            let _ = reply(host, &packet[..cut]);
        }
    }
}
