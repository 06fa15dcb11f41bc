//! For whom a multicast frame is, as far as that is known.
//!
//! Owns what is looked at for it, so that one ruling holds for one group: its MAC, of IPv6 the scope, and the upper-layer protocol,
//! since what says who listens must be seen each time.

use super::{Network, Stop, Walk};
use crate::flow::{Fields, FlowMask, IpKind};
use crate::frame::Frame;
use crate::ident::{Moment, NodeId, PortId};
use crate::multicast::control::{Control, floods_v4, floods_v6, is_read};
use crate::multicast::{Aim, Multicast};
use crate::node::DstClass;
use crate::ruling::{DropReason, Output};

/// Who is meant by a flood.
pub(super) enum Listeners<'a> {
    /// All.
    All,
    /// Those who listen.
    Some(&'a Multicast, Aim),
}

impl Listeners<'_> {
    pub(super) fn has_port(&self, port: PortId, now: Moment) -> bool {
        match self {
            Self::All => true,
            Self::Some(multicast, aim) => multicast.wants(port, *aim, now),
        }
    }

    pub(super) fn has_node(&self, node: NodeId) -> bool {
        match self {
            Self::All => true,
            Self::Some(multicast, aim) => multicast.node_wants(node, *aim),
        }
    }

    pub(super) fn are_told_apart(&self) -> bool {
        matches!(self, Self::Some(..))
    }
}

fn is_report(frame: &Frame<'_>) -> bool {
    matches!(Control::of(frame), Ok(Some(Control::Report(_))))
}

impl Walk<'_> {
    /// For whom the frame is. Notes what was looked at.
    pub(super) fn listeners<'n>(&mut self, network: &'n Network, class: DstClass) -> Listeners<'n> {
        let Some(multicast) = &network.multicast else {
            return Listeners::All;
        };
        let dst = self.key.dst_mac;
        let v4 = match self.key.ip_kind {
            IpKind::V4 if dst.0.starts_with(&[0x01, 0x00, 0x5e]) => true,
            IpKind::V6 if dst.0.starts_with(&[0x33, 0x33]) => false,
            _ => return Listeners::All,
        };
        if class != DstClass::Multicast {
            return Listeners::All;
        }
        let looked = FlowMask {
            fields: Fields::IP_PROTO,
            dst_ip: if v4 { 0 } else { 16 },
            ..FlowMask::default()
        };
        self.mask = self.mask.union(&looked.with_prerequisites());
        let aim = match is_read(v4, self.key.ip_proto) {
            true => {
                self.cacheable = false;
                self.heard = true;
                is_report(&self.frame).then_some(Aim::Report)
            }
            false => None,
        };
        let floods = match v4 {
            true => floods_v4(dst),
            false => floods_v6(self.key.dst_ip),
        };
        let aim = match aim {
            Some(aim) => aim,
            None if floods => return Listeners::All,
            None => {
                self.group = Some(dst);
                Aim::Group(dst)
            }
        };
        if let Some(until) = multicast.holds_until(self.now) {
            self.hold(until);
        }
        self.step("listeners", || match aim {
            Aim::Report => "it says who listens: for routers only".to_owned(),
            Aim::Group(_) => {
                format!("for who listens to {dst}, or gets all: see `meshd network groups`")
            }
        });
        Listeners::Some(multicast, aim)
    }

    /// A frame that nobody is there for.
    pub(super) fn nobody_listens(&mut self) -> Result<Vec<Output>, Stop> {
        match self.group {
            Some(group) => Err(Stop::Drop(
                DropReason::NoReceiver,
                Some(format!("nobody else listens to {group}")),
            )),
            // It was heard, and that was its purpose.
            None => Err(Stop::Consume(None)),
        }
    }
}
