//! What a frame is to connection tracking: its ends, or the ends of the packet that an ICMP error quotes.

use super::{Frame, Packet, array, be16, mapped, proto, upper, v6};
use crate::conntrack::{Signal, Subject, Tuple};
use crate::flow::{FlowKey, Frag, IpKind};
use std::net::Ipv4Addr;

/// Bytes of an ICMP header, as echo and errors have it.
const ICMP_LEN: usize = 8;

impl Frame<'_> {
    /// What it is to connection tracking; `key` is this frame's.
    #[must_use]
    pub fn subject(&self, key: &FlowKey) -> Subject {
        if !matches!(key.ip_kind, IpKind::V4 | IpKind::V6) || key.frag == Frag::Later {
            return Subject::None;
        }
        let tuple = Tuple {
            proto: key.ip_proto,
            src_ip: key.src_ip,
            dst_ip: key.dst_ip,
            src_port: key.src_port,
            dst_port: key.dst_port,
        };
        match (key.ip_kind, key.ip_proto) {
            (_, proto::TCP | proto::UDP | proto::SCTP) if !key.l4_ok => Subject::Broken,
            (_, proto::TCP) => Subject::tcp(tuple, key.tcp_flags),
            (IpKind::V4, proto::ICMP) | (IpKind::V6, proto::ICMPV6) => self
                .packet()
                .map_or(Subject::Broken, |packet| packet.icmp(tuple)),
            _ => Subject::Packet(tuple, Signal::Data),
        }
    }
}

impl Packet<'_> {
    fn icmp(&self, tuple: Tuple) -> Subject {
        let (Some(&kind), Some(id)) = (self.l4.first(), be16(self.l4, 4)) else {
            return Subject::Broken;
        };
        let echo = |(src_port, dst_port)| Tuple {
            src_port,
            dst_port,
            ..tuple
        };
        let quoted = self.l4.get(ICMP_LEN..).unwrap_or_default();
        let about = match (self.kind, kind) {
            (IpKind::V4, 8) | (IpKind::V6, 128) => {
                return Subject::Packet(echo(asking(id)), Signal::Data);
            }
            (IpKind::V4, 0) | (IpKind::V6, 129) => {
                return Subject::Packet(echo(answering(id)), Signal::EchoReply);
            }
            // Unreachable, source quench, time exceeded, parameter problem (RFC 792).
            (IpKind::V4, 3 | 4 | 11 | 12) => quoted_v4(quoted),
            // Errors have the first bit clear (RFC 4443 §2.1); beyond 4 none is in use.
            (IpKind::V6, 1..=4) => quoted_v6(quoted),
            _ => return Subject::None,
        };
        about.map_or(Subject::Broken, |about| Subject::Error {
            about,
            to: self.dst,
        })
    }
}

/// What stands for ports in an echo request: one end has the identifier, so that a request the other way is none of the same
/// connection.
fn asking(id: u16) -> (u16, u16) {
    (id, 0)
}

/// The same, in the reply.
fn answering(id: u16) -> (u16, u16) {
    (0, id)
}

/// The ends of a quoted packet, which may end behind the first eight bytes of its layer 4.
fn quoted_v4(bytes: &[u8]) -> Option<Tuple> {
    let header: [u8; 20] = array(bytes, 0)?;
    let [first, _, _, _, _, _, frag_hi, frag_lo, ..] = header;
    let header_len = usize::from(first & 15) * 4;
    let later = u16::from_be_bytes([frag_hi, frag_lo]) & 0x1fff != 0;
    if first >> 4 != 4 || header_len < 20 || later {
        return None;
    }
    let [_, _, _, _, _, _, _, _, _, protocol, ..] = header;
    let ip = |at| array::<4>(&header, at).map(|ip| mapped(Ipv4Addr::from(ip)));
    ends(
        protocol,
        proto::ICMP,
        (ip(12)?, ip(16)?),
        bytes.get(header_len..)?,
    )
}

fn quoted_v6(bytes: &[u8]) -> Option<Tuple> {
    let [first, _, _, _, _, _, next, _]: [u8; 8] = array(bytes, 0)?;
    if first >> 4 != 6 {
        return None;
    }
    let ip = |at| v6(bytes, at).map(|ip| ip.to_bits());
    let (protocol, frag, rest) = upper(next, bytes.get(40..)?)?;
    if frag == Frag::Later {
        return None;
    }
    ends(protocol, proto::ICMPV6, (ip(8)?, ip(24)?), rest)
}

fn ends(protocol: u8, icmp: u8, (src_ip, dst_ip): (u128, u128), l4: &[u8]) -> Option<Tuple> {
    let (src_port, dst_port) = match protocol {
        proto::TCP | proto::UDP | proto::SCTP => (be16(l4, 0)?, be16(l4, 2)?),
        _ if protocol == icmp => match (l4.first()?, be16(l4, 4)?) {
            (0 | 129, id) => answering(id),
            (_, id) => asking(id),
        },
        _ => (0, 0),
    };
    Some(Tuple {
        proto: protocol,
        src_ip,
        dst_ip,
        src_port,
        dst_port,
    })
}
