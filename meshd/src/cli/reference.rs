//! `docs/reference/cli.md`, made of the commands themselves so that it cannot say anything else than `--help`.

use super::args::Cli;
use super::{Failure, Printed};
use clap::{Command, CommandFactory};
use meshd_core::code::ErrorCode;
use std::fmt::Write as _;
use std::path::Path;

/// Options that every command takes, by their fields in `args::Common`, and `-h`.
const COMMON: [&str; 4] = ["socket", "state", "json", "help"];

/// The whole page.
pub(super) fn page() -> String {
    let mut out = String::from(
        "# Command line\n\n<!-- Made by `meshd help-markdown`; a test compares. -->\n\n\
         Every command takes `--json`: one JSON document on stdout and nothing else. Exit codes: 0 done, 1 refused or failed\n\
         (message on stderr; with `--json` also `{\"error\": {\"code\", \"kind\", \"message\"}}` on stdout), 2 wrong usage. Shapes of the\n\
         documents: `meshd/core/src/view.rs`; instants end in `_at_ms` (milliseconds since the Unix epoch), spans in their unit.\n",
    );
    let mut root = Cli::command().term_width(100);
    root.build();
    write(&root, &mut out);
    out
}

/// Man pages of all commands, one file each.
pub(super) fn man(dir: &Path) -> Result<Printed, Failure> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|error| {
            Failure::new(
                ErrorCode::FileUnwritten,
                format!("write man pages to {}: {error}", dir.display()),
            )
        })?;
    Printed::text("")
}

fn write(command: &Command, out: &mut String) {
    let name = command
        .get_bin_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    // What every command takes is said once, on top.
    let mut own = if name == "meshd" {
        command.clone()
    } else {
        command.clone().mut_args(|arg| {
            if COMMON.contains(&arg.get_id().as_str()) {
                arg.hide(true)
            } else {
                arg
            }
        })
    };
    let help = own.render_long_help().to_string();
    let help: String = help
        .lines()
        .flat_map(|line| [line.trim_end(), "\n"])
        .collect();
    // Writing to a String cannot fail.
    let _ = write!(out, "\n## `{name}`\n\n```text\n{}\n```\n", help.trim_end());
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write(sub, out);
    }
}

/// For tests: a page of the reference says what `made` does, which `how` prints.
#[cfg(test)]
pub(super) fn current(file: &str, made: &str, how: &str) {
    let path = format!("{}/../docs/reference/{file}", env!("CARGO_MANIFEST_DIR"));
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    let differs = kept.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(
        kept == made,
        "docs/reference/{file} is not what the code says, first at line {}; make it by `{how}`",
        differs.unwrap_or_else(|| kept.lines().count().min(made.lines().count())) + 1
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_current() {
        current("cli.md", &page(), "meshd help-markdown");
    }
}
