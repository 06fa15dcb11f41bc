//! The figures that a controller keeps for the operator.

use meshd_core::ident::escape;
use std::collections::BTreeMap;

/// Names of one attachment; what comes behind is counted together.
const NAMES: usize = 64;
/// Letters of a name.
const NAME: usize = 64;
/// The name of those that have none of their own.
const OTHERS: &str = "others";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Figures(BTreeMap<String, i64>);

impl Figures {
    /// Adds to one that only grows.
    pub(super) fn count(&mut self, name: &str, n: u64) {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        let figure = self.of(name);
        *figure = figure.saturating_add(n);
    }

    /// Sets one.
    pub(super) fn gauge(&mut self, name: &str, value: i64) {
        *self.of(name) = value;
    }

    fn of(&mut self, name: &str) -> &mut i64 {
        let cut: String = name.chars().take(NAME).collect();
        let mut name = escape(cut.as_bytes());
        if self.0.len() >= NAMES && !self.0.contains_key(&name) {
            name = OTHERS.to_owned();
        }
        self.0.entry(name).or_default()
    }

    pub(super) fn all(&self) -> BTreeMap<String, i64> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_what_has_none_is_counted_together() {
        let mut figures = Figures::default();
        for n in 0..1000 {
            figures.count(&format!("n{n}"), 1);
        }
        figures.gauge("n0", -7);
        figures.count("n1", u64::MAX);
        let all = figures.all();
        assert_eq!(all.len(), 65);
        assert_eq!(all.get("others"), Some(&936));
        assert_eq!(all.get("n0"), Some(&-7));
        assert_eq!(all.get("n1"), Some(&i64::MAX));
    }
}
