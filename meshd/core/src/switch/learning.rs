//! Where MACs were seen last: rows of the FDB, moves of a MAC from one port to another, and what is to be told of both.

use super::{MOVES_MAX, Switch};
use crate::fdb::{How, Place, Source, SourceRefused};
use crate::flow::{FlowKey, Origin};
use crate::frame::Frame;
use crate::ident::{MacAddr, Moment, NodeId, PortId, Vni};
use crate::outbox::Outbox;
use crate::pipeline::{Learn, Walk};
use std::net::IpAddr;

/// One line of an FDB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbRow {
    /// The MAC.
    pub mac: MacAddr,
    /// Where it is.
    pub place: Place,
    /// How that is known.
    pub how: How,
    /// Its addresses, as far as known.
    pub ips: Vec<IpAddr>,
}

impl Switch {
    /// The MACs of a network, what is here first; none if there is no such network.
    pub fn macs(&self, vni: Vni) -> impl Iterator<Item = (MacAddr, Place, How)> + '_ {
        let network = self.networks.get(&vni).into_iter();
        network.flat_map(|network| network.fdb.rows())
    }

    /// The FDB of a network, as [`Self::macs`] with addresses. Takes as long as there are MACs and addresses.
    #[must_use]
    pub fn fdb(&self, vni: Vni) -> Vec<FdbRow> {
        let Some(network) = self.networks.get(&vni) else {
            return Vec::new();
        };
        let mut ips = network.neighbors.ips();
        let rows = network.fdb.rows().map(|(mac, place, how)| FdbRow {
            mac,
            place,
            how,
            ips: ips.remove(&(mac, place)).unwrap_or_default(),
        });
        rows.collect()
    }

    /// Where a MAC of a network is, by the FDB.
    #[must_use]
    pub fn place(&self, vni: Vni, mac: MacAddr) -> Option<Place> {
        self.networks.get(&vni)?.fdb.lookup(mac)
    }

    /// The networks whose learned MACs changed since the last call.
    pub fn take_learned(&mut self) -> Vec<Vni> {
        self.learned = false;
        let mut changed = Vec::new();
        for (&vni, network) in &self.networks {
            let now = network.fdb.changes();
            if self.taken.insert(vni, now).unwrap_or(0) != now {
                changed.push(vni);
            }
        }
        changed
    }

    /// Moves of MACs since the last call, those among them that were refused: from where, to which port.
    pub fn take_moves(&mut self) -> Vec<(Vni, MacAddr, Place, PortId)> {
        std::mem::take(&mut self.moves)
    }

    /// As policy says. No ruling rests on how long a MAC lives, and none is kept on ARP and ND, so the epoch stays.
    pub(super) fn remember(&mut self, origin: Origin, key: &FlowKey, learn: Learn, now: Moment) {
        let Some(port) = self.entrance(origin, key.vni) else {
            return;
        };
        if let Some(network) = self.networks.get_mut(&key.vni) {
            network.fdb.keep_for(key.src_mac, port, learn.ms);
            if let Some(ip) = learn.ip {
                let due = now.plus_ms(learn.ms);
                network.neighbors.learn(ip, key.src_mac, port, due);
            }
        }
    }

    pub(super) fn learn(
        &mut self,
        origin: Origin,
        port: PortId,
        vni: Vni,
        frame: &Frame<'_>,
        now: Moment,
        out: &mut Outbox,
    ) {
        let Some(network) = self.networks.get_mut(&vni) else {
            return;
        };
        let source = match Walk::admit(network, origin, frame, now) {
            Ok((_, Some(source))) => source,
            // It moves faster than it may.
            Err(SourceRefused { until: Some(_), .. }) => {
                let from = network.fdb.lookup(frame.src());
                return self.note_move(vni, frame.src(), from, port);
            }
            _ => return,
        };
        if source == Source::Own || frame.is_malformed() || frame.dst().is_link_local_control() {
            return;
        }
        let before = network.fdb.changes();
        network.fdb.learn(frame.src(), port, now);
        self.learned |= network.fdb.changes() != before;
        let from = match source {
            Source::Moved { from } => Some(Place::Port(from)),
            Source::Roamed { from } => Some(Place::Node(from)),
            _ => None,
        };
        let changed = match source {
            Source::Moved { .. } | Source::Roamed { .. } => true,
            Source::New => self.was_unknown(vni, frame.src(), None),
            Source::Known | Source::Own => false,
        };
        if changed {
            self.new_epoch(out);
        }
        self.note_move(vni, frame.src(), from, port);
    }

    pub(super) fn note_move(&mut self, vni: Vni, mac: MacAddr, from: Option<Place>, to: PortId) {
        if let Some(from) = from.filter(|_| self.moves.len() < MOVES_MAX) {
            self.moves.push((vni, mac, from, to));
        }
    }

    /// Was a ruling made on the absence of `mac`, that its presence on `owner` (`None`: here) makes wrong?
    pub(super) fn was_unknown(&self, vni: Vni, mac: MacAddr, owner: Option<NodeId>) -> bool {
        let noted = self.unknown.get(&(vni, mac));
        self.unknown_overflow || noted.is_some_and(|user| user.is_none() || *user != owner)
    }
}
