//! The text of an invite: what `meshd invite` prints and `meshd join` takes.
//!
//! ```text
//!   meshd1 | base32( postcard{mesh, inviter, addresses, secret, expires} | first 4 bytes of SHA-256 over "meshd1" and that )
//!       ^ version of the form; '1' is no base32 digit, so the text splits in one way
//! ```
//!
//! Owns the form, and says what is wrong with a text that is none: cut, mistyped, of another version. Whether the invite
//! still holds is the inviter's to say. The text is a secret until it is used or expires.

use crate::identity::sha256;
use data_encoding::{DecodeKind, Encoding, Specification};
use meshd_core::ident::{MeshId, NodeId, WallTime};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::LazyLock;

const STEM: &str = "meshd";
const PREFIX: &str = "meshd1";
/// Longest text that is looked at, in bytes.
const TEXT_MAX: usize = 4096;
/// Most addresses in a token: more than a host has, fewer than a newcomer could not dial in time.
pub const ADDRESSES_MAX: usize = 16;

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut form = Specification::new();
    form.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    form.encoding()
        .expect("an alphabet of 32 symbols is an encoding")
});

/// An invite, as it travels.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The mesh: what the newcomer checks its membership against.
    pub mesh: MeshId,
    /// Who gives out the membership; the newcomer talks to no other key.
    pub inviter: NodeId,
    /// Where the inviter is, most likely first; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// Shown to the inviter, once.
    pub secret: [u8; 16],
    /// Too late from then on, by the inviter's clock.
    pub expires: WallTime,
}

/// Why a text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else altogether.
    #[error("this is no invite: one starts with \"meshd1\", as `meshd invite` prints it")]
    NoToken,
    /// A form that this release does not know.
    #[error(
        "this invite has form {found:?}, and this meshd reads form \"1\"; use the same release of meshd on both nodes"
    )]
    OtherVersion {
        /// What stands in place of the `1`.
        found: char,
    },
    /// A character that cannot be there.
    #[error("character {at} of the invite is {found:?}, which no invite holds; copy it again")]
    Character {
        /// From 1.
        at: usize,
        /// What stands there.
        found: char,
    },
    /// The end is missing.
    #[error("the invite is cut short: its end is missing; copy it again, whole")]
    Cut,
    /// The check sum says that some character is another.
    #[error("the invite has a typing error: its check sum does not fit; copy it again")]
    Mistyped,
    /// Larger than any.
    #[error("this is no invite: it is longer than {TEXT_MAX} characters")]
    Long,
}

fn check_sum(body: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256(&[PREFIX.as_bytes(), body].concat());
    [a, b, c, d]
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = postcard::to_stdvec(self).map_err(|_| fmt::Error)?;
        bytes.extend(check_sum(&bytes));
        write!(f, "{PREFIX}{}", BASE32.encode(&bytes))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("mesh", &self.mesh)
            .field("inviter", &self.inviter)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// White space is skipped, since terminals and mails wrap lines; upper case is folded.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > TEXT_MAX {
            return Err(TokenError::Long);
        }
        let text: String = text
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let rest = text.strip_prefix(STEM).ok_or(TokenError::NoToken)?;
        let digits = match rest.chars().next() {
            None => return Err(TokenError::Cut),
            Some('1') => rest.strip_prefix('1').unwrap_or_default(),
            Some(found) if found.is_ascii_digit() => {
                return Err(TokenError::OtherVersion { found });
            }
            Some(_) => return Err(TokenError::NoToken),
        };
        if let Some((at, found)) = digits
            .chars()
            .enumerate()
            .find(|(_, c)| !matches!(c, 'a'..='z' | '2'..='7'))
        {
            return Err(TokenError::Character {
                at: at + PREFIX.len() + 1,
                found,
            });
        }
        let bytes = BASE32.decode(digits.as_bytes()).map_err(|e| match e.kind {
            DecodeKind::Length => TokenError::Cut,
            // Bits left over after the last byte: either a typing error in the last character or a cut before it.
            _ => TokenError::Mistyped,
        })?;
        let token: Self = match postcard::take_from_bytes::<Self>(&bytes) {
            Ok((token, sum)) => {
                let body = bytes.get(..bytes.len() - sum.len()).unwrap_or_default();
                if sum.len() < 4 {
                    return Err(TokenError::Cut);
                }
                if sum != check_sum(body) {
                    return Err(TokenError::Mistyped);
                }
                token
            }
            Err(postcard::Error::DeserializeUnexpectedEnd) => return Err(TokenError::Cut),
            Err(_) => return Err(TokenError::Mistyped),
        };
        if token.addresses.len() > ADDRESSES_MAX {
            Err(TokenError::Mistyped)
        } else {
            Ok(token)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_token() -> impl Strategy<Value = Token> {
        (
            any::<[u8; 32]>(),
            any::<[u8; 32]>(),
            prop::collection::vec(any::<SocketAddr>(), 0..=ADDRESSES_MAX),
            any::<[u8; 16]>(),
            any::<u64>(),
        )
            .prop_map(|(mesh, inviter, addresses, secret, expires)| Token {
                mesh: MeshId(mesh),
                inviter: NodeId(inviter),
                // postcard carries no flow label and no scope: neither means anything on another host.
                addresses: addresses
                    .into_iter()
                    .map(|a| SocketAddr::new(a.ip(), a.port()))
                    .collect(),
                secret,
                expires: WallTime(expires),
            })
    }

    proptest! {
        #[test]
        fn a_token_reads_back_what_it_shows_also_wrapped_and_in_upper_case(token in any_token(), at in 0usize..60) {
            let text = token.to_string();
            prop_assert_eq!(&text.parse::<Token>().unwrap(), &token);
            let wrapped = format!("  {}\r\n\t{}\n", &text[..at], &text[at..]).to_uppercase();
            prop_assert_eq!(&wrapped.parse::<Token>().unwrap(), &token);
        }

        #[test]
        fn a_cut_token_is_refused(token in any_token(), cut in 1usize..40) {
            let text = token.to_string();
            let refused = text[..text.len() - cut].parse::<Token>().unwrap_err();
            prop_assert!(matches!(refused, TokenError::Cut | TokenError::Mistyped), "{}", refused);
        }

        #[test]
        fn one_wrong_character_is_found(token in any_token(), at in 6usize..100, other in "[a-z2-7]") {
            let text = token.to_string();
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, &other);
            prop_assert_eq!(wrong.parse::<Token>().is_ok(), wrong == text);
        }

        #[test]
        fn any_text_is_answered(text in "(meshd1)?.*") {
            let _ = text.parse::<Token>();
        }
    }

    #[test]
    fn each_wrong_text_is_told_what_is_wrong_with_it() {
        let wrong = |text: &str| text.parse::<Token>().unwrap_err();
        assert_eq!(wrong("hello"), TokenError::NoToken);
        assert_eq!(wrong(""), TokenError::NoToken);
        assert_eq!(wrong("meshd"), TokenError::Cut);
        assert_eq!(wrong("meshd1"), TokenError::Cut);
        assert_eq!(wrong("meshd2abc"), TokenError::OtherVersion { found: '2' });
        assert_eq!(
            wrong("meshd1ab0c"),
            TokenError::Character { at: 9, found: '0' }
        );
        assert_eq!(wrong(&"meshd1".repeat(1000)), TokenError::Long);
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let token = Token {
            mesh: MeshId([1; 32]),
            inviter: NodeId([2; 32]),
            addresses: vec![],
            secret: [171; 16],
            expires: WallTime(0),
        };
        assert!(!format!("{token:?}").contains("171"));
    }
}
