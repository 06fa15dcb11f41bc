//! Namespaces that have no file of their own, but a process that is in them: `pid:N`, a container without a name.
//!
//! ```text
//!   attach:   /proc/N/ns/net --settle--> Nameless { device, inode, start of the process }   or the daemon's own
//!   restart:  the port's veth is there --> its far end says which namespace it is; any way in will do, or none
//!             it is not                --> only if N is still that process, in that namespace; else the port is gone
//! ```
//!
//! Owns the question whether a number still means what it meant: process numbers are used again, and so are the inodes of
//! namespaces. Refuses to keep a namespace alive: with its container it goes.

use super::netns::{Netns, NetnsError};
use meshd_core::command::{Nameless, NetnsRef};
use meshd_core::ident::escape;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The daemon's own namespace, by a path that means it in each run.
const OWN: &[u8] = b"/proc/self/ns/net";

/// What is to be remembered of a namespace: a path through a process becomes what outlives the process. Whatever cannot be
/// opened stays as it is, and is refused in good words when the port is made.
#[must_use]
pub fn settle(netns: NetnsRef) -> NetnsRef {
    let NetnsRef::Path(via) = &netns else {
        return netns;
    };
    let Ok(opened) = Netns::open(&netns) else {
        return netns;
    };
    // Through a bind mount this is the mount's path; through a process it is "net:[INODE]" (proc(5)).
    let link = fs::read_link(format!("/proc/self/fd/{}", opened.fd()));
    if !link.is_ok_and(|link| link.as_os_str().as_bytes().starts_with(b"net:[")) {
        return netns;
    }
    if Netns::own().is_ok_and(|own| own.is(&opened)) {
        return NetnsRef::Path(OWN.to_vec());
    }
    match opened.id() {
        Some((device, inode)) => NetnsRef::Nameless(Nameless {
            via: via.clone(),
            device,
            inode,
            born: born(via),
        }),
        None => netns,
    }
}

/// When the process (or thread) behind `/proc/.../ns/net` started.
fn born(via: &[u8]) -> Option<u64> {
    let folder = via.strip_suffix(b"/ns/net")?;
    if !folder.starts_with(b"/proc/") {
        return None;
    }
    let stat = fs::read(Path::new(OsStr::from_bytes(folder)).join("stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything; `starttime` is the 22nd.
    let behind = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(stat.get(behind + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The namespace, or `None` if it is alive but cannot be entered from here.
///
/// # Errors
/// That it is gone, as far as can be told: without the port's veth only its process vouches for it.
pub(super) fn open(
    nameless: &Nameless,
    has_veth: bool,
    was_ready: bool,
    own: &Netns,
) -> Result<Option<Netns>, NetnsError> {
    let at = |path: &[u8]| {
        let found = Netns::open(&NetnsRef::Path(path.to_vec())).ok()?;
        (found.id() == Some((nameless.device, nameless.inode))).then_some(found)
    };
    let same_process = match nameless.born {
        Some(then) => born(&nameless.via) == Some(then),
        // Not known: good for the first time, which follows at once.
        None => !was_ready,
    };
    if same_process && let Some(found) = at(&nameless.via) {
        return Ok(Some(found));
    }
    if !has_veth {
        return Err(NetnsError::Gone(escape(&nameless.via)));
    }
    // The veth's far end is compared with whatever is found: an inode that was used again deceives nobody.
    if own.id() == Some((nameless.device, nameless.inode)) {
        return Ok(at(OWN));
    }
    Ok(ways(nameless.inode)
        .iter()
        .find_map(|path| at(path.as_os_str().as_bytes())))
}

/// Files that lead into the namespace with this inode: mounts, processes, and threads if there is nothing else.
fn ways(inode: u64) -> Vec<PathBuf> {
    let link = format!("net:[{inode}]");
    let mut found = mounts(&fs::read("/proc/self/mountinfo").unwrap_or_default(), &link);
    let leads_there = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|target| target.as_os_str() == link.as_str())
    };
    let processes = numbered(Path::new("/proc"));
    found.extend(
        processes
            .iter()
            .map(|folder| folder.join("ns/net"))
            .filter(leads_there),
    );
    if found.is_empty() {
        let threads = processes
            .iter()
            .flat_map(|folder| numbered(&folder.join("task")));
        found.extend(
            threads
                .map(|folder| folder.join("ns/net"))
                .find(leads_there),
        );
    }
    found
}

fn numbered(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit))
        .map(|entry| entry.path())
        .collect()
}

/// Mount points whose root is `link`: fields 4 and 5 of a line of mountinfo (proc(5)), with spaces and the like as `\040`.
fn mounts(mountinfo: &[u8], link: &str) -> Vec<PathBuf> {
    mountinfo
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b' ').skip(3);
            (fields.next()? == link.as_bytes()).then_some(())?;
            let mut point = Vec::new();
            let mut bytes = fields.next()?.iter().copied();
            while let Some(byte) = bytes.next() {
                if byte == b'\\' {
                    let digits: Vec<u8> = bytes.by_ref().take(3).collect();
                    point.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()?);
                } else {
                    point.push(byte);
                }
            }
            Some(PathBuf::from(std::ffi::OsString::from_vec(point)))
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_the_namespace_is_found_whatever_its_path() {
        let text = b"25 1 0:4 net:[4026531840] /run/netns/a rw shared:1 - nsfs nsfs rw\n\
            26 1 0:4 net:[4026531841] /run/odd\\040one rw - nsfs nsfs rw\n27 1 8:1 / / rw - ext4 /dev/x rw\n\n28 x\n";
        assert_eq!(
            mounts(text, "net:[4026531841]"),
            [PathBuf::from("/run/odd one")]
        );
        assert!(mounts(text, "net:[7]").is_empty());
    }

    #[test]
    fn a_process_is_known_by_its_start_and_the_own_namespace_by_itself() {
        let me = format!("/proc/{}/ns/net", std::process::id()).into_bytes();
        assert!(born(&me).unwrap() > 0);
        assert_eq!(born(b"/run/netns/x/ns/net"), None);
        assert_eq!(settle(NetnsRef::Path(me)), NetnsRef::Path(OWN.to_vec()));
        let nowhere = NetnsRef::Path(b"/run/netns/no-such".to_vec());
        assert_eq!(settle(nowhere.clone()), nowhere);
    }
}
