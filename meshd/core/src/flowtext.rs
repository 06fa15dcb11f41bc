//! A flow as text: `tcp 10.0.0.1:4000 > 10.0.0.2:22 syn`. `meshd drops`, the log and `meshd trace` print it.
//!
//! Owns the words. Knows no table.

use crate::flow::{FlowKey, Frag, IpKind};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP_FLAGS: [&str; 9] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];

/// An address of a [`FlowKey`]; IPv4 stands there as `::ffff:a.b.c.d`.
#[must_use]
pub fn address(kind: IpKind, bits: u128) -> IpAddr {
    let v6 = Ipv6Addr::from_bits(bits);
    match kind {
        IpKind::V4 | IpKind::ArpV4 => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        IpKind::None | IpKind::V6 | IpKind::NdV6 => IpAddr::V6(v6),
    }
}

/// `key` on one line, without its VNI; MACs only where there is nothing better to know it by.
#[must_use]
pub fn show(key: &FlowKey) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(key, &mut out);
    out
}

fn write(key: &FlowKey, out: &mut String) -> std::fmt::Result {
    let (src, dst) = (
        address(key.ip_kind, key.src_ip),
        address(key.ip_kind, key.dst_ip),
    );
    match (key.ip_kind, key.ip_proto) {
        (IpKind::None, _) => write!(
            out,
            "ether {:#06x} {} > {}",
            key.ether_type, key.src_mac, key.dst_mac
        )?,
        (IpKind::ArpV4, 1) => write!(out, "arp who-has {} tell {}", v4(dst), v4(src))?,
        (IpKind::ArpV4, 2) => write!(
            out,
            "arp reply {} is-at {} to {}",
            v4(src),
            key.src_mac,
            v4(dst)
        )?,
        (IpKind::ArpV4, op) => write!(out, "arp op {op} {} > {}", v4(src), v4(dst))?,
        (IpKind::NdV6, _) if key.icmp_type == 135 => write!(out, "nd who-has {dst} tell {src}")?,
        (IpKind::NdV6, _) => write!(out, "nd type {} {src} > {dst}", key.icmp_type)?,
        (IpKind::V4 | IpKind::V6, proto @ (6 | 17 | 132)) => {
            let word = match proto {
                6 => "tcp",
                17 => "udp",
                _ => "sctp",
            };
            if key.l4_ok {
                write!(
                    out,
                    "{word} {} > {}",
                    socket(src, key.src_port),
                    socket(dst, key.dst_port)
                )?;
            } else {
                write!(out, "{word} {src} > {dst}")?;
            }
            for (bit, flag) in TCP_FLAGS.iter().enumerate() {
                if proto == 6 && key.tcp_flags >> bit & 1 == 1 {
                    write!(out, " {flag}")?;
                }
            }
        }
        (IpKind::V4, 1) | (IpKind::V6, 58) => {
            write!(out, "icmp {src} > {dst}")?;
            if key.l4_ok {
                write!(out, " type {} code {}", key.icmp_type, key.icmp_code)?;
            }
        }
        (IpKind::V4 | IpKind::V6, proto) => write!(out, "ip proto {proto} {src} > {dst}")?,
    }
    match key.frag {
        Frag::None => {}
        Frag::First => out.push_str(" first-fragment"),
        Frag::Later => out.push_str(" later-fragment"),
    }
    if key.vlan != 0 {
        write!(out, " vlan {}", key.vlan & 0xfff)?;
    }
    Ok(())
}

fn v4(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        // A key that no frame can have; shown all the same.
        IpAddr::V6(v6) => {
            Ipv4Addr::from_bits(u32::try_from(v6.to_bits() & 0xffff_ffff).unwrap_or_default())
                .to_string()
        }
    }
}

fn socket(address: IpAddr, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address, port)
}
