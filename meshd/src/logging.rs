//! Logs to stderr as text for people or JSON for programs, or to systemd's journal; the level can change while the daemon runs.

use crate::telemetry::{self, Traces};
use anyhow::Context as _;
use meshd_core::config::{LogConfig, LogFormat, filter_fault};
use meshd_core::ident::escape;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Identity, Layered};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// What the level stands on.
type Lower = Layered<Traces, Registry>;
/// What the lines stand on.
type Upper = Layered<reload::Layer<EnvFilter, Lower>, Lower>;

static LEVEL: OnceLock<reload::Handle<EnvFilter, Lower>> = OnceLock::new();
/// Are operations traced?
static TRACED: AtomicBool = AtomicBool::new(false);
/// As it was asked for.
static ASKED: Mutex<String> = Mutex::new(String::new());

/// Of a filter, in bytes.
const FILTER_MAX: usize = 1024;
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
    ASKED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone_from(&wanted);
    let traced = TRACED.load(Ordering::Relaxed);
    let wanted = directives(wanted);
    // Spans of operations are for traces, whatever is logged.
    let spans = if traced { "info" } else { "off" };
    EnvFilter::try_new(format!("{wanted},{}={spans}", telemetry::TARGET))
        .unwrap_or_else(|_| EnvFilter::new("info"))
}

/// A bare level is that of meshd's own crates: libraries tell of each file that changes and each packet, and of the log's own file when
/// it grows. Who wants them too names them.
fn directives(wanted: String) -> String {
    match wanted.to_ascii_lowercase().as_str() {
        // The name server tells of each question at this level, which is for who looks for trouble with names.
        "info" => "info,hickory_server=warn".to_owned(),
        level @ ("debug" | "trace") => format!("info,meshd={level}"),
        _ => wanted,
    }
}

/// Once, at the start.
///
/// # Errors
/// If a subscriber is there already, or the environment asks for what is no filter.
pub(crate) fn start(config: &LogConfig, traces: Option<Traces>) -> anyhow::Result<()> {
    TRACED.store(traces.is_some(), Ordering::Relaxed);
    let (level, handle) = reload::Layer::new(filter(config, from_environment()?));
    let _ = LEVEL.set(handle);
    let traces = traces.unwrap_or_else(|| Identity::new().boxed());
    let registry = Registry::default().with(traces).with(level);
    let journal = match config.format {
        LogFormat::Journald => tracing_journald::layer()
            .map(|layer| {
                layer
                    .with_syslog_identifier("meshd".to_owned())
                    .with_field_prefix(Some("MESHD".to_owned()))
            })
            .ok(),
        _ => None,
    };
    let text = || fmt::layer().with_writer(std::io::stderr);
    let out: Box<dyn Layer<Upper> + Send + Sync> = match (journal, config.format) {
        (Some(journal), _) => journal.boxed(),
        (None, LogFormat::Json) => text().json().boxed(),
        // A host without a journal is told on stderr.
        (None, LogFormat::Text | LogFormat::Journald) => text().with_ansi(false).boxed(),
    };
    let out = match TRACED.load(Ordering::Relaxed) {
        true => out
            .with_filter(filter_fn(|about| about.target() != telemetry::TARGET))
            .boxed(),
        false => out,
    };
    registry.with(out).try_init().context("start the log")
}

/// From now on.
pub(crate) fn set_level(config: &LogConfig) {
    if let Some(handle) = LEVEL.get() {
        // Fails only if the subscriber is gone, at the end of the process.
        let _ = handle.reload(filter(config, from_environment().unwrap_or(None)));
    }
}

/// What is logged.
pub(crate) fn level() -> String {
    let asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    asked.clone()
}

/// From now on, whatever config and environment say; until one of them is read again.
///
/// # Errors
/// If it is no filter; says which are.
pub(crate) fn set(wanted: &str) -> Result<(), String> {
    if let Some(fault) = filter_fault(wanted).filter(|_| wanted.len() <= FILTER_MAX) {
        return Err(fault);
    }
    if wanted.len() > FILTER_MAX || EnvFilter::try_new(wanted).is_err() {
        return Err(format!(
            "\"{}\" is no filter of the log; use off, error, warn, info, debug, trace, or such as info,meshd::underlay=debug",
            escape(wanted.as_bytes())
        ));
    }
    let config = LogConfig {
        level: wanted.to_owned(),
        ..LogConfig::default()
    };
    match LEVEL.get() {
        // Fails only if the subscriber is gone, at the end of the process.
        Some(handle) => handle
            .reload(filter(&config, None))
            .map_err(|error| format!("the log takes no other level: {error}")),
        None => Err("this process has no log whose level could change".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tracing::Level;

    /// Is a line of this target and level logged, when that is asked for?
    fn logs(asked: &str, target: &'static str, level: Level) -> bool {
        let filter = EnvFilter::new(directives(asked.to_owned()));
        let seen = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&seen);
        let layer = fmt::layer()
            .with_writer(move || {
                tell.store(true, Ordering::Relaxed);
                std::io::sink()
            })
            .with_filter(filter);
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            match (target, level) {
                ("meshd::x", Level::TRACE) => tracing::trace!(target: "meshd::x", "x"),
                ("meshd_core::x", Level::DEBUG) => tracing::debug!(target: "meshd_core::x", "x"),
                ("notify::x", Level::TRACE) => tracing::trace!(target: "notify::x", "x"),
                ("notify::x", _) => tracing::info!(target: "notify::x", "x"),
                _ => tracing::debug!(target: "quinn::x", "x"),
            }
        });
        seen.load(Ordering::Relaxed)
    }

    #[test]
    fn a_bare_level_is_that_of_meshds_own_crates() {
        assert!(logs("trace", "meshd::x", Level::TRACE));
        assert!(logs("DEBUG", "meshd_core::x", Level::DEBUG));
        assert!(!logs("debug", "meshd::x", Level::TRACE));
        assert!(!logs("trace", "notify::x", Level::TRACE));
        assert!(logs("trace", "notify::x", Level::INFO));
        assert!(!logs("debug", "quinn::x", Level::DEBUG));
        assert!(logs("trace,notify=trace", "notify::x", Level::TRACE));
    }
}
