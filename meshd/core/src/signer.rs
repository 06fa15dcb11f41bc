//! Who signs plugins: a public key, as it is written in the config file and shown. Checks no signature.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Before the digits, so that a key is not taken for a digest.
const PREFIX: &str = "ed25519:";

/// An Ed25519 public key: `ed25519:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signer(pub [u8; 32]);

/// A text that is no [`Signer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no signer's key: {PREFIX} and 64 hex digits, as `meshd plugin keygen` prints it"
)]
pub struct ParseSignerError {
    text: String,
}

impl Signer {
    /// Enough of it to tell signers apart, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(PREFIX.len() + 12).collect()
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.short())
    }
}

impl FromStr for Signer {
    type Err = ParseSignerError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseSignerError {
            text: text.chars().take(80).collect(),
        };
        let digits = text.strip_prefix(PREFIX).ok_or_else(wrong)?;
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut out = [0; 32];
        for (i, byte) in out.iter_mut().enumerate() {
            let pair = digits.get(2 * i..2 * i + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(out))
    }
}

impl TryFrom<String> for Signer {
    type Error = ParseSignerError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Signer> for String {
    fn from(signer: Signer) -> Self {
        signer.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_and_what_is_none_is_told() {
        let signer = Signer([0xab; 32]);
        assert_eq!(signer.to_string().parse::<Signer>().unwrap(), signer);
        for wrong in [
            "",
            "ed25519:",
            &"ab".repeat(32),
            "ed25519:zz",
            &format!("ed25519:{}é", "a".repeat(62)),
        ] {
            let error = wrong.parse::<Signer>().unwrap_err().to_string();
            assert!(error.contains("keygen"), "{error}");
        }
    }
}
