//! As much of DHCP (RFC 2131) and DHCPv6 (RFC 8415) as says who was given which address, for how long.
//!
//! Bytes come from containers: whatever is not there ends the reading.

use meshd_sdk::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// UDP port of a server; the client's is one more.
pub(crate) const SERVER_V4: u16 = 67;
/// UDP port of a server; the client's is one less.
pub(crate) const SERVER_V6: u16 = 547;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A client asks.
    Ask { xid: u32, mac: Mac },
    /// A server gives addresses to who asked, each for so many seconds.
    Give {
        xid: u32,
        /// Of the client, where the message says it.
        mac: Option<Mac>,
        leases: Vec<(IpAddr, u32)>,
    },
    /// A client gives addresses back.
    Release { ips: Vec<IpAddr> },
}

/// Addresses of one message that are looked at.
const LEASES: usize = 8;

/// What follows, from a place on.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (own, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(own)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (own, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*own)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
}

/// What the frame says; none: it is no DHCP, or not of interest.
pub(crate) fn read(frame: &[u8]) -> Option<Message> {
    let mut bytes = Bytes(frame);
    bytes.take(6)?;
    let src = Mac::new(bytes.array()?);
    let mut kind = bytes.u16()?;
    while matches!(kind, 0x8100 | 0x88a8) {
        bytes.take(2)?;
        kind = bytes.u16()?;
    }
    match kind {
        0x0800 => {
            let header = usize::from(*bytes.0.first()? & 15) * 4;
            let ip = bytes.take(header)?;
            // Later fragments have no UDP header.
            let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff;
            (*ip.get(9)? == 17 && fragment == 0).then_some(())?;
            bytes.take(8)?;
            v4(bytes)
        }
        0x86dd => {
            let ip = bytes.take(40)?;
            (*ip.get(6)? == 17).then_some(())?;
            bytes.take(8)?;
            v6(bytes, src)
        }
        _ => None,
    }
}

fn v4(mut bytes: Bytes<'_>) -> Option<Message> {
    let [op, hardware, length, _hops] = bytes.array()?;
    (hardware == 1 && length == 6).then_some(())?;
    let xid = bytes.u32()?;
    bytes.take(4)?;
    let current = Ipv4Addr::from(bytes.array::<4>()?);
    let given = Ipv4Addr::from(bytes.array::<4>()?);
    bytes.take(8)?;
    let mac = Mac::new(bytes.array()?);
    // The rest of the address, server name and boot file.
    bytes.take(10 + 64 + 128)?;
    (bytes.u32()? == 0x6382_5363).then_some(())?;
    let (mut kind, mut lease) = (0, None);
    loop {
        match bytes.u8() {
            Some(0) => {}
            None | Some(255) => break,
            Some(option) => {
                let length = usize::from(bytes.u8()?);
                let value = bytes.take(length)?;
                match (option, value) {
                    (53, [one]) => kind = *one,
                    (51, value) => lease = <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes),
                    _ => {}
                }
            }
        }
    }
    match (op, kind) {
        // Discover, request, inform.
        (1, 1 | 3 | 8) => Some(Message::Ask { xid, mac }),
        (1, 7) => Some(Message::Release {
            ips: vec![current.into()],
        }),
        // An acknowledgement; one of `inform` gives nothing.
        (2, 5) if !given.is_unspecified() => Some(Message::Give {
            xid,
            mac: Some(mac),
            leases: vec![(given.into(), lease?)],
        }),
        _ => None,
    }
}

fn v6(mut bytes: Bytes<'_>, src: Mac) -> Option<Message> {
    let [kind, a, b, c] = bytes.array()?;
    let xid = u32::from_be_bytes([0, a, b, c]);
    match kind {
        // Solicit (with rapid commit), request, renew, rebind.
        1 | 3 | 5 | 6 => Some(Message::Ask { xid, mac: src }),
        7 => Some(Message::Give {
            xid,
            mac: None,
            leases: addresses(bytes),
        }),
        8 => Some(Message::Release {
            ips: addresses(bytes).into_iter().map(|(ip, _)| ip).collect(),
        }),
        _ => None,
    }
}

/// Of all associations of a message, with the time that each is valid for.
fn addresses(mut bytes: Bytes<'_>) -> Vec<(IpAddr, u32)> {
    let mut out = Vec::new();
    while let Some((code, value)) = option_v6(&mut bytes) {
        // An association has its number and two times in front, a temporary one its number alone.
        let skip = match code {
            3 => 12,
            4 => 4,
            _ => continue,
        };
        let Some(inner) = value.get(skip..) else {
            continue;
        };
        let mut inner = Bytes(inner);
        while let Some((code, value)) = option_v6(&mut inner) {
            let mut value = Bytes(value);
            let (5, Some(ip)) = (code, value.array::<16>()) else {
                continue;
            };
            let valid = value.take(4).and_then(|_preferred| value.u32());
            if let Some(valid) = valid
                && out.len() < LEASES
            {
                out.push((Ipv6Addr::from(ip).into(), valid));
            }
        }
    }
    out
}

fn option_v6<'a>(bytes: &mut Bytes<'a>) -> Option<(u16, &'a [u8])> {
    let (code, length) = (bytes.u16()?, bytes.u16()?);
    Some((code, bytes.take(usize::from(length))?))
}
