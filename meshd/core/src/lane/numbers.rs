//! Small numbers for receivers, so that a place for a flow names one in two bytes.
//!
//! Owns the numbers and who uses them: a receiver has one while a flow goes to it. A receiver that finds no number left has
//! none; its flows go the longer way, to the same end.

use crate::ruling::Output;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// The number of a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(u16);

impl Number {
    /// Of nobody.
    pub(super) const NONE: Self = Self(u16::MAX);
}

/// See the module.
#[derive(Debug)]
pub(super) struct Numbers {
    /// By number: the receiver, and how many flows use it. Those that nobody uses are in `free`.
    rows: Vec<(Output, u32)>,
    free: Vec<u16>,
    by_output: HashMap<Output, u16, FixedState>,
}

impl Numbers {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            rows: Vec::new(),
            free: Vec::new(),
            by_output: HashMap::with_hasher(hasher),
        }
    }

    /// Who has a number.
    #[inline(always)]
    pub(super) fn get(&self, number: Number) -> Option<&Output> {
        self.rows.get(usize::from(number.0)).map(|row| &row.0)
    }

    /// One more flow goes to a receiver. To be given back when it does not any more.
    pub(super) fn take(&mut self, output: Option<Output>) -> Number {
        let Some(output) = output else {
            return Number::NONE;
        };
        let known = self.by_output.get(&output).copied();
        let Some(number) = known.or_else(|| self.unused(output)) else {
            return Number::NONE;
        };
        if let Some(row) = self.rows.get_mut(usize::from(number)) {
            row.1 = row.1.saturating_add(1);
        }
        Number(number)
    }

    /// A flow does not go there any more.
    pub(super) fn give_back(&mut self, number: Number) {
        let Some((output, users)) = self.rows.get_mut(usize::from(number.0)) else {
            return;
        };
        *users = users.saturating_sub(1);
        if *users == 0 {
            self.by_output.remove(output);
            self.free.push(number.0);
        }
    }

    fn unused(&mut self, output: Output) -> Option<u16> {
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                let next = u16::try_from(self.rows.len()).ok();
                next.filter(|&next| Number(next) != Number::NONE)?
            }
        };
        match self.rows.get_mut(usize::from(number)) {
            Some(row) => *row = (output, 0),
            None => self.rows.push((output, 0)),
        }
        self.by_output.insert(output, number);
        Some(number)
    }

    /// Receivers with a number.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_output.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ident::PortId;

    fn port(n: u32) -> Option<Output> {
        Some(Output::Port(PortId(n)))
    }

    fn numbers() -> Numbers {
        Numbers::new(FixedState::with_seed(1))
    }

    #[test]
    fn a_receiver_keeps_its_number_while_a_flow_goes_to_it() {
        let mut numbers = numbers();
        let (one, again) = (numbers.take(port(1)), numbers.take(port(1)));
        assert_eq!(one, again);
        numbers.give_back(one);
        assert_ne!(numbers.take(port(2)), one);
        assert_eq!(numbers.get(one).copied(), port(1));
        numbers.give_back(one);
        assert_eq!(numbers.take(port(3)), one);
        assert_eq!(numbers.get(one).copied(), port(3));
        assert_eq!(numbers.len(), 2);
    }

    #[test]
    fn where_numbers_are_spent_there_is_none() {
        let mut numbers = numbers();
        let all = u32::from(u16::MAX);
        assert!((0..all).all(|n| numbers.take(port(n)) != Number::NONE));
        assert_eq!(numbers.take(port(all)), Number::NONE);
        assert_eq!(numbers.get(Number::NONE), None);
        numbers.give_back(Number::NONE);
        let first = numbers.take(port(0));
        numbers.give_back(first);
        numbers.give_back(first);
        assert_eq!(numbers.take(port(all)), first);
    }
}
