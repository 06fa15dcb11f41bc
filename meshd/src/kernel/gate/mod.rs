//! The gate: which frames stay in the kernel, and which go up to the daemon.
//!
//! ```text
//!    mv<port> --clsact--> program: in `meshd_flows`, and it counts? -- yes -> bridge
//!                             |                                 \--- no --> mt<port> -> the daemon
//!    daemon --open, close--> meshd_flows   key -> epoch, until, path | packets, bytes
//!           --set_path-----> meshd_paths   slot -> open | sent, heard         (memory shared with the kernel)
//!           --set_epoch----> meshd_epoch   one number                         (the same)
//! ```
//!
//! An entry counts while its epoch is not below the gate's, its time has not come, and its path is open. So one store closes
//! all of them, or all to one peer, whatever their number, and a frame that is looked up later finds it closed.
//!
//! Owns the maps and the programs. Refuses to decide what is opened, and to remember it: entries are the kernel's, outlive the
//! daemon with the devices that the programs stand at, and are found again through them.

mod asm;
mod entry;
mod filter;
mod outer;
mod program;
mod spread;
mod sys;
#[cfg(test)]
mod tests;

pub use super::tap::StepError;
pub use entry::{Entry, Key, L4};
pub(super) use filter::{all_at, attach_at, attached_at, detach_at, hook, unhook};
pub use filter::{attach, attached};

use super::netns::Netlink;
use entry::{ENTRY_LEN, KEY_LEN};
use meshd_core::code::ErrorCode;
use meshd_core::ident::Vni;
use nix::errno::Errno;
use program::{Plan, Side};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use sys::{Map, MapSpec, Shared};

/// Entries that a gate holds, at most.
pub const ENTRIES_MAX: u32 = 65_536;
/// Slots for paths; slot 0 is none.
pub const PATHS_MAX: u32 = 16_384;
/// Bytes of a frame that a listener hears at most: all of the longest superframe.
const HEARD_MAX: i32 = 262_144;
/// Words of a path's value: open, packets sent, bytes sent, packets heard, bytes heard.
const PATH_WORDS: usize = 5;

const FLOWS: MapSpec = MapSpec {
    // BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC.
    kind: 1,
    key_len: 56,
    value_len: 48,
    capacity: ENTRIES_MAX,
    flags: 1,
    name: *b"meshd_flows\0\0\0\0\0",
};
const PATHS: MapSpec = MapSpec {
    // BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE.
    kind: 2,
    key_len: 4,
    value_len: 40,
    capacity: PATHS_MAX,
    flags: 1 << 10,
    name: *b"meshd_paths\0\0\0\0\0",
};
const EPOCH: MapSpec = MapSpec {
    value_len: 8,
    capacity: 1,
    name: *b"meshd_epoch\0\0\0\0\0",
    ..PATHS
};

/// What went by a path, and if it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounters {
    /// Entries that name this path count.
    pub open: bool,
    /// Packets that a port's gate let pass towards it; a superframe counts as its segments.
    pub sent_packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub sent_bytes: u64,
    /// Packets that a VXLAN device's gate let pass, open or not.
    pub heard_packets: u64,
    /// Their bytes.
    pub heard_bytes: u64,
}

/// The gate of this node. Its programs stand at many devices; all of them read the same maps.
#[derive(Debug)]
pub struct Gate {
    flows: Map,
    paths: Map,
    epoch: Map,
    path_words: Shared,
    epoch_words: Shared,
}

impl Gate {
    /// A new gate, in which nothing is open, at epoch 0.
    ///
    /// # Errors
    /// EPERM without CAP_BPF. ENOSYS without CONFIG_BPF_SYSCALL.
    pub fn make() -> Result<Self, StepError> {
        let map = |spec| Map::create(spec).map_err(|error| ("make a map (bpf) of", error));
        Self::over(map(FLOWS)?, map(PATHS)?, map(EPOCH)?)
    }

    fn over(flows: Map, paths: Map, epoch: Map) -> Result<Self, StepError> {
        let share = |map| Shared::of(map).map_err(|error| ("map the memory (bpf) of", error));
        Ok(Self {
            path_words: share(&paths)?,
            epoch_words: share(&epoch)?,
            flows,
            paths,
            epoch,
        })
    }

    /// The gate that the program with this number of the kernel's belongs to: one that an earlier daemon made, with all that
    /// is open in it. `None`: the program is of another kind, or of a version with other maps.
    ///
    /// # Errors
    /// ENOENT: there is no such program any more. EPERM without CAP_SYS_ADMIN.
    pub fn adopt(program: u32) -> Result<Option<Self>, StepError> {
        let mut maps =
            Map::of_program(program).map_err(|error| ("read the program (bpf) of", error))?;
        let mut take = |spec: MapSpec| {
            let at = maps.iter().position(|map| *map.spec() == spec)?;
            Some(maps.swap_remove(at))
        };
        match (take(FLOWS), take(PATHS), take(EPOCH)) {
            (Some(flows), Some(paths), Some(epoch)) => Self::over(flows, paths, epoch).map(Some),
            _ => Ok(None),
        }
    }

    /// The gate of the first of `devices` that has one; the caller has checked that they are this node's.
    ///
    /// # Errors
    /// As [`Self::adopt`], and if the kernel cannot be asked.
    pub async fn find(
        netlink: &Netlink,
        devices: impl IntoIterator<Item = u32>,
    ) -> Result<Option<Self>, StepError> {
        for device in devices {
            if let Some(program) = attached(netlink, device).await?
                && let Some(gate) = Self::adopt(program)?
            {
                return Ok(Some(gate));
            }
        }
        Ok(None)
    }

    /// The program for a port: what is not open leaves by the device `miss`, the port's TAP. `mtu` in bytes, of the network.
    ///
    /// # Errors
    /// EPERM without CAP_BPF and CAP_NET_ADMIN. What the verifier says is logged.
    pub fn port_program(&self, miss: u32, mtu: u16) -> Result<OwnedFd, StepError> {
        self.program(Side::Port, miss, mtu, *b"meshd_port\0\0\0\0\0\0")
    }

    /// The program for a VXLAN device: what is not open, and each probe of ours, leaves by the device `up`.
    ///
    /// # Errors
    /// As [`Self::port_program`].
    pub fn vxlan_program(&self, up: u32, mtu: u16) -> Result<OwnedFd, StepError> {
        self.program(Side::Vxlan, up, mtu, *b"meshd_vxlan\0\0\0\0\0")
    }

    /// The filter of a socket that listens at a port's device: it hears what the gate there lets in, and what the kernel lets
    /// out; nothing of what comes from the device `miss` or goes there.
    ///
    /// # Errors
    /// As [`Self::port_program`].
    pub(super) fn port_listener(&self, miss: u32, mtu: u16) -> Result<OwnedFd, StepError> {
        self.listener(Side::Port, miss, mtu)
    }

    /// The same at a VXLAN device.
    ///
    /// # Errors
    /// As [`Self::port_program`].
    pub(super) fn vxlan_listener(&self, up: u32, mtu: u16) -> Result<OwnedFd, StepError> {
        self.listener(Side::Vxlan, up, mtu)
    }

    fn listener(&self, side: Side, miss: u32, mtu: u16) -> Result<OwnedFd, StepError> {
        loaded_listener(program::listen(self.plan(side, miss, mtu), HEARD_MAX))
    }

    fn plan(&self, side: Side, miss: u32, mtu: u16) -> Plan {
        Plan {
            side,
            miss,
            mtu,
            flows: self.flows.fd(),
            paths: self.paths.fd(),
            epoch: self.epoch.fd(),
        }
    }

    fn program(
        &self,
        side: Side,
        miss: u32,
        mtu: u16,
        name: [u8; 16],
    ) -> Result<OwnedFd, StepError> {
        const STEP: &str = "load the gate's program (bpf) for";
        let program = program::gate(self.plan(side, miss, mtu)).map_err(|error| (STEP, error))?;
        load(&program, name).map_err(|error| (STEP, error))
    }

    /// The clock that [`Entry::until`] is compared with: CLOCK_MONOTONIC, nanoseconds.
    #[must_use]
    pub fn now() -> u64 {
        sys::monotonic()
    }

    /// Opens `key`, or gives it a new right to be open. Then it goes on counting from where it was: `made` and the counters of
    /// `entry` are for a key that was not there. A frame that passes in that very moment may not be counted.
    ///
    /// # Errors
    /// E2BIG: the gate is full.
    pub fn open(&self, key: &Key, entry: &Entry) -> Result<(), StepError> {
        let bytes = key.to_bytes();
        let mut entry = *entry;
        if let Some(before) = self.entry(key)? {
            entry.packets = before.packets;
            entry.bytes = before.bytes;
            entry.made = before.made;
        } else if entry.made == 0 {
            entry.made = Self::now();
        }
        self.flows
            .update(&bytes, &entry.to_bytes())
            .map_err(|error| ("open an entry of", error))
    }

    /// Opens many at once: several times as fast as one by one. For keys that are not there yet: one that is loses what it
    /// counted. Each is whole at any time; other than by an epoch or a path, all of them are not opened in one instant.
    ///
    /// # Errors
    /// E2BIG: the gate is full. The first ones are open then, and the answer says how many.
    pub fn open_all(&self, entries: &[(Key, Entry)]) -> Result<(), (usize, StepError)> {
        const STEP: &str = "open entries of";
        let now = Self::now();
        let (mut keys, mut values) = (
            Vec::with_capacity(entries.len() * KEY_LEN),
            Vec::with_capacity(entries.len() * ENTRY_LEN),
        );
        for (key, entry) in entries {
            let mut entry = *entry;
            if entry.made == 0 {
                entry.made = now;
            }
            keys.extend_from_slice(&key.to_bytes());
            values.extend_from_slice(&entry.to_bytes());
        }
        let count = u32::try_from(entries.len()).map_err(|_| (0, (STEP, Errno::E2BIG)))?;
        if count == 0 {
            return Ok(());
        }
        self.flows
            .update_all(&keys, &values, count)
            .map_err(|(done, error)| (usize::try_from(done).unwrap_or_default(), (STEP, error)))
    }

    /// Closes `key`; answers what it was, with its last counts. `None`: it was not there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn close(&self, key: &Key) -> Result<Option<Entry>, StepError> {
        let mut value = [0; ENTRY_LEN];
        let found = self.flows.take(&key.to_bytes(), &mut value);
        let found = found.map_err(|error| ("close an entry of", error))?;
        Ok(found.then(|| Entry::from_bytes(&value)).flatten())
    }

    /// What there is of `key`, whether it counts or not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entry(&self, key: &Key) -> Result<Option<Entry>, StepError> {
        let mut value = [0; ENTRY_LEN];
        let found = self.flows.lookup(&key.to_bytes(), &mut value);
        let found = found.map_err(|error| ("read an entry of", error))?;
        Ok(found.then(|| Entry::from_bytes(&value)).flatten())
    }

    /// All that is there, in no order, whether it counts or not. What comes or goes meanwhile may be among it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entries(&self) -> Result<Vec<(Key, Entry)>, StepError> {
        let mut all = Vec::new();
        let shown = self.flows.each(|key, value| {
            all.extend(Key::from_bytes(key).zip(Entry::from_bytes(value)));
        });
        shown.map_err(|error| ("read the entries of", error))?;
        Ok(all)
    }

    /// From now on only entries of this epoch or a later one count.
    pub fn set_epoch(&self, epoch: u64) {
        if let Some(word) = self.epoch_words.words().first() {
            word.store(epoch, Ordering::SeqCst);
        }
    }

    /// Which epoch an entry must have at least.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        let word = self.epoch_words.words().first();
        word.map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn path_words(&self, slot: u32) -> Option<&[AtomicU64; PATH_WORDS]> {
        let at = usize::try_from(slot).ok()?.checked_mul(PATH_WORDS)?;
        self.path_words.words().get(at..)?.first_chunk()
    }

    /// Opens or closes all entries of a path in one store; its counters stay.
    ///
    /// # Errors
    /// EINVAL: there is no such slot.
    pub fn set_path(&self, slot: u32, open: bool) -> Result<(), StepError> {
        let [word, ..] = self
            .path_words(slot)
            .filter(|_| slot != 0)
            .ok_or(("set a path of", Errno::EINVAL))?;
        word.store(u64::from(open), Ordering::SeqCst);
        Ok(())
    }

    /// Closes a path and starts its counters anew, before its slot is another's. Entries that name it must be gone.
    ///
    /// # Errors
    /// EINVAL: there is no such slot.
    pub fn clear_path(&self, slot: u32) -> Result<(), StepError> {
        self.set_path(slot, false)?;
        for word in self.path_words(slot).into_iter().flatten() {
            word.store(0, Ordering::SeqCst);
        }
        Ok(())
    }

    /// How a path is; `None`: there is no such slot.
    #[must_use]
    pub fn path(&self, slot: u32) -> Option<PathCounters> {
        self.path_words(slot).map(counters)
    }

    /// All paths from slot 0 up to and without `upto`; slot 0 is never open and counts nothing.
    #[must_use]
    pub fn paths(&self, upto: u32) -> Vec<PathCounters> {
        let count = usize::try_from(upto).unwrap_or(usize::MAX);
        let (slots, _) = self.path_words.words().as_chunks();
        slots.iter().take(count).map(counters).collect()
    }
}

fn counters(
    [open, sent_packets, sent_bytes, heard_packets, heard_bytes]: &[AtomicU64; PATH_WORDS],
) -> PathCounters {
    PathCounters {
        open: open.load(Ordering::SeqCst) != 0,
        sent_packets: sent_packets.load(Ordering::Relaxed),
        sent_bytes: sent_bytes.load(Ordering::Relaxed),
        heard_packets: heard_packets.load(Ordering::Relaxed),
        heard_bytes: heard_bytes.load(Ordering::Relaxed),
    }
}

fn load(program: &[asm::Instruction], name: [u8; 16]) -> Result<OwnedFd, Errno> {
    load_as(sys::Kind::Classifier, program, name)
}

fn load_as(
    kind: sys::Kind,
    program: &[asm::Instruction],
    name: [u8; 16],
) -> Result<OwnedFd, Errno> {
    sys::load(kind, program, name).map_err(|error| {
        if !error.log.is_empty() {
            // Its end has the reason.
            tracing::error!(code = %ErrorCode::GateFailed, errno = %error.errno, log = error.log, "the kernel's verifier refused a program");
        }
        error.errno
    })
}

fn loaded_listener(program: Result<Vec<asm::Instruction>, Errno>) -> Result<OwnedFd, StepError> {
    program
        .and_then(|program| {
            let name = *b"meshd_listen\0\0\0\0";
            load_as(sys::Kind::SocketFilter, &program, name)
        })
        .map_err(|error| ("load the filter (bpf) to listen at", error))
}

/// The filter of a socket that listens on the underlay: VXLAN to this UDP port, of this network or of all.
///
/// # Errors
/// As [`Gate::port_program`].
pub(super) fn underlay_listener(port: u16, vni: Option<Vni>) -> Result<OwnedFd, StepError> {
    loaded_listener(outer::listen(port, vni, HEARD_MAX))
}

/// The program that picks the queue of a TAP for what is sent to it: see `spread.rs`.
///
/// # Errors
/// EPERM without CAP_BPF.
pub(super) fn spreader() -> Result<OwnedFd, StepError> {
    spread::by_flow()
        .and_then(|program| {
            let name = *b"meshd_spread\0\0\0\0";
            load_as(sys::Kind::SocketFilter, &program, name)
        })
        .map_err(|error| {
            (
                "load the program (bpf) that spreads flows over the queues of",
                error,
            )
        })
}

/// All frames that enter `from` leave `to`: the patch between a device and a TAP.
///
/// # Errors
/// The step that the kernel refused.
pub(super) async fn redirect(netlink: &Netlink, from: u32, to: u32) -> Result<(), StepError> {
    let program = program::redirect(to)
        .and_then(|program| load(&program, *b"meshd_patch\0\0\0\0\0"))
        .map_err(|error| ("load the redirect program (bpf) for", error))?;
    attach(netlink, from, &program, "").await
}

/// What the filter of an uplink is called, before the mark of its port.
pub(super) const UPLINK: &str = "meshduplink ";

/// Where the filter of an uplink is at its interface: those of VLANs come before the one that takes the rest.
pub(super) fn uplink_priority(vlan: Option<u16>) -> u16 {
    vlan.map_or(5000, |vlan| 100 + vlan)
}

/// The patch between an interface of the host and the TAP of an uplink, both ways; of a VLAN's uplink the tag is taken off on
/// the way in and put on again on the way out. The interface has the clsact qdisc, and its filter bears the mark of the port.
///
/// # Errors
/// The step that the kernel refused.
pub(super) async fn patch_uplink(
    netlink: &Netlink,
    interface: u32,
    tap: u32,
    vlan: Option<u16>,
    mark: &str,
) -> Result<(), StepError> {
    let loaded = |program: Result<Vec<asm::Instruction>, Errno>| {
        program
            .and_then(|program| load(&program, *b"meshd_uplink\0\0\0\0"))
            .map_err(|error| ("load the program (bpf) for", error))
    };
    let (enter, leave) = match vlan {
        None => (program::redirect(tap), program::redirect(interface)),
        Some(vlan) => (program::untag(tap, vlan), program::tag(interface, vlan)),
    };
    attach(netlink, tap, &loaded(leave)?, "").await?;
    let priority = uplink_priority(vlan);
    let name = format!("uplink {mark}");
    attach_at(netlink, interface, priority, &loaded(enter)?, &name).await
}
