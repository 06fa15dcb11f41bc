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

use meshd_sdk::prelude::*;
use meshd_sdk::rules::{Proto, RULES_MAX, Rule, Rules};

/// A firewall with connections.
#[derive(Debug, Config)]
struct Firewall {
    /// For new connections, in their order.
    #[config(default = [])]
    rules: Vec<Rule>,
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
    /// `rules`, to be searched.
    #[config(skip)]
    list: Rules,
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

/// For the manifest.
const MAX_RULES: u16 = RULES_MAX as u16;

#[policy(stage = "guard", fail = "closed", rules = MAX_RULES)]
impl Policy for Firewall {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        for (i, rule) in self.rules.iter().enumerate() {
            if matches!(rule.asks().proto, Some(Proto::Arp | Proto::Nd)) {
                let message = "arp and nd are of no connection, and always pass";
                errors.push(ConfigError::new(format!("/rules/{i}"), message));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        self.list = Rules::new("/rules", self.rules.clone())?;
        Ok(())
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
        let found = if ct.is_reply() {
            self.list.first_of_answer(key)
        } else {
            self.list.first(key)
        };
        if let Some((number, rule)) = found {
            return match (rule.allows(), self.refuse) {
                (true, _) => next().ct_commit().set_ct_mark(u32::from(number)),
                (false, Refuse::Drop) => drop(number),
                (false, Refuse::Reject) => reject(number),
            };
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
