//! Who made a port: a word that a container engine's driver gives with it, and finds it again by.
//!
//! ```text
//!   cni/NETWORK/CONTAINER/IFNAME   docker/ENDPOINT   any other word of who attaches
//! ```
//!
//! Owns the form of the word. Refuses to read anything into it: to the node it is opaque.

use crate::ident::escape;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest owner, in bytes.
pub const OWNER_MAX: usize = 256;

/// 1 to [`OWNER_MAX`] printable ASCII characters without a space, so that it stands in tables, logs and URLs as it is.
/// At most one port of a node has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(String);

/// Why a text is no owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{shown}\" is no owner: 1 to {OWNER_MAX} printable ASCII characters without a space, such as cni/demo/1a2b/eth0"
)]
pub struct NoOwner {
    /// Its beginning, escaped.
    shown: String,
}

impl Owner {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Owner {
    type Err = NoOwner;
    fn from_str(text: &str) -> Result<Self, NoOwner> {
        let fits =
            (1..=OWNER_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            let bytes = text.as_bytes();
            Err(NoOwner {
                shown: escape(bytes.get(..64).unwrap_or(bytes)),
            })
        }
    }
}

impl TryFrom<String> for Owner {
    type Error = NoOwner;
    fn try_from(text: String) -> Result<Self, NoOwner> {
        text.parse()
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_short_printable_words_are_owners() {
        for good in ["a", "cni/demo/1a2b/eth0", &"x".repeat(OWNER_MAX)] {
            assert_eq!(good.parse::<Owner>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "\u{e9}", "\0", &"x".repeat(OWNER_MAX + 1)] {
            assert!(bad.parse::<Owner>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_refused_is_shown_short_and_printable(text: String) {
            if let Err(refused) = text.parse::<Owner>() {
                let shown = refused.to_string();
                prop_assert!(shown.len() < 600 && !shown.chars().any(char::is_control));
            }
        }
    }
}
