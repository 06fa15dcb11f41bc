//! Traces of what the control plane does (a request of the API, a command of the node, a plugin compiled, a port wired, a plan
//! carried out, a path that changed), for a collector of OpenTelemetry.
//!
//! Owns the spans' target and how they are begun. Sending them is in `telemetry/otlp.rs`, which is built with the feature `otlp`;
//! without it no span is made, and nothing of it is in the program. Frames are never traced: no span is begun where they pass.

#[cfg(feature = "otlp")]
mod otlp;

use meshd_core::code::ErrorCode;
use meshd_core::config::TelemetryConfig;
use tokio::runtime::Handle;
use tracing::Span;
use tracing_subscriber::{Layer, Registry};

/// Of all spans of operations; the log never shows them.
pub(crate) const TARGET: &str = "meshd::operation";

/// What the log's registry takes up, if traces are wanted.
pub(crate) type Traces = Box<dyn Layer<Registry> + Send + Sync>;

/// A span of an operation: its name, and fields as `tracing` has them. No span without the feature, and none but a disabled one while no
/// collector is named. [`failed`] says how it went wrong.
macro_rules! operation {
    ($name:literal $(, $($fields:tt)+)?) => {
        if cfg!(feature = "otlp") {
            tracing::info_span!(
                target: "meshd::operation",
                $name,
                code = tracing::field::Empty,
                otel.status_code = tracing::field::Empty,
                otel.status_description = tracing::field::Empty
                $(, $($fields)+)?
            )
        } else {
            tracing::Span::none()
        }
    };
}
pub(crate) use operation;

/// What the span is of came to nothing. Its status is that of OpenTelemetry; `code` is one for `meshd explain`.
pub(crate) fn failed(span: &Span, code: ErrorCode, why: &str) {
    span.record("code", code.word());
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", why);
}

/// Makes the caller's span, which a request names by its header `traceparent` (W3C Trace Context §3.2), the parent of `span`. A header
/// that is none is not heeded.
#[cfg(feature = "otlp")]
pub(crate) use otlp::follow;

/// Without the feature there is no span that could have a parent.
#[cfg(not(feature = "otlp"))]
pub(crate) fn follow(_: &Span, _: &str) {}

/// Traces on their way; dropped, what is left is sent, for a moment.
pub(crate) struct Sending {
    #[cfg(feature = "otlp")]
    _provider: Option<otlp::Provider>,
}

/// Begins to send to the collector that the config names, if it names one.
///
/// # Errors
/// If it cannot begin, as with an address that is none.
#[cfg(feature = "otlp")]
pub(crate) fn start(
    config: &TelemetryConfig,
    control: &Handle,
) -> anyhow::Result<(Sending, Option<Traces>)> {
    let Some(collector) = &config.otlp else {
        return Ok((Sending { _provider: None }, None));
    };
    let (provider, layer) = otlp::start(collector, control)?;
    let sending = Sending {
        _provider: Some(provider),
    };
    Ok((sending, Some(layer)))
}

/// This program was built without: see [`absent`].
///
/// # Errors
/// None.
#[cfg(not(feature = "otlp"))]
#[allow(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
pub(crate) fn start(_: &TelemetryConfig, _: &Handle) -> anyhow::Result<(Sending, Option<Traces>)> {
    Ok((Sending {}, None))
}

/// Says so if the config wants what this program was built without.
pub(crate) fn absent(config: &TelemetryConfig) {
    if config.otlp.is_some() && !cfg!(feature = "otlp") {
        tracing::warn!(
            code = %ErrorCode::TracesNotBuilt,
            "[telemetry] otlp: this meshd was built without OpenTelemetry, and sends no traces; build it with the feature `otlp`, which is on by default"
        );
    }
}
