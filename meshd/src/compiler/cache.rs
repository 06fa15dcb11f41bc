//! Compiled plugins that are kept: `compiled/<component's digest>-<compatibility>.cwasm` in the state folder.
//!
//! ```text
//!   file = magic (8) | MAC (32) | machine code        MAC = HMAC-SHA256(key, magic | file name | machine code)
//! ```
//!
//! Such a file is run as machine code, so it is believed only if this node wrote it: folder 0700, files and key
//! (`compiled.key`) 0600, all owned by who runs the daemon, and the MAC right. Whatever is not so is removed and compiled
//! again; a lost cache costs time and nothing else. Owns folder, key and files; never takes a file from anywhere else.

use meshd_core::code::ErrorCode;
use meshd_plugin_host::Digest;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Folder and key in the state folder.
const DIR: &str = "compiled";
const KEY: &str = "compiled.key";
const KEY_LEN: usize = 32;
const SUFFIX: &str = ".cwasm";
/// Format 1.
const MAGIC: &[u8; 8] = b"meshdcw1";
const MAC_LEN: usize = 32;

pub(crate) struct Cache {
    dir: PathBuf,
    key: hmac::Key,
    compatibility: String,
}

impl Cache {
    /// In `state`; a key that somebody else could have read is replaced, which makes all that it authenticates void.
    pub(crate) fn open(state: &Path, compatibility: String) -> io::Result<Self> {
        let dir = state.join(DIR);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let found = std::fs::symlink_metadata(&dir)?;
        if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
            let message = format!("{} is not a folder of the daemon's own", dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        if found.mode() & 0o077 != 0 {
            // Others may have put files there: the MAC tells.
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
        }
        let path = state.join(KEY);
        let secret = match own(&path, KEY_LEN) {
            Ok(secret) if secret.len() == KEY_LEN => secret,
            found => {
                if let Some(error) = found.err().filter(|e| e.kind() != io::ErrorKind::NotFound) {
                    tracing::warn!(code = %ErrorCode::PluginCacheFailed, path = %path.display(), %error, "the key of the compiled plugins is replaced; all are compiled again");
                }
                let mut secret = vec![0; KEY_LEN];
                SystemRandom::new()
                    .fill(&mut secret)
                    .map_err(|_| io::Error::other("the system gave no random numbers"))?;
                replace(state, &path, &[&secret])?;
                secret
            }
        };
        Ok(Self {
            dir,
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            compatibility,
        })
    }

    fn name(&self, digest: Digest) -> String {
        format!("{digest}-{}{SUFFIX}", self.compatibility)
    }

    /// The machine code of this component, if there is some that this node made for this release.
    pub(crate) fn get(&self, digest: Digest) -> Option<Vec<u8>> {
        let name = self.name(digest);
        let path = self.dir.join(&name);
        let most = super::MAX_COMPILED + MAGIC.len() + MAC_LEN;
        let why = match own(&path, most) {
            Ok(mut bytes) => match self.open_seal(&name, &bytes) {
                Some(from) => return Some(bytes.split_off(from)),
                None => "its MAC is wrong".to_owned(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
        };
        tracing::warn!(code = %ErrorCode::PluginCacheFailed, path = %path.display(), why, "a compiled plugin is not used, and compiled again");
        // If it stays, it is refused again.
        let _ = std::fs::remove_file(&path);
        None
    }

    /// Where the code starts, if the MAC is right.
    fn open_seal(&self, name: &str, bytes: &[u8]) -> Option<usize> {
        let (magic, rest) = bytes.split_at_checked(MAGIC.len())?;
        let (mac, code) = rest.split_at_checked(MAC_LEN)?;
        let sealed = [magic, name.as_bytes(), code].concat();
        (magic == MAGIC && hmac::verify(&self.key, &sealed, mac).is_ok())
            .then_some(MAGIC.len() + MAC_LEN)
    }

    /// Keeps it. Where that fails, the log says so and the next start compiles again.
    pub(crate) fn put(&self, digest: Digest, code: &[u8]) {
        let name = self.name(digest);
        let path = self.dir.join(&name);
        let mut context = hmac::Context::with_key(&self.key);
        for part in [&MAGIC[..], name.as_bytes(), code] {
            context.update(part);
        }
        if let Err(error) = replace(&self.dir, &path, &[MAGIC, context.sign().as_ref(), code]) {
            tracing::warn!(code = %ErrorCode::PluginCacheFailed, path = %path.display(), %error, "a compiled plugin is not kept");
        }
    }

    /// Removes everything but the code of these components for this release.
    pub(crate) fn sweep(&self, keep: &BTreeSet<Digest>) {
        let names: BTreeSet<String> = keep.iter().map(|digest| self.name(*digest)).collect();
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let kept = entry
                .file_name()
                .to_str()
                .is_some_and(|name| names.contains(name));
            if !kept && let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::debug!(path = %entry.path().display(), %error, "an unused compiled plugin stays");
            }
        }
    }
}

/// A plain file of ours that nobody else can read or write.
fn own(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    let denied = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !found.is_file() {
        return denied("it is no plain file");
    }
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return denied("it belongs to another user");
    }
    if found.mode() & 0o077 != 0 {
        return denied("others may read or write it; 0600 is right");
    }
    let mut bytes = Vec::new();
    // Sizes here fit 64 bits.
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return denied("it is too large");
    }
    Ok(bytes)
}

/// Whole or not at all; 0600 from the start.
fn replace(dir: &Path, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn open(state: &Path) -> Cache {
        Cache::open(state, "0123456789abcdef".to_owned()).unwrap()
    }

    fn only_file(cache: &Cache) -> PathBuf {
        let files: Vec<PathBuf> = std::fs::read_dir(&cache.dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn what_was_kept_comes_back_and_only_the_daemon_can_read_it() {
        let state = tempfile::tempdir().unwrap();
        let cache = open(state.path());
        let digest = Digest::of(b"component");
        assert_eq!(cache.get(digest), None);
        cache.put(digest, b"code");
        assert_eq!(
            open(state.path()).get(digest).unwrap(),
            b"code",
            "also after a restart"
        );
        for (path, mode) in [
            (cache.dir.clone(), 0o700),
            (only_file(&cache), 0o600),
            (state.path().join(KEY), 0o600),
        ] {
            assert_eq!(
                std::fs::metadata(&path).unwrap().mode() & 0o7777,
                mode,
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_or_another_name_is_not_run() {
        let state = tempfile::tempdir().unwrap();
        let cache = open(state.path());
        let digest = Digest::of(b"component");
        cache.put(digest, b"code");
        let whole = std::fs::read(only_file(&cache)).unwrap();
        for at in 0..whole.len() {
            cache.put(digest, b"code");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(only_file(&cache), changed).unwrap();
            assert_eq!(cache.get(digest), None, "bit in byte {at}");
            assert!(
                !cache.dir.join(cache.name(digest)).exists(),
                "it is removed"
            );
        }
        for cut in 0..whole.len() {
            cache.put(digest, b"code");
            std::fs::write(only_file(&cache), &whole[..cut]).unwrap();
            assert_eq!(cache.get(digest), None, "cut at {cut}");
        }
        let other = Digest::of(b"another component");
        cache.put(digest, b"code");
        std::fs::rename(only_file(&cache), cache.dir.join(cache.name(other))).unwrap();
        assert_eq!(cache.get(other), None, "the name is under the MAC");
    }

    #[test]
    fn a_file_or_key_that_others_could_touch_is_not_believed() {
        let state = tempfile::tempdir().unwrap();
        let cache = open(state.path());
        let digest = Digest::of(b"component");
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        cache.put(digest, b"code");
        chmod(&only_file(&cache), 0o660);
        assert_eq!(cache.get(digest), None);
        cache.put(digest, b"code");
        let elsewhere = state.path().join("elsewhere");
        std::fs::rename(only_file(&cache), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, cache.dir.join(cache.name(digest))).unwrap();
        assert_eq!(cache.get(digest), None, "no link is followed");
        cache.put(digest, b"code");
        chmod(&state.path().join(KEY), 0o644);
        assert_eq!(
            open(state.path()).get(digest),
            None,
            "the key is another one now"
        );
        assert_eq!(
            std::fs::metadata(state.path().join(KEY)).unwrap().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_sweep_leaves_what_is_named_and_of_this_release() {
        let state = tempfile::tempdir().unwrap();
        let cache = open(state.path());
        let (kept, gone) = (Digest::of(b"1"), Digest::of(b"2"));
        cache.put(kept, b"code");
        cache.put(gone, b"code");
        std::fs::write(cache.dir.join(format!("{kept}-older{SUFFIX}")), b"x").unwrap();
        std::fs::write(cache.dir.join("half-written"), b"x").unwrap();
        cache.sweep(&BTreeSet::from([kept]));
        assert!(only_file(&cache).ends_with(cache.name(kept)));
        assert_eq!(cache.get(kept).unwrap(), b"code");
    }
}
