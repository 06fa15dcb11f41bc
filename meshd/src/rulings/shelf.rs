//! Where installed plugins lie: bytes as `plugins/<sha256>.wasm` in the state folder, the rest as JSON in the store.
//!
//! Owns the folder (0700) and its files (0600). A file is named by what is in it and read only if that is still true. It
//! is on the disk before a record names it, and goes only after none does.

use crate::store::{Store, StoreError};
use meshd_core::ident::{Label, Vni};
use meshd_plugin_host::{Digest, FailMode, Grants, MAX_COMPONENT, Stage};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Before each plugin's name in the store.
const PREFIX: &str = "plugin/";

/// One installed plugin, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) digest: Digest,
    /// Bytes of the component.
    pub(super) size: u64,
    /// The file that it was installed from, for `reload`; a word of the installer's, which is not opened here.
    #[serde(default)]
    pub(super) source: Option<String>,
    pub(super) attachments: BTreeMap<Vni, Attachment>,
    /// Earlier versions that stay ready, the one before first.
    #[serde(default)]
    pub(super) history: Vec<Version>,
}

impl Record {
    /// Every component that this plugin may need.
    pub(super) fn digests(&self) -> BTreeSet<Digest> {
        let earlier = self.history.iter().map(|version| version.digest);
        let good = self
            .attachments
            .values()
            .filter_map(|at| at.last_good.as_ref());
        [self.digest]
            .into_iter()
            .chain(earlier)
            .chain(good.map(|good| good.digest))
            .collect()
    }
}

/// An earlier version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) digest: Digest,
    /// Bytes of the component.
    pub(super) size: u64,
}

/// Code and config that worked together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Good {
    pub(super) digest: Digest,
    /// JSON.
    pub(super) config: String,
}

/// One plugin in one network's chain, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attachment {
    /// Lower is asked earlier; the plugin's name decides between equals.
    pub(super) order: u16,
    /// JSON.
    pub(super) config: String,
    /// `None`: as the manifest says.
    pub(super) fail: Option<FailMode>,
    /// `None`: as the manifest says.
    pub(super) stage: Option<Stage>,
    /// What decides if it fails and its fail mode is `last-good`.
    #[serde(default)]
    pub(super) last_good: Option<Good>,
    /// Why its masks are not believed, if so.
    #[serde(default)]
    pub(super) quarantine: Option<String>,
    /// What its controller may import.
    #[serde(default)]
    pub(super) grants: Grants,
}

/// Why the shelf cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or folder.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// A record is damaged.
    #[error(
        "the record of plugin {name} in the state does not read: {reason}. Another release of meshd may have written it: start that one, or put a backup of the state back"
    )]
    Record {
        /// The plugin.
        name: String,
        /// As the reader says.
        reason: String,
    },
}

pub(super) struct Shelf {
    store: Store,
    dir: PathBuf,
}

impl Shelf {
    pub(super) fn open(store: Store, state_dir: &Path) -> Result<Self, ShelfError> {
        let dir = state_dir.join("plugins");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| ShelfError::Io {
                doing: "make",
                path: dir.clone(),
                source,
            })?;
        Ok(Self { store, dir })
    }

    /// All records.
    pub(super) fn records(&self) -> Result<BTreeMap<Label, Record>, ShelfError> {
        let mut out = BTreeMap::new();
        for (key, value) in self.store.list(PREFIX)? {
            let name = key.strip_prefix(PREFIX).unwrap_or(&key);
            let wrong = |reason: String| ShelfError::Record {
                name: name.to_owned(),
                reason,
            };
            let label: Label = name.parse().map_err(|e| wrong(format!("{e}")))?;
            let record = serde_json::from_slice(&value).map_err(|e| wrong(e.to_string()))?;
            out.insert(label, record);
        }
        Ok(out)
    }

    /// Keeps a record; durable on return.
    pub(super) fn keep(&self, name: &Label, record: &Record) -> Result<(), ShelfError> {
        let value = serde_json::to_vec(record).map_err(|e| ShelfError::Record {
            name: name.to_string(),
            reason: e.to_string(),
        })?;
        Ok(self.store.put(&format!("{PREFIX}{name}"), &value)?)
    }

    /// Forgets a record; durable on return.
    pub(super) fn forget(&self, name: &Label) -> Result<(), ShelfError> {
        Ok(self.store.remove(&format!("{PREFIX}{name}"))?)
    }

    /// Keeps a component; durable on return.
    pub(super) fn put(&self, digest: Digest, wasm: &[u8]) -> Result<(), ShelfError> {
        let path = self.path(digest);
        let failed = |source| ShelfError::Io {
            doing: "write",
            path: path.clone(),
            source,
        };
        // A temporary file is 0600 from the start.
        let mut file = tempfile::NamedTempFile::new_in(&self.dir).map_err(failed)?;
        file.write_all(wasm)
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }

    /// The component with this digest, or in words why there is none.
    pub(super) fn get(&self, digest: Digest) -> Result<Vec<u8>, String> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let limit = MAX_COMPONENT as u64 + 1;
        File::open(&path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(|e| {
                format!(
                    "cannot read {}: {e}. Install the plugin again",
                    path.display()
                )
            })?;
        if Digest::of(&bytes) == digest {
            Ok(bytes)
        } else {
            Err(format!(
                "{} was changed since it was installed. Install the plugin again",
                path.display()
            ))
        }
    }

    /// Removes components that no record names. What cannot be removed stays: it does no harm.
    pub(super) fn sweep(&self, keep: &BTreeSet<Digest>) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let digest = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_suffix(".wasm")?.parse::<Digest>().ok());
            if digest.is_some_and(|digest| !keep.contains(&digest))
                && let Err(e) = std::fs::remove_file(&path)
            {
                tracing::debug!(path = %path.display(), error = %e, "an unused plugin file stays");
            }
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }
}
