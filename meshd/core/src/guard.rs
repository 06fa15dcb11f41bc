//! The guard of stretched LANs: which ports would close a loop, and are blocked for it.
//!
//! ```text
//!   uplink p --loop probe, each 300 ms---> its LAN ... --> port q of the same network, on any node: a loop
//!                                                            the newer of both is blocked, for as long as it hears the other
//!   new uplink: listens first, blocked --nothing heard--> open
//!   BPDUs: two uplinks here that hear of one root bridge are on one LAN      \
//!   MACs that jump to and fro between two ports, several at the same time    / also where nobody floods probes
//! ```
//!
//! Owns the probes that are sent, what was heard of others', and the blocks. Refuses to touch frames: the switch is told of
//! blocks by [`Guard::take_changes`] and drops what a blocked port would send or get. Probes pass a blocked port both ways, so
//! that the end of a loop is seen as well.

mod flaps;

use crate::command::PortRecord;
use crate::directory::Directory;
use crate::fdb::Place;
use crate::ident::{MacAddr, MeshId, Moment, NodeId, Now, PortId, Vni};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::ruling;
use crate::wire::loop_probe::LoopProbe;
use crate::wire::record::Keyring;
use bytes::Bytes;
use flaps::Flaps;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An uplink's probes are so far apart, in ms.
pub const PROBE_MS: u64 = 300;
/// A new uplink listens so long before it opens, in ms: three probes of any other come within it.
pub const LISTEN_MS: u64 = 1000;
/// A block ends when its cause was not seen for so long, in ms.
pub const QUIET_MS: u64 = 10_000;
/// The same for a block whose cause cannot be seen while it lasts.
pub const FLAP_QUIET_MS: u64 = 30_000;
/// For so long a newer port may go on though it should have blocked itself, in ms: it may not hear us.
const OBSTINATE_MS: u64 = 3000;
/// A probe is signed anew after so long, in ms …
const SIGN_MS: u64 = 5000;
/// … and does not count if it was signed so long ago, or so far ahead, in ms: clocks differ.
const STALE_MS: u64 = 60_000;
/// What is counted as new of an attach, in ms.
const FRESH_MS: u64 = 10_000;
/// Signatures that are checked for a port in a second: forged probes cost no more.
const CHECKS_PER_S: u32 = 20;
/// Uplinks of others that a port remembers to have heard.
const HEARD_MAX: usize = 16;
/// A root bridge that was not heard of for so long is none, in ms (IEEE 802.1D-2004 §17.14: max age 20 s).
const ROOT_MS: u64 = 20_000;

/// A port is blocked, or is not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardChange {
    /// Its network.
    pub vni: Vni,
    /// The port.
    pub port: PortId,
    /// From now on.
    pub blocked: bool,
}

/// Why a port is blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    why: String,
    until: Moment,
    /// Nothing was found: it listens before it opens.
    listens: bool,
}

#[derive(Debug)]
struct Heard {
    /// As it was checked last: the same again is not checked again.
    frame: Bytes,
    /// Since when it says that it is open, without a gap.
    open: Option<Moment>,
    last: Moment,
}

#[derive(Debug)]
struct Watch {
    vni: Vni,
    since: u64,
    uplink: bool,
    next_probe: Moment,
    /// As sent last, and when it was signed by both clocks.
    probe: Option<(Bytes, Now, bool)>,
    block: Option<Block>,
    heard: BTreeMap<(NodeId, PortId), Heard>,
    checks: (Moment, u32),
    /// Root bridge of the LAN's spanning tree.
    root: Option<([u8; 8], Moment)>,
}

impl Watch {
    fn is_blocked(&self) -> bool {
        self.block.as_ref().is_some_and(|block| !block.listens)
    }
}

/// See the module.
pub struct Guard {
    me: NodeId,
    mesh: MeshId,
    keyring: Arc<dyn Keyring>,
    ports: BTreeMap<PortId, Watch>,
    flaps: Flaps,
    changes: Vec<GuardChange>,
}

impl Guard {
    /// No ports yet.
    #[must_use]
    pub fn new(mesh: MeshId, keyring: Arc<dyn Keyring>) -> Self {
        Self {
            me: keyring.node(),
            mesh,
            keyring,
            ports: BTreeMap::new(),
            flaps: Flaps::default(),
            changes: Vec::new(),
        }
    }

    /// Frames flow through a port from now on; said again it changes nothing.
    pub fn add_port(&mut self, record: &PortRecord, now: Now) {
        if self.ports.contains_key(&record.id) {
            return;
        }
        let uplink = record.kind.uplink().is_some();
        let fresh = now.wall.0.saturating_sub(record.since) < FRESH_MS;
        let block = (uplink && fresh).then(|| Block {
            why: "listens whether it would close a loop; opens in a moment".to_owned(),
            until: now.moment.plus_ms(LISTEN_MS),
            listens: true,
        });
        if block.is_some() {
            self.changes.push(GuardChange {
                vni: record.vni,
                port: record.id,
                blocked: true,
            });
        }
        let watch = Watch {
            vni: record.vni,
            since: record.since,
            uplink,
            next_probe: now.moment,
            probe: None,
            block,
            heard: BTreeMap::new(),
            checks: (now.moment, 0),
            root: None,
        };
        self.ports.insert(record.id, watch);
    }

    /// No frames flow through it any more.
    pub fn remove_port(&mut self, port: PortId) {
        if let Some(watch) = self.ports.remove(&port)
            && watch.block.is_some()
        {
            self.changes.push(GuardChange {
                vni: watch.vni,
                port,
                blocked: false,
            });
        }
    }

    /// Why a port is blocked, and whether that is only until it has listened; `None`: it is open.
    #[must_use]
    pub fn blocked(&self, port: PortId) -> Option<(&str, bool)> {
        let block = self.ports.get(&port)?.block.as_ref()?;
        Some((block.why.as_str(), block.listens))
    }

    /// All ports that are blocked since they would close a loop, and why.
    pub fn blocks(&self) -> impl Iterator<Item = (PortId, &str)> {
        self.ports.iter().filter_map(|(&port, watch)| {
            let block = watch.block.as_ref().filter(|block| !block.listens)?;
            Some((port, block.why.as_str()))
        })
    }

    /// The root bridge of the spanning tree behind a port, as its BPDUs say: priority and MAC.
    #[must_use]
    pub fn root(&self, port: PortId) -> Option<String> {
        let ([a, b, mac @ ..], _) = self.ports.get(&port)?.root?;
        let priority = u16::from_be_bytes([a, b]);
        Some(format!("{priority} {}", MacAddr(mac)))
    }

    /// True if [`Self::take_changes`] has nothing.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.changes.is_empty()
    }

    /// What the switch has to know since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<GuardChange> {
        std::mem::take(&mut self.changes)
    }

    /// When [`Self::handle_timeout`] has something to do, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        let probes = self
            .ports
            .values()
            .filter(|watch| watch.uplink)
            .map(|watch| (watch.next_probe, "guard: look for loops"));
        let blocks = self.ports.values().filter_map(|watch| {
            let block = watch.block.as_ref()?;
            Some((block.until, "guard: a block may end"))
        });
        probes.chain(blocks).min()
    }

    /// Sends probes, and opens ports whose loop is no more.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        for (&port, watch) in &mut self.ports {
            if let Some(block) = watch.block.take_if(|block| block.until <= now.moment) {
                self.changes.push(GuardChange {
                    vni: watch.vni,
                    port,
                    blocked: false,
                });
                watch.root = None;
                // While this one was blocked, the others had nothing to hear: their time begins now.
                for heard in watch.heard.values_mut() {
                    heard.open = None;
                }
                if !block.listens {
                    out.push(Output::Notice(Notice::PortUnblocked { port }));
                }
            }
            if !watch.uplink || watch.next_probe > now.moment {
                continue;
            }
            watch.next_probe = now.moment.plus_ms(PROBE_MS);
            let blocked = watch.is_blocked();
            let signed = watch.probe.as_ref().filter(|(_, at, said)| {
                *said == blocked && now.moment.ms_since(at.moment) < SIGN_MS
            });
            let frame = match signed {
                Some((frame, ..)) => frame.clone(),
                None => {
                    let probe = LoopProbe {
                        mesh: self.mesh,
                        node: self.me,
                        vni: watch.vni,
                        port,
                        since: watch.since,
                        at: now.wall.0,
                        blocked,
                    };
                    let frame = probe.encode(&*self.keyring);
                    watch.probe = Some((frame.clone(), now, blocked));
                    frame
                }
            };
            out.push(Output::Inject {
                vni: watch.vni,
                to: ruling::Output::Port(port),
                frame,
            });
        }
    }

    /// A loop probe came in by a port. What is not signed by a member, not of this mesh, or old, counts for nothing.
    pub fn probe(
        &mut self,
        port: PortId,
        frame: &Bytes,
        directory: &Directory,
        now: Now,
        out: &mut Outbox,
    ) {
        let Some(probe) = LoopProbe::decode(frame).filter(|probe| probe.mesh == self.mesh) else {
            return;
        };
        let me = self.me;
        let ours = probe.node == me;
        let known = match ours {
            true => self.ports.contains_key(&probe.port),
            false => directory.member(probe.node).is_some() && !directory.is_revoked(probe.node),
        };
        let Some(watch) = self.ports.get_mut(&port) else {
            return;
        };
        if !known || probe.vni != watch.vni || now.wall.0.abs_diff(probe.at) > STALE_MS {
            return;
        }
        let key = (probe.node, probe.port);
        let same = watch
            .heard
            .get(&key)
            .is_some_and(|heard| heard.frame == *frame);
        if !same {
            if now.moment.ms_since(watch.checks.0) >= 1000 {
                watch.checks = (now.moment, 0);
            }
            watch.checks.1 += 1;
            // Some are kept for those that were heard before, so that forged ones do not take their place.
            let most = match watch.heard.contains_key(&key) {
                true => CHECKS_PER_S + HEARD_MAX as u32,
                false => CHECKS_PER_S,
            };
            if watch.checks.1 > most || !probe.is_signed(frame, &*self.keyring) {
                return;
            }
        }
        if watch.heard.len() >= HEARD_MAX && !watch.heard.contains_key(&key) {
            watch.heard.pop_first();
        }
        let heard = watch.heard.entry(key).or_insert_with(|| Heard {
            frame: frame.clone(),
            open: None,
            last: now.moment,
        });
        heard.frame = frame.clone();
        // Whoever was not heard for a while may have blocked himself and opened since.
        let before = heard
            .open
            .filter(|_| now.moment.ms_since(heard.last) < 4 * PROBE_MS);
        heard.open = (!probe.blocked).then(|| before.unwrap_or(now.moment));
        heard.last = now.moment;
        let Some(open) = heard.open else {
            // Through a port that is blocked no frame goes round.
            return;
        };
        let reflected = ours && probe.port == port;
        let newer = (watch.since, me, port) > (probe.since, probe.node, probe.port);
        let obstinate = now.moment.ms_since(open) >= OBSTINATE_MS && !watch.is_blocked();
        if !reflected && !newer && watch.uplink && !obstinate {
            return;
        }
        let other = if ours {
            format!("port {}", probe.port)
        } else {
            let name = directory.member(probe.node).map(|m| &m.name);
            let node = crate::command::show_member(name, probe.node);
            format!("port {} of node {node}", probe.port)
        };
        let why = if reflected {
            "its own probes come back: the LAN behind it has a loop, or sends frames back where they came from; remove that, and it opens by itself".to_owned()
        } else {
            let whose = match newer {
                true => "which is older",
                false => "which is newer but does not hear this node's probes",
            };
            format!(
                "it would close a loop: the LAN behind it is also behind {other}, {whose}; it opens by itself once it is not"
            )
        };
        self.block(port, why, QUIET_MS, now.moment, out);
    }

    /// A BPDU (IEEE 802.1D §9) came in by a port.
    pub fn bpdu(&mut self, port: PortId, frame: &[u8], now: Moment, out: &mut Outbox) {
        let Some(root) = root_of(frame) else {
            return;
        };
        let Some(watch) = self.ports.get_mut(&port).filter(|watch| watch.uplink) else {
            return;
        };
        watch.root = Some((root, now));
        let (vni, since) = (watch.vni, watch.since);
        let same = |(&other, there): (&PortId, &Watch)| {
            let alive = there
                .root
                .is_some_and(|(of, at)| of == root && now.ms_since(at) < ROOT_MS);
            (other != port && there.vni == vni && alive && !there.is_blocked())
                .then_some((there.since, other))
        };
        let Some((other_since, other)) = self.ports.iter().filter_map(same).min() else {
            return;
        };
        let (newer, older) = match (since, port) > (other_since, other) {
            true => (port, other),
            false => (other, port),
        };
        let why = format!(
            "it would close a loop: the spanning tree behind it has the same root bridge as the one behind port {older}, which is older; it opens by itself once it has not"
        );
        self.block(newer, why, ROOT_MS, now, out);
    }

    /// A MAC came to a port from elsewhere, or tried to, less than a second after its last move.
    pub fn moved(
        &mut self,
        vni: Vni,
        mac: MacAddr,
        from: Place,
        to: PortId,
        now: Moment,
        out: &mut Outbox,
    ) {
        let is_uplink = |port: PortId| self.ports.get(&port).is_some_and(|watch| watch.uplink);
        let from_uplink = match from {
            Place::Port(port) => is_uplink(port),
            Place::Service(_) | Place::Node(_) => false,
        };
        if !is_uplink(to) && !from_uplink {
            return;
        }
        let found = self.flaps.note(vni, mac, now);
        if found.tell {
            out.push(Output::Notice(Notice::MacFlaps { vni, mac, port: to }));
        }
        if found.macs < flaps::MACS {
            return;
        }
        let since = |port: PortId| self.ports.get(&port).map(|watch| (watch.since, port));
        let newer = match from {
            // A port without a LAN has no loop behind it: the MACs come back by the one that has.
            Place::Port(port) if is_uplink(port) != is_uplink(to) => {
                Some(if is_uplink(to) { to } else { port })
            }
            Place::Port(port) => since(port).max(since(to)).map(|(_, port)| port),
            // The other node sees the same, and does not block its own.
            Place::Node(node) => (self.me > node).then_some(to),
            Place::Service(_) => None,
        };
        if let Some(port) = newer {
            let why = format!(
                "{} MACs jump to and fro between it and elsewhere, as in a loop; it is tried again in {} s",
                found.macs,
                FLAP_QUIET_MS / 1000
            );
            self.flaps.forget(vni);
            self.block(port, why, FLAP_QUIET_MS, now, out);
        }
    }

    fn block(&mut self, port: PortId, why: String, quiet_ms: u64, now: Moment, out: &mut Outbox) {
        let Some(watch) = self.ports.get_mut(&port) else {
            return;
        };
        let until = now.plus_ms(quiet_ms);
        match &mut watch.block {
            Some(block) if !block.listens => {
                block.until = block.until.max(until);
            }
            other => {
                if other.is_none() {
                    self.changes.push(GuardChange {
                        vni: watch.vni,
                        port,
                        blocked: true,
                    });
                }
                *other = Some(Block {
                    why: why.clone(),
                    until,
                    listens: false,
                });
                // The others hear of it at once.
                watch.next_probe = now;
                out.push(Output::Notice(Notice::PortBlocked { port, reason: why }));
            }
        }
    }
}

/// The root bridge that a configuration or rapid BPDU names (IEEE 802.1D-2004 §9.3): LLC 42 42 03, protocol 0, version, type,
/// flags, root.
fn root_of(frame: &[u8]) -> Option<[u8; 8]> {
    let rest = frame.get(14..)?;
    let (&[0x42, 0x42, 0x03, 0, 0, _version, kind, _flags], rest) =
        rest.split_first_chunk::<8>()?
    else {
        return None;
    };
    matches!(kind, 0x00 | 0x02)
        .then(|| rest.first_chunk().copied())
        .flatten()
}

#[cfg(test)]
mod tests;
