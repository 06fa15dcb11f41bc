//! The UDP socket under the endpoint, and what the kernel knows about the way to an address.
#![allow(unsafe_code)]

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Wanted in each direction: what a gigabit path brings in the 30 ms that a busy host may not look.
const BUFFER: usize = 4 << 20;

/// Binds `listen`. `[::]` carries IPv4 too; where the host has no IPv6, `0.0.0.0` takes its place.
pub(super) fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    match bind_one(listen, false) {
        Err(e)
            if listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && matches!(
                    e.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
        {
            bind_one((Ipv4Addr::UNSPECIFIED, listen.port()).into(), false)
        }
        other => other,
    }
}

/// Binds an address of an uplink, also while the host does not have it: an uplink may come later than meshd, or come back.
pub(super) fn bind_link(address: SocketAddr) -> io::Result<UdpSocket> {
    bind_one(address, true)
}

fn bind_one(listen: SocketAddr, early: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(listen),
        Type::DGRAM.nonblocking().cloexec(),
        Some(Protocol::UDP),
    )?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Beyond the host's limit if we may; up to it otherwise. Too small a buffer costs speed, not correctness.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(BUFFER);
    }
    if early {
        // Of IPv6 sockets too: the kernel keeps one flag for both.
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    socket.bind(&SockAddr::from(listen))?;
    Ok(socket.into())
}

/// Bytes of UDP payload that the first hop towards `remote` takes, by the kernel's route; `None` if there is none.
pub(super) fn route_payload(remote: SocketAddr) -> Option<u16> {
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let (local, level, name, headers) = match remote {
        SocketAddr::V4(_) => (
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            libc::IPPROTO_IP,
            libc::IP_MTU,
            20 + 8,
        ),
        SocketAddr::V6(_) => (
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU,
            40 + 8,
        ),
    };
    let socket = UdpSocket::bind((local, 0)).ok()?;
    socket.connect(remote).ok()?;
    let mut mtu: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call; `mtu` and `len` are valid for writes of their own size, which
    // `len` states.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut mtu).cast(),
            &raw mut len,
        )
    };
    let mtu = u32::try_from(mtu).ok().filter(|_| done == 0)?;
    Some(u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX))
}

/// An address without the IPv6 wrapping that a dual-stack socket puts around IPv4.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_wildcard_socket_hears_ipv4() {
        let socket = bind("[::]:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"x", ("127.0.0.1", port)).unwrap();
        socket.set_nonblocking(false).unwrap();
        let mut buffer = [0; 8];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((len, plain(from)), (1, sender.local_addr().unwrap()));
    }

    #[test]
    fn the_route_tells_what_fits() {
        let payload = route_payload("127.0.0.1:9".parse().unwrap()).unwrap();
        assert!(payload >= 1200, "{payload}");
    }
}
