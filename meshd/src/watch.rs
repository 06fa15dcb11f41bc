//! The config file while the daemon runs: read again on SIGHUP and when it changes; a file with an error changes nothing.

use crate::daemon::{apply_networks, read_config};
use crate::driver::DriverHandle;
use meshd_core::command::Command;
use meshd_core::config::{Config, ConfigDiff};
use meshd_core::notice::Notice;
use notify::{RecursiveMode, Watcher};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Editors write a file in several steps; wait until they are done.
const SETTLE: Duration = Duration::from_millis(300);

/// Applies changes until it is aborted.
pub(crate) async fn follow(path: Option<PathBuf>, mut current: Config, handle: DriverHandle) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return;
    };
    let (tell, mut changed) = mpsc::channel(1);
    // Held so that it keeps watching. The folder is watched, since editors put a new file in the old one's place.
    let _watcher = path.as_ref().and_then(|path| {
        let (name, folder) = (path.file_name()?.to_owned(), path.parent()?);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let ours = event.is_ok_and(|e| {
                    !e.kind.is_access() && e.paths.iter().any(|p| p.file_name() == Some(&name))
                });
                if ours {
                    // A full channel holds the same news already.
                    let _ = tell.try_send(());
                }
            })
            .ok()?;
        let folder = if folder.as_os_str().is_empty() {
            std::path::Path::new(".")
        } else {
            folder
        };
        watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
        Some(watcher)
    });
    loop {
        tokio::select! {
            hangup = hangup.recv() => if hangup.is_none() { return },
            news = changed.recv(), if !changed.is_closed() => if news.is_none() { continue },
        }
        tokio::time::sleep(SETTLE).await;
        while changed.try_recv().is_ok() {}
        let Some(path) = &path else { continue };
        match read_config(Some(path)) {
            Err(error) => {
                let (what, reason) = (
                    "config file".to_owned(),
                    format!("{error:#}; the running config stays as it is"),
                );
                handle.notice(Notice::Refused { what, reason });
            }
            Ok(new) if new == current => {}
            Ok(new) => {
                let diff = ConfigDiff::between(&current, &new);
                for key in &diff.restart {
                    tracing::warn!(
                        "config file: `{key}` changed; it takes effect when the daemon is restarted"
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
                apply_networks(&handle, &new).await;
                tracing::info!(file = %path.display(), "config file read again");
                current = new;
            }
        }
    }
}
