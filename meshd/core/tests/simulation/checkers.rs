//! What must hold in every run, whatever the weather: looked at on each delivery, apart from who makes the traffic.

use meshd_core::ident::{NodeId, PortId, Vni};
use std::collections::{BTreeMap, BTreeSet};

/// Number that the traffic writes into each frame.
pub type FrameId = u64;

/// A frame as it was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub host: usize,
    pub vni: Vni,
}

/// The rules, and what they need to remember.
#[derive(Debug, Default)]
pub struct Checkers {
    sent: BTreeMap<FrameId, Sent>,
    delivered: BTreeSet<(FrameId, usize, PortId)>,
    /// Times that a frame crossed from host to host.
    crossings: BTreeMap<FrameId, BTreeSet<(usize, usize)>>,
    /// Copies that came out of ports.
    pub deliveries: u64,
}

impl Checkers {
    pub fn sent(&mut self, id: FrameId, sent: Sent) {
        assert!(
            self.sent.insert(id, sent).is_none(),
            "the traffic gave number {id} twice"
        );
    }

    /// A frame leaves `from` for the peer `to`, whose membership `from` must believe in.
    pub fn crossed(&mut self, id: FrameId, from: usize, to: usize, to_id: NodeId, revoked: bool) {
        assert!(
            !revoked,
            "frame {id} was sent by host {from} to {to_id:?}, which it knows to be revoked"
        );
        let Some(sent) = self.sent.get(&id) else {
            return;
        };
        assert_eq!(
            sent.host, from,
            "frame {id} of host {} was passed on by host {from}: split horizon is broken",
            sent.host
        );
        let first = self.crossings.entry(id).or_default().insert((from, to));
        assert!(first, "frame {id} went from host {from} to host {to} twice");
    }

    /// A frame came out of a port.
    pub fn delivered(&mut self, id: FrameId, host: usize, port: PortId, vni: Vni) {
        let sent = self
            .sent
            .get(&id)
            .expect("a frame came out that nobody sent");
        assert_eq!(
            sent.vni, vni,
            "frame {id} of VNI {} came out on VNI {vni}",
            sent.vni
        );
        assert!(
            self.delivered.insert((id, host, port)),
            "frame {id} came out twice of port {port} of host {host}"
        );
        self.deliveries += 1;
    }

    pub fn was_delivered(&self, id: FrameId, host: usize, port: PortId) -> bool {
        self.delivered.contains(&(id, host, port))
    }

    /// How many ports a frame came out of.
    pub fn copies(&self, id: FrameId) -> usize {
        self.delivered
            .range((id, 0, PortId(0))..=(id, usize::MAX, PortId(u32::MAX)))
            .count()
    }
}
