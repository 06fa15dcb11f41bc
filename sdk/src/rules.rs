//! Lists of rules of which the first that matches decides, in a time that hardly grows with the list.
//!
//! ```text
//!   frame --> its class: IPv4, IPv6, ARP, ND -- few rules --> one after the other, in their order
//!                 | many
//!                 v
//!          protocol, then the fields that tell most: value -> which rules it leaves (one bit each), AND
//!                 | until few are left, or every field was looked at
//!                 v
//!          one after the other, in their order
//! ```
//!
//! Owns what a rule may ask for, its words in a config, and the search. A short list notes what its rules ask for one by one; a
//! long one notes of a field the bits that tell the span of values around it from its neighbours, which is more than the one
//! rule would need and less than the field. Refuses more than [`RULES_MAX`] rules, so that the search has a bound.
//!
//! A frame that could hide what a rule asks for (a TCP or UDP header cut off before its ports) counts as a match for a rule
//! that denies and as none for a rule that allows. Later fragments bear no ports: rules with ports pass them by, since without
//! its first fragment a packet is never put together.

mod index;
mod matching;

pub use matching::{Match, Ports, Proto, Way};

use crate::config::ConfigError;
use crate::{IpKind, Key};
use index::Index;
use matching::Opening;

/// Rules of one list.
pub const RULES_MAX: usize = 1024;
/// So many are looked at one by one.
const FEW: usize = 8;
/// A class with no more rules than this has no index.
const SHORT: usize = 16;

/// One rule of a list.
#[derive(Clone, Debug, PartialEq, Eq, crate::Config)]
pub enum Rule {
    /// What matches passes.
    Allow(Match),
    /// What matches is refused.
    Deny(Match),
}

impl Rule {
    /// Whether what matches passes.
    #[must_use]
    pub fn allows(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// What it asks for.
    #[must_use]
    pub fn asks(&self) -> &Match {
        match self {
            Self::Allow(asks) | Self::Deny(asks) => asks,
        }
    }

    /// What makes no sense in it; `at` is the JSON pointer to it.
    #[must_use]
    pub fn fault(&self, at: &str) -> Option<ConfigError> {
        let word = if self.allows() { "allow" } else { "deny" };
        let fault = self.asks().fault()?;
        Some(ConfigError::new(format!("{at}/{word}"), fault))
    }

    fn matches(&self, frame: &Opening<'_, '_>) -> bool {
        self.asks().matches(frame, self.allows())
    }
}

/// A list, made ready to be searched. See the module.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    list: Vec<Rule>,
    /// By [`class`].
    classes: [Class; 4],
}

/// The rules that can match frames of one kind.
#[derive(Clone, Debug, Default)]
struct Class {
    /// Their places in the list, in its order.
    rules: Vec<u16>,
    /// If there are many.
    index: Option<Index>,
}

const KINDS: [IpKind; 4] = [IpKind::V4, IpKind::V6, IpKind::ArpV4, IpKind::NdV6];

fn class(kind: IpKind) -> Option<usize> {
    match kind {
        IpKind::None => None,
        IpKind::V4 => Some(0),
        IpKind::V6 => Some(1),
        IpKind::ArpV4 => Some(2),
        IpKind::NdV6 => Some(3),
    }
}

impl Rules {
    /// # Errors
    /// What is wrong with which rule, or with all: `at` is the JSON pointer to the list.
    pub fn new(at: &str, list: Vec<Rule>) -> Result<Self, Vec<ConfigError>> {
        let faults = list.iter().enumerate();
        let mut faults: Vec<ConfigError> = faults
            .filter_map(|(i, rule)| rule.fault(&format!("{at}/{i}")))
            .collect();
        if list.len() > RULES_MAX {
            let count = list.len();
            let message = format!(
                "{count} rules; at most {RULES_MAX} can be decided in the time a decision has"
            );
            faults.push(ConfigError::new(at, message));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let classes = KINDS.map(|kind| {
            // No more than RULES_MAX.
            let rules = (0u16..).zip(&list);
            let rules: Vec<u16> = rules
                .filter(|(_, rule)| rule.asks().is_about(kind))
                .map(|(n, _)| n)
                .collect();
            let of_class = rules.iter().filter_map(|n| list.get(usize::from(*n)));
            let index = (rules.len() > SHORT).then(|| Index::new(kind, of_class));
            Class { rules, index }
        });
        Ok(Self { list, classes })
    }

    /// The first rule that the frame matches, and its number in the list, from 1.
    #[must_use]
    pub fn first(&self, key: &Key<'_>) -> Option<(u16, &Rule)> {
        self.find(&Opening { key, turned: false })
    }

    /// The same for an answer, judged as what it answers: ends and way are the other way round.
    #[must_use]
    pub fn first_of_answer(&self, key: &Key<'_>) -> Option<(u16, &Rule)> {
        self.find(&Opening { key, turned: true })
    }

    fn find(&self, frame: &Opening<'_, '_>) -> Option<(u16, &Rule)> {
        // A list that is empty reads nothing.
        if self.list.is_empty() {
            return None;
        }
        let class = self.classes.get(class(frame.key.ip_kind())?)?;
        match &class.index {
            None => class.rules.iter().find_map(|n| self.test(*n, frame)),
            Some(index) => {
                let left = index.search(frame);
                let mut places = index::places(&left);
                places.find_map(|place| self.test(*class.rules.get(place)?, frame))
            }
        }
    }

    fn test(&self, n: u16, frame: &Opening<'_, '_>) -> Option<(u16, &Rule)> {
        let rule = self.list.get(usize::from(n))?;
        rule.matches(frame).then_some((n + 1, rule))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
