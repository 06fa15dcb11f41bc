//! Whose components are taken.
//!
//! Asked before anything of a component is compiled, at install, at rollback and at each start: so a demand that was made
//! later holds for what is installed already. A signature that does not hold is refused also where none is demanded.

use meshd_core::config::PluginsConfig;
use meshd_core::signer::Signer;
use meshd_plugin_host::{SignatureError, signers};

/// Whom to rely on. By default everything is taken whose signatures, if it has any, hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    trusted: Vec<Signer>,
    required: bool,
}

/// Why a component is not taken, whatever is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// A signature does not hold.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Signed by nobody.
    #[error(
        "the component is not signed, and this node takes signed ones only. Have it signed by a key that [plugins] trusted in the config file names: meshd plugin sign FILE --key KEY"
    )]
    Unsigned,
    /// Signed by others.
    #[error(
        "the component is signed by {signers}, whom this node does not trust. If that is who should have signed it, name the key in the config file under [plugins] trusted, and restart the daemon"
    )]
    Untrusted {
        /// Their keys.
        signers: String,
    },
}

impl From<&PluginsConfig> for Trust {
    fn from(config: &PluginsConfig) -> Self {
        Self {
            trusted: config.trusted.clone(),
            required: config.require_signature,
        }
    }
}

impl Trust {
    /// Whoever signed `component`, if it is taken.
    pub(crate) fn admit(&self, component: &[u8]) -> Result<Vec<Signer>, TrustError> {
        let signers = signers(component)?;
        if self.required && signers.is_empty() {
            return Err(TrustError::Unsigned);
        }
        if self.required && !signers.iter().any(|signer| self.trusted.contains(signer)) {
            let signers: Vec<String> = signers.iter().map(ToString::to_string).collect();
            return Err(TrustError::Untrusted {
                signers: signers.join(", "),
            });
        }
        Ok(signers)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_plugin_host::{sign, signer_of};
    use ring::signature::Ed25519KeyPair;

    #[test]
    fn a_demand_takes_what_a_trusted_key_signed_and_says_of_others_who_signed_them() {
        let key = |seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let trust = Trust {
            trusted: vec![signer_of(&key(1))],
            required: true,
        };
        let bare = b"\0asm\x0d\0\x01\0".to_vec();
        assert_eq!(trust.admit(&bare), Err(TrustError::Unsigned));
        assert_eq!(Trust::default().admit(&bare), Ok(Vec::new()));
        let other = sign(&bare, &key(2)).unwrap();
        let error = trust.admit(&other).unwrap_err().to_string();
        assert!(error.contains(&signer_of(&key(2)).to_string()), "{error}");
        let both = sign(&other, &key(1)).unwrap();
        assert_eq!(trust.admit(&both).unwrap().len(), 2);
        let mut changed = both.clone();
        if let Some(last) = changed.last_mut() {
            *last ^= 1;
        }
        for trust in [trust, Trust::default()] {
            let error = trust.admit(&changed).unwrap_err();
            assert!(matches!(error, TrustError::Signature(_)), "{error}");
        }
    }
}
