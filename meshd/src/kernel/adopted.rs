//! A bridge that somebody else made as a port: all that is in it joins a network.
//!
//! ```text
//!   eth1, vnet0, veth… --- br0 (theirs) --- mt<port> (ours) ----> descriptor
//! ```
//!
//! Owns our one device in it, and that this disturbs nobody: it is made with the bridge's MTU, since a bridge takes the least of its
//! ports', and with a MAC above all others, since a bridge takes the lowest (so does libvirt). Both would change what is not ours.
//! Refuses to make, set, rename or delete a bridge: released is it by deleting our device, and by nothing else.

use super::failure::{Failure, failure, refused, refused_rt};
use super::marks::{self, Role};
use super::netlink::Link;
use super::port::{Workbench, change};
use super::{Mended, Wired};
use meshd_core::code::ErrorCode;
use meshd_core::command::PortWiring;
use meshd_core::ident::{IfName, MacAddr, escape};
use netlink_packet_route::link::LinkAttribute;
use nix::errno::Errno;

/// The first byte of our device's MAC: locally administered, and as high as an address of a station can be.
const HIGH: u8 = 0xfe;

impl Workbench<'_> {
    /// Makes or adopts our place in a bridge.
    pub(super) async fn wire_bridge(&self, wiring: &PortWiring) -> Result<Wired, Failure> {
        let id = wiring.port.id;
        // Before the look, so that none comes unheard after it.
        self.inventory.set_awaited(id, &wiring.port.asked_ifname);
        let bridge = self.foreign_bridge(wiring).await?;
        let as_bridge = of_mtu(wiring, &bridge);
        let alias = self.marks.of(id);
        let opened = self.open_tap(&as_bridge, &alias).await?;
        let device = self.find(id, Role::Tap).await?.ok_or_else(|| {
            failure(
                ErrorCode::DeviceMeddled,
                "its TAP was deleted by somebody else",
            )
        })?;
        self.raise_host_end(&device, &alias, as_bridge.mtu.into())
            .await?;
        self.enter_bridge(wiring, &device, &bridge).await?;
        self.inventory.set_adopted(id, device.index, bridge.index);
        let bridge = self.foreign_bridge(wiring).await?;
        Ok(Wired {
            ifname: IfName::new(&bridge.name)
                .map_err(|error| failure(ErrorCode::InterfaceNameInvalid, error))?,
            mac: MacAddr::default(),
            tap: opened.tap,
            more: opened.more,
            file: None,
        })
    }

    /// Mends our place in a bridge.
    pub(super) async fn mend_bridge(&self, wiring: &PortWiring) -> Result<Mended, Failure> {
        let id = wiring.port.id;
        let bridge = self.foreign_bridge(wiring).await?;
        let device = self.find(id, Role::Tap).await?;
        let device =
            device.ok_or_else(|| failure(ErrorCode::DeviceMeddled, "its TAP is not there"))?;
        let mut mended = Vec::new();
        if device.master != Some(bridge.index) {
            mended.push(format!("it was not in {}", escape(&bridge.name)));
        }
        if !device.is_up() {
            mended.push("it was down".to_owned());
        }
        let alias = self.marks.of(id);
        self.raise_host_end(&device, &alias, of_mtu(wiring, &bridge).mtu.into())
            .await?;
        self.enter_bridge(wiring, &device, &bridge).await?;
        self.inventory.set_adopted(id, device.index, bridge.index);
        Ok(Mended {
            ifname: IfName::new(&bridge.name)
                .map_err(|error| failure(ErrorCode::InterfaceNameInvalid, error))?,
            mac: MacAddr::default(),
            mended,
        })
    }

    /// The bridge that is meant, if a port of ours may be put into it.
    async fn foreign_bridge(&self, wiring: &PortWiring) -> Result<Link, Failure> {
        let asked = &wiring.port.asked_ifname;
        let found = self.own.link_by_name(asked.as_bytes()).await;
        let found = found.map_err(refused("read", asked, self.own_netns))?;
        let Some(link) = found else {
            return Err(failure(
                ErrorCode::InterfaceMissing,
                format!(
                    "there is no bridge \"{asked}\" in {} yet; it joins the network once whoever owns it has made it",
                    self.own_netns.shown()
                ),
            ));
        };
        if link.kind != b"bridge" {
            let kind = match link.kind.as_slice() {
                b"" => "a plain interface".to_owned(),
                kind => format!("of kind {}", escape(kind)),
            };
            return Err(failure(
                ErrorCode::UplinkUnfit,
                format!(
                    "\"{asked}\" is {kind} and no bridge; `--uplink {asked}` joins the LAN behind an interface"
                ),
            ));
        }
        if marks::is_marked(&link) && marks::is_of_overlay(&link) {
            return Err(failure(
                ErrorCode::UplinkUnfit,
                format!(
                    "\"{asked}\" is a bridge in which meshd forwards frames of a network itself; name one of yours"
                ),
            ));
        }
        if link.mtu < u32::from(wiring.mtu) {
            return Err(failure(
                ErrorCode::MtuTooLarge,
                format!(
                    "bridge \"{asked}\" has an MTU of {}, and the network of {}: longer frames would be lost; `ip link set {asked} mtu {1}`, or use a network with a smaller one",
                    link.mtu, wiring.mtu
                ),
            ));
        }
        Ok(link)
    }

    /// Puts our device into the bridge, if it is not in it.
    async fn enter_bridge(
        &self,
        wiring: &PortWiring,
        device: &Link,
        bridge: &Link,
    ) -> Result<(), Failure> {
        if device.master == Some(bridge.index) {
            return Ok(());
        }
        let name = format!("{} into {}", escape(&device.name), escape(&bridge.name));
        let MacAddr([_, rest @ ..]) = self.marks.mac(wiring.port.id);
        let [a, b, c, d, e] = rest;
        let set = change(
            device.index,
            vec![
                LinkAttribute::Address(vec![HIGH, a, b, c, d, e]),
                LinkAttribute::Controller(bridge.index),
            ],
        );
        let done = self.own.rt.link().set(set).execute().await;
        done.map_err(refused_rt("put", &name, self.own_netns))?;
        // It may have gone in between, and taken our place with it.
        let read = refused("read", &name, self.own_netns);
        let there = self.own.link_by_index(device.index).await.map_err(&read)?;
        match there {
            Some(link) if link.master == Some(bridge.index) => Ok(()),
            Some(_) => Err(failure(
                ErrorCode::InterfaceMissing,
                format!("bridge \"{}\" went away meanwhile", escape(&bridge.name)),
            )),
            None => Err(read(Errno::ENODEV)),
        }
    }
}

/// The wiring with the bridge's MTU in place of the network's: frames that are longer than the network's are told by the switch.
fn of_mtu(wiring: &PortWiring, bridge: &Link) -> PortWiring {
    PortWiring {
        mtu: u16::try_from(bridge.mtu).unwrap_or(u16::MAX),
        ..wiring.clone()
    }
}
