//! Signatures of plugins: who answers for the bytes of a component.
//!
//! ```text
//!   component = preamble, sections …, [meshd:signature], [meshd:signature]
//!                 \------ SHA-256 of all this ------/      version 1, public key (32 bytes), Ed25519 signature (64)
//!                                                           of "meshd plugin 1\0" and that SHA-256
//! ```
//!
//! A signature is a custom section at the top level, so a plugin stays one file. It is of everything but the signatures: those
//! may be added and taken away without a change to each other, and everything else may not. Owns the format and the check;
//! whom to trust is the daemon's. A file with one wrong signature is refused, whatever the others are: somebody changed it.

use crate::load::{Digest, LoadError, precheck};
use crate::sections::{PREAMBLE, sections};
use meshd_core::signer::Signer;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// The custom section with one signature.
pub const SIGNATURE: &str = "meshd:signature";
/// Signatures that a file may carry.
const MAX_SIGNATURES: usize = 16;
const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"meshd plugin 1\0";
const KEY: usize = 32;

/// Why a component's signatures cannot be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is no component.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its sections do not fit its length.
    #[error("the component is cut off or its sections are damaged; get the file again")]
    Damaged,
    /// Too many to look at.
    #[error("the component carries more than {MAX_SIGNATURES} signatures")]
    TooMany,
    /// One that this release cannot read.
    #[error(
        "the component carries a signature of a form that this release does not know; a newer meshd wrote it, or it is damaged"
    )]
    Form,
    /// One that does not hold.
    #[error(
        "the signature of {signer} does not hold: the component was changed after it was signed. Get the file again, or have it signed anew"
    )]
    Wrong {
        /// Whose it claims to be.
        signer: Signer,
    },
    /// It is there already.
    #[error("{signer} has signed this component already")]
    Again {
        /// Who.
        signer: Signer,
    },
}

struct Parts {
    /// Everything but the signatures.
    bare: Vec<u8>,
    signatures: Vec<(Signer, Vec<u8>)>,
}

fn parts(component: &[u8]) -> Result<Parts, SignatureError> {
    precheck(component)?;
    let mut out = Parts {
        bare: component
            .get(..PREAMBLE)
            .ok_or(SignatureError::Damaged)?
            .to_vec(),
        signatures: Vec::new(),
    };
    for section in sections(component) {
        let section = section.ok_or(SignatureError::Damaged)?;
        match section.custom {
            Some((SIGNATURE, content)) => {
                let (&version, rest) = content.split_first().ok_or(SignatureError::Form)?;
                let (key, signature) = rest.split_at_checked(KEY).ok_or(SignatureError::Form)?;
                let key = key.try_into().map_err(|_| SignatureError::Form)?;
                if version != VERSION {
                    return Err(SignatureError::Form);
                }
                if out.signatures.len() >= MAX_SIGNATURES {
                    return Err(SignatureError::TooMany);
                }
                out.signatures.push((Signer(key), signature.to_vec()));
            }
            _ => {
                let bytes = component.get(section.range);
                out.bare.extend(bytes.ok_or(SignatureError::Damaged)?);
            }
        }
    }
    Ok(out)
}

fn message(bare: &[u8]) -> Vec<u8> {
    [CONTEXT, Digest::of(bare).bytes()].concat()
}

/// Who has signed a component, in the order of the signatures; all of them hold.
///
/// # Errors
/// If one does not hold, or cannot be read.
pub fn signers(component: &[u8]) -> Result<Vec<Signer>, SignatureError> {
    let Parts { bare, signatures } = parts(component)?;
    let message = message(&bare);
    let mut out = Vec::with_capacity(signatures.len());
    for (signer, signature) in signatures {
        UnparsedPublicKey::new(&ED25519, signer.0)
            .verify(&message, &signature)
            .map_err(|_| SignatureError::Wrong { signer })?;
        if !out.contains(&signer) {
            out.push(signer);
        }
    }
    Ok(out)
}

/// The digest that signatures are of: SHA-256 of the component without them.
///
/// # Errors
/// If it is no component.
pub fn signed_digest(component: &[u8]) -> Result<Digest, SignatureError> {
    Ok(Digest::of(&parts(component)?.bare))
}

/// Whose signature a key makes.
#[must_use]
pub fn signer_of(key: &Ed25519KeyPair) -> Signer {
    let mut out = [0; KEY];
    out.iter_mut()
        .zip(key.public_key().as_ref())
        .for_each(|(to, from)| *to = *from);
    Signer(out)
}

/// The component with one more signature.
///
/// # Errors
/// If it is none, has too many, or one that does not hold; or if this key has signed it already.
pub fn sign(component: &[u8], key: &Ed25519KeyPair) -> Result<Vec<u8>, SignatureError> {
    let signer = signer_of(key);
    let have = signers(component)?;
    if have.contains(&signer) {
        return Err(SignatureError::Again { signer });
    }
    if have.len() >= MAX_SIGNATURES {
        return Err(SignatureError::TooMany);
    }
    let signature = key.sign(&message(&parts(component)?.bare));
    let mut out = component.to_vec();
    // Name with its length, version, key, signature: 113 bytes, so each length is one byte below 128.
    let payload = [
        &[SIGNATURE.len() as u8][..],
        SIGNATURE.as_bytes(),
        &[VERSION],
        &signer.0,
        signature.as_ref(),
    ]
    .concat();
    out.extend([0, payload.len() as u8]);
    out.extend(payload);
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn component() -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        bytes.extend([0, 5, 1, b'a', 7, 8, 9]);
        bytes
    }

    #[test]
    fn two_sign_and_each_signature_holds_without_the_other() {
        let one = sign(&component(), &key(1)).unwrap();
        let both = sign(&one, &key(2)).unwrap();
        let (a, b) = (signer_of(&key(1)), signer_of(&key(2)));
        assert_eq!(signers(&component()).unwrap(), []);
        assert_eq!(signers(&both).unwrap(), [a, b]);
        let other = [&component()[..], &both[one.len()..]].concat();
        assert_eq!(signers(&other).unwrap(), [b]);
        assert_eq!(signed_digest(&both).unwrap(), Digest::of(&component()));
        assert_eq!(
            sign(&both, &key(1)),
            Err(SignatureError::Again { signer: a })
        );
    }

    #[test]
    fn no_bit_of_a_signed_component_can_be_changed() {
        let signed = sign(&component(), &key(1)).unwrap();
        for at in 0..signed.len() {
            for bit in 0..8 {
                let mut changed = signed.clone();
                changed[at] ^= 1 << bit;
                // The name of the section is what makes it a signature: without it, there is none.
                let seen = signers(&changed);
                assert!(
                    !matches!(&seen, Ok(signers) if !signers.is_empty()),
                    "{at}.{bit}: {seen:?}"
                );
            }
        }
        for cut in 0..signed.len() {
            let seen = signers(&signed[..cut]);
            assert!(seen.is_err() || seen == Ok(Vec::new()), "{cut}: {seen:?}");
        }
    }

    #[test]
    fn signatures_are_bounded_in_number() {
        let mut signed = component();
        for seed in 0..16 {
            signed = sign(&signed, &key(seed)).unwrap();
        }
        assert_eq!(signers(&signed).unwrap().len(), 16);
        assert_eq!(sign(&signed, &key(17)), Err(SignatureError::TooMany));
    }
}
