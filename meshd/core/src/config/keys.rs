//! Every key of the configuration file, with type, bounds, default and meaning, for those who describe it.
//!
//! ```text
//!   keys.toml --keys()--> [Section] --> docs/reference/config.md, JSON schema (package meshd)
//!                            | tests: the same keys, defaults, bounds, words as Config; live as ConfigDiff
//! ```
//!
//! Owns the list. What is read, and refused, is [`super::Config`]'s.

use serde::Deserialize;

/// One table of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// As in the file: `underlay`, `device.bond`.
    pub name: String,
    /// So many of it at most; `None`: it is there once.
    pub many: Option<u32>,
    /// What it is for, in Markdown.
    pub about: String,
    /// Its keys, in the order in which to tell them.
    pub keys: Vec<Key>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// How a text looks, or each text of a list: `address:port`.
    pub form: Option<String>,
    /// Of numbers.
    pub unit: Option<String>,
    /// The lowest number.
    pub low: Option<i64>,
    /// The highest number.
    pub high: Option<i64>,
    /// Most entries of a list.
    pub most: Option<u32>,
    /// All that can be said, of [`Kind::Word`].
    #[serde(default)]
    pub words: Vec<String>,
    /// It cannot be left out.
    #[serde(default)]
    pub required: bool,
    /// As one would write what holds without it.
    pub default: Option<String>,
    /// What holds without it, in words.
    pub left_out: Option<String>,
    /// A value other than the default, as one would write it.
    pub example: String,
    /// What must stand beside the example, entries with `; ` between them.
    pub with: Option<String>,
    /// It cannot be together with others: it is not in an example of all.
    #[serde(default)]
    pub apart: bool,
    /// A running daemon takes it when the file changes.
    #[serde(default)]
    pub live: bool,
    /// What it means, in Markdown.
    pub about: String,
}

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A string of some form.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Switch,
    /// One of some strings.
    Word,
    /// Strings of some form.
    List,
    /// Numbers, by names.
    Map,
    /// Lists of numbers, by names.
    Lists,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    section: Vec<Section>,
}

/// All sections, in the order of the file.
///
/// # Errors
/// Never, once its tests have passed.
pub fn sections() -> Result<Vec<Section>, toml::de::Error> {
    toml::from_str::<File>(include_str!("keys.toml")).map(|file| file.section)
}

impl Section {
    /// A text with the required keys, and this one as `value`.
    #[must_use]
    pub fn text(&self, key: &Key, value: &str) -> String {
        let (open, close) = match self.many {
            Some(_) => ("[[", "]]"),
            None => ("[", "]"),
        };
        let beside = key.with.iter().flat_map(|with| with.split("; "));
        let beside: Vec<&str> = beside.collect();
        let said = |name: &str| {
            name == key.name
                || beside
                    .iter()
                    .any(|line| line.starts_with(&format!("{name} =")))
        };
        let needed = self
            .keys
            .iter()
            .filter(|other| other.required && !said(&other.name));
        let needed = needed.map(|other| format!("{} = {}", other.name, other.example));
        let own = format!("{} = {value}", key.name);
        let lines: Vec<String> = needed
            .chain(beside.iter().map(|line| (*line).to_owned()))
            .chain([own])
            .collect();
        format!("{open}{}{close}\n{}\n", self.name, lines.join("\n"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigDiff};
    use std::collections::BTreeSet;

    /// Each key with its section, and what a text with some value of it is read as.
    fn each(mut look: impl FnMut(&Section, &Key, &dyn Fn(&str) -> Result<Config, String>)) {
        for section in sections().unwrap() {
            for key in &section.keys {
                let read = |value: &str| {
                    Config::parse(&section.text(key, value)).map_err(|wrong| wrong.to_string())
                };
                look(&section, key, &read);
            }
        }
    }

    /// What would have been expected in the place of a wrong word, out of the parser's own message.
    fn expected(text: &str) -> BTreeSet<String> {
        let wrong = Config::parse(text).unwrap_err().message;
        let (_, list) = wrong
            .split_once("expected ")
            .unwrap_or_else(|| panic!("{text}: {wrong}"));
        list.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_list_has_every_key_that_is_read_and_no_other() {
        let all = sections().unwrap();
        let below = |name: &str| -> BTreeSet<String> {
            let own = all.iter().filter(|section| section.name == name);
            let own = own.flat_map(|section| section.keys.iter().map(|key| key.name.clone()));
            let inner = all.iter().filter_map(|section| {
                let rest = match name {
                    "" => section.name.as_str(),
                    name => section.name.strip_prefix(name)?.strip_prefix('.')?,
                };
                rest.split('.').next().map(str::to_owned)
            });
            own.chain(inner).collect()
        };
        let mut names: BTreeSet<&str> = all.iter().map(|section| section.name.as_str()).collect();
        names.insert("device");
        assert_eq!(
            below(""),
            expected("no-such-key = 1"),
            "sections: mend keys.toml"
        );
        for name in names {
            let many = all
                .iter()
                .any(|section| section.name == name && section.many.is_some());
            let (open, close) = if many { ("[[", "]]") } else { ("[", "]") };
            let read = expected(&format!("{open}{name}{close}\nno-such-key = 1"));
            assert_eq!(
                below(name),
                read,
                "[{name}]: mend meshd/core/src/config/keys.toml"
            );
        }
    }

    #[test]
    fn defaults_are_those_that_hold_and_examples_are_others() {
        each(|section, key, read| {
            let name = format!("{}.{}", section.name, key.name);
            let example = read(&key.example).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
            let known = [key.required, key.default.is_some(), key.left_out.is_some()];
            assert_eq!(known.iter().filter(|known| **known).count(), 1, "{name}");
            let Some(default) = &key.default else { return };
            let said = read(default);
            match (section.many, &key.with) {
                (None, None) => {
                    assert_eq!(said.unwrap(), Config::default(), "{name}");
                    assert_ne!(example, Config::default(), "{name}");
                }
                // What stands beside may not be possible without it.
                (None, Some(_)) => assert_ne!(example, said.unwrap(), "{name}"),
                (Some(_), _) => {
                    let alone = Key {
                        with: None,
                        ..key.clone()
                    };
                    let without = section.text(&alone, default);
                    let without: String = without
                        .lines()
                        .filter(|line| !line.starts_with(&format!("{} =", key.name)))
                        .flat_map(|line| [line, "\n"])
                        .collect();
                    let with = Config::parse(&section.text(&alone, default)).unwrap();
                    assert_eq!(with, Config::parse(&without).unwrap(), "{name}");
                    assert_ne!(with, example, "{name}");
                }
            }
        });
    }

    #[test]
    fn what_is_live_is_what_a_reload_applies() {
        each(|section, key, read| {
            // What stands beside it is there before, too, where it can be alone.
            let example = read(&key.example).unwrap();
            let before = key.default.as_deref().filter(|_| section.many.is_none());
            let before = before
                .and_then(|default| read(default).ok())
                .unwrap_or_default();
            let diff = ConfigDiff::between(&before, &example);
            assert!(
                !diff.is_empty(),
                "{}.{}: its change is not seen",
                section.name,
                key.name
            );
            assert_eq!(
                key.live,
                diff.restart.is_empty(),
                "{}.{}",
                section.name,
                key.name
            );
        });
    }

    #[test]
    fn bounds_and_words_are_those_that_are_refused_beyond() {
        each(|section, key, read| {
            let name = format!("{}.{}", section.name, key.name);
            if key.kind == Kind::Number {
                if let Some(low) = key.low {
                    assert!(
                        read(&low.to_string()).is_ok(),
                        "{name}: {:?}",
                        read(&low.to_string())
                    );
                    assert!(read(&(low - 1).to_string()).is_err(), "{name} below {low}");
                }
                if let Some(high) = key.high {
                    assert!(
                        read(&high.to_string()).is_ok(),
                        "{name}: {:?}",
                        read(&high.to_string())
                    );
                    assert!(
                        read(&(high + 1).to_string()).is_err(),
                        "{name} above {high}"
                    );
                }
            }
            if key.kind == Kind::Word {
                let there: BTreeSet<String> = key.words.iter().cloned().collect();
                assert_eq!(
                    there,
                    expected(&section.text(key, "\"no-such-word\"")),
                    "{name}"
                );
            }
            if let (Kind::List, Some(most)) = (key.kind, key.most) {
                let one = key.example.trim_start_matches('[').trim_end_matches(']');
                let one = one.split(", ").next().unwrap();
                let many = vec![one; most as usize + 1].join(", ");
                assert!(
                    read(&format!("[{many}]")).is_err(),
                    "{name}: {} entries",
                    most + 1
                );
            }
        });
    }
}
