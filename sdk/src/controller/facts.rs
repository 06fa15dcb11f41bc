//! Facts: what a controller tells the policy of its crate. Both sides name them by a prefix and a key, and agree on a type.
//!
//! ```
//! use meshd_sdk::controller::{Commit, FactMap};
//! use std::net::IpAddr;
//!
//! // The controller: `host.commit(…)`.
//! let ip: IpAddr = [10, 0, 0, 5].into();
//! let commit = Commit::new().put("ip/", &ip, &7u32);
//! // The policy, in `update`.
//! let mut ports = FactMap::<IpAddr, u32>::default();
//! for change in commit.facts() {
//!     ports.apply("ip/", change);
//! }
//! assert_eq!(ports.get(&ip), Some(&7));
//! ```

use crate::mac::Mac;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// One fact that was entered, or went (`None`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactChange {
    /// Its name.
    pub key: String,
    /// Its content.
    pub value: Option<Vec<u8>>,
}

/// What can be the content of a fact. Numbers are big-endian.
pub trait Fact: Sized {
    /// As bytes.
    fn write(&self, out: &mut Vec<u8>);
    /// From the beginning of `bytes`, which is moved on; none: they are something else.
    fn read(bytes: &mut &[u8]) -> Option<Self>;

    /// As bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// From exactly these bytes.
    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let value = Self::read(&mut bytes)?;
        bytes.is_empty().then_some(value)
    }
}

macro_rules! number {
    ($($ty:ty)*) => { $(
        impl Fact for $ty {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.to_be_bytes());
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                let (own, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_be_bytes(*own))
            }
        }
    )* };
}
number!(u8 u16 u32 u64 i64);

impl Fact for () {
    fn write(&self, _out: &mut Vec<u8>) {}

    fn read(_bytes: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl Fact for bool {
    fn write(&self, out: &mut Vec<u8>) {
        u8::from(*self).write(out);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        match u8::read(bytes)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Fact for Mac {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.octets());
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (own, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(Self::new(*own))
    }
}

impl Fact for IpAddr {
    fn write(&self, out: &mut Vec<u8>) {
        let bits = match self {
            Self::V4(ip) => ip.to_ipv6_mapped(),
            Self::V6(ip) => *ip,
        };
        out.extend(bits.octets());
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (own, rest) = bytes.split_first_chunk::<16>()?;
        *bytes = rest;
        let ip = Ipv6Addr::from(*own);
        let v4: Option<Ipv4Addr> = ip.to_ipv4_mapped();
        Some(v4.map_or(Self::V6(ip), Self::V4))
    }
}

/// With its length in front, so that something may come behind it.
impl Fact for String {
    fn write(&self, out: &mut Vec<u8>) {
        // A fact is shorter than that.
        u32::try_from(self.len()).unwrap_or(u32::MAX).write(out);
        out.extend(self.as_bytes());
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let length = usize::try_from(u32::read(bytes)?).ok()?;
        let (own, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Self::from_utf8(own.to_vec()).ok()
    }
}

macro_rules! tuple {
    ($($name:ident $at:tt),*) => {
        impl<$($name: Fact),*> Fact for ($($name,)*) {
            fn write(&self, out: &mut Vec<u8>) {
                $(self.$at.write(out);)*
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($name::read(bytes)?,)*))
            }
        }
    };
}
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);

/// The facts of one prefix, as a policy holds them.
#[derive(Clone, Debug)]
pub struct FactMap<K, V>(BTreeMap<K, V>);

impl<K, V> Default for FactMap<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + FromStr, V: Fact> FactMap<K, V> {
    /// Takes a change in, if it is of this prefix. One that does not read takes the fact away: what is not understood must
    /// not hold.
    pub fn apply(&mut self, prefix: &str, change: &FactChange) {
        let Some(key) = change.key.strip_prefix(prefix) else {
            return;
        };
        let Ok(key) = key.parse() else {
            return;
        };
        match change.value.as_deref().and_then(V::from_bytes) {
            Some(value) => self.0.insert(key, value),
            None => self.0.remove(&key),
        };
    }

    /// The fact of this key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    /// By key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_read_as_it_was_written_and_nothing_else_is_one() {
        let fact = (
            Mac::new([2, 0, 0, 0, 0, 1]),
            IpAddr::from([10, 0, 0, 1]),
            7u32,
        );
        let bytes = fact.to_bytes();
        assert_eq!(<(Mac, IpAddr, u32)>::from_bytes(&bytes), Some(fact));
        assert_eq!(<(Mac, IpAddr)>::from_bytes(&bytes), None, "there is more");
        assert_eq!(
            <(Mac, IpAddr, u64)>::from_bytes(&bytes),
            None,
            "there is less"
        );
        let v6: IpAddr = "fd00::1".parse().unwrap();
        let fact = ("a".to_owned(), (v6, true));
        assert_eq!(
            <(String, (IpAddr, bool))>::from_bytes(&fact.to_bytes()),
            Some(fact)
        );
        assert_eq!(bool::from_bytes(&[2]), None);
        assert_eq!(String::from_bytes(&[0xff; 5]), None);
    }

    #[test]
    fn what_does_not_read_takes_the_fact_away() {
        let mut map = FactMap::<u16, bool>::default();
        let change = |key: &str, value: Option<&[u8]>| FactChange {
            key: key.to_owned(),
            value: value.map(<[u8]>::to_vec),
        };
        map.apply("p/", &change("p/1", Some(&[1])));
        map.apply("p/", &change("q/2", Some(&[1])));
        map.apply("p/", &change("p/x", Some(&[1])));
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&1, &true)]);
        map.apply("p/", &change("p/1", Some(&[9])));
        assert!(map.is_empty());
    }
}
