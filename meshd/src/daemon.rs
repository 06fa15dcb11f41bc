//! The daemon.

use std::path::PathBuf;

/// What `meshd run` was told.
#[derive(Clone, Debug)]
pub(crate) struct RunOptions {
    /// State folder.
    pub(crate) state: PathBuf,
    /// Socket of the API.
    pub(crate) socket: PathBuf,
    /// Config file; `None`: the default one if it is there.
    pub(crate) config: Option<PathBuf>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the daemon from starting, or what ended it.
pub(crate) fn run(options: &RunOptions) -> anyhow::Result<()> {
    anyhow::bail!("{options:?}: the daemon is not wired up yet")
}
