//! The UDP socket under the endpoint, and what the kernel knows about the way to an address.
#![allow(unsafe_code)]

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Wanted in each direction: what a gigabit path brings in the 30 ms that a busy host may not look.
pub(crate) const BUFFER: usize = 4 << 20;

/// For whom else a socket leaves room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Nobody.
    Alone,
    /// The host need not have the address yet.
    Early,
    /// More sockets of this process have the same address: the kernel gives each far end one of them (SO_REUSEPORT).
    Shared,
}

/// Binds `listen` so many times, at least once. `[::]` carries IPv4 too; where the host has no IPv6, `0.0.0.0` takes its place.
pub(super) fn bind(listen: SocketAddr, sockets: usize) -> io::Result<Vec<UdpSocket>> {
    let alone = bind_as(listen, Room::Alone)?;
    if sockets <= 1 {
        return Ok(vec![alone]);
    }
    // Sockets that share take an address that others share, too: that nobody has it is known from the one before.
    let listen = alone.local_addr()?;
    drop(alone);
    std::iter::repeat_with(|| bind_as(listen, Room::Shared))
        .take(sockets)
        .collect()
}

fn bind_as(listen: SocketAddr, room: Room) -> io::Result<UdpSocket> {
    match bind_one(listen, room) {
        Err(e)
            if listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && matches!(
                    e.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
        {
            bind_one((Ipv4Addr::UNSPECIFIED, listen.port()).into(), room)
        }
        other => other,
    }
}

/// Binds an address of an uplink, also while the host does not have it: an uplink may come later than meshd, or come back.
pub(super) fn bind_link(address: SocketAddr) -> io::Result<UdpSocket> {
    bind_one(address, Room::Early)
}

fn bind_one(listen: SocketAddr, room: Room) -> io::Result<UdpSocket> {
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
    match room {
        Room::Alone => {}
        // Of IPv6 sockets too: the kernel keeps one flag for both.
        Room::Early => setsockopt(&socket, sockopt::IpFreebind, &true)?,
        Room::Shared => setsockopt(&socket, sockopt::ReusePort, &true)?,
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
        let socket = bind("[::]:0".parse().unwrap(), 1).unwrap().remove(0);
        let port = socket.local_addr().unwrap().port();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"x", ("127.0.0.1", port)).unwrap();
        socket.set_nonblocking(false).unwrap();
        let mut buffer = [0; 8];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((len, plain(from)), (1, sender.local_addr().unwrap()));
    }

    #[test]
    fn far_ends_are_spread_over_sockets_that_nobody_else_may_join() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 4).unwrap();
        let address = sockets[0].local_addr().unwrap();
        for again in [1, 4] {
            let taken = bind(address, again).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        }
        let senders: Vec<_> = std::iter::repeat_with(|| UdpSocket::bind("127.0.0.1:0").unwrap())
            .take(64)
            .collect();
        for sender in senders.iter().chain(&senders) {
            sender.send_to(b"x", address).unwrap();
        }
        let heard = sockets.iter().map(|socket| {
            let mut buffer = [0; 8];
            let told = std::iter::from_fn(|| Some(socket.recv_from(&mut buffer).ok()?.1));
            told.collect::<Vec<_>>()
        });
        let heard: Vec<_> = heard.collect();
        assert_eq!(heard.iter().map(Vec::len).sum::<usize>(), 128);
        let used = heard.iter().filter(|told| !told.is_empty()).count();
        assert!(used > 1, "all were given to one socket");
        for sender in &senders {
            let sender = sender.local_addr().unwrap();
            let at = heard.iter().filter(|told| told.contains(&sender)).count();
            assert_eq!(at, 1, "a far end is with one socket");
        }
    }

    #[test]
    fn the_route_tells_what_fits() {
        let payload = route_payload("127.0.0.1:9".parse().unwrap()).unwrap();
        assert!(payload >= 1200, "{payload}");
    }
}
