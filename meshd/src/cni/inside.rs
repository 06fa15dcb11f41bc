//! A look into a container's namespace: what CHECK compares.
//!
//! Owns a thread that enters the namespace and ends there. Refuses to change anything.

use super::error::{CniError, Code, error};
use super::request::is_ifname;
use ipnet::IpNet;
use meshd_core::command::PortRoute;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns};
use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// An interface, as it is.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) there: bool,
    pub(super) up: bool,
    pub(super) mac: Option<String>,
    pub(super) ips: Vec<IpAddr>,
    /// Routes through it with a router.
    pub(super) routes: Vec<PortRoute>,
}

/// True if the path is this process's own namespace: an interface is for a container.
pub(super) fn is_own(netns: &str) -> Result<bool, CniError> {
    let there = std::fs::metadata(netns).map_err(|e| {
        let code = match e.kind() {
            std::io::ErrorKind::NotFound => Code::UnknownContainer,
            _ => Code::Io,
        };
        error(code, format!("CNI_NETNS {netns}: {e}"))
    })?;
    let own = std::fs::metadata("/proc/self/ns/net");
    Ok(own.is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino())))
}

/// Looks at an interface in a namespace.
pub(super) fn look(netns: &str, ifname: &str) -> Result<Found, CniError> {
    debug_assert!(is_ifname(ifname));
    let failed = |why: String| error(Code::Io, format!("look into {netns}: {why}"));
    // Not blocking: a FIFO in the namespace's place must not hold us.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(netns)
        .map_err(|e| error(Code::UnknownContainer, format!("CNI_NETNS {netns}: {e}")))?;
    let name = ifname.to_owned();
    let looking = std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
        read(&name).map_err(|e| e.to_string())
    });
    let looked = looking
        .join()
        .map_err(|_| failed("it ended at once".to_owned()))?;
    looked.map_err(failed)
}

fn read(ifname: &str) -> std::io::Result<Found> {
    let mut found = Found::default();
    for entry in getifaddrs()?.filter(|entry| entry.interface_name == ifname) {
        found.there = true;
        found.up = entry.flags.contains(InterfaceFlags::IFF_UP);
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(link) = address
            .as_link_addr()
            .and_then(nix::sys::socket::LinkAddr::addr)
        {
            let text: Vec<String> = link.iter().map(|byte| format!("{byte:02x}")).collect();
            found.mac = Some(text.join(":"));
        } else if let Some(v4) = address.as_sockaddr_in() {
            found.ips.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            found.ips.push(v6.ip().into());
        }
    }
    // Of this thread, so of its namespace.
    let v4 = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    found
        .routes
        .extend(v4.lines().filter_map(|line| route_v4(line, ifname)));
    found
        .routes
        .extend(v6.lines().filter_map(|line| route_v6(line, ifname)));
    Ok(found)
}

/// A line of `/proc/net/route`: name, destination, gateway, flags and so on; addresses as the kernel has them in memory.
fn route_v4(line: &str, ifname: &str) -> Option<PortRoute> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ip = |at: usize| {
        let number = u32::from_str_radix(words.get(at)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    if *words.first()? != ifname {
        return None;
    }
    let (to, via, mask) = (ip(1)?, ip(2)?, ip(7)?);
    let prefix = u8::try_from(u32::from(mask).leading_ones()).ok()?;
    Some(PortRoute {
        to: IpNet::new(to.into(), prefix).ok()?,
        via: (!via.is_unspecified()).then_some(via.into()),
    })
}

/// A line of `/proc/net/ipv6_route`: destination, its prefix length, source, its length, next hop … name.
fn route_v6(line: &str, ifname: &str) -> Option<PortRoute> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ip = |at: usize| {
        Some(Ipv6Addr::from(
            u128::from_str_radix(words.get(at)?, 16).ok()?,
        ))
    };
    if *words.last()? != ifname {
        return None;
    }
    let via = ip(4)?;
    Some(PortRoute {
        to: IpNet::new(
            IpAddr::V6(ip(0)?),
            u8::from_str_radix(words.get(1)?, 16).ok()?,
        )
        .ok()?,
        via: (!via.is_unspecified()).then_some(via.into()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        let line = "eth0\t00000000\t0900000A\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        let shown = route_v4(line, "eth0").unwrap().to_string();
        #[cfg(target_endian = "little")]
        assert_eq!(shown, "0.0.0.0/0 via 10.0.0.9");
        assert_eq!(route_v4(line, "eth1"), None);
        let line = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                    fd000000000000000000000000000009 00000400 00000001 00000000 00000003     eth0";
        assert_eq!(
            route_v6(line, "eth0").unwrap().to_string(),
            "::/0 via fd00::9"
        );
        assert_eq!(route_v6("", "eth0"), None);
    }
}
