//! Figures as Markdown and JSON.
//!
//! Owns which columns a table has. Refuses to make figures of values: that is for `interop_tests::bench::overlays::figures`.

use anyhow::{Context, Result};
use interop_tests::bench::overlays::figures::{Figures, Machine, SystemFigures};
use interop_tests::bench::overlays::measure::Measure;
use interop_tests::report::Table;
use std::fmt::{Display, Write as _};

/// Between these lines of docs/performance.md stands what is written by program.
const MARKS: [&str; 2] = [
    "<!-- figures: written by cargo xtask bench --write -->\n",
    "<!-- end of figures -->\n",
];

const CARRIES: [Measure; 9] = [
    Measure::Tcp1,
    Measure::Tcp4,
    Measure::Tcp1Back,
    Measure::Tcp4Back,
    Measure::Udp64,
    Measure::Udp1400,
    Measure::Loss0,
    Measure::Loss1,
    Measure::Loss10,
];

const COSTS: [Measure; 9] = [
    Measure::RttP50,
    Measure::RttP99,
    Measure::LoadedP50,
    Measure::LoadedP99,
    Measure::Cpu,
    Measure::CpuDaemons,
    Measure::Calls,
    Measure::RssIdle,
    Measure::RssPeak,
];

/// By which meshd is judged.
const JUDGED: [Measure; 6] = [
    Measure::Tcp1,
    Measure::Tcp4,
    Measure::Udp64,
    Measure::RttP50,
    Measure::LoadedP99,
    Measure::Cpu,
];

/// All tables of one setting.
pub(super) fn tables(figures: &Figures) -> String {
    let mut out = format!(
        "### {}\n\n{}\n",
        capital(&figures.setting),
        conditions(figures)
    );
    for measures in [&CARRIES[..], &COSTS[..]] {
        if let Some(table) = table(figures, measures) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\n{}", table.markdown());
        }
    }
    if let Some(table) = judged(figures) {
        let _ = write!(
            out,
            "\nmeshd (QUIC) by each other, medians of the ratios of one round:\n\n{}",
            table.markdown()
        );
    }
    if !figures.failures.is_empty() {
        out.push_str("\nRuns that failed:\n\n");
        for failure in &figures.failures {
            let line: Vec<&str> = failure.split_whitespace().collect();
            let _ = writeln!(out, "- {}", line.join(" "));
        }
    }
    out
}

fn conditions(figures: &Figures) -> String {
    let mut text = format!(
        "{} of {} s. In brackets: by {} right before or after, medians of ratios.",
        match figures.rounds {
            1 => "One round".into(),
            rounds => format!("Medians of {rounds} rounds"),
        },
        figures.seconds,
        title(figures, &figures.yardstick)
    );
    if let Some((least, most)) = figures.weather(Measure::Tcp1) {
        let _ = write!(
            text,
            " Its own runs with one stream lay between {} and {}.",
            Measure::Tcp1.number(least),
            Measure::Tcp1.show(most)
        );
    }
    let (all, disturbed) = figures.disturbed();
    if disturbed > 0 {
        let _ = write!(
            text,
            " Before {disturbed} of {all} values others had more than a tenth of the machine."
        );
    }
    text + "\n"
}

fn title<'a>(figures: &'a Figures, id: &'a str) -> &'a str {
    figures
        .system(id)
        .map_or(id, |system| system.about.title.as_str())
}

/// Of these measures, as far as any system has them.
fn table(figures: &Figures, measures: &[Measure]) -> Option<Table> {
    let there: Vec<Measure> = measures
        .iter()
        .copied()
        .filter(|measure| {
            let mut systems = figures.systems.iter();
            systems.any(|system| system.median(*measure).is_some())
        })
        .collect();
    if there.is_empty() {
        return None;
    }
    let heads = there
        .iter()
        .map(|measure| format!("{}, {}", measure.title(), measure.unit()));
    let heads: Vec<String> = std::iter::once(String::new()).chain(heads).collect();
    let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    for system in &figures.systems {
        let cells = there.iter().map(|measure| cell(system, *measure));
        row(&mut table, std::iter::once(name(system)).chain(cells));
    }
    Some(table)
}

fn row(table: &mut Table, cells: impl Iterator<Item = String>) {
    let cells: Vec<String> = cells.collect();
    let cells: Vec<&dyn Display> = cells.iter().map(|cell| cell as &dyn Display).collect();
    table.row(&cells);
}

fn cell(system: &SystemFigures, measure: Measure) -> String {
    let Some(value) = system.median(measure) else {
        return "–".into();
    };
    match system.ratio(measure) {
        Some(ratio) => format!("{} ({ratio:.2})", measure.number(value)),
        None => measure.number(value),
    }
}

fn name(system: &SystemFigures) -> String {
    let about = &system.about;
    if about.layer == 3 {
        format!("{} (Layer 3)", about.title)
    } else {
        about.title.clone()
    }
}

fn judged(figures: &Figures) -> Option<Table> {
    let ours = figures.system("meshd-quic")?;
    let there: Vec<Measure> = JUDGED
        .into_iter()
        .filter(|measure| ours.median(*measure).is_some())
        .collect();
    let heads = there.iter().map(|measure| measure.title());
    let heads: Vec<&str> = std::iter::once("by").chain(heads).collect();
    let mut table = Table::new(&heads);
    let others = figures
        .systems
        .iter()
        .filter(|system| system.about.id != ours.about.id);
    for other in others {
        let cells = there.iter().map(|measure| {
            let ratio = ours.ratio_to(other, *measure);
            ratio.map_or("–".into(), |ratio| format!("{ratio:.2}"))
        });
        row(&mut table, std::iter::once(name(other)).chain(cells));
    }
    (!there.is_empty()).then_some(table)
}

/// The systems, their versions and how they encrypt, over all settings.
fn systems(all: &[Figures]) -> Table {
    let mut table = Table::new(&["system", "version", "layer", "cipher", "its MTU at 1500"]);
    let mut seen: Vec<&str> = Vec::new();
    for system in all.iter().flat_map(|figures| &figures.systems) {
        let about = &system.about;
        if seen.contains(&about.id.as_str()) {
            continue;
        }
        seen.push(&about.id);
        let or_none = |text: &str| {
            if text.is_empty() {
                "–".into()
            } else {
                text.to_owned()
            }
        };
        table.row(&[
            &about.title,
            &or_none(&about.version),
            &about.layer,
            &or_none(&about.cipher),
            &about.mtu,
        ]);
    }
    table
}

fn machine(machine: &Machine) -> String {
    format!(
        "{}, {} cores for all hosts, all daemons and the load; {} GiB; Linux {}",
        machine.processor, machine.cores, machine.memory, machine.linux
    )
}

/// The page with new figures between its marks.
///
/// # Errors
/// If it has no marks.
pub(super) fn with_tables(page: &str, all: &[Figures]) -> Result<String> {
    let [begin, end] = MARKS;
    let (before, rest) = page
        .split_once(begin)
        .context("the page has no mark for figures")?;
    let (_, after) = rest
        .split_once(end)
        .context("the figures of the page have no end")?;
    let mut machines: Vec<String> = all
        .iter()
        .map(|figures| machine(&figures.machine))
        .collect();
    machines.dedup();
    let mut text = format!(
        "\nMachine: {}.\n\n{}",
        machines.join("; "),
        systems(all).markdown()
    );
    for figures in all {
        let _ = write!(text, "\n{}", tables(figures));
    }
    Ok(format!("{before}{begin}{text}\n{end}{after}"))
}

/// Every value, one a line.
pub(super) fn json(all: &[Figures]) -> Result<String> {
    let text = serde_json::to_string(all)?;
    Ok(text.replace("{\"", "\n{\"") + "\n")
}

fn capital(text: &impl Display) -> String {
    let text = text.to_string();
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().collect::<String>() + chars.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_written_anew() {
        let page = format!("a\n{}old\n{}z\n", MARKS[0], MARKS[1]);
        let page = with_tables(&page, &[]).unwrap();
        assert!(page.starts_with("a\n") && page.ends_with("z\n") && !page.contains("old"));
        assert_eq!(with_tables(&page, &[]).unwrap(), page);
        assert!(with_tables("a\n", &[]).is_err());
    }
}
