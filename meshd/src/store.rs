//! What the daemon must remember: one redb file, `meshd.redb`, in the state folder.
//!
//! ```text
//!   table "node"    key bytes -> value bytes    the core's state, opaque here (`Output::Persist`)
//!   table "shell"   text      -> value bytes    "identity/...", "plugin/..." of the shell
//!   table "meta"    text      -> number         "schema": which program may read the rest
//! ```
//!
//! Owns the file, its modes (folder 0700, file 0600: the node's private key is in it) and durability: what a call wrote
//! is on the disk when the call returns. Refuses symbolic links, files of other users, a state that another daemon has
//! open, a damaged file and the file of a newer meshd. A damaged file is never replaced by an empty one: that would be
//! another node, without anybody having asked for it.
//!
//! All calls block, for as long as an fsync takes.

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError,
};
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Name of the file in the state folder.
pub const FILE: &str = "meshd.redb";
/// What this program writes, and the newest that it reads.
const SCHEMA: u64 = 1;
/// Bytes that a change of a command needs at most, as a rule.
const TRIED: usize = 64 << 10;
/// With so many bytes free nothing is tried.
const PLENTY: u64 = 8 << 20;

const NODE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("node");
const SHELL: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("shell");
/// Overwritten to see whether there is room. Nobody reads it.
const ROOM: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("room");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// One key and its new value; `None` forgets it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Rows of the core's table: opaque keys and values.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The open state of one node. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    /// `None` between a write that failed and the next use: after one, redb wants the file opened again.
    db: RwLock<Option<Database>>,
    dir: PathBuf,
    path: PathBuf,
    /// Device and inode of the file: another one in its place is not taken for it.
    file: (u64, u64),
    /// There was none before it was opened.
    made: bool,
    /// Locked, also while the file is opened again.
    _folder: File,
}

/// Why the state cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is {found}, not {wanted}; meshd follows no links in its state (give the real folder by --state or MESHD_STATE)", path = path.display())]
    Kind {
        path: PathBuf,
        found: &'static str,
        wanted: &'static str,
    },
    #[error("{path} belongs to user {owner}, and meshd runs as user {ours}: its keys would not be safe there (chown it, or give another folder by --state)", path = path.display())]
    Owner {
        path: PathBuf,
        owner: u32,
        ours: u32,
    },
    #[error("{path} holds other files and is open to other users (mode {mode:03o}); give an empty or new folder by --state, or `chmod 700` it", path = path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the state in {dir} is in use by another meshd; stop that one, or give another folder by --state or MESHD_STATE", dir = dir.display())]
    InUse { dir: PathBuf },
    #[error(
        "the state file {path} is damaged ({detail}). It holds this node's key, so meshd does not start a new one by itself: \
         put a backup back, or move the file away and join again with a new invite", path = path.display()
    )]
    Damaged { path: PathBuf, detail: String },
    #[error("the state file {path} was written by a newer meshd (format {found}; this one knows {SCHEMA}); use that release", path = path.display())]
    Newer { path: PathBuf, found: u64 },
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Db {
        doing: &'static str,
        path: PathBuf,
        source: Box<redb::Error>,
    },
}

impl Store {
    /// Removes the file if this opening made it. What was there before stays.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn discard_if_made(self) -> Result<(), StoreError> {
        if !self.0.made {
            return Ok(());
        }
        // The folder is locked until `self` ends.
        std::fs::remove_file(&self.0.path).map_err(|source| StoreError::Io {
            doing: "remove",
            path: self.0.path.clone(),
            source,
        })
    }

    /// Opens the state in `dir`; makes folder and file where there are none.
    ///
    /// # Errors
    /// See [`StoreError`]; the folder's content is unchanged then, but for a first empty file.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        own_folder(dir)?;
        let io = |doing, source| StoreError::Io {
            doing,
            path: dir.to_owned(),
            source,
        };
        let folder = File::open(dir).map_err(|e| io("open", e))?;
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    dir: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", error)),
        }
        let path = dir.join(FILE);
        if path
            .symlink_metadata()
            .is_ok_and(|meta| meta.is_file() && meta.len() == 0)
        {
            return Err(StoreError::Damaged {
                path,
                detail: "it is empty".to_owned(),
            });
        }
        let made = !Self::exists(dir);
        let file = own_file(&path)?;
        let id = file_id(&path, &file)?;
        let db = open_db(dir, &path, file)?;
        // The folder's entry for a new file must be as durable as what will be in it.
        let synced = folder.sync_all().map_err(|e| io("sync", e));
        let store = Self(Arc::new(Inner {
            db: RwLock::new(Some(db)),
            dir: dir.to_owned(),
            path,
            file: id,
            made,
            _folder: folder,
        }));
        store.check_schema()?;
        synced?;
        Ok(store)
    }

    /// Whether a change of usual size could be kept. Costs nothing while the disk has room; else it is tried.
    ///
    /// # Errors
    /// If it could not.
    pub fn has_room(&self) -> Result<(), StoreError> {
        use nix::sys::statvfs::{FsFlags, statvfs};
        let plenty = statvfs(&self.0.dir).is_ok_and(|fs| {
            let free = fs.blocks_available().saturating_mul(fs.fragment_size());
            free >= PLENTY && !fs.flags().contains(FsFlags::ST_RDONLY)
        });
        if plenty && self.0.db.read().is_ok_and(|db| db.is_some()) {
            return Ok(());
        }
        self.write("write state to", |txn| {
            txn.open_table(ROOM)?.insert("tried", &[0; TRIED][..])?;
            Ok(())
        })
    }

    /// As [`Store::open`], but waits up to `patience` for another meshd that is about to stop.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_within(dir: &Path, patience: Duration) -> Result<Self, StoreError> {
        let end = Instant::now() + patience;
        loop {
            match Self::open(dir) {
                Err(StoreError::InUse { .. }) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => return result,
            }
        }
    }

    /// True if `dir` holds a state file, whatever is in it.
    pub fn exists(dir: &Path) -> bool {
        dir.join(FILE).symlink_metadata().is_ok()
    }

    /// Makes all changes in one transaction, durable on return; a later change of the same key wins.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn commit(&self, batch: &[Change]) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write("write state to", |txn| {
            let mut table = txn.open_table(NODE)?;
            for (key, value) in batch {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                    None => table.remove(key.as_slice())?,
                };
            }
            Ok(())
        })
    }

    /// The core's whole state, sorted by key.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn load(&self) -> Result<Rows, StoreError> {
        self.read("read state from", |txn| {
            let table = match txn.open_table(NODE) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            table
                .iter()?
                .map(|entry| {
                    entry
                        .map(|(k, v)| (k.value().to_vec(), v.value().to_vec()))
                        .map_err(Into::into)
                })
                .collect()
        })
    }

    /// Keeps `value` under `key`, durable on return.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.put_all(&[(key, Some(value))])
    }

    /// Keeps or forgets (`None`) each, in one transaction, durable on return.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn put_all(&self, batch: &[(&str, Option<&[u8]>)]) -> Result<(), StoreError> {
        self.write("write to", |txn| {
            let mut table = txn.open_table(SHELL)?;
            for (key, value) in batch {
                match value {
                    Some(value) => table.insert(*key, *value)?,
                    None => table.remove(*key)?,
                };
            }
            Ok(())
        })
    }

    /// What is kept under `key`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read("read from", |txn| match txn.open_table(SHELL) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            table => Ok(table?.get(key)?.map(|value| value.value().to_vec())),
        })
    }

    /// All keys that start with `prefix`, and what is under them, sorted.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.read("read from", |txn| {
            let table = match txn.open_table(SHELL) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut found = Vec::new();
            for entry in table.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })
    }

    /// Forgets `key`, durable on return.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn remove(&self, key: &str) -> Result<(), StoreError> {
        self.put_all(&[(key, None)])
    }

    fn check_schema(&self) -> Result<(), StoreError> {
        let found = self.read("read the format of", |txn| match txn.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            table => Ok(table?.get("schema")?.map(|version| version.value())),
        })?;
        match found {
            Some(found) if found > SCHEMA => Err(StoreError::Newer {
                path: self.0.path.clone(),
                found,
            }),
            Some(SCHEMA) => Ok(()),
            _ => self.write("write the format of", |txn| {
                txn.open_table(META)?.insert("schema", SCHEMA)?;
                Ok(())
            }),
        }
    }

    fn write(
        &self,
        doing: &'static str,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        // A transaction's commit is fsynced unless told otherwise; this file never tells otherwise.
        let run = |db: &Database| -> Result<(), redb::Error> {
            let txn = db.begin_write()?;
            change(&txn)?;
            Ok(txn.commit()?)
        };
        self.with_db(doing, run)
    }

    fn read<T>(
        &self,
        doing: &'static str,
        look: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.with_db(doing, |db| look(&db.begin_read()?))
    }

    fn with_db<T>(
        &self,
        doing: &'static str,
        run: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let slot = &self.0.db;
        let open = slot.read().unwrap_or_else(PoisonError::into_inner);
        let open = if open.is_some() {
            open
        } else {
            drop(open);
            let mut closed = slot.write().unwrap_or_else(PoisonError::into_inner);
            if closed.is_none() {
                *closed = Some(self.open_again()?);
            }
            drop(closed);
            slot.read().unwrap_or_else(PoisonError::into_inner)
        };
        let result = match &*open {
            Some(db) => run(db),
            // Closed by somebody else's failure in between: as good as our own.
            None => Err(redb::Error::PreviousIo),
        };
        drop(open);
        result.map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                // What was committed is in the file; redb takes nothing more until it is opened again.
                *slot.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            self.error(doing, error)
        })
    }

    fn open_again(&self) -> Result<Database, StoreError> {
        let Inner {
            dir, path, file, ..
        } = &*self.0;
        let there = path.symlink_metadata().map(|meta| (meta.dev(), meta.ino()));
        if !there.is_ok_and(|there| there == *file) {
            return Err(StoreError::Damaged {
                path: path.clone(),
                detail: "it was removed or replaced while meshd ran".to_owned(),
            });
        }
        open_db(dir, path, own_file(path)?)
    }

    fn error(&self, doing: &'static str, error: redb::Error) -> StoreError {
        let path = self.0.path.clone();
        match error {
            redb::Error::Corrupted(detail) => StoreError::Damaged { path, detail },
            other => StoreError::Db {
                doing,
                path,
                source: Box::new(other),
            },
        }
    }
}

/// Makes `dir` a folder of ours that nobody else can enter.
fn own_folder(dir: &Path) -> Result<(), StoreError> {
    let io = |doing, source| StoreError::Io {
        doing,
        path: dir.to_owned(),
        source,
    };
    match dir.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = dir.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(parent)
                    .map_err(|e| io("create the folder above", e))?;
            }
            match DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io("create the folder", error));
                }
                // Somebody else may just have made it: looked at below like any other.
                _ => {}
            }
        }
        Err(error) => return Err(io("look at", error)),
        Ok(_) => {}
    }
    let meta = dir.symlink_metadata().map_err(|e| io("look at", e))?;
    if !meta.is_dir() {
        return Err(StoreError::Kind {
            path: dir.to_owned(),
            found: kind(&meta),
            wanted: "a folder",
        });
    }
    check_owner(dir, &meta)?;
    let mode = meta.mode() & 0o777;
    if mode & 0o077 != 0 {
        // Tightened only where that surely is our folder: `--state /tmp` must not close /tmp.
        let ours = Store::exists(dir)
            || std::fs::read_dir(dir)
                .map_err(|e| io("list", e))?
                .next()
                .is_none();
        if !ours {
            return Err(StoreError::Open {
                path: dir.to_owned(),
                mode,
            });
        }
        std::fs::set_permissions(dir, Permissions::from_mode(0o700))
            .map_err(|e| io("close to others", e))?;
    }
    Ok(())
}

/// Opens or makes the file, following no link.
fn own_file(path: &Path) -> Result<File, StoreError> {
    let io = |doing, source| StoreError::Io {
        doing,
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // Not blocking: a FIFO in the file's place must not hold us.
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => StoreError::Kind {
                path: path.to_owned(),
                found: "a symbolic link",
                wanted: "a regular file",
            },
            _ => io("open", error),
        })?;
    let meta = file.metadata().map_err(|e| io("look at", e))?;
    if !meta.is_file() {
        return Err(StoreError::Kind {
            path: path.to_owned(),
            found: kind(&meta),
            wanted: "a regular file",
        });
    }
    check_owner(path, &meta)?;
    if meta.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(|e| io("close to others", e))?;
    }
    Ok(file)
}

fn file_id(path: &Path, file: &File) -> Result<(u64, u64), StoreError> {
    let meta = file.metadata().map_err(|source| StoreError::Io {
        doing: "look at",
        path: path.to_owned(),
        source,
    })?;
    Ok((meta.dev(), meta.ino()))
}

fn check_owner(path: &Path, meta: &Metadata) -> Result<(), StoreError> {
    let ours = nix::unistd::geteuid().as_raw();
    if meta.uid() == ours {
        Ok(())
    } else {
        Err(StoreError::Owner {
            path: path.to_owned(),
            owner: meta.uid(),
            ours,
        })
    }
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_file() {
        "a regular file"
    } else {
        "a device, pipe or socket"
    }
}

fn open_db(dir: &Path, path: &Path, file: File) -> Result<Database, StoreError> {
    let damaged = |detail: String| StoreError::Damaged {
        path: path.to_owned(),
        detail,
    };
    let open = || {
        FileBackend::new(file).and_then(|backend| Database::builder().create_with_backend(backend))
    };
    // redb asserts what no file of its own can break; a file that somebody else broke must not end us without a word.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch)) => {
            Err(StoreError::InUse {
                dir: dir.to_owned(),
            })
        }
        Ok(Err(DatabaseError::Storage(StorageError::Corrupted(detail)))) => Err(damaged(detail)),
        Ok(Err(DatabaseError::Storage(StorageError::Io(error))))
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Err(damaged(error.to_string()))
        }
        Ok(Err(DatabaseError::UpgradeRequired(version))) => {
            Err(damaged(format!("its format {version} was never meshd's")))
        }
        Ok(Err(other)) => Err(StoreError::Db {
            doing: "open",
            path: path.to_owned(),
            source: Box::new(other.into()),
        }),
        Err(_panic) => Err(damaged("it breaks a rule of its own format".to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("state");
        (temp, dir)
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn folder_and_file_are_closed_to_others_also_if_they_were_open_before() {
        let (_temp, dir) = folder();
        drop(Store::open(&dir).unwrap());
        assert_eq!((mode(&dir), mode(&dir.join(FILE))), (0o700, 0o600));
        std::fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(dir.join(FILE), Permissions::from_mode(0o644)).unwrap();
        drop(Store::open(&dir).unwrap());
        assert_eq!((mode(&dir), mode(&dir.join(FILE))), (0o700, 0o600));
    }

    #[test]
    fn only_a_file_that_this_opening_made_is_discarded() {
        let (_temp, dir) = folder();
        Store::open(&dir).unwrap().discard_if_made().unwrap();
        assert!(!Store::exists(&dir));
        drop(Store::open(&dir).unwrap());
        Store::open(&dir).unwrap().discard_if_made().unwrap();
        assert!(Store::exists(&dir));
    }

    #[test]
    fn an_open_folder_with_other_things_in_it_is_left_as_it_is() {
        let (temp, _) = folder();
        std::fs::write(temp.path().join("letter"), "").unwrap();
        std::fs::set_permissions(temp.path(), Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            Store::open(temp.path()),
            Err(StoreError::Open { .. })
        ));
        assert_eq!(mode(temp.path()), 0o755);
    }

    #[test]
    fn links_pipes_and_folders_in_the_place_of_state_are_refused() {
        let (temp, dir) = folder();
        drop(Store::open(&dir).unwrap());
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(matches!(
            Store::open(&link),
            Err(StoreError::Kind {
                found: "a symbolic link",
                ..
            })
        ));
        let other = temp.path().join("other");
        DirBuilder::new().mode(0o700).create(&other).unwrap();
        std::os::unix::fs::symlink(dir.join(FILE), other.join(FILE)).unwrap();
        assert!(matches!(
            Store::open(&other),
            Err(StoreError::Kind {
                found: "a symbolic link",
                ..
            })
        ));
        std::fs::remove_file(other.join(FILE)).unwrap();
        nix::unistd::mkfifo(&other.join(FILE), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(
            Store::open(&other),
            Err(StoreError::Kind {
                found: "a device, pipe or socket",
                ..
            })
        ));
    }

    #[test]
    fn a_second_opener_is_told_which_folder_is_in_use() {
        let (_temp, dir) = folder();
        let first = Store::open(&dir).unwrap();
        let error = Store::open(&dir).err().unwrap();
        assert!(matches!(error, StoreError::InUse { .. }));
        assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
        drop(first);
        Store::open(&dir).unwrap();
    }

    #[test]
    fn a_damaged_file_is_refused_and_kept() {
        let (_temp, dir) = folder();
        drop(Store::open(&dir).unwrap());
        let path = dir.join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for bytes in [
            b"not a database, but long enough to be read as one".repeat(100),
            whole[..whole.len() / 3].to_vec(),
            Vec::new(),
        ] {
            std::fs::write(&path, &bytes).unwrap();
            let error = Store::open(&dir).err().unwrap();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_file_of_a_newer_release_is_refused() {
        let (_temp, dir) = folder();
        let store = Store::open(&dir).unwrap();
        store
            .write("test", |txn| {
                txn.open_table(META)?.insert("schema", SCHEMA + 1)?;
                Ok(())
            })
            .unwrap();
        drop(store);
        assert!(
            matches!(Store::open(&dir), Err(StoreError::Newer { found, .. }) if found == SCHEMA + 1)
        );
    }

    #[test]
    fn what_a_commit_wrote_is_there_after_a_kill_at_any_later_moment() {
        let (temp, dir) = folder();
        let store = Store::open(&dir).unwrap();
        let put =
            |key: &str, value: &str| (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()));
        store
            .commit(&[put("a", "1"), put("b", "2"), put("a", "3")])
            .unwrap();
        store
            .commit(&[(b"b".to_vec(), None), put("c", "4")])
            .unwrap();
        store.put("identity/node", b"key").unwrap();
        // A killed process leaves what the file holds now: nothing of `Drop` runs.
        let after = temp.path().join("after");
        DirBuilder::new().mode(0o700).create(&after).unwrap();
        std::fs::copy(dir.join(FILE), after.join(FILE)).unwrap();
        let after = Store::open(&after).unwrap();
        assert_eq!(
            after.load().unwrap(),
            vec![
                (b"a".to_vec(), b"3".to_vec()),
                (b"c".to_vec(), b"4".to_vec())
            ]
        );
        assert_eq!(after.get("identity/node").unwrap().unwrap(), b"key");
    }

    #[test]
    fn a_state_that_is_in_use_is_waited_for_as_long_as_was_said() {
        let (_temp, dir) = folder();
        let first = Store::open(&dir).unwrap();
        let start = Instant::now();
        let refused = Store::open_within(&dir, Duration::from_millis(200));
        assert!(matches!(refused, Err(StoreError::InUse { .. })));
        assert!(start.elapsed() >= Duration::from_millis(200));
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(first);
        });
        assert!(Store::open_within(&dir, Duration::from_secs(10)).is_ok());
        ends.join().unwrap();
    }

    #[test]
    fn a_prefix_lists_its_keys_and_no_others() {
        let (_temp, dir) = folder();
        let store = Store::open(&dir).unwrap();
        assert_eq!(store.list("plugin/").unwrap(), vec![]);
        assert_eq!(store.get("plugin/a").unwrap(), None);
        store
            .put_all(&[
                ("plugin/b", Some(b"2")),
                ("plugin/a", Some(b"1")),
                ("plugio", Some(b"")),
                ("a", Some(b"")),
            ])
            .unwrap();
        store.put("gone", b"").unwrap();
        store.remove("gone").unwrap();
        assert_eq!(store.get("gone").unwrap(), None);
        let found: Vec<_> = store
            .list("plugin/")
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(found, ["plugin/a", "plugin/b"]);
    }
}
