//! Is a daemon about to come up? A command that is typed right after `meshd run &` waits for it.
//!
//! ```text
//!   no state there           nobody can start: fails at once
//!   nobody has its lock      half a second, for a daemon that was just typed
//!   somebody has it          three seconds, for its socket
//! ```
//!
//! Owns these times. The lock is only looked at, by `/proc/locks` (proc_locks(5)): whoever tried it could be what keeps the daemon from
//! starting.

use crate::bounded;
use crate::store::Store;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// For a daemon of which nothing is seen.
const UNSEEN: Duration = Duration::from_millis(500);
/// For one that holds its state.
const SEEN: Duration = Duration::from_secs(3);
/// Bytes of the kernel's list of locks.
const LOCKS_MAX: usize = 4 << 20;

/// May a daemon with this state folder come up yet, `waited` after it was first looked for?
pub(crate) fn may_come(state: &Path, waited: Duration) -> bool {
    if !Store::exists(state) || waited >= SEEN {
        return false;
    }
    waited < UNSEEN || is_held(state)
}

fn is_held(state: &Path) -> bool {
    let Ok(folder) = state.metadata() else {
        return false;
    };
    let locks = bounded::text(Path::new("/proc/locks"), LOCKS_MAX).unwrap_or_default();
    locks.lines().any(|line| is_of(line, folder.ino()))
}

/// `1: FLOCK  ADVISORY  WRITE 4242 fd:01:131074 0 EOF`: is it a lock on the file of this number?
fn is_of(line: &str, inode: u64) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let is_flock = words.next() == Some("FLOCK");
    let file = words.nth(3).and_then(|id| id.rsplit(':').next());
    is_flock && file.and_then(|number| number.parse().ok()) == Some(inode)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_waited_for_without_a_state_and_for_longer_only_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert!(!may_come(&state, Duration::ZERO), "there is no state");
        let store = Store::open(&state).unwrap();
        assert!(may_come(&state, Duration::from_secs(2)), "it is held");
        assert!(!may_come(&state, SEEN));
        drop(store);
        assert!(may_come(&state, Duration::ZERO));
        assert!(!may_come(&state, Duration::from_secs(2)));
    }

    #[test]
    fn a_lock_is_known_by_the_number_of_its_file() {
        let line = "1: FLOCK  ADVISORY  WRITE 4242 fd:01:131074 0 EOF";
        assert!(is_of(line, 131_074) && !is_of(line, 13_107));
        assert!(!is_of(&line.replace("FLOCK", "POSIX"), 131_074));
        assert!(!is_of("", 1) && !is_of("2: -> FLOCK", 1));
    }
}
