//! The paragraphs of the codes of errors, as `codes.toml` has them.
//!
//! Owns their form and the test that each code has its paragraph, that each paragraph has its code, that each code is used, and that
//! no warning or error goes to the log without one.

use serde::Deserialize;
use std::collections::BTreeMap;

/// What is said of a code.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paragraph {
    /// What it means: a sentence or two.
    pub(super) means: String,
    /// What it comes from most often, where that is something else than what it means.
    pub(super) causes: Option<String>,
    /// What to do.
    pub(super) remedy: String,
}

/// By their words, in order: those of one thing stand together.
pub(super) fn all() -> BTreeMap<String, Paragraph> {
    // A test reads it, so it reads.
    toml::from_str(include_str!("codes.toml")).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::code::ErrorCode;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    #[test]
    fn each_code_has_a_paragraph_of_substance_and_each_paragraph_a_code() {
        let told: BTreeMap<String, Paragraph> = toml::from_str(include_str!("codes.toml")).unwrap();
        let words: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.word()).collect();
        let explained: BTreeSet<&str> = told.keys().map(String::as_str).collect();
        assert_eq!(words, explained, "the enum and codes.toml differ");
        let mut seen = BTreeSet::new();
        for (word, paragraph) in &told {
            let Paragraph {
                means,
                causes,
                remedy,
            } = paragraph;
            assert!(seen.insert(means), "{word}: says what another one says");
            for text in [Some(means), causes.as_ref(), Some(remedy)]
                .into_iter()
                .flatten()
            {
                assert!(
                    text.len() >= 24 && text.contains(' '),
                    "{word}: \"{text}\" is no sentence"
                );
                assert!(
                    text.ends_with(['.', '?']),
                    "{word}: \"{text}\" does not end"
                );
                assert!(!text.contains('\n'), "{word}: more than a paragraph");
            }
            let all = means.len() + remedy.len() + causes.as_ref().map_or(0, String::len);
            assert!((80..700).contains(&all), "{word}: {all} bytes");
        }
    }

    /// Files of this program and of the core, with their text.
    fn sources() -> Vec<(String, String)> {
        fn walk(folder: &Path, out: &mut Vec<(String, String)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.display().to_string();
                if path.is_dir() {
                    walk(&path, out);
                } else if name.ends_with(".rs") && !name.contains("test") {
                    let text = fs::read_to_string(&path).unwrap();
                    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
                    let text = text.split("#[cfg(test)]\n#[allow").next().unwrap();
                    out.push((name, text.to_owned()));
                }
            }
        }
        let mut out = Vec::new();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        walk(&here.join("src"), &mut out);
        walk(&here.join("core/src"), &mut out);
        assert!(out.len() > 200, "{} files", out.len());
        out
    }

    #[test]
    fn each_code_is_used() {
        let all: String = sources().into_iter().map(|(_, text)| text).collect();
        for code in ErrorCode::ALL {
            let used = format!("Code::{code:?}");
            let mut found = all.match_indices(&used);
            let whole = |at: usize| {
                let next = all
                    .get(at + used.len()..)
                    .and_then(|rest| rest.chars().next());
                !next.is_some_and(char::is_alphanumeric)
            };
            assert!(found.any(|(at, _)| whole(at)), "{used} is made nowhere");
        }
    }

    #[test]
    fn no_warning_and_no_error_goes_to_the_log_without_a_code() {
        let mut count = 0;
        for (name, text) in sources() {
            for log in ["warn!(", "error!("] {
                for (at, _) in text.match_indices(log) {
                    let line = text[..at].matches('\n').count() + 1;
                    let said = text[at..].split(';').next().unwrap();
                    assert!(said.contains("code = %"), "{name}:{line}: {said}");
                    count += 1;
                }
            }
        }
        assert!(count > 50, "only {count} found");
    }
}
