//! What others do to the FDB entries of our bridges and VXLAN devices.
//!
//! ```text
//!    multicast group neigh --filter: bridge family only--> an entry of ours went, or came, that should not: look
//!                                                             -> Disturbance, once until the table is read again
//!    ENOBUFS: some were lost -> all networks are to be looked at
//! ```
//!
//! Owns a socket of its own: ten thousand changes of ours pass here without crowding out news of links and addresses, and
//! the host's ARP and ND never get here. Refuses to act.

use super::batch::set_receive_buffer;
use super::disturbance::{Disturbance, Part, What};
use super::fdb::{self, FdbTarget, Seen};
use super::inventory::Inventory;
use super::netlink;
use super::netns::Netlink;
use meshd_core::code::ErrorCode;
use netlink_proto::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// After an error that is no overrun: never a busy loop, whatever is wrong.
const PAUSE: Duration = Duration::from_millis(300);

/// The watcher; it runs until its task is ended.
pub(super) struct FdbMonitor {
    socket: TokioSocket,
    netlink: Netlink,
    inventory: Arc<Inventory>,
}

impl FdbMonitor {
    /// Subscribes in the caller's namespace.
    ///
    /// # Errors
    /// If the socket cannot be opened or bound.
    pub(super) fn open(netlink: Netlink, inventory: Arc<Inventory>) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        // Ten thousand changes fit.
        set_receive_buffer(&socket, 8 << 20)?;
        socket2::SockRef::from(socket.socket_ref()).attach_filter(&bridge_family())?;
        let groups = libc::RTMGRP_NEIGH.cast_unsigned();
        socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
        Ok(Self {
            socket,
            netlink,
            inventory,
        })
    }

    pub(super) async fn run(self) {
        loop {
            match std::future::poll_fn(|cx| self.socket.poll_recv_from_full(cx)).await {
                Ok((datagram, _)) => {
                    for (kind, body) in netlink::messages(&datagram) {
                        if let Some(seen) = Seen::parse(body) {
                            self.read(kind, &seen).await;
                        }
                    }
                }
                Err(error) => {
                    if error.raw_os_error() != Some(libc::ENOBUFS) {
                        tracing::warn!(code = %ErrorCode::KernelEvents, %error, "kernel events: read FDB changes");
                        tokio::time::sleep(PAUSE).await;
                    }
                    for vni in self.inventory.networks.networks() {
                        let (part, what) = (Part::Fdb, What::Unknown);
                        let disturbance = Disturbance { vni, part, what };
                        self.inventory.disturbances.tell(disturbance);
                    }
                }
            }
        }
    }

    async fn read(&self, kind: u16, seen: &Seen) {
        let Inventory {
            networks, entries, ..
        } = &*self.inventory;
        let device = seen.entry.device;
        let bridge = networks.bridge_of(device);
        let group = match seen.entry.target {
            FdbTarget::Port => bridge,
            FdbTarget::Vtep { .. } => networks.holds(device).then_some(device),
        };
        let Some(group) = group.filter(|group| !seen.is_local() && !entries.is_told(*group)) else {
            return;
        };
        let expected = entries.expects(&seen.entry, bridge);
        let is_news = match kind {
            libc::RTM_NEWNEIGH => !expected || !seen.is_as_made(),
            libc::RTM_DELNEIGH => expected,
            _ => false,
        };
        // What was heard may be old, and of our own making.
        if !is_news {
            return;
        }
        let found = fdb::look(&self.netlink, &seen.entry).await;
        // We may have changed our mind meanwhile.
        let is_wrong = match entries.expects(&seen.entry, bridge) {
            true => found != Some(true),
            false => found.is_some() && !expected,
        };
        if !is_wrong {
            return;
        }
        // Entries go with the port that they lead to, which is told of that port: one of a namespace that went away.
        let there = self.netlink.link_by_index(seen.entry.device).await;
        if !matches!(there, Ok(Some(_))) {
            return;
        }
        if let Some((vni, _)) = networks.part(group)
            && entries.tell(group)
        {
            let (part, what) = (Part::Fdb, What::Changed);
            let disturbance = Disturbance { vni, part, what };
            self.inventory.disturbances.tell(disturbance);
        }
    }
}

/// Of a message only those whose family (the first byte after the head of 16) is AF_BRIDGE.
fn bridge_family() -> [socket2::SockFilter; 4] {
    [
        // Load the byte at 16 (BPF_LD | BPF_B | BPF_ABS).
        socket2::SockFilter::new(0x30, 0, 0, 16),
        // Is it 7? (BPF_JMP | BPF_JEQ | BPF_K)
        socket2::SockFilter::new(0x15, 0, 1, 7),
        // Take all of it, or nothing (BPF_RET | BPF_K).
        socket2::SockFilter::new(0x06, 0, 0, u32::MAX),
        socket2::SockFilter::new(0x06, 0, 0, 0),
    ]
}
