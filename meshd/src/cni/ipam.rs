//! Delegation: addresses by another plugin, such as host-local (CNI specification 1.1, section 4).
//!
//! ```text
//!   meshd-cni --stdin, environment--> CNI_PATH/host-local --> result: addresses, gateway, routes
//! ```
//!
//! Owns the child process: bounded in time and in what it may print.

use super::config::{Config, Dns, Route, same_family};
use super::error::{CniError, Code, clean, error};
use super::request::Request;
use ipnet::IpNet;
use meshd_core::command::PortRoute;
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// Longest that a delegated plugin may take.
const WITHIN: Duration = Duration::from_secs(30);
/// Most that it may print, in bytes.
const PRINTED_MAX: u64 = 1 << 20;

/// What the plugin gave.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) ips: Vec<IpNet>,
    pub(super) routes: Vec<PortRoute>,
    pub(super) dns: Option<Dns>,
}

#[derive(Deserialize)]
struct Printed {
    #[serde(default)]
    ips: Vec<PrintedIp>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    dns: Option<Dns>,
}

#[derive(Deserialize)]
struct PrintedIp {
    address: IpNet,
    #[serde(default)]
    gateway: Option<IpAddr>,
}

fn find(plugin: &str, request: &Request) -> Result<PathBuf, CniError> {
    let found = request
        .path
        .iter()
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(plugin))
        .find(|file| file.is_file());
    found.ok_or_else(|| {
        error(
            Code::Delegate,
            format!("IPAM plugin {plugin} is in no folder of CNI_PATH"),
        )
        .details("Debian has the stock ones in containernetworking-plugins, under /usr/lib/cni")
    })
}

/// Is the plugin in a folder of `CNI_PATH`?
pub(super) fn is_there(plugin: &str, request: &Request) -> bool {
    find(plugin, request).is_ok()
}

/// Runs the plugin with this command; what it printed.
async fn run(
    plugin: &str,
    verb: &str,
    config: &Config,
    request: &Request,
) -> Result<Vec<u8>, CniError> {
    let failed = |why: String| {
        error(
            Code::Delegate,
            format!("IPAM plugin {plugin}, {verb}: {why}"),
        )
    };
    let mut child = Command::new(find(plugin, request)?)
        .env("CNI_COMMAND", verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that does not read its configuration says so by its exit code.
                let _ = stdin.write_all(&config.raw).await;
            }
        };
        let read = async {
            let mut printed = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(PRINTED_MAX).read_to_end(&mut printed).await?;
            }
            Ok::<_, std::io::Error>(printed)
        };
        let ((), printed) = tokio::join!(write, read);
        Ok::<_, std::io::Error>((printed?, child.wait().await?))
    };
    let (printed, status) = match tokio::time::timeout(WITHIN, talk).await {
        Ok(done) => done.map_err(|e| failed(e.to_string()))?,
        Err(_) => return Err(failed(format!("no answer within {} s", WITHIN.as_secs()))),
    };
    if status.success() {
        return Ok(printed);
    }
    let object = serde_json::from_slice::<Value>(&printed).ok();
    Err(object
        .and_then(|object| CniError::of_delegate(plugin, &object))
        .unwrap_or_else(|| failed(format!("ended with {status} and said no reason"))))
}

/// Addresses for a new attachment.
pub(super) async fn add(
    plugin: &str,
    config: &Config,
    request: &Request,
) -> Result<Given, CniError> {
    let printed = run(plugin, "ADD", config, request).await?;
    let read = || -> Result<Given, CniError> {
        let printed: Printed = serde_json::from_slice(&printed).map_err(|e| {
            let why = clean(&e.to_string());
            error(
                Code::Delegate,
                format!("IPAM plugin {plugin} printed no result: {why}"),
            )
        })?;
        if printed.ips.is_empty() {
            return Err(error(
                Code::Delegate,
                format!("IPAM plugin {plugin} gave no address"),
            ));
        }
        Ok(given(printed, config))
    };
    match read() {
        Ok(given) => Ok(given),
        Err(why) => {
            undo(plugin, config, request).await;
            Err(why)
        }
    }
}

/// A route goes by the router that it names, else by that of the configuration, else by that of the range.
fn given(printed: Printed, config: &Config) -> Given {
    let router = |to: IpNet| {
        let ranges = printed.ips.iter().filter_map(|ip| ip.gateway);
        let mut routers = config.gateways.iter().copied().chain(ranges);
        routers.find(|ip| same_family(*ip, to))
    };
    let route = |Route { dst, gw }: &Route| PortRoute {
        to: *dst,
        via: gw.or_else(|| router(*dst)),
    };
    let mut routes: Vec<PortRoute> = printed.routes.iter().map(route).collect();
    for route in &config.routes {
        if !routes.iter().any(|known| known.to == route.to) {
            routes.push(*route);
        }
    }
    Given {
        ips: printed.ips.iter().map(|ip| ip.address).collect(),
        routes,
        dns: printed.dns.filter(|dns| *dns != Dns::default()),
    }
}

/// Gives the addresses back.
pub(super) async fn del(plugin: &str, config: &Config, request: &Request) -> Result<(), CniError> {
    run(plugin, "DEL", config, request).await.map(drop)
}

/// Gives the addresses back after something else failed, which is what is told.
pub(super) async fn undo(plugin: &str, config: &Config, request: &Request) {
    if let Err(why) = del(plugin, config, request).await {
        eprintln!("meshd-cni: addresses are not given back: {}", why.message());
    }
}

/// Are they still ours?
pub(super) async fn check(
    plugin: &str,
    config: &Config,
    request: &Request,
) -> Result<(), CniError> {
    run(plugin, "CHECK", config, request).await.map(drop)
}

/// GC or STATUS, which a plugin of before 1.1 need not know.
pub(super) async fn forward(
    plugin: &str,
    config: &Config,
    request: &Request,
) -> Result<(), CniError> {
    match run(plugin, request.verb.word(), config, request).await {
        Err(why) if why.is(Code::IncompatibleVersion) || why.is(Code::InvalidEnvironment) => Ok(()),
        other => other.map(drop),
    }
}
