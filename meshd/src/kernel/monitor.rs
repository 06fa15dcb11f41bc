//! What changes on this host without us: ports that go away, addresses that come and go.
//!
//! ```text
//!    multicast groups link, ifaddr, route, tc --> RTM_DELLINK of a port's device --------> PortGone at once
//!                             +-> a port's device is down, or its filter is gone: look -> WireFailed, it is wired again
//!                             +-> a network's device or bridge port differs: look --> Disturbance, told once
//!                             +-> anything that may change addresses ------------------> 300 ms later: read, tell if they differ
//!    ENOBUFS: some were lost ---------------------------------------------------------> read all of it again
//! ```
//!
//! Owns the multicast socket, and reads it directly: what we do not read in time stays in the kernel's bounded buffer, and
//! its overrun is an event like the others. Refuses to read addresses more than once a second.

use super::addresses::{self, Host};
use super::disturbance::{Disturbance, What};
use super::gate;
use super::inventory::Inventory;
use super::marks::Role;
use super::netlink::{self, Link};
use super::netns::Netlink;
use meshd_core::code::ErrorCode;
use meshd_core::ident::{PortId, escape};
use meshd_core::node::{Input, KernelEvent};
use netlink_proto::sys::{
    AsyncSocket, SocketAddr as NetlinkAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

const DEBOUNCE: Duration = Duration::from_millis(300);
const READ_PERIOD_MIN: Duration = Duration::from_secs(1);

/// The watcher; it runs until the receiver of its events is dropped.
pub(super) struct Monitor {
    socket: TokioSocket,
    netlink: Netlink,
    inventory: Arc<Inventory>,
    underlay: SocketAddr,
    events: mpsc::Sender<Input>,
    told: Option<Vec<SocketAddr>>,
    last_read: Option<Instant>,
}

/// The receiver is gone: the daemon ends.
struct Closed;

impl Monitor {
    /// Subscribes in the caller's namespace.
    ///
    /// # Errors
    /// If the socket cannot be opened or bound.
    pub(super) fn open(
        netlink: Netlink,
        inventory: Arc<Inventory>,
        underlay: SocketAddr,
        events: mpsc::Sender<Input>,
    ) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        // A batch of some thousand changes fits; the kernel caps it at rmem_max.
        socket.socket_mut().set_rx_buf_sz(4 << 20)?;
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE
            | libc::RTMGRP_TC;
        socket
            .socket_mut()
            .bind(&NetlinkAddr::new(0, groups.cast_unsigned()))?;
        Ok(Self {
            socket,
            netlink,
            inventory,
            underlay,
            events,
            told: None,
            last_read: None,
        })
    }

    pub(super) async fn run(mut self) {
        let _ = self.watch().await;
    }

    async fn watch(&mut self) -> Result<(), Closed> {
        // The first reading is due at once.
        let mut due = Some(Instant::now());
        let inventory = Arc::clone(&self.inventory);
        loop {
            let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                received = std::future::poll_fn(|cx| self.socket.poll_recv_from_full(cx)) => {
                    let disturbed = match received {
                        Ok((datagram, _)) => self.read(&datagram).await?,
                        Err(error) => {
                            if error.raw_os_error() != Some(libc::ENOBUFS) {
                                tracing::warn!(code = %ErrorCode::KernelEvents, %error, "kernel events: read");
                                // Never a busy loop, whatever is wrong.
                                tokio::time::sleep(DEBOUNCE).await;
                            }
                            self.reread_ports().await?;
                            true
                        }
                    };
                    if disturbed && due.is_none() {
                        let soonest = self.last_read.map_or_else(Instant::now, |last| last + READ_PERIOD_MIN);
                        due = Some(soonest.max(Instant::now() + DEBOUNCE));
                    }
                }
                () = tokio::time::sleep_until(wake), if due.is_some() => {
                    due = None;
                    self.last_read = Some(Instant::now());
                    if !self.reread_addresses().await? {
                        due = Some(Instant::now() + READ_PERIOD_MIN);
                    }
                }
                devices = inventory.to_see() => {
                    for index in devices {
                        self.look_at_far_end(index).await?;
                        self.look_at_uplink(index).await?;
                        self.look_at_adopted(index).await?;
                    }
                }
                () = self.events.closed() => return Err(Closed),
            }
        }
    }

    /// True if the addresses may have changed.
    async fn read(&mut self, datagram: &[u8]) -> Result<bool, Closed> {
        let mut disturbed = false;
        for (kind, body) in netlink::messages(datagram) {
            match kind {
                netlink::RTM_NEWADDR
                | netlink::RTM_DELADDR
                | netlink::RTM_NEWROUTE
                | netlink::RTM_DELROUTE => disturbed = true,
                netlink::RTM_DELLINK => {
                    // A bridge port that leaves its bridge also says DELLINK, of the bridge family.
                    let Some(link) = Link::parse(body).filter(|_| body.first() == Some(&0)) else {
                        continue;
                    };
                    self.network_device_gone(link.index);
                    self.uplink_gone(link.index).await?;
                    match self.inventory.forget_device(link.index) {
                        Some((port, role, live)) => self.lost(port, role, live).await?,
                        None => disturbed = true,
                    }
                }
                netlink::RTM_NEWLINK => {
                    let Some(link) = Link::parse(body) else {
                        continue;
                    };
                    // Of the bridge family it tells of a port's flags, and leaves out the rest.
                    if body.first() != Some(&0) {
                        if self.inventory.networks.is_watched(link.index) {
                            self.look_at(link.index).await;
                        }
                        continue;
                    }
                    if self.inventory.networks.differs(&link).is_some() {
                        self.look_at(link.index).await;
                    }
                    self.look_at_uplink(link.index).await?;
                    self.look_at_adopted(link.index).await?;
                    for port in self.inventory.take_awaited(&link.name) {
                        self.tell(KernelEvent::Appeared { port }).await?;
                    }
                    self.look_over(link.index).await?;
                    match self.inventory.moved_away(&link) {
                        Some(port) => self.tell(KernelEvent::PortGone { port }).await?,
                        None if !self.inventory.holds(link.index) => disturbed = true,
                        None if !link.is_up() => self.inspect(link.index).await?,
                        None => self.look_at_far_end(link.index).await?,
                    }
                }
                netlink::RTM_DELQDISC | netlink::RTM_DELTFILTER => {
                    if let Some(index) = netlink::tc_device(body) {
                        self.look_at_filter(index).await;
                        self.inspect(index).await?;
                        self.inspect_uplink(index).await?;
                    }
                }
                _ => {}
            }
        }
        Ok(disturbed)
    }

    /// A device of a network, or a port in its bridge, may be otherwise than it should be. What was heard may be old, and
    /// of our own making, so this looks; it is told once.
    async fn look_at(&self, index: u32) {
        // If it is gone that is told by itself.
        if let Ok(Some(link)) = self.netlink.link_by_index(index).await {
            self.compare(&link);
        }
    }

    fn compare(&self, link: &Link) {
        let networks = &self.inventory.networks;
        if let Some((vni, part, what)) = networks.differs(link) {
            networks.unwatch(link.index);
            let disturbance = Disturbance { vni, part, what };
            self.inventory.disturbances.tell(disturbance);
        }
    }

    async fn look_at_filter(&self, index: u32) {
        let networks = &self.inventory.networks;
        if !networks.has_filter(index)
            || matches!(gate::attached(&self.netlink, index).await, Ok(Some(_)))
        {
            return;
        }
        networks.expect_filter(index, false);
        if let Some((vni, part)) = networks.part(index) {
            let what = What::LostFilter;
            let disturbance = Disturbance { vni, part, what };
            self.inventory.disturbances.tell(disturbance);
        }
    }

    fn network_device_gone(&self, index: u32) {
        self.inventory.entries.forget(index);
        // A port's own device goes with its namespace: that is told of the port, and its place in the bridge went with it.
        if self.inventory.is_of_port(index) {
            self.inventory.networks.forget(index);
            self.inventory.entries.forget_port(index);
            return;
        }
        if let Some((vni, part)) = self.inventory.networks.forget(index) {
            let what = What::Gone;
            let disturbance = Disturbance { vni, part, what };
            self.inventory.disturbances.tell(disturbance);
        }
    }

    async fn lost(&self, port: PortId, role: Role, live: bool) -> Result<(), Closed> {
        match (live, role) {
            // With the lower end the other one goes, and is told.
            (false, _) | (true, Role::Lower) => Ok(()),
            (true, Role::Veth) => self.tell(KernelEvent::PortGone { port }).await,
            (true, Role::Tap) => {
                let reason = "its TAP was deleted by somebody else; it is wired again".to_owned();
                self.tell(KernelEvent::WireFailed {
                    port,
                    code: ErrorCode::DeviceMeddled,
                    reason,
                    gone: false,
                })
                .await
            }
        }
    }

    /// Something was done to a device: if it is a live port's, is it as it was wired? What was heard may be old, and of our
    /// own making, so this looks.
    async fn inspect(&self, index: u32) -> Result<(), Closed> {
        let Some((port, role)) = self.inventory.live(index) else {
            return Ok(());
        };
        let filtered = role != Role::Lower && !self.inventory.is_adopted(port);
        let what = match self.netlink.link_by_index(index).await {
            // If it is gone that is told by itself.
            Err(_) | Ok(None) => return Ok(()),
            Ok(Some(link)) if !link.is_up() => "was set down",
            Ok(Some(_))
                if filtered
                    && !matches!(gate::attached(&self.netlink, index).await, Ok(Some(_))) =>
            {
                "lost its filter (clsact, cls_bpf)"
            }
            Ok(Some(_)) => return Ok(()),
        };
        self.inventory.set_broken(port);
        let device = match role {
            Role::Veth => "its veth",
            Role::Tap => "its TAP",
            Role::Lower => "the lower end of its veth",
        };
        let reason = format!("{device} {what} by somebody else; it is wired again");
        self.tell(KernelEvent::WireFailed {
            port,
            code: ErrorCode::DeviceMeddled,
            reason,
            gone: false,
        })
        .await
    }

    /// A veth changed: is its far end up? What was heard may be old, so this looks.
    async fn look_at_far_end(&self, index: u32) -> Result<(), Closed> {
        let Some((port, Role::Veth)) = self.inventory.live(index) else {
            return Ok(());
        };
        match self.netlink.link_by_index(index).await {
            Ok(Some(link)) if link.is_up() => {
                let up = link.has_carrier();
                self.tell(KernelEvent::FarEnd { port, up }).await
            }
            _ => Ok(()),
        }
    }

    /// The lower end of a macvlan's veth changed: is the macvlan still there? It goes with its namespace, or by somebody's hand.
    async fn look_over(&self, index: u32) -> Result<(), Closed> {
        let Some((port, upper)) = self.inventory.upper(index) else {
            return Ok(());
        };
        match self.netlink.link_in(upper.number, upper.index).await {
            // A namespace that is no more has no number.
            Ok(None) | Err(nix::errno::Errno::EINVAL) => {
                self.inventory.forget_upper(index);
                self.tell(KernelEvent::PortGone { port }).await
            }
            Ok(Some(_)) | Err(_) => Ok(()),
        }
    }

    /// An interface that is an uplink changed: does it carry frames? What was heard may be old, so this looks.
    async fn look_at_uplink(&self, index: u32) -> Result<(), Closed> {
        if self.inventory.uplinks_at(index).is_empty() {
            return Ok(());
        }
        if let Ok(Some(link)) = self.netlink.link_by_index(index).await {
            // The interface that was asked for is that of the name.
            for port in self.inventory.uplinks_renamed(&link) {
                let what = format!(
                    "was renamed to \"{}\" by somebody else: name it as it was, or detach the port and attach that name",
                    escape(&link.name)
                );
                self.uplink_broken(port, &what).await?;
            }
            let uplinks = self.inventory.uplinks_at(index);
            let up = link.is_up() && link.has_carrier();
            for (port, _) in uplinks {
                self.tell(KernelEvent::FarEnd { port, up }).await?;
                let mtu = link.mtu;
                self.tell(KernelEvent::FarMtu { port, mtu }).await?;
            }
        }
        Ok(())
    }

    /// Our TAP in a bridge of somebody else changed, or that bridge: is it still in it? What was heard may be old, so this looks.
    async fn look_at_adopted(&self, index: u32) -> Result<(), Closed> {
        for (port, tap, bridge) in self.inventory.adopted_at(index) {
            // If our own is gone that is told by itself.
            let Ok(Some(ours)) = self.netlink.link_by_index(tap).await else {
                continue;
            };
            if ours.master != Some(bridge) {
                self.inventory.set_broken(port);
                let reason =
                    "it is not in its bridge any more, or that is gone; it is put back".to_owned();
                self.tell(KernelEvent::WireFailed {
                    port,
                    code: ErrorCode::DeviceMeddled,
                    reason,
                    gone: false,
                })
                .await?;
            } else if let Ok(Some(bridge)) = self.netlink.link_by_index(bridge).await {
                let up = bridge.is_up();
                self.tell(KernelEvent::FarEnd { port, up }).await?;
                let mtu = bridge.mtu;
                self.tell(KernelEvent::FarMtu { port, mtu }).await?;
            }
        }
        Ok(())
    }

    /// Filters went from an interface: those of its uplinks as well?
    async fn inspect_uplink(&self, index: u32) -> Result<(), Closed> {
        for (port, priority) in self.inventory.uplinks_at(index) {
            if !matches!(
                gate::attached_at(&self.netlink, index, priority).await,
                Ok(None)
            ) {
                continue;
            }
            let what = "lost its filter (clsact, cls_bpf) by somebody else; it is wired again";
            self.uplink_broken(port, what).await?;
        }
        Ok(())
    }

    async fn uplink_gone(&self, index: u32) -> Result<(), Closed> {
        for (port, _) in self.inventory.uplinks_at(index) {
            let what = "went away; it is wired again once it is back";
            self.uplink_broken(port, what).await?;
        }
        Ok(())
    }

    async fn uplink_broken(&self, port: PortId, what: &str) -> Result<(), Closed> {
        self.inventory.set_broken(port);
        let reason = format!("its interface {what}");
        self.tell(KernelEvent::WireFailed {
            port,
            code: ErrorCode::DeviceMeddled,
            reason,
            gone: false,
        })
        .await
    }

    async fn tell(&self, event: KernelEvent) -> Result<(), Closed> {
        self.events
            .send(Input::Kernel(event))
            .await
            .map_err(|_| Closed)
    }

    /// After an overrun: which devices went away unheard.
    async fn reread_ports(&self) -> Result<(), Closed> {
        tracing::warn!(code = %ErrorCode::KernelEvents, "kernel events: overrun, reading all devices again");
        let links = match self.netlink.links().await {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(code = %ErrorCode::KernelEvents, %error, "kernel events: read devices");
                return Ok(());
            }
        };
        for index in self.inventory.missing_from(&links) {
            self.network_device_gone(index);
            if let Some((port, role, live)) = self.inventory.forget_device(index) {
                self.lost(port, role, live).await?;
            }
        }
        for index in self.inventory.uplinks() {
            if !links.iter().any(|link| link.index == index) {
                self.uplink_gone(index).await?;
            }
        }
        for index in self.inventory.networks.missing_from(&links) {
            self.network_device_gone(index);
        }
        for link in &links {
            self.compare(link);
            self.look_at_filter(link.index).await;
            self.inspect(link.index).await?;
            self.look_at_far_end(link.index).await?;
            self.look_over(link.index).await?;
            self.look_at_uplink(link.index).await?;
            self.look_at_adopted(link.index).await?;
            for port in self.inventory.take_awaited(&link.name) {
                self.tell(KernelEvent::Appeared { port }).await?;
            }
            self.inspect_uplink(link.index).await?;
        }
        for port in links
            .iter()
            .filter_map(|link| self.inventory.moved_away(link))
        {
            self.tell(KernelEvent::PortGone { port }).await?;
        }
        Ok(())
    }

    /// False: they could not be read, which a storm of changes may do (EAGAIN).
    async fn reread_addresses(&mut self) -> Result<bool, Closed> {
        let host = match host(&self.netlink, &self.inventory).await {
            Ok(host) => host,
            Err(error) => {
                tracing::warn!(code = %ErrorCode::KernelEvents, %error, "kernel events: read addresses");
                return Ok(false);
            }
        };
        let offered = addresses::offered(&host, self.underlay);
        if self.told.as_ref() != Some(&offered) {
            self.tell(KernelEvent::Addresses(offered.clone())).await?;
            self.told = Some(offered);
        }
        Ok(true)
    }
}

/// Reads what the choice of addresses looks at.
///
/// # Errors
/// The kernel's answer.
pub(super) async fn host(
    netlink: &Netlink,
    inventory: &Inventory,
) -> Result<Host, nix::errno::Errno> {
    let mut preferred = Vec::new();
    // Addresses of documentation (RFC 5737, RFC 3849): whatever has no route of its own takes the default route.
    for world in [
        IpAddr::from([192, 0, 2, 1]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    ] {
        let (family, octets) = match world {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
        };
        let bits = u8::try_from(octets.len() * 8).unwrap_or(0);
        let body = netlink::Body::new(u8::try_from(family).unwrap_or(0), 12)
            .set(1, &[bits])
            .attribute(libc::RTA_DST, &octets);
        // No route is an answer too.
        if let Ok(answer) = netlink.ask(libc::RTM_GETROUTE, false, body.bytes()).await {
            preferred.extend(
                answer
                    .first()
                    .and_then(|body| netlink::preferred_source(body)),
            );
        }
    }
    Ok(Host {
        links: netlink.links().await?,
        addresses: netlink.addresses().await?,
        preferred,
        own: inventory.devices(),
    })
}
