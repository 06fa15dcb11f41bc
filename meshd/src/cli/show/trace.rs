//! A trace as people read it: the steps here, then those at the far side.

use super::clean;
use meshd_core::view::{TracePlugin, TraceReport};
use std::fmt::Write as _;

pub(in crate::cli) fn trace(report: &TraceReport) -> String {
    let mut out = String::new();
    one(report, &mut out);
    for far in &report.far {
        let _ = writeln!(out, "\n---- at peer {} ----\n", clean(&far.node.show()));
        match (&far.report, &far.failure) {
            (Some(report), _) => one(report, &mut out),
            (None, failure) => {
                let why = failure.as_deref().unwrap_or("it has told nothing");
                let _ = writeln!(out, "not known: {}", clean(why));
            }
        }
    }
    out
}

fn one(report: &TraceReport, out: &mut String) {
    let at = report.node.as_ref();
    let at = at.map_or_else(String::new, |node| format!(", on node {}", node.show()));
    out.push_str(&clean(&format!(
        "{}\nfrom {} on network {}{at}\n\n",
        report.flow, report.origin, report.network
    )));
    let width = report
        .steps
        .iter()
        .map(|step| step.what.len())
        .max()
        .unwrap_or_default();
    for (number, step) in report.steps.iter().enumerate() {
        let _ = writeln!(
            out,
            "{:>3}  {:width$}  {}",
            number + 1,
            clean(&step.what),
            clean(&step.detail)
        );
    }
    out.push_str(&policy(&report.plugins));
    let _ = write!(out, "\n=> {}\n", clean(&report.verdict));
    if let Some(reason) = report.drop {
        let _ = writeln!(
            out,
            "   reason {0}: `meshd explain {0}` says what to do",
            reason.name()
        );
    }
    match &report.cached_as {
        Some(cached) => {
            let _ = writeln!(out, "   holds for all of: {}", clean(cached));
        }
        None => out.push_str("   holds for this frame only\n"),
    }
    for place in &report.cached {
        let _ = writeln!(out, "   {}", clean(place));
    }
}

/// What each plugin said, a block for each port that asked.
fn policy(plugins: &[TracePlugin]) -> String {
    let mut out = String::new();
    let mut asks = None;
    for plugin in plugins {
        let ask = (&plugin.direction, plugin.port);
        if asks != Some(ask) {
            asks = Some(ask);
            let _ = write!(
                out,
                "\npolicy at {} of port {}\n",
                clean(&plugin.direction),
                plugin.port
            );
        }
        let reason = plugin.reason.as_ref().or(plugin.failure.as_ref());
        let _ = writeln!(
            out,
            "  {:<8}  {:>5}  {}: {}{}{}",
            clean(&plugin.stage),
            plugin.order,
            plugin.plugin,
            clean(&plugin.answer),
            reason.map_or_else(String::new, |reason| format!(", {}", clean(reason))),
            if plugin.decides { "  <= decides" } else { "" },
        );
        for (name, text) in [("read", &plugin.read), ("wants", &plugin.wants)] {
            if let Some(text) = text {
                let _ = writeln!(out, "  {:17}{name}: {}", "", clean(text));
            }
        }
    }
    out
}
