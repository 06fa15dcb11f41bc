//! One rule, its words in the config, and when it matches.

use core::ops::RangeInclusive;
use meshd_sdk::config::{Errors, Schema, Value};
use meshd_sdk::prelude::*;

/// A rule of the list.
#[derive(Debug, Config)]
pub(crate) enum Item {
    /// What matches passes.
    Allow(Match),
    /// What matches is refused.
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

/// What a rule asks for; a field that is not there matches all. Without `proto`, any IPv4 or IPv6 packet.
#[derive(Clone, Debug, Config)]
pub(crate) struct Match {
    proto: Option<Proto>,
    /// Source addresses; of ARP the sender's.
    src: Option<Net>,
    /// Destination addresses; of ARP the one asked for.
    dst: Option<Net>,
    /// Source ports.
    src_port: Option<Ports>,
    /// Destination ports.
    port: Option<Ports>,
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
    pub(crate) fn matches(&self, key: &Key<'_>, allow: bool) -> bool {
        let proto = match self.proto {
            None => key.is_ip(),
            Some(Proto::Arp) => key.ip_kind() == IpKind::ArpV4,
            Some(Proto::Nd) => key.ip_kind() == IpKind::NdV6,
            Some(Proto::Icmp) => match key.ip_kind() {
                IpKind::V4 => key.ip_proto() == 1,
                IpKind::V6 => key.ip_proto() == 58,
                _ => false,
            },
            Some(Proto::Ip(number)) => key.is_ip() && key.ip_proto() == number,
        };
        proto
            && self.src.is_none_or(|net| key.src_ip_in(net))
            && self.dst.is_none_or(|net| key.dst_ip_in(net))
            && self.ports_match(key, allow)
    }

    fn ports_match(&self, key: &Key<'_>, allow: bool) -> bool {
        if self.port.is_none() && self.src_port.is_none() {
            return true;
        }
        if key.frag() == Frag::Later {
            return false;
        }
        if !key.l4_ok() {
            return !allow;
        }
        self.port
            .as_ref()
            .is_none_or(|Ports(range)| key.dst_port_in(*range.start()..=*range.end()))
            && self
                .src_port
                .as_ref()
                .is_none_or(|Ports(range)| key.src_port_in(*range.start()..=*range.end()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proto {
    Arp,
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
