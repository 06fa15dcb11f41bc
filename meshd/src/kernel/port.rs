//! A port's devices: making them, and adopting what is there; `removal.rs` undoes them.
//!
//! ```text
//!    wire:   namespace -> veth pair, far end inside at once -> TAP -> patch both ways -> host ends up -> far end up,
//!            addresses, routes -> hint -> look whether the veth is still there
//! ```
//!
//! Each step looks first and changes only what differs, so that the same walk makes a port, repairs one, and adopts one
//! after a restart without touching its traffic. A step that fails undoes all.

use super::batch::Batch;
use super::failure::{Failure, failure, refused, refused_rt};
use super::inventory::Inventory;
use super::marks::{Marks, Role};
use super::netlink::{self, Link};
use super::netns::{Netlink, Netns};
use super::still::still;
use super::tap::{OpenTap, StepError, Wish};
use super::{Mended, QUEUE_LEN, Shelf, WireError, Wired, gate, hint, nameless, renamed, tap, vrf};
use ipnet::IpNet;
use meshd_core::code::ErrorCode;
use meshd_core::command::{NetnsRef, PortRecord, PortWiring};
use meshd_core::ident::{IfName, PortId, escape};
use meshd_core::kind::PortKind;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::RouteScope;
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use std::net::IpAddr;
use std::time::Duration;
use tokio::runtime::Handle;

/// Names tried for a device before giving up: more daemons than this do not share one namespace.
const NAMES_MAX: u32 = 16;
/// The largest MTU that a veth takes (ETH_MAX_MTU).
const HOST_MTU: u32 = 65_535;
/// A TAP that is in use is tried so often, this far apart, before it counts as somebody else's.
const TAP_TRIES: u32 = 10;
const TAP_WAIT: Duration = Duration::from_millis(20);

/// The wiring of one port, with what it needs.
pub(super) struct Workbench<'a> {
    pub(super) own: &'a Netlink,
    pub(super) own_netns: &'a Netns,
    pub(super) marks: &'a Marks,
    pub(super) inventory: &'a Inventory,
    pub(super) superframes: bool,
    pub(super) queues: usize,
    pub(super) gso_max: Option<u32>,
    /// Where TAPs are waited for.
    pub(super) data: &'a Handle,
    pub(super) taps: &'a Shelf,
    pub(super) batch: &'a Batch,
    pub(super) gate: &'a gate::Gate,
}

pub(super) fn change(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn up(index: u32) -> LinkMessage {
    let mut message = change(index, Vec::new());
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn link_local_mode(index: u32, mode: In6AddrGenMode) -> LinkMessage {
    change(
        index,
        vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![AfSpecInet6::AddrGenMode(mode)],
        )])],
    )
}

/// The name as an attribute: bytes, so that any name that the kernel takes gets there.
fn raw_name(name: &[u8]) -> LinkAttribute {
    LinkAttribute::Other(DefaultNla::new(libc::IFLA_IFNAME, [name, b"\0"].concat()))
}

impl Workbench<'_> {
    /// Makes or adopts the port.
    pub(super) async fn wire(&self, wiring: &PortWiring) -> Result<Wired, WireError> {
        match self.try_wire(wiring).await {
            Ok(wired) => Ok(wired),
            // Whoever hears of it says which port it is.
            Err(Failure {
                code,
                mut reason,
                gone,
                keep,
            }) => {
                if !keep {
                    let all = self.unwire(std::slice::from_ref(&wiring.port)).await;
                    for left in all.into_iter().flatten() {
                        reason = format!("{reason}; and undoing it: {left}");
                    }
                }
                Err(WireError { code, reason, gone })
            }
        }
    }

    /// Mends what is not as it should be of a port that carries frames.
    pub(super) async fn mend(&self, wiring: &PortWiring) -> Result<Mended, WireError> {
        let found = self.try_mend(wiring).await;
        found.map_err(|failure| WireError {
            code: failure.code,
            reason: format!("port {}: {}", wiring.port.id, failure.reason),
            gone: failure.gone,
        })
    }

    async fn try_mend(&self, wiring: &PortWiring) -> Result<Mended, Failure> {
        let port = &wiring.port;
        if matches!(port.kind, PortKind::Bridge(_)) {
            return self.mend_bridge(wiring).await;
        }
        if let Some(uplink) = port.kind.uplink() {
            return self.mend_uplink(wiring, uplink).await;
        }
        let veth = self
            .find(port.id, Role::Veth)
            .await?
            .ok_or_else(|| failure(ErrorCode::DeviceMeddled, "its veth is not there"))?;
        let proof = port.kind.macvlan().is_none();
        let Some((netns, far)) = self.enter(port, proof).await? else {
            // Alive, and out of our reach: only this end can be seen to.
            self.raise_host_end(&veth, &self.marks.of(port.id), HOST_MTU)
                .await?;
            return Ok(Mended {
                ifname: port.ifname.clone(),
                mac: port.mac,
                mended: Vec::new(),
            });
        };
        let index = match port.kind.macvlan() {
            None => {
                let veth = self.check_far_end(veth.clone(), &netns).await?;
                veth.peer.unwrap_or(0)
            }
            Some(_) => {
                let over = self.find_over(&veth, &port.kind, (&netns, &far)).await?;
                let gone = || Failure {
                    gone: true,
                    ..failure(
                        ErrorCode::InterfaceMissing,
                        format!("its {} is not there any more", port.kind.word()),
                    )
                };
                over.ok_or_else(gone)?.index
            }
        };
        let read = refused("read the far end of", &"the veth", &netns);
        let link = far.link_by_index(index).await.map_err(&read)?;
        let link = link.ok_or_else(|| read(Errno::ENODEV))?;
        let there = far.addresses().await.map_err(&read)?;
        let mut mended = Vec::new();
        mended.extend(renamed::give_back(port, &link, (&netns, &far)).await?);
        if !link.is_up() {
            mended.push("it was down".to_owned());
        }
        if link.mac != Some(port.mac) {
            mended.push("it had another MAC".to_owned());
        }
        if link.mtu != u32::from(wiring.mtu) {
            mended.push(format!("its MTU was {}", link.mtu));
        }
        if port.vrf.is_some() && link.master.is_none() {
            mended.push("it was in no VRF".to_owned());
        }
        for net in far_ips(port) {
            let is_there = there
                .iter()
                .any(|a| (a.index, a.ip, a.prefix) == (index, net.addr(), net.prefix_len()));
            if !is_there {
                mended.push(format!("{net} was missing"));
            }
        }
        self.raise_host_end(&veth, &self.marks.of(port.id), HOST_MTU)
            .await?;
        let inside = self
            .raise_far_end(Some(index), wiring, &netns, &far)
            .await?;
        Ok(Mended {
            ifname: IfName::new(&inside.name)
                .map_err(|error| failure(ErrorCode::InterfaceNameInvalid, error))?,
            mac: inside.mac.unwrap_or(port.mac),
            mended,
        })
    }

    async fn try_wire(&self, wiring: &PortWiring) -> Result<Wired, Failure> {
        let port = &wiring.port;
        if matches!(port.kind, PortKind::Bridge(_)) {
            return self.wire_bridge(wiring).await;
        }
        if let Some(uplink) = port.kind.uplink() {
            return self.wire_uplink(wiring, uplink).await;
        }
        let macvlan = port.kind.macvlan();
        let found = self.find(port.id, Role::Veth).await?;
        // The far end of a macvlan's veth is here, and proves nothing of its namespace.
        let proof = found.is_some() && macvlan.is_none();
        let place = self.enter(port, proof).await?;
        let mut over = None;
        let veth = match (found, &place, macvlan) {
            (_, Some((netns, far)), Some(spec)) => {
                let veth = self.macvlan_veth(wiring, spec).await?;
                let place = (netns, far);
                over = Some(self.macvlan_over(wiring, spec, &veth, place).await?);
                veth
            }
            (Some(veth), Some((netns, _)), None) => self.check_far_end(veth, netns).await?,
            (Some(veth), None, _) => veth,
            (None, Some((netns, far)), None) => self.make_veth(wiring, netns, far).await?,
            (None, None, None) if port.netns == NetnsRef::Handed => {
                self.make_to_hand(wiring).await?
            }
            (None, None, _) => {
                return Err(failure(
                    ErrorCode::NetnsMissing,
                    "its namespace cannot be entered",
                ));
            }
        };
        let alias = self.marks.of(port.id);
        let OpenTap { tap, more, index } = self.open_tap(wiring, &alias).await?;
        let device = format!("the devices of port {}", port.id);
        let patched = async {
            gate::redirect(self.own, index, veth.index).await?;
            let program = self.gate.port_program(index, wiring.mtu)?;
            gate::attach(self.own, veth.index, &program, "port").await
        };
        patched
            .await
            .map_err(|(step, error)| refused(step, &device, self.own_netns)(error))?;
        // What the container sends is to get here whatever MTU it has: a veth drops in silence what is longer than the far
        // end's, and the switch tells who sent it.
        self.raise_host_end(&veth, &alias, HOST_MTU).await?;
        let tap_link = self.find(port.id, Role::Tap).await?.ok_or_else(|| {
            failure(
                ErrorCode::DeviceMeddled,
                "its TAP was deleted by somebody else",
            )
        })?;
        self.raise_host_end(&tap_link, &alias, wiring.mtu.into())
            .await?;
        let (ifname, mac) = match &place {
            Some((netns, far)) => {
                let index = over.as_ref().map_or(veth.peer, |over| Some(over.index));
                let inside = self.raise_far_end(index, wiring, netns, far).await?;
                (
                    IfName::new(&inside.name)
                        .map_err(|error| failure(ErrorCode::InterfaceNameInvalid, error))?,
                    inside.mac.unwrap_or(port.mac),
                )
            }
            // Alive, and out of our reach: the far end is as an earlier run left it.
            None => (port.ifname.clone(), port.mac),
        };
        if let Some(dns) = &wiring.dns {
            // Names are a comfort: a port without them works.
            if let Err(error) = hint::write(&port.netns, dns, port.id, self.marks.of_node()) {
                tracing::warn!(code = %ErrorCode::FileUnwritten, port = %port.id, %error, "resolv.conf of the port's namespace: write");
            }
        }
        let file = match (over, &place) {
            (Some(over), Some((netns, _))) => {
                self.macvlan_live(wiring, &veth, &over, netns).await?
            }
            _ => None,
        };
        // Told from here on; what went before is seen by the look after it.
        let veth = self.find(port.id, Role::Veth).await?.unwrap_or(veth);
        let handed = port.netns == NetnsRef::Handed;
        self.inventory.set_live(port.id, &veth, handed);
        if self.find(port.id, Role::Veth).await?.is_none() {
            return Err(Failure {
                gone: true,
                ..failure(
                    ErrorCode::NetnsMissing,
                    "its network namespace went away meanwhile",
                )
            });
        }
        Ok(Wired {
            ifname,
            mac,
            tap,
            more,
            file,
        })
    }

    /// The port's namespace, with netlink there; `None`: it is alive, as the veth that leads into it shows, but there is no
    /// way in from here.
    async fn enter(
        &self,
        port: &PortRecord,
        has_veth: bool,
    ) -> Result<Option<(Netns, Netlink)>, Failure> {
        let opened = match &port.netns {
            NetnsRef::Handed => return Ok(None),
            NetnsRef::Path(_) => Netns::open(&port.netns).map(Some),
            NetnsRef::Nameless(nameless) => {
                nameless::open(nameless, has_veth, port.ready, self.own_netns)
            }
        };
        let opened = opened.map_err(|error| Failure {
            gone: error.is_gone(),
            ..failure(error.code(), &error)
        })?;
        let Some(netns) = opened else {
            return Ok(None);
        };
        match Netlink::at(&netns).await {
            Ok(far) => Ok(Some((netns, far))),
            Err(error) => {
                let error = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
                Err(refused("open netlink", &"sockets", &netns)(error))
            }
        }
    }

    /// The port's device of this role, if it is there and still ours.
    pub(super) async fn find(&self, port: PortId, role: Role) -> Result<Option<Link>, Failure> {
        let devices = self.inventory.of(port);
        let index = match role {
            Role::Veth => devices.veth,
            Role::Tap => devices.tap,
            Role::Lower => devices.lower,
        };
        let Some(index) = index else { return Ok(None) };
        let found =
            self.own
                .link_by_index(index)
                .await
                .map_err(refused("read", &index, self.own_netns))?;
        Ok(found.filter(|link| self.marks.read(link) == Some((port, role))))
    }

    /// A veth that is there already must lead into the namespace that is wanted: a path can come to mean another one.
    async fn check_far_end(&self, veth: Link, netns: &Netns) -> Result<Link, Failure> {
        let elsewhere = match veth.peer_netns {
            None => !netns.is(self.own_netns),
            Some(number) => {
                let wanted = self.own.number_of(netns).await.map_err(refused(
                    "compare",
                    &"the far end's place",
                    netns,
                ))?;
                wanted != Some(number)
            }
        };
        if elsewhere {
            let reason = format!(
                "{} is not the one that the port was attached to: that one is gone",
                netns.shown()
            );
            return Err(Failure {
                gone: true,
                ..failure(ErrorCode::NetnsMissing, reason)
            });
        }
        Ok(veth)
    }

    pub(super) async fn make_veth(
        &self,
        wiring: &PortWiring,
        netns: &Netns,
        far: &Netlink,
    ) -> Result<Link, Failure> {
        let port = &wiring.port;
        let mtu = u32::from(wiring.mtu);
        for attempt in 0..NAMES_MAX {
            let name = Role::Veth.name(port.id, attempt);
            let shown = format!("{name} <-> \"{}\"", port.asked_ifname);
            let refused = refused("make the veth pair", &shown, netns);
            if self
                .own
                .link_by_name(name.as_bytes())
                .await
                .map_err(&refused)?
                .is_some()
            {
                continue;
            }
            let inside = change(
                0,
                vec![
                    raw_name(port.asked_ifname.as_bytes()),
                    LinkAttribute::Address(port.mac.0.to_vec()),
                    LinkAttribute::Mtu(mtu),
                    LinkAttribute::TxQueueLen(QUEUE_LEN),
                    LinkAttribute::NetNsFd(netns.fd()),
                ],
            );
            let pair = change(
                0,
                vec![
                    LinkAttribute::IfName(name.clone()),
                    LinkAttribute::Address(self.marks.mac(port.id).0.to_vec()),
                    LinkAttribute::Mtu(mtu),
                    LinkAttribute::TxQueueLen(QUEUE_LEN),
                    LinkAttribute::LinkInfo(vec![
                        LinkInfo::Kind(InfoKind::Veth),
                        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside))),
                    ]),
                ],
            );
            match self
                .own
                .rt
                .link()
                .add(pair)
                .execute()
                .await
                .map_err(|error| netlink::errno(&error))
            {
                Ok(()) => {}
                Err(Errno::EEXIST) => {
                    let taken = far
                        .link_by_name(port.asked_ifname.as_bytes())
                        .await
                        .map_err(&refused)?;
                    if taken.is_some() {
                        let reason = format!(
                            "{} has an interface \"{}\" already: choose another with --ifname, or remove that one",
                            netns.shown(),
                            port.asked_ifname
                        );
                        return Err(failure(ErrorCode::InterfaceExists, reason));
                    }
                    // Somebody else was faster with the host end's name.
                    continue;
                }
                Err(error) => return Err(refused(error)),
            }
            let made = self
                .own
                .link_by_name(name.as_bytes())
                .await
                .map_err(&refused)?;
            let made = made
                .filter(|link| link.mac == Some(self.marks.mac(port.id)))
                .ok_or_else(|| refused(Errno::ENODEV))?;
            self.inventory.add(port.id, Role::Veth, made.index);
            return Ok(made);
        }
        Err(failure(
            ErrorCode::InterfaceExists,
            format!(
                "all {NAMES_MAX} names such as {} are taken by devices of others",
                Role::Veth.name(port.id, 0)
            ),
        ))
    }

    /// A veth whose far end waits here, bare and down, to be taken away. Once: a container that lost its interface gets no
    /// other from us, its engine makes it a new port.
    async fn make_to_hand(&self, wiring: &PortWiring) -> Result<Link, Failure> {
        if wiring.port.ready {
            return Err(Failure {
                gone: true,
                ..failure(
                    ErrorCode::InterfaceMissing,
                    "the interface that was handed over is gone, with its container most likely",
                )
            });
        }
        let veth = self.make_veth(wiring, self.own_netns, self.own).await?;
        if let (Some(max), Some(far)) = (self.gso_max, veth.peer) {
            let shown = format!("\"{}\"", wiring.port.asked_ifname);
            self.own
                .rt
                .link()
                .set(change(far, vec![LinkAttribute::GsoMaxSize(max)]))
                .execute()
                .await
                .map_err(refused_rt(
                    "set the largest superframe of",
                    &shown,
                    self.own_netns,
                ))?;
        }
        Ok(veth)
    }

    async fn tap(
        &self,
        name: &str,
        alias: &str,
        wiring: &PortWiring,
    ) -> Result<OpenTap, StepError> {
        let wish = Wish {
            name,
            alias,
            mtu: wiring.mtu,
            superframes: self.superframes,
            // What a LAN floods has one rate, which one lane keeps; and its bridge or its card spreads nothing by our program.
            queues: match wiring.port.kind.uplink() {
                Some(_) => 1,
                None => self.queues,
            },
        };
        tap::open(self.own, self.data, self.taps, wish).await
    }

    pub(super) async fn open_tap(
        &self,
        wiring: &PortWiring,
        alias: &str,
    ) -> Result<OpenTap, Failure> {
        let id = wiring.port.id;
        if let Some(link) = self.find(id, Role::Tap).await? {
            let name = String::from_utf8(link.name).map_err(|_| {
                failure(
                    ErrorCode::DeviceMeddled,
                    "its TAP was renamed by somebody else to what is no UTF-8: rename it back",
                )
            })?;
            let mut opened = self.tap(&name, alias, wiring).await;
            // A lane of ours that has just ended closes its descriptor when its task is next looked at.
            for _ in 0..TAP_TRIES {
                if !matches!(opened, Err((_, Errno::EBUSY))) {
                    break;
                }
                tokio::time::sleep(TAP_WAIT).await;
                opened = self.tap(&name, alias, wiring).await;
            }
            let opened = opened.map_err(|(step, error)| Failure {
                keep: error == Errno::EBUSY,
                ..refused(step, &name, self.own_netns)(error)
            })?;
            // Another index, if it was deleted between the look and the opening.
            self.inventory.add(id, Role::Tap, opened.index);
            return Ok(opened);
        }
        for attempt in 0..NAMES_MAX {
            let name = Role::Tap.name(id, attempt);
            let refused = |step| refused(step, &name, self.own_netns);
            if self
                .own
                .link_by_name(name.as_bytes())
                .await
                .map_err(refused("look for"))?
                .is_some()
            {
                continue;
            }
            match self.tap(&name, alias, wiring).await {
                Ok(opened) => {
                    self.inventory.add(id, Role::Tap, opened.index);
                    return Ok(opened);
                }
                // Somebody else was faster.
                Err((_, Errno::EBUSY)) => {}
                Err((step, error)) => return Err(refused(step)(error)),
            }
        }
        Err(failure(
            ErrorCode::InterfaceExists,
            format!(
                "all {NAMES_MAX} names such as {} are taken by devices of others",
                Role::Tap.name(id, 0)
            ),
        ))
    }

    /// Our mark, the MTU, no chatter of the host's own on it, up.
    pub(super) async fn raise_host_end(
        &self,
        link: &Link,
        alias: &str,
        mtu: u32,
    ) -> Result<(), Failure> {
        let name = escape(&link.name);
        let refused = |step| refused_rt(step, &name, self.own_netns);
        let mut attributes = Vec::new();
        if link.alias != alias.as_bytes() {
            attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        }
        if link.mtu != mtu {
            attributes.push(LinkAttribute::Mtu(mtu));
        }
        if !attributes.is_empty() {
            self.own
                .rt
                .link()
                .set(change(link.index, attributes))
                .execute()
                .await
                .map_err(refused("mark and set the MTU of"))?;
        }
        if !link.is_up() {
            // Neither is there without IPv6, and then there is nothing to silence.
            let _ = self
                .own
                .rt
                .link()
                .set(link_local_mode(link.index, In6AddrGenMode::None))
                .execute()
                .await;
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
            self.own
                .rt
                .link()
                .set(up(link.index))
                .execute()
                .await
                .map_err(refused("raise"))?;
        }
        Ok(())
    }

    /// MAC, MTU, up, addresses, routes; answers how the far end is then.
    async fn raise_far_end(
        &self,
        index: Option<u32>,
        wiring: &PortWiring,
        netns: &Netns,
        far: &Netlink,
    ) -> Result<Link, Failure> {
        let port = &wiring.port;
        let index = index.unwrap_or(0);
        let read = refused("read the far end of", &"the veth", netns);
        let link = far
            .link_by_index(index)
            .await
            .map_err(&read)?
            .ok_or_else(|| read(Errno::ENODEV))?;
        let name = escape(&link.name);
        let refused = |step| refused_rt(step, &name, netns);

        let mut attributes = Vec::new();
        if link.mac != Some(port.mac) {
            attributes.push(LinkAttribute::Address(port.mac.0.to_vec()));
        }
        if link.mtu != u32::from(wiring.mtu) {
            attributes.push(LinkAttribute::Mtu(u32::from(wiring.mtu)));
        }
        if let Some(max) = self.gso_max.filter(|max| *max != link.gso_max) {
            attributes.push(LinkAttribute::GsoMaxSize(max));
        }
        if !attributes.is_empty() {
            far.rt
                .link()
                .set(change(index, attributes))
                .execute()
                .await
                .map_err(refused("set MAC, MTU and the largest superframe of"))?;
        }
        // Before it has addresses, so that their routes go to the VRF's table.
        let table = vrf::enter(wiring, &link, (netns, far)).await?;
        if matches!(port.kind, PortKind::Macvtap(_)) {
            still(index, &link.name, (netns, far))
                .await
                .map_err(self::refused(
                    "keep the host's own packets off",
                    &name,
                    netns,
                ))?;
        }
        if !link.is_up() {
            self.raise_with_link_local(index, wiring, far)
                .await
                .map_err(refused("raise"))?;
        }
        let loopback = far
            .link_by_name(b"lo")
            .await
            .map_err(self::refused("read", &"lo", netns))?;
        if let Some(loopback) = loopback.filter(|lo| !lo.is_up()) {
            far.rt
                .link()
                .set(up(loopback.index))
                .execute()
                .await
                .map_err(refused_rt("raise", &"lo", netns))?;
        }

        let there =
            far.addresses()
                .await
                .map_err(self::refused("read the addresses of", &name, netns))?;
        for net in far_ips(port) {
            if there
                .iter()
                .any(|a| (a.index, a.ip, a.prefix) == (index, net.addr(), net.prefix_len()))
            {
                continue;
            }
            let shown = format!("{net} to \"{name}\"");
            self.add_address(index, net.addr(), net.prefix_len(), far)
                .await
                .map_err(refused_rt("add the address", &shown, netns))?;
        }
        for wanted in &port.routes {
            let shown = format!("{wanted} to \"{name}\"");
            let refused =
                |error| failure(ErrorCode::RouteInvalid, format!("route {shown}: {error}"));
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(wanted.to.network(), wanted.to.prefix_len())
                .map_err(refused)?
                .output_interface(index);
            let route = match table {
                Some(table) => route.table_id(table),
                None => route,
            };
            let route = match wanted.via {
                Some(via) => route.gateway(via).map_err(refused)?,
                None => route.scope(RouteScope::Link),
            };
            let route = route.build();
            match far.rt.route().add(route).execute().await {
                Err(error) if netlink::errno(&error) != Errno::EEXIST => {
                    return Err(refused_rt("add the route", &shown, netns)(error));
                }
                _ => {}
            }
        }
        far.link_by_index(index)
            .await
            .map_err(&read)?
            .ok_or_else(|| read(Errno::ENODEV))
    }

    /// Up, with a link-local IPv6 address that is usable at once: the kernel's own would first wait for duplicates, and
    /// the switch sees to it that there are none.
    async fn raise_with_link_local(
        &self,
        index: u32,
        wiring: &PortWiring,
        far: &Netlink,
    ) -> Result<(), rtnetlink::Error> {
        // Refused where there is no IPv6, as is the address.
        let ipv6 = far
            .rt
            .link()
            .set(link_local_mode(index, In6AddrGenMode::None))
            .execute()
            .await
            .is_ok();
        far.rt.link().set(up(index)).execute().await?;
        if ipv6 {
            let _ = self
                .add_address(index, wiring.port.mac.link_local().into(), 64, far)
                .await;
            // From now on as the kernel would: when the container takes the interface down and up, it gets one again.
            let _ = far
                .rt
                .link()
                .set(link_local_mode(index, In6AddrGenMode::Eui64))
                .execute()
                .await;
        }
        Ok(())
    }

    async fn add_address(
        &self,
        index: u32,
        ip: IpAddr,
        prefix: u8,
        far: &Netlink,
    ) -> Result<(), rtnetlink::Error> {
        let mut request = far.rt.address().add(index, ip, prefix);
        if ip.is_ipv6() {
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match request.execute().await {
            Err(error) if netlink::errno(&error) == Errno::EEXIST => Ok(()),
            answer => answer,
        }
    }
}

/// The addresses that the far end has. Those of a macvtap's port are for the machine that opens its file: it gives them to itself.
fn far_ips(port: &PortRecord) -> &[IpNet] {
    match port.kind {
        PortKind::Macvtap(_) => &[],
        _ => &port.ips,
    }
}
