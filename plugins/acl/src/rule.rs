//! One rule, its words in the config, and when it matches.

use core::ops::RangeInclusive;
use meshd_sdk::prelude::*;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// `{"allow": {...}}` or `{"deny": {...}}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Item {
    Allow(Match),
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
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Match {
    proto: Option<Proto>,
    src: Option<Net>,
    dst: Option<Net>,
    src_port: Option<Ports>,
    /// Of the destination.
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

impl<'de> Deserialize<'de> for Proto {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Proto;
            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("tcp, udp, sctp, icmp, arp, nd, or a protocol number up to 255")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Proto, E> {
                match text {
                    "tcp" => Ok(Proto::Ip(6)),
                    "udp" => Ok(Proto::Ip(17)),
                    "sctp" => Ok(Proto::Ip(132)),
                    "icmp" => Ok(Proto::Icmp),
                    "arp" => Ok(Proto::Arp),
                    "nd" => Ok(Proto::Nd),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Proto, E> {
                u8::try_from(number)
                    .map(Proto::Ip)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

/// One port or a range: `22`, `"22"`, `"8000-8099"`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ports(RangeInclusive<u16>);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Ports;
            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("a port up to 65535, or two as \"low-high\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
                let (low, high) = text.split_once('-').unwrap_or((text, text));
                match (low.parse::<u16>(), high.parse::<u16>()) {
                    (Ok(low), Ok(high)) if low <= high => Ok(Ports(low..=high)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Ports, E> {
                u16::try_from(number)
                    .map(|port| Ports(port..=port))
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Words)
    }
}
