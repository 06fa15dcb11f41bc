//! The file of a macvtap: what qemu opens.
//!
//! Owns `/dev/tapN`, N being the number of the interface in its namespace, where neither udev nor devtmpfs makes it, and
//! `/dev/tap-meshd-…`, the port's mark, where another namespace's macvtap of that number has the name. Both are character devices of the
//! kernel's choice, which it tells in the sysfs of the namespace.
#![allow(unsafe_code)] // fsopen(2), fsconfig(2), fsmount(2): no library has them.

use super::netns::Netns;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};
use std::ffi::CStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `FSOPEN_CLOEXEC`, `FSMOUNT_CLOEXEC` of linux/mount.h.
const CLOEXEC: libc::c_long = 1;
/// `FSCONFIG_CMD_CREATE`.
const CMD_CREATE: libc::c_long = 6;

fn checked(answer: libc::c_long) -> io::Result<RawFd> {
    match RawFd::try_from(answer) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The sysfs of the namespace that this thread is in, mounted nowhere.
fn sysfs() -> io::Result<OwnedFd> {
    const NAME: &CStr = c"sysfs";
    // SAFETY: plain system calls; all pointers are null or to a string that ends with NUL.
    unsafe {
        let context = checked(libc::syscall(libc::SYS_fsopen, NAME.as_ptr(), CLOEXEC))?;
        let context = OwnedFd::from_raw_fd(context);
        let none = std::ptr::null::<libc::c_char>();
        checked(libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CMD_CREATE,
            none,
            none,
            0,
        ))?;
        let mount = libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, 0);
        Ok(OwnedFd::from_raw_fd(checked(mount)?))
    }
}

/// The device number of macvtap number `index` of the namespace that this thread is in.
fn number(index: u32) -> io::Result<u64> {
    let root = sysfs()?;
    let path = format!("class/macvtap/tap{index}/dev");
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let opened = nix::fcntl::openat(&root, path.as_str(), flags, Mode::empty())?;
    let mut text = String::new();
    fs::File::from(opened).read_to_string(&mut text)?;
    let parsed = text
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some(makedev(major.parse().ok()?, minor.parse().ok()?)));
    parsed.ok_or_else(|| io::Error::other(format!("sysfs says {text:?}")))
}

fn is(path: &Path, device: u64) -> bool {
    let meta = fs::symlink_metadata(path);
    meta.is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == device)
}

/// How the names begin that are ours alone.
pub(super) const OWN: &[u8] = b"/dev/tap-meshd-";

/// The name that nobody else gives. `mark`: of the port, which no other daemon has.
pub(super) fn own(mark: &str) -> PathBuf {
    let own = mark.replace(|c: char| !(c.is_ascii_alphanumeric() || c == '_'), "-");
    PathBuf::from(format!("/dev/tap-{own}"))
}

/// The file of a macvtap, which is there then.
///
/// # Errors
/// If the kernel does not tell its number, or the file cannot be made.
pub(super) async fn make(netns: &Netns, mark: &str, index: u32) -> io::Result<PathBuf> {
    let device = netns.inside(move || number(index)).await??;
    let own = own(mark);
    find_or_make([PathBuf::from(format!("/dev/tap{index}")), own], device)
}

/// `paths`: the second one is ours alone.
fn find_or_make(paths: [PathBuf; 2], device: u64) -> io::Result<PathBuf> {
    // Under whichever name it was offered before: somebody may have noted that, and the other name may have become free since.
    let [_, own] = &paths;
    for path in [own, &paths[0]] {
        if is(path, device) {
            return Ok(path.clone());
        }
    }
    // What a macvtap that is gone left.
    if fs::symlink_metadata(own).is_ok_and(|meta| meta.file_type().is_char_device()) {
        fs::remove_file(own)?;
    }
    let mut last = io::Error::other("no name is free");
    for path in paths {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        match mknod(&path, SFlag::S_IFCHR, mode, device) {
            Ok(()) => return Ok(path),
            Err(Errno::EEXIST) if is(&path, device) => return Ok(path),
            Err(error) => last = io::Error::other(format!("mknod {}: {error}", path.display())),
        }
    }
    let (major, minor) = (major(device), minor(device));
    Err(io::Error::other(format!("{last} (device {major}:{minor})")))
}

/// Whether a macvtap has this device, of whatever namespace: the kernel's list is one for all.
fn lives(device: u64) -> bool {
    let entry = format!("/sys/dev/char/{}:{}", major(device), minor(device));
    fs::symlink_metadata(entry).is_ok()
}

/// Removes a macvtap's file, if it is still there once the macvtap is gone: what udev or devtmpfs made went with it. By then the
/// name may be that of another namespace's macvtap, whose file is left.
///
/// # Errors
/// The kernel's.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let name = path.as_os_str().as_encoded_bytes();
    let is_tap =
        name.starts_with(b"/dev/tap") && !name.get(5..).unwrap_or_default().contains(&b'/');
    match fs::symlink_metadata(path) {
        Ok(meta) if is_tap && meta.file_type().is_char_device() && !lives(meta.rdev()) => {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_device_lives_is_left_to_who_has_it() {
        let path = PathBuf::from(format!("/dev/tap-meshd-test-{}", std::process::id()));
        let make = |device| mknod(&path, SFlag::S_IFCHR, Mode::S_IRUSR, device);
        // Null is there on every machine, and number 4095 of it on none.
        if make(makedev(1, 3)).is_err() {
            return;
        }
        remove(&path).unwrap();
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        make(makedev(1, 4095)).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_keeps_its_name_and_what_was_left_under_ours_is_replaced() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED, NOT TESTED: needs root to make device files");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let paths = || [dir.path().join("tap2"), dir.path().join("tap-own")];
        let [plain, own] = paths();
        // Numbers of /dev/null and /dev/zero stand for two macvtaps.
        let (ours, theirs) = (makedev(1, 3), makedev(1, 5));
        let mode = Mode::S_IRUSR;
        mknod(&plain, SFlag::S_IFCHR, mode, theirs).unwrap();
        assert_eq!(find_or_make(paths(), ours).unwrap(), own);
        // The other one went: still the name that was told.
        fs::remove_file(&plain).unwrap();
        assert_eq!(find_or_make(paths(), ours).unwrap(), own);
        assert!(!plain.exists(), "no second file");
        // A new macvtap after ours was lost in a crash.
        assert_eq!(find_or_make(paths(), theirs).unwrap(), plain);
        assert!(!own.exists(), "nothing is left of the old one");
        // What is no device file is somebody's.
        fs::write(&own, "text").unwrap();
        assert_eq!(find_or_make(paths(), theirs).unwrap(), plain);
        assert!(find_or_make(paths(), ours).is_err());
        assert_eq!(fs::read(&own).unwrap(), b"text");
    }
}
