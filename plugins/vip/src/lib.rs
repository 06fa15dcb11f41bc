//! Virtual addresses: what is for one goes to one of several backends, each flow always to the same.
//!
//! ```text
//!   in:  IP to a service's address, protocol and port --> its group --> a backend's MAC, by the flow's hash
//!        all else, ARP and ND for the address included --> next: the endpoint that has the address
//! ```
//!
//! The host makes the choice, frame by frame, so one answer serves all flows of a service. Which backends are there the host
//! knows, too. Owns which traffic is a service's; keeps nothing.

use meshd_sdk::prelude::*;

/// Services, and the backends behind them.
#[derive(Debug, Config)]
struct Vip {
    /// What is balanced; at most 64.
    services: Vec<Service>,
    /// The backends, to be named above.
    groups: Vec<Group>,
    #[config(skip)]
    places: Vec<Place>,
}

/// One port of a virtual address.
#[derive(Debug, Config)]
struct Service {
    /// The virtual address, or a range of them.
    ip: Net,
    /// IP protocol: 6 is TCP, 17 UDP, 132 SCTP.
    #[config(default = 6)]
    proto: u8,
    /// The port.
    port: u16,
    /// The name of a group.
    group: String,
}

/// A service, ready to be looked at.
#[derive(Debug)]
struct Place {
    ip: Net,
    proto: u8,
    port: u16,
    group: u32,
}

/// More would not be looked through within a decision's fuel.
const MAX_SERVICES: usize = 64;

#[policy(stage = "forward", fail = "open")]
impl Policy for Vip {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if self.services.len() > MAX_SERVICES {
            let len = self.services.len();
            let message = format!("{len} are too many; at most {MAX_SERVICES}");
            errors.push(ConfigError::new("/services", message));
        }
        for (at, service) in self.services.iter().enumerate() {
            let mut wrong = |field: &str, message: String| {
                errors.push(ConfigError::new(format!("/services/{at}/{field}"), message));
            };
            if !matches!(service.proto, 6 | 17 | 132) {
                let message = "it must be 6, 17 or 132: others have no ports".to_owned();
                wrong("proto", message);
            }
            let group = (0u32..)
                .zip(&self.groups)
                .find(|(_, group)| group.name == service.group);
            match group {
                Some((number, _)) => self.places.push(Place {
                    ip: service.ip,
                    proto: service.proto,
                    port: service.port,
                    group: number,
                }),
                None => wrong("group", format!("no group is called \"{}\"", service.group)),
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    fn decide(&self, key: &Key) -> Verdict {
        if key.dir() == Direction::Egress || !key.is_ip() {
            return next();
        }
        let service = self.places.iter().find(|place| {
            key.dst_ip_in(place.ip)
                && key.ip_proto() == place.proto
                && key.l4_ok()
                && key.dst_port_in(place.port..=place.port)
        });
        service.map_or_else(next, |place| to_group(place.group))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
