//! What an operator asks of the node: each command is done by the part that it concerns, and answered once.

use super::Node;
use crate::code::ErrorCode;
use crate::command::{Command, NetworkSpec, Refusal, Reply};
use crate::ident::{CommandId, Label, Now, Vni};
use crate::networks::Added;
use crate::node::Output;

impl Node {
    pub(super) fn command(&mut self, id: CommandId, command: Command, now: Now) {
        let is_policy = matches!(
            command,
            Command::PolicyChain { .. }
                | Command::PolicyInvalidate { .. }
                | Command::SteeringPlugin { .. }
        );
        let undoes = is_policy
            || matches!(
                command,
                Command::Detach { .. }
                    | Command::DetachOwner { .. }
                    | Command::Release { .. }
                    | Command::ShareOnly { .. }
            );
        if !undoes
            && self.mesh.directory.is_revoked(self.me)
            && let Some(message) = self.mesh.revoked()
        {
            let code = ErrorCode::NodeRevoked;
            let result = Err(Refusal { code, message });
            return self.out.push(Output::Reply { id, result });
        }
        let result = match command {
            Command::Invite(spec) => self.mesh.invite(&spec, now, &mut self.out),
            Command::Revoke { member } => self.mesh.revoke(&member, now, &mut self.out),
            Command::NetworkAdd(spec) => self.add_network(&spec, now),
            Command::NetworkRemove { network } => self
                .mesh
                .remove_network(&network, now, &mut self.out)
                .map(|_tombstone| Reply::Done),
            Command::Attach(spec) => {
                return self.ports.attach(
                    id,
                    spec,
                    &self.mesh.directory,
                    &mut self.pools,
                    now,
                    &mut self.out,
                );
            }
            Command::DetachOwner { owner } => {
                let (pools, out) = (&mut self.pools, &mut self.out);
                return self.ports.detach_owner(id, &owner, pools, out);
            }
            Command::Detach { port } => {
                return self.ports.detach(
                    id,
                    &port,
                    &self.mesh.directory,
                    &mut self.pools,
                    &mut self.out,
                );
            }
            Command::Reserve(spec) => {
                let ports = &self.ports;
                let used = |vni, ip| {
                    let mut on_it = ports.iter().filter(|(record, ..)| record.vni == vni);
                    on_it.any(|(record, ..)| record.ips.iter().any(|net| net.addr() == ip))
                };
                let router = |vni, ip| {
                    let mut all = ports.iter().flat_map(|(record, ..)| record.routers());
                    all.any(|router| router == (vni, ip))
                };
                let around = &self.mesh.directory;
                self.pools
                    .reserve(&spec, &used, &router, around, now, &mut self.out)
            }
            Command::Release { network, ip } => {
                if let Some(net) = self.mesh.directory.network(&network) {
                    self.pools.unreserve(net.vni, ip, &mut self.out);
                }
                // Somebody may have waited for just this address.
                let (around, pools) = (&self.mesh.directory, &mut self.pools);
                self.ports
                    .addresses_changed(around, pools, now, &mut self.out);
                Ok(Reply::Done)
            }
            Command::VtepAdd { network, vtep } => {
                let members =
                    self.mesh.directory.members().filter_map(|m| {
                        self.mesh.directory.advert(m.node)?.vtep.map(|vtep| vtep.ip)
                    });
                let members = members.collect();
                self.vteps.add(
                    &network,
                    vtep,
                    self.planes.trusted(),
                    &members,
                    &self.mesh.directory,
                    &mut self.ports,
                    now,
                    &mut self.out,
                )
            }
            Command::VtepRemove { network, ip } => {
                self.vteps
                    .remove(&network, ip, &self.mesh.directory, &mut self.out)
            }
            Command::KernelWishes { trusted, kernel } => {
                self.planes.set_wishes(trusted, kernel, &mut self.out);
                self.trust_changed(now);
                Ok(Reply::Done)
            }
            Command::Services { services } => {
                self.mesh.advertise_services(services, now, &mut self.out);
                Ok(Reply::Done)
            }
            Command::BridgeFilter { in_the_way } => {
                self.planes.set_bridge_filter(in_the_way, &mut self.out);
                self.trust_changed(now);
                Ok(Reply::Done)
            }
            Command::Multicast(wishes) => {
                self.config.multicast = wishes;
                let networks: Vec<(Vni, Label)> = (self.mesh.directory.networks())
                    .map(|def| (def.vni, def.name.clone()))
                    .collect();
                for (vni, name) in networks {
                    let spec = self.config.multicast.get(&name).copied();
                    let (spec, out) = (spec.unwrap_or_default(), &mut self.out);
                    self.switch.set_multicast(vni, spec, now.moment, out);
                }
                Ok(Reply::Done)
            }
            Command::ServiceRules(rules) => {
                self.services.set_rules(rules);
                self.services_changed();
                Ok(Reply::Done)
            }
            Command::Share { vni, plugin, list } => {
                self.mesh.share(vni, plugin, list, now, &mut self.out)
            }
            Command::ShareOnly { attachments } => {
                self.mesh.share_only(&attachments, now, &mut self.out);
                Ok(Reply::Done)
            }
            Command::SteeringPlugin { vni, revision } => {
                self.switch.set_steering(vni, revision, &mut self.out);
                self.ways_changed();
                Ok(Reply::Done)
            }
            Command::PolicyChain { vni, plugins } => {
                self.chains.insert(vni, plugins);
                self.switch
                    .set_policy(vni, plugins, now.moment, &mut self.out);
                Ok(Reply::Done)
            }
            Command::PolicyInvalidate {
                vni,
                attachment,
                tag,
            } => {
                let out = &mut self.out;
                self.switch
                    .invalidate_policy(vni, attachment, tag, now.moment, out);
                Ok(Reply::Done)
            }
        };
        if is_policy {
            // The reply is the moment from which nothing obeys what was: the kernel's gates come first.
            self.settle(now);
        }
        self.out.push(Output::Reply { id, result });
    }

    /// Who founds a network owns all of its addresses, from the same drain on in which the network is kept.
    pub(super) fn add_network(&mut self, spec: &NetworkSpec, now: Now) -> Result<Reply, Refusal> {
        match self.mesh.add_network(spec, now, &mut self.out)? {
            Added::New(def) => {
                self.pools.define(&def, true, &mut self.out);
                Ok(Reply::Network(def))
            }
            Added::Same(def) => Ok(Reply::Network(def)),
        }
    }
}
