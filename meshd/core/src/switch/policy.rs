//! Which networks have a chain of plugins, and which of them are tracked: their frames are looked up among connections.

use super::Switch;
use crate::conntrack;
use crate::conntrack::Order;
use crate::ident::{AttachmentId, Epoch, Moment, Vni};
use crate::node::Output as Out;
use crate::outbox::Outbox;
use std::sync::Arc;

impl Switch {
    /// The policy chain of a network changed, in code, config or length (0: none). Nothing happens if there is no such
    /// network: say it again once there is.
    pub fn set_policy(&mut self, vni: Vni, plugins: u32, now: Moment, out: &mut Outbox) {
        if !self.networks.contains_key(&vni) {
            return;
        }
        let waiting = self.policy.set_chain(vni, plugins);
        if let Some(network) = self.networks.get_mut(&vni) {
            // What another chain wanted to be remembered, and for how long.
            network.fdb.keep_as_usual();
            network.neighbors.forget_learned();
        }
        if plugins == 0 {
            self.untrack(vni, out);
        } else if self.tracked.contains(&vni) {
            self.track(vni, out);
        }
        self.new_epoch(out);
        self.ask_again(waiting, now, out);
    }

    /// What a plugin had said on a network under a tag is not so any more; `None`: all that it had a part in. Others are not
    /// asked anew. Nothing happens if there is no such network.
    pub fn invalidate_policy(
        &mut self,
        vni: Vni,
        of: AttachmentId,
        tag: Option<u32>,
        now: Moment,
        out: &mut Outbox,
    ) {
        if !self.networks.contains_key(&vni) {
            return;
        }
        let waiting = self.policy.invalidate(vni, of, tag);
        // A connection says that the chain let it, and not under which tag.
        if self.tracked.contains(&vni) {
            self.track(vni, out);
        }
        self.new_epoch(out);
        self.ask_again(waiting, now, out);
    }

    /// The network's frames are looked up, and connections of before the next epoch are decided anew.
    pub(super) fn track(&mut self, vni: Vni, out: &mut Outbox) {
        self.tracked.insert(vni);
        let since = Some(Epoch(self.epoch.0 + 1));
        out.push(Out::Track { vni, since });
    }

    /// An answer looks at connections, and so far nobody does. Frames that wait were looked up nowhere: what an empty table says
    /// of them is known here, and the chain is asked again with that.
    pub(super) fn begin_to_track(
        &mut self,
        vni: Vni,
        mut waiting: Vec<u64>,
        now: Moment,
        out: &mut Outbox,
    ) {
        self.track(vni, out);
        self.new_epoch(out);
        waiting.extend(self.policy.recall_all(vni));
        for waiter in &waiting {
            if let Some(pending) = self.pending.get_mut(waiter) {
                pending.ct = conntrack::unheard(vni, &pending.frame);
            }
        }
        self.ask_again(waiting, now, out);
    }

    pub(super) fn untrack(&mut self, vni: Vni, out: &mut Outbox) {
        if self.tracked.remove(&vni) {
            out.push(Out::Track { vni, since: None });
        }
    }

    pub(super) fn dated(&self, order: &Order) -> Arc<Order> {
        Arc::new(Order {
            epoch: self.epoch,
            ..order.clone()
        })
    }
}
