//! What this node says of itself to all: its addresses, networks, services, VTEP and endpoints, and statements that it passes on.

use super::Mesh;
use crate::code::ErrorCode;
use crate::command::{Refusal, Reply};
use crate::ident::{Label, Now, Vni};
use crate::outbox::Outbox;
use crate::wire::record::{
    ADDRESSES_MAX, Endpoint, Endpoints, IPS_MAX, NETWORKS_MAX, NodeAdvert, Record, RecordError,
    SERVICES_MAX, Service, SharedValue, SharedValues, TRUSTED_MAX, Vtep,
};
use std::collections::BTreeSet;
use std::net::SocketAddr;

impl Mesh {
    /// The underlay addresses of this host. If they changed, peers that dialed this node are dialed from here too: what
    /// they dialed may be gone.
    pub fn addresses(&mut self, mut addresses: Vec<SocketAddr>, now: Now, out: &mut Outbox) {
        addresses.truncate(ADDRESSES_MAX);
        let set = |list: &[SocketAddr]| list.iter().copied().collect::<BTreeSet<_>>();
        let before = self
            .own_advert()
            .map(|a| set(&a.addresses))
            .unwrap_or_default();
        if before != set(&addresses) && !before.is_empty() {
            self.peers.dial_beside_accepted(now);
        }
        if let Some(advert) = self.own_advert().cloned() {
            // An advert within bounds breaks none by fewer addresses.
            let _ = self.directory.publish(
                Record::Node(NodeAdvert {
                    addresses,
                    ..advert
                }),
                now,
                out,
            );
        }
        self.follow_up(now, out);
    }

    /// The networks that have a port here. The same again does nothing.
    pub fn advertise_networks(&mut self, mut networks: Vec<Vni>, now: Now, out: &mut Outbox) {
        networks.sort_unstable();
        networks.dedup();
        networks.truncate(NETWORKS_MAX);
        if let Some(advert) = self.own_advert().cloned() {
            let _ =
                self.directory
                    .publish(Record::Node(NodeAdvert { networks, ..advert }), now, out);
        }
        self.follow_up(now, out);
    }

    /// What answers at addresses of this host's own devices, in any order. The same again does nothing.
    pub fn advertise_services(&mut self, mut services: Vec<Service>, now: Now, out: &mut Outbox) {
        services.retain(|service| !service.ips.is_empty());
        services.sort();
        services.dedup_by(|one, other| one.name == other.name);
        services.truncate(SERVICES_MAX);
        for service in &mut services {
            service.ips.truncate(IPS_MAX);
        }
        if let Some(advert) = self.own_advert().cloned() {
            // Within bounds by now.
            let _ =
                self.directory
                    .publish(Record::Node(NodeAdvert { services, ..advert }), now, out);
        }
        self.follow_up(now, out);
    }

    /// Where this node takes VXLAN, and from which underlay it does. The same again does nothing.
    pub fn advertise_vtep(
        &mut self,
        vtep: Option<Vtep>,
        mut trusted: Vec<ipnet::IpNet>,
        now: Now,
        out: &mut Outbox,
    ) {
        trusted.truncate(TRUSTED_MAX);
        if let Some(advert) = self.own_advert().cloned() {
            let _ = self.directory.publish(
                Record::Node(NodeAdvert {
                    vtep,
                    trusted,
                    ..advert
                }),
                now,
                out,
            );
        }
        self.follow_up(now, out);
    }

    pub(super) fn own_advert(&self) -> Option<&NodeAdvert> {
        self.directory.advert(self.directory.me())
    }

    /// All endpoints of this node on a network, in any order. The same again does nothing.
    ///
    /// # Errors
    /// If they break a bound of [`crate::wire::record`].
    pub fn advertise_endpoints(
        &mut self,
        vni: Vni,
        mut list: Vec<Endpoint>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), RecordError> {
        let node = self.directory.me();
        list.sort_by_key(|endpoint| endpoint.mac);
        if list.is_empty() && !self.directory.advertises(vni) {
            return Ok(());
        }
        let result = self.directory.publish(
            Record::Endpoints(Endpoints {
                node,
                vni,
                serial: 0,
                list,
            }),
            now,
            out,
        );
        self.follow_up(now, out);
        result.map(|_| ())
    }

    /// What this node shares of a plugin on a network. The same again does nothing.
    ///
    /// # Errors
    /// It breaks a bound of [`crate::wire::record`].
    pub fn share(
        &mut self,
        vni: Vni,
        plugin: Label,
        list: Vec<SharedValue>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        let shared = SharedValues {
            node: self.directory.me(),
            vni,
            plugin,
            serial: 0,
            list,
        };
        let result = self.directory.share(shared, now, out);
        self.follow_up(now, out);
        result.map(|()| Reply::Done).map_err(|error| Refusal {
            code: ErrorCode::ShareInvalid,
            message: format!("what a controller shares is not taken: {error}"),
        })
    }

    /// Shares nothing any more but of these.
    pub fn share_only(&mut self, attachments: &BTreeSet<(Vni, Label)>, now: Now, out: &mut Outbox) {
        let me = self.directory.me();
        let gone = self.directory.shared_of(me).filter(|shared| {
            !shared.list.is_empty() && !attachments.contains(&(shared.vni, shared.plugin.clone()))
        });
        let gone: Vec<(Vni, Label)> = gone.map(|s| (s.vni, s.plugin.clone())).collect();
        for (vni, plugin) in gone {
            // An empty list breaks no bound.
            let _ = self.share(vni, plugin, Vec::new(), now, out);
        }
    }

    /// What to do, if this node is no member any more: said by the root, or by a member that it dialed.
    #[must_use]
    pub fn revoked(&self) -> Option<String> {
        const WAY_BACK: &str = "to let this host back in, stop meshd, remove its state folder and join by a new invite (docs/howto/remove-a-node.md)";
        if self.directory.is_revoked(self.directory.me()) {
            return Some(format!("this node was revoked; {WAY_BACK}"));
        }
        let by = self.peers.revoked_by()?;
        let by = self.directory.show(by);
        Some(format!(
            "{by} says that this node was revoked; if that is so: {WAY_BACK}"
        ))
    }
}
