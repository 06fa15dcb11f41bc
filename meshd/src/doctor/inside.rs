//! Ports from inside of their namespaces: the far end's MTU, an answer of the mesh's name service, the resolver's file.

use super::{nic, upstream};
use meshd_core::diagnosis::names::{Asked, Inside};
use meshd_core::kind::PortKind;
use meshd_core::view::{Network, Port, PortState};
use nix::sched::{CloneFlags, setns};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Ports that are visited, the first ones.
const PORTS_MAX: usize = 16;
/// Of a resolv.conf, in bytes.
const FILE_MAX: usize = 64 << 10;

/// Visits ports that are ready and have a namespace, each on a thread of its own that ends in there. Behind an uplink or a macvtap
/// there is no namespace of its own: of the former the MTU of the host's interface is looked at, of the latter nothing.
pub(crate) fn visit(ports: &[Port], networks: &[Network], names: bool) -> Vec<Inside> {
    let ready = ports.iter().filter(|port| {
        port.state == PortState::Ready && !matches!(port.kind, PortKind::Macvtap(_))
    });
    let visits: Vec<_> = ready
        .filter_map(|port| {
            let network = networks.iter().find(|network| network.vni == port.vni)?;
            Some((path(port)?, inside(port, network), network.domain.clone()))
        })
        .take(PORTS_MAX)
        .map(|(path, told, domain)| std::thread::spawn(move || look(&path, told, &domain, names)))
        .collect();
    visits
        .into_iter()
        .filter_map(|visit| visit.join().ok().flatten())
        .collect()
}

/// The file of its namespace.
fn path(port: &Port) -> Option<PathBuf> {
    let bytes = match &port.netns.hex {
        Some(hex) => data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?,
        None => port.netns.text.clone().into_bytes(),
    };
    (!bytes.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(&bytes)))
}

fn inside(port: &Port, network: &Network) -> Inside {
    let name = port
        .domain_name
        .clone()
        .or_else(|| Some(port.name.as_ref()?.to_string()));
    Inside {
        port: format!(
            "port {}{}",
            port.id,
            name.map_or_else(String::new, |name| format!(" ({name})"))
        ),
        network: network.name.to_string(),
        ifname: port.ifname.text.clone(),
        lan: port.kind.uplink().is_some(),
        mtu: port.mtu.map(|mtu| (u32::from(mtu), 0)),
        asked: None,
        servers: None,
        service: network.service.clone(),
        netns: port.netns.text.clone(),
    }
}

fn look(path: &Path, mut told: Inside, domain: &str, names: bool) -> Option<Inside> {
    // Not blocking: the path may be a pipe by now.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .ok()?;
    if !told.lan {
        told.servers = servers(path, &file);
    }
    setns(&file, CloneFlags::CLONE_NEWNET).ok()?;
    let has = nic::mtu(&told.ifname)?;
    told.mtu = told.mtu.map(|(wanted, _)| (wanted, has));
    if names && !told.lan {
        let server = told.service.iter().find(|ip| has_family(**ip)).copied();
        told.asked = server.map(|server| {
            let answer = match upstream::one((server, 53).into(), domain) {
                Some(took) => Asked::Answered(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
                None => Asked::Silent,
            };
            (server, answer)
        });
    }
    Some(told)
}

/// Is there a route towards it, from where this thread is? Without one nobody there asks it.
fn has_family(server: IpAddr) -> bool {
    let any: IpAddr = match server {
        IpAddr::V4(_) => [0; 4].into(),
        IpAddr::V6(_) => [0u16; 8].into(),
    };
    std::net::UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect((server, 53)).is_ok())
}

/// Of the `resolv.conf` that processes there have: `ip netns` binds one of its own, a container has one in its root.
fn servers(path: &Path, netns: &File) -> Option<Vec<IpAddr>> {
    let own = path
        .parent()
        .filter(|parent| parent.ends_with("netns"))
        .and(path.file_name());
    let of_ip = own.map(|name| Path::new("/etc/netns").join(name).join("resolv.conf"));
    let file = match of_ip.filter(|file| file.exists()) {
        Some(file) => file,
        None => container(netns)?.join("root/etc/resolv.conf"),
    };
    let text = crate::bounded::text(&file, FILE_MAX).ok()?;
    Some(upstream::servers(&text))
}

/// The `/proc` folder of a process that is in this network namespace and has a mount namespace of its own.
fn container(netns: &File) -> Option<PathBuf> {
    let inode = netns.metadata().ok()?.ino();
    let of =
        |folder: &Path, which: &str| Some(fs::metadata(folder.join("ns").join(which)).ok()?.ino());
    // Of the host's own namespace any service with mounts of its own would do.
    if of(Path::new("/proc/self"), "net") == Some(inode) {
        return None;
    }
    let ours = of(Path::new("/proc/self"), "mnt")?;
    let mut folders = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    folders.find(|folder| {
        of(folder, "net") == Some(inode) && of(folder, "mnt").is_some_and(|mounts| mounts != ours)
    })
}
