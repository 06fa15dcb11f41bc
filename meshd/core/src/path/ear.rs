//! The receiver's side of a path: what was heard of the peer's probes, to be told to it.
//!
//! Owns the token that the peer must show, and the numbers heard. Times are of the path's own clock (see [`super`]).

use crate::ident::Moment;
use crate::wire::probe::{Fault, Heard, Segment, SuperCheck, SuperResult};

#[derive(Debug)]
pub(super) struct Ear {
    pub(super) token: u64,
    heard: Heard,
    /// When the highest number was heard; before any, when listening began.
    at: Moment,
    /// When the last probe or data frame was heard.
    pub(super) last: Option<Moment>,
    check: SuperCheck,
}

impl Ear {
    pub(super) fn new(token: u64, own: Moment) -> Self {
        Self {
            token,
            heard: Heard::default(),
            at: own,
            last: None,
            check: SuperCheck::new(),
        }
    }

    /// The peer began anew: its numbers may be any.
    pub(super) fn forget(&mut self, own: Moment) {
        let data = self.heard.data;
        *self = Self::new(self.token, own);
        self.heard.data = data;
    }

    pub(super) fn plain(&mut self, seq: u32, own: Moment) {
        let heard = &mut self.heard;
        self.last = Some(own);
        if seq > heard.seq_max {
            let ahead = seq - heard.seq_max;
            heard.window = heard.window.checked_shl(ahead).unwrap_or(0) | 1;
            heard.seq_max = seq;
            self.at = own;
        } else {
            heard.window |= 1u64.checked_shl(heard.seq_max - seq).unwrap_or(0);
        }
    }

    pub(super) fn segment(&mut self, segment: &Segment, own: Moment) {
        self.last = Some(own);
        let result = self.check.push(segment, own);
        self.result(result);
    }

    pub(super) fn altered(&mut self, superframe: Option<u16>, fault: Fault) {
        match superframe {
            None => self.heard.altered = self.heard.altered.wrapping_add(1),
            Some(number) => {
                let result = self.check.altered(number, fault);
                self.result(result);
            }
        }
    }

    fn result(&mut self, result: Option<SuperResult>) {
        match result {
            Some(SuperResult::Complete { number }) => self.heard.super_ok = number,
            Some(SuperResult::Altered { number, fault }) => {
                self.heard.super_bad = number;
                self.heard.super_fault = Some(fault);
            }
            None => {}
        }
    }

    pub(super) fn data(&mut self, frames: u64, own: Moment) {
        // Wraps on both sides.
        let frames = u32::try_from(frames & u64::from(u32::MAX)).unwrap_or_default();
        self.heard.data = self.heard.data.wrapping_add(frames);
        self.last = Some(own);
    }

    /// What to tell the peer.
    pub(super) fn heard(&self, own: Moment) -> Heard {
        let delay = own.0.saturating_sub(self.at.0) / 1000;
        Heard {
            delay_us: u32::try_from(delay).unwrap_or(u32::MAX),
            ..self.heard
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.check.poll_timeout()
    }

    pub(super) fn handle_timeout(&mut self, own: Moment) {
        while let Some(result) = self.check.handle_timeout(own) {
            self.result(Some(result));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_stays_in_the_window_in_any_order() {
        let mut ear = Ear::new(1, Moment(0));
        for seq in [5, 3, 7, 3, 6] {
            ear.plain(seq, Moment(u64::from(seq) * 1000));
        }
        let heard = ear.heard(Moment(9000));
        assert_eq!(
            (heard.seq_max, heard.window, heard.delay_us),
            (7, 0b10111, 2)
        );
        ear.plain(7 + 64, Moment(9000));
        assert_eq!(ear.heard(Moment(9000)).window, 1);
        ear.plain(u32::MAX, Moment(9000));
        ear.plain(1, Moment(9000));
        assert_eq!(ear.heard(Moment(9000)).window, 1);
    }
}
