//! A collector of OpenTelemetry for tests: takes what a daemon sends by OTLP over HTTP with protobuf, and reads the spans out of it
//! (opentelemetry-proto, `collector/trace/v1`).
//!
//! Owns one listener in a host's namespace, and the reading of as much protobuf as that takes. It is no client's library: what a daemon
//! sends is read by other code than what wrote it.

use crate::netns;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where it listens, in the host's namespace.
pub const URL: &str = "http://127.0.0.1:4318";

/// A span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Of its trace.
    pub trace: Vec<u8>,
    /// Its own.
    pub id: Vec<u8>,
    /// Of its parent; empty: none.
    pub parent: Vec<u8>,
    /// What was done.
    pub name: String,
    /// Its attributes, numbers as text.
    pub attributes: BTreeMap<String, String>,
    /// `service.name` of the resource.
    pub service: String,
    /// How it came to nothing: what its status says, if that is an error.
    pub error: Option<String>,
    /// Nanoseconds from its begin to its end.
    pub took_ns: u64,
}

impl Span {
    /// An attribute; empty: it has none of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// A field of a protobuf message.
struct Field<'a> {
    number: u64,
    /// Of a message, a string or bytes.
    bytes: &'a [u8],
    /// Of a number.
    value: u64,
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut out = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().context("cut short")?;
        *bytes = rest;
        out |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(out);
        }
    }
    bail!("a varint without end")
}

fn fields(mut bytes: &[u8]) -> Result<Vec<Field<'_>>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let mut field = Field {
            number: tag >> 3,
            bytes: &[],
            value: 0,
        };
        let len = match tag & 7 {
            0 => {
                field.value = varint(&mut bytes)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?)?,
            5 => 4,
            kind => bail!("wire type {kind}"),
        };
        ensure!(len <= bytes.len(), "cut short");
        (field.bytes, bytes) = bytes.split_at(len);
        if tag & 7 == 1 {
            field.value = u64::from_le_bytes(field.bytes.try_into()?);
        }
        out.push(field);
    }
    Ok(out)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `KeyValue`s of field `number`.
fn attributes(all: &[Field<'_>], number: u64) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for pair in all.iter().filter(|field| field.number == number) {
        let (mut key, mut value) = (String::new(), String::new());
        for field in fields(pair.bytes)? {
            if field.number == 1 {
                key = text(field.bytes);
                continue;
            }
            for any in fields(field.bytes)? {
                value = match any.number {
                    1 => text(any.bytes),
                    _ => any.value.to_string(),
                };
            }
        }
        out.insert(key, value);
    }
    Ok(out)
}

fn span(bytes: &[u8], service: &str) -> Result<Span> {
    let all = fields(bytes)?;
    let of = |number| all.iter().find(|field| field.number == number);
    let bytes = |number| of(number).map_or(&[][..], |field| field.bytes);
    let value = |number| of(number).map_or(0, |field| field.value);
    let mut error = None;
    if let Some(status) = of(15) {
        let status = fields(status.bytes)?;
        // STATUS_CODE_ERROR
        if status.iter().any(|f| f.number == 3 && f.value == 2) {
            let message = status.iter().find(|f| f.number == 2);
            error = Some(message.map(|f| text(f.bytes)).unwrap_or_default());
        }
    }
    Ok(Span {
        trace: bytes(1).to_vec(),
        id: bytes(2).to_vec(),
        parent: bytes(4).to_vec(),
        name: text(bytes(5)),
        attributes: attributes(&all, 9)?,
        service: service.to_owned(),
        error,
        took_ns: value(8).saturating_sub(value(7)),
    })
}

/// Of an `ExportTraceServiceRequest`.
fn spans(request: &[u8]) -> Result<Vec<Span>> {
    let mut out = Vec::new();
    for of_resource in fields(request)? {
        let parts = fields(of_resource.bytes)?;
        let mut service = String::new();
        for resource in parts.iter().filter(|field| field.number == 1) {
            let about = attributes(&fields(resource.bytes)?, 1)?;
            service = about.get("service.name").cloned().unwrap_or_default();
        }
        for scope in parts.iter().filter(|field| field.number == 2) {
            for one in fields(scope.bytes)?.iter().filter(|f| f.number == 2) {
                out.push(span(one.bytes, &service)?);
            }
        }
    }
    Ok(out)
}

/// It listens until the process ends.
#[derive(Clone, Debug)]
pub struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Starts it in a namespace, at [`URL`].
    ///
    /// # Errors
    /// If the port cannot be had.
    pub fn start(netns: &str) -> Result<Self> {
        let listener = netns::within(netns, || Ok(TcpListener::bind("127.0.0.1:4318")?))?;
        let made = Self(Arc::default());
        let taken = made.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = taken.take(stream) {
                    eprintln!("what the daemon sent: {error:#}");
                }
            }
        });
        Ok(made)
    }

    /// One request; what it is to be like is checked here.
    fn take(&self, stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            ensure!(reader.read_line(&mut line)? > 0, "the head is cut short");
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push_str(&line);
        }
        ensure!(head.starts_with("post /v1/traces http/1.1"), "{head}");
        let kind = "content-type: application/x-protobuf";
        ensure!(head.contains(kind), "{head}");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let all = spans(&body)?;
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.extend(all);
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        reader.get_mut().write_all(answer.as_bytes())?;
        Ok(())
    }

    /// All that it has so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The first span that is meant, once it has come.
    ///
    /// # Errors
    /// If it does not: with the names of those that did.
    pub fn find(&self, what: &str, is: impl Fn(&Span) -> bool) -> Result<Span> {
        let mut found = None;
        crate::wait(what, Duration::from_secs(15), || {
            found = self.spans().into_iter().find(|span| is(span));
            Ok(found.is_some())
        })
        .with_context(|| {
            let names: Vec<String> = self.spans().into_iter().map(|span| span.name).collect();
            names.join(", ")
        })?;
        found.context("it was found")
    }
}
