//! What to do about each reason of a drop, as `drops.toml` has it, and `docs/reference/drops.md`, which is made of it.
//!
//! Owns the form of both, and the test that each reason has its paragraph. What a reason means is the core's.

use super::sentence;
use meshd_core::ruling::DropReason;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Reasons that have one place in common.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    title: String,
    reason: Vec<Paragraph>,
}

/// What is said of a reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paragraph {
    word: String,
    /// Who counts it, if not the switch: `kernel` or `session`.
    of: Option<String>,
    /// What to do, or that nothing is.
    remedy: String,
    /// Pages that go into it, from `docs/` on.
    #[serde(default)]
    see: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    group: Vec<Group>,
}

fn groups() -> Vec<Group> {
    // A test reads it, so it reads.
    let told: Told = toml::from_str(include_str!("drops.toml")).unwrap_or_default();
    told.group
}

/// What to do, by the reason's word, for a terminal.
pub(super) fn remedies() -> BTreeMap<String, String> {
    let all = groups().into_iter().flat_map(|group| group.reason);
    all.map(|told| {
        let pages = told.see.iter().map(|page| format!("docs/{page}"));
        let pages: Vec<String> = pages.collect();
        let see = match pages.is_empty() {
            true => String::new(),
            false => format!(" See {}.", pages.join(" and ")),
        };
        (told.word, sentence(&told.remedy) + &see)
    })
    .collect()
}

/// The page's links, by the name of the file.
fn links(pages: &[String]) -> String {
    let link = |page: &String| {
        let name = page.rsplit('/').next().unwrap_or_default();
        let name = name.trim_end_matches(".md").replace('-', " ");
        format!("[{name}](../{page})")
    };
    match pages {
        [] => String::new(),
        pages => {
            let all: Vec<String> = pages.iter().map(link).collect();
            format!(" See {}.", all.join(" and "))
        }
    }
}

/// `docs/reference/drops.md`.
pub(super) fn page() -> String {
    let mut out = String::from(include_str!("drops-head.txt"));
    for group in groups() {
        out.extend(["\n## ", &group.title, "\n"]);
        for told in &group.reason {
            let reason = DropReason::ALL.iter().find(|r| r.name() == told.word);
            let means = reason.map_or(String::new(), |reason| sentence(reason.explain()));
            out.extend(["\n### `", &told.word, "`\n\n"]);
            match told.of.as_deref() {
                Some("kernel") => out.push_str("**Kernel.** "),
                Some(_) => out.push_str("**Session.** "),
                None => {}
            }
            let (remedy, see) = (sentence(&told.remedy), links(&told.see));
            out.extend([means.as_str(), " ", &remedy, &see, "\n"]);
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_reason_has_a_remedy_and_each_remedy_a_reason() {
        let told: Told = toml::from_str(include_str!("drops.toml")).unwrap();
        let told: Vec<Paragraph> = told.group.into_iter().flat_map(|g| g.reason).collect();
        let words: BTreeSet<&str> = told.iter().map(|told| told.word.as_str()).collect();
        let reasons: BTreeSet<&str> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(words, reasons, "the enum and drops.toml differ");
        assert_eq!(told.len(), words.len(), "a word stands there twice");
        for told in &told {
            let Paragraph {
                word,
                of,
                remedy,
                see,
            } = told;
            assert!(remedy.len() >= 15 && remedy.ends_with('.'), "{word}");
            assert!(
                matches!(of.as_deref(), None | Some("kernel" | "session")),
                "{word}"
            );
            for page in see {
                let path = format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"));
                assert!(std::path::Path::new(&path).exists(), "{word}: {page}");
            }
        }
    }

    #[test]
    fn the_page_of_drops_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/drops.md");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == page(),
            "docs/reference/drops.md is not what the code says; make it by `meshd explain --markdown=drops`"
        );
    }
}
