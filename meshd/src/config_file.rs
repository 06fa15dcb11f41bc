//! The config file on this host: where it is, and what it says.
//!
//! Owns its path and its bounds; what its text means is `meshd_core::config`'s.

use crate::bounded;
use meshd_core::config::{Config, ConfigError};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes that are read: one more than a file may have, so that a longer one is told.
pub(crate) const SIZE_MAX: usize = (1 << 20) + 1;
/// Where it is, if it is there and nobody named another.
const DEFAULT: &str = "/etc/meshd/meshd.toml";

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigFileError {
    /// Not there, or no text.
    #[error("read the config file {}: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// How that failed.
        source: io::Error,
    },
    /// What it says cannot be.
    #[error("{}:{source}", .path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// Where, and what.
        source: ConfigError,
    },
}

impl ConfigFileError {
    /// The message on one line, without the place as it is shown below it: for events and the log, which have a line each.
    pub(crate) fn in_a_line(&self) -> String {
        let said = self.to_string();
        let lines = said.lines().map(str::trim);
        let words = lines.filter(|line| !line.starts_with('|'));
        words.collect::<Vec<_>>().join(" ")
    }
}

/// The file that was named, or the one that is looked for unasked.
pub(crate) fn path(named: Option<&Path>) -> Option<PathBuf> {
    named
        .map(Path::to_owned)
        .or_else(|| Path::new(DEFAULT).exists().then(|| PathBuf::from(DEFAULT)))
}

/// An absent file is the default config only if nobody named it.
///
/// # Errors
/// If it cannot be read, or is wrong; the place is told.
pub(crate) fn read(path: Option<&Path>) -> Result<Config, ConfigFileError> {
    let Some(path) = path else {
        return Ok(Config::default());
    };
    let path = || path.to_owned();
    let text =
        bounded::regular_text(&path(), SIZE_MAX).map_err(|source| ConfigFileError::Read {
            path: path(),
            source,
        })?;
    Config::parse(&text).map_err(|source| ConfigFileError::Wrong {
        path: path(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_has_one_line_for_events() {
        let Err(source) = Config::parse("[log]\nlevel = \"lod\"\n") else {
            panic!("it is no level")
        };
        let path = PathBuf::from("/etc/meshd/meshd.toml");
        let error = ConfigFileError::Wrong { path, source };
        assert!(error.to_string().contains('\n'));
        let line = error.in_a_line();
        assert!(
            line.starts_with("/etc/meshd/meshd.toml:line 2, column ")
                && !line.contains(['\n', '|']),
            "{line}"
        );
    }
}
