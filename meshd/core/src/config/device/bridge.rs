//! `[[device.bridge]]`: a switch, ours or adopted.
//!
//! Owns its keys, and what of them cannot be together.

use super::base::{Base, Wrong, table};
use super::{Common, DeviceName, VLAN_MAX};
use crate::devices::{Bridge, Shape, Tagging, Vlans, Wish, default_vlans};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

table! {
    /// One `[[device.bridge]]`. Unless it is said, its MTU is the smallest of its ports.
    BridgeConfig {
    /// Devices that are its ports.
    #[serde(default)]
    pub members: Vec<DeviceName>,
    /// It is somebody else's: only devices of this file are put in, and nothing else is touched.
    #[serde(default)]
    pub adopt: bool,
    /// Spanning tree.
    pub stp: Option<bool>,
    /// Of the spanning tree.
    pub priority: Option<u16>,
    /// Multicast goes only where somebody listens.
    pub multicast_snooping: Option<bool>,
    /// Ask who listens.
    pub multicast_querier: Option<bool>,
    /// Keep VLANs apart.
    pub vlan_filtering: Option<bool>,
    /// Members with frames of one VLAN, without a tag.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, u16>))]
    pub access: BTreeMap<DeviceName, u16>,
    /// Members with frames of several VLANs, each with its tag.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Vec<u16>>))]
    pub trunk: BTreeMap<DeviceName, Vec<u16>>,
    /// The VLAN of what has no tag on a trunk.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, u16>))]
    pub native: BTreeMap<DeviceName, u16>,
    }
}

impl BridgeConfig {
    fn filters(&self) -> bool {
        self.vlan_filtering.unwrap_or(false)
    }

    pub(super) fn wish(&self, above: impl Iterator<Item = u16>) -> Wish {
        let vlans = |name: &DeviceName| -> Option<Vlans> {
            let (access, trunk) = (self.access.get(name), self.trunk.get(name));
            if access.is_none() && trunk.is_none() {
                return self.filters().then(default_vlans);
            }
            let mut vlans: Vlans = trunk
                .into_iter()
                .flatten()
                .map(|id| (*id, Tagging::TRUNK))
                .collect();
            for id in access.into_iter().chain(self.native.get(name)) {
                vlans.insert(*id, Tagging::ACCESS);
            }
            Some(vlans)
        };
        let members = self
            .members
            .iter()
            .map(|name| (name.0.clone(), vlans(name)))
            .collect();
        let default = Bridge::default();
        let bridge = Bridge {
            stp: self.stp.unwrap_or(default.stp),
            priority: self.priority.unwrap_or(default.priority),
            multicast_snooping: self
                .multicast_snooping
                .unwrap_or(default.multicast_snooping),
            multicast_querier: self.multicast_querier.unwrap_or(default.multicast_querier),
            vlan_filtering: self.filters(),
        };
        let mut own = default_vlans();
        for id in above {
            own.entry(id).or_insert(Tagging::TRUNK);
        }
        Wish {
            members,
            own_vlans: (self.filters() && !self.adopt).then_some(own),
            ..self.base().wish(if self.adopt {
                Shape::Adopted
            } else {
                Shape::Bridge(bridge)
            })
        }
    }

    pub(super) fn first_wrong(&self, names: &BTreeMap<&DeviceName, &Common<'_>>) -> Option<Wrong> {
        if self.adopt {
            let theirs = [
                ("stp", self.stp.is_some()),
                ("priority", self.priority.is_some()),
                ("multicast_snooping", self.multicast_snooping.is_some()),
                ("multicast_querier", self.multicast_querier.is_some()),
                ("vlan_filtering", self.vlan_filtering.is_some()),
                ("addresses", !self.addresses.is_empty()),
                ("mtu", self.mtu.is_some()),
                ("mac", self.mac.is_some()),
            ];
            if let Some((key, _)) = theirs.into_iter().find(|(_, there)| *there) {
                return Some((
                    key,
                    format!("{key} of an adopted bridge is set by whoever made it; leave it out"),
                ));
            }
            if let Some(member) = self
                .members
                .iter()
                .find(|member| !names.contains_key(member))
            {
                return Some((
                    "members",
                    format!(
                        "{} is no device that is declared here; into an adopted bridge only those are put, so that they can be told from its owner's",
                        member.0
                    ),
                ));
            }
        }
        let tables: [(&'static str, Vec<(&DeviceName, u16)>); 3] = [
            (
                "access",
                self.access.iter().map(|(name, id)| (name, *id)).collect(),
            ),
            (
                "trunk",
                self.trunk
                    .iter()
                    .flat_map(|(name, ids)| ids.iter().map(move |id| (name, *id)))
                    .collect(),
            ),
            (
                "native",
                self.native.iter().map(|(name, id)| (name, *id)).collect(),
            ),
        ];
        for (key, rows) in tables {
            if !rows.is_empty() && !self.filters() && !self.adopt {
                return Some((
                    key,
                    format!(
                        "{key} needs a bridge that keeps VLANs apart; set vlan_filtering = true"
                    ),
                ));
            }
            for (name, id) in rows {
                if !self.members.contains(name) {
                    return Some((
                        key,
                        format!("{} is no member; name one of `members`", name.0),
                    ));
                }
                if !(1..=VLAN_MAX).contains(&id) {
                    return Some((key, format!("{id} is no VLAN; it must be 1 to {VLAN_MAX}")));
                }
            }
        }
        if let Some(name) = self
            .access
            .keys()
            .find(|name| self.trunk.contains_key(name))
        {
            return Some((
                "access",
                format!("{} is a trunk too; leave one out", name.0),
            ));
        }
        let native = self
            .native
            .keys()
            .find(|name| !self.trunk.contains_key(name))?;
        Some((
            "native",
            format!(
                "{} is no trunk; use `access` for a port of one VLAN",
                native.0
            ),
        ))
    }
}
