//! Reads TOML, and tells where it is wrong: line, column, and the line itself, for whatever bytes it has.

use crate::code::ErrorCode;
use crate::ident::escape;
use serde::de::DeserializeOwned;

/// Largest file, in bytes.
pub(super) const TEXT_MAX: usize = 1 << 20;

/// Where the file is wrong, and what to do. Line and column count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}\n  | {text}\n  | {marker}")]
pub struct ConfigError {
    /// What kind of fault.
    pub code: ErrorCode,
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
    /// In words.
    pub message: String,
    /// The line, escaped, cut to what a terminal shows.
    pub text: String,
    /// `^` under the column.
    pub marker: String,
}

/// What a text says, as far as types alone tell.
///
/// # Errors
/// The first thing that cannot be read, with its place.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    if text.len() > TEXT_MAX {
        let bytes = text.len();
        let message = format!("the file has {bytes} bytes; at most {TEXT_MAX} are read");
        return Err(error_at("", 0, message));
    }
    toml::from_str(text).map_err(|wrong| {
        let at = wrong.span().map_or(0, |span| span.start);
        let code = match text.parse::<toml::Table>() {
            Err(_) => ErrorCode::ConfigSyntax,
            Ok(_) if wrong.message().starts_with("unknown field") => ErrorCode::ConfigUnknownKey,
            Ok(_) => ErrorCode::ConfigValueInvalid,
        };
        ConfigError {
            code,
            ..error_at(text, at, wrong.message().to_owned())
        }
    })
}

/// Where `key` begins in the nth (or, of fewer, the last) `[section]` of a text that parsed, or where that section does;
/// 0 if it is written in some other way (`a.b = …`).
pub(super) fn place_of(text: &str, section: &str, key: &str, nth: usize) -> usize {
    let (mut at, mut inside, mut count, mut found) = (0, false, 0, 0);
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        let begins = at + (line.len() - line.trim_start().len());
        if let Some(head) = bare.strip_prefix('[') {
            let head = head.trim_start_matches('[').trim_start();
            inside = head
                .strip_prefix(section)
                .is_some_and(|rest| rest.trim_start().starts_with(']') && count <= nth);
            if inside {
                count += 1;
                if nth != usize::MAX {
                    found = begins;
                }
            }
        } else if inside
            && bare
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        {
            // Of several `[[network]]` the last: it is the one too many.
            found = begins;
        }
        at += line.len();
    }
    found
}

pub(super) fn error_at(text: &str, at: usize, message: String) -> ConfigError {
    const SHOWN: usize = 100;
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let (before, after) = text.split_at(at);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let lead = before.get(line_start..).unwrap_or("");
    let column = lead.chars().count() + 1;
    let rest = after.split('\n').next().unwrap_or("");
    // A window around the place, with what does not print escaped: the file may be anything.
    let lead_shown: String = lead
        .chars()
        .skip(column.saturating_sub(SHOWN / 2))
        .collect();
    let rest_shown: String = rest.chars().take(SHOWN / 2).collect();
    let lead_shown = printable(&lead_shown);
    let marker = format!("{}^", " ".repeat(lead_shown.chars().count()));
    let message = escape_lines(&message);
    ConfigError {
        code: ErrorCode::ConfigValueInvalid,
        line: before.matches('\n').count() + 1,
        column,
        message,
        text: format!("{lead_shown}{}", printable(&rest_shown))
            .trim_end()
            .to_owned(),
        marker,
    }
}

/// The text as it is in the file, but for what does not print.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => shown.push(c),
            _ => shown.push_str(&escape(c.encode_utf8(&mut [0; 4]).as_bytes())),
        }
    }
    shown
}

/// The parser's message on one line; it may quote the file.
fn escape_lines(message: &str) -> String {
    let joined = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    joined
        .chars()
        .take(500)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
