//! Golden traces: one JSON line a frame, the same as the SDK's tests write (`sdk/src/test/replay.rs`).

use crate::names::Names;
use crate::question::{question, show};
use crate::recording::Recording;
use meshd_plugin_host::{Instance, key_print};
use serde_json::Value;
use std::fmt::Write as _;

/// First line of a golden trace: the format's version.
const HEAD: &str = r#"{"golden":1}"#;
/// Differences that are shown.
const SHOWN: usize = 20;

/// What `instance` says about every frame, asked about each.
pub fn trace(instance: &mut Instance, names: &Names, recording: &Recording) -> String {
    let mut out = format!("{HEAD}\n");
    for (at, captured) in recording.frames.iter().enumerate() {
        let n = at + 1;
        let packet = json(&show(&captured.frame));
        // Writing to a String cannot fail.
        let _ = match question(&captured.frame) {
            Err(why) => {
                let why = json(&why.to_string());
                writeln!(out, r#"{{"n":{n},"packet":{packet},"not-asked":{why}}}"#)
            }
            Ok(question) => {
                let key = key_print(&question);
                match instance.decide_in_words(&question, &|code| names.get(code)) {
                    Ok((_, words)) => writeln!(
                        out,
                        r#"{{"n":{n},"key":"{key:016x}","packet":{packet},"verdict":{},"reads":{}}}"#,
                        json(&words.verdict),
                        json(&words.reads)
                    ),
                    Err(fault) => writeln!(
                        out,
                        r#"{{"n":{n},"key":"{key:016x}","packet":{packet},"fault":{}}}"#,
                        json(&fault.to_string())
                    ),
                }
            }
        };
    }
    out
}

fn json(text: &str) -> String {
    Value::from(text).to_string()
}

/// Where `new` is not what `golden` says, line by line, since a line is a frame and frames keep their order.
#[must_use]
pub fn difference(golden: &str, new: &str) -> Option<String> {
    let (mut old, mut new) = (golden.lines(), new.lines());
    let (mut out, mut count) = (String::new(), 0);
    loop {
        let (old, new) = (old.next(), new.next());
        if old.is_none() && new.is_none() {
            break;
        }
        if old == new {
            continue;
        }
        count += 1;
        for (sign, line) in [('-', old), ('+', new)] {
            if let Some(line) = line.filter(|_| count <= SHOWN) {
                let _ = writeln!(out, "{sign} {line}");
            }
        }
    }
    if count > SHOWN {
        let _ = writeln!(out, "and {} more", count - SHOWN);
    }
    (count > 0).then_some(out)
}
