//! What a controller tells the operator: the last lines of one attachment, and how it failed.
//!
//! ```text
//!   log(level, text) --50 a second, 512 bytes each--> the last 1000 lines --> meshd plugin logs
//!                        | more: counted, and said in one line
//! ```

use meshd_plugin_host::contract::types::LogLevel;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Lines that are kept.
const LINES: usize = 1000;
/// Lines a second, and as many at once.
const RATE: u32 = 50;
/// Bytes of a line.
const LINE: usize = 512;

/// A line of a controller's log, to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = LogLine)]
pub struct LogLine {
    /// Grows by one with each line of the attachment.
    pub seq: u64,
    /// Ms since 1970.
    pub at_ms: u64,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// In its words, without control characters.
    pub text: String,
}

struct Held {
    lines: VecDeque<LogLine>,
    next: u64,
    tokens: u32,
    filled: Instant,
    suppressed: u64,
}

/// See the module.
pub(super) struct Journal(Mutex<Held>);

impl Default for Journal {
    fn default() -> Self {
        Self(Mutex::new(Held {
            lines: VecDeque::new(),
            next: 1,
            tokens: RATE,
            filled: Instant::now(),
            suppressed: 0,
        }))
    }
}

impl Held {
    fn push(&mut self, level: LogLevel, text: &str) {
        let mut cut = text.len().min(LINE);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        if self.lines.len() >= LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(LogLine {
            seq: self.next,
            at_ms: crate::clock::wall().0,
            level: word(level).to_owned(),
            text: plain(text.get(..cut).unwrap_or_default()),
        });
        self.next += 1;
    }
}

/// Without what would move a cursor or begin another line.
fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

fn word(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}

impl Journal {
    /// A line of the guest's.
    pub(super) fn line(&self, level: LogLevel, text: &str, now: Instant) {
        let mut held = self.lock();
        let earned =
            now.saturating_duration_since(held.filled).as_millis() * u128::from(RATE) / 1000;
        if let Ok(earned @ 1..) = u32::try_from(earned.min(u128::from(RATE))) {
            held.tokens = (held.tokens + earned).min(RATE);
            held.filled = now;
        }
        if held.tokens == 0 {
            held.suppressed += 1;
            return;
        }
        held.tokens -= 1;
        match std::mem::take(&mut held.suppressed) {
            0 => {}
            n => held.push(
                LogLevel::Warn,
                &format!("{n} lines were left out: more than {RATE} a second"),
            ),
        }
        held.push(level, text);
    }

    /// A line of the host's, which are few.
    pub(super) fn host(&self, level: LogLevel, text: &str) {
        self.lock().push(level, text);
    }

    /// The lines behind `after`.
    pub(super) fn since(&self, after: u64) -> Vec<LogLine> {
        let held = self.lock();
        let lines = held.lines.iter().filter(|line| line.seq > after);
        lines.cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// For one line to fit again.
    const TURN: Duration = Duration::from_millis(1000 / RATE as u64);

    #[test]
    fn a_flood_of_lines_is_cut_to_its_rate_and_says_how_many_were_left_out() {
        let (journal, now) = (Journal::default(), Instant::now());
        for n in 0..500 {
            journal.line(LogLevel::Info, &format!("line {n}"), now);
        }
        assert_eq!(journal.since(0).len(), 50);
        journal.line(LogLevel::Info, "later", now + TURN);
        let last = journal.since(50);
        assert_eq!(last.len(), 2, "{last:?}");
        assert!(
            last.iter()
                .any(|line| line.text.starts_with("450 lines were left out"))
        );
        let long = "\u{e4}\n".repeat(1000);
        journal.line(LogLevel::Info, &long, now + 2 * TURN);
        let cut = journal.since(52);
        let fits = |line: &LogLine| line.text.len() <= 2 * LINE && !line.text.contains('\n');
        assert!(cut.len() == 1 && cut.iter().all(fits), "{cut:?}");
        for n in 0..2000 {
            journal.host(LogLevel::Error, &format!("fault {n}"));
        }
        assert_eq!(journal.since(0).len(), LINES);
    }
}
