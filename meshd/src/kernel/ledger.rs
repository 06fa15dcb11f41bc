//! The ledger: the core's words for entries of the gates, and the kernel's.
//!
//! ```text
//!   core:    GateFlow { entrance: port or VXLAN, MACs, … , until: Moment }  <->  Gate: Key { device, … }, Entry { until: ns }
//! ```
//!
//! Owns the translation: which device an entrance is, and which clock a moment is of. Knows what the gates counted, and which of
//! their entries nobody meets any more. Decides nothing.

use super::disturbance::Part;
use super::gate::{Entry, Gate, Key, L4, PATHS_MAX, PathCounters, StepError};
use super::inventory::Inventory;
use super::marks::NetworkRole;
use super::tally::Tally;
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Epoch, Moment, PortId};
use meshd_core::node::PathTraffic;
use meshd_core::offload::{Entrance, GateFlow, GateL4, GateMatch, GateOp, KernelTraffic, PathSlot};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

/// An entry that has met no frame over so many looks is idle.
const IDLE_LOOKS: u8 = 15;

/// What the gates counted of an entry, and for how many looks it has not changed.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    packets: u64,
    quiet: u8,
}

/// The gates of this node, as the core speaks of them.
pub struct Ledger {
    gate: Gate,
    inventory: Arc<Inventory>,
    /// What CLOCK_MONOTONIC shows at moment 0.
    zero: u64,
    tally: Tally,
    seen: Mutex<BTreeMap<GateMatch, Seen>>,
    /// What paths had counted when it was told last.
    told: Mutex<BTreeMap<u32, KernelTraffic>>,
    /// Slots in use, and one more.
    slots: std::sync::atomic::AtomicU32,
}

impl Ledger {
    /// `now`: what the daemon's clock shows at this moment.
    pub(super) fn new(gate: Gate, inventory: Arc<Inventory>, now: Moment) -> Self {
        // What an earlier daemon's paths carried is none of ours.
        let before = gate.paths(PATHS_MAX);
        let told = (0..)
            .zip(before.iter().map(passed))
            .filter(|(_, passed)| *passed != KernelTraffic::default());
        let told = told.collect();
        Self {
            told: Mutex::new(told),
            tally: Tally::from_now(&gate),
            gate,
            inventory,
            zero: Gate::now().saturating_sub(now.0),
            seen: Mutex::default(),
            slots: std::sync::atomic::AtomicU32::new(1),
        }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    fn device(&self, entrance: Entrance) -> Option<u32> {
        match entrance {
            Entrance::Port(port) => self.inventory.of(port).veth,
            Entrance::Vxlan(vni) => self.inventory.networks.of(vni, NetworkRole::Vxlan),
        }
    }

    fn key(&self, matches: &GateMatch) -> Option<Key> {
        Some(Key {
            device: self.device(matches.entrance)?,
            src_mac: matches.src_mac,
            dst_mac: matches.dst_mac,
            ether_type: matches.ether_type,
            flow: matches.l4.map(|l4| L4 {
                ip_proto: l4.ip_proto,
                src_ip: l4.src_ip,
                dst_ip: l4.dst_ip,
                src_port: l4.src_port,
                dst_port: l4.dst_port,
            }),
        })
    }

    fn matches(&self, key: &Key) -> Option<GateMatch> {
        let entrance = match self.inventory.networks.part(key.device) {
            Some((vni, Part::Device(NetworkRole::Vxlan))) => Entrance::Vxlan(vni),
            _ => Entrance::Port(self.inventory.port_of_veth(key.device)?),
        };
        Some(GateMatch {
            entrance,
            src_mac: key.src_mac,
            dst_mac: key.dst_mac,
            ether_type: key.ether_type,
            l4: key.flow.map(|l4| GateL4 {
                ip_proto: l4.ip_proto,
                src_ip: l4.src_ip,
                dst_ip: l4.dst_ip,
                src_port: l4.src_port,
                dst_port: l4.dst_port,
            }),
        })
    }

    /// Does what the node wants of the gates; what fails is told in the log, and the frames take the slow path.
    pub fn act(&self, op: GateOp) {
        let done = match op {
            GateOp::Open(flow) => self.open(&flow),
            GateOp::Close(matches) => match self.key(&matches) {
                Some(key) => self.tally.close(&self.gate, &key),
                // The device is gone, and with it all that entered by it.
                None => Ok(()),
            },
            GateOp::Epoch(Epoch(epoch)) => {
                self.gate.set_epoch(epoch);
                Ok(())
            }
            GateOp::Path { slot, open } => {
                self.slots
                    .fetch_max(slot.0 + 1, std::sync::atomic::Ordering::Relaxed);
                self.gate.set_path(slot.0, open)
            }
        };
        if let Err((step, error)) = done {
            tracing::warn!(code = %ErrorCode::GateFailed, error = error.desc(), "{step} the gates");
        }
    }

    fn open(&self, flow: &GateFlow) -> Result<(), StepError> {
        let Some(key) = self.key(&flow.matches) else {
            return Ok(());
        };
        let entry = Entry {
            until: flow
                .until
                .and_then(|until| NonZeroU64::new(self.zero.saturating_add(until.0))),
            to: flow
                .to
                .and_then(|port| self.inventory.of(port).veth)
                .unwrap_or_default(),
            ..Entry::new(flow.epoch.0, flow.slot.0)
        };
        self.gate.open(&key, &entry)
    }

    /// Above all paths that any entry of an earlier run names.
    #[must_use]
    pub fn first_slot(&self) -> u32 {
        let entries = self.gate.entries().unwrap_or_default();
        let slots = entries
            .iter()
            .map(|(_, entry)| entry.path.saturating_add(1));
        slots.max().unwrap_or(1)
    }

    /// The gates' epoch, and all that they hold.
    #[must_use]
    pub fn found(&self) -> (Epoch, Vec<GateMatch>) {
        let entries = self.gate.entries().unwrap_or_default();
        let epoch = Epoch(self.gate.epoch());
        let live = entries.iter().filter(|(_, entry)| entry.epoch >= epoch.0);
        (
            epoch,
            live.filter_map(|(key, _)| self.matches(key)).collect(),
        )
    }

    /// Frames and bytes by entry.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<GateMatch, (u64, u64)> {
        let entries = self.gate.entries().unwrap_or_default();
        entries
            .iter()
            .filter_map(|(key, entry)| Some((self.matches(key)?, (entry.packets, entry.bytes))))
            .collect()
    }

    /// Looks through all entries: those that met no frame for long. Those of devices that are gone are removed.
    pub(super) fn look(&self) -> Vec<GateMatch> {
        let Ok(entries) = self.gate.entries() else {
            return Vec::new();
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut now, mut idle) = (BTreeMap::new(), Vec::new());
        for (key, entry) in entries {
            let Some(matches) = self.matches(&key) else {
                let _ = self.tally.close(&self.gate, &key);
                continue;
            };
            let before = seen.get(&matches).copied().unwrap_or_default();
            let quiet = if before.packets == entry.packets {
                before.quiet.saturating_add(1)
            } else {
                0
            };
            if quiet >= IDLE_LOOKS {
                idle.push(matches);
            }
            now.insert(
                matches,
                Seen {
                    packets: entry.packets,
                    quiet,
                },
            );
        }
        *seen = now;
        self.tally.retain(|device| self.inventory.holds(device));
        idle
    }

    /// What the kernel forwarded by itself from and to each port, since this daemon began.
    #[must_use]
    pub fn by_port(&self) -> BTreeMap<PortId, KernelTraffic> {
        let sums = self.tally.sums(&self.gate).into_iter();
        sums.filter_map(|(device, passed)| Some((self.inventory.port_of_veth(device)?, passed)))
            .collect()
    }

    /// One more than the highest slot of a path.
    fn slots(&self) -> u32 {
        self.slots.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Is there a path that could have been counted on? The first slot is none's.
    pub(super) fn has_paths(&self) -> bool {
        self.slots() > 1
    }

    /// What passed on paths since the last call, where anything did.
    pub(super) fn traffic(&self) -> Vec<PathTraffic> {
        if !self.has_paths() {
            return Vec::new();
        }
        let upto = self.slots();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::new();
        for (slot, now) in (0u32..)
            .zip(self.gate.paths(upto).iter().map(passed))
            .skip(1)
        {
            let before = told.insert(slot, now).unwrap_or_default();
            if now != before {
                changed.push(PathTraffic {
                    slot: PathSlot(slot),
                    passed: now.each(before, u64::saturating_sub),
                });
            }
        }
        changed
    }
}

fn passed(path: &PathCounters) -> KernelTraffic {
    KernelTraffic {
        rx_frames: path.heard_packets,
        rx_bytes: path.heard_bytes,
        tx_frames: path.sent_packets,
        tx_bytes: path.sent_bytes,
    }
}
