//! An address of the link layer, and a table by such.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

/// A MAC address (EUI-48). As text, and in a config: `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac {
    /// The lower 48. Not bytes: to swap those costs a guest fuel.
    bits: u64,
}

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self::new([0xff; 6]);

    /// From bytes in wire order.
    #[must_use]
    pub const fn new([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self {
            bits: u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
        }
    }

    /// Bytes in wire order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.bits.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// Of a group: multicast, broadcast.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.bits >> 40 & 1 == 1
    }

    pub(crate) const fn from_halves(hi: u16, lo: u32) -> Self {
        Self {
            bits: (hi as u64) << 32 | lo as u64,
        }
    }

    #[cfg(asked)]
    pub(crate) const fn halves(self) -> crate::wit::types::Mac {
        // The upper of 48 bits are 16; of the others the lower 32 are meant.
        crate::wit::types::Mac {
            hi: (self.bits >> 32) as u16,
            lo: self.bits as u32,
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) const fn bits(self) -> u64 {
        self.bits
    }

    /// Whether they are equal, and how many leading bits that rests on.
    pub(crate) fn compare(self, other: Self) -> (bool, u8) {
        let difference = self.bits ^ other.bits;
        if difference == 0 {
            return (true, 48);
        }
        // Of 64 bits the first 16 are empty, and there is a difference behind them.
        (false, difference.leading_zeros() as u8 - 15)
    }
}

/// Values by MAC, for [`crate::Key::src_mac_in`]: to look one up takes a few steps however many there are.
#[derive(Clone, Debug)]
pub struct MacMap<T> {
    /// In ascending order, each once.
    entries: Vec<(Mac, T)>,
}

impl<T> Default for MacMap<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

impl<T> FromIterator<(Mac, T)> for MacMap<T> {
    fn from_iter<I: IntoIterator<Item = (Mac, T)>>(entries: I) -> Self {
        let sorted: BTreeMap<Mac, T> = entries.into_iter().collect();
        Self {
            entries: sorted.into_iter().collect(),
        }
    }
}

impl<T> MacMap<T> {
    /// The value, and how many leading bits of `mac` the answer rests on. Nobody shares more of them than its neighbours in
    /// the order do, so those tell it apart from all.
    pub(crate) fn look(&self, mac: Mac) -> (Option<&T>, u8) {
        let at = self.entries.partition_point(|(entry, _)| *entry < mac);
        let mut rests = 0;
        for neighbour in [Some(at), at.checked_sub(1)] {
            if let Some((entry, value)) = neighbour.and_then(|at| self.entries.get(at)) {
                match entry.compare(mac) {
                    (true, bits) => return (Some(value), bits),
                    (false, bits) => rests = bits.max(rests),
                }
            }
        }
        (None, rests)
    }
}

/// A text that is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseMacError {
    text: String,
}

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no MAC address (example: 02:00:00:00:00:01)",
            self.text
        )
    }
}

impl core::error::Error for ParseMacError {}

impl FromStr for Mac {
    type Err = ParseMacError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseMacError {
            text: text.to_owned(),
        };
        let mut parts = text.split(':');
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            let hex = part.filter(|part| part.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = hex
                .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                .ok_or_else(wrong)?;
        }
        parts
            .next()
            .is_none()
            .then_some(Self::new(bytes))
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_back_what_it_shows_and_slips_are_refused() {
        let mac: Mac = "02:00:0a:00:00:FF".parse().expect("a MAC");
        assert_eq!(mac.to_string(), "02:00:0a:00:00:ff");
        for wrong in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
            "02-00-00-00-00-01",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_miss_rests_on_the_bits_that_tell_it_from_the_nearest() {
        let macs: MacMap<u8> = [5, 6, 9]
            .map(|n| (Mac::new([2, 0, 0, 0, 0, n]), n))
            .into_iter()
            .collect();
        assert_eq!(macs.look(Mac::new([2, 0, 0, 0, 0, 6])), (Some(&6), 48));
        // 4 is 0100, 5 is 0101; 15 is 1111, 9 is 1001.
        assert_eq!(macs.look(Mac::new([2, 0, 0, 0, 0, 4])), (None, 48));
        assert_eq!(macs.look(Mac::new([2, 0, 0, 0, 0, 15])), (None, 46));
        assert_eq!(macs.look(Mac::new([0x82, 0, 0, 0, 0, 6])), (None, 1));
        assert_eq!(MacMap::<u8>::default().look(Mac::BROADCAST), (None, 0));
    }
}
