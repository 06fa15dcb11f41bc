//! The schema of a plugin's config, and what of it this host checks before the plugin is asked.
//!
//! A stranger's schema is a program: `$ref` and patterns can keep a validator busy for as long as its author likes. So this
//! one knows the words that need no jump and no matching (types, bounds, names, lists, alternatives), counts its steps, and
//! takes all else as true. It never refuses what the schema allows; what it lets through, the plugin's own check sees. ADR 14
//! has the reasons.

use crate::instance::ConfigProblem;
use meshd_core::ident::escape;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Steps of one check: pairs of a schema and a value. Then the rest is left to the plugin.
const STEPS: u32 = 1_000_000;
/// Problems that are told.
const PROBLEMS: usize = 16;
/// Characters of a stranger's words in a message.
const QUOTED: usize = 60;
/// Alternatives that a message lists.
const LISTED: usize = 12;

/// JSON Schema, draft 2020-12, as far as this host reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema(Arc<Value>);

impl Schema {
    pub(crate) fn new(schema: Value) -> Self {
        Self(Arc::new(schema))
    }

    /// What is wrong with a config; nothing: the plugin is to be asked.
    pub(crate) fn problems(&self, config: &str) -> Vec<ConfigProblem> {
        let config: Value = match serde_json::from_str(config) {
            Ok(config) => config,
            Err(e) => {
                return vec![ConfigProblem {
                    pointer: String::new(),
                    message: format!("it is no JSON: {e}"),
                }];
            }
        };
        let mut check = Check {
            steps: STEPS,
            path: Vec::new(),
            found: Vec::new(),
        };
        check.value(&self.0, &config);
        match check.steps {
            0 => Vec::new(),
            _ => check.found,
        }
    }

    /// As it was written.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.0
    }
}

struct Check<'a> {
    steps: u32,
    path: Vec<Step<'a>>,
    found: Vec<ConfigProblem>,
}

#[derive(Clone)]
enum Step<'a> {
    Name(&'a str),
    At(usize),
}

/// Of so many comparisons, in steps.
fn cost(comparisons: usize) -> u32 {
    u32::try_from(comparisons).unwrap_or(u32::MAX)
}

impl<'a> Check<'a> {
    fn value(&mut self, schema: &Value, value: &'a Value) {
        self.steps = self.steps.saturating_sub(1);
        if self.steps == 0 || self.found.len() >= PROBLEMS {
            return;
        }
        let schema = match schema {
            Value::Bool(false) => return self.say("nothing may stand here".to_owned()),
            Value::Object(schema) => schema,
            _ => return,
        };
        if let Some(wanted) = schema.get("type")
            && !is_of(wanted, value)
        {
            return self.say(format!(
                "{} is wanted, and this is {}",
                kinds(wanted),
                shown(value)
            ));
        }
        if let Some(wanted) = schema.get("const")
            && !same(wanted, value)
        {
            return self.say(format!(
                "{} is wanted, and this is {}",
                shown(wanted),
                shown(value)
            ));
        }
        if let Some(Value::Array(wanted)) = schema.get("enum") {
            self.steps = self.steps.saturating_sub(cost(wanted.len()));
        }
        if let Some(Value::Array(wanted)) = schema.get("enum")
            && !wanted.iter().any(|one| same(one, value))
        {
            let list = listed(wanted.iter().map(shown));
            return self.say(format!("{list} is wanted, and this is {}", shown(value)));
        }
        match value {
            Value::Number(number) => self.number(schema, number),
            Value::String(text) => {
                let bounds = ["minLength", "maxLength"];
                if bounds.iter().any(|bound| schema.contains_key(*bound)) {
                    self.steps = self.steps.saturating_sub(cost(text.len() / 64));
                    self.size(schema, bounds, text.chars().count(), "characters");
                }
            }
            Value::Array(list) => self.list(schema, list),
            Value::Object(object) => self.object(schema, object),
            _ => {}
        }
        if let Some(Value::Array(all)) = schema.get("allOf") {
            all.iter().for_each(|one| self.value(one, value));
        }
        for name in ["anyOf", "oneOf"] {
            if let Some(Value::Array(any)) = schema.get(name) {
                self.any(any, value);
            }
        }
    }

    fn number(&mut self, schema: &Map<String, Value>, number: &serde_json::Number) {
        // Whole numbers compare exactly, others as floating point.
        let less = |a: &serde_json::Number, b: &serde_json::Number| match (whole(a), whole(b)) {
            (Some(a), Some(b)) => a < b,
            _ => matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a < b),
        };
        let bound = |name: &str| match schema.get(name) {
            Some(Value::Number(bound)) => Some(bound),
            _ => None,
        };
        if let Some(least) = bound("minimum").filter(|least| less(number, least)) {
            self.say(format!("{number} is too small; at least {least}"));
        }
        if let Some(most) = bound("maximum").filter(|most| less(most, number)) {
            self.say(format!("{number} is too large; at most {most}"));
        }
    }

    fn size(
        &mut self,
        schema: &Map<String, Value>,
        [least, most]: [&str; 2],
        size: usize,
        what: &str,
    ) {
        let size = size as u64;
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        if let Some(least) = bound(least).filter(|least| size < *least) {
            self.say(format!("it has {size} {what}; at least {least}"));
        }
        if let Some(most) = bound(most).filter(|most| size > *most) {
            self.say(format!("it has {size} {what}; at most {most}"));
        }
    }

    fn list(&mut self, schema: &Map<String, Value>, list: &'a [Value]) {
        self.size(schema, ["minItems", "maxItems"], list.len(), "items");
        // Behind `prefixItems`, `items` speaks of the rest only.
        let Some(items) = schema
            .get("items")
            .filter(|_| !schema.contains_key("prefixItems"))
        else {
            return;
        };
        for (at, item) in list.iter().enumerate() {
            self.below(Step::At(at), items, item);
        }
    }

    fn object(&mut self, schema: &Map<String, Value>, object: &'a Map<String, Value>) {
        self.size(
            schema,
            ["minProperties", "maxProperties"],
            object.len(),
            "fields",
        );
        let properties = schema.get("properties").and_then(Value::as_object);
        let more = schema
            .get("additionalProperties")
            .filter(|_| !schema.contains_key("patternProperties"));
        for (name, value) in object {
            match (properties.and_then(|known| known.get(name)), more) {
                (Some(of), _) => self.below(Step::Name(name), of, value),
                (None, Some(Value::Bool(false))) => {
                    self.path.push(Step::Name(name));
                    let known = properties.into_iter().flat_map(Map::keys);
                    let known = listed(known.map(|name| quoted(name)));
                    self.say(format!("no such field; there are {known}"));
                    self.path.pop();
                }
                (None, Some(of)) => self.below(Step::Name(name), of, value),
                (None, None) => {}
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            self.steps = self.steps.saturating_sub(1);
            if !object.contains_key(name) {
                self.say(format!("the field {} is missing", quoted(name)));
            }
        }
    }

    fn below(&mut self, step: Step<'a>, schema: &Value, value: &'a Value) {
        self.path.push(step);
        self.value(schema, value);
        self.path.pop();
    }

    /// One of these must fit. Of those that do not, the one that fits deepest is most likely the one that was meant.
    fn any(&mut self, any: &[Value], value: &'a Value) {
        let outer = std::mem::take(&mut self.found);
        let mut best: Option<(usize, Vec<ConfigProblem>)> = None;
        for one in any {
            self.value(one, value);
            let found = std::mem::take(&mut self.found);
            if found.is_empty() {
                self.found = outer;
                return;
            }
            let depth = found.iter().map(|p| p.pointer.matches('/').count()).min();
            let depth = depth.unwrap_or_default();
            if best.as_ref().is_none_or(|(old, _)| depth > *old) {
                best = Some((depth, found));
            }
        }
        self.found = outer;
        match best {
            Some((depth, found)) if depth > self.path.len() => {
                let room = PROBLEMS.saturating_sub(self.found.len());
                self.found.extend(found.into_iter().take(room));
            }
            _ => {
                let list = listed(any.iter().map(alternative));
                self.say(format!("{list} is wanted, and this is {}", shown(value)));
            }
        }
    }

    fn say(&mut self, message: String) {
        if self.found.len() < PROBLEMS {
            let pointer = self.path.iter().map(|step| match step {
                Step::Name(name) => {
                    let name: String = name.chars().take(QUOTED).collect();
                    format!(
                        "/{}",
                        escape(name.replace('~', "~0").replace('/', "~1").as_bytes())
                    )
                }
                Step::At(at) => format!("/{at}"),
            });
            self.found.push(ConfigProblem {
                pointer: pointer.collect(),
                message,
            });
        }
    }
}

fn whole(number: &serde_json::Number) -> Option<i128> {
    number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from))
}

/// `1` and `1.0` are one number in JSON Schema.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn is_of(wanted: &Value, value: &Value) -> bool {
    let one = |wanted: &str| match wanted {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_number().is_some_and(|number| {
            whole(number).is_some() || number.as_f64().is_some_and(|float| float.fract() == 0.0)
        }),
        _ => true,
    };
    match wanted {
        Value::String(wanted) => one(wanted),
        Value::Array(wanted) => wanted.iter().any(|w| w.as_str().is_none_or(one)),
        _ => true,
    }
}

fn kinds(wanted: &Value) -> String {
    let one = |wanted: &str| match wanted {
        "integer" => "a whole number".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "an object".to_owned(),
        "string" => "a text".to_owned(),
        "boolean" => "true or false".to_owned(),
        "null" => "null".to_owned(),
        "number" => "a number".to_owned(),
        other => quoted(other),
    };
    match wanted {
        Value::Array(wanted) => listed(wanted.iter().filter_map(Value::as_str).map(one)),
        other => one(other.as_str().unwrap_or_default()),
    }
}

/// What an alternative asks for, in a few words.
fn alternative(schema: &Value) -> String {
    if let Some(value) = schema.get("const") {
        return shown(value);
    }
    let required = schema.get("required").and_then(Value::as_array);
    match (schema.get("type"), required.map(Vec::as_slice)) {
        (Some(_), Some([Value::String(name)])) => format!("{{{}: ...}}", quoted(name)),
        (Some(kind), _) => match (kind.as_str(), schema.get("minimum"), schema.get("maximum")) {
            (Some("integer"), Some(Value::Number(least)), Some(Value::Number(most))) => {
                format!("a whole number from {least} to {most}")
            }
            _ => kinds(kind),
        },
        (None, _) => "something else".to_owned(),
    }
}

fn listed(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.take(LISTED + 1).collect();
    if words.len() > LISTED {
        words.truncate(LISTED);
        words.push("more".to_owned());
    }
    match words.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(QUOTED).collect();
    format!("\"{}\"", escape(cut.as_bytes()))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(schema: Value, config: &Value) -> Vec<String> {
        let problems = Schema::new(schema).problems(&config.to_string());
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_problem_has_its_pointer_and_what_would_be_right() {
        let schema = json!({
            "type": "object", "required": ["deny"], "additionalProperties": false,
            "properties": {
                "deny": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {
                    "port": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 65535}, {"type": "string"}]}}}},
                "a/b~c": {"enum": ["x", 1]},
                "to": {"oneOf": [{"const": "pass"}, {"type": "object", "properties": {"port": {"type": "integer", "minimum": 1}},
                    "required": ["port"], "additionalProperties": false}]},
            }
        });
        for (config, says) in [
            (json!({}), vec!["the field \"deny\" is missing"]),
            (json!([]), vec!["an object is wanted, and this is a list"]),
            (
                json!({"deny": 7}),
                vec!["at /deny: a list is wanted, and this is 7"],
            ),
            (
                json!({"deny": [{}, {"port": 70000}]}),
                vec![
                    "at /deny/1/port: a whole number from 0 to 65535 or a text is wanted, and this is 70000",
                ],
            ),
            (
                json!({"deny": [1, 2, 3]}),
                vec![
                    "at /deny: it has 3 items; at most 2",
                    "at /deny/0: an object is wanted, and this is 1",
                    "at /deny/1: an object is wanted, and this is 2",
                    "at /deny/2: an object is wanted, and this is 3",
                ],
            ),
            (
                json!({"deny": [], "a/b~c": 2}),
                vec!["at /a~1b~0c: \"x\" or 1 is wanted, and this is 2"],
            ),
            (
                json!({"deny": [], "den": 1}),
                vec!["at /den: no such field; there are \"a/b~c\", \"deny\" or \"to\""],
            ),
            // The alternative that was meant tells.
            (
                json!({"deny": [], "to": {"port": 0}}),
                vec!["at /to/port: 0 is too small; at least 1"],
            ),
            (
                json!({"deny": [], "to": "drop"}),
                vec!["at /to: \"pass\" or {\"port\": ...} is wanted, and this is \"drop\""],
            ),
            (
                json!({"deny": [{"port": "http"}], "to": {"port": 9}, "a/b~c": 1.0}),
                vec![],
            ),
        ] {
            assert_eq!(said(schema.clone(), &config), says, "{config}");
        }
        let cut = Schema::new(json!(true)).problems("{\"deny\"");
        assert!(cut[0].message.contains("no JSON"), "{cut:?}");
    }

    #[test]
    fn what_is_not_checked_is_left_to_the_plugin() {
        for schema in [
            json!({"$ref": "#/$defs/none"}),
            json!({"not": {}}),
            json!({"pattern": "^(a+)+$", "format": "ipv4"}),
            json!({"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}),
            json!({"patternProperties": {"^x": {}}, "additionalProperties": false}),
            json!({"prefixItems": [true], "items": false}),
            json!({"type": 7, "properties": 3, "required": "x", "items": 1, "anyOf": {}}),
            json!("text"),
        ] {
            for config in [
                json!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"),
                json!({"x1": 1}),
                json!([1]),
            ] {
                assert_eq!(
                    said(schema.clone(), &config),
                    Vec::<String>::new(),
                    "{schema}"
                );
            }
        }
    }

    #[test]
    fn a_long_list_of_values_counts_as_many_steps_as_it_is_long() {
        let values: Vec<u32> = (0..100_000).map(|_| 2).chain([1]).collect();
        let config: Vec<u32> = vec![1; 100_000];
        let started = std::time::Instant::now();
        said(json!({ "items": { "enum": values } }), &json!(config));
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn a_schema_that_is_made_to_take_for_ever_ends_soon_and_refuses_nothing() {
        // Every value with every alternative: 250 million pairs.
        let any: Vec<Value> = (-1..5_000).rev().map(|n| json!({"const": n})).collect();
        let schema = Schema::new(json!({"items": {"anyOf": any}}));
        let config = json!(vec![-1; 50_000]).to_string();
        let started = std::time::Instant::now();
        assert_eq!(schema.problems(&config), []);
        assert!(
            started.elapsed() < std::time::Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
    }

    #[test]
    fn problems_are_counted_and_a_strangers_words_are_escaped() {
        let said = said(
            json!({"items": {"const": "\u{1b}[2J"}}),
            &json!(vec![1; 100]),
        );
        assert_eq!(said.len(), PROBLEMS);
        assert!(!said[0].contains('\u{1b}'), "{said:?}");
    }
}
