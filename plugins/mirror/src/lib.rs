//! Copies of chosen traffic, for people and programs that watch: SPAN and remote SPAN.
//!
//! ```text
//!   way -> port -> filter -> sample of flows -> a copy, whole or cut, to a port here or to a member
//! ```
//!
//! Where a frame goes is never changed: whatever the config, the verdict is "next". A copy is made of what is forwarded, as it
//! leaves. A copy that comes in from a member is not asked about, so no mirror is mirrored.

use meshd_sdk::prelude::*;

/// What is copied, and to where.
#[derive(Debug, Config)]
struct Mirror {
    /// At most four; a frame is copied for each that it fits.
    sessions: Vec<Session>,
}

/// One of `to-port` and `to-peer`.
#[derive(Debug, Config)]
struct Session {
    /// A port of this node.
    to_port: Option<u32>,
    /// A member; there it leaves by the port that is labelled meshd.monitor=true.
    to_peer: Option<Peer>,
    /// The first so many bytes, 14 at least; 0: all.
    #[config(default = 0)]
    bytes: u16,
    /// Ports of this node that are watched; empty: all.
    #[config(default = [])]
    ports: Vec<u32>,
    /// Which way the frames go, as seen from the port.
    #[config(default = "both")]
    way: Way,
    /// Only what one of these describes; empty: all.
    #[config(default = [])]
    only: Vec<Filter>,
    /// One flow in so many; both directions of a flow are copied, or none. 1: all.
    #[config(default = 1)]
    one_in: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
enum Way {
    /// From the port into the network.
    In,
    /// From the network to the port.
    Out,
    /// Either.
    Both,
}

/// What is not there fits all.
#[derive(Debug, Config)]
struct Filter {
    /// At either end.
    net: Option<Net>,
    /// IP protocol number.
    proto: Option<u8>,
    /// At either end; wants a `proto` that has ports.
    port: Option<u16>,
    /// VLAN of the outer tag.
    vlan: Option<u16>,
    /// EtherType.
    ether_type: Option<u16>,
}

impl Filter {
    fn fits(&self, key: &Key<'_>) -> bool {
        self.vlan.is_none_or(|vlan| key.vlan() == 0x1000 | vlan)
            && self.ether_type.is_none_or(|ty| key.ether_type() == ty)
            && self
                .proto
                .is_none_or(|proto| key.is_ip() && key.ip_proto() == proto)
            && self
                .net
                .is_none_or(|net| key.src_ip_in(net) || key.dst_ip_in(net))
            && self.port.is_none_or(|port| {
                key.l4_ok() && (key.src_port_in(port..=port) || key.dst_port_in(port..=port))
            })
    }
}

impl Session {
    fn wants(&self, key: &Key<'_>) -> bool {
        let way = match key.dir() {
            Direction::Ingress => Way::In,
            Direction::Egress => Way::Out,
        };
        (self.way == Way::Both || self.way == way)
            && (self.ports.is_empty() || self.ports.contains(&key.in_port()))
            && (self.only.is_empty() || self.only.iter().any(|filter| filter.fits(key)))
            && (self.one_in == 1 || flow_hash(key).is_multiple_of(self.one_in))
    }
}

/// The same for both directions of a flow.
fn flow_hash(key: &Key<'_>) -> u32 {
    let mut ends = if key.is_ip() {
        let end = |ip: Option<std::net::IpAddr>, port: u16| {
            let bits = match ip {
                Some(std::net::IpAddr::V4(ip)) => u128::from(u32::from(ip)),
                Some(std::net::IpAddr::V6(ip)) => u128::from(ip),
                None => 0,
            };
            (bits, port)
        };
        let (from, to) = match key.l4_ok() {
            true => (key.src_port(), key.dst_port()),
            false => (0, 0),
        };
        [end(key.src_ip(), from), end(key.dst_ip(), to)]
    } else {
        [key.src_mac(), key.dst_mac()].map(|mac| {
            let bits = mac
                .octets()
                .iter()
                .fold(0, |all, &byte| all << 8 | u128::from(byte));
            (bits, 0)
        })
    };
    ends.sort_unstable();
    // FNV-1a, word by word, with a last mix: who is sampled need not be secret, only spread.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (ip, port) in ends {
        for word in [(ip >> 64) as u64, ip as u64, u64::from(port)] {
            hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
            hash ^= hash >> 29;
        }
    }
    (hash.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 32) as u32
}

/// What a host makes of one verdict.
const MAX_SESSIONS: usize = 4;
/// More would not be looked through within a decision's fuel.
const MAX_FILTERS: usize = 32;
/// An Ethernet header.
const MIN_BYTES: u16 = 14;

#[policy(stage = "observe", fail = "open")]
impl Policy for Mirror {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if self.sessions.len() > MAX_SESSIONS {
            let len = self.sessions.len();
            let message = format!("{len} are too many; at most {MAX_SESSIONS}");
            errors.push(ConfigError::new("/sessions", message));
        }
        for (at, session) in self.sessions.iter().enumerate() {
            let place = |rest: &str| format!("/sessions/{at}{rest}");
            if session.to_port.is_some() == session.to_peer.is_some() {
                let message = "a session has either to-port or to-peer";
                errors.push(ConfigError::new(place(""), message));
            }
            if (1..MIN_BYTES).contains(&session.bytes) {
                let message = format!("a copy has {MIN_BYTES} bytes at least, or 0 for all");
                errors.push(ConfigError::new(place("/bytes"), message));
            }
            if session.one_in == 0 {
                let message = "one flow in 0 is none; 1 is all";
                errors.push(ConfigError::new(place("/one-in"), message));
            }
            if session.only.len() > MAX_FILTERS {
                let message = format!("at most {MAX_FILTERS}");
                errors.push(ConfigError::new(place("/only"), message));
            }
            for (nth, filter) in session.only.iter().enumerate() {
                if filter.port.is_some() && !matches!(filter.proto, Some(6 | 17 | 132)) {
                    let message = "a port needs \"proto\": 6, 17 or 132 (TCP, UDP, SCTP)";
                    errors.push(ConfigError::new(place(&format!("/only/{nth}")), message));
                }
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    fn decide(&self, key: &Key) -> Verdict {
        let mut verdict = next();
        for session in self.sessions.iter().filter(|session| session.wants(key)) {
            verdict = match (session.to_port, session.to_peer) {
                (Some(port), _) => verdict.mirror_cut(port, session.bytes),
                (None, Some(peer)) => verdict.mirror_peer(peer.number(), session.bytes),
                (None, None) => verdict,
            };
        }
        verdict
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
