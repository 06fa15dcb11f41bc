//! Ports that are a macvlan or a macvtap: over a veth of their own, so that each is a port like any other.
//!
//! ```text
//!   the namespace        the daemon's netns
//!   eth0, vm0  --over--> ml<port> <==== veth ====> mv<port> --gate--> mt<port> (TAP) ----> descriptor
//!   /dev/tapN: a virtual machine reads and writes its frames
//! ```
//!
//! Owns the lower end of the veth, and the device over it. The lower end stays in
//! the daemon's namespace, where the container does not see it. With it all goes: so the end of the namespace, which takes the
//! device over it away, is looked for when the lower end changes.

use super::device::link_body;
use super::failure::{Failure, failure, refused};
use super::inventory::Upper;
use super::marks::Role;
use super::netlink::{self, Body, Link};
use super::netns::{Netlink, Netns};
use super::port::Workbench;
use super::still::still;
use super::{QUEUE_LEN, tap_file};
use meshd_core::code::ErrorCode;
use meshd_core::command::PortWiring;
use meshd_core::ident::{IfName, MacAddr, escape};
use meshd_core::kind::{MacvlanMode, MacvlanSpec, PortKind};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::path::PathBuf;

// IFLA_MACVLAN_* of linux/if_link.h.
const MODE: u16 = 1;
const MACADDR_MODE: u16 = 3;
const MACADDR: u16 = 4;
const MACADDR_DATA: u16 = 5;
/// `MACVLAN_MACADDR_SET`.
const MACADDR_SET: u32 = 3;

/// What is asked of the kernel for such a device.
pub(super) fn settings(mode: MacvlanMode, sources: &BTreeSet<MacAddr>) -> Body {
    let body = Body::attributes().attribute(MODE, &mode.number().to_ne_bytes());
    if mode != MacvlanMode::Source {
        return body;
    }
    let sources = sources.iter().fold(Body::attributes(), |body, mac| {
        body.attribute(MACADDR, &mac.0)
    });
    body.attribute(MACADDR_MODE, &MACADDR_SET.to_ne_bytes())
        .nested(MACADDR_DATA, sources)
}

/// What the kernel says of such a device.
pub(super) fn read_settings(data: &[u8]) -> Option<(MacvlanMode, BTreeSet<MacAddr>)> {
    let (mut mode, mut sources) = (None, BTreeSet::new());
    for (kind, value) in netlink::attributes(data, 0) {
        match kind {
            MODE => {
                let number = netlink::word(value)?;
                mode = MacvlanMode::ALL
                    .into_iter()
                    .find(|mode| mode.number() == number);
            }
            MACADDR_DATA => {
                let macs = netlink::attributes(value, 0).filter(|(kind, _)| *kind == MACADDR);
                sources.extend(macs.filter_map(|(_, mac)| mac.try_into().ok().map(MacAddr)));
            }
            _ => {}
        }
    }
    Some((mode?, sources))
}

impl Workbench<'_> {
    /// The veth of a macvlan's port, both ends here.
    pub(super) async fn macvlan_veth(
        &self,
        wiring: &PortWiring,
        spec: &MacvlanSpec,
    ) -> Result<Link, Failure> {
        let id = wiring.port.id;
        let veth = match self.find(id, Role::Veth).await? {
            Some(veth) => veth,
            None => {
                let mut lower = wiring.clone();
                let name = Role::Lower.name(id, 0);
                lower.port.asked_ifname = IfName::new(name.as_bytes())
                    .map_err(|error| failure(ErrorCode::InterfaceNameInvalid, error))?;
                if spec.mode != MacvlanMode::Passthru {
                    // A macvlan in passthru mode takes the MAC of what it is over; else both must differ.
                    lower.port.mac = self.marks.lower_mac(id);
                }
                self.make_veth(&lower, self.own_netns, self.own).await?
            }
        };
        let read = refused("read the lower end of", &"the veth", self.own_netns);
        let index = veth.peer.unwrap_or(0);
        let lower = self.own.link_by_index(index).await.map_err(&read)?;
        let lower = lower.ok_or_else(|| read(Errno::ENODEV))?;
        still(index, &lower.name, (self.own_netns, self.own))
            .await
            .map_err(refused(
                "keep the host's own packets off",
                &"the lower end of the veth",
                self.own_netns,
            ))?;
        self.raise_host_end(&lower, &self.marks.of_lower(id), wiring.mtu.into())
            .await?;
        self.inventory.add(id, Role::Lower, index);
        Ok(veth)
    }

    /// The device over the lower end, made or found, in its namespace; not raised yet.
    pub(super) async fn macvlan_over(
        &self,
        wiring: &PortWiring,
        spec: &MacvlanSpec,
        veth: &Link,
        (netns, far): (&Netns, &Netlink),
    ) -> Result<Link, Failure> {
        let port = &wiring.port;
        let lower = veth.peer.unwrap_or(0);
        if let Some(there) = self.find_over(veth, &port.kind, (netns, far)).await? {
            return Ok(there);
        }
        let word = port.kind.word();
        let step = format!("make the {word}");
        let shown = format!("\"{}\"", port.asked_ifname);
        let refused = refused(&step, &shown, netns);
        let body = link_body(0, 0, 0)
            .attribute(
                libc::IFLA_IFNAME,
                &[port.asked_ifname.as_bytes(), b"\0"].concat(),
            )
            .attribute(libc::IFLA_LINK, &lower.to_ne_bytes())
            .attribute(libc::IFLA_NET_NS_FD, &netns.fd().to_ne_bytes())
            .attribute(libc::IFLA_ADDRESS, &port.mac.0)
            .attribute(libc::IFLA_MTU, &u32::from(wiring.mtu).to_ne_bytes())
            .attribute(libc::IFLA_TXQLEN, &QUEUE_LEN.to_ne_bytes())
            .nested(
                libc::IFLA_LINKINFO,
                Body::attributes()
                    .attribute(libc::IFLA_INFO_KIND, word.as_bytes())
                    .nested(libc::IFLA_INFO_DATA, settings(spec.mode, &spec.sources)),
            );
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        match self
            .own
            .change(libc::RTM_NEWLINK, flags, body.bytes())
            .await
        {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                return Err(failure(
                    ErrorCode::InterfaceExists,
                    format!(
                        "{} has an interface {shown} already: choose another with --ifname, or remove that one",
                        netns.shown()
                    ),
                ));
            }
            Err(error @ Errno::EOPNOTSUPP) => {
                let option = word.to_ascii_uppercase();
                return Err(failure(
                    ErrorCode::KernelLacks,
                    format!(
                        "{}: the kernel has no {word} (CONFIG_{option})",
                        refused(error).reason
                    ),
                ));
            }
            Err(error) => return Err(refused(error)),
        }
        let made = self.find_over(veth, &port.kind, (netns, far)).await?;
        made.ok_or_else(|| refused(Errno::ENODEV))
    }

    /// What is over the lower end of the port's veth, if it is there.
    pub(super) async fn find_over(
        &self,
        veth: &Link,
        kind: &PortKind,
        (netns, far): (&Netns, &Netlink),
    ) -> Result<Option<Link>, Failure> {
        let lower = veth.peer.unwrap_or(0);
        let read = refused("read the devices in", &"it", netns);
        // First the devices: the kernel numbers a namespace when it is first to say that number.
        let links = far.links().await.map_err(&read)?;
        let ours = match netns.is(self.own_netns) {
            true => None,
            false => far.number_of(self.own_netns).await.map_err(&read)?,
        };
        Ok(links.into_iter().find(|link| {
            link.kind == kind.word().as_bytes()
                && link.peer == Some(lower)
                && link.peer_netns == ours
        }))
    }

    /// Told from here on: the loss of the device over the lower end. A macvtap has a file then.
    pub(super) async fn macvlan_live(
        &self,
        wiring: &PortWiring,
        veth: &Link,
        link: &Link,
        netns: &Netns,
    ) -> Result<Option<PathBuf>, Failure> {
        let port = &wiring.port;
        let lower = veth.peer.unwrap_or(0);
        let read = refused("find the number of", &"it", netns);
        let number = match netns.is(self.own_netns) {
            true => None,
            false => {
                let number = self.own.number(netns).await.map_err(&read)?;
                Some(number.ok_or_else(|| read(Errno::ENOENT))?)
            }
        };
        let index = link.index;
        self.inventory.set_upper(lower, Upper { index, number });
        match port.kind {
            PortKind::Macvtap(_) => {
                let made = tap_file::make(netns, &self.marks.of(port.id), index).await;
                made.map(Some).map_err(|error| {
                    failure(
                        ErrorCode::KernelRefused,
                        format!("the file of macvtap \"{}\": {error}", escape(&link.name)),
                    )
                })
            }
            _ => Ok(None),
        }
    }
}
