//! The words everything else is said in: identities, numbers with units, and time as an argument.
//!
//! Owns the newtypes of the mesh. Refuses values outside their range at construction, so that nothing behind them checks
//! again. Knows no table and no protocol.

use core::fmt;
use core::net::Ipv6Addr;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Nanoseconds since the daemon started: a plain number, so that a run can be recorded and replayed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Moment(pub u64);

impl Moment {
    /// `ms` milliseconds after `self`.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Milliseconds from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// Milliseconds since the Unix epoch, as the host's clock says. Only for what is compared between nodes: expiry of
/// statements, age of claims. Never for timers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WallTime(pub u64);

/// Both clocks at one instant. The shell reads them once per input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// For timers.
    pub moment: Moment,
    /// For expiry and claims.
    pub wall: WallTime,
}

/// A node: its Ed25519 public key (RFC 8032), 32 bytes. Shown as unpadded lower-case base32; so it is in JSON, while
/// postcard carries the bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// A mesh: the public key of its root, 32 bytes. Shown and carried as a [`NodeId`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshId(pub [u8; 32]);

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// RFC 4648 base32, lower case, no padding.
fn base32(bytes: &[u8], out: &mut impl fmt::Write) -> fmt::Result {
    let (mut acc, mut bits) = (0u32, 0u32);
    for &byte in bytes {
        acc = (acc << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.write_char(char::from(BASE32[((acc >> bits) & 31) as usize]))?;
        }
        acc &= (1 << bits) - 1;
    }
    if bits > 0 {
        out.write_char(char::from(BASE32[((acc << (5 - bits)) & 31) as usize]))?;
    }
    Ok(())
}

/// A text that is not what its type wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct ParseIdentError {
    /// What was given.
    pub text: String,
    /// What was wanted, with an example.
    pub what: &'static str,
}

fn unbase32(text: &str) -> Option<[u8; 32]> {
    let (mut out, mut at, mut acc, mut bits) = ([0u8; 32], 0, 0u32, 0u32);
    for byte in text.bytes() {
        let digit = BASE32
            .iter()
            .position(|&c| c == byte.to_ascii_lowercase())?;
        acc = (acc << 5) | u32::try_from(digit).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            *out.get_mut(at)? = u8::try_from((acc >> bits) & 255).ok()?;
            at += 1;
        }
        acc &= (1 << bits) - 1;
    }
    (at == 32 && acc == 0).then_some(out)
}

macro_rules! key_ident {
    ($name:ident, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                base32(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }
        impl FromStr for $name {
            type Err = ParseIdentError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                unbase32(text).map(Self).ok_or_else(|| ParseIdentError {
                    text: text.to_owned(),
                    what: $what,
                })
            }
        }
        impl $name {
            /// The first eight characters, for people.
            #[must_use]
            pub fn short(&self) -> String {
                let mut text = String::new();
                // Five bytes make eight characters; writing to a String cannot fail.
                let _ = base32(&self.0[..5], &mut text);
                text
            }
        }
    };
}
key_ident!(NodeId, "node id (52 characters of base32)");

impl NodeId {
    /// The first eight bytes as a number: how plugins know a member.
    #[must_use]
    pub fn handle(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}
key_ident!(MeshId, "mesh id (52 characters of base32)");

/// VXLAN network identifier, 24 bits, never 0 (RFC 7348 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The lowest.
    pub const MIN: Self = Self(1);
    /// The highest.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// # Errors
    /// If `number` is 0 or wider than 24 bits.
    pub fn new(number: u32) -> Result<Self, ParseIdentError> {
        if (1..1 << 24).contains(&number) {
            Ok(Self(number))
        } else {
            Err(ParseIdentError {
                text: number.to_string(),
                what: "VNI (1 to 16777215)",
            })
        }
    }

    /// The number, 1 to 2^24 - 1.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = ParseIdentError;
    fn try_from(number: u32) -> Result<Self, Self::Error> {
        Self::new(number)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// EUI-48 address, in wire order. Text in JSON, six bytes in postcard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// True for broadcast and multicast addresses (I/G bit, IEEE 802 §8.2).
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// True for `01:80:c2:00:00:00` to `0f`, which no bridge forwards (IEEE 802.1D §7.12.6).
    #[must_use]
    pub fn is_link_local_control(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && self.0[5] < 0x10
    }

    /// True if a station may send from it: neither zero nor a group.
    #[must_use]
    pub fn is_source(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }

    /// The IPv6 link-local address that is made of it (RFC 4291, appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let halves = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            halves(a ^ 2, b),
            halves(c, 0xff),
            halves(0xfe, d),
            halves(e, f),
        )
    }

    /// The MAC that a link-local address is made of, if it is made of one.
    #[must_use]
    pub fn of_link_local(ip: Ipv6Addr) -> Option<Self> {
        match ip.octets() {
            [0xfe, second, _, _, _, _, _, _, a, b, c, 0xff, 0xfe, d, e, f]
                if second & 0xc0 == 0x80 =>
            {
                Some(Self([a ^ 2, b, c, d, e, f]))
            }
            _ => None,
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = ParseIdentError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseIdentError {
            text: text.to_owned(),
            what: "MAC address such as 02:00:00:00:00:01",
        };
        let mut out = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut out {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            Err(wrong())
        } else {
            Ok(Self(out))
        }
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

/// Text for people's formats, raw bytes for ours.
macro_rules! text_or_bytes {
    ($name:ident, $len:literal) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() {
                    to.collect_str(self)
                } else {
                    self.0.serialize(to)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    String::deserialize(from)?
                        .parse()
                        .map_err(serde::de::Error::custom)
                } else {
                    <[u8; $len]>::deserialize(from).map(Self)
                }
            }
        }
    };
}
text_or_bytes!(NodeId, 32);
text_or_bytes!(MeshId, 32);
text_or_bytes!(MacAddr, 6);

macro_rules! number_ident {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
number_ident!(/// A port of this node. Never used twice, also not over restarts.
    PortId(u32));
number_ident!(/// One QUIC connection, as the shell numbers it. Never used twice in one run.
    SessionId(u64));
number_ident!(/// What config, plugins and topology bump. A ruling counts only if its epoch is current.
    Epoch(u64));
number_ident!(/// One upcall of one lane.
    UpcallId(u64));
number_ident!(/// One policy question.
    QueryId(u64));
number_ident!(/// A plugin in a network's chain, as the shell numbers it. Never used twice in one run.
    AttachmentId(u32));
number_ident!(/// One command of the API, answered once.
    CommandId(u64));

/// A name of a network interface: 1 to 15 bytes, any but `/`, NUL and what the kernel takes for white space
/// (`dev_valid_name` in net/core/dev.c). Not always UTF-8, so it travels as bytes and is shown escaped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct IfName(Vec<u8>);

impl IfName {
    /// # Errors
    /// If the kernel would refuse the name; the text says why.
    pub fn new(bytes: &[u8]) -> Result<Self, IfNameError> {
        let shown = || escape(bytes);
        match bytes {
            [] => Err(IfNameError::Empty),
            _ if bytes.len() > 15 => Err(IfNameError::Long {
                name: shown(),
                len: bytes.len(),
            }),
            b"." | b".." => Err(IfNameError::Reserved { name: shown() }),
            // The kernel's ctype table is Latin-1: 0xa0 counts as white space there.
            _ => match bytes
                .iter()
                .find(|b| matches!(b, 0 | b'/' | b':' | b'\t'..=b'\r' | b' ' | 0xa0))
            {
                Some(&byte) => Err(IfNameError::Byte {
                    name: shown(),
                    byte,
                }),
                None => Ok(Self(bytes.to_vec())),
            },
        }
    }

    /// The bytes, as the kernel has them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why the kernel would refuse an interface name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IfNameError {
    /// No bytes.
    #[error("an interface name must not be empty")]
    Empty,
    /// More than 15 bytes.
    #[error("interface name \"{name}\" has {len} bytes; the kernel takes at most 15")]
    Long {
        /// Escaped.
        name: String,
        /// In bytes.
        len: usize,
    },
    /// `.` or `..`.
    #[error("interface name \"{name}\" is reserved")]
    Reserved {
        /// Escaped.
        name: String,
    },
    /// With `%`, where the whole name is meant.
    #[error("interface name \"{name}\" holds '%', of which the kernel makes another name")]
    Template {
        /// Escaped.
        name: String,
    },
    /// A byte that the kernel refuses.
    #[error(
        "interface name \"{name}\" holds byte {byte:#04x}, which the kernel refuses (white space, '/', ':', NUL, 0xa0)"
    )]
    Byte {
        /// Escaped.
        name: String,
        /// The first such byte.
        byte: u8,
    },
}

/// Printable text for any bytes: control characters, backslashes, quotes and invalid UTF-8 as escapes, on one line.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control()
                || matches!(c, '\\' | '"' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
            {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for &byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl TryFrom<Vec<u8>> for IfName {
    type Error = IfNameError;
    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        Self::new(&bytes)
    }
}

impl From<IfName> for Vec<u8> {
    fn from(name: IfName) -> Self {
        name.0
    }
}

/// A name of a network, endpoint, node or mesh: one DNS label (RFC 1035 §2.3.1, RFC 1123 §2.1): 1 to 63 of `a-z 0-9 -`,
/// not starting or ending with `-`. Upper case is folded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// True for `7` and the like, which also mean a port, a VNI or a node's id: such a name is not given.
    #[must_use]
    pub fn is_number(&self) -> bool {
        self.0.bytes().all(|b| b.is_ascii_digit())
    }

    /// The text, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = ParseIdentError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let folded = text.to_ascii_lowercase();
        let fits = (1..=63).contains(&folded.len())
            && folded
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !folded.starts_with('-')
            && !folded.ends_with('-');
        if fits {
            Ok(Self(folded))
        } else {
            Err(ParseIdentError {
                text: escape(text.as_bytes()),
                what: "name (1 to 63 letters, digits or inner hyphens)",
            })
        }
    }
}

impl TryFrom<String> for Label {
    type Error = ParseIdentError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_node_id_reads_back_what_it_shows(bytes: [u8; 32]) {
            prop_assert_eq!(NodeId(bytes).to_string().parse::<NodeId>().unwrap(), NodeId(bytes));
        }

        #[test]
        fn a_link_local_address_names_the_mac_that_it_is_made_of(bytes: [u8; 6]) {
            let ip = MacAddr(bytes).link_local();
            prop_assert!(ip.is_unicast_link_local());
            prop_assert_eq!(MacAddr::of_link_local(ip), Some(MacAddr(bytes)));
        }

        #[test]
        fn a_mac_reads_back_what_it_shows(bytes: [u8; 6]) {
            prop_assert_eq!(MacAddr(bytes).to_string().parse::<MacAddr>().unwrap(), MacAddr(bytes));
        }

        #[test]
        fn an_escaped_name_is_one_printable_line(bytes: Vec<u8>) {
            prop_assert!(escape(&bytes).chars().all(|c| !c.is_control()));
        }
    }

    #[test]
    fn ids_are_text_in_json_and_raw_bytes_on_the_wire() {
        let (node, mac) = (NodeId([7; 32]), MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(
            serde_json::to_string(&(node, mac)).unwrap(),
            format!("[\"{node}\",\"{mac}\"]")
        );
        assert_eq!(
            serde_json::from_str::<(NodeId, MacAddr)>(
                &serde_json::to_string(&(node, mac)).unwrap()
            )
            .unwrap(),
            (node, mac)
        );
        let wire = postcard::to_stdvec(&(node, mac)).unwrap();
        assert_eq!(wire.len(), 38);
        assert_eq!(
            postcard::from_bytes::<(NodeId, MacAddr)>(&wire).unwrap(),
            (node, mac)
        );
    }

    #[test]
    fn names_the_kernel_takes_are_taken_and_the_others_are_refused_with_the_byte() {
        for name in [
            &b"eth0"[..],
            b"-x",
            b"eth%d",
            b"\xff\xfe",
            "caf\u{e9}".as_bytes(),
            "\u{1f980}".as_bytes(),
            b"$(x)*\"'",
        ] {
            assert_eq!(IfName::new(name).unwrap().as_bytes(), name);
        }
        for name in [
            &b""[..],
            b".",
            b"..",
            b"a/b",
            b"a b",
            b"a\tb",
            b"a:b",
            b"sixteen-bytes-xx",
            b"a\xa0b",
            b"a\0b",
        ] {
            assert!(IfName::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_vni_has_24_bits_and_is_not_zero() {
        assert!(Vni::new(0).is_err());
        assert!(Vni::new(1 << 24).is_err());
        assert_eq!(Vni::new((1 << 24) - 1).unwrap().get(), 16_777_215);
    }
}
