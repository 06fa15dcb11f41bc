//! What the switch does about who listens to which group: it asks, hears, tells, and lets rulings that are wrong now end.

use super::Switch;
use crate::attach::service_mac;
use crate::flow::Origin;
use crate::frame::Frame;
use crate::ident::{MacAddr, Moment, NodeId, PortId, Vni};
use crate::multicast::control::{Control, Family};
use crate::multicast::{self, GroupRow, Interest, Kind, Multicast, MulticastSpec};
use crate::node::Output as Out;
use crate::outbox::Outbox;
use crate::pipeline::Network;
use crate::ruling;
use crate::switch::PortFace;

fn kind(face: &PortFace) -> Option<Kind> {
    match (face.service, &face.foreign, &face.uplink) {
        (true, ..) => None,
        (_, Some(_), _) => Some(Kind::Foreign),
        (_, _, Some(_)) => Some(Kind::Lan),
        (_, _, None) => Some(Kind::Host),
    }
}

/// Who listens on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// By group.
    pub groups: Vec<GroupRow>,
    /// Ports here that get all.
    pub all: Vec<PortId>,
    /// Messages that were void.
    pub malformed: u64,
}

impl Network {
    /// A port came, or changed.
    pub(super) fn note_listener(&mut self, port: PortId, now: Moment) {
        let kind = self.ports.get(&port).and_then(kind);
        if let (Some(multicast), Some(kind)) = (&mut self.multicast, kind) {
            multicast.add_port(port, kind, now);
        }
    }
}

impl Switch {
    /// Says how multicast is treated on a network; the same again changes nothing.
    pub fn set_multicast(&mut self, vni: Vni, spec: MulticastSpec, now: Moment, out: &mut Outbox) {
        let Some(network) = self.networks.get_mut(&vni) else {
            return;
        };
        let same = match &network.multicast {
            Some(there) => spec.snooping && there.asks_lans() == spec.querier,
            None => !spec.snooping,
        };
        if same {
            return;
        }
        network.multicast = spec.snooping.then(|| Multicast::new(spec.querier));
        let ports: Vec<PortId> = network.ports.keys().copied().collect();
        for port in ports {
            network.note_listener(port, now);
        }
        self.new_epoch(out);
    }

    /// What another node wants of a network's multicast; of networks that are not here, and of nodes that are not on it, nothing
    /// is kept.
    pub fn set_interest(
        &mut self,
        vni: Vni,
        node: NodeId,
        interest: Interest,
        now: Moment,
        out: &mut Outbox,
    ) {
        let Some(network) = self.networks.get_mut(&vni) else {
            return;
        };
        if let Some(multicast) = &mut network.multicast
            && network.members.contains(&node)
        {
            multicast.set_other(node, interest, now);
            self.freshen(vni, now, out);
        }
    }

    /// A session with a node ended, or another began: what it wants is not known until it says so again.
    pub fn forget_interest(&mut self, node: NodeId, out: &mut Outbox) {
        let mut forgot = false;
        for network in self.networks.values_mut() {
            if let Some(multicast) = &mut network.multicast {
                forgot |= multicast.keep_others(|other| other != node);
            }
        }
        if forgot {
            self.new_epoch(out);
        }
    }

    /// All networks are told to whoever is told, soon.
    pub fn tell_interest_again(&mut self) {
        for network in self.networks.values_mut() {
            if let Some(multicast) = &mut network.multicast {
                multicast.tell_again();
            }
        }
    }

    /// What other nodes are to be told, by network.
    pub fn take_interest(&mut self, now: Moment) -> Vec<(Vni, Interest)> {
        let networks = self.networks.iter_mut();
        let told = networks.filter_map(|(&vni, network)| {
            let multicast = network.multicast.as_mut()?;
            Some((vni, multicast.take_interest(now)?))
        });
        told.collect()
    }

    /// When [`Self::take_interest`] has something.
    #[must_use]
    pub fn interest_timeout(&self) -> Option<Moment> {
        let multicasts = self.networks.values().filter_map(|n| n.multicast.as_ref());
        multicasts.map(Multicast::tell_timeout).min()
    }

    /// Who listens on a network; `None` where all multicast floods.
    #[must_use]
    pub fn listening(&self, vni: Vni, now: Moment) -> Option<Listening> {
        let multicast = self.networks.get(&vni)?.multicast.as_ref()?;
        Some(Listening {
            groups: multicast.rows(),
            all: multicast.get_all(now),
            malformed: multicast.malformed(),
        })
    }

    /// Policy let a frame pass that may say who listens.
    pub(super) fn hear(
        &mut self,
        origin: Origin,
        vni: Vni,
        frame: &[u8],
        now: Moment,
        out: &mut Outbox,
    ) {
        let port = self.entrance(origin, vni);
        let (Ok(frame), Some(multicast)) = (Frame::parse(frame), self.multicast_mut(vni)) else {
            return;
        };
        if let Some(ask) = multicast.hear(port, Control::of(&frame), now) {
            for family in [Family::V4, Family::V6] {
                ask_port(vni, ask, family, out);
            }
        }
        self.freshen(vni, now, out);
    }

    /// A ruling rests on who listens to this group.
    pub(super) fn note_ruled_group(&mut self, vni: Vni, group: MacAddr) {
        if let Some(multicast) = self.multicast_mut(vni) {
            multicast.note_ruled(group);
        }
    }

    /// Asks, and forgets whom nobody heard of.
    pub(super) fn age_listeners(&mut self, now: Moment, out: &mut Outbox) {
        let mut stale = false;
        for (&vni, network) in &mut self.networks {
            let Some(multicast) = &mut network.multicast else {
                continue;
            };
            for (port, family) in multicast.handle_timeout(now) {
                ask_port(vni, port, family, out);
            }
            stale |= multicast.take_stale(now);
        }
        if stale {
            self.new_epoch(out);
        }
    }

    fn multicast_mut(&mut self, vni: Vni) -> Option<&mut Multicast> {
        self.networks.get_mut(&vni)?.multicast.as_mut()
    }

    fn freshen(&mut self, vni: Vni, now: Moment, out: &mut Outbox) {
        if self
            .multicast_mut(vni)
            .is_some_and(|multicast| multicast.take_stale(now))
        {
            self.new_epoch(out);
        }
    }
}

fn ask_port(vni: Vni, port: PortId, family: Family, out: &mut Outbox) {
    out.push(Out::Inject {
        vni,
        to: ruling::Output::Port(port),
        frame: multicast::query(family, service_mac(vni)),
    });
}
