//! The node's own presence on each network that has a port here: its addresses, and names that are answered on them.
//!
//! ```text
//!   first port --> Serve --Served--> there --last port goes, network changes--> Unserve
//!                   ^  |
//!             pause |  | ServeFailed
//!                   missing
//! ```
//!
//! Owns which presence is wanted, and why one is missing. Ports do not wait for it: frames flow without names.

use super::{PortChange, Ports, pause};
use crate::attach::service_mac;
use crate::command::ServiceWiring;
use crate::ident::{Moment, Now, PortId, Vni};
use crate::node::Output;
use crate::outbox::Outbox;
use crate::ranges::service_address;
use crate::wire::record::NetworkDef;
use ipnet::IpNet;

/// One presence, as the kernel is to have it.
#[derive(Debug)]
pub(super) struct Serving {
    wiring: ServiceWiring,
    missing: Option<Missing>,
}

/// The kernel refused it.
#[derive(Debug)]
struct Missing {
    reason: String,
    /// `None`: it is being tried.
    retry: Option<Moment>,
    tries: u32,
}

impl Serving {
    /// Is it what the network wants now?
    pub(super) fn fits(&self, net: &NetworkDef) -> bool {
        self.wiring.mtu == net.mtu && self.wiring.ips == service_ips(net)
    }
}

impl Ports {
    /// The node's own presence on a network, if it has none yet and the network has an address for it.
    pub(super) fn serve(&mut self, net: &NetworkDef, out: &mut Outbox) {
        let ips = service_ips(net);
        if ips.is_empty() || self.services.contains_key(&net.vni) {
            return;
        }
        // Without a number there is no service; ports go on without it.
        let Ok(port) = self.allocate(out) else { return };
        let domain = self.search(&net.name);
        let wiring = ServiceWiring {
            port,
            vni: net.vni,
            mac: service_mac(net.vni),
            ips,
            mtu: net.mtu,
            domain,
        };
        let serving = Serving {
            wiring: wiring.clone(),
            missing: None,
        };
        self.services.insert(net.vni, serving);
        self.changes.push(PortChange::ServiceUp(wiring.clone()));
        out.push(Output::Serve(wiring));
    }

    /// Ends it, if there is one.
    pub(super) fn unserve(&mut self, vni: Vni, out: &mut Outbox) {
        if let Some(Serving { wiring, .. }) = self.services.remove(&vni) {
            let port = wiring.port;
            self.changes.push(PortChange::ServiceDown { vni, port });
            out.push(Output::Unserve { vni, port });
        }
    }

    /// The kernel has the service of this number.
    pub fn served(&mut self, port: PortId) {
        if let Some(serving) = self.serving(port) {
            serving.missing = None;
        }
    }

    /// The kernel could not make the service of this number, and nothing of it is left: it is tried again after a pause.
    pub fn serve_failed(&mut self, port: PortId, reason: String, now: Now) {
        // Of one that was made anew meanwhile, the answer will follow.
        if let Some(serving) = self.serving(port) {
            let tries = serving.missing.as_ref().map_or(0, |missing| missing.tries);
            serving.missing = Some(Missing {
                reason,
                retry: Some(now.moment.plus_ms(pause(tries))),
                tries: tries.saturating_add(1),
            });
        }
    }

    fn serving(&mut self, port: PortId) -> Option<&mut Serving> {
        self.services
            .values_mut()
            .find(|serving| serving.wiring.port == port)
    }

    /// When services are to be tried again.
    pub(super) fn services_due(&self) -> impl Iterator<Item = (Moment, &'static str)> {
        self.services
            .values()
            .filter_map(|serving| serving.missing.as_ref()?.retry)
            .map(|retry| (retry, "ports: try a failed name service again"))
    }

    /// Has the kernel try what it refused a pause ago.
    pub(super) fn serve_again(&mut self, now: Now, out: &mut Outbox) {
        for serving in self.services.values_mut() {
            if let Some(missing) = &mut serving.missing
                && missing.retry.is_some_and(|retry| retry <= now.moment)
            {
                missing.retry = None;
                out.push(Output::Serve(serving.wiring.clone()));
            }
        }
    }

    /// The node's own presence on each network that has a port here.
    pub fn services(&self) -> impl Iterator<Item = &ServiceWiring> {
        self.services.values().map(|serving| &serving.wiring)
    }

    /// Networks on which it is missing, and why.
    pub fn unserved(&self) -> impl Iterator<Item = (Vni, &str)> {
        self.services.iter().filter_map(|(vni, serving)| {
            let missing = serving.missing.as_ref()?;
            Some((*vni, missing.reason.as_str()))
        })
    }
}

/// The node's own addresses on a network.
fn service_ips(net: &NetworkDef) -> Vec<IpNet> {
    net.subnets
        .iter()
        .filter_map(|s| IpNet::new(service_address(s)?, s.prefix_len()).ok())
        .collect()
}
