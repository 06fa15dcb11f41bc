//! `meshd plugin`: what is asked of the daemon, and how chains and counters look.

use super::args::PluginCommand;
use super::remote::Ask;
use super::values::{self, show_path};
use super::{Failure, Printed, show};
use crate::api::client::segment;
use crate::api::plugin_views::{ChainLink, PluginStats};
use crate::api::requests::{PluginWish, RollbackWish};
use crate::bounded;
use bytes::Bytes;
use meshd_core::view;
use meshd_plugin_host::MAX_COMPONENT;

/// Characters of a config that a table shows.
const CONFIG_SHOWN: usize = 40;

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

pub(super) async fn run(ask: &Ask, command: PluginCommand) -> Result<Printed, Failure> {
    match command {
        PluginCommand::Install { name, file } => {
            let component = bounded::file(&file, MAX_COMPONENT).map_err(|e| {
                Failure::new(format!("read the component {}: {e}", show_path(&file)))
            })?;
            let made: view::Plugin = ask
                .client
                .post_bytes(&format!("/v1/plugins/{name}"), Bytes::from(component))
                .await?;
            ask.made(&made, |made| {
                let digest = short(&made.digest);
                match made.attachments.len() {
                    0 => format!(
                        "{} ({digest}) is installed; next: meshd plugin attach {} NETWORK\n",
                        made.name, made.name
                    ),
                    n => format!(
                        "{} ({digest}) is installed and decides on {n} network(s) from now on\n",
                        made.name
                    ),
                }
            })
        }
        PluginCommand::Attach {
            name,
            network,
            config,
            order,
            fail,
        } => {
            let config = config
                .map(|typed| values::config(&typed))
                .transpose()
                .map_err(Failure::new)?;
            let wish = PluginWish {
                config,
                order,
                fail: fail.map(Into::into),
            };
            let path = format!("/v1/networks/{}/plugins/{name}", segment(&network));
            let made: view::Plugin = ask.client.post(&path, &wish).await?;
            ask.made(&made, |made| {
                format!(
                    "{} decides on network {} from now on\n",
                    made.name,
                    show::clean(&network)
                )
            })
        }
        PluginCommand::Detach { name, network } => {
            ask.client
                .delete(&format!(
                    "/v1/networks/{}/plugins/{name}",
                    segment(&network)
                ))
                .await?;
            ask.done(
                "detached",
                name.as_str(),
                format!("{name} decides no more on network {network}"),
            )
        }
        PluginCommand::Ls => ask.rows("/v1/plugins", show::plugins).await,
        PluginCommand::Chain { network } => {
            let path = format!("/v1/networks/{}/plugins", segment(&network));
            ask.rows(&path, chain).await
        }
        PluginCommand::Rollback { name, to } => {
            let path = format!("/v1/plugins/{name}/rollback");
            let made: view::Plugin = ask.client.post(&path, &RollbackWish { to }).await?;
            ask.made(&made, |made| {
                format!(
                    "{} is {} again, on {} network(s)\n",
                    made.name,
                    short(&made.digest),
                    made.attachments.len()
                )
            })
        }
        PluginCommand::Rm { name } => {
            ask.client.delete(&format!("/v1/plugins/{name}")).await?;
            ask.done("removed", name.as_str(), format!("{name} is removed"))
        }
        PluginCommand::Stats { name } => {
            let query = name
                .map(|name| format!("?plugin={name}"))
                .unwrap_or_default();
            ask.rows(&format!("/v1/plugin-stats{query}"), stats).await
        }
        // Done in `super::run`; it asks nobody.
        PluginCommand::Work(_) => Printed::text(""),
    }
}

fn chain(links: &[ChainLink]) -> String {
    let rows = links.iter().map(|link| {
        let fail = match &link.last_good {
            Some(digest) => format!("{} {}", link.fail, short(digest)),
            None => link.fail.clone(),
        };
        let config: String = link.config.chars().take(CONFIG_SHOWN).collect();
        let config = match config.len() < link.config.len() {
            true => format!("{config}..."),
            false => config,
        };
        let state = view::word(&link.state);
        vec![
            link.order.to_string(),
            link.plugin.to_string(),
            short(&link.digest).to_owned(),
            fail,
            link.asked.to_string(),
            link.passed.to_string(),
            link.accepted.to_string(),
            link.dropped.to_string(),
            link.failed.to_string(),
            match &link.trouble {
                Some(trouble) => format!("{state}: {trouble}"),
                None => state,
            },
            config,
        ]
    });
    let empty = "no plugin decides there: everything passes; `meshd plugin attach NAME NETWORK` changes that";
    show::table(
        &[
            "ORDER", "PLUGIN", "DIGEST", "FAIL", "ASKED", "PASSED", "ACCEPTED", "REFUSED",
            "FAILED", "STATE", "CONFIG",
        ],
        rows,
        empty,
    )
}

fn stats(stats: &[PluginStats]) -> String {
    let below = |bound: Option<u64>| match bound {
        Some(ns) if ns >= 10_000 => format!("{} us", ns.div_ceil(1000)),
        Some(ns) => format!("{ns} ns"),
        None => "-".to_owned(),
    };
    let rows = stats.iter().map(|row| {
        let faults: Vec<String> = row
            .faults
            .iter()
            .map(|(kind, n)| format!("{kind} {n}"))
            .collect();
        let (mean, p50, p99) = match row.calls {
            0 => (None, None, None),
            _ => (Some(row.mean_ns), row.p50_below_ns, row.p99_below_ns),
        };
        vec![
            row.plugin.to_string(),
            row.network.clone(),
            row.asked.to_string(),
            row.dropped.to_string(),
            row.failed.to_string(),
            below(mean),
            below(p50),
            below(p99),
            match faults.is_empty() {
                true => "none".to_owned(),
                false => faults.join(", "),
            },
            match &row.quarantine {
                Some(_) => format!("{}, one did not hold", row.examined),
                None => row.examined.to_string(),
            },
        ]
    });
    let empty = "no plugin is attached; `meshd plugin attach NAME NETWORK` does that";
    let mut out = show::table(
        &[
            "PLUGIN", "NETWORK", "ASKED", "REFUSED", "FAILED", "MEAN", "P50 <", "P99 <", "FAULTS",
            "EXAMINED",
        ],
        rows,
        empty,
    );
    let labels = stats.iter().flat_map(|row| {
        row.labels.iter().map(|counted| {
            vec![
                row.plugin.to_string(),
                row.network.clone(),
                counted.label.to_string(),
                counted.packets.to_string(),
                counted.bytes.to_string(),
            ]
        })
    });
    if stats.iter().any(|row| !row.labels.is_empty()) {
        out.push('\n');
        let head = ["PLUGIN", "NETWORK", "LABEL", "PACKETS", "BYTES"];
        out += &show::table(&head, labels, "");
    }
    let meters = stats.iter().flat_map(|row| {
        row.meters.iter().map(|meter| {
            vec![
                meter.meter.clone(),
                row.network.clone(),
                meter.rate.clone(),
                meter.passed.to_string(),
                meter.passed_bytes.to_string(),
                meter.held.to_string(),
                meter.held_bytes.to_string(),
            ]
        })
    });
    if stats.iter().any(|row| !row.meters.is_empty()) {
        out.push('\n');
        let head = [
            "METER", "NETWORK", "RATE", "PASSED", "BYTES", "DROPPED", "BYTES",
        ];
        out += &show::table(&head, meters, "");
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::plugin_views::LinkState;

    #[test]
    fn a_chain_is_one_line_a_plugin_with_what_it_does_and_why_it_does_not() {
        let link = ChainLink {
            order: 100,
            plugin: "acl".parse().unwrap(),
            digest: "ab".repeat(32),
            config: "{}".to_owned(),
            fail: "last-good".to_owned(),
            last_good: Some("cd".repeat(32)),
            state: LinkState::Paused,
            trouble: Some("it failed".to_owned()),
            asked: 9,
            passed: 4,
            accepted: 2,
            dropped: 2,
            failed: 1,
        };
        let text = chain(&[link]);
        assert!(
            text.contains("100    acl     abababababab  last-good cdcdcdcdcdcd  9      4       2         2        1       paused: it failed  {}"),
            "{text}"
        );
        assert!(chain(&[]).contains("everything passes"));
    }
}
