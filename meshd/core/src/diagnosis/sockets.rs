//! UDP sockets of this host, as `/proc/net/udp` and `udp6` list them: who holds a port, and what was lost for want of room.
//!
//! Owns the reading of these lines (Documentation/networking/proc_net_tcp.rst; `udp4_format_sock` of the kernel for the column
//! `drops`). A line that is none is skipped.

use super::{Finding, fail, size, warn, well};
use crate::view::Check;
use std::net::SocketAddr;

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpRow {
    /// Local port.
    pub port: u16,
    /// By which descriptors of processes name it. The kernel's own, as of a VXLAN device, may have one, too.
    pub inode: u64,
    /// Datagrams that found no room in its buffer.
    pub drops: u64,
}

/// The sockets of one such file.
#[must_use]
pub fn parse(table: &str) -> Vec<UdpRow> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, port) = words.get(1)?.rsplit_once(':')?;
        Some(UdpRow {
            port: u16::from_str_radix(port, 16).ok()?,
            inode: words.get(9)?.parse().ok()?,
            drops: words.last()?.parse().ok()?,
        })
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// How binding a port went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It is free.
    Free,
    /// Somebody has it: who, as `name (pid N)`, if that could be found.
    Taken(Option<String>),
    /// Another answer of the kernel.
    Refused(String),
}

/// The port of the endpoint. `daemon`: one of ours runs on this state, and may well have it.
#[must_use]
pub fn underlay_port(listen: SocketAddr, bound: &Bound, daemon: bool) -> Check {
    let name = "UDP port";
    match bound {
        Bound::Free => well(name, format!("{listen} is free")),
        Bound::Taken(_) if daemon => well(name, format!("{listen} is held by the daemon")),
        Bound::Taken(who) => fail(
            Finding::PortTaken,
            name,
            format!("{listen} is taken by {}", holder(who.as_ref())),
            format!(
                "stop it (`ss -ulpn 'sport = {0}'` shows it), or set `listen` under [underlay] to another port: `listen = \"[::]:{1}\"`",
                listen.port(),
                listen.port().checked_add(10).unwrap_or(7650)
            ),
        ),
        Bound::Refused(why) => fail(
            Finding::ListenUnusable,
            name,
            format!("{listen}: {why}"),
            "set `listen` under [underlay] to an address of this host, or to `[::]:7650`",
        ),
    }
}

fn holder(who: Option<&String>) -> String {
    who.map_or_else(
        || "another process (to see which, run this as root)".to_owned(),
        Clone::clone,
    )
}

/// The port of VXLAN: `who` holds it with a socket of a process, where the kernel should have it.
#[must_use]
pub fn vxlan_port(port: u16, who: &str) -> Check {
    fail(
        Finding::PortTaken,
        "VXLAN port",
        format!("UDP {port} is taken by {who}: the kernel cannot have it for VXLAN"),
        format!(
            "stop it (`ss -ulpn 'sport = {port}'`), or set `vxlan_port` under [underlay] to another one on all nodes"
        ),
    )
}

/// Buffers: what a socket may have at most (`net.core.rmem_max`, `wmem_max`), what is wanted, and whether the process may go
/// beyond (CAP_NET_ADMIN).
#[must_use]
pub fn buffers(rmem_max: u64, wmem_max: u64, wanted: u64, beyond: bool) -> Check {
    let limits = format!("rmem_max {}, wmem_max {}", size(rmem_max), size(wmem_max));
    if beyond || (rmem_max >= wanted && wmem_max >= wanted) {
        let how = if beyond {
            "; the daemon may go beyond"
        } else {
            ""
        };
        return well(
            "socket buffers",
            format!("{} wanted; {limits}{how}", size(wanted)),
        );
    }
    warn(
        Finding::BuffersSmall,
        "socket buffers",
        format!(
            "{} wanted, but {limits}, and without CAP_NET_ADMIN that is the most",
            size(wanted)
        ),
        format!(
            "`sysctl net.core.rmem_max={wanted} net.core.wmem_max={wanted}`, kept in /etc/sysctl.d/meshd.conf"
        ),
    )
}

/// Datagrams of the underlay's sockets that found no room.
#[must_use]
pub fn overflow(drops: u64) -> Option<Check> {
    (drops > 0).then(|| {
        warn(
            Finding::SocketOverflow,
            "socket overflow",
            format!("{drops} datagrams of peers were thrown away by the kernel because the daemon had not read those before"),
            "give the daemon more processor time (`CPUWeight=` of its unit), or see by `meshd top` what loads it",
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &str = "   sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
        42: 00000000000000000000000000000000:1DE2 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 98765 2 0000000000000000 17\n\
        43: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0\n\
        rubbish\n";

    #[test]
    fn ports_inodes_and_losses_are_read() {
        let sockets = parse(TABLE);
        assert_eq!(
            sockets,
            [
                UdpRow {
                    port: 7650,
                    inode: 98765,
                    drops: 17
                },
                UdpRow {
                    port: 4789,
                    inode: 0,
                    drops: 0
                }
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text: String) {
            let _ = parse(&text);
        }
    }

    #[test]
    fn a_port_of_our_own_daemon_is_well_and_of_another_is_told_with_its_name() {
        let listen = "[::]:7650".parse().unwrap();
        let taken = Bound::Taken(Some("python3 (pid 12)".to_owned()));
        assert_eq!(underlay_port(listen, &taken, true).code, None);
        let other = underlay_port(listen, &taken, false);
        assert_eq!(other.code, Some(Finding::PortTaken));
        assert!(other.found.contains("python3 (pid 12)"));
        assert_eq!(
            underlay_port(listen, &Bound::Refused("no".into()), false).code,
            Some(Finding::ListenUnusable)
        );
        let unseen = underlay_port(listen, &Bound::Taken(None), false);
        assert!(unseen.found.contains("run this as root"), "{unseen:?}");
        assert!(vxlan_port(4789, "nc (pid 7)").found.contains("nc (pid 7)"));
    }

    #[test]
    fn small_buffers_matter_only_to_who_may_not_go_beyond() {
        assert_eq!(buffers(212_992, 212_992, 4 << 20, true).code, None);
        assert_eq!(buffers(8 << 20, 8 << 20, 4 << 20, false).code, None);
        assert_eq!(
            buffers(212_992, 8 << 20, 4 << 20, false).code,
            Some(Finding::BuffersSmall)
        );
        assert!(overflow(0).is_none() && overflow(3).is_some());
    }
}
