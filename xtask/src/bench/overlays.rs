//! The comparison of overlays: builds what it needs, measures setting by setting, and hands on what came out.

use super::args::Overlays;
use super::{chart, flame, page, release};
use crate::setup;
use crate::shell::{cargo, root, run, target};
use anyhow::{Context, Result, ensure};
use interop_tests::bench::meter::no_call_counter;
use interop_tests::bench::overlays::figures::Figures;
use interop_tests::bench::overlays::measure::Measure;
use interop_tests::bench::overlays::run as measure;
use interop_tests::bench::system::{ENTRIES, Programs};
use interop_tests::lab::is_root;
use std::fs;
use std::path::Path;

pub(super) fn bench(args: &Overlays) -> Result<()> {
    let mut programs = args.programs()?;
    let reference = target()?.join("release/reference-tunnel");
    programs
        .entry("reference-tunnel".into())
        .or_insert(reference);
    if args.list {
        list(&programs);
        return Ok(());
    }
    let all = match &args.from {
        Some(file) => {
            let all = read(file)?;
            all.iter().try_for_each(|figures| tell(args, figures))?;
            all
        }
        None => all_settings(args, &programs)?,
    };
    if let Some(file) = &args.json {
        write(file, &page::json(&all)?)?;
    }
    if let Some(file) = &args.svg {
        write(file, &chart::svg(&all)?)?;
    }
    Ok(())
}

/// Shows what one setting gave, and keeps it if that is wanted: what comes later may fail.
fn tell(args: &Overlays, figures: &Figures) -> Result<()> {
    println!("\n{}", page::tables(figures));
    if args.write {
        keep(figures)?;
    }
    Ok(())
}

fn all_settings(args: &Overlays, programs: &Programs) -> Result<Vec<Figures>> {
    ensure!(is_root(), "the lab needs root");
    setup::for_bench()?;
    run(&mut cargo(
        "build --release -p interop-tests --bin reference-tunnel",
    ))?;
    release()?;
    let profiles = args.profile.then(|| -> Result<_> {
        let folder = target()?.join("bench");
        fs::create_dir_all(&folder)?;
        Ok(folder)
    });
    let profiles = profiles.transpose()?;
    let plans = args.plans(programs, profiles.clone())?;
    for line in ENTRIES.iter().filter_map(|entry| entry.missing(programs)) {
        println!("{line}");
    }
    if let Some(why) = no_call_counter() {
        println!("{why}");
    }
    let mut all = Vec::new();
    for plan in plans {
        println!("\n{}", plan.setting);
        let figures =
            measure(&plan, |line| println!("{line}")).with_context(|| plan.setting.to_string())?;
        if let Some(folder) = &profiles {
            for system in &figures.systems {
                flame::graph(folder, &system.about, &plan.setting)?;
            }
        }
        tell(args, &figures)?;
        all.push(figures);
    }
    Ok(all)
}

fn list(programs: &Programs) {
    println!("systems");
    for entry in &ENTRIES {
        let missing = entry.missing(programs).unwrap_or_default();
        println!("  {:<18} {:<22} {missing}", entry.id, entry.title);
    }
    println!("measures");
    for measure in Measure::ALL {
        println!(
            "  {:<18} {}, {}",
            measure.id(),
            measure.title(),
            measure.unit()
        );
    }
    if let Some(why) = no_call_counter() {
        println!("{why}");
    }
}

/// Into docs: what was measured now takes the place of what was there of the same setting.
fn keep(new: &Figures) -> Result<()> {
    let docs = root().join("docs");
    let json = docs.join("performance.json");
    let mut all = if json.exists() {
        read(&json)?
    } else {
        Vec::new()
    };
    all.retain(|old| old.setting != new.setting);
    all.push(new.clone());
    all.sort_by_key(|figures| figures.setting);
    write(&json, &page::json(&all)?)?;
    write(&docs.join("performance.svg"), &chart::svg(&all)?)?;
    let file = docs.join("performance.md");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    write(&file, &page::with_tables(&text, &all)?)
}

fn read(file: &Path) -> Result<Vec<Figures>> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} holds no figures of this version", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    println!("wrote {}", file.display());
    Ok(())
}
