//! What of a pool is given to a node that asks, and to whom it was given.
//!
//! ```text
//!   PoolRequest(n) --> given for n already? --> the same again
//!                  --> a free part that is of use --> durable: not ours any more --> told
//!                  --> none --> who may have some
//! ```
//!
//! Owns which part changes hands: about the upper half of the largest free run, of what the asker can use. Refuses to give
//! anything else, so that who looks for addresses of a small part does not come to own the rest.

use super::{HINTS_MAX, NODES_MAX, Pool, Pools, RANGES_MAX, SPARE};
use crate::ident::{NodeId, SessionId};
use crate::node::Output;
use crate::outbox::Outbox;
use crate::ranges::{Span, address};
use crate::state::{StateKey, keep};
use crate::wire::control::{Message, PoolGrant, PoolRequest};
use std::net::IpAddr;

impl Pools {
    /// Answers a member's request. `avoid` as for [`Self::lease`]: a range that holds only such addresses is no help.
    pub fn on_request(
        &mut self,
        from: NodeId,
        session: SessionId,
        request: &PoolRequest,
        avoid: &dyn Fn(IpAddr) -> bool,
        out: &mut Outbox,
    ) {
        let &PoolRequest {
            vni,
            subnet,
            request: number,
            urgent,
            within,
        } = request;
        let answer = |range, ask, out: &mut Outbox| {
            let grant = PoolGrant {
                vni,
                subnet,
                request: number,
                range,
                ask,
            };
            out.push(Output::Message {
                session,
                message: Message::PoolGrant(grant),
            });
        };
        let Some(pool) = self.pools.get_mut(&(vni, subnet)) else {
            answer(None, Vec::new(), out);
            return;
        };
        match pool.kept.given.get(&from) {
            Some(&(last, first_ip, last_ip)) if last == number => {
                answer(Some((first_ip, last_ip)), Vec::new(), out);
                return;
            }
            // Overtaken by a later request of the same node, which it only makes when the earlier one was granted.
            Some(&(last, ..)) if last > number => return,
            Some(_) => {}
            None if pool.kept.given.len() >= NODES_MAX => {
                answer(None, Vec::new(), out);
                return;
            }
            None => {}
        }
        let within = within.map_or(Span::ALL, |(first, last)| Span { first, last });
        if let Some((first, last)) = pool.part_to_give(urgent, within, avoid) {
            pool.kept.owned.remove(first, last);
            pool.kept.given.insert(from, (number, first, last));
            keep(out, &StateKey::Pool(vni, subnet), &pool.kept);
            answer(Some((first, last)), Vec::new(), out);
            return;
        }
        let author = Some(pool.kept.author);
        let given = pool.kept.given.keys().copied();
        let ask = author
            .into_iter()
            .chain(given.filter(|node| self.peers.contains_key(node)));
        let ask: Vec<NodeId> = ask
            .filter(|&n| n != from && n != self.me)
            .take(HINTS_MAX)
            .collect();
        answer(None, ask, out);
    }
}

impl Pool {
    /// About the upper half of the largest free run of `within`, cut at a round number.
    fn part_to_give(
        &self,
        urgent: bool,
        within: Span,
        avoid: &dyn Fn(IpAddr) -> bool,
    ) -> Option<(u128, u128)> {
        let free = self.free();
        if free == 0 || (!urgent && free < SPARE) || self.kept.owned.count() >= RANGES_MAX {
            return None;
        }
        let useful = |first: u128, last: u128| {
            // A large part surely has something; a small one may be full of addresses set by hand.
            last - first >= 256
                || (first..=last)
                    .any(|n| address(&self.kept.subnet, n).is_some_and(|ip| !avoid(ip)))
        };
        for Span { first, last } in self.free_runs(within) {
            let upper = (split(first, last), last);
            if useful(upper.0, upper.1) {
                return Some(upper);
            }
            if upper.0 > first && useful(first, upper.0 - 1) {
                return Some((first, upper.0 - 1));
            }
        }
        None
    }
}

/// Where the upper half of `first..=last` begins: near the middle, at a multiple of the largest power of two that leaves
/// both parts a fair size. A run of one is given as a whole.
pub(super) fn split(first: u128, last: u128) -> u128 {
    let span = last - first;
    if span == 0 {
        return first;
    }
    let middle = first + span / 2 + 1;
    let grain = 1u128 << (span / 4).max(1).ilog2();
    let down = middle / grain * grain;
    if down > first { down } else { middle }
}
