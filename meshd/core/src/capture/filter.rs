//! Filters: the words of `meshd trace` about frames that are really there.
//!
//! ```text
//!   tcp 10.0.0.0/24 > 10.0.0.2:22 syn not drop policy
//!   |   |                         |   |
//!   all of these must hold        |   no frame that policy drops
//! ```
//!
//! Owns the language. A filter is a list of at most [`TERMS_MAX`] terms, each of which is a few comparisons with a flow key, so
//! no text that somebody sends makes a frame cost much.

use super::{Fate, Way};
use crate::flow::{FlowKey, IpKind};
use crate::flowtext::{PacketError, TCP_FLAGS, Words};
use crate::ident::MacAddr;
use crate::ruling::DropReason;
use std::net::{IpAddr, SocketAddr};

/// Terms that a filter may have.
pub const TERMS_MAX: usize = 32;
/// Bytes of the text of one.
pub const TEXT_MAX: usize = 1024;

const TERM: &str = "a term should stand here: tcp udp sctp icmp arp nd ip ipv6, ADDRESS, ADDRESS > ADDRESS (each with /LENGTH or :PORT; * is any), \
     :PORT, a MAC, a TCP flag, `ether N`, `proto N`, `type N`, `code N`, `vlan N`, `in`, `out`, `forwarded`, `answered`, `drop [REASON]`, or `not` before one";

/// What is looked at of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Glance<'a> {
    /// Its fields; `None`: it cannot be read.
    pub key: Option<&'a FlowKey>,
    /// Which way it goes.
    pub way: Way,
    /// What becomes of it.
    pub fate: Fate,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    /// Address and prefix length, of 128 bits; IPv4 as a key has it.
    net: Option<(u128, u8)>,
    port: Option<u16>,
}

impl End {
    fn holds(self, ip: u128, port: u16) -> bool {
        let inside = |(net, len): (u128, u8)| {
            let shift = 128 - u32::from(len);
            (net ^ ip).checked_shr(shift).unwrap_or_default() == 0
        };
        self.net.is_none_or(inside) && self.port.is_none_or(|wanted| wanted == port)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    /// One of these families, and this protocol.
    Proto(&'static [IpKind], Option<u8>),
    EtherType(u16),
    IpProto(u8),
    Flow(End, End),
    Either(End),
    Flag(u8),
    Icmp,
    IcmpType(u8),
    IcmpCode(u8),
    Vlan(u16),
    Mac(MacAddr),
    Way(Way),
    Forwarded,
    Answered,
    Dropped(Option<DropReason>),
}

/// See the module. One without terms lets all frames through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// With `true`: such frames are not wanted.
    terms: Vec<(Term, bool)>,
}

const V4: &[IpKind] = &[IpKind::V4];
const V6: &[IpKind] = &[IpKind::V6, IpKind::NdV6];
const IP: &[IpKind] = &[IpKind::V4, IpKind::V6, IpKind::NdV6];

impl Term {
    fn holds(&self, glance: &Glance<'_>) -> bool {
        match *self {
            Self::Way(way) => return glance.way == way,
            Self::Forwarded => return glance.fate == Fate::Forwarded,
            Self::Answered => return glance.fate == Fate::Answered,
            Self::Dropped(reason) => {
                return matches!(glance.fate, Fate::Dropped(why) if reason.is_none_or(|wanted| wanted == why));
            }
            _ => {}
        }
        let Some(key) = glance.key else { return false };
        let has_ports = matches!(key.ip_proto, 6 | 17 | 132) && key.l4_ok;
        let speaks = |end: End| end.port.is_none() || has_ports;
        let has_ip = key.ip_kind != IpKind::None;
        match *self {
            Self::Proto(kinds, proto) => {
                kinds.contains(&key.ip_kind) && proto.is_none_or(|proto| key.ip_proto == proto)
            }
            Self::EtherType(wanted) => key.ether_type == wanted,
            Self::IpProto(wanted) => IP.contains(&key.ip_kind) && key.ip_proto == wanted,
            Self::Flow(src, dst) => {
                has_ip
                    && speaks(src)
                    && speaks(dst)
                    && src.holds(key.src_ip, key.src_port)
                    && dst.holds(key.dst_ip, key.dst_port)
            }
            Self::Either(end) => {
                has_ip
                    && speaks(end)
                    && (end.holds(key.src_ip, key.src_port) || end.holds(key.dst_ip, key.dst_port))
            }
            Self::Flag(bit) => key.ip_proto == 6 && key.tcp_flags >> bit & 1 == 1,
            Self::Icmp => is_icmp(key),
            Self::IcmpType(wanted) => is_icmp(key) && key.icmp_type == wanted,
            Self::IcmpCode(wanted) => is_icmp(key) && key.icmp_code == wanted,
            Self::Vlan(wanted) => key.vlan & 0xfff == wanted && key.vlan != 0,
            Self::Mac(mac) => key.src_mac == mac || key.dst_mac == mac,
            Self::Way(_) | Self::Forwarded | Self::Answered | Self::Dropped(_) => false,
        }
    }
}

fn is_icmp(key: &FlowKey) -> bool {
    matches!(
        (key.ip_kind, key.ip_proto),
        (IpKind::V4, 1) | (IpKind::V6 | IpKind::NdV6, 58)
    )
}

impl Filter {
    /// Does it let this frame through?
    #[must_use]
    pub fn lets(&self, glance: &Glance<'_>) -> bool {
        self.terms
            .iter()
            .all(|(term, not)| term.holds(glance) != *not)
    }

    /// Does it let all through?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.terms.is_empty()
    }
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 96),
        IpAddr::V6(v6) => (v6.to_bits(), 0),
    }
}

/// `10.0.0.1`, `10.0.0.0/24`, `10.0.0.1:80`, `[fd00::1]:80`, `:80`, `*`, `*:80`.
fn end(word: &str) -> Option<End> {
    if word == "*" {
        return Some(End::default());
    }
    if let Some(port) = word.strip_prefix("*:").or_else(|| word.strip_prefix(':'))
        && let Ok(port) = port.parse()
    {
        return Some(End {
            net: None,
            port: Some(port),
        });
    }
    if let Ok(ip) = word.parse::<IpAddr>() {
        let (ip, _) = bits(ip);
        return Some(End {
            net: Some((ip, 128)),
            port: None,
        });
    }
    if let Ok(socket) = word.parse::<SocketAddr>() {
        let (ip, _) = bits(socket.ip());
        return Some(End {
            net: Some((ip, 128)),
            port: Some(socket.port()),
        });
    }
    let net: ipnet::IpNet = word.parse().ok()?;
    let (ip, before) = bits(net.network());
    Some(End {
        net: Some((ip, before + net.prefix_len())),
        port: None,
    })
}

fn number(word: &str) -> Option<u16> {
    match word.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

impl std::str::FromStr for Filter {
    type Err = PacketError;

    /// Reads what this module's head shows.
    fn from_str(text: &str) -> Result<Self, PacketError> {
        let mut words = Words::of(text.get(..TEXT_MAX).unwrap_or(text));
        if text.len() > TEXT_MAX {
            return Err(words.wrong(0, format!("a filter has at most {TEXT_MAX} bytes")));
        }
        let mut terms = Vec::new();
        while let Some((mut at, mut word)) = words.take() {
            if terms.len() == TERMS_MAX {
                return Err(words.wrong(at, format!("a filter has at most {TERMS_MAX} terms")));
            }
            let not = word == "not";
            if not {
                (at, word) = words.next("a term")?;
            }
            let term = match word {
                "tcp" => Term::Proto(IP, Some(6)),
                "udp" => Term::Proto(IP, Some(17)),
                "sctp" => Term::Proto(IP, Some(132)),
                // One word for both families, as `meshd trace` has it.
                "icmp" => Term::Icmp,
                "arp" => Term::Proto(&[IpKind::ArpV4], None),
                "nd" => Term::Proto(&[IpKind::NdV6], None),
                "ip" => Term::Proto(V4, None),
                "ipv6" => Term::Proto(V6, None),
                "in" => Term::Way(Way::In),
                "out" => Term::Way(Way::Out),
                "forwarded" => Term::Forwarded,
                "answered" => Term::Answered,
                "drop" => {
                    let next = words.peek();
                    let known = DropReason::ALL.iter().find(|why| Some(why.name()) == next);
                    if known.is_some() {
                        words.take();
                    }
                    Term::Dropped(known.copied())
                }
                "ether" => {
                    let (at, word) = words.next("an EtherType, as 0x0800")?;
                    let wanted = number(word);
                    Term::EtherType(
                        wanted.ok_or_else(|| words.wrong(at, "this is no EtherType, as 0x0800"))?,
                    )
                }
                "proto" => Term::IpProto(words.read("an IP protocol, 0 to 255")?),
                "type" => Term::IcmpType(words.read("an ICMP type, 0 to 255")?),
                "code" => Term::IcmpCode(words.read("an ICMP code, 0 to 255")?),
                "vlan" => Term::Vlan(words.read("a VLAN number, 0 to 4094")?),
                flag if TCP_FLAGS.contains(&flag) => {
                    let bit = TCP_FLAGS.iter().position(|known| *known == flag);
                    Term::Flag(
                        bit.and_then(|bit| u8::try_from(bit).ok())
                            .unwrap_or_default(),
                    )
                }
                word => match (end(word), word.parse::<MacAddr>()) {
                    (Some(src), _) => match words.peek() {
                        Some(">") => {
                            words.take();
                            let (at, word) = words.next("an address, or *")?;
                            let dst = end(word).ok_or_else(|| {
                                words.wrong(
                                    at,
                                    "this is no ADDRESS[/LENGTH], ADDRESS:PORT, *:PORT or *",
                                )
                            })?;
                            Term::Flow(src, dst)
                        }
                        _ => Term::Either(src),
                    },
                    (None, Ok(mac)) => Term::Mac(mac),
                    (None, Err(_)) => return Err(words.wrong(at, TERM)),
                },
            };
            terms.push((term, not));
        }
        Ok(Self { terms })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::flowtext::Packet;
    use crate::ident::Vni;
    use proptest::prelude::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

    fn key(packet: &str) -> FlowKey {
        let packet: Packet = packet.parse().unwrap();
        let frame = packet.frame(A, B);
        crate::frame::Frame::parse(&frame)
            .unwrap()
            .flow_key(Vni::new(7).unwrap())
    }

    fn lets(filter: &str, packet: &str) -> bool {
        let key = key(packet);
        let filter: Filter = filter.parse().unwrap();
        filter.lets(&Glance {
            key: Some(&key),
            way: Way::In,
            fate: Fate::Dropped(DropReason::Policy),
        })
    }

    #[test]
    fn each_word_lets_through_what_it_says_and_not_before_it_the_rest() {
        let syn = "tcp 10.0.0.1:4000 > 10.0.0.2:22 syn";
        let v6 = "udp [fd00::1]:53 > [fd00::2]:5353";
        let ping = "icmp 10.0.0.1 > 10.0.0.2";
        let arp = "arp who-has 10.0.0.2 tell 10.0.0.1";
        for (filter, packet, wanted) in [
            ("", syn, true),
            ("tcp", syn, true),
            ("udp", syn, false),
            ("ip", syn, true),
            ("ipv6", syn, false),
            ("ipv6 udp", v6, true),
            ("icmp", ping, true),
            ("icmp type 8 code 0", ping, true),
            ("type 0", ping, false),
            ("icmp", syn, false),
            ("arp 10.0.0.1", arp, true),
            ("nd", "nd who-has fd00::2 tell fd00::1", true),
            ("syn", syn, true),
            ("syn ack", syn, false),
            ("10.0.0.2", syn, true),
            ("10.0.0.3", syn, false),
            ("10.0.0.0/30", syn, true),
            ("10.0.1.0/24", syn, false),
            ("0.0.0.0/0", syn, true),
            ("0.0.0.0/0", v6, false),
            ("::/0", v6, true),
            ("10.0.0.2:22", syn, true),
            ("10.0.0.1:22", syn, false),
            (":22", syn, true),
            (":23", syn, false),
            (":53", v6, true),
            ("[fd00::2]:5353", v6, true),
            ("10.0.0.1 > 10.0.0.2", syn, true),
            ("10.0.0.2 > 10.0.0.1", syn, false),
            ("* > *:22", syn, true),
            ("*:22 > *", syn, false),
            ("* > *", ping, true),
            (":0", ping, false),
            ("vlan 7", syn, false),
            ("vlan 7", "udp 10.0.0.1:1 > 10.0.0.2:2 vlan 7", true),
            ("02:00:00:00:00:0a", syn, true),
            ("02:00:00:00:00:0c", syn, false),
            ("ether 0x0800", syn, true),
            ("ether 2054", arp, true),
            ("proto 6", syn, true),
            ("in", syn, true),
            ("out", syn, false),
            ("drop", syn, true),
            ("drop policy", syn, true),
            ("drop too-long", syn, false),
            ("drop tcp", syn, true),
            ("forwarded", syn, false),
            ("answered", syn, false),
        ] {
            assert_eq!(lets(filter, packet), wanted, "{filter:?} of {packet:?}");
            if !filter.is_empty() && !filter.contains(' ') {
                assert_eq!(
                    lets(&format!("not {filter}"), packet),
                    !wanted,
                    "not {filter:?}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_let_through_by_words_of_its_fate_alone() {
        let glance = Glance {
            key: None,
            way: Way::In,
            fate: Fate::Dropped(DropReason::Malformed),
        };
        let lets = |text: &str| text.parse::<Filter>().unwrap().lets(&glance);
        assert!(lets("") && lets("drop malformed") && lets("in drop"));
        assert!(!lets("tcp") && !lets("drop policy"));
    }

    #[test]
    fn a_wrong_word_is_pointed_at_and_a_filter_has_an_end() {
        for (text, at) in [
            ("tcp 10.0.0.300", 4),
            ("10.0.0.1 > nowhere", 11),
            ("not", 3),
            ("vlan x", 5),
            ("10.0.0.1/33", 0),
            ("drop bad-luck", 5),
        ] {
            assert_eq!(text.parse::<Filter>().unwrap_err().at, at, "{text}");
        }
        let many = "tcp ".repeat(TERMS_MAX + 1);
        assert!(many.parse::<Filter>().is_err());
        assert!("tcp ".repeat(TERMS_MAX).parse::<Filter>().is_ok());
        assert!("a".repeat(TEXT_MAX + 1).parse::<Filter>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in ".{0,80}", words in proptest::collection::vec("[a-z0-9.:/>* -]{0,12}", 0..20)) {
            let _ = text.parse::<Filter>();
            let _ = words.join(" ").parse::<Filter>();
        }
    }
}
