//! `meshd explain WORD`: every word that stands for a trouble, what it means and what to do; `docs/reference/errors.md` and
//! `drops.md` are made of the same.
//!
//! ```text
//!   error[CODE]: ...      ErrorCode        the API's "code"; explain/codes.toml
//!   "kind"                RefusalKind      of the same JSON
//!   meshd drops           DropReason       what to do: explain/drops.toml
//!   meshd paths           path::Reason
//!   meshd flows           Obstacle
//!   meshd plugin stats    Fault
//!   meshd doctor          Finding
//! ```
//!
//! Owns the list, which takes each of these as a whole: a new word without its sentence does not compile, and a code without its
//! paragraph fails a test.

mod codes;
mod drops;

use super::{Failure, Printed, show};
use meshd_core::code::{ErrorCode, RefusalKind};
use meshd_core::diagnosis::Finding;
use meshd_core::offload::Obstacle;
use meshd_core::path::Reason;
use meshd_core::ruling::DropReason;
use meshd_core::view::word;
use meshd_plugin_host::Fault;
use serde::Serialize;

/// A word, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Entry {
    /// As it stands in messages and JSON.
    word: String,
    /// Where it is met.
    kind: &'static str,
    /// What it means.
    means: String,
    /// What it comes from most often, if that is not said by what it means.
    causes: Option<String>,
    /// What to do, if there is something to be done.
    remedy: Option<String>,
}

const KINDS: [(&str, &str); 7] = [
    (
        "error",
        "Codes of errors: `error[CODE]: message` of a command, `code` in the API's JSON and in the log",
    ),
    (
        "kind",
        "Kinds of errors: `kind` in the API's JSON, and its HTTP status",
    ),
    (
        "drop",
        "Reasons of drops: `meshd drops` has the last frame of each, `meshd trace` goes its way step by step; label `reason` of `meshd_dropped_frames_total`",
    ),
    (
        "path",
        "Reasons of paths: `meshd paths`, and events of kind `path`",
    ),
    (
        "flow",
        "What keeps a flow out of the kernel: `meshd flows --why`",
    ),
    ("fault", "Faults of plugins: `meshd plugin stats`"),
    (
        "finding",
        "What the doctor finds: `meshd doctor`, in brackets; `code` of its JSON",
    ),
];

fn all() -> Vec<Entry> {
    let entry = |kind, word: String, means: &str, remedy: Option<&str>| Entry {
        word,
        kind,
        means: sentence(means),
        causes: None,
        remedy: remedy.map(sentence),
    };
    let errors = codes::all().into_iter().map(|(word, told)| Entry {
        causes: told.causes.as_deref().map(sentence),
        ..entry("error", word, &told.means, Some(&told.remedy))
    });
    let kinds = RefusalKind::ALL
        .iter()
        .map(|kind| entry("kind", kind.word().to_owned(), kind.explain(), None));
    let mut remedies = drops::remedies();
    let drops = DropReason::ALL.iter().map(|reason| Entry {
        remedy: remedies.remove(reason.name()),
        ..entry("drop", word(reason), reason.explain(), None)
    });
    let paths = Reason::ALL
        .iter()
        .map(|reason| entry("path", word(reason), reason.explain(), reason.remedy()));
    let flows = Obstacle::ALL
        .iter()
        .map(|obstacle| entry("flow", word(obstacle), obstacle.explain(), None));
    let faults = Fault::KINDS
        .iter()
        .zip(Fault::EXPLAINED)
        .map(|(kind, (means, remedy))| entry("fault", (*kind).to_owned(), means, Some(remedy)));
    let findings = Finding::ALL.iter().map(|finding| {
        let remedy = Some(finding.remedy());
        entry("finding", word(finding), finding.explain(), remedy)
    });
    errors
        .chain(kinds)
        .chain(drops)
        .chain(paths)
        .chain(flows)
        .chain(faults)
        .chain(findings)
        .collect()
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.trim().chars();
    // A command keeps its spelling, and so do names.
    let keeps = text.starts_with("meshd") || text.starts_with('`');
    if let Some(first) = chars.next() {
        match keeps {
            true => out.push(first),
            false => out.extend(first.to_uppercase()),
        }
    }
    out.push_str(chars.as_str());
    if !out.ends_with(['.', '?']) {
        out.push('.');
    }
    out
}

/// How alike a word and a known one have to be, of 1: a letter wrong in ten, or two swapped.
const ALIKE: f64 = 0.85;

fn unknown(word: &str) -> Failure {
    let shown = show::clean(word);
    let shown: String = shown.trim().chars().take(40).collect();
    let message = format!("there is no word \"{shown}\" among those that are explained");
    let failure = Failure::new(ErrorCode::CodeUnknown, message);
    let near = all().into_iter().map(|entry| {
        let same = strsim::jaro_winkler(&shown, &entry.word);
        // Half of a word is meant for the whole.
        let within = shown.len() >= 4 && entry.word.contains(&shown);
        (if within { 1.0 } else { same }, entry.word)
    });
    let mut near: Vec<(f64, String)> = near.filter(|(same, _)| *same >= ALIKE).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    near.dedup_by(|a, b| a.1 == b.1);
    let words: Vec<String> = near
        .into_iter()
        .take(4)
        .map(|(_, word)| format!("`{word}`"))
        .collect();
    failure.hint(match words.is_empty() {
        true => "`meshd explain` lists them all".to_owned(),
        false => format!(
            "did you mean {}? `meshd explain` lists them all",
            words.join(" or ")
        ),
    })
}

pub(super) fn run(json: bool, wanted: Option<&str>) -> Result<Printed, Failure> {
    let mut entries = all();
    if let Some(wanted) = wanted {
        // As it is printed: `error[not-found]`.
        let bare = wanted
            .trim_start_matches("error[")
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_lowercase();
        entries.retain(|entry| entry.word == bare);
        if entries.is_empty() {
            return Err(unknown(&bare));
        }
    }
    if json {
        return Printed::text(show::json(&entries));
    }
    if wanted.is_none() {
        let mut out = String::new();
        for (kind, title) in KINDS {
            out.extend([title, ":\n"]);
            for entry in entries.iter().filter(|entry| entry.kind == kind) {
                out.extend(["  ", &entry.word, "\n"]);
            }
        }
        return Printed::text(out);
    }
    let paragraphs = entries.iter().map(|entry| {
        let title = KINDS.iter().find(|(kind, _)| *kind == entry.kind);
        let title = title.map_or("", |(_, title)| title);
        let causes = entry.causes.as_ref();
        let causes = causes.map(|causes| format!("\nUsual causes: {causes}\n"));
        let remedy = entry.remedy.as_ref();
        let remedy = remedy.map(|remedy| format!("\nWhat to do: {remedy}\n"));
        format!(
            "{}  ({title})\n\n{}\n{}{}",
            entry.word,
            entry.means,
            causes.unwrap_or_default(),
            remedy.unwrap_or_default()
        )
    });
    Printed::text(paragraphs.collect::<Vec<_>>().join("\n"))
}

/// A page of the reference that is made of these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Page {
    /// `docs/reference/errors.md`.
    Errors,
    /// `docs/reference/drops.md`.
    Drops,
}

/// As it is kept.
pub(super) fn page(which: Page) -> String {
    match which {
        Page::Errors => errors_page(),
        Page::Drops => drops::page(),
    }
}

fn errors_page() -> String {
    let mut out = String::from(
        "# Words of errors\n\n<!-- Made by `meshd explain --markdown`; a test compares. -->\n\n\
         Each word is stable. `meshd explain WORD` prints its paragraph.\n",
    );
    let entries = all();
    for (kind, title) in KINDS {
        out.extend(["\n## ", title, "\n"]);
        for entry in entries.iter().filter(|entry| entry.kind == kind) {
            out.extend(["\n**`", &entry.word, "`** ", &entry.means]);
            if let Some(causes) = &entry.causes {
                out.extend([" ", causes]);
            }
            if let Some(remedy) = &entry.remedy {
                out.extend([" ", remedy]);
            }
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_word_is_one_word_and_has_its_paragraph() {
        let mut seen = BTreeSet::new();
        let all = all();
        assert!(all.len() > 60, "{}", all.len());
        for entry in &all {
            let is_word = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(entry.word.chars().all(is_word), "{entry:?}");
            assert!(seen.insert((entry.kind, &entry.word)), "{entry:?} twice");
            assert!(entry.means.len() >= 15, "{entry:?}");
            assert!(
                entry.remedy.as_ref().is_none_or(|text| text.len() >= 15),
                "{entry:?}"
            );
            assert!(
                KINDS.iter().any(|(kind, _)| *kind == entry.kind),
                "{entry:?}"
            );
        }
        // As programs have it is as people have it.
        for kind in RefusalKind::ALL {
            let json = serde_json::to_value(kind).unwrap_or_default();
            assert_eq!(json, kind.word());
        }
        for reason in DropReason::ALL {
            assert_eq!(
                serde_json::to_value(reason).unwrap_or_default(),
                word(reason)
            );
        }
        for reason in Reason::ALL {
            assert_eq!(
                serde_json::to_value(reason).unwrap_or_default(),
                word(&reason)
            );
        }
        for finding in Finding::ALL {
            assert_eq!(
                serde_json::to_value(finding).unwrap_or_default(),
                word(finding)
            );
        }
        for obstacle in Obstacle::ALL {
            assert_eq!(
                serde_json::to_value(obstacle).unwrap_or_default(),
                word(obstacle)
            );
        }
    }

    #[test]
    fn a_misspelt_word_is_told_with_those_that_are_near() {
        for (typed, meant) in [
            ("adress-taken", "address-taken"),
            ("config-unknow-key", "config-unknown-key"),
            ("no-sesion", "no-session"),
            ("taken", "address-taken"),
        ] {
            let hint = unknown(typed).hint.unwrap_or_default();
            assert!(hint.contains(&format!("`{meant}`")), "{typed}: {hint}");
        }
        let hint = unknown("zzzz").hint.unwrap_or_default();
        assert_eq!(hint, "`meshd explain` lists them all");
    }

    #[test]
    fn the_page_of_words_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/errors.md");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == page(Page::Errors),
            "docs/reference/errors.md is not what the code says; make it by `meshd explain --markdown`"
        );
    }
}
