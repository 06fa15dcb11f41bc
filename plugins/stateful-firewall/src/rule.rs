//! One rule, its words in the config, and when it matches the first frame of a connection.

use core::ops::RangeInclusive;
use meshd_sdk::config::{Errors, Schema, Value};
use meshd_sdk::prelude::*;

/// A rule of the list.
#[derive(Debug, Config)]
pub(crate) enum Item {
    /// What matches may connect.
    Allow(Match),
    /// What matches may not.
    Deny(Match),
}

impl Item {
    pub(crate) fn allows(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    pub(crate) fn rule(&self) -> &Match {
        match self {
            Self::Allow(rule) | Self::Deny(rule) => rule,
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        if self.allows() { "allow" } else { "deny" }
    }
}

/// Which way a connection is opened, as a port of this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub(crate) enum Way {
    /// By the endpoint behind the port.
    Out,
    /// To the endpoint behind the port.
    In,
}

/// What a rule asks of who opens a connection, and to whom; a field that is not there matches all. Without `proto`, any IPv4
/// or IPv6 packet.
#[derive(Clone, Debug, Config)]
pub(crate) struct Match {
    /// Which way.
    way: Option<Way>,
    proto: Option<Proto>,
    /// Addresses of who opens it.
    src: Option<Net>,
    /// Addresses that it is opened to.
    dst: Option<Net>,
    /// Ports of who opens it.
    src_port: Option<Ports>,
    /// Ports that it is opened to.
    port: Option<Ports>,
}

/// A frame, as the first of its connection would have looked.
pub(crate) struct First<'a, 'b> {
    pub(crate) key: &'a Key<'b>,
    /// It is an answer: ends and way are the other way round.
    pub(crate) turned: bool,
}

impl First<'_, '_> {
    fn way(&self) -> Way {
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

    fn src_port_in(&self, Ports(range): &Ports) -> bool {
        let range = *range.start()..=*range.end();
        if self.turned {
            self.key.dst_port_in(range)
        } else {
            self.key.src_port_in(range)
        }
    }

    fn dst_port_in(&self, Ports(range): &Ports) -> bool {
        let range = *range.start()..=*range.end();
        if self.turned {
            self.key.src_port_in(range)
        } else {
            self.key.dst_port_in(range)
        }
    }
}

impl Match {
    /// What makes no sense in it.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let ports = self.port.is_some() || self.src_port.is_some();
        let has_ports = self
            .proto
            .is_some_and(|proto| matches!(proto, Proto::Ip(6 | 17 | 132)));
        (ports && !has_ports).then_some("a port needs \"proto\": tcp, udp or sctp")
    }

    /// Looks at the fields from the cheap and coarse to the fine, so that a mask stays wide.
    pub(crate) fn matches(&self, first: &First<'_, '_>, allow: bool) -> bool {
        let key = first.key;
        let proto = match self.proto {
            None => true,
            Some(Proto::Icmp) => match key.ip_kind() {
                IpKind::V4 => key.ip_proto() == 1,
                IpKind::V6 => key.ip_proto() == 58,
                _ => false,
            },
            Some(Proto::Ip(number)) => key.ip_proto() == number,
        };
        self.way.is_none_or(|way| first.way() == way)
            && proto
            && self.src.is_none_or(|net| first.src_in(net))
            && self.dst.is_none_or(|net| first.dst_in(net))
            && self.ports_match(first, allow)
    }

    /// A header that hides its ports is taken for the denied one, and not for the allowed one.
    fn ports_match(&self, first: &First<'_, '_>, allow: bool) -> bool {
        if self.port.is_none() && self.src_port.is_none() {
            return true;
        }
        if !first.key.l4_ok() {
            return !allow;
        }
        self.port
            .as_ref()
            .is_none_or(|ports| first.dst_port_in(ports))
            && self
                .src_port
                .as_ref()
                .is_none_or(|ports| first.src_port_in(ports))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proto {
    /// Of either family.
    Icmp,
    /// By its number.
    Ip(u8),
}

impl Config for Proto {
    const SCHEMA: Schema = Schema::AnyOf {
        doc: "tcp, udp, sctp, icmp (of either family), or a protocol number.",
        of: &[String::SCHEMA, u8::SCHEMA],
    };

    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        let read = match value.text() {
            Some("tcp") => Some(Self::Ip(6)),
            Some("udp") => Some(Self::Ip(17)),
            Some("sctp") => Some(Self::Ip(132)),
            Some("icmp") => Some(Self::Icmp),
            _ => value
                .whole()
                .and_then(|n| u8::try_from(n).ok())
                .map(Self::Ip),
        };
        if read.is_none() {
            errors.wanted(
                "tcp, udp, sctp, icmp, or a protocol number up to 255",
                value,
            );
        }
        read
    }
}

/// One port or a range: `22`, `"22"`, `"8000-8099"`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ports(RangeInclusive<u16>);

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
        read.map(|(low, high)| Self(low..=high))
    }
}
