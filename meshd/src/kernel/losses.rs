//! What the kernel drops before meshd sees it: frames in front of a full TAP, packets in front of a full socket.
//!
//! Owns the reading. The kernel counts since the device or the socket is there, so numbers may be of an earlier run, too.

use super::Kernel;
use super::marks::NetworkRole;
use super::netlink::{attributes, word};
use super::netns::Netlink;
use meshd_core::ident::{PortId, Vni};
use nix::errno::Errno;
use std::collections::BTreeMap;

/// What the kernel has dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelLosses {
    /// Frames of ports for which the TAP had no room.
    pub ports: BTreeMap<PortId, u64>,
    /// Frames that came by a network's VXLAN device, and found no room.
    pub networks: BTreeMap<Vni, u64>,
    /// Packets of the underlay that a socket had no room for.
    pub sockets: u64,
    /// Packets that the fence did not let in.
    pub fenced: u64,
}

/// `tx_dropped` in `struct rtnl_link_stats64`: it stands behind seven other counters of eight bytes.
const TX_DROPPED: usize = 7 * 8;

/// A device and what it has not sent on, of the body of RTM_NEWLINK.
fn unsent(body: &[u8]) -> Option<(u32, u64)> {
    let index = word(body.get(4..)?)?;
    let mut stats = attributes(body, 16);
    let (_, stats) = stats.find(|(kind, _)| *kind == libc::IFLA_STATS64)?;
    let dropped = stats.get(TX_DROPPED..)?.first_chunk::<8>()?;
    Some((index, u64::from_ne_bytes(*dropped)))
}

/// Drops of the sockets at these UDP ports, of the text of `/proc/net/udp` or `udp6`.
fn socket_drops(text: &str, ports: &[u16]) -> u64 {
    // `sl local_address rem_address st … ref pointer drops`, where an address is `hex:hex`.
    let of = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (_, port) = words.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let drops = words.next_back()?.parse::<u64>().ok()?;
        ports.contains(&port).then_some(drops)
    };
    text.lines().filter_map(of).sum()
}

impl Netlink {
    /// What each device has not sent on.
    async fn unsent(&self) -> Result<BTreeMap<u32, u64>, Errno> {
        let body = super::netlink::Body::new(0, 16);
        let all = self.ask(libc::RTM_GETLINK, true, body.bytes()).await?;
        Ok(all.iter().filter_map(|body| unsent(body)).collect())
    }
}

impl Kernel {
    /// What the kernel has dropped on its way to meshd; `udp`: the ports of the underlay's sockets. What cannot be read is 0.
    pub async fn losses(&self, udp: &[u16]) -> KernelLosses {
        let inner = &self.0;
        let unsent = inner.own.unsent().await.unwrap_or_default();
        let of = |index: Option<u32>| index.and_then(|index| unsent.get(&index)).copied();
        let ports = inner.inventory.ports().into_iter();
        let ports = ports.filter_map(|port| Some((port, of(inner.inventory.of(port).tap)?)));
        let networks = self.networks().into_iter();
        let networks = networks.filter_map(|vni| {
            let tap = inner.inventory.networks.of(vni, NetworkRole::Vtap);
            Some((vni, of(tap)?))
        });
        let (ports, networks) = (ports.collect(), networks.collect());
        let mut sockets = 0;
        for file in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
            let text = tokio::fs::read_to_string(file).await.unwrap_or_default();
            sockets += socket_drops(&text, udp);
        }
        let fenced = match self.fence().read().await {
            Ok(super::FenceReading::Whole(state)) => state.dropped,
            _ => 0,
        };
        KernelLosses {
            ports,
            networks,
            sockets,
            fenced,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const UDP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  527: 00000000000000000000000000000000:1DE2 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 70155 2 0000000000000000 17
 9527: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 70156 2 0000000000000000 5
";

    #[test]
    fn drops_of_our_sockets_are_counted_and_no_others() {
        assert_eq!(socket_drops(UDP6, &[7650]), 17);
        assert_eq!(socket_drops(UDP6, &[7650, 53]), 22);
        assert_eq!(socket_drops(UDP6, &[]), 0);
        assert_eq!(socket_drops("nonsense\n:\n a b", &[7650]), 0);
    }

    #[test]
    fn a_device_that_tells_no_counters_has_none() {
        assert_eq!(unsent(&[]), None);
        assert_eq!(unsent(&[0; 40]), None);
    }
}
