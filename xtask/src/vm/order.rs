//! What somebody wants of the VM: the words of the command line, and the job that they become.
//!
//! Owns both, without looking at anything. Refuses words that it does not know.

use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;

/// How long a guest may run, unless told otherwise: the slowest suites take minutes under emulation.
const LIMIT: Duration = Duration::from_secs(1200);

/// `MESHD_LAB_SLOW` under emulation: measured, a guest takes three to five times as long as this machine for the same.
const SLOWNESS: u32 = 4;

/// A test file of the lab, and words for its harness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suite {
    /// The file's name without `.rs`.
    pub(super) name: String,
    /// Filters and flags.
    pub(super) words: Vec<String>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// `cloud`, `generic`, or the name of a package.
    pub(super) kernel: String,
    /// The suite of Debian that the kernel is taken from; `None`: this machine's.
    pub(super) debian: Option<String>,
    /// What runs, in order; at least one.
    pub(super) suites: Vec<Suite>,
    /// How long the guest may run.
    pub(super) limit: Duration,
    /// Hardware acceleration.
    pub(super) kvm: bool,
    /// The kernel's log goes to the console too.
    pub(super) verbose: bool,
}

impl Order {
    /// All tests of one file, with everything as it is unless told otherwise.
    pub(super) fn of(suite: &str) -> Self {
        let suite = Suite {
            name: suite.to_owned(),
            words: Vec::new(),
        };
        Self {
            kernel: "cloud".to_owned(),
            debian: None,
            suites: vec![suite],
            limit: LIMIT,
            kvm: false,
            verbose: false,
        }
    }

    /// From the words after `cargo xtask vm`. A word that names one of `known` begins a suite; others are for the harness of
    /// the one before.
    pub(super) fn read(words: &[String], known: &[String]) -> Result<Self> {
        let mut order = Self {
            suites: Vec::new(),
            ..Self::of(super::OWN)
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || {
                let value = words.next();
                value
                    .cloned()
                    .with_context(|| format!("{word} wants a word after it"))
            };
            match word.as_str() {
                "--kernel" => order.kernel = value()?,
                "--suite" => order.debian = Some(value()?),
                "--limit" => {
                    let seconds = value()?;
                    let seconds = seconds.parse().ok().filter(|s| *s > 0);
                    order.limit =
                        Duration::from_secs(seconds.context("--limit wants a number of seconds")?);
                }
                "--kvm" => order.kvm = true,
                "--verbose" => order.verbose = true,
                name if known.iter().any(|suite| suite == name) => {
                    order.suites.push(Suite {
                        name: name.to_owned(),
                        words: Vec::new(),
                    });
                }
                other => match order.suites.last_mut() {
                    Some(suite) => suite.words.push(other.to_owned()),
                    None => bail!(
                        "no tests are called {other:?}; there are {}",
                        known.join(", ")
                    ),
                },
            }
        }
        for name in [Some(&order.kernel), order.debian.as_ref()]
            .into_iter()
            .flatten()
        {
            // They become words of apt and parts of paths.
            ensure!(
                name.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && name
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c)),
                "{name:?} is no name of a package or suite"
            );
        }
        if order.suites.is_empty() {
            order.suites = Self::of(super::OWN).suites;
        }
        Ok(order)
    }

    /// The script that the guest runs: all suites, even if one fails; its status is that of the last that did.
    pub(super) fn job(&self) -> String {
        let slow = if self.kvm { 1 } else { SLOWNESS };
        let mut job = format!("rc=0\nexport MESHD_LAB_SLOW={slow}\n");
        for suite in &self.suites {
            let name = quoted(&suite.name);
            job += &format!("echo; echo \"== {}, in the VM\"\n", suite.name);
            job += &format!("/meshd/tests/{name} --test-threads=1 --include-ignored");
            for word in &suite.words {
                job += " ";
                job += &quoted(word);
            }
            job += " || rc=$?\n";
        }
        job + "exit $rc\n"
    }
}

/// One word for a shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Order> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let known = ["failover", "fastpath", "vm"].map(str::to_owned);
        Order::read(&words, &known)
    }

    #[test]
    fn without_words_the_own_tests_run_on_the_cloud_kernel() {
        assert_eq!(read("").unwrap(), Order::of("vm"));
    }

    #[test]
    fn words_after_a_suite_are_for_its_harness() {
        let order = read("--kernel generic fastpath failover blocked --nocapture").unwrap();
        assert_eq!(order.kernel, "generic");
        assert!(order.suites[0].words.is_empty());
        assert_eq!(order.suites[1].words, ["blocked", "--nocapture"]);
        assert!(order.job().contains(
            "failover' --test-threads=1 --include-ignored 'blocked' '--nocapture' || rc=$?\n"
        ));
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_there_is() {
        let error = format!("{:#}", read("blocked").unwrap_err());
        assert!(error.contains("failover, fastpath, vm"), "{error}");
        assert!(read("--kernel").is_err());
        assert!(read("--kernel ../x").is_err());
        assert!(read("--limit soon").is_err());
    }

    #[test]
    fn a_word_is_one_word_for_the_shell() {
        assert_eq!(quoted("a'b $c"), r"'a'\''b $c'");
    }
}
