//! The pages as a site: `cargo xtask docs --site`.
//!
//! ```text
//!   docs/*.md --mdbook--+--> target/book/*.html --> each link and picture leads to a file or heading of the site
//!                       |
//!            repository(): links out of docs/ lead to the repository
//! ```
//!
//! Owns what mdbook does not do. Its settings are in `docs/book.toml`.

use crate::shell::{root, run, target};
use anyhow::{Context, Result, bail, ensure};
use interop_tests::lab::find;
use interop_tests::package;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// The release of mdbook that is installed where there is none.
const MDBOOK: &str = "mdbook@0.5.4";
/// Where the repository can be read.
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// Builds the site, checks it, and says where it is.
pub(super) fn build() -> Result<PathBuf> {
    let own = std::env::current_exe().context("own path")?;
    let site = target()?.join("book");
    let program = match find("mdbook") {
        Some(program) => program,
        None => package::install(
            MDBOOK,
            "mdbook",
            &["--no-default-features", "--features", "search"],
        )?,
    };
    run(Command::new(program)
        .args(["build", "--dest-dir"])
        .arg(&site)
        .arg(root().join("docs"))
        // This program, in the place of one that cargo would have to look for.
        .env(
            "MDBOOK_PREPROCESSOR__REPOSITORY__COMMAND",
            format!("\"{}\" docs --preprocess", own.display()),
        ))?;
    check(&site)?;
    Ok(site)
}

/// As mdbook runs it: a book as JSON from stdin to stdout, in which what leads out of `docs/` leads to the repository.
pub(super) fn preprocess() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let both: Value = serde_json::from_str(&text).context("mdbook's JSON")?;
    let Value::Array(both) = both else {
        bail!("mdbook gives a context and a book, in this order");
    };
    let mut book = both.into_iter().nth(1).context("no book")?;
    repository(&mut book);
    println!("{book}");
    Ok(())
}

/// Rewrites each chapter below.
fn repository(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(repository),
        Value::Object(fields) => {
            let path = fields.get("source_path").or(fields.get("path"));
            let path = path.and_then(Value::as_str).map(PathBuf::from);
            if let (Some(path), Some(Value::String(content))) = (path, fields.get_mut("content")) {
                *content = rewritten(&path, content);
            }
            fields.values_mut().for_each(repository);
        }
        _ => {}
    }
}

/// A page with other links. `page` is from `docs/` on.
fn rewritten(page: &Path, text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut fenced = false;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("](").filter(|_| !fenced) {
            let Some((target, behind)) = after.split_once(')') else {
                break;
            };
            let target = outside(page, target).unwrap_or_else(|| indexed(target));
            out += &format!("{before}]({target})");
            rest = behind;
        }
        out += rest;
    }
    out
}

/// Where in the repository a link leads that leaves `docs/`.
fn outside(page: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with(['#', '/']) {
        return None;
    }
    let path = plain(
        &Path::new("docs")
            .join(page.parent().unwrap_or(page))
            .join(target),
    );
    (!path.starts_with("docs")).then(|| format!("{REPOSITORY}/blob/main/{}", path.display()))
}

/// mdbook calls a folder's README its index, and does not tell links.
fn indexed(target: &str) -> String {
    match target.contains("://") {
        true => target.to_owned(),
        false => target.replace("README.md", "index.md"),
    }
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// Checks that each link and picture of the site leads to a file of it, and to a heading where it names one.
fn check(site: &Path) -> Result<()> {
    let mut pages = BTreeMap::new();
    read(site, &mut pages)?;
    ensure!(
        pages.len() > 1,
        "the site in {} has no pages",
        site.display()
    );
    let mut wrong = BTreeSet::new();
    for (page, text) in &pages {
        // Its links are those of a page elsewhere.
        if page.ends_with("404.html") || page.ends_with("toc.html") || page.ends_with("print.html")
        {
            continue;
        }
        for target in values(text, " href=\"").chain(values(text, " src=\"")) {
            if let Some(why) = fault(&pages, page, &target) {
                let name = page.strip_prefix(site).unwrap_or(page).display();
                wrong.insert(format!("{name}: ({target}) {why}"));
            }
        }
    }
    let lines: Vec<_> = wrong.into_iter().collect();
    ensure!(
        lines.is_empty(),
        "links of the site that lead nowhere:\n{}",
        lines.join("\n")
    );
    Ok(())
}

fn fault(pages: &BTreeMap<PathBuf, String>, page: &Path, target: &str) -> Option<&'static str> {
    let elsewhere =
        target.contains("://") || target.starts_with("mailto:") || target.starts_with("data:");
    if elsewhere || target.is_empty() {
        return None;
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => page.to_path_buf(),
        file => plain(&page.parent()?.join(file)),
    };
    if !path.is_file() {
        return Some("is not there");
    }
    let text = pages.get(&path)?;
    let there = heading.is_empty() || text.contains(&format!(" id=\"{heading}\""));
    (!there).then_some("has no such heading")
}

/// Values of an attribute.
fn values<'a>(text: &'a str, attribute: &'static str) -> impl Iterator<Item = String> + 'a {
    let found = text.split(attribute).skip(1);
    found.filter_map(|rest| Some(rest.split_once('"')?.0.replace("&amp;", "&")))
}

/// All pages of HTML below a folder.
fn read(folder: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in folder
        .read_dir()
        .with_context(|| format!("read {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, pages)?;
        } else if path.extension().is_some_and(|end| end == "html") {
            pages.insert(path.clone(), std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_the_pages_leads_to_the_repository_and_others_stay() {
        let text = "[r](../adr/README.md) [a](../../wit) [b](../adr/x.md#y) [c](https://d.e)\n```\n[f](../../g)\n```\n[h](#i";
        let page = rewritten(Path::new("plugins/contract.md"), text);
        assert!(page.starts_with(&format!(
            "[r](../adr/index.md) [a]({REPOSITORY}/blob/main/wit) [b](../adr/x.md#y) [c](https://d.e)"
        )));
        assert!(page.contains("[f](../../g)"));
    }

    #[test]
    fn chapters_within_chapters_are_rewritten() {
        let mut book = serde_json::json!({"items": [{"Chapter": {"path": "a.md", "content": "",
            "sub_items": [{"Chapter": {"path": "b/c.md", "content": "[x](../../README.md)"}}]}}]});
        repository(&mut book);
        assert!(
            book.to_string()
                .contains(&format!("({REPOSITORY}/blob/main/README.md)"))
        );
    }
}
