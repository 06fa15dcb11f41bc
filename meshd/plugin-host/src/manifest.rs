//! What a component says of itself: the custom section `meshd:plugin`, as `docs/plugins/manifest.md` has it.
//!
//! ```text
//!   component --section, top level first--> JSON --bounds, words--> Manifest        no section: None
//!                                                  \--> ManifestError: such a component is refused
//! ```
//!
//! Owns the format, its bounds and the check of the contract it names. A stranger wrote it: what it holds is bounded, texts
//! are escaped while they are read, and fields that are not known are passed over. A manifest that does not read refuses the
//! component, for a fail mode that is misread could turn a refusal into a pass.

use crate::capability::{self, Asks};
use crate::schema::Schema;
use crate::version::{WIT, remedy};
use meshd_core::ident::escape;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wasmparser::{Encoding, Parser, Payload};

/// Name of the custom section.
pub const SECTION: &str = "meshd:plugin";
/// Bytes of the longest manifest that is read.
pub const MAX_MANIFEST: usize = 256 << 10;
/// The version of the format that is read.
const FORMAT: u64 = 1;
/// Names of reasons that one manifest may have.
const REASONS_MAX: usize = 1024;
/// Bytes of a reason's name.
const REASON_MAX: usize = 48;
/// Characters of other texts that are kept; of the description more.
const TEXT_MAX: usize = 64;
/// See [`TEXT_MAX`].
const DESCRIPTION_MAX: usize = 400;
/// Worlds that this host has.
const WORLDS: [&str; 4] = ["policy", "policy-tracked", "controller", "steering"];

/// Where in a chain a plugin belongs. A chain is asked in this order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Refuses.
    #[default]
    Guard,
    /// Marks and changes.
    Classify,
    /// Says where to.
    Forward,
    /// Copies and counts; has no say in where a frame goes and what becomes of it.
    Observe,
}

impl Stage {
    /// All, in the order in which they are asked.
    pub const ALL: [Self; 4] = [Self::Guard, Self::Classify, Self::Forward, Self::Observe];

    /// As it is typed and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Classify => "classify",
            Self::Forward => "forward",
            Self::Observe => "observe",
        }
    }

    /// What holds if nobody said: who refuses or marks is missed, who copies or redirects must not stop traffic.
    #[must_use]
    pub fn fail(self) -> FailMode {
        match self {
            Self::Guard | Self::Classify => FailMode::Closed,
            Self::Forward | Self::Observe => FailMode::Open,
        }
    }
}

/// What holds for the frames that a plugin ought to have decided and could not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailMode {
    /// They are dropped.
    #[default]
    Closed,
    /// They go to the next plugin.
    Open,
    /// The version that was in place before the last change of code or config, and worked, decides with its config; where
    /// there is none, they are dropped.
    LastGood,
}

impl FailMode {
    /// As it is typed and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::LastGood => "last-good",
        }
    }
}

/// Why a manifest does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its manifest (custom section {SECTION}) does not read: {reason}. Build it with the meshd-sdk of this release, or leave the section out"
)]
pub struct ManifestError {
    reason: String,
}

/// What a plugin's author says of it. Texts are escaped: fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Of the plugin; an operator may have another.
    pub name: String,
    /// Of the plugin.
    pub version: String,
    /// One sentence, or empty.
    pub description: String,
    /// What wrote the manifest, or empty.
    pub sdk: String,
    /// Where in a chain it belongs, if it says so.
    pub stage: Option<Stage>,
    /// What should hold when it cannot answer, if it says so.
    pub fail: Option<FailMode>,
    /// Codes of drops from 1 to this are numbers of rules in the config.
    pub rules: u16,
    /// Names of other codes.
    pub reasons: BTreeMap<u16, String>,
    /// What may be in the config, if it says so.
    pub schema: Option<Schema>,
    /// The world that it is made for, as `wit/worlds.wit` calls it.
    pub world: String,
    /// What it asks for; of a controller only.
    pub asks: Asks,
}

/// As it is written; whatever else is there is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Written {
    manifest: u64,
    name: String,
    version: String,
    #[serde(default)]
    description: String,
    wit: String,
    world: String,
    #[serde(default)]
    sdk: String,
    stage: Option<Stage>,
    fail: Option<FailMode>,
    #[serde(default)]
    rules: u16,
    #[serde(default)]
    reasons: Vec<Reason>,
    config_schema: Option<serde_json::Value>,
    #[serde(default)]
    capabilities: capability::Written,
}

#[derive(Deserialize)]
struct Reason {
    code: u16,
    name: String,
}

impl Manifest {
    /// The manifest of a component; `None` if it has none.
    ///
    /// # Errors
    /// It has one, and it does not read, or names another contract.
    pub fn of(component: &[u8]) -> Result<Option<Self>, ManifestError> {
        section(component)?.map(Self::read).transpose()
    }

    fn read(json: &[u8]) -> Result<Self, ManifestError> {
        if json.len() > MAX_MANIFEST {
            return wrong(format!(
                "it has {} bytes; at most {MAX_MANIFEST} are taken",
                json.len()
            ));
        }
        // The version first: another one may have other fields.
        #[derive(Deserialize)]
        struct Version {
            manifest: u64,
        }
        let unreadable = |e: serde_json::Error| ManifestError {
            reason: text(&e.to_string(), DESCRIPTION_MAX),
        };
        let Version { manifest } = serde_json::from_slice(json).map_err(unreadable)?;
        if manifest != FORMAT {
            return wrong(format!(
                "it is of format {manifest}, and this host reads {FORMAT}"
            ));
        }
        let written: Written = serde_json::from_slice(json).map_err(unreadable)?;
        debug_assert_eq!(written.manifest, FORMAT);
        if !same_contract(&written.wit) {
            let version = written
                .wit
                .split_once('@')
                .map_or("", |(_, version)| version);
            return wrong(format!(
                "it is made for {}, and this host speaks {WIT}. {}",
                text(&written.wit, TEXT_MAX),
                remedy(version)
            ));
        }
        if !WORLDS.contains(&written.world.as_str()) {
            return wrong(format!(
                "it is made for the world {}, and this host has {}",
                text(&written.world, TEXT_MAX),
                WORLDS.join(", ")
            ));
        }
        if written.reasons.len() > REASONS_MAX {
            return wrong(format!("it names more than {REASONS_MAX} reasons"));
        }
        let mut reasons = BTreeMap::new();
        for Reason { code, name } in written.reasons {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.is_empty() || name.len() > REASON_MAX || !name.bytes().all(plain) {
                return wrong(format!(
                    "\"{}\" is no name of a reason (1 to {REASON_MAX} of a-z, 0-9 and hyphens)",
                    text(&name, TEXT_MAX)
                ));
            }
            if code <= written.rules && code > 0 {
                return wrong(format!(
                    "code {code} is both the number of a rule and {name}"
                ));
            }
            if reasons.insert(code, name).is_some() {
                return wrong(format!("code {code} has two names"));
            }
        }
        let asks = written.capabilities.asks();
        let asks = asks.map_err(|reason| ManifestError {
            reason: text(&reason, DESCRIPTION_MAX),
        })?;
        Ok(Self {
            world: written.world,
            asks,
            name: text(&written.name, TEXT_MAX),
            version: text(&written.version, TEXT_MAX),
            description: text(&written.description, DESCRIPTION_MAX),
            sdk: text(&written.sdk, TEXT_MAX),
            stage: written.stage,
            fail: written.fail,
            rules: written.rules,
            reasons,
            schema: written.config_schema.map(Schema::new),
        })
    }

    /// The code of a drop, for people.
    #[must_use]
    pub fn reason(&self, code: u16) -> String {
        match self.reasons.get(&code) {
            Some(name) => name.clone(),
            None if (1..=self.rules).contains(&code) => format!("rule {code}"),
            None => format!("code {code}"),
        }
    }
}

/// Escaped and cut.
fn text(text: &str, most: usize) -> String {
    let cut: String = text.chars().take(most).collect();
    escape(cut.as_bytes())
}

fn wrong<T>(reason: String) -> Result<T, ManifestError> {
    Err(ManifestError { reason })
}

/// The same package and minor version: below 1.0 a minor step may break.
fn same_contract(wit: &str) -> bool {
    let family = |wit: &str| {
        let (package, version) = wit.split_once('@')?;
        let mut parts = version.split('.');
        let family = (
            package.to_owned(),
            parts.next()?.to_owned(),
            parts.next()?.to_owned(),
        );
        // With or without a patch, and nothing behind it.
        let rest: Vec<&str> = parts.collect();
        (rest.len() <= 1 && rest.iter().all(|patch| patch.parse::<u32>().is_ok())).then_some(family)
    };
    family(wit).is_some() && family(wit) == family(WIT)
}

/// The section's content: of the component itself, else of the one module or component inside that has it.
fn section(component: &[u8]) -> Result<Option<&[u8]>, ManifestError> {
    let (mut own, mut inner) = (None, None);
    let mut depth = 0usize;
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(|e| ManifestError {
            reason: text(&format!("the component is damaged: {e}"), DESCRIPTION_MAX),
        })?;
        match payload {
            Payload::Version { encoding, .. } => {
                debug_assert!(matches!(encoding, Encoding::Component | Encoding::Module));
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(found) if found.name() == SECTION => {
                let place = if depth <= 1 { &mut own } else { &mut inner };
                if place.replace(found.data()).is_some() {
                    return wrong("there are two of them".to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(own.or(inner))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEAST: &str =
        r#"{"manifest":1,"name":"a","version":"1","wit":"meshd:policy@0.1.0","world":"policy"}"#;

    /// [`LEAST`] with a field more, or another.
    fn with(field: &str, value: serde_json::Value) -> Result<Manifest, ManifestError> {
        let mut json: serde_json::Value = serde_json::from_str(LEAST).unwrap();
        json[field] = value;
        Manifest::read(json.to_string().as_bytes())
    }

    fn leb(mut n: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while n >= 0x80 {
            out.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    }

    fn custom(data: &str) -> Vec<u8> {
        let name = [&leb(SECTION.len())[..], SECTION.as_bytes()].concat();
        let body = [&name[..], data.as_bytes()].concat();
        [&[0][..], &leb(body.len()), &body].concat()
    }

    fn component(inner: &[&str], own: &[&str]) -> Vec<u8> {
        let mut out = vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0];
        for data in inner {
            let module = [&[0, b'a', b's', b'm', 1, 0, 0, 0][..], &custom(data)].concat();
            out.extend([&[1][..], &leb(module.len()), &module].concat());
        }
        own.iter().for_each(|data| out.extend(custom(data)));
        out
    }

    #[test]
    fn the_top_level_goes_before_the_module_inside_and_two_are_refused() {
        let named = |name: &str| LEAST.replace("\"a\"", &format!("\"{name}\""));
        let (own, inner) = (named("own"), named("inner"));
        let name = |bytes: &[u8]| Manifest::of(bytes).map(|m| m.map(|m| m.name));
        assert_eq!(name(&component(&[], &[])), Ok(None));
        assert_eq!(
            name(&component(&[&inner], &[])),
            Ok(Some("inner".to_owned()))
        );
        assert_eq!(
            name(&component(&[&inner], &[&own])),
            Ok(Some("own".to_owned()))
        );
        for two in [
            component(&[], &[&own, &own]),
            component(&[&inner, &inner], &[]),
        ] {
            let error = name(&two).unwrap_err().to_string();
            assert!(error.contains("there are two"), "{error}");
        }
    }

    #[test]
    fn fields_that_nobody_knows_are_passed_over_and_the_rest_has_defaults() {
        let manifest = with("colour", serde_json::json!({"deep": [1, 2]})).unwrap();
        assert_eq!(
            (manifest.stage, manifest.fail, manifest.rules),
            (None, None, 0)
        );
        assert!(manifest.reasons.is_empty() && manifest.schema.is_none());
    }

    #[test]
    fn a_manifest_that_does_not_read_says_what_is_wrong() {
        for (field, value, says) in [
            ("manifest", serde_json::json!(2), "format 2"),
            (
                "wit",
                serde_json::json!("meshd:policy@0.2.0"),
                "this host speaks meshd:policy@0.1.0",
            ),
            (
                "wit",
                serde_json::json!("meshd:policy@0.1.0.0"),
                "this host speaks",
            ),
            (
                "world",
                serde_json::json!("policy-v2"),
                "the world policy-v2",
            ),
            ("stage", serde_json::json!("sandwich"), "sandwich"),
            ("fail", serde_json::json!(3), "does not read"),
            ("rules", serde_json::json!(70000), "70000"),
            (
                "reasons",
                serde_json::json!([{"code":1,"name":"No\u{1b}[2J"}]),
                "no name of a reason",
            ),
            (
                "reasons",
                serde_json::json!([{"code":1,"name":"a"},{"code":1,"name":"b"}]),
                "two names",
            ),
            (
                "reasons",
                serde_json::json!(vec![serde_json::json!({"code":1,"name":"a"}); 1025]),
                "more than 1024",
            ),
        ] {
            let error = with(field, value).unwrap_err().to_string();
            assert!(error.contains(says), "{field}: {error}");
            assert!(!error.contains('\u{1b}'), "{field}: {error:?}");
        }
        let long = Manifest::read(&vec![b' '; MAX_MANIFEST + 1]).unwrap_err();
        assert!(long.to_string().contains("at most"), "{long}");
        let deep = format!("{LEAST}{}", "[".repeat(10_000));
        assert!(Manifest::read(deep.as_bytes()).is_err());
        assert!(with("wit", serde_json::json!("meshd:policy@0.1")).is_ok());
        assert!(with("wit", serde_json::json!("meshd:policy@0.1.7")).is_ok());
    }

    #[test]
    fn texts_are_escaped_and_cut() {
        let manifest = with("name", serde_json::json!("a\u{1b}[2J\n\u{202e}b")).unwrap();
        assert_eq!(manifest.name, "a\\u{1b}[2J\\n\\u{202e}b");
        let manifest = with("description", serde_json::json!("x".repeat(100_000))).unwrap();
        assert_eq!(manifest.description.len(), DESCRIPTION_MAX);
    }

    #[test]
    fn a_code_is_a_rule_a_name_or_itself() {
        let mut json: serde_json::Value = serde_json::from_str(LEAST).unwrap();
        json["rules"] = 3.into();
        json["reasons"] = serde_json::json!([{"code":4,"name":"default"}]);
        let manifest = Manifest::read(json.to_string().as_bytes()).unwrap();
        let said: Vec<String> = [0, 1, 3, 4, 5].map(|code| manifest.reason(code)).into();
        assert_eq!(said, ["code 0", "rule 1", "rule 3", "default", "code 5"]);
    }

    proptest! {
        #[test]
        fn no_bytes_do_more_than_fail(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in any::<proptest::sample::Index>(),
        ) {
            let _ = Manifest::read(&bytes);
            let _ = Manifest::of(&bytes);
            let mut whole = component(&[LEAST], &[LEAST]);
            whole.truncate(cut.index(whole.len()));
            whole.extend(&bytes);
            let _ = Manifest::of(&whole);
        }
    }
}
