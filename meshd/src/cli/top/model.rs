//! What `meshd top` knows and what is looked at. Pure: times come with what is seen.

use super::pages::{Content, Line, Page, Rates};
use meshd_core::view::Status;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::collections::BTreeMap;

/// Lines that one press of PgUp or PgDn passes.
const LEAP: usize = 20;
/// Letters of a filter.
const FILTER_MAX: usize = 60;

/// Answers of one moment.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Since the start.
    pub(super) at_ms: u64,
    pub(super) status: Status,
    pub(super) content: Content,
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Go,
    Quit,
}

/// See the module.
pub(super) struct Model {
    page: Page,
    seen: Option<Seen>,
    /// Of the page that is seen: bytes or frames a second by line, and what they were counted from.
    rates: Rates,
    totals: BTreeMap<String, [u64; 2]>,
    counted_at: Option<u64>,
    /// All drops a second.
    dropping: Option<u64>,
    dropped: Option<(u64, u64)>,
    trouble: Option<String>,
    /// Number of the line, among those that pass the filter.
    chosen: usize,
    filter: String,
    typing: bool,
    paused: bool,
    by_name: bool,
    details: bool,
    help: bool,
    colors: bool,
}

impl Model {
    pub(super) fn new(page: Page, filter: &str, colors: bool) -> Self {
        Self {
            page,
            seen: None,
            rates: Rates::new(),
            totals: BTreeMap::new(),
            counted_at: None,
            dropping: None,
            dropped: None,
            trouble: None,
            chosen: 0,
            filter: filter.chars().take(FILTER_MAX).collect(),
            typing: false,
            paused: false,
            by_name: false,
            details: false,
            help: false,
            colors,
        }
    }

    /// An answer came.
    pub(super) fn take(&mut self, seen: Seen) {
        self.trouble = None;
        let turned = self
            .seen
            .as_ref()
            .is_none_or(|before| before.content.page() != seen.content.page());
        if turned {
            self.totals.clear();
            self.counted_at = None;
        }
        let totals = seen.content.totals();
        let passed = self.counted_at.and_then(|at| seen.at_ms.checked_sub(at));
        self.rates = match passed.filter(|ms| *ms > 0) {
            Some(ms) => per_second(&self.totals, &totals, ms),
            None => Rates::new(),
        };
        self.totals = totals;
        self.counted_at = Some(seen.at_ms);
        let dropped = seen.status.dropped;
        self.dropping = self.dropped.and_then(|(at, before)| {
            let ms = seen.at_ms.checked_sub(at).filter(|ms| *ms > 0)?;
            Some(dropped.saturating_sub(before).saturating_mul(1000) / ms)
        });
        self.dropped = Some((seen.at_ms, dropped));
        self.seen = Some(seen);
        self.clamp();
    }

    /// No answer came. What was seen stays, and its age is told.
    pub(super) fn fail(&mut self, why: &str) {
        self.trouble = Some(why.to_owned());
    }

    /// Something was typed.
    pub(super) fn key(&mut self, event: &Event) -> Done {
        let Event::Key(key) = event else {
            return Done::Go;
        };
        if key.kind == KeyEventKind::Release {
            return Done::Go;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Done::Quit;
        }
        if self.typing {
            self.type_filter(key);
            return Done::Go;
        }
        match key.code {
            KeyCode::Char('q') => return Done::Quit,
            KeyCode::Esc if self.help || self.details => {
                self.help = false;
                self.details = false;
            }
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc => return Done::Quit,
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.by_name = !self.by_name,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Enter => self.details = !self.details,
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(Page::ALL.len() - 1),
            KeyCode::Down | KeyCode::Char('j') => self.chosen += 1,
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::PageDown => self.chosen += LEAP,
            KeyCode::PageUp => self.chosen = self.chosen.saturating_sub(LEAP),
            KeyCode::Home => self.chosen = 0,
            KeyCode::End => self.chosen = usize::MAX,
            KeyCode::Char(digit) => {
                let nth = digit.to_digit(10).and_then(|n| n.checked_sub(1));
                if let Some(page) = nth.and_then(|n| Page::ALL.get(n as usize)) {
                    self.page = *page;
                    self.chosen = 0;
                }
            }
            _ => {}
        }
        self.clamp();
        Done::Go
    }

    fn type_filter(&mut self, key: &KeyEvent) {
        match key.code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) if self.filter.chars().count() < FILTER_MAX => self.filter.push(c),
            _ => {}
        }
        self.clamp();
    }

    fn turn(&mut self, by: usize) {
        let at = Page::ALL.iter().position(|page| *page == self.page);
        let next = (at.unwrap_or_default() + by) % Page::ALL.len();
        if let Some(page) = Page::ALL.get(next) {
            self.page = *page;
        }
        self.chosen = 0;
    }

    fn clamp(&mut self) {
        self.chosen = self.chosen.min(self.lines().len().saturating_sub(1));
    }

    /// The lines of the page that pass the filter, in order.
    pub(super) fn lines(&self) -> Vec<Line> {
        let Some(content) = self.content() else {
            return Vec::new();
        };
        let mut lines = content.lines(&self.rates);
        if !self.filter.is_empty() {
            let wanted = self.filter.to_lowercase();
            lines.retain(|line| {
                let mut cells = line.cells.iter().chain(&line.details);
                cells.any(|cell| cell.to_lowercase().contains(&wanted))
            });
        }
        if self.by_name {
            lines.sort_by(|a, b| a.cells.cmp(&b.cells));
        } else {
            // Stable: lines of one weight keep the daemon's order.
            lines.sort_by_key(|line| std::cmp::Reverse(line.weight));
        }
        lines
    }

    /// What the page shows, once it was asked for.
    pub(super) fn content(&self) -> Option<&Content> {
        let content = &self.seen.as_ref()?.content;
        (content.page() == self.page).then_some(content)
    }

    /// Is another page wanted than was answered?
    pub(super) fn is_behind(&self) -> bool {
        self.content().is_none()
    }

    pub(super) fn page(&self) -> Page {
        self.page
    }

    pub(super) fn status(&self) -> Option<&Status> {
        self.seen.as_ref().map(|seen| &seen.status)
    }

    pub(super) fn dropping(&self) -> Option<u64> {
        self.dropping
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    pub(super) fn chosen(&self) -> usize {
        self.chosen
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    pub(super) fn is_typing(&self) -> bool {
        self.typing
    }

    pub(super) fn paused(&self) -> bool {
        self.paused
    }

    pub(super) fn by_name(&self) -> bool {
        self.by_name
    }

    pub(super) fn shows_details(&self) -> bool {
        self.details
    }

    pub(super) fn shows_help(&self) -> bool {
        self.help
    }

    pub(super) fn colors(&self) -> bool {
        self.colors
    }
}

/// What grew in `ms`, by the second. What began anew counts from nothing.
fn per_second(
    before: &BTreeMap<String, [u64; 2]>,
    now: &BTreeMap<String, [u64; 2]>,
    ms: u64,
) -> Rates {
    let rate = |before: u64, now: u64| {
        let grown = now.checked_sub(before).unwrap_or(now);
        grown.saturating_mul(1000) / ms
    };
    let known = now.iter().filter_map(|(id, now)| {
        let before = before.get(id)?;
        Some((
            id.clone(),
            [rate(before[0], now[0]), rate(before[1], now[1])],
        ))
    });
    known.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::pages::tests::{peer, seen};
    use super::*;

    fn press(model: &mut Model, code: KeyCode) -> Done {
        model.key(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn a_rate_is_what_came_between_two_answers_and_a_daemon_that_began_anew_counts_from_nothing() {
        let mut model = Model::new(Page::Peers, "", true);
        model.take(seen(1000, vec![peer(1, 10_000)]));
        assert_eq!(model.lines()[0].weight, 0);
        model.take(seen(3000, vec![peer(1, 30_000)]));
        assert_eq!(model.lines()[0].weight, 10_000);
        model.take(seen(4000, vec![peer(1, 500)]));
        assert_eq!(model.lines()[0].weight, 500);
    }

    #[test]
    fn a_filter_leaves_lines_that_have_it_and_the_choice_stays_among_them() {
        let mut model = Model::new(Page::Peers, "", true);
        model.take(seen(1000, (1..30).map(|n| peer(n, 0)).collect()));
        press(&mut model, KeyCode::End);
        assert_eq!(model.chosen(), 28);
        press(&mut model, KeyCode::Char('/'));
        for c in "NODE-7".chars() {
            press(&mut model, KeyCode::Char(c));
        }
        assert_eq!((model.lines().len(), model.chosen()), (1, 0));
        press(&mut model, KeyCode::Enter);
        assert_eq!(press(&mut model, KeyCode::Char('q')), Done::Quit);
        assert_eq!(press(&mut model, KeyCode::Esc), Done::Go);
        assert_eq!(model.lines().len(), 29);
        assert_eq!(press(&mut model, KeyCode::Esc), Done::Quit);
    }

    #[test]
    fn pages_are_turned_by_number_and_one_by_one_and_are_empty_until_they_are_answered() {
        let mut model = Model::new(Page::Peers, "", true);
        model.take(seen(1000, vec![peer(1, 0)]));
        press(&mut model, KeyCode::Left);
        assert_eq!(model.page(), Page::Events);
        assert!(model.is_behind() && model.lines().is_empty());
        press(&mut model, KeyCode::Tab);
        assert!(!model.is_behind());
        press(&mut model, KeyCode::Char('2'));
        assert_eq!(model.page(), Page::ALL[1]);
        press(&mut model, KeyCode::Char('9'));
        assert_eq!(model.page(), Page::ALL[1]);
    }

    #[test]
    fn what_was_seen_stays_when_the_daemon_is_gone() {
        let mut model = Model::new(Page::Peers, "", true);
        model.take(seen(1000, vec![peer(1, 0)]));
        model.fail("no daemon");
        assert_eq!(
            (model.trouble(), model.lines().len()),
            (Some("no daemon"), 1)
        );
        model.take(seen(2000, vec![peer(1, 0)]));
        assert_eq!(model.trouble(), None);
    }
}
