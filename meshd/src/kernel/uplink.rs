//! An interface of the host as a port: the LAN behind it joins a network.
//!
//! ```text
//!   LAN --- eth1 --clsact, bpf redirect (VLAN: only its tag, taken off)--> mt<port> ----> descriptor
//!           eth1 <--clsact, bpf redirect (VLAN: its tag put on)----------- mt<port> <----
//! ```
//!
//! Owns what is done to the interface, and that it is undone: it keeps its name, MAC and MTU; it is raised, takes frames for all
//! MACs, and gets a filter. How it was stands in the mark of the uplink's TAP, so that also a daemon that does not know the port
//! any more puts it back. Refuses interfaces that the host itself needs, since their frames do not reach it any more.

use super::failure::{Failure, failure, refused, refused_rt};
use super::marks::{Former, Role};
use super::netlink::{self, Link};
use super::port::{Workbench, change};
use super::{Mended, Wired, devices, gate, marks, wireless};
use meshd_core::code::ErrorCode;
use meshd_core::command::PortWiring;
use meshd_core::ident::{IfName, MacAddr, PortId, escape};
use meshd_core::kind::UplinkSpec;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use nix::errno::Errno;

/// Bytes of a tag of IEEE 802.1Q.
const TAG: u32 = 4;

fn promiscuous(link: &Link) -> bool {
    link.flags & libc::IFF_PROMISC.cast_unsigned() != 0
}

/// Sets `flags` of a device to what they are in `value`.
fn set_flags(index: u32, flags: LinkFlags, value: LinkFlags) -> LinkMessage {
    let mut message = change(index, Vec::new());
    message.header.flags = value;
    message.header.change_mask = flags;
    message
}

impl Workbench<'_> {
    /// Makes or adopts an uplink.
    pub(super) async fn wire_uplink(
        &self,
        wiring: &PortWiring,
        uplink: &UplinkSpec,
    ) -> Result<Wired, Failure> {
        let id = wiring.port.id;
        let link = self.interface(wiring).await?;
        self.check_interface(&link, wiring, uplink).await?;
        let former = self.former(id, &link, uplink).await?;
        let alias = self.marks.of_uplink(id, former);
        let opened = match self.open_tap(wiring, &alias).await {
            Ok(opened) => opened,
            Err(failed) => {
                // Without a TAP nothing would remember it.
                if !former.hooked {
                    let _ = gate::unhook(self.own, link.index).await;
                }
                return Err(failed);
            }
        };
        let tap_link = self.find(id, Role::Tap).await?.ok_or_else(|| {
            failure(
                ErrorCode::DeviceMeddled,
                "its TAP was deleted by somebody else",
            )
        })?;
        self.raise_host_end(&tap_link, &alias, wiring.mtu.into())
            .await?;
        let name = escape(&link.name);
        let patched = async {
            gate::hook(self.own, link.index).await?;
            gate::patch_uplink(
                self.own,
                link.index,
                opened.index,
                uplink.vlan,
                &self.marks.of(id),
            )
            .await
        };
        patched
            .await
            .map_err(|(step, error)| refused(step, &name, self.own_netns)(error))?;
        self.open_interface(&link).await?;
        self.inventory
            .set_uplink(id, &link, gate::uplink_priority(uplink.vlan));
        let read = refused("read", &name, self.own_netns);
        let link = self.own.link_by_index(link.index).await.map_err(&read)?;
        let link = link.ok_or_else(|| read(Errno::ENODEV))?;
        Ok(Wired {
            ifname: IfName::new(&link.name)
                .map_err(|error| failure(ErrorCode::InterfaceNameInvalid, error))?,
            mac: MacAddr::default(),
            tap: opened.tap,
            more: opened.more,
            file: None,
        })
    }

    /// Mends what somebody did to the interface of an uplink.
    pub(super) async fn mend_uplink(
        &self,
        wiring: &PortWiring,
        uplink: &UplinkSpec,
    ) -> Result<Mended, Failure> {
        let id = wiring.port.id;
        let link = self.interface(wiring).await?;
        self.check_interface(&link, wiring, uplink).await?;
        let tap = self.find(id, Role::Tap).await?;
        let tap = tap.ok_or_else(|| failure(ErrorCode::DeviceMeddled, "its TAP is not there"))?;
        let mut mended = Vec::new();
        if !link.is_up() {
            mended.push("it was down".to_owned());
        }
        if !promiscuous(&link) {
            mended.push("it took frames for its own MAC only".to_owned());
        }
        let name = escape(&link.name);
        let priority = gate::uplink_priority(uplink.vlan);
        let patched = async {
            if gate::attached_at(self.own, link.index, priority)
                .await?
                .is_some()
            {
                return Ok(false);
            }
            gate::hook(self.own, link.index).await?;
            let mark = self.marks.of(id);
            gate::patch_uplink(self.own, link.index, tap.index, uplink.vlan, &mark).await?;
            Ok(true)
        };
        let patched = patched
            .await
            .map_err(|(step, error)| refused(step, &name, self.own_netns)(error))?;
        if patched {
            mended.push("its filter was missing".to_owned());
        }
        self.open_interface(&link).await?;
        self.inventory.set_uplink(id, &link, priority);
        Ok(Mended {
            ifname: IfName::new(&link.name)
                .map_err(|error| failure(ErrorCode::InterfaceNameInvalid, error))?,
            mac: MacAddr::default(),
            mended,
        })
    }

    async fn interface(&self, wiring: &PortWiring) -> Result<Link, Failure> {
        let asked = &wiring.port.asked_ifname;
        let found = self.own.link_by_name(asked.as_bytes()).await;
        let found = found.map_err(refused("read", asked, self.own_netns))?;
        found.ok_or_else(|| {
            failure(
                ErrorCode::InterfaceMissing,
                format!(
                    "there is no interface \"{asked}\" in {}; `ip link` shows which there are",
                    self.own_netns.shown()
                ),
            )
        })
    }

    /// May it be taken from the host?
    async fn check_interface(
        &self,
        link: &Link,
        wiring: &PortWiring,
        uplink: &UplinkSpec,
    ) -> Result<(), Failure> {
        let name = escape(&link.name);
        let vlan = uplink.vlan;
        if link.mac.is_none() || link.flags & libc::IFF_LOOPBACK.cast_unsigned() != 0 {
            return Err(failure(
                ErrorCode::UplinkUnfit,
                format!("\"{name}\" is no Ethernet interface"),
            ));
        }
        if marks::is_of_overlay(link) {
            return Err(failure(
                ErrorCode::UplinkUnfit,
                format!("\"{name}\" is a device of meshd's own"),
            ));
        }
        if wireless::is_wireless(&link.name, link.index) {
            return Err(failure(
                ErrorCode::UplinkUnfit,
                format!(
                    "\"{name}\" is wireless, and an access point takes frames of one MAC only, so the LAN would not hear the network; use an interface with a cable, or, where \"{name}\" is the access point itself or uses 4 addresses, put it into a bridge and attach that (`meshd attach NETWORK --bridge`)"
                ),
            ));
        }
        let needs = u32::from(wiring.mtu) + if vlan.is_some() { TAG } else { 0 };
        // Cards carry one tag beyond their MTU.
        if link.mtu < u32::from(wiring.mtu) {
            return Err(failure(
                ErrorCode::MtuTooLarge,
                format!(
                    "\"{name}\" has an MTU of {}, and the network of {}: longer frames would be lost; `ip link set {name} mtu {needs}`, or use a network with a smaller one",
                    link.mtu, wiring.mtu
                ),
            ));
        }
        let links = self.own.links().await;
        let links = links.map_err(refused("read the devices beside", &name, self.own_netns))?;
        if let Some(id) = vlan {
            let over = links.iter().find(|other| {
                let here = other.peer == Some(link.index) && other.peer_netns.is_none();
                here && other.kind == b"vlan" && devices::vlan_id(&other.data) == Some(id)
            });
            if let Some(over) = over {
                return Err(failure(
                    ErrorCode::UplinkUnfit,
                    format!(
                        "VLAN {id} of \"{name}\" is the host's {}, which would be cut off; remove that first (`ip link del {0}`), or attach {0} itself",
                        escape(&over.name)
                    ),
                ));
            }
            return self.check_others(link, wiring, vlan).await;
        }
        if let Some(master) = link.master {
            let master = links.iter().find(|other| other.index == master);
            let master = master.map_or_else(|| "another device".to_owned(), |l| escape(&l.name));
            return Err(failure(
                ErrorCode::UplinkUnfit,
                format!(
                    "\"{name}\" is a port of {master}, whose frames would go to the network instead; take it out (`ip link set {name} nomaster`), or attach {master} itself"
                ),
            ));
        }
        let upper = links.iter().find(|other| {
            let stacked = !matches!(other.kind.as_slice(), b"veth" | b"vxlan" | b"tun" | b"");
            stacked && other.peer == Some(link.index) && other.peer_netns.is_none()
        });
        if let Some(upper) = upper {
            return Err(failure(
                ErrorCode::UplinkUnfit,
                format!(
                    "\"{name}\" carries {} ({}), which would be cut off; attach one VLAN of it (--vlan N), or remove {0}",
                    escape(&upper.name),
                    escape(&upper.kind)
                ),
            ));
        }
        let addresses = self.own.addresses().await;
        let addresses =
            addresses.map_err(refused("read the addresses of", &name, self.own_netns))?;
        let used = addresses.iter().find(|address| {
            let local = match address.ip {
                std::net::IpAddr::V4(_) => false,
                std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            address.index == link.index && !local
        });
        if let Some(used) = used {
            return Err(failure(
                ErrorCode::UplinkUnfit,
                format!(
                    "\"{name}\" has this host's address {}/{}, which would be cut off, since all that comes in goes to the network; use an interface without addresses, or remove it (`ip addr del {0}/{1} dev {name}`) and give the host a port of its own (`meshd attach NETWORK --netns self`)",
                    used.ip, used.prefix
                ),
            ));
        }
        self.check_others(link, wiring, vlan).await
    }

    /// Another daemon's uplink on the same interface would lose its frames.
    async fn check_others(
        &self,
        link: &Link,
        wiring: &PortWiring,
        vlan: Option<u16>,
    ) -> Result<(), Failure> {
        let name = escape(&link.name);
        let priority = gate::uplink_priority(vlan);
        let there = gate::attached_at(self.own, link.index, priority).await;
        let there = there.map_err(|(step, error)| refused(step, &name, self.own_netns)(error))?;
        let ours = format!("{}{}", gate::UPLINK, self.marks.of(wiring.port.id));
        if there.is_none_or(|name| name == ours.as_bytes()) {
            return Ok(());
        }
        let of = vlan.map_or_else(String::new, |vlan| format!(" VLAN {vlan} of"));
        Err(failure(ErrorCode::DeviceBusy, format!(
            "{of} \"{name}\" is an uplink already, of another meshd or of a port that could not be removed; detach it there, or `tc filter del dev {name} ingress pref {priority}`"
        )
        .trim_start()
        .to_owned()))
    }

    /// How the interface was before the first of our uplinks on it.
    async fn former(
        &self,
        port: PortId,
        link: &Link,
        uplink: &UplinkSpec,
    ) -> Result<Former, Failure> {
        let read = refused("read the devices beside", &"the uplink", self.own_netns);
        let links = self.own.links().await.map_err(read)?;
        let formers = links.iter().filter_map(|tap| {
            let former = self.marks.read_former(tap)?;
            (former.index == link.index).then_some((self.marks.read(tap)?.0, former))
        });
        let mut formers: Vec<(PortId, Former)> = formers.collect();
        // Its own counts before that of another VLAN.
        formers.sort_by_key(|(of, _)| *of != port);
        let vlan = uplink.vlan;
        if let Some((_, former)) = formers.first() {
            return Ok(Former { vlan, ..*former });
        }
        let name = escape(&link.name);
        let hooked = gate::hook(self.own, link.index).await;
        let made = hooked.map_err(|(step, error)| refused(step, &name, self.own_netns)(error))?;
        // That one which was away takes frames for all may be our own doing of before.
        let before = self.inventory.take_away(port);
        let was_asked = before.is_none_or(|before| before.promiscuous);
        Ok(Former {
            index: link.index,
            vlan,
            up: link.is_up(),
            promiscuous: was_asked && promiscuous(link),
            hooked: !made,
        })
    }

    /// Up, and takes frames for all.
    async fn open_interface(&self, link: &Link) -> Result<(), Failure> {
        let name = escape(&link.name);
        let flags = LinkFlags::Up | LinkFlags::Promisc;
        let set = set_flags(link.index, flags, flags);
        let done = self.own.rt.link().set(set).execute().await;
        done.map_err(refused_rt("raise", &name, self.own_netns))
    }

    /// Removes filters of uplinks that are not in `keep`, and whose TAP is gone: what they take leads nowhere. Goes on after a
    /// failure; the answer is what could not be removed.
    pub(super) async fn sweep_uplinks(
        &self,
        keep: &(dyn Fn(PortId) -> bool + Sync),
    ) -> Vec<String> {
        let mut errors = Vec::new();
        let links = self.own.links().await.unwrap_or_default();
        for link in links.iter().filter(|link| !marks::is_of_overlay(link)) {
            for (priority, name) in gate::all_at(self.own, link.index).await.unwrap_or_default() {
                let port = name
                    .strip_prefix(gate::UPLINK.as_bytes())
                    .and_then(|mark| self.marks.port_of(mark));
                if port.is_none_or(keep) {
                    continue;
                }
                if let Err((step, error)) = gate::detach_at(self.own, link.index, priority).await {
                    let name = escape(&link.name);
                    errors.push(refused(step, &name, self.own_netns)(error).reason);
                }
            }
        }
        errors
    }

    /// Takes an uplink off its interface; with the last one the interface becomes as it was. Goes on after a failure; the answer
    /// is what could not be undone.
    pub(super) async fn release_uplink(&self, port: PortId, former: Former) -> Vec<String> {
        let mut errors = Vec::new();
        let link = match self.own.link_by_index(former.index).await {
            Ok(Some(link)) => link,
            // It went away, and everything at it with it; but its flags, should it come back.
            Ok(None) | Err(Errno::ENODEV) => {
                self.inventory.set_away(port, former);
                return errors;
            }
            Err(error) => {
                let read = refused("read", &former.index, self.own_netns);
                return vec![read(error).reason];
            }
        };
        let name = escape(&link.name);
        let told =
            |(step, error): gate::StepError| refused(step, &name, self.own_netns)(error).reason;
        let priority = gate::uplink_priority(former.vlan);
        errors.extend(
            gate::detach_at(self.own, link.index, priority)
                .await
                .err()
                .map(told),
        );
        let links = match self.own.links().await {
            Ok(links) => links,
            // Another uplink may be on it, which needs it as it is.
            Err(error) => {
                let read = refused("read the devices beside", &name, self.own_netns);
                errors.push(read(error).reason);
                return errors;
            }
        };
        let others = links.iter().any(|tap| {
            let of = self.marks.read(tap).map(|(of, _)| of);
            let at = self.marks.read_former(tap).map(|former| former.index);
            of != Some(port) && at == Some(link.index)
        });
        if others {
            return errors;
        }
        if !former.hooked {
            errors.extend(gate::unhook(self.own, link.index).await.err().map(told));
        }
        let mut flags = LinkFlags::empty();
        if !former.promiscuous {
            flags |= LinkFlags::Promisc;
        }
        if !former.up {
            flags |= LinkFlags::Up;
        }
        if !flags.is_empty() {
            let set = set_flags(link.index, flags, LinkFlags::empty());
            let put = self.own.rt.link().set(set).execute().await;
            // One that went meanwhile has no state to put back.
            if let Err(error) = put
                && netlink::errno(&error) != Errno::ENODEV
            {
                let put = refused_rt("put back the state of", &name, self.own_netns);
                errors.push(put(error).reason);
            }
        }
        errors
    }
}
