//! The config file while the daemon runs: read again on SIGHUP and when it changes; a file with an error changes nothing.

use crate::bridges::Bridges;
use crate::config_file;
use crate::daemon::apply_networks;
use crate::devices::Devices;
use crate::driver::DriverHandle;
use crate::rhythm::beat;
use meshd_core::code::ErrorCode;
use meshd_core::command::Command;
use meshd_core::config::{Config, ConfigDiff};
use meshd_core::notice::Notice;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Editors write a file in several steps; wait until they are done.
const SETTLE: Duration = Duration::from_millis(300);
/// How often the file is looked at. Events of its folder would tell sooner, but not of what a symlink in its place leads to, by
/// how many steps ever: a file edited in place, another put in its place, another folder (as of a `ConfigMap`).
const LOOK: Duration = Duration::from_secs(1);

/// Which file is behind a path, and which state of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    /// `None` if nothing is there.
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Applies changes until it is aborted.
pub(crate) async fn follow(
    path: Option<PathBuf>,
    mut current: Config,
    handle: DriverHandle,
    devices: Devices,
    bridges: Bridges,
) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return;
    };
    // None yet, so it is read at the first look: it may have changed since the daemon began.
    let mut seen = None;
    loop {
        tokio::select! {
            hangup = hangup.recv() => if hangup.is_none() { return },
            () = beat(LOOK), if path.is_some() => {
                if path.as_deref().and_then(Version::of) == seen {
                    continue;
                }
            }
        }
        tokio::time::sleep(SETTLE).await;
        let Some(path) = &path else { continue };
        // Before it is read: what is written meanwhile is another version.
        seen = Version::of(path);
        match config_file::read(Some(path)) {
            Err(error) => {
                let (what, reason) = (
                    "config file".to_owned(),
                    format!("{}; the running config stays as it is", error.in_a_line()),
                );
                handle.config_refused(Some(reason.clone()));
                handle.notice(Notice::Refused { what, reason });
            }
            Ok(new) if new == current => handle.config_refused(None),
            Ok(new) => {
                handle.config_refused(None);
                let diff = ConfigDiff::between(&current, &new);
                for key in &diff.restart {
                    tracing::warn!(
                        code = %ErrorCode::RestartNeeded, "config file: `{key}` changed; it takes effect when the daemon is restarted"
                    );
                }
                crate::logging::set_level(&new.log);
                if (&current.underlay.trusted, current.kernel)
                    != (&new.underlay.trusted, new.kernel)
                {
                    let wishes = Command::KernelWishes {
                        trusted: new.underlay.trusted.clone(),
                        kernel: new.kernel,
                    };
                    // Refused only when the daemon stops.
                    let _ = handle.command(wishes).await;
                }
                devices.set_file(new.device.clone()).await;
                apply_networks(&handle, &new).await;
                // Refused only when the daemon stops.
                let _ = handle.command(Command::Multicast(new.multicast())).await;
                let _ = handle.command(Command::ServiceRules(new.dns.rules())).await;
                bridges.wish(&new);
                tracing::info!(file = %path.display(), "config file read again");
                current = new;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_version_changes_with_the_file_behind_symlinks_however_it_is_changed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        // As a `ConfigMap` is mounted: file -> ..data/file, ..data -> a folder of that version.
        for (folder, text) in [("one", "a"), ("two", "b")] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("meshd.toml"), text).unwrap();
        }
        symlink("one", at("..data")).unwrap();
        symlink("..data/meshd.toml", at("meshd.toml")).unwrap();
        let file = at("meshd.toml");
        let first = Version::of(&file);
        assert!(first.is_some() && first == Version::of(&file));
        symlink("two", at("..new")).unwrap();
        std::fs::rename(at("..new"), at("..data")).unwrap();
        let swapped = Version::of(&file);
        assert!(swapped.is_some() && swapped != first);
        std::fs::write(at("two/meshd.toml"), "in place").unwrap();
        let edited = Version::of(&file);
        assert_ne!(edited, swapped);
        std::fs::write(at("new"), "in place").unwrap();
        std::fs::rename(at("new"), at("two/meshd.toml")).unwrap();
        assert_ne!(Version::of(&file), edited);
        std::fs::remove_file(at("two/meshd.toml")).unwrap();
        assert_eq!(Version::of(&file), None);
    }
}
