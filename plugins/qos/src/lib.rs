//! Rates and markings of a network.
//!
//! ```text
//!   in:   storm meter of its class -> limit of tenant, port, MAC -> trusted? --no--> DSCP and PCP reset
//!                                                                               | yes
//!                                                                               v
//!                                                                    DSCP to PCP, or PCP to DSCP
//!   out:  limits with "way": "out", by the receiver
//! ```
//!
//! Everything is charged to the meters that the config declares; the host keeps them. Of the limits of one kind (tenant,
//! port, MAC) the first that fits applies, and one of each kind at most. Nothing is ever refused by this policy
//! itself: what has no room in a meter is dropped by the host, under the meter's name.

use meshd_sdk::prelude::*;

/// How fast, and how marked.
#[derive(Debug, Config)]
struct Qos {
    /// Rates, to be named below.
    #[config(default = [])]
    meters: Vec<Meter>,
    /// Who is charged to which meter.
    #[config(default = [])]
    limits: Vec<Limit>,
    /// Meters of frames that are flooded.
    storm: Option<Storm>,
    /// Whose markings count. Without it, everybody's.
    trust: Option<Trust>,
    /// What one marking makes of the other.
    map: Option<Map>,
    #[config(skip)]
    charges: Vec<Charge>,
    #[config(skip)]
    storms: [Option<u32>; 3],
}

/// One of `tenant`, `port` and `mac`: the sender of what comes in, the receiver of what goes out.
#[derive(Debug, Config)]
struct Limit {
    /// The name of a meter.
    meter: String,
    /// The number of a network.
    tenant: Option<u32>,
    /// The number of a port of this node.
    port: Option<u32>,
    /// A station.
    mac: Option<Mac>,
    /// Which way the frames go, as seen from the port.
    #[config(default = "in")]
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
enum Way {
    /// From the port into the network.
    In,
    /// From the network to the port.
    Out,
}

/// Names of meters, by how the destination was found.
#[derive(Debug, Config)]
struct Storm {
    broadcast: Option<String>,
    multicast: Option<String>,
    /// To a MAC that nobody knows.
    unknown: Option<String>,
}

/// The boundary of trust.
#[derive(Debug, Config)]
struct Trust {
    /// Ports of this node whose markings are kept.
    #[config(default = [])]
    ports: Vec<u32>,
    /// The DSCP of the others' IP packets.
    #[config(default = 0)]
    dscp: u8,
    /// The priority of the others' tagged frames.
    #[config(default = 0)]
    pcp: u8,
}

#[derive(Debug, Config)]
struct Map {
    /// The marking that counts; the other is set.
    #[config(default = "dscp")]
    by: By,
    pairs: Vec<Pair>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
enum By {
    Dscp,
    Pcp,
}

#[derive(Debug, Config)]
struct Pair {
    /// 0 to 63.
    dscp: u8,
    /// 0 to 7.
    pcp: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Tenant(u32),
    Port(u32),
    Station(Mac),
}

impl Who {
    fn kind(self) -> usize {
        match self {
            Self::Tenant(_) => 0,
            Self::Port(_) => 1,
            Self::Station(_) => 2,
        }
    }

    fn is(self, key: &Key<'_>, way: Way) -> bool {
        match (self, way) {
            (Self::Tenant(tenant), _) => key.tenant() == tenant,
            (Self::Port(port), _) => key.in_port() == port,
            (Self::Station(mac), Way::In) => key.src_mac_is(mac),
            (Self::Station(mac), Way::Out) => key.dst_mac_is(mac),
        }
    }
}

/// A limit with its meter's place.
#[derive(Clone, Copy, Debug)]
struct Charge {
    who: Who,
    way: Way,
    meter: u32,
}

/// More would not be looked through within a decision's fuel.
const MAX_LIMITS: usize = 64;
/// See [`MAX_LIMITS`].
const MAX_PAIRS: usize = 64;

#[policy(stage = "classify", fail = "open")]
impl Policy for Qos {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        for (at, limit) in self.limits.iter().enumerate() {
            let place = format!("/limits/{at}");
            let ends = [
                limit.tenant.map(Who::Tenant),
                limit.port.map(Who::Port),
                limit.mac.map(Who::Station),
            ];
            let mut ends = ends.into_iter().flatten();
            match (ends.next(), ends.next(), self.place(&limit.meter)) {
                (Some(who), None, Some(meter)) => self.charges.push(Charge {
                    who,
                    way: limit.way,
                    meter,
                }),
                (Some(_), None, None) => {
                    errors.push(self.unknown(format!("{place}/meter"), &limit.meter));
                }
                _ => errors.push(ConfigError::new(
                    place,
                    "a limit has one of tenant, port and mac",
                )),
            }
        }
        if let Some(storm) = &self.storm {
            let named = [
                ("broadcast", &storm.broadcast),
                ("multicast", &storm.multicast),
                ("unknown", &storm.unknown),
            ];
            let mut storms = [None; 3];
            for (slot, (key, name)) in storms.iter_mut().zip(named) {
                let Some(name) = name else { continue };
                *slot = self.place(name);
                if slot.is_none() {
                    errors.push(self.unknown(format!("/storm/{key}"), name));
                }
            }
            self.storms = storms;
        }
        let mut bounded = |place: String, value: u8, max: u8| {
            if value > max {
                let message = format!("{value} is too much; at most {max}");
                errors.push(ConfigError::new(place, message));
            }
        };
        if let Some(trust) = &self.trust {
            bounded("/trust/dscp".to_owned(), trust.dscp, 63);
            bounded("/trust/pcp".to_owned(), trust.pcp, 7);
        }
        for (at, pair) in self.map.iter().flat_map(|map| &map.pairs).enumerate() {
            bounded(format!("/map/pairs/{at}/dscp"), pair.dscp, 63);
            bounded(format!("/map/pairs/{at}/pcp"), pair.pcp, 7);
        }
        let pairs = self.map.as_ref().map_or(0, |map| map.pairs.len());
        for (place, len, max) in [
            ("/limits", self.limits.len(), MAX_LIMITS),
            ("/map/pairs", pairs, MAX_PAIRS),
        ] {
            if len > max {
                let message = format!("{len} are too many; at most {max}");
                errors.push(ConfigError::new(place, message));
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    fn decide(&self, key: &Key) -> Verdict {
        let way = match key.dir() {
            Direction::Ingress => Way::In,
            Direction::Egress => Way::Out,
        };
        let mut verdict = next();
        if way == Way::In
            && let Some(meter) = self.storm_of(key)
        {
            verdict = verdict.meter(meter);
        }
        let mut had = [false; 3];
        for charge in self.charges.iter().filter(|charge| charge.way == way) {
            let kind = charge.who.kind();
            if !had[kind] && charge.who.is(key, way) {
                had[kind] = true;
                verdict = verdict.meter(charge.meter);
            }
        }
        match way {
            Way::In => self.marked(key, verdict),
            Way::Out => verdict,
        }
    }
}

impl Qos {
    fn place(&self, name: &str) -> Option<u32> {
        let at = self.meters.iter().position(|meter| meter.name == name)?;
        u32::try_from(at).ok()
    }

    fn unknown(&self, place: String, name: &str) -> ConfigError {
        let have: Vec<&str> = self.meters.iter().map(|m| m.name.as_str()).collect();
        let have = match have.is_empty() {
            true => "`meters` declares none".to_owned(),
            false => format!("there are {}", have.join(", ")),
        };
        ConfigError::new(place, format!("no meter is called \"{name}\"; {have}"))
    }

    fn storm_of(&self, key: &Key<'_>) -> Option<u32> {
        let [broadcast, multicast, unknown] = self.storms;
        // Whoever wants none of it keeps how the destination was found out of the mask.
        if self.storms.iter().all(Option::is_none) {
            return None;
        }
        match key.dst_class() {
            DstClass::Broadcast => broadcast,
            DstClass::Multicast => multicast,
            DstClass::UnicastUnknown => unknown,
            _ => None,
        }
    }

    fn marked(&self, key: &Key<'_>, verdict: Verdict) -> Verdict {
        if let Some(trust) = &self.trust
            && !trust.ports.contains(&key.in_port())
        {
            return verdict.set_dscp(trust.dscp).set_pcp(trust.pcp);
        }
        let Some(map) = &self.map else {
            return verdict;
        };
        match map.by {
            By::Dscp if key.is_ip() => {
                let dscp = key.dscp();
                let pair = map.pairs.iter().find(|pair| pair.dscp == dscp);
                pair.map_or(verdict, |pair| verdict.set_pcp(pair.pcp))
            }
            By::Pcp if key.vlan() != 0 => {
                let pcp = key.pcp();
                let pair = map.pairs.iter().find(|pair| pair.pcp == pcp);
                pair.map_or(verdict, |pair| verdict.set_dscp(pair.dscp))
            }
            _ => verdict,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
