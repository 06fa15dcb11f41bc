//! Members of the mesh, as a config names them and as a verdict does.

use crate::config::{Config, Errors, Schema, Value};

/// A member: in a config the node id as `meshd members` shows it (52 characters of base32), in a verdict its first eight
/// bytes as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(u64);

/// Characters of a node id.
const ID_LEN: usize = 52;

impl Peer {
    /// The number that [`to_peer`](crate::to_peer) and `mirror_peer` take, and `in-peer` of a key is.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'a'..=b'z' => Some(byte - b'a'),
            b'A'..=b'Z' => Some(byte - b'A'),
            b'2'..=b'7' => Some(byte - b'2' + 26),
            _ => None,
        };
        if text.len() != ID_LEN {
            return None;
        }
        // Thirteen digits of five bits are the eight bytes and a bit of the ninth.
        let mut bits = 0u128;
        for (at, byte) in text.bytes().enumerate() {
            let digit = digit(byte)?;
            if at < 13 {
                bits = bits << 5 | u128::from(digit);
            }
        }
        u64::try_from(bits >> 1).ok().map(Self)
    }
}

impl Config for Peer {
    const SCHEMA: Schema = Schema::Text {
        doc: "A node id, 52 characters of base32, as `meshd members` shows it.",
    };

    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        let read = value.text().and_then(Self::parse);
        if read.is_none() {
            errors.wanted("a node id, 52 characters of base32", value);
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_the_number_of_its_first_eight_bytes() {
        // Base32 of eight bytes 01 23 45 67 89 ab cd ef and twenty-four zeros.
        let id = format!("{:a<52}", "aerukz4jvpg66");
        assert_eq!(Peer::parse(&id), Some(Peer(0x0123_4567_89ab_cdef)));
        assert_eq!(Peer::parse(&id.to_uppercase()), Peer::parse(&id));
        for bad in ["", "a", &id[1..], &format!("{}1", &id[1..])] {
            assert_eq!(Peer::parse(bad), None, "{bad}");
        }
    }
}
