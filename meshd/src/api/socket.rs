//! The socket file: who may take its place, who may connect, how many at once, and the loop that serves them. What who connects may
//! do is in `access.rs`.
//!
//! Owns the file from binding to the end. Refuses links, things that are no socket, and a socket on which somebody answers.
//! The file is bound under another name, closed to others, and only then moved into place: there is no moment at which
//! somebody else could connect.

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use meshd_core::code::ErrorCode;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a path that fit into `sockaddr_un`, without its final NUL.
const PATH_MAX: usize = 107;

/// Why the API's socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SocketError {
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is there and is no socket; remove it, or give another path by --socket or MESHD_SOCKET", path = path.display())]
    NoSocket { path: PathBuf },
    #[error("somebody answers on {path}, another meshd most likely; stop that one, or give another path by --socket (MESHD_SOCKET)", path = path.display())]
    InUse { path: PathBuf },
    #[error("the socket path {path} has {len} bytes; the kernel takes at most {max}. Give a shorter one by --socket or MESHD_SOCKET", path = path.display(), max = PATH_MAX - SUFFIX)]
    Long { path: PathBuf, len: usize },
}

/// Bytes of the longest suffix of the name under which the socket is bound first.
const SUFFIX: usize = ".4194304".len();

/// A listening socket with its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    /// `None`: it belongs to who handed the socket over.
    file: Option<SocketFile>,
}

/// Removes the file when dropped, if it is still the one that was made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    made: (u64, u64),
}

impl Socket {
    /// Listens at `path`, mode 0600; a stale socket there is replaced.
    ///
    /// # Errors
    /// See [`SocketError`]; what is at `path` is unchanged then.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let io = |doing, source| SocketError::Io {
            doing,
            path: path.to_owned(),
            source,
        };
        let len = path.as_os_str().len();
        if len > PATH_MAX - SUFFIX {
            return Err(SocketError::Long {
                path: path.to_owned(),
                len,
            });
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(|e| io("make the folder of", e))?;
        }
        check_place(path)?;
        let mut first = path.as_os_str().to_owned();
        first.push(format!(".{}", std::process::id()));
        let first = PathBuf::from(first);
        // Left by a process of the same number that was killed between two lines of this function.
        if first
            .symlink_metadata()
            .is_ok_and(|meta| meta.file_type().is_socket())
        {
            let _ = std::fs::remove_file(&first);
        }
        let listener = UnixListener::bind(&first).map_err(|e| io("listen at", e))?;
        let place = || {
            std::fs::set_permissions(&first, Permissions::from_mode(0o600))?;
            let meta = first.symlink_metadata()?;
            std::fs::rename(&first, path)?;
            Ok((meta.dev(), meta.ino()))
        };
        let made = place().map_err(|e| {
            let _ = std::fs::remove_file(&first);
            io("place", e)
        })?;
        Ok(Self {
            listener,
            file: Some(SocketFile {
                path: path.to_owned(),
                made,
            }),
        })
    }

    /// Of a socket that listens already, handed over by the service manager.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn inherited(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            file: None,
        })
    }

    /// Lets all users of the host connect: who connects is told by the kernel, and may do what the config says.
    ///
    /// # Errors
    /// If the file's mode cannot be changed.
    pub fn open_to_all(&self, path: &Path) -> Result<(), SocketError> {
        std::fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(|source| {
            SocketError::Io {
                doing: "open to other users",
                path: path.to_owned(),
                source,
            }
        })
    }

    pub(super) fn into_parts(self, connections_max: usize) -> (Limited, Option<SocketFile>) {
        (
            Limited {
                listener: self.listener,
                places: Arc::new(Semaphore::new(connections_max)),
            },
            self.file,
        )
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self
            .path
            .symlink_metadata()
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.made)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn check_place(path: &Path) -> Result<(), SocketError> {
    let io = |doing, source| SocketError::Io {
        doing,
        path: path.to_owned(),
        source,
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io("look at", error)),
        Ok(meta) if !meta.file_type().is_socket() => Err(SocketError::NoSocket {
            path: path.to_owned(),
        }),
        Ok(_) => match knock(path) {
            Ok(true) => Err(SocketError::InUse {
                path: path.to_owned(),
            }),
            Ok(false) => Ok(()),
            Err(error) => Err(io("try", error)),
        },
    }
}

/// Whether somebody listens there. Without waiting: who hangs accepts nobody, and would keep us for ever.
fn knock(path: &Path) -> io::Result<bool> {
    let probe = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&socket2::SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        // As many as it wants wait already, and nobody lets them in (unix(7), EAGAIN).
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

/// A listener that accepts only as many connections as it has places.
pub(super) struct Limited {
    listener: UnixListener,
    places: Arc<Semaphore>,
}

impl Limited {
    /// The next connection, once there is a place for it.
    pub(super) async fn accept(&mut self) -> Placed {
        loop {
            // The semaphore is never closed; if it were, waiting is the safe answer.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                std::future::pending().await
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    return Placed {
                        stream,
                        _place: place,
                    };
                }
                Err(error) => {
                    tracing::warn!(code = %ErrorCode::ConnectionsFailed, %error, "cannot accept a connection of the API");
                    // Out of descriptors, most likely: somebody must close one first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Serves `router` to whoever connects, one request a connection, until the future is dropped; the socket's file goes with
/// it. `most`: connections at once; more wait. `head_within`: for a request's head to come. `begin` runs a connection.
pub(crate) async fn serve(
    socket: Socket,
    most: usize,
    head_within: Duration,
    router: axum::Router,
    mut begin: impl FnMut(Pin<Box<dyn Future<Output = ()> + Send>>),
) {
    let (mut listener, _file) = socket.into_parts(most);
    loop {
        let connection = listener.accept().await;
        begin(Box::pin(answer(connection, router.clone(), head_within)));
    }
}

/// Answers the one request of a connection.
pub(super) async fn answer<S>(connection: S, router: axum::Router, head_within: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(head_within)
        .keep_alive(false);
    // Whoever went away, or was too slow, has nobody to be told.
    let _ = http
        .serve_connection(TokioIo::new(connection), service)
        .await;
}

/// A connection that gives its place back when it ends.
pub(super) struct Placed {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl Placed {
    /// Who is at the other end is asked of it.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_closed_to_others_and_goes_with_its_owner() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run/meshd.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(path.symlink_metadata().unwrap().mode() & 0o777, 0o600);
        assert!(matches!(
            Socket::bind(&path),
            Err(SocketError::InUse { .. })
        ));
        drop(socket.into_parts(1));
        assert!(!path.exists());
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            0
        );
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_anything_else_is_left() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Socket::bind(&path).unwrap().into_parts(1));

        std::fs::write(&path, "letter").unwrap();
        assert!(matches!(
            Socket::bind(&path),
            Err(SocketError::NoSocket { .. })
        ));
        let link = temp.path().join("l");
        std::os::unix::fs::symlink(temp.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(
            Socket::bind(&link),
            Err(SocketError::NoSocket { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"letter");
    }

    #[tokio::test]
    async fn a_process_that_hangs_on_its_socket_is_in_the_way_and_holds_nobody_up() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let unix = || {
            let (domain, kind) = (socket2::Domain::UNIX, socket2::Type::STREAM);
            socket2::Socket::new(domain, kind, None).unwrap()
        };
        let address = socket2::SockAddr::unix(&path).unwrap();
        let hung = unix();
        hung.bind(&address).unwrap();
        hung.listen(0).unwrap();
        // Until the next one would have to wait.
        let mut waiting = Vec::new();
        loop {
            let client = unix();
            client.set_nonblocking(true).unwrap();
            match client.connect(&address) {
                Ok(()) => waiting.push(client),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert!(matches!(
            Socket::bind(&path),
            Err(SocketError::InUse { .. })
        ));
    }

    #[tokio::test]
    async fn a_path_longer_than_the_kernel_takes_is_refused_with_its_length() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        assert!(matches!(
            Socket::bind(&path),
            Err(SocketError::Long { len: 125, .. })
        ));
    }
}
