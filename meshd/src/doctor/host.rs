//! What this host gives, without a daemon.

use super::{apart, clock as own_clock, holder, nic, unfinished, upstream};
use crate::kernel;
use meshd_core::config::Config;
use meshd_core::diagnosis::host::{Address, Disk, Folder};
use meshd_core::diagnosis::sockets::{self, Bound};
use meshd_core::diagnosis::{Finding, clock, fail, host, names, nic as offloads, warn};
use meshd_core::ident::escape;
use meshd_core::view::Check;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

/// Looks at this host. `daemon` says that one runs on this state, so that its port is not taken for somebody else's, and that it
/// tells its rights by itself.
pub(crate) async fn examine(
    state: &Path,
    config: &Config,
    daemon: bool,
    addresses: &io::Result<Vec<Address>>,
    until: Instant,
) -> Vec<Check> {
    let mut checks = Vec::new();
    if !daemon {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        checks.push(host::rights("this command", &status));
    }
    let tun = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    checks.push(host::tun_device(tun.map(drop).map_err(|error| {
        (
            error.kind() == io::ErrorKind::PermissionDenied,
            error.to_string(),
        )
    })));
    let trials = tokio::time::timeout_at(until.into(), features());
    checks.extend(
        trials
            .await
            .unwrap_or_else(|_| vec![unfinished("kernel features")]),
    );
    checks.push(host::bridge_filter(kernel::bridge_filter().await));
    match addresses {
        Ok(found) => checks.extend(host::addresses(found)),
        Err(error) => checks.push(fail(
            Finding::NoUnderlayAddress,
            "underlay addresses",
            format!("cannot be read: {error}"),
            "let meshd open netlink sockets",
        )),
    }
    let listen = config.underlay.listen;
    let bound = apart(until, move || bound(listen)).await;
    checks.push(match bound {
        Some(bound) => sockets::underlay_port(listen, &bound, daemon),
        None => unfinished("UDP port"),
    });
    if !config.underlay.trusted.is_empty() {
        let port = config.underlay.vxlan_port;
        // The kernel's socket of a VXLAN device is in the tables, too, and nobody's.
        let held = apart(until, move || holder::of_port(port)).await;
        checks.extend(held.flatten().map(|who| sockets::vxlan_port(port, &who)));
    }
    checks.push(clock::own(crate::clock::wall().0, own_clock::kept()));
    checks.push(state_folder(state));
    checks.extend(disk(state));
    let devices = devices(addresses.as_deref().unwrap_or_default());
    checks.extend(tables(&devices));
    checks.extend(offloads::checks(&nic::read(&devices)));
    if config.dns.enabled {
        let chosen: Vec<SocketAddr> = config.dns.upstream.iter().map(|server| server.0).collect();
        let own_choice = !chosen.is_empty();
        let asked = apart(until, move || upstream::ask(chosen)).await;
        checks.push(match asked {
            Some(servers) => names::upstream(&servers, own_choice),
            None => unfinished("names outside of the mesh"),
        });
    }
    checks
}

/// Addresses of the underlay, as the checks want them.
pub(crate) async fn addresses(listen: SocketAddr) -> io::Result<Vec<Address>> {
    let found = kernel::underlay_addresses(listen).await?;
    let shown = found.into_iter().map(|one| Address {
        address: one.address,
        device: escape(&one.device),
        mtu: one.mtu,
    });
    Ok(shown.collect())
}

async fn features() -> Vec<Check> {
    let features = match kernel::try_features().await {
        Ok(mut features) => kernel::try_devices().await.map(|more| {
            features.extend(more);
            features
        }),
        Err(error) => Err(error),
    };
    let features = match features {
        Ok(features) => features,
        Err(error) => {
            return vec![warn(
                Finding::RightsMissing,
                "kernel features",
                format!("not tried: {error}"),
                "run `meshd doctor` as root",
            )];
        }
    };
    let check = |feature: &kernel::Feature| {
        let tried = match &feature.tried {
            Ok(()) => Ok(()),
            Err(answer) => Err(answer.as_str()),
        };
        host::feature(feature.name, feature.option, feature.use_of, tried)
    };
    features.iter().map(check).collect()
}

fn bound(listen: SocketAddr) -> Bound {
    match UdpSocket::bind(listen) {
        Ok(_) => Bound::Free,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Bound::Taken(holder::of_port(listen.port()))
        }
        Err(error) => Bound::Refused(error.to_string()),
    }
}

fn state_folder(path: &Path) -> Check {
    let folder = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Folder::Absent,
        Err(error) => Folder::Hidden(error.to_string()),
        Ok(meta) if !meta.is_dir() => Folder::Other,
        Ok(meta) => Folder::There {
            mode: meta.permissions().mode() & 0o777,
            owner: meta.uid(),
        },
    };
    let uid = nix::unistd::geteuid().as_raw();
    host::state_folder(&escape(path.as_os_str().as_bytes()), &folder, uid)
}

/// Of the folder, or of the nearest one above it that is there.
fn disk(path: &Path) -> Option<Check> {
    let path = path.ancestors().find(|path| path.exists())?;
    let stat = statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    let disk = Disk {
        free: bytes(stat.blocks_available()),
        total: bytes(stat.blocks()),
        inodes: (stat.files() > 0).then(|| stat.files_available()),
        read_only: stat.flags().contains(FsFlags::ST_RDONLY),
    };
    Some(host::disk(&escape(path.as_os_str().as_bytes()), disk))
}

/// Interfaces of the underlay, each once.
fn devices(addresses: &[Address]) -> Vec<String> {
    let mut devices: Vec<_> = addresses.iter().map(|one| one.device.clone()).collect();
    devices.sort();
    devices.dedup();
    devices
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn tables(devices: &[String]) -> Vec<Check> {
    let filter = |name: &str| number(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
    let all = filter("all").unwrap_or_default();
    // The higher of the two counts (Documentation/networking/ip-sysctl.rst).
    let is_strict = |name: &&String| filter(name).unwrap_or_default().max(all) == 1;
    let strict: Vec<_> = devices.iter().filter(is_strict).cloned().collect();
    let mut checks: Vec<_> = host::reverse_path(&strict, devices.len())
        .into_iter()
        .collect();
    let conntrack = |name| number(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    if let (Some(count), Some(max)) = (conntrack("count"), conntrack("max")) {
        checks.extend(host::connection_table(count, max));
    }
    let limit = number("/proc/sys/net/ipv4/neigh/default/gc_thresh3");
    let stat = fs::read_to_string("/proc/thread-self/net/stat/arp_cache").ok();
    if let (Some(limit), Some((entries, overflows))) = (limit, stat.as_deref().and_then(neighbours))
    {
        checks.extend(host::neighbours(overflows, entries, limit));
    }
    checks
}

/// Entries, and how many found no place: columns `entries` and `table_fulls`, in hex, a line for each processor.
fn neighbours(stat: &str) -> Option<(u64, u64)> {
    let mut lines = stat.lines();
    let head: Vec<_> = lines.next()?.split_ascii_whitespace().collect();
    let fulls = head.iter().position(|name| *name == "table_fulls")?;
    let (mut entries, mut overflows) = (0, 0);
    for line in lines {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let hex = |nth: usize| u64::from_str_radix(words.get(nth)?, 16).ok();
        entries = hex(0)?;
        overflows += hex(fulls)?;
    }
    Some((entries, overflows))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::view::CheckState;
    use std::time::Duration;

    #[test]
    fn columns_of_the_neighbour_table_are_found_by_name() {
        let stat = "entries  allocs   table_fulls\n0000000a 00000001 00000002\n0000000a 00000001 00000003\n";
        assert_eq!(neighbours(stat), Some((10, 5)));
        assert_eq!(neighbours("entries allocs\n0a 01\n"), None);
    }

    #[tokio::test]
    async fn this_host_is_examined_and_each_feature_is_tried() {
        let mut config = Config::default();
        config.underlay.listen = "[::1]:0".parse().unwrap();
        config.dns.enabled = false;
        let until = Instant::now() + Duration::from_secs(30);
        let addresses = addresses(config.underlay.listen).await;
        let checks = examine(Path::new("/nonexistent"), &config, false, &addresses, until).await;
        for check in &checks {
            println!("{check:?}");
            assert_eq!(
                check.state == CheckState::Ok,
                check.code.is_none(),
                "{check:?}"
            );
        }
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED, NOT TESTED: needs root to try the kernel's features");
            return;
        }
        for name in ["kernel: veth", "kernel: tap", "kernel: clsact and cls_bpf"] {
            let is_it = |check: &Check| check.name == name && check.state == CheckState::Ok;
            assert!(checks.iter().any(is_it), "{name}");
        }
    }
}
