//! How a port goes: an operator's wish, a namespace that vanished, a wiring that failed.

use super::{Phase, PortChange, Ports, WAITERS_MAX, show_network};
use crate::attach::{Surroundings, refusal};
use crate::code::ErrorCode;
use crate::command::{PortRecord, Refusal, Reply};
use crate::ident::{CommandId, Now, PortId, escape};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::owner::Owner;
use crate::pool::Pools;
use crate::state::{StateKey, forget};

impl Ports {
    /// Removes a port; the reply comes when the kernel has forgotten it. `target`: number, `name` or `name.network`.
    pub fn detach(
        &mut self,
        id: CommandId,
        target: &str,
        around: &dyn Surroundings,
        pools: &mut Pools,
        out: &mut Outbox,
    ) {
        let found = self.find(target, around);
        self.detach_found(id, found, pools, out);
    }

    /// Removes the port of an owner, as [`Ports::detach`] does.
    pub fn detach_owner(
        &mut self,
        id: CommandId,
        owner: &Owner,
        pools: &mut Pools,
        out: &mut Outbox,
    ) {
        let found = self.owned_by(owner).map(|record| record.id).ok_or_else(|| {
            let message = format!(
                "there is no port of owner {owner} on this node; `meshd ports --json` shows whose there are"
            );
            refusal(ErrorCode::PortUnknown, message)
        });
        self.detach_found(id, found, pools, out);
    }

    /// The port that an owner has.
    pub(super) fn owned_by(&self, owner: &Owner) -> Option<&PortRecord> {
        self.records()
            .find(|record| record.owner.as_ref() == Some(owner))
    }

    fn detach_found(
        &mut self,
        id: CommandId,
        found: Result<PortId, Refusal>,
        pools: &mut Pools,
        out: &mut Outbox,
    ) {
        let found = found.and_then(|port_id| {
            let full = self
                .ports
                .get(&port_id)
                .is_some_and(|port| port.detaching.len() >= WAITERS_MAX);
            if full {
                Err(refusal(
                    ErrorCode::PortBusy,
                    format!("port {port_id} is being removed already"),
                ))
            } else {
                Ok(port_id)
            }
        });
        match found {
            Ok(port_id) => {
                if let Some(port) = self.ports.get_mut(&port_id) {
                    port.detaching.push(id);
                }
                self.leave(port_id, "it was detached meanwhile", pools, out);
            }
            Err(refused) => out.push(Output::Reply {
                id,
                result: Err(refused),
            }),
        }
    }

    /// The port that an operator means.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` if several networks have that name.
    pub fn find(&self, target: &str, around: &dyn Surroundings) -> Result<PortId, Refusal> {
        if let Some(record) = target
            .parse()
            .ok()
            .and_then(|number| self.ports.get(&PortId(number)))
            .map(|port| &port.record)
        {
            return Ok(record.id);
        }
        let folded = target.to_ascii_lowercase();
        let (name, network) = match folded.split_once('.') {
            Some((name, network)) => (name, Some(network)),
            None => (folded.as_str(), None),
        };
        // A full domain name will do as well.
        let suffix = format!(".{}", self.config.domain);
        let network = network
            .map(|text| text.trim_end_matches('.'))
            .map(|text| text.strip_suffix(&suffix).unwrap_or(text));
        let fits = |record: &&PortRecord| {
            record.name.as_ref().is_some_and(|n| n.as_str() == name)
                && network
                    .is_none_or(|n| around.network(n).is_some_and(|def| def.vni == record.vni))
        };
        let found: Vec<&PortRecord> = self.records().filter(fits).collect();
        match found.as_slice() {
            [record] => Ok(record.id),
            [] => {
                let shown = escape(target.as_bytes().get(..80).unwrap_or(target.as_bytes()));
                Err(refusal(
                    ErrorCode::PortUnknown,
                    format!(
                        "there is no port \"{shown}\" on this node; `meshd ports` shows which there are"
                    ),
                ))
            }
            several => {
                let names: Vec<String> = several
                    .iter()
                    .take(8)
                    .map(|r| format!("{name}.{}", show_network(r.vni, around)))
                    .collect();
                Err(refusal(
                    ErrorCode::PortAmbiguous,
                    format!(
                        "several ports are called {name}; say which: {}",
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    /// The far end or its namespace went away by itself.
    pub fn port_gone(&mut self, id: PortId, pools: &mut Pools, out: &mut Outbox) {
        let Some(port) = self.ports.get(&id) else {
            return;
        };
        if matches!(
            port.phase,
            Phase::Addressing { .. } | Phase::Unwiring | Phase::Wiring { doomed: true, .. }
        ) {
            return;
        }
        let reason = "the interface or its namespace was removed by somebody else".to_owned();
        out.push(Output::Notice(Notice::PortGone { port: id, reason }));
        self.leave(id, "its namespace went away", pools, out);
    }

    /// From wherever it is, towards its end.
    pub(super) fn leave(&mut self, id: PortId, why: &str, pools: &mut Pools, out: &mut Outbox) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        // No `Conflict`: nothing is taken, and nobody is to try another name.
        let refused = refusal(
            ErrorCode::PortWithdrawn,
            format!("port {id} is not made: {why}"),
        );
        match &mut port.phase {
            Phase::Addressing { .. } => self.drop_port(id, Err(refused), pools, out),
            Phase::Wiring { doomed, .. } => {
                *doomed = true;
                for waiter in port.attaching.drain(..) {
                    out.push(Output::Reply {
                        id: waiter,
                        result: Err(refused.clone()),
                    });
                }
            }
            Phase::Up | Phase::Failed { .. } => self.unwire(id, pools, out),
            Phase::Unwiring => {}
        }
    }

    /// Has the kernel forget the port. The record stays until that is done.
    pub(super) fn unwire(&mut self, id: PortId, _pools: &mut Pools, out: &mut Outbox) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        if matches!(port.phase, Phase::Up) {
            self.changes.push(PortChange::PortDown(port.record.clone()));
        }
        port.phase = Phase::Unwiring;
        out.push(Output::Unwire(port.record.clone()));
    }

    /// Nothing of the port is left in the kernel, or all that could be undone is.
    pub fn unwired(
        &mut self,
        id: PortId,
        errors: Vec<String>,
        around: &dyn Surroundings,
        pools: &mut Pools,
        now: Now,
        out: &mut Outbox,
    ) {
        let Some(port) = self.ports.get(&id) else {
            return;
        };
        if !matches!(port.phase, Phase::Unwiring) {
            return;
        }
        let left = (!errors.is_empty()).then(|| {
            let shown: Vec<&str> = errors.iter().take(8).map(String::as_str).collect();
            refusal(
                ErrorCode::PortLeftovers,
                format!(
                    "port {id} is removed, but something of it is left: {}",
                    shown.join("; ")
                ),
            )
        });
        if let (Some(left), true) = (&left, port.detaching.is_empty()) {
            out.push(Output::Notice(Notice::Refused {
                what: format!("removal of port {id}"),
                reason: left.message.clone(),
            }));
        }
        self.drop_port(id, left.map_or(Ok(()), Err), pools, out);
        // Somebody may have waited for just these addresses.
        self.addresses_changed(around, pools, now, out);
    }

    /// Forgets a port of which the kernel has nothing. Who detaches it is told that it is done, or what is left; who
    /// attaches it, why it is not there.
    pub(super) fn drop_port(
        &mut self,
        id: PortId,
        result: Result<(), Refusal>,
        pools: &mut Pools,
        out: &mut Outbox,
    ) {
        let Some(port) = self.ports.remove(&id) else {
            return;
        };
        for &ip in &port.record.leased {
            pools.release(port.record.vni, ip, id);
        }
        self.changes.push(PortChange::Presence);
        let removed = matches!(port.phase, Phase::Unwiring);
        if !matches!(port.phase, Phase::Addressing { .. }) {
            forget(out, &StateKey::Port(id));
        }
        let vni = port.record.vni;
        if !self.records().any(|record| record.vni == vni) {
            pools.set_active(vni, false);
            self.unserve(vni, out);
        }
        for waiter in port.detaching {
            // That a port which is to go was never made is just what was wished for.
            let result = if removed {
                result.clone().map(|()| Reply::Done)
            } else {
                Ok(Reply::Done)
            };
            out.push(Output::Reply { id: waiter, result });
        }
        let failed = result
            .err()
            .unwrap_or_else(|| refusal(ErrorCode::PortWithdrawn, format!("port {id} was removed")));
        for waiter in port.attaching {
            out.push(Output::Reply {
                id: waiter,
                result: Err(failed.clone()),
            });
        }
    }
}
