//! The tally: what the gates let pass, by the device that it entered and the one that it left by, since this daemon began.
//!
//! ```text
//!   entries of the gates, each with its count  --close-->  kept here
//!            |                                                |
//!            +------------------- sum by device --------------+-->  never less than was said before
//! ```
//!
//! Owns what entries counted that are no more, and what they had counted when this daemon began. Does not know what a port is.

use super::gate::{Entry, Gate, Key, StepError};
use meshd_core::offload::KernelTraffic;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What `entry` counted, by each device that it concerns.
fn passed(key: &Key, entry: &Entry) -> impl Iterator<Item = (u32, KernelTraffic)> + use<> {
    let (frames, bytes) = (entry.packets, entry.bytes);
    let came = KernelTraffic {
        rx_frames: frames,
        rx_bytes: bytes,
        ..KernelTraffic::default()
    };
    let went = KernelTraffic {
        tx_frames: frames,
        tx_bytes: bytes,
        ..KernelTraffic::default()
    };
    let both = [(key.device, came), (entry.to, went)];
    both.into_iter().filter(|(device, _)| *device != 0)
}

#[derive(Debug, Default)]
struct Row {
    /// Of entries that are closed, less what those counted that were found; below 0 it wraps.
    kept: KernelTraffic,
    /// An entry that is written anew may lose what passes in that moment, and one that is being closed is missing for once; the sum
    /// does not go back for it.
    said: KernelTraffic,
}

/// By index of the device.
#[derive(Debug, Default)]
pub(super) struct Tally {
    rows: Mutex<BTreeMap<u32, Row>>,
}

impl Tally {
    /// From here on: what `gate` counted before is not counted again.
    pub(super) fn from_now(gate: &Gate) -> Self {
        let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
        for (key, entry) in gate.entries().unwrap_or_default() {
            for (device, passed) in passed(&key, &entry) {
                let kept = &mut rows.entry(device).or_default().kept;
                *kept = kept.each(passed, u64::wrapping_sub);
            }
        }
        Self {
            rows: Mutex::new(rows),
        }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<u32, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes `key` and keeps what it counted.
    pub(super) fn close(&self, gate: &Gate, key: &Key) -> Result<(), StepError> {
        if let Some(entry) = gate.close(key)? {
            let mut rows = self.rows();
            for (device, passed) in passed(key, &entry) {
                let kept = &mut rows.entry(device).or_default().kept;
                *kept = kept.each(passed, u64::wrapping_add);
            }
        }
        Ok(())
    }

    /// What passed, by device. Reads all entries: milliseconds, if there are many.
    pub(super) fn sums(&self, gate: &Gate) -> BTreeMap<u32, KernelTraffic> {
        // Before the entries: what is closed meanwhile is then missing, and never counted twice.
        let rows = self.rows();
        let mut sums: BTreeMap<u32, KernelTraffic> =
            rows.iter().map(|(&at, row)| (at, row.kept)).collect();
        drop(rows);
        for (key, entry) in gate.entries().unwrap_or_default() {
            for (device, passed) in passed(&key, &entry) {
                let sum = sums.entry(device).or_default();
                *sum = sum.each(passed, u64::wrapping_add);
            }
        }
        let mut rows = self.rows();
        for (device, sum) in &mut sums {
            let row = rows.entry(*device).or_default();
            row.said = row.said.each(*sum, |said, sum| {
                // Below 0 where an entry that was found is missing.
                if sum > u64::MAX / 2 {
                    said
                } else {
                    said.max(sum)
                }
            });
            *sum = row.said;
        }
        sums
    }

    /// Only these devices are there still.
    pub(super) fn retain(&self, is_there: impl Fn(u32) -> bool) {
        self.rows().retain(|&device, _| is_there(device));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernel::tests::on_a_host;
    use meshd_core::ident::MacAddr;

    fn key(device: u32, last: u8) -> Key {
        Key {
            device,
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, last]),
            ether_type: 0x0800,
            flow: None,
        }
    }

    fn open(gate: &Gate, key: &Key, to: u32, packets: u64) {
        let entry = Entry {
            to,
            packets,
            bytes: 100 * packets,
            ..Entry::new(1, 0)
        };
        gate.open(key, &entry).unwrap();
    }

    fn figures(rx: u64, tx: u64) -> KernelTraffic {
        KernelTraffic {
            rx_frames: rx,
            rx_bytes: 100 * rx,
            tx_frames: tx,
            tx_bytes: 100 * tx,
        }
    }

    #[test]
    fn what_closed_entries_counted_stays_in_the_sums_and_what_an_earlier_run_counted_is_not_in_them()
     {
        on_a_host(async || {
            let gate = Gate::make().unwrap();
            open(&gate, &key(5, 2), 6, 1000);
            let tally = Tally::from_now(&gate);
            assert_eq!(tally.sums(&gate).get(&5), Some(&figures(0, 0)));
            open(&gate, &key(5, 3), 6, 7);
            open(&gate, &key(6, 4), 0, 3);
            let wanted = |sums: &BTreeMap<u32, KernelTraffic>| {
                assert_eq!(sums.get(&5), Some(&figures(7, 0)));
                assert_eq!(sums.get(&6), Some(&figures(3, 7)));
            };
            wanted(&tally.sums(&gate));
            for key in [key(5, 2), key(5, 3), key(6, 4), key(6, 5)] {
                tally.close(&gate, &key).unwrap();
                wanted(&tally.sums(&gate));
            }
            assert_eq!(gate.entries().unwrap(), vec![]);
            // As a device that is made anew.
            tally.retain(|device| device == 6);
            assert_eq!(tally.sums(&gate).keys().collect::<Vec<_>>(), [&6]);
        });
    }
}
