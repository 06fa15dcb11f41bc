//! What the node wants kept and the disk does not take: a full disk, a quota, a file system that went read-only.
//!
//! ```text
//!   drain --changes--> commit --ok--> acts
//!                        | fails: changes wait here, newest value of each key; tried again each second, and
//!                        v        before each command
//!                     acts go on, but: replies become refusals, addresses and memberships given to others wait
//! ```
//!
//! Owns the changes that wait, and the question which acts must not run ahead of the disk. Traffic, sessions and the ports
//! that are there go on: a daemon that ended here would take the network with it, and could not start again.

use crate::store::{Change, Store, StoreError};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::node::Output;
use meshd_core::wire::control::Message;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two tries.
const RETRY: Duration = Duration::from_secs(1);
/// Messages that wait at most; who is not answered asks again.
const HELD_MAX: usize = 1024;

/// See the module.
pub(crate) struct Unkept {
    store: Store,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    held: Vec<Output>,
    trouble: Option<String>,
    retry: Instant,
}

/// What became of an attempt.
pub(crate) enum Kept {
    /// All is on the disk.
    All,
    /// All is on the disk again; these acts waited for that.
    Again(Vec<Output>),
    /// Something is not.
    Not {
        /// It was, before.
        first: bool,
    },
}

impl Unkept {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            changes: BTreeMap::new(),
            held: Vec::new(),
            trouble: None,
            retry: Instant::now(),
        }
    }

    /// Why something is not on the disk, if so.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// When [`Self::keep`] is to be called, if there is nothing else to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|_| self.retry)
    }

    /// Brings `batch` to the disk, and what waits; while something waits, only each [`RETRY`], or with `now_please`.
    pub(crate) async fn keep(&mut self, batch: Vec<Change>, now_please: bool) -> Kept {
        let waited = self.trouble.is_some();
        if batch.is_empty() && !waited {
            return Kept::All;
        }
        let all: Vec<Change> = if waited {
            self.changes.extend(batch);
            if !now_please && Instant::now() < self.retry {
                return Kept::Not { first: false };
            }
            self.changes.clone().into_iter().collect()
        } else {
            batch
        };
        let store = self.store.clone();
        // The node waits for the disk, on purpose; the lanes do not wait for the node.
        let done = tokio::task::spawn_blocking(move || {
            // Nothing waits after a refused command: then room is what was missing.
            let room = match all.is_empty() {
                true => store.has_room(),
                false => Ok(()),
            };
            (room.and_then(|()| store.commit(&all)), all)
        })
        .await;
        let (result, all) = match done {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        match result {
            Ok(()) => {
                self.changes.clear();
                self.trouble = None;
                if waited {
                    Kept::Again(std::mem::take(&mut self.held))
                } else {
                    Kept::All
                }
            }
            Err(error) => {
                self.changes = all.into_iter().collect();
                self.failed(&error);
                Kept::Not { first: !waited }
            }
        }
    }

    /// Whether a change that a command makes could be kept; asked before the node hears of the command, since it cannot
    /// take back what it did. A disk without room is told as one that refused a change, and tried again like it.
    ///
    /// # Errors
    /// The refusal of the command.
    pub(crate) async fn room(&mut self) -> Result<(), Refusal> {
        if self.trouble.is_none() {
            let store = self.store.clone();
            match tokio::task::spawn_blocking(move || store.has_room()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => self.failed(&error),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        let why = self.trouble.as_deref().unwrap_or("the state is not kept");
        Err(Refusal {
            code: ErrorCode::StateUnkept,
            message: format!(
                "nothing was changed, since it could not be kept: {why}; make room there and ask again (traffic goes on)"
            ),
        })
    }

    fn failed(&mut self, error: &StoreError) {
        self.trouble = Some(error.to_string());
        self.retry = Instant::now() + RETRY;
    }

    /// At the end of the daemon.
    ///
    /// # Errors
    /// Why something is lost.
    pub(crate) async fn last_try(&mut self) -> Result<(), StoreError> {
        if self.trouble.is_none() {
            return Ok(());
        }
        let (store, changes) = (self.store.clone(), std::mem::take(&mut self.changes));
        let changes: Vec<Change> = changes.into_iter().collect();
        match tokio::task::spawn_blocking(move || store.commit(&changes)).await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// The act, as it may be done while something is not on the disk; `None`: it waits.
    pub(crate) fn admit(&mut self, act: Output) -> Option<Output> {
        match act {
            Output::Reply { id, result: Ok(_) } => {
                let why = self.trouble.as_deref().unwrap_or("the state is not kept");
                let message = format!(
                    "it is done, but not kept: {why}; make room there, or it is lost when the daemon ends"
                );
                let refusal = Refusal {
                    code: ErrorCode::StateUnkept,
                    message,
                };
                Some(Output::Reply {
                    id,
                    result: Err(refusal),
                })
            }
            // Given away twice after a crash, if it were not on the disk here.
            Output::Message {
                message: Message::PoolGrant(_) | Message::Joined(Ok(_)),
                ..
            } => {
                if self.held.len() < HELD_MAX {
                    self.held.push(act);
                }
                None
            }
            act => Some(act),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::command::Reply;
    use meshd_core::ident::{CommandId, SessionId, Vni};
    use meshd_core::wire::control::PoolGrant;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use std::path::Path;

    /// A file system of its own for the state, small enough to fill.
    struct Small(tempfile::TempDir);

    impl Small {
        fn mounted() -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let none = None::<&Path>;
            let options = Some("size=2m,mode=700");
            match mount(none, dir.path(), Some("tmpfs"), MsFlags::empty(), options) {
                Ok(()) => Some(Self(dir)),
                Err(error) => {
                    eprintln!("SKIPPED, NOT TESTED: needs root to mount a tmpfs: {error}");
                    None
                }
            }
        }

        fn fill(&self) {
            let file = self.0.path().join("filling");
            let mut file = std::fs::File::create(file).unwrap();
            while std::io::Write::write_all(&mut file, &[1; 1024]).is_ok() {}
        }

        fn empty(&self) {
            std::fs::remove_file(self.0.path().join("filling")).unwrap();
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
        }
    }

    fn change(key: u32, size: usize) -> Change {
        (key.to_be_bytes().to_vec(), Some(vec![7; size]))
    }

    fn grant() -> Output {
        let grant = PoolGrant {
            vni: Vni::new(7).unwrap(),
            subnet: 0,
            request: 1,
            range: None,
            ask: Vec::new(),
        };
        Output::Message {
            session: SessionId(1),
            message: Message::PoolGrant(grant),
        }
    }

    #[tokio::test]
    async fn what_a_full_disk_does_not_take_is_not_acknowledged_and_is_kept_when_there_is_room() {
        let Some(small) = Small::mounted() else {
            return;
        };
        let store = Store::open(&small.0.path().join("state")).unwrap();
        let mut unkept = Unkept::new(store.clone());
        assert!(unkept.room().await.is_ok());
        assert!(matches!(
            unkept.keep(vec![change(0, 10)], false).await,
            Kept::All
        ));
        small.fill();
        let refused = unkept.room().await.unwrap_err();
        assert!(
            refused.message.contains("nothing was changed")
                && refused.message.contains("No space left"),
            "{refused}"
        );
        assert!(unkept.trouble().is_some(), "status tells it");
        small.empty();
        assert!(matches!(
            unkept.keep(Vec::new(), true).await,
            Kept::Again(held) if held.is_empty()
        ));
        assert_eq!(unkept.trouble(), None);
        small.fill();

        // Until the file has no free page of its own left.
        let mut last = 0;
        for key in 1..200 {
            last = key;
            if let Kept::Not { first } = unkept.keep(vec![change(key, 20_000)], true).await {
                assert!(first);
                break;
            }
        }
        assert!(unkept.trouble().is_some() && unkept.due().is_some());
        assert!(store.load().is_ok(), "it can still be read");
        let reply = Output::Reply {
            id: CommandId(1),
            result: Ok(Reply::Done),
        };
        assert!(matches!(
            unkept.admit(reply),
            Some(Output::Reply { result: Err(_), .. })
        ));
        assert_eq!(unkept.admit(grant()), None);
        assert!(matches!(
            unkept.keep(vec![change(1000, 10)], false).await,
            Kept::Not { first: false }
        ));

        small.empty();
        let Kept::Again(held) = unkept.keep(Vec::new(), true).await else {
            panic!("there is room");
        };
        assert_eq!(held, [grant()]);
        assert_eq!(unkept.trouble(), None);
        assert!(unkept.room().await.is_ok());
        drop((unkept, store));
        let rows = Store::open(&small.0.path().join("state"))
            .unwrap()
            .load()
            .unwrap();
        for key in [0, last, 1000] {
            assert!(rows.iter().any(|row| row.0 == u32::to_be_bytes(key)));
        }
    }
}
