//! What the daemon must remember over restarts: one redb file in the state folder.
//!
//! ```text
//!   meshd.redb   table "node"    opaque keys and values of the core, written by commit()
//!                table "shell"   what the shell keeps: keys, membership, plugins; names are paths such as "identity/node-key"
//! ```
//!
//! Owns the file, its rights (folder 0700, file 0600, since it holds private keys) and its durability: what a function
//! has returned `Ok` for survives a crash. Refuses a second opener. Knows nothing of what the values mean.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NODE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("node");
const SHELL: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("shell");

/// What could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder.
    #[error("the state folder {folder} cannot be made or used: {source}")]
    Folder {
        /// Of the state.
        folder: PathBuf,
        /// Of the kernel.
        source: io::Error,
    },
    /// Another process has the file open.
    #[error(
        "the state in {file} is in use by another meshd; stop that one, or give this one its own folder with --state or MESHD_STATE"
    )]
    InUse {
        /// Of the state.
        file: PathBuf,
    },
    /// The file.
    #[error("the state file {file} cannot be opened: {source}")]
    File {
        /// Of the state.
        file: PathBuf,
        /// Of redb or the kernel.
        source: Box<redb::Error>,
    },
    /// Reading or writing.
    #[error("the state file cannot be read or written: {0}")]
    Access(#[source] Box<redb::Error>),
}

impl StoreError {
    fn access(source: impl Into<redb::Error>) -> Self {
        Self::Access(Box::new(source.into()))
    }
}

/// Rows of the core's table: opaque keys and values.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The open state file. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Database>);

impl Store {
    /// Opens `meshd.redb` in `folder`; makes both where missing, and takes all rights of others from them.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it open.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let wrong = |source| StoreError::Folder {
            folder: folder.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(wrong)?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(wrong)?;
        let path = folder.join("meshd.redb");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| StoreError::File {
                file: path.clone(),
                source: Box::new(redb::Error::Io(e)),
            })?;
        // Made by us, so that it never is readable by others, not even for a moment.
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(wrong)?;
        let database = Database::builder().create(&path).map_err(|e| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { file: path.clone() },
            other => StoreError::File {
                file: path.clone(),
                source: Box::new(other.into()),
            },
        })?;
        Ok(Self(Arc::new(database)))
    }

    /// Writes all of `batch` (`None` removes) into the core's table, or nothing; on disk when it returns.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn commit(&self, batch: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), StoreError> {
        let write = self.0.begin_write().map_err(StoreError::access)?;
        {
            let mut table = write.open_table(NODE).map_err(StoreError::access)?;
            for (key, value) in batch {
                match value {
                    Some(value) => drop(
                        table
                            .insert(key.as_slice(), value.as_slice())
                            .map_err(StoreError::access)?,
                    ),
                    None => drop(table.remove(key.as_slice()).map_err(StoreError::access)?),
                }
            }
        }
        write.commit().map_err(StoreError::access)
    }

    /// The core's table, in order of its keys.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn load(&self) -> Result<Rows, StoreError> {
        let read = self.0.begin_read().map_err(StoreError::access)?;
        let table = match read.open_table(NODE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            other => other.map_err(StoreError::access)?,
        };
        let mut all = Vec::new();
        for row in table.iter().map_err(StoreError::access)? {
            let (key, value) = row.map_err(StoreError::access)?;
            all.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(all)
    }

    /// Keeps `value` under `key` in the shell's table; on disk when it returns.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let write = self.0.begin_write().map_err(StoreError::access)?;
        drop(
            write
                .open_table(SHELL)
                .map_err(StoreError::access)?
                .insert(key, value)
                .map_err(StoreError::access)?,
        );
        write.commit().map_err(StoreError::access)
    }

    /// What [`Self::put`] kept.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.0.begin_read().map_err(StoreError::access)?;
        let table = match read.open_table(SHELL) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other.map_err(StoreError::access)?,
        };
        Ok(table
            .get(key)
            .map_err(StoreError::access)?
            .map(|value| value.value().to_vec()))
    }

    /// All that was kept under keys that start with `prefix`, in order.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = self.0.begin_read().map_err(StoreError::access)?;
        let table = match read.open_table(SHELL) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            other => other.map_err(StoreError::access)?,
        };
        let mut all = Vec::new();
        for row in table.range(prefix..).map_err(StoreError::access)? {
            let (key, value) = row.map_err(StoreError::access)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            all.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(all)
    }

    /// Forgets `key` of the shell's table.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn remove(&self, key: &str) -> Result<(), StoreError> {
        let write = self.0.begin_write().map_err(StoreError::access)?;
        drop(
            write
                .open_table(SHELL)
                .map_err(StoreError::access)?
                .remove(key)
                .map_err(StoreError::access)?,
        );
        write.commit().map_err(StoreError::access)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_there_after_opening_again_and_others_cannot_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("deep/state");
        {
            let store = Store::open(&state).unwrap();
            assert!(
                store.load().unwrap().is_empty()
                    && store.get("a/b").unwrap().is_none()
                    && store.list("").unwrap().is_empty()
            );
            store
                .commit(&[
                    (b"k".to_vec(), Some(b"v".to_vec())),
                    (b"gone".to_vec(), Some(vec![])),
                    (b"gone".to_vec(), None),
                ])
                .unwrap();
            for key in ["a/b", "a/c", "b/a"] {
                store.put(key, key.as_bytes()).unwrap();
            }
            store.remove("a/c").unwrap();
        }
        let store = Store::open(&state).unwrap();
        assert_eq!(store.load().unwrap(), [(b"k".to_vec(), b"v".to_vec())]);
        assert_eq!(
            store.list("a/").unwrap(),
            [("a/b".to_owned(), b"a/b".to_vec())]
        );
        assert_eq!(
            std::fs::metadata(state.join("meshd.redb"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        assert_eq!(
            std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_second_opener_is_told_that_the_state_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Store::open(folder.path()).unwrap();
        let refused = Store::open(folder.path()).err().unwrap();
        assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    }
}
