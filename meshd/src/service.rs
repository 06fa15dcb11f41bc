//! The node's own presence on a network: a namespace without a name, in it a TAP with the network's service addresses, and
//! on these the name service.
//!
//! ```text
//!    switch --- lane --- TAP |  namespace of this network: 10.0.0.1/24, fd00::1/64   (kernel answers ARP, ND, ping)
//!                            |     UDP 53, TCP 53 --> dns.rs
//! ```
//!
//! Owns the namespace, the TAP and the sockets: they live as long as this value, and vanish with the daemon. Networks may
//! use the same subnet, hence one namespace each. It never routes: no forwarding between the network and this host.
#![allow(unsafe_code)] // unshare(2) of a thread that ends right after.

use crate::dns::{Forwarder, NameService, NamesHandle};
use crate::kernel::PortTap;
use futures_util::TryStreamExt;
use hickory_server::Server;
use meshd_core::command::ServiceWiring;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::{LinkUnspec, packet_route::link::LinkFlags};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio_tun::Tun;

/// Why a network has no service on this node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// The system refused a step.
    #[error("service of network {vni}: {step}: {source}")]
    Step {
        /// The network.
        vni: meshd_core::ident::Vni,
        /// What was tried.
        step: &'static str,
        /// The answer.
        source: std::io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("service of network {vni}: {step}: {source}")]
    Netlink {
        /// The network.
        vni: meshd_core::ident::Vni,
        /// What was tried.
        step: &'static str,
        /// The answer.
        source: rtnetlink::Error,
    },
}

/// A running service; dropping it ends it.
pub(crate) struct Service {
    server: Server<NameService>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.server.shutdown_token().cancel();
    }
}

/// What the thread inside the new namespace brings out.
struct Inside {
    tap: Tun,
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<std::net::TcpListener>,
}

impl Service {
    /// Makes the namespace, the TAP with the service's addresses, and answers names there.
    ///
    /// # Errors
    /// Names the step that failed; nothing is left then.
    pub(crate) async fn start(
        wiring: &ServiceWiring,
        names: NamesHandle,
        forward: Forwarder,
    ) -> Result<(Self, PortTap), ServiceError> {
        let (wiring, runtime) = (wiring.clone(), tokio::runtime::Handle::current());
        let vni = wiring.vni;
        let handler = NameService::new(vni, &wiring.domain, names, forward);
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own: a namespace belongs to a thread, and tokio's are shared.
        let spawned = std::thread::Builder::new()
            .name(format!("service-{vni}"))
            .spawn(move || {
                let _ = tell.send(build(&wiring, &runtime));
            });
        let step = |step| move |source| ServiceError::Step { vni, step, source };
        spawned.map_err(step("start a thread"))?;
        let inside = told.await.map_err(|_| {
            step("build the namespace")(std::io::Error::other("the thread ended early"))
        })??;
        let mut server = Server::new(handler);
        for socket in inside.udp {
            server.register_socket(
                tokio::net::UdpSocket::from_std(socket).map_err(step("register UDP 53"))?,
            );
        }
        for listener in inside.tcp {
            let listener =
                tokio::net::TcpListener::from_std(listener).map_err(step("register TCP 53"))?;
            server.register_listener(listener, Duration::from_secs(5), 16);
        }
        Ok((Self { server }, PortTap::Plain(inside.tap)))
    }
}

fn build(wiring: &ServiceWiring, runtime: &tokio::runtime::Handle) -> Result<Inside, ServiceError> {
    let vni = wiring.vni;
    let step = |step| move |source| ServiceError::Step { vni, step, source };
    // SAFETY: affects only the calling thread, which ends with this function.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(step("make a network namespace")(
            std::io::Error::last_os_error(),
        ));
    }
    let _in_runtime = runtime.enter();
    let tap = Tun::builder()
        .name("svc0")
        .tap()
        .mtu(i32::from(wiring.mtu))
        .build()
        .map_err(|error| step("make a TAP (is /dev/net/tun there?)")(std::io::Error::other(error)))?
        .pop()
        .ok_or_else(|| step("make a TAP")(std::io::Error::other("no queue")))?;
    let (connection, netlink, _) = rtnetlink::new_connection().map_err(step("open netlink"))?;
    let connection = runtime.spawn(connection);
    let configured = runtime.block_on(configure(&netlink, wiring));
    connection.abort();
    configured?;
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for net in &wiring.ips {
        let address = SocketAddr::new(net.addr(), 53);
        let socket = std::net::UdpSocket::bind(address).map_err(step("bind UDP 53"))?;
        socket.set_nonblocking(true).map_err(step("bind UDP 53"))?;
        udp.push(socket);
        let listener = std::net::TcpListener::bind(address).map_err(step("bind TCP 53"))?;
        listener
            .set_nonblocking(true)
            .map_err(step("bind TCP 53"))?;
        tcp.push(listener);
    }
    Ok(Inside { tap, udp, tcp })
}

async fn configure(
    netlink: &rtnetlink::Handle,
    wiring: &ServiceWiring,
) -> Result<(), ServiceError> {
    let vni = wiring.vni;
    let step = |step| move |source| ServiceError::Netlink { vni, step, source };
    let index_of = async |name: &str| {
        let mut links = netlink.link().get().match_name(name.to_owned()).execute();
        match links.try_next().await {
            Ok(Some(link)) => Ok(link.header.index),
            Ok(None) => Err(ServiceError::Step {
                vni,
                step: "find the device",
                source: std::io::ErrorKind::NotFound.into(),
            }),
            Err(source) => Err(step("find the device")(source)),
        }
    };
    let lo = index_of("lo").await?;
    netlink
        .link()
        .set(LinkUnspec::new_with_index(lo).up().build())
        .execute()
        .await
        .map_err(step("set lo up"))?;
    let tap = index_of("svc0").await?;
    let change = LinkUnspec::new_with_index(tap)
        .address(wiring.mac.0.to_vec())
        .build();
    netlink
        .link()
        .set(change)
        .execute()
        .await
        .map_err(step("set the MAC"))?;
    for net in &wiring.ips {
        let mut request = netlink.address().add(tap, net.addr(), net.prefix_len());
        if matches!(net.addr(), IpAddr::V6(_)) {
            // The same address is on every node, on purpose: no duplicate address detection.
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request
            .execute()
            .await
            .map_err(step("add a service address"))?;
    }
    let mut up = LinkUnspec::new_with_index(tap).up().build();
    up.header.change_mask |= LinkFlags::Up;
    netlink
        .link()
        .set(up)
        .execute()
        .await
        .map_err(step("set the TAP up"))
}
