//! Events on disk: `events.redb` in the state folder, a ring like the one in memory.
//!
//! ```text
//!   Ring --a line each--> pending --a batch a second--> events.redb
//!                                                         "events"  number -> JSON
//!                                                         "meta"    "reserved" -> first number that no run has used
//! ```
//!
//! Owns the file and its thread. Whoever tells an event waits for nothing: what happens within a second of a power cut may be
//! lost, and then its numbers are left out, so that none means two events. Refuses to grow: as many events as the ring has. A
//! damaged file is moved aside and a new one begun, since there is nothing in it that the node needs. Whatever else is in the way
//! (a full disk, a mode, another format) says nothing against the file: it stays where it is.

use super::{BYTES_MAX, RING_MAX};
use meshd_core::code::ErrorCode;
use meshd_core::view::Event;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Name of the file in the state folder.
pub(crate) const FILE: &str = "events.redb";
/// What happens within this time is written at once.
const BATCH: Duration = Duration::from_secs(1);
/// After the disk refused a batch.
const AGAIN: Duration = Duration::from_secs(10);
/// Numbers that are reserved ahead.
const AHEAD: u64 = 4096;
/// Damaged files that are kept.
const DAMAGED_MAX: u32 = 4;
/// A file that has grown beyond is made smaller at the start.
const FILE_MAX: u64 = 64 << 20;

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const RESERVED: &str = "reserved";
const CLEAN: &str = "clean";

/// What was on disk.
#[derive(Default)]
pub(super) struct Found {
    /// Oldest first, with the bytes of each.
    pub(super) events: VecDeque<(Event, usize)>,
    /// The next number.
    pub(super) next: u64,
    /// The run before wrote all it had to.
    pub(super) clean: bool,
}

/// See the module.
pub(super) struct Shelf {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    woken: Condvar,
}

#[derive(Default)]
struct Pending {
    lines: VecDeque<(u64, Vec<u8>)>,
    next: u64,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Shelf {
    /// Opens the file in `dir`, which exists; reads what is there.
    ///
    /// # Errors
    /// If there is no way to keep events there. They are remembered in memory all the same.
    pub(super) fn open(dir: &Path) -> Result<(Self, Found), Failed> {
        let path = dir.join(FILE);
        let (db, found) = match read(&path) {
            Ok(opened) => opened,
            Err(error) if !is_damage(&error) => return Err(error.into()),
            Err(error) => {
                let aside = free_place(dir).ok_or_else(|| {
                    format!(
                        "{} cannot be read: {error}; {DAMAGED_MAX} damaged ones are kept already, move some of them away and restart",
                        path.display()
                    )
                })?;
                std::fs::rename(&path, &aside)?;
                tracing::warn!(
                    code = %ErrorCode::EventsUnkept, "the events in {} cannot be read ({error}); the file is {} now, and a new one is begun",
                    path.display(),
                    aside.display()
                );
                read(&path)?
            }
        };
        let shared = Arc::new(Shared::default());
        shared.lock().next = found.next;
        let writer = Writer {
            path,
            db: Some(db),
            reserved: found.next + AHEAD,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("meshd-events".to_owned())
            .spawn(move || writer.run())?;
        let shelf = Self {
            shared,
            thread: Some(thread),
        };
        Ok((shelf, found))
    }

    /// One more, as JSON. Waits for nothing.
    pub(super) fn put(&self, seq: u64, line: Vec<u8>) {
        let mut pending = self.shared.lock();
        pending.next = seq + 1;
        // If the disk takes nothing, the oldest are those that the ring forgets, too.
        if pending.lines.len() == RING_MAX {
            pending.lines.pop_front();
        }
        pending.lines.push_back((seq, line));
        drop(pending);
        self.shared.woken.notify_one();
    }
}

impl Drop for Shelf {
    /// Returns when all is written, or cannot be.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.woken.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Does this speak against what is in the file? As in `store.rs`.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

/// Where one more damaged file may go: never onto another.
fn free_place(dir: &Path) -> Option<PathBuf> {
    let mut places = (1..=DAMAGED_MAX).map(|number| match number {
        1 => dir.join(format!("{FILE}.damaged")),
        _ => dir.join(format!("{FILE}.damaged.{number}")),
    });
    places.find(|place| {
        let there = place.symlink_metadata();
        there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    })
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let opened = || {
        let mut builder = Database::builder();
        // It is read once, at the start.
        builder.set_cache_size(1 << 20);
        FileBackend::new(file).and_then(|backend| builder.create_with_backend(backend))
    };
    // As in `store.rs`: a file that somebody else broke must not end us.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(opened))
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?
        .map_err(Into::into)
}

/// Opens, reads all, and reserves numbers for this run.
fn read(path: &Path) -> Result<(Database, Found), redb::Error> {
    let mut db = open(path)?;
    let large = path.metadata().is_ok_and(|meta| meta.len() > FILE_MAX);
    if large {
        db.compact()?;
    }
    let mut found = Found {
        next: 1,
        clean: true,
        ..Found::default()
    };
    let txn = db.begin_read()?;
    match txn.open_table(EVENTS) {
        Err(TableError::TableDoesNotExist(_)) => {}
        table => {
            for row in table?.iter()? {
                let (seq, line) = row?;
                found.next = seq.value() + 1;
                // Of another release, if not: left out.
                if let Ok(event) = serde_json::from_slice(line.value()) {
                    found.events.push_back((event, line.value().len()));
                }
            }
        }
    }
    match txn.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => {}
        table => {
            let table = table?;
            let number = |key| table.get(key).map(|row| row.map_or(0, |row| row.value()));
            found.next = found.next.max(number(RESERVED)?);
            found.clean = number(CLEAN)? == 1;
        }
    }
    drop(txn);
    let txn = db.begin_write()?;
    {
        txn.open_table(EVENTS)?;
        let mut meta = txn.open_table(META)?;
        meta.insert(RESERVED, found.next + AHEAD)?;
        meta.insert(CLEAN, 0)?;
    }
    txn.commit()?;
    Ok((db, found))
}

/// The thread's side.
struct Writer {
    path: PathBuf,
    /// `None` after an error: redb wants the file opened again.
    db: Option<Database>,
    reserved: u64,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        let mut told = false;
        let mut left = Vec::new();
        loop {
            let (stop, next) = self.wait(&mut left, told);
            let done = self.write(&left, next, stop);
            if done.is_ok() {
                left.clear();
            }
            if let Err(error) = &done
                && !told
            {
                tracing::warn!(
                    code = %ErrorCode::EventsUnkept, "events cannot be kept in {} ({error}); they are remembered in memory, and it is tried again",
                    self.path.display()
                );
            }
            told = done.is_err();
            if stop {
                return;
            }
        }
    }

    /// Adds what is to be written, after a while in which more may come.
    fn wait(&self, lines: &mut Vec<(u64, Vec<u8>)>, failed: bool) -> (bool, u64) {
        let pause = if failed { AGAIN } else { BATCH };
        let mut pending = self.shared.lock();
        while pending.lines.is_empty() && lines.is_empty() && !pending.stop {
            pending = self
                .shared
                .woken
                .wait(pending)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !pending.stop {
            let ends = |pending: &mut Pending| !pending.stop;
            let waited = self.shared.woken.wait_timeout_while(pending, pause, ends);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        lines.extend(pending.lines.drain(..));
        let surplus = lines.len().saturating_sub(RING_MAX);
        lines.drain(..surplus);
        (pending.stop, pending.next)
    }

    fn write(&mut self, lines: &[(u64, Vec<u8>)], next: u64, last: bool) -> Result<(), Failed> {
        let db = match self.db.take() {
            Some(db) => db,
            None => open(&self.path)?,
        };
        let reserved = match last {
            true => next,
            false if next + AHEAD / 2 > self.reserved => next + AHEAD,
            false => self.reserved,
        };
        let txn = db.begin_write()?;
        {
            let mut events = txn.open_table(EVENTS)?;
            for (seq, line) in lines {
                events.insert(*seq, line.as_slice())?;
            }
            let mut meta = txn.open_table(META)?;
            let mut bytes = meta.get("bytes")?.map_or(0, |row| row.value());
            bytes += lines.iter().map(|(_, line)| line.len() as u64).sum::<u64>();
            let mut count = redb::ReadableTableMetadata::len(&events)?;
            while count > RING_MAX as u64 || bytes > BYTES_MAX as u64 {
                let Some((_, line)) = events.pop_first()? else {
                    break;
                };
                bytes = bytes.saturating_sub(line.value().len() as u64);
                count -= 1;
            }
            meta.insert("bytes", bytes)?;
            meta.insert(RESERVED, reserved)?;
            meta.insert(CLEAN, u64::from(last))?;
        }
        txn.commit()?;
        self.reserved = reserved;
        self.db = Some(db);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_speaks_against_the_content_is_damage() {
        let io = |kind| redb::Error::Io(io::Error::from(kind));
        for damage in [
            redb::Error::Corrupted("x".to_owned()),
            io(io::ErrorKind::InvalidData),
            io(io::ErrorKind::UnexpectedEof),
        ] {
            assert!(is_damage(&damage), "{damage}");
        }
        for innocent in [
            io(io::ErrorKind::StorageFull),
            io(io::ErrorKind::QuotaExceeded),
            io(io::ErrorKind::PermissionDenied),
            io(io::ErrorKind::ReadOnlyFilesystem),
            redb::Error::PreviousIo,
            redb::Error::DatabaseAlreadyOpen,
            redb::Error::UpgradeRequired(2),
        ] {
            assert!(!is_damage(&innocent), "{innocent}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let history = folder.path().join("history");
        std::fs::write(&history, "well").unwrap();
        // Refused by O_NOFOLLOW, also to root.
        std::os::unix::fs::symlink(&history, folder.path().join(FILE)).unwrap();
        assert!(Shelf::open(folder.path()).is_err());
        assert_eq!(names(folder.path()), [FILE, "history"]);
        assert_eq!(std::fs::read(&history).unwrap(), b"well");
    }

    #[test]
    fn a_damaged_file_takes_no_other_ones_place_and_only_a_few_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        for number in 1..=4_u8 {
            std::fs::write(&path, [number; 10_000]).unwrap();
            drop(Shelf::open(folder.path()).unwrap());
        }
        std::fs::write(&path, [5; 10_000]).unwrap();
        let error = Shelf::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("4 damaged ones"), "{error}");
        for (name, content) in [
            ("events.redb.damaged", 1),
            ("events.redb.damaged.2", 2),
            ("events.redb.damaged.3", 3),
            ("events.redb.damaged.4", 4),
            (FILE, 5),
        ] {
            let kept = std::fs::read(folder.path().join(name)).unwrap();
            assert_eq!(kept, [content; 10_000], "{name}");
        }
        assert!(!folder.path().join("events.redb.damaged.5").exists());
    }
}
