//! Which devices of networks are ours, and how they should look.
//!
//! Owns the one table that the making and the monitor share. It is read from the kernel at the start, and kept by what we
//! do and hear after that. A device is watched from when it is as it should be until we change it or its trouble was told.

use super::disturbance::{Part, What};
use super::marks::{Marks, NetworkRole};
use super::netlink::Link;
use super::{bridge, vxlan};
use meshd_core::ident::Vni;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Tables {
    devices: BTreeMap<(Vni, NetworkRole), u32>,
    roles: BTreeMap<u32, (Vni, NetworkRole)>,
    /// Ports of our bridges: the network, and the bridge's index.
    members: BTreeMap<u32, (Vni, u32)>,
    /// How it looked when it was as it should be.
    watched: BTreeMap<u32, Link>,
    /// Devices that must have a filter of ours.
    filters: BTreeSet<u32>,
}

/// The table; all methods are short.
#[derive(Debug, Default)]
pub(super) struct Holdings(Mutex<Tables>);

impl Holdings {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // The table is whole between any two statements that change it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what of `links` bears a mark of ours, and which ports our bridges have.
    pub(super) fn read(&self, marks: &Marks, links: &[Link]) {
        for link in links {
            if let Some((vni, role)) = marks.read_network(link) {
                self.add(vni, role, link.index);
            }
        }
        let mut tables = self.tables();
        for link in links {
            let Some(master) = link.master else { continue };
            if let Some(&(vni, NetworkRole::Bridge)) = tables.roles.get(&master) {
                tables.members.insert(link.index, (vni, master));
            }
        }
    }

    pub(super) fn add(&self, vni: Vni, role: NetworkRole, index: u32) {
        let mut tables = self.tables();
        if let Some(before) = tables.devices.insert((vni, role), index)
            && before != index
        {
            tables.drop_index(before);
        }
        tables.roles.insert(index, (vni, role));
    }

    pub(super) fn of(&self, vni: Vni, role: NetworkRole) -> Option<u32> {
        self.tables().devices.get(&(vni, role)).copied()
    }

    pub(super) fn networks(&self) -> BTreeSet<Vni> {
        self.tables().devices.keys().map(|(vni, _)| *vni).collect()
    }

    pub(super) fn devices(&self) -> BTreeSet<u32> {
        self.tables().roles.keys().copied().collect()
    }

    pub(super) fn holds(&self, index: u32) -> bool {
        self.tables().roles.contains_key(&index)
    }

    /// The network and the part of it that a device is.
    pub(super) fn part(&self, index: u32) -> Option<(Vni, Part)> {
        self.tables().part(index)
    }

    /// The bridge of ours that a device is a port of.
    pub(super) fn bridge_of(&self, index: u32) -> Option<u32> {
        self.tables().members.get(&index).map(|(_, bridge)| *bridge)
    }

    /// The device is a port of the bridge from now on.
    pub(super) fn join(&self, index: u32, vni: Vni, bridge: u32) {
        self.tables().members.insert(index, (vni, bridge));
    }

    /// The device is about to leave its bridge, or has left it.
    pub(super) fn leave(&self, index: u32) {
        let mut tables = self.tables();
        tables.members.remove(&index);
        tables.watched.remove(&index);
    }

    /// The device is as it should be: what others change is told from now on.
    pub(super) fn watch(&self, link: Link) {
        self.tables().watched.insert(link.index, link);
    }

    /// As [`Self::watch`], of one that is not watched: its trouble was told, or an earlier run made it.
    pub(super) fn watch_again(&self, link: &Link) {
        let mut tables = self.tables();
        if tables.part(link.index).is_some() && !tables.watched.contains_key(&link.index) {
            tables.watched.insert(link.index, link.clone());
        }
    }

    /// We are about to change it, or its trouble is told: nothing of it is told until it is watched again.
    pub(super) fn unwatch(&self, index: u32) {
        self.tables().watched.remove(&index);
    }

    /// The device must have a filter of ours, from now on or no longer.
    pub(super) fn expect_filter(&self, index: u32, expected: bool) {
        let mut tables = self.tables();
        if expected {
            tables.filters.insert(index);
        } else {
            tables.filters.remove(&index);
        }
    }

    pub(super) fn has_filter(&self, index: u32) -> bool {
        self.tables().filters.contains(&index)
    }

    /// The device is gone, or about to go: what it was, if its end is to be told.
    pub(super) fn forget(&self, index: u32) -> Option<(Vni, Part)> {
        let mut tables = self.tables();
        let part = tables.part(index);
        let told = tables.watched.contains_key(&index);
        tables.drop_index(index);
        part.filter(|_| told)
    }

    /// In what a device differs from how it should be.
    pub(super) fn differs(&self, seen: &Link) -> Option<(Vni, Part, What)> {
        let tables = self.tables();
        let wanted = tables.watched.get(&seen.index)?;
        let (vni, part) = tables.part(seen.index)?;
        let what = difference(wanted, seen, part)?;
        Some((vni, part, what))
    }

    pub(super) fn is_watched(&self, index: u32) -> bool {
        self.tables().watched.contains_key(&index)
    }

    /// Devices that the table has and the kernel has not.
    pub(super) fn missing_from(&self, links: &[Link]) -> Vec<u32> {
        let there: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let tables = self.tables();
        let ours: BTreeSet<u32> = tables
            .roles
            .keys()
            .chain(tables.members.keys())
            .copied()
            .collect();
        ours.difference(&there).copied().collect()
    }
}

impl Tables {
    fn part(&self, index: u32) -> Option<(Vni, Part)> {
        if let Some((vni, role)) = self.roles.get(&index) {
            return Some((*vni, Part::Device(*role)));
        }
        let (vni, _) = self.members.get(&index)?;
        Some((*vni, Part::Port(index)))
    }

    fn drop_index(&mut self, index: u32) {
        if let Some(key) = self.roles.remove(&index)
            && self.devices.get(&key) == Some(&index)
        {
            self.devices.remove(&key);
        }
        self.members.remove(&index);
        self.members.retain(|_, (_, bridge)| *bridge != index);
        self.watched.remove(&index);
        self.filters.remove(&index);
    }
}

/// What of a device is not as it was. A port is a port's device: its name, MTU and state are the port's affair.
fn difference(wanted: &Link, seen: &Link, part: Part) -> Option<What> {
    let bridged = wanted.master.is_some();
    if bridged && wanted.master != seen.master {
        return Some(What::LeftBridge);
    }
    if bridged && bridge::port_odds(seen) != bridge::port_odds(wanted) {
        return Some(What::Changed);
    }
    let Part::Device(role) = part else {
        return None;
    };
    let settings = match role {
        NetworkRole::Bridge => bridge::settings(&wanted.data) == bridge::settings(&seen.data),
        NetworkRole::Vxlan => vxlan::settings(&wanted.data) == vxlan::settings(&seen.data),
        NetworkRole::Vtap => true,
    };
    if wanted.name != seen.name {
        Some(What::Renamed)
    } else if wanted.is_up() && !seen.is_up() {
        Some(What::Down)
    } else if !settings
        || (wanted.mtu, wanted.mac, &wanted.alias) != (seen.mtu, seen.mac, &seen.alias)
    {
        Some(What::Changed)
    } else {
        None
    }
}
