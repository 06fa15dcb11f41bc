//! Blocks of a page: which are typed, where, and what is said to them.
//!
//! ```text
//!   ```sh                    typed, in the page's own shell
//!   ```sh host=berlin        typed at that host of the scene (`scene.sh`); several: host=berlin,paris
//!   ```toml host=berlin      that host's config file from now on
//!   ```text said             what the block before it prints, loosely
//!   <!-- typed host=berlin   what a reader has done already, or would see: typed, and not shown
//!   ...
//!   -->
//!   ```sh elsewhere          typed by another test, or by none: `tests/pages.rs` says which, and why; so are indented blocks, and
//!                            `toml` without a host
//!   anything else            text, JSON, code: shown
//! ```
//!
//! Owns this grammar, and the script that is made of it. Running it is `page.rs`'s.

use anyhow::{Result, bail, ensure};
use std::collections::BTreeMap;

/// What becomes of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Typed at these hosts, one after the other; none: in the page's own shell.
    Typed(Vec<String>),
    /// The config file of these hosts.
    Config(Vec<String>),
    /// What the block before it prints.
    Said,
    /// Commands that are not typed here.
    Elsewhere,
    /// Shown, and nothing else.
    Shown,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Of its first line of text, from 1.
    pub line: usize,
    /// What becomes of it.
    pub kind: Kind,
    /// Readers see it.
    pub seen: bool,
    /// Its text, each line ended.
    pub text: String,
}

const FENCE: &str = "```";
const HIDDEN: &str = "<!-- typed";

/// Blocks of a page, in order.
///
/// # Errors
/// If a marker is none, or a block has no end.
pub(super) fn blocks(page: &str) -> Result<Vec<Block>> {
    let mut found: Vec<Block> = Vec::new();
    // The end of the block that is open, and how far it is indented.
    let mut open: Option<(&str, usize)> = None;
    let mut blank = true;
    for (at, line) in page.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let plain = line.trim();
        if let Some((end, margin)) = open {
            // An indented block ends with the first line that is not.
            let ends = match end {
                "" => indent < margin && !plain.is_empty(),
                end => plain == end,
            };
            if !ends {
                if let Some(block) = found.last_mut() {
                    block.text +=
                        &format!("{}\n", line.get(margin.min(indent)..).unwrap_or_default());
                }
                continue;
            }
            open = None;
            if !end.is_empty() {
                blank = false;
                continue;
            }
        }
        let begin = |kind, seen| Block {
            line: at + 2,
            kind,
            seen,
            text: String::new(),
        };
        if let Some(marker) = plain.strip_prefix(FENCE) {
            found.push(begin(
                kind(marker).map_err(|wrong| wrong.context(format!("line {}", at + 1)))?,
                true,
            ));
            open = Some((FENCE, indent));
        } else if let Some(rest) = plain.strip_prefix(HIDDEN) {
            found.push(begin(Kind::Typed(hosts(rest)), false));
            open = Some(("-->", indent));
        } else if blank && indent >= 4 {
            found.push(Block {
                line: at + 1,
                text: format!("{}\n", line.trim_start()),
                ..begin(Kind::Elsewhere, true)
            });
            open = Some(("", indent));
        }
        blank = plain.is_empty();
    }
    if let Some((end, _)) = open.filter(|(end, _)| !end.is_empty()) {
        bail!("a block has no {end} at its end");
    }
    Ok(found)
}

fn kind(marker: &str) -> Result<Kind> {
    let mut words = marker.split_whitespace();
    let language = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    let rest = rest.join(" ");
    Ok(match (language, rest.as_str()) {
        ("sh", "elsewhere") | ("toml", "") => Kind::Elsewhere,
        ("sh", _) => {
            ensure!(
                rest.is_empty() || rest.starts_with("host="),
                "{rest:?} is no place to type at"
            );
            Kind::Typed(hosts(&rest))
        }
        ("toml", place) if place.starts_with("host=") => Kind::Config(hosts(place)),
        ("text", "said") => Kind::Said,
        (_, "") => Kind::Shown,
        (_, rest) => bail!("{rest:?} says nothing of a block of {language}"),
    })
}

fn hosts(words: &str) -> Vec<String> {
    let named = words.trim().strip_prefix("host=").unwrap_or_default();
    let named = named.split(',').filter(|host| !host.is_empty());
    named.map(str::to_owned).collect()
}

/// What to type for these blocks: each is told by a line with its number before it.
#[must_use]
pub(super) fn script(blocks: &[Block]) -> String {
    let mut out = String::new();
    for block in blocks {
        let (word, hosts) = match &block.kind {
            Kind::Typed(hosts) => ("at", hosts),
            Kind::Config(hosts) => ("configure", hosts),
            Kind::Said | Kind::Elsewhere | Kind::Shown => continue,
        };
        out += &format!("echo '{MARK}{}'\n", block.line);
        if hosts.is_empty() {
            out += &block.text;
        }
        for host in hosts {
            out += &format!("{word} {host} <<'@@@'\n{}@@@\n", block.text);
        }
    }
    out + &format!("echo '{MARK}0'\n")
}

const MARK: &str = "@@ line ";

/// What was said to the block at each line, out of what was said to all.
fn told(said: &str) -> BTreeMap<usize, &str> {
    let parts = said.split(MARK).skip(1);
    let parts = parts.filter_map(|part| part.split_once('\n'));
    parts
        .filter_map(|(line, text)| Some((line.parse().ok()?, text)))
        .collect()
}

/// Compares what was said with what the page says.
///
/// # Errors
/// The first line that did not come, with what came.
pub(super) fn compare(blocks: &[Block], said: &str) -> Result<()> {
    let told = told(said);
    let mut last = None;
    for block in blocks {
        match block.kind {
            Kind::Typed(_) if block.seen => last = Some(block.line),
            Kind::Said => {
                let text = last.and_then(|line| told.get(&line));
                let Some(text) = text else {
                    bail!("line {}: nothing was typed that could say this", block.line);
                };
                let mut lines = text.lines();
                for wanted in block.text.lines().filter(|line| !line.trim().is_empty()) {
                    ensure!(
                        lines.any(|line| alike(wanted, line)),
                        "line {}: {wanted:?} was not said. It said:\n{text}",
                        block.line
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Is it this line? Blanks are one, and `…` is anything.
fn alike(wanted: &str, line: &str) -> bool {
    let fold = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (wanted, line) = (fold(wanted), fold(line));
    let mut rest = line.as_str();
    let mut pieces = wanted.split('…').map(str::trim).enumerate().peekable();
    while let Some((nth, piece)) = pieces.next() {
        let last = pieces.peek().is_none();
        rest = match (nth == 0, last) {
            (true, true) => return rest == piece,
            (true, false) => match rest.strip_prefix(piece) {
                Some(rest) => rest,
                None => return false,
            },
            (false, true) => return rest.ends_with(piece),
            (false, false) => match rest.split_once(piece) {
                Some((_, rest)) => rest,
                None => return false,
            },
        };
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# A page

```sh host=a,b
one
```

```text said
1 … 2
```

<!-- typed host=a
two
-->

- point

      three

```toml
four = 4
```
";

    #[test]
    fn a_block_is_what_its_marker_says() {
        let all = blocks(PAGE).unwrap();
        let seen: Vec<_> = all
            .iter()
            .map(|b| (b.line, b.text.trim(), b.seen))
            .collect();
        assert_eq!(
            seen,
            [
                (4, "one", true),
                (8, "1 … 2", true),
                (12, "two", false),
                (17, "three", true),
                (20, "four = 4", true)
            ]
        );
        let both = vec!["a".to_owned(), "b".to_owned()];
        let first = vec!["a".to_owned()];
        let kinds: Vec<_> = all.into_iter().map(|block| block.kind).collect();
        assert_eq!(
            kinds,
            [
                Kind::Typed(both),
                Kind::Said,
                Kind::Typed(first),
                Kind::Elsewhere,
                Kind::Elsewhere
            ]
        );
        for wrong in ["```sh hots=a\n```\n", "```text siad\n```\n", "```sh\n"] {
            assert!(blocks(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_said_is_compared_with_the_block_before_it() {
        let all = blocks(PAGE).unwrap();
        let script = script(&all);
        assert!(script.contains("at b <<'@@@'\none\n@@@\n") && !script.contains("four"));
        assert!(compare(&all, "@@ line 4\nx\n1   or 2\n@@ line 12\n").is_ok());
        assert!(compare(&all, "@@ line 4\nx\n@@ line 12\n1 or 2\n").is_err());
    }

    #[test]
    fn lines_are_compared_loosely() {
        for (wanted, line, same) in [
            ("a  b", "a b", true),
            ("a b", "a c", false),
            ("a … d", "a b c d", true),
            ("… c …", "a b c d", true),
            ("a … x …", "a b c d", false),
            ("…", "", true),
        ] {
            assert_eq!(alike(wanted, line), same, "{wanted} {line}");
        }
    }
}
