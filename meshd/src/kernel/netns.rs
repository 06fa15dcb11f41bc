//! Network namespaces: what a reference leads to, and netlink sockets inside.
//!
//! ```text
//!    tokio worker (never leaves its namespace)          thread, lives for one job
//!         | spawn -------------------------------------->| setns(fd)
//!         |                                              | open two netlink sockets there
//!         |<------------------------- sockets -----------| ends
//!         | requests on these sockets work in the namespace where they were opened
//! ```
//!
//! Owns the entering of namespaces. Refuses paths that are no namespace.

#![allow(unsafe_code)] // One ioctl, which asks an open namespace for its kind.

use super::netlink::{self, Address, Link, Raw};
use futures_util::StreamExt;
use meshd_core::code::ErrorCode;
use meshd_core::command::NetnsRef;
use meshd_core::ident::escape;
use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkPayload};
use netlink_proto::ConnectionHandle;
use netlink_proto::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

/// An open network namespace: it cannot come to mean another one while this value lives.
pub(super) struct Netns {
    file: File,
    shown: String,
}

/// Why a reference leads to no namespace.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetnsError {
    /// Nothing there, or only the leftover file of a namespace that was unmounted.
    #[error(
        "network namespace {0} does not exist: was the container stopped, or `ip netns add` not run?"
    )]
    Gone(String),
    /// Something else is there.
    #[error(
        "{0} is no network namespace: give a name below /run/netns, /proc/PID/ns/net, or a bind mount of one"
    )]
    Other(String),
    /// It cannot be opened.
    #[error("open network namespace {0}: {1}")]
    Open(String, io::Error),
}

impl NetnsError {
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }

    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::Gone(_) => ErrorCode::NetnsMissing,
            Self::Other(_) => ErrorCode::NetnsInvalid,
            Self::Open(..) => ErrorCode::KernelNotPermitted,
        }
    }
}

nix::ioctl_none!(
    /// NS_GET_NSTYPE of linux/nsfs.h: which kind of namespace it is, as the flag of clone(2) that makes one.
    ns_get_nstype,
    0xb7,
    0x3
);

/// False of a namespace of another kind, such as `/proc/PID/ns/mnt`.
fn is_network(namespace: &File) -> bool {
    // SAFETY: it takes no argument, and the descriptor is open.
    let kind = unsafe { ns_get_nstype(namespace.as_raw_fd()) };
    // Kernels before 4.11 do not say.
    kind.map_or(true, |kind| kind == libc::CLONE_NEWNET)
}

pub(super) fn path(netns: &NetnsRef) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(netns.path()))
}

impl Netns {
    /// What the path leads to; whether it is the namespace that a nameless one means is for `nameless.rs` to say.
    pub(super) fn open(netns: &NetnsRef) -> Result<Self, NetnsError> {
        let shown = escape(netns.path());
        // Not blocking: the path may be a pipe.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path(netns));
        let file = match opened {
            Ok(file) => file,
            // ESRCH: a /proc/PID whose process is just gone.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH)
                ) =>
            {
                return Err(NetnsError::Gone(shown));
            }
            Err(error) => return Err(NetnsError::Open(shown, error)),
        };
        match nix::sys::statfs::fstatfs(&file) {
            Ok(stat)
                if stat.filesystem_type() == nix::sys::statfs::NSFS_MAGIC && !is_network(&file) =>
            {
                Err(NetnsError::Other(shown))
            }
            Ok(stat) if stat.filesystem_type() == nix::sys::statfs::NSFS_MAGIC => Ok(Self {
                file,
                shown: format!("network namespace {shown}"),
            }),
            // What `ip netns add` mounts upon: the mount is gone, so the namespace is.
            Ok(_)
                if file
                    .metadata()
                    .is_ok_and(|meta| meta.is_file() && meta.len() == 0) =>
            {
                Err(NetnsError::Gone(shown))
            }
            Ok(_) => Err(NetnsError::Other(shown)),
            Err(error) => Err(NetnsError::Open(shown, error.into())),
        }
    }

    /// The caller's.
    pub(super) fn own() -> io::Result<Self> {
        Ok(Self {
            file: File::open("/proc/thread-self/ns/net")?,
            shown: "the daemon's own network namespace".to_owned(),
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// In words, for messages.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// True if both are the same namespace.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.id().is_some() && self.id() == other.id()
    }

    /// Device and inode of its file: no other namespace that is alive has both.
    pub(super) fn id(&self) -> Option<(u64, u64)> {
        let meta = self.file.metadata().ok()?;
        Some((meta.dev(), meta.ino()))
    }

    /// Runs `job` on a thread inside the namespace.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN there.
    pub(super) async fn inside<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (file, runtime) = (self.file.try_clone()?, tokio::runtime::Handle::current());
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                let entered = setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
                let _in_runtime = runtime.enter();
                let _ = tell.send(entered.map(|()| job()));
            })?;
        told.await
            .map_err(|_| io::Error::other("the thread in the namespace ended early"))?
    }
}

/// Netlink in one namespace. Clones are the same sockets.
#[derive(Clone)]
pub struct Netlink {
    /// For writing.
    pub(super) rt: rtnetlink::Handle,
    /// For reading.
    raw: ConnectionHandle<Raw>,
}

fn socket() -> io::Result<TokioSocket> {
    let socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_ref().set_rx_buf_sz(1 << 20)?;
    Ok(socket)
}

/// `IFLA_TARGET_NETNSID` of linux/if_link.h.
const TARGET: u16 = 46;
/// Another dump on the same socket is waited for so often, this far apart.
const DUMP_TRIES: u32 = 100;
const DUMP_PAUSE: Duration = Duration::from_millis(5);

impl Netlink {
    /// In the caller's namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the sockets cannot be opened.
    pub fn here() -> io::Result<Self> {
        Ok(Self::over(socket()?, socket()?))
    }

    /// In the caller's namespace, where the kernel takes dumps at their word (`NETLINK_GET_STRICT_CHK`): it filters, and refuses
    /// what it does not know.
    pub(super) fn strict() -> io::Result<Self> {
        let reading = socket()?;
        reading.socket_ref().set_netlink_get_strict_chk(true)?;
        Ok(Self::over(socket()?, reading))
    }

    /// In another one.
    pub(super) async fn at(netns: &Netns) -> io::Result<Self> {
        let (one, other) = netns
            .inside(|| Ok::<_, io::Error>((socket()?, socket()?)))
            .await??;
        Ok(Self::over(one, other))
    }

    fn over(one: TokioSocket, other: TokioSocket) -> Self {
        // The connections end when the last handle is dropped.
        let (connection, rt, _) = rtnetlink::from_socket(one);
        tokio::spawn(connection);
        let (connection, raw, _) =
            netlink_proto::from_socket_with_codec::<Raw, _, netlink_proto::NetlinkCodec>(other);
        tokio::spawn(connection);
        Self { rt, raw }
    }

    /// Asks once, or dumps; a dump that was disturbed by changes is repeated, and one waits while the kernel is at another on the
    /// same socket.
    pub(super) async fn ask(
        &self,
        kind: u16,
        dump: bool,
        body: Vec<u8>,
    ) -> Result<Vec<Vec<u8>>, Errno> {
        let mut waited = 0;
        loop {
            match self.ask_once(kind, dump, &body).await {
                Err(Errno::EBUSY) if dump && waited < DUMP_TRIES => {
                    waited += 1;
                    tokio::time::sleep(DUMP_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    async fn ask_once(&self, kind: u16, dump: bool, body: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        for _ in 0..5 {
            let mut answers = self
                .raw
                .request(
                    netlink::request(kind, dump, body.to_vec()),
                    SocketAddr::new(0, 0),
                )
                .map_err(|_| Errno::ENOTCONN)?;
            let (mut bodies, mut torn) = (Vec::new(), false);
            while let Some(message) = answers.next().await {
                torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(raw) => bodies.push(raw.body),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(Errno::from_raw(error.raw_code().wrapping_neg()));
                    }
                    NetlinkPayload::Overrun(_) => torn = true,
                    _ => {}
                }
            }
            if !torn {
                return Ok(bodies);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Changes something; `flags` besides those of any request.
    pub(super) async fn change(&self, kind: u16, flags: u16, body: Vec<u8>) -> Result<(), Errno> {
        let mut answers = self
            .raw
            .request(netlink::command(kind, flags, body), SocketAddr::new(0, 0))
            .map_err(|_| Errno::ENOTCONN)?;
        while let Some(message) = answers.next().await {
            if let NetlinkPayload::Error(error) = message.payload
                && error.code.is_some()
            {
                return Err(Errno::from_raw(error.raw_code().wrapping_neg()));
            }
        }
        Ok(())
    }

    /// All devices.
    pub(super) async fn links(&self) -> Result<Vec<Link>, Errno> {
        self.links_that(netlink::Body::new(0, 16)).await
    }

    /// The ports of a bridge. The kernel leaves out the others, so this costs as much as there are ports, not devices.
    pub(super) async fn links_of(&self, bridge: u32) -> Result<Vec<Link>, Errno> {
        let body = netlink::Body::new(0, 16);
        let links = self
            .links_that(body.attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes()))
            .await?;
        // The filter came with Linux 4.6.
        let of_it = |link: &Link| link.master == Some(bridge);
        Ok(links.into_iter().filter(of_it).collect())
    }

    async fn links_that(&self, body: netlink::Body) -> Result<Vec<Link>, Errno> {
        const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
        let body = body.attribute(libc::IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        Ok(self
            .ask(libc::RTM_GETLINK, true, body.bytes())
            .await?
            .iter()
            .filter_map(|body| Link::parse(body))
            .collect())
    }

    /// All devices of the namespace that this one calls so.
    pub(super) async fn links_in(&self, netns: i32) -> Result<Vec<Link>, Errno> {
        let body = netlink::Body::new(0, 16).attribute(TARGET, &netns.to_ne_bytes());
        let answers = self.ask(libc::RTM_GETLINK, true, body.bytes()).await?;
        Ok(answers
            .iter()
            .filter_map(|body| Link::parse(body))
            .collect())
    }

    /// Deletes a device of the namespace that this one calls so; one that is gone is fine.
    pub(super) async fn delete_in(&self, netns: i32, index: u32) -> Result<(), Errno> {
        let body = netlink::Body::new(0, 16)
            .set(4, &index.to_ne_bytes())
            .attribute(TARGET, &netns.to_ne_bytes());
        match self.change(libc::RTM_DELLINK, 0, body.bytes()).await {
            Ok(()) | Err(Errno::ENODEV) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What this namespace calls the others that it has called something.
    pub(super) async fn numbers(&self) -> Result<Vec<i32>, Errno> {
        let body = netlink::Body::new(0, 4).bytes();
        let answers = self.ask(libc::RTM_GETNSID, true, body).await?;
        let numbers = answers
            .iter()
            .filter_map(|body| netlink::netns_number(body));
        Ok(numbers.collect())
    }

    async fn link(&self, body: netlink::Body) -> Result<Option<Link>, Errno> {
        match self.ask(libc::RTM_GETLINK, false, body.bytes()).await {
            Ok(bodies) => Ok(bodies.first().and_then(|body| Link::parse(body))),
            Err(Errno::ENODEV | Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One device; `None` if there is none of this number.
    pub(super) async fn link_by_index(&self, index: u32) -> Result<Option<Link>, Errno> {
        self.link(netlink::Body::new(0, 16).set(4, &index.to_ne_bytes()))
            .await
    }

    /// One device of the namespace that this one calls so; `None` if there is none of this number.
    pub(super) async fn link_in(
        &self,
        netns: Option<i32>,
        index: u32,
    ) -> Result<Option<Link>, Errno> {
        let body = netlink::Body::new(0, 16).set(4, &index.to_ne_bytes());
        let body = match netns {
            Some(number) => body.attribute(TARGET, &number.to_ne_bytes()),
            None => body,
        };
        self.link(body).await
    }

    /// One device; `None` if there is none of this name.
    pub(super) async fn link_by_name(&self, name: &[u8]) -> Result<Option<Link>, Errno> {
        let found = self
            .link(netlink::Body::new(0, 16).attribute(libc::IFLA_IFNAME, &[name, b"\0"].concat()))
            .await?;
        Ok(found.filter(|link| link.name == name))
    }

    /// All addresses.
    pub(super) async fn addresses(&self) -> Result<Vec<Address>, Errno> {
        let body = netlink::Body::new(0, 8);
        Ok(self
            .ask(libc::RTM_GETADDR, true, body.bytes())
            .await?
            .iter()
            .filter_map(|body| Address::parse(body))
            .collect())
    }

    /// As [`Self::number_of`], but gives it a number if it has none.
    pub(super) async fn number(&self, netns: &Netns) -> Result<Option<i32>, Errno> {
        /// `RTM_NEWNSID` of linux/rtnetlink.h.
        const RTM_NEWNSID: u16 = 88;
        const NETNSA_NSID: u16 = 1;
        const NETNSA_FD: u16 = 3;
        if let Some(number) = self.number_of(netns).await? {
            return Ok(Some(number));
        }
        // The kernel chooses.
        let body = netlink::Body::new(0, 4)
            .attribute(NETNSA_NSID, &(-1i32).to_ne_bytes())
            .attribute(NETNSA_FD, &netns.fd().to_ne_bytes());
        match self.change(RTM_NEWNSID, 0, body.bytes()).await {
            Ok(()) | Err(Errno::EEXIST) => self.number_of(netns).await,
            Err(error) => Err(error),
        }
    }

    /// The number that this namespace gave to another one; `None` if it gave none.
    pub(super) async fn number_of(&self, netns: &Netns) -> Result<Option<i32>, Errno> {
        const NETNSA_FD: u16 = 3;
        let body = netlink::Body::new(0, 4).attribute(NETNSA_FD, &netns.fd().to_ne_bytes());
        let answer = self.ask(libc::RTM_GETNSID, false, body.bytes()).await?;
        Ok(answer.first().and_then(|body| netlink::netns_number(body)))
    }
}
