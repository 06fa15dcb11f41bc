//! Superframes that were sent, and what the peer says became of them.

use crate::wire::probe::{Fault, Heard};

/// Altered ones in a row after which offload counts as broken: one could be an accident.
pub(super) const ALTERED_MIN: u32 = 2;
/// Ones in a row of which parts never came, while other probes did.
pub(super) const MISSED_MIN: u32 = 5;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Supers {
    /// Number of the last one.
    last: u16,
    /// Sent since proof began.
    sent: u16,
    /// Numbers in the last echo.
    ok: u16,
    bad: u16,
    /// The last one was spoken of.
    answered: bool,
    /// The peer has spoken since the last one was sent: one that says nothing at all has missed nothing.
    echoed: bool,
    /// One came whole, and none altered after it.
    pub(super) whole: bool,
    /// In a row.
    pub(super) altered: u32,
    /// In a row.
    pub(super) missed: u32,
    /// Of the last bad one.
    pub(super) fault: Option<Fault>,
}

impl Supers {
    /// What came so far proves nothing any more.
    pub(super) fn begin(&mut self) {
        *self = Self {
            last: self.last,
            ok: self.ok,
            bad: self.bad,
            ..Self::default()
        };
    }

    /// One more is sent: its number.
    pub(super) fn send(&mut self) -> u16 {
        if self.sent > 0 && !self.answered && self.echoed {
            self.missed = self.missed.saturating_add(1);
        }
        (self.answered, self.echoed) = (false, false);
        self.sent = self.sent.saturating_add(1);
        self.last = self.last.checked_add(1).unwrap_or(1);
        self.last
    }

    pub(super) fn sent(&self) -> u16 {
        self.sent
    }

    pub(super) fn echo(&mut self, heard: &Heard) {
        self.echoed = true;
        let ours = |number: u16| number != 0 && self.last.wrapping_sub(number) < self.sent;
        let (ok, bad) = (
            heard.super_ok != self.ok && ours(heard.super_ok),
            heard.super_bad != self.bad && ours(heard.super_bad),
        );
        // What is newer has the last word.
        let age = |number: u16| self.last.wrapping_sub(number);
        if ok && bad && age(heard.super_ok) < age(heard.super_bad) {
            self.bad(heard);
            self.ok(heard);
            return;
        }
        if ok {
            self.ok(heard);
        }
        if bad {
            self.bad(heard);
        }
    }

    fn ok(&mut self, heard: &Heard) {
        self.ok = heard.super_ok;
        self.answered |= self.ok == self.last;
        (self.whole, self.altered, self.missed, self.fault) = (true, 0, 0, None);
    }

    fn bad(&mut self, heard: &Heard) {
        self.bad = heard.super_bad;
        self.fault = heard.super_fault;
        if heard.super_fault == Some(Fault::Incomplete) {
            // If it is not the last one, its silence was counted when the next was sent.
            if self.bad == self.last && !self.answered {
                self.missed = self.missed.saturating_add(1);
            }
        } else {
            self.altered = self.altered.saturating_add(1);
            self.whole = false;
        }
        self.answered |= self.bad == self.last;
    }
}
