//! Flame graphs of what perf has sampled.

use crate::shell::output;
use anyhow::{Context, Result};
use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph::{Options, from_reader};
use interop_tests::bench::overlays::profile;
use interop_tests::bench::setting::Setting;
use interop_tests::bench::system::About;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// Writes the graph of a system beside its profile, which is removed; nothing if it has no profile.
pub(super) fn graph(folder: &Path, about: &About, setting: &Setting) -> Result<()> {
    let samples = profile(folder, &about.id);
    if !samples.exists() {
        return Ok(());
    }
    // Inlined frames would take perf minutes.
    let mut perf = Command::new("perf");
    perf.args(["script", "--no-inline", "-i"]).arg(&samples);
    let stacks = output(&mut perf)?;
    let mut folded = Vec::new();
    Folder::default()
        .collapse(stacks.as_bytes(), &mut folded)
        .context("fold the stacks")?;
    let name: String = format!("{} {setting}", about.id)
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-");
    let file = folder.join(format!("{name}.svg"));
    let mut options = Options::default();
    options.title = format!(
        "{}, daemons of both hosts, one TCP stream; {setting}",
        about.title
    );
    let out = File::create(&file).with_context(|| format!("create {}", file.display()))?;
    from_reader(&mut options, folded.as_slice(), out).context("draw the flame graph")?;
    fs::remove_file(&samples).context("remove the profile")?;
    println!("wrote {}", file.display());
    Ok(())
}
