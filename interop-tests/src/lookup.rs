//! A DNS question as a container asks it (RFC 1035), over UDP; enough of a client to test the server, no more.

use crate::netns;
use anyhow::{Context, Result, bail, ensure};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// IPv4 addresses.
    A = 1,
    /// Who answers for a zone.
    Ns = 2,
    /// The head of a zone.
    Soa = 6,
    /// The name of an address.
    Ptr = 12,
    /// IPv6 addresses.
    Aaaa = 28,
    /// A whole zone.
    Axfr = 252,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0 is success, 3 is "no such name", 5 is "refused".
    pub code: u8,
    /// A and AAAA records of the answer section.
    pub ips: Vec<IpAddr>,
    /// PTR and NS records of the answer section.
    pub names: Vec<String>,
    /// Owners of SOA records, of the answer and the authority section.
    pub zones: Vec<String>,
}

/// Asks `server` from inside `netns`; three tries of one second.
///
/// # Errors
/// If no answer comes, or one that cannot be read.
pub fn ask(netns: &str, server: IpAddr, name: &str, kind: Kind) -> Result<Reply> {
    let packet = question(name, kind, 0)?;
    let reply = netns::within(netns, || exchange(server, &packet))?;
    parse(&reply)
}

/// Sends a dynamic update (RFC 2136) for `zone`; the answer's code.
///
/// # Errors
/// If no answer comes.
pub fn update(netns: &str, server: IpAddr, zone: &str) -> Result<u8> {
    // Opcode 5 in bits 11 to 14 of the flags; the zone section has the form of a question for SOA (6).
    let mut packet = question(zone, Kind::A, 5 << 11)?;
    let end = packet.len();
    packet[end - 4..end - 2].copy_from_slice(&6u16.to_be_bytes());
    let reply = netns::within(netns, || exchange(server, &packet))?;
    Ok(reply.get(3).context("short answer")? & 15)
}

/// The name under which `ip` is asked for.
#[must_use]
pub fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6
                .octets()
                .into_iter()
                .rev()
                .flat_map(|byte| [byte & 15, byte >> 4]);
            nibbles
                .map(|nibble| format!("{nibble:x}."))
                .collect::<String>()
                + "ip6.arpa"
        }
    }
}

fn question(name: &str, kind: Kind, flags: u16) -> Result<Vec<u8>> {
    let mut packet = vec![0x6d, 0x64];
    // Recursion desired, except in an update.
    packet.extend((if flags == 0 { 0x0100 } else { flags }).to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        packet.push(
            u8::try_from(label.len())
                .ok()
                .filter(|len| *len < 64)
                .context("label too long")?,
        );
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend((kind as u16).to_be_bytes());
    packet.extend(1u16.to_be_bytes());
    Ok(packet)
}

fn exchange(server: IpAddr, packet: &[u8]) -> Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(local).context("bind")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = vec![0; 4096];
    for _ in 0..3 {
        if socket.send_to(packet, (server, 53)).is_err() {
            std::thread::sleep(Duration::from_millis(300));
            continue;
        }
        if let Ok((len, _)) = socket.recv_from(&mut buffer) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
    bail!("no answer from {server}")
}

/// Reads a name at `at`; where it ends there.
fn read_name(packet: &[u8], mut at: usize) -> Result<(String, usize)> {
    let (mut labels, mut end) = (Vec::new(), None);
    for _ in 0..64 {
        let len = usize::from(*packet.get(at).context("name cut short")?);
        if len == 0 {
            return Ok((labels.join("."), end.unwrap_or(at + 1)));
        }
        if len >= 0xc0 {
            end.get_or_insert(at + 2);
            at = (len & 0x3f) << 8 | usize::from(*packet.get(at + 1).context("name cut short")?);
        } else {
            labels.push(
                String::from_utf8_lossy(
                    packet.get(at + 1..at + 1 + len).context("name cut short")?,
                )
                .into_owned(),
            );
            at += 1 + len;
        }
    }
    bail!("name too long")
}

fn parse(packet: &[u8]) -> Result<Reply> {
    ensure!(packet.len() >= 12, "short answer");
    let mut reply = Reply {
        code: packet[3] & 15,
        ips: Vec::new(),
        names: Vec::new(),
        zones: Vec::new(),
    };
    let mut at = 12;
    for _ in 0..u16::from_be_bytes([packet[4], packet[5]]) {
        at = read_name(packet, at)?.1 + 4;
    }
    let answers = u16::from_be_bytes([packet[6], packet[7]]);
    for number in 0..answers.saturating_add(u16::from_be_bytes([packet[8], packet[9]])) {
        let (owner, after) = read_name(packet, at)?;
        at = after;
        let head = packet.get(at..at + 10).context("record cut short")?;
        let (kind, len) = (
            u16::from_be_bytes([head[0], head[1]]),
            usize::from(u16::from_be_bytes([head[8], head[9]])),
        );
        let data = packet
            .get(at + 10..at + 10 + len)
            .context("record cut short")?;
        match kind {
            6 => reply.zones.push(owner),
            _ if number >= answers => {}
            1 => reply
                .ips
                .push(<[u8; 4]>::try_from(data).context("A record")?.into()),
            28 => reply
                .ips
                .push(<[u8; 16]>::try_from(data).context("AAAA record")?.into()),
            2 | 12 => reply.names.push(read_name(packet, at + 10)?.0),
            _ => {}
        }
        at += 10 + len;
    }
    Ok(reply)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_compressed_name_is_read() {
        let mut packet = question("web.lan", Kind::A, 0).unwrap();
        packet[7] = 1;
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 2]);
        assert_eq!(parse(&packet).unwrap().ips, [IpAddr::from([10, 0, 0, 2])]);
    }

    #[test]
    fn reverse_names_are_those_of_the_standard() {
        assert_eq!(
            reverse(IpAddr::from([10, 0, 0, 2])),
            "2.0.0.10.in-addr.arpa"
        );
        assert!(reverse("fd00::1".parse().unwrap()).starts_with("1.0.0.0."));
    }
}
