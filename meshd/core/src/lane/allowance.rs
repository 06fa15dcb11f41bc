//! Rates that a lane keeps, or several lanes of one port together.

use crate::ident::Moment;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SECOND: u64 = 1_000_000_000;

/// So many a second; what was not used is saved up, a second's worth at most. Shared by who asks at the same time: what one
/// spends, the others do not have.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// A second behind the moment up to which all is spent, in nanoseconds. So zero is a whole second's worth at any time.
    spent: AtomicU64,
}

impl Allowance {
    /// May one more be had now?
    pub(super) fn spend(&self, per_s: u32, now: Moment) -> bool {
        let price = SECOND / u64::from(per_s.max(1));
        let pay = |spent: u64| {
            let spent = spent.max(now.0).saturating_add(price);
            (spent <= now.0.saturating_add(SECOND)).then_some(spent)
        };
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.spent.fetch_update(set, fetch, pay).is_ok()
    }
}

/// What the lanes of one port may spend together: floods, copies, offers. A clone is the same purse.
#[derive(Clone, Debug, Default)]
pub struct Purse(pub(super) Arc<Allowances>);

#[derive(Debug, Default)]
pub(super) struct Allowances {
    pub(super) floods: Allowance,
    pub(super) probes: Allowance,
    pub(super) copies: Allowance,
    pub(super) offers: Allowance,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_is_saved_up_and_no_more_whoever_spends_it() {
        let (one, other) = (Purse::default(), Purse::default());
        let same = one.clone();
        let spent = |purse: &Purse, now| (0..50).filter(|_| purse.0.floods.spend(10, now)).count();
        assert_eq!(spent(&one, Moment(0)), 10);
        assert_eq!(spent(&same, Moment(0)), 0, "it is the same purse");
        assert_eq!(spent(&other, Moment(0)), 10, "and this is another");
        assert_eq!(spent(&same, Moment(SECOND / 2)), 5);
        assert_eq!(spent(&one, Moment(SECOND / 4)), 0, "time goes on only");
        assert_eq!(spent(&one, Moment(60 * SECOND)), 10);
        assert_eq!(spent(&same, Moment(60 * SECOND + SECOND / 10)), 1);
    }

    #[test]
    fn what_is_very_rare_or_very_frequent_keeps_its_rate() {
        let purse = Purse::default();
        assert!(purse.0.copies.spend(0, Moment(0)), "at least one a second");
        assert!(!purse.0.copies.spend(0, Moment(SECOND / 2)));
        assert!(purse.0.copies.spend(1, Moment(SECOND)));
        let all = (0..2_000_000).filter(|_| purse.0.offers.spend(1_000_000, Moment(0)));
        assert_eq!(all.count(), 1_000_000);
    }
}
