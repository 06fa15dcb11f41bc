//! Which devices are ours, by port and by index.
//!
//! Owns the one table that the wiring and the monitor share. It is read from the kernel at the start, and kept by what we
//! do and hear after that. The same for what networks have is beside it: [`Holdings`], [`Entries`], [`Disturbances`].

use super::disturbance::Disturbances;
use super::entries::Entries;
use super::holdings::Holdings;
use super::marks::{Former, Marks, Role};
use super::netlink::Link;
use meshd_core::ident::{IfName, PortId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Uplinks whose interfaces went away that are remembered, at most.
const AWAY_MAX: usize = 64;

/// The devices of a port; `None`: not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) veth: Option<u32>,
    pub(super) tap: Option<u32>,
    /// The lower end of a macvlan's veth.
    pub(super) lower: Option<u32>,
    /// Where the far end is: its index and namespace, once the port is wired. Its loss is told only then.
    pub(super) far: Option<(Option<u32>, Option<i32>)>,
    /// The far end is to be taken away by others: where it is is no concern of ours.
    pub(super) handed: bool,
}

impl Devices {
    fn get(&mut self, role: Role) -> &mut Option<u32> {
        match role {
            Role::Veth => &mut self.veth,
            Role::Tap => &mut self.tap,
            Role::Lower => &mut self.lower,
        }
    }
}

#[derive(Debug, Default)]
struct Tables {
    ports: BTreeMap<PortId, Devices>,
    indices: BTreeMap<u32, (PortId, Role)>,
    /// Interfaces of the host that are uplinks.
    uplinks: BTreeMap<PortId, Uplink>,
    /// How interfaces were before they became uplinks that went away while they were: into another namespace, and from there they
    /// may come back as we left them.
    away: BTreeMap<PortId, Former>,
    /// Places in bridges of others: our TAP, and the bridge.
    adopted: BTreeMap<PortId, (u32, u32)>,
    /// Bridges of others that ports wait for.
    awaited: BTreeMap<PortId, IfName>,
    /// What is over the lower ends of veths, by their index.
    uppers: BTreeMap<u32, Upper>,
}

/// An interface of the host that is an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Uplink {
    index: u32,
    /// Of the uplink's filter.
    priority: u16,
    /// As it was called when it was wired.
    name: Vec<u8>,
}

/// A macvlan or macvtap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upper {
    /// Its index, in its namespace.
    pub(super) index: u32,
    /// What the daemon's namespace calls that one; `None`: it is that one.
    pub(super) number: Option<i32>,
}

/// The table; all methods are short.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    ports: Mutex<Tables>,
    /// Ports whose far ends the monitor is to look at.
    unseen: Mutex<BTreeSet<PortId>>,
    wake: Notify,
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

    /// Is it a device that we made for a port?
    pub(super) fn is_of_port(&self, index: u32) -> bool {
        self.tables().indices.contains_key(&index)
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
    pub(super) fn set_live(&self, port: PortId, veth: &Link, handed: bool) {
        if let Some(devices) = self.tables().ports.get_mut(&port) {
            devices.far = Some((veth.peer, veth.peer_netns));
            devices.handed = handed;
        }
    }

    /// The uplink is as it should be: what happens to its interface is to be told from now on.
    pub(super) fn set_uplink(&self, port: PortId, link: &Link, priority: u16) {
        let mut tables = self.tables();
        let uplink = Uplink {
            index: link.index,
            priority,
            name: link.name.clone(),
        };
        tables.uplinks.insert(port, uplink);
        tables.ports.entry(port).or_default().far = Some((None, None));
    }

    /// The uplinks at an interface, and the priorities of their filters.
    pub(super) fn uplinks_at(&self, index: u32) -> Vec<(PortId, u16)> {
        let tables = self.tables();
        let here = tables.uplinks.iter().filter(|(_, it)| it.index == index);
        here.map(|(&port, it)| (port, it.priority)).collect()
    }

    /// The port's interface is gone; this is how it was before.
    pub(super) fn set_away(&self, port: PortId, former: Former) {
        let mut tables = self.tables();
        if tables.away.len() >= AWAY_MAX {
            tables.away.pop_first();
        }
        tables.away.insert(port, former);
    }

    /// How the port's interface was before it went away, if it did.
    pub(super) fn take_away(&self, port: PortId) -> Option<Former> {
        self.tables().away.remove(&port)
    }

    /// The uplinks at an interface that had another name when they were wired.
    pub(super) fn uplinks_renamed(&self, link: &Link) -> Vec<PortId> {
        let tables = self.tables();
        let all = tables.uplinks.iter();
        all.filter(|(_, it)| it.index == link.index && it.name != link.name)
            .map(|(&port, _)| port)
            .collect()
    }

    /// The port waits for a bridge of this name, until it is in it or gone.
    pub(super) fn set_awaited(&self, port: PortId, name: &IfName) {
        self.tables().awaited.insert(port, name.clone());
    }

    /// It waits no more.
    pub(super) fn forget_awaited(&self, port: PortId) {
        self.tables().awaited.remove(&port);
    }

    /// The ports that wait for a device of this name; said once.
    pub(super) fn take_awaited(&self, name: &[u8]) -> Vec<PortId> {
        let mut tables = self.tables();
        let waiting = tables.awaited.iter();
        let waiting: Vec<PortId> = waiting
            .filter(|(_, wanted)| wanted.as_bytes() == name)
            .map(|(&port, _)| port)
            .collect();
        for port in &waiting {
            tables.awaited.remove(port);
        }
        waiting
    }

    /// Our TAP is in the bridge: its leaving is to be told from now on.
    pub(super) fn set_adopted(&self, port: PortId, tap: u32, bridge: u32) {
        let mut tables = self.tables();
        tables.awaited.remove(&port);
        tables.adopted.insert(port, (tap, bridge));
        tables.ports.entry(port).or_default().far = Some((None, None));
    }

    /// Places in bridges that this device is one side of: port, TAP, bridge.
    pub(super) fn adopted_at(&self, index: u32) -> Vec<(PortId, u32, u32)> {
        let tables = self.tables();
        let here = tables.adopted.iter();
        here.filter(|(_, (tap, bridge))| *tap == index || *bridge == index)
            .map(|(&port, &(tap, bridge))| (port, tap, bridge))
            .collect()
    }

    /// Is the port a place in a bridge?
    pub(super) fn is_adopted(&self, port: PortId) -> bool {
        self.tables().adopted.contains_key(&port)
    }

    /// What is over the lower end of a veth is to be missed from now on.
    pub(super) fn set_upper(&self, lower: u32, upper: Upper) {
        self.tables().uppers.insert(lower, upper);
    }

    /// It is known to be gone.
    pub(super) fn forget_upper(&self, lower: u32) {
        self.tables().uppers.remove(&lower);
    }

    /// What is over a lower end, and whose that is.
    pub(super) fn upper(&self, lower: u32) -> Option<(PortId, Upper)> {
        let tables = self.tables();
        let &(port, Role::Lower) = tables.indices.get(&lower)? else {
            return None;
        };
        Some((port, *tables.uppers.get(&lower)?))
    }

    /// Interfaces that are uplinks.
    pub(super) fn uplinks(&self) -> BTreeSet<u32> {
        self.tables().uplinks.values().map(|it| it.index).collect()
    }

    /// The port's devices are about to go, or gone: nothing of it is to be told.
    pub(super) fn forget(&self, port: PortId) -> Devices {
        let mut tables = self.tables();
        tables.uplinks.remove(&port);
        tables.adopted.remove(&port);
        let devices = tables.ports.remove(&port).unwrap_or_default();
        for index in [devices.veth, devices.tap, devices.lower]
            .into_iter()
            .flatten()
        {
            tables.uppers.remove(&index);
            tables.indices.remove(&index);
            self.networks.leave(index);
            self.entries.forget_port(index);
        }
        devices
    }

    /// A device is gone: whose it was, and whether the port was live.
    pub(super) fn forget_device(&self, index: u32) -> Option<(PortId, Role, bool)> {
        let mut tables = self.tables();
        tables.uppers.remove(&index);
        let (port, role) = tables.indices.remove(&index)?;
        let devices = tables.ports.get_mut(&port)?;
        *devices.get(role) = None;
        let live = devices.far.is_some();
        if role == Role::Veth {
            devices.far = None;
        }
        if (devices.veth, devices.tap, devices.lower) == (None, None, None) {
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
            && !devices.handed
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

    /// The port was told to be wired: how its far end is, is to be told after that. By the monitor, which alone tells it: what
    /// another had read before could come later than its news.
    pub(super) fn have_seen(&self, port: PortId) {
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        unseen.insert(port);
        self.wake.notify_one();
    }

    /// Devices by which the far ends are seen that are to be looked at; waits until there are some.
    pub(super) async fn to_see(&self) -> Vec<u32> {
        loop {
            let woken = self.wake.notified();
            let ports = {
                let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *unseen)
            };
            if !ports.is_empty() {
                let tables = self.tables();
                let devices = |port| {
                    let veth = tables.ports.get(&port).and_then(|devices| devices.veth);
                    let uplink = tables.uplinks.get(&port).map(|it| it.index);
                    let tap = tables.adopted.get(&port).map(|(tap, _)| *tap);
                    [veth, uplink, tap].into_iter().flatten()
                };
                return ports.into_iter().flat_map(devices).collect();
            }
            woken.await;
        }
    }

    /// The port is known to be broken: nothing more of it is to be told until it is wired again.
    pub(super) fn set_broken(&self, port: PortId) {
        let mut tables = self.tables();
        tables.uplinks.remove(&port);
        tables.adopted.remove(&port);
        if let Some(devices) = tables.ports.get_mut(&port) {
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
