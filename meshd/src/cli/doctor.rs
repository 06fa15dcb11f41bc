//! `meshd doctor`: what this host gives and what probes find ([`crate::doctor`]), and what only the running daemon knows.

use super::args::Common;
use super::values::show_path;
use super::{Failure, Printed, show};
use crate::api::client::{Client, ClientError};
use crate::doctor::bundle::{self, Wish};
use crate::doctor::{WITHIN, apart, host, inside, probe, underlay, unfinished};
use clap::Args;
use meshd_core::code::ErrorCode;
use meshd_core::config::Config;
use meshd_core::diagnosis::{Finding, fail, names, reach, warn, well};
use meshd_core::view::{
    Check, CheckState, Doctor, Member, MemberState, Network, Path as PeerPath, Peer, PeerState,
    Port,
};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The config file, unless told otherwise.
const CONFIG: &str = "/etc/meshd/meshd.toml";
/// A daemon that is well says its version within this.
const ANSWERS: Duration = Duration::from_millis(1500);
/// Addresses that are probed, those of peers without a session first.
const TARGETS_MAX: usize = 24;
/// Of one peer.
const ADDRESSES_MAX: usize = 4;

/// `meshd doctor`.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Config file to check, and to take the underlay's port from [default: /etc/meshd/meshd.toml if it is there].
    #[arg(
        long,
        env = "MESHD_CONFIG",
        value_name = "FILE",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// Write an archive for a bug report, without secrets: config, all views, events, metrics, log, and what was found.
    #[arg(long, value_name = "FILE.tar.gz")]
    bundle: Option<PathBuf>,
    /// In the archive, give addresses names instead.
    #[arg(long, requires = "bundle")]
    hide_addresses: bool,
}

pub(super) async fn run(
    common: &Common,
    args: DoctorArgs,
    client: &Client,
) -> Result<Printed, Failure> {
    let report = examine(common, args.config.as_deref(), client).await?;
    let done = report.checks.iter().all(|c| c.state != CheckState::Fail);
    if let Some(file) = &args.bundle {
        let wish = Wish {
            file,
            hide_addresses: args.hide_addresses,
            state: &common.state,
            config: args.config.as_deref().unwrap_or(Path::new(CONFIG)),
            doctor: (&report, show::doctor(&report)),
        };
        let count = bundle::make(wish, client).await.map_err(|error| {
            Failure::new(
                ErrorCode::FileUnwritten,
                format!("{}: {error}", show_path(file)),
            )
            .hint("name a file that is not there yet, in a folder that can be written")
        })?;
        let text = match common.json {
            true => show::json(&serde_json::json!({ "file": file, "files": count })),
            false => format!(
                "{} has {count} files, and no secrets; look through it (README.txt says what is what) before you send it\n",
                show_path(file)
            ),
        };
        // What is wrong with the host is in it; that it was made is what was asked for.
        return Printed::text(text);
    }
    let text = match common.json {
        true => show::json(&report),
        false => show::doctor(&report),
    };
    Ok(Printed { text, done })
}

async fn examine(
    common: &Common,
    config: Option<&Path>,
    client: &Client,
) -> Result<Doctor, Failure> {
    let until = Instant::now() + WITHIN;
    let mut checks = Vec::new();
    let (config, of_config) = read(config);
    checks.extend(of_config);
    let asked = client.get::<serde_json::Value>("/v1/version");
    let answered = tokio::time::timeout(ANSWERS, asked).await;
    let speaks = matches!(answered, Ok(Ok(_)));
    // One that is stuck has its port all the same.
    let daemon = speaks || answered.is_err();
    let addresses = host::addresses(config.underlay.listen).await;
    let known = addresses.as_deref().unwrap_or_default();
    let (of_host, of_daemon, of_ways) = tokio::join!(
        host::examine(&common.state, &config, daemon, &addresses, until),
        async {
            match speaks {
                true => told(client, until).await.map(Some),
                false => Ok(None),
            }
        },
        async {
            match speaks {
                true => ways(client, known.to_vec(), &config, until).await,
                false => Vec::new(),
            }
        }
    );
    checks.extend(of_host);
    let socket = show_path(&common.socket);
    match answered {
        Ok(Ok(_)) => {
            checks.push(well("daemon", format!("answers at {socket}")));
            checks.extend(of_daemon?.into_iter().flat_map(|theirs| theirs.checks));
        }
        Ok(Err(error @ (ClientError::NoDaemon { .. } | ClientError::Forbidden { .. }))) => {
            let gone = matches!(error, ClientError::NoDaemon { .. }) && has_run(&common.state);
            let ran = if gone { "; one ran with this state folder" } else { "" };
            let mut check = warn(
                Finding::DaemonDown,
                "daemon",
                format!("{error}{ran}; what only it knows, and the ways to peers, were not checked"),
                "start it with `meshd run` (or `systemctl start meshd`), or set MESHD_SOCKET (or --socket)",
            );
            if gone {
                // Before its first run there is nothing that could be down.
                check.state = CheckState::Fail;
            }
            checks.push(check);
        }
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => checks.push(fail(
            Finding::DaemonStuck,
            "daemon",
            format!("takes requests at {socket} and has not answered within {} ms", ANSWERS.as_millis()),
            "is it stopped (`ps -o stat,wchan -C meshd`: T), or the machine out of memory or time? Else `systemctl restart meshd`: what the kernel forwards goes on meanwhile",
        )),
    }
    checks.extend(of_ways);
    Ok(Doctor { checks })
}

/// A daemon has kept its events there.
fn has_run(state: &Path) -> bool {
    state.join(crate::events::FILE).exists()
}

/// What only the daemon knows.
async fn told(client: &Client, until: Instant) -> Result<Doctor, ClientError> {
    let asked = client.get::<Doctor>("/v1/doctor");
    let told = tokio::time::timeout_at(until.into(), asked).await;
    told.unwrap_or_else(|_| {
        Ok(Doctor {
            checks: vec![unfinished("what the daemon knows")],
        })
    })
}

/// Probes of peers' addresses, and looks into ports.
async fn ways(
    client: &Client,
    own: Vec<meshd_core::diagnosis::host::Address>,
    config: &Config,
    until: Instant,
) -> Vec<Check> {
    let names = config.dns.enabled;
    let asked = async {
        tokio::try_join!(
            client.get::<Vec<Peer>>("/v1/peers"),
            client.get::<Vec<Member>>("/v1/members"),
            client.get::<Vec<Port>>("/v1/ports"),
            client.get::<Vec<Network>>("/v1/networks"),
            client.get::<Vec<PeerPath>>("/v1/paths"),
        )
    };
    let Ok(Ok((peers, members, ports, networks, paths))) =
        tokio::time::timeout_at(until.into(), asked).await
    else {
        // A revoked node's daemon refuses; the doctor's own view says why.
        return Vec::new();
    };
    // What is found is to be told in time.
    let end = until.checked_sub(WITHIN / 20).unwrap_or(until);
    let probes = targets(&peers, &members).into_iter().map(|target| {
        let own = own.clone();
        apart(until, move || probe::probe(&target, &own, end))
    });
    let carried = underlay::checks(config, &own, &peers, &paths, &networks);
    let carried = tokio::time::timeout_at(until.into(), carried);
    let visited = networks.clone();
    let looked = apart(until, move || inside::visit(&ports, &visited, names));
    let probes = futures_util::future::join_all(probes);
    let (probed, inside, carried) = tokio::join!(probes, looked, carried);
    let mut checks = carried.unwrap_or_else(|_| vec![unfinished("underlay routes")]);
    if probed.iter().any(Option::is_none) {
        checks.push(unfinished("packet sizes"));
    }
    let probed: Vec<_> = probed.into_iter().flatten().collect();
    checks.extend(reach::checks(&probed));
    match inside {
        Some(inside) => checks.extend(names::inside(&inside)),
        None => checks.push(unfinished("ports from inside")),
    }
    checks
}

/// Of a peer with a session the address in use; of one without, those that it offers.
fn targets(peers: &[Peer], members: &[Member]) -> Vec<probe::Target> {
    let (up, down): (Vec<_>, Vec<_>) = peers.iter().partition(|peer| peer.state == PeerState::Up);
    let mut targets = Vec::new();
    let mut add = |peer: &Peer, session, addresses: BTreeSet<SocketAddr>| {
        let address = |address| probe::Target {
            peer: peer.node.show(),
            address,
            session,
        };
        targets.extend(addresses.into_iter().take(ADDRESSES_MAX).map(address));
    };
    for peer in down {
        let member = members.iter().find(|member| member.id == peer.node.id);
        let member = member.filter(|member| member.state != MemberState::Revoked);
        let offered = member
            .map(|member| member.addresses.clone())
            .unwrap_or_default();
        add(
            peer,
            false,
            offered.into_iter().chain(peer.remote).collect(),
        );
    }
    for peer in up {
        add(peer, true, peer.remote.into_iter().collect());
    }
    targets.truncate(TARGETS_MAX);
    targets
}

/// The config that `meshd run` would take, and what is to be said about its file.
fn read(named: Option<&Path>) -> (Config, Option<Check>) {
    let path = named.unwrap_or(Path::new(CONFIG));
    let shown = show_path(path);
    let failed = |why: String, advice| {
        let check = fail(Finding::ConfigInvalid, "config", why, advice);
        (Config::default(), Some(check))
    };
    match crate::bounded::text(path, crate::config_file::SIZE_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            (Config::default(), None)
        }
        Err(error) => failed(
            format!("{shown}: {error}"),
            "give the right file by --config or MESHD_CONFIG",
        ),
        Ok(text) => match Config::parse(&text) {
            Ok(config) => (config, Some(well("config", format!("{shown} reads")))),
            Err(error) => failed(
                format!("{shown}: {error}"),
                "a daemon that runs goes on with the config it has; `meshd config check` after the change",
            ),
        },
    }
}
