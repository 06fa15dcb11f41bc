//! Descriptors of ports' TAPs that the service manager holds for us (systemd's file descriptor store).
//!
//! ```text
//!   TAP opened --FDSTORE=1, FDNAME=tap-NAME--> service manager --LISTEN_FDS, after a restart--> shelf --> lane
//!   its further queues ------ tap-NAME+1 … --^
//! ```
//!
//! A TAP without a descriptor drops all that is sent to it. With one, the kernel queues up to a thousand frames, which the next run
//! of the daemon reads: so a restart costs a pause and no frame.
//!
//! Owns copies of the descriptors, since the kernel gives no second one while any is open. Refuses a descriptor whose device
//! is gone. Without a service manager it is empty and does nothing.
#![allow(unsafe_code)] // One ioctl on a descriptor of our own.

use nix::errno::Errno;
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

nix::ioctl_read_bad!(
    /// TUNGETIFF of linux/if_tun.h, a number that says `unsigned int` and means `struct ifreq`.
    tungetiff,
    nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()),
    libc::ifreq
);

/// How the names of our descriptors begin in the store.
pub(crate) const PREFIX: &str = "tap-";

/// The copies. Clones are the same; the default one is not in use.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Option<Arc<Mutex<BTreeMap<String, File>>>>);

impl Shelf {
    /// In use, with what an earlier run left: by the name of the device.
    #[must_use]
    pub fn new(left: BTreeMap<String, File>) -> Self {
        Self(Some(Arc::new(Mutex::new(left))))
    }

    fn files(&self) -> Option<MutexGuard<'_, BTreeMap<String, File>>> {
        // The table is whole between any two statements that change it.
        let files = self.0.as_ref()?;
        Some(files.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Other descriptors of the TAP of this name, queue by queue, as far as they are held and its device is there.
    pub(super) fn take(&self, name: &str) -> Vec<File> {
        let mut taken = Vec::new();
        if let Some(files) = self.files() {
            while let Some(file) = files.get(&label(name, taken.len())) {
                match (device(file), file.try_clone()) {
                    (Ok(device), Ok(file)) if device == name.as_bytes() => taken.push(file),
                    _ => break,
                }
            }
        }
        self.remove_from(name, taken.len());
        taken
    }

    /// Has the descriptor of a queue held from now on.
    pub(super) fn put(&self, name: &str, queue: usize, file: &File) {
        let Some(mut files) = self.files() else {
            return;
        };
        let Ok(copy) = file.try_clone() else { return };
        let label = label(name, queue);
        let told = sd_notify::notify_with_fds(
            &[
                NotifyState::FdStore,
                NotifyState::FdName(&format!("{PREFIX}{label}")),
            ],
            &[file.as_fd()],
        );
        files.insert(label, copy);
        if let Err(error) = told {
            tracing::debug!(%error, tap = name, queue, "the service manager does not hold the descriptor");
        }
    }

    /// The device is gone, or is to go.
    pub(super) fn remove(&self, name: &str) {
        self.remove_from(name, 0);
    }

    /// The device has fewer queues from now on, which are those before this one.
    pub(super) fn remove_from(&self, name: &str, queue: usize) {
        let Some(mut files) = self.files() else {
            return;
        };
        let from = files.range(name.to_owned()..).map(|(label, _)| label);
        let named = from.take_while(|label| label.starts_with(name));
        let doomed: Vec<String> = named
            .filter(|label| queue_of(name, label).is_some_and(|it| it >= queue))
            .cloned()
            .collect();
        for label in doomed {
            files.remove(&label);
            let _ = sd_notify::notify(&[
                NotifyState::FdStoreRemove,
                NotifyState::FdName(&format!("{PREFIX}{label}")),
            ]);
        }
    }
}

/// Under which name a queue's descriptor is held.
fn label(name: &str, queue: usize) -> String {
    match queue {
        0 => name.to_owned(),
        queue => format!("{name}+{queue}"),
    }
}

/// The inverse of [`label`]; `None`: it is of another device.
fn queue_of(name: &str, label: &str) -> Option<usize> {
    match label.strip_prefix(name)? {
        "" => Some(0),
        rest => rest.strip_prefix('+')?.parse().ok(),
    }
}

/// The name of a descriptor's device.
fn device(file: &File) -> Result<Vec<u8>, Errno> {
    // SAFETY: `struct ifreq` is plain bytes, for which all zeros is a value.
    let mut told: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `file`'s; `told` is a whole `struct ifreq` that lives over the call.
    unsafe { tungetiff(file.as_raw_fd(), &raw mut told) }?;
    let name = told.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]);
    Ok(name.take_while(|&byte| byte != 0).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tap_is_not_taken_and_a_shelf_that_is_not_in_use_has_nothing() {
        let file = tempfile::tempfile().unwrap();
        let shelf = Shelf::new([("mt1".to_owned(), file)].into());
        assert!(shelf.take("mt1").is_empty());
        assert!(shelf.files().is_some_and(|files| files.is_empty()));
        let none = Shelf::default();
        none.put("mt1", 0, &tempfile::tempfile().unwrap());
        assert!(none.take("mt1").is_empty());
    }

    #[test]
    fn what_goes_of_a_tap_are_its_last_queues_and_no_other_tap() {
        let files = ["mt1", "mt1+1", "mt1+2", "mt10", "mt10+1", "mt2"];
        let held = files.map(|name| (name.to_owned(), tempfile::tempfile().unwrap()));
        let shelf = Shelf::new(held.into());
        let left = || -> Vec<String> { shelf.files().unwrap().keys().cloned().collect() };
        shelf.remove_from("mt1", 1);
        assert_eq!(left(), ["mt1", "mt10", "mt10+1", "mt2"]);
        shelf.remove("mt10");
        assert_eq!(left(), ["mt1", "mt2"]);
    }
}
