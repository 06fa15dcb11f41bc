//! What is exported is named as scrapers want it, bounded, and what the examples and the documentation speak of.

use super::*;
use axum::http::HeaderValue;
use families::{ALL, Kind, ROWS_MAX};
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// Every name that a query can have.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for def in ALL {
        let name = def.exported();
        if def.kind == Kind::Histogram {
            names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
        } else {
            names.insert(name);
        }
    }
    names
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    let mut seen = BTreeSet::new();
    for def in ALL {
        let name = def.exported();
        assert!(seen.insert(name.clone()), "{name} twice");
        let word = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(word), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            def.kind == Kind::Counter,
            "{name}"
        );
        for foreign in ["_ms", "_us", "_ns", "_percent", "_kbps", "_total_total"] {
            assert!(!name.contains(foreign), "{name}");
        }
        assert!(
            def.help.ends_with('.') && !def.help.contains('\n'),
            "{name}"
        );
        for label in def.labels {
            assert!(label.chars().all(word) && *label != "le", "{name}: {label}");
        }
    }
}

#[test]
fn rows_are_bounded_and_what_is_beyond_is_one_row() {
    let mut rows = Rows::default();
    for n in 0..5 * ROWS_MAX {
        let n = n.to_string();
        rows.put(&families::PEER_UP, &[&n], Value::Gauge(1.0));
        rows.put(&families::PEER_LOST, &[&n], Value::Counter(2));
    }
    rows.put(&families::PEER_UP, &["down"], Value::Gauge(0.0));
    let kept = rows.of(&families::PEER_UP).unwrap();
    assert_eq!(kept.len(), ROWS_MAX + 1);
    assert_eq!(
        kept.last(),
        Some(&(vec!["other".to_owned()], Value::Gauge(0.0)))
    );
    let lost = rows.of(&families::PEER_LOST).unwrap().last();
    let rest = 2 * 4 * ROWS_MAX as u64;
    assert_eq!(
        lost,
        Some(&(vec!["other".to_owned()], Value::Counter(rest)))
    );
}

#[test]
fn both_forms_hold_the_same_figures_and_labels_of_strangers_are_escaped() {
    let mut rows = Rows::default();
    rows.put(&families::PEER_RX_BYTES, &["a\"\n\\b"], Value::Counter(7));
    rows.put(
        &families::PLUGIN_TIME,
        &["acl", "lan"],
        Value::Histogram {
            sum: 0.5,
            count: 3,
            buckets: vec![(0.001, 1), (f64::INFINITY, 2)],
        },
    );
    let open = open_metrics(rows).unwrap();
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert!(
        open.contains("# TYPE meshd_peer_received_bytes counter\n"),
        "{open}"
    );
    let row = "meshd_peer_received_bytes_total{peer=\"a\\\"\\n\\\\b\"} 7\n";
    assert!(open.contains(row), "{open}");
    let classic = classic::of(&open);
    assert!(
        classic.contains("# TYPE meshd_peer_received_bytes_total counter\n"),
        "{classic}"
    );
    let samples = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(samples(&open), samples(&classic));
    let bucket =
        "meshd_plugin_call_duration_seconds_bucket{le=\"+Inf\",plugin=\"acl\",network=\"lan\"} 3";
    assert!(classic.contains(bucket), "{classic}");
}

#[test]
fn the_form_is_the_one_that_the_scraper_prefers() {
    for (accept, open) in [
        ("", false),
        ("*/*", false),
        ("text/plain", false),
        ("application/openmetrics-text", true),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
            true,
        ),
        (
            "text/plain;q=0.9, application/openmetrics-text;q=0.1",
            false,
        ),
        ("application/openmetrics-text;q=0", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        assert_eq!(wants_open_metrics(&headers), open, "{accept}");
    }
}

/// Names of metrics in a query: words that are no functions, labels or keywords of ours begin so.
fn names_in(query: &str) -> BTreeSet<String> {
    query
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("meshd_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn example(file: &str) -> String {
    let path = format!(
        "{}/../examples/monitoring/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_dashboard_and_the_alerts_speak_of_what_is_exported() {
    let exported = exported();
    let mut queries = Vec::new();
    let dashboard: Json = serde_json::from_str(&example("dashboard.json")).unwrap();
    fn walk(value: &Json, queries: &mut Vec<String>) {
        match value {
            Json::Object(fields) => {
                for (key, value) in fields {
                    if let (true, Some(text)) =
                        (key == "expr" || key == "definition", value.as_str())
                    {
                        queries.push(text.to_owned());
                    }
                    walk(value, queries);
                }
            }
            Json::Array(items) => items.iter().for_each(|item| walk(item, queries)),
            _ => {}
        }
    }
    walk(&dashboard, &mut queries);
    let panels = queries.len();
    assert!(panels >= 12, "{panels} queries in the dashboard");
    let alerts = example("alerts.yml");
    let rules = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    queries.extend(rules.map(str::to_owned));
    assert!(
        queries.len() >= panels + 8,
        "{} alerts",
        queries.len() - panels
    );
    for query in &queries {
        let names = names_in(query);
        // `up` is Prometheus' own.
        assert!(
            !names.is_empty() || query.contains("up{"),
            "no metric in {query}"
        );
        for name in names {
            assert!(
                exported.contains(&name),
                "{name} is not exported; in {query}"
            );
        }
        for label in query.split("by (").skip(1) {
            let labels = label.split(')').next().unwrap_or_default();
            for label in labels.split(',').map(str::trim) {
                let known = ["le", "instance", "job"].contains(&label)
                    || ALL.iter().any(|def| def.labels.contains(&label));
                assert!(known, "no label {label}; in {query}");
            }
        }
    }
}

#[test]
fn the_page_of_metrics_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text.contains(&page()),
        "the table in docs/reference/metrics.md is not what the code says; make it by `meshd api metrics`"
    );
}
