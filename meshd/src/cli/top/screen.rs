//! What `meshd top` draws.
//!
//! ```text
//!   mesh home, node one, up 2 h      peers 4/5   ports 3/3   dropped 12 (+3/s)
//!   1 Peers  2 Paths  3 Ports ...                                               the page is marked
//!   PEER     STATE  RTT   IN ...
//!   two      up     0.3   ...                                                   the chosen line is turned round
//!   + details of the chosen line, when asked +
//!   keys, or the filter
//! ```

use super::model::Model;
use super::pages::{Line, Page, Tone, uptime};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Row, Table, TableState, Wrap};

const HELP: &str = "\
1 to 7, Tab, left, right   another page
up, down, PgUp, PgDn       choose a line
Enter                      details of the chosen line
/                          only lines that have a text; Esc: all again
s                          order by load, or by name
p                          stop and go on
?                          this; Esc: back
q, Ctrl-C                  end";

/// Lines of details.
const DETAILS: u16 = 9;

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let heights = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(if model.shows_details() { DETAILS } else { 0 }),
        Constraint::Length(1),
    ];
    let [head, tabs, body, details, foot] = Layout::vertical(heights).areas(frame.area());
    frame.render_widget(status(model), head);
    frame.render_widget(pages(model), tabs);
    let lines = model.lines();
    table(frame, model, &lines, body);
    if model.shows_details() {
        let chosen = lines.get(model.chosen());
        let text = chosen.map_or_else(String::new, |line| line.details.join("\n"));
        let block = Block::new().borders(Borders::TOP);
        let told = Paragraph::new(text).wrap(Wrap { trim: false }).block(block);
        frame.render_widget(told, details);
    }
    frame.render_widget(keys(model), foot);
    if model.shows_help() {
        let area = middle(frame.area(), 74, 10);
        frame.render_widget(Clear, area);
        let block = Block::bordered().title(" keys ");
        frame.render_widget(Paragraph::new(HELP).block(block), area);
    }
}

fn color(model: &Model, color: Color) -> Style {
    if model.colors() {
        Style::new().fg(color)
    } else {
        Style::new()
    }
}

fn bad(model: &Model) -> Style {
    color(model, Color::Red).add_modifier(Modifier::BOLD)
}

fn status<'a>(model: &Model) -> Paragraph<'a> {
    let mut words = Vec::new();
    if let Some(status) = model.status() {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        words.push(Span::styled(format!("mesh {}", status.mesh_name), bold));
        let node = format!(
            "  node {}  {}  ",
            super::super::show::clean(&status.node.show()),
            uptime(status.uptime_s)
        );
        words.push(Span::raw(node));
        words.push(Span::raw(format!(
            "peers {}/{}  ports {}/{}  ",
            status.peers_up,
            status.members.saturating_sub(1),
            status.ports_ready,
            status.ports
        )));
        let dropping = model.dropping().filter(|rate| *rate > 0);
        let rate = dropping.map_or_else(String::new, |rate| format!(" (+{rate}/s)"));
        let style = match dropping {
            Some(_) => color(model, Color::Yellow),
            None => Style::new(),
        };
        words.push(Span::styled(
            format!("dropped {}{rate}", status.dropped),
            style,
        ));
        let wrong = status.conflicts.len() + status.problems.len();
        if wrong > 0 {
            let text = format!("  {wrong} problems: see `meshd status`");
            words.push(Span::styled(text, bad(model)));
        }
    }
    if model.paused() {
        words.push(Span::raw("  [stopped]"));
    }
    Paragraph::new(Text::from(words))
}

fn pages<'a>(model: &Model) -> Paragraph<'a> {
    let mut words = Vec::new();
    for (nth, page) in Page::ALL.iter().enumerate() {
        let style = if *page == model.page() {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        words.push(Span::styled(
            format!(" {} {} ", nth + 1, page.name()),
            style,
        ));
    }
    Paragraph::new(Text::from(words))
}

fn table(frame: &mut Frame<'_>, model: &Model, lines: &[Line], area: Rect) {
    if lines.is_empty() {
        let text = match (model.is_behind(), model.filter().is_empty()) {
            (true, _) => "...",
            (false, true) => model.page().empty(),
            (false, false) => "no line has that text; Esc shows all",
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let heads = model.page().heads();
    let widths = heads.iter().enumerate().map(|(nth, head)| {
        let cells = lines.iter().filter_map(|line| line.cells.get(nth));
        let longest = cells.map(|cell| cell.chars().count()).max();
        let width = longest.unwrap_or_default().max(head.len()).min(40);
        if nth + 1 == heads.len() {
            Constraint::Min(10)
        } else {
            Constraint::Length(u16::try_from(width).unwrap_or(40))
        }
    });
    let rows = lines.iter().map(|line| {
        let style = match line.tone {
            Tone::Plain => Style::new(),
            Tone::Good => color(model, Color::Green),
            Tone::Weak => color(model, Color::Yellow),
            Tone::Bad => color(model, Color::Red),
        };
        Row::new(line.cells.iter().map(String::as_str)).style(style)
    });
    let head = Row::new(heads.iter().copied()).style(Style::new().add_modifier(Modifier::BOLD));
    let table = Table::new(rows, widths)
        .header(head)
        .column_spacing(2)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(model.chosen());
    frame.render_stateful_widget(table, area, &mut state);
}

fn keys<'a>(model: &Model) -> Paragraph<'a> {
    if let Some(trouble) = model.trouble() {
        let text = format!("old figures: {}", super::super::show::clean(trouble));
        return Paragraph::new(Span::styled(text, bad(model)));
    }
    if model.is_typing() {
        return Paragraph::new(format!(
            "/{}_   Enter: keep, Esc: all again",
            model.filter()
        ));
    }
    let order = if model.by_name() { "name" } else { "load" };
    let filter = match model.filter() {
        "" => String::new(),
        text => format!("   only \"{text}\""),
    };
    let text = format!("q end   ? keys   / filter   s order: {order}   p stop{filter}");
    Paragraph::new(text)
}

fn middle(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::pages::tests::{peer, seen};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};

    fn drawn(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = buffer.content().chunks(width.into());
        rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect())
            .collect()
    }

    #[test]
    fn the_head_tells_of_the_node_and_the_chosen_line_is_in_sight_however_small_the_terminal_is() {
        let mut model = Model::new(Page::Peers, "", false);
        model.take(seen(1000, (1..200).map(|n| peer(n, 0)).collect()));
        let press = |model: &mut Model, code| {
            model.key(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
        };
        press(&mut model, KeyCode::End);
        let screen = drawn(&model, 80, 24);
        assert!(
            screen[0]
                .starts_with("mesh home  node one  up 2 h 0 min  peers 1/2  ports 2/2  dropped 12")
        );
        assert!(screen[1].contains("1 Peers") && screen[2].starts_with("PEER"));
        assert!(screen[22].starts_with("node-199"), "{screen:#?}");
        press(&mut model, KeyCode::Enter);
        press(&mut model, KeyCode::Char('?'));
        for (width, height) in [(200, 60), (40, 10), (10, 3), (1, 1)] {
            assert_eq!(drawn(&model, width, height).len(), height as usize);
        }
        press(&mut model, KeyCode::Esc);
        model.fail("no daemon answers");
        assert!(drawn(&model, 80, 24)[23].starts_with("old figures: no daemon answers"));
    }
}
