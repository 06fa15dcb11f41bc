//! The bridge of a network: between its local ports, and to its VXLAN device.
//!
//! ```text
//!    mv<port> --+                          learning, flooding, STP, multicast snooping: all off.
//!    mv<port> --+-- mb<vni> -- mx<vni>     What the FDB does not know leaves nowhere.
//! ```
//!
//! Owns how bridge and ports are set, and reads both back. Refuses to decide what is a port of it.

use super::batch::Request;
use super::device::link_body;
use super::failure::{Failure, failure, refused};
use super::marks::NetworkRole;
use super::netlink::{self, Body, Link};
use super::port::Workbench;
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Vni, escape};
use nix::errno::Errno;

// enum IFLA_BR_* of linux/if_link.h.
const STP_STATE: u16 = 5;
const VLAN_FILTERING: u16 = 7;
const GROUP_FWD_MASK: u16 = 9;
const MCAST_SNOOPING: u16 = 23;
const NF_CALL_IPTABLES: u16 = 36;
const NF_CALL_IP6TABLES: u16 = 37;
const NF_CALL_ARPTABLES: u16 = 38;
const VLAN_DEFAULT_PVID: u16 = 39;

/// `IFLA_BRPORT_*` of linux/if_link.h that are off for a port of ours: hairpin, learning, three kinds of flooding,
/// isolation. Proxies and suppressors are off unless somebody turns them on.
const OFF: [u16; 10] = [4, 8, 9, 27, 30, 33, 10, 28, 32, 39];
/// Of those, what every kernel that we know takes.
const SET_OFF: usize = 6;
/// `IFLA_BRPORT_STATE`, of 802.1D; `BR_STATE_FORWARDING`.
const STATE: u16 = 1;
const FORWARDING: u8 = 3;
/// `IFLA_BRPORT_BACKUP_PORT`: the index of another port, zero for none.
const BACKUP_PORT: u16 = 34;

/// What is zero on a bridge of ours, with the bytes of its value.
const ZERO: [(u16, usize); 8] = [
    (STP_STATE, 4),
    // Frames to 01:80:c2:00:00:0X go nowhere (IEEE 802.1D §7.12.6).
    (GROUP_FWD_MASK, 2),
    (MCAST_SNOOPING, 1),
    // The host's firewall rules are for its own traffic.
    (NF_CALL_IPTABLES, 1),
    (NF_CALL_IP6TABLES, 1),
    (NF_CALL_ARPTABLES, 1),
    // Otherwise each static entry is made twice, the second time for VLAN 1.
    (VLAN_DEFAULT_PVID, 2),
    // A kernel without it refuses the attribute, so it is set only where it is on.
    (VLAN_FILTERING, 1),
];
/// Of those, how many are set on a new bridge.
const AT_FIRST: usize = 7;

fn zeros(settings: impl Iterator<Item = (u16, usize)>) -> Body {
    settings.fold(Body::attributes(), |body, (kind, len)| {
        body.attribute(kind, &vec![0; len])
    })
}

/// How a new bridge of ours is set.
pub(super) fn wanted() -> Body {
    zeros(ZERO.into_iter().take(AT_FIRST))
}

/// The settings that are not as we make them, in the order of their numbers.
pub(super) fn settings(data: &[u8]) -> Vec<u16> {
    let ours = |kind: &u16| ZERO.iter().any(|(ours, _)| ours == kind);
    let odd = netlink::attributes(data, 0)
        .filter(|(kind, value)| ours(kind) && value.iter().any(|&byte| byte != 0));
    let mut odd: Vec<_> = odd.map(|(kind, _)| kind).collect();
    odd.sort_unstable();
    odd
}

/// What of a bridge port is not as it should be, as attributes: flags that are on, another port in its stead, or that it
/// does not forward though its link is up.
pub(super) fn port_odds(port: &Link) -> Vec<u16> {
    let live = port.is_up() && port.has_carrier();
    let odd = netlink::attributes(&port.port_data, 0).filter(|(kind, value)| {
        let is_on = value.iter().any(|&byte| byte != 0);
        match *kind {
            STATE => live && value.first() != Some(&FORWARDING),
            BACKUP_PORT => is_on,
            kind => is_on && OFF.contains(&kind),
        }
    });
    let mut odd: Vec<_> = odd.map(|(kind, _)| kind).collect();
    odd.sort_unstable();
    odd
}

/// What a part of [`port_odds`] should be.
fn port_set(body: Body, odd: u16) -> Body {
    match odd {
        STATE => body.attribute(odd, &[FORWARDING]),
        BACKUP_PORT => body.attribute(odd, &0u32.to_ne_bytes()),
        _ => body.attribute(odd, &[0]),
    }
}

/// Puts `device` into the bridge, and right after that sets its flags as a port.
pub(super) fn join_requests(device: u32, bridge: u32) -> [Request; 2] {
    let enter = link_body(device, 0, 0).attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes());
    let flags = (OFF.iter().take(SET_OFF))
        .fold(Body::attributes(), |body, &flag| body.attribute(flag, &[0]));
    [enter, port_body(device, flags)].map(|body| Request {
        kind: libc::RTM_NEWLINK,
        flags: 0,
        body: body.bytes(),
    })
}

fn port_body(device: u32, flags: Body) -> Body {
    link_body(device, 0, 0).nested(
        libc::IFLA_LINKINFO,
        Body::attributes()
            .attribute(libc::IFLA_INFO_SLAVE_KIND, b"bridge")
            .nested(libc::IFLA_INFO_SLAVE_DATA, flags),
    )
}

impl Workbench<'_> {
    /// Makes the network's bridge, or adopts and repairs it; it is up then.
    pub(super) async fn make_bridge(&self, vni: Vni, mtu: u16) -> Result<Link, Failure> {
        let role = NetworkRole::Bridge;
        let bridge = match self.find_device(vni, role).await? {
            Some(bridge) => bridge,
            None => self.make_device(vni, role, mtu, wanted).await?,
        };
        self.inventory.networks.unwatch(bridge.index);
        self.mark_device(&bridge, vni, role, mtu).await?;
        let odd = settings(&bridge.data);
        if !odd.is_empty() {
            let repair = zeros(ZERO.into_iter().filter(|(kind, _)| odd.contains(kind)));
            let info = Body::attributes()
                .attribute(libc::IFLA_INFO_KIND, b"bridge")
                .nested(libc::IFLA_INFO_DATA, repair);
            let body = link_body(bridge.index, 0, 0).nested(libc::IFLA_LINKINFO, info);
            let name = escape(&bridge.name);
            self.own
                .change(libc::RTM_NEWLINK, 0, body.bytes())
                .await
                .map_err(refused("set the bridge", &name, self.own_netns))?;
        }
        self.set_device_up(vni, role, true).await?;
        self.find_device(vni, role).await?.ok_or_else(|| {
            failure(
                ErrorCode::DeviceMeddled,
                format!("the bridge of VNI {vni} went away meanwhile"),
            )
        })
    }

    /// Makes a device a port of the network's bridge, without learning and flooding. Changes only what differs.
    pub(super) async fn join_bridge(&self, vni: Vni, device: u32) -> Result<(), Failure> {
        let role = NetworkRole::Bridge;
        let bridge = self.find_device(vni, role).await?;
        let bridge = bridge
            .ok_or_else(|| failure(ErrorCode::DeviceMeddled, format!("VNI {vni} has no bridge")))?;
        let shown = format!("device {device} into {}", escape(&bridge.name));
        let refused = refused("put", &shown, self.own_netns);
        let link = self.own.link_by_index(device).await.map_err(&refused)?;
        let link = link.ok_or_else(|| refused(Errno::ENODEV))?;
        if link.master.is_some_and(|master| master != bridge.index) {
            return Err(failure(
                ErrorCode::DeviceForeign,
                format!(
                    "{} is a port of another bridge (device {}): take it out there",
                    escape(&link.name),
                    link.master.unwrap_or_default()
                ),
            ));
        }
        let odds = port_odds(&link);
        if link.master.is_none() || !odds.is_empty() {
            self.inventory.networks.unwatch(device);
            let [enter, mut flags] = join_requests(device, bridge.index);
            if !odds.is_empty() {
                // Somebody else set them so, hence this kernel has them.
                let set = odds.into_iter().fold(Body::attributes(), port_set);
                flags.body = port_body(device, set).bytes();
            }
            let failed = self.batch.send(&[enter, flags]).await;
            let failed = failed.map_err(|error| {
                failure(ErrorCode::KernelRefused, format!("put {shown}: {error}"))
            })?;
            if let Some((_, error)) = failed.first() {
                return Err(refused(*error));
            }
        }
        self.inventory.networks.join(device, vni, bridge.index);
        self.watch_device(device).await
    }

    /// Takes a device out of the network's bridge; its FDB entries go with that.
    pub(super) async fn leave_bridge(&self, vni: Vni, device: u32) -> Result<(), Failure> {
        let bridge = self.find_device(vni, NetworkRole::Bridge).await?;
        let shown = format!("device {device} out of the bridge of VNI {vni}");
        let refused = refused("take", &shown, self.own_netns);
        self.inventory.networks.leave(device);
        self.inventory.entries.forget_port(device);
        let link = self.own.link_by_index(device).await.map_err(&refused)?;
        let Some(link) = link.filter(|link| link.master == bridge.map(|bridge| bridge.index))
        else {
            return Ok(());
        };
        if link.master.is_some() {
            let body = link_body(device, 0, 0).attribute(libc::IFLA_MASTER, &0u32.to_ne_bytes());
            match self.own.change(libc::RTM_NEWLINK, 0, body.bytes()).await {
                Ok(()) | Err(Errno::ENODEV) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        if self.inventory.networks.holds(device) {
            self.watch_device(device).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_we_make_it_is_seen() {
        assert_eq!(settings(&wanted().bytes()), Vec::<u16>::new());
        let odd = Body::attributes()
            .attribute(MCAST_SNOOPING, &[1])
            .attribute(STP_STATE, &1u32.to_ne_bytes())
            // Timers and the like are not looked at.
            .attribute(19, &[9; 8]);
        assert_eq!(settings(&odd.bytes()), [STP_STATE, MCAST_SNOOPING]);
        let port = |flags: libc::c_int, state: u8| Link {
            flags: flags.cast_unsigned(),
            port_data: Body::attributes()
                .attribute(STATE, &[state])
                .attribute(8, &[1])
                .attribute(9, &[0])
                .attribute(BACKUP_PORT, &7u32.to_ne_bytes())
                .bytes(),
            ..Link::default()
        };
        let live = libc::IFF_UP | libc::IFF_RUNNING;
        assert_eq!(port_odds(&port(live, FORWARDING)), [8, BACKUP_PORT]);
        assert_eq!(port_odds(&port(live, 0)), [STATE, 8, BACKUP_PORT]);
        // Without a carrier the kernel itself closes the port.
        assert_eq!(port_odds(&port(libc::IFF_UP, 0)), [8, BACKUP_PORT]);
    }
}
