//! `docs/reference/config.md`, made of the list of keys so that it cannot say anything else than what is read.

use meshd_core::config::keys::{Key, Kind, Section};
use std::fmt::Write as _;

const HEAD: &str = "\
# Configuration

<!-- Made by `meshd config markdown`; a test compares. -->

`/etc/meshd/meshd.toml`, or the file of `meshd run --config` or `MESHD_CONFIG`. All of it is optional: without a file meshd runs with
the defaults. [An example with every key](../../examples/config/meshd.toml) is in the repository.

- **A file is taken whole or not at all.** An unknown key, a value of a wrong type or beyond its bounds is told with line and column, and
  a running daemon goes on with what it has. `meshd config check FILE` says the same beforehand; `meshd config schema` prints a
  JSON schema for editors.
- **The daemon reads the file when it changes**, within two seconds, and on SIGHUP. It may be a symlink, or lie behind some (as in a
  `ConfigMap`): what counts is the regular file that they lead to. Keys with *at once* take effect then; the others, *restart*, at the
  next start of the daemon, which its log says. A file that is made while the daemon runs without one is read at its next start.
- Command line and environment go before the file: `--socket` (`MESHD_SOCKET`), `--state` (`MESHD_STATE`), `RUST_LOG`.
";

/// The whole page.
pub(super) fn page(sections: &[Section]) -> String {
    let mut out = HEAD.to_owned();
    for section in sections {
        one(section, &mut out);
    }
    out
}

fn one(section: &Section, out: &mut String) {
    let Section { name, about, .. } = section;
    let (title, often) = match section.many {
        Some(many) => (
            format!("[[{name}]]"),
            format!(" May be there up to {many} times."),
        ),
        None => (format!("[{name}]"), String::new()),
    };
    // Writing to a String cannot fail.
    let _ = write!(out, "\n## `{title}`\n\n{about}{often}\n\n");
    *out += "| key | | type | without it | taken |\n|---|---|---|---|---|\n";
    for key in &section.keys {
        let taken = if key.live { "at once" } else { "restart" };
        let (name, kind, without) = (&key.name, kind(key), without(key));
        let _ = writeln!(
            out,
            "| `{name}` | {} | {kind} | {without} | {taken} |",
            key.about
        );
    }
    *out += "\nFor instance:\n\n```toml\n";
    let _ = writeln!(out, "{title}");
    let together = section.keys.iter().filter(|key| !key.apart);
    for key in together {
        let _ = writeln!(out, "{} = {}", key.name, key.example);
    }
    *out += "```\n";
}

fn kind(key: &Key) -> String {
    let form = key.form.as_deref().unwrap_or("text");
    let bounds = match (key.low, key.high) {
        (Some(low), Some(high)) => format!("{low} to {high}"),
        (Some(low), None) => format!("{low} or more"),
        _ => "number".to_owned(),
    };
    let bounds = match &key.unit {
        Some(unit) => format!("{bounds} {unit}"),
        None => bounds,
    };
    match key.kind {
        Kind::Text => form.to_owned(),
        Kind::Number => bounds,
        Kind::Switch => "`true` or `false`".to_owned(),
        Kind::Word => {
            let words: Vec<String> = key
                .words
                .iter()
                .map(|word| format!("`\"{word}\"`"))
                .collect();
            words.join(", ")
        }
        Kind::List => {
            let most = key
                .most
                .map_or(String::new(), |most| format!(", at most {most}"));
            format!("list, each {form}{most}")
        }
        Kind::Map => format!("table, by member: {bounds}"),
        Kind::Lists => format!("table, by member: list of {bounds}"),
    }
}

fn without(key: &Key) -> String {
    match (&key.default, &key.left_out) {
        (Some(default), _) => format!("`{default}`"),
        (None, Some(left_out)) => left_out.clone(),
        (None, None) => "is needed".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::reference::current;
    use meshd_core::config::{Config, keys};

    #[test]
    fn the_reference_page_is_current() {
        let page = page(&keys::sections().unwrap());
        current("config.md", &page, "meshd config markdown");
    }

    #[test]
    fn each_example_of_the_page_is_read() {
        let page = page(&keys::sections().unwrap());
        let blocks: Vec<&str> = page.split("```toml\n").skip(1).collect();
        assert!(blocks.len() > 8);
        for block in blocks {
            let text = block.split_once("```").unwrap().0;
            Config::parse(text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
        }
    }
}
