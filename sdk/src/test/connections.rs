//! The host's connection table, in a test: the same code, with a clock that the test moves.

use super::packet::Packet;
use crate::verdict::{Act, Say, Verdict};
use crate::wit::types::CtState;
use core::cell::{Cell, RefCell};
use meshd_core::conntrack::{self, Opener, Order, Seen, Subject, TrackLimits, Zone};
use meshd_core::flow::Origin;
use meshd_core::frame::Frame;
use meshd_core::ident::{Epoch, MacAddr, Moment, PortId, Vni};

pub(super) struct Connections {
    zone: Zone,
    seen: RefCell<Seen>,
    now: Cell<Moment>,
    epoch: Cell<u64>,
}

impl Connections {
    /// # Panics
    /// Never: 1 is a VNI.
    pub(super) fn new() -> Self {
        // One table for all that a test sends, whatever network it says.
        let vni = Vni::new(1).unwrap_or_else(|e| panic!("{e}"));
        Self {
            zone: Zone::new(TrackLimits::default(), vni, Epoch(0), 1),
            seen: RefCell::new(Seen::new(2)),
            now: Cell::new(Moment(0)),
            epoch: Cell::new(0),
        }
    }

    pub(super) fn wait_s(&self, seconds: u64) {
        self.now.set(self.now.get().plus_ms(seconds * 1000));
    }

    pub(super) fn decide_anew(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.zone.decide_anew(Epoch(self.epoch.get()));
    }

    pub(super) fn look(&self, packet: &Packet) -> (CtState, u32) {
        let found = self.zone.look(
            &mut self.seen.borrow_mut(),
            &subject(packet),
            self.now.get(),
        );
        (state(found.state), found.mark)
    }

    pub(super) fn order(&self, packet: &Packet, verdict: &Verdict) {
        if matches!(verdict.say, Say::Drop { .. }) {
            return;
        }
        let acts = || verdict.acts.iter().flatten();
        let subject = subject(packet);
        let seen = &mut self.seen.borrow_mut();
        self.zone.pass(seen, &subject, self.now.get());
        let order = Order {
            commit: acts().any(|act| matches!(act, Act::Commit)),
            mark: acts()
                .filter_map(|act| match act {
                    Act::Mark(mark) => Some(*mark),
                    _ => None,
                })
                .next_back(),
            epoch: Epoch(self.epoch.get()),
            why: String::new(),
        };
        if order.commit || order.mark.is_some() {
            let opener = Opener::of(Origin::Port(PortId(packet.port)), MacAddr([0; 6]));
            self.zone
                .order(seen, &subject, opener, &order, self.now.get());
        }
    }
}

fn subject(packet: &Packet) -> Subject {
    match (Frame::parse(&packet.frame), Vni::new(packet.vni)) {
        (Ok(frame), Ok(vni)) => frame.subject(&frame.flow_key(vni)),
        _ => Subject::None,
    }
}

fn state(core: conntrack::CtState) -> CtState {
    use conntrack::CtState as Core;
    if core == Core::UNTRACKED {
        return CtState::UNTRACKED;
    }
    [
        (Core::NEW, CtState::NEW),
        (Core::ESTABLISHED, CtState::ESTABLISHED),
        (Core::RELATED, CtState::RELATED),
        (Core::REPLY, CtState::REPLY),
        (Core::INVALID, CtState::INVALID),
    ]
    .iter()
    .filter(|(of, _)| core.has(*of))
    .fold(CtState::empty(), |all, (_, state)| all | *state)
}
