//! Host devices in the kernel: what there is, one step, and when to look again.
//!
//! ```text
//!    observe: all links, addresses, VLANs of bridge ports --> Scene
//!    do_step: Make = build under a working name, set, mark -> the old one goes -> the wished name, and the wished namespace
//! ```
//!
//! Owns what bears our mark as a host device (`marks.rs`), and the addresses that we gave it: they bear a protocol number of ours
//! (`IFA_PROTO`, Linux 5.18); on older kernels they are remembered only while this runs. Refuses to decide: `meshd_core::devices`
//! says what to do.

mod bridges;
mod places;
mod shapes;
mod shim;
mod taps;
mod trial;

pub(super) use shapes::vlan_id;
pub(super) use trial::try_here;

use super::device::link_body;
use super::failure::{Failure, failure, refused};
use super::macvlan;
use super::marks::{self, Marks};
use super::netlink::{self, Body, Link};
use super::netns::{Netlink, Netns};
use super::still;
use super::wireless;
use ipnet::IpNet;
use meshd_core::code::ErrorCode;
use meshd_core::devices::{Macvlan, Place, Scene, Seen, Shape, Step, Task, Wishes, shim_name};
use meshd_core::ident::{IfName, MacAddr, MeshId, NodeId};
use meshd_core::kind::MacvlanMode;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_proto::sys::{
    AsyncSocket, SocketAddr as NetlinkAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use nix::errno::Errno;
use places::{Elsewhere, Spot};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// `IFA_PROTO`, and the number that says "meshd": 0 to 3 are the kernel's own (linux/if_addr.h).
const IFA_PROTO: u16 = 11;
const PROTO: u8 = b'm';
/// `RT_SCOPE_LINK`: addresses of it and narrower are the kernel's.
const SCOPE_LINK: u8 = 253;

/// A step that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DeviceError {
    /// Step, device, and what to do.
    pub reason: String,
}

impl From<Failure> for DeviceError {
    fn from(failure: Failure) -> Self {
        Self {
            reason: failure.reason,
        }
    }
}

/// The host's devices.
pub struct HostDevices {
    own: Netlink,
    /// For dumps that the kernel is to filter.
    strict: Netlink,
    netns: Arc<Netns>,
    marks: Marks,
    /// What was given on kernels that do not remember it.
    given: Mutex<BTreeSet<(IfName, IpNet)>>,
    elsewhere: Mutex<Elsewhere>,
}

impl HostDevices {
    /// In the caller's namespace.
    ///
    /// # Errors
    /// If netlink cannot be opened.
    pub fn open(mesh: MeshId, node: NodeId) -> io::Result<Self> {
        Ok(Self {
            own: Netlink::here()?,
            strict: Netlink::strict()?,
            netns: Arc::new(Netns::own()?),
            marks: Marks::new(mesh, node),
            given: Mutex::default(),
            elsewhere: Mutex::default(),
        })
    }

    /// Tells of every change of devices and addresses from now on.
    ///
    /// # Errors
    /// If the socket cannot be opened or bound.
    pub fn watch() -> io::Result<DeviceWatch> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        socket
            .socket_mut()
            .bind(&NetlinkAddr::new(0, groups.cast_unsigned()))?;
        Ok(DeviceWatch(socket))
    }

    /// What there is, here and where the wishes put something.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn observe(&self, wishes: &Wishes) -> Result<Scene, DeviceError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: Errno| {
                failure(
                    ErrorCode::KernelRefused,
                    format!("read the {what}: {}", error.desc()),
                )
            }
        };
        let links = self.own.links().await.map_err(failed("devices"))?;
        let addresses = self.own.addresses().await.map_err(failed("addresses"))?;
        let names: BTreeMap<u32, IfName> = links
            .iter()
            .filter_map(|link| Some((link.index, IfName::new(&link.name).ok()?)))
            .collect();
        let has_bridge = links.iter().any(|link| link.kind == b"bridge");
        // A kernel without VLANs on bridges has none to tell of.
        let vlans = match has_bridge {
            true => self.vlans().await.unwrap_or_default(),
            false => BTreeMap::new(),
        };
        let formers = links.iter().filter_map(|link| self.marks.read_former(link));
        // One that takes a single VLAN leaves the rest to others.
        let whole = formers.filter(|former| former.vlan.is_none());
        let uplinks: BTreeSet<u32> = whole.map(|former| former.index).collect();
        let mut scene = Scene::new();
        for link in &links {
            let Some(name) = names.get(&link.index) else {
                continue;
            };
            let mut seen = self.seen(link, &names);
            seen.uplink = uplinks.contains(&link.index);
            seen.wireless = wireless::is_wireless(&link.name, link.index);
            if let Some(of) = vlans.get(&link.index) {
                seen.vlans.clone_from(of);
            }
            seen.addresses = self.read_addresses(name, link, &addresses, seen.ours);
            if let Some(Shape::Shim(_)) = seen.shape {
                let read = self.read_shim(link.index).await;
                (seen.routes, seen.proxies) = read.map_err(failed("routes"))?;
            }
            if seen.ours && link.kind == b"macvtap" {
                seen.file = Some(self.make_file(&self.netns, name, link.index).await);
            }
            scene.insert(name.clone(), seen);
        }
        self.look_elsewhere(wishes, &names, &mut scene).await?;
        self.tidy_files(&scene);
        Ok(scene)
    }

    fn seen(&self, link: &Link, names: &BTreeMap<u32, IfName>) -> Seen {
        let name = |index: Option<u32>| index.and_then(|index| names.get(&index)).cloned();
        // A veth's other end is beside it, not below.
        let below = link
            .peer
            .filter(|_| link.kind != b"veth" && link.peer_netns.is_none());
        let parent = name(below);
        let put = self.marks.read_host_device(link);
        // Made, and on its way to another namespace, when its maker ended.
        let ours = put.is_some() || self.marks.read_placed(link).is_some();
        let mut shape = shapes::read(link, parent.as_ref());
        if let (true, Some(Shape::Macvlan(it))) = (ours, &shape)
            && is_shim(it, link)
        {
            shape = Some(Shape::Shim(it.parent.clone()));
        }
        let (primary, active) = shapes::bond_members(link);
        Seen {
            ours,
            reserved: !ours && marks::is_marked(link),
            shape,
            kind: String::from_utf8_lossy(&link.kind).into_owned(),
            put: put.unwrap_or_default(),
            mac: link.mac,
            mtu: link.mtu,
            up: link.is_up(),
            carrier: link.has_carrier(),
            master: name(link.master),
            parent,
            primary: name(primary),
            active: name(active),
            ..Seen::default()
        }
    }

    fn read_addresses(
        &self,
        name: &IfName,
        link: &Link,
        all: &[netlink::Address],
        ours: bool,
    ) -> BTreeMap<IpNet, bool> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it =
            |address: &&netlink::Address| address.index == link.index && address.scope < SCOPE_LINK;
        let read = |address: &netlink::Address| {
            let net = IpNet::new(address.ip, address.prefix).ok()?;
            let by_us = address.proto == PROTO || given.contains(&(name.clone(), net));
            Some((net, by_us && ours))
        };
        all.iter().filter(of_it).filter_map(read).collect()
    }

    /// Does one step.
    ///
    /// # Errors
    /// The kernel's refusal, in words; what was there before is there still, but for a device that was to be made anew and whose
    /// old self was gone when the new one could not take its name.
    pub async fn do_step(&self, task: &Task) -> Result<(), DeviceError> {
        Ok(self.step(&task.of, &task.step).await?)
    }

    async fn step(&self, of: &IfName, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Make { shape, mac, place } => self.make(of, shape, *mac, place.as_ref()).await,
            Step::Remove => self.remove(of).await,
            Step::Release { member } => {
                let link = self.find(member).await?;
                let body =
                    link_body(link.index, 0, 0).attribute(libc::IFLA_MASTER, &0u32.to_ne_bytes());
                self.set("take out of its bond or bridge the device", member, body)
                    .await
            }
            Step::Mark { put } => {
                let link = self.find(of).await?;
                let alias = self.marks.of_host_device(put);
                let body = link_body(link.index, 0, 0).attribute(libc::IFLA_IFALIAS, &alias);
                self.set("mark", of, body).await
            }
            Step::Set { bridge } => {
                let link = self.find(of).await?;
                self.set_bridge(of, &link, bridge).await
            }
            Step::SetMac { mac } => {
                let spot = self.spot(of).await?;
                let body = link_body(spot.link.index, 0, 0).attribute(libc::IFLA_ADDRESS, &mac.0);
                spot.set("set the MAC of", of, body).await
            }
            Step::SetMtu { mtu } => {
                let spot = self.spot(of).await?;
                let body =
                    link_body(spot.link.index, 0, 0).attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
                spot.set("set the MTU of", of, body).await
            }
            Step::Enslave { member } => self.enslave(of, member).await,
            Step::RaiseMember { member } => self.raise(member, true).await,
            Step::Raise => self.raise(of, true).await,
            Step::Prefer { member } => {
                let link = self.find(of).await?;
                let index = match member {
                    Some(member) => self.find(member).await?.index,
                    None => 0,
                };
                let body = info(link.index, "bond", shapes::primary_data(index));
                self.set("set the primary member of", of, body).await
            }
            Step::SetVlans { port, add, remove } => {
                self.set_vlans(port, port == of, add, remove).await
            }
            Step::AddAddress { address } => self.address(of, *address, true).await,
            Step::RemoveAddress { address } => self.address(of, *address, false).await,
            Step::AddRoute { route } => self.route(of, *route, true).await,
            Step::RemoveRoute { route } => self.route(of, *route, false).await,
            Step::AddProxy { address } => self.proxy(of, *address, true).await,
            Step::RemoveProxy { address } => self.proxy(of, *address, false).await,
        }
    }

    async fn look(&self, name: &IfName) -> Result<Option<Link>, Failure> {
        let found = self.own.link_by_name(name.as_bytes()).await;
        found.map_err(refused("look for", name, &self.netns))
    }

    async fn find(&self, name: &IfName) -> Result<Link, Failure> {
        let found = self.look(name).await?;
        found.ok_or_else(|| refused("look for", name, &self.netns)(Errno::ENODEV))
    }

    async fn set(&self, step: &str, name: &IfName, body: Body) -> Result<(), Failure> {
        let done = self.own.change(libc::RTM_NEWLINK, 0, body.bytes()).await;
        done.map_err(refused(step, name, &self.netns))
    }

    async fn raise(&self, name: &IfName, is_up: bool) -> Result<(), Failure> {
        let spot = self.spot(name).await?;
        let flags = if is_up { libc::IFF_UP } else { 0 };
        let step = if is_up { "raise" } else { "set down" };
        let body = link_body(spot.link.index, flags, libc::IFF_UP);
        spot.set(step, name, body).await
    }

    async fn make(
        &self,
        of: &IfName,
        shape: &Shape,
        mac: Option<MacAddr>,
        place: Option<&Place>,
    ) -> Result<(), Failure> {
        let target = self.target(place).await?;
        let step = format!("make the {} device", shapes::kind(shape));
        let refused = refused(&step, of, &self.netns);
        let working = self.marks.working_name();
        // Left by one that was killed in between.
        if let Some(left) = self
            .own
            .link_by_name(working.as_bytes())
            .await
            .map_err(&refused)?
        {
            self.delete(left.index).await.map_err(&refused)?;
        }
        let mut body =
            Body::new(0, 16).attribute(libc::IFLA_IFNAME, &[working.as_bytes(), b"\0"].concat());
        if let Some(parent) = shape.parent() {
            let parent = self.find(parent).await?;
            body = body.attribute(libc::IFLA_LINK, &parent.index.to_ne_bytes());
        }
        let alone = matches!(shape, Shape::Macvlan(it) if it.mode == MacvlanMode::Passthru);
        if alone || self.is_alone(of).await {
            // With its parent for itself: there is no room for the old one and the new one.
            self.remove(of).await?;
        }
        let mac = match shape {
            Shape::Vlan(_) => mac,
            _ if alone => None,
            _ => Some(mac.unwrap_or_else(|| self.marks.host_device_mac(of))),
        };
        if let Some(mac) = mac {
            body = body.attribute(libc::IFLA_ADDRESS, &mac.0);
        }
        let kind = Body::attributes()
            .attribute(libc::IFLA_INFO_KIND, shapes::kind(shape).as_bytes())
            .nested(libc::IFLA_INFO_DATA, shapes::data(shape));
        let body = body.nested(libc::IFLA_LINKINFO, kind).bytes();
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let made = self.own.change(libc::RTM_NEWLINK, flags, body).await;
        made.map_err(&refused)?;
        let link = self.own.link_by_name(working.as_bytes()).await;
        let link = link
            .map_err(&refused)?
            .ok_or_else(|| refused(Errno::ENODEV))?;
        let finished = self.finish(of, shape, &link, target.as_ref()).await;
        if finished.is_err() {
            // What it could not become is not left half made.
            let _ = self.delete(link.index).await;
        }
        finished?;
        match shape {
            Shape::Macvlan(it) if it.tap => self.keep_still(of).await,
            _ => Ok(()),
        }
    }

    /// There is such a macvlan, in mode passthru.
    async fn is_alone(&self, of: &IfName) -> bool {
        let spot = self.spot(of).await.ok();
        let settings = spot.filter(|spot| spot.link.kind.starts_with(b"macv"));
        let settings = settings.and_then(|spot| macvlan::read_settings(&spot.link.data));
        settings.is_some_and(|(mode, _)| mode == MacvlanMode::Passthru)
    }

    /// A new device under its working name gets our mark, and then the place of the old one.
    async fn finish(
        &self,
        of: &IfName,
        shape: &Shape,
        link: &Link,
        target: Option<&(Place, Netns)>,
    ) -> Result<(), Failure> {
        let alias = match target {
            Some(_) => self.marks.of_placed(of),
            None => self.marks.of_host_device(&BTreeSet::new()),
        };
        let body = link_body(link.index, 0, 0).attribute(libc::IFLA_IFALIAS, &alias);
        self.set("mark", of, body).await?;
        if let Shape::Bridge(bridge) = shape
            && bridge.vlan_filtering
        {
            self.filter_vlans(of, link.index, true).await?;
        }
        if let Some((place, netns)) = target {
            self.check_free(of, (place, netns)).await?;
        }
        self.remove(of).await?;
        if let Some((place, netns)) = target {
            return self.hand_over(of, link, (place, netns)).await;
        }
        let name = [of.as_bytes(), b"\0"].concat();
        let body = link_body(link.index, 0, 0).attribute(libc::IFLA_IFNAME, &name);
        self.set("give its name to", of, body).await?;
        match shape {
            Shape::Shim(_) => self.tune_shim(of),
            _ => Ok(()),
        }
    }

    /// Wherever it is.
    async fn remove(&self, of: &IfName) -> Result<(), Failure> {
        if self.remove_elsewhere(of).await? {
            return Ok(());
        }
        let Some(link) = self.look(of).await? else {
            return Ok(());
        };
        // Looked at again: it may be somebody else's by now.
        if self.marks.read_host_device(&link).is_none() {
            return Err(failure(
                ErrorCode::DeviceForeign,
                format!("{of} is not ours any more: it is left"),
            ));
        }
        self.delete(link.index)
            .await
            .map_err(refused("delete", of, &self.netns))?;
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|(name, _)| name != of);
        Ok(())
    }

    async fn delete(&self, index: u32) -> Result<(), Errno> {
        let body = link_body(index, 0, 0).bytes();
        match self.own.change(libc::RTM_DELLINK, 0, body).await {
            Ok(()) | Err(Errno::ENODEV) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A bond takes only what is down, and raises it itself.
    async fn enslave(&self, of: &IfName, member: &IfName) -> Result<(), Failure> {
        let (master, link) = (self.find(of).await?, self.find(member).await?);
        let is_bond = master.kind == b"bond";
        if is_bond && link.is_up() {
            self.raise(member, false).await?;
        }
        let body =
            link_body(link.index, 0, 0).attribute(libc::IFLA_MASTER, &master.index.to_ne_bytes());
        let step = format!("put {member} into");
        let entered = self.set(&step, of, body).await;
        if !is_bond || (entered.is_err() && link.is_up()) {
            self.raise(member, true).await?;
        }
        entered
    }

    async fn address(&self, of: &IfName, address: IpNet, is_new: bool) -> Result<(), Failure> {
        let Spot {
            netlink,
            netns,
            link,
        } = self.spot(of).await?;
        let (family, octets) = match address.addr() {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
        };
        // Nobody else is on a dummy's segment.
        let flags = match link.kind == b"dummy" && address.addr().is_ipv6() {
            true => libc::IFA_F_NODAD,
            false => 0,
        };
        let mut body = Body::new(u8::try_from(family).unwrap_or_default(), 8)
            .set(1, &[address.prefix_len()])
            .set(4, &link.index.to_ne_bytes())
            .attribute(libc::IFA_LOCAL, &octets)
            .attribute(libc::IFA_ADDRESS, &octets)
            .attribute(libc::IFA_FLAGS, &flags.to_ne_bytes());
        if let IpNet::V4(net) = address
            && net.prefix_len() < 31
        {
            body = body.attribute(libc::IFA_BROADCAST, &net.broadcast().octets());
        }
        let key = (of.clone(), address);
        let is_tap = link.kind == b"macvtap";
        if is_new {
            if is_tap {
                still::for_its_own(link.index, &link.name, (&netns, &netlink))
                    .await
                    .map_err(refused("let answer for its addresses", of, &netns))?;
            }
            let body = body.attribute(IFA_PROTO, &[PROTO]).bytes();
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            let step = format!("give the address {address} to");
            let added = netlink.change(libc::RTM_NEWADDR, flags, body).await;
            // There already, by somebody else: then it is not ours.
            if added != Err(Errno::EEXIST) {
                added.map_err(refused(&step, of, &netns))?;
                let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
                given.insert(key);
            }
            return Ok(());
        }
        let step = format!("take the address {address} from");
        match netlink.change(libc::RTM_DELADDR, 0, body.bytes()).await {
            Ok(()) | Err(Errno::EADDRNOTAVAIL | Errno::ENODEV) => {}
            Err(error) => return Err(refused(&step, of, &netns)(error)),
        }
        self.given
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        match is_tap {
            true => self.still_again(of).await,
            false => Ok(()),
        }
    }
}

fn is_shim(it: &Macvlan, link: &Link) -> bool {
    let plain = it.mode == MacvlanMode::Bridge && !it.tap;
    plain && link.name == shim_name(&it.parent).as_bytes()
}

/// The request to set what a device has of its kind.
fn info(index: u32, kind: &str, data: Body) -> Body {
    let info = Body::attributes()
        .attribute(libc::IFLA_INFO_KIND, kind.as_bytes())
        .nested(libc::IFLA_INFO_DATA, data);
    link_body(index, 0, 0).nested(libc::IFLA_LINKINFO, info)
}

/// Hears of changes; what they are is to be looked at.
pub struct DeviceWatch(TokioSocket);

impl DeviceWatch {
    /// Waits for the next change, or for news that some were missed.
    pub async fn changed(&mut self) {
        if let Err(error) = std::future::poll_fn(|cx| self.0.poll_recv_from_full(cx)).await
            && error.raw_os_error() != Some(libc::ENOBUFS)
        {
            tracing::warn!(code = %ErrorCode::KernelEvents, %error, "changes of devices: read");
            // Never a busy loop, whatever is wrong.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}
