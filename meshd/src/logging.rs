//! Logs to stderr: text for people or JSON for programs; the level can change while the daemon runs.

use anyhow::Context as _;
use meshd_core::config::{LogConfig, LogFormat};
use std::sync::OnceLock;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Goes before the config file, also when that is read again.
const VARIABLE: &str = "RUST_LOG";

/// What the environment asks for, if anything: levels and `target=level`, as programs with this variable have it.
///
/// # Errors
/// If it is no filter.
fn from_environment() -> anyhow::Result<Option<String>> {
    let Some(wanted) = std::env::var_os(VARIABLE).filter(|wanted| !wanted.is_empty()) else {
        return Ok(None);
    };
    let wanted = wanted
        .into_string()
        .map_err(|_| anyhow::anyhow!("{VARIABLE} is no UTF-8"))?;
    EnvFilter::try_new(&wanted)
        .with_context(|| format!("{VARIABLE}={wanted} is no filter of the log"))?;
    Ok(Some(wanted))
}

fn filter(config: &LogConfig, environment: Option<String>) -> EnvFilter {
    let wanted = environment.unwrap_or_else(|| config.level.clone());
    // The name server tells of each question at this level, which is for who looks for trouble with names.
    let wanted = match wanted.as_str() {
        "info" => "info,hickory_server=warn".to_owned(),
        _ => wanted,
    };
    EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Once, at the start.
///
/// # Errors
/// If a subscriber is there already, or the environment asks for what is no filter.
pub(crate) fn start(config: &LogConfig) -> anyhow::Result<()> {
    let (level, handle) = reload::Layer::new(filter(config, from_environment()?));
    let _ = LEVEL.set(handle);
    let registry = Registry::default().with(level);
    match config.format {
        LogFormat::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
        LogFormat::Text => registry
            .with(fmt::layer().with_ansi(false).with_writer(std::io::stderr))
            .try_init(),
    }
    .context("start the log")
}

/// From now on.
pub(crate) fn set_level(config: &LogConfig) {
    if let Some(handle) = LEVEL.get() {
        // Fails only if the subscriber is gone, at the end of the process.
        let _ = handle.reload(filter(config, from_environment().unwrap_or(None)));
    }
}
