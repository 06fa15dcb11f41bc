//! `meshd doctor`: what this host gives, read without changing it, and what the running daemon adds.

use super::args::Common;
use super::values::show_path;
use super::{Failure, Printed, show};
use crate::api::client::{Client, ClientError};
use crate::store::Store;
use meshd_core::view::{Check, CheckState, Doctor};
use std::fs;

/// Capabilities by their bit (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
/// Socket buffer that a QUIC endpoint of ours asks for, in bytes.
const UDP_BUFFER: u64 = 4 << 20;

pub(super) async fn run(common: &Common, client: &Client) -> Result<Printed, Failure> {
    let mut checks = vec![
        kernel(),
        rights(),
        tun(),
        namespaces(),
        udp_buffer("rmem_max"),
        udp_buffer("wmem_max"),
        state(common),
    ];
    match client.get::<Doctor>("/v1/doctor").await {
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

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or_default());
    let version = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    if version >= (5, 4) {
        check("kernel", CheckState::Ok, format!("Linux {release}"), None)
    } else {
        check(
            "kernel",
            CheckState::Warn,
            format!("Linux {release}"),
            Some("meshd is tested from 5.4 on"),
        )
    }
}

fn rights() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default();
    let missing: Vec<&str> = [
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
    ]
    .into_iter()
    .filter(|(bit, _)| bits >> bit & 1 == 0)
    .map(|(_, name)| name)
    .collect();
    if missing.is_empty() {
        check(
            "rights",
            CheckState::Ok,
            "CAP_NET_ADMIN and CAP_SYS_ADMIN, of this shell",
            None,
        )
    } else {
        let found = format!("{} missing, in this shell", missing.join(" and "));
        check(
            "rights",
            CheckState::Fail,
            found,
            Some("run `meshd run` as root, or give it these capabilities"),
        )
    }
}

fn tun() -> Check {
    match fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    {
        Ok(_) => check("TAP devices", CheckState::Ok, "/dev/net/tun opens", None),
        Err(error) => check(
            "TAP devices",
            CheckState::Fail,
            format!("/dev/net/tun: {error}"),
            Some("`modprobe tun`; in a container give it the device (--device /dev/net/tun)"),
        ),
    }
}

fn namespaces() -> Check {
    if !std::path::Path::new("/proc/self/ns/net").exists() {
        let advice = Some("a kernel with CONFIG_NET_NS, and /proc mounted");
        return check(
            "network namespaces",
            CheckState::Fail,
            "/proc/self/ns/net is not there",
            advice,
        );
    }
    let named = fs::read_dir("/run/netns")
        .map(Iterator::count)
        .unwrap_or_default();
    check(
        "network namespaces",
        CheckState::Ok,
        format!("there; {named} named in /run/netns"),
        None,
    )
}

fn udp_buffer(which: &str) -> Check {
    let name = format!("net.core.{which}");
    let value = fs::read_to_string(format!("/proc/sys/net/core/{which}"))
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match value {
        Some(value) if value >= UDP_BUFFER => {
            check(&name, CheckState::Ok, format!("{value} bytes"), None)
        }
        Some(value) => {
            let advice = format!(
                "sysctl -w {name}={UDP_BUFFER}; bursts are lost on fast links otherwise (root may exceed it)"
            );
            check(
                &name,
                CheckState::Warn,
                format!("{value} bytes"),
                Some(&advice),
            )
        }
        // A network namespace does not show it.
        None => check(
            &name,
            CheckState::Ok,
            "not shown in this network namespace",
            None,
        ),
    }
}

fn state(common: &Common) -> Check {
    let dir = show_path(&common.state);
    match (
        common.state.symlink_metadata(),
        Store::exists(&common.state),
    ) {
        (Err(error), _) if error.kind() == std::io::ErrorKind::PermissionDenied => check(
            "state",
            CheckState::Warn,
            format!("{dir} cannot be read by this user"),
            Some("try as root"),
        ),
        (Ok(_), true) => check("state", CheckState::Ok, format!("{dir} has a state"), None),
        _ => check(
            "state",
            CheckState::Warn,
            format!("{dir} has no state yet"),
            Some("`meshd init` makes a mesh, `meshd join TOKEN` joins one"),
        ),
    }
}
