//! The steering of the switch: by which way to a peer the frames of a ruling go, and what that means for the kernel's gates.
//!
//! A ruling on frames for one peer carries a choice (`steering/choice.rs`). Where a plugin chooses, it is one choice for each
//! DSCP, so the ruling rests on the DSCP, too. The gates do not look at it: they hold such flows one by one, as they were when
//! they began, and only if kernel VXLAN is their best way.

use super::Switch;
use crate::edit::Edit;
use crate::flow::{Fields, FlowKey, FlowMask};
use crate::ident::{Moment, NodeId, QueryId, Vni};
use crate::offload::Obstacle;
use crate::outbox::Outbox;
use crate::pipeline::{Decision, UNKNOWN_MS};
use crate::policy::PathLost;
use crate::ruling::{Action, Arm, DropReason, Output};
use crate::steering::{
    Choice, KernelWay, SteerAnswer, SteerKey, Steering, WayFace, WayId, WaySample,
};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Switch {
    /// Ways to peers, and the choices between them.
    #[must_use]
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// Says between which ways to which peers there is a choice.
    pub fn set_ways(&mut self, all: BTreeMap<NodeId, Vec<WayFace>>, out: &mut Outbox) {
        if self.steering.set_ways(all, out) {
            self.new_epoch(out);
        }
        self.forget_dead(out);
    }

    /// Where a way died that policy named, and wants to be asked about then, it is asked with the next frame.
    fn forget_dead(&mut self, out: &mut Outbox) {
        let dead = self.steering.take_dead();
        for (node, way) in &dead {
            self.policy.forget_path(node.handle(), way.number());
        }
        if !dead.is_empty() {
            self.new_epoch(out);
        }
    }

    /// The steering plugin of a network came, changed or went (0).
    pub fn set_steering(&mut self, vni: Vni, revision: u32, out: &mut Outbox) {
        if self.steering.set_plugin(vni, revision) {
            self.new_epoch(out);
        }
    }

    /// Takes a round of samples, and how the kernels' ways are.
    pub fn measure(
        &mut self,
        samples: &[WaySample],
        kernel: &BTreeMap<(NodeId, Vni), KernelWay>,
        now: Moment,
        out: &mut Outbox,
    ) {
        self.steering.set_kernel(kernel);
        self.steering.measure(samples, now);
        self.forget_dead(out);
    }

    /// Asks the steering plugins what is to be asked.
    pub fn ask_steering(&mut self, now: Moment, out: &mut Outbox) {
        self.steering.ask(now, out);
    }

    /// A steering plugin answered; `None`: it failed.
    pub fn steered(&mut self, query: QueryId, answer: Option<SteerAnswer>, out: &mut Outbox) {
        // The gates are to hold flows that they did not, or to let go of some.
        if self.steering.answer(query, answer) {
            self.new_epoch(out);
        }
    }

    /// The choice for a ruling that is being made.
    pub(super) fn steer(
        &mut self,
        key: &FlowKey,
        decision: &mut Decision,
        now: Moment,
    ) -> Option<Arc<Choice>> {
        let steered = steer_key(key, &decision.action, decision.edits.as_deref())?;
        let Some(path) = decision.path else {
            return self.steering.choose(steered);
        };
        let strict = path.lost == PathLost::Drop;
        let way = WayId::new(path.way);
        if let Some(way) = way
            && let Some(choice) = self.steering.exactly(steered.node, way, strict)
        {
            if path.lost == PathLost::AskAgain {
                self.steering.note_named(steered.node, way);
            }
            return Some(choice);
        }
        if way == Some(WayId::MAIN) && !self.steering.has_choice(steered.node) {
            // The session is the only way there is.
            return None;
        }
        // There is no such way; it may come.
        let until = now.plus_ms(UNKNOWN_MS);
        decision.until = Some(decision.until.map_or(until, |earlier| earlier.min(until)));
        if strict {
            decision.action = Action::Drop(DropReason::PathLost);
            decision.why = Some(format!("there is no way {} to the peer", path.way));
            return None;
        }
        self.steering.choose(steered)
    }

    /// The choices for the arms of a group, each of which leads elsewhere.
    pub(super) fn steer_arms(&mut self, key: &FlowKey, decision: &mut Decision) {
        let Some(arms) = &decision.select else {
            return;
        };
        let steered = arms.iter().cloned().map(|mut arm| {
            arm.ruling.ways = arm_key(key, &arm).and_then(|key| self.steering.choose(key));
            arm
        });
        decision.select = Some(steered.collect());
    }

    /// The same, without change.
    pub(super) fn ways_of(&self, key: &FlowKey, decision: &Decision) -> Option<Arc<Choice>> {
        let steered = steer_key(key, &decision.action, decision.edits.as_deref())?;
        self.steering.look(steered)
    }

    pub(super) fn rests_on_dscp(&self, key: &FlowKey, decision: &Decision) -> bool {
        let to_peer = || steer_key(key, &decision.action, decision.edits.as_deref()).is_some();
        let mut arms = decision.select.iter().flat_map(|arms| arms.iter());
        decision.path.is_none()
            && self.steering.is_steered(key.vni)
            && (to_peer() || arms.any(|arm| arm_key(key, arm).is_some()))
    }

    /// The mask of a ruling: that of the decision, and the DSCP where that chooses the way.
    pub(super) fn mask(&self, decision: &Decision, key: &FlowKey) -> Option<FlowMask> {
        let mut mask = decision.mask?;
        if self.rests_on_dscp(key, decision) {
            mask.fields = mask.fields.with(Fields::DSCP);
        }
        Some(mask.with_prerequisites())
    }

    /// The mask as the gates are to see it: flows of which the DSCP chooses the way are held one by one.
    pub(super) fn gate_mask(
        &self,
        decision: &Decision,
        key: &FlowKey,
    ) -> Result<Option<FlowMask>, Obstacle> {
        let prefers_kernel = |ways: Arc<Choice>| ways.prefers_kernel();
        if !self.ways_of(key, decision).is_none_or(prefers_kernel) {
            return Err(Obstacle::Steered);
        }
        let mut mask = decision.mask;
        if let Some(mask) = mask.as_mut().filter(|_| self.rests_on_dscp(key, decision)) {
            let whole = FlowMask {
                fields: mask.fields.with(Fields::IP_PROTO),
                src_ip: 128,
                dst_ip: 128,
                src_port: u16::MAX,
                dst_port: u16::MAX,
                ..*mask
            };
            *mask = whole.with_prerequisites();
        }
        Ok(mask)
    }
}

/// As [`steer_key`], of a group's arm.
fn arm_key(key: &FlowKey, arm: &Arm) -> Option<SteerKey> {
    steer_key(key, &arm.ruling.action, arm.ruling.edits.as_deref())
}

/// What chooses the way, if the frame goes to one peer; ports here may get it too.
fn steer_key(key: &FlowKey, action: &Action, edits: Option<&[Edit]>) -> Option<SteerKey> {
    let Action::Forward(to) = action else {
        return None;
    };
    let mut peers = to.iter().filter_map(|output| match output {
        Output::Peer(node) => Some(*node),
        Output::Port(_) => None,
    });
    let (Some(node), None) = (peers.next(), peers.next()) else {
        return None;
    };
    let mut leaves = *key;
    edits
        .unwrap_or_default()
        .iter()
        .for_each(|edit| edit.rekey(&mut leaves));
    Some(SteerKey {
        vni: key.vni,
        node,
        dscp: leaves.dscp,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
