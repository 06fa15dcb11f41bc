//! What was dropped, and the balance, as people read them.

use super::{clean, time};
use meshd_core::ruling::DropReason;
use meshd_core::view::{Balance, Drops};
use std::fmt::Write as _;

/// Places of a reason that are listed.
const PLACES_MAX: usize = 4;

/// `, 3.5/s now`; nothing where nothing came lately.
fn rate(frames: u64, ms: u64) -> String {
    match (frames * 10_000).checked_div(ms) {
        None | Some(0) if frames == 0 => String::new(),
        Some(tenths) if tenths < 100 => format!(", {}.{}/s now", tenths / 10, tenths % 10),
        tenths => format!(", {}/s now", tenths.unwrap_or_default() / 10),
    }
}

/// Reasons, most first, each with where and the last example. `filter`: what is looked at, behind "no frame"; empty: all.
pub(in crate::cli) fn drops(drops: &[Drops], filter: &str) -> String {
    let mut sorted: Vec<&Drops> = drops.iter().filter(|d| d.count > 0).collect();
    sorted.sort_by_key(|d| std::cmp::Reverse(d.count));
    if sorted.is_empty() {
        let filter = clean(filter);
        return format!("no frame{filter} was dropped since the daemon started\n");
    }
    let mut out = String::new();
    for drop in sorted {
        let _ = writeln!(
            out,
            "{:>10}  {}: {}{}",
            drop.count,
            drop.reason.name(),
            clean(&drop.explanation),
            rate(drop.recent, drop.recent_ms)
        );
        for place in drop.places.iter().take(PLACES_MAX) {
            let origin = place.origin.as_ref();
            let origin = origin.map_or_else(String::new, |origin| format!(" from {origin}"));
            let network = place.network.as_ref();
            let network = network.map_or_else(String::new, |network| format!(" on {network}"));
            if origin.is_empty() && network.is_empty() {
                continue;
            }
            let _ = writeln!(
                out,
                "{:>10}  {:>6}{}{}{}",
                "",
                place.count,
                clean(&origin),
                clean(&network),
                rate(place.recent, drop.recent_ms)
            );
        }
        if let Some(more) = drop.places.len().checked_sub(PLACES_MAX + 1) {
            let _ = writeln!(out, "{:>10}  and {} other places", "", more + 1);
        }
        if let Some(last) = &drop.last {
            let network = last
                .network
                .as_ref()
                .map(|n| format!(" on {n}"))
                .unwrap_or_default();
            // Some reasons are found without a look at the frame.
            let flow = last.flow.as_deref().unwrap_or(match drop.reason {
                DropReason::Malformed => "a frame that cannot be read",
                _ => "a frame",
            });
            let _ = writeln!(
                out,
                "{:>10}  last {}: {} from {}{}",
                "",
                time(last.at_ms),
                clean(flow),
                clean(&last.origin),
                clean(&network)
            );
            if let Some(why) = &last.why {
                let _ = writeln!(out, "{:>10}  {}", "", clean(why));
            }
        }
    }
    out
}

/// One line for each network: what came is what left, was answered, waits or was dropped.
pub(in crate::cli) fn balance(rows: &[Balance]) -> String {
    let mut out = String::new();
    for row in rows {
        let network = row.network.as_deref().unwrap_or("(no network told)");
        let _ = write!(
            out,
            "{}: {} came + {} extra copies = {} sent + {} answered + {} waiting + {} dropped",
            clean(network),
            row.came,
            row.extra,
            row.sent,
            row.answered,
            row.waiting,
            row.dropped
        );
        let _ = match row.missing {
            0 => writeln!(out),
            missing => writeln!(
                out,
                "; {missing} missing: this is a bug in meshd, please report it"
            ),
        };
    }
    if out.is_empty() {
        out.push_str("no frame came since the daemon started\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_core::view::{DropExample, DropPlace};

    #[test]
    fn a_reason_is_shown_with_rate_places_and_what_is_known_of_the_last() {
        let place = |port: u64, count| DropPlace {
            network: Some("demo".to_owned()),
            origin: Some(format!("port {port} (web\u{1b}[1m.demo)")),
            port: None,
            count,
            recent: 0,
        };
        let shown = drops(
            &[Drops {
                reason: DropReason::Policy,
                count: 65,
                recent: 35,
                recent_ms: 10_000,
                explanation: DropReason::Policy.explain().to_owned(),
                last: Some(DropExample {
                    at_ms: 0,
                    network: Some("demo".to_owned()),
                    origin: "port 3 (web.demo)".to_owned(),
                    flow: Some("tcp 10.0.0.1:1 > 10.0.0.2:22 syn".to_owned()),
                    why: Some("acl: rule 3".to_owned()),
                }),
                places: (1..=6).map(|port| place(port, 20 - port)).collect(),
            }],
            "",
        );
        assert!(
            shown.starts_with("        65  policy: a policy plugin refused the flow, 3.5/s now\n"),
            "{shown}"
        );
        assert!(
            shown.contains("from port 1 (web\\u{1b}[1m.demo) on demo\n"),
            "{shown}"
        );
        assert!(shown.contains("and 2 other places"), "{shown}");
        assert!(shown.contains("last 1970-01-01T00:00:00Z: tcp 10.0.0.1:1 > 10.0.0.2:22 syn from port 3 (web.demo) on demo\n"), "{shown}");
        assert!(shown.ends_with("acl: rule 3\n"), "{shown}");
        assert_eq!(
            drops(&[], ""),
            "no frame was dropped since the daemon started\n"
        );
        assert_eq!(
            drops(&[], " that --reason policy lets through"),
            "no frame that --reason policy lets through was dropped since the daemon started\n"
        );
    }

    #[test]
    fn a_balance_that_is_none_says_so() {
        let mut row = Balance {
            network: Some("demo".to_owned()),
            vni: None,
            came: 3,
            extra: 1,
            sent: 2,
            answered: 1,
            waiting: 0,
            dropped: 1,
            missing: 0,
        };
        let text = balance(std::slice::from_ref(&row));
        assert_eq!(
            text,
            "demo: 3 came + 1 extra copies = 2 sent + 1 answered + 0 waiting + 1 dropped\n"
        );
        row.missing = 1;
        assert!(balance(&[row]).contains("1 missing: this is a bug"));
    }
}
