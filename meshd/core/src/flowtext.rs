//! A flow as text: `tcp 10.0.0.1:4000 > 10.0.0.2:22 syn`. `meshd drops`, the log and `meshd trace` print it.
//!
//! Owns the words, in both directions: what [`show`] prints of a frame, [`Packet`] reads and makes a frame of. Knows no
//! table; MACs come from the caller.

use crate::flow::{Fields, FlowKey, FlowMask, Frag, IpKind};
use crate::ident::MacAddr;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const TCP_FLAGS: [&str; 9] =
    ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];

/// An address of a [`FlowKey`]; IPv4 stands there as `::ffff:a.b.c.d`.
#[must_use]
pub fn address(kind: IpKind, bits: u128) -> IpAddr {
    let v6 = Ipv6Addr::from_bits(bits);
    match kind {
        IpKind::V4 | IpKind::ArpV4 => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        IpKind::None | IpKind::V6 | IpKind::NdV6 => IpAddr::V6(v6),
    }
}

/// What of `key` a megaflow matches, field by field, on one line.
#[must_use]
pub fn show_masked(key: &FlowKey, mask: &FlowMask) -> String {
    let mut parts = vec![format!("vni {}", key.vni)];
    let mut bits = |len: u8, full: u8, name: &str, value: String| match len {
        0 => {}
        _ if len == full => parts.push(format!("{name} {value}")),
        _ => parts.push(format!("{name} {value}/{len}")),
    };
    bits(mask.src_mac, 48, "src-mac", key.src_mac.to_string());
    bits(mask.dst_mac, 48, "dst-mac", key.dst_mac.to_string());
    bits(
        mask.src_ip,
        128,
        "src-ip",
        address(key.ip_kind, key.src_ip).to_string(),
    );
    bits(
        mask.dst_ip,
        128,
        "dst-ip",
        address(key.ip_kind, key.dst_ip).to_string(),
    );
    let mut field = |field: Fields, name: &str, value: String| {
        if mask.fields.has(field) {
            parts.push(format!("{name} {value}"));
        }
    };
    field(
        Fields::ETHER_TYPE,
        "ether-type",
        format!("{:#06x}", key.ether_type),
    );
    field(Fields::VLAN, "vlan", (key.vlan & 0xfff).to_string());
    field(Fields::PCP, "pcp", key.pcp.to_string());
    field(
        Fields::INNER_VLAN,
        "inner-vlan",
        (key.inner_vlan & 0xfff).to_string(),
    );
    field(
        Fields::IP_KIND,
        "ip-kind",
        format!("{:?}", key.ip_kind).to_lowercase(),
    );
    field(Fields::IP_PROTO, "ip-proto", key.ip_proto.to_string());
    field(Fields::DSCP, "dscp", key.dscp.to_string());
    field(Fields::ECN, "ecn", key.ecn.to_string());
    field(Fields::TTL, "ttl", key.ttl.to_string());
    field(
        Fields::FRAG,
        "frag",
        format!("{:?}", key.frag).to_lowercase(),
    );
    field(Fields::L4_OK, "l4-ok", key.l4_ok.to_string());
    field(
        Fields::TCP_FLAGS,
        "tcp-flags",
        format!("{:#x}", key.tcp_flags),
    );
    field(Fields::ICMP_TYPE, "icmp-type", key.icmp_type.to_string());
    field(Fields::ICMP_CODE, "icmp-code", key.icmp_code.to_string());
    field(Fields::CT, "ct", key.ct.to_string());
    field(Fields::CT_MARK, "ct-mark", key.ct_mark.to_string());
    for (mask, name, port) in [
        (mask.src_port, "src-port", key.src_port),
        (mask.dst_port, "dst-port", key.dst_port),
    ] {
        match mask {
            0 => {}
            u16::MAX => parts.push(format!("{name} {port}")),
            _ => parts.push(format!("{name} {port}/{mask:#06x}")),
        }
    }
    parts.join(", ")
}

/// What of `key` a megaflow matches, short, for a table: `02:…:01 > 02:…:02 ipv4 tcp 10.0.0.1 > 10.0.0.2 port * > 22`, then
/// what else it looks at, as [`show_masked`] has it.
#[must_use]
pub fn show_match(key: &FlowKey, mask: &FlowMask) -> String {
    let mac = |mac: MacAddr, bits: u8| match bits {
        0 => "*".to_owned(),
        48 => mac.to_string(),
        bits => format!("{mac}/{bits}"),
    };
    let kind = match key.ip_kind {
        IpKind::V4 => "ipv4".to_owned(),
        IpKind::V6 => "ipv6".to_owned(),
        IpKind::ArpV4 => "arp".to_owned(),
        IpKind::NdV6 => "nd".to_owned(),
        IpKind::None => format!("{:#06x}", key.ether_type),
    };
    let mut out = format!(
        "{} > {} {kind}",
        mac(key.src_mac, mask.src_mac),
        mac(key.dst_mac, mask.dst_mac)
    );
    if mask.fields.has(Fields::IP_PROTO) {
        out += &match key.ip_proto {
            1 | 58 => " icmp".to_owned(),
            6 => " tcp".to_owned(),
            17 => " udp".to_owned(),
            132 => " sctp".to_owned(),
            other => format!(" protocol {other}"),
        };
    }
    let ip = |ip: u128, bits: u8| match bits {
        0 => "*".to_owned(),
        128 => address(key.ip_kind, ip).to_string(),
        // An IPv4 address is the last 32 bits.
        bits if key.ip_kind == IpKind::V4 => {
            format!("{}/{}", address(key.ip_kind, ip), bits.saturating_sub(96))
        }
        bits => format!("{}/{bits}", address(key.ip_kind, ip)),
    };
    if mask.src_ip != 0 || mask.dst_ip != 0 {
        out += &format!(
            " {} > {}",
            ip(key.src_ip, mask.src_ip),
            ip(key.dst_ip, mask.dst_ip)
        );
    }
    let port = |port: u16, mask: u16| match mask {
        0 => "*".to_owned(),
        u16::MAX => port.to_string(),
        mask => format!("{port}/{mask:#06x}"),
    };
    if mask.src_port != 0 || mask.dst_port != 0 {
        out += &format!(
            " port {} > {}",
            port(key.src_port, mask.src_port),
            port(key.dst_port, mask.dst_port)
        );
    }
    let rest = FlowMask {
        src_mac: 0,
        dst_mac: 0,
        src_ip: 0,
        dst_ip: 0,
        src_port: 0,
        dst_port: 0,
        fields: mask.fields.without(
            Fields::ETHER_TYPE
                .with(Fields::IP_KIND)
                .with(Fields::IP_PROTO)
                .with(Fields::L4_OK),
        ),
    };
    if rest.fields != Fields::default() {
        out += &show_masked(key, &rest).replacen(&format!("vni {}", key.vni), "", 1);
    }
    out
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

/// A packet as somebody writes it for `meshd trace`, with what they left out filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it says.
    pub body: Body,
    /// Sender.
    pub src: IpAddr,
    /// Destination; of `arp` and `nd` the address asked for or answered to.
    pub dst: IpAddr,
    /// 802.1Q VID, 0 to 4094.
    pub vlan: Option<u16>,
    /// Where it comes from, if not where its source address is: a port's number or name, or `peer NAME`.
    pub from: Option<String>,
    /// Next hop, if not the destination itself.
    pub via: Option<IpAddr>,
}

/// What a [`Packet`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// TCP.
    Tcp {
        /// Source.
        src: u16,
        /// Destination.
        dst: u16,
        /// As in [`FlowKey::tcp_flags`].
        flags: u16,
    },
    /// UDP.
    Udp {
        /// Source.
        src: u16,
        /// Destination.
        dst: u16,
    },
    /// ICMP or, over IPv6, ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// ARP (IPv4) or neighbour solicitation (IPv6): who has `dst`?
    WhoHas,
}

/// A text that is no packet: what, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}\n  {text}\n  {caret:>width$}", caret = "^", width = self.at + 1)]
pub struct PacketError {
    /// What was given, escaped.
    pub text: String,
    /// Column of the first wrong character, from 0.
    pub at: usize,
    /// What is wrong, and what is wanted.
    pub message: String,
}

/// Words of a text with the column at which each starts.
pub(crate) struct Words<'a> {
    text: &'a str,
    rest: Vec<(usize, &'a str)>,
}

impl<'a> Words<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        let mut rest = Vec::new();
        let mut start = None;
        for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
            match (c.is_whitespace(), start) {
                (false, None) => start = Some(at),
                (true, Some(from)) => {
                    rest.push((from, text.get(from..at).unwrap_or_default()));
                    start = None;
                }
                _ => {}
            }
        }
        rest.reverse();
        Self { text, rest }
    }

    /// The next word with its column, if there is one.
    pub(crate) fn take(&mut self) -> Option<(usize, &'a str)> {
        self.rest.pop()
    }

    /// The next word, which stays.
    pub(crate) fn peek(&self) -> Option<&'a str> {
        self.rest.last().map(|(_, word)| *word)
    }

    pub(crate) fn wrong(&self, at: usize, message: impl Into<String>) -> PacketError {
        let shown = |part: &str| crate::ident::escape(part.as_bytes());
        let before = shown(self.text.get(..at).unwrap_or(self.text))
            .chars()
            .count();
        PacketError {
            text: shown(self.text),
            at: before,
            message: message.into(),
        }
    }

    pub(crate) fn next(&mut self, wanted: &str) -> Result<(usize, &'a str), PacketError> {
        self.rest.pop().ok_or_else(|| {
            self.wrong(
                self.text.len(),
                format!("the text ends where {wanted} should stand"),
            )
        })
    }

    fn word(&mut self, wanted: &str) -> Result<(), PacketError> {
        let (at, word) = self.next(&format!("`{wanted}`"))?;
        if word == wanted {
            Ok(())
        } else {
            Err(self.wrong(at, format!("`{wanted}` should stand here")))
        }
    }

    pub(crate) fn read<T: std::str::FromStr>(&mut self, wanted: &str) -> Result<T, PacketError> {
        let (at, word) = self.next(wanted)?;
        word.parse()
            .map_err(|_| self.wrong(at, format!("this is not {wanted}")))
    }
}

const SOCKET: &str = "an address with port, such as 10.0.0.1:4000 or [fd00::1]:4000";
const ADDRESS: &str = "an IP address, such as 10.0.0.1 or fd00::1";

impl std::str::FromStr for Packet {
    type Err = PacketError;

    /// Reads `tcp 10.0.0.1:4000 > 10.0.0.2:22 syn`, `udp …`, `icmp 10.0.0.1 > 10.0.0.2 type 8 code 0`,
    /// `arp who-has 10.0.0.2 tell 10.0.0.1`, `nd who-has fd00::2 tell fd00::1`; each may go on with `vlan N`,
    /// `via ADDRESS` and `from PORT` or `from peer NODE`.
    fn from_str(text: &str) -> Result<Self, PacketError> {
        let mut words = Words::of(text);
        let (at, proto) = words.next("`tcp`, `udp`, `icmp`, `arp` or `nd`")?;
        let proto_at = at;
        let (mut body, src, dst, dst_at) = match proto {
            "tcp" | "udp" => {
                let src: std::net::SocketAddr = words.read(SOCKET)?;
                words.word(">")?;
                let dst_at = words.rest.last().map_or(text.len(), |(at, _)| *at);
                let dst: std::net::SocketAddr = words.read(SOCKET)?;
                let body = match proto {
                    "tcp" => Body::Tcp {
                        src: src.port(),
                        dst: dst.port(),
                        flags: 0,
                    },
                    _ => Body::Udp {
                        src: src.port(),
                        dst: dst.port(),
                    },
                };
                (body, src.ip(), dst.ip(), dst_at)
            }
            "icmp" => {
                let src: IpAddr = words.read(ADDRESS)?;
                words.word(">")?;
                let dst_at = words.rest.last().map_or(text.len(), |(at, _)| *at);
                let dst: IpAddr = words.read(ADDRESS)?;
                // An echo request, unless the text says otherwise.
                (
                    Body::Icmp {
                        kind: if src.is_ipv4() { 8 } else { 128 },
                        code: 0,
                    },
                    src,
                    dst,
                    dst_at,
                )
            }
            "arp" | "nd" => {
                words.word("who-has")?;
                let dst_at = words.rest.last().map_or(text.len(), |(at, _)| *at);
                let dst: IpAddr = words.read(ADDRESS)?;
                words.word("tell")?;
                let src: IpAddr = words.read(ADDRESS)?;
                if dst.is_ipv4() != (proto == "arp") {
                    return Err(
                        words.wrong(dst_at, "arp asks for IPv4 addresses, nd for IPv6 addresses")
                    );
                }
                (Body::WhoHas, src, dst, dst_at)
            }
            _ => {
                return Err(words.wrong(
                    proto_at,
                    "a packet starts with `tcp`, `udp`, `icmp`, `arp` or `nd`",
                ));
            }
        };
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(words.wrong(dst_at, "both addresses must be IPv4, or both IPv6"));
        }
        let (mut vlan, mut from, mut via) = (None, None, None);
        while let Some((at, word)) = words.rest.pop() {
            match (word, &mut body) {
                ("vlan", _) => {
                    let at = words.rest.last().map_or(text.len(), |(at, _)| *at);
                    let vid: u16 = words.read("a VLAN number, 0 to 4094")?;
                    if vid > 4094 {
                        return Err(words.wrong(at, "a VLAN number is at most 4094"));
                    }
                    vlan = Some(vid);
                }
                ("via", _) => via = Some(words.read(ADDRESS)?),
                ("from", _) => {
                    let (_, who) = words.next("a port or `peer NODE`")?;
                    from = Some(if who == "peer" {
                        format!("peer {}", words.next("a node")?.1)
                    } else {
                        who.to_owned()
                    });
                }
                ("type", Body::Icmp { kind, .. }) => {
                    *kind = words.read("an ICMP type, 0 to 255")?
                }
                ("code", Body::Icmp { code, .. }) => {
                    *code = words.read("an ICMP code, 0 to 255")?
                }
                (flag, Body::Tcp { flags, .. }) if TCP_FLAGS.contains(&flag) => {
                    let bit = TCP_FLAGS
                        .iter()
                        .position(|f| *f == flag)
                        .unwrap_or_default();
                    *flags |= 1 << bit;
                }
                (_, Body::Tcp { .. }) => {
                    return Err(words.wrong(
                        at,
                        "this is neither a TCP flag (syn ack fin rst psh urg ece cwr ns) nor `vlan`, `via` or `from`",
                    ));
                }
                (_, Body::Icmp { .. }) => {
                    return Err(words.wrong(
                        at,
                        "only `type`, `code`, `vlan`, `via` and `from` may follow",
                    ));
                }
                _ => return Err(words.wrong(at, "only `vlan`, `via` and `from` may follow")),
            }
        }
        Ok(Self {
            body,
            src,
            dst,
            vlan,
            from,
            via,
        })
    }
}

impl Packet {
    /// What its sender asks before, if it does not know who has `hop`: ARP or a neighbour solicitation.
    #[must_use]
    pub fn question(&self, hop: IpAddr) -> Self {
        Self {
            body: Body::WhoHas,
            dst: hop,
            via: None,
            ..self.clone()
        }
    }

    /// The frame, from the destination MAC on, with right checksums.
    #[must_use]
    pub fn frame(&self, src_mac: MacAddr, dst_mac: MacAddr) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128);
        frame.extend_from_slice(&dst_mac.0);
        frame.extend_from_slice(&src_mac.0);
        if let Some(vid) = self.vlan {
            frame.extend_from_slice(&[0x81, 0]);
            frame.extend_from_slice(&vid.to_be_bytes());
        }
        match (self.body, self.src, self.dst) {
            (Body::WhoHas, IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
                frame.extend_from_slice(&src_mac.0);
                frame.extend_from_slice(&src.octets());
                frame.extend_from_slice(&[0; 6]);
                frame.extend_from_slice(&dst.octets());
            }
            (body, src, dst) => {
                let (next, mut segment, sum_at) = segment(body, src_mac, src, dst);
                // RFC 4861 §4.3: a solicitation goes to the solicited-node group, with hop limit 255.
                let (dst, hops) = match (body, dst) {
                    (Body::WhoHas, IpAddr::V6(dst)) => (IpAddr::V6(solicited_node(dst)), 255),
                    _ => (dst, 64),
                };
                let len = u16::try_from(segment.len()).unwrap_or(u16::MAX);
                let mut pseudo = Vec::with_capacity(40 + segment.len());
                match (src, dst) {
                    (IpAddr::V4(src), IpAddr::V4(dst)) => {
                        let mut header = vec![0x45, 0];
                        header.extend_from_slice(&(len + 20).to_be_bytes());
                        header.extend_from_slice(&[0, 0, 0x40, 0, hops, next, 0, 0]);
                        header.extend_from_slice(&src.octets());
                        header.extend_from_slice(&dst.octets());
                        let sum = checksum(&header).to_be_bytes();
                        header.splice(10..12, sum);
                        frame.extend_from_slice(&[0x08, 0x00]);
                        frame.extend_from_slice(&header);
                        // ICMP over IPv4 has no pseudo header (RFC 792).
                        if next != 1 {
                            pseudo.extend_from_slice(&src.octets());
                            pseudo.extend_from_slice(&dst.octets());
                            pseudo.extend_from_slice(&[0, next]);
                            pseudo.extend_from_slice(&len.to_be_bytes());
                        }
                    }
                    (src, dst) => {
                        let (src, dst) = (v6(src), v6(dst));
                        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                        frame.extend_from_slice(&len.to_be_bytes());
                        frame.extend_from_slice(&[next, hops]);
                        frame.extend_from_slice(&src.octets());
                        frame.extend_from_slice(&dst.octets());
                        pseudo.extend_from_slice(&src.octets());
                        pseudo.extend_from_slice(&dst.octets());
                        pseudo.extend_from_slice(&u32::from(len).to_be_bytes());
                        pseudo.extend_from_slice(&[0, 0, 0, next]);
                    }
                }
                pseudo.extend_from_slice(&segment);
                let sum = match checksum(&pseudo) {
                    // RFC 768: a UDP checksum of zero would mean none.
                    0 if next == 17 => 0xffff,
                    sum => sum,
                };
                segment.splice(sum_at..sum_at + 2, sum.to_be_bytes());
                frame.extend_from_slice(&segment);
            }
        }
        // Shorter frames are padded by the sender (IEEE 802.3 §4.2.3.3), FCS not counted.
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// The MAC of the destination that follows from its address alone: broadcast and multicast.
    #[must_use]
    pub fn group_mac(&self) -> Option<MacAddr> {
        match (self.body, self.dst) {
            (Body::WhoHas, IpAddr::V4(_)) => Some(MacAddr::BROADCAST),
            (_, IpAddr::V4(dst)) if dst.is_broadcast() => Some(MacAddr::BROADCAST),
            // RFC 1112 §6.4.
            (_, IpAddr::V4(dst)) if dst.is_multicast() => {
                let [_, b, c, d] = dst.octets();
                Some(MacAddr([1, 0, 0x5e, b & 0x7f, c, d]))
            }
            (Body::WhoHas, IpAddr::V6(dst)) => Some(v6_group_mac(solicited_node(dst))),
            (_, IpAddr::V6(dst)) if dst.is_multicast() => Some(v6_group_mac(dst)),
            _ => None,
        }
    }
}

/// RFC 2464 §7.
fn v6_group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// RFC 4291 §2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
    }
}

/// Protocol number, layer 4 header and body with a zero checksum, and where the checksum goes.
fn segment(body: Body, src_mac: MacAddr, src: IpAddr, dst: IpAddr) -> (u8, Vec<u8>, usize) {
    let mut out = Vec::with_capacity(32);
    match body {
        Body::Tcp { src, dst, flags } => {
            out.extend_from_slice(&src.to_be_bytes());
            out.extend_from_slice(&dst.to_be_bytes());
            out.extend_from_slice(&[0; 8]);
            // Data offset 5 words, then NS and the eight flags.
            out.extend_from_slice(&(0x5000 | flags).to_be_bytes());
            out.extend_from_slice(&[0xff, 0xff, 0, 0, 0, 0]);
            (6, out, 16)
        }
        Body::Udp { src, dst } => {
            out.extend_from_slice(&src.to_be_bytes());
            out.extend_from_slice(&dst.to_be_bytes());
            out.extend_from_slice(&[0, 8, 0, 0]);
            (17, out, 6)
        }
        Body::Icmp { kind, code } => {
            out.extend_from_slice(&[kind, code, 0, 0, 0, 1, 0, 1]);
            (if src.is_ipv4() { 1 } else { 58 }, out, 2)
        }
        Body::WhoHas => {
            out.extend_from_slice(&[135, 0, 0, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&v6(dst).octets());
            out.extend_from_slice(&[1, 1]);
            out.extend_from_slice(&src_mac.0);
            (58, out, 2)
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let high = u32::from(pair.first().copied().unwrap_or_default()) << 8;
        sum += high | u32::from(pair.get(1).copied().unwrap_or_default());
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use crate::ident::Vni;
    use proptest::prelude::*;

    const SRC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const DST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn read_back(text: &str) -> String {
        let packet: Packet = text.parse().unwrap();
        let frame = packet.frame(SRC, packet.group_mac().unwrap_or(DST));
        show(&FlowKey::of(
            Vni::new(7).unwrap(),
            &Frame::parse(&frame).unwrap(),
        ))
    }

    #[test]
    fn what_is_printed_is_what_was_written() {
        for text in [
            "tcp 10.0.0.1:4000 > 10.0.0.2:22 syn",
            "tcp [fd00::1]:4000 > [fd00::2]:22 syn ack ns",
            "udp 10.0.0.1:53 > 10.0.0.255:53",
            "udp [fd00::1]:1 > [ff02::1]:2 vlan 12",
            "icmp 10.0.0.1 > 10.0.0.2 type 8 code 0",
            "icmp fd00::1 > fd00::2 type 128 code 0",
            "arp who-has 10.0.0.2 tell 10.0.0.1",
            "nd who-has fd00::2 tell fd00::1",
        ] {
            assert_eq!(read_back(text), text);
        }
    }

    #[test]
    fn an_echo_request_is_what_icmp_means_without_more_words() {
        assert_eq!(
            read_back("icmp  10.0.0.1 >\t10.0.0.2"),
            "icmp 10.0.0.1 > 10.0.0.2 type 8 code 0"
        );
        assert_eq!(
            read_back("icmp fd00::1 > fd00::2"),
            "icmp fd00::1 > fd00::2 type 128 code 0"
        );
    }

    #[test]
    fn an_error_points_at_the_word() {
        for (text, at) in [
            ("", 0),
            ("tpc 10.0.0.1:1 > 10.0.0.2:2", 0),
            ("tcp 10.0.0.1 > 10.0.0.2:2", 4),
            ("tcp 10.0.0.1:1 < 10.0.0.2:2", 15),
            ("tcp 10.0.0.1:1 > [fd00::1]:2", 17),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2 sny", 28),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 syn", 28),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 vlan 5000", 33),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 vlan", 32),
            ("arp who-has fd00::1 tell fd00::2", 12),
        ] {
            let error = text.parse::<Packet>().unwrap_err();
            assert_eq!(error.at, at, "{error}");
            assert!(
                error
                    .to_string()
                    .ends_with(&format!("\n  {}^", " ".repeat(at))),
                "{error}"
            );
        }
    }

    #[test]
    fn frames_have_right_checksums() {
        for text in [
            "tcp 10.0.0.1:4000 > 10.0.0.2:22 syn",
            "udp 10.0.0.1:4000 > 10.0.0.2:22",
            "icmp 10.0.0.1 > 10.0.0.2",
        ] {
            let frame = text.parse::<Packet>().unwrap().frame(SRC, DST);
            let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else {
                panic!("no IPv4")
            };
            assert_eq!(
                ip.header().header_checksum(),
                ip.header().to_header().calc_header_checksum()
            );
            let ip = ip.header().to_header();
            match sliced.transport.unwrap() {
                etherparse::TransportSlice::Tcp(tcp) => {
                    assert_eq!(
                        tcp.checksum(),
                        tcp.calc_checksum_ipv4(ip.source, ip.destination).unwrap()
                    );
                }
                etherparse::TransportSlice::Udp(udp) => {
                    assert_eq!(
                        udp.checksum(),
                        udp.to_header().calc_checksum_ipv4(&ip, &[]).unwrap()
                    );
                }
                etherparse::TransportSlice::Icmpv4(icmp) => assert_eq!(checksum(icmp.slice()), 0),
                other => panic!("{other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text: String) {
            if let Err(error) = text.parse::<Packet>() {
                prop_assert!(error.to_string().lines().count() == 3);
            }
        }

        #[test]
        fn no_words_break_the_reader(words in prop::collection::vec(prop::sample::select(vec![
            "tcp", "udp", "icmp", "arp", "nd", "who-has", "tell", "10.0.0.1:1", "[::1]:2", "10.0.0.1", "::1", ">", "syn", "vlan", "9", "from", "peer", "via", "type",
        ]), 0..12)) {
            if let Ok(packet) = words.join(" ").parse::<Packet>() {
                prop_assert!(packet.frame(SRC, DST).len() >= 60);
            }
        }
    }
}
