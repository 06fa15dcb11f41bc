//! `meshd plugin`: what is asked of the daemon, and how chains and counters look.

use super::args::PluginCommand;
use super::remote::Ask;
use super::values::{self, show_path};
use super::{Failure, Printed, show};
use crate::api::client::segment;
use crate::api::plugin_views::{ChainLink, PluginStats};
use crate::api::requests::{PluginWish, RollbackWish};
use crate::bounded;
use crate::punts::PuntCounts;
use crate::rulings::{ControllerInfo, LogLine, ShadowInfo};
use bytes::Bytes;
use meshd_core::code::ErrorCode;
use meshd_core::ident::Label;
use meshd_core::view;
use meshd_plugin_host::MAX_COMPONENT;
use std::path::Path;
use std::time::Duration;

/// Between two looks for new lines of a log.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Characters of a config that a table shows.
const CONFIG_SHOWN: usize = 40;
/// Reasons of refusals that a table shows.
const REASONS_SHOWN: usize = 3;

fn component(file: &Path) -> Result<Vec<u8>, Failure> {
    bounded::file(file, MAX_COMPONENT).map_err(|e| {
        Failure::new(
            ErrorCode::FileUnreadable,
            format!("read the component {}: {e}", show_path(file)),
        )
    })
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

pub(super) async fn run(ask: &Ask, command: PluginCommand) -> Result<Printed, Failure> {
    match command {
        PluginCommand::Install { name, file } => {
            let made = install(ask, &name, &file).await?;
            ask.made(&made, |made| {
                let digest = match &made.manifest {
                    Some(about) => show::clean(&format!(
                        "{} {}, {}",
                        about.name,
                        about.version,
                        short(&made.digest)
                    )),
                    None => short(&made.digest).to_owned(),
                };
                match made.attachments.len() {
                    0 => format!(
                        "{} ({digest}) is installed; next: meshd plugin attach {} NETWORK{}\n",
                        made.name,
                        made.name,
                        match &*show::clean(&made.needs) {
                            "" => String::new(),
                            needs => format!(" --grant {needs}"),
                        }
                    ),
                    n => format!(
                        "{} ({digest}) is installed and decides on {n} network(s) from now on\n",
                        made.name
                    ),
                }
            })
        }
        PluginCommand::Reload { name, file } => {
            let before = find(ask, &name).await?;
            let file = match (file, &before.source) {
                (Some(file), _) => file,
                (None, Some(source)) => source.into(),
                (None, None) => {
                    return Err(Failure::new(
                        ErrorCode::PluginSourceUnknown,
                        format!(
                            "it is not known from which file {name} was installed; name it: `meshd plugin reload {name} FILE.wasm`"
                        ),
                    ));
                }
            };
            let made = install(ask, &name, &file).await?;
            ask.made(&made, |made| {
                let digest = short(&made.digest);
                match made.digest == before.digest {
                    true => format!(
                        "{} is {digest} as before: {} has not changed\n",
                        made.name,
                        show_path(&file)
                    ),
                    false => format!(
                        "{} is {digest}, on {} network(s); `meshd plugin rollback {}` goes back\n",
                        made.name,
                        made.attachments.len(),
                        made.name
                    ),
                }
            })
        }
        PluginCommand::Shadow {
            name,
            file,
            network,
            stop,
        } => {
            let path = format!("/v1/networks/{}/plugins/{name}/shadow", segment(&network));
            match file {
                Some(file) => {
                    let made: view::Plugin = ask
                        .client
                        .post_bytes(&path, Bytes::from(component(&file)?))
                        .await?;
                    ask.made(&made, |made| {
                        format!(
                            "{} runs beside {} on network {} and is not obeyed; `meshd plugin shadow {} --network {}` shows what it would say\n",
                            show_path(&file),
                            made.name,
                            show::clean(&network),
                            made.name,
                            show::clean(&network),
                        )
                    })
                }
                None if stop => {
                    ask.client.delete(&path).await?;
                    ask.done(
                        "stopped",
                        name.as_str(),
                        format!("nothing runs beside {name} on network {network} any more"),
                    )
                }
                None => {
                    let path = format!("/v1/plugin-stats?plugin={name}");
                    let rows: Vec<PluginStats> = ask.client.get(&path).await?;
                    let row = rows
                        .into_iter()
                        .find(|row| row.network == network || row.vni.to_string() == network);
                    let shadow = row.and_then(|row| row.shadow);
                    let Some(shadow) = shadow else {
                        return Err(Failure::new(
                            ErrorCode::PluginNoShadow,
                            format!(
                                "no version runs beside {name} on network {network}; `meshd plugin shadow {name} FILE --network {network}` starts one"
                            ),
                        ));
                    };
                    ask.made(&shadow, differences)
                }
            }
        }
        PluginCommand::Attach {
            name,
            network,
            config,
            order,
            fail,
            stage,
            grant,
        } => {
            let config = config
                .map(|typed| values::config(&typed))
                .transpose()
                .map_err(|error| Failure::new(ErrorCode::PluginConfigRefused, error))?;
            let wish = PluginWish {
                config,
                order,
                fail: fail.map(Into::into),
                stage: stage.map(Into::into),
                grant: grant.map(|grant| grant.0),
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
        PluginCommand::Logs {
            name,
            network,
            follow,
        } => logs(ask, &name, network, follow).await,
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

async fn install(ask: &Ask, name: &Label, file: &Path) -> Result<view::Plugin, Failure> {
    let component = component(file)?;
    // For `reload`; the daemon keeps the word and never opens the file. Paths that are no text are not kept.
    let source = std::path::absolute(file).ok();
    let query = source
        .as_deref()
        .and_then(Path::to_str)
        .map_or_else(String::new, |path| format!("?from={}", segment(path)));
    let path = format!("/v1/plugins/{name}{query}");
    Ok(ask.client.post_bytes(&path, Bytes::from(component)).await?)
}

/// Of a plugin that is attached once the network need not be named.
async fn logs(
    ask: &Ask,
    name: &Label,
    network: Option<String>,
    follow: bool,
) -> Result<Printed, Failure> {
    let network = match network {
        Some(network) => network,
        None => match &find(ask, name).await?.attachments[..] {
            [only] => only.network.clone(),
            [] => {
                return Err(Failure::new(
                    ErrorCode::PluginNotAttached,
                    format!(
                        "{name} is attached nowhere; `meshd plugin attach {name} NETWORK` does that"
                    ),
                ));
            }
            _ => {
                return Err(Failure::new(
                    ErrorCode::PluginNetworkUnclear,
                    format!(
                        "{name} is attached to several networks; say which: `meshd plugin logs {name} --network NETWORK`"
                    ),
                ));
            }
        },
    };
    let path = format!("/v1/networks/{}/plugins/{name}/log", segment(&network));
    if !follow {
        return ask.rows(&path, log_lines).await;
    }
    let mut after = 0;
    loop {
        let lines: Vec<LogLine> = ask.client.get(&format!("{path}?after={after}")).await?;
        if let Some(last) = lines.last() {
            // One that begins anew was attached anew.
            after = last.seq;
            if !ask.print(&lines, |line| log_lines(std::slice::from_ref(line)))? {
                return Printed::text("");
            }
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

fn log_lines(lines: &[LogLine]) -> String {
    let mut out = String::new();
    for line in lines {
        let row = format!(
            "{}  {:5}  {}",
            show::time(line.at_ms),
            line.level,
            line.text
        );
        out += &show::clean(&row);
        out.push('\n');
    }
    out
}

async fn find(ask: &Ask, name: &Label) -> Result<view::Plugin, Failure> {
    let plugins: Vec<view::Plugin> = ask.client.get("/v1/plugins").await?;
    let found = plugins.into_iter().find(|plugin| plugin.name == *name);
    found.ok_or_else(|| {
        Failure::new(ErrorCode::PluginUnknown, format!(
            "no plugin {name} is installed on this node; `meshd plugin install {name} FILE.wasm` first"
        ))
    })
}

/// What a version beside another would have said otherwise.
fn differences(shadow: &ShadowInfo) -> String {
    let tally = &shadow.tally;
    let mut lines = vec![format!(
        "{}: {} questions compared, {} differ, {} passed over",
        short(&shadow.digest.to_string()),
        tally.compared,
        tally.differ(),
        tally.passed_over
    )];
    for (kind, n) in &tally.differences {
        lines.push(format!("{}  {n}", view::word(kind)));
        for example in tally.examples.get(kind).into_iter().flatten() {
            lines.push(format!("  {}", example.flow));
            lines.push(format!("    in use:  {}", example.old));
            lines.push(format!("    new:     {}", example.new));
        }
    }
    show::clean_lines(&lines)
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
            link.stage.word().to_owned(),
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
            "STAGE", "ORDER", "PLUGIN", "DIGEST", "FAIL", "ASKED", "PASSED", "ACCEPTED", "REFUSED",
            "FAILED", "STATE", "CONFIG",
        ],
        rows,
        empty,
    )
}

/// The number, and the most common reasons.
fn refused(row: &PluginStats) -> String {
    let mut reasons: Vec<(&String, &u64)> = row.reasons.iter().collect();
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let named: Vec<String> = reasons
        .iter()
        .take(REASONS_SHOWN)
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect();
    match (named.is_empty(), reasons.len() > REASONS_SHOWN) {
        (true, _) => row.dropped.to_string(),
        (false, false) => format!("{}: {}", row.dropped, named.join(", ")),
        (false, true) => format!("{}: {}, ...", row.dropped, named.join(", ")),
    }
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
            refused(row),
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
            match &row.shadow {
                Some(shadow) => {
                    let tally = &shadow.tally;
                    format!("{} of {} differ", tally.differ(), tally.compared)
                }
                None => "none".to_owned(),
            },
        ]
    });
    let empty = "no plugin is attached; `meshd plugin attach NAME NETWORK` does that";
    let mut out = show::table(
        &[
            "PLUGIN", "NETWORK", "ASKED", "REFUSED", "FAILED", "MEAN", "P50 <", "P99 <", "FAULTS",
            "EXAMINED", "SHADOW",
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
    let punting = |row: &&PluginStats| row.punts != PuntCounts::default();
    let punts = stats.iter().filter(punting).map(|row| {
        let PuntCounts {
            taken,
            surplus,
            overrun,
            unheard,
        } = row.punts;
        vec![
            row.plugin.to_string(),
            row.network.clone(),
            taken.to_string(),
            surplus.to_string(),
            overrun.to_string(),
            unheard.to_string(),
        ]
    });
    if stats.iter().any(|row| punting(&row)) {
        out.push('\n');
        let head = [
            "PLUGIN",
            "NETWORK",
            "PUNTED",
            "ABOVE BUDGET",
            "QUEUE FULL",
            "NO CONTROLLER",
        ];
        out += &show::table(&head, punts, "");
    }
    let controllers: Vec<(&PluginStats, &ControllerInfo)> = stats
        .iter()
        .filter_map(|row| Some((row, row.controller.as_ref()?)))
        .collect();
    if !controllers.is_empty() {
        out.push('\n');
        out += &controlled(&controllers);
    }
    out
}

/// What controllers did, and the figures that they keep themselves.
fn controlled(controllers: &[(&PluginStats, &ControllerInfo)]) -> String {
    let rows = controllers.iter().map(|(row, its)| {
        vec![
            row.plugin.to_string(),
            row.network.clone(),
            its.events.to_string(),
            its.lost.to_string(),
            format!("{} ms", its.busy_us / 1000),
            its.faults.to_string(),
            format!("{} ({} B)", its.facts.0, its.facts.1),
            its.rules.to_string(),
            format!("{} B", its.kept),
            format!("{} B", its.shared),
            its.trouble.clone().unwrap_or_else(|| "works".to_owned()),
        ]
    });
    let head = [
        "CONTROLLER",
        "NETWORK",
        "EVENTS",
        "LOST",
        "BUSY",
        "FAULTS",
        "FACTS",
        "RULES",
        "KEPT",
        "SHARED",
        "STATE",
    ];
    let mut out = show::table(&head, rows, "");
    let figures = controllers.iter().flat_map(|(row, its)| {
        let figures = its.figures.iter();
        figures.map(|(name, value)| {
            vec![
                row.plugin.to_string(),
                row.network.clone(),
                name.clone(),
                value.to_string(),
            ]
        })
    });
    if controllers.iter().any(|(_, its)| !its.figures.is_empty()) {
        out.push('\n');
        out += &show::table(&["CONTROLLER", "NETWORK", "FIGURE", "VALUE"], figures, "");
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::plugin_views::LinkState;
    use crate::rulings::Stage;

    #[test]
    fn a_chain_is_one_line_a_plugin_with_what_it_does_and_why_it_does_not() {
        let link = ChainLink {
            stage: Stage::Guard,
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
            text.contains("guard  100    acl     abababababab  last-good cdcdcdcdcdcd  9      4       2         2        1       paused: it failed  {}"),
            "{text}"
        );
        assert!(chain(&[]).contains("everything passes"));
    }
}
