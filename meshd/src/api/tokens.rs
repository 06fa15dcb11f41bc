//! The tokens of the API's TCP port: two files in the state folder, mode 0600, made by `meshd api token`.
//!
//! ```text
//!   STATE/api/change.token   all that the API can do
//!   STATE/api/read.token     reading alone: for a scraper, a dashboard
//! ```
//!
//! Owns their form: 32 random bytes as text. Refuses files that others could read, and tells nobody by how long it takes how
//! much of a token was right.

use super::access::Rights;
use data_encoding::BASE64URL_NOPAD;
use meshd_core::code::ErrorCode;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// In the state folder.
const FOLDER: &str = "api";
/// Before the random part, so that scanners for leaked secrets find it.
const PREFIX: &str = "meshd-api-";
/// Of a token file.
const FILE_MAX: u64 = 4096;

/// Which token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For all.
    Change,
    /// For reading.
    Read,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::Change => "change.token",
            Self::Read => "read.token",
        }
    }
}

/// The tokens of one state folder.
#[derive(Debug)]
pub struct Tokens {
    folder: PathBuf,
    key: hmac::Key,
}

impl Tokens {
    /// In the state folder `state`; they are read when they are asked for, so a new one counts at once.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        let random = SystemRandom::new();
        let mut key = [0; 32];
        // Without randomness the comparison is as right; it only tells more by its time.
        let _ = random.fill(&mut key);
        Self {
            folder: state.join(FOLDER),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        }
    }

    /// What who tells this token may do.
    ///
    /// # Errors
    /// If there is none, or a file cannot be relied on; says what to do.
    pub(super) fn rights(&self, told: &str) -> Result<Rights, String> {
        let mut rights = Rights::None;
        let mut some = false;
        for (kind, granted) in [(Kind::Read, Rights::Read), (Kind::Change, Rights::Change)] {
            let path = self.folder.join(kind.file());
            match read(&path) {
                Ok(token) => {
                    some = true;
                    // Both under a key that nobody knows: what is compared says nothing of what is not equal.
                    let tag = hmac::sign(&self.key, token.as_bytes());
                    if hmac::verify(&self.key, told.as_bytes(), tag.as_ref()).is_ok() {
                        rights = granted;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(code = %ErrorCode::ApiTokenUnusable, path = %path.display(), %error, "a token of the API is not used");
                }
            }
        }
        if some {
            Ok(rights)
        } else {
            Err("this daemon has no token yet; `meshd api token` on its host makes one".to_owned())
        }
    }

    /// The token; made if there is none, or if `renew`: the old one is good no more then.
    ///
    /// # Errors
    /// If it can neither be read nor written.
    pub fn make(&self, kind: Kind, renew: bool) -> io::Result<String> {
        let path = self.folder.join(kind.file());
        if !renew {
            match read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => return done,
            }
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let mut bytes = [0; 32];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| io::Error::other("the system gave no random numbers"))?;
        let token = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
        // Whole, or not at all; and never there with other rights than it is to have.
        let new = self
            .folder
            .join(format!("{}.{}", kind.file(), std::process::id()));
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        let done = writeln!(file, "{token}")
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&new, &path));
        if let Err(error) = done {
            let _ = std::fs::remove_file(&new);
            return Err(error);
        }
        Ok(token)
    }
}

/// A token file of ours; others are errors.
fn read(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if !meta.is_file() {
        return Err(wrong("it is no file"));
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(wrong("it belongs to another user"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(wrong(
            "others could read it; make a new one by `meshd api token --renew`",
        ));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text)?;
    let token = text.trim().to_owned();
    if token.len() < PREFIX.len() + 32 {
        return Err(wrong(
            "it holds no token; make a new one by `meshd api token --renew`",
        ));
    }
    Ok(token)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_kept_until_it_is_renewed_and_one_for_reading_cannot_change() {
        let state = tempfile::tempdir().unwrap();
        let tokens = Tokens::new(state.path());
        assert!(tokens.rights("x").is_err());
        let first = tokens.make(Kind::Change, false).unwrap();
        assert_eq!(tokens.make(Kind::Change, false).unwrap(), first);
        let reading = tokens.make(Kind::Read, false).unwrap();
        assert_eq!(tokens.rights(&first), Ok(Rights::Change));
        assert_eq!(tokens.rights(&reading), Ok(Rights::Read));
        assert_eq!(tokens.rights(""), Ok(Rights::None));
        assert_eq!(tokens.rights(&first[..first.len() - 1]), Ok(Rights::None));
        let second = tokens.make(Kind::Change, true).unwrap();
        assert_ne!(first, second);
        assert_eq!(tokens.rights(&first), Ok(Rights::None));
        let mode = |path: PathBuf| path.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(state.path().join("api/change.token")), 0o600);
        assert_eq!(mode(state.path().join("api")), 0o700);
        assert_eq!(
            std::fs::read_dir(state.path().join("api")).unwrap().count(),
            2
        );
    }

    #[test]
    fn a_file_that_others_could_read_is_not_relied_on() {
        let state = tempfile::tempdir().unwrap();
        let tokens = Tokens::new(state.path());
        let token = tokens.make(Kind::Change, false).unwrap();
        let path = state.path().join("api/change.token");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(tokens.rights(&token).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "\n").unwrap();
        assert!(tokens.rights("").is_err());
    }
}
