//! A bar chart of what one stream and four carry, setting by setting.

use anyhow::{Result, anyhow};
use interop_tests::bench::overlays::figures::{Figures, SystemFigures};
use interop_tests::bench::overlays::measure::Measure;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Display;

const WIDTH: i32 = 860;
/// Where bars begin, and how long the longest is.
const BARS: (i32, i32) = (210, 560);
const BAR: i32 = 11;
/// Of a system, with both bars.
const ROW: i32 = 2 * BAR + 10;
/// Of a setting, without its systems.
const HEAD: i32 = 40;

const SHOWN: [(Measure, RGBColor); 2] = [
    (Measure::Tcp1, RGBColor(0x1f, 0x77, 0xb4)),
    (Measure::Tcp4, RGBColor(0x9e, 0xca, 0xe1)),
];

/// The chart.
pub(super) fn svg(all: &[Figures]) -> Result<String> {
    let shown: Vec<&Figures> = all.iter().filter(|figures| most(figures) > 0.0).collect();
    let rows: usize = shown.iter().map(|figures| figures.systems.len()).sum();
    let height = 30 + HEAD * i32::try_from(shown.len())? + ROW * i32::try_from(rows)?;
    let mut text = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(why)?;
        legend(&area)?;
        let mut y = 30;
        for figures in shown {
            y = setting(&area, figures, y)?;
        }
        area.present().map_err(why)?;
    }
    Ok(text + "\n")
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn why(error: impl Display) -> anyhow::Error {
    anyhow!("draw the chart: {error}")
}

fn label(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, h: HPos) -> Result<()> {
    let style = ("sans-serif", size).into_font().color(&BLACK);
    let style = style.pos(Pos::new(h, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
        .map_err(why)
}

fn bar(area: &Area<'_>, from: (i32, i32), length: i32, color: RGBColor) -> Result<()> {
    let to = (from.0 + length.max(1), from.1 + BAR);
    area.draw(&Rectangle::new([from, to], color.filled()))
        .map_err(why)
}

fn legend(area: &Area<'_>) -> Result<()> {
    let mut x = BARS.0;
    for (measure, color) in SHOWN {
        bar(area, (x, 10), BAR, color)?;
        let text = format!("{}, {}", measure.title(), measure.unit());
        label(area, &text, (x + 18, 10 + BAR / 2), 12, HPos::Left)?;
        x += 190;
    }
    Ok(())
}

fn most(figures: &Figures) -> f64 {
    let of =
        |system: &SystemFigures| SHOWN.map(|(measure, _)| system.median(measure).unwrap_or(0.0));
    figures.systems.iter().flat_map(of).fold(0.0, f64::max)
}

/// Returns where the next one begins.
fn setting(area: &Area<'_>, figures: &Figures, top: i32) -> Result<i32> {
    label(
        area,
        &figures.setting.to_string(),
        (10, top + 18),
        15,
        HPos::Left,
    )?;
    let (most, mut y) = (most(figures), top + HEAD - 6);
    for system in &figures.systems {
        label(
            area,
            &system.about.title,
            (BARS.0 - 8, y + BAR),
            12,
            HPos::Right,
        )?;
        for (line, (measure, color)) in (0..).zip(SHOWN) {
            let Some(value) = system.median(measure) else {
                continue;
            };
            #[allow(clippy::cast_possible_truncation)]
            let length = (value / most * f64::from(BARS.1)) as i32;
            let at = y + line * BAR;
            bar(area, (BARS.0, at), length, color)?;
            let end = (BARS.0 + length + 6, at + BAR / 2);
            label(area, &measure.number(value), end, 10, HPos::Left)?;
        }
        y += ROW;
    }
    Ok(y + 6)
}
