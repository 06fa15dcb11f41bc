//! `meshd drops`: what is asked for, once or again and again.

use super::remote::Ask;
use super::{Failure, Printed, show, values};
use crate::api::client::segment;
use clap::Args;
use meshd_core::code::ErrorCode;
use meshd_core::view::{Balance, Drops};
use std::io::IsTerminal;
use std::time::Duration;

/// Between two looks of `--watch`.
const WATCH: Duration = Duration::from_secs(2);

/// What `meshd drops` takes.
#[derive(Debug, Args)]
pub(super) struct DropsArgs {
    /// Only frames of this network (name or VNI).
    #[arg(long, value_name = "NETWORK", value_parser = values::word)]
    network: Option<String>,
    /// Only frames that came from this port (number, NAME or NAME.NETWORK).
    #[arg(long, value_name = "PORT", value_parser = values::word, conflicts_with = "peer")]
    port: Option<String>,
    /// Only frames that came from this peer (name or id).
    #[arg(long, value_name = "PEER", value_parser = values::word)]
    peer: Option<String>,
    /// Only this reason, as `too-long`.
    #[arg(long, value_name = "REASON", value_parser = values::word)]
    reason: Option<String>,
    /// Look again every 2 s, until Ctrl-C; with --json a line each time.
    #[arg(long, short)]
    watch: bool,
    /// Show, network by network, that what came is what left, was answered, waits, or was dropped.
    #[arg(long, conflicts_with_all = ["network", "port", "peer", "reason"])]
    balance: bool,
}

impl DropsArgs {
    fn asked(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let asked = [
            ("network", &self.network),
            ("port", &self.port),
            ("peer", &self.peer),
            ("reason", &self.reason),
        ];
        asked
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    fn path(&self) -> String {
        let given = self
            .asked()
            .map(|(name, value)| format!("{name}={}", segment(value)));
        match given.collect::<Vec<_>>().join("&") {
            asked if asked.is_empty() => "/v1/drops".to_owned(),
            asked => format!("/v1/drops?{asked}"),
        }
    }

    /// What is looked at, as it was typed: ` by --reason too-long`; empty: all.
    fn filter(&self) -> String {
        let given = self
            .asked()
            .map(|(name, value)| format!("--{name} {value}"))
            .collect::<Vec<_>>();
        match given.is_empty() {
            true => String::new(),
            false => format!(" that {} lets through", given.join(" ")),
        }
    }
}

async fn once(ask: &Ask, args: &DropsArgs) -> Result<Printed, Failure> {
    if args.balance {
        return ask
            .rows("/v1/balance", |rows: &[Balance]| show::balance(rows))
            .await;
    }
    let filter = args.filter();
    ask.rows(&args.path(), |rows: &[Drops]| show::drops(rows, &filter))
        .await
}

/// One look of `--watch`; false: nobody reads any more.
async fn look(ask: &Ask, args: &DropsArgs) -> Result<bool, Failure> {
    if ask.json {
        let path = match args.balance {
            true => "/v1/balance".to_owned(),
            false => args.path(),
        };
        let rows: serde_json::Value = ask.client.get(&path).await?;
        return ask.print(&[rows], |_| String::new());
    }
    let Printed { text, .. } = once(ask, args).await?;
    // A terminal is written anew; a file gets one look behind the other.
    let before = match std::io::stdout().is_terminal() {
        true => "\x1b[H\x1b[2J",
        false => "",
    };
    ask.print(&[()], |()| format!("{before}{text}\n"))
}

fn is_gone(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DaemonUnreachable
            | ErrorCode::DaemonBrokeOff
            | ErrorCode::DaemonStopping
            | ErrorCode::DaemonStuck
    )
}

pub(super) async fn run(ask: &Ask, args: &DropsArgs) -> Result<Printed, Failure> {
    if !args.watch {
        return once(ask, args).await;
    }
    let mut seen = false;
    loop {
        match look(ask, args).await {
            Ok(true) => seen = true,
            Ok(false) => return Printed::text(""),
            // One that was there once may come again.
            Err(failure) if seen && is_gone(failure.code) => {
                eprintln!("hint: the daemon ended; this goes on when it is started again");
                ask.await_daemon().await?;
                continue;
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(WATCH).await;
    }
}
