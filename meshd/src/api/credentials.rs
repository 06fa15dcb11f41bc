//! Who is at the other end of a Unix socket, as the kernel says (unix(7), `SO_PEERCRED` and `SO_PEERGROUPS`): as it was when
//! the connection was made.
#![allow(unsafe_code)] // SO_PEERGROUPS has no safe wrapper.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use tokio::net::UnixStream;

/// More groups than the kernel lets a process have (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// A process that connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its effective user.
    pub(super) uid: u32,
    /// Its groups: the effective one and the supplementary ones.
    pub(super) groups: Vec<u32>,
}

/// Of a connection.
///
/// # Errors
/// If the kernel does not tell.
pub(super) fn of(stream: &UnixStream) -> io::Result<Peer> {
    let told = stream.peer_cred()?;
    let mut groups = supplementary(stream.as_fd())?;
    groups.push(told.gid());
    Ok(Peer {
        uid: told.uid(),
        groups,
    })
}

fn supplementary(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut room = 64;
    loop {
        let mut groups = vec![0u32; room];
        let mut bytes = libc::socklen_t::try_from(room * size_of::<u32>())
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the buffer has `bytes` bytes, the descriptor is borrowed for the call, and any bytes are valid numbers.
        let code = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if code == 0 {
            groups.truncate(bytes as usize / size_of::<u32>());
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || room >= GROUPS_MAX {
            return Err(error);
        }
        room = GROUPS_MAX.min(room * 4);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_tells_user_and_groups_of_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = of(&one).unwrap();
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.groups.contains(&nix::unistd::getegid().as_raw()));
        for group in nix::unistd::getgroups().unwrap() {
            assert!(peer.groups.contains(&group.as_raw()), "{group}");
        }
    }
}
