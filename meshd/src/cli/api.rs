//! `meshd api`: tokens in the state folder, and the description of the API; neither asks a daemon.

use super::args::{ApiCommand, Common};
use super::{Failure, Printed, show};
use crate::api::tokens::{Kind, Tokens};
use crate::store::Store;
use meshd_core::code::ErrorCode;
use serde_json::{Value, json};
use std::fmt::Write as _;

pub(super) fn run(common: &Common, command: &ApiCommand) -> Result<Printed, Failure> {
    match *command {
        ApiCommand::Token { read, renew } => token(common, read, renew),
        ApiCommand::Metrics => Printed::text(crate::api::metrics_page()),
        ApiCommand::Openapi { markdown: false } => Printed::text(document()),
        ApiCommand::Openapi { markdown: true } => Printed::text(page()),
    }
}

fn token(common: &Common, read: bool, renew: bool) -> Result<Printed, Failure> {
    if !Store::exists(&common.state) {
        let message = format!("{} is no state folder of a node", common.state.display());
        return Err(Failure::new(ErrorCode::NotAMember, message).hint(
            "give the daemon's by --state (MESHD_STATE), or make one by `meshd init` or `meshd join`",
        ));
    }
    let kind = if read { Kind::Read } else { Kind::Change };
    let made = Tokens::new(&common.state).make(kind, renew);
    let token = made.map_err(|error| {
        let place = common.state.join("api");
        Failure::new(
            ErrorCode::ApiTokenUnusable,
            format!("the token in {}: {error}", place.display()),
        )
    })?;
    Printed::text(match common.json {
        true => show::json(&json!({ "token": token })),
        false => format!("{token}\n"),
    })
}

fn document() -> String {
    let mut text = crate::api::document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// Every route and every shape, for people; made of the same document.
fn page() -> String {
    let document = serde_json::to_value(crate::api::document()).unwrap_or_default();
    let mut out = String::from(
        "# Routes of the API\n\n<!-- Made by `meshd api openapi --markdown`; a test compares. -->\n\n\
         Who may ask, limits and errors: [api.md](api.md). The same for programs: [openapi.json](openapi.json), which the daemon\n\
         answers at `/v1/openapi.json`, too.\n\n| request | body | answer | |\n|---|---|---|---|\n",
    );
    let empty = serde_json::Map::new();
    let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
    for (path, operations) in document["paths"].as_object().unwrap_or(&empty) {
        for (method, operation) in object(operations) {
            let mut query: Vec<String> = Vec::new();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "query" {
                    query.push(parameter["name"].as_str().unwrap_or_default().to_owned());
                }
            }
            let query = match query.is_empty() {
                true => String::new(),
                false => format!("?{}=", query.join("=&")),
            };
            let content = |value: &Value| {
                let all = object(&value["content"]);
                let one = all.iter().next();
                one.map(|(kind, content)| match kind.as_str() {
                    "application/json" => shape(&content["schema"]),
                    kind => format!("`{kind}`"),
                })
            };
            let body = content(&operation["requestBody"]).unwrap_or_default();
            let answer =
                content(&operation["responses"]["200"]).unwrap_or_else(|| "204".to_owned());
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "| `{} {path}{query}` | {body} | {answer} | {} |",
                method.to_uppercase(),
                operation["summary"].as_str().unwrap_or_default(),
            );
        }
    }
    for (name, schema) in document["components"]["schemas"]
        .as_object()
        .unwrap_or(&empty)
    {
        let _ = write!(out, "\n## {name}\n\n");
        if let Some(text) = schema["description"].as_str() {
            let _ = writeln!(out, "{}\n", line(text));
        }
        fields(schema, &mut out);
    }
    out
}

/// Fields of an object, or what else it is.
fn fields(schema: &Value, out: &mut String) {
    let required = |name: &str| {
        let all = schema["required"].as_array();
        all.is_some_and(|all| all.iter().any(|one| one == name))
    };
    if let Some(properties) = schema["properties"].as_object() {
        for (name, field) in properties {
            let mark = if required(name) {
                ""
            } else {
                ", may be left out"
            };
            let text = described(field).unwrap_or_default();
            let _ = writeln!(out, "- `{name}`: {}{mark}. {}", shape(field), line(text));
        }
        return;
    }
    let parts = ["oneOf", "anyOf", "allOf"];
    let Some((how, all)) = parts
        .iter()
        .find_map(|how| Some((how, schema[*how].as_array()?)))
    else {
        let _ = writeln!(out, "{}.", shape(schema));
        return;
    };
    let _ = writeln!(
        out,
        "{}\n",
        if *how == "allOf" {
            "All of:"
        } else {
            "One of:"
        }
    );
    for one in all {
        let text = one["description"].as_str().unwrap_or_default();
        let _ = writeln!(out, "- {} {}", shape(one), line(text));
    }
}

/// Of a field; where it may be null it stands with what else it may be.
fn described(field: &Value) -> Option<&str> {
    let parts = field["oneOf"].as_array().into_iter().flatten();
    std::iter::once(field)
        .chain(parts)
        .find_map(|one| one["description"].as_str().filter(|text| !text.is_empty()))
}

/// A shape in a few words.
fn shape(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        return words.join(" or ");
    }
    for how in ["oneOf", "anyOf"] {
        if let Some(all) = schema[how].as_array() {
            return all.iter().map(shape).collect::<Vec<_>>().join(" or ");
        }
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().map(shape).collect::<Vec<_>>().join(" and ");
    }
    let kind = |kind: &str| match kind {
        "array" => format!("list of {}", shape(&schema["items"])),
        "object" => match (&schema["properties"], &schema["additionalProperties"]) {
            (Value::Object(properties), _) => {
                let inner = properties
                    .iter()
                    .map(|(name, one)| format!("`{name}`: {}", shape(one)));
                format!("{{{}}}", inner.collect::<Vec<_>>().join(", "))
            }
            (_, Value::Object(_)) => format!("map of {}", shape(&schema["additionalProperties"])),
            _ => "object".to_owned(),
        },
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::String(one) => kind(one),
        Value::Array(all) => {
            let all: Vec<String> = all.iter().filter_map(Value::as_str).map(kind).collect();
            all.join(" or ")
        }
        _ => "anything".to_owned(),
    }
}

/// On one line, and without what a table or a list would take for its own.
fn line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
        .replace("[`", "`")
        .replace("`]", "`")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::reference::current;

    #[test]
    fn the_openapi_document_is_current() {
        current("openapi.json", &document(), "meshd api openapi");
    }

    #[test]
    fn the_page_of_routes_is_current() {
        current("api-routes.md", &page(), "meshd api openapi --markdown");
    }

    #[test]
    fn every_route_field_and_word_is_described() {
        let document = serde_json::to_value(crate::api::document()).unwrap();
        let mut bare = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                if operation["summary"].as_str().is_none_or(str::is_empty) {
                    bare.push(format!("{method} {path}"));
                }
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    if parameter["description"].as_str().is_none_or(str::is_empty) {
                        bare.push(format!("{method} {path}: {}", parameter["name"]));
                    }
                }
            }
        }
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            if schema["description"].as_str().is_none_or(str::is_empty) {
                bare.push(name.clone());
            }
            for (field, shape) in schema["properties"].as_object().into_iter().flatten() {
                if described(shape).is_none() && shape.get("$ref").is_none() {
                    bare.push(format!("{name}.{field}"));
                }
            }
        }
        assert!(bare.is_empty(), "without a description: {bare:#?}");
    }

    #[test]
    fn every_reference_leads_to_a_shape() {
        let document = serde_json::to_value(crate::api::document()).unwrap();
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(
                document["components"]["schemas"][name].is_object(),
                "{name}"
            );
        }
    }
}
