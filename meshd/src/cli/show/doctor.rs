//! `meshd doctor`.

use super::clean;
use meshd_core::view::{CheckState, Doctor, word};
use std::fmt::Write as _;

/// A line for each check, below it what to do, and at the end how many of each there are.
pub(in crate::cli) fn doctor(report: &Doctor) -> String {
    let mut out = String::new();
    let width = report
        .checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or_default()
        .min(30);
    for check in &report.checks {
        let state = match check.state {
            CheckState::Ok => "ok  ",
            CheckState::Warn => "WARN",
            CheckState::Fail => "FAIL",
        };
        let code = check.code.map(|code| format!(" [{}]", word(&code)));
        let _ = writeln!(
            out,
            "{state}  {:width$}  {}{}",
            clean(&check.name),
            clean(&check.found),
            code.unwrap_or_default()
        );
        if let Some(advice) = &check.advice {
            let _ = writeln!(out, "      {:width$}  -> {}", "", clean(advice));
        }
    }
    let count = |state| {
        report
            .checks
            .iter()
            .filter(|check| check.state == state)
            .count()
    };
    let (warn, fail) = (count(CheckState::Warn), count(CheckState::Fail));
    let _ = match (fail, warn) {
        (0, 0) => writeln!(out, "\nall is well"),
        _ => writeln!(
            out,
            "\n{fail} do not work (FAIL), {warn} work with something missing or at risk (WARN); `meshd explain WORD` for a word in brackets"
        ),
    };
    out
}
