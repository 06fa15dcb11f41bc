//! Spans to a collector, by OTLP over HTTP with protobuf (OpenTelemetry protocol 1.x, `POST /v1/traces`).
//!
//! ```text
//!   spans --queue of 2048--> the SDK's own thread, each second --one request--> collector
//!              \--> full: dropped, the operation never waits
//! ```
//!
//! Owns the bounds and the client: hyper, as for all HTTP here, on the control runtime.

use super::{TARGET, Traces};
use crate::bounded;
use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use meshd_core::code::ErrorCode;
use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::filter_fn;

/// Spans that wait to be sent; more are dropped.
const QUEUE_MAX: usize = 2048;
/// Spans of one request.
const BATCH_MAX: usize = 512;
/// Between two requests.
const EACH: Duration = Duration::from_secs(1);
/// For a request and its answer.
const WITHIN: Duration = Duration::from_secs(5);
/// At the daemon's end, for what is left.
const LAST: Duration = Duration::from_secs(2);
/// Bytes of an answer.
const ANSWER_MAX: usize = 64 << 10;

/// Sends until it is dropped.
pub(super) struct Provider(SdkTracerProvider);

impl Drop for Provider {
    fn drop(&mut self) {
        // A collector that is gone does not keep the daemon.
        let _ = self.0.shutdown_with_timeout(LAST);
    }
}

pub(super) fn start(collector: &str, control: &Handle) -> anyhow::Result<(Provider, Traces)> {
    let client = Client {
        control: control.clone(),
        silent: AtomicBool::new(false),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", collector.trim_end_matches('/')))
        .with_timeout(WITHIN)
        .build()
        .with_context(|| format!("[telemetry] otlp = \"{collector}\""))?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_MAX)
        .with_max_export_batch_size(BATCH_MAX)
        .with_scheduled_delay(EACH)
        .build();
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(batches)
        .build();
    let host = bounded::text(std::path::Path::new("/proc/sys/kernel/hostname"), 256);
    let resource = Resource::builder()
        .with_service_name("meshd")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", host.unwrap_or_default().trim().to_owned()),
        ])
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_resource(resource)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("meshd"))
        .with_filter(filter_fn(|about| {
            about.is_span() && about.target() == TARGET
        }));
    Ok((Provider(provider), layer.boxed()))
}

/// The one header of a caller that matters here.
struct Caller<'a>(&'a str);

impl Extractor for Caller<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// See `telemetry.rs`.
pub(crate) fn follow(span: &Span, traceparent: &str) {
    if span.is_disabled() {
        return;
    }
    let caller = TraceContextPropagator::new().extract(&Caller(traceparent));
    if caller.span().span_context().is_valid() {
        // Fails only where no layer takes spans.
        let _ = span.set_parent(caller);
    }
}

/// Asks on the control runtime, whatever thread it is asked on.
#[derive(Debug)]
struct Client {
    control: Handle,
    /// The collector did not take the last ones: that is told once.
    silent: AtomicBool,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let asked = self.control.spawn(async move {
            tokio::time::timeout(WITHIN, ask(request))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs()).into()))
        });
        let told = asked
            .await
            .unwrap_or_else(|_| Err("the daemon is stopping".into()));
        let trouble = match &told {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        match trouble {
            None if self.silent.swap(false, Ordering::Relaxed) => {
                tracing::info!("traces are taken by the collector again");
            }
            Some(error) if !self.silent.swap(true, Ordering::Relaxed) => {
                tracing::warn!(code = %ErrorCode::TracesUnsent, %error, "traces are not taken by the collector; they are dropped until it does");
            }
            _ => {}
        }
        told
    }
}

async fn ask(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or("the address names no host")?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    head.headers
        .insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse::<Uri>()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the set, also if nobody waits any more.
    let mut driving = tokio::task::JoinSet::new();
    driving.spawn(connection);
    let request = Request::from_parts(head, Full::<Bytes>::from(body));
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}
