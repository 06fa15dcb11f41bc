//! Facts: what a controller tells the policy of its package. The verdict is a function of (config, facts, key).
//!
//! ```text
//!   commit: changes --Facts::with--> other facts beside the old --Instance::update--> the guest's `update` --> in use
//!                       | too many                                    | it fails
//!                       v                                             v
//!                    the old facts stay, and with them every verdict that rests on them
//! ```
//!
//! Owns their bounds. A set never changes; one with changes is another, so an instance that is made anew, a sibling or a spare
//! gets exactly the facts that held when it was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of keys and values of one attachment.
pub const FACTS_MAX: usize = 1 << 20;
/// Facts of one attachment.
const COUNT_MAX: usize = 65_536;
/// Bytes of a key.
const KEY_MAX: usize = 256;

/// One fact that is entered, or goes (`None`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactChange {
    /// Its name.
    pub key: String,
    /// Its content.
    pub value: Option<Vec<u8>>,
}

/// Why facts are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// A name that is too long.
    #[error("fact {at}: its key has {size} bytes, and may have {KEY_MAX}")]
    Key {
        /// Its place in the list.
        at: usize,
        /// Of the key, in bytes.
        size: usize,
    },
    /// More than may be.
    #[error("with fact {at} there would be more than {FACTS_MAX} bytes or {COUNT_MAX} facts")]
    Full {
        /// Its place in the list.
        at: usize,
    },
}

/// All facts of an attachment at one time. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Facts(Arc<Held>);

#[derive(Clone, Debug, Default)]
struct Held {
    all: BTreeMap<Arc<str>, Arc<[u8]>>,
    bytes: usize,
}

impl Facts {
    /// These facts with `changes`.
    ///
    /// # Errors
    /// The first change that does not fit.
    pub fn with(&self, changes: &[FactChange]) -> Result<Self, FactsError> {
        let mut held = Held::clone(&self.0);
        for (at, FactChange { key, value }) in changes.iter().enumerate() {
            if key.len() > KEY_MAX {
                let size = key.len();
                return Err(FactsError::Key { at, size });
            }
            let old = match value {
                Some(value) => {
                    held.bytes += key.len() + value.len();
                    held.all
                        .insert(key.as_str().into(), value.as_slice().into())
                }
                None => held.all.remove(key.as_str()),
            };
            if value.is_none() && old.is_none() {
                continue;
            }
            if let Some(old) = old {
                held.bytes -= key.len() + old.len();
            }
            if held.bytes > FACTS_MAX || held.all.len() > COUNT_MAX {
                return Err(FactsError::Full { at });
            }
        }
        Ok(Self(Arc::new(held)))
    }

    /// By key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.all.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.all.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.all.is_empty()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(key: &str, value: &[u8]) -> FactChange {
        FactChange {
            key: key.to_owned(),
            value: Some(value.to_vec()),
        }
    }

    #[test]
    fn facts_are_bounded_and_what_does_not_fit_changes_nothing() {
        let facts = Facts::default().with(&[put("a", b"1")]).unwrap();
        let big = vec![0; FACTS_MAX];
        assert_eq!(
            facts.with(&[put("a", b"2"), put("b", &big)]).unwrap_err(),
            FactsError::Full { at: 1 }
        );
        let long = "x".repeat(257);
        assert!(facts.with(&[put(&long, b"")]).is_err());
        assert_eq!(facts.iter().collect::<Vec<_>>(), [("a", b"1".as_slice())]);
        // What it replaces makes room.
        let most = vec![0; FACTS_MAX - 1];
        let full = facts.with(&[put("a", &most)]).unwrap();
        assert!(full.with(&[put("a", &most)]).is_ok());
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_what_is_held(changes in prop::collection::vec(("[a-d]{1,2}", prop::option::of(prop::collection::vec(any::<u8>(), 0..5))), 0..40)) {
            let mut facts = Facts::default();
            for (key, value) in changes {
                facts = facts.with(&[FactChange { key, value }]).unwrap();
                let bytes: usize = facts.iter().map(|(key, value)| key.len() + value.len()).sum();
                prop_assert_eq!(bytes, facts.bytes());
            }
        }
    }
}
