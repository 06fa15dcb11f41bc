//! `meshd doctor`: what meshd needs of this host, and how to get what is missing. Works without a daemon.
//!
//! Owns the checks, each a function from what was found to a [`Check`]; [`examine`] finds. Refuses to repair anything.

use crate::kernel::{self, Feature, UnderlayAddress};
use meshd_core::ident::escape;
use meshd_core::view::{Check, CheckState, Doctor};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// IPv6 and QUIC both need packets of this size (RFC 8200 §5, RFC 9000 §14).
const UNDERLAY_MTU_MIN: u32 = 1280;
/// A clock before this (2025-01-01) was never set: meshd is younger.
const CLOCK_MIN: Duration = Duration::from_secs(1_735_689_600);

/// Looks at this host. `daemon` says that one runs on this state, so that its port is not taken for somebody else's.
pub async fn examine(state: &Path, underlay: SocketAddr, daemon: bool) -> Doctor {
    let mut checks = vec![rights(
        &std::fs::read_to_string("/proc/self/status").unwrap_or_default(),
    )];
    checks.push(tun_device(
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map(drop),
    ));
    match kernel::try_features().await {
        Ok(features) => checks.extend(features.iter().map(feature)),
        Err(error) => checks.push(check(
            "kernel features",
            CheckState::Warn,
            format!("not tried: {error}"),
            "run `meshd doctor` as root",
        )),
    }
    checks.push(bridge_filter(kernel::bridge_filter().await));
    match kernel::underlay_addresses(underlay).await {
        Ok(found) => checks.extend(addresses(&found)),
        Err(error) => checks.push(check(
            "underlay addresses",
            CheckState::Fail,
            format!("cannot be read: {error}"),
            "let meshd open netlink sockets",
        )),
    }
    checks.push(udp_port(
        underlay,
        UdpSocket::bind(underlay).map(drop),
        daemon,
    ));
    checks.push(clock(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    ));
    checks.push(state_folder(
        state,
        std::fs::metadata(state).map(|meta| Folder {
            is_folder: meta.is_dir(),
            mode: meta.permissions().mode() & 0o777,
            owner: meta.uid(),
        }),
    ));
    Doctor { checks }
}

fn check(
    name: &str,
    state: CheckState,
    found: impl Into<String>,
    advice: impl Into<String>,
) -> Check {
    let advice = (state != CheckState::Ok).then(|| advice.into());
    Check {
        name: name.to_owned(),
        state,
        found: found.into(),
        advice,
    }
}

/// From `/proc/self/status`. Bits as in linux/capability.h.
fn rights(status: &str) -> Check {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const BPF: u64 = 1 << 39;
    let held = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let Some(held) = held else {
        return check(
            "rights",
            CheckState::Warn,
            "/proc/self/status does not tell",
            "mount /proc",
        );
    };
    let wanted = [
        ("CAP_NET_ADMIN", NET_ADMIN),
        ("CAP_SYS_ADMIN", SYS_ADMIN),
        ("CAP_BPF", BPF | SYS_ADMIN),
    ];
    let missing: Vec<_> = wanted
        .iter()
        .filter(|(_, bits)| held & bits == 0)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        check(
            "rights",
            CheckState::Ok,
            "CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_BPF",
            "",
        )
    } else {
        check(
            "rights",
            CheckState::Fail,
            format!("missing {}", missing.join(", ")),
            "run meshd as root, or give it AmbientCapabilities=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_BPF",
        )
    }
}

fn tun_device(opened: io::Result<()>) -> Check {
    match opened {
        Ok(()) => check("/dev/net/tun", CheckState::Ok, "opens", ""),
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => "run meshd as root",
                _ => "modprobe tun; in a container: --device /dev/net/tun",
            };
            check("/dev/net/tun", CheckState::Fail, error.to_string(), advice)
        }
    }
}

fn feature(feature: &Feature) -> Check {
    let name = format!("kernel: {}", feature.name);
    match &feature.tried {
        Ok(()) => check(&name, CheckState::Ok, "works", ""),
        Err(answer) => {
            let (state, use_of_it) = if feature.needed {
                (CheckState::Fail, "ports")
            } else {
                (CheckState::Warn, "the kernel's fast path")
            };
            check(
                &name,
                state,
                answer.clone(),
                format!(
                    "{use_of_it} needs a kernel with {}, or its module loaded",
                    feature.option
                ),
            )
        }
    }
}

fn bridge_filter(in_the_way: Option<String>) -> Check {
    let name = "bridged frames";
    let Some(by) = in_the_way else {
        let found = "are not filtered by the host's firewall";
        return check(name, CheckState::Ok, found, "");
    };
    check(
        name,
        CheckState::Warn,
        format!(
            "pass this host's firewall (br_netfilter), where {by}: frames that the kernel forwards could be lost there, so the \
             daemon forwards all of them itself, more slowly"
        ),
        "for the kernel's fast path: `sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0` if \
         nothing else here needs it; or let the rules accept what comes from bridges mb+, and set `bridge_filter = \"ignore\"` \
         under [kernel] in the config",
    )
}

fn addresses(found: &[UnderlayAddress]) -> Vec<Check> {
    let list = |wanted: &dyn Fn(&SocketAddr) -> bool| {
        let texts: Vec<_> = found
            .iter()
            .filter(|a| wanted(&a.address))
            .map(|a| format!("{} on {} (MTU {})", a.address, escape(&a.device), a.mtu))
            .collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    };
    let mut checks = vec![match list(&|_| true) {
        Some(all) => check("underlay addresses", CheckState::Ok, all, ""),
        None => check(
            "underlay addresses",
            CheckState::Fail,
            "none that another node could reach",
            "give this host an address other than loopback and link-local, on an interface that is up",
        ),
    }];
    checks.push(match list(&SocketAddr::is_ipv6) {
        Some(all) => check("IPv6 underlay", CheckState::Ok, all, ""),
        None => check(
            "IPv6 underlay",
            CheckState::Warn,
            "no global IPv6 address",
            "nothing, if all nodes have IPv4; nodes with IPv6 only cannot reach this one",
        ),
    });
    let narrow: Vec<_> = found
        .iter()
        .filter(|a| a.mtu < UNDERLAY_MTU_MIN)
        .map(|a| format!("{} has MTU {}", escape(&a.device), a.mtu))
        .collect();
    if !narrow.is_empty() {
        checks.push(check(
            "underlay MTU",
            CheckState::Fail,
            narrow.join(", "),
            format!("QUIC needs an MTU of {UNDERLAY_MTU_MIN} or more"),
        ));
    }
    checks
}

fn udp_port(underlay: SocketAddr, bound: io::Result<()>, daemon: bool) -> Check {
    match bound {
        Ok(()) => check(
            "UDP port",
            CheckState::Ok,
            format!("{underlay} is free"),
            "",
        ),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && daemon => check(
            "UDP port",
            CheckState::Ok,
            format!("{underlay} is held by the daemon"),
            "",
        ),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => check(
            "UDP port",
            CheckState::Fail,
            format!("{underlay} is taken by another process"),
            "see `ss -ulpn`; stop it, or set `listen` in meshd.toml to another port",
        ),
        Err(error) => check(
            "UDP port",
            CheckState::Fail,
            format!("{underlay}: {error}"),
            "set `listen` in meshd.toml to an address of this host",
        ),
    }
}

fn clock(since_epoch: Duration) -> Check {
    if since_epoch >= CLOCK_MIN {
        check("clock", CheckState::Ok, "was set", "")
    } else {
        check(
            "clock",
            CheckState::Fail,
            "says a time before 2025",
            "set it (NTP): invites and memberships expire by it",
        )
    }
}

struct Folder {
    is_folder: bool,
    mode: u32,
    owner: u32,
}

fn state_folder(path: &Path, found: io::Result<Folder>) -> Check {
    let shown = escape(path.as_os_str().as_bytes());
    let uid = nix::unistd::geteuid().as_raw();
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => check(
            "state folder",
            CheckState::Ok,
            format!("{shown} does not exist yet; `meshd init` or `meshd join` makes it"),
            "",
        ),
        Err(error) => check(
            "state folder",
            CheckState::Fail,
            format!("{shown}: {error}"),
            "let meshd read it",
        ),
        Ok(folder) if !folder.is_folder => check(
            "state folder",
            CheckState::Fail,
            format!("{shown} is no folder"),
            "move it away, or set --state",
        ),
        Ok(folder) if folder.owner != uid => check(
            "state folder",
            CheckState::Fail,
            format!("{shown} belongs to user {}", folder.owner),
            format!("run meshd as that user, or chown it to {uid}"),
        ),
        Ok(folder) if folder.mode & 0o077 != 0 => check(
            "state folder",
            CheckState::Fail,
            format!(
                "{shown} has mode {:o}: others can get at this node's keys",
                folder.mode
            ),
            format!("chmod 700 '{shown}'"),
        ),
        Ok(_) => check(
            "state folder",
            CheckState::Ok,
            format!("{shown}, for this user only"),
            "",
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn missing_rights_are_named() {
        assert_eq!(
            rights("Name:\tx\nCapEff:\t000001ffffffffff\n").state,
            CheckState::Ok
        );
        let none = rights("CapEff:\t0000000000000000\n");
        assert_eq!(
            (none.state, none.found.as_str()),
            (
                CheckState::Fail,
                "missing CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF"
            )
        );
        // CAP_SYS_ADMIN stands for CAP_BPF.
        assert_eq!(rights("CapEff:\t0000000000201000\n").state, CheckState::Ok);
    }

    #[test]
    fn a_port_held_by_our_own_daemon_is_fine_and_by_another_is_not() {
        let underlay = "[::]:7650".parse().unwrap();
        let taken = || Err(io::ErrorKind::AddrInUse.into());
        assert_eq!(udp_port(underlay, taken(), true).state, CheckState::Ok);
        assert_eq!(udp_port(underlay, taken(), false).state, CheckState::Fail);
    }

    #[test]
    fn whatever_is_not_well_comes_with_advice() {
        let narrow = [UnderlayAddress {
            address: "10.0.0.1:7650".parse().unwrap(),
            device: b"e\xff".to_vec(),
            mtu: 576,
        }];
        let mut checks = addresses(&[]);
        checks.extend(addresses(&narrow));
        checks.push(clock(Duration::ZERO));
        checks.push(tun_device(Err(io::ErrorKind::NotFound.into())));
        let folder = |mode| Folder {
            is_folder: true,
            mode,
            owner: nix::unistd::geteuid().as_raw(),
        };
        checks.push(state_folder(Path::new("/x"), Ok(folder(0o755))));
        assert!(
            checks
                .iter()
                .all(|check| (check.state == CheckState::Ok) == check.advice.is_none())
        );
        assert_eq!(
            checks
                .iter()
                .filter(|check| check.state == CheckState::Fail)
                .count(),
            5
        );
        assert_eq!(
            state_folder(Path::new("/x"), Ok(folder(0o700))).state,
            CheckState::Ok
        );
    }

    #[tokio::test]
    async fn this_host_is_examined_and_each_feature_is_tried() {
        let doctor = examine(Path::new("/nonexistent"), "[::1]:0".parse().unwrap(), false).await;
        for check in &doctor.checks {
            println!(
                "{:?} {}: {} {}",
                check.state,
                check.name,
                check.found,
                check.advice.as_deref().unwrap_or("")
            );
        }
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED, NOT TESTED: needs root to try the kernel's features");
            return;
        }
        for name in ["kernel: veth", "kernel: tap", "kernel: clsact and cls_bpf"] {
            assert!(
                doctor
                    .checks
                    .iter()
                    .any(|check| check.name == name && check.state == CheckState::Ok),
                "{name}"
            );
        }
    }
}
