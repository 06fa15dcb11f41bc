//! Of `#[derive(Config)]`: what it reads, what it refuses and where, and the schema.

use super::*;
use crate::prelude::*;
use std::collections::BTreeMap;

/// All there is.
///
/// In two
/// paragraphs.
#[derive(Debug, PartialEq, Config)]
struct All {
    /// Where.
    #[config(default = 23)]
    port: u16,
    #[config(default = "10.0.0.0/8")]
    inside_net: Net,
    #[config(default = ["pass"], name = "do")]
    what: Vec<What>,
    src_mac: Option<Mac>,
    groups: BTreeMap<String, Vec<i8>>,
    #[config(skip)]
    prepared: u32,
}

#[derive(Debug, PartialEq, Config)]
enum What {
    /// Lets it pass.
    Pass,
    DenyAll(Inner),
}

#[derive(Debug, PartialEq, Config)]
struct Inner {
    on: bool,
}

#[derive(Debug, PartialEq, Config)]
struct Nothing {}

#[policy(stage = "observe", rules = 7)]
impl Policy for All {
    fn decide(&self, key: &Key<'_>) -> Verdict {
        match key.dst_port() {
            1 => drop("one"),
            2 => drop(2),
            // In the arguments of a macro it is a reason like others.
            3 if vec![drop("two"), drop("one")].len() == 2 => drop("one"),
            _ => next(),
        }
    }
}

#[test]
fn what_is_absent_has_its_default() {
    let all: All = from_json(r#"{"groups":{}}"#).unwrap_or_else(|e| panic!("{e:?}"));
    let wanted = All {
        port: 23,
        inside_net: "10.0.0.0/8".parse().unwrap_or_else(|e| panic!("{e}")),
        what: vec![What::Pass],
        src_mac: None,
        groups: BTreeMap::new(),
        prepared: 0,
    };
    assert_eq!(all, wanted);
}

#[test]
fn what_is_there_is_read() {
    let text = r#"{"port":0,"inside-net":"fd00::/8","do":[{"deny-all":{"on":true}},"pass"],
        "src-mac":"02:00:00:00:00:01","groups":{"a/b":[-128,127]}}"#;
    let all: All = from_json(text).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(all.what, [What::DenyAll(Inner { on: true }), What::Pass]);
    assert_eq!(all.src_mac, Some(Mac::new([2, 0, 0, 0, 0, 1])));
    assert_eq!(all.groups["a/b"], [-128, 127]);
    assert_eq!(from_json::<Nothing>(" {} "), Ok(Nothing {}));
}

#[test]
fn everything_that_is_wrong_is_told_with_its_place() {
    let text = r#"{"port":70000,"inside-net":"10.0.0.1/8","do":["pass","stop",{"deny-all":{"on":1}},{"pass":1}],
        "src-mac":7,"groups":{"a/b~":[0,128]},"prepared":1}"#;
    let errors = from_json::<All>(text).expect_err("wrong");
    let shown: Vec<String> = errors
        .iter()
        .map(|e| format!("{} {}", e.pointer, e.message))
        .collect();
    let wanted = [
        "/prepared there is no such field; there are: port, inside-net, do, src-mac, groups",
        "/port a whole number from 0 to 65535 is wanted, and this is 70000",
        "/inside-net \"10.0.0.1/8\" is no range of addresses: the address has bits behind the prefix (examples: 10.0.0.0/24, fd00::/8, 10.0.0.7)",
        "/do/1 \"pass\" or {\"deny-all\": …} is wanted, and this is the text \"stop\"",
        "/do/2/deny-all/on true or false is wanted, and this is 1",
        "/do/3 \"pass\" or {\"deny-all\": …} is wanted, and this is an object",
        "/src-mac a MAC address, such as \"02:00:00:00:00:01\", is wanted, and this is 7",
        "/groups/a~1b~0/1 a whole number from -128 to 127 is wanted, and this is 128",
    ];
    assert_eq!(shown, wanted);
    let missing = from_json::<All>("{}").expect_err("missing");
    assert_eq!(
        missing,
        [ConfigError::new("", "the field \"groups\" is missing")]
    );
    let list = from_json::<Nothing>("[]").expect_err("a list");
    assert_eq!(
        list,
        [ConfigError::new(
            "",
            "an object, such as {}, is wanted, and this is a list"
        )]
    );
    let none = from_json::<Nothing>(r#"{"x":1}"#).expect_err("a field");
    assert_eq!(
        none,
        [ConfigError::new(
            "/x",
            "there is no such field; there are: none"
        )]
    );
    let many = format!(r#"{{"groups":{{"a":[{}0]}}}}"#, "true,".repeat(1000));
    assert_eq!(from_json::<All>(&many).expect_err("many").len(), MAX_ERRORS);
}

#[test]
fn the_manifest_has_the_schema_and_the_names_of_reasons() {
    let manifest = crate::test::manifest::<All>();
    let net = <Net as Config>::SCHEMA;
    let Schema::Text { doc: net } = net else {
        panic!("{net:?}")
    };
    let wanted = serde_json::json!({
        "manifest": 1,
        "name": "meshd-sdk",
        "version": env!("CARGO_PKG_VERSION"),
        "description": env!("CARGO_PKG_DESCRIPTION"),
        "wit": "meshd:policy@0.1.0",
        "world": "policy",
        "sdk": concat!("rust ", env!("CARGO_PKG_VERSION")),
        "stage": "observe",
        "fail": "open",
        "rules": 7,
        "reasons": [{ "code": 8, "name": "one" }, { "code": 9, "name": "two" }],
        "config-schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "All",
            "description": "All there is.\n\nIn two paragraphs.",
            "type": "object",
            "properties": {
                "port": { "description": "Where.", "type": "integer", "minimum": 0, "maximum": 65535, "default": 23 },
                "inside-net": { "description": net, "type": "string", "default": "10.0.0.0/8" },
                "do": {
                    "type": "array",
                    "items": {
                        "title": "What",
                        "oneOf": [
                            { "description": "Lets it pass.", "const": "pass" },
                            { "type": "object", "required": ["deny-all"], "additionalProperties": false, "properties": {
                                "deny-all": { "title": "Inner", "type": "object", "required": ["on"], "additionalProperties": false,
                                    "properties": { "on": { "type": "boolean" } } } } },
                        ],
                    },
                    "default": ["pass"],
                },
                "src-mac": { "description": "A MAC address, such as 02:00:00:00:00:01.", "type": "string" },
                "groups": { "type": "object", "additionalProperties":
                    { "type": "array", "items": { "type": "integer", "minimum": -128, "maximum": 127 } } },
            },
            "required": ["groups"],
            "additionalProperties": false,
        },
    });
    assert_eq!(manifest, wanted, "{manifest:#}");
}
