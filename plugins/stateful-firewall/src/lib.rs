//! Stateful firewall: rules speak of new connections. Answers and ICMP errors of those that may be, pass.
//!
//! ```json
//! { "rules": [ { "allow": { "way": "out" } },
//!              { "allow": { "way": "in", "proto": "tcp", "port": 22, "src": "10.0.0.0/24" } } ],
//!   "default": "drop" }
//! ```
//!
//! The first rule that matches the first frame of a connection decides; the connection bears the rule's number as its mark.
//! After each change of the chain, connections that are there are decided anew, also when it is an answer that comes first:
//! an answer is then judged as what it answers.
//!
//! What belongs to no connection and could open none is dropped as `invalid`, at every node that has the plugin. Where the
//! two directions of a connection take different nodes, `"asymmetric": true` lets it in; the receiver's node decides.
//!
//! TCP flags are never read: the host's table has looked at them.

mod rule;

use meshd_sdk::prelude::*;
use rule::{First, Item};

/// A firewall with connections.
#[derive(Debug, Config)]
struct Firewall {
    /// For new connections, in their order.
    #[config(default = [])]
    rules: Vec<Item>,
    /// What holds where no rule matches, except for ARP and neighbour discovery.
    #[config(default = "drop")]
    default: Default,
    /// What is done about a connection that may not be.
    #[config(default = "drop")]
    refuse: Refuse,
    /// Fragments without a layer 4 header, which belong to no connection that could be looked up. Without its first fragment,
    /// which is decided as any frame, a packet is never put together.
    #[config(default = "pass")]
    fragments: Default,
    /// The answers of a connection may come by another node than its first frame: what is of no connection is left to the
    /// receiver's node.
    #[config(default = false)]
    asymmetric: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
enum Default {
    /// It passes.
    Pass,
    /// It is refused.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
enum Refuse {
    /// Nobody is told.
    Drop,
    /// The sender is told, by a TCP reset or an ICMP message.
    Reject,
}

/// More would not be decided within the fuel of one decision.
const MAX_RULES: u16 = 48;

#[policy(stage = "guard", fail = "closed", rules = MAX_RULES)]
impl Policy for Firewall {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let fault = |(i, item): (usize, &Item)| {
            let at = format!("/rules/{i}/{}", item.word());
            item.rule().fault().map(|fault| ConfigError::new(at, fault))
        };
        let mut errors: Vec<ConfigError> =
            self.rules.iter().enumerate().filter_map(fault).collect();
        let count = self.rules.len();
        if count > usize::from(MAX_RULES) {
            let message = format!(
                "{count} rules; at most {MAX_RULES} can be decided in the time a decision has"
            );
            errors.push(ConfigError::new("/rules", message));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn decide(&self, key: &Key) -> Verdict {
        if key.is_neighbor() {
            return next();
        }
        if !key.is_ip() {
            return match self.default {
                Default::Pass => next(),
                Default::Drop => drop("default"),
            };
        }
        let ct = key.ct();
        if ct.is_established() || ct.is_related() {
            return next();
        }
        if ct.is_invalid() {
            return if self.asymmetric && key.dir() == Direction::Ingress {
                next()
            } else {
                drop("invalid")
            };
        }
        if ct.is_untracked() && key.frag() == Frag::Later {
            return match self.fragments {
                Default::Pass => next(),
                Default::Drop => drop("fragment"),
            };
        }
        let first = First {
            key,
            turned: ct.is_reply(),
        };
        for (number, item) in (1..).zip(&self.rules) {
            if item.rule().matches(&first, item.allows()) {
                return match (item.allows(), self.refuse) {
                    (true, _) => next().ct_commit().set_ct_mark(u32::from(number)),
                    (false, Refuse::Drop) => drop(number),
                    (false, Refuse::Reject) => reject(number),
                };
            }
        }
        match (self.default, self.refuse) {
            (Default::Pass, _) => next().ct_commit().set_ct_mark(0),
            (Default::Drop, Refuse::Drop) => drop("default"),
            (Default::Drop, Refuse::Reject) => reject("default"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
