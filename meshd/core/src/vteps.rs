//! Foreign VTEPs: plain Linux hosts, Open vSwitch or hardware that speak VXLAN and no more, as one port of this node.
//!
//! ```text
//!   peers, ports of this node <--> this node, the gateway <-- port N: all foreign VTEPs of the network --> VXLAN, in the clear
//! ```
//!
//! All foreign VTEPs of a network are behind one port of the node on which they were declared: what is for all goes to each of
//! them once, what one of them sends never comes back to another of them (they replicate among themselves, as VTEPs do), and
//! other nodes reach them through this node, whatever their own kernels can do.
//!
//! Owns the declarations and their port's number. Refuses VTEPs that the underlay does not trust, and members' own.

use crate::attach::{Surroundings, refusal};
use crate::code::ErrorCode;
use crate::command::{ForeignVtep, Refusal, Reply};
use crate::ident::{MacAddr, Now, PortId, Vni};
use crate::outbox::Outbox;
use crate::ports::Ports;
use crate::state::{StateError, StateKey, decode, forget, keep};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Foreign VTEPs of one network on one node.
const VTEPS_MAX: usize = 64;
/// MACs declared behind one of them.
const MACS_MAX: usize = 256;

/// The foreign VTEPs of a network, as they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// The port that they are behind.
    pub port: PortId,
    /// By address.
    pub list: BTreeMap<IpAddr, ForeignVtep>,
}

impl Gateway {
    /// All MACs that were declared.
    #[must_use]
    pub fn macs(&self) -> BTreeSet<MacAddr> {
        self.list
            .values()
            .flat_map(|vtep| vtep.macs.iter().copied())
            .collect()
    }

    /// The VTEP that a MAC is behind: as declared; else the only one there is.
    #[must_use]
    pub fn vtep_of(&self, mac: MacAddr) -> Option<IpAddr> {
        let declared = self.list.values().find(|vtep| vtep.macs.contains(&mac));
        let only = || (self.list.len() == 1).then(|| self.list.keys().next().copied())?;
        declared.map(|vtep| vtep.ip).or_else(only)
    }
}

/// All foreign VTEPs that were declared on this node.
#[derive(Debug, Default)]
pub struct Vteps {
    gateways: BTreeMap<Vni, Gateway>,
    changes: BTreeSet<Vni>,
}

impl Vteps {
    /// Takes back one entry of the state.
    ///
    /// # Errors
    /// If the value is damaged; the declarations of that network are lost then.
    pub fn restore(&mut self, key: &StateKey, value: &[u8]) -> Result<(), StateError> {
        if let StateKey::Vteps(vni) = *key {
            self.gateways.insert(vni, decode(value)?);
            self.changes.insert(vni);
        }
        Ok(())
    }

    /// Declares a VTEP, or changes what is behind it. The same again changes nothing.
    ///
    /// # Errors
    /// If the network is unknown, the address is not trusted, or something is taken already.
    pub(crate) fn add(
        &mut self,
        network: &str,
        vtep: ForeignVtep,
        trusted: &[IpNet],
        members: &BTreeSet<IpAddr>,
        around: &dyn Surroundings,
        ports: &mut Ports,
        _now: Now,
        out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        let invalid = |code, message: String| Err(refusal(code, message));
        let def = around.network(network).ok_or_else(|| {
            refusal(
                ErrorCode::NetworkUnknown,
                format!("there is no network {network}; see `meshd network ls`"),
            )
        })?;
        let (vni, ip) = (def.vni, vtep.ip);
        if !trusted.iter().any(|net| net.contains(&ip)) {
            return invalid(
                ErrorCode::VtepNotTrusted,
                format!(
                    "{ip} is in no subnet that this node trusts with frames in the clear; add it to `trusted` under [underlay] in the config file"
                ),
            );
        }
        if members.contains(&ip) || ip.is_unspecified() || ip.is_multicast() {
            return invalid(
                ErrorCode::VtepInvalid,
                format!(
                    "{ip} is an address of a member of the mesh, or of no host; a foreign VTEP is neither"
                ),
            );
        }
        if vtep.macs.len() > MACS_MAX {
            return invalid(
                ErrorCode::VtepInvalid,
                format!(
                    "{} MACs are too many for one VTEP; at most {MACS_MAX}",
                    vtep.macs.len()
                ),
            );
        }
        if let Some(mac) = vtep.macs.iter().find(|mac| !mac.is_source()) {
            return invalid(
                ErrorCode::VtepInvalid,
                format!("{mac} is no address that a station sends from"),
            );
        }
        let gateway = self.gateways.get(&vni);
        if gateway.is_some_and(|g| g.list.len() >= VTEPS_MAX && !g.list.contains_key(&ip)) {
            return invalid(
                ErrorCode::VtepsFull,
                format!(
                    "network {} has {VTEPS_MAX} foreign VTEPs on this node, as many as may be",
                    def.name
                ),
            );
        }
        for mac in &vtep.macs {
            let other =
                gateway.and_then(|g| g.list.values().find(|v| v.ip != ip && v.macs.contains(mac)));
            if let Some(other) = other {
                return Err(refusal(
                    ErrorCode::MacTaken,
                    format!("{mac} was declared behind {} already", other.ip),
                ));
            }
            let ours = gateway.is_some_and(|g| g.macs().contains(mac));
            if let Some(node) = around.mac_holder(vni, *mac).filter(|_| !ours) {
                return Err(refusal(
                    ErrorCode::MacTaken,
                    format!(
                        "{mac} belongs to an endpoint of {} already",
                        around.show_node(node)
                    ),
                ));
            }
        }
        let mut gateway = match gateway {
            Some(gateway) if gateway.list.get(&ip) == Some(&vtep) => return Ok(Reply::Done),
            Some(gateway) => gateway.clone(),
            None => Gateway {
                port: ports.allocate(out)?,
                list: BTreeMap::new(),
            },
        };
        gateway.list.insert(ip, vtep);
        keep(out, &StateKey::Vteps(vni), &gateway);
        self.gateways.insert(vni, gateway);
        self.changes.insert(vni);
        Ok(Reply::Done)
    }

    /// Takes a declaration back.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn remove(
        &mut self,
        network: &str,
        ip: IpAddr,
        around: &dyn Surroundings,
        out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        let unknown = || {
            refusal(
                ErrorCode::VtepUnknown,
                format!(
                    "{ip} is no foreign VTEP of network {network} on this node; see `meshd network vtep ls`"
                ),
            )
        };
        let vni = around.network(network).ok_or_else(unknown)?.vni;
        let gateway = self.gateways.get_mut(&vni).ok_or_else(unknown)?;
        gateway.list.remove(&ip).ok_or_else(unknown)?;
        if gateway.list.is_empty() {
            forget(out, &StateKey::Vteps(vni));
        } else {
            keep(out, &StateKey::Vteps(vni), gateway);
        }
        self.changes.insert(vni);
        Ok(Reply::Done)
    }

    /// The foreign VTEPs of a network.
    #[must_use]
    pub fn of(&self, vni: Vni) -> Option<&Gateway> {
        self.gateways.get(&vni).filter(|g| !g.list.is_empty())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Vni, &Gateway)> {
        self.gateways
            .iter()
            .map(|(vni, g)| (*vni, g))
            .filter(|(_, g)| !g.list.is_empty())
    }

    /// Networks whose VTEPs changed since the last call, with the port that they are or were behind.
    pub(crate) fn take_changes(&mut self) -> Vec<(Vni, PortId)> {
        let changes = std::mem::take(&mut self.changes);
        let found = changes
            .into_iter()
            .filter_map(|vni| Some((vni, self.gateways.get(&vni)?.port)));
        let found: Vec<(Vni, PortId)> = found.collect();
        self.gateways.retain(|_, gateway| !gateway.list.is_empty());
        found
    }
}
