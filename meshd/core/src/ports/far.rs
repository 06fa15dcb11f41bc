//! What is at the other end of a port: does it carry frames, and how long may they be.
//!
//! Owns what is said of it. A port whose far end is down or narrow stays as it is: what can go on goes on, and people are told.

use super::{Phase, Port, Ports};
use crate::attach::Surroundings;
use crate::ident::PortId;
use crate::kind::PortKind;
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;

/// Why a port that is ready is not well.
pub(super) fn reason(port: &Port) -> Option<&str> {
    let down = match port.record.kind {
        PortKind::Uplink(_) => "but its interface has no carrier, or is down",
        PortKind::Bridge(_) => "but its bridge is down",
        // An engine attaches for its containers, and nobody does so by hand.
        _ if port.record.owner.is_some() => {
            "but its interface is down in the container; `ip link set … up` there, or starting the container anew, mends it"
        }
        _ => "but its interface is down in the container; the same `meshd attach` again mends it",
    };
    port.far_down.then_some(down).or(port.narrow.as_deref())
}

impl Ports {
    /// True if frames flow, but for the interface at the far end, which is down or has no carrier: they are lost there.
    #[must_use]
    pub fn is_down(&self, id: PortId) -> bool {
        let port = self.ports.get(&id);
        port.is_some_and(|port| matches!(port.phase, Phase::Up) && port.far_down)
    }

    /// The container set its end down or up.
    pub fn far_end(&mut self, id: PortId, up: bool, out: &mut Outbox) {
        if let Some(port) = self.ports.get_mut(&id)
            && matches!(port.phase, Phase::Up)
            && std::mem::replace(&mut port.far_down, !up) == up
        {
            out.push(Output::Notice(Notice::PortFarEnd { port: id, up }));
        }
    }

    /// The interface or bridge behind a port takes frames of this length now. One that takes less than the network's is not
    /// attached; of one that came to be so, longer frames are lost without a word of the kernel's.
    pub fn far_mtu(&mut self, id: PortId, mtu: u32, around: &dyn Surroundings, out: &mut Outbox) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        let Some(net) = around.network_by_vni(port.record.vni) else {
            return;
        };
        let wanted = port.record.mtu.unwrap_or(net.mtu).min(net.mtu);
        if !matches!(port.phase, Phase::Up) {
            return;
        }
        let (name, is_narrow) = (&port.record.ifname, mtu < u32::from(wanted));
        let narrow = is_narrow.then(|| {
            format!(
                "but \"{name}\" has an MTU of {mtu} now, and the network of {wanted}: longer frames are lost there; `ip link set {name} mtu {wanted}`, or use a network with a smaller one"
            )
        });
        if narrow == port.narrow {
            return;
        }
        let notice = match &narrow {
            Some(_) => Notice::PortNarrow {
                port: id,
                mtu,
                wanted,
            },
            None => Notice::PortMended {
                port: id,
                what: format!("its MTU is {mtu} again"),
            },
        };
        port.narrow = narrow;
        out.push(Output::Notice(notice));
    }
}
