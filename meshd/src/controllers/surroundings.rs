//! The node as controllers see it: what is on their network, and how a change of theirs becomes everybody's.
//!
//! ```text
//!   node --look--> Snapshot --against the one before--> events     controller --invalidate--> node: old answers of it are void
//! ```
//!
//! Owns the snapshot and what of two of them is an event. Whoever implements [`Surroundings`] may block: it is called on
//! controllers' own threads.

use super::fetch::Fetch;
use meshd_core::ident::{AttachmentId, Label, MacAddr, NodeId, PortId, Vni};
use meshd_core::node::{PacketOut, SendError};
use meshd_core::wire::record::SharedValue;
use meshd_plugin_host::contract::events::{Event, MacMove};
use meshd_plugin_host::contract::http::{HttpError, Response};
use meshd_plugin_host::contract::topology::{Endpoint, PeerInfo, PortInfo};
use meshd_plugin_host::contract::types::{Ip, LinkStats, Mac};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A figure of a path counts as changed if it did by more than this, in parts of a hundred.
const NEWS_PERCENT: u64 = 20;

/// What controllers need of the node.
pub(crate) trait Surroundings: Send + Sync {
    /// The network as this node sees it; `None`: not now, the daemon starts or stops.
    fn look(&self, vni: Vni) -> Option<Snapshot>;

    /// What the attachment answered on the network is not so any more, or only what bears the tag; returns when no frame
    /// obeys it.
    ///
    /// # Errors
    /// In words why not.
    fn invalidate(&self, vni: Vni, of: AttachmentId, tag: Option<u32>) -> Result<(), String>;

    /// What members of the network share of the plugin, this node among them; `None`: nothing has changed since that revision, or
    /// not now.
    fn shared(&self, vni: Vni, plugin: &Label, since: Option<u64>) -> Option<Heard>;

    /// This node shares these, in the place of what it shared before; returns when they are on the disk.
    ///
    /// # Errors
    /// In words why not.
    fn share(&self, vni: Vni, plugin: &Label, list: Vec<SharedValue>) -> Result<(), String>;

    /// Sends a frame of a plugin's own.
    ///
    /// # Errors
    /// It is none that may be sent, or there is nobody to send it to.
    fn send(&self, packet: PacketOut) -> Result<(), SendError>;

    /// Asks a host, and hands the answer over when it comes. Does not wait for it.
    fn fetch(&self, fetch: Fetch, done: Done);
}

/// What members of a network share of one plugin.
pub(crate) struct Heard {
    /// This node.
    pub(crate) me: NodeId,
    /// Of all that is shared on this node.
    pub(crate) revision: u64,
    /// By member.
    pub(crate) shares: Vec<(NodeId, Vec<SharedValue>)>,
}

/// Takes the answer to a request.
pub(crate) type Done = Box<dyn FnOnce(Result<Response, HttpError>) + Send>;

/// No node: for tests of what needs none.
#[cfg(test)]
pub(crate) struct Nowhere;

#[cfg(test)]
impl Surroundings for Nowhere {
    fn look(&self, _vni: Vni) -> Option<Snapshot> {
        None
    }

    fn invalidate(&self, _vni: Vni, _of: AttachmentId, _tag: Option<u32>) -> Result<(), String> {
        Ok(())
    }

    fn shared(&self, _vni: Vni, _plugin: &Label, _since: Option<u64>) -> Option<Heard> {
        None
    }

    fn share(&self, _vni: Vni, _plugin: &Label, _list: Vec<SharedValue>) -> Result<(), String> {
        Ok(())
    }

    fn send(&self, _packet: PacketOut) -> Result<(), SendError> {
        Err(SendError::Stopping)
    }

    fn fetch(&self, _fetch: Fetch, done: Done) {
        done(Err(HttpError::Failed("there is no network".to_owned())));
    }
}

/// A port of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenPort {
    pub(crate) name: String,
    pub(crate) mac: MacAddr,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) up: bool,
    pub(crate) labels: Vec<(String, String)>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenPeer {
    pub(crate) name: String,
    pub(crate) up: bool,
}

/// A station of the network, wherever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenStation {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) name: String,
    /// `None`: here.
    pub(crate) at: Option<NodeId>,
}

/// A way to a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeenPath {
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) rtt_us: u32,
    pub(crate) jitter_us: u32,
    pub(crate) loss_ppm: u32,
    pub(crate) avail_kbps: u32,
    pub(crate) used_kbps: u32,
    pub(crate) mtu: u16,
    pub(crate) cost: u32,
}

/// One network at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) ports: BTreeMap<PortId, SeenPort>,
    pub(crate) peers: BTreeMap<u64, SeenPeer>,
    /// By member and number of the way.
    pub(crate) paths: BTreeMap<(u64, u32), SeenPath>,
    pub(crate) stations: BTreeMap<MacAddr, SeenStation>,
    /// On which port of this node a station is; those that are not listed are elsewhere.
    pub(crate) learned: BTreeMap<MacAddr, PortId>,
}

pub(super) fn mac(mac: MacAddr) -> Mac {
    let MacAddr([a, b, c, d, e, f]) = mac;
    Mac {
        hi: u16::from_be_bytes([a, b]),
        lo: u32::from_be_bytes([c, d, e, f]),
    }
}

/// IPv4 as `::ffff:a.b.c.d`.
pub(super) fn ip(ip: IpAddr) -> Ip {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    // The halves of 128 bits have 64 each.
    Ip {
        hi: (bits >> 64) as u64,
        lo: bits as u64,
    }
}

impl Snapshot {
    pub(super) fn port(&self, id: PortId) -> Option<PortInfo> {
        self.ports.get(&id).map(|port| PortInfo {
            id: id.0,
            name: port.name.clone(),
            mac: mac(port.mac),
            ips: port.ips.iter().copied().map(ip).collect(),
            up: port.up,
            labels: port.labels.clone(),
        })
    }

    pub(super) fn peer(&self, id: u64) -> Option<PeerInfo> {
        self.peers.get(&id).map(|peer| PeerInfo {
            id,
            name: peer.name.clone(),
            up: peer.up,
        })
    }

    pub(super) fn links(&self, peer: u64) -> Vec<LinkStats> {
        let links = self.paths.range((peer, 0)..=(peer, u32::MAX));
        links.map(|(&at, path)| link(at, path)).collect()
    }

    pub(super) fn endpoints(&self, after: Option<MacAddr>, limit: usize) -> Vec<Endpoint> {
        self.stations
            .iter()
            .filter(|(mac, _)| after.is_none_or(|after| **mac > after))
            .take(limit)
            .map(|(&address, station)| Endpoint {
                mac: mac(address),
                ips: station.ips.iter().copied().map(ip).collect(),
                name: station.name.clone(),
                at: station.at.map(|node| node.handle()),
            })
            .collect()
    }

    /// What happened since `before`, in the order in which it is told.
    pub(super) fn news(&self, before: &Self) -> Vec<Event> {
        let mut out = Vec::new();
        for (&id, port) in &self.ports {
            let Some(info) = self.port(id) else { continue };
            match before.ports.get(&id) {
                None => out.push(Event::PortAdded(info)),
                Some(old) if old != port => out.push(Event::PortChanged(info)),
                Some(_) => {}
            }
        }
        for (&id, peer) in &self.peers {
            let Some(info) = self.peer(id) else { continue };
            match (before.peers.get(&id), peer.up) {
                (Some(old), _) if old == peer => {}
                (Some(old), true) if old.up => out.push(Event::PeerChanged(info)),
                (_, true) => out.push(Event::PeerUp(info)),
                (Some(old), false) if old.up => out.push(Event::PeerDown(id)),
                (_, false) => {}
            }
        }
        let gone = |id: &&PortId| !self.ports.contains_key(id);
        let gone = before.ports.keys().filter(gone);
        out.extend(gone.map(|id| Event::PortRemoved(id.0)));
        let left = before.peers.iter();
        let left = left.filter(|(id, peer)| peer.up && !self.peers.contains_key(id));
        out.extend(left.map(|(&id, _)| Event::PeerDown(id)));
        self.moves(before, &mut out);
        let links: Vec<LinkStats> = self
            .paths
            .iter()
            .filter(|(at, path)| before.paths.get(at).is_none_or(|old| path.differs(old)))
            .map(|(&at, path)| link(at, path))
            .collect();
        if !links.is_empty() {
            out.push(Event::LinkMetrics(links));
        }
        out
    }

    /// A station that was not known before is none that moved.
    fn moves(&self, before: &Self, out: &mut Vec<Event>) {
        for (&address, &old) in &before.learned {
            let new = self.learned.get(&address).copied();
            if new != Some(old) && self.stations.contains_key(&address) {
                out.push(moved(address, Some(old), new));
            }
        }
        for (&address, &new) in &self.learned {
            let elsewhere = before
                .stations
                .get(&address)
                .is_some_and(|was| was.at.is_some());
            if elsewhere && !before.learned.contains_key(&address) {
                out.push(moved(address, None, Some(new)));
            }
        }
    }
}

fn moved(address: MacAddr, old: Option<PortId>, new: Option<PortId>) -> Event {
    Event::Moved(MacMove {
        mac: mac(address),
        old_port: old.map(|port| port.0),
        new_port: new.map(|port| port.0),
    })
}

fn link((peer, path): (u64, u32), seen: &SeenPath) -> LinkStats {
    LinkStats {
        peer,
        path,
        name: seen.name.clone(),
        up: seen.up,
        rtt_us: seen.rtt_us,
        jitter_us: seen.jitter_us,
        loss_ppm: seen.loss_ppm,
        avail_kbps: seen.avail_kbps,
        used_kbps: seen.used_kbps,
        mtu: seen.mtu,
        cost: seen.cost,
    }
}

impl SeenPath {
    /// As this, with the figures of `told` where they are near enough: small steps must not add up unseen.
    fn differs(&self, told: &Self) -> bool {
        let far = |now: u32, was: u32| {
            let step = u64::from(now.abs_diff(was)) * 100;
            step > u64::from(was.max(1)) * NEWS_PERCENT
        };
        self.up != told.up
            || self.mtu != told.mtu
            || far(self.rtt_us, told.rtt_us)
            || far(self.loss_ppm, told.loss_ppm)
    }

    /// What the next one is compared with: what was told, as long as nothing else was.
    pub(super) fn settle(self, told: Option<&Self>) -> Self {
        match told {
            Some(told) if !self.differs(told) => told.clone(),
            _ => self,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn port(up: bool) -> SeenPort {
        SeenPort {
            name: "web".to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ips: Vec::new(),
            up,
            labels: Vec::new(),
        }
    }

    fn station(at: Option<NodeId>) -> SeenStation {
        SeenStation {
            ips: Vec::new(),
            name: String::new(),
            at,
        }
    }

    #[test]
    fn what_is_there_at_the_start_is_news_and_each_change_after_it_once() {
        let mut first = Snapshot::default();
        first.ports.insert(PortId(1), port(true));
        let peer = |up| SeenPeer {
            name: "berlin".to_owned(),
            up,
        };
        first.peers.insert(7, peer(true));
        first.peers.insert(8, peer(false));
        let start = first.news(&Snapshot::default());
        assert!(
            matches!(&start[..], [Event::PortAdded(_), Event::PeerUp(up)] if up.id == 7),
            "{start:?}"
        );
        assert!(first.news(&first).is_empty());
        let mut second = first.clone();
        second.ports.insert(PortId(1), port(false));
        second.peers.insert(7, peer(false));
        second.peers.insert(8, peer(true));
        let news = second.news(&first);
        assert!(
            matches!(&news[..], [Event::PortChanged(p), Event::PeerDown(7), Event::PeerUp(_)] if !p.up),
            "{news:?}"
        );
        let last = Snapshot::default().news(&second);
        assert!(
            matches!(&last[..], [Event::PortRemoved(1), Event::PeerDown(8)]),
            "{last:?}"
        );
    }

    #[test]
    fn a_station_that_changes_its_place_moved_and_one_that_is_new_did_not() {
        let here = |port: Option<u32>| {
            let mut out = Snapshot::default();
            let mac = MacAddr([2, 0, 0, 0, 0, 9]);
            let at = port.is_none().then_some(NodeId([1; 32]));
            out.stations.insert(mac, station(at));
            out.learned.extend(port.map(|port| (mac, PortId(port))));
            out
        };
        let moved = |before: &Snapshot, after: &Snapshot| match &after.news(before)[..] {
            [] => None,
            [Event::Moved(moved)] => Some((moved.old_port, moved.new_port)),
            other => panic!("{other:?}"),
        };
        assert_eq!(moved(&Snapshot::default(), &here(Some(1))), None);
        assert_eq!(
            moved(&here(Some(1)), &here(Some(2))),
            Some((Some(1), Some(2)))
        );
        assert_eq!(moved(&here(Some(1)), &here(None)), Some((Some(1), None)));
        assert_eq!(moved(&here(None), &here(Some(2))), Some((None, Some(2))));
        assert_eq!(
            moved(&here(Some(1)), &Snapshot::default()),
            None,
            "it is gone"
        );
    }

    #[test]
    fn figures_of_a_path_are_news_when_they_changed_by_a_fifth_and_small_steps_add_up() {
        let path = |rtt_us| SeenPath {
            up: true,
            rtt_us,
            ..SeenPath::default()
        };
        let mut told = path(1000);
        let mut news = 0;
        for rtt in [1050, 1100, 1150, 1199, 1201, 1250] {
            let next = path(rtt).settle(Some(&told));
            news += u32::from(next != told);
            told = next;
        }
        assert_eq!((news, told.rtt_us), (1, 1201));
    }
}
