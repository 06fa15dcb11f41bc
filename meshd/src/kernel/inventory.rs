//! Which devices are ours, by port and by index.
//!
//! Owns the one table that the wiring and the monitor share. It is read from the kernel at the start, and kept by what we
//! do and hear after that. The same for what networks have is beside it: [`Holdings`], [`Entries`], [`Disturbances`].

use super::disturbance::Disturbances;
use super::entries::Entries;
use super::holdings::Holdings;
use super::marks::{Marks, Role};
use super::netlink::Link;
use meshd_core::ident::PortId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The devices of a port; `None`: not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) veth: Option<u32>,
    pub(super) tap: Option<u32>,
    /// Where the far end is: its index and namespace, once the port is wired. Its loss is told only then.
    pub(super) far: Option<(Option<u32>, Option<i32>)>,
}

impl Devices {
    fn get(&mut self, role: Role) -> &mut Option<u32> {
        match role {
            Role::Veth => &mut self.veth,
            Role::Tap => &mut self.tap,
        }
    }
}

#[derive(Debug, Default)]
struct Tables {
    ports: BTreeMap<PortId, Devices>,
    indices: BTreeMap<u32, (PortId, Role)>,
}

/// The table; all methods are short.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    ports: Mutex<Tables>,
    /// The devices of networks.
    pub(super) networks: Holdings,
    /// Their FDB entries.
    pub(super) entries: Entries,
    /// What others did to them.
    pub(super) disturbances: Disturbances,
}

impl Inventory {
    /// Takes in what of `links` bears a mark of ours.
    pub(super) fn read(&self, marks: &Marks, links: &[Link]) {
        for link in links {
            if let Some((port, role)) = marks.read(link) {
                self.add(port, role, link.index);
            }
        }
        self.networks.read(marks, links);
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // The table is whole between any two statements that change it.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn of(&self, port: PortId) -> Devices {
        self.tables().ports.get(&port).copied().unwrap_or_default()
    }

    /// The port whose veth this is.
    pub(super) fn port_of_veth(&self, index: u32) -> Option<PortId> {
        match self.tables().indices.get(&index) {
            Some(&(port, Role::Veth)) => Some(port),
            _ => None,
        }
    }

    pub(super) fn ports(&self) -> Vec<PortId> {
        self.tables().ports.keys().copied().collect()
    }

    pub(super) fn devices(&self) -> BTreeSet<u32> {
        let mut devices = self.networks.devices();
        devices.extend(self.tables().indices.keys());
        devices
    }

    pub(super) fn holds(&self, index: u32) -> bool {
        self.tables().indices.contains_key(&index) || self.networks.holds(index)
    }

    pub(super) fn add(&self, port: PortId, role: Role, index: u32) {
        let mut tables = self.tables();
        if let Some(before) = tables
            .ports
            .entry(port)
            .or_default()
            .get(role)
            .replace(index)
        {
            tables.indices.remove(&before);
        }
        tables.indices.insert(index, (port, role));
    }

    /// The port is as it should be: its loss is to be told from now on.
    pub(super) fn set_live(&self, port: PortId, veth: &Link) {
        if let Some(devices) = self.tables().ports.get_mut(&port) {
            devices.far = Some((veth.peer, veth.peer_netns));
        }
    }

    /// The port's devices are about to go, or gone: nothing of it is to be told.
    pub(super) fn forget(&self, port: PortId) -> Devices {
        let mut tables = self.tables();
        let devices = tables.ports.remove(&port).unwrap_or_default();
        for index in [devices.veth, devices.tap].into_iter().flatten() {
            tables.indices.remove(&index);
            self.networks.leave(index);
            self.entries.forget_port(index);
        }
        devices
    }

    /// A device is gone: whose it was, and whether the port was live.
    pub(super) fn forget_device(&self, index: u32) -> Option<(PortId, Role, bool)> {
        let mut tables = self.tables();
        let (port, role) = tables.indices.remove(&index)?;
        let devices = tables.ports.get_mut(&port)?;
        *devices.get(role) = None;
        let live = devices.far.is_some();
        if role == Role::Veth {
            devices.far = None;
        }
        if devices.veth.is_none() && devices.tap.is_none() {
            tables.ports.remove(&port);
        }
        Some((port, role, live))
    }

    /// The port whose far end `link` shows to be elsewhere than it was wired; said once.
    pub(super) fn moved_away(&self, link: &Link) -> Option<PortId> {
        let mut tables = self.tables();
        let &(port, role) = tables.indices.get(&link.index)?;
        let devices = tables.ports.get_mut(&port)?;
        let moved = role == Role::Veth
            && devices
                .far
                .is_some_and(|far| far != (link.peer, link.peer_netns));
        moved.then(|| {
            devices.far = None;
            port
        })
    }

    /// The port of a device, if its losses are to be told.
    pub(super) fn live(&self, index: u32) -> Option<(PortId, Role)> {
        let tables = self.tables();
        let &(port, role) = tables.indices.get(&index)?;
        tables.ports.get(&port)?.far.map(|_| (port, role))
    }

    /// The port is known to be broken: nothing more of it is to be told until it is wired again.
    pub(super) fn set_broken(&self, port: PortId) {
        if let Some(devices) = self.tables().ports.get_mut(&port) {
            devices.far = None;
        }
    }

    /// Devices that the table has and the kernel has not.
    pub(super) fn missing_from(&self, links: &[Link]) -> Vec<u32> {
        let there: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let ours: BTreeSet<u32> = self.tables().indices.keys().copied().collect();
        ours.difference(&there).copied().collect()
    }
}
