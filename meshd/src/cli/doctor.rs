//! `meshd doctor`: what this host gives ([`crate::doctor`]), and what only the running daemon knows.

use super::args::Common;
use super::values::show_path;
use super::{Failure, Printed, show};
use crate::api::client::{Client, ClientError};
use crate::doctor::examine;
use meshd_core::config::Config;
use meshd_core::view::{Check, CheckState, Doctor};
use std::path::{Path, PathBuf};

/// The config file, unless told otherwise.
const CONFIG: &str = "/etc/meshd/meshd.toml";

pub(super) async fn run(
    common: &Common,
    config: Option<PathBuf>,
    client: &Client,
) -> Result<Printed, Failure> {
    let mut checks = Vec::new();
    let (config, told) = read(config.as_deref());
    checks.extend(told);
    let theirs = client.get::<Doctor>("/v1/doctor").await;
    checks.extend(
        examine(&common.state, config.underlay.listen, theirs.is_ok())
            .await
            .checks,
    );
    match theirs {
        Ok(theirs) => {
            checks.push(check("daemon", CheckState::Ok, format!("answers at {}", show_path(&common.socket)), None));
            checks.extend(theirs.checks);
        }
        Err(error @ (ClientError::NoDaemon { .. } | ClientError::Forbidden { .. })) => checks.push(check(
            "daemon",
            CheckState::Warn,
            error.to_string(),
            Some("start it with `meshd run`, or set MESHD_SOCKET (or --socket); what only it knows was not checked"),
        )),
        Err(error) => return Err(error.into()),
    }
    let report = Doctor { checks };
    let done = report.checks.iter().all(|c| c.state != CheckState::Fail);
    let text = if common.json {
        show::json(&report)
    } else {
        show::doctor(&report)
    };
    Ok(Printed { text, done })
}

fn check(name: &str, state: CheckState, found: impl Into<String>, advice: Option<&str>) -> Check {
    Check {
        name: name.to_owned(),
        state,
        found: found.into(),
        advice: advice.map(str::to_owned),
    }
}

/// The config that `meshd run` would take, and what is to be said about its file.
fn read(named: Option<&Path>) -> (Config, Option<Check>) {
    let path = named.unwrap_or(Path::new(CONFIG));
    let shown = show_path(path);
    let failed = |why: String, advice| {
        (
            Config::default(),
            Some(check("config", CheckState::Fail, why, Some(advice))),
        )
    };
    match crate::bounded::text(path, crate::daemon::CONFIG_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            (Config::default(), None)
        }
        Err(error) => failed(
            format!("{shown}: {error}"),
            "give the right file by --config or MESHD_CONFIG",
        ),
        Ok(text) => match Config::parse(&text) {
            Ok(config) => (
                config,
                Some(check(
                    "config",
                    CheckState::Ok,
                    format!("{shown} reads"),
                    None,
                )),
            ),
            Err(error) => failed(
                format!("{shown}: {error}"),
                "a daemon that runs goes on with the config it has",
            ),
        },
    }
}
