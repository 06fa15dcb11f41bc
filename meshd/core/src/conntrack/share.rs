//! Who has how many connections, and who has most: that one gives way.

use std::collections::{BTreeMap, BTreeSet};

/// Counts by holder, with the largest at hand.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    counts: BTreeMap<K, usize>,
    order: BTreeSet<(usize, K)>,
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self {
            counts: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<K: Copy + Ord> Shares<K> {
    pub(crate) fn count(&self, holder: &K) -> usize {
        self.counts.get(holder).copied().unwrap_or(0)
    }

    fn set(&mut self, holder: K, from: usize, to: usize) {
        self.order.remove(&(from, holder));
        if to == 0 {
            self.counts.remove(&holder);
        } else {
            self.counts.insert(holder, to);
            self.order.insert((to, holder));
        }
    }

    pub(crate) fn add(&mut self, holder: K) {
        let count = self.count(&holder);
        self.set(holder, count, count + 1);
    }

    pub(crate) fn remove(&mut self, holder: K) {
        let count = self.count(&holder);
        self.set(holder, count, count.saturating_sub(1));
    }

    /// Who has most; of several `own`, if it is one of them.
    pub(crate) fn largest(&self, own: K) -> K {
        match self.order.last() {
            Some(&(count, holder)) if count > self.count(&own) => holder,
            _ => own,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}
