//! Logs to stderr: text for people or JSON for programs; the level can change while the daemon runs.

use anyhow::Context as _;
use meshd_core::config::{LogConfig, LogFormat};
use std::sync::OnceLock;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// `MESHD_LOG` goes before the config file; it takes the same words, and `target=level` pairs.
fn filter(config: &LogConfig) -> EnvFilter {
    let wanted = std::env::var("MESHD_LOG").unwrap_or_else(|_| config.level.clone());
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
/// If a subscriber is there already.
pub(crate) fn start(config: &LogConfig) -> anyhow::Result<()> {
    let (level, handle) = reload::Layer::new(filter(config));
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
        let _ = handle.reload(filter(config));
    }
}
