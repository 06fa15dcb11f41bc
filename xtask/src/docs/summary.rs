//! `docs/SUMMARY.md`, the site's table of contents: it has every page, once.
//!
//! Owns that comparison. That each entry leads to a file is a matter of links, as on any page.

use crate::shell::root;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE: &str = "SUMMARY.md";

/// Checks it.
pub(super) fn check() -> Result<()> {
    let folder = root().join("docs");
    let mut pages = BTreeMap::new();
    super::read(&folder, &mut pages)?;
    let summary = pages
        .remove(&folder.join(FILE))
        .with_context(|| format!("docs/{FILE} is missing"))?;
    let there = pages
        .keys()
        .map(|page| page.strip_prefix(&folder).unwrap_or(page));
    let wrong = differences(&summary, there);
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("docs/{FILE}:\n{}", wrong.join("\n"))
}

/// What a summary lacks of these pages, and has too often.
fn differences<'a>(summary: &str, pages: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let mut times: BTreeMap<PathBuf, u32> = BTreeMap::new();
    for (_, target) in super::targets(summary) {
        *times.entry(target.into()).or_default() += 1;
    }
    let missing = pages.filter(|page| !times.contains_key(*page)).map(|page| {
        let page = page.display();
        format!("{page} is on no line: add `- [its title]({page})` where readers look for it")
    });
    let twice = times
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(page, count)| format!("{} is there {count} times: leave one", page.display()));
    missing.chain(twice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_nowhere_and_one_that_is_there_twice_are_told() {
        let summary = "[a](a.md)\n- [b](b/c.md)\n  - [b](b/c.md)\n";
        let pages = ["a.md", "b/c.md", "b/d.md"].map(Path::new);
        let wrong = differences(summary, pages.into_iter());
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(
            wrong
                .iter()
                .any(|line| line.starts_with("b/d.md is on no line"))
        );
        assert!(
            wrong
                .iter()
                .any(|line| line.starts_with("b/c.md is there 2 times"))
        );
    }
}
