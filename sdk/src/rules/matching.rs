//! What a rule asks for, its words in a config, and when a frame has it.

use crate::config::{Config, Errors, Schema, Value};
use crate::{Direction, Frag, IpKind, Key, Net};

/// Which way a connection is opened, as the port that asks sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, crate::Config)]
pub enum Way {
    /// By the endpoint behind the port.
    Out,
    /// To the endpoint behind the port.
    In,
}

/// What a rule asks for; a field that is not there matches all. Without `proto`, any IPv4 or IPv6 packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, crate::Config)]
pub struct Match {
    /// Which way.
    pub way: Option<Way>,
    /// Which protocol.
    pub proto: Option<Proto>,
    /// Source addresses; of ARP the sender's.
    pub src: Option<Net>,
    /// Destination addresses; of ARP and neighbour discovery the one asked for.
    pub dst: Option<Net>,
    /// Source ports.
    pub src_port: Option<Ports>,
    /// Destination ports.
    pub port: Option<Ports>,
}

/// A frame, as the first of its connection would have looked.
pub(super) struct Opening<'a, 'b> {
    pub(super) key: &'a Key<'b>,
    /// It is an answer: ends and way are the other way round.
    pub(super) turned: bool,
}

impl Opening<'_, '_> {
    pub(super) fn way(&self) -> Way {
        match (self.key.dir(), self.turned) {
            (Direction::Ingress, false) | (Direction::Egress, true) => Way::Out,
            _ => Way::In,
        }
    }

    fn src_in(&self, net: Net) -> bool {
        if self.turned {
            self.key.dst_ip_in(net)
        } else {
            self.key.src_ip_in(net)
        }
    }

    fn dst_in(&self, net: Net) -> bool {
        if self.turned {
            self.key.src_ip_in(net)
        } else {
            self.key.dst_ip_in(net)
        }
    }

    fn src_port_in(&self, ports: Ports) -> bool {
        if self.turned {
            self.key.dst_port_in(ports.low..=ports.high)
        } else {
            self.key.src_port_in(ports.low..=ports.high)
        }
    }

    fn dst_port_in(&self, ports: Ports) -> bool {
        if self.turned {
            self.key.src_port_in(ports.low..=ports.high)
        } else {
            self.key.dst_port_in(ports.low..=ports.high)
        }
    }
}

impl Match {
    /// What makes no sense in it.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let has_ports = matches!(self.proto, Some(Proto::Ip(6 | 17 | 132)));
        (self.asks_for_ports() && !has_ports).then_some("a port needs \"proto\": tcp, udp or sctp")
    }

    pub(super) fn asks_for_ports(&self) -> bool {
        self.port.is_some() || self.src_port.is_some()
    }

    /// Whether a frame of this kind can have it.
    pub(super) fn is_about(&self, kind: IpKind) -> bool {
        let proto = match self.proto {
            Some(Proto::Arp) => kind == IpKind::ArpV4,
            Some(Proto::Nd) => kind == IpKind::NdV6,
            None | Some(Proto::Icmp | Proto::Ip(_)) => matches!(kind, IpKind::V4 | IpKind::V6),
        };
        let v4 = matches!(kind, IpKind::V4 | IpKind::ArpV4);
        let mut nets = [self.src, self.dst].into_iter().flatten();
        proto && nets.all(|net| net.is_v4() == v4)
    }

    /// The number of the protocol in frames of this kind, if it asks for one.
    pub(super) fn number(&self, kind: IpKind) -> Option<u8> {
        match self.proto? {
            Proto::Ip(number) => Some(number),
            Proto::Icmp if kind == IpKind::V4 => Some(1),
            Proto::Icmp => Some(58),
            Proto::Arp | Proto::Nd => None,
        }
    }

    /// Of a frame of a kind that it is about. Looks at the fields from the cheap and coarse to the fine, so that a mask stays
    /// wide.
    pub(super) fn matches(&self, frame: &Opening<'_, '_>, allow: bool) -> bool {
        let key = frame.key;
        let proto = match self.proto {
            None | Some(Proto::Arp | Proto::Nd) => true,
            // What kind it is was read to choose the rules.
            Some(Proto::Icmp) if key.ip_kind() == IpKind::V4 => key.ip_proto() == 1,
            Some(Proto::Icmp) => key.ip_proto() == 58,
            Some(Proto::Ip(number)) => key.ip_proto() == number,
        };
        self.way.is_none_or(|way| frame.way() == way)
            && proto
            && self.src.is_none_or(|net| frame.src_in(net))
            && self.dst.is_none_or(|net| frame.dst_in(net))
            && self.ports_match(frame, allow)
    }

    fn ports_match(&self, frame: &Opening<'_, '_>, allow: bool) -> bool {
        if !self.asks_for_ports() {
            return true;
        }
        if frame.key.frag() == Frag::Later {
            return false;
        }
        if !frame.key.l4_ok() {
            return !allow;
        }
        self.port.is_none_or(|ports| frame.dst_port_in(ports))
            && self.src_port.is_none_or(|ports| frame.src_port_in(ports))
    }
}

/// A protocol, by a name or by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// Address resolution for IPv4.
    Arp,
    /// Neighbour discovery of IPv6.
    Nd,
    /// Of either family.
    Icmp,
    /// By its number.
    Ip(u8),
}

impl Config for Proto {
    const SCHEMA: Schema = Schema::AnyOf {
        doc: "tcp, udp, sctp, icmp (of either family), arp, nd, or a protocol number.",
        of: &[String::SCHEMA, u8::SCHEMA],
    };

    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        let read = match value.text() {
            Some("tcp") => Some(Self::Ip(6)),
            Some("udp") => Some(Self::Ip(17)),
            Some("sctp") => Some(Self::Ip(132)),
            Some("icmp") => Some(Self::Icmp),
            Some("arp") => Some(Self::Arp),
            Some("nd") => Some(Self::Nd),
            _ => value
                .whole()
                .and_then(|n| u8::try_from(n).ok())
                .map(Self::Ip),
        };
        if read.is_none() {
            errors.wanted(
                "tcp, udp, sctp, icmp, arp, nd, or a protocol number up to 255",
                value,
            );
        }
        read
    }
}

/// One port or a range: `22`, `"22"`, `"8000-8099"`. Both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub low: u16,
    /// The last.
    pub high: u16,
}

impl Config for Ports {
    const SCHEMA: Schema = Schema::AnyOf {
        doc: "A port, or a range such as \"8000-8099\".",
        of: &[u16::SCHEMA, String::SCHEMA],
    };

    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        let range = |text: &str| {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            Some((low.parse().ok()?, high.parse().ok()?))
        };
        let one = |n: i64| u16::try_from(n).ok().map(|port| (port, port));
        let read = match value.text() {
            Some(text) => range(text),
            None => value.whole().and_then(one),
        };
        let read = read.filter(|(low, high)| low <= high);
        if read.is_none() {
            errors.wanted("a port up to 65535, or two as \"low-high\",", value);
        }
        read.map(|(low, high)| Self { low, high })
    }
}
