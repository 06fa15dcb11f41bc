//! Which FDB entries should be there, so that what others do to them is told from what we do.
//!
//! ```text
//!    change: note -> kernel -> its event meets the note: nothing to tell
//!    somebody else's change -> its event contradicts the notes -> look -> told once, until the table is read again
//! ```
//!
//! Owns the notes. An event may be old, and of our own making; so it is only a reason to look.

use super::fdb::{FdbChange, FdbEntry, FdbTarget};
use meshd_core::ident::MacAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Address, and UDP port if not the device's own.
type Vtep = (IpAddr, Option<u16>);

#[derive(Debug, Default)]
struct Tables {
    /// By bridge and MAC: the port. A bridge has one entry for a MAC.
    ports: BTreeMap<(u32, MacAddr), u32>,
    /// By VXLAN device and MAC: the VTEPs.
    vteps: BTreeMap<(u32, MacAddr), BTreeSet<Vtep>>,
    /// Bridges and VXLAN devices whose trouble is told already.
    told: BTreeSet<u32>,
}

/// The notes; all methods are short.
#[derive(Debug, Default)]
pub(super) struct Entries(Mutex<Tables>);

impl Entries {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // The tables are whole between any two statements that change them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// We are about to do this; `bridge` is that of the entry's device.
    pub(super) fn note(&self, change: &FdbChange, bridge: Option<u32>) {
        self.tables().note(change, bridge);
    }

    /// What was seen in the tables of a bridge and a VXLAN device is what should be there; trouble is told again.
    pub(super) fn replace(
        &self,
        groups: &[u32],
        seen: impl Iterator<Item = (FdbEntry, Option<u32>)>,
    ) {
        let mut tables = self.tables();
        for group in groups {
            tables.forget(*group);
        }
        for (entry, bridge) in seen {
            tables.note(&FdbChange::Set(entry), bridge);
        }
    }

    /// Should the entry be there?
    pub(super) fn expects(&self, entry: &FdbEntry, bridge: Option<u32>) -> bool {
        let tables = self.tables();
        match entry.target {
            FdbTarget::Port => {
                let key = (bridge.unwrap_or(entry.device), entry.mac);
                tables.ports.get(&key) == Some(&entry.device)
            }
            FdbTarget::Vtep { ip, port } => tables
                .vteps
                .get(&(entry.device, entry.mac))
                .is_some_and(|vteps| vteps.contains(&(ip, port))),
        }
    }

    /// A bridge or VXLAN device is gone, or about to go.
    pub(super) fn forget(&self, group: u32) {
        self.tables().forget(group);
    }

    /// A port leaves its bridge, and its entries with it.
    pub(super) fn forget_port(&self, device: u32) {
        self.tables().ports.retain(|_, port| *port != device);
    }

    /// True for the first trouble of a bridge or VXLAN device since its table was read.
    pub(super) fn tell(&self, group: u32) -> bool {
        self.tables().told.insert(group)
    }

    pub(super) fn is_told(&self, group: u32) -> bool {
        self.tables().told.contains(&group)
    }
}

impl Tables {
    fn note(&mut self, change: &FdbChange, bridge: Option<u32>) {
        let entry = change.entry();
        let group = bridge.unwrap_or(entry.device);
        match (change, entry.target) {
            (FdbChange::Set(_), FdbTarget::Port) => {
                self.ports.insert((group, entry.mac), entry.device);
            }
            (FdbChange::Remove(_), FdbTarget::Port) => {
                let key = (group, entry.mac);
                if self.ports.get(&key) == Some(&entry.device) {
                    self.ports.remove(&key);
                }
            }
            (FdbChange::Set(_), FdbTarget::Vtep { ip, port }) => {
                let vteps = self.vteps.entry((entry.device, entry.mac)).or_default();
                if !entry.is_flood() {
                    vteps.clear();
                }
                vteps.insert((ip, port));
            }
            (FdbChange::Remove(_), FdbTarget::Vtep { ip, port }) => {
                let key = (entry.device, entry.mac);
                let left = self.vteps.get_mut(&key).map(|vteps| {
                    vteps.remove(&(ip, port));
                    vteps.len()
                });
                if left == Some(0) {
                    self.vteps.remove(&key);
                }
            }
        }
    }

    fn forget(&mut self, group: u32) {
        self.ports.retain(|(of, _), _| *of != group);
        self.vteps.retain(|(of, _), _| *of != group);
        self.told.remove(&group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_moved_is_expected_at_its_new_place_only() {
        let entries = Entries::default();
        let at = |device| FdbEntry {
            device,
            mac: MacAddr([2; 6]),
            target: FdbTarget::Port,
        };
        entries.note(&FdbChange::Set(at(5)), Some(1));
        entries.note(&FdbChange::Set(at(6)), Some(1));
        // The removal of what it was before changes nothing.
        entries.note(&FdbChange::Remove(at(5)), Some(1));
        assert!(entries.expects(&at(6), Some(1)) && !entries.expects(&at(5), Some(1)));
        entries.forget_port(6);
        assert!(!entries.expects(&at(6), Some(1)));
    }

    #[test]
    fn a_zero_mac_has_many_targets_and_another_one() {
        let entries = Entries::default();
        let to = |mac, last| FdbEntry {
            device: 5,
            mac: MacAddr([mac; 6]),
            target: FdbTarget::Vtep {
                ip: IpAddr::from([192, 0, 2, last]),
                port: None,
            },
        };
        for last in [1, 2] {
            entries.note(&FdbChange::Set(to(0, last)), None);
            entries.note(&FdbChange::Set(to(2, last)), None);
        }
        assert!(entries.expects(&to(0, 1), None) && entries.expects(&to(0, 2), None));
        assert!(!entries.expects(&to(2, 1), None) && entries.expects(&to(2, 2), None));
        assert!(entries.tell(5) && !entries.tell(5));
        entries.replace(&[5], std::iter::once((to(2, 3), None)));
        assert!(!entries.expects(&to(0, 1), None) && entries.expects(&to(2, 3), None));
        assert!(entries.tell(5));
    }
}
