//! Sets of addresses as ranges of numbers, and the arithmetic of a subnet.
//!
//! ```text
//!   10.0.0.0/24:   .0 network | .1 service | .2 ........ .254 for ports | .255 broadcast
//!   fd00::/64:     :: router anycast | ::1 service | ::2 ................ for ports
//! ```
//!
//! Owns the rule which addresses of a subnet may be leased. IPv4 addresses are their 32 bits as a number.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as a number.
#[must_use]
pub fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address of `subnet`'s family with this number; `None` if it is too large for it.
#[must_use]
pub fn address(subnet: &IpNet, number: u128) -> Option<IpAddr> {
    match subnet {
        IpNet::V4(_) => u32::try_from(number).ok().map(|n| Ipv4Addr::from(n).into()),
        IpNet::V6(_) => Some(Ipv6Addr::from(number).into()),
    }
}

/// The first host address of a subnet: the node's own presence on the network. `None` if the subnet is too small.
#[must_use]
pub fn service_address(subnet: &IpNet) -> Option<IpAddr> {
    leasable(subnet).and_then(|(first, _)| address(subnet, first - 1))
}

/// First and last number of what may be leased of a subnet. `None` if nothing may.
#[must_use]
pub fn leasable(subnet: &IpNet) -> Option<(u128, u128)> {
    let first = number(subnet.network()).checked_add(2)?;
    let last = match subnet {
        IpNet::V4(net) => u128::from(u32::from(net.broadcast())).checked_sub(1)?,
        IpNet::V6(net) => u128::from(net.broadcast()),
    };
    (first <= last).then_some((first, last))
}

/// The numbers `first..=last`; none if `first > last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The lowest.
    pub first: u128,
    /// The highest.
    pub last: u128,
}

impl Span {
    /// Every number.
    pub const ALL: Self = Self {
        first: 0,
        last: u128::MAX,
    };

    /// The addresses of a subnet, with those that are for no port.
    #[must_use]
    pub fn of(net: &IpNet) -> Self {
        Self {
            first: number(net.network()),
            last: number(net.broadcast()),
        }
    }

    /// True if the number is in.
    #[must_use]
    pub fn contains(self, number: u128) -> bool {
        self.first <= number && number <= self.last
    }

    /// What is in both; `None` if nothing is.
    #[must_use]
    pub fn meet(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { first, last })
    }

    /// The smallest one that has all of both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }
}

/// A set of numbers as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// First and last of each, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.0.iter().copied()
    }

    /// How many ranges, not numbers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many numbers.
    #[must_use]
    pub fn total(&self) -> u128 {
        self.iter().fold(0u128, |sum, (first, last)| {
            sum.saturating_add((last - first).saturating_add(1))
        })
    }

    /// True if the number is in.
    #[must_use]
    pub fn contains(&self, number: u128) -> bool {
        self.overlaps(number, number)
    }

    /// True if any number of `first..=last` is in.
    #[must_use]
    pub fn overlaps(&self, first: u128, last: u128) -> bool {
        self.iter().any(|(f, l)| f <= last && first <= l)
    }

    /// True if every number of the span is in.
    #[must_use]
    pub fn covers(&self, span: Span) -> bool {
        // Ranges do not touch, so that a span over two of them has a gap.
        self.iter().any(|(f, l)| f <= span.first && span.last <= l)
    }

    /// Puts `first..=last` in; nothing if `first > last`.
    pub fn insert(&mut self, first: u128, last: u128) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        // What overlaps or touches becomes part of the new one.
        self.0.retain(|&(f, l)| {
            let joins = f <= last.saturating_add(1) && first <= l.saturating_add(1);
            if joins {
                (first, last) = (first.min(f), last.max(l));
            }
            !joins
        });
        let at = self.0.partition_point(|&(f, _)| f < first);
        self.0.insert(at, (first, last));
    }

    /// Takes `first..=last` out.
    pub fn remove(&mut self, first: u128, last: u128) {
        let mut left = Vec::with_capacity(self.0.len() + 1);
        for (f, l) in self.iter() {
            if l < first || f > last {
                left.push((f, l));
                continue;
            }
            if f < first {
                left.push((f, first - 1));
            }
            if l > last {
                left.push((last + 1, l));
            }
        }
        self.0 = left;
    }

    /// True if sorted, apart from each other, and inside `first..=last`: what is read from the store is checked by it.
    #[must_use]
    pub fn is_sound(&self, first: u128, last: u128) -> bool {
        self.iter().all(|(f, l)| first <= f && f <= l && l <= last)
            && self
                .0
                .iter()
                .zip(self.0.iter().skip(1))
                .all(|(&(_, end), &(next, _))| end < next && next - end > 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn network_broadcast_service_and_zero_address_are_not_for_ports() {
        let net: IpNet = "10.0.0.0/30".parse().unwrap();
        let (first, last) = leasable(&net).unwrap();
        assert_eq!(
            (address(&net, first), address(&net, last)),
            (
                Some("10.0.0.2".parse().unwrap()),
                Some("10.0.0.2".parse().unwrap())
            )
        );
        assert_eq!(service_address(&net), Some("10.0.0.1".parse().unwrap()));
        let net: IpNet = "fd00::/126".parse().unwrap();
        let (first, last) = leasable(&net).unwrap();
        assert_eq!(
            (address(&net, first), address(&net, last)),
            (
                Some("fd00::2".parse().unwrap()),
                Some("fd00::3".parse().unwrap())
            )
        );
        for small in [
            "10.0.0.0/31",
            "10.0.0.0/32",
            "255.255.255.255/32",
            "fd00::/127",
            "fd00::/128",
            "::/0",
        ] {
            let net: IpNet = small.parse().unwrap();
            assert_eq!(leasable(&net).is_some(), small == "::/0", "{small}");
        }
    }

    proptest! {
        #[test]
        fn ranges_behave_as_a_set_of_numbers(steps: Vec<(bool, u8, u8)>) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (add, a, b) in steps {
                let (first, last) = (u128::from(a.min(b)), u128::from(a.max(b)));
                if add {
                    ranges.insert(first, last);
                    model.extend(first..=last);
                } else {
                    ranges.remove(first, last);
                    model.retain(|n| !(first..=last).contains(n));
                }
                prop_assert!(ranges.is_sound(0, 255));
                prop_assert_eq!(ranges.total(), model.len() as u128);
                prop_assert!((0..=255).all(|n| ranges.contains(n) == model.contains(&n)));
            }
        }

        #[test]
        fn the_ends_of_the_number_line_do_not_overflow(a: u128, b: u128) {
            let mut ranges = Ranges::default();
            ranges.insert(u128::MAX, u128::MAX);
            ranges.insert(a.min(b), u128::MAX);
            ranges.insert(0, a);
            ranges.remove(b, u128::MAX);
            prop_assert!(ranges.is_sound(0, u128::MAX));
        }
    }
}
