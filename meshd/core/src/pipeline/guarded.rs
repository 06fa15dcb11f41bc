//! What of a walk's end the guards of stretched LANs take away.
//!
//! ```text
//!   uplink --DHCP answers, RAs, mDNS, SSDP--> ports of this node        its own site
//!                                         '-x peers, other uplinks      other sites, unless the uplink allows it
//!   peer ----the same-----------------------x uplinks                   unless that uplink allows it
//!   any port ---------------------------------x blocked ports
//! ```
//!
//! Owns these rules alone. They come last, so they hold for what policy redirected, too. Only networks that have an uplink here
//! pay for them: there rulings look at the protocol, and of UDP at those bits of the source port that tell a server of DHCP.

use super::{Network, Stop, Walk};
use crate::flow::{Fields, FlowMask, IpKind, Origin};
use crate::frame::NdMessage;
use crate::ident::{MacAddr, PortId};
use crate::kind::{Crossing, UplinkSpec, from_dhcp_server};
use crate::neighbor::is_neighborly;
use crate::ruling::{Action, Arm, DropReason, Output};

/// Where Cisco's spanning trees of single VLANs speak: no address that IEEE 802.1D reserves, so bridges flood it.
const PVST: MacAddr = MacAddr([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd]);

impl Network {
    /// The port's wishes as an uplink, if it is one.
    pub(crate) fn uplink(&self, port: PortId) -> Option<&UplinkSpec> {
        self.ports.get(&port)?.uplink.as_ref()
    }

    fn has_uplinks(&self) -> bool {
        self.ports.values().any(|face| face.uplink.is_some())
    }
}

impl Walk<'_> {
    /// A BPDU that bridges would flood, on a network with an uplink.
    pub(super) fn is_bpdu(&self, network: &Network) -> bool {
        self.key.dst_mac == PVST && network.has_uplinks()
    }

    /// Those of the receivers that the guards let it go to.
    pub(super) fn guard(&mut self, mut to: Vec<Output>) -> Result<Vec<Output>, Stop> {
        let Some(network) = self.network else {
            return Ok(to);
        };
        let crossing = self.crossing(network);
        let mut kept_back = None;
        to.retain(|output| match self.keeps_back(network, crossing, *output) {
            Some(reason) => {
                kept_back = Some((*output, reason));
                false
            }
            None => true,
        });
        let Some((output, reason)) = kept_back else {
            return Ok(to);
        };
        // Beyond what the reason says itself.
        let why = match (reason, crossing) {
            (DropReason::StaysAtSite, Some(crossing)) => Some(format!(
                "{} does not cross between an uplink and another site: `meshd attach ... --uplink ... --allow {crossing}` lets it",
                crossing.subject()
            )),
            _ => None,
        };
        self.step("guard", || {
            let why = why.as_deref().unwrap_or(reason.explain());
            format!("not to {}: {why}", super::show(&[output]))
        });
        match to.is_empty() {
            true => Err(Stop::Drop(reason, why)),
            false => Ok(to),
        }
    }

    /// The same for the ways of a group.
    pub(super) fn guard_arms(&mut self, arms: &mut [Arm]) {
        let Some(network) = self.network else { return };
        let crossing = self.crossing(network);
        for arm in arms {
            let Action::Forward(to) = &arm.ruling.action else {
                continue;
            };
            let mut reason = None;
            let kept: Vec<Output> = to
                .iter()
                .filter(|output| {
                    let back = self.keeps_back(network, crossing, **output);
                    reason = back.or(reason);
                    back.is_none()
                })
                .copied()
                .collect();
            if let Some(reason) = reason {
                arm.ruling.action = match kept.is_empty() {
                    true => Action::Drop(reason),
                    false => Action::Forward(kept.into()),
                };
            }
        }
    }

    fn keeps_back(
        &self,
        network: &Network,
        crossing: Option<Crossing>,
        output: Output,
    ) -> Option<DropReason> {
        if let Output::Port(port) = output
            && network.blocked.contains(&port)
        {
            return Some(DropReason::Blocked);
        }
        let crossing = crossing?;
        let lets = |port| {
            network
                .uplink(port)
                .is_none_or(|uplink| uplink.allow.contains(&crossing))
        };
        let stays = match (self.origin, output) {
            (Origin::Port(from), Output::Peer(_)) => !lets(from),
            (Origin::Port(from), Output::Port(to)) => {
                let both = network.uplink(from).is_some() && network.uplink(to).is_some();
                both && !(lets(from) && lets(to))
            }
            (Origin::Peer(_) | Origin::Vxlan(_), Output::Port(to)) => !lets(to),
            (Origin::Peer(_) | Origin::Vxlan(_), Output::Peer(_)) => false,
        };
        stays.then_some(DropReason::StaysAtSite)
    }

    /// What the frame is of that which stays at its site. Notes what was looked at.
    fn crossing(&mut self, network: &Network) -> Option<Crossing> {
        if !network.has_uplinks() {
            return None;
        }
        if let Some(crossing) = Crossing::of_group(self.key.dst_mac) {
            return Some(crossing);
        }
        if is_neighborly(self.key.ip_kind) {
            let message = self.frame.nd().map(|nd| nd.message);
            let routes = [NdMessage::RouterAdvertisement, NdMessage::Redirect];
            return message
                .is_some_and(|message| routes.contains(&message))
                .then_some(Crossing::Ra);
        }
        if !matches!(self.key.ip_kind, IpKind::V4 | IpKind::V6) {
            return None;
        }
        let mut looked = FlowMask {
            fields: Fields::IP_PROTO.with(Fields::L4_OK),
            ..FlowMask::default()
        };
        let mut found = None;
        if self.key.ip_proto == 17 && self.key.l4_ok {
            let (server, bits) = from_dhcp_server(self.key.src_port);
            looked.src_port = bits;
            found = server.then_some(Crossing::Dhcp);
        }
        self.mask = self.mask.union(&looked.with_prerequisites());
        found
    }
}
