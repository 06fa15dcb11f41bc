//! The devices of a network: finding, making, marking, raising and removing them, whatever their kind.
//!
//! ```text
//!    make: name that is free -> device, down, with a MAC derived from the mark -> mark, no IPv6, no ARP -> (filter, bridge) -> up
//! ```
//!
//! Owns the order: a device is marked before it is raised, so that one that carries traffic is always known to be ours.
//! Refuses to touch a device without our mark, whatever it is called.

use super::QUEUE_LEN;
use super::failure::{Failure, failure, refused};
use super::marks::NetworkRole;
use super::netlink::{Body, Link};
use super::port::Workbench;
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Vni, escape};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;

/// Names tried for a device before giving up: more daemons than this do not share one namespace.
pub(super) const NAMES_MAX: u32 = 16;

/// `struct ifinfomsg` for a device, with the flags in `mask` set to those in `flags`.
pub(super) fn link_body(index: u32, flags: libc::c_int, mask: libc::c_int) -> Body {
    Body::new(0, 16)
        .set(4, &index.to_ne_bytes())
        .set(8, &flags.to_ne_bytes())
        .set(12, &mask.to_ne_bytes())
}

/// The request to make a device of `kind`, down, with `data` as its kind's attributes.
pub(super) fn creation(name: &str, mac: &[u8], mtu: u16, kind: &str, data: Body) -> Vec<u8> {
    Body::new(0, 16)
        .attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat())
        .attribute(libc::IFLA_ADDRESS, mac)
        .attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes())
        .attribute(libc::IFLA_TXQLEN, &QUEUE_LEN.to_ne_bytes())
        .nested(
            libc::IFLA_LINKINFO,
            Body::attributes()
                .attribute(libc::IFLA_INFO_KIND, kind.as_bytes())
                .nested(libc::IFLA_INFO_DATA, data),
        )
        .bytes()
}

impl Workbench<'_> {
    /// The network's device of this role, if it is there and still ours.
    pub(super) async fn find_device(
        &self,
        vni: Vni,
        role: NetworkRole,
    ) -> Result<Option<Link>, Failure> {
        let Some(index) = self.inventory.networks.of(vni, role) else {
            return Ok(None);
        };
        let found =
            self.own
                .link_by_index(index)
                .await
                .map_err(refused("read", &index, self.own_netns))?;
        Ok(found.filter(|link| self.marks.read_network(link) == Some((vni, role))))
    }

    /// Makes a device; it is down, and bears our mark. The kernel's answer EEXIST, with no name taken, is the caller's to
    /// explain.
    pub(super) async fn make_device(
        &self,
        vni: Vni,
        role: NetworkRole,
        mtu: u16,
        data: impl Fn() -> Body,
    ) -> Result<Link, Failure> {
        let step = format!("make the {}", role.shown());
        let mac = self.marks.network_mac(vni, role);
        for attempt in 0..NAMES_MAX {
            let name = role.name(vni, attempt);
            let refused = refused(&step, &name, self.own_netns);
            let look = || self.own.link_by_name(name.as_bytes());
            if look().await.map_err(&refused)?.is_some() {
                continue;
            }
            // A bridge made with an MTU goes on to follow its ports'; only one that is set later stays.
            let at_first = match role {
                NetworkRole::Bridge => mtu.saturating_sub(1),
                _ => mtu,
            };
            let body = creation(&name, &mac.0, at_first, role.kind(), data());
            match self
                .own
                .change(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)
                .await
            {
                Ok(()) => {}
                // Somebody else was faster with the name.
                Err(Errno::EEXIST) if look().await.map_err(&refused)?.is_some() => continue,
                Err(error) => return Err(refused(error)),
            }
            let made = look().await.map_err(&refused)?;
            let made = made
                .filter(|link| link.mac == Some(mac))
                .ok_or_else(|| refused(Errno::ENODEV))?;
            self.inventory.networks.add(vni, role, made.index);
            return Ok(made);
        }
        Err(failure(
            ErrorCode::InterfaceExists,
            format!(
                "all {NAMES_MAX} names such as {} are taken by devices of others",
                role.name(vni, 0)
            ),
        ))
    }

    /// Our mark, the MTU and the MAC; no ARP and no IPv6, so that the host itself neither speaks nor answers there.
    /// Changes only what differs.
    pub(super) async fn mark_device(
        &self,
        link: &Link,
        vni: Vni,
        role: NetworkRole,
        mtu: u16,
    ) -> Result<(), Failure> {
        let name = escape(&link.name);
        let (alias, mac) = (
            self.marks.of_network(vni),
            self.marks.network_mac(vni, role),
        );
        let mut body = link_body(link.index, libc::IFF_NOARP, libc::IFF_NOARP);
        let before = body.len();
        if link.alias != alias.as_bytes() {
            body = body.attribute(libc::IFLA_IFALIAS, alias.as_bytes());
        }
        if link.mtu != u32::from(mtu) {
            body = body.attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        }
        if role != NetworkRole::Vtap && link.mac != Some(mac) {
            body = body.attribute(libc::IFLA_ADDRESS, &mac.0);
        }
        if body.len() != before || link.flags & libc::IFF_NOARP.cast_unsigned() == 0 {
            self.own
                .change(libc::RTM_NEWLINK, 0, body.bytes())
                .await
                .map_err(refused(
                    "mark and set MTU and MAC of",
                    &name,
                    self.own_netns,
                ))?;
        }
        if !link.is_up() {
            self.silence(link).await;
        }
        Ok(())
    }

    /// No IPv6 address of the kernel's own making. Where there is no IPv6 there is nothing to silence.
    async fn silence(&self, link: &Link) {
        const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
        const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
        let inet6 =
            Body::attributes().attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        let family = u16::try_from(libc::AF_INET6).unwrap_or_default();
        let body = link_body(link.index, 0, 0)
            .nested(libc::IFLA_AF_SPEC, Body::attributes().nested(family, inet6));
        let _ = self.own.change(libc::RTM_NEWLINK, 0, body.bytes()).await;
        if let Ok(name) = str::from_utf8(&link.name) {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        }
    }

    /// Sets the network's device up or down, if it is not so already. Setting it down is what closes a network at once.
    pub(super) async fn set_device_up(
        &self,
        vni: Vni,
        role: NetworkRole,
        is_up: bool,
    ) -> Result<(), Failure> {
        let Some(link) = self.find_device(vni, role).await? else {
            let gone = format!("the {} of VNI {vni} is not there", role.shown());
            return if is_up {
                Err(failure(ErrorCode::DeviceMeddled, gone))
            } else {
                Ok(())
            };
        };
        let name = escape(&link.name);
        if link.is_up() != is_up {
            self.inventory.networks.unwatch(link.index);
            let flags = if is_up { libc::IFF_UP } else { 0 };
            let body = link_body(link.index, flags, libc::IFF_UP).bytes();
            let step = if is_up { "bring up" } else { "set down" };
            self.own
                .change(libc::RTM_NEWLINK, 0, body)
                .await
                .map_err(refused(step, &name, self.own_netns))?;
        }
        self.watch_device(link.index).await
    }

    /// As it is now it should be: what others change of it is told from now on.
    pub(super) async fn watch_device(&self, index: u32) -> Result<(), Failure> {
        let link =
            self.own
                .link_by_index(index)
                .await
                .map_err(refused("read", &index, self.own_netns))?;
        if let Some(link) = link {
            self.inventory.networks.watch(link);
        }
        Ok(())
    }

    /// Removes the network's device if it is still ours.
    pub(super) async fn remove_device(&self, vni: Vni, role: NetworkRole) -> Result<(), Failure> {
        let Some(link) = self.find_device(vni, role).await? else {
            if let Some(index) = self.inventory.networks.of(vni, role) {
                self.inventory.networks.forget(index);
                self.inventory.entries.forget(index);
            }
            return Ok(());
        };
        self.inventory.networks.forget(link.index);
        self.inventory.entries.forget(link.index);
        let body = link_body(link.index, 0, 0).bytes();
        match self.own.change(libc::RTM_DELLINK, 0, body).await {
            Ok(()) | Err(Errno::ENODEV) => Ok(()),
            Err(error) => {
                self.inventory.networks.add(vni, role, link.index);
                Err(refused("delete", &escape(&link.name), self.own_netns)(
                    error,
                ))
            }
        }
    }
}
