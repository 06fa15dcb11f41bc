//! Descriptors that the service manager hands over (sd_listen_fds(3)): a listening socket, and TAPs out of its store.
#![allow(unsafe_code)] // A number becomes a descriptor of ours.

use crate::kernel::shelf::{PREFIX, Shelf};
use meshd_core::code::ErrorCode;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

/// What was handed over.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// For the API.
    pub(crate) api: Option<UnixListener>,
    /// Ports' TAPs; in use where somebody holds them.
    pub(crate) taps: Shelf,
}

/// The descriptors are handed over once.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Inherited {
    /// Takes all of it. A second call finds nothing.
    pub(crate) fn take() -> Self {
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Self::default();
        }
        let fds = match sd_notify::listen_fds_with_names() {
            Ok(fds) => fds.collect(),
            Err(error) => {
                tracing::warn!(code = %ErrorCode::SystemdFailed, %error, "descriptors of the service manager cannot be read");
                Vec::new()
            }
        };
        let (mut api, mut taps) = (None, BTreeMap::new());
        for (fd, name) in fds {
            // SAFETY: by the protocol it is open and meant for this process, which nothing has used yet; TAKEN sees to it that
            // it is owned once.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            if let Some(tap) = name.strip_prefix(PREFIX) {
                taps.insert(tap.to_owned(), File::from(fd));
            } else {
                api = api.or(Some(UnixListener::from(fd)));
            }
        }
        let managed = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            api,
            taps: match managed {
                true => Shelf::new(taps),
                false => Shelf::default(),
            },
        }
    }
}
