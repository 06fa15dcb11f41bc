//! `meshd plugin test`, `bench` and `replay`: what the workbench found, for people and as JSON.

use super::super::args::Common;
use super::super::values::{self, show_path};
use super::super::{Failure, Printed, show};
use super::{component, invalid, load_policy, make, start, wrong};
use crate::bounded;
use meshd_core::code::ErrorCode;
use meshd_core::ident::escape;
use meshd_plugin_host::ConfigureError;
use meshd_workbench::{
    Entry, Figures, MAX_RECORDING, Names, Recording, Replay, Trial, bench as measure, difference,
    question, replay as rerun, trace, traffic, trial,
};
use serde_json::json;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Bytes of a golden trace or of kept figures that are read.
const MAX_TEXT: usize = 256 << 20;
/// Frames of made-up traffic in a test, and in a measurement.
const TESTED: usize = 2_000;
const MEASURED: usize = 100_000;
/// Questions of a test that are asked again with scrambled bits.
const EXAMINED: usize = 1_000;
/// Characters of a line of a table.
const SHOWN: usize = 100;

fn recording(path: &Path) -> Result<Recording, Failure> {
    let bytes = bounded::file(path, MAX_RECORDING).map_err(|e| {
        Failure::new(
            ErrorCode::FileUnreadable,
            format!("read the recording {}: {e}", show_path(path)),
        )
    })?;
    Recording::read(&bytes).map_err(|e| invalid(ErrorCode::RecordingInvalid, path, &e))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|e| {
        Failure::new(
            ErrorCode::FileUnwritten,
            format!("write {}: {e}", show_path(path)),
        )
    })
}

fn text(path: &Path) -> Result<String, Failure> {
    bounded::text(path, MAX_TEXT).map_err(|e| {
        Failure::new(
            ErrorCode::FileUnreadable,
            format!("read {}: {e}", show_path(path)),
        )
    })
}

fn given(config: Option<&OsString>) -> Result<Option<String>, Failure> {
    config
        .map(values::config)
        .transpose()
        .map_err(|error| Failure::new(ErrorCode::PluginConfigRefused, error))
}

fn configure(file: &Path, error: &ConfigureError) -> Failure {
    wrong(file, error).hint("give its config by --config JSON or --config @FILE")
}

/// What came of the recordings of a project, each against its golden trace.
struct Golden {
    name: String,
    difference: Option<String>,
}

pub(super) fn test(
    common: &Common,
    from: &Path,
    config: Option<&OsString>,
    pcaps: &[PathBuf],
) -> Result<Printed, Failure> {
    let config = given(config)?;
    let (file, wasm, config, pairs) = match from.is_file() {
        true => (
            from.to_owned(),
            component(from)?,
            config.unwrap_or_default(),
            Vec::new(),
        ),
        false => {
            let (project, built) = make::test_and_build(from)?;
            let example = project.folder().join("example.json");
            let config = match config {
                Some(config) => config,
                None if example.is_file() => text(&example)?,
                None => String::new(),
            };
            let pairs = pairs(&project.folder().join("testdata"));
            (built.path, built.component, config, pairs)
        }
    };
    let plugin = load_policy(&file, &wasm)?;
    let names = Names::of(&wasm);
    let mut goldens = Vec::new();
    let mut frames = traffic(TESTED, 1).frames;
    for (pcap, golden) in &pairs {
        let seen = recording(pcap)?;
        let new = trace(&mut start(&file, &plugin, &config)?, &names, &seen);
        goldens.push(Golden {
            name: show_path(golden),
            difference: difference(&text(golden)?, &new),
        });
        frames.extend(seen.frames);
    }
    for pcap in pcaps {
        frames.extend(recording(pcap)?.frames);
    }
    let mut questions: Vec<_> = frames
        .iter()
        .filter_map(|captured| question(&captured.frame).ok())
        .collect();
    questions.sort_by_key(|question| (question.key, question.dst_class));
    questions.dedup();
    let seen =
        trial(&plugin, &config, &questions, EXAMINED).map_err(|error| configure(&file, &error))?;
    let done = seen.troubles.is_empty() && goldens.iter().all(|golden| golden.difference.is_none());
    let text = match common.json {
        true => show::json(&json!({
            "file": show_path(&file),
            "passed": done,
            "trial": seen,
            "golden": goldens.iter().map(|golden| json!({
                "file": golden.name,
                "difference": golden.difference,
            })).collect::<Vec<_>>(),
        })),
        false => show::clean_lines(&report(&file, &seen, &goldens, done)),
    };
    Ok(Printed { text, done })
}

/// Recordings with a golden trace beside them, by name.
fn pairs(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut out: Vec<_> = entries
        .filter_map(|entry| {
            let golden = entry.ok()?.path();
            let pcap = golden.with_extension("pcap");
            (golden.extension()? == "golden" && pcap.is_file()).then_some((pcap, golden))
        })
        .collect();
    out.sort();
    out
}

fn report(file: &Path, seen: &Trial, goldens: &[Golden], done: bool) -> Vec<String> {
    let mut out = vec![
        format!(
            "{} {}",
            show_path(file),
            if done {
                "keeps the contract."
            } else {
                "does not pass."
            }
        ),
        String::new(),
    ];
    for golden in goldens {
        let outcome = match golden.difference {
            None => "the component says the same",
            Some(_) => "the component says otherwise",
        };
        out.push(format!("  golden   {}: {outcome}", golden.name));
        let lines = golden.difference.iter().flat_map(|text| text.lines());
        out.extend(lines.map(|line| format!("    {line}")));
    }
    let of = |kind: &str| seen.troubles.iter().find(|trouble| trouble.kind == kind);
    for (kind, name, fine) in [
        (
            "fault",
            "answers",
            format!("all of {} questions", seen.questions),
        ),
        (
            "state",
            "state",
            "none: the same answers in another order and from a fresh instance".to_owned(),
        ),
        (
            "mask",
            "masks",
            format!(
                "{} answers hold for what their masks call the same",
                seen.examined
            ),
        ),
    ] {
        match of(kind) {
            None => out.push(format!("  {name:<8} {fine}")),
            Some(trouble) => {
                out.push(format!("  {name:<8} wrong {} times", trouble.times));
                out.extend(trouble.examples.iter().map(|text| format!("    {text}")));
            }
        }
    }
    out.push(format!(
        "  fuel     {} at most, {} for half of them; the limit is {}",
        seen.fuel_most, seen.fuel_median, seen.fuel_limit
    ));
    if seen.fuel_most * 2 > seen.fuel_limit {
        out.push("    more than half of the limit: make the dearest decision cheaper".to_owned());
    }
    out
}

pub(super) fn bench(
    common: &Common,
    file: &Path,
    config: Option<&OsString>,
    pcap: Option<&Path>,
    save: Option<&Path>,
    compare: Option<&Path>,
) -> Result<Printed, Failure> {
    let config = given(config)?.unwrap_or_default();
    let before: Option<Figures> = compare
        .map(|path| {
            serde_json::from_str(&text(path)?)
                .map_err(|e| invalid(ErrorCode::FileUnreadable, path, &e))
        })
        .transpose()?;
    let plugin = load_policy(file, &component(file)?)?;
    let frames = match pcap {
        Some(pcap) => recording(pcap)?,
        None => traffic(MEASURED, 1),
    };
    let now = measure(&plugin, &config, &frames)
        .map_err(|e| configure(file, &e))?
        .map_err(|fault| invalid(ErrorCode::PluginFailsAtOnce, file, &fault))?;
    if let Some(save) = save {
        write(save, show::json(&json!(now)).as_bytes())?;
    }
    if common.json {
        return Printed::text(show::json(&json!({ "now": now, "before": before })));
    }
    let row = |name: &str, unit: &str, of: fn(&Figures) -> f64| {
        let shown = |value: f64| match value.fract() == 0.0 {
            true => format!("{value:.0}{unit}"),
            false => format!("{value:.1}{unit}"),
        };
        let mut line = format!("  {name:<24} {}", shown(of(&now)));
        if let Some(before) = &before {
            let (old, new) = (of(before), of(&now));
            line = format!("{line:<42} was {}", shown(old));
            if old > 0.0 {
                line += &format!(" ({:+.1} %)", 100.0 * (new - old) / old);
            }
        }
        line
    };
    // Figures are far below 2^53.
    Printed::text(show::clean_lines(&[
        format!("{} on {} frames:", show_path(file), now.frames),
        String::new(),
        row("a decision, median", " ns", |f| f.p50_ns as f64),
        row("a decision, 99 of 100", " ns", |f| f.p99_ns as f64),
        row("fuel, median", "", |f| f.fuel_p50 as f64),
        row("fuel, most", "", |f| f.fuel_most as f64),
        row("answered by the cache", " %", |f| f.hit_rate),
        row("masks per 100,000 frames", "", |f| f.masks_per_100k),
    ]))
}

pub(super) fn replay(
    common: &Common,
    file: &Path,
    pcap: &Path,
    config: Option<&OsString>,
    golden: Option<&Path>,
    bless: bool,
    out: Option<&Path>,
) -> Result<Printed, Failure> {
    let config = given(config)?.unwrap_or_default();
    let wasm = component(file)?;
    let plugin = load_policy(file, &wasm)?;
    let names = Names::of(&wasm);
    let frames = recording(pcap)?;
    let (seen, passed) = rerun(&mut start(file, &plugin, &config)?, &names, &frames, true);
    let mut differs = None;
    if let Some(golden) = golden {
        let new = trace(&mut start(file, &plugin, &config)?, &names, &frames);
        match bless {
            true => write(golden, new.as_bytes())?,
            false => differs = difference(&text(golden)?, &new),
        }
    }
    if let Some(out) = out {
        let bytes = passed
            .write()
            .map_err(|e| invalid(ErrorCode::RecordingInvalid, out, &e))?;
        write(out, &bytes)?;
    }
    let done = seen.wrong == 0 && seen.faults.is_empty() && differs.is_none();
    let text = match common.json {
        true => show::json(&json!({
            "replay": seen,
            "hit_rate": seen.hit_rate(),
            "decisions_per_s": seen.per_second(),
            "passed": passed.frames.len(),
            "golden_difference": differs,
        })),
        false => {
            let mut text = told(&seen);
            if let (Some(differs), Some(golden)) = (&differs, golden) {
                text += &format!(
                    "\n{} says otherwise; if the change is meant, --bless writes it anew\n",
                    show_path(golden)
                );
                let lines: Vec<String> = differs.lines().map(str::to_owned).collect();
                text += &show::clean_lines(&lines);
            }
            text
        }
    };
    Ok(Printed { text, done })
}

fn told(seen: &Replay) -> String {
    let mut lines = vec![
        format!("{} frames", seen.frames),
        String::new(),
        format!(
            "  answered by the cache  {} ({:.1} %)",
            seen.hits,
            seen.hit_rate()
        ),
        format!(
            "  asked of the plugin    {}, {:.0} decisions a second here",
            seen.asked,
            seen.per_second()
        ),
        format!("  not asked about        {} malformed", seen.not_asked),
        format!("  entries, masks         {}, {}", seen.entries, seen.masks),
        String::new(),
    ];
    for (verdict, frames) in &seen.verdicts {
        lines.push(format!("  {frames:>8}  {verdict}"));
    }
    for (fault, frames) in &seen.faults {
        lines.push(format!("  {frames:>8}  failed: {fault}"));
    }
    if seen.wrong > 0 {
        lines.push(String::new());
        lines.push(format!(
            "{} frames would get another answer from the cache than from the plugin: its masks leave out what it reads",
            seen.wrong
        ));
        lines.extend(seen.wrong_frames.iter().map(|text| format!("  {text}")));
    }
    let mut text = show::clean_lines(&lines);
    for (head, entries) in [("Widest", &seen.widest), ("Narrowest", &seen.narrowest)] {
        text += &format!("\n{head} entries:\n");
        text += &show::table(
            &["BITS", "FRAMES", "VERDICT", "ANSWERS"],
            entries.iter().map(row),
            "none is kept",
        );
    }
    text
}

fn row(entry: &Entry) -> Vec<String> {
    vec![
        entry.bits.to_string(),
        entry.frames.to_string(),
        escape(entry.verdict.as_bytes()),
        entry.matches.chars().take(SHOWN).collect(),
    ]
}
