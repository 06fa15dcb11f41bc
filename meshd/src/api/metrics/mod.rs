//! `GET /metrics`: figures for a scraper, as OpenMetrics 1.0 or as Prometheus' text 0.0.4.
//!
//! ```text
//!   scrape --> views of the backend --> families: rows with labels --Collector--> OpenMetrics --if asked--> classic text
//! ```
//!
//! Owns which figures there are (`families.rs`) and how many rows of each. Nothing is kept between two scrapes, and nothing is
//! counted for a scrape: what frames cost is the same whether somebody looks or not.

mod classic;
mod families;
mod process;

use super::backend::Backend;
use super::describe::Text;
use super::extract::ApiError;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use families::{Rows, Value};
use meshd_core::code::ErrorCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::time::Instant;

/// Before each name but those of the process.
const PREFIX: &str = "meshd";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Figures, in the form that was asked for.
pub(super) struct Scrape {
    kind: &'static str,
    text: String,
}

impl Text for Scrape {
    const KINDS: &'static [&'static str] = &["text/plain", "application/openmetrics-text"];
}

impl IntoResponse for Scrape {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, self.kind)], self.text).into_response()
    }
}

pub(super) async fn scrape<B: Backend>(
    State(backend): State<B>,
    headers: HeaderMap,
) -> Result<Scrape, ApiError> {
    let start = Instant::now();
    let mut rows = families::gather(&backend).await?;
    process::gather(&mut rows);
    rows.put(
        &families::SCRAPE,
        &[],
        Value::Gauge(start.elapsed().as_secs_f64()),
    );
    let text = open_metrics(rows)
        .map_err(|_| ApiError::new(ErrorCode::Internal, "the figures could not be written down"))?;
    Ok(match wants_open_metrics(&headers) {
        true => Scrape {
            kind: OPEN_METRICS,
            text,
        },
        false => Scrape {
            kind: CLASSIC,
            text: classic::of(&text),
        },
    })
}

/// RFC 9110 §12.5.1: is OpenMetrics what is liked best, of the two?
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let (mut open, mut plain) = (0.0f32, 0.0f32);
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts
                .filter_map(|part| part.strip_prefix("q=")?.parse().ok())
                .next()
                .unwrap_or(1.0f32);
            match kind.as_str() {
                "application/openmetrics-text" => open = open.max(weight),
                "text/plain" | "text/*" | "*/*" => plain = plain.max(weight),
                _ => {}
            }
        }
    }
    open > 0.0 && open >= plain
}

fn open_metrics(rows: Rows) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures(rows)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Figures(Rows);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for def in families::ALL {
            let Some(rows) = self.0.of(def) else {
                continue;
            };
            let unit = def.unit.map(unit);
            let name = def.prefixed();
            let mut family =
                encoder.encode_descriptor(&name, def.help, unit.as_ref(), def.kind.metric())?;
            for (labels, value) in rows {
                let pairs: Vec<(&str, &str)> = def
                    .labels
                    .iter()
                    .copied()
                    .zip(labels.iter().map(String::as_str))
                    .collect();
                let mut row = family.encode_family(&pairs)?;
                match value {
                    Value::Counter(n) => ConstCounter::new(*n).encode(row)?,
                    Value::Seconds(n) => ConstCounter::new(*n).encode(row)?,
                    Value::Gauge(n) => ConstGauge::new(*n).encode(row)?,
                    Value::Histogram {
                        sum,
                        count,
                        buckets,
                    } => row.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)?,
                }
            }
        }
        Ok(())
    }
}

fn unit(word: &'static str) -> Unit {
    match word {
        "bytes" => Unit::Bytes,
        "seconds" => Unit::Seconds,
        other => Unit::Other(other.to_owned()),
    }
}

/// The table of `docs/reference/metrics.md`.
#[must_use]
pub(crate) fn page() -> String {
    let mut out = String::from("| name | kind | labels | |\n|---|---|---|---|\n");
    for def in families::ALL {
        let labels: Vec<String> = def
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        out.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            def.exported(),
            def.kind.word(),
            labels.join(", "),
            def.help
        ));
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
