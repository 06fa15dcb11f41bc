//! The documentation: each link leads to a file that is there, and to a heading of it; the table of contents is complete; a site.
//!
//! Refuses to look at links that leave the repository: whether those hold is not for a build to say.

mod site;
mod summary;

use crate::shell::root;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `cargo xtask docs`.
pub(crate) fn docs(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => check(),
        ["--site"] => {
            check()?;
            println!("{}", site::build()?.join("index.html").display());
            Ok(())
        }
        ["--preprocess"] => site::preprocess(),
        // mdbook asks whether this is for its format: it is for any.
        ["--preprocess", "supports", _] => Ok(()),
        _ => bail!("`docs` takes only --site"),
    }
}

/// Checks every page of the repository.
pub(crate) fn check() -> Result<()> {
    links()?;
    summary::check()
}

fn links() -> Result<()> {
    let top = root();
    let mut pages = BTreeMap::new();
    read(&top, &mut pages)?;
    let mut wrong = Vec::new();
    for (page, text) in &pages {
        for (line, target) in targets(text) {
            if let Err(why) = follow(&pages, page, target) {
                let name = page.strip_prefix(&top).unwrap_or(page).display();
                wrong.push(format!("{name}:{line}: ({target}) {why}"));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("links that lead nowhere:\n{}", wrong.join("\n"))
}

/// All pages below a folder; what is built or hidden has none.
fn read(folder: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in folder.read_dir().context("read a folder")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            read(&path, pages)?;
        } else if path.extension().is_some_and(|end| end == "md") {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("read {}", path.display()))?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

/// Targets of `[text](target)` outside of code, with their lines.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let mut rest = line;
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, behind)) = after.split_once(')') else {
                break;
            };
            found.push((number, target));
            rest = behind;
        }
    }
    found
}

/// Lines outside of fenced code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((index + 1, line))
    })
}

fn follow(pages: &BTreeMap<PathBuf, String>, page: &Path, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => page.to_path_buf(),
        file => page.parent().unwrap_or(page).join(file),
    };
    let path = path.canonicalize().map_err(|_| "is not there".to_owned())?;
    if heading.is_empty() {
        return Ok(());
    }
    let text = pages
        .iter()
        .find(|(known, _)| known.canonicalize().is_ok_and(|known| known == path))
        .map(|(_, text)| text)
        .ok_or("names a heading of what is no page")?;
    let there = prose(text).any(|(_, line)| {
        line.starts_with('#') && anchor(line.trim_start_matches('#').trim()) == heading
    });
    if there {
        Ok(())
    } else {
        Err("has no such heading".to_owned())
    }
}

/// As web views of Git repositories make an anchor of a heading.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_code_is_none_and_two_on_one_line_are_two() {
        let text = "a [b](c.md) and [d](e.md#f)\n```\n[x](y)\n```\n";
        assert_eq!(targets(text), [(1, "c.md"), (1, "e.md#f")]);
    }

    #[test]
    fn an_anchor_drops_marks_and_keeps_letters() {
        assert_eq!(anchor("`meshd attach`: a port"), "meshd-attach-a-port");
    }
}
