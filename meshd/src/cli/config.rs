//! `meshd config`: what is wrong with a file, and what a file may hold. Needs no daemon.
//!
//! Owns these commands; the keys are [`meshd_core::config::keys`]'s, the page of them is in `config/page.rs`.

mod page;

use super::args::Common;
use super::values::show_path;
use super::{Failure, Printed, show};
use crate::config_file;
use clap::Subcommand;
use meshd_core::code::ErrorCode;
use meshd_core::config::keys::{self, Key, Kind, Section};
use meshd_core::config::{Config, ConfigDiff};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The file, unless told otherwise.
const FILE: &str = "/etc/meshd/meshd.toml";

/// `meshd config`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Read a config file as the daemon would, and say what it sets; exit code 1 with line and column if it is wrong.
    #[command(
        after_help = "Examples:\n  meshd config check\n  meshd config check new.toml && mv new.toml /etc/meshd/meshd.toml\n\n\
        Nothing is changed. Keys are listed that differ from what holds without a file: those that a\n\
        running daemon takes when the file changes, and those that it takes at its next start."
    )]
    Check {
        /// The file [default: that of MESHD_CONFIG, or /etc/meshd/meshd.toml].
        #[arg(
            env = "MESHD_CONFIG",
            value_name = "FILE",
            default_value = FILE,
            hide_default_value = true,
            hide_env_values = true
        )]
        file: PathBuf,
    },
    /// Print the JSON schema of the config file, for editors and generators.
    #[command(
        after_help = "Examples:\n  meshd config schema > meshd.schema.json\n\n\
        Taplo and what is built on it take it by a first line `#:schema ./meshd.schema.json` of the TOML\n\
        file. The daemon checks more than a schema can say; `meshd config check` is the judge."
    )]
    Schema,
    /// Print the reference page of all keys.
    #[command(hide = true)]
    Markdown,
}

pub(super) fn run(common: &Common, command: &ConfigCommand) -> Result<Printed, Failure> {
    match command {
        ConfigCommand::Check { file } => check(common, file),
        ConfigCommand::Schema => Printed::text(show::json(&schema(&sections()?))),
        ConfigCommand::Markdown => Printed::text(page::page(&sections()?)),
    }
}

fn sections() -> Result<Vec<Section>, Failure> {
    keys::sections()
        .map_err(|wrong| Failure::new(ErrorCode::Internal, format!("the list of keys: {wrong}")))
}

fn check(common: &Common, file: &Path) -> Result<Printed, Failure> {
    let config = config_file::read(Some(file)).map_err(|wrong| {
        Failure::from(wrong)
            .hint("`meshd config schema` and docs/reference/config.md have all keys")
    })?;
    let ConfigDiff { live, restart } = ConfigDiff::between(&Config::default(), &config);
    if common.json {
        return Printed::text(show::json(
            &json!({ "file": show_path(file), "live": live, "restart": restart }),
        ));
    }
    let mut text = format!("{} reads\n", show_path(file));
    for (keys, when) in [
        (live, "at once, when the file changes"),
        (restart, "at the next start of the daemon"),
    ] {
        if !keys.is_empty() {
            text += &format!("{when}: {}\n", keys.join(", "));
        }
    }
    Printed::text(text)
}

/// A schema by JSON Schema 2020-12.
fn schema(sections: &[Section]) -> Value {
    let mut top = object("Configuration of meshd", Map::new(), &[]);
    for section in sections {
        let properties = section
            .keys
            .iter()
            .map(|key| (key.name.clone(), of_key(key)));
        let required: Vec<&str> = section
            .keys
            .iter()
            .filter(|key| key.required)
            .map(|key| key.name.as_str())
            .collect();
        let mut table = object(&section.about, properties.collect(), &required);
        if let Some(many) = section.many {
            table = json!({ "type": "array", "maxItems": many, "items": table });
        }
        put(&mut top, &section.name, table);
    }
    if let Value::Object(fields) = &mut top {
        let dialect = "https://json-schema.org/draft/2020-12/schema";
        fields.insert("$schema".to_owned(), dialect.into());
    }
    top
}

fn object(about: &str, properties: Map<String, Value>, required: &[&str]) -> Value {
    json!({
        "type": "object", "description": about, "properties": properties, "required": required, "additionalProperties": false,
    })
}

/// Puts a table where its dotted name says, into one that may be there.
fn put(into: &mut Value, name: &str, table: Value) {
    let (first, rest) = name
        .split_once('.')
        .map_or((name, None), |(first, rest)| (first, Some(rest)));
    let Some(Value::Object(properties)) = into.get_mut("properties") else {
        return;
    };
    match rest {
        None => drop(properties.insert(first.to_owned(), table)),
        Some(rest) => {
            let inner = properties
                .entry(first)
                .or_insert_with(|| object("", Map::new(), &[]));
            put(inner, rest, table);
        }
    }
}

fn of_key(key: &Key) -> Value {
    let mut number = json!({ "type": "integer" });
    for (word, bound) in [("minimum", key.low), ("maximum", key.high)] {
        if let Some(bound) = bound {
            number[word] = bound.into();
        }
    }
    let mut shape = match key.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Number => number,
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Word => json!({ "enum": key.words }),
        Kind::List => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Map => json!({ "type": "object", "additionalProperties": number }),
        Kind::Lists => {
            json!({ "type": "object", "additionalProperties": { "type": "array", "items": number } })
        }
    };
    shape["description"] = key.about.as_str().into();
    if let Some(most) = key.most {
        shape["maxItems"] = most.into();
    }
    if let Some(default) = key.default.as_deref().and_then(value) {
        shape["default"] = default;
    }
    if let Some(example) = value(&key.example) {
        shape["examples"] = json!([example]);
    }
    shape
}

/// What is written in TOML, as JSON.
fn value(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(&format!("it = {text}")).ok()?;
    serde_json::to_value(table.get("it")?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_each_key_where_the_file_has_it() {
        let schema = schema(&sections().unwrap());
        let bond = &schema["properties"]["device"]["properties"]["bond"];
        assert_eq!(bond["type"], "array");
        assert_eq!(bond["items"]["required"], json!(["name", "members"]));
        assert_eq!(bond["items"]["properties"]["miimon"]["maximum"], 60_000);
        let underlay = &schema["properties"]["underlay"]["properties"];
        assert_eq!(underlay["listen"]["default"], "[::]:7650");
        assert_eq!(underlay["link"]["maxItems"], 6);
        assert_eq!(schema["additionalProperties"], false);
        let mut count = 0;
        for section in sections().unwrap() {
            count += section.keys.len();
        }
        assert_eq!(schema.to_string().matches("\"examples\"").count(), count);
    }

    #[test]
    fn a_file_that_is_wrong_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("meshd.toml");
        let common = Common {
            socket: PathBuf::new(),
            state: PathBuf::new(),
            json: false,
        };
        std::fs::write(&file, "[log]\nlevel = \"debug\"\nformat = \"json\"\n").unwrap();
        let said = check(&common, &file)
            .map_err(|wrong| wrong.message)
            .unwrap();
        assert!(
            said.text
                .contains("at once, when the file changes: log.level\n")
        );
        assert!(
            said.text
                .contains("at the next start of the daemon: log.format\n")
        );
        std::fs::write(&file, "[log]\nlevle = 1\n").unwrap();
        let wrong = check(&common, &file).err().unwrap();
        assert!(
            wrong.message.contains("line 2, column 1"),
            "{}",
            wrong.message
        );
    }
}
