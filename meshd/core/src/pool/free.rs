//! Which numbers of a pool are free, and which of them is leased next.
//!
//! ```text
//!   owned   |--------------------------|        |-----------|
//!   within              |~~~~~~~~~~~~~~~~~~~~~~~~~~~|              what is of use to who asks
//!   leased, used        ## #   ####                              stepped over, as many as there are
//!                         ^ the next one, unless it is to be avoided
//! ```
//!
//! Owns the order in which addresses are leased. What is looked at is bounded by what was leased here and by [`SCAN_MAX`],
//! however large the subnet is and wherever in it the part lies.

use super::Pool;
use crate::ranges::{Span, address};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Addresses that are free here and to be avoided, looked at for one lease.
const SCAN_MAX: u32 = 1 << 16;

impl Pool {
    /// The lowest free number of `within` that is not remembered as used, and its address.
    pub(super) fn never_used(
        &self,
        within: Span,
        avoid: &dyn Fn(IpAddr) -> bool,
    ) -> Option<(u128, IpAddr)> {
        let used: BTreeSet<u128> = self.used.iter().copied().collect();
        let mut budget = SCAN_MAX;
        for span in self.owned_within(within) {
            for at in span.first..=span.last {
                if self.leases.contains_key(&at) || used.contains(&at) {
                    continue;
                }
                let ip = address(&self.kept.subnet, at)?;
                if !avoid(ip) {
                    return Some((at, ip));
                }
                budget = budget.checked_sub(1)?;
            }
        }
        None
    }

    /// The number that came back first, of those of `within` that are free and owned here.
    pub(super) fn used_first(
        &self,
        within: Span,
        avoid: &dyn Fn(IpAddr) -> bool,
    ) -> Option<(u128, IpAddr)> {
        self.used.iter().find_map(|&at| {
            let ip = address(&self.kept.subnet, at)?;
            let free = self.kept.owned.contains(at) && !self.leases.contains_key(&at);
            (free && within.contains(at) && !avoid(ip)).then_some((at, ip))
        })
    }

    /// How many addresses could be leased.
    pub(super) fn free(&self) -> u128 {
        self.kept
            .owned
            .total()
            .saturating_sub(self.leases.len() as u128)
    }

    fn owned_within(&self, within: Span) -> impl Iterator<Item = Span> + '_ {
        let owned = self.kept.owned.iter();
        owned.filter_map(move |(first, last)| Span { first, last }.meet(within))
    }

    /// The free runs of `within`, largest first; of two of one size the higher first, since leases begin at the low end.
    pub(super) fn free_runs(&self, within: Span) -> Vec<Span> {
        let mut runs = Vec::new();
        for span in self.owned_within(within) {
            let mut from = Some(span.first);
            for &taken in self.leases.range(span.first..=span.last).map(|(at, _)| at) {
                if let Some(first) = from.filter(|&first| first < taken) {
                    let last = taken - 1;
                    runs.push(Span { first, last });
                }
                from = taken.checked_add(1);
            }
            if let Some(first) = from.filter(|&first| first <= span.last) {
                let last = span.last;
                runs.push(Span { first, last });
            }
        }
        runs.sort_by_key(|run| std::cmp::Reverse((run.last - run.first, run.first)));
        runs
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ident::{Moment, NodeId, PortId, WallTime};
    use crate::pool::Kept;
    use crate::ranges::{Ranges, number};
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::{BTreeMap, VecDeque};

    fn pool(subnet: &str, owned: &[(u128, u128)]) -> Pool {
        let mut ranges = Ranges::default();
        for &(first, last) in owned {
            ranges.insert(first, last);
        }
        let pool = Pool::new(Kept {
            subnet: subnet.parse().unwrap(),
            author: NodeId([1; 32]),
            since: WallTime(1),
            owned: ranges,
            given: BTreeMap::new(),
            asked: BTreeMap::new(),
        });
        assert_eq!(pool.look, Moment::default());
        pool
    }

    const BASE: u128 = 0x0a00_0000;

    proptest! {
        #[test]
        fn the_next_lease_is_the_lowest_that_is_owned_of_use_and_neither_leased_used_nor_avoided(
            owned in proptest::collection::vec((2u128..250, 0u128..40), 0..6),
            within in (0u128..256, 0u128..256),
            leased in proptest::collection::btree_set(2u128..254, 0..120),
            used in proptest::collection::vec(2u128..254, 0..60),
            avoided in proptest::collection::btree_set(2u128..254, 0..40),
        ) {
            let owned: Vec<_> = owned
                .into_iter()
                .map(|(first, len)| (BASE + first, BASE + (first + len).min(254)))
                .collect();
            let mut pool = pool("10.0.0.0/24", &owned);
            let leased: BTreeSet<u128> = leased.into_iter().map(|n| BASE + n).filter(|&n| pool.kept.owned.contains(n)).collect();
            pool.leases = leased.iter().map(|&n| (n, PortId(1))).collect();
            pool.used = used.into_iter().map(|n| BASE + n).collect::<VecDeque<_>>();
            let within = Span { first: BASE + within.0, last: BASE + within.1 };
            let avoid = |ip: IpAddr| avoided.contains(&(number(ip) - BASE));
            let open = |n: &u128| pool.kept.owned.contains(*n) && within.contains(*n) && !leased.contains(n);
            let wanted = (BASE..BASE + 256).find(|n| open(n) && !pool.used.contains(n) && !avoided.contains(&(n - BASE)));
            prop_assert_eq!(pool.never_used(within, &avoid).map(|(n, _)| n), wanted);
            let back = pool.used.iter().copied().find(|n| open(n) && !avoided.contains(&(n - BASE)));
            prop_assert_eq!(pool.used_first(within, &avoid).map(|(n, _)| n), back);
            let runs = pool.free_runs(within);
            let mut free = BTreeSet::new();
            for run in &runs {
                prop_assert!(run.first <= run.last);
                for n in run.first..=run.last {
                    prop_assert!(free.insert(n), "runs are apart");
                }
            }
            prop_assert_eq!(free, (BASE..BASE + 256).filter(open).collect::<BTreeSet<_>>());
            prop_assert!(runs.windows(2).all(|two| two[0].last - two[0].first >= two[1].last - two[1].first));
        }
    }

    #[test]
    fn a_part_far_up_in_a_large_subnet_is_found_at_once_and_a_full_one_costs_what_is_leased() {
        for (subnet, owned, far) in [
            ("10.0.0.0/8", (0x0a00_0002, 0x0aff_fffe), 0x0aff_0000_u128),
            (
                "fd00::/64",
                (
                    number("fd00::2".parse().unwrap()),
                    number("fd00::ffff:ffff:ffff:ffff".parse().unwrap()),
                ),
                number("fd00::ffff:0:0:0".parse().unwrap()),
            ),
        ] {
            let mut pool = pool(subnet, &[owned]);
            let within = Span {
                first: far,
                last: far + 255,
            };
            let asked = Cell::new(0);
            let avoid = |_: IpAddr| {
                asked.set(asked.get() + 1);
                false
            };
            assert_eq!(pool.never_used(within, &avoid).unwrap().0, far);
            assert_eq!(asked.get(), 1);
            pool.leases = (far..far + 256).map(|n| (n, PortId(1))).collect();
            assert_eq!(pool.never_used(within, &avoid), None);
            assert_eq!(asked.get(), 1, "what is leased here is not asked about");
            assert_eq!(pool.free_runs(within), []);
        }
    }

    #[test]
    fn a_subnet_that_others_have_by_hand_is_given_up_after_a_bounded_look() {
        let pool = pool("10.0.0.0/8", &[(0x0a00_0002, 0x0aff_fffe)]);
        let asked = Cell::new(0u32);
        let avoid = |_: IpAddr| {
            asked.set(asked.get() + 1);
            true
        };
        assert_eq!(pool.never_used(Span::ALL, &avoid), None);
        assert_eq!(asked.get(), SCAN_MAX + 1);
    }
}
