//! A rate that a lane keeps.

use crate::ident::Moment;

/// So many a second; what was not used is saved up, a second's worth at most.
#[derive(Debug)]
pub(super) struct Allowance {
    /// In nanoseconds.
    credit: u64,
    seen: Moment,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            credit: 1_000_000_000,
            seen: Moment(0),
        }
    }
}

impl Allowance {
    /// May one more be had now?
    pub(super) fn spend(&mut self, per_s: u32, now: Moment) -> bool {
        let price = 1_000_000_000 / u64::from(per_s.max(1));
        let earned = now.0.saturating_sub(self.seen.0);
        self.credit = self.credit.saturating_add(earned).min(1_000_000_000);
        self.seen = self.seen.max(now);
        let paid = self.credit.checked_sub(price);
        self.credit = paid.unwrap_or(self.credit);
        paid.is_some()
    }
}
