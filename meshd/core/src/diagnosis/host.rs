//! What this host gives: rights, kernel, addresses, state folder, disk, descriptors, and the host's own filters and tables.

use super::{Finding, fail, list, size, warn, well};
use crate::view::Check;
use std::net::SocketAddr;

/// IPv6 and QUIC both need packets of this size (RFC 8200 §5, RFC 9000 §14).
const UNDERLAY_MTU_MIN: u32 = 1280;
/// Free bytes below which changes are about to be refused, and from which it is time to look.
const DISK_BAD: u64 = 16 << 20;
const DISK_LOW: u64 = 256 << 20;
/// Free inodes.
const INODES_LOW: u64 = 1000;

/// Capabilities that meshd uses (bits as in linux/capability.h), and what falls away without.
const RIGHTS: [(&str, u64, &str); 4] = [
    (
        "CAP_NET_ADMIN",
        1 << 12,
        "ports, bridges, VXLAN and its fence: nothing works",
    ),
    (
        "CAP_SYS_ADMIN",
        1 << 21,
        "entering the namespaces of containers: no port in another namespace",
    ),
    (
        "CAP_BPF",
        1 << 39 | 1 << 21,
        "the gate's program: no fast path in the kernel",
    ),
    (
        "CAP_NET_RAW",
        1 << 13,
        "pings of this doctor: it cannot tell a blocked port from a dead host",
    ),
];

/// Of `/proc/PID/status`, for whom: `this command`, `the daemon`.
#[must_use]
pub fn rights(whose: &str, status: &str) -> Check {
    let Some(held) = held(status) else {
        return warn(
            Finding::RightsMissing,
            "rights",
            "/proc does not tell them",
            "mount /proc",
        );
    };
    let missing: Vec<_> = RIGHTS
        .iter()
        .filter(|(_, bits, _)| held & bits == 0)
        .collect();
    if missing.is_empty() {
        let names: Vec<_> = RIGHTS.iter().map(|(name, ..)| name).collect();
        return well("rights", format!("{whose} has {}", list(&names)));
    }
    let names: Vec<_> = missing.iter().map(|(name, ..)| *name).collect();
    let lost: Vec<_> = missing
        .iter()
        .map(|(name, _, lost)| format!("without {name} {lost}"))
        .collect();
    let found = format!("{whose} lacks {}; {}", list(&names), lost.join("; "));
    let advice = format!(
        "run it as root, or by the unit of `meshd install`; in a unit of your own: AmbientCapabilities={}",
        names.join(" ")
    );
    match names.as_slice() {
        ["CAP_NET_RAW"] => warn(Finding::RightsMissing, "rights", found, advice),
        _ => fail(Finding::RightsMissing, "rights", found, advice),
    }
}

/// Does it have CAP_NET_ADMIN, by `/proc/PID/status`?
#[must_use]
pub fn may_net_admin(status: &str) -> bool {
    held(status).is_some_and(|held| held & 1 << 12 != 0)
}

fn held(status: &str) -> Option<u64> {
    let caps = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(caps.trim(), 16).ok()
}

/// How `/dev/net/tun` opened: `Err` has whether it was refused, and the kernel's answer.
#[must_use]
pub fn tun_device(opened: Result<(), (bool, String)>) -> Check {
    match opened {
        Ok(()) => well("/dev/net/tun", "opens"),
        Err((refused, error)) => {
            let advice = match refused {
                true => "run meshd as root",
                false => "modprobe tun; in a container: --device /dev/net/tun",
            };
            fail(Finding::TunMissing, "/dev/net/tun", error, advice)
        }
    }
}

/// What a feature of the kernel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UseOf {
    /// Ports: nothing works without it.
    Ports,
    /// The kernel's fast path.
    FastPath,
    /// Host devices of this kind.
    Devices,
}

/// A feature that was tried; `tried` has the kernel's answer.
#[must_use]
pub fn feature(name: &str, option: &str, use_of: UseOf, tried: Result<(), &str>) -> Check {
    let name = format!("kernel: {name}");
    let Err(answer) = tried else {
        return well(name, "works");
    };
    let for_what = match use_of {
        UseOf::Ports => "ports",
        UseOf::FastPath => "the kernel's fast path",
        UseOf::Devices => "such a [[device]] in the config",
    };
    let advice = format!("{for_what} needs a kernel with {option}, or its module loaded");
    match use_of {
        UseOf::Ports => fail(Finding::KernelLacks, name, answer, advice),
        UseOf::FastPath | UseOf::Devices => warn(Finding::KernelLacks, name, answer, advice),
    }
}

/// What of the host's firewall stands in the way of bridged frames.
#[must_use]
pub fn bridge_filter(in_the_way: Option<String>) -> Check {
    let name = "bridged frames";
    let Some(by) = in_the_way else {
        return well(name, "are not filtered by the host's firewall");
    };
    warn(
        Finding::BridgeFilter,
        name,
        format!(
            "pass this host's firewall (br_netfilter), where {by}: frames that the kernel forwards could be lost there, so the \
             daemon forwards all of them itself, more slowly"
        ),
        "for the kernel's fast path: `sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0` if \
         nothing else here needs it; or let the rules accept what comes from bridges mb+, and set `bridge_filter = \"ignore\"` \
         under [kernel] in the config",
    )
}

/// An address of the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// With the port of the endpoint.
    pub address: SocketAddr,
    /// Its device, as shown.
    pub device: String,
    /// Of that device, in bytes.
    pub mtu: u32,
}

/// Is there an address to be reached by, and are its devices wide enough?
#[must_use]
pub fn addresses(found: &[Address]) -> Vec<Check> {
    let texts: Vec<_> = found
        .iter()
        .map(|a| format!("{} on {} (MTU {})", a.address, a.device, a.mtu))
        .collect();
    let mut checks = vec![match found.is_empty() {
        false => well("underlay addresses", texts.join(", ")),
        true => fail(
            Finding::NoUnderlayAddress,
            "underlay addresses",
            "none that another node could reach",
            "give this host an address other than loopback and link-local, on an interface that is up: `ip addr add ADDRESS/LEN dev IFNAME`",
        ),
    }];
    if !found.iter().any(|a| a.address.is_ipv6()) {
        checks.push(well(
            "IPv6 underlay",
            "no global IPv6 address: nodes with IPv6 only cannot reach this one",
        ));
    }
    let narrow: Vec<_> = found.iter().filter(|a| a.mtu < UNDERLAY_MTU_MIN).collect();
    if let [first, ..] = narrow.as_slice() {
        let texts: Vec<_> = narrow
            .iter()
            .map(|a| format!("{} has MTU {}", a.device, a.mtu))
            .collect();
        checks.push(fail(
            Finding::UnderlayMtuSmall,
            "underlay MTU",
            list(&texts),
            format!(
                "QUIC needs an MTU of {UNDERLAY_MTU_MIN} or more: `ip link set dev {} mtu 1500`",
                first.device
            ),
        ));
    }
    checks
}

/// The state folder, as stat(2) has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// Nothing there.
    Absent,
    /// It cannot be looked at.
    Hidden(String),
    /// Something else than a folder.
    Other,
    /// A folder.
    There {
        /// Permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
}

/// Can user `uid`, and nobody else, use it? `path` as it is shown.
#[must_use]
pub fn state_folder(path: &str, folder: &Folder, uid: u32) -> Check {
    let name = "state folder";
    let bad = |found: String, advice: String| fail(Finding::StateFolder, name, found, advice);
    match folder {
        Folder::Absent => well(
            name,
            format!("{path} does not exist yet; `meshd init` or `meshd join` makes it"),
        ),
        Folder::Hidden(why) => bad(
            format!("{path}: {why}"),
            "let meshd read it, or set --state".to_owned(),
        ),
        Folder::Other => bad(
            format!("{path} is no folder"),
            "move it away, or set --state".to_owned(),
        ),
        Folder::There { owner, .. } if *owner != uid => bad(
            format!("{path} belongs to user {owner}"),
            format!("run meshd as that user, or `chown -R {uid} '{path}'`"),
        ),
        Folder::There { mode, .. } if mode & 0o077 != 0 => bad(
            format!("{path} has mode {mode:o}: others can get at this node's keys"),
            format!("chmod 700 '{path}'"),
        ),
        Folder::There { .. } => well(name, format!("{path}, for this user only")),
    }
}

/// The file system of the state folder (statvfs(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that may be used.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Inodes that may be used; `None` where the file system does not count them.
    pub inodes: Option<u64>,
    /// Mounted so that nothing can be written.
    pub read_only: bool,
}

/// Is there room for what must be remembered?
#[must_use]
pub fn disk(path: &str, disk: Disk) -> Check {
    let name = "disk";
    if disk.read_only {
        return fail(
            Finding::StateUnkept,
            name,
            format!("the file system of {path} is mounted read-only"),
            "mount it writable (`mount -o remount,rw`), or set --state to a folder elsewhere",
        );
    }
    let left = format!("{} of {} free", size(disk.free), size(disk.total));
    let advice = format!("make room where {path} is: `df -h '{path}'`, `du -xhd1`");
    if disk.free < DISK_BAD {
        return fail(Finding::DiskLow, name, left, advice);
    }
    if let Some(inodes) = disk.inodes.filter(|inodes| *inodes < INODES_LOW) {
        return warn(
            Finding::DiskLow,
            name,
            format!("{inodes} inodes left"),
            advice,
        );
    }
    // A small disk is not a full one.
    match disk.free < DISK_LOW && disk.free < disk.total / 10 {
        true => warn(Finding::DiskLow, name, left, advice),
        false => well(name, left),
    }
}

/// Files that a process has open, and may have.
#[must_use]
pub fn descriptors(open: u64, limit: u64) -> Check {
    let found = format!("{open} of {limit} open");
    match open.saturating_mul(10) >= limit.saturating_mul(8) {
        true => warn(
            Finding::DescriptorsLow,
            "descriptors",
            found,
            "`LimitNOFILE=65536` under [Service] (`systemctl edit meshd`), or `ulimit -n 65536` before `meshd run`",
        ),
        false => well("descriptors", found),
    }
}

/// Interfaces of the underlay on which the reverse path is checked strictly (`rp_filter` is 1, of all or of it), and how many
/// interfaces the underlay has.
#[must_use]
pub fn reverse_path(strict: &[String], interfaces: usize) -> Option<Check> {
    let [first, ..] = strict else { return None };
    if interfaces < 2 {
        return None;
    }
    Some(warn(
        Finding::ReversePath,
        "reverse path",
        format!(
            "rp_filter is strict on {}, and the underlay has {interfaces} interfaces: packets that come in by another one than the answer would take are dropped",
            list(strict)
        ),
        format!("`sysctl net.ipv4.conf.{first}.rp_filter=2`, and the same for `all` if that is 1"),
    ))
}

/// A table of the kernel, with its limit.
#[must_use]
pub fn connection_table(count: u64, max: u64) -> Option<Check> {
    let full = max > 0 && count.saturating_mul(10) >= max.saturating_mul(9);
    full.then(|| {
        warn(
            Finding::ConntrackFull,
            "connection table",
            format!("{count} of {max} entries: the kernel drops packets of new connections when it is full"),
            format!(
                "`sysctl net.netfilter.nf_conntrack_max={}`, or leave the underlay out: `nft add rule inet raw prerouting udp dport 7650 notrack`",
                max.saturating_mul(2)
            ),
        )
    })
}

/// Entries of the neighbour table that found no place since the host started, by IPv4 and IPv6.
#[must_use]
pub fn neighbours(overflows: u64, entries: u64, limit: u64) -> Option<Check> {
    (overflows > 0 && entries.saturating_mul(2) >= limit).then(|| {
        warn(
            Finding::NeighboursFull,
            "neighbour table",
            format!("{entries} of {limit} entries; {overflows} addresses found no place so far"),
            format!("`sysctl net.ipv4.neigh.default.gc_thresh3={0} net.ipv6.neigh.default.gc_thresh3={0}`", limit.saturating_mul(4)),
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::view::CheckState;

    #[test]
    fn missing_rights_are_named_with_what_falls_away() {
        let of = |caps: &str| rights("this command", &format!("Name:\tx\nCapEff:\t{caps}\n"));
        assert_eq!(of("000001ffffffffff").state, CheckState::Ok);
        let none = of("0000000000000000");
        assert_eq!(
            (none.state, none.code),
            (CheckState::Fail, Some(Finding::RightsMissing))
        );
        assert!(
            none.found
                .contains("CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF, CAP_NET_RAW")
                && none.found.contains("no fast path")
        );
        // CAP_SYS_ADMIN stands for CAP_BPF; without pings the rest goes on.
        assert_eq!(of("0000000000201000").state, CheckState::Warn);
    }

    #[test]
    fn whatever_is_not_well_comes_with_advice_and_a_code() {
        let narrow = [Address {
            address: "10.0.0.1:7650".parse().unwrap(),
            device: "e0".to_owned(),
            mtu: 576,
        }];
        let full = Disk {
            free: 1 << 20,
            total: 1 << 30,
            inodes: None,
            read_only: false,
        };
        let mut checks = addresses(&[]);
        checks.extend(addresses(&narrow));
        checks.extend([
            tun_device(Err((false, "not there".to_owned()))),
            state_folder(
                "/x",
                &Folder::There {
                    mode: 0o755,
                    owner: 0,
                },
                0,
            ),
            state_folder(
                "/x",
                &Folder::There {
                    mode: 0o700,
                    owner: 7,
                },
                0,
            ),
            disk("/x", full),
            disk(
                "/x",
                Disk {
                    read_only: true,
                    ..full
                },
            ),
            disk(
                "/x",
                Disk {
                    free: 50 << 20,
                    total: 10 << 30,
                    ..full
                },
            ),
            disk(
                "/x",
                Disk {
                    free: 1 << 40,
                    inodes: Some(3),
                    ..full
                },
            ),
            descriptors(900, 1024),
        ]);
        checks.extend(reverse_path(&["und0".to_owned()], 2));
        checks.extend(connection_table(95, 100));
        checks.extend(neighbours(3, 1000, 1024));
        for check in &checks {
            let well = check.state == CheckState::Ok;
            assert_eq!(
                (well, well),
                (check.advice.is_none(), check.code.is_none()),
                "{check:?}"
            );
        }
        let bad = checks
            .iter()
            .filter(|check| check.state != CheckState::Ok)
            .count();
        assert_eq!(bad, 13, "{checks:?}");
    }

    #[test]
    fn what_is_enough_is_not_told() {
        assert_eq!(
            disk(
                "/x",
                Disk {
                    free: 100 << 20,
                    total: 200 << 20,
                    inodes: Some(5000),
                    read_only: false
                }
            )
            .code,
            None
        );
        assert_eq!(descriptors(30, 1024).code, None);
        assert_eq!(
            state_folder(
                "/x",
                &Folder::There {
                    mode: 0o700,
                    owner: 0
                },
                0
            )
            .code,
            None
        );
        assert!(reverse_path(&["und0".to_owned()], 1).is_none());
        assert!(connection_table(10, 100).is_none() && connection_table(10, 0).is_none());
        assert!(neighbours(3, 10, 1024).is_none());
    }

    #[test]
    fn a_kernel_that_lacks_what_ports_need_is_a_fault_and_else_a_warning() {
        assert_eq!(
            feature("veth", "CONFIG_VETH", UseOf::Ports, Err("no")).state,
            CheckState::Fail
        );
        assert_eq!(
            feature("vxlan", "CONFIG_VXLAN", UseOf::FastPath, Err("no")).state,
            CheckState::Warn
        );
        assert_eq!(
            feature("vxlan", "CONFIG_VXLAN", UseOf::FastPath, Ok(())).state,
            CheckState::Ok
        );
    }
}
