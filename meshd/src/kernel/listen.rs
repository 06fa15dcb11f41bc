//! Sockets that hear what the kernel forwards by itself: at a port's veth, at a network's VXLAN device, on the underlay.
//!
//! ```text
//!   mv<port> --in--> [listener: what the gate lets pass] --> gate --> bridge --> mx<vni> --> [listener] --> VXLAN --> [listener] eth0
//!   mt<port> --------------------- not heard: the daemon shows it by itself ---------------------> mv<port>
//! ```
//!
//! Owns AF_PACKET sockets (packet(7)) with a filter of the gate's own making, so that no frame is heard that the daemon sees. They
//! are there only while somebody captures. A socket that is read too slowly loses frames and counts them.
#![allow(unsafe_code)] // SO_ATTACH_BPF, PACKET_STATISTICS and AsyncFd have no safe wrapper.

use super::marks::NetworkRole;
use super::{Kernel, StepError, gate};
use meshd_core::ident::{PortId, Vni};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    recvmsg, setsockopt, socket, sockopt,
};
use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes that wait in a socket.
const BUFFER: usize = 4 << 20;
/// `PACKET_OUTGOING` of linux/if_packet.h.
const PACKET_OUTGOING: u8 = 4;

/// A frame that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Nanoseconds since the Unix epoch, by the kernel.
    pub at_ns: u64,
    /// It left by the device, or (false) came in there.
    pub outgoing: bool,
    /// From the destination MAC on.
    pub bytes: Vec<u8>,
}

/// A socket that listens at one device.
#[derive(Debug)]
pub struct Listener {
    fd: AsyncFd<OwnedFd>,
    device: u32,
}

/// Sets an option of a socket.
fn set<T>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the value lives over the call and has the length that is given; the kernel only reads it.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    Errno::result(answer).map(drop)
}

impl Listener {
    /// Hears at `device` what `filter` lets through. The filter comes first, so nothing else is ever in the socket.
    fn open(device: u32, filter: &OwnedFd) -> Result<Self, StepError> {
        let step = |step: &'static str| move |errno| (step, errno);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            flags,
            None::<SockProtocol>,
        )
        .map_err(step("open a packet socket for"))?;
        set(
            &fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            &filter.as_raw_fd(),
        )
        .map_err(step("set the filter of the packet socket at"))?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)
            .and_then(|()| setsockopt(&fd, sockopt::RcvBufForce, &BUFFER))
            .map_err(step("set the packet socket at"))?;
        // SAFETY: all zeros are an address; what matters is set below.
        let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        at.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        at.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
        at.sll_ifindex = device.cast_signed();
        let length = libc::socklen_t::try_from(size_of_val(&at)).unwrap_or_default();
        // SAFETY: the address lives over the call and has the length that is given.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const at).cast(), length) };
        Errno::result(bound).map_err(step("bind a packet socket to"))?;
        // SAFETY: the descriptor is owned, open, and always the same.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let fd = fd.map_err(|_| ("wait for the packet socket at", Errno::EBADF))?;
        Ok(Self { fd, device })
    }

    /// The number of its device.
    #[must_use]
    pub fn device(&self) -> u32 {
        self.device
    }

    /// Waits for frames, and takes up to `most` that are there. An empty answer: its device is gone.
    pub async fn hear(&self, most: usize, buffer: &mut [u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            let Ok(mut ready) = self.fd.readable().await else {
                return heard;
            };
            loop {
                match take(self.fd.get_ref(), buffer) {
                    Ok(one) => heard.push(one),
                    Err(Errno::EAGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(Errno::EINTR) => {}
                    // ENETDOWN: the device is down, or gone.
                    Err(_) => return heard,
                }
                if heard.len() >= most {
                    return heard;
                }
            }
            if !heard.is_empty() {
                return heard;
            }
        }
    }

    /// Frames that found no room since this was asked last.
    #[must_use]
    pub fn missed(&self) -> u64 {
        // struct tpacket_stats: packets, drops. Reading sets both to 0.
        let mut counts = [0u32; 2];
        let mut length = libc::socklen_t::try_from(size_of_val(&counts)).unwrap_or_default();
        // SAFETY: the kernel writes no more than the length that is given, which is that of `counts`.
        let answer = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let [_, dropped] = counts;
        if answer == 0 { dropped.into() } else { 0 }
    }
}

/// One frame from the socket.
fn take(fd: &OwnedFd, buffer: &mut [u8]) -> Result<Heard, Errno> {
    let mut control = nix::cmsg_space!(libc::timespec);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<LinkAddr>(
        fd.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let outgoing = message
        .address
        .is_some_and(|address| address.pkttype() == PACKET_OUTGOING);
    let length = message.bytes;
    let mut at_ns = 0;
    for told in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmTimestampns(time) = told {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
            let nanos = u64::try_from(time.tv_nsec()).unwrap_or_default();
            at_ns = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        }
    }
    Ok(Heard {
        at_ns,
        outgoing,
        bytes: buffer.get(..length).unwrap_or_default().to_vec(),
    })
}

impl Kernel {
    /// Listens at the host's end of a port: what its gate lets in, and what the kernel sends into the port. `None`: the port has no
    /// such device now. `mtu`: of the network.
    ///
    /// # Errors
    /// The step that the kernel refused; EPERM without CAP_NET_RAW.
    pub fn listen_at_port(&self, port: PortId, mtu: u16) -> Option<Result<Listener, StepError>> {
        let devices = self.0.inventory.of(port);
        let (veth, tap) = (devices.veth?, devices.tap?);
        let filter = self.ledger().gate().port_listener(tap, mtu);
        Some(filter.and_then(|filter| Listener::open(veth, &filter)))
    }

    /// Listens at a network's VXLAN device, where frames are not encapsulated yet, or no longer. As [`Self::listen_at_port`].
    ///
    /// # Errors
    /// The same.
    pub fn listen_at_vxlan(&self, vni: Vni, mtu: u16) -> Option<Result<Listener, StepError>> {
        let device = self.vxlan_device(vni)?;
        let tap = self.network_device(vni, NetworkRole::Vtap)?;
        let filter = self.ledger().gate().vxlan_listener(tap, mtu);
        Some(filter.and_then(|filter| Listener::open(device, &filter)))
    }

    /// Listens for VXLAN, as it is on the wire, at a device of the underlay: to UDP port `port`, of one network or of all.
    ///
    /// # Errors
    /// The same.
    pub fn listen_on_underlay(
        &self,
        device: u32,
        port: u16,
        vni: Option<Vni>,
    ) -> Result<Listener, StepError> {
        gate::underlay_listener(port, vni).and_then(|filter| Listener::open(device, &filter))
    }

    /// The number of a network's VXLAN device.
    #[must_use]
    pub fn vxlan_device(&self, vni: Vni) -> Option<u32> {
        self.network_device(vni, NetworkRole::Vxlan)
    }

    /// The device that has this address of the host.
    pub async fn device_of(&self, address: IpAddr) -> Option<u32> {
        let addresses = self.0.own.addresses().await.ok()?;
        let with = addresses.iter().find(|one| one.ip == address)?;
        Some(with.index)
    }
}
