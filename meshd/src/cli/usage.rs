//! Wrong usage: what was typed is no command. Ends with 2, before anything is asked or done.
//!
//! Owns the way from the reader's errors to codes, and their form. With `--json` among the words the error is on stdout as well.

use super::args::Cli;
use super::{print, show};
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use std::ffi::OsString;

/// The exit code.
pub(super) const EXIT: u8 = 2;

fn code(kind: ErrorKind) -> ErrorCode {
    match kind {
        ErrorKind::InvalidSubcommand
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => ErrorCode::UsageUnknownCommand,
        ErrorKind::UnknownArgument => ErrorCode::UsageUnknownArgument,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::NoEquals
        | ErrorKind::TooFewValues
        | ErrorKind::WrongNumberOfValues => ErrorCode::UsageMissingArgument,
        ErrorKind::ArgumentConflict | ErrorKind::TooManyValues => ErrorCode::UsageConflict,
        // Its list of kinds is open.
        _ => ErrorCode::UsageValueInvalid,
    }
}

/// The reader lists all options that have a value, those of the environment too, as if they had to be given: in its place the line of
/// the command's help.
fn with_usage(mut error: clap::Error, words: impl Iterator<Item = OsString>) -> clap::Error {
    if error.get(ContextKind::Usage).is_none() {
        return error;
    }
    let mut command = Cli::command();
    command.build();
    for word in words.skip(1) {
        let sub = command.find_subcommand(&*word.to_string_lossy()).cloned();
        command = sub.unwrap_or(command);
    }
    let usage = command.render_usage();
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    error
}

/// The reader's own words, with the code where its `error:` stands.
fn text(error: &clap::Error) -> String {
    let said = error.to_string();
    let code = code(error.kind());
    match said.strip_prefix("error: ") {
        Some(rest) => format!("error[{code}]: {rest}"),
        // A command without its subcommand: that is its help.
        None => said,
    }
}

pub(super) fn tell(error: clap::Error) {
    let error = &with_usage(error, std::env::args_os());
    if std::env::args_os().any(|word| word == "--json") {
        let said = error.to_string();
        let message = said.strip_prefix("error: ").unwrap_or(&said);
        let message = message.split("\n\n").next().unwrap_or_default().trim();
        let refusal = Refusal::new(code(error.kind()), message);
        // If stdout is closed, stderr says it.
        let _ = print(&show::json(&serde_json::json!({ "error": refusal })));
    }
    eprint!("{}", text(error));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn the_usage_of_a_command_names_what_it_needs_and_not_what_the_environment_gave() {
        // Given by the environment, an option is listed as this one is.
        let words = ["meshd", "--socket", "/tmp/x", "trace"];
        let error = Cli::try_parse_from(words).err();
        let words = words.into_iter().map(OsString::from);
        let told = error.map(|error| text(&with_usage(error, words)));
        let told = told.unwrap_or_default();
        assert!(
            told.contains("Usage: meshd trace [OPTIONS] <NETWORK>") && !told.contains("--socket"),
            "{told}"
        );
    }

    #[test]
    fn each_kind_of_wrong_usage_has_its_code() {
        for (words, code) in [
            (&["meshd", "atach"][..], "usage-unknown-command"),
            (&["meshd", "status", "--jsn"], "usage-unknown-argument"),
            (&["meshd", "join"], "usage-missing-argument"),
            (&["meshd", "invite", "--ttl", "soon"], "usage-value-invalid"),
            // Of an uplink, and of no use anywhere else.
            (
                &["meshd", "attach", "lan", "--netns", "x", "--vlan", "5"],
                "usage-conflict",
            ),
            (
                &["meshd", "attach", "lan", "--netns", "x", "--macs", "5"],
                "usage-conflict",
            ),
            (
                &["meshd", "attach", "lan", "--netns", "x", "--allow", "mdns"],
                "usage-conflict",
            ),
        ] {
            let error = Cli::try_parse_from(words).err();
            let told = error.map(|error| text(&error)).unwrap_or_default();
            assert!(told.starts_with(&format!("error[{code}]: ")), "{told}");
        }
    }
}
