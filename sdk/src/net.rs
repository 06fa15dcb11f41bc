//! A range of IP addresses.

use core::fmt;
use core::str::FromStr;
use std::net::IpAddr;

/// An address with a prefix length, such as `10.0.0.0/24` or `fd00::/8`; without a length it is one address. In a config
/// it is that text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    /// IPv4 as `::ffff:a.b.c.d`.
    bits: u128,
    /// Of the 128 bits.
    len: u8,
    /// `bits` say it too, but to look there each time costs a guest fuel.
    v4: bool,
}

/// `::ffff:0:0/96`
const MAPPED: u128 = 0xffff << 32;

/// An address as the key carries it.
pub(crate) fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => MAPPED | u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first `len` of 128 bits.
pub(crate) fn prefix(bits: u128, len: u8) -> u128 {
    if len == 0 {
        0
    } else {
        bits & (u128::MAX << (128 - u32::from(len.min(128))))
    }
}

impl Net {
    /// # Errors
    /// If `len` is more than the address has bits, or the address has bits behind the prefix: `10.0.0.1/24` is more often
    /// a slip than meant.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, ParseNetError> {
        let (width, offset) = if address.is_ipv4() {
            (32, 96)
        } else {
            (128, 0)
        };
        let wrong = |what| ParseNetError {
            text: format!("{address}/{len}"),
            what,
        };
        if len > width {
            return Err(wrong("the prefix is longer than the address"));
        }
        let (bits, len) = (address_bits(address), len + offset);
        if prefix(bits, len) != bits {
            return Err(wrong("the address has bits behind the prefix"));
        }
        let v4 = len >= 96 && bits >> 32 == MAPPED >> 32;
        Ok(Self { bits, len, v4 })
    }

    /// IPv4?
    #[must_use]
    pub fn is_v4(self) -> bool {
        self.v4
    }

    /// The first and the last address, as the key carries them.
    pub(crate) fn range(self) -> (u128, u128) {
        let behind = u128::MAX.checked_shr(self.len.into()).unwrap_or_default();
        (self.bits, self.bits | behind)
    }

    /// The prefix and its length, of 128 bits.
    #[cfg(asked)]
    pub(crate) fn halves(self) -> (crate::wit::types::Ip, u8) {
        // The halves of 128 bits have 64 each.
        let (hi, lo) = ((self.bits >> 64) as u64, self.bits as u64);
        (crate::wit::types::Ip { hi, lo }, self.len)
    }

    /// Whether it holds these bits, of an address of its family, and how many of their leading ones that rests on: the prefix
    /// on a hit, and on a miss as far as the first difference.
    #[cfg(not(asked))]
    pub(crate) fn test(self, bits: u128) -> (bool, u8) {
        // At most 128, so it fits. Of IPv4 the first 96 bits are always the same; to leave them out saves a guest fuel.
        let same = if self.v4 {
            96 + (bits as u32 ^ self.bits as u32).leading_zeros() as u8
        } else {
            let differ = bits ^ self.bits;
            match (differ >> 64) as u64 {
                0 => 64 + (differ as u64).leading_zeros() as u8,
                high => high.leading_zeros() as u8,
            }
        };
        if same >= self.len {
            (true, self.len)
        } else {
            (false, same + 1)
        }
    }
}

/// A text that is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseNetError {
    text: String,
    what: &'static str,
}

impl fmt::Display for ParseNetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no range of addresses: {} (examples: 10.0.0.0/24, fd00::/8, 10.0.0.7)",
            self.text, self.what
        )
    }
}

impl core::error::Error for ParseNetError {}

impl FromStr for Net {
    type Err = ParseNetError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |what| ParseNetError {
            text: text.to_owned(),
            what,
        };
        let (address, len) = text
            .split_once('/')
            .map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address
            .parse()
            .map_err(|_| wrong("the address does not read"))?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let len = len.map_or(Ok(full), |len| {
            len.parse()
                .map_err(|_| wrong("the prefix length does not read"))
        })?;
        Self::new(address, len)
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = std::net::Ipv6Addr::from_bits(self.bits);
        match v6.to_ipv4_mapped().filter(|_| self.is_v4()) {
            Some(v4) => write!(f, "{v4}/{}", self.len - 96),
            None => write!(f, "{v6}/{}", self.len),
        }
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_net_reads_back_what_it_shows_and_slips_are_refused() {
        for text in [
            "10.0.0.0/24",
            "0.0.0.0/0",
            "10.0.0.7/32",
            "::/0",
            "fd00::/8",
            "fd00::1/128",
        ] {
            assert_eq!(text.parse::<Net>().unwrap().to_string(), text);
        }
        assert_eq!(
            "10.0.0.7".parse::<Net>().unwrap().to_string(),
            "10.0.0.7/32"
        );
        for text in [
            "",
            "10.0.0.1/24",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "x",
        ] {
            assert!(text.parse::<Net>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_hit_rests_on_the_prefix_and_a_miss_on_the_bits_up_to_the_first_difference() {
        let net: Net = "10.0.0.0/24".parse().unwrap();
        assert_eq!(
            net.test(address_bits("10.0.0.9".parse().unwrap())),
            (true, 120)
        );
        assert_eq!(
            net.test(address_bits("10.0.1.9".parse().unwrap())),
            (false, 120)
        );
        assert_eq!(
            net.test(address_bits("138.0.0.9".parse().unwrap())),
            (false, 97)
        );
    }
}
